#include "site/replica/tree_replica.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <syslog.h>
#include <unistd.h>

#include "base/cursor.h"
#include "control/control.h"
#include "format/segment_format.h"
#include "loop/loop.h"
#include "site/replica/tree_change.h"

#define OWN       ".repl"
#define MARK      ".repl/volume"
#define STAGING   "staging"
#define ATTEMPTS  "attempts"
#define UUID_SIZE 16u

#define ATTEMPTS_MAX     5
#define COMPARE_PAUSE_NS (INT64_C(60) * 1000000000)

/* --- whose directory it is ------------------------------------------------------------------- */

static repl_result open_fail(const struct replica_tree *t, int os_errno, const char *what,
                             struct repl_error *err)
{
    return repl_fail_errno(err, os_errno == ENOENT ? REPL_E_MISSING : REPL_E_IO, os_errno,
                           "cannot %s the replica %s: correct replica in [volume NAME], or mount "
                           "what belongs there",
                           what, t->path);
}

/* Nothing in it but what an earlier attempt to begin may have left. */
static repl_result empty_check(const struct replica_tree *t, struct repl_error *err)
{
    int fd = openat(t->top_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd >= 0 ? fdopendir(fd) : NULL;
    bool empty = true;
    if (stream == NULL) {
        int os_errno = errno;
        if (fd >= 0)
            close(fd);
        return open_fail(t, os_errno, "read", err);
    }
    for (struct dirent *entry; empty && (entry = readdir(stream)) != NULL;)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
                strcmp(entry->d_name, OWN) == 0 || strcmp(entry->d_name, "lost+found") == 0;
    closedir(stream);
    if (empty)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_REFUSED,
                     "%s is not empty, and nothing says that it is the replica of this volume: it "
                     "is left alone. Name an empty directory as replica in [volume NAME], or empty "
                     "this one",
                     t->path);
}

/* The mark comes to be whole. */
static repl_result mark_make(struct replica_tree *t, struct repl_error *err)
{
    REPL_TRY(empty_check(t, err));
    if (mkdirat(t->top_fd, OWN, 0700) != 0 && errno != EEXIST)
        return open_fail(t, errno, "begin", err);
    int fd =
        openat(t->top_fd, MARK ".new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return open_fail(t, errno, "begin", err);
    bool good = write(fd, t->volume.bytes, UUID_SIZE) == (ssize_t)UUID_SIZE && fsync(fd) == 0 &&
                renameat(t->top_fd, MARK ".new", t->top_fd, MARK) == 0 && syncfs(fd) == 0;
    int os_errno = errno;
    t->mark_fd = fd;
    return good ? REPL_SUCCESS : open_fail(t, os_errno, "begin", err);
}

static repl_result mark_check(struct replica_tree *t, struct repl_error *err)
{
    uint8_t bytes[UUID_SIZE + 1];
    t->mark_fd = repl_tree_openat(t->top_fd, MARK, O_RDWR);
    if (t->mark_fd < 0 && errno == ENOENT)
        REPL_TRY(mark_make(t, err));
    if (t->mark_fd < 0)
        return open_fail(t, errno, "open", err);
    ssize_t got = pread(t->mark_fd, bytes, sizeof bytes, 0);
    if (got != (ssize_t)UUID_SIZE || memcmp(bytes, t->volume.bytes, UUID_SIZE) != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is the replica of another volume, and is left alone: name another "
                         "directory as replica in [volume NAME]",
                         t->path);
    if (flock(t->mark_fd, LOCK_EX | LOCK_NB) == 0)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_LOCKED,
                     "another process holds the replica %s: stop that one first", t->path);
}

static repl_result top_open(struct replica_tree *t, struct repl_error *err)
{
    if (geteuid() != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "only root can give files their owners, so there is no replica of a "
                         "directory tree: run the site as root, or put \"replica = none\" into "
                         "[volume NAME]");
    if (t->image && mkdir(t->path, 0700) != 0 && errno != EEXIST)
        return open_fail(t, errno, "make", err);
    t->top_fd = open(t->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (t->image ? O_NOFOLLOW : 0));
    if (t->top_fd < 0 && errno == ENOTDIR)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is no directory, and the volume is a directory tree: name a directory "
                         "as replica in [volume NAME]",
                         t->path);
    if (t->top_fd < 0)
        return open_fail(t, errno, "open", err);
    REPL_TRY(mark_check(t, err));
    t->state_fd = repl_tree_openat(t->top_fd, OWN, O_RDONLY | O_DIRECTORY);
    return t->state_fd >= 0 ? REPL_SUCCESS : open_fail(t, errno, "open", err);
}

/* Counts this one. */
static bool is_opened_in_vain(const struct replica_tree *t)
{
    struct stat status = {.st_size = 0};
    int fd = repl_tree_openat(t->state_fd, ATTEMPTS, O_WRONLY | O_CREAT | O_APPEND);
    bool counted = fd >= 0 && fstat(fd, &status) == 0 && write(fd, "+", 1) == 1;
    if (fd >= 0)
        close(fd);
    return counted && status.st_size >= ATTEMPTS_MAX;
}

void replica_tree_succeeded(struct replica_tree *t)
{
    if (unlinkat(t->state_fd, ATTEMPTS, 0) != 0 && errno != ENOENT)
        repl_log(LOG_WARNING, "volume %s: cannot remove %s/" OWN "/" ATTEMPTS ": %s",
                 t->journal.volume, t->path, strerror(errno));
}

/* Durably: the directory is about to be something that the old one knows nothing of. */
static repl_result map_forget(struct replica_tree *t, struct repl_error *err)
{
    REPL_TRY(replica_map_remake(&t->map, err));
    return fsync(t->state_fd) == 0 ? REPL_SUCCESS : open_fail(t, errno, "sync", err);
}

static repl_result map_open(struct replica_tree *t, struct repl_error *err)
{
    if (is_opened_in_vain(t)) {
        repl_log(LOG_WARNING,
                 "volume %s: what is known of the replica %s is not used: it was opened %d times "
                 "without success",
                 t->journal.volume, t->path, ATTEMPTS_MAX);
        return map_forget(t, err);
    }
    repl_result result = replica_map_open(&t->map, err);
    if (result.code != REPL_E_CORRUPT)
        return result;
    return map_forget(t, err); /* it is known again once all has been compared */
}

static void fd_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static repl_result staging_remove(struct replica_tree *t, struct repl_error *err)
{
    fd_close(&t->staging_fd);
    return repl_forward(repl_tree_remove(t->state_fd, STAGING, err), err, "%s/" OWN "/" STAGING,
                        t->path);
}

repl_result replica_tree_open(struct replica_tree *t, struct repl_error *err)
{
    t->top_fd = t->mark_fd = t->state_fd = t->staging_fd = -1;
    t->map.volume = t->volume;
    int size = snprintf(t->map.path, sizeof t->map.path, "%s/" OWN "/map", t->path);
    repl_result result =
        size < 0 || (size_t)size >= sizeof t->map.path
            ? repl_fail(err, REPL_E_USAGE, "the path of the replica %s is too long", t->path)
            : top_open(t, err);
    if (repl_ok(result))
        result = map_open(t, err);
    if (repl_ok(result) && t->map.phase == REPLICA_AT) /* what a crash has left there */
        result = staging_remove(t, err);
    if (!repl_ok(result))
        replica_tree_close(t);
    return result;
}

void replica_tree_close(struct replica_tree *t)
{
    replica_map_close(&t->map);
    fd_close(&t->state_fd);
    fd_close(&t->mark_fd);
    fd_close(&t->top_fd);
}

bool replica_tree_is_there(const struct replica_tree *t)
{
    struct stat opened, named;
    return t->top_fd >= 0 && fstat(t->top_fd, &opened) == 0 && stat(t->path, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

static repl_result tree_sync(const struct replica_tree *t, struct repl_error *err)
{
    if (syncfs(t->top_fd) == 0)
        return REPL_SUCCESS;
    return repl_fail_errno(err, REPL_E_IO, errno,
                           "cannot make the replica %s durable: check the disk under it", t->path);
}

/* --- the tools of an advance ----------------------------------------------------------------- */

static repl_result meta_attribute(void *context, struct repl_tree_key *key, struct repl_record *out,
                                  bool *found, struct repl_error *err)
{
    struct replica_tree *t = context;
    struct replica_key at = REPLICA_KEY(key->object, key->index);
    MDB_val value;
    REPL_TRY(replica_map_next(&t->map, REPLICA_XATTR, &at, 8, &value, found, err));
    if (!*found)
        return REPL_SUCCESS;
    struct repl_reader reader = repl_reader_of(value.mv_data, value.mv_size);
    repl_record_decode(&reader, out);
    key->index = (uint32_t)replica_key_number(&at, 1) + 1;
    return reader.failed
               ? repl_fail(err, REPL_E_INTERNAL, "%s: an attribute is damaged", t->map.path)
               : REPL_SUCCESS;
}

static repl_result meta_read(void *context, uint64_t place, void *out, size_t size,
                             struct repl_error *err)
{
    const struct replica_tree *t = context;
    return replica_bytes_read(t->bytes, place, out, size, err);
}

/* Of each kind the first. */
static void lack_log(struct replica_tree *t, enum repl_tree_lack lack, const char *what)
{
    if ((t->lacks & 1u << lack) != 0)
        return;
    t->lacks |= 1u << lack;
    repl_log(LOG_WARNING, "volume %s: %s/tree cannot hold all: %s; more of this kind is not told",
             t->journal.volume, t->path, what);
}

static void meta_lacks(void *context, const struct repl_tree_item *item, enum repl_tree_lack lack,
                       const char *what, int os_errno)
{
    char text[REPL_ERROR_TEXT_SIZE];
    snprintf(text, sizeof text, "object %llu: %.300s%s%s", (unsigned long long)item->object, what,
             os_errno != 0 ? ": " : "", os_errno != 0 ? strerror(os_errno) : "");
    lack_log(context, lack, text);
}

static repl_result tools_begin(struct replica_tree *t, struct repl_error *err)
{
    t->contradicts = false;
    t->meta = (struct repl_tree_meta_by){.context = t,
                                         .attribute = meta_attribute,
                                         .read = meta_read,
                                         .lacks = meta_lacks,
                                         .owner = REPL_TREE_OWNER_NUMERIC,
                                         .wanted = malloc(REPL_TREE_BUFFER_SIZE),
                                         .present = malloc(REPL_TREE_BUFFER_SIZE),
                                         .list = malloc(XATTR_LIST_MAX)};
    if (t->meta.wanted == NULL || t->meta.present == NULL || t->meta.list == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the replica of volume %s",
                         t->journal.volume);
    return REPL_SUCCESS;
}

static void tools_end(struct replica_tree *t)
{
    replica_bytes_free(t->bytes);
    t->bytes = NULL;
    fd_close(&t->staging_fd);
    free(t->meta.wanted);
    free(t->meta.present);
    free(t->meta.list);
    t->meta = (struct repl_tree_meta_by){0};
}

static repl_result staging_open(struct replica_tree *t, struct repl_error *err)
{
    if (t->map.phase == REPLICA_STAGING)
        REPL_TRY(staging_remove(t, err));
    if (t->map.phase == REPLICA_STAGING && mkdirat(t->state_fd, STAGING, 0700) != 0)
        return open_fail(t, errno, "make room in", err);
    if (t->staging_fd < 0)
        t->staging_fd = repl_tree_openat(t->state_fd, STAGING, O_RDONLY | O_DIRECTORY);
    if (t->staging_fd >= 0)
        return REPL_SUCCESS;
    return replica_tree_fail(t, errno, 0, "what was made ready for it is gone", err);
}

/* --- from point to point --------------------------------------------------------------------- */

static repl_result records_load(struct replica_tree *t, const struct repl_segment *const *segments,
                                size_t count, bool full, uint64_t space_size,
                                struct repl_error *err)
{
    struct repl_frame_coder *coder = NULL;
    struct repl_tree_merge *merge = NULL;
    repl_result result = repl_frame_coder_new(&coder, err);
    if (repl_ok(result))
        result = repl_tree_merge_new(&(struct repl_tree_merge_options){.segments = segments,
                                                                       .segment_count = count,
                                                                       .full = full},
                                     coder, &merge, err);
    if (repl_ok(result))
        result = replica_change_records(&t->map, merge, space_size, !full, &t->pulse, err);
    repl_tree_merge_free(merge);
    repl_frame_coder_free(coder);
    return result;
}

static repl_result load(struct replica_tree *t, struct repl_error *err)
{
    size_t count;
    const struct repl_view *changes = replica_bytes_changes(t->bytes);
    const struct repl_segment *const *segments = replica_bytes_segments(t->bytes, &count);
    REPL_TRY(replica_tree_step(t, err));
    REPL_TRY(records_load(t, segments, count, false, repl_view_size(changes), err));
    REPL_TRY(replica_tree_step(t, err));
    REPL_TRY(replica_change_space(&t->map, changes, &t->pulse, err));
    return replica_map_phase(&t->map, REPLICA_STAGING, err);
}

/* One phase, in one look at the map. */
static repl_result phase_do(struct replica_tree *t, struct repl_error *err)
{
    bool moved = true;
    REPL_TRY(staging_open(t, err));
    REPL_TRY(replica_map_begin(&t->map, false, err));
    repl_tree_dirs_init(&t->dirs, replica_tree_where, t, REPL_TREE_TARGET, t->top_fd);
    repl_result result = t->map.phase == REPLICA_STAGING     ? replica_tree_stage(t, err)
                         : t->map.phase == REPLICA_DETACHING ? replica_tree_detach(t, &moved, err)
                                                             : replica_tree_attach(t, err);
    repl_tree_dirs_fini(&t->dirs);
    replica_map_end(&t->map);
    REPL_TRY(result);
    if (moved)
        REPL_TRY(tree_sync(t, err));
    return replica_tree_step(t, err);
}

static repl_result phases_do(struct replica_tree *t, struct repl_error *err)
{
    if (t->map.phase == REPLICA_LOADING)
        REPL_TRY(load(t, err));
    while (t->map.phase != REPLICA_ATTACHING) {
        REPL_TRY(phase_do(t, err));
        REPL_TRY(replica_map_phase(&t->map, t->map.phase + 1, err));
    }
    REPL_TRY(phase_do(t, err));
    const struct repl_head before = t->map.reached;
    t->map.reached = t->map.goal;
    repl_result result = replica_map_phase(&t->map, REPLICA_AT, err);
    if (!repl_ok(result)) { /* to be ended once more, from there */
        t->map.reached = before;
        return result;
    }
    return staging_remove(t, err); /* not before: attaching may have to be done again */
}

repl_result replica_tree_advance(struct replica_tree *t, const struct repl_head *goal,
                                 struct repl_error *err)
{
    if (t->map.phase == REPLICA_AT) {
        t->map.goal = *goal;
        REPL_TRY(replica_map_phase(&t->map, REPLICA_LOADING, err));
    }
    repl_result result = tools_begin(t, err);
    if (repl_ok(result))
        result = replica_bytes_open(&t->journal, &t->map.reached, &t->map.goal, &t->bytes, err);
    if (repl_ok(result))
        result = phases_do(t, err);
    tools_end(t);
    return result;
}

/* --- comparing ------------------------------------------------------------------------------- */

static void fault_log(void *context, const char *path, const struct repl_error *err)
{
    const struct replica_tree *t = context;
    repl_log(LOG_ERR, "volume %s: %s/tree: %.300s: %s", t->journal.volume, t->path, path,
             err->text);
}

/* Called all the time, whether it goes on or not. */
static void compare_goes_on(void *context, const struct repl_tree_status *status)
{
    struct replica_tree *t = context;
    uint64_t now = status->bytes + status->done;
    if (now != t->compared)
        atomic_store(t->pulse.alive_ns, repl_now_mono_ns());
    t->compared = now;
}

static repl_result directory_restore(struct replica_tree *t, struct repl_history *history,
                                     size_t point, struct repl_error *err)
{
    char to[PATH_MAX], state[PATH_MAX];
    struct repl_tree_result restored;
    int to_size = snprintf(to, sizeof to, "%s/tree", t->path);
    int state_size = snprintf(state, sizeof state, "%s/" OWN, t->path);
    if (to_size < 0 || (size_t)to_size >= sizeof to || state_size < 0 ||
        (size_t)state_size >= sizeof state)
        return repl_fail(err, REPL_E_USAGE, "the path of the replica %s is too long", t->path);
    const struct repl_tree_options options = {.history = history,
                                              .point = point,
                                              .to = to,
                                              .path = "",
                                              .state = state,
                                              .overwrite = true,
                                              .exact = true,
                                              .owner = REPL_TREE_OWNER_NUMERIC,
                                              .interrupted = t->pulse.stop,
                                              .status = compare_goes_on,
                                              .fault = fault_log,
                                              .context = t};
    int64_t begin_ns = repl_now_mono_ns();
    repl_result result = repl_tree_restore(&options, &restored, err);
    for (unsigned i = 0; i < REPL_TREE_LACK_COUNT; i++) {
        if (restored.lacks[i].count > 0)
            lack_log(t, (enum repl_tree_lack)i, restored.lacks[i].first);
    }
    t->compare_again_ns = 0;
    if (!repl_ok(result) && restored.faults > 0) {
        int64_t now_ns = repl_now_mono_ns();
        t->compare_again_ns = now_ns + COMPARE_PAUSE_NS + 10 * (now_ns - begin_ns);
        t->faults = *err;
    }
    return result;
}

static repl_result map_fill(struct replica_tree *t, struct repl_history *history,
                            const struct repl_head *goal, size_t point, struct repl_error *err)
{
    size_t last = repl_history_segment_of(history, goal->to_seq);
    size_t first = repl_history_base_of(history, last), count = last - first + 1;
    const struct repl_segment **segments = calloc(count, sizeof *segments);
    if (segments == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for %zu segments", count);
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; i < count && repl_ok(result); i++)
        result = repl_history_segment(history, first + i, &segments[i], err);
    if (repl_ok(result))
        result = records_load(t, segments, count, true,
                              repl_history_catalogue(history)->points[point].volume_size, err);
    free(segments);
    return result;
}

repl_result replica_tree_compare(struct replica_tree *t, const struct repl_head *goal,
                                 struct repl_error *err)
{
    struct repl_history *history;
    size_t point;
    if (repl_now_mono_ns() < t->compare_again_ns)
        return repl_fail(err, t->faults.code, "%s", t->faults.text);
    REPL_TRY(map_forget(t, err));
    REPL_TRY(staging_remove(t, err));
    REPL_TRY(replica_history_open(&t->journal, goal, &history, &point, err));
    repl_result result = directory_restore(t, history, point, err);
    if (repl_ok(result))
        result = map_fill(t, history, goal, point, err);
    repl_history_close(history);
    REPL_TRY(result);
    t->map.reached = *goal;
    return replica_map_phase(&t->map, REPLICA_AT, err);
}
