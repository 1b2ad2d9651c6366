#include "journal/journal.h"

#include <stdio.h>
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "segment/segment_chain.h"

/* A quiet volume's time moves on every few seconds, but is written to the log only this often: what
 * a restart of the site forgets, the next report says again. */
#define IDLE_LOG_INTERVAL_NS (INT64_C(60) * 1000000000)

/* States come and go with each report. One that is worse is logged at once, a better one only so
 * long after the last: what alternates cannot fill the log. */
#define STATE_LOG_INTERVAL_NS (INT64_C(30) * 1000000000)

/* A source reports every second. One that has not for so long is taken for unreachable. */
#define SILENCE_NS (INT64_C(10) * 1000000000)

/* A point so far in the future of the site's clock is no error of its measuring. */
#define CLOCK_AHEAD_NS (INT64_C(2) * 1000000000)

void repl_journal_init(struct repl_journal *journal)
{
    memset(journal, 0, sizeof *journal);
    repl_trouble_init(&journal->trouble);
}

enum repl_verdict repl_refuse(struct repl_refusal *refusal, enum repl_refusal_code code,
                              const char *format, ...)
{
    refusal->code = code;
    va_list args;
    va_start(args, format);
    vsnprintf(refusal->text, sizeof refusal->text, format, args);
    va_end(args);
    return REPL_VERDICT_REFUSE;
}

/* --- the fold -------------------------------------------------------------------------------- */

/* Whether a segment (from, to] part may be the next after the head. */
static bool continues(const struct repl_journal *j, uint64_t from, uint64_t to, uint32_t part)
{
    if (!j->has_head)
        return from == 0 && part == 0;
    return repl_segment_follows(&j->head, from, to, part);
}

/* Later than that a point cannot be, whatever its own time says. */
static void heard(struct repl_journal *j, int64_t at_ns)
{
    if (at_ns > j->heard_ns)
        j->heard_ns = at_ns;
}

static void commit_apply(struct repl_journal *j, const struct repl_log_commit *commit,
                         int64_t time_ns)
{
    repl_trouble_add(&j->trouble, commit, j->unchanged_until_ns);
    j->has_head = true;
    j->lineage = commit->lineage;
    j->head = (struct repl_head){.from_seq = commit->from_seq,
                                 .to_seq = commit->to_seq,
                                 .part = commit->part,
                                 .has_point = commit->has_point,
                                 .digest = commit->digest};
    j->volume_size = commit->volume_size;
    if (commit->has_point) {
        j->point = commit->point;
        j->unchanged_until_ns = commit->point.begin_ns; /* what came later may be missing */
        j->heard_ns = time_ns;
    }
}

static void checkpoint_apply(struct repl_journal *j, const struct repl_log_checkpoint *checkpoint)
{
    j->exists = true;
    j->create = checkpoint->create;
    j->lineage = checkpoint->lineage;
    j->heard_ns = checkpoint->heard_ns;
    j->group_left = checkpoint->records;
    j->in_checkpoint = true;
}

/* A segment that was there when the log was written anew: the last one is the head. */
static void checkpoint_piece(struct repl_journal *j, const struct repl_log_piece *piece)
{
    int64_t heard_ns = j->heard_ns;
    uint64_t lineage = j->lineage;
    commit_apply(j, &piece->commit, 0);
    j->lineage = lineage;
    j->head.digest = piece->link;
    if (piece->commit.has_point && piece->unchanged_until_ns > piece->commit.point.end_ns)
        j->unchanged_until_ns = piece->unchanged_until_ns;
    j->heard_ns = heard_ns;
}

static repl_result pool_apply(struct repl_journal *j, const struct repl_log_record *record,
                              struct repl_error *err)
{
    if (j->pool[0] != '\0')
        return repl_fail(err, REPL_E_CORRUPT, "log record %llu: the volume is of a pool already",
                         (unsigned long long)record->number);
    memcpy(j->pool, record->pool.name, sizeof j->pool);
    return REPL_SUCCESS;
}

/* Records that belong to the MERGE or CHECKPOINT before them. */
static repl_result group_apply(struct repl_journal *j, const struct repl_log_record *record,
                               struct repl_error *err)
{
    bool fits = record->type == REPL_LOG_PIECE ||
                record->type == (j->in_checkpoint ? REPL_LOG_MARK : REPL_LOG_GONE) ||
                (record->type == REPL_LOG_POOL && j->in_checkpoint);
    if (!fits)
        return repl_fail(err, REPL_E_CORRUPT,
                         "log record %llu comes while %u more are to come of a group",
                         (unsigned long long)record->number, (unsigned)j->group_left);
    if (j->in_checkpoint && record->type == REPL_LOG_PIECE)
        checkpoint_piece(j, &record->piece);
    if (record->type == REPL_LOG_POOL)
        REPL_TRY(pool_apply(j, record, err));
    if (record->type == REPL_LOG_MARK)
        repl_trouble_named(&j->trouble, &record->mark);
    j->group_left--;
    return REPL_SUCCESS;
}

/* Whether a record may come here at all. */
static repl_result record_check(const struct repl_journal *j, const struct repl_log_record *record,
                                struct repl_error *err)
{
    unsigned long long number = record->number;
    bool anew = record->type == REPL_LOG_CHECKPOINT && j->record_number == 0;
    if (!anew && record->number != j->record_number + 1)
        return repl_fail(err, REPL_E_CORRUPT, "log record %llu follows record %llu", number,
                         (unsigned long long)j->record_number);
    bool first = record->type == REPL_LOG_CREATE || record->type == REPL_LOG_CHECKPOINT;
    if (first == j->exists)
        return repl_fail(err, REPL_E_CORRUPT, "log record %llu: the volume is %s", number,
                         j->exists ? "created twice" : "not created");
    if (j->group_left == 0 && (record->type == REPL_LOG_PIECE || record->type == REPL_LOG_GONE))
        return repl_fail(err, REPL_E_CORRUPT, "log record %llu belongs to nothing before it",
                         number);
    return REPL_SUCCESS;
}

repl_result repl_journal_apply(struct repl_journal *j, const struct repl_log_record *record,
                               struct repl_error *err)
{
    unsigned long long number = record->number;
    REPL_TRY(record_check(j, record, err));
    if (j->group_left > 0) {
        REPL_TRY(group_apply(j, record, err));
        j->record_number = record->number;
        return REPL_SUCCESS;
    }
    switch (record->type) {
    case REPL_LOG_CREATE:
        j->exists = true;
        j->create = record->create;
        j->lineage = record->create.lineage;
        break;
    case REPL_LOG_COMMIT:
        if (!continues(j, record->commit.from_seq, record->commit.to_seq, record->commit.part))
            return repl_fail(err, REPL_E_CORRUPT,
                             "log record %llu commits a segment that does not follow the one "
                             "before it",
                             number);
        commit_apply(j, &record->commit, record->time_ns);
        break;
    case REPL_LOG_IDLE:
        if (record->idle.seq != j->point.seq)
            return repl_fail(err, REPL_E_CORRUPT, "log record %llu speaks of another point",
                             number);
        if (record->idle.until_ns > j->unchanged_until_ns)
            j->unchanged_until_ns = record->idle.until_ns;
        heard(j, record->time_ns);
        j->idle_logged_ns = record->time_ns;
        break;
    case REPL_LOG_STATE:
        j->state = record->state.state;
        j->state_logged_ns = record->time_ns;
        break;
    case REPL_LOG_MERGE: /* never of the last segment: the head stays */
        if (record->merge.to_seq >= j->head.to_seq)
            return repl_fail(err, REPL_E_CORRUPT, "log record %llu merges the newest segment",
                             number);
        j->group_left = record->merge.records;
        j->in_checkpoint = false;
        break;
    case REPL_LOG_CHECKPOINT:
        checkpoint_apply(j, &record->checkpoint);
        break;
    case REPL_LOG_POOL:
        REPL_TRY(pool_apply(j, record, err));
        break;
    case REPL_LOG_MARK: /* the list of segments has the names (chain.h) */
        repl_trouble_named(&j->trouble, &record->mark);
        break;
    case REPL_LOG_PIECE:
    case REPL_LOG_GONE:
        break;
    }
    j->record_number = record->number;
    return REPL_SUCCESS;
}

static struct repl_log_record record_new(const struct repl_journal *j, enum repl_log_type type,
                                         int64_t now_ns)
{
    return (struct repl_log_record){
        .type = type, .number = j->record_number + 1, .time_ns = now_ns};
}

/* The least difference seen is the one that waited least on the way. It grows a little with each
 * message that took longer, so that a drifting or a newly set clock is followed. */
static void clock_sample(struct repl_journal *j, int64_t sent_ns, int64_t received_ns)
{
    int64_t offset = received_ns - sent_ns;
    if (!j->clock_known || offset < j->clock_offset_ns)
        j->clock_offset_ns = offset;
    else
        j->clock_offset_ns += (offset - j->clock_offset_ns) / 16;
    j->clock_known = true;
}

/* --- hello ----------------------------------------------------------------------------------- */

static const char *kind_name(enum repl_volume_kind kind)
{
    return kind == REPL_VOLUME_TREE ? "directory tree" : "block device";
}

enum repl_verdict repl_journal_hello(struct repl_journal *j, const char *name,
                                     const struct repl_hello *hello, int64_t now_ns,
                                     struct repl_log_record *create, bool *needs_create,
                                     struct repl_refusal *refusal)
{
    *needs_create = false;
    if (hello->version_min > REPL_PROTOCOL_MAX || hello->version_max < REPL_PROTOCOL_MIN)
        return repl_refuse(
            refusal, REPL_REFUSAL_VERSION,
            "the source speaks protocol versions %u to %u, this site %u to %u: upgrade "
            "the older one",
            hello->version_min, hello->version_max, REPL_PROTOCOL_MIN, REPL_PROTOCOL_MAX);
    if (j->exists && hello->kind != j->create.kind)
        return repl_refuse(
            refusal, REPL_REFUSAL_FORK,
            "volume %s is a %s here, the source's is a %s: a volume stays what it is. The "
            "history is kept; give the new volume another name",
            name, kind_name(j->create.kind), kind_name(hello->kind));
    if (j->exists && !repl_uuid_equal(&j->create.volume, &hello->volume)) {
        char here[REPL_UUID_TEXT_SIZE], there[REPL_UUID_TEXT_SIZE];
        repl_uuid_format(&j->create.volume, here);
        repl_uuid_format(&hello->volume, there);
        return repl_refuse(
            refusal, REPL_REFUSAL_FORK,
            "volume %s is %s here, the source's is %s: it was set up anew or is another "
            "host's. The history is kept; give the new volume another name",
            name, here, there);
    }
    if (j->exists && hello->lineage < j->lineage)
        return repl_refuse(refusal, REPL_REFUSAL_FENCED,
                           "volume %s belongs to lineage %llu now, the source writes %llu", name,
                           (unsigned long long)j->lineage, (unsigned long long)hello->lineage);
    j->rpo_ms = hello->rpo_ms;
    clock_sample(j, hello->sent_ns, now_ns);
    if (j->reported_ns == 0)
        j->report.state = j->point.seq == 0 ? REPL_STATE_SEEDING : REPL_STATE_OK;
    j->reported_ns = now_ns;
    if (!j->exists) {
        *create = record_new(j, REPL_LOG_CREATE, now_ns);
        snprintf(create->create.name, sizeof create->create.name, "%s", name);
        create->create.volume = hello->volume;
        create->create.kind = hello->kind;
        create->create.lineage = hello->lineage;
        *needs_create = true;
    }
    return REPL_VERDICT_ACCEPT;
}

void repl_journal_pool(const struct repl_journal *j, const char *name, int64_t now_ns,
                       struct repl_log_record *pool)
{
    *pool = record_new(j, REPL_LOG_POOL, now_ns);
    snprintf(pool->pool.name, sizeof pool->pool.name, "%s", name);
}

void repl_journal_welcome(const struct repl_journal *j, int64_t received_ns, int64_t now_ns,
                          struct repl_welcome *out)
{
    *out = (struct repl_welcome){.version = REPL_PROTOCOL_MAX,
                                 .known = j->has_head,
                                 .lineage = j->lineage,
                                 .head = j->head,
                                 .point_seq = j->point.seq,
                                 .received_ns = received_ns,
                                 .replied_ns = now_ns};
    if (j->upload.active && !j->upload.committing) {
        out->staged_to_seq = j->upload.to_seq;
        out->staged_part = j->upload.part;
        out->staged_created_ns = j->upload.header.created_ns;
        out->staged_bytes = j->upload.bytes;
    }
}

/* --- upload ---------------------------------------------------------------------------------- */

static bool is_head(const struct repl_journal *j, uint64_t to_seq, uint32_t part)
{
    return j->has_head && j->head.to_seq == to_seq && j->head.part == part;
}

enum repl_verdict repl_journal_upload_begin(struct repl_journal *j, uint64_t to_seq, uint32_t part,
                                            uint64_t offset, struct repl_refusal *refusal)
{
    struct repl_journal_upload *u = &j->upload;
    if (!j->exists)
        return repl_refuse(refusal, REPL_REFUSAL_GREET, "no hello was said for this volume");
    if (is_head(j, to_seq, part))
        return REPL_VERDICT_DUPLICATE;
    if (u->committing)
        return repl_refuse(refusal, REPL_REFUSAL_BUSY,
                           "the segment before is still being committed");
    if (offset == 0) {
        repl_journal_upload_drop(j);
        *u = (struct repl_journal_upload){.active = true, .to_seq = to_seq, .part = part};
        return REPL_VERDICT_ACCEPT;
    }
    if (!u->active || u->to_seq != to_seq || u->part != part || u->bytes != offset)
        return repl_refuse(refusal, REPL_REFUSAL_GREET,
                           "cannot resume segment %llu.%u at byte %llu: other bytes are held",
                           (unsigned long long)to_seq, part, (unsigned long long)offset);
    return REPL_VERDICT_ACCEPT;
}

enum repl_verdict repl_journal_ahead_begin(struct repl_journal *j, uint64_t to_seq, uint32_t part,
                                           struct repl_journal_upload **upload,
                                           struct repl_refusal *refusal)
{
    const struct repl_journal_upload *u = &j->upload;
    if (!j->exists)
        return repl_refuse(refusal, REPL_REFUSAL_GREET, "no hello was said for this volume");
    if (is_head(j, to_seq, part))
        return REPL_VERDICT_DUPLICATE;
    if (u->active && u->to_seq == to_seq && u->part == part)
        return repl_refuse(refusal, REPL_REFUSAL_BUSY, "another connection brings this segment");
    if (u->active && !(part == 0 && to_seq > u->to_seq) &&
        !(part == u->part + 1 && to_seq == u->to_seq))
        return repl_refuse(refusal, REPL_REFUSAL_GREET,
                           "segment %llu.%u cannot follow segment %llu.%u, which is on its way",
                           (unsigned long long)to_seq, part, (unsigned long long)u->to_seq,
                           u->part);
    *upload = u->active ? &j->ahead : &j->upload;
    **upload = (struct repl_journal_upload){.active = true, .to_seq = to_seq, .part = part};
    return REPL_VERDICT_ACCEPT;
}

/* What can be told from the header alone, wherever the segment stands in the history. */
static enum repl_verdict owner_check(const struct repl_journal *j,
                                     const struct repl_segment_header *header,
                                     struct repl_refusal *refusal)
{
    unsigned long long to = header->to_seq;
    if (header->kind != REPL_SEGMENT_CHANGES)
        return repl_refuse(refusal, REPL_REFUSAL_REQUEST, "segment %llu.%u carries no changes", to,
                           header->part);
    if (!repl_uuid_equal(&header->volume, &j->create.volume))
        return repl_refuse(refusal, REPL_REFUSAL_FORK, "segment %llu.%u is of another volume", to,
                           header->part);
    if (header->volume_kind != j->create.kind)
        return repl_refuse(refusal, REPL_REFUSAL_REQUEST,
                           "segment %llu.%u is of another kind of volume than the source said", to,
                           header->part);
    if (header->lineage < j->lineage)
        return repl_refuse(
            refusal, REPL_REFUSAL_FENCED,
            "segment %llu.%u is of lineage %llu, the volume belongs to lineage %llu now", to,
            header->part, (unsigned long long)header->lineage, (unsigned long long)j->lineage);
    return REPL_VERDICT_ACCEPT;
}

static enum repl_verdict header_check(const struct repl_journal *j,
                                      const struct repl_segment_header *header,
                                      struct repl_refusal *refusal)
{
    unsigned long long from = header->from_seq, to = header->to_seq;
    enum repl_verdict verdict = owner_check(j, header, refusal);
    if (verdict != REPL_VERDICT_ACCEPT)
        return verdict;
    if (!continues(j, header->from_seq, header->to_seq, header->part))
        return repl_refuse(refusal, REPL_REFUSAL_GREET,
                           "segment (%llu, %llu].%u does not follow the head %llu.%u", from, to,
                           header->part, (unsigned long long)j->head.to_seq, j->head.part);
    if (!repl_digest_equal(&header->prev, &j->head.digest))
        return repl_refuse(refusal, REPL_REFUSAL_FORK,
                           "segment %llu.%u continues another history than the one held here (the "
                           "source was cloned or rolled back). The history is kept",
                           to, header->part);
    return REPL_VERDICT_ACCEPT;
}

enum repl_verdict repl_journal_upload_header(struct repl_journal *j, struct repl_journal_upload *u,
                                             const struct repl_segment_header *header,
                                             struct repl_refusal *refusal)
{
    ensure(u->active && !u->committing);
    if (header->to_seq != u->to_seq || header->part != u->part)
        return repl_refuse(refusal, REPL_REFUSAL_REQUEST,
                           "segment %llu.%u was sent under the name %llu.%u",
                           (unsigned long long)header->to_seq, header->part,
                           (unsigned long long)u->to_seq, u->part);
    u->header = *header;
    u->header_known = true;
    return u == &j->ahead ? owner_check(j, header, refusal) : header_check(j, header, refusal);
}

void repl_journal_upload_grow(struct repl_journal_upload *upload, uint64_t size)
{
    ensure(upload->active && !upload->committing);
    upload->bytes += size;
}

void repl_journal_ahead_drop(struct repl_journal *j)
{
    j->ahead = (struct repl_journal_upload){0};
}

void repl_journal_upload_drop(struct repl_journal *j)
{
    j->upload = (struct repl_journal_upload){0};
    repl_journal_ahead_drop(j);
}

enum repl_verdict repl_journal_upload_next(struct repl_journal *j, struct repl_refusal *refusal)
{
    j->upload = j->ahead;
    repl_journal_ahead_drop(j);
    if (!j->upload.header_known ||
        header_check(j, &j->upload.header, refusal) == REPL_VERDICT_ACCEPT)
        return REPL_VERDICT_ACCEPT;
    repl_journal_upload_drop(j);
    return REPL_VERDICT_REFUSE;
}

enum repl_verdict repl_journal_check(struct repl_journal *j,
                                     const struct repl_segment_header *header,
                                     const struct repl_segment_footer *footer, uint64_t volume_size,
                                     const struct repl_point *point, const struct repl_churn *churn,
                                     int64_t now_ns, struct repl_log_record *commit,
                                     struct repl_refusal *refusal)
{
    if (is_head(j, header->to_seq, header->part))
        return repl_digest_equal(&j->head.digest, &footer->digest)
                   ? REPL_VERDICT_DUPLICATE
                   : repl_refuse(refusal, REPL_REFUSAL_FORK,
                                 "another segment %llu.%u is part of the history already",
                                 (unsigned long long)header->to_seq, header->part);
    enum repl_verdict verdict = header_check(j, header, refusal);
    if (verdict != REPL_VERDICT_ACCEPT)
        return verdict;
    if (point != NULL && point->end_ns < j->point.begin_ns)
        return repl_refuse(
            refusal, REPL_REFUSAL_REQUEST,
            "point %llu would lie before point %llu in time: the source's clock was set "
            "back",
            (unsigned long long)point->seq, (unsigned long long)j->point.seq);
    *commit = record_new(j, REPL_LOG_COMMIT, now_ns);
    commit->commit = (struct repl_log_commit){.from_seq = header->from_seq,
                                              .to_seq = header->to_seq,
                                              .part = header->part,
                                              .lineage = header->lineage,
                                              .file_size = footer->file_size,
                                              .volume_size = volume_size,
                                              .digest = footer->digest,
                                              .has_point = point != NULL};
    if (point != NULL)
        commit->commit.point = *point;
    repl_trouble_judge(&j->trouble, churn, j->unchanged_until_ns, &commit->commit);
    return REPL_VERDICT_ACCEPT;
}

/* --- report, ack, status --------------------------------------------------------------------- */

static bool state_is_due(const struct repl_journal *j, enum repl_state state, int64_t now_ns)
{
    int64_t age_ns = now_ns - j->state_logged_ns;
    bool long_ago = j->state_logged_ns == 0 || age_ns >= STATE_LOG_INTERVAL_NS ||
                    age_ns < 0; /* our clock was set back */
    return state != j->state && (state > j->state || long_ago);
}

static void idle_report(struct repl_journal *j, const struct repl_report *report, int64_t now_ns,
                        struct repl_log_record *record, bool *needs_record)
{
    int64_t until = report->unchanged_until_ns;
    if (report->seq == 0 || report->seq != j->point.seq || !j->head.has_point)
        return;
    if (until <= report->sent_ns)
        heard(j, now_ns - (report->sent_ns - until));
    else /* nobody knows what has not been yet */
        until = report->sent_ns;
    if (until <= j->unchanged_until_ns)
        return;
    j->unchanged_until_ns = until;
    if (now_ns - j->idle_logged_ns < IDLE_LOG_INTERVAL_NS)
        return;
    *record = record_new(j, REPL_LOG_IDLE, now_ns);
    record->idle = (struct repl_log_idle){.seq = report->seq, .until_ns = until};
    *needs_record = true;
}

enum repl_verdict repl_journal_report(struct repl_journal *j, const struct repl_report *report,
                                      int64_t now_ns, struct repl_log_record *record,
                                      bool *needs_record, struct repl_refusal *refusal)
{
    *needs_record = false;
    if (!j->exists)
        return repl_refuse(refusal, REPL_REFUSAL_GREET, "no hello was said for this volume");
    if (report->seq > j->point.seq) /* a source at rest would not find out otherwise */
        return repl_refuse(
            refusal, REPL_REFUSAL_GREET,
            "point %llu was acknowledged, and the newest here is %llu: this site was put "
            "back",
            (unsigned long long)report->seq, (unsigned long long)j->point.seq);
    j->report = *report;
    j->reported_ns = now_ns;
    clock_sample(j, report->sent_ns, now_ns);
    /* OK and IDLE alternate with every write: the timeline needs neither. */
    enum repl_state state = report->state == REPL_STATE_IDLE ? REPL_STATE_OK : report->state;
    ensure(state < REPL_STATE_REPORTED_COUNT); /* a log with another one could not be read */
    if (state_is_due(j, state, now_ns)) {
        *record = record_new(j, REPL_LOG_STATE, now_ns);
        record->state.state = state;
        snprintf(record->state.cause, sizeof record->state.cause, "%s", report->cause);
        *needs_record = true;
        return REPL_VERDICT_ACCEPT;
    }
    idle_report(j, report, now_ns, record, needs_record);
    return REPL_VERDICT_ACCEPT;
}

void repl_journal_ack(const struct repl_journal *j, int64_t received_ns, int64_t now_ns,
                      struct repl_ack *out)
{
    *out = (struct repl_ack){.head = j->head, .received_ns = received_ns, .replied_ns = now_ns};
}

int64_t repl_journal_lag_ns(const struct repl_journal *j, int64_t now_ns)
{
    if (j->point.seq == 0)
        return -1;
    int64_t lag = now_ns - j->clock_offset_ns - j->unchanged_until_ns;
    if (lag < now_ns - j->heard_ns)
        lag = now_ns - j->heard_ns;
    return lag > 0 ? lag : 0;
}

int64_t repl_journal_ahead_ns(const struct repl_journal *j, int64_t now_ns)
{
    int64_t ahead = j->point.end_ns + j->clock_offset_ns - now_ns;
    return j->point.seq != 0 && j->clock_known && ahead > CLOCK_AHEAD_NS ? ahead : 0;
}

enum repl_state repl_journal_state(const struct repl_journal *j, int64_t now_ns, char *cause)
{
    int64_t silence = now_ns - j->reported_ns;
    if (j->reported_ns == 0 || silence > SILENCE_NS) {
        if (j->reported_ns == 0)
            snprintf(cause, REPL_WIRE_TEXT_MAX + 1,
                     "nothing was heard of the source since this site started");
        else
            snprintf(cause, REPL_WIRE_TEXT_MAX + 1, "nothing was heard of the source for %lld s",
                     (long long)(silence / 1000000000));
        return REPL_STATE_LINK_DOWN;
    }
    snprintf(cause, REPL_WIRE_TEXT_MAX + 1, "%s", j->report.cause);
    return j->report.state;
}
