/* The script has one function, to which bash gives the words of the line. */
#include "cli/completion_internal.h"

/* In which of the cases of "VERB OPTION" the value is. */
static void bash_value(const struct repl_verb *verb, const struct repl_option *option, FILE *out)
{
    if (option->kind == REPL_OPTION_FLAG)
        return;
    fprintf(out, "    '%s %s%s') ", verb->name, completion_dashes(option), option->name);
    if (completion_is_path(option->argument))
        fputs("paths=yes ", out);
    if (completion_has_words(option->argument)) {
        fputs("words='", out);
        completion_words(option->argument, out);
        fputs("' ", out);
    }
    fputs(";;\n", out);
}

static void bash_options(const struct repl_verb *verb, FILE *out)
{
    fprintf(out, "        %s) words='--help", verb->name);
    for (const struct repl_option *option = verb->options; option->name != NULL; option++)
        fprintf(out, " %s%s", completion_dashes(option), option->name);
    fputs("' ", out);
    if (completion_takes_file(verb))
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

void completion_bash(const struct repl_verb *const *verbs, size_t count, FILE *out)
{
    fputs(bash_begin, out);
    fputs("    if [ \"$COMP_CWORD\" = 1 ]; then\n        words='", out);
    completion_verbs(verbs, count, out);
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
    completion_verbs(verbs, count, out);
    fputs("'\n        ;;\n    esac\n    fi\n", out);
    fputs(bash_end, out);
}
