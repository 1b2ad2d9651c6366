#include "merge_kills.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "format/segment_format.h"
#include "segment/segment_verify.h"

#define LOG_NAME    "log"
#define STAGED_NAME "staged"

/* --- the disk -------------------------------------------------------------------------------- */

void kills_name(uint64_t to_seq, uint32_t part, uint64_t merge, char name[SIM_NAME_SIZE])
{
    snprintf(name, SIM_NAME_SIZE, "%llu.%u.%llu", (unsigned long long)to_seq, part,
             (unsigned long long)merge);
}

void kills_entry_name(const struct repl_log_piece *entry, char name[SIM_NAME_SIZE])
{
    kills_name(entry->commit.to_seq, entry->commit.part, entry->merge, name);
}

static void put(struct kills_world *w, struct sim_inode *inode, uint64_t offset, const void *data,
                size_t size, const char *what)
{
    ensure(repl_ok(sim_disk_write(&w->site.disk, inode, offset, data, size, NULL)));
    kills_here(w, what);
}

struct sim_inode *kills_stage(struct kills_world *w, const char *name,
                              const struct repl_buffer *bytes)
{
    struct sim_inode *inode = sim_disk_create(&w->site.disk, name);
    size_t half = bytes->size / 2;
    kills_here(w, "making of a staged file");
    put(w, inode, 0, bytes->data, half, "write to a staged file");
    put(w, inode, half, bytes->data + half, bytes->size - half, "write to a staged file");
    return inode;
}

void kills_sync(struct kills_world *w, struct sim_inode *inode, const char *what)
{
    ensure(repl_ok(sim_disk_sync(&w->site.disk, inode, NULL)));
    kills_here(w, what);
}

void kills_rename(struct kills_world *w, const char *from, const char *to)
{
    sim_disk_rename(&w->site.disk, from, to);
    kills_here(w, "rename");
}

void kills_sync_names(struct kills_world *w)
{
    ensure(repl_ok(sim_disk_sync_directory(&w->site.disk, NULL)));
    kills_here(w, "sync of the directory");
}

void kills_unlink(struct kills_world *w, const char *name)
{
    sim_disk_unlink(&w->site.disk, name);
    kills_here(w, "removal");
}

/* --- segments -------------------------------------------------------------------------------- */

static repl_result read_at(void *context, uint64_t offset, void *out, size_t size,
                           struct repl_error *err)
{
    const struct repl_buffer *bytes = context;
    if (offset > bytes->size || size > bytes->size - offset)
        return repl_fail(err, REPL_E_CORRUPT, "the file ends before %zu bytes at %llu", size,
                         (unsigned long long)offset);
    if (size > 0)
        memcpy(out, bytes->data + offset, size);
    return REPL_SUCCESS;
}

struct repl_segment *kills_open(struct kills_world *w, const struct repl_log_piece *entry)
{
    char name[SIM_NAME_SIZE];
    struct repl_segment *segment;
    struct repl_error err;
    kills_entry_name(entry, name);
    struct sim_inode *inode = sim_disk_open(&w->site.disk, name);
    if (inode == NULL)
        kills_fail(w, "segment %s is named by the log and not there", name);
    if (inode->cached.size != entry->commit.file_size)
        kills_fail(w, "segment %s has %zu bytes and not %llu", name, inode->cached.size,
                   (unsigned long long)entry->commit.file_size);
    if (!repl_ok(repl_segment_open(read_at, &inode->cached, inode->cached.size, &segment, &err)))
        kills_fail(w, "segment %s: %s", name, err.text);
    if (!repl_digest_equal(&segment->footer.digest, &entry->commit.digest))
        kills_fail(w, "segment %s is not what was committed", name);
    return segment;
}

void kills_verify(struct kills_world *w, const struct repl_segment *segment)
{
    struct repl_error err;
    if (!repl_ok(repl_segment_verify(segment, w->coder, &err)))
        kills_fail(w, "segment %llu.%u: %s", (unsigned long long)segment->header.to_seq,
                   segment->header.part, err.text);
}

struct repl_segment **kills_open_all(struct kills_world *w)
{
    const struct repl_chain *chain = &w->site.chain;
    struct repl_segment **segments = sim_alloc((chain->count + 1) * sizeof(struct repl_segment *));
    for (size_t i = 0; i < chain->count; i++)
        segments[i] = kills_open(w, &chain->entries[i]);
    return segments;
}

void kills_close_all(struct repl_segment **segments, size_t count)
{
    for (size_t i = 0; i < count; i++)
        repl_segment_free(segments[i]);
    free(segments);
}

bool kills_lists(const struct repl_segment *segment, const struct repl_digest *name,
                 const struct repl_chunk_entry **where)
{
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++) {
        if (!repl_digest_equal(&segment->chunks[i].name, name))
            continue;
        if (where != NULL)
            *where = &segment->chunks[i];
        return true;
    }
    return false;
}

bool kills_refers(struct kills_world *w, const struct repl_segment *segment,
                  const struct repl_digest *name)
{
    struct repl_record_walk walk;
    struct repl_record record;
    bool found = false;
    repl_record_walk_begin(&walk, segment, w->coder);
    for (bool done = false; !found;) {
        ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (done)
            break;
        found = record.type == REPL_RECORD_CHUNK && repl_digest_equal(&record.chunk, name);
    }
    repl_record_walk_end(&walk);
    return found;
}

static bool has_chunk(struct kills_world *w, const struct repl_digest *name)
{
    struct repl_segment **segments = kills_open_all(w);
    bool found = false;
    for (size_t i = 0; i < w->site.chain.count && !found; i++)
        found = kills_lists(segments[i], name, NULL);
    kills_close_all(segments, w->site.chain.count);
    return found;
}

/* --- the log --------------------------------------------------------------------------------- */

static void records_encode(const struct repl_log_record *records, size_t count,
                           struct repl_buffer *out)
{
    for (size_t i = 0; i < count; i++) {
        uint8_t bytes[REPL_LOG_RECORD_SIZE_MAX];
        size_t size;
        repl_log_record_encode(&records[i], bytes, &size);
        ensure(repl_ok(repl_buffer_append(out, bytes, size, NULL)));
    }
}

static void record_apply(struct kills_world *w, const struct repl_log_record *record)
{
    struct repl_error err;
    if (!repl_ok(repl_journal_apply(&w->site.journal, record, &err)) ||
        !repl_ok(repl_chain_apply(&w->site.chain, record, &err)))
        kills_fail(w, "the log: %s", err.text);
}

void kills_log(struct kills_world *w, struct repl_log_record *records, size_t count)
{
    struct kills_site *site = &w->site;
    struct sim_inode *log = sim_disk_open(&site->disk, LOG_NAME);
    struct repl_buffer bytes = {0};
    for (size_t i = 0; i < count; i++) {
        records[i].number = site->journal.record_number + 1 + i;
        records[i].time_ns = w->now_ns;
    }
    records_encode(records, count, &bytes);
    if (log == NULL) {
        log = sim_disk_create(&site->disk, LOG_NAME);
        kills_sync_names(w);
    }
    uint64_t at = w->bug == KILLS_BUG_TAIL_KEPT ? log->cached.size : site->log_end;
    put(w, log, at, bytes.data, bytes.size, "write to the log");
    if (w->bug != KILLS_BUG_LOG_NOT_SYNCED || records[0].type != REPL_LOG_MERGE)
        kills_sync(w, log, "sync of the log");
    site->log_end += bytes.size;
    repl_buffer_fini(&bytes);
    for (size_t i = 0; i < count; i++)
        record_apply(w, &records[i]);
}

static void log_replace(struct kills_world *w, const struct repl_buffer *bytes)
{
    struct sim_inode *log;
    if (w->bug == KILLS_BUG_CHECKPOINT_IN_PLACE) {
        log = sim_disk_open(&w->site.disk, LOG_NAME);
        sim_disk_truncate(log, 0);
        kills_here(w, "cut of the log");
        put(w, log, 0, bytes->data, bytes->size, "write to the log");
        kills_sync(w, log, "sync of the log");
    } else {
        log = kills_stage(w, "log.new", bytes);
        if (w->bug != KILLS_BUG_CHECKPOINT_NOT_SYNCED)
            kills_sync(w, log, "sync of the new log");
        kills_rename(w, "log.new", LOG_NAME);
        kills_sync_names(w);
    }
    w->site.log_end = bytes->size;
}

/* What checkpoint.c of the agent makes of the fold. */
void kills_checkpoint(struct kills_world *w)
{
    struct kills_site *site = &w->site;
    size_t count = 1 + site->chain.count;
    struct repl_log_record *records = sim_alloc(count * sizeof *records);
    struct repl_buffer bytes = {0};
    records[0] = (struct repl_log_record){.type = REPL_LOG_CHECKPOINT,
                                          .checkpoint = {.create = site->journal.create,
                                                         .lineage = site->journal.lineage,
                                                         .records = (uint32_t)site->chain.count,
                                                         .heard_ns = site->journal.heard_ns}};
    for (size_t i = 1; i < count; i++)
        records[i] =
            (struct repl_log_record){.type = REPL_LOG_PIECE, .piece = site->chain.entries[i - 1]};
    for (size_t i = 0; i < count; i++) {
        records[i].number = site->journal.record_number + 1 + i;
        records[i].time_ns = w->now_ns;
    }
    records_encode(records, count, &bytes);
    log_replace(w, &bytes);
    site->journal.record_number += count;
    repl_buffer_fini(&bytes);
    free(records);
    w->checkpoints++;
}

/* --- commits --------------------------------------------------------------------------------- */

/* Whether a chunk that it refers to is nowhere. */
static bool is_lacking(struct kills_world *w, const struct repl_segment *segment)
{
    struct repl_record_walk walk;
    struct repl_record record;
    bool lacking = false;
    repl_record_walk_begin(&walk, segment, w->coder);
    for (bool done = false; !lacking;) {
        ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (done)
            break;
        lacking = record.type == REPL_RECORD_CHUNK && !has_chunk(w, &record.chunk);
    }
    repl_record_walk_end(&walk);
    return lacking;
}

static enum kills_verdict judge(struct kills_world *w, struct sim_inode *staged,
                                struct repl_log_record *record)
{
    struct repl_segment *segment;
    struct repl_refusal refusal;
    ensure(
        repl_ok(repl_segment_open(read_at, &staged->cached, staged->cached.size, &segment, NULL)));
    ensure(repl_ok(repl_segment_verify(segment, w->coder, NULL)));
    bool lacking = is_lacking(w, segment);
    if (!lacking && repl_journal_check(&w->site.journal, &segment->header, &segment->footer,
                                       KILLS_SIZE, repl_segment_last_point(segment), NULL,
                                       w->now_ns, record, &refusal) != REPL_VERDICT_ACCEPT)
        kills_fail(w, "a segment that follows was refused: %s", refusal.text);
    repl_segment_free(segment);
    return lacking ? KILLS_LACKING : KILLS_COMMITTED;
}

enum kills_verdict kills_commit(struct kills_world *w, const struct repl_buffer *bytes)
{
    struct repl_log_record record;
    char name[SIM_NAME_SIZE];
    struct sim_inode *staged = kills_stage(w, STAGED_NAME, bytes);
    for (enum repl_commit_step step = REPL_COMMIT_SYNC; step != REPL_COMMIT_DONE;
         step = repl_commit_next(step, true)) {
        switch (step) {
        case REPL_COMMIT_SYNC:
            kills_sync(w, staged, "sync of a staged file");
            break;
        case REPL_COMMIT_VERIFY:
            if (judge(w, staged, &record) == KILLS_LACKING)
                return KILLS_LACKING;
            break;
        case REPL_COMMIT_PUBLISH:
            kills_name(record.commit.to_seq, record.commit.part, 0, name);
            kills_rename(w, STAGED_NAME, name);
            kills_sync_names(w);
            break;
        case REPL_COMMIT_LOG:
            kills_log(w, &record, 1);
            break;
        default:
            abort();
        }
    }
    return KILLS_COMMITTED;
}

/* --- removals -------------------------------------------------------------------------------- */

void kills_remove_later(struct kills_world *w, const char *name, int64_t due_ns)
{
    struct kills_site *site = &w->site;
    ensure(site->removal_count < KILLS_REMOVAL);
    struct kills_removal *removal = &site->removals[site->removal_count++];
    removal->due_ns = due_ns;
    snprintf(removal->name, sizeof removal->name, "%s", name);
}

void kills_remove_due(struct kills_world *w)
{
    struct kills_site *site = &w->site;
    size_t kept = 0;
    for (size_t i = 0; i < site->removal_count; i++) {
        const struct kills_removal removal = site->removals[i];
        if (removal.due_ns > w->now_ns) {
            site->removals[kept++] = removal;
            continue;
        }
        if (sim_disk_open(&site->disk, removal.name) == NULL)
            continue;
        kills_unlink(w, removal.name);
        kills_sync_names(w);
    }
    site->removal_count = kept;
}

/* --- a start --------------------------------------------------------------------------------- */

void kills_site_forget(struct kills_site *site)
{
    repl_chain_fini(&site->chain);
    repl_chain_init(&site->chain);
    repl_journal_init(&site->journal);
    site->log_end = site->last_merge = 0;
    site->removal_count = 0;
}

/* The records of the first end bytes; behind the last with which no group is left open. */
static uint64_t records_fold(struct kills_world *w, const struct sim_inode *log, uint64_t end)
{
    uint64_t whole = 0;
    size_t size;
    kills_site_forget(&w->site);
    for (uint64_t at = 0; at < end; at += size) {
        struct repl_log_record record;
        if (!repl_ok(repl_log_record_decode(log->cached.data + at, end - at, &record, &size, NULL)))
            break;
        record_apply(w, &record);
        if (w->site.chain.group_left == 0 || w->bug == KILLS_BUG_GROUP_OPEN)
            whole = at + size;
    }
    return whole;
}

static void log_load(struct kills_world *w)
{
    struct kills_site *site = &w->site;
    struct sim_inode *log = sim_disk_open(&site->disk, LOG_NAME);
    if (log == NULL)
        kills_fail(w, "there is no log");
    kills_sync(w, log, "sync of the log at a start");
    kills_sync_names(w);
    uint64_t whole = records_fold(w, log, log->cached.size);
    if (site->chain.group_left > 0 && w->bug != KILLS_BUG_GROUP_OPEN)
        whole = records_fold(w, log, whole);
    site->log_end = whole;
    if (log->cached.size == whole || w->bug == KILLS_BUG_TAIL_KEPT)
        return;
    sim_disk_truncate(log, whole);
    kills_here(w, "cut of the log");
    kills_sync(w, log, "sync of the log at a start");
}

static bool is_segment(const char *name, uint64_t *to_seq, uint32_t *part, uint64_t *merge)
{
    unsigned long long to, number;
    if (sscanf(name, "%llu.%u.%llu", &to, part, &number) != 3)
        return false;
    *to_seq = to;
    *merge = number;
    return true;
}

/* What a start makes of a file: true if it is none that the log or a merge accounts for. */
static bool file_note(struct kills_world *w, const char *name)
{
    struct kills_site *site = &w->site;
    uint64_t to_seq, merge;
    uint32_t part;
    if (!is_segment(name, &to_seq, &part, &merge))
        return false;
    if (merge > site->last_merge && w->bug != KILLS_BUG_NUMBER_REUSED)
        site->last_merge = merge;
    if (repl_chain_find(&site->chain, to_seq, part, merge) != SIZE_MAX)
        return false;
    if (merge == 0 && !repl_chain_has_replaced(&site->chain, to_seq))
        return true;
    if (w->bug != KILLS_BUG_LEFTOVERS_KEPT)
        kills_remove_later(w, name, w->now_ns + KILLS_GRACE);
    return false;
}

static void files_load(struct kills_world *w)
{
    struct sim_disk *disk = &w->site.disk;
    char unknown[SIM_NAME_SIZE], aside[SIM_NAME_SIZE + 8];
    unsigned count = 0;
    for (size_t i = 0; i < disk->cached.count; i++) {
        if (!file_note(w, disk->cached.names[i].text))
            continue;
        count++;
        snprintf(unknown, sizeof unknown, "%s", disk->cached.names[i].text);
    }
    if (count > 1)
        kills_fail(w, "%u segments are there that nothing accounts for", count);
    if (count == 0)
        return;
    snprintf(aside, sizeof aside, "aside-%s", unknown);
    aside[SIM_NAME_SIZE - 1] = '\0';
    kills_rename(w, unknown, aside);
    kills_sync_names(w);
}

void kills_site_start(struct kills_world *w)
{
    static const char *const staged[] = {STAGED_NAME, "staged.merge", "log.new"};
    kills_site_forget(&w->site);
    log_load(w);
    files_load(w);
    for (size_t i = 0; i < sizeof staged / sizeof *staged; i++) {
        if (sim_disk_open(&w->site.disk, staged[i]) != NULL)
            kills_unlink(w, staged[i]);
    }
}
