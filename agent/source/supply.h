/*
 * What spooled segments refer to by name: the bytes of those chunks, held until
 * their segment is dropped, and the SUPPLY segment made of those the site turns
 * out to lack.
 *
 * All of them are held, each once a segment, as they are: beside the spool's
 * files, in NUMBER.supply, one chunk after the other. It costs a copy into the
 * page cache, and the file is gone again, mostly unwritten, when the segment is
 * acknowledged, a moment later. Holding them compressed would cost as much
 * processor time as sending them (300 MB/s a core where a copy makes 3,000), for
 * bytes that are almost never asked for; not holding them, and reading the
 * device again, would find it changed. What the site asks for is compressed
 * then, on a worker, and nothing else of what is held leaves the host.
 *
 * The price is disk: while the link is down, what is held fills the spool with
 * bytes that compression would have made fewer.
 *
 * What is held outlives the agent with the segments that name it: a chunk's name
 * is a hash of its bytes, so that nothing else has to be written down.
 *
 * Everything belongs to the loop's thread but repl_supply_build.
 */
#ifndef REPL_AGENT_SUPPLY_H
#define REPL_AGENT_SUPPLY_H

#include "capture/batch.h"
#include "source/spool.h"

struct supply_segment;

struct repl_supply {
    struct repl_spool spool;
    struct supply_segment *segments; /* a list */
};

/* dir_fd: of the spool; progress: as of a spool. */
void repl_supply_init(struct repl_supply *supply, struct repl_loop *loop, int dir_fd,
                      repl_spool_fn *progress, void *context);
/* No write may be outstanding (supply->spool.writes_out is 0). */
void repl_supply_fini(struct repl_supply *supply);

/* Holds the chunks that a reduced batch refers to, for segment number, and notes the names of those
 * it carries. *bytes: that takes on the disk. */
REPL_RESULT repl_supply_hold(struct repl_supply *supply, uint64_t number,
                             const struct repl_batch *batch, uint64_t *bytes,
                             struct repl_error *err);
/* Appends the names (struct repl_digest) of all chunks that segment number carries or refers to. */
REPL_RESULT repl_supply_names(const struct repl_supply *supply, uint64_t number,
                              struct repl_buffer *out, struct repl_error *err);
/* Takes over what an earlier run holds for segment number: the names of the chunks it carries and
 * of those that lie in its file, in that order, as they were read back (spool_load.h). Both buffers
 * are taken over. */
REPL_RESULT repl_supply_adopt(struct repl_supply *supply, uint64_t number,
                              struct repl_buffer *carried, struct repl_buffer *held,
                              struct repl_error *err);
void repl_supply_drop(struct repl_supply *supply, uint64_t number);
/* All that is held for segment number can be read. */
bool repl_supply_is_readable(struct repl_supply *supply, uint64_t number);

/* --- a supply -------------------------------------------------------------------------------- */

struct supply_chunk {
    struct repl_digest name;
    uint64_t offset; /* in what is held */
};

struct repl_supply_plan {
    struct repl_segment_header header;
    int held_fd; /* to read from */
    int dir_fd;
    struct supply_chunk *chunks;
    size_t chunk_count;
    /* of repl_supply_build */
    int fd; /* the supply, a file without a name; -1: not made */
    uint64_t size;
};

/* What a supply for the segment of that header, which is number here, is made of: the chunks
 * named, and no others. All of them must be held (REPL_E_MISSING) and readable, and the segment in
 * the spool, which says what kind of volume it is of. The plan outlives a drop. */
REPL_RESULT repl_supply_plan(struct repl_supply *supply, uint64_t number,
                             const struct repl_segment_header *header,
                             const struct repl_digest *names, size_t count,
                             struct repl_supply_plan *out, struct repl_error *err);
void repl_supply_plan_fini(struct repl_supply_plan *plan);
/* On a worker. What is held is checked against its names before it leaves. */
REPL_RESULT repl_supply_build(struct repl_supply_plan *plan, struct repl_error *err);

#endif
