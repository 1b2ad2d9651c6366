/*
 * A point of from now on: whoever asks for one learns when the site has it.
 */
#include "pipeline_internal.h"

/* Points carry times of the wall clock, which is set now and then: no round that has been opened
 * already may seem to have been opened after this. */
int64_t repl_pipeline_since(const struct repl_pipeline *p, int64_t now_ns)
{
    const struct repl_epoch *epoch = &p->epoch;
    int64_t since_ns = now_ns;
    if (since_ns <= epoch->last_end_ns)
        since_ns = epoch->last_end_ns + 1;
    if (since_ns <= epoch->round_begin_ns)
        since_ns = epoch->round_begin_ns + 1;
    return since_ns;
}

bool repl_pipeline_has_since(const struct repl_pipeline *p, int64_t since_ns, int64_t now_ns,
                             uint64_t *unchanged_seq)
{
    struct repl_report report;
    *unchanged_seq = 0;
    if (p->site_point.seq != 0 && p->site_point.seq == p->ship.point_seq &&
        p->site_point.begin_ns >= since_ns)
        return true;
    repl_pipeline_report(p, now_ns, &report);
    if (report.seq != 0 && report.unchanged_until_ns >= since_ns)
        *unchanged_seq = report.seq;
    return *unchanged_seq != 0;
}

/* Not while rounds are in vain: they are tried again by themselves, as often as is of use. */
void repl_pipeline_want(struct repl_pipeline *p, int64_t now_ns)
{
    if (p->epoch.torn == 0 && p->epoch.pause_ns == 0)
        repl_pipeline_hurry(p, now_ns);
}

void repl_pipeline_send_again(struct repl_pipeline *p, uint64_t offset, uint64_t length)
{
    repl_pipeline_forget(p, offset, length);
    p->epoch.at_point = false; /* without a tracker nothing else would open a round */
}
