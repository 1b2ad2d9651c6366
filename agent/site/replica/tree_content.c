/*
 * The contents of files: what changed of them is written, by the runs in the
 * map; what the segments call zeros becomes a hole.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "site/replica/tree_replica.h"

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* --- writing --------------------------------------------------------------------------------- */

static repl_result hole_make(struct replica_tree *t, const struct repl_tree_item *item, int fd,
                             uint64_t begin, uint64_t end, struct repl_error *err)
{
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)begin,
                  (off_t)(end - begin)) == 0)
        return REPL_SUCCESS;
    if (errno != EOPNOTSUPP)
        return replica_tree_fail(t, errno, item->object, "cannot make a hole in it", err);
    memset(t->meta.wanted, 0, REPL_TREE_BUFFER_SIZE);
    for (uint64_t size; begin < end; begin += size) {
        size = least(end - begin, REPL_TREE_BUFFER_SIZE);
        REPL_TRY(repl_tree_write_at(fd, begin, t->meta.wanted, (size_t)size, err));
    }
    return REPL_SUCCESS;
}

/* [begin, end) of the file, which lies in the space from place on. */
static repl_result run_write(struct replica_tree *t, const struct repl_tree_item *item, int fd,
                             uint64_t begin, uint64_t end, uint64_t place, struct repl_error *err)
{
    const struct repl_view *changes = replica_bytes_changes(t->bytes);
    for (uint64_t size; begin < end; begin += size, place += size) {
        bool said = false, zero = false;
        size = end - begin;
        if (place < repl_view_size(changes))
            size = repl_view_said(changes, place, size, &said);
        if (said)
            size = repl_view_stretch(changes, place, size, &zero);
        REPL_TRY(replica_tree_step(t, err));
        if (zero) {
            REPL_TRY(hole_make(t, item, fd, begin, begin + size, err));
            continue;
        }
        size = least(size, REPL_TREE_BUFFER_SIZE);
        REPL_TRY(replica_bytes_read(t->bytes, place, t->meta.wanted, (size_t)size, err));
        REPL_TRY(repl_forward(repl_tree_write_at(fd, begin, t->meta.wanted, (size_t)size, err), err,
                              "%s/tree: object %llu", t->path, (unsigned long long)item->object));
    }
    return REPL_SUCCESS;
}

/* All of [begin, end) as the runs say; holes: what is in none is not zeros yet. */
static repl_result range_write(struct replica_tree *t, const struct repl_tree_item *item, int fd,
                               uint64_t begin, uint64_t end, bool holes, struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(item->object, begin);
    MDB_val value;
    bool found;
    REPL_TRY(replica_map_last(&t->map, REPLICA_RUN, &key, 8, &value, &found, err));
    if (!found)
        key = REPLICA_KEY(item->object, begin);
    for (; begin < end; replica_key_pass(&key)) {
        REPL_TRY(replica_map_next(&t->map, REPLICA_RUN, &key, 8, &value, &found, err));
        uint64_t offset = found ? least(end, replica_key_number(&key, 1)) : end;
        uint64_t run_end =
            found ? least(end, replica_key_number(&key, 1) + repl_tree_number(value.mv_data)) : end;
        if (begin < offset && holes)
            REPL_TRY(hole_make(t, item, fd, begin, offset, err));
        begin = begin < offset ? offset : begin;
        if (begin < run_end) {
            uint64_t place = repl_tree_number((const uint8_t *)value.mv_data + 8);
            REPL_TRY(run_write(t, item, fd, begin, run_end,
                               place + (begin - replica_key_number(&key, 1)), err));
            begin = run_end;
        }
    }
    return REPL_SUCCESS;
}

static repl_result size_set(struct replica_tree *t, const struct repl_tree_item *item, int fd,
                            struct repl_error *err)
{
    return ftruncate(fd, (off_t)item->node.size) == 0
               ? REPL_SUCCESS
               : replica_tree_fail(t, errno, item->object, "cannot set its size", err);
}

static repl_result ranges_write(struct replica_tree *t, const struct repl_tree_item *item, int fd,
                                struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(item->object);
    for (bool found = true;; replica_key_pass(&key)) {
        MDB_val value;
        REPL_TRY(replica_map_next(&t->map, REPLICA_TODO_RANGE, &key, 8, &value, &found, err));
        if (!found)
            return REPL_SUCCESS;
        uint64_t begin = replica_key_number(&key, 1);
        uint64_t end = least(item->node.size, begin + repl_tree_number(value.mv_data));
        REPL_TRY(range_write(t, item, fd, begin, end, true, err));
    }
}

/* A file that grows gets its size last: to set it first has xfs wait for the disk. */
repl_result replica_tree_file_patch(struct replica_tree *t, const struct repl_tree_item *item,
                                    int fd, struct repl_error *err)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return replica_tree_fail(t, errno, item->object, "cannot look at it", err);
    if ((uint64_t)status.st_size > item->node.size)
        REPL_TRY(size_set(t, item, fd, err));
    REPL_TRY(ranges_write(t, item, fd, err));
    return (uint64_t)status.st_size < item->node.size ? size_set(t, item, fd, err) : REPL_SUCCESS;
}

/* --- making ready ---------------------------------------------------------------------------- */

/* As exactly as any filesystem keeps times; who writes to a file now is further off. */
static bool is_time(const struct timespec *has, int64_t ns)
{
    int64_t apart = has->tv_sec - ns / 1000000000;
    return apart >= -2 && apart <= 2;
}

/* As much of it as stays, to a file of the size that it shall have. */
static repl_result copy(struct replica_tree *t, const struct repl_tree_item *item, int from, int to,
                        struct repl_error *err)
{
    off_t size = (off_t)least((uint64_t)item->status.st_size, item->node.size);
    REPL_TRY(size_set(t, item, to, err));
    for (off_t at = 0; at < size;) {
        off_t data = lseek(from, at, SEEK_DATA);
        if ((data < 0 && errno == ENXIO) || data >= size)
            break; /* a hole to its end */
        at = data > at ? data : at;
        REPL_TRY(replica_tree_step(t, err));
        size_t part = (size_t)least((uint64_t)(size - at), REPL_TREE_BUFFER_SIZE);
        ssize_t got = pread(from, t->meta.wanted, part, at);
        if (got < 0)
            return replica_tree_fail(t, errno, item->object, "cannot read it", err);
        if (got == 0)
            break;
        REPL_TRY(repl_tree_write_at(to, (uint64_t)at, t->meta.wanted, (size_t)got, err));
        at += got;
    }
    return REPL_SUCCESS;
}

/* *made: to is now as it was at A, as far as it is not longer than it shall be. */
static repl_result old_take(struct replica_tree *t, const struct repl_tree_item *item, int to,
                            const struct replica_todo *todo, bool *made, struct repl_error *err)
{
    const struct stat *status = &item->status;
    if ((uint64_t)status->st_size != todo->old_size ||
        !is_time(&status->st_mtim, todo->old_mtime_ns))
        return replica_tree_fail(t, 0, item->object, "somebody else wrote to it", err);
    int from = repl_tree_openat(item->directory, item->name, O_RDONLY | O_NONBLOCK);
    if (from < 0)
        return replica_tree_fail(t, errno, item->object, "cannot open it", err);
    repl_result result = REPL_SUCCESS;
    *made = !t->no_clone && ioctl(to, FICLONE, from) == 0;
    if (!*made && todo->old_size <= REPLICA_COPY_MAX && item->node.size <= REPLICA_COPY_MAX) {
        result = copy(t, item, from, to, err);
        *made = true;
    }
    close(from);
    return result;
}

static repl_result file_fill(struct replica_tree *t, const struct repl_tree_item *item, int fd,
                             const struct replica_todo *todo, bool *made, struct repl_error *err)
{
    repl_tree_meta_early(item, fd);
    *made = true;
    if (todo->old_kind != REPL_NODE_GONE) {
        REPL_TRY(old_take(t, item, fd, todo, made, err));
        return *made ? replica_tree_file_patch(t, item, fd, err) : REPL_SUCCESS;
    }
    REPL_TRY(size_set(t, item, fd, err));
    return range_write(t, item, fd, 0, item->node.size, false, err);
}

repl_result replica_tree_file_stage(struct replica_tree *t, const struct repl_tree_item *item,
                                    const struct replica_todo *todo, struct repl_error *err)
{
    struct repl_tree_item staged = *item;
    char name[32];
    bool made;
    replica_tree_staged(name, 'n', item->object);
    int fd = repl_tree_openat(t->staging_fd, name, O_RDWR | O_CREAT | O_EXCL);
    if (fd < 0)
        return replica_tree_fail(t, errno, item->object, "cannot make it", err);
    staged.directory = t->staging_fd;
    repl_result result = file_fill(t, item, fd, todo, &made, err);
    if (repl_ok(result) && made)
        result = repl_tree_meta_apply(&t->meta, &staged, name, fd, false, NULL, err);
    close(fd);
    if (repl_ok(result) && !made && unlinkat(t->staging_fd, name, 0) != 0)
        result = replica_tree_fail(t, errno, item->object, "cannot remove it", err);
    return result;
}
