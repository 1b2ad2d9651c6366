/*
 * Trees that make sense, and each way in which one may not, said in words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "recover/verify_tree.h"
#include "unit/segment/tree_list.h"

#define PAGE         REPL_PAGE_SIZE
#define SPACE        (16u * PAGE)
#define SEGMENTS_MAX 3

struct fixture {
    struct repl_frame_coder *coder;
    struct memory_file files[SEGMENTS_MAX];
    struct memory_span spans[SEGMENTS_MAX];
    struct repl_segment *segments[SEGMENTS_MAX];
    size_t count;
    struct list list; /* of the next one */
    uint64_t space;
    struct repl_error err;
};

static int set_up(void **state)
{
    static struct fixture f;
    f = (struct fixture){.space = SPACE};
    *state = &f;
    return repl_ok(repl_frame_coder_new(&f.coder, NULL)) ? 0 : -1;
}

static void segments_drop(struct fixture *f)
{
    for (; f->count > 0; f->count--) {
        repl_segment_free(f->segments[f->count - 1]);
        repl_buffer_fini(&f->files[f->count - 1].bytes);
    }
    memset(f->files, 0, sizeof f->files);
    f->space = SPACE;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    segments_drop(f);
    repl_frame_coder_free(f->coder);
    return 0;
}

/* The next segment, the first of which is a full, of the records in the list. */
static void segment_end(struct fixture *f)
{
    size_t i = f->count++;
    struct repl_segment_header header = tree_header(i, i + 1);
    struct repl_segment_builder *b;
    struct repl_segment_footer footer;
    struct craft points = {.footer = {0}};
    const struct repl_extent zeros = {.length = f->space, .type = REPL_RECORD_ZERO};
    assert_true(
        repl_ok(repl_segment_builder_new(&header, f->space, memory_sink, &f->files[i], &b, NULL)));
    assert_true(repl_ok(repl_segment_builder_extent(b, &zeros, NULL)));
    repl_segment_builder_records(b, list_next, &f->list);
    craft_point(&points, i + 1, 0);
    if (!repl_ok(repl_segment_builder_finish(b, points.points, 1, &footer, &f->err)))
        fail_msg("%s", f->err.text);
    repl_segment_builder_free(b);
    repl_buffer_fini(&f->list.bytes);
    f->list.at = 0;
    f->spans[i] = (struct memory_span){f->files[i].bytes.data, f->files[i].bytes.size};
    assert_true(repl_ok(
        repl_segment_open(memory_read_at, &f->spans[i], f->spans[i].size, &f->segments[i], NULL)));
}

static repl_result verify(struct fixture *f)
{
    return repl_verify_tree((const struct repl_segment *const *)f->segments, f->count, NULL,
                            &f->err);
}

/* Judges what there is and drops it. words NULL: it makes sense. */
static void expect(struct fixture *f, const char *words)
{
    segment_end(f);
    repl_result result = verify(f);
    if (words == NULL && !repl_ok(result))
        fail_msg("%s", f->err.text);
    if (words != NULL && (result.code != REPL_E_CORRUPT || strstr(f->err.text, words) == NULL))
        fail_msg("%s: '%s' does not say '%s'", repl_code_name(result.code),
                 repl_ok(result) ? "" : f->err.text, words);
    segments_drop(f);
}

/* Directory 4 with file 3 in it; and file 5, to which no name leads. */
static void tree_say(struct fixture *f)
{
    struct list *l = &f->list;
    list_node(l, 2, tree_directory);
    list_name(l, 2, "d", 4);
    list_node(l, 3, tree_file(PAGE));
    list_run(l, 3, 0, PAGE, 0);
    list_node(l, 4, tree_directory);
    list_name(l, 4, "a", 3);
    list_node(l, 5, tree_file(0));
}

/* --- tests ----------------------------------------------------------------------------------- */

static void trees_that_make_sense(void **state)
{
    struct fixture *f = *state;
    struct list *l = &f->list;
    list_node(l, 2, tree_directory);
    expect(f, NULL);
    list_node(l, 2, tree_directory);
    list_name(l, 2, "a", 1000);
    list_node(l, 900, tree_file(0));
    list_node(l, 1000, tree_directory);
    list_name(l, 1000, "a", 900);
    segment_end(f);
    /* moved into a new directory that takes its name; the file gets a second one */
    list_name(l, 2, "a", 950);
    list_node(l, 950, tree_directory);
    list_name(l, 950, "moved", 1000);
    segment_end(f);
    f->space = 2 * SPACE;
    list_node(l, 900, tree_file(3 * PAGE + 1));
    list_run(l, 900, 0, 2 * PAGE, SPACE);
    list_node(l, 950, tree_directory);
    list_name(l, 950, "b", 900);
    expect(f, NULL);
}

static void names_that_lead_nowhere(void **state)
{
    struct fixture *f = *state;
    struct list *l = &f->list;
    list_node(l, 2, tree_directory);
    list_name(l, 2, "a", 7);
    expect(f, "a name in directory 2 leads to object 7, which is not there");
    tree_say(f);
    list_node(l, 6, tree_directory);
    list_name(l, 6, "b", 5);
    segment_end(f);
    list_node(l, 3, (struct repl_node){.kind = REPL_NODE_GONE});
    expect(f, "a name in directory 4 leads to object 3, which is not there, and 1 more things");
    segment_end(f);
    assert_int_equal(verify(f).code, REPL_E_CORRUPT);
    assert_non_null(strstr(f->err.text, "no top directory"));
}

static void objects_without_a_name(void **state)
{
    struct fixture *f = *state;
    struct list *l = &f->list;
    tree_say(f);
    expect(f, "object 5 has no name");
    list_node(l, 2, tree_directory);
    list_node(l, 3, tree_directory);
    expect(f, "object 3 has no name");
}

static void directories_of_several_names_or_within_themselves(void **state)
{
    struct fixture *f = *state;
    struct list *l = &f->list;
    list_node(l, 2, tree_directory);
    list_name(l, 2, "a", 3);
    list_node(l, 3, tree_directory);
    list_node(l, 4, tree_directory);
    list_name(l, 4, "a", 3);
    expect(f, "directory 3 has 2 names");
    /* 3 in 5 in 4 in 3, with 6 hanging from it, and another such, beside a way that is sound */
    list_node(l, 2, tree_directory);
    list_name(l, 2, "a", 7);
    list_node(l, 3, tree_directory);
    list_name(l, 3, "a", 4);
    list_node(l, 4, tree_directory);
    list_name(l, 4, "a", 5);
    list_node(l, 5, tree_directory);
    list_name(l, 5, "a", 3);
    list_node(l, 7, tree_directory);
    list_name(l, 7, "a", 8);
    list_node(l, 8, tree_directory);
    list_node(l, 9, tree_directory);
    list_name(l, 9, "a", 10);
    list_node(l, 10, tree_directory);
    list_name(l, 10, "a", 9);
    expect(f, "directory 3 is within itself, and 1 more things");
}

static void names_and_contents_of_what_is_no_such_thing(void **state)
{
    struct fixture *f = *state;
    struct list *l = &f->list;
    list_node(l, 2, tree_directory);
    list_name(l, 2, "a", 3);
    list_node(l, 3, tree_file(0));
    list_name(l, 4, "a", 3);
    expect(f, "object 4 has names, and nothing says what it is");
    list_node(l, 2, tree_directory);
    list_run(l, 4, 0, PAGE, 0);
    list_run(l, 4, 2 * PAGE, PAGE, 0);
    expect(f, "object 4 has contents, and nothing says what it is");
    list_node(l, 2, tree_directory);
    list_name(l, 2, "a", 3);
    list_node(l, 3, tree_file(0));
    segment_end(f);
    list_name(l, 3, "b", 3 + 1);
    expect(f, "object 3: a name in what is no directory");
    list_node(l, 2, tree_directory);
    list_name(l, 2, "a", 3);
    list_node(l, 3, tree_file(0));
    segment_end(f);
    list_node(l, 3, tree_directory);
    list_name(l, 3, "b", 4);
    segment_end(f);
    list_run(l, 3, 0, PAGE, 0);
    expect(f, "object 3");
}

/* Each was within the space when it was said; then that shrank. */
static void places_outside_of_the_space(void **state)
{
    struct fixture *f = *state;
    struct list *l = &f->list;
    for (unsigned attribute = 0; attribute < 2; attribute++) {
        list_node(l, 2, tree_directory);
        list_name(l, 2, "a", 3);
        list_node(l, 3, tree_file(PAGE));
        if (attribute)
            list_add(l, (struct repl_record){.type = REPL_RECORD_XATTR,
                                             .object = 3,
                                             .name = "user.a",
                                             .name_size = 6,
                                             .value_size = 5000,
                                             .place = SPACE - 2 * PAGE});
        else
            list_run(l, 3, 0, PAGE, SPACE - PAGE);
        segment_end(f);
        f->space = SPACE - PAGE;
        expect(f, attribute ? "object 3: an attribute's value lies outside the space"
                            : "object 3: the run at offset 0 lies outside the space");
    }
}

static void an_interrupt_is_told(void **state)
{
    struct fixture *f = *state;
    const atomic_bool yes = true;
    tree_say(f);
    segment_end(f);
    assert_int_equal(
        repl_verify_tree((const struct repl_segment *const *)f->segments, f->count, &yes, &f->err)
            .code,
        REPL_E_RETRY);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(trees_that_make_sense),
        TEST(names_that_lead_nowhere),
        TEST(objects_without_a_name),
        TEST(directories_of_several_names_or_within_themselves),
        TEST(names_and_contents_of_what_is_no_such_thing),
        TEST(places_outside_of_the_space),
        TEST(an_interrupt_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
