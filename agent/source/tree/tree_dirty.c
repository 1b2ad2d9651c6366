#include "source/tree/tree_dirty.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "block/mounts.h"
#include "loop/loop.h"
#include "source/tree/tree_places.h"

#define BATCH        512u
#define PROGRAMS_MAX 16u
#define VMSTAT_SIZE  (16u << 10)

/* A direct write that has not ended by then never will: it failed before it was on its way. */
#define DIRECT_NS (60 * INT64_C(1000000000))

/* Tries of an audit, so far apart. */
#define AUDIT_TRIES 32
#define AUDIT_NS    INT64_C(300000)

struct repl_tree_dirty {
    struct bpf_object *object;
    struct bpf_link *links[PROGRAMS_MAX];
    size_t link_count;
    int active_fd, direct_fd;
    int blocks[2]; /* the maps of marks, */
    int active;    /* and which is the one they go into */
    struct repl_tree_dirty_state *state;
    uint64_t marks, lost; /* of state, at the last take */
    struct repl_tree_late late;
    bool precise;
    bool tells_ends; /* the kernel, of direct writes */
    int refresh_fd, vmstat_fd;
    bool based;
    uint64_t base; /* C - K */
};

/* The programs' ELF file, linked in (tree_dirty_object.S). */
extern const unsigned char repl_tree_dirty_object[];
extern const unsigned char repl_tree_dirty_object_end[];

/* --- the programs ---------------------------------------------------------------------------- */

/* Those whose writes, through mappings too, are told of by what is listened to here. */
static repl_result filesystem_find(const struct repl_tree_root *root, long *type,
                                   struct repl_error *err)
{
    struct statfs fs;
    if (fstatfs(root->fd, &fs) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", root->path);
    *type = (long)fs.f_type;
    if (*type != EXT4_SUPER_MAGIC && *type != XFS_SUPER_MAGIC && *type != BTRFS_SUPER_MAGIC)
        return repl_fail(
            err, REPL_E_REFUSED,
            "%s is on a filesystem that is neither ext4, xfs nor btrfs: not all of its "
            "writes can be heard of",
            root->path);
    return REPL_SUCCESS;
}

/* Where data goes through ext4's journal, pages are written out in another way. */
static bool data_is_journaled(uint64_t device)
{
    char path[PATH_MAX], target[PATH_MAX], line[128];
    bool journaled = false;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u", (unsigned)(device >> 20),
             (unsigned)(device & 0xfffff));
    ssize_t size = readlink(path, target, sizeof target - 1);
    target[size > 0 ? size : 0] = '\0';
    const char *name = strrchr(target, '/');
    snprintf(path, sizeof path, "/proc/fs/ext4/%.64s/options", name != NULL ? name + 1 : "");
    FILE *options = fopen(path, "re");
    if (options == NULL)
        return true; /* as far as can be told */
    while (!journaled && fgets(line, sizeof line, options) != NULL)
        journaled = strcmp(line, "data=journal\n") == 0;
    fclose(options);
    return journaled;
}

/* What notices that a range of a file is given other blocks. */
struct remap_program {
    const char *name;
    long filesystem;
    unsigned group; /* one of each is needed */
};
static const struct remap_program remap_programs[] = {
    {"ext4_punch_hole", EXT4_SUPER_MAGIC, 0},        {"ext4_zero_range", EXT4_SUPER_MAGIC, 1},
    {"ext4_collapse_range", EXT4_SUPER_MAGIC, 2},    {"ext4_insert_range", EXT4_SUPER_MAGIC, 3},
    {"xfs_free_file_space", XFS_SUPER_MAGIC, 0},     {"xfs_zero_file_space", XFS_SUPER_MAGIC, 1},
    {"xfs_collapse_file_space", XFS_SUPER_MAGIC, 2}, {"xfs_insert_file_space", XFS_SUPER_MAGIC, 3},
    {"xfs_reflink_remap_range", XFS_SUPER_MAGIC, 4}, {"xfs_swap_extent_before", XFS_SUPER_MAGIC, 5},
    {"xfs_exchrange_prep", XFS_SUPER_MAGIC, 5}, /* since 6.10 in place of the one before */
};
#define REMAP_PROGRAMS (sizeof remap_programs / sizeof remap_programs[0])

/* Of direct writes kernels before 6.6 tell the begin. */
enum use { USE_ALWAYS, USE_ENDS, USE_NO_ENDS };
static const struct needed_program {
    const char *name;
    enum use use;
} needed_programs[] = {
    {"repl_dirtied", USE_ALWAYS},
    {"repl_direct_begun", USE_ENDS},
    {"repl_direct_ended", USE_ENDS},
    {"repl_direct_step", USE_NO_ENDS},
};
#define NEEDED_PROGRAMS (sizeof needed_programs / sizeof needed_programs[0])

/* Reads all the kernel says of its types. */
static bool kernel_tells_ends(void)
{
    return libbpf_find_vmlinux_btf_id("iomap_dio_complete", BPF_TRACE_RAW_TP) > 0;
}

static bool attach(struct repl_tree_dirty *d, const char *name)
{
    struct bpf_program *program = bpf_object__find_program_by_name(d->object, name);
    struct bpf_link *link = bpf_program__attach(program);
    if (link == NULL)
        return false;
    d->links[d->link_count++] = link;
    return true;
}

static repl_result programs_attach(struct repl_tree_dirty *d, long filesystem,
                                   struct repl_error *err)
{
    unsigned wanted = 0, have = 0;
    for (size_t i = 0; i < NEEDED_PROGRAMS; i++) {
        const struct needed_program *p = &needed_programs[i];
        if (p->use != USE_ALWAYS && (p->use == USE_ENDS) != d->tells_ends)
            continue;
        if (!attach(d, p->name))
            return repl_fail_errno(err, REPL_E_IO, errno, "attaching %s to its tracepoint",
                                   p->name);
    }
    for (size_t i = 0; i < REMAP_PROGRAMS; i++) {
        const struct remap_program *p = &remap_programs[i];
        if (p->filesystem != filesystem)
            continue;
        wanted |= 1u << p->group;
        have |= attach(d, p->name) ? 1u << p->group : 0;
    }
    d->precise = wanted != 0 && have == wanted && sysconf(_SC_PAGESIZE) == REPL_PAGE_SIZE &&
                 (filesystem != EXT4_SUPER_MAGIC || !data_is_journaled(d->state->device));
    return REPL_SUCCESS;
}

static int silent(enum libbpf_print_level level, const char *format, va_list args)
{
    (void)level, (void)format, (void)args;
    return 0;
}

static void choose(struct repl_tree_dirty *d, const char *name, bool wanted)
{
    bpf_program__set_autoload(bpf_object__find_program_by_name(d->object, name), wanted);
}

/* Only this kernel's, and this filesystem's. */
static void programs_choose(struct repl_tree_dirty *d, long filesystem)
{
    d->tells_ends = kernel_tells_ends();
    for (size_t i = 0; i < NEEDED_PROGRAMS; i++) {
        if (needed_programs[i].use != USE_ALWAYS)
            choose(d, needed_programs[i].name,
                   (needed_programs[i].use == USE_ENDS) == d->tells_ends);
    }
    for (size_t i = 0; i < REMAP_PROGRAMS; i++)
        choose(d, remap_programs[i].name, remap_programs[i].filesystem == filesystem);
}

static repl_result programs_load(struct repl_tree_dirty *d, long filesystem, struct repl_error *err)
{
    static const struct bpf_object_open_opts options = {.sz = sizeof options,
                                                        .object_name = "repl_tree"};
    libbpf_set_print(silent);
    d->object = bpf_object__open_mem(repl_tree_dirty_object,
                                     (size_t)(repl_tree_dirty_object_end - repl_tree_dirty_object),
                                     &options);
    if (d->object != NULL)
        programs_choose(d, filesystem);
    int failed = d->object == NULL ? -errno : bpf_object__load(d->object);
    if (failed != 0)
        return repl_fail_errno(err, failed == -EPERM ? REPL_E_REFUSED : REPL_E_IO, -failed,
                               "loading the programs that notice writes; root and a kernel with "
                               "BTF (/sys/kernel/btf/vmlinux) are needed");
    d->blocks[0] = bpf_object__find_map_fd_by_name(d->object, "dirty");
    d->blocks[1] = bpf_object__find_map_fd_by_name(d->object, "other");
    d->active_fd = bpf_object__find_map_fd_by_name(d->object, "active");
    d->direct_fd = bpf_object__find_map_fd_by_name(d->object, "direct");
    return REPL_SUCCESS;
}

static repl_result programs_open(const struct repl_tree_root *root, struct repl_tree_dirty *d,
                                 struct repl_error *err)
{
    dev_t number, device; /* the first is what the kernel calls the filesystem */
    long filesystem = 0;
    REPL_TRY(filesystem_find(root, &filesystem, err));
    REPL_TRY(repl_mount_of(root->fd, root->path, &number, &device, err));
    REPL_TRY(programs_load(d, filesystem, err));
    int state_fd = bpf_object__find_map_fd_by_name(d->object, "state");
    void *map = mmap(NULL, sizeof *d->state, PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0);
    if (map == MAP_FAILED)
        return repl_fail_errno(err, REPL_E_NOMEM, errno, "mapping what they tell");
    d->state = map;
    __atomic_store_n(&d->state->device, (uint64_t)major(number) << 20 | minor(number),
                     __ATOMIC_SEQ_CST);
    return programs_attach(d, filesystem, err);
}

/* --- taking ---------------------------------------------------------------------------------- */

static repl_result blocks_take(int blocks, struct repl_buffer *marks, struct repl_error *err)
{
    static const struct bpf_map_batch_opts options = {.sz = sizeof options};
    struct repl_tree_dirty_key keys[BATCH];
    struct repl_tree_dirty_bits bits[BATCH];
    uint32_t at = 0;
    for (bool more = true, first = true; more; first = false) {
        uint32_t next, count = BATCH;
        int failed = bpf_map_lookup_and_delete_batch(blocks, first ? NULL : &at, &next, keys, bits,
                                                     &count, &options);
        if (failed != 0 && errno != ENOENT)
            return repl_fail_errno(err, REPL_E_IO, errno, "the pages that were written to");
        more = failed == 0;
        at = next;
        for (uint32_t i = 0; i < count; i++) {
            const struct repl_tree_mark mark = {keys[i], bits[i]};
            REPL_TRY(repl_buffer_append(marks, &mark, sizeof mark, err));
        }
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_dirty_on_its_way(struct repl_tree_dirty *d, struct repl_buffer *marks,
                                       struct repl_error *err)
{
    uint64_t key, next;
    struct repl_tree_direct direct;
    int64_t now_ns = repl_now_mono_ns();
    bool more = bpf_map_get_next_key(d->direct_fd, NULL, &key) == 0;
    for (uint32_t i = 0; more && i < REPL_TREE_DIRECT_MOST; i++) {
        bool there = bpf_map_lookup_elem(d->direct_fd, &key, &direct) == 0;
        more = bpf_map_get_next_key(d->direct_fd, &key, &next) == 0;
        if (there && now_ns - (int64_t)direct.since_ns >= DIRECT_NS)
            bpf_map_delete_elem(d->direct_fd, &key);
        else if (there && direct.is_write != 0)
            REPL_TRY(repl_tree_marks_add(marks, direct.inode, direct.first, direct.last, err));
        key = next;
    }
    return repl_tree_late_take(&d->late, marks, now_ns, err);
}

bool repl_tree_dirty_is_precise(const struct repl_tree_dirty *d)
{
    return d->precise;
}

bool repl_tree_dirty_is_quiet(const struct repl_tree_dirty *d)
{
    return __atomic_load_n(&d->state->marks, __ATOMIC_SEQ_CST) == d->marks &&
           !repl_tree_late_is_due(&d->late, repl_now_mono_ns());
}

repl_result repl_tree_dirty_take(struct repl_tree_dirty *d, struct repl_buffer *marks, bool *lost,
                                 struct repl_error *err)
{
    uint32_t zero = 0;
    uint64_t marked = __atomic_load_n(&d->state->marks, __ATOMIC_SEQ_CST);
    if (marked == d->marks)
        return REPL_SUCCESS;
    d->marks = marked;
    int from = d->blocks[d->active];
    d->active = 1 - d->active;
    /* The kernel returns from here when no program that found the old one is running. */
    if (bpf_map_update_elem(d->active_fd, &zero, &d->blocks[d->active], BPF_ANY) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "the pages that were written to");
    REPL_TRY(blocks_take(from, marks, err));
    repl_tree_marks_sort(marks);
    REPL_TRY(repl_tree_late_add(&d->late, marks, repl_now_mono_ns(), err));
    uint64_t lost_now = __atomic_load_n(&d->state->lost, __ATOMIC_SEQ_CST);
    *lost |= lost_now != d->lost;
    d->lost = lost_now;
    return REPL_SUCCESS;
}

/* --- the audit ------------------------------------------------------------------------------- */

static uint64_t counted(const struct repl_tree_dirty *d)
{
    uint64_t pages = 0;
    for (size_t i = 0; i < REPL_TREE_DIRTY_LANES; i++)
        pages += __atomic_load_n(&d->state->lanes[i].pages, __ATOMIC_SEQ_CST);
    return pages;
}

static bool kernel_counted(const struct repl_tree_dirty *d, uint64_t *pages)
{
    static const char name[] = "\nnr_dirtied ";
    char text[VMSTAT_SIZE];
    if (pwrite(d->refresh_fd, "1", 1, 0) != 1)
        return false;
    ssize_t size = pread(d->vmstat_fd, text, sizeof text - 1, 0);
    if (size <= 0)
        return false;
    text[size] = '\0';
    const char *at = strstr(text, name);
    *pages = at != NULL ? strtoull(at + sizeof name - 1, NULL, 10) : 0;
    return at != NULL;
}

/* At a moment at which nothing is counted. False: there was none. */
static bool difference_find(struct repl_tree_dirty *d, uint64_t *difference)
{
    uint64_t kernel;
    for (int i = 0; i < AUDIT_TRIES; i++) {
        uint64_t before = counted(d);
        if (!kernel_counted(d, &kernel))
            return false;
        *difference = before - kernel;
        if (counted(d) == before)
            return true;
        nanosleep(&(struct timespec){.tv_nsec = AUDIT_NS}, NULL);
    }
    return false;
}

enum repl_tree_verdict repl_tree_dirty_audit(struct repl_tree_dirty *d, uint64_t *overlooked)
{
    uint64_t difference;
    if (__atomic_load_n(&d->state->unknown, __ATOMIC_SEQ_CST) != 0 ||
        !difference_find(d, &difference))
        return REPL_TREE_AUDIT_BUSY;
    int64_t ahead = (int64_t)(difference - d->base);
    bool based = d->based;
    d->base = difference;
    d->based = true;
    if (based && ahead == 0)
        return REPL_TREE_AUDIT_PASSED;
    if (!based || ahead > 0)
        return REPL_TREE_AUDIT_BUSY;
    *overlooked = (uint64_t)-ahead;
    return REPL_TREE_AUDIT_SHORT;
}

static void audit_open(struct repl_tree_dirty *d)
{
    uint64_t overlooked;
    d->refresh_fd = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);
    d->vmstat_fd = open("/proc/vmstat", O_RDONLY | O_CLOEXEC);
    (void)repl_tree_dirty_audit(d, &overlooked); /* the first one finds the base */
}

/* --- all of it ------------------------------------------------------------------------------- */

/* A write to a file without a name has to be marked. */
static repl_result programs_try(const struct repl_tree_root *root, struct repl_tree_dirty *d,
                                struct repl_error *err)
{
    struct stat status;
    struct repl_buffer marks = {0}, pages = {0};
    uint8_t page[REPL_PAGE_SIZE] = {0};
    bool lost = false, whole, any = false;
    int fd = openat(root->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    bool allowed =
        errno != EROFS && errno != EACCES && errno != EPERM && errno != ENOSPC && errno != EDQUOT;
    if (fd < 0 && !allowed) /* then it is not tried */
        return REPL_SUCCESS;
    bool written = fd >= 0 && pwrite(fd, page, sizeof page, 0) == (ssize_t)sizeof page &&
                   fstat(fd, &status) == 0;
    int failed = errno;
    if (fd >= 0)
        close(fd);
    if (!written)
        return repl_fail_errno(err, REPL_E_IO, failed,
                               "%s: a file to try whether writes are heard of", root->path);
    repl_result result = repl_tree_dirty_take(d, &marks, &lost, err);
    if (repl_ok(result))
        result = repl_tree_marks_find(&marks, status.st_ino, &pages, &any, &whole, err);
    repl_buffer_fini(&marks);
    repl_buffer_fini(&pages);
    REPL_TRY(result);
    return any ? REPL_SUCCESS
               : repl_fail(err, REPL_E_REFUSED,
                           "%s: a write that was made to try it was not noticed by the programs",
                           root->path);
}

repl_result repl_tree_dirty_open(const struct repl_tree_root *root, struct repl_tree_dirty **out,
                                 struct repl_error *err)
{
    struct repl_tree_dirty *d = calloc(1, sizeof *d);
    if (d == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for watching a tree");
    d->refresh_fd = d->vmstat_fd = -1;
    repl_result result = programs_open(root, d, err);
    if (repl_ok(result))
        result = programs_try(root, d, err);
    if (!repl_ok(result)) {
        repl_tree_dirty_close(d);
        return result;
    }
    audit_open(d);
    *out = d;
    return REPL_SUCCESS;
}

repl_result repl_tree_dirty_try(const struct repl_tree_root *root, struct repl_error *err)
{
    struct repl_tree_dirty loaded = {0};
    long filesystem = 0;
    REPL_TRY(filesystem_find(root, &filesystem, err));
    repl_result result = programs_load(&loaded, filesystem, err);
    bpf_object__close(loaded.object);
    return result;
}

void repl_tree_dirty_close(struct repl_tree_dirty *d)
{
    if (d == NULL)
        return;
    for (size_t i = 0; i < d->link_count; i++)
        bpf_link__destroy(d->links[i]);
    if (d->state != NULL)
        munmap(d->state, sizeof *d->state);
    bpf_object__close(d->object);
    if (d->refresh_fd >= 0)
        close(d->refresh_fd);
    if (d->vmstat_fd >= 0)
        close(d->vmstat_fd);
    repl_buffer_fini(&d->late.marks);
    free(d);
}
