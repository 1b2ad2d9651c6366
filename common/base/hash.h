/*
 * Two kinds of hash with two jobs. XXH3 finds damage and never decides that two
 * things are the same; SHA-256 names things.
 */
#ifndef REPL_BASE_HASH_H
#define REPL_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/error.h"
#include "repl/format.h"

uint64_t repl_xxh3(const void *data, size_t size);

/* A SHA-256 in progress, on the heap because libcrypto's context is. One thread at a time; begin
 * starts it anew, any number of times. */
struct repl_sha256;
REPL_RESULT repl_sha256_new(struct repl_sha256 **out, struct repl_error *err);
void repl_sha256_free(struct repl_sha256 *sha);
void repl_sha256_begin(struct repl_sha256 *sha);
void repl_sha256_update(struct repl_sha256 *sha, const void *data, size_t size);
void repl_sha256_end(struct repl_sha256 *sha, struct repl_digest *out);

/* The digest of one page (shorter only at the end of an object): SHA-256 of its bytes. */
void repl_page_digest(struct repl_sha256 *sha, const void *page, size_t size,
                      struct repl_digest *out);
/* Its first half. */
struct repl_page_digest repl_page_digest_of(const struct repl_digest *digest);
/* Those of all pages that size bytes are, from the first byte on. */
void repl_page_digests(struct repl_sha256 *sha, const void *bytes, size_t size,
                       struct repl_page_digest *out);
/* The name of a chunk: SHA-256 over its 16 page digests, in order. Inputs of 4096 and of 512
 * bytes cannot be mistaken for each other, so a page digest is never a chunk name. */
void repl_chunk_name(struct repl_sha256 *sha, const struct repl_digest pages[REPL_CHUNK_PAGES],
                     struct repl_digest *out);
/* The same of its bytes. */
void repl_chunk_digest(struct repl_sha256 *sha, const void *chunk, struct repl_digest *out);

bool repl_digest_equal(const struct repl_digest *a, const struct repl_digest *b);
/* As memcmp has it: for qsort and bsearch. */
int repl_digest_order(const void *a, const void *b);
/* Sorts them and leaves each once; returns how many are left. */
size_t repl_digests_unique(struct repl_digest *digests, size_t count);
bool repl_digest_is_zero(const struct repl_digest *digest);
bool repl_page_digest_equal(const struct repl_page_digest *a, const struct repl_page_digest *b);
bool repl_uuid_equal(const struct repl_uuid *a, const struct repl_uuid *b);

/* Lower-case hex; the text has room for 64 digits and the NUL. */
#define REPL_DIGEST_TEXT_SIZE 65
void repl_digest_format(const struct repl_digest *digest, char text[REPL_DIGEST_TEXT_SIZE]);
bool repl_digest_parse(const char *text, struct repl_digest *out);
#define REPL_UUID_TEXT_SIZE 37
void repl_uuid_format(const struct repl_uuid *uuid, char text[REPL_UUID_TEXT_SIZE]);

bool repl_is_zero(const void *data, size_t size);

#endif
