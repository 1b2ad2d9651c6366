/*
 * Whatever happens, in whatever order: no page that the site lacks is forgotten.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/pipeline_rig.h"
#include "unit/random.h"

static struct rig *chance_crash(struct rig *rig, struct setup *setup)
{
    static struct repl_track_record base;
    int64_t now_ns = rig->now_ns;
    assert_none_lost(rig);
    base = world.base;
    setup->base = base.base.completed_known != 0 ? &base : NULL;
    rig = rig_again(rig, setup);
    rig->now_ns = now_ns;
    return rig;
}

/* The site answers, or does not; or has forgotten the volume. */
static void chance_link(struct rig *rig, struct random *random)
{
    static const struct repl_head none;
    struct repl_head *head =
        repl_digest_equal(&world.head.digest, &none.digest) ? NULL : &world.head;
    uint64_t what = random_below(random, 20);
    if (rig->p.ship.state == REPL_SHIP_GREETING && rig->p.recovering) {
        repl_pipeline_forget(&rig->p, 0, PAGES * REPL_PAGE_SIZE);
        repl_pipeline_recovered(&rig->p, rig->now_ns);
    } else if (rig->p.ship.state == REPL_SHIP_GREETING && what < 12) {
        if (what == 0)
            world.head = none;
        welcome(rig, what == 0 ? NULL : head);
    } else if (rig->p.ship.state == REPL_SHIP_SENDING && what < 12) {
        const struct repl_ship_segment *s = repl_ship_find(&rig->p.ship, rig->send.number);
        if (s == NULL || !s->complete || rig->released < s->number)
            return;
        if (what > 0)
            acknowledge(rig);
        else
            site_commits(rig); /* and the answer is lost */
    } else if (what == 12 && rig->p.ship.state == REPL_SHIP_SENDING) {
        repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    }
}

static void chance_hold(struct rig *rig, struct random *random)
{
    static const enum repl_pipeline_action_type steps[] = {
        REPL_PIPELINE_SYNC,   REPL_PIPELINE_QUIESCE, REPL_PIPELINE_OPEN,
        REPL_PIPELINE_CLOSE,  REPL_PIPELINE_AUDIT,   REPL_PIPELINE_RESUME,
        REPL_PIPELINE_COMMIT, REPL_PIPELINE_STATE,   REPL_PIPELINE_CHECKPOINT,
    };
    enum repl_pipeline_action_type step = steps[random_below(random, 9)];
    if (random_below(random, 3) == 0)
        rig->hold[step] = true;
    else
        let(rig, step);
    rig->hold_reads = random_below(random, 4) == 0;
    rig->hold_reduced = random_below(random, 4) == 0;
}

static void chance_fault(struct rig *rig, struct random *random)
{
    rig->read_fails = random_below(random, 8) == 0;
    rig->sink_fails = random_below(random, 8) == 0;
    if (random_below(random, 40) == 0 && rig->p.segments.oldest != NULL) {
        struct repl_error err = {0};
        repl_ignore(repl_fail(&err, REPL_E_NOSPACE, "full"));
        repl_pipeline_spool_full(&rig->p, rig->p.number - random_below(random, 3), &err,
                                 rig->now_ns);
        run(rig); /* before anything is asked of what is gone */
    }
    if (random_below(random, 60) == 0)
        repl_pipeline_send_full(&rig->p, rig->now_ns);
    rig->quiesce_fails = random_below(random, 4) == 0;
    rig->broken = random_below(random, 8) == 0;
    rig->busy = random_below(random, 8) == 0 ? (unsigned)random_below(random, 70) : 0;
    rig->grouped = random_below(random, 4) == 0;
    rig->others_torn = rig->grouped && random_below(random, 4) == 0;
    rig->others_unproven = rig->grouped && random_below(random, 4) == 0;
    if (rig->p.hold == REPL_HOLD_ON && random_below(random, 3) == 0)
        repl_pipeline_resumed(&rig->p, false, rig->now_ns);
}

static void chance_write(struct rig *rig, struct random *random)
{
    uint64_t count = random_below(random, 12) == 0 ? PARKED + 5 : random_below(random, 3);
    for (uint64_t i = 0; i < count; i++)
        write_seen(rig, random_below(random, PAGES), (uint8_t)random_below(random, 3),
                   random_below(random, 40) == 0 ? SEEN_SUBMITTED : SEEN);
    if (random_below(random, 6) == 0)
        flush();
}

/* All is well again, for long enough. */
static void calm(struct rig *rig)
{
    static const struct repl_head none;
    rig->read_fails = rig->sink_fails = rig->quiesce_fails = rig->broken = false;
    rig->busy = 0;
    rig->grouped = rig->others_torn = rig->others_unproven = false;
    rig->hold_reads = rig->hold_reduced = false;
    for (unsigned type = 0; type < ACTION_MAX; type++)
        let(rig, type);
    for (unsigned i = 0; i < 200; i++) {
        later(rig, SECOND);
        if (rig->p.recovering) {
            repl_pipeline_forget(&rig->p, 0, PAGES * REPL_PAGE_SIZE);
            repl_pipeline_recovered(&rig->p, rig->now_ns);
        } else if (rig->p.ship.state == REPL_SHIP_GREETING) {
            welcome(rig, repl_digest_equal(&world.head.digest, &none.digest) ? NULL : &world.head);
        }
        acknowledge_all(rig);
    }
}

static void chance(enum repl_quiesce quiesce, uint64_t spool_limit_bytes, struct random *random)
{
    struct setup setup = {.pages = PAGES,
                          .tracked = true,
                          .quiesce = quiesce,
                          .spool_limit_bytes = spool_limit_bytes};
    struct rig *rig = rig_new(&setup);
    for (unsigned i = 0; i < 600; i++) {
        chance_write(rig, random);
        chance_hold(rig, random);
        chance_fault(rig, random);
        chance_link(rig, random);
        if (random_below(random, 100) == 0)
            rig = chance_crash(rig, &setup);
        later(rig, (int64_t)random_below(random, 3) * SECOND / 2);
    }
    calm(rig);
    assert_site_is_device(rig);
    assert_true(rig->p.point_count > 0 && rig->p.hold == REPL_HOLD_NONE);
    assert_true(report_of(rig).state <= REPL_STATE_IDLE);
    uint64_t points = rig->p.point_count;
    write_page(rig, 1, 99);
    later(rig, SECOND);
    assert_true(rig->p.point_count == points + 1);
    acknowledge(rig);
    stop_and_wait(rig);
    rig_free(rig);
}

static void no_page_is_ever_forgotten(void **state)
{
    (void)state;
    struct random random = random_begin("pipeline", 1);
    for (int quiesce = REPL_QUIESCE_WINDOW; quiesce <= REPL_QUIESCE_COMMAND; quiesce++) {
        for (unsigned i = 0; i < 6; i++)
            chance(quiesce, i % 2 == 0 ? PLENTY : 3000, &random);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_page_is_ever_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
