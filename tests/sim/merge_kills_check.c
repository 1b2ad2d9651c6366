/*
 * What must hold of a site that merges, whenever it died.
 */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "merge_kills.h"
#include "repl/view.h"

#define LISTED_MAX   4096u
#define RESTORED_MAX 65521u
#define VERIFIED_MAX 4096u

/* Files that were listed, and when they were last. */
static struct {
    char name[SIM_NAME_SIZE];
    int64_t until_ns;
} listed[LISTED_MAX];
static size_t listed_count;

/* Segments that were verified since the last death. */
static struct repl_digest verified[VERIFIED_MAX];
static size_t verified_count;

void kills_page_fill(uint64_t tag, uint8_t *out)
{
    struct random random = {tag};
    memset(out, (int)(tag & 0xff), REPL_PAGE_SIZE);
    random_fill(&random, out, REPL_PAGE_SIZE / 8);
    memcpy(out, &tag, sizeof tag);
}

void kills_check_anew(void)
{
    verified_count = 0;
}

struct restore {
    struct kills_world *w;
    struct repl_segment **segments;
    size_t count, newest, oldest;
};

static repl_result restore_segment(void *context, size_t i, const struct repl_segment **out,
                                   struct repl_error *err)
{
    const struct restore *r = context;
    (void)err;
    *out = i <= r->newest - r->oldest ? r->segments[r->newest - i] : NULL;
    return REPL_SUCCESS;
}

static repl_result restore_chunk(void *context, const struct repl_digest *name,
                                 const struct repl_segment **segment, uint32_t *frame,
                                 uint32_t *frame_offset, struct repl_error *err)
{
    const struct restore *r = context;
    for (size_t i = 0; i < r->count; i++) {
        const struct repl_chunk_entry *where;
        if (!kills_lists(r->segments[i], name, &where))
            continue;
        *segment = r->segments[i];
        *frame = where->frame;
        *frame_offset = where->frame_offset;
        return REPL_SUCCESS;
    }
    return repl_fail(err, REPL_E_MISSING, "a chunk that is referred to is nowhere");
}

/* From the very segments that are there: those are what their digests say, so it would be the same
 * again. What was restored before a death need not be after it. */
static bool was_restored(const struct restore *r, uint64_t seq)
{
    static uint64_t seen[RESTORED_MAX];
    uint64_t sum = seq;
    for (size_t i = r->oldest; i <= r->newest; i++) {
        uint8_t bytes[8 + sizeof(struct repl_digest)];
        memcpy(bytes, &sum, 8);
        memcpy(bytes + 8, &r->segments[i]->footer.digest, sizeof(struct repl_digest));
        sum = repl_xxh3(bytes, sizeof bytes);
    }
    uint64_t *place = &seen[sum % RESTORED_MAX];
    bool found = *place == sum;
    *place = sum;
    return found;
}

static void point_check(struct restore *r, size_t i, const struct kills_point *points)
{
    static uint8_t bytes[KILLS_SIZE];
    struct kills_world *w = r->w;
    const struct repl_chain *chain = &w->site.chain;
    uint64_t seq = chain->entries[i].commit.to_seq;
    struct repl_view *view;
    struct repl_view_reader *reader;
    struct repl_error err;
    r->newest = i;
    r->oldest = repl_chain_base_of(chain, i);
    if (was_restored(r, seq))
        return;
    if (!repl_ok(repl_view_open(restore_segment, restore_chunk, r, &view, &err)) ||
        !repl_ok(repl_view_reader_new(view, 64, &reader, &err)) ||
        !repl_ok(repl_view_read(reader, 0, bytes, sizeof bytes, &err)))
        kills_fail(w, "point %llu: %s", (unsigned long long)seq, err.text);
    for (uint64_t page = 0; page < KILLS_PAGES; page++) {
        uint8_t wanted[REPL_PAGE_SIZE];
        kills_page_fill(points[seq].tags[page], wanted);
        if (memcmp(wanted, bytes + page * REPL_PAGE_SIZE, sizeof wanted) != 0)
            kills_fail(w, "point %llu is not what was written at page %llu",
                       (unsigned long long)seq, (unsigned long long)page);
    }
    repl_view_reader_free(reader);
    repl_view_free(view);
}

/* Of all there ever were, those that retention keeps are there. */
static void kept_check(struct kills_world *w, const struct kills_point *points, uint64_t acked)
{
    static struct repl_retention_point all[KILLS_POINTS_MAX];
    static bool keep[KILLS_POINTS_MAX];
    for (uint64_t seq = 1; seq <= acked; seq++)
        all[seq - 1] = (struct repl_retention_point){.seq = seq, .time_ns = points[seq].time_ns};
    all[acked - 1].protect = REPL_PROTECT_NEWEST;
    repl_retention_pass(&w->policy, all, acked, 0, w->now_ns, keep);
    for (uint64_t seq = 1; seq <= acked; seq++) {
        if (keep[seq - 1] && repl_chain_find_point(&w->site.chain, seq) == SIZE_MAX)
            kills_fail(w, "point %llu is to be kept, and is not there", (unsigned long long)seq);
    }
}

/* Names that anything refers to: also where no point would read them. */
static void chunks_check(struct restore *r)
{
    for (size_t i = 0; i < r->count; i++) {
        struct repl_record_walk walk;
        struct repl_record record;
        struct repl_error err;
        const struct repl_segment *segment;
        uint32_t frame, offset;
        repl_record_walk_begin(&walk, r->segments[i], r->w->coder);
        for (bool done = false;;) {
            ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
            if (done)
                break;
            if (record.type == REPL_RECORD_CHUNK &&
                !repl_ok(restore_chunk(r, &record.chunk, &segment, &frame, &offset, &err)))
                kills_fail(r->w, "%s", err.text);
        }
        repl_record_walk_end(&walk);
    }
}

static void listed_note(const struct kills_world *w, const char *name)
{
    size_t i = 0;
    while (i < listed_count && strcmp(listed[i].name, name) != 0)
        i++;
    ensure(i < LISTED_MAX);
    snprintf(listed[i].name, sizeof listed[i].name, "%s", name);
    listed[i].until_ns = w->now_ns;
    listed_count = i < listed_count ? listed_count : i + 1;
}

/* Who opened a history reads what it listed for the time of a grace. */
static void grace_check(struct kills_world *w)
{
    const struct repl_chain *chain = &w->site.chain;
    for (size_t i = 0; i < chain->count; i++) {
        char name[SIM_NAME_SIZE];
        kills_entry_name(&chain->entries[i], name);
        listed_note(w, name);
    }
    for (size_t i = 0; i < listed_count; i++) {
        if (w->now_ns - listed[i].until_ns < KILLS_GRACE &&
            sim_disk_open(&w->site.disk, listed[i].name) == NULL)
            kills_fail(w, "segment %s was listed %lld s ago and is gone", listed[i].name,
                       (long long)((w->now_ns - listed[i].until_ns) / SIM_SECOND));
    }
}

/* Once in a life: until the next death nothing changes it. */
static void segment_verify(struct kills_world *w, const struct repl_segment *segment)
{
    for (size_t i = 0; i < verified_count; i++) {
        if (repl_digest_equal(&verified[i], &segment->footer.digest))
            return;
    }
    kills_verify(w, segment);
    ensure(verified_count < VERIFIED_MAX);
    verified[verified_count++] = segment->footer.digest;
}

void kills_check_history(struct kills_world *w, const struct kills_point *points, uint64_t acked)
{
    const struct repl_chain *chain = &w->site.chain;
    struct restore r = {.w = w, .segments = kills_open_all(w), .count = chain->count};
    kept_check(w, points, acked);
    for (size_t i = 0; i < chain->count; i++)
        segment_verify(w, r.segments[i]);
    for (size_t i = 0; i < chain->count; i++) {
        if (repl_chain_has_point(chain, i))
            point_check(&r, i, points);
    }
    chunks_check(&r);
    grace_check(w);
    kills_close_all(r.segments, r.count);
}

void kills_check_nothing_left(struct kills_world *w)
{
    const struct sim_directory *names = &w->site.disk.cached;
    for (size_t i = 0; i < names->count; i++) {
        const char *name = names->names[i].text;
        bool named = strcmp(name, "log") == 0 || strncmp(name, "aside-", 6) == 0;
        for (size_t e = 0; e < w->site.chain.count && !named; e++) {
            char entry[SIM_NAME_SIZE];
            kills_entry_name(&w->site.chain.entries[e], entry);
            named = strcmp(entry, name) == 0;
        }
        if (!named)
            kills_fail(w, "%s is left over", name);
    }
}
