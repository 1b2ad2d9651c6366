/*
 * The control socket's request line on any bytes, which come whole, byte by byte and in pieces as
 * long as the first byte says: the same line is found. It is one that the client would have sent,
 * and can be quoted in an answer, which is JSON.
 */
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "control/request_line.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum request_line_state feed(struct request_line *line, const uint8_t *data, size_t size,
                                    size_t piece)
{
    enum request_line_state state = REQUEST_LINE_BEGUN;
    memset(line, 0, sizeof *line);
    while (state == REQUEST_LINE_BEGUN && size > 0) {
        size_t room;
        char *to = request_line_room(line, &room);
        ensure(room > 0);
        size_t taken = piece < room ? piece : room;
        if (taken > size)
            taken = size;
        memcpy(to, data, taken);
        state = request_line_take(line, taken);
        data += taken;
        size -= taken;
    }
    return state;
}

static void whole_check(const struct request_line *line, const uint8_t *data, size_t size)
{
    size_t length = strlen(line->text);
    ensure(length < size && memcmp(line->text, data, length) == 0 && data[length] == '\n');
    json_t *json = json_pack("{s:s}", "text", line->text);
    ensure(json != NULL);
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct request_line line, other;
    size_t piece = size > 0 && data[0] > 0 ? data[0] : 1;
    enum request_line_state state = feed(&line, data, size, REQUEST_LINE_SIZE);
    ensure(feed(&other, data, size, 1) == state);
    ensure(state != REQUEST_LINE_WHOLE || strcmp(line.text, other.text) == 0);
    ensure(feed(&other, data, size, piece) == state);
    ensure(state != REQUEST_LINE_WHOLE || strcmp(line.text, other.text) == 0);
    const uint8_t *end = size == 0 ? NULL : memchr(data, '\n', size);
    size_t line_size = end == NULL ? size : (size_t)(end - data) + 1;
    if (end == NULL || line_size > REQUEST_LINE_SIZE)
        ensure(state == (line_size < REQUEST_LINE_SIZE ? REQUEST_LINE_BEGUN : REQUEST_LINE_BAD));
    else
        ensure(state != REQUEST_LINE_BEGUN);
    if (state == REQUEST_LINE_WHOLE)
        whole_check(&line, data, size);
    return 0;
}
