/*
 * Every record begins with type (1 byte), a zero byte, its own size (2 bytes)
 * and the first four bytes of its body; sizes are multiples of 8, so that all
 * 64-bit fields lie aligned within a block. What has a text ends with it, and
 * with zeros up to the next multiple of 8.
 */
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "base/limits.h"
#include "format/segment_format.h"

#define NODE_SIZE  72u
#define XATTR_SIZE 32u
#define NAME_SIZE  40u

static size_t padded(size_t size)
{
    return (size + 7) / 8 * 8;
}

size_t repl_record_size(const struct repl_record *record)
{
    switch (record->type) {
    case REPL_RECORD_OBJECT:
    case REPL_RECORD_ZERO:
    case REPL_RECORD_HOLE:
        return 32;
    case REPL_RECORD_DATA:
    case REPL_RECORD_RUN:
        return 40;
    case REPL_RECORD_CHUNK:
        return 64;
    case REPL_RECORD_NODE:
        return NODE_SIZE + padded(record->node.target_size);
    case REPL_RECORD_XATTR:
        return XATTR_SIZE +
               padded(record->name_size + (record->value != NULL ? record->value_size : 0));
    case REPL_RECORD_NAME:
        return NAME_SIZE + padded(record->name_size);
    }
    return 0;
}

/* --- writing --------------------------------------------------------------------------------- */

static void node_encode(struct repl_writer *w, const struct repl_node *node)
{
    repl_write_u8(w, (uint8_t)node->kind);
    repl_write_zeros(w, 1);
    repl_write_u16(w, node->mode);
    repl_write_u32(w, node->uid);
    repl_write_u32(w, node->gid);
    repl_write_u32(w, node->major);
    repl_write_u32(w, node->minor);
    repl_write_u32(w, node->flags);
    repl_write_u32(w, node->project);
    repl_write_u16(w, (uint16_t)node->target_size);
    repl_write_zeros(w, 2);
    repl_write_u64(w, node->size);
    repl_write_i64(w, node->mtime_ns);
    repl_write_zeros(w, 8);
    repl_write_bytes(w, node->target, node->target_size);
}

static void xattr_encode(struct repl_writer *w, const struct repl_record *record)
{
    repl_write_u8(w, (uint8_t)record->name_size);
    repl_write_zeros(w, 3);
    repl_write_u32(w, record->value_size);
    repl_write_u64(w, record->value == NULL ? record->place : 0);
    repl_write_bytes(w, record->name, record->name_size);
    if (record->value != NULL)
        repl_write_bytes(w, record->value, record->value_size);
}

static void body_encode(struct repl_writer *w, const struct repl_record *record)
{
    switch (record->type) {
    case REPL_RECORD_OBJECT:
        repl_write_u64(w, record->size);
        break;
    case REPL_RECORD_DATA:
        repl_write_u64(w, record->offset);
        repl_write_u32(w, (uint32_t)record->length);
        repl_write_u32(w, record->frame_offset);
        break;
    case REPL_RECORD_CHUNK:
        repl_write_u64(w, record->offset);
        repl_write_u32(w, (uint32_t)record->length);
        repl_write_u32(w, record->chunk_offset);
        repl_write_digest(w, &record->chunk);
        break;
    case REPL_RECORD_ZERO:
    case REPL_RECORD_HOLE:
        repl_write_u64(w, record->offset);
        repl_write_u64(w, record->length);
        break;
    case REPL_RECORD_NODE:
        node_encode(w, &record->node);
        break;
    case REPL_RECORD_XATTR:
        xattr_encode(w, record);
        break;
    case REPL_RECORD_NAME:
        repl_write_u64(w, record->offset);
        repl_write_u64(w, record->child);
        repl_write_u8(w, (uint8_t)record->name_size);
        repl_write_zeros(w, 7);
        repl_write_bytes(w, record->name, record->name_size);
        break;
    case REPL_RECORD_RUN:
        repl_write_u64(w, record->offset);
        repl_write_u64(w, record->length);
        repl_write_u64(w, record->place);
        break;
    }
}

void repl_record_encode(struct repl_writer *w, const struct repl_record *record)
{
    size_t start = w->position, size = repl_record_size(record);
    ensure(size > 0 && size <= REPL_RECORD_SIZE_MAX);
    repl_write_u8(w, (uint8_t)record->type);
    repl_write_u8(w, 0);
    repl_write_u16(w, (uint16_t)size);
    repl_write_u32(w, record->type == REPL_RECORD_DATA ? record->frame : 0);
    repl_write_u64(w, record->object);
    body_encode(w, record);
    ensure(w->failed || w->position - start <= size);
    if (!w->failed)
        repl_write_zeros(w, size - (w->position - start));
}

/* --- bounds ---------------------------------------------------------------------------------- */

static bool range_in_bounds(uint64_t offset, uint64_t length)
{
    return length > 0 && length <= REPL_VOLUME_SIZE_MAX &&
           offset <= REPL_VOLUME_SIZE_MAX - length && offset % REPL_PAGE_SIZE == 0;
}

static bool extent_in_bounds(const struct repl_record *record)
{
    return range_in_bounds(record->offset, record->length);
}

static bool node_valid(const struct repl_record *record)
{
    const struct repl_node *node = &record->node;
    bool device = node->kind == REPL_NODE_CHARACTER || node->kind == REPL_NODE_BLOCK;
    bool gone = node->kind == REPL_NODE_GONE;
    if (node->kind > REPL_NODE_SOCKET || (node->mode & ~REPL_NODE_MODE_MASK) != 0 ||
        node->size > REPL_VOLUME_SIZE_MAX || (node->size > 0 && node->kind != REPL_NODE_FILE) ||
        (!device && (node->major != 0 || node->minor != 0)) ||
        (node->target_size > 0) != (node->kind == REPL_NODE_SYMLINK) ||
        (record->object == REPL_OBJECT_ROOT && node->kind != REPL_NODE_DIRECTORY))
        return false;
    if (gone && (node->mode != 0 || node->uid != 0 || node->gid != 0 || node->flags != 0 ||
                 node->project != 0 || node->mtime_ns != 0))
        return false;
    return node->target_size <= REPL_TARGET_MAX &&
           (node->target_size == 0 || memchr(node->target, 0, node->target_size) == NULL);
}

static bool xattr_valid(const struct repl_record *record)
{
    if (record->name_size == 0 || memchr(record->name, 0, record->name_size) != NULL)
        return false;
    if (record->value != NULL)
        return record->value_size <= REPL_XATTR_INLINE_MAX && record->place == 0;
    return record->value_size > REPL_XATTR_INLINE_MAX && record->value_size <= REPL_XATTR_MAX &&
           range_in_bounds(record->place, record->value_size);
}

static bool name_valid(const struct repl_record *record)
{
    const char *name = record->name;
    size_t size = record->name_size;
    bool dots = (size == 1 && name[0] == '.') || (size == 2 && name[0] == '.' && name[1] == '.');
    return size > 0 && size <= REPL_NAME_MAX && !dots && memchr(name, 0, size) == NULL &&
           memchr(name, '/', size) == NULL && record->offset == repl_xxh3(name, size) &&
           record->child != REPL_OBJECT_DEVICE && record->child != REPL_OBJECT_ROOT &&
           record->child != record->object;
}

static bool record_valid(const struct repl_record *record)
{
    switch (record->type) {
    case REPL_RECORD_OBJECT:
        return record->size > 0 && record->size <= REPL_VOLUME_SIZE_MAX;
    case REPL_RECORD_DATA:
        return extent_in_bounds(record) && record->length <= REPL_FRAME_RAW_MAX &&
               record->frame < REPL_FRAMES_MAX &&
               record->frame_offset <= REPL_FRAME_RAW_MAX - record->length;
    case REPL_RECORD_CHUNK:
        return extent_in_bounds(record) && record->length <= REPL_CHUNK_SIZE &&
               record->chunk_offset <= REPL_CHUNK_SIZE - record->length;
    case REPL_RECORD_ZERO:
        return extent_in_bounds(record);
    case REPL_RECORD_NODE:
        return node_valid(record);
    case REPL_RECORD_XATTR:
        return xattr_valid(record);
    case REPL_RECORD_NAME:
        return name_valid(record);
    case REPL_RECORD_RUN:
        return extent_in_bounds(record) && record->length % REPL_PAGE_SIZE == 0 &&
               range_in_bounds(record->place, record->length);
    case REPL_RECORD_HOLE:
        return extent_in_bounds(record) && record->length % REPL_PAGE_SIZE == 0;
    }
    return false;
}

/* --- reading --------------------------------------------------------------------------------- */

/* size bytes where the reader stands, which stay where they are; "" once it has failed. */
static const uint8_t *bytes_here(struct repl_reader *r, size_t size)
{
    if (r->failed || repl_reader_left(r) < size) {
        r->failed = true;
        return (const uint8_t *)"";
    }
    r->position += size;
    return r->data + r->position - size;
}

static void node_decode(struct repl_reader *r, struct repl_node *node)
{
    node->kind = repl_read_u8(r);
    repl_read_zeros(r, 1);
    node->mode = repl_read_u16(r);
    node->uid = repl_read_u32(r);
    node->gid = repl_read_u32(r);
    node->major = repl_read_u32(r);
    node->minor = repl_read_u32(r);
    node->flags = repl_read_u32(r);
    node->project = repl_read_u32(r);
    node->target_size = repl_read_u16(r);
    repl_read_zeros(r, 2);
    node->size = repl_read_u64(r);
    node->mtime_ns = repl_read_i64(r);
    repl_read_zeros(r, 8);
    node->target = (const char *)bytes_here(r, node->target_size);
}

static void xattr_decode(struct repl_reader *r, struct repl_record *out)
{
    out->name_size = repl_read_u8(r);
    repl_read_zeros(r, 3);
    out->value_size = repl_read_u32(r);
    out->place = repl_read_u64(r);
    out->name = (const char *)bytes_here(r, out->name_size);
    if (out->value_size <= REPL_XATTR_INLINE_MAX)
        out->value = bytes_here(r, out->value_size);
}

static void body_decode(struct repl_reader *r, struct repl_record *out)
{
    switch (out->type) {
    case REPL_RECORD_OBJECT:
        out->size = repl_read_u64(r);
        break;
    case REPL_RECORD_DATA:
        out->offset = repl_read_u64(r);
        out->length = repl_read_u32(r);
        out->frame_offset = repl_read_u32(r);
        break;
    case REPL_RECORD_CHUNK:
        out->offset = repl_read_u64(r);
        out->length = repl_read_u32(r);
        out->chunk_offset = repl_read_u32(r);
        repl_read_digest(r, &out->chunk);
        break;
    case REPL_RECORD_ZERO:
    case REPL_RECORD_HOLE:
        out->offset = repl_read_u64(r);
        out->length = repl_read_u64(r);
        break;
    case REPL_RECORD_NODE:
        node_decode(r, &out->node);
        break;
    case REPL_RECORD_XATTR:
        xattr_decode(r, out);
        break;
    case REPL_RECORD_NAME:
        out->offset = repl_read_u64(r);
        out->child = repl_read_u64(r);
        out->name_size = repl_read_u8(r);
        repl_read_zeros(r, 7);
        out->name = (const char *)bytes_here(r, out->name_size);
        break;
    case REPL_RECORD_RUN:
        out->offset = repl_read_u64(r);
        out->length = repl_read_u64(r);
        out->place = repl_read_u64(r);
        break;
    }
}

/* Objects of a tree have records of their own; object 1 has the others. */
static bool is_of_tree(enum repl_record_type type)
{
    return type >= REPL_RECORD_NODE && type <= REPL_RECORD_HOLE;
}

void repl_record_decode(struct repl_reader *r, struct repl_record *out)
{
    size_t start = r->position;
    *out = (struct repl_record){.type = repl_read_u8(r)};
    repl_read_zeros(r, 1);
    uint16_t size = repl_read_u16(r);
    uint32_t word = repl_read_u32(r);
    out->object = repl_read_u64(r);
    out->frame = out->type == REPL_RECORD_DATA ? word : 0;
    if (word != out->frame || out->object == 0 ||
        is_of_tree(out->type) != (out->object != REPL_OBJECT_DEVICE)) {
        r->failed = true;
        return;
    }
    body_decode(r, out);
    if (size == 0 || size != repl_record_size(out))
        r->failed = true;
    if (!r->failed)
        repl_read_zeros(r, size - (r->position - start));
    if (!r->failed && !record_valid(out))
        r->failed = true;
}
