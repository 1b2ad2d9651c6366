#include "store/s3_settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCATION_START "s3://"
#define BUCKET_MIN     3u
#define BUCKET_MAX     63u
#define REGION_DEFAULT "us-east-1"
#define ENDPOINT_MAX   300u

/* --- the location ---------------------------------------------------------------------------- */

static bool is_label_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static const char *bucket_fault(const char *name, size_t size)
{
    if (size < BUCKET_MIN || size > BUCKET_MAX)
        return "a bucket's name has 3 to 63 characters";
    if (!is_label_character(name[0]) || !is_label_character(name[size - 1]))
        return "a bucket's name begins and ends with a lower-case letter or a digit";
    for (size_t i = 0; i < size; i++) {
        if (!is_label_character(name[i]) && name[i] != '-' && name[i] != '.')
            return "a bucket's name has lower-case letters, digits, dashes and dots only";
        if (name[i] == '.' && name[i + 1] == '.')
            return "a bucket's name has no two dots in a row";
    }
    return NULL;
}

static const char *prefix_fault(const char *prefix, size_t size)
{
    if (size > S3_PREFIX_MAX)
        return "the prefix is too long";
    for (size_t at = 0; at <= size;) {
        const char *slash = memchr(prefix + at, '/', size - at);
        size_t length = slash != NULL ? (size_t)(slash - prefix) - at : size - at;
        if (length == 0 || (length == 1 && prefix[at] == '.') ||
            (length == 2 && prefix[at] == '.' && prefix[at + 1] == '.'))
            return "no part of the prefix may be empty, . or ..";
        at += length + 1;
    }
    for (size_t i = 0; i < size; i++) {
        if (prefix[i] <= ' ' || prefix[i] > '~')
            return "the prefix has a blank or an unprintable byte in it";
    }
    return NULL;
}

repl_result s3_location_parse(const char *location, char **bucket, char **prefix,
                              struct repl_error *err)
{
    *bucket = *prefix = NULL;
    if (strncmp(location, LOCATION_START, strlen(LOCATION_START)) != 0)
        return repl_fail(err, REPL_E_USAGE, "\"%s\" is no bucket: write s3://BUCKET/PREFIX",
                         location);
    const char *name = location + strlen(LOCATION_START);
    size_t name_size = strcspn(name, "/");
    const char *rest = name[name_size] == '/' ? name + name_size + 1 : "";
    size_t rest_size = strlen(rest);
    if (rest_size > 0 && rest[rest_size - 1] == '/')
        rest_size--;
    const char *fault = bucket_fault(name, name_size);
    if (fault == NULL && rest_size > 0)
        fault = prefix_fault(rest, rest_size);
    if (fault == NULL && rest_size == 0 && rest[0] == '/')
        fault = "no part of the prefix may be empty, . or ..";
    if (fault != NULL)
        return repl_fail(err, REPL_E_USAGE, "\"%.300s\": %s: write s3://BUCKET/PREFIX", location,
                         fault);
    *bucket = strndup(name, name_size);
    *prefix = malloc(rest_size + 2);
    if (*bucket == NULL || *prefix == NULL) {
        free(*bucket);
        free(*prefix);
        *bucket = *prefix = NULL;
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %s", location);
    }
    snprintf(*prefix, rest_size + 2, "%.*s%s", (int)rest_size, rest, rest_size > 0 ? "/" : "");
    return REPL_SUCCESS;
}

/* --- the environment ------------------------------------------------------------------------- */

/* NULL where it is not set, or empty. */
static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

/* The first of the two that is set. */
static const char *either(const char *value, const char *first, const char *second)
{
    if (value == NULL)
        value = environment(first);
    if (value == NULL && second != NULL)
        value = environment(second);
    return value;
}

static repl_result copy(const char *text, char **out, struct repl_error *err)
{
    if (text == NULL)
        return REPL_SUCCESS;
    *out = strdup(text);
    if (*out == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the settings of a bucket");
    return REPL_SUCCESS;
}

/* What stands in a configuration has been checked; the environment has not. */
static repl_result endpoint_check(const char *endpoint, struct repl_error *err)
{
    const char *host = strncmp(endpoint, "https://", 8) == 0  ? endpoint + 8
                       : strncmp(endpoint, "http://", 7) == 0 ? endpoint + 7
                                                              : "";
    bool good = host[0] != '\0' && strlen(endpoint) <= ENDPOINT_MAX;
    for (const char *c = host; *c != '\0'; c++)
        good = good && *c > ' ' && *c <= '~' && strchr("/?#@\\\"", *c) == NULL;
    if (!good)
        return repl_fail(err, REPL_E_USAGE,
                         "\"%.300s\" is not the address of a service: write https://HOST, with "
                         ":PORT where it needs one, and nothing behind it (s3_endpoint, or "
                         "AWS_ENDPOINT_URL in the environment)",
                         endpoint);
    return REPL_SUCCESS;
}

static repl_result region_check(const char *region, struct repl_error *err)
{
    size_t good = strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-_.");
    if (region[good] != '\0' || good == 0 || good > 64)
        return repl_fail(err, REPL_E_USAGE,
                         "\"%.100s\" is no region: write one such as " REGION_DEFAULT
                         " (s3_region, or AWS_REGION in the environment)",
                         region);
    return REPL_SUCCESS;
}

static repl_result endpoint_load(const struct repl_s3_options *options, struct s3_settings *out,
                                 struct repl_error *err)
{
    const char *region = either(options->region, "AWS_REGION", "AWS_DEFAULT_REGION");
    REPL_TRY(copy(region != NULL ? region : REGION_DEFAULT, &out->region, err));
    REPL_TRY(region_check(out->region, err));
    const char *endpoint = either(options->endpoint, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL");
    char aws[128];
    snprintf(aws, sizeof aws, "https://s3.%s.amazonaws.com", out->region);
    REPL_TRY(copy(endpoint != NULL ? endpoint : aws, &out->endpoint, err));
    size_t size = strlen(out->endpoint);
    if (size > 0 && out->endpoint[size - 1] == '/')
        out->endpoint[size - 1] = '\0';
    REPL_TRY(endpoint_check(out->endpoint, err));
    out->host_style = options->host_style;
    return copy(either(options->ca, "AWS_CA_BUNDLE", NULL), &out->ca, err);
}

/* --- credentials ----------------------------------------------------------------------------- */

static repl_result credentials_from_environment(const char *key_id, const char *secret,
                                                struct s3_settings *out, struct repl_error *err)
{
    REPL_TRY(copy(key_id, &out->credentials.key_id, err));
    REPL_TRY(copy(secret, &out->credentials.secret, err));
    REPL_TRY(copy(environment("AWS_SESSION_TOKEN"), &out->credentials.token, err));
    return copy("the environment (AWS_ACCESS_KEY_ID)", &out->credentials_from, err);
}

/* *path is the caller's to free. */
static repl_result credentials_path(const struct repl_s3_options *options, char **path,
                                    struct repl_error *err)
{
    const char *named = either(options->credentials, "AWS_SHARED_CREDENTIALS_FILE", NULL);
    const char *home = environment("HOME");
    if (named != NULL)
        return copy(named, path, err);
    if (home == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "there are no credentials for the bucket: set AWS_ACCESS_KEY_ID and "
                         "AWS_SECRET_ACCESS_KEY, or name a file of them (s3_credentials)");
    if (asprintf(path, "%s/.aws/credentials", home) < 0) {
        *path = NULL;
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the settings of a bucket");
    }
    return REPL_SUCCESS;
}

static repl_result credentials_from_file(const char *path, const char *profile,
                                         struct s3_settings *out, struct repl_error *err)
{
    repl_result result = s3_credentials_load(path, profile, &out->credentials, err);
    if (result.code == REPL_E_MISSING)
        return repl_fail(err, REPL_E_USAGE,
                         "there are no credentials for the bucket: set AWS_ACCESS_KEY_ID and "
                         "AWS_SECRET_ACCESS_KEY, or write them to %s",
                         path);
    REPL_TRY(result);
    REPL_TRY(copy(path, &out->credentials_file, err));
    REPL_TRY(copy(profile, &out->profile, err));
    if (asprintf(&out->credentials_from, "%s, section [%s]", path, profile) < 0) {
        out->credentials_from = NULL;
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the settings of a bucket");
    }
    return REPL_SUCCESS;
}

static repl_result credentials_find(const struct repl_s3_options *options, struct s3_settings *out,
                                    struct repl_error *err)
{
    const char *key_id = environment("AWS_ACCESS_KEY_ID");
    const char *secret = environment("AWS_SECRET_ACCESS_KEY");
    const char *profile = either(options->profile, "AWS_PROFILE", NULL);
    char *path = NULL;
    if (options->credentials == NULL && (key_id == NULL) != (secret == NULL))
        return repl_fail(err, REPL_E_USAGE, "%s is set in the environment and %s is not",
                         key_id != NULL ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY",
                         key_id != NULL ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID");
    if (options->credentials == NULL && key_id != NULL)
        return credentials_from_environment(key_id, secret, out, err);
    REPL_TRY(credentials_path(options, &path, err));
    repl_result result =
        credentials_from_file(path, profile != NULL ? profile : "default", out, err);
    free(path);
    return result;
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result settings_fill(const char *location, const struct repl_s3_options *options,
                                 struct s3_settings *out, struct repl_error *err)
{
    REPL_TRY(s3_location_parse(location, &out->bucket, &out->prefix, err));
    REPL_TRY(endpoint_load(options, out, err));
    return credentials_find(options, out, err);
}

repl_result s3_settings_load(const char *location, const struct repl_s3_options *options,
                             struct s3_settings *out, struct repl_error *err)
{
    static const struct repl_s3_options none;
    *out = (struct s3_settings){0};
    repl_result result = settings_fill(location, options != NULL ? options : &none, out, err);
    if (!repl_ok(result))
        s3_settings_fini(out);
    return result;
}

void s3_settings_fini(struct s3_settings *settings)
{
    free(settings->bucket);
    free(settings->prefix);
    free(settings->endpoint);
    free(settings->region);
    free(settings->ca);
    s3_credentials_wipe(&settings->credentials);
    free(settings->credentials_from);
    free(settings->credentials_file);
    free(settings->profile);
    *settings = (struct s3_settings){0};
}
