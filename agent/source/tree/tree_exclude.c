#include "source/tree/tree_exclude.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

repl_result repl_tree_exclude_new(const char *patterns, struct repl_tree_exclude *out,
                                  struct repl_error *err)
{
    *out = (struct repl_tree_exclude){0};
    if (patterns == NULL)
        return REPL_SUCCESS;
    out->text = malloc(strlen(patterns) + 2);
    if (out->text == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for what is excluded");
    char *to = out->text;
    for (const char *p = patterns; *p != '\0';) {
        if (*p == ' ' || *p == '\t') {
            p++;
            continue;
        }
        const char *begin = to;
        for (; *p != '\0' && *p != ' ' && *p != '\t'; p++) {
            if (*p == '\\' && (p[1] == ' ' || p[1] == '\t'))
                p++;
            *to++ = *p;
        }
        *to++ = '\0';
        out->by_path = out->by_path || strchr(begin, '/') != NULL;
        out->count++;
    }
    return REPL_SUCCESS;
}

void repl_tree_exclude_fini(struct repl_tree_exclude *exclude)
{
    free(exclude->text);
    *exclude = (struct repl_tree_exclude){0};
}

static bool path_matches(const char *pattern, const char *directory, const char *name)
{
    size_t at = strlen(directory), size = strlen(name) + 1;
    char *path = malloc(at + size);
    if (path == NULL)
        return false; /* more is kept than was asked for */
    memcpy(path, directory, at);
    memcpy(path + at, name, size);
    bool matches = fnmatch(pattern + (pattern[0] == '/'), path, FNM_PATHNAME) == 0;
    free(path);
    return matches;
}

bool repl_tree_is_excluded(const struct repl_tree_exclude *exclude, const char *directory,
                           const char *name)
{
    const char *pattern = exclude->text;
    if (exclude->own != NULL && directory[0] == '\0' && strcmp(name, exclude->own) == 0)
        return true;
    for (size_t i = 0; i < exclude->count; i++, pattern += strlen(pattern) + 1) {
        bool by_path = strchr(pattern, '/') != NULL;
        if (by_path ? path_matches(pattern, directory, name) : fnmatch(pattern, name, 0) == 0)
            return true;
    }
    return false;
}
