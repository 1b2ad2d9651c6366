/*
 * What rounds of a tree cost, and what they come back from: a set of records too large for a
 * segment, a round that ends in the middle of them, a scan that was cut off, changes that were not
 * heard of.
 */
#include "unit/agent/source/tree/tree_compare.h"
#include "unit/agent/source/tree/tree_files.h"

#include <linux/fs.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "source/tree/tree_names.h"

#define MANY 16500u /* each a node and a name: more than a segment takes */

static void make_many(struct rig *rig)
{
    char path[400], name[20];
    at(rig, path, "many");
    assert_int_equal(mkdir(path, 0755), 0);
    for (unsigned i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "many/%u", i);
        at(rig, path, name);
        assert_int_equal(mknod(path, S_IFIFO | 0600, 0), 0);
        if (i % 1000 == 0) /* there is room for so many events only */
            OK(rig, repl_tree_hear(rig->tree, &rig->err));
    }
}

/* Of all that was said, how much is there now: the whole comparison takes too long for so many. */
static unsigned nodes_in_copy(struct rig *rig, const char *name, bool *named)
{
    struct copy copy;
    copy_make(rig, &copy);
    unsigned count = (unsigned)(copy.objects.size / sizeof(struct copy_object));
    *named = copy_find(&copy, REPL_OBJECT_ROOT, REPL_RECORD_NAME, name) != NULL;
    copy_free(&copy);
    return count;
}

static struct rig *rig_of(bool unwatched)
{
    struct rig *rig = rig_new(unwatched);
    if (rig == NULL)
        skip();
    put(rig, "a", "what is in a");
    put(rig, "b", "what is in b");
    assert_true(point(rig));
    assert_copied(rig);
    return rig;
}

/* --- what it costs --------------------------------------------------------------------------- */

static void nothing_changed(struct rig *rig)
{
    gather(rig);
    assert_int_equal(rig->found.pages.size, 0);
    assert_int_equal(rig->found.changes, 0);
    assert_true(is_same(rig));
    assert_false(tell(rig));
}

/* Whatever else is written to the filesystem is heard of too: a moment without it is waited for.
 * Not where nothing is heard: files are read again after a while there. */
static bool becomes_idle(struct rig *rig)
{
    time_t deadline = time(NULL) + 60;
    while (!rig->unwatched && !repl_tree_is_idle(rig->tree) && time(NULL) <= deadline) {
        nothing_changed(rig);
        usleep(1000);
    }
    return repl_tree_is_idle(rig->tree);
}

static void what_has_not_changed_is_not_read(void **state)
{
    (void)state;
    for (int unwatched = 0; unwatched < 2; unwatched++) {
        struct rig *rig = rig_of(unwatched);
        nothing_changed(rig);
        nothing_changed(rig);
        assert_int_equal(becomes_idle(rig), !unwatched);
        acknowledge(rig);
        assert_false(repl_tree_is_idle(rig->tree));
        nothing_changed(rig);
        start_again(rig, rig->count);
        nothing_changed(rig);
        assert_int_equal(rig->found.objects, 2);
        rig_free(rig);
    }
}

/* What is heard of is followed and not counted; a flag that is set nobody tells of. */
static void an_audit_finds_what_was_not_heard_of(void **state)
{
    (void)state;
    struct rig *rig = rig_of(false);
    char path[400];
    int flags = 0;
    put(rig, "a", "something else is in a");
    repl_tree_audit(rig->tree);
    gather(rig);
    assert_true(rig->found.changes > 0);
    assert_int_equal(rig->found.unheard, 0);
    assert_true(point(rig));
    at(rig, path, "b");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool able = ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;
    flags |= FS_NODUMP_FL;
    able = able && ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
    close(fd);
    nothing_changed(rig);
    repl_tree_audit(rig->tree);
    gather(rig);
    assert_int_equal(rig->found.unheard, able ? 1 : 0);
    assert_true(point(rig));
    nothing_changed(rig);
    assert_copied(rig);
    rig_free(rig);
}

static void only_what_was_touched_is_followed(void **state)
{
    (void)state;
    struct rig *rig = rig_of(false);
    put(rig, "c.tmp", "left out");
    assert_true(point(rig)); /* of the time of the directory */
    put(rig, "../outside/x", "elsewhere");
    put(rig, "c.tmp", "left out as well");
    nothing_changed(rig);
    put(rig, "b", "something else is in b");
    gather(rig);
    assert_int_equal(rig->found.objects, 0); /* by name */
    assert_int_equal(rig->found.pages.size, sizeof(struct repl_tree_pages));
    assert_true(is_same(rig));
    put(rig, "b", "and again");
    assert_false(is_same(rig));
    assert_true(point(rig));
    assert_copied(rig);
    rig_free(rig);
}

/* --- a mapping ------------------------------------------------------------------------------- */

static void stores_through_a_mapping_are_noticed(void **state)
{
    (void)state;
    for (int unwatched = 0; unwatched < 2; unwatched++) {
        struct rig *rig = rig_of(unwatched);
        char path[400];
        at(rig, path, "a");
        int fd = open(path, O_RDWR | O_CLOEXEC);
        char *bytes = mmap(NULL, REPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_ptr_not_equal(bytes, MAP_FAILED);
        for (unsigned i = 0; i < 3; i++) {
            bytes[i] = 'X';
            gather(rig);
            assert_true(is_same(rig));
            bytes[i] = 'Y';
            assert_false(is_same(rig));
            assert_true(point(rig));
            assert_copied(rig);
        }
        munmap(bytes, REPL_PAGE_SIZE);
        close(fd);
        rig_free(rig);
    }
}

/* --- one moment ------------------------------------------------------------------------------ */

#define MOMENTS 12u

static atomic_bool writer_stop;

/* Counts in a, through a mapping, then in b: what is of one moment has b as a is, or one behind. */
static void *writer(void *context)
{
    struct rig *rig = context;
    char path[400];
    at(rig, path, "a");
    int a = open(path, O_RDWR | O_CLOEXEC);
    at(rig, path, "b");
    int b = open(path, O_RDWR | O_CLOEXEC);
    volatile uint64_t *mapped =
        mmap(NULL, REPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, a, 0);
    for (uint64_t count = 1; !atomic_load(&writer_stop); count++) {
        *mapped = count;
        if (pwrite(b, &count, sizeof count, 0) != sizeof count)
            break;
        if (count % 64 == 0)
            usleep(30000);
    }
    munmap((void *)(uintptr_t)mapped, REPL_PAGE_SIZE);
    close(a);
    close(b);
    return NULL;
}

static uint64_t count_in(struct copy *copy, const char *name)
{
    uint64_t count;
    const struct copy_record *c = copy_find(copy, REPL_OBJECT_ROOT, REPL_RECORD_NAME, name);
    assert_non_null(c);
    const struct copy_record *run = copy_find(copy, c->record.child, REPL_RECORD_RUN, "");
    assert_non_null(run);
    memcpy(&count, copy->space + run->record.place, sizeof count);
    return count;
}

static void a_point_is_of_one_moment(void **state)
{
    (void)state;
    struct rig *rig = rig_of(false);
    struct copy copy;
    pthread_t thread;
    uint64_t seen = 0;
    char path[400];
    for (unsigned i = 0; i < 2; i++) {
        static const uint8_t zeros[REPL_PAGE_SIZE];
        at(rig, path, i == 0 ? "a" : "b");
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(write(fd, zeros, sizeof zeros), sizeof zeros);
        close(fd);
    }
    atomic_store(&writer_stop, false);
    assert_int_equal(pthread_create(&thread, NULL, writer, rig), 0);
    for (unsigned points = 0, tries = 0; points < MOMENTS && tries < 2000; tries++) {
        gather(rig);
        pages_read(rig);
        if (!is_same(rig) || !tell(rig))
            continue;
        points++;
        copy_make(rig, &copy);
        uint64_t a = count_in(&copy, "a"), b = count_in(&copy, "b");
        if (a < b || a > b + 1 || b < seen)
            fail_msg("a is %llu, b %llu, before %llu", (unsigned long long)a, (unsigned long long)b,
                     (unsigned long long)seen);
        seen = b;
        copy_free(&copy);
    }
    atomic_store(&writer_stop, true);
    pthread_join(thread, NULL);
    assert_true(seen > 0);
    rig_free(rig);
}

/* --- more than is heard of ------------------------------------------------------------------- */

static void what_was_not_heard_of_is_looked_for(void **state)
{
    (void)state;
    struct rig *rig = rig_of(false);
    char path[400];
    for (unsigned i = 0; i < 20000; i++) {
        char name[20];
        snprintf(name, sizeof name, "x%u", i);
        at(rig, path, name);
        assert_int_equal(mknod(path, S_IFIFO | 0600, 0), 0);
        assert_int_equal(unlink(path), 0);
    }
    put(rig, "last", "not heard of");
    assert_false(repl_tree_is_unsure(rig->tree));
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    assert_true(repl_tree_is_unsure(rig->tree));
    assert_true(point(rig));
    assert_false(repl_tree_is_unsure(rig->tree));
    assert_int_equal(rig->found.objects, 3);
    assert_copied(rig);
    rig_free(rig);
}

/* --- many records ---------------------------------------------------------------------------- */

static void many_records_take_several_segments(void **state)
{
    (void)state;
    bool named;
    struct rig *rig = rig_of(false);
    make_many(rig);
    assert_true(point(rig));
    assert_int_equal(nodes_in_copy(rig, "many", &named), 4 + MANY);
    assert_true(named);
    put(rig, "b", "those are on their way still");
    size_t before = rig->count;
    assert_true(point(rig));
    assert_true(rig->count <= before + 2);
    rig_free(rig);
}

static void a_round_that_ends_among_many_begins_them_anew(void **state)
{
    (void)state;
    bool named;
    struct rig *rig = rig_of(false);
    char from[400], to[400];
    make_many(rig);
    at(rig, from, "many");
    at(rig, to, "many2");
    assert_int_equal(rename(from, to), 0);
    make_many(rig);
    gather(rig);
    assert_true(repl_tree_records_are_many(rig->tree, false));
    assert_false(part(rig, false)->whole);
    put(rig, "c", "new");
    at(rig, from, "a");
    assert_int_equal(unlink(from), 0);
    assert_true(point(rig));
    assert_int_equal(nodes_in_copy(rig, "c", &named), 5 + 2 * MANY);
    assert_true(named);
    nodes_in_copy(rig, "a", &named);
    assert_false(named);
    rig_free(rig);
}

/* What its first parts have said is there may be gone by the next look. */
static void a_full_that_has_said_a_part_is_torn_by_the_next_look(void **state)
{
    (void)state;
    struct rig *rig = rig_new(false);
    if (rig == NULL)
        skip();
    uint64_t to = rig->next_seq;
    char from[400], moved[400];
    at(rig, from, "many");
    at(rig, moved, "many2");
    make_many(rig);
    assert_int_equal(rename(from, moved), 0);
    make_many(rig);
    gather(rig);
    assert_false(repl_tree_records_are_torn(rig->tree, to));
    assert_true(repl_tree_records_are_many(rig->tree, true));
    assert_false(part(rig, false)->whole);
    assert_false(repl_tree_records_are_torn(rig->tree, to));
    gather(rig);
    assert_true(repl_tree_records_are_torn(rig->tree, to));
    assert_false(repl_tree_records_are_torn(rig->tree, to + 1));
    start_again(rig, rig->count);
    assert_true(repl_tree_records_are_torn(rig->tree, to));
    assert_false(repl_tree_records_are_torn(rig->tree, to + 1));
    rig_free(rig);
}

/* --- what was cut off ------------------------------------------------------------------------ */

/* Names that are gone are committed with much else before what had them is. */
static void what_lost_its_name_before_the_end_is_dropped(void **state)
{
    (void)state;
    struct rig *rig = rig_of(false);
    const struct repl_tree_index_options options = {.path = rig->index, .volume = {{7}}};
    struct repl_tree_index *index;
    char path[400];
    at(rig, path, "a");
    assert_int_equal(unlink(path), 0);
    rig_close(rig);
    OK(rig, repl_tree_index_open(&options, &index, &rig->err));
    struct repl_tree_changes changes = {0};
    OK(rig, repl_tree_begin(index, true, &changes.txn, &rig->err));
    OK(rig, repl_tree_name_set(&changes, REPL_OBJECT_ROOT, "a", 1, 0, &rig->err));
    OK(rig, repl_tree_commit(&changes.txn, &rig->err));
    repl_buffer_fini(&changes.nameless);
    repl_tree_index_close(index);
    rig_open(rig);
    rig->full_wanted = false; /* the site has it */
    assert_true(point(rig));
    assert_copied(rig);
    rig_free(rig);
}

static void what_was_given_up_is_not_forgotten_by_a_round_that_fails(void **state)
{
    (void)state;
    struct rig *rig = rig_of(false);
    char root[400], away[400];
    size_t before = rig->count;
    put(rig, "d", "what is in d");
    assert_true(point(rig));
    give_up(rig, before);
    at(rig, root, "");
    root[strlen(root) - 1] = '\0';
    snprintf(away, sizeof away, "%.390s.away", root);
    assert_int_equal(rename(root, away), 0);
    repl_tree_gather_begin(rig->tree, false, REPL_TREE_LOOK);
    assert_false(repl_ok(repl_tree_gather(rig->tree, &rig->found, &rig->err)));
    assert_int_equal(rename(away, root), 0);
    assert_true(point(rig));
    assert_copied(rig);
    rig_free(rig);
}

/* The site has a tree whose objects have other numbers, and so has what is in the spool. */
static void a_lost_index_leads_to_a_full(void **state)
{
    (void)state;
    struct rig *rig = rig_new(false);
    if (rig == NULL)
        skip();
    assert_true(repl_tree_is_new(rig->tree));
    put(rig, "a", "what is in a");
    assert_true(point(rig));
    put(rig, "b", "what is in b");
    assert_true(point(rig));
    start_again(rig, rig->count);
    assert_false(repl_tree_is_new(rig->tree));
    assert_true(repl_tree_full_wanted(rig->tree)); /* of which nobody has said that it arrived */
    assert_int_equal(truncate(rig->index, 5000), 0);
    start_again(rig, rig->count);
    assert_true(repl_tree_is_new(rig->tree));
    rig->full_wanted = repl_tree_full_wanted(rig->tree);
    assert_true(rig->full_wanted);
    put(rig, "c", "what is in c");
    assert_true(point(rig));
    assert_copied(rig);
    assert_true(rig->pieces[rig->count - 1].full);
    rig_free(rig);
}

/* --- what is refused ------------------------------------------------------------------------- */

static void what_lies_in_memory_is_refused(void **state)
{
    (void)state;
    struct repl_tree *tree;
    struct repl_error err;
    struct statfs fs;
    if (statfs("/dev/shm", &fs) != 0 || fs.f_type != TMPFS_MAGIC)
        skip();
    const struct repl_tree_options options = {.path = "/dev/shm", .index_path = "/nowhere"};
    assert_int_equal(repl_tree_open(&options, &tree, &err).code, REPL_E_REFUSED);
    assert_non_null(strstr(err.text, "in memory"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_has_not_changed_is_not_read),
        cmocka_unit_test(an_audit_finds_what_was_not_heard_of),
        cmocka_unit_test(only_what_was_touched_is_followed),
        cmocka_unit_test(stores_through_a_mapping_are_noticed),
        cmocka_unit_test(a_point_is_of_one_moment),
        cmocka_unit_test(what_was_not_heard_of_is_looked_for),
        cmocka_unit_test(many_records_take_several_segments),
        cmocka_unit_test(a_round_that_ends_among_many_begins_them_anew),
        cmocka_unit_test(a_full_that_has_said_a_part_is_torn_by_the_next_look),
        cmocka_unit_test(what_lost_its_name_before_the_end_is_dropped),
        cmocka_unit_test(what_was_given_up_is_not_forgotten_by_a_round_that_fails),
        cmocka_unit_test(a_lost_index_leads_to_a_full),
        cmocka_unit_test(what_lies_in_memory_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
