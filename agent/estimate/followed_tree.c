/*
 * A tree as an agent follows it (source/tree/tree.h), with an index that is
 * thrown away. What is to be said of names and metadata counts as sent in the
 * second in which it was found.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "estimate/followed.h"
#include "format/segment_format.h"
#include "loop/loop.h"
#include "source/tree/tree.h"
#include "source/tree/tree_places.h"

struct tree_followed {
    struct repl_followed base;
    struct repl_tree *tree;
    uint64_t seq; /* of the point that a look stands for */
    char directory[PATH_MAX], index[PATH_MAX + 8];
};

static struct tree_followed *of(struct repl_followed *followed)
{
    return (struct tree_followed *)(void *)followed;
}

/* All that is pending is given to a segment that nobody makes, which is acknowledged. */
static repl_result records_count(struct tree_followed *t, uint64_t *bytes, struct repl_error *err)
{
    struct repl_record record;
    uint64_t stamp;
    bool done = false;
    *bytes = 0;
    if (!repl_tree_records_are_pending(t->tree))
        return REPL_SUCCESS;
    repl_result result = repl_tree_segment_begin(t->tree, false, t->seq, &stamp, err);
    while (repl_ok(result) && !done) {
        result = repl_tree_segment_record(t->tree, &record, &done, err);
        if (repl_ok(result) && !done)
            *bytes += repl_record_size(&record);
    }
    bool whole = repl_tree_segment_end(t->tree);
    if (repl_ok(result))
        repl_tree_records_settled(t->tree, stamp - !whole, false);
    return result;
}

static repl_result found_take(struct tree_followed *t, const struct repl_tree_found *found,
                              struct repl_bitmap *taken, struct repl_error *err)
{
    const struct repl_tree_pages *pages = (const void *)found->pages.data;
    t->base.size = repl_tree_space_size(t->tree);
    REPL_TRY(repl_bitmap_grow(taken, t->base.size / REPL_PAGE_SIZE, err));
    for (size_t i = 0; i < found->pages.size / sizeof *pages; i++)
        repl_bitmap_set(taken, pages[i].page, pages[i].count);
    return REPL_SUCCESS;
}

static repl_result tree_look(struct repl_followed *followed, struct repl_bitmap *taken,
                             int64_t *at_ns, uint64_t *records, struct repl_error *err)
{
    struct tree_followed *t = of(followed);
    struct repl_tree_found found = {0};
    REPL_TRY(repl_tree_hear(t->tree, err));
    *at_ns = repl_now_mono_ns();
    *records = 0;
    if (t->seq > 0 && repl_tree_is_idle(t->tree))
        return REPL_SUCCESS;
    t->seq++;
    repl_tree_gather_begin(t->tree, false, REPL_TREE_LOOK);
    repl_result result = repl_tree_gather(t->tree, &found, err);
    if (repl_ok(result))
        result = found_take(t, &found, taken, err);
    repl_tree_found_fini(&found);
    return repl_ok(result) ? records_count(t, records, err) : result;
}

static repl_result tree_read(struct repl_followed *followed, uint64_t page, uint32_t count,
                             size_t size, uint8_t *to, struct repl_error *err)
{
    (void)size;
    return repl_tree_read(of(followed)->tree, page, count, to, err);
}

static repl_result tree_begin(struct repl_followed *followed, struct repl_error *err)
{
    (void)followed, (void)err;
    return REPL_SUCCESS;
}

static repl_result tree_counts(struct repl_followed *followed, struct repl_followed_counts *out,
                               struct repl_error *err)
{
    (void)followed, (void)err;
    *out = (struct repl_followed_counts){0};
    return REPL_SUCCESS;
}

static void tree_close(struct repl_followed *followed)
{
    struct tree_followed *t = of(followed);
    char path[PATH_MAX + 16];
    repl_tree_close(t->tree);
    if (t->directory[0] != '\0') {
        unlink(t->index);
        snprintf(path, sizeof path, "%s-lock", t->index);
        unlink(path);
        if (rmdir(t->directory) != 0)
            fprintf(stderr, "repl estimate: %s is left behind: %s\n", t->directory,
                    strerror(errno));
    }
    free(t);
}

static const struct repl_followed_ops tree_ops = {.look = tree_look,
                                                  .begin = tree_begin,
                                                  .read = tree_read,
                                                  .counts = tree_counts,
                                                  .close = tree_close};

/* Of what is written to the index nothing is to be heard. */
static repl_result directory_make(struct tree_followed *t, struct repl_error *err)
{
    const char *in = getenv("TMPDIR");
    char base[PATH_MAX], tree[PATH_MAX];
    if (in == NULL || in[0] == '\0')
        in = "/var/tmp";
    if (realpath(in, base) == NULL || realpath(t->base.path, tree) == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s, or %s", in, t->base.path);
    size_t size = strcmp(tree, "/") == 0 ? 0 : strlen(tree);
    if (strncmp(base, tree, size) == 0 && (base[size] == '/' || base[size] == '\0'))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s, where the index of the tree would be kept meanwhile, lies in %s: set "
                         "TMPDIR to a directory outside of it",
                         base, t->base.path);
    snprintf(t->directory, sizeof t->directory, "%.4000s/repl-estimate-XXXXXX", base);
    if (mkdtemp(t->directory) == NULL) {
        int code = errno;
        t->directory[0] = '\0';
        return repl_fail_errno(err, REPL_E_IO, code, "cannot make a directory in %s", base);
    }
    snprintf(t->index, sizeof t->index, "%s/tree", t->directory);
    return REPL_SUCCESS;
}

static repl_result tree_open(struct tree_followed *t, struct repl_error *err)
{
    struct repl_tree_options options = {
        .path = t->base.path, .index_path = t->index, .next_seq = 1};
    REPL_TRY(repl_tree_identify(t->base.path, t->base.identity, sizeof t->base.identity, err));
    if (getrandom(&options.volume, sizeof options.volume, 0) != sizeof options.volume)
        return repl_fail_errno(err, REPL_E_INTERNAL, errno, "random bytes");
    REPL_TRY(directory_make(t, err));
    REPL_TRY(repl_tree_open(&options, &t->tree, err));
    if (!repl_tree_is_watched(t->tree))
        return repl_fail(err, REPL_E_REFUSED, "%s: changes of it cannot be heard of: %s",
                         t->base.path, repl_tree_unwatched(t->tree));
    t->base.size = repl_tree_space_size(t->tree);
    return REPL_SUCCESS;
}

repl_result repl_followed_tree(const char *path, struct repl_followed **out, struct repl_error *err)
{
    struct tree_followed *t = calloc(1, sizeof *t);
    if (t == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    t->base = (struct repl_followed){.ops = &tree_ops, .kind = "tree", .path = path};
    repl_result result = tree_open(t, err);
    if (!repl_ok(result))
        tree_close(&t->base);
    else
        *out = &t->base;
    return result;
}
