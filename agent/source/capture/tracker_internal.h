/*
 * What tracker.c (using the maps) and tracker_load.c (making and pinning them)
 * share.
 */
#ifndef REPL_AGENT_TRACKER_INTERNAL_H
#define REPL_AGENT_TRACKER_INTERNAL_H

#include <stddef.h>

#include "source/capture/track_bits.h"
#include "source/capture/tracker.h"

struct bpf_object;
struct bpf_link;

#define REPL_TRACK_PROGRAMS 3u

/* The maps, mapped. */
struct repl_track_maps {
    uint64_t *bits;
    size_t bits_size;
    struct repl_track_config *config;
    struct repl_track_counts *counts;
    struct repl_track_faults *faults; /* test build of the programs, else NULL */
    /* where nothing is pinned, what holds the programs and their links; else NULL */
    struct bpf_object *object;
    struct bpf_link *links[REPL_TRACK_PROGRAMS];
};

struct repl_tracker {
    struct repl_track_target target;
    struct repl_accounting accounting;
    struct repl_track_maps maps;
};

/* The programs' ELF file, linked in (track_object.S). */
extern const unsigned char repl_track_object[];
extern const unsigned char repl_track_object_end[];

/* As repl_tracker_open, but for the accounting. */
REPL_RESULT repl_track_maps_open(const struct repl_track_target *target,
                                 const struct repl_uuid *volume, struct repl_track_maps *out,
                                 enum repl_track_origin *origin, char cause[REPL_TRACK_CAUSE_SIZE],
                                 struct repl_error *err);
/* The same for maps and programs that are this process's own and end with it. */
REPL_RESULT repl_track_maps_private(const struct repl_track_target *target,
                                    struct repl_track_maps *out, struct repl_error *err);
void repl_track_maps_close(struct repl_track_maps *maps);

/* For tests that make the programs overlook events; NULL without them. */
struct repl_track_faults *repl_tracker_faults(const struct repl_tracker *tracker);

#endif
