/*
 * From a location, a site's settings and the environment to what a client of
 * object storage needs. s3.h says which names of the environment count.
 */
#ifndef REPL_AGENT_S3_SETTINGS_H
#define REPL_AGENT_S3_SETTINGS_H

#include "store/s3.h"
#include "store/s3_credentials.h"

#define S3_PREFIX_MAX 512u /* of the 1024 bytes a key may have */

/* All text is the struct's own. */
struct s3_settings {
    char *bucket;
    char *prefix;   /* "" or "a/b/" */
    char *endpoint; /* "https://host:port", nothing behind it */
    char *region;
    char *ca; /* NULL: the system's */
    bool host_style;
    struct s3_credentials credentials;
    char *credentials_from; /* for messages: where they were found */
    char *credentials_file; /* NULL: in the environment; */
    char *profile;          /* else which section of the file */
};

/* s3://BUCKET or s3://BUCKET/PREFIX; a slash at the end of the prefix makes no difference. bucket
 * and prefix are the caller's to free. REPL_E_USAGE names what is wrong with it. */
REPL_RESULT s3_location_parse(const char *location, char **bucket, char **prefix,
                              struct repl_error *err);
/* options may be NULL. */
REPL_RESULT s3_settings_load(const char *location, const struct repl_s3_options *options,
                             struct s3_settings *out, struct repl_error *err);
void s3_settings_fini(struct s3_settings *settings);

#endif
