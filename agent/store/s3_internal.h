/*
 * What the parts of the client of object storage share: s3_client.c (handles,
 * attempts), s3_calls.c (what is asked for) and s3_error.c (why it failed).
 */
#ifndef REPL_AGENT_S3_INTERNAL_H
#define REPL_AGENT_S3_INTERNAL_H

#include <curl/curl.h>

#include "store/s3_client.h"

/* What an answer that is not an object may have: a page of a listing is the largest. */
#define S3_ANSWER_MAX (8u << 20)

/* What is asked for; the same for each attempt. */
struct s3_request {
    const char *doing; /* "write", "read", "list": for messages */
    const char *method;
    const char *key;   /* NULL: the bucket as a whole */
    const char *query; /* NULL, or encoded: sorted, NAME= also where it has no value */
    struct curl_slist *headers;
    char range[64]; /* "": all of it */
    bool has_body;
    const void *body; /* NULL: from body_fd */
    int body_fd;
    uint64_t body_size;
    struct repl_digest body_sha256;
    long stall_s;
    int64_t total_ms; /* 0: as the limits of attempts say */
    /* Where the bytes of a good answer go: */
    void *out; /* exactly out_size of them, or, with NULL, */
    size_t out_size;
    struct repl_buffer *buffer; /* up to out_size of them */
};

/* How one attempt went. */
struct s3_answer {
    CURLcode curl;
    char curl_text[CURL_ERROR_SIZE];
    long status;       /* 0: none came */
    unsigned attempts; /* of the request, with this one; 0: it was not sent */
    bool overflow;     /* more bytes than out_size */
    size_t got;        /* bytes of a good answer */
    struct s3_error_text text;
    char date[64]; /* the service's, as it says it */
    char region[64];
    char range[64];                         /* Content-Range */
    char length[32];                        /* Content-Length, of an answer without a body */
    char sha256[REPL_DIGEST_TEXT_SIZE + 8]; /* x-amz-meta-repl-sha256 */
    char lock_mode[16], locked_until[48];   /* x-amz-object-lock-... */
    char version[1025];                     /* x-amz-version-id */
};

const struct s3_limits *s3_client_limits(const struct s3_client *client);

/* Runs the request until there is an answer that is not to be tried again. Success: 2xx, or one of
 * 404 and 412, which the caller judges. Frees
 * the request's headers. */
REPL_RESULT s3_request_run(struct s3_client *client, const struct s3_request *request,
                           struct s3_answer *answer, struct repl_error *err);
REPL_RESULT s3_header_add(struct s3_request *request, struct repl_error *err, const char *format,
                          ...) __attribute__((format(printf, 3, 4)));
/* Percent-encoded, on the heap; NULL: out of memory. */
char *s3_encode(const char *text, bool keep_slashes);

/* Whether another attempt may help. */
bool s3_answer_is_passing(const struct s3_answer *answer);
/* Whether other credentials may help. */
bool s3_answer_is_denied(const struct s3_answer *answer);
/* Whether it is what s3_request_run succeeds with. */
bool s3_answer_is_good(const struct s3_answer *answer);
REPL_RESULT s3_answer_fail(const struct s3_settings *settings, const struct s3_request *request,
                           const struct s3_answer *answer, struct repl_error *err);

#endif
