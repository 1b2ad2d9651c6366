#include "recover/copy_out.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recover/tree_dirs.h"

#define STREAM_SIZE (UINT64_C(1) << 20)

struct copying {
    const struct repl_copy_out_options *options;
    struct repl_copy_out *out;
    char parent[PATH_MAX]; /* the directory that path is in, */
    const char *base;      /* and its name there */
    int parent_fd;
    char temporary[REPL_TREE_TEMPORARY_SIZE];
};

/* --- where to -------------------------------------------------------------------------------- */

static repl_result path_make(struct copying *c, struct repl_error *err)
{
    const struct repl_copy_out_options *o = c->options;
    struct stat status;
    size_t size = strlen(o->dest);
    while (size > 1 && o->dest[size - 1] == '/')
        size--;
    bool into = stat(o->dest, &status) == 0 && S_ISDIR(status.st_mode);
    if (into && o->name_size == 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is there already, and the tree's top has no name of its own: name "
                         "what is to be made",
                         o->dest);
    int length = into ? snprintf(c->out->path, PATH_MAX, "%.*s%s%.*s", (int)size, o->dest,
                                 o->dest[size - 1] == '/' ? "" : "/", (int)o->name_size, o->name)
                      : snprintf(c->out->path, PATH_MAX, "%.*s", (int)size, o->dest);
    if (length <= 0 || length >= PATH_MAX)
        return repl_fail(err, REPL_E_USAGE, "\"%.80s\" is no path to copy to", o->dest);
    char *slash = strrchr(c->out->path, '/');
    c->base = slash != NULL ? slash + 1 : c->out->path;
    if (slash == NULL)
        strcpy(c->parent, ".");
    else
        snprintf(c->parent, sizeof c->parent, "%.*s",
                 slash == c->out->path ? 1 : (int)(slash - c->out->path), c->out->path);
    return REPL_SUCCESS;
}

static repl_result there_already(const struct copying *c, const struct stat *status,
                                 struct repl_error *err)
{
    const struct repl_copy_out_options *o = c->options;
    bool directory = o->kind == REPL_NODE_DIRECTORY || S_ISDIR(status->st_mode);
    if (o->overwrite && !directory)
        return REPL_SUCCESS;
    if (!directory)
        return repl_fail(
            err, REPL_E_REFUSED,
            "%s is there already: give another name, or --overwrite, which replaces it",
            c->out->path);
    return repl_fail(err, REPL_E_REFUSED,
                     "%s is there already, and no directory is replaced: give another name%s",
                     c->out->path,
                     o->kind == REPL_NODE_DIRECTORY && S_ISDIR(status->st_mode)
                         ? ", or bring it to what it was with \"repl restore --path\""
                         : "");
}

static repl_result dest_check(struct copying *c, struct repl_error *err)
{
    struct stat status;
    REPL_TRY(path_make(c, err));
    c->parent_fd = open(c->parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->parent_fd < 0)
        return repl_fail_errno(err, REPL_E_REFUSED, errno,
                               "cannot open the directory %s, in which it is to be made",
                               c->parent);
    if (fstatat(c->parent_fd, c->base, &status, AT_SYMLINK_NOFOLLOW) == 0)
        return there_already(c, &status, err);
    if (errno != ENOENT)
        return repl_fail_errno(err, REPL_E_REFUSED, errno, "cannot look at %s", c->out->path);
    return REPL_SUCCESS;
}

/* --- its name -------------------------------------------------------------------------------- */

static int rename_once(const struct copying *c, int directory, const char *name)
{
    unsigned flags = c->options->overwrite ? 0 : RENAME_NOREPLACE;
    if (renameat2(directory, name, c->parent_fd, c->base, flags) == 0)
        return 0;
    struct stat status;
    if (errno != EINVAL || flags == 0)
        return errno;
    /* The filesystem does not know how to, as NFS. */
    if (fstatat(c->parent_fd, c->base, &status, AT_SYMLINK_NOFOLLOW) == 0)
        return EEXIST;
    return renameat(directory, name, c->parent_fd, c->base) == 0 ? 0 : errno;
}

/* What may not be changed (chattr +i, +a) may not be renamed either: for a moment it may. */
static int rename_locked(const struct copying *c, int directory, const char *name)
{
    unsigned flags = 0;
    int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0 ||
        (flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)) == 0) {
        if (fd >= 0)
            close(fd);
        return EPERM;
    }
    int error = repl_tree_unlock(directory, name);
    if (error == 0)
        error = rename_once(c, directory, name);
    if (error == 0 && ioctl(fd, FS_IOC_SETFLAGS, &flags) != 0)
        error = errno;
    close(fd);
    return error;
}

static repl_result name_give(const struct copying *c, int directory, const char *name,
                             struct repl_error *err)
{
    int error = rename_once(c, directory, name);
    if (error == EPERM)
        error = rename_locked(c, directory, name);
    if (error == EEXIST)
        return repl_fail(err, REPL_E_REFUSED,
                         "somebody else has made %s meanwhile, and it was left alone",
                         c->out->path);
    if (error != 0)
        return repl_fail_errno(err, REPL_E_REFUSED, error, "cannot give it the name %s",
                               c->out->path);
    if (fsync(c->parent_fd) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s could not be made durable", c->out->path);
    return REPL_SUCCESS;
}

/* A directory is itself what was made; anything else lies in it. */
static repl_result made_name(const struct copying *c, struct repl_error *err)
{
    char name[REPL_NAME_MAX + 1];
    const struct repl_copy_out_options *o = c->options;
    if (o->kind == REPL_NODE_DIRECTORY)
        return name_give(c, c->parent_fd, c->temporary, err);
    int fd = openat(c->parent_fd, c->temporary, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open %s/%s", c->parent, c->temporary);
    snprintf(name, sizeof name, "%.*s", (int)o->name_size, o->name);
    repl_result result = name_give(c, fd, name, err);
    close(fd);
    if (repl_ok(result) && unlinkat(c->parent_fd, c->temporary, AT_REMOVEDIR) != 0)
        result = repl_fail_errno(err, REPL_E_IO, errno, "%s is copied", c->out->path);
    return result;
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result tree_copy(struct copying *c, struct repl_error *err)
{
    char to[PATH_MAX];
    struct repl_tree_options tree = c->options->tree;
    int length = snprintf(to, sizeof to, "%s/%s", c->parent, c->temporary);
    if (length <= 0 || (size_t)length >= sizeof to)
        return repl_fail(err, REPL_E_USAGE, "%s is too long a path", c->out->path);
    tree.to = to;
    tree.temporary = true;
    repl_result result = repl_tree_restore(&tree, &c->out->tree, err);
    if (!repl_ok(result) && c->out->tree.faults > 0)
        return repl_fail(err, result.code,
                         "what is named above could not be copied, so nothing was kept; \"repl "
                         "restore --path\" restores all else");
    return result;
}

/* What is left of it after a failure. */
static repl_result remains_remove(const struct copying *c, repl_result result,
                                  struct repl_error *err)
{
    struct stat status;
    struct repl_error removing;
    if (fstatat(c->parent_fd, c->temporary, &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        repl_ok(repl_tree_remove(c->parent_fd, c->temporary, &removing)))
        return result;
    return repl_forward(result, err, "%s/%s is left, remove it (%.100s)", c->parent, c->temporary,
                        removing.text);
}

static repl_result copy(struct copying *c, struct repl_error *err)
{
    REPL_TRY(dest_check(c, err));
    repl_tree_temporary(c->temporary);
    if (mkdirat(c->parent_fd, c->temporary, 0700) != 0)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_REFUSED, errno,
                               "cannot make a directory in %s", c->parent);
    repl_result result = tree_copy(c, err);
    if (repl_ok(result))
        result = made_name(c, err);
    return repl_ok(result) ? result : remains_remove(c, result, err);
}

repl_result repl_copy_out(const struct repl_copy_out_options *options, struct repl_copy_out *out,
                          struct repl_error *err)
{
    struct copying c = {.options = options, .out = out, .parent_fd = -1};
    *out = (struct repl_copy_out){0};
    repl_result result = copy(&c, err);
    if (c.parent_fd >= 0)
        close(c.parent_fd);
    return result;
}

/* --- a file's bytes -------------------------------------------------------------------------- */

static repl_result all_write(int fd, const uint8_t *bytes, size_t size, struct repl_error *err)
{
    while (size > 0) {
        ssize_t written = write(fd, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                                   "cannot write all of it to standard output");
        bytes += written;
        size -= (size_t)written;
    }
    return REPL_SUCCESS;
}

repl_result repl_copy_out_stream(struct repl_point_reader *reader, uint64_t object, int fd,
                                 const atomic_bool *interrupted, uint64_t *written,
                                 struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    uint8_t *bytes = malloc(STREAM_SIZE);
    *written = 0;
    if (bytes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    for (size_t got = STREAM_SIZE; repl_ok(result) && got == STREAM_SIZE; *written += got) {
        if (interrupted != NULL && atomic_load(interrupted))
            result = repl_fail(err, REPL_E_RETRY, "interrupted: what was written is not all");
        got = 0;
        if (repl_ok(result))
            result = repl_point_file_read(reader, object, *written, bytes, STREAM_SIZE, &got, err);
        if (repl_ok(result))
            result = all_write(fd, bytes, got, err);
    }
    free(bytes);
    return result;
}
