/*
 * A whole site whose disk, log or index fails in the middle of what it does, or
 * is full.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <sys/mount.h>

#include "site/index/index_internal.h"
#include "site/site_volume.h"
#include "store/store_posix_internal.h"
#include "unit/agent/site/site_world.h"

/* --- a disk that fails in the middle of a commit --------------------------------------------- */

static atomic_int syncs_to_fail;

static int failing_fdatasync(int fd)
{
    if (atomic_fetch_sub(&syncs_to_fail, 1) > 0) {
        errno = EIO;
        return -1;
    }
    return fdatasync(fd);
}

static int failing_fsync(int fd)
{
    if (atomic_fetch_sub(&syncs_to_fail, 1) > 0) {
        errno = EIO;
        return -1;
    }
    return fsync(fd);
}

static struct posix_store_calls *store_calls(struct world *w)
{
    return &posix_store_of(repl_store_counted_inner(w->site->store))->calls;
}

/* Segment 2 comes, and the sync of the log fails, or the one before it of what is published. */
static void commit_fails(struct world *w, struct build *b, bool log)
{
    seed(w);
    build_big(b, w);
    if (log)
        store_calls(w)->fdatasync = failing_fdatasync;
    else
        store_calls(w)->fsync = failing_fsync;
    atomic_store(&syncs_to_fail, 1);
    build_put(b);
    expect_refusal(w, 500, REPL_REFUSAL_INTERNAL, "see its log");
}

/* The record may be in the log or not; the source sends the segment again. */
static void test_log_fails(void **state)
{
    struct world *w = *state;
    struct build b;
    commit_fails(w, &b, true);
    assert_int_equal(hello(w).head.to_seq, 1);
    assert_int_equal(build_put(&b), 201);
    build_taken(&b);
    build_fini(&b);
    increment(w);
    expect_replica(w);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 3);
}

/* The same, and the process dies: the record was in the log, so it counts, and its segment has to
 * be there. */
static void test_log_fails_and_crash(void **state)
{
    struct world *w = *state;
    struct build b;
    commit_fails(w, &b, true);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 2);
    assert_int_equal(build_put(&b), 201);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

/* The source gives that segment up and sends another one: nothing is left of the first. */
static void test_log_fails_and_another_comes(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256];
    commit_fails(w, &b, true);
    build_fini(&b);
    file_path(w, path, "segments/00000000000000000002.000000.seg");
    assert_true(exists(path));
    build_begin(&b, w, 1, 3, 0);
    for (unsigned i = 0; i < 4; i++)
        build_data(&b, (uint64_t)i * MIB, MIB);
    build_end(&b, true);
    build_commit(&b);
    assert_false(exists(path));
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 3);
    expect_replica(w);
}

static void test_publish_fails(void **state)
{
    struct world *w = *state;
    struct build b;
    commit_fails(w, &b, false);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 1);
    build_commit(&b);
    expect_replica(w);
}

static void test_report_log_fails(void **state)
{
    struct world *w = *state;
    struct repl_report message = {.state = REPL_STATE_DEGRADED, .cause = "x"};
    seed(w);
    store_calls(w)->fdatasync = failing_fdatasync;
    atomic_store(&syncs_to_fail, 1);
    message.sent_ns = repl_now_wall_ns();
    assert_int_equal(report(w, &message), 500);
    assert_int_equal(report(w, &message), 200);
    increment(w);
    expect_replica(w);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 2);
}

/* The log has a record that the index could not take. */
static void test_index_fails(void **state)
{
    struct world *w = *state;
    seed(w);
    site_find_volume(w->site, "data")->index_behind = true; /* it would do no harm if it were so */
    increment(w);
    expect_replica(w);
    assert_false(site_find_volume(w->site, "data")->index_behind);
}

static unsigned points_count(struct world *w)
{
    struct repl_points_page page;
    struct repl_error err = {0};
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 200);
    must(repl_points_page_decode(w->response.data, w->response.size, &page, &err), &err);
    unsigned count = page.count;
    repl_points_page_fini(&page);
    return count;
}

/* The disk is full for the index alone: a list without the last point would pass for a whole one.
 * The tick mends it, without a further commit. */
static void test_index_full(void **state)
{
    struct world *w = *state;
    seed(w);
    expect_replica(w);
    struct site_volume *v = site_find_volume(w->site, "data");
    PUMP_UNTIL(w, !w->site->index_dirty && !w->site->syncing);
    assert_int_equal(points_count(w), 1);
    repl_index_break_sync(w->site->index, 1, ENOSPC);
    /* What follows at once is in vain too. */
    v->index_vain = true;
    increment(w);
    assert_true(v->index_behind);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 503);
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "index");
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/segments/after/0.0"), 503);
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_DEGRADED);
    assert_non_null(strstr(status.cause, "the index is not complete"));
    PUMP_UNTIL(w, !v->index_behind);
    assert_int_equal(points_count(w), 2);
    assert_null(strstr(volume_status(w, "data").cause, "the index is not complete"));
    expect_replica(w);
    /* In the ordinary case nobody waits for the tick. */
    PUMP_UNTIL(w, !w->site->index_dirty && !w->site->syncing);
    repl_index_break_sync(w->site->index, 1, ENOSPC);
    increment(w);
    increment(w);
    PUMP_UNTIL(w, !v->index_behind);
    assert_int_equal(points_count(w), 4);
    expect_replica(w);
}

/* A sync of the index fails: it is made anew while the site runs, and the replica stays. */
static void test_index_sync_fails(void **state)
{
    struct world *w = *state;
    struct build b;
    static uint8_t chunks[2 * REPL_CHUNK_SIZE];
    struct stat before, after, image, image_after;
    uint64_t count, count_after;
    char path[256];
    struct repl_error err = {0};
    seed(w);
    build_with_missing(&b, w, chunks);
    build_put(&b);
    supply_give(w, chunks, 2);
    build_commit(&b);
    expect_replica(w);
    struct site_volume *v = site_find_volume(w->site, "data");
    snprintf(path, sizeof path, "%s/index.lmdb", w->store);
    assert_int_equal(stat(path, &before), 0);
    must(repl_index_entry_count(w->site->index, &count, &err), &err);
    replica_path(w, path);
    assert_int_equal(stat(path, &image), 0);

    repl_index_break_sync(w->site->index, 1, EIO);
    increment(w); /* breaks it; the history goes on */
    PUMP_UNTIL(w, w->site->index_generation == 1 && !v->index_behind);
    snprintf(path, sizeof path, "%s/index.lmdb", w->store);
    assert_int_equal(stat(path, &after), 0);
    assert_true(before.st_ino != after.st_ino || before.st_ctim.tv_nsec != after.st_ctim.tv_nsec);
    must(repl_index_entry_count(w->site->index, &count_after, &err), &err);
    assert_true(count_after > count);
    increment(w);
    expect_replica(w);
    replica_path(w, path);
    assert_int_equal(stat(path, &image_after), 0);
    assert_true(image.st_ino == image_after.st_ino);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/3"), 200);
    site_restart(w);
    increment(w);
    expect_replica(w);
}

/* What waits for the index meanwhile goes into it in one transaction; where that fails, each alone.
 */
static void waiting_go_together(struct world *w, enum repl_state state, bool fails)
{
    static const char *const names[] = {"data", "spare"};
    struct repl_report message = {.state = state, .cause = "x", .sent_ns = repl_now_wall_ns()};
    struct repl_buffer body = {0};
    struct repl_error err = {0};
    struct call calls[2];
    MDB_envinfo before, after;
    unsigned waiting = 0;
    must(repl_report_encode(&message, &body, &err), &err);
    w->site->tick.fire(&w->site->tick);
    PUMP_UNTIL(w, !w->site->index_dirty && !w->site->syncing && w->site->jobs == 0);
    pthread_mutex_lock(&w->site->index_lock);
    if (fails)
        repl_index_break_sync(w->site->index, 1, ENOSPC);
    mdb_env_info(w->site->index->env, &before);
    for (int i = 0; i < 2; i++) {
        call_init(&calls[i], w, "POST", "/v1/volumes/%s/report", names[i]);
        calls[i].request.body = body.data;
        calls[i].request.body_size = body.size;
        must(repl_request_start(w->clients[KEY_HOST], &calls[i].request, &err), &err);
    }
    while (waiting < 2) {
        turn(w);
        pthread_mutex_lock(&w->site->waiting_lock);
        waiting = 0;
        for (const struct site_append *a = w->site->waiting; a != NULL; a = a->next)
            waiting++;
        pthread_mutex_unlock(&w->site->waiting_lock);
    }
    pthread_mutex_unlock(&w->site->index_lock);
    PUMP_UNTIL(w, calls[0].done && calls[1].done);
    assert_int_equal(w->status, 200);
    mdb_env_info(w->site->index->env, &after);
    assert_int_equal(after.me_last_txnid - before.me_last_txnid, fails ? 2 : 1);
    for (int i = 0; i < 2; i++)
        assert_false(site_find_volume(w->site, names[i])->index_behind);
    repl_buffer_fini(&body);
}

static void test_index_in_one_transaction(void **state)
{
    struct world *w = *state;
    struct repl_hello spare = hello_of(w);
    seed(w);
    expect_replica(w);
    spare.volume.bytes[0]++;
    assert_int_equal(hello_as(w, KEY_HOST, "spare", &spare), 200);
    waiting_go_together(w, REPL_STATE_NO_WINDOW, false);
    waiting_go_together(w, REPL_STATE_DEGRADED, true);
    increment(w);
    expect_replica(w);
}

/* --- a full disk ----------------------------------------------------------------------------- */

static void test_no_space(void **state)
{
    struct world *w = *state;
    struct build b;
    char ballast[128];
    static uint8_t block[MIB];
    site_stop(w);
    if (geteuid() != 0)
        skip();
    nftw(w->store, tree_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    mkdir(w->store, 0700);
    if (mount("none", w->store, "tmpfs", 0, "size=24m") != 0)
        skip();
    w->limits = "space_reserve = 0\n";
    site_start(w);
    seed(w);
    expect_replica(w);
    snprintf(ballast, sizeof ballast, "%s/volumes/data/ballast", w->store);
    int fd = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    while (write(fd, block, sizeof block) > 0)
        continue;
    assert_int_equal(errno, ENOSPC);
    build_big(&b, w);
    build_put(&b);
    expect_refusal(w, 507, REPL_REFUSAL_NO_SPACE, "full");
    assert_int_equal(hello(w).head.to_seq, 1);
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_REFUSED);
    assert_non_null(strstr(status.cause, "No space left on device"));
    assert_int_equal(unlink(ballast), 0);
    close(fd);
    assert_int_equal(build_put(&b), 201);
    assert_true(volume_status(w, "data").state < REPL_STATE_REFUSED);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 2);
    site_stop(w);
    assert_int_equal(umount(w->store), 0);
}

static int teardown_mount(void **state)
{
    struct world *w = *state;
    if (w->site != NULL)
        site_stop(w);
    umount2(w->store, MNT_DETACH);
    world_fini(w);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SITE_TEST(test_log_fails),
        SITE_TEST(test_index_full),
        SITE_TEST(test_index_in_one_transaction),
        SITE_TEST(test_log_fails_and_crash),
        SITE_TEST(test_log_fails_and_another_comes),
        SITE_TEST(test_publish_fails),
        SITE_TEST(test_report_log_fails),
        SITE_TEST(test_index_fails),
        SITE_TEST(test_index_sync_fails),
        cmocka_unit_test_setup_teardown(test_no_space, site_setup, teardown_mount),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
