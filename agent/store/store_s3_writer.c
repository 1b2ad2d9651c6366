/*
 * Who writes to a bucket.
 *
 *   writer        repl writer, version 1
 *                 id 5f0c...          of the site: LOCAL/site-id, 32 random hex digits
 *                 host NAME
 *                 since 2026-01-31T12:00:00Z
 *
 * A bucket has no locks, so this is a lease without an end: whoever wrote it last
 * is the writer, and the others find out. A writer answers success of a commit
 * only if it has read the object as its own within claim_valid_ms, and begins to
 * write only within claim_fresh_ms. One that takes over replaces the object and
 * waits for longer than that before it reads anything else: from then on nothing
 * that the other one acknowledges can be missing in what is read.
 *
 * The clock is CLOCK_BOOTTIME, which goes on while a machine sleeps. What it
 * cannot tell is a process that is stopped between its look at the clock and the
 * request: what it then sends late can still arrive. Objects are made under a
 * condition (If-None-Match), so it replaces nothing.
 *
 * A clean close removes the object. LOCAL/taking-over is there while somebody
 * waits: who is killed in that time waits again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "block/read_full.h"
#include "control/control.h"
#include "store/store_s3_internal.h"

#define WRITER_KEY       "writer"
#define ID_NAME          "site-id"
#define TAKING_OVER_NAME "taking-over"
#define NS_PER_MS        INT64_C(1000000)

struct writer {
    char id[33];
    char host[65];
    char since[33];
};

static int64_t boot_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000 * NS_PER_MS + now.tv_nsec;
}

/* --- the site's own id ----------------------------------------------------------------------- */

static bool is_id(const char *text)
{
    return strlen(text) == 32 && strspn(text, "0123456789abcdef") == 32;
}

repl_result s3_local_make(const struct s3_store *store, const char *name, const char *text,
                          struct repl_error *err)
{
    int fd =
        openat(store->local_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool made = fd >= 0 && repl_write_full(fd, text, strlen(text), 0) && fsync(fd) == 0 &&
                fsync(store->local_fd) == 0;
    int os_errno = errno;
    if (fd >= 0)
        close(fd);
    if (!made)
        return repl_fail_errno(err, os_errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, os_errno,
                               "cannot write %s/%s", store->local, name);
    return REPL_SUCCESS;
}

static repl_result id_make(struct s3_store *store, struct repl_error *err)
{
    unsigned char random[16];
    if (getrandom(random, sizeof random, 0) != sizeof random)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot get random bytes");
    for (size_t i = 0; i < sizeof random; i++)
        snprintf(store->claim.id + 2 * i, 3, "%02x", random[i]);
    return s3_local_make(store, ID_NAME, store->claim.id, err);
}

/* One that is empty was being made when the machine stopped. */
static repl_result id_load(struct s3_store *store, struct repl_error *err)
{
    char *id = store->claim.id;
    int fd = openat(store->local_fd, ID_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return id_make(store, err);
    ssize_t size = fd < 0 ? -1 : repl_read_full(fd, id, sizeof store->claim.id - 1, 0);
    int os_errno = errno;
    if (fd >= 0)
        close(fd);
    if (size < 0)
        return repl_fail_errno(err, REPL_E_IO, os_errno, "cannot read %s/%s", store->local,
                               ID_NAME);
    id[size] = '\0';
    if (size == 0)
        return id_make(store, err);
    if (!is_id(id))
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s/%s is not what a site wrote: remove it, and start the site with "
                         "--take-over",
                         store->local, ID_NAME);
    return REPL_SUCCESS;
}

/* --- the object ------------------------------------------------------------------------------ */

static void writer_text(const struct s3_store *store, char text[S3_WRITER_TEXT_MAX])
{
    char host[65] = "", since[33];
    time_t now = time(NULL);
    struct tm tm;
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0')
        snprintf(host, sizeof host, "unknown");
    strftime(since, sizeof since, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    snprintf(text, S3_WRITER_TEXT_MAX, "repl writer, version 1\nid %s\nhost %s\nsince %s\n",
             store->claim.id, host, since);
}

/* REPL_E_MISSING: nobody. */
static repl_result writer_read(struct s3_store *store, struct writer *out, struct repl_error *err)
{
    struct repl_buffer text = {0};
    int end = 0;
    repl_result result = s3_get_all(store->client, WRITER_KEY, S3_WRITER_TEXT_MAX, &text, err);
    if (repl_ok(result))
        result = repl_buffer_append(&text, "", 1, err);
    if (repl_ok(result) &&
        (sscanf((const char *)text.data,
                "repl writer, version 1\nid %32[0-9a-f]\nhost %64[!-~]\nsince %32[!-~]\n%n",
                out->id, out->host, out->since, &end) != 3 ||
         end == 0 || !is_id(out->id)))
        result = repl_fail(err, REPL_E_CORRUPT,
                           "%s: the object \"" WRITER_KEY "\" is not what a site wrote: see that "
                           "no site uses the bucket, and remove it",
                           store->location);
    repl_buffer_fini(&text);
    return result;
}

/* --- taking it ------------------------------------------------------------------------------- */

static repl_result claim_is_others(const struct s3_store *store, const struct writer *writer,
                                   struct repl_error *err)
{
    return repl_fail(err, REPL_E_LOCKED,
                     "the store %s is written by the site on %s, since %s: stop that one first. If "
                     "it is lost, start this one with \"repl site --take-over\"",
                     store->location, writer->host, writer->since);
}

repl_result s3_claim_settle(struct s3_store *store, struct repl_error *err)
{
    struct writer writer;
    int64_t now_ns = boot_ns();
    REPL_TRY(writer_read(store, &writer, err));
    if (strcmp(writer.id, store->claim.id) != 0)
        return claim_is_others(store, &writer, err);
    store->claim.confirmed_ns = now_ns;
    store->claim.held = true;
    return REPL_SUCCESS;
}

/* The other one has to notice. */
static repl_result take_over_wait(struct s3_store *store, struct repl_error *err)
{
    repl_log(LOG_NOTICE, "store %s: taken over; waiting %lld s, in which the writer before notices",
             store->location, (long long)store->limits.take_over_ms / 1000);
    REPL_TRY(s3_client_sleep(store->client, store->limits.take_over_ms, err));
    REPL_TRY(s3_claim_settle(store, err));
    if (unlinkat(store->local_fd, TAKING_OVER_NAME, 0) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot remove %s/%s", store->local,
                               TAKING_OVER_NAME);
    return REPL_SUCCESS;
}

static repl_result take_over(struct s3_store *store, const struct writer *from,
                             struct repl_error *err)
{
    char text[S3_WRITER_TEXT_MAX];
    repl_log(LOG_WARNING, "store %s: taking over from the site on %s, which wrote since %s",
             store->location, from->host, from->since);
    REPL_TRY(s3_local_make(store, TAKING_OVER_NAME, "", err));
    writer_text(store, text);
    REPL_TRY(s3_store_put(store, WRITER_KEY, text, strlen(text), false, NULL, err));
    return take_over_wait(store, err);
}

static repl_result claim_absent(struct s3_store *store, struct repl_error *err)
{
    char text[S3_WRITER_TEXT_MAX];
    bool existed;
    writer_text(store, text);
    REPL_TRY(s3_store_put(store, WRITER_KEY, text, strlen(text), true, &existed, err));
    return s3_claim_settle(store, err);
}

repl_result s3_claim_take(struct s3_store *store, bool take_over_wanted, struct repl_error *err)
{
    struct writer writer;
    REPL_TRY(id_load(store, err));
    repl_result result = writer_read(store, &writer, err);
    if (result.code == REPL_E_MISSING)
        return claim_absent(store, err);
    REPL_TRY(result);
    if (strcmp(writer.id, store->claim.id) != 0)
        return take_over_wanted ? take_over(store, &writer, err)
                                : claim_is_others(store, &writer, err);
    if (faccessat(store->local_fd, TAKING_OVER_NAME, F_OK, 0) == 0)
        return take_over_wait(store, err);
    return s3_claim_settle(store, err);
}

/* --- holding it ------------------------------------------------------------------------------ */

static repl_result fail_fenced(const struct s3_store *store, struct repl_error *err)
{
    return repl_fail(err, REPL_E_LOCKED,
                     "the store %s has been taken over by %s: this site writes no more; stop it",
                     store->location, store->claim.fenced_by);
}

static void claim_fence(struct s3_store *store, const char *who, const char *since)
{
    struct repl_error err;
    snprintf(store->claim.fenced_by, sizeof store->claim.fenced_by, "%s%s%s", who,
             since[0] != '\0' ? ", since " : "", since);
    store->claim.fenced = true;
    repl_ignore(fail_fenced(store, &err));
    repl_log(LOG_ERR, "%s", err.text);
}

static repl_result claim_reread(struct s3_store *store, struct repl_error *err)
{
    struct writer writer;
    int64_t now_ns = boot_ns();
    repl_result result = writer_read(store, &writer, err);
    if (repl_ok(result) && strcmp(writer.id, store->claim.id) == 0) {
        store->claim.confirmed_ns = now_ns;
        return REPL_SUCCESS;
    }
    if (repl_ok(result))
        claim_fence(store, writer.host, writer.since);
    else if (result.code == REPL_E_MISSING)
        claim_fence(store, "somebody who removed the object \"" WRITER_KEY "\"", "");
    else
        return result;
    return fail_fenced(store, err);
}

/* It was ours within age_ms. */
static repl_result claim_confirm(struct s3_store *store, int64_t age_ms, struct repl_error *err)
{
    struct s3_claim *claim = &store->claim;
    repl_result result = REPL_SUCCESS;
    pthread_mutex_lock(&claim->mutex);
    if (claim->fenced)
        result = fail_fenced(store, err);
    else if (boot_ns() - claim->confirmed_ns > store->limits.claim_fresh_ms * NS_PER_MS)
        result = claim_reread(store, err);
    bool young = boot_ns() - claim->confirmed_ns <= age_ms * NS_PER_MS;
    if (repl_ok(result) && !young)
        result = repl_fail(err, REPL_E_RETRY,
                           "the store %s is too slow: who writes to it took longer to read than "
                           "the answer counts",
                           store->location);
    else if (!claim->fenced && young)
        result = REPL_SUCCESS;
    pthread_mutex_unlock(&claim->mutex);
    return result;
}

repl_result s3_claim_begin(struct s3_store *store, struct repl_error *err)
{
    if (!store->writable)
        return repl_fail(err, REPL_E_REFUSED, "the store %s was opened for reading only",
                         store->location);
    return claim_confirm(store, store->limits.claim_fresh_ms, err);
}

repl_result s3_claim_end(struct s3_store *store, struct repl_error *err)
{
    return claim_confirm(store, store->limits.claim_valid_ms, err);
}

void s3_claim_release(struct s3_store *store)
{
    struct repl_error err;
    if (!store->claim.held || store->claim.fenced)
        return;
    repl_result result = s3_claim_begin(store, &err);
    if (repl_ok(result))
        result = s3_store_remove(store, WRITER_KEY, &err);
    if (!repl_ok(result) && !store->claim.fenced)
        repl_log(LOG_WARNING, "%s: another site needs --take-over", err.text);
}
