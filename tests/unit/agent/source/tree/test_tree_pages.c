/*
 * A large file that is written to here and there: what is read of it, and that it is what changed,
 * by all that changes a file, and several of them from one round to the next. On the filesystem of
 * TMPDIR.
 */
#include "unit/agent/source/tree/tree_compare.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "unit/slow_memory.h"

#define SIZE   (UINT64_C(4) << 20)
#define CHUNK  (UINT64_C(64) << 10)
#define PAGE   REPL_PAGE_SIZE
#define ROUNDS 80
#define TRIES  30

struct world {
    struct rig *rig;
    char path[400], other[400];
    int fd;
    uint64_t random;
};

static uint64_t any(struct world *w, uint64_t below)
{
    w->random = w->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (w->random >> 33) % below;
}

static void fill(struct world *w, uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)any(w, 256);
}

/* --- what changes it; false: not on this filesystem ------------------------------------------ */

static void bytes_write(struct world *w, int fd, uint64_t offset, size_t size)
{
    static uint8_t bytes[CHUNK];
    assert_true(size <= sizeof bytes);
    fill(w, bytes, size);
    assert_int_equal(pwrite(fd, bytes, size, (off_t)offset), size);
}

static uint64_t size_of(const struct world *w)
{
    struct stat status;
    assert_int_equal(fstat(w->fd, &status), 0);
    return (uint64_t)status.st_size;
}

/* Of a chunk that is within the file. */
static uint64_t chunk_of(struct world *w)
{
    return any(w, size_of(w) / CHUNK - 1) * CHUNK;
}

static bool page_is_written(struct world *w)
{
    bytes_write(w, w->fd, chunk_of(w) + 123, 1000);
    return true;
}

static bool mapping_is_stored_to(struct world *w)
{
    uint8_t *bytes =
        mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd, (off_t)chunk_of(w));
    assert_ptr_not_equal(bytes, MAP_FAILED);
    bytes[any(w, CHUNK)] ^= 0x55;
    assert_int_equal(munmap(bytes, CHUNK), 0);
    return true;
}

static bool page_is_written_directly(struct world *w)
{
    static _Alignas(PAGE) uint8_t bytes[PAGE];
    int fd = open(w->path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0)
        return false;
    fill(w, bytes, sizeof bytes);
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, (off_t)(chunk_of(w) + PAGE)), sizeof bytes);
    close(fd);
    return true;
}

static bool end_is_appended_to(struct world *w)
{
    bytes_write(w, w->fd, size_of(w), 1 + any(w, 3 * PAGE));
    return true;
}

static bool file_is_cut_short(struct world *w)
{
    if (size_of(w) > SIZE / 2)
        assert_int_equal(ftruncate(w->fd, (off_t)(size_of(w) - 1 - any(w, 2 * CHUNK))), 0);
    return true;
}

static bool file_is_extended(struct world *w)
{
    assert_int_equal(ftruncate(w->fd, (off_t)(size_of(w) + 1 + any(w, CHUNK))), 0);
    return true;
}

static bool space(struct world *w, int mode, uint64_t offset, uint64_t size)
{
    int failed = fallocate(w->fd, mode, (off_t)offset, (off_t)size) == 0 ? 0 : errno;
    assert_true(failed == 0 || failed == EOPNOTSUPP);
    return failed == 0;
}

static bool hole_is_punched(struct world *w)
{
    return space(w, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, chunk_of(w) + 100,
                 CHUNK / 2 + any(w, PAGE));
}

static bool range_is_zeroed(struct world *w)
{
    return space(w, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, chunk_of(w) + 200,
                 CHUNK / 2 + any(w, PAGE));
}

static bool range_is_collapsed(struct world *w)
{
    return size_of(w) < SIZE / 2 || space(w, FALLOC_FL_COLLAPSE_RANGE, chunk_of(w), PAGE);
}

static bool range_is_inserted(struct world *w)
{
    return space(w, FALLOC_FL_INSERT_RANGE, chunk_of(w), PAGE);
}

/* Of dest a chunk becomes one of source. */
static bool clone_chunk(int source, uint64_t from, int dest, uint64_t to)
{
    struct file_clone_range range = {
        .src_fd = source, .src_offset = from, .src_length = CHUNK, .dest_offset = to};
    return ioctl(dest, FICLONERANGE, &range) == 0;
}

static bool chunk_is_cloned(struct world *w)
{
    return clone_chunk(w->fd, chunk_of(w), w->fd, chunk_of(w));
}

/* What was moved is where it was, and was written to in between, at another offset. */
static bool chunk_is_moved_and_back(struct world *w)
{
    uint64_t at = chunk_of(w);
    if (!space(w, FALLOC_FL_COLLAPSE_RANGE, at, PAGE))
        return false;
    bytes_write(w, w->fd, at, PAGE);
    return space(w, FALLOC_FL_INSERT_RANGE, at, PAGE);
}

/* What another file shared, and was written to there when this one had let go of it. */
static bool chunk_is_lent(struct world *w)
{
    uint64_t at = chunk_of(w);
    int other = open(w->other, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(other >= 0);
    bool done = clone_chunk(w->fd, at, other, 0);
    if (done) {
        assert_true(space(w, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, CHUNK));
        bytes_write(w, other, 0, PAGE);
        assert_int_equal(fsync(other), 0);
        assert_true(clone_chunk(other, 0, w->fd, at));
    }
    close(other);
    assert_int_equal(unlink(w->other), 0);
    return done;
}

static const struct operation {
    const char *name;
    bool (*run)(struct world *w);
    unsigned pages; /* read of the file at most; 0: it may be all of it */
} operations[] = {
    {"a page is written", page_is_written, 2},
    {"a mapping is stored to", mapping_is_stored_to, 64}, /* it may be read into larger folios */
    {"a page is written directly", page_is_written_directly, 2},
    {"the end is appended to", end_is_appended_to, 512 + 8},
    {"the file is cut short", file_is_cut_short, 1024},
    {"the file is extended", file_is_extended, 512 + 8},
    {"a hole is punched", hole_is_punched, 0},
    {"a range is zeroed", range_is_zeroed, 0},
    {"a range is collapsed", range_is_collapsed, 0},
    {"a range is inserted", range_is_inserted, 0},
    {"a chunk is cloned", chunk_is_cloned, 0},
    {"a chunk is moved and back", chunk_is_moved_and_back, 0},
    {"a chunk is lent", chunk_is_lent, 0},
};
#define OPERATIONS (sizeof operations / sizeof operations[0])

/* --- the file -------------------------------------------------------------------------------- */

static bool world_begin(struct world *w)
{
    *w = (struct world){.rig = rig_new(false), .random = 7};
    if (w->rig == NULL)
        return false;
    snprintf(w->path, sizeof w->path, "%s/file", w->rig->top);
    snprintf(w->other, sizeof w->other, "%s/other", w->rig->outside);
    w->fd = open(w->path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    assert_true(w->fd >= 0);
    for (uint64_t at = 0; at < SIZE; at += CHUNK)
        bytes_write(w, w->fd, at, CHUNK);
    assert_true(point(w->rig));
    return true;
}

static void world_end(struct world *w)
{
    close(w->fd);
    rig_free(w->rig);
}

/* With none of it in memory, what is written to is read into folios that are no larger. */
static void forget(const struct world *w)
{
    assert_int_equal(fsync(w->fd), 0);
    assert_int_equal(posix_fadvise(w->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

static uint64_t pages_found(struct rig *rig)
{
    const struct repl_tree_pages *pages = (const void *)rig->found.pages.data;
    uint64_t count = 0;
    for (size_t i = 0; i < rig->found.pages.size / sizeof *pages; i++)
        count += pages[i].count;
    return count;
}

static bool is_precise(void)
{
    struct statfs fs;
    assert_int_equal(statfs(getenv("TMPDIR"), &fs), 0);
    return fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC;
}

/* --- tests ----------------------------------------------------------------------------------- */

/* The file ends in a block of its own: where it is extended behind a hole, as it would be the
 * second time, no page turns dirty, and all of it is read. */
static void end_is_settled(struct world *w)
{
    bytes_write(w, w->fd, size_of(w), 1);
    gather(w->rig);
    assert_true(is_same(w->rig));
    assert_true(tell(w->rig));
}

/* Where others write to some filesystem all the time, the marks may not be trusted this time, and
 * all of it is read: longer and longer is waited for them. */
static void operation_costs_little(struct world *w, const struct operation *o)
{
    uint64_t found = UINT64_MAX;
    for (useconds_t i = 0; i < TRIES && found > o->pages; i++) {
        usleep(i * 100000);
        end_is_settled(w);
        forget(w);
        if (!o->run(w))
            return;
        gather(w->rig);
        found = pages_found(w->rig);
        assert_true(found > 0);
        assert_true(is_same(w->rig));
        assert_true(tell(w->rig));
    }
    assert_copied(w->rig);
    if (found > o->pages)
        fail_msg("%s: %llu pages were read, %u would do", o->name, (unsigned long long)found,
                 o->pages);
}

static void only_what_was_written_is_read(void **state)
{
    struct world w;
    (void)state;
    if (!world_begin(&w) || !is_precise())
        skip();
    for (size_t i = 0; i < OPERATIONS; i++) {
        if (operations[i].pages != 0)
            operation_costs_little(&w, &operations[i]);
    }
    world_end(&w);
}

static void whatever_changes_it_is_found(void **state)
{
    struct world w;
    (void)state;
    if (!world_begin(&w))
        skip();
    for (size_t i = 0; i < OPERATIONS; i++) {
        bool done = operations[i].run(&w);
        point(w.rig);
        assert_copied(w.rig);
        print_message("%s%s\n", operations[i].name, done ? "" : ": not here");
    }
    world_end(&w);
}

static void several_changes_are_found(void **state)
{
    struct world w;
    (void)state;
    if (!world_begin(&w))
        skip();
    for (int i = 0; i < ROUNDS; i++) {
        for (uint64_t n = 1 + any(&w, 4); n > 0; n--)
            operations[any(&w, OPERATIONS)].run(&w);
        if (any(&w, 4) == 0)
            forget(&w);
        point(w.rig);
        assert_copied(w.rig);
    }
    world_end(&w);
}

/* --- a direct write that takes long ---------------------------------------------------------- */

struct slow_write {
    struct slow_memory memory;
    int fd;
    pthread_t thread;
};

static void *slow_write(void *context)
{
    struct slow_write *slow = context;
    ssize_t written = pwrite(slow->fd, slow->memory.bytes, PAGE, 0);
    return (void *)written;
}

/* When it returns, the file has the time of the change, which is past, and will not be given
 * another one. */
static bool slow_write_begin(struct world *w, struct slow_write *slow)
{
    slow->fd = open(w->path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    if (slow->fd < 0 || slow_memory_begin(&slow->memory, PAGE) != 0)
        return false;
    assert_int_equal(pthread_create(&slow->thread, NULL, slow_write, slow), 0);
    assert_true(slow_memory_wait(&slow->memory));
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    return true;
}

/* The site has all, and the index says so. */
static void settle(struct world *w)
{
    while (w->rig->acknowledged < w->rig->count)
        acknowledge(w->rig);
    point(w->rig);
}

static void slow_write_end(struct world *w, struct slow_write *slow)
{
    uint8_t bytes[PAGE];
    void *written;
    fill(w, bytes, sizeof bytes);
    assert_true(slow_memory_give(&slow->memory, bytes));
    assert_int_equal(pthread_join(slow->thread, &written), 0);
    assert_int_equal((ssize_t)written, PAGE);
    slow_memory_end(&slow->memory);
    close(slow->fd);
}

static void direct_write_that_ends_while_nothing_is_heard_is_found(void **state)
{
    struct world w;
    struct slow_write slow;
    (void)state;
    if (!world_begin(&w))
        skip();
    forget(&w);
    if (!slow_write_begin(&w, &slow))
        skip();
    point(w.rig);
    settle(&w);
    rig_close(w.rig);
    slow_write_end(&w, &slow);
    rig_open(w.rig);
    w.rig->full_wanted = false; /* the site has it */
    assert_true(point(w.rig));
    assert_copied(w.rig);
    world_end(&w);
}

static void direct_write_that_ends_while_names_are_lost_is_found(void **state)
{
    struct world w;
    struct slow_write slow;
    char path[400];
    (void)state;
    if (!world_begin(&w))
        skip();
    forget(&w);
    if (!slow_write_begin(&w, &slow))
        skip();
    point(w.rig);
    settle(&w);
    slow_write_end(&w, &slow);
    for (unsigned i = 0; i <= REPL_TREE_HEARD_MAX; i++) {
        snprintf(path, sizeof path, "%.380s/%u", w.rig->top, i);
        assert_int_equal(mknod(path, S_IFIFO | 0600, 0), 0);
        assert_int_equal(unlink(path), 0);
        if (i % 1000 == 0) /* there is room for so many events only */
            assert_true(repl_ok(repl_tree_hear(w.rig->tree, &w.rig->err)));
    }
    assert_true(repl_ok(repl_tree_hear(w.rig->tree, &w.rig->err)));
    assert_true(repl_tree_is_unsure(w.rig->tree));
    assert_true(point(w.rig));
    assert_copied(w.rig);
    world_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(direct_write_that_ends_while_nothing_is_heard_is_found),
        cmocka_unit_test(direct_write_that_ends_while_names_are_lost_is_found),
        cmocka_unit_test(only_what_was_written_is_read),
        cmocka_unit_test(whatever_changes_it_is_found),
        cmocka_unit_test(several_changes_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
