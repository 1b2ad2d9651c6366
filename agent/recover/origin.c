/*
 * Which origin a command line means: --store, else --site, else the site that
 * the agent's configuration names.
 */
#include "recover/origin.h"

#include <stdlib.h>

#include "config/config.h"

void repl_catalogue_fini(struct repl_catalogue *catalogue)
{
    free(catalogue->points);
    free(catalogue->segments);
    free(catalogue->supplies);
    free(catalogue->states);
    free(catalogue->marks);
    *catalogue = (struct repl_catalogue){0};
}

repl_result repl_origin_fetch(struct repl_origin *origin, uint64_t bytes, struct repl_error *err)
{
    if (origin->throttle != NULL)
        REPL_TRY(repl_throttle_wait(origin->throttle, bytes, err));
    atomic_fetch_add(&origin->fetched_bytes, bytes);
    return REPL_SUCCESS;
}

static repl_result check_options(const struct repl_origin_options *options, const char *volume,
                                 struct repl_error *err)
{
    if (!repl_volume_name_valid(volume))
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" cannot be the name of a volume: write it as in [volume NAME]",
                         volume);
    if (options->store != NULL &&
        (options->site != NULL || options->fingerprint != NULL || options->key != NULL))
        return repl_fail(err, REPL_E_USAGE,
                         "--store reads a store itself, --site, --fingerprint and --key are for a "
                         "site: give one or the other");
    if ((options->site == NULL) != (options->fingerprint == NULL))
        return repl_fail(err, REPL_E_USAGE,
                         "--site and --fingerprint go together: the fingerprint is what a site is "
                         "known by; \"repl keygen --show\" prints it there");
    if (options->site != NULL)
        REPL_TRY(repl_forward(repl_parse_address(options->site, 1, err), err, "--site"));
    return REPL_SUCCESS;
}

static repl_result open_site(const struct repl_origin_options *options,
                             const struct repl_config *config, const char *volume,
                             struct repl_origin **out, struct repl_error *err)
{
    struct repl_client_options client = {.address = options->site, .key_path = options->key};
    if (options->fingerprint != NULL)
        REPL_TRY(
            repl_forward(repl_fingerprint_parse(options->fingerprint, &client.fingerprint, err),
                         err, "--fingerprint"));
    if (options->site == NULL) {
        client.address = config->remote_address;
        client.fingerprint = config->remote_fingerprint;
    }
    if (options->key == NULL)
        client.key_path = config->key;
    return repl_origin_open_site(&client, volume, out, err);
}

/* How a bucket is reached says --config, where it is a site's; else the environment. */
static repl_result open_store(const struct repl_origin_options *options, const char *volume,
                              struct repl_origin **out, struct repl_error *err)
{
    struct repl_store_options store = {.location = options->store};
    struct repl_config *config = NULL;
    struct repl_s3_options s3;
    if (repl_store_is_bucket(options->store) && options->config != NULL) {
        REPL_TRY(repl_config_load(options->config, REPL_ROLE_SITE, &config, err));
        s3 = repl_config_s3(config);
        store.s3 = &s3;
    }
    repl_result result = repl_origin_open_store(&store, volume, out, err);
    repl_config_free(config);
    return result;
}

static repl_result open_any_site(const struct repl_origin_options *options, const char *volume,
                                 struct repl_origin **out, struct repl_error *err)
{
    struct repl_config *config = NULL;
    if (options->site == NULL || options->key == NULL) {
        const char *path = options->config != NULL ? options->config : REPL_AGENT_CONFIG_PATH;
        REPL_TRY(repl_forward(repl_config_load(path, REPL_ROLE_AGENT, &config, err), err,
                              "to find the site (or give --site, --fingerprint and --key, or "
                              "--store)"));
    }
    repl_result result = open_site(options, config, volume, out, err);
    repl_config_free(config);
    return result;
}

repl_result repl_origin_open(const struct repl_origin_options *options, const char *volume,
                             struct repl_origin **out, struct repl_error *err)
{
    REPL_TRY(check_options(options, volume, err));
    REPL_TRY(options->store != NULL ? open_store(options, volume, out, err)
                                    : open_any_site(options, volume, out, err));
    (*out)->throttle = options->throttle;
    return REPL_SUCCESS;
}
