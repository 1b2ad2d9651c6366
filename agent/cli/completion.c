/*
 * What the argument of an option may be is read off its name in the table: FILE and DIR are paths,
 * and of "numeric|skip|UID:GID" what is in small letters is a word that is written as it stands.
 * All else (a time, a number) is left to who writes it: no path is offered for it.
 */
#include "cli/completion.h"

#include <string.h>

static const char small_letters[] = "abcdefghijklmnopqrstuvwxyz-";

/* Calls each for the parts of "FILE|DIR". */
static size_t next_part(const char **rest)
{
    *rest += **rest == '|';
    return strcspn(*rest, "|");
}

static bool is_path(const char *argument)
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

static bool has_words(const char *argument)
{
    for (size_t size; *argument != '\0'; argument += size) {
        size = next_part(&argument);
        if (size > 0 && strspn(argument, small_letters) >= size)
            return true;
    }
    return false;
}

static void print_words(const char *argument, FILE *out)
{
    for (size_t size; *argument != '\0'; argument += size) {
        size = next_part(&argument);
        if (size > 0 && strspn(argument, small_letters) >= size)
            fprintf(out, " %.*s", (int)size, argument);
    }
}

static const char *dashes(const struct repl_option *option)
{
    return option->name[1] == '\0' ? "-" : "--";
}

static void print_verbs(const struct repl_verb *const *verbs, size_t count, FILE *out)
{
    for (size_t i = 0; i < count; i++)
        fprintf(out, "%s ", verbs[i]->name);
}

/* The last word of the synopsis is a file: of "inspect [--records] FILE". */
static bool takes_file(const struct repl_verb *verb)
{
    static const char word[] = " FILE";
    size_t size = strlen(verb->synopsis);
    return verb->positional_max > 0 && size >= sizeof word - 1 &&
           strcmp(verb->synopsis + size - (sizeof word - 1), word) == 0;
}

/* --- bash ------------------------------------------------------------------------------------ */

/* In which of the cases of "VERB OPTION" the value is. */
static void bash_value(const struct repl_verb *verb, const struct repl_option *option, FILE *out)
{
    if (option->kind == REPL_OPTION_FLAG)
        return;
    fprintf(out, "    '%s %s%s') ", verb->name, dashes(option), option->name);
    if (is_path(option->argument))
        fputs("paths=yes ", out);
    if (has_words(option->argument)) {
        fputs("words='", out);
        print_words(option->argument, out);
        fputs("' ", out);
    }
    fputs(";;\n", out);
}

static void bash_options(const struct repl_verb *verb, FILE *out)
{
    fprintf(out, "        %s) words='--help", verb->name);
    for (const struct repl_option *option = verb->options; option->name != NULL; option++)
        fprintf(out, " %s%s", dashes(option), option->name);
    fputs("' ", out);
    if (takes_file(verb))
        fputs("paths=yes ", out);
    fputs(";;\n", out);
}

/* Where a path is looked for too, options are only offered to who has begun one. */
static const char bash_begin[] =
    "# Completion of repl in bash, as \"repl help --completion bash\" prints it.\n"
    "_repl() {\n"
    "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
    "    local verb=${COMP_WORDS[1]} words= paths= line\n"
    "    COMPREPLY=()\n"
    "    # \"--name=value\" comes in three words\n"
    "    if [ \"$word\" = = ]; then\n"
    "        word=\n"
    "    elif [ \"$before\" = = ]; then\n"
    "        before=${COMP_WORDS[COMP_CWORD-2]}\n"
    "    fi\n";

static const char bash_end[] = "    if [ -n \"$paths\" ] && [[ $word != -* ]]; then\n"
                               "        compopt -o filenames 2>/dev/null\n"
                               "        while IFS= read -r line; do COMPREPLY+=(\"$line\"); done < "
                               "<(compgen -f -- \"$word\")\n"
                               "    else\n"
                               "        while IFS= read -r line; do COMPREPLY+=(\"$line\"); done "
                               "< <(compgen -W \"$words\" -- \"$word\")\n"
                               "    fi\n"
                               "}\n"
                               "complete -F _repl repl\n";

static void bash_print(const struct repl_verb *const *verbs, size_t count, FILE *out)
{
    fputs(bash_begin, out);
    fputs("    if [ \"$COMP_CWORD\" = 1 ]; then\n        words='", out);
    print_verbs(verbs, count, out);
    fputs("--help --version'\n    else\n    case \"$verb $before\" in\n", out);
    for (size_t i = 0; i < count; i++) {
        for (const struct repl_option *option = verbs[i]->options; option->name != NULL; option++)
            bash_value(verbs[i], option, out);
    }
    fputs("    *)\n        case $verb in\n", out);
    for (size_t i = 0; i < count; i++)
        bash_options(verbs[i], out);
    fputs("        esac\n"
          "        [ \"$verb\" != help ] || words+=' config ",
          out);
    print_verbs(verbs, count, out);
    fputs("'\n        ;;\n    esac\n    fi\n", out);
    fputs(bash_end, out);
}

repl_result repl_completion_print(const char *shell, const struct repl_verb *const *verbs,
                                  size_t count, FILE *out, struct repl_error *err)
{
    if (strcmp(shell, "bash") != 0)
        return repl_fail(err, REPL_E_USAGE,
                         "--completion: there is none for \"%s\", only for " REPL_COMPLETION_SHELLS,
                         shell);
    bash_print(verbs, count, out);
    return REPL_SUCCESS;
}
