#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <xxhash.h>

#include "base/ensure.h"

uint64_t repl_xxh3(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}

/* libcrypto 3 looks an algorithm up by name at each use unless it has been fetched before: the
 * method is kept beside the context, which makes a 4 KiB page cost its hashing and little more. */
struct repl_sha256 {
    EVP_MD *method;
    EVP_MD_CTX *context;
};

repl_result repl_sha256_new(struct repl_sha256 **out, struct repl_error *err)
{
    struct repl_sha256 *sha = calloc(1, sizeof *sha);
    if (sha == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a SHA-256 context");
    sha->method = EVP_MD_fetch(NULL, "SHA256", NULL);
    sha->context = EVP_MD_CTX_new();
    if (sha->method == NULL || sha->context == NULL) {
        repl_sha256_free(sha);
        return repl_fail(err, REPL_E_INTERNAL, "libcrypto offers no SHA-256");
    }
    *out = sha;
    return REPL_SUCCESS;
}

void repl_sha256_free(struct repl_sha256 *sha)
{
    if (sha == NULL)
        return;
    EVP_MD_CTX_free(sha->context);
    EVP_MD_free(sha->method);
    free(sha);
}

void repl_sha256_begin(struct repl_sha256 *sha)
{
    ensure(EVP_DigestInit_ex2(sha->context, sha->method, NULL) == 1);
}

void repl_sha256_update(struct repl_sha256 *sha, const void *data, size_t size)
{
    ensure(EVP_DigestUpdate(sha->context, data, size) == 1);
}

void repl_sha256_end(struct repl_sha256 *sha, struct repl_digest *out)
{
    unsigned size = 0;
    ensure(EVP_DigestFinal_ex(sha->context, out->bytes, &size) == 1);
    ensure(size == sizeof out->bytes);
}

void repl_page_digest(struct repl_sha256 *sha, const void *page, size_t size,
                      struct repl_digest *out)
{
    repl_sha256_begin(sha);
    repl_sha256_update(sha, page, size);
    repl_sha256_end(sha, out);
}

struct repl_page_digest repl_page_digest_of(const struct repl_digest *digest)
{
    struct repl_page_digest page;
    memcpy(page.bytes, digest->bytes, sizeof page.bytes);
    return page;
}

void repl_page_digests(struct repl_sha256 *sha, const void *bytes, size_t size,
                       struct repl_page_digest *out)
{
    const uint8_t *page = bytes;
    for (struct repl_digest digest; size > 0;) {
        size_t step = size < REPL_PAGE_SIZE ? size : REPL_PAGE_SIZE;
        repl_page_digest(sha, page, step, &digest);
        *out++ = repl_page_digest_of(&digest);
        page += step;
        size -= step;
    }
}

void repl_chunk_name(struct repl_sha256 *sha, const struct repl_digest pages[REPL_CHUNK_PAGES],
                     struct repl_digest *out)
{
    repl_sha256_begin(sha);
    repl_sha256_update(sha, pages, REPL_CHUNK_PAGES * sizeof pages[0]);
    repl_sha256_end(sha, out);
}

void repl_chunk_digest(struct repl_sha256 *sha, const void *chunk, struct repl_digest *out)
{
    struct repl_digest pages[REPL_CHUNK_PAGES];
    for (size_t i = 0; i < REPL_CHUNK_PAGES; i++)
        repl_page_digest(sha, (const uint8_t *)chunk + i * REPL_PAGE_SIZE, REPL_PAGE_SIZE,
                         &pages[i]);
    repl_chunk_name(sha, pages, out);
}

bool repl_digest_equal(const struct repl_digest *a, const struct repl_digest *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

int repl_digest_order(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct repl_digest));
}

size_t repl_digests_unique(struct repl_digest *digests, size_t count)
{
    size_t kept = 0;
    if (count > 1)
        qsort(digests, count, sizeof *digests, repl_digest_order);
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || !repl_digest_equal(&digests[kept - 1], &digests[i]))
            digests[kept++] = digests[i];
    }
    return kept;
}

bool repl_digest_is_zero(const struct repl_digest *digest)
{
    static const struct repl_digest zero;
    return repl_digest_equal(digest, &zero);
}

bool repl_page_digest_equal(const struct repl_page_digest *a, const struct repl_page_digest *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

bool repl_uuid_equal(const struct repl_uuid *a, const struct repl_uuid *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

static void hex_format(const uint8_t *bytes, size_t size, char *text)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        *text++ = digits[bytes[i] >> 4];
        *text++ = digits[bytes[i] & 15];
    }
    *text = '\0';
}

void repl_digest_format(const struct repl_digest *digest, char text[REPL_DIGEST_TEXT_SIZE])
{
    hex_format(digest->bytes, sizeof digest->bytes, text);
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool repl_digest_parse(const char *text, struct repl_digest *out)
{
    for (size_t i = 0; i < sizeof out->bytes; i++) {
        int high = hex_value(text[2 * i]);
        int low = high < 0 ? -1 : hex_value(text[2 * i + 1]);
        if (low < 0)
            return false;
        out->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return text[2 * sizeof out->bytes] == '\0';
}

void repl_uuid_format(const struct repl_uuid *uuid, char text[REPL_UUID_TEXT_SIZE])
{
    static const uint8_t groups[] = {4, 2, 2, 2, 6};
    const uint8_t *bytes = uuid->bytes;
    for (size_t i = 0; i < sizeof groups; i++) {
        hex_format(bytes, groups[i], text);
        bytes += groups[i];
        text += 2 * groups[i];
        *text++ = '-';
    }
    text[-1] = '\0';
}

bool repl_is_zero(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    size_t head = size < 16 ? size : 16;
    for (size_t i = 0; i < head; i++) {
        if (bytes[i] != 0)
            return false;
    }
    /* every byte equals the one 16 before it, and those are zero */
    return size <= 16 || memcmp(bytes, bytes + 16, size - 16) == 0;
}
