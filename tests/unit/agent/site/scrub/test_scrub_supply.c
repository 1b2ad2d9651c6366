/*
 * Supplies that are damaged: they are mended of whatever else has their chunks, in the pool, and
 * else the points are named, of all volumes, that refer to what is lost.
 */
#include "unit/agent/site/scrub/scrub_world.h"

#include "unit/agent/site/compactor/compactor_pool.h"

#define NAMED_SLOT 40u /* where point 2 of data refers to the chunk of its supply */

static uint8_t chunk[REPL_CHUNK_SIZE];
static struct damage d;

static void scrub_all(void)
{
    every(SOON_MS);
    turns(SOON_MS + 10);
    for (struct site_volume *v = w.site->volumes; v != NULL; v = v->next)
        v->scrub.next_ns = 0;
    site_scrub_tick(w.site->scrub);
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
}

static void supply_path(char path[256])
{
    file_path(&w, path, "segments/00000000000000000002.000000.001.sup");
}

/* Point 2 of data, which refers to a chunk that came as a supply; foreign: of another zstd. And of
 * else, if it is to. */
static void supplied_begin(bool foreign, bool shared)
{
    char path[256];
    struct build build, supply;
    pool_begin_in("everything", false);
    text_fill(chunk, sizeof chunk);
    supply_begin(&supply, &w, 2);
    supply_end(&supply,
               foreign ? foreign_frame(&supply, chunk, sizeof chunk)
                       : add_frame(supply.builder, w.coder, chunk, sizeof chunk),
               chunk, 1);
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    time_next(&w);
    build_begin(&build, &w, 1, 2, 0);
    build_chunk(&build, NAMED_SLOT * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunk, 0);
    build_end(&build, true);
    build_commit(&build);
    point_keep();
    second_begin();
    if (shared)
        reference_add(chunk, 3);
    expect_replica(&w);
    supply_path(path);
    damage_take(&d, path);
}

static void supplied_end(void)
{
    damage_fini(&d);
    d = (struct damage){0};
    pool_end();
}

static void expect_whole(void)
{
    scrub_all();
    assert_string_equal(volume_status(&w, "data").damaged, "");
    assert_string_equal(volume_status(&w, "else").damaged, "");
    assert_int_equal(volume_status(&w, "data").repaired_segments, 1);
    assert_true(point_restores(2));
}

static void a_supply_is_mended_of_the_replica(void **state)
{
    (void)state;
    supplied_begin(false, false);
    plant(&d, 200, 3);
    assert_false(point_restores(2));
    expect_whole();
    assert_true(is_as_it_was(&d));
    supplied_end();
}

static void a_supply_is_mended_of_the_replica_of_another_volume(void **state)
{
    (void)state;
    supplied_begin(false, true);
    data_add(&w, NAMED_SLOT); /* the replica of data has it no more */
    expect_replica(&w);
    expect_replica(&b);
    plant(&d, 200, 3);
    expect_whole();
    assert_true(is_as_it_was(&d));
    supplied_end();
}

/* It cannot be made what it was, but says the same, at the places that the index knows. */
static void a_supply_of_another_zstd_is_made_anew(void **state)
{
    struct repl_chunk_place before, after;
    struct repl_digest name;
    struct repl_error err;
    bool found;
    (void)state;
    supplied_begin(true, true);
    name = chunk_name_of(chunk);
    must(repl_index_chunk(w.site->index, "data", &name, &before, &found, &err), &err);
    assert_true(found);
    uint64_t stored = volume_status(&w, "data").stored_bytes - size_below(&w, "segments");
    plant(&d, 200, 3);
    expect_whole();
    assert_false(is_as_it_was(&d));
    must(repl_index_chunk(w.site->index, "data", &name, &after, &found, &err), &err);
    assert_true(found && before.frame == after.frame && before.frame_offset == after.frame_offset);
    assert_int_equal(before.segment.supply, after.segment.supply);
    assert_int_equal(volume_status(&w, "data").stored_bytes, stored + size_below(&w, "segments"));
    supplied_end();
}

/* The runs of points of a volume that are said to be damaged, "2-4 6-6". */
static void expect_damaged(const char *volume, const char *runs)
{
    struct repl_damaged damaged;
    struct repl_error err;
    char path[64], text[128] = "";
    size_t used = 0;
    snprintf(path, sizeof path, "/v1/volumes/%s/damaged", volume);
    assert_int_equal(get(&w, strcmp(volume, "data") == 0 ? KEY_HOST : KEY_OTHER, path), 200);
    must(repl_damaged_decode(w.response.data, w.response.size, &damaged, &err), &err);
    assert_true(damaged.complete);
    for (uint32_t i = 0; i < damaged.count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%llu-%llu", i > 0 ? " " : "",
                                 (unsigned long long)damaged.runs[i].first_seq,
                                 (unsigned long long)damaged.runs[i].last_seq);
    repl_damaged_fini(&damaged);
    assert_string_equal(text, runs);
}

static uint32_t asked_pages(const char *volume, enum key key)
{
    struct repl_resend resend;
    struct repl_error err;
    char path[64];
    uint32_t pages = 0;
    snprintf(path, sizeof path, "/v1/volumes/%s/resend", volume);
    assert_int_equal(get(&w, key, path), 200);
    must(repl_resend_decode(w.response.data, w.response.size, &resend, &err), &err);
    for (uint32_t i = 0; i < resend.count; i++)
        pages += (uint32_t)resend.runs[i].count;
    repl_resend_fini(&resend);
    return pages;
}

/* The replicas have something else in its place by now: they are of no use. */
static void replicas_break(void)
{
    static const uint8_t junk[REPL_CHUNK_SIZE] = {1};
    char path[256];
    replica_path(&w, path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, junk, sizeof junk, NAMED_SLOT * REPL_CHUNK_SIZE), sizeof junk);
    close(fd);
    replica_path(&b, path);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    for (unsigned slot = 0; slot < 64; slot++)
        assert_int_equal(pwrite(fd, junk, sizeof junk, (off_t)slot * REPL_CHUNK_SIZE), sizeof junk);
    close(fd);
}

/* What the source of data sends again goes by its name: the site lacks it, and is supplied. */
static void send_again(void)
{
    struct build build, supply;
    uint64_t seq = w.head.to_seq + 1;
    time_next(&w);
    build_begin(&build, &w, seq - 1, seq, 0);
    build_chunk(&build, NAMED_SLOT * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunk, 0);
    build_end(&build, true);
    build_put(&build);
    expect_missing(&w, 1);
    supply_begin(&supply, &w, seq);
    supply_end(&supply, add_frame(supply.builder, w.coder, chunk, sizeof chunk), chunk, 1);
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    build_commit(&build);
    point_keep();
}

static void lost_begin(void)
{
    supplied_begin(false, true);
    data_add(&w, 3);
    point_keep();
    data_add(&b, 3); /* said anew */
    reference_add(chunk, 5);
    data_add(&b, 9);
    expect_replica(&w);
    expect_replica(&b);
    replicas_break();
}

static void expect_lost(void)
{
    scrub_all();
    assert_string_equal(volume_status(&w, "data").damaged,
                        "supply 2.0.1 (points 2 to 3 that refer to its chunks; and volumes that "
                        "refer to its chunks: else)");
    assert_string_equal(volume_status(&w, "else").damaged,
                        "chunks in supply 2.0.1 of volume data (points 2 to 5)");
    assert_true(volume_status(&w, "else").state >= REPL_STATE_DEGRADED);
    expect_damaged("data", "2-3");
    expect_damaged("else", "2-2 4-5");
    assert_int_equal(asked_pages("data", KEY_HOST), REPL_CHUNK_PAGES);
    assert_int_equal(asked_pages("else", KEY_OTHER), REPL_CHUNK_PAGES);
}

static void what_is_lost_is_named_and_asked_for(void **state)
{
    (void)state;
    lost_begin();
    plant(&d, 200, 3);
    expect_lost();
    send_again();
    expect_whole();
    assert_true(is_as_it_was(&d));
    expect_damaged("data", "");
    expect_damaged("else", "");
    assert_int_equal(asked_pages("else", KEY_OTHER), 0);
    supplied_end();
}

/* The same of one that does not open, be its chunks in the index or not; what it had lies elsewhere
 * then, and nothing needs it. */
static void a_supply_that_does_not_open_is_named_and_replaced(void **state)
{
    char path[256];
    (void)state;
    for (unsigned remade = 0; remade <= 1; remade++) {
        lost_begin();
        plant(&d, d.size - 20, 3);
        if (remade) {
            site_stop(&w);
            index_remove(&w);
            site_start(&w);
            b.site = w.site;
        }
        expect_lost();
        supplies_look(); /* what it had may be brought back */
        supply_path(path);
        assert_int_equal(access(path, F_OK), 0);
        send_again();
        scrub_all();
        assert_string_equal(volume_status(&w, "else").damaged, "");
        expect_damaged("data", "");
        expect_damaged("else", "");
        for (uint64_t seq = 1; seq <= w.head.to_seq; seq++)
            assert_true(point_restores(seq));
        supplies_look();
        supply_path(path);
        assert_int_equal(access(path, F_OK), -1);
        scrub_all();
        assert_string_equal(volume_status(&w, "data").damaged, "");
        supplied_end();
    }
}

/* Its file is not there any more, and nobody has removed it: that is seen while the site runs, and
 * after a start, by what was read of it. */
static void a_supply_that_is_gone_is_named(void **state)
{
    char path[256];
    (void)state;
    for (unsigned restarts = 0; restarts <= 1; restarts++) {
        lost_begin();
        scrub_all();
        assert_string_equal(volume_status(&w, "data").damaged, "");
        if (restarts)
            site_stop(&w);
        supply_path(path);
        assert_int_equal(unlink(path), 0);
        if (restarts) {
            site_start(&w);
            b.site = w.site;
        }
        expect_lost();
        scrub_all();
        expect_lost();
        send_again();
        scrub_all();
        assert_string_equal(volume_status(&w, "data").damaged, "");
        assert_string_equal(volume_status(&w, "else").damaged, "");
        supplied_end();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_supply_is_mended_of_the_replica),
        cmocka_unit_test(a_supply_is_mended_of_the_replica_of_another_volume),
        cmocka_unit_test(a_supply_of_another_zstd_is_made_anew),
        cmocka_unit_test(what_is_lost_is_named_and_asked_for),
        cmocka_unit_test(a_supply_that_does_not_open_is_named_and_replaced),
        cmocka_unit_test(a_supply_that_is_gone_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
