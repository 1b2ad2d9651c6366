#include "recover/damage.h"

#include <stdlib.h>

/* From segment i up to the next full. */
static struct repl_point_run run_of(const struct repl_catalogue *c, size_t i)
{
    struct repl_point_run run = {.first_seq = c->segments[i].head.to_seq, .last_seq = UINT64_MAX};
    for (size_t k = i + 1; k < c->segment_count; k++) {
        if (!c->segments[k].begins)
            continue;
        run.last_seq = c->segments[k].head.to_seq - 1;
        break;
    }
    return run;
}

static repl_result verified_look(struct repl_origin *origin, const struct repl_catalogue *c,
                                 struct repl_damaged *out, struct repl_error *err)
{
    struct repl_verified_list list = {0};
    REPL_TRY(origin->ops->verified(origin, &list, err));
    *out = (struct repl_damaged){.runs = calloc(c->segment_count + 1, sizeof *out->runs)};
    for (size_t i = 0; i < c->segment_count && out->runs != NULL; i++) {
        const struct repl_segments_entry *entry = &c->segments[i];
        const struct repl_verified key = {
            .to_seq = entry->head.to_seq, .part = entry->head.part, .merge = entry->merge};
        const struct repl_verified *found = repl_verified_list_find(&list, &key);
        if (found != NULL && found->damaged)
            out->runs[out->count++] = run_of(c, i);
    }
    repl_verified_list_fini(&list);
    return out->runs != NULL ? REPL_SUCCESS
                             : repl_fail(err, REPL_E_NOMEM, "out of memory for what is damaged");
}

repl_result repl_damage_find(struct repl_origin *origin, const struct repl_catalogue *catalogue,
                             struct repl_damaged *out, struct repl_error *err)
{
    struct repl_error ignored;
    *out = (struct repl_damaged){0};
    if (origin->ops->damaged != NULL && repl_ok(origin->ops->damaged(origin, out, &ignored))) {
        if (out->complete)
            return REPL_SUCCESS;
        repl_damaged_fini(out);
    }
    return verified_look(origin, catalogue, out, err);
}
