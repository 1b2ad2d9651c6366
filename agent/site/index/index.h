/*
 * The site's index (LMDB): the catalogue of points, their names and segments, and
 * where each chunk lies. All of it can be computed again from the logs and the segments,
 * and is, when the file is missing or was left by another version; so nothing
 * is synced at each commit (MDB_NOMETASYNC: after a power cut the index may be
 * some transactions behind its log, never torn, and catches up at start).
 *
 * It does keep one thing the logs cannot say of themselves: how far each log is
 * known to go. A log that ends before that has lost committed history, which a
 * torn tail, never acknowledged, is not.
 *
 * One thread at a time writes (the calls that take a record or chunks); reading
 * calls open a transaction of their own and may come from any thread.
 */
#ifndef REPL_AGENT_INDEX_H
#define REPL_AGENT_INDEX_H

#include "base/cursor.h"
#include "format/log_record.h"
#include "format/wire.h"
#include "repl/error.h"
#include "store/store.h"

struct repl_index;

/* The file path, and path-lock beside it. Writable: made if missing, and made anew, empty, where
 * it is damaged or of another version (the store's lock sees to it that nobody else writes it);
 * else those are REPL_E_MISSING, REPL_E_CORRUPT and REPL_E_VERSION. A process opens a path once. */
REPL_RESULT repl_index_open(const char *path, bool writable, struct repl_index **out,
                            struct repl_error *err);
void repl_index_close(struct repl_index *index);

/* A sync has failed: nothing is written any more. For the writing thread, as is what follows. */
bool repl_index_is_broken(const struct repl_index *index);
/* An empty one in the place of it; who reads waits meanwhile. It stays broken where that fails. */
REPL_RESULT repl_index_remake(struct repl_index *index, struct repl_error *err);
/* How often that has been since it was opened. From any thread: whoever has found nothing in it
 * sees by this whether that was an empty one. */
uint64_t repl_index_remakes(struct repl_index *index);

/* The last record applied, by its number (0: none), and where the log went on behind it. The number
 * tells how far a log once went: the places of records change when it is written anew. */
REPL_RESULT repl_index_position(struct repl_index *index, const char *volume, uint64_t *log_end,
                                uint64_t *record_number, struct repl_error *err);
/* A record of the log. With COMMIT and PIECE come the chunks that the segment lists, and the names
 * that it refers to, each once; none where its file is not there any more, as a later record merges
 * it into others. */
struct repl_index_record {
    const struct repl_log_record *record;
    const struct repl_chunk_entry *chunks;
    const struct repl_digest *refs;
    uint32_t chunk_count, ref_count;
};
/* The next record of the log, or all of a MERGE or CHECKPOINT with what belongs to it: one
 * transaction. log_end: where the last of them ends. A CHECKPOINT may come whatever was applied
 * before: what it does not name is forgotten, but for places of chunks and references
 * (repl_index_chunk and repl_index_references say which are good). */
REPL_RESULT repl_index_apply(struct repl_index *index, const char *volume,
                             const struct repl_index_record *records, size_t count,
                             uint64_t log_end, struct repl_error *err);
/* Between begin and end, apply and add_chunks share one transaction: for catching up with a long
 * log, where a commit a record costs more than the record. All from one thread; readers see none of
 * it before end. A call that fails in between undoes the batch, which end then reports: go on from
 * repl_index_position. */
REPL_RESULT repl_index_batch_begin(struct repl_index *index, struct repl_error *err);
REPL_RESULT repl_index_batch_end(struct repl_index *index, struct repl_error *err);
/* The chunks of a supply to a segment that is about to be committed; or those of a segment, ahead
 * of the record that says it is there, where all that a group brings is too much at once. */
REPL_RESULT repl_index_add_chunks(struct repl_index *index, const char *volume,
                                  const struct repl_segment_id *id,
                                  const struct repl_chunk_entry *chunks, uint32_t chunk_count,
                                  struct repl_error *err);
/* The names that a segment refers to, each once, ahead of its record like its chunks. */
REPL_RESULT repl_index_add_references(struct repl_index *index, const char *volume,
                                      const struct repl_segment_id *id,
                                      const struct repl_digest *names, uint32_t count,
                                      struct repl_error *err);
/* Of the volume's pool: removes the places of those of the chunks whose place is not good any more,
 * and what segments that are gone have left of references to them. */
REPL_RESULT repl_index_forget_chunks(struct repl_index *index, const char *volume,
                                     const struct repl_digest *names, size_t count,
                                     struct repl_error *err);
/* Removes the places that lie in the supply of the volume, and what segments that are gone have
 * left of references to those chunks. */
REPL_RESULT repl_index_forget_supply(struct repl_index *index, const char *volume,
                                     const struct repl_segment_id *id,
                                     const struct repl_chunk_entry *chunks, uint32_t chunk_count,
                                     struct repl_error *err);
/* Forgets all of a volume, to compute it anew or as it is there no more. Not within a batch. In a
 * pool that others share, places that they have named as well are not found again by that: name
 * them again, ahead. */
REPL_RESULT repl_index_drop(struct repl_index *index, const char *volume, struct repl_error *err);
/* The volumes that something is known of. *out: heap, freed by the caller; NULL where *count is 0.
 */
struct repl_index_member {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    uint32_t pool;                             /* the same for those that share chunks, and then */
    char pool_name[REPL_VOLUME_NAME_SIZE + 1]; /* "": it shares them with nobody */
};
REPL_RESULT repl_index_members(struct repl_index *index, struct repl_index_member **out,
                               size_t *count, struct repl_error *err);
/* Makes durable what was applied; the site calls it when idle and at its end. */
REPL_RESULT repl_index_sync(struct repl_index *index, struct repl_error *err);

/* Where a chunk lies within the volume's pool, be it in another volume of it. *found false:
 * nowhere, or where it was is not part of the history any more (a supply's place is always good).
 */
struct repl_chunk_place {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id segment;
    uint32_t frame;
    uint32_t frame_offset;
};
REPL_RESULT repl_index_chunk(struct repl_index *index, const char *volume,
                             const struct repl_digest *name, struct repl_chunk_place *place,
                             bool *found, struct repl_error *err);

/* The first 8 bytes of the names of the pool's chunks (repl_chunk_prefix) behind after, each once,
 * ascending, up to room of them; 0: from the first. As far as it has been told where they lie: that
 * may not be part of the history any more. *more: there are others behind the last one. */
REPL_RESULT repl_index_prefixes(struct repl_index *index, const char *volume, uint64_t after,
                                uint64_t *out, uint32_t room, uint32_t *count, bool *more,
                                struct repl_error *err);

/* How many segments of the pool's volumes refer to the chunk, each once however often it does. */
REPL_RESULT repl_index_references(struct repl_index *index, const char *volume,
                                  const struct repl_digest *name, uint64_t *count,
                                  struct repl_error *err);
/* Which these are, behind what out has: of struct repl_chunk_referrer, in no order. */
struct repl_chunk_referrer {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id segment;
};
REPL_RESULT repl_index_referrers(struct repl_index *index, const char *volume,
                                 const struct repl_digest *name, struct repl_buffer *out,
                                 struct repl_error *err);
/* The names that segments of the volume's pool refer to, or have once, and that lie nowhere but in
 * that segment or supply of the volume, if there: behind what out has, of struct repl_digest, each
 * once, by name, up to room of them. It looks at all that is referred to. */
REPL_RESULT repl_index_lost(struct repl_index *index, const char *volume,
                            const struct repl_segment_id *id, struct repl_buffer *out, size_t room,
                            struct repl_error *err);
/* The names that lie there, in the same way. It looks at all places. */
REPL_RESULT repl_index_listed(struct repl_index *index, const char *volume,
                              const struct repl_segment_id *id, struct repl_buffer *out,
                              struct repl_error *err);
/* The supplies of the volume in which chunks lie: behind what out has, of struct repl_segment_id,
 * each once. It looks at all places. */
REPL_RESULT repl_index_supplies(struct repl_index *index, const char *volume,
                                struct repl_buffer *out, struct repl_error *err);
/* Whether one of the very volume does. */
REPL_RESULT repl_index_is_referred_by(struct repl_index *index, const char *volume,
                                      const struct repl_digest *name, bool *referred,
                                      struct repl_error *err);
/* Whether one of the pool does that is none of these, which are the volume's and in order
 * (repl_segment_id_order). */
REPL_RESULT repl_index_is_referred(struct repl_index *index, const char *volume,
                                   const struct repl_digest *name,
                                   const struct repl_segment_id *without, size_t without_count,
                                   bool *referred, struct repl_error *err);

/* Up to REPL_LIST_ENTRIES_MAX points with seq > after, oldest first. */
REPL_RESULT repl_index_points(struct repl_index *index, const char *volume, uint64_t after,
                              struct repl_points_page *out, struct repl_error *err);
/* The same for committed segments behind (after_to, after_part); (0, 0): from the first. */
REPL_RESULT repl_index_segments(struct repl_index *index, const char *volume, uint64_t after_to,
                                uint32_t after_part, struct repl_segments_page *out,
                                struct repl_error *err);
/* The same, up to room of them, with all that the log says of each. out: the caller's. */
REPL_RESULT repl_index_pieces(struct repl_index *index, const char *volume, uint64_t after_to,
                              uint32_t after_part, struct repl_log_piece *out, uint32_t room,
                              uint32_t *count, bool *more, struct repl_error *err);
/* The names that points have, by name. *out: heap, freed by the caller; NULL where *count is 0. */
REPL_RESULT repl_index_marks(struct repl_index *index, const char *volume,
                             struct repl_log_mark **out, size_t *count, struct repl_error *err);

#endif
