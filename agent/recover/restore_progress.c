/*
 * The file, little-endian:
 *
 *   page 0     the header: magic, version, a random number, the plan, and at the
 *              end of the page XXH3 of what precedes it
 *   page 1...  510 hashes of 8 bytes each (0: piece not done), 8 bytes of zeros,
 *              and XXH3 of these and of the header's random number
 *
 * A page is written whole, in place. A torn one does not match its checksum and
 * counts as not done: some pieces are restored again. The random number keeps
 * pages of an earlier file, should the disk bring them back, from being taken
 * for this one's.
 *
 * Order: a page is written only after the target has been synced with the
 * pieces it speaks of (take, sync the target, save).
 */
#include "recover/restore_progress.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/hash.h"
#include "base/limits.h"

#define PAGE_SIZE        4096u
#define PAGE_HASHES      510u
#define PAGE_CHECKED     (PAGE_SIZE - 8)
#define PROGRESS_MAGIC   0x4552545352504552ull /* "REPRSTRE" */
#define PROGRESS_VERSION 1u

struct repl_restore_progress {
    char *path;
    int fd;
    uint64_t nonce;
    uint64_t piece_count, page_count;
    uint64_t *hashes; /* the caller's */
    uint8_t *dirty;   /* of each page: noted since it was taken */
    /* pages taken and not yet saved */
    struct repl_buffer taken;
    uint64_t *taken_pages;
    uint64_t taken_count;
};

uint64_t repl_restore_piece_count(uint64_t volume_size)
{
    return (volume_size + REPL_RESTORE_PIECE_SIZE - 1) / REPL_RESTORE_PIECE_SIZE;
}

/* --- the header ------------------------------------------------------------------------------ */

static void header_encode(const struct repl_restore_plan *plan, uint64_t nonce,
                          uint8_t page[PAGE_SIZE])
{
    memset(page, 0, PAGE_SIZE);
    struct repl_writer w = repl_writer_of(page, PAGE_CHECKED);
    repl_write_u64(&w, PROGRESS_MAGIC);
    repl_write_u64(&w, PROGRESS_VERSION);
    repl_write_u64(&w, nonce);
    repl_write_uuid(&w, &plan->volume);
    repl_write_u64(&w, plan->seq);
    repl_write_digest(&w, &plan->digest);
    repl_write_u64(&w, plan->volume_size);
    repl_write_text(&w, plan->identity);
    struct repl_writer tail = repl_writer_of(page + PAGE_CHECKED, 8);
    repl_write_u64(&tail, repl_xxh3(page, PAGE_CHECKED));
}

static repl_result header_decode(const uint8_t page[PAGE_SIZE], struct repl_restore_plan *plan,
                                 uint64_t *nonce, struct repl_error *err)
{
    struct repl_reader tail = repl_reader_of(page + PAGE_CHECKED, 8);
    struct repl_reader r = repl_reader_of(page, PAGE_CHECKED);
    *plan = (struct repl_restore_plan){.seq = 0};
    if (repl_read_u64(&r) != PROGRESS_MAGIC)
        return repl_fail(err, REPL_E_CORRUPT, "restore progress: wrong first bytes");
    if (repl_read_u64(&r) != PROGRESS_VERSION)
        return repl_fail(err, REPL_E_VERSION, "restore progress: of another version of repl");
    if (repl_read_u64(&tail) != repl_xxh3(page, PAGE_CHECKED))
        return repl_fail(err, REPL_E_CORRUPT, "restore progress: checksum does not match");
    *nonce = repl_read_u64(&r);
    repl_read_uuid(&r, &plan->volume);
    plan->seq = repl_read_u64(&r);
    repl_read_digest(&r, &plan->digest);
    plan->volume_size = repl_read_u64(&r);
    repl_read_text(&r, plan->identity, sizeof plan->identity - 1);
    if (plan->volume_size > REPL_VOLUME_SIZE_MAX)
        r.failed = true;
    repl_read_zeros(&r, repl_reader_left(&r));
    return repl_reader_end(&r, err, "restore progress");
}

static bool plan_equal(const struct repl_restore_plan *a, const struct repl_restore_plan *b)
{
    return repl_uuid_equal(&a->volume, &b->volume) && a->seq == b->seq &&
           repl_digest_equal(&a->digest, &b->digest) && a->volume_size == b->volume_size &&
           strcmp(a->identity, b->identity) == 0;
}

bool repl_restore_progress_is(const void *data, size_t size)
{
    struct repl_reader r = repl_reader_of(data, size);
    return repl_read_u64(&r) == PROGRESS_MAGIC;
}

/* --- pages ----------------------------------------------------------------------------------- */

static uint64_t page_hash(const uint8_t page[PAGE_SIZE], uint64_t nonce)
{
    return repl_xxh3(page, PAGE_CHECKED) ^ nonce;
}

static void page_encode(const struct repl_restore_progress *p, uint64_t index,
                        uint8_t page[PAGE_SIZE])
{
    memset(page, 0, PAGE_SIZE);
    struct repl_writer w = repl_writer_of(page, PAGE_SIZE);
    for (uint64_t i = 0; i < PAGE_HASHES; i++) {
        uint64_t piece = index * PAGE_HASHES + i;
        repl_write_u64(&w, piece < p->piece_count ? p->hashes[piece] : 0);
    }
    repl_write_zeros(&w, 8);
    repl_write_u64(&w, page_hash(page, p->nonce));
}

/* Fills the hashes of one page where it is whole; returns how many pieces are done. */
static uint64_t page_decode(const uint8_t page[PAGE_SIZE], uint64_t nonce, uint64_t *hashes,
                            uint64_t count)
{
    struct repl_reader tail = repl_reader_of(page + PAGE_CHECKED, 8);
    struct repl_reader r = repl_reader_of(page, PAGE_CHECKED);
    uint64_t done = 0;
    if (repl_read_u64(&tail) != page_hash(page, nonce))
        return 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t hash = repl_read_u64(&r);
        if (hashes != NULL)
            hashes[i] = hash;
        done += hash != 0;
    }
    return done;
}

static uint64_t pages_read(int fd, uint64_t nonce, uint64_t *hashes, uint64_t piece_count)
{
    uint64_t done = 0;
    for (uint64_t first = 0; first < piece_count; first += PAGE_HASHES) {
        uint8_t page[PAGE_SIZE];
        uint64_t count = piece_count - first < PAGE_HASHES ? piece_count - first : PAGE_HASHES;
        if (pread(fd, page, PAGE_SIZE, (off_t)((1 + first / PAGE_HASHES) * PAGE_SIZE)) !=
            (ssize_t)PAGE_SIZE)
            continue; /* never written, or unreadable: not done */
        done += page_decode(page, nonce, hashes != NULL ? hashes + first : NULL, count);
    }
    return done;
}

/* --- opening --------------------------------------------------------------------------------- */

static repl_result progress_make(struct repl_restore_progress *p,
                                 const struct repl_restore_plan *plan, struct repl_error *err)
{
    uint8_t page[PAGE_SIZE];
    if (getrandom(&p->nonce, sizeof p->nonce, 0) != (ssize_t)sizeof p->nonce)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot get a random number");
    header_encode(plan, p->nonce, page);
    if (unlink(p->path) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot replace %s", p->path);
    p->fd = open(p->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (p->fd < 0 || pwrite(p->fd, page, sizeof page, 0) != (ssize_t)sizeof page ||
        fsync(p->fd) != 0)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                               "cannot make %s, which remembers how far the restore came", p->path);
    return REPL_SUCCESS;
}

/* *found: the file is there and of this plan. */
static repl_result progress_find(struct repl_restore_progress *p,
                                 const struct repl_restore_plan *plan, int flags, bool *found,
                                 struct repl_error *err)
{
    uint8_t page[PAGE_SIZE];
    struct repl_restore_plan other;
    *found = false;
    p->fd = open(p->path, flags | O_CLOEXEC | O_NOFOLLOW);
    if (p->fd < 0 && errno == ENOENT)
        return REPL_SUCCESS;
    if (p->fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open %s", p->path);
    if (pread(p->fd, page, sizeof page, 0) != (ssize_t)sizeof page ||
        !repl_ok(header_decode(page, &other, &p->nonce, NULL)))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s, which remembers how far a restore came, cannot be read: start "
                         "anew with --overwrite",
                         p->path);
    if (!plan_equal(&other, plan))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s belongs to an unfinished restore of point %llu, or to another "
                         "target: finish that one with --at %llu, or give it up with --overwrite",
                         p->path, (unsigned long long)other.seq, (unsigned long long)other.seq);
    *found = true;
    return REPL_SUCCESS;
}

static repl_result progress_open(struct repl_restore_progress *p,
                                 const struct repl_restore_plan *plan, bool fresh, bool *resumed,
                                 struct repl_error *err)
{
    *resumed = false;
    if (!fresh)
        REPL_TRY(progress_find(p, plan, O_RDWR, resumed, err));
    if (!*resumed)
        return progress_make(p, plan, err);
    pages_read(p->fd, p->nonce, p->hashes, p->piece_count);
    return REPL_SUCCESS;
}

repl_result repl_restore_progress_open(const char *path, const struct repl_restore_plan *plan,
                                       bool fresh, uint64_t *hashes,
                                       struct repl_restore_progress **out, bool *resumed,
                                       struct repl_error *err)
{
    struct repl_restore_progress *p = calloc(1, sizeof *p);
    if (p == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    p->fd = -1;
    p->path = strdup(path);
    p->hashes = hashes;
    p->piece_count = repl_restore_piece_count(plan->volume_size);
    p->page_count = (p->piece_count + PAGE_HASHES - 1) / PAGE_HASHES;
    p->dirty = calloc(p->page_count + 1, sizeof *p->dirty);
    p->taken_pages = calloc(p->page_count + 1, sizeof *p->taken_pages);
    repl_result result = p->path == NULL || p->dirty == NULL || p->taken_pages == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory")
                             : progress_open(p, plan, fresh, resumed, err);
    if (!repl_ok(result)) {
        repl_restore_progress_close(p);
        return result;
    }
    *out = p;
    return REPL_SUCCESS;
}

repl_result repl_restore_progress_look(const char *path, const struct repl_restore_plan *plan,
                                       uint64_t *hashes, bool *resumed, struct repl_error *err)
{
    struct repl_restore_progress p = {.fd = -1, .path = strdup(path)};
    if (p.path == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    repl_result result = progress_find(&p, plan, O_RDONLY, resumed, err);
    if (repl_ok(result) && *resumed)
        pages_read(p.fd, p.nonce, hashes, repl_restore_piece_count(plan->volume_size));
    if (p.fd >= 0)
        close(p.fd);
    free(p.path);
    return result;
}

void repl_restore_progress_close(struct repl_restore_progress *p)
{
    if (p == NULL)
        return;
    if (p->fd >= 0)
        close(p->fd);
    repl_buffer_fini(&p->taken);
    free(p->taken_pages);
    free(p->dirty);
    free(p->path);
    free(p);
}

/* --- saving ---------------------------------------------------------------------------------- */

void repl_restore_progress_note(struct repl_restore_progress *p, uint64_t piece, uint64_t hash)
{
    p->hashes[piece] = hash;
    p->dirty[piece / PAGE_HASHES] = 1;
}

repl_result repl_restore_progress_take(struct repl_restore_progress *p, struct repl_error *err)
{
    p->taken.size = 0;
    p->taken_count = 0;
    for (uint64_t i = 0; i < p->page_count; i++) {
        if (!p->dirty[i])
            continue;
        uint8_t *page = repl_buffer_extend(&p->taken, PAGE_SIZE);
        if (page == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory");
        page_encode(p, i, page);
        p->taken_pages[p->taken_count++] = i;
        p->dirty[i] = 0;
    }
    return REPL_SUCCESS;
}

repl_result repl_restore_progress_save(struct repl_restore_progress *p, struct repl_error *err)
{
    for (uint64_t i = 0; i < p->taken_count; i++) {
        if (pwrite(p->fd, p->taken.data + i * PAGE_SIZE, PAGE_SIZE,
                   (off_t)((1 + p->taken_pages[i]) * PAGE_SIZE)) != (ssize_t)PAGE_SIZE)
            return repl_fail_errno(err, REPL_E_IO, errno, "cannot write %s", p->path);
    }
    if (fdatasync(p->fd) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make %s durable", p->path);
    return REPL_SUCCESS;
}

repl_result repl_restore_progress_remove(struct repl_restore_progress *p, struct repl_error *err)
{
    if (unlink(p->path) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno,
                               "cannot remove %s, so remove it: the next restore to the same "
                               "target would be taken for this one",
                               p->path);
    return REPL_SUCCESS;
}

repl_result repl_restore_progress_read(const char *path, struct repl_restore_plan *plan,
                                       uint64_t *done_count, struct repl_error *err)
{
    uint8_t page[PAGE_SIZE];
    uint64_t nonce;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open %s", path);
    repl_result result = pread(fd, page, sizeof page, 0) != (ssize_t)sizeof page
                             ? repl_fail(err, REPL_E_CORRUPT, "restore progress: cut short")
                             : header_decode(page, plan, &nonce, err);
    if (repl_ok(result))
        *done_count = pages_read(fd, nonce, NULL, repl_restore_piece_count(plan->volume_size));
    close(fd);
    return result;
}

repl_result repl_restore_state_make(const char *path, struct repl_error *err)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    for (char *c = copy + 1; *c != '\0'; c++) {
        if (*c != '/')
            continue;
        *c = '\0';
        mkdir(copy, 0755); /* what fails here fails below */
        *c = '/';
    }
    bool made = mkdir(copy, 0700) == 0 || errno == EEXIST;
    int os_errno = errno;
    free(copy);
    if (!made)
        return repl_fail_errno(err, REPL_E_IO, os_errno,
                               "cannot make %s for what a restore has to remember: give another "
                               "directory with --state",
                               path);
    return REPL_SUCCESS;
}
