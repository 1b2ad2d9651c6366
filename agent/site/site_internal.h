/*
 * The site's insides. Private to site/.
 *
 * Threads: everything belongs to the loop's thread but what a job's work
 * function is given. The index has one writer at a time: whoever writes to it
 * holds index_lock, and may hold no other lock but, inside it, waiting_lock.
 * leaving_lock is held for a look alone.
 */
#ifndef REPL_AGENT_SITE_INTERNAL_H
#define REPL_AGENT_SITE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "config/config.h"
#include "control/control.h"
#include "format/wire.h"
#include "journal/mark.h"
#include "loop/loop.h"
#include "site/index/index.h"
#include "site/listen/listener.h"
#include "site/site.h"
#include "site/site_ask.h"
#include "site/site_space.h"
#include "store/store.h"
#include "store/store_counted.h"

struct site_compactor;
struct site_scrub;
struct site_gate;
struct site_leaving;
struct site_append;
struct site_volume;
struct site_read;
struct site_digests;
struct site_intake;

#define SITE_VOLUMES_MAX         4096u /* a peer that may write any name cannot make more */
#define SITE_REFUSALS_LOGGED_MAX 20u
#define SITE_ORDERS_MAX          16u

/* What the operator wants of a name, over the control socket, where whoever asked asks again until
 * it is done (site_mark.c). */
struct site_order {
    uint64_t ticket; /* 0: none yet */
    struct repl_mark_wish wish;
    bool done;
    repl_result result;
    struct repl_error err;
};

/* Of whether the volumes are still in the store (site_watch.c). */
struct site_watch {
    int64_t next_ns; /* monotonic */
    bool out;
    atomic_bool suspects; /* a segment of some volume is gone: from any thread */
    atomic_bool stop;
    pthread_mutex_t mutex; /* for a look alone */
    struct site_gone_volume {
        char name[REPL_VOLUME_NAME_SIZE + 1];
    } * gone; /* under the mutex: those that were found so */
    size_t gone_count;
};

/* A volume that there was no memory to read, read again (site_unread.c). */
struct site_rereading {
    struct site_volume *unread; /* in the list meanwhile; NULL: none is under way */
    struct site_volume *read;   /* by the job */
    uint64_t index_generation;  /* when it was begun */
    struct repl_job job;
    repl_result result;
    struct repl_error err;
};

struct repl_site {
    struct repl_loop *loop;
    struct repl_config *config;
    struct repl_store *store; /* that counts (store_counted.h) */
    struct site_space space;
    struct repl_index *index;
    pthread_mutex_t index_lock;
    pthread_mutex_t waiting_lock;
    struct site_append *waiting; /* for the index; under waiting_lock */
    bool index_dirty;            /* since the last sync */
    bool syncing;
    struct repl_job sync_job;
    repl_result sync_result;
    struct repl_error sync_err;
    bool sync_remade;          /* by the job: the index is a new one */
    uint64_t index_generation; /* of the index: what was given to an older one is lost */
    char index_problem[REPL_WIRE_TEXT_MAX + 1];
    struct repl_listener *listener;
    struct repl_control *control;
    struct site_compactor *compactor;
    struct site_scrub *scrub;
    struct site_gate *gates; /* of pools */
    pthread_mutex_t leaving_lock;
    const struct site_leaving *leaving; /* under leaving_lock; NULL: nothing leaves (site_gate.h) */
    struct repl_pool *replica_pool;     /* taking in never waits for a replica */
    struct site_volume *volumes;
    size_t volume_count;
    struct site_watch watch;
    struct site_digests *digests; /* requests for them under way */
    struct repl_timer tick;
    unsigned jobs;            /* under way, replicas' not counted */
    atomic_uint intakes;      /* staged files that are open; raised by workers too */
    unsigned refusals_logged; /* since the last tick */
    struct site_rereading rereading;
    struct site_order orders[SITE_ORDERS_MAX]; /* by their tickets */
    uint64_t orders_taken;
    int64_t started_ns;
    bool closing;
};

/* Counted, so that the end can wait for them; job->done is called on the loop as usual and has to
 * begin with site_job_ended. */
void site_job_start(struct repl_site *site, struct repl_job *job);
void site_job_ended(struct repl_site *site);

/* Takes the volume over, also where it fails. */
REPL_RESULT site_add_volume(struct repl_site *site, struct site_volume *volume,
                            struct repl_error *err);
struct site_volume *site_find_volume(const struct repl_site *site, const char *name);

/* --- requests -------------------------------------------------------------------------------- */

/* What a request waits for in its volume's queue. */
enum site_change {
    SITE_CHANGE_HELLO,
    SITE_CHANGE_REPORT,
    SITE_CHANGE_UPLOAD, /* to begin to receive */
    SITE_CHANGE_AHEAD,  /* the same, ahead of its turn; does not wait for a commit */
    SITE_CHANGE_COMMIT, /* all is received */
    SITE_CHANGE_SUPPLY,
    SITE_CHANGE_MARK,
};

/* Lives as long as its exchange or as somebody holds it. */
struct site_request {
    struct repl_site *site;
    struct repl_exchange *exchange; /* NULL: the peer is gone, or it is the operator's */
    struct site_order *order;       /* NULL: it is a peer's */
    struct repl_digest key;         /* the peer's */
    struct site_ask ask;
    struct site_volume *volume; /* NULL: not known, or none meant */
    int64_t received_ns;
    unsigned holds;
    bool answered;
    bool discard; /* what comes is thrown away, and acknowledged */
    bool ended;   /* the body is complete */
    struct repl_buffer body;
    /* in the queue of its volume */
    struct site_request *next;
    enum site_change change;
    struct site_read *read;
    struct site_intake *supply;
    bool supply_open; /* holds the request */
};

extern const struct repl_exchange_handler site_exchange_handler;

void site_request_hold(struct site_request *request);
void site_request_unhold(struct site_request *request);

/* Each answers once; does nothing where the peer is gone or was answered. */
void site_answer(struct site_request *request, int status, const char *content_type,
                 const void *body, size_t size);
/* The encoded message is freed. */
void site_answer_message(struct site_request *request, int status, repl_result encoded,
                         struct repl_buffer *message);
void site_answer_ack(struct site_request *request, const struct site_volume *volume, int status);
void site_refuse(struct site_request *request, const struct repl_refusal *refusal);
void site_refuse_text(struct site_request *request, enum repl_refusal_code code, const char *format,
                      ...) __attribute__((format(printf, 3, 4)));
/* The same under another HTTP status than the code's own. */
void site_refuse_status(struct site_request *request, int status, enum repl_refusal_code code,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));
/* A failure of ours: full disk, busy, or broken. The details of what is broken stay in our log. */
void site_refuse_error(struct site_request *request, const struct repl_error *err);
/* What of the peer's could not be read. */
void site_refuse_damaged(struct site_request *request, const struct repl_error *err);

/* --- reading (site_read.c) ------------------------------------------------------------------- */

void site_read_begin(struct site_request *request);
void site_read_volumes(struct site_request *request);

/* --- parts of a frame (site_slices.c) ----------------------------------------------------------
 */

/* A sliced message. Blocks. REPL_E_CORRUPT: the segment has no such frame. */
REPL_RESULT site_slices_read(struct repl_site *site, const char *volume,
                             const struct repl_segment_id *id, const struct repl_slices *wanted,
                             struct repl_buffer *out, struct repl_error *err);

/* --- ends of segments (site_tails.c) -----------------------------------------------------------
 */

/* A tails message. Blocks. */
REPL_RESULT site_tails_read(struct repl_site *site, const char *volume,
                            const struct repl_unopened *unopened, struct repl_buffer *out,
                            struct repl_error *err);

/* --- chunks and what the pool holds (site_pool.c): all of them block ---------------------------
 */

/* The chunks' bytes, one behind the other in the order of the names, into *fd, a file without a
 * name. REPL_E_MISSING: one of them is not there, or no segment of the volume refers to it. */
REPL_RESULT site_chunks_read(struct repl_site *site, const char *volume,
                             const struct repl_missing *wanted, int *fd, struct repl_error *err);
REPL_RESULT site_pool_id(const char *pool, struct repl_uuid *out, struct repl_error *err);
/* id: of the pool, or the volume's where it shares it with nobody. */
REPL_RESULT site_pool_read(struct repl_site *site, const char *volume, const struct repl_uuid *id,
                           uint64_t after, struct repl_buffer *out, struct repl_error *err);
/* A file without a name on this machine, for bytes of the volume on their way out. */
REPL_RESULT site_scratch_open(struct repl_site *site, const char *volume, int *fd,
                              struct repl_error *err);

/* --- names of points (site_mark.c) ------------------------------------------------------------ */

/* As the index has them, which is of use where it is not behind the log. */
struct site_marks {
    struct repl_log_mark *marks; /* heap, freed by site_marks_fini */
    size_t count;
    bool point_is_there; /* that was asked for, and can be restored */
};

/* Blocks. */
REPL_RESULT site_marks_read(struct repl_site *site, const char *volume, uint64_t seq,
                            struct site_marks *out, struct repl_error *err);
void site_marks_fini(struct site_marks *marks);
/* "mark ...", "marked ..." (control/mark_request.h). As repl_control_fn. */
json_t *site_mark_control(struct repl_site *site, const char *request, struct repl_error *err);

/* Of the volume's replica (site_digests.c). */
void site_digests_begin(struct site_request *request);

/* --- who may what (site_request.c) ----------------------------------------------------------- */

/* Whether it may still do what it asks for; if not, it has been answered. */
bool site_request_permit(struct site_request *request);
/* Whether its volume, if it is known, is served; if not, it has been answered. */
bool site_volume_serves(struct site_request *request);
bool site_peer_has_volume(const struct repl_config_peer *peer, const char *name);

#endif
