/*
 * What the parts of a repair share. Private to scrub_repair.c,
 * scrub_frames.c and scrub_supply.c.
 */
#ifndef REPL_AGENT_SCRUB_REPAIR_H
#define REPL_AGENT_SCRUB_REPAIR_H

#include <limits.h>

#include "site/scrub/scrub_internal.h"

/* A damaged frame of the round. */
struct broken {
    uint32_t index;
    uint8_t *raw;     /* as it is to be, */
    uint8_t *covered; /* as far as this is 1 */
    struct repl_buffer stored;
};

/* Damaged frames are made anew in rounds of SCRUB_FRAMES_MAX: 2 MiB of memory each, while it lasts.
 */
struct repair {
    struct scrub_visit *visit;
    size_t entry; /* of the chain; SIZE_MAX: a supply */
    const struct repl_segment_id *id;
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    struct repl_frame_coder *coder;
    int replica_fd, staged_fd;
    char staged_path[PATH_MAX];
    uint32_t *broken_of; /* by frame: its number among the damaged ones and 1; 0: it is whole */
    uint32_t *indices;   /* of the damaged ones */
    uint32_t broken_count;
    uint32_t lists_broken; /* lists of pages, of frames that are whole or not */
    struct broken round[SCRUB_FRAMES_MAX];
    uint32_t round_first, round_count;
    bool foreign; /* another zstd has made one of them */
    struct scrub_later later;
    struct scrub_later_reader *reader; /* NULL: later segments say nothing, or are not open yet */
    bool of_later;                     /* they are taken, not the replica */
    struct scrub_chunk_coders coders;
};

/* The damaged file; repl_read_at_fn. */
REPL_RESULT repair_read_at(void *context, uint64_t offset, void *out, size_t size,
                           struct repl_error *err);

/* Which frames are damaged, and how many lists of pages; REPL_E_CORRUPT: none is. */
REPL_RESULT repair_find(struct repair *r, struct repl_error *err);
/* What of the volume lies in them. */
REPL_RESULT repair_list(struct repair *r, struct scrub_broken *broken, struct repl_error *err);

/* The damaged frames from that number on have their bytes; REPL_E_CORRUPT: one cannot have them. */
REPL_RESULT repair_round(struct repair *r, uint32_t first, struct scrub_broken *broken,
                         struct repl_error *err);
void repair_round_end(struct repair *r);

/* Compressed as it was; REPL_E_CORRUPT: another zstd has made it. */
REPL_RESULT repair_encode(struct repair *r, struct broken *broken, struct repl_error *err);

/* As this zstd does it. */
REPL_RESULT repair_encode_anew(struct repair *r, const struct broken *broken,
                               struct repl_buffer *stored, struct repl_frame_entry *entry,
                               struct repl_error *err);

/* The file that is to take the damaged one's place: made, empty; */
REPL_RESULT repair_staged_open(struct repair *r, struct repl_error *err);
/* why it could not be written, by errno; */
REPL_RESULT repair_staged_fail(const struct repair *r, struct repl_error *err);
/* repl_read_at_fn; */
REPL_RESULT repair_staged_read_at(void *context, uint64_t offset, void *out, size_t size,
                                  struct repl_error *err);
/* durable, it does. */
REPL_RESULT repair_staged_publish(struct repair *r, struct repl_error *err);

/* A supply of other bytes and the same chunks in the damaged one's place (scrub_supply.c). */
REPL_RESULT repair_supply(struct repair *r, struct scrub_broken *broken, struct repl_error *err);

#endif
