/*
 * The site: takes in segments, keeps the journals, brings the replicas forward
 * and answers who may read. One store, one listener, one control socket.
 */
#ifndef REPL_AGENT_SITE_H
#define REPL_AGENT_SITE_H

#include "config/config.h"
#include "control/status.h"
#include "loop/loop.h"
#include "repl/error.h"

struct repl_site;

/* Opens the store, looks through every volume's journal and begins to listen; blocks while it
 * does. The config is taken over, also where this fails. */
REPL_RESULT repl_site_new(struct repl_loop *loop, struct repl_config *config,
                          struct repl_site **out, struct repl_error *err);
/* Ends what is under way (runs the loop for it; not from a callback) and closes everything. */
void repl_site_free(struct repl_site *site);

/* Takes over a newly read config: its peers and limits of space count from the next request on.
 * Everything else needs a restart; *restart says so where it differs. */
void repl_site_reload(struct repl_site *site, struct repl_config *config, bool *restart);

unsigned repl_site_port(const struct repl_site *site);
/* Volumes in use, and those whose history is damaged. */
void repl_site_count(const struct repl_site *site, size_t *volumes, size_t *damaged);
REPL_RESULT repl_site_status(const struct repl_site *site, struct repl_status *out,
                             struct repl_error *err);

#endif
