/*
 * A site that gives up points while more of them come: what is kept restores as it was, what is
 * merged is less than what came, files go when their grace is over, a restart at any moment changes
 * nothing, and a clock in doubt gives up nothing.
 */
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

#define POINTS_MAX 4000u
#define LIMIT_NS   (INT64_C(90) * 1000000000)

static struct world w;
static uint64_t points[POINTS_MAX]; /* XXH3 of what the volume held, by seq */

static void point_keep(void)
{
    uint64_t seq = w.head.to_seq;
    assert_true(seq < POINTS_MAX);
    points[seq] = repl_xxh3(w.model, w.size);
}

static void points_make(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        increment(&w);
        point_keep();
    }
}

/* The clock is right, and visits come one after the other. */
static void hurry(void)
{
    site_compactor_confirm_clock(w.site->compactor);
    w.site->compactor->visit_ns = 1;
    w.site->compactor->log_size_min = 20000;
}

static void begin(const char *retention)
{
    world_init(&w, NULL);
    w.retention = retention;
    site_restart(&w);
    seed(&w);
    point_keep();
}

static void end(void)
{
    site_stop(&w);
    world_fini(&w);
    memset(points, 0, sizeof points);
}

static void finding(void *context, const char *text)
{
    (void)context;
    fail_msg("%s", text);
}

/* Every point that is listed; how many. */
static size_t points_check(size_t *segments)
{
    struct repl_origin *origin;
    struct repl_history *history;
    struct repl_error err;
    const struct repl_store_options options = {.location = w.store};
    must(repl_origin_open_store(&options, "data", &origin, &err), &err);
    must(repl_history_open(origin, &history, &err), &err);
    const struct repl_catalogue *c = repl_history_catalogue(history);
    assert_string_equal(c->note, "");
    size_t count = c->point_count;
    *segments = c->segment_count;
    uint8_t *bytes = malloc(MODEL_MAX);
    for (size_t i = 0; i < count; i++) {
        struct repl_view *view;
        struct repl_view_reader *reader;
        must(repl_history_view(history, i, &view, &err), &err);
        must(repl_view_reader_new(view, 8, &reader, &err), &err);
        must(repl_view_read(reader, 0, bytes, c->points[i].volume_size, &err), &err);
        assert_true(repl_xxh3(bytes, c->points[i].volume_size) == points[c->points[i].point.seq]);
        repl_view_reader_free(reader);
        repl_view_free(view);
    }
    free(bytes);
    struct repl_verify_options verify = {.history = history, .finding = finding};
    struct repl_verify_result result;
    must(repl_verify_history(&verify, &result, &err), &err);
    assert_int_equal(result.damaged_count + result.broken_links + result.affected_count, 0);
    repl_verify_result_fini(&result);
    repl_history_close(history);
    return count;
}

static uint64_t log_size(void)
{
    struct stat status;
    char path[256];
    file_path(&w, path, "log");
    assert_int_equal(stat(path, &status), 0);
    return (uint64_t)status.st_size;
}

static size_t files_count(void)
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

static void turns(unsigned ms)
{
    int64_t until_ns = repl_now_mono_ns() + (int64_t)ms * 1000000;
    while (repl_now_mono_ns() < until_ns)
        turn(&w);
}

/* More points, and a turn of the compactor. */
static void go_on(void)
{
    points_make(3);
    site_compactor_tick(w.site->compactor);
    turns(40);
}

static void points_are_given_up(void **state)
{
    size_t segments, left = SIZE_MAX;
    (void)state;
    begin("2s:1h 1h:1d");
    points_make(60);
    assert_int_equal(points_check(&segments), 61);
    hurry();
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    while (left > w.head.to_seq / 2 || log_size() > w.head.to_seq * 100) {
        go_on();
        if (w.head.to_seq % 10 == 0)
            left = points_check(&segments);
        assert_true(repl_now_mono_ns() < until_ns);
    }
    left = points_check(&segments);
    print_message("%llu points came, %zu are left in %zu segments\n",
                  (unsigned long long)w.head.to_seq, left, segments);
    site_restart(&w);
    assert_int_equal(points_check(&segments), left);
    points_make(2);
    points_check(&segments);
    end();
}

static void a_clock_in_doubt_gives_up_nothing(void **state)
{
    size_t segments;
    (void)state;
    begin("1s:1h");
    points_make(40);
    for (unsigned i = 0; i < 10; i++) {
        site_compactor_tick(w.site->compactor);
        turns(20);
    }
    assert_int_equal(points_check(&segments), 41);
    assert_string_not_equal(site_compactor_doubt(w.site->compactor), "");
    site_compactor_confirm_clock(w.site->compactor);
    assert_string_equal(site_compactor_doubt(w.site->compactor), "");
    end();
}

/* While it merges the process ends, again and again, and begins anew. */
static void restarts_in_the_middle(void **state)
{
    size_t segments, left = 0;
    (void)state;
    begin("2s:1h 1h:1d");
    points_make(40);
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    for (unsigned i = 0; i < 12 || left > w.head.to_seq / 2; i++) {
        hurry();
        points_make(6);
        site_compactor_tick(w.site->compactor);
        turns(i % 12 * 3);
        site_restart(&w);
        left = points_check(&segments);
        assert_true(repl_now_mono_ns() < until_ns);
    }
    assert_true(files_count() >= segments); /* their grace is not over */
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(points_are_given_up),
        cmocka_unit_test(a_clock_in_doubt_gives_up_nothing),
        cmocka_unit_test(restarts_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
