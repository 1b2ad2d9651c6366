#include "block/sysfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static bool attribute_path(dev_t device, const char *attribute, char out[PATH_MAX])
{
    int length =
        snprintf(out, PATH_MAX, "/sys/dev/block/%u:%u/%s", major(device), minor(device), attribute);
    return length > 0 && length < PATH_MAX;
}

bool repl_sysfs_read(dev_t device, const char *attribute, char *out, size_t size)
{
    char path[PATH_MAX];
    out[0] = '\0';
    int fd = attribute_path(device, attribute, path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return false;
    ssize_t got = read(fd, out, size - 1);
    close(fd);
    out[got > 0 ? got : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return out[0] != '\0';
}

bool repl_sysfs_read_number(dev_t device, const char *attribute, uint64_t *out)
{
    char text[64], *end;
    *out = 0;
    if (!repl_sysfs_read(device, attribute, text, sizeof text))
        return false;
    *out = strtoull(text, &end, 10);
    return end != text;
}

bool repl_sysfs_has(dev_t device, const char *attribute)
{
    char path[PATH_MAX];
    return attribute_path(device, attribute, path) && access(path, F_OK) == 0;
}

repl_result repl_sysfs_open(dev_t device, const char *attribute, int *fd, struct repl_error *err)
{
    char path[PATH_MAX];
    *fd = attribute_path(device, attribute, path) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (*fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", path);
    return REPL_SUCCESS;
}

repl_result repl_sysfs_name(dev_t device, char out[REPL_SYSFS_NAME_SIZE], struct repl_error *err)
{
    char path[64], link[PATH_MAX];
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u", major(device), minor(device));
    ssize_t length = readlink(path, link, sizeof link - 1);
    if (length <= 0)
        return repl_fail_errno(err, REPL_E_IO, errno,
                               "%s: is /sys mounted, and the device still there?", path);
    link[length] = '\0';
    const char *slash = strrchr(link, '/');
    snprintf(out, REPL_SYSFS_NAME_SIZE, "%.63s", slash != NULL ? slash + 1 : link);
    return REPL_SUCCESS;
}

/* A partition lies in its disk's directory. */
dev_t repl_sysfs_disk(dev_t device)
{
    char text[32];
    unsigned high, low;
    if (!repl_sysfs_has(device, "partition") ||
        !repl_sysfs_read(device, "../dev", text, sizeof text) ||
        sscanf(text, "%u:%u", &high, &low) != 2)
        return device;
    return makedev(high, low);
}

bool repl_sysfs_overlap(dev_t a, dev_t b)
{
    dev_t disk_a = repl_sysfs_disk(a), disk_b = repl_sysfs_disk(b);
    return a == b || (disk_a == disk_b && (a == disk_a || b == disk_b));
}

repl_result repl_sysfs_partitions(dev_t disk, repl_sysfs_partition_fn *visit, void *context,
                                  struct repl_error *err)
{
    char path[PATH_MAX], attribute[300];
    if (!attribute_path(disk, "", path))
        return repl_fail(err, REPL_E_INTERNAL, "the path of a device in sysfs is too long");
    DIR *listing = opendir(path);
    if (listing == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", path);
    repl_result result = REPL_SUCCESS;
    for (struct dirent *entry; repl_ok(result) && (entry = readdir(listing)) != NULL;) {
        snprintf(attribute, sizeof attribute, "%s/partition", entry->d_name);
        if (entry->d_name[0] != '.' && repl_sysfs_has(disk, attribute))
            result = visit(context, entry->d_name, err);
    }
    closedir(listing);
    return result;
}
