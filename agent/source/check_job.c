#include "source/check_job.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "block/read_full.h"
#include "segment/segment_verify.h"
#include "source/spool.h"

struct check_job {
    struct repl_job job;
    int fd;
    uint64_t number;
    struct repl_digest digest;
    repl_check_fn *done;
    void *context;
    repl_result result;
    struct repl_error err;
};

static repl_result read_at(void *context, uint64_t offset, void *out, size_t size,
                           struct repl_error *err)
{
    const struct check_job *job = context;
    ssize_t got = repl_read_full(job->fd, out, size, offset);
    if (got != (ssize_t)size)
        return repl_fail_errno(err, REPL_E_IO, got < 0 ? errno : EIO,
                               "reading %zu bytes of it at byte %llu", size,
                               (unsigned long long)offset);
    return REPL_SUCCESS;
}

static repl_result segment_check(struct check_job *job, struct repl_error *err)
{
    struct repl_frame_coder *coder;
    struct repl_segment *segment = NULL;
    struct stat status;
    if (fstat(job->fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "it cannot be examined");
    REPL_TRY(repl_frame_coder_new(&coder, err));
    repl_result result = repl_segment_open(read_at, job, (uint64_t)status.st_size, &segment, err);
    if (repl_ok(result))
        result = repl_segment_verify(segment, coder, err);
    if (repl_ok(result) && !repl_digest_equal(&segment->footer.digest, &job->digest))
        result = repl_fail(err, REPL_E_CORRUPT, "it is another segment than was built");
    repl_segment_free(segment);
    repl_frame_coder_free(coder);
    return result;
}

static void job_work(struct repl_job *base)
{
    struct check_job *job = base->context;
    char name[REPL_SPOOL_NAME_SIZE];
    repl_spool_name(job->number, "seg", name);
    job->result = repl_forward(segment_check(job, &job->err), &job->err, "spool: %s", name);
}

static void job_done(struct repl_job *base)
{
    struct check_job *job = base->context;
    close(job->fd);
    job->done(job->context, job->number, job->result, &job->err);
    free(job);
}

repl_result repl_check_job_start(struct repl_loop *loop, int fd, uint64_t number,
                                 const struct repl_digest *digest, repl_check_fn *done,
                                 void *context, struct repl_error *err)
{
    struct check_job *job = malloc(sizeof *job);
    if (job == NULL) {
        close(fd);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for looking at a segment");
    }
    *job = (struct check_job){
        .fd = fd, .number = number, .digest = *digest, .done = done, .context = context};
    job->job = (struct repl_job){.work = job_work, .done = job_done, .context = job};
    repl_loop_work(loop, &job->job);
    return REPL_SUCCESS;
}
