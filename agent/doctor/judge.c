#include "doctor/judge.h"

#include <inttypes.h>
#include <linux/capability.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* Linux 5.17 has all that tracking needs: bpf_loop, and fanotify's FAN_REPORT_TARGET_FID. */
#define TRACK_MAJOR 5u
#define TRACK_MINOR 17u
/* 5.6: openat2, without which a tree is not restored. */
#define OLDEST_MINOR 6u

/* Before 5.11 the kernel counted the memory of BPF maps against it, since then what is locked by
 * the guard. */
#define MEMLOCK_WANTED_BYTES (64 * MIB)

#define CLOCK_ERROR_WARN_US INT64_C(500000)
#define OFFSET_NOTE_MS      INT64_C(1000)
#define OFFSET_WARN_MS      INT64_C(10000)

#define SPOOL_LEAST_BYTES (64 * MIB)
#define SIZE_TEXT         24

static void size_text(uint64_t bytes, char text[SIZE_TEXT])
{
    if (bytes >= 10 * GIB)
        snprintf(text, SIZE_TEXT, "%.1f GiB", (double)bytes / (double)GIB);
    else
        snprintf(text, SIZE_TEXT, "%.1f MiB", (double)bytes / (double)MIB);
}

/* --- the host -------------------------------------------------------------------------------- */

static bool is_older(const char *release, unsigned major, unsigned minor)
{
    unsigned have_major = 0, have_minor = 0;
    if (sscanf(release, "%u.%u", &have_major, &have_minor) != 2)
        return false; /* it cannot be told, and what needs it says so */
    return have_major < major || (have_major == major && have_minor < minor);
}

void repl_judge_kernel(struct repl_findings *findings, enum repl_role role,
                       const struct doctor_kernel *kernel)
{
    if (is_older(kernel->release, TRACK_MAJOR, OLDEST_MINOR))
        repl_finding_add(
            findings, REPL_FINDING_WARNING, "kernel", NULL, "upgrade the kernel to 5.17 or newer",
            "Linux %s is older than 5.6: directory trees cannot be restored here", kernel->release);
    else if (role == REPL_ROLE_SITE)
        repl_finding_add(findings, REPL_FINDING_OK, "kernel", NULL, NULL, "Linux %s",
                         kernel->release);
    else if (is_older(kernel->release, TRACK_MAJOR, TRACK_MINOR))
        repl_finding_add(findings, REPL_FINDING_WARNING, "kernel", NULL,
                         "upgrade the kernel to 5.17 or newer",
                         "Linux %s is older than 5.17: changes cannot be tracked, each point reads "
                         "all of a volume",
                         kernel->release);
    else if (!kernel->btf)
        repl_finding_add(
            findings, REPL_FINDING_WARNING, "kernel", NULL,
            "run a kernel with CONFIG_DEBUG_INFO_BTF=y",
            "Linux %s has no BTF (/sys/kernel/btf/vmlinux): changes cannot be tracked, "
            "each point reads all of a volume",
            kernel->release);
    else
        repl_finding_add(findings, REPL_FINDING_OK, "kernel", NULL, NULL, "Linux %s, with BTF",
                         kernel->release);
}

/* As the units in packaging/systemd give them. */
static const struct {
    unsigned number;
    const char *name;
    unsigned roles; /* a bit each */
} capabilities[] = {
    {CAP_SYS_ADMIN, "CAP_SYS_ADMIN", 1u << REPL_ROLE_AGENT | 1u << REPL_ROLE_SITE},
    {CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", 1u << REPL_ROLE_AGENT},
    {CAP_FOWNER, "CAP_FOWNER", 1u << REPL_ROLE_AGENT | 1u << REPL_ROLE_SITE},
    {CAP_SYS_NICE, "CAP_SYS_NICE", 1u << REPL_ROLE_AGENT},
    {CAP_IPC_LOCK, "CAP_IPC_LOCK", 1u << REPL_ROLE_AGENT},
    {CAP_PERFMON, "CAP_PERFMON", 1u << REPL_ROLE_AGENT},
    {CAP_BPF, "CAP_BPF", 1u << REPL_ROLE_AGENT},
    {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", 1u << REPL_ROLE_SITE},
    {CAP_CHOWN, "CAP_CHOWN", 1u << REPL_ROLE_SITE},
    {CAP_MKNOD, "CAP_MKNOD", 1u << REPL_ROLE_SITE},
};

void repl_judge_capabilities(struct repl_findings *findings, enum repl_role role,
                             uint64_t effective)
{
    char missing[256] = "";
    for (size_t i = 0; i < sizeof capabilities / sizeof capabilities[0]; i++) {
        size_t used = strlen(missing);
        if ((capabilities[i].roles & 1u << role) != 0 &&
            (effective & UINT64_C(1) << capabilities[i].number) == 0)
            snprintf(missing + used, sizeof missing - used, "%s%s", used > 0 ? ", " : "",
                     capabilities[i].name);
    }
    if (missing[0] != '\0')
        repl_finding_add(findings, REPL_FINDING_WARNING, "privileges", NULL,
                         "run \"repl doctor\" as root; in a container, give it these capabilities",
                         "this process lacks %s: what follows may fail for that alone", missing);
    else
        repl_finding_add(findings, REPL_FINDING_OK, "privileges", NULL, NULL,
                         "all capabilities that are needed");
}

void repl_judge_memlock(struct repl_findings *findings, uint64_t limit_bytes, bool may_exceed)
{
    char limit[SIZE_TEXT];
    size_text(limit_bytes, limit);
    if (may_exceed || limit_bytes == UINT64_MAX)
        repl_finding_add(findings, REPL_FINDING_OK, "memlock", NULL, NULL,
                         "memory may be locked without a limit");
    else if (limit_bytes >= MEMLOCK_WANTED_BYTES)
        repl_finding_add(findings, REPL_FINDING_OK, "memlock", NULL, NULL,
                         "%s of memory may be locked", limit);
    else
        repl_finding_add(findings, REPL_FINDING_WARNING, "memlock", NULL,
                         "set LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited",
                         "only %s of memory may be locked (RLIMIT_MEMLOCK): the guard and, before "
                         "Linux 5.11, the tracking need more",
                         limit);
}

void repl_judge_clock(struct repl_findings *findings, const struct doctor_clock *clock)
{
    if (!clock->known)
        repl_finding_add(findings, REPL_FINDING_NOTE, "clock", NULL, NULL,
                         "whether the clock is synchronised cannot be asked here (adjtimex)");
    else if (!clock->synchronised)
        repl_finding_add(findings, REPL_FINDING_WARNING, "clock", NULL,
                         "run chrony, systemd-timesyncd or ntpd; in a container or a virtual "
                         "machine, see to the clock of its host",
                         "the kernel says that nothing synchronises the clock: points carry "
                         "this host's time");
    else if (clock->error_us > CLOCK_ERROR_WARN_US)
        repl_finding_add(findings, REPL_FINDING_WARNING, "clock", NULL,
                         "see what chronyc tracking or timedatectl timesync-status says",
                         "synchronised, but may be off by %" PRId64 " ms", clock->error_us / 1000);
    else
        repl_finding_add(findings, REPL_FINDING_OK, "clock", NULL, NULL,
                         "synchronised, within %" PRId64 " ms", clock->error_us / 1000);
}

/* --- room ------------------------------------------------------------------------------------ */

static bool is_read_only(struct repl_findings *findings, const char *check,
                         const struct doctor_disk *disk)
{
    struct repl_error err;
    if (!disk->read_only)
        return false;
    repl_ignore(
        repl_fail(&err, REPL_E_IO, "the filesystem of %s is mounted read-only", disk->path));
    repl_finding_fail(findings, check, NULL,
                      "see in the kernel's log whether it was remounted after an error", &err);
    return true;
}

void repl_judge_spool(struct repl_findings *findings, const struct doctor_disk *disk,
                      uint64_t limit_bytes)
{
    char left[SIZE_TEXT], limit[SIZE_TEXT];
    struct repl_error err;
    size_text(disk->free_bytes, left);
    size_text(limit_bytes, limit);
    if (is_read_only(findings, "spool", disk))
        return;
    if (disk->free_bytes < SPOOL_LEAST_BYTES) {
        repl_ignore(repl_fail(&err, REPL_E_NOSPACE,
                              "%s is free for state and spool in %s: points cannot be kept", left,
                              disk->path));
        repl_finding_fail(findings, "spool", NULL,
                          "make room there, or move [agent] state to a larger filesystem", &err);
    } else if (disk->free_bytes < limit_bytes) {
        repl_finding_add(findings, REPL_FINDING_WARNING, "spool", NULL,
                         "make room there, or set [agent] spool_limit to what may be used",
                         "%s is free in %s, and the spool may grow to %s while the site is away",
                         left, disk->path, limit);
    } else {
        repl_finding_add(findings, REPL_FINDING_OK, "spool", NULL, NULL,
                         "%s is free in %s, for a spool of %s at most", left, disk->path, limit);
    }
}

void repl_judge_store(struct repl_findings *findings, const struct doctor_disk *disk,
                      uint64_t reserve_bytes)
{
    char left[SIZE_TEXT], reserve[SIZE_TEXT];
    struct repl_error err;
    size_text(disk->free_bytes, left);
    size_text(reserve_bytes, reserve);
    if (is_read_only(findings, "space", disk))
        return;
    if (disk->free_bytes <= reserve_bytes) {
        repl_ignore(repl_fail(&err, REPL_E_NOSPACE,
                              "%s is free in %s, of which %s have to stay so: no segment is taken "
                              "in",
                              left, disk->path, reserve));
        repl_finding_fail(findings, "space", NULL,
                          "enlarge the filesystem, shorten retention, or lower [site] "
                          "space_reserve",
                          &err);
    } else if (disk->free_bytes - reserve_bytes < disk->size_bytes / 10) {
        repl_finding_add(findings, REPL_FINDING_WARNING, "space", NULL,
                         "enlarge the filesystem, or shorten retention",
                         "%s is free in %s, of which %s stay so: less than a tenth is left", left,
                         disk->path, reserve);
    } else {
        repl_finding_add(findings, REPL_FINDING_OK, "space", NULL, NULL,
                         "%s is free in %s, of which %s stay so", left, disk->path, reserve);
    }
}

/* --- how points are cut ---------------------------------------------------------------------- */

static const char *way_of(enum repl_quiesce quiesce)
{
    switch (quiesce) {
    case REPL_QUIESCE_WINDOW:
        return "in a window";
    case REPL_QUIESCE_WINDOW_ELSE_FREEZE:
        return "in a window, else under a freeze";
    case REPL_QUIESCE_FREEZE:
        return "under a freeze";
    case REPL_QUIESCE_COMMAND:
        return "in a window between its commands";
    case REPL_QUIESCE_WINDOW_ELSE_SNAPSHOT:
        return "in a window, else from a snapshot";
    case REPL_QUIESCE_SNAPSHOT:
        return "from a snapshot";
    case REPL_QUIESCE_WINDOW_ELSE_FILES:
        return "in a window, else per file";
    }
    return "";
}

static bool must_freeze(enum repl_quiesce quiesce)
{
    return quiesce == REPL_QUIESCE_FREEZE;
}

static bool may_freeze(enum repl_quiesce quiesce)
{
    return quiesce == REPL_QUIESCE_FREEZE || quiesce == REPL_QUIESCE_WINDOW_ELSE_FREEZE;
}

/* What a method that is always taken lacks is a failure; what one that is taken where no window is
 * found lacks may never be missed. */
static void method_lacks(struct repl_findings *findings, const char *volume, bool always,
                         const char *next, const struct repl_error *err)
{
    if (always)
        repl_finding_fail(findings, "quiesce", volume, next, err);
    else
        repl_finding_warn(findings, "quiesce", volume, next, err);
}

void repl_judge_quiesce(struct repl_findings *findings, const struct repl_config_volume *volume,
                        const struct doctor_quiesce *facts)
{
    enum repl_quiesce quiesce = facts->quiesce;
    struct repl_error err;
    bool guard = may_freeze(quiesce) || quiesce == REPL_QUIESCE_COMMAND;
    if (guard && !facts->guard_answers) {
        repl_ignore(repl_fail(&err, REPL_E_RETRY,
                              "quiesce needs the freeze guard, and none answers at its socket"));
        method_lacks(findings, volume->name, quiesce != REPL_QUIESCE_WINDOW_ELSE_FREEZE,
                     "systemctl start repl-guard (or \"repl guard\")", &err);
    } else if (may_freeze(quiesce) && facts->no_freeze != NULL) {
        method_lacks(findings, volume->name, must_freeze(quiesce),
                     "mount it, or set quiesce = window for the volume", facts->no_freeze);
    } else if (repl_quiesce_has_snapshots(quiesce) && strcmp(facts->filesystem, "btrfs") != 0) {
        repl_ignore(repl_fail(&err, REPL_E_REFUSED,
                              "quiesce wants a snapshot, which %s cannot make",
                              facts->filesystem[0] != '\0' ? facts->filesystem : "this"));
        method_lacks(findings, volume->name, quiesce == REPL_QUIESCE_SNAPSHOT,
                     "set quiesce = window, or freeze, for the volume", &err);
    } else {
        repl_finding_add(findings, REPL_FINDING_OK, "quiesce", volume->name, NULL,
                         "points are cut %s", way_of(quiesce));
    }
}

/* --- the service ----------------------------------------------------------------------------- */

static void offset_judge(struct repl_findings *findings, const struct repl_status *status)
{
    int64_t worst_ms = 0;
    bool known = false;
    for (size_t i = 0; i < status->volume_count; i++) {
        const struct repl_volume_status *volume = &status->volumes[i];
        int64_t ahead_ms = volume->clock_offset_ms;
        if (!volume->clock_known)
            continue;
        if (!known || (ahead_ms < 0 ? -ahead_ms : ahead_ms) > (worst_ms < 0 ? -worst_ms : worst_ms))
            worst_ms = ahead_ms;
        known = true;
    }
    int64_t off_ms = worst_ms < 0 ? -worst_ms : worst_ms;
    if (!known)
        return;
    repl_finding_add(findings,
                     off_ms >= OFFSET_WARN_MS   ? REPL_FINDING_WARNING
                     : off_ms >= OFFSET_NOTE_MS ? REPL_FINDING_NOTE
                                                : REPL_FINDING_OK,
                     "clock", NULL,
                     off_ms >= OFFSET_WARN_MS ? "find out which of the two clocks is wrong: a time "
                                                "for a restore is one of this host's clock"
                                              : NULL,
                     "the site's clock is %" PRId64 " ms %s this host's", off_ms,
                     worst_ms < 0 ? "behind" : "ahead of");
}

/* What a site says of a volume beside its state. */
static void site_volume_judge(struct repl_findings *findings,
                              const struct repl_volume_status *volume)
{
    if (volume->replica_problem[0] != '\0')
        repl_finding_add(findings, REPL_FINDING_WARNING, "replica", volume->name,
                         "see \"repl status\" for the remedy; its points can be restored",
                         "the replica cannot follow: %s", volume->replica_problem);
    if (volume->index_problem[0] != '\0')
        repl_finding_add(findings, REPL_FINDING_WARNING, "index", volume->name,
                         "see \"repl status\" for the remedy", "the index is not complete: %s",
                         volume->index_problem);
    if (volume->trouble[0] != '\0')
        repl_finding_add(
            findings, REPL_FINDING_WARNING, "trouble", volume->name,
            "look at it with \"repl points\"; restore with --at \"before trouble\", or "
            "hold a point with \"repl mark --hold\" to say that it was seen",
            "its changes looked like %s from point %" PRIu64 " on", volume->trouble,
            volume->trouble_seq);
    if (volume->damaged[0] != '\0')
        repl_finding_add(findings, REPL_FINDING_WARNING, "damage", volume->name,
                         "see \"repl points\" for what can be restored, and check the disk",
                         "damaged in the store: %s", volume->damaged);
}

static void volume_judge(struct repl_findings *findings, const struct repl_status *status,
                         const struct repl_volume_status *volume)
{
    bool late = volume->rpo_ms > 0 && volume->lag_ms > volume->rpo_ms;
    if (volume->state > REPL_STATE_IDLE)
        repl_finding_add(findings, REPL_FINDING_WARNING, "volume", volume->name,
                         volume->remedy[0] != '\0' ? volume->remedy : "see \"repl status\"",
                         "is %s: %s", repl_state_name(volume->state), volume->cause);
    else if (late)
        repl_finding_add(findings, REPL_FINDING_WARNING, "volume", volume->name,
                         "see \"repl status\" for its backlog",
                         "what could be restored is %" PRId64 " s old, its rpo is %" PRId64 " ms",
                         volume->lag_ms / 1000, volume->rpo_ms);
    else
        repl_finding_add(findings, REPL_FINDING_OK, "volume", volume->name, NULL, "is %s",
                         repl_state_name(volume->state));
    if (!status->site && volume->untracked[0] != '\0')
        repl_finding_add(findings, REPL_FINDING_WARNING, "tracking", volume->name,
                         "see the finding on tracking above, and restart the agent",
                         "changes are not tracked, each round looks at all of it: %s",
                         volume->untracked);
    if (status->site)
        site_volume_judge(findings, volume);
}

void repl_judge_peer_version(struct repl_findings *findings, const char *version,
                             const char *own_version)
{
    if (version[0] == '\0')
        repl_finding_add(findings, REPL_FINDING_NOTE, "protocol", NULL, NULL,
                         "the site does not say which repl it runs: an older one, or our key is a "
                         "stranger's to it");
    else if (strcmp(version, own_version) != 0)
        repl_finding_add(findings, REPL_FINDING_NOTE, "protocol", NULL, NULL,
                         "the site runs repl %s, this host %s", version, own_version);
    else
        repl_finding_add(findings, REPL_FINDING_OK, "protocol", NULL, NULL,
                         "the site runs repl %s, as this host does", version);
}

void repl_judge_status(struct repl_findings *findings, const struct repl_status *status,
                       const char *own_version)
{
    if (strcmp(status->version, own_version) != 0)
        repl_finding_add(findings, REPL_FINDING_WARNING, "service", NULL,
                         "restart the service; that needs no resync",
                         "it runs repl %s, and this program is %s", status->version, own_version);
    else
        repl_finding_add(findings, REPL_FINDING_OK, "service", NULL, NULL,
                         "it answers: repl %s, %s, %zu volume%s", status->version, status->io,
                         status->volume_count, status->volume_count == 1 ? "" : "s");
    if (!status->site)
        offset_judge(findings, status);
    if (status->clock_doubt[0] != '\0')
        repl_finding_add(findings, REPL_FINDING_WARNING, "retention", NULL, "see \"repl status\"",
                         "%s", status->clock_doubt);
    if (status->store_warning[0] != '\0')
        repl_finding_add(findings, REPL_FINDING_WARNING, "store", NULL, "see \"repl status\"", "%s",
                         status->store_warning);
    if (status->site && status->space_limit_bytes > 0 &&
        status->stored_bytes >= status->space_limit_bytes)
        repl_finding_add(findings, REPL_FINDING_WARNING, "space", NULL,
                         "raise [site] space_limit, or shorten retention",
                         "the histories have reached the site's space_limit");
    for (size_t i = 0; i < status->volume_count; i++)
        volume_judge(findings, status, &status->volumes[i]);
}
