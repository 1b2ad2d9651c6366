/*
 * The configuration parser on any bytes, for both roles. A refusal must carry a
 * message; an accepted file must be one that the finders agree with.
 */
#include <stdint.h>

#include "base/ensure.h"
#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse_as(enum repl_role role, const uint8_t *data, size_t size)
{
    struct repl_config *config = NULL;
    struct repl_error err = {0};
    if (!repl_ok(repl_config_parse((const char *)data, size, "fuzz.conf", role, &config, &err))) {
        ensure(config == NULL);
        ensure(err.text[0] != '\0');
        return;
    }
    for (size_t i = 0; i < config->volume_count; i++)
        ensure(repl_config_find_volume(config, config->volumes[i].name) == &config->volumes[i]);
    for (size_t i = 0; i < config->peer_count; i++) {
        const struct repl_config_peer *peer = &config->peers[i];
        ensure(repl_config_find_peer(config, &peer->fingerprint) == peer);
        ensure(peer->all_volumes == (peer->volume_count == 0));
    }
    repl_config_free(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse_as(REPL_ROLE_AGENT, data, size);
    parse_as(REPL_ROLE_SITE, data, size);
    return 0;
}
