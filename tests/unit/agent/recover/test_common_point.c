/*
 * Several volumes restored by one command, as of a point that they have in
 * common, out of a store made by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "recover/origin.h"
#include "unit/agent/recover/store_model.h"
#include "unit/agent/recover/verb_output.h"

struct fixture {
    struct store_model data, journal;
    char to_data[400], to_journal[400]; /* "data=PATH" */
    const char *data_path, *journal_path;
    char state[300];
};

static struct verb_output said;

#define RESTORE(f, ...)                                                                            \
    verb_output(&repl_verb_restore, &said,                                                         \
                (const char *const[]){"--store", (f)->data.path, "--state", (f)->state,            \
                                      __VA_ARGS__, NULL})

static void point_make(struct store_model *m, uint64_t seq, uint64_t slot, bool group)
{
    m->slot = slot;
    m->point_flags = group ? REPL_POINT_GROUP : 0;
    model_begin(m, seq == 1 ? 0 : seq - 1, seq, 0);
    model_data(m, 0, 64 * 1024);
    if (seq == 1)
        model_zero(m, 64 * 1024, MODEL_SIZE - 64 * 1024);
    model_end(m, true);
}

/* Of data 2, 4 and 5 are the group's, of journal 2 and 4; journal did not change until data's 5. */
static int set_up(void **state)
{
    static const struct {
        uint64_t slot;
        bool group;
    } data[] = {{1, false}, {2, true}, {3, false}, {5, true}, {7, true}, {8, false}},
      journal[] = {{1, false}, {2, true}, {4, false}, {5, true}};
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    model_init(&f->data);
    model_init_beside(&f->journal, &f->data, "journal");
    for (uint64_t i = 0; i < sizeof data / sizeof data[0]; i++)
        point_make(&f->data, i + 1, data[i].slot, data[i].group);
    for (uint64_t i = 0; i < sizeof journal / sizeof journal[0]; i++)
        point_make(&f->journal, i + 1, journal[i].slot, journal[i].group);
    struct repl_log_record idle = {.type = REPL_LOG_IDLE,
                                   .time_ns = model_end_ns(8),
                                   .idle = {.seq = 4, .until_ns = model_end_ns(7)}};
    model_log(&f->journal, &idle);
    snprintf(f->to_data, sizeof f->to_data, "data=%s/data.img", f->data.temporary.path);
    snprintf(f->to_journal, sizeof f->to_journal, "journal=%s/journal.img", f->data.temporary.path);
    f->data_path = strchr(f->to_data, '=') + 1;
    f->journal_path = strchr(f->to_journal, '=') + 1;
    snprintf(f->state, sizeof f->state, "%s/state", f->data.temporary.path);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    model_fini(&f->journal);
    model_fini(&f->data);
    free(f);
    return 0;
}

static void assert_code(int code, int wanted, const char *part)
{
    if (code != wanted || strstr(said.err, part) == NULL)
        fail_msg("exit code %d, not %d with \"%s\": %s", code, wanted, part, said.err);
}

static void assert_content(const struct store_model *m, uint64_t seq, const char *path)
{
    uint8_t *bytes = malloc(MODEL_SIZE);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, bytes, MODEL_SIZE), MODEL_SIZE);
    close(fd);
    assert_memory_equal(bytes, m->points[seq], MODEL_SIZE);
    free(bytes);
}

static void assert_nothing_made(const struct fixture *f)
{
    assert_int_not_equal(access(f->data_path, F_OK), 0);
    assert_int_not_equal(access(f->journal_path, F_OK), 0);
}

/* The newest that both have is data's 5: journal was then still what its 4 says. */
static void test_latest(void **state)
{
    struct fixture *f = *state;
    assert_code(RESTORE(f, f->to_data, f->to_journal), REPL_EXIT_OK,
                "2 of 2 volumes are restored and verified, as of one point");
    assert_content(&f->data, 5, f->data_path);
    assert_content(&f->journal, 4, f->journal_path);
}

static void test_time(void **state)
{
    struct fixture *f = *state;
    char at[64];
    snprintf(at, sizeof at, "2026-05-04T10:17:%02dZ", 45); /* between slots 4 and 5 */
    assert_code(RESTORE(f, f->to_journal, f->to_data, "--at", at), REPL_EXIT_OK,
                "journal: point 2 of");
    assert_content(&f->data, 2, f->data_path);
    assert_content(&f->journal, 2, f->journal_path);
}

static void test_number(void **state)
{
    struct fixture *f = *state;
    assert_code(RESTORE(f, f->to_data, f->to_journal, "--at", "4"), REPL_EXIT_OK, "2 of 2");
    assert_content(&f->data, 4, f->data_path);
    assert_content(&f->journal, 4, f->journal_path);
}

static void test_none(void **state)
{
    struct fixture *f = *state;
    assert_code(RESTORE(f, f->to_data, f->to_journal, "--at", "3"), REPL_EXIT_REFUSED,
                "point 3 of data is not one that all the volumes have; the nearest before is of ");
    assert_non_null(strstr(said.err, "(--at 2); the nearest after is of "));
    assert_non_null(strstr(said.err, "(--at 4)"));
    assert_code(RESTORE(f, f->to_data, f->to_journal, "--at", "2026-05-04T10:17:15Z"),
                REPL_EXIT_REFUSED, "no point by then that all the volumes have; the nearest after");
    assert_nothing_made(f);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    char other[400];
    FILE *file = fopen(f->journal_path, "we");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
    assert_code(RESTORE(f, f->to_data, f->to_journal), REPL_EXIT_REFUSED,
                "journal: nothing was written: ");
    assert_int_equal(unlink(f->journal_path), 0);
    assert_nothing_made(f);
    snprintf(other, sizeof other, "journal=%s", f->data_path);
    assert_code(RESTORE(f, f->to_data, other), REPL_EXIT_USAGE, "to a target of its own");
    snprintf(other, sizeof other, "data=%s", f->journal_path);
    assert_code(RESTORE(f, f->to_data, other), REPL_EXIT_USAGE, "each volume is given once");
    assert_code(RESTORE(f, f->to_data, "journal"), REPL_EXIT_USAGE, "VOLUME=TARGET");
    assert_code(RESTORE(f, f->to_data, "none=/tmp/x"), REPL_EXIT_CORRUPT, "none");
    assert_code(RESTORE(f, f->to_data, f->to_journal, "--to", f->state), REPL_EXIT_USAGE,
                "for one volume alone");
    assert_code(RESTORE(f, f->to_data, f->to_journal, "--dry-run"), REPL_EXIT_OK,
                "2 of 2 volumes can be restored");
    assert_nothing_made(f);
}

/* One fails, the other is restored; the same command goes on where the file is to be replaced. */
static void test_one_fails(void **state)
{
    struct fixture *f = *state;
    char path[400];
    model_segment_path(&f->data, 2, 0, path);
    flip_bit(path, REPL_SEGMENT_HEADER_SIZE + 100);
    assert_code(RESTORE(f, f->to_data, f->to_journal, "--at", "2"), REPL_EXIT_CORRUPT, "1 of 2");
    assert_non_null(strstr(said.err, "repl restore: data: "));
    assert_content(&f->journal, 2, f->journal_path);
    flip_bit(path, REPL_SEGMENT_HEADER_SIZE + 100);
    assert_code(RESTORE(f, f->to_data, f->to_journal, "--at", "2"), REPL_EXIT_REFUSED,
                "--overwrite");
    assert_code(RESTORE(f, f->to_data, f->to_journal, "--at", "2", "--overwrite"), REPL_EXIT_OK,
                "2 of 2");
    assert_content(&f->data, 2, f->data_path);
    assert_content(&f->journal, 2, f->journal_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_latest, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_number, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_fails, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
