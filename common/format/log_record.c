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
    };
    return (unsigned)state < REPL_STATE_COUNT ? names[state] : "unknown";
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

static void payload_encode(struct repl_writer *w, const struct repl_log_record *record)
{
    switch (record->type) {
    case REPL_LOG_CREATE:
        repl_write_text(w, record->create.name);
        repl_write_uuid(w, &record->create.volume);
        repl_write_u8(w, (uint8_t)record->create.kind);
        repl_write_u64(w, record->create.lineage);
        break;
    case REPL_LOG_COMMIT:
        repl_write_u64(w, record->commit.from_seq);
        repl_write_u64(w, record->commit.to_seq);
        repl_write_u32(w, record->commit.part);
        repl_write_u64(w, record->commit.lineage);
        repl_write_u64(w, record->commit.file_size);
        repl_write_u64(w, record->commit.volume_size);
        repl_write_digest(w, &record->commit.digest);
        repl_write_u8(w, record->commit.has_point);
        if (record->commit.has_point)
            repl_point_encode(w, &record->commit.point);
        break;
    case REPL_LOG_IDLE:
        repl_write_u64(w, record->idle.seq);
        repl_write_i64(w, record->idle.until_ns);
        break;
    case REPL_LOG_STATE:
        repl_write_u8(w, (uint8_t)record->state.state);
        repl_words_encode(w, record->state.cause);
        break;
    }
}

/* A release that knows no trees is to tell a tree's log from a damaged one by its first record. */
static uint8_t version_of(const struct repl_log_record *record)
{
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

static void commit_decode(struct repl_reader *r, struct repl_log_commit *out)
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
    if (has_point > 1 || out->from_seq >= out->to_seq || out->volume_size > REPL_VOLUME_SIZE_MAX ||
        out->file_size > REPL_SEGMENT_HARD_LIMIT ||
        (out->has_point && out->point.seq != out->to_seq))
        r->failed = true;
}

static void payload_decode(struct repl_reader *r, struct repl_log_record *out)
{
    switch (out->type) {
    case REPL_LOG_CREATE:
        repl_read_text(r, out->create.name, REPL_VOLUME_NAME_SIZE);
        repl_read_uuid(r, &out->create.volume);
        out->create.kind = repl_read_u8(r);
        out->create.lineage = repl_read_u64(r);
        if (out->create.kind < REPL_VOLUME_BLOCK || out->create.kind > REPL_VOLUME_TREE ||
            out->create.name[0] == '\0')
            r->failed = true;
        return;
    case REPL_LOG_COMMIT:
        commit_decode(r, &out->commit);
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
        if (out->state.state >= REPL_STATE_COUNT)
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
    if (version != REPL_LOG_VERSION &&
        (version != REPL_LOG_VERSION_TREE || out->type != REPL_LOG_CREATE))
        return repl_fail(err, REPL_E_VERSION,
                         "log record of version %u, and this version of repl reads %u", version,
                         REPL_LOG_VERSION);
    r.size = *size - LOG_TAIL_SIZE;
    out->number = repl_read_u64(&r);
    out->time_ns = repl_read_i64(&r);
    payload_decode(&r, out);
    if (out->number == 0 || version != version_of(out))
        r.failed = true;
    return repl_reader_end(&r, err, "log record");
}
