#include "recover/tree_plan_fill.h"

#include <stdlib.h>

#include "base/ensure.h"

/* The segments that the point is made of, from the full on; the caller frees them. */
static repl_result segments_open(struct repl_history *history, size_t point,
                                 const struct repl_segment ***out, size_t *count,
                                 struct repl_error *err)
{
    const struct repl_catalogue *c = repl_history_catalogue(history);
    size_t last = repl_history_segment_of(history, c->points[point].point.seq);
    ensure(last != SIZE_MAX); /* a view has been made of it */
    size_t first = repl_history_base_of(history, last);
    *count = last - first + 1;
    const struct repl_segment **segments = calloc(*count, sizeof *segments);
    if (segments == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", *count);
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; i < *count && repl_ok(result); i++)
        result = repl_history_segment(history, first + i, &segments[i], err);
    if (repl_ok(result) && segments[*count - 1]->header.volume_kind != REPL_VOLUME_TREE)
        result = repl_fail(err, REPL_E_REFUSED, "the volume is a block device, and no tree");
    if (!repl_ok(result)) {
        free(segments);
        return result;
    }
    *out = segments;
    return REPL_SUCCESS;
}

repl_result repl_tree_plan_fill(struct repl_history *history, size_t point,
                                const struct repl_view *view, struct repl_tree_plan *plan,
                                struct repl_error *err)
{
    const struct repl_segment **segments = NULL;
    size_t count = 0;
    struct repl_frame_coder *coder = NULL;
    struct repl_tree_merge *merge = NULL;
    REPL_TRY(segments_open(history, point, &segments, &count, err));
    repl_result result = repl_frame_coder_new(&coder, err);
    if (repl_ok(result))
        result = repl_tree_merge_new(&(struct repl_tree_merge_options){.segments = segments,
                                                                       .segment_count = count,
                                                                       .full = true},
                                     coder, &merge, err);
    if (repl_ok(result))
        result = repl_tree_plan_load(plan, merge, repl_view_size(view), err);
    repl_tree_merge_free(merge);
    repl_frame_coder_free(coder);
    free(segments);
    return result;
}
