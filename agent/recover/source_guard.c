#include "recover/source_guard.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "config/config.h"

repl_result repl_source_guard(const struct repl_target *target, const char *config_path,
                              bool required, struct repl_error *err)
{
    struct repl_config *config = NULL;
    struct repl_error reason;
    if (!required && access(config_path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR))
        return REPL_SUCCESS;
    repl_result result = repl_config_load(config_path, REPL_ROLE_AGENT, &config, &reason);
    if (!repl_ok(result) && required)
        return repl_fail(err, reason.code, "%s", reason.text);
    if (!repl_ok(result) && target->is_device)
        return repl_fail(err, REPL_E_REFUSED,
                         "cannot tell whether this host protects %s: %s; mend the configuration, "
                         "or give --onto-source if the device may be overwritten in any case",
                         target->path, reason.text);
    if (!repl_ok(result)) {
        fprintf(stderr,
                "repl restore: cannot tell which devices this host protects, so make sure that %s "
                "is none of them: %s\n",
                target->path, reason.text);
        return REPL_SUCCESS;
    }
    for (size_t i = 0; repl_ok(result) && i < config->volume_count; i++) {
        const struct repl_config_volume *volume = &config->volumes[i];
        if (volume->device != NULL && repl_target_overlaps(target, volume->device))
            result = repl_fail(err, REPL_E_REFUSED,
                               "%s is, or overlaps, %s, which this host protects as volume %s: "
                               "restore somewhere else, or stop the agent and give --onto-source",
                               target->path, volume->device, volume->name);
    }
    repl_config_free(config);
    return result;
}
