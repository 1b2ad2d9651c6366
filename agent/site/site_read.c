/*
 * What may be read of a journal: points, names, segments, their bytes, supplies.
 *
 * Each is one job on a worker, as index and store may wait for a disk. Only what
 * is committed is shown; supplies are, as soon as they are stored.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "block/read_full.h"
#include "journal/scrub_plan.h"
#include "site/site_chain.h"
#include "site/site_volume.h"
#include "store/verified_file.h"

#define RANGE_SIZE      64
#define READ_AHEAD_SIZE (1 << 20)
#define FETCH_SIZE      (1u << 20)

struct site_read {
    struct repl_job job;
    struct site_request *request;
    struct repl_point last; /* and how long it has been the present, newer than the index has it */
    int64_t unchanged_until_ns;
    char range[RANGE_SIZE]; /* as much of it as fits */
    bool range_long;        /* not all of it does: it may mean something else than its beginning */
    /* the answer */
    repl_result result;
    struct repl_error err;
    struct repl_buffer body;
    const char *content_type;
    int fd; /* >= 0: bytes of a file */
    uint64_t offset, size, total;
    bool range_bad;
    struct repl_missing wanted;
    struct repl_slices slices;
    struct repl_unopened unopened;
    char pool[REPL_VOLUME_NAME_SIZE + 1]; /* that the volume is of; "": it shares with nobody */
    struct repl_uuid id;                  /* the volume's */
};

/* --- on a worker ----------------------------------------------------------------------------- */

static repl_result points_read(struct site_read *read, struct repl_error *err)
{
    const struct site_request *request = read->request;
    struct repl_points_page page;
    REPL_TRY(
        repl_index_points(request->site->index, request->ask.name, request->ask.after, &page, err));
    for (uint32_t i = 0; i < page.count; i++) {
        struct repl_points_entry *entry = &page.entries[i];
        if (entry->point.seq == read->last.seq &&
            entry->unchanged_until_ns < read->unchanged_until_ns)
            entry->unchanged_until_ns = read->unchanged_until_ns;
    }
    repl_result result = request->ask.kind == SITE_REQUEST_TIMELINE
                             ? repl_timeline_encode(&page, &read->body, err)
                             : repl_points_page_encode(&page, &read->body, err);
    repl_points_page_fini(&page);
    return result;
}

static repl_result segments_read(struct site_read *read, struct repl_error *err)
{
    const struct site_request *request = read->request;
    struct repl_segments_page page;
    REPL_TRY(repl_index_segments(request->site->index, request->ask.name, request->ask.id.to_seq,
                                 request->ask.id.part, &page, err));
    repl_result result = repl_segments_page_encode(&page, &read->body, err);
    repl_segments_page_fini(&page);
    return result;
}

/* Out of a store without files: the bytes asked for, in a file without a name. */
static repl_result range_fetch(struct site_read *read, struct repl_stored_segment *file,
                               struct repl_error *err)
{
    const struct site_request *request = read->request;
    REPL_TRY(site_scratch_open(request->site, request->ask.name, &read->fd, err));
    uint8_t *piece = read->range_bad ? NULL : malloc(FETCH_SIZE);
    repl_result result = REPL_SUCCESS;
    if (piece == NULL && !read->range_bad)
        result = repl_fail(err, REPL_E_RETRY, "no memory for bytes of %s just now", file->label);
    for (uint64_t done = 0; piece != NULL && repl_ok(result) && done < read->size;) {
        size_t size = read->size - done < FETCH_SIZE ? (size_t)(read->size - done) : FETCH_SIZE;
        result = file->read_at(file, read->offset + done, piece, size, err);
        if (repl_ok(result) && !repl_write_full(read->fd, piece, size, read->offset + done))
            result =
                repl_fail_errno(err, REPL_E_RETRY, errno, "cannot keep bytes of %s", file->label);
        done += size;
    }
    free(piece);
    if (!repl_ok(result)) {
        close(read->fd);
        read->fd = -1;
    }
    return result;
}

static repl_result segment_read(struct site_read *read, struct repl_error *err)
{
    const struct site_request *request = read->request;
    struct repl_store *store = request->site->store;
    struct repl_stored_segment *file;
    REPL_TRY(store->ops->segment_open(store, request->ask.name, &request->ask.id, 0, &file, err));
    read->total = read->size = file->size;
    read->range_bad = read->range[0] != '\0' &&
                      (read->range_long ||
                       !site_range_parse(read->range, file->size, &read->offset, &read->size));
    repl_result result = REPL_SUCCESS;
    if (file->fd >= 0)
        read->fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0);
    else
        result = range_fetch(read, file, err);
    file->close(file);
    if (repl_ok(result) && read->fd < 0)
        result = repl_fail(err, REPL_E_RETRY, "no descriptor for a segment just now");
    REPL_TRY(result);
    /* The answer is read on the loop's thread, which should not wait for the disk. */
    posix_fadvise(read->fd, (off_t)read->offset,
                  read->size < READ_AHEAD_SIZE ? (off_t)read->size : READ_AHEAD_SIZE,
                  POSIX_FADV_WILLNEED);
    return REPL_SUCCESS;
}

static repl_result supply_note(void *context, const struct repl_segment_id *id, uint64_t size,
                               struct repl_error *err)
{
    char text[64];
    (void)size;
    if (id->supply == 0)
        return REPL_SUCCESS;
    snprintf(text, sizeof text, "%" PRIu64 ".%" PRIu32 ".%" PRIu32, id->to_seq, id->part,
             id->supply);
    if (json_array_append_new(context, json_string(text)) != 0)
        return repl_fail(err, REPL_E_NOMEM, "no memory for a list of supplies");
    return REPL_SUCCESS;
}

static repl_result json_write(struct site_read *read, const json_t *json, struct repl_error *err)
{
    char *text = json == NULL ? NULL : json_dumps(json, JSON_COMPACT);
    if (text == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for an answer");
    repl_result result = repl_buffer_append(&read->body, text, strlen(text), err);
    free(text);
    read->content_type = "application/json";
    return result;
}

static repl_result supplies_read(struct site_read *read, struct repl_error *err)
{
    const struct site_request *request = read->request;
    struct repl_store *store = request->site->store;
    json_t *list = json_array();
    repl_result result =
        list == NULL ? repl_fail(err, REPL_E_NOMEM, "no memory for a list of supplies")
                     : store->ops->segments(store, request->ask.name, supply_note, list, err);
    if (repl_ok(result))
        result = json_write(read, list, err);
    json_decref(list);
    return result;
}

static repl_result marks_read(struct site_read *read, struct repl_error *err)
{
    const struct site_request *request = read->request;
    struct site_marks marks;
    REPL_TRY(site_marks_read(request->site, request->ask.name, 0, &marks, err));
    const struct repl_marks message = {.count = (uint32_t)marks.count, .marks = marks.marks};
    repl_result result = repl_marks_encode(&message, &read->body, err);
    site_marks_fini(&marks);
    return result;
}

static repl_result verified_read(struct site_read *read, struct repl_error *err)
{
    const struct site_request *request = read->request;
    struct repl_verified_file file;
    struct repl_verified_list list = {0};
    struct repl_chain chain;
    REPL_TRY(repl_verified_file_read(request->site->store, request->ask.name, &file, err));
    repl_chain_init(&chain);
    repl_result result = site_chain_read(request->site->index, request->ask.name, &chain, err);
    if (repl_ok(result))
        result = repl_scrub_list(&chain, &file.list, repl_now_wall_ns(), &list, err);
    if (repl_ok(result))
        result = repl_verified_list_write(&list, &read->body, err);
    repl_verified_list_fini(&list);
    repl_verified_file_fini(&file);
    repl_chain_fini(&chain);
    return result;
}

static repl_result chunks_read(struct site_read *read, struct repl_error *err)
{
    const struct site_request *request = read->request;
    read->total = read->size = (uint64_t)read->wanted.count * REPL_CHUNK_SIZE;
    return site_chunks_read(request->site, request->ask.name, &read->wanted, &read->fd, err);
}

static repl_result pool_read(struct site_read *read, struct repl_error *err)
{
    const struct site_request *request = read->request;
    struct repl_uuid id = read->id;
    if (read->pool[0] != '\0')
        REPL_TRY(site_pool_id(read->pool, &id, err));
    return site_pool_read(request->site, request->ask.name, &id, request->ask.after, &read->body,
                          err);
}

static void read_work(struct repl_job *job)
{
    struct site_read *read = job->context;
    switch (read->request->ask.kind) {
    case SITE_REQUEST_POINTS:
    case SITE_REQUEST_TIMELINE:
        read->result = points_read(read, &read->err);
        return;
    case SITE_REQUEST_SEGMENTS:
        read->result = segments_read(read, &read->err);
        return;
    case SITE_REQUEST_SEGMENT:
        read->result = segment_read(read, &read->err);
        return;
    case SITE_REQUEST_MARKS:
        read->result = marks_read(read, &read->err);
        return;
    case SITE_REQUEST_VERIFIED:
        read->result = verified_read(read, &read->err);
        return;
    case SITE_REQUEST_CHUNKS:
        read->result = chunks_read(read, &read->err);
        return;
    case SITE_REQUEST_SLICES:
        read->result =
            site_slices_read(read->request->site, read->request->ask.name, &read->request->ask.id,
                             &read->slices, &read->body, &read->err);
        return;
    case SITE_REQUEST_TAILS:
        read->result = site_tails_read(read->request->site, read->request->ask.name,
                                       &read->unopened, &read->body, &read->err);
        return;
    case SITE_REQUEST_POOL:
        read->result = pool_read(read, &read->err);
        return;
    default:
        read->result = supplies_read(read, &read->err);
        return;
    }
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void segment_answer(struct site_read *read)
{
    struct site_request *request = read->request;
    if (read->range_bad) {
        close(read->fd);
        site_refuse_status(request, 416, REPL_REFUSAL_REQUEST,
                           "the range \"%s\" is not within the segment's %" PRIu64 " bytes",
                           read->range, read->total);
    } else if (request->exchange == NULL) {
        close(read->fd);
    } else {
        request->answered = true;
        repl_exchange_respond_file(request->exchange, 200, read->fd, read->offset, read->size,
                                   read->total);
    }
}

/* What is damaged is not there to be had, now or later. */
static void chunks_damaged(struct site_read *read)
{
    repl_log(LOG_ERR, "volume %s: %s", read->request->ask.name, read->err.text);
    site_refuse_text(read->request, REPL_REFUSAL_NOT_FOUND,
                     "a chunk that volume %s refers to is damaged: the site's log says where",
                     read->request->ask.name);
}

static void read_done(struct repl_job *job)
{
    struct site_read *read = job->context;
    struct site_request *request = read->request;
    site_job_ended(request->site);
    if (read->result.code == REPL_E_MISSING)
        site_refuse_text(request, REPL_REFUSAL_NOT_FOUND, "%.350s", read->err.text);
    else if (read->result.code == REPL_E_CORRUPT && request->ask.kind == SITE_REQUEST_CHUNKS)
        chunks_damaged(read);
    else if (read->result.code == REPL_E_CORRUPT && request->ask.kind == SITE_REQUEST_SLICES)
        site_refuse_text(request, REPL_REFUSAL_REQUEST, "%.350s", read->err.text);
    else if (!repl_ok(read->result))
        site_refuse_error(request, &read->err);
    else if (read->fd >= 0)
        segment_answer(read);
    else
        site_answer(request, 200, read->content_type, read->body.data, read->body.size);
    repl_buffer_fini(&read->body);
    repl_missing_fini(&read->wanted);
    repl_slices_fini(&read->slices);
    repl_unopened_fini(&read->unopened);
    request->read = NULL;
    free(read);
    site_request_unhold(request);
}

static bool is_committed(const struct site_volume *v, uint64_t to_seq, uint32_t part)
{
    const struct repl_head *head = &v->journal.head;
    return v->journal.has_head &&
           (to_seq < head->to_seq || (to_seq == head->to_seq && part <= head->part));
}

/* What is not complete must not pass for all there is. A pool's names are a guess anyway. */
static bool needs_index(enum site_request_kind kind)
{
    return kind == SITE_REQUEST_POINTS || kind == SITE_REQUEST_TIMELINE ||
           kind == SITE_REQUEST_SEGMENTS || kind == SITE_REQUEST_MARKS ||
           kind == SITE_REQUEST_VERIFIED || kind == SITE_REQUEST_CHUNKS;
}

/* False: it has been answered. */
static bool read_check(struct site_request *request)
{
    const struct site_volume *v = request->volume;
    bool segment =
        request->ask.kind == SITE_REQUEST_SEGMENT || request->ask.kind == SITE_REQUEST_SLICES;
    if (segment && request->ask.id.supply == 0 &&
        !is_committed(v, request->ask.id.to_seq, request->ask.id.part)) {
        site_refuse_text(request, REPL_REFUSAL_NOT_FOUND,
                         "segment %" PRIu64 ".%" PRIu32 " is not part of volume %s's history",
                         request->ask.id.to_seq, request->ask.id.part, v->name);
        return false;
    }
    if (v->index_behind && needs_index(request->ask.kind)) {
        site_refuse_text(request, REPL_REFUSAL_BUSY,
                         "the index of volume %s is not complete just now: try again later",
                         v->name);
        return false;
    }
    return true;
}

static repl_result body_decode(struct site_read *read, const struct site_request *request,
                               struct repl_error *err)
{
    const struct repl_buffer *body = &request->body;
    switch (request->ask.kind) {
    case SITE_REQUEST_CHUNKS:
        return repl_wanted_decode(body->data, body->size, &read->wanted, err);
    case SITE_REQUEST_SLICES:
        return repl_slices_decode(body->data, body->size, &read->slices, err);
    case SITE_REQUEST_TAILS:
        return repl_unopened_decode(body->data, body->size, &read->unopened, err);
    default:
        return REPL_SUCCESS;
    }
}

void site_read_begin(struct site_request *request)
{
    const struct site_volume *v = request->volume;
    const char *range = repl_exchange_header(request->exchange, "Range");
    struct repl_error err;
    if (!read_check(request))
        return;
    struct site_read *read = calloc(1, sizeof *read);
    if (read == NULL) {
        site_refuse_text(request, REPL_REFUSAL_BUSY, "the site is out of memory just now");
        return;
    }
    if (!repl_ok(body_decode(read, request, &err))) {
        free(read);
        site_refuse_text(request, REPL_REFUSAL_REQUEST, "%.350s", err.text);
        return;
    }
    for (uint32_t i = 0; i < read->unopened.count; i++) {
        struct repl_unopened_entry *entry = &read->unopened.entries[i];
        if (!is_committed(v, entry->to_seq, entry->part))
            *entry = (struct repl_unopened_entry){0}; /* which there is none of */
    }
    read->request = request;
    read->fd = -1;
    memcpy(read->pool, v->journal.pool, sizeof read->pool);
    read->id = v->journal.create.volume;
    read->last = v->journal.point;
    read->unchanged_until_ns = v->journal.unchanged_until_ns;
    if (range != NULL)
        read->range_long =
            (size_t)snprintf(read->range, sizeof read->range, "%s", range) >= sizeof read->range;
    read->job = (struct repl_job){.work = read_work, .done = read_done, .context = read};
    request->read = read;
    site_request_hold(request);
    site_job_start(request->site, &read->job);
}

void site_read_volumes(struct site_request *request)
{
    const struct repl_config_peer *peer =
        repl_config_find_peer(request->site->config, repl_exchange_peer(request->exchange));
    json_t *list = json_array();
    for (const struct site_volume *v = request->site->volumes; list != NULL && v != NULL;
         v = v->next) {
        bool shown =
            (v->journal.exists || v->damaged[0] != '\0') && site_peer_has_volume(peer, v->name);
        if (shown && json_array_append_new(list, json_string(v->name)) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    char *text = list == NULL ? NULL : json_dumps(list, JSON_COMPACT);
    json_decref(list);
    if (text == NULL)
        site_refuse_text(request, REPL_REFUSAL_BUSY, "the site is out of memory just now");
    else
        site_answer(request, 200, "application/json", text, strlen(text));
    free(text);
}
