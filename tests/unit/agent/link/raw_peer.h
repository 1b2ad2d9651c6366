/*
 * Peers made by hand, which need not behave: in a thread of their own, through
 * GnuTLS.
 */
#ifndef TESTS_UNIT_RAW_PEER_H
#define TESTS_UNIT_RAW_PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "unit/agent/link/link_fixture.h"

#define RAW_ANSWER_SIZE 4096

struct raw {
    struct world *world;
    const char *key;      /* NULL: no certificate */
    const char *priority; /* NULL: TLS 1.3 */
    const char *request;
    size_t request_size;
    size_t filler; /* bytes sent after it */
    bool hang_up;  /* without waiting for an answer */
    bool connected;
    char answer[RAW_ANSWER_SIZE];
    size_t answer_size;
    int ended; /* what ended it: 0 closed properly, or GnuTLS's error */
    atomic_bool done;
};

static inline int raw_connect(const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct timeval limit = {.tv_sec = 10};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int rc;
    do /* one that was interrupted goes on by itself */
        rc = connect(fd, (struct sockaddr *)&to, sizeof to);
    while (rc != 0 && (errno == EINTR || errno == EALREADY));
    if (rc == 0 || errno == EISCONN)
        return fd;
    close(fd);
    return -1;
}

static inline void raw_exchange(struct raw *raw, gnutls_session_t session)
{
    static const char filler[16384];
    if (raw->request_size == 0)
        raw->request_size = strlen(raw->request);
    ssize_t put = 1;
    for (size_t sent = 0; sent < raw->request_size && put > 0; sent += (size_t)put)
        put = gnutls_record_send(session, raw->request + sent, raw->request_size - sent);
    for (size_t sent = 0; sent < raw->filler; sent += sizeof filler)
        if (gnutls_record_send(session, filler, sizeof filler) < 0)
            break;
    if (raw->hang_up)
        return;
    ssize_t got;
    while ((got = gnutls_record_recv(session, raw->answer + raw->answer_size,
                                     sizeof raw->answer - 1 - raw->answer_size)) > 0)
        raw->answer_size += (size_t)got;
    raw->ended = (int)got;
}

static inline void *raw_thread(void *context)
{
    struct raw *raw = context;
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    gnutls_certificate_allocate_credentials(&credentials);
    if (raw->key != NULL)
        gnutls_certificate_set_x509_key_file(credentials, raw->key, raw->key, GNUTLS_X509_FMT_PEM);
    gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    gnutls_priority_set_direct(
        session, raw->priority != NULL ? raw->priority : "NORMAL:-VERS-ALL:+VERS-TLS1.3", NULL);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    int fd = raw_connect(raw->world->address);
    gnutls_transport_set_int(session, fd);
    int rc;
    do
        rc = gnutls_handshake(session);
    while (rc == GNUTLS_E_INTERRUPTED);
    raw->connected = rc == GNUTLS_E_SUCCESS;
    if (raw->connected)
        raw_exchange(raw, session);
    close(fd);
    gnutls_deinit(session);
    gnutls_certificate_free_credentials(credentials);
    raw->done = true;
    return NULL;
}

static inline void raw_run(struct raw *raw)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, raw_thread, raw), 0);
    PUMP_UNTIL(raw->world, raw->done);
    pthread_join(thread, NULL);
}

/* One request by hand; the answer's status, 0 for none. */
static inline int raw_status(struct world *world, const char *request)
{
    struct raw raw = {.world = world, .key = world->host_key, .request = request};
    int status = 0;
    raw_run(&raw);
    assert_true(raw.connected);
    sscanf(raw.answer, "HTTP/1.1 %d ", &status);
    return status;
}

#endif
