#include "mount/mounted.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

repl_result repl_mounted_path(const char *given, char out[PATH_MAX], struct repl_error *err)
{
    char copy[PATH_MAX], parent[PATH_MAX];
    if (realpath(given, out) != NULL)
        return REPL_SUCCESS;
    size_t size = strlen(given);
    while (size > 1 && given[size - 1] == '/')
        size--;
    snprintf(copy, sizeof copy, "%.*s", (int)size, given);
    char *slash = strrchr(copy, '/');
    const char *name = slash != NULL ? slash + 1 : copy, *above = ".";
    if (slash != NULL) {
        *slash = '\0';
        above = copy[0] != '\0' ? copy : "/";
    }
    if (realpath(above, parent) == NULL)
        return repl_fail_errno(err, REPL_E_USAGE, errno, "cannot find %s", given);
    int length = snprintf(out, PATH_MAX, "%s/%s", strcmp(parent, "/") != 0 ? parent : "", name);
    return length < PATH_MAX ? REPL_SUCCESS
                             : repl_fail(err, REPL_E_USAGE, "the path %s is too long", given);
}

/* The list of mounts has blanks and backslashes as \ooo. */
static void octal_undo(char *text)
{
    char *out = text;
    for (const char *at = text; *at != '\0';) {
        if (at[0] == '\\' && isdigit(at[1]) && isdigit(at[2]) && isdigit(at[3])) {
            *out++ = (char)((at[1] - '0') << 6 | (at[2] - '0') << 3 | (at[3] - '0'));
            at += 4;
        } else {
            *out++ = *at++;
        }
    }
    *out = '\0';
}

repl_result repl_mounted_type(const char *path, char type[REPL_MOUNTED_TYPE_SIZE],
                              struct repl_error *err)
{
    char *line = NULL;
    size_t room = 0;
    FILE *mounts = fopen("/proc/self/mounts", "re");
    type[0] = '\0';
    if (mounts == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read /proc/self/mounts");
    while (getline(&line, &room, mounts) > 0) {
        char *rest = line;
        strsep(&rest, " ");
        char *directory = strsep(&rest, " "), *kind = strsep(&rest, " ");
        if (kind == NULL)
            continue;
        octal_undo(directory);
        if (strcmp(directory, path) == 0)
            snprintf(type, REPL_MOUNTED_TYPE_SIZE, "%s", kind);
    }
    free(line);
    fclose(mounts);
    return REPL_SUCCESS;
}
