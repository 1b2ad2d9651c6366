#include "cli/verbs.h"
#include "config/config.h"
#include "source/source.h"

static const char *config_path = REPL_AGENT_CONFIG_PATH;

static int agent_run(int argc, char **argv)
{
    struct repl_config *config;
    struct repl_error err;
    (void)argc;
    (void)argv;
    if (!repl_ok(repl_config_load(config_path, REPL_ROLE_AGENT, &config, &err)))
        return repl_verb_fail("agent", &err);
    repl_result result = repl_source_run(config, &err);
    repl_config_free(config);
    return repl_ok(result) ? REPL_EXIT_OK : repl_verb_fail("agent", &err);
}

static const struct repl_option options[] = {
    {"config", "FILE", REPL_OPTION_TEXT, &config_path,
     "the configuration, " REPL_AGENT_CONFIG_PATH " if not given"},
    {0},
};

const struct repl_verb repl_verb_agent = {
    .name = "agent",
    .synopsis = "[--config FILE]",
    .summary = "protect this host's volumes",
    .description =
        "Runs in the foreground until SIGTERM: follows the volumes of the configuration and sends "
        "their changes to the site. It can be killed and started again at any time; what it has "
        "to know is on disk. Meant to be run by systemd (repl-agent.service).",
    .options = options,
    .run = agent_run,
};
