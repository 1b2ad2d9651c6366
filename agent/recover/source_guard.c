#include "recover/source_guard.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"

static bool file_is_missing(const char *path)
{
    return access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR);
}

/* For a configuration that cannot be read: a device is refused, a file let through. does: what
 * this host may do with the target; unless: how it is overwritten in any case. */
static repl_result unknown(const struct repl_target *target, const struct repl_error *reason,
                           const char *does, const char *unless, struct repl_error *err)
{
    if (target->is_device)
        return repl_fail(err, REPL_E_REFUSED,
                         "cannot tell whether this host %s %s: %s; mend the configuration, or %s",
                         does, target->path, reason->text, unless);
    fprintf(stderr,
            "repl restore: cannot tell which devices this host %s, so make sure that %s is none of "
            "them: %s\n",
            does, target->path, reason->text);
    return REPL_SUCCESS;
}

repl_result repl_source_guard(const struct repl_target *target, const char *config_path,
                              bool required, struct repl_error *err)
{
    struct repl_config *config = NULL;
    struct repl_error reason;
    if (!required && file_is_missing(config_path))
        return REPL_SUCCESS;
    repl_result result = repl_config_load(config_path, REPL_ROLE_AGENT, &config, &reason);
    if (!repl_ok(result) && required)
        return repl_fail(err, reason.code, "%s", reason.text);
    if (!repl_ok(result))
        return unknown(target, &reason, "protects",
                       "give --onto-source if the device may be overwritten in any case", err);
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

static repl_result check_replicas(const struct repl_target *target,
                                  const struct repl_config *config, struct repl_error *err)
{
    for (size_t i = 0; i < config->volume_count; i++) {
        const struct repl_config_volume *volume = &config->volumes[i];
        if (volume->replica != NULL && volume->replica[0] == '/' &&
            repl_target_overlaps(target, volume->replica))
            return repl_fail(err, REPL_E_REFUSED,
                             "%s is, or overlaps, %s, the replica of volume %s at this site, which "
                             "is not to be written by anybody else: restore somewhere else, or "
                             "name another replica in [volume %s] of %s first and restart the site",
                             target->path, volume->replica, volume->name, volume->name,
                             config->path);
    }
    return REPL_SUCCESS;
}

repl_result repl_replica_guard(const struct repl_target *target, const char *config_path,
                               struct repl_error *err)
{
    struct repl_config *config = NULL;
    struct repl_error reason;
    if (file_is_missing(config_path))
        return REPL_SUCCESS;
    if (!repl_ok(repl_config_load(config_path, REPL_ROLE_SITE, &config, &reason)))
        return unknown(target, &reason, "keeps a replica on",
                       "move it away if this host is no site", err);
    repl_result result = check_replicas(target, config, err);
    if (repl_ok(result))
        result = repl_store_guard(target, config->store, err);
    repl_config_free(config);
    return result;
}

repl_result repl_store_guard(const struct repl_target *target, const char *store,
                             struct repl_error *err)
{
    char *resolved = store != NULL ? realpath(store, NULL) : NULL;
    size_t size = resolved != NULL ? strlen(resolved) : 0;
    bool inside = resolved != NULL && !target->is_device &&
                  strncmp(target->resolved, resolved, size) == 0 && target->resolved[size] == '/';
    free(resolved);
    if (inside)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s lies in the store itself: name a file somewhere else", target->path);
    return REPL_SUCCESS;
}

/* Without symbolic links; the caller frees it. What does not exist yet is in a directory that does.
 * NULL: neither exists. */
static char *path_resolve(const char *path)
{
    char *whole = realpath(path, NULL), *copy = strdup(path), *name = strdup(path), *result = NULL;
    char *parent = whole == NULL && copy != NULL ? realpath(dirname(copy), NULL) : NULL;
    if (parent != NULL && name != NULL &&
        asprintf(&result, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, basename(name)) < 0)
        result = NULL;
    free(parent);
    free(name);
    free(copy);
    return whole != NULL ? whole : result;
}

/* Whether inner is outer, or below it. */
static bool lies_in(const char *inner, const char *outer)
{
    size_t size = strcmp(outer, "/") == 0 ? 0 : strlen(outer);
    return strncmp(inner, outer, size) == 0 && (inner[size] == '/' || inner[size] == '\0');
}

repl_result repl_directory_guard(const char *to, const char *const *paths, size_t count,
                                 const char *what, const char *unless, struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    char *directory = path_resolve(to);
    for (size_t i = 0; directory != NULL && repl_ok(result) && i < count; i++) {
        char *other = realpath(paths[i], NULL);
        if (other != NULL && (lies_in(directory, other) || lies_in(other, directory)))
            result = repl_fail(err, REPL_E_REFUSED, "%s is, holds, or lies in %s, %s: %s", to,
                               paths[i], what, unless);
        free(other);
    }
    free(directory);
    return result;
}

repl_result repl_directory_source_guard(const char *to, const char *config_path, bool required,
                                        struct repl_error *err)
{
    struct repl_config *config = NULL;
    struct repl_error reason;
    if (!required && file_is_missing(config_path))
        return REPL_SUCCESS;
    if (!repl_ok(repl_config_load(config_path, REPL_ROLE_AGENT, &config, &reason)))
        return repl_fail(err, reason.code,
                         "cannot tell which directories this host protects, and so whether %s is "
                         "one: %s; give --onto-source if it may be changed in any case",
                         to, reason.text);
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; repl_ok(result) && i < config->volume_count; i++) {
        const char *path = config->volumes[i].path;
        if (path != NULL)
            result = repl_directory_guard(to, &path, 1, "which this host protects",
                                          "restore somewhere else, or give --onto-source to bring "
                                          "it back in its place",
                                          err);
    }
    repl_config_free(config);
    return result;
}

repl_result repl_directory_site_guard(const char *to, const char *config_path,
                                      struct repl_error *err)
{
    static const char unless[] = "restore somewhere else";
    struct repl_config *config = NULL;
    struct repl_error reason;
    if (file_is_missing(config_path))
        return REPL_SUCCESS;
    if (!repl_ok(repl_config_load(config_path, REPL_ROLE_SITE, &config, &reason))) {
        fprintf(stderr,
                "repl restore: cannot tell where this host's site keeps its store, so make sure "
                "that it is not in %s: %s\n",
                to, reason.text);
        return REPL_SUCCESS;
    }
    repl_result result = repl_directory_guard(to, (const char *const[]){config->store}, 1,
                                              "the store of this host's site", unless, err);
    for (size_t i = 0; repl_ok(result) && i < config->volume_count; i++) {
        const char *replica = config->volumes[i].replica;
        if (replica != NULL && replica[0] == '/')
            result =
                repl_directory_guard(to, &replica, 1, "a replica at this host's site", unless, err);
    }
    repl_config_free(config);
    return result;
}

static bool loads_as(const char *path, enum repl_role role)
{
    struct repl_config *config = NULL;
    bool loads = repl_ok(repl_config_load(path, role, &config, NULL));
    repl_config_free(config);
    return loads;
}

bool repl_config_is_of_site(const char *path)
{
    return loads_as(path, REPL_ROLE_SITE) && !loads_as(path, REPL_ROLE_AGENT);
}
