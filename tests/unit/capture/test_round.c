#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "capture/round.h"
#include "unit/expect_abort.h"
#include "unit/random.h"

#define PAGES 2000u

/* A round over a volume of which nothing is known, and batches whose pages nobody reads. */
struct rig {
    struct repl_round round;
    struct repl_digest_table table;
    struct repl_page_digest digests[2 * PAGES];
    struct repl_batch batch;
};

static struct rig *rig_new(void)
{
    static struct rig rig;
    memset(&rig, 0, sizeof rig);
    for (uint64_t i = 0; i < PAGES; i++)
        memset(&rig.digests[i], (int)(i % 251), sizeof rig.digests[i]);
    assert_true(repl_ok(repl_round_init(&rig.round, PAGES, NULL)));
    assert_true(repl_ok(repl_digest_table_init(&rig.table, rig.digests, PAGES, NULL)));
    return &rig;
}

static void rig_free(struct rig *rig)
{
    repl_round_fini(&rig->round);
    repl_digest_table_fini(&rig->table);
}

static void dirty(struct rig *rig, uint64_t page, uint64_t count)
{
    repl_bitmap_set(&rig->round.dirty, page, count);
}

static bool fill(struct rig *rig)
{
    return repl_round_fill(&rig->round, &rig->table, &rig->batch);
}

static void assert_run(const struct rig *rig, uint32_t index, uint64_t page, uint32_t count)
{
    assert_true(index < rig->batch.run_count);
    assert_true(rig->batch.runs[index].page == page);
    assert_int_equal(rig->batch.runs[index].count, count);
}

/* Read and handed in. */
static void back(struct rig *rig, bool taken)
{
    repl_round_batch_read(&rig->round, &rig->batch);
    repl_round_batch_back(&rig->round, &rig->batch, taken);
}

static void runs_are_filled_in_order(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 900, 3);
    dirty(rig, 5, 1);
    dirty(rig, 40, 20);
    repl_round_begin(&rig->round, false);
    assert_true(rig->round.page_count == 24);
    assert_true(fill(rig));
    assert_int_equal(rig->batch.run_count, 3);
    assert_run(rig, 0, 5, 1);
    assert_run(rig, 1, 40, 20);
    assert_run(rig, 2, 900, 3);
    assert_int_equal(rig->batch.page_count, 24);
    assert_true(rig->round.dirty.set_count == 0);
    assert_true(rig->round.reads_out == 1 && rig->round.batches_out == 1);
    assert_false(fill(rig));
    assert_true(rig->round.reads_out == 1 && rig->round.batches_out == 1);
    rig_free(rig);
}

static void a_batch_is_full_at_its_size(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    for (uint64_t i = 0; i < PAGES; i += 2)
        dirty(rig, i, 1);
    repl_round_begin(&rig->round, false);
    for (uint64_t i = 0; i < PAGES / 2 / REPL_BATCH_PAGES; i++) {
        assert_true(fill(rig));
        assert_int_equal(rig->batch.page_count, REPL_BATCH_PAGES);
        assert_run(rig, 0, i * 2 * REPL_BATCH_PAGES, 1);
    }
    assert_true(fill(rig));
    assert_int_equal(rig->batch.page_count, PAGES / 2 % REPL_BATCH_PAGES);
    assert_false(fill(rig));
    rig_free(rig);
}

static void a_run_that_just_fits_is_not_cut(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 7, REPL_BATCH_PAGES); /* ends within a chunk */
    repl_round_begin(&rig->round, false);
    assert_true(fill(rig));
    assert_run(rig, 0, 7, REPL_BATCH_PAGES);
    assert_false(fill(rig));
    rig_free(rig);
}

static void a_run_is_cut_where_a_chunk_ends(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 5, 1000);
    repl_round_begin(&rig->round, false);
    uint64_t next = 5;
    while (next < 1005) {
        assert_true(fill(rig));
        assert_int_equal(rig->batch.run_count, 1);
        assert_true(rig->batch.runs[0].page == next);
        next += rig->batch.runs[0].count;
        assert_true(next == 1005 || next % REPL_CHUNK_PAGES == 0);
        assert_true(next == 1005 || rig->batch.page_count > REPL_BATCH_PAGES - REPL_CHUNK_PAGES);
    }
    assert_true(next == 1005);
    rig_free(rig);
}

/* Behind other runs too; and what is left of a batch that holds no chunk's end is used. */
static void a_later_run_is_cut_where_a_chunk_ends(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 1, 10);
    dirty(rig, 32, 300);
    repl_round_begin(&rig->round, false);
    assert_true(fill(rig));
    assert_run(rig, 0, 1, 10);
    assert_run(rig, 1, 32, 240);
    assert_true(fill(rig));
    assert_run(rig, 0, 272, 60);
    rig_free(rig);

    rig = rig_new();
    dirty(rig, 0, REPL_BATCH_PAGES - 4);
    dirty(rig, 512, 20);
    repl_round_begin(&rig->round, false);
    assert_true(fill(rig));
    assert_run(rig, 1, 512, 4);
    assert_true(fill(rig));
    assert_run(rig, 0, 516, 16);
    rig_free(rig);
}

static void what_gets_dirty_behind_is_read_last(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 100, 10);
    repl_round_begin(&rig->round, false);
    assert_true(fill(rig));
    dirty(rig, 50, 1);
    dirty(rig, 105, 1);
    dirty(rig, 110, 2);
    assert_true(fill(rig));
    assert_int_equal(rig->batch.run_count, 1); /* in order within a batch */
    assert_run(rig, 0, 110, 2);
    assert_true(fill(rig));
    assert_run(rig, 0, 50, 1);
    assert_run(rig, 1, 105, 1);
    assert_false(fill(rig));
    rig_free(rig);
}

static void a_round_begins_at_the_beginning(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 100, 10);
    repl_round_begin(&rig->round, false);
    assert_true(fill(rig));
    back(rig, true);
    dirty(rig, 3, 1);
    dirty(rig, 500, 1);
    repl_round_begin(&rig->round, true);
    assert_true(fill(rig));
    assert_run(rig, 0, 3, 1);
    assert_run(rig, 1, 500, 1);
    rig_free(rig);
}

static void a_batch_knows_what_the_site_holds(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    struct repl_page_digest sent = {{9, 9}};
    repl_digest_table_sent(&rig->table, 12, &sent, 1);
    dirty(rig, 10, 4);
    dirty(rig, 300, 2);
    repl_round_begin(&rig->round, false);
    assert_true(fill(rig));
    static const uint64_t pages[] = {10, 11, 12, 13, 300, 301};
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        const struct repl_page_digest *expected = pages[i] == 12 ? &sent : &rig->digests[pages[i]];
        assert_memory_equal(&rig->batch.held[i], expected, sizeof *expected);
    }
    rig_free(rig);
}

static void what_was_not_taken_is_dirty_again(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 10, 4);
    dirty(rig, 300, 2);
    repl_round_begin(&rig->round, false);
    assert_true(fill(rig));
    back(rig, true);
    assert_true(rig->round.dirty.set_count == 0 && rig->round.batches_out == 0);
    dirty(rig, 10, 4);
    dirty(rig, 300, 2);
    assert_true(fill(rig));
    dirty(rig, 11, 1); /* given up, or written, meanwhile */
    back(rig, false);
    assert_true(rig->round.dirty.set_count == 6 && rig->round.batches_out == 0);
    assert_true(repl_bitmap_test(&rig->round.dirty, 13) &&
                repl_bitmap_test(&rig->round.dirty, 301));
    assert_true(fill(rig));
    dirty(rig, 11, 1);
    back(rig, true); /* which says nothing of what came later */
    assert_true(rig->round.dirty.set_count == 1 && repl_bitmap_test(&rig->round.dirty, 11));
    rig_free(rig);
}

static void a_streaming_batch_is_reduced_at_once(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 0, 1);
    repl_round_begin(&rig->round, false);
    assert_true(fill(rig));
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_REDUCE);
    rig->round.torn = true; /* it goes ahead all the same */
    rig->round.phase = REPL_ROUND_DRAINING;
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_REDUCE);
    rig->round.is_void = true;
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_DISCARD);
    rig_free(rig);
}

static void a_parked_batch_waits_for_the_round_to_close(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 0, 1);
    repl_round_begin(&rig->round, true);
    assert_true(fill(rig));
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_WAIT);
    rig->round.phase = REPL_ROUND_CLOSING;
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_WAIT);
    static const enum repl_round_phase later[] = {REPL_ROUND_DRAINING, REPL_ROUND_PROVING};
    for (unsigned i = 0; i < 2; i++) {
        rig->round.phase = later[i];
        assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_REDUCE);
        rig->round.torn = true;
        assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_DISCARD);
        rig->round.torn = false;
    }
    rig->round.phase = REPL_ROUND_READING;
    rig->round.is_void = true;
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_DISCARD);
    rig_free(rig);
}

static void a_new_round_is_neither_torn_nor_void(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    rig->round.torn = rig->round.is_void = true;
    dirty(rig, 0, 1);
    repl_round_begin(&rig->round, true);
    assert_int_equal(rig->round.phase, REPL_ROUND_READING);
    assert_true(rig->round.parked && !rig->round.torn && !rig->round.is_void);
    rig_free(rig);
}

static void new_pages_are_dirty(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 4, 1);
    assert_true(repl_ok(repl_round_grow(&rig->round, 2 * PAGES, NULL)));
    assert_true(rig->round.dirty.set_count == PAGES + 1);
    assert_true(repl_bitmap_test(&rig->round.dirty, PAGES) &&
                repl_bitmap_test(&rig->round.dirty, 2 * PAGES - 1) &&
                !repl_bitmap_test(&rig->round.dirty, PAGES - 1));
    repl_round_set_all(&rig->round);
    assert_true(rig->round.dirty.set_count == 2 * PAGES);
    rig_free(rig);
}

/* Whatever is dirty: each page is out exactly once, in order within its batch. */
static void every_dirty_page_comes_exactly_once(void **state)
{
    (void)state;
    struct random random = random_begin("round", 7);
    for (unsigned turn = 0; turn < 200; turn++) {
        struct rig *rig = rig_new();
        static uint8_t expected[PAGES];
        memset(expected, 0, sizeof expected);
        for (unsigned i = 0; i < 1 + turn % 40; i++) {
            uint64_t first = random_below(&random, PAGES);
            uint64_t count = 1 + random_below(&random, i % 3 == 0 ? 600 : 20);
            count = first + count > PAGES ? PAGES - first : count;
            dirty(rig, first, count);
            memset(expected + first, 1, count);
        }
        repl_round_begin(&rig->round, turn % 2 == 0);
        while (fill(rig)) {
            uint64_t end = 0, pages = 0;
            for (uint32_t i = 0; i < rig->batch.run_count; i++) {
                const struct repl_batch_run *run = &rig->batch.runs[i];
                assert_true(run->page >= end);
                end = run->page + run->count;
                pages += run->count;
                for (uint64_t page = run->page; page < end; page++)
                    assert_int_equal(expected[page]--, 1);
            }
            assert_true(pages == rig->batch.page_count && pages <= REPL_BATCH_PAGES);
            back(rig, true);
        }
        for (uint64_t page = 0; page < PAGES; page++)
            assert_int_equal(expected[page], 0);
        rig_free(rig);
    }
}

/* --- batches that are kept ------------------------------------------------------------------- */

static void assert_read(const struct rig *rig, uint32_t index, uint64_t page, uint32_t count,
                        uint32_t place)
{
    assert_true(index < rig->batch.read_count);
    const struct repl_batch_read *read = &rig->batch.reads[index];
    assert_true(read->page == page);
    assert_int_equal(read->count, count);
    assert_int_equal(read->place, place);
}

/* Read, in a round that is then torn. */
static void park(struct rig *rig)
{
    repl_round_begin(&rig->round, true);
    assert_true(fill(rig));
    repl_round_batch_read(&rig->round, &rig->batch);
}

static void only_what_was_written_since_is_read_again(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 10, 6);
    dirty(rig, 100, 40);
    dirty(rig, 300, 1);
    park(rig);
    dirty(rig, 9, 2); /* of it page 10 */
    dirty(rig, 15, 1);
    dirty(rig, 120, 1);
    dirty(rig, 122, 2);
    dirty(rig, 300, 2);
    repl_round_begin(&rig->round, true);
    assert_true(repl_round_parked_pages(&rig->round) == 47);
    assert_true(rig->round.dirty.set_count == 2 && !repl_round_is_read(&rig->round));
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_WAIT);
    assert_true(fill(rig));
    assert_int_equal(rig->batch.read_count, 7);
    assert_read(rig, 0, 10, 1, 0);
    assert_read(rig, 1, 15, 1, 5);
    assert_read(rig, 2, 120, 1, 26);
    assert_read(rig, 3, 122, 2, 28);
    assert_read(rig, 4, 300, 1, 46);
    assert_read(rig, 5, 9, 1, 47); /* behind what was there */
    assert_read(rig, 6, 301, 1, 48);
    assert_int_equal(rig->batch.run_count, 5);
    assert_int_equal(rig->batch.page_count, 49);
    assert_memory_equal(&rig->batch.held[47], &rig->digests[9], sizeof rig->digests[9]);
    assert_true(rig->round.batches_out == 1 && rig->round.reads_out == 1);
    repl_round_batch_read(&rig->round, &rig->batch);
    assert_true(repl_round_is_read(&rig->round));
    assert_false(fill(rig));
    rig->round.phase = REPL_ROUND_PROVING;
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_REDUCE);
    repl_round_batch_back(&rig->round, &rig->batch, true);
    assert_true(rig->round.batches_out == 0 && rig->round.dirty.set_count == 0);
    assert_true(repl_round_parked_pages(&rig->round) == 0);
    rig_free(rig);
}

static void a_kept_batch_of_which_nothing_was_written_stays(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 10, 6);
    park(rig);
    repl_round_begin(&rig->round, true);
    assert_true(repl_round_is_read(&rig->round));
    assert_false(fill(rig));
    assert_true(rig->round.batches_out == 1 && rig->round.reads_out == 0);
    rig_free(rig);
}

/* More was written than is parked: what was read goes ahead, but not before it is the present. */
static void a_stale_batch_is_not_reduced(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 10, 6);
    park(rig);
    dirty(rig, 12, 1);
    repl_round_begin(&rig->round, false);
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_WAIT);
    assert_true(fill(rig));
    repl_round_batch_read(&rig->round, &rig->batch);
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_REDUCE);
    repl_round_batch_back(&rig->round, &rig->batch, true);
    assert_true(repl_round_is_read(&rig->round));
    rig_free(rig);
}

static void a_kept_batch_that_is_given_back_is_dirty_again(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    dirty(rig, 10, 6);
    park(rig);
    dirty(rig, 12, 1);
    repl_round_begin(&rig->round, true);
    rig->round.is_void = true;
    assert_int_equal(repl_round_batch_fate(&rig->round, &rig->batch), REPL_BATCH_DISCARD);
    repl_round_batch_back(&rig->round, &rig->batch, false);
    assert_true(rig->round.dirty.set_count == 6 && rig->round.batches_out == 0);
    repl_round_begin(&rig->round, true);
    assert_true(fill(rig));
    assert_int_equal(rig->batch.page_count, 6);
    rig_free(rig);
}

#define KEPT 3u

/* A device whose pages have versions, and what the batches hold of them. */
struct device {
    uint32_t now[PAGES], copy[PAGES];
    uint32_t read[KEPT][REPL_BATCH_PAGES];
    enum { IDLE, READING, READ } states[KEPT];
    struct repl_batch batches[KEPT];
};

static void device_write(struct rig *rig, struct device *device, struct random *random)
{
    for (uint64_t n = random_below(random, 60); n > 0; n--) {
        uint64_t first = random_below(random, PAGES), count = 1 + random_below(random, 4);
        for (uint64_t page = first; page < first + count && page < PAGES; page++) {
            device->now[page]++;
            dirty(rig, page, 1);
        }
    }
}

static void batch_give_back(struct rig *rig, struct device *device, unsigned b)
{
    struct repl_batch *batch = &device->batches[b];
    bool taken = repl_round_batch_fate(&rig->round, batch) == REPL_BATCH_REDUCE;
    uint32_t place = 0;
    for (uint32_t i = 0; i < batch->run_count; i++) {
        for (uint32_t k = 0; k < batch->runs[i].count; k++, place++) {
            if (taken)
                device->copy[batch->runs[i].page + k] = device->read[b][place];
        }
    }
    device->states[b] = IDLE;
    repl_round_batch_back(&rig->round, batch, taken);
}

static void batch_move(struct rig *rig, struct device *device, unsigned b)
{
    struct repl_batch *batch = &device->batches[b];
    if (device->states[b] == READING) {
        for (uint32_t i = 0; i < batch->read_count; i++) {
            for (uint32_t k = 0; k < batch->reads[i].count; k++)
                device->read[b][batch->reads[i].place + k] = device->now[batch->reads[i].page + k];
        }
        device->states[b] = READ;
        repl_round_batch_read(&rig->round, batch);
        return;
    }
    if (device->states[b] == READ && repl_round_batch_fate(&rig->round, batch) != REPL_BATCH_WAIT) {
        batch_give_back(rig, device, b);
    } else if (rig->round.phase == REPL_ROUND_READING &&
               repl_round_fill(&rig->round, &rig->table, batch)) {
        device->states[b] = READING;
    }
}

/* Writes between the rounds alone: when all is read, copy and parked batches are the present. */
static void whatever_is_kept_is_the_present(void **state)
{
    (void)state;
    struct random random = random_begin("kept batches", 11);
    static struct device device;
    unsigned kept = 0;
    memset(&device, 0, sizeof device);
    struct rig *rig = rig_new();
    for (unsigned turn = 0; turn < 3000; turn++) {
        device_write(rig, &device, &random);
        uint64_t pages = rig->round.dirty.set_count + repl_round_parked_pages(&rig->round);
        kept += rig->round.parked_batches != NULL;
        repl_round_begin(&rig->round, pages <= (uint64_t)KEPT * REPL_BATCH_PAGES_SURE);
        for (unsigned moves = 0; !repl_round_is_read(&rig->round); moves++) {
            assert_true(moves < 1000);
            batch_move(rig, &device, (unsigned)random_below(&random, KEPT));
        }
        if (rig->round.parked && random_below(&random, 4) != 0)
            continue; /* torn */
        rig->round.phase = REPL_ROUND_PROVING;
        rig->round.torn = random_below(&random, 4) == 0; /* in vain */
        for (unsigned b = 0; b < KEPT; b++) {
            if (device.states[b] == READ)
                batch_give_back(rig, &device, b);
        }
        assert_true(rig->round.batches_out == 0);
        for (uint64_t page = 0; page < PAGES; page++)
            assert_true(device.copy[page] == device.now[page] ||
                        repl_bitmap_test(&rig->round.dirty, page));
    }
    assert_true(kept > 1000);
    rig_free(rig);
}

static void read_out_of_turn(void *context)
{
    struct rig *rig = context;
    repl_round_batch_read(&rig->round, &rig->batch);
}

static void back_out_of_turn(void *context)
{
    struct rig *rig = context;
    repl_round_batch_back(&rig->round, &rig->batch, true);
}

static void begin_out_of_turn(void *context)
{
    repl_round_begin(&((struct rig *)context)->round, true);
}

static void events_out_of_turn_abort(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    assert_true(aborts(read_out_of_turn, rig));
    assert_true(aborts(back_out_of_turn, rig));
    dirty(rig, 0, 1);
    repl_round_begin(&rig->round, false);
    assert_true(fill(rig));
    assert_true(aborts(back_out_of_turn, rig)); /* it has not been read */
    assert_true(aborts(begin_out_of_turn, rig));
    repl_round_batch_read(&rig->round, &rig->batch);
    assert_true(aborts(begin_out_of_turn, rig));
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_filled_in_order),
        cmocka_unit_test(a_batch_is_full_at_its_size),
        cmocka_unit_test(a_run_that_just_fits_is_not_cut),
        cmocka_unit_test(a_run_is_cut_where_a_chunk_ends),
        cmocka_unit_test(a_later_run_is_cut_where_a_chunk_ends),
        cmocka_unit_test(what_gets_dirty_behind_is_read_last),
        cmocka_unit_test(a_round_begins_at_the_beginning),
        cmocka_unit_test(a_batch_knows_what_the_site_holds),
        cmocka_unit_test(what_was_not_taken_is_dirty_again),
        cmocka_unit_test(a_streaming_batch_is_reduced_at_once),
        cmocka_unit_test(a_parked_batch_waits_for_the_round_to_close),
        cmocka_unit_test(only_what_was_written_since_is_read_again),
        cmocka_unit_test(a_kept_batch_of_which_nothing_was_written_stays),
        cmocka_unit_test(a_stale_batch_is_not_reduced),
        cmocka_unit_test(a_kept_batch_that_is_given_back_is_dirty_again),
        cmocka_unit_test(whatever_is_kept_is_the_present),
        cmocka_unit_test(a_new_round_is_neither_torn_nor_void),
        cmocka_unit_test(new_pages_are_dirty),
        cmocka_unit_test(every_dirty_page_comes_exactly_once),
        cmocka_unit_test(events_out_of_turn_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
