/*
 * A site that merges on a disk of the simulator, and dies after each of the disk's
 * operations: not drawn, but each of them in turn.
 *
 *   merge_kills        what happens, and who dies when
 *   merge_kills_check  what must hold whoever died
 *   merge_kills_site   the site: commits, visits, removals, checkpoints, a start
 *   merge_kills_merge  a merge of it, step by step
 *
 * The site is a shell around the code of common/ that ships: the same decisions in the same order
 * as the agent's (journal/merge_order.h), and what a volume is found to be at a start
 * (agent/site/site_load.c). What it leaves out: the index, which can be made anew.
 */
#ifndef TESTS_SIM_MERGE_KILLS_H
#define TESTS_SIM_MERGE_KILLS_H

#include "journal/chain.h"
#include "journal/journal.h"
#include "journal/retention.h"
#include "sim.h"

#define KILLS_PAGES      64u
#define KILLS_SIZE       (KILLS_PAGES * REPL_PAGE_SIZE)
#define KILLS_TILE       REPL_CHUNK_SIZE /* of the base */
#define KILLS_GRACE      (60 * SIM_SECOND)
#define KILLS_REMOVAL    512u
#define KILLS_POINTS_MAX 1024u

/* Breaches of the contract, one at a time, to see that they are found: name, what is done wrong. */
#define KILLS_BUGS(X)                                                                              \
    X(SKIP_PIECE_SYNC, "skip-piece-sync", "a piece is published that was not synced")              \
    X(SKIP_NAME_SYNC, "skip-name-sync", "a piece's name is not made durable")                      \
    X(REMOVE_EARLY, "remove-early", "the run's files go before the log says so")                   \
    X(LOG_NOT_SYNCED, "log-not-synced", "a merge's records are not synced")                        \
    X(NO_GRACE, "no-grace", "the run's files go as soon as the log says so")                       \
    X(SKIP_LOOK, "skip-look", "chunks are not looked at once more before they are dropped")        \
    X(TAIL_KEPT, "tail-kept", "a start does not cut off a torn tail of the log")                   \
    X(GROUP_OPEN, "group-open", "a start takes the beginning of a group for all of it")            \
    X(LEFTOVERS_KEPT, "leftovers-kept", "a start does not note what is left over")                 \
    X(NUMBER_REUSED, "number-reused", "a merge gets the number of one that a crash cut short")     \
    X(CHECKPOINT_IN_PLACE, "checkpoint-in-place", "the log is written anew where it lies")         \
    X(CHECKPOINT_NOT_SYNCED, "checkpoint-not-synced", "the new log gets its name before its sync")

enum kills_bug {
    KILLS_BUG_NONE,
#define KILLS_BUG_ENUM(id, name, text) KILLS_BUG_##id,
    KILLS_BUGS(KILLS_BUG_ENUM)
#undef KILLS_BUG_ENUM
        KILLS_BUG_COUNT
};

struct kills_removal {
    char name[SIM_NAME_SIZE];
    int64_t due_ns;
};

/* What dies with the process, and its disk. */
struct kills_site {
    struct sim_disk disk;
    struct repl_journal journal;
    struct repl_chain chain;
    uint64_t log_end, last_merge;
    struct kills_removal removals[KILLS_REMOVAL];
    size_t removal_count;
};

struct kills_world {
    struct sim *sim; /* the disk's chances */
    struct repl_frame_coder *coder;
    enum kills_bug bug;
    struct repl_retention policy;
    struct kills_site site;
    int64_t now_ns;
    void (*between)(struct kills_world *w); /* called between the steps of a merge: life goes on */
    uint64_t merges, tiled, forwarded,
        needless; /* of bases, of their tiles, nothing but what goes */
    uint64_t discards, checkpoints, missing;
};

struct kills_point {
    int64_t time_ns;
    uint64_t tags[KILLS_PAGES]; /* what the pages held */
};

/* The disk has done something, and may have been the last to: by merge_kills.c. */
void kills_here(struct kills_world *w, const char *what);
/* Something that must hold does not. */
void kills_fail(struct kills_world *w, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

/* --- merge_kills_site.c ---------------------------------------------------------------------- */

/* As a start finds it. */
void kills_site_start(struct kills_world *w);
/* What the site has in its memory. */
void kills_site_forget(struct kills_site *site);

enum kills_verdict { KILLS_COMMITTED, KILLS_LACKING };
/* A segment of a source: with chunks that are not there it is not taken. */
enum kills_verdict kills_commit(struct kills_world *w, const struct repl_buffer *bytes);
/* Records, appended at once and applied. */
void kills_log(struct kills_world *w, struct repl_log_record *records, size_t count);
/* Files whose grace is over. */
void kills_remove_due(struct kills_world *w);
void kills_remove_later(struct kills_world *w, const char *name, int64_t due_ns);
/* The log, written anew. */
void kills_checkpoint(struct kills_world *w);

/* A file under a name of its own, written but not synced. */
struct sim_inode *kills_stage(struct kills_world *w, const char *name,
                              const struct repl_buffer *bytes);
void kills_sync(struct kills_world *w, struct sim_inode *inode, const char *what);
void kills_rename(struct kills_world *w, const char *from, const char *to);
void kills_sync_names(struct kills_world *w);
void kills_unlink(struct kills_world *w, const char *name);

void kills_name(uint64_t to_seq, uint32_t part, uint64_t merge, char name[SIM_NAME_SIZE]);
void kills_entry_name(const struct repl_log_piece *entry, char name[SIM_NAME_SIZE]);
/* An entry's segment; it has to be there. The caller frees it. */
struct repl_segment *kills_open(struct kills_world *w, const struct repl_log_piece *entry);
/* Every byte of it is what it has to be. */
void kills_verify(struct kills_world *w, const struct repl_segment *segment);
/* All of the chain. */
struct repl_segment **kills_open_all(struct kills_world *w);
void kills_close_all(struct repl_segment **segments, size_t count);

/* Whether one of the segments lists the chunk; and where. */
bool kills_lists(const struct repl_segment *segment, const struct repl_digest *name,
                 const struct repl_chunk_entry **where);
/* Whether the manifest refers to it by name. */
bool kills_refers(struct kills_world *w, const struct repl_segment *segment,
                  const struct repl_digest *name);

/* --- merge_kills_check.c --------------------------------------------------------------------- */

/* A page's content. */
void kills_page_fill(uint64_t tag, uint8_t *out);
/* All that must hold of the history, of which so many points were acknowledged. points: by seq. */
void kills_check_history(struct kills_world *w, const struct kills_point *points, uint64_t acked);
/* Nothing lies about but what is named. */
void kills_check_nothing_left(struct kills_world *w);
/* The site has died: what the disk held is looked at anew. */
void kills_check_anew(void);

/* --- merge_kills_merge.c --------------------------------------------------------------------- */

/* Gives up what is due and merges a run that is. false: there was none. */
bool kills_visit(struct kills_world *w);

#endif
