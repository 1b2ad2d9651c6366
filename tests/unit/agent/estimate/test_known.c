#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "estimate/known.h"

static struct repl_digest digest_of(uint64_t number)
{
    struct repl_digest digest;
    struct repl_sha256 *sha;
    assert_true(repl_ok(repl_sha256_new(&sha, NULL)));
    repl_sha256_begin(sha);
    repl_sha256_update(sha, &number, sizeof number);
    repl_sha256_end(sha, &digest);
    repl_sha256_free(sha);
    return digest;
}

static void what_was_set_is_known(void **state)
{
    (void)state;
    struct repl_known known;
    const struct repl_page_digest none = {0};
    assert_true(repl_ok(repl_known_init(&known, NULL)));
    for (uint64_t i = 0; i < 1000; i++) {
        struct repl_digest digest = digest_of(i), other = digest_of(i + 1);
        struct repl_page_digest first = repl_page_digest_of(&digest),
                                second = repl_page_digest_of(&other);
        struct repl_page_digest got = repl_known_page(&known, i * i);
        assert_true(repl_page_digest_equal(&got, &none));
        repl_known_page_set(&known, i * i, &first);
        repl_known_page_set(&known, i * i, &second);
        got = repl_known_page(&known, i * i);
        assert_true(repl_page_digest_equal(&got, &second));
        assert_false(repl_known_chunk(&known, &digest));
        repl_known_chunk_add(&known, &digest);
        repl_known_chunk_add(&known, &digest);
        assert_true(repl_known_chunk(&known, &digest));
    }
    assert_int_equal(known.page_count, 1000);
    assert_int_equal(known.chunk_count, 1000);
    assert_false(known.full);
    repl_known_fini(&known);
}

/* Nothing that is known is forgotten for it, and it may still change. */
static void a_full_one_takes_nothing_new(void **state)
{
    (void)state;
    struct repl_known known;
    const struct repl_page_digest none = {0};
    struct repl_digest digest = digest_of(1);
    struct repl_page_digest page = repl_page_digest_of(&digest);
    assert_true(repl_ok(repl_known_init(&known, NULL)));
    for (uint64_t i = 0; !known.full && i <= REPL_KNOWN_PAGES; i++)
        repl_known_page_set(&known, i, &page);
    assert_true(known.full);
    assert_int_equal(known.page_count, REPL_KNOWN_PAGES / 4 * 3);
    struct repl_page_digest got = repl_known_page(&known, known.page_count);
    assert_true(repl_page_digest_equal(&got, &none));
    digest = digest_of(2);
    page = repl_page_digest_of(&digest);
    repl_known_page_set(&known, 5, &page);
    got = repl_known_page(&known, 5);
    assert_true(repl_page_digest_equal(&got, &page));
    repl_known_fini(&known);
}

static void chunks_are_bounded_too(void **state)
{
    (void)state;
    struct repl_known known;
    assert_true(repl_ok(repl_known_init(&known, NULL)));
    struct repl_digest digest = digest_of(1);
    for (uint64_t i = 1; !known.full && i <= REPL_KNOWN_CHUNKS; i++) {
        uint64_t at = i * UINT64_C(0x9e3779b97f4a7c15);
        memcpy(&digest, &at, sizeof at);
        repl_known_chunk_add(&known, &digest);
    }
    assert_true(known.full);
    assert_int_equal(known.chunk_count, REPL_KNOWN_CHUNKS / 4 * 3);
    assert_false(repl_known_chunk(&known, &digest));
    repl_known_fini(&known);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_set_is_known),
        cmocka_unit_test(a_full_one_takes_nothing_new),
        cmocka_unit_test(chunks_are_bounded_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
