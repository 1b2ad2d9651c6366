/*
 * A store in a bucket of a service in this process, with limits that fit a test.
 */
#ifndef TESTS_UNIT_STORE_S3_FIXTURE_H
#define TESTS_UNIT_STORE_S3_FIXTURE_H

#include <time.h>

#include "fake/fake_s3.h"
#include "loop/loop.h"
#include "store/s3.h"
#include "store/store_s3_internal.h"
#include "unit/agent/store/store_contract_calls.h"

#define MS INT64_C(1000000)

static const struct s3_store_limits quick = {.client = {.connect_ms = 2000,
                                                        .stall_s = 1,
                                                        .copy_stall_s = 2,
                                                        .attempts = 3,
                                                        .attempts_ms = 3000,
                                                        .short_total_ms = 1500,
                                                        .pause_first_ms = 5,
                                                        .pause_max_ms = 20},
                                             .claim_fresh_ms = 200,
                                             .claim_valid_ms = 600,
                                             .take_over_ms = 1000,
                                             .late_ms = 20,
                                             .merge_pieces = 4,
                                             .merge_size = 60,
                                             .lock_first_ms = 3600000,
                                             .lock_again_ms = 600000,
                                             .lock_pause_ms = 1,
                                             .lock_proof_ms = 3600000};

struct fixture {
    struct contract c;
    struct fake_s3 *fake;
    struct s3_store_limits limits;
    char local[PATH_SIZE];
    bool take_over;
};

static inline repl_result open_at(struct fixture *f, const char *local, bool writable,
                                  struct repl_store **out)
{
    const struct repl_s3_options s3 = {.endpoint = fake_s3_endpoint(f->fake)};
    const struct repl_store_options options = {.location = "s3://bucket/site/one",
                                               .writable = writable,
                                               .create = writable,
                                               .take_over = f->take_over,
                                               .local = writable ? local : NULL,
                                               .s3 = &s3};
    return s3_store_open_with(&options, &f->limits, out, &f->c.err);
}

static inline repl_result open_again(struct contract *c, bool writable, struct repl_store **out)
{
    struct fixture *f = (struct fixture *)c;
    return open_at(f, f->local, writable, out);
}

static inline int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->c.open = open_again;
    f->limits = quick;
    setenv("AWS_ACCESS_KEY_ID", FAKE_S3_KEY_ID, 1);
    setenv("AWS_SECRET_ACCESS_KEY", FAKE_S3_SECRET, 1);
    f->fake = fake_s3_start();
    if (f->fake == NULL || temporary_make(&f->c.temporary) != 0)
        return -1;
    snprintf(f->local, sizeof f->local, "%s/local", f->c.temporary.path);
    assert_code(&f->c, open_at(f, f->local, true, &f->c.store), REPL_OK);
    assert_code(&f->c, f->c.store->ops->volume_create(f->c.store, "data", &f->c.err), REPL_OK);
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *f = *state;
    fake_s3_release(f->fake);
    close_store(&f->c);
    fake_s3_stop(f->fake);
    temporary_remove(&f->c.temporary);
    free(f);
    return 0;
}

static inline void assert_says(const struct fixture *f, const char *words)
{
    if (strstr(f->c.err.text, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", f->c.err.text, words);
}

static inline void fault(struct fixture *f, enum fake_s3_fault_kind kind, const char *method,
                         const char *key, unsigned count)
{
    fake_s3_fault(f->fake, &(struct fake_s3_fault){.kind = kind,
                                                   .method = method,
                                                   .key = key,
                                                   .count = count,
                                                   .status = 503,
                                                   .code = "SlowDown"});
}

static inline void pause_ms(int64_t ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * MS}, NULL);
}

#define LOG_KEY "site/one/volumes/data/log/"

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
