#include "base/cursor.h"

#include <stdlib.h>
#include <string.h>

void repl_buffer_fini(struct repl_buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct repl_buffer){0};
}

uint8_t *repl_buffer_extend(struct repl_buffer *buffer, size_t more)
{
    if (more > SIZE_MAX / 2 - buffer->size)
        return NULL;
    size_t size = buffer->size + more;
    if (size > buffer->capacity || buffer->data == NULL) {
        size_t capacity = buffer->capacity ? buffer->capacity : 256;
        while (capacity < size)
            capacity *= 2;
        uint8_t *data = realloc(buffer->data, capacity);
        if (data == NULL)
            return NULL;
        buffer->data = data;
        buffer->capacity = capacity;
    }
    uint8_t *room = buffer->data + buffer->size;
    buffer->size = size;
    return room;
}

repl_result repl_buffer_append(struct repl_buffer *buffer, const void *data, size_t size,
                               struct repl_error *err)
{
    if (size == 0)
        return REPL_SUCCESS;
    uint8_t *room = repl_buffer_extend(buffer, size);
    if (room == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a buffer of %zu bytes",
                         buffer->size + size);
    memcpy(room, data, size);
    return REPL_SUCCESS;
}

/* The next size bytes; NULL where there are none to give: the cursor has failed, or size is 0
 * (nothing may be added to a NULL pointer, not even nothing). */
static const uint8_t *reader_take(struct repl_reader *reader, size_t size)
{
    if (reader->failed || size > reader->size - reader->position) {
        reader->failed = true;
        return NULL;
    }
    if (size == 0)
        return NULL;
    const uint8_t *bytes = reader->data + reader->position;
    reader->position += size;
    return bytes;
}

static uint64_t read_little_endian(struct repl_reader *reader, size_t size)
{
    const uint8_t *bytes = reader_take(reader, size);
    uint64_t value = 0;
    for (size_t i = size; bytes != NULL && i-- > 0;)
        value = value << 8 | bytes[i];
    return value;
}

uint8_t repl_read_u8(struct repl_reader *reader)
{
    return (uint8_t)read_little_endian(reader, 1);
}

uint16_t repl_read_u16(struct repl_reader *reader)
{
    return (uint16_t)read_little_endian(reader, 2);
}

uint32_t repl_read_u32(struct repl_reader *reader)
{
    return (uint32_t)read_little_endian(reader, 4);
}

uint64_t repl_read_u64(struct repl_reader *reader)
{
    return read_little_endian(reader, 8);
}

int64_t repl_read_i64(struct repl_reader *reader)
{
    return (int64_t)read_little_endian(reader, 8);
}

void repl_read_bytes(struct repl_reader *reader, void *out, size_t size)
{
    const uint8_t *bytes = reader_take(reader, size);
    if (bytes != NULL)
        memcpy(out, bytes, size);
    else if (size > 0)
        memset(out, 0, size);
}

void repl_read_digest(struct repl_reader *reader, struct repl_digest *out)
{
    repl_read_bytes(reader, out->bytes, sizeof out->bytes);
}

void repl_read_uuid(struct repl_reader *reader, struct repl_uuid *out)
{
    repl_read_bytes(reader, out->bytes, sizeof out->bytes);
}

void repl_read_text(struct repl_reader *reader, char *out, size_t limit)
{
    size_t length = repl_read_u16(reader);
    out[0] = '\0';
    if (length > limit)
        reader->failed = true;
    const uint8_t *bytes = reader_take(reader, length);
    if (bytes == NULL)
        return;
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] < 0x20 || bytes[i] == 0x7f) {
            reader->failed = true;
            return;
        }
    }
    memcpy(out, bytes, length);
    out[length] = '\0';
}

void repl_read_zeros(struct repl_reader *reader, size_t size)
{
    const uint8_t *bytes = reader_take(reader, size);
    for (size_t i = 0; bytes != NULL && i < size; i++) {
        if (bytes[i] != 0)
            reader->failed = true;
    }
}

size_t repl_reader_left(const struct repl_reader *reader)
{
    return reader->size - reader->position;
}

repl_result repl_reader_end(const struct repl_reader *reader, struct repl_error *err,
                            const char *what)
{
    if (reader->failed)
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s: ends early or has a field out of its bounds near byte %zu", what,
                         reader->position);
    if (repl_reader_left(reader) != 0)
        return repl_fail(err, REPL_E_CORRUPT, "%s: %zu bytes too long", what,
                         repl_reader_left(reader));
    return REPL_SUCCESS;
}

static uint8_t *writer_take(struct repl_writer *writer, size_t size)
{
    if (writer->failed || size > writer->size - writer->position) {
        writer->failed = true;
        return NULL;
    }
    if (size == 0)
        return NULL;
    uint8_t *bytes = writer->data + writer->position;
    writer->position += size;
    return bytes;
}

static void write_little_endian(struct repl_writer *writer, uint64_t value, size_t size)
{
    uint8_t *bytes = writer_take(writer, size);
    for (size_t i = 0; bytes != NULL && i < size; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
}

void repl_write_u8(struct repl_writer *writer, uint8_t value)
{
    write_little_endian(writer, value, 1);
}

void repl_write_u16(struct repl_writer *writer, uint16_t value)
{
    write_little_endian(writer, value, 2);
}

void repl_write_u32(struct repl_writer *writer, uint32_t value)
{
    write_little_endian(writer, value, 4);
}

void repl_write_u64(struct repl_writer *writer, uint64_t value)
{
    write_little_endian(writer, value, 8);
}

void repl_write_i64(struct repl_writer *writer, int64_t value)
{
    write_little_endian(writer, (uint64_t)value, 8);
}

void repl_write_bytes(struct repl_writer *writer, const void *data, size_t size)
{
    uint8_t *bytes = writer_take(writer, size);
    if (bytes != NULL)
        memcpy(bytes, data, size);
}

void repl_write_digest(struct repl_writer *writer, const struct repl_digest *digest)
{
    repl_write_bytes(writer, digest->bytes, sizeof digest->bytes);
}

void repl_write_uuid(struct repl_writer *writer, const struct repl_uuid *uuid)
{
    repl_write_bytes(writer, uuid->bytes, sizeof uuid->bytes);
}

void repl_write_text(struct repl_writer *writer, const char *text)
{
    size_t length = strlen(text);
    if (length > UINT16_MAX) {
        writer->failed = true;
        return;
    }
    repl_write_u16(writer, (uint16_t)length);
    repl_write_bytes(writer, text, length);
}

void repl_write_zeros(struct repl_writer *writer, size_t size)
{
    uint8_t *bytes = writer_take(writer, size);
    if (bytes != NULL)
        memset(bytes, 0, size);
}
