/*
 * The decoder of log records on any bytes: as a log, record after record; and as one record whose
 * size and checksum have been put right, so that the fields are reached. What is accepted must
 * encode to the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "format/log_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADER_SIZE 24u
#define TAIL_SIZE   8u

/* How many bytes a record takes; 0: none begins here. */
static size_t try_record(const uint8_t *data, size_t size)
{
    struct repl_log_record record;
    struct repl_error err = {.text = ""};
    size_t used = 0, again_size = 0;
    if (!repl_ok(repl_log_record_decode(data, size, &record, &used, &err))) {
        ensure(err.text[0] != '\0');
        return 0;
    }
    ensure(used > 0 && used <= size && used <= REPL_LOG_RECORD_SIZE_MAX);
    uint8_t again[REPL_LOG_RECORD_SIZE_MAX];
    repl_log_record_encode(&record, again, &again_size);
    ensure(again_size == used && memcmp(again, data, used) == 0);
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (size_t at = 0, used = 1; used > 0 && at < size; at += used)
        used = try_record(data + at, size - at);

    if (size < HEADER_SIZE + TAIL_SIZE || size > REPL_LOG_RECORD_SIZE_MAX)
        return 0;
    uint8_t *sealed = malloc(size);
    ensure(sealed != NULL);
    memcpy(sealed, data, size);
    struct repl_writer head = repl_writer_of(sealed, HEADER_SIZE);
    repl_write_bytes(&head, "RLOG", 4);
    repl_write_u16(&head, (uint16_t)size);
    repl_write_u8(&head, 1 + data[size - 1] % REPL_LOG_VERSION_POOL);
    struct repl_writer tail = repl_writer_of(sealed + size - TAIL_SIZE, TAIL_SIZE);
    repl_write_u64(&tail, repl_xxh3(sealed, size - TAIL_SIZE));
    (void)try_record(sealed, size);
    free(sealed);
    return 0;
}
