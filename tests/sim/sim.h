/*
 * A source and a site in one process, from one seed: fake clock, network, disks
 * and block device around the code of common/ that ships.
 *
 *   sim_clock     time, events in order, random choices
 *   sim_disk      files that survive a power cut only as far as they were synced
 *   sim_device    the volume with its cache, who writes to it, and the kernel's counters
 *   sim_tracker   what the tracking programs do, and what they overlook
 *   sim_guard     who freezes the filesystem or runs the command
 *   sim_net       requests between a source and the site, and what befalls them
 *   sim_capture   the shell around struct repl_pipeline: rounds, marks, proofs
 *   sim_source    the rest of it: durability, link, lives
 *   sim_spool     what lies in the spool, over its lives, and is merged there
 *   sim_supply    chunks sent by name only, and what is done about those the site lacks
 *   sim_site      the shell around struct repl_journal and the commit sequence
 *   sim_replica   the site's live copy
 *   sim_check     what must be true, and the one place that says it is not
 *   sim_world     which faults a seed has, when they strike, and how it must end
 *
 * Everything is a function of the seed: no address, time or environment of the
 * process has a say. Each seed draws which classes of faults it has and how
 * often, so that rare combinations get runs of their own.
 */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cursor.h"
#include "base/ensure.h"
#include "journal/journal.h"
#include "pipeline.h"
#include "segment/segment_reader.h"
#include "unit/random.h"

struct sim;
struct sim_source;

#define SIM_MS     INT64_C(1000000)
#define SIM_SECOND (1000 * SIM_MS)

/* Pages of the largest volume, growth included. */
#define SIM_PAGES_MAX 352u

/* --- what is counted ------------------------------------------------------------------------- */

#define SIM_COUNTS(X)                                                                              \
    X(seeds, "seeds run")                                                                          \
    X(writes, "device writes")                                                                     \
    X(growths, "device growths")                                                                   \
    X(fulls, "fulls asked for behind the first")                                                   \
    X(fulls_whole, "of these, that became a point")                                                \
    X(points, "points cut")                                                                        \
    X(parts, "parts without a point")                                                              \
    X(torn, "rounds torn by a write")                                                              \
    X(torn_small, "torn ones of few pages")                                                        \
    X(read_again, "runs read again into parked batches")                                           \
    X(windows, "points cut in a window")                                                           \
    X(frozen, "points cut in a freeze")                                                            \
    X(commands, "points cut between commands")                                                     \
    X(audits, "audits passed")                                                                     \
    X(shortfalls, "shortfalls found")                                                              \
    X(repairs, "shortfalls repaired")                                                              \
    X(degradations, "trackings no longer trusted")                                                 \
    X(continued, "trackings continued after a crash")                                              \
    X(swaps, "touched bitmaps swapped")                                                            \
    X(flushes, "device flushes")                                                                   \
    X(fua_writes, "FUA writes")                                                                    \
    X(claims, "idle claims checked")                                                               \
    X(commits, "segments committed")                                                               \
    X(references, "chunks sent by name only")                                                      \
    X(missing, "segments that lacked chunks")                                                      \
    X(supplies, "supplies taken in")                                                               \
    X(supplied, "chunks supplied")                                                                 \
    X(acks, "acknowledgements received")                                                           \
    X(restores, "restores checked")                                                                \
    X(replicas, "replicas checked")                                                                \
    X(adopted, "segments of an earlier life taken over")                                           \
    X(merges, "runs of spooled segments merged")                                                   \
    X(checkpoints, "checkpoints")                                                                  \
    X(resumes, "uploads resumed")                                                                  \
    X(aheads, "uploads begun ahead of their turn")                                                 \
    X(aheads_taken, "of these, taken in while the one before was made durable")                    \
    X(aheads_failed, "of these, in vain")                                                          \
    X(duplicates_answered, "duplicates acknowledged again")                                        \
    X(recoveries, "recoveries")                                                                    \
    X(restarts, "chains begun anew")                                                               \
    X(forks, "clones refused as a fork")                                                           \
    X(damaged, "uploads refused as damaged")                                                       \
    X(lost_requests, "fault: requests lost")                                                       \
    X(lost_answers, "fault: answers lost")                                                         \
    X(slow_messages, "fault: messages much delayed")                                               \
    X(duplicate_requests, "fault: requests duplicated")                                            \
    X(cut_uploads, "fault: uploads cut off")                                                       \
    X(flipped, "fault: uploads altered on the way")                                                \
    X(spool_rotten, "fault: segments rotten in the spool")                                         \
    X(spool_checks, "segments checked in the spool")                                               \
    X(spool_lost, "points lost with the spool")                                                    \
    X(link_downs, "fault: link down")                                                              \
    X(source_crashes, "fault: source process crashed")                                             \
    X(source_power_cuts, "fault: source power cut")                                                \
    X(source_stops, "source stopped in order")                                                     \
    X(site_crashes, "fault: site process crashed")                                                 \
    X(commit_crashes, "fault: site crashed within a commit")                                       \
    X(site_power_cuts, "fault: site power cut")                                                    \
    X(site_wipes, "fault: site lost everything")                                                   \
    X(spool_damages, "fault: spooled segments damaged")                                            \
    X(write_failures, "fault: writes failed")                                                      \
    X(sync_failures, "fault: syncs failed")                                                        \
    X(disk_full, "fault: disk full")                                                               \
    X(read_failures, "fault: device reads failed")                                                 \
    X(completions_overlooked, "fault: completions overlooked")                                     \
    X(submissions_overlooked, "fault: submissions overlooked")                                     \
    X(both_overlooked, "fault: both overlooked")                                                   \
    X(flushes_overlooked, "fault: flushes overlooked")                                             \
    X(hangs, "fault: writes hung for longer than they should")                                     \
    X(ranges_lost, "fault: ranges not marked whole")                                               \
    X(trackers_lost, "fault: trackers lost")                                                       \
    X(freezes_failed, "fault: freezes and commands failed")                                        \
    X(freezes_lost, "fault: freezes and commands ended early")                                     \
    X(caches_switched, "fault: write cache switched on or off")                                    \
    X(pages_reverted, "unflushed pages lost")                                                      \
    X(sectors_lost, "unsynced sectors lost")                                                       \
    X(source_steps, "fault: source's clock set")                                                   \
    X(site_steps, "fault: site's clock set")                                                       \
    X(stale_names, "fault: chunks wrongly taken for known")                                        \
    X(rotten, "fault: committed files rotten")                                                     \
    X(rot_refused, "rotten restores refused")

struct sim_counts {
#define SIM_COUNT_FIELD(name, text) uint64_t name;
    SIM_COUNTS(SIM_COUNT_FIELD)
#undef SIM_COUNT_FIELD
};

/* --- planted bugs ---------------------------------------------------------------------------- */

/* Breaches of the contract that the core's headers lay upon a shell, one at a time, to see that the
 * checkers notice: name, the checkers of which one must, what is done wrong. */
#define SIM_BUGS(X)                                                                                \
    X(ACK_BEFORE_LOG, "ack-before-log", "history",                                                 \
      "the site acknowledges before the log record is synced")                                     \
    X(SKIP_FILE_SYNC, "skip-file-sync", "restore",                                                 \
      "the site publishes a segment it has not synced")                                            \
    X(SKIP_DIRECTORY_SYNC, "skip-directory-sync", "restore",                                       \
      "the site does not sync the directory it published a segment into")                          \
    X(RETRY_FAILED_SYNC, "retry-failed-sync", "restore",                                           \
      "a sync that failed is tried again, and the second success believed")                        \
    X(RELEASE_EARLY, "release-early", "liveness",                                                  \
      "the source sends a segment's end before the state that names it is durable")                \
    X(AHEAD_EARLY, "ahead-early", "liveness",                                                      \
      "what is sent ahead of its turn is remembered only in its turn")                             \
    X(DIGESTS_AT_SEND, "digests-at-send", "restore claim",                                         \
      "the source takes digests over when a segment is sent, not when it is acknowledged")         \
    X(CHECKPOINT_EARLY, "checkpoint-early", "restore claim",                                       \
      "the source says the digest table is durable before it is")                                  \
    X(FORGET_NOTHING, "forget-nothing", "restore claim",                                           \
      "the source recovers without forgetting what lies behind the checkpoint")                    \
    X(REPLICA_EARLY, "replica-early", "replica",                                                   \
      "the replica's reached point is recorded before its data is synced")                         \
    X(SUPPLY_NOT_SYNCED, "supply-not-synced", "restore",                                           \
      "the site counts on the chunks of a supply it has not synced")                               \
    X(ADOPT_BLIND, "adopt-blind", "restore claim",                                                 \
      "a spooled segment is taken over without the digests of its pages")                          \
    X(MERGE_BLIND, "merge-blind", "liveness",                                                      \
      "a run of the spool is given up for a merged segment that was not verified")                 \
    X(FAILED_READ, "failed-read", "restore claim",                                                 \
      "a batch that could not be read is handed in as if it had been")                             \
    X(COUNTERS_AFTER, "counters-after", "cut restore claim",                                       \
      "the write counters of a round's end are those of its begin")                                \
    X(EXCHANGE_FIRST, "exchange-first", "cut claim",                                               \
      "the marks are taken before the counters of the round's begin are read")                     \
    X(CLOCK_LAST, "clock-last", "cut claim",                                                       \
      "the clock of a round's begin is read after the marks were taken")                           \
    X(READ_EARLY, "read-early", "cut", "a batch is said to have been read before it has")          \
    X(PARKED_STALE, "parked-stale", "cut",                                                         \
      "what was written since is not read again into a parked batch")                              \
    X(CLEAR_LATE, "clear-late", "cut restore claim",                                               \
      "the marks are copied when a round begins, and cleared when it ends")                        \
    X(STALE_SAMPLE, "stale-sample", "cut liveness",                                                \
      "an audit is given samples from before the round")                                           \
    X(REPAIR_NOTHING, "repair-nothing", "cut",                                                     \
      "what was submitted lately is not read in a repair")                                         \
    X(TOUCHED_OLD, "touched-old", "cut", "only the active touched bitmap is read in a repair")     \
    X(SWAP_EARLY, "swap-early", "cut", "the touched bitmaps are swapped before it is due")         \
    X(SWAP_HUNG, "swap-hung", "cut restore claim",                                                 \
      "the touched bitmaps are swapped while a write hangs for longer than it should")             \
    X(COUNT_LATE, "count-late", "cut restore claim", "a submission is counted after its mark")     \
    X(SETTLE_ALL, "settle-all", "cut restore claim",                                               \
      "settling forgets everything that was taken, unsafe pages too")                              \
    X(RECOVER_NOTHING, "recover-nothing", "cut restore claim",                                     \
      "what was taken and not settled is not read after a crash")                                  \
    X(FUA_UNCOUNTED, "fua-uncounted", "cut", "the counters know nothing of FUA writes")            \
    X(MARKS_UNCOUNTED, "marks-uncounted", "cut", "the counters know nothing of marks")             \
    X(CACHE_ASSUMED, "cache-assumed", "cut",                                                       \
      "a write-through disk is taken for one with a volatile cache")                               \
    X(RESUMED_BLIND, "resumed-blind", "cut",                                                       \
      "a freeze that has ended by itself is said to have held")

enum sim_bug {
    SIM_BUG_NONE,
#define SIM_BUG_ENUM(id, name, checker, text) SIM_BUG_##id,
    SIM_BUGS(SIM_BUG_ENUM)
#undef SIM_BUG_ENUM
        SIM_BUG_COUNT
};

/* --- clock, events, chance ------------------------------------------------------------------- */

/* One of an actor's lives ends with its crash; what it had scheduled dies with it. */
struct sim_life {
    uint64_t number;
};

typedef void sim_event_fn(void *actor, uint64_t argument, void *payload);
/* Frees a payload that is not delivered; NULL: it has none. */
typedef void sim_drop_fn(void *payload);

struct sim_event {
    int64_t at_ns;
    uint64_t order;
    const struct sim_life *life;
    uint64_t life_number;
    sim_event_fn *call;
    void *actor;
    uint64_t argument;
    void *payload;
    sim_drop_fn *drop;
};

struct sim_queue {
    struct sim_event *events; /* a heap */
    size_t count, capacity;
    uint64_t order;
};

void sim_after(struct sim *sim, int64_t delay_ns, const struct sim_life *life, sim_event_fn *call,
               void *actor, uint64_t argument, void *payload, sim_drop_fn *drop);
/* Runs the next event, not later than until_ns; false: there was none, and it is until_ns now. */
bool sim_step(struct sim *sim, int64_t until_ns);
void sim_queue_fini(struct sim_queue *queue);

uint64_t sim_random(struct sim *sim, uint64_t limit);
bool sim_chance(struct sim *sim, unsigned permille);
/* Between low and high, small values as likely as large ones. */
int64_t sim_span(struct sim *sim, int64_t low_ns, int64_t high_ns);
void *sim_alloc(size_t size);

/* --- disk ------------------------------------------------------------------------------------ */

#define SIM_SECTOR    512u
#define SIM_NAME_SIZE 40u

struct sim_inode {
    struct repl_buffer cached;  /* what a read returns */
    struct repl_buffer durable; /* what a power cut leaves */
    uint8_t *dirty;             /* a byte a sector: cached only */
    size_t dirty_size;
};

struct sim_name {
    char text[SIM_NAME_SIZE];
    struct sim_inode *inode;
};

struct sim_directory {
    struct sim_name *names;
    size_t count, capacity;
};

/* A change of the directory that is not synced: link to under inode, unlink from; each if set. */
struct sim_rename {
    char from[SIM_NAME_SIZE], to[SIM_NAME_SIZE];
    struct sim_inode *inode;
};

struct sim_disk {
    struct sim *sim;
    struct sim_directory cached, durable;
    struct sim_rename *renames;
    size_t rename_count, rename_capacity;
    struct sim_inode **inodes;
    size_t inode_count, inode_capacity;
    bool full;
};

void sim_disk_init(struct sim_disk *disk, struct sim *sim);
void sim_disk_fini(struct sim_disk *disk);
/* NULL: no such file. */
struct sim_inode *sim_disk_open(const struct sim_disk *disk, const char *name);
struct sim_inode *sim_disk_open_durable(const struct sim_disk *disk, const char *name);
struct sim_inode *sim_disk_create(struct sim_disk *disk, const char *name);
void sim_disk_rename(struct sim_disk *disk, const char *from, const char *to);
void sim_disk_unlink(struct sim_disk *disk, const char *name);
REPL_RESULT sim_disk_write(struct sim_disk *disk, struct sim_inode *inode, uint64_t offset,
                           const void *data, size_t size, struct repl_error *err);
void sim_disk_truncate(struct sim_inode *inode, uint64_t size);
/* After a failure the pages count as clean, whatever became of them. */
REPL_RESULT sim_disk_sync(struct sim_disk *disk, struct sim_inode *inode, struct repl_error *err);
REPL_RESULT sim_disk_sync_directory(struct sim_disk *disk, struct repl_error *err);
void sim_disk_power_cut(struct sim_disk *disk);
void sim_disk_wipe(struct sim_disk *disk);
/* All of from's durable content. */
void sim_disk_copy(struct sim_disk *disk, const struct sim_disk *from);

/* --- device ---------------------------------------------------------------------------------- */

/* A page's content is named by a tag, 0 being zeros. */
void sim_page_fill(uint64_t tag, void *out, size_t size);

#define SIM_WRITE_PAGES (REPL_CHUNK_PAGES * 2)

/* How far a write is. */
enum sim_write_step {
    SIM_WRITE_SUBMIT, /* the tracker counts it, looks which bitmap is the active one, marks it */
    SIM_WRITE_LOOK,
    SIM_WRITE_TOUCH,
    SIM_WRITE_QUEUE, /* it is on its way to the driver */
    SIM_WRITE_START, /* it is in flight from here on */
    SIM_WRITE_LAND,
    SIM_WRITE_MARK, /* the tracker again */
    SIM_WRITE_COUNT,
    SIM_WRITE_ACCOUNT, /* the kernel's own counters */
    SIM_WRITE_NOTIFY,  /* who wrote learns of it: it is complete */
    SIM_WRITE_END,
};

struct sim_write {
    enum sim_write_step step;
    enum sim_write_step hangs_after; /* SIM_WRITE_END: it does not */
    int64_t hang_ns;                 /* for how long */
    unsigned touched;                /* which bitmap it is marked in */
    uint32_t page, count, landed;
    bool discard, fua;
    bool overlooked[2], lost[2]; /* by the tracker: completion, submission */
    uint64_t tags[SIM_WRITE_PAGES];
    uint64_t numbers[SIM_WRITE_PAGES]; /* of the versions, once landed */
};

/* What a page holds or held; numbers grow. */
struct sim_version {
    uint64_t number, tag;
};

struct sim_landing {
    uint32_t page;
    struct sim_version version;
};

struct sim_device {
    struct sim *sim;
    struct sim_life life; /* ends with a power cut */
    uint64_t size;
    uint32_t page_count;
    struct sim_version landed[SIM_PAGES_MAX];  /* what a read returns */
    struct sim_version stable[SIM_PAGES_MAX];  /* what completed writes left */
    struct sim_version durable[SIM_PAGES_MAX]; /* what a power cut leaves, or something newer */
    uint64_t older[SIM_PAGES_MAX];             /* something it once held, to return to */
    bool busy[SIM_PAGES_MAX];                  /* a write is on its way to it */
    uint32_t writes_out;
    bool write_back;              /* a volatile cache: completed is not durable */
    bool blocked;                 /* who writes waits */
    struct sim_landing *landings; /* all since the last power cut */
    size_t landing_count, landing_capacity;
    uint64_t versions;
    struct repl_audit_kernel kernel; /* what the kernel has counted */
    struct sim_tracker *tracker;     /* NULL: there is none */
};

void sim_device_init(struct sim_device *device, struct sim *sim, uint64_t size);
void sim_device_fini(struct sim_device *device);
/* One write, or none if its range is busy. */
void sim_device_write(struct sim_device *device);
void sim_device_flush(struct sim_device *device);
void sim_device_power_cut(struct sim_device *device);
/* device becomes what a copy of from would be. */
void sim_device_copy(struct sim_device *device, const struct sim_device *from);

/* --- tracker --------------------------------------------------------------------------------- */

enum sim_side { SIM_COMPLETION, SIM_SUBMISSION };

/* In the kernel: it outlives the source, but no power cut. */
struct sim_tracker {
    struct sim *sim;
    bool pinned;
    bool landed[SIM_PAGES_MAX];
    bool touched[2][SIM_PAGES_MAX];
    unsigned active; /* of these */
    int64_t swapped_ns;
    bool taken[SIM_PAGES_MAX];
    struct repl_audit_counts counts;
    uint64_t fua_writes, marks;
    struct repl_track_record saved;
    bool has_saved;
};

/* Begins anew. */
void sim_tracker_begin(struct sim_tracker *tracker, struct sim *sim);
/* What the programs do. */
void sim_tracker_mark(struct sim_tracker *tracker, const struct sim_write *write,
                      enum sim_side side);
void sim_tracker_count(struct sim_tracker *tracker, const struct sim_write *write,
                       enum sim_side side);
/* What the source does. */
void sim_tracker_exchange(struct sim_tracker *tracker, struct repl_bitmap *into);
void sim_tracker_or_touched(struct sim_tracker *tracker, struct repl_bitmap *into);
void sim_tracker_recover(struct sim_tracker *tracker, struct repl_bitmap *into);
void sim_tracker_settle(struct sim_tracker *tracker,
                        const struct repl_bitmap *unsafe[REPL_PIPELINE_UNSAFE], bool all);
void sim_tracker_swap(struct sim_tracker *tracker, const struct repl_audit *audit);

/* --- guard ----------------------------------------------------------------------------------- */

enum sim_guard_state {
    SIM_GUARD_FREE,
    SIM_GUARD_ASKED,
    SIM_GUARD_ON,
    SIM_GUARD_LOST, /* it has ended by itself, and the source does not know */
    SIM_GUARD_ENDING,
};

struct sim_guard {
    enum sim_guard_state state;
    uint64_t hold; /* the number of the last one asked for */
};

void sim_guard_quiesce(struct sim_source *source);
void sim_guard_resume(struct sim_source *source);
/* The source has died. */
void sim_guard_free(struct sim_source *source);

/* --- what a point may hold ------------------------------------------------------------------- */

/* The device during one round. */
struct sim_round {
    uint64_t size;
    uint32_t page_count;
    struct sim_version open_landed[SIM_PAGES_MAX], open_stable[SIM_PAGES_MAX];
    struct sim_version close_landed[SIM_PAGES_MAX], close_durable[SIM_PAGES_MAX];
    size_t landing_end;       /* of the device's landings, when it was closed */
    uint64_t open_hold, hold; /* the guard's, when it was opened and closed; 0: none */
};

/* --- net ------------------------------------------------------------------------------------- */

enum sim_message_type {
    SIM_HELLO,
    SIM_PUT, /* a piece of a segment */
    SIM_REPORT,
    SIM_LIST,
    SIM_SUPPLY,
    SIM_WELCOME,
    SIM_ACK,
    SIM_REFUSAL,
    SIM_EXTENTS,
    SIM_MISSING,
};

struct sim_extent {
    uint64_t offset, length;
};

struct sim_message {
    enum sim_message_type type;
    struct sim_source *source;
    uint64_t request; /* the source's count; ghosts are numbered apart */
    union {
        struct repl_hello hello;
        struct repl_welcome welcome;
        struct repl_ack ack;
        struct repl_refusal refusal;
        struct repl_report report;
        struct {
            struct repl_head from, head;
        } list;
        struct {
            uint64_t to_seq;
            uint32_t part;
            uint64_t offset; /* of this piece */
            bool first, last;
            bool ahead; /* of its turn */
        } put;
    };
    /* PUT: of the segment; SUPPLY: all of it; EXTENTS: struct sim_extent each; MISSING: struct
     * repl_digest each */
    struct repl_buffer bytes;
};

/* How the network treats a seed's messages; permille. */
struct sim_net {
    unsigned request_loss, answer_loss, slow, duplicate, cut_upload, flip;
    int64_t latency_ns;
    int64_t down_until_ns;
};

struct sim_message *sim_message_new(enum sim_message_type type, struct sim_source *source,
                                    uint64_t request);
void sim_message_drop(void *message);
/* Delivered not before *not_before_ns, which moves to when it is. */
void sim_net_request(struct sim *sim, struct sim_message *message, int64_t *not_before_ns);
void sim_net_answer(struct sim *sim, struct sim_message *message);
bool sim_net_is_down(const struct sim *sim);

/* --- source ---------------------------------------------------------------------------------- */

#define SIM_BATCHES 2

struct sim_spooled {
    uint64_t number;
    bool released, rotten;
    struct repl_buffer bytes;
};

/* The one request a source has out. */
struct sim_request {
    bool active;
    uint64_t id;
    enum sim_message_type type;
    uint64_t number; /* PUT */
    uint64_t offset, sent;
    bool ahead; /* begun so */
    bool first_sent, last_sent;
    uint64_t cut_at; /* bytes that pass; the rest never arrives */
    uint64_t ghost;  /* 0: none; else the duplicate's id */
    int64_t arrival_ns, ghost_arrival_ns;
    int64_t deadline_ns; /* when it is given up; INT64_MAX: not while it is being fed */
};

enum sim_reading_state { SIM_READING_IDLE, SIM_READING_UNDER_WAY, SIM_READING_DONE, SIM_REDUCING };

struct sim_kept;
struct sim_site;

struct sim_reading {
    enum sim_reading_state state;
    struct repl_batch *batch;
    struct repl_batch_read reads[REPL_BATCH_PAGES];
    uint32_t read_count;
    uint32_t done; /* pages read */
    bool failed;
    uint64_t tags[REPL_BATCH_PAGES]; /* what they held */
};

struct sim_source {
    struct sim *sim;
    bool is_clone;
    bool up;
    bool doomed; /* dies before the next action */
    struct sim_life life;
    int64_t clock_ns; /* minus true time */
    struct sim_device device;
    struct sim_tracker tracker;
    struct sim_disk disk;
    struct repl_page_digest digests[SIM_PAGES_MAX];         /* the mapped file */
    struct repl_page_digest durable_digests[SIM_PAGES_MAX]; /* as a power cut leaves it */
    uint64_t read_tags[SIM_PAGES_MAX]; /* what was read last and went into a segment */

    struct sim_spooled *spool; /* not synced */
    size_t spool_count, spool_capacity;
    struct sim_kept **kept; /* beside it */
    size_t kept_count;

    /* a life's */
    struct repl_pipeline pipeline;
    uint64_t generation; /* of the state read or written last */
    struct sim_request request;
    struct sim_request ahead;   /* a PUT ahead of its turn, which becomes the request with that */
    uint64_t report_id;         /* of the last report */
    struct repl_buffer missing; /* struct repl_digest each, as the site said last */
    struct sim_reading readings[SIM_BATCHES];
    struct sim_guard guard;
    struct sim_round round;
    uint64_t opening, openings; /* the one under way, 0: none is; of all its lives */
    int64_t open_ns;            /* the clock of the round being opened */
    struct repl_write_counters counters;
    uint64_t audit_number; /* of the last sample asked for */
    struct repl_audit_sample sample;
    bool wake_set;
    int64_t wake_ns;
    int64_t verified_until_ns; /* the idle claim that has been checked */
    struct repl_digest verified_digest;
};

void sim_source_init(struct sim_source *source, struct sim *sim, uint64_t size);
void sim_source_fini(struct sim_source *source);
void sim_source_start(struct sim_source *source);
void sim_source_crash(struct sim_source *source, bool power);
void sim_source_answer(void *source, uint64_t argument, void *message);
/* What is due is done; called after each event. */
void sim_source_run(struct sim_source *source);
/* sim_event_fn: the same. */
void sim_source_wake(void *source, uint64_t argument, void *payload);
int64_t sim_source_now(const struct sim_source *source);
/* Dies now. Only where nothing of it is in the middle of something. */
void sim_source_fall(struct sim_source *source);
/* source becomes what a copy of from's disks would be. */
void sim_source_clone(struct sim_source *source, const struct sim_source *from);

/* --- spool ----------------------------------------------------------------------------------- */

/* NULL: not a byte of it was taken. */
struct sim_spooled *sim_spool_find(const struct sim_source *source, uint64_t number);
/* repl_sink_fn. */
REPL_RESULT sim_spool_sink(void *source, const void *data, size_t size, struct repl_error *err);
/* All of it, and of those before it, may be sent. */
void sim_spool_release(struct sim_source *source, uint64_t number);
void sim_spool_drop(struct sim_source *source, uint64_t number);
void sim_spool_crash(struct sim_source *source, bool power);
/* Into the pipeline, which has just been made. */
void sim_spool_load(struct sim_source *source, const struct repl_digest *checkpoint,
                    uint64_t known_size);
void sim_spool_coalesce(struct sim_source *source, const struct repl_pipeline_action *action);
void sim_spool_fini(struct sim_source *source);

/* --- capture --------------------------------------------------------------------------------- */

/* Before the first action: what is tracked, and since when. */
void sim_capture_start(struct sim_source *source, uint64_t known_size);
void sim_capture_sync(struct sim_source *source);
void sim_capture_open(struct sim_source *source);
void sim_capture_close(struct sim_source *source);
void sim_capture_audit(struct sim_source *source, int64_t delay_ns);
void sim_capture_repair(struct sim_source *source);
void sim_capture_settle(struct sim_source *source, enum repl_settle settle);
void sim_capture_commit(struct sim_source *source);
/* Batches to fill and batches to hand in. */
void sim_capture_run(struct sim_source *source);
void sim_capture_grow(struct sim_source *source);
void sim_capture_crash(struct sim_source *source);

/* --- what is sent by name -------------------------------------------------------------------- */

bool sim_chunk_known(void *source, const struct repl_digest *name);
REPL_RESULT sim_supply_keep(void *source, uint64_t number, const struct repl_batch *batch,
                            uint64_t *kept, struct repl_error *err);
void sim_supply_drop(struct sim_source *source, uint64_t number);
/* The bytes of a chunk that is kept for the segment; NULL: it is not. */
const uint8_t *sim_supply_find(const struct sim_source *source, uint64_t number,
                               const struct repl_digest *name);
uint64_t sim_supply_bytes(const struct sim_source *source, uint64_t number);
void sim_supply_damage(struct sim_source *source);
void sim_supply_fini(struct sim_source *source);
void sim_supply_build(struct sim_source *source, const struct repl_ship_segment *segment,
                      struct repl_buffer *out);
/* A file's name for one more supply. */
void sim_supply_name(struct sim_site *site, char name[SIM_NAME_SIZE]);
/* All that are on the site's disk. */
struct repl_segment **sim_supplies_open(const struct sim_site *site, bool durable, size_t *count);
void sim_supplies_free(struct repl_segment **segments, size_t count);

/* --- site ------------------------------------------------------------------------------------ */

struct sim_upload {
    struct sim_inode *staged;
    bool second_name;
    bool ended;     /* all of it is here */
    uint64_t owner; /* the request whose bytes are taken */
    struct sim_source *owner_source;
};

struct sim_site {
    struct sim *sim;
    bool up;
    struct sim_life life;
    int64_t clock_ns;
    struct sim_disk disk;
    uint64_t supplies_named;

    /* a life's */
    struct repl_journal journal;
    uint64_t log_end;
    bool log_suspect; /* a sync of it failed; known as long as the page cache lives */
    struct sim_upload upload, ahead; /* as the journal's */
    struct repl_log_record commit;
    struct repl_buffer chunks; /* struct sim_chunk, of committed segments and supplies */
    /* the replica */
    bool replica_busy;
    struct repl_replica_state replica;
    uint64_t replica_generation;
};

void sim_site_init(struct sim_site *site, struct sim *sim);
void sim_site_fini(struct sim_site *site);
void sim_site_start(struct sim_site *site);
void sim_site_crash(struct sim_site *site, bool power);
void sim_site_wipe(struct sim_site *site);
void sim_site_request(void *site, uint64_t argument, void *message);
int64_t sim_site_now(const struct sim_site *site);
void sim_segment_name(uint64_t to_seq, uint32_t part, char name[SIM_NAME_SIZE]);
bool sim_site_has_chunk(const struct sim_site *site, const struct repl_digest *name);

void sim_replica_start(struct sim_site *site);
void sim_replica_run(struct sim_site *site);
REPL_RESULT sim_replica_load(struct sim_site *site, bool durable, struct repl_replica_state *out,
                             uint64_t *generation);

/* repl_read_at_fn over a struct repl_buffer. */
REPL_RESULT sim_read_at(void *buffer, uint64_t offset, void *out, size_t size,
                        struct repl_error *err);

/* --- check ----------------------------------------------------------------------------------- */

/* What was read for a point. */
struct sim_point {
    struct repl_digest digest; /* of the segment that ends in it */
    bool of_clone;
    uint64_t size;
    uint32_t page_count;
    uint64_t tags[SIM_PAGES_MAX];
};

struct sim_check {
    struct sim_point *points;
    size_t point_count, point_capacity;
    struct repl_log_commit *history; /* all that was ever committed and not wiped */
    size_t history_count, history_capacity;
    bool begun; /* there is a point in it */
};

void sim_check_fini(struct sim_check *check);
/* A point has been cut. */
void sim_check_cut(struct sim_source *source, const struct repl_digest *digest);
/* The point has been read once more and was not cut, as the one before says it all. */
void sim_check_cut_empty(struct sim_source *source, const struct repl_digest *digest);
/* The segment that ended in the last point is part of another one now. */
void sim_check_merged(struct sim_source *source, const struct repl_digest *last,
                      const struct repl_digest *merged);
void sim_check_commit(struct sim *sim, const struct repl_log_commit *commit);
/* The log as a restarted site has read it. */
void sim_check_log(struct sim *sim, const struct repl_log_commit *commits, size_t count);
void sim_check_restore(struct sim *sim, size_t history_index);
void sim_check_restore_some(struct sim *sim, unsigned count);
void sim_check_restore_all(struct sim *sim);
/* The volume is said to have been the point when the round was opened. */
void sim_check_claim(struct sim_source *source, const struct repl_digest *digest);
void sim_check_report(struct sim_source *source, const struct repl_report *report);
void sim_check_replica(struct sim *sim);
/* NULL where nothing is missing; else what is. */
const char *sim_check_converged(struct sim *sim);
void sim_check_rot(struct sim *sim);
_Noreturn void sim_fail(struct sim *sim, const char *checker, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* --- world ----------------------------------------------------------------------------------- */

struct sim_options {
    uint64_t seed;
    bool verbose;
    enum sim_bug bug;
};

/* How often a seed's faults strike. */
struct sim_faults {
    unsigned disk_write, disk_sync, device_read; /* permille of calls */
    unsigned commit_crash;                       /* permille of steps */
    unsigned settle_crash;
    unsigned completion, submission, both, flush, range; /* overlooked by the tracker, of each */
    unsigned hang;                                       /* of writes */
    unsigned tracker_lost;                               /* of starts */
    unsigned quiesce, hold;                              /* failed; ended early */
};

struct sim {
    struct sim_options options;
    struct sim_counts *counts;
    struct random random;
    int64_t now_ns; /* true time */
    struct sim_queue queue;
    struct sim_faults faults;
    bool calm; /* faults are over */
    bool atomic_writes;
    bool deduplicate;
    bool tracked;
    bool grouped;
    bool command_stops;  /* whoever writes, while it holds */
    unsigned fua, flush; /* permille of writes that are, or are followed by one */
    unsigned chain;      /* permille of writes and flushes that another write waits for */
    unsigned slow_work;  /* permille of a worker's tasks */
    enum repl_quiesce quiesce;
    unsigned batch_count;
    uint64_t parked_pages;
    struct repl_audit_limits audit;
    int64_t gap_ns;        /* between the steps of a completion */
    int64_t pace_ns;       /* between those of the source */
    int64_t reduce_ns;     /* the longest time a worker takes */
    int64_t io_timeout_ns; /* by when a write that does not hang has ended */
    unsigned stale_names;  /* permille of chunks the site lacks that a source takes for known */
    int64_t interval_ns;
    uint64_t spool_limit_bytes;
    struct sim_life world;     /* never ends */
    struct sim_life world_net; /* ends for what is under way to a site that is wiped */
    bool cloned;
    uint64_t next_tag;
    uint64_t next_request;
    struct sim_net net;
    struct sim_source source, clone;
    struct sim_site site;
    struct sim_check check;
    struct repl_frame_coder *coder; /* these two from seed to seed */
    struct repl_batch *batches;     /* SIM_BATCHES for each source */
};

void sim_run_seed(struct sim *sim);
void sim_trace(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
