/*
 * Names of points at a whole site: what a host's key may do, what the operator may,
 * and what is read of it, before and after a restart.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "control/control.h"
#include "control/mark_request.h"
#include "unit/agent/site/site_fixture.h"

static struct world world;

static int setup(void **state)
{
    world_init(&world, "none");
    site_start(&world);
    seed(&world);
    increment(&world);
    *state = &world;
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

static int mark_as(struct world *w, enum key key, const char *volume, uint64_t seq,
                   const char *name)
{
    struct repl_mark message = {.seq = seq};
    struct repl_buffer body = {0};
    struct repl_error err = {0};
    struct call call;
    snprintf(message.name, sizeof message.name, "%s", name);
    must(repl_mark_encode(&message, &body, &err), &err);
    call_init(&call, w, "POST", "/v1/volumes/%s/mark", volume);
    call.request.body = body.data;
    call.request.body_size = body.size;
    int status = call_run(&call, key);
    repl_buffer_fini(&body);
    return status;
}

/* "v1=1 held:v2=2 ": all there are, by name. */
static const char *marks_as(struct world *w, enum key key)
{
    static char text[1024];
    struct repl_marks marks;
    struct repl_error err = {0};
    size_t used = 0;
    text[0] = '\0';
    if (get(w, key, "/v1/volumes/data/marks") != 200)
        fail_msg("marks: %d %s", w->status, w->refusal.text);
    must(repl_marks_decode(w->response.data, w->response.size, &marks, &err), &err);
    for (uint32_t i = 0; i < marks.count; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s=%llu ",
                                 marks.marks[i].kind == REPL_MARK_HELD ? "held:" : "",
                                 marks.marks[i].name, (unsigned long long)marks.marks[i].seq);
    repl_marks_fini(&marks);
    return text;
}

/* --- the control socket, which blocks whoever asks ---------------------------------------------
 */

struct asking {
    const char *path;
    char line[REPL_MARK_REQUEST_SIZE];
    json_t *answer;
    repl_result result;
    struct repl_error err;
    atomic_bool done;
};

static void *asking_run(void *context)
{
    struct asking *a = context;
    a->result = repl_control_ask(a->path, a->line, &a->answer, &a->err);
    atomic_store(&a->done, true);
    return NULL;
}

/* A new reference; NULL: *code says why. */
static json_t *ask(struct world *w, const struct repl_mark_request *request, struct repl_error *err)
{
    struct asking a = {.path = w->control};
    pthread_t thread;
    repl_mark_request_write(request, a.line);
    assert_int_equal(pthread_create(&thread, NULL, asking_run, &a), 0);
    PUMP_UNTIL(w, atomic_load(&a.done));
    pthread_join(thread, NULL);
    *err = a.err;
    return repl_ok(a.result) ? a.answer : NULL;
}

/* REPL_OK, or what the operator is told. */
static enum repl_code order(struct world *w, const char *volume, enum repl_mark_kind kind,
                            uint64_t seq, const char *name, struct repl_error *err)
{
    struct repl_mark_request request = {.mark = {.kind = kind, .seq = seq}};
    snprintf(request.volume, sizeof request.volume, "%s", volume);
    snprintf(request.mark.name, sizeof request.mark.name, "%s", name);
    json_t *answer = ask(w, &request, err);
    if (answer == NULL)
        return err->code;
    request.ticket = (uint64_t)json_integer_value(json_object_get(answer, "ticket"));
    assert_true(request.ticket > 0);
    for (bool done = false; !done;) {
        json_decref(answer);
        answer = ask(w, &request, err);
        if (answer == NULL)
            return err->code;
        done = json_is_true(json_object_get(answer, "done"));
    }
    json_decref(answer);
    return REPL_OK;
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_a_host_adds_names(void **state)
{
    struct world *w = *state;
    assert_string_equal(marks_as(w, KEY_HOST), "");
    assert_int_equal(mark_as(w, KEY_HOST, "data", 1, "v1"), 200);
    assert_true(repl_digest_equal(&w->ack.head.digest, &w->head.digest));
    assert_int_equal(mark_as(w, KEY_HOST, "data", 2, "v2 \xe2\x82\xac"), 200);
    assert_int_equal(mark_as(w, KEY_HOST, "data", 1, "v1"), 200); /* the answer was lost */
    assert_string_equal(marks_as(w, KEY_RECOVERY), "v1=1 v2 \xe2\x82\xac=2 ");

    mark_as(w, KEY_HOST, "data", 2, "v1");
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "point 1 has the name \"v1\" already");
    mark_as(w, KEY_HOST, "data", 3, "v3");
    expect_refusal(w, 404, REPL_REFUSAL_NOT_FOUND, "no point 3");
    mark_as(w, KEY_HOST, "data", 2, "10 min ago");
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "time");
    assert_string_equal(marks_as(w, KEY_HOST), "v1=1 v2 \xe2\x82\xac=2 ");

    site_restart(w);
    assert_string_equal(marks_as(w, KEY_HOST), "v1=1 v2 \xe2\x82\xac=2 ");
    hello(w);
    increment(w); /* the log goes on behind it */
    assert_int_equal(mark_as(w, KEY_HOST, "data", 3, "v3"), 200);
    assert_string_equal(marks_as(w, KEY_HOST), "v1=1 v2 \xe2\x82\xac=2 v3=3 ");
}

static void test_other_keys_may_not(void **state)
{
    struct world *w = *state;
    mark_as(w, KEY_RECOVERY, "data", 1, "v1");
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "for recovery");
    mark_as(w, KEY_OTHER, "data", 1, "v1");
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "not for volume data");
    assert_int_equal(mark_as(w, KEY_REVOKED, "data", 1, "v1"), 403);
    assert_int_equal(mark_as(w, KEY_UNKNOWN, "data", 1, "v1"), 403);
    assert_int_equal(get(w, KEY_OTHER, "/v1/volumes/data/marks"), 403);
    mark_as(w, KEY_HOST, "spare", 1, "v1");
    expect_refusal(w, 409, REPL_REFUSAL_GREET, "no hello");
    assert_string_equal(marks_as(w, KEY_HOST), "");
}

static void test_what_is_no_mark(void **state)
{
    struct world *w = *state;
    static const uint8_t bytes[] = "REPL\xb\0\0\0\xd\0\0\0\1";
    struct call call;
    call_init(&call, w, "POST", "/v1/volumes/data/mark");
    call.request.body = bytes;
    call.request.body_size = 13;
    call_run(&call, KEY_HOST);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "mark");
    assert_int_equal(get(w, KEY_HOST, "/v1/volumes/data/mark"), 405);
}

static void test_the_operator_holds_and_removes(void **state)
{
    struct world *w = *state;
    struct repl_error err;
    assert_int_equal(mark_as(w, KEY_HOST, "data", 1, "v1"), 200);
    assert_int_equal(order(w, "data", REPL_MARK_HELD, 1, "v1", &err), REPL_OK);
    assert_int_equal(order(w, "data", REPL_MARK_NAME, 2, "r\xc3\xa9union", &err), REPL_OK);
    assert_string_equal(marks_as(w, KEY_HOST), "r\xc3\xa9union=2 held:v1=1 ");
    assert_int_equal(order(w, "data", REPL_MARK_HELD, 2, "v1", &err), REPL_E_REFUSED);
    assert_non_null(strstr(err.text, "point 1"));
    assert_int_equal(order(w, "data", REPL_MARK_REMOVED, 0, "v9", &err), REPL_E_MISSING);
    assert_int_equal(order(w, "data", REPL_MARK_REMOVED, 0, "\xff", &err), REPL_E_MISSING);
    assert_int_equal(order(w, "data", REPL_MARK_NAME, 1, "\xff", &err), REPL_E_REFUSED);
    assert_int_equal(order(w, "data", REPL_MARK_HELD, 9, "v9", &err), REPL_E_MISSING);
    assert_int_equal(order(w, "other", REPL_MARK_HELD, 1, "v9", &err), REPL_E_MISSING);
    site_restart(w);
    assert_int_equal(order(w, "data", REPL_MARK_REMOVED, 0, "v1", &err), REPL_OK);
    assert_string_equal(marks_as(w, KEY_HOST), "r\xc3\xa9union=2 ");
    assert_int_equal(mark_as(w, KEY_HOST, "data", 2, "v1"), 200);
    /* more of them than are remembered */
    for (unsigned i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%u", i);
        assert_int_equal(order(w, "data", REPL_MARK_NAME, 1, name, &err), REPL_OK);
        assert_int_equal(order(w, "data", REPL_MARK_REMOVED, 0, name, &err), REPL_OK);
    }
    assert_string_equal(marks_as(w, KEY_HOST), "r\xc3\xa9union=2 v1=2 ");
    struct repl_mark_request old = {.ticket = 1};
    assert_null(ask(w, &old, &err));
    assert_int_equal(err.code, REPL_E_MISSING);
}

/* They are the log's: an index that is lost is made anew with them. */
static void test_without_an_index(void **state)
{
    struct world *w = *state;
    struct repl_error err;
    assert_int_equal(mark_as(w, KEY_HOST, "data", 2, "a"), 200);
    assert_int_equal(mark_as(w, KEY_HOST, "data", 1, "b"), 200);
    assert_int_equal(order(w, "data", REPL_MARK_HELD, 1, "b", &err), REPL_OK);
    assert_int_equal(order(w, "data", REPL_MARK_REMOVED, 0, "a", &err), REPL_OK);
    site_stop(w);
    index_remove(w);
    site_start(w);
    assert_string_equal(marks_as(w, KEY_HOST), "held:b=1 ");
    mark_as(w, KEY_HOST, "data", 2, "b");
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "point 1 has the name \"b\" already");
}

/* Names come between segments, which one connection brings while another names points. */
static void test_names_while_segments_come(void **state)
{
    struct world *w = *state;
    struct call calls[8];
    struct repl_buffer bodies[8] = {{0}};
    struct repl_error err = {0};
    for (unsigned i = 0; i < 8; i++) {
        struct repl_mark message = {.seq = 1 + i % 2};
        snprintf(message.name, sizeof message.name, "n%u", i);
        must(repl_mark_encode(&message, &bodies[i], &err), &err);
        call_init(&calls[i], w, "POST", "/v1/volumes/data/mark");
        calls[i].request.body = bodies[i].data;
        calls[i].request.body_size = bodies[i].size;
        must(repl_request_start(w->clients[KEY_HOST], &calls[i].request, &err), &err);
    }
    increment(w);
    for (unsigned i = 0; i < 8; i++) {
        PUMP_UNTIL(w, calls[i].done);
        assert_int_equal(calls[i].request.status, 200);
        repl_buffer_fini(&bodies[i]);
    }
    const char *marks = marks_as(w, KEY_HOST);
    for (unsigned i = 0; i < 8; i++) {
        char mark[16];
        snprintf(mark, sizeof mark, "n%u=%u ", i, 1 + i % 2);
        assert_non_null(strstr(marks, mark));
    }
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_host_adds_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_keys_may_not, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_mark, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_operator_holds_and_removes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_an_index, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_while_segments_come, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
