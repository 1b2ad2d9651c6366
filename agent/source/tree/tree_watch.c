#include "source/tree/tree_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include "base/hash.h"
#include "source/tree/tree_marks.h"

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

#define SEEN_SLOTS (2 * REPL_TREE_HEARD_MAX) /* a power of two */
#define READ_SIZE  (64u << 10)

struct repl_tree_watch {
    int fan_fd;
    uint8_t *events; /* READ_SIZE bytes */
};

/* --- what is heard --------------------------------------------------------------------------- */

void repl_tree_heard_fini(struct repl_tree_heard *heard)
{
    repl_buffer_fini(&heard->names);
    repl_buffer_fini(&heard->objects);
    repl_buffer_fini(&heard->marks);
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

const struct repl_tree_heard_name *repl_tree_heard_name_next(const struct repl_tree_heard *heard,
                                                             size_t *at)
{
    if (*at >= heard->names.size)
        return NULL;
    const struct repl_tree_heard_name *name = (const void *)(heard->names.data + *at);
    *at += sizeof *name + (name->size + 8u) / 8 * 8;
    return name;
}

void repl_tree_heard_add(struct repl_tree_heard *heard, const struct repl_tree_heard *other)
{
    const struct repl_tree_handle *object = (const void *)other->objects.data;
    const struct repl_tree_heard_name *name;
    for (size_t at = 0; (name = repl_tree_heard_name_next(other, &at)) != NULL;)
        name_add(heard, &name->directory, (const char *)(name + 1));
    for (size_t i = 0; i < other->objects.size / sizeof *object; i++)
        object_add(heard, &object[i]);
    if (other->marks.size > 0 &&
        !repl_ok(repl_buffer_append(&heard->marks, other->marks.data, other->marks.size, NULL)))
        heard->lost = true;
    repl_tree_marks_sort(&heard->marks);
    heard->lost |= other->lost;
}

void repl_tree_heard_join(struct repl_tree_heard *heard, struct repl_tree_heard *more)
{
    if (heard->count == 0 && heard->marks.size == 0 && !heard->lost) {
        repl_tree_heard_fini(heard);
        *heard = *more;
        *more = (struct repl_tree_heard){0};
        return;
    }
    repl_tree_heard_add(heard, more);
    repl_tree_heard_fini(more);
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

repl_result repl_tree_watch_drain(struct repl_tree_watch *w, struct repl_tree_heard *heard,
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

static repl_result fanotify_open(const struct repl_tree_root *root, int directory_fd,
                                 struct repl_tree_watch *w, struct repl_error *err)
{
    w->fan_fd = fanotify_init(INIT_FLAGS, O_RDONLY);
    if (w->fan_fd < 0)
        return repl_fail_errno(err, errno == EPERM ? REPL_E_REFUSED : REPL_E_IO, errno,
                               "fanotify; root and a kernel of 5.17 or newer are needed");
    if (fanotify_mark(w->fan_fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, EVENTS, directory_fd, NULL) !=
        0)
        return repl_fail_errno(err, REPL_E_REFUSED, errno, "fanotify of the filesystem of %s",
                               root->path);
    w->events = malloc(READ_SIZE);
    return w->events != NULL ? REPL_SUCCESS : repl_fail(err, REPL_E_NOMEM, "out of memory");
}

/* --- all of it ------------------------------------------------------------------------------- */

repl_result repl_tree_watch_open(const struct repl_tree_root *root, int directory_fd,
                                 struct repl_tree_watch **out, struct repl_error *err)
{
    struct repl_tree_watch *w = calloc(1, sizeof *w);
    if (w == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for watching a tree");
    w->fan_fd = -1;
    repl_result result = fanotify_open(root, directory_fd, w, err);
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
    if (w->fan_fd >= 0)
        close(w->fan_fd);
    free(w->events);
    free(w);
}

int repl_tree_watch_fd(const struct repl_tree_watch *w)
{
    return w->fan_fd;
}
