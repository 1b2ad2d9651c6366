/*
 * Records of segments into the map of a replica's directory (tree_map.h).
 */
#ifndef REPL_AGENT_REPLICA_TREE_CHANGE_H
#define REPL_AGENT_REPLICA_TREE_CHANGE_H

#include "repl/view.h"
#include "segment/tree_merge.h"
#include "site/replica/tree_map.h"

/* All that the merge gives, of a tree whose space has so many bytes. todo: the directory is not yet
 * what they say, and what is to do is noted. Commits now and then; may be done again.
 * REPL_E_CORRUPT where the records make no sense. */
REPL_RESULT replica_change_records(struct replica_map *map, struct repl_tree_merge *merge,
                                   uint64_t space_size, bool todo,
                                   const struct replica_pulse *pulse, struct repl_error *err);
/* After the records: what a change of bytes in the space means for files, and a change of files for
 * the directories that they are in. */
REPL_RESULT replica_change_space(struct replica_map *map, const struct repl_view *changes,
                                 const struct replica_pulse *pulse, struct repl_error *err);

#endif
