/*
 * The client: libcurl's multi interface on the event loop.
 *
 * libcurl says which descriptors it waits for (client_socket_changed) and when
 * it wants to be called at the latest (client_timeout_changed); a descriptor is
 * a repl_poll, the timeout a repl_timer, and either ends in client_act. Whatever
 * comes of it, callers hear of it only from client_settle, after libcurl has
 * returned: so done() may start, cancel and free as it likes.
 *
 * Life of a request:
 *
 *     start -> QUEUED -> RUNNING -> done()
 *                           \-> CANCELLED (cancelled from within read_body)
 *
 * libcurl must not be entered from its own callbacks, and of ours only
 * read_body runs inside one. What may be called there, start, resume and
 * cancel, therefore only leaves a note; the kick timer, due at once, acts on it
 * in the loop's next turn. A cancelled transfer has no request any more; it
 * ends at the next settle, and its read_body is not asked again.
 *
 * The watch timer looks eight times in the shorter of two timeouts, so that
 * either ends at most an eighth late:
 *
 * - Stalls: it compares byte counters (transfer.c). While a body is paused that
 *   clock stands still: a host that has nothing to send does not suffer from it.
 * - Silence: it asks the kernel whether the other end is there at all (pulse.c),
 *   pauses or not. A connection of which that cannot be said, because the site
 *   has closed its window, goes with one that is silent unless any connection
 *   was heard meanwhile: the line is then gone for all.
 */
#include "link/client.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/ensure.h"
#include "link/pulse.h"
#include "link/throttle.h"
#include "link/transfer.h"

#define NS_PER_MS            1000000ll
#define LOOKS_PER_TIMEOUT    8
#define LOOK_INTERVAL_MS_MIN 10
#define REFILL_NS            (10 * NS_PER_MS) /* how often bandwidth is given out */

enum request_state {
    REQUEST_QUEUED,
    REQUEST_RUNNING,
    REQUEST_CANCELLED,
};

struct client_request {
    struct link_transfer transfer; /* first: libcurl's callbacks get it */
    struct repl_client *client;
    struct repl_request *request; /* NULL: cancelled */
    struct client_request *previous, *next;
    enum request_state state;
    bool paused;    /* read_body had nothing, or may not go on yet: */
    bool throttled; /* it waits for bandwidth */
    bool resume;    /* repl_request_resume was called */
    uint64_t grant; /* bytes of bandwidth it was given and has not used */
    curl_socket_t socket;
    struct link_pulse pulse;
};

struct client_socket {
    struct repl_poll poll;
    struct repl_client *client;
    curl_socket_t fd;
    unsigned events;
};

struct repl_client {
    struct repl_loop *loop;
    struct link_site site;
    CURLM *multi;
    struct client_request *requests, *requests_last; /* in the order of their start */
    struct repl_timer timeout;                       /* libcurl's */
    struct repl_timer kick;
    struct repl_timer watch;
    struct repl_pace_plan bandwidth;
    struct repl_pace pace;
    struct repl_timer refill;
    int64_t heard_ns; /* when a packet last came on any connection, as far as we looked */
    bool inside;      /* libcurl is at work and may call back */
    bool *freed;      /* set by repl_client_free for the frame that called back */
};

static void client_settle(struct repl_client *client);

/* --- libcurl's descriptors and its timeout --------------------------------------------------- */

static void client_act(struct repl_client *client, curl_socket_t fd, int mask)
{
    int running;
    client->inside = true;
    CURLMcode code = curl_multi_socket_action(client->multi, fd, mask, &running);
    client->inside = false;
    /* Anything else concerns single transfers and comes as their result. */
    ensure(code != CURLM_BAD_HANDLE && code != CURLM_RECURSIVE_API_CALL);
    client_settle(client);
}

static void client_socket_ready(struct repl_poll *poll, unsigned events)
{
    struct client_socket *socket = poll->context;
    unsigned mask = 0;
    if ((events & POLLIN) != 0)
        mask |= CURL_CSELECT_IN;
    if ((events & POLLOUT) != 0)
        mask |= CURL_CSELECT_OUT;
    /* An error is not passed on as one: libcurl would give up at once, while reading yields what
     * the peer still said, and then the reason. */
    if ((events & ~(unsigned)(POLLIN | POLLOUT)) != 0)
        mask |= CURL_CSELECT_IN | ((socket->events & POLLOUT) != 0 ? CURL_CSELECT_OUT : 0);
    client_act(socket->client, socket->fd, (int)mask);
}

static int client_socket_changed(CURL *easy, curl_socket_t fd, int what, void *context,
                                 void *socket_context)
{
    struct repl_client *client = context;
    struct client_socket *socket = socket_context;
    if (what == CURL_POLL_REMOVE) {
        if (socket != NULL) {
            repl_poll_stop(&socket->poll);
            curl_multi_assign(client->multi, fd, NULL);
            free(socket);
        }
        return 0;
    }
    if (socket == NULL) {
        socket = calloc(1, sizeof *socket);
        if (socket == NULL)
            return -1;
        socket->poll = (struct repl_poll){.ready = client_socket_ready, .context = socket};
        socket->client = client;
        socket->fd = fd;
        curl_multi_assign(client->multi, fd, socket);
    }
    struct client_request *impl = NULL;
    if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &impl) == CURLE_OK && impl != NULL)
        impl->socket = fd;
    socket->events = (what & CURL_POLL_IN ? (unsigned)POLLIN : 0) |
                     (what & CURL_POLL_OUT ? (unsigned)POLLOUT : 0);
    repl_poll_start(client->loop, &socket->poll, fd, socket->events);
    return 0;
}

static void client_timeout_fired(struct repl_timer *timer)
{
    client_act(timer->context, CURL_SOCKET_TIMEOUT, 0);
}

static int client_timeout_changed(CURLM *multi, long timeout_ms, void *context)
{
    (void)multi;
    struct repl_client *client = context;
    if (timeout_ms < 0)
        repl_timer_cancel(&client->timeout);
    else
        repl_timer_arm(client->loop, &client->timeout, repl_now_mono_ns() + timeout_ms * NS_PER_MS);
    return 0;
}

/* --- requests -------------------------------------------------------------------------------- */

static void client_kick(struct repl_client *client)
{
    repl_timer_arm(client->loop, &client->kick, 0);
}

static void request_free(struct client_request *impl)
{
    struct repl_client *client = impl->client;
    if (impl->previous != NULL)
        impl->previous->next = impl->next;
    else
        client->requests = impl->next;
    if (impl->next != NULL)
        impl->next->previous = impl->previous;
    else
        client->requests_last = impl->previous;
    if (impl->state != REQUEST_QUEUED) {
        client->inside = true;
        curl_multi_remove_handle(client->multi, impl->transfer.easy);
        client->inside = false;
    }
    curl_easy_cleanup(impl->transfer.easy);
    link_transfer_fini(&impl->transfer);
    free(impl);
}

/* Calls done() and frees the rest. False: the client is gone. */
static bool request_finish(struct client_request *impl, CURLcode code)
{
    struct repl_client *client = impl->client;
    struct repl_request *request = impl->request;
    struct link_transfer *transfer = &impl->transfer;
    struct repl_error err = {0};
    repl_result result = link_transfer_result(transfer, code, &err);

    long status = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    char *response = transfer->response;
    size_t size = transfer->response_size;
    char nothing[1] = "";
    transfer->response = NULL;
    bool answered = repl_ok(result);
    if (answered)
        client->heard_ns = repl_now_mono_ns();
    request->status = answered ? (int)status : 0;
    request->response = answered && response != NULL ? response : nothing;
    request->response_size = answered ? size : 0;
    request->round_trip_ns = answered ? transfer->answered_ns - transfer->sent_ns : 0;
    request->impl = NULL;
    request_free(impl);

    bool gone = false;
    client->freed = &gone;
    request->done(request, result, &err);
    if (!gone)
        client->freed = NULL;
    free(response);
    return !gone;
}

/* Reports what has ended. Nothing may be done with the client after it. */
static void client_settle(struct repl_client *client)
{
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(client->multi, &left)) != NULL) {
        struct client_request *impl = NULL;
        if (message->msg != CURLMSG_DONE)
            continue;
        CURLcode code = message->data.result; /* removing the handle frees the message */
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &impl);
        if (impl->state == REQUEST_CANCELLED)
            request_free(impl);
        else if (!request_finish(impl, code))
            return;
    }
}

/* libcurl 7.88 stops an upload that is answered with an error, but a paused one it keeps until it
 * is resumed: the host would learn of a refusal only when it has something to send. */
static void request_answered(struct link_transfer *transfer)
{
    struct client_request *impl = (struct client_request *)transfer;
    if (!impl->paused)
        return;
    impl->resume = true;
    client_kick(impl->client);
}

/* --- the bandwidth --------------------------------------------------------------------------- */

uint64_t repl_client_bandwidth(const struct repl_client *client)
{
    return repl_bandwidth_now(&client->bandwidth);
}

static bool any_throttled(const struct repl_client *client)
{
    bool any = false;
    for (const struct client_request *impl = client->requests; impl != NULL; impl = impl->next)
        any = any || impl->throttled;
    return any;
}

/* How much of a piece may go now. 0: none until it is given some. Where several want to send, all
 * wait for the refill, which shares evenly; one alone takes what there is. */
static size_t bandwidth_take(struct client_request *impl, size_t want)
{
    struct repl_client *client = impl->client;
    uint64_t rate = repl_bandwidth_now(&client->bandwidth);
    if (rate == 0)
        return want;
    int64_t now_ns = repl_now_mono_ns(), until_ns;
    if (impl->grant == 0 && !any_throttled(client))
        impl->grant = repl_pace_take(&client->pace, now_ns, rate, want, &until_ns);
    size_t taken = impl->grant < want ? (size_t)impl->grant : want;
    impl->grant -= taken;
    impl->throttled = impl->paused = taken == 0;
    if (impl->throttled && client->refill.heap_slot == 0)
        repl_timer_arm(client->loop, &client->refill, now_ns + REFILL_NS);
    return taken;
}

/* Bytes it does not need now are the others'. */
static void bandwidth_give(struct client_request *impl, uint64_t bytes)
{
    repl_pace_give(&impl->client->pace, bytes + impl->grant);
    impl->grant = 0;
}

static void client_refilled(struct repl_timer *timer)
{
    struct repl_client *client = timer->context;
    int64_t now_ns = repl_now_mono_ns(), until_ns = now_ns;
    uint64_t rate = repl_bandwidth_now(&client->bandwidth), waiting = 0;
    for (struct client_request *impl = client->requests; impl != NULL; impl = impl->next)
        waiting += impl->throttled;
    uint64_t all = repl_pace_take(&client->pace, now_ns, rate, UINT64_MAX, &until_ns);
    uint64_t share = waiting > 0 ? all / waiting : 0;
    if (rate != 0)
        repl_pace_give(&client->pace, all - share * waiting);
    for (struct client_request *impl = client->requests; impl != NULL; impl = impl->next) {
        if (!impl->throttled)
            continue;
        impl->grant = rate != 0 ? share : 0;
        impl->throttled = false;
        impl->resume = true;
    }
    client_kick(client);
}

static size_t request_read(char *buffer, size_t size, size_t count, void *context)
{
    struct client_request *impl = context;
    if (impl->state == REQUEST_CANCELLED)
        return CURL_READFUNC_ABORT;
    size_t room = bandwidth_take(impl, size * count);
    if (room == 0)
        return CURL_READFUNC_PAUSE;
    size_t got = impl->request->read_body(impl->request, buffer, room);
    if (impl->state == REQUEST_CANCELLED)
        return CURL_READFUNC_ABORT;
    if (got == REPL_BODY_PAUSE || got < room)
        bandwidth_give(impl, got == REPL_BODY_PAUSE ? room : room - got);
    impl->paused = got == REPL_BODY_PAUSE;
    if (impl->paused)
        return CURL_READFUNC_PAUSE;
    ensure(got <= room);
    return got;
}

/* --- the kick: what could not be done on the spot -------------------------------------------- */

static void request_unpause(struct client_request *impl)
{
    struct repl_client *client = impl->client;
    impl->resume = false;
    if (!impl->paused)
        return;
    impl->paused = impl->throttled = false;
    link_transfer_touch(&impl->transfer, repl_now_mono_ns());
    client->inside = true;
    curl_easy_pause(impl->transfer.easy, CURLPAUSE_CONT);
    client->inside = false;
}

static void client_watch(struct repl_client *client)
{
    if (client->watch.heap_slot != 0)
        return;
    int64_t timeout_ms = client->site.stall_timeout_ms < client->site.silence_timeout_ms
                             ? client->site.stall_timeout_ms
                             : client->site.silence_timeout_ms;
    int64_t interval_ms = timeout_ms / LOOKS_PER_TIMEOUT;
    if (interval_ms < LOOK_INTERVAL_MS_MIN)
        interval_ms = LOOK_INTERVAL_MS_MIN;
    repl_timer_arm(client->loop, &client->watch, repl_now_mono_ns() + interval_ms * NS_PER_MS);
}

/* Requests that wait to be handed to libcurl, one a call: done() may change the list. */
static bool client_launch_one(struct repl_client *client)
{
    struct client_request *impl = client->requests;
    while (impl != NULL && impl->state != REQUEST_QUEUED)
        impl = impl->next;
    if (impl == NULL)
        return false;
    CURLMcode code = curl_multi_add_handle(client->multi, impl->transfer.easy);
    if (code != CURLM_OK)
        return request_finish(impl, CURLE_OUT_OF_MEMORY);
    impl->state = REQUEST_RUNNING;
    client_watch(client);
    return true;
}

static void client_kicked(struct repl_timer *timer)
{
    struct repl_client *client = timer->context;
    struct client_request *next;
    for (struct client_request *impl = client->requests; impl != NULL; impl = next) {
        next = impl->next;
        if (impl->state == REQUEST_CANCELLED)
            request_free(impl);
        else if (impl->resume)
            request_unpause(impl);
    }
    while (client_launch_one(client))
        continue;
}

/* --- stalls and silence ---------------------------------------------------------------------- */

static uint64_t socket_unsent(curl_socket_t fd)
{
    int bytes = 0;
    if (fd == CURL_SOCKET_BAD || ioctl(fd, SIOCOUTQ, &bytes) != 0 || bytes < 0)
        return 0;
    return (uint64_t)bytes;
}

/* Until it is connected the connect timeout rules. */
static bool request_is_connected(const struct client_request *impl)
{
    return impl->state == REQUEST_RUNNING && impl->transfer.sent_ns != 0;
}

static void client_look_stalls(struct repl_client *client, int64_t now_ns)
{
    for (struct client_request *impl = client->requests; impl != NULL; impl = impl->next) {
        if (impl->state != REQUEST_RUNNING)
            continue;
        if (impl->paused)
            link_transfer_touch(&impl->transfer, now_ns);
        else
            link_transfer_look(&impl->transfer, now_ns, socket_unsent(impl->socket));
    }
}

static void client_look_silence(struct repl_client *client, int64_t now_ns)
{
    int64_t limit_ns = client->site.silence_timeout_ms * NS_PER_MS;
    bool any = false;
    for (struct client_request *impl = client->requests; impl != NULL; impl = impl->next) {
        if (!request_is_connected(impl))
            continue;
        link_pulse_look(&impl->pulse, impl->socket, now_ns);
        impl->transfer.silent = link_pulse_is_gone(&impl->pulse, now_ns, limit_ns);
        any = any || impl->transfer.silent;
        if (impl->pulse.heard_ns > client->heard_ns)
            client->heard_ns = impl->pulse.heard_ns;
    }
    /* Half: the packet that another connection heard last may be later than this one's. */
    if (!any || now_ns - client->heard_ns < limit_ns / 2)
        return;
    for (struct client_request *impl = client->requests; impl != NULL; impl = impl->next)
        impl->transfer.silent = request_is_connected(impl);
}

static struct client_request *client_find_dead(const struct repl_client *client)
{
    struct client_request *impl = client->requests;
    while (impl != NULL && !impl->transfer.stalled && !impl->transfer.silent)
        impl = impl->next;
    return impl;
}

static void client_watched(struct repl_timer *timer)
{
    struct repl_client *client = timer->context;
    int64_t now_ns = repl_now_mono_ns();
    struct client_request *impl;
    client_look_stalls(client, now_ns);
    client_look_silence(client, now_ns);
    while ((impl = client_find_dead(client)) != NULL)
        if (!request_finish(impl, CURLE_OPERATION_TIMEDOUT))
            return;
    if (client->requests != NULL)
        client_watch(client);
}

/* --- the public part ------------------------------------------------------------------------- */

static repl_result client_multi_new(struct repl_client *client, struct repl_error *err)
{
    client->multi = curl_multi_init();
    if (client->multi == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for connections to %s",
                         client->site.address);
    CURLMcode code =
        curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, client_socket_changed);
    if (code == CURLM_OK)
        code = curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
    if (code == CURLM_OK)
        code = curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, client_timeout_changed);
    if (code == CURLM_OK)
        code = curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
    if (code != CURLM_OK)
        return repl_fail(err, REPL_E_INTERNAL, "libcurl does not take an option: %s",
                         curl_multi_strerror(code));
    return REPL_SUCCESS;
}

repl_result repl_client_new(struct repl_loop *loop, const struct repl_client_options *options,
                            struct repl_client **out, struct repl_error *err)
{
    *out = NULL;
    struct repl_client *client = calloc(1, sizeof *client);
    if (client == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for connections to %s", options->address);
    client->loop = loop;
    client->timeout = (struct repl_timer){.fire = client_timeout_fired, .context = client};
    client->kick = (struct repl_timer){.fire = client_kicked, .context = client};
    client->watch = (struct repl_timer){.fire = client_watched, .context = client};
    client->refill = (struct repl_timer){.fire = client_refilled, .context = client};
    client->bandwidth = options->bandwidth;
    repl_result result = link_site_init(&client->site, options, err);
    if (repl_ok(result))
        result = client_multi_new(client, err);
    if (!repl_ok(result)) {
        repl_client_free(client);
        return result;
    }
    *out = client;
    return REPL_SUCCESS;
}

void repl_client_free(struct repl_client *client)
{
    if (client == NULL)
        return;
    ensure(!client->inside);
    while (client->requests != NULL) {
        if (client->requests->request != NULL)
            client->requests->request->impl = NULL;
        request_free(client->requests);
    }
    if (client->multi != NULL)
        curl_multi_cleanup(client->multi);
    repl_timer_cancel(&client->timeout);
    repl_timer_cancel(&client->kick);
    repl_timer_cancel(&client->watch);
    repl_timer_cancel(&client->refill);
    link_site_fini(&client->site);
    if (client->freed != NULL)
        *client->freed = true;
    free(client);
}

static repl_result request_new(struct repl_client *client, struct repl_request *request,
                               struct client_request **out, struct repl_error *err)
{
    struct client_request *impl = calloc(1, sizeof *impl);
    CURL *easy = impl != NULL ? curl_easy_init() : NULL;
    if (easy == NULL) {
        free(impl);
        return repl_fail(err, REPL_E_NOMEM, "no memory for a request to %s", client->site.address);
    }
    struct link_transfer_spec spec = {.method = request->method,
                                      .path = request->path,
                                      .range = request->range,
                                      .offset = request->offset,
                                      .body = request->body,
                                      .body_size = request->body_size,
                                      .response_limit = request->response_limit,
                                      .stall_timeout_ms = request->stall_timeout_ms};
    if (request->read_body != NULL) {
        spec.read_body = request_read;
        spec.read_context = impl;
    }
    repl_result result = link_transfer_init(&impl->transfer, &client->site, easy, &spec, err);
    if (repl_ok(result) && curl_easy_setopt(easy, CURLOPT_PRIVATE, impl) != CURLE_OK)
        result =
            repl_fail(err, REPL_E_NOMEM, "no memory for a request to %s", client->site.address);
    if (!repl_ok(result)) {
        curl_easy_cleanup(easy);
        link_transfer_fini(&impl->transfer);
        free(impl);
        return result;
    }
    *out = impl;
    return REPL_SUCCESS;
}

repl_result repl_request_start(struct repl_client *client, struct repl_request *request,
                               struct repl_error *err)
{
    struct client_request *impl = NULL;
    request->client = client;
    request->impl = NULL;
    REPL_TRY(request_new(client, request, &impl, err));
    impl->transfer.on_header = request_answered;
    impl->client = client;
    impl->request = request;
    impl->state = REQUEST_QUEUED;
    impl->socket = CURL_SOCKET_BAD;
    impl->previous = client->requests_last;
    if (impl->previous != NULL)
        impl->previous->next = impl;
    else
        client->requests = impl;
    client->requests_last = impl;
    request->impl = impl;
    client_kick(client);
    return REPL_SUCCESS;
}

void repl_request_resume(struct repl_request *request)
{
    struct client_request *impl = request->impl;
    if (impl == NULL)
        return;
    impl->resume = true;
    client_kick(impl->client);
}

void repl_request_cancel(struct repl_request *request)
{
    struct client_request *impl = request->impl;
    if (impl == NULL)
        return;
    request->impl = NULL;
    impl->request = NULL;
    if (!impl->client->inside || impl->state == REQUEST_QUEUED) {
        request_free(impl);
        return;
    }
    impl->state = REQUEST_CANCELLED;
    client_kick(impl->client);
}
