/*
 * The line that asks, as it comes over the control socket: in pieces of any size.
 * Private to control/.
 */
#ifndef REPL_AGENT_REQUEST_LINE_H
#define REPL_AGENT_REQUEST_LINE_H

#include <stddef.h>

#define REQUEST_LINE_SIZE 1024u /* with its line feed; no verb asks so much */

enum request_line_state {
    REQUEST_LINE_BEGUN,
    REQUEST_LINE_WHOLE,
    REQUEST_LINE_BAD, /* too long, or not of plain characters */
};

/* Zeroed before its first use. */
struct request_line {
    char text[REQUEST_LINE_SIZE]; /* of a whole one, without its line feed */
    size_t size;                  /* of what has come */
};

/* Where the next bytes go, and how many; at least one as long as the line is begun. */
char *request_line_room(struct request_line *line, size_t *room);
/* So many have been put there. What comes behind the line is not looked at. */
enum request_line_state request_line_take(struct request_line *line, size_t size);

#endif
