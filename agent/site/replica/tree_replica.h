/*
 * The replica of a directory tree, as an ordinary directory:
 *
 *     PATH/tree            the tree, at a point
 *     PATH/.repl/volume    whose it is: nothing is touched in a directory without it
 *     PATH/.repl/state     how far it is (state.md)
 *     PATH/.repl/map       what is known of it (tree_map.h)
 *     PATH/.repl/staging   what is being made ready; empty at a point
 *     PATH/.repl/attempts  a byte for each time that the map was opened since a step
 *                          came to its end
 *
 * It is brought forward from the changes alone (tree_apply.c). A reader finds a
 * regular file as it was at a point before or as it is at the next: what changes
 * is a clone of the old file, or a copy of one of at most REPLICA_COPY_MAX bytes,
 * in staging, and then renamed over its names. Where the filesystem cannot clone,
 * larger ones are written in place, and a reader may find them between two
 * points. A directory that moves is away from all names for a moment.
 *
 * After a full, and where nothing is known of it, or where what is found is not
 * what the map says (somebody else has changed it), it is compared with the
 * point as a restore does, which leaves alone what is equal. Nobody looks for
 * such changes: they show where the tree changes.
 *
 * LMDB believes its pages: with one of them damaged the program may crash. So a
 * map that was opened a few times without a step that came to its end is not
 * believed, and made anew.
 *
 * One thread at a time.
 */
#ifndef REPL_AGENT_REPLICA_TREE_REPLICA_H
#define REPL_AGENT_REPLICA_TREE_REPLICA_H

#include "recover/tree_dirs.h"
#include "recover/tree_meta.h"
#include "site/replica/tree_bytes.h"
#include "site/replica/tree_map.h"

#define REPLICA_COPY_MAX (UINT64_C(16) << 20)

struct replica_tree {
    char path[PATH_MAX];
    bool image; /* below the store: its directory is made */
    struct repl_uuid volume;
    struct replica_journal journal;
    struct replica_pulse pulse;
    unsigned fail_step; /* a test's: the so many-th step fails; 0: none */
    unsigned steps;     /* so far */
    bool no_clone;      /* a test's: as on a filesystem that cannot */
    /* private */
    int top_fd;  /* PATH; -1: closed */
    int mark_fd; /* PATH/.repl/volume, locked */
    struct replica_map map;
    bool contradicts;  /* what was found is not what the map says */
    unsigned lacks;    /* enum repl_tree_lack that were told, as bits */
    uint64_t compared; /* bytes and files, of a comparison that was seen to go on */
    /* Of a comparison after which something was still not as it should be: */
    int64_t compare_again_ns; /* not before; 0: there was none */
    struct repl_error faults;
    /* while it is applied */
    int state_fd, staging_fd; /* PATH/.repl and staging */
    struct replica_bytes *bytes;
    struct repl_tree_dirs dirs;
    struct repl_tree_meta_by meta;
    char where_name[REPL_NAME_MAX + 1];
    unsigned climbed; /* directories, since one was asked for */
};

/* Fails where it must not be touched: REPL_E_REFUSED, REPL_E_LOCKED, REPL_E_MISSING. */
REPL_RESULT replica_tree_open(struct replica_tree *tree, struct repl_error *err);
void replica_tree_close(struct replica_tree *tree);
/* Whether the path still names what is open. */
bool replica_tree_is_there(const struct replica_tree *tree);

/* From the point that it stands at, or from where it was interrupted, to goal; within (map.reached,
 * goal] there is no full. With a phase that is not AT, goal is map.goal. REPL_E_CORRUPT with
 * contradicts set: compare. */
REPL_RESULT replica_tree_advance(struct replica_tree *tree, const struct repl_head *goal,
                                 struct repl_error *err);
/* To goal, whatever is there. If something remains that is not as it should be, not again before
 * long, as it reads everything. */
REPL_RESULT replica_tree_compare(struct replica_tree *tree, const struct repl_head *goal,
                                 struct repl_error *err);

/* A step has come to its end. */
void replica_tree_succeeded(struct replica_tree *tree);

/* --- tree_apply.c ---------------------------------------------------------------------------- */

/* What the phase that the map is in does to the directory, all of it. */
REPL_RESULT replica_tree_stage(struct replica_tree *tree, struct repl_error *err);
REPL_RESULT replica_tree_detach(struct replica_tree *tree, bool *moved, struct repl_error *err);
REPL_RESULT replica_tree_attach(struct replica_tree *tree, struct repl_error *err);

/* --- tree_place.c ---------------------------------------------------------------------------- */

/* One thing more is done: the place at which it may end. */
REPL_RESULT replica_tree_step(struct replica_tree *tree, struct repl_error *err);
/* What a system call said of an object: what contradicts the map is noted as that. */
REPL_RESULT replica_tree_fail(struct replica_tree *tree, int os_errno, uint64_t object,
                              const char *what, struct repl_error *err);
/* The name in staging: n new contents, o another name of what is there, d a directory. */
void replica_tree_staged(char name[32], char what, uint64_t object);
bool replica_tree_is_staged(const struct replica_tree *tree, char what, uint64_t object);
/* A descriptor of the directory, valid until the next call. */
REPL_RESULT replica_tree_directory(struct replica_tree *tree, uint64_t object, int *fd,
                                   struct repl_error *err);
/* repl_tree_where_fn; context: the tree. */
repl_result replica_tree_where(void *tree, uint64_t object, struct repl_tree_place *place,
                               bool *found, struct repl_error *err);
/* A name that leads to what is no directory: before ATTACHING where it was at A. item: object and
 * node are set; the others are filled. REPL_E_CORRUPT: it has none. */
REPL_RESULT replica_tree_find(struct replica_tree *tree, struct repl_tree_item *item,
                              struct repl_error *err);

/* --- tree_content.c -------------------------------------------------------------------------- */

/* Makes the file ready in staging as it is at G, with its metadata; or leaves that to be written in
 * place. item: where it was at A, if it is not new. */
REPL_RESULT replica_tree_file_stage(struct replica_tree *tree, const struct repl_tree_item *item,
                                    const struct replica_todo *todo, struct repl_error *err);
REPL_RESULT replica_tree_file_patch(struct replica_tree *tree, const struct repl_tree_item *item,
                                    int fd, struct repl_error *err);

#endif
