/* The script is what zsh loads for a command of that name: a specification of each option for
 * _arguments. */
#include <string.h>

#include "cli/completion_internal.h"

#define ESCAPED "[]:\\"

static void option_print(const struct repl_option *option, FILE *out)
{
    bool flag = option->kind == REPL_OPTION_FLAG;
    fprintf(out, " \\\n            '%s%s%s[", completion_dashes(option), option->name,
            flag                      ? ""
            : option->name[1] == '\0' ? "+"
                                      : "=");
    completion_sentence(option->help, ESCAPED, out);
    fputc(']', out);
    if (!flag) {
        fputc(':', out);
        completion_sentence(option->argument, ESCAPED, out);
        fputc(':', out);
        if (completion_has_words(option->argument)) {
            fputs("{compadd --", out);
            completion_words(option->argument, out);
            fputs(completion_is_path(option->argument) ? "; _files}" : "}", out);
        } else if (completion_is_path(option->argument)) {
            fputs("_files", out);
        }
    }
    fputc('\'', out);
}

static void verb_print(const struct repl_verb *verb, FILE *out)
{
    fprintf(out, "    %s)\n        _arguments -S '--help[Explains the verb]'", verb->name);
    for (const struct repl_option *option = verb->options; option->name != NULL; option++)
        option_print(option, out);
    if (strcmp(verb->name, "help") == 0)
        fputs(" \\\n            '*:verb:($names config)'", out);
    else if (completion_takes_file(verb))
        fputs(" \\\n            '*:file:_files'", out);
    else if (verb->positional_max > 0)
        fputs(" \\\n            '*:argument: '", out);
    fputs("\n        ;;\n", out);
}

void completion_zsh(const struct repl_verb *const *verbs, size_t count, FILE *out)
{
    fputs("#compdef repl\n"
          "# Completion of repl in zsh, as \"repl help --completion zsh\" prints it.\n"
          "_repl() {\n"
          "    local -a verbs names\n"
          "    verbs=(\n",
          out);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "        '%s:", verbs[i]->name);
        completion_sentence(verbs[i]->summary, ":\\", out);
        fputs("'\n", out);
    }
    fputs("    )\n"
          "    names=(${verbs%%:*})\n"
          "    if (( CURRENT == 2 )); then\n"
          "        _describe -t verbs verb verbs\n"
          "        compadd -- --help --version\n"
          "        return\n"
          "    fi\n"
          "    shift words\n"
          "    (( CURRENT-- ))\n"
          "    case ${words[1]} in\n",
          out);
    for (size_t i = 0; i < count; i++)
        verb_print(verbs[i], out);
    fputs("    esac\n"
          "}\n"
          "# loaded by zsh itself it is called at once, and else it is told\n"
          "if [ \"${funcstack[1]}\" = _repl ]; then\n"
          "    _repl \"$@\"\n"
          "else\n"
          "    compdef _repl repl\n"
          "fi\n",
          out);
}
