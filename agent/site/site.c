/*
 * The site: store, index, volumes, listener and control socket, wired together.
 *
 * Opened in that order and closed in the reverse one. Closing begins with the
 * listener, so nothing new comes; then what is under way on workers runs to its
 * end: a commit is finished, though nobody is there to be told.
 *
 * A tick every few seconds syncs the index if something was applied to it (the
 * log is what counts; this only bounds how much is applied again after a power
 * cut), says in the log which volumes changed their state, and forgets volumes
 * that a refused hello left empty.
 */
#include "site/site.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/ensure.h"
#include "site/compactor/compactor.h"
#include "site/scrub/scrub.h"
#include "site/site_gate.h"
#include "site/site_volume.h"

/* A disk that hangs holds one of them for good. */
#define REPLICA_THREADS 4u
#define REPLICA_NICE    5 /* more than what takes segments in */

#define TICK_NS       (INT64_C(5) * 1000000000)
#define STORE_STOP_NS (INT64_C(20) * 1000000000) /* for what is under way as the site closes */

/* --- jobs and volumes ------------------------------------------------------------------------ */

void site_job_start(struct repl_site *site, struct repl_job *job)
{
    site->jobs++;
    repl_loop_work(site->loop, job);
}

void site_job_ended(struct repl_site *site)
{
    ensure(site->jobs > 0);
    site->jobs--;
}

struct site_volume *site_find_volume(const struct repl_site *site, const char *name)
{
    struct site_volume *v = site->volumes;
    while (v != NULL && strcmp(v->name, name) != 0)
        v = v->next;
    return v;
}

repl_result site_add_volume(struct repl_site *site, struct site_volume *volume,
                            struct repl_error *err)
{
    repl_result result = repl_store_usage_of(site->store, volume->name, &volume->usage, err);
    if (!repl_ok(result)) {
        site_volume_free(volume);
        return result;
    }
    site_space_limit_read(volume);
    volume->next = site->volumes;
    site->volumes = volume;
    site->volume_count++;
    return REPL_SUCCESS;
}

/* Those of a hello that was refused; where that was for want of room, it comes again. */
static void volumes_forget_empty(struct repl_site *site)
{
    for (struct site_volume **link = &site->volumes; *link != NULL;) {
        struct site_volume *v = *link;
        if (v->journal.exists || v->damaged[0] != '\0' || !site_volume_is_idle(v) ||
            site_space_keeps_out(v)) {
            link = &v->next;
            continue;
        }
        *link = v->next;
        site->volume_count--;
        site_volume_free(v);
    }
}

/* --- the tick -------------------------------------------------------------------------------- */

/* After a failed sync an index is of no more use; it can be computed again, once there is a new
 * one. */
static void sync_work(struct repl_job *job)
{
    struct repl_site *site = job->context;
    pthread_mutex_lock(&site->index_lock);
    site->sync_result = repl_index_sync(site->index, &site->sync_err);
    site->sync_remade = false;
    if (!repl_ok(site->sync_result) && repl_index_is_broken(site->index)) {
        site->sync_result = repl_index_remake(site->index, &site->sync_err);
        site->sync_remade = repl_ok(site->sync_result);
    }
    pthread_mutex_unlock(&site->index_lock);
}

static void index_remade(struct repl_site *site)
{
    repl_log(LOG_WARNING, "a sync of the index failed: it is made anew from logs and segments; "
                          "check the disk under the store");
    site->index_generation++;
    for (struct site_volume *v = site->volumes; v != NULL; v = v->next) {
        if (!v->journal.exists || v->damaged[0] != '\0')
            continue;
        v->index_behind = v->index_lost = true;
        v->index_vain = false;
        site_volume_pump(v);
    }
}

static void sync_done(struct repl_job *job)
{
    struct repl_site *site = job->context;
    site_job_ended(site);
    site->syncing = false;
    if (repl_ok(site->sync_result)) {
        site->index_problem[0] = '\0';
    } else {
        if (strncmp(site->index_problem, site->sync_err.text, sizeof site->index_problem - 1) != 0)
            repl_log(LOG_ERR, "%s", site->sync_err.text);
        snprintf(site->index_problem, sizeof site->index_problem, "%.*s",
                 (int)sizeof site->index_problem - 1, site->sync_err.text);
        site->index_dirty = true; /* tried again */
    }
    if (site->sync_remade)
        index_remade(site);
}

static void index_sync(struct repl_site *site)
{
    if (!site->index_dirty || site->syncing)
        return;
    site->index_dirty = false;
    site->syncing = true;
    site->sync_job = (struct repl_job){.work = sync_work, .done = sync_done, .context = site};
    site_job_start(site, &site->sync_job);
}

static void refusals_log(struct repl_site *site)
{
    if (site->refusals_logged > SITE_REFUSALS_LOGGED_MAX)
        repl_log(LOG_WARNING, "refused %u more requests within %d s",
                 site->refusals_logged - SITE_REFUSALS_LOGGED_MAX, (int)(TICK_NS / 1000000000));
    site->refusals_logged = 0;
}

static void site_tick(struct repl_timer *timer)
{
    struct repl_site *site = timer->context;
    int64_t now_ns = repl_now_wall_ns();
    for (struct site_volume *v = site->volumes; v != NULL; v = v->next) {
        site_space_tick(v);
        site_volume_log_state(v, now_ns);
        v->index_vain = v->settling_vain = false;
        site_volume_pump(v);
    }
    volumes_forget_empty(site);
    site_watch_tick(site);
    site_unread_tick(site);
    site_compactor_tick(site->compactor);
    site_scrub_tick(site->scrub);
    refusals_log(site);
    index_sync(site);
    repl_timer_arm(site->loop, &site->tick, repl_now_mono_ns() + TICK_NS);
}

/* --- status ---------------------------------------------------------------------------------- */

void repl_site_count(const struct repl_site *site, size_t *volumes, size_t *damaged)
{
    *volumes = *damaged = 0;
    for (const struct site_volume *v = site->volumes; v != NULL; v = v->next) {
        *volumes += v->journal.exists && v->damaged[0] == '\0';
        *damaged += v->damaged[0] != '\0' && !v->unread;
    }
}

repl_result repl_site_status(const struct repl_site *site, struct repl_status *out,
                             struct repl_error *err)
{
    int64_t now_ns = repl_now_wall_ns();
    *out = (struct repl_status){.site = true, .time_ns = now_ns};
    snprintf(out->version, sizeof out->version, "%s", REPL_VERSION);
    snprintf(out->io, sizeof out->io, "%s", repl_loop_backend_name(site->loop));
    snprintf(out->clock_doubt, sizeof out->clock_doubt, "%s",
             site_compactor_doubt(site->compactor));
    site->store->ops->warning(site->store, out->store_warning, sizeof out->store_warning);
    site_space_status(site, out);
    if (gethostname(out->name, sizeof out->name - 1) != 0)
        snprintf(out->name, sizeof out->name, "?");
    out->volumes = calloc(site->volume_count + 1, sizeof *out->volumes);
    if (out->volumes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the status of %zu volumes",
                         site->volume_count);
    for (const struct site_volume *v = site->volumes; v != NULL; v = v->next) {
        if (v->journal.exists || v->damaged[0] != '\0' || site_space_keeps_out(v))
            site_volume_status(v, now_ns, &out->volumes[out->volume_count++]);
    }
    return REPL_SUCCESS;
}

static json_t *clock_confirm(struct repl_site *site, struct repl_error *err)
{
    site_compactor_confirm_clock(site->compactor);
    repl_log(LOG_INFO, "somebody says that the clock of this machine is right");
    json_t *json = json_pack("{s:s}", "doubt", site_compactor_doubt(site->compactor));
    if (json == NULL)
        repl_ignore(repl_fail(err, REPL_E_NOMEM, "no memory for an answer"));
    return json;
}

static json_t *control_answer(void *owner, const char *request, struct repl_error *err)
{
    struct repl_status status;
    if (strncmp(request, "mark", 4) == 0)
        return site_mark_control(owner, request, err);
    if (strcmp(request, "confirm-clock") == 0)
        return clock_confirm(owner, err);
    if (strcmp(request, "status") != 0) {
        repl_ignore(
            repl_fail(err, REPL_E_USAGE, "the site does not know the request \"%.100s\"", request));
        return NULL;
    }
    if (!repl_ok(repl_site_status(owner, &status, err)))
        return NULL;
    json_t *json = repl_status_to_json(&status);
    repl_status_fini(&status);
    if (json == NULL)
        repl_ignore(repl_fail(err, REPL_E_NOMEM, "no memory for the status"));
    return json;
}

/* --- opening --------------------------------------------------------------------------------- */

static repl_result volume_found(void *context, const char *name, struct repl_error *err)
{
    struct repl_site *site = context;
    struct site_volume *v;
    if (!repl_volume_name_valid(name)) {
        repl_log(LOG_WARNING, "the directory \"%s\" among the volumes is not a volume's", name);
        return REPL_SUCCESS;
    }
    /* A long log, or an index made anew, takes its time: the service manager is to wait. */
    char state[256];
    snprintf(state, sizeof state, "EXTEND_TIMEOUT_USEC=600000000\nSTATUS=reading volume %s", name);
    repl_notify(state);
    REPL_TRY(site_volume_load(site, name, &v, err));
    return v != NULL ? site_add_volume(site, v, err) : REPL_SUCCESS;
}

static repl_result store_open(struct repl_site *site, struct repl_error *err)
{
    const struct repl_config *config = site->config;
    const struct repl_s3_options s3 = repl_config_s3(config);
    const struct repl_store_options options = {
        .location = config->store,
        .writable = true,
        .create = true,
        .take_over = config->take_over,
        .object_lock_ms = config->object_lock_ms,
        .local = repl_config_site_directory(config),
        .s3 = &s3,
    };
    /* that of a bucket may have to wait */
    repl_notify("EXTEND_TIMEOUT_USEC=600000000\nSTATUS=opening the store");
    struct repl_store *store;
    REPL_TRY(repl_store_open(&options, &store, err));
    return repl_store_counted(store, &site->store, err);
}

static repl_result index_open(struct repl_site *site, struct repl_error *err)
{
    char path[PATH_MAX];
    const char *directory = repl_config_site_directory(site->config);
    int size = snprintf(path, sizeof path, "%s/index.lmdb", directory);
    if (size < 0 || (size_t)size >= sizeof path)
        return repl_fail(err, REPL_E_USAGE, "the path %s is too long: move it", directory);
    /* all of it is read */
    repl_notify("EXTEND_TIMEOUT_USEC=600000000\nSTATUS=reading the index");
    return repl_index_open(path, true, &site->index, err);
}

static repl_result site_open(struct repl_site *site, struct repl_error *err)
{
    const struct repl_config *config = site->config;
    int nice = (int)config->nice + REPLICA_NICE;
    REPL_TRY(repl_pool_new(site->loop, REPLICA_THREADS, nice < 19 ? nice : 19, "repl-replica",
                           &site->replica_pool, err));
    REPL_TRY(store_open(site, err));
    REPL_TRY(site_space_begin(site, err));
    REPL_TRY(index_open(site, err));
    REPL_TRY(site->store->ops->volumes(site->store, volume_found, site, err));
    REPL_TRY(site_members_check(site, err));
    for (struct site_volume *v = site->volumes; v != NULL; v = v->next) {
        if (v->damaged[0] == '\0')
            site_volume_follow(v);
    }
    REPL_TRY(site_compactor_new(site, &site->compactor, err));
    REPL_TRY(site_scrub_new(site, &site->scrub, err));
    struct repl_listener_options options = {.address = config->listen,
                                            .key_path = config->key,
                                            .connection_limit = config->connections,
                                            .stranger_limit_per_address =
                                                config->strangers_per_address,
                                            .handler = &site_exchange_handler,
                                            .owner = site};
    REPL_TRY(repl_listener_new(site->loop, &options, &site->listener, err));
    return repl_control_new(site->loop, config->control, control_answer, site, &site->control, err);
}

repl_result repl_site_new(struct repl_loop *loop, struct repl_config *config,
                          struct repl_site **out, struct repl_error *err)
{
    struct repl_site *site = calloc(1, sizeof *site);
    if (site == NULL) {
        repl_config_free(config);
        return repl_fail(err, REPL_E_NOMEM, "no memory for the site");
    }
    site->loop = loop;
    site->config = config;
    site->started_ns = repl_now_wall_ns();
    pthread_mutex_init(&site->index_lock, NULL);
    pthread_mutex_init(&site->waiting_lock, NULL);
    pthread_mutex_init(&site->leaving_lock, NULL);
    site_watch_init(site);
    site->tick = (struct repl_timer){.fire = site_tick, .context = site};
    repl_result result = site_open(site, err);
    if (!repl_ok(result)) {
        repl_site_free(site);
        return result;
    }
    repl_timer_arm(loop, &site->tick, repl_now_mono_ns() + TICK_NS);
    *out = site;
    return REPL_SUCCESS;
}

unsigned repl_site_port(const struct repl_site *site)
{
    return repl_listener_port(site->listener);
}

/* --- reload ---------------------------------------------------------------------------------- */

static bool texts_differ(const char *a, const char *b)
{
    return strcmp(a != NULL ? a : "", b != NULL ? b : "") != 0;
}

static bool volumes_differ(const struct repl_config *a, const struct repl_config *b)
{
    if (a->volume_count != b->volume_count)
        return true;
    for (size_t i = 0; i < a->volume_count; i++) {
        const struct repl_config_volume *other = repl_config_find_volume(b, a->volumes[i].name);
        if (other == NULL || strcmp(other->replica, a->volumes[i].replica) != 0 ||
            texts_differ(other->retention, a->volumes[i].retention))
            return true;
    }
    return false;
}

static bool stores_differ(const struct repl_config *a, const struct repl_config *b)
{
    return texts_differ(a->store, b->store) || texts_differ(a->state, b->state) ||
           texts_differ(a->s3_endpoint, b->s3_endpoint) ||
           texts_differ(a->s3_region, b->s3_region) ||
           texts_differ(a->s3_credentials, b->s3_credentials) ||
           texts_differ(a->s3_profile, b->s3_profile) || texts_differ(a->s3_ca, b->s3_ca) ||
           a->s3_host_style != b->s3_host_style || a->object_lock_ms != b->object_lock_ms;
}

/* What is done with the history in the background. */
static bool upkeep_differs(const struct repl_config *a, const struct repl_config *b)
{
    return texts_differ(a->retention, b->retention) || a->grace_ms != b->grace_ms ||
           a->merge_rate_bytes != b->merge_rate_bytes || a->scrub_every_ms != b->scrub_every_ms ||
           a->scrub_rate_bytes != b->scrub_rate_bytes;
}

static void limits_take(struct repl_site *site, const struct repl_config *config)
{
    struct repl_config *old = site->config;
    old->space_limit_bytes = config->space_limit_bytes;
    old->space_reserve_bytes = config->space_reserve_bytes;
    for (size_t i = 0; i < old->volume_count; i++) {
        const struct repl_config_volume *volume =
            repl_config_find_volume(config, old->volumes[i].name);
        old->volumes[i].space_limit_bytes = volume != NULL ? volume->space_limit_bytes : 0;
    }
    for (struct site_volume *v = site->volumes; v != NULL; v = v->next)
        site_space_limit_read(v);
}

void repl_site_reload(struct repl_site *site, struct repl_config *config, bool *restart)
{
    struct repl_config *old = site->config;
    *restart = strcmp(old->listen, config->listen) != 0 || stores_differ(old, config) ||
               strcmp(old->key, config->key) != 0 || strcmp(old->control, config->control) != 0 ||
               old->connections != config->connections ||
               old->strangers_per_address != config->strangers_per_address ||
               old->workers != config->workers || old->nice != config->nice ||
               volumes_differ(old, config) || upkeep_differs(old, config);
    /* Only limits of space and the peers change hands; the rest goes on as it was begun. */
    limits_take(site, config);
    struct repl_config_peer *peers = old->peers;
    size_t peer_count = old->peer_count;
    old->peers = config->peers;
    old->peer_count = config->peer_count;
    config->peers = peers;
    config->peer_count = peer_count;
    repl_config_free(config);
}

/* --- closing --------------------------------------------------------------------------------- */

static bool site_is_busy(const struct repl_site *site)
{
    if (site->compactor != NULL && site_compactor_is_busy(site->compactor))
        return true;
    if (site->scrub != NULL && site_scrub_is_busy(site->scrub))
        return true;
    for (const struct site_volume *v = site->volumes; v != NULL; v = v->next) {
        if (v->replica != NULL && repl_replica_is_busy(v->replica))
            return true;
    }
    return site->jobs > 0;
}

static void site_wait(struct repl_site *site)
{
    struct repl_error err;
    const int64_t stop_ns = repl_now_mono_ns() + STORE_STOP_NS;
    while (site_is_busy(site)) {
        if (repl_now_mono_ns() >= stop_ns) /* of no use any more: it does not answer */
            site->store->ops->stop(site->store);
        /* Without its loop nothing ends any more; the process has to. */
        if (!repl_ok(repl_loop_once(site->loop, 1000, &err))) {
            repl_log(LOG_ERR, "cannot end what is under way: %s", err.text);
            abort();
        }
    }
}

static void volumes_close(struct repl_site *site)
{
    atomic_store(&site->watch.stop, true);
    if (site->compactor != NULL)
        site_compactor_stop(site->compactor);
    if (site->scrub != NULL)
        site_scrub_stop(site->scrub);
    for (struct site_volume *v = site->volumes; v != NULL; v = v->next) {
        if (v->replica != NULL)
            repl_replica_stop(v->replica);
        site_volume_pump(v); /* lets go of what waited */
    }
    site_wait(site);
    site_scrub_free(site->scrub);
    site->scrub = NULL;
    site_compactor_free(site->compactor);
    site->compactor = NULL;
    while (site->volumes != NULL) {
        struct site_volume *v = site->volumes;
        site->volumes = v->next;
        site_volume_free(v);
    }
}

void repl_site_free(struct repl_site *site)
{
    struct repl_error err;
    if (site == NULL)
        return;
    site->closing = true;
    repl_timer_cancel(&site->tick);
    site_space_end(site);
    repl_control_free(site->control);
    repl_listener_free(site->listener);
    volumes_close(site);
    if (site->index != NULL && site->index_dirty && !repl_ok(repl_index_sync(site->index, &err)))
        repl_log(LOG_WARNING, "%s", err.text);
    if (site->index != NULL)
        repl_index_close(site->index);
    if (site->store != NULL)
        site->store->ops->close(site->store);
    repl_pool_free(site->replica_pool);
    site_gates_free(site);
    site_watch_fini(site);
    pthread_mutex_destroy(&site->leaving_lock);
    pthread_mutex_destroy(&site->waiting_lock);
    pthread_mutex_destroy(&site->index_lock);
    repl_config_free(site->config);
    free(site);
}
