/*
 * What the argument of an option may be is read off its name in the table: FILE and DIR are paths,
 * and of "numeric|skip|UID:GID" what is in small letters is a word that is written as it stands.
 * All else (a time, a number) is left to who writes it: no path is offered for it.
 */
#include <string.h>

#include "cli/completion_internal.h"

static const char small_letters[] = "abcdefghijklmnopqrstuvwxyz-";

/* Calls each for the parts of "FILE|DIR". */
static size_t next_part(const char **rest)
{
    *rest += **rest == '|';
    return strcspn(*rest, "|");
}

bool completion_is_path(const char *argument)
{
    static const char *const names[] = {"FILE", "DIR", "DEVICE", "PATH"};
    for (size_t size; *argument != '\0'; argument += size) {
        size = next_part(&argument);
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            if (size == strlen(names[i]) && memcmp(argument, names[i], size) == 0)
                return true;
        }
    }
    return false;
}

bool completion_has_words(const char *argument)
{
    for (size_t size; *argument != '\0'; argument += size) {
        size = next_part(&argument);
        if (size > 0 && strspn(argument, small_letters) >= size)
            return true;
    }
    return false;
}

void completion_words(const char *argument, FILE *out)
{
    for (size_t size; *argument != '\0'; argument += size) {
        size = next_part(&argument);
        if (size > 0 && strspn(argument, small_letters) >= size)
            fprintf(out, " %.*s", (int)size, argument);
    }
}

void completion_sentence(const char *text, const char *escaped, FILE *out)
{
    for (; *text != '\0'; text++) {
        if (*text == '.' && (text[1] == ' ' || text[1] == '\0'))
            return;
        if (*text == '\'' && strchr(escaped, '\'') == NULL) {
            fputs("'\\''", out); /* ends the quotes, and begins them again */
            continue;
        }
        if (strchr(escaped, *text) != NULL)
            fputc('\\', out);
        fputc(*text, out);
    }
}

const char *completion_dashes(const struct repl_option *option)
{
    return option->name[1] == '\0' ? "-" : "--";
}

void completion_verbs(const struct repl_verb *const *verbs, size_t count, FILE *out)
{
    for (size_t i = 0; i < count; i++)
        fprintf(out, "%s ", verbs[i]->name);
}

/* The last word of the synopsis is a file: of "inspect [--records] FILE". */
bool completion_takes_file(const struct repl_verb *verb)
{
    static const char word[] = " FILE";
    size_t size = strlen(verb->synopsis);
    return verb->positional_max > 0 && size >= sizeof word - 1 &&
           strcmp(verb->synopsis + size - (sizeof word - 1), word) == 0;
}

repl_result repl_completion_print(const char *shell, const struct repl_verb *const *verbs,
                                  size_t count, FILE *out, struct repl_error *err)
{
    static const struct {
        const char *shell;
        completion_print_fn *print;
    } shells[] = {{"bash", completion_bash}, {"zsh", completion_zsh}, {"fish", completion_fish}};
    for (size_t i = 0; i < sizeof shells / sizeof shells[0]; i++) {
        if (strcmp(shell, shells[i].shell) != 0)
            continue;
        shells[i].print(verbs, count, out);
        return REPL_SUCCESS;
    }
    return repl_fail(err, REPL_E_USAGE,
                     "--completion: there is none for \"%s\", only for " REPL_COMPLETION_SHELLS,
                     shell);
}
