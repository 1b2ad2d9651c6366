#include "epoch.h"

#include <string.h>

#include "base/ensure.h"

/* A comparison that was in vain takes at most one part in so many, plus one, of the time. */
#define REST_FACTOR 3
/* A clock that was set forward during a comparison makes it look as long as that. */
#define PAUSE_MAX_NS (INT64_C(900) * 1000000000)

void repl_epoch_init(struct repl_epoch *epoch, int64_t interval_ns, uint64_t next_seq,
                     int64_t last_end_ns)
{
    *epoch = (struct repl_epoch){
        .interval_ns = interval_ns, .next_seq = next_seq, .last_end_ns = last_end_ns};
}

static bool counters_equal(const struct repl_write_counters *a, const struct repl_write_counters *b)
{
    return a->sectors_written == b->sectors_written && a->sectors_discarded == b->sectors_discarded;
}

/* A clock that was set back must not make a point older than the one before it. */
static int64_t not_before_last(const struct repl_epoch *epoch, int64_t now_ns)
{
    return now_ns > epoch->last_end_ns ? now_ns : epoch->last_end_ns;
}

static void wait_until(struct repl_epoch_action *action, int64_t until_ns)
{
    *action = (struct repl_epoch_action){.type = REPL_EPOCH_WAIT, .until_ns = until_ns};
}

static void rest(struct repl_epoch *epoch, int64_t due_ns)
{
    epoch->state = REPL_EPOCH_REST;
    epoch->due_ns = due_ns;
}

/* Tried again at once, a busy volume would be compared without pause, and a dying disk read so. */
static void rest_after_vain(struct repl_epoch *epoch, int64_t now_ns)
{
    int64_t took_ns = now_ns - epoch->round_begin_ns;
    epoch->pause_ns = took_ns <= 0                           ? 0
                      : took_ns < PAUSE_MAX_NS / REST_FACTOR ? REST_FACTOR * took_ns
                                                             : PAUSE_MAX_NS;
    rest(epoch, now_ns + epoch->interval_ns + epoch->pause_ns);
}

void repl_epoch_tick(struct repl_epoch *epoch, int64_t now_ns, struct repl_epoch_action *action)
{
    wait_until(action, INT64_MAX);
    if (epoch->state != REPL_EPOCH_REST)
        return;
    /* a wall clock set back far would otherwise leave the volume alone until it has caught up */
    if (epoch->due_ns > now_ns + epoch->interval_ns + epoch->pause_ns)
        epoch->due_ns = now_ns + epoch->interval_ns;
    action->until_ns = epoch->due_ns;
    if (now_ns < epoch->due_ns)
        return;
    epoch->state = REPL_EPOCH_SYNCING;
    action->type = REPL_EPOCH_SYNC;
}

void repl_epoch_synced(struct repl_epoch *epoch, int64_t now_ns,
                       const struct repl_write_counters *counters, struct repl_epoch_action *action)
{
    ensure(epoch->state == REPL_EPOCH_SYNCING);
    *action = (struct repl_epoch_action){.until_ns = now_ns};
    if (epoch->at_point && counters_equal(counters, &epoch->at_cut)) {
        rest(epoch, now_ns + epoch->interval_ns);
        action->type = REPL_EPOCH_UNCHANGED;
        return;
    }
    epoch->state = REPL_EPOCH_READING;
    epoch->round_begin = *counters;
    epoch->round_begin_ns = not_before_last(epoch, now_ns);
    if (epoch->first_torn_ns == 0)
        epoch->first_torn_ns = now_ns;
    action->type = REPL_EPOCH_ROUND;
}

void repl_epoch_round_done(struct repl_epoch *epoch, int64_t now_ns,
                           const struct repl_write_counters *counters, uint64_t changed_bytes,
                           struct repl_epoch_action *action)
{
    ensure(epoch->state == REPL_EPOCH_READING);
    epoch->attempts++;
    if (!counters_equal(counters, &epoch->round_begin)) {
        epoch->torn++;
        rest_after_vain(epoch, now_ns);
        wait_until(action, epoch->due_ns);
        return;
    }
    *action = (struct repl_epoch_action){.type = REPL_EPOCH_CUT};
    int64_t end_ns = not_before_last(epoch, now_ns);
    action->point = (struct repl_point){
        .seq = epoch->next_seq,
        .begin_ns = epoch->round_begin_ns < end_ns ? epoch->round_begin_ns : end_ns,
        .end_ns = end_ns,
        .consistency = REPL_CONSISTENCY_CRASH,
        .cut = REPL_CUT_QUIET,
        .flags = epoch->resync ? REPL_POINT_RESYNC : 0,
        .attempts = epoch->attempts,
        .changed_bytes = changed_bytes};
}

/* The present content is that of the last point, and the counters of the round's begin say so. */
static void point_reached(struct repl_epoch *epoch, int64_t now_ns)
{
    ensure(epoch->state == REPL_EPOCH_READING);
    epoch->at_point = true;
    epoch->at_cut = epoch->round_begin;
    epoch->attempts = epoch->torn = 0;
    epoch->first_torn_ns = epoch->pause_ns = 0;
    epoch->resync = false;
    epoch->last_end_ns = not_before_last(epoch, now_ns);
    rest(epoch, now_ns + epoch->interval_ns);
}

void repl_epoch_cut_done(struct repl_epoch *epoch, int64_t now_ns)
{
    epoch->next_seq++;
    point_reached(epoch, now_ns);
}

void repl_epoch_cut_empty(struct repl_epoch *epoch, int64_t now_ns)
{
    point_reached(epoch, now_ns);
}

void repl_epoch_round_failed(struct repl_epoch *epoch, int64_t now_ns)
{
    if (epoch->state == REPL_EPOCH_READING)
        rest_after_vain(epoch, now_ns);
    else
        rest(epoch, now_ns + epoch->interval_ns);
}

void repl_epoch_distrust(struct repl_epoch *epoch, int64_t now_ns)
{
    epoch->at_point = false;
    epoch->resync = true;
    if (epoch->state == REPL_EPOCH_REST)
        epoch->due_ns = now_ns;
}

int64_t repl_epoch_stuck_ns(const struct repl_epoch *epoch, int64_t now_ns)
{
    return epoch->torn > 0 && epoch->first_torn_ns != 0 && now_ns > epoch->first_torn_ns
               ? now_ns - epoch->first_torn_ns
               : 0;
}
