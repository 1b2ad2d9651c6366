/*
 * Credentials of object storage: the pair (or, with a session, three) of strings
 * that requests are signed with, and the file they are kept in.
 *
 *   [PROFILE]
 *   aws_access_key_id = ...
 *   aws_secret_access_key = ...
 *   aws_session_token = ...        where there is one
 *
 * Lines that begin with # or ; are comments. Other keys of a section are other
 * tools' and are passed over, sections of other names as well.
 */
#ifndef REPL_AGENT_S3_CREDENTIALS_H
#define REPL_AGENT_S3_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>

#include "repl/error.h"

#define S3_CREDENTIALS_FILE_MAX  (64u << 10) /* bytes */
#define S3_CREDENTIALS_VALUE_MAX 4096u

/* On the heap; s3_credentials_wipe clears the memory before it is freed. */
struct s3_credentials {
    char *key_id;
    char *secret;
    char *token; /* NULL: none */
};

/* Values appear in no message. path is only for messages: "path, line 3: ...". */
REPL_RESULT s3_credentials_parse(const char *text, size_t size, const char *path,
                                 const char *profile, struct s3_credentials *out,
                                 struct repl_error *err);
/* REPL_E_REFUSED where others than the owner may read the file; REPL_E_MISSING where there is none.
 */
REPL_RESULT s3_credentials_load(const char *path, const char *profile, struct s3_credentials *out,
                                struct repl_error *err);
REPL_RESULT s3_credentials_copy(const struct s3_credentials *from, struct s3_credentials *out,
                                struct repl_error *err);
bool s3_credentials_equal(const struct s3_credentials *a, const struct s3_credentials *b);
void s3_credentials_wipe(struct s3_credentials *credentials);

#endif
