#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "format/segment_format.h"
#include "segment/segment_verify.h"

/*
 * The shell around the journal: it stages uploads, walks the commit sequence
 * and keeps the log. What it must keep to beyond the words of journal.h:
 *
 *   - what came ahead of its turn goes with a hello, as it cannot be resumed;
 *   - the request that began an upload last owns it; pieces of another one, or
 *     pieces that do not follow what is held, are thrown away;
 *   - records go into the log one after the other: a commit record is numbered
 *     when it is written, as a report may have come in between;
 *   - after a failed sync of the log nothing is published or logged until the
 *     log has been copied into a new file: the record may be durable all the
 *     same, and the segment it commits must then still be the one it names.
 *
 * A crash may come between any two steps of a commit, and between the halves
 * of each that touches the disk twice.
 */

#define LOG_NAME  "log"
#define REPAIR_NS (300 * SIM_MS)

enum outcome { WENT_WELL, WENT_WRONG, CRASHED, LACKING };

struct sim_chunk {
    struct repl_digest name;
};

int64_t sim_site_now(const struct sim_site *site)
{
    return site->sim->now_ns + site->clock_ns;
}

void sim_segment_name(uint64_t to_seq, uint32_t part, char name[SIM_NAME_SIZE])
{
    snprintf(name, SIM_NAME_SIZE, "%llu.%u", (unsigned long long)to_seq, part);
}

repl_result sim_read_at(void *context, uint64_t offset, void *out, size_t size,
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

/* --- chunks ---------------------------------------------------------------------------------- */

bool sim_site_has_chunk(const struct sim_site *site, const struct repl_digest *name)
{
    const struct sim_chunk *chunks = (const void *)site->chunks.data;
    for (size_t i = 0; i < site->chunks.size / sizeof *chunks; i++) {
        if (repl_digest_equal(&chunks[i].name, name))
            return true;
    }
    return false;
}

static void chunks_add(struct sim_site *site, const struct repl_segment *segment)
{
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++) {
        struct sim_chunk chunk = {.name = segment->chunks[i].name};
        ensure(repl_ok(repl_buffer_append(&site->chunks, &chunk, sizeof chunk, NULL)));
    }
}

/* --- the log --------------------------------------------------------------------------------- */

/* Copies the log up to its end into a new file, which takes its place. */
static bool log_rewrite(struct sim_site *site)
{
    struct sim_inode *old = sim_disk_open(&site->disk, LOG_NAME);
    struct sim_inode *new = sim_disk_create(&site->disk, "log.new");
    if (old != NULL &&
        !repl_ok(sim_disk_write(&site->disk, new, 0, old->cached.data, site->log_end, NULL)))
        return false;
    if (!repl_ok(sim_disk_sync(&site->disk, new, NULL)))
        return false;
    sim_disk_rename(&site->disk, "log.new", LOG_NAME);
    if (!repl_ok(sim_disk_sync_directory(&site->disk, NULL)))
        return false;
    site->log_suspect = false;
    return true;
}

static void log_repair(void *actor, uint64_t argument, void *payload)
{
    struct sim_site *site = actor;
    (void)argument;
    (void)payload;
    if (site->log_suspect && !log_rewrite(site))
        sim_after(site->sim, REPAIR_NS, &site->life, log_repair, site, 0, NULL, NULL);
}

static bool crash_here(struct sim_site *site)
{
    struct sim *sim = site->sim;
    if (sim->calm || !sim_chance(sim, sim->faults.commit_crash))
        return false;
    sim->counts->commit_crashes++;
    sim_site_crash(site, sim_chance(sim, 600));
    return true;
}

/* Appends a record durably and applies it. */
static enum outcome log_append(struct sim_site *site, struct repl_log_record *record)
{
    struct sim *sim = site->sim;
    uint8_t bytes[REPL_LOG_RECORD_SIZE_MAX];
    size_t size;
    if (site->log_suspect && !log_rewrite(site))
        return WENT_WRONG;
    record->number = site->journal.record_number + 1;
    repl_log_record_encode(record, bytes, &size);
    struct sim_inode *log = sim_disk_open(&site->disk, LOG_NAME);
    bool written = true;
    if (log == NULL) {
        log = sim_disk_create(&site->disk, LOG_NAME);
        written = repl_ok(sim_disk_sync_directory(&site->disk, NULL));
    }
    written =
        written && repl_ok(sim_disk_write(&site->disk, log, site->log_end, bytes, size, NULL));
    if (crash_here(site))
        return CRASHED;
    bool lax = sim->options.bug == SIM_BUG_ACK_BEFORE_LOG && record->type == REPL_LOG_COMMIT;
    if (!written || (!lax && !repl_ok(sim_disk_sync(&site->disk, log, NULL)))) {
        site->log_suspect = true;
        log_repair(site, 0, NULL);
        return WENT_WRONG;
    }
    if (crash_here(site))
        return CRASHED;
    site->log_end += size;
    struct repl_error err;
    if (!repl_ok(repl_journal_apply(&site->journal, record, &err)))
        sim_fail(sim, "log", "a record just written cannot be applied: %s", err.text);
    return WENT_WELL;
}

/* --- answers --------------------------------------------------------------------------------- */

static void answer(struct sim_site *site, struct sim_source *source, uint64_t request,
                   struct sim_message *message)
{
    message->source = source;
    message->request = request;
    sim_net_answer(site->sim, message);
}

static void answer_refusal(struct sim_site *site, struct sim_source *source, uint64_t request,
                           const struct repl_refusal *refusal)
{
    struct sim_message *message = sim_message_new(SIM_REFUSAL, source, request);
    message->refusal = *refusal;
    answer(site, source, request, message);
    if (refusal->code == REPL_REFUSAL_DAMAGED)
        site->sim->counts->damaged++;
}

static void answer_code(struct sim_site *site, struct sim_source *source, uint64_t request,
                        enum repl_refusal_code code, const char *text)
{
    struct repl_refusal refusal = {.code = code};
    snprintf(refusal.text, sizeof refusal.text, "%.*s", (int)REPL_WIRE_TEXT_MAX, text);
    answer_refusal(site, source, request, &refusal);
}

static void answer_ack(struct sim_site *site, struct sim_source *source, uint64_t request)
{
    int64_t now_ns = sim_site_now(site);
    struct sim_message *message = sim_message_new(SIM_ACK, source, request);
    repl_journal_ack(&site->journal, now_ns, now_ns, &message->ack);
    answer(site, source, request, message);
}

/* --- the commit sequence --------------------------------------------------------------------- */

static const char *staged_name(const struct sim_upload *upload)
{
    return upload->second_name ? "staged.1" : "staged.0";
}

static void ahead_end(struct sim_site *site)
{
    if (site->ahead.owner != 0)
        answer_code(site, site->ahead.owner_source, site->ahead.owner, REPL_REFUSAL_BUSY,
                    "its turn has not come");
    site->ahead = (struct sim_upload){0};
}

/* What came ahead of its turn is not wanted any more. */
static void ahead_drop(struct sim_site *site)
{
    repl_journal_ahead_drop(&site->journal);
    ahead_end(site);
}

static void upload_drop(struct sim_site *site)
{
    repl_journal_upload_drop(&site->journal);
    site->upload = (struct sim_upload){0};
    ahead_drop(site);
}

static enum outcome step_sync(struct sim_site *site)
{
    struct sim *sim = site->sim;
    if (sim->options.bug == SIM_BUG_SKIP_FILE_SYNC)
        return WENT_WELL;
    if (repl_ok(sim_disk_sync(&site->disk, site->upload.staged, NULL)))
        return WENT_WELL;
    if (sim->options.bug == SIM_BUG_RETRY_FAILED_SYNC &&
        repl_ok(sim_disk_sync(&site->disk, site->upload.staged, NULL)))
        return WENT_WELL;
    answer_code(site, site->upload.owner_source, site->upload.owner, REPL_REFUSAL_DAMAGED,
                "sync failed");
    return WENT_WRONG;
}

/* The volume's size as the segment has it. */
static uint64_t object_size(struct sim *sim, const struct repl_segment *segment)
{
    struct repl_record_walk walk;
    struct repl_record record = {0};
    bool done;
    repl_record_walk_begin(&walk, segment, sim->coder);
    ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)) && !done);
    repl_record_walk_end(&walk);
    ensure(record.type == REPL_RECORD_OBJECT);
    return record.size;
}

static bool carries(const struct repl_segment *segment, const struct repl_digest *name)
{
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++) {
        if (repl_digest_equal(&segment->chunks[i].name, name))
            return true;
    }
    return false;
}

/* The names it refers to that are nowhere; one may come twice. */
static void references_check(struct sim_site *site, const struct repl_segment *segment,
                             struct repl_buffer *missing)
{
    struct repl_record_walk walk;
    struct repl_record record;
    repl_record_walk_begin(&walk, segment, site->sim->coder);
    for (bool done = false;;) {
        ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (done)
            break;
        if (record.type != REPL_RECORD_CHUNK)
            continue;
        site->sim->counts->references++;
        if (!carries(segment, &record.chunk) && !sim_site_has_chunk(site, &record.chunk))
            ensure(repl_ok(repl_buffer_append(missing, &record.chunk, sizeof record.chunk, NULL)));
    }
    repl_record_walk_end(&walk);
}

/* Whether it lacks chunks; then its bytes stay staged. */
static bool answer_missing(struct sim_site *site, const struct repl_segment *segment)
{
    struct sim_message *message =
        sim_message_new(SIM_MISSING, site->upload.owner_source, site->upload.owner);
    references_check(site, segment, &message->bytes);
    if (message->bytes.size == 0) {
        sim_message_drop(message);
        return false;
    }
    site->sim->counts->missing++;
    answer(site, site->upload.owner_source, site->upload.owner, message);
    return true;
}

static enum outcome segment_judge(struct sim_site *site, const struct repl_segment *segment)
{
    struct sim *sim = site->sim;
    struct repl_refusal refusal;
    if (answer_missing(site, segment))
        return LACKING;
    switch (repl_journal_check(&site->journal, &segment->header, &segment->footer,
                               object_size(sim, segment), repl_segment_last_point(segment), NULL,
                               sim_site_now(site), &site->commit, &refusal)) {
    case REPL_VERDICT_ACCEPT:
        return WENT_WELL;
    case REPL_VERDICT_DUPLICATE:
        sim->counts->duplicates_answered++;
        answer_ack(site, site->upload.owner_source, site->upload.owner);
        return WENT_WRONG;
    case REPL_VERDICT_REFUSE:
        answer_refusal(site, site->upload.owner_source, site->upload.owner, &refusal);
        return WENT_WRONG;
    }
    return WENT_WRONG;
}

static enum outcome step_verify(struct sim_site *site)
{
    struct repl_segment *segment;
    struct repl_error err;
    if (!repl_ok(repl_segment_open(sim_read_at, &site->upload.staged->cached,
                                   site->upload.staged->cached.size, &segment, &err))) {
        answer_code(site, site->upload.owner_source, site->upload.owner, REPL_REFUSAL_DAMAGED,
                    err.text);
        return WENT_WRONG;
    }
    enum outcome outcome;
    if (repl_ok(repl_segment_verify(segment, site->sim->coder, &err))) {
        outcome = segment_judge(site, segment);
    } else {
        answer_code(site, site->upload.owner_source, site->upload.owner, REPL_REFUSAL_DAMAGED,
                    err.text);
        outcome = WENT_WRONG;
    }
    repl_segment_free(segment);
    return outcome;
}

static enum outcome step_publish(struct sim_site *site)
{
    char name[SIM_NAME_SIZE];
    sim_segment_name(site->commit.commit.to_seq, site->commit.commit.part, name);
    sim_disk_rename(&site->disk, staged_name(&site->upload), name);
    if (crash_here(site))
        return CRASHED;
    if (site->sim->options.bug == SIM_BUG_SKIP_DIRECTORY_SYNC ||
        repl_ok(sim_disk_sync_directory(&site->disk, NULL)))
        return WENT_WELL;
    answer_code(site, site->upload.owner_source, site->upload.owner, REPL_REFUSAL_INTERNAL,
                "cannot publish");
    return WENT_WRONG;
}

static enum outcome step_log(struct sim_site *site)
{
    enum outcome outcome = log_append(site, &site->commit);
    if (outcome == WENT_WRONG)
        answer_code(site, site->upload.owner_source, site->upload.owner, REPL_REFUSAL_INTERNAL,
                    "cannot log");
    return outcome;
}

static void commit_step(void *actor, uint64_t argument, void *payload);

/* Whose turn it is now. */
static void upload_next(struct sim_site *site)
{
    struct repl_refusal refusal;
    site->upload = site->ahead;
    site->ahead = (struct sim_upload){0};
    if (repl_journal_upload_next(&site->journal, &refusal) != REPL_VERDICT_ACCEPT) {
        answer_refusal(site, site->upload.owner_source, site->upload.owner, &refusal);
        site->upload = (struct sim_upload){0};
    }
    site->sim->counts->aheads_taken += site->journal.upload.active;
    if (!site->upload.ended)
        return;
    site->journal.upload.committing = true;
    commit_step(site, REPL_COMMIT_SYNC, NULL);
}

/* log_append has applied the record: the segment is part of the history. */
static void commit_done(struct sim_site *site)
{
    struct repl_segment *segment;
    ensure(repl_ok(repl_segment_open(sim_read_at, &site->upload.staged->cached,
                                     site->upload.staged->cached.size, &segment, NULL)));
    chunks_add(site, segment);
    repl_segment_free(segment);
    sim_check_commit(site->sim, &site->commit.commit);
    struct sim_source *source = site->upload.owner_source;
    uint64_t request = site->upload.owner;
    answer_ack(site, source, request);
    sim_replica_run(site);
    upload_next(site);
}

static void commit_step(void *actor, uint64_t argument, void *payload)
{
    static enum outcome (*const steps[])(struct sim_site *) = {
        [REPL_COMMIT_SYNC] = step_sync,
        [REPL_COMMIT_VERIFY] = step_verify,
        [REPL_COMMIT_PUBLISH] = step_publish,
        [REPL_COMMIT_LOG] = step_log,
    };
    struct sim_site *site = actor;
    enum repl_commit_step step = (enum repl_commit_step)argument;
    (void)payload;
    if (step == REPL_COMMIT_DONE) {
        commit_done(site);
        return;
    }
    if (crash_here(site))
        return;
    enum outcome outcome = steps[step](site);
    if (outcome == CRASHED)
        return;
    if (outcome == LACKING) {
        site->journal.upload.committing = false;
        site->upload.owner = 0;
        site->upload.ended = false;
        return;
    }
    enum repl_commit_step next = repl_commit_next(step, outcome == WENT_WELL);
    if (next == REPL_COMMIT_FAILED)
        upload_drop(site);
    else if (next == REPL_COMMIT_DONE) /* the record is applied: nothing may come in between */
        commit_done(site);
    else
        sim_after(site->sim, sim_span(site->sim, SIM_MS / 10, 50 * SIM_MS), &site->life,
                  commit_step, site, next, NULL, NULL);
}

/* --- requests -------------------------------------------------------------------------------- */

static void hello_take(struct sim_site *site, const struct sim_message *m)
{
    struct repl_log_record create;
    struct repl_refusal refusal;
    bool needs_create;
    int64_t now_ns = sim_site_now(site);
    ahead_drop(site);
    if (repl_journal_hello(&site->journal, "vol", &m->hello, now_ns, &create, &needs_create,
                           &refusal) != REPL_VERDICT_ACCEPT) {
        answer_refusal(site, m->source, m->request, &refusal);
        return;
    }
    if (needs_create) {
        enum outcome outcome = log_append(site, &create);
        if (outcome == WENT_WRONG)
            answer_code(site, m->source, m->request, REPL_REFUSAL_INTERNAL, "cannot log");
        if (outcome != WENT_WELL)
            return;
    }
    struct sim_message *message = sim_message_new(SIM_WELCOME, m->source, m->request);
    repl_journal_welcome(&site->journal, now_ns, sim_site_now(site), &message->welcome);
    answer(site, m->source, m->request, message);
}

static void staged_create(struct sim_site *site, struct sim_upload *upload,
                          const struct sim_upload *other, const struct sim_message *m)
{
    *upload = (struct sim_upload){.second_name = other->staged != NULL && !other->second_name,
                                  .owner = m->request,
                                  .owner_source = m->source};
    upload->staged = sim_disk_create(&site->disk, staged_name(upload));
}

/* The first piece of a request: whether its bytes are wanted. */
static bool upload_begin(struct sim_site *site, const struct sim_message *m)
{
    struct repl_journal *j = &site->journal;
    struct repl_journal_upload *place = &j->upload;
    struct repl_refusal refusal;
    enum repl_verdict verdict =
        m->put.ahead
            ? repl_journal_ahead_begin(j, m->put.to_seq, m->put.part, &place, &refusal)
            : repl_journal_upload_begin(j, m->put.to_seq, m->put.part, m->put.offset, &refusal);
    switch (verdict) {
    case REPL_VERDICT_DUPLICATE:
        site->sim->counts->duplicates_answered++;
        answer_ack(site, m->source, m->request);
        return false;
    case REPL_VERDICT_REFUSE:
        answer_refusal(site, m->source, m->request, &refusal);
        return false;
    case REPL_VERDICT_ACCEPT:
        break;
    }
    if (place == &j->ahead) {
        ahead_end(site);
        staged_create(site, &site->ahead, &site->upload, m);
    } else if (m->put.offset == 0) {
        ahead_end(site);
        staged_create(site, &site->upload, &site->ahead, m);
    } else {
        site->upload.owner = m->request;
        site->upload.owner_source = m->source;
    }
    return true;
}

/* As soon as the header is there: whether the segment can be appended at all. */
static bool header_check(struct sim_site *site, const struct sim_upload *upload,
                         struct repl_journal_upload *place)
{
    struct repl_segment_header header;
    struct repl_refusal refusal;
    struct repl_error err;
    if (place->header_known || upload->staged->cached.size < REPL_SEGMENT_HEADER_SIZE)
        return true;
    if (!repl_ok(repl_segment_header_decode(upload->staged->cached.data, REPL_SEGMENT_HEADER_SIZE,
                                            &header, &err))) {
        answer_code(site, upload->owner_source, upload->owner, REPL_REFUSAL_DAMAGED, err.text);
        return false;
    }
    if (repl_journal_upload_header(&site->journal, place, &header, &refusal) !=
        REPL_VERDICT_ACCEPT) {
        answer_refusal(site, upload->owner_source, upload->owner, &refusal);
        return false;
    }
    return true;
}

/* Into the file; false: answered. */
static bool piece_write(struct sim_site *site, const struct sim_upload *upload,
                        struct repl_journal_upload *place, const struct sim_message *m)
{
    struct repl_error err;
    if (!repl_ok(sim_disk_write(&site->disk, upload->staged, m->put.offset, m->bytes.data,
                                m->bytes.size, &err))) {
        answer_code(site, m->source, m->request, REPL_REFUSAL_NO_SPACE, err.text);
        return false;
    }
    repl_journal_upload_grow(place, m->bytes.size);
    return header_check(site, upload, place);
}

static void piece_take(struct sim_site *site, const struct sim_message *m)
{
    struct repl_journal *j = &site->journal;
    if (m->put.first && !upload_begin(site, m))
        return;
    bool ahead = site->ahead.owner == m->request;
    struct sim_upload *upload = ahead ? &site->ahead : &site->upload;
    struct repl_journal_upload *place = ahead ? &j->ahead : &j->upload;
    if (upload->owner != m->request || !place->active || place->committing ||
        place->bytes != m->put.offset)
        return;
    if (!piece_write(site, upload, place, m)) {
        upload->owner = 0; /* it has its answer */
        if (ahead)
            ahead_drop(site);
        else
            upload_drop(site);
        return;
    }
    if (!m->put.last)
        return;
    upload->ended = true;
    if (ahead)
        return; /* until it is its turn */
    j->upload.committing = true;
    commit_step(site, REPL_COMMIT_SYNC, NULL);
}

/* Durable under a name of its own, before its chunks count. */
static enum outcome supply_store(struct sim_site *site, const struct sim_message *m)
{
    char name[SIM_NAME_SIZE];
    struct sim_disk *disk = &site->disk;
    sim_supply_name(site, name);
    struct sim_inode *inode = sim_disk_create(disk, "supply.new");
    if (!repl_ok(sim_disk_write(disk, inode, 0, m->bytes.data, m->bytes.size, NULL)))
        return WENT_WRONG;
    if (crash_here(site))
        return CRASHED;
    if (site->sim->options.bug != SIM_BUG_SUPPLY_NOT_SYNCED &&
        !repl_ok(sim_disk_sync(disk, inode, NULL)))
        return WENT_WRONG;
    sim_disk_rename(disk, "supply.new", name);
    if (crash_here(site))
        return CRASHED;
    return repl_ok(sim_disk_sync_directory(disk, NULL)) ? WENT_WELL : WENT_WRONG;
}

static void supply_take(struct sim_site *site, struct sim_message *m)
{
    struct repl_segment *segment;
    struct repl_error err;
    if (!repl_ok(repl_segment_open(sim_read_at, &m->bytes, m->bytes.size, &segment, &err))) {
        answer_code(site, m->source, m->request, REPL_REFUSAL_DAMAGED, err.text);
        return;
    }
    if (!repl_ok(repl_segment_verify(segment, site->sim->coder, &err))) {
        answer_code(site, m->source, m->request, REPL_REFUSAL_DAMAGED, err.text);
    } else {
        enum outcome outcome = supply_store(site, m);
        if (outcome == WENT_WRONG)
            answer_code(site, m->source, m->request, REPL_REFUSAL_INTERNAL, "cannot store");
        if (outcome == WENT_WELL) {
            site->sim->counts->supplies++;
            site->sim->counts->supplied += segment->footer.chunk_count;
            chunks_add(site, segment);
            answer_ack(site, m->source, m->request);
        }
    }
    repl_segment_free(segment);
}

static void report_take(struct sim_site *site, const struct sim_message *m)
{
    struct repl_log_record record;
    struct repl_refusal refusal;
    bool needs_record;
    if (repl_journal_report(&site->journal, &m->report, sim_site_now(site), &record, &needs_record,
                            &refusal) != REPL_VERDICT_ACCEPT) {
        answer_refusal(site, m->source, m->request, &refusal);
        return;
    }
    if (needs_record && log_append(site, &record) == CRASHED)
        return;
}

static void extents_add(struct sim_site *site, const struct repl_log_commit *commit,
                        struct repl_buffer *out)
{
    char name[SIM_NAME_SIZE];
    sim_segment_name(commit->to_seq, commit->part, name);
    struct sim_inode *inode = sim_disk_open(&site->disk, name);
    struct repl_segment *segment;
    struct repl_record_walk walk;
    struct repl_record record;
    struct repl_error err;
    if (inode == NULL || !repl_ok(repl_segment_open(sim_read_at, &inode->cached, inode->cached.size,
                                                    &segment, &err)))
        sim_fail(site->sim, "restore", "committed segment %s cannot be opened", name);
    repl_record_walk_begin(&walk, segment, site->sim->coder);
    for (bool done = false;;) {
        ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (done)
            break;
        if (record.type == REPL_RECORD_OBJECT)
            continue;
        struct sim_extent extent = {.offset = record.offset, .length = record.length};
        ensure(repl_ok(repl_buffer_append(out, &extent, sizeof extent, NULL)));
    }
    repl_record_walk_end(&walk);
    repl_segment_free(segment);
}

/* The extents of all segments behind one up to another. */
static void list_take(struct sim_site *site, const struct sim_message *m)
{
    const struct sim_check *check = &site->sim->check;
    struct sim_message *message = sim_message_new(SIM_EXTENTS, m->source, m->request);
    bool behind = m->list.from.to_seq == 0, complete = false;
    for (size_t i = 0; i < check->history_count && !complete; i++) {
        const struct repl_log_commit *commit = &check->history[i];
        if (behind)
            extents_add(site, commit, &message->bytes);
        behind |= repl_digest_equal(&commit->digest, &m->list.from.digest);
        complete = repl_digest_equal(&commit->digest, &m->list.head.digest);
    }
    if (behind && complete) {
        answer(site, m->source, m->request, message);
        return;
    }
    sim_message_drop(message);
    answer_code(site, m->source, m->request, REPL_REFUSAL_GREET, "no such segments here");
}

void sim_site_request(void *actor, uint64_t argument, void *payload)
{
    struct sim_site *site = actor;
    struct sim_message *m = payload;
    (void)argument;
    /* With a log that cannot be trusted nothing is promised to anybody. */
    if (site->log_suspect) {
        if (m->type != SIM_REPORT)
            answer_code(site, m->source, m->request, REPL_REFUSAL_BUSY,
                        "the log is being repaired");
    } else if (m->type == SIM_HELLO) {
        hello_take(site, m);
    } else if (m->type == SIM_PUT) {
        piece_take(site, m);
    } else if (m->type == SIM_REPORT) {
        report_take(site, m);
    } else if (m->type == SIM_SUPPLY) {
        supply_take(site, m);
    } else {
        ensure(m->type == SIM_LIST);
        list_take(site, m);
    }
    sim_message_drop(m);
}

/* --- a life ---------------------------------------------------------------------------------- */

void sim_site_init(struct sim_site *site, struct sim *sim)
{
    memset(site, 0, sizeof *site);
    site->sim = sim;
    sim_disk_init(&site->disk, sim);
    repl_journal_init(&site->journal);
}

/* What the cache shows of the log is made durable before anything is built on it. */
static void log_settle(struct sim_site *site)
{
    struct sim_inode *log = sim_disk_open(&site->disk, LOG_NAME);
    site->log_end = log != NULL ? log->cached.size : 0;
    if (log != NULL && !site->log_suspect)
        site->log_suspect = !repl_ok(sim_disk_sync(&site->disk, log, NULL)) ||
                            !repl_ok(sim_disk_sync_directory(&site->disk, NULL));
    while (site->log_suspect)
        log_rewrite(site);
}

static void chunks_load(struct sim_site *site, const struct repl_log_commit *commit)
{
    char name[SIM_NAME_SIZE];
    struct repl_segment *segment;
    struct repl_error err;
    sim_segment_name(commit->to_seq, commit->part, name);
    struct sim_inode *inode = sim_disk_open(&site->disk, name);
    if (inode == NULL ||
        !repl_ok(
            repl_segment_open(sim_read_at, &inode->cached, inode->cached.size, &segment, &err)) ||
        !repl_digest_equal(&segment->footer.digest, &commit->digest))
        sim_fail(site->sim, "restore", "after a restart committed segment %s is not there", name);
    chunks_add(site, segment);
    repl_segment_free(segment);
}

static void log_fold(struct sim_site *site, struct repl_buffer *commits)
{
    struct sim_inode *log = sim_disk_open(&site->disk, LOG_NAME);
    struct repl_log_record record;
    struct repl_error err;
    uint64_t at = 0;
    size_t size;
    while (log != NULL && at < log->cached.size &&
           repl_ok(repl_log_record_decode(log->cached.data + at, log->cached.size - at, &record,
                                          &size, &err))) {
        if (!repl_ok(repl_journal_apply(&site->journal, &record, &err)))
            sim_fail(site->sim, "log", "cannot be read back: %s", err.text);
        if (record.type == REPL_LOG_COMMIT)
            ensure(
                repl_ok(repl_buffer_append(commits, &record.commit, sizeof record.commit, NULL)));
        at += size;
    }
    bool torn = log != NULL && at < log->cached.size;
    site->log_end = at;
    site->log_suspect = torn; /* a tail that is cut off is cut off durably */
    while (site->log_suspect)
        log_rewrite(site);
}

void sim_site_start(struct sim_site *site)
{
    struct repl_buffer commits = {0};
    ensure(!site->up);
    site->disk.full = false; /* without room for its log a site does not start */
    repl_journal_init(&site->journal);
    site->upload = site->ahead = (struct sim_upload){0};
    site->chunks.size = 0;
    log_settle(site);
    log_fold(site, &commits);
    sim_check_log(site->sim, (const void *)commits.data,
                  commits.size / sizeof(struct repl_log_commit));
    repl_buffer_fini(&commits);
    for (size_t i = 0; i < site->sim->check.history_count; i++)
        chunks_load(site, &site->sim->check.history[i]);
    size_t supply_count;
    struct repl_segment **supplies = sim_supplies_open(site, false, &supply_count);
    for (size_t i = 0; i < supply_count; i++)
        chunks_add(site, supplies[i]);
    sim_supplies_free(supplies, supply_count);
    site->up = true;
    sim_replica_start(site);
    sim_replica_run(site);
}

static void restart(void *actor, uint64_t argument, void *payload)
{
    struct sim_site *site = actor;
    (void)argument;
    (void)payload;
    if (!site->up)
        sim_site_start(site);
}

void sim_site_crash(struct sim_site *site, bool power)
{
    struct sim *sim = site->sim;
    if (!site->up)
        return;
    site->up = false;
    site->life.number++;
    if (power) {
        sim_disk_power_cut(&site->disk);
        site->log_suspect = false; /* what one reads now is what the disk has */
        sim_check_restore_some(sim, 2);
        sim_check_replica(sim);
    }
    sim_after(sim, sim_span(sim, 20 * SIM_MS, 4 * SIM_SECOND), &sim->world, restart, site, 0, NULL,
              NULL);
}

void sim_site_wipe(struct sim_site *site)
{
    sim_site_crash(site, false);
    sim_disk_wipe(&site->disk);
    site->log_suspect = false;
    site->sim->check.history_count = 0;
    site->sim->check.begun = false;
}

void sim_site_fini(struct sim_site *site)
{
    sim_disk_fini(&site->disk);
    repl_buffer_fini(&site->chunks);
}
