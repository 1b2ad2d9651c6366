/*
 * A site whose disk is full, at each of its writes: while it takes in a history with a supply,
 * brings its replica forward, merges and writes its log anew, the n-th call that asks the disk for
 * something finds it full, and so do all later ones until there is room, or that one alone. Then
 * taking in has stopped and says so; nothing that was acknowledged is missing, also after a
 * restart; and all of it goes on by itself. So too with a tree, whose replica is a directory, and
 * where the store is a bucket and the disk has what is the site's own.
 *
 *   FULL_DISK=all test_full_disk     at each of them, not at some
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/segment/tree_list.h" /* whose variables come before the world's */

#include "site/replica/replica_internal.h"
#include "site/site_volume.h"
#include "unit/agent/disk_calls.h"
#include "unit/agent/site/compactor/compactor_world.h"
#include "unit/sanitized.h"

#define POINTS        9u
#define POINTS_MERGED 27u
#define LINK_SEQ      3u
#define LINK_OBJECT   90u
#define LINK_TARGET   "2"
#define SECOND_SEQ    5u

#define RUNS_SHORT     (SANITIZED ? 5u : 16u)
#define RUNS_FEW       (SANITIZED ? 2u : 5u)
#define GO_ON_NS       (INT64_C(30) * 1000000000)
#define RETENTION_ALL  NULL
#define RETENTION_SOME "12s:1h 1h:1d"

/* What is done, with what, and how long the disk is full. */
struct course {
    bool merged; /* what has been taken in is; else it is taken in */
    bool tree, bucket;
    bool once;
};
static struct course course;

/* --- the disk -------------------------------------------------------------------------------- */

static atomic_long disk_calls, disk_full_at; /* 0: never */
static atomic_bool disk_is_full, disk_has_stopped;

/* One more call: is the disk full for it? */
static bool disk_stops_call(bool removes)
{
    if (removes)
        return false;
    long call = atomic_fetch_add(&disk_calls, 1) + 1;
    if (call == atomic_load(&disk_full_at)) {
        atomic_store(&disk_is_full, !course.once);
        atomic_store(&disk_has_stopped, true);
    } else if (!atomic_load(&disk_is_full)) {
        return false;
    }
    errno = ENOSPC;
    return true;
}

/* What there is room for is written, and it is less. */
static size_t half_of(size_t size)
{
    return size > 1 && disk_path[0] != '\0' && atomic_load(&disk_calls) % 3 == 0 ? size / 2 : 0;
}

static ssize_t disk_pwrite(int fd, const void *data, size_t size, off_t offset)
{
    bool was_full = atomic_load(&disk_is_full);
    if (!disk_stops_fd(fd))
        return syscall(SYS_pwrite64, fd, data, size, offset);
    size_t some = was_full ? 0 : half_of(size);
    return some > 0 ? syscall(SYS_pwrite64, fd, data, some, offset) : -1;
}

static void disk_begin(long full_at)
{
    atomic_store(&disk_calls, 0);
    atomic_store(&disk_full_at, full_at);
}

static void disk_has_room(void)
{
    atomic_store(&disk_full_at, 0);
    atomic_store(&disk_is_full, false);
    atomic_store(&disk_has_stopped, false);
}

/* --- the source ------------------------------------------------------------------------------ */

static unsigned refusals, stops_seen /* of a replica */;

/* What the site does every few seconds, without the seconds. */
static void tick(void)
{
    const struct site_volume *v = site_find_volume(w.site, "data");
    w.site->tick.fire(&w.site->tick);
    if (v != NULL && v->replica != NULL && v->replica->waiting) {
        repl_timer_cancel(&v->replica->retry);
        v->replica->retry.fire(&v->replica->retry);
    }
    PUMP_UNTIL(&w, w.site->jobs == 0);
}

/* Taking in has stopped, and says so; then there is room. An index that could not be written is
 * given up, and what needs it is refused, until it is made anew, which is soon. */
static void refused(const char *what)
{
    struct repl_volume_status status = volume_status(&w, "data");
    bool broken = repl_index_is_broken(w.site->index),
         full = w.refusal.code == REPL_REFUSAL_NO_SPACE;
    bool index =
        w.refusal.code == REPL_REFUSAL_BUSY || (w.refusal.code == REPL_REFUSAL_INTERNAL && broken);
    if (!index && (!full || (!atomic_load(&disk_has_stopped) && !broken)))
        fail_msg("call %ld, %s: answered %d, code %d: %s", atomic_load(&disk_calls), what, w.status,
                 w.refusal.code, w.refusal.text);
    if (full && (status.name[0] == '\0' || status.state != REPL_STATE_REFUSED))
        fail_msg("call %ld, %s: the state is %s: %s", atomic_load(&disk_calls), what,
                 repl_state_name(status.state), status.cause);
    refusals++;
    disk_has_room();
    if (index || broken)
        tick();
}

static struct repl_welcome greet(void)
{
    struct repl_hello message = hello_of(&w);
    struct repl_welcome welcome;
    struct repl_error err = {0};
    if (hello_as(&w, KEY_HOST, "data", &message) != 200) {
        refused("hello");
        assert_int_equal(hello_as(&w, KEY_HOST, "data", &message), 200);
    }
    must(repl_welcome_decode(w.response.data, w.response.size, &welcome, &err), &err);
    return welcome;
}

static int segment_put(const struct build *b)
{
    struct repl_welcome welcome = greet();
    uint64_t from = welcome.staged_to_seq == b->header.to_seq ? welcome.staged_bytes : 0;
    return put(&w, b->header.to_seq, 0, from, b->file.bytes.data + from, b->file.bytes.size - from);
}

static void supply_send(const uint8_t *chunk)
{
    struct build supply;
    supply_build(&supply, &w, chunk, 1);
    for (unsigned tries = 0; supply_put(&supply, 1) != 201; tries++) {
        assert_true(tries < 3);
        refused("a supply");
        greet();
    }
    build_fini(&supply);
}

/* As a source does: what is refused comes again. */
static void segment_send(struct build *b, const uint8_t *chunk)
{
    unsigned tries = 0;
    while (segment_put(b) != 201) {
        assert_true(++tries < 4);
        if (w.status == 409)
            supply_send(chunk);
        else
            refused("a segment");
    }
    assert_true(repl_digest_equal(&w.ack.head.digest, &b->footer.digest));
    build_taken(b);
    build_fini(b);
    point_keep();
}

static void report_send(void)
{
    struct repl_report message = {.state = REPL_STATE_OK, .sent_ns = repl_now_wall_ns()};
    message.state = w.head.to_seq % 2 == 0 ? REPL_STATE_OK : REPL_STATE_DEGRADED;
    if (report(&w, &message) != 200) {
        refused("a report");
        assert_int_equal(report(&w, &message), 200);
    }
}

static void name_say(struct list *list, uint64_t directory, const char *a, uint64_t a_is,
                     const char *b, uint64_t b_is)
{
    bool in_order = repl_xxh3(a, strlen(a)) < repl_xxh3(b, strlen(b));
    list_name(list, directory, in_order ? a : b, in_order ? a_is : b_is);
    list_name(list, directory, in_order ? b : a, in_order ? b_is : a_is);
}

static void file_say(struct list *list, uint64_t object, uint64_t size, uint64_t place)
{
    struct repl_node node = tree_file(size);
    node.flags = 0; /* that would keep the replica's from being removed */
    list_node(list, object, node);
    list_run(list, object, 0, size, place);
}

/* One file is all of the space and is renamed by each point, which also makes a small one of what
 * another stretch of it has: in a directory, where one of them gets a symbolic link beside it, one
 * a second name. */
static void records_say(struct list *list, uint64_t seq)
{
    char name[16];
    if (seq == 1) {
        list_node(list, 2, tree_directory);
        name_say(list, 2, "odd", 3, "directory", 4);
        file_say(list, 3, w.size, 0);
        list_node(list, 4, tree_directory);
        return;
    }
    name_say(list, 2, "odd", seq % 2 == 1 ? 3 : 0, "even", seq % 2 == 0 ? 3 : 0);
    snprintf(name, sizeof name, "%llu", (unsigned long long)seq);
    if (seq == LINK_SEQ)
        name_say(list, 4, name, 100 + seq, "link", LINK_OBJECT);
    else if (seq == SECOND_SEQ)
        name_say(list, 4, name, 100 + seq, "second", 100 + seq);
    else
        list_name(list, 4, name, 100 + seq);
    if (seq == LINK_SEQ)
        list_node(list, LINK_OBJECT,
                  (struct repl_node){.kind = REPL_NODE_SYMLINK,
                                     .mode = 0777,
                                     .target = LINK_TARGET,
                                     .target_size = strlen(LINK_TARGET)});
    file_say(list, 100 + seq, REPL_PAGE_SIZE, (seq % 4) * REPL_CHUNK_SIZE);
}

static void point_send(uint64_t seq)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct list list = {.at = 0};
    struct build b;
    build_begin(&b, &w, seq - 1, seq, 0);
    if (seq == 1) {
        build_data(&b, 0, w.size);
    } else {
        build_data(&b, (seq % 4) * REPL_CHUNK_SIZE, 3 * REPL_PAGE_SIZE);
        build_zero(&b, 6 * REPL_CHUNK_SIZE, (seq % 16 + 1) * REPL_PAGE_SIZE);
    }
    if (seq == 2) {
        random_fill(&w.random, chunk, sizeof chunk);
        build_chunk(&b, 9 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunk, 0);
    }
    if (course.tree) {
        records_say(&list, seq);
        repl_segment_builder_records(b.builder, list_next, &list);
    }
    build_end(&b, true);
    repl_buffer_fini(&list.bytes);
    segment_send(&b, chunk);
}

/* --- the site -------------------------------------------------------------------------------- */

static void world_begin(void)
{
    world_init(&w, NULL);
    snprintf(disk_path, sizeof disk_path, "%s", w.store); /* before there are threads */
    if (course.bucket)
        world_in_bucket(&w);
    w.kind = course.tree ? REPL_VOLUME_TREE : REPL_VOLUME_BLOCK;
    w.size = 12 * REPL_CHUNK_SIZE;
    w.time_ns = repl_now_wall_ns() - 600 * SECOND_NS;
    w.retention = course.merged ? RETENTION_SOME : RETENTION_ALL;
    w.limits = "space_reserve = 0\n";
    site_start(&w);
}

static void world_end(void)
{
    disk_has_room();
    end();
    disk_path[0] = '\0'; /* the service had threads too */
}

/* Visits, one after the other, until nothing is left to merge; and the log anew. */
static void merge_all(void)
{
    struct site_volume *v = site_find_volume(w.site, "data");
    for (unsigned i = 0; i < 4; i++) {
        hurry();
        memset(w.site->compactor->failures, 0, sizeof w.site->compactor->failures);
        v->checkpoint_due = i == 2;
        site_compactor_tick(w.site->compactor);
        w.site->compactor->visit_ns = INT64_MAX; /* what failed waits for the next */
        site_volume_pump(v);
        PUMP_UNTIL(&w, !site_compactor_is_busy(w.site->compactor) && !v->busy);
    }
}

static bool file_equals(const char *path, uint64_t place, uint64_t size)
{
    uint8_t *bytes = malloc(size + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0 && bytes != NULL);
    bool equal =
        pread(fd, bytes, size + 1, 0) == (ssize_t)size && memcmp(bytes, w.model + place, size) == 0;
    close(fd);
    free(bytes);
    return equal;
}

static bool directory_equals_model(void)
{
    char path[300], tree[256];
    file_path(&w, tree, "replica/tree");
    snprintf(path, sizeof path, "%s/%s", tree, w.head.to_seq % 2 == 0 ? "even" : "odd");
    bool equal = file_equals(path, 0, w.size);
    for (uint64_t seq = 2; seq <= w.head.to_seq && equal; seq++) {
        snprintf(path, sizeof path, "%s/directory/%llu", tree, (unsigned long long)seq);
        equal = file_equals(path, (seq % 4) * REPL_CHUNK_SIZE, REPL_PAGE_SIZE);
    }
    snprintf(path, sizeof path, "%s/directory/link", tree);
    if (equal && w.head.to_seq >= LINK_SEQ)
        equal = file_equals(path, 2 * REPL_CHUNK_SIZE, REPL_PAGE_SIZE);
    snprintf(path, sizeof path, "%s/directory/second", tree);
    if (equal && w.head.to_seq >= SECOND_SEQ)
        equal = file_equals(path, (SECOND_SEQ % 4) * REPL_CHUNK_SIZE, REPL_PAGE_SIZE);
    return equal;
}

/* What was hit in the background: replica, index, merges. Nobody does anything for it but make
 * room.
 */
static void expect_all_goes_on(void)
{
    disk_has_room();
    tick(); /* a log that an append has failed on is cut back */
    const struct site_volume *v = site_find_volume(w.site, "data");
    int64_t until_ns = repl_now_mono_ns() + GO_ON_NS;
    while (v->index_behind || !replica_is_at(&w, w.head.to_seq) ||
           volume_status(&w, "data").state >= REPL_STATE_REFUSED) {
        tick();
        turn(&w);
        if (repl_now_mono_ns() > until_ns) {
            struct repl_volume_status status = volume_status(&w, "data");
            fail_msg("it does not go on: %s: %s", repl_state_name(status.state), status.cause);
        }
    }
    assert_true(course.tree ? directory_equals_model() : replica_equals_model(&w));
}

static void expect_points(void)
{
    size_t segments, count = points_check(&segments);
    assert_true(course.merged ? count < POINTS_MERGED - 8 : count == POINTS);
    assert_int_equal(hello(&w).head.to_seq, course.merged ? POINTS_MERGED : POINTS);
}

/* A start while the disk is full fails with a word, or serves what there is. */
static void restart_when_full(void)
{
    struct repl_error err = {0};
    site_stop(&w);
    repl_result result = repl_site_new(w.loop, config_make(&w), &w.site, &err);
    if (!repl_ok(result) && result.code != REPL_E_NOSPACE)
        fail_msg("a start on a full disk: %s: %s", repl_code_name(result.code), err.text);
    if (repl_ok(result))
        repl_site_free(w.site);
    w.site = NULL;
    disk_has_room();
    site_start(&w);
}

/* Brings it forward, or finds that the disk is full and says so; then there is room. */
static void replica_follow(void)
{
    const struct site_volume *v = site_find_volume(w.site, "data");
    PUMP_UNTIL(&w, replica_is_at(&w, w.head.to_seq) || v->replica->waiting || v->index_behind);
    struct repl_volume_status status = volume_status(&w, "data");
    if (!v->replica->waiting)
        return;
    /* The source may say that it is degraded itself, and then its word is the cause. */
    if (status.state < REPL_STATE_DEGRADED || v->replica->status.problem[0] == '\0')
        fail_msg("call %ld: a replica stands still in silence, the state is %s",
                 atomic_load(&disk_calls), repl_state_name(status.state));
    stops_seen++;
    expect_all_goes_on();
}

static void history_send(unsigned count)
{
    for (uint64_t seq = 1; seq <= count; seq++) {
        point_send(seq);
        if (course.tree)
            replica_follow();
        report_send();
    }
}

/* How many calls there were. */
static long run(long full_at, bool restart)
{
    world_begin();
    if (course.merged) {
        history_send(POINTS_MERGED);
        expect_all_goes_on();
        disk_begin(full_at);
        merge_all();
    } else {
        disk_begin(full_at);
        history_send(POINTS);
    }
    long calls = atomic_load(&disk_calls);
    if (restart && atomic_load(&disk_is_full))
        restart_when_full();
    disk_has_room();
    expect_all_goes_on();
    if (course.merged)
        merge_all();
    expect_points();
    site_restart(&w);
    expect_all_goes_on();
    expect_points();
    world_end();
    return calls;
}

/* At each call there is, or at some that are spread over all of them. */
static void enumerate(struct course of, long runs_short)
{
    const char *how = getenv("FULL_DISK");
    bool each = how != NULL && strcmp(how, "all") == 0;
    course = of;
    refusals = stops_seen = 0;
    long calls = run(0, false), step = each ? 1 : calls / runs_short + 1, runs = 0;
    for (long at = 1; at <= calls + 1; at += step) {
        run(at, at % 2 == 0);
        runs++;
    }
    print_message(
        "%ld calls, the disk was full at %ld of them, %u requests were refused, a replica "
        "stopped %u times\n",
        calls, runs, refusals, stops_seen);
}

static void a_history_is_taken_in(void **state)
{
    (void)state;
    enumerate((struct course){.merged = false}, RUNS_SHORT);
    assert_true(refusals > 0);
}

static void points_are_merged(void **state)
{
    (void)state;
    enumerate((struct course){.merged = true}, RUNS_SHORT);
}

static void a_moment_is_enough(void **state)
{
    (void)state;
    enumerate((struct course){.once = true}, RUNS_FEW);
    enumerate((struct course){.once = true, .tree = true}, RUNS_FEW);
}

static void a_tree_is_taken_in(void **state)
{
    (void)state;
    enumerate((struct course){.tree = true}, RUNS_SHORT);
    assert_true(refusals > 0 && stops_seen > 0);
}

static void a_tree_is_merged(void **state)
{
    (void)state;
    enumerate((struct course){.tree = true, .merged = true}, RUNS_FEW);
}

static void a_bucket_takes_it_in(void **state)
{
    (void)state;
    enumerate((struct course){.bucket = true}, RUNS_SHORT);
    assert_true(refusals > 0);
    enumerate((struct course){.bucket = true, .once = true}, RUNS_FEW);
}

static void a_bucket_is_merged(void **state)
{
    (void)state;
    enumerate((struct course){.bucket = true, .merged = true}, RUNS_FEW);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_history_is_taken_in), cmocka_unit_test(points_are_merged),
        cmocka_unit_test(a_moment_is_enough),    cmocka_unit_test(a_tree_is_taken_in),
        cmocka_unit_test(a_tree_is_merged),      cmocka_unit_test(a_bucket_takes_it_in),
        cmocka_unit_test(a_bucket_is_merged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
