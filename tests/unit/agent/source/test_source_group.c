/*
 * Where the rounds of a group's volumes meet: who is waited for, and how often.
 * The volumes are played.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "source/source_volume_internal.h"

#define MEMBERS     2
#define INTERVAL_NS INT64_C(20000000)

struct fixture {
    struct repl_loop *loop;
    struct repl_source_group *group;
    struct repl_config_volume configs[MEMBERS];
    struct repl_source_volume *volumes[MEMBERS];
};

static unsigned alone, together;  /* openings */
static unsigned looked, compared; /* of trees: begun */
static uint64_t tree_changes, barriers;
static unsigned ends; /* counters read at them, of block volumes */
static bool watched;

/* --- the volumes ----------------------------------------------------------------------------- */

const char *volume_name(const struct repl_source_volume *v)
{
    return v->options.volume->name;
}

bool volume_is_up(const struct repl_source_volume *v)
{
    return v->phase == VOLUME_RUNNING;
}

void volume_pump(struct repl_source_volume *v)
{
    (void)v;
}

void volume_wake(struct repl_source_volume *v)
{
    (void)v;
}

void volume_fail(struct repl_source_volume *v, const struct repl_error *err)
{
    (void)v;
    fail_msg("%s", err->text);
}

void volume_close_if_drained(struct repl_source_volume *v)
{
    (void)v;
    fail();
}

void volume_round_open(struct repl_source_volume *v)
{
    (void)v;
    alone++;
}

void volume_round_close(struct repl_source_volume *v)
{
    (void)v;
    fail();
}

repl_result volume_counters_begin(struct repl_source_volume *v, struct repl_write_counters *out,
                                  struct repl_error *err)
{
    (void)err;
    *out = (struct repl_write_counters){.marks = v->tree != NULL ? tree_changes : barriers};
    return REPL_SUCCESS;
}

repl_result volume_counters_end(struct repl_source_volume *v, struct repl_write_counters *out,
                                struct repl_error *err)
{
    ends += v->tree == NULL;
    return volume_counters_begin(v, out, err);
}

void volume_marks_take(struct repl_source_volume *v)
{
    (void)v;
    together++;
}

void volume_tree_look(struct repl_source_volume *v)
{
    v->tree_out = true;
    looked++;
}

void volume_tree_compare(struct repl_source_volume *v)
{
    v->tree_out = true;
    compared++;
}

bool volume_tree_is_busy(const struct repl_source_volume *v)
{
    return v->tree_out;
}

bool repl_tree_is_watched(const struct repl_tree *tree)
{
    (void)tree;
    return watched;
}

dev_t repl_tree_device(const struct repl_tree *tree)
{
    (void)tree;
    return 0;
}

/* A volume of a group is read from no snapshot. */
void volume_snapshot_begin(struct repl_source_volume *v)
{
    fail_msg("a snapshot of %s", volume_name(v));
}

void volume_snapshot_end(struct repl_source_volume *v)
{
    fail_msg("a snapshot of %s", volume_name(v));
}

/* --- the group ------------------------------------------------------------------------------- */

static int set_up(void **state)
{
    static struct fixture f;
    static char names[MEMBERS][2] = {"a", "b"};
    struct repl_loop_options options = {.workers = 1};
    struct repl_error err;
    f = (struct fixture){0};
    alone = together = looked = compared = ends = 0;
    tree_changes = barriers = 0;
    watched = true;
    if (!repl_ok(repl_loop_new(&options, &f.loop, &err)) ||
        !repl_ok(repl_source_group_new(f.loop, "g", "/nobody", MEMBERS, &f.group, &err)))
        return -1;
    for (unsigned i = 0; i < MEMBERS; i++) {
        struct repl_source_volume *v = calloc(1, sizeof *v);
        if (v == NULL)
            return -1;
        f.configs[i].name = names[i];
        v->options.volume = &f.configs[i];
        v->phase = VOLUME_RUNNING;
        v->tracker = (void *)v; /* there is one */
        v->pipeline.ship.point_seq = 1;
        v->pipeline.ship.head = (struct repl_head){.to_seq = 1, .has_point = true};
        v->pipeline.options.interval_ns = INTERVAL_NS;
        f.volumes[i] = v;
        repl_source_group_join(f.group, v);
    }
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_source_group_free(f->group);
    repl_loop_free(f->loop);
    for (unsigned i = 0; i < MEMBERS; i++)
        free(f->volumes[i]);
    return 0;
}

static void assert_cause(const struct fixture *f, const char *text)
{
    char cause[200];
    repl_source_group_cause(f->group, cause, sizeof cause);
    assert_string_equal(cause, text);
}

static void open_one(struct fixture *f, unsigned i)
{
    repl_source_group_open(f->group, f->volumes[i]);
    repl_source_group_look(f->group);
}

static void a_member_that_stays_away_is_waited_for_once(void **state)
{
    struct fixture *f = *state;
    struct repl_error err;
    int64_t began_ns = repl_now_mono_ns();
    open_one(f, 0);
    assert_true(alone == 0 && together == 0);
    assert_cause(f, "");
    for (unsigned turns = 0; alone == 0 && turns < 100; turns++)
        assert_true(repl_ok(repl_loop_once(f->loop, 1000, &err)));
    assert_true(alone == 1 && repl_now_mono_ns() - began_ns >= 2 * INTERVAL_NS);
    assert_cause(f, "group g is cut each volume for itself: b did not come to the common point in "
                    "time");
    for (unsigned round = 2; round < 5; round++) {
        open_one(f, 0);
        assert_int_equal(alone, round);
    }
    open_one(f, 1); /* it is back */
    assert_true(alone == 4 && together == 0);
    assert_cause(f, "");
    open_one(f, 0);
    assert_true(alone == 4 && together == MEMBERS);
}

static void who_cannot_be_cut_is_named(void **state)
{
    struct fixture *f = *state;
    f->volumes[1]->pipeline.comparing = true;
    open_one(f, 0);
    assert_int_equal(alone, 1);
    assert_cause(f, "group g is cut each volume for itself: b is being compared");
    f->volumes[0]->phase = VOLUME_CLOSED;
    assert_cause(f, "group g is cut each volume for itself: a does not run");
}

/* --- a tree ---------------------------------------------------------------------------------- */

/* The second member becomes a tree. */
static struct repl_source_volume *tree_of(struct fixture *f)
{
    f->volumes[1]->tree = (void *)f;
    f->volumes[1]->tracker = NULL;
    return f->volumes[1];
}

static void not_busy(struct fixture *f, struct repl_source_volume *v)
{
    v->tree_out = false;
    repl_source_group_look(f->group);
}

/* All are in one round, and have read all of it. */
static void read_all(struct fixture *f)
{
    for (unsigned i = 0; i < MEMBERS; i++) {
        struct repl_pipeline *p = &f->volumes[i]->pipeline;
        repl_epoch_init(&p->epoch, INTERVAL_NS, REPL_QUIESCE_WINDOW, 1, 0);
        p->epoch.state = REPL_EPOCH_TRYING;
        p->epoch.tracked = true;
        p->round.phase = REPL_ROUND_OPENING;
    }
    for (unsigned i = 0; i < MEMBERS; i++)
        open_one(f, i);
    not_busy(f, f->volumes[1]);
    assert_int_equal(together, MEMBERS);
    for (unsigned i = 0; i < MEMBERS; i++)
        assert_int_equal(f->volumes[i]->pipeline.round.phase, REPL_ROUND_CLOSING);
}

static void close_one(struct fixture *f, unsigned i)
{
    repl_source_group_close(f->group, f->volumes[i]);
    repl_source_group_look(f->group);
}

static enum repl_round_phase phase_of(const struct fixture *f, unsigned i)
{
    return f->volumes[i]->pipeline.round.phase;
}

static void a_tree_is_looked_through_before_counters_are_read(void **state)
{
    struct fixture *f = *state;
    struct repl_source_volume *tree = tree_of(f);
    open_one(f, 1);
    assert_int_equal(looked, 0); /* what changes while it waits would be in vain */
    open_one(f, 0);
    assert_true(looked == 1 && together == 0);
    repl_source_group_look(f->group);
    assert_true(looked == 1 && together == 0);
    not_busy(f, tree);
    assert_true(looked == 1 && together == MEMBERS && alone == 0);
}

static void a_tree_is_looked_at_again_when_all_is_read(void **state)
{
    struct fixture *f = *state;
    struct repl_source_volume *tree = tree_of(f);
    read_all(f);
    close_one(f, 1);
    assert_int_equal(compared, 0);
    close_one(f, 0);
    assert_true(compared == 1 && ends == 1);
    assert_int_equal(phase_of(f, 0), REPL_ROUND_CLOSING);
    not_busy(f, tree);
    assert_true(phase_of(f, 0) == REPL_ROUND_CUTTING && phase_of(f, 1) == REPL_ROUND_CUTTING);
}

static void what_changed_in_a_tree_tears_all(void **state)
{
    struct fixture *f = *state;
    struct repl_source_volume *tree = tree_of(f);
    read_all(f);
    close_one(f, 0);
    close_one(f, 1);
    tree_changes = 1;
    not_busy(f, tree);
    assert_true(phase_of(f, 0) == REPL_ROUND_OPENING && phase_of(f, 1) == REPL_ROUND_OPENING);
}

static void what_is_torn_already_is_not_compared(void **state)
{
    struct fixture *f = *state;
    tree_of(f);
    read_all(f);
    barriers = 1;
    close_one(f, 1);
    close_one(f, 0);
    assert_int_equal(compared, 0);
    assert_true(phase_of(f, 0) == REPL_ROUND_OPENING && phase_of(f, 1) == REPL_ROUND_OPENING);
}

/* A member is lost while the tree is busy, which is not asked for anything before it is done. */
static void a_busy_tree_is_waited_for(void **state)
{
    struct fixture *f = *state;
    struct repl_source_volume *tree = tree_of(f);
    read_all(f);
    close_one(f, 1);
    close_one(f, 0);
    f->volumes[0]->phase = VOLUME_CLOSING;
    repl_source_group_look(f->group);
    assert_int_equal(phase_of(f, 1), REPL_ROUND_CLOSING);
    not_busy(f, tree);
    assert_int_equal(phase_of(f, 1), REPL_ROUND_OPENING);
}

static void a_tree_that_takes_long_is_cut_for_itself(void **state)
{
    struct fixture *f = *state;
    tree_of(f);
    f->volumes[1]->pipeline.full_wanted = true;
    open_one(f, 0);
    assert_int_equal(alone, 1);
    assert_cause(f, "group g is cut each volume for itself: b is sent anew");
    watched = false;
    open_one(f, 1);
    assert_int_equal(alone, 2);
    assert_cause(f, "group g is cut each volume for itself: b is not tracked");
}

/* --- quiescing ------------------------------------------------------------------------------- */

static void to_be_quiesced(struct fixture *f, unsigned i)
{
    struct repl_source_volume *v = f->volumes[i];
    struct repl_pipeline *p = &v->pipeline;
    repl_epoch_init(&p->epoch, INTERVAL_NS, REPL_QUIESCE_FREEZE, 1, 0);
    p->epoch.state = REPL_EPOCH_TRYING;
    p->epoch.tracked = p->epoch.quiesced = true;
    p->round.phase = REPL_ROUND_QUIESCING;
    p->hold = REPL_HOLD_ASKED;
    v->device.number = 1 + i;
    f->configs[i].quiesce = REPL_QUIESCE_FREEZE;
    f->configs[i].freeze_budget_ms = f->configs[i].command_timeout_ms = 100;
    repl_source_group_quiesce(f->group, v);
    repl_source_group_look(f->group);
}

static void all_are_told_when_there_is_no_freeze(void **state)
{
    struct fixture *f = *state;
    struct repl_error err;
    to_be_quiesced(f, 0);
    assert_null(f->volumes[0]->held_by);
    to_be_quiesced(f, 1);
    for (unsigned i = 0; i < MEMBERS; i++)
        assert_true(f->volumes[i]->held_by != NULL && !f->volumes[i]->holding);
    assert_true(repl_ok(repl_loop_once(f->loop, 1000, &err)));
    for (unsigned i = 0; i < MEMBERS; i++) {
        const struct repl_pipeline *p = &f->volumes[i]->pipeline;
        assert_true(f->volumes[i]->held_by == NULL && p->hold == REPL_HOLD_NONE);
        assert_true(p->epoch.no_quiesce && phase_of(f, i) == REPL_ROUND_OPENING);
        assert_non_null(strstr(p->quiesce_cause, "/nobody"));
    }
}

/* Since before all of them could be cut together. */
static void who_is_held_alone_waits_for_nobody(void **state)
{
    struct fixture *f = *state;
    f->volumes[0]->pipeline.hold = REPL_HOLD_ON;
    open_one(f, 0);
    assert_int_equal(alone, 1);
    f->volumes[0]->pipeline.hold = REPL_HOLD_NONE;
    open_one(f, 0);
    open_one(f, 1);
    assert_true(alone == 1 && together == MEMBERS);
}

/* One would be frozen and the other not, or frozen later: never at the same moment. */
static void who_is_out_of_step_opens_a_round_first(void **state)
{
    struct fixture *f = *state;
    to_be_quiesced(f, 0);
    open_one(f, 1);
    const struct repl_pipeline *p = &f->volumes[0]->pipeline;
    assert_true(p->hold == REPL_HOLD_NONE && !p->epoch.quiesced && !p->epoch.no_quiesce);
    assert_true(phase_of(f, 0) == REPL_ROUND_OPENING && together == 0 && alone == 0);
    open_one(f, 0);
    assert_true(together == MEMBERS && alone == 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_member_that_stays_away_is_waited_for_once),
        TEST(who_cannot_be_cut_is_named),
        TEST(a_tree_is_looked_through_before_counters_are_read),
        TEST(a_tree_is_looked_at_again_when_all_is_read),
        TEST(what_changed_in_a_tree_tears_all),
        TEST(what_is_torn_already_is_not_compared),
        TEST(a_busy_tree_is_waited_for),
        TEST(a_tree_that_takes_long_is_cut_for_itself),
        TEST(all_are_told_when_there_is_no_freeze),
        TEST(who_is_held_alone_waits_for_nobody),
        TEST(who_is_out_of_step_opens_a_round_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
