#include "recover/tree_plan_fill.h"

#include <stdlib.h>

#include "recover/tree_list.h"

struct filling {
    struct repl_tree_plan *plan;
    const struct repl_segment **segments;
    size_t segment_count;
    struct repl_frame_coder *coder;
    uint64_t space_size;
};

/* The objects from begin to before end; 0, 0: all. */
static repl_result objects_load(const struct filling *f, uint64_t begin, uint64_t end,
                                struct repl_error *err)
{
    struct repl_tree_merge *merge = NULL;
    const struct repl_tree_merge_options options = {.segments = f->segments,
                                                    .segment_count = f->segment_count,
                                                    .full = true,
                                                    .object_begin = begin,
                                                    .object_end = end};
    REPL_TRY(repl_tree_merge_new(&options, f->coder, &merge, err));
    repl_result result = repl_tree_plan_load(f->plan, merge, f->space_size, err);
    repl_tree_merge_free(merge);
    return result;
}

static int object_order(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

/* In the order of their numbers, in which a plan takes them; a path may run in circles. */
static repl_result way_load(const struct filling *f, const uint64_t *way, size_t count,
                            struct repl_error *err)
{
    uint64_t *objects = calloc(count, sizeof *objects);
    if (objects == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a path");
    for (size_t i = 0; i < count; i++)
        objects[i] = way[i];
    qsort(objects, count, sizeof *objects, object_order);
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; i < count && repl_ok(result); i++) {
        if (i == 0 || objects[i] != objects[i - 1])
            result = objects_load(f, objects[i], objects[i] + 1, err);
    }
    free(objects);
    return result;
}

static repl_result path_load(const struct filling *f, struct repl_tree_list *list, const char *path,
                             struct repl_error *err)
{
    size_t count;
    REPL_TRY(repl_tree_list_read(list, path, REPL_TREE_LIST_ITSELF, err));
    const struct repl_tree_entry *at = repl_tree_list_entries(list, &count);
    if (at->node.kind == REPL_NODE_DIRECTORY)
        return objects_load(f, 0, 0, err);
    const uint64_t *way = repl_tree_list_way(list, &count);
    return way_load(f, way, count, err);
}

repl_result repl_tree_plan_fill(struct repl_history *history, size_t point,
                                const struct repl_view *view, const char *path,
                                struct repl_tree_plan *plan, struct repl_error *err)
{
    struct repl_tree_list *list = NULL;
    struct filling f = {.plan = plan, .space_size = repl_view_size(view)};
    REPL_TRY(repl_history_tree_segments(history, point, &f.segments, &f.segment_count, err));
    repl_result result = repl_frame_coder_new(&f.coder, err);
    if (repl_ok(result) && path[0] == '\0')
        result = objects_load(&f, 0, 0, err);
    else if (repl_ok(result)) {
        result = repl_tree_list_new(history, point, &list, err);
        if (repl_ok(result))
            result = path_load(&f, list, path, err);
    }
    repl_tree_list_free(list);
    repl_frame_coder_free(f.coder);
    free(f.segments);
    return result;
}
