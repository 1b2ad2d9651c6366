/*
 * The golden segments, and the text that says what is in one. Both are used by the generator,
 * which writes the files, and by the test, which compares them with what is in the repository.
 */
#ifndef TESTS_GOLDEN_SEGMENT_GOLDEN_H
#define TESTS_GOLDEN_SEGMENT_GOLDEN_H

#include <inttypes.h>
#include <stdio.h>

#include "segment/segment_verify.h"
#include "unit/random.h"
#include "unit/segment/segment_cases.h"

struct golden_case {
    const char *name;
    void (*craft)(struct craft *craft);      /* bytes that depend on nothing */
    void (*build)(struct memory_file *file); /* by the builder: depends on the version of zstd */
};

/* --- good ones ------------------------------------------------------------------------------- */

static inline void golden_pattern(uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 251);
}

/* A full: every byte of the volume is spoken of; its last page is not whole. */
static inline void golden_full(struct craft *craft)
{
    uint8_t bytes[4096 + 1000];
    golden_pattern(bytes, sizeof bytes);
    *craft = (struct craft){.header = craft_header(0, 1)};
    craft_stored_frame(craft, bytes, sizeof bytes);
    craft_object(craft, 3 * 4096 + 1000);
    craft_data(craft, 0, 0, 4096, 0, 0);
    craft_zero(craft, 0, 4096, 8192);
    craft_data(craft, 0, 12288, 1000, 0, 4096);
    craft_point(craft, 1, REPL_POINT_RESYNC);
}

/* Made by zstd 1.5.4, level 3, with its own checksum: 64 lines "line 000 of a golden segment\n"
 * and zeros up to 2048 bytes. */
static const uint8_t golden_zstd_frame[] = {
    0x28, 0xb5, 0x2f, 0xfd, 0x64, 0x00, 0x07, 0xa5, 0x03, 0x00, 0x32, 0x06, 0x13, 0x15, 0x90,
    0x27, 0x79, 0x75, 0x59, 0x4b, 0xd1, 0x5b, 0xe4, 0xed, 0xee, 0x20, 0x52, 0x84, 0x94, 0x72,
    0x68, 0xdd, 0xd9, 0x08, 0x6c, 0x44, 0xd1, 0x8d, 0xab, 0x89, 0x67, 0x45, 0xf7, 0xad, 0x26,
    0x9e, 0x15, 0xdd, 0xb6, 0x9a, 0x78, 0x56, 0x74, 0xd7, 0x6a, 0xe2, 0x59, 0xd1, 0x4d, 0xab,
    0x89, 0x67, 0x45, 0xf7, 0x57, 0x13, 0xcf, 0x8a, 0x0e, 0x38, 0x14, 0x52, 0x28, 0x88, 0x61,
    0x0a, 0x11, 0x18, 0x47, 0x31, 0x81, 0x19, 0x1c, 0x63, 0x7b, 0x48, 0x21, 0x18, 0x01, 0x41,
    0xa8, 0x11, 0xa0, 0x5f, 0xff, 0x3b, 0xf0, 0x85, 0x35, 0x12, 0x98, 0x41, 0xe0, 0x9f, 0x41,
    0x70, 0x8c, 0x7e, 0xff, 0x37, 0x3c, 0x5a, 0x90, 0x92, 0x63, 0x3e, 0x65, 0x3e, 0xe3, 0x69,
    0xbf, 0xa0, 0x28, 0x00, 0x48, 0x55, 0x73, 0xf3, 0x21, 0x7a,
};

static inline void golden_zstd(struct craft *craft)
{
    char raw[2048] = {0};
    for (int i = 0, at = 0; i < 64; i++)
        at += snprintf(raw + at, sizeof raw - (size_t)at, "line %03d of a golden segment\n", i);
    *craft = (struct craft){.header = craft_header(1, 2)};
    craft_frame(craft, REPL_CODEC_ZSTD, golden_zstd_frame, sizeof golden_zstd_frame, raw,
                sizeof raw);
    craft_object(craft, sizeof raw);
    craft_data(craft, 0, 0, sizeof raw, 0, 0);
    craft_point(craft, 2, 0);
}

/* Part 0 of two: the point comes with the last. */
static inline void golden_part(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(2, 3)};
    craft_run_frame(craft, 'p', 4096);
    craft_object(craft, 65536);
    craft_data(craft, 0, 4096, 4096, 0, 0);
}

static inline void golden_part_last(struct craft *craft)
{
    golden_part(craft);
    craft->header.part = 1;
    craft_point(craft, 3, 0);
}

/* Time went on, nothing changed, and the clock stands before 1970. */
static inline void golden_empty(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(3, 4)};
    craft->header.created_ns = -1;
    craft_object(craft, 65536);
    craft_point(craft, 4, 0);
    craft->points[0].begin_ns = INT64_MIN;
    craft->points[0].end_ns = -1;
    craft->points[0].consistency = REPL_CONSISTENCY_APPLICATION;
    craft->points[0].cut = REPL_CUT_COMMAND;
    craft->points[0].attempts = UINT32_MAX;
    craft->points[0].changed_bytes = 0;
}

/* Pieces of chunks: the head and the tail of one whose middle was written anew, one cut off by
 * the end of the volume. */
static inline void golden_pieces(struct craft *craft)
{
    static const uint8_t elsewhere[REPL_CHUNK_SIZE] = {7};
    struct repl_digest name = chunk_name_of(elsewhere);
    *craft = (struct craft){.header = craft_header(4, 5)};
    craft_run_frame(craft, 'm', 4096);
    craft_object(craft, 65536 + 5000);
    craft_reference(craft, 0, 0, 4096, &name, 0);
    craft_data(craft, 0, 4096, 4096, 0, 0);
    craft_reference(craft, 0, 8192, 57344, &name, 8192);
    craft_reference(craft, 0, 65536, 5000, &name, 0);
    craft_point(craft, 5, 0);
}

/* Chunks for a site that lacks them. The second is not aligned in its frame; one is there twice. */
static inline void golden_supply(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(5, 6)};
    craft->header.kind = REPL_SEGMENT_SUPPLY;
    memset(&craft->header.prev, 0, sizeof craft->header.prev);
    craft_run_frame(craft, 's', REPL_CHUNK_SIZE + 512);
    craft_run_frame(craft, 't', 2 * REPL_CHUNK_SIZE);
    craft_run_chunk(craft, 't', 1, REPL_CHUNK_SIZE);
    craft_run_chunk(craft, 's', 0, 512);
    craft_run_chunk(craft, 't', 1, 0);
}

static inline void golden_supply_of_nothing(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(5, 6)};
    craft->header.kind = REPL_SEGMENT_SUPPLY;
}

/* The largest frame, the largest volume, the largest extent of zeros. */
static inline void golden_largest(struct craft *craft)
{
    const uint64_t size = UINT64_C(1) << 50;
    *craft = (struct craft){.header = craft_header(UINT64_MAX - 1, UINT64_MAX)};
    craft->header.lineage = UINT64_MAX;
    craft->header.part = UINT32_MAX;
    craft_run_frame(craft, 'M', REPL_FRAME_RAW_MAX);
    craft_object(craft, size);
    craft_data(craft, 0, 0, REPL_FRAME_RAW_MAX, 0, 0);
    craft_zero(craft, 0, REPL_FRAME_RAW_MAX, size - 2 * REPL_FRAME_RAW_MAX);
    craft_data(craft, 0, size - REPL_FRAME_RAW_MAX, REPL_FRAME_RAW_MAX, 0, 0);
    craft_point(craft, UINT64_MAX, 0);
    craft->points[0].begin_ns = craft->points[0].end_ns = INT64_MAX;
    craft->points[0].changed_bytes = UINT64_MAX;
}

/* One record a block, the first extent at offset 0: the first two blocks have the same key. */
static inline void golden_blocks(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(6, 7)};
    craft_run_frame(craft, 'b', 4096);
    craft_object(craft, 65536);
    craft_zero(craft, 1, 0, 4096);
    craft_data(craft, 2, 4096, 4096, 0, 0);
    craft_zero(craft, 3, 12288, 4096);
    craft_point(craft, 7, 0);
}

/* Frames whose pages are listed, the last of them in part; one whose are not. */
static inline void golden_pages(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(9, 10)};
    craft_run_frame(craft, 'p', 2 * 4096 + 100);
    craft_run_frame(craft, 'c', REPL_CHUNK_SIZE);
    craft_run_frame(craft, 'q', 4096);
    craft_run_chunk(craft, 'c', 1, 0);
    craft_object(craft, 2 * 65536 + 2 * 4096 + 100);
    craft_data(craft, 0, 65536, 65536, 1, 0);
    craft_data(craft, 0, 131072, 2 * 4096 + 100, 0, 0);
    craft_run_pages(craft, 0, 'p');
    craft_run_pages(craft, 2, 'q');
    craft_point(craft, 10, 0);
}

/* Of a volume in a group, frozen together with the others; the older point was found by comparing.
 */
static inline void golden_group(struct craft *craft)
{
    *craft = (struct craft){.header = craft_header(7, 9)};
    craft_run_frame(craft, 'g', 4096);
    craft_object(craft, 8192);
    craft_data(craft, 0, 4096, 4096, 0, 0);
    craft_point(craft, 8, REPL_POINT_GROUP | REPL_POINT_MERGED | REPL_POINT_RESYNC);
    craft_point(craft, 9, REPL_POINT_GROUP);
    craft->points[1].consistency = REPL_CONSISTENCY_FILESYSTEM;
    craft->points[1].cut = REPL_CUT_FREEZE;
}

/* As the program itself writes them: the only one whose bytes another zstd may make otherwise. */
static inline void golden_built(struct memory_file *file)
{
    static uint8_t raw[REPL_CHUNK_SIZE];
    struct repl_frame_coder *coder;
    struct repl_segment_builder *b;
    struct repl_segment_footer footer;
    struct repl_segment_header header = craft_header(7, 8);
    struct craft points = {.footer = {0}};
    struct random random = {1};
    for (size_t i = 0; i < sizeof raw; i++)
        raw[i] = i % 512 < 8 ? (uint8_t)random_next(&random) : (uint8_t)(i / 512);
    random_fill(&random, raw, 4096);
    ensure(repl_ok(repl_frame_coder_new(&coder, NULL)));
    ensure(repl_ok(repl_segment_builder_new(&header, 131072, memory_sink, file, &b, NULL)));
    uint32_t stored = add_frame(b, coder, raw, 4096), packed = add_frame(b, coder, raw, sizeof raw);
    struct repl_chunk_entry chunk = {.name = chunk_name_of(raw), .frame = packed};
    ensure(repl_ok(repl_segment_builder_chunk(b, &chunk, NULL)));
    const struct repl_extent extents[] = {
        {.offset = 65536, .length = 65536, .source = packed, .type = REPL_RECORD_DATA},
        {.offset = 0, .length = 8192, .type = REPL_RECORD_ZERO},
        {.offset = 73728, .length = 4096, .source = stored, .type = REPL_RECORD_DATA},
    };
    for (size_t i = 0; i < sizeof extents / sizeof extents[0]; i++)
        ensure(repl_ok(repl_segment_builder_extent(b, &extents[i], NULL)));
    craft_point(&points, 8, 0);
    ensure(repl_ok(repl_segment_builder_finish(b, points.points, 1, &footer, NULL)));
    repl_segment_builder_free(b);
    repl_frame_coder_free(coder);
}

static const struct golden_case golden_cases[] = {
    {.name = "good-full", .craft = golden_full},
    {.name = "good-zstd", .craft = golden_zstd},
    {.name = "good-sample", .craft = craft_sample},
    {.name = "good-part", .craft = golden_part},
    {.name = "good-part-last", .craft = golden_part_last},
    {.name = "good-empty", .craft = golden_empty},
    {.name = "good-pieces", .craft = golden_pieces},
    {.name = "good-supply", .craft = golden_supply},
    {.name = "good-supply-of-nothing", .craft = golden_supply_of_nothing},
    {.name = "good-largest", .craft = golden_largest},
    {.name = "good-blocks", .craft = golden_blocks},
    {.name = "good-group", .craft = golden_group},
    {.name = "good-pages", .craft = golden_pages},
    {.name = "good-built", .build = golden_built},
    {.name = "good-tree", .craft = tree_sample},
    {.name = "good-tree-largest", .craft = tree_largest},
    {.name = "good-tree-kinds", .craft = tree_kinds},
    {.name = "good-tree-supply", .craft = tree_supply},
    {.name = "good-tree-per-file", .craft = tree_per_file},
    {.name = "good-tree-snapshot", .craft = tree_snapshot},
};

#define GOLDEN_CASE_COUNT (sizeof golden_cases / sizeof golden_cases[0])

/* The caller frees it. */
static inline struct repl_buffer golden_case_make(const struct golden_case *golden)
{
    struct memory_file file = {.sink_limit = 0};
    struct craft craft;
    if (golden->build != NULL) {
        golden->build(&file);
        return file.bytes;
    }
    golden->craft(&craft);
    craft_layout(&craft);
    craft_write(&craft, &file.bytes);
    craft_fini(&craft);
    return file.bytes;
}

/* --- the text of an .expect file ------------------------------------------------------------- */

static inline const char *golden_hex(const struct repl_digest *digest)
{
    static char text[REPL_DIGEST_TEXT_SIZE];
    repl_digest_format(digest, text);
    return text;
}

static inline void golden_print_tables(const struct repl_segment *s, FILE *out)
{
    static const char *const kinds[] = {"", "changes", "supply"};
    static const char *const codecs[] = {"stored", "zstd"};
    const struct repl_segment_header *h = &s->header;
    const struct repl_segment_footer *f = &s->footer;
    char uuid[REPL_UUID_TEXT_SIZE];
    repl_uuid_format(&h->volume, uuid);
    fprintf(out, "segment version %u kind %s volume-kind %s\n", h->version, kinds[h->kind],
            h->volume_kind == REPL_VOLUME_TREE ? "tree" : "block");
    fprintf(out, "volume %s lineage %" PRIu64 "\n", uuid, h->lineage);
    fprintf(out, "from %" PRIu64 " to %" PRIu64 " part %" PRIu32 "\n", h->from_seq, h->to_seq,
            h->part);
    fprintf(out, "created %" PRId64 "\n", h->created_ns);
    fprintf(out, "prev %s\n", golden_hex(&h->prev));
    fprintf(out, "records %" PRIu64 " raw-size %" PRIu64 " file-size %" PRIu64 "\n",
            f->record_count, f->raw_size, f->file_size);
    fprintf(out, "digest %s\n", golden_hex(&f->digest));
    for (uint32_t i = 0; i < f->block_count; i++) {
        const struct repl_block_entry *b = &s->blocks[i];
        fprintf(out, "block %" PRIu32 " offset %" PRIu64 " stored %" PRIu32 " raw %" PRIu32, i,
                b->frame.offset, b->frame.stored_size, b->frame.raw_size);
        fprintf(out, " codec %s first %" PRIu64 " %" PRIu64 "\n", codecs[b->frame.codec],
                b->first_object, b->first_offset);
    }
    for (uint32_t i = 0; i < f->chunk_count; i++)
        fprintf(out, "chunk %" PRIu32 " frame %" PRIu32 " frame-offset %" PRIu32 " name %s\n", i,
                s->chunks[i].frame, s->chunks[i].frame_offset, golden_hex(&s->chunks[i].name));
}

static inline void golden_print_points(const struct repl_segment *s, FILE *out)
{
    static const char *const consistencies[] = {"", "crash", "filesystem", "application",
                                                "per-file"};
    static const char *const cuts[] = {"",        "quiet", "window",  "freeze",
                                       "command", "files", "snapshot"};
    for (uint32_t i = 0; i < s->footer.point_count; i++) {
        const struct repl_point *p = &s->points[i];
        fprintf(out, "point %" PRIu64 " begin %" PRId64 " end %" PRId64, p->seq, p->begin_ns,
                p->end_ns);
        fprintf(out, " consistency %s cut %s%s%s%s", consistencies[p->consistency], cuts[p->cut],
                p->flags & REPL_POINT_RESYNC ? " resync" : "",
                p->flags & REPL_POINT_MERGED ? " merged" : "",
                p->flags & REPL_POINT_GROUP ? " group" : "");
        fprintf(out, " attempts %" PRIu32 " changed-bytes %" PRIu64 "\n", p->attempts,
                p->changed_bytes);
    }
}

static inline void golden_print_hex(const void *bytes, size_t size, FILE *out)
{
    const uint8_t *b = bytes;
    for (size_t i = 0; i < size; i++)
        fprintf(out, "%02x", b[i]);
    fprintf(out, size == 0 ? "-\n" : "\n");
}

static inline void golden_print_node(const struct repl_record *r, FILE *out)
{
    static const char *const kinds[] = {"gone", "file",      "directory", "symlink",
                                        "fifo", "character", "block",     "socket"};
    const struct repl_node *n = &r->node;
    fprintf(out, "node %" PRIu64 " kind %s mode %04o uid %" PRIu32 " gid %" PRIu32, r->object,
            kinds[n->kind], n->mode, n->uid, n->gid);
    fprintf(out, " device %" PRIu32 ":%" PRIu32 " flags 0x%" PRIx32 " project %" PRIu32, n->major,
            n->minor, n->flags, n->project);
    fprintf(out, " size %" PRIu64 " mtime %" PRId64 " target ", n->size, n->mtime_ns);
    golden_print_hex(n->target, n->target_size, out);
}

static inline void golden_print_xattr(const struct repl_record *r, FILE *out)
{
    fprintf(out, "xattr %" PRIu64 " name ", r->object);
    for (uint32_t i = 0; i < r->name_size; i++)
        fprintf(out, "%02x", (uint8_t)r->name[i]);
    fprintf(out, " value-length %" PRIu32 " value ", r->value_size);
    if (r->value != NULL)
        golden_print_hex(r->value, r->value_size, out);
    else
        fprintf(out, "at %" PRIu64 "\n", r->place);
}

/* Whether it is one of a tree's. */
static inline bool golden_print_tree_record(const struct repl_record *r, FILE *out)
{
    switch (r->type) {
    case REPL_RECORD_NODE:
        golden_print_node(r, out);
        return true;
    case REPL_RECORD_XATTR:
        golden_print_xattr(r, out);
        return true;
    case REPL_RECORD_NAME:
        fprintf(out, "name %" PRIu64 " offset %" PRIu64 " child %" PRIu64 " name ", r->object,
                r->offset, r->child);
        golden_print_hex(r->name, r->name_size, out);
        return true;
    case REPL_RECORD_RUN:
        fprintf(out, "run %" PRIu64 " offset %" PRIu64 " length %" PRIu64 " place %" PRIu64 "\n",
                r->object, r->offset, r->length, r->place);
        return true;
    case REPL_RECORD_HOLE:
        fprintf(out, "hole %" PRIu64 " offset %" PRIu64 " length %" PRIu64 "\n", r->object,
                r->offset, r->length);
        return true;
    default:
        return false;
    }
}

static inline void golden_print_record(const struct repl_record *r, FILE *out)
{
    if (golden_print_tree_record(r, out))
        return;
    if (r->type == REPL_RECORD_OBJECT) {
        fprintf(out, "object %" PRIu64 " size %" PRIu64 "\n", r->object, r->size);
        return;
    }
    static const char *const types[] = {"", "", "data", "chunk", "zero"};
    fprintf(out, "%s %" PRIu64 " offset %" PRIu64 " length %" PRIu64, types[r->type], r->object,
            r->offset, r->length);
    if (r->type == REPL_RECORD_DATA)
        fprintf(out, " frame %" PRIu32 " frame-offset %" PRIu32, r->frame, r->frame_offset);
    else if (r->type == REPL_RECORD_CHUNK)
        fprintf(out, " chunk-offset %" PRIu32 " name %s", r->chunk_offset, golden_hex(&r->chunk));
    fprintf(out, "\n");
}

static inline repl_result golden_print_records(const struct repl_segment *s,
                                               struct repl_frame_coder *coder, FILE *out,
                                               struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record;
    bool done = false;
    repl_record_walk_begin(&walk, s, coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    for (; repl_ok(result) && !done; result = repl_record_walk_next(&walk, &record, &done, err))
        golden_print_record(&record, out);
    repl_record_walk_end(&walk);
    return result;
}

static inline repl_result golden_print_frames(const struct repl_segment *s,
                                              struct repl_frame_coder *coder, FILE *out,
                                              struct repl_error *err)
{
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    struct repl_buffer stored = {0};
    repl_result result = REPL_SUCCESS;
    for (uint32_t i = 0; i < s->footer.frame_count && repl_ok(result); i++) {
        const struct repl_frame_entry *entry = &s->frames[i];
        size_t size;
        result = repl_segment_read_frame(s, i, coder, &stored, raw, &size, err);
        if (!repl_ok(result))
            break;
        struct repl_digest digest = sha256_of(raw, size);
        fprintf(out, "frame %" PRIu32 " offset %" PRIu64 " stored %" PRIu32 " raw %" PRIu32, i,
                entry->offset, entry->stored_size, entry->raw_size);
        fprintf(out, " codec %s sha256 %s\n", entry->codec == REPL_CODEC_ZSTD ? "zstd" : "stored",
                golden_hex(&digest));
        struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
        uint32_t count;
        result = repl_segment_read_pages(s, i, pages, &count, err);
        if (repl_ok(result) && count > 0) {
            digest = sha256_of(pages, count * sizeof pages[0]);
            fprintf(out, "pages %" PRIu32 " count %" PRIu32 " sha256 %s\n", i, count,
                    golden_hex(&digest));
        }
    }
    repl_buffer_fini(&stored);
    return result;
}

/* What is in a segment, line by line; nothing is printed before all of it has been verified. */
static inline repl_result golden_print(struct memory_span span, FILE *out, struct repl_error *err)
{
    struct repl_segment *segment;
    struct repl_frame_coder *coder;
    REPL_TRY(repl_frame_coder_new(&coder, err));
    repl_result result = repl_segment_open(memory_read_at, &span, span.size, &segment, err);
    if (repl_ok(result)) {
        result = repl_segment_verify(segment, coder, err);
        if (repl_ok(result)) {
            golden_print_tables(segment, out);
            golden_print_points(segment, out);
            result = golden_print_records(segment, coder, out, err);
        }
        if (repl_ok(result))
            result = golden_print_frames(segment, coder, out, err);
        repl_segment_free(segment);
    }
    repl_frame_coder_free(coder);
    return result;
}

#endif
