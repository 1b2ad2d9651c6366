#include "recover/restore_check.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "recover/words.h"

repl_result repl_restore_progress_path(const struct repl_target *target, const char *directory,
                                       char *path, size_t path_size, struct repl_error *err)
{
    int size;
    if (!target->is_device) {
        size = snprintf(path, path_size, "%s.repl-restore", target->resolved);
    } else {
        char name[256];
        snprintf(name, sizeof name, "%s", target->resolved + 1);
        for (char *c = name; *c != '\0'; c++) {
            if (*c == '/')
                *c = '-';
        }
        size = snprintf(path, path_size, "%s/%s", directory, name);
    }
    if (size < 0 || (size_t)size >= path_size)
        return repl_fail(err, REPL_E_USAGE, "the path of %s is too long", target->path);
    return REPL_SUCCESS;
}

bool repl_restore_is_resumable(const char *progress_path)
{
    return access(progress_path, F_OK) == 0;
}

repl_result repl_restore_check_size(const struct repl_target *target, uint64_t volume_size,
                                    struct repl_error *err)
{
    char has[REPL_WORDS_SIZE], needs[REPL_WORDS_SIZE];
    if (!target->is_device || target->size >= volume_size)
        return REPL_SUCCESS;
    repl_words_bytes(target->size, has);
    repl_words_bytes(volume_size, needs);
    return repl_fail(err, REPL_E_REFUSED,
                     "%s is too small: it has %llu bytes (%s), the volume %llu (%s)", target->path,
                     (unsigned long long)target->size, has, (unsigned long long)volume_size, needs);
}

repl_result repl_restore_check_space(const struct repl_target *target, uint64_t data,
                                     struct repl_error *err)
{
    char has[REPL_WORDS_SIZE], needs[REPL_WORDS_SIZE];
    struct statvfs space;
    struct stat status;
    char *copy = target->is_device ? NULL : strdup(target->resolved);
    bool known = copy != NULL && statvfs(dirname(copy), &space) == 0;
    free(copy);
    if (!known) /* opening it will say why */
        return REPL_SUCCESS;
    uint64_t available = (uint64_t)space.f_bavail * space.f_frsize;
    if (stat(target->resolved, &status) == 0) /* it is replaced, or holds a part already */
        available += (uint64_t)status.st_blocks * 512;
    if (available >= data)
        return REPL_SUCCESS;
    repl_words_bytes(available, has);
    repl_words_bytes(data, needs);
    return repl_fail(err, REPL_E_NOSPACE,
                     "the filesystem of %s has %s left, the volume needs %s: make room, or name a "
                     "file elsewhere",
                     target->path, has, needs);
}

repl_result repl_restore_check_existing(const struct repl_restore_options *options, uint64_t size,
                                        bool *keep, struct repl_error *err)
{
    const struct repl_target *target = options->target;
    bool unfinished = repl_restore_is_resumable(options->progress_path);
    *keep = target->is_device || (target->exists && !(options->overwrite && options->whole));
    if (target->is_device || !target->exists || options->overwrite)
        return REPL_SUCCESS;
    if (!unfinished)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s exists: name a new file, or give --overwrite to replace it",
                         target->path);
    if (target->size != size)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is not the file that the unfinished restore left: it has %llu "
                         "bytes, the volume %llu; to replace it give --overwrite",
                         target->path, (unsigned long long)target->size, (unsigned long long)size);
    return REPL_SUCCESS;
}
