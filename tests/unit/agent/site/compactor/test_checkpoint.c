/*
 * A log that is written anew although most of it stays: of how the source fared. It is one change
 * of the index, and is not made again before as much has come.
 */
#include "site/index/index_internal.h"
#include "unit/agent/site/compactor/compactor_world.h"

#define STATES 3000u

/* As of a link that comes and goes. */
static void states_append(uint64_t number)
{
    char path[256];
    file_path(&w, path, "log");
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < STATES; i++) {
        struct repl_log_record record = {
            .type = REPL_LOG_STATE, .number = number + i, .time_ns = repl_now_wall_ns()};
        uint8_t bytes[REPL_LOG_RECORD_SIZE_MAX];
        size_t size;
        record.state.state = i % 2 == 0 ? REPL_STATE_LINK_DOWN : REPL_STATE_OK;
        repl_log_record_encode(&record, bytes, &size);
        assert_int_equal(write(fd, bytes, size), (ssize_t)size);
    }
    close(fd);
}

static uint64_t transactions(void)
{
    MDB_envinfo info;
    mdb_env_info(w.site->index->env, &info);
    return info.me_last_txnid;
}

static void many_states(void **state)
{
    size_t segments;
    (void)state;
    begin("1s:1h");
    points_make(4);
    uint64_t number = w.site->volumes->journal.record_number + 1;
    site_stop(&w);
    states_append(number);
    site_start(&w);

    struct site_volume *v = w.site->volumes;
    struct site_compactor *c = w.site->compactor;
    c->log_size_min = 10000;
    assert_true(compactor_checkpoint_is_due(c, v, 5));
    uint64_t before = transactions();
    compactor_checkpoint_begin(v);
    PUMP_UNTIL(&w, !v->busy);
    assert_true(transactions() - before < 10);
    assert_false(v->index_behind);
    assert_int_equal(v->journal.record_number, number + STATES - 1 + 1 + 5 + STATES);

    uint64_t size = v->log_end - v->log_begin;
    assert_true(size > 10 * c->log_size_min);
    assert_false(compactor_checkpoint_is_due(c, v, 5));
    v->log_end += size + 1;
    assert_true(compactor_checkpoint_is_due(c, v, 5));
    v->log_end -= size + 1;

    points_make(2);
    assert_int_equal(points_check(&segments), 7);
    site_restart(&w);
    assert_string_equal(w.site->volumes->damaged, "");
    points_make(2);
    assert_int_equal(points_check(&segments), 9);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
