/*
 * The messages between source, site and recovery, the bodies of the HTTP
 * requests and answers of docs/formats/wire.md. Each begins with its type and
 * size, so that a message cannot be taken for another.
 */
#ifndef REPL_FORMAT_WIRE_H
#define REPL_FORMAT_WIRE_H

#include "base/cursor.h"
#include "base/limits.h"
#include "format/log_record.h"
#include "repl/error.h"
#include "repl/format.h"

#define REPL_PROTOCOL_MIN 1u
#define REPL_PROTOCOL_MAX 1u

enum repl_wire_type {
    REPL_WIRE_HELLO = 1,
    REPL_WIRE_WELCOME = 2,
    REPL_WIRE_ACK = 3,
    REPL_WIRE_REFUSAL = 4,
    REPL_WIRE_MISSING = 5,
    REPL_WIRE_REPORT = 6,
    REPL_WIRE_POINTS = 7,
    REPL_WIRE_SEGMENTS = 8,
    REPL_WIRE_DIGESTS = 9,
    REPL_WIRE_MERGED_SEGMENTS = 10, /* SEGMENTS where one of them was made by a merge */
    REPL_WIRE_MARK = 11,
    REPL_WIRE_MARKS = 12,
    REPL_WIRE_WANTED = 13,
    REPL_WIRE_POOL_NAMES = 14,
    REPL_WIRE_TIMELINE = 15, /* POINTS with how much has changed */
    REPL_WIRE_RESEND = 16,
    REPL_WIRE_DAMAGED = 17,
    REPL_WIRE_SLICES = 18,
    REPL_WIRE_SLICED = 19,
    REPL_WIRE_UNOPENED = 20,
    REPL_WIRE_TAILS = 21,
    REPL_WIRE_LAST = REPL_WIRE_TAILS,
};

/* Source to site, first after each loss of contact: who I am and where I stand. */
struct repl_hello {
    uint16_t version_min, version_max;
    struct repl_uuid volume;
    enum repl_volume_kind kind;
    uint64_t lineage;
    uint64_t volume_size;
    uint32_t rpo_ms;
    int64_t sent_ns; /* the source's clock */
};

/* Where a journal ends: its last segment, whether a point or an open part. */
struct repl_head {
    uint64_t from_seq, to_seq;
    uint32_t part;
    bool has_point; /* else more parts of (from, to] are to come */
    struct repl_digest digest;
};

/* Site to source. */
struct repl_welcome {
    uint16_t version;
    bool known; /* the volume has a history here */
    uint64_t lineage;
    struct repl_head head; /* zeros where there is none */
    uint64_t point_seq;    /* the last point; 0: none */
    /* bytes of an unfinished upload that are held, of the segment created at staged_created_ns */
    uint64_t staged_to_seq;
    uint32_t staged_part;
    int64_t staged_created_ns;
    uint64_t staged_bytes;
    int64_t received_ns, replied_ns; /* the site's clock */
};

/* Site to source: the segment is durable and part of the history. Also the answer to a report,
 * where the head is zeros as long as there is none. */
struct repl_ack {
    struct repl_head head;
    int64_t received_ns, replied_ns;
};

enum repl_refusal_code {
    REPL_REFUSAL_BUSY = 1,       /* try again later */
    REPL_REFUSAL_NO_SPACE = 2,   /* the store is full */
    REPL_REFUSAL_GREET = 3,      /* the head or the staged bytes are others: say hello again */
    REPL_REFUSAL_DAMAGED = 4,    /* the segment did not arrive as it was sent: send it again */
    REPL_REFUSAL_FORK = 5,       /* not a continuation of the history held here */
    REPL_REFUSAL_FENCED = 6,     /* the lineage is old */
    REPL_REFUSAL_PERMISSION = 7, /* this key may not do this */
    REPL_REFUSAL_VERSION = 8,    /* no common protocol version */
    REPL_REFUSAL_REQUEST = 9,    /* not understood */
    REPL_REFUSAL_NOT_FOUND = 10,
    REPL_REFUSAL_INTERNAL = 11, /* the site is broken: see its log */
};

struct repl_refusal {
    enum repl_refusal_code code;
    char text[REPL_WIRE_TEXT_MAX + 1];
};

/* Site to source: chunks the segment refers to that the site does not have. Whoever wants chunks
 * of the site says so with the same fields (repl_wanted_encode), 1 to REPL_WANTED_CHUNKS_MAX. */
struct repl_missing {
    uint32_t count;
    struct repl_digest *names; /* decoded: heap, freed by repl_missing_fini */
};
void repl_missing_fini(struct repl_missing *missing);

/* Site to source: a page of what the volume's pool holds. A guess: what is in it may be gone. */
struct repl_pool_names {
    uint32_t count;        /* at most REPL_POOL_NAMES_MAX */
    bool more;             /* behind the last one; then count is not 0 */
    struct repl_uuid pool; /* volumes with the same one share their chunks */
    uint64_t *prefixes;    /* ascending; decoded: heap, freed by repl_pool_names_fini */
};
void repl_pool_names_fini(struct repl_pool_names *names);
/* The first 8 bytes of a chunk's name, as a number in their order. */
uint64_t repl_chunk_prefix(const struct repl_digest *name);

/* Site to source: pages that it wants the content of once more, although they may not have changed,
 * as what it has of them is damaged; or all there is, as it cannot tell which. */
struct repl_page_run {
    uint64_t first, count; /* in pages; count is not 0, and all lie below REPL_VOLUME_SIZE_MAX */
};
struct repl_resend {
    bool full;                  /* a full is wanted, and then no run is */
    uint32_t count;             /* at most REPL_LIST_ENTRIES_MAX */
    struct repl_page_run *runs; /* ascending, with a gap between any two; decoded: heap, freed by
                                   repl_resend_fini */
};
void repl_resend_fini(struct repl_resend *resend);

/* Site to recovery: points that something damaged is part of, and may not restore exactly. */
struct repl_point_run {
    uint64_t first_seq, last_seq; /* not 0, both included */
};
struct repl_damaged {
    uint32_t count;              /* at most REPL_LIST_ENTRIES_MAX */
    bool complete;               /* nothing else is known to be damaged */
    struct repl_point_run *runs; /* in no particular order, and they may overlap; decoded: heap,
                                    freed by repl_damaged_fini */
};
void repl_damaged_fini(struct repl_damaged *damaged);
bool repl_damaged_has(const struct repl_damaged *damaged, uint64_t seq);

/* Recovery to site: parts of a frame, for who has the others already. */
struct repl_slices {
    struct repl_frame_entry frame; /* as the segment's index has it, but without has_pages */
    uint32_t count;                /* 1 to REPL_SLICES_MAX */
    struct repl_slice *slices;     /* ascending, with a gap between any two, in all at most
                                      REPL_SLICES_BYTES_MAX bytes of the raw ones; decoded: heap,
                                      freed by repl_slices_fini */
};
void repl_slices_fini(struct repl_slices *slices);
/* How many bytes they are in all. */
uint32_t repl_slices_size(const struct repl_slice *slices, uint32_t count);

/* Site to recovery: these, one behind the other, as a frame of their own, whose offset is 0. */
struct repl_sliced {
    struct repl_frame_entry frame;
    const uint8_t *stored; /* frame.stored_size bytes; decoded: within the message */
};

/* Recovery to site: segments that are to be opened, of which header and all behind the frames is
 * wanted. */
struct repl_unopened_entry {
    uint64_t to_seq, merge; /* merge: 0: as it was received */
    uint32_t part;
};
struct repl_unopened {
    uint32_t count;                      /* 1 to REPL_TAILS_MAX */
    struct repl_unopened_entry *entries; /* decoded: heap, freed by repl_unopened_fini */
};
void repl_unopened_fini(struct repl_unopened *unopened);

/* Site to recovery: these, in the order of the question, as far as they fit. */
struct repl_tail {
    uint32_t size;         /* at most REPL_TAIL_BYTES_MAX; 0: it is longer, or cannot be had */
    uint64_t begin;        /* where in the segment it begins: behind the last frame */
    const uint8_t *header; /* REPL_SEGMENT_HEADER_SIZE bytes; decoded: within the message; NULL
                              where the size is 0 */
    const uint8_t *bytes;  /* up to the segment's end */
};
struct repl_tails {
    uint32_t count;          /* at most REPL_TAILS_MAX */
    struct repl_tail *tails; /* decoded: heap, freed by repl_tails_fini */
};
void repl_tails_fini(struct repl_tails *tails);
/* How many bytes a tail takes in the message, which has room for REPL_TAILS_ROOM. */
#define REPL_TAILS_ROOM (REPL_MESSAGE_SIZE_MAX - 20u)
size_t repl_tail_room(const struct repl_tail *tail);

/* Source to site, every few seconds: how it fares; and where nothing changed since point seq, that
 * the point is still the present. */
struct repl_report {
    uint64_t seq;               /* 0: no claim */
    int64_t unchanged_until_ns; /* the source's clock, as all times of points are */
    enum repl_state state;
    char cause[REPL_WIRE_TEXT_MAX + 1];
    uint64_t backlog_bytes;
    uint64_t done_bytes, total_bytes; /* of a seed or resync; 0 of 0: none */
    int64_t sent_ns;
};

/* Site to recovery: entries of a journal, oldest first, and whether there are more. */
struct repl_points_entry {
    struct repl_point point;
    int64_t unchanged_until_ns; /* not before point.end_ns */
    uint64_t volume_size;
    struct repl_churn churn; /* of a timeline; not known in points */
};
struct repl_points_page {
    uint32_t count;
    bool more;
    struct repl_points_entry *entries; /* heap, freed by repl_points_page_fini */
};
void repl_points_page_fini(struct repl_points_page *page);

struct repl_segments_entry {
    struct repl_head head;
    uint64_t file_size;
    uint64_t merge;          /* which merge has made it; 0: as it was received */
    bool begins;             /* a full: what is behind it looks at nothing before it */
    struct repl_digest link; /* what the segment after it names as the one before it */
};
struct repl_segments_page {
    uint32_t count;
    bool more;
    struct repl_segments_entry *entries;
};
void repl_segments_page_fini(struct repl_segments_page *page);

/* Site to a host that compares: what the replica holds in the pages from first_page on, all of it
 * as of one point. */
struct repl_digests {
    uint32_t count; /* 0: only where the replica stands; at most REPL_DIGESTS_MAX */
    uint64_t first_page;
    struct repl_points_entry at; /* zeros: the site keeps no replica of the volume */
    /* decoded: heap, freed by repl_digests_fini. The volume's last page may be a short one. */
    struct repl_page_digest *pages;
};
void repl_digests_fini(struct repl_digests *digests);

/* Source to site: a name for a point. What a name may be is decided by whoever takes it
 * (journal/mark.h). */
struct repl_mark {
    uint64_t seq; /* not 0 */
    char name[REPL_MARK_NAME_SIZE + 1];
};

/* Site to recovery: all names of a volume, in no particular order; none REMOVED. */
struct repl_marks {
    uint32_t count;              /* at most REPL_LIST_ENTRIES_MAX */
    struct repl_log_mark *marks; /* decoded: heap, freed by repl_marks_fini */
};
void repl_marks_fini(struct repl_marks *marks);

/* Each encode appends to out; each decode wants exactly one message of its type. */
REPL_RESULT repl_hello_encode(const struct repl_hello *m, struct repl_buffer *out,
                              struct repl_error *err);
REPL_RESULT repl_hello_decode(const void *data, size_t size, struct repl_hello *out,
                              struct repl_error *err);
REPL_RESULT repl_welcome_encode(const struct repl_welcome *m, struct repl_buffer *out,
                                struct repl_error *err);
REPL_RESULT repl_welcome_decode(const void *data, size_t size, struct repl_welcome *out,
                                struct repl_error *err);
REPL_RESULT repl_ack_encode(const struct repl_ack *m, struct repl_buffer *out,
                            struct repl_error *err);
REPL_RESULT repl_ack_decode(const void *data, size_t size, struct repl_ack *out,
                            struct repl_error *err);
REPL_RESULT repl_refusal_encode(const struct repl_refusal *m, struct repl_buffer *out,
                                struct repl_error *err);
REPL_RESULT repl_refusal_decode(const void *data, size_t size, struct repl_refusal *out,
                                struct repl_error *err);
REPL_RESULT repl_missing_encode(const struct repl_missing *m, struct repl_buffer *out,
                                struct repl_error *err);
REPL_RESULT repl_missing_decode(const void *data, size_t size, struct repl_missing *out,
                                struct repl_error *err);
REPL_RESULT repl_wanted_encode(const struct repl_digest *names, uint32_t count,
                               struct repl_buffer *out, struct repl_error *err);
REPL_RESULT repl_wanted_decode(const void *data, size_t size, struct repl_missing *out,
                               struct repl_error *err);
REPL_RESULT repl_pool_names_encode(const struct repl_pool_names *m, struct repl_buffer *out,
                                   struct repl_error *err);
REPL_RESULT repl_pool_names_decode(const void *data, size_t size, struct repl_pool_names *out,
                                   struct repl_error *err);
REPL_RESULT repl_resend_encode(const struct repl_resend *m, struct repl_buffer *out,
                               struct repl_error *err);
REPL_RESULT repl_resend_decode(const void *data, size_t size, struct repl_resend *out,
                               struct repl_error *err);
REPL_RESULT repl_damaged_encode(const struct repl_damaged *m, struct repl_buffer *out,
                                struct repl_error *err);
REPL_RESULT repl_damaged_decode(const void *data, size_t size, struct repl_damaged *out,
                                struct repl_error *err);
REPL_RESULT repl_slices_encode(const struct repl_slices *m, struct repl_buffer *out,
                               struct repl_error *err);
REPL_RESULT repl_slices_decode(const void *data, size_t size, struct repl_slices *out,
                               struct repl_error *err);
REPL_RESULT repl_sliced_encode(const struct repl_sliced *m, struct repl_buffer *out,
                               struct repl_error *err);
REPL_RESULT repl_sliced_decode(const void *data, size_t size, struct repl_sliced *out,
                               struct repl_error *err);
REPL_RESULT repl_unopened_encode(const struct repl_unopened *m, struct repl_buffer *out,
                                 struct repl_error *err);
REPL_RESULT repl_unopened_decode(const void *data, size_t size, struct repl_unopened *out,
                                 struct repl_error *err);
REPL_RESULT repl_tails_encode(const struct repl_tails *m, struct repl_buffer *out,
                              struct repl_error *err);
REPL_RESULT repl_tails_decode(const void *data, size_t size, struct repl_tails *out,
                              struct repl_error *err);
REPL_RESULT repl_report_encode(const struct repl_report *m, struct repl_buffer *out,
                               struct repl_error *err);
REPL_RESULT repl_report_decode(const void *data, size_t size, struct repl_report *out,
                               struct repl_error *err);
REPL_RESULT repl_points_page_encode(const struct repl_points_page *m, struct repl_buffer *out,
                                    struct repl_error *err);
REPL_RESULT repl_points_page_decode(const void *data, size_t size, struct repl_points_page *out,
                                    struct repl_error *err);
REPL_RESULT repl_timeline_encode(const struct repl_points_page *m, struct repl_buffer *out,
                                 struct repl_error *err);
REPL_RESULT repl_timeline_decode(const void *data, size_t size, struct repl_points_page *out,
                                 struct repl_error *err);
REPL_RESULT repl_segments_page_encode(const struct repl_segments_page *m, struct repl_buffer *out,
                                      struct repl_error *err);
REPL_RESULT repl_segments_page_decode(const void *data, size_t size, struct repl_segments_page *out,
                                      struct repl_error *err);
REPL_RESULT repl_digests_encode(const struct repl_digests *m, struct repl_buffer *out,
                                struct repl_error *err);
REPL_RESULT repl_digests_decode(const void *data, size_t size, struct repl_digests *out,
                                struct repl_error *err);
REPL_RESULT repl_mark_encode(const struct repl_mark *m, struct repl_buffer *out,
                             struct repl_error *err);
REPL_RESULT repl_mark_decode(const void *data, size_t size, struct repl_mark *out,
                             struct repl_error *err);
REPL_RESULT repl_marks_encode(const struct repl_marks *m, struct repl_buffer *out,
                              struct repl_error *err);
REPL_RESULT repl_marks_decode(const void *data, size_t size, struct repl_marks *out,
                              struct repl_error *err);

/* The type a message announces; 0: not a message. */
enum repl_wire_type repl_wire_type_of(const void *data, size_t size);

/* The error a refusal means to whoever asked, with its text. */
REPL_RESULT repl_refusal_raise(const struct repl_refusal *refusal, struct repl_error *err);
/* The HTTP status it travels under. */
int repl_refusal_status(enum repl_refusal_code code);

#endif
