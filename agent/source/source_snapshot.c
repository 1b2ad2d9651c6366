/*
 * A tree's rounds that are read from a snapshot (source/tree/tree_snapshot.h).
 * It takes the place of a freeze: QUIESCE makes it, RESUME removes it, as soon as
 * nothing is read from it any more.
 *
 *   NONE -> MAKING -> THERE -> ENDING (something still reads) -> REMOVING -> NONE
 *
 * There is none where it could not be made: then the pipeline says why, and tries
 * for a window.
 */
#include <syslog.h>

#include "control/control.h"
#include "source/source_volume_internal.h"

static void over(struct repl_source_volume *v)
{
    v->snapshot = SNAPSHOT_NONE;
    v->holding = false;
    if (!volume_is_up(v))
        volume_close_if_drained(v);
}

/* --- removing it ----------------------------------------------------------------------------- */

static void remove_work(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->snapshot_result = repl_tree_snapshot_drop(v->tree, &v->snapshot_err);
}

/* One that stays is in nobody's way, and is tried to be removed again ahead of the next. */
static void removed(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    if (!repl_ok(v->snapshot_result))
        repl_log(LOG_WARNING, "volume %s: %s", volume_name(v), v->snapshot_err.text);
    over(v);
    if (!volume_is_up(v))
        return;
    repl_pipeline_resumed(&v->pipeline, true, repl_now_wall_ns());
    volume_pump(v);
}

void volume_snapshot_follow(struct repl_source_volume *v)
{
    if (v->snapshot != SNAPSHOT_ENDING || v->tree_out || v->tree_reads_out > 0)
        return;
    repl_tree_snapshot_release(v->tree);
    v->snapshot = SNAPSHOT_REMOVING;
    v->snapshot_job = (struct repl_job){.work = remove_work, .done = removed, .context = v};
    repl_loop_work(v->options.loop, &v->snapshot_job);
}

void volume_snapshot_end(struct repl_source_volume *v)
{
    if (v->snapshot != SNAPSHOT_THERE)
        return;
    v->snapshot = SNAPSHOT_ENDING;
    volume_snapshot_follow(v);
}

/* --- making it ------------------------------------------------------------------------------- */

static void make_work(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->snapshot_result = repl_tree_snapshot_take(v->tree, &v->snapshot_begin_ns,
                                                 &v->snapshot_end_ns, &v->snapshot_err);
}

static void made(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    bool there = repl_ok(v->snapshot_result);
    v->tree_comparing = false;
    v->snapshot = SNAPSHOT_THERE;
    if (!there)
        over(v);
    else if (!volume_is_up(v))
        volume_snapshot_end(v);
    if (!volume_is_up(v))
        return;
    repl_pipeline_quiesced(&v->pipeline, v->snapshot_result, &v->snapshot_err, repl_now_wall_ns());
    volume_pump(v);
}

void volume_snapshot_begin(struct repl_source_volume *v)
{
    v->holding = v->tree_comparing = true;
    v->snapshot = SNAPSHOT_MAKING;
    v->snapshot_job = (struct repl_job){.work = make_work, .done = made, .context = v};
    repl_loop_work(v->options.loop, &v->snapshot_job);
}
