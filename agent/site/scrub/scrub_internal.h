/*
 * What the parts of the scrub share. Private to scrub/.
 */
#ifndef REPL_AGENT_SCRUB_INTERNAL_H
#define REPL_AGENT_SCRUB_INTERNAL_H

#include <stdatomic.h>

#include "base/extent_map.h"
#include "base/hash.h"
#include "journal/chain.h"
#include "journal/scrub_plan.h"
#include "loop/loop.h"
#include "segment/segment_verify.h"
#include "site/index/index.h"
#include "site/scrub/scrub.h"
#include "site/site_pacer.h"
#include "site/site_patch.h"
#include "store/verified_file.h"

/* --- one segment (scrub_read.c) -------------------------------------------------------------- */

struct scrub_reader {
    struct site_pacer *pacer;
    struct repl_segment_digest digest;
    uint8_t *buffer;
    uint64_t read_bytes; /* in all */
    /* private */
    struct repl_stored_segment *file;
    uint64_t at; /* of the buffer */
    size_t filled;
    bool ahead;
};
REPL_RESULT scrub_reader_init(struct scrub_reader *reader, struct site_pacer *pacer,
                              struct repl_error *err);
void scrub_reader_fini(struct scrub_reader *reader);
/* Reads all of it. size and digest: as committed; 0 and NULL of a supply. */
REPL_RESULT scrub_read(struct scrub_reader *reader, struct repl_store *store, const char *volume,
                       const struct repl_segment_id *id, uint64_t size,
                       const struct repl_digest *digest, struct repl_error *err);
/* Whether the error says something of what was read, and not of why it could not be looked at. */
bool scrub_is_damage(repl_result result);

struct scrub_visit;

/* More of a segment than this is not held in memory at once: 2 MiB each. */
#define SCRUB_FRAMES_MAX 64u

/* What of the volume lies in damaged frames. */
struct scrub_broken {
    bool known;  /* else more is damaged than frames */
    bool opaque; /* it cannot be opened: nobody knows of which bytes it speaks */
    struct repl_extent_map extents;
    uint64_t begin, end; /* around all of them */
    bool *frames;        /* heap: which of them are */
    uint32_t frame_count;
    /* by scrub_heal, which leaves in extents what no later segment says anything else of */
    bool healed_known;
    uint64_t healed_seq;     /* by that point there was nothing left; 0: there is */
    bool current;            /* what is left is part of what the volume is now */
    bool opened;             /* else nobody knows what chunks it lists */
    struct repl_buffer lost; /* struct repl_digest: its chunks that lie in these frames alone */
};
void scrub_broken_init(struct scrub_broken *broken);
void scrub_broken_fini(struct scrub_broken *broken);

/* Puts right in place what replicas or other segments still hold (scrub_repair.c). Else the segment
 * is as it was, and the error says why. entry: of the chain; SIZE_MAX: a supply. */
REPL_RESULT scrub_repair(struct scrub_visit *visit, size_t entry, const struct repl_segment_id *id,
                         struct scrub_broken *broken, struct repl_error *err);

struct scrub_chunk_coders {
    struct repl_frame_coder *frames;
    struct repl_sha256 *sha;
};
/* A chunk of a damaged segment from where else it lies (scrub_chunks.c), into REPL_CHUNK_SIZE
 * bytes.
 */
REPL_RESULT scrub_chunk_take(struct scrub_visit *visit, const struct repl_segment_id *damaged,
                             const struct repl_digest *name, struct scrub_chunk_coders *coders,
                             uint8_t *out, bool *found, struct repl_error *err);

/* The names of the chunks in damaged frames that lie nowhere else, sorted. out: empty. */
REPL_RESULT scrub_lost_find(struct scrub_visit *visit, const struct repl_segment_id *id,
                            const struct repl_segment *segment, const bool *broken,
                            struct repl_buffer *out, struct repl_error *err);

/* --- who refers to chunks (scrub_refer.c) ------------------------------------------------------
 */

/* The segments that refer to any of the names, of struct repl_chunk_referrer: each once, by volume
 * and id. out: empty. */
REPL_RESULT scrub_referrers_list(struct scrub_visit *visit, const struct repl_digest *names,
                                 size_t count, struct repl_buffer *out, struct repl_error *err);

typedef repl_result scrub_record_fn(void *context, const struct repl_record *record,
                                    struct repl_error *err);
/* All that the manifest says. */
REPL_RESULT scrub_manifest_walk(struct scrub_visit *visit, const char *volume,
                                const struct repl_segment_id *id, struct repl_frame_coder *coder,
                                scrub_record_fn *each, void *context, struct repl_error *err);

/* A chunk's REPL_CHUNK_SIZE bytes. */
typedef void scrub_chunk_fn(void *context, const struct repl_digest *name, const uint8_t *bytes);
/* Those of the chunks that the replica of a volume of the pool has where it refers to them. names:
 * each once, sorted. */
REPL_RESULT scrub_replicas_read(struct scrub_visit *visit, const struct repl_digest *names,
                                size_t count, struct scrub_chunk_coders *coders,
                                scrub_chunk_fn *take, void *context, struct repl_error *err);

/* The same of whatever segment or supply of the pool lists them, but for the damaged one
 * (scrub_chunks.c). */
REPL_RESULT scrub_chunks_search(struct scrub_visit *visit, const struct repl_segment_id *damaged,
                                const struct repl_digest *names, size_t count,
                                struct scrub_chunk_coders *coders, scrub_chunk_fn *take,
                                void *context, struct repl_error *err);

/* --- whom damage harms (scrub_harm.c) --------------------------------------------------------- */

/* Points of a volume that are made of chunks which lie nowhere but in what is damaged. */
struct scrub_harm {
    struct scrub_harm *next;
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    char by[REPL_VOLUME_NAME_SIZE + 1]; /* which may be the same volume: what is damaged, */
    struct repl_segment_id id;          /* and is its segment or supply */
    struct repl_point_run *runs;        /* in order; heap */
    size_t run_count;                   /* 1 to SCRUB_HARM_RUNS_MAX: the last takes in the rest */
    struct repl_extent_map pages;       /* which the volume has still, of its newest point */
    bool told;                          /* to the volume's own next visit, which asks for them */
};
#define SCRUB_HARM_RUNS_MAX 32u

/* Of a damaged segment of the visit's volume, in whose place the names are. Into what the visit has
 * found, in the order of the harmed volumes' names. */
REPL_RESULT scrub_harm_find(struct scrub_visit *visit, const struct repl_segment_id *id,
                            const struct repl_digest *names, size_t count, struct repl_error *err);
void scrub_harms_free(struct scrub_harm *harms);
/* What a visit has found takes the place of what one before it had found of the same. */
void scrub_harms_put(struct scrub_harm **harms, struct scrub_visit *visit);
/* The volume is there no more. */
void scrub_harms_forget(struct scrub_harm **harms, const char *volume);

/* --- later segments (scrub_heal.c, scrub_later.c) --------------------------------------------- */

#define SCRUB_LATER_MAX 64u

/* The first of them that say anything of what is damaged, oldest first; open. Zeroed: none. */
struct scrub_later {
    struct repl_stored_segment *files[SCRUB_LATER_MAX];
    struct repl_segment *segments[SCRUB_LATER_MAX];
    size_t count;
};
void scrub_later_fini(struct scrub_later *later);

/* The point by which later segments than the entry have all of broken. later: NULL: not asked for.
 */
REPL_RESULT scrub_heal(struct scrub_visit *visit, size_t entry, const struct repl_segment_id *id,
                       struct scrub_broken *broken, struct scrub_later *later,
                       struct repl_error *err);

struct scrub_later_reader;
/* Of the bytes that later segments say first, between begin and end. later is not empty, and
 * outlives it. */
REPL_RESULT scrub_later_reader_new(struct scrub_visit *visit, const struct repl_segment_id *damaged,
                                   struct scrub_later *later, uint64_t begin, uint64_t end,
                                   struct scrub_chunk_coders *coders,
                                   struct scrub_later_reader **out, struct repl_error *err);
void scrub_later_reader_free(struct scrub_later_reader *reader);
/* Into out and, 1 for each byte, covered, what they say; the rest of both stays as it is. */
REPL_RESULT scrub_later_read(struct scrub_later_reader *reader, uint64_t offset, size_t size,
                             uint8_t *out, uint8_t *covered, struct repl_error *err);

/* --- what the source is asked for (scrub_resend.c) ---------------------------------------------
 */

/* In whole pages, into what a visit asks for. */
REPL_RESULT scrub_resend_add(struct scrub_visit *visit, const struct repl_extent_map *extents,
                             struct repl_error *err);
/* What the visit found, on the loop. */
void scrub_resend_take(struct site_volume *v, struct scrub_visit *visit);
/* Whether the volume's replica has what is in that point. */
bool scrub_replica_has(const struct site_volume *v, uint64_t seq);
/* Whether it may have sent some of it by now. */
bool scrub_resend_is_due(const struct scrub_of_volume *of, int64_t now_ns);

/* --- a visit (scrub_visit.c) ----------------------------------------------------------------- */

#define SCRUB_PATH_SIZE 256u

struct scrub_mate {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    char replica_path[SCRUB_PATH_SIZE]; /* as that of the visit's volume */
};

/* What a visit finds out and does; the thread's while it is out. */
struct scrub_visit {
    struct repl_job job;
    struct site_scrub *owner;
    /* given */
    struct repl_store *store;
    struct repl_index *index;
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    int64_t every_ns, now_ns, idle_ns /* since the last visit */;
    uint64_t rate_limit;      /* bytes a second; 0: none */
    double credit;            /* and what is left of it */
    struct scrub_mate *mates; /* heap: the other volumes of its pool */
    size_t mate_count;
    struct repl_segment_id *supplies; /* heap: that are known of; NULL: none */
    size_t supply_count;
    const atomic_bool *stop;
    const atomic_bool *merging;
    struct scrub_merged *merged; /* heap */
    size_t merged_count;
    bool first;                                  /* since the start */
    struct scrub_damage seen[SCRUB_DAMAGES_MAX]; /* by the last visit */
    size_t seen_count;
    struct scrub_suspicion suspicion;
    bool again;     /* what is damaged is looked at, whenever it was looked at last */
    bool in_bucket; /* for the log */
    char replica_path[SCRUB_PATH_SIZE]; /* an image or device; "": none whose pages could be read */
    int64_t batch_ns;                   /* it reads for so long, and not less than a segment */
    /* found */
    bool looked;       /* what follows is known, whatever the outcome */
    bool more;         /* something else is due already */
    int64_t oldest_ns; /* INT64_MAX: there is nothing */
    uint64_t read_bytes, damaged_count, repaired_count;
    struct scrub_damage damages[SCRUB_DAMAGES_MAX];
    size_t damage_count;
    bool asked; /* wanted is all that the source is to be asked for */
    bool asks;  /* else it is more than it was asked for */
    struct repl_extent_map wanted;
    bool full_wanted;           /* what is wanted is all there is: what was damaged is opaque */
    uint64_t opaque_seq;        /* the newest point that such a segment is part of; 0: none is */
    bool opaque_is_fresh;       /* one has been seen so once only */
    struct site_patch *patches; /* of what cannot be put right in place */
    struct scrub_harm *harms;
    repl_result outcome;
    struct repl_error err;
    /* private */
    struct repl_chain chain;
    struct repl_verified_file file;
    struct site_pacer pacer;
    bool search;                 /* all lists of the pool, for chunks of what is damaged */
    struct scrub_stored *stored; /* all that is read, in the order of segments */
    size_t stored_count;
};
void scrub_visit_work(struct repl_job *job);
/* "points 1 to 4", "points that refer to its chunks", without what is of other volumes. */
void scrub_damage_points(const struct scrub_damage *damage, char *out, size_t size);
/* Whether it is part of what is read. */
bool scrub_visit_stores(const struct scrub_visit *visit, const struct repl_segment_id *id);
/* Supplies that are not, and should be (scrub_gone.c): struct repl_segment_id. *looked: something
 * is not there that was, be it that nothing needs it. out: empty. */
REPL_RESULT scrub_gone_find(struct scrub_visit *visit, struct repl_buffer *out, bool *looked,
                            struct repl_error *err);
/* As far as it is known by now. */
bool scrub_visit_is_damaged(const struct scrub_visit *visit, const struct repl_segment_id *id);

#endif
