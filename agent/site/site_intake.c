/*
 * Bytes of a request on their way into a staged file.
 *
 * Two buffers of 1 MiB: one is filled by the exchange, one is being written by
 * a worker. When both are full the exchange is paused. Where more files come at
 * once than the memory for them allows, buffers are smaller, down to 64 KiB.
 * They live as long as the file is open. As only one write is
 * under way at a time, the file is a contiguous beginning of the segment at any
 * moment, so whatever is found of it later can be gone on with.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/ensure.h"
#include "block/read_full.h"
#include "site/site_volume.h"

#define BUFFER_SIZE     (1u << 20)
#define BUFFER_SIZE_MIN (1u << 16)
#define BUFFERS_ALL     (256u << 20) /* of those that may be filled */

static size_t buffer_size(const struct site_intake *intake)
{
    size_t share = BUFFERS_ALL / 2 / (intake->site->intakes + 1u);
    return share > BUFFER_SIZE ? BUFFER_SIZE : share < BUFFER_SIZE_MIN ? BUFFER_SIZE_MIN : share;
}

static repl_result intake_fail(const struct site_intake *intake, int os_errno, const char *what,
                               struct repl_error *err)
{
    bool full = os_errno == ENOSPC || os_errno == EDQUOT;
    return repl_fail_errno(err, full ? REPL_E_NOSPACE : REPL_E_IO, os_errno,
                           "cannot %s the staged file %s", what, intake->path);
}

static void written_set(struct site_intake *intake, uint64_t written)
{
    site_space_staged(intake->site, (int64_t)(written - intake->written));
    intake->written = written;
}

repl_result site_intake_create(struct site_intake *intake, const struct site_volume *volume,
                               const char *name, struct repl_error *err)
{
    char directory[PATH_MAX];
    ensure(intake->fd < 0);
    REPL_TRY(
        repl_store_staging(volume->site->store, volume->name, directory, sizeof directory, err));
    int size = snprintf(intake->path, sizeof intake->path, "%s/%s", directory, name);
    if (size < 0 || (size_t)size >= sizeof intake->path)
        return repl_fail(err, REPL_E_USAGE, "the store's path is too long: move the store");
    /* Never truncated: the old file may be one of which a sync has failed. */
    if (unlink(intake->path) != 0 && errno != ENOENT)
        return intake_fail(intake, errno, "remove", err);
    intake->fd = open(intake->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (intake->fd < 0)
        return intake_fail(intake, errno, "make", err);
    if (intake->digest != NULL)
        repl_segment_digest_restart(intake->digest);
    intake->site = volume->site;
    intake->site->intakes++;
    written_set(intake, 0);
    intake->result = REPL_SUCCESS;
    intake->flush = false;
    intake->paused = false;
    return REPL_SUCCESS;
}

repl_result site_intake_resume(struct site_intake *intake, uint64_t size, struct repl_error *err)
{
    ensure(site_intake_is_idle(intake));
    if (intake->fd < 0)
        return repl_fail(err, REPL_E_INTERNAL, "no bytes are held to go on from");
    /* Behind it may be what was left of a write that failed. */
    if (ftruncate(intake->fd, (off_t)size) != 0)
        return intake_fail(intake, errno, "cut", err);
    written_set(intake, size);
    intake->result = REPL_SUCCESS;
    intake->flush = false;
    intake->paused = false;
    return REPL_SUCCESS;
}

void site_intake_found(struct site_intake *intake, int fd, const char *path, uint64_t size)
{
    ensure(intake->fd < 0);
    intake->fd = fd;
    intake->site->intakes++;
    snprintf(intake->path, sizeof intake->path, "%s", path);
    written_set(intake, size);
}

/* --- writing --------------------------------------------------------------------------------- */

static repl_result buffer_write(struct site_intake *intake, struct repl_error *err)
{
    if (!repl_write_full(intake->fd, intake->writing.data, intake->writing.size, intake->written))
        return intake_fail(intake, errno, "write", err);
    /* The disk begins with a large upload while it comes. Whether it goes well, the sync of the
     * commit says. */
    if (intake->writing.size >= BUFFER_SIZE_MIN)
        sync_file_range(intake->fd, (off_t)intake->written, (off_t)intake->writing.size,
                        SYNC_FILE_RANGE_WRITE);
    return REPL_SUCCESS;
}

/* The digest is taken of what the file says, not of the buffer; a beginning found at a start is
 * caught up with here too. */
static void write_work(struct repl_job *job)
{
    struct site_intake *intake = job->context;
    intake->result = buffer_write(intake, &intake->err);
    if (repl_ok(intake->result) && intake->digest != NULL)
        intake->result =
            repl_segment_digest_follow(intake->digest, site_read_at, &intake->fd,
                                       intake->written + intake->writing.size, &intake->err);
}

static void intake_discard(struct site_intake *intake)
{
    intake->filling.size = 0;
    intake->flush = false;
}

static void write_done(struct repl_job *job)
{
    struct site_intake *intake = job->context;
    site_job_ended(intake->site);
    intake->busy = false;
    if (repl_ok(intake->result))
        written_set(intake, intake->written + intake->writing.size);
    else
        intake_discard(intake);
    intake->writing.size = 0;
    site_intake_push(intake);
    intake->moved(intake);
}

static void intake_write(struct site_intake *intake)
{
    struct repl_buffer full = intake->filling;
    intake->filling = intake->writing;
    intake->writing = full;
    intake->busy = true;
    intake->job = (struct repl_job){.work = write_work, .done = write_done, .context = intake};
    site_job_start(intake->site, &intake->job);
}

static bool intake_is_due(const struct site_intake *intake)
{
    return intake->filling.size >= buffer_size(intake) ||
           (intake->flush && intake->filling.size > 0);
}

static void intake_pause(struct site_intake *intake, bool pause)
{
    if (intake->paused == pause)
        return;
    intake->paused = pause;
    struct site_request *feeder = intake->feeder;
    if (feeder == NULL || feeder->exchange == NULL || feeder->answered)
        return;
    if (pause)
        repl_exchange_pause(feeder->exchange);
    else
        repl_exchange_resume(feeder->exchange);
}

repl_result site_intake_put(struct site_intake *intake, const void *data, size_t size,
                            struct repl_error *err)
{
    return repl_buffer_append(&intake->filling, data, size, err);
}

void site_intake_push(struct site_intake *intake)
{
    if (intake_is_due(intake) && !intake->busy)
        intake_write(intake);
    intake_pause(intake, intake->filling.size >= buffer_size(intake));
}

void site_intake_flush(struct site_intake *intake)
{
    intake->flush = true;
    site_intake_push(intake);
}

bool site_intake_is_idle(const struct site_intake *intake)
{
    return !intake->busy && !intake_is_due(intake);
}

uint64_t site_intake_size(const struct site_intake *intake)
{
    return intake->written + intake->writing.size + intake->filling.size;
}

struct intake_end {
    struct repl_site *site;
    struct repl_job job;
    int fd;
};

static void end_work(struct repl_job *job)
{
    struct intake_end *end = job->context;
    close(end->fd);
}

static void end_done(struct repl_job *job)
{
    struct intake_end *end = job->context;
    site_job_ended(end->site);
    free(end);
}

/* Closing the last descriptor of a removed file frees its blocks, which takes its time where it was
 * large. */
static void file_end(struct repl_site *site, int fd)
{
    struct intake_end *end = calloc(1, sizeof *end);
    if (end == NULL) {
        close(fd);
        return;
    }
    *end = (struct intake_end){.site = site, .fd = fd};
    end->job = (struct repl_job){.work = end_work, .done = end_done, .context = end};
    site_job_start(site, &end->job);
}

void site_intake_close(struct site_intake *intake, bool remove)
{
    ensure(!intake->busy);
    intake_discard(intake);
    intake->feeder = NULL;
    if (intake->fd < 0)
        return;
    int fd = intake->fd;
    intake->fd = -1;
    intake->site->intakes--;
    repl_buffer_fini(&intake->filling);
    repl_buffer_fini(&intake->writing);
    written_set(intake, 0);
    if (!remove) {
        close(fd);
        return;
    }
    unlink(intake->path); /* what is left over, the next start removes */
    file_end(intake->site, fd);
}

void site_intake_fini(struct site_intake *intake)
{
    site_intake_close(intake, false);
    repl_buffer_fini(&intake->filling);
    repl_buffer_fini(&intake->writing);
}

repl_result site_read_at(void *context, uint64_t offset, void *out, size_t size,
                         struct repl_error *err)
{
    const int *fd = context;
    ssize_t got = repl_read_full(*fd, out, size, offset);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read the staged segment");
    if ((size_t)got < size)
        return repl_fail(err, REPL_E_CORRUPT, "the segment ends at byte %llu",
                         (unsigned long long)offset + (uint64_t)got);
    return REPL_SUCCESS;
}
