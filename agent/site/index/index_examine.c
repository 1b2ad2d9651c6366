/*
 * LMDB has no checksums of its own pages, and believes them: with a bit of one
 * flipped it may crash, or leave out entries without a word. So before a site
 * begins, another process reads all of the file once. Whatever ends that process,
 * its verdict or a signal, ends it alone.
 *
 * What is looked at: that the keys of each table ascend, that there are as many
 * as the table says, that a search finds them, that each entry's checksum matches,
 * and that the list of free pages names pages of the file, each once.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "site/index/index_internal.h"

/* The list of free pages is LMDB's table 0, the unnamed one (INDEX_MAIN) its 1. */
#define FREE_TABLE ((MDB_dbi)0)

struct examination {
    MDB_txn *txn;
    uint64_t page_count; /* of the file */
    size_t page_size;
    struct repl_bitmap free_pages;
};

typedef bool entry_check_fn(struct examination *e, const MDB_val *key, const MDB_val *value,
                            unsigned table);

static bool is_table_name(const MDB_val *key)
{
    for (enum index_table table = INDEX_MAIN + 1; table < INDEX_TABLE_COUNT; table++) {
        const char *name = repl_index_table_name(table);
        if (key->mv_size == strlen(name) && memcmp(key->mv_data, name, key->mv_size) == 0)
            return true;
    }
    return false;
}

static bool entry_is_whole(struct examination *e, const MDB_val *key, const MDB_val *value,
                           unsigned table)
{
    (void)e;
    return (table == INDEX_MAIN && is_table_name(key)) ||
           !repl_index_reader_of((enum index_table)table, key, value).failed;
}

/* A count, and so many numbers of pages; the first two pages are never free. */
static bool free_list_is_whole(struct examination *e, const MDB_val *key, const MDB_val *value,
                               unsigned table)
{
    (void)table;
    uint64_t count, page;
    if (key->mv_size != sizeof(uint64_t) || value->mv_size < sizeof count)
        return false;
    memcpy(&count, value->mv_data, sizeof count);
    if (count >= e->page_count || value->mv_size < (count + 1) * sizeof page)
        return false;
    for (uint64_t i = 1; i <= count; i++) {
        memcpy(&page, (const uint8_t *)value->mv_data + i * sizeof page, sizeof page);
        if (page < 2 || page >= e->page_count || repl_bitmap_test(&e->free_pages, page))
            return false;
        repl_bitmap_set(&e->free_pages, page, 1);
    }
    return true;
}

/* A walk does not look at the keys by which a search finds its way, so the first and the last key
 * of each page are searched for as well. */
static bool is_found(MDB_cursor *search, MDB_val key)
{
    MDB_val value;
    return mdb_cursor_get(search, &key, &value, MDB_SET) == 0;
}

static uintptr_t page_of(const struct examination *e, const MDB_val *key)
{
    return (uintptr_t)key->mv_data / e->page_size;
}

static bool table_is_whole(struct examination *e, MDB_dbi dbi, unsigned table,
                           entry_check_fn *check)
{
    MDB_cursor *cursor, *search;
    MDB_stat stat;
    MDB_val key, value, before = {0};
    uint64_t count = 0;
    if (mdb_stat(e->txn, dbi, &stat) != 0 || mdb_cursor_open(e->txn, dbi, &cursor) != 0 ||
        mdb_cursor_open(e->txn, dbi, &search) != 0)
        return false;
    int error = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; error == 0; error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        bool first = count == 0;
        if (count++ >= stat.ms_entries || !check(e, &key, &value, table) ||
            (!first && mdb_cmp(e->txn, dbi, &before, &key) >= 0))
            return false;
        if (first || page_of(e, &key) != page_of(e, &before)) {
            if ((!first && !is_found(search, before)) || !is_found(search, key))
                return false;
        }
        before = key;
    }
    return error == MDB_NOTFOUND && count == stat.ms_entries &&
           (count == 0 || is_found(search, before));
}

static bool file_is_whole(const char *path)
{
    struct examination e = {0};
    MDB_env *env;
    MDB_envinfo info;
    MDB_stat stat;
    MDB_dbi dbi;
    if (mdb_env_create(&env) != 0 || mdb_env_set_maxdbs(env, INDEX_TABLE_COUNT) != 0 ||
        mdb_env_open(env, path, MDB_NOSUBDIR | MDB_RDONLY | MDB_NOLOCK, 0) != 0 ||
        mdb_env_info(env, &info) != 0 || mdb_env_stat(env, &stat) != 0 ||
        mdb_txn_begin(env, NULL, MDB_RDONLY, &e.txn) != 0)
        return true; /* opening it says what is wrong */
    e.page_count = (uint64_t)info.me_last_pgno + 1;
    e.page_size = stat.ms_psize;
    if (!repl_ok(repl_bitmap_init(&e.free_pages, e.page_count, NULL)))
        return true;
    if (!table_is_whole(&e, FREE_TABLE, 0, free_list_is_whole) ||
        mdb_dbi_open(e.txn, NULL, 0, &dbi) != 0 ||
        !table_is_whole(&e, dbi, INDEX_MAIN, entry_is_whole))
        return false;
    for (enum index_table table = INDEX_MAIN + 1; table < INDEX_TABLE_COUNT; table++) {
        int error = mdb_dbi_open(e.txn, repl_index_table_name(table), 0, &dbi);
        if (error != MDB_NOTFOUND &&
            (error != 0 || !table_is_whole(&e, dbi, table, entry_is_whole)))
            return false;
    }
    return true;
}

repl_result repl_index_examine(const char *path, struct repl_error *err)
{
    static const int crashes[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    int status;
    pid_t pid = fork();
    if (pid == 0) { /* what it holds is given back by its end */
        for (size_t i = 0; i < sizeof crashes / sizeof crashes[0]; i++)
            signal(crashes[i], SIG_DFL);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0});
        int nowhere = open("/dev/null", O_WRONLY);
        if (nowhere >= 0) /* LMDB says there what it finds before it aborts */
            dup2(nowhere, STDERR_FILENO);
        _exit(file_is_whole(path) ? 0 : 1);
    }
    if (pid < 0)
        return repl_fail_errno(err, REPL_E_NOMEM, errno, "cannot start a process to examine %s",
                               path);
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return repl_fail_errno(err, REPL_E_INTERNAL, errno, "cannot wait for a process");
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return REPL_SUCCESS;
    return repl_fail(
        err, REPL_E_CORRUPT, "the index %s is damaged (%s) and has to be made anew", path,
        WIFSIGNALED(status) ? "reading all of it ends in a crash" : "its tables are not whole");
}
