/*
 * What the control socket is told of a point that somebody waits for. The volume is a bare one: it
 * has a pipeline at rest, and nothing that would do anything about it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "source/source_volume_internal.h"

#define DISTANT (600 * REPL_SECOND_NS)

static struct repl_config_volume config = {.kind = REPL_VOLUME_BLOCK, .rpo_ms = 4000};
static struct repl_source_volume volume;

static void timer_fired(struct repl_timer *timer)
{
    (void)timer;
}

/* Its last point, 5, is of now. */
static int setup(void **state)
{
    struct repl_error err;
    int64_t now_ns = repl_now_wall_ns();
    struct repl_pipeline *p = &volume.pipeline;
    config.name = (char *)"data";
    config.device = (char *)"/dev/null";
    volume = (struct repl_source_volume){.options.volume = &config, .phase = VOLUME_RUNNING};
    assert_true(repl_ok(
        repl_loop_new(&(struct repl_loop_options){.workers = 1}, &volume.options.loop, &err)));
    volume.timer = (struct repl_timer){.fire = timer_fired};
    repl_epoch_init(&p->epoch, DISTANT, REPL_QUIESCE_WINDOW, 6, now_ns);
    p->epoch.due_ns = now_ns + DISTANT;
    p->epoch.at_point = p->epoch.tracked = true;
    p->ship.state = REPL_SHIP_READY;
    p->ship.point_seq = 5;
    p->ship.head.has_point = true;
    p->site_point = (struct repl_point){.seq = 5, .begin_ns = now_ns - 1, .end_ns = now_ns};
    p->unchanged_until_ns = now_ns;
    *state = &volume;
    return 0;
}

static int teardown(void **state)
{
    struct repl_source_volume *v = *state;
    repl_timer_cancel(&v->timer);
    repl_loop_free(v->options.loop);
    return 0;
}

struct answer {
    int64_t since_ns;
    bool there;
    uint64_t unchanged_seq;
    char state[32];
};

static struct answer ask(struct repl_source_volume *v, int64_t since_ns)
{
    char text[32] = "";
    struct repl_error err = {.text = ""};
    if (since_ns != 0)
        snprintf(text, sizeof text, " %lld", (long long)since_ns);
    json_t *json = repl_source_volume_point(v, text, &err);
    if (json == NULL)
        fail_msg("%s", err.text);
    struct answer answer = {
        .since_ns = json_integer_value(json_object_get(json, "since_ns")),
        .there = json_is_true(json_object_get(json, "there")),
        .unchanged_seq = (uint64_t)json_integer_value(json_object_get(json, "unchanged_seq"))};
    snprintf(answer.state, sizeof answer.state, "%s",
             json_string_value(json_object_get(json, "state")));
    json_decref(json);
    return answer;
}

static void test_a_point_comes(void **state)
{
    struct repl_source_volume *v = *state;
    struct repl_pipeline *p = &v->pipeline;
    int64_t before_ns = repl_now_wall_ns();
    struct answer first = ask(v, 0);
    assert_true(first.since_ns >= before_ns && first.since_ns <= repl_now_wall_ns());
    assert_false(first.there);
    assert_string_equal(first.state, "idle");
    assert_true(p->epoch.due_ns <= repl_now_wall_ns()); /* hurried */
    p->epoch.at_point = false;
    assert_false(ask(v, first.since_ns).there);
    /* a point whose round was opened before is none, one of later is */
    p->ship.point_seq = 6;
    p->site_point = (struct repl_point){.seq = 6, .begin_ns = first.since_ns - 1};
    assert_false(ask(v, first.since_ns).there);
    p->ship.point_seq = 7;
    p->site_point = (struct repl_point){.seq = 7, .begin_ns = first.since_ns};
    struct answer last = ask(v, first.since_ns);
    assert_true(last.there);
    assert_int_equal(last.unchanged_seq, 0);
    assert_int_equal(last.since_ns, first.since_ns);
}

static void test_nothing_changes(void **state)
{
    struct repl_source_volume *v = *state;
    struct answer first = ask(v, 0);
    assert_false(ask(v, first.since_ns).there);
    v->pipeline.unchanged_until_ns = first.since_ns;
    struct answer last = ask(v, first.since_ns);
    assert_true(last.there);
    assert_int_equal(last.unchanged_seq, 5);
}

/* Who asks already waits for it; who has not begun is told so. */
static void test_a_volume_that_does_not_run(void **state)
{
    struct repl_source_volume *v = *state;
    struct repl_error err;
    struct answer first = ask(v, 0);
    v->phase = VOLUME_CLOSED;
    assert_false(ask(v, first.since_ns).there);
    assert_null(repl_source_volume_point(v, "", &err));
    assert_int_equal(err.code, REPL_E_RETRY);
    assert_non_null(strstr(err.text, "volume data"));
}

static void test_what_is_no_time(void **state)
{
    static const char *const texts[] = {" ", " x", "5", " 5 ", " -5", " 12345678901234567890"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct repl_error err;
        assert_null(repl_source_volume_point(*state, texts[i], &err));
        assert_int_equal(err.code, REPL_E_USAGE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_point_comes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_volume_that_does_not_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_time, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
