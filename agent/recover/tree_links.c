#include "recover/tree_links.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/ensure.h"
#include "block/read_full.h"

#define PIECE_LINKS 4096u /* of a run, read at once */

/* Sorted links in the file. */
struct run {
    uint64_t at, end; /* those that have not been read */
    struct repl_tree_link *piece;
    size_t piece_count, piece_next;
};

struct repl_tree_links {
    size_t room;
    struct repl_tree_link *held;
    size_t held_count, held_next;
    bool taken; /* next has been called: held, or all runs, are sorted */
    int fd;     /* a file without a name; -1: all are held */
    uint64_t file_count;
    struct run *runs;
    size_t run_count;
};

repl_result repl_tree_links_new(size_t room, struct repl_tree_links **out, struct repl_error *err)
{
    struct repl_tree_links *l = calloc(1, sizeof *l);
    if (l != NULL)
        l->held = malloc(room * sizeof *l->held);
    if (l == NULL || l->held == NULL) {
        free(l);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the names of a tree");
    }
    l->room = room;
    l->fd = -1;
    *out = l;
    return REPL_SUCCESS;
}

void repl_tree_links_free(struct repl_tree_links *l)
{
    if (l == NULL)
        return;
    for (size_t i = 0; i < l->run_count; i++)
        free(l->runs[i].piece);
    free(l->runs);
    free(l->held);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
}

static int link_order(const void *a, const void *b)
{
    const struct repl_tree_link *x = a, *y = b;
    if (x->object != y->object)
        return x->object < y->object ? -1 : 1;
    return x->parent < y->parent ? -1 : x->parent > y->parent;
}

static void held_sort(struct repl_tree_links *l)
{
    if (l->held_count > 1)
        qsort(l->held, l->held_count, sizeof *l->held, link_order);
}

/* --- runs ------------------------------------------------------------------------------------ */

static repl_result file_fail(int os_errno, const char *what, struct repl_error *err)
{
    return repl_fail_errno(err, REPL_E_NOMEM, os_errno,
                           "cannot %s a temporary file for the names of a tree (TMPDIR says where)",
                           what);
}

static repl_result file_make(struct repl_tree_links *l, struct repl_error *err)
{
    char path[PATH_MAX];
    const char *parent = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/repl-tree-XXXXXX", parent != NULL ? parent : "/var/tmp");
    l->fd = mkstemp(path);
    if (l->fd < 0)
        return file_fail(errno, "make", err);
    unlink(path);
    return REPL_SUCCESS;
}

static repl_result file_append(struct repl_tree_links *l, struct repl_error *err)
{
    const uint8_t *bytes = (const void *)l->held;
    size_t left = l->held_count * sizeof *l->held;
    uint64_t offset = l->file_count * sizeof *l->held;
    while (left > 0) {
        ssize_t written = pwrite(l->fd, bytes, left, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return file_fail(written < 0 ? errno : ENOSPC, "write", err);
        bytes += written;
        offset += (uint64_t)written;
        left -= (size_t)written;
    }
    return REPL_SUCCESS;
}

/* What is held becomes one. */
static repl_result run_write(struct repl_tree_links *l, struct repl_error *err)
{
    struct run *runs = realloc(l->runs, (l->run_count + 1) * sizeof *runs);
    if (runs == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the names of a tree");
    l->runs = runs;
    if (l->fd < 0)
        REPL_TRY(file_make(l, err));
    held_sort(l);
    REPL_TRY(file_append(l, err));
    runs[l->run_count++] = (struct run){.at = l->file_count, .end = l->file_count + l->held_count};
    l->file_count += l->held_count;
    l->held_count = 0;
    return REPL_SUCCESS;
}

static repl_result piece_read(const struct repl_tree_links *l, struct run *run,
                              struct repl_error *err)
{
    uint64_t left = run->end - run->at;
    size_t count = left < PIECE_LINKS ? (size_t)left : PIECE_LINKS;
    size_t size = count * sizeof *run->piece;
    if (run->piece == NULL)
        run->piece = malloc(PIECE_LINKS * sizeof *run->piece);
    if (run->piece == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the names of a tree");
    ssize_t got = repl_read_full(l->fd, run->piece, size, run->at * sizeof *run->piece);
    if (got != (ssize_t)size)
        return file_fail(got < 0 ? errno : EIO, "read", err);
    run->at += count;
    run->piece_count = count;
    run->piece_next = 0;
    return REPL_SUCCESS;
}

/* The run whose next link is the least; NULL: all are at their end. */
static repl_result runs_least(struct repl_tree_links *l, struct run **least, struct repl_error *err)
{
    *least = NULL;
    for (size_t i = 0; i < l->run_count; i++) {
        struct run *run = &l->runs[i];
        if (run->piece_next == run->piece_count && run->at < run->end)
            REPL_TRY(piece_read(l, run, err));
        if (run->piece_next < run->piece_count &&
            (*least == NULL ||
             link_order(&run->piece[run->piece_next], &(*least)->piece[(*least)->piece_next]) < 0))
            *least = run;
    }
    return REPL_SUCCESS;
}

/* --- in and out ------------------------------------------------------------------------------ */

repl_result repl_tree_links_add(struct repl_tree_links *l, const struct repl_tree_link *link,
                                struct repl_error *err)
{
    ensure(!l->taken);
    if (l->held_count == l->room)
        REPL_TRY(run_write(l, err));
    l->held[l->held_count++] = *link;
    return REPL_SUCCESS;
}

repl_result repl_tree_links_next(struct repl_tree_links *l, struct repl_tree_link *out, bool *done,
                                 struct repl_error *err)
{
    struct run *run = NULL;
    if (!l->taken && l->run_count > 0)
        REPL_TRY(run_write(l, err));
    else if (!l->taken)
        held_sort(l);
    l->taken = true;
    REPL_TRY(runs_least(l, &run, err));
    *done = run == NULL && l->held_next == l->held_count;
    if (*done)
        return REPL_SUCCESS;
    *out = run != NULL ? run->piece[run->piece_next++] : l->held[l->held_next++];
    return REPL_SUCCESS;
}
