/*
 * Chunks that were carried along for another volume and that nothing refers to any more, in
 * segments that stay: what they take is bounded, and no commit finds one that is about to go.
 */
#include "site/site_gate.h"
#include "unit/agent/site/compactor/compactor_pool.h"

#define CHUNKS      8u /* of a generation */
#define BASE_CHUNKS 32u
#define BASE_SLOT   24u /* of data, from where on nothing else is written */
#define GENERATIONS 3u
#define ROUNDS      7u

static uint8_t chunks[BASE_CHUNKS][REPL_CHUNK_SIZE];

/* No visit begins by itself. */
static void sweep_begin(const char *retention)
{
    pool_begin_in(retention, false);
    second_begin();
    w.site->compactor->sweeps.every_ns = 0;
    visits_stop();
}

static void sweep_end(void)
{
    visits_go_on();
    pool_end();
}

/* How many chunks it drops. */
static size_t merge_now(const char *volume)
{
    visits_go_on();
    size_t dropped = merge_once(volume);
    visits_stop();
    return dropped;
}

static unsigned found_count(unsigned count)
{
    unsigned found = 0;
    for (unsigned i = 0; i < count; i++)
        found += is_found(chunks[i]);
    return found;
}

/* What data's history takes. */
static uint64_t stored_size(void)
{
    static struct repl_log_piece pieces[256];
    struct repl_error err;
    uint32_t count;
    uint64_t sum = 0;
    bool more;
    must(repl_index_pieces(w.site->index, "data", 0, 0, pieces, 256, &count, &more, &err), &err);
    assert_false(more);
    for (uint32_t i = 0; i < count; i++)
        sum += pieces[i].commit.file_size;
    return sum;
}

/* --- generations ----------------------------------------------------------------------------- */

/* New bytes in so many slots from slot on, or zeros. */
static void slots_fill(struct world *to, unsigned slot, unsigned count, bool zero)
{
    struct build build;
    time_next(to);
    build_begin(&build, to, to->head.to_seq, to->head.to_seq + 1, 0);
    for (unsigned i = slot; i < slot + count && !zero; i++)
        build_data(&build, (uint64_t)i * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    if (zero)
        build_zero(&build, (uint64_t)slot * REPL_CHUNK_SIZE, (uint64_t)count * REPL_CHUNK_SIZE);
    build_end(&build, true);
    build_commit(&build);
}

static void chunks_take(unsigned slot, unsigned count)
{
    memcpy(chunks, w.model + (size_t)slot * REPL_CHUNK_SIZE, (size_t)count * REPL_CHUNK_SIZE);
}

/* The other volume refers to the chunks, and to nothing else. */
static void references_begin(unsigned count)
{
    struct build build;
    time_next(&b);
    build_begin(&build, &b, b.head.to_seq, b.head.to_seq + 1, 0);
    for (unsigned i = 0; i < count; i++)
        build_chunk(&build, (uint64_t)i * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunks[i], 0);
    build_end(&build, true);
    build_commit(&build);
}

/* It does not any more, in what is kept of it. */
static void references_end(unsigned count)
{
    slots_fill(&b, 0, count, true);
    for (unsigned i = 0; i < 10; i++)
        data_add(&b, BASE_CHUNKS + 1);
    second_begin();
    for (unsigned i = 0; i < 3; i++)
        data_add(&b, BASE_CHUNKS + 1);
    merge_now("else");
    assert_int_equal(found_count(count), count);
}

/* In a second of data's chunks come, and are written over; the other volume refers to them, so that
 * the merge of that second carries them, and then it does no more. */
static void generation_pass(void)
{
    second_begin();
    points_add(1); /* which is kept */
    slots_fill(&w, LISTED_SLOT - CHUNKS, CHUNKS, false);
    point_keep();
    chunks_take(LISTED_SLOT - CHUNKS, CHUNKS);
    slots_fill(&w, LISTED_SLOT - CHUNKS, CHUNKS, true);
    point_keep();
    points_add(10);
    second_begin();
    points_add(3);
    data_add(&b, BASE_CHUNKS + 1); /* which is kept */
    references_begin(CHUNKS);
    assert_int_equal(merge_now("data"), 0);
    references_end(CHUNKS);
}

static void dead_chunks_take_no_more_than_their_share(void **state)
{
    uint64_t first_size = 0;
    size_t segments;
    (void)state;
    sweep_begin("1s:1d");
    for (unsigned i = 0; i < GENERATIONS; i++) {
        generation_pass();
        assert_int_equal(merge_now("data"), CHUNKS);
        assert_int_equal(found_count(CHUNKS), 0);
        first_size = i == 0 ? stored_size() : first_size;
    }
    points_check(&segments);
    /* The points of a generation that are kept are small. */
    assert_true(stored_size() < first_size + (GENERATIONS - 1) * CHUNKS * REPL_CHUNK_SIZE / 2);
    expect_replica(&b);
    sweep_end();
}

/* --- what the history begins with ------------------------------------------------------------ */

/* Of the first copy of data count chunks are carried for the other volume, and then for nobody. */
static void base_pass(unsigned count)
{
    chunks_take(BASE_SLOT, count);
    references_begin(count);
    slots_fill(&w, BASE_SLOT, count, false);
    point_keep();
    for (unsigned i = 0; i < 10; i++) {
        slots_fill(&w, i, 1, true);
        point_keep();
    }
    merge_now("data");
    references_end(count);
}

static void dead_chunks_of_the_base_go(void **state)
{
    size_t segments;
    (void)state;
    sweep_begin("1s:1m"); /* the newest point is all that stays */
    base_pass(BASE_CHUNKS);
    /* what one site has found out, the next one does as well */
    visits_go_on();
    site_stop(&w);
    site_start(&w);
    b.site = w.site;
    visits_stop();
    assert_int_equal(merge_now("data"), BASE_CHUNKS);
    assert_int_equal(found_count(BASE_CHUNKS), 0);
    assert_int_equal(points_check(&segments), 2);
    assert_int_equal(segments, 2);
    sweep_end();
}

/* Less than a quarter of what would have to be written anew. */
static void a_few_dead_chunks_stay(void **state)
{
    struct site_compactor *c;
    (void)state;
    sweep_begin("1s:1m");
    base_pass(CHUNKS);
    c = w.site->compactor;
    uint64_t records = site_find_volume(w.site, "data")->journal.record_number;
    visits_go_on();
    for (unsigned i = 0; i < 4; i++) {
        site_find_volume(w.site, "data")->visited_ns = 0;
        site_compactor_tick(c);
        PUMP_UNTIL(&w, !c->out);
    }
    assert_int_equal(found_count(CHUNKS), CHUNKS);
    assert_int_equal(site_find_volume(w.site, "data")->journal.record_number, records);
    sweep_end();
}

/* --- what carries nothing -------------------------------------------------------------------- */

static const struct repl_store_ops *ops;
static atomic_uint opened;

static repl_result open_counted(struct repl_store *store, const char *volume,
                                const struct repl_segment_id *id, uint64_t size,
                                struct repl_stored_segment **out, struct repl_error *err)
{
    opened++;
    return ops->segment_open(store, volume, id, size, out, err);
}

static void visit_data(unsigned count)
{
    struct site_compactor *c = w.site->compactor;
    struct site_volume *v = site_find_volume(w.site, "data");
    visits_go_on();
    PUMP_UNTIL(&w, volume_status(&w, "data").replica_seq == v->journal.point.seq);
    for (unsigned i = 0; i < count; i++) {
        hurry();
        for (struct site_volume *other = w.site->volumes; other != NULL; other = other->next)
            other->visited_ns = other == v ? 0 : repl_now_mono_ns() + 3600 * SECOND_NS;
        site_compactor_tick(c);
        PUMP_UNTIL(&w, !c->out && !c->logging && c->waits == NULL);
    }
    visits_stop();
}

static void seconds_pass(void)
{
    for (unsigned i = 0; i < 3; i++) {
        second_begin();
        points_add(12);
    }
    visit_data(8);
}

/* It is looked at once, and nothing of it is kept: most of what a site holds is such. */
static void what_carries_nothing_takes_no_memory(void **state)
{
    struct repl_store_ops counted;
    (void)state;
    sweep_begin("1s:1d");
    struct compactor_sweeps *sweeps = &w.site->compactor->sweeps;
    sweeps->every_ns = INT64_C(86400) * SECOND_NS;
    /* nobody reads in the store meanwhile */
    PUMP_UNTIL(&w, replica_is_at(&w, w.head.to_seq) && !site_scrub_is_busy(w.site->scrub) &&
                       volume_status(&w, "else").replica_seq == b.head.to_seq);
    ops = w.site->store->ops;
    counted = *ops;
    counted.segment_open = open_counted;
    w.site->store->ops = &counted;
    for (unsigned i = 0; i < 2; i++) { /* what comes later is looked at too */
        uint64_t looked = sweeps->count > 0 ? sweeps->volumes[0].looked_merge : 0;
        seconds_pass();
        assert_int_equal(sweeps->count, 1);
        assert_string_equal(sweeps->volumes[0].volume, "data");
        assert_int_equal(sweeps->volumes[0].count, 0);
        assert_true(sweeps->volumes[0].looked_merge > looked);
        opened = 0;
        visit_data(4);
        assert_int_equal(opened, 0);
    }
    w.site->store->ops = ops;
    sweep_end();
}

/* --- commits meanwhile ----------------------------------------------------------------------- */

/* Of one of the chunks, as they are swept. */
static bool sweep_races(unsigned round)
{
    visits_go_on();
    merge_hold("data");
    assert_int_equal(w.site->compactor->visit.result.dropped_count, CHUNKS);
    bool taken = commit_races(chunks[round % CHUNKS], 2 * round);
    visits_stop();
    return taken;
}

static void a_reference_that_comes_meanwhile_is_not_lost(void **state)
{
    size_t segments;
    unsigned taken = 0;
    (void)state;
    sweep_begin("1s:1d");
    for (unsigned round = 0; round < ROUNDS; round++) {
        generation_pass();
        taken += sweep_races(round);
    }
    print_message("%u of %u taken\n", taken, ROUNDS);
    points_check(&segments);
    expect_replica(&b);
    sweep_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dead_chunks_take_no_more_than_their_share),
        cmocka_unit_test(dead_chunks_of_the_base_go),
        cmocka_unit_test(a_few_dead_chunks_stay),
        cmocka_unit_test(what_carries_nothing_takes_no_memory),
        cmocka_unit_test(a_reference_that_comes_meanwhile_is_not_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
