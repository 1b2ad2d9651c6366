/*
 * A journal that lasts for years: a volume that gets a point at each tick of a virtual clock,
 * thinned by a policy and merged as planned, with real segments in memory. At the end every point
 * that the policy keeps is restored and compared, page by page, with what was written; what lies in
 * the store is set against the least that could hold the same points; and it is counted how many
 * segments a restore opens.
 *
 *   year --days 400 --every 900        a point every quarter of an hour (the short form)
 *   year --days 400 --every 6          5.76 million points
 *
 * The least: one segment for each two neighbouring points that are kept, with each page that was
 * written in between once, and one full, as the builder makes them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/ensure.h"
#include "journal/chain.h"
#include "journal/journal.h"
#include "journal/merge_plan.h"
#include "repl/view.h"
#include "segment/segment_merge.h"
#include "unit/journal/retention_schedule.h"
#include "unit/random.h"
#include "unit/segment/segment_fixture.h"

#define PAGE       REPL_PAGE_SIZE
#define PAGES      512u /* of the volume */
#define TILE_PAGES 32u  /* of a tile of the base */
#define WRITES_MAX 4u   /* pages a point */
#define SECOND     INT64_C(1000000000)
#define START_S    INT64_C(1767225600) /* 2026-01-01 */
#define OVERHEAD   1.2

/* A segment as it lies in the store. */
struct stored {
    uint64_t to_seq, merge;
    uint32_t part;
    struct memory_file file;
    struct memory_span span;
    struct repl_segment *segment;
};

struct kept {
    uint64_t seq;
    int64_t time_ns;
    uint64_t hash; /* of what the volume held */
};

struct year {
    struct random random;
    struct repl_frame_coder *coder;
    struct repl_journal journal;
    struct repl_chain chain;
    struct stored **stored; /* as the chain's entries */
    size_t stored_count, stored_room;
    struct repl_retention_schedule schedule;
    struct repl_retention policy;
    struct repl_merge_plan plan;
    int64_t now_ns;
    uint64_t seq, record_number, merges;
    uint64_t written[PAGES]; /* the point that wrote the page last */
    uint64_t hash;
    uint8_t image[PAGES * PAGE];
    struct kept *points; /* by seq - 1; seq 0: given up */
    uint64_t came_bytes, made_bytes;
    size_t stored_max;
    struct repl_error err;
};

static void must(const struct year *y, repl_result result)
{
    if (repl_ok(result))
        return;
    fprintf(stderr, "year: at point %" PRIu64 ": %s\n", y->seq, y->err.text);
    exit(1);
}

/* --- what is written ------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= UINT64_C(0x9e3779b97f4a7c15);
    x ^= x >> 29;
    return x * UINT64_C(0xbf58476d1ce4e5b9);
}

/* A page's content follows from its number and the point that wrote it; half of it compresses. */
static void page_fill(uint8_t *out, uint64_t page, uint64_t seq)
{
    uint64_t state = mix(page << 40 ^ seq);
    for (size_t i = 0; i < PAGE; i += 8) {
        uint64_t word = i < PAGE / 2 ? (state = mix(state + i)) : seq;
        memcpy(out + i, &word, 8);
    }
}

static uint64_t page_hash(uint64_t page, uint64_t seq)
{
    return mix(mix(page + 1) + seq);
}

/* A few pages are written all the time. */
static uint64_t page_choose(struct year *y)
{
    uint64_t range = UINT64_C(1) << (3 + random_below(&y->random, 7));
    return random_below(&y->random, range < PAGES ? range : PAGES);
}

static struct repl_point point_of(const struct year *y, uint64_t changed)
{
    return (struct repl_point){.seq = y->seq,
                               .begin_ns = y->now_ns,
                               .end_ns = y->now_ns,
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_WINDOW,
                               .attempts = 1,
                               .changed_bytes = changed};
}

/* Pages of a segment that is being built, as one frame for so many that lie together. */
static void pages_add(struct year *y, struct repl_segment_builder *builder, const uint64_t *pages,
                      size_t count)
{
    uint8_t raw[TILE_PAGES * PAGE];
    for (size_t i = 0; i < count; i++)
        memcpy(raw + i * PAGE, y->image + pages[i] * PAGE, PAGE);
    uint32_t frame = add_frame(builder, y->coder, raw, count * PAGE);
    for (size_t i = 0; i < count; i++) {
        struct repl_extent extent = {.offset = pages[i] * PAGE,
                                     .length = PAGE,
                                     .source = frame,
                                     .source_offset = (uint32_t)(i * PAGE),
                                     .type = REPL_RECORD_DATA};
        must(y, repl_segment_builder_extent(builder, &extent, &y->err));
    }
}

static struct repl_segment_builder *segment_begin(struct year *y, uint64_t from, uint64_t to,
                                                  struct memory_file *file)
{
    struct repl_segment_builder *builder;
    struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                         .kind = REPL_SEGMENT_CHANGES,
                                         .volume_kind = REPL_VOLUME_BLOCK,
                                         .from_seq = from,
                                         .to_seq = to,
                                         .prev = y->journal.head.digest};
    must(y,
         repl_segment_builder_new(&header, sizeof y->image, memory_sink, file, &builder, &y->err));
    return builder;
}

static void all_pages_add(struct year *y, struct repl_segment_builder *builder)
{
    uint64_t pages[TILE_PAGES];
    for (uint64_t page = 0; page < PAGES; page += TILE_PAGES) {
        for (uint64_t i = 0; i < TILE_PAGES; i++)
            pages[i] = page + i;
        pages_add(y, builder, pages, TILE_PAGES);
    }
}

/* --- the store ------------------------------------------------------------------------------- */

static void stored_open(struct year *y, struct stored *s)
{
    s->span = (struct memory_span){s->file.bytes.data, s->file.bytes.size};
    must(y, repl_segment_open(memory_read_at, &s->span, s->span.size, &s->segment, &y->err));
}

static void stored_free(struct stored *s)
{
    repl_segment_free(s->segment);
    repl_buffer_fini(&s->file.bytes);
    free(s);
}

static void stored_add(struct year *y, struct stored *s)
{
    if (y->stored_count == y->stored_room) {
        y->stored_room = y->stored_room == 0 ? 1024 : 2 * y->stored_room;
        y->stored = realloc(y->stored, y->stored_room * sizeof *y->stored);
        ensure(y->stored != NULL);
    }
    y->stored[y->stored_count++] = s;
    if (y->stored_count > y->stored_max)
        y->stored_max = y->stored_count;
}

static struct stored *stored_new(uint64_t to, uint32_t part, uint64_t merge)
{
    struct stored *s = calloc(1, sizeof *s);
    ensure(s != NULL);
    s->to_seq = to;
    s->part = part;
    s->merge = merge;
    return s;
}

static void log_put(struct year *y, struct repl_log_record *record)
{
    record->number = ++y->record_number;
    record->time_ns = y->now_ns;
    must(y, repl_journal_apply(&y->journal, record, &y->err));
    must(y, repl_chain_apply(&y->chain, record, &y->err));
}

static void segment_commit(struct year *y, struct stored *s)
{
    const struct repl_segment *segment = s->segment;
    const struct repl_point *point = repl_segment_last_point(segment);
    struct repl_log_record record = {.type = REPL_LOG_COMMIT,
                                     .commit = {.from_seq = segment->header.from_seq,
                                                .to_seq = segment->header.to_seq,
                                                .file_size = segment->footer.file_size,
                                                .volume_size = sizeof y->image,
                                                .digest = segment->footer.digest,
                                                .has_point = true,
                                                .point = *point}};
    log_put(y, &record);
    stored_add(y, s);
    struct repl_merge_segment planned = {.from_seq = segment->header.from_seq,
                                         .to_seq = segment->header.to_seq,
                                         .has_point = true,
                                         .time_ns = point->end_ns,
                                         .file_size = segment->footer.file_size};
    must(y, repl_merge_plan_add(&y->plan, &planned, &y->err));
    must(y, repl_retention_schedule_add(&y->schedule, y->seq, y->now_ns, &y->err));
}

static void point_make(struct year *y)
{
    uint64_t pages[WRITES_MAX], count = 1 + random_below(&y->random, WRITES_MAX);
    struct stored *s = stored_new(++y->seq, 0, 0);
    struct repl_segment_footer footer;
    struct repl_segment_builder *builder = segment_begin(y, y->seq - 1, y->seq, &s->file);
    for (uint64_t i = 0; i < (y->seq == 1 ? PAGES : count); i++) {
        uint64_t page = y->seq == 1 ? i : page_choose(y);
        y->hash -= y->seq == 1 ? 0 : page_hash(page, y->written[page]);
        y->written[page] = y->seq;
        y->hash += page_hash(page, y->seq);
        page_fill(y->image + page * PAGE, page, y->seq);
        if (y->seq > 1)
            pages[i] = page;
    }
    if (y->seq == 1)
        all_pages_add(y, builder);
    else
        pages_add(y, builder, pages, count);
    struct repl_point point = point_of(y, count * PAGE);
    must(y, repl_segment_builder_finish(builder, &point, 1, &footer, &y->err));
    repl_segment_builder_free(builder);
    y->came_bytes += footer.file_size;
    stored_open(y, s);
    segment_commit(y, s);
    y->points[y->seq - 1] = (struct kept){y->seq, y->now_ns, y->hash};
}

/* --- merging --------------------------------------------------------------------------------- */

static bool wanted_referred(void *context, const struct repl_digest *name, bool referred)
{
    (void)context, (void)name;
    return referred;
}

static struct stored *piece_make(struct year *y, const struct repl_segment *const *segments,
                                 const struct repl_digest *links, size_t count,
                                 const struct repl_merge_piece *how)
{
    struct stored *s = stored_new(0, how->part, y->merges);
    struct repl_merge_report report;
    struct repl_merge_options options = {.piece = how,
                                         .segments = segments,
                                         .segment_count = count,
                                         .links = links,
                                         .chunk_wanted = wanted_referred,
                                         .sink = memory_sink,
                                         .sink_context = &s->file};
    must(y, repl_segment_merge(&options, &report, &y->err));
    stored_open(y, s);
    s->to_seq = s->segment->header.to_seq;
    y->made_bytes += s->span.size;
    return s;
}

static struct repl_log_record piece_record(const struct year *y, const struct stored *s,
                                           const struct repl_log_piece *last,
                                           const struct repl_merge_piece *how)
{
    struct repl_log_record record = {.type = REPL_LOG_PIECE};
    struct repl_log_piece *piece = &record.piece;
    (void)y;
    piece->commit = last->commit;
    piece->commit.from_seq = s->segment->header.from_seq;
    piece->commit.part = s->part;
    piece->commit.file_size = s->span.size;
    piece->commit.digest = s->segment->footer.digest;
    piece->commit.has_point = how->last;
    piece->merge = s->merge;
    piece->link = how->last ? last->link : s->segment->footer.digest;
    if (how->last)
        piece->unchanged_until_ns = last->unchanged_until_ns;
    else
        piece->commit.point = (struct repl_point){0};
    if (how->base) {
        piece->begin = (struct repl_record_place){REPL_OBJECT_DEVICE, how->range.begin};
        piece->end = (struct repl_record_place){REPL_OBJECT_DEVICE, how->range.end};
    }
    return record;
}

/* The stored files in the order of the chain again: some have gone, these have come. */
static void stored_settle(struct year *y, struct stored **come, size_t come_count)
{
    struct stored **old = y->stored;
    size_t old_count = y->stored_count, at = 0;
    y->stored = calloc(y->chain.count + 1, sizeof *y->stored);
    ensure(y->stored != NULL);
    y->stored_room = y->chain.count + 1;
    y->stored_count = 0;
    for (size_t i = 0; i < y->chain.count; i++) {
        const struct repl_log_piece *entry = &y->chain.entries[i];
        struct stored *found = NULL;
        for (size_t k = 0; k < come_count; k++) {
            if (come[k]->to_seq == entry->commit.to_seq && come[k]->part == entry->commit.part &&
                come[k]->merge == entry->merge)
                found = come[k];
        }
        while (found == NULL) {
            ensure(at < old_count);
            struct stored *s = old[at++];
            if (s->to_seq == entry->commit.to_seq && s->part == entry->commit.part &&
                s->merge == entry->merge)
                found = s;
            else
                stored_free(s);
        }
        y->stored[y->stored_count++] = found;
    }
    while (at < old_count)
        stored_free(old[at++]);
    free(old);
}

/* Entries [first, end) of the chain as one segment. */
static void increments_merge(struct year *y, const struct repl_merge *merge, size_t first,
                             size_t end)
{
    size_t count = end - first;
    const struct repl_segment **segments = calloc(count, sizeof *segments);
    struct repl_digest *links = calloc(count, sizeof *links);
    struct repl_log_record record = {.type = REPL_LOG_MERGE,
                                     .merge = {merge->after_seq, merge->to_seq, 1}};
    const struct repl_log_piece last = y->chain.entries[end - 1];
    ensure(segments != NULL && links != NULL);
    for (size_t i = first; i < end; i++) {
        segments[i - first] = y->stored[i]->segment;
        links[i - first] = y->chain.entries[i].link;
    }
    struct repl_merge_piece how = {.range = {.end = UINT64_MAX},
                                   .prev = segments[0]->header.prev,
                                   .last = true,
                                   .extents_max = UINT64_MAX,
                                   .raw_size_max = UINT64_MAX,
                                   .records_max = UINT64_MAX};
    struct stored *s = piece_make(y, segments, links, count, &how);
    log_put(y, &record);
    record = piece_record(y, s, &last, &how);
    log_put(y, &record);
    uint64_t size = s->span.size;
    stored_settle(y, &s, 1);
    repl_merge_plan_done(&y->plan, merge, size);
    free(segments);
    free(links);
}

/* Whether something behind the base speaks of the tile. */
static bool tile_is_touched(struct year *y, size_t first, size_t end, uint64_t begin)
{
    for (size_t i = first; i < end; i++) {
        struct repl_record_walk walk;
        struct repl_record record;
        bool done = false, found = false;
        repl_record_walk_begin(&walk, y->stored[i]->segment, y->coder);
        for (;;) {
            must(y, repl_record_walk_next(&walk, &record, &done, &y->err));
            if (done || found)
                break;
            found = record.type != REPL_RECORD_OBJECT &&
                    record.offset / (TILE_PAGES * PAGE) == begin / (TILE_PAGES * PAGE);
        }
        repl_record_walk_end(&walk);
        if (found)
            return true;
    }
    return false;
}

/* The base, and what follows it up to the merge's end: the tiles that change. */
static void base_merge(struct year *y, const struct repl_merge *merge, size_t end)
{
    struct stored *come[PAGES / TILE_PAGES];
    struct repl_log_record gone[PAGES / TILE_PAGES], pieces[PAGES / TILE_PAGES];
    size_t entries[PAGES / TILE_PAGES], base_count = 0, count = 0;
    uint64_t begins[PAGES / TILE_PAGES], size = 0;
    const struct repl_log_piece last = y->chain.entries[end - 1];
    const struct repl_segment **segments = calloc(end + 1, sizeof *segments);
    ensure(segments != NULL);
    while (y->chain.entries[base_count].commit.from_seq == 0)
        base_count++;
    bool received = y->chain.entries[0].merge == 0;
    for (size_t i = base_count; i < end; i++)
        segments[1 + i - base_count] = y->stored[i]->segment;
    for (size_t i = 0; i < PAGES / TILE_PAGES; i++) {
        uint64_t begin = received ? i * TILE_PAGES * PAGE : y->chain.entries[i].begin.offset;
        bool touched = received || tile_is_touched(y, base_count, end, begin);
        if (!touched && !(count == 0 && i + 1 == PAGES / TILE_PAGES))
            continue;
        begins[count] = begin;
        entries[count++] = received ? 0 : i;
    }
    for (size_t i = 0; i < count; i++) {
        struct repl_merge_piece how = {
            .range = {.begin = begins[i], .end = begins[i] + TILE_PAGES * PAGE},
            .part = (uint32_t)i,
            .last = i + 1 == count,
            .base = true,
            .extents_max = UINT64_MAX,
            .raw_size_max = UINT64_MAX,
            .records_max = UINT64_MAX};
        segments[0] = y->stored[entries[i]]->segment;
        come[i] = piece_make(y, segments, NULL, 1 + end - base_count, &how);
        pieces[i] = piece_record(y, come[i], &last, &how);
        const struct repl_log_piece *of = &y->chain.entries[entries[i]];
        gone[i] = (struct repl_log_record){.type = REPL_LOG_GONE,
                                           .gone = {of->commit.to_seq, of->commit.part, of->merge}};
    }
    size_t gone_count = received ? 1 : count;
    struct repl_log_record record = {.type = REPL_LOG_MERGE,
                                     .merge = {0, merge->to_seq, (uint32_t)(gone_count + count)}};
    log_put(y, &record);
    for (size_t i = 0; i < gone_count; i++)
        log_put(y, &gone[i]);
    for (size_t i = 0; i < count; i++)
        log_put(y, &pieces[i]);
    stored_settle(y, come, count);
    for (size_t i = 0; i < y->chain.count && y->chain.entries[i].commit.from_seq == 0; i++)
        size += y->stored[i]->span.size;
    repl_merge_plan_done(&y->plan, merge, size);
    free(segments);
}

static void due_merge(struct year *y)
{
    struct repl_merge merge;
    while (repl_merge_plan_next(&y->plan, y->now_ns, &merge)) {
        size_t first = 0, end = repl_chain_find_point(&y->chain, merge.to_seq) + 1;
        y->merges++;
        ensure(merge.needless == 0 && end > 0);
        if (merge.kind == REPL_MERGE_BASE) {
            base_merge(y, &merge, end);
            continue;
        }
        first = repl_chain_find_point(&y->chain, merge.after_seq) + 1;
        ensure(end - first == merge.segments);
        increments_merge(y, &merge, first, end);
    }
}

static void due_thin(struct year *y)
{
    uint64_t seq;
    while (repl_retention_schedule_take(&y->schedule, y->now_ns, &seq)) {
        if (seq == y->seq)
            continue;
        y->points[seq - 1].seq = 0;
        repl_merge_plan_drop(&y->plan, seq, y->now_ns);
    }
}

/* --- what has to be true at the end ---------------------------------------------------------- */

struct restore {
    const struct year *y;
    size_t oldest, newest;
};

static repl_result restore_segment(void *context, size_t i, const struct repl_segment **out,
                                   struct repl_error *err)
{
    const struct restore *r = context;
    (void)err;
    *out = i <= r->newest - r->oldest ? r->y->stored[r->newest - i]->segment : NULL;
    return REPL_SUCCESS;
}

static uint64_t image_hash(const uint8_t *image)
{
    uint64_t hash = 0;
    uint8_t page[PAGE];
    for (uint64_t i = 0; i < PAGES; i++) {
        uint64_t seq;
        memcpy(&seq, image + (i + 1) * PAGE - 8, 8);
        page_fill(page, i, seq);
        if (memcmp(page, image + i * PAGE, PAGE) != 0)
            return 0;
        hash += page_hash(i, seq);
    }
    return hash;
}

/* How many segments it opens. */
static size_t point_check(struct year *y, const struct kept *kept, uint8_t *image)
{
    struct repl_view *view;
    struct repl_view_reader *reader;
    size_t i = repl_chain_find_point(&y->chain, kept->seq);
    if (i == SIZE_MAX) {
        fprintf(stderr, "year: point %" PRIu64 " is kept, and not there\n", kept->seq);
        exit(1);
    }
    struct restore restore = {y, repl_chain_base_of(&y->chain, i), i};
    must(y, repl_view_open(restore_segment, NULL, &restore, &view, &y->err));
    must(y, repl_view_reader_new(view, 64, &reader, &y->err));
    must(y, repl_view_read(reader, 0, image, sizeof y->image, &y->err));
    repl_view_reader_free(reader);
    repl_view_free(view);
    if (image_hash(image) != kept->hash) {
        fprintf(stderr, "year: point %" PRIu64 " is not what was written\n", kept->seq);
        exit(1);
    }
    return i - restore.oldest + 1;
}

/* What a segment takes that has the pages of after which before has not. */
static uint64_t least_size(struct year *y, const uint8_t *before, const uint8_t *after,
                           uint64_t from, uint64_t to)
{
    struct memory_file file = {0};
    struct repl_segment_footer footer;
    uint64_t pages[TILE_PAGES], count = 0;
    struct repl_segment_builder *builder = segment_begin(y, from, to, &file);
    memcpy(y->image, after, sizeof y->image);
    for (uint64_t page = 0; page < PAGES; page++) {
        bool differs =
            before == NULL || memcmp(before + page * PAGE, after + page * PAGE, PAGE) != 0;
        if (differs)
            pages[count++] = page;
        if (count == TILE_PAGES || (page + 1 == PAGES && count > 0)) {
            pages_add(y, builder, pages, count);
            count = 0;
        }
    }
    struct repl_point point = point_of(y, 0);
    point.seq = to;
    must(y, repl_segment_builder_finish(builder, &point, 1, &footer, &y->err));
    repl_segment_builder_free(builder);
    repl_buffer_fini(&file.bytes);
    return footer.file_size;
}

struct outcome {
    uint64_t points, stored_bytes, least_bytes;
    size_t segments, opened_max;
};

static struct outcome year_check(struct year *y)
{
    struct outcome o = {.segments = y->chain.count};
    uint8_t *images = malloc(2 * sizeof y->image);
    uint8_t *before = NULL, *after = images;
    uint64_t from = 0;
    ensure(images != NULL);
    for (size_t i = 0; i < y->stored_count; i++)
        o.stored_bytes += y->stored[i]->span.size;
    for (uint64_t seq = 1; seq <= y->seq; seq++) {
        const struct kept *kept = &y->points[seq - 1];
        if (kept->seq == 0)
            continue;
        size_t opened = point_check(y, kept, after);
        o.opened_max = opened > o.opened_max ? opened : o.opened_max;
        o.least_bytes += least_size(y, before, after, from, seq);
        o.points++;
        from = seq;
        before = after;
        after = after == images ? images + sizeof y->image : images;
    }
    free(images);
    return o;
}

/* --- the year -------------------------------------------------------------------------------- */

static void year_begin(struct year *y, uint64_t points)
{
    struct repl_log_record create = {.type = REPL_LOG_CREATE};
    y->random = random_begin("year", 1);
    y->points = calloc(points, sizeof *y->points);
    ensure(y->points != NULL);
    repl_journal_init(&y->journal);
    repl_chain_init(&y->chain);
    repl_merge_plan_init(&y->plan, UINT64_MAX);
    repl_retention_schedule_init(&y->schedule, &y->policy);
    must(y, repl_frame_coder_new(&y->coder, &y->err));
    strcpy(create.create.name, "data");
    create.create.kind = REPL_VOLUME_BLOCK;
    log_put(y, &create);
}

static void year_end(struct year *y)
{
    for (size_t i = 0; i < y->stored_count; i++)
        stored_free(y->stored[i]);
    free(y->stored);
    free(y->points);
    repl_chain_fini(&y->chain);
    repl_merge_plan_fini(&y->plan);
    repl_retention_schedule_fini(&y->schedule);
    repl_frame_coder_free(y->coder);
}

static int usage(void)
{
    fprintf(stderr, "year [--days N] [--every SECONDS] [--policy TEXT]\n");
    return 2;
}

int main(int argc, char **argv)
{
    static struct year y;
    uint64_t days = 400, every_s = 900;
    const char *policy = "1s:1h 1m:1d 1h:30d 1d:1y";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--days") == 0)
            days = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--every") == 0)
            every_s = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--policy") == 0)
            policy = argv[i + 1];
        else
            return usage();
    }
    if (argc % 2 == 0 || days == 0 || every_s == 0)
        return usage();
    must(&y, repl_retention_parse(policy, &y.policy, &y.err));
    uint64_t points = days * 86400 / every_s;
    year_begin(&y, points);
    for (uint64_t i = 0; i < points; i++) {
        y.now_ns = (START_S + (int64_t)(i * every_s)) * SECOND;
        point_make(&y);
        due_thin(&y);
        due_merge(&y);
    }
    struct outcome o = year_check(&y);
    double ratio = (double)o.stored_bytes / (double)o.least_bytes;
    printf("%" PRIu64 " days, a point every %" PRIu64 " s: %" PRIu64 " points, %s\n", days, every_s,
           points, policy);
    printf("kept and restored: %" PRIu64 " points in %zu segments (%zu at most on the way)\n",
           o.points, o.segments, y.stored_max);
    printf("a restore opens %zu segments at most\n", o.opened_max);
    printf("stored: %" PRIu64 " bytes, %.3f times the least that holds them\n", o.stored_bytes,
           ratio);
    printf("%" PRIu64 " merges, which wrote %.2f times what came\n", y.merges,
           (double)y.made_bytes / (double)y.came_bytes);
    year_end(&y);
    if (ratio > OVERHEAD) {
        fprintf(stderr, "year: more than %.1f times the least is stored\n", OVERHEAD);
        return 1;
    }
    return 0;
}
