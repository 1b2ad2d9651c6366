#include "doctor/doctor.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "doctor/doctor_internal.h"

struct examination {
    doctor_check_fn *check;
    const struct repl_config *config;
    const struct repl_config_volume *volume;
    struct repl_findings findings;
};

#define KERNEL "see in the kernel's log what hangs"
#define DISK   "see in the kernel's log whether a disk or a network filesystem hangs"
#define STORE  "see whether the disk, or the endpoint of the bucket, answers at all"
#define PEER   "see whether the other side is overloaded, and what its log says"

static const struct {
    const char *name;
    doctor_check_fn *check;
    unsigned roles; /* a bit each */
    bool each_volume;
    const char *stuck; /* where to look when it does not end */
} checks[] = {
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

static void *examine(void *context)
{
    struct examination *e = context;
    e->check(e->config, e->volume, &e->findings);
    return NULL;
}

static void gave_up(size_t index, const char *volume, struct repl_findings *findings)
{
    struct repl_error err;
    repl_ignore(repl_fail(&err, REPL_E_RETRY, "no answer within %d s: the check was given up",
                          DOCTOR_CHECK_MS / 1000));
    repl_finding_fail(findings, checks[index].name, volume, checks[index].stuck, &err);
}

/* False: it was given up. */
static bool check_run(size_t index, struct examination *e, struct repl_findings *findings)
{
    const char *volume = e->volume != NULL ? e->volume->name : NULL;
    struct timespec until;
    pthread_t thread;
    if (pthread_create(&thread, NULL, examine, e) != 0) {
        struct repl_error err;
        repl_ignore(repl_fail(&err, REPL_E_NOMEM, "no thread for a check"));
        repl_finding_fail(findings, checks[index].name, volume,
                          "see what uses up the host's memory", &err);
        free(e);
        return true;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += DOCTOR_CHECK_MS / 1000;
    if (pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) != 0) {
        pthread_detach(thread);
        gave_up(index, volume, findings);
        return false; /* e is the thread's */
    }
    repl_findings_join(findings, &e->findings);
    free(e);
    return true;
}

static bool check_begin(size_t index, const struct repl_config *config,
                        const struct repl_config_volume *volume, struct repl_findings *findings)
{
    struct examination *e = calloc(1, sizeof *e);
    if (e == NULL) {
        findings->lost = true;
        return true;
    }
    *e = (struct examination){.check = checks[index].check, .config = config, .volume = volume};
    return check_run(index, e, findings);
}

bool repl_doctor_examine(const struct repl_config *config, struct repl_findings *findings)
{
    bool ended = true;
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if ((checks[i].roles & 1u << config->role) == 0)
            continue;
        size_t times = checks[i].each_volume ? config->volume_count : 1;
        for (size_t v = 0; v < times; v++)
            ended &= check_begin(i, config, checks[i].each_volume ? &config->volumes[v] : NULL,
                                 findings);
    }
    return ended;
}
