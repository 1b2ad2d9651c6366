/*
 * Histories of a directory tree, merged on real files: each point is restored before anything is
 * merged, and after each merge what is left must be found to need no change there.
 */
#include "journal/chain.h"
#include "recover/verify_history.h"
#include "site/compactor/merge_run.h"
#include "unit/agent/recover/tree_model.h"

#define POINTS 8u

static struct repl_chain chain;

static void must(const struct fixture *f, repl_result result)
{
    if (!repl_ok(result))
        fail_msg("%s", f->err.text);
}

/* Of each kind of change something, and a page of the space in each. */
static void increments_make(struct fixture *f)
{
    full_make(f, 1);
    point_begin(f, 1, 2);
    model_data(&f->model, 4096, 4096); /* the second page of file */
    NAMES(f, 2, {"hard", 0}, {"moved", 14}, {"\xff\xfe\x1b[2J", 0});
    NAMES(f, 5, {"below", 0});
    node(f, 12, (struct repl_node){.kind = REPL_NODE_GONE});
    point_end(f);
    point_begin(f, 2, 3);
    model_data(&f->model, 1u << 20, 8192);
    NAMES(f, 2, {"new", 16});
    node(f, 16, directory_node);
    NAMES(f, 16, {"file", 17}, {"other", 18});
    node(f, 17, file_node(5000));
    run(f, 17, 0, 8192, 1u << 20);
    node(f, 18, file_node(0));
    point_end(f);
    point_begin(f, 3, 4); /* it gets longer, the other one goes again */
    model_data(&f->model, (1u << 20) + 4096, 8192);
    NAMES(f, 16, {"other", 0});
    node(f, 17, file_node(12000));
    run(f, 17, 4096, 8192, (1u << 20) + 4096);
    node(f, 18, (struct repl_node){.kind = REPL_NODE_GONE});
    point_end(f);
    point_begin(f, 4, 5); /* shorter than its runs, and what lay behind is a hole later */
    node(f, 11, file_node(4096));
    xattr(f, 11, "user.new", "1", 1, 0);
    node(f, 17, file_node(100));
    point_end(f);
    point_begin(f, 5, 6);
    node(f, 17, file_node(9000));
    xattr(f, 17, "user.of-17", "x", 1, 0);
    point_end(f);
    point_begin(f, 6, 7); /* contents alone */
    model_data(&f->model, 32768, 12288);
    model_zero(&f->model, 40960, 4096);
    point_end(f);
    point_begin(f, 7, 8);
    NAMES(f, 2, {"last", 19});
    node(f, 19, file_node(1));
    run(f, 19, 0, 4096, 28672);
    point_end(f);
}

static void to_point(struct fixture *f, uint64_t seq)
{
    snprintf(f->to, sizeof f->to, "%s/to.%llu", f->model.temporary.path, (unsigned long long)seq);
}

static void chain_read(struct fixture *f)
{
    struct repl_buffer log = {0};
    struct repl_store *store = f->model.store;
    repl_chain_fini(&chain);
    must(f, store->ops->log_read(store, MODEL_VOLUME, &log, NULL, &f->err));
    for (size_t at = 0, size = 0; at < log.size; at += size) {
        struct repl_log_record record;
        must(f, repl_log_record_decode(log.data + at, log.size - at, &record, &size, &f->err));
        must(f, repl_chain_apply(&chain, &record, &f->err));
    }
    repl_buffer_fini(&log);
}

static void finding(void *context, const char *text)
{
    (void)context;
    fail_msg("%s", text);
}

/* Each point that is left, against what it was restored to before. */
static size_t points_check(struct fixture *f)
{
    f->options.dry_run = f->options.exact = true;
    repl_history_close(f->history);
    f->history = NULL;
    to_point(f, POINTS);
    must(f, restore(f, 1)); /* opens the history */
    const struct repl_catalogue *c = repl_history_catalogue(f->history);
    assert_string_equal(c->note, "");
    size_t count = c->point_count;
    for (size_t i = 0; i < count; i++) {
        to_point(f, c->points[i].point.seq);
        must(f, restore(f, i + 1));
        if (change_count(f) != 0)
            fail_msg("point %llu: %s", (unsigned long long)c->points[i].point.seq, f->changes);
    }
    struct repl_verify_options options = {.history = f->history, .finding = finding};
    struct repl_verify_result result;
    must(f, repl_verify_history(&options, &result, &f->err));
    assert_int_equal(result.damaged_count + result.broken_links + result.affected_count +
                         result.senseless_count,
                     0);
    repl_verify_result_fini(&result);
    return count;
}

static repl_result referred(void *context, const struct repl_digest *name,
                            const struct repl_segment_id *without, size_t count, bool *out,
                            struct repl_error *err)
{
    (void)context, (void)name, (void)without, (void)count, (void)err;
    *out = true;
    return REPL_SUCCESS;
}

/* Behind point from (0: the base) up to point to. */
static void merge(struct fixture *f, uint64_t from, uint64_t to)
{
    chain_read(f);
    size_t first = from == 0 ? 0 : repl_chain_find_point(&chain, from) + 1;
    size_t end = repl_chain_find_point(&chain, to) + 1;
    struct site_merge_options options = {.store = f->model.store,
                                         .volume = MODEL_VOLUME,
                                         .entries = &chain.entries[first],
                                         .entry_count = end - first,
                                         .after_seq = from,
                                         .merge = f->model.record_number + 1,
                                         .referred = referred,
                                         .extents_max = 6,
                                         .raw_size_max = 256u << 10,
                                         .records_max = 12};
    struct site_merge_result result;
    struct repl_log_record *records;
    size_t count;
    must(f, site_merge_run(&options, &result, &f->err));
    assert_true(result.piece_count >= 1);
    must(f, site_merge_records(&options, &result, f->model.record_number + 1, 77, &records, &count,
                               &f->err));
    for (size_t i = 0; i < count; i++)
        model_log(&f->model, &records[i]);
    free(records);
    site_merge_result_fini(&result);
}

static void trees_are_merged(void **state)
{
    struct fixture *f = *state;
    increments_make(f);
    for (uint64_t seq = 1; seq <= POINTS; seq++) {
        to_point(f, seq);
        restore_well(f, seq);
    }
    assert_int_equal(points_check(f), 8);
    merge(f, 2, 5);
    assert_int_equal(points_check(f), 6);
    merge(f, 0, 2);
    assert_int_equal(points_check(f), 5);
    merge(f, 5, 7);
    assert_int_equal(points_check(f), 4);
    merge(f, 0, 5); /* the base once more, by its tiles */
    assert_int_equal(points_check(f), 3);
    merge(f, 0, 7);
    assert_int_equal(points_check(f), 2);
    repl_chain_fini(&chain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(trees_are_merged, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
