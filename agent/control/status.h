/*
 * What `repl status` shows of a volume, on either side: filled in by the agent
 * or the site, carried as JSON over the control socket, printed by cli/verb_status.c.
 */
#ifndef REPL_AGENT_STATUS_H
#define REPL_AGENT_STATUS_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "format/log_record.h"
#include "repl/error.h"
#include "repl/format.h"

#define REPL_STATUS_SCHEMA 1 /* of the JSON, docs/formats/status.md */

struct repl_volume_status {
    char name[REPL_VOLUME_NAME_SIZE + 1];
    char device[256]; /* agent: the device; site: the replica */
    enum repl_state state;
    char cause[REPL_WIRE_TEXT_MAX + 1];
    char remedy[REPL_WIRE_TEXT_MAX + 1];
    int64_t rpo_ms;          /* the promise; 0: not known */
    int64_t lag_ms;          /* age of what the site could restore now; -1: nothing */
    struct repl_point point; /* the last one the site has; seq 0: none */
    int64_t unchanged_until_ns;
    uint64_t size;
    uint64_t backlog_bytes; /* built and not acknowledged */
    int64_t catch_up_ms;    /* until the backlog is gone at the present rate; -1: not known */
    uint64_t done_bytes, total_bytes; /* of a seed or resync; 0 of 0: none */
    bool clock_known;
    int64_t clock_offset_ms; /* the site's clock minus the source's */
    int64_t clock_ahead_ms;  /* site: how far the last point lies in the future; 0: it does not */
    char trouble[32]; /* site: the latest jump (journal/trouble.h), by name; "": none lately */
    uint64_t trouble_seq, trouble_before_seq; /* with which it showed; the last before it */
    /* site only */
    uint64_t replica_seq;      /* the point the replica has reached; 0: none */
    bool replica_applying;     /* being brought forward just now */
    int64_t replica_behind_ms; /* since there is something it has not reached; 0: nothing */
    char replica_problem[REPL_WIRE_TEXT_MAX + 1]; /* why it cannot follow; "": it can */
    char index_problem[REPL_WIRE_TEXT_MAX + 1];   /* why the index is not complete; "": it is */
    bool replica_on;
    bool tree;                  /* the volume is a directory tree, and its replica a directory */
    uint64_t stored_bytes;      /* its history, and uploads of it */
    uint64_t space_limit_bytes; /* 0: none */
    int64_t unverified_ms;      /* for how long some stored byte has not been read; -1: not known */
    uint64_t damaged_segments;  /* that were found not to be what they should be */
    uint64_t repaired_segments; /* since the start: that were put right */
    char damaged[256];          /* the first of them, and the points it is part of; "": none */
    bool merging_waits;         /* points are not merged before one of them is whole */
    /* counters since the process started */
    uint64_t points;         /* cut (agent), committed (site) */
    uint64_t bytes_changed;  /* agent: of pages found changed */
    uint64_t bytes_sent;     /* agent: acknowledged segments; site: received */
    uint64_t scrubbed_bytes; /* site: read of the store to see whether it is whole */
    uint64_t
        rounds_torn; /* agent: rounds that were no point, a write or a barrier fell into them */
    /* agent only */
    bool tracked;        /* else each round looks at all of it */
    char untracked[256]; /* why */
    uint64_t audits;     /* of the tracking, passed; since the start, as all that follow */
    uint64_t shortfalls; /* audits that found writes overlooked */
    uint64_t repairs;    /* of these, mended without a comparison */
    uint64_t degradations;
    uint64_t unstable_files; /* of a tree: in the last point, as they were read (epoch.h) */
    int64_t stall_max_ms;    /* the longest that writers waited for a freeze */
};

struct repl_status {
    bool site; /* else agent */
    char version[32];
    char name[256]; /* of the host */
    char io[16];    /* the loop's backend */
    int64_t time_ns;
    char clock_doubt[512];          /* site: why no points are given up; "": they are */
    char store_warning[512];        /* site: what is to be seen to of its store; "": nothing */
    uint64_t bandwidth_bytes_per_s; /* agent: that segments may take now; 0: no limit */
    uint64_t compression_level;     /* agent: of what is compressed now; 0: not known */
    /* site: all histories and uploads, what they may be (0: no limit); of the filesystem, what is
     * free and what stays so */
    uint64_t stored_bytes, space_limit_bytes, free_bytes, space_reserve_bytes;
    size_t volume_count;
    struct repl_volume_status *volumes;
};

json_t *repl_status_to_json(const struct repl_status *status);
/* Frees with repl_status_fini. */
REPL_RESULT repl_status_from_json(const json_t *json, struct repl_status *out,
                                  struct repl_error *err);
void repl_status_fini(struct repl_status *status);

#endif
