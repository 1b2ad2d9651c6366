#include "doctor/doctor.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "doctor/doctor_internal.h"
#include "loop/loop.h"

#define KERNEL "see in the kernel's log what hangs"
#define DISK   "see in the kernel's log whether a disk or a network filesystem hangs"
#define STORE  "see whether the disk, or the endpoint of the bucket, answers at all"
#define PEER   "see whether the other side is overloaded, and what its log says"

static const struct doctor_check checks[] = {
    {"config", doctor_check_configuration, 1u << REPL_ROLE_AGENT | 1u << REPL_ROLE_SITE, false,
     DISK},
    {"kernel", doctor_check_kernel, 1u << REPL_ROLE_AGENT | 1u << REPL_ROLE_SITE, false, KERNEL},
    {"tracking", doctor_check_tracking, 1u << REPL_ROLE_AGENT, false, KERNEL},
    {"io_uring", doctor_check_io, 1u << REPL_ROLE_AGENT | 1u << REPL_ROLE_SITE, false, KERNEL},
    {"clock", doctor_check_clock, 1u << REPL_ROLE_AGENT | 1u << REPL_ROLE_SITE, false, KERNEL},
    {"key", doctor_check_key, 1u << REPL_ROLE_AGENT | 1u << REPL_ROLE_SITE, false, DISK},
    {"spool", doctor_check_spool, 1u << REPL_ROLE_AGENT, false, DISK},
    {"space", doctor_check_space, 1u << REPL_ROLE_SITE, false, DISK},
    {"store", doctor_check_store, 1u << REPL_ROLE_SITE, false, STORE},
    {"volume", doctor_check_volume, 1u << REPL_ROLE_AGENT, true, DISK},
    {"site", doctor_check_site, 1u << REPL_ROLE_AGENT, false, PEER},
    {"service", doctor_check_service, 1u << REPL_ROLE_AGENT | 1u << REPL_ROLE_SITE, false, PEER},
};

struct examination {
    const struct doctor_check *check;
    const struct repl_config *config;
    const struct repl_config_volume *volume;
    struct repl_findings findings;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t changed;
    bool ended;    /* its thread is done, */
    bool given_up; /* or nobody waits, and the thread frees it */
};

/* NULL: no memory. */
static struct examination *examination_new(const struct doctor_check *check,
                                           const struct repl_config *config,
                                           const struct repl_config_volume *volume)
{
    struct examination *e = calloc(1, sizeof *e);
    pthread_condattr_t attributes;
    if (e == NULL)
        return NULL;
    *e = (struct examination){.check = check, .config = config, .volume = volume};
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    return e;
}

/* NULL does nothing. */
static void examination_free(struct examination *e)
{
    if (e == NULL)
        return;
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->mutex);
    repl_findings_fini(&e->findings);
    free(e);
}

static void *examine(void *context)
{
    struct examination *e = context;
    e->check->run(e->config, e->volume, &e->findings);
    pthread_mutex_lock(&e->mutex);
    bool given_up = e->given_up;
    e->ended = true;
    pthread_cond_signal(&e->changed);
    pthread_mutex_unlock(&e->mutex);
    if (given_up)
        examination_free(e);
    return NULL;
}

/* False: it does not end in time, and is its thread's from now on. */
static bool ends_within(struct examination *e, int64_t limit_ms)
{
    struct timespec until;
    int64_t until_ns = repl_now_mono_ns() + limit_ms * 1000000;
    until.tv_sec = (time_t)(until_ns / 1000000000);
    until.tv_nsec = (long)(until_ns % 1000000000);
    pthread_mutex_lock(&e->mutex);
    while (!e->ended && pthread_cond_timedwait(&e->changed, &e->mutex, &until) != ETIMEDOUT)
        ;
    bool ended = e->ended;
    e->given_up = !ended;
    pthread_mutex_unlock(&e->mutex);
    return ended;
}

bool doctor_check_within(const struct doctor_check *check, int64_t limit_ms,
                         const struct repl_config *config, const struct repl_config_volume *volume,
                         struct repl_findings *findings)
{
    const char *name = volume != NULL ? volume->name : NULL;
    struct examination *e = examination_new(check, config, volume);
    struct repl_error err;
    pthread_t thread;
    if (e == NULL || pthread_create(&thread, NULL, examine, e) != 0) {
        examination_free(e);
        repl_ignore(repl_fail(&err, REPL_E_NOMEM, "no memory or no thread for a check"));
        repl_finding_fail(findings, check->name, name, "see what uses up the host's memory", &err);
        return true;
    }
    if (!ends_within(e, limit_ms)) {
        pthread_detach(thread);
        repl_ignore(repl_fail(&err, REPL_E_RETRY, "no answer within %.1f s: the check was given up",
                              (double)limit_ms / 1000));
        repl_finding_fail(findings, check->name, name, check->stuck, &err);
        return false;
    }
    pthread_join(thread, NULL);
    repl_findings_join(findings, &e->findings);
    examination_free(e);
    return true;
}

bool repl_doctor_examine(const struct repl_config *config, struct repl_findings *findings)
{
    bool ended = true;
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        const struct doctor_check *check = &checks[i];
        if ((check->roles & 1u << config->role) == 0)
            continue;
        if (!check->each_volume)
            ended &= doctor_check_within(check, DOCTOR_CHECK_MS, config, NULL, findings);
        for (size_t v = 0; check->each_volume && v < config->volume_count; v++)
            ended &=
                doctor_check_within(check, DOCTOR_CHECK_MS, config, &config->volumes[v], findings);
    }
    return ended;
}
