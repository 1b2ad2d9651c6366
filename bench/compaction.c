/*
 * How fast a history is merged, and what a restore of an old point takes against one of the newest:
 * a day with a point each second, made by the segment builder in a store of its own (below TMPDIR),
 * of which the seconds of the last hour and the minutes before it are kept. One thread, and nothing
 * but the merges themselves, as the site's compactor makes them.
 *
 *   repl_compaction [--hours 24] [--load scattered|hot|append]
 *
 *   scattered   4 pages at random, most of them in a fifth of the volume
 *   hot         4 of the same 64 pages
 *   append      the next 4 pages, round and round
 *
 * Half of each page compresses. A restore reads the whole volume of 256 MiB through a view, into
 * memory.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MODEL_SIZE (UINT64_C(256) << 20)

#include "journal/chain.h"
#include "journal/merge_plan.h"
#include "journal/retention.h"
#include "recover/history.h"
#include "site/compactor/merge_run.h"
#include "unit/agent/recover/store_model.h"

#define POLICY     "1s:1h 1m:1d 1h:30d"
#define PAGES      (MODEL_SIZE / REPL_PAGE_SIZE)
#define POINT_SIZE (4 * REPL_PAGE_SIZE)
#define MIB        (1024.0 * 1024.0)

#define CACHED_FRAMES 32u /* as each thread of a restore has */

enum load { SCATTERED, HOT, APPEND };
static const char *const load_names[] = {"scattered", "hot", "append"};

struct bench {
    struct store_model model;
    struct repl_chain chain;
    struct repl_merge_plan plan;
    enum load load;
    uint64_t points;
};

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Bytes that this process has read so far, from the disk or its cache. */
static uint64_t bytes_read(void)
{
    unsigned long long bytes = 0;
    FILE *io = fopen("/proc/self/io", "re");
    ensure(io != NULL && fscanf(io, "rchar: %llu", &bytes) == 1);
    fclose(io);
    return bytes;
}

static void must(repl_result result, const struct repl_error *err)
{
    if (repl_ok(result))
        return;
    fprintf(stderr, "repl_compaction: %s\n", err->text);
    exit(1);
}

/* --- the history ----------------------------------------------------------------------------- */

static int64_t time_of(uint64_t seq)
{
    return MODEL_BASE_NS + (int64_t)seq * 1000000000;
}

static void log_put(struct bench *b, struct repl_log_record *record)
{
    struct repl_error err;
    model_log(&b->model, record);
    must(repl_chain_apply(&b->chain, record, &err), &err);
}

static void pages_write(struct bench *b, uint64_t first, uint64_t count)
{
    for (uint64_t i = first; i < first + count; i++)
        random_fill(&b->model.random, b->model.now + i * REPL_PAGE_SIZE, REPL_PAGE_SIZE / 2);
    model_frame(&b->model, first * REPL_PAGE_SIZE, count * REPL_PAGE_SIZE);
}

static int page_order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Four pages at places of their own, in one frame. */
static void pages_scatter(struct bench *b)
{
    struct store_model *m = &b->model;
    uint8_t raw[POINT_SIZE];
    uint64_t pages[4];
    size_t count = 0;
    for (size_t i = 0; i < 4; i++) {
        uint64_t within = b->load == HOT ? 64 : random_below(&m->random, 5) > 0 ? PAGES / 5 : PAGES;
        pages[i] = random_below(&m->random, within);
    }
    qsort(pages, 4, sizeof *pages, page_order);
    for (size_t i = 0; i < 4; i++) {
        if (i > 0 && pages[i] == pages[i - 1])
            continue;
        uint8_t *page = m->now + pages[i] * REPL_PAGE_SIZE;
        random_fill(&m->random, page, REPL_PAGE_SIZE / 2);
        memcpy(raw + count * REPL_PAGE_SIZE, page, REPL_PAGE_SIZE);
        pages[count++] = pages[i];
    }
    uint32_t frame = add_frame(m->builder, m->coder, raw, count * REPL_PAGE_SIZE);
    for (size_t i = 0; i < count; i++)
        model_extent(m, (struct repl_extent){.offset = pages[i] * REPL_PAGE_SIZE,
                                             .length = REPL_PAGE_SIZE,
                                             .source = frame,
                                             .source_offset = (uint32_t)(i * REPL_PAGE_SIZE),
                                             .type = REPL_RECORD_DATA});
}

static void segment_commit(struct bench *b, uint64_t seq)
{
    struct store_model *m = &b->model;
    struct repl_segment_footer footer;
    struct repl_point point = {.seq = seq,
                               .begin_ns = time_of(seq),
                               .end_ns = time_of(seq),
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_WINDOW,
                               .attempts = 1};
    must(repl_segment_builder_finish(m->builder, &point, 1, &footer, &m->err), &m->err);
    model_publish(m, &(struct repl_segment_id){.to_seq = seq});
    struct repl_log_record record = {.type = REPL_LOG_COMMIT,
                                     .time_ns = time_of(seq),
                                     .commit = {.from_seq = seq - 1,
                                                .to_seq = seq,
                                                .lineage = 1,
                                                .file_size = footer.file_size,
                                                .volume_size = MODEL_SIZE,
                                                .digest = footer.digest,
                                                .has_point = true,
                                                .point = point}};
    log_put(b, &record);
    m->prev = footer.digest;
    struct repl_merge_segment planned = {.from_seq = seq - 1,
                                         .to_seq = seq,
                                         .has_point = true,
                                         .time_ns = time_of(seq),
                                         .file_size = footer.file_size};
    must(repl_merge_plan_add(&b->plan, &planned, &m->err), &m->err);
}

static void history_make(struct bench *b)
{
    struct store_model *m = &b->model;
    model_begin(m, 0, 1, 0);
    for (uint64_t page = 0; page < PAGES; page += 256)
        pages_write(b, page, 256);
    segment_commit(b, 1);
    for (uint64_t seq = 2; seq <= b->points; seq++) {
        model_begin(m, seq - 1, seq, 0);
        if (b->load == APPEND)
            pages_write(b, seq * 4 % PAGES, 4);
        else
            pages_scatter(b);
        segment_commit(b, seq);
    }
}

/* --- merging --------------------------------------------------------------------------------- */

static void points_drop(struct bench *b)
{
    struct repl_retention policy;
    struct repl_error err;
    struct repl_retention_point *points = calloc(b->points, sizeof *points);
    bool *keep = calloc(b->points, sizeof *keep);
    ensure(points != NULL && keep != NULL);
    must(repl_retention_parse(POLICY, &policy, &err), &err);
    for (uint64_t i = 0; i < b->points; i++)
        points[i] = (struct repl_retention_point){.seq = i + 1, .time_ns = time_of(i + 1)};
    points[b->points - 1].protect = REPL_PROTECT_NEWEST;
    repl_retention_pass(&policy, points, b->points, 0, time_of(b->points), keep);
    for (uint64_t i = 0; i < b->points; i++) {
        if (!keep[i])
            repl_merge_plan_drop(&b->plan, i + 1, time_of(b->points));
    }
    free(points);
    free(keep);
}

/* Nothing in this history goes by name. */
static repl_result referred(void *context, const struct repl_digest *name,
                            const struct repl_segment_id *without, size_t count, bool *out,
                            struct repl_error *err)
{
    (void)context, (void)name, (void)without, (void)count, (void)err;
    *out = false;
    return REPL_SUCCESS;
}

struct merged {
    uint64_t merges, read_bytes, written_bytes;
    double seconds;
};

/* As the compactor does: made, then logged, then what it took the place of removed. */
static void merge_do(struct bench *b, struct repl_merge *merge, struct merged *sum)
{
    struct store_model *m = &b->model;
    size_t end = repl_chain_find_point(&b->chain, merge->to_seq) + 1;
    size_t first =
        merge->after_seq == 0 ? 0 : repl_chain_find_point(&b->chain, merge->after_seq) + 1;
    struct site_merge_options options = {.store = m->store,
                                         .volume = MODEL_VOLUME,
                                         .entries = &b->chain.entries[first],
                                         .entry_count = end - first,
                                         .after_seq = merge->after_seq,
                                         .merge = m->record_number + 1,
                                         .referred = referred,
                                         .extents_max = SITE_PIECE_EXTENTS_MAX,
                                         .raw_size_max = SITE_PIECE_RAW_SIZE_MAX,
                                         .records_max = SITE_PIECE_RECORDS_MAX};
    struct site_merge_result result;
    struct repl_log_record *records;
    size_t count;
    double begin = now_s();
    must(site_merge_run(&options, &result, &m->err), &m->err);
    sum->seconds += now_s() - begin;
    must(site_merge_records(&options, &result, m->record_number + 1, time_of(b->points), &records,
                            &count, &m->err),
         &m->err);
    for (size_t i = 0; i < count; i++)
        log_put(b, &records[i]);
    for (size_t i = 0; i < result.going_count; i++)
        must(m->store->ops->segment_remove(m->store, MODEL_VOLUME, &result.going[i], &m->err),
             &m->err);
    repl_merge_plan_done(&b->plan, merge, result.written_bytes);
    sum->merges++;
    sum->read_bytes += result.read_bytes;
    sum->written_bytes += result.written_bytes;
    free(records);
    site_merge_result_fini(&result);
}

/* --- restoring ------------------------------------------------------------------------------- */

static void restore(const struct bench *b, const char *what, uint64_t seq)
{
    static uint8_t bytes[1 << 20];
    struct repl_origin *origin;
    struct repl_history *history;
    struct repl_view *view;
    struct repl_view_reader *reader;
    struct repl_error err;
    uint64_t read = bytes_read();
    double begin = now_s();
    must(model_origin_open(b->model.path, MODEL_VOLUME, &origin, &err), &err);
    must(repl_history_open(origin, &history, &err), &err);
    const struct repl_catalogue *c = repl_history_catalogue(history);
    size_t point = 0;
    while (c->points[point].point.seq != seq)
        point++;
    must(repl_history_view(history, point, &view, &err), &err);
    double opened = now_s();
    must(repl_view_reader_new(view, CACHED_FRAMES, &reader, &err), &err);
    for (uint64_t at = 0; at < MODEL_SIZE; at += sizeof bytes) {
        must(repl_view_read(reader, at, bytes, sizeof bytes, &err), &err);
        ensure(seq != b->points || memcmp(bytes, b->model.now + at, sizeof bytes) == 0);
    }
    printf("| %s | %" PRIu64 " | %.2f | %.2f | %zu | %.0f |\n", what, seq, opened - begin,
           now_s() - opened, repl_view_segment_count(view), (double)(bytes_read() - read) / MIB);
    repl_view_reader_free(reader);
    repl_view_free(view);
    repl_history_close(history);
}

/* A kept point in the middle. */
static uint64_t old_point(const struct bench *b)
{
    size_t i = 0;
    while (!repl_chain_has_point(&b->chain, i) ||
           (time_of(b->chain.entries[i].commit.to_seq) / 1000000000) % 60 != 0 ||
           b->chain.entries[i].commit.to_seq < b->points / 2)
        i++;
    return b->chain.entries[i].commit.to_seq;
}

static void measure(struct bench *b)
{
    struct merged sum = {0};
    struct repl_merge merge;
    size_t before = b->chain.count;
    uint64_t old = old_point(b);
    printf("\n| restore | point | list and open, s | read, s | segments opened | MiB read |\n"
           "| --- | --- | --- | --- | --- | --- |\n");
    restore(b, "newest, before", b->points);
    restore(b, "old, before", old);
    points_drop(b);
    while (repl_merge_plan_next(&b->plan, time_of(b->points), &merge))
        merge_do(b, &merge, &sum);
    restore(b, "newest, merged", b->points);
    restore(b, "old, merged", old);
    printf("\n%s: %" PRIu64 " points; %" PRIu64
           " merges made %zu segments of %zu: in %.0f MiB, out %.0f MiB in %.1f s: "
           "%.1f MiB/s in, %.1f MiB/s out\n",
           load_names[b->load], b->points, sum.merges, b->chain.count, before,
           (double)sum.read_bytes / MIB, (double)sum.written_bytes / MIB, sum.seconds,
           (double)sum.read_bytes / MIB / sum.seconds,
           (double)sum.written_bytes / MIB / sum.seconds);
}

static int usage(void)
{
    fprintf(stderr, "usage: repl_compaction [--hours 24] [--load scattered|hot|append]\n");
    return 64;
}

int main(int argc, char **argv)
{
    static struct bench b;
    uint64_t hours = 24;
    for (int i = 1; i + 1 < argc; i += 2) {
        bool load = strcmp(argv[i], "--load") == 0;
        for (int k = SCATTERED; load && k <= APPEND; k++) {
            if (strcmp(argv[i + 1], load_names[k]) == 0)
                b.load = (enum load)k;
        }
        if (strcmp(argv[i], "--hours") == 0)
            hours = strtoull(argv[i + 1], NULL, 10);
        else if (!load || strcmp(argv[i + 1], load_names[b.load]) != 0)
            return usage();
    }
    if (argc % 2 == 0 || hours < 2)
        return usage();
    b.points = hours * 3600;
    model_init(&b.model);
    repl_chain_init(&b.chain);
    repl_merge_plan_init(&b.plan, UINT64_C(64) << 30);
    history_make(&b);
    measure(&b);
    repl_merge_plan_fini(&b.plan);
    repl_chain_fini(&b.chain);
    model_fini(&b.model);
    return 0;
}
