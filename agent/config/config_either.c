#include <string.h>

#include "config/config.h"

repl_result repl_config_load_either(const char *path, struct repl_config **out,
                                    struct repl_error *err)
{
    struct repl_error site_err;
    repl_result result = repl_config_load(path, REPL_ROLE_AGENT, out, err);
    if (repl_ok(result) || repl_ok(repl_config_load(path, REPL_ROLE_SITE, out, &site_err)))
        return REPL_SUCCESS;
    if (strstr(path, "site") != NULL)
        *err = site_err;
    return (repl_result){err->code};
}
