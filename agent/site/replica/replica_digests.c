/*
 * What the target holds, as digests of its pages, for a host that compares.
 *
 * The page cache is asked to let go of the range before it is read: whether the
 * disk still has it is what the host wants to know.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "block/read_full.h"
#include "site/replica/replica_internal.h"

#define PIECE_SIZE (1u << 20)

/* What lies behind the end of a file is zeros. */
static repl_result target_read(const struct replica_target *target, uint64_t offset, uint8_t *out,
                               size_t size, struct repl_error *err)
{
    ssize_t got = repl_read_full(target->fd, out, size, offset);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read the replica %s at byte %llu",
                               target->path, (unsigned long long)offset);
    memset(out + got, 0, size - (size_t)got);
    return REPL_SUCCESS;
}

static repl_result pieces_digest(const struct replica_target *target, uint64_t offset,
                                 uint64_t size, uint8_t *piece, struct repl_sha256 *sha,
                                 struct repl_page_digest *out, struct repl_error *err)
{
    for (uint64_t at = 0; at < size; at += PIECE_SIZE) {
        size_t piece_size = size - at < PIECE_SIZE ? (size_t)(size - at) : PIECE_SIZE;
        REPL_TRY(target_read(target, offset + at, piece, piece_size, err));
        for (size_t i = 0; i < piece_size; i += REPL_PAGE_SIZE) {
            struct repl_digest digest;
            size_t left = piece_size - i;
            repl_page_digest(sha, piece + i, left < REPL_PAGE_SIZE ? left : REPL_PAGE_SIZE,
                             &digest);
            *out++ = repl_page_digest_of(&digest);
        }
    }
    return REPL_SUCCESS;
}

repl_result replica_target_digest(const struct replica_target *target, uint64_t offset,
                                  uint64_t size, struct repl_page_digest *out,
                                  struct repl_error *err)
{
    struct repl_sha256 *sha;
    REPL_TRY(repl_sha256_new(&sha, err));
    uint8_t *piece = malloc(PIECE_SIZE);
    posix_fadvise(target->fd, (off_t)offset, (off_t)size, POSIX_FADV_DONTNEED);
    repl_result result = piece == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "no memory to read %s", target->path)
                             : pieces_digest(target, offset, size, piece, sha, out, err);
    free(piece);
    repl_sha256_free(sha);
    return result;
}
