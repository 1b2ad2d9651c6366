/*
 * What is damaged is what other volumes of the pool refer to: they are named.
 */
#include "unit/agent/site/scrub/scrub_world.h"

#include "unit/agent/site/compactor/compactor_pool.h"

#define SLOT 57u /* a chunk of the seed, in the frame that begins at 3 MiB */

static void scrub_all(int64_t every_ms)
{
    every(every_ms);
    turns(SOON_MS + 10);
    for (struct site_volume *v = w.site->volumes; v != NULL; v = v->next)
        v->scrub.next_ns = 0;
    site_scrub_tick(w.site->scrub);
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
}

static void volumes_that_refer_to_damage_are_named(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    char path[256];
    struct damage d = {0};
    (void)state;
    pool_begin();
    memcpy(chunk, w.model + SLOT * REPL_CHUNK_SIZE, sizeof chunk);
    data_add(&w, SLOT); /* the replica has it no more */
    data_add(&w, SLOT - 1);
    expect_replica(&w);
    segment_path(path, 1);
    damage_take(&d, path);
    plant(&d, 3 * MIB + 1000, 1);
    scrub_all(SOON_MS);
    assert_string_equal(volume_status(&w, "data").damaged, "segment 1.0 (points 1 to 3)");
    damage_put(&d, d.size);
    scrub_all(SOON_MS);
    second_begin();
    reference_add(chunk, 3);
    plant(&d, 3 * MIB + 1000, 1);
    scrub_all(SOON_MS);
    const char *named = "segment 1.0 (points 1 to 3; and volumes that refer to its chunks: else)";
    assert_string_equal(volume_status(&w, "data").damaged, named);
    assert_string_equal(volume_status(&w, "else").damaged,
                        "chunks in segment 1.0 of volume data (points 2 to 2)");
    scrub_all(FAR_MS); /* which does not look at it again */
    assert_string_equal(volume_status(&w, "data").damaged, named);
    damage_fini(&d);
    pool_end();
}

/* A segment that does not open says nothing of its chunks any more: the index does, or that they
 * lie nowhere. */
static void volumes_that_refer_to_what_does_not_open_are_named(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    char path[256];
    struct damage d = {0};
    (void)state;
    pool_begin();
    second_begin();
    memcpy(chunk, w.model + SLOT * REPL_CHUNK_SIZE, sizeof chunk);
    data_add(&w, SLOT);
    reference_add(chunk, 3);
    segment_path(path, 1);
    damage_take(&d, path);
    plant(&d, d.size - 20, 1); /* the footer */
    scrub_all(SOON_MS);
    assert_string_equal(volume_status(&w, "data").damaged,
                        "segment 1.0 (points 1 to 2; and volumes that refer to its chunks: else)");
    assert_string_equal(volume_status(&w, "else").damaged,
                        "chunks in segment 1.0 of volume data (points 2 to 2)");
    damage_put(&d, d.size);
    scrub_all(SOON_MS);
    assert_string_equal(volume_status(&w, "else").damaged, "");
    damage_fini(&d);
    pool_end();
}

/* Two volumes have brought the same, which neither replica has any more: the index knows one place.
 */
static void what_another_volume_has_brought_too_mends(void **state)
{
    static uint8_t same[REPL_CHUNK_SIZE];
    char path[256];
    struct damage d = {0};
    struct build build;
    (void)state;
    pool_begin();
    second_begin();
    random_fill(&w.random, same, sizeof same);
    for (unsigned i = 0; i < 2; i++) {
        struct world *to = i == 0 ? &b : &w;
        time_next(to);
        build_begin(&build, to, to->head.to_seq, to->head.to_seq + 1, 0);
        const struct repl_chunk_entry chunk = {
            .name = chunk_name_of(same),
            .frame = add_frame(build.builder, to->coder, same, sizeof same)};
        struct repl_error err;
        must(repl_segment_builder_chunk(build.builder, &chunk, &err), &err);
        build_extent(&build, &(struct repl_extent){.offset = SLOT * REPL_CHUNK_SIZE,
                                                   .length = sizeof same,
                                                   .source = chunk.frame,
                                                   .type = REPL_RECORD_DATA});
        build_end(&build, true);
        build_commit(&build);
        memcpy(to->model + SLOT * REPL_CHUNK_SIZE, same, sizeof same);
        data_add(to, SLOT);
        expect_replica(to);
    }
    segment_path(path, 2); /* of data, where the index finds it */
    damage_take(&d, path);
    plant(&d, 200, 1);
    scrub_all(SOON_MS);
    assert_string_equal(volume_status(&w, "data").damaged, "");
    assert_int_equal(volume_status(&w, "data").repaired_segments, 1);
    assert_true(is_as_it_was(&d));
    damage_fini(&d);
    pool_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(volumes_that_refer_to_damage_are_named),
        cmocka_unit_test(volumes_that_refer_to_what_does_not_open_are_named),
        cmocka_unit_test(what_another_volume_has_brought_too_mends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
