/*
 * A site that gives up points, and what each of them held: for the tests of the compactor.
 */
#ifndef TESTS_UNIT_COMPACTOR_WORLD_H
#define TESTS_UNIT_COMPACTOR_WORLD_H

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "recover/history.h"
#include "recover/verify_history.h"
#include "site/compactor/compactor_internal.h"
#include "site/site_internal.h"
#include "store/segment_name.h"
#include "unit/agent/site/site_fixture.h"

#define POINTS_MAX 200000u
#define LIMIT_NS   (INT64_C(90) * 1000000000)

/* By its own clock the source is half a day back and makes a point a second: which of them are
 * given up depends on no machine's speed. */
#define PERIOD           12 /* seconds, of which one point is kept */
#define PERIOD_RETENTION "12s:1d 1h:30d"

static struct world w;
static uint64_t points[POINTS_MAX]; /* XXH3 of what the volume held, by seq */

static inline void point_keep(void)
{
    uint64_t seq = w.head.to_seq;
    assert_true(seq < POINTS_MAX);
    points[seq] = repl_xxh3(w.model, w.size);
}

static inline void points_make(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        increment(&w);
        point_keep();
    }
}

static inline void begin_in(const char *retention, bool in_bucket)
{
    world_init(&w, NULL);
    w.retention = retention;
    if (in_bucket)
        world_in_bucket(&w);
    site_start(&w);
    seed(&w);
    point_keep();
}

static inline void begin(const char *retention)
{
    begin_in(retention, false);
}

static inline void begin_in_bucket(const char *retention)
{
    begin_in(retention, true);
}

static inline void periods_begin(void)
{
    w.time_ns = (repl_now_wall_ns() / SECOND_NS - 12 * 3600) / PERIOD * PERIOD * SECOND_NS;
}

static inline void end(void)
{
    world_fini(&w);
    memset(points, 0, sizeof points);
}

/* What the site does every few seconds begins by the test alone: a visit while points are still
 * coming may find nothing to merge yet, and the next one is in ten minutes. */
static inline void tick_stop(void)
{
    repl_timer_cancel(&w.site->tick);
}

/* The clock is right, and visits come one after the other. */
static inline void hurry(void)
{
    site_compactor_confirm_clock(w.site->compactor);
    w.site->compactor->visit_ns = 1;
    w.site->compactor->log_size_min = 20000;
}

static inline void finding(void *context, const char *text)
{
    (void)context;
    fail_msg("%s", text);
}

/* A site has died and not started again: the end of its log may be torn, and whoever reads says so.
 */
#define TORN_NOTE "the log ends in a torn record"
static bool torn_may_be;

/* Out of the store, without the site. */
static inline struct repl_history *history_of(const char *volume)
{
    struct repl_origin *origin;
    struct repl_history *history;
    struct repl_error err;
    const struct repl_s3_options s3 = world_s3(&w);
    const struct repl_store_options options = {.location = w.bucket != NULL ? BUCKET : w.store,
                                               .s3 = w.bucket != NULL ? &s3 : NULL};
    must(repl_origin_open_store(&options, volume, &origin, &err), &err);
    must(repl_history_open(origin, &history, &err), &err);
    return history;
}

static inline struct repl_history *history_open(void)
{
    return history_of("data");
}

/* The XXH3 of what a listed point holds. bytes: room for MODEL_MAX. */
static inline uint64_t point_restore(struct repl_history *history, size_t i, uint8_t *bytes)
{
    const struct repl_catalogue *c = repl_history_catalogue(history);
    struct repl_view *view;
    struct repl_view_reader *reader;
    struct repl_error err;
    must(repl_history_view(history, i, &view, &err), &err);
    must(repl_view_reader_new(view, 8, &reader, &err), &err);
    must(repl_view_read(reader, 0, bytes, c->points[i].volume_size, &err), &err);
    repl_view_reader_free(reader);
    repl_view_free(view);
    return repl_xxh3(bytes, c->points[i].volume_size);
}

/* Every point that is listed; how many. */
static inline size_t points_check(size_t *segments)
{
    struct repl_error err;
    struct repl_history *history = history_open();
    const struct repl_catalogue *c = repl_history_catalogue(history);
    if (!torn_may_be || strncmp(c->note, TORN_NOTE, strlen(TORN_NOTE)) != 0)
        assert_string_equal(c->note, "");
    size_t count = c->point_count;
    *segments = c->segment_count;
    uint8_t *bytes = malloc(MODEL_MAX);
    for (size_t i = 0; i < count; i++)
        assert_true(point_restore(history, i, bytes) == points[c->points[i].point.seq]);
    free(bytes);
    struct repl_verify_options verify = {.history = history, .finding = finding};
    struct repl_verify_result result;
    must(repl_verify_history(&verify, &result, &err), &err);
    assert_int_equal(result.damaged_count + result.broken_links + result.affected_count, 0);
    repl_verify_result_fini(&result);
    repl_history_close(history);
    return count;
}

static inline uint64_t log_size(void)
{
    struct stat status;
    char path[256];
    file_path(&w, path, "log");
    assert_int_equal(stat(path, &status), 0);
    return (uint64_t)status.st_size;
}

static inline size_t files_count(void)
{
    char path[256];
    size_t count = 0;
    file_path(&w, path, "segments");
    DIR *listing = opendir(path);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(listing);
    return count;
}

static inline void turns(unsigned ms)
{
    int64_t until_ns = repl_now_mono_ns() + (int64_t)ms * 1000000;
    while (repl_now_mono_ns() < until_ns)
        turn(&w);
}

/* Nothing of it is under way. */
static inline void compactor_rest(void)
{
    struct site_compactor *c = w.site->compactor;
    PUMP_UNTIL(&w, !site_compactor_is_busy(c) && c->waits == NULL);
}

/* Another visit begins, of a volume whose replica is not behind, and ends, and so do those that
 * follow it by themselves. Whether the last of them found anything to merge. */
static inline bool visit_whole(const char *volume)
{
    struct site_compactor *c = w.site->compactor;
    struct site_volume *v = site_find_volume(w.site, volume);
    PUMP_UNTIL(&w, volume_status(&w, volume).replica_seq == v->journal.point.seq);
    compactor_rest();
    uint64_t number = v->last_merge;
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    v->visit_again = true;
    while (v->last_merge == number) {
        assert_true(repl_now_mono_ns() < until_ns);
        site_compactor_tick(c);
        turn(&w);
    }
    compactor_rest();
    PUMP_UNTIL(&w, !v->busy); /* its log may be written anew */
    return c->visit.found;
}

/* --- a merge, step by step ------------------------------------------------------------------- */

static bool visits_stopped;

/* No visit begins by itself. */
static inline void visits_stop(void)
{
    if (!visits_stopped)
        PUMP_UNTIL(&w, !w.site->compactor->out && w.site->compactor->waits == NULL);
    w.site->compactor->out = visits_stopped = true;
}

static inline void visits_go_on(void)
{
    if (visits_stopped)
        w.site->compactor->out = false;
    visits_stopped = false;
}

/* A visit of the volume begins, and its merge has to wait until it is let go. */
static inline void merge_hold(const char *volume)
{
    struct site_compactor *c = w.site->compactor;
    struct site_volume *v = site_find_volume(w.site, volume);
    PUMP_UNTIL(&w, volume_status(&w, volume).replica_seq == v->journal.point.seq);
    PUMP_UNTIL(&w, c->waits == NULL &&
                       (visits_stopped || !c->out || strcmp(c->visit.volume, volume) == 0));
    visits_go_on();
    hurry();
    for (struct site_volume *other = w.site->volumes; other != NULL; other = other->next)
        other->visited_ns = other == v ? 0 : repl_now_mono_ns() + 3600 * SECOND_NS;
    if (!c->out)
        site_compactor_tick(c);
    assert_true(c->out && strcmp(c->visit.volume, volume) == 0);
    PUMP_UNTIL(&w, !v->busy);
    v->busy = true;
    while (c->out)
        turn(&w);
    assert_ptr_equal(c->waits, v);
    c->waits = NULL;
    c->out = true; /* no other visit begins */
    v->busy = false;
    site_volume_pump(v);
}

static inline void merge_begin(const char *volume)
{
    struct site_compactor *c = w.site->compactor;
    c->out = false;
    c->waits = site_find_volume(w.site, volume);
    site_volume_pump(c->waits);
}

static inline void merge_let_go(const char *volume)
{
    struct site_compactor *c = w.site->compactor;
    merge_begin(volume);
    for (bool begun = c->logging; !begun || c->logging; begun |= c->logging)
        turn(&w);
}

static inline size_t merge_once(const char *volume)
{
    merge_hold(volume);
    size_t dropped = w.site->compactor->visit.result.dropped_count;
    merge_let_go(volume);
    return dropped;
}

#endif
