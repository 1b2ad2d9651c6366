/*
 * A tree that is read from snapshots of its subvolume: as of the snapshot, whatever is done
 * meanwhile, and with nothing of that forgotten; subvolumes in it, what an earlier run left, what
 * is refused. Runs where temporary files lie, if that is btrfs.
 */
#include "unit/agent/source/tree/tree_compare.h"
#include "unit/agent/source/tree/tree_files.h"

#include <linux/btrfs.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "base/hash.h"
#include "source/tree/tree_snapshot.h"

#define VOLUME ((struct repl_uuid){{7}}) /* the rig's */

/* NULL: this is not the place for it. */
static struct rig *rig_of_snapshots(void)
{
    return rig_new_with(false, true);
}

static void move(const struct rig *rig, const char *from, const char *to)
{
    char a[400], b[400];
    at(rig, a, from);
    at(rig, b, to);
    assert_int_equal(rename(a, b), 0);
}

static void take(struct rig *rig)
{
    int64_t begin_ns, end_ns;
    OK(rig, repl_tree_snapshot_take(rig->tree, &begin_ns, &end_ns, &rig->err));
    assert_true(begin_ns <= end_ns && repl_tree_is_snapshot(rig->tree));
}

static void drop(struct rig *rig)
{
    repl_tree_snapshot_release(rig->tree);
    OK(rig, repl_tree_snapshot_drop(rig->tree, &rig->err));
    assert_false(repl_tree_is_snapshot(rig->tree));
}

/* A point from a snapshot; whether there was anything to be said. */
static bool snapshot_point(struct rig *rig)
{
    take(rig);
    gather(rig);
    assert_true(is_same(rig));
    bool told = tell(rig);
    drop(rig);
    return told;
}

/* The directory as it is, kept: what a point is compared with when the tree has gone on. */
static void keep(const struct rig *rig, const char *kept)
{
    char command[1000];
    snprintf(command, sizeof command, "cp -a '%s' '%s'", rig->top, kept);
    assert_int_equal(system(command), 0);
}

static void assert_copied_as(struct rig *rig, const char *kept)
{
    char top[sizeof rig->top];
    memcpy(top, rig->top, sizeof top);
    snprintf(rig->top, sizeof rig->top, "%s", kept);
    assert_copied(rig);
    memcpy(rig->top, top, sizeof top);
}

static bool is_in_copy(struct rig *rig, const char *name)
{
    struct copy copy;
    copy_make(rig, &copy);
    bool there = copy_find(&copy, REPL_OBJECT_ROOT, REPL_RECORD_NAME, name) != NULL;
    copy_free(&copy);
    return there;
}

static void a_snapshot_is_the_tree(void **state)
{
    (void)state;
    struct rig *rig = rig_of_snapshots();
    if (rig == NULL)
        skip();
    char path[400];
    put(rig, "a", "one");
    at(rig, path, "d");
    assert_int_equal(mkdir(path, 0755), 0);
    put(rig, "d/b", "two");
    assert_true(snapshot_point(rig));
    assert_copied(rig);
    put(rig, "a", "three");
    move(rig, "d/b", "b");
    assert_true(snapshot_point(rig));
    assert_copied(rig);
    /* and the next one is of the tree itself: the numbers of its objects are the same */
    size_t segments = rig->count;
    assert_true(is_same(rig));
    assert_false(point(rig));
    assert_int_equal(rig->count, segments);
    rig_free(rig);
}

/* What is heard of after the snapshot, before it is looked at and after, is the next point's. */
static void what_comes_later_is_not_in_it_and_not_forgotten(void **state)
{
    (void)state;
    struct rig *rig = rig_of_snapshots();
    if (rig == NULL)
        skip();
    char kept[290];
    put(rig, "a", "one");
    put(rig, "b", "one");
    snapshot_point(rig);
    put(rig, "a", "before");
    snprintf(kept, sizeof kept, "%.200s/kept", rig->at.path);
    keep(rig, kept);
    take(rig);
    put(rig, "a", "behind the snapshot");
    put(rig, "new", "behind the snapshot");
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    move(rig, "b", "c");
    gather(rig);
    put(rig, "late", "while it is read");
    assert_true(is_same(rig));
    assert_true(tell(rig));
    drop(rig);
    assert_copied_as(rig, kept);
    assert_true(snapshot_point(rig));
    assert_copied(rig);
    rig_free(rig);
}

/* A mapping that was dirty when the snapshot was begun is in it, and a store after it is heard of.
 */
static void a_mapping_is_written_out(void **state)
{
    (void)state;
    struct rig *rig = rig_of_snapshots();
    if (rig == NULL)
        skip();
    char path[400];
    put(rig, "a", "mapped");
    at(rig, path, "a");
    assert_int_equal(truncate(path, 3 * REPL_PAGE_SIZE), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t *map = mmap(NULL, 3 * REPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(fd >= 0 && map != MAP_FAILED);
    snapshot_point(rig);
    assert_copied(rig);
    for (uint8_t i = 1; i < 8; i++) {
        map[i] = i;
        take(rig);
        map[REPL_PAGE_SIZE + i] = i;
        gather(rig);
        map[2 * REPL_PAGE_SIZE + i] = i;
        assert_true(is_same(rig));
        tell(rig);
        drop(rig);
    }
    snapshot_point(rig);
    assert_copied(rig);
    munmap(map, 3 * REPL_PAGE_SIZE);
    close(fd);
    rig_free(rig);
}

/* --- a page that is never clean -------------------------------------------------------------- */

static struct {
    atomic_ullong number; /* written completely */
    atomic_bool stop;
    int fd;
} busy;

static void *busy_write(void *context)
{
    (void)context;
    uint64_t page[REPL_PAGE_SIZE / sizeof(uint64_t)] = {0};
    while (!atomic_load(&busy.stop)) {
        page[0]++;
        if (pwrite(busy.fd, page, sizeof page, 0) == (ssize_t)sizeof page)
            atomic_store(&busy.number, page[0]);
    }
    return NULL;
}

/* The first number in a file, as the segments have it. */
static uint64_t copied_number(struct rig *rig, const char *name)
{
    struct copy copy;
    uint64_t number;
    copy_make(rig, &copy);
    const struct copy_record *c = copy_find(&copy, REPL_OBJECT_ROOT, REPL_RECORD_NAME, name);
    assert_non_null(c);
    c = copy_find(&copy, c->record.child, REPL_RECORD_RUN, "");
    assert_non_null(c);
    memcpy(&number, copy.space + c->record.place, sizeof number);
    copy_free(&copy);
    return number;
}

/* The kernel alone passes over it in about one snapshot of three. */
static void what_was_written_before_is_in_it_however_often_that_changes(void **state)
{
    (void)state;
    struct rig *rig = rig_of_snapshots();
    if (rig == NULL)
        skip();
    char path[400];
    pthread_t writer;
    at(rig, path, "busy");
    busy.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(busy.fd >= 0);
    atomic_store(&busy.stop, false);
    assert_int_equal(pthread_create(&writer, NULL, busy_write, NULL), 0);
    for (int i = 0; i < 15; i++) {
        usleep(20000);
        uint64_t before = atomic_load(&busy.number);
        snapshot_point(rig);
        uint64_t copied = copied_number(rig, "busy");
        if (copied < before)
            fail_msg("%llu was written, %llu is copied", (unsigned long long)before,
                     (unsigned long long)copied);
    }
    atomic_store(&busy.stop, true);
    pthread_join(writer, NULL);
    close(busy.fd);
    snapshot_point(rig);
    assert_copied(rig);
    rig_free(rig);
}

/* A round that is given up: nothing that was heard of by then is lost. */
static void a_snapshot_that_is_not_looked_at_loses_nothing(void **state)
{
    (void)state;
    struct rig *rig = rig_of_snapshots();
    if (rig == NULL)
        skip();
    put(rig, "a", "one");
    snapshot_point(rig);
    put(rig, "a", "two");
    take(rig);
    put(rig, "b", "three");
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    drop(rig);
    assert_true(point(rig));
    assert_copied(rig);
    rig_free(rig);
}

/* --- subvolumes in it ------------------------------------------------------------------------ */

static void subvolume_ioctl(const char *directory, const char *name, bool make)
{
    struct btrfs_ioctl_vol_args args = {0};
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    snprintf(args.name, sizeof args.name, "%s", name);
    if (ioctl(fd, make ? BTRFS_IOC_SUBVOL_CREATE : BTRFS_IOC_SNAP_DESTROY, &args) != 0)
        fail_msg("%s/%s: %s", directory, name, strerror(errno));
    close(fd);
}

/* Two in one directory, so that they could be taken for each other. */
static void a_subvolume_in_it_is_a_directory(void **state)
{
    (void)state;
    struct rig *rig = rig_of_snapshots();
    if (rig == NULL)
        skip();
    subvolume_ioctl(rig->top, "x", true);
    put(rig, "x/inside", "not of the tree");
    assert_true(snapshot_point(rig)); /* what stands for it is all it knows */
    subvolume_ioctl(rig->top, "y", true);
    put(rig, "a", "one");
    usleep(30000); /* what has just changed is looked at again by the next scan */
    assert_true(snapshot_point(rig));
    assert_true(is_in_copy(rig, "x") && is_in_copy(rig, "y") && is_in_copy(rig, "a"));
    size_t segments = rig->count;
    put(rig, "x/inside", "still not");
    snapshot_point(rig);
    assert_int_equal(rig->count, segments);
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    repl_tree_audit(rig->tree); /* a look at all of it finds nothing new */
    snapshot_point(rig);
    assert_int_equal(rig->found.unheard, 0);
    assert_int_equal(rig->count, segments);
    subvolume_ioctl(rig->top, "x", false);
    assert_true(snapshot_point(rig));
    assert_true(!is_in_copy(rig, "x") && is_in_copy(rig, "y"));
    subvolume_ioctl(rig->top, "y", false);
    rig_free(rig);
}

/* --- what is left, and what is not there ----------------------------------------------------- */

/* The rig's filesystem is mounted with its top in sight. */
static void place_path(const struct rig *rig, char out[500])
{
    const char *top = getenv("BTRFS_TOP");
    snprintf(out, 500, "%s/" REPL_TREE_SNAPSHOT_PLACE, top != NULL ? top : rig->at.path);
}

static bool is_left(const struct rig *rig)
{
    char place[500], path[600], name[REPL_UUID_TEXT_SIZE];
    place_path(rig, place);
    repl_uuid_format(&VOLUME, name);
    snprintf(path, sizeof path, "%s/%s", place, name);
    return access(path, F_OK) == 0;
}

static void what_an_earlier_run_left_is_removed(void **state)
{
    (void)state;
    struct rig *rig = rig_of_snapshots();
    if (rig == NULL || getenv("BTRFS_TOP") == NULL)
        skip();
    char place[500];
    place_path(rig, place);
    subvolume_ioctl(place, "somebodys", true);
    for (int snapshots = 0; snapshots < 2; snapshots++) {
        rig->snapshots = true;
        take(rig);
        assert_true(is_left(rig));
        rig->snapshots = snapshots == 1;
        rig_close(rig); /* as if it were killed: with the snapshot */
        assert_true(is_left(rig));
        rig_open(rig);
        assert_false(is_left(rig));
        rig->snapshots = true;
        rig_close(rig);
        rig_open(rig);
    }
    subvolume_ioctl(place, "somebodys", false);
    rig_free(rig);
}

/* What is not found in one that is gone is not gone. */
static void a_snapshot_that_somebody_removes_is_no_point(void **state)
{
    (void)state;
    struct rig *rig = rig_of_snapshots();
    if (rig == NULL || getenv("BTRFS_TOP") == NULL)
        skip();
    char place[500], name[REPL_UUID_TEXT_SIZE];
    place_path(rig, place);
    repl_uuid_format(&VOLUME, name);
    put(rig, "a", "one");
    snapshot_point(rig);
    put(rig, "b", "two");
    take(rig);
    subvolume_ioctl(place, name, false);
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    repl_tree_gather_begin(rig->tree, false, REPL_TREE_LOOK);
    struct repl_tree_found found = {0};
    assert_int_equal(repl_tree_gather(rig->tree, &found, &rig->err).code, REPL_E_IO);
    assert_non_null(strstr(rig->err.text, "was removed by somebody else"));
    repl_tree_found_fini(&found);
    start_again(rig, rig->count); /* as the volume is */
    snapshot_point(rig);
    assert_copied(rig);
    /* or while it is read: then a file is not zeros */
    put(rig, "a", "three");
    take(rig);
    gather(rig);
    uint8_t page[REPL_PAGE_SIZE];
    const struct repl_tree_pages *pages = (const void *)rig->found.pages.data;
    assert_true(rig->found.pages.size > 0);
    OK(rig, repl_tree_read(rig->tree, pages->page, 1, page, &rig->err));
    assert_memory_equal(page, "three", 5);
    subvolume_ioctl(place, name, false);
    assert_int_equal(repl_tree_read(rig->tree, pages->page, 1, page, &rig->err).code, REPL_E_IO);
    start_again(rig, rig->count);
    snapshot_point(rig);
    assert_copied(rig);
    rig_free(rig);
}

static void elsewhere_it_is_refused(void **state)
{
    (void)state;
    struct statfs fs;
    struct rig *rig = rig_new(false);
    if (rig == NULL)
        skip();
    assert_int_equal(statfs(rig->top, &fs), 0);
    if (fs.f_type == BTRFS_SUPER_MAGIC) {
        rig_free(rig);
        skip();
    }
    rig->snapshots = true;
    rig_close(rig);
    assert_false(rig_try(rig));
    assert_non_null(strstr(rig->err.text, "is not on btrfs, and has a quiesce with snapshots"));
    rig->snapshots = false;
    rig_open(rig);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_is_the_tree),
        cmocka_unit_test(what_comes_later_is_not_in_it_and_not_forgotten),
        cmocka_unit_test(a_mapping_is_written_out),
        cmocka_unit_test(what_was_written_before_is_in_it_however_often_that_changes),
        cmocka_unit_test(a_snapshot_that_is_not_looked_at_loses_nothing),
        cmocka_unit_test(a_subvolume_in_it_is_a_directory),
        cmocka_unit_test(what_an_earlier_run_left_is_removed),
        cmocka_unit_test(a_snapshot_that_somebody_removes_is_no_point),
        cmocka_unit_test(elsewhere_it_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
