#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cursor.h"

static void values_come_back(void **state)
{
    (void)state;
    uint8_t bytes[128];
    struct repl_digest digest, digest_back;
    struct repl_uuid uuid, uuid_back;
    memset(&digest, 0xd1, sizeof digest);
    memset(&uuid, 0x1d, sizeof uuid);

    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u8(&w, 0xfe);
    repl_write_u16(&w, 0xfedc);
    repl_write_u32(&w, 0xfedcba98);
    repl_write_u64(&w, UINT64_C(0xfedcba9876543210));
    repl_write_i64(&w, -2);
    repl_write_bytes(&w, "abc", 3);
    repl_write_digest(&w, &digest);
    repl_write_uuid(&w, &uuid);
    repl_write_text(&w, "volume \xc3\xa9");
    repl_write_zeros(&w, 5);
    assert_false(w.failed);

    struct repl_reader r = repl_reader_of(bytes, w.position);
    char raw[3], text[16];
    assert_int_equal(repl_read_u8(&r), 0xfe);
    assert_int_equal(repl_read_u16(&r), 0xfedc);
    assert_int_equal(repl_read_u32(&r), 0xfedcba98);
    assert_true(repl_read_u64(&r) == UINT64_C(0xfedcba9876543210));
    assert_true(repl_read_i64(&r) == -2);
    repl_read_bytes(&r, raw, sizeof raw);
    assert_memory_equal(raw, "abc", 3);
    repl_read_digest(&r, &digest_back);
    assert_memory_equal(&digest, &digest_back, sizeof digest);
    repl_read_uuid(&r, &uuid_back);
    assert_memory_equal(&uuid, &uuid_back, sizeof uuid);
    repl_read_text(&r, text, sizeof text - 1);
    assert_string_equal(text, "volume \xc3\xa9");
    assert_int_equal(repl_reader_left(&r), 5);
    repl_read_zeros(&r, 5);
    struct repl_error err;
    assert_true(repl_ok(repl_reader_end(&r, &err, "all")));
}

static void bytes_are_little_endian(void **state)
{
    (void)state;
    uint8_t bytes[14];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u16(&w, 0x0102);
    repl_write_u32(&w, 0x03040506);
    repl_write_u64(&w, UINT64_C(0x0708090a0b0c0d0e));
    assert_memory_equal(bytes, "\2\1\6\5\4\3\x0e\x0d\x0c\x0b\x0a\x09\x08\x07", sizeof bytes);
}

static void reader_stays_within_and_stays_failed(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {1, 2, 3, 4, 5};
    for (size_t size = 0; size < sizeof bytes; size++) {
        struct repl_reader r = repl_reader_of(bytes, size);
        uint8_t out[8];
        memset(out, 0xee, sizeof out);
        assert_true(repl_read_u64(&r) == 0);
        assert_true(r.failed);
        assert_int_equal(r.position, 0);
        repl_read_bytes(&r, out, 1); /* is there, but nothing comes from a failed reader */
        assert_int_equal(out[0], 0);
        assert_int_equal(out[1], 0xee);
        struct repl_error err;
        assert_int_equal(repl_reader_end(&r, &err, "thing").code, REPL_E_CORRUPT);
        assert_non_null(strstr(err.text, "thing: "));
    }
    struct repl_reader r = repl_reader_of(bytes, sizeof bytes);
    struct repl_error err;
    repl_read_u32(&r);
    assert_int_equal(repl_reader_end(&r, &err, "thing").code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "1 bytes too long"));
}

static void reader_of_nothing(void **state)
{
    (void)state;
    struct repl_reader r = repl_reader_of(NULL, 0);
    char none[1];
    repl_read_bytes(&r, none, 0);
    repl_read_zeros(&r, 0);
    struct repl_error err;
    assert_true(repl_ok(repl_reader_end(&r, &err, "nothing")));
    struct repl_writer w = repl_writer_of(NULL, 0);
    repl_write_bytes(&w, none, 0);
    repl_write_zeros(&w, 0);
    assert_false(w.failed);
    repl_write_u8(&w, 1);
    assert_true(w.failed);
}

static void writer_stays_within_and_stays_failed(void **state)
{
    (void)state;
    uint8_t bytes[5] = {9, 9, 9, 9, 9};
    struct repl_writer w = repl_writer_of(bytes, 4);
    repl_write_u16(&w, 0);
    repl_write_u32(&w, 0);
    assert_true(w.failed);
    repl_write_u8(&w, 7);
    repl_write_zeros(&w, 1);
    assert_int_equal(w.position, 2);
    assert_memory_equal(bytes, "\0\0\x09\x09\x09", 5);
}

static void reserved_bytes_are_zero(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        uint8_t bytes[4] = {0};
        bytes[i] = 1;
        struct repl_reader r = repl_reader_of(bytes, sizeof bytes);
        repl_read_zeros(&r, sizeof bytes);
        assert_true(r.failed);
    }
}

static bool text_reads(const void *bytes, size_t size, size_t limit, char *out)
{
    struct repl_reader r = repl_reader_of(bytes, size);
    repl_read_text(&r, out, limit);
    return !r.failed;
}

static void text_has_bounds(void **state)
{
    (void)state;
    char out[8];
    assert_true(text_reads("\0\0", 2, 4, out));
    assert_string_equal(out, "");
    assert_true(text_reads("\4\0abcd", 6, 4, out));
    assert_string_equal(out, "abcd");
    static const struct {
        const char *bytes;
        size_t size;
    } bad[] = {
        {"\5\0abcde", 7}, /* over the limit */
        {"\4\0abc", 5},   /* ends early */
        {"\1", 1},        {"\2\0a\0", 4}, {"\2\0a\n", 4}, {"\2\0a\x1f", 4}, {"\2\0a\x7f", 4},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        out[0] = 'x';
        assert_false(text_reads(bad[i].bytes, bad[i].size, 4, out));
        assert_string_equal(out, "");
    }
}

static void text_too_long_to_write(void **state)
{
    (void)state;
    static char text[65537], bytes[70000];
    memset(text, 'a', sizeof text - 1);
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_text(&w, text);
    assert_true(w.failed);
    text[65535] = '\0';
    w = repl_writer_of(bytes, sizeof bytes);
    repl_write_text(&w, text);
    assert_false(w.failed);
    assert_int_equal(w.position, 65537);
}

static void buffer_grows(void **state)
{
    (void)state;
    struct repl_buffer buffer = {0};
    struct repl_error err;
    assert_true(repl_ok(repl_buffer_append(&buffer, NULL, 0, &err)));
    for (unsigned i = 0; i < 10000; i++)
        assert_true(repl_ok(repl_buffer_append(&buffer, &i, sizeof i, &err)));
    assert_int_equal(buffer.size, 10000 * sizeof(unsigned));
    for (unsigned i = 0; i < 10000; i++)
        assert_memory_equal(buffer.data + i * sizeof i, &i, sizeof i);
    assert_int_equal(repl_buffer_append(&buffer, "", SIZE_MAX / 2, &err).code, REPL_E_NOMEM);
    assert_int_equal(buffer.size, 10000 * sizeof(unsigned));
    repl_buffer_fini(&buffer);
    assert_null(buffer.data);

    assert_non_null(repl_buffer_extend(&buffer, 0)); /* NULL would say: out of memory */
    assert_int_equal(buffer.size, 0);
    repl_buffer_fini(&buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_come_back),
        cmocka_unit_test(bytes_are_little_endian),
        cmocka_unit_test(reader_stays_within_and_stays_failed),
        cmocka_unit_test(reader_of_nothing),
        cmocka_unit_test(writer_stays_within_and_stays_failed),
        cmocka_unit_test(reserved_bytes_are_zero),
        cmocka_unit_test(text_has_bounds),
        cmocka_unit_test(text_too_long_to_write),
        cmocka_unit_test(buffer_grows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
