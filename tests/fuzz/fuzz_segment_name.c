/* Names of segments, as files and as paths have them: what is taken is what would be written. */
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "store/segment_name.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct repl_segment_id id;
    char name[REPL_SEGMENT_NAME_SIZE], text[REPL_SEGMENT_ID_TEXT_SIZE];
    char *input = malloc(size + 1);
    ensure(input != NULL);
    if (size > 0)
        memcpy(input, data, size);
    input[size] = '\0';
    if (repl_segment_name_parse(input, &id)) {
        repl_segment_name_format(&id, name);
        ensure(strcmp(name, input) == 0);
    }
    if (repl_segment_id_parse(input, &id)) {
        repl_segment_id_text(&id, text);
        ensure(strcmp(text, input) == 0);
    }
    free(input);
    return 0;
}
