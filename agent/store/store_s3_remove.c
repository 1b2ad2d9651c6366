/*
 * Removals that may be on their way. A request that a process has sent before it
 * was killed is still carried out; one that makes an object replaces nothing, as
 * it has a condition, but one that removes would remove what has been made under
 * that name since. So LOCAL/removing is there while a removal is under way, and for
 * late_ms after one that was given up. Who opens the store and finds it waits that
 * long, before it reads anything.
 *
 * The file is durable before the request is sent: a machine may be back after a
 * power cut before the service has done with what it was sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <syslog.h>
#include <unistd.h>

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

static repl_result removal_begin(struct s3_store *store, struct repl_error *err)
{
    struct s3_removals *removals = &store->removals;
    repl_result result = REPL_SUCCESS;
    pthread_mutex_lock(&removals->mutex);
    if (!removals->marked)
        result = s3_local_make(store, REMOVING_NAME, "", err);
    if (repl_ok(result)) {
        removals->marked = true;
        removals->out++;
    }
    pthread_mutex_unlock(&removals->mutex);
    return result;
}

static void removal_end(struct s3_store *store, bool given_up)
{
    struct s3_removals *removals = &store->removals;
    struct repl_error err;
    int64_t now_ns = repl_now_mono_ns();
    pthread_mutex_lock(&removals->mutex);
    removals->out--;
    if (given_up)
        removals->given_up_ns = now_ns;
    else if (now_ns - removals->given_up_ns >= store->limits.late_ms * NS_PER_MS)
        removals->given_up_ns = 0;
    if (removals->out == 0 && removals->given_up_ns == 0) {
        removals->marked = false;
        if (!repl_ok(mark_remove(store, &err))) /* then the next start waits in vain */
            repl_log(LOG_WARNING, "%s", err.text);
    }
    pthread_mutex_unlock(&removals->mutex);
}

repl_result s3_store_remove(struct s3_store *store, const char *key, struct repl_error *err)
{
    REPL_TRY(removal_begin(store, err));
    repl_result result = s3_delete(store->client, key, err);
    removal_end(store, result.code == REPL_E_RETRY);
    return result;
}

repl_result s3_removals_wait(struct s3_store *store, struct repl_error *err)
{
    if (faccessat(store->local_fd, REMOVING_NAME, F_OK, 0) != 0)
        return REPL_SUCCESS;
    repl_log(LOG_NOTICE,
             "store %s: the site ended while it removed something; waiting %lld s, in which that "
             "is done or never will be",
             store->location, (long long)store->limits.late_ms / 1000);
    REPL_TRY(s3_client_sleep(store->client, store->limits.late_ms, err));
    REPL_TRY(s3_claim_settle(store, err));
    return mark_remove(store, err);
}
