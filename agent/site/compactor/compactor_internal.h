/*
 * What the parts of the compactor share. Private to compactor/.
 */
#ifndef REPL_AGENT_COMPACTOR_INTERNAL_H
#define REPL_AGENT_COMPACTOR_INTERNAL_H

#include <stdatomic.h>

#include "journal/chain.h"
#include "journal/clock_guard.h"
#include "journal/merge_plan.h"
#include "journal/retention.h"
#include "site/compactor/compactor.h"
#include "site/compactor/merge_run.h"
#include "site/site_pacer.h"
#include "site/site_volume.h"

#define COMPACTOR_FAILED_MAX 32u

/* A run that could not be merged, for the time being (compactor_failures.c). */
struct compactor_failure {
    char volume[REPL_VOLUME_NAME_SIZE + 1]; /* "": none */
    uint64_t first_seq, to_seq;             /* of the segments it reads, and it ends with this */
    int64_t until_ns;                       /* monotonic */
    bool unreadable;                        /* by what it read */
    bool damaged;                           /* and by that segment, which is damaged: until */
    struct repl_segment_id segment;         /* it is not */
};

/* A run that is left alone. */
struct compactor_skip {
    uint64_t to_seq;     /* where it ends; 0: */
    uint64_t damaged_to; /* it has this segment in it, */
    uint64_t healed_seq; /* and ends before this point; 0: wherever it ends */
};

/* A file that nothing refers to any more. */
struct compactor_removal {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id id;
    int64_t due_ns; /* monotonic */
    bool unsure;    /* not before the volume's log is settled: it may name the file */
};

struct compactor_removals {
    struct compactor_removal *items; /* by due_ns */
    size_t first, count, room;
};

/* What is known of a segment that a merge has made (compactor_sweep.c). */
struct compactor_look {
    struct repl_segment_id id;
    uint64_t carried_bytes, dead_bytes;
    int64_t looked_ns; /* monotonic; 0: never */
};

/* The thread's, as long as the compactor. */
struct compactor_sweeps {
    int64_t every_ns; /* between looks at a segment */
    struct compactor_sweep {
        char volume[REPL_VOLUME_NAME_SIZE + 1];
        struct compactor_look *looks; /* by id */
        size_t count;
        uint64_t looked_merge; /* of what merges up to this one have made, and is not in there, it
                                  is known that it carries nothing */
    } * volumes;
    size_t count;
};

/* What a visit finds out and does; the thread's while it is out. */
struct compactor_visit {
    struct repl_job job;
    /* given */
    struct repl_index *index;
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    bool thin; /* points may be given up by now_ns */
    bool keep; /* who refers to chunks is not known just now: none is dropped */
    struct repl_retention policy;
    int64_t now_ns;
    uint64_t agreed_seq;  /* of which the source says that it knows of it */
    uint64_t reached_seq; /* behind it nothing is merged: the replica is there */
    uint64_t merge_number;
    atomic_bool *merging; /* true while a merge is made */
    struct compactor_skip skip[COMPACTOR_FAILED_MAX];
    size_t skip_count;
    struct compactor_sweeps *sweeps;
    struct site_patch *patch; /* heap; NULL: none */
    /* found */
    struct repl_chain chain;
    struct repl_merge merge;
    bool found;                    /* a merge is due, */
    bool more;                     /* and it may not be the only one */
    size_t first, read_first, end; /* of its run, in the chain; what is read of it, */
    bool reads;                    /* if anything is */
    bool *remade;         /* of a sweep: which of the run are made anew, if it is the base */
    uint64_t swept_bytes; /* that nothing refers to, about */
    struct site_merge_options options;
    struct site_merge_result result;
    repl_result outcome;
    struct repl_error err;
    struct site_pacer pacer;
};

/* Of a merge's dropped chunks: whether they may be, or that they are. */
struct compactor_dropped {
    struct repl_job job;
    void (*done)(struct site_compactor *c);
    bool referred; /* one is by now */
    repl_result result;
    struct repl_error err;
};

/* Another supply, of what is needed of one (compactor_supply_pack.c). */
struct compactor_pack {
    int fd;              /* of the staged file, if fd_open */
    bool fd_open, ready; /* to be published in the volume's turn */
    char path[PATH_MAX];
    uint64_t rate_bytes; /* a second; 0: as fast as can be */
    uint64_t size;
    struct repl_digest digest;
    struct repl_chunk_entry *chunks; /* heap */
    uint32_t chunk_count;
    struct repl_segment_id id; /* that it got */
};

/* A supply that is looked at, or goes. */
struct compactor_supply {
    struct repl_job job;
    struct site_volume *volume; /* NULL: none */
    struct repl_segment_id id;
    bool out;                           /* the look is on its thread */
    bool due;                           /* it may go, in the volume's turn, */
    bool in_turn;                       /* which it has */
    struct repl_chunk_entry *chunks;    /* that it has; heap, until it has been dealt with */
    uint32_t chunk_count, needed_count; /* those that are needed are the first */
    bool closed; /* it does not open: these are what it may have, and cannot be read */
    struct repl_segment_header header;
    struct compactor_pack pack;
    struct site_seen seen; /* where else they lie */
    struct site_pass pass;
    int64_t gate_since_ns; /* monotonic: it waits there */
    uint64_t generation;   /* of the index, when the turn began */
    repl_result result;
    struct repl_error err;
};

struct site_compactor {
    struct repl_site *site;
    struct repl_pool *pool;
    atomic_bool stop;
    atomic_bool merging;
    struct compactor_visit visit;
    int64_t visit_ns;          /* between visits of a volume with new points */
    uint64_t log_size_min;     /* below that a log is not written anew */
    bool out;                  /* the visit is on its thread */
    struct site_volume *waits; /* its merge waits for the volume's turn, or is being logged */
    bool logging;
    struct compactor_dropped dropped;
    struct site_pass pass;       /* at the gate of the volume's pool, if chunks are dropped, */
    struct site_leaving leaving; /* which are said here while the record is on its way */
    int64_t gate_wait_ns;        /* so long it is waited for; then others go before */
    int64_t gate_since_ns;       /* monotonic, as are these: since when it is; 0: it is not */
    int64_t gate_first_ns;       /* of this merge; 0: never */
    int64_t gate_again_ns;       /* not before this */
    uint64_t marks_seen;         /* of the volume, when the visit began */
    uint64_t generation;         /* of the index, then */
    struct repl_log_record *records;
    struct repl_index_record *indexed;
    size_t record_count;
    struct compactor_failure failures[COMPACTOR_FAILED_MAX];
    size_t next_failure;
    struct compactor_removals removals;
    struct repl_job removal_job;
    struct compactor_removal removing;
    repl_result removal_result;
    struct repl_error removal_err;
    bool removal_out;
    struct compactor_supply supply;
    int64_t supply_every_ns; /* between looks at one */
    struct compactor_sweeps sweeps;
    struct repl_clock_guard clock;
    int64_t clock_saved_ns; /* monotonic */
    char doubt[REPL_CLOCK_TEXT_SIZE];
};

/* compactor_visit.c: on the thread. */
void compactor_visit_work(struct repl_job *job);
void compactor_visit_fini(struct compactor_visit *visit);
/* Whether the run behind a point, up to another one, is left alone for now. */
bool compactor_visit_skips(const struct compactor_visit *visit, uint64_t after_seq,
                           uint64_t to_seq);

/* compactor_failures.c: on the loop. The merge of the visit could not be made. */
void compactor_failure_note(struct site_compactor *c, struct site_volume *v);
/* What a visit of the volume is to leave alone. */
void compactor_failures_list(struct site_compactor *c, const struct site_volume *v,
                             struct compactor_visit *visit);

/* compactor_sweep.c: on the thread. Where nothing else is to be merged: whether a part of the chain
 * is to be made anew, as too much of it is of no use. more: there may be others. */
REPL_RESULT compactor_sweep_find(struct compactor_visit *visit, struct repl_error *err);
/* Where nothing else is to be merged: the segment that the visit has a patch for, if it may be
 * merged by itself. */
REPL_RESULT compactor_patch_find(struct compactor_visit *visit, struct repl_error *err);
void compactor_sweeps_fini(struct compactor_sweeps *sweeps);

/* compactor_dropped.c: on the loop, in the volume's turn. done: at once if nothing was dropped. */
void compactor_dropped_look(struct site_compactor *c, void (*done)(struct site_compactor *c));
/* The merge is in the log. */
void compactor_dropped_forget(struct site_compactor *c, void (*done)(struct site_compactor *c));

/* compactor_remove.c: on the loop. */
void compactor_remove_later(struct site_compactor *c, const char *volume,
                            const struct repl_segment_id *id, int64_t due_ns, bool unsure);
void compactor_remove_due(struct site_compactor *c);

/* compactor_supplies.c: on the loop. */
/* Somebody has waited for long enough at the gate, since then: whether it is withdrawn. */
bool compactor_gate_withdraws(const struct site_compactor *c, struct site_pass *pass,
                              int64_t since_ns);
void compactor_supplies_tick(struct site_compactor *c);
/* What is kept of it while it is dealt with. */
void compactor_supply_fini(struct compactor_supply *supply);
/* The pack is in the place of the supply, or the result says why not. */
void compactor_supply_packed(struct site_compactor *c);
/* The volume is not busy. True: now it is. */
bool compactor_supplies_pump(struct site_compactor *c, struct site_volume *v);

/* compactor_supply_pack.c: on the loop. What has been looked at; packed is called when it is over.
 */
bool compactor_pack_is_due(const struct compactor_supply *supply);
void compactor_pack_begin(struct site_compactor *c);
/* In the volume's turn, which ends with it. */
void compactor_pack_publish(struct site_compactor *c);
void compactor_pack_fini(struct compactor_pack *pack);

/* checkpoint.c: on the loop. segments: that the volume has now. */
bool compactor_checkpoint_is_due(const struct site_compactor *c, const struct site_volume *volume,
                                 size_t segments);
void compactor_checkpoint_begin(struct site_volume *volume);

/* compactor_clock.c: on the loop. */
void compactor_clock_begin(struct site_compactor *c);
void compactor_clock_tick(struct site_compactor *c);

#endif
