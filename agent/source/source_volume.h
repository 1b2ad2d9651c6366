/*
 * One protected volume: the pipeline of common/pipeline.h driven by the loop.
 */
#ifndef REPL_AGENT_SOURCE_VOLUME_H
#define REPL_AGENT_SOURCE_VOLUME_H

#include "config/config.h"
#include "control/status.h"
#include "level.h"
#include "link/client.h"
#include "loop/loop.h"
#include "repl/error.h"
#include "source/source_group.h"

struct repl_source_volume;
struct repl_chunk_index;

struct repl_source_volume_options {
    struct repl_loop *loop;
    struct repl_pool *openers; /* what opening a volume takes, which may be long */
    struct repl_client *client;
    struct repl_client_options client_options; /* for a blocking connection of its own */
    const struct repl_config *config;          /* outlives the volume */
    const struct repl_config_volume *volume;
    struct repl_chunk_index *chunks; /* of all volumes; outlives the volume; NULL: there is none */
    const struct repl_level *level;  /* of compression; outlives the volume; NULL: the least */
    struct repl_source_group *group; /* outlives the volume; NULL: cut on its own */
    int64_t rpo_ms;                  /* the volume's, or the least of its group */
    void (*stopped)(void *context);  /* after repl_source_volume_stop, once */
    void *context;
};

/* Never fails for what may be different later (device missing, state damaged, disk full): the
 * volume is then FAILED, says why, and is tried again every few seconds. */
REPL_RESULT repl_source_volume_new(const struct repl_source_volume_options *options,
                                   struct repl_source_volume **out, struct repl_error *err);
/* A last checkpoint, then the stopped callback; bounded in time. */
void repl_source_volume_stop(struct repl_source_volume *volume);
/* After stopped. */
void repl_source_volume_free(struct repl_source_volume *volume);

/* Bytes that have left since it was opened, and that are built and could be sent if the link took
 * them. */
void repl_source_volume_flow(const struct repl_source_volume *volume, uint64_t *sent,
                             uint64_t *unsent);
void repl_source_volume_status(const struct repl_source_volume *volume,
                               struct repl_volume_status *out);

/* What the control socket asks about points: "VOLUME" is answered with the time from which on a
 * point has all that is written now, {"since_ns": N}; "VOLUME N" asks for it again, and hurries it,
 * until the answer has "there": true, with "unchanged_seq" as in repl_pipeline_has_since; before
 * that, "state" and "cause" say how the volume fares. As repl_control_fn; of the request, only what
 * comes behind the volume's name. */
json_t *repl_source_volume_point(struct repl_source_volume *volume, const char *since,
                                 struct repl_error *err);
/* Has all of it sent once more: {"begun": B}, false where that is under way already. */
json_t *repl_source_volume_full(struct repl_source_volume *volume, struct repl_error *err);

#endif
