/*
 * The list of a volume's segments as the log says it: random histories and random merges against a
 * model that keeps what each segment stands for, and what must not be believed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "unit/journal/chain_world.h"

static void expect(const struct world *w, size_t i, uint64_t from, uint64_t to, uint32_t part,
                   uint64_t merge)
{
    assert_true(i < w->chain.count);
    const struct repl_log_piece *entry = &w->chain.entries[i];
    assert_int_equal(entry->commit.from_seq, from);
    assert_int_equal(entry->commit.to_seq, to);
    assert_int_equal(entry->commit.part, part);
    assert_int_equal(entry->merge, merge);
}

/* A full of two parts at 5, and points 6 to 12, of which (9, 10] has two parts. */
static void history(struct world *w)
{
    world_begin(w);
    create(w);
    commit(w, 0, 5, 0, false);
    commit(w, 0, 5, 1, true);
    for (uint64_t seq = 6; seq <= 12; seq++) {
        if (seq == 10)
            commit(w, 9, 10, 0, false);
        commit(w, seq - 1, seq, seq == 10, true);
    }
}

static void a_run_becomes_pieces(void **state)
{
    struct world *w = malloc(sizeof *w);
    (void)state;
    history(w);
    assert_int_equal(w->chain.count, 10);
    merge_increments(w, 6, 10, 3);
    assert_int_equal(w->chain.count, 8);
    expect(w, 0, 0, 5, 0, 0);
    expect(w, 1, 0, 5, 1, 0);
    expect(w, 2, 5, 6, 0, 0);
    for (uint32_t part = 0; part < 3; part++)
        expect(w, 3 + part, 6, 10, part, 1);
    expect(w, 6, 10, 11, 0, 0);
    assert_true(repl_digest_equal(&w->chain.entries[5].link, &(struct repl_digest){{10, [8] = 1}}));
    assert_int_equal(repl_chain_find_point(&w->chain, 10), 5);
    assert_int_equal(repl_chain_find_point(&w->chain, 8), SIZE_MAX);
    assert_int_equal(repl_chain_base_of(&w->chain, 5), 0);
    assert_int_equal(w->journal.head.to_seq, 12);
    repl_chain_fini(&w->chain);
    free(w);
}

/* The base goes to 8 by one of its two parts; then all of it, to 9. */
static void the_base_goes_forward(void **state)
{
    struct world *w = malloc(sizeof *w);
    (void)state;
    history(w);
    w->merges = 1;
    struct repl_log_record piece = piece_of(w, 0, 8, 0, true), merge = merge_of(0, 8, 2);
    struct repl_log_record gone = gone_of(&w->chain.entries[0]);
    must(w, put(w, &merge));
    must(w, put(w, &gone));
    must(w, put(w, &piece));
    assert_int_equal(w->chain.count, 7);
    expect(w, 0, 0, 5, 1, 0);
    expect(w, 1, 0, 8, 0, 1);
    expect(w, 2, 8, 9, 0, 0);
    assert_false(repl_chain_has_point(&w->chain, 0)); /* it is of point 8 now */
    assert_int_equal(repl_chain_find_point(&w->chain, 5), SIZE_MAX);
    assert_int_equal(repl_chain_find_point(&w->chain, 8), 1);
    for (size_t i = 0; i < w->chain.count; i++)
        assert_int_equal(repl_chain_base_of(&w->chain, i), 0);

    w->merges = 2;
    struct repl_log_record first = piece_of(w, 0, 9, 0, false), second = piece_of(w, 0, 9, 1, true);
    merge = merge_of(0, 9, 4);
    gone = gone_of(&w->chain.entries[0]);
    struct repl_log_record gone_too = gone_of(&w->chain.entries[1]);
    must(w, put(w, &merge));
    must(w, put(w, &second)); /* in any order */
    must(w, put(w, &gone));
    must(w, put(w, &first));
    must(w, put(w, &gone_too));
    assert_int_equal(w->chain.count, 6);
    expect(w, 0, 0, 9, 0, 2);
    expect(w, 1, 0, 9, 1, 2);
    expect(w, 2, 9, 10, 0, 0);
    repl_chain_fini(&w->chain);
    free(w);
}

/* What comes behind a full does not look before it, nor at parts that were left without an end. */
static void a_full_begins_anew(void **state)
{
    struct world *w = malloc(sizeof *w);
    (void)state;
    history(w);
    commit(w, 0, 20, 0, false);
    commit(w, 0, 21, 0, false);
    commit(w, 0, 21, 1, true);
    commit(w, 21, 22, 0, true);
    assert_int_equal(repl_chain_base_of(&w->chain, w->chain.count - 1), w->chain.count - 3);
    assert_int_equal(repl_chain_base_of(&w->chain, 9), 0);
    assert_int_equal(repl_chain_find_point(&w->chain, 20), SIZE_MAX);
    assert_int_equal(repl_chain_find_point(&w->chain, 12), 9);
    assert_int_equal(repl_chain_find_point(&w->chain, 21), w->chain.count - 2);
    /* with what was before it, which is superseded, it stays a full */
    struct repl_log_record merge = merge_of(11, 21, 2);
    w->merges = 1;
    struct repl_log_record first = piece_of(w, 0, 21, 0, false),
                           piece = piece_of(w, 0, 21, 1, true);
    must(w, put(w, &merge));
    first.piece.begins = true;
    must(w, put(w, &first));
    must(w, put(w, &piece));
    expect(w, 8, 10, 11, 0, 0);
    expect(w, 9, 0, 21, 0, 1);
    expect(w, 10, 0, 21, 1, 1);
    assert_int_equal(repl_chain_base_of(&w->chain, w->chain.count - 1), 9);
    assert_int_equal(repl_chain_find_point(&w->chain, 11), 8);
    repl_chain_fini(&w->chain);
    free(w);
}

/* What a full has made needless goes without anything in its place. */
static void what_is_needless_goes(void **state)
{
    struct world *w = malloc(sizeof *w);
    (void)state;
    history(w);
    commit(w, 0, 20, 0, false);
    commit(w, 0, 21, 0, true);
    commit(w, 21, 22, 0, true);
    struct repl_log_record record = merge_of(8, 20, 0);
    must(w, put(w, &record));
    assert_int_equal(w->chain.count, 7);
    expect(w, 4, 7, 8, 0, 0);
    expect(w, 5, 0, 21, 0, 0);
    /* and the base before it */
    record = merge_of(0, 8, 2);
    must(w, put(w, &record));
    record = gone_of(&w->chain.entries[0]);
    must(w, put(w, &record));
    record = gone_of(&w->chain.entries[1]);
    must(w, put(w, &record));
    assert_int_equal(w->chain.count, 2);
    expect(w, 0, 0, 21, 0, 0);
    repl_chain_fini(&w->chain);
    /* not where no full says all */
    history(w);
    record = merge_of(7, 9, 0);
    assert_int_equal(put(w, &record).code, REPL_E_CORRUPT);
    repl_chain_fini(&w->chain);
    free(w);
}

static void expect_unfit(const char *text, uint64_t from, uint64_t to,
                         void (*change)(struct repl_log_piece *))
{
    struct world *w = malloc(sizeof *w);
    history(w);
    w->merges = 1;
    struct repl_log_record merge = merge_of(from, to, 1);
    struct repl_log_record piece = piece_of(w, 6, 9, 0, true);
    piece.piece.commit.from_seq = from;
    if (change != NULL)
        change(&piece.piece);
    must(w, put(w, &merge));
    assert_int_equal(put(w, &piece).code, REPL_E_CORRUPT);
    if (strstr(w->err.text, text) == NULL)
        fail_msg("%s", w->err.text);
    repl_chain_fini(&w->chain);
    free(w);
}

static void link_change(struct repl_log_piece *piece)
{
    piece->link.bytes[9] ^= 1;
}

static void lineage_change(struct repl_log_piece *piece)
{
    piece->commit.lineage++;
}

static void part_change(struct repl_log_piece *piece)
{
    piece->commit.part = 1;
}

static void point_drop(struct repl_log_piece *piece)
{
    piece->commit.has_point = false;
}

static void time_change(struct repl_log_piece *piece)
{
    piece->commit.point.begin_ns--;
}

static void size_change(struct repl_log_piece *piece)
{
    piece->commit.volume_size++;
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    expect_unfit("built on another segment", 6, 9, link_change);
    expect_unfit("built on another segment", 6, 9, lineage_change);
    expect_unfit("out of its place", 6, 9, part_change);
    expect_unfit("out of its place", 6, 9, point_drop);
    expect_unfit("another point", 6, 9, time_change);
    expect_unfit("another point", 6, 9, size_change);
    expect_unfit("out of its place", 6, 8, NULL);

    struct world *w = malloc(sizeof *w);
    history(w);
    struct repl_log_record record = merge_of(8, 12, 1);
    assert_int_equal(put(w, &record).code, REPL_E_CORRUPT); /* the newest stays */
    record = piece_of(w, 6, 9, 0, true);
    assert_int_equal(put(w, &record).code, REPL_E_CORRUPT); /* of nothing */
    record = merge_of(6, 9, 2);
    must(w, put(w, &record));
    record = (struct repl_log_record){.type = REPL_LOG_IDLE, .idle = {12, 900}};
    assert_int_equal(put(w, &record).code, REPL_E_CORRUPT); /* in the middle of it */
    repl_chain_fini(&w->chain);

    /* a GONE that is not of the base; a run that no segment ends */
    history(w);
    record = merge_of(0, 8, 2);
    struct repl_log_record gone = gone_of(&w->chain.entries[2]), piece = piece_of(w, 0, 8, 0, true);
    must(w, put(w, &record));
    must(w, put(w, &gone));
    assert_int_equal(put(w, &piece).code, REPL_E_CORRUPT);
    repl_chain_fini(&w->chain);
    history(w);
    merge_increments(w, 6, 9, 1);
    record = merge_of(6, 8, 1);
    piece = piece_of(w, 6, 9, 0, true);
    piece.piece.commit.to_seq = piece.piece.commit.point.seq = 8;
    must(w, put(w, &record));
    assert_int_equal(put(w, &piece).code, REPL_E_CORRUPT);
    repl_chain_fini(&w->chain);
    free(w);
}

static void marks_come_and_go(void **state)
{
    struct world *w = malloc(sizeof *w);
    (void)state;
    history(w);
    struct repl_log_record record = {.type = REPL_LOG_MARK};
    record.mark = (struct repl_log_mark){REPL_MARK_NAME, 7, "before upgrade"};
    must(w, put(w, &record));
    record.mark = (struct repl_log_mark){REPL_MARK_PROVEN, 8, ""};
    must(w, put(w, &record));
    record.mark = (struct repl_log_mark){REPL_MARK_PROVEN, 9, ""};
    must(w, put(w, &record));
    assert_int_equal(w->chain.mark_count, 2);
    assert_int_equal(w->chain.marks[1].seq, 9);
    record.mark = (struct repl_log_mark){REPL_MARK_HELD, 6, "before upgrade"};
    must(w, put(w, &record));
    assert_int_equal(w->chain.mark_count, 2);
    record.mark = (struct repl_log_mark){REPL_MARK_REMOVED, 0, "before upgrade"};
    must(w, put(w, &record));
    assert_int_equal(w->chain.mark_count, 1);
    repl_chain_fini(&w->chain);
    free(w);
}

/* --- written anew ---------------------------------------------------------------------------- */

static void assert_same(const struct world *a, const struct world *b)
{
    assert_int_equal(a->chain.count, b->chain.count);
    for (size_t i = 0; i < a->chain.count; i++) {
        struct repl_log_record x = {.type = REPL_LOG_PIECE, .number = 1}, y = x;
        uint8_t x_bytes[REPL_LOG_RECORD_SIZE_MAX], y_bytes[REPL_LOG_RECORD_SIZE_MAX];
        size_t x_size, y_size;
        x.piece = a->chain.entries[i];
        y.piece = b->chain.entries[i];
        repl_log_record_encode(&x, x_bytes, &x_size);
        repl_log_record_encode(&y, y_bytes, &y_size);
        assert_int_equal(x_size, y_size);
        assert_memory_equal(x_bytes, y_bytes, x_size);
        assert_int_equal(repl_chain_has_point(&a->chain, i), repl_chain_has_point(&b->chain, i));
        assert_int_equal(repl_chain_base_of(&a->chain, i), repl_chain_base_of(&b->chain, i));
    }
    assert_int_equal(a->chain.mark_count, b->chain.mark_count);
    assert_int_equal(a->journal.head.to_seq, b->journal.head.to_seq);
    assert_true(repl_digest_equal(&a->journal.head.digest, &b->journal.head.digest));
    assert_int_equal(a->journal.point.seq, b->journal.point.seq);
    assert_int_equal(a->journal.volume_size, b->journal.volume_size);
    assert_int_equal(a->journal.unchanged_until_ns, b->journal.unchanged_until_ns);
}

/* Which point an entry of the list begins and ends with, for the model: a bit for each point. */
static void check_cover(const struct world *w, uint64_t kept)
{
    uint64_t at = 0, listed = 0;
    for (size_t i = 0; i < w->chain.count; i++) {
        const struct repl_log_commit *c = &w->chain.entries[i].commit;
        if (c->from_seq > 0)
            assert_int_equal(c->from_seq,
                             c->part == 0 ? at : w->chain.entries[i - 1].commit.from_seq);
        if (repl_chain_has_point(&w->chain, i)) {
            listed |= UINT64_C(1) << c->to_seq;
            at = c->to_seq;
            assert_int_equal(repl_chain_find_point(&w->chain, c->to_seq), i);
        }
    }
    assert_int_equal(listed, kept);
}

static void random_merges(void **state)
{
    struct random random = random_begin("random_merges", 1);
    struct world *w = malloc(sizeof *w), *anew = malloc(sizeof *anew);
    (void)state;
    for (unsigned round = 0; round < 300; round++) {
        world_begin(w);
        create(w);
        for (unsigned step = 0; step < 160 && w->last_seq < WORLD_LAST_SEQ; step++) {
            random_step(w, &random);
            check_cover(w, w->kept);
        }
        checkpoint(w, anew);
        assert_same(w, anew);
        check_cover(anew, w->kept);
        repl_chain_fini(&anew->chain);
        repl_chain_fini(&w->chain);
    }
    free(anew);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_becomes_pieces),
        cmocka_unit_test(the_base_goes_forward),
        cmocka_unit_test(a_full_begins_anew),
        cmocka_unit_test(what_is_needless_goes),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(marks_come_and_go),
        cmocka_unit_test(random_merges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
