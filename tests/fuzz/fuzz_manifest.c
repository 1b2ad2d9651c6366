/*
 * The decoders of single records on any bytes: the manifest's, then the index's. What is accepted
 * is encoded again and must give the same bytes: nothing is read that is not kept, and there is
 * one way to write each thing.
 */
#include <stdint.h>
#include <string.h>

#include "base/ensure.h"
#include "format/segment_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void records(const uint8_t *data, size_t size)
{
    struct repl_reader r = repl_reader_of(data, size);
    while (repl_reader_left(&r) > 0) {
        size_t start = r.position;
        struct repl_record record;
        repl_record_decode(&r, &record);
        if (r.failed)
            return;
        ensure(r.position > start && r.position % 8 == 0);
        uint8_t bytes[REPL_RECORD_SIZE_MAX];
        struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
        repl_record_encode(&w, &record);
        ensure(!w.failed && w.position == r.position - start);
        ensure(memcmp(bytes, data + start, w.position) == 0);
    }
}

#define TRY_ENTRY(name, data, size)                                                                \
    do {                                                                                           \
        struct repl_reader r = repl_reader_of(data, size);                                         \
        struct repl_##name value;                                                                  \
        repl_##name##_decode(&r, &value);                                                          \
        if (r.failed)                                                                              \
            break;                                                                                 \
        uint8_t bytes[64];                                                                         \
        struct repl_writer w = repl_writer_of(bytes, sizeof bytes);                                \
        repl_##name##_encode(&w, &value);                                                          \
        ensure(!w.failed && w.position == r.position);                                             \
        ensure(memcmp(bytes, data, w.position) == 0);                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    records(data, size);
    TRY_ENTRY(frame_entry, data, size);
    TRY_ENTRY(block_entry, data, size);
    TRY_ENTRY(chunk_entry, data, size);
    TRY_ENTRY(point, data, size);
    return 0;
}
