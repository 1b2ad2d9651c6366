#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "format/segment_format.h"

/* As PNG's: a transfer that mangles line ends or the eighth bit destroys it visibly. */
static const uint8_t header_magic[8] = {0x89, 'R', 'E', 'P', 'L', '\r', '\n', 0x1a};

#define HEADER_CHECKED (REPL_SEGMENT_HEADER_SIZE - 8)

void repl_segment_header_encode(const struct repl_segment_header *header,
                                uint8_t out[REPL_SEGMENT_HEADER_SIZE])
{
    struct repl_writer w = repl_writer_of(out, REPL_SEGMENT_HEADER_SIZE);
    repl_write_bytes(&w, header_magic, sizeof header_magic);
    repl_write_u16(&w, header->version);
    repl_write_u16(&w, REPL_SEGMENT_HEADER_SIZE);
    repl_write_u8(&w, (uint8_t)header->kind);
    repl_write_u8(&w, (uint8_t)header->volume_kind);
    repl_write_zeros(&w, 2);
    repl_write_u64(&w, header->features);
    repl_write_uuid(&w, &header->volume);
    repl_write_u64(&w, header->lineage);
    repl_write_u64(&w, header->from_seq);
    repl_write_u64(&w, header->to_seq);
    repl_write_u32(&w, header->part);
    repl_write_zeros(&w, 4);
    repl_write_i64(&w, header->created_ns);
    repl_write_digest(&w, &header->prev);
    repl_write_zeros(&w, 8);
    ensure(!w.failed && w.position == HEADER_CHECKED);
    repl_write_u64(&w, repl_xxh3(out, HEADER_CHECKED));
}

static repl_result header_validate(const struct repl_segment_header *header, struct repl_error *err)
{
    if ((header->features & ~(REPL_FEATURE_TREE | REPL_FEATURE_PAGES)) != 0)
        return repl_fail(err, REPL_E_VERSION,
                         "segment header: needs features %#llx that this version of repl does not "
                         "know; use a newer one",
                         (unsigned long long)header->features);
    if (header->kind != REPL_SEGMENT_CHANGES && header->kind != REPL_SEGMENT_SUPPLY)
        return repl_fail(err, REPL_E_CORRUPT, "segment header: unknown kind %d", (int)header->kind);
    bool tree = (header->features & REPL_FEATURE_TREE) != 0;
    if (header->volume_kind != (tree ? REPL_VOLUME_TREE : REPL_VOLUME_BLOCK))
        return repl_fail(err, REPL_E_CORRUPT, "segment header: unknown volume kind %d",
                         (int)header->volume_kind);
    if (header->from_seq >= header->to_seq)
        return repl_fail(err, REPL_E_CORRUPT, "segment header: from %llu is not before to %llu",
                         (unsigned long long)header->from_seq, (unsigned long long)header->to_seq);
    return REPL_SUCCESS;
}

repl_result repl_segment_header_decode(const uint8_t *data, size_t size,
                                       struct repl_segment_header *out, struct repl_error *err)
{
    if (size < REPL_SEGMENT_HEADER_SIZE)
        return repl_fail(err, REPL_E_CORRUPT, "segment header: %zu of %u bytes", size,
                         REPL_SEGMENT_HEADER_SIZE);
    if (memcmp(data, header_magic, sizeof header_magic) != 0)
        return repl_fail(err, REPL_E_CORRUPT, "segment header: not a segment (wrong first bytes)");
    struct repl_reader r = repl_reader_of(data, REPL_SEGMENT_HEADER_SIZE);
    uint8_t magic[sizeof header_magic];
    repl_read_bytes(&r, magic, sizeof magic);
    *out = (struct repl_segment_header){.version = repl_read_u16(&r)};
    uint16_t header_size = repl_read_u16(&r);
    /* A later version may check its header in another way: its number comes before our checksum. */
    if (out->version != REPL_SEGMENT_VERSION)
        return repl_fail(err, REPL_E_VERSION,
                         "segment header: version %u, and this version of repl reads %u",
                         out->version, REPL_SEGMENT_VERSION);
    out->kind = repl_read_u8(&r);
    out->volume_kind = repl_read_u8(&r);
    repl_read_zeros(&r, 2);
    out->features = repl_read_u64(&r);
    repl_read_uuid(&r, &out->volume);
    out->lineage = repl_read_u64(&r);
    out->from_seq = repl_read_u64(&r);
    out->to_seq = repl_read_u64(&r);
    out->part = repl_read_u32(&r);
    repl_read_zeros(&r, 4);
    out->created_ns = repl_read_i64(&r);
    repl_read_digest(&r, &out->prev);
    repl_read_zeros(&r, 8);
    if (repl_read_u64(&r) != repl_xxh3(data, HEADER_CHECKED))
        return repl_fail(err, REPL_E_CORRUPT, "segment header: checksum does not match");
    if (header_size != REPL_SEGMENT_HEADER_SIZE)
        return repl_fail(err, REPL_E_CORRUPT, "segment header: says it has %u bytes", header_size);
    REPL_TRY(repl_reader_end(&r, err, "segment header"));
    return header_validate(out, err);
}
