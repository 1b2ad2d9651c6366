/*
 * The log beside a volume's journal at the site: append-only, one record after
 * the other, and the only thing that says what is committed. A segment belongs
 * to the history from the moment its COMMIT record is durable; the catalogue
 * is computed from this log. docs/formats/log.md is the specification.
 */
#ifndef REPL_LOG_RECORD_H
#define REPL_LOG_RECORD_H

#include "base/cursor.h"
#include "base/limits.h"
#include "repl/error.h"
#include "repl/format.h"

#define REPL_LOG_VERSION         1u
#define REPL_LOG_VERSION_TREE    2u /* a tree's CREATE has it, and no other record */
#define REPL_LOG_RECORD_SIZE_MAX 1024u

enum repl_log_type {
    REPL_LOG_CREATE = 1, /* the volume's first record */
    REPL_LOG_COMMIT = 2, /* a segment is durable and part of the history */
    REPL_LOG_IDLE = 3,   /* the volume did not change between its last point and a time */
    REPL_LOG_STATE = 4,  /* the source's state changed: a gap begins or ends */
};

/* How a volume fares, as its source says it. Ordered: worse is greater. */
enum repl_state {
    REPL_STATE_OK = 0,
    REPL_STATE_IDLE = 1,      /* nothing to send, the last point is the present */
    REPL_STATE_SEEDING = 2,   /* the first copy, no point yet */
    REPL_STATE_RESYNC = 3,    /* comparing; the last good point stays */
    REPL_STATE_NO_WINDOW = 4, /* no consistent moment found lately */
    REPL_STATE_DEGRADED = 5,  /* changes may have been missed */
    REPL_STATE_LINK_DOWN = 6, /* the source cannot reach the site */
    REPL_STATE_REFUSED = 7,   /* the site or the source refuses to go on */
    REPL_STATE_FAILED = 8,    /* the device cannot be read, or is another one */
    REPL_STATE_COUNT,
};
/* "ok", "no-window", ...: as they stand in JSON. */
const char *repl_state_name(enum repl_state state);

struct repl_log_create {
    char name[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_uuid volume;
    enum repl_volume_kind kind;
    uint64_t lineage;
};

struct repl_log_commit {
    uint64_t from_seq, to_seq;
    uint32_t part;
    uint64_t lineage;
    uint64_t file_size;
    uint64_t volume_size;
    struct repl_digest digest;
    bool has_point;
    struct repl_point point;
};

struct repl_log_idle {
    uint64_t seq;
    int64_t until_ns;
};

struct repl_log_state {
    enum repl_state state;
    char cause[REPL_WIRE_TEXT_MAX + 1];
};

struct repl_log_record {
    enum repl_log_type type;
    uint64_t number; /* 1, 2, ...: no gaps */
    int64_t time_ns; /* the site's clock */
    union {
        struct repl_log_create create;
        struct repl_log_commit commit;
        struct repl_log_idle idle;
        struct repl_log_state state;
    };
};

/* Writes words for people (a cause, a refusal): at most REPL_WIRE_TEXT_MAX bytes, and what a reader
 * of text refuses, such as the newline in a strange path, as '?': one such cause would make its
 * record, and with it the log behind it, unreadable. */
void repl_words_encode(struct repl_writer *writer, const char *words);

/* Writes one record; *size is its length. out has room for REPL_LOG_RECORD_SIZE_MAX. */
void repl_log_record_encode(const struct repl_log_record *record, uint8_t *out, size_t *size);
/* Reads the record that begins at data; *size is its length. A record that is not there whole,
 * or does not match its checksum, is REPL_E_CORRUPT: whether that is a torn tail or damage, the
 * caller knows from the committed end recorded elsewhere. */
REPL_RESULT repl_log_record_decode(const uint8_t *data, size_t available,
                                   struct repl_log_record *out, size_t *size,
                                   struct repl_error *err);

#endif
