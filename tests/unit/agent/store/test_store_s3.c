/*
 * The store in a bucket, on a service in this process. What the service promises
 * (durability, that readers see what was written) is its part; what is asked of it,
 * in which order, and what becomes of it when that fails is looked at here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "fake/fake_s3.h"
#include "loop/loop.h"
#include "store/s3.h"
#include "store/store_s3_internal.h"
#include "unit/agent/store/store_contract.h"
#include "unit/random.h"

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
                                             .merge_pieces = 4,
                                             .merge_size = 60};

struct fixture {
    struct contract c;
    struct fake_s3 *fake;
    struct s3_store_limits limits;
    char local[PATH_SIZE];
    bool take_over;
};

static repl_result open_at(struct fixture *f, const char *local, bool writable,
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

static repl_result open_again(struct contract *c, bool writable, struct repl_store **out)
{
    struct fixture *f = (struct fixture *)c;
    return open_at(f, f->local, writable, out);
}

static int set_up(void **state)
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

static int tear_down(void **state)
{
    struct fixture *f = *state;
    fake_s3_release(f->fake);
    close_store(&f->c);
    fake_s3_stop(f->fake);
    temporary_remove(&f->c.temporary);
    free(f);
    return 0;
}

static void assert_says(const struct fixture *f, const char *words)
{
    if (strstr(f->c.err.text, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", f->c.err.text, words);
}

static void fault(struct fixture *f, enum fake_s3_fault_kind kind, const char *method,
                  const char *key, unsigned count)
{
    fake_s3_fault(f->fake, &(struct fake_s3_fault){.kind = kind,
                                                   .method = method,
                                                   .key = key,
                                                   .count = count,
                                                   .status = 503,
                                                   .code = "SlowDown"});
}

static void pause_ms(int64_t ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * MS}, NULL);
}

#define LOG_KEY "site/one/volumes/data/log/"

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

static void nothing_is_answered_on_an_old_claim(void **state)
{
    struct fixture *f = *state;
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    unsigned before = fake_s3_requests(f->fake, "GET", "one/writer");
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_OK); /* it is fresh */
    assert_int_equal(fake_s3_requests(f->fake, "GET", "one/writer"), before);
    pause_ms(f->limits.claim_fresh_ms + 50);
    assert_code(&f->c, append(&f->c, 8, "three."), REPL_OK);
    assert_int_equal(fake_s3_requests(f->fake, "GET", "one/writer"), before + 1);
    /* fresh as it begins, too old when the object has been written */
    fault(f, FAKE_S3_HANG, "PUT", LOG_KEY, 1);
    fault(f, FAKE_S3_STATUS, "GET", "one/writer", 99);
    assert_code(&f->c, append(&f->c, 14, "four."), REPL_E_RETRY);
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

/* --- the log --------------------------------------------------------------------------------- */

/* The text of so many records. */
static void records_text(char *out, unsigned count)
{
    out[0] = '\0';
    for (unsigned i = 0; i < count; i++)
        sprintf(out + strlen(out), "%02u.", i);
}

static void records_append(struct fixture *f, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        char text[16];
        snprintf(text, sizeof text, "%02u.", i);
        assert_code(&f->c, append(&f->c, i * 3u, text), REPL_OK);
    }
}

static void pieces_are_merged(void **state)
{
    struct fixture *f = *state;
    struct repl_store *reader;
    char all[512];
    assert_code(&f->c, open_at(f, NULL, false, &reader), REPL_OK);
    for (unsigned count = 0; count < 90; count++) {
        records_append(f, count, count + 1);
        records_text(all, count + 1);
        if (count % 7 == 0)
            assert_log_of(&f->c, reader, all);
        if (count % 20 == 0)
            reopen(&f->c);
    }
    assert_log_of(&f->c, reader, all);
    assert_log(&f->c, all);
    reader->ops->close(reader);
    /* 90 of them: one large for each 16 or 20, and less than 4 of each smaller kind */
    assert_true(fake_s3_count(f->fake, LOG_KEY) <= 12);
    assert_true(fake_s3_exists(f->fake, LOG_KEY "00000000000000000000-00000000000000000084"));
}

/* Each request of a merge fails once, for as long as it is tried; so does reading in between. */
static void a_merge_may_fail_anywhere(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *method, *key;
        unsigned skip;
    } places[] = {{"GET", LOG_KEY "0000", 0}, {"GET", LOG_KEY "0000", 3}, {"PUT", "-000", 0},
                  {"DELETE", LOG_KEY, 0},     {"DELETE", LOG_KEY, 2},     {"PUT", "-000", 1}};
    char all[512];
    unsigned count = 0;
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        for (int done = 0; done < 2; done++) {
            fake_s3_fault(f->fake, &(struct fake_s3_fault){.kind = done != 0 ? FAKE_S3_CUT_DONE
                                                                             : FAKE_S3_STATUS,
                                                           .method = places[i].method,
                                                           .key = places[i].key,
                                                           .skip = places[i].skip,
                                                           .count = 6,
                                                           .status = 503,
                                                           .code = "SlowDown"});
            records_append(f, count, count + 6);
            count += 6;
            fake_s3_release(f->fake);
            records_text(all, count);
            if (i % 2 == 0)
                reopen(&f->c);
            assert_log(&f->c, all);
        }
    }
    records_append(f, count, count + 12);
    assert_true(fake_s3_count(f->fake, LOG_KEY) <= 16);
}

static void leftovers_are_passed_over_and_removed(void **state)
{
    struct fixture *f = *state;
    struct repl_store *reader;
    records_append(f, 0, 4);
    assert_int_equal(fake_s3_count(f->fake, LOG_KEY), 1);
    /* two of the pieces were not removed; neither was one that a cut had replaced */
    fake_s3_put(f->fake, LOG_KEY "00000000000000000003", "xx.", 3);
    fake_s3_put(f->fake, LOG_KEY "00000000000000000000", "xx.", 3);
    fake_s3_put(f->fake, LOG_KEY "00000000000000000006-00000000000000000010", "yyyy", 4);
    fake_s3_put(f->fake, LOG_KEY "notes", "x", 1);
    fake_s3_put(f->fake, LOG_KEY "00000000000000000012-00000000000000000099", "x", 1);
    assert_code(&f->c, open_at(f, NULL, false, &reader), REPL_OK);
    assert_log_of(&f->c, reader, "00.01.02.03.");
    assert_int_equal(fake_s3_count(f->fake, LOG_KEY), 6);
    reader->ops->close(reader);
    assert_log(&f->c, "00.01.02.03.");
    assert_int_equal(fake_s3_count(f->fake, LOG_KEY), 3);
}

static void a_gap_is_damage(void **state)
{
    struct fixture *f = *state;
    struct repl_store *reader;
    struct repl_buffer log = {0};
    records_append(f, 0, 3);
    fake_s3_remove(f->fake, LOG_KEY "00000000000000000003");
    assert_code(&f->c, f->c.store->ops->log_read(f->c.store, "data", &log, NULL, &f->c.err),
                REPL_E_CORRUPT);
    assert_says(f, "lacks the bytes from 3 to 6");
    assert_code(&f->c, open_at(f, NULL, false, &reader), REPL_OK);
    assert_code(&f->c, reader->ops->log_read(reader, "data", &log, NULL, &f->c.err),
                REPL_E_CORRUPT);
    assert_int_equal(log.size, 0);
    reader->ops->close(reader);
    repl_buffer_fini(&log);
}

static void an_append_that_had_landed_is_known_again(void **state)
{
    struct fixture *f = *state;
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    fault(f, FAKE_S3_CUT_DONE, "PUT", LOG_KEY, 1);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_OK);
    assert_int_equal(fake_s3_requests(f->fake, "DELETE", LOG_KEY), 0);
    assert_log(&f->c, "one.two.");
}

/* A failed append may have landed, may not, or do so late. */
static void an_append_that_failed_is_replaced(void **state)
{
    struct fixture *f = *state;
    static const char *const landed[] = {NULL, "old.", "older.", "n"};
    for (size_t i = 0; i < sizeof landed / sizeof landed[0]; i++) {
        assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
        fault(f, FAKE_S3_STATUS, "PUT", LOG_KEY, 9);
        assert_code(&f->c, append(&f->c, 4, "old."), REPL_E_RETRY);
        fake_s3_release(f->fake);
        if (landed[i] != NULL)
            fake_s3_put(f->fake, LOG_KEY "00000000000000000004", landed[i], strlen(landed[i]));
        if (i == 2)
            reopen(&f->c);
        assert_code(&f->c, append(&f->c, 4, "new."), REPL_OK);
        assert_log(&f->c, "one.new.");
    }
    /* late: where we know that there is nothing */
    fake_s3_put(f->fake, LOG_KEY "00000000000000000008", "late", 4);
    assert_code(&f->c, append(&f->c, 8, "new."), REPL_OK);
    assert_log(&f->c, "one.new.new.");
}

static void a_cut_may_fail_anywhere(void **state)
{
    struct fixture *f = *state;
    static const char *const methods[] = {"GET", "PUT", "DELETE", "DELETE", "DELETE"};
    for (unsigned i = 0; i < 5; i++) {
        char all[64];
        struct repl_buffer log = {0};
        assert_code(&f->c, append(&f->c, 0, ""), REPL_OK);
        records_append(f, 0, 7); /* one of four, three of one */
        fake_s3_fault(f->fake,
                      &(struct fake_s3_fault){.kind = i == 4 ? FAKE_S3_CUT_DONE : FAKE_S3_STATUS,
                                              .method = methods[i],
                                              .key = LOG_KEY,
                                              .skip = i == 3 ? 2 : 0,
                                              .count = i == 4 ? 3 : 9,
                                              .status = 503,
                                              .code = "SlowDown"});
        repl_result result = append(&f->c, 7, "cut.");
        fake_s3_release(f->fake);
        /* what can be read is the old log or a beginning of it, never with a gap */
        records_text(all, 7);
        assert_code(&f->c, f->c.store->ops->log_read(f->c.store, "data", &log, NULL, &f->c.err),
                    REPL_OK);
        if (!repl_ok(result)) {
            assert_true(log.size >= 7 && log.size <= strlen(all));
            assert_memory_equal(log.data, all, log.size);
            assert_code(&f->c, append(&f->c, 7, "cut."), REPL_OK);
        }
        assert_log(&f->c, "00.01.0cut.");
        repl_buffer_fini(&log);
    }
}

/* --- anything ----------------------------------------------------------------------------------
 */

#define STEPS 400

/* What was acknowledged, and what an append that failed may have left behind it. */
struct model {
    struct random random;
    char text[STEPS * 40];
    size_t size, size_max;
    unsigned reads;
};

static void expect_log(struct fixture *f, struct repl_store *store, struct model *m)
{
    struct repl_buffer log = {0};
    assert_code(&f->c, store->ops->log_read(store, "data", &log, NULL, &f->c.err), REPL_OK);
    assert_true(log.size >= m->size && log.size <= m->size_max);
    assert_memory_equal(log.data, m->text, log.size);
    repl_buffer_fini(&log);
    m->reads++;
}

static void fault_at_random(struct fixture *f, struct model *m)
{
    static const enum fake_s3_fault_kind kinds[] = {FAKE_S3_STATUS, FAKE_S3_CUT_UPLOAD,
                                                    FAKE_S3_CUT_ANSWER, FAKE_S3_CUT_DONE};
    static const char *const methods[] = {"GET", "PUT", "DELETE", NULL};
    fake_s3_release(f->fake);
    if (random_below(&m->random, 2) == 0)
        return;
    fake_s3_fault(f->fake,
                  &(struct fake_s3_fault){.kind = kinds[random_below(&m->random, 4)],
                                          .method = methods[random_below(&m->random, 4)],
                                          .key = random_below(&m->random, 2) == 0 ? "log" : NULL,
                                          .skip = (unsigned)random_below(&m->random, 8),
                                          .count = 1 + (unsigned)random_below(&m->random, 9),
                                          .status = random_below(&m->random, 2) == 0 ? 503 : 403,
                                          .code = "SlowDown"});
}

static void append_at_random(struct fixture *f, struct model *m)
{
    size_t size = 1 + random_below(&m->random, 39);
    if (m->size_max > m->size) { /* as a site does after a failure */
        if (!repl_ok(append(&f->c, m->size, "")))
            return;
        m->size_max = m->size;
    }
    /* What failed may be read later, so what is tried next is other bytes in part only. */
    for (size_t i = m->size; i < m->size + size; i++)
        m->text[i] = (char)('a' + random_below(&m->random, 26));
    m->size_max = m->size + size;
    if (repl_ok(f->c.store->ops->log_append(f->c.store, "data", m->size, m->text + m->size, size,
                                            &f->c.err)))
        m->size = m->size_max;
}

static void nothing_acknowledged_is_ever_lost(void **state)
{
    struct fixture *f = *state;
    struct repl_store *reader;
    struct model m = {.random = random_begin("store", 20261123)};
    f->limits.client.attempts = 2;
    f->limits.client.pause_first_ms = f->limits.client.pause_max_ms = 1;
    reopen(&f->c);
    assert_code(&f->c, open_at(f, NULL, false, &reader), REPL_OK);
    for (unsigned i = 0; i < STEPS; i++) {
        fault_at_random(f, &m);
        append_at_random(f, &m);
        if (random_below(&m.random, 4) != 0)
            continue;
        fake_s3_release(f->fake);
        expect_log(f, reader, &m);
        if (random_below(&m.random, 3) == 0)
            reopen(&f->c);
        expect_log(f, f->c.store, &m);
    }
    fake_s3_release(f->fake);
    expect_log(f, reader, &m);
    reader->ops->close(reader);
    assert_true(m.size > STEPS * 8 && m.reads > STEPS / 4);
}

/* --- a reader beside the writer -------------------------------------------------------------- */

#define BESIDE_RECORDS 150u

struct beside {
    struct fixture *f;
    struct repl_error err;
    bool failed;
    _Atomic bool ended;
};

static void *append_all(void *context)
{
    struct beside *b = context;
    struct repl_store *store = b->f->c.store;
    for (unsigned i = 0; i < BESIDE_RECORDS && !b->failed; i++) {
        char text[16];
        snprintf(text, sizeof text, "%03u.", i);
        b->failed = !repl_ok(store->ops->log_append(store, "data", i * 4u, text, 4, &b->err));
    }
    b->ended = true;
    return NULL;
}

/* Pages of three entries, so that pieces are merged between any two of them. */
static void a_reader_sees_a_log_without_gaps(void **state)
{
    struct fixture *f = *state;
    struct repl_store *reader;
    struct beside b = {.f = f};
    struct repl_buffer log = {0};
    pthread_t thread;
    size_t size = 0;
    unsigned reads = 0;
    fake_s3_switch(f->fake, &(struct fake_s3_switches){.page_size = 3});
    assert_code(&f->c, open_at(f, NULL, false, &reader), REPL_OK);
    assert_int_equal(pthread_create(&thread, NULL, append_all, &b), 0);
    for (bool ended = false; !ended; reads++) {
        ended = b.ended; /* before the last look */
        assert_code(&f->c, reader->ops->log_read(reader, "data", &log, &f->c.err), REPL_OK);
        assert_true(log.size >= size && log.size % 4 == 0);
        size = log.size;
        for (unsigned i = 0; i < size / 4; i++) {
            char text[16];
            snprintf(text, sizeof text, "%03u.", i);
            assert_memory_equal(log.data + i * 4u, text, 4);
        }
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_false(b.failed);
    assert_int_equal(size, BESIDE_RECORDS * 4);
    assert_true(reads > 3);
    reader->ops->close(reader);
    repl_buffer_fini(&log);
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

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
        TEST(nothing_is_answered_on_an_old_claim),
        TEST(a_writer_that_vanished_is_a_fence),
        TEST(a_segment_is_read_by_few_requests),
        TEST(what_was_published_lately_is_not_fetched_back),
        TEST(a_segment_that_had_come_is_known_again),
        TEST(a_full_bucket_is_said),
        TEST(pieces_are_merged),
        TEST(a_merge_may_fail_anywhere),
        TEST(leftovers_are_passed_over_and_removed),
        TEST(a_gap_is_damage),
        TEST(an_append_that_had_landed_is_known_again),
        TEST(an_append_that_failed_is_replaced),
        TEST(a_cut_may_fail_anywhere),
        TEST(nothing_acknowledged_is_ever_lost),
        TEST(a_reader_sees_a_log_without_gaps),
        TEST(a_store_is_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
