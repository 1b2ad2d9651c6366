/* The script is a list of what may come, each with the verb behind which it may. */
#include "cli/completion_internal.h"

#define ESCAPED "'\\"

static void option_print(const struct repl_verb *verb, const struct repl_option *option, FILE *out)
{
    fprintf(out, "complete -c repl -n '__repl_verb %s' -%c %s", verb->name,
            option->name[1] == '\0' ? 's' : 'l', option->name);
    if (option->kind != REPL_OPTION_FLAG)
        fputs(completion_is_path(option->argument) ? " -r -F" : " -x", out);
    if (option->kind != REPL_OPTION_FLAG && completion_has_words(option->argument)) {
        fputs(" -a '", out);
        completion_words(option->argument, out);
        fputc('\'', out);
    }
    fputs(" -d '", out);
    completion_sentence(option->help, ESCAPED, out);
    fputs("'\n", out);
}

static void verb_print(const struct repl_verb *verb, FILE *out)
{
    fprintf(out, "complete -c repl -n '__repl_verb' -a %s -d '", verb->name);
    completion_sentence(verb->summary, ESCAPED, out);
    fprintf(out, "'\ncomplete -c repl -n '__repl_verb %s' -l help -d 'Explains the verb'\n",
            verb->name);
    for (const struct repl_option *option = verb->options; option->name != NULL; option++)
        option_print(verb, option, out);
    if (completion_takes_file(verb))
        fprintf(out, "complete -c repl -n '__repl_verb %s' -F\n", verb->name);
}

void completion_fish(const struct repl_verb *const *verbs, size_t count, FILE *out)
{
    fputs("# Completion of repl in fish, as \"repl help --completion fish\" prints it.\n"
          "function __repl_verb # the verb, which is there; none: there is none yet\n"
          "    set -l before (commandline -opc)\n"
          "    if test (count $argv) -eq 0\n"
          "        test (count $before) -eq 1\n"
          "    else\n"
          "        test (count $before) -ge 2; and test $before[2] = $argv[1]\n"
          "    end\n"
          "end\n"
          "complete -c repl -f\n"
          "complete -c repl -n '__repl_verb' -l help -d 'Lists the verbs'\n"
          "complete -c repl -n '__repl_verb' -l version -d 'Prints the version'\n"
          "complete -c repl -n '__repl_verb help' -a 'config ",
          out);
    completion_verbs(verbs, count, out);
    fputs("'\n", out);
    for (size_t i = 0; i < count; i++)
        verb_print(verbs[i], out);
}
