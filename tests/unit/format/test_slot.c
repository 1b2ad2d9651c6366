#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "format/slot.h"
#include "unit/random.h"

static struct repl_head head_of(uint8_t value)
{
    struct repl_head head = {
        .from_seq = value, .to_seq = value + 1u, .part = value % 3, .has_point = value % 2};
    memset(head.digest.bytes, value, sizeof head.digest.bytes);
    return head;
}

static struct repl_source_state source_state(uint64_t next_seq, uint32_t sent_count)
{
    struct repl_source_state state = {.lineage = 3,
                                      .volume_size = 123456,
                                      .next_seq = next_seq,
                                      .last_end_ns = -5,
                                      .identity = "wwn:0x5000",
                                      .checkpoint = head_of(9),
                                      .sent_count = sent_count};
    for (uint32_t i = 0; i < sent_count; i++)
        state.sent[i] = head_of((uint8_t)(10 + i));
    state.acknowledged_count = sent_count / 2;
    state.resync_seq = 70;
    state.point_seq = 71;
    state.point_begin_ns = -8;
    state.point_end_ns = 1;
    return state;
}

static void assert_heads_equal(const struct repl_head *a, const struct repl_head *b)
{
    assert_true(a->from_seq == b->from_seq && a->to_seq == b->to_seq && a->part == b->part &&
                a->has_point == b->has_point && repl_digest_equal(&a->digest, &b->digest));
}

static void source_states_come_back(void **state)
{
    (void)state;
    for (uint32_t sent = 0; sent <= REPL_SENT_MAX; sent++) {
        uint8_t file[REPL_SLOT_FILE] = {0};
        struct repl_source_state in = source_state(77, sent), out;
        uint64_t generation;
        struct repl_error err;
        memset(in.identity, 'x', sent * 3);
        repl_source_state_encode(&in, 6, file + repl_slot_offset(6));
        assert_true(repl_ok(repl_source_state_decode(file, &out, &generation, &err)));
        assert_true(generation == 6 && out.next_seq == 77 && out.lineage == 3);
        assert_true(out.volume_size == 123456 && out.last_end_ns == -5);
        assert_string_equal(out.identity, in.identity);
        assert_heads_equal(&out.checkpoint, &in.checkpoint);
        assert_true(out.sent_count == sent);
        for (uint32_t i = 0; i < sent; i++)
            assert_heads_equal(&out.sent[i], &in.sent[i]);
        assert_true(out.acknowledged_count == sent / 2 && out.resync_seq == 70);
        assert_true(out.point_seq == 71 && out.point_begin_ns == -8 && out.point_end_ns == 1);
        in.acknowledged_count = sent + 1; /* which cannot be */
        repl_source_state_encode(&in, 6, file + repl_slot_offset(6));
        assert_int_equal(repl_source_state_decode(file, &out, &generation, &err).code,
                         REPL_E_CORRUPT);
    }
}

static void replica_states_come_back(void **state)
{
    (void)state;
    uint8_t file[REPL_SLOT_FILE] = {0};
    struct repl_replica_state in = {.reached = head_of(5), .applying = true, .size = 99}, out;
    in.target = UINT64_C(0x123456789abcdef0);
    uint64_t generation;
    repl_replica_state_encode(&in, 7, file + repl_slot_offset(7));
    assert_true(repl_ok(repl_replica_state_decode(file, &out, &generation, NULL)));
    assert_true(generation == 7 && out.applying && out.size == 99);
    assert_true(out.target == in.target);
    assert_heads_equal(&out.reached, &in.reached);
}

static void the_newer_whole_slot_wins(void **state)
{
    (void)state;
    uint8_t file[REPL_SLOT_FILE];
    struct repl_source_state old = source_state(1, 2), new = source_state(2, 3), out;
    uint64_t generation;
    for (uint64_t first = 1; first < 4; first++) {
        repl_source_state_encode(&old, first, file + repl_slot_offset(first));
        repl_source_state_encode(&new, first + 1, file + repl_slot_offset(first + 1));
        assert_true(repl_ok(repl_source_state_decode(file, &out, &generation, NULL)));
        assert_true(generation == first + 1 && out.next_seq == 2);
    }
}

/* What a torn write may leave of generation 3 over generation 1, beside generation 2. */
static void expect_second_or_third(const uint8_t *file, bool may_be_third)
{
    struct repl_source_state out;
    struct repl_error err;
    uint64_t generation;
    assert_true(repl_ok(repl_source_state_decode(file, &out, &generation, &err)));
    assert_true(generation == 2 || (may_be_third && generation == 3));
    assert_true(out.next_seq == generation);
}

static void every_torn_write_leaves_the_older(void **state)
{
    (void)state;
    uint8_t file[REPL_SLOT_FILE], third[REPL_SLOT_SIZE], torn[REPL_SLOT_FILE];
    for (uint64_t generation = 1; generation <= 2; generation++) {
        struct repl_source_state s = source_state(generation, REPL_SENT_MAX);
        repl_source_state_encode(&s, generation, file + repl_slot_offset(generation));
    }
    struct repl_source_state newest = source_state(3, 1);
    repl_source_state_encode(&newest, 3, third);
    for (size_t cut = 0; cut <= REPL_SLOT_SIZE; cut++) {
        bool whole =
            memcmp(file + repl_slot_offset(3) + cut, third + cut, REPL_SLOT_SIZE - cut) == 0;
        memcpy(torn, file, sizeof torn);
        memcpy(torn + repl_slot_offset(3), third, cut);
        expect_second_or_third(torn, whole);
    }
    for (unsigned sectors = 0; sectors < 256; sectors++) { /* any of its sectors of 512 bytes */
        memcpy(torn, file, sizeof torn);
        for (unsigned i = 0; i < 8; i++) {
            if (sectors >> i & 1)
                memcpy(torn + repl_slot_offset(3) + i * 512, third + i * 512, 512);
        }
        expect_second_or_third(torn, memcmp(torn + repl_slot_offset(3), third, sizeof third) == 0);
    }
}

static void every_flip_leaves_the_older(void **state)
{
    (void)state;
    uint8_t file[REPL_SLOT_FILE];
    for (uint64_t generation = 2; generation <= 3; generation++) {
        struct repl_source_state s = source_state(generation, 4);
        repl_source_state_encode(&s, generation, file + repl_slot_offset(generation));
    }
    for (size_t bit = 0; bit < 8 * REPL_SLOT_SIZE; bit++) {
        uint8_t *byte = &file[repl_slot_offset(3) + bit / 8];
        *byte ^= (uint8_t)(1u << bit % 8);
        expect_second_or_third(file, false);
        *byte ^= (uint8_t)(1u << bit % 8);
    }
    expect_second_or_third(file, true);
}

static void expect_refused(const uint8_t *file, enum repl_code code, const char *words)
{
    struct repl_source_state out;
    struct repl_error err;
    uint64_t generation;
    assert_int_equal(repl_source_state_decode(file, &out, &generation, &err).code, code);
    assert_non_null(strstr(err.text, "source state"));
    assert_non_null(strstr(err.text, words));
}

/* Writes value at offset of a slot and makes its checksum right again. */
static void patch(uint8_t *slot, size_t offset, uint8_t value)
{
    slot[offset] = value;
    uint64_t sum = repl_xxh3(slot, REPL_SLOT_SIZE - 8);
    for (unsigned i = 0; i < 8; i++)
        slot[REPL_SLOT_SIZE - 8 + i] = (uint8_t)(sum >> 8 * i);
}

static void refuses_with_place_and_next_step(void **state)
{
    (void)state;
    uint8_t file[REPL_SLOT_FILE] = {0};
    struct repl_source_state s = source_state(1, 0);
    expect_refused(file, REPL_E_CORRUPT, "neither of its two slots is whole");
    struct repl_replica_state other = {.size = 1};
    repl_replica_state_encode(&other, 1, file + repl_slot_offset(1));
    expect_refused(file, REPL_E_CORRUPT, "neither of its two slots is whole");
    repl_source_state_encode(&s, 1, file + repl_slot_offset(1));
    patch(file + repl_slot_offset(1), 8, 2);
    expect_refused(file, REPL_E_VERSION, "use that one");
    repl_source_state_encode(&s, 1, file + repl_slot_offset(1));
    patch(file + repl_slot_offset(1), REPL_SLOT_SIZE - 9, 1); /* reserved */
    expect_refused(file, REPL_E_CORRUPT, "");
}

/* Whatever a field holds, decoding ends in an answer. */
static void survives_any_content(void **state)
{
    (void)state;
    struct random random = random_begin("slot", 3);
    uint8_t file[REPL_SLOT_FILE];
    for (unsigned round = 0; round < 20000; round++) {
        struct repl_source_state s = source_state(1, 3), out;
        struct repl_replica_state replica = {.reached = head_of(3)}, replica_out;
        uint64_t generation;
        memset(file, 0, sizeof file);
        repl_source_state_encode(&s, 1, file + repl_slot_offset(1));
        repl_replica_state_encode(&replica, 2, file);
        uint8_t *slot = file + repl_slot_offset(round % 2 + 1);
        patch(slot, random_below(&random, 400), (uint8_t)random_next(&random));
        repl_ignore(repl_source_state_decode(file, &out, &generation, NULL));
        assert_true(out.sent_count <= REPL_SENT_MAX);
        repl_ignore(repl_replica_state_decode(file, &replica_out, &generation, NULL));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(source_states_come_back),
        cmocka_unit_test(replica_states_come_back),
        cmocka_unit_test(the_newer_whole_slot_wins),
        cmocka_unit_test(every_torn_write_leaves_the_older),
        cmocka_unit_test(every_flip_leaves_the_older),
        cmocka_unit_test(refuses_with_place_and_next_step),
        cmocka_unit_test(survives_any_content),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
