/*
 * The segments' records are merged into those of the tree at the point, which
 * come by object; the order of one segment's records (record_order.h) is theirs
 * too, and so are the bounds it is held to. Names lead anywhere: they are put
 * aside with the objects, sorted by where they lead, and held against them.
 */
#include "recover/verify_tree.h"

#include <stdio.h>
#include <stdlib.h>

#include "recover/tree_links.h"
#include "segment/tree_merge.h"

#define LINKS_HELD (1u << 19)

enum mark { MARK_NONE, MARK_PATH, MARK_DONE };

struct directory {
    uint64_t object, parent;
    enum mark mark;
};

struct tree_check {
    const atomic_bool *interrupted;
    struct repl_tree_links *links;
    struct repl_buffer directories; /* struct directory, by object */
    bool has_top;
    uint64_t problems;
    char first[160];
};

__attribute__((format(printf, 2, 3))) static void problem(struct tree_check *c, const char *format,
                                                          ...)
{
    va_list args;
    if (c->problems++ > 0)
        return;
    va_start(args, format);
    vsnprintf(c->first, sizeof c->first, format, args);
    va_end(args);
}

/* --- the records ----------------------------------------------------------------------------- */

/* Of the space, as of the point: an OBJECT record is the first. */
static repl_result space_read(const struct repl_segment *segment, struct repl_frame_coder *coder,
                              struct repl_record_order *order, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record = {.type = REPL_RECORD_OBJECT};
    bool done;
    repl_record_walk_begin(&walk, segment, coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    repl_record_walk_end(&walk);
    REPL_TRY(result);
    return repl_record_order_next(order, &record, err);
}

static repl_result record_take(struct tree_check *c, const struct repl_record *record,
                               uint64_t *known, uint64_t *unknown, struct repl_error *err)
{
    struct repl_tree_link link = {.object = record->object, .kind = record->node.kind};
    if (record->type == REPL_RECORD_NODE)
        *known = record->object;
    else if (record->object != *known && record->object != *unknown) {
        *unknown = record->object;
        problem(c, "object %llu has %s, and nothing says what it is",
                (unsigned long long)record->object,
                record->type == REPL_RECORD_NAME ? "names" : "contents");
    }
    if (record->type == REPL_RECORD_NAME)
        link = (struct repl_tree_link){.object = record->child, .parent = record->object};
    else if (record->type != REPL_RECORD_NODE)
        return REPL_SUCCESS;
    return repl_tree_links_add(c->links, &link, err);
}

static repl_result records_take(struct tree_check *c, struct repl_tree_merge *merge,
                                struct repl_record_order *order, struct repl_error *err)
{
    uint64_t known = 0, unknown = 0; /* objects of which there was a node, or none */
    for (;;) {
        struct repl_record record;
        bool done;
        if (c->interrupted != NULL && atomic_load(c->interrupted))
            return repl_fail(err, REPL_E_RETRY, "interrupted");
        REPL_TRY(repl_tree_merge_next(merge, &record, &done, err));
        if (done)
            return REPL_SUCCESS;
        REPL_TRY(repl_record_order_next(order, &record, err));
        REPL_TRY(record_take(c, &record, &known, &unknown, err));
    }
}

static repl_result segments_take(struct tree_check *c, const struct repl_segment *const *segments,
                                 size_t count, struct repl_frame_coder *coder,
                                 struct repl_error *err)
{
    struct repl_record_order order = {0};
    struct repl_tree_merge *merge;
    REPL_TRY(space_read(segments[count - 1], coder, &order, err));
    REPL_TRY(repl_tree_merge_new(&(struct repl_tree_merge_options){.segments = segments,
                                                                   .segment_count = count,
                                                                   .full = true},
                                 coder, &merge, err));
    repl_result result = records_take(c, merge, &order, err);
    repl_tree_merge_free(merge);
    return result;
}

/* --- objects and names ----------------------------------------------------------------------- */

/* An object with all that leads to it. */
struct object {
    uint64_t number;
    bool known;
    enum repl_node_kind kind;
    uint64_t names, parent;
};

static repl_result object_judge(struct tree_check *c, const struct object *o,
                                struct repl_error *err)
{
    struct directory directory = {.object = o->number, .parent = o->parent};
    unsigned long long number = o->number;
    if (!o->known) {
        problem(c, "a name in directory %llu leads to object %llu, which is not there",
                (unsigned long long)o->parent, number);
        return REPL_SUCCESS;
    }
    c->has_top |= o->number == REPL_OBJECT_ROOT;
    if (o->names == 0 && o->number != REPL_OBJECT_ROOT)
        problem(c, "object %llu has no name", number);
    if (o->kind != REPL_NODE_DIRECTORY)
        return REPL_SUCCESS;
    if (o->names > 1)
        problem(c, "directory %llu has %llu names", number, (unsigned long long)o->names);
    return repl_buffer_append(&c->directories, &directory, sizeof directory, err);
}

static repl_result links_judge(struct tree_check *c, struct repl_error *err)
{
    struct object object = {.number = 0};
    struct repl_tree_link link = {.object = 0};
    for (;;) {
        bool done;
        REPL_TRY(repl_tree_links_next(c->links, &link, &done, err));
        if (object.number != 0 && (done || link.object != object.number))
            REPL_TRY(object_judge(c, &object, err));
        if (done)
            break;
        if (link.object != object.number)
            object = (struct object){.number = link.object};
        if (link.parent == 0) {
            object.known = true;
            object.kind = link.kind;
        } else {
            object.names++;
            object.parent = link.parent;
        }
    }
    if (!c->has_top)
        problem(c, "there is no top directory");
    return REPL_SUCCESS;
}

/* --- directories ----------------------------------------------------------------------------- */

static int directory_order(const void *a, const void *b)
{
    const struct directory *x = a, *y = b;
    return x->object < y->object ? -1 : x->object > y->object;
}

/* NULL: there is none above it, or none that is a directory. */
static struct directory *parent_of(const struct tree_check *c, const struct directory *d)
{
    const struct directory key = {.object = d->parent};
    return bsearch(&key, c->directories.data, c->directories.size / sizeof key, sizeof key,
                   directory_order);
}

/* From each the way up, as far as nobody went before. One that leads back to itself never comes to
 * the top. */
static void ways_up_judge(struct tree_check *c)
{
    struct directory *all = (void *)c->directories.data, *d;
    size_t count = c->directories.size / sizeof *all;
    for (size_t i = 0; i < count; i++) {
        for (d = &all[i]; d != NULL && d->mark == MARK_NONE; d = parent_of(c, d))
            d->mark = MARK_PATH;
        if (d != NULL && d->mark == MARK_PATH)
            problem(c, "directory %llu is within itself", (unsigned long long)d->object);
        for (d = &all[i]; d != NULL && d->mark == MARK_PATH; d = parent_of(c, d))
            d->mark = MARK_DONE;
    }
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result tree_judge(struct tree_check *c, const struct repl_segment *const *segments,
                              size_t count, struct repl_error *err)
{
    struct repl_frame_coder *coder;
    REPL_TRY(repl_tree_links_new(LINKS_HELD, &c->links, err));
    REPL_TRY(repl_frame_coder_new(&coder, err));
    repl_result result = segments_take(c, segments, count, coder, err);
    repl_frame_coder_free(coder);
    REPL_TRY(result);
    REPL_TRY(links_judge(c, err));
    ways_up_judge(c);
    if (c->problems == 0)
        return REPL_SUCCESS;
    if (c->problems == 1)
        return repl_fail(err, REPL_E_CORRUPT, "%s", c->first);
    return repl_fail(err, REPL_E_CORRUPT, "%s, and %llu more things make no sense", c->first,
                     (unsigned long long)(c->problems - 1));
}

repl_result repl_verify_tree(const struct repl_segment *const *segments, size_t count,
                             const atomic_bool *interrupted, struct repl_error *err)
{
    struct tree_check check = {.interrupted = interrupted};
    repl_result result = tree_judge(&check, segments, count, err);
    repl_tree_links_free(check.links);
    repl_buffer_fini(&check.directories);
    return result;
}
