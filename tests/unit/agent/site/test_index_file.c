/*
 * The index's file: what is in it after it was opened again, its growth, failed syncs, other
 * versions, and damage of any of its bytes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "unit/agent/site/index_records.h"

#define FLIP_STEP 7207 /* bits: a prime */

static void what_was_applied_is_there_after_reopening(void **state)
{
    struct fixture *f = *state;
    struct repl_log_record record = commit_record(12, 11, 0, true);
    apply_points(f, "data", 10);
    good(f, repl_index_sync(f->index, &f->err));
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
    good(f, apply(f, "data", &record));
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
            good(f, repl_index_set_version(f->index, 99, &f->err));
        repl_index_close(f->index);
        f->index = NULL;
        if (rubbish)
            write_file(f->path, 100000);
        assert_code(f, repl_index_open(f->path, false, &other, &f->err),
                    rubbish ? REPL_E_CORRUPT : REPL_E_VERSION);
        assert_non_null(strstr(f->err.text, "anew"));
        good(f, repl_index_open(f->path, true, &f->index, &f->err));
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
    good(f, repl_index_add_chunks(f->index, "data", &id, &chunk, 1, &f->err));
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
    good(f, repl_index_add_chunks(f->index, "data", &id, &chunk, 1, &f->err));
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
    good(f, repl_index_sync(f->index, &f->err));
    repl_index_close(f->index);
    f->index = NULL;
    size_t whole;
    uint8_t *bytes = file_read(f->path, &whole);
    for (size_t size = 1; size < whole; size += 1021) {
        struct repl_index *other = NULL;
        file_write(f->path, bytes, size);
        assert_code(f, repl_index_open(f->path, false, &other, &f->err), REPL_E_CORRUPT);
        assert_non_null(strstr(f->err.text, "anew"));
        good(f, repl_index_open(f->path, true, &f->index, &f->err));
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
    good(f, repl_index_add_chunks(f->index, "data", &id, chunks, 300, &f->err));
    good(f, apply(f, "data", &last));
    good(f, repl_index_sync(f->index, &f->err));
    repl_index_close(f->index);
    f->index = NULL;
    size_t size;
    uint8_t *bytes = file_read(f->path, &size);
    for (size_t bit = 0; bit < 8 * size; bit += FLIP_STEP) {
        uint64_t log_end, number;
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        file_write(f->path, bytes, size);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        good(f, repl_index_open(f->path, true, &f->index, &f->err));
        good(f, repl_index_position(f->index, "data", &log_end, &number, &f->err));
        anew += number == 0;
        behind += number == 400;
        harmless += number == 401;
        assert_int_equal(anew + behind + harmless, bit / FLIP_STEP + 1);
        if (number == 400)
            good(f, apply(f, "data", &last));
        if (number != 0) {
            assert_points_and_chunks(f, 400, 300);
            good(f, apply(f, "data", &next));
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
    good(f, repl_index_entry_count(f->index, &count, &f->err));
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
    good(f, repl_index_open_sized(f->path, true, 256 << 10, &f->index, &f->err));
    struct repl_log_record record = create_record();
    good(f, apply(f, "data", &record));
    for (uint64_t seq = 1; seq <= 200; seq++) {
        for (size_t i = 0; i < 64; i++)
            chunks[i] = (struct repl_chunk_entry){.name = digest_of(number++)};
        record = commit_record(seq + 1, seq, 0, true);
        good(f, apply_at(f, "data", &record, (seq + 1) * 100, chunks, 64));
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
    good(f, apply(f, "data", &record));

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_applied_is_there_after_reopening),
        TEST(another_version_or_rubbish_is_made_anew),
        TEST(a_damaged_entry_is_not_believed),
        TEST(every_flip_of_an_entry_is_refused),
        TEST(every_truncation_is_made_anew),
        TEST(a_flip_of_any_page_is_noticed_or_harmless),
        TEST(a_damaged_drop_removes_nothing),
        TEST(a_full_map_grows),
        TEST(a_failed_sync_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
