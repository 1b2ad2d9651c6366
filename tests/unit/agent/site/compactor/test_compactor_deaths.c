/*
 * A site that dies at each of the calls in which it asks the disk for something, from its start
 * until all that is due has been given up, merged and removed and the log is written anew: as
 * SIGKILL has it, with a write half done. After each of these deaths every point that is to be
 * kept is there and restores as it was; another start brings it to the end that it would have had,
 * and nothing is left lying about.
 *
 *   DEATHS=all test_compactor_deaths     at each of them, not at some
 */
#include <stdatomic.h>
#include <sys/wait.h>

#include "unit/agent/disk_calls.h"
#include "unit/agent/site/compactor/compactor_lives.h"

#define POINTS       40u
#define DEATHS_SHORT 12u
#define RETENTION    "12s:1h 1h:1d"
#define QUIET_NS     (INT64_C(100) * 1000000)

/* --- the site, in a process of its own ------------------------------------------------------- */

static atomic_long disk_calls, disk_dies_at;

static bool dies(void)
{
    return atomic_fetch_add(&disk_calls, 1) + 1 == atomic_load(&disk_dies_at);
}

static bool disk_stops_call(bool removes)
{
    (void)removes;
    if (dies())
        kill(getpid(), SIGKILL);
    return false;
}

static ssize_t disk_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    if (disk_is_meant_fd(fd) && dies()) {
        syscall(SYS_pwrite64, fd, data, size / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return syscall(SYS_pwrite64, fd, data, size, offset);
}

static int64_t quiet_since_ns; /* 0: it begins now */

/* Whether there has been nothing to do for a while. */
static bool is_quiet(void)
{
    static long calls;
    const struct site_compactor *c = w.site->compactor;
    int64_t now_ns = repl_now_mono_ns();
    if (site_compactor_is_busy(c) || c->removals.count > 0 || atomic_load(&disk_calls) != calls ||
        quiet_since_ns == 0)
        quiet_since_ns = now_ns;
    calls = atomic_load(&disk_calls);
    return now_ns - quiet_since_ns > QUIET_NS;
}

static void site_settle(void)
{
    while (!is_quiet()) {
        turn(&w);
        site_compactor_tick(w.site->compactor);
    }
    quiet_since_ns = 0;
}

/* Tells how many calls it has made. */
__attribute__((noreturn)) static void site_live(const char *world, int calls_fd, long dies_at)
{
    struct repl_error err = {0};
    world_take(world, RETENTION);
    w.replica = "none"; /* merging would wait for it */
    must(repl_loop_new(&(struct repl_loop_options){.workers = 2}, &w.loop, &err), &err);
    struct repl_config *config = config_make(&w);
    config->grace_ms = 1;
    atomic_store(&disk_dies_at, dies_at);
    snprintf(disk_path, sizeof disk_path, "%s", w.store);
    must(repl_site_new(w.loop, config, &w.site, &err), &err);
    hurry();
    w.site->compactor->log_size_min = 1;
    site_settle();
    site_find_volume(w.site, "data")->checkpoint_due = true;
    site_volume_pump(site_find_volume(w.site, "data"));
    site_settle();
    long calls = atomic_load(&disk_calls);
    _exit(write(calls_fd, &calls, sizeof calls) == sizeof calls ? 0 : 1);
}

/* Whether it died; else how many calls it made. */
static bool site_dies(long dies_at, long *calls)
{
    int status, fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = self_spawn("site", fds[1], dies_at);
    close(fds[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    bool died = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!died) {
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        assert_int_equal(read(fds[0], calls, sizeof *calls), sizeof *calls);
    }
    close(fds[0]);
    return died;
}

/* --- the history ----------------------------------------------------------------------------- */

/* Chunks that are listed, superseded and referred to. */
static void point_send(void)
{
    struct build b;
    uint64_t seq = w.head.to_seq;
    static uint8_t chunk[REPL_CHUNK_SIZE];
    memcpy(chunk, w.model + 9 * REPL_CHUNK_SIZE, sizeof chunk);
    build_begin(&b, &w, seq, seq + 1, 0);
    build_data(&b, seq % 4 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    build_zero(&b, 5 * REPL_CHUNK_SIZE, (seq % 16 + 1) * REPL_PAGE_SIZE);
    if (seq % 7 == 3)
        build_chunk(&b, 6 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunk, 0);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
}

/* Of which everything is kept so far, as a copy beside the store. */
static void history_make(void)
{
    world_init(&w, NULL);
    w.replica = "none";
    w.size = 12 * REPL_CHUNK_SIZE;
    w.time_ns = repl_now_wall_ns() - 600 * SECOND_NS;
    site_start(&w);
    seed(&w);
    point_keep();
    while (w.head.to_seq < POINTS)
        point_send();
    site_stop(&w);
}

static void directory_copy(const char *from, const char *to)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf %s && cp -a %s %s", to, from, to);
    assert_int_equal(system(command), 0);
}

static size_t listed(bool out[POINTS + 1])
{
    struct repl_history *history = history_open();
    const struct repl_catalogue *c = repl_history_catalogue(history);
    size_t count = c->point_count;
    memset(out, 0, POINTS + 1);
    for (size_t i = 0; i < count; i++)
        out[c->points[i].point.seq] = true;
    repl_history_close(history);
    return count;
}

/* It ended as it would have without any death. */
static void end_check(const bool kept[POINTS + 1], size_t kept_count)
{
    bool now[POINTS + 1];
    size_t segments;
    assert_int_equal(points_check(&segments), kept_count);
    assert_int_equal(files_count(), segments);
    listed(now);
    assert_memory_equal(now, kept, POINTS + 1);
}

static void death_check(const bool kept[POINTS + 1])
{
    bool now[POINTS + 1];
    size_t segments;
    torn_may_be = true;
    points_check(&segments);
    torn_may_be = false;
    listed(now);
    for (size_t seq = 1; seq <= POINTS; seq++)
        assert_true(now[seq] || !kept[seq]);
}

static void deaths(void **state)
{
    bool kept[POINTS + 1];
    char whole[96];
    long calls, unused;
    (void)state;
    history_make();
    snprintf(whole, sizeof whole, "%s/whole", w.directory);
    directory_copy(w.store, whole);
    assert_false(site_dies(0, &calls));
    size_t kept_count = listed(kept);
    assert_true(kept_count < POINTS / 2);
    end_check(kept, kept_count);
    long step = getenv("DEATHS") != NULL ? 1 : calls / DEATHS_SHORT, count = 0;
    for (long at = 1 + calls % step; at <= calls; at += step) {
        directory_copy(whole, w.store);
        if (site_dies(at, &unused)) { /* else threads took their turns in another order */
            count++;
            death_check(kept);
            assert_false(site_dies(0, &unused));
        }
        end_check(kept, kept_count);
    }
    print_message("%ld deaths at %ld calls: all that is kept was there, and nothing else in the "
                  "end\n",
                  count, calls);
    assert_true(count > 0);
    world_fini(&w);
}

int main(int argc, char **argv)
{
    if (argc == 4)
        site_live(argv[1], atoi(argv[2]), atol(argv[3]));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deaths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
