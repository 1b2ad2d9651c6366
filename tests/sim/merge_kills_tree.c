/*
 * The objects of a tree: random changes of some, in records as a source has them,
 * and what records make of a tree. Their numbers are given once. What a file's
 * pages are goes by places in the space, whose bytes are the volume's pages.
 */
#include <stdlib.h>
#include <string.h>

#include "merge_kills.h"
#include "unit/segment/tree_list.h"

/* In the format's order of names. */
static const char *const names[KILLS_NAMES] = {"a", "b", "c", "d"};

static uint64_t number_of(size_t i)
{
    return REPL_OBJECT_ROOT + i;
}

/* --- records --------------------------------------------------------------------------------- */

static void node_say(struct list *list, uint64_t number, const struct kills_object *o)
{
    struct repl_node node = {.kind = (enum repl_node_kind)o->kind,
                             .mode = 0644,
                             .mtime_ns = (int64_t)o->mtime,
                             .size = o->pages * REPL_PAGE_SIZE};
    if (o->kind == REPL_NODE_GONE)
        node = (struct repl_node){.kind = REPL_NODE_GONE};
    list_node(list, number, node);
}

static int name_order(const void *a, const void *b)
{
    const char *x = names[*(const size_t *)a], *y = names[*(const size_t *)b];
    uint64_t h = repl_xxh3(x, 1), k = repl_xxh3(y, 1);
    return h < k ? -1 : h > k;
}

static void names_say(struct list *list, uint64_t number, const struct kills_object *o,
                      const bool told[KILLS_NAMES])
{
    size_t order[KILLS_NAMES];
    for (size_t i = 0; i < KILLS_NAMES; i++)
        order[i] = i;
    qsort(order, KILLS_NAMES, sizeof *order, name_order);
    for (size_t i = 0; i < KILLS_NAMES; i++) {
        if (told[order[i]])
            list_name(list, number, names[order[i]], o->children[order[i]]);
    }
}

static void page_say(struct list *list, uint64_t number, const struct kills_object *o, size_t page)
{
    struct repl_record hole = {.type = REPL_RECORD_HOLE,
                               .object = number,
                               .offset = page * REPL_PAGE_SIZE,
                               .length = REPL_PAGE_SIZE};
    if (o->places[page] == 0)
        list_add(list, hole);
    else
        list_run(list, number, page * REPL_PAGE_SIZE, REPL_PAGE_SIZE, o->places[page] - 1);
}

/* --- changes --------------------------------------------------------------------------------- */

static void file_change(struct list *list, struct random *random, uint64_t number,
                        struct kills_object *o)
{
    uint64_t before = o->pages;
    o->pages = random_below(random, KILLS_FILE_PAGES + 1);
    o->mtime = random_next(random) >> 1;
    node_say(list, number, o);
    for (size_t i = 0; i < KILLS_FILE_PAGES; i++) {
        bool told = i < o->pages && (i >= before || random_below(random, 2) == 0);
        if (i >= o->pages)
            o->places[i] = 0;
        if (!told)
            continue;
        uint64_t page = random_below(random, KILLS_PAGES + 8);
        o->places[i] = page < KILLS_PAGES ? page * REPL_PAGE_SIZE + 1 : 0;
        page_say(list, number, o, i);
    }
}

static void directory_change(struct list *list, struct random *random, uint64_t number,
                             struct kills_object *o, bool fresh)
{
    bool told[KILLS_NAMES];
    if (fresh || random_below(random, 2) == 0) {
        o->mtime = random_next(random) >> 1;
        node_say(list, number, o);
    }
    for (size_t i = 0; i < KILLS_NAMES; i++) {
        told[i] = random_below(random, 2) == 0;
        if (told[i])
            o->children[i] = random_below(random, 3) == 0 ? 0 : 100 + random_below(random, 1000);
    }
    names_say(list, number, o, told);
}

static void object_change(struct list *list, struct random *random, size_t i,
                          struct kills_object *o)
{
    bool fresh = o->kind == REPL_NODE_GONE;
    if (o->ended != 0)
        return;
    if (fresh)
        o->kind = i == 0 || random_below(random, 4) == 0 ? REPL_NODE_DIRECTORY : REPL_NODE_FILE;
    if (i > 0 && !fresh && random_below(random, 16) == 0) {
        *o = (struct kills_object){.kind = REPL_NODE_GONE, .ended = 1};
        node_say(list, number_of(i), o);
    } else if (o->kind == REPL_NODE_DIRECTORY) {
        directory_change(list, random, number_of(i), o, fresh);
    } else {
        file_change(list, random, number_of(i), o);
    }
}

void kills_tree_change(struct kills_tree *tree, struct random *random, struct repl_buffer *records)
{
    struct list list = {.bytes = *records};
    for (size_t i = 0; i < KILLS_OBJECTS; i++) {
        if (random_below(random, KILLS_OBJECTS / 2) == 0)
            object_change(&list, random, i, &tree->objects[i]);
    }
    *records = list.bytes;
}

void kills_tree_say(const struct kills_tree *tree, struct repl_buffer *records)
{
    struct list list = {.bytes = *records};
    for (size_t i = 0; i < KILLS_OBJECTS; i++) {
        const struct kills_object *o = &tree->objects[i];
        bool told[KILLS_NAMES];
        if (o->kind == REPL_NODE_GONE)
            continue;
        node_say(&list, number_of(i), o);
        for (size_t k = 0; k < KILLS_NAMES; k++)
            told[k] = o->children[k] != 0;
        if (o->kind == REPL_NODE_DIRECTORY)
            names_say(&list, number_of(i), o, told);
        for (size_t k = 0; k < o->pages; k++)
            page_say(&list, number_of(i), o, k);
    }
    *records = list.bytes;
}

/* --- what they make -------------------------------------------------------------------------- */

static void node_apply(struct kills_object *o, const struct repl_node *node)
{
    if (node->kind == REPL_NODE_GONE) {
        *o = (struct kills_object){.kind = REPL_NODE_GONE};
        return;
    }
    o->kind = node->kind;
    o->mtime = (uint64_t)node->mtime_ns;
    o->pages = node->size / REPL_PAGE_SIZE;
    for (size_t i = o->pages; i < KILLS_FILE_PAGES; i++)
        o->places[i] = 0;
}

static void record_apply(struct kills_tree *tree, const struct repl_record *r)
{
    ensure(r->object >= REPL_OBJECT_ROOT && r->object < REPL_OBJECT_ROOT + KILLS_OBJECTS);
    struct kills_object *o = &tree->objects[r->object - REPL_OBJECT_ROOT];
    if (r->type == REPL_RECORD_NODE)
        node_apply(o, &r->node);
    for (size_t i = 0; r->type == REPL_RECORD_NAME && i < KILLS_NAMES; i++) {
        if (r->name_size == 1 && r->name[0] == names[i][0])
            o->children[i] = r->child;
    }
    for (uint64_t at = 0;
         (r->type == REPL_RECORD_RUN || r->type == REPL_RECORD_HOLE) && at < r->length;
         at += REPL_PAGE_SIZE)
        o->places[(r->offset + at) / REPL_PAGE_SIZE] =
            r->type == REPL_RECORD_RUN ? r->place + at + 1 : 0;
}

void kills_tree_apply(struct kills_tree *tree, const struct repl_segment *segment,
                      struct repl_frame_coder *coder)
{
    struct repl_record_walk walk;
    struct repl_record record;
    repl_record_walk_begin(&walk, segment, coder);
    for (bool done = false;;) {
        ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (done)
            break;
        if (record.object != REPL_OBJECT_DEVICE)
            record_apply(tree, &record);
    }
    repl_record_walk_end(&walk);
}
