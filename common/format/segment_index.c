#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "base/limits.h"
#include "format/segment_format.h"

static const uint8_t footer_magic[8] = {'R', 'E', 'P', 'L', 'F', 'O', 'O', 'T'};

#define FOOTER_CHECKED (REPL_SEGMENT_FOOTER_SIZE - 8)
#define FOOTER_DIGEST  (REPL_SEGMENT_FOOTER_SIZE - REPL_SEGMENT_DIGEST_TAIL)

void repl_segment_footer_encode(const struct repl_segment_footer *footer,
                                uint8_t out[REPL_SEGMENT_FOOTER_SIZE])
{
    struct repl_writer w = repl_writer_of(out, REPL_SEGMENT_FOOTER_SIZE);
    repl_write_bytes(&w, footer_magic, sizeof footer_magic);
    repl_write_u64(&w, footer->index_offset);
    repl_write_u32(&w, footer->frame_count);
    repl_write_u32(&w, footer->block_count);
    repl_write_u32(&w, footer->chunk_count);
    repl_write_u32(&w, footer->point_count);
    repl_write_u64(&w, footer->index_xxh3);
    repl_write_u64(&w, footer->record_count);
    repl_write_u64(&w, footer->raw_size);
    repl_write_u64(&w, footer->file_size);
    repl_write_zeros(&w, 16);
    ensure(!w.failed && w.position == FOOTER_DIGEST);
    repl_write_zeros(&w, REPL_SEGMENT_DIGEST_TAIL);
}

void repl_segment_footer_seal(const struct repl_digest *digest,
                              uint8_t footer[REPL_SEGMENT_FOOTER_SIZE])
{
    struct repl_writer w =
        repl_writer_of(footer + FOOTER_DIGEST, REPL_SEGMENT_FOOTER_SIZE - FOOTER_DIGEST);
    repl_write_digest(&w, digest);
    repl_write_zeros(&w, 8);
    repl_write_u64(&w, repl_xxh3(footer, FOOTER_CHECKED));
    ensure(!w.failed && w.position == w.size);
}

uint64_t repl_frame_pages_size(const struct repl_frame_entry *entry)
{
    return repl_page_count_of(entry->raw_size) * REPL_PAGE_ENTRY_SIZE + REPL_PAGES_TAIL;
}

void repl_frame_pages_seal(const struct repl_page_digest *pages, uint64_t count,
                           uint8_t tail[REPL_PAGES_TAIL])
{
    struct repl_writer w = repl_writer_of(tail, REPL_PAGES_TAIL);
    repl_write_u64(&w, repl_xxh3(pages, count * sizeof *pages));
}

uint64_t repl_segment_index_size(const struct repl_segment_footer *footer)
{
    return (uint64_t)footer->frame_count * REPL_FRAME_ENTRY_SIZE +
           (uint64_t)footer->block_count * REPL_BLOCK_ENTRY_SIZE +
           (uint64_t)footer->chunk_count * REPL_CHUNK_ENTRY_SIZE +
           (uint64_t)footer->point_count * REPL_POINT_SIZE;
}

static repl_result footer_validate(const struct repl_segment_footer *footer, struct repl_error *err)
{
    if (footer->frame_count > REPL_FRAMES_MAX || footer->block_count > REPL_BLOCKS_MAX ||
        footer->chunk_count > REPL_CHUNKS_MAX || footer->point_count > REPL_POINTS_MAX)
        return repl_fail(err, REPL_E_CORRUPT, "segment footer: a count is over its limit");
    uint64_t index_size = repl_segment_index_size(footer);
    if (index_size > REPL_INDEX_SIZE_MAX)
        return repl_fail(err, REPL_E_CORRUPT, "segment footer: an index of %llu bytes",
                         (unsigned long long)index_size);
    if (footer->file_size > REPL_SEGMENT_HARD_LIMIT)
        return repl_fail(err, REPL_E_CORRUPT, "segment footer: a segment of %llu bytes",
                         (unsigned long long)footer->file_size);
    if (footer->raw_size > REPL_SEGMENT_RAW_MAX)
        return repl_fail(err, REPL_E_CORRUPT, "segment footer: frames of %llu bytes, decoded",
                         (unsigned long long)footer->raw_size);
    if (footer->index_offset < REPL_SEGMENT_HEADER_SIZE ||
        footer->index_offset > footer->file_size ||
        footer->file_size - footer->index_offset != index_size + REPL_SEGMENT_FOOTER_SIZE)
        return repl_fail(err, REPL_E_CORRUPT,
                         "segment footer: the index does not lie right before it");
    return REPL_SUCCESS;
}

repl_result repl_segment_footer_decode(const uint8_t *data, size_t size,
                                       struct repl_segment_footer *out, struct repl_error *err)
{
    if (size != REPL_SEGMENT_FOOTER_SIZE)
        return repl_fail(err, REPL_E_CORRUPT, "segment footer: %zu of %u bytes", size,
                         REPL_SEGMENT_FOOTER_SIZE);
    if (memcmp(data, footer_magic, sizeof footer_magic) != 0)
        return repl_fail(err, REPL_E_CORRUPT,
                         "segment footer: not there (the segment is incomplete or damaged)");
    struct repl_reader r = repl_reader_of(data, size);
    uint8_t magic[sizeof footer_magic];
    repl_read_bytes(&r, magic, sizeof magic);
    *out = (struct repl_segment_footer){.index_offset = repl_read_u64(&r)};
    out->frame_count = repl_read_u32(&r);
    out->block_count = repl_read_u32(&r);
    out->chunk_count = repl_read_u32(&r);
    out->point_count = repl_read_u32(&r);
    out->index_xxh3 = repl_read_u64(&r);
    out->record_count = repl_read_u64(&r);
    out->raw_size = repl_read_u64(&r);
    out->file_size = repl_read_u64(&r);
    repl_read_zeros(&r, 16);
    repl_read_digest(&r, &out->digest);
    repl_read_zeros(&r, 8);
    if (repl_read_u64(&r) != repl_xxh3(data, FOOTER_CHECKED))
        return repl_fail(err, REPL_E_CORRUPT, "segment footer: checksum does not match");
    REPL_TRY(repl_reader_end(&r, err, "segment footer"));
    return footer_validate(out, err);
}

void repl_frame_entry_encode(struct repl_writer *w, const struct repl_frame_entry *entry)
{
    repl_write_u64(w, entry->offset);
    repl_write_u32(w, entry->stored_size);
    repl_write_u32(w, entry->raw_size);
    repl_write_u64(w, entry->raw_xxh3);
    repl_write_u8(w, (uint8_t)entry->codec);
    repl_write_u8(w, entry->has_pages);
    repl_write_zeros(w, 6);
}

void repl_frame_entry_decode(struct repl_reader *r, struct repl_frame_entry *out)
{
    *out = (struct repl_frame_entry){.offset = repl_read_u64(r)};
    out->stored_size = repl_read_u32(r);
    out->raw_size = repl_read_u32(r);
    out->raw_xxh3 = repl_read_u64(r);
    out->codec = repl_read_u8(r);
    uint8_t has_pages = repl_read_u8(r);
    out->has_pages = has_pages != 0;
    repl_read_zeros(r, 6);
    if (out->raw_size == 0 || out->raw_size > REPL_FRAME_RAW_MAX || out->stored_size == 0)
        r->failed = true;
    if (out->codec == REPL_CODEC_STORED ? out->stored_size != out->raw_size
                                        : out->stored_size >= out->raw_size)
        r->failed = true;
    if ((out->codec != REPL_CODEC_STORED && out->codec != REPL_CODEC_ZSTD) || has_pages > 1)
        r->failed = true;
}

void repl_block_entry_encode(struct repl_writer *w, const struct repl_block_entry *entry)
{
    repl_frame_entry_encode(w, &entry->frame);
    repl_write_u64(w, entry->first_object);
    repl_write_u64(w, entry->first_offset);
}

void repl_block_entry_decode(struct repl_reader *r, struct repl_block_entry *out)
{
    repl_frame_entry_decode(r, &out->frame);
    out->first_object = repl_read_u64(r);
    out->first_offset = repl_read_u64(r);
}

void repl_chunk_entry_encode(struct repl_writer *w, const struct repl_chunk_entry *entry)
{
    repl_write_digest(w, &entry->name);
    repl_write_u32(w, entry->frame);
    repl_write_u32(w, entry->frame_offset);
}

void repl_chunk_entry_decode(struct repl_reader *r, struct repl_chunk_entry *out)
{
    repl_read_digest(r, &out->name);
    out->frame = repl_read_u32(r);
    out->frame_offset = repl_read_u32(r);
}

void repl_point_encode(struct repl_writer *w, const struct repl_point *point)
{
    repl_write_u64(w, point->seq);
    repl_write_i64(w, point->begin_ns);
    repl_write_i64(w, point->end_ns);
    repl_write_u8(w, (uint8_t)point->consistency);
    repl_write_u8(w, (uint8_t)point->cut);
    repl_write_u16(w, point->flags);
    repl_write_u32(w, point->attempts);
    repl_write_u64(w, point->changed_bytes);
    repl_write_zeros(w, 24);
}

void repl_point_decode(struct repl_reader *r, struct repl_point *out)
{
    *out = (struct repl_point){.seq = repl_read_u64(r)};
    out->begin_ns = repl_read_i64(r);
    out->end_ns = repl_read_i64(r);
    out->consistency = repl_read_u8(r);
    out->cut = repl_read_u8(r);
    out->flags = repl_read_u16(r);
    out->attempts = repl_read_u32(r);
    out->changed_bytes = repl_read_u64(r);
    repl_read_zeros(r, 24);
    if (out->seq == 0 || out->begin_ns > out->end_ns || out->attempts == 0 ||
        out->consistency < REPL_CONSISTENCY_CRASH || out->consistency > REPL_CONSISTENCY_PER_FILE ||
        out->cut < REPL_CUT_QUIET || out->cut > REPL_CUT_SNAPSHOT ||
        (out->consistency == REPL_CONSISTENCY_PER_FILE) != (out->cut == REPL_CUT_FILES) ||
        (out->flags & ~(REPL_POINT_RESYNC | REPL_POINT_MERGED | REPL_POINT_GROUP)) != 0)
        r->failed = true;
}
