/*
 * The record: who may take which step, and what of it outlives a guard. Nothing
 * is frozen here: the descriptor is an eventfd's, whose filesystem nobody can write to.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "source/freeze/guard_record.h"
#include "unit/temporary.h"

static void test_steps(void **state)
{
    (void)state;
    struct repl_freeze_entry entry = {0};
    int fd = eventfd(0, EFD_CLOEXEC);
    atomic_store(&entry.word, repl_freeze_word(7, REPL_FREEZE_IDLE));
    assert_false(repl_freeze_step(&entry, 7, REPL_FREEZE_FREEZING, REPL_FREEZE_FROZEN));
    assert_false(repl_freeze_step(&entry, 6, REPL_FREEZE_IDLE, REPL_FREEZE_FREEZING));
    assert_true(repl_freeze_step(&entry, 7, REPL_FREEZE_IDLE, REPL_FREEZE_FREEZING));
    assert_int_equal(repl_freeze_thaw(&entry, 7, fd), -1); /* not frozen yet */
    assert_true(repl_freeze_step(&entry, 7, REPL_FREEZE_FREEZING, REPL_FREEZE_FROZEN));
    assert_int_equal(repl_freeze_thaw(&entry, 8, fd), -1);     /* another hold */
    assert_int_equal(repl_freeze_thaw(&entry, 7, fd), EINVAL); /* nobody froze it */
    assert_int_equal(repl_freeze_thaw(&entry, 7, fd), -1);     /* once */
    assert_false(repl_freeze_thaw_left(&entry, 7, fd));
    assert_true(atomic_load(&entry.word) == repl_freeze_word(7, REPL_FREEZE_THAWED));
    close(fd);
}

static void test_left(void **state)
{
    (void)state;
    static const enum repl_freeze_phase ends[][2] = {
        {REPL_FREEZE_IDLE, REPL_FREEZE_IDLE},     {REPL_FREEZE_FREEZING, REPL_FREEZE_THAWED},
        {REPL_FREEZE_FROZEN, REPL_FREEZE_THAWED}, {REPL_FREEZE_THAWING, REPL_FREEZE_THAWED},
        {REPL_FREEZE_THAWED, REPL_FREEZE_THAWED},
    };
    int fd = eventfd(0, EFD_CLOEXEC);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct repl_freeze_entry entry = {0};
        atomic_store(&entry.word, repl_freeze_word(7, ends[i][0]));
        assert_false(repl_freeze_thaw_left(&entry, 8, fd)); /* another hold: untouched */
        assert_true(atomic_load(&entry.word) == repl_freeze_word(7, ends[i][0]));
        assert_false(repl_freeze_thaw_left(&entry, 7, fd));
        assert_true(atomic_load(&entry.word) == repl_freeze_word(7, ends[i][1]));
    }
    close(fd);
}

static void test_file(void **state)
{
    (void)state;
    struct temporary temporary;
    struct repl_guard_record record;
    struct repl_guard_table *other;
    struct repl_error err;
    struct stat status;
    char path[300];
    assert_int_equal(temporary_make(&temporary), 0);
    snprintf(path, sizeof path, "%s/guard.sock.record", temporary.path);
    assert_true(repl_ok(repl_guard_record_open(path, &record, &err)));
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    atomic_store(&record.table->slots[3].hold, 9);
    assert_true(repl_ok(repl_guard_table_map(record.fd, &other, &err)));
    assert_true(atomic_load(&other->slots[3].hold) == 9);
    repl_guard_record_close(&record);

    /* what an earlier guard left is there for the next one */
    assert_true(repl_ok(repl_guard_record_open(path, &record, &err)));
    assert_true(atomic_load(&record.table->slots[3].hold) == 9);
    memset(record.table->boot_id, 'x', 8); /* of another boot */
    repl_guard_record_close(&record);
    repl_guard_table_unmap(other);
    assert_true(repl_ok(repl_guard_record_open(path, &record, &err)));
    assert_true(atomic_load(&record.table->slots[3].hold) == 0);

    /* damaged, or of another version */
    atomic_store(&record.table->slots[3].hold, 9);
    record.table->slots[60].mount_count = REPL_GUARD_MOUNTS_MAX + 1;
    repl_guard_record_close(&record);
    assert_true(repl_ok(repl_guard_record_open(path, &record, &err)));
    assert_true(atomic_load(&record.table->slots[3].hold) == 0);
    repl_guard_record_close(&record);
    assert_int_equal(truncate(path, 100), 0);
    assert_true(repl_ok(repl_guard_record_open(path, &record, &err)));
    assert_int_equal(ftruncate(record.fd, 4096), 0);
    assert_int_equal(repl_guard_table_map(record.fd, &other, &err).code, REPL_E_VERSION);
    repl_guard_record_close(&record);
    temporary_remove(&temporary);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_left),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
