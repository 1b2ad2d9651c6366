/*
 * Keeps a restore off what this host must not lose: the devices that its agent
 * protects, and the replicas that its site keeps.
 */
#ifndef REPL_AGENT_SOURCE_GUARD_H
#define REPL_AGENT_SOURCE_GUARD_H

#include "recover/target.h"

/* REPL_E_REFUSED where the agent's configuration at the path protects what the target overlaps,
 * or cannot be read, so that nobody knows. Without a file there is no protected host, unless
 * required. */
REPL_RESULT repl_source_guard(const struct repl_target *target, const char *config_path,
                              bool required, struct repl_error *err);

/* The same for the site's configuration at the path, and the replicas that it names. Without a file
 * there is no site. */
REPL_RESULT repl_replica_guard(const struct repl_target *target, const char *config_path,
                               struct repl_error *err);

/* A file below a store would be taken for a part of it. store NULL is fine. */
REPL_RESULT repl_store_guard(const struct repl_target *target, const char *store,
                             struct repl_error *err);

/* For a tree: whether the directory that it is restored to, which may not exist yet, is one of
 * these paths, lies in one, or holds one. what: "a tree that this host protects"; unless: what else
 * can be done. Paths that are not there are none. */
REPL_RESULT repl_directory_guard(const char *to, const char *const *paths, size_t count,
                                 const char *what, const char *unless, struct repl_error *err);
/* The same for the directory trees of the agent's configuration at the path, as repl_source_guard.
 */
REPL_RESULT repl_directory_source_guard(const char *to, const char *config_path, bool required,
                                        struct repl_error *err);
/* The same for the store and the replicas of the site's configuration at the path. */
REPL_RESULT repl_directory_site_guard(const char *to, const char *config_path,
                                      struct repl_error *err);

/* Whether the file is a site's configuration, and not an agent's. */
bool repl_config_is_of_site(const char *path);

#endif
