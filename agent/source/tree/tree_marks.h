/*
 * What the programs of tree_dirty.bpf.c say, as the agent keeps it: which pages of
 * which files have been written to.
 */
#ifndef REPL_AGENT_TREE_MARKS_H
#define REPL_AGENT_TREE_MARKS_H

#include <stdbool.h>

#include "base/cursor.h"
#include "source/tree/tree_dirty_layout.h"

struct repl_tree_mark {
    struct repl_tree_dirty_key key;
    struct repl_tree_dirty_bits bits;
};

/* Pages first to last of the file. */
REPL_RESULT repl_tree_marks_add(struct repl_buffer *marks, uint64_t inode, uint64_t first,
                                uint64_t last, struct repl_error *err);
/* By inode and block. */
void repl_tree_marks_sort(struct repl_buffer *marks);
/* Whether sorted ones have any of the file. */
bool repl_tree_marks_any(const struct repl_buffer *marks, uint64_t inode);
/* A file's, of sorted ones: appends struct repl_tree_pages each, in pages of the file. *any: there
 * are some; *whole: all of it may have changed. */
REPL_RESULT repl_tree_marks_find(const struct repl_buffer *marks, uint64_t inode,
                                 struct repl_buffer *pages, bool *any, bool *whole,
                                 struct repl_error *err);

/* --- direct writes whose end is not told ----------------------------------------------------- */

/* As long as it is younger than this, what is on its way is read each time; then once, and once
 * more when no disk takes so long. */
#define REPL_TREE_LATE_NS INT64_C(2000000000)
#define REPL_TREE_SURE_NS INT64_C(30000000000)

struct repl_tree_late {
    struct repl_buffer marks; /* struct repl_tree_late_mark, by inode and block, each once */
};
struct repl_tree_late_mark {
    struct repl_tree_mark mark;
    int64_t at_ns; /* when it was last heard of */
    bool again;    /* it has been read since REPL_TREE_LATE_NS had passed */
};
/* Of sorted marks those that are late ones, which become usual ones. */
REPL_RESULT repl_tree_late_add(struct repl_tree_late *late, struct repl_buffer *marks,
                               int64_t now_ns, struct repl_error *err);
/* Whether one is to be read, though nothing is heard of it. */
bool repl_tree_late_is_due(const struct repl_tree_late *late, int64_t now_ns);
/* Appends what is to be read now; forgets what is sure. */
REPL_RESULT repl_tree_late_take(struct repl_tree_late *late, struct repl_buffer *marks,
                                int64_t now_ns, struct repl_error *err);

#endif
