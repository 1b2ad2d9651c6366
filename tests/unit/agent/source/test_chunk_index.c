/*
 * The set of chunks the site is known to hold: what went in is found from any
 * thread while the writer goes on, survives a killed process, is bounded, and is
 * begun anew where the file is damaged, another volume's or on a broken disk.
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

#include "source/chunk_index.h"
#include "unit/random.h"
#include "unit/temporary.h"

#define LIMIT 20000u

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
    f.options = (struct repl_chunk_index_options){
        .path = f.path, .volume = {.bytes = {1, 2, 3}}, .limit = LIMIT};
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

static void names_of(uint64_t first, size_t count, struct repl_digest *names)
{
    for (size_t i = 0; i < count; i++)
        names[i] = name_of(first + i);
}

static bool has(struct fixture *f, uint64_t number)
{
    struct repl_digest name = name_of(number);
    return repl_chunk_index_has(f->index, &name);
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
    struct repl_digest *names = malloc(count * sizeof *names);
    assert_non_null(names);
    names_of(first, count, names);
    must(f, repl_chunk_index_add(f->index, names, count, &f->err));
    free(names);
}

static void knows_what_was_added(void **state)
{
    struct fixture *f = *state;
    struct repl_digest gone[2] = {name_of(3), name_of(999)};
    assert_int_equal(count_had(f, 0, 10), 0);
    add(f, 0, 0);
    add(f, 0, 10);
    add(f, 5, 10); /* five of them once more */
    assert_int_equal(count_had(f, 0, 20), 15);
    assert_int_equal(repl_chunk_index_count(f->index), 15);
    must(f, repl_chunk_index_remove(f->index, gone, 2, &f->err));
    assert_false(has(f, 3));
    reopen(f);
    assert_int_equal(count_had(f, 0, 20), 14);
    must(f, repl_chunk_index_clear(f->index, &f->err));
    assert_int_equal(repl_chunk_index_count(f->index), 0);
    assert_int_equal(count_had(f, 0, 20), 0);
    add(f, 7, 1);
    assert_true(has(f, 7));
}

static void another_volumes_is_begun_anew(void **state)
{
    struct fixture *f = *state;
    add(f, 0, 10);
    f->options.volume.bytes[0] = 9;
    reopen(f);
    assert_int_equal(repl_chunk_index_count(f->index), 0);
    add(f, 0, 1);
    reopen(f);
    assert_true(has(f, 0));
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
    struct repl_digest name = name_of(100);
    add(f, 0, 10);
    repl_chunk_index_break_commit(f->index, ENOMEM);
    assert_int_equal(repl_chunk_index_add(f->index, &name, 1, &f->err).code, REPL_E_NOMEM);
    assert_int_equal(count_had(f, 0, 10), 10);
    assert_false(has(f, 100));
    repl_chunk_index_break_commit(f->index, EIO);
    assert_int_equal(repl_chunk_index_add(f->index, &name, 1, &f->err).code, REPL_E_IO);
    assert_int_equal(repl_chunk_index_count(f->index), 0);
    add(f, 0, 10);
    repl_chunk_index_break_commit(f->index, ENOSPC);
    assert_int_equal(repl_chunk_index_add(f->index, &name, 1, &f->err).code, REPL_E_NOSPACE);
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
        struct repl_digest gone = name_of(at + 1);
        add(f, at, 100);
        must(f, repl_chunk_index_remove(f->index, &gone, 1, &f->err));
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
        must(f, repl_chunk_index_clear(f->index, &f->err));
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
    struct repl_digest names[STEP];
    if (!repl_ok(repl_chunk_index_open(&f->options, &f->index, &f->err)))
        _exit(1);
    for (uint64_t at = first;; at += STEP) {
        names_of(at, STEP, names);
        if (!repl_ok(repl_chunk_index_add(f->index, names, STEP, &f->err)) ||
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
        cmocka_unit_test_setup_teardown(another_volumes_is_begun_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_is_begun_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(stays_within_its_bound, set_up, tear_down),
        cmocka_unit_test_setup_teardown(failed_commit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(readers_beside_a_writer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(killed_while_it_writes, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
