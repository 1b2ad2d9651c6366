/*
 * The posix store on a real directory. Failing syncs and full disks are put in
 * the place of the real calls; that what was synced survives a power cut is the
 * kernel's part, that every sync is made and in which order is looked at here.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/store_posix_internal.h"
#include "unit/agent/store/store_contract.h"

struct fixture {
    struct contract c;
    char path[PATH_SIZE];
};

static void path_below(const struct fixture *f, const char *below, char out[PATH_SIZE])
{
    assert_true((size_t)snprintf(out, PATH_SIZE, "%s/%s", f->path, below) < PATH_SIZE);
}

static repl_result open_again(struct contract *c, bool writable, struct repl_store **out)
{
    struct fixture *f = (struct fixture *)c;
    return repl_posix_store_open(f->path, writable, false, out, &c->err);
}

static void open_store(struct fixture *f)
{
    assert_code(&f->c, repl_posix_store_open(f->path, true, true, &f->c.store, &f->c.err), REPL_OK);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->c.open = open_again;
    if (temporary_make(&f->c.temporary) != 0)
        return -1;
    snprintf(f->path, sizeof f->path, "%s/store", f->c.temporary.path);
    open_store(f);
    assert_code(&f->c, f->c.store->ops->volume_create(f->c.store, "data", &f->c.err), REPL_OK);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    close_store(&f->c);
    temporary_remove(&f->c.temporary);
    free(f);
    return 0;
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static bool exists(const struct fixture *f, const char *below)
{
    char path[PATH_SIZE];
    struct stat status;
    path_below(f, below, path);
    return lstat(path, &status) == 0;
}

static ino_t inode_of(const struct fixture *f, const char *below)
{
    char path[PATH_SIZE];
    struct stat status;
    path_below(f, below, path);
    assert_int_equal(lstat(path, &status), 0);
    return status.st_ino;
}

/* --- calls that fail ------------------------------------------------------------------------- */

/* One letter a call: f fsync, d fdatasync, w pwrite; capitals where it failed. */
static char trace[64];
static char script[64]; /* what is to happen, call by call: the same letters; ends: all succeeds */
static int script_errno;

static bool step(char letter)
{
    size_t at = strlen(trace);
    assert_true(at + 1 < sizeof trace);
    bool fails = at < strlen(script) && script[at] == letter - 'a' + 'A';
    trace[at] = fails ? (char)(letter - 'a' + 'A') : letter;
    trace[at + 1] = '\0';
    if (fails)
        errno = script_errno;
    return fails;
}

static int fake_fsync(int fd)
{
    return step('f') ? -1 : fsync(fd);
}

static int fake_fdatasync(int fd)
{
    return step('d') ? -1 : fdatasync(fd);
}

/* What fails writes half of its bytes before. */
static ssize_t fake_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    bool fails = step('w');
    int kept = errno;
    ssize_t written = pwrite(fd, data, fails ? size / 2 : size, offset);
    errno = kept;
    return fails ? -1 : written;
}

/* One byte a call, and every other call is interrupted. */
static ssize_t slow_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    static unsigned calls;
    errno = EINTR;
    return calls++ % 2 == 0 ? -1 : pwrite(fd, data, size > 0 ? 1 : 0, offset);
}

static void play(struct fixture *f, const char *what, int os_errno)
{
    posix_store_of(f->c.store)->calls =
        (struct posix_store_calls){fake_fsync, fake_fdatasync, fake_pwrite};
    trace[0] = '\0';
    snprintf(script, sizeof script, "%s", what);
    script_errno = os_errno;
}

/* --- the directory --------------------------------------------------------------------------- */

static void a_store_is_made_and_opened_again(void **state)
{
    struct fixture *f = *state;
    struct repl_store *other = NULL;
    char path[PATH_SIZE], text[64] = "";
    assert_true(exists(f, "repl-store") && exists(f, "lock") && exists(f, "volumes/data/staging"));
    path_below(f, "repl-store", path);
    FILE *file = fopen(path, "r");
    assert_non_null(fgets(text, sizeof text, file));
    fclose(file);
    assert_string_equal(text, "repl store, version 1\n");
    close_store(&f->c);
    assert_code(&f->c, repl_posix_store_open(f->path, true, false, &f->c.store, &f->c.err),
                REPL_OK);
    assert_string_equal(f->c.store->ops->name, "posix");

    path_below(f, "not-there", path);
    assert_code(&f->c, repl_posix_store_open(path, true, false, &other, &f->c.err), REPL_E_MISSING);
    assert_code(&f->c, repl_posix_store_open(path, false, false, &other, &f->c.err),
                REPL_E_MISSING);
    path_below(f, "not/there", path);
    assert_code(&f->c, repl_posix_store_open(path, true, true, &other, &f->c.err), REPL_E_MISSING);
    path_below(f, "repl-store", path);
    assert_code(&f->c, repl_posix_store_open(path, true, true, &other, &f->c.err), REPL_E_IO);
    assert_code(&f->c, repl_posix_store_open(f->c.temporary.path, true, false, &other, &f->c.err),
                REPL_E_MISSING);
    assert_non_null(strstr(f->c.err.text, "mounted"));
    assert_null(other);
}

static void one_process_writes(void **state)
{
    struct fixture *f = *state;
    struct repl_store *other = NULL;
    char owner[32];
    snprintf(owner, sizeof owner, "process %ld:", (long)getpid());
    pid_t child = fork();
    if (child == 0) {
        repl_result result = repl_posix_store_open(f->path, true, true, &other, &f->c.err);
        _exit(result.code == REPL_E_LOCKED && strstr(f->c.err.text, owner) != NULL ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_code(&f->c, repl_posix_store_open(f->path, true, false, &other, &f->c.err),
                REPL_E_LOCKED);

    close_store(&f->c);
    assert_code(&f->c, repl_posix_store_open(f->path, true, false, &f->c.store, &f->c.err),
                REPL_OK);
    assert_code(&f->c, repl_posix_store_open(f->path, false, true, &other, &f->c.err),
                REPL_E_INTERNAL);
}

static void other_versions_and_other_directories_are_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *text;
        enum repl_code code;
    } cases[] = {
        {"repl store, version 2\n", REPL_E_VERSION},   {"repl store, version 1", REPL_OK},
        {"repl store, version 1\nx", REPL_E_CORRUPT},  {"", REPL_E_CORRUPT},
        {"something else altogether", REPL_E_CORRUPT},
    };
    char path[PATH_SIZE];
    close_store(&f->c);
    path_below(f, "repl-store", path);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file(path, cases[i].text);
        assert_code(&f->c, repl_posix_store_open(f->path, true, true, &f->c.store, &f->c.err),
                    cases[i].code);
        close_store(&f->c);
    }
    /* a store that was not finished is; a directory with other things in it is left alone */
    assert_int_equal(unlink(path), 0);
    open_store(f);
    close_store(&f->c);
    assert_int_equal(unlink(path), 0);
    char foreign[PATH_SIZE];
    path_below(f, "holiday.jpg", foreign);
    write_file(foreign, "x");
    assert_code(&f->c, repl_posix_store_open(f->path, true, true, &f->c.store, &f->c.err),
                REPL_E_REFUSED);
    assert_non_null(strstr(f->c.err.text, "holiday.jpg"));
    assert_false(exists(f, "repl-store"));
}

static void no_link_is_followed(void **state)
{
    struct fixture *f = *state;
    struct repl_stored_segment *segment;
    struct repl_buffer log = {0};
    char path[PATH_SIZE], other[PATH_SIZE];
    const struct repl_segment_id id = {.to_seq = 7};
    snprintf(other, sizeof other, "%s/other", f->c.temporary.path);
    write_file(other, "not ours");
    path_below(f, "volumes/data/log", path);
    assert_int_equal(symlink(other, path), 0);
    assert_code(&f->c, f->c.store->ops->log_read(f->c.store, "data", &log, NULL, &f->c.err),
                REPL_E_REFUSED);
    assert_code(&f->c, f->c.store->ops->log_append(f->c.store, "data", 0, "x", 1, &f->c.err),
                REPL_E_REFUSED);
    path_below(f, "volumes/data/segments/00000000000000000007.000000.seg", path);
    assert_int_equal(symlink(other, path), 0);
    assert_code(&f->c,
                f->c.store->ops->segment_open(f->c.store, "data", &id, 0, &segment, &f->c.err),
                REPL_E_REFUSED);
    path_below(f, "volumes/link", path);
    assert_int_equal(symlink("data", path), 0);
    assert_code(&f->c, f->c.store->ops->log_read(f->c.store, "link", &log, NULL, &f->c.err),
                REPL_E_IO);
    assert_code(&f->c, f->c.store->ops->volume_create(f->c.store, "link", &f->c.err), REPL_E_IO);
    path_below(f, "volumes/data/log", path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(repl_ok(f->c.store->ops->log_append(f->c.store, "data", 0, "x", 1, &f->c.err)));
    repl_buffer_fini(&log);
}

/* --- volumes --------------------------------------------------------------------------------- */

static void volumes_are_made_and_listed(void **state)
{
    struct fixture *f = *state;
    const struct repl_store_ops *ops = f->c.store->ops;
    char all[256] = "", path[PATH_SIZE];
    assert_code(&f->c, ops->volumes(f->c.store, collect_volume, all, &f->c.err), REPL_OK);
    assert_string_equal(all, "data ");
    assert_code(&f->c, ops->volume_create(f->c.store, "web-1.x", &f->c.err), REPL_OK);
    assert_code(&f->c, ops->volume_create(f->c.store, "web-1.x", &f->c.err), REPL_OK);
    path_below(f, "volumes/stray", path);
    write_file(path, "not a directory");
    path_below(f, "volumes/.hidden", path);
    assert_int_equal(mkdir(path, 0700), 0);
    all[0] = '\0';
    assert_code(&f->c, ops->volumes(f->c.store, collect_volume, all, &f->c.err), REPL_OK);
    assert_true(strcmp(all, "data web-1.x ") == 0 || strcmp(all, "web-1.x data ") == 0);
    /* one that a crash left half made is completed */
    path_below(f, "volumes/half", path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_code(&f->c, ops->volume_create(f->c.store, "half", &f->c.err), REPL_OK);
    assert_true(exists(f, "volumes/half/segments") && exists(f, "volumes/half/staging"));
}

static void a_new_volume_is_synced(void **state)
{
    struct fixture *f = *state;
    play(f, "", 0);
    assert_code(&f->c, f->c.store->ops->volume_create(f->c.store, "new", &f->c.err), REPL_OK);
    assert_string_equal(trace, "ffff"); /* segments, staging, the volume, volumes */
    for (size_t i = 1; i <= 4; i++) {
        char what[8] = "";
        memcpy(what, "fff", i - 1);
        strcat(what, "F");
        play(f, what, EIO);
        assert_code(&f->c, f->c.store->ops->volume_create(f->c.store, "new", &f->c.err), REPL_E_IO);
        assert_string_equal(trace, what);
    }
}

static void paths_of_a_volume(void **state)
{
    struct fixture *f = *state;
    char path[PATH_SIZE], expected[PATH_SIZE], small[8];
    assert_code(&f->c, repl_store_staging(f->c.store, "data", path, sizeof path, &f->c.err),
                REPL_OK);
    path_below(f, "volumes/data/staging", expected);
    assert_string_equal(path, expected);
    assert_code(&f->c,
                f->c.store->ops->volume_directory(f->c.store, "data", path, sizeof path, &f->c.err),
                REPL_OK);
    path_below(f, "volumes/data", expected);
    assert_string_equal(path, expected);
    assert_code(&f->c, repl_store_staging(f->c.store, "data", small, sizeof small, &f->c.err),
                REPL_E_USAGE);
    assert_code(&f->c, repl_store_staging(f->c.store, "a/b", path, sizeof path, &f->c.err),
                REPL_E_INTERNAL);
}

/* --- segments -------------------------------------------------------------------------------- */

static void a_segment_is_a_file(void **state)
{
    struct fixture *f = *state;
    const struct repl_store_ops *ops = f->c.store->ops;
    const struct repl_segment_id id = {.to_seq = 12, .part = 3};
    struct repl_stored_segment *segment;
    char bytes[8];
    assert_code(&f->c, publish(&f->c, &id, "0123456789"), REPL_OK);
    assert_true(exists(f, "volumes/data/segments/00000000000000000012.000003.seg"));
    assert_code(&f->c, ops->segment_open(f->c.store, "data", &id, 0, &segment, &f->c.err), REPL_OK);
    assert_true(segment->fd >= 0);
    /* another takes its place; who has the old one open keeps it */
    assert_code(&f->c, publish(&f->c, &id, "replaced"), REPL_OK);
    assert_code(&f->c, segment->read_at(segment, 0, bytes, 4, &f->c.err), REPL_OK);
    assert_memory_equal(bytes, "0123", 4);
    assert_int_equal(ftruncate(segment->fd, 0), -1); /* open for reading only */
    segment->close(segment);
    assert_code(&f->c, ops->segment_remove(f->c.store, "nowhere", &id, &f->c.err), REPL_E_MISSING);
}

static void a_truncated_segment_is_damage(void **state)
{
    struct fixture *f = *state;
    const struct repl_segment_id id = {.to_seq = 5};
    struct repl_stored_segment *segment;
    char bytes[8], path[PATH_SIZE];
    assert_code(&f->c, publish(&f->c, &id, "01234567"), REPL_OK);
    assert_code(&f->c,
                f->c.store->ops->segment_open(f->c.store, "data", &id, 0, &segment, &f->c.err),
                REPL_OK);
    path_below(f, "volumes/data/segments/00000000000000000005.000000.seg", path);
    assert_int_equal(truncate(path, 3), 0);
    assert_code(&f->c, segment->read_at(segment, 0, bytes, 8, &f->c.err), REPL_E_CORRUPT);
    segment->close(segment);
}

static void other_files_are_no_segments(void **state)
{
    struct fixture *f = *state;
    static const char *const strays[] = {
        "00000000000000000001.000000.seg.tmp",  "1.0.seg",
        "00000000000000000001.000000.000.sup",  "99999999999999999999.000000.seg",
        "00000000000000000001.0000000.seg",     "00000000000000000001.000000.01.sup",
        "00000000000000000001.000000.1234.sup", "+0000000000000000001.000000.seg",
    };
    char all[1024] = "", path[PATH_SIZE + 64];
    for (size_t i = 0; i < sizeof strays / sizeof strays[0]; i++) {
        snprintf(path, sizeof path, "%s/volumes/data/segments/%s", f->path, strays[i]);
        write_file(path, "stray");
    }
    snprintf(path, sizeof path, "%s/volumes/data/segments/00000000000000000002.000000.seg",
             f->path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_code(&f->c,
                f->c.store->ops->segments(f->c.store, "data", collect_segment, all, &f->c.err),
                REPL_OK);
    assert_string_equal(all, "");
    assert_code(&f->c,
                f->c.store->ops->segments(f->c.store, "nowhere", collect_segment, all, &f->c.err),
                REPL_E_MISSING);
}

static void publishing_syncs_the_name(void **state)
{
    struct fixture *f = *state;
    const struct repl_segment_id id = {.to_seq = 9};
    char path[PATH_SIZE];
    play(f, "", 0);
    assert_code(&f->c, publish(&f->c, &id, "abc"), REPL_OK);
    assert_string_equal(trace, "f");
    play(f, "", 0);
    assert_code(&f->c, f->c.store->ops->segment_remove(f->c.store, "data", &id, &f->c.err),
                REPL_OK);
    assert_string_equal(trace, "f");
    play(f, "F", EIO);
    assert_code(&f->c, f->c.store->ops->segment_remove(f->c.store, "data", &id, &f->c.err),
                REPL_E_IO);
    play(f, "F", EDQUOT);
    int fd = stage(&f->c, "abc", path);
    assert_code(&f->c,
                f->c.store->ops->segment_publish(f->c.store, "data", &id, fd, path, &f->c.err),
                REPL_E_NOSPACE);
    close(fd);
}

/* --- the log --------------------------------------------------------------------------------- */

static void a_log_is_a_file(void **state)
{
    struct fixture *f = *state;
    assert_log(&f->c, "");
    assert_false(exists(f, "volumes/data/log")); /* reading makes none */
    assert_code(&f->c, f->c.store->ops->log_append(f->c.store, "nowhere", 0, "x", 1, &f->c.err),
                REPL_E_MISSING);
}

static void every_append_is_synced(void **state)
{
    struct fixture *f = *state;
    play(f, "", 0);
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    assert_string_equal(trace, "dfwd"); /* opening: the file and its name; then the record */
    play(f, "", 0);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_OK);
    assert_string_equal(trace, "wd");
    /* the cut is durable before anything is written over it */
    play(f, "", 0);
    assert_code(&f->c, append(&f->c, 4, "three."), REPL_OK);
    assert_string_equal(trace, "dwd");
    /* what another process left behind is made durable before it is believed */
    reopen(&f->c);
    play(f, "", 0);
    assert_log(&f->c, "one.three.");
    assert_string_equal(trace, "df");
}

static void after_a_failed_sync_the_file_is_left(void **state)
{
    struct fixture *f = *state;
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    ino_t old = inode_of(f, "volumes/data/log");
    play(f, "wD", EIO);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_E_IO);
    assert_string_equal(trace, "wD");
    assert_non_null(strstr(f->c.err.text, "volume data"));
    assert_true(exists(f, "volumes/data/log.suspect"));
    /* the retry copies what was good (write, sync, name), then appends */
    play(f, "", 0);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_OK);
    assert_string_equal(trace, "wffwd");
    assert_int_not_equal(inode_of(f, "volumes/data/log"), old);
    assert_false(exists(f, "volumes/data/log.suspect"));
    assert_false(exists(f, "volumes/data/log.new"));
    assert_log(&f->c, "one.two.");
    play(f, "", 0);
    assert_code(&f->c, append(&f->c, 8, "three."), REPL_OK);
    assert_string_equal(trace, "wd");
}

static void a_suspect_log_outlives_the_process(void **state)
{
    struct fixture *f = *state;
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    play(f, "wD", EIO);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_E_IO);
    ino_t old = inode_of(f, "volumes/data/log");
    reopen(&f->c);
    /* the record is there to be read, so it is made durable before somebody builds on it */
    play(f, "", 0);
    assert_log(&f->c, "one.two.");
    assert_string_equal(trace, "dfwff");
    assert_int_not_equal(inode_of(f, "volumes/data/log"), old);
    assert_false(exists(f, "volumes/data/log.suspect"));
    assert_code(&f->c, append(&f->c, 8, "three."), REPL_OK);
    assert_log(&f->c, "one.two.three.");
}

/* Every call of the way fails once; the log never holds anything but what it should. */
static void a_rewrite_may_fail_anywhere(void **state)
{
    struct fixture *f = *state;
    static const char *const scripts[] = {"W", "wF", "wfF", "wffW", "wffwD"};
    char path[PATH_SIZE];
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
        play(f, "wD", EIO);
        assert_code(&f->c, append(&f->c, 4, "lost."), REPL_E_IO);
        play(f, scripts[i], EIO);
        assert_code(&f->c, append(&f->c, 4, "lost."), REPL_E_IO);
        assert_string_equal(trace, scripts[i]);
        assert_false(exists(f, "volumes/data/log.new"));
        /* only a finished rewrite clears the mark */
        bool rewritten = strncmp(scripts[i], "wff", 3) == 0 && strcmp(scripts[i], "wffwD") != 0;
        assert_int_equal(exists(f, "volumes/data/log.suspect"), !rewritten);
        if (i % 2 == 0)
            reopen(&f->c);
        play(f, "", 0);
        assert_code(&f->c, append(&f->c, 4, "two."), REPL_OK);
        assert_log(&f->c, "one.two.");
    }
    /* a leftover of another process's rewrite is no obstacle */
    play(f, "wD", EIO);
    assert_code(&f->c, append(&f->c, 8, "x"), REPL_E_IO);
    path_below(f, "volumes/data/log.new", path);
    write_file(path, "half of a co");
    play(f, "", 0);
    assert_code(&f->c, append(&f->c, 8, "three."), REPL_OK);
    assert_log(&f->c, "one.two.three.");
}

static void a_sync_may_fail_at_the_cut_and_at_the_start(void **state)
{
    struct fixture *f = *state;
    static const char *const scripts[] = {"D", "dF"};
    assert_code(&f->c, append(&f->c, 0, "one.two."), REPL_OK);
    play(f, "D", EIO);
    assert_code(&f->c, append(&f->c, 4, "2."), REPL_E_IO);
    assert_string_equal(trace, "D");
    play(f, "", 0);
    assert_code(&f->c, append(&f->c, 4, "2."), REPL_OK);
    assert_string_equal(trace, "wffwd");
    assert_log(&f->c, "one.2.");
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        struct repl_buffer log = {0};
        reopen(&f->c);
        play(f, scripts[i], EIO);
        assert_code(&f->c, f->c.store->ops->log_read(f->c.store, "data", &log, NULL, &f->c.err),
                    REPL_E_IO);
        assert_int_equal(log.size, 0);
        repl_buffer_fini(&log);
        play(f, "", 0);
        assert_log(&f->c, "one.2.");
        assert_string_equal(trace, "wff");
    }
}

static void a_full_disk_is_said_and_survived(void **state)
{
    struct fixture *f = *state;
    assert_code(&f->c, append(&f->c, 0, "one."), REPL_OK);
    play(f, "W", ENOSPC);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_E_NOSPACE);
    assert_log(&f->c, "one.tw"); /* a torn tail, which the reader of the log knows as one */
    assert_false(exists(f, "volumes/data/log.suspect"));
    play(f, "", 0);
    assert_code(&f->c, append(&f->c, 4, "2."), REPL_OK);
    assert_log(&f->c, "one.2.");
    posix_store_of(f->c.store)->calls.pwrite = slow_pwrite;
    assert_code(&f->c, append(&f->c, 6, "slowly."), REPL_OK);
    assert_log(&f->c, "one.2.slowly.");
}

static void a_large_log_is_copied_whole(void **state)
{
    struct fixture *f = *state;
    struct repl_buffer log = {0};
    size_t size = 1500001;
    char *bytes = malloc(size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i * 7 + i / 251);
    assert_code(&f->c, f->c.store->ops->log_append(f->c.store, "data", 0, bytes, size, &f->c.err),
                REPL_OK);
    play(f, "wD", EIO);
    assert_code(&f->c, append(&f->c, size, "x"), REPL_E_IO);
    play(f, "", 0);
    assert_code(&f->c, append(&f->c, size, "y"), REPL_OK);
    assert_code(&f->c, f->c.store->ops->log_read(f->c.store, "data", &log, NULL, &f->c.err),
                REPL_OK);
    assert_int_equal(log.size, size + 1);
    assert_memory_equal(log.data, bytes, size);
    assert_int_equal(log.data[size], 'y');
    repl_buffer_fini(&log);
    free(bytes);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* --- a log written anew ---------------------------------------------------------------------- */

static repl_result replace(struct fixture *f, const char *text, uint64_t *end)
{
    return f->c.store->ops->log_replace(f->c.store, "data", text, strlen(text), end, &f->c.err);
}

static void a_log_is_replaced(void **state)
{
    struct fixture *f = *state;
    struct repl_buffer log = {0};
    uint64_t end = 0, begin = 99;
    play(f, "", 0);
    assert_code(&f->c, replace(f, "first.", &end), REPL_OK);
    assert_string_equal(trace, "dfwff"); /* opening; the new file, then its name */
    assert_int_equal(end, 6);
    assert_code(&f->c, append(&f->c, end, "one.two."), REPL_OK);
    ino_t old = inode_of(f, "volumes/data/log");
    end = 14;
    play(f, "", 0);
    assert_code(&f->c, replace(f, "all.", &end), REPL_OK);
    assert_string_equal(trace, "wff");
    assert_int_equal(end, 4);
    assert_int_not_equal(inode_of(f, "volumes/data/log"), old);
    assert_false(exists(f, "volumes/data/log.new"));
    assert_code(&f->c, append(&f->c, 4, "three."), REPL_OK);
    reopen(&f->c);
    assert_code(&f->c, f->c.store->ops->log_read(f->c.store, "data", &log, &begin, &f->c.err),
                REPL_OK);
    assert_int_equal(begin, 0);
    assert_int_equal(log.size, 10);
    assert_memory_equal(log.data, "all.three.", 10);
    repl_buffer_fini(&log);
    assert_code(&f->c, f->c.store->ops->log_replace(f->c.store, "nowhere", "x", 1, &end, &f->c.err),
                REPL_E_MISSING);
}

/* Whatever fails, who wrote it goes on with the old log, and another process finds one of both. */
static void a_replacement_may_fail_anywhere(void **state)
{
    struct fixture *f = *state;
    static const char *const scripts[] = {"W", "wF", "wfF"};
    for (unsigned i = 0; i < 3 * 3; i++) {
        uint64_t end = 8;
        bool named = i % 3 == 2;
        assert_code(&f->c, append(&f->c, 0, "one.two."), REPL_OK);
        play(f, scripts[i % 3], EIO);
        assert_code(&f->c, replace(f, "all.", &end), REPL_E_IO);
        assert_string_equal(trace, scripts[i % 3]);
        assert_int_equal(end, 8);
        assert_false(exists(f, "volumes/data/log.new"));
        assert_int_equal(exists(f, "volumes/data/log.suspect"), named);
        play(f, "", 0);
        if (i / 3 == 0) { /* another process */
            reopen(&f->c);
            assert_log(&f->c, named ? "all." : "one.two.");
            assert_code(&f->c, append(&f->c, named ? 4 : 8, "three."), REPL_OK);
            assert_log(&f->c, named ? "all.three." : "one.two.three.");
        } else if (i / 3 == 1) {
            assert_code(&f->c, append(&f->c, 8, "three."), REPL_OK);
            assert_string_equal(trace, named ? "wffwd" : "wd");
            reopen(&f->c);
            assert_log(&f->c, "one.two.three.");
        } else { /* tried again */
            assert_log(&f->c, "one.two.");
            assert_code(&f->c, replace(f, "all.", &end), REPL_OK);
            assert_log(&f->c, "all.");
        }
        assert_false(exists(f, "volumes/data/log.suspect"));
    }
    /* a suspect log is not read for it, and not suspect any more */
    uint64_t end = 4;
    play(f, "wD", EIO);
    assert_code(&f->c, append(&f->c, 4, "two."), REPL_E_IO);
    play(f, "", 0);
    assert_code(&f->c, replace(f, "anew.", &end), REPL_OK);
    assert_string_equal(trace, "wff");
    assert_false(exists(f, "volumes/data/log.suspect"));
    assert_log(&f->c, "anew.");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_store_is_made_and_opened_again),
        TEST(one_process_writes),
        TEST(other_versions_and_other_directories_are_refused),
        TEST(no_link_is_followed),
        TEST(volumes_are_made_and_listed),
        TEST(a_new_volume_is_synced),
        TEST(paths_of_a_volume),
        TEST(a_segment_is_a_file),
        TEST(a_truncated_segment_is_damage),
        TEST(other_files_are_no_segments),
        TEST(publishing_syncs_the_name),
        TEST(a_log_is_a_file),
        TEST(every_append_is_synced),
        TEST(after_a_failed_sync_the_file_is_left),
        TEST(a_suspect_log_outlives_the_process),
        TEST(a_rewrite_may_fail_anywhere),
        TEST(a_sync_may_fail_at_the_cut_and_at_the_start),
        TEST(a_full_disk_is_said_and_survived),
        TEST(a_large_log_is_copied_whole),
        TEST(a_log_is_replaced),
        TEST(a_replacement_may_fail_anywhere),
        STORE_CONTRACT_TESTS,
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
