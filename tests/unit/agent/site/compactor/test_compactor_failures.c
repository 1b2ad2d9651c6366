/*
 * A site whose merges fail: what they have made goes again, nothing is made again and again, and
 * what was decided by an index that is not there any more is thrown away.
 */
#include "store/store_counted.h"
#include "store/store_posix_internal.h"
#include "unit/agent/site/compactor/compactor_world.h"
#include "unit/damage.h"

#define SEGMENTS "dc/site/volumes/data/segments/"

/* --- a history of which there is something to merge ------------------------------------------ */

static void tick(void)
{
    w.site->tick.fire(&w.site->tick);
    tick_stop();
}

static void restart(void)
{
    site_restart(&w);
    tick_stop();
}

/* Merging waits for the replica. */
static void periods_make(unsigned count)
{
    compactor_rest();
    points_make(count * PERIOD);
    expect_replica(&w);
}

static void directory_begin(void)
{
    begin(PERIOD_RETENTION);
    tick_stop();
    periods_begin();
    periods_make(2);
}

static void bucket_begin(void)
{
    begin_in_bucket(PERIOD_RETENTION);
    tick_stop();
    periods_begin();
    periods_make(2);
}

static void fault(enum fake_s3_fault_kind kind, const char *method, const char *key, unsigned count)
{
    fake_s3_fault(w.bucket, &(struct fake_s3_fault){.kind = kind,
                                                    .method = method,
                                                    .key = key,
                                                    .count = count,
                                                    .status = 403,
                                                    .code = "AccessDenied"});
}

static void turn_of_compactor(void)
{
    site_compactor_tick(w.site->compactor);
    turns(20);
}

#define TURN_UNTIL(condition)                                                                      \
    do {                                                                                           \
        int64_t until_ns_ = repl_now_mono_ns() + LIMIT_NS;                                         \
        while (!(condition)) {                                                                     \
            turn_of_compactor();                                                                   \
            if (repl_now_mono_ns() > until_ns_)                                                    \
                fail_msg("it takes too long: %s", #condition);                                     \
        }                                                                                          \
    } while (0)

/* The log's end is looked for again with each tick. */
static void settle(void)
{
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    while (w.site->volumes->unsettled) {
        assert_true(repl_now_mono_ns() < until_ns);
        tick();
        turns(20);
    }
}

/* A visit, whose merge waits for the volume's turn. */
static void visit(void)
{
    struct site_compactor *c = w.site->compactor;
    struct site_volume *v = site_find_volume(w.site, "data");
    v->busy = true;
    while (!c->out)
        site_compactor_tick(c);
    while (c->out)
        turn(&w);
    assert_ptr_equal(c->waits, v);
}

static void visit_go_on(void)
{
    struct site_compactor *c = w.site->compactor;
    struct site_volume *v = site_find_volume(w.site, "data");
    v->busy = false;
    site_volume_pump(v);
    while (v->busy || c->out)
        turn(&w);
}

/* --- what a merge has made ------------------------------------------------------------------- */

/* The answer of a piece is lost, and the next attempt refused; files that wait for the end of their
 * grace do not hold up what goes at once, and a removal that fails is made later. */
static void a_merge_that_fails_leaves_nothing(void **state)
{
    size_t segments, files;
    (void)state;
    bucket_begin();
    hurry();
    TURN_UNTIL(w.site->compactor->removals.count > 0);
    periods_make(2);
    files = fake_s3_count(w.bucket, SEGMENTS);
    fault(FAKE_S3_CUT_DONE, "PUT", ".mrg", 1);
    fault(FAKE_S3_STATUS, "PUT", ".mrg", 1000);
    fault(FAKE_S3_STATUS, "DELETE", ".mrg", 1);
    TURN_UNTIL(fake_s3_requests(w.bucket, "DELETE", ".mrg") >= 2);
    TURN_UNTIL(fake_s3_count(w.bucket, SEGMENTS) == files);
    fake_s3_release(w.bucket);
    points_check(&segments);
    end();
}

/* What a merge could not read is looked at by the scrub though it is not due; what is damaged is
 * not tried again, however long it takes, and merged when it is whole. */
static void a_merge_waits_for_what_is_damaged(void **state)
{
    struct damage d = {0};
    char path[256];
    size_t segments;
    (void)state;
    directory_begin();
    struct site_volume *v = site_find_volume(w.site, "data");
    struct site_compactor *c = w.site->compactor;
    file_path(&w, path, "segments/00000000000000000005.000000.seg");
    damage_take(&d, path);
    d.bytes[d.size - 20] ^= 1;
    damage_put(&d, d.size);
    d.bytes[d.size - 20] ^= 1;
    site_scrub_tick(w.site->scrub); /* the visit of a start, when nothing is due */
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
    assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
    hurry();
    TURN_UNTIL(v->merge_failed);
    site_scrub_tick(w.site->scrub);
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
    TURN_UNTIL(site_compactor_waits(v));
    struct repl_volume_status status = volume_status(&w, "data");
    assert_true(status.merging_waits);
    for (size_t i = 0; i < COMPACTOR_FAILED_MAX; i++)
        c->failures[i].until_ns = 0;
    size_t failed = c->next_failure;
    uint64_t number = v->last_merge;
    TURN_UNTIL(v->last_merge >= number + 3); /* a number for each visit */
    assert_int_equal(c->next_failure, failed);
    assert_true(site_compactor_waits(v));
    damage_put(&d, d.size);
    v->scrub.resend_stale = true; /* in place of an hour */
    site_scrub_tick(w.site->scrub);
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
    assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
    TURN_UNTIL(c->removals.count > 0);
    assert_false(site_compactor_waits(v));
    points_check(&segments);
    damage_fini(&d);
    end();
}

static unsigned syncs_fail;

static int fake_fdatasync(int fd)
{
    if (syncs_fail == 0)
        return fdatasync(fd);
    syncs_fail--;
    errno = ENOSPC;
    return -1;
}

/* The log takes no record: once it is known that it does not have it, the pieces go. */
static void a_merge_that_is_not_logged_leaves_nothing(void **state)
{
    size_t segments, left, files;
    (void)state;
    directory_begin();
    left = points_check(&segments);
    files = files_count();
    hurry();
    posix_store_of(repl_store_counted_inner(w.site->store))->calls.fdatasync = fake_fdatasync;
    visit();
    assert_true(files_count() > files);
    syncs_fail = 1;
    w.site->compactor->visit_ns = LIMIT_NS;
    visit_go_on();
    assert_int_equal(syncs_fail, 0);
    settle();
    const struct compactor_removals *removals = &w.site->compactor->removals;
    assert_int_equal(removals->count, 1);
    removals->items[removals->first].due_ns = 0;
    TURN_UNTIL(files_count() == files);
    assert_int_equal(points_check(&segments), left);
    hurry();
    periods_make(1);
    TURN_UNTIL(w.site->compactor->removals.count > 0);
    assert_true(points_check(&segments) < left + PERIOD);
    restart();
    points_check(&segments);
    end();
}

/* --- what comes late ------------------------------------------------------------------------- */

/* A merge's record is made, but its sender does not get to know, and takes the log's end for what
 * it was. The bytes are the caller's to free; key: room for 128. */
static char *record_lost(char *key, size_t *size)
{
    const struct site_volume *v = site_find_volume(w.site, "data");
    w.site->store->late_ms = 3600 * 1000;
    hurry();
    visit();
    snprintf(key, 128, "dc/site/volumes/data/log/%020llu", (unsigned long long)v->log_end);
    fault(FAKE_S3_CUT_DONE, "PUT", "/log/", 1);
    fault(FAKE_S3_STATUS, "GET", "/log/", 1);
    w.site->compactor->visit_ns = LIMIT_NS;
    visit_go_on();
    assert_true(v->unsettled);
    return fake_s3_get(w.bucket, key, size);
}

/* As long as it can still come, what it names stays: the log may have it after a crash. */
static void a_record_that_comes_late(void **state)
{
    size_t segments, left, files, size;
    char key[128];
    (void)state;
    bucket_begin();
    left = points_check(&segments);
    files = fake_s3_count(w.bucket, SEGMENTS);
    char *record = record_lost(key, &size);
    assert_non_null(record);
    fake_s3_remove(w.bucket, key); /* not yet */
    struct compactor_removals *removals = &w.site->compactor->removals;
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(removals->count, 1);
        removals->items[removals->first].due_ns = 0;
        turn_of_compactor();
    }
    assert_int_equal(fake_s3_requests(w.bucket, "DELETE", ".mrg"), 0);
    fake_s3_put(w.bucket, key, record, size);
    free(record);
    w.site->store->late_ms = 0; /* nothing more comes */
    settle();
    assert_false(fake_s3_exists(w.bucket, key));
    removals->items[removals->first].due_ns = 0;
    TURN_UNTIL(fake_s3_count(w.bucket, SEGMENTS) == files);
    restart();
    assert_string_equal(w.site->volumes->damaged, "");
    assert_int_equal(points_check(&segments), left);
    end();
}

static void a_record_that_came_before_a_crash(void **state)
{
    size_t segments, left, size;
    char key[128];
    (void)state;
    bucket_begin();
    left = points_check(&segments);
    char *record = record_lost(key, &size);
    assert_non_null(record);
    fake_s3_remove(w.bucket, key);
    turn_of_compactor();
    restart(); /* the pieces are left over, of a merge of which the log has nothing yet */
    assert_true(w.site->volumes->unsettled && w.site->volumes->drop_unsure);
    fake_s3_put(w.bucket, key, record, size);
    free(record);
    restart();
    assert_string_equal(w.site->volumes->damaged, "");
    assert_true(points_check(&segments) < left);
    end();
}

/* --- what is not merged ---------------------------------------------------------------------- */

/* A record of which nobody knows whether it is in the log: no run is merged in vain meanwhile. */
static void a_log_that_is_not_settled(void **state)
{
    struct build build;
    size_t segments;
    (void)state;
    bucket_begin();
    build_begin(&build, &w, w.head.to_seq, w.head.to_seq + 1, 0);
    build_data(&build, 0, REPL_PAGE_SIZE);
    build_end(&build, true);
    fault(FAKE_S3_STATUS, "PUT", "/log/", 1);
    assert_int_not_equal(build_put(&build), 201);
    hurry();
    for (unsigned i = 0; i < 10; i++)
        turn_of_compactor();
    assert_true(fake_s3_requests(w.bucket, "PUT", ".mrg") <= 1);
    hello(&w);
    build_commit(&build);
    point_keep();
    periods_make(1);
    TURN_UNTIL(w.site->compactor->removals.count > 0);
    points_check(&segments);
    end();
}

/* It was made anew while the visit read it: what was read then may be a history of before. */
static void an_index_that_was_made_anew(void **state)
{
    struct repl_log_piece pieces[256];
    struct repl_error err;
    uint32_t count;
    bool more;
    (void)state;
    directory_begin();
    hurry();
    visit();
    uint64_t number = w.site->compactor->visit.merge_number;
    w.site->index_generation++;
    visit_go_on();
    TURN_UNTIL(w.site->compactor->removals.count > 0);
    must(repl_index_pieces(w.site->index, "data", 0, 0, pieces, 256, &count, &more, &err), &err);
    for (uint32_t i = 0; i < count; i++)
        assert_true(pieces[i].merge != number);
    end();
}

/* A log that has it would be refused at the next start, for good. */
static void a_merge_that_does_not_fit(void **state)
{
    size_t segments, left, files;
    (void)state;
    directory_begin();
    left = points_check(&segments);
    files = files_count();
    hurry();
    visit();
    w.site->compactor->visit.result.pieces[0].link.bytes[0] ^= 1;
    w.site->compactor->visit_ns = LIMIT_NS;
    visit_go_on();
    TURN_UNTIL(files_count() == files);
    restart();
    assert_string_equal(w.site->volumes->damaged, "");
    assert_int_equal(points_check(&segments), left);
    end();
}

/* --- what waits for the end of its grace ----------------------------------------------------- */

static const struct compactor_removal *removal_first(void)
{
    const struct compactor_removals *removals = &w.site->compactor->removals;
    assert_true(removals->count > 0);
    return &removals->items[removals->first];
}

/* A site that begins anew more often than that would never let go of anything. */
static void a_grace_goes_on_over_a_restart(void **state)
{
    char path[256];
    (void)state;
    directory_begin();
    int64_t grace_ns = w.site->config->grace_ms * 1000000;
    hurry();
    TURN_UNTIL(w.site->compactor->removals.count > 0);
    int64_t merged_ns = repl_now_mono_ns();
    w.site->compactor->clock_saved_ns = 0;
    turn_of_compactor();
    turns(300);
    restart();
    assert_true(removal_first()->due_ns < merged_ns + grace_ns + SECOND_NS / 10);
    assert_true(removal_first()->due_ns > merged_ns + grace_ns - 60 * SECOND_NS);
    /* by a clock of which nothing is known, all of it begins again */
    site_stop(&w);
    snprintf(path, sizeof path, "%s/clock", w.store);
    assert_int_equal(unlink(path), 0);
    merged_ns = repl_now_mono_ns();
    site_start(&w);
    tick_stop();
    assert_true(removal_first()->due_ns >= merged_ns + grace_ns);
    end();
}

/* --- a slow merge ---------------------------------------------------------------------------- */

static void a_slow_merge_ends_with_the_site(void **state)
{
    (void)state;
    directory_begin();
    hurry();
    w.site->config->merge_rate_bytes = 1000;
    site_compactor_tick(w.site->compactor);
    turns(500);
    assert_true(w.site->compactor->out);
    int64_t begun_ns = repl_now_mono_ns();
    end();
    assert_true(repl_now_mono_ns() - begun_ns < 5 * SECOND_NS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_merge_that_fails_leaves_nothing),
        cmocka_unit_test(a_merge_waits_for_what_is_damaged),
        cmocka_unit_test(a_merge_that_is_not_logged_leaves_nothing),
        cmocka_unit_test(a_record_that_comes_late),
        cmocka_unit_test(a_record_that_came_before_a_crash),
        cmocka_unit_test(a_log_that_is_not_settled),
        cmocka_unit_test(an_index_that_was_made_anew),
        cmocka_unit_test(a_merge_that_does_not_fit),
        cmocka_unit_test(a_grace_goes_on_over_a_restart),
        cmocka_unit_test(a_slow_merge_ends_with_the_site),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
