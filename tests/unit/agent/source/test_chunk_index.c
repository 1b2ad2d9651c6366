/*
 * The set of chunks the site is known to hold: what went in is found from any
 * thread while the writer goes on, survives a killed process, is bounded, is apart from
 * what other pools hold, and is begun anew where the file is damaged or on a broken disk.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "format/wire.h"
#include "source/chunk_index.h"
#include "unit/random.h"
#include "unit/temporary.h"

#define LIMIT 20000u
#define POOL  UINT64_C(0x0102030405060708)

struct fixture {
    struct temporary directory;
    char path[512];
    struct repl_chunk_index_options options;
    struct repl_chunk_index *index;
    struct repl_error err;
};

static void must(const struct fixture *f, repl_result result)
{
    if (!repl_ok(result))
        print_error("%s\n", f->err.text);
    assert_true(repl_ok(result));
}

static void reopen(struct fixture *f)
{
    repl_chunk_index_close(f->index);
    f->index = NULL;
    must(f, repl_chunk_index_open(&f->options, &f->index, &f->err));
}

static int set_up(void **state)
{
    static struct fixture f;
    f = (struct fixture){0};
    if (temporary_make(&f.directory) != 0)
        return -1;
    snprintf(f.path, sizeof f.path, "%s/chunks", f.directory.path);
    f.options = (struct repl_chunk_index_options){.path = f.path, .limit = LIMIT};
    *state = &f;
    reopen(&f);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_chunk_index_close(f->index);
    temporary_remove(&f->directory);
    return 0;
}

/* Names as they come: nothing about them is in order. */
static struct repl_digest name_of(uint64_t number)
{
    struct random random = {number};
    struct repl_digest name;
    random_fill(&random, name.bytes, sizeof name.bytes);
    return name;
}

static void prefixes_of(uint64_t first, size_t count, uint64_t *prefixes)
{
    for (size_t i = 0; i < count; i++) {
        const struct repl_digest name = name_of(first + i);
        prefixes[i] = repl_chunk_prefix(&name);
    }
}

static bool has(struct fixture *f, uint64_t number)
{
    struct repl_digest name = name_of(number);
    return repl_chunk_index_has(f->index, POOL, &name);
}

static size_t count_had(struct fixture *f, uint64_t first, size_t count)
{
    size_t had = 0;
    for (size_t i = 0; i < count; i++)
        had += has(f, first + i);
    return had;
}

static void add(struct fixture *f, uint64_t first, size_t count)
{
    uint64_t *prefixes = malloc((count + 1) * sizeof *prefixes);
    assert_non_null(prefixes);
    prefixes_of(first, count, prefixes);
    must(f, repl_chunk_index_add(f->index, POOL, prefixes, count, &f->err));
    free(prefixes);
}

static void knows_what_was_added(void **state)
{
    struct fixture *f = *state;
    uint64_t gone[2];
    prefixes_of(3, 1, &gone[0]);
    prefixes_of(999, 1, &gone[1]);
    assert_int_equal(count_had(f, 0, 10), 0);
    add(f, 0, 0);
    add(f, 0, 10);
    add(f, 5, 10); /* five of them once more */
    assert_int_equal(count_had(f, 0, 20), 15);
    assert_int_equal(repl_chunk_index_count(f->index), 15);
    must(f, repl_chunk_index_remove(f->index, POOL, gone, 2, &f->err));
    assert_false(has(f, 3));
    reopen(f);
    assert_int_equal(count_had(f, 0, 20), 14);
    must(f, repl_chunk_index_clear(f->index, POOL, &f->err));
    assert_int_equal(repl_chunk_index_count(f->index), 0);
    assert_int_equal(count_had(f, 0, 20), 0);
    add(f, 7, 1);
    assert_true(has(f, 7));
}

/* More than are removed in one transaction, and neighbours on either side that stay. */
static void pools_are_apart(void **state)
{
    enum { MANY = 150000 };
    struct fixture *f = *state;
    const struct repl_digest name = name_of(5);
    uint64_t prefix = repl_chunk_prefix(&name), *many = malloc(MANY * sizeof *many);
    assert_non_null(many);
    repl_chunk_index_close(f->index);
    f->index = NULL;
    f->options.limit = 4 * MANY;
    reopen(f);
    must(f, repl_chunk_index_add(f->index, POOL - 1, &prefix, 1, &f->err));
    must(f, repl_chunk_index_add(f->index, POOL + 1, &prefix, 1, &f->err));
    assert_false(has(f, 5));
    prefixes_of(0, MANY, many);
    must(f, repl_chunk_index_add(f->index, POOL, many, MANY, &f->err));
    assert_int_equal(repl_chunk_index_count(f->index), MANY + 2);
    must(f, repl_chunk_index_clear(f->index, POOL, &f->err));
    assert_int_equal(repl_chunk_index_count(f->index), 2);
    assert_true(repl_chunk_index_has(f->index, POOL - 1, &name));
    assert_true(repl_chunk_index_has(f->index, POOL + 1, &name));
    must(f, repl_chunk_index_remove(f->index, POOL + 1, &prefix, 1, &f->err));
    assert_true(repl_chunk_index_has(f->index, POOL - 1, &name));
    assert_false(repl_chunk_index_has(f->index, POOL + 1, &name));
    free(many);
}

static void remembers_which_pool_a_volume_is_in(void **state)
{
    struct fixture *f = *state;
    const struct repl_uuid volume = {.bytes = {1, 2, 3, 4, 5, 6, 7, 8, 9}}, other = {.bytes = {2}};
    uint64_t pool;
    assert_true(repl_chunk_pool_of(&volume) == POOL);
    uint64_t guesses = repl_chunk_index_guesses(f->index);
    must(f, repl_chunk_index_expect(f->index, &volume, 1000, &pool, &f->err));
    assert_true(pool == POOL); /* its own */
    must(f, repl_chunk_index_expect(f->index, &volume, 1000, &pool, &f->err));
    must(f, repl_chunk_index_expect(f->index, &other, 600, &pool, &f->err));
    assert_int_equal(repl_chunk_index_guesses(f->index), guesses + 400);
    must(f, repl_chunk_index_join(f->index, &volume, 77, &f->err));
    reopen(f);
    must(f, repl_chunk_index_expect(f->index, &volume, 0, &pool, &f->err));
    assert_true(pool == 77);
    must(f, repl_chunk_index_expect(f->index, &other, 0, &pool, &f->err));
    assert_true(pool == repl_chunk_pool_of(&other));
}

static void damaged_is_begun_anew(void **state)
{
    struct fixture *f = *state;
    struct stat status;
    static const char garbage[3 * 4096] = "not a tree";
    add(f, 0, 5000);
    repl_chunk_index_close(f->index);
    f->index = NULL;
    assert_int_equal(stat(f->path, &status), 0);
    assert_int_equal(truncate(f->path, status.st_size / 2), 0);
    reopen(f);
    assert_int_equal(repl_chunk_index_count(f->index), 0);
    add(f, 0, 10);
    repl_chunk_index_close(f->index);
    f->index = NULL;
    FILE *file = fopen(f->path, "r+");
    assert_non_null(file);
    assert_int_equal(fwrite(garbage, sizeof garbage, 1, file), 1);
    fclose(file);
    reopen(f);
    assert_int_equal(repl_chunk_index_count(f->index), 0);
}

static void stays_within_its_bound(void **state)
{
    struct fixture *f = *state;
    const size_t step = 2000;
    for (uint64_t at = 0; at < 5u * LIMIT; at += step) {
        add(f, at, step);
        add(f, 0, 20); /* in use all the time */
        assert_int_equal(count_had(f, at, step), step);
        assert_in_range(repl_chunk_index_count(f->index), 1, LIMIT);
    }
    assert_int_equal(count_had(f, 0, 20), 20);
    assert_int_equal(count_had(f, 20, step), 0);
    /* at least half of the bound is always there */
    assert_int_equal(count_had(f, 5u * LIMIT - LIMIT / 2 + step, LIMIT / 2 - step),
                     LIMIT / 2 - step);
    add(f, 0, 3u * LIMIT); /* more at once than there is room for */
    assert_in_range(repl_chunk_index_count(f->index), 1, LIMIT);
}

static void failed_commit(void **state)
{
    struct fixture *f = *state;
    uint64_t prefix;
    prefixes_of(100, 1, &prefix);
    add(f, 0, 10);
    repl_chunk_index_break_commit(f->index, ENOMEM);
    assert_int_equal(repl_chunk_index_add(f->index, POOL, &prefix, 1, &f->err).code, REPL_E_NOMEM);
    assert_int_equal(count_had(f, 0, 10), 10);
    assert_false(has(f, 100));
    repl_chunk_index_break_commit(f->index, EIO);
    assert_int_equal(repl_chunk_index_add(f->index, POOL, &prefix, 1, &f->err).code, REPL_E_IO);
    assert_int_equal(repl_chunk_index_count(f->index), 0);
    add(f, 0, 10);
    repl_chunk_index_break_commit(f->index, ENOSPC);
    assert_int_equal(repl_chunk_index_add(f->index, POOL, &prefix, 1, &f->err).code,
                     REPL_E_NOSPACE);
    assert_int_equal(repl_chunk_index_count(f->index), 0);
    add(f, 0, 10);
    reopen(f);
    assert_int_equal(count_had(f, 0, 10), 10);
}

/* --- readers beside a writer ----------------------------------------------------------------- */

struct reader {
    struct fixture *fixture;
    atomic_bool stop;
    size_t wrong;
};

static void *read_on(void *context)
{
    struct reader *reader = context;
    while (!atomic_load(&reader->stop)) {
        for (uint64_t i = 0; i < 50; i++)
            reader->wrong += !has(reader->fixture, i) || has(reader->fixture, 1000000 + i);
    }
    return NULL;
}

static void readers_beside_a_writer(void **state)
{
    struct fixture *f = *state;
    struct reader readers[4];
    pthread_t threads[4];
    add(f, 0, 50);
    for (int i = 0; i < 4; i++) {
        readers[i].fixture = f;
        readers[i].wrong = 0;
        atomic_init(&readers[i].stop, false);
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, &readers[i]), 0);
    }
    for (uint64_t at = 100; at < 4000; at += 100) {
        uint64_t gone;
        prefixes_of(at + 1, 1, &gone);
        add(f, at, 100);
        must(f, repl_chunk_index_remove(f->index, POOL, &gone, 1, &f->err));
    }
    for (int i = 0; i < 4; i++) {
        atomic_store(&readers[i].stop, true);
        pthread_join(threads[i], NULL);
        assert_int_equal(readers[i].wrong, 0);
    }
    /* begun anew under them: known or not, but nothing worse */
    for (int i = 0; i < 4; i++) {
        atomic_store(&readers[i].stop, false);
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, &readers[i]), 0);
    }
    for (int i = 0; i < 20; i++) {
        must(f, repl_chunk_index_clear(f->index, POOL, &f->err));
        add(f, 0, 50);
    }
    for (int i = 0; i < 4; i++) {
        atomic_store(&readers[i].stop, true);
        pthread_join(threads[i], NULL);
    }
}

/* --- a killed writer ------------------------------------------------------------------------- */

#define STEP 64u

/* Adds for ever, and says after each commit how far it is. */
static void child_run(struct fixture *f, uint64_t first, int out)
{
    uint64_t prefixes[STEP];
    if (!repl_ok(repl_chunk_index_open(&f->options, &f->index, &f->err)))
        _exit(1);
    for (uint64_t at = first;; at += STEP) {
        prefixes_of(at, STEP, prefixes);
        if (!repl_ok(repl_chunk_index_add(f->index, POOL, prefixes, STEP, &f->err)) ||
            write(out, &at, sizeof at) != sizeof at)
            _exit(1);
    }
}

static void killed_while_it_writes(void **state)
{
    struct fixture *f = *state;
    struct random random = random_begin("chunk_index", 1);
    uint64_t first = 0;
    f->options.limit = 1u << 20;
    for (int round = 0; round < 15; round++) {
        int fds[2];
        repl_chunk_index_close(f->index);
        f->index = NULL;
        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        if (pid == 0)
            child_run(f, first, fds[1]);
        assert_true(pid > 0);
        close(fds[1]);
        usleep((useconds_t)(5000 + random_below(&random, 40000)));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        uint64_t said, steps = 0;
        while (read(fds[0], &said, sizeof said) == sizeof said)
            steps++;
        close(fds[0]);
        reopen(f);
        /* all it said, and of the next transaction all or nothing */
        first += steps * STEP;
        assert_int_equal(count_had(f, 0, first), first);
        size_t more = count_had(f, first, STEP);
        assert_true(more == 0 || more == STEP);
        assert_int_equal(repl_chunk_index_count(f->index), first + more);
        first += more;
        add(f, first, STEP);
        first += STEP;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(knows_what_was_added, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pools_are_apart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(remembers_which_pool_a_volume_is_in, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_is_begun_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stays_within_its_bound, set_up, tear_down),
        cmocka_unit_test_setup_teardown(failed_commit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(readers_beside_a_writer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(killed_while_it_writes, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
