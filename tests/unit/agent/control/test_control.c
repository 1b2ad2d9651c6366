/*
 * The control socket: asked from a thread of its own, answered on the loop.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "control/control.h"

struct world {
    struct repl_loop *loop;
    struct repl_control *control;
    char directory[64];
    char path[96];
    char asked[256];
};

static void must(repl_result result, const struct repl_error *err)
{
    if (!repl_ok(result))
        fail_msg("%s: %s", repl_code_name(result.code), err->text);
}

#define BIG_COUNT 200000

static json_t *answer(void *owner, const char *request, struct repl_error *err)
{
    struct world *world = owner;
    snprintf(world->asked, sizeof world->asked, "%s", request);
    if (strcmp(request, "big") == 0) {
        json_t *list = json_array();
        for (int i = 0; i < BIG_COUNT; i++)
            json_array_append_new(list, json_integer(i));
        return json_pack("{s:o}", "list", list);
    }
    if (strcmp(request, "status") == 0)
        return json_pack("{s:s}", "state", "ok");
    repl_ignore(repl_fail(err, REPL_E_MISSING, "there is no \"%s\" here", request));
    return NULL;
}

static int setup(void **state)
{
    static struct world world;
    struct repl_error err = {0};
    world = (struct world){0};
    must(repl_loop_new(&(struct repl_loop_options){0}, &world.loop, &err), &err);
    snprintf(world.directory, sizeof world.directory, "/tmp/test_control.XXXXXX");
    assert_non_null(mkdtemp(world.directory));
    snprintf(world.path, sizeof world.path, "%s/run/control.sock", world.directory);
    must(repl_control_new(world.loop, world.path, answer, &world, &world.control, &err), &err);
    *state = &world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    char run[96];
    repl_control_free(world->control);
    repl_loop_free(world->loop);
    assert_int_not_equal(access(world->path, F_OK), 0);
    snprintf(run, sizeof run, "%s/run", world->directory);
    assert_int_equal(rmdir(run), 0);
    assert_int_equal(rmdir(world->directory), 0);
    return 0;
}

struct asking {
    const char *path;
    const char *request;
    json_t *answer;
    repl_result result;
    struct repl_error err;
    atomic_bool done;
};

static void *ask_thread(void *context)
{
    struct asking *asking = context;
    asking->result = repl_control_ask(asking->path, asking->request, &asking->answer, &asking->err);
    atomic_store(&asking->done, true);
    return NULL;
}

static void ask(struct world *world, struct asking *asking)
{
    pthread_t thread;
    struct repl_error err = {0};
    asking->path = world->path;
    assert_int_equal(pthread_create(&thread, NULL, ask_thread, asking), 0);
    while (!atomic_load(&asking->done))
        must(repl_loop_once(world->loop, 10, &err), &err);
    pthread_join(thread, NULL);
}

static void test_answer(void **state)
{
    struct world *world = *state;
    struct asking asking = {.request = "status"};
    ask(world, &asking);
    must(asking.result, &asking.err);
    assert_string_equal(world->asked, "status");
    assert_string_equal(json_string_value(json_object_get(asking.answer, "state")), "ok");
    json_decref(asking.answer);
}

static void test_long_answer(void **state)
{
    struct world *world = *state;
    struct asking asking = {.request = "big"};
    ask(world, &asking);
    must(asking.result, &asking.err);
    assert_int_equal(json_array_size(json_object_get(asking.answer, "list")), BIG_COUNT);
    json_decref(asking.answer);
}

static void test_error(void **state)
{
    struct world *world = *state;
    struct asking asking = {.request = "forget data"};
    ask(world, &asking);
    assert_int_equal(asking.result.code, REPL_E_MISSING);
    assert_string_equal(asking.err.text, "there is no \"forget data\" here");
}

static void test_line_feed_refused(void **state)
{
    struct world *world = *state;
    struct asking asking = {.request = "status\nforget"};
    ask(world, &asking);
    assert_int_equal(asking.result.code, REPL_E_USAGE);
}

static void test_mode(void **state)
{
    struct world *world = *state;
    struct stat status;
    assert_int_equal(stat(world->path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
}

static void test_second_is_locked_out(void **state)
{
    struct world *world = *state;
    struct repl_control *second;
    struct repl_error err = {0};
    assert_int_equal(repl_control_new(world->loop, world->path, answer, world, &second, &err).code,
                     REPL_E_LOCKED);
    assert_non_null(strstr(err.text, world->path));
    char words[32];
    snprintf(words, sizeof words, "(process %d,", (int)getpid());
    assert_non_null(strstr(err.text, words));
    test_answer(state);
}

static void address_of(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(address->sun_path, sizeof address->sun_path, "%s", path);
}

static void test_stale_is_replaced(void **state)
{
    struct world *world = *state;
    struct sockaddr_un address;
    struct repl_error err = {0};
    repl_control_free(world->control);
    /* A socket whose process has died without removing it. */
    address_of(&address, world->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)(const void *)&address, sizeof address), 0);
    close(fd);
    must(repl_control_new(world->loop, world->path, answer, world, &world->control, &err), &err);
    test_answer(state);
}

/* What a process that was killed leaves may be listened on for a moment more: the kernel holds it,
 * here the test does. The process lives for pause_ms yet; it is waited for by waitpid after the
 * socket was replaced, so it is first alive and then a zombie. */
static void ending_is_replaced(void **state, int pause_ms)
{
    struct world *world = *state;
    struct sockaddr_un address;
    struct repl_error err = {0};
    int listens[2];
    char byte;
    repl_control_free(world->control);
    world->control = NULL;
    address_of(&address, world->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)(const void *)&address, sizeof address), 0);
    assert_int_equal(pipe(listens), 0);
    pid_t child = fork();
    if (child == 0) {
        bool ok = listen(fd, 4) == 0 && write(listens[1], "", 1) == 1;
        usleep((useconds_t)pause_ms * 1000);
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(read(listens[0], &byte, 1), 1);
    must(repl_control_new(world->loop, world->path, answer, world, &world->control, &err), &err);
    int status;
    assert_int_equal(waitpid(child, &status, WNOHANG), child);
    assert_int_equal(status, 0);
    close(listens[0]);
    close(listens[1]);
    test_answer(state);
    close(fd);
}

static void test_ended_is_replaced(void **state)
{
    ending_is_replaced(state, 0);
}

static void test_ending_is_waited_for(void **state)
{
    ending_is_replaced(state, 300);
}

static void test_other_file_is_kept(void **state)
{
    struct world *world = *state;
    struct repl_error err = {0};
    repl_control_free(world->control);
    FILE *file = fopen(world->path, "w");
    assert_non_null(file);
    fclose(file);
    world->control = NULL;
    assert_int_equal(
        repl_control_new(world->loop, world->path, answer, world, &world->control, &err).code,
        REPL_E_REFUSED);
    assert_int_equal(unlink(world->path), 0);
    world->control = NULL;
}

static void test_nobody_there(void **state)
{
    struct world *world = *state;
    struct repl_error err = {0};
    json_t *json;
    repl_control_free(world->control);
    world->control = NULL;
    assert_int_equal(repl_control_ask(world->path, "status", &json, &err).code, REPL_E_RETRY);
    assert_non_null(strstr(err.text, "is the service running?"));
}

static int connect_to(struct world *world)
{
    struct sockaddr_un address;
    address_of(&address, world->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)(const void *)&address, sizeof address),
                     0);
    return fd;
}

/* Clients that say nothing, too much, or do not read hold up nobody. */
static void test_bad_clients(void **state)
{
    struct world *world = *state;
    struct repl_error err = {0};
    static char noise[4096];
    int silent = connect_to(world), loud = connect_to(world), deaf = connect_to(world);
    memset(noise, 'x', sizeof noise);
    assert_true(send(loud, noise, sizeof noise, MSG_NOSIGNAL) > 0);
    assert_int_equal(send(deaf, "big\n", 4, MSG_NOSIGNAL), 4);
    for (int i = 0; i < 20; i++)
        must(repl_loop_once(world->loop, 5, &err), &err);
    test_answer(state);
    char byte;
    assert_int_not_equal(recv(loud, &byte, 1, 0), 1); /* closed without an answer */
    assert_true(errno != EAGAIN);
    close(silent);
    close(loud);
    close(deaf);
    for (int i = 0; i < 5; i++)
        must(repl_loop_once(world->loop, 5, &err), &err);
}

/* --- notify and log -------------------------------------------------------------------------- */

static void test_notify(void **state)
{
    struct world *world = *state;
    struct sockaddr_un address;
    char path[96], text[64];
    snprintf(path, sizeof path, "%s/notify", world->directory);
    address_of(&address, path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)(const void *)&address, sizeof address), 0);
    repl_notify("READY=1"); /* nobody asked for it */
    setenv("NOTIFY_SOCKET", path, 1);
    repl_notify("STATUS=fine");
    unsetenv("NOTIFY_SOCKET");
    ssize_t size = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    assert_true(size > 0);
    text[size] = '\0';
    assert_string_equal(text, "STATUS=fine");
    assert_true(recv(fd, text, sizeof text, MSG_DONTWAIT) < 0);
    close(fd);
    unlink(path);
}

/* What repl_log writes to standard error. */
static void log_capture(char *out, size_t size, bool journal)
{
    char stream[64];
    struct stat status;
    int ends[2];
    int saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    assert_int_equal(fstat(STDERR_FILENO, &status), 0);
    snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)status.st_dev,
             (unsigned long long)status.st_ino);
    if (journal)
        setenv("JOURNAL_STREAM", stream, 1);
    repl_log(LOG_WARNING, "volume %s: %d", "data", 7);
    unsetenv("JOURNAL_STREAM");
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[1]);
    ssize_t got = read(ends[0], out, size - 1);
    close(ends[0]);
    assert_true(got > 0);
    out[got] = '\0';
}

static void test_log(void **state)
{
    (void)state;
    char line[256];
    unsetenv("JOURNAL_STREAM");
    log_capture(line, sizeof line, true);
    assert_string_equal(line, "<4>volume data: 7\n");
    log_capture(line, sizeof line, false);
    assert_non_null(strstr(line, " warning: volume data: 7\n"));
    assert_int_equal(line[4], '-');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_line_feed_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mode, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_is_locked_out, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stale_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ended_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ending_is_waited_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_file_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_clients, setup, teardown),
        cmocka_unit_test_setup_teardown(test_notify, setup, teardown),
        cmocka_unit_test_setup_teardown(test_log, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
