#include "cli/verbs.h"
#include "config/config.h"
#include "source/freeze/guard.h"

static const char *config_path = REPL_AGENT_CONFIG_PATH;

static int guard_run(int argc, char **argv)
{
    struct repl_config *config;
    struct repl_error err;
    (void)argc;
    (void)argv;
    if (!repl_ok(repl_config_load(config_path, REPL_ROLE_AGENT, &config, &err)))
        return repl_verb_fail("guard", &err);
    const struct repl_freeze_protected protects[] = {
        {config->state, "the agent's state and spool"},
        {config->control, "the agent's control socket"},
    };
    const struct repl_guard_options options = {
        .socket_path = config->guard,
        .protects = protects,
        .protect_count = sizeof protects / sizeof protects[0],
    };
    repl_result result = repl_guard_run(&options, &err);
    repl_config_free(config);
    return repl_ok(result) ? REPL_EXIT_OK : repl_verb_fail("guard", &err);
}

static const struct repl_option options_table[] = {
    {"config", "FILE", REPL_OPTION_TEXT, &config_path,
     "the agent's configuration, " REPL_AGENT_CONFIG_PATH " if not given"},
    {0},
};

const struct repl_verb repl_verb_guard = {
    .name = "guard",
    .synopsis = "[--config FILE]",
    .summary = "freeze filesystems on behalf of the agent",
    .description =
        "Runs in the foreground until SIGTERM. Freezes a volume's filesystems and runs its "
        "commands when the agent asks for it, and thaws them when the agent is done, dies, or "
        "takes longer than the volume's freeze_budget. What somebody else froze is left alone. "
        "Meant to be run by systemd (repl-guard.service); only needed where a volume's quiesce is "
        "not \"window\". A changed state or guard option takes a restart of both services.",
    .options = options_table,
    .run = guard_run,
};
