/*
 * The source's pipeline for one volume: capture, epoch, segment, spool and ship
 * put together, without a system call. The agent and the simulator drive the
 * same code: they ask repl_pipeline_next what to do, do it, and say how it went.
 *
 * What it sees to, in this order of importance:
 *
 *   - The digest table never claims that the site holds what it may not hold:
 *     entries change on acknowledgement only (digest_table.h), and not before the
 *     acknowledgement is durable in the source state: a site that was put back to
 *     before it is known for what it is.
 *   - Before the last bytes of a segment leave the host, its digest is durable
 *     in the source state: after a crash the site's head is known for ours, and
 *     a head that is not is a fork.
 *   - Once the table's file is durable up to a segment, that becomes the
 *     checkpoint, and what was sent before it is forgotten.
 *
 * Everything in it happens on one thread; a batch is the only thing that
 * travels to a worker and back.
 */
#ifndef REPL_PIPELINE_H
#define REPL_PIPELINE_H

#include "capture/audit.h"
#include "capture/batch.h"
#include "capture/round.h"
#include "epoch.h"
#include "segment/segment_builder.h"
#include "ship.h"

enum repl_pipeline_action_type {
    REPL_PIPELINE_WAIT,       /* nothing before until_ns, or an event */
    REPL_PIPELINE_SYNC,       /* clean the page cache; then synced */
    REPL_PIPELINE_QUIESCE,    /* freeze, or run the command; then quiesced */
    REPL_PIPELINE_OPEN,       /* read the clock, then the write counters, then OR what the tracker
                                 has marked into round.dirty; then opened */
    REPL_PIPELINE_CLOSE,      /* read the write counters, then the clock; then closed */
    REPL_PIPELINE_RESUME,     /* thaw, run the other command; then resumed */
    REPL_PIPELINE_AUDIT,      /* after delay_ns take a sample of the tracker; then audited */
    REPL_PIPELINE_REPAIR,     /* OR what was submitted lately into round.dirty */
    REPL_PIPELINE_SETTLE,     /* of what was taken from the tracker only what is in
                                 repl_pipeline_unsafe is needed after a crash (see settle); then
                                 make repl_pipeline_record outlive us; then swap touched, if it is
                                 due */
    REPL_PIPELINE_COMMIT,     /* the round is a point, if the other volumes' of the group are; then
                                 commit */
    REPL_PIPELINE_STATE,      /* make *state durable; then state_written */
    REPL_PIPELINE_CHECKPOINT, /* make the table's memory durable; then checkpointed */
    REPL_PIPELINE_HELLO,      /* send hello; then welcome, refused or lost */
    REPL_PIPELINE_SEND,       /* send segment number from offset, as far as it is built; not its
                                 last REPL_SEGMENT_FOOTER_SIZE bytes before RELEASE */
    REPL_PIPELINE_SEND_AHEAD, /* the same from its start on, ahead of its turn (ship.h) */
    REPL_PIPELINE_RELEASE,    /* all of segment number, and of those before it, may be sent, now and
                                 whenever it is again */
    REPL_PIPELINE_SUPPLY,     /* send the chunks the site said are missing; then supplied or lost */
    REPL_PIPELINE_DROP,       /* segment number is done with: end its request if there is one,
                                 remove it from the spool if a byte of it came there */
    REPL_PIPELINE_COALESCE,   /* merge the spool's segments number to last (segment_merge.h) and
                                 verify the result, as segment into; then coalesced */
    REPL_PIPELINE_CHECK,      /* read segment number in the spool to its last byte; then checked */
    REPL_PIPELINE_RECOVER,    /* ask the site which segments lie behind from up to head, and call
                                 forget for each of their extents; then recovered, or lost */
};

enum repl_settle {
    REPL_SETTLE_NONE, /* everything taken is still needed */
    REPL_SETTLE_REST, /* of that, what is unsafe */
    REPL_SETTLE_ALL,  /* exactly what is unsafe, which is more */
};

struct repl_pipeline_action {
    enum repl_pipeline_action_type type;
    enum repl_settle settle;
    int64_t delay_ns; /* AUDIT */
    uint64_t number;
    uint64_t last, into; /* COALESCE */
    uint64_t offset;
    int64_t until_ns;
    struct repl_head from, head; /* RECOVER */
    const struct repl_source_state *state;
};

/* A reduced batch has become part of segment number. What it refers to by name has to be kept until
 * that segment's DROP, as the site may turn out to lack it: the bytes are in batch->pages, for the
 * length of this call. *kept: bytes that takes in the spool. */
typedef repl_result repl_keep_fn(void *context, uint64_t number, const struct repl_batch *batch,
                                 uint64_t *kept, struct repl_error *err);
/* Segment number is the site's, with every chunk it carries or refers to. Its DROP follows. */
typedef void repl_acknowledged_fn(void *context, uint64_t number);

/* Of a tree: the records of its objects, which go into the segments beside the space. What has been
 * said of them is told by stamps that grow: the segments of one stamp together say what there was
 * to be said by then. */
struct repl_pipeline_records {
    /* Something has changed that no segment says; more than fits into one. */
    bool (*are_pending)(const void *context);
    bool (*are_many)(const void *context, bool full);
    /* Of the full (0, to_seq], which has no end yet, some was said that may not be so any more. */
    bool (*are_torn)(const void *context, uint64_t to_seq);
    /* A segment that is finished now asks next for as many as fit; full: for all there are, instead
     * of those that have changed. end: also after a failure; whether that was the last of them. */
    repl_result (*begin)(void *context, bool full, uint64_t to_seq, uint64_t *stamp,
                         struct repl_error *err);
    repl_records_fn *next;
    bool (*end)(void *context);
    /* All up to a stamp are the site's; a full of them is. */
    void (*settled)(void *context, uint64_t stamp, bool full);
    /* Those from a stamp on have to be said again. */
    void (*lost)(void *context, uint64_t stamp);
    void *context;
};

/* What a round that was torn leads to. */
enum repl_after {
    REPL_AFTER_REST,
    REPL_AFTER_OPEN,
    REPL_AFTER_QUIESCE,
    REPL_AFTER_FAILURE,
};

/* What outlives us together with the tracking, and is of use to whoever knows of the same history:
 * not to a state of before, which was put back. */
struct repl_track_record {
    struct repl_audit_baseline base;
    struct repl_digest head; /* of the last segment known to be the site's */
};

enum repl_hold_state {
    REPL_HOLD_NONE,
    REPL_HOLD_ASKED,
    REPL_HOLD_ON,
    REPL_HOLD_ENDING,
};

struct repl_pipeline_segment; /* a segment's digests until the table has them */

struct repl_pipeline_list {
    struct repl_pipeline_segment *oldest, *newest;
};

struct repl_pipeline_options {
    uint64_t volume_size;
    int64_t interval_ns;       /* between points */
    enum repl_quiesce quiesce; /* heeded only where there is a tracker */
    /* So few that a round of them is a small one. Of a block volume those that fit into the shell's
     * batches at once, which each are sure to take REPL_BATCH_PAGES_SURE: such a round is parked.
     */
    uint64_t parked_pages;
    struct repl_audit_limits audit;
    uint64_t spool_limit_bytes;       /* reading stops while more is built and not acknowledged */
    struct repl_page_digest *digests; /* one for each page of the volume; outlives the pipeline */
    repl_chunk_known_fn *chunk_known; /* NULL: no deduplication */
    repl_keep_fn *keep;               /* these two NULL with it */
    repl_acknowledged_fn *acknowledged;
    void *chunk_context;                         /* of the three */
    const struct repl_pipeline_records *records; /* NULL: a block volume; outlives the pipeline */
    bool full_wanted;   /* of a tree: the site's is of no use, the next segment begins a full */
    repl_sink_fn *sink; /* takes the bytes of segment number (below), in order, until its DROP */
    void *sink_context;
};

struct repl_pipeline {
    struct repl_pipeline_options options;
    struct repl_source_state state; /* as it is or is about to be on disk */
    struct repl_digest_table table;
    struct repl_epoch epoch;
    struct repl_ship ship;

    /* the segment being built */
    struct repl_segment_builder *builder;
    uint64_t number;                        /* of the newest segment begun */
    struct repl_pipeline_list segments;     /* not acknowledged; the newest is being built */
    struct repl_pipeline_list acknowledged; /* and not in the table yet */
    uint64_t applying;     /* of these, up to this number, are in the state that is being written */
    uint64_t spool_bytes;  /* complete and not acknowledged */
    uint64_t digest_bytes; /* of all segments */
    uint64_t kept_bytes;   /* of all segments: what they refer to by name */
    bool full_asked;       /* a full is to be begun, between two rounds */
    bool full_wanted;      /* the next segment that can begins a full */
    bool full_marked;      /* and all of the space has been marked for it */
    bool forget_due;       /* and no round is opened before the forgetting is durable */

    /* the round */
    struct repl_round round;
    enum repl_after after;        /* when it has drained */
    bool small;                   /* so few pages that the next one is worth opening at once */
    bool grouped;                 /* other volumes' rounds stand and fall with it */
    uint64_t point_changed_bytes; /* since the last point, all rounds together */

    /* its proof */
    bool audited;            /* there is a tracker, whose marks have to be proven */
    struct repl_audit audit; /* where there is one */
    bool proven;
    unsigned busy_audits;
    bool comparing; /* everything is read since tracking is not trusted; until the next point */
    struct repl_digest settled_head; /* of the record that tracking went on with */
    enum repl_hold_state hold;
    bool held_throughout; /* the freeze, or whatever it was */

    /* what is due */
    bool sync_due, quiesce_due, open_due, close_due, resume_due, audit_due, repair_due, settle_due;
    bool commit_due;
    int64_t audit_delay_ns;
    enum repl_settle settle;
    bool state_due, state_out, checkpoint_out, hello_due, recover_due;
    bool supply_due, send_due, ahead_due, check_due;
    uint64_t send_number, send_offset, ahead_number;
    uint64_t released; /* the newest whose end may be sent */
    bool release_due;
    struct repl_buffer drops; /* uint64_t numbers */
    struct repl_head recover_head;
    struct repl_head checkpoint_head; /* what the checkpoint in progress will cover */
    bool checkpoint_void;             /* nothing: digests were forgotten since it was begun */
    int64_t checkpoint_ns;            /* when the last one was begun */
    bool greeted;                     /* the site has been heard of since the start */
    bool recovering;                  /* and has more to tell */
    bool stopping;                    /* a last checkpoint, and no more rounds */

    /* a spool that fills */
    bool coalescing;
    uint64_t coalesce_first, coalesce_last, coalesce_bytes; /* the run being merged */
    uint64_t coalesce_at_bytes;                             /* when to look again */
    struct repl_buffer lost; /* struct repl_point: cut, and given up with their segments; the next
                                point's segment keeps them as times */
    bool disk_full;          /* the spool's: no round is opened until freed */

    /* for people */
    struct repl_point point;      /* the last one cut */
    uint64_t unstable_files;      /* in it, if it was cut per file (epoch.h) */
    struct repl_point site_point; /* the last one known to be the site's; seq 0: not known; one of
                                     before a restart has only its times */
    int64_t unchanged_until_ns;   /* the volume is known to equal it until then */
    uint64_t point_count, changed_bytes, sent_bytes, torn_rounds;
    uint64_t degradations;
    uint64_t coalesced_points; /* kept as times only */
    uint64_t lost_points;      /* cut, and lost with the spool before the site had them */
    char degraded_cause[REPL_WIRE_TEXT_MAX + 1];
    char quiesce_cause[REPL_WIRE_TEXT_MAX + 1]; /* why the last freeze or command failed */
    struct repl_error error; /* why the last round failed; code REPL_OK: it did not */
};

/* *state is what was read from disk, or a new volume's: uuid, lineage 1, next_seq 1. */
REPL_RESULT repl_pipeline_init(struct repl_pipeline *p, const struct repl_pipeline_options *options,
                               const struct repl_source_state *state, struct repl_error *err);
void repl_pipeline_fini(struct repl_pipeline *p);
/* There is a tracker; before the first next. record: as it was made by the pipeline before us; if
 * it is of use, true is returned, and the caller ORs the pages that were not settled into
 * round.dirty. Else tracking begins anew, and the whole volume is compared; cause says why there is
 * none. */
bool repl_pipeline_track(struct repl_pipeline *p, const struct repl_track_record *record,
                         const char *cause);

/* A tree whose changes are heard of; before the first next. Else each of its rounds looks for them
 * everywhere, and has to end without any. */
void repl_pipeline_watch(struct repl_pipeline *p);
/* Changes of a tree may have been missed, and are looked for everywhere: DEGRADED, with the cause,
 * until the next point. */
void repl_pipeline_unsure(struct repl_pipeline *p, const char *cause, int64_t now_ns);

/* A complete segment that an earlier run left in the spool, before the first next: the one that
 * follows the state's checkpoint, then each that follows the one before. digests: struct
 * repl_batch_digest each, taken over. point: of one that has one. kept: bytes in the spool, as of
 * repl_keep_fn. */
REPL_RESULT repl_pipeline_adopt(struct repl_pipeline *p, const struct repl_ship_segment *segment,
                                const struct repl_point *point, struct repl_buffer *digests,
                                uint64_t kept, struct repl_error *err);

void repl_pipeline_next(struct repl_pipeline *p, int64_t now_ns,
                        struct repl_pipeline_action *action);

/* --- reading --------------------------------------------------------------------------------- */

/* Fills a batch with the next pages to read; false: there are none now. It is idle, or its fate is
 * to WAIT, and then it keeps what it has. The caller reads batch->reads and says batch_read; then,
 * when batch_fate says so, has repl_batch_reduce run (or not), and gives the batch back. One that
 * could not be read is given back at once. */
bool repl_pipeline_fill(struct repl_pipeline *p, struct repl_batch *batch);
void repl_pipeline_batch_read(struct repl_pipeline *p, struct repl_batch *batch);
/* Of a batch that has been read and is not being reduced. */
enum repl_batch_fate repl_pipeline_batch_fate(const struct repl_pipeline *p,
                                              const struct repl_batch *batch);
/* result: of reading and reducing. A failure ends the round without a point; it never becomes
 * data. */
void repl_pipeline_batch_done(struct repl_pipeline *p, struct repl_batch *batch, repl_result result,
                              const struct repl_error *err, int64_t now_ns);

/* --- the round ------------------------------------------------------------------------------- */

/* A volume of a group: its next round is wanted now. */
void repl_pipeline_hurry(struct repl_pipeline *p, int64_t now_ns);
void repl_pipeline_synced(struct repl_pipeline *p);
/* In place of opened: there is something to be read, and if true is returned that has to wait for
 * QUIESCE, which comes next (repl_epoch_quiesce_first). */
bool repl_pipeline_quiesce_first(struct repl_pipeline *p);
void repl_pipeline_quiesced(struct repl_pipeline *p, repl_result result,
                            const struct repl_error *err, int64_t now_ns);
/* Whether the next segment that takes records of a tree belongs to a full. */
bool repl_pipeline_is_full(const struct repl_pipeline *p);
/* With these counters, and what is marked by now, the last point is the present. */
bool repl_pipeline_is_unchanged(const struct repl_pipeline *p,
                                const struct repl_write_counters *counters);
/* grouped: together with other volumes, some of which have changed; a point is cut even where
 * nothing has. */
void repl_pipeline_opened(struct repl_pipeline *p, int64_t now_ns,
                          const struct repl_write_counters *counters, bool grouped);
bool repl_pipeline_is_whole(const struct repl_pipeline *p,
                            const struct repl_write_counters *counters);
/* group: NULL where it is cut by itself (epoch.h). */
void repl_pipeline_closed(struct repl_pipeline *p, int64_t now_ns,
                          const struct repl_write_counters *counters,
                          const struct repl_epoch_group *group);
/* In the place of quiesced: others of its group are not as far, and it is opened with them. */
void repl_pipeline_quiesce_later(struct repl_pipeline *p);
/* intact: from quiesced until the RESUME. Also unasked, when it has ended by itself. */
void repl_pipeline_resumed(struct repl_pipeline *p, bool intact, int64_t now_ns);
void repl_pipeline_audited(struct repl_pipeline *p, const struct repl_audit_sample *sample,
                           int64_t now_ns);
/* What would be lost if only the tracker and the site were left: a page is unsafe if it is set in
 * one of them. */
#define REPL_PIPELINE_UNSAFE 3
void repl_pipeline_unsafe(const struct repl_pipeline *p,
                          const struct repl_bitmap *out[REPL_PIPELINE_UNSAFE]);
struct repl_track_record repl_pipeline_record(const struct repl_pipeline *p);
/* The answer to COMMIT. That the others are not proven, whose round would be in vain, may be said
 * before, while this one's proof is still under way. */
void repl_pipeline_commit(struct repl_pipeline *p, bool others_proven, int64_t now_ns);

/* The device has become larger: digests is the longer table, its new entries zero. */
REPL_RESULT repl_pipeline_grow(struct repl_pipeline *p, uint64_t volume_size,
                               struct repl_page_digest *digests, struct repl_error *err);
/* Not in the middle of a round. */
bool repl_pipeline_may_grow(const struct repl_pipeline *p);

/* --- the spool ------------------------------------------------------------------------------- */

/* The numbers (uint64_t) of the segments from first to the last; appended. */
REPL_RESULT repl_pipeline_run(const struct repl_pipeline *p, uint64_t first,
                              struct repl_buffer *numbers, struct repl_error *err);
/* The run of a COALESCE is one segment now, or could not be. False: it is not wanted (any more),
 * and the caller removes it. True: it has taken the place of the run, whose DROPs follow. */
bool repl_pipeline_coalesced(struct repl_pipeline *p, repl_result result, uint64_t number,
                             const struct repl_segment_header *header,
                             const struct repl_segment_footer *footer);

/* Bytes of segment number are not, or no more, in the spool: it and what follows it in the chain is
 * given up, their pages are dirty again, and their points are kept as times only. Nothing happens
 * where there is no such segment any more. */
void repl_pipeline_spool_lost(struct repl_pipeline *p, uint64_t number, int64_t now_ns);
/* The disk is full: err says which. What the segment would have held is on the tracker's map until
 * freed. */
void repl_pipeline_spool_full(struct repl_pipeline *p, uint64_t number,
                              const struct repl_error *err, int64_t now_ns);
/* There may be room again. */
void repl_pipeline_spool_freed(struct repl_pipeline *p, int64_t now_ns);
/* Segment number of a CHECK was read. REPL_E_CORRUPT, REPL_E_VERSION, REPL_E_IO: it is damaged, and
 * lost; another failure says nothing of it. Nothing happens where it was given up meanwhile. */
void repl_pipeline_checked(struct repl_pipeline *p, uint64_t number, repl_result result,
                           const struct repl_error *err, int64_t now_ns);

/* --- durability ------------------------------------------------------------------------------ */

void repl_pipeline_state_written(struct repl_pipeline *p);
void repl_pipeline_checkpointed(struct repl_pipeline *p);
/* Asks for a last checkpoint; stopped says when it is done. */
void repl_pipeline_stop(struct repl_pipeline *p, int64_t now_ns);
bool repl_pipeline_stopped(const struct repl_pipeline *p);

/* --- the link -------------------------------------------------------------------------------- */

void repl_pipeline_hello(const struct repl_pipeline *p, uint32_t rpo_ms, int64_t now_ns,
                         struct repl_hello *out);
/* Whether the site's head is none that the state knows of: then whoever has kept what has left the
 * state says whether it is remembered. */
bool repl_pipeline_is_unknown(const struct repl_pipeline *p, const struct repl_welcome *welcome);
/* Whether the site says that it has less than it acknowledged before: it was put back. What the
 * digest table has taken over cannot be told apart any more: end, and begin again from the state,
 * as after a crash, in place of calling welcome. remembered: it is unknown to the state alone. */
bool repl_pipeline_site_went_back(const struct repl_pipeline *p, const struct repl_welcome *welcome,
                                  bool remembered);
/* Before the first welcome, whose head is unknown to the state and remembered: everything is
 * compared with what the site has. */
void repl_pipeline_site_put_back(struct repl_pipeline *p, const struct repl_head *head,
                                 int64_t now_ns);
void repl_pipeline_welcome(struct repl_pipeline *p, const struct repl_welcome *welcome,
                           int64_t now_ns);
/* To the request that sent segment number. */
void repl_pipeline_ack(struct repl_pipeline *p, uint64_t number, const struct repl_ack *ack,
                       int64_t now_ns);
/* Of a report too, if no request is out: that is how an idle source learns that the site has lost
 * the volume. */
void repl_pipeline_refused(struct repl_pipeline *p, const struct repl_refusal *refusal,
                           int64_t now_ns);
void repl_pipeline_missing(struct repl_pipeline *p);
void repl_pipeline_supplied(struct repl_pipeline *p);
void repl_pipeline_lost(struct repl_pipeline *p, const char *cause, int64_t now_ns);
void repl_pipeline_forget(struct repl_pipeline *p, uint64_t offset, uint64_t length);
void repl_pipeline_recovered(struct repl_pipeline *p, int64_t now_ns);

/* A point is wanted that has in it all that was written before now: one that begins at this time or
 * later does. */
int64_t repl_pipeline_since(const struct repl_pipeline *p, int64_t now_ns);
/* Whether the site has it; or else, in *unchanged_seq, a point that the volume was seen to equal at
 * that time or later, which does as well. */
bool repl_pipeline_has_since(const struct repl_pipeline *p, int64_t since_ns, int64_t now_ns,
                             uint64_t *unchanged_seq);
/* It is waited for: the next round is to come soon. */
void repl_pipeline_want(struct repl_pipeline *p, int64_t now_ns);

/* The site has lost what it had of these bytes: they are sent once more, as they are by the next
 * point, which is cut whether anything has changed or not. */
void repl_pipeline_send_again(struct repl_pipeline *p, uint64_t offset, uint64_t length);
/* It has lost what cannot be told by bytes: a full begins behind the next point, and until its own
 * point is there no other is cut. Not kept over a restart before it has begun. false: one is wanted
 * or on its way already, and that is the one. */
bool repl_pipeline_send_full(struct repl_pipeline *p, int64_t now_ns);

/* What to report now: state, cause, claim, backlog, progress. While the link is down it is for a
 * status alone: its state may be one that is not reported. */
void repl_pipeline_report(const struct repl_pipeline *p, int64_t now_ns, struct repl_report *out);

#endif
