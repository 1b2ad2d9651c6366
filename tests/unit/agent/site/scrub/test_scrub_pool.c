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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(volumes_that_refer_to_damage_are_named),
        cmocka_unit_test(volumes_that_refer_to_what_does_not_open_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
