/*
 * Whom damage harms by what is referred to: the points of volumes of the pool that
 * are made of chunks which lie in what is damaged, and nowhere else.
 *
 * A volume is made of such a chunk from the segment that refers to it until all of
 * it has been said anew, or a full comes; then it may be referred to again. Of what
 * the volume has still, the source is asked to send the pages once more, as of other
 * damage (scrub_resend.c): it knows the chunk by name, is told that it is missing, and
 * supplies it, which mends whatever else refers to it.
 */
#include <stdlib.h>
#include <string.h>

#include "site/scrub/scrub_internal.h"
#include "site/site_chain.h"
#include "store/segment_name.h"

void scrub_harms_free(struct scrub_harm *harms)
{
    while (harms != NULL) {
        struct scrub_harm *next = harms->next;
        free(harms->runs);
        repl_extent_map_fini(&harms->pages);
        free(harms);
        harms = next;
    }
}

static void harm_append(struct scrub_harm **harms, struct scrub_harm *harm)
{
    while (*harms != NULL)
        harms = &(*harms)->next;
    *harms = harm;
}

static void harm_remove(struct scrub_harm **at)
{
    struct scrub_harm *harm = *at;
    *at = harm->next;
    harm->next = NULL;
    scrub_harms_free(harm);
}

/* --- of one volume --------------------------------------------------------------------------- */

struct history {
    const struct repl_digest *names;
    size_t name_count;
    struct scrub_harm *harm;
    bool harmed; /* the last point was, by the last run */
};

static repl_result record_apply(void *context, const struct repl_record *record,
                                struct repl_error *err)
{
    struct history *h = context;
    if (record->object != REPL_OBJECT_DEVICE || record->length == 0)
        return REPL_SUCCESS;
    const struct repl_extent extent = {
        .offset = record->offset, .length = record->length, .type = REPL_RECORD_DATA};
    if (record->type == REPL_RECORD_CHUNK && bsearch(&record->chunk, h->names, h->name_count,
                                                     sizeof *h->names, repl_digest_order) != NULL)
        return repl_extent_map_put(&h->harm->pages, &extent, err);
    if (record->type != REPL_RECORD_CHUNK && record->type != REPL_RECORD_DATA &&
        record->type != REPL_RECORD_ZERO)
        return REPL_SUCCESS;
    return repl_extent_map_cut(&h->harm->pages, record->offset, record->length, err);
}

static repl_result point_note(struct history *h, uint64_t seq, struct repl_error *err)
{
    struct scrub_harm *harm = h->harm;
    bool before = h->harmed;
    h->harmed = harm->pages.extent_count > 0;
    if (!h->harmed)
        return REPL_SUCCESS;
    if (harm->runs == NULL)
        harm->runs = calloc(SCRUB_HARM_RUNS_MAX, sizeof *harm->runs);
    if (harm->runs == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for points");
    if (!before && harm->run_count < SCRUB_HARM_RUNS_MAX)
        harm->runs[harm->run_count++].first_seq = seq;
    harm->runs[harm->run_count - 1].last_seq = seq;
    return REPL_SUCCESS;
}

/* ids: of those that refer to the names. A segment that cannot be read is damaged itself, which is
 * said of it; what it has said is not known. */
static repl_result entry_apply(struct history *h, struct scrub_visit *visit,
                               struct repl_frame_coder *coder, const struct repl_segment_id *id,
                               struct repl_error *err)
{
    struct repl_error why = {.text = ""};
    repl_result result =
        scrub_manifest_walk(visit, h->harm->volume, id, coder, record_apply, h, &why);
    return repl_ok(result) || scrub_is_damage(result) ? REPL_SUCCESS
                                                      : repl_fail(err, result.code, "%s", why.text);
}

static bool refers(const struct repl_chunk_referrer *list, size_t count,
                   const struct repl_segment_id *id)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = repl_segment_id_order(&list[middle].segment, id);
        if (order == 0)
            return true;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* list: the volume's that refer to the names, by id. */
static repl_result history_walk(struct history *h, struct scrub_visit *visit,
                                const struct repl_chunk_referrer *list, size_t count,
                                const struct repl_chain *chain, struct repl_error *err)
{
    struct repl_frame_coder *coder;
    REPL_TRY(repl_frame_coder_new(&coder, err));
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; i < chain->count && repl_ok(result); i++) {
        const struct repl_log_piece *entry = &chain->entries[i];
        const struct repl_segment_id id = {
            .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
        if (entry->begins) {
            repl_extent_map_fini(&h->harm->pages);
            repl_extent_map_init(&h->harm->pages);
        }
        if (h->harm->pages.extent_count > 0 || refers(list, count, &id))
            result = entry_apply(h, visit, coder, &id, err);
        if (repl_ok(result) && repl_chain_has_point(chain, i))
            result = point_note(h, entry->commit.to_seq, err);
    }
    repl_frame_coder_free(coder);
    return result;
}

static repl_result volume_find(struct scrub_visit *visit, const struct repl_segment_id *damaged,
                               const struct repl_digest *names, size_t name_count,
                               const struct repl_chunk_referrer *list, size_t count,
                               struct repl_error *err)
{
    struct repl_chain chain;
    struct scrub_harm *harm = calloc(1, sizeof *harm);
    if (harm == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for what refers to a segment");
    struct history h = {.names = names, .name_count = name_count, .harm = harm};
    memcpy(harm->volume, list[0].volume, sizeof harm->volume);
    memcpy(harm->by, visit->volume, sizeof harm->by);
    harm->id = *damaged;
    repl_extent_map_init(&harm->pages);
    repl_chain_init(&chain);
    repl_result result = site_chain_read(visit->index, harm->volume, &chain, err);
    if (repl_ok(result))
        result = history_walk(&h, visit, list, count, &chain, err);
    repl_chain_fini(&chain);
    if (!repl_ok(result) || harm->run_count == 0) {
        scrub_harms_free(harm);
        return result;
    }
    harm_append(&visit->harms, harm);
    return REPL_SUCCESS;
}

repl_result scrub_harm_find(struct scrub_visit *visit, const struct repl_segment_id *id,
                            const struct repl_digest *names, size_t count, struct repl_error *err)
{
    struct repl_buffer referrers = {0};
    for (struct scrub_harm **at = &visit->harms; *at != NULL;) { /* it was looked at before */
        if (repl_segment_id_order(&(*at)->id, id) == 0)
            harm_remove(at);
        else
            at = &(*at)->next;
    }
    repl_result result = scrub_referrers_list(visit, names, count, &referrers, err);
    const struct repl_chunk_referrer *list = (const void *)referrers.data;
    size_t referrer_count = referrers.size / sizeof *list;
    for (size_t i = 0, end; i < referrer_count && repl_ok(result); i = end) {
        for (end = i + 1; end < referrer_count && strcmp(list[end].volume, list[i].volume) == 0;)
            end++;
        result = volume_find(visit, id, names, count, &list[i], end - i, err);
    }
    repl_buffer_fini(&referrers);
    return result;
}

/* --- all that is known ----------------------------------------------------------------------- */

/* Whether what is known of it is what an earlier visit has found: still damaged, and not looked at
 * by this one. */
static bool is_kept(const struct scrub_visit *visit, const struct scrub_harm *harm)
{
    if (strcmp(harm->by, visit->volume) != 0 || !visit->looked)
        return true;
    for (size_t i = 0; i < visit->damage_count; i++) {
        if (repl_segment_id_order(&visit->damages[i].id, &harm->id) == 0)
            return !visit->damages[i].looked;
    }
    return false;
}

void scrub_harms_put(struct scrub_harm **harms, struct scrub_visit *visit)
{
    for (struct scrub_harm **at = harms; *at != NULL;) {
        if (is_kept(visit, *at))
            at = &(*at)->next;
        else
            harm_remove(at);
    }
    harm_append(harms, visit->harms);
    visit->harms = NULL;
}

void scrub_harms_forget(struct scrub_harm **harms, const char *volume)
{
    while (*harms != NULL) {
        if (strcmp((*harms)->volume, volume) == 0 || strcmp((*harms)->by, volume) == 0)
            harm_remove(harms);
        else
            harms = &(*harms)->next;
    }
}
