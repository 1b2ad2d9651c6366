/*
 * Object lock: what is written below volumes/ cannot be deleted or changed by
 * anybody until a time that every PUT names, and that is moved on for as long as
 * the object is there.
 *
 * The mode is COMPLIANCE: of the other one (GOVERNANCE) somebody with enough
 * rights can let go, and it is just such a somebody's credentials that may have
 * been stolen.
 *
 * That a bucket locks is proved at each opening, on an object of its own: it is
 * written, found locked until the time that was asked for, and its version cannot
 * be removed. A service that takes the headers and forgets them is found so.
 *
 * A thread goes through all that is there, an hour after the opening and then
 * each quarter of the time that locks last, and locks each object anew for all of
 * it: so no lock has less than half of it left while the site runs, and a site may
 * be down for that long. What is superseded is locked once more at most; a
 * deletion leaves it as an older version, behind a marker, and the bucket's own
 * rule for such versions removes it when its lock is over.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <time.h>

#include "control/control.h"
#include "loop/loop.h"
#include "store/store_s3_internal.h"

#define PROOF_KEY  "object-lock"
#define PROOF_TEXT "repl object lock, version 1\n"

#define PASSES_A_PERIOD 4

#define WARNING_SIZE 512u

struct s3_locker {
    struct s3_store *store;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t stop;   /* CLOCK_MONOTONIC */
    bool stopping;
    char warning[WARNING_SIZE];
};

static int64_t seconds_from_now(int64_t ms)
{
    return (int64_t)time(NULL) + ms / 1000;
}

int64_t s3_lock_until(const struct s3_store *store, const char *key)
{
    bool history = strncmp(key, S3_VOLUMES_PREFIX, strlen(S3_VOLUMES_PREFIX)) == 0;
    return store->lock_ms != 0 && history ? seconds_from_now(store->lock_ms) : 0;
}

/* --- the proof ------------------------------------------------------------------------------- */

static repl_result unlocked(const struct s3_store *store, const char *why, struct repl_error *err)
{
    return repl_fail(err, REPL_E_USAGE,
                     "store %s: object_lock is set, and the bucket does not lock (%.300s): name a "
                     "bucket that was made with object lock, or remove object_lock",
                     store->location, why);
}

static repl_result proof_put(struct s3_store *store, int64_t until_s, struct repl_error *err)
{
    struct repl_sha256 *sha;
    struct repl_digest sha256;
    REPL_TRY(repl_sha256_new(&sha, err));
    repl_sha256_begin(sha);
    repl_sha256_update(sha, PROOF_TEXT, sizeof PROOF_TEXT - 1);
    repl_sha256_end(sha, &sha256);
    repl_sha256_free(sha);
    const struct s3_put put = {.key = PROOF_KEY,
                               .data = PROOF_TEXT,
                               .fd = -1,
                               .size = sizeof PROOF_TEXT - 1,
                               .sha256 = &sha256,
                               .locked_until_s = until_s};
    return s3_put(store->client, &put, NULL, err);
}

repl_result s3_lock_prove(struct s3_store *store, struct repl_error *err)
{
    struct s3_head head;
    struct repl_error why;
    int64_t until_s = seconds_from_now(store->limits.lock_proof_ms);
    repl_result result = proof_put(store, until_s, &why);
    if (result.code == REPL_E_RETRY || result.code == REPL_E_NOMEM) {
        *err = why;
        return result;
    }
    if (!repl_ok(result))
        return unlocked(store, why.text, err);
    REPL_TRY(s3_head(store->client, PROOF_KEY, &head, err));
    if (head.locked_until_s != until_s)
        return unlocked(store, "what was written is not locked until the time that was asked for",
                        err);
    if (head.version[0] == '\0')
        return unlocked(store, "it keeps no versions", err);
    result = s3_delete_version(store->client, PROOF_KEY, head.version, &why);
    if (result.code == REPL_E_REFUSED)
        return REPL_SUCCESS;
    if (repl_ok(result))
        return unlocked(store, "a version that is locked could be removed", err);
    *err = why;
    return result;
}

/* --- locks go on ----------------------------------------------------------------------------- */

struct pass {
    struct s3_locker *locker;
    uint64_t locked, failed;
    struct repl_error first; /* of those that failed */
};

/* Whether to go on after that. */
static bool locker_sleep(struct s3_locker *locker, int64_t ms)
{
    int64_t until_ns = repl_now_mono_ns() + ms * 1000000;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    int waited = 0;
    pthread_mutex_lock(&locker->mutex);
    while (!locker->stopping && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&locker->stop, &locker->mutex, &until);
    bool goes_on = !locker->stopping;
    pthread_mutex_unlock(&locker->mutex);
    return goes_on;
}

/* One that is locked for longer already, as object_lock was longer once, stays so. */
static repl_result object_lock(struct s3_store *store, const char *key, struct repl_error *err)
{
    struct s3_head head;
    struct repl_error why;
    int64_t until_s = seconds_from_now(store->lock_ms);
    repl_result result = s3_lock(store->client, key, until_s, err);
    if (result.code == REPL_E_MISSING) /* it has been removed meanwhile */
        return REPL_SUCCESS;
    if (result.code != REPL_E_REFUSED || !repl_ok(s3_head(store->client, key, &head, &why)))
        return result;
    return head.locked_until_s >= until_s ? REPL_SUCCESS : result;
}

static repl_result object_seen(void *context, const char *key, uint64_t size, bool is_prefix,
                               struct repl_error *err)
{
    struct pass *pass = context;
    struct s3_store *store = pass->locker->store;
    struct repl_error why;
    (void)size;
    if (is_prefix || strstr(key, "/aside/") != NULL) /* which is no part of the history */
        return REPL_SUCCESS;
    if (!locker_sleep(pass->locker, store->limits.lock_pause_ms))
        return repl_fail(err, REPL_E_RETRY, "the store is being closed");
    REPL_TRY(s3_claim_begin(store, err));
    if (repl_ok(object_lock(store, key, &why))) {
        pass->locked++;
    } else if (pass->failed++ == 0) {
        pass->first = why;
    }
    return REPL_SUCCESS;
}

/* text: of WARNING_SIZE; "" if all went well. */
static void pass_describe(const struct pass *pass, const struct repl_error *listing, char *text)
{
    const struct s3_store *store = pass->locker->store;
    int64_t again_min = store->limits.lock_again_ms / 60000;
    text[0] = '\0';
    if (listing != NULL)
        snprintf(text, WARNING_SIZE,
                 "the locks of what is in the bucket could not all be extended, which is tried "
                 "again every %" PRId64 " min; what stays so can be deleted when its lock is over: "
                 "%.230s",
                 again_min, listing->text);
    else if (pass->failed > 0)
        snprintf(text, WARNING_SIZE,
                 "the locks of %" PRIu64 " of %" PRIu64 " objects could not be extended, which is "
                 "tried again every %" PRId64 " min; what stays so can be deleted when its lock is "
                 "over; the first: %.230s",
                 pass->failed, pass->failed + pass->locked, again_min, pass->first.text);
}

/* Whether all that is there is locked for the whole time again. */
static bool pass_run(struct s3_locker *locker)
{
    struct s3_store *store = locker->store;
    struct pass pass = {.locker = locker};
    struct repl_error err;
    char text[WARNING_SIZE];
    repl_result result = s3_list(store->client, S3_VOLUMES_PREFIX, false, object_seen, &pass, &err);
    if (!repl_ok(result) && !locker_sleep(locker, 0))
        return false;
    pass_describe(&pass, repl_ok(result) ? NULL : &err, text);
    if (text[0] != '\0')
        repl_log(LOG_WARNING, "store %s: %s", store->location, text);
    else
        repl_log(LOG_INFO, "store %s: %" PRIu64 " objects are locked anew", store->location,
                 pass.locked);
    pthread_mutex_lock(&locker->mutex);
    memcpy(locker->warning, text, sizeof text);
    pthread_mutex_unlock(&locker->mutex);
    return text[0] == '\0';
}

void s3_locker_warning(struct repl_store *base, char *text, size_t size)
{
    struct s3_locker *locker = s3_store_of(base)->locker;
    snprintf(text, size, "%s", "");
    if (locker == NULL)
        return;
    pthread_mutex_lock(&locker->mutex);
    snprintf(text, size, "%s", locker->warning);
    pthread_mutex_unlock(&locker->mutex);
}

static void *locker_run(void *context)
{
    struct s3_locker *locker = context;
    const struct s3_store *store = locker->store;
    int64_t wait_ms = store->limits.lock_first_ms, pass_ms = store->lock_ms / PASSES_A_PERIOD;
    if (wait_ms > pass_ms)
        wait_ms = pass_ms;
    while (locker_sleep(locker, wait_ms)) {
        wait_ms = pass_ms;
        if (!pass_run(locker) && wait_ms > store->limits.lock_again_ms)
            wait_ms = store->limits.lock_again_ms;
    }
    return NULL;
}

static void locker_free(struct s3_locker *locker)
{
    pthread_cond_destroy(&locker->stop);
    pthread_mutex_destroy(&locker->mutex);
    free(locker);
}

repl_result s3_locker_start(struct s3_store *store, struct repl_error *err)
{
    struct s3_locker *locker = calloc(1, sizeof *locker);
    if (locker == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the store %s", store->location);
    locker->store = store;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&locker->mutex, NULL);
    pthread_cond_init(&locker->stop, &attributes);
    pthread_condattr_destroy(&attributes);
    int error = pthread_create(&locker->thread, NULL, locker_run, locker);
    if (error != 0) {
        locker_free(locker);
        return repl_fail_errno(err, REPL_E_RETRY, error, "cannot start a thread for the locks");
    }
    store->locker = locker;
    return REPL_SUCCESS;
}

void s3_locker_end(struct s3_store *store)
{
    struct s3_locker *locker = store->locker;
    if (locker == NULL)
        return;
    pthread_mutex_lock(&locker->mutex);
    locker->stopping = true;
    pthread_cond_signal(&locker->stop);
    pthread_mutex_unlock(&locker->mutex);
    pthread_join(locker->thread, NULL);
    locker_free(locker);
    store->locker = NULL;
}
