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

static const struct repl_audit_limits limits = {.spacing_ns = MS,
                                                .enough = 3,
                                                .most = 10,
                                                .patience_ns = 50 * MS,
                                                .proof_ns = 8 * MS,
                                                .trust_ns = 20 * MS};

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

/* A bio that has been traced and is not in flight yet hides a skipped submission of its size. The
 * simulator found a repair that went by it. */
static void the_proof_outlasts_a_bio_on_its_way(void **state)
{
    (void)state;
    struct bench b = proved();
    overlook(&b, REPL_AUDIT_WRITTEN, false);
    b.now.counts.submitted[REPL_AUDIT_WRITTEN] += 4096; /* of another one */
    repl_audit_begin(&b.audit);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(feed(&b), REPL_AUDIT_MORE);
    assert_int_equal(b.audit.state, REPL_AUDIT_PROVING);
    b.now.counts.completed[REPL_AUDIT_WRITTEN] += 4096;
    b.now.before.done[REPL_AUDIT_WRITTEN] += 4096;
    assert_int_equal(settle(&b), REPL_AUDIT_DEGRADED);
    assert_non_null(strstr(b.audit.cause, "both overlooked"));
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

static void drift_ends_when_it_was_seen_for_long(void **state)
{
    (void)state;
    for (unsigned times = 0; times < 2; times++) {
        struct bench b = proved();
        b.now.counts.submitted[REPL_AUDIT_WRITTEN] += 512;
        int64_t until_ns = b.now.at_ns + (times == 0 ? limits.trust_ns - 4 * MS : limits.trust_ns);
        while (b.now.at_ns <= until_ns)
            assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
        overlook(&b, REPL_AUDIT_WRITTEN, true);
        assert_int_equal(verdict_of(&b), times == 0 ? REPL_AUDIT_DEGRADED : REPL_AUDIT_REPAIR);
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

static void touched_is_emptied_once_what_it_holds_is_settled(void **state)
{
    (void)state;
    struct bench b = based();
    assert_false(repl_audit_swap_due(&b.audit, INT64_MIN + 1)); /* nothing to compare with yet */
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    int64_t swapped_ns = b.now.at_ns + 1;
    assert_false(repl_audit_swap_due(&b.audit, swapped_ns));
    assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
    assert_true(repl_audit_swap_due(&b.audit, swapped_ns));
    assert_false(repl_audit_swap_due(&b.audit, b.now.at_ns + 1));
    overlook(&b, REPL_AUDIT_WRITTEN, false);
    assert_int_equal(verdict_of(&b), REPL_AUDIT_DEGRADED);
    assert_false(repl_audit_swap_due(&b.audit, swapped_ns));
}

/* A write that is long on its way, in flight or not yet, is still in the older bitmap. */
static void touched_is_not_emptied_while_a_write_hangs(void **state)
{
    (void)state;
    for (unsigned in_flight = 0; in_flight < 2; in_flight++) {
        struct bench b = proved();
        int64_t swapped_ns = b.now.at_ns + 1;
        submit(&b, REPL_AUDIT_WRITTEN, 4096);
        b.now.before.in_flight = in_flight;
        for (unsigned i = 0; i < 3; i++) { /* other writes come and go meanwhile */
            change(&b, REPL_AUDIT_WRITTEN, 8192);
            assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
            assert_true(b.audit.base.even_ns >= swapped_ns);
            assert_false(repl_audit_swap_due(&b.audit, swapped_ns));
        }
        b.now.before.in_flight = 1;
        finish(&b, REPL_AUDIT_WRITTEN, 4096, true);
        assert_int_equal(verdict_of(&b), REPL_AUDIT_PASSED);
        assert_true(repl_audit_swap_due(&b.audit, swapped_ns));
    }
}

/* --- at random ------------------------------------------------------------------------------- */

/* Writes come and go, events are overlooked; a model knows which completed writes are unmarked on
 * each side, and what the touched bitmaps have forgotten by now. A pass must mean that none is; a
 * repair, that those that are were all submitted in sight and are in touched. Each write has a
 * length of its own, so that nothing adds up by chance. */
#define WRITES 16
#define NEVER  UINT64_MAX

struct model_write {
    uint64_t length; /* 0: there is none */
    uint64_t swaps;  /* at its submission */
    bool in_flight;  /* before that it is traced and nothing else */
    bool hidden;     /* its submission was overlooked */
};

struct model {
    struct model_write writes[WRITES];
    unsigned unmarked;        /* completed, and nobody knows */
    unsigned unmarked_hidden; /* the same, and never in touched either */
    uint64_t unmarked_oldest; /* the least of their swaps */
    uint64_t swaps;
    int64_t swapped_ns;
};

static void model_end(struct model *m, struct bench *b, struct model_write *write, bool seen)
{
    if (!write->in_flight)
        b->now.before.in_flight++;
    finish(b, REPL_AUDIT_WRITTEN, write->length, seen);
    m->unmarked += !seen;
    m->unmarked_hidden += !seen && write->hidden;
    if (!seen && write->swaps < m->unmarked_oldest)
        m->unmarked_oldest = write->swaps;
    write->length = 0;
}

static void model_step(struct model *m, struct bench *b, struct random *random, bool faulty)
{
    struct model_write *write = &m->writes[random_below(random, WRITES)];
    bool overlooked = faulty && random_below(random, 12) == 0;
    if (write->length == 0) {
        *write = (struct model_write){.length = 512 * (1 + random_below(random, UINT64_C(1) << 40)),
                                      .swaps = m->swaps,
                                      .hidden = overlooked};
        if (!overlooked)
            b->now.counts.submitted[REPL_AUDIT_WRITTEN] += write->length;
    } else if (!write->in_flight) {
        write->in_flight = true;
        b->now.before.in_flight++;
    } else {
        model_end(m, b, write, !overlooked);
    }
}

/* What is in flight ends; what is only traced may stay so. */
static void model_drain(struct model *m, struct bench *b, bool all)
{
    for (unsigned i = 0; i < WRITES; i++) {
        if (m->writes[i].length != 0 && (all || m->writes[i].in_flight))
            model_end(m, b, &m->writes[i], true);
    }
}

static void model_forgets(struct model *m)
{
    m->unmarked = m->unmarked_hidden = 0;
    m->unmarked_oldest = NEVER;
}

static void model_audit(struct model *m, struct bench *b, struct random *random,
                        unsigned verdicts[6])
{
    repl_audit_begin(&b->audit);
    enum repl_audit_verdict verdict;
    bool stir = random_below(random, 2) == 0;
    while ((verdict = feed(b)) == REPL_AUDIT_MORE)
        if (stir && random_below(random, 4) == 0)
            model_drain(m, b, random_below(random, 4) == 0);
    verdicts[verdict]++;
    if (verdict == REPL_AUDIT_PASSED)
        assert_int_equal(m->unmarked, 0);
    if (verdict == REPL_AUDIT_REPAIR) {
        assert_int_equal(m->unmarked_hidden, 0);
        assert_true(m->unmarked_oldest + 1 >= m->swaps);
    }
    /* what the caller does then: it reads what was touched, or everything */
    if (verdict != REPL_AUDIT_BUSY)
        model_forgets(m);
    if (verdict == REPL_AUDIT_PASSED && repl_audit_swap_due(&b->audit, m->swapped_ns)) {
        m->swaps++;
        m->swapped_ns = b->now.at_ns + 1;
    }
}

static void no_verdict_is_ever_wrong(void **state)
{
    (void)state;
    struct random random = random_begin("audit", 1);
    unsigned verdicts[6] = {0};
    uint64_t swaps = 0;
    for (unsigned world = 0; world < 300; world++) {
        struct bench b = world % 2 == 0 ? based() : proved();
        struct model m = {.unmarked_oldest = NEVER, .swapped_ns = b.now.at_ns};
        for (unsigned round = 0; round < 60; round++) {
            bool faulty = random_below(&random, 3) == 0;
            for (uint64_t steps = random_below(&random, 40); steps > 0; steps--)
                model_step(&m, &b, &random, faulty);
            if (random_below(&random, 2) == 0)
                model_drain(&m, &b, random_below(&random, 3) == 0);
            model_audit(&m, &b, &random, verdicts);
        }
        swaps += m.swaps;
    }
    assert_true(swaps > 100);
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
        cmocka_unit_test(the_proof_outlasts_a_bio_on_its_way),
        cmocka_unit_test(patience_ends),
        cmocka_unit_test(drift_proves_nothing),
        cmocka_unit_test(drift_ends_when_it_was_seen_for_long),
        cmocka_unit_test(a_bio_not_yet_in_flight_raises_nothing),
        cmocka_unit_test(an_overlooked_submission_alone_harms_nothing),
        cmocka_unit_test(never_quiet_before_is_not_provable),
        cmocka_unit_test(a_lost_submitted_range_makes_a_repair_inexact),
        cmocka_unit_test(too_busy_for_a_new_baseline_degrades),
        cmocka_unit_test(overlooked_during_the_repair_shows_next_time),
        cmocka_unit_test(a_saved_baseline_goes_on),
        cmocka_unit_test(touched_is_emptied_once_what_it_holds_is_settled),
        cmocka_unit_test(touched_is_not_emptied_while_a_write_hangs),
        cmocka_unit_test(no_verdict_is_ever_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
