/*
 * What is followed, a device or a tree, as an estimate sees it: a space of pages,
 * which are asked once a second of which have changed, and read.
 */
#ifndef REPL_AGENT_ESTIMATE_FOLLOWED_H
#define REPL_AGENT_ESTIMATE_FOLLOWED_H

#include "base/bitmap.h"
#include "format/slot.h"
#include "repl/error.h"

struct repl_device;
struct repl_followed;

/* What only the kernel knows, in bytes since the begin. */
struct repl_followed_counts {
    bool known;
    uint64_t written, discarded;
    uint64_t missed; /* at least so much was not noticed */
};

struct repl_followed_ops {
    /* Adds to taken what has changed since the last look, and grows it with the space; at_ns
     * (repl_now_mono_ns): as of when. records: the bytes of what else has to be said of it. The
     * first look is about what is there already. */
    REPL_RESULT(*look)
    (struct repl_followed *followed, struct repl_bitmap *taken, int64_t *at_ns, uint64_t *records,
     struct repl_error *err);
    /* After the first look: counts begin. */
    REPL_RESULT (*begin)(struct repl_followed *followed, struct repl_error *err);
    /* Pages as they are now. size: of them, less than whole ones only at the end of the space. */
    REPL_RESULT(*read)
    (struct repl_followed *followed, uint64_t page, uint32_t count, size_t size, uint8_t *to,
     struct repl_error *err);
    REPL_RESULT(*counts)
    (struct repl_followed *followed, struct repl_followed_counts *out, struct repl_error *err);
    void (*close)(struct repl_followed *followed);
};

struct repl_followed {
    const struct repl_followed_ops *ops;
    const char *kind; /* "block", "tree" */
    const char *path; /* as it was named */
    char identity[REPL_IDENTITY_MAX + 1];
    uint64_t size; /* of the space, bytes; a tree's grows */
};

/* REPL_E_REFUSED: it cannot be followed, or this process may not. path and device outlive it. */
REPL_RESULT repl_followed_device(const struct repl_device *device, struct repl_followed **out,
                                 struct repl_error *err);
/* Looks at every name of the tree, which may take its time, and keeps an index of it in a directory
 * of its own, in TMPDIR or /var/tmp, until it is closed. */
REPL_RESULT repl_followed_tree(const char *path, struct repl_followed **out,
                               struct repl_error *err);
/* NULL is fine. */
void repl_followed_close(struct repl_followed *followed);

#endif
