/*
 * What is damaged and nowhere else at the site is asked of the source, as far as it may have it:
 * what it sends mends the segment where it is what it was, and ends the damage where it is not.
 */
#include "unit/agent/site/scrub/scrub_world.h"

/* A frame of the seed. */
#define FRAME     (3 * MIB)
#define FRAME_AT  (FRAME / REPL_PAGE_SIZE)
#define MIB_PAGES (MIB / REPL_PAGE_SIZE)

/* What the source is asked for. */
static struct repl_resend asked(void)
{
    struct repl_resend resend;
    struct repl_error err;
    assert_int_equal(get(&w, KEY_HOST, "/v1/volumes/data/resend"), 200);
    must(repl_resend_decode(w.response.data, w.response.size, &resend, &err), &err);
    return resend;
}

/* The only run of points that are said to be damaged; 0: none is. */
static void expect_damaged(uint64_t first_seq, uint64_t last_seq)
{
    struct repl_damaged damaged;
    struct repl_error err;
    assert_int_equal(get(&w, KEY_RECOVERY, "/v1/volumes/data/damaged"), 200);
    must(repl_damaged_decode(w.response.data, w.response.size, &damaged, &err), &err);
    assert_true(damaged.complete);
    assert_int_equal(damaged.count, first_seq != 0);
    if (first_seq != 0) {
        assert_int_equal(damaged.runs[0].first_seq, first_seq);
        assert_int_equal(damaged.runs[0].last_seq, last_seq);
    }
    repl_damaged_fini(&damaged);
}

static void expect_nothing_asked(void)
{
    struct repl_resend resend = asked();
    assert_int_equal(resend.count, 0);
    repl_resend_fini(&resend);
}

/* The pages as they are, although they have not changed: the next point. */
static void send_again(const struct repl_resend *resend)
{
    struct build b;
    build_begin(&b, &w, w.head.to_seq, w.head.to_seq + 1, 0);
    for (uint32_t i = 0; i < resend->count; i++) {
        const struct repl_page_run *run = &resend->runs[i];
        for (uint64_t done = 0; done < run->count; done += MIB_PAGES) {
            uint64_t left = run->count - done;
            size_t size = (size_t)(left < MIB_PAGES ? left : MIB_PAGES) * REPL_PAGE_SIZE;
            uint64_t offset = (run->first + done) * REPL_PAGE_SIZE;
            uint32_t frame = add_frame(b.builder, w.coder, w.model + offset, size);
            build_extent(&b, &(struct repl_extent){.offset = offset,
                                                   .length = size,
                                                   .source = frame,
                                                   .type = REPL_RECORD_DATA});
        }
    }
    build_end(&b, true);
    build_commit(&b);
    point_keep();
}

/* The seed's frame is damaged, and that has been found. */
static void damage_begin(struct damage *d)
{
    char path[256];
    segment_path(path, 1);
    damage_take(d, path);
    plant(d, FRAME + 1000, 5);
    look();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
}

static void what_has_not_changed_is_sent_again(void **state)
{
    struct damage d = {0};
    (void)state;
    begin_bare("everything");
    expect_nothing_asked();
    overwrite(5 * MIB, MIB / 2, false); /* elsewhere */
    damage_begin(&d);
    struct repl_resend resend = asked();
    assert_int_equal(resend.count, 1);
    assert_int_equal(resend.runs[0].first, FRAME_AT);
    assert_int_equal(resend.runs[0].count, MIB_PAGES);
    assert_int_equal(get(&w, KEY_RECOVERY, "/v1/volumes/data/resend"), 403);
    expect_damaged(1, 2);
    send_again(&resend);
    overwrite(FRAME + 7 * REPL_PAGE_SIZE, REPL_PAGE_SIZE, false); /* and only then written */
    repl_resend_fini(&resend);
    look();
    assert_string_equal(volume_status(&w, "data").damaged, "");
    assert_int_equal(volume_status(&w, "data").repaired_segments, 1);
    assert_true(is_as_it_was(&d));
    expect_damaged(0, 0);
    for (uint64_t seq = 1; seq <= w.head.to_seq; seq++)
        assert_true(point_restores(seq));
    expect_nothing_asked();
    damage_fini(&d);
    end();
}

/* A page was written before: it is lost for the points that need it, and they are the ones named.
 */
static void what_has_changed_is_lost_and_said(void **state)
{
    struct damage d = {0};
    (void)state;
    begin_bare("everything");
    overwrite(FRAME + 9 * REPL_PAGE_SIZE, REPL_PAGE_SIZE, false);
    damage_begin(&d);
    assert_string_equal(volume_status(&w, "data").damaged, "segment 1.0 (points 1 to 2)");
    struct repl_resend resend = asked();
    assert_int_equal(resend.count, 2);
    assert_int_equal(resend.runs[0].first, FRAME_AT);
    assert_int_equal(resend.runs[0].count, 9);
    assert_int_equal(resend.runs[1].first, FRAME_AT + 10);
    assert_int_equal(resend.runs[1].count, MIB_PAGES - 10);
    send_again(&resend);
    repl_resend_fini(&resend);
    overwrite(0, REPL_PAGE_SIZE, false);
    look();
    assert_string_equal(volume_status(&w, "data").damaged, "segment 1.0 (points 1 to 2)");
    assert_false(is_as_it_was(&d));
    for (uint64_t seq = 1; seq <= w.head.to_seq; seq++)
        assert_int_equal(point_restores(seq), seq > 2);
    expect_nothing_asked(); /* there is nothing left of it that is not lost */
    expect_damaged(1, 2);
    damage_fini(&d);
    end();
}

/* What refers to a chunk in the damaged frame is damaged as well, and asked for. */
static void what_refers_to_damage_is_asked_for(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct damage d = {0};
    struct build b;
    (void)state;
    begin_bare("everything");
    memcpy(chunk, w.model + FRAME + 2 * REPL_CHUNK_SIZE, sizeof chunk);
    build_begin(&b, &w, 1, 2, 0);
    build_chunk(&b, MIB, REPL_CHUNK_SIZE, chunk, 0);
    memcpy(chunk, w.model + 4 * MIB, sizeof chunk); /* whose frame is whole */
    build_chunk(&b, 2 * MIB, REPL_CHUNK_SIZE, chunk, 0);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
    overwrite(FRAME, MIB, false);
    damage_begin(&d);
    assert_string_equal(volume_status(&w, "data").damaged, "segment 1.0 (points 1 to 3)");
    struct repl_resend resend = asked();
    assert_int_equal(resend.count, 1);
    assert_int_equal(resend.runs[0].first, MIB / REPL_PAGE_SIZE);
    assert_int_equal(resend.runs[0].count, REPL_CHUNK_PAGES);
    send_again(&resend);
    repl_resend_fini(&resend);
    look();
    assert_string_equal(volume_status(&w, "data").damaged, "segment 1.0 (points 1 to 3)");
    assert_true(point_restores(4));
    expect_nothing_asked();
    damage_fini(&d);
    end();
}

/* More than is held in memory at once, as a bad stretch of a disk leaves it. */
static void much_damage_is_mended(void **state)
{
    struct damage d = {0};
    struct build b;
    char path[256];
    (void)state;
    world_init(&w, "none");
    w.retention = "everything";
    site_start(&w);
    hello(&w);
    build_begin(&b, &w, 0, 1, 0);
    for (uint64_t at = 0; at < w.size; at += 8 * REPL_PAGE_SIZE)
        build_data(&b, at, w.size - at < 8 * REPL_PAGE_SIZE ? w.size - at : 8 * REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
    segment_path(path, 1);
    damage_take(&d, path);
    plant(&d, MIB + 1000, 3 * MIB); /* 97 frames */
    look();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
    struct repl_resend resend = asked();
    assert_int_equal(resend.count, 1);
    assert_in_range(resend.runs[0].count, 3 * MIB_PAGES, 3 * MIB_PAGES + 8);
    send_again(&resend);
    repl_resend_fini(&resend);
    look();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
    assert_true(is_as_it_was(&d));
    assert_true(point_restores(1) && point_restores(2));
    expect_nothing_asked();
    damage_fini(&d);
    end();
}

/* The source comes with it soon after it was told, and that is looked at without waiting for the
 * next hour; what is found beside it is asked for as well. */
static void what_comes_is_looked_at_soon(void **state)
{
    struct damage d = {0};
    char path[256];
    (void)state;
    begin_bare("everything");
    overwrite(5 * MIB, MIB / 2, false);
    damage_begin(&d);
    every(FAR_MS);
    struct scrub_of_volume *of = &w.site->volumes->scrub;
    assert_int_equal(of->resend_look_ns, 0);
    struct repl_resend resend = asked();
    assert_true(of->resend_look_ns > repl_now_mono_ns());
    of->resend_look_ns = 1;
    site_scrub_tick(w.site->scrub); /* nothing has come */
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
    assert_true(of->resend_look_ns > repl_now_mono_ns() + of->resend_pause_ns / 2);
    send_again(&resend);
    repl_resend_fini(&resend);
    of->resend_look_ns = 1;
    site_scrub_tick(w.site->scrub);
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
    assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
    assert_true(is_as_it_was(&d));
    assert_int_equal(of->resend_look_ns, 0);
    /* One, and later another: each list is of all there is. */
    plant(&d, FRAME + 1000, 5);
    look();
    segment_path(path, 2);
    flip_bit(path, 300);
    look();
    resend = asked();
    assert_int_equal(resend.count, 1); /* as the frame of the seed is said again in point 3 */
    assert_int_equal(resend.runs[0].first, 5 * MIB / REPL_PAGE_SIZE);
    repl_resend_fini(&resend);
    damage_fini(&d);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_has_not_changed_is_sent_again),
        cmocka_unit_test(what_has_changed_is_lost_and_said),
        cmocka_unit_test(what_refers_to_damage_is_asked_for),
        cmocka_unit_test(much_damage_is_mended),
        cmocka_unit_test(what_comes_is_looked_at_soon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
