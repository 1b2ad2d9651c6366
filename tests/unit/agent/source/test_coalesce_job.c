/*
 * Segments of a spool made into one: of a tree, with its names.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "block/read_full.h"
#include "source/coalesce_job.h"
#include "source/spool.h"
#include "unit/segment/tree_list.h"
#include "unit/temporary.h"

#define SIZE (16u * REPL_PAGE_SIZE)

struct fixture {
    struct temporary directory;
    int dir_fd;
    struct repl_loop *loop;
    struct repl_frame_coder *coder;
    struct repl_digest last;
    struct repl_coalesce_result result;
    bool done;
};

static int set_up(void **state)
{
    static struct fixture f;
    struct repl_loop_options options = {.workers = 1};
    f = (struct fixture){.dir_fd = -1};
    if (temporary_make(&f.directory) != 0 || !repl_ok(repl_frame_coder_new(&f.coder, NULL)) ||
        !repl_ok(repl_loop_new(&options, &f.loop, NULL)))
        return -1;
    f.dir_fd = open(f.directory.path, O_RDONLY | O_DIRECTORY);
    *state = &f;
    return f.dir_fd < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_loop_free(f->loop);
    repl_frame_coder_free(f->coder);
    close(f->dir_fd);
    temporary_remove(&f->directory);
    return 0;
}

static void file_write(const struct fixture *f, uint64_t number, const struct repl_buffer *bytes)
{
    char name[REPL_SPOOL_NAME_SIZE];
    repl_spool_name(number, REPL_SPOOL_SEGMENT, name);
    int fd = openat(f->dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && write(fd, bytes->data, bytes->size) == (ssize_t)bytes->size);
    close(fd);
}

/* The change from point number to the next: one page of the space, filled with the number, and
 * these records. */
static void segment_write(struct fixture *f, uint64_t number, struct list *list)
{
    struct repl_segment_header header = tree_header(number, number + 1);
    struct repl_segment_builder *b;
    struct repl_segment_footer footer;
    struct memory_file file = {.sink_limit = 0};
    struct craft points = {.footer = {0}};
    uint8_t page[REPL_PAGE_SIZE];
    memset(page, (int)number, sizeof page);
    if (number > 1)
        header.prev = f->last;
    assert_true(repl_ok(repl_segment_builder_new(&header, SIZE, memory_sink, &file, &b, NULL)));
    struct repl_extent extent = {.offset = 0,
                                 .length = REPL_PAGE_SIZE,
                                 .source = add_frame(b, f->coder, page, sizeof page),
                                 .type = REPL_RECORD_DATA};
    assert_true(repl_ok(repl_segment_builder_extent(b, &extent, NULL)));
    repl_segment_builder_records(b, list_next, list);
    craft_point(&points, number + 1, 0);
    assert_true(repl_ok(repl_segment_builder_finish(b, points.points, 1, &footer, NULL)));
    repl_segment_builder_free(b);
    f->last = footer.digest;
    file_write(f, number, &file.bytes);
    repl_buffer_fini(&file.bytes);
    repl_buffer_fini(&list->bytes);
    list->at = 0;
}

static void coalesced(void *context, const struct repl_coalesce_result *result)
{
    struct fixture *f = context;
    f->result = *result;
    f->done = true;
}

static void coalesce(struct fixture *f, const uint64_t *numbers, size_t count, uint64_t into)
{
    struct repl_coalesce_job *job;
    f->done = false;
    assert_true(repl_ok(repl_coalesce_job_start(f->loop, f->dir_fd, numbers, count, into, coalesced,
                                                f, &job, NULL)));
    while (!f->done)
        assert_true(repl_ok(repl_loop_once(f->loop, 1000, NULL)));
}

static repl_result read_at(void *context, uint64_t offset, void *out, size_t size,
                           struct repl_error *err)
{
    const int *fd = context;
    return repl_read_full(*fd, out, size, offset) == (ssize_t)size
               ? REPL_SUCCESS
               : repl_fail(err, REPL_E_CORRUPT, "it ends there");
}

/* The tree's records of segment number, encoded. */
static struct repl_buffer records_of(struct fixture *f, uint64_t number)
{
    char name[REPL_SPOOL_NAME_SIZE];
    struct stat status;
    struct repl_segment *segment;
    struct repl_record_walk walk;
    struct list list = {.at = 0};
    repl_spool_name(number, REPL_SPOOL_SEGMENT, name);
    int fd = openat(f->dir_fd, name, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && fstat(fd, &status) == 0);
    assert_true(repl_ok(repl_segment_open(read_at, &fd, (uint64_t)status.st_size, &segment, NULL)));
    assert_true(segment->header.features == (REPL_FEATURE_TREE | REPL_FEATURE_PAGES));
    assert_int_equal(segment->footer.point_count, 3);
    repl_record_walk_begin(&walk, segment, f->coder);
    for (bool done = false; !done;) {
        struct repl_record record;
        assert_true(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (!done && record.object != REPL_OBJECT_DEVICE)
            list_add(&list, record);
    }
    repl_record_walk_end(&walk);
    repl_segment_free(segment);
    close(fd);
    return list.bytes;
}

static void a_trees_segments_become_one(void **state)
{
    struct fixture *f = *state;
    struct list list = {.at = 0}, wanted = {.at = 0};
    const uint64_t numbers[] = {1, 2, 3};
    list_node(&list, 3, tree_file(8192));
    list_run(&list, 3, 0, 8192, 0);
    list_node(&list, 4, tree_file(0));
    segment_write(f, 1, &list);
    list_name(&list, 2, "a", 3);
    list_node(&list, 4, (struct repl_node){.kind = REPL_NODE_GONE});
    segment_write(f, 2, &list);
    list_name(&list, 2, "a", 0);
    list_run(&list, 3, 0, 4096, 12288);
    list_node(&list, 4, (struct repl_node){.kind = REPL_NODE_GONE});
    segment_write(f, 3, &list);
    coalesce(f, numbers, 3, 9);
    if (!repl_ok(f->result.result))
        fail_msg("%s", f->result.err.text);
    assert_true(f->result.into == 9 && f->result.header.volume_kind == REPL_VOLUME_TREE);
    assert_true(f->result.header.from_seq == 1 && f->result.header.to_seq == 4);
    assert_int_equal(f->result.footer.raw_size, REPL_PAGE_SIZE); /* of three that lay there */
    list_name(&wanted, 2, "a", 0);
    list_node(&wanted, 3, tree_file(8192));
    list_run(&wanted, 3, 0, 4096, 12288);
    list_run(&wanted, 3, 4096, 4096, 4096);
    list_node(&wanted, 4, (struct repl_node){.kind = REPL_NODE_GONE});
    struct repl_buffer records = records_of(f, 9);
    assert_int_equal(records.size, wanted.bytes.size);
    assert_memory_equal(records.data, wanted.bytes.data, records.size);
    repl_buffer_fini(&records);
    repl_buffer_fini(&wanted.bytes);
}

/* What makes no sense together stays as it is. */
static void what_cannot_be_merged_leaves_no_file(void **state)
{
    struct fixture *f = *state;
    struct list list = {.at = 0};
    const uint64_t numbers[] = {1, 2};
    list_node(&list, 4, (struct repl_node){.kind = REPL_NODE_GONE});
    segment_write(f, 1, &list);
    list_node(&list, 4, tree_file(0));
    segment_write(f, 2, &list);
    coalesce(f, numbers, 2, 9);
    assert_int_equal(f->result.result.code, REPL_E_CORRUPT);
    assert_non_null(strstr(f->result.err.text, "which was gone before"));
    char name[REPL_SPOOL_NAME_SIZE];
    repl_spool_name(9, REPL_SPOOL_SEGMENT, name);
    assert_int_equal(faccessat(f->dir_fd, name, F_OK, 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_trees_segments_become_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_merged_leaves_no_file, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
