/*
 * Points of a tree that are cut per file: looked at, read and told step by step, with changes in
 * between, and what such a point has.
 */
#ifndef TESTS_UNIT_TREE_CUT_H
#define TESTS_UNIT_TREE_CUT_H

#define EXCLUDED "*.tmp" /* by no path, for which a directory that was moved is looked through */
#include "unit/agent/source/tree/tree_compare.h"
#include "unit/agent/source/tree/tree_files.h"

#include "recover/verify_tree.h"
#include "source/tree/tree_internal.h"

static inline void make_directory(struct rig *rig, const char *name)
{
    char path[400];
    at(rig, path, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

static inline void drop(struct rig *rig, const char *name)
{
    char path[400];
    at(rig, path, name);
    assert_int_equal(unlink(path), 0);
}

static inline void move(struct rig *rig, const char *from, const char *to)
{
    char old[400], new[400];
    at(rig, old, from);
    at(rig, new, to);
    assert_int_equal(rename(old, new), 0);
}

/* As whoever replaces a file does it. */
static inline void replace(struct rig *rig, const char *name, const char *text)
{
    put(rig, "new.tmp", text);
    move(rig, "new.tmp", name);
}

/* Its path from below the filesystem's top that nobody else writes to. */
static inline struct rig *rig_of(void)
{
    struct rig *rig = rig_new(false);
    if (rig == NULL)
        skip();
    put(rig, "a", "what is in a");
    put(rig, "b", "what is in b");
    make_directory(rig, "d");
    put(rig, "d/below", "what is below d");
    assert_true(point(rig));
    assert_copied(rig);
    return rig;
}

static inline void look(struct rig *rig, enum repl_tree_look how)
{
    gather_as(rig, how);
    while (repl_tree_hides(rig->tree))
        gather_as(rig, REPL_TREE_LOOK_AGAIN);
}

static inline void pages_take(struct rig *rig)
{
    const struct repl_tree_pages *found = (const void *)rig->found.pages.data;
    for (size_t i = 0; i < rig->found.pages.size / sizeof *found; i++)
        repl_bitmap_set(&rig->dirty, found[i].page, found[i].count);
}

/* What was heard of by now is looked at after something else has happened. */
static inline void look_after(struct rig *rig, void (*happens)(struct rig *rig))
{
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    repl_tree_gather_begin(rig->tree, rig_is_full(rig), REPL_TREE_LOOK_FILES);
    happens(rig);
    OK(rig, repl_tree_gather(rig->tree, &rig->found, &rig->err));
    pages_take(rig);
    if (repl_tree_hides(rig->tree))
        look(rig, REPL_TREE_LOOK_AGAIN);
}

static inline uint64_t unstable(struct rig *rig)
{
    uint64_t count;
    bool same;
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    OK(rig, repl_tree_unstable(rig->tree, &same, &count, &rig->err));
    return count;
}

/* All segments from the last full on. */
static inline void assert_is_tree(struct rig *rig)
{
    const struct repl_segment *segments[SEGMENTS_MAX];
    size_t first = rig->count, count = 0;
    while (first > 0 && !rig->pieces[--first].full) {
    }
    for (size_t i = first; i < rig->count; i++)
        segments[count++] = rig->pieces[i].segment;
    OK(rig, repl_verify_tree(segments, count, NULL, &rig->err));
}

static inline void cut(struct rig *rig)
{
    assert_true(tell(rig));
    assert_is_tree(rig);
}

/* The point of the next quiet moment has everything. */
static inline void assert_nothing_forgotten(struct rig *rig)
{
    assert_false(repl_tree_is_idle(rig->tree));
    point(rig);
    assert_copied(rig);
    assert_is_tree(rig);
}

/* The object that the name at the top leads to; 0: none. */
static inline uint64_t object_of(const struct copy *copy, const char *name)
{
    const struct copy_record *c = copy_find(copy, REPL_OBJECT_ROOT, REPL_RECORD_NAME, name);
    return c != NULL ? c->record.child : 0;
}

/* What the copy has of the file; NULL: there is none. */
static inline const char *text_in(struct rig *rig, const char *name)
{
    static char text[REPL_PAGE_SIZE + 1];
    struct copy copy;
    copy_make(rig, &copy);
    uint64_t object = object_of(&copy, name);
    const struct copy_record *run =
        object != 0 ? copy_find(&copy, object, REPL_RECORD_RUN, "") : NULL;
    if (run != NULL) {
        size_t size = copy_object_of(&copy, object)->node.size;
        memcpy(text, copy.space + run->record.place, size);
        text[size] = '\0';
    }
    copy_free(&copy);
    return run != NULL ? text : NULL;
}

#endif
