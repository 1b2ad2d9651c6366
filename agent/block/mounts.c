#include "block/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* Undoes mountinfo's octal escapes in place. */
static void unescape(char *text)
{
    char *out = text;
    for (const char *in = text; *in != '\0'; out++) {
        if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' &&
            in[3] >= '0' && in[3] <= '7') {
            *out = (char)((in[1] - '0') << 6 | (in[2] - '0') << 3 | (in[3] - '0'));
            in += 4;
        } else {
            *out = *in++;
        }
    }
    *out = '\0';
}

/* btrfs and its like have numbers that belong to no device: there the source says which. */
static dev_t device_of(dev_t number, const char *source)
{
    struct stat st;
    bool anonymous = major(number) == 0 && source[0] == '/';
    return anonymous && stat(source, &st) == 0 && S_ISBLK(st.st_mode) ? st.st_rdev : number;
}

repl_result repl_mounts_visit(repl_mount_fn *visit, void *context, struct repl_error *err)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (file == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read /proc/self/mountinfo");
    char *line = NULL;
    size_t capacity = 0;
    repl_result result = REPL_SUCCESS;
    while (repl_ok(result) && getline(&line, &capacity, file) > 0) {
        unsigned high, low;
        unsigned long long id;
        char point[PATH_MAX], type[64] = "", source[PATH_MAX] = "";
        const char *tail = strstr(line, " - ");
        if (sscanf(line, "%llu %*u %u:%u %*s %4095s", &id, &high, &low, point) != 4)
            continue;
        if (tail == NULL || sscanf(tail, " - %63s %4095s", type, source) != 2)
            source[0] = '\0';
        unescape(point);
        unescape(source);
        dev_t number = makedev(high, low);
        struct repl_mount mount = {.id = id,
                                   .number = number,
                                   .device = device_of(number, source),
                                   .point = point,
                                   .type = type,
                                   .source = source};
        result = visit(context, &mount, err);
    }
    if (repl_ok(result) && ferror(file))
        result = repl_fail_errno(err, REPL_E_IO, errno, "cannot read /proc/self/mountinfo");
    free(line);
    fclose(file);
    return result;
}

struct mount_find {
    unsigned long long id;
    dev_t number, device;
};

static repl_result find_visit(void *context, const struct repl_mount *mount, struct repl_error *err)
{
    struct mount_find *find = context;
    (void)err;
    if (mount->id == find->id) {
        find->number = mount->number;
        find->device = mount->device;
    }
    return REPL_SUCCESS;
}

repl_result repl_mount_of(int fd, const char *path, dev_t *number, dev_t *device,
                          struct repl_error *err)
{
    struct statx status;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", path);
    struct mount_find find = {.id = status.stx_mnt_id};
    REPL_TRY(repl_mounts_visit(find_visit, &find, err));
    if (find.number == 0)
        return repl_fail(err, REPL_E_MISSING, "%s: its mount is not listed", path);
    *number = find.number;
    *device = find.device;
    return REPL_SUCCESS;
}
