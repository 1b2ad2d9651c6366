/*
 * What a whole site makes of what a crash has left, or of a store in which
 * something is damaged or missing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>

#include "site/index/index_internal.h"
#include "site/site_volume.h"
#include "unit/agent/site/site_world.h"

/* --- restarts, crashes and damage ------------------------------------------------------------ */

static void file_write(const char *path, const void *bytes, size_t size, int flags)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    close(fd);
}

static off_t file_size(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return status.st_size;
}

static void test_restart(void **state)
{
    struct world *w = *state;
    seed(w);
    for (int i = 0; i < 3; i++) {
        increment(w);
        site_restart(w);
        struct repl_welcome welcome = hello(w);
        assert_int_equal(welcome.head.to_seq, w->head.to_seq);
        assert_true(repl_digest_equal(&welcome.head.digest, &w->head.digest));
    }
    expect_replica(w);
}

/* Everything was received and nothing of the commit survived. */
static void test_crash_before_publish(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256];
    seed(w);
    build_big(&b, w);
    site_stop(w);
    file_path(w, path, "staging/00000000000000000002.000000.upload");
    file_write(path, b.file.bytes.data, b.file.bytes.size, 0);
    file_path(w, path, "staging/7.supply");
    file_write(path, "x", 1, 0);
    site_start(w);
    assert_false(exists(path));
    assert_int_equal(hello(w).staged_bytes, b.file.bytes.size);
    assert_int_equal(put(w, 2, 0, b.file.bytes.size, NULL, 0), 201);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

/* What is staged is worth nothing: of another history, or no segment at all. */
static void test_staged_rubbish(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256], second[256];
    seed(w);
    struct repl_head real = w->head;
    memset(&w->head.digest, 3, sizeof w->head.digest);
    build_big(&b, w);
    w->head = real;
    site_stop(w);
    file_path(w, path, "staging/00000000000000000002.000000.upload");
    file_write(path, b.file.bytes.data, b.file.bytes.size, 0);
    file_path(w, second, "staging/00000000000000000003.000000.upload");
    file_write(second, "rubbish", 7, 0);
    build_fini(&b);
    site_start(w);
    assert_false(exists(path));
    assert_false(exists(second));
    assert_int_equal(hello(w).staged_bytes, 0);
    memset(w->model, 0, MODEL_SIZE);
}

static void test_crash_after_publish(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256];
    seed(w);
    build_big(&b, w);
    site_stop(w);
    file_path(w, path, "segments/00000000000000000002.000000.seg");
    file_write(path, b.file.bytes.data, b.file.bytes.size, 0);
    site_start(w);
    assert_false(exists(path));
    assert_int_equal(hello(w).head.to_seq, 1);
    build_commit(&b);
    expect_replica(w);
}

/* The record was being appended. */
static void test_torn_tail(void **state)
{
    struct world *w = *state;
    struct build b;
    char log[256];
    static uint8_t copy[4096];
    seed(w);
    file_path(w, log, "log");
    off_t before = file_size(log);
    build_big(&b, w);
    assert_int_equal(build_put(&b), 201);
    site_stop(w);
    /* Half of the record, and an index that has not seen it. */
    off_t after = file_size(log);
    int fd = open(log, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, copy, sizeof copy, 0), after);
    close(fd);
    assert_int_equal(truncate(log, before + (after - before) / 2), 0);
    index_remove(w);
    site_start(w);
    assert_int_equal(file_size(log), before);
    assert_int_equal(hello(w).head.to_seq, 1);
    /* The replica was ahead of the history that is left, and goes back. */
    build_commit(&b);
    expect_replica(w);
}

/* The record is durable, nobody was told. */
static void test_crash_after_log(void **state)
{
    struct world *w = *state;
    struct build b;
    seed(w);
    build_big(&b, w);
    assert_int_equal(build_put(&b), 201);
    site_restart(w);
    struct repl_welcome welcome = hello(w);
    assert_true(repl_digest_equal(&welcome.head.digest, &b.footer.digest));
    assert_int_equal(build_put(&b), 201); /* and again it is a duplicate */
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

static unsigned segments_count(struct world *w)
{
    char path[256];
    unsigned count = 0;
    for (unsigned i = 1; i < 20; i++) {
        char name[64];
        snprintf(name, sizeof name, "segments/%020u.000000.seg", i);
        file_path(w, path, name);
        count += exists(path);
    }
    return count;
}

/* Damaged history: not served, nothing deleted; the other volume goes on. */
static void expect_damaged(struct world *w, const char *words)
{
    struct repl_hello message = hello_of(w);
    unsigned segments = segments_count(w);
    size_t volumes, damaged;
    site_start(w);
    repl_site_count(w->site, &volumes, &damaged);
    assert_int_equal(damaged, 1);
    hello_as(w, KEY_HOST, "data", &message);
    expect_refusal(w, 500, REPL_REFUSAL_INTERNAL, words);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 500);
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_FAILED);
    assert_non_null(strstr(status.cause, words));
    assert_int_equal(segments_count(w), segments);
    hello_as(w, KEY_HOST, "spare", &message);
    assert_int_equal(w->status, 200);
}

/* It is served, and takes in what comes; what is spoilt is found out and said. */
static void expect_lacking(struct world *w, const char *spoilt)
{
    size_t volumes, damaged;
    site_start(w);
    repl_site_count(w->site, &volumes, &damaged);
    assert_int_equal(damaged, 0);
    PUMP_UNTIL(w, volume_status(w, "data").damaged_segments == 1);
    assert_string_equal(volume_status(w, "data").damaged, spoilt);
    hello(w);
    increment(w);
}

static void three_points(struct world *w)
{
    struct repl_hello message = hello_of(w);
    seed(w);
    increment(w);
    increment(w);
    hello_as(w, KEY_HOST, "spare", &message);
    site_stop(w);
}

static void test_damaged_log(void **state)
{
    struct world *w = *state;
    char log[256];
    three_points(w);
    file_path(w, log, "log");
    uint8_t byte;
    int fd = open(log, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, 150), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 150), 1);
    close(fd);
    expect_damaged(w, "log at byte");
}

/* The same, though the index that knows better is lost too: whole records follow. */
static void test_damaged_log_without_index(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "log");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "\377", 1, 150), 1);
    close(fd);
    index_remove(w);
    expect_damaged(w, "log at byte");
}

static void test_shorter_log(void **state)
{
    struct world *w = *state;
    char log[256];
    three_points(w);
    file_path(w, log, "log");
    assert_int_equal(truncate(log, file_size(log) - 3), 0);
    expect_damaged(w, "log");
}

static void test_missing_log(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "log");
    assert_int_equal(unlink(path), 0);
    index_remove(w);
    expect_damaged(w, "log is missing");
}

static void test_missing_segment(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "segments/00000000000000000002.000000.seg");
    assert_int_equal(unlink(path), 0);
    expect_lacking(w, "segment 2.0 (points 2 to 3)");
    site_stop(w);
    file_path(w, path, "segments/00000000000000000001.000000.seg"); /* nothing is mounted there? */
    assert_int_equal(unlink(path), 0);
    expect_damaged(w, "segment 1.0 is missing");
}

/* Nobody would find out what it spoils. */
static void test_missing_segment_without_scrub(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "segments/00000000000000000002.000000.seg");
    assert_int_equal(unlink(path), 0);
    w->limits = "scrub_every = 0s\n";
    expect_damaged(w, "segment 2.0 is missing");
}

static void test_shorter_segment(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "segments/00000000000000000003.000000.seg");
    assert_int_equal(truncate(path, 1000), 0);
    expect_lacking(w, "segment 3.0 (points 3 to 3)");
}

/* A log that lost its end, with an index that never saw it: the segments tell. */
static void test_segments_without_records(void **state)
{
    struct world *w = *state;
    char path[256];
    off_t end;
    seed(w);
    file_path(w, path, "log");
    end = file_size(path);
    increment(w);
    increment(w);
    site_stop(w);
    assert_int_equal(truncate(path, end), 0);
    index_remove(w);
    expect_damaged(w, "2 segments are there");
}

/* One segment that the log does not have, and no index: a log that lost its last record looks like
 * a crash before that record. The file is kept, whatever comes after it. */
static void test_segment_without_record(void **state)
{
    struct world *w = *state;
    struct build b;
    char log[256], segment[256], aside[256], second[256], index[256];
    seed(w);
    increment(w);
    file_path(w, log, "log");
    file_path(w, segment, "segments/00000000000000000003.000000.seg");
    file_path(w, aside, "aside/00000000000000000003.000000.seg.1");
    file_path(w, second, "aside/00000000000000000003.000000.seg.2");
    snprintf(index, sizeof index, "%s/index.lmdb", w->store);
    off_t end = file_size(log);
    struct repl_head before = w->head;
    increment(w);
    off_t size = file_size(segment);
    site_stop(w);
    assert_int_equal(truncate(log, end), 0);
    assert_int_equal(unlink(index), 0);
    site_start(w);
    assert_false(exists(segment));
    assert_int_equal(file_size(aside), size);
    assert_int_equal(hello(w).head.to_seq, 2);
    site_restart(w);
    assert_int_equal(file_size(aside), size);
    /* The same once more does not replace the first. */
    w->head = before;
    build_begin(&b, w, 2, 3, 0);
    build_data(&b, 0, MIB);
    build_end(&b, true);
    build_commit(&b);
    site_stop(w);
    assert_int_equal(truncate(log, end), 0);
    assert_int_equal(unlink(index), 0);
    site_start(w);
    assert_int_equal(file_size(aside), size);
    assert_true(exists(second));
}

/* It cannot be set aside at the start: then before anything takes its name. */
static void test_set_aside_later(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256], segment[256], aside[256];
    seed(w);
    build_big(&b, w);
    site_stop(w);
    file_path(w, path, "aside");
    file_write(path, "", 0, 0);
    file_path(w, segment, "segments/00000000000000000002.000000.seg");
    file_write(segment, "found", 5, 0);
    site_start(w);
    assert_int_equal(file_size(segment), 5);
    build_put(&b);
    assert_int_equal(w->status, 500);
    assert_int_equal(file_size(segment), 5);
    assert_int_equal(unlink(path), 0);
    build_commit(&b);
    file_path(w, aside, "aside/00000000000000000002.000000.seg.1");
    assert_int_equal(file_size(aside), 5);
    assert_true(file_size(segment) > 5);
    expect_replica(w);
}

/* The directory of a volume that a hello began to make, and a crash or a full disk cut short. */
static void test_half_made_volume(void **state)
{
    struct world *w = *state;
    size_t volumes, damaged;
    char path[256];
    site_stop(w);
    file_path(w, path, "");
    assert_int_equal(mkdir(path, 0700), 0);
    site_start(w);
    repl_site_count(w->site, &volumes, &damaged);
    assert_int_equal(damaged, 0);
    seed(w);
    expect_replica(w);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 1);
}

static int tree_remove_one_at(const char *path)
{
    return nftw(path, tree_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* No segments directory, and a log or an index that knows better: that was no crash of ours. */
static void test_missing_segments(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "segments");
    assert_int_equal(tree_remove_one_at(path), 0);
    expect_damaged(w, "segments");
    site_stop(w);
    file_path(w, path, "log");
    assert_int_equal(unlink(path), 0);
    expect_damaged(w, "segments");
}

/* What is there is read at a start, however much it is; only new ones are refused. */
static void test_volumes_limit(void **state)
{
    struct world *w = *state;
    struct repl_hello message = hello_of(w);
    struct repl_error err = {0};
    struct site_volume *found = NULL;
    char path[256];
    seed(w);
    snprintf(path, sizeof path, "%s/volumes/more", w->store);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/volumes/more/log", w->store);
    file_write(path, "rubbish", 7, 0);
    size_t count = w->site->volume_count;
    w->site->volume_count = SITE_VOLUMES_MAX;
    must(site_volume_load(w->site, "more", &found, &err), &err);
    assert_non_null(found);
    site_volume_free(found);
    hello(w); /* one that is known */
    hello_as(w, KEY_HOST, "spare", &message);
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "keeps 4096 volumes already");
    w->site->volume_count = count;
    hello_as(w, KEY_HOST, "spare", &message);
    assert_int_equal(w->status, 200);
}

/* A volume that a refused hello left empty is forgotten while a request to it is still being
 * ended. */
static void test_closed_after_its_volume(void **state)
{
    struct world *w = *state;
    struct repl_hello message = hello_of(w);
    struct repl_error err = {0};
    struct call call;
    message.version_min = message.version_max = REPL_PROTOCOL_MAX + 1;
    hello_as(w, KEY_HOST, "spare", &message);
    expect_refusal(w, 426, REPL_REFUSAL_VERSION, "");
    assert_int_equal(w->site->volume_count, 1);
    call_init(&call, w, "PUT", "/v1/volumes/spare/segments/1.0");
    call.request.read_body = call_read;
    call.bytes = w->model;
    call.size = 100;
    must(repl_request_start(w->clients[KEY_HOST], &call.request, &err), &err);
    PUMP_UNTIL(w, call.done); /* and the site has not seen yet that the connection is closed */
    expect_refusal(w, 409, REPL_REFUSAL_GREET, "no hello");
    w->site->tick.fire(&w->site->tick);
    assert_int_equal(w->site->volume_count, 0);
    for (int i = 0; i < 30; i++)
        turn(w);
}

static void test_second_site_is_locked_out(void **state)
{
    struct world *w = *state;
    struct repl_site *second;
    struct repl_error err = {0};
    assert_int_equal(repl_site_new(w->loop, config_make(w), &second, &err).code, REPL_E_LOCKED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SITE_TEST(test_restart),
        SITE_TEST(test_crash_before_publish),
        SITE_TEST(test_staged_rubbish),
        SITE_TEST(test_crash_after_publish),
        SITE_TEST(test_torn_tail),
        SITE_TEST(test_crash_after_log),
        SITE_TEST(test_damaged_log),
        SITE_TEST(test_damaged_log_without_index),
        SITE_TEST(test_shorter_log),
        SITE_TEST(test_missing_log),
        SITE_TEST(test_missing_segment),
        SITE_TEST(test_missing_segment_without_scrub),
        SITE_TEST(test_shorter_segment),
        SITE_TEST(test_segments_without_records),
        SITE_TEST(test_half_made_volume),
        SITE_TEST(test_missing_segments),
        SITE_TEST(test_volumes_limit),
        SITE_TEST(test_closed_after_its_volume),
        SITE_TEST(test_second_site_is_locked_out),
        SITE_TEST(test_segment_without_record),
        SITE_TEST(test_set_aside_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
