/*
 * A directory tree followed through whatever happens to it: random changes, segments that are
 * acknowledged and given up, an agent that is killed; watched, and by looking alone. What the
 * segments say is compared with the directory after each point.
 */
#include "unit/agent/source/tree/tree_compare.h"

#include <ftw.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/mman.h>

#include "unit/random.h"

#define ENTRIES_MAX 60u
#define ROUNDS      70u
#define OPERATIONS  12u
#define LONG        3000u
#define FILE_MAX    (UINT64_C(400) << 10)

/* --- random changes -------------------------------------------------------------------------- */

struct entry {
    char path[400];
    mode_t type;
};

static struct {
    struct entry entries[ENTRIES_MAX];
    unsigned count;
} there;

static struct {
    uint8_t *bytes; /* a file that stays mapped: one page */
} mapped;

static int entry_visit(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)type;
    if (walk->level > 0 && there.count < ENTRIES_MAX && strlen(path) < 300) {
        struct entry *e = &there.entries[there.count++];
        snprintf(e->path, sizeof e->path, "%s", path);
        e->type = status->st_mode & S_IFMT;
    }
    return 0;
}

/* One of what there is, of this type; NULL: none. type 0: of any. */
static const struct entry *some(struct rig *rig, struct random *random, mode_t type)
{
    there.count = 0;
    nftw(rig->top, entry_visit, 16, FTW_PHYS);
    unsigned matching = 0;
    for (unsigned i = 0; i < there.count; i++)
        matching += type == 0 || there.entries[i].type == type;
    if (matching == 0)
        return NULL;
    unsigned nth = (unsigned)random_below(random, matching);
    for (unsigned i = 0;; i++) {
        if ((type == 0 || there.entries[i].type == type) && nth-- == 0)
            return &there.entries[i];
    }
}

/* A path in some directory of the tree, which may be taken already. */
static void place(struct rig *rig, struct random *random, char *out, size_t size)
{
    static const char *const names[] = {"a", "b",     "c",      "d0",    "e", "\xff\xfe x", "cache",
                                        "g", "h.tmp", "cache2", "i.tmp", "k", "l"};
    const struct entry *in = some(rig, random, S_IFDIR);
    bool top = in == NULL || random_below(random, 3) == 0;
    snprintf(out, size, "%s/%s", top ? rig->top : in->path,
             names[random_below(random, sizeof names / sizeof names[0])]);
}

static void file_change(struct random *random, int fd)
{
    static uint8_t bytes[100000];
    size_t size = (size_t)(1 + random_below(random, random_below(random, 2) ? 5000 : sizeof bytes));
    off_t at = (off_t)random_below(random, FILE_MAX);
    off_t end = lseek(fd, 0, SEEK_END);
    random_fill(random, bytes, size < 64 ? size : 64);
    memset(bytes + 64, bytes[0], sizeof bytes - 64);
    switch (random_below(random, 7)) {
    case 0:
        assert_int_equal(ftruncate(fd, at), 0);
        break;
    case 1:
        assert_int_equal(ftruncate(fd, at / 100), 0);
        break;
    case 2:
        assert_int_equal(
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at / 8, (off_t)size), 0);
        break;
    case 3:
        assert_true(pwrite(fd, bytes, size, at) > 0);
        break;
    case 4:
        assert_true(pwrite(fd, bytes, size, end) > 0);
        break;
    default:
        assert_true(pwrite(fd, bytes, size, at / 16) > 0);
        break;
    }
}

static void file_map(int fd, const char *path)
{
    if (mapped.bytes != NULL)
        munmap(mapped.bytes, REPL_PAGE_SIZE);
    mapped.bytes = NULL;
    if (lseek(fd, 0, SEEK_END) < (off_t)REPL_PAGE_SIZE && truncate(path, REPL_PAGE_SIZE) != 0)
        return;
    void *map = mmap(NULL, REPL_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    mapped.bytes = map != MAP_FAILED ? map : NULL;
}

/* The file may have been cut since: then there is no page to be written to. */
static void mapped_write(struct random *random)
{
    int pipes[2];
    if (mapped.bytes == NULL)
        return;
    assert_int_equal(pipe(pipes), 0);
    bool reaches = write(pipes[1], mapped.bytes, 1) == 1; /* EFAULT in place of SIGBUS */
    close(pipes[0]);
    close(pipes[1]);
    if (reaches)
        mapped.bytes[random_below(random, 64)] = (uint8_t)random_next(random);
}

static void files_change(struct rig *rig, struct random *random)
{
    const struct entry *e = some(rig, random, S_IFREG);
    if (e == NULL)
        return;
    int fd = open(e->path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    if (random_below(random, 8) == 0)
        file_map(fd, e->path);
    else
        file_change(random, fd);
    close(fd);
}

static void make(struct random *random, const char *path)
{
    switch (random_below(random, 9)) {
    case 0:
    case 1:
    case 2:
        mkdir(path, 0755);
        break;
    case 3:
        repl_ignore((repl_result){symlink("to/nothing", path) == 0 ? REPL_OK : REPL_E_IO});
        break;
    case 4:
        mkfifo(path, 0600);
        break;
    case 5:
        mknod(path, S_IFCHR | 0600, makedev(1, 3));
        break;
    default: {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
        struct stat status;
        if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
            file_change(random, fd);
        if (fd >= 0)
            close(fd);
    }
    }
}

static void attributes_change(struct random *random, const char *path)
{
    static const char *const names[] = {"user.a", "user.bb", "trusted.c"};
    static char value[LONG];
    const char *name = names[random_below(random, 3)];
    size_t size = random_below(random, 2) ? LONG - random_below(random, 50) : 20;
    memset(value, (int)('a' + random_below(random, 26)), sizeof value);
    if (random_below(random, 4) == 0)
        lremovexattr(path, name);
    else
        lsetxattr(path, name, value, size, 0); /* there may be no room for it */
}

static void node_change(struct random *random, const struct entry *e)
{
    switch (random_below(random, 3)) {
    case 0:
        if (e->type != S_IFLNK)
            assert_int_equal(chmod(e->path, (mode_t)(0700 | random_below(random, 0100))), 0);
        break;
    case 1:
        assert_int_equal(lchown(e->path, (uid_t)random_below(random, 5), 100), 0);
        break;
    default:
        attributes_change(random, e->path);
    }
}

static void remove_all(const char *path)
{
    nftw(path, temporary_visit, 16, FTW_DEPTH | FTW_PHYS);
}

/* Out of the tree, and what is out there back into it. */
static void move_out_or_in(struct rig *rig, struct random *random, const char *inside,
                           const char *free_place)
{
    char out[400];
    snprintf(out, sizeof out, "%s/%u", rig->outside, (unsigned)random_below(random, 3));
    if (random_below(random, 2) == 0)
        rename(inside, out);
    else
        rename(out, free_place);
}

static void change(struct rig *rig, struct random *random)
{
    char to[420];
    place(rig, random, to, sizeof to);
    unsigned what = (unsigned)random_below(random, 14);
    const struct entry *e = some(rig, random, what == 8 ? S_IFREG : 0);
    if (e == NULL || what < 3) {
        make(random, to);
        return;
    }
    switch (what) {
    case 3:
    case 4:
        rename(e->path, to);
        break;
    case 5:
        syscall(SYS_renameat2, AT_FDCWD, e->path, AT_FDCWD, to, RENAME_EXCHANGE);
        break;
    case 6:
        remove(e->path);
        break;
    case 7:
        if (random_below(random, 4) == 0)
            remove_all(e->path);
        break;
    case 8:
        repl_ignore((repl_result){link(e->path, to) == 0 ? REPL_OK : REPL_E_IO});
        break;
    case 9:
        move_out_or_in(rig, random, e->path, to);
        break;
    case 10:
    case 11:
        node_change(random, e);
        break;
    default:
        files_change(rig, random);
    }
    mapped_write(random);
}

static void changes(struct rig *rig, struct random *random)
{
    for (uint64_t i = random_below(random, OPERATIONS); i > 0; i--)
        change(rig, random);
}

/* --- through whatever happens ---------------------------------------------------------------- */

static void disturb(struct rig *rig, struct random *random)
{
    size_t unacknowledged = rig->count - rig->acknowledged;
    size_t first = rig->count - (size_t)random_below(random, unacknowledged + 1);
    switch (random_below(random, 8)) {
    case 0:
    case 1:
    case 2:
        while (rig->acknowledged < first)
            acknowledge(rig);
        break;
    case 3:
        give_up(rig, first);
        break;
    case 4: /* a round that came to nothing */
        gather(rig);
        break;
    case 5:
        gather(rig);
        start_again(rig, first);
        break;
    case 6:
        start_again(rig, first);
        break;
    default:
        break;
    }
}

/* A point, with changes while it is made. */
static void point_torn(struct rig *rig, struct random *random)
{
    gather(rig);
    for (uint64_t i = random_below(random, 4); i > 0; i--) {
        if (random_below(random, 2) == 0)
            pages_read(rig);
        change(rig, random);
        if (!is_same(rig))
            gather(rig);
    }
    for (unsigned tries = 0; !is_same(rig); tries++) {
        assert_true(tries < 3);
        gather(rig);
    }
    tell(rig);
}

static void follow(bool unwatched, uint64_t seed)
{
    struct random random = random_begin(unwatched ? "unwatched" : "watched", seed);
    struct rig *rig = rig_new(unwatched);
    if (rig == NULL)
        skip();
    for (unsigned round = 0; round < ROUNDS; round++) {
        changes(rig, &random);
        disturb(rig, &random);
        if (random_below(&random, 3) == 0)
            changes(rig, &random);
        point_torn(rig, &random);
        if (rig->count > 0)
            assert_copied(rig);
    }
    if (mapped.bytes != NULL)
        munmap(mapped.bytes, REPL_PAGE_SIZE);
    mapped.bytes = NULL;
    rig_free(rig);
}

static void follows_what_it_hears(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++)
        follow(false, seed);
}

static void follows_by_looking(void **state)
{
    (void)state;
    for (uint64_t seed = 11; seed <= 12; seed++)
        follow(true, seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_what_it_hears),
        cmocka_unit_test(follows_by_looking),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
