/*
 * A file's contents, piece by piece: of what its runs say, up to a MiB at a
 * time, and the zeros between. What the manifests call zeros becomes, or stays,
 * a hole. Comparing, writing and reading back go by the same pieces, so the
 * hash of what was written is that of what has to be read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "recover/tree_internal.h"

/* Writing to the disk begins when so much has been written, not when all has. */
#define FLUSH_SIZE (UINT64_C(8) << 20)

struct piece {
    uint64_t offset, size; /* size: at most REPL_TREE_BUFFER_SIZE, but for zeros */
    uint64_t place;        /* in the space */
    bool zero;
};

struct pieces {
    struct repl_tree_worker *worker;
    uint64_t size; /* of the file */
    uint64_t at;
    struct repl_tree_key key;
    struct repl_record run; /* the one that at is in, or that follows; length 0: none */
    bool run_known;
};

static struct pieces pieces_of(struct repl_tree_worker *worker, const struct repl_tree_item *item)
{
    return (struct pieces){.worker = worker,
                           .size = item->node.size,
                           .key = {.object = item->object, .type = REPL_RECORD_RUN}};
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static repl_result run_find(struct pieces *p, struct repl_error *err)
{
    bool found;
    if (p->run_known && (p->run.length == 0 || p->run.offset + p->run.length > p->at))
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_next(p->worker->plan, &p->key, &p->run, &found, err));
    if (!found)
        p->run.length = 0;
    p->run_known = true;
    return REPL_SUCCESS;
}

static repl_result piece_next(struct pieces *p, struct piece *piece, bool *done,
                              struct repl_error *err)
{
    *done = p->at >= p->size;
    if (*done)
        return REPL_SUCCESS;
    if (repl_tree_stopped(p->worker->run))
        return repl_fail(err, REPL_E_RETRY, "interrupted");
    REPL_TRY(run_find(p, err));
    *piece = (struct piece){.offset = p->at, .size = p->size - p->at, .zero = true};
    if (p->run.length > 0 && p->run.offset > p->at) {
        piece->size = least(piece->size, p->run.offset - p->at);
    } else if (p->run.length > 0) {
        piece->size = least(piece->size, p->run.offset + p->run.length - p->at);
        piece->place = p->run.place + (p->at - p->run.offset);
        piece->size =
            repl_view_stretch(p->worker->run->view, piece->place, piece->size, &piece->zero);
        if (!piece->zero)
            piece->size = least(piece->size, REPL_TREE_BUFFER_SIZE);
    }
    p->at += piece->size;
    return REPL_SUCCESS;
}

static repl_result piece_read(struct repl_tree_worker *worker, const struct piece *piece,
                              struct repl_error *err)
{
    repl_tree_bytes(worker, piece->size);
    return repl_view_read(worker->view, piece->place, worker->wanted, (size_t)piece->size, err);
}

static uint64_t hash_add(uint64_t hash, const struct piece *piece, const void *data)
{
    uint64_t parts[4] = {hash, piece->offset, piece->size, repl_xxh3(data, (size_t)piece->size)};
    hash = repl_xxh3(parts, sizeof parts);
    return hash != 0 ? hash : 1; /* 0 is what was not written */
}

/* --- the file -------------------------------------------------------------------------------- */

/* What is there of [offset, offset + size), *got bytes: less where the file ends. */
static repl_result present_read(int fd, uint64_t offset, void *out, size_t size, size_t *got,
                                struct repl_error *err)
{
    *got = 0;
    while (*got < size) {
        ssize_t n = pread(fd, (uint8_t *)out + *got, size - *got, (off_t)(offset + *got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return repl_tree_fail(err, errno, "cannot read it");
        if (n == 0)
            break;
        *got += (size_t)n;
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_write_at(int fd, uint64_t offset, const void *data, size_t size,
                               struct repl_error *err)
{
    while (size > 0) {
        ssize_t n = pwrite(fd, data, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return repl_tree_fail(err, errno, "cannot write it");
        data = (const uint8_t *)data + n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return REPL_SUCCESS;
}

/* The first byte at or after offset, before end, that is not zero; end: there is none. Holes are
 * not read. */
static repl_result nonzero_find(struct repl_tree_worker *worker, int fd, uint64_t offset,
                                uint64_t end, uint64_t *at, struct repl_error *err)
{
    for (*at = offset; *at < end;) {
        off_t data = lseek(fd, (off_t)*at, SEEK_DATA);
        if (data < 0 && errno == ENXIO) { /* a hole to its end, or behind it */
            *at = end;
            return REPL_SUCCESS;
        }
        if (data >= 0)
            *at = least((uint64_t)data, end);
        if (repl_tree_stopped(worker->run))
            return repl_fail(err, REPL_E_RETRY, "interrupted");
        size_t got;
        REPL_TRY(present_read(fd, *at, worker->present,
                              (size_t)least(end - *at, REPL_TREE_BUFFER_SIZE), &got, err));
        if (got == 0)
            *at = end;
        for (size_t i = 0; i < got; i += REPL_PAGE_SIZE) {
            size_t part = (size_t)least(got - i, REPL_PAGE_SIZE);
            if (!repl_is_zero(worker->present + i, part)) {
                *at += i;
                return REPL_SUCCESS;
            }
        }
        *at += got;
    }
    return REPL_SUCCESS;
}

/* --- comparing ------------------------------------------------------------------------------- */

/* Pages of the piece in which the wanted bytes and those that are there differ. */
static uint64_t pages_differing(const struct repl_tree_worker *worker, size_t size, size_t got)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < size; i += REPL_PAGE_SIZE) {
        size_t part = (size_t)least(size - i, REPL_PAGE_SIZE);
        bool same = i + part <= got && memcmp(worker->wanted + i, worker->present + i, part) == 0;
        bytes += same ? 0 : part;
    }
    return bytes;
}

static repl_result piece_compare(struct repl_tree_worker *worker, int fd, const struct piece *piece,
                                 uint64_t *differing, struct repl_error *err)
{
    size_t got;
    uint64_t end = piece->offset + piece->size, at;
    *differing = 0;
    if (piece->zero) {
        REPL_TRY(nonzero_find(worker, fd, piece->offset, end, &at, err));
        *differing = least(end - at, REPL_PAGE_SIZE);
        return REPL_SUCCESS;
    }
    REPL_TRY(piece_read(worker, piece, err));
    REPL_TRY(present_read(fd, piece->offset, worker->present, (size_t)piece->size, &got, err));
    *differing = pages_differing(worker, (size_t)piece->size, got);
    return REPL_SUCCESS;
}

repl_result repl_tree_file_compare(struct repl_tree_worker *worker,
                                   const struct repl_tree_item *item, int fd,
                                   struct repl_tree_comparison *out, struct repl_error *err)
{
    struct pieces pieces = pieces_of(worker, item);
    bool same_size = (uint64_t)item->status.st_size == item->node.size;
    /* Up to the first difference, or to where it is too much to be changed in place. */
    uint64_t limit = item->node.size > REPL_TREE_PATCH_SIZE ? item->node.size / 4 : 0;
    *out = (struct repl_tree_comparison){.differing = same_size ? 0 : 1};
    for (bool done = false; out->differing <= limit;) {
        struct piece piece;
        uint64_t differing;
        REPL_TRY(piece_next(&pieces, &piece, &done, err));
        if (done)
            break;
        REPL_TRY(piece_compare(worker, fd, &piece, &differing, err));
        out->differing += differing;
        out->data += piece.zero ? 0 : piece.size;
    }
    out->equal = out->differing == 0;
    return REPL_SUCCESS;
}

/* --- writing --------------------------------------------------------------------------------- */

static repl_result zeros_write(struct repl_tree_worker *worker, int fd, const struct piece *piece,
                               struct repl_error *err)
{
    uint64_t end = piece->offset + piece->size, at;
    REPL_TRY(nonzero_find(worker, fd, piece->offset, end, &at, err));
    if (at == end || fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
                               (off_t)(end - at)) == 0)
        return REPL_SUCCESS;
    memset(worker->wanted, 0, REPL_TREE_BUFFER_SIZE);
    for (size_t size; at < end; at += size) {
        size = (size_t)least(end - at, REPL_TREE_BUFFER_SIZE);
        REPL_TRY(repl_tree_write_at(fd, at, worker->wanted, size, err));
    }
    return REPL_SUCCESS;
}

/* Only pages that differ: the others are not written to the disk for nothing. */
static repl_result piece_patch(struct repl_tree_worker *worker, int fd, const struct piece *piece,
                               struct repl_error *err)
{
    size_t got;
    REPL_TRY(present_read(fd, piece->offset, worker->present, (size_t)piece->size, &got, err));
    for (size_t i = 0; i < piece->size; i += REPL_PAGE_SIZE) {
        size_t part = (size_t)least(piece->size - i, REPL_PAGE_SIZE);
        if (i + part > got || memcmp(worker->wanted + i, worker->present + i, part) != 0)
            REPL_TRY(repl_tree_write_at(fd, piece->offset + i, worker->wanted + i, part, err));
    }
    return REPL_SUCCESS;
}

static repl_result piece_write(struct repl_tree_worker *worker, int fd, bool empty,
                               const struct piece *piece, uint64_t *hash, struct repl_error *err)
{
    if (piece->zero)
        return empty ? REPL_SUCCESS : zeros_write(worker, fd, piece, err);
    REPL_TRY(piece_read(worker, piece, err));
    *hash = hash_add(*hash, piece, worker->wanted);
    if (!empty)
        return piece_patch(worker, fd, piece, err);
    REPL_TRY(repl_tree_write_at(fd, piece->offset, worker->wanted, (size_t)piece->size, err));
    if ((piece->offset + piece->size) / FLUSH_SIZE != piece->offset / FLUSH_SIZE)
        sync_file_range(fd, (off_t)(piece->offset / FLUSH_SIZE * FLUSH_SIZE), FLUSH_SIZE,
                        SYNC_FILE_RANGE_WRITE); /* for speed; the sync that counts comes later */
    return REPL_SUCCESS;
}

repl_result repl_tree_file_write(struct repl_tree_worker *worker, const struct repl_tree_item *item,
                                 int fd, bool empty, uint64_t *data, struct repl_error *err)
{
    struct pieces pieces = pieces_of(worker, item);
    uint64_t hash = 1;
    *data = 0;
    /* Before any of it is written: what xfs allocates in advance behind the end of a file would
     * else come to lie in its holes. */
    if (ftruncate(fd, (off_t)item->node.size) != 0)
        return repl_tree_fail(err, errno, "cannot set its size");
    for (bool done = false;;) {
        struct piece piece;
        REPL_TRY(piece_next(&pieces, &piece, &done, err));
        if (done)
            break;
        REPL_TRY(piece_write(worker, fd, empty, &piece, &hash, err));
        *data += piece.zero ? 0 : piece.size;
    }
    worker->run->hashes[item->number] = hash;
    return REPL_SUCCESS;
}

/* --- reading back ---------------------------------------------------------------------------- */

static repl_result hash_read(struct repl_tree_worker *worker, const struct repl_tree_item *item,
                             int fd, uint64_t *hash, bool *short_or_dirty, struct repl_error *err)
{
    struct pieces pieces = pieces_of(worker, item);
    *hash = 1;
    *short_or_dirty = false;
    for (bool done = false; !*short_or_dirty;) {
        struct piece piece;
        uint64_t at;
        size_t got;
        REPL_TRY(piece_next(&pieces, &piece, &done, err));
        if (done)
            break;
        if (piece.zero) {
            REPL_TRY(nonzero_find(worker, fd, piece.offset, piece.offset + piece.size, &at, err));
            *short_or_dirty = at < piece.offset + piece.size;
            continue;
        }
        REPL_TRY(present_read(fd, piece.offset, worker->present, (size_t)piece.size, &got, err));
        repl_tree_bytes(worker, piece.size);
        *short_or_dirty = got < piece.size;
        if (!*short_or_dirty)
            *hash = hash_add(*hash, &piece, worker->present);
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_file_verify(struct repl_tree_worker *worker,
                                  const struct repl_tree_item *item, struct repl_error *err)
{
    struct stat status;
    uint64_t hash = 0;
    bool wrong = true;
    int fd = repl_tree_openat(item->directory, item->name, O_RDONLY | O_NONBLOCK);
    if (fd < 0 && errno == EACCES)
        return repl_tree_fail(err, errno, "it cannot be read back");
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_CORRUPT, errno, "it cannot be read back");
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    repl_result result = REPL_SUCCESS;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
        (uint64_t)status.st_size == item->node.size)
        result = hash_read(worker, item, fd, &hash, &wrong, err);
    close(fd);
    if (repl_ok(result) && (wrong || hash != worker->run->hashes[item->number]))
        return repl_fail(err, REPL_E_CORRUPT,
                         "what was read back is not what was written: see that nothing else writes "
                         "to it, check the disk, then give the same command again");
    return result;
}
