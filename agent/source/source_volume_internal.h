/*
 * One protected volume: what its files share.
 *
 *   source_volume.c  its life: open, the pump, durability, close, status
 *   source_round.c   rounds: batches, page cache, counters, tracker
 *   source_hold.c    quiescing, alone and in a group
 *   source_tree.c    rounds of a directory tree, where they differ
 *   source_snapshot.c  and are read from a snapshot
 *   source_link.c    requests to the site, and reports
 *   source_names.c   what its pool holds
 *   source_resend.c  what the site asks for once more
 */
#ifndef REPL_AGENT_SOURCE_VOLUME_INTERNAL_H
#define REPL_AGENT_SOURCE_VOLUME_INTERNAL_H

#include "pipeline.h"
#include "source/capture/device.h"
#include "source/capture/syncer.h"
#include "source/capture/tracker.h"
#include "source/coalesce_job.h"
#include "source/dedup.h"
#include "source/freeze/hold.h"
#include "source/recover_job.h"
#include "source/source_hold.h"
#include "source/source_volume.h"
#include "source/spool.h"
#include "source/state_dir.h"
#include "source/tree/tree.h"

#define REPL_SECOND_NS INT64_C(1000000000)

/* Batches in flight: enough that the disk, the processors and the spool are busy at once, and that
 * a window's pages fit into them. Each takes about 5 MiB. */
#define REPL_SOURCE_BATCHES 6
/* Reads in flight. More would not be faster, but all that is queued before a writer's flush is what
 * the flush waits for. */
#define REPL_SOURCE_READS 32

enum volume_phase {
    VOLUME_CLOSED,
    VOLUME_OPENING,
    VOLUME_RUNNING,
    VOLUME_STOPPING,
    VOLUME_CLOSING,
};

enum volume_batch_state { BATCH_IDLE, BATCH_READING, BATCH_READ, BATCH_REDUCING };

struct volume_batch {
    struct repl_batch batch;
    struct repl_source_volume *volume;
    struct repl_io ios[REPL_BATCH_PAGES];
    uint32_t reads_begun, reads_done; /* of batch.reads */
    enum volume_batch_state state;
    struct repl_job job;
    repl_result result;
    struct repl_error err;
};

enum volume_snapshot {
    SNAPSHOT_NONE,
    SNAPSHOT_MAKING,
    SNAPSHOT_THERE,
    SNAPSHOT_ENDING,
    SNAPSHOT_REMOVING,
};

/* A segment on its way to the site. */
struct volume_send {
    struct repl_source_volume *volume;
    struct repl_request request;
    bool out, ahead; /* of its turn, when it was begun */
    uint64_t number, at;
};

struct repl_source_volume {
    struct repl_source_volume_options options;
    enum volume_phase phase;
    bool stop_wanted;
    bool pumping;
    struct repl_error why; /* of CLOSED and CLOSING */

    struct repl_job open_job;
    repl_result open_result;
    struct repl_error open_err;

    struct repl_device device; /* of a block volume */
    struct repl_tree *tree;    /* NULL: it is one */
    struct repl_state_dir dir;
    struct repl_pipeline pipeline;
    struct repl_pipeline_records records; /* of a tree */
    struct repl_spool spool;
    size_t adopted; /* segments that were in it already */
    /* since its disk is full */
    bool space_known;     /* these two */
    uint64_t space_bytes; /* that were free then */
    int64_t space_ns;     /* when that was looked at */
    uint64_t lost_logged; /* points, of the pipeline's lost_points */
    unsigned checks_out;
    struct volume_batch *batches;
    uint32_t reads_out; /* of all batches */
    struct repl_timer timer, report_timer, reopen_timer, stop_timer, fail_timer;
    struct repl_error late_failure; /* of fail_timer */

    /* rounds */
    struct repl_tracker *tracker; /* NULL: untracked says why */
    enum repl_track_origin origin;
    char untracked[REPL_TRACK_CAUSE_SIZE];
    struct repl_syncer *syncer;
    bool syncing;
    struct repl_timer counters_timer, audit_timer;
    struct repl_hold *hold;           /* NULL: points are cut in windows alone */
    bool holding;                     /* asked for, and not released yet */
    struct repl_source_hold *held_by; /* with the others of its group; NULL: not so */
    int64_t stall_max_ns;             /* the longest that writers have waited for a freeze */

    /* of a tree: looking for changes, or whether there are any */
    struct repl_job tree_job;
    bool tree_out;
    bool tree_gathered; /* and what it found waits for the checkpoint that is under way */
    bool tree_alone;    /* what that leads to is this volume's alone: no group waits for it */
    struct repl_tree_found tree_found;
    bool tree_files; /* the round is cut per file */
    bool tree_same;
    uint64_t tree_unstable; /* files, where it is not (struct repl_write_counters) */
    bool tree_comparing;    /* what has been heard is being looked through: not added to */
    struct repl_poll tree_poll;
    struct repl_timer tree_timer; /* until when it is not listened: many events become one */
    int64_t tree_begin_ns;
    int64_t tree_scan_ns; /* when it was last looked at everywhere (the loop's clock) */
    bool files_logged, unstable_logged; /* of what volume_tree_log says */
    uint64_t tree_mounts;               /* directories that were left out, as it was last said */
    uint64_t tree_changes;   /* seen since it was opened: what its rounds are compared by */
    uint32_t tree_reads_out; /* batches that are being read */
    repl_result tree_result;
    struct repl_error tree_err;

    /* of a tree that is read from snapshots */
    enum volume_snapshot snapshot;
    struct repl_job snapshot_job;
    int64_t snapshot_begin_ns, snapshot_end_ns; /* what the point's times are */
    repl_result snapshot_result;
    struct repl_error snapshot_err;

    /* state and checkpoint */
    struct repl_job state_job, checkpoint_job;
    bool state_out, checkpoint_out;
    struct repl_source_state state; /* being written */
    repl_result state_result, checkpoint_result;
    struct repl_error state_err, checkpoint_err;

    /* the link: segments, one other request of the pipeline's at a time, and reports beside it */
    struct volume_send sends[2];
    struct repl_request link, report;
    bool link_out, report_out, recover_out;
    struct repl_buffer link_body, report_body;
    int64_t link_sent_ns, report_sent_ns;
    struct repl_welcome welcome;
    struct repl_job head_job; /* its head is looked for among the past ones */
    bool head_out, head_remembered;
    repl_result head_result;
    struct repl_error head_err;
    struct repl_recover_job *recover;
    struct repl_coalesce_job *coalesce;       /* NULL: none is under way */
    struct repl_pipeline_action coalesce_due; /* as soon as all of the spool is written */
    struct repl_dedup *dedup;
    /* the names of the pool's chunks */
    struct repl_request names;
    bool names_out, names_more; /* asked for; there is another page to be asked for */
    bool names_mine;            /* it is this volume's turn to ask for those of names_pool */
    uint64_t names_pool;
    uint64_t names_after;  /* of the page that was asked for, or is next */
    uint64_t names_taken;  /* so far */
    uint64_t names_left;   /* worth being asked for */
    int64_t names_due_ns;  /* the loop's clock */
    int64_t names_hold_ns; /* nothing is read before it; 0: nothing waits */
    bool names_comparing;  /* when it was last looked */
    /* what is damaged at the site */
    struct repl_request resend;
    bool resend_out;
    int64_t resend_due_ns;   /* the loop's clock, as the next */
    int64_t resend_taken_ns; /* when the site wanted any last; 0: it has not */
    int64_t full_taken_ns;   /* when it wanted all; 0: it has not */
    int supply_fd;           /* the supply being sent */
    uint64_t supply_size, supply_at;

    uint64_t rate_bytes; /* sent when the rate was last looked at */
    int64_t rate_ns;
    double rate; /* bytes a second, smoothed */
    enum repl_state logged;
};

/* --- source_volume.c ------------------------------------------------------------------------- */

const char *volume_name(const struct repl_source_volume *v);
/* The device or directory, as configured; how large it, or its space, is. */
const char *volume_path(const struct repl_source_volume *v);
uint64_t volume_size(const struct repl_source_volume *v);
bool volume_is_up(const struct repl_source_volume *v);
/* Does what there is to do, after an event. */
void volume_pump(struct repl_source_volume *v);
/* The same, soon. */
void volume_wake(struct repl_source_volume *v);
void volume_fail(struct repl_source_volume *v, const struct repl_error *err);
/* Something of segment number could not be written. */
void volume_spool_failed(struct repl_source_volume *v, uint64_t number, repl_result result,
                         const struct repl_error *err);
/* While the spool's disk is full: looks whether there is room again. */
void volume_space_look(struct repl_source_volume *v);
void volume_close_if_drained(struct repl_source_volume *v);
/* What has left since the volume was opened, as far as libcurl has it; and what is built and has
 * not. */
uint64_t volume_sent_bytes(const struct repl_source_volume *v);
uint64_t volume_unsent_bytes(const struct repl_source_volume *v);

/* --- source_round.c -------------------------------------------------------------------------- */

REPL_RESULT volume_rounds_new(struct repl_source_volume *v, struct repl_error *err);
void volume_rounds_free(struct repl_source_volume *v);
/* The device's tracker; on a worker. Without one each round compares the whole volume. */
void volume_tracker_open(struct repl_source_volume *v);
/* Into the pipeline, which has just been made. */
void volume_tracker_start(struct repl_source_volume *v);
/* Nothing of a round goes on but what volume_rounds_idle waits for. */
void volume_rounds_cancel(struct repl_source_volume *v);
bool volume_rounds_idle(const struct repl_source_volume *v);
bool volume_batches_run(struct repl_source_volume *v);
void volume_sync(struct repl_source_volume *v);
/* What a round is opened and closed with. */
REPL_RESULT volume_counters_begin(struct repl_source_volume *v, struct repl_write_counters *out,
                                  struct repl_error *err);
REPL_RESULT volume_counters_end(struct repl_source_volume *v, struct repl_write_counters *out,
                                struct repl_error *err);
void volume_marks_take(struct repl_source_volume *v);
void volume_round_open(struct repl_source_volume *v);
void volume_round_close(struct repl_source_volume *v);
void volume_audit(struct repl_source_volume *v, int64_t delay_ns);
void volume_repair(struct repl_source_volume *v);
void volume_settle(struct repl_source_volume *v, enum repl_settle settle);

/* --- source_hold.c --------------------------------------------------------------------------- */

REPL_RESULT volume_hold_new(struct repl_source_volume *v, struct repl_error *err);
/* By itself; the pipeline is told. */
void volume_quiesce(struct repl_source_volume *v);
/* Of itself or of its group; does nothing where there is no hold. */
void volume_resume(struct repl_source_volume *v);

/* --- source_tree.c --------------------------------------------------------------------------- */

/* What is opened of a tree in place of a device; on a worker. */
REPL_RESULT volume_tree_open(struct repl_source_volume *v, struct repl_error *err);
void volume_tree_close(struct repl_source_volume *v);
void volume_tree_records(struct repl_source_volume *v, struct repl_pipeline_records *out);
void volume_tree_round_open(struct repl_source_volume *v);
void volume_tree_round_close(struct repl_source_volume *v);
/* For a group, what these two begin with: looks for what has changed, which is in the pipeline when
 * it is not busy any more; and whether anything has since. */
void volume_tree_look(struct repl_source_volume *v);
void volume_tree_compare(struct repl_source_volume *v);
bool volume_tree_is_busy(const struct repl_source_volume *v);
/* What a round is opened and closed with, when it is not busy. */
struct repl_write_counters volume_tree_counters(const struct repl_source_volume *v);
/* Begins to listen; ends. */
void volume_tree_start(struct repl_source_volume *v);
void volume_tree_cancel(struct repl_source_volume *v);
/* Says when points begin to be cut per file, and end to be. */
void volume_tree_log(struct repl_source_volume *v);
/* A checkpoint is over: what was found may be taken over now. */
void volume_tree_follow(struct repl_source_volume *v);
/* Reads a batch; done goes on with it on the loop's thread. */
void volume_tree_batch_read(struct volume_batch *batch, repl_job_fn *done);

/* --- source_snapshot.c ----------------------------------------------------------------------- */

/* In the place of a freeze: begin ends in repl_pipeline_quiesced, end in resumed. */
void volume_snapshot_begin(struct repl_source_volume *v);
void volume_snapshot_end(struct repl_source_volume *v);
/* Something that may have read from it has ended. */
void volume_snapshot_follow(struct repl_source_volume *v);

/* --- source_link.c --------------------------------------------------------------------------- */

void volume_hello_send(struct repl_source_volume *v);
/* In its turn or ahead of it (ship.h). */
void volume_segment_send(struct repl_source_volume *v, uint64_t number, uint64_t offset,
                         bool ahead);
void volume_segment_drop(struct repl_source_volume *v, uint64_t number);
/* Whether it is whole in the spool. */
void volume_segment_check(struct repl_source_volume *v, uint64_t number);
/* The chunks of segment number that the site said it lacks. */
void volume_supply(struct repl_source_volume *v, uint64_t number);
/* For struct repl_dedup_options. */
void volume_dedup_moved(void *context, uint64_t number, repl_result result,
                        const struct repl_error *err);
void volume_supply_made(void *context, int fd, uint64_t size,
                        const struct repl_segment_header *header, repl_result result,
                        const struct repl_error *err);
/* More of segment number can be sent; 0: of whichever is. */
void volume_send_resume(struct repl_source_volume *v, uint64_t number);
/* Ends what is not in flight any more, as the ship has it. */
void volume_sends_settle(struct repl_source_volume *v);
void volume_recover(struct repl_source_volume *v, const struct repl_head *from,
                    const struct repl_head *head);
void volume_link_cancel(struct repl_source_volume *v);

/* --- source_report.c ------------------------------------------------------------------------- */

/* The report timer: says how the volume fares. */
void volume_report(struct repl_timer *timer);

/* --- source_names.c -------------------------------------------------------------------------- */

/* The volume has been opened. */
void volume_names_start(struct repl_source_volume *v);
/* Asks for them, if it is time and the link is up. */
void volume_names_look(struct repl_source_volume *v);
/* The index may have taken a page over. */
void volume_names_follow(struct repl_source_volume *v);
/* Whether reading waits for them. */
bool volume_names_hold(const struct repl_source_volume *v);
void volume_names_cancel(struct repl_source_volume *v);

/* --- source_resend.c ------------------------------------------------------------------------- */

/* The site has answered a hello. */
void volume_resend_greeted(struct repl_source_volume *v);
/* Asks for the list, if it is time and the link is up. */
void volume_resend_look(struct repl_source_volume *v);
void volume_resend_cancel(struct repl_source_volume *v);

#endif
