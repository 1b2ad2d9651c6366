/*
 * Snapshots of the btrfs subvolume that a tree lies in, for the tree to be read
 * from: whatever that takes, what is read is of one state, and no writer waits.
 *
 * What is in one. All that was written before it is begun; of what is written
 * while it is made, what a power cut at its end would have left: what was synced
 * in the order in which it was, and names in the order in which they changed, but
 * of two writes that nobody synced perhaps only the later. (The kernel writes out
 * one file after the other, and then makes the snapshot with the next commit.)
 * What it writes out on its own account is not enough for the first of these: a
 * page that is written to all the time was seen to be passed over, in about one
 * of three (Linux 6.18). So the filesystem is synced ahead of it, which counts as
 * its begin.
 *
 * Where it lies: in the directory REPL_TREE_SNAPSHOT_PLACE at the very top of the
 * filesystem, which may be mounted nowhere. It is found by its handle, on a mount
 * of our own that hangs nowhere and may be written to whatever the tree's own
 * mount allows (systemd's ProtectHome makes that one read-only). Only where the
 * top of the filesystem is the top of the tree does that directory lie in the
 * tree, and is left out of it. Its own directory, so that making and removing
 * snapshots does not change one that is protected.
 *
 * Its files have pages of their own in memory: what is read comes from the disk.
 *
 * A snapshot's name is the UUID of its volume. One that an earlier run left there
 * is removed, and no other ever.
 *
 * In a snapshot, inodes have the numbers and generations that they have in the
 * subvolume, but other handles, as these name the subvolume too; struct
 * repl_tree_root has what it takes to go from one to the other. A subvolume in
 * the subvolume is an empty directory with the inode number 2 there. What is
 * mounted somewhere in the tree does not show: what lies below it does.
 */
#ifndef REPL_AGENT_TREE_SNAPSHOT_H
#define REPL_AGENT_TREE_SNAPSHOT_H

#include "source/tree/tree_object.h"

#define REPL_TREE_SNAPSHOT_PLACE ".repl"

struct repl_tree_snapshots;

/* Whether the tree's top is that of its btrfs, so that the directory above is in it. */
bool repl_tree_has_snapshot_place(const struct repl_tree_root *root);

/* A directory of the filesystem: of a btrfs its very top, which is in no subvolume. */
REPL_RESULT repl_tree_filesystem_open(const struct repl_tree_root *root, int *fd,
                                      struct repl_error *err);

/* Refuses what is not on btrfs, and a filesystem in which that directory cannot be made; makes it,
 * and removes a snapshot that was left in it. Blocks. root outlives it. */
REPL_RESULT repl_tree_snapshots_open(const struct repl_tree_root *root,
                                     const struct repl_uuid *volume,
                                     struct repl_tree_snapshots **out, struct repl_error *err);
/* NULL does nothing. */
void repl_tree_snapshots_close(struct repl_tree_snapshots *snapshots);
/* Removes what a run that made snapshots has left, if there is anything, and makes nothing. */
void repl_tree_snapshots_clean(const struct repl_tree_root *root, const struct repl_uuid *volume);

/* Makes one, and opens the tree's top in it. Blocks, for as long as it takes to write out what is
 * dirty in the filesystem. One at a time. */
REPL_RESULT repl_tree_snapshot_make(struct repl_tree_snapshots *snapshots,
                                    struct repl_tree_root *out, struct repl_error *err);
/* Whether it is still there, so that what was not found in it is not in it. */
REPL_RESULT repl_tree_snapshot_check(const struct repl_tree_root *copy, struct repl_error *err);
/* Closes what was opened, and removes it. */
REPL_RESULT repl_tree_snapshot_remove(struct repl_tree_snapshots *snapshots,
                                      struct repl_tree_root *copy, struct repl_error *err);

#endif
