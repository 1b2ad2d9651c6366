#include "control/mark_request.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "config/config.h"

static const char digits[] = "0123456789abcdef";

void repl_mark_request_write(const struct repl_mark_request *request,
                             char line[REPL_MARK_REQUEST_SIZE])
{
    if (request->ticket != 0) {
        snprintf(line, REPL_MARK_REQUEST_SIZE, "marked %" PRIu64, request->ticket);
        return;
    }
    const struct repl_log_mark *mark = &request->mark;
    int used = snprintf(line, REPL_MARK_REQUEST_SIZE, "mark %s %d %" PRIu64 " ", request->volume,
                        (int)mark->kind, mark->seq);
    size_t at = (size_t)used;
    for (const char *c = mark->name; *c != '\0'; c++) {
        ensure(at + 3 <= REPL_MARK_REQUEST_SIZE);
        line[at++] = digits[(unsigned char)*c >> 4];
        line[at++] = digits[(unsigned char)*c & 15];
    }
    if (mark->name[0] == '\0')
        line[at++] = '-';
    line[at] = '\0';
}

/* The word at *text, which it is moved behind. False: it is none, or longer than there is room. */
static bool take_word(const char **text, char *word, size_t size)
{
    size_t length = strcspn(*text, " ");
    if (length == 0 || length >= size)
        return false;
    memcpy(word, *text, length);
    word[length] = '\0';
    *text += length + ((*text)[length] == ' ');
    return true;
}

static bool take_number(const char **text, uint64_t *value)
{
    char word[20], *end; /* of at most 19 digits, which fit */
    if (!take_word(text, word, sizeof word) || strspn(word, digits) != strlen(word))
        return false;
    *value = strtoull(word, &end, 10);
    return *end == '\0';
}

static bool take_name(const char **text, char name[REPL_MARK_NAME_SIZE + 1])
{
    char hex[2 * REPL_MARK_NAME_SIZE + 1];
    if (strcmp(*text, "-") == 0) {
        *text += 1;
        name[0] = '\0';
        return true;
    }
    if (!take_word(text, hex, sizeof hex) || strlen(hex) % 2 != 0)
        return false;
    size_t size = strlen(hex) / 2;
    for (size_t i = 0; i < size; i++) {
        const char *high = strchr(digits, hex[2 * i]), *low = strchr(digits, hex[2 * i + 1]);
        if (high == NULL || low == NULL || (high == digits && low == digits))
            return false;
        name[i] = (char)((high - digits) * 16 + (low - digits));
    }
    name[size] = '\0';
    return true;
}

static bool mark_parse(const char *text, struct repl_mark_request *out)
{
    uint64_t kind;
    if (!take_word(&text, out->volume, sizeof out->volume) || !take_number(&text, &kind) ||
        !take_number(&text, &out->mark.seq) || !take_name(&text, out->mark.name) || *text != '\0' ||
        kind > REPL_MARK_PROVEN || (kind == REPL_MARK_PROVEN) != (out->mark.name[0] == '\0') ||
        !repl_volume_name_valid(out->volume))
        return false;
    out->mark.kind = (enum repl_mark_kind)kind;
    return true;
}

repl_result repl_mark_request_parse(const char *line, struct repl_mark_request *out,
                                    struct repl_error *err)
{
    const char *text = line;
    char verb[8];
    *out = (struct repl_mark_request){0};
    bool is_one = take_word(&text, verb, sizeof verb);
    if (is_one && strcmp(verb, "marked") == 0)
        is_one = take_number(&text, &out->ticket) && *text == '\0' && out->ticket != 0;
    else
        is_one = is_one && strcmp(verb, "mark") == 0 && mark_parse(text, out);
    if (!is_one)
        return repl_fail(err, REPL_E_USAGE, "\"%.100s\" is no request about names of points", line);
    return REPL_SUCCESS;
}
