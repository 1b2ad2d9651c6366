/*
 * One point for several volumes: a moment at which all of them were cut
 * together, as a group is.
 */
#ifndef REPL_AGENT_COMMON_POINT_H
#define REPL_AGENT_COMMON_POINT_H

#include "recover/when.h"

#define REPL_COMMON_VOLUMES_MAX 64u

struct repl_common_volume {
    const char *name;
    const struct repl_catalogue *catalogue;
    size_t point; /* out: in the catalogue */
};

/* Fills in each volume's point. A number or a name is one of the first volume's, and has to be
 * common to all; of anything else the newest common point by then is meant. A volume that is known
 * not to have changed from its own point to the common moment's end counts with that.
 * REPL_E_REFUSED names the nearest common points there are. */
REPL_RESULT repl_common_point_find(const struct repl_when *when, struct repl_common_volume *volumes,
                                   size_t count, struct repl_error *err);

#endif
