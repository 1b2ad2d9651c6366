/*
 * One bucket of a service of object storage, over libcurl. Every call blocks, and
 * any of them may be made from several threads at once: each takes an idle handle
 * with its open connections, or makes one.
 *
 * Keys are below the prefix of the settings, and so is what a listing names.
 *
 * What fails for a reason that passes (the connection, a timeout, 5xx, SlowDown)
 * is tried again within the limits, with growing pauses; REPL_E_RETRY says that
 * this was in vain. Such a request may still have been carried out, or be so
 * later. The other codes are REPL_E_NOSPACE (a quota), REPL_E_REFUSED (what the
 * credentials do not allow, or TLS does not trust), REPL_E_USAGE (no such bucket,
 * another region), REPL_E_MISSING (no such object) and REPL_E_CORRUPT (an answer
 * that makes no sense).
 */
#ifndef REPL_AGENT_S3_CLIENT_H
#define REPL_AGENT_S3_CLIENT_H

#include "base/cursor.h"
#include "base/hash.h"
#include "store/s3_settings.h"
#include "store/s3_xml.h"

#define S3_OBJECT_SIZE_MAX (UINT64_C(1) << 30) /* of one PUT */

struct s3_limits {
    long connect_ms;
    long stall_s;           /* a transfer in which nothing moves for so long is given up */
    long copy_stall_s;      /* the same of a copy, during which nothing is sent */
    unsigned attempts;      /* of one request */
    int64_t attempts_ms;    /* no attempt begins later than this after the first */
    int64_t short_total_ms; /* all of a deletion: see s3_delete */
    int64_t pause_first_ms; /* before the second attempt; doubles, with jitter */
    int64_t pause_max_ms;
};

struct s3_client;

/* Takes over the settings, also where it fails. */
REPL_RESULT s3_client_new(struct s3_settings *settings, const struct s3_limits *limits,
                          struct s3_client **out, struct repl_error *err);
/* No call may be in progress. */
void s3_client_free(struct s3_client *client);
/* Calls in progress give up within a second, and later ones at once, all with REPL_E_RETRY. From
 * any thread. */
void s3_client_stop(struct s3_client *client);
/* Sleeps, but for a stop: then REPL_E_RETRY. */
REPL_RESULT s3_client_sleep(struct s3_client *client, int64_t ms, struct repl_error *err);
const struct s3_settings *s3_client_settings(const struct s3_client *client);

struct s3_put {
    const char *key;
    const void *data; /* NULL: the file behind fd, from its begin */
    int fd;
    uint64_t size;                    /* at most S3_OBJECT_SIZE_MAX */
    const struct repl_digest *sha256; /* of all of it */
    bool if_absent;                   /* *existed: it was not written, as there is one */
    bool note_sha256;                 /* as x-amz-meta-repl-sha256, which s3_head finds */
    int64_t locked_until_s;           /* seconds since 1970; 0: not locked */
};

/* existed may be NULL without if_absent. It may be an earlier attempt of this very call that made
 * the object which existed. */
REPL_RESULT s3_put(struct s3_client *client, const struct s3_put *put, bool *existed,
                   struct repl_error *err);
/* [offset, offset + size) of the object, all of it; size > 0. REPL_E_CORRUPT: it is shorter. */
REPL_RESULT s3_get(struct s3_client *client, const char *key, uint64_t offset, void *out,
                   size_t size, struct repl_error *err);
/* The whole object in place of what out held; REPL_E_CORRUPT if it has more than limit bytes. */
REPL_RESULT s3_get_all(struct s3_client *client, const char *key, size_t limit,
                       struct repl_buffer *out, struct repl_error *err);

struct s3_head {
    uint64_t size;
    bool has_sha256; /* note_sha256 was given when it was written */
    struct repl_digest sha256;
    int64_t locked_until_s; /* in mode COMPLIANCE; 0: it is not, or in another */
    char version[1025];     /* of the object in a bucket with versions; "": there are none */
};

REPL_RESULT s3_head(struct s3_client *client, const char *key, struct s3_head *out,
                    struct repl_error *err);
/* Success if it is not there. Is over, whatever happens, after limits.short_total_ms. *sure (NULL:
 * not asked for): what was sent has been answered, so that nothing of it comes later. */
REPL_RESULT s3_delete(struct s3_client *client, const char *key, bool *sure,
                      struct repl_error *err);
/* Locks the object until then, which is not before it would be free anyway. */
REPL_RESULT s3_lock(struct s3_client *client, const char *key, int64_t until_s,
                    struct repl_error *err);
/* One version of it, for good. */
REPL_RESULT s3_delete_version(struct s3_client *client, const char *key, const char *version,
                              struct repl_error *err);
/* Within the service. REPL_E_MISSING: there is no object from. */
REPL_RESULT s3_copy(struct s3_client *client, const char *from, const char *to,
                    struct repl_error *err);
/* Every object whose key begins with prefix, in the order of keys; with delimiter, what goes on
 * behind a slash is named once, as a prefix (with that slash). */
REPL_RESULT s3_list(struct s3_client *client, const char *prefix, bool delimiter,
                    s3_list_visit_fn *visit, void *context, struct repl_error *err);

#endif
