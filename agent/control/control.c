/*
 * The control socket: server on the loop, and the blocking client of the verbs.
 *
 *     accept -> READING --line--> answered -> WRITING --all sent--> closed
 *
 * One request a connection, and both directions share one deadline, so a client
 * that neither asks nor reads costs a descriptor for a few seconds and nothing
 * else. The mode 0600 is set on the socket before it gets its name: nobody else
 * can connect at any time.
 *
 * A socket file may be left by a process that was killed. Whether somebody
 * listens on it, only connecting can tell; a refused connection means that it
 * is stale. So does one to a process that has ended: the kernel takes an
 * io_uring apart after the process that polled with it is gone, and until then
 * its socket goes on taking connections. On closing, the file is removed only if
 * it is still ours.
 */
#include "control/control.h"

#include <errno.h>
#include <libgen.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/lock.h"
#include "control/request_line.h"

#define ANSWER_SIZE_MAX (64u << 20)
#define CLIENT_LIMIT    32u
#define TIME_LIMIT_MS   5000
#define NS_PER_MS       INT64_C(1000000)

struct control_client {
    struct repl_control *control;
    struct control_client *previous, *next;
    int fd;
    struct repl_poll poll;
    struct repl_timer deadline;
    struct request_line request;
    char *answer; /* NULL: still reading */
    size_t answer_size, sent;
};

struct repl_control {
    struct repl_loop *loop;
    repl_control_fn *answer;
    void *owner;
    int fd;
    struct repl_poll poll;
    struct control_client *clients;
    unsigned client_count;
    char *path;
    dev_t device; /* of the socket file, to know it again */
    ino_t inode;
};

/* --- one client ------------------------------------------------------------------------------ */

static void client_close(struct control_client *client)
{
    struct repl_control *control = client->control;
    if (client->previous != NULL)
        client->previous->next = client->next;
    else
        control->clients = client->next;
    if (client->next != NULL)
        client->next->previous = client->previous;
    control->client_count--;
    repl_poll_stop(&client->poll);
    repl_timer_cancel(&client->deadline);
    close(client->fd);
    free(client->answer);
    free(client);
}

static json_t *error_to_json(const struct repl_error *err)
{
    return json_pack("{s:{s:s,s:s}}", "error", "code", repl_code_name(err->code), "text",
                     err->text);
}

/* The answer as text ended by a line feed; NULL: out of memory. */
static char *request_answer(struct repl_control *control, const char *request)
{
    struct repl_error err = {0};
    json_t *json = control->answer(control->owner, request, &err);
    if (json == NULL)
        json = error_to_json(&err);
    char *text = json == NULL ? NULL : json_dumps(json, JSON_COMPACT);
    json_decref(json);
    return text;
}

static void client_write(struct control_client *client)
{
    while (client->sent < client->answer_size) {
        ssize_t sent = send(client->fd, client->answer + client->sent,
                            client->answer_size - client->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno == EAGAIN) {
            repl_poll_start(client->control->loop, &client->poll, client->fd, POLLOUT);
            return;
        }
        if (sent <= 0)
            break;
        client->sent += (size_t)sent;
    }
    client_close(client);
}

static void client_read(struct control_client *client)
{
    size_t room;
    char *to = request_line_room(&client->request, &room);
    ssize_t got = recv(client->fd, to, room, 0);
    if (got < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (got <= 0) {
        client_close(client);
        return;
    }
    switch (request_line_take(&client->request, (size_t)got)) {
    case REQUEST_LINE_BEGUN:
        return;
    case REQUEST_LINE_BAD:
        client_close(client);
        return;
    case REQUEST_LINE_WHOLE:
        break;
    }
    client->answer = request_answer(client->control, client->request.text);
    if (client->answer == NULL) {
        client_close(client);
        return;
    }
    client->answer_size = strlen(client->answer);
    client_write(client);
}

static void client_ready(struct repl_poll *poll, unsigned events)
{
    struct control_client *client = poll->context;
    (void)events; /* an error shows in the call that follows */
    if (client->answer == NULL)
        client_read(client);
    else
        client_write(client);
}

static void client_late(struct repl_timer *timer)
{
    client_close(timer->context);
}

static void client_new(struct repl_control *control, int fd)
{
    struct control_client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        close(fd);
        return;
    }
    client->control = control;
    client->fd = fd;
    client->next = control->clients;
    if (client->next != NULL)
        client->next->previous = client;
    control->clients = client;
    control->client_count++;
    client->poll = (struct repl_poll){.ready = client_ready, .context = client};
    client->deadline = (struct repl_timer){.fire = client_late, .context = client};
    repl_poll_start(control->loop, &client->poll, fd, POLLIN);
    repl_timer_arm(control->loop, &client->deadline,
                   repl_now_mono_ns() + TIME_LIMIT_MS * NS_PER_MS);
}

static void control_ready(struct repl_poll *poll, unsigned events)
{
    struct repl_control *control = poll->context;
    (void)events;
    int fd = accept4(control->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (control->client_count == CLIENT_LIMIT)
        close(fd);
    else
        client_new(control, fd);
}

/* --- opening and closing --------------------------------------------------------------------- */

static repl_result address_of(const char *path, struct sockaddr_un *out, struct repl_error *err)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof out->sun_path)
        return repl_fail(err, REPL_E_USAGE,
                         "the path of the control socket %s is longer than %zu bytes: choose a "
                         "shorter one (option control)",
                         path, sizeof out->sun_path - 1);
    strcpy(out->sun_path, path);
    return REPL_SUCCESS;
}

static repl_result directory_make(const char *path, struct repl_error *err)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the control socket");
    const char *directory = dirname(copy);
    repl_result result = REPL_SUCCESS;
    if (mkdir(directory, 0755) != 0 && errno != EEXIST)
        result = repl_fail_errno(err, REPL_E_IO, errno,
                                 "cannot make the control socket's directory %s", directory);
    free(copy);
    return result;
}

static int socket_new(int flags)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
}

/* The process that listens at the other end of fd, as far as it can be seen from here; 0: none. */
static pid_t listener_of(int fd)
{
    struct ucred peer = {0};
    socklen_t size = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

/* Waits a moment for one that is about to end. */
static bool has_ended(pid_t pid)
{
    int fd = pid > 0 ? pidfd_open(pid, 0) : -1;
    if (fd < 0)
        return pid > 0 && errno == ESRCH;
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    bool ended = poll(&poll_fd, 1, REPL_LOCK_WAIT_MS) > 0;
    close(fd);
    return ended;
}

/* Removes a socket file nobody listens on. */
static repl_result stale_remove(const struct sockaddr_un *address, struct repl_error *err)
{
    struct stat status;
    if (lstat(address->sun_path, &status) == 0 && !S_ISSOCK(status.st_mode))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is in the control socket's place and is no socket: move it away",
                         address->sun_path);
    int fd = socket_new(SOCK_NONBLOCK);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make a socket");
    int rc = connect(fd, (const struct sockaddr *)(const void *)address, sizeof *address);
    int os_errno = rc == 0 ? 0 : errno;
    pid_t pid = rc == 0 ? listener_of(fd) : 0;
    close(fd);
    /* EAGAIN: somebody listens and is too busy to take us. */
    if (os_errno == EAGAIN || (rc == 0 && !has_ended(pid)))
        return repl_fail(err, REPL_E_LOCKED,
                         "somebody answers on the control socket %s already (process %d, 0 if it "
                         "cannot be seen): stop that process first, or give this one another "
                         "(option control)",
                         address->sun_path, (int)pid);
    if (rc != 0 && os_errno != ECONNREFUSED && os_errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, os_errno, "cannot tell who has %s",
                               address->sun_path);
    if (unlink(address->sun_path) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot remove the stale socket %s",
                               address->sun_path);
    return REPL_SUCCESS;
}

static repl_result socket_listen(int fd, const struct sockaddr_un *address, struct repl_error *err)
{
    const struct sockaddr *generic = (const struct sockaddr *)(const void *)address;
    if (fchmod(fd, 0600) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot protect the control socket %s",
                               address->sun_path);
    int rc = bind(fd, generic, sizeof *address);
    if (rc != 0 && errno == EADDRINUSE) {
        REPL_TRY(stale_remove(address, err));
        rc = bind(fd, generic, sizeof *address);
    }
    if (rc != 0 || listen(fd, CLIENT_LIMIT) != 0)
        return repl_fail_errno(err, errno == EADDRINUSE ? REPL_E_LOCKED : REPL_E_IO, errno,
                               "cannot listen on the control socket %s", address->sun_path);
    return REPL_SUCCESS;
}

static repl_result control_open(struct repl_control *control, struct repl_error *err)
{
    struct sockaddr_un address;
    struct stat status;
    REPL_TRY(address_of(control->path, &address, err));
    REPL_TRY(directory_make(control->path, err));
    control->fd = socket_new(SOCK_NONBLOCK);
    if (control->fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make a socket");
    REPL_TRY(socket_listen(control->fd, &address, err));
    if (lstat(control->path, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot examine %s", control->path);
    control->device = status.st_dev;
    control->inode = status.st_ino;
    return REPL_SUCCESS;
}

repl_result repl_control_new(struct repl_loop *loop, const char *path, repl_control_fn *answer,
                             void *owner, struct repl_control **out, struct repl_error *err)
{
    struct repl_control *control = calloc(1, sizeof *control);
    if (control == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the control socket");
    control->loop = loop;
    control->answer = answer;
    control->owner = owner;
    control->fd = -1;
    control->path = strdup(path);
    repl_result result = control->path == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "no memory for the control socket")
                             : control_open(control, err);
    if (!repl_ok(result)) {
        if (control->fd >= 0)
            close(control->fd);
        free(control->path);
        free(control);
        return result;
    }
    control->poll = (struct repl_poll){.ready = control_ready, .context = control};
    repl_poll_start(loop, &control->poll, control->fd, POLLIN);
    *out = control;
    return REPL_SUCCESS;
}

void repl_control_free(struct repl_control *control)
{
    struct stat status;
    if (control == NULL)
        return;
    while (control->clients != NULL)
        client_close(control->clients);
    repl_poll_stop(&control->poll);
    if (lstat(control->path, &status) == 0 && status.st_dev == control->device &&
        status.st_ino == control->inode)
        unlink(control->path);
    close(control->fd);
    free(control->path);
    free(control);
}

/* --- asking ---------------------------------------------------------------------------------- */

struct asker {
    const char *path;
    int fd;
    int64_t deadline_ns;
    char *text;
    size_t size;
};

static repl_result asker_wait(const struct asker *asker, short events, struct repl_error *err)
{
    for (;;) {
        int64_t left_ms = (asker->deadline_ns - repl_now_mono_ns()) / NS_PER_MS;
        struct pollfd poll_fd = {.fd = asker->fd, .events = events};
        int rc = left_ms <= 0 ? 0 : poll(&poll_fd, 1, (int)left_ms);
        if (rc > 0)
            return REPL_SUCCESS;
        if (rc == 0)
            return repl_fail(err, REPL_E_RETRY,
                             "the process behind %s did not answer within %d s: see its log",
                             asker->path, TIME_LIMIT_MS / 1000);
        if (errno != EINTR)
            return repl_fail_errno(err, REPL_E_IO, errno, "cannot wait for %s", asker->path);
    }
}

static repl_result asker_connect(struct asker *asker, struct repl_error *err)
{
    struct sockaddr_un address;
    REPL_TRY(address_of(asker->path, &address, err));
    asker->fd = socket_new(SOCK_NONBLOCK);
    if (asker->fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make a socket");
    if (connect(asker->fd, (const struct sockaddr *)(const void *)&address, sizeof address) == 0)
        return REPL_SUCCESS;
    if (errno == ENOENT || errno == ECONNREFUSED)
        return repl_fail(err, REPL_E_RETRY, "nobody answers on %s: is the service running?",
                         asker->path);
    if (errno == EACCES || errno == EPERM)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is not open to this user: run this as root, or as the user the "
                         "service runs under",
                         asker->path);
    return repl_fail_errno(err, errno == EAGAIN ? REPL_E_RETRY : REPL_E_IO, errno,
                           "cannot connect to %s", asker->path);
}

static repl_result asker_send(struct asker *asker, const char *request, struct repl_error *err)
{
    char line[REQUEST_LINE_SIZE];
    int size = snprintf(line, sizeof line, "%s\n", request);
    if (size < 0 || (size_t)size >= sizeof line || strchr(request, '\n') != NULL)
        return repl_fail(err, REPL_E_USAGE, "that request does not fit a line");
    for (size_t sent = 0; sent < (size_t)size;) {
        ssize_t rc = send(asker->fd, line + sent, (size_t)size - sent, MSG_NOSIGNAL);
        if (rc < 0 && errno == EAGAIN)
            REPL_TRY(asker_wait(asker, POLLOUT, err));
        else if (rc < 0 && errno != EINTR)
            return repl_fail_errno(err, REPL_E_RETRY, errno, "cannot ask %s", asker->path);
        else if (rc > 0)
            sent += (size_t)rc;
    }
    return REPL_SUCCESS;
}

static repl_result asker_receive(struct asker *asker, struct repl_error *err)
{
    size_t room = 0;
    for (;;) {
        if (asker->size == room) {
            room = room == 0 ? 64u << 10 : room * 2;
            char *more = room > ANSWER_SIZE_MAX ? NULL : realloc(asker->text, room);
            if (more == NULL)
                return repl_fail(err, REPL_E_NOMEM, "the answer of %s is too long", asker->path);
            asker->text = more;
        }
        ssize_t got = recv(asker->fd, asker->text + asker->size, room - asker->size, 0);
        if (got == 0)
            return REPL_SUCCESS;
        if (got > 0)
            asker->size += (size_t)got;
        else if (errno == EAGAIN)
            REPL_TRY(asker_wait(asker, POLLIN, err));
        else if (errno != EINTR)
            return repl_fail_errno(err, REPL_E_RETRY, errno, "lost the connection to %s",
                                   asker->path);
    }
}

/* {"error": {"code": ..., "text": ...}} as the error it was on the other side. */
static repl_result error_from_json(const json_t *error, struct repl_error *err)
{
    const char *name = json_string_value(json_object_get(error, "code"));
    const char *text = json_string_value(json_object_get(error, "text"));
    for (int code = REPL_OK + 1; name != NULL && code < REPL_CODE_COUNT; code++) {
        if (strcmp(repl_code_name((enum repl_code)code), name) == 0)
            return repl_fail(err, (enum repl_code)code, "%s", text != NULL ? text : name);
    }
    return repl_fail(err, REPL_E_INTERNAL, "%s", text != NULL ? text : "an error without a text");
}

static repl_result asker_parse(const struct asker *asker, json_t **answer, struct repl_error *err)
{
    if (asker->size == 0)
        return repl_fail(err, REPL_E_RETRY,
                         "%s closed the connection without an answer: see the service's log",
                         asker->path);
    json_t *json = json_loadb(asker->text, asker->size, 0, NULL);
    if (json == NULL)
        return repl_fail(err, REPL_E_CORRUPT, "the answer of %s is not JSON", asker->path);
    const json_t *error = json_object_get(json, "error");
    if (error != NULL) {
        repl_result result = error_from_json(error, err);
        json_decref(json);
        return result;
    }
    *answer = json;
    return REPL_SUCCESS;
}

repl_result repl_control_ask(const char *path, const char *request, json_t **answer,
                             struct repl_error *err)
{
    struct asker asker = {
        .path = path, .fd = -1, .deadline_ns = repl_now_mono_ns() + TIME_LIMIT_MS * NS_PER_MS};
    repl_result result = asker_connect(&asker, err);
    if (repl_ok(result))
        result = asker_send(&asker, request, err);
    if (repl_ok(result))
        result = asker_receive(&asker, err);
    if (repl_ok(result))
        result = asker_parse(&asker, answer, err);
    if (asker.fd >= 0)
        close(asker.fd);
    free(asker.text);
    return result;
}
