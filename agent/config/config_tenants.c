#include <stdlib.h>
#include <string.h>

#include "config/config_table.h"

/* A volume that a key may write. */
struct written {
    const char *volume;
    const struct repl_config_peer *peer;
};

static bool writes(const struct repl_config_peer *peer)
{
    return !peer->recovery && !peer->revoked;
}

static bool tenants_differ(const struct repl_config_peer *a, const struct repl_config_peer *b)
{
    if (a->tenant == NULL || b->tenant == NULL)
        return a->tenant != b->tenant;
    return strcmp(a->tenant, b->tenant) != 0;
}

static repl_result refuse(const struct repl_config *config, const struct repl_config_peer *a,
                          const struct repl_config_peer *b, const char *volume,
                          struct repl_error *err)
{
    return repl_fail(err, REPL_E_USAGE,
                     "%s: [peer %s] and [peer %s] may both write %s%s, and are not of one tenant: "
                     "give both the same, or no volume in common",
                     config->path, a->name, b->name, volume != NULL ? "volume " : "all volumes",
                     volume != NULL ? volume : "");
}

static int written_order(const void *a, const void *b)
{
    return strcmp(((const struct written *)a)->volume, ((const struct written *)b)->volume);
}

/* Whoever may write any volume is of the tenant of all. */
static repl_result wildcards_check(const struct repl_config *config, struct repl_error *err)
{
    const struct repl_config_peer *all = NULL;
    for (size_t i = 0; i < config->peer_count && all == NULL; i++) {
        if (writes(&config->peers[i]) && config->peers[i].all_volumes)
            all = &config->peers[i];
    }
    for (size_t i = 0; i < config->peer_count && all != NULL; i++) {
        const struct repl_config_peer *peer = &config->peers[i];
        if (writes(peer) && tenants_differ(all, peer))
            return refuse(config, all, peer, peer->all_volumes ? NULL : peer->volumes[0], err);
    }
    return REPL_SUCCESS;
}

repl_result repl_config_check_tenants(const struct repl_config *config, struct repl_error *err)
{
    size_t count = 0;
    REPL_TRY(wildcards_check(config, err));
    for (size_t i = 0; i < config->peer_count; i++)
        count += config->peers[i].volume_count;
    struct written *all = calloc(count + 1, sizeof *all);
    if (all == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    count = 0;
    for (size_t i = 0; i < config->peer_count; i++) {
        const struct repl_config_peer *peer = &config->peers[i];
        for (size_t k = 0; writes(peer) && k < peer->volume_count; k++)
            all[count++] = (struct written){.volume = peer->volumes[k], .peer = peer};
    }
    qsort(all, count, sizeof *all, written_order);
    repl_result result = REPL_SUCCESS;
    for (size_t i = 1; i < count && repl_ok(result); i++) {
        if (written_order(&all[i - 1], &all[i]) == 0 &&
            tenants_differ(all[i - 1].peer, all[i].peer))
            result = refuse(config, all[i - 1].peer, all[i].peer, all[i].volume, err);
    }
    free(all);
    return result;
}
