/*
 * A site that reads what it has: all of it and evenly, not faster than it may, damage wherever it
 * was planted, on from where it was after a restart, and beside merges that take segments away.
 */
#include "unit/agent/site/scrub/scrub_world.h"

static void all_is_read_and_noted(void **state)
{
    (void)state;
    begin_bare("everything");
    supplied_make();
    points_make(11);
    every(SOON_MS);
    round_make();
    struct repl_volume_status status = status_heard();
    assert_int_equal(status.damaged_segments, 0);
    assert_true(status.state < REPL_STATE_DEGRADED);
    assert_in_range(status.unverified_ms, 0, 20000);
    assert_true(status.scrubbed_bytes >= stored_bytes());
    struct repl_verified_list list = verified_read();
    assert_int_equal(list.count, 14);
    repl_verified_list_fini(&list);
    end();
}

/* With the age that is wanted far off, next to nothing is read, and no more after a restart. */
static void what_is_not_due_is_left_alone(void **state)
{
    (void)state;
    begin_bare("everything");
    points_make(12);
    every(FAR_MS);
    round_make();
    assert_true(volume_status(&w, "data").scrubbed_bytes < stored_bytes() / 10);
    assert_in_range(volume_status(&w, "data").unverified_ms, 0, 60000);
    site_restart(&w);
    every(FAR_MS);
    round_make();
    assert_true(volume_status(&w, "data").scrubbed_bytes < stored_bytes() / 10);
    w.site->config->scrub_every_ms = 0;
    uint64_t before = volume_status(&w, "data").scrubbed_bytes;
    w.site->volumes->scrub.next_ns = 0;
    site_scrub_tick(w.site->scrub);
    assert_false(site_scrub_is_busy(w.site->scrub));
    assert_int_equal(volume_status(&w, "data").scrubbed_bytes, before);
    end();
}

static void it_is_not_faster_than_it_may(void **state)
{
    (void)state;
    begin_bare("everything");
    points_make(3);
    every(SOON_MS);
    w.site->config->scrub_rate_bytes = 3 * MIB;
    int64_t begin_ns = repl_now_mono_ns();
    round_make();
    double seconds = (double)(repl_now_mono_ns() - begin_ns) / 1e9;
    double bytes = (double)volume_status(&w, "data").scrubbed_bytes;
    print_message("%.1f MiB in %.2f s\n", bytes / MIB, seconds);
    assert_true(bytes > 6 * MIB && bytes / seconds < 3.0 * MIB * 1.1);
    end();
}

/* Header, frame, manifest, index and footer, a byte too few, a file that is gone: each is found and
 * said, with its points, and said no more when the file is as it was. */
static void damage_is_found_wherever_it_is(void **state)
{
    char path[256];
    struct damage good = {0};
    (void)state;
    begin_bare("everything");
    points_make(6);
    every(SOON_MS);
    round_make();
    segment_path(path, 4);
    damage_take(&good, path);
    const size_t places[] = {3, good.size / 2, good.size - 200, good.size - 20};
    for (size_t i = 0; i < 6; i++) {
        if (i < 4)
            flip_bit(path, (off_t)places[i]);
        else if (i == 4)
            damage_put(&good, good.size - 1);
        else
            assert_int_equal(unlink(path), 0);
        every(SOON_MS);
        round_make();
        struct repl_volume_status status = status_heard();
        assert_int_equal(status.damaged_segments, 1);
        assert_int_equal(status.state, REPL_STATE_DEGRADED);
        assert_string_equal(status.damaged, "segment 4.0 (points 4 to 7)");
        assert_non_null(strstr(status.cause, status.damaged));
        assert_string_not_equal(status.remedy, "");
        damage_put(&good, good.size);
        every(SOON_MS);
        round_make();
        assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
        assert_true(status_heard().state < REPL_STATE_DEGRADED);
    }
    damage_fini(&good);
    flip_bit(path, 300);
    segment_path(path, 6);
    flip_bit(path, 300);
    every(SOON_MS);
    round_make();
    struct repl_volume_status status = volume_status(&w, "data");
    assert_string_equal(status.damaged, "segment 4.0 (points 4 to 7), and 1 more");
    end();
}

/* What was found damaged is said again after a restart, before it is read again, and new points
 * are taken in all the while. */
static void damage_is_remembered(void **state)
{
    char path[256];
    (void)state;
    begin_bare("everything");
    points_make(3);
    segment_path(path, 2);
    flip_bit(path, 400);
    every(SOON_MS);
    round_make();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
    site_restart(&w);
    every(FAR_MS);
    round_make();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
    hello(&w);
    points_make(2);
    file_path(&w, path, "verified");
    append_bytes(path, "torn", 4);
    site_restart(&w);
    every(SOON_MS);
    round_make();
    assert_string_equal(volume_status(&w, "data").damaged, "segment 2.0 (points 2 to 6)");
    struct repl_verified_list list = verified_read();
    assert_int_equal(list.count, 6);
    repl_verified_list_fini(&list);
    end();
}

static void count_findings(void *context, const char *text)
{
    (void)text;
    ++*(unsigned *)context;
}

/* Damage in what is left out is not seen, as it is not read. */
static void aged_check(struct repl_history *history, uint64_t skip_to, uint64_t count,
                       unsigned damaged)
{
    bool skip[16] = {false};
    unsigned findings = 0;
    struct repl_verify_result result;
    struct repl_error err;
    const struct repl_catalogue *c = repl_history_catalogue(history);
    assert_int_equal(c->segment_count, count);
    for (size_t i = 0; i < count; i++)
        skip[i] = c->segments[i].head.to_seq <= skip_to;
    struct repl_verify_options options = {
        .history = history, .skip = skip, .finding = count_findings, .context = &findings};
    must(repl_verify_history(&options, &result, &err), &err);
    assert_int_equal(result.damaged_count, damaged);
    assert_int_equal(findings, damaged);
    assert_true(skip_to < count || result.bytes == 0);
    repl_verify_result_fini(&result);
}

/* Who reads the history is told when what was read, by the site and by the store itself. */
static void readers_are_told(void **state)
{
    char path[256];
    struct repl_origin *origin;
    struct repl_history *history;
    struct repl_verified_list stored, told;
    struct repl_error err;
    size_t whole;
    int64_t before_ns = repl_now_wall_ns();
    (void)state;
    begin_bare("everything");
    points_make(6);
    segment_path(path, 3);
    flip_bit(path, 400);
    every(SOON_MS);
    round_make();
    increment(&w); /* not read since it was committed */
    assert_int_equal(get(&w, KEY_RECOVERY, "/v1/volumes/data/verified"), 200);
    must(repl_verified_list_read(w.response.data, w.response.size, &told, &whole, &err), &err);
    assert_int_equal(whole, w.response.size);
    const struct repl_store_options options = {.location = w.store};
    must(repl_origin_open_store(&options, "data", &origin, &err), &err);
    must(repl_history_open(origin, &history, &err), &err);
    must(origin->ops->verified(origin, &stored, &err), &err);
    assert_int_equal(told.count, 8);
    assert_int_equal(stored.count, 8);
    for (size_t i = 0; i < 8; i++) {
        assert_memory_equal(&told.items[i], &stored.items[i], sizeof told.items[i]);
        assert_int_equal(told.items[i].damaged, i == 2);
        assert_true(told.items[i].time_ns >= before_ns);
        assert_true(told.items[i].time_ns <= repl_now_wall_ns());
    }
    aged_check(history, 0, 8, 1);
    aged_check(history, 3, 8, 0);
    aged_check(history, 8, 8, 0);
    repl_history_close(history);
    repl_verified_list_fini(&told);
    repl_verified_list_fini(&stored);
    end();
}

/* A point that refers to the chunk by its name: the answer. */
static int chunk_point_put(struct build *b, const uint8_t *chunk)
{
    build_begin(b, &w, 1, 2, 0);
    build_chunk(b, 5 * MIB, REPL_CHUNK_SIZE, chunk, 0);
    build_end(b, true);
    return build_put(b);
}

/* A chunk that has rotted is asked for again, and lies elsewhere then, for all that refer to it. */
static void no_point_relies_on_what_is_damaged(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    char path[256];
    struct build b;
    struct repl_chunk_place place;
    struct repl_error err;
    bool found;
    (void)state;
    begin_bare("everything");
    memcpy(chunk, w.model, sizeof chunk);
    segment_path(path, 1);
    flip_bit(path, 1000);
    every(SOON_MS);
    round_make();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
    chunk_point_put(&b, chunk);
    expect_missing(&w, 1);
    supply_give(&w, chunk, 1);
    build_commit(&b);
    const struct repl_digest name = chunk_name_of(chunk);
    must(repl_index_chunk(w.site->index, "data", &name, &place, &found, &err), &err);
    assert_true(found && place.segment.supply == 1);
    end();
    begin_bare("everything"); /* nor is it asked for where it is whole */
    memcpy(chunk, w.model, sizeof chunk);
    every(SOON_MS);
    round_make();
    assert_int_equal(chunk_point_put(&b, chunk), 201);
    build_fini(&b);
    end();
}

/* While it reads, the process ends and begins anew: in the end all is read. */
static void restarts_in_the_middle(void **state)
{
    struct repl_verified_list list = {0};
    (void)state;
    begin_bare("everything");
    points_make(30);
    for (unsigned i = 0; i < 60 && list.count < 31; i++) {
        every(SOON_MS);
        w.site->config->scrub_rate_bytes = 40 * MIB;
        w.site->volumes->scrub.next_ns = 0;
        site_scrub_tick(w.site->scrub);
        turns(i * 20);
        site_restart(&w);
        repl_verified_list_fini(&list);
        list = verified_read();
    }
    assert_int_equal(list.count, 31);
    repl_verified_list_fini(&list);
    end();
}

/* Merges take away what is being read: that is no damage, and pieces count as read when they were
 * read back. */
static void merges_go_on_beside_it(void **state)
{
    size_t segments;
    (void)state;
    begin("2s:1h 1h:1d");
    points_make(40);
    w.site->config->grace_ms = 0;
    hurry();
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    for (unsigned i = 0; i < 15 || points_check(&segments) == w.head.to_seq; i++) {
        assert_true(repl_now_mono_ns() < until_ns);
        every(SOON_MS);
        w.site->volumes->scrub.next_ns = 0;
        points_make(3);
        site_compactor_tick(w.site->compactor);
        site_scrub_tick(w.site->scrub);
        turns(30);
        assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
    }
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_is_read_and_noted),
        cmocka_unit_test(what_is_not_due_is_left_alone),
        cmocka_unit_test(it_is_not_faster_than_it_may),
        cmocka_unit_test(damage_is_found_wherever_it_is),
        cmocka_unit_test(damage_is_remembered),
        cmocka_unit_test(readers_are_told),
        cmocka_unit_test(no_point_relies_on_what_is_damaged),
        cmocka_unit_test(restarts_in_the_middle),
        cmocka_unit_test(merges_go_on_beside_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
