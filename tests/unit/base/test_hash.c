#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

static int setup(void **state)
{
    struct repl_sha256 *sha = NULL;
    struct repl_error err;
    if (!repl_ok(repl_sha256_new(&sha, &err)))
        return -1;
    *state = sha;
    return 0;
}

static int teardown(void **state)
{
    repl_sha256_free(*state);
    repl_sha256_free(NULL);
    return 0;
}

static void assert_digest(const struct repl_digest *digest, const char *expected)
{
    char text[REPL_DIGEST_TEXT_SIZE];
    repl_digest_format(digest, text);
    assert_string_equal(text, expected);
}

/* The values of the algorithms' own documents: what a second decoder computes too. */
static void known_answers(void **state)
{
    struct repl_sha256 *sha = *state;
    struct repl_digest digest;
    repl_page_digest(sha, "abc", 3, &digest);
    assert_digest(&digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    repl_sha256_begin(sha);
    repl_sha256_end(sha, &digest);
    assert_digest(&digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_true(repl_xxh3("", 0) == UINT64_C(0x2d06800538d394c2));
}

static void pieces_make_the_whole(void **state)
{
    struct repl_sha256 *sha = *state;
    uint8_t bytes[1000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7);
    struct repl_digest whole, pieces;
    repl_page_digest(sha, bytes, sizeof bytes, &whole);
    repl_sha256_begin(sha);
    repl_sha256_update(sha, "thrown away", 11);
    repl_sha256_begin(sha);
    for (size_t at = 0, size; at < sizeof bytes; at += size) {
        size = at % 97 + 1 < sizeof bytes - at ? at % 97 + 1 : sizeof bytes - at;
        repl_sha256_update(sha, bytes + at, size);
    }
    repl_sha256_end(sha, &pieces);
    assert_true(repl_digest_equal(&whole, &pieces));
}

/* The name of a chunk of zeros, computed by another program: sixteen times SHA-256 of a zero page,
 * and SHA-256 of those 512 bytes. */
static void chunk_name_is_over_page_digests(void **state)
{
    struct repl_sha256 *sha = *state;
    static const uint8_t page[REPL_PAGE_SIZE];
    struct repl_digest pages[REPL_CHUNK_PAGES], name, flat;
    for (size_t i = 0; i < REPL_CHUNK_PAGES; i++)
        repl_page_digest(sha, page, sizeof page, &pages[i]);
    assert_digest(&pages[0], "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7");
    repl_chunk_name(sha, pages, &name);
    assert_digest(&name, "3f4cf4f06bf3b12c886bd69ef479e0be8bc5084b3d761f0fcbbb7f6202090c8c");
    repl_page_digest(sha, pages, sizeof pages, &flat);
    assert_true(repl_digest_equal(&name, &flat));
}

static void digests_as_text(void **state)
{
    (void)state;
    struct repl_digest digest, back;
    for (size_t i = 0; i < sizeof digest.bytes; i++)
        digest.bytes[i] = (uint8_t)(i * 37);
    char text[REPL_DIGEST_TEXT_SIZE + 1];
    repl_digest_format(&digest, text);
    assert_int_equal(strlen(text), 64);
    assert_true(repl_digest_parse(text, &back));
    assert_true(repl_digest_equal(&digest, &back));
    for (size_t i = 0; i < 64; i++) {
        char keep = text[i];
        text[i] = 'g';
        assert_false(repl_digest_parse(text, &back));
        text[i] = '\0';
        assert_false(repl_digest_parse(text, &back));
        text[i] = keep;
    }
    strcat(text, "0");
    assert_false(repl_digest_parse(text, &back));
    assert_true(repl_digest_parse(
        "ABCDEFabcdef0123456789ABCDEFabcdef0123456789ABCDEFabcdef01234567", &back));
    assert_int_equal(back.bytes[0], 0xab);
    assert_int_equal(back.bytes[31], 0x67);
}

static void digests_compare(void **state)
{
    (void)state;
    for (size_t i = 0; i < 32; i++) {
        struct repl_digest a = {0}, b = {0};
        assert_true(repl_digest_is_zero(&a));
        b.bytes[i] = 1;
        assert_false(repl_digest_is_zero(&b));
        assert_false(repl_digest_equal(&a, &b));
    }
}

static void uuids(void **state)
{
    (void)state;
    struct repl_uuid a, b;
    for (size_t i = 0; i < sizeof a.bytes; i++)
        a.bytes[i] = (uint8_t)(i * 17);
    char text[REPL_UUID_TEXT_SIZE];
    repl_uuid_format(&a, text);
    assert_string_equal(text, "00112233-4455-6677-8899-aabbccddeeff");
    b = a;
    assert_true(repl_uuid_equal(&a, &b));
    b.bytes[15] ^= 1;
    assert_false(repl_uuid_equal(&a, &b));
}

static void zeros_are_found(void **state)
{
    (void)state;
    uint8_t bytes[100] = {0};
    for (size_t size = 0; size <= sizeof bytes; size++) {
        assert_true(repl_is_zero(bytes, size));
        for (size_t i = 0; i < sizeof bytes; i++) {
            bytes[i] = 0x80;
            assert_true(repl_is_zero(bytes, size) == (i >= size));
            bytes[i] = 0;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),   cmocka_unit_test(pieces_make_the_whole),
        cmocka_unit_test(digests_as_text), cmocka_unit_test(chunk_name_is_over_page_digests),
        cmocka_unit_test(digests_compare), cmocka_unit_test(uuids),
        cmocka_unit_test(zeros_are_found),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
