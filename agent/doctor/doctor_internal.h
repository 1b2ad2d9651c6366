/*
 * The checks of the doctor, one function each. Private to doctor/.
 */
#ifndef REPL_AGENT_DOCTOR_INTERNAL_H
#define REPL_AGENT_DOCTOR_INTERNAL_H

#include "doctor/findings.h"

/* On a thread of its own. volume: of the checks that are made for each, else NULL. */
typedef void doctor_check_fn(const struct repl_config *config,
                             const struct repl_config_volume *volume,
                             struct repl_findings *findings);

/* What a peer may take, within the time that a check has. */
#define DOCTOR_CONNECT_MS 4000u
#define DOCTOR_CHECK_MS   8000

struct doctor_check {
    const char *name;
    doctor_check_fn *run;
    unsigned roles; /* a bit each */
    bool each_volume;
    const char *stuck; /* where to look when it does not end */
};
/* doctor.c. On a thread, for at most limit_ms. False: it was given up, which is a finding; the
 * thread goes on with config and volume. */
bool doctor_check_within(const struct doctor_check *check, int64_t limit_ms,
                         const struct repl_config *config, const struct repl_config_volume *volume,
                         struct repl_findings *findings);

/* doctor_host.c */
doctor_check_fn doctor_check_kernel, doctor_check_tracking, doctor_check_io, doctor_check_clock;
/* doctor_files.c */
doctor_check_fn doctor_check_configuration, doctor_check_key, doctor_check_spool,
    doctor_check_space, doctor_check_store;
/* doctor_volume.c */
doctor_check_fn doctor_check_volume;
/* doctor_peer.c */
doctor_check_fn doctor_check_site, doctor_check_service;

#endif
