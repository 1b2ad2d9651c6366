/*
 * A site that merges a volume whose chunks another one of its pool refers to: they are carried
 * along while it does, and no commit finds one that is about to be dropped.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "fake/fake_s3.h"
#include "site/index/index_internal.h"
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
    setenv("AWS_ACCESS_KEY_ID", FAKE_S3_KEY_ID, 1);
    setenv("AWS_SECRET_ACCESS_KEY", FAKE_S3_SECRET, 1);
    struct fake_s3 *fake = fake_s3_start();
    assert_non_null(fake);
    pool_begin_in("1s:1d", "s3://bucket/dc/site", fake_s3_endpoint(fake));
    other_restores_after_a_merge();
    pool_end();
    fake_s3_stop(fake);
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

/* As after a failed sync, and the loop does not know of it yet. */
static void index_remake(void)
{
    struct repl_error err;
    pthread_mutex_lock(&w.site->index_lock);
    must(repl_index_remake(w.site->index, &err), &err);
    pthread_mutex_unlock(&w.site->index_lock);
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
    visits_go_on();
    merge_begin("data");
    PUMP_UNTIL(&w, !w.site->compactor->logging);
    assert_int_equal(data->journal.record_number, records);
    pool_end();
}

/* --- supplies -------------------------------------------------------------------------------- */

/* For segment 2.0 of data: a chunk that nobody else has. */
static void supply_make(uint8_t chunk[REPL_CHUNK_SIZE])
{
    struct build build;
    random_fill(&w.random, chunk, REPL_CHUNK_SIZE);
    supply_build(&build, &w, chunk, 1);
    assert_int_equal(supply_put(&build, 1), 201);
    build_fini(&build);
    assert_true(is_found(chunk));
}

static bool supply_is_there(void)
{
    char path[256];
    file_path(&w, path, "segments/00000000000000000002.000000.001.sup");
    return access(path, F_OK) == 0;
}

/* Long enough for a look, another one, and the removal. */
static void supplies_look(void)
{
    struct site_volume *v = site_find_volume(w.site, "data");
    w.site->config->grace_ms = 0;
    w.site->compactor->supply_every_ns = SECOND_NS / 5;
    for (size_t i = 0; i < v->supply_count; i++)
        v->supplies[i].look_ns = 0;
    for (unsigned i = 0; i < 4; i++) {
        compactor_supplies_tick(w.site->compactor);
        turns(250);
    }
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

/* --- all at once ----------------------------------------------------------------------------- */

/* Commits and merges at once: what a commit refers to is there afterwards. */
static void commits_and_merges_go_side_by_side(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    unsigned taken = 0, refused = 0;
    (void)state;
    pool_begin();
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct build build;
        struct repl_error err;
        struct call call;
        lonely_chunk(chunk);
        merge_hold("data");
        reference_build(&build, chunk, 3);
        call_init(&call, &b, "PUT", "/v1/volumes/else/segments/%llu.0",
                  (unsigned long long)build.header.to_seq);
        call.request.body = build.file.bytes.data;
        call.request.body_size = build.file.bytes.size;
        must(repl_request_start(b.clients[KEY_OTHER], &call.request, &err), &err);
        for (unsigned i = 0; i < round % 12; i++)
            turn(&w);
        merge_begin("data");
        PUMP_UNTIL(&w, call.done && !w.site->compactor->logging);
        assert_true(b.status == 201 || b.status == 409);
        if (b.status == 201)
            build_taken(&build);
        assert_int_equal(is_found(chunk), b.status == 201);
        taken += b.status == 201;
        refused += b.status == 409;
        build_fini(&build);
    }
    print_message("%u taken, %u refused\n", taken, refused);
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
        cmocka_unit_test(what_may_be_gone_is_not_referred_to),
        cmocka_unit_test(an_empty_index_drops_nothing),
        cmocka_unit_test(an_empty_index_needs_the_supply),
        cmocka_unit_test(a_supply_goes_with_the_last_reference),
        cmocka_unit_test(a_supply_that_lay_there_at_the_start_goes),
        cmocka_unit_test(a_supply_that_nobody_referred_to_goes),
        cmocka_unit_test(a_supply_that_is_found_waits_anew),
        cmocka_unit_test(a_supply_stays_where_its_places_may),
        cmocka_unit_test(commits_and_merges_go_side_by_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
