/*
 * A site on loopback in this process, and a source made of repl_client,
 * repl_segment_builder and a model of the volume in memory.
 */
#ifndef TESTS_UNIT_SITE_FIXTURE_H
#define TESTS_UNIT_SITE_FIXTURE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"
#include "fake/fake_s3.h"
#include "format/wire.h"
#include "link/client.h"
#include "site/site_internal.h"
#include "store/store_counted.h"
#include "unit/random.h"
#include "unit/segment/segment_fixture.h"

#define MIB           (1u << 20)
#define MODEL_SIZE    (6u * MIB + 5u * REPL_PAGE_SIZE) /* to begin with */
#define MODEL_MAX     (9u * MIB)
#define TIME_LIMIT_MS 60000
#define SECOND_NS     INT64_C(1000000000)
#define BUCKET        "s3://bucket/dc/site"

enum key { KEY_HOST, KEY_OTHER, KEY_RECOVERY, KEY_REVOKED, KEY_UNKNOWN, KEY_COUNT };

struct world {
    char directory[64];
    char store[96];
    struct fake_s3 *bucket; /* the store is there, and the directory is the site's own; or NULL */
    char control[96];
    char site_key[96];
    char keys[KEY_COUNT][96];
    struct repl_digest site_fingerprint, fingerprints[KEY_COUNT];
    const char *replica;   /* of volume data; NULL: no section */
    const char *retention; /* NULL: everything is kept */
    const char *limits;    /* lines of [site] about space; NULL: none */
    const char *limit;     /* such a line of volume data; NULL: none */
    bool site_may_die;     /* a call that breaks off has status 0 */
    bool revoke_host;
    const char *tenants[2]; /* of the host, and of the other one; NULL: none */
    struct repl_loop *loop;
    struct repl_site *site;
    struct repl_client *clients[KEY_COUNT];
    struct repl_frame_coder *coder;
    struct random random;
    /* the source: which volume it writes, by which key */
    const char *volume;
    enum key key;
    uint8_t *model;
    uint64_t size;
    struct repl_uuid uuid;
    enum repl_volume_kind kind;
    uint64_t lineage;
    struct repl_head head;
    int64_t time_ns; /* of the next point */
    /* the last answer */
    int status;
    struct repl_buffer response;
    struct repl_refusal refusal; /* decoded, where it is one */
    struct repl_ack ack;
};

static inline void must(repl_result result, const struct repl_error *err)
{
    if (!repl_ok(result))
        fail_msg("%s: %s", repl_code_name(result.code), err->text);
}

static inline void turn(struct world *w)
{
    struct repl_error err = {0};
    must(repl_loop_once(w->loop, 20, &err), &err);
}

#define PUMP_UNTIL(w, condition)                                                                   \
    do {                                                                                           \
        int64_t deadline_ns_ = repl_now_mono_ns() + TIME_LIMIT_MS * INT64_C(1000000);              \
        while (!(condition)) {                                                                     \
            turn(w);                                                                               \
            if (repl_now_mono_ns() > deadline_ns_)                                                 \
                fail_msg("it takes too long: %s", #condition);                                     \
        }                                                                                          \
    } while (0)

/* --- the site -------------------------------------------------------------------------------- */

static inline struct repl_config *config_make(struct world *w)
{
    char text[4096], hex[KEY_COUNT][REPL_FINGERPRINT_TEXT_SIZE], tenants[2][96] = {"", ""};
    struct repl_config *config;
    struct repl_error err = {0};
    for (int i = 0; i < KEY_COUNT; i++)
        repl_fingerprint_format(&w->fingerprints[i], hex[i]);
    for (int i = 0; i < 2; i++) {
        if (w->tenants[i] != NULL)
            snprintf(tenants[i], sizeof tenants[i], "tenant = %s\n", w->tenants[i]);
    }
    int size = w->bucket == NULL ? snprintf(text, sizeof text, "[site]\nstore = %s\n", w->store)
                                 : snprintf(text, sizeof text,
                                            "[site]\nstore = %s\nstate = %s\ns3_endpoint = %s\n",
                                            BUCKET, w->store, fake_s3_endpoint(w->bucket));
    size += snprintf(
        text + size, sizeof text - (size_t)size,
        "key = %s\ncontrol = %s\nlisten = 127.0.0.1:1\nretention = %s\n%s"
        "[peer host]\nfingerprint = %s\nvolumes = data spare\nrevoked = %s\n%s"
        "[peer other]\nfingerprint = %s\nvolumes = else\n%s"
        "[peer rescue]\nfingerprint = %s\nrole = recovery\nvolumes = data\n"
        "[peer gone]\nfingerprint = %s\nvolumes = data\nrevoked = yes\n",
        w->site_key, w->control, w->retention != NULL ? w->retention : REPL_RETENTION_EVERYTHING,
        w->limits != NULL ? w->limits : "", hex[KEY_HOST], w->revoke_host ? "yes" : "no",
        tenants[0], hex[KEY_OTHER], tenants[1], hex[KEY_RECOVERY], hex[KEY_REVOKED]);
    if (w->replica != NULL || w->limit != NULL)
        size +=
            snprintf(text + size, sizeof text - (size_t)size, "[volume data]\nreplica = %s\n%s",
                     w->replica != NULL ? w->replica : "image", w->limit != NULL ? w->limit : "");
    must(repl_config_parse(text, (size_t)size, "site.conf", REPL_ROLE_SITE, &config, &err), &err);
    /* Any port: no config file may say so. */
    free(config->listen);
    config->listen = strdup("127.0.0.1:0");
    return config;
}

static inline void site_start(struct world *w)
{
    struct repl_error err = {0};
    char address[32];
    must(repl_site_new(w->loop, config_make(w), &w->site, &err), &err);
    /* Of a bucket: who tests what comes late says so. */
    w->site->store->late_ms = repl_store_counted_inner(w->site->store)->late_ms = 0;
    snprintf(address, sizeof address, "127.0.0.1:%u", repl_site_port(w->site));
    for (int i = 0; i < KEY_COUNT; i++) {
        struct repl_client_options options = {
            .address = address, .key_path = w->keys[i], .fingerprint = w->site_fingerprint};
        must(repl_client_new(w->loop, &options, &w->clients[i], &err), &err);
    }
}

static inline void site_stop(struct world *w)
{
    for (int i = 0; i < KEY_COUNT; i++) {
        repl_client_free(w->clients[i]);
        w->clients[i] = NULL;
    }
    repl_site_free(w->site);
    w->site = NULL;
}

static inline void site_restart(struct world *w)
{
    site_stop(w);
    site_start(w);
}

static inline void key_make(char path[96], const char *directory, const char *name,
                            struct repl_digest *fingerprint)
{
    struct repl_error err = {0};
    snprintf(path, 96, "%s/%s.key", directory, name);
    must(repl_key_generate(path, name, fingerprint, &err), &err);
}

static inline void world_init(struct world *w, const char *replica)
{
    static const char *const names[KEY_COUNT] = {"host", "other", "rescue", "gone", "stranger"};
    struct repl_error err = {0};
    *w = (struct world){.replica = replica,
                        .volume = "data",
                        .kind = REPL_VOLUME_BLOCK,
                        .lineage = 1,
                        .time_ns = 1000 * SECOND_NS};
    w->random = random_begin("site", 20261122);
    const char *parent = getenv("TMPDIR");
    snprintf(w->directory, sizeof w->directory, "%.40s/test_site.XXXXXX",
             parent != NULL ? parent : "/tmp");
    assert_non_null(mkdtemp(w->directory));
    snprintf(w->store, sizeof w->store, "%s/store", w->directory);
    snprintf(w->control, sizeof w->control, "%s/control", w->directory);
    char directory[64];
    memcpy(directory, w->directory, sizeof directory);
    key_make(w->site_key, directory, "site", &w->site_fingerprint);
    for (int i = 0; i < KEY_COUNT; i++)
        key_make(w->keys[i], directory, names[i], &w->fingerprints[i]);
    must(repl_loop_new(&(struct repl_loop_options){.workers = 2}, &w->loop, &err), &err);
    must(repl_frame_coder_new(&w->coder, &err), &err);
    w->size = MODEL_SIZE;
    w->model = calloc(1, MODEL_MAX);
    assert_non_null(w->model);
    memset(w->uuid.bytes, 7, sizeof w->uuid.bytes);
}

/* The store is a bucket, of a service in this process that ends with the world. */
static inline void world_in_bucket(struct world *w)
{
    setenv("AWS_ACCESS_KEY_ID", FAKE_S3_KEY_ID, 1);
    setenv("AWS_SECRET_ACCESS_KEY", FAKE_S3_SECRET, 1);
    w->bucket = fake_s3_start();
    assert_non_null(w->bucket);
}

/* Where a reader of the store without its site finds it. */
static inline struct repl_s3_options world_s3(const struct world *w)
{
    return (struct repl_s3_options){.endpoint =
                                        w->bucket != NULL ? fake_s3_endpoint(w->bucket) : NULL};
}

/* Another source at the same site, as long as that runs. */
static inline void world_share(struct world *other, const struct world *w, const char *volume,
                               enum key key)
{
    *other = *w;
    other->volume = volume;
    other->key = key;
    other->response = (struct repl_buffer){0};
    other->head = (struct repl_head){0};
    other->random = random_begin(volume, 20261123);
    other->model = calloc(1, MODEL_MAX);
    assert_non_null(other->model);
    other->uuid.bytes[0] += (uint8_t)(1 + key);
}

static inline void world_unshare(struct world *other)
{
    repl_buffer_fini(&other->response);
    free(other->model);
}

static inline int tree_remove_one(const char *path, const struct stat *status, int type,
                                  struct FTW *where)
{
    (void)status, (void)type, (void)where;
    return remove(path);
}

static inline void world_fini(struct world *w)
{
    if (w->bucket != NULL)
        fake_s3_release(w->bucket);
    if (w->site != NULL)
        site_stop(w);
    if (w->bucket != NULL)
        fake_s3_stop(w->bucket);
    repl_frame_coder_free(w->coder);
    repl_loop_free(w->loop);
    repl_buffer_fini(&w->response);
    free(w->model);
    nftw(w->directory, tree_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* --- requests -------------------------------------------------------------------------------- */

struct call {
    struct repl_request request;
    struct world *w;
    bool done;
    /* a body that is produced: all of it but the end, which never comes */
    const uint8_t *bytes;
    size_t size, sent;
    bool ends; /* it does come after all */
};

static inline void call_done(struct repl_request *request, repl_result result,
                             const struct repl_error *err)
{
    struct call *call = request->context;
    struct world *w = call->w;
    struct repl_error ignored;
    call->done = true;
    w->status = 0;
    if (w->site_may_die && !repl_ok(result))
        return;
    must(result, err);
    w->status = request->status;
    w->response.size = 0;
    must(repl_buffer_append(&w->response, request->response, request->response_size, &ignored),
         &ignored);
    memset(&w->refusal, 0, sizeof w->refusal);
    memset(&w->ack, 0, sizeof w->ack);
    switch (repl_wire_type_of(w->response.data, w->response.size)) {
    case REPL_WIRE_REFUSAL:
        must(repl_refusal_decode(w->response.data, w->response.size, &w->refusal, &ignored),
             &ignored);
        break;
    case REPL_WIRE_ACK:
        must(repl_ack_decode(w->response.data, w->response.size, &w->ack, &ignored), &ignored);
        break;
    default:
        break;
    }
}

static inline size_t call_read(struct repl_request *request, void *buffer, size_t size)
{
    struct call *call = request->context;
    size_t left = call->size - call->sent;
    if (left == 0)
        return call->ends ? 0 : REPL_BODY_PAUSE;
    if (size > left)
        size = left;
    memcpy(buffer, call->bytes + call->sent, size);
    call->sent += size;
    return size;
}

__attribute__((format(printf, 4, 5))) static inline void
call_init(struct call *call, struct world *w, const char *method, const char *path, ...)
{
    va_list args;
    *call = (struct call){.w = w};
    call->request = (struct repl_request){.method = method,
                                          .offset = -1,
                                          .response_limit = 64u * MIB,
                                          .done = call_done,
                                          .context = call};
    va_start(args, path);
    vsnprintf(call->request.path, sizeof call->request.path, path, args);
    va_end(args);
}

/* The status of the answer. */
static inline int call_run(struct call *call, enum key key)
{
    struct repl_error err = {0};
    must(repl_request_start(call->w->clients[key], &call->request, &err), &err);
    PUMP_UNTIL(call->w, call->done);
    return call->w->status;
}

static inline int get(struct world *w, enum key key, const char *path)
{
    struct call call;
    call_init(&call, w, "GET", "%s", path);
    return call_run(&call, key);
}

static inline int hello_as(struct world *w, enum key key, const char *volume,
                           const struct repl_hello *hello)
{
    struct repl_buffer body = {0};
    struct repl_error err = {0};
    struct call call;
    must(repl_hello_encode(hello, &body, &err), &err);
    call_init(&call, w, "POST", "/v1/volumes/%s/hello", volume);
    call.request.body = body.data;
    call.request.body_size = body.size;
    int status = call_run(&call, key);
    repl_buffer_fini(&body);
    return status;
}

static inline struct repl_hello hello_of(const struct world *w)
{
    return (struct repl_hello){.version_min = REPL_PROTOCOL_MIN,
                               .version_max = REPL_PROTOCOL_MAX,
                               .volume = w->uuid,
                               .kind = w->kind,
                               .lineage = w->lineage,
                               .volume_size = w->size,
                               .rpo_ms = 4000,
                               .sent_ns = repl_now_wall_ns()};
}

static inline struct repl_welcome hello(struct world *w)
{
    struct repl_hello message = hello_of(w);
    struct repl_welcome welcome = {0};
    struct repl_error err = {0};
    if (hello_as(w, w->key, w->volume, &message) != 200)
        fail_msg("hello: %d %s", w->status, w->refusal.text);
    must(repl_welcome_decode(w->response.data, w->response.size, &welcome, &err), &err);
    return welcome;
}

static inline int report(struct world *w, const struct repl_report *message)
{
    struct repl_buffer body = {0};
    struct repl_error err = {0};
    struct call call;
    must(repl_report_encode(message, &body, &err), &err);
    call_init(&call, w, "POST", "/v1/volumes/%s/report", w->volume);
    call.request.body = body.data;
    call.request.body_size = body.size;
    int status = call_run(&call, w->key);
    repl_buffer_fini(&body);
    return status;
}

static inline int put(struct world *w, uint64_t to, uint32_t part, uint64_t offset,
                      const uint8_t *bytes, size_t size)
{
    struct call call;
    call_init(&call, w, "PUT", "/v1/volumes/%s/segments/%llu.%u", w->volume, (unsigned long long)to,
              part);
    if (offset > 0)
        call.request.offset = (int64_t)offset;
    call.request.body = bytes;
    call.request.body_size = size;
    return call_run(&call, w->key);
}

/* --- segments -------------------------------------------------------------------------------- */

struct build {
    struct world *w;
    struct repl_segment_header header;
    struct memory_file file;
    struct repl_segment_builder *builder;
    struct repl_segment_footer footer;
};

static inline uint64_t features_of(const struct world *w)
{
    return REPL_FEATURE_PAGES | (w->kind == REPL_VOLUME_TREE ? REPL_FEATURE_TREE : 0);
}

static inline void build_begin(struct build *b, struct world *w, uint64_t from, uint64_t to,
                               uint32_t part)
{
    struct repl_error err = {0};
    *b = (struct build){.w = w,
                        .header = {.version = REPL_SEGMENT_VERSION,
                                   .kind = REPL_SEGMENT_CHANGES,
                                   .volume_kind = w->kind,
                                   .features = features_of(w),
                                   .volume = w->uuid,
                                   .lineage = w->lineage,
                                   .from_seq = from,
                                   .to_seq = to,
                                   .part = part,
                                   .created_ns = w->time_ns,
                                   .prev = w->head.digest}};
    must(repl_segment_builder_new(&b->header, w->size, memory_sink, &b->file, &b->builder, &err),
         &err);
}

static inline void build_extent(struct build *b, const struct repl_extent *extent)
{
    struct repl_error err = {0};
    must(repl_segment_builder_extent(b->builder, extent, &err), &err);
}

/* New random bytes, and the chunks that they cover whole. */
static inline void build_data(struct build *b, uint64_t offset, size_t size)
{
    struct repl_error err = {0};
    uint8_t *bytes = b->w->model + offset;
    assert_true(size <= REPL_FRAME_RAW_MAX && offset + size <= b->w->size);
    random_fill(&b->w->random, bytes, size);
    uint32_t frame = add_frame(b->builder, b->w->coder, bytes, size);
    build_extent(b,
                 &(struct repl_extent){
                     .offset = offset, .length = size, .source = frame, .type = REPL_RECORD_DATA});
    for (size_t at = 0; offset % REPL_CHUNK_SIZE == 0 && at + REPL_CHUNK_SIZE <= size;
         at += REPL_CHUNK_SIZE) {
        struct repl_chunk_entry chunk = {
            .name = chunk_name_of(bytes + at), .frame = frame, .frame_offset = (uint32_t)at};
        must(repl_segment_builder_chunk(b->builder, &chunk, &err), &err);
    }
}

static inline void build_zero(struct build *b, uint64_t offset, uint64_t size)
{
    memset(b->w->model + offset, 0, size);
    build_extent(b,
                 &(struct repl_extent){.offset = offset, .length = size, .type = REPL_RECORD_ZERO});
}

/* [offset, offset + size) becomes what chunk has from chunk_offset on. */
static inline void build_chunk(struct build *b, uint64_t offset, uint64_t size,
                               const uint8_t *chunk, uint32_t chunk_offset)
{
    struct repl_error err = {0};
    struct repl_digest name = chunk_name_of(chunk);
    struct repl_extent extent = {
        .offset = offset, .length = size, .source_offset = chunk_offset, .type = REPL_RECORD_CHUNK};
    must(repl_segment_builder_reference(b->builder, &name, &extent.source, &err), &err);
    build_extent(b, &extent);
    memmove(b->w->model + offset, chunk + chunk_offset, size);
}

static inline void build_end(struct build *b, bool has_point)
{
    struct repl_error err = {0};
    struct repl_point point = {.seq = b->header.to_seq,
                               .begin_ns = b->w->time_ns,
                               .end_ns = b->w->time_ns + 1,
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_WINDOW,
                               .attempts = 1};
    b->w->time_ns += SECOND_NS;
    must(repl_segment_builder_finish(b->builder, &point, has_point, &b->footer, &err), &err);
}

/* What the head is once the site has it. */
static inline void build_taken(struct build *b)
{
    b->w->head = (struct repl_head){.from_seq = b->header.from_seq,
                                    .to_seq = b->header.to_seq,
                                    .part = b->header.part,
                                    .has_point = b->footer.point_count > 0,
                                    .digest = b->footer.digest};
}

static inline void build_fini(struct build *b)
{
    repl_segment_builder_free(b->builder);
    repl_buffer_fini(&b->file.bytes);
}

static inline int build_put(struct build *b)
{
    return put(b->w, b->header.to_seq, b->header.part, 0, b->file.bytes.data, b->file.bytes.size);
}

/* Sends it, which has to succeed, and frees it. */
static inline void build_commit(struct build *b)
{
    if (build_put(b) != 201)
        fail_msg("segment %llu.%u: %d %s", (unsigned long long)b->header.to_seq, b->header.part,
                 b->w->status, b->w->refusal.text);
    assert_true(repl_digest_equal(&b->w->ack.head.digest, &b->footer.digest));
    build_taken(b);
    build_fini(b);
}

/* A supply to segment to_seq.0, of what is added to it. */
static inline void supply_begin(struct build *b, struct world *w, uint64_t to_seq)
{
    struct repl_error err = {0};
    *b = (struct build){.w = w,
                        .header = {.version = REPL_SEGMENT_VERSION,
                                   .kind = REPL_SEGMENT_SUPPLY,
                                   .volume_kind = w->kind,
                                   .features = features_of(w),
                                   .volume = w->uuid,
                                   .lineage = w->lineage,
                                   .from_seq = to_seq - 1,
                                   .to_seq = to_seq,
                                   .created_ns = 5}};
    must(repl_segment_builder_new(&b->header, 0, memory_sink, &b->file, &b->builder, &err), &err);
}

/* Chunks that lie side by side in the frame. */
static inline void supply_end(struct build *b, uint32_t frame, const uint8_t *chunk, int count)
{
    struct repl_error err = {0};
    for (int i = 0; i < count; i++) {
        struct repl_chunk_entry entry = {.name = chunk_name_of(chunk + i * REPL_CHUNK_SIZE),
                                         .frame = frame,
                                         .frame_offset = (uint32_t)i * REPL_CHUNK_SIZE};
        must(repl_segment_builder_chunk(b->builder, &entry, &err), &err);
    }
    must(repl_segment_builder_finish(b->builder, NULL, 0, &b->footer, &err), &err);
}

/* For segment 2.0. */
static inline void supply_build(struct build *b, struct world *w, const uint8_t *chunk, int count)
{
    supply_begin(b, w, 2);
    supply_end(b, add_frame(b->builder, w->coder, chunk, (size_t)count * REPL_CHUNK_SIZE), chunk,
               count);
}

static inline int supply_put(struct build *b, unsigned number)
{
    struct call call;
    call_init(&call, b->w, "PUT", "/v1/volumes/%s/segments/%llu.0.%u", b->w->volume,
              (unsigned long long)b->header.to_seq, number);
    call.request.body = b->file.bytes.data;
    call.request.body_size = b->file.bytes.size;
    return call_run(&call, b->w->key);
}

/* What segment 2 lacks. */
static inline void supply_give(struct world *w, const uint8_t *chunk, int count)
{
    struct build supply;
    supply_build(&supply, w, chunk, count);
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
}

/* The whole volume in one segment: point 1. */
static inline void seed(struct world *w)
{
    struct build b;
    hello(w);
    build_begin(&b, w, 0, 1, 0);
    for (uint64_t at = 0; at + MIB <= w->size; at += MIB)
        build_data(&b, at, MIB);
    build_data(&b, w->size - w->size % MIB, w->size % MIB);
    build_end(&b, true);
    build_commit(&b);
}

/* A few changes of each kind: the next point. */
static inline void increment(struct world *w)
{
    struct build b;
    static uint8_t chunk[REPL_CHUNK_SIZE];
    uint64_t seq = w->head.to_seq;
    build_begin(&b, w, seq, seq + 1, 0);
    memcpy(chunk, w->model + 17 * REPL_CHUNK_SIZE, sizeof chunk);
    build_data(&b, random_below(&w->random, 16) * REPL_CHUNK_SIZE, 3 * REPL_PAGE_SIZE);
    build_zero(&b, (20 + random_below(&w->random, 16)) * REPL_CHUNK_SIZE, 9 * REPL_PAGE_SIZE);
    build_chunk(&b, (40 + random_below(&w->random, 16)) * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunk,
                0);
    build_chunk(&b, 60 * REPL_CHUNK_SIZE, 2 * REPL_PAGE_SIZE, chunk, 3 * REPL_PAGE_SIZE);
    build_data(&b, w->size - REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
}

/* --- what the site says and holds ------------------------------------------------------------ */

static inline struct repl_volume_status volume_status(struct world *w, const char *name)
{
    struct repl_status status;
    struct repl_volume_status found = {0};
    struct repl_error err = {0};
    must(repl_site_status(w->site, &status, &err), &err);
    for (size_t i = 0; i < status.volume_count; i++) {
        if (strcmp(status.volumes[i].name, name) == 0)
            found = status.volumes[i];
    }
    repl_status_fini(&status);
    return found;
}

static inline bool replica_is_at(struct world *w, uint64_t seq)
{
    struct repl_volume_status status = volume_status(w, w->volume);
    return status.replica_seq == seq && !status.replica_applying;
}

static inline void file_path(const struct world *w, char path[256], const char *name)
{
    snprintf(path, 256, "%s/volumes/%s/%s", w->store, w->volume, name);
}

/* By the volume, in its pool. */
static inline bool chunk_is_found(const struct world *w, const char *volume, const uint8_t *chunk)
{
    struct repl_digest name = chunk_name_of(chunk);
    struct repl_chunk_place place;
    struct repl_error err = {0};
    bool found;
    must(repl_index_chunk(w->site->index, volume, &name, &place, &found, &err), &err);
    return found;
}

/* The site makes it anew when it starts. */
static inline void index_remove(const struct world *w)
{
    char path[256];
    snprintf(path, sizeof path, "%.200s/index.lmdb", w->store);
    assert_int_equal(unlink(path), 0);
}

static inline uint64_t size_below(struct world *w, const char *name)
{
    char path[256];
    struct stat status;
    uint64_t bytes = 0;
    file_path(w, path, name);
    DIR *listing = opendir(path);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        if (fstatat(dirfd(listing), entry->d_name, &status, 0) == 0 && S_ISREG(status.st_mode))
            bytes += (uint64_t)status.st_size;
    }
    closedir(listing);
    return bytes;
}

/* Says the site what lies there of the history, and in staging? Not while something is under way.
 */
static inline void expect_stored(struct world *w)
{
    char path[256];
    struct stat log;
    struct repl_status status;
    struct repl_error err = {0};
    file_path(w, path, "log");
    assert_int_equal(stat(path, &log), 0);
    uint64_t bytes = size_below(w, "segments") + size_below(w, "staging") + (uint64_t)log.st_size;
    assert_int_equal(volume_status(w, "data").stored_bytes, bytes);
    must(repl_site_status(w->site, &status, &err), &err);
    assert_int_equal(status.stored_bytes, bytes);
    repl_status_fini(&status);
}

static inline void replica_path(const struct world *w, char path[256])
{
    if (w->replica != NULL && strcmp(w->replica, "image") != 0)
        snprintf(path, 256, "%s", w->replica);
    else
        file_path(w, path, "replica.img");
}

static inline bool replica_equals_model(struct world *w)
{
    char path[256];
    uint8_t *bytes = malloc(w->size + 1);
    replica_path(w, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && bytes != NULL);
    ssize_t size = pread(fd, bytes, w->size, 0);
    bool equal = size == (ssize_t)w->size && memcmp(bytes, w->model, w->size) == 0;
    close(fd);
    free(bytes);
    return equal;
}

static inline void expect_replica(struct world *w)
{
    PUMP_UNTIL(w, replica_is_at(w, w->head.to_seq));
    assert_true(replica_equals_model(w));
}

static inline void expect_refusal(struct world *w, int status, enum repl_refusal_code code,
                                  const char *words)
{
    if (w->status != status || w->refusal.code != code || strstr(w->refusal.text, words) == NULL)
        fail_msg("answered %d, code %d, \"%s\"; wanted %d, code %d, \"%s\"", w->status,
                 w->refusal.code, w->refusal.text, status, code, words);
}

static inline void expect_missing(struct world *w, uint32_t count)
{
    struct repl_missing missing;
    struct repl_error err = {0};
    assert_int_equal(w->status, 409);
    must(repl_missing_decode(w->response.data, w->response.size, &missing, &err), &err);
    assert_int_equal(missing.count, count);
    repl_missing_fini(&missing);
}

#endif
