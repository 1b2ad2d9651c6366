#include "site/scrub/scrub.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "control/status.h"
#include "site/compactor/compactor.h"
#include "site/scrub/scrub_internal.h"
#include "site/site_volume.h"
#include "store/segment_name.h"

#define NICE_MAX 19

/* Between visits of a volume, and how long one may read. */
#define VISIT_NS (INT64_C(3600) * 1000000000)
#define BATCH_NS (INT64_C(60) * 1000000000)

/* Merges that are noted until the next visit; of more than these the pieces are read again. */
#define MERGED_MAX 4096u

/* A damaged segment, of whichever volume. */
struct doubt {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id id;
};

struct site_scrub {
    struct repl_site *site;
    struct repl_pool *pool;
    atomic_bool stop;
    struct scrub_visit visit;
    bool out; /* the visit is on its thread */
    pthread_mutex_t doubts_mutex;
    struct doubt *doubts; /* in no order */
    size_t doubt_count;
    /* On the loop: */
    struct site_patch *patches;
    struct scrub_harm *harms;
};

/* --- whose turn it is ------------------------------------------------------------------------ */

static int64_t every_ns(const struct repl_site *site)
{
    return site->config->scrub_every_ms * 1000000;
}

static bool volume_may(const struct site_volume *v)
{
    return v->journal.exists && v->damaged[0] == '\0' && v->journal.has_head && !v->index_behind;
}

/* Of those that are due the one with what was read longest ago. */
static struct site_volume *volume_next(const struct site_scrub *s)
{
    struct site_volume *next = NULL;
    int64_t now_ns = repl_now_mono_ns();
    for (struct site_volume *v = s->site->volumes; v != NULL; v = v->next) {
        bool due = now_ns >= v->scrub.next_ns || scrub_resend_is_due(&v->scrub, now_ns);
        if (volume_may(v) && due && (next == NULL || v->scrub.oldest_ns < next->scrub.oldest_ns))
            next = v;
    }
    return next;
}

/* That of a tree is a directory, which says of no page of the space where it is. */
static void replica_find(const struct site_volume *v, char *path, size_t size)
{
    struct repl_replica_status status = {0};
    if (v->replica != NULL && v->journal.create.kind != REPL_VOLUME_TREE)
        repl_replica_look(v->replica, &status);
    snprintf(path, size, "%s", status.path);
}

/* Where there is no memory for them they are not named. */
static void mates_list(const struct site_volume *v, struct scrub_visit *visit)
{
    size_t count = v->journal.pool[0] != '\0' ? v->site->volume_count : 0;
    visit->mates = calloc(count + 1, sizeof *visit->mates);
    for (const struct site_volume *mate = v->site->volumes;
         mate != NULL && visit->mates != NULL && visit->mate_count < count; mate = mate->next) {
        if (mate == v || strcmp(mate->journal.pool, v->journal.pool) != 0)
            continue;
        struct scrub_mate *of = &visit->mates[visit->mate_count++];
        memcpy(of->volume, mate->name, sizeof of->volume);
        replica_find(mate, of->replica_path, sizeof of->replica_path);
    }
}

/* Without memory, what is gone of them is not seen. */
static void supplies_list(const struct site_volume *v, struct scrub_visit *visit)
{
    visit->supplies = calloc(v->supply_count + 1, sizeof *visit->supplies);
    for (size_t i = 0; i < v->supply_count && visit->supplies != NULL; i++)
        visit->supplies[visit->supply_count++] = v->supplies[i].id;
}

static void visit_done(struct repl_job *job);

static void visit_begin(struct site_scrub *s, struct site_volume *v)
{
    struct repl_site *site = s->site;
    struct scrub_of_volume *of = &v->scrub;
    int64_t now_ns = repl_now_mono_ns();
    s->visit = (struct scrub_visit){
        .owner = s,
        .store = site->store,
        .index = site->index,
        .every_ns = every_ns(site),
        .now_ns = repl_now_wall_ns(),
        .first = of->visited_ns == 0,
        .suspicion = of->suspicion,
        .again = scrub_resend_is_due(of, now_ns),
        .in_bucket = repl_store_is_bucket(site->config->store),
        .idle_ns = of->visited_ns == 0 ? VISIT_NS : now_ns - of->visited_ns,
        .rate_limit = site->config->scrub_rate_bytes,
        .credit = of->credit,
        .stop = &s->stop,
        .merging = site_compactor_merging(site->compactor),
        .merged = of->merged,
        .merged_count = of->merged_count,
        .batch_ns = BATCH_NS,
        .job = {.work = scrub_visit_work, .done = visit_done, .context = &s->visit}};
    memcpy(s->visit.volume, v->name, sizeof s->visit.volume);
    memcpy(s->visit.seen, of->damages, of->damage_count * sizeof *of->damages);
    s->visit.seen_count = of->damage_count;
    replica_find(v, s->visit.replica_path, sizeof s->visit.replica_path);
    mates_list(v, &s->visit);
    supplies_list(v, &s->visit);
    of->merged = NULL;
    of->merged_count = 0;
    of->visited_ns = now_ns;
    s->out = true;
    repl_pool_work(s->pool, &s->visit.job);
}

/* --- what is damaged, for other threads ------------------------------------------------------ */

bool site_scrub_doubts(struct site_scrub *s, const char *volume, const struct repl_segment_id *id)
{
    bool found = false;
    pthread_mutex_lock(&s->doubts_mutex);
    for (size_t i = 0; i < s->doubt_count && !found; i++)
        found = strcmp(s->doubts[i].volume, volume) == 0 &&
                repl_segment_id_order(&s->doubts[i].id, id) == 0;
    pthread_mutex_unlock(&s->doubts_mutex);
    return found;
}

/* Those of the visited volume are replaced. */
static void doubts_put(struct site_scrub *s, const struct scrub_visit *visit)
{
    pthread_mutex_lock(&s->doubts_mutex);
    size_t kept = 0;
    for (size_t i = 0; i < s->doubt_count; i++) {
        if (strcmp(s->doubts[i].volume, visit->volume) != 0)
            s->doubts[kept++] = s->doubts[i];
    }
    s->doubt_count = kept;
    struct doubt *larger =
        reallocarray(s->doubts, kept + visit->damage_count + 1, sizeof *s->doubts);
    if (larger != NULL)
        s->doubts = larger;
    for (size_t i = 0; i < visit->damage_count && larger != NULL; i++) {
        struct doubt *doubt = &s->doubts[s->doubt_count++];
        memcpy(doubt->volume, visit->volume, sizeof doubt->volume);
        doubt->id = visit->damages[i].id;
    }
    pthread_mutex_unlock(&s->doubts_mutex);
    if (larger == NULL)
        repl_log(LOG_ERR, "volume %s: no memory to keep in mind what of it is damaged",
                 visit->volume);
}

/* --- what stands in for what is damaged ------------------------------------------------------ */

static bool is_damaged(const struct scrub_visit *visit, const struct repl_segment_id *id)
{
    for (size_t i = 0; i < visit->damage_count; i++) {
        if (repl_segment_id_order(&visit->damages[i].id, id) == 0)
            return true;
    }
    return false;
}

/* What a visit has made takes the place of what one before it made of the same, and what is not
 * damaged any more needs none. */
static void patches_put(struct site_scrub *s, struct scrub_visit *visit)
{
    for (struct site_patch **at = &s->patches; *at != NULL;) {
        struct site_patch *patch = *at;
        bool again = false;
        for (const struct site_patch *p = visit->patches; p != NULL; p = p->next)
            again |= repl_segment_id_order(&p->id, &patch->id) == 0;
        if (strcmp(patch->volume, visit->volume) == 0 &&
            (again || (visit->looked && !is_damaged(visit, &patch->id)))) {
            *at = patch->next;
            site_patch_free(patch);
        } else {
            at = &patch->next;
        }
    }
    for (struct site_patch *patch; (patch = visit->patches) != NULL;) {
        visit->patches = patch->next;
        patch->next = s->patches;
        s->patches = patch;
    }
}

const struct site_patch *site_scrub_patch(const struct site_scrub *s, const char *volume)
{
    const struct site_patch *patch = s != NULL ? s->patches : NULL;
    while (patch != NULL && strcmp(patch->volume, volume) != 0)
        patch = patch->next;
    return patch;
}

/* --- what a visit has brought ---------------------------------------------------------------- */

static void problem_note(struct site_volume *v, const struct scrub_visit *visit)
{
    struct scrub_of_volume *of = &v->scrub;
    char text[sizeof of->problem] = "";
    if (!repl_ok(visit->outcome))
        snprintf(text, sizeof text, "%.350s", visit->err.text);
    if (text[0] != '\0' && strcmp(text, of->problem) != 0)
        repl_log(LOG_WARNING,
                 "volume %s: what is stored cannot be verified just now, and is later: %s", v->name,
                 text);
    memcpy(of->problem, text, sizeof of->problem);
}

static void volume_take(struct site_volume *v, struct scrub_visit *visit)
{
    struct scrub_of_volume *of = &v->scrub;
    bool again = visit->more && repl_ok(visit->outcome);
    of->next_ns = again ? 0 : of->visited_ns + VISIT_NS;
    if (of->suspicion.since_ns == visit->suspicion.since_ns && !again && repl_ok(visit->outcome))
        of->suspicion = (struct scrub_suspicion){0};
    else if (of->suspicion.since_ns != visit->suspicion.since_ns)
        of->next_ns = 0; /* raised meanwhile */
    of->read_bytes += visit->read_bytes;
    of->repaired_count += visit->repaired_count;
    of->credit = visit->credit;
    scrub_resend_take(v, visit);
    if (!visit->looked)
        return;
    of->known = visit->oldest_ns != INT64_MAX;
    of->looked = true;
    of->oldest_ns = visit->oldest_ns;
    of->damaged_count = visit->damaged_count;
    of->damage_count = visit->damage_count;
    memcpy(of->damages, visit->damages, sizeof of->damages);
}

/* What the volume has of chunks that are damaged, by whoever's segment, is asked of its source. */
static void harms_ask(const struct site_scrub *s, struct scrub_visit *visit)
{
    struct repl_error err;
    for (const struct scrub_harm *harm = s->harms; harm != NULL; harm = harm->next) {
        if (strcmp(harm->volume, visit->volume) != 0 || harm->pages.extent_count == 0)
            continue;
        visit->asks = true;
        repl_result added = scrub_resend_add(visit, &harm->pages, &err);
        if (!repl_ok(added))
            repl_log(LOG_ERR, "volume %s: what is damaged cannot be asked for: %s", visit->volume,
                     err.text);
    }
}

/* The volumes that are harmed are visited, to ask their sources; and where a source has been asked
 * for what is damaged in another volume, that is looked at again. */
static void harms_tell(struct site_scrub *s, const struct scrub_visit *visit)
{
    for (struct scrub_harm *harm = s->harms; harm != NULL; harm = harm->next) {
        bool found = strcmp(harm->by, visit->volume) == 0;
        bool harmed = strcmp(harm->volume, visit->volume) == 0;
        struct site_volume *other =
            found != harmed ? site_find_volume(s->site, found ? harm->volume : harm->by) : NULL;
        if (other != NULL && found && !harm->told)
            other->scrub.next_ns = 0;
        harm->told |= found;
        if (other != NULL && harmed && visit->again)
            other->scrub.resend_stale = true;
    }
}

static void turn_next(struct site_scrub *s)
{
    if (s->out || atomic_load(&s->stop) || s->site->config->scrub_every_ms == 0)
        return;
    struct site_volume *v = volume_next(s);
    if (v != NULL)
        visit_begin(s, v);
}

static void visit_done(struct repl_job *job)
{
    struct scrub_visit *visit = job->context;
    struct site_scrub *s = visit->owner;
    struct site_volume *v = site_find_volume(s->site, visit->volume);
    s->out = false;
    free(visit->merged);
    free(visit->mates);
    free(visit->supplies);
    visit->merged = NULL;
    visit->mates = NULL;
    visit->supplies = NULL;
    scrub_harms_put(&s->harms, visit);
    if (v == NULL) /* it has been removed meanwhile */
        scrub_harms_forget(&s->harms, visit->volume);
    if (v != NULL && !atomic_load(&s->stop)) {
        problem_note(v, visit);
        if (visit->looked)
            doubts_put(s, visit);
        harms_ask(s, visit);
        volume_take(v, visit);
        harms_tell(s, visit);
    }
    patches_put(s, visit);
    repl_extent_map_fini(&visit->wanted);
    turn_next(s);
}

void site_scrub_tick(struct site_scrub *s)
{
    turn_next(s);
}

/* --- of a volume ----------------------------------------------------------------------------- */

void site_scrub_merged(struct site_volume *v, uint64_t merge, int64_t time_ns)
{
    struct scrub_of_volume *of = &v->scrub;
    if (of->damaged_count > 0) /* and may not be part of the history any more */
        of->next_ns = 0;
    if (v->site->config->scrub_every_ms == 0 || of->merged_count == MERGED_MAX)
        return;
    struct scrub_merged *larger =
        reallocarray(of->merged, of->merged_count + 1, sizeof *of->merged);
    if (larger == NULL)
        return; /* read once more, then */
    of->merged = larger;
    larger[of->merged_count++] = (struct scrub_merged){.merge = merge, .time_ns = time_ns};
}

void site_scrub_suspect(struct site_volume *v, uint64_t first_seq, uint64_t last_seq)
{
    struct scrub_suspicion *known = &v->scrub.suspicion;
    bool more = known->since_ns != 0;
    *known = (struct scrub_suspicion){
        .first_seq = more && known->first_seq < first_seq ? known->first_seq : first_seq,
        .last_seq = more && known->last_seq > last_seq ? known->last_seq : last_seq,
        .since_ns = repl_now_wall_ns()};
    v->scrub.next_ns = 0;
}

void site_scrub_volume_fini(struct site_volume *v)
{
    if (v->site->scrub != NULL)
        scrub_harms_forget(&v->site->scrub->harms, v->name);
    free(v->scrub.merged);
    v->scrub.merged = NULL;
    repl_resend_fini(&v->scrub.resend);
}

void scrub_damage_points(const struct scrub_damage *damage, char *out, size_t size)
{
    if (damage->first_seq != 0)
        snprintf(out, size, "points %" PRIu64 " to %" PRIu64, damage->first_seq, damage->last_seq);
    else if (damage->refer_first != 0)
        snprintf(out, size, "points %" PRIu64 " to %" PRIu64 " that refer to its chunks",
                 damage->refer_first, damage->refer_last);
    else
        snprintf(out, size, "points that refer to its chunks");
}

/* "segment 12.0 (points 12 to 40)", and how many more. */
static void damage_text(const struct scrub_of_volume *of, char *out, size_t size)
{
    const struct scrub_damage *first = &of->damages[0];
    char id[REPL_SEGMENT_ID_TEXT_SIZE], more[48] = "", mates[192] = "", points[96];
    repl_segment_id_text(&first->id, id);
    if (of->damaged_count > 1)
        snprintf(more, sizeof more, ", and %" PRIu64 " more", of->damaged_count - 1);
    if (first->mates[0] != '\0')
        snprintf(mates, sizeof mates, "; and volumes that refer to its chunks: %s", first->mates);
    scrub_damage_points(first, points, sizeof points);
    snprintf(out, size, "%s %s (%s%s)%s", first->id.supply != 0 ? "supply" : "segment", id, points,
             mates, more);
}

/* The first that harms the volume, and is not its own; NULL: none. */
static const struct scrub_harm *harm_by_mate(const struct scrub_harm *harm, const char *volume)
{
    while (harm != NULL && (strcmp(harm->volume, volume) != 0 || strcmp(harm->by, volume) == 0))
        harm = harm->next;
    return harm;
}

/* "chunks in segment 12.0 of volume b (points 12 to 40)", and how many more. */
static void harm_text(const struct scrub_harm *harm, char *out, size_t size)
{
    char id[REPL_SEGMENT_ID_TEXT_SIZE], more[48] = "";
    size_t others = 0;
    repl_segment_id_text(&harm->id, id);
    for (const struct scrub_harm *next = harm;
         (next = harm_by_mate(next->next, harm->volume)) != NULL;)
        others++;
    if (others > 0)
        snprintf(more, sizeof more, ", and %zu more", others);
    snprintf(out, size, "chunks in %s %s of volume %s (points %" PRIu64 " to %" PRIu64 ")%s",
             harm->id.supply != 0 ? "supply" : "segment", id, harm->by, harm->runs[0].first_seq,
             harm->runs[harm->run_count - 1].last_seq, more);
}

static void harm_status(const struct site_volume *v, struct repl_volume_status *out)
{
    const struct scrub_harm *harm = harm_by_mate(v->site->scrub->harms, v->name);
    if (harm == NULL)
        return;
    harm_text(harm, out->damaged, sizeof out->damaged);
    if (out->state >= REPL_STATE_DEGRADED)
        return;
    out->state = REPL_STATE_DEGRADED;
    snprintf(out->cause, sizeof out->cause, "damaged in the store: %s may not restore exactly",
             out->damaged);
    snprintf(
        out->remedy, sizeof out->remedy,
        "bring the damaged file of volume %s back from a copy of the store, and it is looked at "
        "again within the hour. The source is asked for what has not changed since",
        harm->by);
}

void site_scrub_status(const struct site_volume *v, int64_t now_ns, struct repl_volume_status *out)
{
    const struct scrub_of_volume *of = &v->scrub;
    out->unverified_ms = of->known ? (now_ns - of->oldest_ns) / 1000000 : -1;
    if (out->unverified_ms < -1)
        out->unverified_ms = 0;
    out->scrubbed_bytes = of->read_bytes;
    out->damaged_segments = of->damaged_count;
    out->repaired_segments = of->repaired_count;
    if (of->damaged_count == 0) {
        harm_status(v, out);
        return;
    }
    damage_text(of, out->damaged, sizeof out->damaged);
    out->merging_waits = site_compactor_waits(v);
    if (out->state >= REPL_STATE_DEGRADED)
        return;
    out->state = REPL_STATE_DEGRADED;
    snprintf(out->cause, sizeof out->cause, "damaged in the store: %s may not restore exactly%s",
             out->damaged,
             out->merging_waits ? "; what it is part of is not merged before it is whole" : "");
    snprintf(out->remedy, sizeof out->remedy,
             "\"repl verify\" says what is whole; bring the damaged file back from a copy of the "
             "store, and it is looked at again within the hour");
    size_t used = strlen(out->remedy);
    if (of->full_wanted && scrub_replica_has(v, of->opaque_seq))
        snprintf(out->remedy + used, sizeof out->remedy - used,
                 ". What came behind it needs it: for points of now that restore, run \"repl full "
                 "%s\" on its host, where no point is cut until that is done",
                 v->name);
    else if (of->full_wanted)
        snprintf(out->remedy + used, sizeof out->remedy - used,
                 ". What came behind it needs it: its source is asked to send all of the volume "
                 "once more; where it is too old to be asked, restore from before it");
    if (!of->damages[0].opens || of->damages[0].healed_seq != 0)
        return;
    snprintf(out->remedy + used, sizeof out->remedy - used,
             ". Its source is asked for what has not changed since, which makes what comes from "
             "then on whole; so does \"repl forget %s --resync\" there, where it is too old to be "
             "asked",
             v->name);
}

/* Whether all is known that may harm the volume. */
static bool pool_is_looked_at(const struct site_volume *v)
{
    bool looked = v->scrub.looked;
    for (const struct site_volume *mate = v->site->volumes; mate != NULL; mate = mate->next) {
        bool is_mate =
            v->journal.pool[0] != '\0' && strcmp(mate->journal.pool, v->journal.pool) == 0;
        looked = looked && (!is_mate || !volume_may(mate) || mate->scrub.looked);
    }
    return looked;
}

static void harms_list(const struct site_volume *v, struct repl_damaged *out)
{
    for (const struct scrub_harm *harm = v->site->scrub->harms; harm != NULL; harm = harm->next) {
        for (size_t i = 0; i < harm->run_count && strcmp(harm->volume, v->name) == 0; i++) {
            if (out->count < REPL_LIST_ENTRIES_MAX)
                out->runs[out->count++] = harm->runs[i];
            else
                out->complete = false;
        }
    }
}

void site_scrub_damaged(struct site_request *request)
{
    const struct site_volume *v = request->volume;
    const struct scrub_of_volume *of = &v->scrub;
    struct repl_damaged damaged = {.complete = pool_is_looked_at(v) &&
                                               of->damage_count == of->damaged_count,
                                   .runs = calloc(REPL_LIST_ENTRIES_MAX, sizeof *damaged.runs)};
    struct repl_buffer message = {0};
    struct repl_error err;
    for (size_t i = 0; i < of->damage_count && damaged.runs != NULL; i++) {
        const struct scrub_damage *damage = &of->damages[i];
        if (damage->first_seq != 0) /* else it is what others refer to */
            damaged.runs[damaged.count++] = (struct repl_point_run){.first_seq = damage->first_seq,
                                                                    .last_seq = damage->last_seq};
    }
    if (damaged.runs != NULL)
        harms_list(v, &damaged);
    else
        damaged.complete = false;
    site_answer_message(request, 200, repl_damaged_encode(&damaged, &message, &err), &message);
    repl_damaged_fini(&damaged);
}

/* --- all of it ------------------------------------------------------------------------------- */

repl_result site_scrub_new(struct repl_site *site, struct site_scrub **out, struct repl_error *err)
{
    struct site_scrub *s = calloc(1, sizeof *s);
    if (s == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the scrub");
    s->site = site;
    pthread_mutex_init(&s->doubts_mutex, NULL);
    repl_result result = repl_pool_new(site->loop, 1, NICE_MAX, "repl-scrub", &s->pool, err);
    if (!repl_ok(result)) {
        pthread_mutex_destroy(&s->doubts_mutex);
        free(s);
        return result;
    }
    *out = s;
    return REPL_SUCCESS;
}

void site_scrub_stop(struct site_scrub *s)
{
    atomic_store(&s->stop, true);
}

bool site_scrub_is_busy(const struct site_scrub *s)
{
    return s->out;
}

void site_scrub_free(struct site_scrub *s)
{
    if (s == NULL)
        return;
    ensure(!s->out);
    repl_pool_free(s->pool);
    pthread_mutex_destroy(&s->doubts_mutex);
    free(s->doubts);
    scrub_harms_free(s->harms);
    while (s->patches != NULL) {
        struct site_patch *next = s->patches->next;
        site_patch_free(s->patches);
        s->patches = next;
    }
    free(s);
}
