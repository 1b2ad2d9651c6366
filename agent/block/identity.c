#include "block/identity.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "block/sysfs.h"

#define NAME_KIND "name:"

bool repl_identity_serial(dev_t disk, const char **kind, char *out, size_t size)
{
    static const struct {
        const char *attribute, *kind;
    } sources[] = {
        {"wwid", "wwid"},     {"device/wwid", "wwid"}, {"device/serial", "serial"},
        {"serial", "serial"}, {"dm/uuid", "dm"},
    };
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        *kind = sources[i].kind;
        if (repl_sysfs_read(disk, sources[i].attribute, out, size) && out[strspn(out, " ")] != '\0')
            return true;
    }
    return false;
}

bool repl_identity_backing(dev_t disk, struct stat *out)
{
    char path[PATH_MAX];
    return repl_sysfs_read(disk, "loop/backing_file", path, sizeof path) && stat(path, out) == 0;
}

/* The partition's UUID by the link udev keeps for it. */
static bool partition_uuid(dev_t device, char *out, size_t size)
{
    static const char directory[] = "/dev/disk/by-partuuid";
    DIR *listing = opendir(directory);
    if (listing == NULL)
        return false;
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(listing)) != NULL;) {
        struct stat st;
        if (entry->d_name[0] == '.' || fstatat(dirfd(listing), entry->d_name, &st, 0) != 0)
            continue;
        found = S_ISBLK(st.st_mode) && st.st_rdev == device;
        if (found)
            snprintf(out, size, "%.127s", entry->d_name);
    }
    closedir(listing);
    return found;
}

static bool disk_identity(dev_t disk, char *out, size_t size)
{
    const char *kind;
    char serial[192];
    struct stat file;
    if (repl_identity_serial(disk, &kind, serial, sizeof serial)) {
        size_t length = strlen(serial);
        while (length > 0 && serial[length - 1] == ' ')
            length--;
        snprintf(out, size, "%s:%.*s", kind, (int)length, serial);
        return true;
    }
    if (!repl_identity_backing(disk, &file))
        return false;
    snprintf(out, size, "loop:%u:%u:%llu", major(file.st_dev), minor(file.st_dev),
             (unsigned long long)file.st_ino);
    return true;
}

/* Virtual disks without a serial: the name and the size are all there is. */
static void name_identity(dev_t device, char out[REPL_IDENTITY_MAX + 1])
{
    char name[REPL_SYSFS_NAME_SIZE] = "";
    uint64_t sectors;
    repl_ignore(repl_sysfs_name(device, name, NULL)); /* of a device that has gone it is empty */
    repl_sysfs_read_number(device, "size", &sectors);
    snprintf(out, REPL_IDENTITY_MAX + 1, NAME_KIND "%s:%llu", name,
             (unsigned long long)sectors * REPL_SYSFS_SECTOR_SIZE);
}

void repl_identity_find(dev_t device, char out[REPL_IDENTITY_MAX + 1])
{
    char uuid[128], disk[224], number[16];
    bool partition = repl_sysfs_read(device, "partition", number, sizeof number);
    if (partition && partition_uuid(device, uuid, sizeof uuid))
        snprintf(out, REPL_IDENTITY_MAX + 1, "partuuid:%s", uuid);
    else if (!disk_identity(repl_sysfs_disk(device), disk, sizeof disk))
        name_identity(device, out);
    else if (partition)
        snprintf(out, REPL_IDENTITY_MAX + 1, "%s:part%s", disk, number);
    else
        snprintf(out, REPL_IDENTITY_MAX + 1, "%s", disk);
}

bool repl_identity_same(const char *a, const char *b)
{
    size_t kind = strlen(NAME_KIND);
    if (strncmp(a, NAME_KIND, kind) != 0 || strncmp(b, NAME_KIND, kind) != 0)
        return strcmp(a, b) == 0;
    size_t name = strcspn(a + kind, ":");
    return strcspn(b + kind, ":") == name && strncmp(a + kind, b + kind, name) == 0;
}
