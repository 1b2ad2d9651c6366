/*
 * What may come over the guard's socket: each good packet, and each of its
 * fields when it is wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "source/freeze/guard_protocol.h"

static union repl_guard_packet good(enum repl_guard_kind kind)
{
    union repl_guard_packet packet;
    repl_guard_packet_init(&packet, kind);
    switch (kind) {
    case REPL_GUARD_REQUEST:
        packet.request.device = 0x800;
        packet.request.budget_ms = 250;
        packet.request.command_timeout_ms = 10000;
        packet.request.freeze = 1;
        strcpy(packet.request.volume, "db.1");
        strcpy(packet.request.pre_command, "true");
        break;
    case REPL_GUARD_PREPARED:
        packet.prepared.hold = 1;
        packet.prepared.mount_count = REPL_GUARD_MOUNTS_MAX;
        break;
    case REPL_GUARD_HELD:
        packet.held.begin_ns = 1;
        break;
    case REPL_GUARD_RELEASED:
        packet.outcome.intact = 1;
        packet.outcome.stall_ns = 7;
        break;
    case REPL_GUARD_FAILED:
        packet.outcome.code = REPL_E_LOCKED;
        strcpy(packet.outcome.text, "why");
        break;
    case REPL_GUARD_END:
    case REPL_GUARD_DONE:
        break;
    }
    return packet;
}

static bool from_agent(enum repl_guard_kind kind)
{
    return kind == REPL_GUARD_REQUEST || kind == REPL_GUARD_END;
}

static enum repl_code code_of(const union repl_guard_packet *packet)
{
    enum repl_guard_kind kind = (enum repl_guard_kind)packet->header.kind;
    struct repl_error err;
    return repl_guard_packet_check(packet, repl_guard_packet_size(kind), from_agent(kind), &err)
        .code;
}

static void test_good(void **state)
{
    (void)state;
    for (int kind = REPL_GUARD_REQUEST; kind <= REPL_GUARD_DONE; kind++) {
        union repl_guard_packet packet = good((enum repl_guard_kind)kind);
        assert_int_equal(code_of(&packet), REPL_OK);
    }
}

static void test_envelope(void **state)
{
    (void)state;
    struct repl_error err;
    for (int k = REPL_GUARD_REQUEST; k <= REPL_GUARD_DONE; k++) {
        enum repl_guard_kind kind = (enum repl_guard_kind)k;
        union repl_guard_packet packet = good(kind);
        size_t size = repl_guard_packet_size(kind);
        assert_int_equal(repl_guard_packet_check(&packet, size - 1, from_agent(kind), &err).code,
                         REPL_E_CORRUPT);
        assert_int_equal(repl_guard_packet_check(&packet, size + 1, from_agent(kind), &err).code,
                         REPL_E_CORRUPT);
        assert_int_equal(repl_guard_packet_check(&packet, 7, from_agent(kind), &err).code,
                         REPL_E_CORRUPT);
        assert_int_equal(repl_guard_packet_check(&packet, size, !from_agent(kind), &err).code,
                         REPL_E_CORRUPT);
        packet.header.version++;
        assert_int_equal(code_of(&packet), REPL_E_VERSION);
        packet.header.version--;
        packet.header.magic ^= 1;
        assert_int_equal(code_of(&packet), REPL_E_CORRUPT);
    }
    union repl_guard_packet packet = good(REPL_GUARD_END);
    packet.header.kind = REPL_GUARD_DONE + 1;
    assert_int_equal(repl_guard_packet_check(&packet, sizeof packet.end, false, &err).code,
                     REPL_E_CORRUPT);
    assert_int_equal(repl_guard_packet_size((enum repl_guard_kind)0), 0);
}

#define BAD(kind, change)                                                                          \
    do {                                                                                           \
        union repl_guard_packet packet = good(kind);                                               \
        change;                                                                                    \
        assert_int_equal(code_of(&packet), REPL_E_CORRUPT);                                        \
    } while (0)

static void test_request(void **state)
{
    (void)state;
    BAD(REPL_GUARD_REQUEST, packet.request.device = 0);
    BAD(REPL_GUARD_REQUEST, packet.request.freeze = 2);
    BAD(REPL_GUARD_REQUEST, packet.request.reserved = 1);
    BAD(REPL_GUARD_REQUEST, packet.request.budget_ms = REPL_GUARD_BUDGET_MIN_MS - 1);
    BAD(REPL_GUARD_REQUEST, packet.request.budget_ms = REPL_GUARD_BUDGET_MAX_MS + 1);
    BAD(REPL_GUARD_REQUEST, packet.request.command_timeout_ms = REPL_GUARD_COMMAND_MIN_MS - 1);
    BAD(REPL_GUARD_REQUEST, packet.request.command_timeout_ms = REPL_GUARD_LONGEST_MS + 1);
    BAD(REPL_GUARD_REQUEST, packet.request.volume[0] = '\0');
    BAD(REPL_GUARD_REQUEST, packet.request.volume[0] = '.');
    BAD(REPL_GUARD_REQUEST, packet.request.volume[REPL_GUARD_VOLUME_SIZE - 1] = 'x');
    BAD(REPL_GUARD_REQUEST, packet.request.pre_command[9] = 'x');
    BAD(REPL_GUARD_REQUEST,
        memset(packet.request.pre_command, 'x', sizeof packet.request.pre_command));
    BAD(REPL_GUARD_REQUEST,
        memset(packet.request.post_command, 'x', sizeof packet.request.post_command));

    union repl_guard_packet packet = good(REPL_GUARD_REQUEST);
    packet.request.freeze = 0; /* the commands alone may take longer */
    packet.request.budget_ms = REPL_GUARD_LONGEST_MS;
    assert_int_equal(code_of(&packet), REPL_OK);
    packet.request.budget_ms++;
    assert_int_equal(code_of(&packet), REPL_E_CORRUPT);
}

static union repl_guard_packet good_group(void)
{
    union repl_guard_packet packet = good(REPL_GUARD_REQUEST);
    memset(packet.request.pre_command, 0, sizeof packet.request.pre_command);
    packet.request.group = 1;
    packet.request.other_count = REPL_GUARD_OTHERS_MAX;
    for (unsigned i = 0; i < REPL_GUARD_OTHERS_MAX; i++)
        packet.request.others[i] = 0x801 + i;
    return packet;
}

#define BAD_GROUP(change)                                                                          \
    do {                                                                                           \
        union repl_guard_packet packet = good_group();                                             \
        change;                                                                                    \
        assert_int_equal(code_of(&packet), REPL_E_CORRUPT);                                        \
    } while (0)

static void test_group(void **state)
{
    (void)state;
    union repl_guard_packet group = good_group();
    assert_int_equal(code_of(&group), REPL_OK);
    group.request.other_count = 0; /* all of it lies on one device */
    memset(group.request.others, 0, sizeof group.request.others);
    assert_int_equal(code_of(&group), REPL_OK);
    BAD_GROUP(packet.request.group = 0);
    BAD_GROUP(packet.request.group = 2);
    BAD_GROUP(packet.request.freeze = 0);
    BAD_GROUP(packet.request.other_count++);
    BAD_GROUP(packet.request.other_count--);
    BAD_GROUP(packet.request.others[3] = 0);
    BAD_GROUP(strcpy(packet.request.pre_command, "true"));
    BAD_GROUP(strcpy(packet.request.post_command, "true"));
}

static void test_answers(void **state)
{
    (void)state;
    BAD(REPL_GUARD_PREPARED, packet.prepared.hold = 0);
    BAD(REPL_GUARD_PREPARED, packet.prepared.mount_count = 0);
    BAD(REPL_GUARD_PREPARED, packet.prepared.mount_count = REPL_GUARD_MOUNTS_MAX + 1);
    BAD(REPL_GUARD_HELD, packet.held.begin_ns = 0);
    BAD(REPL_GUARD_HELD, packet.held.took_ns = -1);
    BAD(REPL_GUARD_RELEASED, packet.outcome.intact = 2);
    BAD(REPL_GUARD_RELEASED, packet.outcome.stall_ns = -1);
    BAD(REPL_GUARD_RELEASED, packet.outcome.code = REPL_E_IO);
    BAD(REPL_GUARD_RELEASED, packet.outcome.intact = 0);
    BAD(REPL_GUARD_RELEASED, memset(packet.outcome.text, 'x', sizeof packet.outcome.text));
    BAD(REPL_GUARD_FAILED, packet.outcome.code = REPL_OK);
    BAD(REPL_GUARD_FAILED, packet.outcome.code = REPL_CODE_COUNT);
    BAD(REPL_GUARD_FAILED, packet.outcome.intact = 1);
    BAD(REPL_GUARD_FAILED, packet.outcome.text[40] = 'x');
    BAD(REPL_GUARD_DONE, packet.done.code = REPL_CODE_COUNT);
    BAD(REPL_GUARD_DONE, packet.done.reserved = 1);
    BAD(REPL_GUARD_DONE, packet.done.text[1] = 'x');
}

static void test_text(void **state)
{
    (void)state;
    char field[8];
    memset(field, 'x', sizeof field);
    assert_true(repl_guard_text_set(field, sizeof field, "seven77"));
    assert_string_equal(field, "seven77");
    assert_false(repl_guard_text_set(field, sizeof field, "eight888"));
    for (size_t i = 0; i < sizeof field; i++)
        assert_int_equal(field[i], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),    cmocka_unit_test(test_envelope),
        cmocka_unit_test(test_request), cmocka_unit_test(test_group),
        cmocka_unit_test(test_answers), cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
