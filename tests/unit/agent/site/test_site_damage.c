/*
 * Damage at the site: an upload with one byte changed, or cut off anywhere, never becomes part of
 * the history; and a site that finds one byte of its log or of its replica's state changed, or one
 * of them cut off, goes on as it was or says what is wrong, and loses nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/slot.h"
#include "unit/agent/site/site_fixture.h"
#include "unit/damage.h"

#define VOLUME_SIZE (2u * REPL_CHUNK_SIZE + REPL_PAGE_SIZE)

static int set_up(void **state)
{
    static struct world w;
    world_init(&w, "image");
    w.size = VOLUME_SIZE;
    site_start(&w);
    *state = &w;
    return 0;
}

static int tear_down(void **state)
{
    world_fini(*state);
    return 0;
}

/* Bytes that compress to next to nothing. */
static uint32_t small_data(struct build *b, uint64_t offset, size_t size)
{
    uint8_t *bytes = b->w->model + offset;
    memset(bytes, (int)random_below(&b->w->random, 256), size);
    random_fill(&b->w->random, bytes, 16);
    uint32_t frame = add_frame(b->builder, b->w->coder, bytes, size);
    build_extent(b,
                 &(struct repl_extent){
                     .offset = offset, .length = size, .source = frame, .type = REPL_RECORD_DATA});
    return frame;
}

/* The first: a full with a chunk. Those behind it: a page and zeros. */
static void small_build(struct build *b, struct world *w)
{
    struct repl_error err = {0};
    uint64_t seq = w->head.to_seq;
    build_begin(b, w, seq, seq + 1, 0);
    if (seq == 0) {
        struct repl_chunk_entry chunk = {.frame = small_data(b, 0, REPL_CHUNK_SIZE)};
        chunk.name = chunk_name_of(w->model);
        must(repl_segment_builder_chunk(b->builder, &chunk, &err), &err);
        build_zero(b, REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
        small_data(b, (uint64_t)2 * REPL_CHUNK_SIZE, REPL_PAGE_SIZE);
    } else {
        small_data(b, REPL_PAGE_SIZE, 2 * REPL_PAGE_SIZE);
        build_zero(b, 5 * REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    }
    build_end(b, true);
}

static void commit_small(struct world *w)
{
    struct build b;
    small_build(&b, w);
    build_commit(&b);
}

/* Whatever it is that the site does not like. */
static void put_damaged(struct build *b, size_t size)
{
    struct world *w = b->w;
    int status = put(w, b->header.to_seq, b->header.part, 0, b->file.bytes.data, size);
    if (status < 400 || w->refusal.text[0] == '\0')
        fail_msg("answered %d \"%s\"", status, w->refusal.text);
}

static void every_flip_of_an_upload(void **state)
{
    struct world *w = *state;
    struct build b;
    unsigned count = 0;
    hello(w);
    for (unsigned i = 0; i < 2; i++) {
        small_build(&b, w);
        uint8_t *bytes = b.file.bytes.data;
        for (size_t at = 0; at < b.file.bytes.size; at += DAMAGE_STEP, count++) {
            bytes[at] ^= (uint8_t)(1u << at % 8);
            put_damaged(&b, b.file.bytes.size);
            bytes[at] ^= (uint8_t)(1u << at % 8);
        }
        for (size_t size = 0; size < b.file.bytes.size; size += 3 * DAMAGE_STEP, count++)
            put_damaged(&b, size);
        struct repl_welcome welcome = hello(w);
        assert_true(welcome.head.to_seq == i);
        build_commit(&b);
        expect_replica(w);
    }
    printf("%u damaged uploads refused\n", count);
}

/* --- at a start ------------------------------------------------------------------------------ */

static size_t file_size(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return (size_t)status.st_size;
}

/* All the points there are, or not served, in words. */
static bool history_judge(struct world *w)
{
    struct repl_hello message = hello_of(w);
    struct repl_points_page points = {0};
    struct repl_error err = {0};
    if (hello_as(w, KEY_HOST, "data", &message) != 200) {
        assert_non_null(strstr(w->refusal.text, "history damaged"));
        assert_non_null(strstr(volume_status(w, "data").cause, "history damaged"));
        return false;
    }
    struct repl_welcome welcome;
    must(repl_welcome_decode(w->response.data, w->response.size, &welcome, &err), &err);
    assert_true(repl_digest_equal(&welcome.head.digest, &w->head.digest));
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 200);
    must(repl_points_page_decode(w->response.data, w->response.size, &points, &err), &err);
    assert_int_equal(points.count, w->head.to_seq);
    repl_points_page_fini(&points);
    return true;
}

static void every_flip_of_the_log(void **state)
{
    struct world *w = *state;
    char path[256];
    uint8_t bytes[4096];
    unsigned refused = 0, same = 0;
    hello(w);
    commit_small(w);
    commit_small(w);
    expect_replica(w);
    file_path(w, path, "log");
    site_stop(w);
    size_t size = file_size(path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && size < sizeof bytes && pread(fd, bytes, size, 0) == (ssize_t)size);
    for (size_t i = 0; i < size + size / 4; i += DAMAGE_STEP) { /* a byte changed, then cut off */
        if (i < size)
            flip_bits(path, (off_t)i, (uint8_t)(1u << i % 8));
        else
            assert_int_equal(ftruncate(fd, (off_t)(4 * (i - size))), 0);
        site_start(w);
        bool served = history_judge(w);
        same += served;
        refused += !served;
        site_stop(w);
        assert_true(pwrite(fd, bytes, size, 0) == (ssize_t)size); /* nothing else has changed */
    }
    close(fd);
    printf("log of %zu bytes: %u starts refused the volume, %u served it\n", size, refused, same);
    assert_int_equal(same, 0);
    site_start(w);
    assert_true(history_judge(w));
    commit_small(w);
    expect_replica(w);
}

static void every_flip_of_the_replicas_state(void **state)
{
    struct world *w = *state;
    char path[256];
    uint8_t bytes[REPL_SLOT_FILE];
    hello(w);
    commit_small(w);
    commit_small(w);
    expect_replica(w);
    file_path(w, path, "replica.state");
    site_stop(w);
    assert_int_equal(file_size(path), sizeof bytes);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && pread(fd, bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes);
    close(fd);
    /* Of the zeros behind the fields, one byte in 128. */
    for (size_t at = 0; at < sizeof bytes; at += at % REPL_SLOT_SIZE < 128 ? DAMAGE_STEP : 128) {
        unlink(path);
        fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0 && write(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes);
        assert_int_equal(at % 5 == 4 ? ftruncate(fd, (off_t)at) : 0, 0);
        close(fd);
        if (at % 5 != 4)
            flip_bits(path, (off_t)at, (uint8_t)(1u << at % 8));
        site_start(w);
        expect_replica(w);
        site_stop(w);
    }
    site_start(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_flip_of_an_upload, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_flip_of_the_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_flip_of_the_replicas_state, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
