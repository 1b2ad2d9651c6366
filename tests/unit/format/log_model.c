#include "unit/format/log_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

static void random_text(struct random *random, char *text, size_t least, size_t limit)
{
    size_t size = least + random_below(random, limit - least + 1);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)(0x20 + random_below(random, 0x5f));
    text[size] = '\0';
}

static struct repl_point random_point(struct random *random, uint64_t seq)
{
    int64_t begin_ns = (int64_t)(random_next(random) >> 2);
    bool per_file = random_below(random, 4) == 0;
    return (struct repl_point){
        .seq = seq,
        .begin_ns = begin_ns,
        .end_ns = begin_ns + (int64_t)random_below(random, 1000),
        .consistency =
            per_file ? REPL_CONSISTENCY_PER_FILE : REPL_CONSISTENCY_CRASH + random_below(random, 3),
        .cut = per_file ? REPL_CUT_FILES : REPL_CUT_QUIET + random_below(random, 4),
        .flags = (uint16_t)random_below(random, 8),
        .attempts = (uint32_t)random_next(random) | 1,
        .changed_bytes = random_next(random)};
}

static void random_create(struct random *random, struct repl_log_create *create)
{
    random_text(random, create->name, 1, REPL_VOLUME_NAME_SIZE);
    random_fill(random, create->volume.bytes, sizeof create->volume.bytes);
    create->kind = REPL_VOLUME_BLOCK + random_below(random, 2);
    create->lineage = random_next(random);
}

static void random_churn(struct random *random, uint64_t to_seq, struct repl_churn *churn)
{
    *churn = (struct repl_churn){.known = true,
                                 .compared = random_below(random, 2),
                                 .changed_bytes = random_next(random),
                                 .stored_bytes = random_next(random),
                                 .objects_changed = random_next(random),
                                 .objects_removed = random_next(random)};
    if (to_seq < 2 || random_below(random, 2) == 0)
        return;
    churn->trouble = REPL_TROUBLE_CHANGE + random_below(random, REPL_TROUBLE_COUNT - 1);
    churn->trouble_before_seq = 1 + random_below(random, to_seq - 1);
}

static void random_commit(struct random *random, struct repl_log_commit *commit)
{
    commit->to_seq = random_next(random) | 1;
    commit->from_seq = random_below(random, commit->to_seq);
    commit->part = (uint32_t)random_next(random);
    commit->lineage = random_next(random);
    commit->file_size = random_below(random, REPL_SEGMENT_HARD_LIMIT + 1);
    commit->volume_size = random_below(random, REPL_VOLUME_SIZE_MAX + 1);
    random_fill(random, commit->digest.bytes, sizeof commit->digest.bytes);
    commit->has_point = random_below(random, 2);
    if (commit->has_point)
        commit->point = random_point(random, commit->to_seq);
    if (random_below(random, 2) != 0)
        random_churn(random, commit->to_seq, &commit->churn);
}

static void random_piece(struct random *random, struct repl_log_piece *piece)
{
    random_commit(random, &piece->commit);
    piece->merge = random_next(random);
    if (piece->commit.from_seq == 0 && piece->commit.part == 0)
        piece->begins = random_below(random, 2);
    random_fill(random, piece->link.bytes, sizeof piece->link.bytes);
    piece->committed_ns = (int64_t)random_next(random);
    if (piece->commit.has_point)
        piece->unchanged_until_ns =
            piece->commit.point.begin_ns + (int64_t)random_below(random, 1000);
    if (random_below(random, 2) == 0)
        return;
    piece->commit.from_seq = 0;
    piece->begin = (struct repl_record_place){random_below(random, 100), random_next(random)};
    piece->end = (struct repl_record_place){piece->begin.object + 1, random_next(random)};
}

struct repl_log_record random_record(struct random *random, enum repl_log_type type)
{
    struct repl_log_record record = {
        .type = type, .number = random_next(random) | 1, .time_ns = (int64_t)random_next(random)};
    switch (type) {
    case REPL_LOG_CREATE:
        random_create(random, &record.create);
        break;
    case REPL_LOG_COMMIT:
        random_commit(random, &record.commit);
        break;
    case REPL_LOG_IDLE:
        record.idle.seq = random_next(random) | 1;
        record.idle.until_ns = (int64_t)random_next(random);
        break;
    case REPL_LOG_STATE:
        record.state.state = (enum repl_state)random_below(random, REPL_STATE_REPORTED_COUNT);
        random_text(random, record.state.cause, 0, REPL_WIRE_TEXT_MAX);
        break;
    case REPL_LOG_MERGE:
        record.merge.to_seq = random_next(random) | 1;
        record.merge.from_seq = random_below(random, record.merge.to_seq);
        record.merge.records = (uint32_t)random_next(random) | 1;
        break;
    case REPL_LOG_PIECE:
        random_piece(random, &record.piece);
        break;
    case REPL_LOG_GONE:
        record.gone = (struct repl_log_gone){random_next(random), (uint32_t)random_next(random),
                                             random_next(random)};
        break;
    case REPL_LOG_CHECKPOINT:
        random_create(random, &record.checkpoint.create);
        record.checkpoint.lineage = random_next(random);
        record.checkpoint.records = (uint32_t)random_next(random);
        record.checkpoint.heard_ns = (int64_t)random_next(random);
        record.checkpoint.created_ns = (int64_t)random_next(random);
        break;
    case REPL_LOG_MARK:
        record.mark.kind = (enum repl_mark_kind)random_below(random, 4);
        if (record.mark.kind != REPL_MARK_REMOVED)
            record.mark.seq = random_next(random) | 1;
        if (record.mark.kind != REPL_MARK_PROVEN)
            random_text(random, record.mark.name, 1, REPL_MARK_NAME_SIZE);
        break;
    case REPL_LOG_POOL:
        random_text(random, record.pool.name, 1, REPL_VOLUME_NAME_SIZE);
        break;
    }
    return record;
}

static bool churn_same(const struct repl_churn *a, const struct repl_churn *b)
{
    return a->known == b->known && a->compared == b->compared &&
           a->changed_bytes == b->changed_bytes && a->stored_bytes == b->stored_bytes &&
           a->objects_changed == b->objects_changed && a->objects_removed == b->objects_removed &&
           a->trouble == b->trouble && a->trouble_before_seq == b->trouble_before_seq;
}

static bool commit_same(const struct repl_log_commit *a, const struct repl_log_commit *b)
{
    const struct repl_point *p = &a->point, *q = &b->point;
    return a->from_seq == b->from_seq && a->to_seq == b->to_seq && a->part == b->part &&
           a->lineage == b->lineage && a->file_size == b->file_size &&
           a->volume_size == b->volume_size && repl_digest_equal(&a->digest, &b->digest) &&
           a->has_point == b->has_point && p->seq == q->seq && p->begin_ns == q->begin_ns &&
           p->end_ns == q->end_ns && p->consistency == q->consistency && p->cut == q->cut &&
           p->flags == q->flags && p->attempts == q->attempts &&
           p->changed_bytes == q->changed_bytes && churn_same(&a->churn, &b->churn);
}

static bool create_same(const struct repl_log_create *a, const struct repl_log_create *b)
{
    return strcmp(a->name, b->name) == 0 && repl_uuid_equal(&a->volume, &b->volume) &&
           a->kind == b->kind && a->lineage == b->lineage;
}

static bool place_same(const struct repl_record_place *a, const struct repl_record_place *b)
{
    return a->object == b->object && a->offset == b->offset;
}

static bool piece_same(const struct repl_log_piece *a, const struct repl_log_piece *b)
{
    return commit_same(&a->commit, &b->commit) && a->merge == b->merge && a->begins == b->begins &&
           a->committed_ns == b->committed_ns && repl_digest_equal(&a->link, &b->link) &&
           a->unchanged_until_ns == b->unchanged_until_ns && place_same(&a->begin, &b->begin) &&
           place_same(&a->end, &b->end);
}

bool record_same(const struct repl_log_record *a, const struct repl_log_record *b)
{
    if (a->type != b->type || a->number != b->number || a->time_ns != b->time_ns)
        return false;
    switch (a->type) {
    case REPL_LOG_CREATE:
        return create_same(&a->create, &b->create);
    case REPL_LOG_COMMIT:
        return commit_same(&a->commit, &b->commit);
    case REPL_LOG_IDLE:
        return a->idle.seq == b->idle.seq && a->idle.until_ns == b->idle.until_ns;
    case REPL_LOG_STATE:
        return a->state.state == b->state.state && strcmp(a->state.cause, b->state.cause) == 0;
    case REPL_LOG_MERGE:
        return a->merge.from_seq == b->merge.from_seq && a->merge.to_seq == b->merge.to_seq &&
               a->merge.records == b->merge.records;
    case REPL_LOG_PIECE:
        return piece_same(&a->piece, &b->piece);
    case REPL_LOG_GONE:
        return a->gone.to_seq == b->gone.to_seq && a->gone.part == b->gone.part &&
               a->gone.merge == b->gone.merge;
    case REPL_LOG_CHECKPOINT:
        return create_same(&a->checkpoint.create, &b->checkpoint.create) &&
               a->checkpoint.lineage == b->checkpoint.lineage &&
               a->checkpoint.records == b->checkpoint.records &&
               a->checkpoint.heard_ns == b->checkpoint.heard_ns &&
               a->checkpoint.created_ns == b->checkpoint.created_ns;
    case REPL_LOG_MARK:
        return a->mark.kind == b->mark.kind && a->mark.seq == b->mark.seq &&
               strcmp(a->mark.name, b->mark.name) == 0;
    case REPL_LOG_POOL:
        return strcmp(a->pool.name, b->pool.name) == 0;
    }
    return false;
}

enum repl_code record_decode_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    struct repl_log_record record;
    struct repl_error err = {.text = ""};
    size_t used;
    memcpy(copy, data, size);
    enum repl_code code = repl_log_record_decode(copy, size, &record, &used, &err).code;
    free(copy);
    if (code != REPL_OK)
        assert_true(err.text[0] != '\0');
    return code;
}

void record_seal(uint8_t *data, size_t size)
{
    struct repl_writer tail = repl_writer_of(data + size - TAIL_SIZE, TAIL_SIZE);
    repl_write_u64(&tail, repl_xxh3(data, size - TAIL_SIZE));
}

enum repl_code record_there_and_back(const struct repl_log_record *record)
{
    uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
    size_t size;
    repl_log_record_encode(record, data, &size);
    return record_decode_copy(data, size);
}
