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

static void put(struct kills_volume *v, struct sim_inode *inode, uint64_t offset, const void *data,
                size_t size, const char *what)
{
    ensure(repl_ok(sim_disk_write(&v->disk, inode, offset, data, size, NULL)));
    kills_here(v->w, what);
}

struct sim_inode *kills_stage(struct kills_volume *v, const char *name,
                              const struct repl_buffer *bytes)
{
    struct sim_inode *inode = sim_disk_create(&v->disk, name);
    size_t half = bytes->size / 2;
    kills_here(v->w, "making of a staged file");
    put(v, inode, 0, bytes->data, half, "write to a staged file");
    put(v, inode, half, bytes->data + half, bytes->size - half, "write to a staged file");
    return inode;
}

void kills_sync(struct kills_volume *v, struct sim_inode *inode, const char *what)
{
    ensure(repl_ok(sim_disk_sync(&v->disk, inode, NULL)));
    kills_here(v->w, what);
}

void kills_rename(struct kills_volume *v, const char *from, const char *to)
{
    sim_disk_rename(&v->disk, from, to);
    kills_here(v->w, "rename");
}

void kills_sync_names(struct kills_volume *v)
{
    ensure(repl_ok(sim_disk_sync_directory(&v->disk, NULL)));
    kills_here(v->w, "sync of the directory");
}

void kills_unlink(struct kills_volume *v, const char *name)
{
    sim_disk_unlink(&v->disk, name);
    kills_here(v->w, "removal");
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

struct repl_segment *kills_open_name(struct kills_volume *v, const char *name)
{
    struct repl_segment *segment;
    struct repl_error err;
    struct sim_inode *inode = sim_disk_open(&v->disk, name);
    if (inode == NULL)
        kills_fail(v->w, "segment %s is named and not there", name);
    if (!repl_ok(repl_segment_open(read_at, &inode->cached, inode->cached.size, &segment, &err)))
        kills_fail(v->w, "segment %s: %s", name, err.text);
    return segment;
}

struct repl_segment *kills_open(struct kills_volume *v, const struct repl_log_piece *entry)
{
    char name[SIM_NAME_SIZE];
    kills_entry_name(entry, name);
    struct repl_segment *segment = kills_open_name(v, name);
    if (segment->footer.file_size != entry->commit.file_size ||
        !repl_digest_equal(&segment->footer.digest, &entry->commit.digest))
        kills_fail(v->w, "segment %s is not what was committed", name);
    return segment;
}

void kills_verify(struct kills_world *w, const struct repl_segment *segment)
{
    struct repl_error err;
    if (!repl_ok(repl_segment_verify(segment, w->coder, &err)))
        kills_fail(w, "segment %llu.%u: %s", (unsigned long long)segment->header.to_seq,
                   segment->header.part, err.text);
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

static void record_apply(struct kills_volume *v, const struct repl_log_record *record)
{
    struct repl_error err;
    if (!repl_ok(repl_journal_apply(&v->journal, record, &err)) ||
        !repl_ok(repl_chain_apply(&v->chain, record, &err)))
        kills_fail(v->w, "the log: %s", err.text);
}

void kills_log(struct kills_volume *v, struct repl_log_record *records, size_t count,
               struct repl_segment *const *segments)
{
    struct sim_inode *log = sim_disk_open(&v->disk, LOG_NAME);
    struct repl_buffer bytes = {0};
    for (size_t i = 0; i < count; i++) {
        records[i].number = v->journal.record_number + 1 + i;
        records[i].time_ns = v->w->now_ns;
    }
    records_encode(records, count, &bytes);
    if (log == NULL) {
        log = sim_disk_create(&v->disk, LOG_NAME);
        kills_sync_names(v);
    }
    uint64_t at = v->w->bug == KILLS_BUG_TAIL_KEPT ? log->cached.size : v->log_end;
    put(v, log, at, bytes.data, bytes.size, "write to the log");
    if (v->w->bug != KILLS_BUG_LOG_NOT_SYNCED || records[0].type != REPL_LOG_MERGE)
        kills_sync(v, log, "sync of the log");
    v->log_end += bytes.size;
    repl_buffer_fini(&bytes);
    kills_index_log(v, records, count, segments);
    for (size_t i = 0; i < count; i++)
        record_apply(v, &records[i]);
    kills_index_logged(v);
}

static void log_replace(struct kills_volume *v, const struct repl_buffer *bytes)
{
    struct sim_inode *log;
    if (v->w->bug == KILLS_BUG_CHECKPOINT_IN_PLACE) {
        log = sim_disk_open(&v->disk, LOG_NAME);
        sim_disk_truncate(log, 0);
        kills_here(v->w, "cut of the log");
        put(v, log, 0, bytes->data, bytes->size, "write to the log");
        kills_sync(v, log, "sync of the log");
    } else {
        log = kills_stage(v, "log.new", bytes);
        if (v->w->bug != KILLS_BUG_CHECKPOINT_NOT_SYNCED)
            kills_sync(v, log, "sync of the new log");
        kills_rename(v, "log.new", LOG_NAME);
        kills_sync_names(v);
    }
    v->log_end = bytes->size;
}

/* What checkpoint.c of the agent makes of the fold. */
void kills_checkpoint(struct kills_volume *v)
{
    bool pool = v->journal.pool[0] != '\0' && v->w->bug != KILLS_BUG_POOL_FORGOTTEN;
    size_t first = pool ? 2 : 1, count = first + v->chain.count;
    struct repl_log_record *records = sim_alloc(count * sizeof *records);
    struct repl_buffer bytes = {0};
    records[0] = (struct repl_log_record){.type = REPL_LOG_CHECKPOINT,
                                          .checkpoint = {.create = v->journal.create,
                                                         .lineage = v->journal.lineage,
                                                         .records = (uint32_t)count - 1,
                                                         .heard_ns = v->journal.heard_ns}};
    if (pool)
        repl_journal_pool(&v->journal, v->journal.pool, v->w->now_ns, &records[1]);
    for (size_t i = first; i < count; i++)
        records[i] =
            (struct repl_log_record){.type = REPL_LOG_PIECE, .piece = v->chain.entries[i - first]};
    for (size_t i = 0; i < count; i++) {
        records[i].number = v->journal.record_number + 1 + i;
        records[i].time_ns = v->w->now_ns;
    }
    records_encode(records, count, &bytes);
    log_replace(v, &bytes);
    kills_index_log(v, records, count, NULL);
    v->journal.record_number += count;
    repl_buffer_fini(&bytes);
    free(records);
    v->w->checkpoints++;
}

/* --- commits --------------------------------------------------------------------------------- */

static bool lacks(struct kills_volume *v, const struct repl_segment *segment)
{
    return v->w->site != NULL ? kills_index_lacks(v, segment) : kills_is_lacking(v, segment);
}

static enum kills_verdict judge(struct kills_volume *v, struct sim_inode *staged,
                                struct repl_log_record *record)
{
    struct repl_segment *segment;
    struct repl_refusal refusal;
    ensure(
        repl_ok(repl_segment_open(read_at, &staged->cached, staged->cached.size, &segment, NULL)));
    ensure(repl_ok(repl_segment_verify(segment, v->w->coder, NULL)));
    bool lacking = lacks(v, segment);
    if (!lacking && repl_journal_check(&v->journal, &segment->header, &segment->footer, KILLS_SIZE,
                                       repl_segment_last_point(segment), NULL, v->w->now_ns, record,
                                       &refusal) != REPL_VERDICT_ACCEPT)
        kills_fail(v->w, "a segment that follows was refused: %s", refusal.text);
    repl_segment_free(segment);
    return lacking ? KILLS_LACKING : KILLS_COMMITTED;
}

/* What was found before it passed the gate is looked for again if some has gone since. */
static enum kills_verdict gate_pass(struct kills_volume *v, uint64_t takings)
{
    bool again = v->w->takings != takings;
    if (v->w->site != NULL && kills_index_is_stale(v))
        return KILLS_STALE;
    if (!again)
        return KILLS_COMMITTED;
    v->w->looked_again++;
    struct repl_segment *segment = kills_open_name(v, STAGED_NAME);
    bool lacking = lacks(v, segment);
    repl_segment_free(segment);
    return lacking ? KILLS_LACKING : KILLS_COMMITTED;
}

static void commit_log(struct kills_volume *v, struct repl_log_record *record, const char *name)
{
    struct repl_segment *segment = kills_open_name(v, name);
    kills_log(v, record, 1, &segment);
    repl_segment_free(segment);
    kills_supplies_found(v, name);
}

static enum kills_verdict commit_run(struct kills_volume *v, struct sim_inode *staged)
{
    struct repl_log_record record;
    enum kills_verdict verdict;
    char name[SIM_NAME_SIZE];
    uint64_t takings = 0;
    for (enum repl_commit_step step = REPL_COMMIT_SYNC; step != REPL_COMMIT_DONE;
         step = repl_commit_next(step, true)) {
        switch (step) {
        case REPL_COMMIT_SYNC:
            kills_sync(v, staged, "sync of a staged file");
            break;
        case REPL_COMMIT_VERIFY:
            takings = v->w->takings;
            v->found_count = 0;
            if (judge(v, staged, &record) == KILLS_LACKING)
                return KILLS_LACKING;
            v->w->gap(v->w);
            break;
        case REPL_COMMIT_PUBLISH:
            verdict = gate_pass(v, takings);
            if (verdict != KILLS_COMMITTED)
                return verdict;
            kills_name(record.commit.to_seq, record.commit.part, 0, name);
            kills_rename(v, STAGED_NAME, name);
            kills_sync_names(v);
            break;
        case REPL_COMMIT_LOG:
            commit_log(v, &record, name);
            break;
        default:
            abort();
        }
    }
    return KILLS_COMMITTED;
}

enum kills_verdict kills_commit(struct kills_volume *v, const struct repl_buffer *bytes)
{
    kills_index_pump(v);
    v->busy = true;
    enum kills_verdict verdict = commit_run(v, kills_stage(v, STAGED_NAME, bytes));
    v->busy = false;
    kills_index_pump(v);
    return verdict;
}

/* --- removals -------------------------------------------------------------------------------- */

void kills_remove_later(struct kills_volume *v, const char *name, int64_t due_ns)
{
    ensure(v->removal_count < KILLS_REMOVAL);
    struct kills_removal *removal = &v->removals[v->removal_count++];
    removal->due_ns = due_ns;
    snprintf(removal->name, sizeof removal->name, "%s", name);
}

void kills_remove_due(struct kills_volume *v)
{
    size_t kept = 0;
    for (size_t i = 0; i < v->removal_count; i++) {
        const struct kills_removal removal = v->removals[i];
        if (removal.due_ns > v->w->now_ns) {
            v->removals[kept++] = removal;
            continue;
        }
        if (sim_disk_open(&v->disk, removal.name) == NULL)
            continue;
        kills_unlink(v, removal.name);
        kills_sync_names(v);
    }
    v->removal_count = kept;
}

/* --- a start --------------------------------------------------------------------------------- */

static void volume_forget(struct kills_volume *v)
{
    repl_chain_fini(&v->chain);
    repl_chain_init(&v->chain);
    repl_journal_init(&v->journal);
    v->log_end = v->last_merge = 0;
    v->removal_count = v->supply_count = 0;
    v->busy = false;
}

/* The records of the first end bytes; behind the last with which no group is left open. */
static uint64_t records_fold(struct kills_volume *v, const struct sim_inode *log, uint64_t end)
{
    uint64_t whole = 0;
    size_t size;
    volume_forget(v);
    for (uint64_t at = 0; at < end; at += size) {
        struct repl_log_record record;
        if (!repl_ok(repl_log_record_decode(log->cached.data + at, end - at, &record, &size, NULL)))
            break;
        record_apply(v, &record);
        if (v->chain.group_left == 0 || v->w->bug == KILLS_BUG_GROUP_OPEN)
            whole = at + size;
    }
    return whole;
}

static void log_load(struct kills_volume *v)
{
    struct sim_inode *log = sim_disk_open(&v->disk, LOG_NAME);
    if (log == NULL)
        kills_fail(v->w, "there is no log");
    kills_sync(v, log, "sync of the log at a start");
    kills_sync_names(v);
    uint64_t whole = records_fold(v, log, log->cached.size);
    if (v->chain.group_left > 0 && v->w->bug != KILLS_BUG_GROUP_OPEN)
        whole = records_fold(v, log, whole);
    v->log_end = whole;
    if (log->cached.size == whole || v->w->bug == KILLS_BUG_TAIL_KEPT)
        return;
    sim_disk_truncate(log, whole);
    kills_here(v->w, "cut of the log");
    kills_sync(v, log, "sync of the log at a start");
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
static bool file_note(struct kills_volume *v, const char *name)
{
    uint64_t to_seq, merge;
    uint32_t part;
    if (kills_supply_note(v, name) || !is_segment(name, &to_seq, &part, &merge))
        return false;
    if (merge > v->last_merge && v->w->bug != KILLS_BUG_NUMBER_REUSED)
        v->last_merge = merge;
    if (repl_chain_find(&v->chain, to_seq, part, merge) != SIZE_MAX)
        return false;
    if (merge == 0 && !repl_chain_has_replaced(&v->chain, to_seq))
        return true;
    if (v->w->bug != KILLS_BUG_LEFTOVERS_KEPT)
        kills_remove_later(v, name, v->w->now_ns + KILLS_GRACE);
    return false;
}

static void files_load(struct kills_volume *v)
{
    struct sim_disk *disk = &v->disk;
    char unknown[SIM_NAME_SIZE], aside[SIM_NAME_SIZE + 8];
    unsigned count = 0;
    for (size_t i = 0; i < disk->cached.count; i++) {
        if (!file_note(v, disk->cached.names[i].text))
            continue;
        count++;
        snprintf(unknown, sizeof unknown, "%s", disk->cached.names[i].text);
    }
    if (count > 1)
        kills_fail(v->w, "%u segments are there that nothing accounts for", count);
    if (count == 0)
        return;
    snprintf(aside, sizeof aside, "aside-%s", unknown);
    aside[SIM_NAME_SIZE - 1] = '\0';
    kills_rename(v, unknown, aside);
    kills_sync_names(v);
}

static void volume_start(struct kills_volume *v)
{
    static const char *const staged[] = {STAGED_NAME, "staged.merge", "staged.supply", "log.new"};
    volume_forget(v);
    log_load(v);
    files_load(v);
    for (size_t i = 0; i < sizeof staged / sizeof *staged; i++) {
        if (sim_disk_open(&v->disk, staged[i]) != NULL)
            kills_unlink(v, staged[i]);
    }
    kills_index_load(v);
}

void kills_site_start(struct kills_world *w)
{
    w->merging = false;
    if (w->site != NULL)
        kills_index_begin(w);
    for (size_t i = 0; i < w->volume_count; i++)
        volume_start(&w->volumes[i]);
}
