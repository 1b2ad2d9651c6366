/*
 * Whether a directory tree makes sense at a point: what no segment alone shows.
 *
 * Every name leads to an object that is there; every object has a name, and a
 * directory only one; no directory is within itself; names are in directories
 * only, and contents in files only, within the file and within the space.
 */
#ifndef REPL_AGENT_VERIFY_TREE_H
#define REPL_AGENT_VERIFY_TREE_H

#include <stdatomic.h>

#include "segment/segment_reader.h"

/* segments: from a full to the one that ends in the point, oldest first. interrupted: may be NULL.
 * REPL_E_CORRUPT says what makes no sense, the first of it and how much more there is; REPL_E_NOMEM
 * that there was no room to find out. Reads the manifests once; per name it takes 24 bytes, in
 * memory and from 12 MiB on in a temporary file, and per directory 24 in memory. */
REPL_RESULT repl_verify_tree(const struct repl_segment *const *segments, size_t count,
                             const atomic_bool *interrupted, struct repl_error *err);

#endif
