/*
 * One HTTP exchange through libcurl.
 *
 * Who the other side is, is decided by its public key alone: names, dates and
 * issuers of its certificate are not looked at (VERIFYPEER and VERIFYHOST are
 * off), the SHA-256 of its SubjectPublicKeyInfo is (PINNEDPUBLICKEY). libcurl
 * compares it when the handshake ends, before it writes anything of the
 * request. Only TLS 1.3, where a server cannot leave out its certificate, no
 * session resumption, no proxy, no redirect: there is no second way in.
 *
 * No Expect: 100-continue is sent: it would cost a round trip for every
 * segment. A site that refuses a body early answers while we send; libcurl
 * reads that answer, stops sending and closes the connection.
 *
 * A stall is told from the counters of bytes in both directions and from the
 * length of the socket's send queue. The queue matters on slow lines: the
 * kernel takes megabytes at once, and they move long after libcurl's own count
 * has come to rest. It means that the site's program is of no use; that the line
 * or the site's host is gone is told apart, and sooner (pulse.c).
 */
#include "link/transfer.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "libcurl_start.h"
#include "link/pulse.h"

#define CONNECT_TIMEOUT_MS_DEFAULT 10000u
#define STALL_TIMEOUT_MS_DEFAULT   30000u
#define SILENCE_TIMEOUT_MS_DEFAULT 7000u
#define RESPONSE_LIMIT_DEFAULT     (1u << 20)
#define RESPONSE_ROOM_FIRST        4096u

/* A piece of the body for each call of read_body, and one chunk of the chunked coding. */
#define UPLOAD_BUFFER_SIZE   (1l << 20)
#define DOWNLOAD_BUFFER_SIZE (256l << 10)

/* A pooled connection idle for longer is not used again: the site's own limit is 60 s. */
#define IDLE_CONNECTION_S 45l

/* --- addresses ------------------------------------------------------------------------------- */

static bool host_character(char c, bool bracketed)
{
    if (isalnum((unsigned char)c) || c == '.')
        return true;
    return bracketed ? c == ':' || c == '%' : c == '-' || c == '_';
}

repl_result link_address_split(const char *text, char host[LINK_HOST_SIZE],
                               char port[LINK_PORT_SIZE], struct repl_error *err)
{
    bool bracketed = text[0] == '[';
    const char *begin = text + (bracketed ? 1 : 0);
    const char *end = bracketed ? strchr(begin, ']') : strrchr(begin, ':');
    const char *colon = end == NULL ? NULL : end + (bracketed ? 1 : 0);
    if (end == NULL || *colon != ':' || end == begin || (size_t)(end - begin) >= LINK_HOST_SIZE)
        goto bad;
    for (const char *c = begin; c < end; c++)
        if (!host_character(*c, bracketed))
            goto bad;
    const char *digits = colon + 1;
    size_t count = strlen(digits);
    if (count == 0 || count >= LINK_PORT_SIZE || strspn(digits, "0123456789") != count ||
        strtoul(digits, NULL, 10) > 65535)
        goto bad;

    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    memcpy(port, digits, count + 1);
    return REPL_SUCCESS;
bad:
    return repl_fail(err, REPL_E_USAGE, "\"%s\" is no address: write host:port or [IPv6]:port",
                     text);
}

/* --- the site -------------------------------------------------------------------------------- */

static void site_pin(struct link_site *site)
{
    static const char prefix[] = "sha256//";
    memcpy(site->pin, prefix, sizeof prefix);
    EVP_EncodeBlock((unsigned char *)site->pin + sizeof prefix - 1, site->fingerprint.bytes,
                    sizeof site->fingerprint.bytes);
}

repl_result link_site_init(struct link_site *site, const struct repl_client_options *options,
                           struct repl_error *err)
{
    *site = (struct link_site){.fingerprint = options->fingerprint};
    REPL_TRY(repl_libcurl_start(err));

    char host[LINK_HOST_SIZE], port[LINK_PORT_SIZE];
    REPL_TRY(link_address_split(options->address, host, port, err));
    snprintf(site->address, sizeof site->address, strchr(host, ':') != NULL ? "[%s]:%s" : "%s:%s",
             host, port);
    site->connect_timeout_ms =
        options->connect_timeout_ms != 0 ? options->connect_timeout_ms : CONNECT_TIMEOUT_MS_DEFAULT;
    site->stall_timeout_ms =
        options->stall_timeout_ms != 0 ? options->stall_timeout_ms : STALL_TIMEOUT_MS_DEFAULT;
    site->silence_timeout_ms =
        options->silence_timeout_ms != 0 ? options->silence_timeout_ms : SILENCE_TIMEOUT_MS_DEFAULT;
    site_pin(site);
    struct repl_digest own;
    return repl_key_load(options->key_path, &site->pem, &own, err);
}

void link_site_fini(struct link_site *site)
{
    if (site->pem == NULL)
        return;
    repl_key_wipe(site->pem);
    free(site->pem);
    site->pem = NULL;
}

/* --- callbacks of libcurl -------------------------------------------------------------------- */

static int transfer_socket(void *context, curl_socket_t fd, curlsocktype purpose)
{
    (void)context, (void)purpose;
    link_pulse_keep(fd);
    return CURL_SOCKOPT_OK;
}

static int transfer_connected(void *context, char *peer, char *local, int peer_port, int local_port)
{
    (void)peer, (void)local, (void)peer_port, (void)local_port;
    struct link_transfer *transfer = context;
    transfer->sent_ns = repl_now_mono_ns();
    transfer->moved_ns = transfer->sent_ns;
    return CURL_PREREQFUNC_OK;
}

static size_t transfer_header(char *data, size_t size, size_t count, void *context)
{
    (void)data;
    struct link_transfer *transfer = context;
    if (transfer->answered_ns == 0)
        transfer->answered_ns = repl_now_mono_ns();
    if (transfer->on_header != NULL)
        transfer->on_header(transfer);
    return size * count;
}

static bool response_reserve(struct link_transfer *transfer, size_t size)
{
    if (size + 1 <= transfer->response_room)
        return true;
    size_t room = transfer->response_room != 0 ? transfer->response_room : RESPONSE_ROOM_FIRST;
    while (room < size + 1)
        room *= 2;
    if (room > transfer->response_limit + 1)
        room = transfer->response_limit + 1;
    char *response = realloc(transfer->response, room);
    if (response == NULL)
        return false;
    transfer->response = response;
    transfer->response_room = room;
    return true;
}

static size_t transfer_write(char *data, size_t size, size_t count, void *context)
{
    struct link_transfer *transfer = context;
    size_t more = size * count;
    transfer->response_too_large = more > transfer->response_limit - transfer->response_size;
    if (transfer->response_too_large)
        return CURL_WRITEFUNC_ERROR;
    transfer->out_of_memory = !response_reserve(transfer, transfer->response_size + more);
    if (transfer->out_of_memory)
        return CURL_WRITEFUNC_ERROR;
    memcpy(transfer->response + transfer->response_size, data, more);
    transfer->response_size += more;
    transfer->response[transfer->response_size] = '\0';
    return more;
}

/* --- setting it up --------------------------------------------------------------------------- */

/* Encodes all but RFC 3986's unreserved characters and '/'; no path can become a query, a fragment
 * or another host. */
static bool url_build(char url[LINK_URL_SIZE], const char *address, const char *path)
{
    static const char hex[] = "0123456789ABCDEF";
    int used = snprintf(url, LINK_URL_SIZE, "https://%s", address);
    char *out = url + used;
    const char *end = url + LINK_URL_SIZE - 4;
    for (const char *in = path; *in != '\0'; in++) {
        unsigned char c = (unsigned char)*in;
        if (out >= end)
            return false;
        if ((c < 0x80 && isalnum(c)) || strchr("-._~/", c) != NULL) {
            *out++ = (char)c;
            continue;
        }
        *out++ = '%';
        *out++ = hex[c >> 4];
        *out++ = hex[c & 15];
    }
    *out = '\0';
    return path[0] == '/';
}

static bool headers_add(struct link_transfer *transfer, const char *line)
{
    struct curl_slist *longer = curl_slist_append(transfer->headers, line);
    if (longer != NULL)
        transfer->headers = longer;
    return longer != NULL;
}

static bool headers_build(struct link_transfer *transfer, const struct link_transfer_spec *spec)
{
    char offset[64];
    snprintf(offset, sizeof offset, "Repl-Offset: %lld", (long long)spec->offset);
    return headers_add(transfer, "Expect:") && headers_add(transfer, "Accept:") &&
           headers_add(transfer, "Content-Type: application/octet-stream") &&
           (spec->offset < 0 || headers_add(transfer, offset));
}

/* Remembers the first failure, so that a list of options reads as one. */
#define SET(option, value)                                                                         \
    do {                                                                                           \
        if (code == CURLE_OK)                                                                      \
            code = curl_easy_setopt(easy, option, value);                                          \
    } while (0)

static CURLcode set_security(CURL *easy, const struct link_site *site)
{
    CURLcode code = CURLE_OK;
    struct curl_blob pem = {site->pem, strlen(site->pem), CURL_BLOB_NOCOPY};
    SET(CURLOPT_PROTOCOLS_STR, "https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_NOPROXY, "*");
    SET(CURLOPT_SSLVERSION, (long)(CURL_SSLVERSION_TLSv1_3 | CURL_SSLVERSION_MAX_TLSv1_3));
    SET(CURLOPT_SSL_VERIFYPEER, 0l);
    SET(CURLOPT_SSL_VERIFYHOST, 0l);
    /* Without these two the system's certificates are loaded, for nothing, at every connect. */
    SET(CURLOPT_CAINFO, NULL);
    SET(CURLOPT_CAPATH, NULL);
    SET(CURLOPT_SSL_SESSIONID_CACHE, 0l);
    SET(CURLOPT_PINNEDPUBLICKEY, site->pin);
    SET(CURLOPT_CERTINFO, 1l); /* only to say which key was seen instead */
    SET(CURLOPT_SSLCERT_BLOB, &pem);
    SET(CURLOPT_SSLKEY_BLOB, &pem);
    return code;
}

static CURLcode set_connection(CURL *easy, const struct link_site *site)
{
    CURLcode code = CURLE_OK;
    SET(CURLOPT_NOSIGNAL, 1l);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)site->connect_timeout_ms);
    SET(CURLOPT_MAXAGE_CONN, IDLE_CONNECTION_S);
    SET(CURLOPT_SOCKOPTFUNCTION, transfer_socket);
    SET(CURLOPT_UPLOAD_BUFFERSIZE, UPLOAD_BUFFER_SIZE);
    SET(CURLOPT_BUFFERSIZE, DOWNLOAD_BUFFER_SIZE);
    SET(CURLOPT_USERAGENT, "repl/" REPL_VERSION);
    return code;
}

static CURLcode set_request(CURL *easy, const char *url, const struct link_transfer_spec *spec)
{
    CURLcode code = CURLE_OK;
    bool has_body = spec->body_size > 0 || strcmp(spec->method, "PUT") == 0 ||
                    strcmp(spec->method, "POST") == 0;
    SET(CURLOPT_URL, url);
    SET(CURLOPT_PATH_AS_IS, 1l);
    if (spec->read_body != NULL) {
        SET(CURLOPT_UPLOAD, 1l); /* no INFILESIZE: chunked */
        SET(CURLOPT_READFUNCTION, spec->read_body);
        SET(CURLOPT_READDATA, spec->read_context);
    } else if (has_body) {
        SET(CURLOPT_POST, 1l);
        SET(CURLOPT_POSTFIELDS, spec->body != NULL ? spec->body : "");
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)spec->body_size);
    } else if (strcmp(spec->method, "HEAD") == 0) {
        SET(CURLOPT_NOBODY, 1l);
    }
    SET(CURLOPT_CUSTOMREQUEST, spec->method);
    if (spec->range != NULL && spec->range[0] != '\0')
        SET(CURLOPT_RANGE, spec->range);
    return code;
}

static CURLcode set_callbacks(CURL *easy, struct link_transfer *transfer)
{
    CURLcode code = CURLE_OK;
    SET(CURLOPT_HTTPHEADER, transfer->headers);
    SET(CURLOPT_ERRORBUFFER, transfer->curl_text);
    SET(CURLOPT_PREREQFUNCTION, transfer_connected);
    SET(CURLOPT_PREREQDATA, transfer);
    SET(CURLOPT_HEADERFUNCTION, transfer_header);
    SET(CURLOPT_HEADERDATA, transfer);
    SET(CURLOPT_WRITEFUNCTION, transfer_write);
    SET(CURLOPT_WRITEDATA, transfer);
    return code;
}

#undef SET

static repl_result spec_check(const struct link_transfer_spec *spec, struct repl_error *err)
{
    size_t method = strlen(spec->method);
    if (method == 0 || strspn(spec->method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != method)
        return repl_fail(err, REPL_E_INTERNAL, "\"%s\" is no HTTP method", spec->method);
    if (spec->range != NULL && strspn(spec->range, "0123456789-,") != strlen(spec->range))
        return repl_fail(err, REPL_E_INTERNAL, "\"%s\" is no byte range", spec->range);
    return REPL_SUCCESS;
}

repl_result link_transfer_init(struct link_transfer *transfer, const struct link_site *site,
                               CURL *easy, const struct link_transfer_spec *spec,
                               struct repl_error *err)
{
    *transfer = (struct link_transfer){.site = site, .easy = easy};
    transfer->response_limit =
        spec->response_limit != 0 ? spec->response_limit : RESPONSE_LIMIT_DEFAULT;
    transfer->stall_timeout_ms =
        spec->stall_timeout_ms != 0 ? spec->stall_timeout_ms : site->stall_timeout_ms;
    transfer->moved_ns = repl_now_mono_ns();
    REPL_TRY(spec_check(spec, err));
    char url[LINK_URL_SIZE];
    if (!url_build(url, site->address, spec->path))
        return repl_fail(err, REPL_E_INTERNAL, "\"%s\" is no request path", spec->path);
    if (!headers_build(transfer, spec))
        return repl_fail(err, REPL_E_NOMEM, "no memory for a request to %s", site->address);

    CURLcode code = set_security(easy, site);
    if (code == CURLE_OK)
        code = set_connection(easy, site);
    if (code == CURLE_OK)
        code = set_request(easy, url, spec);
    if (code == CURLE_OK)
        code = set_callbacks(easy, transfer);
    if (code != CURLE_OK)
        return repl_fail(err, code == CURLE_OUT_OF_MEMORY ? REPL_E_NOMEM : REPL_E_INTERNAL,
                         "libcurl does not take an option of a request to %s: %s", site->address,
                         curl_easy_strerror(code));
    return REPL_SUCCESS;
}

void link_transfer_fini(struct link_transfer *transfer)
{
    curl_slist_free_all(transfer->headers);
    transfer->headers = NULL;
    free(transfer->response);
    transfer->response = NULL;
}

/* --- stalls ---------------------------------------------------------------------------------- */

static uint64_t transfer_count(const struct link_transfer *transfer)
{
    curl_off_t up = 0, down = 0;
    long header = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_SIZE_UPLOAD_T, &up);
    curl_easy_getinfo(transfer->easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
    curl_easy_getinfo(transfer->easy, CURLINFO_HEADER_SIZE, &header);
    return (uint64_t)up + (uint64_t)down + (uint64_t)header;
}

bool link_transfer_look(struct link_transfer *transfer, int64_t now_ns, uint64_t unsent)
{
    /* Until then the connect timeout rules. */
    if (transfer->sent_ns == 0)
        return false;
    /* The sum of what curl has sent and the negated queue is what has left the host; a change of
     * any part is a sign of life. */
    uint64_t moved = transfer_count(transfer) - unsent;
    if (moved != transfer->moved) {
        transfer->moved = moved;
        transfer->moved_ns = now_ns;
        return false;
    }
    int64_t limit_ns = (int64_t)transfer->stall_timeout_ms * 1000000;
    transfer->stalled = now_ns - transfer->moved_ns >= limit_ns;
    return transfer->stalled;
}

void link_transfer_touch(struct link_transfer *transfer, int64_t now_ns)
{
    transfer->moved_ns = now_ns;
}

/* --- what went wrong ------------------------------------------------------------------------- */

static bool pem_fingerprint(const char *pem, struct repl_digest *out)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *certificate = bio != NULL ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    unsigned char *der = NULL;
    int size = certificate != NULL ? i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der) : 0;
    bool ok = size > 0 && EVP_Digest(der, (size_t)size, out->bytes, NULL, EVP_sha256(), NULL) == 1;
    OPENSSL_free(der);
    X509_free(certificate);
    BIO_free(bio);
    return ok;
}

/* The key that the other side proved to have in the handshake that we broke off. */
static bool seen_fingerprint(CURL *easy, struct repl_digest *out)
{
    static const char label[] = "Cert:";
    struct curl_certinfo *chain = NULL;
    if (curl_easy_getinfo(easy, CURLINFO_CERTINFO, &chain) != CURLE_OK || chain == NULL ||
        chain->num_of_certs < 1)
        return false;
    for (const struct curl_slist *line = chain->certinfo[0]; line != NULL; line = line->next)
        if (strncmp(line->data, label, sizeof label - 1) == 0)
            return pem_fingerprint(line->data + sizeof label - 1, out);
    return false;
}

static repl_result fail_other_key(const struct link_transfer *transfer, struct repl_error *err)
{
    char wanted[REPL_FINGERPRINT_TEXT_SIZE], seen[REPL_FINGERPRINT_TEXT_SIZE] = "";
    struct repl_digest digest;
    repl_fingerprint_format(&transfer->site->fingerprint, wanted);
    if (seen_fingerprint(transfer->easy, &digest))
        repl_fingerprint_format(&digest, seen);
    return repl_fail(err, REPL_E_REFUSED,
                     "%s has another key (%s) than the configured %s; if the site was reinstalled, "
                     "put the new fingerprint into [remote] fingerprint",
                     transfer->site->address, seen[0] != '\0' ? seen : "not shown", wanted);
}

static repl_result fail_timeout(const struct link_transfer *transfer, struct repl_error *err)
{
    return repl_fail(err, REPL_E_RETRY,
                     "connect to %s: no answer within %u ms; is its port open for this host?",
                     transfer->site->address, transfer->site->connect_timeout_ms);
}

static repl_result fail_connect(const struct link_transfer *transfer, struct repl_error *err)
{
    long os_errno = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_OS_ERRNO, &os_errno);
    /* errno of several addresses tried at once may be that of a pending connect. */
    if (os_errno == 0 || os_errno == EINPROGRESS)
        return repl_fail(err, REPL_E_RETRY, "connect to %s: %s", transfer->site->address,
                         transfer->curl_text);
    if (os_errno == ECONNREFUSED)
        return repl_fail(
            err, REPL_E_RETRY,
            "connect to %s: connection refused; does the site run there, and listen on "
            "that port (\"repl status\" at the site)?",
            transfer->site->address);
    return repl_fail_errno(err, REPL_E_RETRY, (int)os_errno, "connect to %s",
                           transfer->site->address);
}

static repl_result fail_write(const struct link_transfer *transfer, struct repl_error *err)
{
    if (transfer->response_too_large)
        return repl_fail(err, REPL_E_NOMEM, "the answer of %s is longer than %zu bytes",
                         transfer->site->address, transfer->response_limit);
    return repl_fail(err, REPL_E_NOMEM, "no memory for the answer of %s", transfer->site->address);
}

repl_result link_transfer_result(const struct link_transfer *transfer, CURLcode code,
                                 struct repl_error *err)
{
    const char *address = transfer->site->address;
    const char *text =
        transfer->curl_text[0] != '\0' ? transfer->curl_text : curl_easy_strerror(code);
    if (transfer->silent)
        return repl_fail(err, REPL_E_RETRY,
                         "%s: for %u ms nothing came from there, not even an acknowledgement: the "
                         "line is cut, or that host is down",
                         address, transfer->site->silence_timeout_ms);
    if (transfer->stalled)
        return repl_fail(err, REPL_E_RETRY,
                         "%s: not a byte went either way for %u ms, though the connection stands: "
                         "the site or its disk hangs, see its log",
                         address, transfer->stall_timeout_ms);
    switch (code) {
    case CURLE_OK:
        return REPL_SUCCESS;
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
        return fail_other_key(transfer, err);
    case CURLE_WRITE_ERROR:
        return fail_write(transfer, err);
    case CURLE_COULDNT_CONNECT:
        return fail_connect(transfer, err);
    case CURLE_OPERATION_TIMEDOUT: /* the only timeout libcurl is given is that of connecting */
        return fail_timeout(transfer, err);
    case CURLE_COULDNT_RESOLVE_HOST:
        return repl_fail(err, REPL_E_RETRY, "%s: %s; check [remote] address and this host's DNS",
                         address, text);
    case CURLE_SSL_CONNECT_ERROR:
        return repl_fail(err, REPL_E_RETRY, "%s: the TLS handshake failed (%s); is it a repl site?",
                         address, text);
    case CURLE_OUT_OF_MEMORY:
        return repl_fail(err, REPL_E_NOMEM, "no memory for a request to %s", address);
    case CURLE_SSL_CERTPROBLEM:
        return repl_fail(err, REPL_E_USAGE, "our own key is of no use with %s: %s", address, text);
    default:
        return repl_fail(err, REPL_E_RETRY, "the connection to %s broke off: %s", address, text);
    }
}
