/*
 * A site that merges a volume whose chunks another one of its pool refers to: they are carried
 * along while it does, and no commit finds one that is about to be dropped.
 */
#include <pthread.h>

#include "site/site_gate.h"
#include "unit/agent/site/compactor/compactor_pool.h"

#define ROUNDS 16u

/* --- the other volume, restored -------------------------------------------------------------- */

/* Its last point, and all of it verified. */
static void other_check(struct repl_history *history)
{
    const struct repl_catalogue *c = repl_history_catalogue(history);
    uint8_t *bytes = malloc(MODEL_MAX);
    struct repl_error err;
    assert_string_equal(c->note, "");
    assert_true(point_restore(history, c->point_count - 1, bytes) == repl_xxh3(b.model, b.size));
    free(bytes);
    struct repl_verify_options verify = {.history = history, .finding = finding};
    struct repl_verify_result result;
    must(repl_verify_history(&verify, &result, &err), &err);
    assert_int_equal(result.damaged_count + result.broken_links + result.affected_count, 0);
    assert_true(result.reference_count > 0);
    repl_verify_result_fini(&result);
    repl_history_close(history);
}

/* Over the wire, with a key that may not read the volume that holds the chunks. */
static void *other_check_remote(void *context)
{
    atomic_bool *done = context;
    char address[32];
    struct repl_origin *origin;
    struct repl_history *history;
    struct repl_error err;
    snprintf(address, sizeof address, "127.0.0.1:%u", repl_site_port(w.site));
    const struct repl_client_options client = {
        .address = address, .key_path = w.keys[KEY_OTHER], .fingerprint = w.site_fingerprint};
    must(repl_origin_open_site(&client, "else", &origin, &err), &err);
    must(repl_history_open(origin, &history, &err), &err);
    other_check(history);
    atomic_store(done, true);
    return NULL;
}

static void other_restores_after_a_merge(void)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    atomic_bool done = false;
    pthread_t thread;
    lonely_chunk(chunk);
    reference_add(chunk, 3);
    for (unsigned slot = 40; slot < 57; slot++) /* of the full, some of which are written over */
        reference_add(w.model + slot * REPL_CHUNK_SIZE, slot - 30);
    assert_int_equal(merge_once("data"), 0);
    other_check(history_of("else"));
    assert_int_equal(pthread_create(&thread, NULL, other_check_remote, &done), 0);
    PUMP_UNTIL(&w, atomic_load(&done));
    pthread_join(thread, NULL);
}

static void a_volume_restores_when_another_was_merged(void **state)
{
    (void)state;
    pool_begin();
    other_restores_after_a_merge();
    pool_end();
}

static void it_does_out_of_a_bucket(void **state)
{
    (void)state;
    pool_begin_in("1s:1d", true);
    other_restores_after_a_merge();
    pool_end();
}

/* A restore has looked where the chunks of the pool lie, and then a merge puts one elsewhere. */
static void what_moves_while_it_restores_is_found(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE], stays[REPL_CHUNK_SIZE], bytes[REPL_CHUNK_SIZE];
    const struct repl_store_options options = {.location = w.store};
    struct repl_catalogue catalogue = {0};
    struct repl_origin *origin;
    struct repl_digest names[2];
    struct repl_error err;
    (void)state;
    pool_begin();
    w.site->config->grace_ms = 0;
    lonely_chunk(chunk);
    memcpy(stays, w.model + 56 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    reference_add(chunk, 3);
    names[0] = chunk_name_of(w.model + 56 * REPL_CHUNK_SIZE);
    names[1] = chunk_name_of(chunk);
    must(repl_origin_open_store(&options, "else", &origin, &err), &err);
    must(origin->ops->catalogue(origin, &catalogue, &err), &err);
    must(origin->ops->chunks(origin, &names[0], 1, bytes, &err), &err);
    assert_memory_equal(bytes, stays, sizeof bytes);
    size_t files = files_count();
    merge_once("data");
    visits_stop();
    PUMP_UNTIL(&w, (site_compactor_tick(w.site->compactor), files_count() < files - 10));
    must(origin->ops->chunks(origin, &names[1], 1, bytes, &err), &err);
    assert_memory_equal(bytes, chunk, sizeof bytes);
    /* what is nowhere is still missing, and not looked for time and again */
    memset(&names[1], 7, sizeof names[1]);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(origin->ops->chunks(origin, &names[1], 1, bytes, &err).code,
                         REPL_E_MISSING);
    visits_go_on();
    repl_catalogue_fini(&catalogue);
    origin->ops->close(origin);
    pool_end();
}

/* --- what is carried along, and what goes ---------------------------------------------------- */

static void a_chunk_of_another_volume_stays(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    size_t segments;
    (void)state;
    pool_begin();
    lonely_chunk(chunk);
    reference_add(chunk, 3);
    assert_int_equal(merge_once("data"), 0);
    assert_true(is_found(chunk));
    points_check(&segments);
    expect_replica(&b);
    /* also where the reference is all that the index was made anew with */
    char path[256];
    snprintf(path, sizeof path, "%.200s/index.lmdb", w.store);
    site_stop(&w);
    assert_int_equal(unlink(path), 0);
    site_start(&w);
    assert_true(is_found(chunk));
    pool_end();
}

static void a_chunk_goes_with_the_last_reference(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    size_t segments;
    (void)state;
    pool_begin();
    lonely_chunk(chunk);
    data_add(&b, 4);
    reference_add(chunk, 3);
    for (unsigned i = 0; i < 16; i++)
        data_add(&b, 3);
    second_begin();
    for (unsigned i = 0; i < 3; i++)
        data_add(&b, 4);
    merge_once("else");
    assert_true(is_found(chunk));
    assert_int_equal(merge_once("data"), 1);
    assert_false(is_found(chunk));
    points_check(&segments);
    expect_replica(&b);
    pool_end();
}

/* The log of either is written anew, and the index made of that. */
static void a_log_written_anew_says_the_pool(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    static const char *const volumes[] = {"data", "else"};
    char path[256];
    (void)state;
    pool_begin();
    lonely_chunk(chunk);
    reference_add(chunk, 3);
    visits_go_on();
    for (size_t i = 0; i < 2; i++) {
        struct site_volume *v = site_find_volume(w.site, volumes[i]);
        uint64_t records = v->journal.record_number;
        PUMP_UNTIL(&w, !v->busy);
        v->checkpoint_due = true;
        site_volume_pump(v);
        PUMP_UNTIL(&w, !v->busy && !v->checkpoint_due);
        assert_true(v->journal.record_number > records);
    }
    assert_true(is_found(chunk));
    snprintf(path, sizeof path, "%.200s/index.lmdb", w.store);
    for (unsigned i = 0; i < 2; i++) {
        site_stop(&w);
        assert_int_equal(i == 0 ? 0 : unlink(path), 0);
        site_start(&w);
        b.site = w.site;
        for (size_t k = 0; k < 2; k++)
            assert_string_equal(site_find_volume(w.site, volumes[k])->journal.pool, "acme");
        assert_true(is_found(chunk));
        expect_replica(&b);
    }
    pool_end();
}

/* Who refers to what of a volume whose index is behind, nobody knows. */
static void nothing_is_dropped_where_references_are_not_known(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    (void)state;
    pool_begin();
    struct site_volume *other = site_find_volume(w.site, "else");
    lonely_chunk(chunk);
    /* found out when the merge is made, */
    merge_hold("data");
    assert_int_equal(w.site->compactor->visit.result.dropped_count, 1);
    snprintf(other->damaged, sizeof other->damaged, "for a test");
    merge_begin("data");
    assert_true(!w.site->compactor->logging && is_found(chunk));
    /* and before: then it is merged, and the chunk is carried along */
    assert_int_equal(merge_once("data"), 0);
    assert_true(is_found(chunk));
    other->damaged[0] = '\0';
    pool_end();
}

/* A commit has found the chunk, and has to wait for a merge that drops it. */
static void a_commit_looks_again_behind_a_merge(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct build build;
    struct site_gate *gate;
    struct site_pass pass = {0};
    struct repl_error err;
    struct call call;
    (void)state;
    pool_begin();
    struct site_volume *data = site_find_volume(w.site, "data"),
                       *other = site_find_volume(w.site, "else");
    lonely_chunk(chunk);
    merge_hold("data");
    must(site_gate_of(data, &gate, &err), &err);
    assert_true(site_gate_enter(gate, &pass));
    merge_begin("data");
    assert_true(w.site->compactor->logging && gate->first != NULL);
    reference_build(&build, chunk, 3);
    call_init(&call, &b, "PUT", "/v1/volumes/else/segments/%llu.0",
              (unsigned long long)build.header.to_seq);
    call.request.body = build.file.bytes.data;
    call.request.body_size = build.file.bytes.size;
    must(repl_request_start(b.clients[KEY_OTHER], &call.request, &err), &err);
    PUMP_UNTIL(&w, gate->last == &other->commit.pass);
    assert_int_equal(other->commit.missing.count, 0);
    turns(100);
    assert_true(w.site->compactor->logging && !call.done);
    site_gate_leave(&pass);
    PUMP_UNTIL(&w, call.done && !w.site->compactor->logging);
    expect_missing(&b, 1);
    assert_false(is_found(chunk));
    assert_true(gate->inside == 0 && gate->first == NULL);
    build_fini(&build);
    pool_end();
}

/* A commit of the tenant hangs, and who has to pass alone waits for it: a merge, or the end of a
 * supply. The others do not wait for both. */
static void a_commit_that_hangs_holds_up_no_others(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct site_pass hangs = {0}, removal = {.alone = true};
    struct site_gate *gate;
    struct repl_error err;
    (void)state;
    pool_begin();
    struct site_compactor *c = w.site->compactor;
    lonely_chunk(chunk);
    merge_hold("data");
    must(site_gate_of(site_find_volume(w.site, "data"), &gate, &err), &err);
    assert_true(site_gate_enter(gate, &hangs));
    c->gate_wait_ns = 3600 * SECOND_NS;
    merge_begin("data");
    assert_true(c->logging && gate->first == &c->pass);
    site_compactor_tick(c);
    assert_true(c->logging); /* for a moment it waits */
    c->gate_wait_ns = 0;
    site_compactor_tick(c);
    c->gate_wait_ns = 3600 * SECOND_NS;
    assert_true(!c->logging && gate->first == NULL);
    data_add(&b, 4);
    data_add(&w, 4); /* and so do those of its own volume */
    point_keep();
    /* it comes again, and when the other one is through it passes */
    c->gate_again_ns = 0;
    site_volume_pump(site_find_volume(w.site, "data"));
    assert_true(c->logging && is_found(chunk));
    site_gate_leave(&hangs);
    PUMP_UNTIL(&w, !c->logging);
    assert_false(is_found(chunk));
    /* of several that wait the others keep their places */
    struct site_pass second = {.alone = true}, third = {.alone = true};
    assert_true(site_gate_enter(gate, &removal));
    assert_false(site_gate_enter(gate, &second) || site_gate_enter(gate, &third));
    assert_true(site_gate_withdraw(&third) && !site_gate_withdraw(&third));
    assert_true(gate->first == &second && gate->last == &second);
    assert_false(site_gate_withdraw(&removal));
    assert_true(site_gate_withdraw(&second) && gate->first == NULL);
    site_gate_leave(&removal);
    pool_end();
}

static void a_merge_that_waits_for_long_is_given_up(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct site_pass hangs = {0};
    struct site_gate *gate;
    struct repl_error err;
    (void)state;
    pool_begin();
    struct site_compactor *c = w.site->compactor;
    struct site_volume *data = site_find_volume(w.site, "data");
    lonely_chunk(chunk);
    merge_hold("data");
    uint64_t records = data->journal.record_number;
    must(site_gate_of(data, &gate, &err), &err);
    assert_true(site_gate_enter(gate, &hangs));
    merge_begin("data");
    c->out = true; /* no other visit begins */
    c->gate_wait_ns = 0;
    c->gate_first_ns -= 3600 * SECOND_NS;
    site_compactor_tick(c);
    assert_true(!c->logging && c->waits == NULL && !data->busy && gate->first == NULL);
    assert_true(is_found(chunk) && data->journal.record_number == records);
    site_gate_leave(&hangs);
    c->out = false;
    pool_end();
}

/* The record of a merge takes as long as a store takes to give up. The others of the tenant go on,
 * and none finds what the merge drops; who reads still does. */
static void merge_hang(uint8_t chunk[REPL_CHUNK_SIZE], bool fails)
{
    struct build build;
    struct site_gate *gate;
    struct repl_error err;
    lonely_chunk(chunk);
    merge_hold("data");
    must(site_gate_of(site_find_volume(w.site, "data"), &gate, &err), &err);
    store_hang(fails);
    merge_begin("data");
    PUMP_UNTIL(&w, atomic_load(&hanging.is_inside));
    assert_int_equal(gate->inside, 0);
    assert_true(w.site->compactor->logging && is_found(chunk));
    reference_build(&build, chunk, 3);
    build_put(&build);
    expect_missing(&b, 1);
    if (fails) {
        build_fini(&build);
        return;
    }
    supply_give(&b, chunk, 1);
    build_commit(&build);
}

static void a_merge_that_hangs_in_its_store_holds_up_no_others(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    size_t segments;
    (void)state;
    pool_begin();
    merge_hang(chunk, false);
    data_add(&b, 4);
    assert_true(w.site->compactor->logging);
    store_go_on();
    PUMP_UNTIL(&w, !w.site->compactor->logging);
    assert_true(is_found(chunk)); /* as it was supplied */
    points_check(&segments);
    expect_replica(&b);
    pool_end();
}

/* Then nothing was dropped. */
static void a_merge_that_hung_may_fail(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct build build;
    size_t segments;
    (void)state;
    pool_begin();
    struct site_volume *data = site_find_volume(w.site, "data");
    merge_hang(chunk, true);
    data->settling_vain = true;
    store_go_on();
    PUMP_UNTIL(&w, !w.site->compactor->logging);
    assert_true(data->unsettled && data->drop_unsure);
    reference_build(&build, chunk, 3);
    build_put(&build);
    expect_refusal(&b, 503, REPL_REFUSAL_BUSY, "index is not complete");
    build_fini(&build);
    PUMP_UNTIL(&w, (data->settling_vain = false, site_volume_pump(data), !data->unsettled));
    reference_add(chunk, 3);
    points_check(&segments);
    expect_replica(&b);
    pool_end();
}

/* A merge that dropped the chunk may be in the log, and is not in the index. */
static void what_may_be_gone_is_not_referred_to(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    (void)state;
    pool_begin();
    struct site_volume *data = site_find_volume(w.site, "data");
    lonely_chunk(chunk);
    for (unsigned i = 0; i < 2; i++) {
        struct build build;
        data->index_stale = i == 0;
        data->unsettled = data->settling_vain = data->drop_unsure = i == 1;
        reference_build(&build, chunk, 3);
        build_put(&build);
        expect_refusal(&b, 503, REPL_REFUSAL_BUSY, "index is not complete");
        build_fini(&build);
    }
    data_add(&b, 4); /* what refers to nothing goes on */
    data->unsettled = data->drop_unsure = false;
    reference_add(chunk, 3);
    expect_replica(&b);
    pool_end();
}

static void an_empty_index_drops_nothing(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    (void)state;
    pool_begin();
    struct site_volume *data = site_find_volume(w.site, "data");
    lonely_chunk(chunk);
    merge_hold("data");
    assert_int_equal(w.site->compactor->visit.result.dropped_count, 1);
    reference_add(chunk, 3);
    uint64_t records = data->journal.record_number;
    index_remake();
    merge_begin("data");
    PUMP_UNTIL(&w, !w.site->compactor->logging);
    assert_int_equal(data->journal.record_number, records);
    pool_end();
}

/* --- all at once ----------------------------------------------------------------------------- */

/* Commits and merges at once: what a commit refers to is there afterwards. */
static void commits_and_merges_go_side_by_side(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    unsigned taken = 0;
    (void)state;
    pool_begin();
    for (unsigned round = 0; round < ROUNDS; round++) {
        lonely_chunk(chunk);
        merge_hold("data");
        taken += commit_races(chunk, round % 12);
    }
    print_message("%u taken, %u refused\n", taken, ROUNDS - taken);
    pool_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_volume_restores_when_another_was_merged),
        cmocka_unit_test(it_does_out_of_a_bucket),
        cmocka_unit_test(what_moves_while_it_restores_is_found),
        cmocka_unit_test(a_chunk_of_another_volume_stays),
        cmocka_unit_test(a_chunk_goes_with_the_last_reference),
        cmocka_unit_test(a_log_written_anew_says_the_pool),
        cmocka_unit_test(nothing_is_dropped_where_references_are_not_known),
        cmocka_unit_test(a_commit_looks_again_behind_a_merge),
        cmocka_unit_test(a_commit_that_hangs_holds_up_no_others),
        cmocka_unit_test(a_merge_that_waits_for_long_is_given_up),
        cmocka_unit_test(a_merge_that_hangs_in_its_store_holds_up_no_others),
        cmocka_unit_test(a_merge_that_hung_may_fail),
        cmocka_unit_test(what_may_be_gone_is_not_referred_to),
        cmocka_unit_test(an_empty_index_drops_nothing),
        cmocka_unit_test(commits_and_merges_go_side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
