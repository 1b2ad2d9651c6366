/*
 * Small states that are overwritten in place: two slots of 4 KiB, written in
 * turn, each with a generation and a checksum. Whatever a power cut does to
 * the one being written, the other is whole. docs/formats/state.md.
 */
#ifndef REPL_FORMAT_SLOT_H
#define REPL_FORMAT_SLOT_H

#include "format/wire.h"
#include "repl/error.h"
#include "repl/format.h"

#define REPL_SLOT_SIZE    4096u
#define REPL_SLOT_FILE    (2 * REPL_SLOT_SIZE)
#define REPL_SENT_MAX     64u
#define REPL_IDENTITY_MAX 255u

/* What a source must not forget about one volume. */
struct repl_source_state {
    struct repl_uuid volume;
    uint64_t lineage;
    uint64_t volume_size;
    uint64_t next_seq;   /* no point with this number or above has left the host */
    int64_t last_end_ns; /* of the last point that has: times of points never go back */
    char identity[REPL_IDENTITY_MAX + 1]; /* of the device, "wwn:..." */
    /* The digest table in its file is exact for the segments up to here. */
    struct repl_head checkpoint;
    /* Segments behind the checkpoint that may have reached the site whole, oldest first: written
     * before the last bytes of each leave the host, so that the site's head can be told from one
     * that a clone or an older self of this host has made. */
    uint32_t sent_count;
    struct repl_head sent[REPL_SENT_MAX];
    /* So many of them, from the first, are the site's: the digest table may know of no others. A
     * site whose head is an earlier one has lost what it had. */
    uint32_t acknowledged_count;
    /* Trust was lost, and points from this number on are not known to have made it good: until the
     * one that does (REPL_POINT_RESYNC) is acknowledged. 0: all is well. */
    uint64_t resync_seq;
    /* The newest point that is known to be the site's; 0: it is not known. */
    uint64_t point_seq;
    int64_t point_begin_ns, point_end_ns;
};

/* Where the site's replica of a volume stands. */
struct repl_replica_state {
    struct repl_uuid volume;
    struct repl_head reached; /* zeros: nothing applied */
    bool applying;            /* segments behind it are being written: between two points */
    uint64_t size;
    uint64_t target; /* what it is written to: a hash over its identity; 0: unknown */
};

/* Each fills one slot; generation is one more than that of the slot read. */
void repl_source_state_encode(const struct repl_source_state *state, uint64_t generation,
                              uint8_t slot[REPL_SLOT_SIZE]);
void repl_replica_state_encode(const struct repl_replica_state *state, uint64_t generation,
                               uint8_t slot[REPL_SLOT_SIZE]);

/* Reads both slots of a file and takes the newer whole one. REPL_E_CORRUPT: neither is. */
REPL_RESULT repl_source_state_decode(const uint8_t file[REPL_SLOT_FILE],
                                     struct repl_source_state *out, uint64_t *generation,
                                     struct repl_error *err);
REPL_RESULT repl_replica_state_decode(const uint8_t file[REPL_SLOT_FILE],
                                      struct repl_replica_state *out, uint64_t *generation,
                                      struct repl_error *err);

/* Where in the file a generation goes. */
static inline uint64_t repl_slot_offset(uint64_t generation)
{
    return generation % 2 * REPL_SLOT_SIZE;
}

#endif
