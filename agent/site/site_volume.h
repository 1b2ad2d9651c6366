/*
 * One volume at the site. What may be appended to its history is decided by its
 * struct repl_journal alone; this does what was decided, durably and one change
 * at a time. Private to site/.
 *
 *   site_volume.c   the queue of changes, the log
 *   site_hello.c    hello and report
 *   site_status.c   how it fares
 *   site_load.c     a volume as it is found at a start
 *   site_unread.c   volumes that there was no memory to read then
 *   site_index.c    the index on its way to what the log has
 *   site_intake.c   bytes of a request on their way into a staged file
 *   site_upload.c   a segment's arrival
 *   site_commit.c   the commit sequence
 *   site_verify.c   its longest step: is what has come whole
 *   site_supply.c   chunks that were found missing
 *   site_mark.c     names of points
 *   site_pool.c     chunks given out by name
 *   site_gone.c     volumes that are in the store no more, at a start
 *   site_watch.c    the same while the site runs
 *   site_unread.c   volumes that there was no memory to read at the start
 *   site_gate.c     chunks that nobody takes away meanwhile
 *   site_space.c    how much room there is
 */
#ifndef REPL_AGENT_SITE_VOLUME_H
#define REPL_AGENT_SITE_VOLUME_H

#include <limits.h>
#include <stdatomic.h>

#include "base/limits.h"
#include "journal/journal.h"
#include "segment/segment_verify.h"
#include "site/replica/replica.h"
#include "site/scrub/scrub.h"
#include "site/site_gate.h"
#include "site/site_internal.h"

/* --- a staged file --------------------------------------------------------------------------- */

struct site_intake;
typedef void site_intake_fn(struct site_intake *intake);

/* Zeroed, with fd -1, before its first use. At most two buffers: one filling, one being written,
 * so that what is in the file is always a contiguous beginning. */
struct site_intake {
    struct repl_site *site;
    site_intake_fn *moved; /* a write has ended, well (more in written) or not (failed) */
    void *context;
    int fd; /* -1: no file */
    char path[PATH_MAX];
    uint64_t written;
    bool busy; /* a write is under way: neither close nor truncate */
    repl_result result;
    struct repl_error err;
    struct repl_segment_digest *digest; /* follows what is written; NULL: nobody wants it */
    struct site_request *feeder;        /* whose exchange fills it; NULL: none */
    /* private to site_intake.c */
    struct repl_job job;
    struct repl_buffer filling, writing;
    bool paused;
    bool flush; /* also write what is less than a buffer */
};

/* A new, empty file in the volume's staging directory; an older one of that name goes. */
REPL_RESULT site_intake_create(struct site_intake *intake, const struct site_volume *volume,
                               const char *name, struct repl_error *err);
/* One from before the start, of which size bytes are there. */
void site_intake_found(struct site_intake *intake, int fd, const char *path, uint64_t size);
/* Takes up an existing one, cut to size bytes. */
REPL_RESULT site_intake_resume(struct site_intake *intake, uint64_t size, struct repl_error *err);
/* Bytes behind those before, and then, once the caller has looked at them, on their way. */
REPL_RESULT site_intake_put(struct site_intake *intake, const void *data, size_t size,
                            struct repl_error *err);
void site_intake_push(struct site_intake *intake);
/* Everything that was put goes to the file, as soon as it can. */
void site_intake_flush(struct site_intake *intake);
/* Nothing is under way or waits to be. */
bool site_intake_is_idle(const struct site_intake *intake);
/* Bytes written, being written and waiting. */
uint64_t site_intake_size(const struct site_intake *intake);
/* Not while busy. Closes; removes the file as well. */
void site_intake_close(struct site_intake *intake, bool remove);
void site_intake_fini(struct site_intake *intake);

/* repl_read_at_fn over a descriptor (context: int *). */
REPL_RESULT site_read_at(void *context, uint64_t offset, void *out, size_t size,
                         struct repl_error *err);

/* A segment on its way in. */
struct site_upload {
    struct site_volume *volume;
    struct site_intake intake; /* its file stays between requests */
    struct repl_segment_digest digest;
    bool dropped; /* the intake goes as soon as it is idle */
};

/* --- the log --------------------------------------------------------------------------------- */

/* A record on its way into log and index. */
struct site_append {
    struct repl_job job;
    struct site_volume *volume;
    const struct repl_index_record *records; /* one, or all of a group */
    size_t record_count;
    struct repl_log_record record; /* the one */
    struct repl_index_record one;
    bool create;      /* the volume's directory as well */
    uint64_t log_end; /* before; behind the record afterwards */
    bool index_behind;
    uint64_t generation; /* of the index */
    repl_result result;
    struct repl_error err;
    struct site_append *next; /* that waits for the index too */
    bool indexed;             /* index_result says how */
    repl_result index_result;
    struct repl_error index_err;
    /* On the loop, after the record has been applied (or not). */
    void (*done)(struct site_volume *volume, repl_result result, const struct repl_error *err);
};

#define SITE_CHECKS_MAX 4u

/* A part of the verification, on a worker. */
struct site_check {
    struct repl_job job;
    struct site_volume *volume;
    uint32_t first, end; /* frames */
    repl_result result;
    struct repl_error err;
};

struct site_supply_found {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id id;
};

struct site_commit {
    struct repl_job job;
    struct site_request *request; /* who waits for the answer */
    enum repl_commit_step step;
    struct repl_segment_id id;
    int fd;
    struct repl_segment *segment;
    struct repl_frame_verifier frames;
    struct site_check checks[SITE_CHECKS_MAX]; /* at once; the first begins with what is no frame */
    unsigned checks_out;
    uint32_t next_frame; /* that none of them has */
    uint64_t volume_size;
    uint64_t point_size; /* of the volume, as of the last point */
    struct site_pass pass;
    struct site_gate *gate; /* of the volume's pool; NULL: it has none */
    bool inside;            /* of it */
    uint64_t takings;       /* there when the chunks were looked for */
    struct repl_missing missing;
    struct repl_buffer refs; /* struct repl_digest: the names the segment refers to, each once */
    uint32_t ref_count;
    struct repl_buffer supplies; /* struct site_supply_found: that chunks were found in */
    struct repl_churn churn;     /* of the segment */
    struct repl_log_record record;
    repl_result result;
    struct repl_error err;
};

/* A name on its way into the log. */
struct site_marking {
    struct repl_job job;
    struct repl_mark_wish wish;
    struct site_marks marks;
    repl_result result;
    struct repl_error err;
};

/* The index on its way to what the log has. */
struct site_refill {
    struct repl_job job;
    bool lost; /* the supplies too */
    uint64_t log_end;
    uint64_t generation; /* of the index */
    repl_result result;
    struct repl_error err;
};

/* --- the volume ------------------------------------------------------------------------------ */

struct site_leftover {
    struct repl_segment_id id;
    int64_t replaced_ns; /* when a merge took its place, at the latest; 0: nobody knows */
};

/* One that lies in the store (compactor_supplies.c). */
struct site_supply {
    struct repl_segment_id id;
    int64_t look_ns; /* monotonic: when to see whether something needs it; since when */
    int64_t idle_ns; /* nothing does; 0: something did */
};

struct site_volume {
    struct repl_site *site;
    struct site_volume *next;
    char name[REPL_VOLUME_NAME_SIZE + 1];
    char damaged[REPL_WIRE_TEXT_MAX + 1]; /* not "": refused service, with this reason */
    bool unread;     /* and the reason is a want of memory: read again by site_unread.c */
    int64_t read_ns; /* unread: monotonic, when that was tried last */

    struct repl_journal journal;
    struct repl_head point_head; /* the segment that ends in the last point */
    uint64_t point_size;         /* of the volume, then */
    uint64_t log_begin;          /* an offset, as is what follows */
    uint64_t log_end;            /* of the last good record */
    /* An append failed: what lies behind log_end may be there after a crash or not. It is cut off
     * before anything is published, and is settled by the next append, or by a cut when nothing can
     * come late any more. */
    atomic_bool unsettled; /* set on the loop, read by workers as well */
    int64_t unsettled_ns;  /* monotonic: since when; of the last that failed */
    bool drop_unsure;      /* and what failed was a merge that drops chunks */
    bool settling_vain;    /* tried since the last tick */
    struct repl_job settle_job;
    repl_result settle_result;
    /* Published, and its record failed: goes before the next one is published. */
    bool has_orphan;
    struct repl_segment_id orphan;
    /* Found at the start and not in the log; nobody knows whether it was acknowledged. It is set
     * aside before the next one is published. */
    bool has_found;
    struct repl_segment_id found;
    /* Found at the start: segments that were merged into others, and those of a merge that was cut
     * short. Files that the history did not need then, and that a reader may still have open.
     * Whoever removes one looks first whether it is needed by now: a merge may have made it again.
     */
    struct site_leftover *leftovers;
    size_t leftover_count;
    char
        index_pool[REPL_VOLUME_NAME_SIZE + 1]; /* that the index had it in at the start; "": none */
    bool index_behind;                         /* the log has records that the index lacks */
    bool index_stale;                          /* what it lacks may be a merge that drops chunks */
    bool index_lost; /* all of them, and the supplies: it has been made anew */
    bool index_vain; /* tried since the last tick */
    char index_problem[REPL_WIRE_TEXT_MAX + 1]; /* why it is behind; "": nothing has failed */
    struct site_refill refill;

    /* What is there of it, and whether more may come (site_space.h). */
    struct repl_store_usage *usage;
    uint64_t space_limit_bytes; /* 0: none */
    bool space_full;            /* the limit has been reached */
    enum site_space_full disk_full;
    char disk_full_why[REPL_WIRE_TEXT_MAX + 1];

    bool gone_due; /* it may not be in the store any more: to be looked at in its turn */

    /* One change at a time: requests that make one wait here. */
    bool busy;
    int64_t change_ns; /* on the monotonic clock: since when one is under way; 0: none is */
    struct site_request *queue, *queue_last;
    struct site_request *current; /* being made: held */

    /* As the journal's two: one is committed while the other one comes, and then they change
     * places. */
    struct site_upload uploads[2], *upload, *ahead;
    struct site_append append;
    struct site_commit commit;
    struct repl_job supply_job;
    struct repl_segment_id supply_kept; /* by the job; supply 0: none */
    struct site_supply *supplies;
    size_t supply_count;
    struct site_marking marking;

    struct repl_replica *replica; /* NULL: none wanted, no history yet, or */
    char replica_problem[REPL_WIRE_TEXT_MAX + 1];

    /* That the key which said hello last is of; "": none. The volume keeps the one it had. */
    bool tenant_heard;
    char tenant[REPL_VOLUME_NAME_SIZE + 1];

    /* What the clock of the host said that was heard last, with this key. */
    bool source_heard;
    struct repl_digest source_key;
    int64_t source_ahead_ns, source_heard_ns; /* CLOCK_BOOTTIME */

    uint64_t marks;      /* records of names since the start */
    uint64_t last_merge; /* the number that was given last */
    int64_t visited_ns;  /* by the compactor, monotonic; 0: not yet */
    uint64_t visited_points;
    bool visit_again;          /* there was more to do */
    bool merge_failed;         /* at the last visit, or not tried again there */
    bool checkpoint_due;       /* its log has become long for what it says */
    uint64_t checkpoint_bytes; /* its length when it was written anew last; 0: not yet */

    struct scrub_of_volume scrub;

    /* since the start */
    uint64_t points, bytes_received;
    uint64_t supplies_begun; /* several may arrive at once: each file has a name of its own */
    enum repl_state state_logged;
    bool state_known;  /* something has been logged */
    bool clock_logged; /* that the last point lies in the future */
};

REPL_RESULT site_volume_new(struct repl_site *site, const char *name, struct site_volume **out,
                            struct repl_error *err);
/* Nothing of it is under way any more. */
void site_volume_free(struct site_volume *volume);
bool site_volume_is_idle(const struct site_volume *volume);

/* The request's turn comes when the changes before it are made. */
void site_volume_enqueue(struct site_volume *volume, struct site_request *request,
                         enum site_change change);
void site_volume_pump(struct site_volume *volume);
/* The present change takes a while, until it is released. */
void site_volume_hold(struct site_volume *volume);
/* The present change is made. */
void site_volume_release(struct site_volume *volume);
/* Appends a record, with what the index is told of its segment, applies it to journal and index,
 * then calls done. The record is copied, the rest is kept until done. */
void site_volume_append(struct site_volume *volume, const struct repl_index_record *added,
                        void (*done)(struct site_volume *, repl_result, const struct repl_error *));
/* The same of a MERGE with what belongs to it; the records are kept too. */
void site_volume_append_group(struct site_volume *volume, const struct repl_index_record *records,
                              size_t count,
                              void (*done)(struct site_volume *, repl_result,
                                           const struct repl_error *));
/* Journal and what is derived from it. */
REPL_RESULT site_volume_apply(struct site_volume *volume, const struct repl_log_record *record,
                              struct repl_error *err);
/* Tells the replica how far it may go; makes it first if the volume has none. */
void site_volume_follow(struct site_volume *volume);
void site_volume_status(const struct site_volume *volume, int64_t now_ns,
                        struct repl_volume_status *out);
/* One line when the state has changed. */
void site_volume_log_state(struct site_volume *volume, int64_t now_ns);

/* Reads journal, store and staging, and cleans up after a crash; blocks, on a worker or at a start.
 * A damaged history is no failure, nor is a want of memory: the volume is then marked. *out NULL:
 * there is no volume, only a directory. */
REPL_RESULT site_volume_load(struct repl_site *site, const char *name, struct site_volume **out,
                             struct repl_error *err);
/* Moves the segment that the log does not have, if there is one, to where it is kept. Blocks. */
REPL_RESULT site_found_set_aside(struct site_volume *volume, struct repl_error *err);
/* Applies to the index what the log has beyond it. On a worker, or at a start. begin: the offset of
 * the log's first byte. lock: taken while something is written, not while the store is read; NULL:
 * held already. */
REPL_RESULT site_index_catch_up(struct repl_site *site, const char *name,
                                const struct repl_buffer *log, uint64_t begin, uint64_t log_end,
                                pthread_mutex_t *lock, struct repl_error *err);
/* The same while the site runs, on a worker. supplies: those as well, where the index has lost
 * everything. */
REPL_RESULT site_index_refill(struct site_volume *volume, bool supplies, uint64_t log_end,
                              struct repl_error *err);
/* What has been logged, into the index, with what others wait with: a sync is what it costs, for
 * one or for many. On a worker. */
void site_index_append(struct site_append *append);
/* The chunks of a supply into the index. What is wrong with its file stays so: it is left out, with
 * a line in our log, and what nobody finds is asked of the source. Anything else is an error, after
 * which all of them are to be tried again. */
REPL_RESULT site_index_supply(struct site_volume *volume, const struct repl_segment_id *id,
                              uint64_t size, struct repl_error *err);

/* Names the places again of all chunks that the volume's segments and supplies have. At a start. */
REPL_RESULT site_index_places(struct site_volume *volume, struct repl_error *err);
/* Forgets the volumes that the index has and the store does not, and takes from it which pools the
 * others are of. At a start, when all are read. */
REPL_RESULT site_members_check(struct repl_site *site, struct repl_error *err);

/* Every few seconds: a volume that there was no memory to read is read again, one at a time. */
void site_unread_tick(struct repl_site *site);
void site_watch_init(struct repl_site *site);
void site_watch_fini(struct repl_site *site);
/* Every few seconds. */
void site_watch_tick(struct repl_site *site);
/* The volume is gone, or damaged: what is left of it is not relied on. Where there is no memory for
 * that, each segment is looked for. */
void site_volume_gone(struct repl_site *site, const char *volume);
/* From any thread. */
bool site_volume_is_gone(struct repl_site *site, const char *volume);
/* Where the volume is to be looked at and is not busy, it is afterwards. */
void site_watch_pump(struct site_volume *volume);

void site_upload_begin(struct site_volume *volume, struct site_request *request);
void site_ahead_begin(struct site_volume *volume, struct site_request *request);
void site_upload_body(struct site_volume *volume, struct site_request *request, const void *data,
                      size_t size);
void site_upload_end(struct site_volume *volume, struct site_request *request);
/* The request that feeds the upload goes; what has arrived is kept. */
void site_upload_detach(struct site_volume *volume, const char *why);
/* The same of either upload, where the request is gone. */
void site_upload_closed(struct site_volume *volume, const struct site_request *request);
/* The upload is committed: whose turn is it. */
void site_upload_next(struct site_volume *volume);
/* Gives up what is held, or what came ahead of its turn. */
void site_upload_drop(struct site_volume *volume);
void site_ahead_drop(struct site_volume *volume);
/* The request may not go on, and has been answered. */
void site_upload_forbid(struct site_volume *volume, const struct site_request *request);
void site_upload_moved(struct site_intake *intake);

void site_commit_begin(struct site_volume *volume, struct site_request *request);
/* On the loop; commit.result says how the step went. */
void site_commit_step_end(struct site_volume *volume);
/* Opens the staged segment and verifies it; what was found is in commit by the step's end. */
void site_verify_begin(struct site_volume *volume);
/* The same, for the chunks alone that it refers to. */
void site_verify_chunks(struct site_volume *volume);
/* What one look at many chunks has found out of the segments in which they lie. Zeroed before, and
 * not kept for longer. */
struct site_seen {
    void *segments; /* a tree */
};
void site_seen_fini(struct site_seen *seen);
/* Whether the segment at the place is in the store, if it is another volume's, or a supply. What
 * cannot be read counts as not there. From a worker. */
REPL_RESULT site_place_look(const struct site_volume *volume, const struct repl_chunk_place *place,
                            struct site_seen *seen, bool *there, struct repl_error *err);
/* The same as far as it has been looked for: false where it was not. */
bool site_place_seen(const struct site_volume *volume, const struct repl_chunk_place *place,
                     const struct site_seen *seen);
/* Whether a segment may rely on the chunk's bytes: they are in the volume's pool, and were not
 * found damaged since, nor removed by somebody, nor are they about to go. A point that refers to
 * what has rotted would not restore, so it is asked for again. From a worker. */
REPL_RESULT site_chunk_find(const struct site_volume *volume, const struct repl_digest *name,
                            struct site_seen *seen, struct repl_chunk_place *place, bool *found,
                            struct repl_error *err);

void site_hello_begin(struct site_volume *volume, struct site_request *request);
void site_report_begin(struct site_volume *volume, struct site_request *request);

void site_mark_begin(struct site_volume *volume, struct site_request *request);

void site_supply_begin(struct site_volume *volume, struct site_request *request);
void site_supply_body(struct site_request *request, const void *data, size_t size);
void site_supply_end(struct site_request *request);
void site_supply_closed(struct site_request *request);
void site_supply_free(struct site_request *request);
void site_supply_commit(struct site_volume *volume, struct site_request *request);
/* Whether the segment that it is for is part of the history, or never will be. */
bool site_supply_is_late(const struct site_volume *volume, const struct repl_segment_id *id);
/* It lies in the store, or lies there again; where there is no memory for it, it is found at the
 * next start. */
void site_supply_note(struct site_volume *volume, const struct repl_segment_id *id);
/* The first number from *id on that is free, or that the same supply has (*stored). In the volume's
 * turn, from a worker. */
REPL_RESULT site_supply_number(struct site_volume *volume, const struct repl_digest *digest,
                               struct repl_segment_id *id, bool *stored, struct repl_error *err);
/* A commit of the volume that has found chunks in supplies refers to them: for those a time in
 * which nothing needs them begins anew. */
void site_supplies_found(const struct site_volume *volume);
/* It does not lie there any more. */
void site_supply_drop(struct site_volume *volume, const struct repl_segment_id *id);

#endif
