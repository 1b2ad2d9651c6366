/*
 * The sources of a site that merges: what their points write, the segments of
 * these, and supplies of chunks that the site was found to lack. What one of a
 * pool has sent once, all of them send by its name.
 */
#include "merge_kills.h"

#include <stdlib.h>
#include <string.h>

#include "unit/segment/segment_fixture.h"
#include "unit/segment/tree_list.h"

#define PATTERNS   8u /* contents that whole chunks have, again and again, */
#define AT_ONCE    3u /* of a pool's volumes so many of them for a while */
#define WHILE      10u
#define FULL_EVERY 45u
#define TRIES      8u /* chunks may go while others come */

static bool sent[PATTERNS]; /* once, by whichever of them */

void kills_source_init(struct kills_source *source, struct kills_volume *v)
{
    *source = (struct kills_source){.v = v,
                                    .points = sim_alloc(KILLS_POINTS_MAX * sizeof *source->points)};
}

void kills_source_fini(struct kills_source *source)
{
    free(source->points);
    repl_buffer_fini(&source->records);
    repl_buffer_fini(&source->bytes);
}

static bool is_full(const struct kills_source *s)
{
    return s->seq % FULL_EVERY == 1;
}

/* --- what a point writes --------------------------------------------------------------------- */

static uint64_t tag_of(uint64_t pattern, uint64_t page)
{
    return ((pattern + 1) << 32) + page;
}

/* A tag for each page, 0: not written. */
static void pages_choose(struct kills_source *s, struct random *random)
{
    s->chunk = UINT64_MAX;
    for (uint64_t i = 0; i < KILLS_PAGES; i++)
        s->tags[i] = is_full(s) ? 1 + random_below(random, 1000) : 0;
    for (uint64_t i = 0; i < 2; i++)
        s->tags[random_below(random, KILLS_PAGES)] = 1000 + s->seq * 10 + i;
    if (is_full(s) || random_below(random, 2) != 0)
        return;
    if (s->v->w->volume_count == 1) {
        s->pattern = random_below(random, PATTERNS);
    } else {
        s->pattern = (s->seq / WHILE + random_below(random, AT_ONCE)) % PATTERNS;
        s->guess = random_below(random, 4) == 0;
    }
    s->chunk = random_below(random, KILLS_SIZE / REPL_CHUNK_SIZE);
    for (uint64_t i = 0; i < REPL_CHUNK_PAGES; i++)
        s->tags[s->chunk * REPL_CHUNK_PAGES + i] = tag_of(s->pattern, i);
}

/* --- its segment ----------------------------------------------------------------------------- */

static void extent_add(struct repl_segment_builder *builder, uint64_t page, uint64_t pages,
                       uint64_t source, enum repl_record_type type)
{
    struct repl_extent extent = {.offset = page * REPL_PAGE_SIZE,
                                 .length = pages * REPL_PAGE_SIZE,
                                 .source = source,
                                 .type = type};
    ensure(repl_ok(repl_segment_builder_extent(builder, &extent, NULL)));
}

static void chunk_raw(const struct kills_source *s, uint8_t raw[REPL_CHUNK_SIZE])
{
    for (uint64_t i = 0; i < REPL_CHUNK_PAGES; i++)
        kills_page_fill(s->tags[s->chunk * REPL_CHUNK_PAGES + i], raw + i * REPL_PAGE_SIZE);
}

size_t kills_source_chunks(const struct repl_digest **out)
{
    static struct repl_digest names[PATTERNS];
    static bool made;
    uint8_t raw[REPL_CHUNK_SIZE];
    for (uint64_t pattern = 0; pattern < PATTERNS && !made; pattern++) {
        for (uint64_t i = 0; i < REPL_CHUNK_PAGES; i++)
            kills_page_fill(tag_of(pattern, i), raw + i * REPL_PAGE_SIZE);
        names[pattern] = chunk_name_of(raw);
    }
    made = true;
    *out = names;
    return PATTERNS;
}

/* Once sent, or by a wrong guess, a chunk goes by its name: the site knows it, or says that it does
 * not. */
static void chunk_add(struct kills_source *s, struct repl_segment_builder *builder)
{
    uint8_t raw[REPL_CHUNK_SIZE];
    uint64_t source;
    chunk_raw(s, raw);
    struct repl_chunk_entry entry = {.name = chunk_name_of(raw)};
    if (sent[s->pattern] || s->guess) {
        ensure(repl_ok(repl_segment_builder_reference(builder, &entry.name, &source, NULL)));
        extent_add(builder, s->chunk * REPL_CHUNK_PAGES, REPL_CHUNK_PAGES, source,
                   REPL_RECORD_CHUNK);
        return;
    }
    sent[s->pattern] = true;
    entry.frame = add_frame(builder, s->v->w->coder, raw, sizeof raw);
    ensure(repl_ok(repl_segment_builder_chunk(builder, &entry, NULL)));
    extent_add(builder, s->chunk * REPL_CHUNK_PAGES, REPL_CHUNK_PAGES, entry.frame,
               REPL_RECORD_DATA);
}

/* The written pages of so many from first on, each stretch of them in a frame. */
static void pages_add(struct kills_source *s, struct repl_segment_builder *builder, uint64_t first)
{
    uint8_t raw[REPL_CHUNK_SIZE];
    uint64_t count = 0;
    for (uint64_t i = 0; i <= REPL_CHUNK_PAGES; i++) {
        if (i < REPL_CHUNK_PAGES && s->tags[first + i] != 0) {
            kills_page_fill(s->tags[first + i], raw + count++ * REPL_PAGE_SIZE);
            continue;
        }
        if (count > 0)
            extent_add(builder, first + i - count, count,
                       add_frame(builder, s->v->w->coder, raw, count * REPL_PAGE_SIZE),
                       REPL_RECORD_DATA);
        count = 0;
    }
}

static struct repl_segment_header header_of(const struct kills_source *s,
                                            enum repl_segment_kind kind)
{
    return (struct repl_segment_header){.version = REPL_SEGMENT_VERSION,
                                        .kind = kind,
                                        .volume_kind = s->v->kind,
                                        .features =
                                            s->v->kind == REPL_VOLUME_TREE ? REPL_FEATURE_TREE : 0,
                                        .from_seq = is_full(s) ? 0 : s->seq - 1,
                                        .to_seq = s->seq,
                                        .lineage = 1,
                                        .prev = s->head};
}

static void segment_make(struct kills_source *s)
{
    struct memory_file file = {.bytes = s->bytes};
    struct list list = {.bytes = s->records};
    struct repl_segment_header header = header_of(s, REPL_SEGMENT_CHANGES);
    struct repl_segment_builder *builder;
    struct repl_segment_footer footer;
    file.bytes.size = 0;
    ensure(
        repl_ok(repl_segment_builder_new(&header, KILLS_SIZE, memory_sink, &file, &builder, NULL)));
    for (uint64_t i = 0; i < KILLS_SIZE / REPL_CHUNK_SIZE; i++) {
        if (i == s->chunk)
            chunk_add(s, builder);
        else
            pages_add(s, builder, i * REPL_CHUNK_PAGES);
    }
    if (s->v->kind == REPL_VOLUME_TREE)
        repl_segment_builder_records(builder, list_next, &list);
    struct repl_point point = {.seq = s->seq,
                               .begin_ns = s->points[s->seq].time_ns,
                               .end_ns = s->points[s->seq].time_ns,
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_WINDOW,
                               .attempts = 1};
    ensure(repl_ok(repl_segment_builder_finish(builder, &point, 1, &footer, NULL)));
    repl_segment_builder_free(builder);
    s->bytes = file.bytes;
    s->digest = footer.digest;
}

static void supply_make(struct kills_source *s, struct repl_buffer *out)
{
    static uint8_t raw[REPL_CHUNK_SIZE];
    struct memory_file file = {.sink_limit = 0};
    struct repl_segment_header header = header_of(s, REPL_SEGMENT_SUPPLY);
    struct repl_segment_builder *builder;
    struct repl_segment_footer footer;
    chunk_raw(s, raw);
    struct repl_chunk_entry entry = {.name = chunk_name_of(raw)};
    ensure(repl_ok(repl_segment_builder_new(&header, 0, memory_sink, &file, &builder, NULL)));
    entry.frame = add_frame(builder, s->v->w->coder, raw, sizeof raw);
    ensure(repl_ok(repl_segment_builder_chunk(builder, &entry, NULL)));
    ensure(repl_ok(repl_segment_builder_finish(builder, NULL, 0, &footer, NULL)));
    repl_segment_builder_free(builder);
    *out = file.bytes;
}

/* --- a point --------------------------------------------------------------------------------- */

void kills_source_greet(struct kills_source *s)
{
    const struct repl_journal *journal = &s->v->journal;
    if (journal->head.to_seq < s->acked)
        kills_fail(s->v->w, "point %llu was acknowledged, and the site is at %llu",
                   (unsigned long long)s->acked, (unsigned long long)journal->head.to_seq);
    s->seq = s->acked =
        journal->head.to_seq; /* one that was on its way is made anew, or was taken */
    s->head = journal->head.digest;
    s->pending = s->sending = false;
}

void kills_point_begin(struct kills_source *s, struct random *random)
{
    struct kills_world *w = s->v->w;
    ensure(s->seq + 1 < KILLS_POINTS_MAX && !s->pending);
    s->pending = true;
    s->seq++;
    w->now_ns += SIM_SECOND / (int64_t)w->volume_count;
    pages_choose(s, random);
    struct kills_point *point = &s->points[s->seq];
    *point = s->points[s->seq - 1];
    point->time_ns = w->now_ns;
    for (size_t i = 0; i < KILLS_PAGES; i++)
        point->tags[i] = s->tags[i] != 0 ? s->tags[i] : point->tags[i];
    s->records.size = 0;
    if (s->v->kind == REPL_VOLUME_TREE)
        kills_tree_change(&point->tree, random, &s->records);
    if (s->v->kind == REPL_VOLUME_TREE && is_full(s)) {
        s->records.size = 0;
        kills_tree_say(&point->tree, &s->records);
    }
    segment_make(s);
}

void kills_point_send(struct kills_source *s, struct random *random, void (*pause)(void))
{
    bool kept = false;
    enum kills_verdict verdict;
    s->sending = true;
    for (unsigned tries = 0; (verdict = kills_commit(s->v, &s->bytes)) != KILLS_COMMITTED;
         tries++) {
        struct repl_buffer supply;
        ensure(tries < TRIES);
        if (verdict == KILLS_STALE) { /* to be sent again later */
            s->sending = false;
            return;
        }
        if (kept)
            kills_fail(s->v->w, "a supply of point %llu is gone before its segment came",
                       (unsigned long long)s->seq);
        s->v->w->missing++;
        supply_make(s, &supply);
        kept = kills_supply(s->v, s->seq, &supply);
        repl_buffer_fini(&supply);
        if (random_below(random, 4) == 0)
            pause();
    }
    s->head = s->digest;
    s->acked = s->seq;
    s->pending = s->sending = false;
}
