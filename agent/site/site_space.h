/*
 * How much room there is for what comes: three bounds, at each of which segments
 * are refused before they are received, and cut off while they are.
 *
 *   of a volume   its space_limit: log, segments and uploads of it
 *   of the site   space_limit: those of all volumes, supplies under way too
 *   of the disk   space_reserve: what stays free of the filesystem
 *
 * and the disk itself, where the kernel or the store says that it is full. Only
 * what brings bytes of the source is refused: hello, report, names, reading and
 * merging go on. A bound that has been reached counts as reached until a part of
 * it is free again, so that a source is not let in for each file that goes.
 *
 * Private to site/. Everything belongs to the loop's thread.
 */
#ifndef REPL_AGENT_SITE_SPACE_H
#define REPL_AGENT_SITE_SPACE_H

#include "control/status.h"
#include "loop/loop.h"
#include "repl/error.h"

struct repl_site;
struct site_volume;

/* What a call found full, so what it takes to see that it is not any more. */
enum site_space_full {
    SITE_SPACE_FITS,
    SITE_SPACE_LOG_FULL,  /* a record could not be logged */
    SITE_SPACE_DATA_FULL, /* a segment could not be written */
};

struct site_space {
    uint64_t staged_bytes; /* of all uploads and supplies under way */
    uint64_t taken_bytes;  /* of such, since the start */
    bool full;             /* the limit of all has been reached */
    /* the filesystem, as it was at the last look */
    bool looked;
    uint64_t free_bytes, disk_bytes;
    uint64_t taken_before; /* taken_bytes then */
    bool short_of_reserve;
    bool looking;
    struct repl_timer timer;
    struct repl_job job;
    /* the job's */
    uint64_t found_free_bytes, found_disk_bytes, found_before;
    repl_result result;
    struct repl_error err;
};

/* Blocks for a first look at the filesystem. */
REPL_RESULT site_space_begin(struct repl_site *site, struct repl_error *err);
void site_space_end(struct repl_site *site);

/* Bytes have come into staging (positive), or have left it. */
void site_space_staged(struct repl_site *site, int64_t bytes);

/* What the config says of the volume's limit, which a reload may change. */
void site_space_limit_read(struct site_volume *volume);
/* Whether a bound has been reached, or left, without anybody sending anything. */
void site_space_tick(struct site_volume *volume);
/* Whether more of the volume's segments may come; if not, why (of REPL_WIRE_TEXT_MAX + 1 bytes),
 * for its source. */
bool site_space_permits(struct site_volume *volume, char *why);

/* The disk or the store has said that it is full, or that it is not. */
void site_space_ran_out(struct site_volume *volume, enum site_space_full what,
                        const struct repl_error *err);
void site_space_went_well(struct site_volume *volume, enum site_space_full what);

/* A volume that is not there yet, as there was no room for its beginning, and whose source has
 * asked within the last minute. */
bool site_space_keeps_out(const struct site_volume *volume);

/* Whether it refuses segments, and what it holds; for the volume's status and the site's. */
void site_space_volume_status(const struct site_volume *volume, struct repl_volume_status *out);
void site_space_status(const struct repl_site *site, struct repl_status *out);

#endif
