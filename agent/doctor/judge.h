/*
 * The judgements of "repl doctor" over what its probes found: no system call is
 * made here, so that each can be tested with the facts of a host that is not
 * there.
 */
#ifndef REPL_AGENT_DOCTOR_JUDGE_H
#define REPL_AGENT_DOCTOR_JUDGE_H

#include "control/status.h"
#include "doctor/findings.h"

struct doctor_kernel {
    char release[65]; /* as uname says: "6.1.0-25-amd64" */
    bool btf;         /* /sys/kernel/btf/vmlinux can be read */
};
void repl_judge_kernel(struct repl_findings *findings, enum repl_role role,
                       const struct doctor_kernel *kernel);

/* effective: a bit for each capability that this process has. */
void repl_judge_capabilities(struct repl_findings *findings, enum repl_role role,
                             uint64_t effective);
/* limit_bytes: RLIMIT_MEMLOCK; UINT64_MAX: none. */
void repl_judge_memlock(struct repl_findings *findings, uint64_t limit_bytes, bool may_exceed);

struct doctor_clock {
    bool known;        /* adjtimex could be asked */
    bool synchronised; /* the kernel has been told so by what sets the clock */
    int64_t error_us;  /* as far as that may be off, by its own word */
};
void repl_judge_clock(struct repl_findings *findings, const struct doctor_clock *clock);

/* A filesystem that something is written to. */
struct doctor_disk {
    const char *path; /* as a message names it */
    bool read_only;
    uint64_t free_bytes, size_bytes;
};
/* limit_bytes: of the spool. */
void repl_judge_spool(struct repl_findings *findings, const struct doctor_disk *disk,
                      uint64_t limit_bytes);
/* reserve_bytes: what has to stay free. */
void repl_judge_store(struct repl_findings *findings, const struct doctor_disk *disk,
                      uint64_t reserve_bytes);

struct doctor_quiesce {
    enum repl_quiesce quiesce;
    bool guard_answers;
    const char *filesystem;             /* "ext4"; "": none is mounted */
    const struct repl_error *no_freeze; /* why it cannot be frozen; NULL: it can */
};
/* Which ways of cutting a point a volume has, against the one it is told to take. */
void repl_judge_quiesce(struct repl_findings *findings, const struct repl_config_volume *volume,
                        const struct doctor_quiesce *facts);

/* The site's program, as it says; "": it does not. */
void repl_judge_peer_version(struct repl_findings *findings, const char *version,
                             const char *own_version);

/* What a running agent or site says of itself. own_version: of this program. */
void repl_judge_status(struct repl_findings *findings, const struct repl_status *status,
                       const char *own_version);

#endif
