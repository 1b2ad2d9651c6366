/*
 * Deduplication's shell: names become known when their segment is acknowledged
 * and not before, are forgotten when the site lacks them or has lost the volume,
 * and a supply is made of what is held, off the loop's thread.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "source/chunk_index.h"
#include "source/dedup.h"
#include "unit/agent/source/spooled.h"
#include "unit/random.h"
#include "unit/temporary.h"

struct fixture {
    struct temporary directory;
    struct repl_loop *loop;
    struct repl_chunk_index *index;
    struct repl_dedup *dedup;
    struct repl_batch batch;
    int spool_fd;
    struct repl_error err;
    unsigned supplies;
    repl_result supply_result;
    uint64_t supply_size;
    struct repl_segment_header supply_header;
};

static void must(const struct fixture *f, repl_result result)
{
    if (!repl_ok(result))
        print_error("%s\n", f->err.text);
    assert_true(repl_ok(result));
}

static void moved(void *context, uint64_t number, repl_result result, const struct repl_error *err)
{
    (void)number;
    (void)context;
    (void)err;
    assert_true(repl_ok(result));
}

static void supply_made(void *context, int fd, uint64_t size,
                        const struct repl_segment_header *header, repl_result result,
                        const struct repl_error *err)
{
    struct fixture *f = context;
    struct stat status;
    (void)err;
    f->supplies++;
    f->supply_result = result;
    f->supply_size = size;
    f->supply_header = *header;
    if (repl_ok(result))
        assert_true(fstat(fd, &status) == 0 && (uint64_t)status.st_size == size);
}

static void drain(struct fixture *f)
{
    for (int turns = 0; !repl_dedup_is_idle(f->dedup); turns++) {
        assert_in_range(turns, 0, 1000);
        must(f, repl_loop_once(f->loop, 1000, &f->err));
    }
}

static void reopen(struct fixture *f)
{
    char path[512];
    snprintf(path, sizeof path, "%s/chunks", f->directory.path);
    const struct repl_chunk_index_options of_index = {.path = path, .limit = 1 << 16};
    repl_dedup_free(f->dedup);
    repl_chunk_index_close(f->index);
    must(f, repl_chunk_index_open(&of_index, &f->index, &f->err));
    const struct repl_dedup_options options = {.loop = f->loop,
                                               .index = f->index,
                                               .name = "data",
                                               .volume = {.bytes = {1}},
                                               .volume_size = 1u << 20,
                                               .spool_fd = f->spool_fd,
                                               .moved = moved,
                                               .supply_made = supply_made,
                                               .context = f};
    must(f, repl_dedup_new(&options, &f->dedup, &f->err));
    assert_true(repl_dedup_is_idle(f->dedup));
    repl_dedup_start(f->dedup);
    drain(f);
}

static int set_up(void **state)
{
    static struct fixture f;
    struct repl_loop_options options = {.workers = 2};
    f = (struct fixture){0};
    if (temporary_make(&f.directory) != 0)
        return -1;
    f.spool_fd = open(f.directory.path, O_RDONLY | O_DIRECTORY);
    if (f.spool_fd < 0 || !repl_ok(repl_loop_new(&options, &f.loop, &f.err)) ||
        !repl_ok(repl_batch_init(&f.batch, &f.err)))
        return -1;
    *state = &f;
    reopen(&f);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    drain(f);
    repl_dedup_free(f->dedup);
    repl_chunk_index_close(f->index);
    repl_batch_fini(&f->batch);
    repl_loop_free(f->loop);
    close(f->spool_fd);
    temporary_remove(&f->directory);
    return 0;
}

/* One chunk of that content, reduced and kept for segment number; true: it was sent by name. */
static bool send(struct fixture *f, uint64_t number, uint64_t content, struct repl_digest *name)
{
    struct random random = {content};
    uint64_t kept;
    repl_batch_clear(&f->batch);
    f->batch.volume_size = REPL_CHUNK_SIZE;
    f->batch.chunk_known = repl_dedup_known;
    f->batch.chunk_context = f->dedup;
    repl_batch_add(&f->batch, 0, REPL_CHUNK_PAGES);
    memset(f->batch.held, 0, sizeof f->batch.held);
    random_fill(&random, f->batch.pages, REPL_CHUNK_SIZE);
    must(f, repl_batch_reduce(&f->batch, &f->err));
    must(f, repl_dedup_keep(f->dedup, number, &f->batch, &kept, &f->err));
    bool by_name = f->batch.reference_count == 1;
    assert_true(kept == (by_name ? REPL_CHUNK_SIZE : 0));
    *name = by_name ? f->batch.references[0].name : f->batch.chunks[0].name;
    return by_name;
}

static void acknowledge(struct fixture *f, uint64_t number)
{
    repl_dedup_acknowledged(f->dedup, number);
    repl_dedup_drop(f->dedup, number);
    drain(f);
}

static struct repl_missing missing_of(const struct repl_digest *name)
{
    struct repl_missing missing = {.count = 1, .names = malloc(sizeof *name)};
    assert_non_null(missing.names);
    missing.names[0] = *name;
    return missing;
}

static void known_once_acknowledged(void **state)
{
    struct fixture *f = *state;
    struct repl_digest name;
    assert_false(send(f, 1, 10, &name));
    assert_false(send(f, 2, 10, &name)); /* not yet */
    repl_dedup_drop(f->dedup, 2);        /* given up: never */
    drain(f);
    assert_false(repl_dedup_known(f->dedup, &name));
    acknowledge(f, 1);
    assert_true(send(f, 3, 10, &name));
    acknowledge(f, 3);
    reopen(f);
    assert_true(repl_dedup_known(f->dedup, &name));
    repl_dedup_forget(f->dedup);
    assert_false(repl_dedup_known(f->dedup, &name)); /* at once */
    drain(f);
    assert_false(repl_dedup_known(f->dedup, &name));
    assert_false(send(f, 4, 10, &name));
    acknowledge(f, 4);
    assert_true(repl_dedup_known(f->dedup, &name));
}

static void supplies_what_is_missing(void **state)
{
    struct fixture *f = *state;
    struct repl_digest name;
    const struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                               .kind = REPL_SEGMENT_SUPPLY,
                                               .volume_kind = REPL_VOLUME_BLOCK,
                                               .to_seq = 9};
    assert_false(send(f, 1, 10, &name));
    acknowledge(f, 1);
    assert_true(send(f, 2, 10, &name)); /* still being written when it is asked for */
    spooled_write(f->spool_fd, 2, &header);
    struct repl_missing missing = missing_of(&name);
    repl_dedup_missing(f->dedup, &missing);
    assert_null(missing.names);
    repl_dedup_supply(f->dedup, 2, &header);
    assert_int_equal(f->supplies, 0);
    drain(f);
    must(f, f->supply_result);
    assert_true(f->supplies == 1 && f->supply_size > REPL_CHUNK_SIZE);
    assert_true(f->supply_header.to_seq == 9);
    repl_dedup_sent(f->dedup);
    assert_false(repl_dedup_known(f->dedup, &name));
    acknowledge(f, 2);
    assert_true(repl_dedup_known(f->dedup, &name)); /* now it is there */
    /* of a segment that is gone */
    missing = missing_of(&name);
    repl_dedup_missing(f->dedup, &missing);
    repl_dedup_supply(f->dedup, 2, &header);
    assert_int_equal(f->supplies, 1); /* never from within */
    drain(f);
    assert_true(f->supplies == 2 && f->supply_result.code == REPL_E_MISSING);
    repl_dedup_sent(f->dedup);
}

static void goes_without_an_index(void **state)
{
    struct fixture *f = *state;
    struct repl_digest name;
    char path[512];
    repl_dedup_free(f->dedup);
    f->dedup = NULL;
    repl_chunk_index_close(f->index);
    f->index = NULL;
    snprintf(path, sizeof path, "%s/chunks", f->directory.path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    reopen(f);
    assert_false(send(f, 1, 10, &name));
    acknowledge(f, 1);
    assert_false(send(f, 2, 10, &name));
    repl_dedup_forget(f->dedup);
    drain(f);
    assert_false(repl_dedup_known(f->dedup, &name));
    /* mended: what could not be forgotten is, and what comes is remembered */
    assert_int_equal(rmdir(path), 0);
    acknowledge(f, 2);
    assert_true(repl_dedup_known(f->dedup, &name));
}

/* What the site says of a pool is known, and is forgotten where it was wrong; in another pool none
 * of it is. */
static void learns_what_the_pool_holds(void **state)
{
    struct fixture *f = *state;
    struct repl_digest name, other;
    struct repl_pool_names page = {.count = 2, .prefixes = calloc(2, sizeof(uint64_t))};
    const struct repl_uuid own = {.bytes = {1}};
    assert_false(send(f, 1, 10, &name));
    assert_false(send(f, 2, 11, &other));
    page.prefixes[0] = repl_chunk_prefix(&name);
    page.prefixes[1] = repl_chunk_prefix(&other);
    assert_false(repl_dedup_is_shared(f->dedup));
    repl_dedup_join(f->dedup, 77);
    repl_dedup_learn(f->dedup, &page);
    assert_int_equal(page.count, 0);
    assert_true(repl_dedup_is_learning(f->dedup));
    drain(f);
    assert_false(repl_dedup_is_learning(f->dedup));
    assert_true(repl_dedup_is_shared(f->dedup));
    assert_true(send(f, 3, 10, &name));
    assert_true(send(f, 4, 11, &other));
    struct repl_missing missing = missing_of(&name);
    repl_dedup_missing(f->dedup, &missing);
    drain(f);
    assert_false(repl_dedup_known(f->dedup, &name));
    assert_true(repl_dedup_known(f->dedup, &other));
    reopen(f); /* it is remembered which pool it is in */
    assert_true(repl_dedup_known(f->dedup, &other));
    repl_dedup_join(f->dedup, repl_chunk_pool_of(&own));
    drain(f);
    assert_false(repl_dedup_known(f->dedup, &other));
}

/* Two volumes of one pool know of each other's at once. */
static void volumes_of_a_pool_share_the_index(void **state)
{
    struct fixture *f = *state;
    struct repl_digest name;
    struct repl_dedup *first = f->dedup, *second;
    const struct repl_dedup_options options = {.loop = f->loop,
                                               .index = f->index,
                                               .name = "web",
                                               .volume = {.bytes = {2}},
                                               .volume_size = 1u << 20,
                                               .spool_fd = f->spool_fd,
                                               .moved = moved,
                                               .supply_made = supply_made,
                                               .context = f};
    must(f, repl_dedup_new(&options, &second, &f->err));
    repl_dedup_start(second);
    f->dedup = second;
    drain(f);
    f->dedup = first;
    assert_false(send(f, 1, 10, &name));
    acknowledge(f, 1);
    assert_false(repl_dedup_known(second, &name));
    repl_dedup_join(first, 77);
    repl_dedup_join(second, 77);
    acknowledge(f, 1); /* drains */
    f->dedup = second;
    drain(f);
    f->dedup = first;
    assert_false(send(f, 2, 10, &name));
    acknowledge(f, 2);
    assert_true(repl_dedup_known(second, &name));
    repl_dedup_free(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(known_once_acknowledged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(supplies_what_is_missing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(goes_without_an_index, set_up, tear_down),
        cmocka_unit_test_setup_teardown(learns_what_the_pool_holds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(volumes_of_a_pool_share_the_index, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
