/*
 * Segments that must be refused, each with one thing wrong and every checksum right (but where
 * the checksum is the thing). tests/unit/segment/test_segment.c tries them all,
 * tests/golden/make_segments.c writes them down for other decoders.
 */
#ifndef TESTS_UNIT_SEGMENT_CASES_H
#define TESTS_UNIT_SEGMENT_CASES_H

#include "unit/segment/segment_craft.h"
#include "unit/segment/tree_cases.h"

/* Where a wrong number is put. */
enum bad_place {
    AT_NOWHERE,
    AT_HEADER,
    AT_FRAME, /* its stored bytes */
    AT_BLOCK, /* its records; the block's checksum is made to match */
    AT_PAGES, /* the lists of pages, as one */
    AT_FRAME_ENTRY,
    AT_BLOCK_ENTRY,
    AT_CHUNK_ENTRY,
    AT_POINT,
    AT_FOOTER,
};

struct bad_patch {
    enum bad_place place;
    uint32_t index;
    uint32_t offset; /* of the field */
    uint32_t width;  /* in bytes */
    uint64_t value;
};

struct bad_case {
    const char *name;
    enum repl_code code;
    const char *word; /* of the message */
    struct bad_patch patch;
    void (*craft)(struct craft *craft);      /* instead of the sample */
    void (*bytes)(struct repl_buffer *file); /* last of all; nothing is sealed behind it */
};

/* --- what takes more than one wrong number --------------------------------------------------- */

static inline void bad_frame_too_large(struct craft *craft)
{
    craft_sample(craft);
    craft_run_frame(craft, 'L', REPL_FRAME_RAW_MAX + REPL_PAGE_SIZE);
}

/* Frame 2 of the sample: these stored bytes, said to be 8192 times 'Z'. */
static inline void bad_zstd(struct craft *craft, const uint8_t *stored, size_t size)
{
    uint8_t raw[8192];
    memset(raw, 'Z', sizeof raw);
    craft_sample(craft);
    craft_frame(craft, REPL_CODEC_ZSTD, stored, size, raw, sizeof raw);
}

static inline void bad_two_zstd_frames(struct craft *craft)
{
    uint8_t stored[128];
    size_t size = craft_zstd_run('Z', 4096, stored);
    bad_zstd(craft, stored, size + craft_zstd_run('Z', 4096, stored + size));
}

static inline void bad_skippable_frame(struct craft *craft)
{
    uint8_t stored[128] = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 'h', 'i', 'd', 'e'};
    bad_zstd(craft, stored, 12 + craft_zstd_run('Z', 8192, stored + 12));
}

static inline void bad_zstd_tail(struct craft *craft)
{
    uint8_t stored[64] = {0};
    bad_zstd(craft, stored, craft_zstd_run('Z', 8192, stored) + 1);
}

static inline void bad_zstd_without_size(struct craft *craft)
{
    /* a window of 8 KiB instead of the content's size; RLE block of 8192 */
    static const uint8_t stored[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x18, 0x03, 0x00, 0x01, 'Z'};
    bad_zstd(craft, stored, sizeof stored);
}

static inline void bad_zstd_shorter(struct craft *craft)
{
    uint8_t stored[64];
    bad_zstd(craft, stored, craft_zstd_run('Z', 8191, stored));
}

static inline void bad_zstd_block_type(struct craft *craft)
{
    uint8_t stored[64];
    size_t size = craft_zstd_run('Z', 8192, stored);
    stored[9] |= 3u << 1;
    bad_zstd(craft, stored, size);
}

static inline void bad_zstd_content(struct craft *craft)
{
    uint8_t stored[64];
    bad_zstd(craft, stored, craft_zstd_run('Y', 8192, stored));
}

static inline void bad_stored_content(struct craft *craft)
{
    craft_sample(craft);
    craft_frame(craft, REPL_CODEC_STORED, "stored", 6, "Stored", 6);
}

static inline void bad_supply_with_records(struct craft *craft)
{
    craft_sample(craft);
    craft->header.kind = REPL_SEGMENT_SUPPLY;
    craft->footer.point_count = 0;
}

static inline void bad_supply_with_points(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(7, 10)};
    craft->header.kind = REPL_SEGMENT_SUPPLY;
    craft_run_frame(craft, 'C', REPL_CHUNK_SIZE);
    craft_run_chunk(craft, 'C', 0, 0);
    craft_point(craft, 10, 0);
}

static inline void bad_changes_without_records(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(7, 10)};
    craft_run_frame(craft, 'A', 8192);
    craft_point(craft, 10, 0);
}

static inline void bad_object_missing(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(7, 10)};
    craft_zero(craft, 0, 0, 4096);
    craft_point(craft, 10, 0);
}

static inline void bad_object_twice(struct craft *craft)
{
    craft_sample(craft);
    craft_record(craft, 1,
                 (struct repl_record){.type = REPL_RECORD_OBJECT, .size = CRAFT_VOLUME_SIZE});
}

static inline void bad_record_cut_off(struct craft *craft)
{
    craft_sample(craft);
    craft->block_bytes[1].size -= 8;
}

static inline void bad_record_across_blocks(struct craft *craft)
{
    static const uint8_t nothing[8] = {0};
    craft_sample(craft);
    craft_append(&craft->block_bytes[0], nothing, sizeof nothing);
}

static inline void bad_pages_unannounced(struct craft *craft)
{
    craft_pages(craft);
    craft->header.features = 0;
}

static inline void bad_pages_of_others(struct craft *craft)
{
    craft_sample(craft);
    craft_run_pages(craft, 0, 'B');
}

static inline void bad_pages_of_block(struct craft *craft)
{
    craft_pages(craft);
    craft->blocks[0].frame.has_pages = true;
}

static inline void bad_pages_missing(struct craft *craft)
{
    craft_pages(craft);
    craft->page_bytes[0].size = 0;
}

static inline void bad_pages_nobodys(struct craft *craft)
{
    craft_pages(craft);
    craft->frames[0].has_pages = false;
}

static inline void bad_last_byte_missing(struct repl_buffer *file)
{
    file->size--;
}

static inline void bad_byte_behind(struct repl_buffer *file)
{
    craft_append(file, "", 1);
}

static inline void bad_byte_lost_within(struct repl_buffer *file)
{
    memmove(file->data + 200, file->data + 201, file->size - 201);
    file->size--;
}

static inline void bad_half_only(struct repl_buffer *file)
{
    file->size /= 2;
}

static inline void bad_nothing_left(struct repl_buffer *file)
{
    file->size = 0;
}

static inline void bad_header_bit(struct repl_buffer *file)
{
    file->data[40] ^= 1;
}

static inline void bad_footer_bit(struct repl_buffer *file)
{
    file->data[file->size - 100] ^= 1;
}

static inline void bad_index_bit(struct repl_buffer *file)
{
    file->data[file->size - REPL_SEGMENT_FOOTER_SIZE - 100] ^= 1;
}

static inline void bad_digest(struct repl_buffer *file)
{
    uint8_t *footer = file->data + file->size - REPL_SEGMENT_FOOTER_SIZE;
    footer[80] ^= 1;
    struct repl_writer w = repl_writer_of(footer + 120, 8);
    repl_write_u64(&w, repl_xxh3(footer, 120));
}

/* --- the table ------------------------------------------------------------------------------- */

#define CORRUPT    REPL_E_CORRUPT
#define VERSION    REPL_E_VERSION
#define PATCH(...) .patch = {__VA_ARGS__}

static const struct bad_case bad_cases[] = {
    {"file-empty", CORRUPT, "too few", .bytes = bad_nothing_left},
    {"file-half", CORRUPT, "footer: not there", .bytes = bad_half_only},
    {"file-last-byte-missing", CORRUPT, "footer: not there", .bytes = bad_last_byte_missing},
    {"file-byte-behind", CORRUPT, "footer: not there", .bytes = bad_byte_behind},
    {"file-byte-lost-within", CORRUPT, "its footer says", .bytes = bad_byte_lost_within},

    {"header-magic", CORRUPT, "not a segment", PATCH(AT_HEADER, 0, 0, 1, 0x09)},
    {"header-version-0", VERSION, "version 0", PATCH(AT_HEADER, 0, 8, 2, 0)},
    {"header-version-2", VERSION, "version 2", PATCH(AT_HEADER, 0, 8, 2, 2)},
    {"header-size", CORRUPT, "136 bytes", PATCH(AT_HEADER, 0, 10, 2, 136)},
    {"header-kind-0", CORRUPT, "unknown kind", PATCH(AT_HEADER, 0, 12, 1, 0)},
    {"header-kind-3", CORRUPT, "unknown kind", PATCH(AT_HEADER, 0, 12, 1, 3)},
    {"header-volume-kind-2", CORRUPT, "unknown volume kind", PATCH(AT_HEADER, 0, 13, 1, 2)},
    {"header-reserved-14", CORRUPT, "segment header", PATCH(AT_HEADER, 0, 15, 1, 1)},
    {"header-reserved-68", CORRUPT, "segment header", PATCH(AT_HEADER, 0, 68, 1, 1)},
    {"header-reserved-112", CORRUPT, "segment header", PATCH(AT_HEADER, 0, 119, 1, 0x80)},
    {"header-feature-bit-0", CORRUPT, "volume kind", PATCH(AT_HEADER, 0, 16, 8, 1)},
    {"header-feature-bit-2", VERSION, "features 0x4 ", PATCH(AT_HEADER, 0, 16, 8, 4)},
    {"header-feature-bit-63", VERSION, "features", PATCH(AT_HEADER, 0, 23, 1, 0x80)},
    {"header-from-is-to", CORRUPT, "not before", PATCH(AT_HEADER, 0, 48, 8, 10)},
    {"header-checksum", CORRUPT, "header: checksum", .bytes = bad_header_bit},

    {"footer-magic", CORRUPT, "footer: not there", PATCH(AT_FOOTER, 0, 0, 1, 'r')},
    {"footer-reserved-64", CORRUPT, "segment footer", PATCH(AT_FOOTER, 0, 79, 1, 1)},
    {"footer-reserved-112", CORRUPT, "segment footer", PATCH(AT_FOOTER, 0, 112, 1, 1)},
    {"footer-frame-count-limit", CORRUPT, "limit", PATCH(AT_FOOTER, 0, 16, 4, 0x100001)},
    {"footer-block-count-limit", CORRUPT, "limit", PATCH(AT_FOOTER, 0, 20, 4, 0x10001)},
    {"footer-chunk-count-limit", CORRUPT, "limit", PATCH(AT_FOOTER, 0, 24, 4, 0x100001)},
    {"footer-point-count-limit", CORRUPT, "limit", PATCH(AT_FOOTER, 0, 28, 4, 0x10001)},
    {"footer-frame-count", CORRUPT, "right before", PATCH(AT_FOOTER, 0, 16, 4, 3)},
    {"footer-block-count", CORRUPT, "right before", PATCH(AT_FOOTER, 0, 20, 4, 1)},
    {"footer-chunk-count", CORRUPT, "right before", PATCH(AT_FOOTER, 0, 24, 4, 0)},
    {"footer-point-count", CORRUPT, "right before", PATCH(AT_FOOTER, 0, 28, 4, 4)},
    {"footer-index-offset", CORRUPT, "right before", PATCH(AT_FOOTER, 0, 8, 8, 443)},
    {"footer-index-in-header", CORRUPT, "right before", PATCH(AT_FOOTER, 0, 8, 8, 127)},
    {"footer-record-count-less", CORRUPT, "records instead of", PATCH(AT_FOOTER, 0, 40, 8, 6)},
    {"footer-record-count-more", CORRUPT, "records instead of", PATCH(AT_FOOTER, 0, 40, 8, 8)},
    {"footer-raw-size", CORRUPT, "whole file", PATCH(AT_FOOTER, 0, 48, 8, 73729)},
    {"footer-raw-size-limit", CORRUPT, "decoded", PATCH(AT_FOOTER, 0, 48, 8, 0x100000001)},
    {"footer-file-size", CORRUPT, "right before", PATCH(AT_FOOTER, 0, 56, 8, 1000)},
    {"footer-file-size-limit", CORRUPT, "a segment of", PATCH(AT_FOOTER, 0, 56, 8, 0x40000001)},
    {"footer-digest", CORRUPT, "digest of the whole", .bytes = bad_digest},
    {"footer-checksum", CORRUPT, "footer: checksum", .bytes = bad_footer_bit},
    {"index-checksum", CORRUPT, "index: checksum", .bytes = bad_index_bit},

    {"frame-gap", CORRUPT, "frame 1 does not begin", PATCH(AT_FRAME_ENTRY, 1, 0, 8, 142)},
    {"frame-overlap", CORRUPT, "frame 1 does not begin", PATCH(AT_FRAME_ENTRY, 1, 0, 8, 140)},
    {"frame-first-late", CORRUPT, "frame 0 does not begin", PATCH(AT_FRAME_ENTRY, 0, 0, 8, 129)},
    {"frame-codec-2", CORRUPT, "segment index", PATCH(AT_FRAME_ENTRY, 0, 24, 1, 2)},
    {"frame-raw-size-0", CORRUPT, "segment index", PATCH(AT_FRAME_ENTRY, 0, 12, 4, 0)},
    {"frame-stored-size-0", CORRUPT, "segment index", PATCH(AT_FRAME_ENTRY, 0, 8, 4, 0)},
    {"frame-stored-size-other", CORRUPT, "segment index", PATCH(AT_FRAME_ENTRY, 0, 24, 1, 0)},
    {"frame-zstd-not-smaller", CORRUPT, "segment index", PATCH(AT_FRAME_ENTRY, 0, 12, 4, 13)},
    {"frame-reserved", CORRUPT, "segment index", PATCH(AT_FRAME_ENTRY, 0, 31, 1, 1)},
    {"frame-reserved-26", CORRUPT, "segment index", PATCH(AT_FRAME_ENTRY, 0, 26, 1, 1)},
    {"frame-pages-2", CORRUPT, "segment index", PATCH(AT_FRAME_ENTRY, 0, 25, 1, 2)},
    {"frame-too-large", CORRUPT, "segment index", .craft = bad_frame_too_large},
    {"frame-checksum", CORRUPT, "checksum", PATCH(AT_FRAME_ENTRY, 0, 16, 1, 0)},
    {"frame-checksum-stored", CORRUPT, "checksum", .craft = bad_stored_content},
    {"frame-checksum-zstd", CORRUPT, "checksum", .craft = bad_zstd_content},
    {"frame-zstd-magic", CORRUPT, "not one zstd frame", PATCH(AT_FRAME, 0, 3, 1, 0xfc)},
    {"frame-zstd-two", CORRUPT, "not one zstd frame", .craft = bad_two_zstd_frames},
    {"frame-zstd-skippable", CORRUPT, "not one zstd frame", .craft = bad_skippable_frame},
    {"frame-zstd-tail", CORRUPT, "not one zstd frame", .craft = bad_zstd_tail},
    {"frame-zstd-without-size", CORRUPT, "not one zstd frame", .craft = bad_zstd_without_size},
    {"frame-zstd-shorter", CORRUPT, "not one zstd frame", .craft = bad_zstd_shorter},
    {"frame-zstd-block-type", CORRUPT, "not one zstd frame", .craft = bad_zstd_block_type},

    {"pages-unannounced", CORRUPT, "frame 0 has a list", .craft = bad_pages_unannounced},
    {"pages-of-others", CORRUPT, "list of pages is of others", .craft = bad_pages_of_others},
    {"pages-of-block", CORRUPT, "manifest block 0 has a list", .craft = bad_pages_of_block},
    {"pages-missing", CORRUPT, "the whole file", .craft = bad_pages_missing},
    {"pages-nobodys", CORRUPT, "the whole file", .craft = bad_pages_nobodys},
    {"pages-checksum", CORRUPT, "its list of pages is damaged", .craft = craft_pages,
     PATCH(AT_PAGES, 0, 32, 1, 0)},
    {"pages-digest", CORRUPT, "its list of pages is damaged", .craft = craft_pages,
     PATCH(AT_PAGES, 0, 16, 1, 0)},

    {"block-gap", CORRUPT, "block 0 does not begin", PATCH(AT_BLOCK_ENTRY, 0, 0, 8, 155)},
    {"block-order", CORRUPT, "block 1 is out of order", PATCH(AT_BLOCK_ENTRY, 1, 32, 8, 0)},
    {"block-key-object", CORRUPT, "another key", PATCH(AT_BLOCK_ENTRY, 1, 32, 8, 2)},
    {"block-key-offset", CORRUPT, "another key", PATCH(AT_BLOCK_ENTRY, 1, 40, 8, 131071)},
    {"block-key-of-object-record", CORRUPT, "another key", PATCH(AT_BLOCK_ENTRY, 0, 40, 8, 4096)},
    {"block-reserved", CORRUPT, "segment index", PATCH(AT_BLOCK_ENTRY, 0, 26, 1, 1)},
    {"block-checksum", CORRUPT, "manifest block 0", PATCH(AT_BLOCK_ENTRY, 0, 16, 1, 0)},

    {"record-object-missing", CORRUPT, "does not come first", .craft = bad_object_missing},
    {"record-object-twice", CORRUPT, "does not come first", .craft = bad_object_twice},
    {"record-object-size-0", CORRUPT, "record 0", PATCH(AT_BLOCK, 0, 16, 8, 0)},
    {"record-object-size-limit", CORRUPT, "record 0", PATCH(AT_BLOCK, 0, 16, 8, (1ull << 50) + 1)},
    {"record-object-reserved", CORRUPT, "record 0", PATCH(AT_BLOCK, 0, 24, 1, 1)},
    {"record-object-word", CORRUPT, "record 0", PATCH(AT_BLOCK, 0, 4, 4, 1)},
    {"record-other-object", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 8, 8, 2)},
    {"record-type-0", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32, 1, 0)},
    {"record-type-5", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32, 1, 5)},
    {"record-reserved", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 1, 1, 1)},
    {"record-size", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 2, 2, 48)},
    {"record-size-0", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 2, 2, 0)},
    {"record-cut-off", CORRUPT, "record 6", .craft = bad_record_cut_off},
    {"record-across-blocks", CORRUPT, "record 4", .craft = bad_record_across_blocks},
    {"record-order", CORRUPT, "overlap", PATCH(AT_BLOCK, 1, 40 + 16, 8, 4096)},
    {"record-overlap", CORRUPT, "overlap", PATCH(AT_BLOCK, 0, 72 + 16, 8, 0)},
    {"record-overlap-of-blocks", CORRUPT, "overlap", PATCH(AT_BLOCK, 1, 16, 8, 126976)},
    {"record-outside-volume", CORRUPT, "leave the volume", PATCH(AT_BLOCK, 1, 72 + 24, 4, 1001)},
    {"record-end-overflows", CORRUPT, "record 5",
     PATCH(AT_BLOCK, 1, 40 + 24, 8, UINT64_MAX - 4095)},
    {"record-offset-in-page", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 16, 8, 512)},
    {"record-end-in-page", CORRUPT, "within a page", PATCH(AT_BLOCK, 0, 32 + 24, 4, 4095)},
    {"record-data-length-0", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 24, 4, 0)},
    {"record-data-length-limit", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 24, 4, 0x101000)},
    {"record-data-reserved", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 39, 1, 1)},
    {"record-data-frame", CORRUPT, "outside its frame", PATCH(AT_BLOCK, 0, 32 + 4, 4, 2)},
    {"record-data-frame-limit", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 4, 4, 0x100000)},
    {"record-data-end", CORRUPT, "outside its frame", PATCH(AT_BLOCK, 0, 32 + 28, 4, 4097)},
    {"record-data-end-limit", CORRUPT, "record 1", PATCH(AT_BLOCK, 0, 32 + 28, 4, UINT32_MAX)},
    {"record-chunk-length-limit", CORRUPT, "record 3", PATCH(AT_BLOCK, 0, 112 + 24, 4, 65537)},
    {"record-chunk-end", CORRUPT, "record 3", PATCH(AT_BLOCK, 0, 112 + 28, 4, 4096)},
    {"record-chunk-word", CORRUPT, "record 3", PATCH(AT_BLOCK, 0, 112 + 4, 4, 1)},
    {"record-zero-length-0", CORRUPT, "record 5", PATCH(AT_BLOCK, 1, 40 + 24, 8, 0)},
    {"record-zero-word", CORRUPT, "record 5", PATCH(AT_BLOCK, 1, 40 + 4, 4, 1)},

    {"chunk-frame", CORRUPT, "chunk 0 lies outside", PATCH(AT_CHUNK_ENTRY, 0, 32, 4, 2)},
    {"chunk-end", CORRUPT, "chunk 0 lies outside", PATCH(AT_CHUNK_ENTRY, 0, 36, 4, 1)},
    {"chunk-end-overflows", CORRUPT, "chunk 0 lies outside",
     PATCH(AT_CHUNK_ENTRY, 0, 36, 4, UINT32_MAX)},
    {"chunk-name", CORRUPT, "name", PATCH(AT_CHUNK_ENTRY, 0, 0, 1, 0)},

    {"point-seq-is-from", CORRUPT, "point 0", PATCH(AT_POINT, 0, 0, 8, 7)},
    {"point-seq-0", CORRUPT, "segment index", PATCH(AT_POINT, 0, 0, 8, 0)},
    {"point-order", CORRUPT, "point 1", PATCH(AT_POINT, 1, 0, 8, 8)},
    {"point-last-is-not-to", CORRUPT, "point 2", PATCH(AT_POINT, 2, 0, 8, 11)},
    {"point-last-merged", CORRUPT, "point 2", PATCH(AT_POINT, 2, 26, 2, 2)},
    {"point-not-merged", CORRUPT, "point 1", PATCH(AT_POINT, 1, 26, 2, 1)},
    {"point-flags", CORRUPT, "segment index", PATCH(AT_POINT, 0, 26, 2, 8 | REPL_POINT_MERGED)},
    {"point-consistency-0", CORRUPT, "segment index", PATCH(AT_POINT, 0, 24, 1, 0)},
    {"point-consistency-4", CORRUPT, "segment index", PATCH(AT_POINT, 0, 24, 1, 4)},
    {"point-consistency-5", CORRUPT, "segment index", PATCH(AT_POINT, 0, 24, 2, 5 | 5 << 8)},
    {"point-cut-0", CORRUPT, "segment index", PATCH(AT_POINT, 0, 25, 1, 0)},
    {"point-cut-5", CORRUPT, "segment index", PATCH(AT_POINT, 0, 25, 1, 5)},
    {"point-cut-6", CORRUPT, "segment index", PATCH(AT_POINT, 0, 24, 2, 4 | 6 << 8)},
    {"point-attempts-0", CORRUPT, "segment index", PATCH(AT_POINT, 0, 28, 4, 0)},
    {"point-ends-before-it-begins", CORRUPT, "segment index", PATCH(AT_POINT, 0, 16, 8, 0)},
    {"point-reserved", CORRUPT, "segment index", PATCH(AT_POINT, 0, 63, 1, 1)},

    {"supply-with-records", CORRUPT, "kind", .craft = bad_supply_with_records},
    {"supply-with-points", CORRUPT, "kind", .craft = bad_supply_with_points},
    {"changes-without-records", CORRUPT, "kind", .craft = bad_changes_without_records},

#define TREE_PATCH(...) .craft = tree_sample, PATCH(AT_BLOCK, __VA_ARGS__)
    {"tree-node-kind-8", CORRUPT, "record 7", TREE_PATCH(0, 320 + 16, 1, 8)},
    {"tree-node-reserved", CORRUPT, "record 7", TREE_PATCH(0, 320 + 17, 1, 1)},
    {"tree-node-mode", CORRUPT, "record 7", TREE_PATCH(0, 320 + 18, 2, 0100644)},
    {"tree-node-major-of-file", CORRUPT, "record 7", TREE_PATCH(0, 320 + 28, 4, 1)},
    {"tree-node-minor-of-file", CORRUPT, "record 7", TREE_PATCH(0, 320 + 32, 4, 1)},
    {"tree-node-target-of-file", CORRUPT, "record 7", TREE_PATCH(0, 320 + 44, 2, 4)},
    {"tree-node-reserved-46", CORRUPT, "record 7", TREE_PATCH(0, 320 + 46, 2, 1)},
    {"tree-node-size-limit", CORRUPT, "record 7", TREE_PATCH(0, 320 + 48, 8, (1ull << 50) + 1)},
    {"tree-node-reserved-64", CORRUPT, "record 7", TREE_PATCH(0, 320 + 71, 1, 1)},
    {"tree-node-size-of-directory", CORRUPT, "record 3", TREE_PATCH(0, 104 + 48, 8, 1)},
    {"tree-node-object-1", CORRUPT, "record 3", TREE_PATCH(0, 104 + 8, 8, 1)},
    {"tree-node-object-0", CORRUPT, "record 3", TREE_PATCH(0, 104 + 8, 8, 0)},
    {"tree-node-word", CORRUPT, "record 3", TREE_PATCH(0, 104 + 4, 4, 1)},
    {"tree-root-is-a-fifo", CORRUPT, "record 3", TREE_PATCH(0, 104 + 16, 1, 4)},
    {"tree-root-is-gone", CORRUPT, "record 3", TREE_PATCH(0, 104 + 16, 1, 0)},
    {"tree-target-length-0", CORRUPT, "record 13", TREE_PATCH(0, 592 + 44, 2, 0)},
    {"tree-target-length-limit", CORRUPT, "record 13", TREE_PATCH(0, 592 + 44, 2, 4096)},
    {"tree-target-zero-byte", CORRUPT, "record 13", TREE_PATCH(0, 592 + 73, 1, 0)},
    {"tree-target-padding", CORRUPT, "record 13", TREE_PATCH(0, 592 + 79, 1, 1)},
    {"tree-target-of-no-symlink", CORRUPT, "record 13", TREE_PATCH(0, 592 + 16, 1, 1)},
    {"tree-gone-with-mode", CORRUPT, "record 17", TREE_PATCH(1, 72 + 18, 2, 0644)},
    {"tree-gone-with-time", CORRUPT, "record 17", TREE_PATCH(1, 72 + 56, 8, 1)},
    {"tree-gone-and-more", CORRUPT, "gone", TREE_PATCH(1, 144 + 8, 8, 7)},
    {"tree-node-twice", CORRUPT, "does not come first", TREE_PATCH(0, 672 + 8, 8, 4)},
    {"tree-object-order", CORRUPT, "objects are out of order", TREE_PATCH(0, 672 + 8, 8, 3)},
    {"tree-xattr-name-length-0", CORRUPT, "record 8", TREE_PATCH(0, 392 + 16, 1, 0)},
    {"tree-xattr-name-longer", CORRUPT, "record 8", TREE_PATCH(0, 392 + 16, 1, 255)},
    {"tree-xattr-reserved", CORRUPT, "record 8", TREE_PATCH(0, 392 + 19, 1, 1)},
    {"tree-xattr-name-zero-byte", CORRUPT, "record 8", TREE_PATCH(0, 392 + 32, 1, 0)},
    {"tree-xattr-value-limit", CORRUPT, "record 9", TREE_PATCH(0, 440 + 20, 4, 65537)},
    {"tree-xattr-value-inline", CORRUPT, "record 9", TREE_PATCH(0, 440 + 20, 4, 2048)},
    {"tree-xattr-place-of-inline", CORRUPT, "record 8", TREE_PATCH(0, 392 + 24, 8, 4096)},
    {"tree-xattr-place-in-page", CORRUPT, "record 9", TREE_PATCH(0, 440 + 24, 8, 8200)},
    {"tree-xattr-outside", CORRUPT, "outside the space", TREE_PATCH(0, 440 + 24, 8, 258048)},
    {"tree-xattr-order", CORRUPT, "out of order", TREE_PATCH(0, 440 + 37, 1, 'a')},
    {"tree-xattr-padding", CORRUPT, "record 8", TREE_PATCH(0, 392 + 47, 1, 1)},
    {"tree-name-length-0", CORRUPT, "record 4", TREE_PATCH(0, 176 + 32, 1, 0)},
    {"tree-name-reserved", CORRUPT, "record 4", TREE_PATCH(0, 176 + 33, 1, 1)},
    {"tree-name-hash", CORRUPT, "record 4", TREE_PATCH(0, 176 + 16, 8, 77)},
    {"tree-name-child-1", CORRUPT, "record 4", TREE_PATCH(0, 176 + 24, 8, 1)},
    {"tree-name-child-2", CORRUPT, "record 4", TREE_PATCH(0, 176 + 24, 8, 2)},
    {"tree-name-child-itself", CORRUPT, "record 15", TREE_PATCH(0, 744 + 24, 8, 5)},
    {"tree-run-offset-in-page", CORRUPT, "record 10", TREE_PATCH(0, 480 + 16, 8, 512)},
    {"tree-run-length-0", CORRUPT, "record 10", TREE_PATCH(0, 480 + 24, 8, 0)},
    {"tree-run-length-in-page", CORRUPT, "record 10", TREE_PATCH(0, 480 + 24, 8, 4095)},
    {"tree-run-place-in-page", CORRUPT, "record 10", TREE_PATCH(0, 480 + 32, 8, 1)},
    {"tree-run-outside", CORRUPT, "outside the space", TREE_PATCH(0, 480 + 32, 8, 262144)},
    {"tree-run-overlap", CORRUPT, "overlap", TREE_PATCH(0, 552 + 16, 8, 4096)},
    {"tree-run-behind-the-end", CORRUPT, "has none", TREE_PATCH(0, 552 + 16, 8, 12288)},
    {"tree-run-end-overflows", CORRUPT, "record 10", TREE_PATCH(0, 480 + 16, 8, UINT64_MAX - 4095)},
    {"tree-hole-overlap", CORRUPT, "overlap", TREE_PATCH(0, 520 + 24, 8, 8192)},
    {"tree-hole-length-in-page", CORRUPT, "record 11", TREE_PATCH(0, 520 + 24, 8, 4095)},
    {"tree-type-10", CORRUPT, "record 11", TREE_PATCH(0, 520, 1, 10)},
    {"tree-in-block-volume", CORRUPT, "block volume", .craft = bad_tree_in_block_volume},
    {"tree-name-dot", CORRUPT, "record 3", .craft = bad_tree_name_dot},
    {"tree-name-dots", CORRUPT, "record 3", .craft = bad_tree_name_dots},
    {"tree-name-slash", CORRUPT, "record 3", .craft = bad_tree_name_slash},
    {"tree-name-twice", CORRUPT, "comes twice", .craft = bad_tree_name_twice},
    {"tree-name-order", CORRUPT, "out of order", .craft = bad_tree_name_order},
    {"tree-name-in-file", CORRUPT, "no directory", .craft = bad_tree_name_in_file},
    {"tree-name-behind-run", CORRUPT, "has contents", .craft = bad_tree_name_behind_run},
    {"tree-run-behind-name", CORRUPT, "out of order", .craft = bad_tree_run_behind_name},
    {"tree-space-size", CORRUPT, "within a page", TREE_PATCH(0, 16, 8, TREE_SPACE_SIZE + 1)},
    {"tree-run-of-root", CORRUPT, "has none", .craft = bad_tree_run_of_root},
    {"tree-run-of-directory", CORRUPT, "has none", .craft = bad_tree_run_of_directory},
    {"tree-xattr-without-node", CORRUPT, "not behind", .craft = bad_tree_xattr_without_node},
    {"tree-xattr-behind-run", CORRUPT, "not behind", .craft = bad_tree_xattr_behind_run},
    {"tree-extent-behind", CORRUPT, "objects are out of order", .craft = bad_tree_extent_behind},
    {"tree-node-behind-run", CORRUPT, "does not come first", .craft = bad_tree_node_behind_run},
    {"tree-per-file-of-block-volume", CORRUPT, "in a block volume",
     .craft = bad_tree_per_file_of_block_volume},
    {"tree-point-consistency-4", CORRUPT, "segment index", .craft = tree_per_file,
     PATCH(AT_POINT, 0, 24, 1, 4)},
    {"tree-snapshot-of-block-volume", CORRUPT, "in a block volume",
     .craft = bad_tree_snapshot_of_block_volume},
    {"tree-point-snapshot-per-file", CORRUPT, "segment index", .craft = tree_snapshot,
     PATCH(AT_POINT, 0, 24, 1, 4)},
    {"tree-point-cut-7", CORRUPT, "segment index", .craft = tree_snapshot,
     PATCH(AT_POINT, 0, 25, 1, 7)},
    {"tree-point-cut-5", CORRUPT, "segment index", .craft = tree_per_file,
     PATCH(AT_POINT, 0, 25, 1, 5)},
#undef TREE_PATCH
};

#undef CORRUPT
#undef VERSION
#undef PATCH

#define BAD_CASE_COUNT (sizeof bad_cases / sizeof bad_cases[0])

static inline uint64_t bad_place_offset(const struct bad_patch *patch, const struct craft *craft,
                                        size_t file_size)
{
    const struct repl_segment_footer *f = &craft->footer;
    uint64_t at = f->index_offset;
    switch (patch->place) {
    case AT_NOWHERE:
    case AT_HEADER:
        return 0;
    case AT_FRAME:
        return craft->frames[patch->index].offset;
    case AT_BLOCK:
        return craft->blocks[patch->index].frame.offset;
    case AT_PAGES:
        return at - craft->page_bytes[patch->index].size;
    case AT_FRAME_ENTRY:
        return at + patch->index * REPL_FRAME_ENTRY_SIZE;
    case AT_BLOCK_ENTRY:
        return at + f->frame_count * REPL_FRAME_ENTRY_SIZE + patch->index * REPL_BLOCK_ENTRY_SIZE;
    case AT_CHUNK_ENTRY:
        return at + f->frame_count * REPL_FRAME_ENTRY_SIZE +
               f->block_count * REPL_BLOCK_ENTRY_SIZE + patch->index * REPL_CHUNK_ENTRY_SIZE;
    case AT_POINT:
        return file_size - REPL_SEGMENT_FOOTER_SIZE -
               (f->point_count - patch->index) * REPL_POINT_SIZE;
    case AT_FOOTER:
        return file_size - REPL_SEGMENT_FOOTER_SIZE;
    }
    return 0;
}

/* Writes the segment of a case; the caller frees it. */
static inline struct repl_buffer bad_case_make(const struct bad_case *bad)
{
    const struct bad_patch *patch = &bad->patch;
    struct craft craft;
    struct repl_buffer file = {0};
    (bad->craft != NULL ? bad->craft : craft_sample)(&craft);
    craft_layout(&craft);
    if (patch->place == AT_BLOCK) {
        struct repl_buffer *records = &craft.block_bytes[patch->index];
        for (uint32_t i = 0; i < patch->width; i++)
            records->data[patch->offset + i] = (uint8_t)(patch->value >> 8 * i);
        craft.blocks[patch->index].frame.raw_xxh3 = repl_xxh3(records->data, records->size);
        /* so that it is the record that is wrong, and not the key of its block */
        if (patch->offset < 24 && patch->index > 0)
            craft.blocks[patch->index].first_offset = patch->value;
    }
    craft_write(&craft, &file);
    uint64_t at = bad_place_offset(patch, &craft, file.size) + patch->offset;
    for (uint32_t i = 0; i < patch->width; i++)
        file.data[at + i] = (uint8_t)(patch->value >> 8 * i);
    craft_seal(&file);
    if (bad->bytes != NULL)
        bad->bytes(&file);
    craft_fini(&craft);
    return file;
}

#endif
