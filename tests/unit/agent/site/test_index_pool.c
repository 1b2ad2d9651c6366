/*
 * Volumes that share chunks, in the index: who finds what, and who refers to it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/agent/site/index_fixture.h"

static struct repl_digest name_of(uint32_t number)
{
    return (struct repl_digest){
        {(uint8_t)number, (uint8_t)(number >> 8), 3, (uint8_t)(number >> 16)}};
}

/* --- records --------------------------------------------------------------------------------- */

static repl_result apply(struct fixture *f, const char *volume, struct repl_log_record record,
                         const struct repl_chunk_entry *chunk, const struct repl_digest *ref)
{
    uint64_t log_end;
    good(f, repl_index_position(f->index, volume, &log_end, &record.number, &f->err));
    record.number++;
    const struct repl_index_record added = {.record = &record,
                                            .chunks = chunk,
                                            .refs = ref,
                                            .chunk_count = chunk != NULL,
                                            .ref_count = ref != NULL};
    return repl_index_apply(f->index, volume, &added, 1, log_end + 100, &f->err);
}

static void create(struct fixture *f, const char *volume)
{
    struct repl_log_record record = {.type = REPL_LOG_CREATE};
    good(f, apply(f, volume, record, NULL, NULL));
}

static repl_result join(struct fixture *f, const char *volume, const char *pool)
{
    struct repl_log_record record = {.type = REPL_LOG_POOL};
    snprintf(record.pool.name, sizeof record.pool.name, "%s", pool);
    return apply(f, volume, record, NULL, NULL);
}

/* Segment seq, which lists a chunk in that frame and refers to another one; 0: none. */
static void commit(struct fixture *f, const char *volume, uint64_t seq, uint32_t listed,
                   uint32_t referred)
{
    struct repl_chunk_entry chunk = {.name = name_of(listed), .frame = listed};
    struct repl_digest ref = name_of(referred);
    struct repl_log_record record = {.type = REPL_LOG_COMMIT,
                                     .commit = {.from_seq = seq - 1, .to_seq = seq}};
    good(f, apply(f, volume, record, listed != 0 ? &chunk : NULL, referred != 0 ? &ref : NULL));
}

static void expect_place(struct fixture *f, const char *volume, uint32_t number, const char *where,
                         uint64_t seq)
{
    struct repl_digest name = name_of(number);
    struct repl_chunk_place place;
    bool found;
    good(f, repl_index_chunk(f->index, volume, &name, &place, &found, &f->err));
    if (found != (where != NULL))
        fail_msg("chunk %u is %sfound for %s", number, found ? "" : "not ", volume);
    if (!found)
        return;
    assert_string_equal(place.volume, where);
    assert_int_equal(place.segment.to_seq, seq);
    assert_int_equal(place.frame, number);
}

static void expect_references(struct fixture *f, const char *volume, uint32_t number,
                              uint64_t expected)
{
    struct repl_digest name = name_of(number);
    uint64_t count;
    good(f, repl_index_references(f->index, volume, &name, &count, &f->err));
    assert_int_equal(count, expected);
}

/* Whether a segment of the pool does that is not the volume's segment without. */
static bool is_referred(struct fixture *f, const char *volume, uint32_t number, uint64_t without)
{
    struct repl_digest name = name_of(number);
    struct repl_segment_id id = {.to_seq = without};
    bool referred;
    good(f, repl_index_is_referred(f->index, volume, &name, &id, 1, &referred, &f->err));
    return referred;
}

/* --- tests ----------------------------------------------------------------------------------- */

static void chunks_are_shared_within_a_pool_alone(void **state)
{
    struct fixture *f = *state;
    static const char *const volumes[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < 4; i++)
        create(f, volumes[i]);
    good(f, join(f, "a", "x"));
    good(f, join(f, "b", "x"));
    good(f, join(f, "c", "y"));
    commit(f, "a", 1, 7, 0);
    commit(f, "b", 1, 0, 7);
    expect_place(f, "a", 7, "a", 1);
    expect_place(f, "b", 7, "a", 1);
    expect_place(f, "c", 7, NULL, 0);
    expect_place(f, "d", 7, NULL, 0);
    expect_references(f, "a", 7, 1);
    expect_references(f, "b", 7, 1);
    expect_references(f, "c", 7, 0);
    /* b's segment 1 is none of a's */
    assert_true(is_referred(f, "a", 7, 1));
    assert_false(is_referred(f, "b", 7, 1));
    /* what was put last counts */
    commit(f, "b", 2, 7, 0);
    expect_place(f, "a", 7, "b", 2);
    commit(f, "c", 1, 7, 7);
    expect_place(f, "c", 7, "c", 1);
    expect_place(f, "a", 7, "b", 2);
    expect_references(f, "a", 7, 1);
}

static void what_a_volume_had_joins_with_it(void **state)
{
    struct fixture *f = *state;
    create(f, "a");
    create(f, "b");
    good(f, join(f, "b", "x"));
    for (uint32_t i = 1; i <= 300; i++)
        commit(f, "a", i, i, i);
    struct repl_segment_id id = {.to_seq = 301, .supply = 2};
    struct repl_chunk_entry supplied = {.name = name_of(400), .frame = 400};
    good(f, repl_index_add_chunks(f->index, "a", &id, &supplied, 1, &f->err));
    commit(f, "b", 1, 5, 6);
    expect_place(f, "b", 6, NULL, 0);
    expect_references(f, "b", 6, 1);
    good(f, join(f, "a", "x"));
    for (uint32_t i = 1; i <= 300; i++) {
        expect_references(f, "b", i, i == 6 ? 2 : 1);
        if (i != 5)
            expect_place(f, "b", i, "a", i);
    }
    expect_place(f, "b", 400, "a", 301);
    good(f, join(f, "a", "x")); /* as in a CHECKPOINT */
    assert_int_equal(join(f, "a", "y").code, REPL_E_INTERNAL);
    /* and the file knows it */
    repl_index_close(f->index);
    f->index = NULL;
    good(f, repl_index_open(f->path, true, &f->index, &f->err));
    expect_place(f, "b", 300, "a", 300);
    assert_true(is_referred(f, "a", 6, 6));
}

static void a_volume_that_was_dropped_has_no_places(void **state)
{
    struct fixture *f = *state;
    create(f, "a");
    create(f, "b");
    good(f, join(f, "a", "x"));
    good(f, join(f, "b", "x"));
    commit(f, "a", 1, 1, 2);
    struct repl_segment_id id = {.to_seq = 2, .supply = 1};
    struct repl_chunk_entry supplied = {.name = name_of(2), .frame = 2};
    good(f, repl_index_add_chunks(f->index, "a", &id, &supplied, 1, &f->err));
    expect_place(f, "b", 1, "a", 1);
    expect_place(f, "b", 2, "a", 2);
    good(f, repl_index_drop(f->index, "a", &f->err));
    expect_place(f, "b", 1, NULL, 0);
    expect_place(f, "b", 2, NULL, 0);
    expect_references(f, "b", 2, 0);
    /* made anew it has another number */
    create(f, "a");
    good(f, join(f, "a", "x"));
    expect_place(f, "b", 1, NULL, 0);
    commit(f, "a", 1, 1, 0);
    expect_place(f, "b", 1, "a", 1);
    struct repl_digest names[] = {name_of(1), name_of(2)};
    good(f, repl_index_forget_chunks(f->index, "b", names, 2, &f->err));
    expect_place(f, "b", 1, "a", 1);
}

/* Of what others have in the pool nothing is lost, and nothing of the volume stays. More than is
 * looked at in one transaction. */
static void a_volume_that_was_dropped_leaves_nothing(void **state)
{
    enum { CHUNKS = 60000 };
    struct fixture *f = *state;
    static struct repl_chunk_entry chunks[CHUNKS];
    static struct repl_digest names[CHUNKS];
    const struct repl_segment_id id = {.to_seq = 1};
    uint64_t before, after;
    create(f, "b");
    good(f, join(f, "b", "x"));
    for (uint32_t i = 0; i < CHUNKS; i++) {
        names[i] = name_of(i);
        chunks[i] = (struct repl_chunk_entry){.name = name_of(2 * i), .frame = 2 * i};
    }
    good(f, repl_index_add_chunks(f->index, "b", &id, chunks, CHUNKS, &f->err));
    good(f, repl_index_add_references(f->index, "b", &id, names, CHUNKS, &f->err));
    commit(f, "b", 1, 0, 0);
    good(f, repl_index_entry_count(f->index, &before, &f->err));
    create(f, "a");
    good(f, join(f, "a", "x"));
    for (uint32_t i = 0; i < CHUNKS; i++)
        chunks[i] = (struct repl_chunk_entry){.name = name_of(2 * i + 1), .frame = 2 * i + 1};
    good(f, repl_index_add_chunks(f->index, "a", &id, chunks, CHUNKS / 2, &f->err));
    good(f, repl_index_add_references(f->index, "a", &id, names, CHUNKS, &f->err));
    commit(f, "a", 1, 0, 0);
    expect_place(f, "b", 7, "a", 1);
    expect_references(f, "b", 7, 2);
    good(f, repl_index_drop(f->index, "a", &f->err));
    good(f, repl_index_entry_count(f->index, &after, &f->err));
    assert_int_equal(after, before);
    expect_place(f, "b", 7, NULL, 0);
    expect_place(f, "b", 8, "b", 1);
    expect_references(f, "b", 7, 1);
}

static void the_members_are_listed(void **state)
{
    struct fixture *f = *state;
    struct repl_index_member *members;
    size_t count;
    good(f, repl_index_members(f->index, &members, &count, &f->err));
    assert_int_equal(count, 0);
    create(f, "b");
    create(f, "a");
    create(f, "c");
    good(f, join(f, "a", "x"));
    good(f, join(f, "c", "x"));
    good(f, repl_index_members(f->index, &members, &count, &f->err));
    assert_int_equal(count, 3);
    assert_string_equal(members[0].volume, "a");
    assert_string_equal(members[2].volume, "c");
    assert_true(members[0].pool == members[2].pool && members[0].pool != members[1].pool);
    assert_string_equal(members[0].pool_name, "x");
    assert_string_equal(members[1].pool_name, "");
    free(members);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(chunks_are_shared_within_a_pool_alone),
        TEST(what_a_volume_had_joins_with_it),
        TEST(a_volume_that_was_dropped_has_no_places),
        TEST(a_volume_that_was_dropped_leaves_nothing),
        TEST(the_members_are_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
