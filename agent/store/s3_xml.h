/*
 * What a service of object storage says in XML: a page of a listing
 * (ListObjectsV2), and why a request failed. Nothing else of it is looked at, and
 * a document with a DOCTYPE is refused, so no entity is ever expanded.
 */
#ifndef REPL_AGENT_S3_XML_H
#define REPL_AGENT_S3_XML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/error.h"

#define S3_KEY_MAX       1024u /* bytes of a key */
#define S3_LIST_KEYS_MAX 1000u /* in one page */
#define S3_TEXT_MAX      256u  /* of what is said of an error; longer is cut */

/* --- a listing ------------------------------------------------------------------------------- */

/* size is 0 of a common prefix. */
typedef repl_result s3_list_visit_fn(void *context, const char *key, uint64_t size, bool is_prefix,
                                     struct repl_error *err);

struct s3_list_page {
    bool truncated;
    char token[S3_KEY_MAX * 2 + 1]; /* of the next page, where it is truncated */
};

/* REPL_E_CORRUPT where it is no listing, or an impossible one; else what visit returned. */
REPL_RESULT s3_list_parse(const char *text, size_t size, s3_list_visit_fn *visit, void *context,
                          struct s3_list_page *page, struct repl_error *err);

/* --- an error -------------------------------------------------------------------------------- */

struct s3_error_text {
    char code[S3_TEXT_MAX];    /* "NoSuchKey"; "": the body is no error's */
    char message[S3_TEXT_MAX]; /* printable */
    char region[64];           /* that of the bucket, where the service says it */
    char server_time[64];
};

/* Whatever the body is: what cannot be found in it stays "". */
void s3_error_parse(const char *text, size_t size, struct s3_error_text *out);

#endif
