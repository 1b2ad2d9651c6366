/*
 * What a bucket is asked for.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/evp.h>

#include "store/s3_internal.h"

#define PAGES_MAX 1000000u /* of one listing */

/* SHA-256 of nothing. */
static const struct repl_digest empty_sha256 = {{0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14,
                                                 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
                                                 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c,
                                                 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55}};

static struct s3_request request_of(const char *doing, const char *method, const char *key)
{
    return (struct s3_request){
        .doing = doing, .method = method, .key = key, .body_fd = -1, .body_sha256 = empty_sha256};
}

/* To the whole of what a request is about: nothing but an object of the bucket can be missing. */
static repl_result judge(struct s3_client *client, const struct s3_request *request,
                         const struct s3_answer *answer, struct repl_error *err)
{
    if (answer->status == 404)
        return repl_fail(err, REPL_E_MISSING, "%s is not in the bucket %s at %s", request->key,
                         s3_client_settings(client)->bucket, s3_client_settings(client)->endpoint);
    if (answer->status == 412)
        return repl_fail(err, REPL_E_IO,
                         "cannot %s %s: the service answers 412 to a request without a condition",
                         request->doing, request->key);
    return REPL_SUCCESS;
}

static repl_result run(struct s3_client *client, const struct s3_request *request,
                       struct s3_answer *answer, struct repl_error *err)
{
    REPL_TRY(s3_request_run(client, request, answer, err));
    return judge(client, request, answer, err);
}

/* --- locks ----------------------------------------------------------------------------------- */

#define LOCK_MODE      "COMPLIANCE"
#define LOCK_TIME_SIZE 32u

static void lock_time_format(int64_t until_s, char text[LOCK_TIME_SIZE])
{
    time_t until = (time_t)until_s;
    struct tm tm;
    strftime(text, LOCK_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&until, &tm));
}

/* Services write it with fractions of a second or without; they are not looked at. */
static int64_t lock_time_parse(const char *text)
{
    struct tm tm = {0};
    int used = 0;
    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
               &tm.tm_min, &tm.tm_sec, &used) != 6 ||
        text[strlen(text) - 1] != 'Z')
        return 0;
    tm.tm_year -= 1900;
    tm.tm_mon--;
    time_t time = timegm(&tm);
    return time > 0 ? time : 0;
}

/* Which a service wants with all that locks. */
static repl_result checksum_add(struct s3_request *request, const struct repl_digest *sha256,
                                struct repl_error *err)
{
    unsigned char text[4 * (sizeof sha256->bytes / 3 + 1) + 1];
    EVP_EncodeBlock(text, sha256->bytes, sizeof sha256->bytes);
    return s3_header_add(request, err, "x-amz-checksum-sha256: %s", (const char *)text);
}

/* --- writing --------------------------------------------------------------------------------- */

static repl_result put_headers(struct s3_request *request, const struct s3_put *put,
                               struct repl_error *err)
{
    char hash[REPL_DIGEST_TEXT_SIZE];
    REPL_TRY(s3_header_add(request, err, "Content-Type: application/octet-stream"));
    if (put->if_absent)
        REPL_TRY(s3_header_add(request, err, "If-None-Match: *"));
    repl_digest_format(put->sha256, hash);
    if (put->note_sha256)
        REPL_TRY(s3_header_add(request, err, "x-amz-meta-repl-sha256: %s", hash));
    if (put->locked_until_s == 0)
        return REPL_SUCCESS;
    char until[LOCK_TIME_SIZE];
    lock_time_format(put->locked_until_s, until);
    REPL_TRY(checksum_add(request, put->sha256, err));
    REPL_TRY(s3_header_add(request, err, "x-amz-object-lock-mode: " LOCK_MODE));
    return s3_header_add(request, err, "x-amz-object-lock-retain-until-date: %s", until);
}

repl_result s3_put(struct s3_client *client, const struct s3_put *put, bool *existed,
                   struct repl_error *err)
{
    struct s3_answer answer;
    struct s3_request request = request_of("write", "PUT", put->key);
    if (put->size > S3_OBJECT_SIZE_MAX)
        return repl_fail(err, REPL_E_REFUSED, "%s has %" PRIu64 " bytes, and a bucket holds %llu",
                         put->key, put->size, (unsigned long long)S3_OBJECT_SIZE_MAX);
    request.has_body = true;
    request.body = put->data;
    request.body_fd = put->fd;
    request.body_size = put->size;
    request.body_sha256 = *put->sha256;
    request.out_size = S3_ANSWER_MAX;
    repl_result result = put_headers(&request, put, err);
    if (!repl_ok(result)) {
        curl_slist_free_all(request.headers);
        return result;
    }
    REPL_TRY(s3_request_run(client, &request, &answer, err));
    if (existed != NULL)
        *existed = put->if_absent && answer.status == 412;
    return put->if_absent && answer.status == 412 ? REPL_SUCCESS
                                                  : judge(client, &request, &answer, err);
}

repl_result s3_delete(struct s3_client *client, const char *key, bool *sure, struct repl_error *err)
{
    struct s3_answer answer = {0};
    bool answered;
    struct s3_request request = request_of("remove", "DELETE", key);
    request.total_ms = s3_client_limits(client)->short_total_ms;
    request.out_size = S3_ANSWER_MAX;
    repl_result result = s3_request_run(client, &request, &answer, err);
    answered = answer.attempts == 0 || (answer.attempts == 1 && result.code != REPL_E_RETRY);
    if (sure != NULL)
        *sure = answered;
    REPL_TRY(result);
    return answer.status == 404 ? REPL_SUCCESS : judge(client, &request, &answer, err);
}

repl_result s3_delete_version(struct s3_client *client, const char *key, const char *version,
                              struct repl_error *err)
{
    struct s3_answer answer;
    struct s3_request request = request_of("remove a version of", "DELETE", key);
    char *encoded = s3_encode(version, false), *query = NULL;
    if (encoded == NULL || asprintf(&query, "versionId=%s", encoded) < 0) {
        free(encoded);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a request to the bucket");
    }
    free(encoded);
    request.query = query;
    request.total_ms = s3_client_limits(client)->short_total_ms;
    request.out_size = S3_ANSWER_MAX;
    repl_result result = run(client, &request, &answer, err);
    free(query);
    return result;
}

repl_result s3_lock(struct s3_client *client, const char *key, int64_t until_s,
                    struct repl_error *err)
{
    char until[LOCK_TIME_SIZE], body[256];
    struct s3_answer answer;
    struct s3_request request = request_of("lock", "PUT", key);
    struct repl_sha256 *sha;
    REPL_TRY(repl_sha256_new(&sha, err));
    lock_time_format(until_s, until);
    int size =
        snprintf(body, sizeof body,
                 "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>" LOCK_MODE
                 "</Mode><RetainUntilDate>%s</RetainUntilDate></Retention>",
                 until);
    repl_sha256_begin(sha);
    repl_sha256_update(sha, body, (size_t)size);
    repl_sha256_end(sha, &request.body_sha256);
    repl_sha256_free(sha);
    request.query = "retention=";
    request.total_ms = s3_client_limits(client)->short_total_ms;
    request.has_body = true;
    request.body = body;
    request.body_size = (uint64_t)size;
    request.out_size = S3_ANSWER_MAX;
    repl_result result = checksum_add(&request, &request.body_sha256, err);
    if (!repl_ok(result)) {
        curl_slist_free_all(request.headers);
        return result;
    }
    return run(client, &request, &answer, err);
}

repl_result s3_copy(struct s3_client *client, const char *from, const char *to,
                    struct repl_error *err)
{
    const struct s3_settings *settings = s3_client_settings(client);
    struct repl_buffer body = {0};
    struct s3_answer answer;
    struct s3_error_text text;
    struct s3_request request = request_of("copy to", "PUT", to);
    char plain[S3_KEY_MAX + 128];
    snprintf(plain, sizeof plain, "/%s/%s%s", settings->bucket, settings->prefix, from);
    char *source = s3_encode(plain, true);
    if (source == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a request to the bucket");
    request.has_body = true;
    request.body = "";
    request.stall_s = s3_client_limits(client)->copy_stall_s;
    request.buffer = &body;
    request.out_size = S3_ANSWER_MAX;
    repl_result result = s3_header_add(&request, err, "x-amz-copy-source: %s", source);
    free(source);
    if (!repl_ok(result))
        return result;
    result = s3_request_run(client, &request, &answer, err);
    if (repl_ok(result) && answer.status == 404)
        result = repl_fail(err, REPL_E_MISSING, "%s is not in the bucket %s at %s", from,
                           settings->bucket, settings->endpoint);
    if (repl_ok(result))
        result = judge(client, &request, &answer, err);
    /* A copy may fail after its 200. */
    s3_error_parse((const char *)body.data, body.size, &text);
    repl_buffer_fini(&body);
    if (repl_ok(result) && text.code[0] != '\0')
        result = repl_fail(err, REPL_E_RETRY, "cannot copy %s to %s: %s, %s", from, to, text.code,
                           text.message);
    return result;
}

/* --- reading --------------------------------------------------------------------------------- */

/* Whether it is the range that was asked for, all of it, and nothing else. */
static repl_result range_check(const struct s3_answer *answer, const char *key, uint64_t offset,
                               size_t size, struct repl_error *err)
{
    unsigned long long from, to;
    int end = 0;
    bool is_range = answer->status == 206 &&
                    sscanf(answer->range, "bytes %20llu-%20llu/%n", &from, &to, &end) == 2 &&
                    end > 0 && from == offset;
    if (!is_range)
        return repl_fail(err, REPL_E_IO,
                         "%s: the service did not answer with the range that was asked for (%ld, "
                         "\"%s\"): it is of no use as a store",
                         key, answer->status, answer->range);
    if (to - from + 1 != size || answer->got != size)
        return repl_fail(err, REPL_E_CORRUPT, "%s ends before byte %" PRIu64, key, offset + size);
    return REPL_SUCCESS;
}

repl_result s3_get(struct s3_client *client, const char *key, uint64_t offset, void *out,
                   size_t size, struct repl_error *err)
{
    struct s3_answer answer;
    struct s3_request request = request_of("read", "GET", key);
    snprintf(request.range, sizeof request.range, "%" PRIu64 "-%" PRIu64, offset,
             offset + size - 1);
    request.out = out;
    request.out_size = size;
    REPL_TRY(run(client, &request, &answer, err));
    return range_check(&answer, key, offset, size, err);
}

repl_result s3_get_all(struct s3_client *client, const char *key, size_t limit,
                       struct repl_buffer *out, struct repl_error *err)
{
    struct s3_answer answer;
    struct s3_request request = request_of("read", "GET", key);
    request.buffer = out;
    request.out_size = limit;
    return run(client, &request, &answer, err);
}

repl_result s3_head(struct s3_client *client, const char *key, struct s3_head *out,
                    struct repl_error *err)
{
    struct s3_answer answer;
    struct s3_request request = request_of("examine", "HEAD", key);
    char *end;
    request.out_size = S3_ANSWER_MAX;
    REPL_TRY(run(client, &request, &answer, err));
    out->size = strtoull(answer.length, &end, 10);
    if (answer.length[0] == '\0' || *end != '\0')
        return repl_fail(err, REPL_E_IO, "%s: the service does not say how long it is", key);
    out->has_sha256 = repl_digest_parse(answer.sha256, &out->sha256);
    out->locked_until_s =
        strcmp(answer.lock_mode, LOCK_MODE) == 0 ? lock_time_parse(answer.locked_until) : 0;
    snprintf(out->version, sizeof out->version, "%s", answer.version);
    return REPL_SUCCESS;
}

/* --- listings -------------------------------------------------------------------------------- */

struct listing {
    struct s3_client *client;
    s3_list_visit_fn *visit;
    void *context;
    char prefix[S3_PREFIX_MAX + S3_KEY_MAX + 1]; /* in the bucket */
};

static repl_result entry_seen(void *context, const char *key, uint64_t size, bool is_prefix,
                              struct repl_error *err)
{
    const struct listing *l = context;
    if (strncmp(key, l->prefix, strlen(l->prefix)) != 0)
        return repl_fail(err, REPL_E_CORRUPT,
                         "the bucket was asked for %s and lists something else", l->prefix);
    return l->visit(l->context, key + strlen(s3_client_settings(l->client)->prefix), size,
                    is_prefix, err);
}

/* On the heap; NULL: out of memory. Sorted by name, as the signature wants it. */
static char *list_query(const struct listing *l, bool delimiter, const char *token)
{
    char *prefix = s3_encode(l->prefix, false), *after = s3_encode(token, false), *query = NULL;
    if (prefix != NULL && after != NULL &&
        asprintf(&query, "%s%s%s%slist-type=2&max-keys=%u&prefix=%s",
                 token[0] != '\0' ? "continuation-token=" : "", after, token[0] != '\0' ? "&" : "",
                 delimiter ? "delimiter=%2F&" : "", S3_LIST_KEYS_MAX, prefix) < 0)
        query = NULL;
    free(prefix);
    free(after);
    return query;
}

static repl_result page_read(struct listing *l, bool delimiter, struct s3_list_page *page,
                             struct repl_error *err)
{
    struct repl_buffer body = {0};
    struct s3_answer answer;
    struct s3_request request = request_of("list", "GET", NULL);
    char *query = list_query(l, delimiter, page->token);
    if (query == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a listing of the bucket");
    request.query = query;
    request.buffer = &body;
    request.out_size = S3_ANSWER_MAX;
    repl_result result = s3_request_run(l->client, &request, &answer, err);
    if (repl_ok(result) && answer.status != 200)
        result = repl_fail(err, REPL_E_USAGE,
                           "the bucket %s cannot be listed (the service answers %ld): is %s its "
                           "endpoint?",
                           s3_client_settings(l->client)->bucket, answer.status,
                           s3_client_settings(l->client)->endpoint);
    if (repl_ok(result))
        result = s3_list_parse((const char *)body.data, body.size, entry_seen, l, page, err);
    repl_buffer_fini(&body);
    free(query);
    return result;
}

repl_result s3_list(struct s3_client *client, const char *prefix, bool delimiter,
                    s3_list_visit_fn *visit, void *context, struct repl_error *err)
{
    struct listing l = {.client = client, .visit = visit, .context = context};
    struct s3_list_page page = {0};
    snprintf(l.prefix, sizeof l.prefix, "%s%s", s3_client_settings(client)->prefix, prefix);
    for (unsigned pages = 0; pages < PAGES_MAX; pages++) {
        REPL_TRY(page_read(&l, delimiter, &page, err));
        if (!page.truncated)
            return REPL_SUCCESS;
    }
    return repl_fail(err, REPL_E_CORRUPT, "the listing of the bucket does not end");
}
