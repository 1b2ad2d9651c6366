/*
 * Records of the log. Each carries its own length and, over all that precedes
 * it, an XXH3-64, so that a record is either there as it was written or not at
 * all. The version is looked at after the checksum: a record of a later release
 * is told apart from damage, because a tail that is damaged may be cut off, and
 * one that this release merely cannot read must not be.
 */
#include "format/log_record.h"

#include "base/ensure.h"
#include "base/hash.h"
#include "format/segment_format.h"

#define LOG_MAGIC       0x474f4c52u /* "RLOG" */
#define LOG_HEADER_SIZE 24u
#define LOG_TAIL_SIZE   8u

const char *repl_state_name(enum repl_state state)
{
    static const char *const names[REPL_STATE_COUNT] = {
        [REPL_STATE_OK] = "ok",
        [REPL_STATE_IDLE] = "idle",
        [REPL_STATE_SEEDING] = "seeding",
        [REPL_STATE_RESYNC] = "resync",
        [REPL_STATE_NO_WINDOW] = "no-window",
        [REPL_STATE_DEGRADED] = "degraded",
        [REPL_STATE_LINK_DOWN] = "link-down",
        [REPL_STATE_REFUSED] = "refused",
        [REPL_STATE_FAILED] = "failed",
        [REPL_STATE_SITE_FULL] = "site-full",
        [REPL_STATE_SITE_BUSY] = "site-busy",
        [REPL_STATE_SITE_ERROR] = "site-error",
    };
    return (unsigned)state < REPL_STATE_COUNT ? names[state] : "unknown";
}

int repl_state_rank(enum repl_state state)
{
    switch (state) {
    case REPL_STATE_SITE_BUSY:
        return 4 * REPL_STATE_LINK_DOWN - 1;
    case REPL_STATE_SITE_FULL:
        return 4 * REPL_STATE_LINK_DOWN + 1;
    case REPL_STATE_SITE_ERROR:
        return 4 * REPL_STATE_LINK_DOWN + 2;
    default:
        return 4 * (int)state;
    }
}

const char *repl_trouble_name(enum repl_trouble_kind kind)
{
    static const char *const names[REPL_TROUBLE_COUNT] = {
        [REPL_TROUBLE_NONE] = "none",
        [REPL_TROUBLE_CHANGE] = "mass-change",
        [REPL_TROUBLE_REMOVAL] = "mass-removal",
        [REPL_TROUBLE_ENCRYPTION] = "encryption",
    };
    return (unsigned)kind < REPL_TROUBLE_COUNT ? names[kind] : "unknown";
}

const char *repl_trouble_words(enum repl_trouble_kind kind)
{
    static const char *const words[REPL_TROUBLE_COUNT] = {
        [REPL_TROUBLE_NONE] = "nothing unusual",
        [REPL_TROUBLE_CHANGE] = "a mass change (far more was written than within weeks before)",
        [REPL_TROUBLE_REMOVAL] = "a mass removal of files",
        [REPL_TROUBLE_ENCRYPTION] =
            "encryption (much was written that does not compress, where it used to)",
    };
    return (unsigned)kind < REPL_TROUBLE_COUNT ? words[kind] : "trouble of a later release";
}

void repl_words_encode(struct repl_writer *writer, const char *words)
{
    size_t length = 0;
    while (length < REPL_WIRE_TEXT_MAX && words[length] != '\0')
        length++;
    repl_write_u16(writer, (uint16_t)length);
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)words[i];
        repl_write_u8(writer, byte < 0x20 || byte == 0x7f ? '?' : byte);
    }
}

static void create_encode(struct repl_writer *w, const struct repl_log_create *create)
{
    repl_write_text(w, create->name);
    repl_write_uuid(w, &create->volume);
    repl_write_u8(w, (uint8_t)create->kind);
    repl_write_u64(w, create->lineage);
}

void repl_churn_encode(struct repl_writer *w, const struct repl_churn *churn)
{
    repl_write_u8(w, churn->compared);
    repl_write_u8(w, (uint8_t)churn->trouble);
    repl_write_u64(w, churn->trouble_before_seq);
    repl_write_u64(w, churn->changed_bytes);
    repl_write_u64(w, churn->stored_bytes);
    repl_write_u64(w, churn->objects_changed);
    repl_write_u64(w, churn->objects_removed);
}

static void commit_encode(struct repl_writer *w, const struct repl_log_commit *commit)
{
    repl_write_u64(w, commit->from_seq);
    repl_write_u64(w, commit->to_seq);
    repl_write_u32(w, commit->part);
    repl_write_u64(w, commit->lineage);
    repl_write_u64(w, commit->file_size);
    repl_write_u64(w, commit->volume_size);
    repl_write_digest(w, &commit->digest);
    repl_write_u8(w, commit->has_point);
    if (commit->has_point)
        repl_point_encode(w, &commit->point);
    if (commit->churn.known)
        repl_churn_encode(w, &commit->churn);
}

static void place_encode(struct repl_writer *w, const struct repl_record_place *place)
{
    repl_write_u64(w, place->object);
    repl_write_u64(w, place->offset);
}

void repl_log_piece_encode(struct repl_writer *w, const struct repl_log_piece *piece)
{
    repl_write_u64(w, piece->merge);
    repl_write_u8(w, piece->begins);
    repl_write_digest(w, &piece->link);
    repl_write_i64(w, piece->unchanged_until_ns);
    repl_write_i64(w, piece->committed_ns);
    place_encode(w, &piece->begin);
    place_encode(w, &piece->end);
    commit_encode(w, &piece->commit);
}

void repl_log_piece_of_commit(const struct repl_log_record *record, struct repl_log_piece *out)
{
    const struct repl_log_commit *commit = &record->commit;
    *out = (struct repl_log_piece){
        .commit = *commit, .link = commit->digest, .committed_ns = record->time_ns};
    out->begins = commit->from_seq == 0 && commit->part == 0;
    if (commit->has_point)
        out->unchanged_until_ns = commit->point.end_ns;
}

static void payload_encode(struct repl_writer *w, const struct repl_log_record *record)
{
    switch (record->type) {
    case REPL_LOG_CREATE:
        create_encode(w, &record->create);
        break;
    case REPL_LOG_COMMIT:
        commit_encode(w, &record->commit);
        break;
    case REPL_LOG_IDLE:
        repl_write_u64(w, record->idle.seq);
        repl_write_i64(w, record->idle.until_ns);
        break;
    case REPL_LOG_STATE:
        repl_write_u8(w, (uint8_t)record->state.state);
        repl_words_encode(w, record->state.cause);
        break;
    case REPL_LOG_MERGE:
        repl_write_u64(w, record->merge.from_seq);
        repl_write_u64(w, record->merge.to_seq);
        repl_write_u32(w, record->merge.records);
        break;
    case REPL_LOG_PIECE:
        repl_log_piece_encode(w, &record->piece);
        break;
    case REPL_LOG_GONE:
        repl_write_u64(w, record->gone.to_seq);
        repl_write_u32(w, record->gone.part);
        repl_write_u64(w, record->gone.merge);
        break;
    case REPL_LOG_CHECKPOINT:
        create_encode(w, &record->checkpoint.create);
        repl_write_u64(w, record->checkpoint.lineage);
        repl_write_u32(w, record->checkpoint.records);
        repl_write_i64(w, record->checkpoint.heard_ns);
        repl_write_i64(w, record->checkpoint.created_ns);
        break;
    case REPL_LOG_MARK:
        repl_write_u8(w, (uint8_t)record->mark.kind);
        repl_write_u64(w, record->mark.seq);
        repl_write_text(w, record->mark.name);
        break;
    case REPL_LOG_POOL:
        repl_write_text(w, record->pool.name);
        break;
    }
}

/* A release that knows no trees is to tell a tree's log from a damaged one by its first record, one
 * that knows no merges by the first of them, and so on. */
static uint8_t version_of(const struct repl_log_record *record)
{
    bool churn = (record->type == REPL_LOG_COMMIT && record->commit.churn.known) ||
                 (record->type == REPL_LOG_PIECE && record->piece.commit.churn.known);
    if (churn || record->type >= REPL_LOG_POOL)
        return REPL_LOG_VERSION_POOL;
    if (record->type >= REPL_LOG_MERGE)
        return REPL_LOG_VERSION_MERGE;
    bool tree = record->type == REPL_LOG_CREATE && record->create.kind == REPL_VOLUME_TREE;
    return tree ? REPL_LOG_VERSION_TREE : REPL_LOG_VERSION;
}

void repl_log_record_encode(const struct repl_log_record *record, uint8_t *out, size_t *size)
{
    struct repl_writer body = repl_writer_of(
        out + LOG_HEADER_SIZE, REPL_LOG_RECORD_SIZE_MAX - LOG_HEADER_SIZE - LOG_TAIL_SIZE);
    payload_encode(&body, record);
    ensure(!body.failed);
    *size = LOG_HEADER_SIZE + body.position + LOG_TAIL_SIZE;
    struct repl_writer w = repl_writer_of(out, LOG_HEADER_SIZE);
    repl_write_u32(&w, LOG_MAGIC);
    repl_write_u16(&w, (uint16_t)*size);
    repl_write_u8(&w, version_of(record));
    repl_write_u8(&w, (uint8_t)record->type);
    repl_write_u64(&w, record->number);
    repl_write_i64(&w, record->time_ns);
    ensure(!w.failed && w.position == LOG_HEADER_SIZE);
    struct repl_writer tail = repl_writer_of(out + *size - LOG_TAIL_SIZE, LOG_TAIL_SIZE);
    repl_write_u64(&tail, repl_xxh3(out, *size - LOG_TAIL_SIZE));
}

void repl_churn_decode(struct repl_reader *r, struct repl_churn *out)
{
    uint8_t compared = repl_read_u8(r);
    *out = (struct repl_churn){.known = true, .compared = compared == 1};
    out->trouble = repl_read_u8(r);
    out->trouble_before_seq = repl_read_u64(r);
    out->changed_bytes = repl_read_u64(r);
    out->stored_bytes = repl_read_u64(r);
    out->objects_changed = repl_read_u64(r);
    out->objects_removed = repl_read_u64(r);
    if (compared > 1 || out->trouble >= REPL_TROUBLE_COUNT ||
        (out->trouble == REPL_TROUBLE_NONE) != (out->trouble_before_seq == 0))
        r->failed = true;
}

static void commit_decode(struct repl_reader *r, bool churn_known, struct repl_log_commit *out)
{
    out->from_seq = repl_read_u64(r);
    out->to_seq = repl_read_u64(r);
    out->part = repl_read_u32(r);
    out->lineage = repl_read_u64(r);
    out->file_size = repl_read_u64(r);
    out->volume_size = repl_read_u64(r);
    repl_read_digest(r, &out->digest);
    uint8_t has_point = repl_read_u8(r);
    out->has_point = has_point == 1;
    if (out->has_point)
        repl_point_decode(r, &out->point);
    if (churn_known)
        repl_churn_decode(r, &out->churn);
    if (has_point > 1 || out->churn.trouble_before_seq >= out->to_seq ||
        out->from_seq >= out->to_seq || out->volume_size > REPL_VOLUME_SIZE_MAX ||
        out->file_size > REPL_SEGMENT_HARD_LIMIT ||
        (out->has_point && out->point.seq != out->to_seq))
        r->failed = true;
}

static void create_decode(struct repl_reader *r, struct repl_log_create *out)
{
    repl_read_text(r, out->name, REPL_VOLUME_NAME_SIZE);
    repl_read_uuid(r, &out->volume);
    out->kind = repl_read_u8(r);
    out->lineage = repl_read_u64(r);
    if (out->kind < REPL_VOLUME_BLOCK || out->kind > REPL_VOLUME_TREE || out->name[0] == '\0')
        r->failed = true;
}

static void place_decode(struct repl_reader *r, struct repl_record_place *out)
{
    out->object = repl_read_u64(r);
    out->offset = repl_read_u64(r);
}

static bool place_is_zero(const struct repl_record_place *place)
{
    return place->object == 0 && place->offset == 0;
}

bool repl_record_place_before(const struct repl_record_place *a, const struct repl_record_place *b)
{
    return a->object != b->object ? a->object < b->object : a->offset < b->offset;
}

void repl_log_piece_decode(struct repl_reader *r, bool churn_known, struct repl_log_piece *out)
{
    out->merge = repl_read_u64(r);
    uint8_t begins = repl_read_u8(r);
    out->begins = begins == 1;
    repl_read_digest(r, &out->link);
    out->unchanged_until_ns = repl_read_i64(r);
    out->committed_ns = repl_read_i64(r);
    place_decode(r, &out->begin);
    place_decode(r, &out->end);
    commit_decode(r, churn_known, &out->commit);
    if (begins > 1 || (out->begins && (out->commit.from_seq != 0 || out->commit.part != 0)))
        r->failed = true;
    bool base = !place_is_zero(&out->end);
    if (base ? out->commit.from_seq != 0 || !repl_record_place_before(&out->begin, &out->end)
             : !place_is_zero(&out->begin))
        r->failed = true;
    if (out->commit.has_point ? out->unchanged_until_ns < out->commit.point.begin_ns
                              : out->unchanged_until_ns != 0)
        r->failed = true;
}

static void merge_decode(struct repl_reader *r, struct repl_log_merge *out)
{
    out->from_seq = repl_read_u64(r);
    out->to_seq = repl_read_u64(r);
    out->records = repl_read_u32(r);
    if (out->from_seq >= out->to_seq)
        r->failed = true;
}

static void mark_decode(struct repl_reader *r, struct repl_log_mark *out)
{
    out->kind = repl_read_u8(r);
    out->seq = repl_read_u64(r);
    repl_read_text(r, out->name, REPL_MARK_NAME_SIZE);
    if (out->kind > REPL_MARK_PROVEN || (out->seq == 0) != (out->kind == REPL_MARK_REMOVED) ||
        (out->name[0] == '\0') != (out->kind == REPL_MARK_PROVEN))
        r->failed = true;
}

static void payload_decode(struct repl_reader *r, uint8_t version, struct repl_log_record *out)
{
    switch (out->type) {
    case REPL_LOG_CREATE:
        create_decode(r, &out->create);
        return;
    case REPL_LOG_COMMIT:
        commit_decode(r, version == REPL_LOG_VERSION_POOL, &out->commit);
        return;
    case REPL_LOG_IDLE:
        out->idle.seq = repl_read_u64(r);
        out->idle.until_ns = repl_read_i64(r);
        if (out->idle.seq == 0)
            r->failed = true;
        return;
    case REPL_LOG_STATE:
        out->state.state = repl_read_u8(r);
        repl_read_text(r, out->state.cause, REPL_WIRE_TEXT_MAX);
        if (out->state.state >= REPL_STATE_REPORTED_COUNT)
            r->failed = true;
        return;
    case REPL_LOG_MERGE:
        merge_decode(r, &out->merge);
        return;
    case REPL_LOG_PIECE:
        repl_log_piece_decode(r, version == REPL_LOG_VERSION_POOL, &out->piece);
        return;
    case REPL_LOG_GONE:
        out->gone.to_seq = repl_read_u64(r);
        out->gone.part = repl_read_u32(r);
        out->gone.merge = repl_read_u64(r);
        return;
    case REPL_LOG_CHECKPOINT:
        create_decode(r, &out->checkpoint.create);
        out->checkpoint.lineage = repl_read_u64(r);
        out->checkpoint.records = repl_read_u32(r);
        out->checkpoint.heard_ns = repl_read_i64(r);
        out->checkpoint.created_ns = repl_read_i64(r);
        return;
    case REPL_LOG_MARK:
        mark_decode(r, &out->mark);
        return;
    case REPL_LOG_POOL:
        repl_read_text(r, out->pool.name, REPL_VOLUME_NAME_SIZE);
        if (out->pool.name[0] == '\0')
            r->failed = true;
        return;
    }
    r->failed = true;
}

repl_result repl_log_record_decode(const uint8_t *data, size_t available,
                                   struct repl_log_record *out, size_t *size,
                                   struct repl_error *err)
{
    *out = (struct repl_log_record){0};
    struct repl_reader r = repl_reader_of(data, available);
    uint32_t magic = repl_read_u32(&r);
    *size = repl_read_u16(&r);
    uint8_t version = repl_read_u8(&r);
    out->type = repl_read_u8(&r);
    if (r.failed || magic != LOG_MAGIC)
        return repl_fail(err, REPL_E_CORRUPT, "no log record begins here");
    if (*size < LOG_HEADER_SIZE + LOG_TAIL_SIZE || *size > REPL_LOG_RECORD_SIZE_MAX ||
        *size > available)
        return repl_fail(err, REPL_E_CORRUPT, "log record of %zu bytes, %zu are there", *size,
                         available);
    struct repl_reader tail = repl_reader_of(data + *size - LOG_TAIL_SIZE, LOG_TAIL_SIZE);
    if (repl_read_u64(&tail) != repl_xxh3(data, *size - LOG_TAIL_SIZE))
        return repl_fail(err, REPL_E_CORRUPT, "log record: checksum does not match");
    bool counts = out->type == REPL_LOG_COMMIT || out->type == REPL_LOG_PIECE;
    if (version == 0 || version > REPL_LOG_VERSION_POOL ||
        (version == REPL_LOG_VERSION_TREE && out->type != REPL_LOG_CREATE) ||
        (version == REPL_LOG_VERSION_MERGE && out->type < REPL_LOG_MERGE) ||
        (version == REPL_LOG_VERSION_POOL && out->type < REPL_LOG_POOL && !counts))
        return repl_fail(err, REPL_E_VERSION,
                         "log record of type %u and version %u, which this version of repl does "
                         "not read",
                         (unsigned)out->type, version);
    r.size = *size - LOG_TAIL_SIZE;
    out->number = repl_read_u64(&r);
    out->time_ns = repl_read_i64(&r);
    payload_decode(&r, version, out);
    if (out->number == 0 || version != version_of(out))
        r.failed = true;
    return repl_reader_end(&r, err, "log record");
}
