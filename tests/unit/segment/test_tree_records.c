/*
 * A tree's records through builder and reader. (What a reader refuses of them is among the bad
 * segments of segment_cases.h.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/random.h"
#include "unit/segment/tree_list.h"

#define OBJECTS    3000
#define NAMES_MAX  40
#define XATTRS_MAX 3
#define RUNS_MAX   5

/* --- a random tree --------------------------------------------------------------------------- */

struct text {
    char bytes[REPL_NAME_MAX];
    uint32_t size;
};

/* Any bytes but 0 and '/', short ones more often. */
static struct text text_random(struct random *random)
{
    struct text text;
    text.size = 3 + (uint32_t)random_below(random, 1 + random_below(random, REPL_NAME_MAX - 3));
    for (uint32_t i = 0; i < text.size; i++) {
        text.bytes[i] = (char)(1 + random_below(random, 255));
        if (text.bytes[i] == '/')
            text.bytes[i] = 'x';
    }
    return text;
}

static int text_order(const void *a, const void *b)
{
    const struct text *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, x->size < y->size ? x->size : y->size);
    return order != 0 ? order : x->size < y->size ? -1 : x->size > y->size;
}

static int name_order(const void *a, const void *b)
{
    const struct text *x = a, *y = b;
    uint64_t h = repl_xxh3(x->bytes, x->size), k = repl_xxh3(y->bytes, y->size);
    return h < k ? -1 : h > k ? 1 : text_order(a, b);
}

static void xattrs_add(struct list *list, struct random *random, uint64_t object)
{
    struct text names[XATTRS_MAX];
    uint8_t value[REPL_XATTR_INLINE_MAX];
    size_t count = random_below(random, XATTRS_MAX + 1);
    for (size_t i = 0; i < count; i++)
        names[i] = text_random(random);
    qsort(names, count, sizeof names[0], text_order);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && text_order(&names[i - 1], &names[i]) == 0)
            continue;
        struct repl_record record = {.type = REPL_RECORD_XATTR,
                                     .object = object,
                                     .name = names[i].bytes,
                                     .name_size = names[i].size};
        if (random_below(random, 4) == 0) {
            record.value_size = REPL_XATTR_INLINE_MAX + 1 + (uint32_t)random_below(random, 9000);
            record.place = random_below(random, 40) * REPL_PAGE_SIZE;
        } else {
            record.value_size = (uint32_t)random_below(random, sizeof value + 1);
            random_fill(random, value, record.value_size);
            record.value = value;
        }
        list_add(list, record);
    }
}

static void names_add(struct list *list, struct random *random, uint64_t object)
{
    static struct text names[NAMES_MAX];
    size_t count = random_below(random, NAMES_MAX + 1);
    for (size_t i = 0; i < count; i++)
        names[i] = text_random(random);
    qsort(names, count, sizeof names[0], name_order);
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && name_order(&names[i - 1], &names[i]) == 0)
            continue;
        uint64_t child = random_below(random, 5) == 0 ? 0 : object + 1 + random_below(random, 99);
        list_add(list, (struct repl_record){.type = REPL_RECORD_NAME,
                                            .object = object,
                                            .offset = repl_xxh3(names[i].bytes, names[i].size),
                                            .name = names[i].bytes,
                                            .name_size = names[i].size,
                                            .child = child});
    }
}

static void runs_add(struct list *list, struct random *random, uint64_t object, uint64_t end)
{
    uint64_t offset = 0;
    for (unsigned i = 0; i < RUNS_MAX; i++) {
        uint64_t length = (1 + random_below(random, 8)) * REPL_PAGE_SIZE;
        offset += random_below(random, 3) * REPL_PAGE_SIZE;
        if (offset + length > end)
            return;
        bool hole = random_below(random, 3) == 0;
        list_add(list, (struct repl_record){.type = hole ? REPL_RECORD_HOLE : REPL_RECORD_RUN,
                                            .object = object,
                                            .offset = offset,
                                            .length = length,
                                            .place = hole ? 0 : random_below(random, 56) * 4096});
        offset += length;
    }
}

static void object_add(struct list *list, struct random *random, uint64_t object)
{
    char target[REPL_TARGET_MAX];
    struct repl_node node = {.kind = object == REPL_OBJECT_ROOT
                                         ? REPL_NODE_DIRECTORY
                                         : (enum repl_node_kind)random_below(random, 8)};
    bool known = random_below(random, 5) > 0;
    if (node.kind != REPL_NODE_GONE) {
        node.mode = (uint16_t)random_below(random, 010000);
        node.uid = (uint32_t)random_next(random);
        node.gid = (uint32_t)random_next(random);
        node.flags = (uint32_t)random_next(random);
        node.project = (uint32_t)random_next(random);
        node.mtime_ns = (int64_t)random_next(random);
    }
    if (node.kind == REPL_NODE_CHARACTER || node.kind == REPL_NODE_BLOCK) {
        node.major = (uint32_t)random_next(random);
        node.minor = (uint32_t)random_next(random);
    }
    if (node.kind == REPL_NODE_FILE)
        node.size = random_below(random, 40 * REPL_PAGE_SIZE);
    if (node.kind == REPL_NODE_SYMLINK) {
        node.target = target;
        node.target_size = 1 + (uint32_t)random_below(random, 1 + random_below(random, 4095));
        memset(target, 't', sizeof target);
    }
    if (known)
        list_add(list,
                 (struct repl_record){.type = REPL_RECORD_NODE, .object = object, .node = node});
    if (known && node.kind != REPL_NODE_GONE)
        xattrs_add(list, random, object);
    if (node.kind == REPL_NODE_DIRECTORY)
        names_add(list, random, object);
    if (node.kind == REPL_NODE_FILE)
        runs_add(list, random, object, known ? (node.size + 4095) / 4096 * 4096 : UINT64_MAX / 2);
}

/* --- tests ----------------------------------------------------------------------------------- */

static repl_result tree_build(struct list *list, struct memory_file *file, struct repl_error *err)
{
    struct repl_segment_header header = tree_header(1, 2);
    struct repl_segment_builder *builder;
    struct repl_segment_footer footer;
    struct craft points = {.footer = {0}};
    assert_true(repl_ok(
        repl_segment_builder_new(&header, TREE_SPACE_SIZE, memory_sink, file, &builder, NULL)));
    const struct repl_extent zeros = {.length = TREE_SPACE_SIZE, .type = REPL_RECORD_ZERO};
    assert_true(repl_ok(repl_segment_builder_extent(builder, &zeros, NULL)));
    repl_segment_builder_records(builder, list_next, list);
    craft_point(&points, 2, 0);
    repl_result result = repl_segment_builder_finish(builder, points.points, 1, &footer, err);
    repl_segment_builder_free(builder);
    return result;
}

static void comes_back_as_it_went_in(void **state)
{
    (void)state;
    struct random random = {20261122};
    struct list list = {.at = 0};
    struct memory_file file = {.sink_limit = 0};
    struct repl_frame_coder *coder;
    struct repl_segment *segment;
    struct repl_buffer out = {0};
    struct repl_error err = {.text = ""};
    for (uint64_t object = REPL_OBJECT_ROOT; object < OBJECTS; object++)
        object_add(&list, &random, object);
    if (!repl_ok(tree_build(&list, &file, &err)))
        fail_msg("%s", err.text);
    struct memory_span span = {file.bytes.data, file.bytes.size};
    assert_true(repl_ok(repl_frame_coder_new(&coder, NULL)));
    assert_true(repl_ok(repl_segment_open(memory_read_at, &span, span.size, &segment, NULL)));
    assert_true(segment->footer.block_count > 5);
    assert_true(repl_ok(repl_segment_verify(segment, coder, NULL)));
    if (!repl_ok(read_records(segment, coder, &out, &err)))
        fail_msg("%s", err.text);
    size_t space = 32 + 32; /* OBJECT, ZERO */
    assert_int_equal(out.size, space + list.bytes.size);
    assert_memory_equal(out.data + space, list.bytes.data, list.bytes.size);
    repl_segment_free(segment);
    repl_frame_coder_free(coder);
    repl_buffer_fini(&out);
    repl_buffer_fini(&file.bytes);
    repl_buffer_fini(&list.bytes);
}

static void a_builder_takes_only_what_a_reader_would(void **state)
{
    (void)state;
    const struct repl_record bad[][2] = {
        {{.type = REPL_RECORD_NODE, .object = 4, .node = tree_file(0)},
         {.type = REPL_RECORD_NODE, .object = 3, .node = tree_file(0)}},
        {{.type = REPL_RECORD_NODE, .object = 3, .node = {.kind = REPL_NODE_GONE}},
         {.type = REPL_RECORD_HOLE, .object = 3, .length = 4096}},
        {{.type = REPL_RECORD_NODE, .object = 3, .node = tree_file(4096)},
         {.type = REPL_RECORD_RUN, .object = 3, .length = 4096, .place = TREE_SPACE_SIZE}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct list list = {.at = 0};
        struct memory_file file = {.sink_limit = 0};
        struct repl_error err = {.text = ""};
        list_add(&list, bad[i][0]);
        list_add(&list, bad[i][1]);
        assert_int_equal(tree_build(&list, &file, &err).code, REPL_E_CORRUPT);
        assert_string_not_equal(err.text, "");
        repl_buffer_fini(&file.bytes);
        repl_buffer_fini(&list.bytes);
    }
}

/* Cut off anywhere, a record is refused, and no byte behind it is read. */
static void a_record_that_is_cut_off_is_refused(void **state)
{
    (void)state;
    struct random random = {3};
    struct list list = {.at = 0};
    for (uint64_t object = REPL_OBJECT_ROOT; object < 60; object++)
        object_add(&list, &random, object);
    while (list.at < list.bytes.size) {
        struct repl_record record;
        bool done;
        size_t begin = list.at;
        assert_true(repl_ok(list_next(&list, &record, &done, NULL)));
        for (size_t size = 0; size < list.at - begin; size++) {
            uint8_t *exact = malloc(size + 1); /* what is read behind it, a sanitizer sees */
            assert_non_null(exact);
            memcpy(exact, list.bytes.data + begin, size);
            struct repl_reader r = repl_reader_of(exact, size);
            repl_record_decode(&r, &record);
            assert_true(r.failed);
            free(exact);
        }
    }
    repl_buffer_fini(&list.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(comes_back_as_it_went_in),
        cmocka_unit_test(a_builder_takes_only_what_a_reader_would),
        cmocka_unit_test(a_record_that_is_cut_off_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
