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
#include "segment/segment_references.h"
#include "site/compactor/merge_run.h"
#include "store/segment_name.h"
#include "unit/agent/recover/store_model.h"

#define POINTS      14u
#define NAMES_MAX   24u
#define ENTRIES_MAX 256u

struct world {
    struct store_model model;
    struct repl_chain chain;
    struct repl_history *history;
    struct names {
        struct repl_digest *names;
        uint32_t count;
    } refs[ENTRIES_MAX]; /* of each entry of the chain */
    struct repl_digest names[NAMES_MAX];
    uint8_t chunks[NAMES_MAX][REPL_CHUNK_SIZE];
    size_t name_count;
    bool names_often;
    bool remade[ENTRIES_MAX]; /* of a base that is made anew by itself */
    unsigned merges, pieces, kept_tiles, dropped, carried, alone;
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
    uint64_t slots = w->names_often ? 16 : MODEL_SIZE / REPL_CHUNK_SIZE;
    uint64_t chunk = below(w, slots) * REPL_CHUNK_SIZE;
    switch (below(w, w->names_often ? 12 : 6)) {
    case 0:
        model_zero(m, offset, size < MODEL_SIZE - offset ? size : MODEL_SIZE - offset);
        break;
    case 1:
    case 6:
    case 7:
        if (w->name_count == NAMES_MAX)
            break;
        w->names[w->name_count] = model_chunk(m, chunk);
        memcpy(w->chunks[w->name_count++], m->now + chunk, REPL_CHUNK_SIZE);
        break;
    case 2:
    case 8:
    case 9:
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
    w->names_often = seed % 2 == 1;
    history_make(w);
}

static void refs_forget(struct world *w)
{
    for (size_t i = 0; i < ENTRIES_MAX; i++) {
        free(w->refs[i].names);
        w->refs[i] = (struct names){0};
    }
}

static void world_end(struct world *w)
{
    repl_history_close(w->history);
    repl_chain_fini(&w->chain);
    refs_forget(w);
    model_fini(&w->model);
}

/* --- segments of the store ------------------------------------------------------------------- */

struct opened {
    struct repl_stored_segment *file;
    struct repl_segment *segment;
};

static void entry_open(struct world *w, const struct repl_log_piece *entry, struct opened *out)
{
    const struct repl_segment_id id = {
        .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
    struct repl_store *store = w->model.store;
    must(w, store->ops->segment_open(store, MODEL_VOLUME, &id, 0, &out->file, &w->err));
    must(w, repl_segment_open(repl_stored_segment_read_at, out->file, out->file->size,
                              &out->segment, &w->err));
}

static void entry_close(struct opened *opened)
{
    repl_segment_free(opened->segment);
    opened->file->close(opened->file);
}

static void refs_read(struct world *w)
{
    refs_forget(w);
    assert_true(w->chain.count <= ENTRIES_MAX);
    for (size_t i = 0; i < w->chain.count; i++) {
        struct opened opened;
        entry_open(w, &w->chain.entries[i], &opened);
        must(w, repl_segment_references(opened.segment, w->model.coder, &w->refs[i].names,
                                        &w->refs[i].count, &w->err));
        entry_close(&opened);
    }
}

static bool entry_refers(const struct world *w, size_t i, const struct repl_digest *name)
{
    for (uint32_t k = 0; k < w->refs[i].count; k++) {
        if (repl_digest_equal(&w->refs[i].names[k], name))
            return true;
    }
    return false;
}

static bool is_referred(const struct world *w, const struct repl_digest *name)
{
    bool found = false;
    for (size_t i = 0; i < w->chain.count && !found; i++)
        found = entry_refers(w, i, name);
    return found;
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
    refs_read(w);
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

static bool is_without(const struct repl_log_piece *entry, const struct repl_segment_id *without,
                       size_t count)
{
    const struct repl_segment_id id = {
        .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
    size_t same = 0;
    for (size_t i = 0; i < count; i++) {
        same += repl_segment_id_order(&without[i], &id) == 0;
        assert_true(i == 0 || repl_segment_id_order(&without[i - 1], &without[i]) < 0);
    }
    return same > 0;
}

static repl_result referred(void *context, const struct repl_digest *name,
                            const struct repl_segment_id *without, size_t count, bool *out,
                            struct repl_error *err)
{
    struct world *w = context;
    (void)err;
    *out = false;
    for (size_t i = 0; i < w->chain.count && !*out; i++)
        *out = entry_refers(w, i, name) && !is_without(&w->chain.entries[i], without, count);
    return REPL_SUCCESS;
}

static struct site_merge_options options_of(struct world *w, size_t first, size_t end,
                                            size_t needless)
{
    return (struct site_merge_options){
        .store = w->model.store,
        .volume = MODEL_VOLUME,
        .entries = &w->chain.entries[first],
        .entry_count = end - first,
        .needless_count = needless,
        .after_seq = first == needless ? 0 : w->chain.entries[first - needless - 1].commit.to_seq,
        .merge = w->model.record_number + 1,
        .referred = referred,
        .referred_context = w,
        .extents_max = 4 + below(w, 40),
        .raw_size_max = (1 + below(w, 8)) << 18,
    };
}

/* Bytes of a frame that extents of the segment itself have. */
static void bytes_mark(struct world *w, const struct repl_segment *segment, uint32_t frame,
                       bool *own)
{
    struct repl_record_walk walk;
    struct repl_record record;
    bool done = false;
    memset(own, 0, REPL_FRAME_RAW_MAX);
    repl_record_walk_begin(&walk, segment, w->model.coder);
    for (;;) {
        must(w, repl_record_walk_next(&walk, &record, &done, &w->err));
        if (done)
            break;
        if (record.type == REPL_RECORD_DATA && record.frame == frame)
            memset(own + record.frame_offset, true, record.length);
    }
    repl_record_walk_end(&walk);
}

struct listing {
    struct repl_digest names[512];
    size_t count;
};

/* Each chunk that the entry lists is referred to, and then no other piece of the merge has it, or
 * its bytes are the segment's own. */
static void chunks_check(struct world *w, const struct repl_log_piece *entry,
                         struct listing *carried)
{
    static bool own[REPL_FRAME_RAW_MAX];
    struct opened opened;
    entry_open(w, entry, &opened);
    for (uint32_t k = 0; k < opened.segment->footer.chunk_count; k++) {
        const struct repl_chunk_entry *chunk = &opened.segment->chunks[k];
        bytes_mark(w, opened.segment, chunk->frame, own);
        if (memchr(own + chunk->frame_offset, false, REPL_CHUNK_SIZE) == NULL)
            continue;
        w->carried++;
        assert_true(is_referred(w, &chunk->name));
        for (size_t i = 0; i < carried->count; i++)
            assert_false(repl_digest_equal(&carried->names[i], &chunk->name));
        assert_true(carried->count < 512);
        carried->names[carried->count++] = chunk->name;
    }
    entry_close(&opened);
}

static void pieces_check(struct world *w, uint64_t merge_number)
{
    struct listing carried = {.count = 0};
    for (size_t i = 0; i < w->chain.count; i++) {
        const struct repl_log_commit *commit = &w->chain.entries[i].commit;
        if (w->chain.entries[i].merge == merge_number)
            chunks_check(w, &w->chain.entries[i], &carried);
        if (!repl_chain_has_point(&w->chain, i))
            continue;
        /* the sum of what the points between have brought; of fulls it is more */
        assert_true(commit->churn.known);
        assert_true(commit->from_seq == 0
                        ? commit->churn.changed_bytes >= commit->to_seq
                        : commit->churn.changed_bytes == commit->to_seq - commit->from_seq);
    }
}

/* Nobody that stays refers to what was dropped. */
static void dropped_check(struct world *w, const struct site_merge_result *result)
{
    w->dropped += (unsigned)result->dropped_count;
    for (size_t i = 0; i < result->dropped_count; i++) {
        bool out;
        must(w,
             referred(w, &result->dropped[i], result->going, result->going_count, &out, &w->err));
        assert_false(out);
    }
}

static void merge_do(struct world *w, size_t first, size_t end, size_t needless, const bool *remade)
{
    struct site_merge_options options = options_of(w, first, end, needless);
    options.remade = remade;
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
    chain_read(w);
    pieces_check(w, options.merge);
    dropped_check(w, &result);
    site_merge_result_fini(&result);
}

static void merge(struct world *w, size_t first, size_t end)
{
    merge_do(w, first, end, 0, NULL);
}

/* The segments of one point anew, of a base some of the others too: what is superseded in them is
 * no less, but chunks may go that were carried for segments which have gone meanwhile. */
static void merge_alone(struct world *w, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++)
        w->remade[i - first] =
            w->chain.entries[i].commit.to_seq == w->chain.entries[end - 1].commit.to_seq ||
            below(w, 3) == 0;
    w->alone++;
    merge_do(w, first, end, 0, first == 0 ? w->remade : NULL);
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
        if (end <= first)
            continue;
        if (end == first + 1 || (first == 0 && w->chain.entries[end - 1].commit.from_seq == 0))
            merge_alone(w, first, end);
        else
            merge(w, first, end);
        points_check(w);
    }
}

static void random_histories(void **state)
{
    struct world *w = malloc(sizeof *w);
    unsigned merges = 0, pieces = 0, kept = 0, dropped = 0, carried = 0, alone = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        world_begin(w, seed);
        random_merges(w);
        merges += w->merges;
        pieces += w->pieces;
        kept += w->kept_tiles;
        dropped += w->dropped;
        carried += w->carried;
        alone += w->alone;
        world_end(w);
    }
    print_message(
        "%u merges, %u of one point alone, %u pieces, %u tiles stayed; chunks: %u carried, "
        "%u dropped\n",
        merges, alone, pieces, kept, carried, dropped);
    assert_true(carried > 20 && dropped > 5 && alone > 5);
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

/* A full that refers to chunks of what it makes needless: they are carried along. */
static void a_full_refers_to_the_needless(void **state)
{
    struct world *w = malloc(sizeof *w);
    (void)state;
    world_begin(w, 21);
    struct store_model *m = &w->model;
    model_begin(m, 0, 15, 0);
    model_refer(m, 0, &w->names[0], w->chunks[0]);
    for (uint64_t at = REPL_CHUNK_SIZE; at < MODEL_SIZE; at += 512u << 10)
        model_data(m, at, MODEL_SIZE - at < 512u << 10 ? MODEL_SIZE - at : 512u << 10);
    model_end(m, true);
    model_begin(m, 15, 16, 0); /* the newest is never merged */
    model_zero(m, 0, REPL_PAGE_SIZE);
    model_end(m, false);
    chain_read(w);
    size_t full = w->chain.count - 2;
    for (size_t needless = 1; needless <= full; needless++) {
        struct site_merge_options options = options_of(w, full, full + 1, needless);
        struct site_merge_result result;
        bool wanted;
        must(w, site_merge_needless(&options, &result, &wanted, &w->err));
        assert_true(wanted || (result.going_count == needless && result.piece_count == 0));
        assert_true(wanted == (result.going_count == 0));
        assert_true(wanted || needless < full);
        dropped_check(w, &result);
        site_merge_result_fini(&result);
    }
    merge_do(w, full, full + 1, full, NULL); /* all before it */
    points_check(w);
    assert_int_equal(w->carried, 1);
    assert_true(repl_chain_find_point(&w->chain, 14) == SIZE_MAX);
    world_end(w);
    free(w);
}

/* One that was made of tiles already, with nothing behind it, when what is needless goes. The index
 * has one segment of each name. */
static void tiles_refer_to_the_needless(void **state)
{
    struct world *w = malloc(sizeof *w);
    (void)state;
    world_begin(w, 21);
    struct store_model *m = &w->model;
    model_begin(m, 0, 15, 0);
    model_refer(m, 0, &w->names[0], w->chunks[0]);
    for (uint64_t at = REPL_CHUNK_SIZE; at < MODEL_SIZE; at += 512u << 10)
        model_data(m, at, MODEL_SIZE - at < 512u << 10 ? MODEL_SIZE - at : 512u << 10);
    model_end(m, true);
    model_begin(m, 15, 16, 0);
    model_zero(m, 0, REPL_PAGE_SIZE);
    model_end(m, false);
    chain_read(w);
    size_t full = w->chain.count - 2, needless = 1;
    while (!repl_chain_has_point(&w->chain, full - needless - 1))
        needless++;
    merge_do(w, full, full + 1, needless, NULL);
    full -= needless;
    size_t tiles = repl_chain_find_point(&w->chain, 15) + 1 - full;
    assert_true(full > 0 && tiles > 1);
    merge_do(w, full, full + tiles, full, NULL);
    points_check(w);
    for (size_t i = 1; i < w->chain.count; i++) {
        const struct repl_log_commit *a = &w->chain.entries[i - 1].commit;
        const struct repl_log_commit *b = &w->chain.entries[i].commit;
        assert_true(a->to_seq < b->to_seq || (a->to_seq == b->to_seq && a->part < b->part));
    }
    world_end(w);
    free(w);
}

/* --- what it must notice --------------------------------------------------------------------- */

static repl_result merged_count(void *context, const struct repl_segment_id *id, uint64_t size,
                                struct repl_error *err)
{
    (void)size, (void)err;
    *(unsigned *)context += id->merge != 0;
    return REPL_SUCCESS;
}

/* Of pieces: none that a merge which failed has made. */
static void expect_merged(struct world *w, size_t count)
{
    struct repl_store *store = w->model.store;
    unsigned found = 0;
    must(w, store->ops->segments(store, MODEL_VOLUME, merged_count, &found, &w->err));
    assert_int_equal(found, count);
}

static void damage_is_noticed(void **state)
{
    struct world *w = malloc(sizeof *w);
    char path[400];
    (void)state;
    world_begin(w, 30);
    chain_read(w);
    size_t first = repl_chain_find_point(&w->chain, 5) + 1;
    size_t end = repl_chain_find_point(&w->chain, 9) + 1;
    struct site_merge_options options = options_of(w, first, end, 0);
    struct site_merge_result result;
    model_segment_path(&w->model, 7, 0, path);
    struct damage damage = {0};
    damage_take(&damage, path);
    for (size_t at = 0; at < damage.size; at += 61) {
        flip_bits(path, (off_t)at, 0x10);
        /* bytes that nothing refers to may be what they like */
        if (!repl_ok(site_merge_run(&options, &result, &w->err)))
            assert_int_equal(result.piece_count, 0);
        site_merge_result_fini(&result);
        flip_bits(path, (off_t)at, 0x10);
    }
    damage_fini(&damage);
    merge(w, first, end);
    points_check(w);
    world_end(w);
    free(w);
}

static void failures_leave_nothing(void **state)
{
    struct world *w = malloc(sizeof *w);
    char path[400];
    unsigned halfway = 0;
    (void)state;
    world_begin(w, 31);
    chain_read(w);
    size_t end = repl_chain_find_point(&w->chain, 9) + 1;
    struct site_merge_options options = options_of(w, 0, end, 0);
    struct site_merge_result result;
    options.extents_max = 1; /* as many pieces as there can be */
    model_segment_path(&w->model, 1, 1, path);
    struct damage damage = {0};
    damage_take(&damage, path);
    for (size_t i = 1; i < 6; i++) {
        flip_bits(path, (off_t)(damage.size / 8 * i), 0x10);
        bool good = repl_ok(site_merge_run(&options, &result, &w->err));
        halfway += !good && result.written_bytes > 0;
        assert_true(good || result.piece_count == 0);
        expect_merged(w, result.piece_count);
        for (size_t k = 0; k < result.piece_count; k++) {
            const struct repl_segment_id id = {
                .to_seq = 9, .part = (uint32_t)k, .merge = options.merge};
            must(w, options.store->ops->segment_remove(options.store, MODEL_VOLUME, &id, &w->err));
        }
        site_merge_result_fini(&result);
        flip_bits(path, (off_t)(damage.size / 8 * i), 0x10);
    }
    assert_true(halfway > 0);
    damage_fini(&damage);
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
    struct site_merge_options options =
        options_of(w, 0, repl_chain_find_point(&w->chain, 9) + 1, 0);
    struct site_merge_result result;
    options.stop = &stop;
    assert_int_equal(site_merge_run(&options, &result, &w->err).code, REPL_E_RETRY);
    site_merge_result_fini(&result);
    expect_merged(w, 0);
    points_check(w);
    world_end(w);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_histories),
        cmocka_unit_test(a_full_in_the_run),
        cmocka_unit_test(a_full_refers_to_the_needless),
        cmocka_unit_test(tiles_refer_to_the_needless),
        cmocka_unit_test(damage_is_noticed),
        cmocka_unit_test(failures_leave_nothing),
        cmocka_unit_test(it_can_be_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
