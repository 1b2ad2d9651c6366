/*
 * Where segments lie: a table of calls, with a directory behind it or a bucket
 * of object storage. Used by the site and by recovery without a site.
 *
 * Every call may block and is made from a worker or a program without a loop.
 * What returns success is durable. Names of volumes have been validated by the
 * caller (repl_volume_name_valid).
 */
#ifndef REPL_AGENT_STORE_H
#define REPL_AGENT_STORE_H

#include "base/cursor.h"
#include "repl/error.h"
#include "repl/format.h"

/* A segment's name within its volume: TO.PART, and a number for a supply to it, or which merge has
 * made it. */
struct repl_segment_id {
    uint64_t to_seq;
    uint32_t part;
    uint32_t supply; /* 0: the segment itself; 1, 2, ...: chunks it was found to lack */
    uint64_t merge;  /* 0: as it was received */
};

/* A segment open for reading. read_at may be called from several threads at once. */
struct repl_stored_segment;

struct repl_store_ops;
struct repl_s3_options;
struct repl_segment;

struct repl_store {
    const struct repl_store_ops *ops;
    /* What was asked for and given up may still be done for so long; 0: nothing ever is. */
    int64_t late_ms;
};

struct repl_store_options {
    const char *location; /* a directory, or s3://BUCKET or s3://BUCKET/PREFIX */
    bool writable;
    bool create;    /* with writable only */
    bool take_over; /* of a bucket, with writable only: although another site writes to it */
    /* Of a bucket: the directory on this machine for what is no part of the history (uploads,
     * replicas). NULL: the store is only read. */
    const char *local;
    const struct repl_s3_options *s3; /* NULL: what the environment says */
    bool impatient; /* of a bucket that is only read: what does not answer is given up within
                     * seconds */
    int64_t object_lock_ms; /* of a bucket, with writable only: what is written is locked for so
                             * long; 0: it is not */
};

typedef repl_result repl_volume_visit_fn(void *context, const char *volume, struct repl_error *err);
typedef repl_result repl_segment_visit_fn(void *context, const struct repl_segment_id *id,
                                          uint64_t size, struct repl_error *err);

/* clang-format takes REPL_RESULT for the name of a function here. */
/* clang-format off */
struct repl_store_ops {
    const char *name; /* "posix", "s3" */
    void (*close)(struct repl_store *store);
    /* Calls in progress give up as soon as they can, and later ones at once, with REPL_E_RETRY, as
     * far as they wait for something that may take long. From any thread. */
    void (*stop)(struct repl_store *store);
    /* What a person has to see to although every call goes well; text is "" where there is nothing.
     * Does not block; from any thread. */
    void (*warning)(struct repl_store *store, char *text, size_t size);

    REPL_RESULT (*volumes)(struct repl_store *store, repl_volume_visit_fn *visit, void *context,
                           struct repl_error *err);
    REPL_RESULT (*volume_create)(struct repl_store *store, const char *volume,
                                 struct repl_error *err);
    /* The directory on this machine for what the site keeps of a volume beside its history: the
     * replica, and uploads in staging/ below it. volume_create makes both. REPL_E_MISSING where the
     * store was opened without one. */
    REPL_RESULT (*volume_directory)(const struct repl_store *store, const char *volume, char *path,
                                    size_t path_size, struct repl_error *err);
    /* The segments of a volume in no particular order, uncommitted ones included. */
    REPL_RESULT (*segments)(struct repl_store *store, const char *volume,
                            repl_segment_visit_fn *visit, void *context, struct repl_error *err);

    /* Takes over the whole file behind fd, whose bytes have been synced already, as the segment;
     * an older one under that name, never committed, is replaced. staged_path is the file's name in
     * the staging directory, which is gone afterwards; fd stays the caller's to close. */
    REPL_RESULT (*segment_publish)(struct repl_store *store, const char *volume,
                                   const struct repl_segment_id *id, int fd,
                                   const char *staged_path, struct repl_error *err);
    /* What was committed, or a supply that says the same, in the place of the segment's file that is
     * damaged, at once: whatever happens, one of the two is there. */
    REPL_RESULT (*segment_replace)(struct repl_store *store, const char *volume,
                                   const struct repl_segment_id *id, int fd,
                                   const char *staged_path, struct repl_error *err);
    /* size: of the file, where it is known, which saves a store without files a request; else 0. */
    REPL_RESULT (*segment_open)(struct repl_store *store, const char *volume,
                                const struct repl_segment_id *id, uint64_t size,
                                struct repl_stored_segment **out, struct repl_error *err);
    /* Whether the segment is there now, as the store itself says: what is kept of it on this machine
     * does not count. */
    REPL_RESULT (*segment_look)(struct repl_store *store, const char *volume,
                                const struct repl_segment_id *id, bool *there,
                                struct repl_error *err);
    /* Success if it is not there. */
    REPL_RESULT (*segment_remove)(struct repl_store *store, const char *volume,
                                  const struct repl_segment_id *id, struct repl_error *err);

    /* Moves a segment to where no other call finds it, and nothing is ever replaced or removed.
     * name (of at least 64 bytes): where it is then, below the volume's directory. Success with ""
     * if it is not there. */
    REPL_RESULT (*segment_set_aside)(struct repl_store *store, const char *volume,
                                     const struct repl_segment_id *id, char *name,
                                     size_t name_size, struct repl_error *err);

    /* The volume's log, whole, in place of what out held; empty if there is none, or no such
     * volume. In a store open for writing what it returns is durable, whoever wrote it: a process
     * that was killed before it had synced its last record leaves that to us. *begin: the offset of
     * its first byte, for those of log_append and log_replace; not 0 where a store keeps counting
     * when a log is replaced. NULL: not asked for. */
    REPL_RESULT (*log_read)(struct repl_store *store, const char *volume, struct repl_buffer *out,
                            uint64_t *begin, struct repl_error *err);
    /* Appends at end, which is where the caller knows the last good record to end: whatever lies
     * behind it is cut off (with size 0, that is all it does, looking anew at what is there). After
     * a failed sync the file is
     * never written again: it is copied up to end into a new one, which takes its place (so a
     * retry of a failed call is safe). */
    REPL_RESULT (*log_append)(struct repl_store *store, const char *volume, uint64_t end,
                              const void *data, size_t size, struct repl_error *err);
    /* The log is these bytes, and nothing else, from now on; after a crash in between it is the
     * old one or the new one. *end: as for log_append, and then the offset behind the last byte.
     * Where it fails, the old log goes on. */
    REPL_RESULT (*log_replace)(struct repl_store *store, const char *volume, const void *data,
                               size_t size, uint64_t *end, struct repl_error *err);
};
/* clang-format on */

/* One process at a time may open a store for writing: REPL_E_LOCKED says which one has it. Readers
 * need no lock. */
REPL_RESULT repl_store_open(const struct repl_store_options *options, struct repl_store **out,
                            struct repl_error *err);
/* Whether it is the name of a bucket, not of a directory. */
bool repl_store_is_bucket(const char *location);
/* Where uploads of a volume are staged. */
REPL_RESULT repl_store_staging(const struct repl_store *store, const char *volume, char *path,
                               size_t path_size, struct repl_error *err);

/* The two kinds there are. */
REPL_RESULT repl_posix_store_open(const char *path, bool writable, bool create,
                                  struct repl_store **out, struct repl_error *err);
REPL_RESULT repl_s3_store_open(const struct repl_store_options *options, struct repl_store **out,
                               struct repl_error *err);

#define REPL_STORE_STAGING_NAME "staging"

/* What stores of either kind begin with, and what they check. */
#define REPL_STORE_VERSION_NAME "repl-store"
#define REPL_STORE_VERSION_TEXT "repl store, version 1\n"
/* text: NUL-terminated, size bytes; path: the store, for messages. */
REPL_RESULT repl_store_version_check(const char *text, size_t size, const char *path,
                                     struct repl_error *err);
/* The caller has validated the name; this is the wall behind that. */
REPL_RESULT repl_store_check_volume(const char *volume, struct repl_error *err);
/* Is the file called path the one behind fd? Another would be published unsynced and unchecked. */
REPL_RESULT repl_store_check_staged(int fd, const char *path, struct repl_error *err);

/* --- an open segment ------------------------------------------------------------------------- */

/* clang-format off */
struct repl_stored_segment {
    uint64_t size;
    int fd; /* -1 where there is no file behind it */
    REPL_RESULT (*read_at)(struct repl_stored_segment *segment, uint64_t offset, void *out,
                           size_t size, struct repl_error *err);
    void (*close)(struct repl_stored_segment *segment);
    char label[96]; /* "volume data, segment 12.0": for messages */
};
/* clang-format on */

/* repl_read_at_fn over a struct repl_stored_segment. */
REPL_RESULT repl_stored_segment_read_at(void *segment, uint64_t offset, void *out, size_t size,
                                        struct repl_error *err);

/* segment_open, and the lists of what it has opened, which are read from *file: that is closed when
 * *segment has been freed. Where either fails, both are NULL, and the message says of what. */
REPL_RESULT repl_store_open_segment(struct repl_store *store, const char *volume,
                                    const struct repl_segment_id *id, uint64_t size,
                                    struct repl_stored_segment **file,
                                    struct repl_segment **segment, struct repl_error *err);

#endif
