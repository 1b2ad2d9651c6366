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

static unsigned alone, together; /* openings */

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
    (void)v;
    (void)err;
    *out = (struct repl_write_counters){0};
    return REPL_SUCCESS;
}

repl_result volume_counters_end(struct repl_source_volume *v, struct repl_write_counters *out,
                                struct repl_error *err)
{
    return volume_counters_begin(v, out, err);
}

void volume_marks_take(struct repl_source_volume *v)
{
    (void)v;
    together++;
}

/* --- the group ------------------------------------------------------------------------------- */

static int set_up(void **state)
{
    static struct fixture f;
    static char names[MEMBERS][2] = {"a", "b"};
    struct repl_loop_options options = {.workers = 1};
    struct repl_error err;
    f = (struct fixture){0};
    alone = together = 0;
    if (!repl_ok(repl_loop_new(&options, &f.loop, &err)) ||
        !repl_ok(repl_source_group_new(f.loop, "g", MEMBERS, &f.group, &err)))
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_member_that_stays_away_is_waited_for_once, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(who_cannot_be_cut_is_named, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
