/*
 * Everything comes from mountinfo and sysfs, read afresh for each hold.
 *
 * A filesystem is known by the device number mountinfo gives it. For most that
 * is the block device; btrfs and its like have a number of their own, and the
 * mount's source names the device. stat(2) may show a third number (a btrfs
 * subvolume's), so paths are looked up by their mount's id.
 */
#include "source/freeze/guard_mounts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "block/mounts.h"

/* Partition, device-mapper, md, loop device, once more: deeper stacks are not built. */
#define STACK_DEPTH_MAX 12

struct mount_line {
    unsigned long long id;
    dev_t device; /* of the filesystem */
    dev_t block;  /* the block device it is on; 0: none */
    char *where;
    char type[32];
};

struct mount_table {
    struct mount_line *lines;
    size_t count, room;
};

/* --- mountinfo ------------------------------------------------------------------------------- */

static void table_free(struct mount_table *table)
{
    for (size_t i = 0; i < table->count; i++)
        free(table->lines[i].where);
    free(table->lines);
    *table = (struct mount_table){0};
}

static repl_result table_add(void *context, const struct repl_mount *mount, struct repl_error *err)
{
    struct mount_table *table = context;
    if (table->count == table->room) {
        size_t room = table->room == 0 ? 64 : table->room * 2;
        struct mount_line *lines = reallocarray(table->lines, room, sizeof *lines);
        if (lines == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for the mounts");
        table->lines = lines;
        table->room = room;
    }
    struct mount_line *added = &table->lines[table->count];
    *added = (struct mount_line){.id = mount->id,
                                 .device = mount->number,
                                 .block = major(mount->device) != 0 ? mount->device : 0,
                                 .where = strdup(mount->point)};
    if (added->where == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the mounts");
    snprintf(added->type, sizeof added->type, "%.31s", mount->type);
    table->count++;
    return REPL_SUCCESS;
}

static repl_result table_read(struct mount_table *table, struct repl_error *err)
{
    *table = (struct mount_table){0};
    repl_result result = repl_mounts_visit(table_add, table, err);
    if (!repl_ok(result))
        table_free(table);
    return result;
}

/* The mount that an open file is on; NULL: not in this namespace. */
static const struct mount_line *line_of(const struct mount_table *table, int fd)
{
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &status) != 0)
        return NULL;
    for (size_t i = 0; (status.stx_mask & STATX_MNT_ID) && i < table->count; i++) {
        if (table->lines[i].id == status.stx_mnt_id)
            return &table->lines[i];
    }
    /* before Linux 5.8 */
    for (size_t i = 0; !(status.stx_mask & STATX_MNT_ID) && i < table->count; i++) {
        if (table->lines[i].device == makedev(status.stx_dev_major, status.stx_dev_minor))
            return &table->lines[i];
    }
    return NULL;
}

/* --- stacks of block devices ----------------------------------------------------------------- */

/* The number in a file such as /sys/dev/block/8:1/dev; 0: there is none. */
static dev_t sysfs_device(const char *path)
{
    unsigned major_number, minor_number;
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return 0;
    int got = fscanf(file, "%u:%u", &major_number, &minor_number);
    fclose(file);
    return got == 2 ? makedev(major_number, minor_number) : 0;
}

#define SYSFS_PATH_SIZE 512

static void sysfs_path(char path[SYSFS_PATH_SIZE], dev_t device, const char *rest)
{
    snprintf(path, SYSFS_PATH_SIZE, "/sys/dev/block/%u:%u/%s", major(device), minor(device), rest);
}

/* The disk that a partition is on; 0: it is none. */
static dev_t disk_of(dev_t device)
{
    char path[SYSFS_PATH_SIZE];
    sysfs_path(path, device, "partition");
    if (access(path, F_OK) != 0)
        return 0;
    sysfs_path(path, device, "../dev");
    return sysfs_device(path);
}

/* Whether visit says so of the device or of one below it: its disk, or what device-mapper and md
 * build it from. */
typedef bool stack_fn(void *context, dev_t device, unsigned depth);

static bool stack_any(dev_t device, unsigned depth, stack_fn *visit, void *context)
{
    char path[SYSFS_PATH_SIZE];
    if (device == 0 || depth == STACK_DEPTH_MAX)
        return false;
    if (visit(context, device, depth))
        return true;
    if (stack_any(disk_of(device), depth + 1, visit, context))
        return true;
    sysfs_path(path, device, "slaves");
    DIR *dir = opendir(path);
    bool found = false;
    for (struct dirent *entry; dir != NULL && !found && (entry = readdir(dir)) != NULL;) {
        char below[SYSFS_PATH_SIZE + sizeof entry->d_name + 8];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(below, sizeof below, "%s/%s/dev", path, entry->d_name);
        found = stack_any(sysfs_device(below), depth + 1, visit, context);
    }
    if (dir != NULL)
        closedir(dir);
    return found;
}

static bool is_device(void *context, dev_t device, unsigned depth)
{
    (void)depth;
    return device == *(const dev_t *)context;
}

/* --- what must not be frozen ----------------------------------------------------------------- */

struct dependency {
    const struct mount_table *table;
    const struct repl_freeze_set *set;
    const struct repl_freeze_mount *found; /* NULL with a true answer: it cannot be told */
};

/* True also where it cannot be told: then there is no freeze. */
static bool path_depends(struct dependency *on, const char *path, unsigned depth);

/* A loop device depends on the filesystem that holds its file. */
static bool loop_depends(void *context, dev_t device, unsigned depth)
{
    char path[SYSFS_PATH_SIZE], file[PATH_MAX];
    sysfs_path(path, device, "loop/backing_file");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, file, sizeof file - 1);
    close(fd);
    if (got <= 0)
        return true;
    file[got] = '\0';
    file[strcspn(file, "\n")] = '\0';
    return path_depends(context, file, depth + 1);
}

static bool mount_depends(struct dependency *on, const struct mount_line *line, unsigned depth)
{
    for (size_t i = 0; i < on->set->count; i++) {
        if (on->set->mounts[i].device == line->device) {
            on->found = &on->set->mounts[i];
            return true;
        }
    }
    return stack_any(line->block, depth, loop_depends, on);
}

/* O_PATH, or of the nearest directory above that exists; -1: none. */
static int open_nearest(const char *path)
{
    char at[PATH_MAX];
    snprintf(at, sizeof at, "%s", path);
    for (;;) {
        int fd = open(at, O_PATH | O_CLOEXEC);
        if (fd >= 0 || errno != ENOENT)
            return fd;
        char *slash = strrchr(at, '/');
        if (slash == NULL)
            return -1;
        slash[slash == at ? 1 : 0] = '\0';
        if (strcmp(at, "/") == 0)
            return open("/", O_PATH | O_CLOEXEC);
    }
}

/* In a chroot the mount that its root lies on is not listed; a filesystem's number tells its device
 * all the same, if it has one. */
static bool hidden_line(int fd, struct mount_line *out)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || major(status.st_dev) == 0)
        return false;
    *out = (struct mount_line){.device = status.st_dev, .block = status.st_dev};
    return true;
}

static bool path_depends(struct dependency *on, const char *path, unsigned depth)
{
    int fd = depth < STACK_DEPTH_MAX ? open_nearest(path) : -1;
    if (fd < 0)
        return true;
    const struct mount_line *line = line_of(on->table, fd);
    struct mount_line hidden;
    if (line == NULL && hidden_line(fd, &hidden))
        line = &hidden;
    close(fd);
    return line == NULL || mount_depends(on, line, depth);
}

static repl_result set_check(const struct mount_table *table, const struct repl_freeze_set *set,
                             const struct repl_freeze_protected *protects, size_t count,
                             struct repl_error *err)
{
    for (size_t i = 0; i < count; i++) {
        struct dependency on = {.table = table, .set = set};
        if (!path_depends(&on, protects[i].path, 0))
            continue;
        if (on.found == NULL)
            return repl_fail(err, REPL_E_REFUSED,
                             "it cannot be told which filesystem %s (%s) depends on, so nothing "
                             "is frozen: set quiesce = window for the volume",
                             protects[i].path, protects[i].what);
        return repl_fail(
            err, REPL_E_REFUSED,
            "the filesystem at %s cannot be frozen: it holds %s (%s), and the host or what "
            "thaws it would stand still with it; set quiesce = window for the volume, or move "
            "%s to another filesystem",
            on.found->where, protects[i].what, protects[i].path, protects[i].what);
    }
    return REPL_SUCCESS;
}

/* --- the set --------------------------------------------------------------------------------- */

/* -1: something else is mounted over it, or it cannot be opened. */
static int line_open(const struct mount_table *table, const struct mount_line *line)
{
    int fd = open(line->where, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -1;
    const struct mount_line *found = line_of(table, fd);
    if (found != NULL && found->device == line->device)
        return fd;
    close(fd);
    return -1;
}

static bool set_has(const struct repl_freeze_set *set, dev_t device)
{
    for (size_t i = 0; i < set->count; i++) {
        if (set->mounts[i].device == device)
            return true;
    }
    return false;
}

static repl_result set_add(struct repl_freeze_set *set, const struct mount_line *line, int fd,
                           struct repl_error *err)
{
    if (set->count == REPL_GUARD_MOUNTS_MAX) {
        close(fd);
        return repl_fail(err, REPL_E_REFUSED,
                         "more than %u filesystems would have to be frozen at once: set quiesce = "
                         "window, or make smaller groups",
                         REPL_GUARD_MOUNTS_MAX);
    }
    struct repl_freeze_mount *mount = &set->mounts[set->count++];
    *mount = (struct repl_freeze_mount){.device = line->device, .fd = fd};
    snprintf(mount->where, sizeof mount->where, "%.255s", line->where);
    memcpy(mount->type, line->type, sizeof mount->type);
    return REPL_SUCCESS;
}

static bool line_is_of(const struct mount_line *line, dev_t device)
{
    return stack_any(line->block, 0, is_device, &device);
}

static repl_result unreachable(const struct mount_line *line, struct repl_error *err)
{
    return repl_fail(err, REPL_E_REFUSED,
                     "the filesystem at %s cannot be reached, for something else is mounted over "
                     "it: unmount that, or set quiesce = window for the volume",
                     line->where);
}

/* A filesystem may be mounted in several places; one that can be opened will do. */
static repl_result set_fill(const struct mount_table *table, dev_t device,
                            struct repl_freeze_set *set, struct repl_error *err)
{
    bool any = false;
    for (size_t i = 0; i < table->count; i++) {
        const struct mount_line *line = &table->lines[i];
        bool wanted = !set_has(set, line->device) && line_is_of(line, device);
        int fd = wanted ? line_open(table, line) : -1;
        if (fd >= 0)
            REPL_TRY(set_add(set, line, fd, err));
    }
    for (size_t i = 0; i < table->count; i++) {
        if (!line_is_of(&table->lines[i], device))
            continue;
        any = true;
        if (!set_has(set, table->lines[i].device))
            return unreachable(&table->lines[i], err);
    }
    if (!any)
        return repl_fail(err, REPL_E_REFUSED,
                         "no filesystem of device %u:%u is mounted here, so there is nothing to "
                         "freeze: mount it, or set quiesce = window for the volume",
                         major(device), minor(device));
    return REPL_SUCCESS;
}

repl_result repl_freeze_set_open(const dev_t *devices, size_t device_count,
                                 const struct repl_freeze_protected *protects, size_t protect_count,
                                 struct repl_freeze_set *out, struct repl_error *err)
{
    struct mount_table table;
    out->count = 0;
    REPL_TRY(table_read(&table, err));
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; repl_ok(result) && i < device_count; i++)
        result = set_fill(&table, devices[i], out, err);
    if (repl_ok(result))
        result = set_check(&table, out, protects, protect_count, err);
    table_free(&table);
    if (!repl_ok(result))
        repl_freeze_set_close(out);
    return result;
}

void repl_freeze_set_close(struct repl_freeze_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        close(set->mounts[i].fd);
    set->count = 0;
}

int repl_freeze_open_by_device(dev_t device)
{
    struct mount_table table;
    int fd = -1;
    if (!repl_ok(table_read(&table, NULL)))
        return -1;
    for (size_t i = 0; fd < 0 && i < table.count; i++) {
        if (table.lines[i].device == device)
            fd = line_open(&table, &table.lines[i]);
    }
    table_free(&table);
    return fd;
}
