/* Needs root and a kernel that lets programs be attached; skipped where that is not so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "source/capture/tracker.h"
#include "source/capture/tracker_internal.h"
#include "unit/loop_device.h"

#define DEVICE_SIZE (UINT64_C(1) << 30)
#define PAGES       (DEVICE_SIZE / 4096)
#define FIRST_PAGE  2048 /* of the partition */

struct fixture {
    struct loop_device loop;
    int backing;
    struct repl_uuid volume;
    struct repl_track_target target;
    struct repl_tracker *tracker;
    struct repl_bitmap got;
    char cause[REPL_TRACK_CAUSE_SIZE];
};

static void target_find(struct fixture *f, dev_t device)
{
    struct repl_error err;
    assert_true(repl_ok(repl_track_target_find(device, &f->target, &err)));
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->loop.fd = -1;
    f->backing = loop_device_backing("/var/tmp", DEVICE_SIZE);
    if (f->backing < 0 || getrandom(&f->volume, sizeof f->volume, 0) < 0 ||
        !loop_device_bind(&f->loop, f->backing, LO_FLAGS_DIRECT_IO | LO_FLAGS_PARTSCAN))
        return 0; /* each test skips */
    target_find(f, f->loop.number);
    return repl_ok(repl_bitmap_init(&f->got, PAGES, NULL)) ? 0 : 1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    repl_tracker_close(f->tracker);
    repl_ignore(repl_tracker_forget(&f->volume, NULL));
    repl_bitmap_fini(&f->got);
    loop_device_close(&f->loop);
    close(f->backing);
    free(f);
    return 0;
}

static enum repl_track_origin open_tracker(struct fixture *f)
{
    struct repl_error err;
    enum repl_track_origin origin;
    if (f->loop.fd < 0)
        skip();
    repl_tracker_close(f->tracker);
    repl_result result =
        repl_tracker_open(&f->target, &f->volume, &f->tracker, &origin, f->cause, &err);
    if (result.code == REPL_E_REFUSED)
        skip();
    if (!repl_ok(result))
        fail_msg("%s", err.text);
    return origin;
}

static void write_pages(struct fixture *f, uint64_t first, uint64_t count)
{
    void *data = aligned_alloc(4096, count * 4096);
    memset(data, 0x5a, count * 4096);
    assert_int_equal(pwrite(f->loop.fd, data, count * 4096, (off_t)(first * 4096)), count * 4096);
    free(data);
}

static void assert_exactly(struct fixture *f, uint64_t first, uint64_t count)
{
    uint64_t at, length;
    assert_true(repl_bitmap_next_run(&f->got, 0, PAGES, &at, &length));
    assert_int_equal(at, first);
    assert_int_equal(length, count);
    assert_int_equal(f->got.set_count, count);
}

static void take(struct fixture *f)
{
    repl_bitmap_clear_all(&f->got);
    repl_tracker_exchange(f->tracker, &f->got);
}

/* --- what is marked and counted -------------------------------------------------------------- */

static void a_write_is_marked_and_counted_on_both_sides(void **state)
{
    struct fixture *f = *state;
    struct repl_track_counts counts;
    assert_int_equal(open_tracker(f), REPL_TRACK_NEW);
    write_pages(f, 100, 100);
    take(f);
    assert_exactly(f, 100, 100);
    take(f);
    assert_int_equal(f->got.set_count, 0);
    repl_tracker_or_touched(f->tracker, &f->got);
    assert_exactly(f, 100, 100);
    repl_tracker_counts(f->tracker, &counts);
    for (unsigned side = 0; side < REPL_TRACK_WITHDRAWAL; side++) {
        assert_int_equal(counts.tallies[side][REPL_TRACK_WRITE].bytes, 100 * 4096);
        assert_int_equal(counts.tallies[side][REPL_TRACK_WRITE].pages, 100);
        assert_int_equal(counts.tallies[side][REPL_TRACK_DISCARD].bytes, 0);
        assert_int_equal(counts.lost[side], 0);
    }
    assert_int_equal(fsync(f->loop.fd), 0);
    uint64_t flushes = counts.flushes;
    repl_tracker_counts(f->tracker, &counts);
    assert_int_equal(counts.flushes, flushes + 1);
}

static void a_range_of_any_length_is_marked(void **state)
{
    struct fixture *f = *state;
    struct repl_track_counts counts;
    uint64_t all[2] = {0, DEVICE_SIZE}, most[2] = {4096, DEVICE_SIZE - 3 * 4096};
    open_tracker(f);
    assert_int_equal(ioctl(f->loop.fd, BLKDISCARD, all), 0);
    take(f);
    assert_exactly(f, 0, PAGES);
    assert_int_equal(ioctl(f->loop.fd, BLKZEROOUT, most), 0);
    take(f);
    assert_exactly(f, 1, PAGES - 3);
    repl_tracker_counts(f->tracker, &counts);
    assert_int_equal(counts.tallies[REPL_TRACK_COMPLETION][REPL_TRACK_DISCARD].bytes, DEVICE_SIZE);
    assert_int_equal(counts.tallies[REPL_TRACK_COMPLETION][REPL_TRACK_WRITE].bytes, most[1]);
    assert_int_equal(counts.lost[REPL_TRACK_COMPLETION], 0);
}

static void what_is_counted_is_what_the_kernel_accounts(void **state)
{
    struct fixture *f = *state;
    struct repl_audit_sample before, after;
    struct repl_error err;
    uint64_t range[2] = {1 << 20, 3 << 20};
    open_tracker(f);
    assert_true(repl_ok(repl_tracker_sample(f->tracker, &before, &err)));
    write_pages(f, 7, 300);
    assert_int_equal(ioctl(f->loop.fd, BLKDISCARD, range), 0);
    assert_int_equal(ioctl(f->loop.fd, BLKZEROOUT, range), 0);
    write_pages(f, 7, 1);
    assert_int_equal(fsync(f->loop.fd), 0);
    assert_true(repl_ok(repl_tracker_sample(f->tracker, &after, &err)));
    for (unsigned i = 0; i < REPL_AUDIT_QUANTITIES; i++) {
        uint64_t kernel = after.before.done[i] - before.before.done[i];
        assert_true(kernel > 0);
        assert_int_equal(after.counts.completed[i] - before.counts.completed[i], kernel);
        if (i < REPL_AUDIT_SUBMITTED)
            assert_int_equal(after.counts.submitted[i] - before.counts.submitted[i], kernel);
    }
}

static void a_partition_sees_its_own_pages(void **state)
{
    struct fixture *f = *state;
    char name[80];
    struct stat st;
    if (f->loop.fd < 0 || !loop_device_partition_add(&f->loop, FIRST_PAGE * 4096, 1000 * 4096))
        skip();
    const char *disk = f->loop.path + strlen("/dev/");
    snprintf(name, sizeof name, "/sys/block/%s/%sp1/dev", disk, disk);
    FILE *file = fopen(name, "re");
    unsigned major_number, minor_number;
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%u:%u", &major_number, &minor_number), 2);
    fclose(file);
    st.st_rdev = (dev_t)(minor_number & 0xff) | (dev_t)major_number << 8 |
                 (dev_t)(minor_number & ~0xffu) << 12;
    target_find(f, st.st_rdev);
    assert_int_equal(f->target.start_sector, FIRST_PAGE * 8);
    open_tracker(f);
    write_pages(f, FIRST_PAGE - 10, 20); /* half before it */
    write_pages(f, FIRST_PAGE + 990, 20);
    write_pages(f, FIRST_PAGE + 5000, 1);
    take(f);
    assert_int_equal(f->got.set_count, 20);
    assert_true(repl_bitmap_test(&f->got, 0) && repl_bitmap_test(&f->got, 9) &&
                repl_bitmap_test(&f->got, 990) && repl_bitmap_test(&f->got, 999));
    struct repl_track_counts counts;
    repl_tracker_counts(f->tracker, &counts); /* the whole disk's bytes, the partition's pages */
    assert_int_equal(counts.tallies[REPL_TRACK_COMPLETION][REPL_TRACK_WRITE].bytes, 41 * 4096);
    assert_int_equal(counts.tallies[REPL_TRACK_COMPLETION][REPL_TRACK_WRITE].pages, 20);
}

/* --- what outlives the agent ----------------------------------------------------------------- */

static void tracking_goes_on_without_an_agent(void **state)
{
    struct fixture *f = *state;
    uint64_t note = 42, got = 0;
    open_tracker(f);
    write_pages(f, 10, 1);
    take(f); /* and dies with it */
    repl_tracker_save(f->tracker, &note, sizeof note);
    note = 43;
    repl_tracker_save(f->tracker, &note, sizeof note);
    repl_tracker_close(f->tracker);
    f->tracker = NULL;
    write_pages(f, 20, 1);
    assert_int_equal(open_tracker(f), REPL_TRACK_CONTINUED);
    assert_true(repl_tracker_load(f->tracker, &got, sizeof got));
    assert_int_equal(got, 43);
    assert_false(repl_tracker_load(f->tracker, &got, 4));
    take(f);
    assert_exactly(f, 20, 1);
    repl_bitmap_clear_all(&f->got);
    repl_tracker_recover(f->tracker, &f->got);
    assert_int_equal(f->got.set_count, 2);
    repl_tracker_settle(f->tracker, NULL, 0, false);
    repl_bitmap_clear_all(&f->got);
    repl_tracker_recover(f->tracker, &f->got);
    assert_int_equal(f->got.set_count, 0);
}

static void pin_remove(struct fixture *f, const char *name)
{
    char uuid[REPL_UUID_TEXT_SIZE], path[128];
    repl_uuid_format(&f->volume, uuid);
    snprintf(path, sizeof path, "/sys/fs/bpf/repl/%s/%s", uuid, name);
    assert_int_equal(unlink(path), 0);
}

static void an_incomplete_set_is_lost(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"bits",      "config",    "counts",
                                        "submitted", "completed", "withdrawn"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        open_tracker(f);
        pin_remove(f, names[i]);
        assert_int_equal(open_tracker(f), REPL_TRACK_LOST);
        assert_non_null(strstr(f->cause, "missing"));
        assert_int_equal(open_tracker(f), REPL_TRACK_CONTINUED);
    }
    f->tracker->maps.config->complete = 0;
    assert_int_equal(open_tracker(f), REPL_TRACK_LOST);
    assert_non_null(strstr(f->cause, "never finished"));
    f->tracker->maps.config->version++;
    assert_int_equal(open_tracker(f), REPL_TRACK_LOST);
    assert_non_null(strstr(f->cause, "another version"));
}

static void another_device_is_lost(void **state)
{
    struct fixture *f = *state;
    open_tracker(f);
    f->target.diskseq++;
    assert_int_equal(open_tracker(f), REPL_TRACK_LOST);
    assert_non_null(strstr(f->cause, "diskseq"));
    f->target.start_sector += 8;
    assert_int_equal(open_tracker(f), REPL_TRACK_LOST);
    assert_non_null(strstr(f->cause, "sector"));
    f->target.sector_count -= 8;
    assert_int_equal(open_tracker(f), REPL_TRACK_LOST);
    assert_non_null(strstr(f->cause, "shrank"));
    f->target.disk_minor++;
    assert_int_equal(open_tracker(f), REPL_TRACK_LOST);
    assert_non_null(strstr(f->cause, "the disk was"));
    snprintf(f->target.identity, sizeof f->target.identity, "test:other");
    assert_int_equal(open_tracker(f), REPL_TRACK_LOST);
    assert_non_null(strstr(f->cause, "test:other"));
}

static void a_device_that_grows_is_followed(void **state)
{
    struct fixture *f = *state;
    struct repl_error err;
    uint64_t sectors = 0;
    open_tracker(f);
    assert_int_equal(ftruncate(f->backing, (off_t)(DEVICE_SIZE + (64 << 20))), 0);
    assert_int_equal(ioctl(f->loop.fd, LOOP_SET_CAPACITY), 0);
    assert_true(repl_ok(repl_tracker_check(f->tracker, &sectors, &err)));
    assert_int_equal(sectors, (DEVICE_SIZE + (64 << 20)) / 512);
    assert_true(repl_ok(repl_tracker_grow(f->tracker, sectors, &err)));
    assert_true(repl_ok(repl_bitmap_grow(&f->got, sectors / 8, &err)));
    write_pages(f, PAGES + 100, 1);
    take(f);
    assert_exactly(f, PAGES + 100, 1);
    assert_int_equal(repl_tracker_grow(f->tracker, sectors * 10, &err).code, REPL_E_NOMEM);
    /* the next agent finds it grown */
    target_find(f, f->target.device);
    assert_int_equal(open_tracker(f), REPL_TRACK_CONTINUED);
}

/* --- the touched pair ------------------------------------------------------------------------ */

static void touched_forgets_after_two_swaps(void **state)
{
    struct fixture *f = *state;
    struct repl_audit audit = {.settled_ns = INT64_MIN};
    open_tracker(f);
    write_pages(f, 50, 1);
    assert_false(repl_tracker_swap_touched(f->tracker, &audit));
    audit.settled_ns = repl_tracker_now_ns();
    assert_true(repl_tracker_swap_touched(f->tracker, &audit));
    assert_false(repl_tracker_swap_touched(f->tracker, &audit)); /* not settled since */
    write_pages(f, 60, 1);
    repl_tracker_or_touched(f->tracker, &f->got);
    assert_int_equal(f->got.set_count, 2);
    audit.settled_ns = repl_tracker_now_ns();
    assert_true(repl_tracker_swap_touched(f->tracker, &audit));
    repl_bitmap_clear_all(&f->got);
    repl_tracker_or_touched(f->tracker, &f->got);
    assert_exactly(f, 60, 1);
}

/* Beside the pinned one, of which it takes nothing. */
static void a_private_one_leaves_nothing_behind(void **state)
{
    struct fixture *f = *state;
    struct repl_tracker *private = NULL;
    struct repl_error err;
    char text[REPL_UUID_TEXT_SIZE], pins[128];
    open_tracker(f);
    struct repl_tracker *pinned = f->tracker;
    if (!repl_ok(repl_tracker_open_private(&f->target, &private, &err)))
        fail_msg("%s", err.text);
    write_pages(f, 7, 3);
    f->tracker = private;
    take(f);
    assert_exactly(f, 7, 3);
    take(f);
    assert_int_equal(f->got.set_count, 0);
    f->tracker = pinned;
    take(f);
    assert_exactly(f, 7, 3);
    repl_tracker_close(private);

    assert_true(repl_ok(repl_tracker_forget(&f->volume, &err)));
    repl_uuid_format(&f->volume, text);
    snprintf(pins, sizeof pins, "/sys/fs/bpf/repl/%s", text);
    assert_int_equal(access(pins, F_OK), -1);
    if (!repl_ok(repl_tracker_open_private(&f->target, &private, &err)))
        fail_msg("%s", err.text);
    assert_int_equal(access(pins, F_OK), -1);
    repl_tracker_close(private);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_write_is_marked_and_counted_on_both_sides, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_range_of_any_length_is_marked, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_counted_is_what_the_kernel_accounts, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_partition_sees_its_own_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(tracking_goes_on_without_an_agent, setup, teardown),
        cmocka_unit_test_setup_teardown(a_private_one_leaves_nothing_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(an_incomplete_set_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(another_device_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(a_device_that_grows_is_followed, setup, teardown),
        cmocka_unit_test_setup_teardown(touched_forgets_after_two_swaps, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
