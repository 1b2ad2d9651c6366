/*
 * Files and directories copied out of trees by "repl cp": whole, under the name
 * that was given, or not at all.
 */
#include <dirent.h>
#include <sys/ioctl.h>

#include "unit/agent/recover/tree_model.h"
#include "unit/agent/recover/verb_output.h"

static struct verb_output said;

#define CP(f, ...)                                                                                 \
    verb_output(&repl_verb_cp, &said,                                                              \
                (const char *const[]){"--store", (f)->model.path, "--state", (f)->state,           \
                                      __VA_ARGS__, NULL})

static int set_up_dest(void **state)
{
    set_up(state);
    struct fixture *f = *state;
    return mkdir(f->to, 0755);
}

static void assert_says(const char *text)
{
    if (strstr(said.err, text) == NULL)
        fail_msg("\"%s\" is not in: %s", text, said.err);
}

static void assert_code(int code, int wanted)
{
    if (code != wanted)
        fail_msg("exit code %d, not %d: %s", code, wanted, said.err);
}

/* Nothing temporary is left. */
static void assert_count(const struct fixture *f, unsigned wanted)
{
    unsigned count = 0;
    DIR *stream = opendir(f->to);
    assert_non_null(stream);
    for (const struct dirent *entry; (entry = readdir(stream)) != NULL;)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(stream);
    assert_int_equal(count, wanted);
}

static void test_file(void **state)
{
    struct fixture *f = *state;
    const uint8_t *space;
    full_make(f, 1);
    space = f->model.points[1];
    assert_code(CP(f, MODEL_VOLUME ":file@1", path_of(f, "copy"), "--owner=numeric"), REPL_EXIT_OK);
    assert_node(f, "copy", S_IFREG | 04755, 1000, 100, TIME + 3);
    assert_content(f, "copy", 0, space, 10000);
    assert_xattr(f, "copy", "user.long", space + (256u << 10), LONG);
    assert_xattr(f, "copy", "security.capability", capability, sizeof capability);
    assert_int_equal(stat_of(f, "copy").st_nlink, 1);
    assert_says("copied and verified: ");
    assert_says("as of point 1");

    assert_code(CP(f, MODEL_VOLUME ":/dir/./below@latest", f->to), REPL_EXIT_OK);
    assert_content(f, "below", 0, space + 32768, 200704);
    assert_code(CP(f, MODEL_VOLUME ":sparse", path_of(f, "holes")), REPL_EXIT_OK);
    assert_true(stat_of(f, "holes").st_blocks * 512 < 65536);
    assert_code(CP(f, MODEL_VOLUME ":link", f->to), REPL_EXIT_OK);
    assert_node(f, "link", S_IFLNK | 0777, 5, 0, TIME + 6);
    assert_code(CP(f, MODEL_VOLUME ":block", f->to), REPL_EXIT_OK);
    assert_node(f, "block", S_IFBLK | 0600, 0, 0, TIME + 9);
    assert_count(f, 5);
}

static void test_directory(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    assert_code(CP(f, MODEL_VOLUME ":dir@1", f->to), REPL_EXIT_USAGE);
    assert_says("--recursive copies it");
    assert_says("--path 'dir' --to DIR");
    assert_code(CP(f, MODEL_VOLUME ":dir/@1", f->to, "--recursive"), REPL_EXIT_OK);
    assert_node(f, "dir", S_IFDIR | 03777, 0, 7, TIME + 5);
    assert_xattr(f, "dir", "user.of-a-directory", "x", 1);
    assert_content(f, "dir/hard", 0, f->model.points[1], 10000);
    assert_says("2 files, 1 directories");

    assert_code(CP(f, MODEL_VOLUME ":dir", f->to, "--recursive", "--overwrite"), REPL_EXIT_REFUSED);
    assert_says("\"repl restore --path\"");
    assert_code(CP(f, MODEL_VOLUME ":", f->to, "--recursive"), REPL_EXIT_REFUSED);
    assert_says("no name of its own");
    assert_code(CP(f, MODEL_VOLUME ":@1", path_of(f, "all/"), "--recursive"), REPL_EXIT_OK);
    assert_count(f, 2);
    snprintf(f->to + strlen(f->to), 8, "/all");
    assert_everything(f);
}

static void test_overwrite(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    write_file(f, "there", "already");
    assert_int_equal(mkdir(path_of(f, "below"), 0755), 0);
    assert_code(CP(f, MODEL_VOLUME ":file", path_of(f, "there")), REPL_EXIT_REFUSED);
    assert_says("--overwrite, which replaces it");
    assert_content(f, "there", 0, "already", 7);
    assert_code(CP(f, MODEL_VOLUME ":dir/below", f->to, "--overwrite"), REPL_EXIT_REFUSED);
    assert_says("no directory is replaced");
    assert_code(CP(f, MODEL_VOLUME ":file", path_of(f, "there"), "--overwrite"), REPL_EXIT_OK);
    assert_content(f, "there", 0, f->model.points[1], 10000);
    assert_code(CP(f, MODEL_VOLUME ":file", path_of(f, "none/there")), REPL_EXIT_REFUSED);
    assert_says("in which it is to be made");
    assert_count(f, 2);
}

/* What stands behind an '@' is the path's, unless it says a point. */
static void test_at(void **state)
{
    struct fixture *f = *state;
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    NAMES(f, 2, {"me@home", 3}, {"at@1", 4});
    node(f, 3, file_node(100));
    run(f, 3, 0, 4096, 0);
    node(f, 4, file_node(200));
    run(f, 4, 0, 4096, 4096);
    point_end(f);
    assert_code(CP(f, MODEL_VOLUME ":me@home", path_of(f, "1")), REPL_EXIT_OK);
    assert_code(CP(f, MODEL_VOLUME ":me@home@1", path_of(f, "2")), REPL_EXIT_OK);
    assert_code(CP(f, MODEL_VOLUME ":me@home@#1", path_of(f, "3")), REPL_EXIT_OK);
    assert_code(CP(f, MODEL_VOLUME ":at@1@latest", path_of(f, "4")), REPL_EXIT_OK);
    assert_code(CP(f, MODEL_VOLUME ":at@1", "--at=1", path_of(f, "5")), REPL_EXIT_OK);
    assert_int_equal(stat_of(f, "4").st_size, 200);
    assert_int_equal(stat_of(f, "5").st_size, 200);
    assert_code(CP(f, MODEL_VOLUME ":at@1", path_of(f, "6")), REPL_EXIT_CORRUPT);
    assert_says("the point has no at");
    assert_code(CP(f, MODEL_VOLUME ":at@7", path_of(f, "6")), REPL_EXIT_CORRUPT);
    assert_says("--at is for paths that have one");
    assert_count(f, 5);
}

static void test_output(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    assert_code(CP(f, MODEL_VOLUME ":file@1", "-"), REPL_EXIT_OK);
    assert_memory_equal(said.out, f->model.points[1], 10000);
    assert_code(CP(f, MODEL_VOLUME ":empty", "-"), REPL_EXIT_OK);
    assert_code(CP(f, MODEL_VOLUME ":link", "-"), REPL_EXIT_REFUSED);
    assert_says("no regular file");
    assert_code(CP(f, MODEL_VOLUME ":dir", "-", "--recursive"), REPL_EXIT_REFUSED);
    assert_int_equal(rmdir(f->state), 0); /* nothing is left in it */
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    assert_code(CP(f, MODEL_VOLUME, f->to), REPL_EXIT_USAGE);
    assert_says(MODEL_VOLUME ":PATH@TIME");
    assert_code(CP(f, MODEL_VOLUME ":none@1", f->to), REPL_EXIT_CORRUPT);
    assert_says("the point has no none");
    assert_code(CP(f, MODEL_VOLUME ":link/x@1", f->to), REPL_EXIT_USAGE);
    assert_says("is a symbolic link");
    assert_code(CP(f, MODEL_VOLUME ":file@1", f->model.path), REPL_EXIT_REFUSED);
    assert_says("the store itself");
    assert_code(CP(f, MODEL_VOLUME ":file@1", f->to, "--owner=me"), REPL_EXIT_USAGE);
    assert_count(f, 0);
}

/* What may not be changed has its flag again, where the filesystem has such. */
static void test_locked(void **state)
{
    struct fixture *f = *state;
    struct repl_node locked = file_node(100);
    locked.flags = FS_IMMUTABLE_FL;
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    NAMES(f, 2, {"one", 3});
    node(f, 3, locked);
    run(f, 3, 0, 4096, 0);
    point_end(f);
    int code = CP(f, MODEL_VOLUME ":one", f->to);
    assert_true(code == REPL_EXIT_OK || code == REPL_EXIT_WARNING);
    unsigned flags = 0;
    int fd = open(path_of(f, "one"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    bool is = ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && (flags & FS_IMMUTABLE_FL) != 0;
    flags = 0;
    repl_ignore((repl_result){ioctl(fd, FS_IOC_SETFLAGS, &flags) != 0});
    close(fd);
    assert_true(is == (code == REPL_EXIT_OK));
    assert_count(f, 1);
}

/* A copy that is not all of it does not get the name, nor stay. */
static void test_damaged(void **state)
{
    struct fixture *f = *state;
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    NAMES(f, 2, {"dir", 3});
    node(f, 3, directory_node);
    NAMES(f, 3, {"file", 4}, {"lost", 9});
    node(f, 4, file_node(100));
    run(f, 4, 0, 4096, 0);
    point_end(f);
    assert_code(CP(f, MODEL_VOLUME ":dir", f->to, "--recursive"), REPL_EXIT_CORRUPT);
    assert_says("lost: ");
    assert_says("nothing was kept");
    assert_count(f, 0);
    assert_code(CP(f, MODEL_VOLUME ":dir/file", f->to), REPL_EXIT_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_file, set_up_dest, tear_down),
        cmocka_unit_test_setup_teardown(test_directory, set_up_dest, tear_down),
        cmocka_unit_test_setup_teardown(test_overwrite, set_up_dest, tear_down),
        cmocka_unit_test_setup_teardown(test_at, set_up_dest, tear_down),
        cmocka_unit_test_setup_teardown(test_output, set_up_dest, tear_down),
        cmocka_unit_test_setup_teardown(test_refused, set_up_dest, tear_down),
        cmocka_unit_test_setup_teardown(test_locked, set_up_dest, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged, set_up_dest, tear_down),
    };
    return cmocka_run_group_tests_name("copy_out", tests, NULL, NULL);
}
