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
    const struct kills_volume *v;
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
    struct kills_file *files;
    size_t count, newest, oldest;
};

static repl_result restore_segment(void *context, size_t i, const struct repl_segment **out,
                                   struct repl_error *err)
{
    const struct restore *r = context;
    (void)err;
    *out = i <= r->newest - r->oldest ? r->files[r->newest - i].segment : NULL;
    return REPL_SUCCESS;
}

/* The first of them that has it; those of chains come before supplies. NULL: none. */
static const struct kills_file *holder_of(const struct restore *r, const struct repl_digest *name,
                                          const struct repl_chunk_entry **where)
{
    for (size_t i = 0; i < r->count; i++) {
        if (kills_lists(r->files[i].segment, name, where))
            return &r->files[i];
    }
    return NULL;
}

static repl_result restore_chunk(void *context, const struct repl_digest *name,
                                 const struct repl_segment **segment, uint32_t *frame,
                                 uint32_t *frame_offset, struct repl_error *err)
{
    const struct repl_chunk_entry *where;
    const struct kills_file *holder = holder_of(context, name, &where);
    if (holder == NULL)
        return repl_fail(err, REPL_E_MISSING, "a chunk that is referred to is nowhere");
    *segment = holder->segment;
    *frame = where->frame;
    *frame_offset = where->frame_offset;
    return REPL_SUCCESS;
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
        memcpy(bytes + 8, &r->files[i].segment->footer.digest, sizeof(struct repl_digest));
        sum = repl_xxh3(bytes, sizeof bytes);
    }
    uint64_t *place = &seen[sum % RESTORED_MAX];
    bool found = *place == sum;
    *place = sum;
    return found;
}

static void bytes_check(struct restore *r, const struct kills_point *point, uint64_t seq)
{
    static uint8_t bytes[KILLS_SIZE];
    struct repl_view *view;
    struct repl_view_reader *reader;
    struct repl_error err;
    if (!repl_ok(repl_view_open(restore_segment, restore_chunk, r, &view, &err)) ||
        !repl_ok(repl_view_reader_new(view, 64, &reader, &err)) ||
        !repl_ok(repl_view_read(reader, 0, bytes, sizeof bytes, &err)))
        kills_fail(r->w, "point %llu: %s", (unsigned long long)seq, err.text);
    for (uint64_t page = 0; page < KILLS_PAGES; page++) {
        uint8_t wanted[REPL_PAGE_SIZE];
        kills_page_fill(point->tags[page], wanted);
        if (memcmp(wanted, bytes + page * REPL_PAGE_SIZE, sizeof wanted) != 0)
            kills_fail(r->w, "point %llu is not what was written at page %llu",
                       (unsigned long long)seq, (unsigned long long)page);
    }
    repl_view_reader_free(reader);
    repl_view_free(view);
}

static void objects_check(struct restore *r, const struct kills_point *point, uint64_t seq)
{
    struct kills_tree tree = {0};
    for (size_t i = r->oldest; i <= r->newest; i++)
        kills_tree_apply(&tree, r->files[i].segment, r->w->coder);
    for (size_t i = 0; i < KILLS_OBJECTS; i++) {
        struct kills_object wanted = point->tree.objects[i];
        wanted.ended = 0; /* no record says so */
        if (memcmp(&wanted, &tree.objects[i], sizeof wanted) != 0)
            kills_fail(r->w, "point %llu is not what object %zu was", (unsigned long long)seq,
                       i + REPL_OBJECT_ROOT);
    }
}

static void point_check(struct restore *r, const struct kills_source *source, size_t i)
{
    const struct repl_chain *chain = &source->v->chain;
    uint64_t seq = chain->entries[i].commit.to_seq;
    r->newest = i;
    r->oldest = repl_chain_base_of(chain, i);
    if (was_restored(r, seq))
        return;
    bytes_check(r, &source->points[seq], seq);
    if (source->v->kind == REPL_VOLUME_TREE)
        objects_check(r, &source->points[seq], seq);
}

/* Of all there ever were, those that retention keeps are there. */
static void kept_check(const struct kills_source *source)
{
    static struct repl_retention_point all[KILLS_POINTS_MAX];
    static bool keep[KILLS_POINTS_MAX];
    struct kills_world *w = source->v->w;
    uint64_t acked = source->acked;
    if (acked == 0)
        return;
    for (uint64_t seq = 1; seq <= acked; seq++)
        all[seq - 1] =
            (struct repl_retention_point){.seq = seq, .time_ns = source->points[seq].time_ns};
    all[acked - 1].protect = REPL_PROTECT_NEWEST;
    repl_retention_pass(&w->policy, all, acked, 0, w->now_ns, keep);
    for (uint64_t seq = 1; seq <= acked; seq++) {
        if (keep[seq - 1] && repl_chain_find_point(&source->v->chain, seq) == SIZE_MAX)
            kills_fail(w, "point %llu is to be kept, and is not there", (unsigned long long)seq);
    }
}

static void listed_note(const struct kills_volume *v, const char *name)
{
    size_t i = 0;
    while (i < listed_count && (listed[i].v != v || strcmp(listed[i].name, name) != 0))
        i++;
    ensure(i < LISTED_MAX);
    snprintf(listed[i].name, sizeof listed[i].name, "%s", name);
    listed[i].v = v;
    listed[i].until_ns = v->w->now_ns;
    listed_count = i < listed_count ? listed_count : i + 1;
}

/* Names that the volume refers to: also where no point would read them. Who reads one from a supply
 * has that listed. */
static void chunks_check(struct restore *r, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct repl_record_walk walk;
        struct repl_record record;
        const struct repl_chunk_entry *where;
        repl_record_walk_begin(&walk, r->files[i].segment, r->w->coder);
        for (bool done = false;;) {
            ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
            if (done)
                break;
            if (record.type != REPL_RECORD_CHUNK)
                continue;
            const struct kills_file *holder = holder_of(r, &record.chunk, &where);
            if (holder == NULL)
                kills_fail(r->w, "a chunk that is referred to is nowhere");
            if (holder->entry == NULL)
                listed_note(holder->v, holder->name);
        }
        repl_record_walk_end(&walk);
    }
}

/* Who opened a history reads what it listed for the time of a grace. */
static void grace_check(const struct kills_volume *v)
{
    for (size_t i = 0; i < v->chain.count; i++) {
        char name[SIM_NAME_SIZE];
        kills_entry_name(&v->chain.entries[i], name);
        listed_note(v, name);
    }
    for (size_t i = 0; i < listed_count; i++) {
        if (v->w->now_ns - listed[i].until_ns < KILLS_GRACE &&
            sim_disk_open(&listed[i].v->disk, listed[i].name) == NULL)
            kills_fail(v->w, "segment %s was listed %lld s ago and is gone", listed[i].name,
                       (long long)((v->w->now_ns - listed[i].until_ns) / SIM_SECOND));
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

void kills_check_history(const struct kills_source *source)
{
    struct kills_volume *v = source->v;
    struct restore r = {.w = v->w};
    r.files = kills_pool_open(v, &r.count);
    kept_check(source);
    for (size_t i = 0; i < v->chain.count; i++)
        segment_verify(v->w, r.files[i].segment);
    for (size_t i = v->chain.count; i < r.count; i++) {
        if (r.files[i].entry == NULL)
            segment_verify(v->w, r.files[i].segment);
    }
    for (size_t i = 0; i < v->chain.count; i++) {
        if (repl_chain_has_point(&v->chain, i))
            point_check(&r, source, i);
    }
    chunks_check(&r, v->chain.count);
    if (v->w->site != NULL)
        kills_index_check(v, r.files, r.count);
    grace_check(v);
    kills_pool_close(r.files, r.count);
}

static bool is_named(struct kills_volume *v, const char *name)
{
    unsigned long long to_seq;
    unsigned number;
    char entry[SIM_NAME_SIZE];
    if (strcmp(name, "log") == 0 || strncmp(name, "aside-", 6) == 0)
        return true;
    for (size_t e = 0; e < v->chain.count; e++) {
        kills_entry_name(&v->chain.entries[e], entry);
        if (strcmp(entry, name) == 0)
            return true;
    }
    return sscanf(name, "%llu.0.s%u", &to_seq, &number) == 2 && kills_supply_is_needed(v, name);
}

void kills_check_nothing_left(struct kills_volume *v)
{
    const struct sim_directory *names = &v->disk.cached;
    for (size_t i = 0; i < names->count; i++) {
        if (!is_named(v, names->names[i].text))
            kills_fail(v->w, "%s is left over", names->names[i].text);
    }
}
