/*
 * The source's pipeline for one volume: capture, epoch, segment, spool and ship
 * put together, without a system call. The agent and the simulator drive the
 * same code: they ask repl_pipeline_next what to do, do it, and say how it went.
 *
 * What it sees to, in this order of importance:
 *
 *   - The digest table never claims that the site holds what it may not hold:
 *     entries change on acknowledgement only (digest_table.h).
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

#include "capture/batch.h"
#include "epoch.h"
#include "segment/segment_builder.h"
#include "ship.h"

enum repl_pipeline_action_type {
    REPL_PIPELINE_WAIT,       /* nothing before until_ns, or an event */
    REPL_PIPELINE_SYNC,       /* clean the page cache; then synced */
    REPL_PIPELINE_SAMPLE,     /* read the write counters, then the clock; then sampled */
    REPL_PIPELINE_STATE,      /* make *state durable; then state_written */
    REPL_PIPELINE_CHECKPOINT, /* make the table's memory durable; then checkpointed */
    REPL_PIPELINE_HELLO,      /* send hello; then welcome, refused or lost */
    REPL_PIPELINE_SEND,       /* send segment number from offset, as far as it is built; not its
                                 last REPL_SEGMENT_FOOTER_SIZE bytes before RELEASE */
    REPL_PIPELINE_RELEASE,    /* all of segment number may be sent, now and whenever it is again */
    REPL_PIPELINE_SUPPLY,     /* send the chunks the site said are missing; then supplied or lost */
    REPL_PIPELINE_DROP,       /* segment number is done with: end its request if there is one,
                                 remove it from the spool if a byte of it came there */
    REPL_PIPELINE_RECOVER,    /* ask the site which segments lie behind from up to head, and call
                                 forget for each of their extents; then recovered, or lost */
};

struct repl_pipeline_action {
    enum repl_pipeline_action_type type;
    uint64_t number;
    uint64_t offset;
    int64_t until_ns;
    struct repl_head from, head; /* RECOVER */
    const struct repl_source_state *state;
};

struct repl_pipeline_segment; /* a segment's digests until it is acknowledged */

struct repl_pipeline_options {
    uint64_t volume_size;
    int64_t interval_ns;              /* between points */
    uint64_t spool_limit_bytes;       /* reading stops while more is built and not acknowledged */
    struct repl_page_digest *digests; /* one for each page of the volume; outlives the pipeline */
    repl_chunk_known_fn *chunk_known; /* NULL: no deduplication */
    void *chunk_context;
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
    struct repl_pipeline_segment *segments; /* a list, oldest first; the last is being built */
    uint64_t spool_bytes;                   /* complete and not acknowledged */
    uint64_t digest_bytes;                  /* of all segments */

    /* the round */
    bool reading;
    uint64_t next_page;
    uint32_t batches_out;
    uint64_t point_changed_bytes; /* since the last point, all rounds together */
    bool round_void; /* what it reads is no point: an error, or what it compares with is gone */

    /* what is due */
    bool sync_due, sample_due, state_due, state_out, checkpoint_out, hello_due, recover_due;
    bool supply_due, send_due;
    uint64_t send_number, send_offset;
    uint64_t sending;  /* the segment whose bytes may be on their way; 0: none */
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

    /* for people */
    struct repl_point point;    /* the last one cut */
    int64_t unchanged_until_ns; /* the volume is known to equal it until then */
    uint64_t point_count, changed_bytes, sent_bytes, torn_rounds;
    struct repl_error error; /* why the last round failed; code REPL_OK: it did not */
};

/* *state is what was read from disk, or a new volume's: uuid, lineage 1, next_seq 1. */
REPL_RESULT repl_pipeline_init(struct repl_pipeline *p, const struct repl_pipeline_options *options,
                               const struct repl_source_state *state, struct repl_error *err);
void repl_pipeline_fini(struct repl_pipeline *p);

void repl_pipeline_next(struct repl_pipeline *p, int64_t now_ns,
                        struct repl_pipeline_action *action);

/* --- reading --------------------------------------------------------------------------------- */

/* Fills an idle batch with the next pages to read; false: there are none now. The caller reads
 * their bytes into batch->pages, has repl_batch_reduce run, and gives the batch back. */
bool repl_pipeline_fill(struct repl_pipeline *p, struct repl_batch *batch);
/* result: of reading and reducing. A failure ends the round without a point; it never becomes
 * data. */
void repl_pipeline_batch_done(struct repl_pipeline *p, struct repl_batch *batch, repl_result result,
                              const struct repl_error *err, int64_t now_ns);

void repl_pipeline_synced(struct repl_pipeline *p, int64_t now_ns,
                          const struct repl_write_counters *counters);
void repl_pipeline_sampled(struct repl_pipeline *p, int64_t now_ns,
                           const struct repl_write_counters *counters);
/* The device has become larger: digests is the longer table, its new entries zero. */
REPL_RESULT repl_pipeline_grow(struct repl_pipeline *p, uint64_t volume_size,
                               struct repl_page_digest *digests, struct repl_error *err);

/* --- durability ------------------------------------------------------------------------------ */

void repl_pipeline_state_written(struct repl_pipeline *p);
void repl_pipeline_checkpointed(struct repl_pipeline *p);
/* Asks for a last checkpoint; stopped says when it is done. */
void repl_pipeline_stop(struct repl_pipeline *p);
bool repl_pipeline_stopped(const struct repl_pipeline *p);

/* --- the link -------------------------------------------------------------------------------- */

void repl_pipeline_hello(const struct repl_pipeline *p, uint32_t rpo_ms, int64_t now_ns,
                         struct repl_hello *out);
void repl_pipeline_welcome(struct repl_pipeline *p, const struct repl_welcome *welcome,
                           int64_t now_ns);
void repl_pipeline_ack(struct repl_pipeline *p, const struct repl_ack *ack, int64_t now_ns);
/* Of a report too, if no request is out: that is how an idle source learns that the site has lost
 * the volume. */
void repl_pipeline_refused(struct repl_pipeline *p, const struct repl_refusal *refusal,
                           int64_t now_ns);
void repl_pipeline_missing(struct repl_pipeline *p);
void repl_pipeline_supplied(struct repl_pipeline *p);
void repl_pipeline_lost(struct repl_pipeline *p, const char *cause, int64_t now_ns);
void repl_pipeline_forget(struct repl_pipeline *p, uint64_t offset, uint64_t length);
void repl_pipeline_recovered(struct repl_pipeline *p, int64_t now_ns);

/* What to report now: state, cause, claim, backlog, progress. */
void repl_pipeline_report(const struct repl_pipeline *p, int64_t now_ns, struct repl_report *out);

#endif
