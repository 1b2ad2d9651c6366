#include "source/recover_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "base/hash.h"
#include "base/limits.h"
#include "segment/segment_reader.h"

struct repl_recover_job {
    struct repl_job job;
    struct repl_client_options client;
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_head from, head;
    repl_recover_fn *done;
    void *context;
    struct repl_fetcher *fetcher;
    struct repl_frame_coder *coder;
    struct repl_buffer extents;
    bool reached; /* head was among the segments the site listed */
    repl_result result;
    struct repl_error err;
};

struct remote_segment {
    struct repl_recover_job *job;
    char path[256];
};

/* One GET; anything but the wanted status is an error with the site's words. */
static repl_result get(struct repl_recover_job *job, const char *path, const char *range,
                       char **response, size_t *size, struct repl_error *err)
{
    int status;
    REPL_TRY(repl_fetch(job->fetcher, "GET", path, range, NULL, 0,
                        REPL_INDEX_SIZE_MAX + REPL_MESSAGE_SIZE_MAX, &status, response, size, err));
    if (status == 200 || status == 206)
        return REPL_SUCCESS;
    struct repl_refusal refusal;
    repl_result result = repl_refusal_decode(*response, *size, &refusal, err);
    result = repl_ok(result) ? repl_refusal_raise(&refusal, err)
                             : repl_fail(err, REPL_E_RETRY, "the site answered %s with status %d",
                                         path, status);
    free(*response);
    *response = NULL;
    return result;
}

static repl_result remote_read_at(void *context, uint64_t offset, void *out, size_t size,
                                  struct repl_error *err)
{
    struct remote_segment *segment = context;
    char range[64], *response;
    size_t got;
    if (size == 0)
        return REPL_SUCCESS;
    snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)offset,
             (unsigned long long)(offset + size - 1));
    REPL_TRY(get(segment->job, segment->path, range, &response, &got, err));
    bool whole = got == size;
    if (whole)
        memcpy(out, response, size);
    free(response);
    return whole ? REPL_SUCCESS
                 : repl_fail(err, REPL_E_RETRY, "the site sent %zu of %zu bytes", got, size);
}

static repl_result manifest_collect(struct repl_recover_job *job,
                                    const struct repl_segment *segment, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record;
    repl_result result;
    repl_record_walk_begin(&walk, segment, job->coder);
    for (bool done = false;;) {
        result = repl_record_walk_next(&walk, &record, &done, err);
        if (!repl_ok(result) || done || record.object != REPL_OBJECT_DEVICE)
            break; /* behind a tree's space there are no extents */
        if (record.type == REPL_RECORD_OBJECT)
            continue;
        struct repl_recovered_extent extent = {record.offset, record.length};
        result = repl_buffer_append(&job->extents, &extent, sizeof extent, err);
        if (!repl_ok(result))
            break;
    }
    repl_record_walk_end(&walk);
    return result;
}

static repl_result segment_collect(struct repl_recover_job *job,
                                   const struct repl_segments_entry *entry, struct repl_error *err)
{
    struct remote_segment remote = {.job = job};
    struct repl_segment *segment;
    snprintf(remote.path, sizeof remote.path, "/v1/volumes/%s/segments/%llu.%u", job->volume,
             (unsigned long long)entry->head.to_seq, entry->head.part);
    REPL_TRY(repl_segment_open(remote_read_at, &remote, entry->file_size, &segment, err));
    repl_result result = manifest_collect(job, segment, err);
    if (repl_ok(result) && !repl_digest_equal(&segment->footer.digest, &entry->head.digest))
        result = repl_fail(err, REPL_E_CORRUPT,
                           "the site's segment %llu.%u is not the one it "
                           "lists",
                           (unsigned long long)entry->head.to_seq, entry->head.part);
    repl_segment_free(segment);
    return result;
}

static repl_result page_collect(struct repl_recover_job *job, uint64_t *to_seq, uint32_t *part,
                                bool *more, struct repl_error *err)
{
    char path[256], *response;
    size_t size;
    struct repl_segments_page page;
    snprintf(path, sizeof path, "/v1/volumes/%s/segments/after/%llu.%u", job->volume,
             (unsigned long long)*to_seq, *part);
    REPL_TRY(get(job, path, NULL, &response, &size, err));
    repl_result result = repl_segments_page_decode(response, size, &page, err);
    free(response);
    for (uint32_t i = 0; repl_ok(result) && i < page.count; i++) {
        const struct repl_segments_entry *entry = &page.entries[i];
        result = segment_collect(job, entry, err);
        *to_seq = entry->head.to_seq;
        *part = entry->head.part;
        if (repl_digest_equal(&entry->head.digest, &job->head.digest))
            job->reached = true;
    }
    *more = page.more && page.count > 0;
    repl_segments_page_fini(&page);
    return result;
}

static repl_result recover(struct repl_recover_job *job, struct repl_error *err)
{
    uint64_t to_seq = job->from.to_seq;
    uint32_t part = job->from.part;
    REPL_TRY(repl_frame_coder_new(&job->coder, err));
    REPL_TRY(repl_fetcher_new(&job->client, &job->fetcher, err));
    for (bool more = true; more && !job->reached;)
        REPL_TRY(page_collect(job, &to_seq, &part, &more, err));
    if (!job->reached)
        return repl_fail(err, REPL_E_RETRY,
                         "the site does not list segment %llu.%u, which it said its history ends "
                         "in",
                         (unsigned long long)job->head.to_seq, job->head.part);
    return REPL_SUCCESS;
}

static void recover_work(struct repl_job *job)
{
    struct repl_recover_job *r = job->context;
    r->result = repl_forward(recover(r, &r->err), &r->err, "asking the site what it holds");
    repl_fetcher_free(r->fetcher);
    repl_frame_coder_free(r->coder);
}

static void recover_finish(struct repl_job *job)
{
    struct repl_recover_job *r = job->context;
    r->done(r->context, r->result, &r->err, (const void *)r->extents.data,
            r->extents.size / sizeof(struct repl_recovered_extent));
    repl_buffer_fini(&r->extents);
    free(r);
}

repl_result repl_recover_job_start(struct repl_loop *loop, const struct repl_client_options *client,
                                   const char *volume, const struct repl_head *from,
                                   const struct repl_head *head, repl_recover_fn *done,
                                   void *context, struct repl_recover_job **out,
                                   struct repl_error *err)
{
    struct repl_recover_job *r = calloc(1, sizeof *r);
    if (r == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for recovering");
    r->client = *client;
    snprintf(r->volume, sizeof r->volume, "%s", volume);
    r->from = *from;
    r->head = *head;
    r->done = done;
    r->context = context;
    r->job = (struct repl_job){.work = recover_work, .done = recover_finish, .context = r};
    *out = r;
    repl_loop_work(loop, &r->job);
    return REPL_SUCCESS;
}
