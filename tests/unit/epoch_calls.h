/*
 * Calls of an epoch that the tests of it share.
 */
#ifndef TESTS_UNIT_EPOCH_CALLS_H
#define TESTS_UNIT_EPOCH_CALLS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "epoch.h"

#define MS       INT64_C(1000000)
#define SECOND   (1000 * MS)
#define START    (1000 * SECOND)
#define INTERVAL SECOND

static const struct repl_write_counters quiet = {.sectors_written = 40};
static const struct repl_write_counters written = {.sectors_written = 48};

static inline struct repl_epoch epoch_new(void)
{
    struct repl_epoch epoch;
    repl_epoch_init(&epoch, INTERVAL, REPL_QUIESCE_WINDOW, 1, 0);
    return epoch;
}

static inline struct repl_epoch epoch_tracked(enum repl_quiesce quiesce)
{
    struct repl_epoch epoch;
    repl_epoch_init(&epoch, INTERVAL, quiesce, 1, 0);
    epoch.tracked = true;
    return epoch;
}

/* From rest to where a round may be opened. */
static inline void interval_begin(struct repl_epoch *epoch, int64_t now_ns)
{
    int64_t until_ns;
    assert_true(repl_epoch_tick(epoch, now_ns, &until_ns));
    assert_true(until_ns <= now_ns);
    repl_epoch_synced(epoch);
}

static inline void round_begin(struct repl_epoch *epoch, int64_t now_ns,
                               const struct repl_write_counters *counters)
{
    interval_begin(epoch, now_ns);
    assert_false(repl_epoch_is_unchanged(epoch, counters, 1));
    repl_epoch_opened(epoch, now_ns, counters, 1);
}

static inline int64_t rests_until(struct repl_epoch *epoch, int64_t now_ns)
{
    int64_t until_ns;
    assert_false(repl_epoch_tick(epoch, now_ns, &until_ns));
    return until_ns;
}

static inline struct repl_point point_of(const struct repl_epoch *epoch)
{
    struct repl_point point;
    repl_epoch_point(epoch, 4096, &point);
    return point;
}

static inline void point_cut(struct repl_epoch *epoch, int64_t now_ns)
{
    round_begin(epoch, now_ns, &quiet);
    assert_int_equal(repl_epoch_closed(epoch, now_ns, &quiet, true, NULL), REPL_EPOCH_WHOLE);
    repl_epoch_cut_done(epoch, now_ns);
}

static const struct repl_write_counters back = {
    .sectors_written = 40, .flushes = 7, .fua_writes = 3, .marks = 90, .write_back = true};

static inline enum repl_epoch_verdict closed_with(const struct repl_write_counters *begin,
                                                  const struct repl_write_counters *end)
{
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    round_begin(&epoch, START, begin);
    enum repl_epoch_verdict verdict = repl_epoch_closed(&epoch, START + 1, end, true, NULL);
    assert_true(verdict == REPL_EPOCH_WHOLE || verdict == REPL_EPOCH_AGAIN);
    return verdict;
}

/* Opens and closes, a barrier in between. */
static inline enum repl_epoch_verdict torn(struct repl_epoch *epoch, int64_t now_ns, uint64_t pages,
                                           bool small)
{
    struct repl_write_counters end = back;
    end.flushes++;
    end.marks++;
    repl_epoch_opened(epoch, now_ns, &back, pages);
    return repl_epoch_closed(epoch, now_ns + MS, &end, small, NULL);
}

static inline enum repl_epoch_verdict whole(struct repl_epoch *epoch, int64_t now_ns,
                                            uint64_t pages, bool small)
{
    repl_epoch_opened(epoch, now_ns, &back, pages);
    return repl_epoch_closed(epoch, now_ns + MS, &back, small, NULL);
}

#endif
