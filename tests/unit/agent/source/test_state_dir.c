/*
 * What a source keeps on disk: it comes back after a restart, belongs to one
 * device, is held by one agent, and survives a torn write of either slot.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"
#include "source/state_dir.h"
#include "unit/temporary.h"

#define SIZE (100 * REPL_PAGE_SIZE + 512)

static int set_up(void **state)
{
    static struct temporary directory;
    *state = &directory;
    return temporary_make(&directory);
}

static int tear_down(void **state)
{
    temporary_remove(*state);
    return 0;
}

static void open_dir(const struct temporary *t, struct repl_state_dir *dir)
{
    struct repl_error err = {0};
    repl_result result = repl_state_dir_open(t->path, "data", SIZE, "serial:1", dir, &err);
    if (!repl_ok(result))
        print_error("%s\n", err.text);
    assert_true(repl_ok(result));
}

static void what_was_written_comes_back(void **state)
{
    struct repl_state_dir dir;
    struct repl_error err;
    open_dir(*state, &dir);
    assert_true(dir.is_new);
    struct repl_uuid uuid = dir.state.volume;
    assert_int_equal(uuid.bytes[6] >> 4, 4);
    struct repl_source_state next = dir.state;
    next.next_seq = 12;
    next.checkpoint = (struct repl_head){.to_seq = 11, .has_point = true};
    next.sent_count = 1;
    next.sent[0].to_seq = 12;
    assert_true(repl_ok(repl_state_dir_write(&dir, &next, &err)));
    dir.digests[100].bytes[3] = 42; /* the short last page's */
    assert_true(repl_ok(repl_state_dir_checkpoint(&dir, &err)));
    int left = openat(dir.spool_fd, "00000000000000000001.seg", O_CREAT | O_WRONLY, 0600);
    close(left);
    repl_state_dir_close(&dir);

    open_dir(*state, &dir);
    assert_false(dir.is_new);
    assert_true(repl_uuid_equal(&uuid, &dir.state.volume));
    assert_int_equal(dir.state.next_seq, 12);
    assert_int_equal(dir.state.sent_count, 1);
    assert_int_equal(dir.digests[100].bytes[3], 42);
    assert_int_equal(faccessat(dir.spool_fd, "00000000000000000001.seg", F_OK, 0), 0);
    repl_state_dir_close(&dir);
}

static void another_device_is_refused(void **state)
{
    const struct temporary *t = *state;
    struct repl_state_dir dir;
    struct repl_error err;
    open_dir(t, &dir);
    repl_state_dir_close(&dir);
    repl_result result = repl_state_dir_open(t->path, "data", SIZE, "serial:2", &dir, &err);
    assert_int_equal(result.code, REPL_E_REFUSED);
    assert_non_null(strstr(err.text, "serial:2, and was serial:1"));
    result = repl_state_dir_open(t->path, "data", SIZE - 512, "serial:1", &dir, &err);
    assert_int_equal(result.code, REPL_E_REFUSED);
    assert_non_null(strstr(err.text, "shrank"));
}

static void a_torn_slot_leaves_the_one_before(void **state)
{
    const struct temporary *t = *state;
    struct repl_state_dir dir;
    struct repl_error err;
    char path[512];
    open_dir(t, &dir);
    for (uint64_t seq = 2; seq <= 5; seq++) {
        struct repl_source_state next = dir.state;
        next.next_seq = seq;
        assert_true(repl_ok(repl_state_dir_write(&dir, &next, &err)));
    }
    uint64_t newest = repl_slot_offset(dir.generation);
    repl_state_dir_close(&dir);
    snprintf(path, sizeof path, "%s/volumes/data/state", t->path);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "torn", 4, (off_t)newest + 2000), 4);
    close(fd);
    open_dir(t, &dir); /* which makes the file anew */
    assert_int_equal(dir.state.next_seq, 4);
    repl_state_dir_close(&dir);
    fd = open(path, O_RDWR);
    for (off_t slot = 0; slot < REPL_SLOT_FILE; slot += REPL_SLOT_SIZE)
        assert_int_equal(pwrite(fd, "torn", 4, slot + 2000), 4);
    close(fd);
    repl_result result = repl_state_dir_open(t->path, "data", SIZE, "serial:1", &dir, &err);
    assert_int_equal(result.code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "repl forget"));
}

static void digests_of_another_volume_count_for_nothing(void **state)
{
    const struct temporary *t = *state;
    struct repl_state_dir dir;
    char path[512];
    open_dir(t, &dir);
    dir.digests[1].bytes[0] = 1;
    repl_state_dir_close(&dir);
    snprintf(path, sizeof path, "%s/volumes/data/digests", t->path);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "other", 5, 16), 5);
    close(fd);
    open_dir(t, &dir);
    assert_int_equal(dir.digests[1].bytes[0], 0);
    repl_state_dir_close(&dir);
}

/* For a resync: the volume stays the same one, and nothing is known of what the site holds. */
static void forgotten_digests_are_unknown(void **state)
{
    const struct temporary *t = *state;
    struct repl_state_dir dir;
    struct repl_source_state found;
    struct repl_error err;
    open_dir(t, &dir);
    struct repl_uuid uuid = dir.state.volume;
    dir.digests[1].bytes[0] = 1;
    repl_state_dir_close(&dir);
    assert_true(repl_ok(repl_state_dir_forget_digests(t->path, "data", &err)));
    assert_true(repl_ok(repl_state_dir_forget_digests(t->path, "data", &err)));
    assert_int_equal(repl_state_dir_forget_digests(t->path, "other", &err).code, REPL_E_IO);
    assert_true(repl_ok(repl_state_dir_look(t->path, "data", &found, &err)));
    assert_string_equal(found.identity, "serial:1");
    assert_int_equal(repl_state_dir_look(t->path, "other", &found, &err).code, REPL_E_MISSING);
    open_dir(t, &dir);
    assert_false(dir.is_new);
    assert_true(repl_uuid_equal(&uuid, &dir.state.volume));
    assert_int_equal(dir.digests[1].bytes[0], 0);
    repl_state_dir_close(&dir);
}

static void a_grown_table_keeps_what_it_has(void **state)
{
    struct repl_state_dir dir;
    struct repl_error err;
    open_dir(*state, &dir);
    dir.digests[5].bytes[0] = 9;
    assert_true(repl_ok(repl_state_dir_grow(&dir, UINT64_C(3) << 30, &err)));
    assert_int_equal(dir.digests[5].bytes[0], 9);
    assert_int_equal(dir.digests[(UINT64_C(3) << 30) / REPL_PAGE_SIZE - 1].bytes[0], 0);
    repl_state_dir_close(&dir);
}

static void one_agent_holds_it(void **state)
{
    const struct temporary *t = *state;
    struct repl_error err;
    char words[32];
    int first, second;
    assert_true(repl_ok(repl_state_lock(t->path, &first, &err)));
    assert_int_equal(repl_state_lock(t->path, &second, &err).code, REPL_E_LOCKED);
    snprintf(words, sizeof words, "(process %d)", (int)getpid());
    assert_non_null(strstr(err.text, words));
    close(first);
    assert_true(repl_ok(repl_state_lock(t->path, &second, &err)));
    close(second);
}

/* One that was killed holds it until it is gone. */
static void an_ending_agent_is_waited_for(void **state)
{
    const struct temporary *t = *state;
    struct repl_error err;
    int ends[2], fd;
    char byte;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        bool ok = repl_ok(repl_state_lock(t->path, &fd, &err)) && write(ends[1], "", 1) == 1;
        usleep(300000);
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(read(ends[0], &byte, 1), 1);
    assert_true(repl_ok(repl_state_lock(t->path, &fd, &err)));
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(fd);
    close(ends[0]);
    close(ends[1]);
}

static void forgetting_leaves_nothing(void **state)
{
    const struct temporary *t = *state;
    struct repl_state_dir dir;
    struct repl_error err;
    char path[512];
    open_dir(t, &dir);
    repl_state_dir_close(&dir);
    assert_true(repl_ok(repl_state_dir_remove(t->path, "data", &err)));
    snprintf(path, sizeof path, "%s/volumes/data", t->path);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(repl_state_dir_remove(t->path, "data", &err).code, REPL_E_MISSING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_was_written_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(another_device_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_torn_slot_leaves_the_one_before, set_up, tear_down),
        cmocka_unit_test_setup_teardown(digests_of_another_volume_count_for_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(forgotten_digests_are_unknown, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_grown_table_keeps_what_it_has, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_agent_holds_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_ending_agent_is_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(forgetting_leaves_nothing, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
