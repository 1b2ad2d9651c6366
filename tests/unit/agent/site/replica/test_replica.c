/*
 * The replica: that it becomes the volume again whatever happened to it, its
 * state or its target, and what targets are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/file.h>
#include <sys/ioctl.h>

#include "site/replica/replica_internal.h"
#include "site/site_volume.h"
#include "unit/agent/site/site_fixture.h"

static struct world world;

static int setup(void **state)
{
    world_init(&world, NULL);
    *state = &world;
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

static struct site_volume *data_volume(struct world *w)
{
    return site_find_volume(w->site, "data");
}

static void begin(struct world *w)
{
    site_start(w);
    seed(w);
    increment(w);
    expect_replica(w);
}

static void file_copy(const char *from, const char *to)
{
    static uint8_t bytes[64u << 10];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(in >= 0 && out >= 0);
    for (ssize_t size; (size = read(in, bytes, sizeof bytes)) > 0;)
        assert_int_equal(write(out, bytes, (size_t)size), size);
    close(in);
    close(out);
}

/* --- the state ------------------------------------------------------------------------------- */

static void test_state_rolled_back(void **state)
{
    struct world *w = *state;
    char path[256], copy[256];
    begin(w);
    file_path(w, path, "replica.state");
    snprintf(copy, sizeof copy, "%s/copy", w->directory);
    file_copy(path, copy);
    increment(w);
    increment(w);
    expect_replica(w);
    site_stop(w);
    file_copy(copy, path);
    site_start(w);
    expect_replica(w);
}

static void test_state_lost_or_damaged(void **state)
{
    struct world *w = *state;
    static const uint8_t rubbish[REPL_SLOT_FILE] = {1, 2, 3};
    char path[256];
    begin(w);
    file_path(w, path, "replica.state");
    site_stop(w);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(fd, rubbish, sizeof rubbish), sizeof rubbish);
    close(fd);
    site_start(w);
    expect_replica(w);
    site_stop(w);
    assert_int_equal(unlink(path), 0);
    site_start(w);
    expect_replica(w);
}

static void state_put(struct world *w, const struct repl_replica_state *now)
{
    uint8_t slots[REPL_SLOT_FILE] = {0};
    char path[256];
    repl_replica_state_encode(now, 1000, slots + repl_slot_offset(1000));
    file_path(w, path, "replica.state");
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, slots, sizeof slots), sizeof slots);
    close(fd);
}

/* A crash between two points: some of the next one's bytes are there, and rubbish where the rest
 * was being written. */
static void test_crash_while_applying(void **state)
{
    struct world *w = *state;
    struct repl_replica_state between = {.volume = w->uuid, .applying = true, .size = w->size};
    struct build b;
    static uint8_t rubbish[MIB];
    char path[256];
    begin(w);
    between.reached = w->head;
    build_begin(&b, w, 2, 3, 0);
    build_data(&b, MIB, MIB);
    build_zero(&b, 4 * MIB, MIB);
    build_end(&b, true);
    build_commit(&b);
    expect_replica(w);
    site_stop(w);
    state_put(w, &between);
    memset(rubbish, 0x5a, sizeof rubbish);
    replica_path(w, path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, rubbish, MIB, MIB), MIB);
    assert_int_equal(pwrite(fd, rubbish, MIB / 2, 4 * MIB), MIB / 2);
    close(fd);
    site_start(w);
    expect_replica(w);
}

/* What the state names is not in the journal: of another history. */
static void test_state_of_another_history(void **state)
{
    struct world *w = *state;
    begin(w);
    struct repl_replica_state other = {.volume = w->uuid, .reached = w->head, .size = w->size};
    site_stop(w);
    memset(&other.reached.digest, 1, sizeof other.reached.digest);
    state_put(w, &other);
    site_start(w);
    expect_replica(w);
    site_stop(w);
    other.reached = w->head;
    other.reached.to_seq += 5;
    state_put(w, &other);
    site_start(w);
    expect_replica(w);
    site_stop(w);
    other.reached = w->head;
    memset(&other.volume, 1, sizeof other.volume);
    state_put(w, &other);
    site_start(w);
    expect_replica(w);
}

/* --- the image ------------------------------------------------------------------------------- */

static void test_failed_sync(void **state)
{
    struct world *w = *state;
    char path[256];
    struct stat before, after;
    begin(w);
    replica_path(w, path);
    assert_int_equal(stat(path, &before), 0);
    atomic_store(&repl_replica_target(data_volume(w)->replica)->sync_errno, EIO);
    increment(w);
    PUMP_UNTIL(w, volume_status(w, "data").state == REPL_STATE_DEGRADED ||
                      replica_is_at(w, w->head.to_seq));
    expect_replica(w);
    /* The file of which a sync has failed is not the replica any more. */
    assert_int_equal(stat(path, &after), 0);
    assert_true(before.st_ino != after.st_ino || before.st_ctim.tv_nsec != after.st_ctim.tv_nsec);
    increment(w);
    expect_replica(w);
}

static void test_image_deleted(void **state)
{
    struct world *w = *state;
    char path[256];
    begin(w);
    replica_path(w, path);
    assert_int_equal(unlink(path), 0);
    increment(w);
    expect_replica(w);
    site_stop(w);
    assert_int_equal(unlink(path), 0);
    site_start(w);
    expect_replica(w);
    site_stop(w);
    assert_int_equal(truncate(path, MIB), 0);
    site_start(w);
    expect_replica(w);
}

static void test_image_is_sparse(void **state)
{
    struct world *w = *state;
    struct build b;
    struct stat status;
    char path[256];
    begin(w);
    build_begin(&b, w, w->head.to_seq, w->head.to_seq + 1, 0);
    build_zero(&b, 0, 6 * MIB);
    build_end(&b, true);
    build_commit(&b);
    expect_replica(w);
    replica_path(w, path);
    assert_int_equal(stat(path, &status), 0);
    assert_true(status.st_blocks * 512 < MIB);
}

static void test_growth(void **state)
{
    struct world *w = *state;
    struct build b;
    begin(w);
    uint64_t before = w->size;
    w->size = MODEL_MAX - REPL_PAGE_SIZE;
    build_begin(&b, w, w->head.to_seq, w->head.to_seq + 1, 0);
    build_zero(&b, before, w->size - before);
    build_data(&b, 8 * MIB, MIB / 2);
    build_end(&b, true);
    build_commit(&b);
    expect_replica(w);
    assert_int_equal(volume_status(w, "data").size, w->size);
    site_restart(w);
    expect_replica(w);
}

/* A later full makes all that lies before it superfluous. */
static void test_later_full(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256];
    begin(w);
    build_begin(&b, w, 0, 9, 0);
    for (uint64_t at = 0; at < 4 * MIB; at += MIB)
        build_data(&b, at, MIB);
    build_end(&b, false);
    build_commit(&b);
    /* Half of a resync: the last good point stays. */
    site_restart(w);
    for (int i = 0; i < 20; i++)
        turn(w);
    assert_int_equal(volume_status(w, "data").replica_seq, 2);
    assert_false(volume_status(w, "data").replica_applying);
    build_begin(&b, w, 0, 9, 1);
    build_zero(&b, 4 * MIB, w->size - 4 * MIB);
    build_end(&b, true);
    build_commit(&b);
    increment(w);
    expect_replica(w);
    /* Built anew, it need not read what the full hides. */
    site_stop(w);
    file_path(w, path, "replica.state");
    assert_int_equal(unlink(path), 0);
    site_start(w);
    expect_replica(w);
}

static void test_none(void **state)
{
    struct world *w = *state;
    char path[256];
    w->replica = "none";
    site_start(w);
    seed(w);
    assert_false(volume_status(w, "data").replica_on);
    file_path(w, path, "replica.img");
    assert_int_not_equal(access(path, F_OK), 0);
    w->replica = "image";
    site_restart(w);
    expect_replica(w);
}

/* More segments with chunks than are kept open, all needed by one that has data of its own before
 * and behind them: it must not be closed under the walk over it. */
static void test_many_segments_of_chunks(void **state)
{
    struct world *w = *state;
    struct build b;
    static uint8_t chunks[17][REPL_CHUNK_SIZE];
    site_start(w);
    seed(w);
    for (unsigned i = 0; i < 17; i++) {
        build_begin(&b, w, w->head.to_seq, w->head.to_seq + 1, 0);
        build_data(&b, i * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
        build_end(&b, true);
        build_commit(&b);
        memcpy(chunks[i], w->model + i * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    }
    expect_replica(w);
    build_begin(&b, w, w->head.to_seq, w->head.to_seq + 1, 0);
    build_data(&b, 0, REPL_PAGE_SIZE);
    for (unsigned i = 0; i < 17; i++)
        build_chunk(&b, (30 + i) * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunks[i], 0);
    build_data(&b, w->size - REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
    expect_replica(w);
}

/* --- other targets --------------------------------------------------------------------------- */

static void test_file_elsewhere(void **state)
{
    struct world *w = *state;
    static char path[128];
    snprintf(path, sizeof path, "%s/elsewhere.img", w->directory);
    w->replica = path;
    begin(w);
    /* Back and forth between two targets: what is known of one is not believed of the other. */
    w->replica = "image";
    site_restart(w);
    expect_replica(w);
    increment(w);
    expect_replica(w);
    w->replica = path;
    site_restart(w);
    expect_replica(w);
}

/* Under the path lies another file of the same size: nothing that is known is about it. */
static void test_file_swapped(void **state)
{
    struct world *w = *state;
    static char path[128], aside[160];
    snprintf(path, sizeof path, "%s/elsewhere.img", w->directory);
    snprintf(aside, sizeof aside, "%s.aside", path);
    w->replica = path;
    begin(w);
    site_stop(w);
    assert_int_equal(rename(path, aside), 0);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, (off_t)w->size), 0);
    close(fd);
    site_start(w);
    PUMP_UNTIL(w, replica_equals_model(w));
    expect_replica(w);
}

static void test_image_swapped(void **state)
{
    struct world *w = *state;
    char path[256], aside[300];
    begin(w);
    site_stop(w);
    replica_path(w, path);
    snprintf(aside, sizeof aside, "%s.aside", path);
    assert_int_equal(rename(path, aside), 0);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, (off_t)w->size), 0);
    close(fd);
    site_start(w);
    PUMP_UNTIL(w, replica_equals_model(w));
    expect_replica(w);
}

static void test_locked_file(void **state)
{
    struct world *w = *state;
    static char path[128];
    snprintf(path, sizeof path, "%s/elsewhere.img", w->directory);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    w->replica = path;
    site_start(w);
    seed(w);
    struct repl_report message = {.state = REPL_STATE_OK, .sent_ns = repl_now_wall_ns()};
    assert_int_equal(report(w, &message), 200);
    PUMP_UNTIL(w, volume_status(w, "data").state == REPL_STATE_DEGRADED);
    struct repl_volume_status status = volume_status(w, "data");
    assert_non_null(strstr(status.cause, "another process holds"));
    assert_int_equal(status.point.seq, 1); /* the history goes on without it */
    close(fd);
    expect_replica(w);
    assert_int_equal(volume_status(w, "data").state, REPL_STATE_OK);
}

/* A disk under the replica that hangs holds up nothing but itself, and is seen. */
static void test_hangs(void **state)
{
    struct world *w = *state;
    struct repl_error err = {0};
    repl_loop_free(w->loop);
    must(repl_loop_new(&(struct repl_loop_options){.workers = 1}, &w->loop, &err), &err);
    begin(w);
    struct repl_report message = {.state = REPL_STATE_OK, .sent_ns = repl_now_wall_ns()};
    assert_int_equal(report(w, &message), 200);
    struct repl_replica *replica = data_volume(w)->replica;
    assert_int_equal(volume_status(w, "data").replica_behind_ms, 0);
    repl_replica_set_stall(replica, SECOND_NS / 5);
    atomic_store(&repl_replica_target(replica)->held, true);
    increment(w);
    increment(w);
    PUMP_UNTIL(w, volume_status(w, "data").state == REPL_STATE_DEGRADED);
    struct repl_volume_status status = volume_status(w, "data");
    assert_non_null(strstr(status.cause, "nothing has been written"));
    assert_int_equal(status.point.seq, 4);
    assert_int_equal(status.replica_seq, 2);
    assert_in_range(status.replica_behind_ms, 200, TIME_LIMIT_MS);
    atomic_store(&repl_replica_target(replica)->held, false);
    expect_replica(w);
    assert_int_equal(volume_status(w, "data").replica_behind_ms, 0);
    assert_int_equal(volume_status(w, "data").state, REPL_STATE_OK);
}

struct blockade {
    struct repl_job job;
    atomic_bool held;
    bool ended;
};

static void blockade_work(struct repl_job *job)
{
    struct blockade *blockade = job->context;
    while (atomic_load(&blockade->held))
        usleep(10000);
}

static void blockade_done(struct repl_job *job)
{
    struct blockade *blockade = job->context;
    blockade->ended = true;
}

/* One that waits for a thread says so, and nothing of its own disk. */
static void test_waits_its_turn(void **state)
{
    struct world *w = *state;
    struct blockade blockades[16] = {0}; /* more than there are threads */
    begin(w);
    struct repl_report message = {.state = REPL_STATE_OK, .sent_ns = repl_now_wall_ns()};
    assert_int_equal(report(w, &message), 200);
    expect_replica(w);
    for (size_t i = 0; i < 16; i++) {
        struct blockade *blockade = &blockades[i];
        atomic_store(&blockade->held, true);
        blockade->job =
            (struct repl_job){.work = blockade_work, .done = blockade_done, .context = blockade};
        repl_pool_work(w->site->replica_pool, &blockade->job);
    }
    repl_replica_set_stall(data_volume(w)->replica, SECOND_NS / 5);
    increment(w);
    PUMP_UNTIL(w, volume_status(w, "data").state == REPL_STATE_DEGRADED);
    struct repl_volume_status status = volume_status(w, "data");
    assert_non_null(strstr(status.cause, "waited its turn"));
    assert_null(strstr(status.cause, "replica.img"));
    for (size_t i = 0; i < 16; i++)
        atomic_store(&blockades[i].held, false);
    for (size_t i = 0; i < 16; i++)
        PUMP_UNTIL(w, blockades[i].ended);
    expect_replica(w);
    assert_int_equal(volume_status(w, "data").state, REPL_STATE_OK);
}

static void test_no_such_target(void **state)
{
    struct world *w = *state;
    char link[128];
    const struct {
        const char *path, *words;
        bool missing;
    } targets[] = {
        {"/dev/repl-no-such-device", "is not there", true},
        {"/dev/mapper/repl-no/such", "is not there", true},
        {link, "leads nowhere", true},
        {"/dev/null", "neither a block device nor a file", false},
    };
    snprintf(link, sizeof link, "%s/link", w->directory);
    assert_int_equal(symlink("/dev/repl-no-such-device", link), 0);
    w->replica = targets[0].path;
    site_start(w);
    seed(w);
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        struct repl_replica_status status;
        w->replica = targets[i].path;
        site_restart(w);
        PUMP_UNTIL(w,
                   (repl_replica_look(data_volume(w)->replica, &status), status.problem[0] != 0));
        if (strstr(status.problem, targets[i].words) == NULL)
            fail_msg("%s: %s", targets[i].path, status.problem);
        assert_true(targets[i].missing == (access(targets[i].path, F_OK) != 0));
    }
}

/* Below /dev, and no device's name all the same. */
static void test_shared_memory(void **state)
{
    struct world *w = *state;
    struct stat dev, shm, made;
    char path[64];
    if (stat("/dev", &dev) != 0 || stat("/dev/shm", &shm) != 0 || dev.st_dev == shm.st_dev)
        skip(); /* no filesystem of its own there */
    snprintf(path, sizeof path, "/dev/shm/repl-replica-%d", getpid());
    w->replica = path;
    site_start(w);
    seed(w);
    expect_replica(w);
    assert_int_equal(stat(path, &made), 0);
    assert_true(S_ISREG(made.st_mode));
    assert_int_equal(unlink(path), 0);
}

/* It is to be seen whatever else is the matter with the volume. */
static void test_problem_beside_another(void **state)
{
    struct world *w = *state;
    w->replica = "/dev/repl-no-such-device";
    site_start(w);
    seed(w);
    struct repl_report message = {
        .state = REPL_STATE_DEGRADED, .cause = "a program was lost", .sent_ns = repl_now_wall_ns()};
    assert_int_equal(report(w, &message), 200);
    PUMP_UNTIL(w, volume_status(w, "data").replica_problem[0] != '\0');
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_DEGRADED);
    assert_string_equal(status.cause, "a program was lost");
    assert_non_null(strstr(status.replica_problem, "is not there"));
    message = (struct repl_report){.state = REPL_STATE_OK, .sent_ns = repl_now_wall_ns()};
    assert_int_equal(report(w, &message), 200);
    status = volume_status(w, "data");
    assert_non_null(strstr(status.cause, "the replica cannot follow"));
    assert_non_null(strstr(status.replica_problem, "is not there"));
}

/* --- a device -------------------------------------------------------------------------------- */

/* A loop device over the file name of size bytes; skips where there is none to be had. */
static int loop_attach(struct world *w, const char *name, uint64_t size, char path[64])
{
    char file[128];
    snprintf(file, sizeof file, "%s/%s", w->directory, name);
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    if (control >= 0)
        close(control);
    if (number < 0)
        skip();
    snprintf(path, 64, "/dev/loop%d", number);
    int backing = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(backing, (off_t)size), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool attached = fd >= 0 && ioctl(fd, LOOP_SET_FD, backing) == 0;
    close(backing);
    if (!attached)
        skip();
    return fd;
}

static void loop_detach(int fd)
{
    ioctl(fd, LOOP_CLR_FD, 0);
    close(fd);
}

static void test_device(void **state)
{
    struct world *w = *state;
    static char path[64];
    int loop = loop_attach(w, "device", w->size + MIB, path);
    w->replica = path;
    begin(w);
    for (int i = 0; i < 3; i++)
        increment(w);
    expect_replica(w);
    /* Nobody can take it from us. */
    int fd = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
    assert_true(fd < 0 && errno == EBUSY);
    site_restart(w);
    increment(w);
    expect_replica(w);
    site_stop(w);
    loop_detach(loop);
}

static void test_device_refused(void **state)
{
    struct world *w = *state;
    struct repl_replica_status status;
    char file[128];
    static char path[64];
    int loop = loop_attach(w, "device", w->size - 5 * REPL_PAGE_SIZE, path);
    int holder = open(path, O_RDWR | O_EXCL | O_CLOEXEC);
    assert_true(holder >= 0);
    w->replica = path;
    site_start(w);
    seed(w);
    PUMP_UNTIL(w, (repl_replica_look(data_volume(w)->replica, &status),
                   strstr(status.problem, "in use") != NULL));
    close(holder);
    PUMP_UNTIL(w, (repl_replica_look(data_volume(w)->replica, &status),
                   strstr(status.problem, "enlarge the device") != NULL));
    snprintf(file, sizeof file, "%s/device", w->directory);
    assert_int_equal(truncate(file, (off_t)w->size), 0);
    assert_int_equal(ioctl(loop, LOOP_SET_CAPACITY), 0);
    expect_replica(w);
    site_stop(w);
    loop_detach(loop);
}

/* Under the name of the device comes another one: it is not written to until it is told to. */
static void test_device_swapped(void **state)
{
    struct world *w = *state;
    struct repl_replica_status status;
    struct stat untouched;
    char first[64], second[64], file[128];
    static char path[128];
    int loop = loop_attach(w, "device", w->size, first);
    int another = loop_attach(w, "another", w->size, second);
    snprintf(path, sizeof path, "%s/disk", w->directory);
    assert_int_equal(symlink(first, path), 0);
    w->replica = path;
    begin(w);
    site_stop(w);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(second, path), 0);
    site_start(w);
    PUMP_UNTIL(w, (repl_replica_look(data_volume(w)->replica, &status),
                   strstr(status.problem, "not the device") != NULL));
    snprintf(file, sizeof file, "%s/another", w->directory);
    assert_int_equal(stat(file, &untouched), 0);
    assert_int_equal(untouched.st_blocks, 0);
    site_stop(w);
    /* The right one again. */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(first, path), 0);
    site_start(w);
    increment(w);
    expect_replica(w);
    site_stop(w);
    loop_detach(another);
    loop_detach(loop);
}

/* The same while the site runs: what is open is given up, and what is there now looked at. */
static void test_device_replaced(void **state)
{
    struct world *w = *state;
    struct repl_replica_status status;
    struct stat before, after;
    char first[64], second[64], file[128];
    static char path[128];
    int loop = loop_attach(w, "device", w->size, first);
    int another = loop_attach(w, "another", w->size, second);
    snprintf(path, sizeof path, "%s/disk", w->directory);
    assert_int_equal(symlink(first, path), 0);
    w->replica = path;
    begin(w);
    snprintf(file, sizeof file, "%s/device", w->directory);
    assert_int_equal(stat(file, &before), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(second, path), 0);
    increment(w);
    PUMP_UNTIL(w, (repl_replica_look(data_volume(w)->replica, &status),
                   strstr(status.problem, "not the device") != NULL));
    assert_int_equal(stat(file, &after), 0);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    snprintf(file, sizeof file, "%s/another", w->directory);
    assert_int_equal(stat(file, &after), 0);
    assert_int_equal(after.st_blocks, 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(first, path), 0);
    expect_replica(w);
    site_stop(w);
    loop_detach(another);
    loop_detach(loop);
}

/* What a device holds that no state calls ours is not overwritten. */
static void test_device_foreign(void **state)
{
    struct world *w = *state;
    static const struct {
        off_t offset;
        const char *magic, *words;
    } marks[] = {
        {0x438, "\x53\xef", "ext4"},        {0, "XFSB", "xfs"},
        {0x10040, "_BHRfS_M", "btrfs"},     {512, "LABELONE", "LVM"},
        {4086, "SWAPSPACE2", "swap"},       {510, "\x55\xaa", "partition table"},
        {512, "EFI PART", "GPT"},           {130 * 1024, "\x0c\xb1\xba", "ZFS"},
        {4096, "\xfc\x4e\x2b\xa9", "RAID"},
    };
    static uint8_t nothing[16];
    static char path[64];
    struct repl_replica_status status;
    int loop = loop_attach(w, "device", w->size, path);
    w->replica = path;
    site_start(w);
    seed(w);
    expect_replica(w);
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        char state_path[256], directory[256];
        site_stop(w);
        assert_int_equal(ioctl(loop, BLKZEROOUT, ((uint64_t[]){0, MIB})), 0);
        assert_int_equal(pwrite(loop, marks[i].magic, strlen(marks[i].magic), marks[i].offset),
                         strlen(marks[i].magic));
        file_path(w, directory, "");
        assert_true(repl_replica_state_path(directory, path, state_path, sizeof state_path));
        assert_int_equal(unlink(state_path), 0);
        site_start(w);
        PUMP_UNTIL(w,
                   (repl_replica_look(data_volume(w)->replica, &status), status.problem[0] != 0));
        if (strstr(status.problem, marks[i].words) == NULL)
            fail_msg("%s: %s", marks[i].words, status.problem);
        assert_non_null(strstr(status.problem, "wipefs -a"));
        assert_int_equal(pwrite(loop, nothing, strlen(marks[i].magic), marks[i].offset),
                         strlen(marks[i].magic));
        expect_replica(w);
    }
    /* Our own, and what the volume itself holds on it, is no stranger. */
    struct build b;
    build_begin(&b, w, w->head.to_seq, w->head.to_seq + 1, 0);
    build_data(&b, 0, REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
    expect_replica(w);
    site_stop(w);
    assert_int_equal(pwrite(loop, "XFSB", 4, 0), 4);
    site_start(w);
    increment(w);
    PUMP_UNTIL(w, replica_is_at(w, w->head.to_seq));
    site_stop(w);
    loop_detach(loop);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_state_rolled_back),
        TEST(test_state_lost_or_damaged),
        TEST(test_crash_while_applying),
        TEST(test_state_of_another_history),
        TEST(test_failed_sync),
        TEST(test_image_deleted),
        TEST(test_image_is_sparse),
        TEST(test_growth),
        TEST(test_later_full),
        TEST(test_none),
        TEST(test_shared_memory),
        TEST(test_problem_beside_another),
        TEST(test_many_segments_of_chunks),
        TEST(test_file_elsewhere),
        TEST(test_locked_file),
        TEST(test_hangs),
        TEST(test_waits_its_turn),
        TEST(test_no_such_target),
        TEST(test_device),
        TEST(test_device_refused),
        TEST(test_device_swapped),
        TEST(test_device_replaced),
        TEST(test_device_foreign),
        TEST(test_file_swapped),
        TEST(test_image_swapped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
