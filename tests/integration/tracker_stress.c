/*
 * The tracker against a real device: a loop device is written at random while
 * busy loops take the processors, and a copy is kept by nothing but the tracker
 * and reads. At each pause, once the audit is satisfied, the copy must equal the
 * device page for page.
 *
 *   tracker_stress [--writes N] [--pauses N] [--mib N] [--seed N] [--fault CLASS]
 *                  [--every N] [--delay N] [--no-repair] [--under-load] [--restart]
 *                  [--directory DIR]
 *   tracker_stress --all        the plain run, then every fault with what must come of it
 *
 * Exit status: 0 every passed audit was right and the expected came of it, 1 not,
 * 77 this machine cannot run it.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <liburing.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "source/capture/tracker.h"
#include "source/capture/tracker_internal.h"
#include "unit/loop_device.h"
#include "unit/random.h"

#define PAGE       4096u
#define DEPTH      32u
#define WRITE_MAX  65536u
#define POOL_SIZE  (1u << 20)
#define READ_MAX   (1u << 20)
#define BUSY_LOOPS 2
#define SKIPPED    77
/* A quiet moment has to be found within this while writes go on; at a pause there is nothing else.
 */
#define PATIENCE_NS INT64_C(3000000000)

struct options {
    uint64_t writes, mib, seed, every, delay, fault;
    unsigned pauses;
    bool no_repair, under_load, restart, all;
    const char *directory;
};

struct outcome {
    uint64_t writes, flushes, others, points, audits, busy;
    uint64_t shortfalls, short_bytes, repairs, degraded, resyncs;
    uint64_t wrong_before_repair; /* pages, at pauses: what a copy without repair would have */
    uint64_t wrong_passes;        /* pauses at which a passed audit hid a difference */
    uint64_t dropped;             /* by the faults */
    char cause[REPL_AUDIT_CAUSE_SIZE];
};

struct world {
    struct options options;
    struct loop_device loop; /* its descriptor is the writer's */
    int device;              /* O_DIRECT, read only: the agent's */
    uint64_t size;
    struct repl_uuid volume;
    struct repl_tracker *tracker;
    struct repl_audit audit;
    struct repl_bitmap changed;
    uint8_t *copy, *buffer;
    struct outcome outcome;
    pthread_t writer;
    _Atomic bool pausing, paused, ended, failed;
    struct random random; /* the writer's */
};

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "tracker_stress: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void must(repl_result result, const struct repl_error *err)
{
    if (!repl_ok(result)) {
        fprintf(stderr, "tracker_stress: %s\n", err->text);
        exit(1);
    }
}

/* --- the device: everything of it goes with the process -------------------------------------- */

static void device_make(struct world *world)
{
    const struct options *options = &world->options;
    if (!loop_device_possible()) {
        perror("skipped: no loop device");
        exit(SKIPPED);
    }
    int backing = loop_device_backing(options->directory, options->mib << 20);
    if (backing < 0)
        give_up(options->directory);
    if (!loop_device_bind(&world->loop, backing, LO_FLAGS_DIRECT_IO))
        give_up("a loop device");
    close(backing);
    world->device = open(world->loop.path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (world->device < 0 || ioctl(world->device, BLKGETSIZE64, &world->size) != 0)
        give_up(world->loop.path);
}

/* --- the writer ------------------------------------------------------------------------------ */

struct writer {
    struct world *world;
    struct io_uring ring;
    uint8_t *pool, *buffers[DEPTH];
    unsigned idle[DEPTH], idle_count;
    uint64_t serial;
};

static void flush_or_write(struct writer *writer, unsigned slot)
{
    struct world *world = writer->world;
    struct random *random = &world->random;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&writer->ring);
    if (random_below(random, 64) == 0) {
        io_uring_prep_fsync(sqe, world->loop.fd, IORING_FSYNC_DATASYNC);
        world->outcome.flushes++;
    } else {
        unsigned length = PAGE * (unsigned)(1 + random_below(random, WRITE_MAX / PAGE));
        uint64_t offset = PAGE * random_below(random, (world->size - length) / PAGE + 1);
        memcpy(writer->buffers[slot], writer->pool + PAGE * random_below(random, 64), length);
        for (unsigned at = 0; at < length; at += PAGE, writer->serial++)
            memcpy(writer->buffers[slot] + at, &writer->serial, sizeof writer->serial);
        io_uring_prep_write(sqe, world->loop.fd, writer->buffers[slot], length, offset);
        world->outcome.writes++;
    }
    io_uring_sqe_set_data64(sqe, slot);
}

/* Now and then what is neither: a discard or write zeroes of up to 4 MiB. */
static void other_write(struct writer *writer)
{
    struct world *world = writer->world;
    uint64_t length = PAGE * (1 + random_below(&world->random, 1024));
    uint64_t range[2] = {PAGE * random_below(&world->random, (world->size - length) / PAGE),
                         length};
    if (ioctl(world->loop.fd, random_below(&world->random, 2) ? BLKDISCARD : BLKZEROOUT, range) !=
        0)
        give_up("discard");
    world->outcome.others++;
}

static void reap(struct writer *writer)
{
    struct io_uring_cqe *cqe;
    int failed = io_uring_wait_cqe(&writer->ring, &cqe);
    if (failed == -EINTR)
        return;
    if (failed != 0 || cqe->res < 0) {
        fprintf(stderr, "tracker_stress: a write failed: %d\n", failed != 0 ? failed : cqe->res);
        exit(1);
    }
    do {
        writer->idle[writer->idle_count++] = (unsigned)io_uring_cqe_get_data64(cqe);
        io_uring_cqe_seen(&writer->ring, cqe);
    } while (io_uring_peek_cqe(&writer->ring, &cqe) == 0);
}

static void writer_pause(struct writer *writer)
{
    struct world *world = writer->world;
    while (writer->idle_count < DEPTH)
        reap(writer);
    world->paused = true;
    while (world->pausing)
        usleep(1000);
    world->paused = false;
}

static void *writer_run(void *argument)
{
    struct writer *writer = argument;
    struct world *world = writer->world;
    while (!world->ended) {
        if (world->pausing)
            writer_pause(writer);
        if (random_below(&world->random, 50) == 0)
            other_write(writer);
        while (writer->idle_count > 0)
            flush_or_write(writer, writer->idle[--writer->idle_count]);
        io_uring_submit(&writer->ring);
        reap(writer);
    }
    while (writer->idle_count < DEPTH)
        reap(writer);
    return NULL;
}

static void writer_begin(struct world *world, struct writer *writer)
{
    *writer = (struct writer){.world = world};
    if (io_uring_queue_init(DEPTH, &writer->ring, 0) != 0)
        exit(SKIPPED);
    writer->pool = malloc(POOL_SIZE);
    random_fill(&world->random, writer->pool, POOL_SIZE);
    for (unsigned i = 0; i < DEPTH; i++) {
        writer->buffers[i] = aligned_alloc(PAGE, WRITE_MAX);
        writer->idle[writer->idle_count++] = i;
    }
    if (pthread_create(&world->writer, NULL, writer_run, writer) != 0)
        give_up("pthread_create");
}

static void writer_end(struct world *world, struct writer *writer)
{
    world->ended = true;
    pthread_join(world->writer, NULL);
    io_uring_queue_exit(&writer->ring);
    free(writer->pool);
    for (unsigned i = 0; i < DEPTH; i++)
        free(writer->buffers[i]);
}

static void busy_begin(pid_t children[BUSY_LOOPS])
{
    for (unsigned i = 0; i < BUSY_LOOPS; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (volatile uint64_t at = 0;; at++)
                ;
        }
    }
}

static void busy_end(const pid_t children[BUSY_LOOPS])
{
    for (unsigned i = 0; i < BUSY_LOOPS; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
}

/* --- the agent ------------------------------------------------------------------------------- */

static void read_exactly(struct world *world, uint8_t *into, uint64_t offset, uint64_t length)
{
    ssize_t got = pread(world->device, world->buffer, length, (off_t)offset);
    if (got != (ssize_t)length)
        give_up("reading the device");
    memcpy(into, world->buffer, length);
}

static void copy_changed(struct world *world)
{
    uint64_t first, count;
    for (uint64_t at = 0;
         repl_bitmap_next_run(&world->changed, at, READ_MAX / PAGE, &first, &count);
         at = first + count)
        read_exactly(world, world->copy + first * PAGE, first * PAGE, count * PAGE);
    repl_bitmap_clear_all(&world->changed);
}

static void cut(struct world *world)
{
    repl_tracker_exchange(world->tracker, &world->changed);
    copy_changed(world);
    world->outcome.points++;
}

static uint64_t pages_wrong(struct world *world)
{
    uint64_t wrong = 0;
    for (uint64_t at = 0; at < world->size; at += READ_MAX) {
        uint64_t length = world->size - at < READ_MAX ? world->size - at : READ_MAX;
        if (pread(world->device, world->buffer, length, (off_t)at) != (ssize_t)length)
            give_up("comparing");
        for (uint64_t page = 0; page < length; page += PAGE)
            wrong += memcmp(world->buffer + page, world->copy + at + page, PAGE) != 0;
    }
    return wrong;
}

static void wait_until(int64_t at_ns)
{
    int64_t left = at_ns - repl_tracker_now_ns();
    if (left > 0)
        usleep((useconds_t)(left / 1000 + 1));
}

static enum repl_audit_verdict audit(struct world *world)
{
    struct repl_audit_sample sample;
    struct repl_error err;
    enum repl_audit_verdict verdict;
    uint64_t shortfalls = world->audit.shortfalls;
    repl_audit_begin(&world->audit);
    do {
        wait_until(world->audit.next_ns);
        must(repl_tracker_sample(world->tracker, &sample, &err), &err);
        verdict = repl_audit_feed(&world->audit, &sample);
        if (world->audit.shortfalls > shortfalls) {
            shortfalls = world->audit.shortfalls;
            world->outcome.shortfalls++;
            world->outcome.short_bytes += world->audit.short_bytes;
            if (world->paused)
                world->outcome.wrong_before_repair += pages_wrong(world);
        }
    } while (verdict == REPL_AUDIT_MORE);
    return verdict;
}

static void baseline_save(struct world *world)
{
    repl_tracker_save(world->tracker, &world->audit.base, sizeof world->audit.base);
}

static void resync(struct world *world)
{
    while (audit(world) != REPL_AUDIT_BASED)
        ;
    repl_bitmap_set(&world->changed, 0, world->changed.bit_count);
    copy_changed(world);
    baseline_save(world);
    world->outcome.resyncs++;
}

/* One cut with its audit. True: it passed. */
static bool point(struct world *world)
{
    cut(world);
    switch (audit(world)) {
    case REPL_AUDIT_PASSED:
        world->outcome.audits++;
        repl_tracker_settle(world->tracker, NULL, 0, false);
        repl_tracker_swap_touched(world->tracker, &world->audit);
        baseline_save(world);
        return true;
    case REPL_AUDIT_REPAIR:
        world->outcome.repairs++;
        if (!world->options.no_repair)
            repl_tracker_or_touched(world->tracker, &world->changed);
        baseline_save(world); /* after what was touched is on record as taken */
        return false;
    case REPL_AUDIT_DEGRADED:
        world->outcome.degraded++;
        memcpy(world->outcome.cause, world->audit.cause, sizeof world->outcome.cause);
        resync(world);
        return false;
    default:
        world->outcome.busy++;
        return false;
    }
}

static void tracker_begin(struct world *world, enum repl_track_origin expected)
{
    struct repl_track_target target;
    struct repl_audit_baseline base;
    struct repl_audit_limits limits = REPL_AUDIT_LIMITS_DEFAULT;
    struct repl_error err;
    enum repl_track_origin origin;
    char cause[REPL_TRACK_CAUSE_SIZE];
    struct stat st;
    limits.patience_ns = PATIENCE_NS;
    if (fstat(world->device, &st) != 0)
        give_up("stat");
    must(repl_track_target_find(st.st_rdev, &target, &err), &err);
    must(repl_tracker_open(&target, &world->volume, &world->tracker, &origin, cause, &err), &err);
    if (origin != expected) {
        fprintf(stderr, "tracker_stress: opened as %d, not %d: %s\n", origin, expected, cause);
        exit(1);
    }
    bool known = repl_tracker_load(world->tracker, &base, sizeof base);
    repl_audit_init(&world->audit, &limits, known ? &base : NULL);
}

/* An agent that dies with bits it took and did not use; meanwhile writes go on. */
static void restart(struct world *world)
{
    repl_tracker_exchange(world->tracker, &world->changed);
    repl_bitmap_clear_all(&world->changed);
    repl_tracker_close(world->tracker);
    usleep(200000);
    tracker_begin(world, REPL_TRACK_CONTINUED);
    repl_tracker_recover(world->tracker, &world->changed);
}

/* --- a run ----------------------------------------------------------------------------------- */

static void pause_and_compare(struct world *world, unsigned number)
{
    world->pausing = true;
    while (!world->paused)
        usleep(1000);
    for (unsigned tries = 0; !point(world); tries++)
        if (tries > 20) {
            fprintf(stderr, "tracker_stress: no audit passes\n");
            exit(1);
        }
    uint64_t wrong = pages_wrong(world);
    world->outcome.wrong_passes += wrong != 0;
    printf("  pause %u: %" PRIu64 " writes, %s (%" PRIu64 " pages differ)\n", number,
           world->outcome.writes, wrong == 0 ? "equal" : "WRONG", wrong);
    fflush(stdout);
    if (wrong != 0) { /* go on from a right copy */
        repl_bitmap_set(&world->changed, 0, world->changed.bit_count);
        copy_changed(world);
    }
    world->pausing = false;
    while (world->paused)
        usleep(1000);
}

static void faults_set(struct world *world, bool on)
{
    struct repl_track_faults *faults = repl_tracker_faults(world->tracker);
    if (faults == NULL)
        return;
    world->outcome.dropped = faults->dropped;
    faults->every = world->options.every;
    faults->delay_loops = on ? world->options.delay : 0;
    __atomic_store_n(&faults->mask, on ? world->options.fault : 0, __ATOMIC_SEQ_CST);
}

static void world_run(struct world *world)
{
    struct writer writer;
    pid_t busy[BUSY_LOOPS];
    resync(world);
    point(world);
    busy_begin(busy);
    writer_begin(world, &writer);
    faults_set(world, true);
    for (unsigned pause = 1; pause <= world->options.pauses; pause++) {
        uint64_t until = world->options.writes * pause / world->options.pauses;
        for (unsigned i = 1; world->outcome.writes < until; i++) {
            usleep(50000);
            if (world->options.under_load && i % 10 == 0)
                point(world);
            else
                cut(world);
        }
        if (world->options.restart)
            restart(world);
        pause_and_compare(world, pause);
    }
    faults_set(world, false);
    writer_end(world, &writer);
    busy_end(busy);
}

static void world_open(struct world *world, const struct options *options)
{
    struct repl_error err;
    *world = (struct world){.options = *options, .device = -1, .loop.fd = -1};
    world->random = random_begin("tracker_stress", options->seed);
    device_make(world);
    world->copy = calloc(1, world->size);
    world->buffer = aligned_alloc(PAGE, READ_MAX);
    must(repl_bitmap_init(&world->changed, world->size / PAGE, &err), &err);
}

static void world_close(struct world *world)
{
    repl_tracker_close(world->tracker);
    repl_bitmap_fini(&world->changed);
    free(world->copy);
    free(world->buffer);
    loop_device_close(&world->loop);
    close(world->device);
}

static void outcome_print(const struct outcome *outcome, int64_t took_ns)
{
    printf("  %" PRIu64 " writes, %" PRIu64 " flushes, %" PRIu64 " discards and zeroes in %.1f s; "
           "%" PRIu64 " cuts; faults dropped %" PRIu64 " events\n",
           outcome->writes, outcome->flushes, outcome->others, (double)took_ns / 1e9,
           outcome->points, outcome->dropped);
    printf("  audits passed %" PRIu64 ", short %" PRIu64 " (%" PRIu64 " bytes), repaired %" PRIu64
           ", degraded %" PRIu64 ", undecided %" PRIu64 "; pages wrong before repair %" PRIu64
           "; wrong passes %" PRIu64 "%s%s\n",
           outcome->audits, outcome->shortfalls, outcome->short_bytes, outcome->repairs,
           outcome->degraded, outcome->busy, outcome->wrong_before_repair, outcome->wrong_passes,
           outcome->cause[0] != '\0' ? "; " : "", outcome->cause);
    fflush(stdout);
}

static void interrupt(int signal_number)
{
    (void)signal_number;
}

/* In a child, so that whatever happens to it, what is pinned is taken away. */
static int run(const struct options *options, struct outcome *outcome)
{
    struct repl_error err;
    struct repl_uuid volume;
    int ends[2];
    if (getrandom(&volume, sizeof volume, 0) != sizeof volume || pipe2(ends, O_CLOEXEC) != 0)
        give_up("pipe");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        static struct world world;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        world_open(&world, options);
        world.volume = volume;
        tracker_begin(&world, REPL_TRACK_NEW);
        int64_t began_ns = repl_tracker_now_ns();
        world_run(&world);
        outcome_print(&world.outcome, repl_tracker_now_ns() - began_ns);
        if (write(ends[1], &world.outcome, sizeof world.outcome) < 0)
            give_up("write");
        world_close(&world);
        exit(0);
    }
    close(ends[1]);
    int status = 0;
    *outcome = (struct outcome){0};
    ssize_t got = read(ends[0], outcome, sizeof *outcome);
    close(ends[0]);
    if (got < 0) /* a signal */
        kill(child, SIGKILL);
    waitpid(child, &status, 0);
    must(repl_tracker_forget(&volume, &err), &err);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    return got == sizeof *outcome ? 0 : 1;
}

/* --- all of it ------------------------------------------------------------------------------- */

#define COMPLETIONS (REPL_TRACK_DROP_WRITE_COMPLETION | REPL_TRACK_DROP_DISCARD_COMPLETION)
#define SUBMISSIONS (REPL_TRACK_DROP_WRITE_SUBMISSION | REPL_TRACK_DROP_DISCARD_SUBMISSION)

enum expectation { RIGHT, REPAIRED, DEGRADED, WRONG };

static const struct scenario {
    const char *name;
    uint64_t fault, every, delay;
    bool no_repair, under_load, restart;
    enum expectation expected;
} scenarios[] = {
    {.name = "no fault, audits under load, restarts", .under_load = true, .restart = true},
    {.name = "a delay between mark and count", .delay = 2000},
    {.name = "writes' completions",
     .fault = REPL_TRACK_DROP_WRITE_COMPLETION,
     .every = 1000,
     .expected = REPAIRED},
    {.name = "discards' completions",
     .fault = REPL_TRACK_DROP_DISCARD_COMPLETION,
     .every = 2,
     .expected = REPAIRED},
    {.name = "completions, restarts",
     .fault = COMPLETIONS,
     .every = 1000,
     .restart = true,
     .expected = REPAIRED},
    {.name = "flushes", .fault = REPL_TRACK_DROP_FLUSH, .every = 20, .expected = REPAIRED},
    {.name = "submissions", .fault = SUBMISSIONS, .every = 500},
    {.name = "completions and submissions",
     .fault = COMPLETIONS | SUBMISSIONS,
     .every = 1000,
     .expected = DEGRADED},
    {.name = "everything",
     .fault = COMPLETIONS | SUBMISSIONS | REPL_TRACK_DROP_FLUSH,
     .every = 1,
     .expected = DEGRADED},
    {.name = "completions, repair switched off",
     .fault = COMPLETIONS,
     .every = 100, /* so many that later writes cannot cover all of them */
     .no_repair = true,
     .expected = WRONG},
};

static bool as_expected(const struct scenario *scenario, const struct outcome *outcome)
{
    switch (scenario->expected) {
    case RIGHT: /* real skips may happen at any time */
        return outcome->wrong_passes == 0;
    case REPAIRED:
        return outcome->wrong_passes == 0 && outcome->repairs > 0;
    case DEGRADED:
        return outcome->wrong_passes == 0 && outcome->degraded > 0;
    case WRONG:
        return outcome->wrong_passes > 0;
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
        own.fault = scenario->fault;
        own.every = scenario->every;
        own.delay = scenario->delay;
        own.no_repair = scenario->no_repair;
        own.under_load = scenario->under_load;
        own.restart = scenario->restart;
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

static uint64_t fault_parse(const char *text)
{
    static const struct {
        const char *name;
        uint64_t mask;
    } faults[] = {{"none", 0},
                  {"completions", COMPLETIONS},
                  {"submissions", SUBMISSIONS},
                  {"both", COMPLETIONS | SUBMISSIONS},
                  {"flushes", REPL_TRACK_DROP_FLUSH}};
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        if (strcmp(text, faults[i].name) == 0)
            return faults[i].mask;
    fprintf(stderr, "tracker_stress: no such fault: %s\n", text);
    exit(64);
}

static void options_parse(int argc, char **argv, struct options *out)
{
    static const struct option known[] = {
        {"writes", 1, NULL, 'w'},  {"pauses", 1, NULL, 'p'},    {"mib", 1, NULL, 'm'},
        {"seed", 1, NULL, 's'},    {"fault", 1, NULL, 'f'},     {"every", 1, NULL, 'e'},
        {"delay", 1, NULL, 'd'},   {"no-repair", 0, NULL, 'n'}, {"under-load", 0, NULL, 'u'},
        {"restart", 0, NULL, 'r'}, {"directory", 1, NULL, 'D'}, {"all", 0, NULL, 'a'},
        {NULL, 0, NULL, 0},
    };
    *out = (struct options){.writes = 300000,
                            .pauses = 5,
                            .mib = 256,
                            .seed = 1,
                            .every = 1000,
                            .directory = "/var/tmp"};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        uint64_t number = optarg != NULL ? strtoull(optarg, NULL, 0) : 0;
        switch (c) {
        case 'w':
            out->writes = number;
            break;
        case 'p':
            out->pauses = (unsigned)number;
            break;
        case 'm':
            out->mib = number;
            break;
        case 's':
            out->seed = number;
            break;
        case 'f':
            out->fault = fault_parse(optarg);
            break;
        case 'e':
            out->every = number;
            break;
        case 'd':
            out->delay = number;
            break;
        case 'n':
            out->no_repair = true;
            break;
        case 'u':
            out->under_load = true;
            break;
        case 'r':
            out->restart = true;
            break;
        case 'D':
            out->directory = optarg;
            break;
        case 'a':
            out->all = true;
            break;
        default:
            exit(64);
        }
    }
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
    return status != 0 ? status : outcome.wrong_passes != 0;
}
