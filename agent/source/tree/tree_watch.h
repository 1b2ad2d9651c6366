/*
 * Hears of what changes in a tree, for the whole of its filesystem: names,
 * attributes and writes from fanotify. Which pages are written to, through
 * mappings too, is tree_dirty.h's.
 *
 * The kernel tells of an operation before it returns to whoever asked for it:
 * what was complete before a call of repl_tree_watch_drain is in what that
 * heard. What it has no room for is known to be lost; then the tree is scanned.
 *
 * Nothing is heard of inode flags and project numbers that are set (chattr), nor
 * of what is mounted in the tree: they are found with the next change of that
 * file or name, or by a scan.
 */
#ifndef REPL_AGENT_TREE_WATCH_H
#define REPL_AGENT_TREE_WATCH_H

#include "source/tree/tree_object.h"

/* Kept until they are looked at; with more, the tree is scanned. */
#define REPL_TREE_HEARD_MAX 65536u

/* What has been heard: each once. */
struct repl_tree_heard {
    struct repl_buffer names;   /* struct repl_tree_heard_name, each followed by its name */
    struct repl_buffer objects; /* struct repl_tree_handle each */
    struct repl_buffer marks;   /* struct repl_tree_mark each (tree_dirty.h) */
    size_t count;               /* of names and objects */
    uint64_t *seen;             /* hashes of names and objects: open addressing, 0 is free */
    bool lost;                  /* something was, or there is too much */
};
struct repl_tree_heard_name {
    struct repl_tree_handle directory;
    uint32_t size; /* of the name, which follows, with a NUL, padded to 8 bytes */
};
void repl_tree_heard_fini(struct repl_tree_heard *heard);
/* Adds what the other one has. */
void repl_tree_heard_add(struct repl_tree_heard *heard, const struct repl_tree_heard *other);
/* The same, and that one is empty then. */
void repl_tree_heard_join(struct repl_tree_heard *heard, struct repl_tree_heard *more);
/* The name at *at (of names), which moves on to the next; NULL: there is none left. */
const struct repl_tree_heard_name *repl_tree_heard_name_next(const struct repl_tree_heard *heard,
                                                             size_t *at);

struct repl_tree_watch;

/* Watches from now on, through a directory somewhere on the filesystem; of btrfs it takes one that
 * is in no subvolume. What it cannot do is said: then each round has to scan. */
REPL_RESULT repl_tree_watch_open(const struct repl_tree_root *root, int directory_fd,
                                 struct repl_tree_watch **out, struct repl_error *err);
/* NULL does nothing. */
void repl_tree_watch_close(struct repl_tree_watch *watch);
/* Readable when fanotify has something to tell. */
int repl_tree_watch_fd(const struct repl_tree_watch *watch);
/* Adds all that is to be heard now. Never waits. One call at a time. */
REPL_RESULT repl_tree_watch_drain(struct repl_tree_watch *watch, struct repl_tree_heard *heard,
                                  struct repl_error *err);

#endif
