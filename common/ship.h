/*
 * Getting segments to the site: what the source does about the link, one volume.
 *
 * Events go in (an answer, a lost link, a segment begun or completed), actions
 * come out of repl_ship_next until it says WAIT. Segments are sent in the order
 * of the chain; a segment may be sent while it is still being built. Nothing
 * here touches a file or a socket.
 *
 *   DOWN --time--> GREETING --welcome--> READY --segment--> SENDING
 *     ^                                    ^                   |
 *     +---- link lost, busy (back off) ----+------- ack -------+
 *   A segment that is refused as damaged is sent again from its start; refused
 *   so once more, it is CHECKING until the shell has read it in the spool: what
 *   is damaged there is given up, else it is HALTED.
 *   HALTED: the site refused for a reason that only a person can change; asked
 *   again once a minute, so that the change takes effect by itself.
 *
 * When the last byte of the first segment has left, the one behind it is sent
 * ahead of its turn, so that the line is busy while the site makes the first
 * one durable. The states above are those of the first segment; what is sent
 * ahead becomes the first with the ack. Where the first is not acknowledged, or
 * the site does not want the other one yet, sending ahead has been in vain and
 * is no failure: the segment is sent in its turn.
 */
#ifndef REPL_SHIP_H
#define REPL_SHIP_H

#include "format/slot.h"
#include "format/wire.h"
#include "repl/error.h"
#include "repl/format.h"

enum repl_ship_state {
    REPL_SHIP_DOWN,
    REPL_SHIP_GREETING,
    REPL_SHIP_READY,
    REPL_SHIP_SENDING,
    REPL_SHIP_CHECKING,
    REPL_SHIP_HALTED,
};

/* A segment on its way. */
struct repl_ship_segment {
    uint64_t number; /* the source's own count */
    uint64_t from_seq, to_seq;
    uint32_t part;
    int64_t created_ns;
    struct repl_digest prev;
    bool complete; /* then these are known: */
    bool has_point;
    struct repl_digest digest;
    uint64_t size;
};

enum repl_ship_action_type {
    REPL_SHIP_WAIT,         /* nothing to do before until_ns, or an event */
    REPL_SHIP_HELLO,        /* send a hello; answer with welcome, refused or lost */
    REPL_SHIP_SEND,         /* send segment number from offset on, which may be its end; answer with
                               ack, ... */
    REPL_SHIP_SEND_AHEAD,   /* the same ahead of its turn, from its start on; once it
                               is in turn, answer as to SEND; before, with ahead_ack or
                               ahead_failed; and end it when it is not in flight any more */
    REPL_SHIP_SEND_SUPPLY,  /* send the chunks the site lacks, then answer with supplied or lost */
    REPL_SHIP_CHECK,        /* read segment number to its last byte; if it is whole answer with
                               checked, else cut it */
    REPL_SHIP_ACKNOWLEDGED, /* segment number is the site's: take over its digests, drop it */
    REPL_SHIP_RECOVER,      /* the site has committed segments of ours behind the checkpoint that we
                               no longer hold: drop every segment, forget the digests of their pages
                               (the site lists them), make head the checkpoint, call recovered */
    REPL_SHIP_RESTART,      /* the site holds nothing of this volume any more: forget all digests,
                               drop every segment, begin a new chain, then call restarted */
};

struct repl_ship_action {
    enum repl_ship_action_type type;
    uint64_t number;
    uint64_t offset;
    int64_t until_ns;
    struct repl_head head; /* RECOVER: the site's */
};

struct repl_ship {
    enum repl_ship_state state;
    enum repl_ship_state greeting_from;   /* GREETING: what lasts until there is a welcome */
    struct repl_head head;                /* the last segment known to be the site's; zeros: none */
    uint64_t point_seq;                   /* the last point known to be the site's */
    struct repl_head sent[REPL_SENT_MAX]; /* from the state of before a restart, or a cut */
    uint32_t sent_count;
    struct repl_ship_segment *segments; /* oldest first; owned */
    size_t segment_count, segment_capacity;
    uint64_t acknowledged; /* segments at the front whose ACKNOWLEDGED action is due */
    bool recover_due, restart_due, supply_due;
    struct repl_head recover_head;
    uint64_t resume_offset; /* of the first segment */
    bool no_offset;         /* it has to be sent from its start */
    bool check_due;
    unsigned damages;        /* of the first segment: refusals as damaged, in a row */
    uint64_t left;           /* the newest segment whose last byte has left */
    uint64_t ahead;          /* the number of the segment that is sent ahead of its turn; 0: none */
    bool ahead_acknowledged; /* before the first was: the ack waits for that */
    struct repl_ack ahead_ack;
    bool ahead_vain;      /* the one behind the first is not to be tried again */
    bool ahead_not_known; /* the site knows no such thing */
    int64_t wait_until_ns;
    unsigned failures;                  /* in a row */
    unsigned greets;                    /* in a row, without an ack between */
    enum repl_refusal_code refused_by;  /* of HALTED, and of DOWN, where 0 is none */
    char cause[REPL_WIRE_TEXT_MAX + 1]; /* of DOWN and HALTED, for people; kept by a hello */
    /* clock of the site minus ours, from the exchange with the shortest round trip lately */
    bool clock_known;
    int64_t clock_offset_ns;
    int64_t clock_error_ns; /* half that round trip */
};

/* Takes up where a state left off: checkpoint and sent are from it. */
void repl_ship_init(struct repl_ship *ship, const struct repl_source_state *state);
void repl_ship_fini(struct repl_ship *ship);

/* What to do now. Each action but WAIT is handed out once. */
void repl_ship_next(struct repl_ship *ship, int64_t now_ns, struct repl_ship_action *action);

/* A new segment at the end of the chain, complete or not. */
REPL_RESULT repl_ship_begin(struct repl_ship *ship, const struct repl_ship_segment *segment,
                            struct repl_error *err);
/* The one begun last has been finished. */
void repl_ship_complete(struct repl_ship *ship, uint64_t number, const struct repl_digest *digest,
                        uint64_t size, bool has_point);
/* The one begun last has been given up before it was complete; if it was being sent, the shell has
 * ended that request. */
void repl_ship_abandon(struct repl_ship *ship, uint64_t number);

/* The last byte of a segment that is being sent is on its way. */
void repl_ship_left(struct repl_ship *ship, uint64_t number);
/* An ack to SEND_AHEAD that came before the one of the first segment: answers may overtake each
 * other on their connections. */
void repl_ship_ahead_ack(struct repl_ship *ship, const struct repl_ack *ack);
/* What was begun as SEND_AHEAD was refused, or is still ahead and its answer lost. unknown: the
 * site does not know what that is, and is not asked again before the next welcome. */
void repl_ship_ahead_failed(struct repl_ship *ship, uint64_t number, bool unknown);
/* Whether an answer to a SEND or SEND_AHEAD of this segment is waited for; and whether it is the
 * first, whose answers are for ack, refused, missing and lost. */
bool repl_ship_in_flight(const struct repl_ship *ship, uint64_t number);
bool repl_ship_in_turn(const struct repl_ship *ship, uint64_t number);

/* Segment number and all behind it are gone, of which the site has acknowledged none; the shell has
 * ended a request for one of them. state: knows which of them may have reached the site whole. */
void repl_ship_cut(struct repl_ship *ship, uint64_t number, const struct repl_source_state *state);

/* The segments from number first to the last, none of which has been sent whole, are one now. */
void repl_ship_replace(struct repl_ship *ship, uint64_t first,
                       const struct repl_ship_segment *merged);

void repl_ship_welcome(struct repl_ship *ship, const struct repl_welcome *welcome, int64_t now_ns);
void repl_ship_ack(struct repl_ship *ship, const struct repl_ack *ack, int64_t now_ns);
void repl_ship_refused(struct repl_ship *ship, const struct repl_refusal *refusal, int64_t now_ns);
/* The site lacks chunks; the shell keeps the list. */
void repl_ship_missing(struct repl_ship *ship);
void repl_ship_supplied(struct repl_ship *ship);
/* The answer to CHECK: it is whole, so what carries or takes it alters it. */
void repl_ship_checked(struct repl_ship *ship, int64_t now_ns);
/* No answer came, or CHECK could not be done: cause says why. */
void repl_ship_lost(struct repl_ship *ship, const char *cause, int64_t now_ns);
/* Every segment is gone (the answer to RECOVER, before recovered). */
void repl_ship_dropped(struct repl_ship *ship);
void repl_ship_recovered(struct repl_ship *ship);
void repl_ship_restarted(struct repl_ship *ship);
/* Unasked, before welcome: the site was put back to this head, which was ours, and every segment is
 * gone. */
void repl_ship_put_back(struct repl_ship *ship, const struct repl_head *head);

/* One exchange: our clock when it was sent and when the answer came, the site's when it received
 * and when it replied (Mills, RFC 5905, section 8). */
void repl_ship_clock(struct repl_ship *ship, int64_t sent_ns, int64_t received_ns,
                     int64_t replied_ns, int64_t arrived_ns);

/* The end of the chain as it is being built: what the next segment has to follow. */
struct repl_head repl_ship_tail(const struct repl_ship *ship);
const struct repl_ship_segment *repl_ship_find(const struct repl_ship *ship, uint64_t number);

#endif
