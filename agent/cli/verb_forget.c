#include <stdio.h>
#include <unistd.h>

#include "cli/verbs.h"
#include "config/config.h"
#include "source/capture/tracker.h"
#include "source/state_dir.h"

static const char *config_path = REPL_AGENT_CONFIG_PATH;
static bool resync;

/* The tracking first: without the state nobody knows any more which is the volume's. */
static repl_result volume_remove(const char *state, const char *volume, struct repl_error *err)
{
    struct repl_source_state found;
    repl_result result = repl_state_dir_look(state, volume, &found, err);
    if (repl_ok(result))
        REPL_TRY(repl_tracker_forget(&found.volume, err));
    else if (result.code == REPL_E_CORRUPT)
        fprintf(stderr,
                "repl forget: %s: if its writes are tracked, that goes on until the next reboot\n",
                err->text);
    return repl_state_dir_remove(state, volume, err);
}

/* What the site is believed to hold, and that all changes since are known. */
static repl_result belief_remove(const char *state, const char *volume, struct repl_error *err)
{
    struct repl_source_state found;
    REPL_TRY(repl_state_dir_look(state, volume, &found, err));
    REPL_TRY(repl_tracker_forget(&found.volume, err));
    return repl_state_dir_forget_digests(state, volume, err);
}

static repl_result forget(const struct repl_config *config, const char *volume,
                          struct repl_error *err)
{
    int lock_fd;
    if (!repl_volume_name_valid(volume))
        return repl_fail(err, REPL_E_USAGE, "'%s' is not a volume's name", volume);
    REPL_TRY(repl_forward(repl_state_lock(config->state, &lock_fd, err), err,
                          "stop the agent first (systemctl stop repl-agent)"));
    repl_result result = resync ? belief_remove(config->state, volume, err)
                                : volume_remove(config->state, volume, err);
    close(lock_fd);
    return result;
}

static int forget_run(int argc, char **argv)
{
    struct repl_config *config;
    struct repl_error err;
    (void)argc;
    if (!repl_ok(repl_config_load(config_path, REPL_ROLE_AGENT, &config, &err)))
        return repl_verb_fail("forget", &err);
    repl_result result = forget(config, argv[0], &err);
    repl_config_free(config);
    if (!repl_ok(result))
        return repl_verb_fail("forget", &err);
    if (resync) {
        printf(
            "Volume %s is read and sent as a whole when the agent starts again. Its history goes "
            "on.\n",
            argv[0]);
        return REPL_EXIT_OK;
    }
    printf("Forgot volume %s on this host. Its history at the site is untouched.\n"
           "To protect the device again, give the volume another name.\n",
           argv[0]);
    return REPL_EXIT_OK;
}

static const struct repl_option options[] = {
    {"config", "FILE", REPL_OPTION_TEXT, &config_path,
     "the configuration, " REPL_AGENT_CONFIG_PATH " if not given"},
    {"resync", NULL, REPL_OPTION_FLAG, &resync,
     "Forgets only what the site is believed to hold: the volume stays the same one, and all of it "
     "is read and sent once more."},
    {0},
};

const struct repl_verb repl_verb_forget = {
    .name = "forget",
    .synopsis = "VOLUME [--resync] [--config FILE]",
    .summary = "remove what this host keeps of a volume",
    .description = "Ends the tracking of writes to the volume's device, and removes its state, "
                   "digests and spool from this host. The agent must be stopped. The history at "
                   "the site stays as it is, and belongs to the volume "
                   "as it was: protecting the device again begins a new volume under a new name.\n"
                   "\n"
                   "With --resync, only the tracking and the digests go: for a replica that \"repl "
                   "verify --source\" has found to differ from its source. The next start of the "
                   "agent brings a point that is made by comparison; the points before it stay. "
                   "Whole chunks of 64 KiB that the site holds already go by name.",
    .options = options,
    .positional_min = 1,
    .positional_max = 1,
    .run = forget_run,
};
