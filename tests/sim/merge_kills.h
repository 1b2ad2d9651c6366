/*
 * A site that merges on a disk of the simulator, and dies after each of the disk's
 * operations: not drawn, but each of them in turn.
 *
 *   merge_kills         what happens, and who dies when
 *   merge_kills_check   what must hold whoever died
 *   merge_kills_source  the sources: points, their segments, supplies
 *   merge_kills_tree    the objects of a tree
 *   merge_kills_site    the site: commits, removals, checkpoints, a start
 *   merge_kills_pool    what it shares: chunks by name, supplies
 *   merge_kills_merge   a merge of it, step by step
 *   merge_kills_index   its index, where it has one
 *   merge_kills_store   the store as the index sees it
 *
 * The site is a shell around the code of common/ that ships: the same decisions in the same order
 * as the agent's (journal/merge_order.h), and what a volume is found to be at a start
 * (agent/site/site_load.c). Without an index a chunk is where any file that is named has it; with
 * one, where that says, and it is the agent's own.
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
#define KILLS_VOLUMES    3u /* of one pool: two block volumes and a tree */
#define KILLS_SUPPLIES   64u
#define KILLS_FOUND      64u
#define KILLS_WAIT       (600 * SIM_SECOND) /* of a supply, for the segment that it came for */
#define KILLS_OBJECTS    12u                /* of a tree, from its root on */
#define KILLS_NAMES      4u
#define KILLS_FILE_PAGES 4u

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
    X(CHECKPOINT_NOT_SYNCED, "checkpoint-not-synced", "the new log gets its name before its sync") \
    X(POOL_FORGOTTEN, "pool-forgotten", "the log is written anew without the volume's pool")       \
    X(POOL_UNASKED, "pool-unasked", "a merge drops what only other volumes refer to")              \
    X(SUPPLY_NOT_SYNCED, "supply-not-synced", "a supply is published that was not synced")         \
    X(SUPPLY_UNASKED, "supply-unasked", "a supply goes that only other volumes refer to")          \
    X(SUPPLY_NO_GRACE, "supply-no-grace", "a supply goes as soon as nothing refers to it")         \
    X(SUPPLY_NOT_ANEW, "supply-not-anew", "nothing has needed a supply since before it was found") \
    X(SUPPLY_EARLY, "supply-early", "a supply does not wait for the segment that it came for")     \
    X(SUPPLY_UNNOTED, "supply-unnoted", "a start does not note the supplies that are there")       \
    X(OBJECTS_UNSEEN, "objects-unseen", "what changed of a tree's objects touches no tile")        \
    X(FORGOTTEN_LATE, "forgotten-late", "a supply goes before the index forgets it")               \
    X(FORGOTTEN_NOT_SYNCED, "forgotten-not-synced", "a supply goes that the index may know again") \
    X(LOST_FOR_WHOLE, "lost-for-whole", "a commit takes an index that was made anew for whole")    \
    X(TILES_ALIKE, "tiles-alike", "a base made anew where it ends leaves tiles of the same names") \
    X(REFILL_OF_BEFORE, "refill-of-before", "an index made anew meanwhile counts as filled again")

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

/* Chunks that a segment refers to and the site lacked, in a file of their own. */
struct kills_supply {
    char name[SIM_NAME_SIZE];
    uint64_t to_seq;
    int64_t idle_ns; /* nothing has needed it since; 0: something does */
};

struct kills_world;
struct kills_volume;
struct repl_segment_id;
struct repl_site;
struct repl_store;
struct site_volume;

/* Where the index says that a chunk lies. */
struct kills_place {
    struct kills_volume *v;
    char name[SIM_NAME_SIZE];
    bool supply;
    uint32_t frame, frame_offset;
};

/* What dies with the process, and a disk: a directory of its own. */
struct kills_volume {
    struct kills_world *w;
    enum repl_volume_kind kind;
    struct sim_disk disk;
    struct repl_journal journal;
    struct repl_chain chain;
    uint64_t log_end, last_merge;
    struct kills_removal removals[KILLS_REMOVAL];
    size_t removal_count;
    struct kills_supply supplies[KILLS_SUPPLIES];
    size_t supply_count;
    bool busy; /* a change of it is on its way */
    /* with an index: */
    struct site_volume *site; /* what the agent's code knows of it */
    bool refilling;
    struct kills_place found[KILLS_FOUND]; /* supplies, by the commit on its way */
    size_t found_count;
};

struct kills_world {
    struct sim *sim; /* the disk's chances */
    struct repl_frame_coder *coder;
    enum kills_bug bug;
    struct repl_retention policy;
    struct kills_volume volumes[KILLS_VOLUMES];
    size_t volume_count;
    bool merging;     /* one at a time */
    uint64_t takings; /* how often chunks of the pool have gone */
    int64_t now_ns;
    void (*between)(struct kills_world *w);   /* between the steps of a merge: life goes on */
    void (*gap)(struct kills_world *w);       /* and of a commit, */
    void (*meanwhile)(struct kills_world *w); /* and while the index is filled again */
    struct repl_site *site;                   /* with an index; NULL: without */
    uint64_t merges, tiled, forwarded,
        needless; /* of bases, of their tiles, nothing but what goes */
    uint64_t discards, checkpoints, missing;
    uint64_t supplies, supplies_gone, looked_again;
    uint64_t remakes, refills; /* of the index */
};

/* Numbers, so that two are the same when their bytes are. */
struct kills_object {
    uint64_t kind; /* enum repl_node_kind */
    uint64_t ended, mtime, pages;
    uint64_t children[KILLS_NAMES];
    uint64_t places[KILLS_FILE_PAGES]; /* plus 1; 0: a hole */
};

struct kills_tree {
    struct kills_object objects[KILLS_OBJECTS];
};

struct kills_point {
    int64_t time_ns;
    uint64_t tags[KILLS_PAGES]; /* what the pages held */
    struct kills_tree tree;     /* of a tree */
};

struct kills_source {
    struct kills_volume *v;
    uint64_t seq, acked;
    struct kills_point *points; /* by seq */
    struct repl_digest head;
    /* the point on its way: what it writes, the chunk among that, its segment */
    bool pending, sending, guess;
    uint64_t tags[KILLS_PAGES], chunk, pattern;
    struct repl_buffer records; /* of a tree's objects */
    struct repl_buffer bytes;
    struct repl_digest digest;
    uint64_t record_number; /* after the last checkpoint */
};

/* The disk has done something, and may have been the last to: by merge_kills.c. */
void kills_here(struct kills_world *w, const char *what);
/* Something that must hold does not. */
void kills_fail(struct kills_world *w, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

/* --- merge_kills_source.c -------------------------------------------------------------------- */

void kills_source_init(struct kills_source *source, struct kills_volume *v);
void kills_source_fini(struct kills_source *source);
/* The names of all whole chunks that any of them ever sends. */
size_t kills_source_chunks(const struct repl_digest **out);
/* The site has come back, and says where it stands. */
void kills_source_greet(struct kills_source *source);
/* The next point is on its way. */
void kills_point_begin(struct kills_source *source, struct random *random);
/* The site takes it; with chunks that it lacks, after supplies. pause: behind some of these nobody
 * writes for a while. */
void kills_point_send(struct kills_source *source, struct random *random, void (*pause)(void));

/* --- merge_kills_tree.c ---------------------------------------------------------------------- */

/* Changes some objects, and says so in records; or says all there is. */
void kills_tree_change(struct kills_tree *tree, struct random *random, struct repl_buffer *records);
void kills_tree_say(const struct kills_tree *tree, struct repl_buffer *records);
/* What the records of a segment make of it. */
void kills_tree_apply(struct kills_tree *tree, const struct repl_segment *segment,
                      struct repl_frame_coder *coder);

/* --- merge_kills_site.c ---------------------------------------------------------------------- */

/* As a start finds it. */
void kills_site_start(struct kills_world *w);

/* Stale: it may be sent again later. */
enum kills_verdict { KILLS_COMMITTED, KILLS_LACKING, KILLS_STALE };
/* A segment of a source: with chunks that are not there it is not taken. */
enum kills_verdict kills_commit(struct kills_volume *v, const struct repl_buffer *bytes);
/* Records, appended at once and applied. segments: that they bring, NULL those that bring none; or
 * NULL. */
void kills_log(struct kills_volume *v, struct repl_log_record *records, size_t count,
               struct repl_segment *const *segments);
/* Files whose grace is over. */
void kills_remove_due(struct kills_volume *v);
void kills_remove_later(struct kills_volume *v, const char *name, int64_t due_ns);
/* The log, written anew. */
void kills_checkpoint(struct kills_volume *v);

/* A file under a name of its own, written but not synced. */
struct sim_inode *kills_stage(struct kills_volume *v, const char *name,
                              const struct repl_buffer *bytes);
void kills_sync(struct kills_volume *v, struct sim_inode *inode, const char *what);
void kills_rename(struct kills_volume *v, const char *from, const char *to);
void kills_sync_names(struct kills_volume *v);
void kills_unlink(struct kills_volume *v, const char *name);

void kills_name(uint64_t to_seq, uint32_t part, uint64_t merge, char name[SIM_NAME_SIZE]);
void kills_entry_name(const struct repl_log_piece *entry, char name[SIM_NAME_SIZE]);
/* An entry's segment; it has to be there. The caller frees it. */
struct repl_segment *kills_open(struct kills_volume *v, const struct repl_log_piece *entry);
/* A file that has to be there and to be a segment. */
struct repl_segment *kills_open_name(struct kills_volume *v, const char *name);
/* Every byte of it is what it has to be. */
void kills_verify(struct kills_world *w, const struct repl_segment *segment);

/* --- merge_kills_pool.c ---------------------------------------------------------------------- */

/* Whether they share chunks, as their logs say. */
bool kills_is_pool(const struct kills_volume *v, const struct kills_volume *of);
/* What the pool's files are: the volume's chain, in order, then those of the others, supplies last.
 */
struct kills_file {
    struct kills_volume *v;
    const struct repl_log_piece *entry; /* NULL: a supply */
    char name[SIM_NAME_SIZE];
    struct repl_segment *segment;
};
struct kills_file *kills_pool_open(struct kills_volume *v, size_t *count);
void kills_pool_close(struct kills_file *files, size_t count);

/* Whether one of the segments lists the chunk; and where. */
bool kills_lists(const struct repl_segment *segment, const struct repl_digest *name,
                 const struct repl_chunk_entry **where);
/* Whether the manifest refers to it by name. */
bool kills_refers(struct kills_world *w, const struct repl_segment *segment,
                  const struct repl_digest *name);
/* Whether a chunk that the segment refers to is nowhere in the pool. */
bool kills_is_lacking(struct kills_volume *v, const struct repl_segment *segment);

/* Takes a supply in; false: nobody lacks what it has, and it is not kept. */
bool kills_supply(struct kills_volume *v, uint64_t to_seq, const struct repl_buffer *bytes);
/* A start has found a file: whether it is a supply, which is noted then. */
bool kills_supply_note(struct kills_volume *v, const char *name);
/* Those that nothing has needed for long enough go. */
void kills_supplies_visit(struct kills_volume *v);
/* The volume's segment has come, and whatever it found in a supply has that waited for anew. */
void kills_supplies_found(struct kills_volume *v, const char *name);
/* Whether something refers to a chunk that is in this file and no other. */
bool kills_supply_is_needed(struct kills_volume *v, const char *name);

/* --- merge_kills_index.c --------------------------------------------------------------------- */

/* The site's process begins, or ends. */
void kills_index_begin(struct kills_world *w);
void kills_index_end(struct kills_world *w);
/* A volume is found at a start: the index comes up to its log. */
void kills_index_load(struct kills_volume *v);
/* What has been logged. */
void kills_index_log(struct kills_volume *v, const struct repl_log_record *records, size_t count,
                     struct repl_segment *const *segments);
/* And has been applied. */
void kills_index_logged(struct kills_volume *v);
/* And was a merge, which has dropped these. */
void kills_index_merged(struct kills_volume *v, const struct repl_digest *dropped, size_t count);
/* Fills it again, if the volume lacks something of it and nothing else is done with that. */
void kills_index_pump(struct kills_volume *v);
/* A sync, of what has come since the last; where it fails, the index is made anew. */
void kills_index_tick(struct kills_world *w, bool fails);
/* The next transaction does not fit the disk. */
void kills_index_fail_next(struct kills_world *w);

bool kills_index_is_behind(const struct kills_volume *v);
/* Whether all references within the volume's pool are known. */
bool kills_index_pool_is_known(struct kills_volume *v);
uint64_t kills_index_generation(const struct kills_world *w);
bool kills_index_place(struct kills_volume *v, const struct repl_digest *name,
                       struct kills_place *out);
/* Whether what is found may be gone. */
bool kills_index_is_stale(struct kills_volume *v);
/* Whether a chunk that the segment refers to is nowhere; supplies in which some are are noted. */
bool kills_index_lacks(struct kills_volume *v, const struct repl_segment *segment);
/* Whether a segment of the pool does that is none of those entries of the volume that go. */
bool kills_index_is_referred(struct kills_volume *v, const struct repl_digest *name,
                             const struct repl_log_piece *without, const bool *goes, size_t count);
/* A supply has come. false: the index could not take it. */
bool kills_index_supply(struct kills_volume *v, const char *name,
                        const struct repl_segment *supply);
bool kills_index_supply_is_needed(struct kills_volume *v, const char *name,
                                  const struct repl_segment *supply);
/* It is to go. false: it stays. */
bool kills_index_forget(struct kills_volume *v, const char *name,
                        const struct repl_segment *supply);
/* What it says of what the volume refers to. files: as kills_pool_open gives them. */
void kills_index_check(struct kills_volume *v, const struct kills_file *files, size_t count);

/* --- merge_kills_store.c --------------------------------------------------------------------- */

struct repl_store *kills_store(struct kills_world *w);
struct kills_volume *kills_volume_of(struct kills_world *w, const char *name);
/* What a file is called, by what the agent knows it as; and back: false if it is no segment. */
void kills_id_name(const struct repl_segment_id *id, char name[SIM_NAME_SIZE]);
bool kills_id_parse(const char *name, struct repl_segment_id *id);

/* --- merge_kills_check.c --------------------------------------------------------------------- */

/* A page's content. */
void kills_page_fill(uint64_t tag, uint8_t *out);
/* All that must hold of the history, of which so many points were acknowledged. */
void kills_check_history(const struct kills_source *source);
/* Nothing lies about but what is named. */
void kills_check_nothing_left(struct kills_volume *v);
/* The site has died: what the disk held is looked at anew. */
void kills_check_anew(void);

/* --- merge_kills_merge.c --------------------------------------------------------------------- */

/* Gives up what is due and merges a run that is. false: there was none. */
bool kills_visit(struct kills_volume *v);

#endif
