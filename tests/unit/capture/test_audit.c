#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "capture/audit.h"
#include "unit/random.h"

#define MS INT64_C(1000000)

/* A kernel and its tracker, as the test wants them; feed() looks at them as they are. */
struct bench {
    struct repl_audit audit;
    struct repl_audit_sample now;
    bool moving; /* K moves around each sample */
};

static const struct repl_audit_limits limits = {
    .spacing_ns = MS, .enough = 3, .most = 10, .patience_ns = 50 * MS};

static enum repl_audit_verdict feed(struct bench *b)
{
    b->now.at_ns += MS;
    b->now.after = b->now.before;
    if (b->moving)
        b->now.after.done[REPL_AUDIT_WRITTEN] += 4096;
    enum repl_audit_verdict verdict = repl_audit_feed(&b->audit, &b->now);
    if (verdict == REPL_AUDIT_MORE)
        assert_true(b->audit.next_ns == b->now.at_ns + MS);
    return verdict;
}

/* Feeds until there is a verdict. */
static enum repl_audit_verdict settle(struct bench *b)
{
    for (unsigned i = 0; i < 1000; i++) {
        enum repl_audit_verdict verdict = feed(b);
        if (verdict != REPL_AUDIT_MORE)
            return verdict;
    }
    fail_msg("no verdict");
    return REPL_AUDIT_MORE;
}

static enum repl_audit_verdict verdict_of(struct bench *b)
{
    repl_audit_begin(&b->audit);
    return settle(b);
}

static void submit(struct bench *b, unsigned quantity, uint64_t bytes)
{
    b->now.counts.submitted[quantity] += bytes;
    b->now.before.in_flight++;
}

static void finish(struct bench *b, unsigned quantity, uint64_t bytes, bool seen)
{
    b->now.before.done[quantity] += bytes;
    b->now.before.in_flight--;
    if (seen)
        b->now.counts.completed[quantity] += bytes;
}

static void change(struct bench *b, unsigned quantity, uint64_t bytes)
{
    submit(b, quantity, bytes);
    finish(b, quantity, bytes, true);
}

/* Counts that began at different times, and of which one is about to wrap. */
static struct bench begun(void)
{
    struct bench b = {0};
    b.now.before.done[REPL_AUDIT_WRITTEN] = 123456 * 512;
    b.now.before.done[REPL_AUDIT_DISCARDED] = UINT64_MAX - 4095;
    b.now.before.done[REPL_AUDIT_FLUSHES] = 77;
    b.now.counts.submitted[REPL_AUDIT_WRITTEN] = 8192;
    repl_audit_init(&b.audit, &limits, NULL);
    return b;
}

/* With a write in flight all the time, so that submissions could not be measured. */
static struct bench based(void)
{
    struct bench b = begun();
    b.now.before.in_flight = 1;
    assert_int_equal(settle(&b), REPL_AUDIT_BASED);
    assert_false(b.audit.base.submitted_known);
    b.now.before.in_flight = 0;
    return b;
}

/* Also quiet once, so that submissions are measured. */
static struct bench proved(void)
{
    struct bench b = based();
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    assert_true(b.audit.base.submitted_known);
    return b;
}

/* --- baseline -------------------------------------------------------------------------------- */

static void a_baseline_takes_several_steady_samples(void **state)
{
    (void)state;
    struct bench b = begun();
    assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    b.moving = true;
    assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    b.moving = false;
    assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    assert_int_equal(feed(&b), REPL_AUDIT_BASED);
    assert_true(b.audit.base.submitted_known); /* it was quiet, too */
    assert_true(b.audit.base.even_ns == INT64_MIN);
}

static void a_baseline_is_the_smallest_offset(void **state)
{
    (void)state;
    struct bench b = begun();
    b.now.counts.completed[REPL_AUDIT_WRITTEN] = 4096; /* between the two lines of the kernel */
    assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    b.now.before.done[REPL_AUDIT_WRITTEN] += 4096;
    assert_int_equal(settle(&b), REPL_AUDIT_BASED);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
}

static void no_baseline_while_the_kernel_counts_on(void **state)
{
    (void)state;
    struct bench b = begun();
    b.moving = true;
    assert_int_equal(settle(&b), REPL_AUDIT_BUSY);
    b.moving = false;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_BASED);
}

/* --- passing --------------------------------------------------------------------------------- */

static void what_is_counted_passes(void **state)
{
    (void)state;
    struct bench b = based();
    change(&b, REPL_AUDIT_WRITTEN, 4096);
    change(&b, REPL_AUDIT_DISCARDED, 1 << 20);
    b.now.before.done[REPL_AUDIT_FLUSHES]++;
    b.now.counts.completed[REPL_AUDIT_FLUSHES]++;
    repl_audit_begin(&b.audit);
    int64_t first_ns = b.now.at_ns + MS;
    assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    assert_int_equal(feed(&b), REPL_AUDIT_PASSED);
    assert_true(b.audit.base.even_ns == first_ns);
    assert_int_equal(b.audit.audits, 1);
}

static void one_equal_sample_with_a_still_kernel_is_needed(void **state)
{
    (void)state;
    struct bench b = based();
    repl_audit_begin(&b.audit);
    b.now.counts.completed[REPL_AUDIT_WRITTEN] += 4096; /* completing just now */
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    b.now.before.done[REPL_AUDIT_WRITTEN] += 4096;
    b.moving = true; /* equal, but K moves */
    assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    b.moving = false;
    b.now.counts.completed[REPL_AUDIT_WRITTEN] += 4096;
    b.now.before.done[REPL_AUDIT_WRITTEN] += 4096;
    assert_int_equal(feed(&b), REPL_AUDIT_PASSED);
}

static void quantities_may_be_equal_at_different_samples(void **state)
{
    (void)state;
    struct bench b = based();
    repl_audit_begin(&b.audit);
    b.now.counts.completed[REPL_AUDIT_WRITTEN] += 512;
    int64_t first_ns = b.now.at_ns + MS;
    assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    b.now.before.done[REPL_AUDIT_WRITTEN] += 512;
    b.now.counts.completed[REPL_AUDIT_DISCARDED] += 512;
    assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    assert_int_equal(feed(&b), REPL_AUDIT_PASSED);
    assert_true(b.audit.base.even_ns == first_ns); /* the earliest of the proofs */
    assert_false(b.audit.base.submitted_known);    /* at no sample was all of it equal */
}

static void ahead_for_good_fails(void **state)
{
    (void)state;
    struct bench b = proved();
    b.now.counts.completed[REPL_AUDIT_FLUSHES]++;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
    assert_non_null(strstr(b.audit.cause, "more flushes"));
    /* and begins anew */
    assert_int_equal(verdict_of(&b), REPL_AUDIT_BASED);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
}

static void a_kernel_that_never_stands_still_gives_no_verdict(void **state)
{
    (void)state;
    struct bench b = proved();
    b.moving = true;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_BUSY);
    assert_true(b.audit.base.completed_known);
    b.moving = false;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
}

static void a_lost_completed_range_degrades(void **state)
{
    (void)state;
    struct bench b = proved();
    b.now.counts.lost_submissions++;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    b.now.counts.lost_completions++;
    repl_audit_begin(&b.audit);
    assert_int_equal(feed(&b), REPL_AUDIT_DEGRADED);
    assert_non_null(strstr(b.audit.cause, "marked whole"));
}

static void accounting_that_begins_anew_degrades(void **state)
{
    (void)state;
    struct bench b = proved();
    b.now.before.done[REPL_AUDIT_WRITTEN] = 0;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
}

/* --- shortfalls ------------------------------------------------------------------------------ */

static void overlook(struct bench *b, unsigned quantity, bool submission_seen)
{
    if (submission_seen)
        submit(b, quantity, 4096);
    else
        b->now.before.in_flight++;
    finish(b, quantity, 4096, false);
}

static void an_overlooked_completion_is_repaired(void **state)
{
    (void)state;
    for (unsigned quantity = 0; quantity < REPL_AUDIT_SUBMITTED; quantity++) {
        struct bench b = proved();
        overlook(&b, quantity, true);
        repl_audit_begin(&b.audit);
        assert_int_equal(feed(&b), REPL_AUDIT_MORE); /* seen at once */
        assert_int_equal(b.audit.shortfalls, 1);
        assert_int_equal(b.audit.short_bytes, 4096);
        assert_int_equal(b.audit.state, REPL_AUDIT_REBASING);
        assert_int_equal(settle(&b), REPL_AUDIT_REPAIR);
        assert_int_equal(b.audit.repairs, 1);
        assert_non_null(strstr(b.audit.cause, "4096 bytes"));
        assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    }
}

static void an_overlooked_flush_is_repaired_whatever_is_in_flight(void **state)
{
    (void)state;
    struct bench b = based();
    submit(&b, REPL_AUDIT_WRITTEN, 4096);
    b.now.before.done[REPL_AUDIT_FLUSHES] += 2;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_REPAIR);
    assert_non_null(strstr(b.audit.cause, "2 flushes"));
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
}

static void both_overlooked_degrades(void **state)
{
    (void)state;
    struct bench b = proved();
    overlook(&b, REPL_AUDIT_WRITTEN, false);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
    assert_non_null(strstr(b.audit.cause, "both"));
}

static void what_is_in_flight_does_not_hide_an_overlooked_submission(void **state)
{
    (void)state;
    struct bench b = proved();
    overlook(&b, REPL_AUDIT_WRITTEN, false);
    submit(&b, REPL_AUDIT_WRITTEN, 4096); /* S = K again, and yet */
    repl_audit_begin(&b.audit);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    finish(&b, REPL_AUDIT_WRITTEN, 4096, true);
    assert_int_equal(settle(&b), REPL_AUDIT_DEGRADED);
}

static void the_proof_waits_for_a_quiet_moment(void **state)
{
    (void)state;
    struct bench b = proved();
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    submit(&b, REPL_AUDIT_WRITTEN, 8192);
    repl_audit_begin(&b.audit);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    assert_int_equal(b.audit.state, REPL_AUDIT_PROVING);
    finish(&b, REPL_AUDIT_WRITTEN, 8192, true);
    assert_int_equal(settle(&b), REPL_AUDIT_REPAIR);
}

static void patience_ends(void **state)
{
    (void)state;
    struct bench b = proved();
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    submit(&b, REPL_AUDIT_WRITTEN, 8192);
    int64_t began_ns = b.now.at_ns;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
    assert_non_null(strstr(b.audit.cause, "quiet"));
    assert_true(b.now.at_ns - began_ns >= limits.patience_ns);
}

/* More was submitted than ever completed, by an event overlooked on the way: it could make up for
 * an overlooked submission, so it proves nothing. */
static void drift_proves_nothing(void **state)
{
    (void)state;
    struct bench b = proved();
    b.now.counts.submitted[REPL_AUDIT_WRITTEN] += 512;
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
}

static void drift_ends_when_three_audits_agree(void **state)
{
    (void)state;
    for (unsigned audits = 2; audits <= 3; audits++) {
        struct bench b = proved();
        b.now.counts.submitted[REPL_AUDIT_WRITTEN] += 512;
        for (unsigned i = 0; i < audits; i++)
            assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
        overlook(&b, REPL_AUDIT_WRITTEN, true);
        assert_int_equal(verdict_of(&b), audits < 3 ? REPL_AUDIT_DEGRADED : REPL_AUDIT_REPAIR);
    }
}

/* Its submitter was preempted between the trace and the accounting, all through an audit. */
static void a_bio_not_yet_in_flight_raises_nothing(void **state)
{
    (void)state;
    struct bench b = proved();
    b.now.counts.submitted[REPL_AUDIT_WRITTEN] += 4096;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    b.now.before.in_flight++;
    finish(&b, REPL_AUDIT_WRITTEN, 4096, true);
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_REPAIR);
}

static void an_overlooked_submission_alone_harms_nothing(void **state)
{
    (void)state;
    struct bench b = proved();
    b.now.before.in_flight++;
    finish(&b, REPL_AUDIT_WRITTEN, 4096, true);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_REPAIR);
}

static void never_quiet_before_is_not_provable(void **state)
{
    (void)state;
    struct bench b = based();
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
    assert_non_null(strstr(b.audit.cause, "before any quiet moment"));
}

static void a_lost_submitted_range_makes_a_repair_inexact(void **state)
{
    (void)state;
    struct bench b = proved();
    b.now.counts.lost_submissions++;
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
    assert_non_null(strstr(b.audit.cause, "submitted range"));
}

static void too_busy_for_a_new_baseline_degrades(void **state)
{
    (void)state;
    struct bench b = proved();
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    b.moving = true;
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
    assert_non_null(strstr(b.audit.cause, "too busy"));
}

/* What is overlooked after the new baseline shows against it. */
static void overlooked_during_the_repair_shows_next_time(void **state)
{
    (void)state;
    struct bench b = proved();
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    repl_audit_begin(&b.audit);
    while (b.audit.state != REPL_AUDIT_PROVING)
        assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    overlook(&b, REPL_AUDIT_WRITTEN, true);
    assert_int_equal(settle(&b), REPL_AUDIT_REPAIR);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_REPAIR);
    assert_int_equal(b.audit.shortfalls, 2);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
}

/* --- over a restart, and swapping ------------------------------------------------------------ */

static void a_saved_baseline_goes_on(void **state)
{
    (void)state;
    struct bench b = proved();
    struct repl_audit_baseline saved = b.audit.base;
    repl_audit_init(&b.audit, &limits, &saved);
    change(&b, REPL_AUDIT_WRITTEN, 4096);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    saved = b.audit.base;
    overlook(&b, REPL_AUDIT_WRITTEN, true); /* while no agent ran */
    repl_audit_init(&b.audit, &limits, &saved);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_REPAIR);
}

static void touched_is_emptied_only_once_what_it_holds_was_audited(void **state)
{
    (void)state;
    struct bench b = based();
    assert_false(repl_audit_swap_due(&b.audit, 0, 0)); /* nothing has passed yet */
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    int64_t even_ns = b.audit.base.even_ns;
    assert_true(repl_audit_swap_due(&b.audit, even_ns - 30, 30));
    assert_false(repl_audit_swap_due(&b.audit, even_ns - 29, 30));
    overlook(&b, REPL_AUDIT_WRITTEN, false);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
    assert_false(repl_audit_swap_due(&b.audit, 0, 0));
}

/* A write that hangs for longer than it should is still in the older bitmap. */
static void touched_is_not_emptied_while_a_write_hangs(void **state)
{
    (void)state;
    struct bench b = proved();
    int64_t swapped_ns = b.now.at_ns + 1;
    submit(&b, REPL_AUDIT_WRITTEN, 4096);
    b.now.at_ns += 100 * MS;
    for (unsigned i = 0; i < 3; i++) { /* other writes come and go meanwhile */
        change(&b, REPL_AUDIT_WRITTEN, 8192);
        assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
        assert_true(b.audit.base.even_ns >= swapped_ns + 30 * MS);
        assert_false(repl_audit_swap_due(&b.audit, swapped_ns, 30 * MS));
    }
    finish(&b, REPL_AUDIT_WRITTEN, 4096, true);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    assert_true(repl_audit_swap_due(&b.audit, swapped_ns, 30 * MS));
}

/* --- at random ------------------------------------------------------------------------------- */

/* Writes come and go, events are overlooked; a model knows which completed writes are unmarked on
 * each side. A pass must mean that none is; a repair, that those that are were all submitted in
 * sight. Each write has a length of its own, so that nothing adds up by chance. */
#define WRITES 16

struct model {
    uint64_t lengths[WRITES]; /* in flight; 0: none */
    bool hidden[WRITES];      /* its submission was overlooked */
    unsigned unmarked;        /* completed, and nobody knows */
    unsigned unmarked_hidden; /* the same, and not in touched either */
};

static void model_step(struct model *m, struct bench *b, struct random *random, bool faulty)
{
    unsigned slot = (unsigned)random_below(random, WRITES);
    bool overlooked = faulty && random_below(random, 12) == 0;
    if (m->lengths[slot] == 0) {
        m->lengths[slot] = 512 * (1 + random_below(random, UINT64_C(1) << 40));
        m->hidden[slot] = overlooked;
        b->now.before.in_flight++;
        if (!overlooked)
            b->now.counts.submitted[REPL_AUDIT_WRITTEN] += m->lengths[slot];
        return;
    }
    finish(b, REPL_AUDIT_WRITTEN, m->lengths[slot], !overlooked);
    m->unmarked += overlooked;
    m->unmarked_hidden += overlooked && m->hidden[slot];
    m->lengths[slot] = 0;
}

static void model_drain(struct model *m, struct bench *b)
{
    for (unsigned i = 0; i < WRITES; i++) {
        if (m->lengths[i] != 0)
            finish(b, REPL_AUDIT_WRITTEN, m->lengths[i], true);
        m->lengths[i] = 0;
    }
}

static void model_audit(struct model *m, struct bench *b, struct random *random,
                        unsigned verdicts[6])
{
    repl_audit_begin(&b->audit);
    enum repl_audit_verdict verdict;
    bool stir = random_below(random, 2) == 0;
    while ((verdict = feed(b)) == REPL_AUDIT_MORE)
        if (stir && random_below(random, 4) == 0)
            model_drain(m, b);
    verdicts[verdict]++;
    if (verdict == REPL_AUDIT_PASSED)
        assert_int_equal(m->unmarked, 0);
    if (verdict == REPL_AUDIT_REPAIR)
        assert_int_equal(m->unmarked_hidden, 0);
    /* what the caller does then: it reads what was touched, or everything */
    if (verdict != REPL_AUDIT_BUSY)
        m->unmarked = m->unmarked_hidden = 0;
}

static void no_verdict_is_ever_wrong(void **state)
{
    (void)state;
    struct random random = random_begin("audit", 1);
    unsigned verdicts[6] = {0};
    for (unsigned world = 0; world < 300; world++) {
        struct bench b = world % 2 == 0 ? based() : proved();
        struct model m = {{0}, {0}, 0, 0};
        for (unsigned round = 0; round < 60; round++) {
            bool faulty = random_below(&random, 3) == 0;
            for (uint64_t steps = random_below(&random, 40); steps > 0; steps--)
                model_step(&m, &b, &random, faulty);
            if (random_below(&random, 2) == 0)
                model_drain(&m, &b);
            model_audit(&m, &b, &random, verdicts);
        }
    }
    assert_true(verdicts[REPL_AUDIT_PASSED] > 100 && verdicts[REPL_AUDIT_REPAIR] > 100 &&
                verdicts[REPL_AUDIT_DEGRADED] > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_baseline_takes_several_steady_samples),
        cmocka_unit_test(a_baseline_is_the_smallest_offset),
        cmocka_unit_test(no_baseline_while_the_kernel_counts_on),
        cmocka_unit_test(what_is_counted_passes),
        cmocka_unit_test(one_equal_sample_with_a_still_kernel_is_needed),
        cmocka_unit_test(quantities_may_be_equal_at_different_samples),
        cmocka_unit_test(ahead_for_good_fails),
        cmocka_unit_test(a_kernel_that_never_stands_still_gives_no_verdict),
        cmocka_unit_test(a_lost_completed_range_degrades),
        cmocka_unit_test(accounting_that_begins_anew_degrades),
        cmocka_unit_test(an_overlooked_completion_is_repaired),
        cmocka_unit_test(an_overlooked_flush_is_repaired_whatever_is_in_flight),
        cmocka_unit_test(both_overlooked_degrades),
        cmocka_unit_test(what_is_in_flight_does_not_hide_an_overlooked_submission),
        cmocka_unit_test(the_proof_waits_for_a_quiet_moment),
        cmocka_unit_test(patience_ends),
        cmocka_unit_test(drift_proves_nothing),
        cmocka_unit_test(drift_ends_when_three_audits_agree),
        cmocka_unit_test(a_bio_not_yet_in_flight_raises_nothing),
        cmocka_unit_test(an_overlooked_submission_alone_harms_nothing),
        cmocka_unit_test(never_quiet_before_is_not_provable),
        cmocka_unit_test(a_lost_submitted_range_makes_a_repair_inexact),
        cmocka_unit_test(too_busy_for_a_new_baseline_degrades),
        cmocka_unit_test(overlooked_during_the_repair_shows_next_time),
        cmocka_unit_test(a_saved_baseline_goes_on),
        cmocka_unit_test(touched_is_emptied_only_once_what_it_holds_was_audited),
        cmocka_unit_test(touched_is_not_emptied_while_a_write_hangs),
        cmocka_unit_test(no_verdict_is_ever_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
