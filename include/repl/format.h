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

/* Pages of so many bytes; the last may be a part of one. */
static inline uint64_t repl_page_count_of(uint64_t size)
{
    return size / REPL_PAGE_SIZE + (size % REPL_PAGE_SIZE != 0);
}

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
#define REPL_FRAME_PAGES_MAX     (REPL_FRAME_RAW_MAX / REPL_PAGE_SIZE)

enum repl_segment_kind {
    REPL_SEGMENT_CHANGES = 1, /* the changes of (from, to], or a part of them */
    REPL_SEGMENT_SUPPLY = 2,  /* only chunks, for a site that lacks what it was told to know */
};

enum repl_volume_kind {
    REPL_VOLUME_BLOCK = 1,
    REPL_VOLUME_TREE = 2, /* with REPL_FEATURE_TREE, and only with it */
};

#define REPL_FEATURE_TREE  UINT64_C(1) /* the records of a directory tree */
#define REPL_FEATURE_PAGES UINT64_C(2) /* lists of what pages frames hold */

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
    bool has_pages; /* a list of its pages' digests is in the segment */
};

/* A block of manifest records, and the least key in it. */
struct repl_block_entry {
    struct repl_frame_entry frame;
    uint64_t first_object;
    uint64_t first_offset;
};

/* A part of a frame's raw bytes. */
struct repl_slice {
    uint32_t offset, length;
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
    REPL_CONSISTENCY_PER_FILE = 4,    /* of a tree, less than CRASH: each file by itself */
};

enum repl_cut {
    REPL_CUT_QUIET = 1,   /* no write completed during the whole comparison */
    REPL_CUT_WINDOW = 2,  /* between two write barriers */
    REPL_CUT_FREEZE = 3,  /* under a frozen filesystem */
    REPL_CUT_COMMAND = 4, /* between the user's commands */
    /* of trees alone */
    REPL_CUT_FILES = 5,    /* each file was read until it was stable, if it ever was: PER_FILE, and
                              only that */
    REPL_CUT_SNAPSHOT = 6, /* read from a snapshot that the filesystem made */
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

/* Object 1 of a block volume is the device. Of a tree it is the space: the contents of all files
 * lie in it, page by page, where the source has put them, as on a disk. */
#define REPL_OBJECT_DEVICE 1u
#define REPL_OBJECT_ROOT                                                                           \
    2u /* of a tree: its top directory; what else is in it has higher numbers */

enum repl_record_type {
    REPL_RECORD_OBJECT = 1, /* object 1's size: stands before its extents */
    REPL_RECORD_DATA = 2,   /* bytes in a frame of this segment */
    REPL_RECORD_CHUNK = 3,  /* bytes of a chunk named by digest */
    REPL_RECORD_ZERO = 4,
    /* of a tree's objects: */
    REPL_RECORD_NODE = 5,  /* metadata, or the object's end */
    REPL_RECORD_XATTR = 6, /* all of an object's stand behind its node */
    REPL_RECORD_NAME = 7,  /* what a name in this directory leads to */
    REPL_RECORD_RUN = 8,   /* where in the space a range of this file lies */
    REPL_RECORD_HOLE = 9,  /* nowhere */
};

#define REPL_NAME_MAX         255u   /* bytes of a name, of a file or an attribute */
#define REPL_TARGET_MAX       4095u  /* of a symbolic link's */
#define REPL_XATTR_MAX        65536u /* of an attribute's value, */
#define REPL_XATTR_INLINE_MAX 2048u  /* longer ones lie in the space */
/* xfs lists ACLs once more, as they lie on its disk, under names that begin so: no attributes. */
#define REPL_XATTR_XFS_ACL  "trusted.SGI_ACL_"
#define REPL_NODE_MODE_MASK 07777u /* permissions, setuid, setgid, sticky */

enum repl_node_kind {
    REPL_NODE_GONE = 0, /* the object has ended; its number is never given again */
    REPL_NODE_FILE = 1,
    REPL_NODE_DIRECTORY = 2,
    REPL_NODE_SYMLINK = 3,
    REPL_NODE_FIFO = 4,
    REPL_NODE_CHARACTER = 5,
    REPL_NODE_BLOCK = 6,
    REPL_NODE_SOCKET = 7,
};

struct repl_node {
    enum repl_node_kind kind;
    uint16_t mode; /* within REPL_NODE_MODE_MASK */
    uint32_t uid, gid;
    uint32_t major, minor; /* of devices */
    uint32_t flags;        /* as FS_IOC_GETFLAGS has them */
    uint32_t project;
    uint64_t size; /* of a file */
    int64_t mtime_ns;
    const char *target; /* of a symbolic link: not terminated */
    uint32_t target_size;
};

struct repl_record {
    enum repl_record_type type;
    uint64_t object;
    uint64_t offset; /* extents, runs, holes; names: XXH3 of the name, by which they are in order */
    uint64_t length;
    uint32_t frame; /* data */
    uint32_t frame_offset;
    struct repl_digest chunk; /* chunk */
    uint32_t chunk_offset;
    uint64_t size; /* object */
    struct repl_node node;
    const char *name; /* xattr, name: not terminated. What is read lies in the block's memory, as */
    uint32_t name_size;
    const uint8_t *value; /* does the value of an attribute; NULL: it lies in the space */
    uint32_t value_size;
    uint64_t place; /* in the space: runs, and such attributes */
    uint64_t child; /* names: the object; 0: there is none of this name any more */
};

#endif
