/*
 * A volume's log as it grows, with the two folds over it; and random histories: fulls, increments,
 * merges of runs and of the base, marks, idle times.
 */
#ifndef TESTS_UNIT_CHAIN_WORLD_H
#define TESTS_UNIT_CHAIN_WORLD_H

#include <stdlib.h>
#include <string.h>

#include "journal/chain.h"
#include "journal/journal.h"
#include "unit/random.h"

#define WORLD_LAST_SEQ 60u /* so that a set of points is 64 bits */

struct world {
    struct repl_chain chain;
    struct repl_journal journal;
    struct repl_error err;
    uint64_t number, merges, last_seq;
    uint64_t kept;        /* points that random_step has left, a bit for each */
    uint8_t log[1 << 20]; /* what was applied, as it would lie on the disk */
    size_t log_size;
};

static inline void world_begin(struct world *w)
{
    memset(w, 0, sizeof *w);
    repl_chain_init(&w->chain);
    repl_journal_init(&w->journal);
}

static inline repl_result put(struct world *w, struct repl_log_record *record)
{
    size_t size;
    record->number = w->number + 1;
    REPL_TRY(repl_journal_apply(&w->journal, record, &w->err));
    REPL_TRY(repl_chain_apply(&w->chain, record, &w->err));
    w->number++;
    assert_true(w->log_size + REPL_LOG_RECORD_SIZE_MAX < sizeof w->log);
    repl_log_record_encode(record, w->log + w->log_size, &size);
    w->log_size += size;
    return REPL_SUCCESS;
}

static inline void must(struct world *w, repl_result result)
{
    if (!repl_ok(result))
        fail_msg("%s", w->err.text);
}

static inline struct repl_digest digest_of(uint64_t to, uint32_t part, uint64_t merge)
{
    struct repl_digest digest = {{0}};
    memcpy(digest.bytes, &to, sizeof to);
    memcpy(digest.bytes + 8, &part, sizeof part);
    memcpy(digest.bytes + 16, &merge, sizeof merge);
    return digest;
}

static inline struct repl_log_commit commit_of(uint64_t from, uint64_t to, uint32_t part,
                                               bool has_point)
{
    struct repl_log_commit commit = {.from_seq = from,
                                     .to_seq = to,
                                     .part = part,
                                     .file_size = 1000,
                                     .volume_size = 4096,
                                     .digest = digest_of(to, part, 0),
                                     .has_point = has_point};
    if (has_point)
        commit.point = (struct repl_point){.seq = to,
                                           .begin_ns = (int64_t)to * 10,
                                           .end_ns = (int64_t)to * 10 + 1,
                                           .consistency = REPL_CONSISTENCY_CRASH,
                                           .cut = REPL_CUT_WINDOW,
                                           .attempts = 1};
    if (to % 4 != 0)
        commit.churn = (struct repl_churn){.known = true, .changed_bytes = to, .stored_bytes = 1};
    return commit;
}

static inline void create(struct world *w)
{
    struct repl_log_record record = {.type = REPL_LOG_CREATE};
    strcpy(record.create.name, "data");
    record.create.kind = REPL_VOLUME_BLOCK;
    must(w, put(w, &record));
}

static inline void commit(struct world *w, uint64_t from, uint64_t to, uint32_t part,
                          bool has_point)
{
    struct repl_log_record record = {.type = REPL_LOG_COMMIT,
                                     .commit = commit_of(from, to, part, has_point)};
    must(w, put(w, &record));
    w->last_seq = to;
}

static inline struct repl_log_record merge_of(uint64_t from, uint64_t to, uint32_t records)
{
    return (struct repl_log_record){.type = REPL_LOG_MERGE, .merge = {from, to, records}};
}

static inline struct repl_log_record piece_of(struct world *w, uint64_t from, uint64_t to,
                                              uint32_t part, bool last)
{
    struct repl_log_record record = {.type = REPL_LOG_PIECE};
    struct repl_log_piece *piece = &record.piece;
    piece->commit = commit_of(from, to, part, last);
    piece->merge = w->merges;
    piece->commit.digest = digest_of(to, part, piece->merge);
    piece->link = piece->commit.digest;
    if (last) {
        size_t i = repl_chain_find_point(&w->chain, to);
        assert_int_not_equal(i, SIZE_MAX);
        piece->link = w->chain.entries[i].link;
        piece->unchanged_until_ns = w->chain.entries[i].unchanged_until_ns;
    }
    if (from == 0) {
        piece->begin = (struct repl_record_place){1, part};
        piece->end = (struct repl_record_place){1, part + 1};
    }
    return record;
}

static inline struct repl_log_record gone_of(const struct repl_log_piece *entry)
{
    return (struct repl_log_record){
        .type = REPL_LOG_GONE, .gone = {entry->commit.to_seq, entry->commit.part, entry->merge}};
}

/* A merge of (from, to] into so many pieces; a full within it makes them one. The base goes forward
 * where from is 0: gone is what goes of it. */
static inline void merge(struct world *w, uint64_t from, uint64_t to, uint32_t pieces,
                         const struct repl_log_record *gone, uint32_t gone_count)
{
    bool full = from == 0;
    for (size_t i = 0; i < w->chain.count; i++) {
        const struct repl_log_commit *c = &w->chain.entries[i].commit;
        full |= c->from_seq == 0 && c->to_seq > from && c->to_seq <= to;
    }
    w->merges++;
    struct repl_log_record record = merge_of(from, to, gone_count + pieces);
    struct repl_log_record last = piece_of(w, full ? 0 : from, to, pieces - 1, true);
    last.piece.begins = full && from > 0 && pieces == 1;
    must(w, put(w, &record));
    for (uint32_t i = 0; i < gone_count; i++) {
        record = gone[i];
        must(w, put(w, &record));
    }
    for (uint32_t part = 0; part + 1 < pieces; part++) {
        record = piece_of(w, full ? 0 : from, to, part, false);
        record.piece.begins = full && from > 0 && part == 0;
        must(w, put(w, &record));
    }
    assert_int_equal(w->chain.group_left, 1);
    assert_int_equal(w->journal.group_left, 1);
    must(w, put(w, &last));
    assert_int_equal(w->chain.group_left, 0);
    assert_int_equal(w->journal.group_left, 0);
}

/* (from, to] as pieces. */
static inline void merge_increments(struct world *w, uint64_t from, uint64_t to, uint32_t pieces)
{
    merge(w, from, to, pieces, NULL, 0);
}

/* --- written anew ---------------------------------------------------------------------------- */

static inline void checkpoint(const struct world *w, struct world *to)
{
    world_begin(to);
    to->number = w->number;
    struct repl_log_record record = {.type = REPL_LOG_CHECKPOINT, .checkpoint = {.heard_ns = 77}};
    record.checkpoint.create = w->journal.create;
    record.checkpoint.lineage = w->journal.lineage;
    record.checkpoint.records = (uint32_t)(w->chain.count + w->chain.mark_count);
    must(to, put(to, &record));
    for (size_t i = 0; i < w->chain.count; i++) {
        record = (struct repl_log_record){.type = REPL_LOG_PIECE, .piece = w->chain.entries[i]};
        must(to, put(to, &record));
    }
    for (size_t i = 0; i < w->chain.mark_count; i++) {
        record = (struct repl_log_record){.type = REPL_LOG_MARK, .mark = w->chain.marks[i]};
        must(to, put(to, &record));
    }
    assert_int_equal(to->chain.group_left, 0);
    assert_int_equal(to->journal.group_left, 0);
}

/* --- random histories ------------------------------------------------------------------------ */

static inline bool is_kept(const struct world *w, uint64_t seq)
{
    return (w->kept >> seq & 1) != 0;
}

/* The points in (from, to) are given up. */
static inline void points_drop(struct world *w, uint64_t from, uint64_t to)
{
    for (uint64_t seq = from + 1; seq < to; seq++)
        w->kept &= ~(UINT64_C(1) << seq);
}

static inline void random_commit(struct world *w, struct random *random)
{
    uint32_t parts = 1 + (uint32_t)random_below(random, 3);
    uint64_t seq = w->last_seq + 1;
    bool full = w->last_seq == 0 || random_below(random, 12) == 0;
    for (uint32_t part = 0; part < parts; part++)
        commit(w, full ? 0 : seq - 1, seq, part, part + 1 == parts);
    w->kept |= UINT64_C(1) << seq;
}

static inline void random_run(struct world *w, struct random *random)
{
    uint64_t from = 1 + random_below(random, w->last_seq);
    uint64_t to = from + random_below(random, w->last_seq - from + 1);
    if (!is_kept(w, from) || !is_kept(w, to) || to <= from || to == w->last_seq)
        return;
    merge_increments(w, from, to, 1 + (uint32_t)random_below(random, 3));
    points_drop(w, from, to);
}

/* What lies before the base of point `to` goes, and some of that base. */
static inline void random_base(struct world *w, struct random *random)
{
    uint64_t to = 2 + random_below(random, w->last_seq);
    size_t last = to < w->last_seq ? repl_chain_find_point(&w->chain, to) : SIZE_MAX;
    if (last == SIZE_MAX || w->chain.entries[last].commit.from_seq == 0)
        return;
    struct repl_log_record gone[3 * WORLD_LAST_SEQ];
    uint32_t gone_count = 0;
    size_t base = repl_chain_base_of(&w->chain, last);
    for (size_t i = 0; i < last; i++) {
        if (w->chain.entries[i].commit.from_seq == 0 && (i < base || random_below(random, 2) == 0))
            gone[gone_count++] = gone_of(&w->chain.entries[i]);
    }
    merge(w, 0, to, 1 + (uint32_t)random_below(random, 3), gone, gone_count);
    points_drop(w, 0, to);
}

/* All from a point on up to a full, or from the beginning, goes without anything in its place. */
static inline void random_needless(struct world *w, struct random *random)
{
    size_t full = 1 + (size_t)random_below(random, w->chain.count);
    while (full < w->chain.count && !w->chain.entries[full].begins)
        full++;
    if (full >= w->chain.count)
        return;
    uint64_t to = w->chain.entries[full - 1].commit.to_seq;
    uint64_t from = random_below(random, 4) == 0 ? 0 : random_below(random, to);
    if (from != 0 && !is_kept(w, from))
        return;
    struct repl_log_record gone[3 * WORLD_LAST_SEQ], record;
    uint32_t gone_count = 0;
    for (size_t i = 0; from == 0 && i < full; i++) {
        if (w->chain.entries[i].commit.from_seq == 0)
            gone[gone_count++] = gone_of(&w->chain.entries[i]);
    }
    w->merges++;
    record = merge_of(from, to, gone_count);
    must(w, put(w, &record));
    for (uint32_t i = 0; i < gone_count; i++)
        must(w, put(w, &gone[i]));
    points_drop(w, from, to + 1);
}

static inline void random_mark(struct world *w, struct random *random)
{
    struct repl_log_record record = {.type = REPL_LOG_MARK};
    struct repl_log_mark *mark = &record.mark;
    mark->kind = (enum repl_mark_kind)random_below(random, 4);
    mark->seq = mark->kind == REPL_MARK_REMOVED ? 0 : 1 + random_below(random, w->last_seq);
    if (mark->kind != REPL_MARK_PROVEN)
        snprintf(mark->name, sizeof mark->name, "name %u", (unsigned)random_below(random, 5));
    must(w, put(w, &record));
}

static inline void random_idle(struct world *w, struct random *random)
{
    struct repl_log_record record = {.type = REPL_LOG_IDLE};
    record.idle.seq = w->last_seq;
    /* later than the point's end: a checkpoint does not tell earlier ones apart */
    record.idle.until_ns = (int64_t)w->last_seq * 10 + 2 + (int64_t)random_below(random, 500);
    must(w, put(w, &record));
}

/* One change, of at most WORLD_LAST_SEQ points; now and then none. */
static inline void random_step(struct world *w, struct random *random)
{
    uint64_t choice = random_below(random, 12);
    if (w->last_seq == 0 || (choice < 4 && w->last_seq < WORLD_LAST_SEQ))
        random_commit(w, random);
    else if (choice < 6)
        random_run(w, random);
    else if (choice < 8)
        random_base(w, random);
    else if (choice < 10)
        random_needless(w, random);
    else if (choice == 10)
        random_mark(w, random);
    else
        random_idle(w, random);
}

#endif
