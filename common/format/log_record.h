/*
 * The log beside a volume's journal at the site: append-only, one record after
 * the other, and the only thing that says what is committed. A segment belongs
 * to the history from the moment its COMMIT record is durable, and no longer
 * from the moment a MERGE has put others in its place; the catalogue is computed
 * from this log (journal/chain.h). docs/formats/log.md is the specification.
 */
#ifndef REPL_LOG_RECORD_H
#define REPL_LOG_RECORD_H

#include "base/cursor.h"
#include "base/limits.h"
#include "repl/error.h"
#include "repl/format.h"

#define REPL_LOG_VERSION         1u
#define REPL_LOG_VERSION_TREE    2u /* a tree's CREATE has it, and no other record */
#define REPL_LOG_VERSION_MERGE   3u /* of the types from MERGE to MARK */
#define REPL_LOG_VERSION_POOL    4u /* of POOL; and of a COMMIT or PIECE that has a churn */
#define REPL_LOG_RECORD_SIZE_MAX 1024u

enum repl_log_type {
    REPL_LOG_CREATE = 1,     /* the volume's first record */
    REPL_LOG_COMMIT = 2,     /* a segment is durable and part of the history */
    REPL_LOG_IDLE = 3,       /* the volume did not change between its last point and a time */
    REPL_LOG_STATE = 4,      /* the source's state changed: a gap begins or ends */
    REPL_LOG_MERGE = 5,      /* the records behind it say what has taken the place of a run */
    REPL_LOG_PIECE = 6,      /* a segment that is there since, or since the checkpoint */
    REPL_LOG_GONE = 7,       /* a segment of the base that is not there any more */
    REPL_LOG_CHECKPOINT = 8, /* first of a log written anew: the records behind it say all */
    REPL_LOG_MARK = 9,       /* a point has been given a name, or has lost it */
    REPL_LOG_POOL = 10,      /* with which volumes it shares chunks, from there on */
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
    /* Of a status alone, on both sides of link-down: a source whose site answers so does not
     * report. */
    REPL_STATE_SITE_FULL = 9,   /* the site has no room for what comes next */
    REPL_STATE_SITE_BUSY = 10,  /* the site asks to be tried again later */
    REPL_STATE_SITE_ERROR = 11, /* something at the site is broken */
    REPL_STATE_COUNT,
};
/* Of states that a report or a log may hold. */
#define REPL_STATE_REPORTED_COUNT REPL_STATE_SITE_FULL
/* As they are ordered. */
int repl_state_rank(enum repl_state state);
/* "ok", "no-window", ...: as they stand in JSON. */
const char *repl_state_name(enum repl_state state);

struct repl_log_create {
    char name[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_uuid volume;
    enum repl_volume_kind kind;
    uint64_t lineage;
};

/* What a sudden change looks like (journal/trouble.h). Ordered: worse is greater. */
enum repl_trouble_kind {
    REPL_TROUBLE_NONE = 0,
    REPL_TROUBLE_CHANGE = 1,     /* far more was written than ever within weeks */
    REPL_TROUBLE_REMOVAL = 2,    /* far more files of a tree were removed */
    REPL_TROUBLE_ENCRYPTION = 3, /* much was written that does not compress, where it used to */
    REPL_TROUBLE_COUNT,
};
/* "encryption", ...: as they stand in JSON. */
const char *repl_trouble_name(enum repl_trouble_kind kind);
/* The same for people: what something "looks like". */
const char *repl_trouble_words(enum repl_trouble_kind kind);

/* How much has changed since the point before, as the site has found it in the segments: of all
 * parts of (from, to] up to this one; of a merged segment, of the points given up in between too.
 */
struct repl_churn {
    bool known;             /* not by a site of before log version 4: the rest is zeros then */
    bool compared;          /* some of it came with a full, or was found by comparison */
    uint64_t changed_bytes; /* content that segments carry, before compression, or name */
    uint64_t stored_bytes;  /* of what they carry, as it is stored */
    uint64_t objects_changed, objects_removed; /* of a tree */
    enum repl_trouble_kind trouble;            /* the worst that was seen in it */
    uint64_t trouble_before_seq; /* the last point before that began; 0 where there is none */
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
    struct repl_churn churn;
};

struct repl_log_idle {
    uint64_t seq;
    int64_t until_ns;
};

struct repl_log_state {
    enum repl_state state;
    char cause[REPL_WIRE_TEXT_MAX + 1];
};

/* What was committed of (from, to] is now what the next `records` records say: a segment of (from,
 * to], or, where there is a full in it, of (0, to], in pieces. from 0: the base has been brought
 * forward to point `to`. Of it stays what no GONE names; of all else nothing. */
struct repl_log_merge {
    uint64_t from_seq, to_seq;
    uint32_t records; /* PIECE and GONE; without a PIECE it is needless, as a full is behind it */
};

/* A place in the order of the manifest. */
struct repl_record_place {
    uint64_t object, offset;
};

struct repl_log_piece {
    struct repl_log_commit commit;
    uint64_t merge; /* which merge has made it; 0: as it was received */
    bool begins;    /* a full: what is behind it looks at nothing before it */
    /* What the segment after it names as the one before it: the digest of what it stands for. */
    struct repl_digest link;
    int64_t unchanged_until_ns; /* of its point, as IDLE said last */
    int64_t committed_ns;       /* when its COMMIT was written; of a merged one, the last of them */
    /* Of the base: it alone speaks of what lies in [begin, end). Else zeros. */
    struct repl_record_place begin, end;
};

struct repl_log_gone {
    uint64_t to_seq;
    uint32_t part;
    uint64_t merge;
};

/* Behind it: POOL if the volume is of one, PIECE for every segment there is, in order, then MARK
 * for every name. */
struct repl_log_checkpoint {
    struct repl_log_create create;
    uint64_t lineage;
    uint32_t records;
    /* What COMMIT, IDLE and STATE had last said. */
    int64_t heard_ns;
    int64_t created_ns; /* when the CREATE was written */
};

#define REPL_MARK_NAME_SIZE 64u

enum repl_mark_kind {
    REPL_MARK_REMOVED = 0,
    REPL_MARK_NAME = 1,   /* by a host or the operator: the point stays as long as it has a name */
    REPL_MARK_HELD = 2,   /* by the operator of the site alone */
    REPL_MARK_PROVEN = 3, /* restored and found good; the last of them counts, its name is empty */
};

struct repl_log_mark {
    enum repl_mark_kind kind;
    uint64_t seq;
    char name[REPL_MARK_NAME_SIZE + 1];
};

/* Once in a log at most: what refers to chunks of others cannot leave them. */
struct repl_log_pool {
    char name[REPL_VOLUME_NAME_SIZE + 1]; /* 1 to 64 bytes */
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
        struct repl_log_merge merge;
        struct repl_log_piece piece;
        struct repl_log_gone gone;
        struct repl_log_checkpoint checkpoint;
        struct repl_log_mark mark;
        struct repl_log_pool pool;
    };
};

/* Writes words for people (a cause, a refusal): at most REPL_WIRE_TEXT_MAX bytes, and what a reader
 * of text refuses, such as the newline in a strange path, as '?': one such cause would make its
 * record, and with it the log behind it, unreadable. */
void repl_words_encode(struct repl_writer *writer, const char *words);

/* Whether a stands before b in the order of a manifest. */
bool repl_record_place_before(const struct repl_record_place *a, const struct repl_record_place *b);

/* The fields of a PIECE, for whoever keeps them elsewhere: at most REPL_LOG_PIECE_SIZE_MAX bytes.
 * A reader has failed where one of them is out of its bounds. churn_known: of piece->commit.churn
 * when it was written. */
#define REPL_LOG_PIECE_SIZE_MAX 272u
void repl_log_piece_encode(struct repl_writer *writer, const struct repl_log_piece *piece);
void repl_log_piece_decode(struct repl_reader *reader, bool churn_known,
                           struct repl_log_piece *out);

/* The fields of a churn that is known, for whoever keeps them elsewhere. */
#define REPL_CHURN_SIZE 42u
void repl_churn_encode(struct repl_writer *writer, const struct repl_churn *churn);
void repl_churn_decode(struct repl_reader *reader, struct repl_churn *out);

/* A segment as it was received, by its COMMIT, as a PIECE says it. */
void repl_log_piece_of_commit(const struct repl_log_record *record, struct repl_log_piece *out);

/* Writes one record; *size is its length. out has room for REPL_LOG_RECORD_SIZE_MAX. */
void repl_log_record_encode(const struct repl_log_record *record, uint8_t *out, size_t *size);
/* Reads the record that begins at data; *size is its length. A record that is not there whole,
 * or does not match its checksum, is REPL_E_CORRUPT: whether that is a torn tail or damage, the
 * caller knows from the committed end recorded elsewhere. */
REPL_RESULT repl_log_record_decode(const uint8_t *data, size_t available,
                                   struct repl_log_record *out, size_t *size,
                                   struct repl_error *err);

#endif
