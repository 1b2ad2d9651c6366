/*
 * A site that is killed again and again (SIGKILL) while points arrive, are given up and merged, and
 * while another process restores one point after the other: what was acknowledged is there, every
 * point that is listed restores as it was, and in the end nothing is left lying about.
 *
 *   KILLS=200 test_compactor_kills     the long form
 */
#include <sys/wait.h>

#include "unit/agent/site/compactor/compactor_lives.h"
#include "unit/sanitized.h"

#define KILLS (SANITIZED ? 5u : 12u)

struct victim {
    pid_t pid;
    unsigned port;
};

/* By seq what the volume held, written before the site is sent the point; by 0 how many were
 * restored beside it. */
static int sums_fd;

/* --- the site, in a process of its own ------------------------------------------------------- */

#define GRACE_MS (3600 * 1000) /* no reader is slower */

static void site_begin(const char *world, int64_t grace_ms)
{
    struct repl_error err = {0};
    world_take(world, PERIOD_RETENTION);
    must(repl_loop_new(&(struct repl_loop_options){.workers = 2}, &w.loop, &err), &err);
    struct repl_config *config = config_make(&w);
    config->grace_ms = grace_ms;
    must(repl_site_new(w.loop, config, &w.site, &err), &err);
    hurry();
}

__attribute__((noreturn)) static void site_live(const char *world, int port_fd)
{
    site_begin(world, GRACE_MS);
    unsigned port = repl_site_port(w.site);
    if (write(port_fd, &port, sizeof port) != sizeof port)
        _exit(1);
    for (;;) {
        turn(&w);
        site_compactor_tick(w.site->compactor);
    }
}

/* Until all that is due has been merged and removed. */
__attribute__((noreturn)) static void site_settle(const char *world)
{
    site_begin(world, 1);
    while (visit_whole("data") || w.site->compactor->removals.count > 0)
        ;
    _exit(0);
}

static struct victim site_spawn(void)
{
    struct victim victim;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    victim.pid = self_spawn("site", fds[1], 0);
    close(fds[1]);
    assert_int_equal(read(fds[0], &victim.port, sizeof victim.port), sizeof victim.port);
    close(fds[0]);
    return victim;
}

static void site_kill(struct victim *victim)
{
    int status;
    kill(victim->pid, SIGKILL);
    assert_int_equal(waitpid(victim->pid, &status, 0), victim->pid);
    assert_true(WIFSIGNALED(status));
}

static void connect_to(const struct victim *victim)
{
    struct repl_error err = {0};
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", victim->port);
    repl_client_free(w.clients[KEY_HOST]);
    struct repl_client_options options = {
        .address = address, .key_path = w.keys[KEY_HOST], .fingerprint = w.site_fingerprint};
    must(repl_client_new(w.loop, &options, &w.clients[KEY_HOST], &err), &err);
}

/* --- who restores, in a process of its own --------------------------------------------------- */

static uint64_t sum_read(uint64_t seq)
{
    uint64_t sum;
    assert_int_equal(pread(sums_fd, &sum, sizeof sum, (off_t)(seq * sizeof sum)), sizeof sum);
    return sum;
}

static void sum_write(uint64_t seq, uint64_t sum)
{
    assert_int_equal(pwrite(sums_fd, &sum, sizeof sum, (off_t)(seq * sizeof sum)), sizeof sum);
}

/* A history stays open over a few restores, and so over changes and deaths of the site. */
__attribute__((noreturn)) static void reader_live(const char *world, int fd)
{
    struct random random = random_begin("reader", 1);
    uint8_t *bytes = malloc(MODEL_MAX);
    sums_fd = fd;
    world_take(world, PERIOD_RETENTION);
    assert_non_null(bytes);
    for (uint64_t restored = 0;;) {
        struct repl_history *history = history_open();
        const struct repl_catalogue *c = repl_history_catalogue(history);
        for (unsigned k = 0; k < 8; k++) {
            size_t i = (size_t)random_below(&random, c->point_count);
            uint64_t seq = c->points[i].point.seq;
            if (point_restore(history, i, bytes) != sum_read(seq)) {
                fprintf(stderr, "point %llu is not what it was\n", (unsigned long long)seq);
                _exit(1);
            }
            sum_write(0, ++restored);
        }
        repl_history_close(history);
    }
}

static pid_t reader_spawn(void)
{
    return self_spawn("reader", sums_fd, 0);
}

/* It goes on until it is told to end, but for its first point. How many points it has restored. */
static uint64_t reader_end(pid_t reader)
{
    int status;
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    while (sum_read(0) == 0) {
        assert_true(repl_now_mono_ns() < until_ns);
        turn(&w);
    }
    kill(reader, SIGKILL);
    assert_int_equal(waitpid(reader, &status, 0), reader);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return sum_read(0);
}

/* --- the source ------------------------------------------------------------------------------ */

struct source {
    struct build build; /* the segment on its way */
    bool pending;
};

static void segment_make(struct source *s)
{
    uint64_t seq = w.head.to_seq;
    build_begin(&s->build, &w, seq, seq + 1, 0);
    build_data(&s->build, random_below(&w.random, 80) * REPL_CHUNK_SIZE, 3 * REPL_PAGE_SIZE);
    build_zero(&s->build, random_below(&w.random, 80) * REPL_CHUNK_SIZE, REPL_PAGE_SIZE);
    build_end(&s->build, true);
    s->pending = true;
    assert_true(seq + 1 < POINTS_MAX);
    points[seq + 1] = repl_xxh3(w.model, w.size);
    sum_write(seq + 1, points[seq + 1]);
}

static void segment_taken(struct source *s)
{
    build_taken(&s->build);
    build_fini(&s->build);
    s->pending = false;
}

/* Where the site stands: what was acknowledged it has, and what was on its way it may have. */
static bool source_greet(struct source *s)
{
    struct repl_hello message = hello_of(&w);
    struct repl_welcome welcome;
    struct repl_error err = {0};
    if (hello_as(&w, KEY_HOST, "data", &message) != 200)
        return false;
    must(repl_welcome_decode(w.response.data, w.response.size, &welcome, &err), &err);
    if (s->pending && repl_digest_equal(&welcome.head.digest, &s->build.footer.digest))
        segment_taken(s);
    assert_true(repl_digest_equal(&welcome.head.digest, &w.head.digest));
    return true;
}

/* Points, until something breaks. */
static void source_run(struct source *s, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!s->pending)
            segment_make(s);
        if (build_put(&s->build) != 201)
            return;
        segment_taken(s);
    }
}

/* --- the test -------------------------------------------------------------------------------- */

static size_t listed_check(void)
{
    size_t segments;
    size_t left = points_check(&segments);
    assert_true(left > 0 && left <= w.head.to_seq + 1);
    return left;
}

/* A volume with its first point, and who restores it. */
static struct victim kills_begin(pid_t *reader)
{
    char path[96];
    world_init(&w, NULL);
    w.retention = PERIOD_RETENTION;
    periods_begin();
    w.site_may_die = true;
    snprintf(path, sizeof path, "%s/sums", w.directory);
    sums_fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600); /* both processes' */
    assert_true(sums_fd >= 0);
    struct victim victim = site_spawn();
    connect_to(&victim);
    seed(&w);
    points[1] = repl_xxh3(w.model, w.size);
    sum_write(0, 0);
    sum_write(1, points[1]);
    *reader = reader_spawn();
    return victim;
}

static void kills(void **state)
{
    const char *wanted = getenv("KILLS");
    unsigned count = wanted != NULL ? (unsigned)strtoul(wanted, NULL, 10) : KILLS;
    struct source source = {0};
    size_t segments;
    int status;
    pid_t reader;
    (void)state;
    struct victim victim = kills_begin(&reader);
    for (unsigned i = 0; i < count; i++) {
        assert_true(source_greet(&source));
        source_run(&source, random_below(&w.random, 64));
        if (i % 4 == 3)
            listed_check(); /* beside the site, which merges */
        site_kill(&victim);
        listed_check();
        victim = site_spawn();
        connect_to(&victim);
    }
    uint64_t restored = reader_end(reader);
    assert_true(source_greet(&source));
    site_kill(&victim);
    /* what others have taken the place of goes */
    pid_t last = self_spawn("settle", -1, 0);
    assert_int_equal(waitpid(last, &status, 0), last);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    points_check(&segments);
    assert_int_equal(files_count(), segments);
    size_t left = listed_check();
    print_message(
        "%llu points came over %u kills, %zu are left in %zu segments; %llu were restored "
        "beside that\n",
        (unsigned long long)w.head.to_seq, count, left, segments, (unsigned long long)restored);
    if (source.pending)
        build_fini(&source.build);
    close(sums_fd);
    repl_client_free(w.clients[KEY_HOST]);
    world_fini(&w);
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[0], "reader") == 0)
        reader_live(argv[1], atoi(argv[2]));
    if (argc == 4 && strcmp(argv[0], "settle") == 0)
        site_settle(argv[1]);
    if (argc == 4)
        site_live(argv[1], atoi(argv[2]));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kills),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
