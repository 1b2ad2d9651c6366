#include "source/tree/tree_watch.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/hash.h"
#include "block/mounts.h"
#include "source/tree/tree_dirty_layout.h"

/* Since Linux 5.17; the headers may be older. */
#ifndef FAN_REPORT_TARGET_FID
#define FAN_REPORT_TARGET_FID 0x00001000
#endif
#ifndef FAN_RENAME
#define FAN_RENAME 0x10000000
#endif
#define INFO_FID           1
#define INFO_DFID_NAME     2
#define INFO_DFID          3
#define INFO_OLD_DFID_NAME 10
#define INFO_NEW_DFID_NAME 12

#define INIT_FLAGS                                                                                 \
    (FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC | FAN_REPORT_FID | FAN_REPORT_DIR_FID |          \
     FAN_REPORT_NAME | FAN_REPORT_TARGET_FID)
#define NAME_EVENTS (FAN_CREATE | FAN_DELETE | FAN_RENAME)
#define EVENTS      (NAME_EVENTS | FAN_ATTRIB | FAN_MODIFY | FAN_ONDIR)

#define SEEN_SLOTS  (2 * REPL_TREE_HEARD_MAX) /* a power of two */
#define READ_SIZE   (64u << 10)
#define INODE_BATCH 1024u

struct repl_tree_watch {
    int fan_fd;
    uint8_t *events; /* READ_SIZE bytes */
    struct bpf_object *object;
    struct bpf_link *links[3];
    int dirty_fd;
    struct repl_tree_dirty_state *state;
    uint64_t lost; /* of state, when it was last looked at */
};

/* The programs' ELF file, linked in (tree_dirty_object.S). */
extern const unsigned char repl_tree_dirty_object[];
extern const unsigned char repl_tree_dirty_object_end[];

/* --- what is heard --------------------------------------------------------------------------- */

void repl_tree_heard_fini(struct repl_tree_heard *heard)
{
    repl_buffer_fini(&heard->names);
    repl_buffer_fini(&heard->objects);
    repl_buffer_fini(&heard->inodes);
    free(heard->seen);
    *heard = (struct repl_tree_heard){0};
}

/* Whether it is heard for the first time; counted then. Two that share a hash of 64 bits would be
 * taken for one: not to be expected of what is not chosen to. */
static bool is_first(struct repl_tree_heard *heard, const struct repl_tree_handle *handle,
                     const char *name, size_t size)
{
    uint8_t text[sizeof *handle + REPL_NAME_MAX];
    size_t at = 4 + handle->size;
    memcpy(text, &handle->type, 4);
    memcpy(text + 4, handle->bytes, handle->size);
    memcpy(text + at, name, size);
    uint64_t hash = repl_xxh3(text, at + size) | 1;
    if (heard->seen == NULL)
        heard->seen = calloc(SEEN_SLOTS, sizeof *heard->seen);
    if (heard->seen == NULL || heard->count >= REPL_TREE_HEARD_MAX) {
        heard->lost = true;
        return false;
    }
    size_t slot = (size_t)(hash >> 1) % SEEN_SLOTS;
    while (heard->seen[slot] != 0 && heard->seen[slot] != hash)
        slot = (slot + 1) % SEEN_SLOTS;
    if (heard->seen[slot] == hash)
        return false;
    heard->seen[slot] = hash;
    heard->count++;
    return true;
}

static void object_add(struct repl_tree_heard *heard, const struct repl_tree_handle *handle)
{
    if (is_first(heard, handle, "", 0) &&
        !repl_ok(repl_buffer_append(&heard->objects, handle, sizeof *handle, NULL)))
        heard->lost = true;
}

static void name_add(struct repl_tree_heard *heard, const struct repl_tree_handle *directory,
                     const char *name)
{
    struct repl_tree_heard_name entry = {.directory = *directory};
    entry.size = (uint32_t)strnlen(name, REPL_NAME_MAX);
    if (!is_first(heard, directory, name, entry.size))
        return;
    size_t room = (entry.size + 8u) / 8 * 8;
    uint8_t *to = repl_buffer_extend(&heard->names, sizeof entry + room);
    if (to == NULL) {
        heard->lost = true;
        return;
    }
    memset(to, 0, sizeof entry + room);
    memcpy(to, &entry, sizeof entry);
    memcpy(to + sizeof entry, name, entry.size);
}

/* --- fanotify -------------------------------------------------------------------------------- */

/* One piece of information of an event. */
static void info_take(struct repl_tree_heard *heard, uint64_t mask,
                      const struct fanotify_event_info_fid *info)
{
    struct file_handle handle;
    const uint8_t *bytes = info->handle;
    struct repl_tree_handle ours = {0};
    memcpy(&handle, bytes, sizeof handle);
    if (handle.handle_bytes > sizeof ours.bytes) {
        heard->lost = true;
        return;
    }
    ours.type = handle.handle_type;
    ours.size = handle.handle_bytes;
    memcpy(ours.bytes, bytes + sizeof handle, ours.size);
    const char *name = (const char *)bytes + sizeof handle + ours.size;
    switch (info->hdr.info_type) {
    case INFO_FID:
        object_add(heard, &ours);
        break;
    case INFO_DFID_NAME:
    case INFO_OLD_DFID_NAME:
    case INFO_NEW_DFID_NAME:
        if ((mask & NAME_EVENTS) == 0 && strcmp(name, ".") != 0)
            break; /* the object itself is told of beside it */
        object_add(heard, &ours);
        if (strcmp(name, ".") != 0)
            name_add(heard, &ours, name);
        break;
    default:
        object_add(heard, &ours);
        break;
    }
}

/* at: behind what event has been copied from; end: of all that the event says. */
static void event_take(struct repl_tree_heard *heard, const struct fanotify_event_metadata *event,
                       const uint8_t *at, const uint8_t *end)
{
    if ((event->mask & FAN_Q_OVERFLOW) != 0)
        heard->lost = true;
    while (end - at >= (ptrdiff_t)sizeof(struct fanotify_event_info_header)) {
        const struct fanotify_event_info_fid *info = (const void *)at;
        if (info->hdr.len == 0)
            break;
        info_take(heard, event->mask, info);
        at += info->hdr.len;
    }
}

/* Events begin at multiples of four bytes. */
static void events_take(struct repl_tree_heard *heard, const uint8_t *events, size_t size)
{
    struct fanotify_event_metadata event;
    for (size_t at = 0; at + sizeof event <= size; at += event.event_len) {
        memcpy(&event, events + at, sizeof event);
        if (event.event_len < sizeof event || event.event_len > size - at)
            break;
        event_take(heard, &event, events + at + event.metadata_len, events + at + event.event_len);
    }
}

static repl_result fanotify_drain(struct repl_tree_watch *w, struct repl_tree_heard *heard,
                                  struct repl_error *err)
{
    for (;;) {
        ssize_t got = read(w->fan_fd, w->events, READ_SIZE);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return REPL_SUCCESS;
        if (got < 0)
            return repl_fail_errno(err, REPL_E_IO, errno, "fanotify");
        events_take(heard, w->events, (size_t)got);
    }
}

static repl_result fanotify_open(const struct repl_tree_root *root, struct repl_tree_watch *w,
                                 struct repl_error *err)
{
    w->fan_fd = fanotify_init(INIT_FLAGS, O_RDONLY);
    if (w->fan_fd < 0)
        return repl_fail_errno(err, errno == EPERM ? REPL_E_REFUSED : REPL_E_IO, errno,
                               "fanotify; root and a kernel of 5.17 or newer are needed");
    if (fanotify_mark(w->fan_fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, EVENTS, root->fd, NULL) != 0)
        return repl_fail_errno(err, REPL_E_REFUSED, errno, "fanotify of the filesystem of %s",
                               root->path);
    w->events = malloc(READ_SIZE);
    return w->events != NULL ? REPL_SUCCESS : repl_fail(err, REPL_E_NOMEM, "out of memory");
}

/* --- dirty files ----------------------------------------------------------------------------- */

/* What the kernel calls the filesystem, which for some is not what stat says of its files. */
struct device_find {
    unsigned long long mount;
    dev_t number;
};

static repl_result device_visit(void *context, const struct repl_mount *mount,
                                struct repl_error *err)
{
    struct device_find *find = context;
    (void)err;
    if (mount->id == find->mount)
        find->number = mount->number;
    return REPL_SUCCESS;
}

static repl_result device_find(const struct repl_tree_root *root, uint64_t *device,
                               struct repl_error *err)
{
    struct statx status;
    if (statx(root->fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", root->path);
    struct device_find find = {.mount = status.stx_mnt_id};
    REPL_TRY(repl_mounts_visit(device_visit, &find, err));
    if (find.number == 0)
        return repl_fail(err, REPL_E_MISSING, "%s: its mount is not listed", root->path);
    *device = (uint64_t)major(find.number) << 20 | minor(find.number);
    return REPL_SUCCESS;
}

static int silent(enum libbpf_print_level level, const char *format, va_list args)
{
    (void)level, (void)format, (void)args;
    return 0;
}

static repl_result programs_attach(struct repl_tree_watch *w, struct repl_error *err)
{
    static const char *const names[] = {"repl_dirtied", "repl_direct_begun", "repl_direct_ended"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct bpf_program *program = bpf_object__find_program_by_name(w->object, names[i]);
        w->links[i] = bpf_program__attach(program);
        if (w->links[i] == NULL)
            return repl_fail_errno(err, REPL_E_IO, errno, "attaching %s to its tracepoint",
                                   names[i]);
    }
    return REPL_SUCCESS;
}

static repl_result programs_open(const struct repl_tree_root *root, struct repl_tree_watch *w,
                                 struct repl_error *err)
{
    static const struct bpf_object_open_opts options = {.sz = sizeof options,
                                                        .object_name = "repl_tree"};
    uint64_t device;
    REPL_TRY(device_find(root, &device, err));
    libbpf_set_print(silent);
    w->object = bpf_object__open_mem(repl_tree_dirty_object,
                                     (size_t)(repl_tree_dirty_object_end - repl_tree_dirty_object),
                                     &options);
    int failed = w->object == NULL ? -errno : bpf_object__load(w->object);
    if (failed != 0)
        return repl_fail_errno(err, failed == -EPERM ? REPL_E_REFUSED : REPL_E_IO, -failed,
                               "loading the programs that notice writes; root and a kernel with "
                               "BTF (/sys/kernel/btf/vmlinux) are needed");
    w->dirty_fd = bpf_object__find_map_fd_by_name(w->object, "dirty");
    int state_fd = bpf_object__find_map_fd_by_name(w->object, "state");
    void *map = mmap(NULL, sizeof *w->state, PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0);
    if (map == MAP_FAILED)
        return repl_fail_errno(err, REPL_E_NOMEM, errno, "mapping what they tell");
    w->state = map;
    __atomic_store_n(&w->state->device, device, __ATOMIC_SEQ_CST);
    return programs_attach(w, err);
}

/* A file is out of the set before it is looked at: what is written to it from then on puts it back.
 */
static repl_result dirty_drain(struct repl_tree_watch *w, struct repl_tree_heard *heard,
                               struct repl_error *err)
{
    static const struct bpf_map_batch_opts options = {.sz = sizeof options};
    uint64_t keys[INODE_BATCH];
    uint8_t values[INODE_BATCH];
    uint32_t at = 0;
    for (bool more = true, first = true; more; first = false) {
        uint32_t next, count = INODE_BATCH;
        int failed = bpf_map_lookup_and_delete_batch(w->dirty_fd, first ? NULL : &at, &next, keys,
                                                     values, &count, &options);
        if (failed != 0 && errno != ENOENT)
            return repl_fail_errno(err, REPL_E_IO, errno, "the files that were written to");
        more = failed == 0;
        at = next;
        if (heard->count + count > REPL_TREE_HEARD_MAX ||
            !repl_ok(repl_buffer_append(&heard->inodes, keys, count * sizeof keys[0], NULL)))
            heard->lost = true;
        else
            heard->count += count;
    }
    uint64_t lost = __atomic_load_n(&w->state->lost, __ATOMIC_SEQ_CST);
    heard->lost |= lost != w->lost;
    w->lost = lost;
    return REPL_SUCCESS;
}

/* --- whether it works ------------------------------------------------------------------------ */

/* Those whose writes, through mappings too, are told of by what is listened to here. */
static repl_result filesystem_check(const struct repl_tree_root *root, struct repl_error *err)
{
    struct statfs fs;
    if (fstatfs(root->fd, &fs) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", root->path);
    if (fs.f_type != EXT4_SUPER_MAGIC && fs.f_type != XFS_SUPER_MAGIC &&
        fs.f_type != BTRFS_SUPER_MAGIC)
        return repl_fail(
            err, REPL_E_REFUSED,
            "%s is on a filesystem that is neither ext4, xfs nor btrfs: not all of its "
            "writes can be heard of",
            root->path);
    return REPL_SUCCESS;
}

/* A write to a file without a name has to put it into the set. */
static repl_result programs_try(const struct repl_tree_root *root, const struct repl_tree_watch *w,
                                struct repl_error *err)
{
    struct stat status;
    uint8_t page[REPL_PAGE_SIZE] = {0}, value;
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
    uint64_t inode = status.st_ino;
    if (bpf_map_lookup_elem(w->dirty_fd, &inode, &value) != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: a write that was made to try it was not noticed by the programs",
                         root->path);
    return REPL_SUCCESS;
}

/* --- all of it ------------------------------------------------------------------------------- */

repl_result repl_tree_watch_open(const struct repl_tree_root *root, struct repl_tree_watch **out,
                                 struct repl_error *err)
{
    struct repl_tree_watch *w = calloc(1, sizeof *w);
    if (w == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for watching a tree");
    w->fan_fd = w->dirty_fd = -1;
    repl_result result = filesystem_check(root, err);
    if (repl_ok(result))
        result = fanotify_open(root, w, err);
    if (repl_ok(result))
        result = programs_open(root, w, err);
    if (repl_ok(result))
        result = programs_try(root, w, err);
    if (!repl_ok(result)) {
        repl_tree_watch_close(w);
        return result;
    }
    *out = w;
    return REPL_SUCCESS;
}

void repl_tree_watch_close(struct repl_tree_watch *w)
{
    if (w == NULL)
        return;
    for (size_t i = 0; i < sizeof w->links / sizeof w->links[0]; i++)
        bpf_link__destroy(w->links[i]);
    if (w->state != NULL)
        munmap(w->state, sizeof *w->state);
    bpf_object__close(w->object);
    if (w->fan_fd >= 0)
        close(w->fan_fd);
    free(w->events);
    free(w);
}

int repl_tree_watch_fd(const struct repl_tree_watch *w)
{
    return w->fan_fd;
}

repl_result repl_tree_watch_drain(struct repl_tree_watch *w, struct repl_tree_heard *heard,
                                  struct repl_error *err)
{
    REPL_TRY(dirty_drain(w, heard, err));
    return fanotify_drain(w, heard, err);
}
