#include "control/request_line.h"

#include <string.h>

char *request_line_room(struct request_line *line, size_t *room)
{
    *room = sizeof line->text - line->size;
    return line->text + line->size;
}

enum request_line_state request_line_take(struct request_line *line, size_t size)
{
    line->size += size;
    char *end = memchr(line->text, '\n', line->size);
    if (end == NULL)
        return line->size < sizeof line->text ? REQUEST_LINE_BEGUN : REQUEST_LINE_BAD;
    for (const char *c = line->text; c < end; c++) {
        /* a NUL would hide what follows, and other bytes need not be text that JSON can quote */
        if (*c < ' ' || *c > '~')
            return REQUEST_LINE_BAD;
    }
    *end = '\0';
    return REQUEST_LINE_WHOLE;
}
