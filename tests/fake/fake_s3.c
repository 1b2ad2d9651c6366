#include "fake/fake_s3.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "fake/fake_s3_internal.h"

#define BODY_MAX (64u << 20)

/* One request. */
struct exchange {
    char *uri; /* as it came */
    bool begun;
    bool has_fault;
    struct fake_s3_fault fault;
    char *body;
    size_t body_size, body_room;
};

/* --- answers --------------------------------------------------------------------------------- */

static struct MHD_Response *response_of(const void *data, size_t size)
{
    return MHD_create_response_from_buffer(size, (void *)(uintptr_t)data, MHD_RESPMEM_MUST_COPY);
}

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status,
                              struct MHD_Response *response)
{
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static unsigned status_of(const char *code)
{
    static const struct {
        const char *code;
        unsigned status;
    } table[] = {{"NoSuchKey", 404},
                 {"NoSuchBucket", 404},
                 {"PreconditionFailed", 412},
                 {"InvalidRange", 416},
                 {"AuthorizationHeaderMalformed", 400},
                 {"XAmzContentSHA256Mismatch", 400},
                 {"PermanentRedirect", 301}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strcmp(table[i].code, code) == 0)
            return table[i].status;
    }
    return 403;
}

static enum MHD_Result answer_error(struct fake_s3 *fake, struct MHD_Connection *connection,
                                    unsigned status, const char *code)
{
    char text[512], now[32];
    time_t at = time(NULL) + fake->switches.skew_s;
    struct tm tm;
    const char *region = fake->switches.region != NULL ? fake->switches.region : FAKE_S3_REGION;
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&at, &tm));
    int size = snprintf(text, sizeof text,
                        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code>"
                        "<Message>as the test wants it</Message><Region>%s</Region>"
                        "<ServerTime>%s</ServerTime></Error>",
                        code, region, now);
    struct MHD_Response *response = response_of(text, (size_t)size);
    MHD_add_response_header(response, "x-amz-bucket-region", region);
    if (status == 301)
        MHD_add_response_header(response, "Location", "http://127.0.0.1:1/elsewhere");
    return answer(connection, status, response);
}

/* Half of what was announced, then the end. */
static ssize_t cut_reader(void *context, uint64_t position, char *out, size_t size)
{
    size_t half = *(size_t *)context / 2;
    if (position >= half)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (size > half - position)
        size = half - (size_t)position;
    memset(out, '#', size);
    return (ssize_t)size;
}

static struct MHD_Response *cut_response(size_t size)
{
    size_t *context = malloc(sizeof *context);
    *context = size;
    return MHD_create_response_from_callback(size, 1024, cut_reader, context, free);
}

/* --- requests -------------------------------------------------------------------------------- */

static void decode(const char *from, size_t size, char *out)
{
    for (size_t i = 0; i < size; i++) {
        unsigned value;
        if (from[i] == '%' && i + 2 < size && sscanf(from + i + 1, "%2x", &value) == 1) {
            *out++ = (char)value;
            i += 2;
        } else {
            *out++ = from[i];
        }
    }
    *out = '\0';
}

static const char *header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

static const char *argument(struct MHD_Connection *connection, const char *name)
{
    const char *value = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, name);
    return value != NULL ? value : "";
}

/* --- locks ----------------------------------------------------------------------------------- */

static enum MHD_Result do_lock(struct fake_s3 *fake, struct MHD_Connection *connection,
                               const char *key, const struct exchange *x)
{
    char body[512], mode[32] = "", until[40] = "";
    bool found;
    size_t place = fake_s3_object_place(fake, key, &found);
    snprintf(body, sizeof body, "%.*s", (int)x->body_size, x->body != NULL ? x->body : "");
    const char *mode_at = strstr(body, "<Mode>"), *until_at = strstr(body, "<RetainUntilDate>");
    if (!found)
        return answer_error(fake, connection, 404, "NoSuchKey");
    if (mode_at == NULL || until_at == NULL || sscanf(mode_at, "<Mode>%31[A-Z]<", mode) != 1 ||
        sscanf(until_at, "<RetainUntilDate>%39[^<]<", until) != 1)
        return answer_error(fake, connection, 400, "MalformedXML");
    const char *wrong = fake_s3_lock_fault(fake, connection, mode, until);
    if (wrong != NULL)
        return answer_error(fake, connection, 400, wrong);
    if (fake_s3_seconds_of(until) < fake_s3_seconds_of(fake->objects[place].locked_until))
        return answer_error(fake, connection, 403, "AccessDenied");
    fake_s3_lock_note(fake, key, until);
    return answer(connection, 200, response_of("", 0));
}

/* Of a key alone: a marker, behind which the version stays; here it just goes. */
static enum MHD_Result do_delete(struct fake_s3 *fake, struct MHD_Connection *connection,
                                 const char *key)
{
    bool found;
    size_t place = fake_s3_object_place(fake, key, &found);
    bool version = argument(connection, "versionId")[0] != '\0';
    if (version && found && !fake->switches.open_locks &&
        fake_s3_seconds_of(fake->objects[place].locked_until) > time(NULL))
        return answer_error(fake, connection, 403, "AccessDenied");
    fake_s3_object_remove(fake, key);
    return answer(connection, 204, response_of("", 0));
}

static enum MHD_Result do_put(struct fake_s3 *fake, struct MHD_Connection *connection,
                              const char *key, const struct exchange *x)
{
    bool found;
    const char *copy = header(connection, "x-amz-copy-source");
    const void *data = x->body_size > 0 ? x->body : "";
    size_t size = x->body_size;
    const char *until = header(connection, "x-amz-object-lock-retain-until-date");
    const char *wrong =
        fake_s3_lock_fault(fake, connection, header(connection, "x-amz-object-lock-mode"), until);
    if (wrong != NULL)
        return answer_error(fake, connection, 400, wrong);
    fake_s3_object_place(fake, key, &found);
    if (found && header(connection, "If-None-Match") != NULL && !fake->switches.ignore_conditions)
        return answer_error(fake, connection, 412, "PreconditionFailed");
    if (copy != NULL) {
        char source[2048];
        decode(copy, strlen(copy), source);
        size_t skip = strlen("/" FAKE_S3_BUCKET "/");
        size_t place = fake_s3_object_place(fake, source + skip, &found);
        if (!found)
            return answer_error(fake, connection, 404, "NoSuchKey");
        char *held = malloc(fake->objects[place].size + 1);
        size = fake->objects[place].size;
        memcpy(held, fake->objects[place].data, size);
        fake_s3_object_put(fake, key, held, size, fake->objects[place].sha256);
        free(held);
        static const char text[] = "<CopyObjectResult><ETag>x</ETag></CopyObjectResult>";
        return answer(connection, 200, response_of(text, sizeof text - 1));
    }
    if (fake->switches.quota != 0 && fake_s3_objects_size(fake) + size > fake->switches.quota)
        return answer_error(fake, connection, 403, "QuotaExceeded");
    fake_s3_object_put(fake, key, data, size, header(connection, "x-amz-meta-repl-sha256"));
    fake_s3_lock_note(fake, key, until);
    return answer(connection, 200, response_of("", 0));
}

static enum MHD_Result do_get(struct fake_s3 *fake, struct MHD_Connection *connection,
                              const char *key, bool cut)
{
    bool found;
    size_t place = fake_s3_object_place(fake, key, &found);
    if (!found)
        return answer_error(fake, connection, 404, "NoSuchKey");
    const struct object *o = &fake->objects[place];
    unsigned long long from = 0, to = o->size - 1;
    const char *range = header(connection, "Range");
    bool ranged = range != NULL && !fake->switches.ignore_ranges &&
                  sscanf(range, "bytes=%llu-%llu", &from, &to) == 2;
    if (ranged && from >= o->size)
        return answer_error(fake, connection, 416, "InvalidRange");
    if (to >= o->size)
        to = o->size - 1;
    size_t size = o->size > 0 ? (size_t)(to - from + 1) : 0;
    struct MHD_Response *response = cut ? cut_response(size) : response_of(o->data + from, size);
    char text[96];
    snprintf(text, sizeof text, "bytes %llu-%llu/%zu", from, to, o->size);
    if (ranged)
        MHD_add_response_header(response, "Content-Range", text);
    if (o->sha256[0] != '\0')
        MHD_add_response_header(response, "x-amz-meta-repl-sha256", o->sha256);
    if (o->locked_until[0] != '\0') {
        MHD_add_response_header(response, "x-amz-object-lock-mode", "COMPLIANCE");
        MHD_add_response_header(response, "x-amz-object-lock-retain-until-date", o->locked_until);
    }
    if (!fake->switches.no_versions)
        MHD_add_response_header(response, "x-amz-version-id", "3/L4kqtJ+ one");
    return answer(connection, ranged ? 206 : 200, response);
}

/* The entry at *i, and where the next one is: with a delimiter, all below a prefix are one. */
static void list_entry(const struct fake_s3 *fake, FILE *out, size_t *i, const char *prefix,
                       const char *delimiter)
{
    const struct object *o = &fake->objects[*i];
    const char *slash = delimiter[0] != '\0' ? strchr(o->key + strlen(prefix), '/') : NULL;
    if (slash == NULL) {
        fprintf(out, "<Contents><Key>%s</Key><Size>%zu</Size></Contents>", o->key, o->size);
        ++*i;
        return;
    }
    int size = (int)(slash - o->key) + 1;
    fprintf(out, "<CommonPrefixes><Prefix>%.*s</Prefix></CommonPrefixes>", size, o->key);
    const char *common = o->key;
    while (*i < fake->object_count && strncmp(fake->objects[*i].key, common, (size_t)size) == 0)
        ++*i;
}

static enum MHD_Result do_list(struct fake_s3 *fake, struct MHD_Connection *connection)
{
    const char *prefix = argument(connection, "prefix"),
               *token = argument(connection, "continuation-token");
    const char *delimiter = argument(connection, "delimiter");
    unsigned room = fake->switches.page_size != 0 ? fake->switches.page_size : 1000;
    char *text = NULL;
    size_t size = 0;
    bool found;
    FILE *out = open_memstream(&text, &size);
    fputs("<?xml version=\"1.0\"?><ListBucketResult "
          "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
          out);
    /* a token that has what a query must encode */
    size_t i = fake_s3_object_place(fake, token[0] != '\0' ? token + 4 : prefix, &found);
    while (i < fake->object_count && room > 0 &&
           strncmp(fake->objects[i].key, prefix, strlen(prefix)) == 0) {
        list_entry(fake, out, &i, prefix, delimiter);
        room--;
    }
    bool more =
        i < fake->object_count && strncmp(fake->objects[i].key, prefix, strlen(prefix)) == 0;
    if (more)
        fprintf(out, "<NextContinuationToken>+/= %s</NextContinuationToken>", fake->objects[i].key);
    fprintf(out, "<IsTruncated>%s</IsTruncated></ListBucketResult>", more ? "true" : "false");
    fclose(out);
    enum MHD_Result result = answer(connection, 200, response_of(text, size));
    free(text);
    return result;
}

static enum MHD_Result serve(struct fake_s3 *fake, struct MHD_Connection *connection,
                             const char *method, const struct exchange *x)
{
    char path[4096] = "/" FAKE_S3_BUCKET;
    const char *bucket = "/" FAKE_S3_BUCKET, *host = header(connection, "Host");
    bool host_style = host != NULL && strncmp(host, FAKE_S3_BUCKET ".", strlen(bucket)) == 0;
    decode(x->uri, strcspn(x->uri, "?"), path + (host_style ? strlen(bucket) : 0));
    if (strncmp(path, bucket, strlen(bucket)) != 0 ||
        (path[strlen(bucket)] != '\0' && path[strlen(bucket)] != '/'))
        return answer_error(fake, connection, 404, "NoSuchBucket");
    const char *key = path + strlen(bucket) + (path[strlen(bucket)] == '/');
    bool cut = x->has_fault && x->fault.kind == FAKE_S3_CUT_ANSWER;
    if (strcmp(method, "GET") == 0 && key[0] == '\0')
        return do_list(fake, connection);
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0)
        return do_get(fake, connection, key, cut);
    if (strcmp(method, "PUT") == 0 && strstr(x->uri, "?retention=") != NULL)
        return do_lock(fake, connection, key, x);
    if (strcmp(method, "PUT") == 0)
        return do_put(fake, connection, key, x);
    if (strcmp(method, "DELETE") == 0)
        return do_delete(fake, connection, key);
    return answer_error(fake, connection, 405, "MethodNotAllowed");
}

/* --- faults ---------------------------------------------------------------------------------- */

static bool fault_take(struct fake_s3 *fake, const char *method, const char *uri,
                       struct fake_s3_fault *out)
{
    for (size_t i = 0; i < fake->fault_count; i++) {
        struct fake_s3_fault *fault = &fake->faults[i];
        if ((fault->method != NULL && strcmp(fault->method, method) != 0) ||
            (fault->key != NULL && strstr(uri, fault->key) == NULL) || fault->count == 0)
            continue;
        if (fault->skip > 0) {
            fault->skip--;
            continue;
        }
        fault->count--;
        *out = *fault;
        return true;
    }
    return false;
}

static void hang(struct fake_s3 *fake)
{
    unsigned releases = fake->releases;
    while (!fake->stopping && fake->releases == releases)
        pthread_cond_wait(&fake->release, &fake->mutex);
}

/* With the mutex held; the whole body is there. */
static enum MHD_Result complete(struct fake_s3 *fake, struct MHD_Connection *connection,
                                const char *method, const struct exchange *x)
{
    const struct signed_request request = {
        .connection = connection,
        .method = method,
        .uri = x->uri,
        .body = x->body_size > 0 ? x->body : "",
        .body_size = x->body_size,
        .region = fake->switches.region != NULL ? fake->switches.region : FAKE_S3_REGION,
        .skew_s = fake->switches.skew_s};
    if (x->has_fault && x->fault.kind == FAKE_S3_STATUS)
        return answer_error(fake, connection, x->fault.status, x->fault.code);
    if (x->has_fault && x->fault.kind == FAKE_S3_LATE)
        hang(fake);
    if (x->has_fault && x->fault.kind == FAKE_S3_HANG) {
        hang(fake);
        return MHD_NO;
    }
    if (fake->switches.redirect)
        return answer_error(fake, connection, 301, "PermanentRedirect");
    const char *fault = signature_fault(&request);
    if (fault != NULL)
        return answer_error(fake, connection, status_of(fault), fault);
    enum MHD_Result result = serve(fake, connection, method, x);
    if (x->has_fault && x->fault.kind == FAKE_S3_HANG_DONE)
        hang(fake);
    bool unanswered =
        x->has_fault && (x->fault.kind == FAKE_S3_HANG_DONE || x->fault.kind == FAKE_S3_CUT_DONE ||
                         x->fault.kind == FAKE_S3_LATE);
    return unanswered ? MHD_NO : result;
}

static enum MHD_Result on_request(void *owner, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **context)
{
    struct fake_s3 *fake = owner;
    struct exchange *x = *context;
    (void)url, (void)version;
    if (!x->begun) {
        x->begun = true;
        pthread_mutex_lock(&fake->mutex);
        x->has_fault = fault_take(fake, method, x->uri, &x->fault);
        if (fake->request_count < REQUESTS_MAX &&
            asprintf(&fake->requests[fake->request_count], "%s %s", method, x->uri) > 0)
            fake->request_count++;
        pthread_mutex_unlock(&fake->mutex);
        return MHD_YES;
    }
    if (*upload_size > 0) {
        if (x->has_fault && x->fault.kind == FAKE_S3_CUT_UPLOAD)
            return MHD_NO;
        if (x->body_size + *upload_size > BODY_MAX)
            return MHD_NO;
        if (x->body_size + *upload_size > x->body_room) {
            x->body_room = 2 * (x->body_size + *upload_size);
            x->body = realloc(x->body, x->body_room);
        }
        memcpy(x->body + x->body_size, upload, *upload_size);
        x->body_size += *upload_size;
        *upload_size = 0;
        return MHD_YES;
    }
    pthread_mutex_lock(&fake->mutex);
    enum MHD_Result result = complete(fake, connection, method, x);
    pthread_mutex_unlock(&fake->mutex);
    return result;
}

static void *on_uri(void *owner, const char *uri, struct MHD_Connection *connection)
{
    struct exchange *x = calloc(1, sizeof *x);
    (void)owner, (void)connection;
    x->uri = strdup(uri);
    return x;
}

static void on_end(void *owner, struct MHD_Connection *connection, void **context,
                   enum MHD_RequestTerminationCode code)
{
    struct exchange *x = *context;
    (void)owner, (void)connection, (void)code;
    if (x == NULL)
        return;
    free(x->uri);
    free(x->body);
    free(x);
}

static void quiet(void *owner, const char *format, va_list args)
{
    (void)owner, (void)format, (void)args;
}

/* --- the service ----------------------------------------------------------------------------- */

struct fake_s3 *fake_s3_start(void)
{
    struct fake_s3 *fake = calloc(1, sizeof *fake);
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    pthread_mutex_init(&fake->mutex, NULL);
    pthread_cond_init(&fake->release, NULL);
    fake->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_ERROR_LOG, 0,
        NULL, NULL, on_request, fake, MHD_OPTION_EXTERNAL_LOGGER, quiet, NULL, MHD_OPTION_SOCK_ADDR,
        &address, MHD_OPTION_URI_LOG_CALLBACK, on_uri, fake, MHD_OPTION_NOTIFY_COMPLETED, on_end,
        NULL, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        fake->daemon != NULL ? MHD_get_daemon_info(fake->daemon, MHD_DAEMON_INFO_BIND_PORT) : NULL;
    if (info == NULL) {
        free(fake);
        return NULL;
    }
    snprintf(fake->endpoint, sizeof fake->endpoint, "http://127.0.0.1:%u", info->port);
    return fake;
}

void fake_s3_stop(struct fake_s3 *fake)
{
    pthread_mutex_lock(&fake->mutex);
    fake->stopping = true;
    pthread_cond_broadcast(&fake->release);
    pthread_mutex_unlock(&fake->mutex);
    MHD_stop_daemon(fake->daemon);
    while (fake->object_count > 0)
        fake_s3_object_remove(fake, fake->objects[0].key);
    for (size_t i = 0; i < fake->request_count; i++)
        free(fake->requests[i]);
    pthread_cond_destroy(&fake->release);
    pthread_mutex_destroy(&fake->mutex);
    free(fake);
}

const char *fake_s3_endpoint(const struct fake_s3 *fake)
{
    return fake->endpoint;
}

void fake_s3_fault(struct fake_s3 *fake, const struct fake_s3_fault *fault)
{
    pthread_mutex_lock(&fake->mutex);
    if (fake->fault_count == FAULTS_MAX)
        abort();
    fake->faults[fake->fault_count++] = *fault;
    pthread_mutex_unlock(&fake->mutex);
}

void fake_s3_release(struct fake_s3 *fake)
{
    pthread_mutex_lock(&fake->mutex);
    fake->fault_count = 0;
    fake->releases++;
    pthread_cond_broadcast(&fake->release);
    pthread_mutex_unlock(&fake->mutex);
}

void fake_s3_switch(struct fake_s3 *fake, const struct fake_s3_switches *switches)
{
    pthread_mutex_lock(&fake->mutex);
    fake->switches = *switches;
    pthread_mutex_unlock(&fake->mutex);
}

unsigned fake_s3_requests(struct fake_s3 *fake, const char *method, const char *key)
{
    unsigned count = 0;
    pthread_mutex_lock(&fake->mutex);
    for (size_t i = 0; i < fake->request_count; i++)
        count += (method == NULL || strncmp(fake->requests[i], method, strlen(method)) == 0) &&
                 (key == NULL || strstr(fake->requests[i], key) != NULL);
    pthread_mutex_unlock(&fake->mutex);
    return count;
}

bool fake_s3_exists(struct fake_s3 *fake, const char *key)
{
    bool found;
    pthread_mutex_lock(&fake->mutex);
    fake_s3_object_place(fake, key, &found);
    pthread_mutex_unlock(&fake->mutex);
    return found;
}

size_t fake_s3_count(struct fake_s3 *fake, const char *prefix)
{
    size_t count = 0;
    pthread_mutex_lock(&fake->mutex);
    for (size_t i = 0; i < fake->object_count; i++)
        count += strncmp(fake->objects[i].key, prefix, strlen(prefix)) == 0;
    pthread_mutex_unlock(&fake->mutex);
    return count;
}

uint64_t fake_s3_bytes(struct fake_s3 *fake, const char *prefix)
{
    uint64_t bytes = 0;
    pthread_mutex_lock(&fake->mutex);
    for (size_t i = 0; i < fake->object_count; i++) {
        if (strncmp(fake->objects[i].key, prefix, strlen(prefix)) == 0)
            bytes += fake->objects[i].size;
    }
    pthread_mutex_unlock(&fake->mutex);
    return bytes;
}

void fake_s3_put(struct fake_s3 *fake, const char *key, const void *data, size_t size)
{
    pthread_mutex_lock(&fake->mutex);
    fake_s3_object_put(fake, key, data, size, NULL);
    pthread_mutex_unlock(&fake->mutex);
}

void fake_s3_remove(struct fake_s3 *fake, const char *key)
{
    pthread_mutex_lock(&fake->mutex);
    fake_s3_object_remove(fake, key);
    pthread_mutex_unlock(&fake->mutex);
}

int64_t fake_s3_locked_until(struct fake_s3 *fake, const char *key)
{
    bool found;
    pthread_mutex_lock(&fake->mutex);
    size_t place = fake_s3_object_place(fake, key, &found);
    int64_t until = found ? fake_s3_seconds_of(fake->objects[place].locked_until) : 0;
    pthread_mutex_unlock(&fake->mutex);
    return until;
}

char *fake_s3_get(struct fake_s3 *fake, const char *key, size_t *size)
{
    bool found;
    char *copy = NULL;
    pthread_mutex_lock(&fake->mutex);
    size_t place = fake_s3_object_place(fake, key, &found);
    if (found) {
        *size = fake->objects[place].size;
        copy = malloc(*size + 1);
        memcpy(copy, fake->objects[place].data, *size + 1);
    }
    pthread_mutex_unlock(&fake->mutex);
    return copy;
}
