/*
 * Merged segments of a tree against a model: applied in place of those they are made of, they lead
 * to the same tree. And what they must not hold any more.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "segment/segment_merge.h"
#include "unit/random.h"
#include "unit/segment/tree_list.h"

#define OBJECTS  40u /* numbers from 2 on */
#define PAGES    12u
#define NAMES    9u
#define SEGMENTS 12u
#define ROUNDS   400u
#define SPACE    (UINT64_C(1) << 20)

static const char *const names[NAMES] = {"a", "b", "cc", "ddd", "e", "f", "\xff\xfe", "g", "h"};

struct object {
    enum repl_node_kind kind; /* GONE: there is none */
    bool ended;               /* there was one: its number is not given again */
    uint32_t pages;           /* of its size */
    struct repl_buffer node;  /* encoded, with its attributes */
    uint64_t children[NAMES];
    uint64_t places[PAGES]; /* plus 1; 0: a hole */
};

struct tree {
    struct object objects[OBJECTS];
};

struct piece {
    struct memory_file file;
    struct memory_span span;
    struct repl_segment *segment;
};

static struct repl_frame_coder *coder;

/* --- the model ------------------------------------------------------------------------------- */

static void object_clear(struct object *o)
{
    bool ended = o->ended;
    repl_buffer_fini(&o->node);
    *o = (struct object){.ended = ended};
}

static void tree_clear(struct tree *tree)
{
    for (unsigned i = 0; i < OBJECTS; i++) {
        tree->objects[i].ended = false;
        object_clear(&tree->objects[i]);
    }
}

static void node_apply(struct object *o, const struct repl_record *r)
{
    if (r->node.kind == REPL_NODE_GONE) {
        object_clear(o);
        return;
    }
    o->kind = r->node.kind;
    o->pages = (uint32_t)((r->node.size + 4095) / 4096);
    o->node.size = 0;
    for (uint32_t i = o->pages; i < PAGES; i++)
        o->places[i] = 0;
}

static void record_apply(struct tree *tree, const struct repl_record *r)
{
    struct object *o = &tree->objects[r->object];
    uint8_t bytes[REPL_RECORD_SIZE_MAX];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    if (r->type == REPL_RECORD_NODE)
        node_apply(o, r);
    if ((r->type == REPL_RECORD_NODE && r->node.kind != REPL_NODE_GONE) ||
        r->type == REPL_RECORD_XATTR) {
        repl_record_encode(&w, r);
        assert_true(repl_ok(repl_buffer_append(&o->node, bytes, w.position, NULL)));
    }
    for (unsigned i = 0; r->type == REPL_RECORD_NAME && i < NAMES; i++) {
        if (r->name_size == strlen(names[i]) && memcmp(r->name, names[i], r->name_size) == 0)
            o->children[i] = r->child;
    }
    for (uint64_t at = 0;
         (r->type == REPL_RECORD_RUN || r->type == REPL_RECORD_HOLE) && at < r->length; at += 4096)
        o->places[(r->offset + at) / 4096] = r->type == REPL_RECORD_RUN ? r->place + at + 1 : 0;
}

static void apply(struct tree *tree, const struct repl_segment *segment)
{
    struct repl_record_walk walk;
    if (segment->header.from_seq == 0)
        tree_clear(tree);
    repl_record_walk_begin(&walk, segment, coder);
    for (bool done = false;;) {
        struct repl_record record;
        struct repl_error err = {.text = ""};
        if (!repl_ok(repl_record_walk_next(&walk, &record, &done, &err)))
            fail_msg("%s", err.text);
        if (done)
            break;
        if (record.object != REPL_OBJECT_DEVICE)
            record_apply(tree, &record);
    }
    repl_record_walk_end(&walk);
}

static void assert_same(const struct tree *a, const struct tree *b)
{
    for (unsigned i = 2; i < OBJECTS; i++) {
        const struct object *x = &a->objects[i], *y = &b->objects[i];
        assert_int_equal(x->kind, y->kind);
        assert_int_equal(x->node.size, y->node.size);
        if (x->node.size > 0)
            assert_memory_equal(x->node.data, y->node.data, x->node.size);
        assert_memory_equal(x->children, y->children, sizeof x->children);
        assert_memory_equal(x->places, y->places, sizeof x->places);
    }
}

/* --- random changes -------------------------------------------------------------------------- */

static void node_say(struct list *list, struct random *random, uint64_t object,
                     const struct object *o)
{
    static const char *const attributes[] = {"user.a", "user.b", "user.c"};
    struct repl_node node = {.kind = o->kind,
                             .mode = (uint16_t)random_below(random, 010000),
                             .mtime_ns = (int64_t)random_next(random)};
    if (o->pages > 0)
        node.size = (uint64_t)o->pages * 4096 - random_below(random, 4096);
    if (o->kind == REPL_NODE_SYMLINK) {
        node.target = "target";
        node.target_size = 1 + (uint32_t)random_below(random, 6);
    }
    list_add(list, (struct repl_record){.type = REPL_RECORD_NODE, .object = object, .node = node});
    for (unsigned i = 0; i < 3; i++) {
        uint64_t value = random_next(random);
        if (random_below(random, 3) == 0)
            list_add(list, (struct repl_record){.type = REPL_RECORD_XATTR,
                                                .object = object,
                                                .name = attributes[i],
                                                .name_size = 6,
                                                .value = (const uint8_t *)&value,
                                                .value_size = (uint32_t)random_below(random, 9)});
    }
}

static int name_order(const void *a, const void *b)
{
    const char *x = names[*(const unsigned *)a], *y = names[*(const unsigned *)b];
    uint64_t h = repl_xxh3(x, strlen(x)), k = repl_xxh3(y, strlen(y));
    return h < k ? -1 : h > k;
}

/* Says of each name that is told, in the format's order. */
static void names_say(struct list *list, uint64_t object, const struct object *o,
                      const bool told[NAMES])
{
    unsigned order[NAMES];
    for (unsigned i = 0; i < NAMES; i++)
        order[i] = i;
    qsort(order, NAMES, sizeof order[0], name_order);
    for (unsigned i = 0; i < NAMES; i++) {
        const char *name = names[order[i]];
        if (told[order[i]])
            list_add(list, (struct repl_record){.type = REPL_RECORD_NAME,
                                                .object = object,
                                                .offset = repl_xxh3(name, strlen(name)),
                                                .name = name,
                                                .name_size = (uint32_t)strlen(name),
                                                .child = o->children[order[i]]});
    }
}

/* One record a page, or one for several that lie side by side. */
static void pages_say(struct list *list, struct random *random, uint64_t object,
                      const struct object *o, const bool told[PAGES])
{
    for (uint32_t i = 0; i < o->pages;) {
        uint32_t end = i + 1;
        bool hole = o->places[i] == 0;
        while (end < o->pages && told[end] && random_below(random, 4) > 0 &&
               (hole ? o->places[end] == 0
                     : o->places[end] == o->places[i] + (uint64_t)(end - i) * 4096))
            end++;
        if (told[i])
            list_add(list, (struct repl_record){.type = hole ? REPL_RECORD_HOLE : REPL_RECORD_RUN,
                                                .object = object,
                                                .offset = (uint64_t)i * 4096,
                                                .length = (uint64_t)(end - i) * 4096,
                                                .place = hole ? 0 : o->places[i] - 1});
        i = end;
    }
}

static void file_change(struct list *list, struct random *random, uint64_t object, struct object *o,
                        bool fresh)
{
    bool told[PAGES] = {false};
    uint32_t before = fresh ? 0 : o->pages;
    bool node = fresh || random_below(random, 3) > 0;
    if (node)
        o->pages = (uint32_t)random_below(random, PAGES + 1);
    uint64_t place = random_below(random, SPACE / 4096 - PAGES) * 4096;
    for (uint32_t i = 0; i < PAGES; i++) {
        if (i >= o->pages)
            o->places[i] = 0;
        else if (random_below(random, 3) == 0)
            told[i] = true, o->places[i] = random_below(random, 3) ? place + i * 4096 + 1 : 0;
        else if (i >= before) /* what it grew by is a hole, and said to be one where it was more */
            told[i] = !fresh, o->places[i] = 0;
    }
    if (node)
        node_say(list, random, object, o);
    pages_say(list, random, object, o, told);
}

static void directory_change(struct list *list, struct random *random, uint64_t object,
                             struct object *o, bool fresh)
{
    bool told[NAMES] = {false};
    if (fresh || random_below(random, 2) == 0)
        node_say(list, random, object, o);
    for (unsigned i = 0; i < NAMES; i++) {
        told[i] = random_below(random, 3) == 0;
        if (told[i])
            o->children[i] = random_below(random, 3) == 0 ? 0 : 100 + random_below(random, 1000);
    }
    names_say(list, object, o, told);
}

static void object_change(struct list *list, struct random *random, uint64_t object,
                          struct object *o)
{
    static const enum repl_node_kind kinds[] = {REPL_NODE_FILE, REPL_NODE_FILE, REPL_NODE_DIRECTORY,
                                                REPL_NODE_SYMLINK, REPL_NODE_FIFO};
    bool fresh = o->kind == REPL_NODE_GONE;
    /* Gone already, or never there: said all the same by a source that does not know. */
    if (fresh && object != REPL_OBJECT_ROOT && random_below(random, o->ended ? 2 : 8) == 0) {
        o->ended = true;
        list_add(list, (struct repl_record){.type = REPL_RECORD_NODE, .object = object});
        return;
    }
    if (fresh && o->ended)
        return;
    if (fresh)
        o->kind = object == REPL_OBJECT_ROOT ? REPL_NODE_DIRECTORY : kinds[random_below(random, 5)];
    if (!fresh && object != REPL_OBJECT_ROOT && random_below(random, 6) == 0) {
        o->ended = true;
        object_clear(o);
        list_add(list, (struct repl_record){.type = REPL_RECORD_NODE, .object = object});
    } else if (o->kind == REPL_NODE_FILE) {
        file_change(list, random, object, o, fresh);
    } else if (o->kind == REPL_NODE_DIRECTORY) {
        directory_change(list, random, object, o, fresh);
    } else {
        node_say(list, random, object, o);
    }
}

/* All there is: for a full. */
static void object_say(struct list *list, struct random *random, uint64_t object,
                       const struct object *o)
{
    bool pages[PAGES], told[NAMES];
    for (unsigned i = 0; i < PAGES; i++)
        pages[i] = o->places[i] != 0 || random_below(random, 2) == 0;
    for (unsigned i = 0; i < NAMES; i++)
        told[i] = o->children[i] != 0;
    if (o->kind == REPL_NODE_GONE)
        return;
    node_say(list, random, object, o);
    if (o->kind == REPL_NODE_DIRECTORY)
        names_say(list, object, o, told);
    if (o->kind == REPL_NODE_FILE)
        pages_say(list, random, object, o, pages);
}

/* --- segments -------------------------------------------------------------------------------- */

static void piece_open(struct piece *piece)
{
    struct repl_error err = {.text = ""};
    piece->span = (struct memory_span){piece->file.bytes.data, piece->file.bytes.size};
    if (!repl_ok(repl_segment_open(memory_read_at, &piece->span, piece->span.size, &piece->segment,
                                   &err)) ||
        !repl_ok(repl_segment_verify(piece->segment, coder, &err)))
        fail_msg("%s", err.text);
}

static void piece_free(struct piece *piece)
{
    repl_segment_free(piece->segment);
    repl_buffer_fini(&piece->file.bytes);
    *piece = (struct piece){.segment = NULL};
}

/* The next segment: random changes of the tree as it is, or all of it. */
static void piece_make(struct piece *piece, struct tree *now, struct random *random, uint64_t to,
                       bool full, const struct repl_digest *prev)
{
    struct list list = {.at = 0};
    struct repl_segment_header header = tree_header(full ? 0 : to - 1, to);
    struct repl_segment_builder *builder;
    struct repl_segment_footer footer;
    struct repl_error err = {.text = ""};
    struct craft points = {.footer = {0}};
    header.prev = *prev;
    for (uint64_t object = 2; object < OBJECTS; object++) {
        if (full)
            object_say(&list, random, object, &now->objects[object]);
        else if (random_below(random, 4) == 0)
            object_change(&list, random, object, &now->objects[object]);
    }
    assert_true(repl_ok(
        repl_segment_builder_new(&header, SPACE, memory_sink, &piece->file, &builder, NULL)));
    const struct repl_extent zeros = {.length = SPACE, .type = REPL_RECORD_ZERO};
    if (full)
        assert_true(repl_ok(repl_segment_builder_extent(builder, &zeros, NULL)));
    repl_segment_builder_records(builder, list_next, &list);
    craft_point(&points, to, 0);
    if (!repl_ok(repl_segment_builder_finish(builder, points.points, 1, &footer, &err)))
        fail_msg("%s", err.text);
    repl_segment_builder_free(builder);
    repl_buffer_fini(&list.bytes);
    piece_open(piece);
}

static void merge(struct piece *merged, struct piece *pieces, unsigned first, unsigned end)
{
    const struct repl_segment *segments[SEGMENTS];
    struct repl_merge_options options = {.segments = segments,
                                         .segment_count = end - first,
                                         .sink = memory_sink,
                                         .sink_context = &merged->file};
    struct repl_merge_report report;
    struct repl_error err = {.text = ""};
    for (unsigned i = first; i < end; i++)
        segments[i - first] = pieces[i].segment;
    if (!repl_ok(repl_segment_merge(&options, &report, &err)))
        fail_msg("%s", err.text);
    piece_open(merged);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void merged_says_the_same(void **state)
{
    (void)state;
    struct random random = random_begin("tree merge", 20261122);
    static struct tree now, expected, actual;
    struct piece pieces[SEGMENTS] = {{.segment = NULL}}, merged = {.segment = NULL};
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct repl_digest prev = {{0}};
        unsigned full = (unsigned)random_below(&random, SEGMENTS + 4); /* or none but the first */
        tree_clear(&now);
        for (unsigned i = 0; i < SEGMENTS; i++) {
            piece_make(&pieces[i], &now, &random, i + 1, i == 0 || i == full, &prev);
            prev = pieces[i].segment->footer.digest;
        }
        unsigned first = (unsigned)random_below(&random, SEGMENTS);
        unsigned end = first + 1 + (unsigned)random_below(&random, SEGMENTS - first);
        merge(&merged, pieces, first, end);
        tree_clear(&expected);
        tree_clear(&actual);
        for (unsigned i = 0; i < end; i++)
            apply(&expected, pieces[i].segment);
        for (unsigned i = 0; i < first; i++)
            apply(&actual, pieces[i].segment);
        apply(&actual, merged.segment);
        assert_same(&expected, &actual);
        for (unsigned i = end; i < SEGMENTS; i++) {
            apply(&expected, pieces[i].segment);
            apply(&actual, pieces[i].segment);
        }
        assert_same(&expected, &actual);
        piece_free(&merged);
        for (unsigned i = 0; i < SEGMENTS; i++)
            piece_free(&pieces[i]);
    }
    tree_clear(&now);
    tree_clear(&expected);
    tree_clear(&actual);
}

/* Behind a full there is nothing to be gone. */
static void a_full_has_no_traces(void **state)
{
    (void)state;
    struct random random = {7};
    static struct tree now;
    struct piece pieces[SEGMENTS] = {{.segment = NULL}}, merged = {.segment = NULL};
    struct repl_digest prev = {{0}};
    for (unsigned i = 0; i < SEGMENTS; i++) {
        piece_make(&pieces[i], &now, &random, i + 1, i == 0, &prev);
        prev = pieces[i].segment->footer.digest;
    }
    merge(&merged, pieces, 0, SEGMENTS);
    struct repl_record_walk walk;
    unsigned records = 0;
    repl_record_walk_begin(&walk, merged.segment, coder);
    for (bool done = false;; records++) {
        struct repl_record r;
        assert_true(repl_ok(repl_record_walk_next(&walk, &r, &done, NULL)));
        if (done)
            break;
        assert_false(r.type == REPL_RECORD_NODE && r.node.kind == REPL_NODE_GONE);
        assert_false(r.type == REPL_RECORD_NAME && r.child == 0);
        assert_int_not_equal(r.type, REPL_RECORD_HOLE);
    }
    repl_record_walk_end(&walk);
    assert_true(records > OBJECTS);
    piece_free(&merged);
    for (unsigned i = 0; i < SEGMENTS; i++)
        piece_free(&pieces[i]);
    tree_clear(&now);
}

static repl_result merge_two(struct craft *first, struct craft *second, struct repl_error *err)
{
    struct piece pieces[2] = {{.segment = NULL}}, merged = {.segment = NULL};
    struct craft *crafts[2] = {first, second};
    const struct repl_segment *segments[2];
    struct repl_merge_report report;
    for (unsigned i = 0; i < 2; i++) {
        if (i > 0)
            crafts[i]->header.prev = pieces[0].segment->footer.digest;
        craft_point(crafts[i], crafts[i]->header.to_seq, 0);
        craft_layout(crafts[i]);
        craft_write(crafts[i], &pieces[i].file.bytes);
        piece_open(&pieces[i]);
        segments[i] = pieces[i].segment;
        craft_fini(crafts[i]);
    }
    const struct repl_merge_options options = {.segments = segments,
                                               .segment_count = 2,
                                               .sink = memory_sink,
                                               .sink_context = &merged.file};
    repl_result result = repl_segment_merge(&options, &report, err);
    piece_free(&merged);
    piece_free(&pieces[0]);
    piece_free(&pieces[1]);
    return result;
}

static void craft_two(struct craft *first, struct craft *second)
{
    *first = (struct craft){.header = tree_header(1, 2)};
    *second = (struct craft){.header = tree_header(2, 3)};
    craft_object(first, TREE_SPACE_SIZE);
    craft_object(second, TREE_SPACE_SIZE);
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    struct craft first, second;
    struct repl_error err = {.text = ""};
    craft_two(&first, &second);
    tree_node(&first, 0, 3, (struct repl_node){.kind = REPL_NODE_GONE});
    tree_node(&second, 0, 3, tree_file(0));
    assert_int_equal(merge_two(&first, &second, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "which was gone before"));
    craft_two(&first, &second);
    tree_node(&first, 0, 3, (struct repl_node){.kind = REPL_NODE_GONE});
    tree_run(&second, 0, 3, 0, 4096, 0);
    assert_int_equal(merge_two(&first, &second, &err).code, REPL_E_CORRUPT);
    craft_two(&first, &second);
    tree_node(&first, 0, 3, (struct repl_node){.kind = REPL_NODE_GONE});
    tree_node(&second, 0, 3, (struct repl_node){.kind = REPL_NODE_GONE});
    assert_int_equal(merge_two(&first, &second, &err).code, REPL_OK);
    craft_two(&first, &second);
    tree_name(&first, 3, "a", 4);
    tree_run(&second, 0, 3, 0, 4096, 0);
    assert_int_equal(merge_two(&first, &second, &err).code, REPL_E_CORRUPT);
    craft_two(&first, &second);
    second.header.volume_kind = REPL_VOLUME_BLOCK;
    second.header.features = 0;
    assert_int_equal(merge_two(&first, &second, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "block volume"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merged_says_the_same),
        cmocka_unit_test(a_full_has_no_traces),
        cmocka_unit_test(what_makes_no_sense_is_refused),
    };
    if (!repl_ok(repl_frame_coder_new(&coder, NULL)))
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    repl_frame_coder_free(coder);
    return failed;
}
