/*
 * MHD 0.9.75 takes the first of two Content-Lengths, any Transfer-Encoding, lets
 * a malformed Content-Length through to its first call, and tolerates bare LF,
 * blanks around names, NULs, and folded lines (which it garbles).
 *
 * Instead of chasing each, MHD's view is held against the header block as it
 * came, in which MHD's texts lie: each must begin where it would if the block were
 * written plainly, with one blank after each colon, CRLF after each line and
 * nothing else. Sizes alone do not tell: a bare LF makes up for a blank too many.
 * In a folded line MHD moves the continuation into the name. What does not match is
 * refused, and so is any header that occurs twice.
 *
 * Of the end of a line and of the colon nothing is left, as MHD puts NULs there. So
 * this cannot be told: a NUL that makes up for a bare LF, and a line that begins
 * with a NUL or a colon, has a bare LF before or behind it, and ends the headers as
 * the empty one would. It is MHD's view that counts then, for us as well; there is
 * nobody between peer and site who could have another one.
 */
#include "site/listen/framing.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HEADER_SIZE_MAX   (16u << 10)
#define HEADER_COUNT_MAX  48u
#define URI_SIZE_MAX      1024u
#define LENGTH_DIGITS_MAX 18u /* no overflow */

struct header_scan {
    struct framing *framing;
    const char *next; /* where the next one begins, written plainly */
    unsigned count;
    const char *names[HEADER_COUNT_MAX];
    const char *content_length, *transfer_encoding;
};

static enum MHD_Result refuse(struct framing *framing, unsigned status, const char *wrong)
{
    framing->status = status;
    framing->wrong = wrong;
    return MHD_NO;
}

static enum MHD_Result refuse_plainness(struct framing *framing)
{
    return refuse(framing, MHD_HTTP_BAD_REQUEST,
                  "the headers are not written plainly: one blank after each colon, CRLF after "
                  "each line, no folding\n");
}

static bool is_token(const char *text, size_t size)
{
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < size; i++)
        if (!isalnum((unsigned char)text[i]) && memchr(others, text[i], sizeof others - 1) == NULL)
            return false;
    return size > 0;
}

static bool is_value(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (((unsigned char)text[i] < ' ' && text[i] != '\t') || text[i] == 0x7f)
            return false;
    return true;
}

static enum MHD_Result header_look(void *context, enum MHD_ValueKind kind, const char *name,
                                   size_t name_size, const char *value, size_t value_size)
{
    (void)kind;
    struct header_scan *scan = context;
    if (scan->count == HEADER_COUNT_MAX)
        return refuse(scan->framing, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE,
                      "too many headers\n");
    if (!is_token(name, name_size) || !is_value(value, value_size))
        return refuse(scan->framing, MHD_HTTP_BAD_REQUEST, "a header is malformed\n");
    for (unsigned i = 0; i < scan->count; i++)
        if (strcasecmp(scan->names[i], name) == 0)
            return refuse(scan->framing, MHD_HTTP_BAD_REQUEST, "a header occurs twice\n");
    if (name != scan->next || value != name + name_size + 2 || value[-1] != ' ')
        return refuse_plainness(scan->framing);
    scan->names[scan->count++] = name;
    scan->next = value + value_size + 2;

    if (strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0)
        scan->content_length = value;
    else if (strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0)
        scan->transfer_encoding = value;
    else if (strcasecmp(name, MHD_HTTP_HEADER_EXPECT) == 0)
        scan->framing->expects_continue = true;
    return MHD_YES;
}

static void body_look(const struct header_scan *scan)
{
    struct framing *framing = scan->framing;
    if (scan->transfer_encoding != NULL) {
        framing->body_size = FRAMING_BODY_UNKNOWN;
        if (scan->content_length != NULL)
            refuse(framing, MHD_HTTP_BAD_REQUEST,
                   "Content-Length and Transfer-Encoding exclude each other\n");
        else if (strcasecmp(scan->transfer_encoding, "chunked") != 0)
            refuse(framing, MHD_HTTP_BAD_REQUEST, "the only coding is chunked\n");
        return;
    }
    if (scan->content_length == NULL)
        return;
    size_t digits = strspn(scan->content_length, "0123456789");
    if (digits == 0 || digits > LENGTH_DIGITS_MAX || scan->content_length[digits] != '\0')
        refuse(framing, MHD_HTTP_BAD_REQUEST, "Content-Length is malformed\n");
    else
        framing->body_size = strtoull(scan->content_length, NULL, 10);
}

/* Of request line and headers, as they came. */
static size_t block_size(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info != NULL ? info->header_size : 0;
}

struct framing framing_check(struct MHD_Connection *connection, const char *method, size_t uri_size,
                             const char *version)
{
    struct framing framing = {0};
    struct header_scan scan = {.framing = &framing};
    size_t size = block_size(connection);
    if (uri_size > URI_SIZE_MAX)
        refuse(&framing, MHD_HTTP_URI_TOO_LONG, "the request's path is too long\n");
    else if (size > HEADER_SIZE_MAX)
        refuse(&framing, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too long\n");
    else if (strcmp(version, MHD_HTTP_VERSION_1_1) != 0)
        refuse(&framing, MHD_HTTP_HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1, please\n");
    else if (!is_token(method, strlen(method)))
        refuse(&framing, MHD_HTTP_BAD_REQUEST, "the request's method is malformed\n");
    if (framing.wrong != NULL)
        return framing;

    /* METHOD SP URI SP VERSION CRLF */
    scan.next = version + strlen(version) + 2;
    if (version != method + strlen(method) + 1 + uri_size + 1) {
        refuse_plainness(&framing);
        return framing;
    }
    MHD_get_connection_values_n(connection, MHD_HEADER_KIND, header_look, &scan);
    if (framing.wrong != NULL)
        return framing;
    if (scan.next + 2 != method + size) /* the empty line */
        refuse_plainness(&framing);
    else
        body_look(&scan);
    return framing;
}

/* It must begin with '/'; what its escapes stand for must not be a control character, which would
 * end a string or a line of a log elsewhere. */
bool framing_uri_acceptable(const char *uri)
{
    if (uri[0] != '/')
        return false;
    for (const unsigned char *c = (const unsigned char *)uri; *c != '\0'; c++) {
        if (*c <= ' ' || *c >= 0x7f)
            return false;
        if (*c != '%')
            continue;
        if (!isxdigit(c[1]) || !isxdigit(c[2]))
            return false;
        char digits[3] = {(char)c[1], (char)c[2], '\0'};
        unsigned long code = strtoul(digits, NULL, 16);
        if (code < ' ' || code == 0x7f)
            return false;
    }
    return true;
}
