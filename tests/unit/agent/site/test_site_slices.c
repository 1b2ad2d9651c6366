/*
 * Parts of a frame, and the ends of segments, asked for of a site on loopback: they are
 * what the segments have there, and what is no frame of one is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/agent/site/site_fixture.h"

static int set_up(void **state)
{
    static struct world w;
    world_init(&w, NULL);
    site_start(&w);
    seed(&w);
    *state = &w;
    return 0;
}

static int tear_down(void **state)
{
    world_fini(*state);
    return 0;
}

/* A frame of the seed, by its index. */
static struct repl_frame_entry frame_of(struct world *w, uint32_t i)
{
    char path[256];
    struct repl_frame_entry entry;
    file_path(w, path, "segments/00000000000000000001.000000.seg");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = lseek(fd, 0, SEEK_END);
    uint8_t *bytes = malloc((size_t)size);
    struct repl_error err = {0};
    assert_true(fd >= 0 && bytes != NULL && pread(fd, bytes, (size_t)size, 0) == size);
    close(fd);
    struct memory_span span = {bytes, (size_t)size};
    struct repl_segment *segment;
    must(repl_segment_open(memory_read_at, &span, span.size, &segment, &err), &err);
    entry = segment->frames[i];
    entry.has_pages = false;
    repl_segment_free(segment);
    free(bytes);
    return entry;
}

static int ask(struct world *w, enum key key, const char *volume, const char *segment,
               const struct repl_slices *slices)
{
    struct repl_buffer body = {0};
    struct repl_error err = {0};
    struct call call;
    must(repl_slices_encode(slices, &body, &err), &err);
    call_init(&call, w, "POST", "/v1/volumes/%s/segments/%s/slices", volume, segment);
    call.request.body = body.data;
    call.request.body_size = body.size;
    int status = call_run(&call, key);
    repl_buffer_fini(&body);
    return status;
}

static void test_slices(void **state)
{
    struct world *w = *state;
    struct repl_error err = {0};
    struct repl_slice slices[] = {{0, 4096}, {5 * 4096, 7}, {MIB - 8192, 8192}};
    static uint8_t raw[MIB];
    for (uint32_t i = 0; i < 2; i++) {
        struct repl_slices wanted = {.frame = frame_of(w, i), .count = 3, .slices = slices};
        struct repl_sliced sliced;
        assert_int_equal(ask(w, i == 0 ? KEY_RECOVERY : KEY_HOST, "data", "1.0", &wanted), 200);
        must(repl_sliced_decode(w->response.data, w->response.size, &sliced, &err), &err);
        assert_int_equal(sliced.frame.raw_size, 4096 + 7 + 8192);
        must(repl_frame_decode(w->coder, &sliced.frame, sliced.stored, raw, &err), &err);
        const uint8_t *from = w->model + (uint64_t)i * MIB;
        assert_memory_equal(raw, from, 4096);
        assert_memory_equal(raw + 4096, from + 5 * 4096, 7);
        assert_memory_equal(raw + 4103, from + MIB - 8192, 8192);
    }
}

static void test_refused(void **state)
{
    struct world *w = *state;
    struct repl_slice slice = {0, 4096};
    struct repl_slices wanted = {.frame = frame_of(w, 0), .count = 1, .slices = &slice};
    struct call call;
    ask(w, KEY_OTHER, "data", "1.0", &wanted);
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "not for volume data");
    ask(w, KEY_RECOVERY, "data", "2.0", &wanted);
    expect_refusal(w, 404, REPL_REFUSAL_NOT_FOUND, "is not part of volume data's history");
    ask(w, KEY_RECOVERY, "data", "1.0.m7", &wanted);
    expect_refusal(w, 404, REPL_REFUSAL_NOT_FOUND, "");
    assert_int_equal(ask(w, KEY_RECOVERY, "data", "one", &wanted), 404);
    wanted.frame.raw_xxh3 ^= 1; /* another one, or one that is damaged */
    ask(w, KEY_RECOVERY, "data", "1.0", &wanted);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "checksum does not match");
    wanted.frame.offset = UINT64_MAX - 5;
    ask(w, KEY_RECOVERY, "data", "1.0", &wanted);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "there is no frame");
    call_init(&call, w, "POST", "/v1/volumes/data/segments/1.0/slices");
    call.request.body = "no message";
    call.request.body_size = 10;
    call_run(&call, KEY_RECOVERY);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "slices");
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/segments/1.0/slices"), 405);
}

/* --- ends of segments ------------------------------------------------------------------------ */

static int tails_ask(struct world *w, enum key key, struct repl_unopened_entry *entries,
                     uint32_t count)
{
    struct repl_unopened unopened = {.count = count, .entries = entries};
    struct repl_buffer body = {0};
    struct repl_error err = {0};
    struct call call;
    must(repl_unopened_encode(&unopened, &body, &err), &err);
    call_init(&call, w, "POST", "/v1/volumes/data/tails");
    call.request.body = body.data;
    call.request.body_size = body.size;
    int status = call_run(&call, key);
    repl_buffer_fini(&body);
    return status;
}

static void assert_tail(struct world *w, const struct repl_tail *tail, uint64_t seq)
{
    char path[256], name[64];
    static uint8_t bytes[REPL_TAIL_BYTES_MAX];
    snprintf(name, sizeof name, "segments/%020llu.000000.seg", (unsigned long long)seq);
    file_path(w, path, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && tail->size > 0);
    assert_int_equal(lseek(fd, 0, SEEK_END), tail->begin + tail->size);
    assert_int_equal(pread(fd, bytes, 128, 0), 128);
    assert_memory_equal(bytes, tail->header, 128);
    assert_int_equal(pread(fd, bytes, tail->size, (off_t)tail->begin), tail->size);
    assert_memory_equal(bytes, tail->bytes, tail->size);
    close(fd);
}

static void test_tails(void **state)
{
    struct world *w = *state;
    struct repl_error err = {0};
    struct repl_tails tails;
    for (unsigned i = 0; i < 3; i++)
        increment(w);
    struct repl_unopened_entry entries[] = {
        {.to_seq = 4}, {.to_seq = 3, .merge = 9}, {.to_seq = 9}, {.to_seq = 2}, {.to_seq = 1}};
    assert_int_equal(tails_ask(w, KEY_RECOVERY, entries, 5), 200);
    must(repl_tails_decode(w->response.data, w->response.size, &tails, &err), &err);
    assert_int_equal(tails.count, 5);
    assert_tail(w, &tails.tails[0], 4);
    assert_int_equal(tails.tails[1].size, 0); /* no merge has made it */
    assert_int_equal(tails.tails[2].size, 0); /* it is not there yet */
    assert_tail(w, &tails.tails[3], 2);
    assert_tail(w, &tails.tails[4], 1);
    repl_tails_fini(&tails);
    tails_ask(w, KEY_OTHER, entries, 5);
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "not for volume data");
}

/* What does not fit into the answer is not in it. */
static void test_tails_that_fit(void **state)
{
    struct world *w = *state;
    struct repl_error err = {0};
    struct repl_tails tails;
    static struct repl_unopened_entry entries[REPL_TAILS_MAX];
    for (unsigned i = 0; i < 12; i++) { /* some twenty thousand pages in each */
        struct build b;
        uint64_t seq = w->head.to_seq;
        build_begin(&b, w, seq, seq + 1, 0);
        for (uint64_t at = 0; at + 2 * REPL_PAGE_SIZE <= w->size; at += 2 * REPL_PAGE_SIZE)
            build_data(&b, at, REPL_PAGE_SIZE);
        build_end(&b, true);
        build_commit(&b);
    }
    for (uint32_t i = 0; i < REPL_TAILS_MAX; i++)
        entries[i].to_seq = 2 + i % 12;
    assert_int_equal(tails_ask(w, KEY_HOST, entries, REPL_TAILS_MAX), 200);
    must(repl_tails_decode(w->response.data, w->response.size, &tails, &err), &err);
    assert_true(tails.count > 0 && tails.count < REPL_TAILS_MAX);
    for (uint32_t i = 0; i < tails.count; i++)
        assert_tail(w, &tails.tails[i], 2 + i % 12);
    repl_tails_fini(&tails);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_slices, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_tails_that_fit, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("site_slices", tests, NULL, NULL);
}
