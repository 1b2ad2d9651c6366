/*
 * Many sources in one process, each with a key, a volume and connections of its own, sending real
 * segments to a site (sources.sh).
 *
 * sources keys DIRECTORY COUNT: makes their keys, and prints the [peer] sections for the site.
 *
 * sources send ADDRESS FINGERPRINT DIRECTORY COUNT SECONDS INTERVAL_MS KIB [GREEDY MIB]: each says
 * hello and sends a full, one after the other; then, for SECONDS, each sends a point of KIB KiB
 * every INTERVAL_MS, spread evenly over it. The first GREEDY of them send points of MIB MiB
 * instead, one after the other without a pause. Printed: how long it took from when a point was due
 * until it was acknowledged.
 *
 * sources fill ADDRESS FINGERPRINT DIRECTORY FROM COUNT: the first source sends the points FROM + 1
 * to COUNT of a page each, as fast as they are acknowledged; with FROM 0 the full before them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/hash.h"
#include "format/wire.h"
#include "link/client.h"
#include "loop/loop.h"
#include "segment/frame.h"
#include "segment/segment_builder.h"

#define SOURCES_MAX   1000u
#define LATENCIES_MAX (UINT64_C(1) << 22)
#define VOLUME_SIZE   (UINT64_C(64) << 20)
#define MIB           (UINT64_C(1) << 20)
#define NS_PER_MS     INT64_C(1000000)

enum step { STEP_HELLO, STEP_SEED, STEP_POINTS };

struct source {
    struct repl_client *client;
    struct repl_request request;
    struct repl_timer timer;
    enum step step;
    bool out, greedy;
    struct repl_uuid uuid;
    struct repl_digest prev; /* of the last segment */
    uint64_t seq;            /* of the one that is sent */
    struct repl_buffer body;
    struct repl_segment_footer footer;
    int64_t due_ns;
};

static struct repl_loop *loop;
static struct repl_frame_coder *coder;
static struct source sources[SOURCES_MAX];
static unsigned source_count, seeded;
static uint64_t small_bytes, large_bytes, fill_until;
static int64_t interval_ns, begun_ns, until_ns;
static int64_t *latencies; /* of those that are not greedy */
static uint64_t latency_count, refused_count, greedy_points, sent_bytes;
static uint8_t *noise;

static _Noreturn void give_up(const char *what, const struct repl_error *err)
{
    fprintf(stderr, "sources: %s: %s\n", what, err->text);
    exit(2);
}

static void must(repl_result result, const struct repl_error *err, const char *what)
{
    if (!repl_ok(result))
        give_up(what, err);
}

/* --- segments -------------------------------------------------------------------------------- */

static repl_result body_put(void *context, const void *data, size_t size, struct repl_error *err)
{
    return repl_buffer_append(context, data, size, err);
}

static void data_add(struct repl_segment_builder *builder, uint64_t offset, size_t size)
{
    struct repl_buffer stored = {0};
    struct repl_frame_entry entry;
    struct repl_error err;
    uint32_t frame;
    must(repl_frame_encode(coder, noise + random() % MIB, size, &stored, &entry, &err), &err,
         "a frame");
    must(repl_segment_builder_frame(builder, &entry, stored.data, NULL, &frame, &err), &err,
         "a frame");
    repl_buffer_fini(&stored);
    const struct repl_extent extent = {
        .offset = offset, .length = size, .source = frame, .type = REPL_RECORD_DATA};
    must(repl_segment_builder_extent(builder, &extent, &err), &err, "an extent");
}

/* (seq - 1, seq], in s->body. */
static void segment_build(struct source *s, uint64_t bytes)
{
    struct repl_segment_builder *builder;
    struct repl_error err;
    const int64_t now_ns = repl_now_wall_ns();
    const struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                               .kind = REPL_SEGMENT_CHANGES,
                                               .volume_kind = REPL_VOLUME_BLOCK,
                                               .volume = s->uuid,
                                               .lineage = 1,
                                               .from_seq = s->seq - 1,
                                               .to_seq = s->seq,
                                               .created_ns = now_ns,
                                               .prev = s->prev};
    const struct repl_point point = {.seq = s->seq,
                                     .begin_ns = now_ns,
                                     .end_ns = now_ns + 1,
                                     .consistency = REPL_CONSISTENCY_CRASH,
                                     .cut = REPL_CUT_WINDOW,
                                     .attempts = 1,
                                     .changed_bytes = bytes};
    s->body.size = 0;
    must(repl_segment_builder_new(&header, VOLUME_SIZE, body_put, &s->body, &builder, &err), &err,
         "a segment");
    if (s->seq == 1) {
        const struct repl_extent zeros = {.length = VOLUME_SIZE, .type = REPL_RECORD_ZERO};
        must(repl_segment_builder_extent(builder, &zeros, &err), &err, "an extent");
    }
    for (uint64_t at = 0; at < bytes; at += MIB) {
        uint64_t size = bytes - at < MIB ? bytes - at : MIB;
        uint64_t place = bytes >= MIB ? at : (uint64_t)random() % (VOLUME_SIZE / MIB) * MIB;
        data_add(builder, place, (size_t)size);
    }
    must(repl_segment_builder_finish(builder, &point, 1, &s->footer, &err), &err, "a segment");
    repl_segment_builder_free(builder);
}

/* --- a source -------------------------------------------------------------------------------- */

static void answered(struct repl_request *request, repl_result result,
                     const struct repl_error *err);

static void request_send(struct source *s, const char *method, const char *rest)
{
    struct repl_error err;
    s->request = (struct repl_request){.method = method,
                                       .offset = -1,
                                       .body = s->body.data,
                                       .body_size = s->body.size,
                                       .done = answered,
                                       .context = s};
    snprintf(s->request.path, sizeof s->request.path, "/v1/volumes/v%u/%s", (unsigned)(s - sources),
             rest);
    must(repl_request_start(s->client, &s->request, &err), &err, "a request");
    s->out = true;
}

static void hello_send(struct source *s)
{
    struct repl_error err;
    const struct repl_hello hello = {.version_min = REPL_PROTOCOL_MIN,
                                     .version_max = REPL_PROTOCOL_MAX,
                                     .volume = s->uuid,
                                     .kind = REPL_VOLUME_BLOCK,
                                     .lineage = 1,
                                     .volume_size = VOLUME_SIZE,
                                     .rpo_ms = 4000,
                                     .sent_ns = repl_now_wall_ns()};
    s->body.size = 0;
    must(repl_hello_encode(&hello, &s->body, &err), &err, "a hello");
    request_send(s, "POST", "hello");
}

static void segment_send(struct source *s)
{
    char rest[64];
    segment_build(s, s->seq == 1 ? REPL_PAGE_SIZE : s->greedy ? large_bytes : small_bytes);
    snprintf(rest, sizeof rest, "segments/%" PRIu64 ".0", s->seq);
    request_send(s, "PUT", rest);
}

static void point_due(struct repl_timer *timer)
{
    struct source *s = timer->context;
    if (repl_now_mono_ns() < until_ns)
        segment_send(s);
}

static void point_next(struct source *s)
{
    int64_t now_ns = repl_now_mono_ns();
    s->due_ns = s->greedy || interval_ns == 0 ? now_ns : s->due_ns + interval_ns;
    s->seq++;
    repl_timer_arm(loop, &s->timer, s->due_ns);
}

static void acknowledged(struct source *s)
{
    int64_t now_ns = repl_now_mono_ns();
    s->prev = s->footer.digest;
    if (s->step == STEP_SEED) {
        s->step = STEP_POINTS;
        seeded++;
        return;
    }
    sent_bytes += s->body.size;
    if (s->greedy)
        greedy_points++;
    else if (latency_count < LATENCIES_MAX)
        latencies[latency_count++] = now_ns - s->due_ns;
    if (fill_until == 0 || s->seq < fill_until)
        point_next(s);
}

static void answered(struct repl_request *request, repl_result result, const struct repl_error *err)
{
    struct source *s = request->context;
    s->out = false;
    must(result, err, "a request");
    if (request->status == 200 && s->step == STEP_HELLO) {
        struct repl_welcome welcome;
        struct repl_error error;
        must(repl_welcome_decode((const uint8_t *)request->response, request->response_size,
                                 &welcome, &error),
             &error, "a welcome");
        s->step = STEP_SEED;
        s->seq = welcome.head.to_seq + 1;
        s->prev = welcome.head.digest;
        if (s->seq == 1) {
            segment_send(s);
        } else {
            s->seq--;
            s->step = STEP_POINTS;
            seeded++;
        }
    } else if (request->status == 201) {
        acknowledged(s);
    } else {
        refused_count++;
        fprintf(stderr, "sources: %s was answered with %d\n", request->path, request->status);
        exit(2);
    }
}

/* --- all of them ----------------------------------------------------------------------------- */

static void turn(void)
{
    struct repl_error err;
    must(repl_loop_once(loop, 100, &err), &err, "the loop");
}

static void begin(const char *address, const char *fingerprint, const char *directory)
{
    struct repl_error err;
    struct repl_digest site;
    noise = malloc(2 * MIB);
    latencies = malloc(LATENCIES_MAX * sizeof *latencies);
    if (noise == NULL || latencies == NULL || getrandom(noise, 256, 0) != 256)
        exit(2);
    for (size_t i = 256; i < 2 * MIB; i++) /* what does not compress */
        noise[i] = (uint8_t)random();
    must(repl_loop_new(&(struct repl_loop_options){.workers = 1}, &loop, &err), &err, "the loop");
    must(repl_frame_coder_new(&coder, &err), &err, "a coder");
    must(repl_fingerprint_parse(fingerprint, &site, &err), &err, "the fingerprint");
    for (unsigned i = 0; i < source_count; i++) {
        struct source *s = &sources[i];
        char key[512];
        snprintf(key, sizeof key, "%s/%u.key", directory, i);
        const struct repl_client_options options = {
            .address = address, .key_path = key, .fingerprint = site, .stall_timeout_ms = 120000};
        must(repl_client_new(loop, &options, &s->client, &err), &err, "a client");
        s->timer = (struct repl_timer){.fire = point_due, .context = s};
        memset(s->uuid.bytes, 1, sizeof s->uuid.bytes);
        memcpy(s->uuid.bytes, &i, sizeof i);
        hello_send(s);
        while (s->out && i % 8 == 7)
            turn();
    }
    while (seeded < source_count)
        turn();
}

static int latency_order(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static double latency_ms(double share)
{
    uint64_t at = (uint64_t)((double)(latency_count - 1) * share);
    return latency_count > 0 ? (double)latencies[at] / 1e6 : 0;
}

static void results_print(int64_t took_ns)
{
    double seconds = (double)took_ns / 1e9;
    qsort(latencies, latency_count, sizeof *latencies, latency_order);
    printf("%" PRIu64 " points in %.1f s, %.0f a second; acknowledged after p50 %.1f ms, p99 %.1f "
           "ms, at most %.1f ms; %.1f MB/s",
           latency_count, seconds, (double)latency_count / seconds, latency_ms(0.5),
           latency_ms(0.99), latency_ms(1), (double)sent_bytes / seconds / 1e6);
    if (large_bytes > 0)
        printf("; %" PRIu64 " of the greedy", greedy_points);
    printf("\n");
}

static void send_run(unsigned seconds, unsigned greedy)
{
    begun_ns = repl_now_mono_ns();
    until_ns = begun_ns + seconds * INT64_C(1000000000);
    printf("ready\n");
    fflush(stdout);
    for (unsigned i = 0; i < source_count; i++) {
        struct source *s = &sources[i];
        s->greedy = i < greedy;
        s->due_ns = begun_ns - interval_ns + interval_ns * (i + 1) / source_count;
        point_next(s);
    }
    while (repl_now_mono_ns() < until_ns)
        turn();
    for (unsigned i = 0; i < source_count; i++) {
        while (sources[i].out)
            turn();
    }
    results_print(repl_now_mono_ns() - begun_ns);
}

static void fill_run(uint64_t from, uint64_t until)
{
    if (sources[0].seq != from && from > 0) {
        fprintf(stderr, "sources: the site is at point %" PRIu64 "\n", sources[0].seq);
        exit(2);
    }
    fill_until = until;
    until_ns = INT64_MAX;
    begun_ns = repl_now_mono_ns();
    point_next(&sources[0]);
    while (sources[0].seq < until || sources[0].out)
        turn();
    results_print(repl_now_mono_ns() - begun_ns);
}

static void keys_make(const char *directory, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        char path[512], name[32], hex[REPL_FINGERPRINT_TEXT_SIZE];
        struct repl_digest fingerprint;
        struct repl_error err;
        snprintf(path, sizeof path, "%s/%u.key", directory, i);
        snprintf(name, sizeof name, "v%u", i);
        must(repl_key_generate(path, name, &fingerprint, &err), &err, "a key");
        repl_fingerprint_format(&fingerprint, hex);
        printf("[peer %s]\nfingerprint = %s\nvolumes = %s\n", name, hex, name);
    }
}

static unsigned number(const char *text, unsigned max)
{
    unsigned long value = strtoul(text, NULL, 10);
    if (value > max) {
        fprintf(stderr, "sources: %s is more than %u\n", text, max);
        exit(2);
    }
    return (unsigned)value;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "keys") == 0) {
        keys_make(argv[2], number(argv[3], SOURCES_MAX));
    } else if ((argc == 9 || argc == 11) && strcmp(argv[1], "send") == 0) {
        source_count = number(argv[5], SOURCES_MAX);
        interval_ns = number(argv[7], 1000000) * NS_PER_MS;
        small_bytes = (uint64_t)number(argv[8], 1024) << 10;
        large_bytes = argc == 11 ? number(argv[10], 32) * MIB : 0;
        begin(argv[2], argv[3], argv[4]);
        send_run(number(argv[6], 3600), argc == 11 ? number(argv[9], source_count) : 0);
    } else if (argc == 7 && strcmp(argv[1], "fill") == 0) {
        source_count = 1;
        small_bytes = REPL_PAGE_SIZE;
        begin(argv[2], argv[3], argv[4]);
        fill_run(number(argv[5], 10000000), number(argv[6], 10000000));
    } else {
        fprintf(stderr, "see the beginning of bench/sources.c\n");
        return 2;
    }
    return 0;
}
