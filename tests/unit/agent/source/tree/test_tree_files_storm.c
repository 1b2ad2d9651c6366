/*
 * Points of a tree that are cut per file, in a tree that never rests: each file is one of its own
 * states.
 */
#include "unit/agent/source/tree/tree_cut.h"

#include <pthread.h>
#include <stdatomic.h>

#include "epoch.h"

#define FILES  6u
#define PAGES  9u /* each with its file's number, all of them the same */
#define POINTS 12u
#define ROUNDS 16u

static atomic_bool storm_over;
static atomic_ullong numbers[FILES]; /* of the newest version that was begun */

static void version_write(int fd, uint64_t number)
{
    _Alignas(REPL_PAGE_SIZE) uint64_t page[REPL_PAGE_SIZE / sizeof(uint64_t)];
    for (size_t i = 0; i < REPL_PAGE_SIZE / sizeof *page; i++)
        page[i] = number;
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(pwrite(fd, page, sizeof page, (off_t)(i * sizeof page)), sizeof page);
}

/* Now and then one of them is written anew, in place; every other one directly, if that can be. */
static void *versions(void *context)
{
    struct rig *rig = context;
    for (uint64_t n = 1; !atomic_load(&storm_over); n++) {
        char name[8], path[400];
        snprintf(name, sizeof name, "v%u", (unsigned)(n % FILES));
        at(rig, path, name);
        int fd = open(path, O_WRONLY | O_CLOEXEC | (n % 2 == 0 ? O_DIRECT : 0));
        fd = fd < 0 ? open(path, O_WRONLY | O_CLOEXEC) : fd;
        assert_true(fd >= 0);
        atomic_store(&numbers[n % FILES], n);
        version_write(fd, n);
        close(fd);
        usleep(20000);
    }
    return NULL;
}

/* Never rests: a log, a file that is replaced, one written in place, names that move. */
static void *storm(void *context)
{
    struct rig *rig = context;
    char log[400], busy[400], d[400], e[400], in[400];
    at(rig, log, "log");
    at(rig, busy, "busy");
    at(rig, d, "m0");
    at(rig, e, "b0/m0");
    at(rig, in, "m0/b0");
    int log_fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    int busy_fd = open(busy, O_RDWR | O_CLOEXEC);
    for (uint64_t n = 1; !atomic_load(&storm_over); n++) {
        char text[32];
        snprintf(text, sizeof text, "line %llu\n", (unsigned long long)n);
        if (write(log_fd, text, strlen(text)) < 0)
            break;
        replace(rig, "replaced", text);
        version_write(busy_fd, n);
        if (rename(d, e) == 0) /* m0 into b0, and back, and the other way round */
            (void)!rename(e, d);
        at(rig, busy, "b0");
        if (rename(busy, in) == 0)
            (void)!rename(in, busy);
        usleep(500);
    }
    close(log_fd);
    close(busy_fd);
    return NULL;
}

static bool is_unstable(const struct rig *rig, uint64_t object)
{
    const struct repl_buffer *unstable = &rig->tree->unstable;
    uint64_t one;
    for (size_t at = 0; at < unstable->size; at += sizeof one) {
        memcpy(&one, unstable->data + at, sizeof one);
        if (one == object)
            return true;
    }
    return false;
}

/* One version of it, begun when the point was cut at the latest, and not before the one before. */
static void version_check(const struct copy *copy, unsigned file, uint64_t *before)
{
    char name[8];
    uint64_t number, first = 0;
    snprintf(name, sizeof name, "v%u", file);
    uint64_t object = object_of(copy, name);
    const struct copy_record *run = copy_find(copy, object, REPL_RECORD_RUN, "");
    assert_non_null(run);
    assert_true(run->record.length >= PAGES * REPL_PAGE_SIZE);
    if (is_unstable(copy->rig, object))
        return;
    for (size_t i = 0; i < PAGES * REPL_PAGE_SIZE; i += sizeof number) {
        memcpy(&number, copy->space + run->record.place + i, sizeof number);
        first = i == 0 ? number : first;
        if (number != first)
            fail_msg("%s is torn: %llu, and %llu at %zu", name, (unsigned long long)first,
                     (unsigned long long)number, i);
    }
    assert_true(first >= *before && first <= atomic_load(&numbers[file]));
    *before = first;
}

static void storm_files(struct rig *rig)
{
    char path[400], name[8];
    for (unsigned i = 0; i <= FILES; i++) {
        snprintf(name, sizeof name, i < FILES ? "v%u" : "busy", i);
        at(rig, path, name);
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        assert_true(fd >= 0);
        version_write(fd, 0);
        close(fd);
    }
    make_directory(rig, "m0");
    make_directory(rig, "b0");
    put(rig, "m0/x", "it moves");
    put(rig, "b0/y", "so does this");
    put(rig, "replaced", "line 0\n");
}

/* As the pipeline does it, which cuts nothing while some may have been overlooked. How many files
 * were none of one moment. */
static uint64_t files_cut(struct rig *rig)
{
    uint64_t count = 1;
    for (unsigned i = 0; i < ROUNDS ? count != 0 : count == REPL_UNSTABLE_UNKNOWN; i++) {
        assert_true(i < 100 * ROUNDS);
        look(rig, i == 0 ? REPL_TREE_LOOK_FILES : REPL_TREE_LOOK_AGAIN);
        pages_read(rig);
        count = unstable(rig);
    }
    cut(rig);
    return count;
}

static void in_a_storm_each_file_is_one_of_its_versions(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    pthread_t threads[2];
    struct copy copy;
    uint64_t before[FILES] = {0}, most = 0, all = 0;
    storm_files(rig);
    assert_true(point(rig));
    atomic_store(&storm_over, false);
    assert_int_equal(pthread_create(&threads[0], NULL, versions, rig), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, storm, rig), 0);
    for (unsigned i = 0; i < POINTS; i++) {
        usleep(30000);
        uint64_t count = files_cut(rig);
        most = count > most ? count : most;
        copy_make(rig, &copy);
        assert_true(object_of(&copy, "replaced") != 0);
        for (unsigned f = 0; f < FILES; f++)
            version_check(&copy, f, &before[f]);
        copy_free(&copy);
    }
    atomic_store(&storm_over, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (unsigned f = 0; f < FILES; f++)
        all += before[f];
    print_message("%llu files were unstable in a point at most\n", (unsigned long long)most);
    assert_true(all > 0);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_a_storm_each_file_is_one_of_its_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
