/*
 * Points of a tree that are cut per file: what changed while it was read is read again.
 */
#include "unit/agent/source/tree/tree_cut.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/xattr.h>

/* --- files ----------------------------------------------------------------------------------- */

static void what_changes_while_it_is_read_is_read_again(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    put(rig, "a", "the second a");
    look(rig, REPL_TREE_LOOK_FILES);
    pages_read(rig);
    put(rig, "a", "the third one of a");
    put(rig, "b", "b, of which nothing was read");
    assert_int_equal(unstable(rig), 1);
    look(rig, REPL_TREE_LOOK_AGAIN);
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    put(rig, "a", "a, after the point");
    cut(rig);
    assert_string_equal(text_in(rig, "a"), "the third one of a");
    assert_string_equal(text_in(rig, "b"), "what is in b");
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void stores_through_a_mapping_count(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    char path[400];
    at(rig, path, "a");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char *bytes = mmap(NULL, REPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(bytes, MAP_FAILED);
    bytes[0] = 'X';
    look(rig, REPL_TREE_LOOK_FILES);
    for (unsigned i = 0; i < 3; i++) {
        pages_read(rig);
        bytes[0] = (char)('a' + i);
        assert_int_equal(unstable(rig), 1);
        look(rig, REPL_TREE_LOOK_AGAIN);
    }
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    bytes[1] = 'Z';
    cut(rig);
    assert_string_equal(text_in(rig, "a"), "chat is in a");
    assert_nothing_forgotten(rig);
    munmap(bytes, REPL_PAGE_SIZE);
    close(fd);
    rig_free(rig);
}

/* The point is cut all the same, and the next one has what the file is then. */
static void what_is_never_stable_is_taken_as_it_was_read(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    put(rig, "a", "first");
    look(rig, REPL_TREE_LOOK_FILES);
    for (unsigned i = 0; i < 5; i++) {
        pages_read(rig);
        put(rig, "a", i % 2 == 0 ? "even" : "odd");
        assert_int_equal(unstable(rig), 1);
        look(rig, REPL_TREE_LOOK_AGAIN);
    }
    pages_read(rig);
    put(rig, "a", "the last one");
    assert_int_equal(unstable(rig), 1);
    cut(rig);
    assert_string_equal(text_in(rig, "a"), "even");
    assert_nothing_forgotten(rig);
    assert_string_equal(text_in(rig, "a"), "the last one");
    rig_free(rig);
}

/* It is in the point as it was at the look. The site makes such a file longer without being told of
 * its last page once more. */
static void a_file_that_only_gets_longer_is_stable(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct copy copy;
    char path[400];
    at(rig, path, "a");
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    assert_int_equal(write(fd, "+one", 4), 4);
    look(rig, REPL_TREE_LOOK_FILES);
    assert_int_equal(write(fd, "+two", 4), 4);
    put(rig, "b", "another, which was not read");
    pages_read(rig);
    assert_int_equal(unstable(rig), !repl_tree_dirty_is_precise(rig->tree->dirty));
    cut(rig);
    copy_make(rig, &copy);
    const struct copy_record *run = copy_find(&copy, object_of(&copy, "a"), REPL_RECORD_RUN, "");
    assert_memory_equal(copy.space + run->record.place, "what is in a+one\0\0\0\0", 20);
    copy_free(&copy);
    assert_nothing_forgotten(rig);
    close(fd);
    rig_free(rig);
}

static void a_file_that_gets_longer_and_changes_is_not(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {10, REPL_PAGE_SIZE, 50 * REPL_PAGE_SIZE + 7};
    for (unsigned i = 0; i < 3 * 2; i++) {
        struct rig *rig = rig_of();
        char path[400];
        uint64_t size = sizes[i / 2];
        at(rig, path, "a");
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        assert_int_equal(pwrite(fd, "end", 3, (off_t)size - 3), 3);
        look(rig, REPL_TREE_LOOK_FILES);
        assert_int_equal(pwrite(fd, "+", 1, (off_t)size), 1);
        assert_int_equal(pwrite(fd, "X", 1, i % 2 == 0 ? 0 : (off_t)size - 1), 1);
        pages_read(rig);
        assert_int_equal(unstable(rig), 1);
        look(rig, REPL_TREE_LOOK_AGAIN);
        pages_read(rig);
        assert_int_equal(unstable(rig), 0);
        cut(rig);
        assert_nothing_forgotten(rig);
        close(fd);
        rig_free(rig);
    }
}

static void a_round_in_which_nothing_changed_is_of_one_moment(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    bool same = false;
    uint64_t count;
    put(rig, "a", "changed, and at rest");
    for (unsigned tries = 0; !same; tries++) { /* others may write to the filesystem */
        assert_true(tries < 20);
        look(rig, REPL_TREE_LOOK_FILES);
        pages_read(rig);
        OK(rig, repl_tree_hear(rig->tree, &rig->err));
        OK(rig, repl_tree_unstable(rig->tree, &same, &count, &rig->err));
    }
    assert_int_equal(count, 0);
    cut(rig);
    assert_copied(rig);
    rig_free(rig);
}

/* --- attributes ------------------------------------------------------------------------------ */

static const char *racing; /* path: its attributes change when the first of them has been read */

static void attributes_set(const char *path, const char *value)
{
    assert_int_equal(setxattr(path, "user.a", value, 1, 0), 0);
    assert_int_equal(setxattr(path, "user.b", value, 1, 0), 0);
}

/* In place of the library's. */
ssize_t getxattr(const char *path, const char *name, void *value, size_t size)
{
    const char *race = racing;
    ssize_t got = syscall(SYS_getxattr, path, name, value, size);
    if (race != NULL && strcmp(name, "user.a") == 0) {
        racing = NULL;
        usleep(20000); /* another tick of the kernel's clock */
        attributes_set(race, "2");
    }
    return got;
}

/* Of a directory nobody looks whether it has changed meanwhile. */
static void attributes_are_of_one_moment(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct copy copy;
    char path[400];
    at(rig, path, "d");
    attributes_set(path, "1");
    racing = path;
    look(rig, REPL_TREE_LOOK_FILES);
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    copy_make(rig, &copy);
    uint64_t d = object_of(&copy, "d");
    assert_int_equal(copy_find(&copy, d, REPL_RECORD_XATTR, "user.a")->value[0], '2');
    assert_int_equal(copy_find(&copy, d, REPL_RECORD_XATTR, "user.b")->value[0], '2');
    copy_free(&copy);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

/* --- direct writes ---------------------------------------------------------------------------- */

/* One that is on its way until what it writes, which is not there yet, is given. */
struct slow_write {
    pthread_t thread;
    int fd, faults;
    void *memory;
};

static void *slow_write_run(void *context)
{
    struct slow_write *w = context;
    assert_int_equal(pwrite(w->fd, w->memory, REPL_PAGE_SIZE, 0), REPL_PAGE_SIZE);
    return NULL;
}

/* Skips where none can be. Returns when it has begun. */
static void slow_write_begin(struct rig *rig, const char *name, struct slow_write *w)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffd_msg message;
    char path[400];
    at(rig, path, name);
    w->fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    w->faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (w->fd < 0 || w->faults < 0) {
        print_message("not run: %s\n", w->fd < 0 ? "no direct writes" : "no userfaultfd");
        rig_free(rig);
        skip();
    }
    w->memory =
        mmap(NULL, REPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(w->memory, MAP_FAILED);
    struct uffdio_register range = {.range = {(uintptr_t)w->memory, REPL_PAGE_SIZE},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    assert_int_equal(ioctl(w->faults, UFFDIO_API, &api), 0);
    assert_int_equal(ioctl(w->faults, UFFDIO_REGISTER, &range), 0);
    assert_int_equal(pthread_create(&w->thread, NULL, slow_write_run, w), 0);
    assert_int_equal(read(w->faults, &message, sizeof message), sizeof message);
}

static void slow_write_end(struct slow_write *w, const char *text)
{
    _Alignas(REPL_PAGE_SIZE) char page[REPL_PAGE_SIZE] = {0};
    strcpy(page, text);
    struct uffdio_copy copy = {
        .dst = (uintptr_t)w->memory, .src = (uintptr_t)page, .len = REPL_PAGE_SIZE};
    assert_int_equal(ioctl(w->faults, UFFDIO_COPY, &copy), 0);
    pthread_join(w->thread, NULL);
    munmap(w->memory, REPL_PAGE_SIZE);
    close(w->faults);
    close(w->fd);
}

/* Nothing is heard of it between its begin and its end. */
static void a_direct_write_on_its_way_counts(void **state)
{
    (void)state;
    for (unsigned ends = 0; ends < 2; ends++) {
        struct rig *rig = rig_of();
        struct slow_write write;
        char page[REPL_PAGE_SIZE + 1];
        memset(page, 'x', REPL_PAGE_SIZE);
        page[REPL_PAGE_SIZE] = '\0';
        put(rig, "a", page);
        assert_true(point(rig));
        slow_write_begin(rig, "a", &write);
        look(rig, REPL_TREE_LOOK_FILES);
        put(rig, "b", "no moment without a change"); /* in which the write would be none yet */
        for (unsigned i = 0; i < 2; i++) {
            pages_read(rig);
            assert_int_equal(unstable(rig), 1);
            look(rig, REPL_TREE_LOOK_AGAIN);
        }
        if (ends)
            slow_write_end(&write, "written");
        pages_read(rig);
        if (ends && unstable(rig) == 1) { /* its end has been heard of */
            look(rig, REPL_TREE_LOOK_AGAIN);
            pages_read(rig);
        }
        assert_int_equal(unstable(rig), !ends);
        cut(rig);
        if (!ends)
            slow_write_end(&write, "written");
        assert_nothing_forgotten(rig);
        assert_string_equal(text_in(rig, "a"), "written");
        rig_free(rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_changes_while_it_is_read_is_read_again),
        cmocka_unit_test(stores_through_a_mapping_count),
        cmocka_unit_test(what_is_never_stable_is_taken_as_it_was_read),
        cmocka_unit_test(a_file_that_only_gets_longer_is_stable),
        cmocka_unit_test(a_file_that_gets_longer_and_changes_is_not),
        cmocka_unit_test(a_round_in_which_nothing_changed_is_of_one_moment),
        cmocka_unit_test(attributes_are_of_one_moment),
        cmocka_unit_test(a_direct_write_on_its_way_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
