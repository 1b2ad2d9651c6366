/*
 * What LMDB says of a write that a full disk cuts short.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmocka.h>

#include "lmdb_file.h"
#include "unit/temporary.h"

#define FILE_SIZE (16u << 20)

static struct temporary at;
static char path[300];

static int setup(void **state)
{
    (void)state;
    int made = temporary_make(&at);
    snprintf(path, sizeof path, "%s/file", at.path);
    return made;
}

static int teardown(void **state)
{
    (void)state;
    umount(at.path);
    temporary_remove(&at);
    return 0;
}

/* The error of the first transaction that cannot be written. */
static int fill(MDB_env *env)
{
    static uint8_t bytes[300 << 10];
    int error = 0;
    for (uint32_t key = 0; error == 0 && key < FILE_SIZE / sizeof bytes; key++) {
        MDB_val k = {.mv_size = sizeof key, .mv_data = &key};
        MDB_val v = {.mv_size = sizeof bytes, .mv_data = bytes};
        MDB_txn *txn;
        MDB_dbi table;
        assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
        assert_int_equal(mdb_dbi_open(txn, NULL, 0, &table), 0);
        error = mdb_put(txn, table, &k, &v, 0);
        assert_int_equal(error, 0);
        error = mdb_txn_commit(txn);
    }
    return error;
}

static void a_full_disk_is_said_to_be_full(void **state)
{
    (void)state;
    struct repl_error err = {0};
    MDB_env *env;
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", at.path, "tmpfs", 0, "size=1000k") != 0)
        skip(); /* only root may */
    assert_int_equal(mdb_env_create(&env), 0);
    assert_int_equal(mdb_env_set_mapsize(env, FILE_SIZE), 0);
    assert_int_equal(mdb_env_open(env, path, MDB_NOSUBDIR, 0600), 0);
    int error = fill(env);
    assert_int_equal(error, EIO); /* which is what this is about */
    assert_int_equal(repl_lmdb_error(path, error), ENOSPC);
    assert_int_equal(repl_lmdb_error(at.path, error), ENOSPC);
    assert_int_equal(repl_lmdb_fail(path, "writing", error, &err).code, REPL_E_NOSPACE);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "writing: make room on the disk it lies on"));
    mdb_env_close(env);
    assert_int_equal(mount("none", at.path, "tmpfs", MS_REMOUNT, "size=16m"), 0);
    assert_int_equal(repl_lmdb_error(path, error), EIO);
}

static void what_has_room_and_fails_is_broken(void **state)
{
    (void)state;
    struct repl_error err = {0};
    assert_int_equal(repl_lmdb_error(path, EIO), EIO); /* the file need not be there */
    assert_int_equal(repl_lmdb_error(path, ENOMEM), ENOMEM);
    assert_int_equal(repl_lmdb_error(path, MDB_PANIC), MDB_PANIC);
    assert_int_equal(repl_lmdb_fail(path, "", EIO, &err).code, REPL_E_IO);
    assert_int_equal(repl_lmdb_fail(path, "", EDQUOT, &err).code, REPL_E_NOSPACE);
    assert_int_equal(repl_lmdb_fail(path, "", ENOMEM, &err).code, REPL_E_NOMEM);
    assert_int_equal(repl_lmdb_fail(path, "", MDB_MAP_FULL, &err).code, REPL_E_NOMEM);
    assert_int_equal(repl_lmdb_fail(path, "", MDB_CORRUPTED, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_full_disk_is_said_to_be_full, setup, teardown),
        cmocka_unit_test_setup_teardown(what_has_room_and_fails_is_broken, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
