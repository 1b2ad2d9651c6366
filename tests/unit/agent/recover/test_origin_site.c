/*
 * What a site that is asked for its replica's digests, or for a name of a point, may
 * answer, older releases included. The site is a listener in a thread, with answers of the test's
 * own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "loop/loop.h"
#include "recover/origin.h"
#include "site/listen/listener.h"
#include "unit/temporary.h"

enum manner {
    OLDER,       /* knows the volume, not the path */
    NO_VOLUME,   /* knows neither */
    ANSWERS,     /* two pages */
    OTHER_PAGES, /* than were asked for */
    NO_POINT,    /* knows the path, not the point that is to be named */
    MERGES_RUN,  /* between two pages of its list of segments */
    MERGES_BASE
};

struct stub {
    struct temporary temporary;
    struct repl_loop *loop;
    struct repl_listener *listener;
    pthread_t thread;
    _Atomic enum manner manner;
    struct repl_origin *origin;
    struct repl_marks marks; /* that the site has */
    struct repl_points_page timeline;
    unsigned listings; /* of segments, begun */
};

static void answer(struct repl_exchange *exchange, int status, repl_result encoded,
                   struct repl_buffer *message)
{
    assert_true(repl_ok(encoded));
    repl_exchange_respond(exchange, status, NULL, message->data, message->size);
    repl_buffer_fini(message);
}

static void refuse(struct repl_exchange *exchange, const char *text)
{
    struct repl_refusal refusal = {.code = REPL_REFUSAL_NOT_FOUND};
    struct repl_buffer message = {0};
    snprintf(refusal.text, sizeof refusal.text, "%s", text);
    answer(exchange, 404, repl_refusal_encode(&refusal, &message, NULL), &message);
}

/* Of a list as it was: the first page has points 1 to 3. What is merged then is of them and of
 * points 4 and 5; point 6 is the newest. */
static void segments_answer(struct stub *stub, struct repl_exchange *exchange, enum manner manner,
                            const char *path)
{
    bool first = strstr(path, "/after/0.0") != NULL;
    struct repl_segments_entry entries[4] = {0};
    struct repl_segments_page page = {.entries = entries};
    struct repl_buffer message = {0};
    stub->listings += first;
    for (uint64_t seq = 1; first && seq <= (stub->listings > 1 ? 2 : 3); seq++)
        entries[page.count++].head = (struct repl_head){seq - 1, seq, 0, true, {{0}}};
    entries[0].begins = first;
    if (first && stub->listings > 1 && manner == MERGES_BASE)
        page.count = 0;
    page.more = first && stub->listings == 1;
    if (!page.more) {
        bool base = manner == MERGES_BASE;
        entries[page.count].merge = 9;
        entries[page.count].begins = false;
        entries[page.count++].head = (struct repl_head){base ? 0 : 2, 5, 0, true, {{0}}};
        entries[page.count++].head = (struct repl_head){5, 6, 0, true, {{0}}};
    }
    answer(exchange, 200, repl_segments_page_encode(&page, &message, NULL), &message);
}

static void on_begin(void *owner, struct repl_exchange *exchange)
{
    (void)owner;
    repl_exchange_trust(exchange);
}

static void on_end(void *owner, struct repl_exchange *exchange)
{
    struct stub *stub = owner;
    enum manner manner = atomic_load(&stub->manner);
    struct repl_page_digest pages[2] = {{"a"}, {"b"}};
    struct repl_digests digests = {
        .count = 2,
        .first_page = manner == OTHER_PAGES ? 4 : 3,
        .at = {.point = {.seq = 9, .consistency = 1, .cut = 2, .attempts = 1},
               .volume_size = 1 << 20},
        .pages = pages};
    struct repl_buffer message = {0};
    const char *path = repl_exchange_path(exchange);
    if (manner == NO_VOLUME)
        refuse(exchange, "there is no volume data at this site");
    else if (manner != OLDER && strstr(path, "/marks") != NULL)
        answer(exchange, 200, repl_marks_encode(&stub->marks, &message, NULL), &message);
    else if (manner == NO_POINT)
        refuse(exchange, "there is no point 4 here");
    else if (manner == ANSWERS && strstr(path, "/mark") != NULL)
        answer(exchange, 200, repl_ack_encode(&(struct repl_ack){0}, &message, NULL), &message);
    else if (strstr(path, "/after/") != NULL && manner >= MERGES_RUN)
        segments_answer(stub, exchange, manner, path);
    else if (strstr(path, "/after/") != NULL)
        answer(exchange, 200,
               repl_segments_page_encode(&(struct repl_segments_page){0}, &message, NULL),
               &message);
    else if (strstr(path, "/supplies") != NULL)
        repl_exchange_respond(exchange, 200, "application/json", "[]", 2);
    else if (strstr(path, "/points/") != NULL)
        answer(exchange, 200,
               repl_points_page_encode(&(struct repl_points_page){0}, &message, NULL), &message);
    else if (manner != OLDER && strstr(path, "/timeline/") != NULL)
        answer(exchange, 200, repl_timeline_encode(&stub->timeline, &message, NULL), &message);
    else if (manner == OLDER)
        refuse(exchange, "there is no such path");
    else
        answer(exchange, 200, repl_digests_encode(&digests, &message, NULL), &message);
}

static void on_body(void *owner, struct repl_exchange *exchange, const void *data, size_t size)
{
    (void)owner, (void)exchange, (void)data, (void)size;
}

static void on_closed(void *owner, struct repl_exchange *exchange, bool complete)
{
    (void)owner, (void)exchange, (void)complete;
}

static const struct repl_exchange_handler handler = {
    .begin = on_begin, .body = on_body, .end = on_end, .closed = on_closed};

static void *stub_run(void *context)
{
    struct stub *stub = context;
    struct repl_error err;
    assert_true(repl_ok(repl_loop_run(stub->loop, &err)));
    return NULL;
}

static int stub_start(void **state)
{
    static struct stub stub;
    char site_key[300], host_key[300], address[32];
    struct repl_digest site, host;
    struct repl_error err = {.text = ""};
    assert_int_equal(temporary_make(&stub.temporary), 0);
    snprintf(site_key, sizeof site_key, "%s/site.key", stub.temporary.path);
    snprintf(host_key, sizeof host_key, "%s/host.key", stub.temporary.path);
    assert_true(repl_ok(repl_key_generate(site_key, "site", &site, &err)));
    assert_true(repl_ok(repl_key_generate(host_key, "host", &host, &err)));
    assert_true(
        repl_ok(repl_loop_new(&(struct repl_loop_options){.workers = 1}, &stub.loop, &err)));
    struct repl_listener_options listen = {
        .address = "127.0.0.1:0", .key_path = site_key, .handler = &handler, .owner = &stub};
    assert_true(repl_ok(repl_listener_new(stub.loop, &listen, &stub.listener, &err)));
    snprintf(address, sizeof address, "127.0.0.1:%u", repl_listener_port(stub.listener));
    struct repl_client_options client = {
        .address = address, .key_path = host_key, .fingerprint = site};
    assert_true(repl_ok(repl_origin_open_site(&client, "data", &stub.origin, &err)));
    assert_int_equal(pthread_create(&stub.thread, NULL, stub_run, &stub), 0);
    *state = &stub;
    return 0;
}

static int stub_end(void **state)
{
    struct stub *stub = *state;
    stub->origin->ops->close(stub->origin);
    repl_loop_stop(stub->loop);
    pthread_join(stub->thread, NULL);
    repl_listener_free(stub->listener);
    repl_loop_free(stub->loop);
    temporary_remove(&stub->temporary);
    return 0;
}

static enum repl_code ask(struct stub *stub, enum manner manner, struct repl_digests *out,
                          struct repl_error *err)
{
    atomic_store(&stub->manner, manner);
    return stub->origin->ops->digests(stub->origin, 3, 2, out, err).code;
}

static void test_answers(void **state)
{
    struct repl_digests digests;
    struct repl_error err;
    assert_int_equal(ask(*state, ANSWERS, &digests, &err), REPL_OK);
    assert_int_equal(digests.count, 2);
    assert_int_equal(digests.at.point.seq, 9);
    assert_int_equal(digests.pages[1].bytes[0], 'b');
    repl_digests_fini(&digests);
    assert_int_equal(ask(*state, OTHER_PAGES, &digests, &err), REPL_E_CORRUPT);
}

/* It has to be said which of the two it is. */
static void test_older_site(void **state)
{
    struct repl_digests digests;
    struct repl_error err;
    assert_int_equal(ask(*state, OLDER, &digests, &err), REPL_E_VERSION);
    assert_non_null(strstr(err.text, "older release"));
    assert_int_equal(ask(*state, NO_VOLUME, &digests, &err), REPL_E_MISSING);
    assert_non_null(strstr(err.text, "no volume data"));
}

static enum repl_code mark(struct stub *stub, enum manner manner, struct repl_error *err)
{
    const struct repl_mark wanted = {.seq = 4, .name = "v1"};
    atomic_store(&stub->manner, manner);
    return stub->origin->ops->mark(stub->origin, &wanted, err).code;
}

static void test_a_name(void **state)
{
    struct repl_error err;
    assert_int_equal(mark(*state, ANSWERS, &err), REPL_OK);
    assert_int_equal(mark(*state, NO_POINT, &err), REPL_E_MISSING);
    assert_non_null(strstr(err.text, "no point 4"));
    assert_int_equal(mark(*state, OLDER, &err), REPL_E_VERSION);
    assert_non_null(strstr(err.text, "older release"));
    assert_int_equal(mark(*state, NO_VOLUME, &err), REPL_E_MISSING);
    assert_non_null(strstr(err.text, "no volume data"));
}

/* A catalogue is one without the names too, and without how much has changed. */
static void test_names(void **state)
{
    struct stub *stub = *state;
    struct repl_log_mark marks[] = {{REPL_MARK_HELD, 4, "v1"}};
    struct repl_catalogue c = {0};
    struct repl_error err;
    struct repl_points_entry point = {
        .point = {.seq = 9, .consistency = 1, .cut = 2, .attempts = 1},
        .churn = {.known = true, .trouble = REPL_TROUBLE_CHANGE, .trouble_before_seq = 4}};
    stub->timeline = (struct repl_points_page){.count = 1, .entries = &point};
    stub->marks = (struct repl_marks){.count = 1, .marks = marks};
    atomic_store(&stub->manner, ANSWERS);
    assert_true(repl_ok(stub->origin->ops->catalogue(stub->origin, &c, &err)));
    assert_int_equal(c.mark_count, 1);
    assert_string_equal(c.marks[0].name, "v1");
    assert_false(c.names_unknown);
    assert_int_equal(c.point_count, 1);
    assert_int_equal(c.points[0].churn.trouble_before_seq, 4);
    repl_catalogue_fini(&c);

    atomic_store(&stub->manner, OLDER);
    assert_true(repl_ok(stub->origin->ops->catalogue(stub->origin, &c, &err)));
    assert_true(c.names_unknown);
    assert_string_equal(c.note, "");
    assert_int_equal(c.mark_count, 0);
    assert_int_equal(c.point_count, 0); /* as its points say, which is another path */
    repl_catalogue_fini(&c);
}

/* It would not be a history: neither what there was before nor what there is now. */
static void test_a_merge_between_pages(void **state)
{
    struct stub *stub = *state;
    for (enum manner manner = MERGES_RUN; manner <= MERGES_BASE; manner++) {
        struct repl_catalogue c = {0};
        struct repl_error err;
        stub->listings = 0;
        stub->timeline = (struct repl_points_page){0};
        atomic_store(&stub->manner, manner);
        assert_true(repl_ok(stub->origin->ops->catalogue(stub->origin, &c, &err)));
        assert_int_equal(stub->listings, 2);
        assert_int_equal(c.segment_count, manner == MERGES_BASE ? 2 : 4);
        assert_int_equal(c.segments[c.segment_count - 2].head.to_seq, 5);
        repl_catalogue_fini(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answers, stub_start, stub_end),
        cmocka_unit_test_setup_teardown(test_older_site, stub_start, stub_end),
        cmocka_unit_test_setup_teardown(test_a_name, stub_start, stub_end),
        cmocka_unit_test_setup_teardown(test_names, stub_start, stub_end),
        cmocka_unit_test_setup_teardown(test_a_merge_between_pages, stub_start, stub_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
