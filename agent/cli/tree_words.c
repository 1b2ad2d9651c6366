#include "cli/tree_words.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "recover/words.h"

void repl_tree_print_progress(void *context, const struct repl_tree_status *status)
{
    static const char *const phases[] = {"reading the tree", "writing", "verifying"};
    char bytes[REPL_WORDS_SIZE], rate[REPL_WORDS_SIZE];
    (void)context;
    double seconds = (double)status->elapsed_ns / 1e9;
    repl_words_bytes(status->bytes, bytes);
    repl_words_bytes((uint64_t)(seconds > 0 ? (double)status->bytes / seconds : 0), rate);
    fprintf(stderr, "\r%s", phases[status->phase]);
    if (status->phase != REPL_TREE_READING)
        fprintf(stderr, ": %" PRIu64 " of %" PRIu64 " files, %s, %s/s", status->done, status->total,
                bytes, rate);
    fputs("\033[K", stderr);
}

void repl_tree_print_fault(void *context, const char *path, const struct repl_error *err)
{
    fprintf(stderr, "%srepl %s: %s: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "",
            (const char *)context, path, err->text);
}

repl_result repl_tree_owner_parse(const char *text, struct repl_tree_options *options,
                                  struct repl_error *err)
{
    unsigned uid, gid;
    int end = -1;
    if (text == NULL || strcmp(text, "numeric") == 0)
        return REPL_SUCCESS;
    if (strcmp(text, "skip") == 0) {
        options->owner = REPL_TREE_OWNER_SKIP;
        return REPL_SUCCESS;
    }
    bool digits = strspn(text, "0123456789:") == strlen(text);
    if (!digits || strlen(text) > 21 || sscanf(text, "%10u:%10u%n", &uid, &gid, &end) != 2 ||
        text[end] != '\0')
        return repl_fail(err, REPL_E_USAGE, "--owner: numeric, skip, or UID:GID in numbers");
    options->owner = REPL_TREE_OWNER_GIVEN;
    options->uid = uid;
    options->gid = gid;
    return REPL_SUCCESS;
}

bool repl_tree_print_lacks(const char *verb, const struct repl_tree_result *result)
{
    static const char *const kinds[REPL_TREE_LACK_COUNT] = {
        [REPL_TREE_LACK_ATTRIBUTE] = "attributes that could not be set",
        [REPL_TREE_LACK_FLAGS] = "flags that could not be set",
        [REPL_TREE_LACK_PROJECT] = "projects that could not be set",
        [REPL_TREE_LACK_TIME] = "times that could not be kept exactly",
        [REPL_TREE_LACK_SETUID] = "set-user-ID or set-group-ID bits left out",
    };
    bool lacking = false;
    for (unsigned i = 0; i < REPL_TREE_LACK_COUNT; i++) {
        if (result->lacks[i].count == 0)
            continue;
        lacking = true;
        fprintf(stderr, "repl %s: %" PRIu64 " %s; the first: %s\n", verb, result->lacks[i].count,
                kinds[i], result->lacks[i].first);
    }
    return lacking;
}
