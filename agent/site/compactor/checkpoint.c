/*
 * A volume's log, written anew: of what it says only what there is now, so that it
 * grows with what is kept, not with what ever came.
 *
 * The log itself is read and folded, not the index: what is written is what it
 * has said. How the source fared stays, as far back as anybody would ask. It is a
 * change like any other: nothing is appended meanwhile. After a crash the log is
 * the old one or the new one, and the index is brought up to either.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "journal/journal.h"
#include "site/compactor/compactor_internal.h"

/* What stays of it takes about so much a segment; with so many times that it is written anew, and
 * not before it is twice as long as it was then. */
#define ENTRY_SIZE 320u
#define LOG_SHARE  4u
/* How the source fared is kept for a year. */
#define STATES_KEPT_NS (INT64_C(366) * 86400 * 1000000000)

struct checkpoint {
    struct repl_job job;
    struct site_volume *volume;
    uint64_t log_begin, log_end, record_number;
    int64_t now_ns;
    /* the fold */
    struct repl_journal journal;
    struct repl_chain chain;
    int64_t created_ns;
    struct repl_buffer states; /* struct repl_log_record */
    /* the result */
    uint64_t generation; /* of the index */
    bool replaced;
    repl_result result, index_result;
    struct repl_error err;
};

bool compactor_checkpoint_is_due(const struct site_compactor *c, const struct site_volume *v,
                                 size_t segments)
{
    uint64_t size = v->log_end - v->log_begin;
    return size > c->log_size_min && size > (uint64_t)segments * ENTRY_SIZE * LOG_SHARE &&
           size > 2 * v->checkpoint_bytes;
}

/* --- on a worker ----------------------------------------------------------------------------- */

static struct repl_log_record *record_at(const struct repl_buffer *records, size_t i)
{
    return (struct repl_log_record *)(void *)records->data + i;
}

static repl_result record_fold(struct checkpoint *c, const struct repl_log_record *record,
                               struct repl_error *err)
{
    REPL_TRY(repl_journal_apply(&c->journal, record, err));
    REPL_TRY(repl_chain_apply(&c->chain, record, err));
    if (record->type == REPL_LOG_CREATE)
        c->created_ns = record->time_ns;
    else if (record->type == REPL_LOG_CHECKPOINT)
        c->created_ns = record->checkpoint.created_ns;
    else if (record->type == REPL_LOG_STATE && record->time_ns >= c->now_ns - STATES_KEPT_NS)
        return repl_buffer_append(&c->states, record, sizeof *record, err);
    return REPL_SUCCESS;
}

static repl_result log_fold(struct checkpoint *c, struct repl_error *err)
{
    struct repl_store *store = c->volume->site->store;
    struct repl_buffer log = {0};
    uint64_t begin;
    repl_result result = store->ops->log_read(store, c->volume->name, &log, &begin, err);
    if (repl_ok(result) && (begin != c->log_begin || begin + log.size != c->log_end))
        result = repl_fail(err, REPL_E_CORRUPT, "the log of volume %s was changed by others",
                           c->volume->name);
    for (size_t at = 0, size = 0; repl_ok(result) && at < log.size; at += size) {
        struct repl_log_record record;
        result = repl_log_record_decode(log.data + at, log.size - at, &record, &size, err);
        if (repl_ok(result))
            result = record_fold(c, &record, err);
    }
    repl_buffer_fini(&log);
    if (repl_ok(result) &&
        (c->chain.group_left > 0 || c->journal.record_number != c->record_number))
        result =
            repl_fail(err, REPL_E_CORRUPT, "the log of volume %s ends elsewhere", c->volume->name);
    return result;
}

static repl_result record_add(struct checkpoint *c, struct repl_log_record *record,
                              struct repl_buffer *records, struct repl_error *err)
{
    record->number = ++c->record_number;
    return repl_buffer_append(records, record, sizeof *record, err);
}

/* The group of the CHECKPOINT first, then the states. */
static repl_result records_make(struct checkpoint *c, struct repl_buffer *records,
                                struct repl_error *err)
{
    struct repl_log_record record = {.type = REPL_LOG_CHECKPOINT, .time_ns = c->now_ns};
    bool pool = c->journal.pool[0] != '\0';
    record.checkpoint = (struct repl_log_checkpoint){
        .create = c->journal.create,
        .lineage = c->journal.lineage,
        .records = (uint32_t)(pool + c->chain.count + c->chain.mark_count),
        .heard_ns = c->journal.heard_ns,
        .created_ns = c->created_ns};
    REPL_TRY(record_add(c, &record, records, err));
    if (pool) {
        repl_journal_pool(&c->journal, c->journal.pool, c->now_ns, &record);
        REPL_TRY(record_add(c, &record, records, err));
    }
    for (size_t i = 0; i < c->chain.count; i++) {
        record = (struct repl_log_record){
            .type = REPL_LOG_PIECE, .time_ns = c->now_ns, .piece = c->chain.entries[i]};
        REPL_TRY(record_add(c, &record, records, err));
    }
    for (size_t i = 0; i < c->chain.mark_count; i++) {
        record = (struct repl_log_record){
            .type = REPL_LOG_MARK, .time_ns = c->now_ns, .mark = c->chain.marks[i]};
        REPL_TRY(record_add(c, &record, records, err));
    }
    for (size_t i = 0; i < c->states.size / sizeof record; i++) {
        record = *record_at(&c->states, i);
        REPL_TRY(record_add(c, &record, records, err));
    }
    return REPL_SUCCESS;
}

static repl_result log_write(struct checkpoint *c, const struct repl_buffer *records,
                             struct repl_error *err)
{
    struct repl_store *store = c->volume->site->store;
    struct repl_buffer bytes = {0};
    uint64_t end = c->log_end;
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; repl_ok(result) && i < records->size / sizeof *record_at(records, 0); i++) {
        uint8_t encoded[REPL_LOG_RECORD_SIZE_MAX];
        size_t size;
        repl_log_record_encode(record_at(records, i), encoded, &size);
        result = repl_buffer_append(&bytes, encoded, size, err);
    }
    if (repl_ok(result))
        result = store->ops->log_replace(store, c->volume->name, bytes.data, bytes.size, &end, err);
    if (repl_ok(result)) {
        c->replaced = true;
        c->log_begin = end - bytes.size;
        c->log_end = end;
    }
    repl_buffer_fini(&bytes);
    return result;
}

/* As the log has it; where the segments' chunks lie, the index knows. */
static repl_result records_apply(struct checkpoint *c, const struct repl_buffer *records,
                                 struct repl_index_record *applied, size_t count,
                                 struct repl_error *err)
{
    struct repl_index *index = c->volume->site->index;
    size_t group = 1 + record_at(records, 0)->checkpoint.records;
    uint64_t at = c->log_begin;
    for (size_t i = 0; i < count; i++) {
        uint8_t encoded[REPL_LOG_RECORD_SIZE_MAX];
        size_t size;
        repl_log_record_encode(record_at(records, i), encoded, &size);
        applied[i].record = record_at(records, i);
        at += size;
        if (i + 1 == group)
            REPL_TRY(repl_index_apply(index, c->volume->name, applied, group, at, err));
        else if (i + 1 > group)
            REPL_TRY(repl_index_apply(index, c->volume->name, &applied[i], 1, at, err));
    }
    return REPL_SUCCESS;
}

/* At once: there may be many states, and a sync for each would hold up all volumes. */
static repl_result index_apply(struct checkpoint *c, const struct repl_buffer *records,
                               struct repl_error *err)
{
    struct repl_index *index = c->volume->site->index;
    size_t count = records->size / sizeof *record_at(records, 0);
    struct repl_index_record *applied = calloc(count, sizeof *applied);
    if (applied == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu log records", count);
    repl_result result = repl_index_batch_begin(index, err);
    if (repl_ok(result)) {
        result = records_apply(c, records, applied, count, err);
        repl_result ended = repl_index_batch_end(index, repl_ok(result) ? err : NULL);
        result = repl_ok(result) ? ended : result;
    }
    free(applied);
    return result;
}

static void checkpoint_work(struct repl_job *job)
{
    struct checkpoint *c = job->context;
    struct repl_buffer records = {0};
    repl_journal_init(&c->journal);
    repl_chain_init(&c->chain);
    c->result = log_fold(c, &c->err);
    if (repl_ok(c->result))
        c->result = records_make(c, &records, &c->err);
    if (repl_ok(c->result))
        c->result = log_write(c, &records, &c->err);
    if (repl_ok(c->result)) {
        struct repl_site *site = c->volume->site;
        pthread_mutex_lock(&site->index_lock);
        c->index_result = index_apply(c, &records, &c->err);
        pthread_mutex_unlock(&site->index_lock);
    }
    repl_buffer_fini(&records);
    repl_buffer_fini(&c->states);
    repl_chain_fini(&c->chain);
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void checkpoint_done(struct repl_job *job)
{
    struct checkpoint *c = job->context;
    struct site_volume *v = c->volume;
    site_job_ended(v->site);
    if (!repl_ok(c->result))
        repl_log(LOG_WARNING, "volume %s: its log stays as long as it is: %s", v->name,
                 c->err.text);
    if (c->replaced) {
        v->log_begin = c->log_begin;
        v->log_end = c->log_end;
        v->checkpoint_bytes = c->log_end - c->log_begin;
        v->journal.record_number = c->record_number;
        v->site->index_dirty = true;
        if (!repl_ok(c->index_result) || c->generation != v->site->index_generation)
            v->index_behind = true;
        repl_log(LOG_INFO, "volume %s: its log was written anew and has %" PRIu64 " bytes", v->name,
                 v->log_end - v->log_begin);
    }
    free(c);
    v->busy = false;
    site_volume_pump(v);
}

void compactor_checkpoint_begin(struct site_volume *v)
{
    struct checkpoint *c = calloc(1, sizeof *c);
    ensure(!v->busy);
    if (c == NULL)
        return;
    *c = (struct checkpoint){.volume = v,
                             .log_begin = v->log_begin,
                             .log_end = v->log_end,
                             .record_number = v->journal.record_number,
                             .generation = v->site->index_generation,
                             .now_ns = repl_now_wall_ns()};
    c->job = (struct repl_job){.work = checkpoint_work, .done = checkpoint_done, .context = c};
    v->busy = true;
    site_job_start(v->site, &c->job);
}
