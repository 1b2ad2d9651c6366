/*
 * Volumes that the index knows and the store has no more, as somebody has removed
 * them. While the site runs, whoever relies on a chunk of another volume looks whether
 * its segment is there. At a start, what is known of them is forgotten, so that nobody is told that
 * a chunk lies there, and so that a new volume of that name begins with nothing.
 *
 * What others of the pool hold of the same chunks is found again: the index has one
 * place for each chunk, so theirs are named once more before that of the volume goes.
 * And nothing of the pool is dropped until the next start: should the volume have
 * been away by mistake, its references are back with it by then.
 *
 * Of a volume whose log cannot be read the index may know the pool.
 */
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "site/site_gate.h"
#include "site/site_volume.h"
#include "store/segment_name.h"

/* --- while the site runs: is there what the index says ---------------------------------------- */

struct seen_segment {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id id;
    bool looked, there;
};

static int seen_order(const void *a, const void *b)
{
    const struct seen_segment *x = a, *y = b;
    int order = strcmp(x->volume, y->volume);
    return order != 0 ? order : repl_segment_id_order(&x->id, &y->id);
}

void site_seen_fini(struct site_seen *seen)
{
    tdestroy(seen->segments, free);
    seen->segments = NULL;
}

static repl_result seen_find(struct site_seen *seen, const struct repl_chunk_place *place,
                             struct seen_segment **out, struct repl_error *err)
{
    struct seen_segment *made = calloc(1, sizeof *made), **found = NULL;
    if (made != NULL) {
        memcpy(made->volume, place->volume, sizeof made->volume);
        made->id = place->segment;
        found = tsearch(made, &seen->segments, seen_order);
    }
    if (found == NULL || *found != made)
        free(made);
    if (found == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for a list of segments");
    *out = *found;
    return REPL_SUCCESS;
}

static repl_result segment_look(const struct site_volume *v, struct seen_segment *segment,
                                struct repl_error *err)
{
    struct repl_store *store = v->site->store;
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    struct repl_error why = {.text = "it is not in the store"};
    repl_result result = REPL_SUCCESS;
    if (!site_volume_is_gone(v->site, segment->volume))
        result =
            store->ops->segment_look(store, segment->volume, &segment->id, &segment->there, &why);
    else
        snprintf(why.text, sizeof why.text, "that volume is damaged");
    if (!repl_ok(result) && result.code != REPL_E_IO) {
        *err = why;
        return result;
    }
    segment->looked = true;
    if (segment->there)
        return REPL_SUCCESS;
    atomic_store(&v->site->watch.suspects, true);
    repl_segment_id_text(&segment->id, text);
    repl_log(LOG_WARNING,
             "volume %s: chunks that it refers to are to lie in segment %s of volume %s, which has "
             "been removed or cannot be read (%s): its source is asked for them. What referred to "
             "them before, repl verify says",
             v->name, text, segment->volume, why.text);
    return REPL_SUCCESS;
}

/* Of a volume's own segments the chain speaks: a commit behind one that is not there is of no use.
 */
static bool is_own(const struct site_volume *v, const struct repl_chunk_place *place)
{
    return place->segment.supply == 0 && strcmp(place->volume, v->name) == 0;
}

repl_result site_place_look(const struct site_volume *v, const struct repl_chunk_place *place,
                            struct site_seen *seen, bool *there, struct repl_error *err)
{
    struct seen_segment *segment = NULL;
    *there = true;
    if (is_own(v, place))
        return REPL_SUCCESS;
    REPL_TRY(seen_find(seen, place, &segment, err));
    if (!segment->looked)
        REPL_TRY(segment_look(v, segment, err));
    *there = segment->there;
    return REPL_SUCCESS;
}

bool site_place_seen(const struct site_volume *v, const struct repl_chunk_place *place,
                     const struct site_seen *seen)
{
    struct seen_segment key = {.id = place->segment};
    memcpy(key.volume, place->volume, sizeof key.volume);
    struct seen_segment *const *found = tfind(&key, &seen->segments, seen_order);
    return is_own(v, place) || (found != NULL && (*found)->there);
}

/* --- at a start ------------------------------------------------------------------------------- */

static void places_renew(struct site_volume *v)
{
    struct repl_error err;
    struct site_gate *gate;
    if (v->damaged[0] != '\0' || v->journal.pool[0] == '\0')
        return;
    repl_result result = site_gate_of(v, &gate, &err);
    if (repl_ok(result)) {
        gate->keeps = true;
        result = site_index_places(v, &err);
    }
    if (!repl_ok(result))
        repl_log(
            LOG_WARNING,
            "volume %s: chunks that it shares with a volume which is gone may not be found: %s: "
            "stop the site, remove its index.lmdb, start it",
            v->name, err.text);
}

static repl_result member_forget(struct repl_site *site, const struct repl_index_member *gone,
                                 const struct repl_index_member *members, size_t count,
                                 struct repl_error *err)
{
    repl_log(
        LOG_WARNING,
        "volume %s is not in the store any more: what the index has of it is forgotten. If it is "
        "there again, start the site again; if others of its tenant refer to chunks that lay in "
        "it, repl verify says so",
        gone->volume);
    for (size_t i = 0; i < count; i++) {
        struct site_volume *v = site_find_volume(site, members[i].volume);
        if (v != NULL && members[i].pool == gone->pool)
            places_renew(v);
    }
    return repl_index_drop(site->index, gone->volume, err);
}

repl_result site_members_check(struct repl_site *site, struct repl_error *err)
{
    struct repl_index_member *members;
    size_t count;
    REPL_TRY(repl_index_members(site->index, &members, &count, err));
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; i < count && repl_ok(result); i++) {
        struct site_volume *v = site_find_volume(site, members[i].volume);
        if (v == NULL)
            result = member_forget(site, &members[i], members, count, err);
        else
            memcpy(v->index_pool, members[i].pool_name, sizeof v->index_pool);
        if (v != NULL && v->damaged[0] != '\0')
            site_volume_gone(site, v->name);
    }
    free(members);
    return result;
}
