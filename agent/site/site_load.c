/*
 * A volume as it is found at a start.
 *
 * The log is read and folded. What can be found, and what is done:
 *
 *   a tail that does not decode, behind all that the index has seen, and nothing
 *   whole behind it        torn: never acknowledged, cut off
 *   anything else that does not decode, or a log shorter than the index knows
 *                          damaged: committed history was lost
 *   one segment the log does not have
 *                          a crash between PUBLISH and LOG, or a log that lost its last
 *                          record: set aside, never removed
 *   several of them, or a committed one missing or of another size, or segments
 *   and no log             damaged
 *
 * A damaged volume is not served and nothing of it is deleted or written; the
 * others go on. The index is brought up to the log; it is never needed to tell
 * what is committed, only how far the log once went.
 *
 * A staged upload that the journal would take is given back to it, so that the
 * source goes on where it was. Everything else in staging is removed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "format/segment_format.h"
#include "site/site_volume.h"
#include "store/segment_name.h"

#define BATCH_RECORDS 4096u

struct stored_id {
    struct repl_segment_id id;
    uint64_t size;
};

struct loader {
    struct site_volume *volume;
    struct repl_buffer log;
    uint64_t index_end; /* of the log, as the index knows it */
    uint64_t index_record;
    struct repl_buffer commits; /* struct stored_id each: by the log, in order */
    struct repl_buffer stored;  /* the same: by the store, sorted */
};

__attribute__((format(printf, 2, 3))) static void damage(struct site_volume *v, const char *format,
                                                         ...)
{
    if (v->damaged[0] != '\0')
        return;
    va_list args;
    va_start(args, format);
    int used = snprintf(v->damaged, sizeof v->damaged, "history damaged: ");
    vsnprintf(v->damaged + used, sizeof v->damaged - (size_t)used, format, args);
    va_end(args);
    repl_log(LOG_ERR,
             "volume %s is not served, %s. Nothing was deleted. Run \"repl verify\" on the store "
             "to see what is whole; the other volumes go on",
             v->name, v->damaged);
}

static bool is_damaged(const struct site_volume *v)
{
    return v->damaged[0] != '\0';
}

/* --- the log --------------------------------------------------------------------------------- */

/* A whole record with a later number behind the one that does not decode: then it is not the last
 * one, so it was durable once. */
static bool later_record_follows(const struct loader *l, uint64_t from)
{
    for (uint64_t at = from + 1; at < l->log.size; at++) {
        struct repl_log_record record;
        size_t size;
        if (repl_ok(
                repl_log_record_decode(l->log.data + at, l->log.size - at, &record, &size, NULL)) &&
            record.number > l->volume->journal.record_number)
            return true;
    }
    return false;
}

static repl_result commit_note(struct loader *l, const struct repl_log_record *record,
                               struct repl_error *err)
{
    struct stored_id commit = {.id = {.to_seq = record->commit.to_seq, .part = record->commit.part},
                               .size = record->commit.file_size};
    if (record->type != REPL_LOG_COMMIT)
        return REPL_SUCCESS;
    return repl_buffer_append(&l->commits, &commit, sizeof commit, err);
}

/* Sets log_end; tells a torn tail from damage. */
static repl_result log_fold(struct loader *l, struct repl_error *err)
{
    struct site_volume *v = l->volume;
    struct repl_error why;
    bool boundary = l->index_end == 0;
    while (v->log_end < l->log.size) {
        struct repl_log_record record;
        size_t size;
        repl_result result = repl_log_record_decode(l->log.data + v->log_end,
                                                    l->log.size - v->log_end, &record, &size, &why);
        bool decoded = repl_ok(result);
        if (decoded)
            result = site_volume_apply(v, &record, &why);
        if (!repl_ok(result)) {
            if (decoded || result.code == REPL_E_VERSION || v->log_end < l->index_end ||
                later_record_follows(l, v->log_end))
                damage(v, "its log at byte %" PRIu64 ": %.250s", v->log_end, why.text);
            return REPL_SUCCESS;
        }
        REPL_TRY(commit_note(l, &record, err));
        v->log_end += size;
        if (v->log_end == l->index_end)
            boundary = record.number == l->index_record;
    }
    if (v->log_end < l->index_end)
        damage(v, "its log ends at byte %" PRIu64 ", and once went on to byte %" PRIu64, v->log_end,
               l->index_end);
    else if (!boundary)
        damage(v, "its log is not the one that the index was made from");
    return REPL_SUCCESS;
}

static void log_cut(struct loader *l)
{
    struct site_volume *v = l->volume;
    struct repl_store *store = v->site->store;
    struct repl_error err;
    if (v->log_end == l->log.size)
        return;
    repl_log(LOG_WARNING,
             "volume %s: the last %" PRIu64 " bytes of its log are a record that a crash cut "
             "short, never acknowledged: cut off",
             v->name, l->log.size - v->log_end);
    if (repl_ok(store->ops->log_append(store, v->name, v->log_end, "", 0, &err)))
        return;
    repl_log(LOG_WARNING, "volume %s: cutting off now failed and is done later: %s", v->name,
             err.text);
    v->unsettled = true;
}

/* --- segments -------------------------------------------------------------------------------- */

static repl_result stored_note(void *context, const struct repl_segment_id *id, uint64_t size,
                               struct repl_error *err)
{
    struct loader *l = context;
    struct stored_id stored = {.id = *id, .size = size};
    if (id->merge > l->volume->last_merge) /* no file of a merge is ever taken for another */
        l->volume->last_merge = id->merge;
    return repl_buffer_append(&l->stored, &stored, sizeof stored, err);
}

static int stored_order(const void *a, const void *b)
{
    return repl_segment_id_order(&((const struct stored_id *)a)->id,
                                 &((const struct stored_id *)b)->id);
}

static size_t stored_count(const struct repl_buffer *ids)
{
    return ids->size / sizeof(struct stored_id);
}

static const struct stored_id *stored_at(const struct repl_buffer *ids, size_t i)
{
    return (const struct stored_id *)(const void *)ids->data + i;
}

/* Both lists are sorted: committed segments that are not whole are damage; *unknown counts those
 * the log does not have, *last is one of them. */
static void stored_compare(struct loader *l, size_t *unknown, struct repl_segment_id *last)
{
    size_t c = 0, commits = stored_count(&l->commits);
    *unknown = 0;
    for (size_t s = 0; s < stored_count(&l->stored) && !is_damaged(l->volume); s++) {
        const struct stored_id *stored = stored_at(&l->stored, s);
        if (stored->id.supply != 0)
            continue;
        const struct stored_id *commit = c < commits ? stored_at(&l->commits, c) : NULL;
        int order = commit == NULL ? 1 : repl_segment_id_order(&commit->id, &stored->id);
        if (order > 0) {
            *unknown += 1;
            *last = stored->id;
        } else if (order < 0) {
            break; /* missing: reported below */
        } else if (commit->size != stored->size) {
            damage(l->volume,
                   "segment %" PRIu64 ".%" PRIu32 " has %" PRIu64 " bytes, and %" PRIu64
                   " were committed",
                   stored->id.to_seq, stored->id.part, stored->size, commit->size);
        } else {
            c++;
        }
    }
    if (c < commits)
        damage(l->volume, "segment %" PRIu64 ".%" PRIu32 " is missing",
               stored_at(&l->commits, c)->id.to_seq, stored_at(&l->commits, c)->id.part);
}

repl_result site_found_set_aside(struct site_volume *v, struct repl_error *err)
{
    struct repl_store *store = v->site->store;
    char name[128];
    if (!v->has_found)
        return REPL_SUCCESS;
    REPL_TRY(store->ops->segment_set_aside(store, v->name, &v->found, name, sizeof name, err));
    v->has_found = false;
    if (name[0] != '\0')
        repl_log(LOG_WARNING,
                 "volume %s: segment %" PRIu64 ".%" PRIu32 " is not in its log, as after a crash "
                 "that came before it was committed: set aside as %s of the volume's directory. "
                 "The source sends it again; once the volume has a later point, the file can be "
                 "removed",
                 v->name, v->found.to_seq, v->found.part, name);
    return REPL_SUCCESS;
}

static void segments_check(struct loader *l)
{
    struct site_volume *v = l->volume;
    struct repl_segment_id last = {0};
    struct repl_error err;
    size_t unknown;
    if (!v->journal.exists && (l->stored.size > 0 || l->index_end > 0)) {
        damage(v, "its log is missing");
        return;
    }
    stored_compare(l, &unknown, &last);
    if (unknown > 1)
        damage(v, "%zu segments are there that its log does not have", unknown);
    if (unknown != 1 || is_damaged(v))
        return;
    v->has_found = true;
    v->found = last;
    if (l->index_end == 0 && l->commits.size > 0)
        repl_log(LOG_WARNING,
                 "volume %s: there is no index that could tell how far its log once went", v->name);
    if (!repl_ok(site_found_set_aside(v, &err)))
        repl_log(LOG_WARNING, "volume %s: %s: tried again before the next commit", v->name,
                 err.text);
}

/* --- the index ------------------------------------------------------------------------------- */

/* The chunks of a segment or a supply into the index. record NULL: a supply. */
static repl_result index_segment(struct repl_site *site, const char *name,
                                 const struct repl_segment_id *id,
                                 const struct repl_log_record *record, uint64_t log_end,
                                 struct repl_error *err)
{
    struct repl_stored_segment *file;
    struct repl_segment *segment = NULL;
    REPL_TRY(site->store->ops->segment_open(
        site->store, name, id, record != NULL ? record->commit.file_size : 0, &file, err));
    repl_result result = repl_forward(
        repl_segment_open(repl_stored_segment_read_at, file, file->size, &segment, err), err, "%s",
        file->label);
    if (repl_ok(result) && record != NULL) {
        const struct repl_index_record added = {.record = record,
                                                .chunks = segment->chunks,
                                                .chunk_count = segment->footer.chunk_count};
        result = repl_index_apply(site->index, name, &added, 1, log_end, err);
    } else if (repl_ok(result))
        result = repl_index_add_chunks(site->index, name, id, segment->chunks,
                                       segment->footer.chunk_count, err);
    repl_segment_free(segment);
    file->close(file);
    return result;
}

/* Up to BATCH_RECORDS records from *at on. */
static repl_result index_batch(struct repl_site *site, const char *name, const uint8_t *log,
                               uint64_t log_end, uint64_t *at, struct repl_error *err)
{
    for (unsigned i = 0; i < BATCH_RECORDS && *at < log_end; i++) {
        struct repl_log_record record;
        size_t size;
        REPL_TRY(repl_log_record_decode(log + *at, log_end - *at, &record, &size, err));
        struct repl_segment_id id = {.to_seq = record.commit.to_seq, .part = record.commit.part};
        if (record.type == REPL_LOG_COMMIT)
            REPL_TRY(index_segment(site, name, &id, &record, *at + size, err));
        else
            REPL_TRY(repl_index_apply(site->index, name,
                                      &(struct repl_index_record){.record = &record}, 1, *at + size,
                                      err));
        *at += size;
    }
    return REPL_SUCCESS;
}

/* One batch from where the index is; *at: where it is then. */
static repl_result index_forward(struct repl_site *site, const char *name, const uint8_t *log,
                                 uint64_t log_end, uint64_t *at, struct repl_error *err)
{
    uint64_t record_number;
    REPL_TRY(repl_index_position(site->index, name, at, &record_number, err));
    if (*at >= log_end)
        return REPL_SUCCESS;
    REPL_TRY(repl_index_batch_begin(site->index, err));
    repl_result result = index_batch(site, name, log, log_end, at, err);
    repl_result ended = repl_index_batch_end(site->index, repl_ok(result) ? err : NULL);
    REPL_TRY(result);
    return ended;
}

static void say_left_out(const struct site_volume *v, const struct repl_error *err)
{
    repl_log(LOG_WARNING, "volume %s: a supply is left out of the index: %s", v->name, err->text);
}

repl_result site_index_catch_up(struct repl_site *site, const char *name, const uint8_t *log,
                                uint64_t log_end, pthread_mutex_t *lock, struct repl_error *err)
{
    uint64_t at = 0;
    repl_result result = REPL_SUCCESS;
    while (repl_ok(result) && at < log_end) {
        if (lock != NULL)
            pthread_mutex_lock(lock);
        result = index_forward(site, name, log, log_end, &at, err);
        if (lock != NULL)
            pthread_mutex_unlock(lock);
    }
    return result;
}

static repl_result supply_refill(void *context, const struct repl_segment_id *id, uint64_t size,
                                 struct repl_error *err)
{
    struct site_volume *v = context;
    (void)size, (void)err;
    if (id->supply == 0)
        return REPL_SUCCESS;
    struct repl_error why;
    pthread_mutex_lock(&v->site->index_lock);
    repl_result result = index_segment(v->site, v->name, id, NULL, 0, &why);
    pthread_mutex_unlock(&v->site->index_lock);
    if (!repl_ok(result))
        say_left_out(v, &why);
    return REPL_SUCCESS;
}

repl_result site_index_refill(struct site_volume *v, bool supplies, uint64_t log_end,
                              struct repl_error *err)
{
    struct repl_store *store = v->site->store;
    struct repl_buffer log = {0};
    repl_result result = REPL_SUCCESS;
    if (supplies)
        result = store->ops->segments(store, v->name, supply_refill, v, err);
    if (repl_ok(result))
        result = store->ops->log_read(store, v->name, &log, NULL, err);
    if (repl_ok(result) && log.size < log_end)
        result = repl_fail(err, REPL_E_CORRUPT, "the log of volume %s became shorter", v->name);
    if (repl_ok(result))
        result =
            site_index_catch_up(v->site, v->name, log.data, log_end, &v->site->index_lock, err);
    repl_buffer_fini(&log);
    return result;
}

/* The last segment that the index has; zeros: none. */
static struct repl_segment_id indexed_head(const struct loader *l)
{
    struct repl_segment_id head = {0};
    for (uint64_t at = 0; at < l->index_end;) {
        struct repl_log_record record;
        size_t size;
        if (!repl_ok(
                repl_log_record_decode(l->log.data + at, l->log.size - at, &record, &size, NULL)))
            break;
        if (record.type == REPL_LOG_COMMIT)
            head = (struct repl_segment_id){.to_seq = record.commit.to_seq,
                                            .part = record.commit.part};
        at += size;
    }
    return head;
}

/* Supplies come before the commit they are for, and so do their places in the index. One that
 * cannot be read is left out: what nobody finds is asked of the source. */
static void index_supplies(struct loader *l)
{
    struct site_volume *v = l->volume;
    struct repl_segment_id head = indexed_head(l);
    struct repl_error err;
    for (size_t i = 0; i < stored_count(&l->stored); i++) {
        struct repl_segment_id id = stored_at(&l->stored, i)->id;
        struct repl_segment_id of = {.to_seq = id.to_seq, .part = id.part};
        if (id.supply == 0 || repl_segment_id_order(&of, &head) <= 0)
            continue;
        if (!repl_ok(index_segment(v->site, v->name, &id, NULL, 0, &err)))
            say_left_out(v, &err);
    }
}

static void index_load(struct loader *l)
{
    struct site_volume *v = l->volume;
    struct repl_error err;
    if (l->index_end == 0 && l->commits.size > 0)
        repl_log(LOG_INFO, "volume %s: the index is made anew from %zu segments", v->name,
                 stored_count(&l->commits));
    index_supplies(l);
    if (repl_ok(site_index_catch_up(v->site, v->name, l->log.data, v->log_end, NULL, &err)))
        return;
    v->index_behind = true;
    snprintf(v->index_problem, sizeof v->index_problem, "%.350s", err.text);
    repl_log(LOG_ERR,
             "volume %s: the index is incomplete, so its replica and readers may lack the newest "
             "points: %s",
             v->name, err.text);
}

/* --- staging --------------------------------------------------------------------------------- */

static bool header_read(int fd, uint64_t *size, struct repl_segment_header *header)
{
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ||
        status.st_size > (off_t)REPL_SEGMENT_HARD_LIMIT)
        return false;
    *size = (uint64_t)status.st_size;
    return repl_ok(site_read_at(&fd, 0, bytes, sizeof bytes, NULL)) &&
           repl_ok(repl_segment_header_decode(bytes, sizeof bytes, header, NULL));
}

/* Whether the journal takes it for an upload that can be gone on with. */
static bool upload_resume(struct site_volume *v, const char *path)
{
    struct repl_segment_header header;
    struct repl_refusal refusal;
    uint64_t size;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool good = !v->journal.upload.active && header_read(fd, &size, &header) &&
                repl_journal_upload_begin(&v->journal, header.to_seq, header.part, 0, &refusal) ==
                    REPL_VERDICT_ACCEPT;
    if (good && repl_journal_upload_header(&v->journal, &v->journal.upload, &header, &refusal) !=
                    REPL_VERDICT_ACCEPT) {
        repl_journal_upload_drop(&v->journal);
        good = false;
    }
    if (!good) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    repl_journal_upload_grow(&v->journal.upload, size);
    struct site_intake *intake = &v->upload->intake;
    intake->fd = fd;
    intake->written = size;
    snprintf(intake->path, sizeof intake->path, "%s", path);
    repl_log(LOG_INFO,
             "volume %s: %" PRIu64 " bytes of segment %" PRIu64 ".%" PRIu32 " are held from before",
             v->name, size, header.to_seq, header.part);
    return true;
}

static void staging_load(struct site_volume *v)
{
    char directory[PATH_MAX], path[PATH_MAX];
    DIR *listing = NULL;
    if (repl_ok(repl_store_staging(v->site->store, v->name, directory, sizeof directory, NULL)))
        listing = opendir(directory);
    if (listing == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        int size = snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (entry->d_name[0] == '.' || size < 0 || (size_t)size >= sizeof path)
            continue;
        const char *dot = strrchr(entry->d_name, '.');
        if (dot == NULL || strcmp(dot, ".upload") != 0 || !upload_resume(v, path))
            unlink(path);
    }
    closedir(listing);
}

/* --- all of it ------------------------------------------------------------------------------- */

/* Neither log nor index know anything, and there is no directory for segments: a hello that was to
 * make the volume was cut short, by a crash or a full disk. The next one makes what is missing. */
static bool is_half_made(const struct loader *l, repl_result segments)
{
    return segments.code == REPL_E_MISSING && l->log.size == 0 && l->index_end == 0;
}

static repl_result history_load(struct loader *l, struct repl_error *err)
{
    struct site_volume *v = l->volume;
    struct repl_site *site = v->site;
    REPL_TRY(site->store->ops->log_read(site->store, v->name, &l->log, NULL, err));
    REPL_TRY(repl_index_position(site->index, v->name, &l->index_end, &l->index_record, err));
    repl_result segments = site->store->ops->segments(site->store, v->name, stored_note, l, err);
    if (is_half_made(l, segments))
        return REPL_SUCCESS;
    REPL_TRY(segments);
    if (l->stored.size > 0)
        qsort(l->stored.data, stored_count(&l->stored), sizeof(struct stored_id), stored_order);
    REPL_TRY(log_fold(l, err));
    if (v->journal.exists && strcmp(v->journal.create.name, v->name) != 0)
        damage(v, "its log is that of volume %s: was the directory renamed?",
               v->journal.create.name);
    if (!is_damaged(v))
        segments_check(l);
    if (is_damaged(v) || !v->journal.exists)
        return REPL_SUCCESS;
    log_cut(l);
    index_load(l);
    staging_load(v);
    return REPL_SUCCESS;
}

repl_result site_volume_load(struct repl_site *site, const char *name, struct site_volume **out,
                             struct repl_error *err)
{
    struct loader l = {0};
    *out = NULL;
    REPL_TRY(site_volume_new(site, name, &l.volume, err));
    repl_result result = history_load(&l, err);
    /* A disk that cannot be read is this volume's trouble alone; a store that does not answer is
     * that of all, and the site begins once it does. */
    if (!repl_ok(result) && result.code != REPL_E_RETRY)
        damage(l.volume, "%.350s", err->text);
    repl_buffer_fini(&l.log);
    repl_buffer_fini(&l.commits);
    repl_buffer_fini(&l.stored);
    if (result.code == REPL_E_RETRY) {
        site_volume_free(l.volume);
        return result;
    }
    if (!l.volume->journal.exists && !is_damaged(l.volume))
        site_volume_free(l.volume); /* a directory, made by a hello that a crash cut short */
    else
        *out = l.volume;
    return REPL_SUCCESS;
}
