#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "segment/frame.h"
#include "unit/expect_abort.h"
#include "unit/random.h"

static int setup(void **state)
{
    struct repl_frame_coder *coder = NULL;
    repl_result result = repl_frame_coder_new(&coder, NULL);
    *state = coder;
    return !repl_ok(result);
}

static int teardown(void **state)
{
    repl_frame_coder_free(*state);
    repl_frame_coder_free(NULL);
    return 0;
}

static struct repl_frame_entry round_trip(struct repl_frame_coder *coder, const uint8_t *raw,
                                          size_t size)
{
    struct repl_buffer stored = {0};
    struct repl_frame_entry entry;
    struct repl_error err;
    assert_true(repl_ok(repl_buffer_append(&stored, "before", 6, &err)));
    assert_true(repl_ok(repl_frame_encode(coder, raw, size, &stored, &entry, &err)));
    assert_int_equal(stored.size, 6 + entry.stored_size);
    assert_memory_equal(stored.data, "before", 6);
    assert_int_equal(entry.raw_size, size);
    assert_true(entry.raw_xxh3 == repl_xxh3(raw, size));
    assert_true(entry.codec == REPL_CODEC_STORED ? entry.stored_size == size
                                                 : entry.stored_size < size);
    uint8_t *back = malloc(size); /* no byte more, so that a sanitizer sees one too many */
    assert_true(repl_ok(repl_frame_decode(coder, &entry, stored.data + 6, back, &err)));
    assert_memory_equal(raw, back, size);
    free(back);
    repl_buffer_fini(&stored);
    return entry;
}

static void frames_come_back(void **state)
{
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    struct random random = random_begin("frame", 5);
    static const size_t sizes[] = {1,    2,    31,    32,    33,      511,     4095,
                                   4096, 4097, 65535, 65536, 1000000, 1048575, REPL_FRAME_RAW_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        memset(raw, 0, sizes[i]);
        struct repl_frame_entry entry = round_trip(*state, raw, sizes[i]);
        if (sizes[i] >= 511)
            assert_int_equal(entry.codec, REPL_CODEC_ZSTD);
        random_fill(&random, raw, sizes[i]);
        entry = round_trip(*state, raw, sizes[i]);
        assert_int_equal(entry.codec, REPL_CODEC_STORED);
        for (size_t j = 0; j < sizes[i]; j++)
            raw[j] = "repl keeps a replica "[j % 21] ^ (uint8_t)(random_below(&random, 8) == 0);
        round_trip(*state, raw, sizes[i]);
    }
}

/* A frame of which hardly anything can be saved costs every reader a decode for nothing. */
static void little_gain_is_no_gain(void **state)
{
    static uint8_t raw[65536];
    struct random random = random_begin("frame", 6);
    random_fill(&random, raw, sizeof raw);
    memset(raw, 0, sizeof raw / 64);
    assert_int_equal(round_trip(*state, raw, sizeof raw).codec, REPL_CODEC_STORED);
    memset(raw, 0, sizeof raw / 16);
    assert_int_equal(round_trip(*state, raw, sizeof raw).codec, REPL_CODEC_ZSTD);
}

/* What was encoded at any level is read by who knows of none. */
static void every_level_comes_back(void **state)
{
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    static const size_t sizes[] = {1, 4096, 65536, REPL_FRAME_RAW_MAX};
    struct random random = random_begin("frame", 7);
    for (size_t level = 1; level <= REPL_FRAME_LEVEL_MAX; level++) {
        repl_frame_coder_level(*state, (unsigned)level);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            for (size_t j = 0; j < sizes[i]; j++)
                raw[j] = (uint8_t)("repl keeps a replica "[j % 21] + random_below(&random, 4));
            struct repl_frame_entry entry = round_trip(*state, raw, sizes[i]);
            if (sizes[i] > 1)
                assert_int_equal(entry.codec, REPL_CODEC_ZSTD);
        }
        random_fill(&random, raw, 65536);
        assert_int_equal(round_trip(*state, raw, 65536).codec, REPL_CODEC_STORED);
    }
    repl_frame_coder_level(*state, REPL_FRAME_ZSTD_LEVEL);
}

static void damage_is_refused(void **state)
{
    uint8_t raw[6000], back[6000];
    for (size_t codec = 0; codec < 2; codec++) {
        struct random random = random_begin("frame", 8);
        struct repl_buffer stored = {0};
        struct repl_frame_entry entry;
        struct repl_error err;
        random_fill(&random, raw, sizeof raw);
        if (codec == REPL_CODEC_ZSTD)
            memset(raw + 100, 'r', sizeof raw - 200);
        assert_true(repl_ok(repl_frame_encode(*state, raw, sizeof raw, &stored, &entry, &err)));
        assert_int_equal(entry.codec, codec);
        for (size_t i = 0; i < entry.stored_size; i++) {
            for (unsigned bit = 0; bit < 8; bit++) {
                stored.data[i] ^= (uint8_t)(1u << bit);
                err.text[0] = '\0';
                repl_result result = repl_frame_decode(*state, &entry, stored.data, back, &err);
                if (repl_ok(result)) /* a bit that zstd does not look at */
                    assert_memory_equal(raw, back, sizeof raw);
                else
                    assert_true(result.code == REPL_E_CORRUPT && strlen(err.text) > 0);
                stored.data[i] ^= (uint8_t)(1u << bit);
            }
        }
        struct repl_frame_entry shorter = entry;
        for (shorter.stored_size = 0; shorter.stored_size < entry.stored_size && codec == 1;
             shorter.stored_size++)
            assert_int_equal(repl_frame_decode(*state, &shorter, stored.data, back, &err).code,
                             REPL_E_CORRUPT);
        repl_buffer_fini(&stored);
    }
}

struct oversize {
    struct repl_frame_coder *coder;
    size_t size;
};

static void encode_size(void *context)
{
    struct oversize *oversize = context;
    struct repl_buffer stored = {0};
    struct repl_frame_entry entry;
    uint8_t *raw = calloc(1, oversize->size + 1);
    /* aborts */
    repl_ignore(repl_frame_encode(oversize->coder, raw, oversize->size, &stored, &entry, NULL));
}

static void level_none(void *context)
{
    repl_frame_coder_level(context, 0);
}

static void level_beyond(void *context)
{
    repl_frame_coder_level(context, REPL_FRAME_LEVEL_MAX + 1);
}

static void bounds_are_asserted(void **state)
{
    assert_true(aborts(level_none, *state));
    assert_true(aborts(level_beyond, *state));
    struct oversize oversize = {*state, 0};
    assert_true(aborts(encode_size, &oversize));
    oversize.size = REPL_FRAME_RAW_MAX + 1;
    assert_true(aborts(encode_size, &oversize));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_come_back),       cmocka_unit_test(little_gain_is_no_gain),
        cmocka_unit_test(every_level_comes_back), cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(bounds_are_asserted),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
