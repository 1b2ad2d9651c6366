/*
 * A long line on loopback: connections to one port go on to another, and what is
 * sent either way arrives DELAY later, as much of it as a line of that length
 * holds. For machines whose kernel has no netem.
 *
 *   delay LISTEN-PORT TO-PORT DELAY-MS
 *
 * Ends with SIGTERM. What it holds is bounded (HELD_MAX a direction), and so is
 * the number of connections.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 64
#define HELD_MAX        (64u << 20)
#define PIECE           (64u << 10)

struct piece {
    struct piece *next;
    int64_t due_ns;
    size_t size, sent;
    char bytes[PIECE];
};

struct direction {
    int from, to;
    struct piece *first, *last;
    size_t held;
    bool ended; /* from has nothing more; told to the other side after the last piece */
    bool told;
};

struct connection {
    int near, far;
    struct direction out, back;
};

static struct connection *connections[CONNECTIONS_MAX];
static int64_t delay_ns;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "delay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int socket_new(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    return fd;
}

static struct sockaddr_in loopback(const char *port)
{
    return (struct sockaddr_in){.sin_family = AF_INET,
                                .sin_port = htons((uint16_t)atoi(port)),
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static void direction_free(struct direction *d)
{
    for (struct piece *p = d->first, *next; p != NULL; p = next) {
        next = p->next;
        free(p);
    }
}

static void connection_free(struct connection **slot)
{
    close((*slot)->near);
    close((*slot)->far);
    direction_free(&(*slot)->out);
    direction_free(&(*slot)->back);
    free(*slot);
    *slot = NULL;
}

static void connection_new(int listener, const struct sockaddr_in *to)
{
    int near = accept4(listener, NULL, NULL, SOCK_CLOEXEC), far, one = 1;
    size_t i = 0;
    while (i < CONNECTIONS_MAX && connections[i] != NULL)
        i++;
    if (near < 0)
        return;
    far = socket_new();
    if (i == CONNECTIONS_MAX || connect(far, (const struct sockaddr *)to, sizeof *to) != 0 ||
        (connections[i] = calloc(1, sizeof **connections)) == NULL) {
        close(near);
        close(far);
        return;
    }
    setsockopt(near, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(near, F_SETFL, O_NONBLOCK);
    fcntl(far, F_SETFL, O_NONBLOCK);
    *connections[i] = (struct connection){.near = near,
                                          .far = far,
                                          .out = {.from = near, .to = far},
                                          .back = {.from = far, .to = near}};
}

/* False: the connection is broken. */
static bool take(struct direction *d)
{
    while (d->held < HELD_MAX && !d->ended) {
        struct piece *p = malloc(sizeof *p);
        if (p == NULL)
            return false;
        ssize_t got = read(d->from, p->bytes, sizeof p->bytes);
        if (got <= 0) {
            free(p);
            d->ended = got == 0;
            return got == 0 || errno == EAGAIN || errno == EINTR;
        }
        p->next = NULL;
        p->size = (size_t)got;
        p->sent = 0;
        p->due_ns = now_ns() + delay_ns;
        *(d->last != NULL ? &d->last->next : &d->first) = p;
        d->last = p;
        d->held += p->size;
    }
    return true;
}

static bool give(struct direction *d)
{
    int64_t now = now_ns();
    while (d->first != NULL && d->first->due_ns <= now) {
        struct piece *p = d->first;
        ssize_t sent = write(d->to, p->bytes + p->sent, p->size - p->sent);
        if (sent < 0)
            return errno == EAGAIN || errno == EINTR;
        p->sent += (size_t)sent;
        if (p->sent < p->size)
            return true;
        d->first = p->next;
        d->held -= p->size;
        if (d->first == NULL)
            d->last = NULL;
        free(p);
    }
    if (d->first == NULL && d->ended && !d->told) {
        shutdown(d->to, SHUT_WR);
        d->told = true;
    }
    return true;
}

/* Until when there is nothing to write: milliseconds, at most 1000. */
static int wait_of(const struct direction *d, int most)
{
    if (d->first == NULL)
        return most;
    int64_t left = d->first->due_ns - now_ns();
    int ms = left > 0 ? (int)((left + 999999) / 1000000) : 1;
    return ms < most ? ms : most;
}

static void turn(int listener, const struct sockaddr_in *to)
{
    struct pollfd fds[1 + 2 * CONNECTIONS_MAX] = {{.fd = listener, .events = POLLIN}};
    nfds_t count = 1;
    int wait = 1000;
    for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
        const struct connection *c = connections[i];
        if (c == NULL)
            continue;
        bool out = c->out.held < HELD_MAX && !c->out.ended;
        bool back = c->back.held < HELD_MAX && !c->back.ended;
        fds[count++] = (struct pollfd){.fd = out ? c->near : -1, .events = POLLIN};
        fds[count++] = (struct pollfd){.fd = back ? c->far : -1, .events = POLLIN};
        wait = wait_of(&c->back, wait_of(&c->out, wait));
    }
    poll(fds, count, wait);
    if (fds[0].revents != 0)
        connection_new(listener, to);
    for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
        struct connection *c = connections[i];
        if (c == NULL)
            continue;
        bool good = take(&c->out) && take(&c->back) && give(&c->out) && give(&c->back);
        if (!good || (c->out.told && c->back.told))
            connection_free(&connections[i]);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: delay LISTEN-PORT TO-PORT DELAY-MS\n");
        return 2;
    }
    struct sockaddr_in at = loopback(argv[1]), to = loopback(argv[2]);
    delay_ns = atoi(argv[3]) * INT64_C(1000000);
    int listener = socket_new();
    if (bind(listener, (const struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 64) != 0)
        die("listen");
    for (;;)
        turn(listener, &to);
}
