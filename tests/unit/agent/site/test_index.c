/*
 * The index on a real LMDB file: what records put in and what pages give back,
 * the map's growth, failed syncs, other versions, and dropping a volume.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "site/index/index.h"
#include "site/index/index_internal.h"
#include "unit/random.h"
#include "unit/temporary.h"

#define PATH_SIZE 512
#define FLIP_STEP 7207 /* bits: a prime */

struct fixture {
    struct temporary temporary;
    char path[PATH_SIZE];
    struct repl_index *index;
    struct repl_error err;
};

static void assert_code(const struct fixture *f, repl_result result, enum repl_code code)
{
    if (result.code != code)
        print_error("%s where %s was expected: %s\n", repl_code_name(result.code),
                    repl_code_name(code), f->err.text);
    assert_int_equal(result.code, code);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (temporary_make(&f->temporary) != 0)
        return -1;
    snprintf(f->path, sizeof f->path, "%s/index", f->temporary.path);
    assert_code(f, repl_index_open(f->path, true, &f->index, &f->err), REPL_OK);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_index_close(f->index);
    temporary_remove(&f->temporary);
    free(f);
    return 0;
}

static void reopen(struct fixture *f, bool writable)
{
    repl_index_close(f->index);
    f->index = NULL;
    assert_code(f, repl_index_open(f->path, writable, &f->index, &f->err), REPL_OK);
}

/* --- records --------------------------------------------------------------------------------- */

static struct repl_digest digest_of(uint64_t number)
{
    struct repl_digest digest = {{0}};
    struct random random = {number};
    random_fill(&random, digest.bytes, sizeof digest.bytes);
    return digest;
}

static struct repl_log_record create_record(void)
{
    struct repl_log_record record = {.type = REPL_LOG_CREATE, .number = 1};
    strcpy(record.create.name, "data");
    record.create.kind = REPL_VOLUME_BLOCK;
    return record;
}

/* Record number brings point seq, or a part of it that has none. */
static struct repl_log_record commit_record(uint64_t number, uint64_t seq, uint32_t part,
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

static struct repl_log_record idle_record(uint64_t number, uint64_t seq, int64_t until_ns)
{
    struct repl_log_record record = {.type = REPL_LOG_IDLE, .number = number};
    record.idle = (struct repl_log_idle){.seq = seq, .until_ns = until_ns};
    return record;
}

static repl_result apply_at(struct fixture *f, const char *volume,
                            const struct repl_log_record *record, uint64_t log_end,
                            const struct repl_chunk_entry *chunks, uint32_t chunk_count)
{
    const struct repl_index_record added = {
        .record = record, .chunks = chunks, .chunk_count = chunk_count};
    return repl_index_apply(f->index, volume, &added, 1, log_end, &f->err);
}

/* A log in which every record has 100 bytes. */
static repl_result apply(struct fixture *f, const char *volume,
                         const struct repl_log_record *record)
{
    return apply_at(f, volume, record, record->number * 100, NULL, 0);
}

/* CREATE and then points 1 to count. */
static void apply_points(struct fixture *f, const char *volume, uint64_t count)
{
    struct repl_log_record record = create_record();
    assert_code(f, repl_index_batch_begin(f->index, &f->err), REPL_OK);
    assert_code(f, apply(f, volume, &record), REPL_OK);
    for (uint64_t seq = 1; seq <= count; seq++) {
        record = commit_record(seq + 1, seq, 0, true);
        assert_code(f, apply(f, volume, &record), REPL_OK);
    }
    assert_code(f, repl_index_batch_end(f->index, &f->err), REPL_OK);
}

static void assert_position(struct fixture *f, const char *volume, uint64_t number)
{
    uint64_t log_end, record_number;
    assert_code(f, repl_index_position(f->index, volume, &log_end, &record_number, &f->err),
                REPL_OK);
    assert_int_equal(record_number, number);
    assert_int_equal(log_end, number * 100);
}

static uint64_t point_count(struct fixture *f, const char *volume)
{
    struct repl_points_page page;
    uint64_t after = 0, count = 0;
    do {
        assert_code(f, repl_index_points(f->index, volume, after, &page, &f->err), REPL_OK);
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

static int64_t unchanged_until(struct fixture *f, uint64_t seq)
{
    struct repl_points_page page;
    assert_code(f, repl_index_points(f->index, "data", seq - 1, &page, &f->err), REPL_OK);
    assert_true(page.count > 0 && page.entries[0].point.seq == seq);
    int64_t until = page.entries[0].unchanged_until_ns;
    repl_points_page_fini(&page);
    return until;
}

/* --- what is in it --------------------------------------------------------------------------- */

static void an_empty_index_knows_nothing(void **state)
{
    struct fixture *f = *state;
    struct repl_segments_page segments;
    struct repl_chunk_place place;
    struct repl_digest name = digest_of(1);
    bool found = true;
    assert_position(f, "data", 0);
    assert_int_equal(point_count(f, "data"), 0);
    assert_code(f, repl_index_segments(f->index, "data", 0, 0, &segments, &f->err), REPL_OK);
    assert_int_equal(segments.count, 0);
    assert_false(segments.more);
    repl_segments_page_fini(&segments);
    assert_code(f, repl_index_chunk(f->index, "data", &name, &place, &found, &f->err), REPL_OK);
    assert_false(found);
    assert_code(f, repl_index_drop(f->index, "data", &f->err), REPL_OK);
    assert_code(f, repl_index_sync(f->index, &f->err), REPL_OK);
}

static void records_become_points_and_segments(void **state)
{
    struct fixture *f = *state;
    struct repl_points_page points;
    struct repl_segments_page segments;
    struct repl_log_record create = create_record();
    struct repl_log_record open_part = commit_record(2, 1, 0, false);
    struct repl_log_record last_part = commit_record(3, 1, 1, true);
    struct repl_log_record state_record = {.type = REPL_LOG_STATE, .number = 4};
    assert_code(f, apply(f, "data", &create), REPL_OK);
    assert_code(f, apply(f, "data", &open_part), REPL_OK);
    assert_int_equal(point_count(f, "data"), 0);
    assert_code(f, apply(f, "data", &last_part), REPL_OK);
    assert_code(f, apply(f, "data", &state_record), REPL_OK);
    assert_position(f, "data", 4);

    assert_code(f, repl_index_points(f->index, "data", 0, &points, &f->err), REPL_OK);
    assert_int_equal(points.count, 1);
    assert_memory_equal(&points.entries[0].point, &last_part.commit.point,
                        sizeof points.entries[0].point);
    assert_int_equal(points.entries[0].unchanged_until_ns, 105);
    assert_int_equal(points.entries[0].volume_size, 1 << 20);
    repl_points_page_fini(&points);

    assert_code(f, repl_index_segments(f->index, "data", 0, 0, &segments, &f->err), REPL_OK);
    assert_int_equal(segments.count, 2);
    for (uint32_t i = 0; i < 2; i++) {
        const struct repl_head *head = &segments.entries[i].head;
        assert_int_equal(head->from_seq, 0);
        assert_int_equal(head->to_seq, 1);
        assert_int_equal(head->part, i);
        assert_int_equal(head->has_point, i == 1);
        assert_memory_equal(&head->digest,
                            i == 0 ? &open_part.commit.digest : &last_part.commit.digest, 32);
        assert_int_equal(segments.entries[i].file_size, 1001);
    }
    repl_segments_page_fini(&segments);
}

static void idle_extends_the_last_point_only(void **state)
{
    struct fixture *f = *state;
    apply_points(f, "data", 2);
    static const struct {
        uint64_t seq;
        int64_t until_ns, expected;
    } steps[] = {{2, 500, 500}, {2, 400, 500}, {1, 900, 500},
                 {0, 900, 500}, {3, 900, 500}, {2, 600, 600}};
    for (uint64_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct repl_log_record record = idle_record(4 + i, steps[i].seq, steps[i].until_ns);
        assert_code(f, apply(f, "data", &record), REPL_OK);
        assert_int_equal(unchanged_until(f, 2), steps[i].expected);
        assert_int_equal(unchanged_until(f, 1), 105);
        assert_position(f, "data", 4 + i);
    }
    reopen(f, true);
    assert_int_equal(unchanged_until(f, 2), 600);
}

static void no_record_is_left_out_or_applied_twice(void **state)
{
    struct fixture *f = *state;
    apply_points(f, "data", 3);
    struct repl_log_record again = commit_record(4, 3, 0, true);
    struct repl_log_record later = commit_record(6, 5, 0, true);
    struct repl_log_record next = commit_record(5, 4, 0, true);
    assert_code(f, apply(f, "data", &again), REPL_E_INTERNAL);
    assert_code(f, apply(f, "data", &later), REPL_E_INTERNAL);
    assert_code(f, apply_at(f, "data", &next, 400, NULL, 0), REPL_E_INTERNAL);
    assert_position(f, "data", 4);
    assert_int_equal(point_count(f, "data"), 3);
    assert_code(f, apply(f, "data", &next), REPL_OK);
    /* another volume is at its own beginning */
    assert_code(f, apply(f, "web", &next), REPL_E_INTERNAL);
    assert_position(f, "web", 0);
}

static void points_come_in_pages(void **state)
{
    struct fixture *f = *state;
    struct repl_points_page page;
    uint64_t count = 2 * REPL_LIST_ENTRIES_MAX;
    apply_points(f, "before", 5);
    apply_points(f, "data", count);
    apply_points(f, "behind", 5);
    assert_int_equal(point_count(f, "data"), count);
    assert_int_equal(point_count(f, "before"), 5);
    assert_int_equal(point_count(f, "behind"), 5);
    assert_code(f, repl_index_points(f->index, "data", REPL_LIST_ENTRIES_MAX, &page, &f->err),
                REPL_OK);
    assert_int_equal(page.count, REPL_LIST_ENTRIES_MAX);
    assert_int_equal(page.entries[0].point.seq, REPL_LIST_ENTRIES_MAX + 1);
    assert_false(page.more); /* exactly a page is left */
    repl_points_page_fini(&page);
    assert_code(f, repl_index_points(f->index, "data", UINT64_MAX, &page, &f->err), REPL_OK);
    assert_int_equal(page.count, 0);
    repl_points_page_fini(&page);
}

static void segments_come_in_pages_across_parts(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint64_t to_seq;
        uint32_t part;
    } cases[] = {{1, 0}, {1, 1}, {1, UINT32_MAX}, {2, 0}, {UINT64_MAX, UINT32_MAX}};
    struct repl_segments_page page;
    struct repl_log_record record = create_record();
    assert_code(f, apply(f, "data", &record), REPL_OK);
    for (uint64_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        record = commit_record(i + 2, cases[i].to_seq, cases[i].part, false);
        assert_code(f, apply(f, "data", &record), REPL_OK);
    }
    uint64_t to_seq = 0;
    uint32_t part = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_code(f, repl_index_segments(f->index, "data", to_seq, part, &page, &f->err),
                    REPL_OK);
        assert_int_equal(page.count, sizeof cases / sizeof cases[0] - i);
        assert_int_equal(page.entries[0].head.to_seq, cases[i].to_seq);
        assert_int_equal(page.entries[0].head.part, cases[i].part);
        to_seq = page.entries[0].head.to_seq;
        part = page.entries[0].head.part;
        repl_segments_page_fini(&page);
    }
    assert_code(f, repl_index_segments(f->index, "data", to_seq, part, &page, &f->err), REPL_OK);
    assert_int_equal(page.count, 0);
    repl_segments_page_fini(&page);

    apply_points(f, "long", REPL_LIST_ENTRIES_MAX + 1);
    assert_code(f, repl_index_segments(f->index, "long", 0, 0, &page, &f->err), REPL_OK);
    assert_true(page.count == REPL_LIST_ENTRIES_MAX && page.more);
    repl_segments_page_fini(&page);
    assert_code(f, repl_index_segments(f->index, "long", REPL_LIST_ENTRIES_MAX, 0, &page, &f->err),
                REPL_OK);
    assert_true(page.count == 1 && !page.more);
    repl_segments_page_fini(&page);
}

static void assert_chunk(struct fixture *f, const char *volume, uint64_t number,
                         const struct repl_chunk_place *expected)
{
    struct repl_chunk_place place;
    struct repl_digest name = digest_of(number);
    bool found;
    assert_code(f, repl_index_chunk(f->index, volume, &name, &place, &found, &f->err), REPL_OK);
    assert_int_equal(found, expected != NULL);
    if (expected == NULL)
        return;
    assert_int_equal(place.segment.to_seq, expected->segment.to_seq);
    assert_int_equal(place.segment.part, expected->segment.part);
    assert_int_equal(place.segment.supply, expected->segment.supply);
    assert_int_equal(place.frame, expected->frame);
    assert_int_equal(place.frame_offset, expected->frame_offset);
}

static void chunks_are_found_where_they_were_put_last(void **state)
{
    struct fixture *f = *state;
    struct repl_chunk_entry chunks[2] = {{.name = digest_of(1), .frame = 7, .frame_offset = 65536},
                                         {.name = digest_of(2), .frame = 8}};
    struct repl_chunk_place first = {.segment = {.to_seq = 1}, .frame = 7, .frame_offset = 65536};
    struct repl_chunk_place second = {.segment = {.to_seq = 1}, .frame = 8};
    struct repl_log_record record = create_record();
    assert_code(f, apply(f, "data", &record), REPL_OK);
    record = commit_record(2, 1, 0, true);
    assert_code(f, apply_at(f, "data", &record, 200, chunks, 2), REPL_OK);
    assert_chunk(f, "data", 1, &first);
    assert_chunk(f, "data", 2, &second);
    assert_chunk(f, "data", 3, NULL);
    assert_chunk(f, "other", 1, NULL);

    /* a supply comes before its segment's record, and may be a volume's first */
    const struct repl_segment_id id = {.to_seq = 2, .part = 4, .supply = 1};
    struct repl_chunk_place supplied = {.segment = id, .frame = 7, .frame_offset = 65536};
    assert_code(f, repl_index_add_chunks(f->index, "data", &id, chunks, 1, &f->err), REPL_OK);
    assert_chunk(f, "data", 1, &supplied);
    assert_chunk(f, "data", 2, &second);
    assert_position(f, "data", 2);
    assert_code(f, repl_index_add_chunks(f->index, "web", &id, chunks, 1, &f->err), REPL_OK);
    assert_chunk(f, "web", 1, &supplied);
    assert_position(f, "web", 0);
    record = create_record();
    assert_code(f, apply(f, "web", &record), REPL_OK);
    assert_chunk(f, "web", 1, &supplied);
}

/* Names that agree in their first 8 bytes are one; a page ends where there is no more room. */
static void prefixes_come_in_pages(void **state)
{
    struct fixture *f = *state;
    static const uint8_t firsts[][2] = {{9, 1}, {2, 1}, {2, 2}, {5, 1}, {0, 1}};
    struct repl_chunk_entry chunks[5] = {0};
    const struct repl_segment_id id = {.to_seq = 1};
    uint64_t out[3];
    uint32_t count;
    bool more;
    for (size_t i = 0; i < 5; i++) {
        chunks[i].name.bytes[7] = firsts[i][0];
        chunks[i].name.bytes[8] = firsts[i][1];
    }
    assert_code(f, repl_index_add_chunks(f->index, "data", &id, chunks, 5, &f->err), REPL_OK);
    assert_code(f, repl_index_prefixes(f->index, "data", 0, out, 3, &count, &more, &f->err),
                REPL_OK);
    assert_true(count == 3 && more && out[0] == 0 && out[1] == 2 && out[2] == 5);
    assert_code(f, repl_index_prefixes(f->index, "data", 5, out, 3, &count, &more, &f->err),
                REPL_OK);
    assert_true(count == 1 && !more && out[0] == 9);
    assert_code(f, repl_index_prefixes(f->index, "data", 2, out, 1, &count, &more, &f->err),
                REPL_OK);
    assert_true(count == 1 && more && out[0] == 5);
    assert_code(f,
                repl_index_prefixes(f->index, "data", UINT64_MAX, out, 3, &count, &more, &f->err),
                REPL_OK);
    assert_true(count == 0 && !more);
    assert_code(f, repl_index_prefixes(f->index, "web", 0, out, 3, &count, &more, &f->err),
                REPL_OK);
    assert_true(count == 0 && !more);
}

/* --- the file -------------------------------------------------------------------------------- */

static void what_was_applied_is_there_after_reopening(void **state)
{
    struct fixture *f = *state;
    struct repl_log_record record = commit_record(12, 11, 0, true);
    apply_points(f, "data", 10);
    assert_code(f, repl_index_sync(f->index, &f->err), REPL_OK);
    reopen(f, true);
    assert_position(f, "data", 11);
    assert_int_equal(point_count(f, "data"), 10);
    reopen(f, false);
    assert_int_equal(point_count(f, "data"), 10);
    assert_code(f, apply(f, "data", &record), REPL_E_REFUSED);
    assert_code(f, repl_index_drop(f->index, "data", &f->err), REPL_E_REFUSED);
    assert_code(f, repl_index_sync(f->index, &f->err), REPL_E_REFUSED);
    assert_code(f, repl_index_batch_begin(f->index, &f->err), REPL_E_REFUSED);
    reopen(f, true);
    assert_code(f, apply(f, "data", &record), REPL_OK);
    assert_position(f, "data", 12);
}

static void write_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (size_t i = 0; i < size; i++)
        assert_int_not_equal(fputc('x', file), EOF);
    assert_int_equal(fclose(file), 0);
}

static void another_version_or_rubbish_is_made_anew(void **state)
{
    struct fixture *f = *state;
    struct repl_index *other = NULL;
    char path[PATH_SIZE], lock[PATH_SIZE + 8];
    for (int rubbish = 0; rubbish < 2; rubbish++) {
        apply_points(f, "data", 3);
        if (!rubbish)
            assert_code(f, repl_index_set_version(f->index, 99, &f->err), REPL_OK);
        repl_index_close(f->index);
        f->index = NULL;
        if (rubbish)
            write_file(f->path, 100000);
        assert_code(f, repl_index_open(f->path, false, &other, &f->err),
                    rubbish ? REPL_E_CORRUPT : REPL_E_VERSION);
        assert_non_null(strstr(f->err.text, "anew"));
        assert_code(f, repl_index_open(f->path, true, &f->index, &f->err), REPL_OK);
        assert_position(f, "data", 0);
        assert_int_equal(point_count(f, "data"), 0);
    }
    snprintf(path, sizeof path, "%s/nothing", f->temporary.path);
    assert_code(f, repl_index_open(path, false, &other, &f->err), REPL_E_MISSING);
    snprintf(path, sizeof path, "%s/no/where", f->temporary.path);
    assert_code(f, repl_index_open(path, true, &other, &f->err), REPL_E_MISSING);
    assert_code(f, repl_index_open(f->temporary.path, true, &other, &f->err), REPL_E_IO);
    snprintf(lock, sizeof lock, "%s-lock", f->temporary.path);
    assert_int_equal(unlink(lock), 0);
    assert_null(other);
}

static void a_damaged_entry_is_not_believed(void **state)
{
    struct fixture *f = *state;
    struct repl_points_page points;
    struct repl_segments_page segments;
    struct repl_chunk_place place;
    uint64_t log_end, number;
    bool found;
    struct repl_digest name = digest_of(1);
    struct repl_chunk_entry chunk = {.name = name};
    const struct repl_segment_id id = {.to_seq = 1};
    apply_points(f, "data", 1);
    assert_code(f, repl_index_add_chunks(f->index, "data", &id, &chunk, 1, &f->err), REPL_OK);
    for (enum index_table table = INDEX_CHUNKS; table >= INDEX_VOLUMES; table--) {
        MDB_txn *txn;
        MDB_cursor *cursor;
        MDB_val key, value, bad = {.mv_size = 3, .mv_data = (char[]){"bad"}};
        assert_int_equal(mdb_txn_begin(f->index->env, NULL, 0, &txn), 0);
        assert_int_equal(mdb_cursor_open(txn, f->index->tables[table], &cursor), 0);
        assert_int_equal(mdb_cursor_get(cursor, &key, &value, MDB_FIRST), 0);
        assert_int_equal(mdb_cursor_put(cursor, &key, &bad, MDB_CURRENT), 0);
        mdb_cursor_close(cursor);
        assert_int_equal(mdb_txn_commit(txn), 0);
        if (table == INDEX_CHUNKS)
            assert_code(f, repl_index_chunk(f->index, "data", &name, &place, &found, &f->err),
                        REPL_E_CORRUPT);
        if (table == INDEX_SEGMENTS)
            assert_code(f, repl_index_segments(f->index, "data", 0, 0, &segments, &f->err),
                        REPL_E_CORRUPT);
        if (table == INDEX_POINTS)
            assert_code(f, repl_index_points(f->index, "data", 0, &points, &f->err),
                        REPL_E_CORRUPT);
    }
    assert_code(f, repl_index_position(f->index, "data", &log_end, &number, &f->err),
                REPL_E_CORRUPT);
    assert_int_equal(number, 0);
    assert_non_null(strstr(f->err.text, "remove the file"));
}

/* The same bytes under the key as it was, with one bit of either changed. */
static void entry_flip(struct fixture *f, enum index_table table, size_t bit)
{
    uint8_t bytes[256];
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, value;
    assert_int_equal(mdb_txn_begin(f->index->env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_cursor_open(txn, f->index->tables[table], &cursor), 0);
    assert_int_equal(mdb_cursor_get(cursor, &key, &value, MDB_FIRST), 0);
    assert_true(value.mv_size <= sizeof bytes);
    memcpy(bytes, value.mv_data, value.mv_size);
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    MDB_val changed = {.mv_size = value.mv_size, .mv_data = bytes};
    assert_int_equal(mdb_cursor_put(cursor, &key, &changed, MDB_CURRENT), 0);
    mdb_cursor_close(cursor);
    assert_int_equal(mdb_txn_commit(txn), 0);
}

static size_t entry_size(struct fixture *f, enum index_table table)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, value;
    assert_int_equal(mdb_txn_begin(f->index->env, NULL, MDB_RDONLY, &txn), 0);
    assert_int_equal(mdb_cursor_open(txn, f->index->tables[table], &cursor), 0);
    assert_int_equal(mdb_cursor_get(cursor, &key, &value, MDB_FIRST), 0);
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return value.mv_size;
}

/* What asks for the first entry of that table. */
static repl_result entry_ask(struct fixture *f, enum index_table table)
{
    struct repl_digest name = digest_of(1);
    struct repl_points_page points = {0};
    struct repl_segments_page segments = {0};
    struct repl_chunk_place place;
    uint64_t log_end, number;
    bool found;
    switch (table) {
    case INDEX_POINTS:
        return repl_index_points(f->index, "data", 0, &points, &f->err);
    case INDEX_SEGMENTS:
        return repl_index_segments(f->index, "data", 0, 0, &segments, &f->err);
    case INDEX_CHUNKS:
        return repl_index_chunk(f->index, "data", &name, &place, &found, &f->err);
    default:
        return repl_index_position(f->index, "data", &log_end, &number, &f->err);
    }
}

static void every_flip_of_an_entry_is_refused(void **state)
{
    static const enum index_table tables[] = {INDEX_VOLUMES, INDEX_POINTS, INDEX_SEGMENTS,
                                              INDEX_CHUNKS};
    struct fixture *f = *state;
    struct repl_chunk_entry chunk = {.name = digest_of(1)};
    const struct repl_segment_id id = {.to_seq = 1};
    apply_points(f, "data", 1);
    assert_code(f, repl_index_add_chunks(f->index, "data", &id, &chunk, 1, &f->err), REPL_OK);
    assert_int_equal(mdb_env_set_flags(f->index->env, MDB_NOSYNC, 1), 0); /* for speed */
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        size_t bits = 8 * entry_size(f, tables[i]);
        for (size_t bit = 0; bit < bits; bit++) {
            entry_flip(f, tables[i], bit);
            assert_code(f, entry_ask(f, tables[i]), REPL_E_CORRUPT);
            assert_non_null(strstr(f->err.text, f->path));
            assert_non_null(strstr(f->err.text, "remove the file"));
            entry_flip(f, tables[i], bit);
        }
    }
    assert_int_equal(point_count(f, "data"), 1);
}

static uint8_t *file_read(const char *path, size_t *size)
{
    struct stat status;
    FILE *file = fopen(path, "r");
    assert_true(file != NULL && fstat(fileno(file), &status) == 0);
    *size = (size_t)status.st_size;
    uint8_t *bytes = malloc(*size);
    assert_true(bytes != NULL && fread(bytes, *size, 1, file) == 1);
    fclose(file);
    return bytes;
}

/* A new file, which no process has had open. */
static void file_write(const char *path, const uint8_t *bytes, size_t size)
{
    char lock[PATH_SIZE + 8];
    snprintf(lock, sizeof lock, "%s-lock", path);
    unlink(path);
    unlink(lock);
    FILE *file = fopen(path, "w");
    assert_true(file != NULL && fwrite(bytes, size, 1, file) == 1);
    assert_int_equal(fclose(file), 0);
}

/* A file cut short on the disk, which LMDB would map all the same. */
static void every_truncation_is_made_anew(void **state)
{
    struct fixture *f = *state;
    apply_points(f, "data", 40);
    assert_code(f, repl_index_sync(f->index, &f->err), REPL_OK);
    repl_index_close(f->index);
    f->index = NULL;
    size_t whole;
    uint8_t *bytes = file_read(f->path, &whole);
    for (size_t size = 1; size < whole; size += 1021) {
        struct repl_index *other = NULL;
        file_write(f->path, bytes, size);
        assert_code(f, repl_index_open(f->path, false, &other, &f->err), REPL_E_CORRUPT);
        assert_non_null(strstr(f->err.text, "anew"));
        assert_code(f, repl_index_open(f->path, true, &f->index, &f->err), REPL_OK);
        assert_position(f, "data", 0);
        repl_index_close(f->index);
        f->index = NULL;
    }
    free(bytes);
}

static void assert_points_and_chunks(struct fixture *f, unsigned points, uint64_t chunks)
{
    const struct repl_chunk_place place = {.segment = {.to_seq = 1}};
    assert_int_equal(point_count(f, "data"), points);
    for (uint64_t i = 0; i < chunks; i++)
        assert_chunk(f, "data", i, &place);
}

/* Of LMDB's own pages too, the list of free ones included: the file is made anew, or it is one
 * transaction behind, as after a power cut, or it says and takes what it did. */
static void a_flip_of_any_page_is_noticed_or_harmless(void **state)
{
    struct fixture *f = *state;
    unsigned anew = 0, behind = 0, harmless = 0;
    const struct repl_segment_id id = {.to_seq = 1};
    const struct repl_log_record last = commit_record(401, 400, 0, true),
                                 next = commit_record(402, 401, 0, true);
    struct repl_chunk_entry chunks[300];
    for (uint64_t i = 0; i < 300; i++)
        chunks[i] = (struct repl_chunk_entry){.name = digest_of(i)};
    apply_points(f, "data", 399);
    assert_code(f, repl_index_add_chunks(f->index, "data", &id, chunks, 300, &f->err), REPL_OK);
    assert_code(f, apply(f, "data", &last), REPL_OK);
    assert_code(f, repl_index_sync(f->index, &f->err), REPL_OK);
    repl_index_close(f->index);
    f->index = NULL;
    size_t size;
    uint8_t *bytes = file_read(f->path, &size);
    for (size_t bit = 0; bit < 8 * size; bit += FLIP_STEP) {
        uint64_t log_end, number;
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        file_write(f->path, bytes, size);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_code(f, repl_index_open(f->path, true, &f->index, &f->err), REPL_OK);
        assert_code(f, repl_index_position(f->index, "data", &log_end, &number, &f->err), REPL_OK);
        anew += number == 0;
        behind += number == 400;
        harmless += number == 401;
        assert_int_equal(anew + behind + harmless, bit / FLIP_STEP + 1);
        if (number == 400)
            assert_code(f, apply(f, "data", &last), REPL_OK);
        if (number != 0) {
            assert_points_and_chunks(f, 400, 300);
            assert_code(f, apply(f, "data", &next), REPL_OK);
            assert_points_and_chunks(f, 401, 300);
        }
        repl_index_close(f->index);
        f->index = NULL;
    }
    free(bytes);
    print_message("flips: %u made anew, %u behind, %u harmless\n", anew, behind, harmless);
    assert_true(anew > 20 && harmless > 20);
}

/* It names the volume whose entries are removed: another's must not be. */
static void a_damaged_drop_removes_nothing(void **state)
{
    struct fixture *f = *state;
    MDB_txn *txn;
    uint64_t count;
    apply_points(f, "data", 3);
    MDB_val key = {.mv_size = 4, .mv_data = (uint8_t[]){0, 0, 0, 1}};
    MDB_val value = {.mv_size = 8, .mv_data = (uint8_t[8]){0}};
    assert_int_equal(mdb_txn_begin(f->index->env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_put(txn, f->index->tables[INDEX_DROPPED], &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    assert_code(f, repl_index_purge(f->index, &f->err), REPL_E_CORRUPT);
    assert_code(f, repl_index_entry_count(f->index, &count, &f->err), REPL_OK);
    assert_int_equal(count, 7);
    reopen(f, true); /* made anew: the log is read again */
    assert_position(f, "data", 0);
}

static void a_full_map_grows(void **state)
{
    struct fixture *f = *state;
    struct repl_chunk_entry chunks[64];
    uint64_t number = 0;
    repl_index_close(f->index);
    f->index = NULL;
    assert_code(f, repl_index_open_sized(f->path, true, 256 << 10, &f->index, &f->err), REPL_OK);
    struct repl_log_record record = create_record();
    assert_code(f, apply(f, "data", &record), REPL_OK);
    for (uint64_t seq = 1; seq <= 200; seq++) {
        for (size_t i = 0; i < 64; i++)
            chunks[i] = (struct repl_chunk_entry){.name = digest_of(number++)};
        record = commit_record(seq + 1, seq, 0, true);
        assert_code(f, apply_at(f, "data", &record, (seq + 1) * 100, chunks, 64), REPL_OK);
    }
    assert_int_equal(point_count(f, "data"), 200);
    for (uint64_t i = 0; i < number; i++) {
        struct repl_chunk_place expected = {.segment = {.to_seq = i / 64 + 1}};
        assert_chunk(f, "data", i, &expected);
    }
    /* a batch doubles it beforehand */
    apply_points(f, "web", 100);
    reopen(f, true);
    assert_int_equal(point_count(f, "data"), 200);
    assert_int_equal(point_count(f, "web"), 100);
}

static void a_failed_sync_ends_it(void **state)
{
    struct fixture *f = *state;
    struct repl_log_record record = commit_record(5, 4, 0, true);
    apply_points(f, "data", 3);
    /* a full disk is no failed sync */
    repl_index_break_sync(f->index, 1, ENOSPC);
    assert_code(f, apply(f, "data", &record), REPL_E_NOSPACE);
    assert_position(f, "data", 4);
    assert_code(f, apply(f, "data", &record), REPL_OK);

    repl_index_break_sync(f->index, 1, EIO);
    record = commit_record(6, 5, 0, true);
    assert_code(f, apply(f, "data", &record), REPL_E_IO);
    assert_int_equal(access(f->path, F_OK), -1);
    assert_code(f, apply(f, "data", &record), REPL_E_IO);
    assert_non_null(strstr(f->err.text, "anew"));
    assert_int_equal(point_count(f, "data"), 4);
    reopen(f, true);
    assert_position(f, "data", 0);

    apply_points(f, "data", 3);
    repl_index_break_sync(f->index, 1, EIO);
    assert_code(f, repl_index_sync(f->index, &f->err), REPL_E_IO);
    assert_code(f, repl_index_sync(f->index, &f->err), REPL_E_IO);
    reopen(f, true);
    assert_position(f, "data", 0);
}

static void a_batch_is_one_transaction(void **state)
{
    struct fixture *f = *state;
    struct repl_log_record record = create_record();
    assert_code(f, repl_index_batch_begin(f->index, &f->err), REPL_OK);
    assert_code(f, apply(f, "data", &record), REPL_OK);
    record = commit_record(2, 1, 0, true);
    assert_code(f, apply(f, "data", &record), REPL_OK);
    assert_position(f, "data", 0); /* not yet */
    assert_code(f, repl_index_batch_end(f->index, &f->err), REPL_OK);
    assert_position(f, "data", 2);

    /* a call that fails undoes it */
    assert_code(f, repl_index_batch_begin(f->index, &f->err), REPL_OK);
    record = commit_record(3, 2, 0, true);
    assert_code(f, apply(f, "data", &record), REPL_OK);
    assert_code(f, apply(f, "data", &record), REPL_E_INTERNAL);
    record = commit_record(4, 3, 0, true);
    assert_code(f, apply(f, "data", &record), REPL_E_INTERNAL);
    assert_code(f, repl_index_batch_end(f->index, &f->err), REPL_E_RETRY);
    assert_position(f, "data", 2);

    /* closing amid one is as if it had not begun */
    assert_code(f, repl_index_batch_begin(f->index, &f->err), REPL_OK);
    record = commit_record(3, 2, 0, true);
    assert_code(f, apply(f, "data", &record), REPL_OK);
    reopen(f, true);
    assert_position(f, "data", 2);
    repl_index_break_sync(f->index, 1, EIO);
    assert_code(f, repl_index_batch_begin(f->index, &f->err), REPL_OK);
    assert_code(f, repl_index_batch_end(f->index, &f->err), REPL_E_IO);
}

/* --- dropping -------------------------------------------------------------------------------- */

static uint64_t entry_count(struct fixture *f)
{
    uint64_t count;
    assert_code(f, repl_index_entry_count(f->index, &count, &f->err), REPL_OK);
    return count;
}

static void a_dropped_volume_is_computed_anew(void **state)
{
    struct fixture *f = *state;
    apply_points(f, "data", 12000); /* more than one transaction removes */
    apply_points(f, "web", 10);
    const struct repl_segment_id id = {.to_seq = 1};
    struct repl_chunk_entry chunk = {.name = digest_of(1)};
    struct repl_chunk_place place = {.segment = id};
    assert_code(f, repl_index_add_chunks(f->index, "data", &id, &chunk, 1, &f->err), REPL_OK);
    assert_code(f, repl_index_add_chunks(f->index, "web", &id, &chunk, 1, &f->err), REPL_OK);
    assert_code(f, repl_index_drop(f->index, "data", &f->err), REPL_OK);
    assert_int_equal(entry_count(f), 21);
    assert_position(f, "data", 0);
    assert_int_equal(point_count(f, "data"), 0);
    assert_chunk(f, "data", 1, NULL);
    assert_int_equal(point_count(f, "web"), 10);
    assert_chunk(f, "web", 1, &place);
    apply_points(f, "data", 7);
    assert_int_equal(point_count(f, "data"), 7);
    assert_chunk(f, "data", 1, NULL);
    assert_code(f, repl_index_drop(f->index, "data", &f->err), REPL_OK);
    assert_code(f, repl_index_drop(f->index, "web", &f->err), REPL_OK);
    assert_int_equal(entry_count(f), 0);
}

static void an_interrupted_drop_goes_on_at_the_start(void **state)
{
    struct fixture *f = *state;
    apply_points(f, "data", 12000);
    repl_index_break_sync(f->index, 3, ENOSPC); /* forgetting, one purge, and the second fails */
    assert_code(f, repl_index_drop(f->index, "data", &f->err), REPL_E_NOSPACE);
    assert_position(f, "data", 0);
    assert_true(entry_count(f) > 1000);
    /* its old entries are nobody's: the new volume of this name does not see them */
    apply_points(f, "data", 2);
    assert_int_equal(point_count(f, "data"), 2);
    reopen(f, true);
    assert_int_equal(entry_count(f), 4);
    assert_int_equal(point_count(f, "data"), 2);
}

/* --- many, and at once ----------------------------------------------------------------------- */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void many_records_go_quickly(void **state)
{
    struct fixture *f = *state;
    int64_t begin = now_ms();
    apply_points(f, "data", 100000);
    int64_t applied = now_ms();
    assert_int_equal(point_count(f, "data"), 100000);
    int64_t listed = now_ms();
    for (uint64_t i = 0; i < 100000; i++)
        assert_chunk(f, "data", i, NULL);
    print_message("100,000 records: applied in %d ms, listed in %d ms; 100,000 chunks not found "
                  "in %d ms\n",
                  (int)(applied - begin), (int)(listed - applied), (int)(now_ms() - listed));
    assert_true(applied - begin < 30000);
}

struct reader {
    struct repl_index *index;
    atomic_bool stop;
    bool failed;
    unsigned rounds;
};

static void *read_along(void *context)
{
    struct reader *reader = context;
    struct repl_error err;
    uint64_t seen = 0;
    while (!atomic_load(&reader->stop) && !reader->failed) {
        struct repl_points_page page;
        reader->failed = !repl_ok(repl_index_points(reader->index, "data", 0, &page, &err));
        if (reader->failed)
            break;
        reader->failed = page.count < seen;
        seen = page.count;
        repl_points_page_fini(&page);
        reader->rounds++;
    }
    return NULL;
}

static void readers_go_along_with_the_writer(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[2];
    struct reader readers[2];
    repl_index_close(f->index);
    f->index = NULL;
    assert_code(f, repl_index_open_sized(f->path, true, 128 << 10, &f->index, &f->err), REPL_OK);
    for (size_t i = 0; i < 2; i++) {
        readers[i] = (struct reader){.index = f->index};
        assert_int_equal(pthread_create(&threads[i], NULL, read_along, &readers[i]), 0);
    }
    struct repl_log_record record = create_record();
    assert_code(f, apply(f, "data", &record), REPL_OK);
    for (uint64_t seq = 1; seq <= 2000; seq++) {
        record = commit_record(seq + 1, seq, 0, true);
        assert_code(f, apply(f, "data", &record), REPL_OK);
    }
    for (size_t i = 0; i < 2; i++) {
        atomic_store(&readers[i].stop, true);
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_false(readers[i].failed);
        assert_true(readers[i].rounds > 0);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_empty_index_knows_nothing),
        TEST(records_become_points_and_segments),
        TEST(idle_extends_the_last_point_only),
        TEST(no_record_is_left_out_or_applied_twice),
        TEST(points_come_in_pages),
        TEST(segments_come_in_pages_across_parts),
        TEST(chunks_are_found_where_they_were_put_last),
        TEST(prefixes_come_in_pages),
        TEST(what_was_applied_is_there_after_reopening),
        TEST(another_version_or_rubbish_is_made_anew),
        TEST(a_damaged_entry_is_not_believed),
        TEST(every_flip_of_an_entry_is_refused),
        TEST(every_truncation_is_made_anew),
        TEST(a_flip_of_any_page_is_noticed_or_harmless),
        TEST(a_damaged_drop_removes_nothing),
        TEST(a_full_map_grows),
        TEST(a_failed_sync_ends_it),
        TEST(a_batch_is_one_transaction),
        TEST(a_dropped_volume_is_computed_anew),
        TEST(an_interrupted_drop_goes_on_at_the_start),
        TEST(many_records_go_quickly),
        TEST(readers_go_along_with_the_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
