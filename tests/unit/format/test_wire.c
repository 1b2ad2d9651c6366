/*
 * The messages: every type with random values there and back, the bytes where the specification
 * says, every truncation refused, other protocol versions refused in words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "unit/format/wire_model.h"

#define ROUNDS 200

static void random_messages_come_back(void **state)
{
    struct random random = random_begin("random_messages_come_back", 1);
    (void)state;
    for (size_t i = 0; i < ROW_COUNT * ROUNDS; i++) {
        const struct row *row = &rows[i % ROW_COUNT];
        union message m = {0}, back;
        struct repl_error err;
        struct repl_buffer buffer = {0};
        row->make(&random, &m);
        /* it is appended to what is there */
        assert_true(repl_ok(repl_buffer_append(&buffer, "before", 6, &err)));
        assert_true(repl_ok(row->encode(&m, &buffer, &err)));
        assert_memory_equal(buffer.data, "before", 6);
        const uint8_t *data = buffer.data + 6;
        size_t size = buffer.size - 6;
        assert_int_equal(repl_wire_type_of(data, size), row->type);
        for (size_t j = 0; j < ROW_COUNT; j++) {
            if (j != i % ROW_COUNT)
                assert_int_equal(decode_copy(&rows[j], data, size), REPL_E_CORRUPT);
        }
        assert_true(repl_ok(row->decode(data, size, &back, &err)));
        assert_true(row->same(&m, &back));
        row->free(&m);
        row->free(&back);
        repl_buffer_fini(&buffer);
    }
}

/* Cut short, with the size it announces left as it was or cut as well; and made longer. */
static void every_truncation_is_refused(void **state)
{
    struct random random = random_begin("every_truncation_is_refused", 2);
    (void)state;
    for (size_t i = 0; i < ROW_COUNT * 4; i++) {
        const struct row *row = &rows[i % ROW_COUNT];
        union message m = {0};
        struct repl_error err;
        struct repl_buffer buffer = {0};
        row->make(&random, &m);
        assert_true(repl_ok(row->encode(&m, &buffer, &err)));
        size_t whole = buffer.size;
        for (size_t size = 0; size < whole; size++) {
            set_size(buffer.data, whole);
            assert_int_equal(decode_copy(row, buffer.data, size), REPL_E_CORRUPT);
            set_size(buffer.data, size);
            assert_int_equal(decode_copy(row, buffer.data, size), REPL_E_CORRUPT);
        }
        *repl_buffer_extend(&buffer, 1) = 0;
        set_size(buffer.data, whole);
        assert_int_equal(decode_copy(row, buffer.data, whole + 1), REPL_E_CORRUPT);
        set_size(buffer.data, whole + 1);
        assert_int_equal(decode_copy(row, buffer.data, whole + 1), REPL_E_CORRUPT);
        row->free(&m);
        repl_buffer_fini(&buffer);
    }
}

/* No checksum: TLS sees to the bytes. But whatever changes, a decoder survives it, and what it
 * accepts it encodes to the same bytes: there is one way to say each thing. */
static void what_is_accepted_is_canonical(void **state)
{
    struct random random = random_begin("what_is_accepted_is_canonical", 3);
    (void)state;
    for (size_t i = 0; i < ROW_COUNT * 2000; i++) {
        const struct row *row = &rows[i % ROW_COUNT];
        union message m = {0}, back;
        struct repl_error err;
        struct repl_buffer buffer = {0}, again = {0};
        row->make(&random, &m);
        assert_true(repl_ok(row->encode(&m, &buffer, &err)));
        for (uint64_t n = 1 + random_below(&random, 3); n > 0; n--)
            buffer.data[random_below(&random, buffer.size)] ^=
                (uint8_t)(1u << random_below(&random, 8));
        if (repl_ok(row->decode(buffer.data, buffer.size, &back, &err))) {
            assert_true(repl_ok(row->encode(&back, &again, &err)));
            assert_int_equal(again.size, buffer.size);
            assert_memory_equal(again.data, buffer.data, again.size);
            row->free(&back);
        }
        row->free(&m);
        repl_buffer_fini(&buffer);
        repl_buffer_fini(&again);
    }
}

/* --- the bytes, as docs/formats/wire.md has them --------------------------------------------- */

static void assert_encodes(enum repl_wire_type type, const union message *m, const char *bytes,
                           size_t size)
{
    struct repl_buffer buffer = {0};
    struct repl_error err;
    assert_true(repl_ok(row_of(type)->encode(m, &buffer, &err)));
    assert_int_equal(buffer.size, size);
    assert_memory_equal(buffer.data, bytes, size);
    repl_buffer_fini(&buffer);
}

static void bytes_lie_where_the_specification_says(void **state)
{
    (void)state;
    union message m = {.hello = {.version_min = 1,
                                 .version_max = 0x0302,
                                 .kind = REPL_VOLUME_BLOCK,
                                 .lineage = 0x1112131415161718,
                                 .volume_size = 0x2122232425262728,
                                 .rpo_ms = 0x31323334,
                                 .sent_ns = -2}};
    memset(&m.hello.volume, 'v', sizeof m.hello.volume);
    assert_encodes(REPL_WIRE_HELLO, &m,
                   "REPL\1\0\0\0\x40\0\0\0"
                   "\1\0\2\3"
                   "vvvvvvvvvvvvvvvv\1\0\0\0"
                   "\x18\x17\x16\x15\x14\x13\x12\x11"
                   "\x28\x27\x26\x25\x24\x23\x22\x21"
                   "\x34\x33\x32\x31"
                   "\xfe\xff\xff\xff\xff\xff\xff\xff",
                   64);
    m = (union message){.ack = {.head = {.from_seq = 1, .to_seq = 2, .part = 3, .has_point = true},
                                .received_ns = 4,
                                .replied_ns = 5}};
    memset(&m.ack.head.digest, 'd', sizeof m.ack.head.digest);
    assert_encodes(REPL_WIRE_ACK, &m,
                   "REPL\3\0\0\0\x54\0\0\0"
                   "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\1\0\0\0"
                   "dddddddddddddddddddddddddddddddd"
                   "\4\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0",
                   84);
    m = (union message){.refusal = {.code = REPL_REFUSAL_FORK, .text = "no"}};
    assert_encodes(REPL_WIRE_REFUSAL, &m, "REPL\4\0\0\0\x14\0\0\0\5\0\0\0\2\0no", 20);
    struct repl_page_digest page;
    memset(&page, 'p', sizeof page);
    m = (union message){.digests = {.count = 1,
                                    .first_page = 3,
                                    .at = {.point = {.seq = 9,
                                                     .begin_ns = 4,
                                                     .end_ns = 5,
                                                     .consistency = REPL_CONSISTENCY_CRASH,
                                                     .cut = REPL_CUT_WINDOW,
                                                     .flags = REPL_POINT_GROUP,
                                                     .attempts = 6,
                                                     .changed_bytes = 7},
                                           .unchanged_until_ns = 8,
                                           .volume_size = 0x3001},
                                    .pages = &page}};
    assert_encodes(REPL_WIRE_DIGESTS, &m,
                   "REPL\t\0\0\0\x7c\0\0\0"
                   "\1\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0"
                   "\t\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0"
                   "\1\2\4\0\6\0\0\0\7\0\0\0\0\0\0\0"
                   "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                   "\x8\0\0\0\0\0\0\0\1\x30\0\0\0\0\0\0"
                   "pppppppppppppppp",
                   124);
}

static void bytes_of_names_lie_where_the_specification_says(void **state)
{
    (void)state;
    union message m = {.mark = {.seq = 0x0203, .name = "go"}};
    assert_encodes(REPL_WIRE_MARK, &m, "REPL\xb\0\0\0\x18\0\0\0\3\2\0\0\0\0\0\0\2\0go", 24);
    struct repl_log_mark marks[] = {{REPL_MARK_HELD, 4, "a"}, {REPL_MARK_PROVEN, 5, ""}};
    m = (union message){.marks = {.count = 2, .marks = marks}};
    assert_encodes(REPL_WIRE_MARKS, &m,
                   "REPL\xc\0\0\0\x2b\0\0\0\2\0\0\0\0\0\0\0"
                   "\2\4\0\0\0\0\0\0\0\1\0a"
                   "\3\5\0\0\0\0\0\0\0\0\0",
                   43);
    struct repl_digest name;
    memset(&name, 'n', sizeof name);
    m = (union message){.missing = {.count = 1, .names = &name}};
    assert_encodes(REPL_WIRE_WANTED, &m,
                   "REPL\xd\0\0\0\x30\0\0\0\1\0\0\0nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn", 48);
    uint64_t prefixes[] = {0x0102030405060708, 0x0102030405060709};
    m = (union message){.pool = {.count = 2, .more = true, .prefixes = prefixes}};
    memset(&m.pool.pool, 'p', sizeof m.pool.pool);
    assert_encodes(REPL_WIRE_POOL_NAMES, &m,
                   "REPL\xe\0\0\0\x34\0\0\0\2\0\0\0\1\0\0\0pppppppppppppppp"
                   "\1\2\3\4\5\6\7\x8\1\2\3\4\5\6\7\t",
                   52);
    struct repl_slice slices[] = {{0, 0x1000}, {0x3000, 0x400}};
    struct repl_frame_entry frame = {
        .offset = 0x80, .stored_size = 0x30, .raw_size = 0x4000, .raw_xxh3 = 9, .codec = 1};
    m = (union message){.slices = {.frame = frame, .count = 2, .slices = slices}};
    assert_encodes(REPL_WIRE_SLICES, &m,
                   "REPL\x12\0\0\0\x44\0\0\0\2\0\0\0\0\0\0\0"
                   "\x80\0\0\0\0\0\0\0\x30\0\0\0\0\x40\0\0\t\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0"
                   "\0\0\0\0\0\x10\0\0\0\x30\0\0\0\4\0\0",
                   68);
    frame = (struct repl_frame_entry){.stored_size = 2, .raw_size = 0x4000, .codec = 1};
    m = (union message){.sliced = {.frame = frame, .stored = (const uint8_t *)"xy"}};
    assert_encodes(REPL_WIRE_SLICED, &m,
                   "REPL\x13\0\0\0\x2e\0\0\0"
                   "\0\0\0\0\0\0\0\0\2\0\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0xy",
                   46);
    struct repl_unopened_entry unopened[] = {{.to_seq = 2, .part = 3, .merge = 4}};
    m = (union message){.unopened = {.count = 1, .entries = unopened}};
    assert_encodes(REPL_WIRE_UNOPENED, &m,
                   "REPL\x14\0\0\0\x28\0\0\0\1\0\0\0\0\0\0\0"
                   "\2\0\0\0\0\0\0\0\3\0\0\0\4\0\0\0\0\0\0\0",
                   40);
    uint8_t header[128];
    char expected[12 + 8 + 16 + 128 + 2 + 16] =
        "REPL\x15\0\0\0\xb6\0\0\0\2\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\0\1\0\0\0\0\0";
    memset(header, 'h', sizeof header);
    memset(expected + 36, 'h', sizeof header);
    memcpy(expected + 164, "xy", 2);
    struct repl_tail tails[] = {
        {.size = 2, .begin = 256, .header = header, .bytes = (const uint8_t *)"xy"}, {0}};
    m = (union message){.tails = {.count = 2, .tails = tails}};
    assert_encodes(REPL_WIRE_TAILS, &m, expected, sizeof expected);
    memcpy(name.bytes, "\1\2\3\4\5\6\7\x8", 8);
    assert_true(repl_chunk_prefix(&name) == prefixes[0]); /* they are in the order of the names */
}

/* --- what is said in words ------------------------------------------------------------------- */

static void other_protocol_versions_are_refused_in_words(void **state)
{
    static const struct {
        uint16_t min, max;
        enum repl_code code;
    } cases[] = {{1, 1, REPL_OK},        {0, 1, REPL_OK},        {1, 9, REPL_OK},
                 {2, 9, REPL_E_VERSION}, {0, 0, REPL_E_VERSION}, {65535, 65535, REPL_E_VERSION},
                 {2, 1, REPL_E_VERSION}, {1, 0, REPL_E_VERSION}};
    const struct row *hello = row_of(REPL_WIRE_HELLO);
    struct random random = random_begin("other_protocol_versions", 4);
    struct repl_error err;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        union message m = {0}, back;
        struct repl_buffer buffer = {0};
        hello->make(&random, &m);
        m.hello.version_min = cases[i].min;
        m.hello.version_max = cases[i].max;
        assert_true(repl_ok(hello->encode(&m, &buffer, &err)));
        repl_result result = hello->decode(buffer.data, buffer.size, &back, &err);
        assert_int_equal(result.code, cases[i].code);
        if (cases[i].code == REPL_E_VERSION)
            assert_non_null(strstr(err.text, "upgrade"));
        repl_buffer_fini(&buffer);
    }
    for (uint16_t version = 0; version <= 3; version++) {
        union message m = {0};
        row_of(REPL_WIRE_WELCOME)->make(&random, &m);
        m.welcome.version = version;
        assert_int_equal(there_and_back(REPL_WIRE_WELCOME, &m),
                         version == 1 ? REPL_OK : REPL_E_VERSION);
    }
}

static void words_are_made_fit_to_be_read(void **state)
{
    (void)state;
    struct repl_error err;
    struct repl_buffer buffer = {0};
    struct repl_refusal refusal = {.code = REPL_REFUSAL_BUSY, .text = "a\nb\x1b[2J\x7f\xc3\xa9"};
    struct repl_refusal back;
    assert_true(repl_ok(repl_refusal_encode(&refusal, &buffer, &err)));
    assert_true(repl_ok(repl_refusal_decode(buffer.data, buffer.size, &back, &err)));
    assert_string_equal(back.text, "a?b?[2J?\xc3\xa9");
    /* from somebody less careful it is refused */
    buffer.data[12 + 4 + 2 + 1] = '\n';
    assert_int_equal(repl_refusal_decode(buffer.data, buffer.size, &back, &err).code,
                     REPL_E_CORRUPT);
    repl_buffer_fini(&buffer);
}

static void refusals_are_errors_and_statuses(void **state)
{
    static const struct {
        enum repl_refusal_code refusal;
        enum repl_code code;
        int status;
    } cases[] = {
        {REPL_REFUSAL_BUSY, REPL_E_RETRY, 503},
        {REPL_REFUSAL_NO_SPACE, REPL_E_NOSPACE, 507},
        {REPL_REFUSAL_GREET, REPL_E_RETRY, 409},
        {REPL_REFUSAL_DAMAGED, REPL_E_RETRY, 422},
        {REPL_REFUSAL_FORK, REPL_E_FORK, 409},
        {REPL_REFUSAL_FENCED, REPL_E_FENCED, 403},
        {REPL_REFUSAL_PERMISSION, REPL_E_REFUSED, 403},
        {REPL_REFUSAL_VERSION, REPL_E_VERSION, 426},
        {REPL_REFUSAL_REQUEST, REPL_E_REFUSED, 400},
        {REPL_REFUSAL_NOT_FOUND, REPL_E_MISSING, 404},
        {REPL_REFUSAL_INTERNAL, REPL_E_RETRY, 500},
        {(enum repl_refusal_code)0, REPL_E_INTERNAL, 500},
        {(enum repl_refusal_code)200, REPL_E_INTERNAL, 500},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct repl_refusal refusal = {.code = cases[i].refusal, .text = "100 % sure"};
        struct repl_error err;
        assert_int_equal(repl_refusal_raise(&refusal, &err).code, cases[i].code);
        assert_string_equal(err.text, "100 % sure");
        assert_int_equal(repl_refusal_status(cases[i].refusal), cases[i].status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_messages_come_back),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(what_is_accepted_is_canonical),
        cmocka_unit_test(bytes_lie_where_the_specification_says),
        cmocka_unit_test(bytes_of_names_lie_where_the_specification_says),
        cmocka_unit_test(other_protocol_versions_are_refused_in_words),
        cmocka_unit_test(words_are_made_fit_to_be_read),
        cmocka_unit_test(refusals_are_errors_and_statuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
