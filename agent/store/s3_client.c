/*
 * Handles, attempts and signatures. What libcurl 7.88 signs rightly is asked of
 * it only:
 *
 * - x-amz-content-sha256 is always sent, with the hash of the body;
 * - no header is removed or empty: libcurl would sign it and not send it. So a
 *   large body comes with "Expect: 100-continue", which lets a service refuse it
 *   before it is sent;
 * - path and query are encoded here, as the signature is computed over them as
 *   they are (PATH_AS_IS), and bodies have a known length.
 *
 * Certificates are checked, always. A redirect is an error: it would take the
 * signature elsewhere.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "block/read_full.h"
#include "control/control.h"
#include "libcurl_start.h"
#include "loop/loop.h"
#include "store/s3_internal.h"

#define IDLE_HANDLES_MAX     16u
#define IDLE_CONNECTION_S    45l /* one that is idle for longer may have been closed by then */
#define UPLOAD_BUFFER_SIZE   (1l << 20)
#define DOWNLOAD_BUFFER_SIZE (256l << 10)
#define ERROR_BODY_MAX       (64u << 10)
#define NS_PER_MS            INT64_C(1000000)

struct s3_client {
    struct s3_settings settings; /* but for the credentials, which are renewed: under keys_mutex */
    pthread_mutex_t keys_mutex;
    unsigned keys_renewed;
    struct s3_limits limits;
    atomic_bool stopped;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t stop;   /* CLOCK_MONOTONIC */
    CURL *idle[IDLE_HANDLES_MAX];
    unsigned idle_count;
};

/* --- the client ------------------------------------------------------------------------------ */

repl_result s3_client_new(struct s3_settings *settings, const struct s3_limits *limits,
                          struct s3_client **out, struct repl_error *err)
{
    struct s3_client *client = calloc(1, sizeof *client);
    repl_result result = client != NULL
                             ? repl_libcurl_start(err)
                             : repl_fail(err, REPL_E_NOMEM, "out of memory for a bucket");
    if (!repl_ok(result)) {
        free(client);
        s3_settings_fini(settings);
        return result;
    }
    client->settings = *settings;
    *settings = (struct s3_settings){0};
    client->limits = *limits;
    pthread_mutex_init(&client->keys_mutex, NULL);
    pthread_mutex_init(&client->mutex, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&client->stop, &attributes);
    pthread_condattr_destroy(&attributes);
    *out = client;
    return REPL_SUCCESS;
}

void s3_client_free(struct s3_client *client)
{
    if (client == NULL)
        return;
    while (client->idle_count > 0)
        curl_easy_cleanup(client->idle[--client->idle_count]);
    pthread_cond_destroy(&client->stop);
    pthread_mutex_destroy(&client->mutex);
    pthread_mutex_destroy(&client->keys_mutex);
    s3_settings_fini(&client->settings);
    free(client);
}

const struct s3_settings *s3_client_settings(const struct s3_client *client)
{
    return &client->settings;
}

const struct s3_limits *s3_client_limits(const struct s3_client *client)
{
    return &client->limits;
}

void s3_client_stop(struct s3_client *client)
{
    pthread_mutex_lock(&client->mutex);
    atomic_store(&client->stopped, true);
    pthread_cond_broadcast(&client->stop);
    pthread_mutex_unlock(&client->mutex);
}

static repl_result fail_stopped(const struct s3_client *client, struct repl_error *err)
{
    return repl_fail(err, REPL_E_RETRY, "bucket %s: stopped", client->settings.bucket);
}

repl_result s3_client_sleep(struct s3_client *client, int64_t ms, struct repl_error *err)
{
    int64_t until_ns = repl_now_mono_ns() + ms * NS_PER_MS;
    struct timespec until = {.tv_sec = until_ns / (1000 * NS_PER_MS),
                             .tv_nsec = until_ns % (1000 * NS_PER_MS)};
    int waited = 0;
    pthread_mutex_lock(&client->mutex);
    while (!atomic_load(&client->stopped) && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&client->stop, &client->mutex, &until);
    pthread_mutex_unlock(&client->mutex);
    return atomic_load(&client->stopped) ? fail_stopped(client, err) : REPL_SUCCESS;
}

/* NULL: out of memory. */
static CURL *handle_take(struct s3_client *client)
{
    CURL *easy = NULL;
    pthread_mutex_lock(&client->mutex);
    if (client->idle_count > 0)
        easy = client->idle[--client->idle_count];
    pthread_mutex_unlock(&client->mutex);
    return easy != NULL ? easy : curl_easy_init();
}

static void handle_give(struct s3_client *client, CURL *easy)
{
    curl_easy_reset(easy); /* connections stay */
    pthread_mutex_lock(&client->mutex);
    bool kept = client->idle_count < IDLE_HANDLES_MAX;
    if (kept)
        client->idle[client->idle_count++] = easy;
    pthread_mutex_unlock(&client->mutex);
    if (!kept)
        curl_easy_cleanup(easy);
}

/* --- addresses ------------------------------------------------------------------------------- */

char *s3_encode(const char *text, bool keep_slashes)
{
    static const char hex[] = "0123456789ABCDEF";
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~";
    char *out = malloc(strlen(text) * 3 + 1), *to = out;
    for (; out != NULL && *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (strchr(plain, c) != NULL || (keep_slashes && c == '/')) {
            *to++ = (char)c;
            continue;
        }
        *to++ = '%';
        *to++ = hex[c >> 4];
        *to++ = hex[c & 15];
    }
    if (out != NULL)
        *to = '\0';
    return out;
}

/* On the heap; NULL: out of memory. */
static char *url_of(const struct s3_settings *s, const struct s3_request *request)
{
    char *plain = NULL, *key = NULL, *url = NULL;
    const char *host = strstr(s->endpoint, "://") + 3;
    int scheme = (int)(host - s->endpoint);
    const char *question = request->query != NULL ? "?" : "";
    const char *query = request->query != NULL ? request->query : "";
    if (request->key != NULL) {
        if (asprintf(&plain, "%s%s", s->prefix, request->key) < 0)
            return NULL;
        key = s3_encode(plain, true);
        free(plain);
        if (key == NULL)
            return NULL;
    }
    int size = s->host_style
                   ? asprintf(&url, "%.*s%s.%s/%s%s%s", scheme, s->endpoint, s->bucket, host,
                              key != NULL ? key : "", question, query)
                   : asprintf(&url, "%s/%s%s%s%s%s", s->endpoint, s->bucket, key != NULL ? "/" : "",
                              key != NULL ? key : "", question, query);
    free(key);
    return size < 0 ? NULL : url;
}

repl_result s3_header_add(struct s3_request *request, struct repl_error *err, const char *format,
                          ...)
{
    char *line = NULL;
    va_list args;
    va_start(args, format);
    int size = vasprintf(&line, format, args);
    va_end(args);
    struct curl_slist *longer = size < 0 ? NULL : curl_slist_append(request->headers, line);
    if (size >= 0) {
        explicit_bzero(line, (size_t)size); /* it may be a session's token */
        free(line);
    }
    if (longer == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a request to the bucket");
    request->headers = longer;
    return REPL_SUCCESS;
}

/* --- one attempt ----------------------------------------------------------------------------- */

struct attempt {
    struct s3_client *client;
    const struct s3_request *request;
    struct s3_answer *answer;
    CURL *easy;
    uint64_t sent;
    char *failure; /* the body of an answer that is an error */
    size_t failure_size;
};

static size_t body_read(char *out, size_t size, size_t count, void *context)
{
    struct attempt *a = context;
    const struct s3_request *r = a->request;
    uint64_t left = r->body_size - a->sent;
    size_t take = size * count < left ? size * count : (size_t)left;
    if (take == 0)
        return 0;
    if (r->body != NULL)
        memcpy(out, (const char *)r->body + a->sent, take);
    else if (repl_read_full(r->body_fd, out, take, a->sent) != (ssize_t)take)
        return CURL_READFUNC_ABORT;
    a->sent += take;
    return take;
}

/* libcurl begins a body again where a connection that was kept turns out to be closed. */
static int body_seek(void *context, curl_off_t offset, int origin)
{
    struct attempt *a = context;
    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > a->request->body_size)
        return CURL_SEEKFUNC_FAIL;
    a->sent = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

static bool answer_is_object(struct attempt *a)
{
    long status = 0;
    curl_easy_getinfo(a->easy, CURLINFO_RESPONSE_CODE, &status);
    return status >= 200 && status < 300;
}

static bool object_take(struct attempt *a, const char *data, size_t size)
{
    const struct s3_request *r = a->request;
    struct s3_answer *answer = a->answer;
    if (size > r->out_size - answer->got) {
        answer->overflow = true;
        return false;
    }
    if (r->out != NULL)
        memcpy((char *)r->out + answer->got, data, size);
    else if (r->buffer != NULL && !repl_ok(repl_buffer_append(r->buffer, data, size, NULL)))
        return false;
    answer->got += size;
    return true;
}

static size_t answer_take(char *data, size_t size, size_t count, void *context)
{
    struct attempt *a = context;
    size *= count;
    if (answer_is_object(a))
        return object_take(a, data, size) ? size : 0;
    size_t room = ERROR_BODY_MAX - a->failure_size;
    if (a->failure == NULL && (a->failure = malloc(ERROR_BODY_MAX)) == NULL)
        return 0;
    size_t take = size < room ? size : room;
    memcpy(a->failure + a->failure_size, data, take);
    a->failure_size += take;
    return size;
}

static int progress(void *context, curl_off_t down_all, curl_off_t down, curl_off_t up_all,
                    curl_off_t up)
{
    const struct attempt *a = context;
    (void)down_all, (void)down, (void)up_all, (void)up;
    return atomic_load(&a->client->stopped) ? 1 : 0;
}

#define SET(option, value)                                                                         \
    do {                                                                                           \
        if (code == CURLE_OK)                                                                      \
            code = curl_easy_setopt(easy, option, value);                                          \
    } while (0)

static CURLcode set_service(CURL *easy, const struct s3_client *client,
                            const struct s3_request *request, const struct s3_credentials *keys)
{
    CURLcode code = CURLE_OK;
    const struct s3_settings *s = &client->settings;
    char signing[128];
    snprintf(signing, sizeof signing, "aws:amz:%s:s3", s->region);
    SET(CURLOPT_AWS_SIGV4, signing);
    SET(CURLOPT_USERNAME, keys->key_id);
    SET(CURLOPT_PASSWORD, keys->secret);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_FOLLOWLOCATION, 0l);
    SET(CURLOPT_SSL_VERIFYPEER, 1l);
    SET(CURLOPT_SSL_VERIFYHOST, 2l);
    if (s->ca != NULL)
        SET(CURLOPT_CAINFO, s->ca);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_USERAGENT, "repl/" REPL_VERSION);
    SET(CURLOPT_NOSIGNAL, 1l);
    SET(CURLOPT_CONNECTTIMEOUT_MS, client->limits.connect_ms);
    SET(CURLOPT_LOW_SPEED_LIMIT, 1l);
    SET(CURLOPT_LOW_SPEED_TIME, request->stall_s);
    SET(CURLOPT_MAXAGE_CONN, IDLE_CONNECTION_S);
    SET(CURLOPT_TCP_KEEPALIVE, 1l);
    SET(CURLOPT_UPLOAD_BUFFERSIZE, UPLOAD_BUFFER_SIZE);
    SET(CURLOPT_BUFFERSIZE, DOWNLOAD_BUFFER_SIZE);
    return code;
}

static CURLcode set_request(CURL *easy, const struct s3_request *request, const char *url)
{
    CURLcode code = CURLE_OK;
    SET(CURLOPT_URL, url);
    SET(CURLOPT_PATH_AS_IS, 1l);
    if (request->has_body) {
        SET(CURLOPT_UPLOAD, 1l);
        SET(CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->body_size);
    } else if (strcmp(request->method, "HEAD") == 0) {
        SET(CURLOPT_NOBODY, 1l);
    } else {
        SET(CURLOPT_HTTPGET, 1l);
        SET(CURLOPT_CUSTOMREQUEST, request->method);
    }
    SET(CURLOPT_HTTPHEADER, request->headers);
    if (request->range[0] != '\0')
        SET(CURLOPT_RANGE, request->range);
    return code;
}

static CURLcode set_callbacks(CURL *easy, struct attempt *a)
{
    CURLcode code = CURLE_OK;
    SET(CURLOPT_READFUNCTION, body_read);
    SET(CURLOPT_READDATA, a);
    SET(CURLOPT_SEEKFUNCTION, body_seek);
    SET(CURLOPT_SEEKDATA, a);
    SET(CURLOPT_WRITEFUNCTION, answer_take);
    SET(CURLOPT_WRITEDATA, a);
    SET(CURLOPT_XFERINFOFUNCTION, progress);
    SET(CURLOPT_XFERINFODATA, a);
    SET(CURLOPT_NOPROGRESS, 0l);
    SET(CURLOPT_ERRORBUFFER, a->answer->curl_text);
    return code;
}

#undef SET

static void header_take(CURL *easy, const char *name, char *out, size_t out_size)
{
    struct curl_header *header;
    if (curl_easy_header(easy, name, 0, CURLH_HEADER, -1, &header) == CURLHE_OK)
        snprintf(out, out_size, "%s", header->value);
}

static void answer_read(struct attempt *a)
{
    struct s3_answer *answer = a->answer;
    curl_easy_getinfo(a->easy, CURLINFO_RESPONSE_CODE, &answer->status);
    header_take(a->easy, "Date", answer->date, sizeof answer->date);
    header_take(a->easy, "x-amz-bucket-region", answer->region, sizeof answer->region);
    header_take(a->easy, "Content-Range", answer->range, sizeof answer->range);
    header_take(a->easy, "Content-Length", answer->length, sizeof answer->length);
    header_take(a->easy, "x-amz-meta-repl-sha256", answer->sha256, sizeof answer->sha256);
    header_take(a->easy, "x-amz-object-lock-mode", answer->lock_mode, sizeof answer->lock_mode);
    header_take(a->easy, "x-amz-object-lock-retain-until-date", answer->locked_until,
                sizeof answer->locked_until);
    header_take(a->easy, "x-amz-version-id", answer->version, sizeof answer->version);
    if (a->failure_size > 0)
        s3_error_parse(a->failure, a->failure_size, &answer->text);
}

/* timeout_ms 0: none but the limits. */
static void attempt_run(struct s3_client *client, const struct s3_request *request,
                        const struct s3_credentials *keys, const char *url, long timeout_ms,
                        struct s3_answer *answer)
{
    *answer = (struct s3_answer){0};
    struct attempt a = {
        .client = client, .request = request, .answer = answer, .easy = handle_take(client)};
    if (request->buffer != NULL)
        request->buffer->size = 0;
    answer->curl =
        a.easy == NULL ? CURLE_OUT_OF_MEMORY : set_service(a.easy, client, request, keys);
    if (answer->curl == CURLE_OK)
        answer->curl = set_request(a.easy, request, url);
    if (answer->curl == CURLE_OK)
        answer->curl = set_callbacks(a.easy, &a);
    if (answer->curl == CURLE_OK)
        answer->curl = curl_easy_setopt(a.easy, CURLOPT_TIMEOUT_MS, timeout_ms);
    if (answer->curl == CURLE_OK) {
        answer->curl = curl_easy_perform(a.easy);
        answer_read(&a);
    }
    free(a.failure);
    if (a.easy != NULL)
        handle_give(client, a.easy);
}

/* --- attempts -------------------------------------------------------------------------------- */

/* Half of the pause is left to chance, so that not all who wait come back at once. */
static int64_t pause_of(const struct s3_limits *limits, unsigned attempt)
{
    int64_t pause_ms = limits->pause_first_ms;
    for (unsigned i = 1; i < attempt && pause_ms < limits->pause_max_ms; i++)
        pause_ms *= 2;
    if (pause_ms > limits->pause_max_ms)
        pause_ms = limits->pause_max_ms;
    uint32_t chance = 0;
    if (getrandom(&chance, sizeof chance, GRND_NONBLOCK) != sizeof chance)
        chance = 1u << 31;
    return pause_ms / 2 + (int64_t)((uint64_t)pause_ms * chance >> 33);
}

static repl_result attempts_run(struct s3_client *client, const struct s3_request *request,
                                const struct s3_credentials *keys, const char *url,
                                struct s3_answer *answer, struct repl_error *err)
{
    const struct s3_limits *limits = &client->limits;
    int64_t total_ms = request->total_ms != 0 ? request->total_ms : limits->attempts_ms;
    int64_t begun_ns = repl_now_mono_ns();
    for (unsigned attempt = 1;; attempt++) {
        int64_t left_ms = total_ms - (repl_now_mono_ns() - begun_ns) / NS_PER_MS;
        long timeout_ms = request->total_ms == 0 ? 0 : left_ms > 1 ? (long)left_ms : 1;
        attempt_run(client, request, keys, url, timeout_ms, answer);
        answer->attempts = attempt;
        if (atomic_load(&client->stopped))
            return fail_stopped(client, err);
        if (s3_answer_is_good(answer))
            return REPL_SUCCESS;
        int64_t pause_ms = pause_of(limits, attempt);
        left_ms = total_ms - (repl_now_mono_ns() - begun_ns) / NS_PER_MS;
        if (!s3_answer_is_passing(answer) || attempt >= limits->attempts || pause_ms >= left_ms)
            return s3_answer_fail(&client->settings, request, answer, err);
        REPL_TRY(s3_client_sleep(client, pause_ms, err));
    }
}

/* --- credentials ----------------------------------------------------------------------------- */

static repl_result keys_take(struct s3_client *client, struct s3_credentials *out,
                             unsigned *renewed, struct repl_error *err)
{
    pthread_mutex_lock(&client->keys_mutex);
    repl_result result = s3_credentials_copy(&client->settings.credentials, out, err);
    *renewed = client->keys_renewed;
    pthread_mutex_unlock(&client->keys_mutex);
    return result;
}

/* Under the mutex. */
static bool keys_read(struct s3_client *client)
{
    struct s3_settings *s = &client->settings;
    struct s3_credentials found;
    struct repl_error err;
    if (s->credentials_file == NULL)
        return false;
    if (!repl_ok(s3_credentials_load(s->credentials_file, s->profile, &found, &err))) {
        repl_log(LOG_WARNING, "the credentials of bucket %s stay what they were: %s", s->bucket,
                 err.text);
        return false;
    }
    bool other = !s3_credentials_equal(&found, &s->credentials);
    if (other) {
        struct s3_credentials before = s->credentials;
        s->credentials = found;
        found = before;
        client->keys_renewed++;
        repl_log(LOG_NOTICE, "bucket %s: other credentials from %s", s->bucket,
                 s->credentials_from);
    }
    s3_credentials_wipe(&found);
    return other;
}

/* Whether there are others than those that were taken then. */
static bool keys_renew(struct s3_client *client, unsigned renewed)
{
    pthread_mutex_lock(&client->keys_mutex);
    bool other = client->keys_renewed != renewed || keys_read(client);
    pthread_mutex_unlock(&client->keys_mutex);
    return other;
}

/* --- requests -------------------------------------------------------------------------------- */

static void headers_free(struct curl_slist *headers)
{
    for (struct curl_slist *header = headers; header != NULL; header = header->next)
        explicit_bzero(header->data, strlen(header->data));
    curl_slist_free_all(headers);
}

static repl_result headers_complete(const struct s3_credentials *keys,
                                    const struct s3_request *asked, struct s3_request *request,
                                    struct repl_error *err)
{
    char hash[REPL_DIGEST_TEXT_SIZE];
    request->headers = NULL;
    for (const struct curl_slist *header = asked->headers; header != NULL; header = header->next)
        REPL_TRY(s3_header_add(request, err, "%s", header->data));
    repl_digest_format(&request->body_sha256, hash);
    REPL_TRY(s3_header_add(request, err, "x-amz-content-sha256: %s", hash));
    if (keys->token != NULL)
        REPL_TRY(s3_header_add(request, err, "x-amz-security-token: %s", keys->token));
    return REPL_SUCCESS;
}

/* *again: it was denied, and there are other credentials by now. */
static repl_result request_try(struct s3_client *client, const struct s3_request *asked,
                               const char *url, struct s3_answer *answer, bool *again,
                               struct repl_error *err)
{
    struct s3_request request = *asked;
    struct s3_credentials keys;
    unsigned renewed;
    *again = false;
    REPL_TRY(keys_take(client, &keys, &renewed, err));
    if (request.stall_s == 0)
        request.stall_s = client->limits.stall_s;
    repl_result result = atomic_load(&client->stopped)
                             ? fail_stopped(client, err)
                             : headers_complete(&keys, asked, &request, err);
    if (repl_ok(result)) {
        result = attempts_run(client, &request, &keys, url, answer, err);
        *again = result.code == REPL_E_REFUSED && s3_answer_is_denied(answer) &&
                 keys_renew(client, renewed);
    }
    s3_credentials_wipe(&keys);
    if (request.headers != asked->headers)
        headers_free(request.headers);
    return result;
}

repl_result s3_request_run(struct s3_client *client, const struct s3_request *asked,
                           struct s3_answer *answer, struct repl_error *err)
{
    char *url = url_of(&client->settings, asked);
    bool again = false;
    repl_result result =
        url == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory for a request to the bucket")
                    : request_try(client, asked, url, answer, &again, err);
    if (again)
        result = request_try(client, asked, url, answer, &again, err);
    headers_free(asked->headers);
    free(url);
    return result;
}
