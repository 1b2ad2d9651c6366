#include "store/verified_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cursor.h"
#include "block/read_full.h"

#define NAME "verified"

static repl_result bytes_read(int fd, const char *path, struct repl_buffer *out,
                              struct repl_error *err)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot examine %s", path);
    if (!S_ISREG(status.st_mode))
        return repl_fail(err, REPL_E_REFUSED, "%s is not a regular file: remove it", path);
    uint8_t *bytes = repl_buffer_extend(out, (size_t)status.st_size);
    if (bytes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %s", path);
    ssize_t got = repl_read_full(fd, bytes, (size_t)status.st_size, 0);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read %s", path);
    out->size = (size_t)got;
    return REPL_SUCCESS;
}

static repl_result list_fill(struct repl_verified_file *file, struct repl_error *err)
{
    struct repl_buffer bytes = {0};
    size_t whole = 0;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return REPL_SUCCESS;
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open %s", file->path);
    repl_result result = bytes_read(fd, file->path, &bytes, err);
    close(fd);
    if (repl_ok(result))
        result = repl_verified_list_read(bytes.data, bytes.size, &file->list, &whole, err);
    file->records = whole / REPL_VERIFIED_RECORD_SIZE;
    file->torn = whole < bytes.size;
    repl_buffer_fini(&bytes);
    return result;
}

repl_result repl_verified_file_read(const struct repl_store *store, const char *volume,
                                    struct repl_verified_file *out, struct repl_error *err)
{
    *out = (struct repl_verified_file){0};
    REPL_TRY(store->ops->volume_directory(store, volume, out->path,
                                          sizeof out->path - sizeof "/" NAME ".new", err));
    strcat(out->path, "/" NAME);
    return list_fill(out, err);
}

void repl_verified_file_fini(struct repl_verified_file *file)
{
    repl_verified_list_fini(&file->list);
}

static repl_result bytes_write(const char *path, int flags, const struct repl_buffer *bytes,
                               struct repl_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    struct stat status;
    bool good = fd >= 0 && fstat(fd, &status) == 0 &&
                repl_write_full(fd, bytes->data, bytes->size, (uint64_t)status.st_size);
    int os_errno = errno;
    if (fd >= 0)
        close(fd);
    if (good)
        return REPL_SUCCESS;
    return repl_fail_errno(err, os_errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, os_errno,
                           "cannot write %s", path);
}

repl_result repl_verified_file_append(struct repl_verified_file *file,
                                      const struct repl_verified *records, size_t count,
                                      struct repl_error *err)
{
    struct repl_verified_list list = {.items = (struct repl_verified *)records, .count = count};
    struct repl_buffer bytes = {0};
    repl_result result = repl_verified_list_write(&list, &bytes, err);
    if (repl_ok(result) && count > 0)
        result = bytes_write(file->path, 0, &bytes, err);
    repl_buffer_fini(&bytes);
    return result;
}

repl_result repl_verified_file_rewrite(struct repl_verified_file *file,
                                       bool (*keep)(void *context,
                                                    const struct repl_verified *verified),
                                       void *context, struct repl_error *err)
{
    char path[sizeof file->path];
    struct repl_buffer bytes = {0};
    size_t kept = 0;
    for (size_t i = 0; i < file->list.count; i++) {
        if (keep(context, &file->list.items[i]))
            file->list.items[kept++] = file->list.items[i];
    }
    file->list.count = kept;
    snprintf(path, sizeof path, "%.*s.new", (int)(sizeof path - sizeof ".new"), file->path);
    repl_result result = repl_verified_list_write(&file->list, &bytes, err);
    if (repl_ok(result))
        result = bytes_write(path, O_TRUNC, &bytes, err);
    repl_buffer_fini(&bytes);
    REPL_TRY(result);
    if (rename(path, file->path) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot put %s in its place", path);
    file->records = kept;
    file->torn = false;
    return REPL_SUCCESS;
}
