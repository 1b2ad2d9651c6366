/*
 * From a value as it was written to the field it belongs in.
 *
 * One function for each type of the table; each checks the table's bounds, and
 * leaves one sentence about the value when it refuses. Where the value stands
 * (file, line, section and key) the parser puts before it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "config/config_table.h"
#include "journal/retention.h"
#include "link/keys.h"
#include "store/store.h"

static repl_result out_of_memory(struct repl_error *err)
{
    return repl_fail(err, REPL_E_NOMEM, "out of memory for a value");
}

/* Replaces *field, which may be NULL, by a copy. */
static repl_result store_text(char **field, const char *value, struct repl_error *err)
{
    char *copy = strdup(value);
    if (copy == NULL)
        return out_of_memory(err);
    free(*field);
    *field = copy;
    return REPL_SUCCESS;
}

static repl_result out_of_range(const struct repl_config_option *option, const char *value,
                                struct repl_error *err)
{
    char range[80] = "";
    FILE *text = fmemopen(range, sizeof range, "w");
    if (text == NULL)
        return out_of_memory(err);
    repl_config_print_range(text, option);
    fclose(text);
    return repl_fail(err, REPL_E_USAGE, "\"%s\" is out of range: write %s", value, range);
}

static repl_result store_path(const struct repl_config_option *option, char **field,
                              const char *value, struct repl_error *err)
{
    if (value[0] != '/')
        return repl_fail(err, REPL_E_USAGE, "\"%s\" is not an absolute path: begin it with /",
                         value);
    if (strlen(value) > option->max)
        return out_of_range(option, value, err);
    return store_text(field, value, err);
}

static repl_result store_location(const struct repl_config_option *option, char **field,
                                  const char *value, struct repl_error *err)
{
    if (!repl_store_is_bucket(value))
        return store_path(option, field, value, err);
    if (strlen(value) > option->max)
        return out_of_range(option, value, err);
    return store_text(field, value, err);
}

static repl_result store_retention(char **field, const char *value, struct repl_error *err)
{
    struct repl_retention policy;
    if (strcmp(value, REPL_RETENTION_EVERYTHING) != 0)
        REPL_TRY(repl_retention_parse(value, &policy, err));
    return store_text(field, value, err);
}

static repl_result store_url(const struct repl_config_option *option, char **field,
                             const char *value, struct repl_error *err)
{
    const char *host = strncmp(value, "https://", 8) == 0  ? value + 8
                       : strncmp(value, "http://", 7) == 0 ? value + 7
                                                           : "";
    if (host[strcspn(host, "/?#@ ")] != '\0' || host[0] == '\0')
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is not the address of a service: write https://HOST, with :PORT "
                         "where it needs one, and nothing behind it",
                         value);
    if (strlen(value) > option->max)
        return out_of_range(option, value, err);
    return store_text(field, value, err);
}

static repl_result store_word(const struct repl_config_option *option, char **field,
                              const char *value, struct repl_error *err)
{
    for (const char *c = value; *c != '\0'; c++) {
        if (*c <= ' ' || *c > '~')
            return repl_fail(err, REPL_E_USAGE, "\"%s\" has a blank or an unprintable byte in it",
                             value);
    }
    if (strlen(value) > option->max)
        return out_of_range(option, value, err);
    return store_text(field, value, err);
}

static repl_result store_replica(const struct repl_config_option *option, char **field,
                                 const char *value, struct repl_error *err)
{
    if (strcmp(value, "image") == 0 || strcmp(value, "none") == 0)
        return store_text(field, value, err);
    if (value[0] != '/')
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is no replica: write image, none, or the absolute path of a "
                         "device, file or directory",
                         value);
    return store_path(option, field, value, err);
}

static repl_result store_address(const struct repl_config_option *option, char **field,
                                 const char *value, struct repl_error *err)
{
    REPL_TRY(repl_parse_address(value, (unsigned)option->min, err));
    return store_text(field, value, err);
}

static repl_result store_size(const struct repl_config_option *option, uint64_t *field,
                              const char *value, struct repl_error *err)
{
    REPL_TRY(repl_parse_size(value, field, err));
    if (*field < option->min || *field > option->max)
        return out_of_range(option, value, err);
    return REPL_SUCCESS;
}

static repl_result store_reserve(const struct repl_config_option *option, uint64_t *field,
                                 const char *value, struct repl_error *err)
{
    if (strcmp(value, "auto") != 0)
        return store_size(option, field, value, err);
    *field = REPL_CONFIG_RESERVE_AUTO;
    return REPL_SUCCESS;
}

static repl_result store_duration(const struct repl_config_option *option, int64_t *field,
                                  const char *value, struct repl_error *err)
{
    REPL_TRY(repl_parse_duration(value, field, err));
    if ((uint64_t)*field < option->min || (uint64_t)*field > option->max)
        return out_of_range(option, value, err);
    return REPL_SUCCESS;
}

static repl_result store_count(const struct repl_config_option *option, unsigned *field,
                               const char *value, struct repl_error *err)
{
    uint64_t count = 0;
    REPL_TRY(repl_parse_count(value, &count, err));
    if (count < option->min || count > option->max)
        return out_of_range(option, value, err);
    *field = (unsigned)count;
    return REPL_SUCCESS;
}

static repl_result store_compression(const struct repl_config_option *option, unsigned *field,
                                     const char *value, struct repl_error *err)
{
    uint64_t level = 0;
    if (strcmp(value, "auto") == 0) {
        *field = 0;
        return REPL_SUCCESS;
    }
    if (!repl_ok(repl_parse_count(value, &level, NULL)) || level < option->min ||
        level > option->max)
        return out_of_range(option, value, err);
    *field = (unsigned)level;
    return REPL_SUCCESS;
}

static repl_result store_choice(bool *field, const char *value, const char *yes, const char *no,
                                struct repl_error *err)
{
    *field = strcmp(value, yes) == 0;
    if (!*field && strcmp(value, no) != 0)
        return repl_fail(err, REPL_E_USAGE, "\"%s\" is neither: write %s or %s", value, yes, no);
    return REPL_SUCCESS;
}

static repl_result store_kind(enum repl_volume_kind *field, const char *value,
                              struct repl_error *err)
{
    *field = strcmp(value, "tree") == 0 ? REPL_VOLUME_TREE : REPL_VOLUME_BLOCK;
    if (*field == REPL_VOLUME_BLOCK && strcmp(value, "block") != 0)
        return repl_fail(err, REPL_E_USAGE, "\"%s\" is neither: write block or tree", value);
    return REPL_SUCCESS;
}

static repl_result store_quiesce(enum repl_quiesce *field, const char *value,
                                 struct repl_error *err)
{
    static const char *const words[] = {
        [REPL_QUIESCE_WINDOW] = "window",
        [REPL_QUIESCE_WINDOW_ELSE_FREEZE] = "window-else-freeze",
        [REPL_QUIESCE_FREEZE] = "freeze",
        [REPL_QUIESCE_COMMAND] = "command",
        [REPL_QUIESCE_WINDOW_ELSE_SNAPSHOT] = "window-else-snapshot",
        [REPL_QUIESCE_SNAPSHOT] = "snapshot",
        [REPL_QUIESCE_WINDOW_ELSE_FILES] = "window-else-files",
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(value, words[i]) == 0) {
            *field = (enum repl_quiesce)i;
            return REPL_SUCCESS;
        }
    }
    return repl_fail(err, REPL_E_USAGE,
                     "\"%s\" is no way to quiesce: write window, window-else-freeze, freeze, "
                     "command, window-else-snapshot, snapshot or window-else-files",
                     value);
}

static repl_result store_name(char **field, const char *value, struct repl_error *err)
{
    if (!repl_volume_name_valid(value))
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is not a name: write up to %d letters, digits, dots, underscores "
                         "and dashes, the first of them no dot or dash",
                         value, REPL_VOLUME_NAME_MAX);
    return store_text(field, value, err);
}

static repl_result add_name(struct repl_config_peer *peer, const char *name, size_t size_max,
                            struct repl_error *err)
{
    if (!repl_volume_name_valid(name))
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is not a volume name: write up to %d letters, digits, dots, "
                         "underscores and dashes, the first of them no dot or dash",
                         name, REPL_VOLUME_NAME_MAX);
    for (size_t i = 0; i < peer->volume_count; i++) {
        if (strcmp(peer->volumes[i], name) == 0)
            return repl_fail(err, REPL_E_USAGE, "volume %s is in the list twice: remove one", name);
    }
    if (peer->volume_count == size_max)
        return repl_fail(err, REPL_E_USAGE, "more than %zu volumes: write * for all", size_max);
    char **volumes = reallocarray(peer->volumes, peer->volume_count + 1, sizeof peer->volumes[0]);
    if (volumes == NULL)
        return out_of_memory(err);
    peer->volumes = volumes;
    volumes[peer->volume_count] = strdup(name);
    if (volumes[peer->volume_count] == NULL)
        return out_of_memory(err);
    peer->volume_count++;
    return REPL_SUCCESS;
}

/* Adds to the list, which a continuation line makes longer. */
static repl_result store_names(const struct repl_config_option *option,
                               struct repl_config_peer *peer, const char *value,
                               struct repl_error *err)
{
    char text[REPL_CONFIG_LINE_MAX + 1];
    ensure(strlen(value) < sizeof text);
    strcpy(text, value);
    char *save = NULL;
    for (char *name = strtok_r(text, ", \t", &save); name != NULL;
         name = strtok_r(NULL, ", \t", &save)) {
        if (name[0] == ';')
            break; /* libinih leaves the comment behind a continued value in it */
        if (strcmp(name, "*") == 0)
            peer->all_volumes = true;
        else
            REPL_TRY(add_name(peer, name, option->max, err));
    }
    if (peer->all_volumes && peer->volume_count > 0)
        return repl_fail(err, REPL_E_USAGE,
                         "* means all volumes, so names beside it are a mistake: write one or the "
                         "other");
    if (!peer->all_volumes && peer->volume_count == 0)
        return repl_fail(err, REPL_E_USAGE, "the list is empty: name a volume, or write * for all");
    return REPL_SUCCESS;
}

repl_result repl_config_store(const struct repl_config_option *option, void *target,
                              const char *value, struct repl_error *err)
{
    void *field = (char *)target + option->offset;
    if (value[0] == '\0') /* a default of none */
        return REPL_SUCCESS;
    switch (option->type) {
    case REPL_CONFIG_PATH:
        return store_path(option, field, value, err);
    case REPL_CONFIG_RETENTION:
        return store_retention(field, value, err);
    case REPL_CONFIG_STORE:
        return store_location(option, field, value, err);
    case REPL_CONFIG_URL:
        return store_url(option, field, value, err);
    case REPL_CONFIG_TEXT:
        return store_word(option, field, value, err);
    case REPL_CONFIG_ADDRESS:
        return store_address(option, field, value, err);
    case REPL_CONFIG_FINGERPRINT:
        return repl_fingerprint_parse(value, field, err);
    case REPL_CONFIG_SIZE:
        return store_size(option, field, value, err);
    case REPL_CONFIG_DURATION:
        return store_duration(option, field, value, err);
    case REPL_CONFIG_COUNT:
        return store_count(option, field, value, err);
    case REPL_CONFIG_BANDWIDTH:
        return repl_parse_bandwidth(value, field, err);
    case REPL_CONFIG_COMPRESSION:
        return store_compression(option, field, value, err);
    case REPL_CONFIG_RESERVE:
        return store_reserve(option, field, value, err);
    case REPL_CONFIG_YES_NO:
        return store_choice(field, value, "yes", "no", err);
    case REPL_CONFIG_PEER_ROLE:
        return store_choice(field, value, "recovery", "source", err);
    case REPL_CONFIG_REPLICA:
        return store_replica(option, field, value, err);
    case REPL_CONFIG_QUIESCE:
        return store_quiesce(field, value, err);
    case REPL_CONFIG_KIND:
        return store_kind(field, value, err);
    case REPL_CONFIG_COMMAND:
    case REPL_CONFIG_PATTERNS:
        return store_text(field, value, err);
    case REPL_CONFIG_NAME:
        return store_name(field, value, err);
    case REPL_CONFIG_NAMES:
        return store_names(option, target, value, err);
    }
    return repl_fail(err, REPL_E_INTERNAL, "an option of an unknown type");
}
