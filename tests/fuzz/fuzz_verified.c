/*
 * The file of what was verified on any bytes, as they are and with checksums put right. What is
 * accepted must encode to the same bytes, and be found.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "base/ensure.h"
#include "base/hash.h"
#include "format/verified_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_file(const uint8_t *bytes, size_t size)
{
    struct repl_verified_list list;
    size_t whole;
    ensure(repl_ok(repl_verified_list_read(bytes, size, &list, &whole, NULL)));
    ensure(whole <= size && whole % REPL_VERIFIED_RECORD_SIZE == 0);
    for (size_t at = 0; at < whole; at += REPL_VERIFIED_RECORD_SIZE) {
        uint8_t again[REPL_VERIFIED_RECORD_SIZE];
        struct repl_verified record;
        ensure(repl_ok(repl_verified_decode(bytes + at, &record, NULL)));
        repl_verified_encode(&record, again);
        ensure(memcmp(again, bytes + at, sizeof again) == 0);
        ensure(repl_verified_list_find(&list, &record) != NULL);
    }
    repl_verified_list_fini(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_file(data, size);
    uint8_t *sealed = malloc(size + 1);
    ensure(sealed != NULL);
    memcpy(sealed, data, size);
    for (size_t at = 0; at + REPL_VERIFIED_RECORD_SIZE <= size; at += REPL_VERIFIED_RECORD_SIZE) {
        struct repl_writer tail = repl_writer_of(sealed + at + REPL_VERIFIED_RECORD_SIZE - 8, 8);
        repl_write_u64(&tail, repl_xxh3(sealed + at, REPL_VERIFIED_RECORD_SIZE - 8));
    }
    try_file(sealed, size);
    free(sealed);
    return 0;
}
