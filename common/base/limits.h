/*
 * Every bound that a queue, a buffer or a peer's claim has, with its reason.
 */
#ifndef REPL_BASE_LIMITS_H
#define REPL_BASE_LIMITS_H

#include "repl/format.h"

/* A volume: 2^50 bytes, so that a page number fits 38 bits and sums never overflow. */
#define REPL_VOLUME_SIZE_MAX (UINT64_C(1) << 50)

/* A segment. A builder that reaches the soft limit ends the part and begins the next one; the
 * hard limit is what a reader accepts, so it leaves room for one more batch and the manifest. */
#define REPL_SEGMENT_SOFT_LIMIT (UINT64_C(256) << 20)
#define REPL_SEGMENT_HARD_LIMIT (UINT64_C(1) << 30)
#define REPL_INDEX_SIZE_MAX     (64u << 20)
/* What a segment's frames and its manifest decode to: a few bytes may say a great many, and each
 * reader decodes them all. A part ends long before, by REPL_PART_DIGESTS_MAX. */
#define REPL_SEGMENT_RAW_MAX  (UINT64_C(1) << 32)
#define REPL_MANIFEST_RAW_MAX (UINT64_C(1) << 30)
#define REPL_FRAMES_MAX       (1u << 20)
#define REPL_BLOCKS_MAX       (1u << 16)
#define REPL_CHUNKS_MAX       (1u << 20)
#define REPL_POINTS_MAX       (1u << 16)

/* What zstd may add to a frame it cannot compress; such a frame is kept stored instead. */
#define REPL_FRAME_STORED_MAX REPL_FRAME_RAW_MAX

/* Pages whose digest is remembered from when they are sent to when they are acknowledged: 32 bytes
 * each, in a table a third larger, so 8 MiB. */
#define REPL_SENT_PAGES_MAX (3u << 16)

/* Digests of pages kept until their segment is acknowledged, 24 bytes each: a part ends with so
 * many bytes of them, and reading stops at the second limit, or at the third while a full of a tree
 * is made, when no point is lost by waiting. Zeros cost a segment nothing, but these. */
#define REPL_PART_DIGESTS_MAX   (8u << 20)
#define REPL_VOLUME_DIGESTS_MAX (48u << 20)
#define REPL_FULL_DIGESTS_MAX   (8u << 20)

/* A message of the wire protocol, and what may be listed in one. */
#define REPL_MESSAGE_SIZE_MAX   (1u << 20)
#define REPL_MISSING_CHUNKS_MAX 8192u
/* Chunks that are asked for at once: 16 MiB. */
#define REPL_WANTED_CHUNKS_MAX 256u
/* Segments whose ends may be asked for at once, and how long one may be that is given so. */
#define REPL_TAILS_MAX      256u
#define REPL_TAIL_BYTES_MAX (1u << 18)
/* Slices of a frame that may be asked for at once, and how many bytes they may be in all. */
#define REPL_SLICES_MAX       256u
#define REPL_SLICES_BYTES_MAX (1u << 19)
/* Names of a pool's chunks in one message, 8 bytes each: 4 GiB of chunks. */
#define REPL_POOL_NAMES_MAX   65536u
#define REPL_VOLUME_NAME_SIZE 64u
#define REPL_WIRE_TEXT_MAX    400u
#define REPL_LIST_ENTRIES_MAX 4096u
/* Pages of a replica whose digests are asked for at once: 16 MiB, which a disk reads in a fraction
 * of a second. */
#define REPL_DIGESTS_MAX 4096u

_Static_assert(REPL_MISSING_CHUNKS_MAX * 32u < REPL_MESSAGE_SIZE_MAX, "the list fits a message");
_Static_assert(REPL_FRAME_RAW_MAX % REPL_CHUNK_SIZE == 0, "a frame holds whole chunks");
_Static_assert(REPL_PART_DIGESTS_MAX / 24 * REPL_PAGE_SIZE < REPL_SEGMENT_RAW_MAX / 2,
               "a part whose pages are all sent, some of them again, is readable");
_Static_assert(REPL_SEGMENT_SOFT_LIMIT + REPL_INDEX_SIZE_MAX < REPL_SEGMENT_HARD_LIMIT,
               "a part that ends at the soft limit is readable");

#endif
