/*
 * Write order without a filesystem, for thousands of points: the agent's own
 * volume (rounds, tracker, pipeline, spool) runs in this process with an interval
 * of milliseconds, on a loop device to which several threads write, flush and
 * write durably. Every one of these is logged with its times; each sector says
 * who wrote it as which operation. The link is played: segments are read from
 * the spool, applied to an image in memory and acknowledged, and at each point
 * the image is held against the log:
 *
 *   order   whatever was written before a flush that ended before anything in the
 *           image began is in the image; so is every durable write that ended
 *           before; with a write-through cache, every write that did
 *   lost    whatever ended before the point's begin is in it
 *   future  nothing is that began after its end
 *   torn    each sector is one that was written, as a whole
 *
 *   barrier_log [--points N] [--interval MS] [--threads N] [--mib N] [--pause US]
 *               [--through] [--sync] [--seed N] [--breach NAME] [--directory DIR] [--backing DIR]
 *   barrier_log --all       both kinds of cache, then each breach, which must be found
 *
 * Between bursts of operations a thread pauses, for --pause on average, and four times that where
 * each write is an ordering event.
 *
 * Breaches, of the program under test:
 *   window  the counters of the round's begin stand in for those of its end, so
 *           every round looks whole
 *   marks   the marks are taken before the clock and the counters are read
 *   cache   a write-through cache is taken for a write-back one
 *
 * Points with no flush since the one before are judged and not counted among N.
 *
 * Exit status: 0 all points are right, 1 not, 77 this machine cannot run it.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/ensure.h"
#include "segment/segment_reader.h"
#include "source/source_volume_internal.h"
#include "unit/loop_device.h"
#include "unit/random.h"

#define SKIPPED      77
#define SECTOR       512u
#define SECTOR_WORDS (SECTOR / 8)
#define WRITE_MAX    32u /* sectors */
#define THREADS_MAX  16u
#define OPS_MAX      (UINT64_C(8) << 20) /* of a thread; memory is taken as they are used */
/* A region belongs to one thread, so the versions of a sector have one order. Odd: the pages that
 * two regions share are written by two threads. */
#define REGION      77u
#define HOT_REGIONS 4u
#define BURST_MAX   16u /* operations */
#define VOLUME_NAME "barriers"
#define MS          INT64_C(1000000)
/* Points, to call a breach found. */
#define WRONG_ENOUGH 3
/* No point for so long: the test is over, and failed. */
#define PATIENCE_NS (20 * REPL_SECOND_NS)

enum breach { BREACH_NONE, BREACH_WINDOW, BREACH_MARKS, BREACH_CACHE };

struct options {
    uint64_t points, interval_ms, threads, mib, seed, pause_us;
    bool through, sync, all;
    enum breach breach;
    const char *directory, *backing;
};

enum op_kind { OP_WRITE, OP_DURABLE, OP_FLUSH };

struct op {
    int64_t began_ns;
    _Atomic int64_t ended_ns; /* 0: under way */
    uint32_t sector, count;
    enum op_kind kind;
};

/* How far a thread's log has been followed. */
enum cursor { CURSOR_LOST, CURSOR_ORDER, CURSOR_DURABLE, CURSOR_FLUSHES, CURSOR_COUNT };

struct writer {
    struct world *world;
    unsigned number;
    pthread_t thread;
    struct op *ops;
    _Atomic uint64_t op_count; /* begun */
    uint64_t followed[CURSOR_COUNT];
    int64_t flush_began_ns; /* of the last flush CURSOR_FLUSHES has passed */
    struct random random;
    uint8_t *buffer;
};

/* What a sector must at least hold, or does hold: op + 1 of its thread; 0: never written. */
struct image {
    uint8_t *bytes;
    uint32_t *held, *lost, *ordered;
    int64_t newest_began_ns; /* of all that is held */
};

struct outcome {
    uint64_t points, attempts, attempts_max, segments, judged;
    uint64_t writes, durable, flushes;
    uint64_t without_flush; /* points */
    uint64_t rounds_torn, repairs;
    uint64_t wrong_points, order, lost, future, torn; /* sectors */
    uint64_t window_sum_ns, window_max_ns, changed_bytes;
    uint64_t differs; /* pages, at the end, at rest */
    int64_t took_ns;
};

struct world {
    struct options options;
    struct loop_device device; /* its descriptor is the writers' */
    uint64_t sectors;
    struct writer writers[THREADS_MAX];
    _Atomic bool ended;

    struct repl_loop *loop;
    struct repl_pool *openers;
    struct repl_config config;
    struct repl_config_volume volume_config;
    struct repl_source_volume *volume;
    struct repl_frame_coder *coder;
    struct repl_timer link_timer, patience_timer;
    bool hello_due, stopping;
    uint64_t patience_points;

    struct repl_head head; /* of the site */
    struct repl_point last;
    struct image image;
    struct outcome outcome;
    bool quiet_wanted; /* the writers have ended: the next point, or none, is the last */
    int64_t quiet_ns;
};

static struct world the_world;

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "barrier_log: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void must(repl_result result, const struct repl_error *err)
{
    if (repl_ok(result))
        return;
    fprintf(stderr, "barrier_log: %s\n", err->text);
    exit(1);
}

static void *zeroed(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        give_up("mmap");
    return memory;
}

/* --- the device: everything of it goes with the process -------------------------------------- */

static int backing_make(const struct options *options)
{
    static uint8_t zeros[1 << 20];
    int fd = loop_device_backing(options->backing, options->mib << 20);
    if (fd < 0)
        give_up(options->backing);
    for (uint64_t i = 0; i < options->mib; i++) /* allocated, so that a flush is only that */
        if (write(fd, zeros, sizeof zeros) != sizeof zeros)
            give_up(options->backing);
    return fd;
}

static void device_make(struct world *world)
{
    const char *cache = world->options.through ? "write through" : "write back";
    if (!loop_device_possible()) {
        perror("skipped: no loop device");
        exit(SKIPPED);
    }
    int backing = backing_make(&world->options);
    if (!loop_device_bind(&world->device, backing, LO_FLAGS_DIRECT_IO) ||
        !loop_device_cache(&world->device, cache))
        give_up("a loop device");
    close(backing);
    world->sectors = (world->options.mib << 20) / SECTOR;
}

/* --- the writers ----------------------------------------------------------------------------- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* All of a sector follows from who wrote it, where, and as which operation. */
static void sector_fill(uint64_t words[SECTOR_WORDS], unsigned thread, uint64_t op, uint64_t sector)
{
    uint64_t seed = mix(sector << 24 ^ op << 4 ^ thread);
    words[0] = op + 1;
    words[1] = thread;
    for (unsigned i = 2; i < SECTOR_WORDS; i++)
        words[i] = seed * (2 * i + 1);
}

static unsigned owner_of(const struct world *world, uint64_t sector)
{
    return (unsigned)(sector / REGION % world->options.threads);
}

static void place_choose(struct writer *writer, struct op *op)
{
    const struct world *world = writer->world;
    uint64_t threads = world->options.threads;
    uint64_t regions = world->sectors / REGION / threads;
    uint64_t among = random_below(&writer->random, 16) ? HOT_REGIONS : regions;
    uint64_t region = random_below(&writer->random, among) * threads + writer->number;
    uint64_t at = random_below(&writer->random, REGION), left = REGION - at;
    op->count = (uint32_t)(1 + random_below(&writer->random, left < WRITE_MAX ? left : WRITE_MAX));
    op->sector = (uint32_t)(region * REGION + at);
}

static void sectors_write(struct writer *writer, const struct op *op, uint64_t number)
{
    uint64_t *words = (uint64_t *)(void *)writer->buffer;
    for (uint32_t i = 0; i < op->count; i++)
        sector_fill(words + i * SECTOR_WORDS, writer->number, number, op->sector + i);
    struct iovec vec = {.iov_base = words, .iov_len = op->count * SECTOR};
    ssize_t put = pwritev2(writer->world->device.fd, &vec, 1, (off_t)op->sector * SECTOR,
                           op->kind == OP_DURABLE ? RWF_DSYNC : 0);
    if (put != (ssize_t)vec.iov_len)
        give_up("writing to the device");
}

static void op_do(struct writer *writer)
{
    uint64_t number = atomic_load(&writer->op_count), dice = random_below(&writer->random, 16);
    if (number >= OPS_MAX)
        give_up("too many operations");
    struct op *op = &writer->ops[number];
    op->kind = dice == 0 ? OP_DURABLE : dice <= 2 ? OP_FLUSH : OP_WRITE;
    if (op->kind != OP_FLUSH)
        place_choose(writer, op);
    op->began_ns = repl_now_wall_ns();
    atomic_store(&writer->op_count, number + 1);
    if (op->kind != OP_FLUSH)
        sectors_write(writer, op, number);
    else if (fdatasync(writer->world->device.fd) != 0)
        give_up("fdatasync");
    atomic_store(&op->ended_ns, repl_now_wall_ns());
}

/* In bursts: where each write is an ordering event, a window is a moment without one. */
static void *writer_run(void *argument)
{
    struct writer *writer = argument;
    const struct options *options = &writer->world->options;
    uint64_t pause_us = options->through ? 4 * options->pause_us : options->pause_us;
    while (!writer->world->ended) {
        for (uint64_t left = random_below(&writer->random, BURST_MAX) + 1; left > 0; left--)
            op_do(writer);
        if (pause_us > 0)
            usleep((useconds_t)random_below(&writer->random, 2 * pause_us));
    }
    return NULL;
}

static void writers_begin(struct world *world)
{
    for (unsigned i = 0; i < world->options.threads; i++) {
        struct writer *writer = &world->writers[i];
        writer->random.state = world->options.seed * 1000 + i;
        if (pthread_create(&writer->thread, NULL, writer_run, writer) != 0)
            give_up("pthread_create");
    }
}

static void writers_end(struct world *world)
{
    world->ended = true;
    for (unsigned i = 0; i < world->options.threads; i++)
        pthread_join(world->writers[i].thread, NULL);
}

/* --- the judgement --------------------------------------------------------------------------- */

static void sector_judge(struct world *world, uint64_t sector)
{
    struct image *image = &world->image;
    uint64_t words[SECTOR_WORDS], expected[SECTOR_WORDS] = {0};
    unsigned thread = owner_of(world, sector);
    struct writer *writer = &world->writers[thread];
    memcpy(words, image->bytes + sector * SECTOR, SECTOR);
    uint64_t held = words[0];
    image->held[sector] = (uint32_t)held;
    if (held == 0) {
        world->outcome.torn += memcmp(words, expected, SECTOR) != 0;
        return;
    }
    sector_fill(expected, thread, held - 1, sector);
    if (held > atomic_load(&writer->op_count) || memcmp(words, expected, SECTOR) != 0) {
        world->outcome.torn++;
        image->held[sector] = UINT32_MAX; /* unknown: not judged further */
        return;
    }
    const struct op *op = &writer->ops[held - 1];
    ensure(op->kind != OP_FLUSH && sector >= op->sector && sector < op->sector + op->count);
    if (op->began_ns > image->newest_began_ns)
        image->newest_began_ns = op->began_ns;
}

/* The next operation of the writer that ended before at_ns and the cursor has not passed. */
static const struct op *cursor_next(struct writer *writer, enum cursor cursor, int64_t at_ns)
{
    uint64_t number = writer->followed[cursor];
    if (number >= atomic_load(&writer->op_count))
        return NULL;
    const struct op *op = &writer->ops[number];
    int64_t ended_ns = atomic_load(&op->ended_ns);
    if (ended_ns == 0 || ended_ns >= at_ns)
        return NULL;
    writer->followed[cursor]++;
    return op;
}

/* All writes that ended before at_ns have to be in the image. */
static void require(struct writer *writer, enum cursor cursor, int64_t at_ns, bool all,
                    uint32_t *required)
{
    const struct op *op;
    while ((op = cursor_next(writer, cursor, at_ns)) != NULL) {
        uint32_t number = (uint32_t)(op - writer->ops) + 1;
        if (op->kind == OP_FLUSH || !(all || op->kind == OP_DURABLE))
            continue;
        for (uint32_t i = 0; i < op->count; i++)
            if (required[op->sector + i] < number)
                required[op->sector + i] = number;
    }
}

/* When the last flush began that ended before anything in the image did begin. */
static int64_t flush_that_counts(struct world *world)
{
    int64_t began_ns = 0;
    for (unsigned i = 0; i < world->options.threads; i++) {
        struct writer *writer = &world->writers[i];
        const struct op *op;
        while ((op = cursor_next(writer, CURSOR_FLUSHES, world->image.newest_began_ns)) != NULL)
            if (op->kind == OP_FLUSH)
                writer->flush_began_ns = op->began_ns;
        if (writer->flush_began_ns > began_ns)
            began_ns = writer->flush_began_ns;
    }
    return began_ns;
}

static void requirements_follow(struct world *world, const struct repl_point *point)
{
    struct image *image = &world->image;
    int64_t flush_ns = flush_that_counts(world);
    for (unsigned i = 0; i < world->options.threads; i++) {
        struct writer *writer = &world->writers[i];
        require(writer, CURSOR_LOST, point->begin_ns, true, image->lost);
        require(writer, CURSOR_ORDER, flush_ns, true, image->ordered);
        require(writer, CURSOR_DURABLE, image->newest_began_ns, world->options.through,
                image->ordered);
    }
}

static uint64_t flushes_between(const struct world *world, int64_t from_ns, int64_t to_ns)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < world->options.threads; i++) {
        const struct writer *writer = &world->writers[i];
        for (uint64_t n = atomic_load(&writer->op_count); n > 0; n--) {
            const struct op *op = &writer->ops[n - 1];
            int64_t ended_ns = atomic_load(&op->ended_ns);
            if (ended_ns != 0 && ended_ns <= from_ns)
                break;
            count += op->kind == OP_FLUSH && ended_ns != 0 && ended_ns <= to_ns;
        }
    }
    return count;
}

static void point_count(struct world *world, const struct repl_point *point)
{
    struct outcome *outcome = &world->outcome;
    uint64_t window_ns = (uint64_t)(point->end_ns - point->begin_ns);
    uint64_t flushes = flushes_between(world, world->last.begin_ns, point->begin_ns);
    outcome->points++;
    outcome->attempts += point->attempts;
    if (point->attempts > outcome->attempts_max)
        outcome->attempts_max = point->attempts;
    outcome->window_sum_ns += window_ns;
    if (window_ns > outcome->window_max_ns)
        outcome->window_max_ns = window_ns;
    outcome->changed_bytes += point->changed_bytes;
    outcome->without_flush += flushes == 0;
}

static void point_judge(struct world *world, const struct repl_point *point)
{
    struct outcome *outcome = &world->outcome;
    struct image *image = &world->image;
    uint64_t before = outcome->order + outcome->lost + outcome->future + outcome->torn;
    ensure(point->cut == REPL_CUT_WINDOW && point->begin_ns <= point->end_ns);
    requirements_follow(world, point);
    outcome->future += image->newest_began_ns > point->end_ns;
    for (uint64_t sector = 0; sector < world->sectors; sector++) {
        uint32_t held = image->held[sector];
        outcome->lost += held < image->lost[sector];
        outcome->order += held < image->ordered[sector];
    }
    outcome->judged += world->sectors;
    uint64_t after = outcome->order + outcome->lost + outcome->future + outcome->torn;
    if (after != before && outcome->wrong_points++ < 3 && world->options.breach == BREACH_NONE)
        printf("  WRONG: point %" PRIu64 ", window of %" PRId64 " us, %u attempts: %" PRIu64
               " sectors\n",
               point->seq, (point->end_ns - point->begin_ns) / 1000, point->attempts,
               after - before);
}

/* --- a segment into the image ---------------------------------------------------------------- */

static repl_result spool_read_at(void *context, uint64_t offset, void *out, size_t size,
                                 struct repl_error *err)
{
    const int *fd = context;
    return pread(*fd, out, size, (off_t)offset) == (ssize_t)size
               ? REPL_SUCCESS
               : repl_fail(err, REPL_E_IO, "spool: a short read");
}

static void record_apply(struct world *world, const struct repl_segment *segment,
                         const struct repl_record *record, uint8_t *raw, uint32_t *frame,
                         struct repl_buffer *stored)
{
    struct repl_error err;
    uint8_t *to = world->image.bytes + record->offset;
    size_t size;
    ensure(record->type != REPL_RECORD_CHUNK);
    if (record->type == REPL_RECORD_OBJECT)
        return;
    ensure(record->offset + record->length <= world->sectors * SECTOR);
    if (record->type == REPL_RECORD_ZERO) {
        memset(to, 0, record->length);
    } else {
        if (*frame != record->frame)
            must(repl_segment_read_frame(segment, record->frame, world->coder, stored, raw, &size,
                                         &err),
                 &err);
        *frame = record->frame;
        memcpy(to, raw + record->frame_offset, record->length);
    }
    for (uint64_t at = 0; at < record->length; at += SECTOR)
        sector_judge(world, (record->offset + at) / SECTOR);
}

static void segment_apply(struct world *world, const struct repl_ship_segment *s)
{
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    struct repl_error err;
    struct repl_segment *segment;
    struct repl_record_walk walk;
    struct repl_record record;
    struct repl_buffer stored = {0};
    uint32_t frame = UINT32_MAX;
    bool done = false;
    int fd;
    must(repl_spool_open(&world->volume->spool, s->number, &fd, &err), &err);
    must(repl_segment_open(spool_read_at, &fd, s->size, &segment, &err), &err);
    repl_record_walk_begin(&walk, segment, world->coder);
    for (;;) {
        must(repl_record_walk_next(&walk, &record, &done, &err), &err);
        if (done)
            break;
        record_apply(world, segment, &record, raw, &frame, &stored);
    }
    repl_record_walk_end(&walk);
    world->outcome.segments++;
    const struct repl_point *point = repl_segment_last_point(segment);
    if (point != NULL) {
        if (world->last.seq != 0) { /* the first is the seed */
            point_count(world, point);
            point_judge(world, point);
        }
        world->last = *point;
    }
    repl_segment_free(segment);
    repl_buffer_fini(&stored);
    close(fd);
}

/* --- the link, in place of agent/source/source_link.c ---------------------------------------- */

static void link_soon(struct repl_source_volume *v)
{
    (void)v;
    repl_timer_arm(the_world.loop, &the_world.link_timer, repl_now_mono_ns());
}

void volume_hello_send(struct repl_source_volume *v)
{
    the_world.hello_due = true;
    link_soon(v);
}

void volume_segment_send(struct repl_source_volume *v, uint64_t number, uint64_t offset, bool ahead)
{
    ensure(offset == 0 && !ahead);
    v->sends[0].number = number;
    v->sends[0].out = true;
    link_soon(v);
}

void volume_segment_drop(struct repl_source_volume *v, uint64_t number)
{
    if (v->sends[0].number == number)
        volume_link_cancel(v);
    repl_spool_drop(&v->spool, number);
}

/* Each sector is another one, so nothing is ever sent by name. */
void volume_segment_check(struct repl_source_volume *v, uint64_t number)
{
    (void)v;
    (void)number;
    ensure(!"the link never says that a segment is damaged");
}

void volume_supply(struct repl_source_volume *v, uint64_t number)
{
    (void)v;
    (void)number;
    ensure(!"the link never says that chunks are missing");
}

void volume_supply_made(void *context, int fd, uint64_t size,
                        const struct repl_segment_header *header, repl_result result,
                        const struct repl_error *err)
{
    (void)context;
    (void)fd;
    (void)size;
    (void)header;
    (void)result;
    (void)err;
    ensure(!"no supply was asked for");
}

void volume_dedup_moved(void *context, uint64_t number, repl_result result,
                        const struct repl_error *err)
{
    (void)number;
    struct repl_source_volume *v = context;
    if (!volume_is_up(v))
        volume_close_if_drained(v);
    else if (!repl_ok(result))
        volume_fail(v, err);
    else
        volume_pump(v);
}

void volume_send_resume(struct repl_source_volume *v, uint64_t number)
{
    (void)number;
    if (v->sends[0].out)
        link_soon(v);
}

/* Nothing is sent ahead of its turn: this link never says that a segment has left. */
void volume_sends_settle(struct repl_source_volume *v)
{
    (void)v;
}

void volume_recover(struct repl_source_volume *v, const struct repl_head *from,
                    const struct repl_head *head)
{
    (void)v;
    (void)from;
    (void)head;
    ensure(!"the site has nothing the agent does not know of");
}

void volume_link_cancel(struct repl_source_volume *v)
{
    v->sends[0].out = false;
    v->sends[0].number = 0;
}

void volume_report(struct repl_timer *timer)
{
    (void)timer;
}

static void hello_answer(struct world *world, struct repl_source_volume *v)
{
    struct repl_welcome welcome = {.version = REPL_PROTOCOL_MAX,
                                   .known = world->head.to_seq != 0,
                                   .lineage = v->pipeline.state.lineage,
                                   .head = world->head,
                                   .point_seq = world->last.seq};
    world->hello_due = false;
    repl_pipeline_welcome(&v->pipeline, &welcome, repl_now_wall_ns());
}

/* The segment on its way, once all of it may be sent and lies in the spool. */
static void segment_take(struct world *world, struct repl_source_volume *v)
{
    const struct repl_ship_segment *s = repl_ship_find(&v->pipeline.ship, v->sends[0].number);
    const struct repl_spool_file *file = repl_spool_find(&v->spool, v->sends[0].number);
    ensure(s != NULL);
    if (file == NULL || !s->complete || v->pipeline.released < v->sends[0].number ||
        repl_spool_readable(file) < s->size)
        return;
    segment_apply(world, s);
    world->head = (struct repl_head){.from_seq = s->from_seq,
                                     .to_seq = s->to_seq,
                                     .part = s->part,
                                     .has_point = s->has_point,
                                     .digest = s->digest};
    struct repl_ack ack = {.head = world->head};
    uint64_t number = v->sends[0].number;
    volume_link_cancel(v);
    repl_pipeline_ack(&v->pipeline, number, &ack, repl_now_wall_ns());
}

static void stop_all(struct world *world)
{
    if (world->stopping)
        return;
    world->stopping = true;
    repl_source_volume_stop(world->volume);
}

static bool is_enough(const struct world *world)
{
    const struct outcome *outcome = &world->outcome;
    bool found = world->options.breach != BREACH_NONE && outcome->wrong_points >= WRONG_ENOUGH;
    return found || outcome->points - outcome->without_flush >= world->options.points;
}

/* Enough points: the writers end; once the agent knows the device at rest, so does everything. */
static void end_if_enough(struct world *world, const struct repl_source_volume *v)
{
    if (world->quiet_wanted) {
        if (v->pipeline.unchanged_until_ns > world->quiet_ns &&
            v->pipeline.point.seq == world->last.seq)
            stop_all(world);
    } else if (is_enough(world)) {
        writers_end(world);
        world->quiet_wanted = true;
        world->quiet_ns = repl_now_wall_ns();
    }
}

static void link_fired(struct repl_timer *timer)
{
    struct world *world = timer->context;
    struct repl_source_volume *v = world->volume;
    if (!volume_is_up(v))
        return;
    if (world->hello_due)
        hello_answer(world, v);
    else if (v->sends[0].out)
        segment_take(world, v);
    volume_pump(v);
}

static void patience_fired(struct repl_timer *timer)
{
    struct world *world = timer->context;
    struct repl_source_volume *v = world->volume;
    int64_t now_ns = repl_now_mono_ns();
    static int64_t progress_ns;
    if (world->outcome.points != world->patience_points || progress_ns == 0)
        progress_ns = now_ns;
    world->patience_points = world->outcome.points;
    if (now_ns - progress_ns > PATIENCE_NS && !world->stopping) {
        fprintf(stderr, "barrier_log: no point for %d s (%s; %s; %" PRIu64 " rounds torn)\n",
                (int)(PATIENCE_NS / REPL_SECOND_NS), v->why.text, v->untracked,
                v->pipeline.torn_rounds);
        exit(1);
    }
    if (volume_is_up(v) && !world->stopping)
        end_if_enough(world, v);
    repl_timer_arm(world->loop, &world->patience_timer, now_ns + 5 * MS);
}

/* --- breaches, by the linker's --wrap -------------------------------------------------------- */

void __real_repl_pipeline_opened(struct repl_pipeline *p, int64_t now_ns,
                                 const struct repl_write_counters *counters, bool grouped);
void __wrap_repl_pipeline_opened(struct repl_pipeline *p, int64_t now_ns,
                                 const struct repl_write_counters *counters, bool grouped);
void __real_repl_pipeline_closed(struct repl_pipeline *p, int64_t now_ns,
                                 const struct repl_write_counters *counters,
                                 const struct repl_epoch_group *group);
void __wrap_repl_pipeline_closed(struct repl_pipeline *p, int64_t now_ns,
                                 const struct repl_write_counters *counters,
                                 const struct repl_epoch_group *group);
repl_result __real_repl_device_write_back(const struct repl_device *device, bool *write_back,
                                          struct repl_error *err);
repl_result __wrap_repl_device_write_back(const struct repl_device *device, bool *write_back,
                                          struct repl_error *err);

void __wrap_repl_pipeline_opened(struct repl_pipeline *p, int64_t now_ns,
                                 const struct repl_write_counters *counters, bool grouped)
{
    struct repl_write_counters late = *counters;
    struct repl_error err;
    if (the_world.options.breach == BREACH_MARKS) {
        for (int64_t until_ns = now_ns + MS / 20; now_ns < until_ns; now_ns = repl_now_wall_ns())
            ;
        must(volume_counters_begin(the_world.volume, &late, &err), &err);
    }
    __real_repl_pipeline_opened(p, now_ns, &late, grouped);
}

void __wrap_repl_pipeline_closed(struct repl_pipeline *p, int64_t now_ns,
                                 const struct repl_write_counters *counters,
                                 const struct repl_epoch_group *group)
{
    struct repl_write_counters early = p->epoch.round_begin;
    __real_repl_pipeline_closed(
        p, now_ns, the_world.options.breach == BREACH_WINDOW ? &early : counters, group);
}

repl_result __wrap_repl_device_write_back(const struct repl_device *device, bool *write_back,
                                          struct repl_error *err)
{
    repl_result result = __real_repl_device_write_back(device, write_back, err);
    *write_back = *write_back || the_world.options.breach == BREACH_CACHE;
    return result;
}

/* --- a run ----------------------------------------------------------------------------------- */

static void stopped(void *context)
{
    struct world *world = context;
    repl_loop_stop(world->loop);
}

static void world_open(struct world *world, const struct options *options, char *state_path)
{
    struct repl_error err;
    const struct repl_loop_options loop = {.workers = 2};
    world->options = *options;
    device_make(world);
    world->image = (struct image){.bytes = zeroed(world->sectors * SECTOR),
                                  .held = zeroed(world->sectors * sizeof(uint32_t)),
                                  .lost = zeroed(world->sectors * sizeof(uint32_t)),
                                  .ordered = zeroed(world->sectors * sizeof(uint32_t))};
    for (unsigned i = 0; i < options->threads; i++) {
        world->writers[i] = (struct writer){.world = world,
                                            .number = i,
                                            .ops = zeroed(OPS_MAX * sizeof(struct op)),
                                            .buffer = aligned_alloc(4096, WRITE_MAX * SECTOR)};
        if (world->writers[i].buffer == NULL)
            give_up("memory");
    }
    must(repl_frame_coder_new(&world->coder, &err), &err);
    must(repl_loop_new(&loop, &world->loop, &err), &err);
    must(repl_pool_new(world->loop, 1, 0, "open", &world->openers, &err), &err);
    world->config =
        (struct repl_config){.state = state_path, .spool_limit_bytes = UINT64_C(1) << 30};
    world->volume_config = (struct repl_config_volume){.name = (char *)(uintptr_t)VOLUME_NAME,
                                                       .device = world->device.path,
                                                       .rpo_ms = 2 * (int64_t)options->interval_ms,
                                                       .sync = options->sync,
                                                       .quiesce = REPL_QUIESCE_WINDOW};
    world->link_timer = (struct repl_timer){.fire = link_fired, .context = world};
    world->patience_timer = (struct repl_timer){.fire = patience_fired, .context = world};
    const struct repl_source_volume_options volume = {.loop = world->loop,
                                                      .openers = world->openers,
                                                      .config = &world->config,
                                                      .volume = &world->volume_config,
                                                      .rpo_ms = world->volume_config.rpo_ms,
                                                      .stopped = stopped,
                                                      .context = world};
    must(repl_source_volume_new(&volume, &world->volume, &err), &err);
    repl_timer_arm(world->loop, &world->patience_timer, repl_now_mono_ns());
}

static void world_close(struct world *world)
{
    repl_source_volume_free(world->volume);
    repl_pool_free(world->openers);
    repl_loop_free(world->loop);
    repl_frame_coder_free(world->coder);
    for (unsigned i = 0; i < world->options.threads; i++) {
        munmap(world->writers[i].ops, OPS_MAX * sizeof(struct op));
        free(world->writers[i].buffer);
    }
    loop_device_close(&world->device);
}

/* The last point is the device at rest. */
static void device_compare(struct world *world)
{
    uint8_t *page = aligned_alloc(REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    for (uint64_t at = 0; at < world->sectors * SECTOR; at += REPL_PAGE_SIZE) {
        if (page == NULL ||
            pread(world->device.fd, page, REPL_PAGE_SIZE, (off_t)at) != REPL_PAGE_SIZE)
            give_up("reading the device");
        world->outcome.differs += memcmp(page, world->image.bytes + at, REPL_PAGE_SIZE) != 0;
    }
    free(page);
}

static void ops_count(struct world *world)
{
    struct outcome *outcome = &world->outcome;
    for (unsigned i = 0; i < world->options.threads; i++) {
        const struct writer *writer = &world->writers[i];
        for (uint64_t n = 0; n < writer->op_count; n++) {
            outcome->writes += writer->ops[n].kind == OP_WRITE;
            outcome->durable += writer->ops[n].kind == OP_DURABLE;
            outcome->flushes += writer->ops[n].kind == OP_FLUSH;
        }
    }
    outcome->rounds_torn = world->volume->pipeline.torn_rounds;
    outcome->repairs = world->volume->pipeline.audit.repairs;
}

static void outcome_print(const struct outcome *o, bool through)
{
    double seconds = (double)o->took_ns / 1e9, points = (double)(o->points > 0 ? o->points : 1);
    printf("  %" PRIu64 " points in %.1f s; %" PRIu64 " writes, %" PRIu64 " durable ones, %" PRIu64
           " flushes (%.0f operations, %.0f flushes a second); write-%s\n",
           o->points, seconds, o->writes, o->durable, o->flushes,
           (double)(o->writes + o->durable + o->flushes) / seconds, (double)o->flushes / seconds,
           through ? "through" : "back");
    printf("  windows: %.2f attempts a point, %" PRIu64 " at most; %.3f ms, %.3f ms at most; "
           "%.0f KiB a point; %" PRIu64 " rounds torn; %" PRIu64
           " points with no flush since the one before; %" PRIu64 " repairs\n",
           (double)o->attempts / points, o->attempts_max, (double)o->window_sum_ns / points / 1e6,
           (double)o->window_max_ns / 1e6, (double)o->changed_bytes / points / 1024, o->rounds_torn,
           o->without_flush, o->repairs);
    printf("  %" PRIu64 " sectors judged; points wrong: %" PRIu64 "; sectors out of order %" PRIu64
           ", lost %" PRIu64 ", from the future %" PRIu64 ", torn %" PRIu64
           "; pages that differ at the end %" PRIu64 "\n",
           o->judged, o->wrong_points, o->order, o->lost, o->future, o->torn, o->differs);
    fflush(stdout);
}

static void world_run(struct world *world)
{
    struct repl_error err;
    while (world->last.seq == 0) /* the seed */
        must(repl_loop_once(world->loop, 100, &err), &err);
    int64_t began_ns = repl_now_mono_ns();
    writers_begin(world);
    must(repl_loop_run(world->loop, &err), &err);
    world->outcome.took_ns = repl_now_mono_ns() - began_ns;
    ops_count(world);
    device_compare(world);
    outcome_print(&world->outcome, world->options.through);
}

static void interrupt(int signal_number)
{
    (void)signal_number;
}

static void state_remove(const char *state_path)
{
    struct repl_error err;
    struct repl_source_state state;
    char path[600];
    if (repl_ok(repl_state_dir_look(state_path, VOLUME_NAME, &state, &err)))
        must(repl_tracker_forget(&state.volume, &err), &err);
    repl_ignore(repl_state_dir_remove(state_path, VOLUME_NAME, &err));
    snprintf(path, sizeof path, "%s/volumes", state_path);
    rmdir(path);
    rmdir(state_path);
}

/* In a child, so that whatever happens to it, what is pinned is taken away. */
static int run(const struct options *options, struct outcome *outcome)
{
    char state_path[512];
    int ends[2], status = 0;
    snprintf(state_path, sizeof state_path, "%s/barrier_log.XXXXXX", options->directory);
    if (mkdtemp(state_path) == NULL || pipe2(ends, O_CLOEXEC) != 0)
        give_up(state_path);
    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        give_up("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        world_open(&the_world, options, state_path);
        world_run(&the_world);
        if (write(ends[1], &the_world.outcome, sizeof the_world.outcome) < 0)
            give_up("write");
        world_close(&the_world);
        exit(0);
    }
    close(ends[1]);
    *outcome = (struct outcome){0};
    ssize_t got = read(ends[0], outcome, sizeof *outcome);
    close(ends[0]);
    if (got < 0) /* a signal */
        kill(child, SIGKILL);
    waitpid(child, &status, 0);
    state_remove(state_path);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    return got == sizeof *outcome ? 0 : 1;
}

static bool is_right(const struct outcome *o)
{
    return o->points > o->without_flush && o->wrong_points == 0 && o->differs == 0;
}

/* --- all of it ------------------------------------------------------------------------------- */

static const struct scenario {
    const char *name;
    enum breach breach;
    bool through;
} scenarios[] = {
    {.name = "write-back"},
    {.name = "write-through", .through = true},
    {.name = "breach: every window is taken for a quiet one", .breach = BREACH_WINDOW},
    {.name = "breach: marks are taken before the counters", .breach = BREACH_MARKS},
    {.name = "breach: write-through taken for write-back", .breach = BREACH_CACHE, .through = true},
};

static bool as_expected(const struct scenario *scenario, const struct outcome *outcome)
{
    switch (scenario->breach) {
    case BREACH_NONE:
        return is_right(outcome);
    case BREACH_WINDOW:
    case BREACH_CACHE:
        return outcome->order > 0;
    case BREACH_MARKS:
        return outcome->lost > 0;
    }
    return false;
}

static int run_all(const struct options *options)
{
    int worst = 0;
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        const struct scenario *scenario = &scenarios[i];
        struct options own = *options;
        struct outcome outcome;
        own.breach = scenario->breach;
        own.through = scenario->through;
        own.seed = options->seed + i;
        printf("%s\n", scenario->name);
        int status = run(&own, &outcome);
        if (status != 0)
            return status;
        if (!as_expected(scenario, &outcome)) {
            printf("  NOT AS EXPECTED\n");
            worst = 1;
        }
    }
    return worst;
}

static enum breach breach_parse(const char *text)
{
    static const char *const names[] = {"none", "window", "marks", "cache"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(text, names[i]) == 0)
            return (enum breach)i;
    fprintf(stderr, "barrier_log: no such breach: %s\n", text);
    exit(64);
}

static void options_parse(int argc, char **argv, struct options *out)
{
    static const struct option known[] = {
        {"points", 1, NULL, 'p'},  {"interval", 1, NULL, 'i'}, {"threads", 1, NULL, 't'},
        {"mib", 1, NULL, 'm'},     {"through", 0, NULL, 'T'},  {"sync", 0, NULL, 'y'},
        {"seed", 1, NULL, 's'},    {"breach", 1, NULL, 'b'},   {"directory", 1, NULL, 'D'},
        {"backing", 1, NULL, 'B'}, {"pause", 1, NULL, 'u'},    {"all", 0, NULL, 'a'},
        {NULL, 0, NULL, 0},
    };
    *out = (struct options){.points = 1000,
                            .interval_ms = 10,
                            .threads = 4,
                            .mib = 16,
                            .pause_us = 1000,
                            .seed = 1,
                            .directory = "/dev/shm",
                            .backing = "/dev/shm"};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        uint64_t number = optarg != NULL ? strtoull(optarg, NULL, 0) : 0;
        switch (c) {
        case 'p':
            out->points = number;
            break;
        case 'i':
            out->interval_ms = number;
            break;
        case 't':
            out->threads = number;
            break;
        case 'm':
            out->mib = number;
            break;
        case 'T':
            out->through = true;
            break;
        case 'y':
            out->sync = true;
            break;
        case 'u':
            out->pause_us = number;
            break;
        case 's':
            out->seed = number;
            break;
        case 'b':
            out->breach = breach_parse(optarg);
            break;
        case 'D':
            out->directory = optarg;
            break;
        case 'B':
            out->backing = optarg;
            break;
        case 'a':
            out->all = true;
            break;
        default:
            exit(64);
        }
    }
    if (out->threads == 0 || out->threads > THREADS_MAX || out->interval_ms == 0 || out->mib == 0)
        exit(64);
}

int main(int argc, char **argv)
{
    struct options options;
    struct outcome outcome;
    options_parse(argc, argv, &options);
    if (geteuid() != 0 || access("/sys/kernel/btf/vmlinux", R_OK) != 0)
        return SKIPPED;
    struct sigaction action = {.sa_handler = interrupt}; /* no restart: run() is to notice */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (options.all)
        return run_all(&options);
    int status = run(&options, &outcome);
    return status != 0 ? status : !is_right(&outcome);
}
