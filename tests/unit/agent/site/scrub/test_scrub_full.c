/*
 * A segment that cannot be opened says of nothing which bytes it spoke of: the source is asked for
 * a full, which ends the damage, unless a replica lets that wait.
 */
#include "unit/agent/site/scrub/scrub_world.h"

/* Of the format's version, behind the magic bytes of a segment. */
#define VERSION_AT 8

static bool full_is_asked(void)
{
    struct repl_resend resend;
    struct repl_error err;
    assert_int_equal(get(&w, KEY_HOST, "/v1/volumes/data/resend"), 200);
    must(repl_resend_decode(w.response.data, w.response.size, &resend, &err), &err);
    assert_int_equal(resend.count, 0);
    bool full = resend.full;
    repl_resend_fini(&resend);
    return full;
}

/* The visit that follows a while after what was found, or told. */
static void look_again(void)
{
    struct scrub_of_volume *of = &w.site->volumes->scrub;
    assert_true(of->resend_look_ns > repl_now_mono_ns());
    of->resend_look_ns = 1;
    site_scrub_tick(w.site->scrub);
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
}

static void full_send(void)
{
    struct build b;
    uint64_t seq = w.head.to_seq + 1;
    build_begin(&b, &w, 0, seq, 0);
    for (uint64_t at = 0; at < w.size; at += MIB) {
        size_t size = (size_t)(w.size - at < MIB ? w.size - at : MIB);
        uint32_t frame = add_frame(b.builder, w.coder, w.model + at, size);
        build_extent(&b,
                     &(struct repl_extent){
                         .offset = at, .length = size, .source = frame, .type = REPL_RECORD_DATA});
    }
    build_end(&b, true);
    build_commit(&b);
    point_keep();
}

/* Whether the history up to the point can be opened, and the point restored. */
static bool point_opens(uint64_t seq)
{
    struct repl_history *history = history_open();
    const struct repl_catalogue *c = repl_history_catalogue(history);
    struct repl_view *view;
    struct repl_error err;
    size_t i = 0;
    while (c->points[i].point.seq != seq)
        i++;
    bool opens = repl_ok(repl_history_view(history, i, &view, &err));
    if (opens)
        repl_view_free(view);
    repl_history_close(history);
    return opens && point_restores(seq);
}

static void expect_damaged(uint64_t first_seq, uint64_t last_seq)
{
    char text[64];
    snprintf(text, sizeof text, "segment %llu.0 (points %llu to %llu)",
             (unsigned long long)first_seq, (unsigned long long)first_seq,
             (unsigned long long)last_seq);
    assert_string_equal(volume_status(&w, "data").damaged, text);
}

/* Four points, of which the second's segment has neither header nor file. */
static void damage_begin(struct damage *d, bool gone)
{
    char path[256];
    for (unsigned i = 0; i < 3; i++)
        overwrite(MIB * (2 + i), MIB, false);
    segment_path(path, 2);
    damage_take(d, path);
    if (gone)
        assert_int_equal(unlink(path), 0);
    else
        plant(d, 0, 4);
    look();
    expect_damaged(2, 4);
}

static void a_full_ends_it(void **state)
{
    (void)state;
    for (unsigned gone = 0; gone < 2; gone++) {
        struct damage d = {0};
        begin_bare("everything");
        assert_false(full_is_asked());
        damage_begin(&d, gone);
        every(FAR_MS);
        assert_false(full_is_asked()); /* it may come back */
        look_again();
        assert_true(full_is_asked());
        assert_non_null(strstr(status_heard().remedy, "is asked to send all of the volume"));
        assert_false(point_opens(4));
        overwrite(0, MIB, false); /* the point that is on its way */
        assert_true(full_is_asked());
        expect_damaged(2, 4); /* as it was when it was looked at */
        full_send();
        assert_false(full_is_asked());
        PUMP_UNTIL(&w, site_scrub_is_busy(w.site->scrub) ||
                           w.site->volumes->scrub.resend_look_ns == 0 ||
                           (site_scrub_tick(w.site->scrub), false));
        PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
        expect_damaged(2, 5);
        assert_false(full_is_asked());
        assert_null(strstr(status_heard().remedy, "all of the volume"));
        overwrite(3 * MIB, MIB, false);
        assert_true(point_opens(1) && point_opens(6) && point_opens(7));
        damage_put(&d, d.size); /* somebody had a copy */
        look();
        assert_string_equal(volume_status(&w, "data").damaged, "");
        assert_true(point_opens(3));
        damage_fini(&d);
        end();
    }
}

/* A disk that was away for a moment. */
static void what_comes_back_asks_for_nothing(void **state)
{
    struct damage d = {0};
    (void)state;
    begin_bare("everything");
    damage_begin(&d, true);
    every(FAR_MS);
    damage_put(&d, d.size);
    look_again();
    assert_false(full_is_asked());
    assert_string_equal(volume_status(&w, "data").damaged, "");
    assert_int_equal(w.site->volumes->scrub.resend_look_ns, 0);
    damage_fini(&d);
    end();
}

/* It says that a later release made it, as after a downgrade: nothing is lost, and nobody sends all
 * that he has. */
static void what_another_release_reads_asks_for_nothing(void **state)
{
    struct damage d = {0};
    char path[256];
    (void)state;
    begin_bare("everything");
    overwrite(MIB, MIB, false);
    segment_path(path, 2);
    damage_take(&d, path);
    plant(&d, VERSION_AT, 2);
    look();
    look();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
    assert_false(full_is_asked());
    damage_fini(&d);
    end();
}

/* No point comes while a full is on its way: somebody chooses the hour. */
static void a_replica_lets_it_wait(void **state)
{
    struct damage d = {0};
    (void)state;
    begin("everything");
    for (unsigned i = 0; i < 3; i++)
        overwrite(MIB * (2 + i), MIB, false);
    expect_replica(&w);
    char path[256];
    segment_path(path, 2);
    damage_take(&d, path);
    plant(&d, 0, 4);
    look();
    every(FAR_MS);
    look_again();
    assert_false(full_is_asked());
    assert_non_null(strstr(status_heard().remedy, "run \"repl full data\" on its host"));
    full_send();
    expect_replica(&w);
    look();
    expect_damaged(2, 4);
    assert_null(strstr(status_heard().remedy, "repl full"));
    damage_fini(&d);
    end();
}

/* Damage in frames of what is before a full, or in the full itself, is no reason for another. */
static void what_opens_is_asked_for_by_pages(void **state)
{
    struct damage d = {0};
    char path[256];
    (void)state;
    begin_bare("everything");
    overwrite(MIB, MIB, false);
    segment_path(path, 1);
    damage_take(&d, path);
    plant(&d, 5 * MIB, 10);
    look();
    look();
    struct repl_resend resend;
    struct repl_error err;
    assert_int_equal(get(&w, KEY_HOST, "/v1/volumes/data/resend"), 200);
    must(repl_resend_decode(w.response.data, w.response.size, &resend, &err), &err);
    assert_false(resend.full);
    assert_int_equal(resend.count, 1);
    repl_resend_fini(&resend);
    damage_fini(&d);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_ends_it),
        cmocka_unit_test(what_comes_back_asks_for_nothing),
        cmocka_unit_test(what_another_release_reads_asks_for_nothing),
        cmocka_unit_test(a_replica_lets_it_wait),
        cmocka_unit_test(what_opens_is_asked_for_by_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
