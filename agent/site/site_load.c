/*
 * A volume as it is found at a start.
 *
 * The log is read and folded. What can be found, and what is done:
 *
 *   a tail that does not decode, or the beginning of a MERGE without its end,
 *   behind all that the index has seen, and no later append to be seen behind it
 *                          torn: never acknowledged, cut off
 *   anything else that does not decode, or a log that ends before the last record
 *   that the index knows   damaged: committed history was lost
 *   segments that were merged into others, or that a merge has made of which the log
 *   says nothing           left over: noted, for whoever removes them
 *   one other segment that the log does not have
 *                          a crash between PUBLISH and LOG, or a log that lost its last
 *                          record: set aside, never removed
 *   a committed one missing or of another size, and not the first
 *                          the volume goes on, and the scrub sees to it
 *   the first so, or where nothing is scrubbed any; several that the log does not
 *   have, or segments and no log
 *                          damaged
 *
 * A volume that there is no memory to read is not served, and read again later
 * (site_unread.c). A damaged volume is not served and nothing of it is deleted or written; the
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
#include "journal/chain.h"
#include "journal/log_tail.h"
#include "journal/merge_times.h"
#include "site/site_volume.h"
#include "store/segment_name.h"

struct stored_id {
    struct repl_segment_id id;
    uint64_t size;
};

struct loader {
    struct site_volume *volume;
    struct repl_buffer log;
    uint64_t begin;     /* the offset of its first byte */
    uint64_t index_end; /* of the log, as the index knows it */
    uint64_t index_record;
    uint64_t last_record; /* of what is whole */
    struct repl_chain chain;
    struct repl_merge_times times;
    struct repl_buffer stored; /* struct stored_id each, sorted */
    size_t lacking;            /* segments that are committed and not whole */
    char lacks[128];           /* the first of them */
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

static void fold_restart(struct loader *l)
{
    struct site_volume *v = l->volume;
    repl_chain_fini(&l->chain);
    repl_merge_times_fini(&l->times);
    repl_journal_init(&v->journal);
    v->point_head = (struct repl_head){0};
    v->point_size = 0;
    l->last_record = 0;
}

static repl_result record_fold(struct loader *l, const struct repl_log_record *record,
                               struct repl_error *err)
{
    REPL_TRY(site_volume_apply(l->volume, record, err));
    REPL_TRY(repl_chain_apply(&l->chain, record, err));
    return repl_merge_times_apply(&l->times, record, err);
}

/* What a record that does not decode, or cannot follow, is no torn tail for. */
static bool is_damage(const struct loader *l, size_t at, bool decoded, enum repl_code code)
{
    return decoded || code == REPL_E_VERSION || l->last_record < l->index_record ||
           repl_log_goes_on(&l->volume->journal, l->log.data, l->log.size, at);
}

/* The records of the first end bytes. *whole: behind the last of them with which no group is left
 * open. */
static repl_result records_fold(struct loader *l, size_t end, size_t *whole, struct repl_error *err)
{
    fold_restart(l);
    *whole = 0;
    for (size_t at = 0, size; at < end; at += size) {
        struct repl_log_record record;
        struct repl_error why;
        repl_result result =
            repl_log_record_decode(l->log.data + at, end - at, &record, &size, &why);
        bool decoded = repl_ok(result);
        if (decoded)
            result = record_fold(l, &record, &why);
        if (result.code == REPL_E_NOMEM)
            return repl_fail(err, REPL_E_NOMEM, "%s", why.text);
        if (!repl_ok(result)) {
            if (is_damage(l, at, decoded, result.code))
                damage(l->volume, "its log at byte %" PRIu64 ": %.250s", l->begin + at, why.text);
            return REPL_SUCCESS;
        }
        if (l->chain.group_left > 0)
            continue;
        *whole = at + size;
        l->last_record = record.number;
        if (record.number == l->index_record && l->begin + *whole != l->index_end)
            damage(l->volume, "its log is not the one that the index was made from");
    }
    return REPL_SUCCESS;
}

/* Sets log_end; tells a torn tail from damage. */
static repl_result log_fold(struct loader *l, struct repl_error *err)
{
    struct site_volume *v = l->volume;
    size_t whole, again;
    REPL_TRY(records_fold(l, l->log.size, &whole, err));
    v->log_begin = l->begin;
    v->log_end = l->begin + whole;
    if (l->chain.group_left > 0 && v->journal.in_checkpoint)
        damage(v, "the checkpoint that its log begins with has no end");
    if (l->last_record < l->index_record && l->log.size > 0)
        damage(v, "its log ends at record %" PRIu64 ", and once went on to record %" PRIu64,
               l->last_record, l->index_record);
    /* The beginning of a group that has no end is no part of it. */
    return l->chain.group_left > 0 && !is_damaged(v) ? records_fold(l, whole, &again, err)
                                                     : REPL_SUCCESS;
}

static void log_cut(struct loader *l)
{
    struct site_volume *v = l->volume;
    struct repl_store *store = v->site->store;
    struct repl_error err;
    uint64_t end = l->begin + l->log.size;
    if (v->log_end == end)
        return;
    repl_log(LOG_WARNING,
             "volume %s: the last %" PRIu64 " bytes of its log are a record, or a merge, that a "
             "crash cut short, never acknowledged: cut off",
             v->name, end - v->log_end);
    if (repl_ok(store->ops->log_append(store, v->name, v->log_end, "", 0, &err)))
        return;
    repl_log(LOG_WARNING, "volume %s: cutting off now failed and is done later: %s", v->name,
             err.text);
    v->unsettled = true;
    v->unsettled_ns = repl_now_mono_ns();
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

/* What comes from now on need not be refused for it: the scrub finds out which points it spoils,
 * and has the source send what ends that. Where there is no scrub, or with the first segment, which
 * is how it looks when something is not mounted, nobody would. */
static void committed_lacks(struct loader *l, const struct repl_segment_id *id, const char *how)
{
    struct site_volume *v = l->volume;
    const struct repl_log_commit *first = &l->chain.entries[0].commit;
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    repl_segment_id_text(id, text);
    if (v->site->config->scrub_every_ms == 0 ||
        (id->to_seq == first->to_seq && id->part == first->part)) {
        damage(v, "segment %s %s", text, how);
        return;
    }
    if (l->lacking++ == 0)
        snprintf(l->lacks, sizeof l->lacks, "segment %s %s", text, how);
    site_scrub_suspect(v, id->to_seq, id->to_seq);
}

static void committed_check(struct loader *l)
{
    for (size_t i = 0; i < l->chain.count && !is_damaged(l->volume); i++) {
        const struct repl_log_piece *entry = &l->chain.entries[i];
        const struct repl_log_commit *commit = &entry->commit;
        const struct stored_id key = {
            .id = {.to_seq = commit->to_seq, .part = commit->part, .merge = entry->merge}};
        const struct stored_id *stored = NULL;
        char how[80] = "";
        if (l->stored.size > 0)
            stored =
                bsearch(&key, l->stored.data, stored_count(&l->stored), sizeof key, stored_order);
        if (stored == NULL)
            snprintf(how, sizeof how, "is missing");
        else if (stored->size != commit->file_size)
            snprintf(how, sizeof how, "has %" PRIu64 " bytes, and %" PRIu64 " were committed",
                     stored->size, commit->file_size);
        if (how[0] != '\0')
            committed_lacks(l, &key.id, how);
    }
    if (l->lacking > 0 && !is_damaged(l->volume))
        repl_log(LOG_ERR,
                 "volume %s: %s, and so %zu more: points behind may not restore. Bring them back "
                 "from a copy of the store; what the source sends is taken in meanwhile",
                 l->volume->name, l->lacks, l->lacking - 1);
}

static repl_result leftover_add(const struct loader *l, const struct repl_segment_id *id,
                                struct repl_error *err)
{
    struct site_volume *v = l->volume;
    struct site_leftover *larger =
        reallocarray(v->leftovers, v->leftover_count + 1, sizeof *larger);
    if (larger == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for what is left over of volume %s",
                         v->name);
    v->leftovers = larger;
    larger[v->leftover_count++] = (struct site_leftover){
        .id = *id, .replaced_ns = repl_merge_times_find(&l->times, id->to_seq, id->merge)};
    return REPL_SUCCESS;
}

/* A record that was on its way when the process before ended may be in the log yet, of a merge
 * whose pieces are among what is left over. */
static void late_expect(struct site_volume *v)
{
    for (size_t i = 0; i < v->leftover_count && v->site->store->late_ms > 0; i++) {
        if (v->leftovers[i].id.merge == 0)
            continue;
        v->unsettled = v->drop_unsure = true;
        v->unsettled_ns = repl_now_mono_ns();
        return;
    }
}

/* *unknown counts those that neither log nor merges account for, *last is one of them. */
static repl_result stored_check(struct loader *l, size_t *unknown, struct repl_segment_id *last,
                                struct repl_error *err)
{
    *unknown = 0;
    for (size_t i = 0; i < stored_count(&l->stored); i++) {
        const struct repl_segment_id *id = &stored_at(&l->stored, i)->id;
        if (id->supply != 0 ||
            repl_chain_find(&l->chain, id->to_seq, id->part, id->merge) != SIZE_MAX)
            continue;
        if (id->merge != 0 || repl_chain_has_replaced(&l->chain, id->to_seq)) {
            REPL_TRY(leftover_add(l, id, err));
        } else {
            *unknown += 1;
            *last = *id;
        }
    }
    return REPL_SUCCESS;
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

static repl_result segments_check(struct loader *l, struct repl_error *err)
{
    struct site_volume *v = l->volume;
    struct repl_segment_id last = {0};
    size_t unknown;
    if (!v->journal.exists && (l->stored.size > 0 || l->index_record > 0)) {
        damage(v, "its log is missing");
        return REPL_SUCCESS;
    }
    committed_check(l);
    REPL_TRY(stored_check(l, &unknown, &last, err));
    if (unknown > 1)
        damage(v, "%zu segments are there that its log does not have", unknown);
    if (unknown != 1 || is_damaged(v))
        return REPL_SUCCESS;
    v->has_found = true;
    v->found = last;
    if (l->index_record == 0 && l->chain.count > 0)
        repl_log(LOG_WARNING,
                 "volume %s: there is no index that could tell how far its log once went", v->name);
    struct repl_error why;
    if (!repl_ok(site_found_set_aside(v, &why)))
        repl_log(LOG_WARNING, "volume %s: %s: tried again before the next commit", v->name,
                 why.text);
    return REPL_SUCCESS;
}

/* --- the index ------------------------------------------------------------------------------- */

/* The last segment that the index has; zeros: none. */
static struct repl_segment_id indexed_head(const struct loader *l)
{
    struct repl_segment_id head = {0};
    struct repl_log_record record;
    for (size_t at = 0, size; at < l->log.size; at += size) {
        if (!repl_ok(
                repl_log_record_decode(l->log.data + at, l->log.size - at, &record, &size, NULL)) ||
            record.number > l->index_record)
            break;
        struct repl_segment_id id = {.to_seq = record.commit.to_seq, .part = record.commit.part};
        if (record.type == REPL_LOG_PIECE)
            id = (struct repl_segment_id){.to_seq = record.piece.commit.to_seq,
                                          .part = record.piece.commit.part};
        else if (record.type != REPL_LOG_COMMIT)
            continue;
        if (repl_segment_id_order(&id, &head) > 0)
            head = id;
    }
    return head;
}

/* Supplies come before the commit they are for, and so do their places in the index. All of them
 * are noted. */
static repl_result index_supplies(const struct loader *l, struct repl_error *err)
{
    struct repl_segment_id head = indexed_head(l);
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; i < stored_count(&l->stored); i++) {
        const struct stored_id *stored = stored_at(&l->stored, i);
        struct repl_segment_id of = {.to_seq = stored->id.to_seq, .part = stored->id.part};
        if (stored->id.supply != 0)
            site_supply_note(l->volume, &stored->id);
        if (stored->id.supply != 0 && repl_segment_id_order(&of, &head) > 0 && repl_ok(result))
            result = site_index_supply(l->volume, &stored->id, stored->size, err);
    }
    return result;
}

static void index_load(struct loader *l)
{
    struct site_volume *v = l->volume;
    struct repl_error err;
    if (l->index_record == 0 && l->chain.count > 0)
        repl_log(LOG_INFO, "volume %s: the index is made anew from %zu segments", v->name,
                 l->chain.count);
    repl_result result = index_supplies(l, &err);
    v->index_lost = !repl_ok(result);
    if (repl_ok(result))
        result = site_index_catch_up(v->site, v->name, &l->log, l->begin, v->log_end,
                                     &v->site->index_lock, &err);
    if (repl_ok(result))
        return;
    v->index_behind = true;
    v->index_stale = l->index_record > 0;
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
    site_intake_found(&v->upload->intake, fd, path, size);
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
    return segments.code == REPL_E_MISSING && l->log.size == 0 && l->index_record == 0;
}

static repl_result history_load(struct loader *l, struct repl_error *err)
{
    struct site_volume *v = l->volume;
    struct repl_site *site = v->site;
    REPL_TRY(site->store->ops->log_read(site->store, v->name, &l->log, &l->begin, err));
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
        REPL_TRY(segments_check(l, err));
    if (is_damaged(v) || !v->journal.exists)
        return REPL_SUCCESS;
    log_cut(l);
    late_expect(v);
    index_load(l);
    staging_load(v);
    return REPL_SUCCESS;
}

/* A service that refuses what it is asked for (credentials are replaced now and then, rights taken
 * away and given back) says nothing of what it has; a filesystem that does is the volume's own. */
static bool is_unreachable(const struct repl_site *site, enum repl_code code)
{
    return code == REPL_E_RETRY || (repl_store_is_bucket(site->config->store) &&
                                    (code == REPL_E_REFUSED || code == REPL_E_USAGE));
}

/* In the place of what was read so far. */
static repl_result unread_make(struct repl_site *site, const char *name, const char *why,
                               struct site_volume **out, struct repl_error *err)
{
    REPL_TRY(site_volume_new(site, name, out, err));
    (*out)->unread = true;
    (*out)->read_ns = repl_now_mono_ns();
    snprintf((*out)->damaged, sizeof(*out)->damaged, "not read yet, for want of memory: %.300s",
             why);
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
    bool unreachable = is_unreachable(site, result.code), unread = result.code == REPL_E_NOMEM;
    if (!repl_ok(result) && !unreachable && !unread)
        damage(l.volume, "%.350s", err->text);
    repl_buffer_fini(&l.log);
    repl_chain_fini(&l.chain);
    repl_merge_times_fini(&l.times);
    repl_buffer_fini(&l.stored);
    if (unreachable || unread) {
        char why[REPL_ERROR_TEXT_SIZE];
        snprintf(why, sizeof why, "%s", err->text);
        site_volume_free(l.volume);
        return unread ? unread_make(site, name, why, out, err) : result;
    }
    if (!l.volume->journal.exists && !is_damaged(l.volume))
        site_volume_free(l.volume); /* a directory, made by a hello that a crash cut short */
    else
        *out = l.volume;
    return REPL_SUCCESS;
}
