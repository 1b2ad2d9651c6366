#include "source/coalesce_job.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/read_full.h"
#include "segment/segment_merge.h"
#include "segment/segment_reader.h"
#include "segment/segment_verify.h"
#include "source/spool.h"

/* A file of the spool; opened for each read, as a long run has more files than there are
 * descriptors to be had. */
struct part {
    struct repl_coalesce_job *job;
    uint64_t number;
};

struct repl_coalesce_job {
    struct repl_job job;
    int dir_fd;
    struct part *parts;
    size_t count;
    struct part merged;
    int fd; /* of the merged one, while it is written */
    atomic_bool cancelled;
    repl_coalesce_fn *done;
    void *context;
    struct repl_coalesce_result result;
};

static repl_result part_read(void *context, uint64_t offset, void *out, size_t size,
                             struct repl_error *err)
{
    const struct part *part = context;
    char name[REPL_SPOOL_NAME_SIZE];
    if (atomic_load(&part->job->cancelled))
        return repl_fail(err, REPL_E_RETRY, "the volume is being closed");
    repl_spool_name(part->number, REPL_SPOOL_SEGMENT, name);
    int fd = openat(part->job->dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "spool: %s", name);
    ssize_t got = repl_read_full(fd, out, size, offset);
    int failed = got < 0 ? errno : EIO;
    close(fd);
    if (got != (ssize_t)size)
        return repl_fail_errno(err, REPL_E_IO, failed, "spool: reading %s", name);
    return REPL_SUCCESS;
}

static repl_result merged_write(void *context, const void *data, size_t size,
                                struct repl_error *err)
{
    struct repl_coalesce_job *job = context;
    for (const uint8_t *from = data; size > 0;) {
        ssize_t put = write(job->fd, from, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                                   "spool: writing a merged segment");
        from += put;
        size -= (size_t)put;
    }
    return REPL_SUCCESS;
}

static repl_result part_open(struct part *part, struct repl_segment **out, struct repl_error *err)
{
    char name[REPL_SPOOL_NAME_SIZE];
    struct stat status;
    repl_spool_name(part->number, REPL_SPOOL_SEGMENT, name);
    if (fstatat(part->job->dir_fd, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "spool: %s", name);
    return repl_segment_open(part_read, part, (uint64_t)status.st_size, out, err);
}

static repl_result parts_merge(struct repl_coalesce_job *job, struct repl_error *err)
{
    struct repl_segment **segments = calloc(job->count, sizeof *segments);
    if (segments == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for merging the spool");
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; repl_ok(result) && i < job->count; i++)
        result = part_open(&job->parts[i], &segments[i], err);
    if (repl_ok(result)) {
        const struct repl_merge_options options = {
            .segments = (const struct repl_segment *const *)segments,
            .segment_count = job->count,
            .sink = merged_write,
            .sink_context = job,
        };
        struct repl_merge_report report;
        result = repl_segment_merge(&options, &report, err);
        job->result.header = report.header;
        job->result.footer = report.footer;
        job->result.input_bytes = report.input_size_bytes;
    }
    for (size_t i = 0; i < job->count; i++)
        repl_segment_free(segments[i]);
    free(segments);
    return result;
}

/* The run is given up for it. */
static repl_result merged_verify(struct repl_coalesce_job *job, struct repl_error *err)
{
    struct repl_segment *segment = NULL;
    struct repl_frame_coder *coder = NULL;
    REPL_TRY(part_open(&job->merged, &segment, err));
    repl_result result = repl_frame_coder_new(&coder, err);
    if (repl_ok(result))
        result = repl_segment_verify(segment, coder, err);
    repl_frame_coder_free(coder);
    repl_segment_free(segment);
    return result;
}

static void job_work(struct repl_job *base)
{
    struct repl_coalesce_job *job = base->context;
    struct repl_error *err = &job->result.err;
    char name[REPL_SPOOL_NAME_SIZE];
    repl_spool_name(job->merged.number, REPL_SPOOL_SEGMENT, name);
    job->fd = openat(job->dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (job->fd < 0) {
        job->result.result = repl_fail_errno(err, REPL_E_IO, errno, "spool: making %s", name);
        return;
    }
    job->result.result = parts_merge(job, err);
    close(job->fd);
    if (repl_ok(job->result.result))
        job->result.result = merged_verify(job, err);
    if (!repl_ok(job->result.result))
        unlinkat(job->dir_fd, name, 0);
}

static void job_done(struct repl_job *base)
{
    struct repl_coalesce_job *job = base->context;
    job->done(job->context, &job->result);
    free(job->parts);
    free(job);
}

repl_result repl_coalesce_job_start(struct repl_loop *loop, int dir_fd, const uint64_t *numbers,
                                    size_t count, uint64_t into, repl_coalesce_fn *done,
                                    void *context, struct repl_coalesce_job **out,
                                    struct repl_error *err)
{
    struct repl_coalesce_job *job = calloc(1, sizeof *job);
    struct part *parts = calloc(count, sizeof *parts);
    if (job == NULL || parts == NULL) {
        free(job);
        free(parts);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for merging the spool");
    }
    for (size_t i = 0; i < count; i++)
        parts[i] = (struct part){.job = job, .number = numbers[i]};
    *job = (struct repl_coalesce_job){.dir_fd = dir_fd,
                                      .parts = parts,
                                      .count = count,
                                      .merged = {.job = job, .number = into},
                                      .done = done,
                                      .context = context,
                                      .result = {.into = into}};
    job->job = (struct repl_job){.work = job_work, .done = job_done, .context = job};
    repl_loop_work(loop, &job->job);
    *out = job;
    return REPL_SUCCESS;
}

void repl_coalesce_job_cancel(struct repl_coalesce_job *job)
{
    atomic_store(&job->cancelled, true);
}
