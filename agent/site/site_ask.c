#include "site/site_ask.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/config.h"
#include "store/segment_name.h"

#define PARTS_MAX 7

struct path {
    char text[512];
    const char *parts[PARTS_MAX];
    size_t count;
};

__attribute__((format(printf, 3, 4))) static void
refusal_write(struct repl_refusal *refusal, enum repl_refusal_code code, const char *format, ...)
{
    va_list args;
    *refusal = (struct repl_refusal){.code = code};
    va_start(args, format);
    vsnprintf(refusal->text, sizeof refusal->text, format, args);
    va_end(args);
}

/* "/a/b" into its parts. False: not such a path, or too long for any of ours. */
static bool path_split(const char *from, struct path *path)
{
    path->count = 0;
    if (from[0] != '/' || strlen(from) >= sizeof path->text)
        return false;
    strcpy(path->text, from);
    for (char *rest = path->text + 1; rest != NULL;) {
        char *part = strsep(&rest, "/");
        if (path->count == PARTS_MAX || part[0] == '\0')
            return false;
        path->parts[path->count++] = part;
    }
    return true;
}

/* --- numbers --------------------------------------------------------------------------------- */

/* One way to write each: no leading zeros. */
static bool number_parse(const char *text, size_t size, uint64_t *out)
{
    *out = 0;
    if (size > 1 && text[0] == '0')
        return false;
    for (size_t i = 0; i < size; i++) {
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (text[i] < '0' || text[i] > '9' || *out > (UINT64_MAX - digit) / 10)
            return false;
        *out = *out * 10 + digit;
    }
    return size > 0;
}

/* "TO.PART": of a segment as it is sent. */
static bool place_parse(const char *text, struct repl_segment_id *out)
{
    return repl_segment_id_parse(text, out) && out->supply == 0 && out->merge == 0;
}

/* "FIRST.COUNT" */
static bool pages_parse(const char *text, struct site_ask *out)
{
    size_t size = strcspn(text, ".");
    uint64_t count;
    if (!number_parse(text, size, &out->first_page) || text[size] != '.' ||
        !number_parse(text + size + 1, strlen(text + size + 1), &count) || count > REPL_DIGESTS_MAX)
        return false;
    out->page_count = (uint32_t)count;
    return true;
}

/* 16 digits. */
static bool prefix_parse(const char *text, uint64_t *out)
{
    *out = 0;
    for (size_t i = 0; i < 16; i++) {
        const char *digits = "0123456789abcdef";
        const char *digit = text[i] == '\0' ? NULL : strchr(digits, text[i]);
        if (digit == NULL)
            return false;
        *out = *out << 4 | (uint64_t)(digit - digits);
    }
    return text[16] == '\0';
}

/* --- the path -------------------------------------------------------------------------------- */

/* The version of the protocol is in the path: /v1/. True: it is not one that is foreign here. */
static bool version_check(const struct path *path)
{
    uint64_t version;
    const char *first = path->parts[0];
    if (first[0] != 'v' || !number_parse(first + 1, strlen(first + 1), &version))
        return true; /* no path of ours */
    return version >= REPL_PROTOCOL_MIN && version <= REPL_PROTOCOL_MAX;
}

/* What stands behind /v1/volumes/NAME. *wanted: the method it wants. */
static bool volume_path_parse(const struct path *path, const char *method, struct site_ask *out,
                              const char **wanted)
{
    const char *word = path->parts[3];
    bool put = strcasecmp(method, "PUT") == 0;
    *wanted = "GET";
    if (path->count == 4 && strcmp(word, "hello") == 0) {
        *wanted = "POST";
        out->kind = SITE_REQUEST_HELLO;
    } else if (path->count == 4 && strcmp(word, "report") == 0) {
        *wanted = "POST";
        out->kind = SITE_REQUEST_REPORT;
    } else if (path->count == 4 && strcmp(word, "mark") == 0) {
        *wanted = "POST";
        out->kind = SITE_REQUEST_MARK;
    } else if (path->count == 4 && strcmp(word, "marks") == 0) {
        out->kind = SITE_REQUEST_MARKS;
    } else if (path->count == 4 && strcmp(word, "verified") == 0) {
        out->kind = SITE_REQUEST_VERIFIED;
    } else if (path->count == 4 && strcmp(word, "resend") == 0) {
        out->kind = SITE_REQUEST_RESEND;
    } else if (path->count == 4 && strcmp(word, "damaged") == 0) {
        out->kind = SITE_REQUEST_DAMAGED;
    } else if (path->count == 4 && strcmp(word, "chunks") == 0) {
        *wanted = "POST";
        out->kind = SITE_REQUEST_CHUNKS;
    } else if (path->count == 4 && strcmp(word, "tails") == 0) {
        *wanted = "POST";
        out->kind = SITE_REQUEST_TAILS;
    } else if (path->count == 5 && strcmp(word, "pool") == 0) {
        out->kind = SITE_REQUEST_POOL;
        return prefix_parse(path->parts[4], &out->after);
    } else if (path->count == 4 && strcmp(word, "supplies") == 0) {
        out->kind = SITE_REQUEST_SUPPLIES;
    } else if (path->count == 5 && (strcmp(word, "points") == 0 || strcmp(word, "timeline") == 0)) {
        out->kind = word[0] == 'p' ? SITE_REQUEST_POINTS : SITE_REQUEST_TIMELINE;
        return number_parse(path->parts[4], strlen(path->parts[4]), &out->after);
    } else if (path->count == 5 && strcmp(word, "ahead") == 0) {
        *wanted = "PUT";
        out->kind = SITE_REQUEST_AHEAD;
        return place_parse(path->parts[4], &out->id);
    } else if (path->count == 5 && strcmp(word, "replica") == 0) {
        out->kind = SITE_REQUEST_DIGESTS;
        return pages_parse(path->parts[4], out);
    } else if (path->count == 6 && strcmp(word, "segments") == 0 &&
               strcmp(path->parts[4], "after") == 0) {
        out->kind = SITE_REQUEST_SEGMENTS;
        return place_parse(path->parts[5], &out->id);
    } else if (path->count == 6 && strcmp(word, "segments") == 0 &&
               strcmp(path->parts[5], "slices") == 0) {
        *wanted = "POST";
        out->kind = SITE_REQUEST_SLICES;
        return repl_segment_id_parse(path->parts[4], &out->id);
    } else if (path->count == 5 && strcmp(word, "segments") == 0) {
        *wanted = put ? "PUT" : "GET";
        if (!repl_segment_id_parse(path->parts[4], &out->id) || (put && out->id.merge != 0))
            return false;
        out->kind = !put                  ? SITE_REQUEST_SEGMENT
                    : out->id.supply != 0 ? SITE_REQUEST_SUPPLY
                                          : SITE_REQUEST_UPLOAD;
    } else {
        return false;
    }
    return true;
}

static bool path_parse(const struct path *path, const char *method, struct site_ask *out,
                       const char **wanted)
{
    if (path->count < 2 || strcmp(path->parts[0], "v1") != 0 ||
        strcmp(path->parts[1], "volumes") != 0)
        return false;
    if (path->count == 2) {
        *wanted = "GET";
        out->kind = SITE_REQUEST_VOLUMES;
        return true;
    }
    if (path->count < 4 || !repl_volume_name_valid(path->parts[2]))
        return false;
    snprintf(out->name, sizeof out->name, "%s", path->parts[2]);
    return volume_path_parse(path, method, out, wanted);
}

int site_ask_parse(const char *method, const char *path, const char *offset, struct site_ask *out,
                   struct repl_refusal *refusal)
{
    struct path split;
    const char *wanted = NULL;
    *out = (struct site_ask){0};
    bool is_path = path_split(path, &split);
    if (is_path && !version_check(&split)) {
        refusal_write(
            refusal, REPL_REFUSAL_VERSION,
            "this site speaks protocol versions %u to %u, and /%s/ was asked for: upgrade "
            "the older one",
            REPL_PROTOCOL_MIN, REPL_PROTOCOL_MAX, split.parts[0]);
        return repl_refusal_status(refusal->code);
    }
    if (!is_path || !path_parse(&split, method, out, &wanted)) {
        refusal_write(refusal, REPL_REFUSAL_NOT_FOUND,
                      "there is no such path: docs/formats/wire.md lists them");
        return repl_refusal_status(refusal->code);
    }
    if (strcmp(method, wanted) != 0) {
        refusal_write(refusal, REPL_REFUSAL_REQUEST, "this path wants %s", wanted);
        return 405;
    }
    if (offset != NULL && (!number_parse(offset, strlen(offset), &out->offset) ||
                           out->offset > REPL_SEGMENT_HARD_LIMIT)) {
        refusal_write(refusal, REPL_REFUSAL_REQUEST, "Repl-Offset: \"%.40s\" is not an offset",
                      offset);
        return repl_refusal_status(refusal->code);
    }
    if (out->kind == SITE_REQUEST_AHEAD && out->offset != 0) {
        refusal_write(refusal, REPL_REFUSAL_REQUEST,
                      "a segment that comes ahead of its turn comes from its start");
        return repl_refusal_status(refusal->code);
    }
    return 0;
}

/* --- the range ------------------------------------------------------------------------------- */

static bool number_take(const char **text, uint64_t *value)
{
    char *end;
    if (**text < '0' || **text > '9')
        return false;
    errno = 0;
    *value = strtoull(*text, &end, 10);
    *text = end;
    return errno == 0;
}

bool site_range_parse(const char *text, uint64_t total, uint64_t *offset, uint64_t *size)
{
    uint64_t first, last = total - 1;
    if (strncmp(text, "bytes=", 6) != 0 || total == 0)
        return false;
    text += 6;
    if (*text == '-') {
        uint64_t count;
        text++;
        if (!number_take(&text, &count) || *text != '\0' || count == 0)
            return false;
        *size = count < total ? count : total;
        *offset = total - *size;
        return true;
    }
    if (!number_take(&text, &first) || *text++ != '-' ||
        (*text != '\0' && (!number_take(&text, &last) || *text != '\0')) || first > last ||
        first >= total)
        return false;
    *offset = first;
    *size = (last < total ? last : total - 1) - first + 1;
    return true;
}
