/*
 * What the operator of a site asks of names, as a line, on any text. A refusal must have words;
 * what is accepted must be the same when it is written and read again.
 */
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "control/mark_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct repl_mark_request request, again;
    struct repl_error err = {.text = ""};
    char line[REPL_MARK_REQUEST_SIZE];
    char *text = malloc(size + 1);
    ensure(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (!repl_ok(repl_mark_request_parse(text, &request, &err))) {
        ensure(err.text[0] != '\0');
    } else {
        repl_mark_request_write(&request, line);
        ensure(repl_ok(repl_mark_request_parse(line, &again, &err)));
        ensure(again.ticket == request.ticket && again.mark.kind == request.mark.kind &&
               again.mark.seq == request.mark.seq && strcmp(again.volume, request.volume) == 0 &&
               strcmp(again.mark.name, request.mark.name) == 0);
    }
    free(text);
    return 0;
}
