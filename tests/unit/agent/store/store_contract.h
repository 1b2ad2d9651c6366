/*
 * What every kind of store promises: tests that run on each of them. A test program
 * has its own fixture, which begins with a struct contract, and puts
 * STORE_CONTRACT_TESTS into its list.
 */
#ifndef TESTS_UNIT_STORE_CONTRACT_H
#define TESTS_UNIT_STORE_CONTRACT_H

#include <inttypes.h>
#include <pthread.h>

#include "base/limits.h"
#include "unit/agent/store/store_contract_calls.h"

/* --- volumes --------------------------------------------------------------------------------- */

static inline repl_result collect_volume(void *context, const char *volume, struct repl_error *err)
{
    char *all = context;
    (void)err;
    strcat(all, volume);
    strcat(all, " ");
    return REPL_SUCCESS;
}

static inline repl_result stop_volume(void *context, const char *volume, struct repl_error *err)
{
    *(int *)context += 1;
    return repl_fail(err, REPL_E_RETRY, "stop at %s", volume);
}

static void volumes_with_a_log_are_listed(void **state)
{
    struct contract *c = *state;
    const struct repl_store_ops *ops = c->store->ops;
    char all[256] = "";
    int count = 0;
    assert_code(c, ops->volume_create(c->store, "web-1.x", &c->err), REPL_OK);
    assert_code(c, ops->volume_create(c->store, "web-1.x", &c->err), REPL_OK);
    assert_code(c, ops->log_append(c->store, "web-1.x", 0, "x", 1, &c->err), REPL_OK);
    assert_code(c, append(c, 0, "x"), REPL_OK);
    assert_code(c, ops->volumes(c->store, collect_volume, all, &c->err), REPL_OK);
    assert_true(strcmp(all, "data web-1.x ") == 0 || strcmp(all, "web-1.x data ") == 0);
    assert_code(c, ops->volumes(c->store, stop_volume, &count, &c->err), REPL_E_RETRY);
    assert_int_equal(count, 1);

    static const char *const bad[] = {"", ".", "..", "../data", "a/b", ".x"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_code(c, ops->volume_create(c->store, bad[i], &c->err), REPL_E_INTERNAL);
    char longest[REPL_VOLUME_NAME_SIZE + 2];
    memset(longest, 'v', sizeof longest);
    longest[REPL_VOLUME_NAME_SIZE + 1] = '\0';
    assert_code(c, ops->volume_create(c->store, longest, &c->err), REPL_E_INTERNAL);
    longest[REPL_VOLUME_NAME_SIZE] = '\0';
    assert_code(c, ops->volume_create(c->store, longest, &c->err), REPL_OK);
}

static void readers_come_and_go_and_change_nothing(void **state)
{
    struct contract *c = *state;
    const struct repl_segment_id id = {.to_seq = 1};
    struct repl_store *other;
    char name[128];
    assert_code(c, append(c, 0, "one."), REPL_OK);
    assert_code(c, c->open(c, false, &other), REPL_OK);
    assert_code(c, other->ops->volume_create(other, "more", &c->err), REPL_E_REFUSED);
    assert_code(c, other->ops->log_append(other, "data", 0, "x", 1, &c->err), REPL_E_REFUSED);
    assert_code(c, other->ops->segment_remove(other, "data", &id, &c->err), REPL_E_REFUSED);
    assert_code(c, other->ops->segment_publish(other, "data", &id, 0, "x", &c->err),
                REPL_E_REFUSED);
    assert_code(c, other->ops->segment_set_aside(other, "data", &id, name, sizeof name, &c->err),
                REPL_E_REFUSED);
    assert_log_of(c, other, "one.");
    assert_code(c, append(c, 4, "two."), REPL_OK);
    assert_log_of(c, other, "one.two.");
    other->ops->close(other);
}

/* --- segments -------------------------------------------------------------------------------- */

static void assert_there(struct contract *c, const char *volume, const struct repl_segment_id *id,
                         bool expected)
{
    bool there = !expected;
    assert_code(c, c->store->ops->segment_look(c->store, volume, id, &there, &c->err), REPL_OK);
    assert_int_equal(there, expected);
}

static void segments_are_published_read_and_removed(void **state)
{
    struct contract *c = *state;
    const struct repl_store_ops *ops = c->store->ops;
    const struct repl_segment_id id = {.to_seq = 12, .part = 3};
    struct repl_stored_segment *segment;
    char bytes[8];
    assert_code(c, ops->segment_open(c->store, "data", &id, 0, &segment, &c->err), REPL_E_MISSING);
    assert_code(c, publish(c, &id, "0123456789"), REPL_OK);
    for (uint64_t size = 0; size <= 10; size += 10) {
        assert_code(c, ops->segment_open(c->store, "data", &id, size, &segment, &c->err), REPL_OK);
        assert_string_equal(segment->label, "volume data, segment 12.3");
        assert_int_equal(segment->size, 10);
        assert_code(c, segment->read_at(segment, 4, bytes, 6, &c->err), REPL_OK);
        assert_memory_equal(bytes, "456789", 6);
        assert_code(c, segment->read_at(segment, 10, bytes, 0, &c->err), REPL_OK);
        assert_code(c, segment->read_at(segment, 4, bytes, 7, &c->err), REPL_E_CORRUPT);
        assert_code(c, segment->read_at(segment, 11, bytes, 0, &c->err), REPL_E_CORRUPT);
        assert_code(c, segment->read_at(segment, UINT64_MAX, bytes, 2, &c->err), REPL_E_CORRUPT);
        segment->close(segment);
    }
    assert_code(c, publish(c, &id, "replaced"), REPL_OK); /* it was never committed */
    assert_segment(c, &id, "replaced");
    assert_there(c, "data", &id, true);
    assert_there(c, "nowhere", &id, false);
    assert_code(c, ops->segment_remove(c->store, "data", &id, &c->err), REPL_OK);
    assert_there(c, "data", &id, false);
    assert_code(c, ops->segment_remove(c->store, "data", &id, &c->err), REPL_OK);
    assert_code(c, ops->segment_open(c->store, "data", &id, 0, &segment, &c->err), REPL_E_MISSING);
    assert_code(c, ops->segment_open(c->store, "nowhere", &id, 0, &segment, &c->err),
                REPL_E_MISSING);
}

static inline repl_result collect_segment(void *context, const struct repl_segment_id *id,
                                          uint64_t size, struct repl_error *err)
{
    char *all = context;
    (void)err;
    sprintf(all + strlen(all), "%" PRIu64 ".%" PRIu32 ".%" PRIu32 ":%" PRIu64 " ", id->to_seq,
            id->part, id->supply, size);
    return REPL_SUCCESS;
}

static void segments_are_listed(void **state)
{
    struct contract *c = *state;
    static const struct repl_segment_id ids[] = {
        {.to_seq = 1},
        {.to_seq = 10, .part = 2},
        {.to_seq = 10, .part = 2, .supply = 1},
        {.to_seq = 10, .part = 2, .supply = 999},
        {.to_seq = UINT64_MAX, .part = 999999},
    };
    char all[1024] = "";
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        assert_code(c, publish(c, &ids[i], "abc"), REPL_OK);
    assert_code(c, c->store->ops->segments(c->store, "data", collect_segment, all, &c->err),
                REPL_OK);
    size_t expected_size = 0;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        char one[128] = "";
        assert_code(c, collect_segment(one, &ids[i], 3, &c->err), REPL_OK);
        assert_non_null(strstr(all, one));
        expected_size += strlen(one);
        assert_segment(c, &ids[i], "abc");
    }
    assert_int_equal(strlen(all), expected_size);
    const struct repl_segment_id part = {.to_seq = 1, .part = 1000000};
    const struct repl_segment_id supply = {.to_seq = 1, .supply = 1000};
    assert_code(c, publish(c, &part, "abc"), REPL_E_REFUSED);
    assert_code(c, publish(c, &supply, "abc"), REPL_E_REFUSED);
}

static void what_is_set_aside_is_not_found_any_more(void **state)
{
    struct contract *c = *state;
    const struct repl_segment_id id = {.to_seq = 7, .part = 1};
    char name[128], all[64] = "";
    for (int i = 1; i <= 2; i++) {
        char wanted[128];
        snprintf(wanted, sizeof wanted, "aside/00000000000000000007.000001.seg.%d", i);
        assert_code(c, publish(c, &id, "abc"), REPL_OK);
        assert_code(
            c, c->store->ops->segment_set_aside(c->store, "data", &id, name, sizeof name, &c->err),
            REPL_OK);
        assert_string_equal(name, wanted);
    }
    assert_code(c,
                c->store->ops->segment_set_aside(c->store, "data", &id, name, sizeof name, &c->err),
                REPL_OK);
    assert_string_equal(name, "");
    assert_code(c, c->store->ops->segments(c->store, "data", collect_segment, all, &c->err),
                REPL_OK);
    assert_string_equal(all, "");
}

/* At once, or not at all. */
static void a_damaged_segment_is_replaced_at_once(void **state)
{
    struct contract *c = *state;
    const struct repl_segment_id id = {.to_seq = 7, .part = 1};
    char path[PATH_SIZE];
    assert_code(c, publish(c, &id, "damaged"), REPL_OK);
    int fd = stage(c, "whole", path);
    assert_code(c, c->store->ops->segment_replace(c->store, "data", &id, fd, path, &c->err),
                REPL_OK);
    assert_segment(c, &id, "whole");
    assert_int_not_equal(access(path, F_OK), 0);
    close(fd);
}

static void only_the_staged_file_is_published(void **state)
{
    struct contract *c = *state;
    const struct repl_segment_id id = {.to_seq = 9};
    char path[PATH_SIZE], other[PATH_SIZE];
    /* the name is another file's by now, or nobody's */
    int fd = stage(c, "first", path);
    snprintf(other, sizeof other, "%.500s-2", path);
    FILE *file = fopen(other, "w");
    assert_non_null(file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(rename(other, path), 0);
    assert_code(c, c->store->ops->segment_publish(c->store, "data", &id, fd, path, &c->err),
                REPL_E_REFUSED);
    assert_int_equal(unlink(path), 0);
    assert_code(c, c->store->ops->segment_publish(c->store, "data", &id, fd, path, &c->err),
                REPL_E_MISSING);
    close(fd);
}

/* --- the log --------------------------------------------------------------------------------- */

static void a_log_grows_and_its_tail_is_cut(void **state)
{
    struct contract *c = *state;
    struct repl_store *reader;
    struct repl_buffer log = {0};
    assert_log(c, "");
    assert_code(c, append(c, 0, "one."), REPL_OK);
    assert_code(c, append(c, 4, "two."), REPL_OK);
    assert_log(c, "one.two.");
    /* a torn record, or one whose append was not acknowledged, lies behind the end */
    assert_code(c, append(c, 4, "2."), REPL_OK);
    assert_log(c, "one.2.");
    reopen(c);
    assert_log(c, "one.2.");
    assert_code(c, append(c, 4, "three."), REPL_OK);
    assert_log(c, "one.three.");
    assert_code(c, append(c, 6, "x"), REPL_OK); /* within what one append wrote */
    assert_log(c, "one.thx");
    assert_code(c, append(c, 4, ""), REPL_OK);
    assert_log(c, "one.");
    assert_code(c, append(c, 4, "three."), REPL_OK);
    assert_code(c, append(c, 11, "x"), REPL_E_CORRUPT);
    assert_log(c, "one.three.");
    assert_code(c, append(c, 0, "anew."), REPL_OK);
    assert_log(c, "anew.");

    assert_code(c, c->open(c, false, &reader), REPL_OK);
    assert_code(c, reader->ops->log_read(reader, "data", &log, NULL, &c->err), REPL_OK);
    assert_int_equal(log.size, 5);
    /* what the buffer held is replaced; no such volume, no log */
    assert_code(c, reader->ops->log_read(reader, "nowhere", &log, NULL, &c->err), REPL_OK);
    assert_int_equal(log.size, 0);
    assert_code(c, c->store->ops->volume_create(c->store, "empty", &c->err), REPL_OK);
    assert_code(c, reader->ops->log_read(reader, "empty", &log, NULL, &c->err), REPL_OK);
    assert_int_equal(log.size, 0);
    reader->ops->close(reader);
    repl_buffer_fini(&log);
}

#define CONTRACT_THREADS 4
#define CONTRACT_APPENDS 100

struct contract_worker {
    struct contract *c;
    unsigned number;
    bool failed;
};

static inline void *contract_work(void *context)
{
    struct contract_worker *worker = context;
    struct repl_store *store = worker->c->store;
    struct repl_error err;
    char volume[16];
    struct repl_buffer log = {0};
    snprintf(volume, sizeof volume, "volume-%u", worker->number);
    worker->failed = !repl_ok(store->ops->volume_create(store, volume, &err));
    for (unsigned i = 0; i < CONTRACT_APPENDS && !worker->failed; i++) {
        char text[16];
        snprintf(text, sizeof text, "%03u-%03u.", worker->number, i);
        worker->failed = !repl_ok(store->ops->log_append(store, volume, i * 8u, text, 8, &err));
        if (i % 10 == 9 && !worker->failed)
            worker->failed = !repl_ok(store->ops->log_read(store, volume, &log, NULL, &err)) ||
                             log.size != (i + 1) * 8u || memcmp(log.data + i * 8u, text, 8) != 0;
    }
    repl_buffer_fini(&log);
    return NULL;
}

static void volumes_are_written_by_several_threads(void **state)
{
    struct contract *c = *state;
    struct contract_worker workers[CONTRACT_THREADS];
    pthread_t threads[CONTRACT_THREADS];
    for (unsigned i = 0; i < CONTRACT_THREADS; i++) {
        workers[i] = (struct contract_worker){.c = c, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, contract_work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < CONTRACT_THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_false(workers[i].failed);
    }
}

#define STORE_CONTRACT_TESTS                                                                       \
    TEST(volumes_with_a_log_are_listed), TEST(readers_come_and_go_and_change_nothing),             \
        TEST(segments_are_published_read_and_removed), TEST(segments_are_listed),                  \
        TEST(what_is_set_aside_is_not_found_any_more),                                             \
        TEST(a_damaged_segment_is_replaced_at_once), TEST(only_the_staged_file_is_published),      \
        TEST(a_log_grows_and_its_tail_is_cut), TEST(volumes_are_written_by_several_threads)

#endif
