/*
 * What goes into an index and what must be in it then: records of one log after the other.
 */
#ifndef TESTS_UNIT_INDEX_RECORDS_H
#define TESTS_UNIT_INDEX_RECORDS_H

#include <string.h>

#include "unit/agent/site/index_fixture.h"
#include "unit/random.h"

static inline void reopen(struct fixture *f, bool writable)
{
    repl_index_close(f->index);
    f->index = NULL;
    good(f, repl_index_open(f->path, writable, &f->index, &f->err));
}

static inline struct repl_digest digest_of(uint64_t number)
{
    struct repl_digest digest = {{0}};
    struct random random = {number};
    random_fill(&random, digest.bytes, sizeof digest.bytes);
    return digest;
}

static inline struct repl_log_record create_record(void)
{
    struct repl_log_record record = {.type = REPL_LOG_CREATE, .number = 1};
    strcpy(record.create.name, "data");
    record.create.kind = REPL_VOLUME_BLOCK;
    return record;
}

/* Record number brings point seq, or a part of it that has none. */
static inline struct repl_log_record commit_record(uint64_t number, uint64_t seq, uint32_t part,
                                                   bool has_point)
{
    struct repl_log_record record = {.type = REPL_LOG_COMMIT, .number = number};
    record.commit = (struct repl_log_commit){.from_seq = seq - 1,
                                             .to_seq = seq,
                                             .part = part,
                                             .file_size = 1000 + seq,
                                             .volume_size = 1 << 20,
                                             .digest = digest_of(seq * 1000 + part),
                                             .has_point = has_point};
    if (has_point)
        record.commit.point = (struct repl_point){.seq = seq,
                                                  .begin_ns = (int64_t)seq * 100,
                                                  .end_ns = (int64_t)seq * 100 + 5,
                                                  .consistency = REPL_CONSISTENCY_CRASH,
                                                  .cut = REPL_CUT_WINDOW,
                                                  .attempts = 1,
                                                  .changed_bytes = seq * 4096};
    return record;
}

static inline repl_result apply_at(struct fixture *f, const char *volume,
                                   const struct repl_log_record *record, uint64_t log_end,
                                   const struct repl_chunk_entry *chunks, uint32_t chunk_count)
{
    const struct repl_index_record added = {
        .record = record, .chunks = chunks, .chunk_count = chunk_count};
    return repl_index_apply(f->index, volume, &added, 1, log_end, &f->err);
}

/* A log in which every record has 100 bytes. */
static inline repl_result apply(struct fixture *f, const char *volume,
                                const struct repl_log_record *record)
{
    return apply_at(f, volume, record, record->number * 100, NULL, 0);
}

/* CREATE and then points 1 to count. */
static inline void apply_points(struct fixture *f, const char *volume, uint64_t count)
{
    struct repl_log_record record = create_record();
    good(f, repl_index_batch_begin(f->index, &f->err));
    good(f, apply(f, volume, &record));
    for (uint64_t seq = 1; seq <= count; seq++) {
        record = commit_record(seq + 1, seq, 0, true);
        good(f, apply(f, volume, &record));
    }
    good(f, repl_index_batch_end(f->index, &f->err));
}

static inline void assert_position(struct fixture *f, const char *volume, uint64_t number)
{
    uint64_t log_end, record_number;
    good(f, repl_index_position(f->index, volume, &log_end, &record_number, &f->err));
    assert_int_equal(record_number, number);
    assert_int_equal(log_end, number * 100);
}

static inline uint64_t point_count(struct fixture *f, const char *volume)
{
    struct repl_points_page page;
    uint64_t after = 0, count = 0;
    do {
        good(f, repl_index_points(f->index, volume, after, &page, &f->err));
        for (uint32_t i = 0; i < page.count; i++) {
            assert_true(page.entries[i].point.seq > after);
            after = page.entries[i].point.seq;
        }
        count += page.count;
        bool more = page.more;
        assert_true(!more || page.count == REPL_LIST_ENTRIES_MAX);
        repl_points_page_fini(&page);
        if (!more)
            return count;
    } while (true);
}

static inline void assert_chunk(struct fixture *f, const char *volume, uint64_t number,
                                const struct repl_chunk_place *expected)
{
    struct repl_chunk_place place;
    struct repl_digest name = digest_of(number);
    bool found;
    good(f, repl_index_chunk(f->index, volume, &name, &place, &found, &f->err));
    assert_int_equal(found, expected != NULL);
    if (expected == NULL)
        return;
    assert_int_equal(place.segment.to_seq, expected->segment.to_seq);
    assert_int_equal(place.segment.part, expected->segment.part);
    assert_int_equal(place.segment.supply, expected->segment.supply);
    assert_int_equal(place.frame, expected->frame);
    assert_int_equal(place.frame_offset, expected->frame_offset);
}

#endif
