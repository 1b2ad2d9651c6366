/*
 * Restores out of a store directory, to files and, where that can be had, to a
 * loop device; interrupted, resumed, refused, and read back wrongly.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "recover/restore.h"
#include "recover/restore_progress.h"
#include "unit/agent/recover/store_model.h"
#include "unit/loop_device.h"

struct fixture {
    struct store_model model;
    struct repl_history *history;
    char target[300], progress[400];
    char backing[300], loop[64]; /* "": no loop device */
    struct repl_restore_result result;
    struct repl_error err;
};

static void reopen(struct fixture *f)
{
    struct repl_origin *origin;
    repl_history_close(f->history);
    f->history = NULL;
    if (!repl_ok(model_origin_open(f->model.path, MODEL_VOLUME, &origin, &f->err)) ||
        !repl_ok(repl_history_open(origin, &f->history, &f->err)))
        fail_msg("%s", f->err.text);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    model_init(&f->model);
    model_fill(&f->model);
    snprintf(f->target, sizeof f->target, "%s/target", f->model.temporary.path);
    snprintf(f->backing, sizeof f->backing, "%s/backing", f->model.temporary.path);
    reopen(f);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char command[128];
    snprintf(command, sizeof command, "losetup -d %s", f->loop);
    if (f->loop[0] != '\0' && system(command) != 0)
        print_error("%s failed\n", command);
    repl_history_close(f->history);
    model_fini(&f->model);
    free(f);
    return 0;
}

static bool overwrite, whole;
static atomic_bool interrupted;
static unsigned threads;
static repl_restore_status_fn *status_hook;

/* As the verb does it, without asking. */
static repl_result restore(struct fixture *f, uint64_t seq, const char *path)
{
    struct repl_target target;
    REPL_TRY(repl_target_examine(path, &target, &f->err));
    struct repl_restore_options options = {.history = f->history,
                                           .point = (size_t)seq - 1,
                                           .target = &target,
                                           .progress_path = f->progress,
                                           .overwrite = overwrite,
                                           .whole = whole,
                                           .threads = threads,
                                           .interrupted = &interrupted,
                                           .status = status_hook,
                                           .context = f};
    repl_result result = repl_target_check_unused(&target, &f->err);
    if (repl_ok(result))
        result = repl_restore_progress_path(&target, f->model.temporary.path, f->progress,
                                            sizeof f->progress, &f->err);
    if (repl_ok(result))
        result = repl_restore_explain(repl_restore_run(&options, &f->result, &f->err), &f->result,
                                      &options, &f->err);
    repl_target_fini(&target);
    return result;
}

static void assert_restored(struct fixture *f, uint64_t seq, const char *path)
{
    if (!repl_ok(restore(f, seq, path)))
        fail_msg("%s", f->err.text);
    assert_int_equal(f->result.verified_bytes, MODEL_SIZE);
    assert_int_not_equal(access(f->progress, F_OK), 0);
}

static void assert_code(const struct fixture *f, repl_result result, enum repl_code code,
                        const char *part)
{
    if (result.code != code || strstr(f->err.text, part) == NULL)
        fail_msg("%s: %s", repl_code_name(result.code), f->err.text);
}

static void assert_content(const struct fixture *f, uint64_t seq, const char *path)
{
    uint8_t *bytes = malloc(MODEL_SIZE);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, bytes, MODEL_SIZE), MODEL_SIZE);
    close(fd);
    assert_memory_equal(bytes, f->model.points[seq], MODEL_SIZE);
    free(bytes);
}

/* --- files ----------------------------------------------------------------------------------- */

static void test_each_point(void **state)
{
    struct fixture *f = *state;
    struct stat status;
    for (uint64_t seq = 1; seq <= MODEL_LAST; seq++) {
        threads = (unsigned)seq;
        assert_restored(f, seq, f->target);
        assert_content(f, seq, f->target);
        assert_int_equal(stat(f->target, &status), 0);
        assert_int_equal(status.st_size, MODEL_SIZE);
        assert_int_equal(status.st_mode & 0777, 0600);
        /* Point 4 is nearly all zeros: the file has holes. */
        if (seq == 4)
            assert_true((uint64_t)status.st_blocks * 512 < MODEL_MIB);
        assert_int_equal(unlink(f->target), 0);
    }
    threads = 0;
}

static void test_existing_file(void **state)
{
    struct fixture *f = *state;
    int fd = open(f->target, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    uint8_t *ones = malloc(2 * MODEL_SIZE);
    memset(ones, 0xff, 2 * MODEL_SIZE);
    assert_int_equal(write(fd, ones, 2 * MODEL_SIZE), 2 * MODEL_SIZE);
    close(fd);
    free(ones);
    assert_code(f, restore(f, 1, f->target), REPL_E_REFUSED, "--overwrite");
    overwrite = true;
    assert_restored(f, 4, f->target);
    overwrite = false;
    assert_content(f, 4, f->target);
    assert_code(f, restore(f, 1, f->model.temporary.path), REPL_E_USAGE, "neither a block device");
    assert_code(f, restore(f, 1, "/nonexistent/file"), REPL_E_IO, "/nonexistent/file");
}

/* --- interrupted ----------------------------------------------------------------------------- */

static void test_interrupted(void **state)
{
    struct fixture *f = *state;
    atomic_store(&interrupted, true);
    assert_code(f, restore(f, 1, f->target), REPL_E_RETRY, "interrupted");
    atomic_store(&interrupted, false);
    assert_int_equal(access(f->progress, F_OK), 0);
    assert_code(f, restore(f, 2, f->target), REPL_E_REFUSED, "unfinished restore of point 1");
    reopen(f);
    assert_restored(f, 1, f->target);
    assert_true(f->result.resumed);
    assert_content(f, 1, f->target);
}

/* Ends in the fifth piece, because a frame is damaged; then the frame is healed. */
static void break_off(struct fixture *f, const char *target)
{
    char path[400];
    struct repl_restore_plan plan;
    uint64_t done;
    threads = 1;
    model_segment_path(&f->model, 1, 1, path);
    flip_bit(path, REPL_SEGMENT_HEADER_SIZE + 100);
    assert_code(f, restore(f, 1, target), REPL_E_CORRUPT, "segment 1.1");
    assert_non_null(strstr(f->err.text, "incomplete, do not use it"));
    assert_non_null(strstr(f->err.text, "\"repl verify data\" names the points"));
    flip_bit(path, REPL_SEGMENT_HEADER_SIZE + 100);
    reopen(f);
    assert_true(repl_ok(repl_restore_progress_read(f->progress, &plan, &done, &f->err)));
    assert_int_equal(done, 4);
    assert_int_equal(plan.seq, 1);
    assert_int_equal(plan.volume_size, MODEL_SIZE);
}

static void test_resume(void **state)
{
    struct fixture *f = *state;
    break_off(f, f->target);
    assert_restored(f, 1, f->target);
    assert_true(f->result.resumed);
    assert_content(f, 1, f->target);
}

/* What an earlier run wrote is read back as well, and written again if it is not there. */
static void test_read_back(void **state)
{
    struct fixture *f = *state;
    break_off(f, f->target);
    flip_bit(f->target, MODEL_MIB + 17);
    flip_bit(f->target, 2 * MODEL_MIB + 17);
    assert_restored(f, 1, f->target);
    assert_content(f, 1, f->target);
}

/* A bit in a hole, where the restore has nothing to write. */
static void test_read_back_hole(void **state)
{
    struct fixture *f = *state;
    break_off(f, f->target);
    flip_bit(f->target, 3 * MODEL_MIB + 17);
    assert_restored(f, 1, f->target);
    assert_int_equal(f->result.lost_bytes, MODEL_MIB);
    assert_content(f, 1, f->target);
}

/* Once at the end of each phase of writing. */
static unsigned flips_left;
static bool flipped;

static void flip_written(void *context, const struct repl_restore_status *status)
{
    struct fixture *f = context;
    if (status->phase != REPL_RESTORE_WRITING)
        flipped = false;
    if (status->phase != REPL_RESTORE_WRITING || status->done_bytes != status->total_bytes ||
        flipped || flips_left == 0)
        return;
    flips_left--;
    flipped = true;
    flip_bit(f->target, MODEL_MIB + 17);
}

/* What this run itself wrote is another matter. */
static void test_read_back_own(void **state)
{
    struct fixture *f = *state;
    flips_left = 1;
    status_hook = flip_written;
    assert_code(f, restore(f, 1, f->target), REPL_E_CORRUPT, "at offset 1048576");
    assert_non_null(strstr(f->err.text, "--overwrite"));
    assert_non_null(strstr(f->err.text, "incomplete, do not use it"));
    assert_null(strstr(f->err.text, "repl verify"));
    assert_restored(f, 1, f->target);
    assert_int_equal(unlink(f->target), 0);

    break_off(f, f->target);
    flips_left = 1;
    flip_bit(f->target, 17);
    assert_restored(f, 1, f->target); /* both pieces are inherited */
    assert_int_equal(f->result.lost_bytes, 2 * MODEL_MIB);
    assert_int_equal(unlink(f->target), 0);
    break_off(f, f->target);
    flip_bit(f->target, MODEL_MIB + 20);
    flips_left = 2; /* the first in the same piece: lost; the second in what was written again */
    assert_code(f, restore(f, 1, f->target), REPL_E_CORRUPT, "at offset 1048576");
    status_hook = NULL;
}

/* --- onto what is mostly there ---------------------------------------------------------------- */

/* What an origin gives for a restore of the point onto what path holds. */
static uint64_t restore_fetching(struct fixture *f, uint64_t seq, const char *path)
{
    reopen(f);
    overwrite = true;
    assert_restored(f, seq, path);
    overwrite = false;
    assert_content(f, seq, path);
    return atomic_load(&repl_history_origin(f->history)->fetched_bytes);
}

static void rewind_and_alter(struct fixture *f, const char *path)
{
    whole = true;
    uint64_t all = restore_fetching(f, 1, path);
    assert_int_equal(f->result.same_bytes, 0);
    whole = false;
    uint64_t least = restore_fetching(f, 1, path); /* manifests, indexes and lists of pages */
    assert_true(f->result.same_bytes > 0 && least < all / 2);
    uint64_t there = f->result.same_bytes;
    flip_bit(path, 5 * 4096 + 17); /* behind the back of the program */
    flip_bit(path, MODEL_MIB + 9 * 4096 + 4095);
    assert_true(restore_fetching(f, 1, path) > least);
    assert_int_equal(f->result.same_bytes, there - UINT64_C(2) * 4096);
    for (uint64_t seq = MODEL_LAST; seq > 0; seq--)
        restore_fetching(f, seq, path);
}

static void test_rewound_file(void **state)
{
    struct fixture *f = *state;
    assert_restored(f, MODEL_LAST, f->target);
    rewind_and_alter(f, f->target);
    assert_int_equal(truncate(f->target, MODEL_SIZE / 3), 0);
    restore_fetching(f, 2, f->target);
    assert_int_equal(truncate(f->target, 2 * MODEL_SIZE), 0);
    restore_fetching(f, 2, f->target);
}

/* --- syncs that fail ------------------------------------------------------------------------- */

static atomic_int syncs_to_fail;

/* Instead of the C library's. */
int fdatasync(int fd)
{
    if (atomic_load(&syncs_to_fail) > 0) {
        atomic_fetch_sub(&syncs_to_fail, 1);
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static const struct repl_origin_ops *real_ops;
static const char *slow_target;
static atomic_bool slept;

static repl_result slow_read(struct repl_origin *origin, const struct repl_segment_id *id,
                             uint64_t file_size, uint64_t offset, void *out, size_t size,
                             struct repl_error *err)
{
    if (id->part == 1 && access(slow_target, F_OK) == 0 && !atomic_exchange(&slept, true))
        usleep(3500000);
    return real_ops->read_at(origin, id, file_size, offset, out, size, err);
}

/* The kernel reports a lost write once; the sync after that succeeds, and says nothing. */
static void test_failed_sync(void **state)
{
    struct fixture *f = *state;
    struct repl_restore_plan plan;
    uint64_t done;
    struct repl_origin *origin = repl_history_origin(f->history);
    real_ops = origin->ops;
    struct repl_origin_ops slow = *real_ops;
    slow.read_at = slow_read;
    slow_target = f->target;
    origin->ops = &slow;
    threads = 1;
    atomic_store(&slept, false);
    atomic_store(&syncs_to_fail, 1);
    assert_code(f, restore(f, 1, f->target), REPL_E_IO, "make durable");
    origin->ops = real_ops;
    assert_true(atomic_load(&slept));
    assert_int_equal(atomic_load(&syncs_to_fail), 0);
    assert_true(repl_ok(repl_restore_progress_read(f->progress, &plan, &done, &f->err)));
    assert_int_equal(done, 0);
    assert_restored(f, 1, f->target);
    assert_content(f, 1, f->target);
    threads = 0;
}

static void hinder_removal(void *context, const struct repl_restore_status *status)
{
    struct fixture *f = context;
    if (status->phase != REPL_RESTORE_VERIFYING)
        return;
    unlink(f->progress);
    mkdir(f->progress, 0700);
}

static void test_progress_stays(void **state)
{
    struct fixture *f = *state;
    status_hook = hinder_removal;
    assert_code(f, restore(f, 1, f->target), REPL_E_IO, "cannot remove");
    status_hook = NULL;
    assert_true(f->result.complete);
    assert_non_null(strstr(f->err.text, "is restored and verified"));
    assert_null(strstr(f->err.text, "incomplete"));
    assert_content(f, 1, f->target);
    assert_int_equal(rmdir(f->progress), 0);
}

static void test_damaged_progress(void **state)
{
    struct fixture *f = *state;
    break_off(f, f->target);
    flip_bit(f->progress, 4096 + 8); /* a page of hashes: only its pieces are done again */
    assert_restored(f, 1, f->target);
    assert_content(f, 1, f->target);
    assert_int_equal(unlink(f->target), 0);

    break_off(f, f->target);
    flip_bit(f->progress, 100); /* the plan */
    assert_code(f, restore(f, 1, f->target), REPL_E_REFUSED, "cannot be read");
    overwrite = true;
    assert_restored(f, 1, f->target);
    overwrite = false;
    assert_false(f->result.resumed);
    assert_content(f, 1, f->target);
}

/* The progress of a file that is gone says nothing of one that took its name. */
static void test_replaced_target(void **state)
{
    struct fixture *f = *state;
    char other[320];
    break_off(f, f->target);
    snprintf(other, sizeof other, "%s.other", f->target);
    int fd = open(other, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, MODEL_SIZE), 0);
    close(fd);
    assert_int_equal(rename(other, f->target), 0);
    assert_code(f, restore(f, 1, f->target), REPL_E_REFUSED, "another target");
    assert_int_equal(unlink(f->target), 0);
    assert_restored(f, 1, f->target);
    assert_content(f, 1, f->target);
}

/* A filesystem gives the next file the number of the one before. */
static void test_reused_inode(void **state)
{
    struct fixture *f = *state;
    break_off(f, f->target);
    assert_int_equal(unlink(f->target), 0);
    int fd = open(f->target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, MODEL_SIZE), 0);
    close(fd);
    assert_code(f, restore(f, 1, f->target), REPL_E_REFUSED, "another target");
    assert_null(strstr(f->err.text, "incomplete"));
}

static void test_other_size(void **state)
{
    struct fixture *f = *state;
    break_off(f, f->target);
    assert_int_equal(truncate(f->target, MODEL_SIZE - 4096), 0);
    assert_code(f, restore(f, 1, f->target), REPL_E_REFUSED, "--overwrite");
    assert_non_null(strstr(f->err.text, "is not the file that the unfinished restore left"));
    overwrite = true;
    assert_restored(f, 1, f->target);
    overwrite = false;
    assert_content(f, 1, f->target);
}

/* --- devices --------------------------------------------------------------------------------- */

static void fill_with_ones(const char *path, size_t size)
{
    uint8_t *ones = malloc(size);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(ones != NULL && fd >= 0);
    memset(ones, 0xff, size);
    assert_int_equal(write(fd, ones, size), size);
    assert_int_equal(fsync(fd), 0);
    close(fd);
    free(ones);
}

/* False: there are none here. */
static bool loop_make(struct fixture *f, uint64_t size)
{
    char command[400];
    uint8_t *ones = malloc(size);
    int fd = open(f->backing, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    memset(ones, 0xff, size);
    bool made = geteuid() == 0 && fd >= 0 && write(fd, ones, size) == (ssize_t)size;
    free(ones);
    if (fd >= 0)
        close(fd);
    snprintf(command, sizeof command, "losetup --find --show %s 2>/dev/null", f->backing);
    FILE *out = made ? popen(command, "r") : NULL;
    if (out == NULL)
        return false;
    if (fgets(f->loop, sizeof f->loop, out) == NULL)
        f->loop[0] = '\0';
    pclose(out);
    f->loop[strcspn(f->loop, "\n")] = '\0';
    return f->loop[0] != '\0';
}

static void test_device(void **state)
{
    struct fixture *f = *state;
    if (!loop_make(f, 8 * MODEL_MIB))
        skip();
    for (uint64_t seq = 1; seq <= MODEL_LAST; seq++) {
        assert_restored(f, seq, f->loop);
        assert_content(f, seq, f->loop);
    }
    /* What lies behind the volume is left alone. */
    uint8_t byte = 0;
    int fd = open(f->loop, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, MODEL_SIZE), 1);
    assert_int_equal(byte, 0xff);
    close(fd);
}

static void test_rewound_device(void **state)
{
    struct fixture *f = *state;
    if (!loop_make(f, 8 * MODEL_MIB))
        skip();
    rewind_and_alter(f, f->loop);
}

static void test_device_resume(void **state)
{
    struct fixture *f = *state;
    if (!loop_make(f, 8 * MODEL_MIB))
        skip();
    break_off(f, f->loop);
    assert_code(f, restore(f, 3, f->loop), REPL_E_REFUSED, "unfinished restore of point 1");
    assert_restored(f, 1, f->loop);
    assert_true(f->result.resumed);
    assert_content(f, 1, f->loop);
    fill_with_ones(f->loop, MODEL_SIZE); /* or there is nothing to read of a damaged frame */
    break_off(f, f->loop);
    overwrite = true;
    assert_restored(f, 3, f->loop);
    overwrite = false;
    assert_content(f, 3, f->loop);
}

static void test_device_refused(void **state)
{
    struct fixture *f = *state;
    if (!loop_make(f, MODEL_SIZE / 4096 * 4096))
        skip();
    assert_code(f, restore(f, 1, f->loop), REPL_E_REFUSED, "too small");
    assert_code(f, restore(f, 1, f->backing), REPL_E_REFUSED, "losetup -d");
    struct repl_target target;
    assert_true(repl_ok(repl_target_examine(f->loop, &target, &f->err)));
    assert_true(repl_target_overlaps(&target, f->loop));
    assert_false(repl_target_overlaps(&target, f->backing));
    int holder = open(f->loop, O_RDONLY | O_EXCL | O_CLOEXEC);
    assert_true(holder >= 0);
    assert_code(f, repl_target_open(&target, MODEL_SIZE, true, &f->err), REPL_E_REFUSED, "in use");
    close(holder);
    repl_target_fini(&target);
}

/* As a filesystem does that wants larger blocks, or none of it, the kernel refuses to write this
 * past the page cache. */
static void test_not_direct(void **state)
{
    struct fixture *f = *state;
    struct repl_target target;
    size_t size = 3 * REPL_TARGET_ALIGNMENT;
    uint8_t *from = aligned_alloc(REPL_TARGET_ALIGNMENT, size + REPL_TARGET_ALIGNMENT);
    uint8_t *back = aligned_alloc(REPL_TARGET_ALIGNMENT, size);
    assert_true(from != NULL && back != NULL);
    for (size_t i = 0; i <= size; i++)
        from[i] = (uint8_t)(i % 251);
    assert_true(repl_ok(repl_target_examine(f->target, &target, &f->err)));
    assert_code(f, repl_target_open(&target, size, false, &f->err), REPL_OK, "");
    assert_code(f, repl_target_write(&target, 0, from + 1, size, &f->err), REPL_OK, "");
    assert_code(f, repl_target_sync(&target, &f->err), REPL_OK, "");
    assert_code(f, repl_target_read(&target, 0, back, size, &f->err), REPL_OK, "");
    assert_memory_equal(back, from + 1, size);
    repl_target_fini(&target);
    free(from);
    free(back);
}

/* Between the prompt and the first byte written, another disk can get the number. */
static void test_device_replaced(void **state)
{
    struct fixture *f = *state;
    struct loop_device loop = {.fd = -1};
    struct repl_target target;
    if (!loop_device_make(&loop, f->backing, 8 * MODEL_MIB))
        skip();
    assert_true(repl_ok(repl_target_examine(loop.path, &target, &f->err)));
    loop_device_close(&loop); /* and another file behind the same number */
    loop.fd = open(loop.path, O_RDWR | O_CLOEXEC);
    int other = open(f->target, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    bool replaced = loop.fd >= 0 && other >= 0 && ftruncate(other, 8 * (off_t)MODEL_MIB) == 0 &&
                    loop_device_configure(loop.fd, other, LO_FLAGS_PARTSCAN);
    if (other >= 0)
        close(other);
    if (replaced) { /* if not, another process has got the number */
        assert_code(f, repl_target_open(&target, MODEL_SIZE, true, &f->err), REPL_E_REFUSED,
                    "became another device");
        assert_false(target.touched);
    }
    repl_target_fini(&target);
    loop_device_close(&loop);
    if (!replaced)
        skip();
}

#define RESTORE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RESTORE_TEST(test_each_point),       RESTORE_TEST(test_existing_file),
        RESTORE_TEST(test_interrupted),      RESTORE_TEST(test_resume),
        RESTORE_TEST(test_read_back),        RESTORE_TEST(test_read_back_hole),
        RESTORE_TEST(test_damaged_progress), RESTORE_TEST(test_replaced_target),
        RESTORE_TEST(test_read_back_own),    RESTORE_TEST(test_failed_sync),
        RESTORE_TEST(test_progress_stays),   RESTORE_TEST(test_reused_inode),
        RESTORE_TEST(test_other_size),       RESTORE_TEST(test_device),
        RESTORE_TEST(test_device_resume),    RESTORE_TEST(test_device_refused),
        RESTORE_TEST(test_rewound_file),     RESTORE_TEST(test_rewound_device),
        RESTORE_TEST(test_not_direct),       RESTORE_TEST(test_device_replaced),
    };
    return cmocka_run_group_tests_name("restore", tests, NULL, NULL);
}
