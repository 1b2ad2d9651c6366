#include "cli/path_words.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "recover/tree_plan.h"

static char *path_text(const char *path, size_t size)
{
    char *text = malloc(size * 4 + 1);
    if (text != NULL)
        repl_tree_name_text(path, size, text);
    return text;
}

repl_result repl_path_print(FILE *out, const char *path, size_t size, struct repl_error *err)
{
    char *text = path_text(path, size);
    if (text == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a path");
    fputs(text, out);
    free(text);
    return REPL_SUCCESS;
}

static json_t *hex_json(const char *path, size_t size)
{
    char *text = malloc(size * 2 + 1);
    if (text == NULL)
        return NULL;
    for (size_t i = 0; i < size; i++)
        sprintf(text + i * 2, "%02x", (uint8_t)path[i]);
    json_t *json = json_stringn(text, size * 2);
    free(text);
    return json;
}

bool repl_path_json(json_t *object, const char *key, const char *path, size_t size)
{
    char hex_key[32];
    json_t *exact = json_stringn(path, size); /* NULL where it is not UTF-8 */
    if (exact != NULL)
        return json_object_set_new(object, key, exact) == 0;
    char *text = path_text(path, size);
    snprintf(hex_key, sizeof hex_key, "%s_hex", key);
    bool set = text != NULL && json_object_set_new(object, key, json_string(text)) == 0 &&
               json_object_set_new(object, hex_key, hex_json(path, size)) == 0;
    free(text);
    return set;
}

repl_result repl_output_end(struct repl_error *err)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return REPL_SUCCESS;
    return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                           "cannot write all of it to standard output");
}
