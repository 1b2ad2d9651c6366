/*
 * The status and its JSON: there and back, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "control/status.h"

static void fill(struct repl_status *status, struct repl_volume_status volumes[2])
{
    memset(volumes, 0, 2 * sizeof volumes[0]);
    volumes[0] = (struct repl_volume_status){
        .name = "data",
        .device = "/dev/vdb",
        .state = REPL_STATE_NO_WINDOW,
        .cause = "no quiet moment \"found\"",
        .remedy = "wait",
        .rpo_ms = 4000,
        .lag_ms = 3217,
        .point = {.seq = 77,
                  .begin_ns = 1700000000000000001,
                  .end_ns = 1700000000000000002,
                  .consistency = REPL_CONSISTENCY_CRASH,
                  .cut = REPL_CUT_WINDOW,
                  .flags = REPL_POINT_RESYNC,
                  .attempts = 3,
                  .changed_bytes = 4096},
        .unchanged_until_ns = 1700000000000000003,
        .size = UINT64_C(1) << 50,
        .backlog_bytes = 12,
        .catch_up_ms = -1,
        .done_bytes = 5,
        .total_bytes = 10,
        .clock_known = true,
        .clock_offset_ms = -250,
        .clock_ahead_ms = 3600000,
        .trouble = "encryption",
        .trouble_seq = 31,
        .trouble_before_seq = 29,
        .replica_seq = 76,
        .replica_applying = true,
        .replica_behind_ms = 1200,
        .replica_problem = "no device",
        .index_problem = "no room",
        .replica_on = true,
        .tree = true,
        .stored_bytes = 6,
        .space_limit_bytes = 7,
        .unverified_ms = 86400001,
        .scrubbed_bytes = 6,
        .damaged_segments = 2,
        .repaired_segments = 7,
        .damaged = "segment 3.0 (points 3 to 9)",
        .merging_waits = true,
        .points = 1,
        .bytes_changed = 2,
        .bytes_sent = 3,
        .rounds_torn = 4,
        .unstable_files = 5,
    };
    volumes[1] = (struct repl_volume_status){.name = "empty", .lag_ms = -1, .catch_up_ms = -1};
    *status = (struct repl_status){.site = true,
                                   .version = "1.2.3",
                                   .name = "nas",
                                   .io = "epoll",
                                   .time_ns = 1700000000000000009,
                                   .bandwidth_bytes_per_s = 5 << 20,
                                   .store_warning = "the locks",
                                   .compression_level = 3,
                                   .stored_bytes = 8,
                                   .space_limit_bytes = 9,
                                   .free_bytes = 10,
                                   .space_reserve_bytes = 11,
                                   .volume_count = 2,
                                   .volumes = volumes};
}

static void test_there_and_back(void **state)
{
    (void)state;
    struct repl_status status, back;
    struct repl_volume_status volumes[2];
    struct repl_error err = {0};
    fill(&status, volumes);
    json_t *json = repl_status_to_json(&status);
    assert_non_null(json);
    char *text = json_dumps(json, 0);
    json_decref(json);
    json = json_loads(text, 0, NULL);
    free(text);
    if (!repl_ok(repl_status_from_json(json, &back, &err)))
        fail_msg("%s", err.text);
    json_decref(json);
    assert_true(back.site);
    assert_string_equal(back.version, "1.2.3");
    assert_string_equal(back.name, "nas");
    assert_string_equal(back.io, "epoll");
    assert_int_equal(back.time_ns, status.time_ns);
    assert_int_equal(back.bandwidth_bytes_per_s, 5 << 20);
    assert_string_equal(back.store_warning, "the locks");
    assert_int_equal(back.compression_level, 3);
    assert_int_equal(back.volume_count, 2);
    /* As JSON once more: every field is in there, and the structs' padding is not. */
    json_t *again = repl_status_to_json(&back);
    json = repl_status_to_json(&status);
    assert_true(json_equal(json, again));
    json_decref(json);
    json_decref(again);
    assert_int_equal(back.volumes[0].point.attempts, 3);
    assert_int_equal(back.volumes[0].size, UINT64_C(1) << 50);
    assert_int_equal(back.volumes[0].clock_offset_ms, -250);
    assert_int_equal(back.volumes[0].clock_ahead_ms, 3600000);
    assert_string_equal(back.volumes[0].trouble, "encryption");
    assert_int_equal(back.volumes[0].trouble_seq, 31);
    assert_int_equal(back.volumes[0].trouble_before_seq, 29);
    assert_int_equal(back.volumes[0].replica_behind_ms, 1200);
    assert_true(back.volumes[0].replica_applying);
    assert_string_equal(back.volumes[0].replica_problem, "no device");
    assert_string_equal(back.volumes[0].index_problem, "no room");
    repl_status_fini(&back);
}

static void test_every_state(void **state)
{
    (void)state;
    for (int i = 0; i < REPL_STATE_COUNT; i++) {
        struct repl_volume_status volume = {.name = "v", .state = (enum repl_state)i};
        struct repl_status status = {.volume_count = 1, .volumes = &volume}, back;
        struct repl_error err = {0};
        json_t *json = repl_status_to_json(&status);
        assert_true(repl_ok(repl_status_from_json(json, &back, &err)));
        assert_int_equal(back.volumes[0].state, i);
        assert_false(back.site);
        json_decref(json);
        repl_status_fini(&back);
    }
}

static void expect(const char *text, enum repl_code code)
{
    struct repl_status back;
    struct repl_error err = {0};
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    assert_int_equal(repl_status_from_json(json, &back, &err).code, code);
    assert_int_equal(back.volume_count, 0);
    json_decref(json);
    if (code == REPL_OK)
        repl_status_fini(&back);
    assert_null(back.volumes);
}

#define VOLUMES(volume) "{\"schema\":1,\"role\":\"site\",\"volumes\":[" volume "]}"

static void test_refused(void **state)
{
    (void)state;
    expect("{\"schema\":1,\"role\":\"site\",\"volumes\":[]}", REPL_OK);
    expect("[]", REPL_E_CORRUPT);
    expect("{\"schema\":2,\"role\":\"site\",\"volumes\":[]}", REPL_E_VERSION);
    expect("{\"schema\":\"1\",\"role\":\"site\",\"volumes\":[]}", REPL_E_CORRUPT);
    expect("{\"schema\":1,\"volumes\":[]}", REPL_E_CORRUPT);
    expect("{\"schema\":1,\"role\":\"site\"}", REPL_E_CORRUPT);
    expect(VOLUMES("7"), REPL_E_CORRUPT);
    expect(VOLUMES("{\"state\":\"wonderful\",\"point\":{}}"), REPL_E_CORRUPT);
    expect(VOLUMES("{\"state\":\"ok\"}"), REPL_E_CORRUPT);
    expect(VOLUMES("{\"state\":\"ok\",\"point\":{},\"size\":-1}"), REPL_E_CORRUPT);
    expect(VOLUMES("{\"state\":\"ok\",\"point\":{},\"size\":1.5}"), REPL_E_CORRUPT);
    expect(VOLUMES("{\"state\":\"ok\",\"point\":{\"flags\":65536}}"), REPL_E_CORRUPT);
    expect(
        VOLUMES("{\"state\":\"ok\",\"point\":{},\"name\":"
                "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}"),
        REPL_E_CORRUPT);
}

/* A newer service may say more than we know, an older one less. */
static void test_unknown_fields(void **state)
{
    (void)state;
    struct repl_status back;
    struct repl_error err = {0};
    json_t *json =
        json_loads(VOLUMES("{\"state\":\"ok\",\"name\":\"v\",\"point\":{\"cut\":\"magic\"},"
                           "\"mood\":3}"),
                   0, NULL);
    assert_true(repl_ok(repl_status_from_json(json, &back, &err)));
    assert_string_equal(back.volumes[0].name, "v");
    assert_int_equal(back.volumes[0].size, 0);
    json_decref(json);
    repl_status_fini(&back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_every_state),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_unknown_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
