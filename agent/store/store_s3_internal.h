/*
 * What the parts of the store in a bucket share: store_s3.c (opening,
 * volumes), store_s3_segment.c, store_s3_recent.c, store_s3_log.c, store_s3_writer.c (who
 * writes), store_s3_remove.c (removals that may be on their way), store_s3_lock.c (object lock).
 */
#ifndef REPL_AGENT_STORE_S3_INTERNAL_H
#define REPL_AGENT_STORE_S3_INTERNAL_H

#include <pthread.h>

#include "base/limits.h"
#include "store/s3_client.h"
#include "store/store.h"

/* What tests make shorter. */
struct s3_store_limits {
    struct s3_limits client;
    int64_t claim_fresh_ms; /* what we read of the writer longer ago is read again; */
    int64_t claim_valid_ms; /* without it, nothing is answered after so long */
    int64_t take_over_ms;   /* longer than claim_valid_ms and a deletion's short_total_ms */
    int64_t late_ms;        /* no request is under way for longer, its sender ended or not */
    size_t merge_pieces;    /* so many pieces of a log become one */
    uint64_t merge_size;    /* a merged piece of this size is not merged again */
    int64_t lock_first_ms;  /* after opening, the locks of all that is there are extended; */
    int64_t lock_again_ms;  /* where some could not be, again after so long */
    int64_t lock_pause_ms;  /* between two objects */
    int64_t lock_proof_ms;  /* how long the object is locked with which it is proved */
};

extern const struct s3_store_limits s3_store_limits_default;

#define S3_WRITER_TEXT_MAX 512u

/* Who writes, as far as we know; see store_s3_writer.c. */
struct s3_claim {
    pthread_mutex_t mutex; /* guards what follows, also while it is read again */
    bool held;
    char id[33];
    int64_t confirmed_ns; /* CLOCK_BOOTTIME before the last reading that found it ours */
    bool fenced;          /* it is another's, for good; */
    char fenced_by[200];
};

/* Removals that are on their way; see store_s3_remove.c. */
#define S3_DOUBTS_MAX 256u

struct s3_doubt {
    uint64_t key; /* its XXH3 */
    int64_t until_ns;
};

struct s3_removals {
    pthread_mutex_t mutex; /* guards what follows, also while the mark is made or removed */
    unsigned out;
    bool marked;
    struct s3_doubt doubts[S3_DOUBTS_MAX]; /* removals that may be carried out later still */
    size_t doubt_count;
};

/* store_s3_recent.c */
#define S3_RECENT_MAX      16u
#define S3_RECENT_SIZE_MAX (UINT64_C(256) << 20) /* of all together, on the site's disk */
#define S3_STORE_KEY_SIZE  256u                  /* of any key below the prefix, with its NUL */

struct s3_recent_entry {
    int fd; /* -1: none */
    uint64_t size;
    char key[S3_STORE_KEY_SIZE];
};

struct s3_recent {
    pthread_mutex_t mutex; /* guards what follows; the last of all locks */
    struct s3_recent_entry entries[S3_RECENT_MAX];
    size_t next;   /* entry to be filled */
    uint64_t size; /* of all */
};

struct s3_log;
struct s3_locker;

/* Lock order: mutex, then that of a log, then that of the claim. */
struct s3_store {
    struct repl_store base;
    struct s3_client *client;
    struct s3_store_limits limits;
    char *location;
    char *local;  /* absolute; NULL: none */
    int local_fd; /* -1: none */
    int lock_fd;  /* -1: a reader */
    bool writable;
    struct s3_claim claim;
    struct s3_removals removals;
    struct s3_recent recent;
    int64_t lock_ms;          /* for how long objects are locked; 0: not at all */
    struct s3_locker *locker; /* NULL: none */
    pthread_mutex_t mutex;    /* guards the list below; its members live as long as the store */
    struct s3_log *logs;
};

static inline struct s3_store *s3_store_of(struct repl_store *store)
{
    return (struct s3_store *)store;
}

REPL_RESULT s3_store_open_with(const struct repl_store_options *options,
                               const struct s3_store_limits *limits, struct repl_store **out,
                               struct repl_error *err);

#define S3_VOLUMES_PREFIX "volumes/"

/* Of a few bytes in memory. */
REPL_RESULT s3_store_put(struct s3_store *store, const char *key, const void *data, size_t size,
                         bool if_absent, bool *existed, struct repl_error *err);

/* --- store_s3_writer.c ----------------------------------------------------------------------- */

/* Makes the store ours; REPL_E_LOCKED where it is another's. May wait for limits.take_over_ms. */
REPL_RESULT s3_claim_take(struct s3_store *store, bool take_over, struct repl_error *err);
/* Before anything is written or removed: the store is open for writing, and still was ours within
 * claim_fresh_ms. */
REPL_RESULT s3_claim_begin(struct s3_store *store, struct repl_error *err);
/* Before success is answered: it was still ours within claim_valid_ms. */
REPL_RESULT s3_claim_end(struct s3_store *store, struct repl_error *err);
/* Reads the writer, which has to be us. */
REPL_RESULT s3_claim_settle(struct s3_store *store, struct repl_error *err);
/* Lets go of it, where it is ours. */
void s3_claim_release(struct s3_store *store);
/* A file of this machine's side, durably. */
REPL_RESULT s3_local_make(const struct s3_store *store, const char *name, const char *text,
                          struct repl_error *err);

/* --- store_s3_remove.c ----------------------------------------------------------------------- */

/* Before anything is written under the key: REPL_E_RETRY while a removal of it that was not
 * answered may still come. */
REPL_RESULT s3_name_check(struct s3_store *store, const char *key, struct repl_error *err);
/* Every removal of a writer: success if it is not there. */
REPL_RESULT s3_store_remove(struct s3_store *store, const char *key, struct repl_error *err);
/* Where the process before ended while it removed something, waits until that is done or never
 * will be. */
REPL_RESULT s3_removals_wait(struct s3_store *store, struct repl_error *err);

/* --- store_s3_lock.c -------------------------------------------------------------------------- */

/* Until when what is written under the key is locked, in seconds since 1970; 0: it is not. */
int64_t s3_lock_until(const struct s3_store *store, const char *key);
/* Shows that the bucket locks, or REPL_E_USAGE. */
REPL_RESULT s3_lock_prove(struct s3_store *store, struct repl_error *err);
/* Extends the locks of what is there, in a thread of its own. */
REPL_RESULT s3_locker_start(struct s3_store *store, struct repl_error *err);
/* Why the locks of what is there could not all be extended at the last pass; "": they could. */
void s3_locker_warning(struct repl_store *store, char *text, size_t size);
/* Waits for the request that it may have under way. */
void s3_locker_end(struct s3_store *store);

/* --- store_s3_segment.c ---------------------------------------------------------------------- */

repl_result s3_segments(struct repl_store *store, const char *volume, repl_segment_visit_fn *visit,
                        void *context, struct repl_error *err);
repl_result s3_segment_publish(struct repl_store *store, const char *volume,
                               const struct repl_segment_id *id, int fd, const char *staged_path,
                               struct repl_error *err);
repl_result s3_segment_open(struct repl_store *store, const char *volume,
                            const struct repl_segment_id *id, uint64_t size,
                            struct repl_stored_segment **out, struct repl_error *err);
repl_result s3_segment_look(struct repl_store *store, const char *volume,
                            const struct repl_segment_id *id, bool *there, struct repl_error *err);
repl_result s3_segment_replace(struct repl_store *store, const char *volume,
                               const struct repl_segment_id *id, int fd, const char *staged_path,
                               struct repl_error *err);
repl_result s3_segment_remove(struct repl_store *store, const char *volume,
                              const struct repl_segment_id *id, struct repl_error *err);
repl_result s3_segment_set_aside(struct repl_store *store, const char *volume,
                                 const struct repl_segment_id *id, char *name, size_t name_size,
                                 struct repl_error *err);

/* --- store_s3_recent.c ----------------------------------------------------------------------- */

void s3_recent_init(struct s3_recent *recent);
void s3_recent_fini(struct s3_recent *recent);
/* The whole file behind fd, which stays the caller's, under a key that is not among them. */
void s3_recent_add(struct s3_recent *recent, const char *key, int fd, uint64_t size);
void s3_recent_remove(struct s3_recent *recent, const char *key);
/* A descriptor for the caller to close; -1: it is not among them. */
int s3_recent_open(struct s3_recent *recent, const char *key, uint64_t *size);

/* --- store_s3_log.c -------------------------------------------------------------------------- */

repl_result s3_log_read(struct repl_store *store, const char *volume, struct repl_buffer *out,
                        uint64_t *begin, struct repl_error *err);
repl_result s3_log_replace(struct repl_store *store, const char *volume, const void *data,
                           size_t size, uint64_t *end, struct repl_error *err);
repl_result s3_log_append(struct repl_store *store, const char *volume, uint64_t end,
                          const void *data, size_t size, struct repl_error *err);
void s3_logs_free(struct s3_store *store);

#endif
