/*
 * A site whose store is a bucket and that gives up points, of a service in this process of which
 * any request may fail: what is listed restores as it was, its log is written anew, and what is no
 * part of the history goes.
 */
#include "unit/agent/site/compactor/compactor_world.h"

#define LIVES 3

static int set_up(void **state)
{
    (void)state;
    begin_in_bucket(PERIOD_RETENTION);
    periods_begin();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    end();
    return 0;
}

/* Of those that a compactor makes, and of any. */
static void fault_at_random(void)
{
    static const enum fake_s3_fault_kind kinds[] = {FAKE_S3_STATUS, FAKE_S3_CUT_UPLOAD,
                                                    FAKE_S3_CUT_ANSWER, FAKE_S3_CUT_DONE};
    static const char *const keys[] = {".mrg", ".begin", "/segments/", "/log/", ".mrg"};
    fake_s3_fault(w.bucket, &(struct fake_s3_fault){.kind = kinds[random_below(&w.random, 4)],
                                                    .key = keys[random_below(&w.random, 5)],
                                                    .skip = (unsigned)random_below(&w.random, 6),
                                                    .count = 1,
                                                    .status = 503,
                                                    .code = "SlowDown"});
}

/* One that is not tried again, where only the compactor notices. */
static void refusal_at_random(void)
{
    static const char *const keys[] = {".mrg", ".begin"};
    fake_s3_fault(w.bucket, &(struct fake_s3_fault){.kind = FAKE_S3_STATUS,
                                                    .key = keys[random_below(&w.random, 2)],
                                                    .method = "PUT",
                                                    .count = 1,
                                                    .status = 403,
                                                    .code = "AccessDenied"});
}

static void rounds_run(unsigned count, bool faults)
{
    for (unsigned i = 0; i < count; i++) {
        if (faults && random_below(&w.random, 2) == 0)
            fault_at_random();
        if (faults && random_below(&w.random, 4) == 0)
            refusal_at_random();
        points_make(3);
        site_compactor_tick(w.site->compactor);
        turns(30);
    }
    fake_s3_release(w.bucket);
}

static void points_are_given_up(void **state)
{
    size_t segments, left;
    (void)state;
    points_make(40);
    hurry();
    for (unsigned i = 0; i < LIVES; i++) {
        rounds_run(15, true);
        points_check(&segments);
        if (i % 2 == 0) {
            site_restart(&w);
            hurry();
        }
    }
    /* Whatever was refused is tried again by a site that has just been started. */
    site_restart(&w);
    hurry();
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    while (fake_s3_requests(w.bucket, "DELETE", "/log/") == 0 || w.site->volumes->log_begin == 0) {
        assert_true(repl_now_mono_ns() < until_ns);
        rounds_run(1, false);
    }
    left = points_check(&segments);
    print_message("%llu points came, %zu are left in %zu segments\n",
                  (unsigned long long)w.head.to_seq, left, segments);
    assert_true(left <= w.head.to_seq / 2);
    assert_true(fake_s3_requests(w.bucket, "PUT", ".mrg") > 0);
    site_restart(&w);
    assert_int_equal(points_check(&segments), left);
    points_make(2);
    points_check(&segments);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(points_are_given_up, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
