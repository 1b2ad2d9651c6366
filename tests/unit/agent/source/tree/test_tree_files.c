/*
 * Points of a tree that are cut per file: what changed while it was read is read again, and each
 * file is one of its own states; the names make up a tree; and nothing is forgotten.
 */
#define EXCLUDED "*.tmp" /* by no path, for which a directory that was moved is looked through */
#include "unit/agent/source/tree/tree_compare.h"
#include "unit/agent/source/tree/tree_files.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/xattr.h>

#include "epoch.h"
#include "recover/verify_tree.h"
#include "source/tree/tree_internal.h"
#include "source/tree/tree_names.h"

static void make_directory(struct rig *rig, const char *name)
{
    char path[400];
    at(rig, path, name);
    assert_int_equal(mkdir(path, 0755), 0);
}

static void drop(struct rig *rig, const char *name)
{
    char path[400];
    at(rig, path, name);
    assert_int_equal(unlink(path), 0);
}

static void move(struct rig *rig, const char *from, const char *to)
{
    char old[400], new[400];
    at(rig, old, from);
    at(rig, new, to);
    assert_int_equal(rename(old, new), 0);
}

/* As whoever replaces a file does it. */
static void replace(struct rig *rig, const char *name, const char *text)
{
    put(rig, "new.tmp", text);
    move(rig, "new.tmp", name);
}

/* Its path from below the filesystem's top that nobody else writes to. */
static struct rig *rig_of(void)
{
    struct rig *rig = rig_new(false);
    if (rig == NULL)
        skip();
    put(rig, "a", "what is in a");
    put(rig, "b", "what is in b");
    make_directory(rig, "d");
    put(rig, "d/below", "what is below d");
    assert_true(point(rig));
    assert_copied(rig);
    return rig;
}

static void look(struct rig *rig, enum repl_tree_look how)
{
    gather_as(rig, how);
    while (repl_tree_hides(rig->tree))
        gather_as(rig, REPL_TREE_LOOK_AGAIN);
}

static void pages_take(struct rig *rig)
{
    const struct repl_tree_pages *found = (const void *)rig->found.pages.data;
    for (size_t i = 0; i < rig->found.pages.size / sizeof *found; i++)
        repl_bitmap_set(&rig->dirty, found[i].page, found[i].count);
}

/* What was heard of by now is looked at after something else has happened. */
static void look_after(struct rig *rig, void (*happens)(struct rig *rig))
{
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    repl_tree_gather_begin(rig->tree, rig_is_full(rig), REPL_TREE_LOOK_FILES);
    happens(rig);
    OK(rig, repl_tree_gather(rig->tree, &rig->found, &rig->err));
    pages_take(rig);
    if (repl_tree_hides(rig->tree))
        look(rig, REPL_TREE_LOOK_AGAIN);
}

static uint64_t unstable(struct rig *rig)
{
    uint64_t count;
    bool same;
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    OK(rig, repl_tree_unstable(rig->tree, &same, &count, &rig->err));
    return count;
}

/* All segments from the last full on. */
static void assert_is_tree(struct rig *rig)
{
    const struct repl_segment *segments[SEGMENTS_MAX];
    size_t first = rig->count, count = 0;
    while (first > 0 && !rig->pieces[--first].full) {
    }
    for (size_t i = first; i < rig->count; i++)
        segments[count++] = rig->pieces[i].segment;
    OK(rig, repl_verify_tree(segments, count, NULL, &rig->err));
}

static void cut(struct rig *rig)
{
    assert_true(tell(rig));
    assert_is_tree(rig);
}

/* The point of the next quiet moment has everything. */
static void assert_nothing_forgotten(struct rig *rig)
{
    assert_false(repl_tree_is_idle(rig->tree));
    point(rig);
    assert_copied(rig);
    assert_is_tree(rig);
}

/* The object that the name at the top leads to; 0: none. */
static uint64_t object_of(const struct copy *copy, const char *name)
{
    const struct copy_record *c = copy_find(copy, REPL_OBJECT_ROOT, REPL_RECORD_NAME, name);
    return c != NULL ? c->record.child : 0;
}

/* What the copy has of the file; NULL: there is none. */
static const char *text_in(struct rig *rig, const char *name)
{
    static char text[REPL_PAGE_SIZE + 1];
    struct copy copy;
    copy_make(rig, &copy);
    uint64_t object = object_of(&copy, name);
    const struct copy_record *run =
        object != 0 ? copy_find(&copy, object, REPL_RECORD_RUN, "") : NULL;
    if (run != NULL) {
        size_t size = copy_object_of(&copy, object)->node.size;
        memcpy(text, copy.space + run->record.place, size);
        text[size] = '\0';
    }
    copy_free(&copy);
    return run != NULL ? text : NULL;
}

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

/* --- files that go --------------------------------------------------------------------------- */

/* So many others have changed that what is changed now is not kept open, at first. */
static void hold_others(struct rig *rig)
{
    char name[16];
    for (unsigned i = 0; i < REPL_TREE_HELD_MAX; i++) {
        snprintf(name, sizeof name, "other%u", i);
        put(rig, name, "it is held");
    }
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
}

static void a_file_that_is_replaced_before_it_is_read_is_kept_open(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    replace(rig, "a", "the second file");
    put(rig, "b", "the second of b");
    look(rig, REPL_TREE_LOOK_FILES);
    replace(rig, "a", "the third file");
    drop(rig, "b");
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    assert_string_equal(text_in(rig, "a"), "the second file");
    assert_string_equal(text_in(rig, "b"), "the second of b");
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void one_of_many_that_is_replaced_all_the_time_is_one_of_them(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    hold_others(rig);
    replace(rig, "a", "the second file");
    look(rig, REPL_TREE_LOOK_FILES);
    replace(rig, "a", "the third file");
    pages_read(rig); /* of the second nothing is left */
    assert_true(unstable(rig) == REPL_UNSTABLE_UNKNOWN);
    look(rig, REPL_TREE_LOOK_AGAIN);
    replace(rig, "a", "the fourth file");
    pages_read(rig); /* the third was kept open */
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    assert_string_equal(text_in(rig, "a"), "the third file");
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void one_of_many_that_goes_before_it_is_read_is_gone(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    hold_others(rig);
    put(rig, "a", "nobody reads this");
    put(rig, "d/below", "nor this");
    look(rig, REPL_TREE_LOOK_FILES);
    drop(rig, "a");
    drop(rig, "d/below");
    char path[400];
    at(rig, path, "d");
    assert_int_equal(rmdir(path), 0);
    pages_read(rig);
    assert_true(unstable(rig) == REPL_UNSTABLE_UNKNOWN);
    look(rig, REPL_TREE_LOOK_AGAIN);
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    assert_null(text_in(rig, "a"));
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void one_of_several_names_goes_with_all_of_them(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    char from[400], to[400];
    hold_others(rig);
    at(rig, from, "a");
    for (unsigned i = 0; i < 3; i++) {
        static const char *const names[] = {"a1", "a2", "d/a3"};
        at(rig, to, names[i]);
        assert_int_equal(link(from, to), 0);
    }
    put(rig, "a", "nobody reads this");
    look(rig, REPL_TREE_LOOK_FILES);
    drop(rig, "a");
    drop(rig, "a1");
    drop(rig, "a2");
    replace(rig, "d/a3", "another file");
    pages_read(rig);
    assert_true(unstable(rig) == REPL_UNSTABLE_UNKNOWN);
    look(rig, REPL_TREE_LOOK_AGAIN);
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    assert_null(text_in(rig, "a"));
    assert_null(text_in(rig, "a1"));
    assert_null(text_in(rig, "a2"));
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

/* --- names ----------------------------------------------------------------------------------- */

static void moves_on(struct rig *rig)
{
    move(rig, "e", "f");
}

/* Neither where it was nor where it is heard to be. */
static void a_directory_that_moves_on_is_found(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct copy copy;
    copy_make(rig, &copy);
    uint64_t before = object_of(&copy, "d");
    copy_free(&copy);
    move(rig, "d", "e");
    look_after(rig, moves_on);
    pages_read(rig);
    unstable(rig);
    cut(rig);
    copy_make(rig, &copy);
    assert_int_equal(object_of(&copy, "f"), before);
    assert_int_equal(object_of(&copy, "d"), 0);
    copy_free(&copy);
    assert_copied(rig);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

#define BIG 64u /* pages: where it was written to is gone by */

static void big_write(struct rig *rig, unsigned page, char with)
{
    char path[400], bytes[REPL_PAGE_SIZE];
    at(rig, path, "big");
    memset(bytes, with, sizeof bytes);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, (off_t)page * REPL_PAGE_SIZE), sizeof bytes);
    close(fd);
}

static void moves_on_and_writes(struct rig *rig)
{
    big_write(rig, 0, 'b');
    moves_on(rig);
}

/* Between the two looks before it is read. */
static void what_changes_before_what_is_hidden_is_found_is_read(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct copy copy;
    for (unsigned page = 0; page < BIG; page++)
        big_write(rig, page, 'a');
    for (unsigned i = 0; i < 2; i++) { /* when it is where it stays */
        big_write(rig, 5, 'a');
        assert_true(point(rig));
    }
    move(rig, "d", "e");
    big_write(rig, 1, 'b');
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    repl_tree_gather_begin(rig->tree, rig_is_full(rig), REPL_TREE_LOOK_FILES);
    moves_on_and_writes(rig);
    OK(rig, repl_tree_gather(rig->tree, &rig->found, &rig->err));
    pages_take(rig);
    assert_true(repl_tree_hides(rig->tree));
    big_write(rig, 20, 'b');
    look(rig, REPL_TREE_LOOK_AGAIN);
    pages_read(rig);
    big_write(rig, 21, 'b'); /* of which is heard later than of the one before */
    assert_int_equal(unstable(rig), 1);
    look(rig, REPL_TREE_LOOK_AGAIN);
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    copy_make(rig, &copy);
    const struct copy_record *run = copy_find(&copy, object_of(&copy, "big"), REPL_RECORD_RUN, "");
    for (unsigned page = 0; page < BIG; page++)
        assert_int_equal(copy.space[run->record.place + page * REPL_PAGE_SIZE],
                         page < 2 || page / 2 == 10 ? 'b' : 'a');
    copy_free(&copy);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void moves_out(struct rig *rig)
{
    move(rig, "d", "../outside/d");
}

static void a_directory_that_leaves_the_tree_is_gone(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    put(rig, "d/below", "it has to be looked at");
    move(rig, "d", "e");
    move(rig, "e", "d");
    look_after(rig, moves_out);
    pages_read(rig);
    unstable(rig);
    look(rig, REPL_TREE_LOOK_AGAIN);
    cut(rig);
    assert_copied(rig);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void turns_inside_out(struct rig *rig)
{
    move(rig, "d/in", "in");
    move(rig, "d", "in/d");
}

/* The one that was below is heard of later than the other, in it. */
static void directories_that_change_places_are_no_circle(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct copy copy;
    make_directory(rig, "d/in");
    put(rig, "d/in/c", "what is in c");
    assert_true(point(rig));
    put(rig, "d/in/d", "a file of this name");
    drop(rig, "d/in/d");
    copy_make(rig, &copy);
    uint64_t before = copy_find(&copy, object_of(&copy, "d"), REPL_RECORD_NAME, "in")->record.child;
    copy_free(&copy);
    look_after(rig, turns_inside_out);
    pages_read(rig);
    unstable(rig);
    cut(rig);
    copy_make(rig, &copy);
    assert_int_equal(object_of(&copy, "in"), before);
    assert_int_equal(object_of(&copy, "d"), 0);
    copy_free(&copy);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

/* Until it is broken; its path is asked for, for patterns. */
static void the_path_of_a_directory_in_a_circle_ends(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct repl_tree_changes changes = {.files = true};
    uint64_t d, in, at = 0;
    char *path;
    make_directory(rig, "d/in");
    make_directory(rig, "d/in/below");
    assert_true(point(rig));
    OK(rig, repl_tree_begin(rig->tree->index, true, &changes.txn, &rig->err));
    OK(rig, repl_tree_name_get(&changes.txn, REPL_OBJECT_ROOT, "d", 1, &d, &rig->err));
    OK(rig, repl_tree_name_get(&changes.txn, d, "in", 2, &in, &rig->err));
    OK(rig, repl_tree_name_get(&changes.txn, in, "below", 5, &at, &rig->err));
    assert_true(d != 0 && in != 0 && at != 0);
    OK(rig, repl_tree_name_set(&changes, in, "d", 1, d, &rig->err));
    OK(rig, repl_tree_path_of(&changes.txn, at, &path, &rig->err));
    assert_true(strlen(path) < 40);
    free(path);
    OK(rig, repl_tree_circles_break(&changes, &rig->err));
    OK(rig, repl_tree_path_of(&changes.txn, at, &path, &rig->err));
    assert_string_equal(path, "in/below/");
    free(path);
    repl_buffer_fini(&changes.nameless);
    repl_buffer_fini(&changes.moved);
    repl_tree_abort(&changes.txn);
    rig_free(rig);
}

/* --- storm ----------------------------------------------------------------------------------- */

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
        cmocka_unit_test(what_changes_while_it_is_read_is_read_again),
        cmocka_unit_test(stores_through_a_mapping_count),
        cmocka_unit_test(what_is_never_stable_is_taken_as_it_was_read),
        cmocka_unit_test(a_file_that_only_gets_longer_is_stable),
        cmocka_unit_test(a_file_that_gets_longer_and_changes_is_not),
        cmocka_unit_test(a_round_in_which_nothing_changed_is_of_one_moment),
        cmocka_unit_test(attributes_are_of_one_moment),
        cmocka_unit_test(a_direct_write_on_its_way_counts),
        cmocka_unit_test(a_file_that_is_replaced_before_it_is_read_is_kept_open),
        cmocka_unit_test(one_of_many_that_is_replaced_all_the_time_is_one_of_them),
        cmocka_unit_test(one_of_many_that_goes_before_it_is_read_is_gone),
        cmocka_unit_test(one_of_several_names_goes_with_all_of_them),
        cmocka_unit_test(a_directory_that_moves_on_is_found),
        cmocka_unit_test(what_changes_before_what_is_hidden_is_found_is_read),
        cmocka_unit_test(a_directory_that_leaves_the_tree_is_gone),
        cmocka_unit_test(directories_that_change_places_are_no_circle),
        cmocka_unit_test(the_path_of_a_directory_in_a_circle_ends),
        cmocka_unit_test(in_a_storm_each_file_is_one_of_its_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
