/*
 * The store in a bucket, on a service in this process. What the service promises
 * (durability, that readers see what was written) is its part; what is asked of it,
 * in which order, and what becomes of it when that fails is looked at here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/agent/store/store_contract.h"
#include "unit/agent/store/store_s3_fixture.h"

/* --- opening --------------------------------------------------------------------------------- */

static void a_store_is_made_and_opened_again(void **state)
{
    struct fixture *f = *state;
    struct repl_store *other = NULL;
    char path[PATH_SIZE];
    size_t size;
    char *text = fake_s3_get(f->fake, "site/one/repl-store", &size);
    assert_string_equal(text, "repl store, version 1\n");
    free(text);
    assert_true(fake_s3_exists(f->fake, "site/one/writer"));
    assert_string_equal(f->c.store->ops->name, "s3");
    assert_code(&f->c,
                f->c.store->ops->volume_directory(f->c.store, "data", path, sizeof path, &f->c.err),
                REPL_OK);
    assert_int_equal(access(path, F_OK), 0);
    /* the same machine, while it is open */
    assert_code(&f->c, open_at(f, f->local, true, &other), REPL_E_LOCKED);
    assert_says(f, "in use by process");
    close_store(&f->c);
    assert_false(fake_s3_exists(f->fake, "site/one/writer")); /* it is anybody's */
    reopen(&f->c);
    assert_code(&f->c, open_at(f, NULL, false, &other), REPL_OK);
    assert_code(&f->c, other->ops->volume_directory(other, "data", path, sizeof path, &f->c.err),
                REPL_E_MISSING);
    other->ops->close(other);
}

static void what_is_no_store_is_left_alone(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text;
        enum repl_code code;
    } cases[] = {{"repl store, version 2\n", REPL_E_VERSION},
                 {"repl store, version 1\nx", REPL_E_CORRUPT},
                 {"", REPL_E_CORRUPT},
                 {"something else altogether", REPL_E_CORRUPT}};
    close_store(&f->c);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fake_s3_put(f->fake, "site/one/repl-store", cases[i].text, strlen(cases[i].text));
        assert_code(&f->c, open_at(f, f->local, true, &f->c.store), cases[i].code);
        assert_code(&f->c, open_at(f, NULL, false, &f->c.store), cases[i].code);
    }
    fake_s3_remove(f->fake, "site/one/repl-store");
    assert_code(&f->c, open_at(f, NULL, false, &f->c.store), REPL_E_MISSING);
    fake_s3_put(f->fake, "site/one/holiday.jpg", "x", 1);
    assert_code(&f->c, open_at(f, f->local, true, &f->c.store), REPL_E_REFUSED);
    assert_says(f, "holiday.jpg");
    assert_false(fake_s3_exists(f->fake, "site/one/repl-store"));
}

static void a_machine_that_was_lost_begins_with_nothing(void **state)
{
    struct fixture *f = *state;
    char path[PATH_SIZE];
    const struct repl_segment_id id = {.to_seq = 1};
    assert_code(&f->c, publish(&f->c, &id, "abc"), REPL_OK);
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    close_store(&f->c);
    snprintf(f->local, sizeof f->local, "%s/another", f->c.temporary.path);
    reopen(&f->c);
    assert_code(&f->c, repl_store_staging(f->c.store, "data", path, sizeof path, &f->c.err),
                REPL_OK);
    assert_int_equal(access(path, F_OK), 0);
    assert_log(&f->c, "one.");
    assert_segment(&f->c, &id, "abc");
}

static void a_service_without_conditions_is_used_all_the_same(void **state)
{
    struct fixture *f = *state;
    close_store(&f->c);
    fake_s3_switch(f->fake, &(struct fake_s3_switches){.ignore_conditions = true});
    reopen(&f->c);
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    reopen(&f->c);
    assert_log(&f->c, "one.");
}

/* --- who writes ------------------------------------------------------------------------------ */

static void another_site_is_refused_until_it_takes_over(void **state)
{
    struct fixture *f = *state;
    struct repl_store *other = NULL;
    char local[PATH_SIZE];
    snprintf(local, sizeof local, "%s/other", f->c.temporary.path);
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    assert_code(&f->c, open_at(f, local, true, &other), REPL_E_LOCKED);
    assert_says(f, "is written by the site on ");
    assert_says(f, "--take-over");
    f->take_over = true;
    int64_t begun_ns = repl_now_mono_ns();
    assert_code(&f->c, open_at(f, local, true, &other), REPL_OK);
    assert_true(repl_now_mono_ns() - begun_ns >= f->limits.take_over_ms * MS);
    /* the first one has noticed by now, and does for good */
    const struct repl_segment_id id = {.to_seq = 1};
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_E_LOCKED);
    assert_says(f, "taken over by ");
    assert_code(&f->c, publish(&f->c, &id, "abc"), REPL_E_LOCKED);
    assert_code(&f->c, f->c.store->ops->segment_remove(f->c.store, "data", &id, &f->c.err),
                REPL_E_LOCKED);
    assert_log(&f->c, "one.");
    struct repl_store *first = f->c.store;
    f->c.store = other;
    assert_log(&f->c, "one.");
    assert_code(&f->c, append(&f->c, 4, "2."), REPL_OK);
    first->ops->close(first); /* which leaves the writer alone */
    assert_true(fake_s3_exists(f->fake, "site/one/writer"));
    assert_code(&f->c, append(&f->c, 6, "3."), REPL_OK);
}

static void who_was_killed_taking_over_waits_again(void **state)
{
    struct fixture *f = *state;
    struct repl_store *other = NULL;
    char local[PATH_SIZE], path[PATH_SIZE + 16];
    snprintf(local, sizeof local, "%s/other", f->c.temporary.path);
    f->take_over = true;
    /* the last look at the writer fails, so it is as if it had been killed */
    fake_s3_fault(f->fake, &(struct fake_s3_fault){.kind = FAKE_S3_STATUS,
                                                   .method = "GET",
                                                   .key = "one/writer",
                                                   .skip = 1,
                                                   .count = 99,
                                                   .status = 500,
                                                   .code = "InternalError"});
    assert_code(&f->c, open_at(f, local, true, &other), REPL_E_RETRY);
    snprintf(path, sizeof path, "%s/taking-over", local);
    assert_int_equal(access(path, F_OK), 0);
    fake_s3_release(f->fake);
    f->take_over = false;
    int64_t begun_ns = repl_now_mono_ns();
    assert_code(&f->c, open_at(f, local, true, &other), REPL_OK);
    assert_true(repl_now_mono_ns() - begun_ns >= f->limits.take_over_ms * MS);
    assert_int_equal(access(path, F_OK), -1);
    other->ops->close(other);
}

static const struct repl_segment_id removed_id = {.to_seq = 7};

static void *remove_one(void *context)
{
    struct fixture *f = context;
    assert_code(&f->c, f->c.store->ops->segment_remove(f->c.store, "data", &removed_id, &f->c.err),
                REPL_E_RETRY);
    return NULL;
}

static int64_t opened_again_ns(struct fixture *f)
{
    close_store(&f->c);
    int64_t begun_ns = repl_now_mono_ns();
    assert_code(&f->c, open_at(f, f->local, true, &f->c.store), REPL_OK);
    return repl_now_mono_ns() - begun_ns;
}

/* What is sent is carried out, whatever becomes of the sender. */
static void a_removal_that_may_be_on_its_way_is_waited_for(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;
    char path[PATH_SIZE + 16];
    snprintf(path, sizeof path, "%s/removing", f->local);
    f->limits.late_ms = 1000;
    reopen(&f->c);
    assert_code(&f->c, f->c.store->ops->segment_remove(f->c.store, "data", &removed_id, &f->c.err),
                REPL_OK);
    assert_int_equal(access(path, F_OK), -1);
    fault(f, FAKE_S3_HANG, "DELETE", "/segments/", 99);
    assert_int_equal(pthread_create(&thread, NULL, remove_one, f), 0);
    for (unsigned i = 0; access(path, F_OK) != 0; i++) {
        assert_true(i < 1000);
        pause_ms(1);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(access(path, F_OK), 0); /* it was given up, which is no end */
    fake_s3_release(f->fake);
    assert_true(opened_again_ns(f) >= f->limits.late_ms * MS);
    assert_int_equal(access(path, F_OK), -1);
    f->limits.late_ms = 60000;
    assert_true(opened_again_ns(f) < f->limits.late_ms * MS);
}

static void nothing_is_answered_on_an_old_claim(void **state)
{
    struct fixture *f = *state;
    const int64_t fresh_ms = f->limits.claim_fresh_ms;
    f->limits.claim_fresh_ms = 20000;
    reopen(&f->c);
    unsigned before = fake_s3_requests(f->fake, "GET", "one/writer");
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_OK); /* it is fresh */
    assert_int_equal(fake_s3_requests(f->fake, "GET", "one/writer"), before);
    f->limits.claim_fresh_ms = fresh_ms;
    reopen(&f->c);
    before = fake_s3_requests(f->fake, "GET", "one/writer");
    pause_ms(f->limits.claim_fresh_ms + 50);
    assert_code(&f->c, append(&f->c, 8, "three."), REPL_OK);
    assert_int_equal(fake_s3_requests(f->fake, "GET", "one/writer"), before + 1);
    /* fresh as it begins, too old when the object has been written at last */
    f->limits.claim_valid_ms = f->limits.claim_fresh_ms;
    f->limits.client.pause_first_ms = f->limits.client.pause_max_ms = 500;
    reopen(&f->c);
    assert_log(&f->c, "one.two.three.");
    fault(f, FAKE_S3_STATUS, "PUT", LOG_KEY, 2);
    fault(f, FAKE_S3_STATUS, "GET", "one/writer", 99);
    assert_code(&f->c, append(&f->c, 14, "four."), REPL_E_RETRY);
    assert_says(f, "cannot read site/one/writer");
    assert_true(fake_s3_exists(f->fake, LOG_KEY "00000000000000000014"));
    fake_s3_release(f->fake);
    assert_code(&f->c, append(&f->c, 14, "4."), REPL_OK);
    assert_log(&f->c, "one.two.three.4.");
}

static void a_writer_that_vanished_is_a_fence(void **state)
{
    struct fixture *f = *state;
    fake_s3_remove(f->fake, "site/one/writer");
    pause_ms(f->limits.claim_fresh_ms + 50);
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_E_LOCKED);
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_E_LOCKED);
}

/* --- segments -------------------------------------------------------------------------------- */

static void a_segment_is_read_by_few_requests(void **state)
{
    struct fixture *f = *state;
    const struct repl_segment_id id = {.to_seq = 5};
    const char *key = "00000000000000000005.000000.seg";
    struct repl_stored_segment *segment;
    size_t size = (300u << 10) + 7;
    char *bytes = malloc(size), *back = malloc(size);
    char object[128];
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i * 7 + i / 251);
    snprintf(object, sizeof object, "site/one/volumes/data/segments/%s", key);
    fake_s3_put(f->fake, object, bytes, size);
    assert_code(&f->c,
                f->c.store->ops->segment_open(f->c.store, "data", &id, size, &segment, &f->c.err),
                REPL_OK);
    assert_int_equal(segment->fd, -1);
    assert_int_equal(fake_s3_requests(f->fake, NULL, key), 0);
    static const size_t ranges[][2] = {
        {300u << 10, 7}, {200u << 10, 1000}, {150u << 10, 150u << 10}};
    for (size_t i = 0; i < 3; i++) {
        assert_code(&f->c, segment->read_at(segment, ranges[i][0], back, ranges[i][1], &f->c.err),
                    REPL_OK);
        assert_memory_equal(back, bytes + ranges[i][0], ranges[i][1]);
    }
    assert_int_equal(fake_s3_requests(f->fake, "GET", key), 1); /* the tail */
    assert_code(&f->c, segment->read_at(segment, 0, back, size, &f->c.err), REPL_OK);
    assert_memory_equal(back, bytes, size);
    assert_int_equal(fake_s3_requests(f->fake, "GET", key), 2); /* and what is before it */
    segment->close(segment);

    /* one that became shorter, or is gone */
    assert_code(&f->c,
                f->c.store->ops->segment_open(f->c.store, "data", &id, size, &segment, &f->c.err),
                REPL_OK);
    fake_s3_put(f->fake, object, bytes, 100);
    assert_code(&f->c, segment->read_at(segment, 0, back, 8, &f->c.err), REPL_OK);
    assert_code(&f->c, segment->read_at(segment, size - 8, back, 8, &f->c.err), REPL_E_CORRUPT);
    fake_s3_remove(f->fake, object);
    assert_code(&f->c, segment->read_at(segment, size - 8, back, 8, &f->c.err), REPL_E_MISSING);
    segment->close(segment);
    free(bytes);
    free(back);
}

static void what_was_published_lately_is_not_fetched_back(void **state)
{
    struct fixture *f = *state;
    const struct repl_store_ops *ops = f->c.store->ops;
    struct repl_segment_id id = {.to_seq = 1};
    struct repl_stored_segment *segment;
    char text[16], bytes[16], name[64];
    unsigned before = fake_s3_requests(f->fake, NULL, "/segments/");
    for (; id.to_seq <= S3_RECENT_MAX + 2; id.to_seq++) {
        snprintf(text, sizeof text, "segment %d", (int)id.to_seq);
        assert_code(&f->c, publish(&f->c, &id, text), REPL_OK);
        assert_segment(&f->c, &id, text);
    }
    assert_int_equal(fake_s3_requests(f->fake, NULL, "/segments/") - before, S3_RECENT_MAX + 2);
    /* the first two have made room */
    id.to_seq = 3;
    assert_segment(&f->c, &id, "segment 3");
    assert_int_equal(fake_s3_requests(f->fake, "GET", "/segments/"), 0);
    id.to_seq = 2;
    assert_segment(&f->c, &id, "segment 2");
    assert_int_equal(fake_s3_requests(f->fake, "GET", "/segments/"), 1);
    /* who has one open keeps it; what is removed, set aside or replaced is not found */
    id.to_seq = 7;
    assert_code(&f->c, ops->segment_open(f->c.store, "data", &id, 0, &segment, &f->c.err), REPL_OK);
    assert_code(&f->c, publish(&f->c, &id, "replaced"), REPL_OK);
    assert_segment(&f->c, &id, "replaced");
    assert_code(&f->c, ops->segment_remove(f->c.store, "data", &id, &f->c.err), REPL_OK);
    assert_code(&f->c, repl_stored_segment_read_at(segment, 0, bytes, 9, &f->c.err), REPL_OK);
    assert_memory_equal(bytes, "segment 7", 9);
    segment->close(segment);
    assert_code(&f->c, ops->segment_open(f->c.store, "data", &id, 0, &segment, &f->c.err),
                REPL_E_MISSING);
    id.to_seq = 8;
    assert_code(&f->c,
                ops->segment_set_aside(f->c.store, "data", &id, name, sizeof name, &f->c.err),
                REPL_OK);
    assert_code(&f->c, ops->segment_open(f->c.store, "data", &id, 0, &segment, &f->c.err),
                REPL_E_MISSING);
    reopen(&f->c);
    id.to_seq = 9;
    assert_segment(&f->c, &id, "segment 9");
    assert_int_equal(fake_s3_requests(f->fake, "GET", "/segments/"), 2);
}

static void a_segment_that_had_come_is_known_again(void **state)
{
    struct fixture *f = *state;
    const struct repl_segment_id id = {.to_seq = 5};
    fault(f, FAKE_S3_CUT_DONE, "PUT", "segments/", 1);
    assert_code(&f->c, publish(&f->c, &id, "abc"), REPL_OK);
    assert_int_equal(fake_s3_requests(f->fake, "DELETE", "segments/"), 0);
    assert_segment(&f->c, &id, "abc");
    /* given up, though it was stored; the next attempt may be of other bytes */
    fault(f, FAKE_S3_HANG_DONE, "PUT", "segments/", 1);
    fault(f, FAKE_S3_STATUS, "HEAD", "segments/", 99);
    const struct repl_segment_id next = {.to_seq = 6};
    assert_code(&f->c, publish(&f->c, &next, "old"), REPL_E_RETRY);
    fake_s3_release(f->fake);
    assert_code(&f->c, publish(&f->c, &next, "new"), REPL_OK);
    assert_segment(&f->c, &next, "new");
}

static void a_full_bucket_is_said(void **state)
{
    struct fixture *f = *state;
    const struct repl_segment_id id = {.to_seq = 5};
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    fake_s3_switch(f->fake, &(struct fake_s3_switches){.quota = 1});
    assert_code(&f->c, publish(&f->c, &id, "abc"), REPL_E_NOSPACE);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_E_NOSPACE);
    fake_s3_switch(f->fake, &(struct fake_s3_switches){0});
    assert_code(&f->c, publish(&f->c, &id, "abc"), REPL_OK);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_OK);
    assert_log(&f->c, "one.two.");
}

/* --- stopping -------------------------------------------------------------------------------- */

static void a_store_is_stopped(void **state)
{
    struct fixture *f = *state;
    f->c.store->ops->stop(f->c.store);
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_E_RETRY);
    int64_t begun_ns = repl_now_mono_ns();
    close_store(&f->c);
    assert_true(repl_now_mono_ns() - begun_ns < 1000 * MS);
    assert_true(fake_s3_exists(f->fake, "site/one/writer")); /* still ours */
    reopen(&f->c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_CONTRACT_TESTS,
        TEST(a_store_is_made_and_opened_again),
        TEST(what_is_no_store_is_left_alone),
        TEST(a_machine_that_was_lost_begins_with_nothing),
        TEST(a_service_without_conditions_is_used_all_the_same),
        TEST(another_site_is_refused_until_it_takes_over),
        TEST(who_was_killed_taking_over_waits_again),
        TEST(a_removal_that_may_be_on_its_way_is_waited_for),
        TEST(nothing_is_answered_on_an_old_claim),
        TEST(a_writer_that_vanished_is_a_fence),
        TEST(a_segment_is_read_by_few_requests),
        TEST(what_was_published_lately_is_not_fetched_back),
        TEST(a_segment_that_had_come_is_known_again),
        TEST(a_full_bucket_is_said),
        TEST(a_store_is_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
