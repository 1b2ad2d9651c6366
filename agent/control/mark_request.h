/*
 * What the operator of a site asks of names of points, as a line over the
 * control socket (control.h):
 *
 *   mark VOLUME KIND SEQ NAME    KIND as in enum repl_mark_kind; the name's bytes in
 *                                hexadecimal, as a line is of plain characters; of
 *                                none, which is for PROVEN alone, "-"
 *   marked TICKET
 *
 * The first is answered with {"ticket": N}; the second with {"done": false}, with
 * {"done": true}, or with the error that it has ended in.
 */
#ifndef REPL_AGENT_MARK_REQUEST_H
#define REPL_AGENT_MARK_REQUEST_H

#include "format/log_record.h"
#include "repl/error.h"

#define REPL_MARK_REQUEST_SIZE 320u /* with its NUL */

struct repl_mark_request {
    uint64_t ticket; /* 0: it is a "mark", with what follows */
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_log_mark mark;
};

void repl_mark_request_write(const struct repl_mark_request *request,
                             char line[REPL_MARK_REQUEST_SIZE]);
/* REPL_E_USAGE: it is none. */
REPL_RESULT repl_mark_request_parse(const char *line, struct repl_mark_request *out,
                                    struct repl_error *err);

#endif
