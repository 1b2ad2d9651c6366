/*
 * A site as an origin, over TLS.
 *
 * Each reading thread takes a connection out of a small pool for the length of
 * one request. Segments are read through a cache of blocks, so that opening a
 * small segment is one request and a restore does not make one for each page.
 *
 * A restore of hours must not end with a link that is away for a moment: what
 * may work later is tried again for about a minute, unless stop is called. A
 * site that has not answered once is said to be away at once.
 */
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/ensure.h"
#include "base/limits.h"
#include "format/segment_format.h"
#include "recover/block_cache.h"
#include "recover/origin.h"
#include "segment/segment_chain.h"
#include "store/segment_name.h"

#define FETCHERS_MAX      8u
#define CACHE_BLOCKS      128u
#define VERIFIED_SIZE_MAX (256u << 20) /* of some 5 million segments */
#define LISTINGS_MAX      4u
#define ATTEMPTS_MAX      7u /* waits of 1, 2, 4, 8, 16 and 32 s between them */
#define ATTEMPTS_FEW      4u /* 1, 2 and 4 s */

_Static_assert(FETCHERS_MAX < CACHE_BLOCKS, "every load finds a slot");

struct site_origin {
    struct repl_origin base;
    char *address, *key_path;
    struct repl_client_options options;
    atomic_bool stopped;
    atomic_bool reached;   /* it has answered before */
    atomic_bool no_slices; /* it is too old for them */
    pthread_mutex_t mutex; /* guards the fetchers */
    pthread_cond_t idle;
    struct repl_fetcher *free_fetchers[FETCHERS_MAX];
    size_t free_count, made_count;
    struct repl_block_cache *cache;
};

/* --- requests -------------------------------------------------------------------------------- */

static repl_result fetcher_take(struct site_origin *origin, struct repl_fetcher **out,
                                struct repl_error *err)
{
    pthread_mutex_lock(&origin->mutex);
    while (origin->free_count == 0 && origin->made_count == FETCHERS_MAX)
        pthread_cond_wait(&origin->idle, &origin->mutex);
    bool make = origin->free_count == 0;
    if (make)
        origin->made_count++;
    else
        *out = origin->free_fetchers[--origin->free_count];
    pthread_mutex_unlock(&origin->mutex);
    if (!make)
        return REPL_SUCCESS;
    repl_result result = repl_fetcher_new(&origin->options, out, err);
    if (!repl_ok(result)) {
        pthread_mutex_lock(&origin->mutex);
        origin->made_count--;
        pthread_cond_signal(&origin->idle);
        pthread_mutex_unlock(&origin->mutex);
    }
    return result;
}

static void fetcher_give(struct site_origin *origin, struct repl_fetcher *fetcher)
{
    pthread_mutex_lock(&origin->mutex);
    origin->free_fetchers[origin->free_count++] = fetcher;
    pthread_cond_signal(&origin->idle);
    pthread_mutex_unlock(&origin->mutex);
}

struct answer {
    int status;
    char *body;
    size_t size;
};

/* An answer that is no success, as the error it means. */
static repl_result answer_refused(const struct site_origin *origin, const struct answer *answer,
                                  struct repl_error *err)
{
    struct repl_refusal refusal;
    if (repl_ok(repl_refusal_decode(answer->body, answer->size, &refusal, NULL)))
        return repl_forward(repl_refusal_raise(&refusal, err), err, "%s", origin->base.label);
    return repl_fail(err, answer->status >= 500 ? REPL_E_RETRY : REPL_E_REFUSED,
                     "%s answered with status %d and nothing this program understands: is it a "
                     "repl site of this version?",
                     origin->base.label, answer->status);
}

/* body: NULL to read, a message to be taken else. */
static repl_result exchange(struct site_origin *origin, const char *path, const char *range,
                            const struct repl_buffer *body, size_t limit, struct answer *out,
                            struct repl_error *err)
{
    struct repl_fetcher *fetcher;
    *out = (struct answer){0};
    REPL_TRY(fetcher_take(origin, &fetcher, err));
    repl_result result = repl_fetch(fetcher, body != NULL ? "POST" : "GET", path, range,
                                    body != NULL ? body->data : NULL, body != NULL ? body->size : 0,
                                    limit, &out->status, &out->body, &out->size, err);
    fetcher_give(origin, fetcher);
    if (repl_ok(result) && out->status != 200 && out->status != 206)
        result = answer_refused(origin, out, err);
    if (!repl_ok(result)) {
        free(out->body);
        out->body = NULL;
    }
    return result;
}

static repl_result fetch_once(struct site_origin *origin, const char *path, const char *range,
                              size_t limit, struct answer *out, struct repl_error *err)
{
    return exchange(origin, path, range, NULL, limit, out, err);
}

/* Waits, in short steps, so that stop is heard. False: stopped. */
static bool wait_seconds(const struct site_origin *origin, unsigned seconds)
{
    for (unsigned i = 0; i < seconds * 10; i++) {
        if (atomic_load(&origin->stopped))
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return true;
}

static repl_result ask(struct site_origin *origin, const char *path, const char *range,
                       const struct repl_buffer *body, size_t limit, struct answer *out,
                       struct repl_error *err)
{
    unsigned attempts = origin->base.impatient ? ATTEMPTS_FEW : ATTEMPTS_MAX;
    for (unsigned attempt = 1;; attempt++) {
        repl_result result = exchange(origin, path, range, body, limit, out, err);
        if (repl_ok(result))
            atomic_store(&origin->reached, true);
        if (result.code != REPL_E_RETRY || !atomic_load(&origin->reached))
            return result;
        if (attempt == attempts && origin->base.impatient)
            atomic_store(&origin->reached, false);
        if (attempt == attempts || !wait_seconds(origin, 1u << (attempt - 1)))
            return result;
    }
}

static repl_result fetch(struct site_origin *origin, const char *path, const char *range,
                         size_t limit, struct answer *out, struct repl_error *err)
{
    return ask(origin, path, range, NULL, limit, out, err);
}

/* --- the catalogue --------------------------------------------------------------------------- */

/* Adds count elements behind an array. */
static repl_result append(void **array, size_t *count, const void *more, size_t more_count,
                          size_t element_size, struct repl_error *err)
{
    void *larger = reallocarray(*array, *count + more_count + 1, element_size);
    if (larger == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the list of a volume");
    memcpy((uint8_t *)larger + *count * element_size, more, more_count * element_size);
    *array = larger;
    *count += more_count;
    return REPL_SUCCESS;
}

static repl_result no_progress(const struct site_origin *origin, struct repl_error *err)
{
    return repl_fail(err, REPL_E_CORRUPT, "%s lists the same entries again and again",
                     origin->base.label);
}

/* A site of an older release has no timeline, and does not say more than that there is none. */
static repl_result points_fetch(struct site_origin *origin, uint64_t after, bool *counted,
                                struct repl_points_page *page, struct repl_error *err)
{
    char path[512];
    struct answer answer;
    repl_result result = repl_fail(err, REPL_E_MISSING, "no timeline");
    if (*counted) {
        snprintf(path, sizeof path, "/v1/volumes/%s/timeline/%llu", origin->base.volume,
                 (unsigned long long)after);
        result = fetch(origin, path, NULL, REPL_MESSAGE_SIZE_MAX, &answer, err);
    }
    *counted = result.code != REPL_E_MISSING;
    if (!*counted) {
        snprintf(path, sizeof path, "/v1/volumes/%s/points/%llu", origin->base.volume,
                 (unsigned long long)after);
        result = fetch(origin, path, NULL, REPL_MESSAGE_SIZE_MAX, &answer, err);
    }
    REPL_TRY(result);
    result = *counted ? repl_timeline_decode(answer.body, answer.size, page, err)
                      : repl_points_page_decode(answer.body, answer.size, page, err);
    free(answer.body);
    return repl_forward(result, err, "%s", origin->base.label);
}

static repl_result points_page(struct site_origin *origin, struct repl_catalogue *out,
                               bool *counted, bool *more, struct repl_error *err)
{
    uint64_t after = out->point_count > 0 ? out->points[out->point_count - 1].point.seq : 0;
    struct repl_points_page page = {0};
    repl_result result = REPL_SUCCESS;
    REPL_TRY(points_fetch(origin, after, counted, &page, err));
    for (uint32_t i = 0; i < page.count && repl_ok(result); i++) {
        if (page.entries[i].point.seq <= after)
            result = no_progress(origin, err);
        after = page.entries[i].point.seq;
    }
    *more = page.more && page.count > 0;
    if (repl_ok(result) && page.count > 0)
        result = append((void **)&out->points, &out->point_count, page.entries, page.count,
                        sizeof *page.entries, err);
    repl_points_page_fini(&page);
    return result;
}

static repl_result segments_page(struct site_origin *origin, struct repl_catalogue *out, bool *more,
                                 struct repl_error *err)
{
    struct repl_head after = {0};
    if (out->segment_count > 0)
        after = out->segments[out->segment_count - 1].head;
    char path[512];
    snprintf(path, sizeof path, "/v1/volumes/%s/segments/after/%llu.%u", origin->base.volume,
             (unsigned long long)after.to_seq, after.part);
    struct answer answer;
    struct repl_segments_page page = {0};
    REPL_TRY(fetch(origin, path, NULL, REPL_MESSAGE_SIZE_MAX, &answer, err));
    repl_result result = repl_segments_page_decode(answer.body, answer.size, &page, err);
    free(answer.body);
    REPL_TRY(repl_forward(result, err, "%s", origin->base.label));
    for (uint32_t i = 0; i < page.count && repl_ok(result); i++) {
        const struct repl_head *head = &page.entries[i].head;
        if (head->to_seq < after.to_seq ||
            (head->to_seq == after.to_seq && head->part <= after.part))
            result = no_progress(origin, err);
        after = *head;
    }
    *more = page.more && page.count > 0;
    if (repl_ok(result) && page.count > 0)
        result = append((void **)&out->segments, &out->segment_count, page.entries, page.count,
                        sizeof *page.entries, err);
    repl_segments_page_fini(&page);
    return result;
}

static repl_result supplies_list(struct site_origin *origin, struct repl_catalogue *out,
                                 struct repl_error *err)
{
    char path[512];
    struct answer answer;
    snprintf(path, sizeof path, "/v1/volumes/%s/supplies", origin->base.volume);
    REPL_TRY(fetch(origin, path, NULL, 64u << 20, &answer, err));
    json_error_t json_error;
    json_t *list = json_loadb(answer.body, answer.size, JSON_REJECT_DUPLICATES, &json_error);
    free(answer.body);
    repl_result result = REPL_SUCCESS;
    if (!json_is_array(list))
        result = repl_fail(err, REPL_E_CORRUPT, "%s: its list of supplies is not one",
                           origin->base.label);
    for (size_t i = 0; repl_ok(result) && i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        struct repl_segment_id id;
        if (text == NULL || !repl_segment_id_parse(text, &id) || id.supply == 0)
            result = repl_fail(err, REPL_E_CORRUPT, "%s: its list of supplies has no id at %zu",
                               origin->base.label, i);
        else
            result = append((void **)&out->supplies, &out->supply_count, &id, 1, sizeof id, err);
    }
    json_decref(list);
    return result;
}

/* What can be restored does not depend on it: what goes wrong is noted. */
static void marks_list(struct site_origin *origin, struct repl_catalogue *out)
{
    char path[512];
    struct answer answer;
    struct repl_marks marks = {0};
    struct repl_error err;
    snprintf(path, sizeof path, "/v1/volumes/%s/marks", origin->base.volume);
    repl_result result = fetch_once(origin, path, NULL, REPL_MESSAGE_SIZE_MAX, &answer, &err);
    if (repl_ok(result)) {
        result = repl_marks_decode(answer.body, answer.size, &marks, &err);
        free(answer.body);
    }
    out->names_unknown = !repl_ok(result);
    if (out->names_unknown && result.code != REPL_E_MISSING) /* else it is of an older release */
        snprintf(out->note, sizeof out->note, "the names of points could not be read: %.300s",
                 err.text);
    out->marks = marks.marks;
    out->mark_count = marks.count;
}

/* Whether each segment can be the next: pieces of the base stand beside others of it. */
static bool segments_meet(const struct repl_catalogue *c)
{
    for (size_t i = 0; i < c->segment_count; i++) {
        const struct repl_segments_entry *entry = &c->segments[i];
        const struct repl_head *head = &entry->head, *before = i > 0 ? &entry[-1].head : NULL;
        bool base = head->from_seq == 0 && entry->merge != 0 && !entry->begins;
        bool meets = before == NULL ? head->from_seq == 0
                     : base
                         ? before->from_seq == 0
                         : repl_segment_follows(before, head->from_seq, head->to_seq, head->part);
        if (!meets)
            return false;
    }
    return true;
}

/* Segments after points: what is committed meanwhile is then listed as a segment without its
 * point, which harms nobody, and not the other way round. */
static repl_result points_and_segments(struct site_origin *origin, struct repl_catalogue *out,
                                       struct repl_error *err)
{
    bool counted = true;
    repl_catalogue_fini(out);
    for (bool more = true; more;)
        REPL_TRY(points_page(origin, out, &counted, &more, err));
    for (bool more = true; more;)
        REPL_TRY(segments_page(origin, out, &more, err));
    return REPL_SUCCESS;
}

/* What is merged between two pages has taken the place of segments of the first one: the list is
 * read again. One that still does not meet is as the site has it. */
static repl_result site_catalogue(struct repl_origin *base, struct repl_catalogue *out,
                                  struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    REPL_TRY(points_and_segments(origin, out, err));
    for (unsigned i = 1; i < LISTINGS_MAX && !segments_meet(out); i++)
        REPL_TRY(points_and_segments(origin, out, err));
    REPL_TRY(supplies_list(origin, out, err));
    marks_list(origin, out);
    return REPL_SUCCESS;
}

/* --- files ----------------------------------------------------------------------------------- */

static void segment_path(const struct site_origin *origin, const struct repl_segment_id *id,
                         char path[512])
{
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    repl_segment_id_text(id, text);
    snprintf(path, 512, "/v1/volumes/%s/segments/%s", origin->base.volume, text);
}

/* Only supplies are asked for: the catalogue has the sizes of segments. A file's footer says how
 * long the file is. */
static repl_result site_size(struct repl_origin *base, const struct repl_segment_id *id,
                             uint64_t *size, struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    char path[512], range[16];
    struct answer answer;
    struct repl_segment_footer footer;
    segment_path(origin, id, path);
    snprintf(range, sizeof range, "-%u", REPL_SEGMENT_FOOTER_SIZE);
    REPL_TRY(fetch(origin, path, range, REPL_SEGMENT_HARD_LIMIT, &answer, err));
    repl_result result = REPL_SUCCESS;
    if (answer.status == 200) {
        *size = answer.size;
    } else {
        result =
            repl_segment_footer_decode((const uint8_t *)answer.body, answer.size, &footer, err);
        *size = repl_ok(result) ? footer.file_size : 0;
    }
    free(answer.body);
    return repl_forward(result, err, "%s: %s", base->label, path);
}

static repl_result block_fetch(void *context, const struct repl_segment_id *id, uint64_t offset,
                               void *out, size_t size, struct repl_error *err)
{
    struct site_origin *origin = context;
    char path[512], range[64];
    struct answer answer;
    REPL_TRY(repl_origin_fetch(&origin->base, size, err));
    segment_path(origin, id, path);
    snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)offset,
             (unsigned long long)(offset + size - 1));
    REPL_TRY(fetch(origin, path, range, 2 * REPL_CACHE_BLOCK_SIZE, &answer, err));
    repl_result result = REPL_SUCCESS;
    /* 200 is the whole file: right only if that is what was asked for. */
    if (answer.size != size || (answer.status == 200 && offset != 0))
        result = repl_fail(err, REPL_E_CORRUPT, "%s: %zu bytes of %s came where %zu were asked for",
                           origin->base.label, answer.size, path, size);
    else
        memcpy(out, answer.body, size);
    free(answer.body);
    return result;
}

static repl_result site_read_at(struct repl_origin *base, const struct repl_segment_id *id,
                                uint64_t file_size, uint64_t offset, void *out, size_t size,
                                struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    return repl_block_cache_read(origin->cache, id, file_size, offset, out, size, err);
}

static repl_result site_chunks(struct repl_origin *base, const struct repl_digest *names,
                               uint32_t count, void *out, struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    struct repl_buffer body = {0};
    struct answer answer;
    char path[512];
    size_t size = (size_t)count * REPL_CHUNK_SIZE;
    REPL_TRY(repl_origin_fetch(base, size, err));
    snprintf(path, sizeof path, "/v1/volumes/%s/chunks", base->volume);
    repl_result result = repl_wanted_encode(names, count, &body, err);
    if (repl_ok(result))
        result = ask(origin, path, NULL, &body, size, &answer, err);
    repl_buffer_fini(&body);
    REPL_TRY(result);
    if (answer.size != size)
        result =
            repl_fail(err, REPL_E_CORRUPT, "%s: %zu bytes of chunks came where %zu were asked for",
                      base->label, answer.size, size);
    else
        memcpy(out, answer.body, size);
    free(answer.body);
    return result;
}

static repl_result slices_unpack(const struct site_origin *origin, const struct answer *answer,
                                 const struct repl_slices *wanted, struct repl_frame_coder *coder,
                                 void *out, struct repl_error *err)
{
    struct repl_sliced sliced;
    REPL_TRY(repl_forward(repl_sliced_decode(answer->body, answer->size, &sliced, err), err, "%s",
                          origin->base.label));
    if (sliced.frame.raw_size != repl_slices_size(wanted->slices, wanted->count))
        return repl_fail(err, REPL_E_CORRUPT, "%s: other parts of a frame came than were asked for",
                         origin->base.label);
    return repl_forward(repl_frame_decode(coder, &sliced.frame, sliced.stored, out, err), err, "%s",
                        origin->base.label);
}

static repl_result site_slices(struct repl_origin *base, const struct repl_segment_id *id,
                               const struct repl_slices *wanted, struct repl_frame_coder *coder,
                               void *out, struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    struct repl_buffer body = {0};
    struct answer answer;
    char path[512 + sizeof "/slices"];
    if (atomic_load(&origin->no_slices))
        return repl_fail(err, REPL_E_VERSION, "%s is of an older release", base->label);
    segment_path(origin, id, path);
    strcat(path, "/slices");
    repl_result result = repl_slices_encode(wanted, &body, err);
    if (repl_ok(result))
        result = ask(origin, path, NULL, &body, REPL_MESSAGE_SIZE_MAX, &answer, err);
    repl_buffer_fini(&body);
    if (result.code == REPL_E_MISSING) { /* or the segment is gone, which reading it will say */
        atomic_store(&origin->no_slices, true);
        return repl_fail(err, REPL_E_VERSION, "%s is of an older release", base->label);
    }
    REPL_TRY(result);
    result = repl_origin_fetch(base, answer.size, err);
    if (repl_ok(result))
        result = slices_unpack(origin, &answer, wanted, coder, out, err);
    free(answer.body);
    return result;
}

static repl_result site_tails(struct repl_origin *base, const struct repl_unopened *unopened,
                              void **out_body, struct repl_tails *out, struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    struct repl_buffer body = {0};
    struct answer answer;
    char path[512];
    snprintf(path, sizeof path, "/v1/volumes/%s/tails", base->volume);
    repl_result result = repl_unopened_encode(unopened, &body, err);
    if (repl_ok(result))
        result = ask(origin, path, NULL, &body, REPL_MESSAGE_SIZE_MAX, &answer, err);
    repl_buffer_fini(&body);
    if (result.code == REPL_E_MISSING)
        return repl_fail(err, REPL_E_VERSION, "%s is of an older release", base->label);
    REPL_TRY(result);
    result = repl_origin_fetch(base, answer.size, err);
    if (repl_ok(result))
        result = repl_forward(repl_tails_decode(answer.body, answer.size, out, err), err, "%s",
                              base->label);
    if (repl_ok(result))
        *out_body = answer.body;
    else
        free(answer.body);
    return result;
}

/* Whether there is an answer to that question about the volume. */
static bool answers(struct site_origin *origin, const char *what)
{
    char path[512];
    struct answer answer;
    struct repl_error ignored;
    snprintf(path, sizeof path, "/v1/volumes/%s/%s", origin->base.volume, what);
    bool answered =
        repl_ok(fetch_once(origin, path, NULL, REPL_MESSAGE_SIZE_MAX, &answer, &ignored));
    if (answered)
        free(answer.body);
    return answered;
}

/* Of a site that does not know a path: it has the volume. */
static bool is_too_old(struct site_origin *origin)
{
    return answers(origin, "points/18446744073709551615");
}

static repl_result site_verified(struct repl_origin *base, struct repl_verified_list *out,
                                 struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    char path[512];
    struct answer answer;
    size_t whole;
    snprintf(path, sizeof path, "/v1/volumes/%s/verified", base->volume);
    REPL_TRY(fetch(origin, path, NULL, VERIFIED_SIZE_MAX, &answer, err));
    repl_result result =
        repl_verified_list_read((const uint8_t *)answer.body, answer.size, out, &whole, err);
    if (repl_ok(result) && whole < answer.size) {
        repl_verified_list_fini(out);
        result = repl_fail(err, REPL_E_CORRUPT,
                           "%s: what it says of what it has verified is damaged", base->label);
    }
    free(answer.body);
    return result;
}

static repl_result site_damaged(struct repl_origin *base, struct repl_damaged *out,
                                struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    char path[512];
    struct answer answer;
    snprintf(path, sizeof path, "/v1/volumes/%s/damaged", base->volume);
    REPL_TRY(fetch(origin, path, NULL, REPL_MESSAGE_SIZE_MAX, &answer, err));
    repl_result result = repl_damaged_decode(answer.body, answer.size, out, err);
    free(answer.body);
    return result;
}

static repl_result site_digests(struct repl_origin *base, uint64_t first_page, uint32_t page_count,
                                struct repl_digests *out, struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    char path[512];
    struct answer answer;
    snprintf(path, sizeof path, "/v1/volumes/%s/replica/%llu.%u", base->volume,
             (unsigned long long)first_page, page_count);
    repl_result result = fetch(origin, path, NULL, REPL_MESSAGE_SIZE_MAX, &answer, err);
    if (result.code == REPL_E_MISSING && is_too_old(origin))
        return repl_fail(err, REPL_E_VERSION,
                         "%s is of an older release, which cannot say what its replica holds: "
                         "upgrade it",
                         base->label);
    REPL_TRY(result);
    result = repl_forward(repl_digests_decode(answer.body, answer.size, out, err), err, "%s",
                          base->label);
    free(answer.body);
    REPL_TRY(result);
    if (out->at.point.seq == 0 || (out->first_page == first_page && out->count <= page_count))
        return REPL_SUCCESS;
    repl_digests_fini(out);
    return repl_fail(err, REPL_E_CORRUPT, "%s answered for other pages than were asked for",
                     base->label);
}

static repl_result site_mark(struct repl_origin *base, const struct repl_mark *mark,
                             struct repl_error *err)
{
    struct site_origin *origin = (struct site_origin *)base;
    struct repl_buffer body = {0};
    struct answer answer;
    struct repl_ack ack;
    char path[512];
    snprintf(path, sizeof path, "/v1/volumes/%s/mark", base->volume);
    REPL_TRY(repl_mark_encode(mark, &body, err));
    repl_result result = exchange(origin, path, NULL, &body, REPL_MESSAGE_SIZE_MAX, &answer, err);
    repl_buffer_fini(&body);
    if (result.code == REPL_E_MISSING && !answers(origin, "marks") && is_too_old(origin))
        return repl_fail(err, REPL_E_VERSION,
                         "%s is of an older release, which knows no names of points: upgrade it",
                         base->label);
    REPL_TRY(result);
    result = repl_ack_decode(answer.body, answer.size, &ack, err);
    free(answer.body);
    return repl_forward(result, err, "%s", base->label);
}

static void site_stop(struct repl_origin *base)
{
    struct site_origin *origin = (struct site_origin *)base;
    atomic_store(&origin->stopped, true);
    repl_throttle_stop(base->throttle);
}

static void site_close(struct repl_origin *base)
{
    struct site_origin *origin = (struct site_origin *)base;
    repl_block_cache_free(origin->cache);
    ensure(origin->free_count == origin->made_count); /* no thread reads any more */
    for (size_t i = 0; i < origin->free_count; i++)
        repl_fetcher_free(origin->free_fetchers[i]);
    pthread_cond_destroy(&origin->idle);
    pthread_mutex_destroy(&origin->mutex);
    free(origin->address);
    free(origin->key_path);
    free(origin);
}

static const struct repl_origin_ops site_origin_ops = {
    .close = site_close,
    .catalogue = site_catalogue,
    .size = site_size,
    .read_at = site_read_at,
    .tails = site_tails,
    .slices = site_slices,
    .chunks = site_chunks,
    .digests = site_digests,
    .verified = site_verified,
    .damaged = site_damaged,
    .mark = site_mark,
    .stop = site_stop,
};

repl_result repl_origin_open_site(const struct repl_client_options *options, const char *volume,
                                  struct repl_origin **out, struct repl_error *err)
{
    struct site_origin *origin = calloc(1, sizeof *origin);
    if (origin == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the site %s", options->address);
    origin->base.ops = &site_origin_ops;
    snprintf(origin->base.volume, sizeof origin->base.volume, "%s", volume);
    snprintf(origin->base.label, sizeof origin->base.label, "the site %s", options->address);
    pthread_mutex_init(&origin->mutex, NULL);
    pthread_cond_init(&origin->idle, NULL);
    origin->address = strdup(options->address);
    origin->key_path = strdup(options->key_path);
    origin->options = *options;
    origin->options.address = origin->address;
    origin->options.key_path = origin->key_path;
    repl_result result =
        origin->address == NULL || origin->key_path == NULL
            ? repl_fail(err, REPL_E_NOMEM, "out of memory for the site %s", options->address)
            : repl_block_cache_new(CACHE_BLOCKS, block_fetch, origin, &origin->cache, err);
    if (!repl_ok(result)) {
        site_close(&origin->base);
        return result;
    }
    *out = &origin->base;
    return REPL_SUCCESS;
}
