#include "segment/tree_merge.h"

#include <stdlib.h>

#include "base/extent_map.h"

/* A segment's manifest, at the record that is to be looked at next. */
struct source {
    struct repl_record_walk walk;
    struct repl_record record;
    bool done;
    /* of the object that is being merged: */
    bool node_known;
    uint64_t size; /* the end of its last page */
};

enum phase { PHASE_OBJECT, PHASE_XATTRS, PHASE_NAMES, PHASE_RUNS };

struct repl_tree_merge {
    struct source *sources; /* oldest first */
    size_t count;
    bool full;
    uint64_t object_begin, object_end; /* UINT64_MAX: to the end */
    enum phase phase;
    uint64_t object;
    size_t node_source;    /* XATTRS: whose node it is */
    struct source *winner; /* NAMES: whose name was given out last; NULL: none */
    /* RUNS: source is the place minus the offset, which is the same all along a run */
    struct repl_extent_map runs;
    struct repl_extent_cursor cursor;
};

/* --- sources --------------------------------------------------------------------------------- */

static repl_result source_advance(const struct repl_tree_merge *t, struct source *s,
                                  struct repl_error *err)
{
    const struct repl_segment_header *header = &s->walk.segment->header;
    REPL_TRY(repl_forward(repl_record_walk_next(&s->walk, &s->record, &s->done, err), err,
                          "segment %llu.%u", (unsigned long long)header->to_seq, header->part));
    s->done |= s->record.object >= t->object_end;
    return REPL_SUCCESS;
}

/* To the first record of the objects that are wanted. */
static repl_result source_begin(const struct repl_tree_merge *t, struct source *s,
                                struct repl_error *err)
{
    REPL_TRY(source_advance(t, s, err));
    repl_record_walk_seek(&s->walk, t->object_begin, 0);
    while (!s->done && s->record.object < t->object_begin)
        REPL_TRY(source_advance(t, s, err));
    return REPL_SUCCESS;
}

static bool source_is_at(const struct source *s, uint64_t object)
{
    return !s->done && s->record.object == object;
}

static bool source_has(const struct source *s, uint64_t object, enum repl_record_type type)
{
    return source_is_at(s, object) && s->record.type == type;
}

repl_result repl_tree_merge_new(const struct repl_tree_merge_options *options,
                                struct repl_frame_coder *coder, struct repl_tree_merge **out,
                                struct repl_error *err)
{
    struct repl_tree_merge *t = calloc(1, sizeof *t);
    if (t != NULL)
        t->sources = calloc(options->segment_count, sizeof *t->sources);
    if (t == NULL || t->sources == NULL) {
        free(t);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the records of %zu segments",
                         options->segment_count);
    }
    t->full = options->full;
    t->object_begin =
        options->object_begin > REPL_OBJECT_ROOT ? options->object_begin : REPL_OBJECT_ROOT;
    t->object_end = options->object_end != 0 ? options->object_end : UINT64_MAX;
    repl_extent_map_init(&t->runs);
    repl_result result = REPL_SUCCESS;
    for (; t->count < options->segment_count && repl_ok(result); t->count++) {
        struct source *s = &t->sources[t->count];
        repl_record_walk_begin(&s->walk, options->segments[t->count], coder);
        result = source_begin(t, s, err);
    }
    if (!repl_ok(result)) {
        repl_tree_merge_free(t);
        return result;
    }
    *out = t;
    return REPL_SUCCESS;
}

void repl_tree_merge_free(struct repl_tree_merge *t)
{
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->count; i++)
        repl_record_walk_end(&t->sources[i].walk);
    repl_extent_map_fini(&t->runs);
    free(t->sources);
    free(t);
}

/* --- an object ------------------------------------------------------------------------------- */

static uint64_t object_first(const struct repl_tree_merge *t)
{
    uint64_t first = 0;
    for (size_t i = 0; i < t->count; i++) {
        const struct source *s = &t->sources[i];
        if (!s->done && (first == 0 || s->record.object < first))
            first = s->record.object;
    }
    return first;
}

/* It ends where it is said to be gone: neither is there more of it later, nor was it given again.
 * A source that has begun anew may only say once more that it is gone. */
static repl_result gone_check(const struct repl_tree_merge *t, bool *gone, struct repl_error *err)
{
    *gone = false;
    for (size_t i = 0; i < t->count; i++) {
        const struct source *s = &t->sources[i];
        bool gone_here =
            source_has(s, t->object, REPL_RECORD_NODE) && s->record.node.kind == REPL_NODE_GONE;
        if (*gone && !gone_here && source_is_at(s, t->object))
            return repl_fail(err, REPL_E_CORRUPT,
                             "segment %llu.%u goes on with object %llu, which was gone before",
                             (unsigned long long)s->walk.segment->header.to_seq,
                             s->walk.segment->header.part, (unsigned long long)t->object);
        *gone |= gone_here;
    }
    return REPL_SUCCESS;
}

static repl_result object_skip(struct repl_tree_merge *t, struct repl_error *err)
{
    for (size_t i = 0; i < t->count; i++) {
        while (source_is_at(&t->sources[i], t->object))
            REPL_TRY(source_advance(t, &t->sources[i], err));
    }
    return REPL_SUCCESS;
}

/* Of the nodes the newest is left standing where it is; *found: there is one. */
static repl_result nodes_skip(struct repl_tree_merge *t, bool *found, struct repl_error *err)
{
    *found = false;
    for (size_t i = t->count; i-- > 0;) {
        struct source *s = &t->sources[i];
        s->node_known = source_has(s, t->object, REPL_RECORD_NODE);
        if (!s->node_known)
            continue;
        s->size = repl_page_count_of(s->record.node.size) * REPL_PAGE_SIZE;
        if (!*found) {
            *found = true;
            t->node_source = i;
            continue;
        }
        do {
            REPL_TRY(source_advance(t, s, err));
        } while (source_has(s, t->object, REPL_RECORD_XATTR));
    }
    return REPL_SUCCESS;
}

/* *given: the record is the object's node. */
static repl_result object_begin(struct repl_tree_merge *t, struct repl_record *record, bool *given,
                                struct repl_error *err)
{
    bool gone, found;
    *given = false;
    REPL_TRY(gone_check(t, &gone, err));
    if (gone) {
        REPL_TRY(object_skip(t, err));
        *given = !t->full;
        *record = (struct repl_record){.type = REPL_RECORD_NODE, .object = t->object};
        return REPL_SUCCESS;
    }
    REPL_TRY(nodes_skip(t, &found, err));
    if (found)
        *record = t->sources[t->node_source].record;
    *given = found;
    t->phase = found ? PHASE_XATTRS : PHASE_NAMES;
    t->winner = NULL;
    return REPL_SUCCESS;
}

/* --- names ----------------------------------------------------------------------------------- */

static int names_compare(const struct repl_record *a, const struct repl_record *b)
{
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return repl_name_compare(a->name, a->name_size, b->name, b->name_size);
}

/* Behind the name that was given out, wherever it is: its own source last, whose memory it is in.
 */
static repl_result names_pass(struct repl_tree_merge *t, struct repl_error *err)
{
    struct source *winner = t->winner;
    t->winner = NULL;
    for (size_t i = 0; i < t->count; i++) {
        struct source *s = &t->sources[i];
        if (s != winner && source_has(s, t->object, REPL_RECORD_NAME) &&
            names_compare(&s->record, &winner->record) == 0)
            REPL_TRY(source_advance(t, s, err));
    }
    return source_advance(t, winner, err);
}

/* The least name; of several that are the same, the newest. NULL: there is none left. */
static struct source *names_least(struct repl_tree_merge *t)
{
    struct source *least = NULL;
    for (size_t i = 0; i < t->count; i++) {
        struct source *s = &t->sources[i];
        if (source_has(s, t->object, REPL_RECORD_NAME) &&
            (least == NULL || names_compare(&s->record, &least->record) <= 0))
            least = s;
    }
    return least;
}

static repl_result name_next(struct repl_tree_merge *t, struct repl_record *record, bool *given,
                             struct repl_error *err)
{
    *given = false;
    while (!*given) {
        if (t->winner != NULL)
            REPL_TRY(names_pass(t, err));
        t->winner = names_least(t);
        if (t->winner == NULL)
            return REPL_SUCCESS;
        *record = t->winner->record;
        *given = record->child != 0 || !t->full;
    }
    return REPL_SUCCESS;
}

/* --- runs ------------------------------------------------------------------------------------ */

static repl_result run_add(struct repl_tree_merge *t, enum repl_record_type type, uint64_t offset,
                           uint64_t end, uint64_t source, struct repl_error *err)
{
    const struct repl_extent extent = {
        .offset = offset, .length = end - offset, .source = source, .type = type};
    return offset < end ? repl_extent_map_fill(&t->runs, &extent, err) : REPL_SUCCESS;
}

/* From the newest to the oldest. Behind *limit the file was not, at some later time; what it had
 * there before is gone, and where nothing later speaks of it there is a hole. */
static repl_result source_runs_add(struct repl_tree_merge *t, struct source *s, uint64_t *limit,
                                   struct repl_error *err)
{
    if (s->node_known && s->size < *limit) {
        if (*limit != UINT64_MAX)
            REPL_TRY(run_add(t, REPL_RECORD_HOLE, s->size, *limit, 0, err));
        *limit = s->size;
    }
    while (source_is_at(s, t->object)) {
        const struct repl_record *r = &s->record;
        uint64_t end = r->offset + r->length < *limit ? r->offset + r->length : *limit;
        if (r->type == REPL_RECORD_RUN)
            REPL_TRY(run_add(t, r->type, r->offset, end, r->place - r->offset, err));
        else if (r->type == REPL_RECORD_HOLE)
            REPL_TRY(run_add(t, r->type, r->offset, end, 0, err));
        else
            return repl_fail(err, REPL_E_CORRUPT,
                             "object %llu is a directory in one segment and a file in another",
                             (unsigned long long)t->object);
        REPL_TRY(source_advance(t, s, err));
    }
    return REPL_SUCCESS;
}

static repl_result runs_gather(struct repl_tree_merge *t, struct repl_error *err)
{
    uint64_t limit = UINT64_MAX;
    repl_extent_map_fini(&t->runs);
    repl_extent_map_init(&t->runs);
    for (size_t i = t->count; i-- > 0;)
        REPL_TRY(source_runs_add(t, &t->sources[i], &limit, err));
    t->cursor = repl_extent_map_seek(&t->runs, 0);
    return REPL_SUCCESS;
}

/* Neighbours that go on where the one before ends are one. False: there are no more. */
static bool run_next(struct repl_tree_merge *t, struct repl_record *record)
{
    const struct repl_extent *e;
    do {
        e = repl_extent_cursor_next(&t->cursor);
    } while (e != NULL && t->full && e->type == REPL_RECORD_HOLE);
    if (e == NULL)
        return false;
    *record = (struct repl_record){.type = e->type,
                                   .object = t->object,
                                   .offset = e->offset,
                                   .length = e->length,
                                   .place = e->type == REPL_RECORD_RUN ? e->offset + e->source : 0};
    for (;;) {
        struct repl_extent_cursor ahead = t->cursor;
        const struct repl_extent *next = repl_extent_cursor_next(&ahead);
        if (next == NULL || next->type != e->type || next->source != e->source ||
            next->offset != record->offset + record->length)
            return true;
        record->length += next->length;
        t->cursor = ahead;
    }
}

/* --- all of it ------------------------------------------------------------------------------- */

/* One step; *given: it has made a record. */
static repl_result step(struct repl_tree_merge *t, struct repl_record *record, bool *given,
                        bool *done, struct repl_error *err)
{
    struct source *s;
    *given = false;
    switch (t->phase) {
    case PHASE_OBJECT:
        t->object = object_first(t);
        *done = t->object == 0;
        return *done ? REPL_SUCCESS : object_begin(t, record, given, err);
    case PHASE_XATTRS:
        s = &t->sources[t->node_source];
        REPL_TRY(source_advance(t, s, err));
        *given = source_has(s, t->object, REPL_RECORD_XATTR);
        if (*given)
            *record = s->record;
        else
            t->phase = PHASE_NAMES;
        return REPL_SUCCESS;
    case PHASE_NAMES:
        REPL_TRY(name_next(t, record, given, err));
        if (*given)
            return REPL_SUCCESS;
        t->phase = PHASE_RUNS;
        return runs_gather(t, err);
    case PHASE_RUNS:
        *given = run_next(t, record);
        if (!*given)
            t->phase = PHASE_OBJECT;
        return REPL_SUCCESS;
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_merge_next(void *context, struct repl_record *record, bool *done,
                                 struct repl_error *err)
{
    bool given = false;
    *done = false;
    while (!given && !*done)
        REPL_TRY(step(context, record, &given, done, err));
    return REPL_SUCCESS;
}
