/*
 * The one serialiser: bounds-checked cursors over bytes, little-endian.
 *
 * A reader or writer that would leave its bounds moves no byte, marks itself
 * failed and stays so: a decoder reads a whole record and asks once, at the
 * end. What a failed reader returned is zeros, never stale memory.
 */
#ifndef REPL_BASE_CURSOR_H
#define REPL_BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/error.h"
#include "repl/format.h"

/* A growing array of bytes. Zero-initialise; repl_buffer_fini frees. */
struct repl_buffer {
    uint8_t *data;
    size_t size;
    size_t capacity;
};

void repl_buffer_fini(struct repl_buffer *buffer);
/* Makes room for more bytes behind the end, counted in size at once; NULL: out of memory. */
uint8_t *repl_buffer_extend(struct repl_buffer *buffer, size_t more);
REPL_RESULT repl_buffer_append(struct repl_buffer *buffer, const void *data, size_t size,
                               struct repl_error *err);

struct repl_reader {
    const uint8_t *data;
    size_t size;
    size_t position;
    bool failed;
};

struct repl_writer {
    uint8_t *data;
    size_t size;
    size_t position;
    bool failed;
};

static inline struct repl_reader repl_reader_of(const void *data, size_t size)
{
    return (struct repl_reader){.data = data, .size = size};
}

static inline struct repl_writer repl_writer_of(void *data, size_t size)
{
    return (struct repl_writer){.data = data, .size = size};
}

uint8_t repl_read_u8(struct repl_reader *reader);
uint16_t repl_read_u16(struct repl_reader *reader);
uint32_t repl_read_u32(struct repl_reader *reader);
uint64_t repl_read_u64(struct repl_reader *reader);
int64_t repl_read_i64(struct repl_reader *reader);
void repl_read_bytes(struct repl_reader *reader, void *out, size_t size);
void repl_read_digest(struct repl_reader *reader, struct repl_digest *out);
void repl_read_uuid(struct repl_reader *reader, struct repl_uuid *out);
/* A length in 16 bits and so many bytes, at most limit; out gets a NUL behind them. Bytes that
 * are NUL or control characters fail. */
void repl_read_text(struct repl_reader *reader, char *out, size_t limit);
/* Reserved bytes: fails unless all are zero, so that they can be given a meaning later. */
void repl_read_zeros(struct repl_reader *reader, size_t size);
/* Bytes not yet read. */
size_t repl_reader_left(const struct repl_reader *reader);
/* Success if nothing failed and nothing is left; else REPL_E_CORRUPT with "what: ...". */
REPL_RESULT repl_reader_end(const struct repl_reader *reader, struct repl_error *err,
                            const char *what);

void repl_write_u8(struct repl_writer *writer, uint8_t value);
void repl_write_u16(struct repl_writer *writer, uint16_t value);
void repl_write_u32(struct repl_writer *writer, uint32_t value);
void repl_write_u64(struct repl_writer *writer, uint64_t value);
void repl_write_i64(struct repl_writer *writer, int64_t value);
void repl_write_bytes(struct repl_writer *writer, const void *data, size_t size);
void repl_write_digest(struct repl_writer *writer, const struct repl_digest *digest);
void repl_write_uuid(struct repl_writer *writer, const struct repl_uuid *uuid);
void repl_write_text(struct repl_writer *writer, const char *text);
void repl_write_zeros(struct repl_writer *writer, size_t size);

#endif
