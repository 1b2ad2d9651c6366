#include "ship.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"

#define SECOND_NS        INT64_C(1000000000)
#define BACKOFF_FIRST_NS (SECOND_NS / 2)
#define BACKOFF_MAX_NS   (10 * SECOND_NS)
#define HALTED_RETRY_NS  (60 * SECOND_NS)
/* The site may answer "say hello again" once for a good reason; a second time in a row it would
 * only be a loop. */
#define GREETS_MAX 2
/* A segment may be altered once on its way by chance. */
#define DAMAGES_MAX 2
/* A clock sample ages by this share of the time since it was taken: clocks of two machines drift
 * apart by some 50 us a second at worst. */
#define CLOCK_ERROR_MAX_NS (INT64_C(3600) * SECOND_NS)

void repl_ship_init(struct repl_ship *ship, const struct repl_source_state *state)
{
    memset(ship, 0, sizeof *ship);
    ship->head = state->checkpoint;
    ship->point_seq =
        state->checkpoint.has_point ? state->checkpoint.to_seq : state->checkpoint.from_seq;
    ship->sent_count = state->sent_count;
    memcpy(ship->sent, state->sent, sizeof ship->sent);
    snprintf(ship->cause, sizeof ship->cause, "not connected yet");
}

void repl_ship_fini(struct repl_ship *ship)
{
    free(ship->segments);
    ship->segments = NULL;
}

static bool heads_equal(const struct repl_head *a, const struct repl_head *b)
{
    return a->to_seq == b->to_seq && a->part == b->part &&
           repl_digest_equal(&a->digest, &b->digest);
}

static struct repl_head segment_head(const struct repl_ship_segment *s)
{
    return (struct repl_head){.from_seq = s->from_seq,
                              .to_seq = s->to_seq,
                              .part = s->part,
                              .has_point = s->has_point,
                              .digest = s->digest};
}

static void ahead_end(struct repl_ship *ship)
{
    ship->ahead = 0;
    ship->ahead_vain = ship->ahead_acknowledged = false;
}

static void go_down(struct repl_ship *ship, int64_t now_ns)
{
    ahead_end(ship);
    int64_t wait = BACKOFF_FIRST_NS;
    for (unsigned i = 0; i < ship->failures && wait < BACKOFF_MAX_NS; i++)
        wait *= 2;
    ship->failures++;
    ship->state = REPL_SHIP_DOWN;
    ship->wait_until_ns = now_ns + (wait < BACKOFF_MAX_NS ? wait : BACKOFF_MAX_NS);
}

static void halt(struct repl_ship *ship, enum repl_refusal_code code, const char *cause,
                 int64_t now_ns)
{
    ahead_end(ship);
    ship->state = REPL_SHIP_HALTED;
    ship->refused_by = code;
    ship->wait_until_ns = now_ns + HALTED_RETRY_NS;
    if (cause != ship->cause)
        snprintf(ship->cause, sizeof ship->cause, "%s", cause);
}

/* --- what to do ------------------------------------------------------------------------------ */

static bool acknowledged_next(struct repl_ship *ship, struct repl_ship_action *action)
{
    if (ship->acknowledged == 0)
        return false;
    ship->acknowledged--;
    action->type = REPL_SHIP_ACKNOWLEDGED;
    action->number = ship->segments[0].number;
    action->head = segment_head(&ship->segments[0]);
    ship->segment_count--;
    memmove(ship->segments, ship->segments + 1, ship->segment_count * sizeof *ship->segments);
    return true;
}

static bool due_next(struct repl_ship *ship, struct repl_ship_action *action)
{
    if (ship->restart_due) {
        ship->restart_due = false;
        action->type = REPL_SHIP_RESTART;
        return true;
    }
    if (ship->recover_due) {
        ship->recover_due = false;
        action->type = REPL_SHIP_RECOVER;
        action->head = ship->recover_head;
        return true;
    }
    return false;
}

/* The line is free and the site at work: time for the next one, if there is one. */
static bool ahead_next(struct repl_ship *ship, struct repl_ship_action *action)
{
    if (ship->segment_count < 2 || ship->ahead != 0 || ship->ahead_vain || ship->ahead_not_known ||
        ship->left < ship->segments[0].number)
        return false;
    ship->ahead = ship->segments[1].number;
    action->type = REPL_SHIP_SEND_AHEAD;
    action->number = ship->ahead;
    return true;
}

/* A clock that was set back far must not make the link wait until it has caught up. */
static void wait_clamp(struct repl_ship *ship, int64_t now_ns)
{
    int64_t most = ship->state == REPL_SHIP_HALTED ? HALTED_RETRY_NS : BACKOFF_MAX_NS;
    if (ship->wait_until_ns > now_ns + most)
        ship->wait_until_ns = now_ns + most;
}

void repl_ship_next(struct repl_ship *ship, int64_t now_ns, struct repl_ship_action *action)
{
    *action = (struct repl_ship_action){.type = REPL_SHIP_WAIT, .until_ns = INT64_MAX};
    if (acknowledged_next(ship, action) || due_next(ship, action))
        return;
    switch (ship->state) {
    case REPL_SHIP_DOWN:
    case REPL_SHIP_HALTED:
        wait_clamp(ship, now_ns);
        if (now_ns < ship->wait_until_ns) {
            action->until_ns = ship->wait_until_ns;
            return;
        }
        ship->greeting_from = ship->state;
        ship->state = REPL_SHIP_GREETING;
        action->type = REPL_SHIP_HELLO;
        return;
    case REPL_SHIP_READY:
        if (ship->segment_count == 0)
            return;
        ship->state = REPL_SHIP_SENDING;
        action->number = ship->segments[0].number;
        if (ship->supply_due) {
            ship->supply_due = false;
            action->type = REPL_SHIP_SEND_SUPPLY;
            return;
        }
        action->type = REPL_SHIP_SEND;
        action->offset = ship->resume_offset;
        if (ship->left >= action->number)
            ship->left = action->number - 1;
        ship->resume_offset = 0;
        return;
    case REPL_SHIP_CHECKING:
        if (!ship->check_due)
            return;
        ship->check_due = false;
        action->type = REPL_SHIP_CHECK;
        action->number = ship->segments[0].number;
        return;
    case REPL_SHIP_SENDING:
        ahead_next(ship, action);
        return;
    case REPL_SHIP_GREETING:
        return;
    }
}

void repl_ship_left(struct repl_ship *ship, uint64_t number)
{
    if (ship->left < number)
        ship->left = number;
}

bool repl_ship_in_turn(const struct repl_ship *ship, uint64_t number)
{
    return ship->state == REPL_SHIP_SENDING && ship->acknowledged < ship->segment_count &&
           ship->segments[ship->acknowledged].number == number;
}

bool repl_ship_in_flight(const struct repl_ship *ship, uint64_t number)
{
    return (number != 0 && ship->ahead == number) || repl_ship_in_turn(ship, number);
}

void repl_ship_ahead_failed(struct repl_ship *ship, uint64_t number, bool unknown)
{
    ensure(repl_ship_in_flight(ship, number));
    ship->ahead_not_known |= unknown;
    if (ship->ahead == number) {
        ship->ahead = 0;
        ship->ahead_vain = true;
    } else { /* it has become the first meanwhile */
        ship->state = REPL_SHIP_READY;
        ship->resume_offset = 0;
    }
}

/* --- the chain ------------------------------------------------------------------------------- */

struct repl_head repl_ship_tail(const struct repl_ship *ship)
{
    return ship->segment_count > 0 ? segment_head(&ship->segments[ship->segment_count - 1])
                                   : ship->head;
}

const struct repl_ship_segment *repl_ship_find(const struct repl_ship *ship, uint64_t number)
{
    for (size_t i = 0; i < ship->segment_count; i++) {
        if (ship->segments[i].number == number)
            return &ship->segments[i];
    }
    return NULL;
}

repl_result repl_ship_begin(struct repl_ship *ship, const struct repl_ship_segment *segment,
                            struct repl_error *err)
{
    if (ship->segment_count > 0)
        ensure(ship->segments[ship->segment_count - 1].complete &&
               ship->segments[ship->segment_count - 1].number < segment->number);
    if (ship->segment_count == ship->segment_capacity) {
        size_t capacity = ship->segment_capacity ? 2 * ship->segment_capacity : 16;
        struct repl_ship_segment *segments =
            realloc(ship->segments, capacity * sizeof *ship->segments);
        if (segments == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for the list of segments");
        ship->segments = segments;
        ship->segment_capacity = capacity;
    }
    ship->segments[ship->segment_count++] = *segment;
    return REPL_SUCCESS;
}

static struct repl_ship_segment *last_segment(struct repl_ship *ship, uint64_t number)
{
    ensure(ship->segment_count > 0 && ship->segments[ship->segment_count - 1].number == number);
    return &ship->segments[ship->segment_count - 1];
}

void repl_ship_complete(struct repl_ship *ship, uint64_t number, const struct repl_digest *digest,
                        uint64_t size, bool has_point)
{
    struct repl_ship_segment *segment = last_segment(ship, number);
    ensure(!segment->complete);
    segment->complete = true;
    segment->digest = *digest;
    segment->size = size;
    segment->has_point = has_point;
}

void repl_ship_abandon(struct repl_ship *ship, uint64_t number)
{
    ensure(!last_segment(ship, number)->complete);
    ship->segment_count--;
    if (ship->ahead == 0 || ship->ahead == number)
        ahead_end(ship);
    if (ship->segment_count > ship->acknowledged)
        return;
    /* It was the next to be sent, if not under way already. */
    ship->resume_offset = 0;
    ship->supply_due = false;
    if (ship->state == REPL_SHIP_SENDING)
        ship->state = REPL_SHIP_READY;
}

void repl_ship_dropped(struct repl_ship *ship)
{
    ahead_end(ship);
    ship->segment_count = 0;
    ship->acknowledged = 0;
    ship->resume_offset = 0;
    ship->supply_due = false;
    ship->damages = 0;
}

void repl_ship_cut(struct repl_ship *ship, uint64_t number, const struct repl_source_state *state)
{
    ship->sent_count = state->sent_count;
    memcpy(ship->sent, state->sent, sizeof ship->sent);
    size_t i = ship->acknowledged;
    while (i < ship->segment_count && ship->segments[i].number < number)
        i++;
    ship->segment_count = i;
    if (ship->ahead == 0 || ship->ahead >= number)
        ahead_end(ship);
    if (i > ship->acknowledged)
        return;
    ship->resume_offset = 0;
    ship->supply_due = ship->check_due = false;
    ship->damages = 0;
    if (ship->state == REPL_SHIP_SENDING || ship->state == REPL_SHIP_CHECKING)
        ship->state = REPL_SHIP_READY;
}

void repl_ship_replace(struct repl_ship *ship, uint64_t first,
                       const struct repl_ship_segment *merged)
{
    size_t i = ship->acknowledged;
    while (i < ship->segment_count && ship->segments[i].number != first)
        i++;
    ensure(i < ship->segment_count);
    ensure(i > ship->acknowledged || ship->state != REPL_SHIP_SENDING);
    ensure(ship->ahead < first);
    ship->segments[i] = *merged;
    ship->segment_count = i + 1;
    if (i == ship->acknowledged)
        ship->resume_offset = 0;
}

/* --- what the site says ---------------------------------------------------------------------- */

static void head_advance(struct repl_ship *ship, const struct repl_head *head)
{
    ship->head = *head;
    /* a part follows the point it says it follows, which may be one we were not told of */
    uint64_t point_seq = head->has_point ? head->to_seq : head->from_seq;
    if (ship->point_seq < point_seq)
        ship->point_seq = point_seq;
}

/* Finds the site's head among our complete segments and takes those up to it for acknowledged. */
static bool take_acknowledged(struct repl_ship *ship, const struct repl_head *head)
{
    for (size_t i = ship->acknowledged; i < ship->segment_count; i++) {
        const struct repl_ship_segment *s = &ship->segments[i];
        struct repl_head ours = segment_head(s);
        if (!s->complete || !heads_equal(&ours, head))
            continue;
        for (size_t k = ship->acknowledged; k <= i; k++) {
            ours = segment_head(&ship->segments[k]);
            head_advance(ship, &ours);
        }
        ship->acknowledged = i + 1;
        return true;
    }
    return false;
}

static bool was_sent(const struct repl_ship *ship, const struct repl_head *head)
{
    for (uint32_t i = 0; i < ship->sent_count; i++) {
        if (heads_equal(&ship->sent[i], head))
            return true;
    }
    return false;
}

/* Where the first segment that is not acknowledged goes on, if the site holds a beginning of it. */
static void find_resume_offset(struct repl_ship *ship, const struct repl_welcome *welcome)
{
    ship->resume_offset = 0;
    bool fresh = ship->no_offset;
    ship->no_offset = false;
    if (fresh || ship->acknowledged >= ship->segment_count)
        return;
    const struct repl_ship_segment *first = &ship->segments[ship->acknowledged];
    if (welcome->staged_bytes > 0 && welcome->staged_to_seq == first->to_seq &&
        welcome->staged_part == first->part && welcome->staged_created_ns == first->created_ns &&
        (!first->complete || welcome->staged_bytes < first->size))
        ship->resume_offset = welcome->staged_bytes;
}

void repl_ship_welcome(struct repl_ship *ship, const struct repl_welcome *welcome, int64_t now_ns)
{
    static const struct repl_head none;
    ensure(ship->state == REPL_SHIP_GREETING);
    ship->cause[0] = '\0';
    ship->ahead_not_known = false;
    if (!welcome->known) {
        if (!heads_equal(&ship->head, &none))
            ship->restart_due = true;
    } else if (!heads_equal(&ship->head, &welcome->head) &&
               !take_acknowledged(ship, &welcome->head)) {
        if (!was_sent(ship, &welcome->head)) {
            char text[REPL_WIRE_TEXT_MAX + 1];
            snprintf(text, sizeof text,
                     "the site's history ends in segment %llu.%u, which this host did not write: "
                     "the host was cloned or rolled back, or the site was put back to long ago. "
                     "The history is kept; to go on as a new volume: repl forget, and another "
                     "name",
                     (unsigned long long)welcome->head.to_seq, welcome->head.part);
            halt(ship, REPL_REFUSAL_FORK, text, now_ns);
            return;
        }
        ship->recover_due = true;
        ship->recover_head = welcome->head;
    }
    ship->state = REPL_SHIP_READY;
    if (ship->restart_due || ship->recover_due) /* until recovered or restarted is called */
        ship->state = ship->greeting_from = REPL_SHIP_GREETING;
    find_resume_offset(ship, welcome);
}

void repl_ship_recovered(struct repl_ship *ship)
{
    repl_ship_dropped(ship);
    head_advance(ship, &ship->recover_head);
    /* What was sent behind that head stays known: it may be committed yet. */
    ship->state = REPL_SHIP_READY;
}

void repl_ship_put_back(struct repl_ship *ship, const struct repl_head *head)
{
    repl_ship_dropped(ship);
    ship->head = *head;
    ship->point_seq = head->has_point ? head->to_seq : head->from_seq;
    ship->sent_count = 0;
}

void repl_ship_restarted(struct repl_ship *ship)
{
    repl_ship_dropped(ship);
    ship->head = (struct repl_head){0};
    ship->point_seq = 0;
    ship->sent_count = 0;
    ship->state = REPL_SHIP_READY;
}

/* The first segment is acknowledged. */
static void ahead_in_turn(struct repl_ship *ship, int64_t now_ns)
{
    bool acknowledged = ship->ahead_acknowledged;
    bool first = ship->ahead != 0 && ship->acknowledged < ship->segment_count &&
                 ship->segments[ship->acknowledged].number == ship->ahead;
    ahead_end(ship);
    if (!first)
        return;
    ship->state = REPL_SHIP_SENDING;
    if (acknowledged)
        repl_ship_ack(ship, &ship->ahead_ack, now_ns);
}

void repl_ship_ack(struct repl_ship *ship, const struct repl_ack *ack, int64_t now_ns)
{
    ensure(ship->state == REPL_SHIP_SENDING);
    if (!take_acknowledged(ship, &ack->head)) {
        /* It was a duplicate of what is acknowledged already, or the site went on without us. */
        repl_ship_lost(ship, "the site acknowledged another segment than the one sent", now_ns);
        return;
    }
    ship->state = REPL_SHIP_READY;
    ship->failures = ship->greets = ship->damages = 0;
    ahead_in_turn(ship, now_ns);
}

void repl_ship_ahead_ack(struct repl_ship *ship, const struct repl_ack *ack)
{
    ensure(ship->ahead != 0);
    ship->ahead_acknowledged = true;
    ship->ahead_ack = *ack;
}

static void refused_damaged(struct repl_ship *ship, int64_t now_ns)
{
    if (ship->state != REPL_SHIP_SENDING || ++ship->damages < DAMAGES_MAX) {
        go_down(ship, now_ns);
        return;
    }
    ship->state = REPL_SHIP_CHECKING;
    ship->check_due = true;
}

void repl_ship_refused(struct repl_ship *ship, const struct repl_refusal *refusal, int64_t now_ns)
{
    ahead_end(ship);
    ship->no_offset = refusal->code == REPL_REFUSAL_DAMAGED;
    ship->refused_by = refusal->code;
    snprintf(ship->cause, sizeof ship->cause, "%s", refusal->text);
    switch (refusal->code) {
    case REPL_REFUSAL_GREET:
        if (ship->greets++ < GREETS_MAX) {
            ship->state = REPL_SHIP_DOWN;
            ship->wait_until_ns = now_ns;
            return;
        }
        go_down(ship, now_ns);
        return;
    case REPL_REFUSAL_BUSY:
    case REPL_REFUSAL_NO_SPACE:
    case REPL_REFUSAL_INTERNAL:
        go_down(ship, now_ns);
        return;
    case REPL_REFUSAL_DAMAGED:
        refused_damaged(ship, now_ns);
        return;
    case REPL_REFUSAL_FORK:
        /* Of a segment it only says that the head is another one than we think: it may be one of
         * ours, sent before a restart and committed since the hello. The next welcome tells. */
        if (ship->state == REPL_SHIP_SENDING && ship->greets++ < GREETS_MAX) {
            ship->state = REPL_SHIP_DOWN;
            ship->wait_until_ns = now_ns;
            return;
        }
        halt(ship, refusal->code, ship->cause, now_ns);
        return;
    case REPL_REFUSAL_FENCED:
    case REPL_REFUSAL_PERMISSION:
    case REPL_REFUSAL_VERSION:
    case REPL_REFUSAL_REQUEST:
    case REPL_REFUSAL_NOT_FOUND:
        halt(ship, refusal->code, ship->cause, now_ns);
        return;
    }
}

void repl_ship_missing(struct repl_ship *ship)
{
    ensure(ship->state == REPL_SHIP_SENDING);
    ship->state = REPL_SHIP_READY;
    ship->supply_due = true;
    /* The site keeps what it has looked at: sent again, the segment has no bytes left to send. */
    ship->resume_offset = ship->segments[0].complete ? ship->segments[0].size : 0;
}

void repl_ship_supplied(struct repl_ship *ship)
{
    ensure(ship->state == REPL_SHIP_SENDING);
    ship->state = REPL_SHIP_READY;
}

void repl_ship_checked(struct repl_ship *ship, int64_t now_ns)
{
    ensure(ship->state == REPL_SHIP_CHECKING);
    const struct repl_ship_segment *first = &ship->segments[0];
    char text[REPL_WIRE_TEXT_MAX + 1];
    snprintf(text, sizeof text,
             "the site refused segment %llu.%u as damaged %u times, and in the spool here it is "
             "whole: check the network path, and the memory and disk of the site; it is sent "
             "again every minute. The site says: %.150s",
             (unsigned long long)first->to_seq, first->part, ship->damages, ship->cause);
    halt(ship, REPL_REFUSAL_DAMAGED, text, now_ns);
}

void repl_ship_lost(struct repl_ship *ship, const char *cause, int64_t now_ns)
{
    snprintf(ship->cause, sizeof ship->cause, "%s", cause);
    ship->refused_by = 0;
    ship->supply_due = false;
    go_down(ship, now_ns);
}

void repl_ship_clock(struct repl_ship *ship, int64_t sent_ns, int64_t received_ns,
                     int64_t replied_ns, int64_t arrived_ns)
{
    int64_t round_trip = (arrived_ns - sent_ns) - (replied_ns - received_ns);
    if (round_trip < 0 || replied_ns < received_ns || arrived_ns < sent_ns)
        return; /* a clock was set in between */
    int64_t error = round_trip / 2;
    /* Each older sample counts for a little less, so that drift is followed. */
    ship->clock_error_ns += ship->clock_error_ns / 16 + 1000;
    if (ship->clock_known && error > ship->clock_error_ns)
        return;
    ship->clock_known = error < CLOCK_ERROR_MAX_NS;
    ship->clock_error_ns = error;
    ship->clock_offset_ns = (received_ns - sent_ns) / 2 + (replied_ns - arrived_ns) / 2;
}
