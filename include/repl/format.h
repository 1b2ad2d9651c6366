/*
 * What lies on disk and crosses the wire, decoded. The bytes are specified in
 * docs/formats/ and read and written only by common/format/, through the
 * bounds-checked cursor of common/base/cursor.h: these structs are never
 * copied to or from a file as they are.
 *
 * Times are nanoseconds since 1970 UTC. Sizes and offsets are bytes.
 */
#ifndef REPL_FORMAT_H
#define REPL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REPL_PAGE_SIZE   4096u  /* the unit in which change is tracked */
#define REPL_CHUNK_SIZE  65536u /* the unit of deduplication */
#define REPL_CHUNK_PAGES (REPL_CHUNK_SIZE / REPL_PAGE_SIZE)

/* SHA-256. */
struct repl_digest {
    uint8_t bytes[32];
};

/* The first half of a page's SHA-256: tells two contents of one page apart. */
struct repl_page_digest {
    uint8_t bytes[16];
};

struct repl_uuid {
    uint8_t bytes[16];
};

/* --- the segment, docs/formats/segment.md ---------------------------------------------------- */

#define REPL_SEGMENT_VERSION     1u
#define REPL_SEGMENT_HEADER_SIZE 128u
#define REPL_SEGMENT_FOOTER_SIZE 128u
#define REPL_FRAME_RAW_MAX       (1u << 20)

enum repl_segment_kind {
    REPL_SEGMENT_CHANGES = 1, /* the changes of (from, to], or a part of them */
    REPL_SEGMENT_SUPPLY = 2,  /* only chunks, for a site that lacks what it was told to know */
};

enum repl_volume_kind {
    REPL_VOLUME_BLOCK = 1,
    REPL_VOLUME_TREE = 2, /* reserved: no version 1 segment carries one */
};

struct repl_segment_header {
    uint16_t version;
    enum repl_segment_kind kind;
    enum repl_volume_kind volume_kind;
    uint64_t features; /* required of a reader; a bit it does not know is refused */
    struct repl_uuid volume;
    uint64_t lineage;
    uint64_t from_seq; /* changes since this point; 0: a full */
    uint64_t to_seq;
    uint32_t part; /* 0, 1, ... within (from, to]; the one that carries points is the last */
    int64_t created_ns;
    struct repl_digest prev; /* of the segment before it in the chain; zeros for the first */
};

enum repl_codec {
    REPL_CODEC_STORED = 0,
    REPL_CODEC_ZSTD = 1,
};

/* Where a frame or a manifest block lies in the file, and how to tell that it is whole. */
struct repl_frame_entry {
    uint64_t offset;
    uint32_t stored_size;
    uint32_t raw_size;
    uint64_t raw_xxh3;
    enum repl_codec codec;
};

/* A block of manifest records, and the least key in it. */
struct repl_block_entry {
    struct repl_frame_entry frame;
    uint64_t first_object;
    uint64_t first_offset;
};

/* A chunk whose bytes this segment carries, whoever refers to it by name. */
struct repl_chunk_entry {
    struct repl_digest name;
    uint32_t frame;
    uint32_t frame_offset;
};

enum repl_consistency {
    REPL_CONSISTENCY_NONE = 0,        /* not a state the volume was ever in: never a point */
    REPL_CONSISTENCY_CRASH = 1,       /* what a power cut could have left */
    REPL_CONSISTENCY_FILESYSTEM = 2,  /* frozen filesystem: clean without journal replay */
    REPL_CONSISTENCY_APPLICATION = 3, /* the user's own command vouched for it */
};

enum repl_cut {
    REPL_CUT_QUIET = 1,   /* no write completed during the whole comparison */
    REPL_CUT_WINDOW = 2,  /* between two write barriers */
    REPL_CUT_FREEZE = 3,  /* under a frozen filesystem */
    REPL_CUT_COMMAND = 4, /* between the user's commands */
};

#define REPL_POINT_RESYNC 1u /* the changes since the point before were found by comparison */
#define REPL_POINT_MERGED 2u /* kept as a time only: its bytes went into a later point */
#define REPL_POINT_GROUP  4u /* cut in one window with the other volumes of its group */

struct repl_point {
    uint64_t seq;
    int64_t begin_ns; /* every write completed before it is in the point */
    int64_t end_ns;   /* and none that began after it */
    enum repl_consistency consistency;
    enum repl_cut cut;
    uint16_t flags;
    uint32_t attempts; /* windows tried for it, 1 or more */
    uint64_t changed_bytes;
};

struct repl_segment_footer {
    uint64_t index_offset;
    uint32_t frame_count;
    uint32_t block_count;
    uint32_t chunk_count;
    uint32_t point_count;
    uint64_t index_xxh3;
    uint64_t record_count;
    uint64_t raw_size;  /* of all frames */
    uint64_t file_size; /* of the segment */
    struct repl_digest digest;
};

/* --- manifest records ------------------------------------------------------------------------ */

#define REPL_OBJECT_DEVICE 1u /* the one object of a block volume */

enum repl_record_type {
    REPL_RECORD_OBJECT = 1, /* an object's metadata: stands before its extents */
    REPL_RECORD_DATA = 2,   /* bytes in a frame of this segment */
    REPL_RECORD_CHUNK = 3,  /* bytes of a chunk named by digest */
    REPL_RECORD_ZERO = 4,
};

struct repl_record {
    enum repl_record_type type;
    uint64_t object;
    uint64_t offset; /* extents */
    uint64_t length;
    uint32_t frame; /* data */
    uint32_t frame_offset;
    struct repl_digest chunk; /* chunk */
    uint32_t chunk_offset;
    uint64_t size; /* object */
};

#endif
