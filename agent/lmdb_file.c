#include "lmdb_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/bitmap.h"

#define ROOM_BYTES (1 << 20) /* no write of LMDB's is much larger */
#define FREE_TABLE 0 /* LMDB's own: a list of pages for each transaction that gave some back */

/* Of the pages from first on, those in the list: their count, and their numbers. */
static int list_note(const MDB_val *list, uint64_t first, uint64_t end, struct repl_bitmap *free)
{
    uint64_t count, page;
    if (list->mv_size < sizeof count)
        return MDB_CORRUPTED;
    memcpy(&count, list->mv_data, sizeof count);
    if (count > list->mv_size / sizeof page - 1)
        return MDB_CORRUPTED;
    for (uint64_t i = 1; i <= count; i++) {
        memcpy(&page, (const uint8_t *)list->mv_data + i * sizeof page, sizeof page);
        if (page >= end)
            return MDB_CORRUPTED;
        if (page >= first)
            repl_bitmap_set(free, page - first, 1);
    }
    return 0;
}

static int free_pages_find(MDB_txn *txn, uint64_t first, uint64_t end, struct repl_bitmap *free)
{
    MDB_cursor *cursor;
    MDB_val key, list;
    int error = mdb_cursor_open(txn, FREE_TABLE, &cursor);
    if (error != 0)
        return error;
    error = mdb_cursor_get(cursor, &key, &list, MDB_FIRST);
    while (error == 0) {
        error = list_note(&list, first, end, free);
        if (error == 0)
            error = mdb_cursor_get(cursor, &key, &list, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return error == MDB_NOTFOUND ? 0 : error;
}

/* Whether all pages from first on were given back. */
static int are_free(MDB_env *env, uint64_t first, uint64_t end)
{
    struct repl_bitmap free;
    MDB_txn *txn;
    int error = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (error != 0)
        return error;
    if (repl_ok(repl_bitmap_init(&free, end - first, NULL))) {
        error = free_pages_find(txn, first, end, &free);
        if (error == 0 && free.set_count != end - first)
            error = MDB_CORRUPTED;
        repl_bitmap_fini(&free);
    } else {
        error = ENOMEM;
    }
    mdb_txn_abort(txn);
    return error;
}

int repl_lmdb_length_check(MDB_env *env)
{
    MDB_envinfo info;
    MDB_stat stat;
    struct stat file;
    unsigned flags;
    int fd, error = mdb_env_info(env, &info);
    if (error == 0)
        error = mdb_env_stat(env, &stat);
    if (error == 0)
        error = mdb_env_get_fd(env, &fd);
    if (error == 0)
        error = mdb_env_get_flags(env, &flags);
    if (error != 0)
        return error;
    if (fstat(fd, &file) != 0)
        return errno;
    uint64_t first = (uint64_t)file.st_size / stat.ms_psize, end = (uint64_t)info.me_last_pgno + 1;
    if (first >= end)
        return 0;
    if ((flags & MDB_RDONLY) != 0 || end > info.me_mapsize / stat.ms_psize)
        return MDB_CORRUPTED;
    /* before the list is read, which may lie behind the end as well */
    if (ftruncate(fd, (off_t)(end * stat.ms_psize)) != 0)
        return errno;
    return are_free(env, first, end);
}

/* --- errors ---------------------------------------------------------------------------------- */

static bool is_full(int error)
{
    return error == ENOSPC || error == EDQUOT;
}

/* Asked of the disk itself, as a quota or a share that is kept for root is not in what it says it
 * has free. Of a filesystem that has no files without a name, or gives no room ahead, that has to
 * do. 0: there is room. */
static int room_error(const char *directory)
{
    struct statvfs disk;
    int fd = open(directory, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    int error = fd < 0 || fallocate(fd, 0, 0, ROOM_BYTES) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    if (error == 0 || is_full(error))
        return error;
    return statvfs(directory, &disk) == 0 && disk.f_bavail < ROOM_BYTES / disk.f_frsize ? ENOSPC
                                                                                        : 0;
}

int repl_lmdb_error(const char *path, int error)
{
    char copy[PATH_MAX];
    struct stat status;
    if (error != EIO || (size_t)snprintf(copy, sizeof copy, "%s", path) >= sizeof copy)
        return error;
    bool directory = stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    int room = room_error(directory ? path : dirname(copy));
    return room != 0 ? room : error;
}

repl_result repl_lmdb_fail(const char *path, const char *what, int error, struct repl_error *err)
{
    const char *colon = what[0] != '\0' ? ": " : "";
    error = repl_lmdb_error(path, error);
    if (is_full(error))
        return repl_fail_errno(err, REPL_E_NOSPACE, error,
                               "%s%s%s: make room on the disk it lies on", path, colon, what);
    if (error > 0)
        return repl_fail_errno(err, error == ENOMEM ? REPL_E_NOMEM : REPL_E_IO, error, "%s%s%s",
                               path, colon, what);
    return repl_fail(err, error == MDB_MAP_FULL ? REPL_E_NOMEM : REPL_E_CORRUPT, "%s%s%s: %s", path,
                     colon, what, mdb_strerror(error));
}
