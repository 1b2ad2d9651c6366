/*
 * The decoders of slot files on any bytes: as they are, and with checksum, magic and type put right
 * in both slots, so that the fields are reached. What is accepted must encode to the slot it was
 * read from.
 */
#include <stdint.h>
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "format/slot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_file(const uint8_t file[REPL_SLOT_FILE])
{
    uint8_t slot[REPL_SLOT_SIZE];
    struct repl_source_state source;
    struct repl_replica_state replica;
    struct repl_error err = {.text = ""};
    uint64_t generation;
    if (repl_ok(repl_source_state_decode(file, &source, &generation, &err))) {
        ensure(source.sent_count <= REPL_SENT_MAX);
        repl_source_state_encode(&source, generation, slot);
        ensure(memcmp(slot, file, sizeof slot) == 0 ||
               memcmp(slot, file + REPL_SLOT_SIZE, sizeof slot) == 0);
    } else {
        ensure(err.text[0] != '\0');
    }
    err.text[0] = '\0';
    if (repl_ok(repl_replica_state_decode(file, &replica, &generation, &err))) {
        repl_replica_state_encode(&replica, generation, slot);
        ensure(memcmp(slot, file, sizeof slot) == 0 ||
               memcmp(slot, file + REPL_SLOT_SIZE, sizeof slot) == 0);
    } else {
        ensure(err.text[0] != '\0');
    }
}

static void seal(uint8_t slot[REPL_SLOT_SIZE], uint16_t type)
{
    struct repl_writer w = repl_writer_of(slot, REPL_SLOT_SIZE);
    repl_write_bytes(&w, "REPLSLOT", 8);
    repl_write_u16(&w, 1);
    repl_write_u16(&w, type);
    w.position = REPL_SLOT_SIZE - 8;
    repl_write_u64(&w, repl_xxh3(slot, REPL_SLOT_SIZE - 8));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t file[REPL_SLOT_FILE] = {0};
    memcpy(file, data, size < sizeof file ? size : sizeof file);
    try_file(file);
    /* A short input is the beginning of a slot's fields, in the first or the second slot. */
    for (uint16_t type = 1; type <= 2; type++) {
        for (size_t at = 0; at < REPL_SLOT_FILE; at += REPL_SLOT_SIZE) {
            memset(file, 0, sizeof file);
            memcpy(file + at, data, size < REPL_SLOT_SIZE ? size : REPL_SLOT_SIZE);
            seal(file + at, type);
            try_file(file);
        }
    }
    return 0;
}
