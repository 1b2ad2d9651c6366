/*
 * Histories out of a store directory: what is listed, what is read, and what is
 * said of damage.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/verbs.h"
#include "format/segment_format.h"
#include "format/slot.h"
#include "recover/block_cache.h"
#include "recover/verify_history.h"
#include "site/replica/replica.h"
#include "unit/agent/recover/store_model.h"

struct fixture {
    struct store_model model;
    struct repl_history *history;
    char findings[4096];
    struct repl_error err;
};

static void reopen(struct fixture *f)
{
    struct repl_origin *origin;
    repl_history_close(f->history);
    f->history = NULL;
    if (!repl_ok(model_origin_open(f->model.path, MODEL_VOLUME, &origin, &f->err)) ||
        !repl_ok(repl_history_open(origin, &f->history, &f->err)))
        fail_msg("%s", f->err.text);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    model_init(&f->model);
    model_fill(&f->model);
    reopen(f);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_history_close(f->history);
    model_fini(&f->model);
    free(f);
    return 0;
}

/* --- reading --------------------------------------------------------------------------------- */

static void test_catalogue(void **state)
{
    struct fixture *f = *state;
    const struct repl_catalogue *c = repl_history_catalogue(f->history);
    assert_int_equal(c->point_count, MODEL_LAST);
    assert_int_equal(c->segment_count, 5);
    assert_int_equal(c->supply_count, 1);
    assert_int_equal(c->state_count, 1);
    assert_false(c->damaged);
    assert_string_equal(c->note, "");
    assert_int_equal(c->points[2].unchanged_until_ns, model_end_ns(3) + 3000000000);
    assert_int_equal(c->points[1].unchanged_until_ns, model_end_ns(2));
    assert_string_equal(c->states[0].cause, "test");
    assert_int_equal(repl_history_segment_of(f->history, 1), 1);
    assert_int_equal(repl_history_segment_of(f->history, 4), 4);
    assert_int_equal(repl_history_segment_of(f->history, 5), SIZE_MAX);
    assert_int_equal(repl_history_base_of(f->history, 3), 0);
    assert_int_equal(repl_history_base_of(f->history, 4), 4);
}

static repl_result read_point(struct fixture *f, size_t point, uint8_t *out)
{
    struct repl_view *view;
    struct repl_view_reader *reader;
    REPL_TRY(repl_history_view(f->history, point, &view, &f->err));
    repl_result result = repl_view_reader_new(view, 4, &reader, &f->err);
    if (repl_ok(result))
        result = repl_view_read(reader, 0, out, MODEL_SIZE, &f->err);
    repl_view_reader_free(reader);
    repl_view_free(view);
    return result;
}

static void test_views(void **state)
{
    struct fixture *f = *state;
    uint8_t *bytes = malloc(MODEL_SIZE);
    for (size_t i = 0; i < MODEL_LAST; i++) {
        if (!repl_ok(read_point(f, i, bytes)))
            fail_msg("%s", f->err.text);
        assert_memory_equal(bytes, f->model.points[i + 1], MODEL_SIZE);
    }
    free(bytes);
}

/* --- ends of segments ------------------------------------------------------------------------ */

static struct {
    const struct repl_origin_ops *real;
    unsigned asked, read; /* ends, and calls of read_at for what they have */
    uint32_t fit;         /* into an answer */
    bool fails, shifted;
} ends;

static repl_result ends_read_at(struct repl_origin *origin, const struct repl_segment_id *id,
                                uint64_t file_size, uint64_t offset, void *out, size_t size,
                                struct repl_error *err)
{
    ends.read += offset < REPL_SEGMENT_HEADER_SIZE || offset + size == file_size;
    return ends.real->read_at(origin, id, file_size, offset, out, size, err);
}

/* All but the header is given as the end: where it begins is the answer's to say. */
static repl_result ends_tails(struct repl_origin *origin, const struct repl_unopened *unopened,
                              void **body, struct repl_tails *out, struct repl_error *err)
{
    static uint8_t bytes[16][REPL_TAIL_BYTES_MAX];
    struct repl_catalogue c = {0};
    if (ends.fails)
        return repl_fail(err, REPL_E_VERSION, "no ends");
    REPL_TRY(ends.real->catalogue(origin, &c, err));
    ends.asked += unopened->count;
    *body = NULL;
    *out = (struct repl_tails){.tails = calloc(16, sizeof out->tails[0])};
    for (uint32_t i = 0; i < unopened->count && i < ends.fit; i++) {
        const struct repl_unopened_entry *entry = &unopened->entries[i];
        const struct repl_segment_id id = {
            .to_seq = entry->to_seq, .part = entry->part, .merge = entry->merge};
        uint64_t size = 0;
        for (size_t k = 0; k < c.segment_count; k++) {
            if (c.segments[k].head.to_seq == id.to_seq && c.segments[k].head.part == id.part)
                size = c.segments[k].file_size;
        }
        struct repl_tail *tail = &out->tails[out->count++];
        assert_true(size > 0);
        uint64_t begin = size > 20000 ? size - 20000 : REPL_SEGMENT_HEADER_SIZE;
        *tail = (struct repl_tail){.size = (uint32_t)(size - begin),
                                   .begin = begin - ends.shifted,
                                   .header = bytes[i],
                                   .bytes = bytes[i] + REPL_SEGMENT_HEADER_SIZE};
        REPL_TRY(ends.real->read_at(origin, &id, size, 0, bytes[i], REPL_SEGMENT_HEADER_SIZE, err));
        REPL_TRY(ends.real->read_at(origin, &id, size, begin, bytes[i] + REPL_SEGMENT_HEADER_SIZE,
                                    tail->size, err));
    }
    repl_catalogue_fini(&c);
    return REPL_SUCCESS;
}

static void all_points(struct fixture *f, bool fails, bool shifted, uint32_t fit)
{
    uint8_t *bytes = malloc(MODEL_SIZE);
    reopen(f);
    struct repl_origin *origin = repl_history_origin(f->history);
    ends.real = origin->ops;
    struct repl_origin_ops ops = *origin->ops;
    ops.tails = ends_tails;
    ops.read_at = ends_read_at;
    origin->ops = &ops;
    ends.asked = ends.read = 0;
    ends.fails = fails;
    ends.shifted = shifted;
    ends.fit = fit;
    for (size_t i = MODEL_LAST; i-- > 0;) {
        if (!repl_ok(read_point(f, i, bytes)))
            fail_msg("%s", f->err.text);
        assert_memory_equal(bytes, f->model.points[i + 1], MODEL_SIZE);
    }
    origin->ops = ends.real;
    free(bytes);
}

/* Each end is asked for once; without them, and where they do not fit, segments are read. */
static void test_ends(void **state)
{
    struct fixture *f = *state;
    all_points(f, false, false, 16);
    assert_int_equal(ends.asked, 5);
    assert_true(ends.read <= 2); /* of the supply, which has none */
    unsigned least = ends.read;
    all_points(f, false, false, 2); /* what did not fit is asked for again */
    assert_true(ends.asked > 5);
    assert_int_equal(ends.read, least);
    all_points(f, true, false, 16);
    assert_int_equal(ends.asked, 0);
    assert_true(ends.read > least);
    all_points(f, false, true, 16); /* they do not end where the segment does */
    assert_true(ends.read > least);
}

static void test_unknown_volume(void **state)
{
    struct fixture *f = *state;
    struct repl_origin *origin;
    struct repl_history *history;
    assert_true(repl_ok(model_origin_open(f->model.path, "other", &origin, &f->err)));
    assert_int_equal(repl_history_open(origin, &history, &f->err).code, REPL_E_MISSING);
    assert_non_null(strstr(f->err.text, "no volume other"));
    struct repl_origin_options options = {.store = f->model.path};
    assert_int_equal(repl_origin_open(&options, "../data", &origin, &f->err).code, REPL_E_USAGE);
    options.site = "host:1";
    assert_int_equal(repl_origin_open(&options, "data", &origin, &f->err).code, REPL_E_USAGE);
    options = (struct repl_origin_options){.site = "host:1"};
    assert_int_equal(repl_origin_open(&options, "data", &origin, &f->err).code, REPL_E_USAGE);
}

/* --- logs that are not whole ----------------------------------------------------------------- */

static void log_path(const struct fixture *f, char path[400])
{
    snprintf(path, 400, "%s/volumes/%s/log", f->model.path, MODEL_VOLUME);
}

static void test_torn_log(void **state)
{
    struct fixture *f = *state;
    char path[400];
    log_path(f, path);
    append_bytes(path, "RLOG\x40\x00\x01\x02", 8);
    reopen(f);
    const struct repl_catalogue *c = repl_history_catalogue(f->history);
    assert_false(c->damaged);
    assert_int_equal(c->point_count, MODEL_LAST);
    assert_non_null(strstr(c->note, "torn"));
    assert_non_null(strstr(c->note, "cannot be told"));
}

static void test_damaged_log(void **state)
{
    struct fixture *f = *state;
    char path[400];
    log_path(f, path);
    flip_bit(path, 500); /* within a commit record that others follow */
    reopen(f);
    const struct repl_catalogue *c = repl_history_catalogue(f->history);
    assert_true(c->damaged);
    assert_true(c->point_count < MODEL_LAST);
    assert_non_null(strstr(c->note, "damaged"));
}

/* Where the k-th commit record begins. */
static size_t commit_offset(const struct fixture *f, unsigned k, uint8_t **log, size_t *size)
{
    char path[400];
    struct repl_log_record record;
    log_path(f, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    *size = (size_t)lseek(fd, 0, SEEK_END);
    *log = malloc(*size);
    assert_int_equal(pread(fd, *log, *size, 0), *size);
    close(fd);
    for (size_t at = 0, length; at < *size; at += length) {
        assert_true(repl_ok(repl_log_record_decode(*log + at, *size - at, &record, &length, NULL)));
        if (record.type == REPL_LOG_COMMIT && k-- == 0)
            return at;
    }
    fail();
    return 0;
}

/* Cuts the log, or zeroes it, before the k-th commit, and puts it back afterwards. */
static const struct repl_catalogue *log_cut(struct fixture *f, unsigned k, bool zeros)
{
    char path[400];
    uint8_t *log;
    size_t size, at = commit_offset(f, k, &log, &size);
    log_path(f, path);
    assert_int_equal(truncate(path, (off_t)at), 0);
    if (zeros)
        assert_int_equal(truncate(path, (off_t)size), 0);
    reopen(f);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, log, size, 0), size);
    close(fd);
    free(log);
    return repl_history_catalogue(f->history);
}

/* Committed records that are gone from the log's end leave no other trace than their segments. */
static void test_cut_log(void **state)
{
    struct fixture *f = *state;
    for (int zeros = 0; zeros < 2; zeros++) {
        const struct repl_catalogue *c = log_cut(f, 4, zeros);
        assert_false(c->damaged);
        assert_int_equal(c->point_count, 3);
        assert_non_null(strstr(c->note, "segment 4.0 lies in the store and not in its log"));
        assert_non_null(strstr(c->note, "cannot be told"));
        c = log_cut(f, 3, zeros);
        assert_true(c->damaged);
        assert_int_equal(c->point_count, 2);
        assert_non_null(strstr(c->note, "2 segments, up to 4.0, lie in the store"));
    }
    reopen(f);
    assert_false(repl_history_catalogue(f->history)->damaged);
}

/* --- the verb -------------------------------------------------------------------------------- */

static void verify_option(const char *name, const char *value)
{
    const struct repl_option *option = repl_verb_verify.options;
    while (strcmp(option->name, name) != 0)
        option++;
    *(const char **)option->value = value;
}

static int verify_run(struct fixture *f)
{
    char volume[] = MODEL_VOLUME;
    char *arguments[] = {volume, NULL};
    verify_option("store", f->model.path);
    return repl_verb_verify.run(1, arguments);
}

static void test_verb_cut_log(void **state)
{
    struct fixture *f = *state;
    char path[400];
    uint8_t *log;
    size_t size;
    log_path(f, path);
    assert_int_equal(verify_run(f), REPL_EXIT_OK);
    assert_int_equal(truncate(path, (off_t)commit_offset(f, 3, &log, &size)), 0);
    free(log);
    assert_int_equal(verify_run(f), REPL_EXIT_CORRUPT);
}

/* --- verify ---------------------------------------------------------------------------------- */

static void note_finding(void *context, const char *text)
{
    struct fixture *f = context;
    size_t used = strlen(f->findings);
    snprintf(f->findings + used, sizeof f->findings - used, "%s\n", text);
}

static void verify(struct fixture *f, struct repl_verify_result *out)
{
    struct repl_verify_options options = {
        .history = f->history, .threads = 3, .finding = note_finding, .context = f};
    f->findings[0] = '\0';
    if (!repl_ok(repl_verify_history(&options, out, &f->err)))
        fail_msg("%s", f->err.text);
}

static void test_verify_whole(void **state)
{
    struct fixture *f = *state;
    struct repl_verify_result result;
    verify(f, &result);
    assert_string_equal(f->findings, "");
    assert_int_equal(result.segment_count, 5);
    assert_int_equal(result.supply_count, 1);
    assert_int_equal(result.reference_count, 3);
    assert_int_equal(result.damaged_count, 0);
    assert_int_equal(result.broken_links, 0);
    assert_int_equal(result.affected_count, 0);
    repl_verify_result_fini(&result);
}

static void assert_affected(const struct repl_verify_result *result, const char *expected)
{
    for (size_t i = 0; i < MODEL_LAST; i++)
        assert_int_equal(result->point_affected[i], expected[i] == 'x');
}

/* A frame of the second point: only the points up to the next full. */
static void test_verify_damaged_segment(void **state)
{
    struct fixture *f = *state;
    struct repl_verify_result result;
    char path[400];
    model_segment_path(&f->model, 2, 0, path);
    flip_bit(path, REPL_SEGMENT_HEADER_SIZE + 100);
    reopen(f);
    verify(f, &result);
    assert_non_null(strstr(f->findings, "segment 2.0"));
    assert_int_equal(result.damaged_count, 1);
    assert_affected(&result, ".xx.");
    repl_verify_result_fini(&result);

    uint8_t *bytes = malloc(MODEL_SIZE);
    assert_int_equal(read_point(f, 1, bytes).code, REPL_E_CORRUPT);
    assert_non_null(strstr(f->err.text, "segment 2.0"));
    assert_true(repl_ok(read_point(f, 0, bytes)));
    free(bytes);
}

/* A part of the first full that also holds a chunk the later full refers to. */
static void test_verify_damaged_chunk(void **state)
{
    struct fixture *f = *state;
    struct repl_verify_result result;
    char path[400];
    model_segment_path(&f->model, 1, 0, path);
    flip_bit(path, REPL_SEGMENT_HEADER_SIZE + 100);
    reopen(f);
    verify(f, &result);
    assert_int_equal(result.damaged_count, 1);
    assert_affected(&result, "xxxx");
    repl_verify_result_fini(&result);
}

static void test_verify_missing_segment(void **state)
{
    struct fixture *f = *state;
    struct repl_verify_result result;
    char path[400];
    model_segment_path(&f->model, 1, 0, path);
    assert_int_equal(unlink(path), 0);
    reopen(f);
    assert_true(repl_history_catalogue(f->history)->damaged);
    assert_non_null(strstr(repl_history_catalogue(f->history)->note, "1.0"));
    verify(f, &result);
    assert_non_null(strstr(f->findings, "segment 1.0"));
    assert_non_null(strstr(f->findings, "is in no segment that can be read"));
    assert_affected(&result, "xxxx");
    repl_verify_result_fini(&result);

    uint8_t *bytes = malloc(MODEL_SIZE);
    assert_int_equal(read_point(f, 0, bytes).code, REPL_E_MISSING);
    assert_int_equal(read_point(f, 3, bytes).code, REPL_E_MISSING);
    assert_non_null(strstr(f->err.text, "1.0"));
    free(bytes);
}

/* One segment under another's name is whole in itself. */
static void test_verify_exchanged_segment(void **state)
{
    struct fixture *f = *state;
    struct repl_verify_result result;
    char from[400], to[400];
    model_segment_path(&f->model, 2, 0, from);
    model_segment_path(&f->model, 3, 0, to);
    assert_int_equal(rename(from, to), 0);
    reopen(f);
    verify(f, &result);
    assert_int_equal(result.damaged_count, 2);
    assert_affected(&result, ".xx.");
    repl_verify_result_fini(&result);
}

/* --- the replica ----------------------------------------------------------------------------- */

static void write_file(const char *path, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    close(fd);
}

static struct repl_replica_result compare(struct fixture *f, const char *state_path,
                                          const char *image_path)
{
    struct repl_verify_options options = {
        .history = f->history, .threads = 2, .finding = note_finding, .context = f};
    struct repl_replica_result result;
    if (!repl_ok(repl_verify_replica(&options, state_path, image_path, &result, &f->err)))
        fail_msg("%s", f->err.text);
    return result;
}

static void test_replica(void **state)
{
    struct fixture *f = *state;
    char image[300], state_path[300];
    uint8_t slots[REPL_SLOT_FILE] = {0};
    snprintf(image, sizeof image, "%s/image", f->model.temporary.path);
    snprintf(state_path, sizeof state_path, "%s/state", f->model.temporary.path);
    write_file(image, f->model.points[2], MODEL_SIZE);
    struct repl_replica_state replica = {.volume = f->model.uuid,
                                         .reached =
                                             repl_history_catalogue(f->history)->segments[2].head,
                                         .size = MODEL_SIZE};
    repl_replica_state_encode(&replica, 2, slots);
    write_file(state_path, slots, sizeof slots);
    struct repl_replica_result result = compare(f, state_path, image);
    assert_int_equal(result.verdict, REPL_REPLICA_SAME);
    assert_int_equal(result.seq, 2);
    assert_int_equal(result.compared_bytes, MODEL_SIZE);

    flip_bit(image, 5000);
    result = compare(f, state_path, image);
    assert_int_equal(result.verdict, REPL_REPLICA_DIFFERS);
    assert_int_equal(result.differing_bytes, REPL_PAGE_SIZE);
    assert_int_equal(result.first_difference, REPL_PAGE_SIZE);

    replica.applying = true;
    repl_replica_state_encode(&replica, 3, slots + REPL_SLOT_SIZE);
    write_file(state_path, slots, sizeof slots);
    assert_int_equal(compare(f, state_path, image).verdict, REPL_REPLICA_BETWEEN);

    replica.applying = false;
    replica.reached.digest.bytes[0] ^= 1;
    repl_replica_state_encode(&replica, 4, slots);
    write_file(state_path, slots, sizeof slots);
    struct repl_verify_options options = {.history = f->history, .finding = note_finding};
    assert_int_equal(repl_verify_replica(&options, state_path, image, &result, &f->err).code,
                     REPL_E_CORRUPT);
}

/* A replica outside the store keeps its state in the store, under a name made of its path. */
static void test_verb_replica(void **state)
{
    struct fixture *f = *state;
    char image[300], directory[400], state_path[500];
    uint8_t slots[REPL_SLOT_FILE] = {0};
    snprintf(image, sizeof image, "%s/image", f->model.temporary.path);
    snprintf(directory, sizeof directory, "%s/volumes/%s", f->model.path, MODEL_VOLUME);
    write_file(image, f->model.points[2], MODEL_SIZE);
    struct repl_replica_state replica = {.volume = f->model.uuid,
                                         .reached =
                                             repl_history_catalogue(f->history)->segments[2].head,
                                         .size = MODEL_SIZE};
    repl_replica_state_encode(&replica, 2, slots);
    assert_true(repl_replica_state_path(directory, image, state_path, sizeof state_path));
    write_file(state_path, slots, sizeof slots);
    verify_option("replica", image);
    assert_int_equal(verify_run(f), REPL_EXIT_OK);
    flip_bit(image, 5000);
    assert_int_equal(verify_run(f), REPL_EXIT_CORRUPT);
    verify_option("replica", NULL);
    assert_int_equal(verify_run(f), REPL_EXIT_OK);

    assert_true(repl_replica_state_path("/s", "image", state_path, sizeof state_path));
    assert_string_equal(state_path, "/s/replica.state");
    assert_false(repl_replica_state_path("/s", "/dev/x", state_path, 20));
}

/* --- the cache of blocks --------------------------------------------------------------------- */

#define CACHED_SIZE (5 * REPL_CACHE_BLOCK_SIZE + 100)

struct remote {
    pthread_mutex_t mutex;
    unsigned fetches;
    bool fails;
};

static uint8_t remote_byte(uint64_t offset)
{
    return (uint8_t)(offset * 31 + (offset >> 12));
}

static repl_result remote_fetch(void *context, const struct repl_segment_id *id, uint64_t offset,
                                void *out, size_t size, struct repl_error *err)
{
    struct remote *remote = context;
    uint8_t *bytes = out;
    pthread_mutex_lock(&remote->mutex);
    remote->fetches++;
    bool fails = remote->fails;
    pthread_mutex_unlock(&remote->mutex);
    if (fails)
        return repl_fail(err, REPL_E_RETRY, "away");
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(remote_byte(offset + i) + id->part);
    return REPL_SUCCESS;
}

static struct repl_block_cache *shared_cache;

static void *cache_user(void *context)
{
    struct random random = {(uint64_t)(uintptr_t)context};
    uint8_t bytes[3000];
    for (unsigned i = 0; i < 2000; i++) {
        struct repl_segment_id id = {.to_seq = 1, .part = (uint32_t)random_below(&random, 2)};
        uint64_t offset = random_below(&random, CACHED_SIZE - sizeof bytes);
        ensure(repl_ok(repl_block_cache_read(shared_cache, &id, CACHED_SIZE, offset, bytes,
                                             sizeof bytes, NULL)));
        for (size_t k = 0; k < sizeof bytes; k += 97)
            ensure(bytes[k] == (uint8_t)(remote_byte(offset + k) + id.part));
    }
    return NULL;
}

static void test_cache(void **state)
{
    (void)state;
    struct remote remote = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    struct repl_segment_id id = {.to_seq = 1};
    uint8_t bytes[64];
    struct repl_error err;
    assert_true(repl_ok(repl_block_cache_new(6, remote_fetch, &remote, &shared_cache, &err)));
    remote.fails = true;
    assert_int_equal(repl_block_cache_read(shared_cache, &id, CACHED_SIZE, 0, bytes, 64, &err).code,
                     REPL_E_RETRY);
    remote.fails = false;
    remote.fetches = 0;
    for (unsigned i = 0; i < 10; i++)
        assert_true(repl_ok(
            repl_block_cache_read(shared_cache, &id, CACHED_SIZE, i * 64, bytes, 64, &err)));
    assert_int_equal(remote.fetches, 1);
    assert_true(repl_ok(
        repl_block_cache_read(shared_cache, &id, CACHED_SIZE, CACHED_SIZE - 64, bytes, 64, &err)));
    assert_int_equal(
        repl_block_cache_read(shared_cache, &id, CACHED_SIZE, CACHED_SIZE - 63, bytes, 64, &err)
            .code,
        REPL_E_CORRUPT);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, cache_user, (void *)(uintptr_t)(i + 1)),
                         0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    repl_block_cache_free(shared_cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_catalogue, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_views, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unknown_volume, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_ends, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_torn_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_verify_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_verify_damaged_segment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_verify_damaged_chunk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_verify_missing_segment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_verify_exchanged_segment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_replica, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cut_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_verb_cut_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_verb_replica, set_up, tear_down),
        cmocka_unit_test(test_cache),
    };
    return cmocka_run_group_tests_name("history", tests, NULL, NULL);
}
