/*
 * The index: what records put in and what pages give back, batches, dropping a volume, and many
 * readers at once.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "unit/agent/site/index_records.h"

static struct repl_log_record idle_record(uint64_t number, uint64_t seq, int64_t until_ns)
{
    struct repl_log_record record = {.type = REPL_LOG_IDLE, .number = number};
    record.idle = (struct repl_log_idle){.seq = seq, .until_ns = until_ns};
    return record;
}

static int64_t unchanged_until(struct fixture *f, uint64_t seq)
{
    struct repl_points_page page;
    good(f, repl_index_points(f->index, "data", seq - 1, &page, &f->err));
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
    good(f, repl_index_segments(f->index, "data", 0, 0, &segments, &f->err));
    assert_int_equal(segments.count, 0);
    assert_false(segments.more);
    repl_segments_page_fini(&segments);
    good(f, repl_index_chunk(f->index, "data", &name, &place, &found, &f->err));
    assert_false(found);
    good(f, repl_index_drop(f->index, "data", &f->err));
    good(f, repl_index_sync(f->index, &f->err));
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
    good(f, apply(f, "data", &create));
    good(f, apply(f, "data", &open_part));
    assert_int_equal(point_count(f, "data"), 0);
    good(f, apply(f, "data", &last_part));
    good(f, apply(f, "data", &state_record));
    assert_position(f, "data", 4);

    good(f, repl_index_points(f->index, "data", 0, &points, &f->err));
    assert_int_equal(points.count, 1);
    assert_memory_equal(&points.entries[0].point, &last_part.commit.point,
                        sizeof points.entries[0].point);
    assert_int_equal(points.entries[0].unchanged_until_ns, 105);
    assert_int_equal(points.entries[0].volume_size, 1 << 20);
    repl_points_page_fini(&points);

    good(f, repl_index_segments(f->index, "data", 0, 0, &segments, &f->err));
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
        good(f, apply(f, "data", &record));
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
    good(f, apply(f, "data", &next));
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
    good(f, repl_index_points(f->index, "data", REPL_LIST_ENTRIES_MAX, &page, &f->err));
    assert_int_equal(page.count, REPL_LIST_ENTRIES_MAX);
    assert_int_equal(page.entries[0].point.seq, REPL_LIST_ENTRIES_MAX + 1);
    assert_false(page.more); /* exactly a page is left */
    repl_points_page_fini(&page);
    good(f, repl_index_points(f->index, "data", UINT64_MAX, &page, &f->err));
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
    good(f, apply(f, "data", &record));
    for (uint64_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        record = commit_record(i + 2, cases[i].to_seq, cases[i].part, false);
        good(f, apply(f, "data", &record));
    }
    uint64_t to_seq = 0;
    uint32_t part = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        good(f, repl_index_segments(f->index, "data", to_seq, part, &page, &f->err));
        assert_int_equal(page.count, sizeof cases / sizeof cases[0] - i);
        assert_int_equal(page.entries[0].head.to_seq, cases[i].to_seq);
        assert_int_equal(page.entries[0].head.part, cases[i].part);
        to_seq = page.entries[0].head.to_seq;
        part = page.entries[0].head.part;
        repl_segments_page_fini(&page);
    }
    good(f, repl_index_segments(f->index, "data", to_seq, part, &page, &f->err));
    assert_int_equal(page.count, 0);
    repl_segments_page_fini(&page);

    apply_points(f, "long", REPL_LIST_ENTRIES_MAX + 1);
    good(f, repl_index_segments(f->index, "long", 0, 0, &page, &f->err));
    assert_true(page.count == REPL_LIST_ENTRIES_MAX && page.more);
    repl_segments_page_fini(&page);
    good(f, repl_index_segments(f->index, "long", REPL_LIST_ENTRIES_MAX, 0, &page, &f->err));
    assert_true(page.count == 1 && !page.more);
    repl_segments_page_fini(&page);
}

static void chunks_are_found_where_they_were_put_last(void **state)
{
    struct fixture *f = *state;
    struct repl_chunk_entry chunks[2] = {{.name = digest_of(1), .frame = 7, .frame_offset = 65536},
                                         {.name = digest_of(2), .frame = 8}};
    struct repl_chunk_place first = {.segment = {.to_seq = 1}, .frame = 7, .frame_offset = 65536};
    struct repl_chunk_place second = {.segment = {.to_seq = 1}, .frame = 8};
    struct repl_log_record record = create_record();
    good(f, apply(f, "data", &record));
    record = commit_record(2, 1, 0, true);
    good(f, apply_at(f, "data", &record, 200, chunks, 2));
    assert_chunk(f, "data", 1, &first);
    assert_chunk(f, "data", 2, &second);
    assert_chunk(f, "data", 3, NULL);
    assert_chunk(f, "other", 1, NULL);

    /* a supply comes before its segment's record, and may be a volume's first */
    const struct repl_segment_id id = {.to_seq = 2, .part = 4, .supply = 1};
    struct repl_chunk_place supplied = {.segment = id, .frame = 7, .frame_offset = 65536};
    good(f, repl_index_add_chunks(f->index, "data", &id, chunks, 1, &f->err));
    assert_chunk(f, "data", 1, &supplied);
    assert_chunk(f, "data", 2, &second);
    assert_position(f, "data", 2);
    good(f, repl_index_add_chunks(f->index, "web", &id, chunks, 1, &f->err));
    assert_chunk(f, "web", 1, &supplied);
    assert_position(f, "web", 0);
    record = create_record();
    good(f, apply(f, "web", &record));
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
    good(f, repl_index_add_chunks(f->index, "data", &id, chunks, 5, &f->err));
    good(f, repl_index_prefixes(f->index, "data", 0, out, 3, &count, &more, &f->err));
    assert_true(count == 3 && more && out[0] == 0 && out[1] == 2 && out[2] == 5);
    good(f, repl_index_prefixes(f->index, "data", 5, out, 3, &count, &more, &f->err));
    assert_true(count == 1 && !more && out[0] == 9);
    good(f, repl_index_prefixes(f->index, "data", 2, out, 1, &count, &more, &f->err));
    assert_true(count == 1 && more && out[0] == 5);
    good(f, repl_index_prefixes(f->index, "data", UINT64_MAX, out, 3, &count, &more, &f->err));
    assert_true(count == 0 && !more);
    good(f, repl_index_prefixes(f->index, "web", 0, out, 3, &count, &more, &f->err));
    assert_true(count == 0 && !more);
}

static void a_batch_is_one_transaction(void **state)
{
    struct fixture *f = *state;
    struct repl_log_record record = create_record();
    good(f, repl_index_batch_begin(f->index, &f->err));
    good(f, apply(f, "data", &record));
    record = commit_record(2, 1, 0, true);
    good(f, apply(f, "data", &record));
    assert_position(f, "data", 0); /* not yet */
    good(f, repl_index_batch_end(f->index, &f->err));
    assert_position(f, "data", 2);

    /* a call that fails undoes it */
    good(f, repl_index_batch_begin(f->index, &f->err));
    record = commit_record(3, 2, 0, true);
    good(f, apply(f, "data", &record));
    assert_code(f, apply(f, "data", &record), REPL_E_INTERNAL);
    record = commit_record(4, 3, 0, true);
    assert_code(f, apply(f, "data", &record), REPL_E_INTERNAL);
    assert_code(f, repl_index_batch_end(f->index, &f->err), REPL_E_RETRY);
    assert_position(f, "data", 2);

    /* closing amid one is as if it had not begun */
    good(f, repl_index_batch_begin(f->index, &f->err));
    record = commit_record(3, 2, 0, true);
    good(f, apply(f, "data", &record));
    reopen(f, true);
    assert_position(f, "data", 2);
    repl_index_break_sync(f->index, 1, EIO);
    good(f, repl_index_batch_begin(f->index, &f->err));
    assert_code(f, repl_index_batch_end(f->index, &f->err), REPL_E_IO);
}

/* --- dropping -------------------------------------------------------------------------------- */

static void a_dropped_volume_is_computed_anew(void **state)
{
    struct fixture *f = *state;
    apply_points(f, "data", 12000); /* more than one transaction removes */
    apply_points(f, "web", 10);
    const struct repl_segment_id id = {.to_seq = 1};
    struct repl_chunk_entry chunk = {.name = digest_of(1)};
    struct repl_chunk_place place = {.segment = id};
    good(f, repl_index_add_chunks(f->index, "data", &id, &chunk, 1, &f->err));
    good(f, repl_index_add_chunks(f->index, "web", &id, &chunk, 1, &f->err));
    good(f, repl_index_drop(f->index, "data", &f->err));
    assert_int_equal(entry_count(f), 21);
    assert_position(f, "data", 0);
    assert_int_equal(point_count(f, "data"), 0);
    assert_chunk(f, "data", 1, NULL);
    assert_int_equal(point_count(f, "web"), 10);
    assert_chunk(f, "web", 1, &place);
    apply_points(f, "data", 7);
    assert_int_equal(point_count(f, "data"), 7);
    assert_chunk(f, "data", 1, NULL);
    good(f, repl_index_drop(f->index, "data", &f->err));
    good(f, repl_index_drop(f->index, "web", &f->err));
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
    good(f, repl_index_open_sized(f->path, true, 128 << 10, &f->index, &f->err));
    for (size_t i = 0; i < 2; i++) {
        readers[i] = (struct reader){.index = f->index};
        assert_int_equal(pthread_create(&threads[i], NULL, read_along, &readers[i]), 0);
    }
    struct repl_log_record record = create_record();
    good(f, apply(f, "data", &record));
    for (uint64_t seq = 1; seq <= 2000; seq++) {
        record = commit_record(seq + 1, seq, 0, true);
        good(f, apply(f, "data", &record));
    }
    for (size_t i = 0; i < 2; i++) {
        atomic_store(&readers[i].stop, true);
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_false(readers[i].failed);
        assert_true(readers[i].rounds > 0);
    }
}

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
        TEST(a_batch_is_one_transaction),
        TEST(a_dropped_volume_is_computed_anew),
        TEST(an_interrupted_drop_goes_on_at_the_start),
        TEST(many_records_go_quickly),
        TEST(readers_go_along_with_the_writer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
