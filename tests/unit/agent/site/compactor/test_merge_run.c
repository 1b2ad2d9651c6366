/*
 * Merges on real files: random histories, of which random runs are merged and the base is brought
 * forward until little is left, with pieces so small that there are many; at each step every point
 * that is there must be what it was, and the store must verify. Then what a merge must notice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "journal/chain.h"
#include "journal/journal.h"
#include "recover/verify_history.h"
#include "site/compactor/merge_run.h"
#include "unit/agent/recover/store_model.h"

#define POINTS 14u

struct world {
    struct store_model model;
    struct repl_chain chain;
    struct repl_history *history;
    struct repl_digest names[4];
    uint8_t chunks[4][REPL_CHUNK_SIZE];
    size_t name_count;
    unsigned merges, pieces, kept_tiles;
    struct repl_error err;
};

static uint64_t below(struct world *w, uint64_t limit)
{
    return random_below(&w->model.random, limit);
}

static void must(struct world *w, repl_result result)
{
    if (!repl_ok(result))
        fail_msg("%s", w->err.text);
}

/* --- a history ------------------------------------------------------------------------------- */

static void change(struct world *w)
{
    struct store_model *m = &w->model;
    uint64_t pages = MODEL_SIZE / REPL_PAGE_SIZE;
    uint64_t offset = below(w, pages) * REPL_PAGE_SIZE, size = (1 + below(w, 8)) * REPL_PAGE_SIZE;
    uint64_t chunk = below(w, MODEL_SIZE / REPL_CHUNK_SIZE) * REPL_CHUNK_SIZE;
    switch (below(w, 6)) {
    case 0:
        model_zero(m, offset, size < MODEL_SIZE - offset ? size : MODEL_SIZE - offset);
        break;
    case 1:
        if (w->name_count == 4)
            break;
        w->names[w->name_count] = model_chunk(m, chunk);
        memcpy(w->chunks[w->name_count++], m->now + chunk, REPL_CHUNK_SIZE);
        break;
    case 2:
        if (w->name_count > 0) {
            size_t which = (size_t)below(w, w->name_count);
            model_refer(m, chunk, &w->names[which], w->chunks[which]);
        }
        break;
    default:
        model_data(m, offset, size < MODEL_SIZE - offset ? size : MODEL_SIZE - offset);
    }
}

static void history_make(struct world *w)
{
    struct store_model *m = &w->model;
    model_begin(m, 0, 1, 0);
    model_data(m, 0, 512u << 10);
    model_zero(m, 512u << 10, (3u << 20) - (512u << 10));
    model_end(m, false);
    model_begin(m, 0, 1, 1);
    for (uint64_t at = 3u << 20; at < MODEL_SIZE; at += 512u << 10)
        model_data(m, at, MODEL_SIZE - at < 512u << 10 ? MODEL_SIZE - at : 512u << 10);
    model_data(m, 2u << 20, 64u << 10); /* parts may overlap */
    model_end(m, true);
    for (uint64_t seq = 2; seq <= POINTS; seq++) {
        uint32_t parts = 1 + (uint32_t)below(w, 2);
        for (uint32_t part = 0; part < parts; part++) {
            model_begin(m, seq - 1, seq, part);
            for (uint64_t n = 1 + below(w, 5); n > 0; n--)
                change(w);
            if (repl_segment_builder_is_empty(m->builder))
                model_zero(m, 0, REPL_PAGE_SIZE);
            model_end(m, part + 1 == parts);
        }
    }
}

static void world_begin(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    model_init(&w->model);
    w->model.random = random_begin("test_merge_run", seed);
    history_make(w);
}

static void world_end(struct world *w)
{
    repl_history_close(w->history);
    repl_chain_fini(&w->chain);
    model_fini(&w->model);
}

/* --- what the store says --------------------------------------------------------------------- */

static void chain_read(struct world *w)
{
    struct repl_buffer log = {0};
    struct repl_store *store = w->model.store;
    repl_chain_fini(&w->chain);
    must(w, store->ops->log_read(store, MODEL_VOLUME, &log, NULL, &w->err));
    for (size_t at = 0, size = 0; at < log.size; at += size) {
        struct repl_log_record record;
        must(w, repl_log_record_decode(log.data + at, log.size - at, &record, &size, &w->err));
        must(w, repl_chain_apply(&w->chain, &record, &w->err));
    }
    assert_int_equal(w->chain.group_left, 0);
    repl_buffer_fini(&log);
}

static void finding(void *context, const char *text)
{
    (void)context;
    fail_msg("%s", text);
}

static void points_check(struct world *w)
{
    struct repl_origin *origin;
    repl_history_close(w->history);
    w->history = NULL;
    must(w, model_origin_open(w->model.path, MODEL_VOLUME, &origin, &w->err));
    must(w, repl_history_open(origin, &w->history, &w->err));
    const struct repl_catalogue *c = repl_history_catalogue(w->history);
    assert_string_equal(c->note, "");
    uint8_t *bytes = malloc(MODEL_SIZE);
    for (size_t i = 0; i < c->point_count; i++) {
        struct repl_view *view;
        struct repl_view_reader *reader;
        must(w, repl_history_view(w->history, i, &view, &w->err));
        must(w, repl_view_reader_new(view, 4, &reader, &w->err));
        must(w, repl_view_read(reader, 0, bytes, MODEL_SIZE, &w->err));
        assert_memory_equal(bytes, w->model.points[c->points[i].point.seq], MODEL_SIZE);
        repl_view_reader_free(reader);
        repl_view_free(view);
    }
    free(bytes);
    struct repl_verify_options options = {.history = w->history, .finding = finding};
    struct repl_verify_result result;
    must(w, repl_verify_history(&options, &result, &w->err));
    assert_int_equal(result.damaged_count + result.broken_links + result.affected_count, 0);
    repl_verify_result_fini(&result);
}

/* --- merging --------------------------------------------------------------------------------- */

static bool wanted(void *context, const struct repl_digest *name)
{
    (void)context, (void)name;
    return true;
}

static struct site_merge_options options_of(struct world *w, size_t first, size_t end)
{
    return (struct site_merge_options){
        .store = w->model.store,
        .volume = MODEL_VOLUME,
        .entries = &w->chain.entries[first],
        .entry_count = end - first,
        .after_seq = first == 0 ? 0 : w->chain.entries[first - 1].commit.to_seq,
        .merge = w->model.record_number + 1,
        .chunk_wanted = wanted,
        .extents_max = 4 + below(w, 40),
        .raw_size_max = (1 + below(w, 8)) << 18,
    };
}

static void merge(struct world *w, size_t first, size_t end)
{
    struct site_merge_options options = options_of(w, first, end);
    struct site_merge_result result;
    struct repl_log_record *records;
    size_t count, base_count = 0;
    must(w, site_merge_run(&options, &result, &w->err));
    must(w, site_merge_records(&options, &result, w->model.record_number + 1, 77, &records, &count,
                               &w->err));
    for (size_t i = 0; i < count; i++)
        model_log(&w->model, &records[i]);
    w->merges++;
    w->pieces += (unsigned)result.piece_count;
    for (size_t i = first; first == 0 && i < end; i++)
        base_count += options.entries[i].commit.from_seq == 0;
    if (first == 0)
        w->kept_tiles += (unsigned)(base_count - result.gone_count);
    free(records);
    site_merge_result_fini(&result);
    chain_read(w);
}

/* Behind the point that entry i has, or at the base. */
static size_t run_begin(struct world *w)
{
    size_t i = (size_t)below(w, w->chain.count);
    while (i > 0 && !repl_chain_has_point(&w->chain, i))
        i--;
    return i == 0 || below(w, 4) == 0 || w->chain.entries[i].commit.from_seq == 0 ? 0 : i + 1;
}

static void random_merges(struct world *w)
{
    chain_read(w);
    points_check(w);
    for (unsigned step = 0; step < 12 && w->chain.count > 3; step++) {
        size_t first = run_begin(w), end = first, last = w->chain.count - 1, points = 0;
        for (size_t i = first; i < last && points < 1 + step % 4; i++) {
            if (repl_chain_has_point(&w->chain, i)) {
                end = i + 1;
                points++;
            }
        }
        if (end <= first + 1 || (first == 0 && w->chain.entries[end - 1].commit.from_seq == 0))
            continue;
        merge(w, first, end);
        points_check(w);
    }
}

static void random_histories(void **state)
{
    struct world *w = malloc(sizeof *w);
    unsigned merges = 0, pieces = 0, kept = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        world_begin(w, seed);
        random_merges(w);
        merges += w->merges;
        pieces += w->pieces;
        kept += w->kept_tiles;
        world_end(w);
    }
    print_message("%u merges, %u pieces, %u tiles stayed\n", merges, pieces, kept);
    assert_true(merges > 30 && pieces > 2 * merges && kept > 10);
    free(w);
}

/* --- a full in the middle -------------------------------------------------------------------- */

static void a_full_in_the_run(void **state)
{
    struct world *w = malloc(sizeof *w);
    (void)state;
    world_begin(w, 20);
    struct store_model *m = &w->model;
    model_begin(m, 0, 15, 0);
    for (uint64_t at = 0; at < MODEL_SIZE; at += 512u << 10)
        model_data(m, at, MODEL_SIZE - at < 512u << 10 ? MODEL_SIZE - at : 512u << 10);
    model_end(m, true);
    chain_read(w);
    /* what lies behind point 10 and is not in the full is superseded: the full takes its place */
    size_t first = repl_chain_find_point(&w->chain, 10) + 1, full = w->chain.count - 1;
    struct repl_log_record needless = {
        .type = REPL_LOG_MERGE,
        .merge = {.from_seq = 10, .to_seq = w->chain.entries[full - 1].commit.to_seq}};
    assert_true(first < full);
    model_log(m, &needless);
    chain_read(w);
    points_check(w);
    assert_int_equal(repl_chain_find_point(&w->chain, 12), SIZE_MAX);
    world_end(w);
    free(w);
}

/* --- what it must notice --------------------------------------------------------------------- */

static void damage_is_noticed(void **state)
{
    struct world *w = malloc(sizeof *w);
    char path[400];
    (void)state;
    world_begin(w, 30);
    chain_read(w);
    size_t first = repl_chain_find_point(&w->chain, 5) + 1;
    size_t end = repl_chain_find_point(&w->chain, 9) + 1;
    struct site_merge_options options = options_of(w, first, end);
    struct site_merge_result result;
    model_segment_path(&w->model, 7, 0, path);
    struct damage damage = {0};
    damage_take(&damage, path);
    for (size_t at = 0; at < damage.size; at += 61) {
        flip_bits(path, (off_t)at, 0x10);
        /* bytes that nothing refers to may be what they like */
        if (repl_ok(site_merge_run(&options, &result, &w->err)))
            site_merge_result_fini(&result);
        else
            assert_int_equal(result.piece_count, 0);
        flip_bits(path, (off_t)at, 0x10);
    }
    damage_fini(&damage);
    merge(w, first, end);
    points_check(w);
    world_end(w);
    free(w);
}

static void it_can_be_stopped(void **state)
{
    struct world *w = malloc(sizeof *w);
    atomic_bool stop = true;
    (void)state;
    world_begin(w, 40);
    chain_read(w);
    struct site_merge_options options = options_of(w, 0, repl_chain_find_point(&w->chain, 9) + 1);
    struct site_merge_result result;
    options.stop = &stop;
    assert_int_equal(site_merge_run(&options, &result, &w->err).code, REPL_E_RETRY);
    points_check(w);
    world_end(w);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_histories),
        cmocka_unit_test(a_full_in_the_run),
        cmocka_unit_test(damage_is_noticed),
        cmocka_unit_test(it_can_be_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
