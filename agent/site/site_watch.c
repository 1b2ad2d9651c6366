/*
 * The watch: is each volume still in the store, while the site runs? Somebody may have
 * removed one by hand; a site that takes in its next segment and acknowledges it then
 * says what is not so, as a bucket takes an object wherever it belongs.
 *
 * Once in a while, and as soon as a commit has found a segment of another volume gone
 * (site_gone.c), the store is asked for the segment that each history begins with. One
 * that is not there, and in whose place no merge has put another, is looked for once
 * more in the volume's turn, when nothing of it is half-way. Then the volume is refused
 * service, as after a start that finds it so, nothing of its pool is dropped, and no
 * other volume relies on chunks in what is left of it, which may go as well. What
 * the index knows of it the next start forgets, if nothing of it is in the store by then.
 */
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "site/site_volume.h"
#include "store/segment_name.h"

/* Of a bucket each look is a request for each volume. */
#define LOOK_NS        (INT64_C(60) * 1000000000)
#define LOOK_BUCKET_NS (INT64_C(600) * 1000000000)

struct watched {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id first;
    bool gone;
};

struct watch_look {
    struct repl_job job;
    struct repl_site *site;
    size_t count;
    struct watched watched[];
};

void site_watch_init(struct repl_site *site)
{
    pthread_mutex_init(&site->watch.mutex, NULL);
}

void site_watch_fini(struct repl_site *site)
{
    free(site->watch.gone);
    pthread_mutex_destroy(&site->watch.mutex);
}

void site_volume_gone(struct repl_site *site, const char *volume)
{
    struct site_watch *watch = &site->watch;
    pthread_mutex_lock(&watch->mutex);
    struct site_gone_volume *larger =
        reallocarray(watch->gone, watch->gone_count + 1, sizeof *larger);
    if (larger != NULL) {
        watch->gone = larger;
        memcpy(larger[watch->gone_count++].name, volume, sizeof larger->name);
    }
    pthread_mutex_unlock(&watch->mutex);
}

bool site_volume_is_gone(struct repl_site *site, const char *volume)
{
    struct site_watch *watch = &site->watch;
    bool gone = false;
    pthread_mutex_lock(&watch->mutex);
    for (size_t i = 0; i < watch->gone_count && !gone; i++)
        gone = strcmp(watch->gone[i].name, volume) == 0;
    pthread_mutex_unlock(&watch->mutex);
    return gone;
}

/* --- on a worker ----------------------------------------------------------------------------- */

static repl_result first_find(struct repl_site *site, const char *volume, bool *found,
                              struct repl_segment_id *id, struct repl_error *err)
{
    struct repl_log_piece piece;
    uint32_t count;
    bool more;
    REPL_TRY(repl_index_pieces(site->index, volume, 0, 0, &piece, 1, &count, &more, err));
    *found = count == 1;
    if (*found)
        *id = (struct repl_segment_id){
            .to_seq = piece.commit.to_seq, .part = piece.commit.part, .merge = piece.merge};
    return REPL_SUCCESS;
}

/* A store that does not answer says nothing of what it has. */
static repl_result volume_look(struct repl_site *site, struct watched *w, struct repl_error *err)
{
    struct repl_segment_id again;
    bool found, there;
    w->gone = false;
    REPL_TRY(first_find(site, w->volume, &found, &w->first, err));
    if (!found)
        return REPL_SUCCESS;
    REPL_TRY(site->store->ops->segment_look(site->store, w->volume, &w->first, &there, err));
    if (there)
        return REPL_SUCCESS;
    REPL_TRY(first_find(site, w->volume, &found, &again, err));
    w->gone = found && repl_segment_id_order(&again, &w->first) == 0;
    return REPL_SUCCESS;
}

static void look_work(struct repl_job *job)
{
    struct watch_look *look = job->context;
    struct repl_error err;
    for (size_t i = 0; i < look->count && !atomic_load(&look->site->watch.stop); i++) {
        if (!repl_ok(volume_look(look->site, &look->watched[i], &err)))
            repl_log(LOG_WARNING, "volume %s: whether it is still in the store is not known: %s",
                     look->watched[i].volume, err.text);
    }
}

/* --- on the loop ----------------------------------------------------------------------------- */

static bool is_watched(const struct site_volume *v)
{
    return v->journal.exists && v->journal.has_head && v->damaged[0] == '\0' && !v->index_behind;
}

static void look_done(struct repl_job *job)
{
    struct watch_look *look = job->context;
    struct repl_site *site = look->site;
    site_job_ended(site);
    site->watch.out = false;
    for (size_t i = 0; i < look->count; i++) {
        struct site_volume *v = site_find_volume(site, look->watched[i].volume);
        if (v == NULL || !look->watched[i].gone)
            continue;
        v->gone_due = true;
        site_volume_pump(v);
    }
    free(look);
}

static struct watch_look *look_new(struct repl_site *site)
{
    struct watch_look *look =
        calloc(1, sizeof *look + site->volume_count * sizeof look->watched[0]);
    if (look == NULL) /* some other time */
        return NULL;
    look->site = site;
    look->job = (struct repl_job){.work = look_work, .done = look_done, .context = look};
    for (const struct site_volume *v = site->volumes; v != NULL; v = v->next) {
        if (is_watched(v))
            memcpy(look->watched[look->count++].volume, v->name, sizeof v->name);
    }
    return look;
}

void site_watch_tick(struct repl_site *site)
{
    struct site_watch *watch = &site->watch;
    int64_t now_ns = repl_now_mono_ns();
    if (watch->out || (now_ns < watch->next_ns && !atomic_exchange(&watch->suspects, false)))
        return;
    bool in_bucket = repl_store_is_bucket(site->config->store);
    watch->next_ns = now_ns + (in_bucket ? LOOK_BUCKET_NS : LOOK_NS);
    struct watch_look *look = look_new(site);
    if (look == NULL)
        return;
    watch->out = true;
    site_job_start(site, &look->job);
}

/* --- in the volume's turn -------------------------------------------------------------------- */

static void turn_work(struct repl_job *job)
{
    struct watch_look *look = job->context;
    struct repl_error err;
    if (!repl_ok(volume_look(look->site, &look->watched[0], &err)))
        look->watched[0].gone = false; /* the next look comes to it again */
}

static void turn_done(struct repl_job *job)
{
    struct watch_look *look = job->context;
    const struct watched *watched = &look->watched[0];
    struct site_volume *v = site_find_volume(look->site, watched->volume);
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    ensure(v != NULL);
    site_job_ended(look->site);
    v->busy = false;
    if (watched->gone) {
        site_volume_gone(v->site, v->name);
        repl_segment_id_text(&watched->first, text);
        snprintf(v->damaged, sizeof v->damaged,
                 "segment %s, with which its history begins, is not in the store any more: was the "
                 "volume removed by hand?",
                 text);
        repl_log(LOG_ERR,
                 "volume %s: %s It is refused service. Put back what is missing from a copy of the "
                 "store, or remove the rest of it as well, where no other volume of its tenant is "
                 "needed that refers to chunks in it; then restart the site",
                 v->name, v->damaged);
    }
    free(look);
    site_volume_pump(v);
}

void site_watch_pump(struct site_volume *v)
{
    if (!v->gone_due || v->busy || v->site->closing)
        return;
    v->gone_due = false;
    if (!is_watched(v))
        return;
    struct watch_look *look = calloc(1, sizeof *look + sizeof look->watched[0]);
    if (look == NULL)
        return;
    look->site = v->site;
    look->count = 1;
    memcpy(look->watched[0].volume, v->name, sizeof v->name);
    look->job = (struct repl_job){.work = turn_work, .done = turn_done, .context = look};
    v->busy = true;
    site_job_start(v->site, &look->job);
}
