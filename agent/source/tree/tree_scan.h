/*
 * Compares a tree with its index, by what a stat says of each name (inode,
 * ctime, size): what differs goes into the index, and what the site has to be
 * told is noted as pending. Of what has not changed no content is read.
 *
 * What makes that exact: a file's ctime is taken before what the page cache has
 * of it is written out, and its content is read after that. So whatever changes
 * it later, through a mapping too, gives it another ctime (tree_object.h), and a
 * second scan that finds nothing has shown that all the files, attributes and
 * names were as they are throughout the time between.
 *
 * But for one thing: a direct write gives the file its ctime when it begins, and
 * nobody waits for its end. Of one that was on its way when the file was read
 * nothing shows, and the points until the file is read again have the pages as
 * they were before it. So a file that was changed shortly before it was read is
 * read again later, twice if need be, until that has been done when 30 s had
 * passed since the change, which is as long as a disk may take.
 */
#ifndef REPL_AGENT_TREE_SCAN_H
#define REPL_AGENT_TREE_SCAN_H

#include <stdatomic.h>

#include "source/tree/tree_exclude.h"
#include "source/tree/tree_held.h"
#include "source/tree/tree_object.h"
#include "source/tree/tree_watch.h"

struct repl_tree_scan_options {
    struct repl_tree_index *index;
    const struct repl_tree_root *root;
    const struct repl_tree_exclude *exclude;
    /* The next segment is a full, which says everything there is: nothing is noted as pending. */
    bool full;
    bool watched;    /* changes are heard of too, since before the scan began */
    bool mapped;     /* and mappings of files are kept (tree_mapping.h) */
    bool marks_hold; /* what is heard has all marks there are */
    bool first;      /* since the index was opened: an earlier scan may have been cut off */
    /* NULL but for a point that is cut per file: the names make up a tree, touched has all that was
     * looked at, and its files are held. What has no name left and still exists, as it may have
     * been moved to where nothing has been heard of yet, is put into *hidden, if that is empty;
     * what is in there is looked for once more. */
    struct repl_tree_held *held;
    struct repl_buffer *hidden; /* uint64_t: objects */
    const atomic_bool *stop;    /* set to end it soon: REPL_E_RETRY */
};

struct repl_tree_found {
    struct repl_buffer pages;   /* struct repl_tree_pages each: to be read */
    struct repl_buffer touched; /* uint64_t each: objects that were heard of, and looked at */
    uint64_t objects;           /* seen, by name */
    uint64_t changes;           /* differences found */
    uint64_t overlooked; /* pages that turned dirty, of which the tracing programs said nothing */
    uint64_t unheard;    /* of the changes, where nothing had been heard of when the look began */
    uint64_t mounts;     /* directories that were not looked into: another mount */
};
void repl_tree_found_fini(struct repl_tree_found *found);

/* Brings the index up to date. */
REPL_RESULT repl_tree_scan(const struct repl_tree_scan_options *options,
                           struct repl_tree_found *found, struct repl_error *err);
/* The same for what has been heard of it since the last time; what is elsewhere is passed over.
 * Where not all was heard, a scan has to follow, and names are left to it; but what direct writes
 * whose end was heard have written does not show in a scan. */
REPL_RESULT repl_tree_follow(const struct repl_tree_scan_options *options,
                             const struct repl_tree_heard *heard, struct repl_tree_found *found,
                             struct repl_error *err);
/* Whether nothing that has been heard since then is about the tree, and what was touched then is as
 * it was. */
REPL_RESULT repl_tree_follow_is_same(const struct repl_tree_scan_options *options,
                                     const struct repl_tree_heard *heard,
                                     const struct repl_buffer *touched, bool *same,
                                     struct repl_error *err);
/* Whether all is as the index says. */
REPL_RESULT repl_tree_scan_is_same(const struct repl_tree_scan_options *options, bool *same,
                                   struct repl_error *err);

#endif
