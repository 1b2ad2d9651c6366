/* tree_churn: what makes, moves and removes names. */
#include "tree_churn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEEP_LEVELS 18u /* of 255 bytes each: more than PATH_MAX */

static void made(struct writer *w, int error)
{
    if (error == 0)
        atomic_fetch_add(&w->world->objects, 1);
}

/* --- making ---------------------------------------------------------------------------------- */

static int file_fill(struct writer *w, int fd)
{
    size_t size = any(w, 4) == 0 ? any(w, WRITE_MAX) : any(w, 3 * PAGE);
    content(w, size);
    return error_of((int)write(fd, w->buffer, size));
}

static int create(struct writer *w)
{
    struct place p;
    int error = place_new(w, EITHER, &p);
    if (error != 0)
        return error;
    int fd = openat(p.fd, p.name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600 | any(w, 64));
    error = fd < 0 ? errno : file_fill(w, fd);
    made(w, error_of(fd));
    if (fd >= 0)
        close(fd);
    place_end(&p);
    return error;
}

static int make_directory(struct writer *w)
{
    struct place p;
    int error = place_new(w, EITHER, &p);
    if (error != 0)
        return error;
    error = error_of(mkdirat(p.fd, p.name, 0700 | any(w, 64)));
    made(w, error);
    place_end(&p);
    return error;
}

static int make_symlink(struct writer *w)
{
    struct place p;
    char target[PATH_MAX];
    size_t size = any(w, 3) == 0 ? PATH_MAX - 1 : 1 + any(w, 60);
    int error = place_new(w, EITHER, &p);
    if (error != 0)
        return error;
    memset(target, 'a' + (int)any(w, 26), size);
    target[any(w, size)] = (char)(1 + any(w, 255));
    target[size] = '\0';
    error = error_of(symlinkat(target, p.fd, p.name));
    if (error == ENAMETOOLONG) { /* of xfs: 1024 bytes */
        target[1023] = '\0';
        error = error_of(symlinkat(target, p.fd, p.name));
    }
    made(w, error);
    place_end(&p);
    return error;
}

static int make_special(struct writer *w, mode_t mode, dev_t device)
{
    struct place p;
    int error = place_new(w, EITHER, &p);
    if (error != 0)
        return error;
    error = error_of(mknodat(p.fd, p.name, mode | 0600, device));
    made(w, error);
    place_end(&p);
    return error;
}

static int make_fifo(struct writer *w)
{
    return make_special(w, S_IFIFO, 0);
}

/* Of numbers that no driver has, and xfs can keep. */
static int make_device(struct writer *w)
{
    return make_special(w, any(w, 2) == 0 ? S_IFCHR : S_IFBLK,
                        makedev((unsigned)(300 + any(w, 80)), (unsigned)any(w, 1 << 18)));
}

static int make_socket(struct writer *w)
{
    return make_special(w, S_IFSOCK, 0);
}

static int make_link(struct writer *w)
{
    struct place from, to;
    int error = place_find(w, EITHER, WANT_FILE | WANT_OTHER, &from);
    if (error != 0)
        return error;
    error = place_new(w, EITHER, &to);
    if (error == 0) {
        error = error_of(linkat(from.fd, from.name, to.fd, to.name, 0));
        made(w, error);
        place_end(&to);
    }
    place_end(&from);
    return error;
}

static int make_tmpfile(struct writer *w)
{
    struct place p;
    char path[64];
    int error = place_new(w, EITHER, &p);
    if (error != 0)
        return error;
    int fd = openat(p.fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640);
    error = fd < 0 ? errno : file_fill(w, fd);
    if (error == 0) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        error = error_of(linkat(AT_FDCWD, path, p.fd, p.name, AT_SYMLINK_FOLLOW));
        made(w, error);
    }
    if (fd >= 0)
        close(fd);
    place_end(&p);
    return error;
}

/* Deeper than a path can be long, with a file at the end. */
static int make_deep(struct writer *w)
{
    struct place p;
    int error = place_new(w, EITHER, &p);
    if (error != 0)
        return error;
    for (unsigned i = 0; i < DEEP_LEVELS && error == 0; i++) {
        memset(p.name, 'd', NAME_MAX);
        p.name[0] = (char)('A' + any(w, 26));
        p.name[NAME_MAX] = '\0';
        if (mkdirat(p.fd, p.name, 0755) == 0)
            made(w, 0);
        else if (errno != EEXIST)
            error = errno;
        int fd = error == 0 ? openat(p.fd, p.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (fd < 0) {
            error = error == 0 ? errno : error;
            break;
        }
        close(p.fd);
        p.fd = fd;
    }
    int fd = error == 0 ? openat(p.fd, "bottom", O_CREAT | O_WRONLY | O_CLOEXEC, 0644) : -1;
    if (fd >= 0) {
        error = file_fill(w, fd);
        close(fd);
    }
    place_end(&p);
    return error;
}

/* --- removing -------------------------------------------------------------------------------- */

static int remove_file(struct writer *w)
{
    struct place p;
    int error = place_find(w, EITHER, WANT_FILE | WANT_OTHER, &p);
    if (error != 0)
        return error;
    error = error_of(unlinkat(p.fd, p.name, 0));
    if (error == 0)
        atomic_fetch_sub(&w->world->objects, 1);
    place_end(&p);
    return error;
}

/* It stays open, and is written to. */
static int remove_open_file(struct writer *w)
{
    struct place p;
    int *keep = &w->open_files[any(w, OPEN_FILES)];
    int error = place_find(w, EITHER, WANT_FILE, &p);
    if (error != 0)
        return error;
    int fd = openat(p.fd, p.name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    error = fd < 0 ? errno : error_of(unlinkat(p.fd, p.name, 0));
    place_end(&p);
    if (fd < 0)
        return error;
    if (error == 0) {
        atomic_fetch_sub(&w->world->objects, 1);
        error = file_fill(w, fd);
    }
    if (*keep >= 0)
        close(*keep);
    *keep = fd;
    return error;
}

static int remove_directory(struct writer *w)
{
    struct place p;
    int error = place_find(w, EITHER, WANT_DIRECTORY, &p);
    if (error != 0)
        return error;
    error = error_of(unlinkat(p.fd, p.name, AT_REMOVEDIR));
    if (error == 0)
        atomic_fetch_sub(&w->world->objects, 1);
    place_end(&p);
    return error;
}

int rm_tree(struct writer *w, int fd, const char *name)
{
    if (unlinkat(fd, name, 0) == 0) {
        atomic_fetch_sub(&w->world->objects, 1);
        return 0;
    }
    int error = errno, below = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream = below < 0 ? NULL : fdopendir(below);
    if (stream == NULL) {
        if (below >= 0)
            close(below);
        return error;
    }
    for (const struct dirent *e = readdir(stream); e != NULL; e = readdir(stream)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            rm_tree(w, below, e->d_name); /* what is in the way, the directory's removal meets */
    }
    closedir(stream);
    error = error_of(unlinkat(fd, name, AT_REMOVEDIR));
    if (error == 0)
        atomic_fetch_sub(&w->world->objects, 1);
    return error;
}

static int remove_tree(struct writer *w)
{
    struct place p;
    int error = place_find(w, EITHER, WANT_DIRECTORY, &p);
    if (error != 0)
        return error;
    error = rm_tree(w, p.fd, p.name);
    place_end(&p);
    return error;
}

/* --- moving ---------------------------------------------------------------------------------- */

static int move(struct writer *w, enum area from_area, unsigned wanted, enum area to_area)
{
    struct place from, to;
    int error = place_find(w, from_area, wanted, &from);
    if (error != 0)
        return error;
    error = place_new(w, to_area, &to);
    if (error == 0) {
        error = error_of(renameat(from.fd, from.name, to.fd, to.name));
        place_end(&to);
    }
    place_end(&from);
    return error;
}

static int move_within(struct writer *w)
{
    return move(w, ROOT, WANT_FILE | WANT_OTHER, ROOT);
}

static int move_tree_within(struct writer *w)
{
    return move(w, ROOT, WANT_DIRECTORY, ROOT);
}

static int move_out(struct writer *w)
{
    return move(w, ROOT, WANT_FILE | WANT_OTHER, OUTSIDE);
}

static int move_in(struct writer *w)
{
    return move(w, OUTSIDE, WANT_FILE | WANT_OTHER, ROOT);
}

static int move_tree_out(struct writer *w)
{
    return move(w, ROOT, WANT_DIRECTORY, OUTSIDE);
}

static int move_tree_in(struct writer *w)
{
    return move(w, OUTSIDE, WANT_DIRECTORY, ROOT);
}

/* Within its directory, to a name that is no text, or as long as can be. */
static int rename_specially(struct writer *w, bool is_long)
{
    struct place p;
    char name[NAME_MAX + 1];
    int error = place_find(w, EITHER, WANT_ANY, &p);
    if (error != 0)
        return error;
    int size = snprintf(name, sizeof name, "%u.%llu", w->number, (unsigned long long)w->made++);
    if (is_long) {
        memset(name + size, 'l', (size_t)(NAME_MAX - size));
        name[NAME_MAX] = '\0';
    } else {
        strcat(name, "\xff\xfe \n\t\"\\\x01\xc3");
    }
    error = error_of(renameat(p.fd, p.name, p.fd, name));
    place_end(&p);
    return error;
}

static int rename_long(struct writer *w)
{
    return rename_specially(w, true);
}

static int rename_odd(struct writer *w)
{
    return rename_specially(w, false);
}

static int move_onto(struct writer *w, unsigned wanted, unsigned flags)
{
    struct place from, to;
    int error = place_find(w, EITHER, wanted, &from);
    if (error != 0)
        return error;
    error = place_find(w, EITHER, wanted, &to);
    if (error == 0) {
        error = error_of(renameat2(from.fd, from.name, to.fd, to.name, flags));
        place_end(&to);
    }
    place_end(&from);
    return error;
}

static int move_over(struct writer *w)
{
    int error = move_onto(w, WANT_FILE | WANT_OTHER, 0);
    if (error == 0)
        atomic_fetch_sub(&w->world->objects, 1);
    return error;
}

static int exchange_files(struct writer *w)
{
    return move_onto(w, WANT_FILE | WANT_OTHER, RENAME_EXCHANGE);
}

static int exchange_directories(struct writer *w)
{
    return move_onto(w, WANT_DIRECTORY, RENAME_EXCHANGE);
}

/* A file against a directory. */
static int exchange_mixed(struct writer *w)
{
    return move_onto(w, WANT_ANY, RENAME_EXCHANGE);
}

/* As an editor saves: a new file, synced, renamed over the old one. */
static int rewrite(struct writer *w)
{
    struct place p;
    char name[64];
    int error = place_find(w, EITHER, WANT_FILE, &p);
    if (error != 0)
        return error;
    snprintf(name, sizeof name, ".new.%u.%llu", w->number, (unsigned long long)w->made++);
    int fd = openat(p.fd, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    error = fd < 0 ? errno : file_fill(w, fd);
    if (error == 0 && any(w, 4) == 0)
        error = error_of(fsync(fd));
    if (fd >= 0)
        close(fd);
    if (error == 0)
        error = error_of(renameat(p.fd, name, p.fd, p.name));
    if (error != 0)
        unlinkat(p.fd, name, 0);
    place_end(&p);
    return error;
}

const struct operation name_operations[] = {
    {"create", create, 100, MAKES},
    {"mkdir", make_directory, 16, MAKES},
    {"symlink", make_symlink, 8, MAKES},
    {"fifo", make_fifo, 3, MAKES},
    {"device", make_device, 3, MAKES},
    {"socket", make_socket, 3, MAKES},
    {"link", make_link, 16, MAKES},
    {"tmpfile", make_tmpfile, 8, MAKES},
    {"deep", make_deep, 1, MAKES},
    {"unlink", remove_file, 60, REMOVES},
    {"unlink_open", remove_open_file, 10, REMOVES},
    {"rmdir", remove_directory, 8, REMOVES},
    {"rm_tree", remove_tree, 6, REMOVES},
    {"rename", move_within, 20, CHANGES},
    {"rename_tree", move_tree_within, 8, CHANGES},
    {"rename_long", rename_long, 3, CHANGES},
    {"rename_odd", rename_odd, 4, CHANGES},
    {"rename_over", move_over, 10, REMOVES},
    {"exchange", exchange_files, 8, CHANGES},
    {"exchange_trees", exchange_directories, 6, CHANGES},
    {"exchange_mixed", exchange_mixed, 4, CHANGES},
    {"move_out", move_out, 8, CHANGES},
    {"move_in", move_in, 12, CHANGES},
    {"move_tree_out", move_tree_out, 3, CHANGES},
    {"move_tree_in", move_tree_in, 6, CHANGES},
    {"rewrite", rewrite, 20, CHANGES},
    {0},
};
