/*
 * Prints what a directory tree is, so that two can be compared: one line for
 * each name, sorted, with tabs between
 *
 *   path  kind  mode  uid  gid  device  mtime  size  flags  inode  content  target  attributes
 *
 * inode is the first path that leads to the same one: hard links. content is a
 * hash of the file's bytes, by which a hole is zeros. Paths and targets are
 * escaped. Neither the number of levels nor the length of a path matters.
 *
 *   tree_dump DIRECTORY
 *   tree_dump --data DIRECTORY
 *       where in each file data lies, one line for each range of whole pages:
 *       path, first page, the page behind the last
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/hash.h"

#define PAGE         4096
#define XATTRS_MAX   65536
#define INODES_ORDER 18u

/* What somebody has set; the others are the filesystem's own. */
#define FLAGS_SHOWN (FS_FL_USER_MODIFIABLE | FS_NOCOW_FL | FS_PROJINHERIT_FL)

struct inode {
    ino_t number; /* 0: none */
    char *path;
};

static struct {
    char *path; /* escaped, as far as the walk has come */
    size_t size, room;
    struct inode inodes[1u << INODES_ORDER];
    bool data; /* only where data lies */
} dump;

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "tree_dump: %s: %s: %s\n", dump.path, what, strerror(errno));
    exit(2);
}

/* --- text ------------------------------------------------------------------------------------ */

/* Each byte takes up to four in what is printed. */
static void escape(const char *text, char *to)
{
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c > ' ' && c < 0x7f && c != '\\')
            *to++ = (char)c;
        else
            to += sprintf(to, "\\%03o", c);
    }
    *to = '\0';
}

static size_t path_push(const char *name)
{
    size_t before = dump.size, more = 4 * strlen(name) + 2;
    if (dump.size + more > dump.room) {
        dump.room = 2 * (dump.size + more);
        dump.path = realloc(dump.path, dump.room);
        if (dump.path == NULL)
            give_up("memory");
    }
    if (before > 0)
        dump.path[dump.size++] = '/';
    escape(name, dump.path + dump.size);
    dump.size += strlen(dump.path + dump.size);
    return before;
}

static void path_pop(size_t before)
{
    dump.size = before;
    dump.path[before] = '\0';
}

/* The first path that led to this inode. */
static const char *inode_path(ino_t number)
{
    size_t at = (number * UINT64_C(0x9e3779b97f4a7c15)) >> (64 - INODES_ORDER);
    for (size_t tries = 0; tries < 1u << INODES_ORDER; tries++) {
        struct inode *inode = &dump.inodes[at];
        if (inode->number == 0)
            *inode = (struct inode){number, strdup(dump.path)};
        if (inode->number == number)
            return inode->path;
        at = (at + 1) % (1u << INODES_ORDER);
    }
    errno = ENOMEM;
    give_up("more inodes than there is room for");
}

/* --- content --------------------------------------------------------------------------------- */

/* The next range of data at or behind *at, in whole pages; false: there is none. */
static bool data_next(int fd, off_t size, off_t *at, off_t *end)
{
    off_t data = *at < size ? lseek(fd, *at, SEEK_DATA) : -1;
    if (data < 0)
        return false;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    if (hole < 0)
        give_up("SEEK_HOLE");
    *at = data / PAGE * PAGE;
    *end = (hole + PAGE - 1) / PAGE * PAGE;
    return true;
}

static void range_print(off_t at, off_t end)
{
    if (end > at)
        printf("%s\t%jd\t%jd\n", dump.path, (intmax_t)(at / PAGE), (intmax_t)(end / PAGE));
}

/* Ranges that touch are one. */
static void data_print(int fd, off_t size)
{
    off_t begin = 0, last = 0, end;
    for (off_t at = 0; data_next(fd, size, &at, &end); at = end) {
        if (at != last) {
            range_print(begin, last);
            begin = at;
        }
        last = end;
    }
    range_print(begin, last);
}

static bool is_zero(const unsigned char *bytes, size_t size)
{
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

/* Of the pages that are not all zeros, each with its place. */
static uint64_t content_hash(int fd, off_t size)
{
    unsigned char page[PAGE];
    uint64_t words[3] = {(uint64_t)size};
    off_t end;
    for (off_t at = 0; data_next(fd, size, &at, &end);) {
        for (; at < end; at += PAGE) {
            ssize_t got = pread(fd, page, PAGE, at);
            if (got < 0)
                give_up("reading");
            if (is_zero(page, (size_t)got))
                continue;
            words[1] = (uint64_t)at;
            words[2] = repl_xxh3(page, (size_t)got);
            words[0] = repl_xxh3(words, sizeof words);
        }
    }
    return words[0];
}

/* --- one name -------------------------------------------------------------------------------- */

static int names_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void attributes_print(const char *path)
{
    static char list[XATTRS_MAX];
    static unsigned char value[XATTRS_MAX];
    static char escaped[4 * XATTR_NAME_MAX + 1];
    const char *names[XATTRS_MAX / 2];
    size_t count = 0;
    ssize_t size = listxattr(path, list, sizeof list);
    if (size < 0 && errno != EOPNOTSUPP)
        give_up("attributes");
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(list + at) + 1)
        names[count++] = list + at;
    qsort(names, count, sizeof *names, names_order);
    for (size_t i = 0; i < count; i++) {
        ssize_t got = getxattr(path, names[i], value, sizeof value);
        if (got < 0)
            give_up(names[i]);
        escape(names[i], escaped);
        printf("%s%s=%zd:%016" PRIx64, i > 0 ? "," : "", escaped, got,
               repl_xxh3(value, (size_t)got));
    }
}

static void target_print(int fd)
{
    char target[PATH_MAX], escaped[4 * PATH_MAX];
    ssize_t size = readlinkat(fd, "", target, sizeof target - 1);
    if (size < 0)
        give_up("readlink");
    target[size] = '\0';
    escape(target, escaped);
    printf("%s", escaped);
}

static char kind_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return 'f';
    case S_IFDIR:
        return 'd';
    case S_IFLNK:
        return 'l';
    case S_IFIFO:
        return 'p';
    case S_IFCHR:
        return 'c';
    case S_IFBLK:
        return 'b';
    default:
        return 's';
    }
}

/* fd: O_PATH; content: open for reading, of a file or directory, else -1. */
static void line_print(int fd, int content, const struct stat *status, const char *path)
{
    int flags = 0;
    bool file = S_ISREG(status->st_mode);
    if (content >= 0 && ioctl(content, FS_IOC_GETFLAGS, &flags) != 0)
        flags = 0;
    printf("%s\t%c\t%04o\t%u\t%u\t%u:%u\t%jd.%09ld\t%jd\t%x\t%s\t", dump.path,
           kind_of(status->st_mode), status->st_mode & 07777, status->st_uid, status->st_gid,
           major(status->st_rdev), minor(status->st_rdev), (intmax_t)status->st_mtim.tv_sec,
           status->st_mtim.tv_nsec, (intmax_t)(file ? status->st_size : 0), flags & FLAGS_SHOWN,
           inode_path(status->st_ino));
    printf("%016" PRIx64 "\t", file ? content_hash(content, status->st_size) : 0);
    if (S_ISLNK(status->st_mode))
        target_print(fd);
    printf("\t");
    attributes_print(path);
    printf("\n");
}

static void directory_print(int fd);

static void name_print(int directory, const char *name)
{
    char path[64];
    struct stat status;
    size_t before = path_push(name);
    int content = -1, fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0)
        give_up("opening it");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (S_ISREG(status.st_mode) || S_ISDIR(status.st_mode)) {
        content = open(path, O_RDONLY | O_NOATIME | O_CLOEXEC);
        if (content < 0)
            give_up("opening it");
    }
    if (!dump.data)
        line_print(fd, content, &status, path);
    else if (S_ISREG(status.st_mode))
        data_print(content, status.st_size);
    close(fd);
    if (S_ISDIR(status.st_mode))
        directory_print(content);
    else if (content >= 0)
        close(content);
    path_pop(before);
}

/* Takes fd. */
static void directory_print(int fd)
{
    char **names = NULL;
    size_t count = 0;
    DIR *stream = fdopendir(fd);
    if (stream == NULL)
        give_up("its names");
    for (const struct dirent *e = readdir(stream); e != NULL; e = readdir(stream)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        names = realloc(names, (count + 1) * sizeof *names);
        if (names == NULL || (names[count++] = strdup(e->d_name)) == NULL)
            give_up("memory");
    }
    if (count > 0)
        qsort(names, count, sizeof *names, names_order);
    for (size_t i = 0; i < count; i++) {
        name_print(fd, names[i]);
        free(names[i]);
    }
    free(names);
    closedir(stream);
}

/* One a level of directories. */
static void descriptors_raise(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        give_up("descriptors");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        give_up("descriptors");
}

int main(int argc, char **argv)
{
    dump.data = argc == 3 && strcmp(argv[1], "--data") == 0;
    if (argc != 2 + dump.data)
        return 2;
    descriptors_raise();
    if (chdir(argv[argc - 1]) != 0)
        give_up(argv[argc - 1]);
    name_print(AT_FDCWD, ".");
    return fflush(stdout) == 0 ? 0 : 2;
}
