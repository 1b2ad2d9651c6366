/*
 * A volume's journal at the site: what may be appended to it, and what a source
 * is told.
 *
 * The state is a fold over the volume's log: repl_journal_apply takes a record,
 * whether it is read back at start or has just been made durable, and nothing
 * else changes what is committed. The other calls decide; they change only
 * what a restart may forget (the upload in progress, the latest report).
 *
 * Committing a segment is a fixed sequence of durable steps, which
 * repl_commit_next hands out one at a time, so that the site and the simulator
 * run the same order and a crash may come between any two:
 *
 *   staged bytes synced -> checked -> published under its name -> COMMIT record
 *   appended and synced -> applied -> acknowledged
 *
 * Meanwhile the segment behind it may be received: the upload ahead, which takes
 * the first one's place when that is committed and goes when that is given up.
 */
#ifndef REPL_JOURNAL_H
#define REPL_JOURNAL_H

#include "format/log_record.h"
#include "format/wire.h"
#include "journal/trouble.h"
#include "repl/error.h"
#include "repl/format.h"

struct repl_journal_upload {
    bool active;     /* bytes of it are held */
    bool committing; /* all bytes are there and on their way through the commit sequence */
    bool header_known;
    uint64_t to_seq;
    uint32_t part;
    struct repl_segment_header header;
    uint64_t bytes;
};

struct repl_journal {
    /* the fold over the log */
    bool exists; /* a CREATE record has been seen */
    struct repl_log_create create;
    char pool[REPL_VOLUME_NAME_SIZE + 1]; /* that it shares chunks in; "": with nobody */
    uint64_t lineage;
    uint64_t record_number; /* of the last record */
    uint32_t group_left;    /* records to come of a MERGE or CHECKPOINT: it counts when they have */
    bool in_checkpoint;
    bool has_head;
    struct repl_head head;
    struct repl_point point; /* the last; seq 0: none yet */
    uint64_t volume_size;    /* as of the head */
    int64_t unchanged_until_ns;
    /* Our clock, when the content was last known to be that of the point: not after the site was
     * told so. The source's own times say nothing of that while its clock is wrong. */
    int64_t heard_ns;
    enum repl_state state; /* as logged last */
    int64_t state_logged_ns;
    struct repl_trouble trouble; /* how the volume changes, and the last jump in that */
    /* beyond the log */
    int64_t idle_logged_ns; /* when an IDLE record was last written, site's clock */
    uint32_t rpo_ms;        /* the source's promise, from its hello */
    struct repl_report report;
    int64_t reported_ns; /* when it, or a hello, came; 0: never */
    /* Our clock minus the source's, too large by the quickest message's time on the way. Times of
     * points are the source's. */
    bool clock_known;
    int64_t clock_offset_ns;
    struct repl_journal_upload upload; /* of the segment that follows the head */
    struct repl_journal_upload ahead;  /* of the one behind it */
};

void repl_journal_init(struct repl_journal *journal);

/* REPL_E_CORRUPT if the record cannot follow what came before it. */
REPL_RESULT repl_journal_apply(struct repl_journal *journal, const struct repl_log_record *record,
                               struct repl_error *err);

/* What a request gets. */
enum repl_verdict {
    REPL_VERDICT_ACCEPT,    /* go on */
    REPL_VERDICT_DUPLICATE, /* it is the head already: acknowledge again */
    REPL_VERDICT_REFUSE,    /* with *refusal */
};
/* Fills *refusal, whose text is cut off where it is too long, and refuses. */
enum repl_verdict repl_refuse(struct repl_refusal *refusal, enum repl_refusal_code code,
                              const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A source introduces itself. A volume not known yet is accepted and *create filled: the caller
 * makes that CREATE record durable and applies it before it answers. */
enum repl_verdict repl_journal_hello(struct repl_journal *journal, const char *name,
                                     const struct repl_hello *hello, int64_t now_ns,
                                     struct repl_log_record *create, bool *needs_create,
                                     struct repl_refusal *refusal);
/* The POOL record of a volume that has none, to be made durable before it is applied. */
void repl_journal_pool(const struct repl_journal *journal, const char *name, int64_t now_ns,
                       struct repl_log_record *pool);
/* The answer to an accepted hello, now. */
void repl_journal_welcome(const struct repl_journal *journal, int64_t received_ns, int64_t now_ns,
                          struct repl_welcome *out);

/* A segment's bytes are about to arrive, from offset on. For offset 0 anything held of other
 * uploads is given up. */
enum repl_verdict repl_journal_upload_begin(struct repl_journal *journal, uint64_t to_seq,
                                            uint32_t part, uint64_t offset,
                                            struct repl_refusal *refusal);
/* Those of the segment behind the one that is on its way, from its start on; what was held ahead
 * before is given up. On ACCEPT *upload is where they belong: journal->ahead, or journal->upload
 * where nothing else is on its way any more. */
enum repl_verdict repl_journal_ahead_begin(struct repl_journal *journal, uint64_t to_seq,
                                           uint32_t part, struct repl_journal_upload **upload,
                                           struct repl_refusal *refusal);
/* The header of either has arrived (offset 0 only): early, so that what cannot be appended is not
 * received first. */
enum repl_verdict repl_journal_upload_header(struct repl_journal *journal,
                                             struct repl_journal_upload *upload,
                                             const struct repl_segment_header *header,
                                             struct repl_refusal *refusal);
/* size more bytes are held. */
void repl_journal_upload_grow(struct repl_journal_upload *upload, uint64_t size);
/* What is held is worth nothing, and what came ahead of its turn neither: to be sent again from
 * the start. */
void repl_journal_upload_drop(struct repl_journal *journal);
void repl_journal_ahead_drop(struct repl_journal *journal);
/* The upload has been committed and applied: what came ahead of its turn is the upload now, if it
 * follows. Refused, it is dropped. */
enum repl_verdict repl_journal_upload_next(struct repl_journal *journal,
                                           struct repl_refusal *refusal);

/* The whole segment has been opened and verified: does it continue the history? churn: what has
 * been counted in it; NULL: nothing was. On ACCEPT *commit is the record to be made durable. */
enum repl_verdict repl_journal_check(struct repl_journal *journal,
                                     const struct repl_segment_header *header,
                                     const struct repl_segment_footer *footer, uint64_t volume_size,
                                     const struct repl_point *point, const struct repl_churn *churn,
                                     int64_t now_ns, struct repl_log_record *commit,
                                     struct repl_refusal *refusal);

/* A source's report. *record is one to be made durable and applied, if *needs_record. */
enum repl_verdict repl_journal_report(struct repl_journal *journal,
                                      const struct repl_report *report, int64_t now_ns,
                                      struct repl_log_record *record, bool *needs_record,
                                      struct repl_refusal *refusal);

void repl_journal_ack(const struct repl_journal *journal, int64_t received_ns, int64_t now_ns,
                      struct repl_ack *out);

/* The age of what the site could restore now: now, as the source's clock would show it, minus the
 * time up to which the volume's content is known, and never less than the time since the site was
 * told; -1 where there is no point yet. */
int64_t repl_journal_lag_ns(const struct repl_journal *journal, int64_t now_ns);
/* How far the last point lies in the future, 0: it does not. So it does after the source's clock
 * was ahead and has been set back, until it has caught up. */
int64_t repl_journal_ahead_ns(const struct repl_journal *journal, int64_t now_ns);
/* The state as the site sees it: the source's word, unless it has not been heard of for too long
 * (then LINK_DOWN, with *cause saying since when). cause has room for REPL_WIRE_TEXT_MAX + 1. */
enum repl_state repl_journal_state(const struct repl_journal *journal, int64_t now_ns, char *cause);

/* --- the commit sequence --------------------------------------------------------------------- */

enum repl_commit_step {
    REPL_COMMIT_SYNC,    /* fsync the staged file */
    REPL_COMMIT_VERIFY,  /* open and verify it, then repl_journal_check */
    REPL_COMMIT_PUBLISH, /* give it its name, durably */
    REPL_COMMIT_LOG,     /* append the COMMIT record, durably */
    REPL_COMMIT_DONE,    /* apply, drop the upload, acknowledge */
    REPL_COMMIT_FAILED,  /* drop the upload, refuse */
};

/* The step after one that went well or not. A file whose sync failed is not synced again: it is
 * given up and sent anew. */
enum repl_commit_step repl_commit_next(enum repl_commit_step step, bool succeeded);

#endif
