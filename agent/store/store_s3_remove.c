/*
 * Removals that may be on their way. A request that a process has sent before it
 * was killed is still carried out; one that makes an object replaces nothing, as
 * it has a condition, but one that removes would remove what has been made under
 * that name since. So LOCAL/removing is there while a removal is under way, and for
 * late_ms after one that was given up. Who opens the store and finds it waits that
 * long, before it reads anything. In a process that goes on, nothing is written
 * for so long under a name of which a removal was not answered.
 *
 * The file is durable before the request is sent: a machine may be back after a
 * power cut before the service has done with what it was sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/hash.h"
#include "control/control.h"
#include "loop/loop.h"
#include "store/store_s3_internal.h"

#define REMOVING_NAME "removing"
#define NS_PER_MS     INT64_C(1000000)

static repl_result mark_remove(struct s3_store *store, struct repl_error *err)
{
    if (unlinkat(store->local_fd, REMOVING_NAME, 0) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot remove %s/%s", store->local,
                               REMOVING_NAME);
    return REPL_SUCCESS;
}

static void doubts_expire(struct s3_removals *removals)
{
    int64_t now_ns = repl_now_mono_ns();
    size_t kept = 0;
    for (size_t i = 0; i < removals->doubt_count; i++) {
        if (removals->doubts[i].until_ns > now_ns)
            removals->doubts[kept++] = removals->doubts[i];
    }
    removals->doubt_count = kept;
}

static repl_result removal_begin(struct s3_store *store, struct repl_error *err)
{
    struct s3_removals *removals = &store->removals;
    repl_result result = REPL_SUCCESS;
    pthread_mutex_lock(&removals->mutex);
    doubts_expire(removals);
    if (removals->out + removals->doubt_count >= S3_DOUBTS_MAX)
        result =
            repl_fail(err, REPL_E_RETRY,
                      "store %s: the service has left %zu removals unanswered: no more for now",
                      store->location, removals->doubt_count);
    else if (!removals->marked)
        result = s3_local_make(store, REMOVING_NAME, "", err);
    if (repl_ok(result)) {
        removals->marked = true;
        removals->out++;
    }
    pthread_mutex_unlock(&removals->mutex);
    return result;
}

static void removal_end(struct s3_store *store, const char *key, bool sure)
{
    struct s3_removals *removals = &store->removals;
    struct repl_error err;
    pthread_mutex_lock(&removals->mutex);
    removals->out--;
    doubts_expire(removals);
    if (!sure)
        removals->doubts[removals->doubt_count++] =
            (struct s3_doubt){.key = repl_xxh3(key, strlen(key)),
                              .until_ns = repl_now_mono_ns() + store->base.late_ms * NS_PER_MS};
    if (removals->out == 0 && removals->doubt_count == 0) {
        removals->marked = false;
        if (!repl_ok(mark_remove(store, &err))) /* then the next start waits in vain */
            repl_log(LOG_WARNING, "%s", err.text);
    }
    pthread_mutex_unlock(&removals->mutex);
}

repl_result s3_store_remove(struct s3_store *store, const char *key, struct repl_error *err)
{
    bool sure;
    REPL_TRY(removal_begin(store, err));
    repl_result result = s3_delete(store->client, key, &sure, err);
    removal_end(store, key, sure);
    return result;
}

repl_result s3_name_check(struct s3_store *store, const char *key, struct repl_error *err)
{
    struct s3_removals *removals = &store->removals;
    uint64_t hash = repl_xxh3(key, strlen(key));
    bool doubtful = false;
    pthread_mutex_lock(&removals->mutex);
    doubts_expire(removals);
    for (size_t i = 0; i < removals->doubt_count; i++)
        doubtful |= removals->doubts[i].key == hash;
    pthread_mutex_unlock(&removals->mutex);
    if (!doubtful)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_RETRY,
                     "%s: a removal of it that the service did not answer may still be carried "
                     "out, for %lld s: tried again then",
                     key, (long long)store->base.late_ms / 1000);
}

repl_result s3_removals_wait(struct s3_store *store, struct repl_error *err)
{
    if (faccessat(store->local_fd, REMOVING_NAME, F_OK, 0) != 0)
        return REPL_SUCCESS;
    repl_log(LOG_NOTICE,
             "store %s: the site ended while it removed something; waiting %lld s, in which that "
             "is done or never will be",
             store->location, (long long)store->base.late_ms / 1000);
    REPL_TRY(s3_client_sleep(store->client, store->base.late_ms, err));
    REPL_TRY(s3_claim_settle(store, err));
    return mark_remove(store, err);
}
