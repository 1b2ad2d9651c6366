/*
 * repl full: has the running agent send all of a volume once more, in segments
 * that need nothing of the history before them. A site that cannot open a segment
 * any more asks for it by itself where there is no replica that still holds what
 * it said; where there is one, the operator chooses the hour, as there are no
 * points meanwhile.
 */
#include <jansson.h>
#include <stdio.h>

#include "cli/verbs.h"
#include "config/config.h"
#include "control/control.h"

static const char *config_path = REPL_AGENT_CONFIG_PATH;

static repl_result full_ask(const char *volume, bool *begun, struct repl_error *err)
{
    struct repl_config *config;
    char request[128];
    json_t *answer = NULL;
    if (!repl_volume_name_valid(volume))
        return repl_fail(err, REPL_E_USAGE, "'%s' is not a volume's name", volume);
    REPL_TRY(repl_config_load(config_path, REPL_ROLE_AGENT, &config, err));
    snprintf(request, sizeof request, "full %s", volume);
    repl_result result = repl_control_ask(config->control, request, &answer, err);
    repl_config_free(config);
    *begun = json_is_true(json_object_get(answer, "begun"));
    json_decref(answer);
    return result;
}

static int full_run(int argc, char **argv)
{
    struct repl_error err;
    bool begun = false;
    (void)argc;
    if (!repl_ok(full_ask(argv[0], &begun, &err)))
        return repl_verb_fail("full", &err);
    printf("%s\n\"repl status\" shows how far it is; the next point comes when it is done.\n",
           begun ? "All of the volume is sent once more."
                 : "All of the volume is being sent already.");
    return REPL_EXIT_OK;
}

static const struct repl_option options[] = {
    {"config", "FILE", REPL_OPTION_TEXT, &config_path,
     "the configuration, " REPL_AGENT_CONFIG_PATH " if not given"},
    {0},
};

const struct repl_verb repl_verb_full = {
    .name = "full",
    .synopsis = "VOLUME [--config FILE]",
    .summary = "send all of a volume once more",
    .description =
        "On a protected host, whose agent runs: all of the volume is read and sent, and becomes a "
        "point that needs nothing of the history before it. That is what helps where a segment at "
        "the site cannot be opened any more, so that no point behind it restores. A site asks for "
        "it by itself unless a replica of the volume stands there; with a replica, which is "
        "as current as before, it waits to be told, as no point is cut until all has been read "
        "and is at the site. The points before stay as they are.\n"
        "\n"
        "Whole chunks of 64 KiB that the site holds go by name, so that less is sent than is read. "
        "An agent that is restarted goes on with it, unless it had not begun yet.",
    .options = options,
    .positional_min = 1,
    .positional_max = 1,
    .run = full_run,
};
