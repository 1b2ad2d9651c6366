/*
 * A site whose store is a bucket and that gives up points, of a service in this process of which
 * any request may fail: what is listed restores as it was, its log is written anew, and what is no
 * part of the history goes.
 */
#include "fake/fake_s3.h"
#include "unit/agent/site/compactor/compactor_world.h"

static struct fake_s3 *fake;

static int set_up(void **state)
{
    (void)state;
    setenv("AWS_ACCESS_KEY_ID", FAKE_S3_KEY_ID, 1);
    setenv("AWS_SECRET_ACCESS_KEY", FAKE_S3_SECRET, 1);
    fake = fake_s3_start();
    if (fake == NULL)
        return -1;
    begin_in_bucket("20s:1h 1h:1d", "s3://bucket/dc/site", fake_s3_endpoint(fake));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fake_s3_release(fake);
    end();
    fake_s3_stop(fake);
    return 0;
}

/* Of those that a compactor makes, and of any. */
static void fault_at_random(void)
{
    static const enum fake_s3_fault_kind kinds[] = {FAKE_S3_STATUS, FAKE_S3_CUT_UPLOAD,
                                                    FAKE_S3_CUT_ANSWER, FAKE_S3_CUT_DONE};
    static const char *const keys[] = {".mrg", ".begin", "/segments/", "/log/", ".mrg"};
    fake_s3_fault(fake, &(struct fake_s3_fault){.kind = kinds[random_below(&w.random, 4)],
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
    fake_s3_fault(fake, &(struct fake_s3_fault){.kind = FAKE_S3_STATUS,
                                                .key = keys[random_below(&w.random, 2)],
                                                .method = "PUT",
                                                .count = 1,
                                                .status = 403,
                                                .code = "AccessDenied"});
}

static void points_are_given_up(void **state)
{
    size_t segments, left = 0;
    unsigned rounds = 0, restarts = 0;
    (void)state;
    points_make(40);
    hurry();
    int64_t until_ns = repl_now_mono_ns() + 2 * LIMIT_NS;
    for (; rounds < 30 || left > w.head.to_seq / 2 ||
           fake_s3_requests(fake, "DELETE", "/log/") == 0 || w.site->volumes->log_begin == 0;
         rounds++) {
        if (random_below(&w.random, 2) == 0)
            fault_at_random();
        if (random_below(&w.random, 4) == 0)
            refusal_at_random();
        points_make(3);
        site_compactor_tick(w.site->compactor);
        turns(30);
        if (rounds % 15 != 0)
            continue;
        fake_s3_release(fake);
        if (rounds % 30 == 0) {
            site_restart(&w);
            hurry();
            restarts++;
        }
        left = points_check(&segments);
        assert_true(repl_now_mono_ns() < until_ns);
    }
    fake_s3_release(fake);
    left = points_check(&segments);
    print_message("%llu points came, %zu are left in %zu segments; %u restarts\n",
                  (unsigned long long)w.head.to_seq, left, segments, restarts);
    assert_true(fake_s3_requests(fake, "PUT", ".mrg") > 0);
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
