/*
 * What lies behind a record that does not decode: each record of a log is damaged in turn, and only
 * what was appended later shows that it was once whole.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "journal/log_tail.h"
#include "unit/journal/chain_world.h"

/* Where each record of the log begins. */
struct places {
    size_t begin[64];
    size_t count;
};

static void places_find(const struct world *w, struct places *out)
{
    struct repl_log_record record;
    out->count = 0;
    for (size_t at = 0, size; at < w->log_size; at += size) {
        assert_true(
            repl_ok(repl_log_record_decode(w->log + at, w->log_size - at, &record, &size, NULL)));
        out->begin[out->count++] = at;
    }
}

/* With record i damaged: what is before it is folded, as a loader does. */
static bool goes_on(struct world *w, const struct places *places, size_t i, size_t size)
{
    struct repl_journal journal;
    struct repl_log_record record;
    size_t record_size;
    repl_journal_init(&journal);
    for (size_t k = 0; k < i; k++) {
        must(w, repl_log_record_decode(w->log + places->begin[k], w->log_size - places->begin[k],
                                       &record, &record_size, &w->err));
        must(w, repl_journal_apply(&journal, &record, &w->err));
    }
    w->log[places->begin[i] + 30] ^= 1;
    bool result = repl_log_goes_on(&journal, w->log, size, places->begin[i]);
    w->log[places->begin[i] + 30] ^= 1;
    return result;
}

/* CREATE, points 1 to 4: records 0 to 4; a merge of (1, 3] in three: 5 to 8. */
static void merged(struct world *w)
{
    world_begin(w);
    create(w);
    for (uint64_t seq = 1; seq <= 4; seq++)
        commit(w, seq - 1, seq, 0, true);
    merge_increments(w, 1, 3, 3);
}

static void single_records(void **state)
{
    struct world *w = malloc(sizeof *w);
    struct places places;
    (void)state;
    merged(w);
    places_find(w, &places);
    assert_int_equal(places.count, 9);
    for (size_t i = 0; i < 4; i++) /* more was committed behind each */
        assert_true(goes_on(w, &places, i, w->log_size));
    assert_true(goes_on(w, &places, 3, places.begin[5]));
    assert_false(goes_on(w, &places, 4, places.begin[5])); /* the last one is torn */
    assert_true(goes_on(w, &places, 4, w->log_size));      /* and not if a MERGE follows */
    repl_chain_fini(&w->chain);
    free(w);
}

static void a_group(void **state)
{
    struct world *w = malloc(sizeof *w);
    struct places places;
    (void)state;
    merged(w);
    places_find(w, &places);
    for (size_t i = 5; i < 9; i++)
        assert_false(goes_on(w, &places, i, w->log_size));
    /* what comes behind it was appended later: a commit, or another merge */
    commit(w, 4, 5, 0, true);
    places_find(w, &places);
    for (size_t i = 5; i < 9; i++)
        assert_true(goes_on(w, &places, i, w->log_size));
    assert_false(goes_on(w, &places, 9, w->log_size));
    repl_chain_fini(&w->chain);
    merged(w);
    merge_increments(w, 1, 3, 2);
    places_find(w, &places);
    for (size_t i = 5; i < 9; i++)
        assert_true(goes_on(w, &places, i, w->log_size));
    for (size_t i = 9; i < 12; i++)
        assert_false(goes_on(w, &places, i, w->log_size));
    repl_chain_fini(&w->chain);
    free(w);
}

/* A log that is written anew is put in place whole. */
static void a_checkpoint(void **state)
{
    struct world *w = malloc(sizeof *w), *anew = malloc(sizeof *anew);
    struct places places;
    (void)state;
    merged(w);
    checkpoint(w, anew);
    places_find(anew, &places);
    assert_int_equal(places.count, 6);
    for (size_t i = 0; i < 5; i++)
        assert_true(goes_on(anew, &places, i, anew->log_size));
    repl_chain_fini(&w->chain);
    repl_chain_fini(&anew->chain);
    free(anew);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_records),
        cmocka_unit_test(a_group),
        cmocka_unit_test(a_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
