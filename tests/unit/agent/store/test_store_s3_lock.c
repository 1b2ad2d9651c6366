/*
 * A store in a bucket that locks: what is written of a history is locked, and locked anew for as
 * long as it is there; and a bucket that does not lock is found out before anything is written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/agent/store/store_s3_fixture.h"

#define DAY_S       86400
#define PROOF_KEY   "site/one/object-lock"
#define SEGMENT_KEY "site/one/volumes/data/segments/00000000000000000001.000000.seg"

static repl_result open_locked(struct fixture *f, int64_t lock_ms)
{
    const struct repl_s3_options s3 = {.endpoint = fake_s3_endpoint(f->fake)};
    const struct repl_store_options options = {.location = "s3://bucket/site/one",
                                               .writable = true,
                                               .create = true,
                                               .local = f->local,
                                               .object_lock_ms = lock_ms,
                                               .s3 = &s3};
    return s3_store_open_with(&options, &f->limits, &f->c.store, &f->c.err);
}

static void locked_again(struct fixture *f, int64_t lock_ms)
{
    close_store(&f->c);
    assert_code(&f->c, open_locked(f, lock_ms), REPL_OK);
}

static void assert_locked_for(struct fixture *f, const char *key, int64_t seconds)
{
    int64_t left = fake_s3_locked_until(f->fake, key) - (int64_t)time(NULL);
    if (left > seconds || left < seconds - 60)
        fail_msg("%s is locked for %lld s", key, (long long)left);
}

static void what_is_written_is_locked(void **state)
{
    struct fixture *f = *state;
    const struct repl_segment_id id = {.to_seq = 1};
    locked_again(f, 30 * INT64_C(1000) * DAY_S);
    assert_code(&f->c, publish(&f->c, &id, "bytes"), REPL_OK);
    assert_code(&f->c, append(&f->c, 0, "a record"), REPL_OK);
    assert_locked_for(f, SEGMENT_KEY, 30 * DAY_S);
    assert_locked_for(f, LOG_KEY "00000000000000000000", 30 * DAY_S);
    assert_locked_for(f, PROOF_KEY, f->limits.lock_proof_ms / 1000);
    assert_int_equal(fake_s3_locked_until(f->fake, "site/one/writer"), 0);
    assert_int_equal(fake_s3_locked_until(f->fake, "site/one/repl-store"), 0);
    /* and what is put over something damaged: that is under it, as an older version */
    char path[PATH_SIZE];
    fake_s3_put(f->fake, SEGMENT_KEY, "bytez", 5);
    assert_int_equal(fake_s3_locked_until(f->fake, SEGMENT_KEY), 0);
    int fd = stage(&f->c, "bytes", path);
    assert_code(&f->c,
                f->c.store->ops->segment_replace(f->c.store, "data", &id, fd, path, &f->c.err),
                REPL_OK);
    close(fd);
    assert_segment(&f->c, &id, "bytes");
    assert_locked_for(f, SEGMENT_KEY, 30 * DAY_S);
    /* without it nothing is */
    const struct repl_segment_id other = {.to_seq = 2};
    locked_again(f, 0);
    assert_code(&f->c, publish(&f->c, &other, "bytes"), REPL_OK);
    assert_int_equal(fake_s3_locked_until(
                         f->fake, "site/one/volumes/data/segments/00000000000000000002.000000.seg"),
                     0);
}

static void a_bucket_that_does_not_lock_is_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        struct fake_s3_switches switches;
        const char *words;
    } cases[] = {{{.no_locks = true}, "InvalidRequest"},
                 {{.forget_locks = true}, "is not locked until the time"},
                 {{.no_versions = true}, "no versions"},
                 {{.open_locks = true}, "could be removed"}};
    close_store(&f->c);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fake_s3_switch(f->fake, &cases[i].switches);
        assert_code(&f->c, open_locked(f, INT64_C(1000) * DAY_S), REPL_E_USAGE);
        assert_says(f, "object_lock is set, and the bucket does not lock");
        assert_says(f, cases[i].words);
    }
    fake_s3_switch(f->fake, &(struct fake_s3_switches){0});
    /* a service that is away says nothing of locks */
    fault(f, FAKE_S3_STATUS, "PUT", "object-lock", 9);
    repl_result result = open_locked(f, INT64_C(1000) * DAY_S);
    assert_int_equal(result.code, REPL_E_RETRY);
    fake_s3_release(f->fake);
    assert_code(&f->c, open_locked(f, INT64_C(1000) * DAY_S), REPL_OK);
}

static void locks_go_on(void **state)
{
    struct fixture *f = *state;
    const struct repl_segment_id id = {.to_seq = 1};
    f->limits.lock_first_ms = 100;
    f->limits.lock_again_ms = 100;
    f->limits.lock_pause_ms = 1;
    assert_code(&f->c, publish(&f->c, &id, "bytes"),
                REPL_OK); /* of a time when nothing was locked */
    assert_code(&f->c, append(&f->c, 0, "a record"), REPL_OK);
    fault(f, FAKE_S3_STATUS, "PUT",
          "seg?retention=", 4); /* more than the attempts of one request */
    locked_again(f, 10 * INT64_C(1000) * DAY_S);
    char warning[512] = "";
    for (unsigned i = 0; i < 500 && warning[0] == '\0'; i++) {
        pause_ms(1);
        f->c.store->ops->warning(f->c.store, warning, sizeof warning);
    }
    if (strstr(warning, "of 1 of 2 objects") == NULL || strstr(warning, "SlowDown") == NULL)
        fail_msg("%s", warning);
    for (unsigned i = 0; i < 500 && fake_s3_locked_until(f->fake, SEGMENT_KEY) == 0; i++)
        pause_ms(20);
    assert_locked_for(f, SEGMENT_KEY, 10 * DAY_S);
    assert_locked_for(f, LOG_KEY "00000000000000000000", 10 * DAY_S);
    assert_int_equal(fake_s3_requests(f->fake, "PUT", "writer?retention="), 0);
    for (unsigned i = 0; i < 500 && warning[0] != '\0'; i++) {
        pause_ms(20);
        f->c.store->ops->warning(f->c.store, warning, sizeof warning);
    }
    assert_string_equal(warning, "");

    /* shorter: what is locked for longer stays so, and that is no failure */
    unsigned before = fake_s3_requests(f->fake, "PUT", "?retention=");
    locked_again(f, 5 * INT64_C(1000) * DAY_S);
    for (unsigned i = 0; i < 500 && fake_s3_requests(f->fake, "PUT", "?retention=") < before + 2;
         i++)
        pause_ms(20);
    pause_ms(500); /* what failed would have been tried again by now */
    assert_int_equal(fake_s3_requests(f->fake, "PUT", "?retention="), before + 2);
    assert_locked_for(f, SEGMENT_KEY, 10 * DAY_S);
}

static void a_directory_does_not_lock(void **state)
{
    struct fixture *f = *state;
    const struct repl_store_options options = {
        .location = f->local, .writable = true, .create = true, .object_lock_ms = DAY_S};
    struct repl_store *store;
    assert_int_equal(repl_store_open(&options, &store, &f->c.err).code, REPL_E_USAGE);
    assert_says(f, "is a directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_locked),
        TEST(a_bucket_that_does_not_lock_is_refused),
        TEST(locks_go_on),
        TEST(a_directory_does_not_lock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
