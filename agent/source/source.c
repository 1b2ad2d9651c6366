#include "source/source.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "control/control.h"
#include "control/status.h"
#include "link/client.h"
#include "loop/loop.h"
#include "source/chunk_index.h"
#include "source/source_group.h"
#include "source/source_volume.h"
#include "source/state_dir.h"

/* Volumes that are opened at once: reading a spool back may take minutes, and leaves the workers to
 * the volumes that run. */
#define OPENERS 2

#define LEVEL_NS INT64_C(1000000000) /* between two looks at the level of compression */

/* Names of chunks beside those of the volumes' own: 256 GiB of chunks, and at most some 200 MiB on
 * the disk. */
#define CHUNK_NAMES_MIN (UINT64_C(1) << 22)

struct source {
    const struct repl_config *config;
    struct repl_loop *loop;
    struct repl_pool *openers;
    struct repl_client *client;
    struct repl_chunk_index *chunks; /* that the site is known to hold */
    struct repl_control *control;
    int lock_fd;
    /* of compression: one for all volumes, which share the workers and the link */
    struct repl_level level;
    struct repl_timer level_timer;
    int64_t level_ns; /* these three: when it was last looked at, and what there was until then */
    int64_t busy_ns;
    uint64_t sent_bytes;
    struct repl_source_volume **volumes;
    size_t volume_count; /* made so far */
    struct repl_source_group **groups;
    size_t group_count;
    size_t stopped_count;
    bool stopping;
};

static void level_look(struct repl_timer *timer)
{
    struct source *s = timer->context;
    int64_t now_ns = repl_now_mono_ns(), busy_ns = repl_loop_worker_busy_ns(s->loop);
    uint64_t sent_bytes = 0;
    struct repl_level_sample sample = {.elapsed_ns = now_ns - s->level_ns,
                                       .busy_ns = busy_ns - s->busy_ns,
                                       .workers = repl_loop_worker_count(s->loop)};
    for (size_t i = 0; i < s->volume_count; i++) {
        uint64_t sent, unsent;
        repl_source_volume_flow(s->volumes[i], &sent, &unsent);
        sent_bytes += sent;
        sample.unsent_bytes += unsent;
    }
    /* less than before: a volume was closed, and with it what it had sent is forgotten */
    sample.sent_bytes = sent_bytes > s->sent_bytes ? sent_bytes - s->sent_bytes : 0;
    repl_level_follow(&s->level, &sample);
    s->level_ns = now_ns;
    s->busy_ns = busy_ns;
    s->sent_bytes = sent_bytes;
    repl_timer_arm(s->loop, timer, now_ns + LEVEL_NS);
}

static void level_start(struct source *s)
{
    repl_level_init(&s->level, s->config->compression);
    s->level_timer = (struct repl_timer){.fire = level_look, .context = s};
    s->level_ns = repl_now_mono_ns();
    s->busy_ns = repl_loop_worker_busy_ns(s->loop);
    repl_timer_arm(s->loop, &s->level_timer, s->level_ns + LEVEL_NS);
}

static void volume_stopped(void *context)
{
    struct source *s = context;
    if (++s->stopped_count == s->volume_count)
        repl_loop_stop(s->loop);
}

static void source_stop(struct source *s)
{
    if (s->stopping)
        return;
    s->stopping = true;
    repl_notify("STOPPING=1");
    if (s->volume_count == 0 && s->loop != NULL)
        repl_loop_stop(s->loop);
    for (size_t i = 0; i < s->volume_count; i++)
        repl_source_volume_stop(s->volumes[i]);
}

static void signal_arrived(void *context, int signal_number)
{
    struct source *s = context;
    if (signal_number == SIGHUP) {
        repl_log(LOG_NOTICE, "SIGHUP: a changed configuration takes effect at a restart, which "
                             "needs no resync");
        return;
    }
    source_stop(s);
}

static json_t *status_answer(struct source *s, struct repl_error *err)
{
    struct repl_status status = {.time_ns = repl_now_wall_ns(),
                                 .compression_level = repl_level_now(&s->level),
                                 .bandwidth_bytes_per_s = repl_client_bandwidth(s->client),
                                 .volume_count = s->volume_count};
    snprintf(status.version, sizeof status.version, "%s", REPL_VERSION);
    snprintf(status.io, sizeof status.io, "%s", repl_loop_backend_name(s->loop));
    if (gethostname(status.name, sizeof status.name - 1) != 0)
        snprintf(status.name, sizeof status.name, "unknown");
    status.volumes = calloc(s->volume_count + 1, sizeof *status.volumes);
    if (status.volumes == NULL) {
        repl_ignore(repl_fail(err, REPL_E_NOMEM, "out of memory for the status"));
        return NULL;
    }
    for (size_t i = 0; i < s->volume_count; i++)
        repl_source_volume_status(s->volumes[i], &status.volumes[i]);
    json_t *json = repl_status_to_json(&status);
    repl_status_fini(&status);
    return json;
}

/* The volume that a request is about, which begins with its name; NULL: there is none. */
static struct repl_source_volume *asked_volume(const struct source *s, const char *request,
                                               size_t size, struct repl_error *err)
{
    for (size_t i = 0; i < s->volume_count; i++) {
        const char *name = s->config->volumes[i].name;
        if (strlen(name) == size && memcmp(name, request, size) == 0)
            return s->volumes[i];
    }
    repl_ignore(repl_fail(err, REPL_E_MISSING,
                          "the agent does not protect a volume %.*s: \"repl status\" lists those "
                          "it does",
                          (int)size, request));
    return NULL;
}

/* "NAME", "NAME SINCE" */
static json_t *point_answer(const struct source *s, const char *request, struct repl_error *err)
{
    size_t size = strcspn(request, " ");
    struct repl_source_volume *v = asked_volume(s, request, size, err);
    return v != NULL ? repl_source_volume_point(v, request + size, err) : NULL;
}

static json_t *full_answer(const struct source *s, const char *name, struct repl_error *err)
{
    struct repl_source_volume *v = asked_volume(s, name, strlen(name), err);
    return v != NULL ? repl_source_volume_full(v, err) : NULL;
}

static json_t *control_answer(void *owner, const char *request, struct repl_error *err)
{
    if (strcmp(request, "status") == 0)
        return status_answer(owner, err);
    if (strncmp(request, "point ", 6) == 0)
        return point_answer(owner, request + 6, err);
    if (strncmp(request, "full ", 5) == 0)
        return full_answer(owner, request + 5, err);
    repl_ignore(repl_fail(err, REPL_E_USAGE, "the agent does not know the request '%s'", request));
    return NULL;
}

/* The group of that name, which is made when its first volume is; NULL: none is wanted. */
static repl_result group_find(struct source *s, const char *name, struct repl_source_group **out,
                              struct repl_error *err)
{
    size_t members = 0;
    *out = NULL;
    if (name == NULL)
        return REPL_SUCCESS;
    for (size_t i = 0; i < s->group_count; i++) {
        if (strcmp(repl_source_group_name(s->groups[i]), name) == 0) {
            *out = s->groups[i];
            return REPL_SUCCESS;
        }
    }
    enum repl_quiesce quiesce = REPL_QUIESCE_WINDOW;
    for (size_t i = 0; i < s->config->volume_count; i++) {
        const struct repl_config_volume *volume = &s->config->volumes[i];
        if (volume->group == NULL || strcmp(volume->group, name) != 0)
            continue;
        if (members++ == 0)
            quiesce = volume->quiesce;
        else if (volume->quiesce != quiesce) /* they would be frozen in turn, never together */
            return repl_fail(err, REPL_E_USAGE,
                             "%s: the volumes of group %s are cut together: give them all the same "
                             "quiesce",
                             s->config->path, name);
    }
    REPL_TRY(repl_source_group_new(s->loop, name, s->config->guard, members, out, err));
    s->groups[s->group_count++] = *out;
    return REPL_SUCCESS;
}

/* A group is cut as often as the most demanding of its volumes. */
static int64_t rpo_of(const struct source *s, const struct repl_config_volume *volume)
{
    int64_t rpo_ms = volume->rpo_ms;
    for (size_t i = 0; volume->group != NULL && i < s->config->volume_count; i++) {
        const struct repl_config_volume *other = &s->config->volumes[i];
        if (other->group != NULL && strcmp(other->group, volume->group) == 0 &&
            other->rpo_ms < rpo_ms)
            rpo_ms = other->rpo_ms;
    }
    return rpo_ms;
}

static repl_result volumes_start(struct source *s, const struct repl_client_options *client,
                                 struct repl_error *err)
{
    s->volumes = calloc(s->config->volume_count + 1, sizeof *s->volumes);
    s->groups = calloc(s->config->volume_count + 1, sizeof(struct repl_source_group *));
    if (s->volumes == NULL || s->groups == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the volumes");
    for (size_t i = 0; i < s->config->volume_count; i++) {
        struct repl_source_group *group;
        REPL_TRY(group_find(s, s->config->volumes[i].group, &group, err));
        const struct repl_source_volume_options options = {
            .loop = s->loop,
            .openers = s->openers,
            .client = s->client,
            .client_options = *client,
            .config = s->config,
            .volume = &s->config->volumes[i],
            .chunks = s->chunks,
            .level = &s->level,
            .group = group,
            .rpo_ms = rpo_of(s, &s->config->volumes[i]),
            .stopped = volume_stopped,
            .context = s,
        };
        REPL_TRY(repl_source_volume_new(&options, &s->volumes[i], err));
        s->volume_count++;
    }
    return REPL_SUCCESS;
}

static repl_result chunks_open(struct source *s, struct repl_error *err)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s/chunks", s->config->state) >= sizeof path)
        return repl_fail(err, REPL_E_USAGE, "[agent] state: the path is too long");
    const struct repl_chunk_index_options options = {.path = path, .limit = CHUNK_NAMES_MIN};
    return repl_chunk_index_open(&options, &s->chunks, err);
}

static repl_result source_start(struct source *s, struct repl_error *err)
{
    const struct repl_config *config = s->config;
    const struct repl_client_options client = {
        .address = config->remote_address,
        .key_path = config->key,
        .fingerprint = config->remote_fingerprint,
        .bandwidth = config->bandwidth,
    };
    const struct repl_loop_options loop = {.workers = config->workers,
                                           .worker_nice = (int)config->nice};
    if (config->volume_count == 0)
        return repl_fail(err, REPL_E_USAGE, "%s: there is no [volume NAME] to protect",
                         config->path);
    REPL_TRY(repl_state_lock(config->state, &s->lock_fd, err));
    REPL_TRY(repl_loop_new(&loop, &s->loop, err));
    REPL_TRY(repl_loop_signals(s->loop, signal_arrived, s, err));
    REPL_TRY(repl_pool_new(s->loop, OPENERS, (int)config->nice, "repl-open", &s->openers, err));
    level_start(s);
    REPL_TRY(repl_client_new(s->loop, &client, &s->client, err));
    REPL_TRY(chunks_open(s, err));
    REPL_TRY(repl_control_new(s->loop, config->control, control_answer, s, &s->control, err));
    return volumes_start(s, &client, err);
}

repl_result repl_source_run(const struct repl_config *config, struct repl_error *err)
{
    struct source s = {.config = config, .lock_fd = -1};
    struct repl_error late;
    repl_result result = source_start(&s, err);
    bool started = repl_ok(result);
    if (started) {
        repl_log(LOG_NOTICE, "protecting %zu volume%s, site %s, %s", s.volume_count,
                 s.volume_count == 1 ? "" : "s", config->remote_address,
                 repl_loop_backend_name(s.loop));
        repl_notify("READY=1");
    } else {
        source_stop(&s);
    }
    /* also after a start that failed halfway: the volumes made so far are stopped in order */
    if (s.loop != NULL && (started || s.volume_count > 0)) {
        repl_result ran = repl_loop_run(s.loop, started ? err : &late);
        if (started)
            result = ran;
    }
    repl_control_free(s.control);
    for (size_t i = 0; i < s.volume_count; i++)
        repl_source_volume_free(s.volumes[i]);
    free(s.volumes);
    for (size_t i = 0; i < s.group_count; i++)
        repl_source_group_free(s.groups[i]);
    free(s.groups);
    repl_chunk_index_close(s.chunks);
    repl_client_free(s.client);
    repl_pool_free(s.openers);
    repl_loop_free(s.loop);
    if (s.lock_fd >= 0)
        close(s.lock_fd);
    return result;
}
