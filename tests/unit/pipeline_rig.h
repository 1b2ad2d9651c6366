/*
 * A volume's pipeline beside a device, a tracker and a site in memory: for the tests of the
 * pipeline. There is one world, and one rig in it, at a time.
 */
#ifndef TESTS_UNIT_PIPELINE_RIG_H
#define TESTS_UNIT_PIPELINE_RIG_H

#include "pipeline_internal.h"

#define MS         INT64_C(1000000)
#define SECOND     (1000 * MS)
#define START      (1000 * SECOND)
#define PAGES      40u
#define PAGES_MAX  1000u
#define PARKED     16u
#define BATCHES    4u
#define PLENTY     (1u << 30)
#define ACTION_MAX (REPL_PIPELINE_RECOVER + 1)

enum place { PLACE_IDLE, PLACE_OUT, PLACE_READ };

/* What outlives the agent: the disk, the tracker, the table's file and the site. */
struct world {
    struct repl_source_state state; /* as it is on disk */
    struct repl_page_digest digests[PAGES_MAX];
    struct repl_page_digest durable[PAGES_MAX]; /* the table, at its last checkpoint */
    uint8_t device[PAGES_MAX * REPL_PAGE_SIZE];
    struct repl_page_digest present[PAGES_MAX], site[PAGES_MAX];
    struct repl_head head; /* of the site */
    struct repl_write_counters counters;
    struct repl_audit_kernel kernel;
    struct repl_audit_counts counts;
    bool marked[PAGES_MAX], touched[PAGES_MAX];
    bool kept[PAGES_MAX]; /* taken from the tracker, and not settled yet */
    struct repl_track_record base;
    int64_t tracker_ns;
    bool missed; /* writes were, and were not made good yet */
};

/* A volume in memory, and a shell that does at once what it is told, unless a test holds it back;
 * but for the link, which each test plays itself. */
struct rig {
    struct repl_pipeline p;
    struct repl_batch batches[BATCHES];
    enum place places[BATCHES];
    uint64_t pages;
    int64_t now_ns;
    bool hold[ACTION_MAX], held[ACTION_MAX]; /* held: handed out, not answered */
    bool hold_reads, hold_reduced;
    bool read_fails, sink_fails, quiesce_fails, broken, grouped, others_torn, others_unproven;
    unsigned busy; /* samples, each with a write in its midst */
    unsigned count[ACTION_MAX], reduced;
    uint64_t pages_read;
    bool was_read[PAGES_MAX];
    struct repl_pipeline_action send, recover, supply, check;
    enum repl_settle settle;
    struct repl_source_state state_out;
    uint64_t released, dropped;
    bool keep_fails;
    uint64_t kept_number, acknowledged; /* of the last */
    uint32_t kept_references;
    uint32_t built_points; /* in the segment finished last */
};

/* What the tracker's two programs see of a write. */
enum seen { SEEN_NOT, SEEN_SUBMITTED, SEEN };

/* pages, parked_pages, spool_limit_bytes: 0 is PAGES, PARKED, PLENTY; base: of the tracker, if it
 * has one. */
struct setup {
    uint64_t pages, spool_limit_bytes, parked_pages;
    enum repl_quiesce quiesce;
    bool tracked;
    const struct repl_track_record *base;
};

extern struct world world;

/* --- the disk, and who writes to it */
void put(struct rig *rig, uint64_t page, uint8_t value); /* no tracker sees it */
void write_seen(struct rig *rig, uint64_t page, uint8_t value, enum seen seen);
void write_page(struct rig *rig, uint64_t page, uint8_t value);
void flush(void);
repl_result grow(struct rig *rig, uint64_t pages);

/* --- the shell. Whatever it does, no page that the site lacks may be forgotten. */
int64_t run(struct rig *rig); /* until it waits; until when, then */
void later(struct rig *rig, int64_t span_ns);
void answer(struct rig *rig, enum repl_pipeline_action_type type);
void let(struct rig *rig, enum repl_pipeline_action_type type); /* answered, and held no longer */
bool is_out(const struct rig *rig, uint64_t page);              /* in a batch */
struct repl_report report_of(struct rig *rig);
repl_result rig_sink(void *context, const void *data, size_t size, struct repl_error *err);

/* --- beginning and end */
struct rig *rig_new(const struct setup *setup); /* in a new world */
struct rig *rig_plain(void);
struct rig *rig_seeded_as(const struct setup *setup); /* and its first point acknowledged */
struct rig *rig_seeded(void);
struct rig *rig_tracked(enum repl_quiesce quiesce);                /* and seeded */
struct rig *rig_again(struct rig *rig, const struct setup *setup); /* in the same */
void table_put_back(void); /* a power cut, of which the table is as it was at its last checkpoint */
void stop_and_wait(struct rig *rig);
void rig_free(struct rig *rig);

/* --- the site */
void welcome(struct rig *rig, const struct repl_head *head); /* NULL: it does not know the volume */
/* The answer is lost. Of a full's first part, what it had before is of no use any more. */
void site_commits(struct rig *rig);
struct repl_head acknowledge(struct rig *rig); /* what is on its way */
void acknowledge_all(struct rig *rig);
void assert_site_is_device(const struct rig *rig);
void assert_none_lost(const struct rig *rig); /* were the agent to end here */

#endif
