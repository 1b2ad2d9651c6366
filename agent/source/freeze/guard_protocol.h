/*
 * What the agent and the freeze guard say to each other: packets of fixed size
 * on a SOCK_SEQPACKET Unix socket, one struct a packet, in the machine's own
 * byte order. Both ends are root (SO_PEERCRED) and of one version.
 *
 *     agent                              guard
 *     REQUEST
 *                                        PREPARED, where there is a freeze
 *                                        HELD    once pre_command is done and all is frozen
 *     END
 *                                        RELEASED once all is thawed
 *                                        DONE    once post_command has ended too
 *
 * FAILED comes in the place of HELD and RELEASED; DONE follows both. RELEASED
 * comes unasked where the hold ended by itself. An END that crosses with that
 * is ignored; one before HELD gives the hold up. One hold at a time: a REQUEST
 * before DONE breaks the rules, and is answered by closing the connection. A
 * connection that closes ends its hold. A guard that has no place for one more
 * answers with FAILED and DONE, and closes.
 *
 * With PREPARED come descriptors (SCM_RIGHTS): the guard's record
 * (guard_record.h), then one of each filesystem to be frozen, in the order of
 * the record's entries. With them the agent thaws if the guard dies.
 *
 * Every packet is validated whole: its size, its version, flags and numbers
 * against their bounds, texts ended within their field and zeros behind it,
 * reserved bytes zero.
 */
#ifndef REPL_AGENT_GUARD_PROTOCOL_H
#define REPL_AGENT_GUARD_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/error.h"

#define REPL_GUARD_MAGIC   0x67706572u /* "repg" */
#define REPL_GUARD_VERSION 2u

#define REPL_GUARD_COMMAND_SIZE 1024u
#define REPL_GUARD_VOLUME_SIZE  72u
/* Filesystems of one hold: the partitions of a disk, or what a group lies on. */
#define REPL_GUARD_MOUNTS_MAX 64u
/* Devices of a group besides the first. */
#define REPL_GUARD_OTHERS_MAX 63u

#define REPL_GUARD_BUDGET_MIN_MS  50u
#define REPL_GUARD_BUDGET_MAX_MS  10000u   /* of a freeze */
#define REPL_GUARD_LONGEST_MS     3600000u /* of a hold without one, and of a command */
#define REPL_GUARD_COMMAND_MIN_MS 100u

enum repl_guard_kind {
    REPL_GUARD_REQUEST = 1,
    REPL_GUARD_END,
    REPL_GUARD_PREPARED,
    REPL_GUARD_HELD,
    REPL_GUARD_RELEASED,
    REPL_GUARD_FAILED,
    REPL_GUARD_DONE,
};

struct repl_guard_header {
    uint32_t magic;
    uint16_t version;
    uint16_t kind;
};

/* Also the whole of END. */
struct repl_guard_end {
    struct repl_guard_header header;
};

struct repl_guard_request {
    struct repl_guard_header header;
    uint64_t device; /* dev_t of the protected block device */
    uint32_t budget_ms;
    uint32_t command_timeout_ms;
    uint32_t freeze; /* 0: only the commands; 1 */
    uint32_t group;  /* 1: volume names a group; it is frozen, and has no commands */
    uint32_t other_count;
    uint32_t reserved;
    uint64_t others[REPL_GUARD_OTHERS_MAX]; /* devices of a group that are frozen with the first */
    char volume[REPL_GUARD_VOLUME_SIZE];
    char pre_command[REPL_GUARD_COMMAND_SIZE]; /* empty: none */
    char post_command[REPL_GUARD_COMMAND_SIZE];
};

struct repl_guard_prepared {
    struct repl_guard_header header;
    uint64_t hold; /* its number in the record */
    uint32_t slot;
    uint32_t mount_count;
};

/* Times are of CLOCK_MONOTONIC, in nanoseconds. */
struct repl_guard_held {
    struct repl_guard_header header;
    int64_t begin_ns; /* when FIFREEZE was called: from here on writers may have waited */
    int64_t took_ns;  /* until all was frozen */
};

/* RELEASED and FAILED. */
struct repl_guard_outcome {
    struct repl_guard_header header;
    int64_t stall_ns; /* from the begin of the freeze to the thaw; 0: nothing was frozen */
    uint32_t intact;  /* RELEASED: 1: frozen without interruption until END */
    uint32_t code;    /* enum repl_code; REPL_OK where intact is 1 */
    char text[REPL_ERROR_TEXT_SIZE];
};

struct repl_guard_done {
    struct repl_guard_header header;
    uint32_t code; /* how post_command went; REPL_OK also where there is none */
    uint32_t reserved;
    char text[REPL_ERROR_TEXT_SIZE];
};

union repl_guard_packet {
    struct repl_guard_header header;
    struct repl_guard_end end;
    struct repl_guard_request request;
    struct repl_guard_prepared prepared;
    struct repl_guard_held held;
    struct repl_guard_outcome outcome;
    struct repl_guard_done done;
};

_Static_assert(sizeof(struct repl_guard_end) == 8, "no padding");
_Static_assert(sizeof(struct repl_guard_request) == 40 + 504 + 72 + 2048, "no padding");
_Static_assert(sizeof(struct repl_guard_prepared) == 24, "no padding");
_Static_assert(sizeof(struct repl_guard_held) == 24, "no padding");
_Static_assert(sizeof(struct repl_guard_outcome) == 24 + REPL_ERROR_TEXT_SIZE, "no padding");
_Static_assert(sizeof(struct repl_guard_done) == 16 + REPL_ERROR_TEXT_SIZE, "no padding");

/* The size of a packet of that kind; 0: there is no such kind. */
size_t repl_guard_packet_size(enum repl_guard_kind kind);
/* Zeroes the packet and fills its header. */
void repl_guard_packet_init(union repl_guard_packet *packet, enum repl_guard_kind kind);
/* from_agent: REQUEST and END are what may come, else the others. REPL_E_VERSION or
 * REPL_E_CORRUPT. */
REPL_RESULT repl_guard_packet_check(const union repl_guard_packet *packet, size_t size,
                                    bool from_agent, struct repl_error *err);

/* Copies a text into a field of a packet, zeros behind it. False, and an empty field: too long. */
bool repl_guard_text_set(char *field, size_t size, const char *text);

#endif
