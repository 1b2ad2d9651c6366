/*
 * States:
 *
 *     IDLE -> ASKED -> HELD -> FINISHING -> IDLE      (FINISHING: DONE is awaited)
 *     FINISHING -> WAITING -> ASKED                   (begin before DONE)
 *     any but IDLE -> BROKEN                          (a callback is due from the timer)
 *
 * Each hold has a connection of its own, closed at DONE: the guard has a place
 * for each, and not many.
 *
 * A callback is never called from inside begin: what fails there is kept, and a
 * timer that is due at once brings it.
 */
#include "source/freeze/hold.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include "base/ensure.h"
#include "control/control.h"
#include "source/freeze/guard_record.h"

enum hold_state { STATE_IDLE, STATE_ASKED, STATE_HELD, STATE_FINISHING, STATE_WAITING };

struct repl_hold {
    struct repl_loop *loop;
    repl_hold_fn *done;
    void *context;
    char socket_path[sizeof((struct sockaddr_un *)0)->sun_path];

    enum hold_state state;
    int fd; /* -1: not connected */
    struct repl_poll poll;
    struct repl_timer timer;
    bool failing; /* the timer is armed, to report failure */
    struct repl_error failure;
    union repl_guard_packet request, in;

    /* what came with PREPARED */
    struct repl_guard_table *table;
    uint64_t number;
    uint32_t slot;
    int mounts[REPL_GUARD_MOUNTS_MAX];
    size_t mount_count;
    bool freeze;
};

/* --- what is frozen -------------------------------------------------------------------------- */

static void freeze_forget(struct repl_hold *h)
{
    for (size_t i = 0; i < h->mount_count; i++)
        close(h->mounts[i]);
    repl_guard_table_unmap(h->table);
    h->table = NULL;
    h->mount_count = 0;
}

/* The guard's processes are dead, or one of them has let go already: its descriptors are closed
 * only when no FIFREEZE is under way any more. */
static void freeze_thaw(struct repl_hold *h)
{
    for (size_t i = 0; i < h->mount_count; i++)
        repl_freeze_thaw_left(&h->table->slots[h->slot].mounts[i], h->number, h->mounts[i]);
    freeze_forget(h);
}

bool repl_hold_is_intact(const struct repl_hold *h)
{
    if (h->state != STATE_HELD)
        return false;
    for (size_t i = 0; i < h->mount_count; i++) {
        if (atomic_load(&h->table->slots[h->slot].mounts[i].word) !=
            repl_freeze_word(h->number, REPL_FREEZE_FROZEN))
            return false;
    }
    return true;
}

/* --- callbacks ------------------------------------------------------------------------------- */

static void report_failed(struct repl_hold *h, const struct repl_error *err, int64_t stall_ns)
{
    struct repl_hold_event event = {.kind = REPL_HOLD_FAILED, .stall_ns = stall_ns, .error = *err};
    h->done(h->context, &event);
}

static void report_released(struct repl_hold *h, const struct repl_guard_outcome *outcome)
{
    struct repl_hold_event event = {
        .kind = REPL_HOLD_RELEASED, .intact = outcome->intact == 1, .stall_ns = outcome->stall_ns};
    if (!event.intact)
        repl_ignore(repl_fail(&event.error, (enum repl_code)outcome->code, "%s", outcome->text));
    h->done(h->context, &event);
}

static void disconnect(struct repl_hold *h)
{
    if (h->fd < 0)
        return;
    repl_poll_stop(&h->poll);
    shutdown(h->fd, SHUT_RDWR);
    close(h->fd);
    h->fd = -1;
}

static void request_later_fail(struct repl_hold *h)
{
    disconnect(h);
    h->failing = true;
    repl_timer_arm(h->loop, &h->timer, repl_now_mono_ns());
}

/* The connection is of no more use. First the thaw, then the words. */
static void connection_lost(struct repl_hold *h, const struct repl_error *err)
{
    enum hold_state state = h->state;
    freeze_thaw(h);
    disconnect(h);
    h->state = STATE_IDLE;
    if (state == STATE_ASKED || state == STATE_WAITING)
        report_failed(h, err, 0);
    if (state == STATE_HELD) {
        struct repl_hold_event event = {.kind = REPL_HOLD_RELEASED, .error = *err};
        h->done(h->context, &event);
    }
}

static void failure_report(struct repl_timer *timer)
{
    struct repl_hold *h = timer->context;
    h->failing = false;
    connection_lost(h, &h->failure);
}

/* --- packets --------------------------------------------------------------------------------- */

static repl_result take_rights(struct repl_hold *h, struct msghdr *message, struct repl_error *err)
{
    int fds[REPL_GUARD_MOUNTS_MAX + 1];
    size_t count = 0;
    const struct cmsghdr *rights = CMSG_FIRSTHDR(message);
    if (rights != NULL && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS) {
        count = (rights->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(rights), count * sizeof(int));
    }
    const struct repl_guard_prepared *prepared = &h->in.prepared;
    repl_result result = REPL_SUCCESS;
    bool right = count == prepared->mount_count + 1u && h->table == NULL &&
                 prepared->slot < REPL_GUARD_SLOTS;
    if (right)
        result = repl_guard_table_map(fds[0], &h->table, err);
    else
        result =
            repl_fail(err, REPL_E_CORRUPT,
                      "the freeze guard's message lacks its descriptors: too many open files?");
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || !repl_ok(result))
            close(fds[i]);
        else
            h->mounts[h->mount_count++] = fds[i];
    }
    h->number = prepared->hold;
    h->slot = prepared->slot;
    return result;
}

static void rights_drop(struct msghdr *message)
{
    const struct cmsghdr *rights = CMSG_FIRSTHDR(message);
    if (rights == NULL || rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS)
        return;
    for (size_t at = CMSG_LEN(0); at + sizeof(int) <= rights->cmsg_len; at += sizeof(int)) {
        int fd;
        memcpy(&fd, (const char *)rights + at, sizeof fd);
        close(fd);
    }
}

static repl_result out_of_turn(struct repl_error *err)
{
    return repl_fail(err, REPL_E_CORRUPT, "a message of the freeze guard came out of turn");
}

static repl_result take_held(struct repl_hold *h, struct repl_error *err)
{
    if (h->state != STATE_ASKED || (h->freeze && h->mount_count == 0))
        return out_of_turn(err);
    h->state = STATE_HELD;
    struct repl_hold_event event = {
        .kind = REPL_HOLD_HELD, .begin_ns = h->in.held.begin_ns, .took_ns = h->in.held.took_ns};
    h->done(h->context, &event);
    return REPL_SUCCESS;
}

static repl_result take_outcome(struct repl_hold *h, struct repl_error *err)
{
    const struct repl_guard_outcome outcome = h->in.outcome;
    bool released = outcome.header.kind == REPL_GUARD_RELEASED;
    if (h->state != (released ? STATE_HELD : STATE_ASKED))
        return out_of_turn(err);
    freeze_forget(h);
    h->state = STATE_FINISHING;
    if (released) {
        report_released(h, &outcome);
    } else {
        struct repl_error why;
        repl_ignore(repl_fail(&why, (enum repl_code)outcome.code, "%s", outcome.text));
        report_failed(h, &why, outcome.stall_ns);
    }
    return REPL_SUCCESS;
}

static void request_send(struct repl_hold *h);

static repl_result take_done(struct repl_hold *h, struct repl_error *err)
{
    if (h->state != STATE_FINISHING && h->state != STATE_WAITING)
        return out_of_turn(err);
    if (h->in.done.code != REPL_OK)
        repl_log(LOG_WARNING, "%s", h->in.done.text);
    bool next = h->state == STATE_WAITING;
    h->state = STATE_IDLE;
    disconnect(h);
    if (next)
        request_send(h);
    return REPL_SUCCESS;
}

static repl_result take_packet(struct repl_hold *h, struct msghdr *message, size_t size,
                               struct repl_error *err)
{
    repl_result result = repl_guard_packet_check(&h->in, size, false, err);
    bool prepared = repl_ok(result) && h->in.header.kind == REPL_GUARD_PREPARED;
    if (!prepared || h->state != STATE_ASKED)
        rights_drop(message);
    if (!repl_ok(result))
        return result;
    switch ((enum repl_guard_kind)h->in.header.kind) {
    case REPL_GUARD_PREPARED:
        return h->state == STATE_ASKED ? take_rights(h, message, err) : out_of_turn(err);
    case REPL_GUARD_HELD:
        return take_held(h, err);
    case REPL_GUARD_RELEASED:
    case REPL_GUARD_FAILED:
        return take_outcome(h, err);
    case REPL_GUARD_DONE:
        return take_done(h, err);
    case REPL_GUARD_REQUEST:
    case REPL_GUARD_END:
        break;
    }
    return out_of_turn(err);
}

static repl_result guard_gone(struct repl_error *err)
{
    return repl_fail(err, REPL_E_RETRY,
                     "the freeze guard has ended in the middle of it: systemctl status repl-guard");
}

/* REPL_SUCCESS with *more false: nothing is there now. */
static repl_result receive(struct repl_hold *h, bool *more, struct repl_error *err)
{
    union {
        char bytes[CMSG_SPACE((REPL_GUARD_MOUNTS_MAX + 1) * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec vec = {.iov_base = &h->in, .iov_len = sizeof h->in};
    struct msghdr message = {.msg_iov = &vec,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    *more = false;
    ssize_t got = recvmsg(h->fd, &message, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return REPL_SUCCESS;
    if (got <= 0)
        return guard_gone(err);
    *more = true;
    return take_packet(h, &message, (size_t)got, err);
}

static void connection_read_all(struct repl_hold *h)
{
    struct repl_error err;
    bool more = true;
    while (more && h->fd >= 0 && !h->failing) {
        if (!repl_ok(receive(h, &more, &err))) {
            connection_lost(h, &err);
            return;
        }
    }
}

static void connection_ready(struct repl_poll *poll, unsigned events)
{
    (void)events;
    connection_read_all(poll->context);
}

/* --- the connection -------------------------------------------------------------------------- */

static repl_result guard_connect(struct repl_hold *h, struct repl_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct ucred peer;
    socklen_t size = sizeof peer;
    strcpy(address.sun_path, h->socket_path);
    h->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (h->fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make a socket");
    h->poll = (struct repl_poll){.ready = connection_ready, .context = h};
    if (connect(h->fd, (const struct sockaddr *)(const void *)&address, sizeof address) != 0)
        return repl_fail_errno(err, REPL_E_RETRY, errno,
                               "the freeze guard does not answer on %s: systemctl start "
                               "repl-guard.service",
                               h->socket_path);
    if (getsockopt(h->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "what answers on %s is not run by root, so it is not the freeze guard",
                         h->socket_path);
    repl_poll_start(h->loop, &h->poll, h->fd, POLLIN);
    return REPL_SUCCESS;
}

static void request_send(struct repl_hold *h)
{
    h->state = STATE_ASKED;
    repl_result result = guard_connect(h, &h->failure);
    if (repl_ok(result) && send(h->fd, &h->request, sizeof h->request.request, MSG_NOSIGNAL) !=
                               (ssize_t)sizeof h->request.request)
        result = guard_gone(&h->failure);
    if (!repl_ok(result))
        request_later_fail(h);
}

static repl_result request_fill(struct repl_hold *h, const struct repl_hold_options *options,
                                struct repl_error *err)
{
    struct repl_guard_request *request = &h->request.request;
    const char *pre = options->pre_command != NULL ? options->pre_command : "";
    const char *post = options->post_command != NULL ? options->post_command : "";
    repl_guard_packet_init(&h->request, REPL_GUARD_REQUEST);
    if (!repl_guard_text_set(request->volume, sizeof request->volume, options->volume) ||
        !repl_guard_text_set(request->pre_command, sizeof request->pre_command, pre) ||
        !repl_guard_text_set(request->post_command, sizeof request->post_command, post) ||
        options->other_count > REPL_GUARD_OTHERS_MAX || options->budget_ms < 0 ||
        options->budget_ms > REPL_GUARD_LONGEST_MS || options->command_timeout_ms < 0 ||
        options->command_timeout_ms > REPL_GUARD_LONGEST_MS)
        return repl_fail(err, REPL_E_USAGE,
                         "%s: a command, a time or a list of devices is too long", options->volume);
    request->device = options->device;
    request->budget_ms = (uint32_t)options->budget_ms;
    request->command_timeout_ms = (uint32_t)options->command_timeout_ms;
    request->freeze = options->freeze;
    request->group = options->group;
    request->other_count = (uint32_t)options->other_count;
    for (size_t i = 0; i < options->other_count; i++)
        request->others[i] = options->others[i];
    h->freeze = options->freeze;
    return repl_guard_packet_check(&h->request, sizeof *request, true, err);
}

/* --- interface ------------------------------------------------------------------------------- */

void repl_hold_begin(struct repl_hold *h, const struct repl_hold_options *options)
{
    ensure(h->state == STATE_IDLE || h->state == STATE_FINISHING);
    bool finishing = h->state == STATE_FINISHING;
    h->state = STATE_ASKED;
    if (!repl_ok(request_fill(h, options, &h->failure)))
        request_later_fail(h);
    else if (finishing)
        h->state = STATE_WAITING;
    else
        request_send(h);
}

void repl_hold_end(struct repl_hold *h)
{
    union repl_guard_packet packet;
    if (h->state == STATE_WAITING) {
        repl_ignore(repl_fail(&h->failure, REPL_E_RETRY, "given up before it began"));
        request_later_fail(h);
    }
    if (h->fd < 0 || (h->state != STATE_ASKED && h->state != STATE_HELD))
        return;
    repl_guard_packet_init(&packet, REPL_GUARD_END);
    ssize_t sent = send(h->fd, &packet, sizeof packet.end, MSG_NOSIGNAL);
    (void)sent; /* a connection that is lost reports itself */
}

repl_result repl_hold_new(struct repl_loop *loop, const char *socket_path, repl_hold_fn *done,
                          void *context, struct repl_hold **out, struct repl_error *err)
{
    if (strlen(socket_path) >= sizeof(*out)->socket_path)
        return repl_fail(err, REPL_E_USAGE, "the path of the guard's socket is too long: %s",
                         socket_path);
    struct repl_hold *h = calloc(1, sizeof *h);
    if (h == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a hold");
    h->loop = loop;
    h->done = done;
    h->context = context;
    h->fd = -1;
    h->timer = (struct repl_timer){.fire = failure_report, .context = h};
    strcpy(h->socket_path, socket_path);
    *out = h;
    return REPL_SUCCESS;
}

static void nobody_listens(void *context, const struct repl_hold_event *event)
{
    (void)context;
    (void)event;
}

void repl_hold_free(struct repl_hold *h)
{
    if (h == NULL)
        return;
    h->done = nobody_listens;
    /* A guard that lives thaws when the connection closes; for one that is dead it is done here. */
    struct pollfd peer = {.fd = h->fd};
    if (h->fd >= 0 && poll(&peer, 1, 0) > 0)
        connection_read_all(h);
    repl_timer_cancel(&h->timer);
    disconnect(h);
    freeze_forget(h);
    free(h);
}
