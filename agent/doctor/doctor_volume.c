/*
 * One protected volume: whether it is there, what lies on it, and how points of
 * it can be cut.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "block/mounts.h"
#include "doctor/doctor_internal.h"
#include "doctor/judge.h"
#include "source/capture/device.h"
#include "source/freeze/guard_mounts.h"
#include "source/tree/tree_dirty.h"
#include "source/tree/tree_watch.h"

struct place {
    dev_t device; /* what would be frozen */
    bool partitions;
    char filesystem[64];
    char where[256];
};

/* --- the filesystem -------------------------------------------------------------------------- */

static repl_result mount_look(void *context, const struct repl_mount *mount, struct repl_error *err)
{
    struct place *place = context;
    (void)err;
    if (place->filesystem[0] != '\0' ||
        !(place->partitions ? repl_sysfs_overlap(mount->device, place->device)
                            : mount->device == place->device))
        return REPL_SUCCESS;
    snprintf(place->filesystem, sizeof place->filesystem, "%s", mount->type);
    snprintf(place->where, sizeof place->where, "%.255s", mount->point);
    return REPL_SUCCESS;
}

static bool guard_answers(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof address.sun_path || fd < 0) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    memcpy(address.sun_path, path, strlen(path));
    bool answers = connect(fd, (const void *)&address, sizeof address) == 0;
    close(fd);
    return answers;
}

/* Only looks: nothing is frozen. */
static void quiesce_check(const struct repl_config *config, const struct repl_config_volume *volume,
                          struct place *place, struct repl_findings *findings)
{
    const struct repl_freeze_protected protects[] = {{"/", "the root of the system"},
                                                     {config->state, "the agent's state and spool"},
                                                     {config->control, "the control socket"},
                                                     {config->guard, "the guard's socket"}};
    struct repl_freeze_set set;
    struct repl_error no_freeze;
    struct doctor_quiesce facts = {.quiesce = volume->quiesce,
                                   .guard_answers = guard_answers(config->guard),
                                   .filesystem = place->filesystem};
    if (repl_ok(repl_freeze_set_open(&place->device, 1, protects,
                                     sizeof protects / sizeof protects[0], &set, &no_freeze)))
        repl_freeze_set_close(&set);
    else
        facts.no_freeze = &no_freeze;
    repl_judge_quiesce(findings, volume, &facts);
}

/* --- of either kind -------------------------------------------------------------------------- */

/* What does not exist is missing, whatever the call says. */
static void volume_fail(struct repl_findings *findings, const char *volume, const char *next,
                        struct repl_error *err)
{
    if (err->os_errno == ENOENT || err->os_errno == ENXIO || err->os_errno == ENODEV ||
        err->os_errno == ENOTDIR)
        err->code = REPL_E_MISSING;
    repl_finding_fail(findings, "volume", volume, next, err);
}

static void block_check(const struct repl_config *config, const struct repl_config_volume *volume,
                        struct repl_findings *findings)
{
    struct repl_device device;
    struct repl_error err;
    struct place place = {.partitions = true};
    bool write_back = true;
    if (!repl_ok(repl_device_open(volume->device, &device, &err))) {
        volume_fail(findings, volume->name,
                    "attach the device, or correct \"device\" in its [volume] section (lsblk lists "
                    "what is there)",
                    &err);
        return;
    }
    place.device = device.number;
    repl_ignore(repl_mounts_visit(mount_look, &place, NULL)); /* then nothing is said of it */
    repl_ignore(repl_device_write_back(&device, &write_back, NULL));
    repl_finding_add(findings, REPL_FINDING_OK, "volume", volume->name, NULL,
                     "%s (%s), %.1f GiB, %s cache, %s%s%s", volume->device, device.identity,
                     (double)device.size / (double)(1u << 30),
                     write_back ? "write-back" : "write-through",
                     place.filesystem[0] != '\0' ? place.filesystem : "nothing of it is mounted",
                     place.filesystem[0] != '\0' ? " at " : "", place.where);
    repl_device_close(&device);
    quiesce_check(config, volume, &place, findings);
}

static void tree_follow_check(const struct repl_tree_root *root,
                              const struct repl_config_volume *volume,
                              struct repl_findings *findings)
{
    struct repl_tree_watch *watch = NULL;
    struct repl_error err;
    if (!repl_ok(repl_tree_watch_open(root, root->fd, &watch, &err))) {
        repl_finding_warn(findings, "tracking", volume->name,
                          "until then each point looks at every name of the tree", &err);
        return;
    }
    repl_tree_watch_close(watch);
    if (!repl_ok(repl_tree_dirty_try(root, &err)))
        repl_finding_warn(findings, "tracking", volume->name,
                          "until then each file that changed is read whole", &err);
    else
        repl_finding_add(findings, REPL_FINDING_OK, "tracking", volume->name, NULL,
                         "fanotify and the programs that notice writes can be used");
}

static void tree_check(const struct repl_config *config, const struct repl_config_volume *volume,
                       struct repl_findings *findings)
{
    struct repl_tree_root root;
    struct repl_error err;
    struct place place = {0};
    dev_t number;
    if (!repl_ok(repl_tree_root_open(volume->path, &root, &err))) {
        volume_fail(findings, volume->name,
                    "mount its filesystem, or correct \"path\" in its [volume] section", &err);
        return;
    }
    if (repl_ok(repl_mount_of(root.fd, volume->path, &number, &place.device, &err)))
        repl_ignore(repl_mounts_visit(mount_look, &place, NULL)); /* then nothing is said of it */
    repl_finding_add(findings, REPL_FINDING_OK, "volume", volume->name, NULL, "%s, on %s",
                     volume->path,
                     place.filesystem[0] != '\0' ? place.filesystem : "an unknown filesystem");
    tree_follow_check(&root, volume, findings);
    repl_tree_root_close(&root);
    quiesce_check(config, volume, &place, findings);
}

void doctor_check_volume(const struct repl_config *config, const struct repl_config_volume *volume,
                         struct repl_findings *findings)
{
    if (volume->kind == REPL_VOLUME_TREE)
        tree_check(config, volume, findings);
    else
        block_check(config, volume, findings);
}
