/*
 * What the kernel and this process may do.
 */
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "doctor/doctor.h"
#include "doctor/doctor_internal.h"
#include "doctor/judge.h"
#include "format/wire.h"
#include "loop/loop.h"
#include "source/capture/tracker.h"

#define BPFFS           "/sys/fs/bpf"
#define CAP_IPC_LOCK_AT 14

/* 0: it cannot be told. */
static uint64_t effective_capabilities(void)
{
    char line[128];
    unsigned long long effective = 0;
    FILE *file = fopen("/proc/self/status", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "CapEff: %llx", &effective) == 1)
            break;
    }
    if (file != NULL)
        fclose(file);
    return effective;
}

void doctor_check_kernel(const struct repl_config *config, const struct repl_config_volume *volume,
                         struct repl_findings *findings)
{
    struct doctor_kernel kernel = {.btf = access("/sys/kernel/btf/vmlinux", R_OK) == 0};
    struct utsname name;
    struct rlimit limit;
    uint64_t effective = effective_capabilities();
    (void)volume;
    if (uname(&name) == 0)
        snprintf(kernel.release, sizeof kernel.release, "%.64s", name.release);
    repl_finding_add(findings, REPL_FINDING_OK, "program", NULL, NULL,
                     "repl %s, protocol version %u", REPL_VERSION, REPL_PROTOCOL_MAX);
    repl_judge_kernel(findings, config->role, &kernel);
    repl_judge_capabilities(findings, config->role, effective);
    if (config->role == REPL_ROLE_AGENT && getrlimit(RLIMIT_MEMLOCK, &limit) == 0)
        repl_judge_memlock(findings,
                           limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : (uint64_t)limit.rlim_cur,
                           (effective & UINT64_C(1) << CAP_IPC_LOCK_AT) != 0);
}

void repl_doctor_kernel(struct repl_findings *findings)
{
    static const struct repl_config agent = {.role = REPL_ROLE_AGENT};
    doctor_check_kernel(&agent, NULL, findings);
}

void doctor_check_tracking(const struct repl_config *config,
                           const struct repl_config_volume *volume, struct repl_findings *findings)
{
    struct repl_error err;
    struct statfs fs;
    (void)config, (void)volume;
    if (!repl_ok(repl_tracker_try(&err))) {
        repl_finding_warn(findings, "tracking", NULL,
                          "allow BPF to the agent, or live with points that read all of a volume",
                          &err);
        return;
    }
    repl_finding_add(findings, REPL_FINDING_OK, "tracking", NULL, NULL,
                     "the kernel takes the tracking programs");
    if (statfs(BPFFS, &fs) != 0 || fs.f_type != BPF_FS_MAGIC)
        repl_finding_add(findings, REPL_FINDING_NOTE, "tracking", NULL, NULL,
                         "no BPF filesystem is mounted at " BPFFS ": the agent mounts it");
}

/* What the administrator has said of io_uring; -1: the kernel has no such sysctl. */
static int io_uring_disabled(void)
{
    int value = -1;
    FILE *file = fopen("/proc/sys/kernel/io_uring_disabled", "re");
    if (file == NULL)
        return -1;
    if (fscanf(file, "%d", &value) != 1)
        value = -1;
    fclose(file);
    return value;
}

void doctor_check_io(const struct repl_config *config, const struct repl_config_volume *volume,
                     struct repl_findings *findings)
{
    const struct repl_loop_options options = {.backend = REPL_LOOP_IO_URING, .workers = 1};
    struct repl_loop *loop = NULL;
    struct repl_error err;
    (void)config, (void)volume;
    if (repl_ok(repl_loop_new(&options, &loop, &err))) {
        repl_loop_free(loop);
        repl_finding_add(findings, REPL_FINDING_OK, "io_uring", NULL, NULL, "io_uring can be used");
        return;
    }
    repl_finding_add(
        findings, REPL_FINDING_NOTE, "io_uring", NULL,
        io_uring_disabled() > 0 ? "sysctl kernel.io_uring_disabled=0, if it may be used" : NULL,
        "epoll and threads are used instead, with more of the processor: %s", err.text);
}

void doctor_check_clock(const struct repl_config *config, const struct repl_config_volume *volume,
                        struct repl_findings *findings)
{
    struct timex timex = {0};
    struct doctor_clock clock;
    (void)config, (void)volume;
    int state = adjtimex(&timex);
    clock.known = state != -1;
    clock.synchronised = state != TIME_ERROR && (timex.status & STA_UNSYNC) == 0;
    clock.error_us = timex.maxerror;
    repl_judge_clock(findings, &clock);
}
