/*
 * Trees restored out of a store directory: everything that can be in one, onto
 * nothing and onto what is there already; trees and targets that mean harm.
 */
#include <sys/ioctl.h>
#include <sys/mount.h>

#include "cli/verbs.h"
#include "unit/agent/recover/tree_model.h"

#define PATCHED  (UINT64_C(65) << 20)
#define DEEP     600u /* directories in one another */
#define DEEPNAME "a-name-long-enough-for-it"

static void test_everything(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    restore_well(f, 1);
    assert_everything(f);
    assert_int_equal(f->result.files, 6);
    assert_int_equal(f->result.directories, 3);
    assert_int_equal(f->result.others, 5);
    assert_int_equal(f->result.equal, 0);
    assert_int_equal(f->result.data_bytes, 10000 + 4096 + 100 + 4096 + 1 + 300000);
    for (unsigned i = 0; i < REPL_TREE_LACK_COUNT; i++) {
        if (i != REPL_TREE_LACK_FLAGS)
            assert_int_equal(f->result.lacks[i].count, 0);
    }
    if (f->result.lacks[REPL_TREE_LACK_FLAGS].count == 0) {
        unsigned flags = 0;
        int fd = open(path_of(f, "file"), O_RDONLY | O_CLOEXEC);
        assert_int_equal(ioctl(fd, FS_IOC_GETFLAGS, &flags), 0);
        assert_int_equal(flags & FS_NODUMP_FL, FS_NODUMP_FL);
        close(fd);
    }
    assert_true(is_there(f, "../state"));
    assert_int_equal(rmdir(f->state), 0); /* nothing is left in it */

    /* Once more: nothing is touched. */
    static const char *const all[] = {".",    "file",  "empty", "dir",    "link",      "fifo",
                                      "char", "block", "sock",  "sparse", "dir/below", "private"};
    struct stat before[12];
    for (unsigned i = 0; i < 12; i++)
        before[i] = stat_of(f, all[i]);
    restore_well(f, 1);
    assert_int_equal(change_count(f), 0);
    assert_int_equal(f->result.equal, 6);
    assert_false(f->result.touched);
    for (unsigned i = 0; i < 12; i++) {
        struct stat after = stat_of(f, all[i]);
        assert_int_equal(after.st_ino, before[i].st_ino);
        assert_memory_equal(&after.st_ctim, &before[i].st_ctim, sizeof after.st_ctim);
    }
}

static void test_differential(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    restore_well(f, 1);
    struct stat file = stat_of(f, "file"), below = stat_of(f, "dir/below"),
                sparse = stat_of(f, "sparse");
    int fd = open(path_of(f, "dir/below"), O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "!", 1, 250000), 1);
    close(fd);
    fd = open(path_of(f, "sparse"), O_RDWR | O_CLOEXEC); /* something where there is a hole */
    assert_int_equal(pwrite(fd, "!", 1, 70000), 1);
    close(fd);
    assert_int_equal(chmod(path_of(f, "empty"), 0600), 0);
    assert_int_equal(setxattr(path_of(f, "dir"), "user.more", "y", 1, 0), 0);
    assert_int_equal(unlink(path_of(f, "link")), 0);
    assert_int_equal(symlink("elsewhere", path_of(f, "link")), 0);
    assert_int_equal(unlink(path_of(f, "dir/hard")), 0);
    write_file(f, "extra", "stays");

    restore_well(f, 1);
    assert_everything(f);
    assert_true(is_there(f, "extra"));
    assert_int_equal(stat_of(f, "file").st_ino, file.st_ino);
    assert_int_not_equal(stat_of(f, "dir/below").st_ino, below.st_ino);
    assert_int_not_equal(stat_of(f, "sparse").st_ino, sparse.st_ino);
    assert_int_equal(getxattr(path_of(f, "dir"), "user.more", NULL, 0), -1);
    assert_int_equal(f->result.changes[REPL_TREE_CONTENT], 3);
    assert_int_equal(f->result.changes[REPL_TREE_MAKE], 1);
    assert_int_equal(f->result.changes[REPL_TREE_REMOVE], 0);
}

/* Attributes for which there is only room when others have become shorter (on ext4). */
static void test_attributes(void **state)
{
    static const uint8_t bytes[3400];
    struct fixture *f = *state;
    full_make(f, 1);
    point_begin(f, 1, 2);
    for (unsigned object = 4; object <= 5; object++) {
        node(f, object,
             object == 5 ? directory_node
                         : (struct repl_node){.kind = REPL_NODE_FILE, .mode = 0664});
        xattr(f, object, "system.posix_acl_access", acl, sizeof acl, 0);
        xattr(f, object, "user.a", f->model.points[1], 1800, 0);
        xattr(f, object, "user.b", f->model.points[1] + 1, 1800, 0);
    }
    point_end(f);
    restore_well(f, 1);
    static const char *const names[] = {"empty", "dir"};
    for (unsigned i = 0; i < 2; i++) {
        const char *path = path_of(f, names[i]);
        assert_int_equal(setxattr(path, "user.a", bytes, 100, 0), 0);
        assert_int_equal(setxattr(path, "user.b", bytes, sizeof bytes, 0), 0);
    }
    restore_well(f, 2);
    assert_int_equal(f->result.lacks[REPL_TREE_LACK_ATTRIBUTE].count, 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_xattr(f, names[i], "user.a", f->model.points[1], 1800);
        assert_xattr(f, names[i], "user.b", f->model.points[1] + 1, 1800);
        assert_xattr(f, names[i], "system.posix_acl_access", acl, sizeof acl);
    }
}

/* ext4 has room for these if the last but one lies beside the inode, where the list of who may what
 * lies as long as it is there. */
static void test_attributes_packed(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    point_begin(f, 1, 2);
    node(f, 4, (struct repl_node){.kind = REPL_NODE_FILE, .mode = 0664});
    xattr(f, 4, "system.posix_acl_access", acl, sizeof acl, 0);
    xattr(f, 4, "trusted.b", f->model.points[1] + 1, 177, 0);
    xattr(f, 4, "user.a", NULL, 3550, 256u << 10);
    xattr(f, 4, "user.c", f->model.points[1] + 2, 185, 0);
    xattr(f, 4, "user.d", f->model.points[1] + 3, 63, 0);
    point_end(f);
    restore_well(f, 1);
    restore_well(f, 2);
    assert_int_equal(f->result.lacks[REPL_TREE_LACK_ATTRIBUTE].count, 0);
    assert_int_equal(stat_of(f, "empty").st_mode & 07777, 0664);
    assert_xattr(f, "empty", "system.posix_acl_access", acl, sizeof acl);
    assert_xattr(f, "empty", "trusted.b", f->model.points[1] + 1, 177);
    assert_xattr(f, "empty", "user.a", f->model.points[1] + (256u << 10), 3550);
    assert_xattr(f, "empty", "user.c", f->model.points[1] + 2, 185);
    assert_xattr(f, "empty", "user.d", f->model.points[1] + 3, 63);
}

/* A later point is made of the changes of several segments. */
static void test_points(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    restore_well(f, 1);
    struct stat sparse = stat_of(f, "sparse");
    point_begin(f, 1, 2);
    model_data(&f->model, 4096, 4096); /* the second page of file */
    NAMES(f, 2, {"hard", 0}, {"moved", 14}, {"\xff\xfe\x1b[2J", 0});
    NAMES(f, 5, {"below", 0});
    node(f, 12, (struct repl_node){.kind = REPL_NODE_GONE});
    point_end(f);
    restore_well(f, 2);
    assert_content(f, "file", 0, f->model.points[2], 10000);
    assert_int_equal(stat_of(f, "moved").st_size, 300000);
    assert_int_equal(stat_of(f, "sparse").st_ino, sparse.st_ino);
    assert_true(is_there(f, "hard"));
}

static void test_delete(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    f->options.exact = true;
    restore_well(f, 1);
    assert_int_equal(mkdir(path_of(f, "more"), 0755), 0);
    assert_int_equal(mkdir(path_of(f, "more/of it"), 0755), 0);
    write_file(f, "more/of it/file", "x");
    write_file(f, "dir/extra", "x");
    assert_int_equal(symlink(f->model.path, path_of(f, "more/out")), 0);
    restore_well(f, 1);
    assert_everything(f);
    assert_false(is_there(f, "more"));
    assert_false(is_there(f, "dir/extra"));
    assert_int_equal(f->result.changes[REPL_TREE_REMOVE], 2);
    assert_int_equal(access(f->model.path, F_OK), 0);

    /* What is mounted stays, and is told. */
    assert_int_equal(mkdir(path_of(f, "more"), 0755), 0);
    assert_int_equal(mkdir(path_of(f, "more/mounted"), 0755), 0);
    if (mount("test", path_of(f, "more/mounted"), "tmpfs", 0, NULL) != 0)
        return;
    write_file(f, "more/mounted/file", "x");
    repl_result result = restore(f, 1);
    bool stayed = is_there(f, "more/mounted/file");
    assert_int_equal(umount(path_of(f, "more/mounted")), 0);
    assert_int_equal(result.code, REPL_E_REFUSED);
    assert_true(stayed);
    assert_int_equal(f->fault_count, 1);
    assert_non_null(strstr(f->faults[0], "more: "));
}

static void test_dry_run(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    f->options.dry_run = f->options.exact = true;
    restore_well(f, 1);
    assert_int_equal(access(f->to, F_OK), -1);
    assert_int_equal(f->result.changes[REPL_TREE_MAKE], 6 + 2 + 5 + 2);
    assert_non_null(strstr(f->changes, "M dir/below\n"));
    assert_non_null(strstr(f->changes, "M \\xff\\xfe\\x1b[2J\n"));

    f->options.dry_run = false;
    restore_well(f, 1);
    write_file(f, "dir/below", "other");
    write_file(f, "extra", "x");
    assert_int_equal(chmod(path_of(f, "fifo"), 0600), 0);
    struct stat before = stat_of(f, "."), below = stat_of(f, "dir/below");
    f->options.dry_run = true;
    restore_well(f, 1);
    assert_non_null(strstr(f->changes, "C dir/below\n"));
    assert_non_null(strstr(f->changes, "m fifo\n"));
    assert_non_null(strstr(f->changes, "R extra\n"));
    assert_null(strstr(f->changes, "M "));
    assert_int_equal(f->result.changes[REPL_TREE_CONTENT], 1);
    assert_false(f->result.touched);
    struct stat after = stat_of(f, ".");
    assert_memory_equal(&after.st_ctim, &before.st_ctim, sizeof after.st_ctim);
    assert_int_equal(stat_of(f, "dir/below").st_ino, below.st_ino);
    assert_int_equal(stat_of(f, "dir/below").st_size, 5);
}

static void test_path(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    f->options.path = "/dir/";
    restore_well(f, 1);
    assert_node(f, ".", S_IFDIR | 03777, 0, 7, TIME + 5);
    assert_content(f, "below", 0, f->model.points[1] + 32768, 200704);
    assert_content(f, "hard", 0, f->model.points[1], 10000);
    assert_false(is_there(f, "file"));
    assert_int_equal(f->result.files, 2);

    assert_int_equal(chmod(f->to, 0711), 0);
    f->options.path = "./sparse";
    restore_well(f, 1);
    assert_content(f, "sparse", 0, f->model.points[1] + 16384, 4096);
    assert_int_equal(stat_of(f, ".").st_mode & 07777, 0711); /* it is not its own any more */
    assert_int_equal(f->result.files, 1);

    f->options.path = "dir/nothing";
    assert_int_equal(restore(f, 1).code, REPL_E_MISSING);
    f->options.path = "file/nothing";
    assert_int_equal(restore(f, 1).code, REPL_E_MISSING);
    f->options.path = "dir/../file";
    assert_int_equal(restore(f, 1).code, REPL_E_USAGE);
}

static void test_kinds(void **state)
{
    struct fixture *f = *state;
    char outside[300];
    full_make(f, 1);
    snprintf(outside, sizeof outside, "%s/outside", f->model.temporary.path);
    assert_int_equal(mkdir(outside, 0755), 0);
    assert_int_equal(mkdir(f->to, 0755), 0);
    assert_int_equal(symlink("../outside", path_of(f, "dir")), 0);
    assert_int_equal(mkdir(path_of(f, "file"), 0755), 0);
    write_file(f, "file/inside", "x");
    write_file(f, "fifo", "x");

    assert_int_equal(restore(f, 1).code, REPL_E_REFUSED);
    assert_non_null(strstr(f->err.text, "nothing was changed"));
    assert_int_equal(f->fault_count, 3);
    assert_non_null(strstr(f->faults[0], "--overwrite"));
    assert_false(is_there(f, "sparse"));

    f->options.overwrite = true;
    restore_well(f, 1);
    assert_everything(f);
    assert_int_equal(rmdir(outside), 0); /* it is empty */

    /* A file, or a device, is no directory to restore to. */
    write_file(f, "plain", "x");
    char plain[400];
    snprintf(plain, sizeof plain, "%s/plain", f->to);
    f->options.to = plain;
    assert_int_equal(restore(f, 1).code, REPL_E_REFUSED);
    assert_non_null(strstr(f->err.text, "no directory"));
    f->options.to = "/dev/null";
    assert_int_equal(restore(f, 1).code, REPL_E_REFUSED);
}

static void test_links(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    restore_well(f, 1);
    /* Names of one file that the point has two of, and one that leads out of the tree. */
    char outside[300];
    snprintf(outside, sizeof outside, "%s/outside", f->model.temporary.path);
    assert_int_equal(unlink(path_of(f, "empty")), 0);
    assert_int_equal(link(path_of(f, "file"), path_of(f, "empty")), 0);
    assert_int_equal(link(path_of(f, "dir/below"), outside), 0);
    struct stat below = stat_of(f, "dir/below");
    restore_well(f, 1);
    assert_everything(f);
    assert_int_not_equal(stat_of(f, "dir/below").st_ino, below.st_ino);
    assert_int_equal(stat_of(f, "dir/below").st_nlink, 1);
    restore_well(f, 1);
    assert_int_equal(change_count(f), 0);

    /* Of a part, the others are not known. */
    assert_int_equal(unlink(outside), 0);
    assert_int_equal(link(path_of(f, "dir/below"), outside), 0);
    below = stat_of(f, "dir/below");
    char part[400];
    snprintf(part, sizeof part, "%s/dir", f->to);
    f->options.to = part;
    f->options.path = "dir";
    restore_well(f, 1);
    assert_int_equal(stat_of(f, "dir/below").st_ino, below.st_ino);
}

static void test_in_place(void **state)
{
    struct fixture *f = *state;
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    NAMES(f, 2, {"large", 3});
    node(f, 3, file_node(PATCHED));
    run(f, 3, 0, 262144, 0);
    run(f, 3, PATCHED - 131072, 131072, 262144);
    point_end(f);
    restore_well(f, 1);
    struct stat before = stat_of(f, "large");
    assert_true(before.st_blocks * 512 < 1 << 20);
    int fd = open(path_of(f, "large"), O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "!", 1, 5000), 1);
    assert_int_equal(pwrite(fd, "!", 1, 33 << 20), 1);
    assert_int_equal(pwrite(fd, "!", 1, PATCHED + 5), 1);
    close(fd);
    restore_well(f, 1);
    struct stat after = stat_of(f, "large");
    assert_int_equal(after.st_ino, before.st_ino);
    assert_int_equal(after.st_size, PATCHED);
    assert_int_equal(mtime_of(&after), TIME + 3);
    assert_content(f, "large", 0, f->model.points[1], 262144);
    assert_content(f, "large", PATCHED - 131072, f->model.points[1] + 262144, 131072);
    assert_content(f, "large", 33 << 20, "\0\0\0", 3);
    assert_int_equal(f->result.changes[REPL_TREE_CONTENT], 1);
    restore_well(f, 1);
    assert_int_equal(f->result.equal, 1);
}

static void test_read_back(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    f->spoiled = "dir/below";
    assert_int_equal(restore(f, 1).code, REPL_E_CORRUPT);
    assert_int_equal(f->fault_count, 1);
    assert_non_null(strstr(f->faults[0], "dir/below: what was read back"));
    restore_well(f, 1); /* and is mended */
    assert_everything(f);
    f->spoiled = "sparse"; /* equal already: not read again */
    restore_well(f, 1);
    assert_int_equal(f->result.equal, 6);
    restore_well(f, 1);
    assert_int_equal(f->result.equal, 5);
}

static void test_interrupted(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    f->interrupted = true;
    assert_int_equal(restore(f, 1).code, REPL_E_RETRY);
    f->interrupted = false;
    repl_history_close(f->history); /* its origin was told to give up */
    f->history = NULL;
    restore_well(f, 1);
    assert_everything(f);
}

static void test_owner(void **state)
{
    struct fixture *f = *state;
    char command[700];
    full_make(f, 1);
    f->options.owner = REPL_TREE_OWNER_GIVEN;
    f->options.uid = 12;
    f->options.gid = 34;
    restore_well(f, 1);
    assert_node(f, "file", S_IFREG | 0755, 12, 34, TIME + 3);
    assert_node(f, "dir", S_IFDIR | 03777, 12, 34, TIME + 5);
    assert_node(f, "link", S_IFLNK | 0777, 12, 34, TIME + 6);
    assert_int_equal(f->result.lacks[REPL_TREE_LACK_SETUID].count, 1);
    assert_non_null(strstr(f->result.lacks[REPL_TREE_LACK_SETUID].first, "hard"));

    /* Who is not root. */
    snprintf(command, sizeof command, "chmod -R a+rX %s && mkdir -m 777 %s/mine",
             f->model.temporary.path, f->model.temporary.path);
    assert_int_equal(system(command), 0);
    snprintf(f->to, sizeof f->to, "%s/mine/to", f->model.temporary.path);
    snprintf(f->state, sizeof f->state, "%s/mine/state", f->model.temporary.path);
    assert_int_equal(seteuid(65534), 0);
    f->options.owner = REPL_TREE_OWNER_NUMERIC;
    enum repl_code numeric = restore(f, 1).code;
    f->options.owner = REPL_TREE_OWNER_SKIP;
    enum repl_code skipped = restore(f, 1).code;
    unsigned faults = f->fault_count;
    enum repl_code again = restore(f, 1).code;
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(numeric, REPL_E_REFUSED);
    assert_int_equal(skipped, REPL_E_REFUSED); /* it may not make devices */
    assert_int_equal(faults, 2);
    assert_int_equal(again, REPL_E_REFUSED);
    assert_int_equal(f->result.equal, 5); /* all but the one with a capability */
    assert_int_equal(stat_of(f, "file").st_uid, 65534);
    assert_content(f, "dir/below", 0, f->model.points[1] + 32768, 200704);
    assert_int_not_equal(f->result.lacks[REPL_TREE_LACK_ATTRIBUTE].count, 0);
}

static void test_locked(void **state)
{
    struct fixture *f = *state;
    char command[700];
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    NAMES(f, 2, {"one", 3}, {"two", 4}, {"too", 4}, {"dir", 5});
    for (uint64_t object = 3; object <= 4; object++) {
        struct repl_node locked = file_node(4096);
        locked.flags = FS_IMMUTABLE_FL;
        node(f, object, locked);
        run(f, object, 0, 4096, object * 4096);
    }
    node(f, 5,
         (struct repl_node){.kind = REPL_NODE_DIRECTORY, .mode = 0755, .flags = FS_IMMUTABLE_FL});
    NAMES(f, 5, {"in", 6});
    node(f, 6, file_node(0));
    point_end(f);
    restore_well(f, 1);
    snprintf(command, sizeof command, "chattr -R -i %s", f->to);
    if (f->result.lacks[REPL_TREE_LACK_FLAGS].count == 0)
        assert_int_equal(open(path_of(f, "one"), O_WRONLY | O_CLOEXEC), -1);
    /* Nothing is in the way, nor left out. */
    assert_int_equal(system(command), 0);
    write_file(f, "one", "other");
    write_file(f, "dir/in", "other");
    assert_int_equal(unlink(path_of(f, "two")), 0);
    snprintf(command, sizeof command, "chattr -R +i %s", f->to);
    assert_int_equal(system(command), 0);
    repl_result result = restore(f, 1);
    unsigned flags = 0;
    int fd = open(path_of(f, "two"), O_RDONLY | O_CLOEXEC);
    bool locked = ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0 || (flags & FS_IMMUTABLE_FL) != 0;
    close(fd);
    snprintf(command, sizeof command, "chattr -R -i %s", f->to);
    assert_int_equal(system(command), 0);
    if (!repl_ok(result))
        fail_msg("%s: %s", f->err.text, f->faults[0]);
    assert_true(locked);
    assert_content(f, "one", 0, f->model.points[1] + 3 * 4096, 4096);
    assert_int_equal(stat_of(f, "two").st_nlink, 2);
    assert_int_equal(stat_of(f, "dir/in").st_size, 0);
}

/* --- trees that mean harm -------------------------------------------------------------------- */

static void test_senseless(void **state)
{
    struct fixture *f = *state;
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    NAMES(f, 2, {"once", 4}, {"twice", 4}, {"nothing", 77}, {"good", 3});
    node(f, 3, file_node(100));
    run(f, 3, 0, 4096, 0);
    node(f, 4, directory_node);
    NAMES(f, 4, {"good", 3}, {"in", 8});
    node(f, 5, directory_node); /* a circle that nothing leads to */
    NAMES(f, 5, {"six", 6});
    node(f, 6, directory_node);
    NAMES(f, 6, {"five", 5}, {"good", 3});
    node(f, 7, file_node(0)); /* without a name */
    node(f, 8, directory_node);
    NAMES(f, 8, {"back", 4});
    node(f, UINT64_MAX, file_node(0));
    point_end(f);
    assert_int_equal(restore(f, 1).code, REPL_E_CORRUPT);
    assert_int_equal(f->fault_count, 4); /* twice, nothing, back, and those without a name */
    assert_content(f, "good", 0, f->model.points[1], 100);
    assert_true(is_there(f, "once") != is_there(f, "twice"));
    assert_false(is_there(f, "nothing"));

    /* Within a part that leads back to what is above it. */
    f->options.path = "once";
    f->options.to = f->state;
    repl_result result = restore(f, 1);
    assert_int_equal(result.code, REPL_E_CORRUPT);
}

static void test_no_top(void **state)
{
    struct fixture *f = *state;
    point_begin(f, 0, 1);
    node(f, 3, file_node(0));
    point_end(f);
    assert_int_equal(restore(f, 1).code, REPL_E_CORRUPT);
    assert_int_equal(access(f->to, F_OK), -1);
}

/* Deeper than any path may be long: made, found equal, and removed. */
static void test_deep(void **state)
{
    struct fixture *f = *state;
    point_begin(f, 0, 1);
    for (uint64_t object = 2; object < 2 + DEEP; object++) {
        node(f, object, directory_node);
        NAMES(f, object, {DEEPNAME, object + 1});
    }
    node(f, 2 + DEEP, file_node(100));
    run(f, 2 + DEEP, 0, 4096, 0);
    point_end(f);
    point_begin(f, 0, 2);
    node(f, 2, directory_node);
    point_end(f);

    restore_well(f, 1);
    int fd = open(f->to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (unsigned i = 0; i < DEEP; i++) {
        int next = openat(fd, DEEPNAME, O_RDONLY | O_CLOEXEC);
        assert_true(next >= 0);
        close(fd);
        fd = next;
    }
    uint8_t bytes[100];
    assert_int_equal(read(fd, bytes, sizeof bytes), sizeof bytes);
    assert_memory_equal(bytes, f->model.points[1], sizeof bytes);
    close(fd);
    restore_well(f, 1);
    assert_int_equal(change_count(f), 0);
    assert_int_equal(f->result.equal, 1);

    f->options.exact = true;
    restore_well(f, 2);
    assert_int_equal(rmdir(f->to), 0);
}

/* What is damaged is told, file by file, and all else is restored. */
static void test_damaged(void **state)
{
    struct fixture *f = *state;
    char path[400];
    full_make(f, 1);
    model_segment_path(&f->model, 1, 0, path);
    flip_bits(path, 300000, 1);
    assert_int_equal(restore(f, 1).code, REPL_E_CORRUPT);
    assert_int_equal(f->result.faults, 5 + 2); /* all that have contents, and further names */
    assert_non_null(strstr(f->faults[0], "segment 1.0"));
    assert_false(is_there(f, "file"));
    assert_false(is_there(f, "dir/below"));
    assert_true(is_there(f, "empty"));
    assert_node(f, "link", S_IFLNK | 0777, 5, 0, TIME + 6);
    assert_node(f, "dir", S_IFDIR | 03777, 0, 7, TIME + 5);
    write_file(f, "sparse", "what one has");
    assert_int_equal(restore(f, 1).code, REPL_E_CORRUPT);
    assert_content(f, "sparse", 0, "what one has", 12);
}

/* It ends with the first that does not fit, of which nothing is left, and goes on later. */
static void test_no_space(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    assert_int_equal(mkdir(f->to, 0755), 0);
    if (mount("test", f->to, "tmpfs", 0, "size=256k") != 0)
        return;
    enum repl_code full = restore(f, 1).code;
    bool below = is_there(f, "dir/below");
    assert_int_equal(mount("test", f->to, "tmpfs", MS_REMOUNT, "size=16m"), 0);
    repl_history_close(f->history);
    f->history = NULL;
    enum repl_code after = restore(f, 1).code;
    below = below || !is_there(f, "dir/below");
    assert_int_equal(umount(f->to), 0);
    assert_int_equal(full, REPL_E_NOSPACE);
    assert_int_equal(after, REPL_OK);
    assert_false(below);
}

static int verb(const struct fixture *f, const char *to, const char *owner, const char *path)
{
    const char *const arguments[] = {"restore", MODEL_VOLUME, "--store", f->model.path, "--state",
                                     f->state,  "--to",       to,        owner,         path};
    char *argv[11] = {NULL};
    for (unsigned i = 0; i < 10; i++)
        argv[i] = (char *)(uintptr_t)arguments[i];
    return repl_verb_dispatch(&repl_verb_restore, 10, argv);
}

static void test_verb(void **state)
{
    struct fixture *f = *state;
    char inside[400];
    snprintf(inside, sizeof inside, "%s/volumes", f->model.path);
    full_make(f, 1);
    assert_int_equal(verb(f, f->to, "--owner=me", "--path=dir"), REPL_EXIT_USAGE);
    assert_int_equal(verb(f, f->to, "--owner=1:2:3", "--path=dir"), REPL_EXIT_USAGE);
    assert_int_equal(verb(f, inside, "--owner=12:34", "--path=dir"), REPL_EXIT_REFUSED);
    assert_int_equal(verb(f, "/dev/null", "--owner=12:34", "--path=dir"), REPL_EXIT_REFUSED);
    assert_int_equal(verb(f, f->to, "--owner=12:34", "--path=dir/below"), REPL_EXIT_OK);
    assert_node(f, "below", S_IFREG | 0644, 12, 34, TIME + 14);
    /* It loses its set-user-ID bit. */
    assert_int_equal(verb(f, f->to, "--owner=12:34", "--path=file"), REPL_EXIT_WARNING);

    f->model.kind = REPL_VOLUME_BLOCK;
    model_begin(&f->model, 0, 2, 0);
    model_zero(&f->model, 0, MODEL_SIZE);
    model_end(&f->model, true);
    assert_int_equal(verb(f, f->to, "--owner=12:34", "--path=file"), REPL_EXIT_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_everything, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_differential, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_attributes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_attributes_packed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_points, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_delete, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dry_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_path, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_kinds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_links, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_in_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_read_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_interrupted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_owner, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_locked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_senseless, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_top, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_deep, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_space, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_verb, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
