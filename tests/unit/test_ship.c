#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ship.h"
#include "unit/expect_abort.h"

#define SECOND INT64_C(1000000000)
#define START  (1000 * SECOND)

static struct repl_head head_of(uint64_t from, uint64_t to, uint32_t part, bool has_point)
{
    struct repl_head head = {.from_seq = from, .to_seq = to, .part = part, .has_point = has_point};
    memset(head.digest.bytes, (int)(16 * to + part), sizeof head.digest.bytes);
    return head;
}

static struct repl_ship ship_new(const struct repl_source_state *state)
{
    static const struct repl_source_state fresh;
    struct repl_ship ship;
    repl_ship_init(&ship, state != NULL ? state : &fresh);
    return ship;
}

static struct repl_ship_action next(struct repl_ship *ship, int64_t now_ns)
{
    struct repl_ship_action action;
    repl_ship_next(ship, now_ns, &action);
    return action;
}

static void begin(struct repl_ship *ship, uint64_t number, struct repl_head head)
{
    struct repl_ship_segment segment = {.number = number,
                                        .from_seq = head.from_seq,
                                        .to_seq = head.to_seq,
                                        .part = head.part,
                                        .created_ns = START + (int64_t)number};
    assert_true(repl_ok(repl_ship_begin(ship, &segment, NULL)));
}

static void add(struct repl_ship *ship, uint64_t number, struct repl_head head)
{
    begin(ship, number, head);
    repl_ship_complete(ship, number, &head.digest, 1000, head.has_point);
}

static void welcome(struct repl_ship *ship, const struct repl_head *head)
{
    struct repl_welcome message = {.known = head != NULL};
    if (head != NULL)
        message.head = *head;
    assert_int_equal(next(ship, INT64_MAX / 2).type, REPL_SHIP_HELLO);
    repl_ship_welcome(ship, &message, START);
}

static void refuse(struct repl_ship *ship, enum repl_refusal_code code)
{
    struct repl_refusal refusal = {.code = code, .text = "because"};
    repl_ship_refused(ship, &refusal, START);
}

/* READY with one complete segment, told to send it. */
static struct repl_ship ship_sending(void)
{
    struct repl_ship ship = ship_new(NULL);
    add(&ship, 1, head_of(0, 1, 0, true));
    welcome(&ship, NULL);
    struct repl_ship_action action = next(&ship, START);
    assert_int_equal(action.type, REPL_SHIP_SEND);
    assert_true(action.number == 1 && action.offset == 0);
    return ship;
}

static void sends_what_is_acknowledged_in_order(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    add(&ship, 2, head_of(1, 2, 0, true));
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
    struct repl_ack ack = {.head = head_of(0, 1, 0, true)};
    repl_ship_ack(&ship, &ack, START);
    struct repl_ship_action action = next(&ship, START);
    assert_int_equal(action.type, REPL_SHIP_ACKNOWLEDGED);
    assert_true(action.number == 1 && ship.point_seq == 1);
    action = next(&ship, START);
    assert_int_equal(action.type, REPL_SHIP_SEND);
    assert_true(action.number == 2);
    assert_null(repl_ship_find(&ship, 1));
    assert_non_null(repl_ship_find(&ship, 2));
    assert_true(repl_ship_tail(&ship).to_seq == 2);
    repl_ship_fini(&ship);
}

/* --- ahead of its turn ----------------------------------------------------------------------- */

static struct repl_ack ack_of(uint64_t from, uint64_t to)
{
    return (struct repl_ack){.head = head_of(from, to, 0, true)};
}

/* Segments 1 to 3; the first is sent, the second ahead of its turn. */
static struct repl_ship ship_sending_ahead(void)
{
    struct repl_ship ship = ship_sending();
    add(&ship, 2, head_of(1, 2, 0, true));
    add(&ship, 3, head_of(2, 3, 0, true));
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
    repl_ship_left(&ship, 1);
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND_AHEAD && action.number == 2);
    assert_true(repl_ship_in_turn(&ship, 1) && !repl_ship_in_turn(&ship, 2));
    assert_true(repl_ship_in_flight(&ship, 1) && repl_ship_in_flight(&ship, 2));
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
    return ship;
}

static void what_is_sent_ahead_comes_in_turn(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending_ahead();
    struct repl_ack ack = ack_of(0, 1);
    repl_ship_ack(&ship, &ack, START);
    assert_true(repl_ship_in_turn(&ship, 2));
    assert_int_equal(next(&ship, START).type, REPL_SHIP_ACKNOWLEDGED);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT); /* not sent a second time */
    repl_ship_left(&ship, 2);
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND_AHEAD && action.number == 3);
    ack = ack_of(1, 2);
    repl_ship_ack(&ship, &ack, START);
    ack = ack_of(2, 3);
    repl_ship_ack(&ship, &ack, START);
    assert_true(ship.state == REPL_SHIP_READY && ship.point_seq == 3);
    repl_ship_fini(&ship);
}

/* It has left before its turn came: then so may the next one at once. */
static void what_has_left_ahead_is_followed_in_its_turn(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending_ahead();
    repl_ship_left(&ship, 2);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
    struct repl_ack ack = ack_of(0, 1);
    repl_ship_ack(&ship, &ack, START);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_ACKNOWLEDGED);
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND_AHEAD && action.number == 3);
    repl_ship_fini(&ship);
}

static void answers_may_overtake_each_other(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending_ahead();
    struct repl_ack ack = ack_of(1, 2);
    repl_ship_ahead_ack(&ship, &ack);
    assert_true(ship.state == REPL_SHIP_SENDING && ship.point_seq == 0);
    ack = ack_of(0, 1);
    repl_ship_ack(&ship, &ack, START);
    assert_true(next(&ship, START).number == 1);
    assert_true(next(&ship, START).number == 2);
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND && action.number == 3);
    repl_ship_fini(&ship);
}

/* Whatever becomes of the first, the second is over with it, and is sent in its turn. */
static void what_is_sent_ahead_ends_with_the_first(void **state)
{
    (void)state;
    static const enum repl_refusal_code codes[] = {REPL_REFUSAL_BUSY, REPL_REFUSAL_GREET,
                                                   REPL_REFUSAL_DAMAGED, REPL_REFUSAL_FORK,
                                                   REPL_REFUSAL_FENCED};
    for (size_t i = 0; i <= sizeof codes / sizeof *codes; i++) {
        struct repl_ship ship = ship_sending_ahead();
        if (i < sizeof codes / sizeof *codes)
            refuse(&ship, codes[i]);
        else
            repl_ship_lost(&ship, "gone", START);
        assert_false(repl_ship_in_flight(&ship, 1) || repl_ship_in_flight(&ship, 2));
        welcome(&ship, NULL);
        struct repl_ship_action action = next(&ship, START);
        assert_true(action.type == REPL_SHIP_SEND && action.number == 1);
        /* sent anew: what left before is not on its way */
        assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
        repl_ship_fini(&ship);
    }
}

static void a_site_that_does_not_want_it_ahead_gets_it_in_turn(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending_ahead();
    repl_ship_ahead_failed(&ship, 2, false);
    assert_true(repl_ship_in_turn(&ship, 1) && !repl_ship_in_flight(&ship, 2));
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT); /* not tried again */
    struct repl_ack ack = ack_of(0, 1);
    repl_ship_ack(&ship, &ack, START);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_ACKNOWLEDGED);
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND && action.number == 2);
    repl_ship_left(&ship, 2);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_SEND_AHEAD); /* the next one is */
    /* an older site: not until there is another welcome */
    repl_ship_ahead_failed(&ship, 3, true);
    ack = ack_of(1, 2);
    repl_ship_ack(&ship, &ack, START);
    add(&ship, 4, head_of(3, 4, 0, true));
    assert_int_equal(next(&ship, START).type, REPL_SHIP_ACKNOWLEDGED);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_SEND);
    repl_ship_left(&ship, 3);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
    repl_ship_fini(&ship);
}

/* The answer to what was begun ahead comes when its turn has come. */
static void a_refusal_of_what_was_sent_ahead_is_no_refusal_in_turn(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending_ahead();
    struct repl_ack ack = ack_of(0, 1);
    repl_ship_ack(&ship, &ack, START);
    repl_ship_ahead_failed(&ship, 2, true);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_ACKNOWLEDGED);
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND && action.number == 2 && action.offset == 0);
    repl_ship_fini(&ship);
}

static void chunks_that_are_missing_do_not_end_what_is_sent_ahead(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending_ahead();
    repl_ship_missing(&ship);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_SEND_SUPPLY);
    assert_true(repl_ship_in_flight(&ship, 2));
    repl_ship_supplied(&ship);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_SEND);
    struct repl_ack ack = ack_of(0, 1);
    repl_ship_ack(&ship, &ack, START);
    assert_true(repl_ship_in_turn(&ship, 2));
    repl_ship_fini(&ship);
}

static void what_is_given_up_is_not_in_flight(void **state)
{
    (void)state;
    static const struct repl_source_state fresh;
    struct repl_ship ship = ship_sending();
    begin(&ship, 2, head_of(1, 2, 0, true));
    repl_ship_left(&ship, 1);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_SEND_AHEAD);
    repl_ship_abandon(&ship, 2);
    assert_true(repl_ship_in_turn(&ship, 1) && !repl_ship_in_flight(&ship, 2));
    add(&ship, 3, head_of(1, 2, 0, true));
    assert_true(next(&ship, START).number == 3);
    repl_ship_cut(&ship, 3, &fresh);
    assert_true(repl_ship_in_turn(&ship, 1) && !repl_ship_in_flight(&ship, 3));
    add(&ship, 4, head_of(1, 2, 0, true));
    assert_true(next(&ship, START).number == 4);
    repl_ship_cut(&ship, 1, &fresh);
    assert_false(repl_ship_in_flight(&ship, 1) || repl_ship_in_flight(&ship, 4));
    repl_ship_fini(&ship);
}

/* --- trouble --------------------------------------------------------------------------------- */

static void a_lost_link_backs_off(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    int64_t now_ns = START, wait = 0;
    for (unsigned i = 0; i < 10; i++) {
        repl_ship_lost(&ship, "gone", now_ns);
        assert_string_equal(ship.cause, "gone");
        struct repl_ship_action action = next(&ship, now_ns);
        assert_int_equal(action.type, REPL_SHIP_WAIT);
        assert_true(action.until_ns - now_ns >= wait && action.until_ns - now_ns <= 10 * SECOND);
        wait = action.until_ns - now_ns;
        now_ns = action.until_ns;
        assert_int_equal(next(&ship, now_ns).type, REPL_SHIP_HELLO);
        assert_int_equal(next(&ship, now_ns).type, REPL_SHIP_WAIT);
    }
    assert_true(wait == 10 * SECOND);
    repl_ship_fini(&ship);
}

/* The simulator found a link that waited for a clock to catch up. */
static void a_clock_set_back_does_not_prolong_the_wait(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    repl_ship_lost(&ship, "gone", START);
    struct repl_ship_action action = next(&ship, START - 7200 * SECOND);
    assert_int_equal(action.type, REPL_SHIP_WAIT);
    assert_true(action.until_ns <= START - 7190 * SECOND);
    assert_int_equal(next(&ship, action.until_ns).type, REPL_SHIP_HELLO);
    repl_ship_fini(&ship);
}

static void a_welcome_acknowledges_what_an_answer_did_not(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    add(&ship, 2, head_of(1, 2, 0, true));
    add(&ship, 3, head_of(2, 3, 0, true));
    repl_ship_lost(&ship, "gone", START);
    struct repl_head head = head_of(1, 2, 0, true);
    welcome(&ship, &head);
    assert_true(next(&ship, START).number == 1);
    assert_true(next(&ship, START).number == 2);
    struct repl_ship_action action = next(&ship, START);
    assert_int_equal(action.type, REPL_SHIP_SEND);
    assert_true(action.number == 3);
    repl_ship_fini(&ship);
}

static void resume(struct repl_ship *ship, int64_t created_ns, uint64_t bytes, uint64_t expected)
{
    struct repl_welcome message = {
        .known = false, .staged_to_seq = 1, .staged_created_ns = created_ns, .staged_bytes = bytes};
    repl_ship_lost(ship, "gone", START);
    assert_int_equal(next(ship, INT64_MAX / 2).type, REPL_SHIP_HELLO);
    repl_ship_welcome(ship, &message, START);
    struct repl_ship_action action = next(ship, START);
    assert_int_equal(action.type, REPL_SHIP_SEND);
    assert_true(action.offset == expected);
}

static void resumes_only_the_same_segment(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    resume(&ship, START + 1, 600, 600);
    resume(&ship, START + 2, 600, 0);  /* made at another time: another segment */
    resume(&ship, START + 1, 1000, 0); /* all of it, and yet not committed */
    refuse(&ship, REPL_REFUSAL_DAMAGED);
    resume(&ship, START + 1, 600, 0); /* what is held is worth nothing */
    repl_ship_fini(&ship);
}

static void an_abandoned_segment_leaves_no_offset(void **state)
{
    (void)state;
    struct repl_ship ship = ship_new(NULL);
    struct repl_welcome message = {
        .staged_to_seq = 1, .staged_created_ns = START + 1, .staged_bytes = 50};
    begin(&ship, 1, head_of(0, 1, 0, true));
    assert_int_equal(next(&ship, START).type, REPL_SHIP_HELLO);
    repl_ship_welcome(&ship, &message, START);
    repl_ship_abandon(&ship, 1);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
    begin(&ship, 2, head_of(0, 1, 0, true));
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND && action.number == 2 && action.offset == 0);
    repl_ship_abandon(&ship, 2);
    assert_int_equal(ship.state, REPL_SHIP_READY);
    repl_ship_fini(&ship);
}

static void refusals_that_pass(void **state)
{
    (void)state;
    static const enum repl_refusal_code codes[] = {REPL_REFUSAL_BUSY, REPL_REFUSAL_NO_SPACE,
                                                   REPL_REFUSAL_DAMAGED, REPL_REFUSAL_INTERNAL};
    for (unsigned i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        struct repl_ship ship = ship_sending();
        refuse(&ship, codes[i]);
        assert_int_equal(ship.state, REPL_SHIP_DOWN);
        assert_string_equal(ship.cause, "because");
        assert_int_equal(ship.refused_by, codes[i]);
        repl_ship_lost(&ship, "gone", START);
        assert_int_equal(ship.refused_by, 0);
        repl_ship_fini(&ship);
    }
}

static const struct repl_source_state none;

/* The site has committed it, and we were not told before it was lost here. */
static void what_was_cut_is_known_for_ours(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    struct repl_source_state sent = {.sent_count = 1, .sent = {head_of(0, 1, 0, true)}};
    repl_ship_lost(&ship, "gone", START);
    repl_ship_cut(&ship, 1, &sent);
    welcome(&ship, &sent.sent[0]);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_RECOVER);
    repl_ship_fini(&ship);
}

/* Refused as damaged once more after it was sent again from its start. */
static struct repl_ship ship_checking(void)
{
    struct repl_ship ship = ship_sending();
    refuse(&ship, REPL_REFUSAL_DAMAGED);
    welcome(&ship, NULL);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_SEND);
    refuse(&ship, REPL_REFUSAL_DAMAGED);
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_CHECK && action.number == 1);
    assert_int_equal(next(&ship, START + 100 * SECOND).type, REPL_SHIP_WAIT);
    return ship;
}

static void what_is_damaged_twice_is_checked(void **state)
{
    (void)state;
    struct repl_ship ship = ship_checking();
    repl_ship_checked(&ship, START);
    assert_int_equal(ship.state, REPL_SHIP_HALTED);
    assert_non_null(strstr(ship.cause, "segment 1.0 as damaged 2 times"));
    assert_non_null(strstr(ship.cause, "The site says: because"));
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_WAIT && action.until_ns == START + 60 * SECOND);
    repl_ship_fini(&ship);

    ship = ship_checking();
    add(&ship, 2, head_of(1, 2, 0, true));
    repl_ship_cut(&ship, 2, &none); /* what follows it is gone, it is still looked at */
    assert_int_equal(ship.state, REPL_SHIP_CHECKING);
    repl_ship_cut(&ship, 1, &none);
    assert_int_equal(ship.state, REPL_SHIP_READY);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
    add(&ship, 3, head_of(0, 3, 0, true));
    action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND && action.number == 3 && action.offset == 0);
    refuse(&ship, REPL_REFUSAL_DAMAGED); /* another segment, for the first time */
    assert_int_equal(ship.state, REPL_SHIP_DOWN);
    repl_ship_fini(&ship);
}

static void a_cut_leaves_what_is_before_it(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    add(&ship, 2, head_of(1, 2, 0, true));
    add(&ship, 4, head_of(2, 3, 0, true));
    repl_ship_cut(&ship, 2, &none);
    assert_int_equal(ship.state, REPL_SHIP_SENDING);
    assert_true(repl_ship_tail(&ship).to_seq == 1 && repl_ship_find(&ship, 4) == NULL);
    repl_ship_ack(&ship, &(struct repl_ack){.head = head_of(0, 1, 0, true)}, START);
    repl_ship_cut(&ship, 1, &none); /* it has been acknowledged, and is said so all the same */
    assert_int_equal(next(&ship, START).type, REPL_SHIP_ACKNOWLEDGED);
    repl_ship_fini(&ship);
}

static void refusals_for_a_person(void **state)
{
    (void)state;
    static const enum repl_refusal_code codes[] = {REPL_REFUSAL_FENCED, REPL_REFUSAL_PERMISSION,
                                                   REPL_REFUSAL_VERSION, REPL_REFUSAL_REQUEST,
                                                   REPL_REFUSAL_NOT_FOUND};
    for (unsigned i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        struct repl_ship ship = ship_sending();
        refuse(&ship, codes[i]);
        assert_int_equal(ship.state, REPL_SHIP_HALTED);
        assert_int_equal(ship.refused_by, codes[i]);
        struct repl_ship_action action = next(&ship, START);
        assert_true(action.type == REPL_SHIP_WAIT && action.until_ns == START + 60 * SECOND);
        assert_int_equal(next(&ship, action.until_ns).type, REPL_SHIP_HELLO);
        repl_ship_fini(&ship);
    }
}

static void greet_is_followed_twice_in_a_row(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    for (unsigned i = 0; i < 3; i++) {
        refuse(&ship, REPL_REFUSAL_GREET);
        assert_int_equal(next(&ship, START).type, i < 2 ? REPL_SHIP_HELLO : REPL_SHIP_WAIT);
    }
    repl_ship_fini(&ship);
}

/* The simulator: a segment sent before a restart was committed between hello and upload. */
static void a_segment_refused_as_a_fork_asks_the_site_first(void **state)
{
    (void)state;
    struct repl_source_state before = {.checkpoint = head_of(0, 1, 0, true), .sent_count = 1};
    before.sent[0] = head_of(1, 2, 0, true);
    struct repl_ship ship = ship_new(&before);
    add(&ship, 1, head_of(1, 3, 0, true));
    welcome(&ship, &before.checkpoint);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_SEND);
    refuse(&ship, REPL_REFUSAL_FORK);
    welcome(&ship, &before.sent[0]);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_RECOVER);
    repl_ship_fini(&ship);

    ship = ship_sending();
    for (unsigned i = 0; i < 2; i++) {
        refuse(&ship, REPL_REFUSAL_FORK);
        welcome(&ship, NULL);
        assert_int_equal(next(&ship, START).type, REPL_SHIP_SEND);
    }
    refuse(&ship, REPL_REFUSAL_FORK);
    assert_int_equal(ship.state, REPL_SHIP_HALTED);
    repl_ship_fini(&ship);
}

static void a_head_that_is_not_ours_is_a_fork(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    struct repl_head head = head_of(0, 9, 2, true);
    repl_ship_lost(&ship, "gone", START);
    welcome(&ship, &head);
    assert_int_equal(ship.state, REPL_SHIP_HALTED);
    assert_int_equal(ship.refused_by, REPL_REFUSAL_FORK);
    assert_non_null(strstr(ship.cause, "segment 9.2"));
    assert_non_null(strstr(ship.cause, "repl forget")); /* the next step */
    repl_ship_fini(&ship);
}

static void recovers_what_was_sent_before_a_restart(void **state)
{
    (void)state;
    struct repl_source_state before = {.checkpoint = head_of(0, 1, 0, true), .sent_count = 3};
    before.sent[0] = head_of(1, 2, 0, true);
    before.sent[1] = head_of(2, 4, 0, false);
    before.sent[2] = head_of(2, 4, 1, true);
    struct repl_ship ship = ship_new(&before);
    assert_true(ship.point_seq == 1);
    welcome(&ship, &before.sent[1]);
    struct repl_ship_action action = next(&ship, START);
    assert_int_equal(action.type, REPL_SHIP_RECOVER);
    assert_true(action.head.to_seq == 4 && action.head.part == 0);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
    repl_ship_recovered(&ship);
    assert_int_equal(ship.state, REPL_SHIP_READY);
    assert_true(ship.head.to_seq == 4 && ship.point_seq == 2);
    /* The simulator: the one behind it was committed later, and was called a fork. */
    repl_ship_lost(&ship, "gone", START);
    welcome(&ship, &before.sent[2]);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_RECOVER);
    repl_ship_lost(&ship, "gone", START); /* while the site is asked: begun anew */
    welcome(&ship, &before.sent[2]);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_RECOVER);
    repl_ship_dropped(&ship);
    repl_ship_recovered(&ship);
    assert_true(ship.point_seq == 4);
    repl_ship_fini(&ship);
}

static void a_site_that_lost_the_volume_begins_anew(void **state)
{
    (void)state;
    struct repl_source_state before = {.checkpoint = head_of(0, 1, 0, true)};
    struct repl_ship ship = ship_new(&before);
    add(&ship, 1, head_of(1, 2, 0, true));
    welcome(&ship, NULL);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_RESTART);
    repl_ship_restarted(&ship);
    assert_true(repl_ship_tail(&ship).to_seq == 0 && ship.point_seq == 0);
    assert_int_equal(next(&ship, START).type, REPL_SHIP_WAIT);
    repl_ship_fini(&ship);
}

static void supplies_what_is_missing_and_sends_again(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    repl_ship_missing(&ship);
    struct repl_ship_action action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND_SUPPLY && action.number == 1);
    repl_ship_supplied(&ship);
    /* the site has kept the segment */
    uint64_t size = repl_ship_find(&ship, 1)->size;
    action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND && action.offset == size);
    repl_ship_missing(&ship);
    repl_ship_lost(&ship, "gone", START);
    welcome(&ship, NULL);
    /* it is told again what is missing; of the bytes kept, the welcome told */
    action = next(&ship, START);
    assert_true(action.type == REPL_SHIP_SEND && action.offset == 0);
    repl_ship_fini(&ship);
}

static void an_acknowledgement_of_another_segment_is_looked_into(void **state)
{
    (void)state;
    struct repl_ship ship = ship_sending();
    struct repl_ack ack = {.head = head_of(0, 7, 0, true)};
    repl_ship_ack(&ship, &ack, START);
    assert_int_equal(ship.state, REPL_SHIP_DOWN);
    assert_non_null(strstr(ship.cause, "acknowledged another segment"));
    assert_true(ship.segment_count == 1);
    repl_ship_fini(&ship);
}

static void clock_keeps_the_shortest_exchange(void **state)
{
    (void)state;
    struct repl_ship ship = ship_new(NULL);
    repl_ship_clock(&ship, 1000, 5000, 5100, 1300); /* there and back: 200 */
    assert_true(ship.clock_known && ship.clock_error_ns == 100);
    assert_true(ship.clock_offset_ns == 3900);
    repl_ship_clock(&ship, 2000, 9000, 9000, 90000000);
    assert_true(ship.clock_offset_ns == 3900);
    repl_ship_clock(&ship, 3000, 2000, 1000, 4000); /* set in between */
    repl_ship_clock(&ship, 3000, 2000, 2500, 2900);
    assert_true(ship.clock_offset_ns == 3900);
    repl_ship_clock(&ship, 5000, 9000, 9000, 5010);
    assert_true(ship.clock_offset_ns == 3995);
    repl_ship_fini(&ship);
}

static void ack_out_of_turn(void *context)
{
    struct repl_ack ack = {0};
    repl_ship_ack(context, &ack, START);
}

static void begin_behind_an_open_one(void *context)
{
    begin(context, 2, head_of(0, 1, 1, true));
}

static void events_out_of_turn_abort(void **state)
{
    (void)state;
    struct repl_ship ship = ship_new(NULL);
    assert_true(aborts(ack_out_of_turn, &ship));
    begin(&ship, 1, head_of(0, 1, 0, true));
    assert_true(aborts(begin_behind_an_open_one, &ship));
    repl_ship_fini(&ship);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_what_is_acknowledged_in_order),
        cmocka_unit_test(what_is_sent_ahead_comes_in_turn),
        cmocka_unit_test(what_has_left_ahead_is_followed_in_its_turn),
        cmocka_unit_test(answers_may_overtake_each_other),
        cmocka_unit_test(what_is_sent_ahead_ends_with_the_first),
        cmocka_unit_test(a_site_that_does_not_want_it_ahead_gets_it_in_turn),
        cmocka_unit_test(a_refusal_of_what_was_sent_ahead_is_no_refusal_in_turn),
        cmocka_unit_test(chunks_that_are_missing_do_not_end_what_is_sent_ahead),
        cmocka_unit_test(what_is_given_up_is_not_in_flight),
        cmocka_unit_test(a_lost_link_backs_off),
        cmocka_unit_test(a_clock_set_back_does_not_prolong_the_wait),
        cmocka_unit_test(a_welcome_acknowledges_what_an_answer_did_not),
        cmocka_unit_test(resumes_only_the_same_segment),
        cmocka_unit_test(an_abandoned_segment_leaves_no_offset),
        cmocka_unit_test(refusals_that_pass),
        cmocka_unit_test(what_is_damaged_twice_is_checked),
        cmocka_unit_test(a_cut_leaves_what_is_before_it),
        cmocka_unit_test(what_was_cut_is_known_for_ours),
        cmocka_unit_test(refusals_for_a_person),
        cmocka_unit_test(greet_is_followed_twice_in_a_row),
        cmocka_unit_test(a_segment_refused_as_a_fork_asks_the_site_first),
        cmocka_unit_test(a_head_that_is_not_ours_is_a_fork),
        cmocka_unit_test(recovers_what_was_sent_before_a_restart),
        cmocka_unit_test(a_site_that_lost_the_volume_begins_anew),
        cmocka_unit_test(supplies_what_is_missing_and_sends_again),
        cmocka_unit_test(an_acknowledgement_of_another_segment_is_looked_into),
        cmocka_unit_test(clock_keeps_the_shortest_exchange),
        cmocka_unit_test(events_out_of_turn_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
