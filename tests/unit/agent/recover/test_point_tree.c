/*
 * One point of a tree: names, metadata and contents, without a restore.
 */
#include "unit/agent/recover/tree_model.h"

#include <pthread.h>

#include "recover/point_reader.h"

static struct repl_point_reader *reader;

static int tear_reader_down(void **state)
{
    repl_point_close(reader);
    reader = NULL;
    return tear_down(state);
}

static void point_open(struct fixture *f, uint64_t seq)
{
    struct repl_origin *origin;
    if (!repl_ok(model_origin_open(f->model.path, MODEL_VOLUME, &origin, &f->err)) ||
        !repl_ok(repl_history_open(origin, &f->history, &f->err)))
        fail_msg("%s", f->err.text);
    const struct repl_point_options options = {.history = f->history,
                                               .point = (size_t)seq - 1,
                                               .state = f->state,
                                               .fault = note_fault,
                                               .context = f};
    if (!repl_ok(repl_point_open(&options, &reader, &f->err)))
        fail_msg("%s", f->err.text);
}

static struct repl_point_node node_of(struct fixture *f, const char *path)
{
    uint64_t object;
    struct repl_point_node out;
    if (!repl_ok(repl_point_find(reader, path, &object, &f->err)) ||
        !repl_ok(repl_point_node(reader, object, &out, &f->err)))
        fail_msg("%s", f->err.text);
    assert_int_equal(out.object, object);
    return out;
}

static void assert_file(struct fixture *f, const char *path, const uint8_t *wanted, size_t size)
{
    uint8_t *has = malloc(size + 100);
    size_t got = 0;
    struct repl_point_node file = node_of(f, path);
    assert_non_null(has);
    assert_int_equal(file.node.size, size);
    if (!repl_ok(repl_point_file_read(reader, file.object, 0, has, size + 100, &got, &f->err)))
        fail_msg("%s: %s", path, f->err.text);
    assert_int_equal(got, size);
    assert_memory_equal(has, wanted, size);
    free(has);
}

static void test_metadata(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    point_open(f, 1);
    struct repl_point_node file = node_of(f, "/file");
    assert_int_equal(file.node.kind, REPL_NODE_FILE);
    assert_int_equal(file.node.mode, 04755);
    assert_int_equal(file.node.uid, 1000);
    assert_int_equal(file.node.gid, 100);
    assert_int_equal(file.node.mtime_ns, TIME + 3);
    assert_int_equal(file.links, 3);
    assert_int_equal(node_of(f, "hard").object, file.object);
    assert_int_equal(node_of(f, "dir//./hard").object, file.object);
    assert_int_equal(node_of(f, "").object, REPL_OBJECT_ROOT);
    assert_int_equal(node_of(f, "/").parent, REPL_OBJECT_ROOT);
    assert_int_equal(node_of(f, "dir/below").parent, node_of(f, "dir").object);
    assert_int_equal(node_of(f, "dir").links, 1);
    struct repl_point_node link = node_of(f, "link");
    assert_int_equal(link.node.target_size, 10);
    assert_memory_equal(link.node.target, "../nowhere", 10);
    assert_int_equal(node_of(f, "block").node.minor, 99);
    assert_int_equal(node_of(f, "private").node.mtime_ns, -1);
    assert_int_equal(node_of(f, name_255).node.size, 1);
    assert_int_equal(node_of(f, "sparse").data_bytes, 8192);
}

static void test_not_there(void **state)
{
    struct fixture *f = *state;
    struct repl_point_node out;
    uint64_t object;
    size_t got;
    char byte;
    full_make(f, 1);
    point_open(f, 1);
    assert_int_equal(repl_point_find(reader, "dir/none", &object, &f->err).code, REPL_E_MISSING);
    assert_non_null(strstr(f->err.text, "dir/none"));
    assert_int_equal(repl_point_find(reader, "file/none", &object, &f->err).code, REPL_E_MISSING);
    assert_int_equal(repl_point_find(reader, "dir/..", &object, &f->err).code, REPL_E_MISSING);
    assert_int_equal(repl_point_node(reader, 99, &out, &f->err).code, REPL_E_MISSING);
    assert_int_equal(repl_point_file_read(reader, 5, 0, &byte, 1, &got, &f->err).code,
                     REPL_E_MISSING);
    assert_true(repl_ok(repl_point_lookup(reader, 2, "fil", 3, &object, &f->err)));
    assert_int_equal(object, 0);
}

static unsigned list_all(struct fixture *f, uint64_t directory, uint64_t objects[16])
{
    struct repl_point_walk walk = {0};
    struct repl_point_name name;
    unsigned count = 0;
    for (bool found = true;; count++) {
        if (!repl_ok(repl_point_list(reader, directory, &walk, &name, &found, &f->err)))
            fail_msg("%s", f->err.text);
        if (!found)
            return count;
        assert_true(count < 16);
        objects[count] = name.object;
        uint64_t same;
        assert_true(repl_ok(
            repl_point_lookup(reader, directory, name.name, name.name_size, &same, &f->err)));
        assert_int_equal(same, name.object);
        struct repl_point_node node;
        assert_true(repl_ok(repl_point_node(reader, same, &node, &f->err)));
        assert_int_equal(node.node.kind, name.kind);
    }
}

static void test_list(void **state)
{
    struct fixture *f = *state;
    uint64_t objects[16];
    full_make(f, 1);
    point_open(f, 1);
    assert_int_equal(list_all(f, 2, objects), 13);
    assert_int_equal(list_all(f, 5, objects), 2);
    assert_int_equal(list_all(f, 15, objects), 0);
    assert_int_equal(list_all(f, 3, objects), 0);
    assert_int_equal(f->fault_count, 0);
}

/* What makes no sense is named and is not there: a directory within itself, one with two names, a
 * name that leads nowhere. */
static void test_senseless(void **state)
{
    struct fixture *f = *state;
    uint64_t objects[16];
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    NAMES(f, 2, {"a", 3}, {"b", 3}, {"gone", 9});
    node(f, 3, directory_node);
    NAMES(f, 3, {"in", 4});
    node(f, 4, directory_node);
    NAMES(f, 4, {"back", 3});
    point_end(f);
    point_open(f, 1);
    assert_int_equal(f->fault_count, 3);
    assert_int_equal(list_all(f, 2, objects), 1);
    assert_int_equal(objects[0], 3);
    assert_int_equal(list_all(f, 3, objects), 1);
    assert_int_equal(list_all(f, 4, objects), 0);
}

static void test_attributes(void **state)
{
    struct fixture *f = *state;
    struct repl_point_walk walk = {0};
    struct repl_point_attribute attribute;
    uint8_t value[LONG];
    unsigned count = 0;
    full_make(f, 1);
    point_open(f, 1);
    uint64_t object = node_of(f, "file").object;
    for (bool found = true;; count++) {
        assert_true(
            repl_ok(repl_point_attributes(reader, object, &walk, &attribute, &found, &f->err)));
        if (!found)
            break;
        assert_true(attribute.value_size <= LONG);
        assert_true(repl_ok(repl_point_attribute_read(reader, &attribute, value, &f->err)));
        if (attribute.value_size == LONG)
            assert_memory_equal(value, f->model.points[1] + (256u << 10), LONG);
        else if (attribute.value_size == 2)
            assert_memory_equal(value, "\0\xff", 2);
        else
            assert_memory_equal(value, capability, sizeof capability);
    }
    assert_int_equal(count, 3);
}

static void test_contents(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    point_open(f, 1);
    const uint8_t *space = f->model.points[1];
    uint8_t *sparse = calloc(1, (1u << 20) + 100), *below = malloc(300000);
    assert_non_null(sparse);
    assert_non_null(below);
    assert_file(f, "file", space, 10000);
    assert_file(f, "empty", space, 0);
    memcpy(sparse, space + 16384, 4096);
    memcpy(sparse + (1u << 20), space + 20480, 100);
    assert_file(f, "sparse", sparse, (1u << 20) + 100);
    memcpy(below, space + 32768, 200704);
    memcpy(below + 200704, space + 32768 + 8192 + 200704, 300000 - 200704);
    assert_file(f, "dir/below", below, 300000);
    /* from the middle, over the end of a run */
    uint8_t part[9000];
    size_t got;
    uint64_t object = node_of(f, "dir/below").object;
    assert_true(
        repl_ok(repl_point_file_read(reader, object, 200000, part, sizeof part, &got, &f->err)));
    assert_int_equal(got, sizeof part);
    assert_memory_equal(part, below + 200000, sizeof part);
    assert_true(
        repl_ok(repl_point_file_read(reader, object, 299999, part, sizeof part, &got, &f->err)));
    assert_int_equal(got, 1);
    assert_true(
        repl_ok(repl_point_file_read(reader, object, 300001, part, sizeof part, &got, &f->err)));
    assert_int_equal(got, 0);
    free(sparse);
    free(below);
}

static void assert_seek(struct fixture *f, uint64_t offset, bool data, uint64_t wanted)
{
    uint64_t at;
    uint64_t object = node_of(f, "sparse").object;
    assert_true(repl_ok(repl_point_file_seek(reader, object, offset, data, &at, &f->err)));
    assert_int_equal(at, wanted);
}

static void test_holes(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    point_open(f, 1);
    assert_seek(f, 0, true, 0);
    assert_seek(f, 0, false, 4096);
    assert_seek(f, 4096, true, 1u << 20);
    assert_seek(f, 70000, false, 70000);
    assert_seek(f, 1u << 20, false, (1u << 20) + 100);
    assert_seek(f, (1u << 20) + 100, true, (1u << 20) + 100);
}

/* A later point is made of the changes of several segments, and each is as it was. */
static void test_points(void **state)
{
    struct fixture *f = *state;
    uint64_t object;
    full_make(f, 1);
    point_begin(f, 1, 2);
    model_data(&f->model, 0, 8192);
    node(f, 2, directory_node);
    NAMES(f, 2, {"file", 0}, {"later", 3});
    point_end(f);
    point_open(f, 2);
    assert_int_equal(repl_point_find(reader, "file", &object, &f->err).code, REPL_E_MISSING);
    assert_file(f, "later", f->model.points[2], 10000);
    repl_point_close(reader);
    repl_history_close(f->history);
    point_open(f, 1);
    assert_int_equal(repl_point_find(reader, "later", &object, &f->err).code, REPL_E_MISSING);
    assert_file(f, "file", f->model.points[1], 10000);
}

static void *walker(void *context)
{
    struct fixture f = {.model = ((struct fixture *)context)->model};
    uint64_t objects[16];
    for (unsigned i = 0; i < 40; i++) {
        list_all(&f, 2, objects);
        assert_file(&f, "file", f.model.points[1], 10000);
        assert_file(&f, "hard", f.model.points[1], 10000);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[2 * REPL_POINT_SEATS];
    full_make(f, 1);
    point_open(f, 1);
    for (unsigned i = 0; i < 2 * REPL_POINT_SEATS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, walker, f), 0);
    for (unsigned i = 0; i < 2 * REPL_POINT_SEATS; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_metadata, set_up, tear_reader_down),
        cmocka_unit_test_setup_teardown(test_not_there, set_up, tear_reader_down),
        cmocka_unit_test_setup_teardown(test_list, set_up, tear_reader_down),
        cmocka_unit_test_setup_teardown(test_senseless, set_up, tear_reader_down),
        cmocka_unit_test_setup_teardown(test_attributes, set_up, tear_reader_down),
        cmocka_unit_test_setup_teardown(test_contents, set_up, tear_reader_down),
        cmocka_unit_test_setup_teardown(test_holes, set_up, tear_reader_down),
        cmocka_unit_test_setup_teardown(test_points, set_up, tear_reader_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up, tear_reader_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
