/*
 * A site that reads what it has in a bucket: damaged and missing objects are found, and a service
 * that does not answer, or does not let it read, is no damage.
 */
#include "unit/agent/site/scrub/scrub_world.h"

#define OBJECT "dc/site/volumes/data/segments/%020u.000000.seg"

static int set_up(void **state)
{
    (void)state;
    begin_in_bucket("everything");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    end();
    return 0;
}

static void expect_damage(const char *text)
{
    every(SOON_MS);
    round_make();
    assert_string_equal(volume_status(&w, "data").damaged, text);
}

static void damaged_objects_are_found(void **state)
{
    char key[128];
    size_t size;
    (void)state;
    points_make(5);
    site_restart(&w); /* what was published lately is read from memory of its own */
    expect_damage("");
    struct repl_verified_list list = verified_read();
    assert_int_equal(list.count, 6);
    repl_verified_list_fini(&list);
    snprintf(key, sizeof key, OBJECT, 3);
    char *bytes = fake_s3_get(w.bucket, key, &size);
    assert_non_null(bytes);
    bytes[size - 20] ^= 1; /* of the footer, which is nowhere else */
    fake_s3_put(w.bucket, key, bytes, size);
    expect_damage("segment 3.0 (points 3 to 6)");
    bytes[size - 20] ^= 1;
    fake_s3_put(w.bucket, key, bytes, size);
    expect_damage("");
    fake_s3_remove(w.bucket, key);
    expect_damage("segment 3.0 (points 3 to 6)");
    fake_s3_put(w.bucket, key, bytes, size);
    expect_damage("");
    free(bytes);
}

/* By a PUT over it: as long as that fails it is damaged, and said to be. */
static void damaged_objects_are_made_anew(void **state)
{
    char key[128];
    size_t size, now_size;
    (void)state;
    expect_replica(&w);
    site_restart(&w); /* what was published lately is read from memory of its own */
    snprintf(key, sizeof key, OBJECT, 1);
    char *bytes = fake_s3_get(w.bucket, key, &size);
    assert_non_null(bytes);
    bytes[size / 2] ^= 1;
    fake_s3_put(w.bucket, key, bytes, size);
    bytes[size / 2] ^= 1;
    fake_s3_fault(w.bucket, &(struct fake_s3_fault){.kind = FAKE_S3_STATUS,
                                                    .key = "/segments/",
                                                    .method = "PUT",
                                                    .count = 1000,
                                                    .status = 403,
                                                    .code = "AccessDenied"});
    expect_damage("segment 1.0 (points 1 to 1)");
    fake_s3_release(w.bucket);
    expect_damage("");
    assert_int_equal(volume_status(&w, "data").repaired_segments, 1);
    char *now = fake_s3_get(w.bucket, key, &now_size);
    assert_int_equal(now_size, size);
    assert_memory_equal(now, bytes, size);
    site_restart(&w);
    expect_damage("");
    free(now);
    free(bytes);
}

/* By a PUT of other bytes over it, where another zstd has made it. */
static void a_damaged_supply_is_made_anew(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    const char *key = "dc/site/volumes/data/segments/00000000000000000002.000000.001.sup";
    struct build build, supply;
    size_t size, now_size;
    (void)state;
    text_fill(chunk, sizeof chunk);
    supply_begin(&supply, &w, 2);
    supply_end(&supply, foreign_frame(&supply, chunk, sizeof chunk), chunk, 1);
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    build_begin(&build, &w, 1, 2, 0);
    build_chunk(&build, 2 * MIB, REPL_CHUNK_SIZE, chunk, 0);
    build_end(&build, true);
    build_commit(&build);
    expect_replica(&w);
    site_restart(&w);
    char *bytes = fake_s3_get(w.bucket, key, &size);
    assert_non_null(bytes);
    bytes[200] ^= 1;
    fake_s3_put(w.bucket, key, bytes, size);
    expect_damage("");
    assert_int_equal(volume_status(&w, "data").repaired_segments, 1);
    char *now = fake_s3_get(w.bucket, key, &now_size);
    assert_true(now_size != size);
    every(SOON_MS);
    round_make(); /* it is read again, and whole */
    assert_int_equal(volume_status(&w, "data").repaired_segments, 1);
    free(now);
    free(bytes);
}

static void a_service_that_refuses_is_no_damage(void **state)
{
    (void)state;
    points_make(3);
    site_restart(&w);
    fake_s3_fault(w.bucket, &(struct fake_s3_fault){.kind = FAKE_S3_STATUS,
                                                    .key = "/segments/",
                                                    .method = "GET",
                                                    .count = 1000,
                                                    .status = 403,
                                                    .code = "AccessDenied"});
    expect_damage("");
    assert_string_not_equal(w.site->volumes->scrub.problem, "");
    fake_s3_release(w.bucket);
    expect_damage("");
    assert_string_equal(w.site->volumes->scrub.problem, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(damaged_objects_are_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_objects_are_made_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_damaged_supply_is_made_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_service_that_refuses_is_no_damage, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
