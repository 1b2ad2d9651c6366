/*
 * The log of a volume in a bucket: its pieces, what becomes of them where requests
 * fail, and what is read meanwhile.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/agent/store/store_s3_fixture.h"
#include "unit/random.h"

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
    /* it had landed, and is cut off */
    fault(f, FAKE_S3_CUT_DONE, "PUT", LOG_KEY, 9);
    assert_code(&f->c, append(&f->c, 12, "lost."), REPL_E_RETRY);
    fake_s3_release(f->fake);
    assert_true(fake_s3_exists(f->fake, LOG_KEY "00000000000000000012"));
    assert_code(&f->c, append(&f->c, 12, ""), REPL_OK);
    assert_log(&f->c, "one.new.new.");
}

/* The service hangs, and goes on when what it was asked for has been given up. */
static void a_removal_that_lands_late_takes_nothing_away(void **state)
{
    struct fixture *f = *state;
    f->limits.late_ms = 1000;
    f->limits.client.short_total_ms = 300;
    reopen(&f->c);
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    fault(f, FAKE_S3_STATUS, "PUT", LOG_KEY, 9);
    assert_code(&f->c, append(&f->c, 4, "lost."), REPL_E_RETRY);
    fake_s3_release(f->fake);
    fake_s3_put(f->fake, LOG_KEY "00000000000000000004", "lost.", 5);
    fault(f, FAKE_S3_LATE, "DELETE", LOG_KEY, 1);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_E_RETRY);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_E_RETRY);
    assert_says(f, "may still be carried out");
    fake_s3_release(f->fake);
    repl_result result;
    for (unsigned i = 0; result = append(&f->c, 4, "two."), !repl_ok(result); i++) {
        assert_true(i < 100);
        pause_ms(50);
    }
    pause_ms(50);
    reopen(&f->c);
    assert_log(&f->c, "one.two.");
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
            pause_ms(f->limits.late_ms + 1);
            assert_code(&f->c, append(&f->c, 7, "cut."), REPL_OK);
        }
        assert_log(&f->c, "00.01.0cut.");
        repl_buffer_fini(&log);
    }
}

/* --- a log that is written anew -------------------------------------------------------------- */

static repl_result replace(struct fixture *f, uint64_t *end, const char *text)
{
    return f->c.store->ops->log_replace(f->c.store, "data", text, strlen(text), end, &f->c.err);
}

static void assert_begins(struct fixture *f, struct repl_store *store, uint64_t begin)
{
    struct repl_buffer log = {0};
    uint64_t found;
    assert_code(&f->c, store->ops->log_read(store, "data", &log, &found, &f->c.err), REPL_OK);
    assert_int_equal(found, begin);
    repl_buffer_fini(&log);
}

static void a_log_written_anew_begins_behind_the_old_one(void **state)
{
    struct fixture *f = *state;
    struct repl_store *reader;
    uint64_t end = 27;
    assert_code(&f->c, open_at(f, NULL, false, &reader), REPL_OK);
    records_append(f, 0, 9);
    assert_code(&f->c, replace(f, &end, "all."), REPL_OK);
    assert_int_equal(end, 31);
    assert_int_equal(fake_s3_count(f->fake, LOG_KEY), 2);
    for (int again = 0; again < 2; again++) {
        assert_begins(f, reader, 27);
        assert_begins(f, f->c.store, 27);
        assert_log_of(&f->c, reader, "all.");
        reopen(&f->c);
    }
    assert_code(&f->c, append(&f->c, 31, "one."), REPL_OK);
    assert_code(&f->c, append(&f->c, 35, "two."), REPL_OK);
    assert_code(&f->c, append(&f->c, 36, "2."), REPL_OK); /* cut within what came behind */
    assert_log_of(&f->c, reader, "all.one.t2.");
    end = 38;
    assert_code(&f->c, replace(f, &end, "more."), REPL_OK);
    assert_code(&f->c, append(&f->c, 41, "."), REPL_OK); /* within what was written anew */
    assert_begins(f, reader, 38);
    assert_log_of(&f->c, reader, "mor.");
    reopen(&f->c);
    assert_log(&f->c, "mor.");
    /* the piece of the new log, as it is now, what says so, and the record behind */
    assert_int_equal(fake_s3_count(f->fake, LOG_KEY), 3);
    reader->ops->close(reader);
}

/* One that was not finished, or of which the writer does not know that it was: the old log goes
 * on, and a crash in between leaves either of the two. */
static void a_replacement_may_fail_anywhere(void **state)
{
    struct fixture *f = *state;
    static const struct {
        enum fake_s3_fault_kind kind;
        const char *method, *key;
        bool is_new; /* for who comes from outside */
    } places[] = {{FAKE_S3_STATUS, "GET", NULL, false},
                  {FAKE_S3_STATUS, "PUT", ".begin", false},
                  {FAKE_S3_CUT_DONE, "PUT", ".begin", false},
                  {FAKE_S3_STATUS, "PUT", "00000000000000000006", false},
                  {FAKE_S3_CUT_DONE, "PUT", "00000000000000000006", true}};
    struct repl_store *reader;
    assert_code(&f->c, open_at(f, NULL, false, &reader), REPL_OK);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        for (int crash = 0; crash < 2; crash++) {
            uint64_t end = 6;
            assert_code(&f->c, append(&f->c, 0, ""), REPL_OK);
            records_append(f, 0, 2);
            fake_s3_fault(f->fake, &(struct fake_s3_fault){.kind = places[i].kind,
                                                           .method = places[i].method,
                                                           .key = places[i].key,
                                                           .skip = i >= 3 ? 1 : 0,
                                                           .count = 9,
                                                           .status = 503,
                                                           .code = "SlowDown"});
            assert_code(&f->c, replace(f, &end, "anew."), REPL_E_RETRY);
            fake_s3_release(f->fake);
            assert_int_equal(end, 6);
            assert_log_of(&f->c, reader, places[i].is_new ? "anew." : "00.01.");
            if (crash != 0)
                reopen(&f->c);
            assert_log(&f->c, crash != 0 && places[i].is_new ? "anew." : "00.01.");
            if (crash != 0)
                continue;
            assert_code(&f->c, append(&f->c, 6, "02."), REPL_OK);
            assert_log_of(&f->c, reader, "00.01.02.");
        }
    }
    reader->ops->close(reader);
}

/* What a request that was given up leaves late is no part of what was acknowledged meanwhile. */
static void a_replacement_that_lands_late_is_passed_over(void **state)
{
    struct fixture *f = *state;
    records_append(f, 0, 2);
    fake_s3_put(f->fake, LOG_KEY "00000000000000000006-00000000000000000011.begin", "anew.", 5);
    assert_log(&f->c, "00.01.");
    assert_code(&f->c, append(&f->c, 6, "02."), REPL_OK);
    fake_s3_put(f->fake, LOG_KEY "00000000000000000006-00000000000000000011.begin", "anew.", 5);
    reopen(&f->c);
    assert_log(&f->c, "00.01.02.");
    /* its commit, where we know that nothing is: the name is that of the next record */
    fake_s3_put(f->fake, LOG_KEY "00000000000000000009-00000000000000000014.begin", "anew.", 5);
    fake_s3_put(f->fake, LOG_KEY "00000000000000000009", "", 0);
    assert_code(&f->c, append(&f->c, 9, "03."), REPL_OK);
    reopen(&f->c);
    assert_log(&f->c, "00.01.02.03.");
}

/* --- anything ----------------------------------------------------------------------------------
 */

#define STEPS 400

/* What was acknowledged, and what an append that failed may have left behind it. */
struct model {
    struct random random;
    char text[STEPS * 40];
    size_t begin, size, size_max;
    char anew[40];
    size_t anew_size; /* not 0: a replacement that failed may be the log from size on */
    unsigned reads, replaced;
};

/* A replacement that failed is none for the writer that made it; any other may find it made. */
static void expect_log(struct fixture *f, struct repl_store *store, struct model *m, bool is_other)
{
    struct repl_buffer log = {0};
    uint64_t begin;
    assert_code(&f->c, store->ops->log_read(store, "data", &log, &begin, &f->c.err), REPL_OK);
    if (is_other && m->anew_size > 0 && begin == m->size) {
        assert_int_equal(log.size, m->anew_size);
        assert_memory_equal(log.data, m->anew, log.size);
    } else {
        assert_int_equal(begin, m->begin);
        assert_true(begin + log.size >= m->size && begin + log.size <= m->size_max);
        assert_memory_equal(log.data, m->text + begin, log.size);
    }
    repl_buffer_fini(&log);
    m->reads++;
}

/* As a site that is started: what it finds is the log. */
static void reopen_at_random(struct fixture *f, struct model *m)
{
    struct repl_buffer log = {0};
    uint64_t begin;
    reopen(&f->c);
    expect_log(f, f->c.store, m, true);
    assert_code(&f->c, f->c.store->ops->log_read(f->c.store, "data", &log, &begin, &f->c.err),
                REPL_OK);
    if (begin != m->begin) {
        m->begin = begin;
        memcpy(m->text + begin, m->anew, m->anew_size);
        m->size = m->size_max = begin + m->anew_size;
    }
    m->anew_size = 0;
    repl_buffer_fini(&log);
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

static void replace_at_random(struct fixture *f, struct model *m)
{
    uint64_t end = m->size;
    m->anew_size = 1 + random_below(&m->random, sizeof m->anew);
    for (size_t i = 0; i < m->anew_size; i++)
        m->anew[i] = (char)('A' + random_below(&m->random, 26));
    if (!repl_ok(f->c.store->ops->log_replace(f->c.store, "data", m->anew, m->anew_size, &end,
                                              &f->c.err)))
        return;
    m->begin = m->size;
    memcpy(m->text + m->begin, m->anew, m->anew_size);
    m->size = m->size_max = m->begin + m->anew_size;
    assert_int_equal(end, m->size);
    m->anew_size = 0;
    m->replaced++;
}

static void append_at_random(struct fixture *f, struct model *m)
{
    size_t size = 1 + random_below(&m->random, 39);
    if (m->size_max > m->size) { /* as a site does after a failure */
        if (!repl_ok(append(&f->c, m->size, "")))
            return;
        m->size_max = m->size;
    }
    if (m->size > 0 && m->anew_size == 0 && random_below(&m->random, 8) == 0) {
        replace_at_random(f, m);
        return;
    }
    /* What failed may be read later, so what is tried next is other bytes in part only. */
    for (size_t i = m->size; i < m->size + size; i++)
        m->text[i] = (char)('a' + random_below(&m->random, 26));
    m->size_max = m->size + size;
    if (repl_ok(f->c.store->ops->log_append(f->c.store, "data", m->size, m->text + m->size, size,
                                            &f->c.err))) {
        m->size = m->size_max;
        m->anew_size = 0;
    }
}

static void nothing_acknowledged_is_ever_lost(void **state)
{
    struct fixture *f = *state;
    struct repl_store *reader;
    struct model m = {.random = random_begin("store", 20261128)};
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
        expect_log(f, reader, &m, true);
        if (random_below(&m.random, 3) == 0)
            reopen_at_random(f, &m);
        expect_log(f, f->c.store, &m, false);
    }
    fake_s3_release(f->fake);
    expect_log(f, reader, &m, true);
    reader->ops->close(reader);
    assert_true(m.size > STEPS * 8 && m.reads > STEPS / 4 && m.replaced > STEPS / 40);
}

/* --- a reader beside the writer -------------------------------------------------------------- */

/* So many at least, and then until the reader has looked so often. */
#define BESIDE_RECORDS     150u
#define BESIDE_RECORDS_MAX 1000u
#define BESIDE_READS       4u

struct beside {
    struct fixture *f;
    struct repl_error err;
    bool failed;
    unsigned records;
    _Atomic unsigned reads;
    _Atomic bool ended;
};

static void *append_all(void *context)
{
    struct beside *b = context;
    struct repl_store *store = b->f->c.store;
    for (unsigned i = 0; i < BESIDE_RECORDS_MAX && !b->failed; i++) {
        char text[16];
        if (i >= BESIDE_RECORDS && b->reads >= BESIDE_READS)
            break;
        snprintf(text, sizeof text, "%03u.", i);
        b->failed = !repl_ok(store->ops->log_append(store, "data", i * 4u, text, 4, &b->err));
        b->records++;
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
    fake_s3_switch(f->fake, &(struct fake_s3_switches){.page_size = 3});
    assert_code(&f->c, open_at(f, NULL, false, &reader), REPL_OK);
    assert_int_equal(pthread_create(&thread, NULL, append_all, &b), 0);
    for (bool ended = false; !ended; b.reads++) {
        ended = b.ended; /* before the last look */
        assert_code(&f->c, reader->ops->log_read(reader, "data", &log, NULL, &f->c.err), REPL_OK);
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
    assert_int_equal(size, b.records * 4);
    assert_true(b.reads >= BESIDE_READS);
    reader->ops->close(reader);
    repl_buffer_fini(&log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pieces_are_merged),
        TEST(a_merge_may_fail_anywhere),
        TEST(leftovers_are_passed_over_and_removed),
        TEST(a_gap_is_damage),
        TEST(an_append_that_had_landed_is_known_again),
        TEST(an_append_that_failed_is_replaced),
        TEST(a_removal_that_lands_late_takes_nothing_away),
        TEST(a_cut_may_fail_anywhere),
        TEST(a_log_written_anew_begins_behind_the_old_one),
        TEST(a_replacement_may_fail_anywhere),
        TEST(a_replacement_that_lands_late_is_passed_over),
        TEST(nothing_acknowledged_is_ever_lost),
        TEST(a_reader_sees_a_log_without_gaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
