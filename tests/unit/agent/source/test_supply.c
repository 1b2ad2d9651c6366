/*
 * What is held of chunks that were sent by name: each once a segment, on disk in
 * full, gone with its segment; and a supply that carries exactly what was asked
 * for, or none at all.
 */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/hash.h"
#include "segment/segment_reader.h"
#include "segment/segment_verify.h"
#include "source/supply.h"
#include "unit/agent/source/spooled.h"
#include "unit/random.h"
#include "unit/temporary.h"

#define CHUNKS (REPL_BATCH_PAGES / REPL_CHUNK_PAGES)

struct fixture {
    struct temporary directory;
    struct repl_loop *loop;
    struct repl_supply supply;
    struct repl_batch batch;
    int dir_fd;
    struct repl_error err;
};

static void must(const struct fixture *f, repl_result result)
{
    if (!repl_ok(result))
        print_error("%s\n", f->err.text);
    assert_true(repl_ok(result));
}

static void progress(void *context, struct repl_spool_file *file, repl_result result,
                     const struct repl_error *err)
{
    (void)context;
    (void)file;
    (void)err;
    assert_true(repl_ok(result));
}

static int set_up(void **state)
{
    static struct fixture f;
    struct repl_loop_options options = {.workers = 2};
    f = (struct fixture){0};
    if (temporary_make(&f.directory) != 0)
        return -1;
    f.dir_fd = open(f.directory.path, O_RDONLY | O_DIRECTORY);
    if (f.dir_fd < 0 || !repl_ok(repl_loop_new(&options, &f.loop, &f.err)) ||
        !repl_ok(repl_batch_init(&f.batch, &f.err)))
        return -1;
    repl_supply_init(&f.supply, f.loop, f.dir_fd, progress, &f);
    *state = &f;
    return 0;
}

static void drain(struct fixture *f)
{
    for (int turns = 0; f->supply.spool.writes_out > 0; turns++) {
        assert_in_range(turns, 0, 1000);
        must(f, repl_loop_once(f->loop, 1000, &f->err));
    }
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    drain(f);
    repl_supply_fini(&f->supply);
    repl_batch_fini(&f->batch);
    repl_loop_free(f->loop);
    close(f->dir_fd);
    temporary_remove(&f->directory);
    return 0;
}

/* A chunk's content by a number; even ones compress. */
static void chunk_fill(uint64_t content, uint8_t *out)
{
    struct random random = {content + 1};
    random_fill(&random, out, REPL_CHUNK_SIZE);
    if (content % 2 == 0)
        memset(out + REPL_PAGE_SIZE, (int)content + 1, REPL_CHUNK_SIZE - REPL_PAGE_SIZE);
}

static struct repl_digest chunk_name(uint64_t content)
{
    static uint8_t bytes[REPL_CHUNK_SIZE];
    struct repl_digest pages[REPL_CHUNK_PAGES], name;
    struct repl_sha256 *sha;
    assert_true(repl_ok(repl_sha256_new(&sha, NULL)));
    chunk_fill(content, bytes);
    for (unsigned i = 0; i < REPL_CHUNK_PAGES; i++)
        repl_page_digest(sha, bytes + i * REPL_PAGE_SIZE, REPL_PAGE_SIZE, &pages[i]);
    repl_chunk_name(sha, pages, &name);
    repl_sha256_free(sha);
    return name;
}

static const struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                                  .kind = REPL_SEGMENT_CHANGES,
                                                  .volume_kind = REPL_VOLUME_BLOCK,
                                                  .from_seq = 4,
                                                  .to_seq = 5,
                                                  .part = 2,
                                                  .created_ns = 77,
                                                  .prev = {.bytes = {1}}};

/* All but the chunk of content 99, which is sent as bytes. */
static bool knows(void *context, const struct repl_digest *name)
{
    struct repl_digest other = chunk_name(99);
    (void)context;
    return !repl_digest_equal(name, &other);
}

/* A batch of chunks with these contents, held for segment number; returns the bytes it took. */
static uint64_t hold(struct fixture *f, uint64_t number, const uint64_t *contents, unsigned count)
{
    uint64_t bytes = 1;
    assert_true(count <= CHUNKS);
    repl_batch_clear(&f->batch);
    f->batch.volume_size = REPL_FRAME_RAW_MAX;
    f->batch.chunk_known = knows;
    assert_int_equal(repl_batch_add(&f->batch, 0, (uint64_t)count * REPL_CHUNK_PAGES),
                     count * REPL_CHUNK_PAGES);
    memset(f->batch.held, 0, sizeof f->batch.held);
    for (unsigned i = 0; i < count; i++)
        chunk_fill(contents[i], f->batch.pages + (size_t)i * REPL_CHUNK_SIZE);
    must(f, repl_batch_reduce(&f->batch, &f->err));
    must(f, repl_supply_hold(&f->supply, number, &f->batch, &bytes, &f->err));
    spooled_write(f->dir_fd, number, &header);
    /* what is on its way to the disk is a copy */
    memset(f->batch.pages, 0xee, REPL_FRAME_RAW_MAX);
    return bytes;
}

static size_t names_count(struct fixture *f, uint64_t number)
{
    struct repl_buffer names = {0};
    must(f, repl_supply_names(&f->supply, number, &names, &f->err));
    size_t count = names.size / sizeof(struct repl_digest);
    repl_buffer_fini(&names);
    return count;
}

static repl_result read_at(void *context, uint64_t offset, void *out, size_t size,
                           struct repl_error *err)
{
    const int *fd = context;
    if (pread(*fd, out, size, (off_t)offset) == (ssize_t)size)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_IO, "short read");
}

/* It is a supply for the segment, and holds these contents and no more. */
static void assert_supplies(struct fixture *f, struct repl_supply_plan *plan,
                            const uint64_t *contents, uint32_t count)
{
    struct repl_segment *segment;
    struct repl_frame_coder *coder;
    must(f, repl_segment_open(read_at, &plan->fd, plan->size, &segment, &f->err));
    must(f, repl_frame_coder_new(&coder, &f->err));
    must(f, repl_segment_verify(segment, coder, &f->err));
    assert_int_equal(segment->header.kind, REPL_SEGMENT_SUPPLY);
    assert_true(segment->header.from_seq == 4 && segment->header.to_seq == 5 &&
                segment->header.part == 2 && segment->header.created_ns == 77);
    assert_int_equal(segment->footer.chunk_count, count);
    for (uint32_t i = 0; i < count; i++) {
        struct repl_digest name = chunk_name(contents[i]);
        uint32_t k = 0;
        while (k < count && !repl_digest_equal(&segment->chunks[k].name, &name))
            k++;
        assert_true(k < count);
    }
    repl_frame_coder_free(coder);
    repl_segment_free(segment);
}

static repl_result plan_make(struct fixture *f, uint64_t number, const uint64_t *contents,
                             size_t count, struct repl_supply_plan *plan)
{
    struct repl_digest names[64];
    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++)
        names[i] = chunk_name(contents[i]);
    struct repl_segment_header wanted = header;
    wanted.volume_kind = 0; /* the segment has it */
    return repl_supply_plan(&f->supply, number, &wanted, names, count, plan, &f->err);
}

static void holds_each_chunk_once(void **state)
{
    struct fixture *f = *state;
    const uint64_t first[] = {1, 2, 1, 3, 99, 2, 4}, second[] = {4, 5}, none[] = {99};
    struct repl_supply_plan plan;
    assert_true(hold(f, 7, first, 7) == 4 * REPL_CHUNK_SIZE);
    assert_true(hold(f, 7, second, 2) == REPL_CHUNK_SIZE);
    assert_true(hold(f, 8, second, 2) == 2 * REPL_CHUNK_SIZE);
    assert_true(hold(f, 9, none, 1) == 0);
    assert_int_equal(names_count(f, 7), 6); /* carried or referred to */
    assert_int_equal(names_count(f, 8), 2);
    assert_int_equal(names_count(f, 9), 1);
    assert_int_equal(names_count(f, 10), 0);
    drain(f);
    assert_true(repl_supply_is_readable(&f->supply, 7));
    const uint64_t asked[] = {5, 2, 3};
    must(f, plan_make(f, 7, asked, 3, &plan));
    must(f, repl_supply_build(&plan, &f->err));
    assert_supplies(f, &plan, asked, 3);
    repl_supply_plan_fini(&plan);
}

static void supplies_more_than_a_frame(void **state)
{
    struct fixture *f = *state;
    struct repl_supply_plan plan;
    uint64_t contents[3 * CHUNKS];
    for (uint64_t i = 0; i < 3 * CHUNKS; i++)
        contents[i] = 100 + i;
    for (unsigned i = 0; i < 3; i++)
        assert_true(hold(f, 1, contents + (size_t)i * CHUNKS, CHUNKS) ==
                    (uint64_t)CHUNKS * REPL_CHUNK_SIZE);
    drain(f);
    must(f, plan_make(f, 1, contents, 2 * CHUNKS + 5, &plan));
    must(f, repl_supply_build(&plan, &f->err));
    assert_supplies(f, &plan, contents, 2 * CHUNKS + 5);
    repl_supply_plan_fini(&plan);
}

static void a_supply_is_of_its_segments_kind(void **state)
{
    struct fixture *f = *state;
    const uint64_t contents[] = {1};
    struct repl_segment_header tree = header;
    struct repl_supply_plan plan;
    tree.volume_kind = REPL_VOLUME_TREE;
    tree.features = REPL_FEATURE_TREE;
    hold(f, 1, contents, 1);
    hold(f, 2, contents, 1);
    spooled_write(f->dir_fd, 2, &tree);
    drain(f);
    must(f, plan_make(f, 1, contents, 1, &plan));
    assert_true(plan.header.volume_kind == REPL_VOLUME_BLOCK &&
                plan.header.features == REPL_FEATURE_PAGES);
    repl_supply_plan_fini(&plan);
    must(f, plan_make(f, 2, contents, 1, &plan));
    assert_true(plan.header.volume_kind == REPL_VOLUME_TREE);
    must(f, repl_supply_build(&plan, &f->err));
    assert_supplies(f, &plan, contents, 1); /* opened, its feature fits its kind */
    repl_supply_plan_fini(&plan);
    spooled_write(f->dir_fd, 2, &(struct repl_segment_header){.version = 7});
    assert_int_equal(plan_make(f, 2, contents, 1, &plan).code, REPL_E_VERSION);
}

static void what_is_not_held_is_not_supplied(void **state)
{
    struct fixture *f = *state;
    const uint64_t contents[] = {1, 2}, asked[] = {1, 3};
    struct repl_supply_plan plan;
    hold(f, 1, contents, 2);
    drain(f);
    assert_int_equal(plan_make(f, 1, asked, 2, &plan).code, REPL_E_MISSING);
    assert_int_equal(plan_make(f, 2, asked, 1, &plan).code, REPL_E_MISSING);
}

static unsigned files_count(const struct fixture *f)
{
    unsigned count = 0;
    DIR *dir = opendir(f->directory.path);
    assert_non_null(dir);
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += strstr(entry->d_name, ".supply") != NULL;
    closedir(dir);
    return count;
}

static void dropped_with_its_segment(void **state)
{
    struct fixture *f = *state;
    const uint64_t contents[] = {1, 2, 3};
    struct repl_supply_plan plan;
    hold(f, 1, contents, 3);
    hold(f, 2, contents, 3);
    drain(f);
    assert_int_equal(files_count(f), 2);
    must(f, plan_make(f, 1, contents, 3, &plan));
    repl_supply_drop(&f->supply, 1);
    assert_int_equal(files_count(f), 1);
    assert_int_equal(names_count(f, 1), 0);
    /* one that was begun goes on */
    must(f, repl_supply_build(&plan, &f->err));
    assert_supplies(f, &plan, contents, 3);
    repl_supply_plan_fini(&plan);
    repl_supply_drop(&f->supply, 2);
    repl_supply_drop(&f->supply, 3);
    assert_int_equal(files_count(f), 0);
}

/* The names as they are read back from what lies there; contents in the order of the file. */
static struct repl_buffer names_of(const uint64_t *contents, size_t count)
{
    struct repl_buffer names = {0};
    for (size_t i = 0; i < count; i++) {
        struct repl_digest name = chunk_name(contents[i]);
        assert_true(repl_ok(repl_buffer_append(&names, &name, sizeof name, NULL)));
    }
    return names;
}

static void what_an_earlier_run_held_is_supplied(void **state)
{
    struct fixture *f = *state;
    const uint64_t contents[] = {1, 2, 99, 3}, held[] = {1, 2, 3}, carried[] = {99};
    const uint64_t asked[] = {3, 1};
    struct repl_supply_plan plan;
    hold(f, 5, contents, 4);
    drain(f);
    repl_supply_fini(&f->supply);
    repl_supply_init(&f->supply, f->loop, f->dir_fd, progress, f);
    struct repl_buffer held_names = names_of(held, 3), carried_names = names_of(carried, 1);
    struct repl_buffer none = {0};
    must(f, repl_supply_adopt(&f->supply, 5, &carried_names, &held_names, &f->err));
    assert_true(held_names.size == 0 && carried_names.size == 0);
    must(f, repl_supply_adopt(&f->supply, 6, &none, &none, &f->err));
    assert_int_equal(names_count(f, 5), 4);
    assert_true(repl_supply_is_readable(&f->supply, 5));
    must(f, plan_make(f, 5, asked, 2, &plan));
    must(f, repl_supply_build(&plan, &f->err));
    assert_supplies(f, &plan, asked, 2);
    repl_supply_plan_fini(&plan);
    assert_true(hold(f, 7, held, 3) == 3 * REPL_CHUNK_SIZE); /* beside it, things go on */
    drain(f);
    assert_int_equal(files_count(f), 2);
    repl_supply_drop(&f->supply, 5);
    assert_int_equal(files_count(f), 1);
    /* one that is not as long as its names say */
    repl_supply_fini(&f->supply);
    repl_supply_init(&f->supply, f->loop, f->dir_fd, progress, f);
    held_names = names_of(held, 2);
    assert_int_equal(repl_supply_adopt(&f->supply, 7, &none, &held_names, &f->err).code,
                     REPL_E_CORRUPT);
}

static void rot_is_not_supplied(void **state)
{
    struct fixture *f = *state;
    const uint64_t contents[] = {1, 2};
    struct repl_supply_plan plan;
    char path[512];
    hold(f, 1, contents, 2);
    drain(f);
    snprintf(path, sizeof path, "%s/%020d.supply", f->directory.path, 1);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0 && pwrite(fd, "x", 1, REPL_CHUNK_SIZE + 5000) == 1);
    must(f, plan_make(f, 1, contents, 1, &plan));
    must(f, repl_supply_build(&plan, &f->err)); /* the other one is whole */
    repl_supply_plan_fini(&plan);
    must(f, plan_make(f, 1, contents, 2, &plan));
    assert_int_equal(repl_supply_build(&plan, &f->err).code, REPL_E_CORRUPT);
    repl_supply_plan_fini(&plan);
    assert_int_equal(ftruncate(fd, REPL_CHUNK_SIZE), 0);
    must(f, plan_make(f, 1, contents, 2, &plan));
    assert_int_equal(repl_supply_build(&plan, &f->err).code, REPL_E_IO);
    repl_supply_plan_fini(&plan);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(holds_each_chunk_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(supplies_more_than_a_frame, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_supply_is_of_its_segments_kind, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_held_is_not_supplied, set_up, tear_down),
        cmocka_unit_test_setup_teardown(dropped_with_its_segment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_an_earlier_run_held_is_supplied, set_up, tear_down),
        cmocka_unit_test_setup_teardown(rot_is_not_supplied, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
