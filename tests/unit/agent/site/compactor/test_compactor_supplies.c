/*
 * Files with chunks that came on request: each goes when nothing needs it any more, and not before.
 */
#include "site/index/index_internal.h"
#include "site/site_gate.h"
#include "unit/agent/site/compactor/compactor_pool.h"
#include "unit/temporary.h"

/* For segment 2.0 of data: a chunk that nobody else has. */
static void supply_make(uint8_t chunk[REPL_CHUNK_SIZE])
{
    random_fill(&w.random, chunk, REPL_CHUNK_SIZE);
    supply_give(&w, chunk, 1);
    assert_true(is_found(chunk));
}

static bool supply_is_there(void)
{
    char path[256];
    file_path(&w, path, "segments/00000000000000000002.000000.001.sup");
    return access(path, F_OK) == 0;
}

/* Point 2 of data refers to the chunk of a supply, and is due to be merged with what follows. */
static void supplied_point(uint8_t chunk[REPL_CHUNK_SIZE])
{
    struct build build;
    supply_make(chunk);
    visits_stop();
    time_next(&w);
    build_begin(&build, &w, 1, 2, 0);
    build_chunk(&build, LISTED_SLOT * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunk, 0);
    build_end(&build, true);
    build_commit(&build);
    point_keep();
    data_add(&w, LISTED_SLOT);
    point_keep();
    points_add(14);
    second_begin();
    points_add(3);
    visits_go_on();
}

static void a_supply_goes_with_the_last_reference(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    size_t segments;
    (void)state;
    pool_begin();
    supplied_point(chunk);
    supplies_look();
    assert_true(supply_is_there() && is_found(chunk));
    /* one of another volume does as well */
    reference_add(chunk, 3);
    merge_once("data");
    supplies_look();
    assert_true(supply_is_there() && is_found(chunk));
    points_check(&segments);
    for (unsigned i = 0; i < 16; i++)
        data_add(&b, 3);
    second_begin();
    for (unsigned i = 0; i < 3; i++)
        data_add(&b, 4);
    merge_once("else");
    supplies_look();
    assert_false(supply_is_there() || is_found(chunk));
    assert_int_equal(site_find_volume(w.site, "data")->supply_count, 0);
    points_check(&segments);
    expect_replica(&b);
    pool_end();
}

static void a_supply_that_lay_there_at_the_start_goes(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    char path[256];
    (void)state;
    pool_begin();
    supplied_point(chunk);
    snprintf(path, sizeof path, "%.200s/index.lmdb", w.store);
    site_stop(&w);
    assert_int_equal(unlink(path), 0);
    site_start(&w);
    b.site = w.site;
    supplies_look();
    assert_true(supply_is_there() && is_found(chunk));
    merge_once("data");
    supplies_look();
    assert_false(supply_is_there() || is_found(chunk));
    pool_end();
}

#define PACK_CHUNKS 16u
#define PACK_NEEDED 5u /* of these, the one that point 2 refers to */

static uint8_t packed[PACK_CHUNKS][REPL_CHUNK_SIZE];

/* Of supply number of segment 2.0; 0: it is not there. */
static uint64_t supply_size(unsigned number)
{
    char path[256], name[64];
    struct stat status;
    snprintf(name, sizeof name, "segments/00000000000000000002.000000.%03u.sup", number);
    file_path(&w, path, name);
    return stat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
}

static void supply_of_many_make(void)
{
    struct build build;
    random_fill(&w.random, packed, sizeof packed);
    supply_build(&build, &w, packed[0], PACK_CHUNKS);
    assert_int_equal(supply_put(&build, 1), 201);
    build_fini(&build);
    second_begin();
    time_next(&w);
    build_begin(&build, &w, 1, 2, 0);
    build_chunk(&build, LISTED_SLOT * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, packed[PACK_NEEDED], 0);
    build_end(&build, true);
    build_commit(&build);
    point_keep();
}

/* One chunk does not keep all the others that came with it. */
static void what_is_needed_of_a_supply_goes_into_another(void **state)
{
    char path[256];
    size_t segments;
    (void)state;
    pool_begin();
    supply_of_many_make();
    assert_true(supply_size(1) > PACK_CHUNKS * REPL_CHUNK_SIZE);
    supplies_look();
    assert_int_equal(supply_size(1), 0);
    assert_in_range(supply_size(2), REPL_CHUNK_SIZE, REPL_CHUNK_SIZE * 6 / 5);
    for (unsigned i = 0; i < PACK_CHUNKS; i++)
        assert_int_equal(is_found(packed[i]), i == PACK_NEEDED);
    assert_int_equal(site_find_volume(w.site, "data")->supply_count, 1);
    reference_add(packed[PACK_NEEDED], 3);
    expect_replica(&b);
    points_check(&segments);
    supplies_look(); /* it is as small as it can be */
    assert_true(supply_size(2) != 0 && supply_size(1) == 0 && supply_size(3) == 0);
    snprintf(path, sizeof path, "%.200s/index.lmdb", w.store);
    site_stop(&w);
    assert_int_equal(unlink(path), 0);
    site_start(&w);
    b.site = w.site;
    assert_true(is_found(packed[PACK_NEEDED]) && !is_found(packed[0]));
    pool_end();
}

static void a_supply_that_cannot_be_read_stays(void **state)
{
    char path[256];
    (void)state;
    pool_begin();
    supply_of_many_make();
    file_path(&w, path, "segments/00000000000000000002.000000.001.sup");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && pwrite(fd, "damaged", 7, PACK_NEEDED * REPL_CHUNK_SIZE + 4096) == 7);
    close(fd);
    supplies_look();
    assert_true(supply_size(1) != 0 && supply_size(2) == 0);
    assert_true(is_found(packed[PACK_NEEDED]));
    assert_int_equal(size_below(&w, "staging"), 0);
    pool_end();
}

/* The segment that it was for never came. A chunk of it is asked for again, if it is needed. */
static void a_supply_that_nobody_referred_to_goes(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct build build;
    (void)state;
    pool_begin();
    supply_make(chunk);
    w.site->config->grace_ms = 0;
    compactor_supplies_tick(w.site->compactor);
    turns(300);
    assert_true(supply_is_there()); /* it has a day */
    supplies_look();
    assert_false(supply_is_there() || is_found(chunk));
    reference_build(&build, chunk, 3);
    build_put(&build);
    expect_missing(&b, 1);
    build_fini(&build);
    pool_end();
}

/* The reference may be gone by the next look, and whoever has begun to read then needs it. */
static void a_supply_that_is_found_waits_anew(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    (void)state;
    pool_begin();
    supply_make(chunk);
    struct site_volume *v = site_find_volume(w.site, "data");
    assert_int_equal(v->supply_count, 1);
    v->supplies[0].look_ns = INT64_MAX;
    v->supplies[0].idle_ns = 1;
    second_begin();
    reference_add(chunk, 3);
    assert_int_equal(v->supplies[0].idle_ns, 0);
    pool_end();
}

/* The other volume brings it as well. */
static void chunk_copy(const uint8_t *chunk)
{
    struct build build;
    struct repl_error err;
    time_next(&b);
    build_begin(&build, &b, b.head.to_seq, b.head.to_seq + 1, 0);
    struct repl_chunk_entry entry = {.name = chunk_name_of(chunk)};
    entry.frame = add_frame(build.builder, b.coder, chunk, REPL_CHUNK_SIZE);
    build_extent(&build, &(struct repl_extent){.offset = 7 * REPL_CHUNK_SIZE,
                                               .length = REPL_CHUNK_SIZE,
                                               .source = entry.frame,
                                               .type = REPL_RECORD_DATA});
    must(repl_segment_builder_chunk(build.builder, &entry, &err), &err);
    build_end(&build, true);
    build_commit(&build);
}

/* It is needless while the chunk lies in another volume too, but not when somebody has removed that
 * one, and the index does not know of it yet. */
static void a_supply_stays_where_the_other_copy_is_gone(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct temporary directory;
    size_t segments;
    (void)state;
    for (unsigned gone = 0; gone < 2; gone++) {
        pool_begin();
        supplied_point(chunk);
        chunk_copy(chunk);
        snprintf(directory.path, sizeof directory.path, "%.200s/volumes/else", w.store);
        if (gone == 1)
            temporary_remove(&directory);
        supplies_look();
        assert_true(is_found(chunk));
        assert_int_equal(supply_is_there(), gone);
        points_check(&segments);
        pool_end();
    }
}

/* Nothing needs it, but a commit of the tenant hangs: it stays for another day. */
static void a_supply_waits_for_no_commit_that_hangs(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct site_pass hangs = {0};
    struct site_gate *gate;
    struct repl_error err;
    (void)state;
    pool_begin();
    second_begin();
    supply_make(chunk);
    struct site_volume *v = site_find_volume(w.site, "data");
    struct site_compactor *c = w.site->compactor;
    must(site_gate_of(v, &gate, &err), &err);
    assert_true(site_gate_enter(gate, &hangs));
    w.site->config->grace_ms = 0;
    v->supplies[0].look_ns = 0;
    v->supplies[0].idle_ns = 1;
    c->gate_wait_ns = 3600 * SECOND_NS;
    c->supply_every_ns = SECOND_NS;
    compactor_supplies_tick(c);
    PUMP_UNTIL(&w, c->supply.in_turn && gate->first == &c->supply.pass);
    c->gate_wait_ns = 0;
    compactor_supplies_tick(c);
    assert_true(!c->supply.in_turn && gate->first == NULL && supply_is_there());
    data_add(&b, 4);
    data_add(&w, 4);
    point_keep();
    site_gate_leave(&hangs);
    supplies_look();
    assert_false(supply_is_there());
    pool_end();
}

/* Its file goes slowly: the others of the tenant do not wait for that. */
static void a_removal_that_hangs_holds_up_no_others(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct site_gate *gate;
    struct repl_error err;
    (void)state;
    pool_begin();
    second_begin();
    supply_make(chunk);
    struct site_volume *v = site_find_volume(w.site, "data");
    struct site_compactor *c = w.site->compactor;
    must(site_gate_of(v, &gate, &err), &err);
    w.site->config->grace_ms = 0;
    c->supply_every_ns = SECOND_NS;
    v->supplies[0].look_ns = 0;
    v->supplies[0].idle_ns = 1;
    store_hang(true);
    compactor_supplies_tick(c);
    PUMP_UNTIL(&w, atomic_load(&hanging.is_inside));
    assert_true(c->supply.in_turn && gate->inside == 0);
    assert_false(is_found(chunk));
    data_add(&b, 4);
    store_go_on();
    PUMP_UNTIL(&w, c->supply.volume == NULL);
    assert_true(supply_is_there() && v->supply_count == 1);
    supplies_look(); /* it is tried again */
    assert_false(supply_is_there());
    pool_end();
}

/* Nobody knows what the index has after a crash where its sync has failed. */
static void a_supply_stays_where_its_places_may(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    (void)state;
    pool_begin();
    supply_make(chunk);
    struct site_volume *v = site_find_volume(w.site, "data");
    w.site->config->grace_ms = 0;
    w.site->compactor->supply_every_ns = SECOND_NS;
    v->supplies[0].look_ns = 0;
    v->supplies[0].idle_ns = 1;
    pthread_mutex_lock(&w.site->index_lock);
    repl_index_break_sync(w.site->index, 2, EIO);
    pthread_mutex_unlock(&w.site->index_lock);
    compactor_supplies_tick(w.site->compactor);
    PUMP_UNTIL(&w, w.site->compactor->supply.volume == NULL);
    assert_true(supply_is_there() && v->supply_count == 1);
    pool_end();
}

static void an_empty_index_needs_the_supply(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    (void)state;
    pool_begin();
    supplied_point(chunk);
    struct site_volume *v = site_find_volume(w.site, "data");
    w.site->config->grace_ms = 0;
    v->supplies[0].look_ns = 0;
    v->supplies[0].idle_ns = 1;
    index_remake();
    compactor_supplies_tick(w.site->compactor);
    PUMP_UNTIL(&w, w.site->compactor->supply.volume == NULL);
    assert_true(supply_is_there() && v->supply_count == 1);
    pool_end();
}

/* A commit brings an index that was made anew meanwhile up to the log, which says nothing of
 * supplies. */
static void a_commit_leaves_the_supplies_to_be_found(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct site_pass taker = {.alone = true};
    struct site_gate *gate;
    struct build build;
    struct call call;
    struct repl_error err;
    (void)state;
    pool_begin();
    supplied_point(chunk);
    visits_stop();
    struct site_volume *v = site_find_volume(w.site, "data");
    must(site_gate_of(v, &gate, &err), &err);
    PUMP_UNTIL(&w, !w.site->syncing && site_gate_enter(gate, &taker));
    build_begin(&build, &w, w.head.to_seq, w.head.to_seq + 1, 0);
    build_data(&build, 0, REPL_PAGE_SIZE);
    build_end(&build, true);
    call_init(&call, &w, "PUT", "/v1/volumes/data/segments/%llu.0",
              (unsigned long long)build.header.to_seq);
    call.request.body = build.file.bytes.data;
    call.request.body_size = build.file.bytes.size;
    must(repl_request_start(w.clients[KEY_HOST], &call.request, &err), &err);
    PUMP_UNTIL(&w, gate->first == &v->commit.pass);
    pthread_mutex_lock(&w.site->index_lock);
    repl_index_break_sync(w.site->index, 1, EIO);
    pthread_mutex_unlock(&w.site->index_lock);
    w.site->index_dirty = true;
    w.site->tick.fire(&w.site->tick);
    PUMP_UNTIL(&w, w.site->index_generation == 1);
    assert_true(v->index_behind && v->index_lost);
    site_gate_leave(&taker);
    PUMP_UNTIL(&w, call.done && !v->index_behind);
    assert_int_equal(w.status, 201);
    assert_true(is_found(chunk));
    build_taken(&build);
    build_fini(&build);
    supplies_look();
    assert_true(supply_is_there());
    pool_end();
}

/* An index that was made anew has no room for a supply: it is not whole before it has. */
static void a_supply_that_finds_no_room_is_tried_again(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct repl_error err;
    (void)state;
    pool_begin();
    supplied_point(chunk);
    visits_stop();
    struct site_volume *v = site_find_volume(w.site, "data");
    PUMP_UNTIL(&w, !v->busy && !w.site->syncing);
    pthread_mutex_lock(&w.site->index_lock);
    must(repl_index_remake(w.site->index, &err), &err);
    repl_index_break_sync(w.site->index, 1, ENOSPC);
    pthread_mutex_unlock(&w.site->index_lock);
    v->index_behind = v->index_lost = true;
    site_volume_pump(v);
    PUMP_UNTIL(&w, !v->busy);
    assert_true(v->index_behind && v->index_lost);
    v->index_vain = false;
    site_volume_pump(v);
    PUMP_UNTIL(&w, !v->index_behind);
    struct repl_digest name = chunk_name_of(chunk);
    struct repl_chunk_place place;
    bool found;
    must(repl_index_chunk(w.site->index, "data", &name, &place, &found, &err), &err);
    assert_true(found && place.segment.supply != 0);
    pool_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_supply_that_finds_no_room_is_tried_again),
        cmocka_unit_test(a_commit_leaves_the_supplies_to_be_found),
        cmocka_unit_test(an_empty_index_needs_the_supply),
        cmocka_unit_test(a_supply_goes_with_the_last_reference),
        cmocka_unit_test(a_supply_that_lay_there_at_the_start_goes),
        cmocka_unit_test(a_supply_that_nobody_referred_to_goes),
        cmocka_unit_test(a_supply_that_is_found_waits_anew),
        cmocka_unit_test(what_is_needed_of_a_supply_goes_into_another),
        cmocka_unit_test(a_supply_that_cannot_be_read_stays),
        cmocka_unit_test(a_supply_stays_where_the_other_copy_is_gone),
        cmocka_unit_test(a_supply_waits_for_no_commit_that_hangs),
        cmocka_unit_test(a_removal_that_hangs_holds_up_no_others),
        cmocka_unit_test(a_supply_stays_where_its_places_may),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
