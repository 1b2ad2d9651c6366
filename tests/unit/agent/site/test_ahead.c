/*
 * Segments that are sent ahead of their turn, to a whole site: taken in while the
 * one before is on its way, and part of the history only behind it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "site/site_volume.h"
#include "unit/agent/site/site_world.h"

/* The segment behind the head, without a word to the site. */
static void build_one(struct build *b, struct world *w, uint64_t from, uint64_t to)
{
    build_begin(b, w, from, to, 0);
    for (unsigned i = 0; i < 3; i++)
        build_data(b, (uint64_t)(i + to) * MIB / 2, MIB / 2);
    build_end(b, true);
}

/* Two segments, one behind the other; the site has neither. */
static void begin_two(struct build *first, struct build *second, struct world *w)
{
    seed(w);
    build_one(first, w, 1, 2);
    struct repl_head head = w->head;
    build_taken(first);
    build_one(second, w, 2, 3);
    w->head = head;
}

static void start(struct call *call, const struct build *b, const char *how)
{
    struct repl_error err = {0};
    call_init(call, b->w, "PUT", "/v1/volumes/data/%s/%llu.%u", how,
              (unsigned long long)b->header.to_seq, b->header.part);
    call->request.body = b->file.bytes.data;
    call->request.body_size = b->file.bytes.size;
    must(repl_request_start(b->w->clients[KEY_HOST], &call->request, &err), &err);
}

/* The first bytes of it, or all; or it is refused before they have left. */
static void send(struct call *call, const struct build *b, const char *how, size_t size, bool ends)
{
    struct repl_error err = {0};
    call_init(call, b->w, "PUT", "/v1/volumes/data/%s/%llu.%u", how,
              (unsigned long long)b->header.to_seq, b->header.part);
    call->request.read_body = call_read;
    call->bytes = b->file.bytes.data;
    call->size = size;
    call->ends = ends;
    must(repl_request_start(b->w->clients[KEY_HOST], &call->request, &err), &err);
    PUMP_UNTIL(b->w, call->sent == size || call->done);
    for (int i = 0; i < 30; i++)
        turn(b->w);
}

/* Half of what is in its turn, and all of what is not. */
static void send_half(struct call *call, const struct build *b)
{
    send(call, b, "segments", b->file.bytes.size / 2, false);
}

static void send_ahead(struct call *call, const struct build *b)
{
    send(call, b, "ahead", b->file.bytes.size, true);
}

/* The rest of it. */
static void finish(struct call *call, const struct build *b)
{
    call->size = b->file.bytes.size;
    call->ends = true;
    repl_request_resume(&call->request);
    PUMP_UNTIL(call->w, call->done);
}

/* On another connection. */
static void rest_put(const struct build *b, size_t beginning)
{
    assert_int_equal(
        put(b->w, 2, 0, beginning, b->file.bytes.data + beginning, b->file.bytes.size - beginning),
        201);
}

static void fini_two(struct build *first, struct build *second)
{
    build_fini(first);
    build_fini(second);
}

static void test_complete_before_its_turn(void **state)
{
    struct world *w = *state;
    struct build first, second;
    struct call one, two;
    begin_two(&first, &second, w);
    send_half(&one, &first);
    send_ahead(&two, &second);
    assert_false(two.done);
    assert_int_equal(volume_status(w, "data").point.seq, 1);
    finish(&one, &first);
    assert_int_equal(w->status, 201);
    PUMP_UNTIL(w, two.done);
    assert_int_equal(w->status, 201);
    assert_true(repl_digest_equal(&w->ack.head.digest, &second.footer.digest));
    assert_int_equal(hello(w).head.to_seq, 3);
    build_taken(&second);
    fini_two(&first, &second);
    expect_replica(w);
}

/* Its turn comes in the middle of it; and the next one is ahead of it then. */
static void test_turn_comes_in_the_middle(void **state)
{
    struct world *w = *state;
    struct build first, second, third;
    struct call one, two, three;
    begin_two(&first, &second, w);
    struct repl_head head = w->head;
    build_taken(&second);
    build_one(&third, w, 3, 4);
    w->head = head;
    send_half(&one, &first);
    send(&two, &second, "ahead", second.file.bytes.size / 3, false);
    finish(&one, &first);
    assert_int_equal(w->status, 201);
    send(&three, &third, "ahead", third.file.bytes.size, true);
    assert_false(two.done || three.done);
    finish(&two, &second);
    assert_int_equal(w->status, 201);
    PUMP_UNTIL(w, three.done);
    assert_int_equal(w->status, 201);
    build_taken(&third);
    fini_two(&first, &second);
    build_fini(&third);
    expect_replica(w);
}

/* The one before it is acknowledged already: what is sent ahead is in turn. */
static void test_ahead_of_nothing(void **state)
{
    struct world *w = *state;
    struct build first, second;
    struct call call;
    begin_two(&first, &second, w);
    send(&call, &first, "ahead", first.file.bytes.size, true);
    PUMP_UNTIL(w, call.done);
    assert_int_equal(w->status, 201);
    build_taken(&first);
    send(&call, &first, "ahead", first.file.bytes.size, true);
    PUMP_UNTIL(w, call.done);
    assert_int_equal(w->status, 201); /* it is the head: once more */
    assert_int_equal(w->ack.head.to_seq, 2);
    fini_two(&first, &second);
}

/* The first is refused: what is behind it cannot be taken in, and its turn has not come. */
static void test_first_is_refused(void **state)
{
    struct world *w = *state;
    struct build first, second;
    struct call one, two;
    begin_two(&first, &second, w);
    first.file.bytes.data[first.file.bytes.size - 100] ^= 1;
    send_half(&one, &first);
    send_ahead(&two, &second);
    one.size = first.file.bytes.size;
    one.ends = true;
    repl_request_resume(&one.request);
    PUMP_UNTIL(w, one.done && two.done);
    assert_true(one.request.status == 422 && two.request.status == 503);
    assert_int_equal(hello(w).staged_bytes, 0);
    first.file.bytes.data[first.file.bytes.size - 100] ^= 1;
    build_commit(&first);
    build_commit(&second);
    expect_replica(w);
}

static void test_refused_ahead(void **state)
{
    struct world *w = *state;
    struct build first, second;
    struct call one, two;
    begin_two(&first, &second, w);
    send_half(&one, &first);
    /* the one that is on its way, and one that does not follow it */
    send(&two, &first, "ahead", 100, true);
    PUMP_UNTIL(w, two.done);
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "another connection");
    call_init(&two, w, "PUT", "/v1/volumes/data/ahead/7.3");
    call_run(&two, KEY_HOST);
    expect_refusal(w, 409, REPL_REFUSAL_GREET, "cannot follow");
    /* rubbish, and less than a header */
    call_init(&two, w, "PUT", "/v1/volumes/data/ahead/3.0");
    two.request.body = w->model;
    two.request.body_size = MIB;
    call_run(&two, KEY_HOST);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "");
    two.done = false;
    two.request.body_size = 9;
    call_run(&two, KEY_HOST);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "within its header");
    /* under another name */
    call_init(&two, w, "PUT", "/v1/volumes/data/ahead/4.0");
    two.request.body = second.file.bytes.data;
    two.request.body_size = second.file.bytes.size;
    call_run(&two, KEY_HOST);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "under the name");
    /* from an offset */
    call_init(&two, w, "PUT", "/v1/volumes/data/ahead/3.0");
    two.request.offset = 4096;
    call_run(&two, KEY_HOST);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "from its start");
    /* None of which the first one has noticed. */
    finish(&one, &first);
    assert_int_equal(w->status, 201);
    build_taken(&first);
    build_commit(&second);
    build_fini(&first);
    expect_replica(w);
}

/* A hello ends it. So does another one that comes ahead; and the one in turn goes on. */
static void test_taken_over(void **state)
{
    struct world *w = *state;
    struct build first, second;
    struct call one, two, three;
    begin_two(&first, &second, w);
    send_half(&one, &first);
    send(&two, &second, "ahead", second.file.bytes.size / 2, false);
    send(&three, &second, "ahead", second.file.bytes.size, true);
    PUMP_UNTIL(w, two.done);
    assert_int_equal(two.request.status, 503);
    struct repl_welcome welcome = hello(w);
    PUMP_UNTIL(w, one.done && three.done);
    assert_int_equal(three.request.status, 503);
    assert_true(welcome.staged_to_seq == 2 && welcome.staged_bytes == first.file.bytes.size / 2);
    rest_put(&first, welcome.staged_bytes);
    build_taken(&first);
    build_commit(&second);
    build_fini(&first);
    expect_replica(w);
}

/* The connection is lost in the middle of it, then its turn comes: it can be resumed. */
static void test_lost_and_resumed(void **state)
{
    struct world *w = *state;
    struct build first, second;
    struct call one, two;
    begin_two(&first, &second, w);
    size_t beginning = second.file.bytes.size / 2;
    send_half(&one, &first);
    send(&two, &second, "ahead", beginning, false);
    repl_request_cancel(&two.request);
    for (int i = 0; i < 30; i++)
        turn(w);
    finish(&one, &first);
    assert_int_equal(w->status, 201);
    struct repl_welcome welcome = hello(w);
    assert_true(welcome.head.to_seq == 2 && welcome.staged_to_seq == 3 &&
                welcome.staged_bytes == beginning);
    site_restart(w);
    assert_true(hello(w).staged_bytes == beginning);
    assert_int_equal(put(w, 3, 0, beginning, second.file.bytes.data + beginning,
                         second.file.bytes.size - beginning),
                     201);
    build_taken(&second);
    fini_two(&first, &second);
    expect_replica(w);
}

/* The site ends with both on their way: the first goes on where it was. */
static void test_restart(void **state)
{
    struct world *w = *state;
    struct build first, second;
    struct call one, two;
    begin_two(&first, &second, w);
    size_t beginning = first.file.bytes.size / 2;
    send(&one, &first, "segments", beginning, false);
    send(&two, &second, "ahead", second.file.bytes.size / 2, false);
    repl_request_cancel(&two.request);
    repl_request_cancel(&one.request);
    for (int i = 0; i < 30; i++)
        turn(w);
    site_restart(w);
    struct repl_welcome welcome = hello(w);
    assert_true(welcome.staged_to_seq == 2 && welcome.staged_bytes == beginning);
    rest_put(&first, beginning);
    build_taken(&first);
    build_commit(&second);
    build_fini(&first);
    expect_replica(w);
}

/* The connection of the first is lost: until a hello nobody goes on with it, and one may never
 * come. So the turn of what is behind it does not come either. */
static void test_first_is_lost(void **state)
{
    struct world *w = *state;
    struct build first, second;
    struct call one, two;
    begin_two(&first, &second, w);
    size_t beginning = first.file.bytes.size / 2;
    send(&one, &first, "segments", beginning, false);
    send_ahead(&two, &second);
    repl_request_cancel(&one.request);
    PUMP_UNTIL(w, two.done);
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "turn");
    struct repl_welcome welcome = hello(w);
    assert_true(welcome.staged_to_seq == 2 && welcome.staged_bytes == beginning);
    rest_put(&first, beginning);
    build_taken(&first);
    build_commit(&second);
    build_fini(&first);
    expect_replica(w);
}

/* The first cannot be written: it is refused, and so is what waits for it. */
static void test_first_finds_a_full_disk(void **state)
{
    struct world *w = *state;
    struct build first, second;
    struct call one, two;
    begin_two(&first, &second, w);
    send_half(&one, &first);
    send_ahead(&two, &second);
    int full = open("/dev/full", O_RDWR | O_CLOEXEC);
    struct site_intake *intake = &site_find_volume(w->site, "data")->upload->intake;
    assert_true(full >= 0 && dup2(full, intake->fd) == intake->fd);
    close(full);
    finish(&one, &first);
    PUMP_UNTIL(w, two.done);
    assert_true(one.request.status == 507 && two.request.status == 503);
    assert_int_equal(hello(w).staged_bytes, 0);
    build_commit(&first);
    build_commit(&second);
    expect_replica(w);
}

/* --- a disk that takes its time -------------------------------------------------------------- */

struct block {
    struct repl_job job;
    int fds[2]; /* until something is written here */
};

static void block_work(struct repl_job *job)
{
    struct block *block = job->context;
    char byte;
    assert_int_equal(read(block->fds[0], &byte, 1), 1);
}

static void block_done(struct repl_job *job)
{
    struct block *block = job->context;
    close(block->fds[0]);
    close(block->fds[1]);
}

static void blocks_begin(struct world *w, struct block blocks[2])
{
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pipe(blocks[i].fds), 0);
        blocks[i].job =
            (struct repl_job){.work = block_work, .done = block_done, .context = &blocks[i]};
        repl_loop_work(w->loop, &blocks[i].job);
    }
}

static void blocks_end(struct block blocks[2])
{
    for (int i = 0; i < 2; i++)
        assert_int_equal(write(blocks[i].fds[1], "", 1), 1);
}

/* What is given up while it is being written goes later, and without what bears the same name by
 * then: a source that has lost its spool makes another segment of it. */
static void test_given_up_late(void **state)
{
    struct world *w = *state;
    struct build first, second, both;
    struct call one, two, three;
    struct block blocks[2];
    begin_two(&first, &second, w);
    build_begin(&both, w, 1, 3, 0);
    for (unsigned i = 0; i < 4; i++) /* what either holds */
        build_data(&both, (uint64_t)(i + 2) * MIB / 2, MIB / 2);
    build_end(&both, true);
    send(&one, &first, "segments", 0, false);
    blocks_begin(w, blocks);
    send_ahead(&two, &second);
    send(&three, &both, "segments", both.file.bytes.size / 4, false);
    PUMP_UNTIL(w, one.done && two.done);
    assert_true(one.request.status == 503 && two.request.status == 503);
    blocks_end(blocks);
    for (int i = 0; i < 30; i++)
        turn(w);
    finish(&three, &both);
    assert_int_equal(w->status, 201);
    build_taken(&both);
    fini_two(&first, &second);
    build_fini(&both);
    expect_replica(w);
}

/* Both at once and many times over, each ahead of the next: whatever is refused is sent again, and
 * all of it arrives in order. */
static void test_many(void **state)
{
    struct world *w = *state;
    enum { COUNT = 24 };
    static struct build builds[COUNT];
    static struct call calls[COUNT];
    seed(w);
    struct repl_head head = w->head;
    for (unsigned i = 0; i < COUNT; i++) {
        build_begin(&builds[i], w, i + 1, i + 2, 0);
        build_data(&builds[i], random_below(&w->random, 64) * REPL_CHUNK_SIZE,
                   (1 + random_below(&w->random, 40)) * REPL_PAGE_SIZE);
        build_end(&builds[i], true);
        build_taken(&builds[i]);
    }
    struct repl_head last = w->head;
    w->head = head;
    unsigned taken_ahead = 0;
    for (unsigned i = 0; i < COUNT;) {
        if (calls[i].w == NULL)
            start(&calls[i], &builds[i], "segments");
        if (i + 1 < COUNT && calls[i + 1].w == NULL)
            start(&calls[i + 1], &builds[i + 1], "ahead");
        PUMP_UNTIL(w, calls[i].done);
        bool ahead = strstr(calls[i].request.path, "ahead") != NULL;
        if (calls[i].request.status == 201) {
            taken_ahead += ahead;
            i++;
        } else { /* not so: in its turn, then */
            assert_true(ahead && (w->status == 503 || w->status == 409));
            calls[i].w = NULL;
        }
    }
    assert_true(taken_ahead > 0);
    PUMP_UNTIL(w, volume_status(w, "data").point.seq == COUNT + 1);
    w->head = last;
    for (unsigned i = 0; i < COUNT; i++)
        build_fini(&builds[i]);
    expect_replica(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SITE_TEST(test_complete_before_its_turn),
        SITE_TEST(test_turn_comes_in_the_middle),
        SITE_TEST(test_ahead_of_nothing),
        SITE_TEST(test_first_is_refused),
        SITE_TEST(test_refused_ahead),
        SITE_TEST(test_taken_over),
        SITE_TEST(test_lost_and_resumed),
        SITE_TEST(test_restart),
        SITE_TEST(test_first_is_lost),
        SITE_TEST(test_first_finds_a_full_disk),
        SITE_TEST(test_given_up_late),
        SITE_TEST(test_many),
    };
    return cmocka_run_group_tests_name("ahead", tests, NULL, NULL);
}
