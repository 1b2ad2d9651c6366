/*
 * A point of a block volume over NBD: a plugin of nbdkit, on the same reader as
 * repl mount. Read-only.
 *
 * All that can fail is done before nbdkit goes to the background, and its error
 * is seen. There is one point for all connections.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "cli/look.h"
#include "recover/point_reader.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static struct repl_origin_options plugin_origin;
static const char *plugin_volume;
static const char *plugin_at = "latest";
static struct repl_history *plugin_history;
static struct repl_point_reader *plugin_reader;

/* What is a path is made absolute, as nbdkit may change the directory. */
static int plugin_config(const char *key, const char *value)
{
    const struct {
        const char *key;
        const char **value;
        bool path;
    } keys[] = {
        {"volume", &plugin_volume, false},
        {"at", &plugin_at, false},
        {"store", &plugin_origin.store, strncmp(value, "s3://", 5) != 0},
        {"site", &plugin_origin.site, false},
        {"fingerprint", &plugin_origin.fingerprint, false},
        {"key", &plugin_origin.key, true},
        {"config", &plugin_origin.config, true},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(key, keys[i].key) != 0)
            continue;
        *keys[i].value = keys[i].path ? nbdkit_absolute_path(value) : nbdkit_strdup_intern(value);
        return *keys[i].value != NULL ? 0 : -1;
    }
    nbdkit_error("there is no parameter \"%s\": \"nbdkit repl --help\" lists them", key);
    return -1;
}

static int plugin_config_complete(void)
{
    if (plugin_volume != NULL)
        return 0;
    nbdkit_error("which volume? nbdkit repl VOLUME [at=TIME] [store=DIR]");
    return -1;
}

static repl_result point_open(struct repl_error *err)
{
    size_t point;
    enum repl_volume_kind kind;
    REPL_TRY(repl_look_open("nbdkit", &plugin_origin, plugin_volume, &plugin_history, err));
    repl_history_origin(plugin_history)->impatient = true;
    REPL_TRY(repl_look_point(plugin_history, "at", plugin_at, &point, err));
    REPL_TRY(repl_point_kind(plugin_history, point, &kind, err));
    if (kind != REPL_VOLUME_BLOCK)
        return repl_fail(err, REPL_E_USAGE,
                         "volume %s is a directory tree, not a block volume: \"repl mount\" shows "
                         "its files",
                         plugin_volume);
    const struct repl_point_options options = {.history = plugin_history, .point = point};
    return repl_point_open(&options, &plugin_reader, err);
}

static int plugin_get_ready(void)
{
    struct repl_error err;
    if (repl_ok(point_open(&err)))
        return 0;
    nbdkit_error("%s", err.text);
    return -1;
}

static void plugin_unload(void)
{
    repl_point_close(plugin_reader);
    repl_history_close(plugin_history);
}

static void *plugin_open(int readonly)
{
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle)
{
    (void)handle;
    return (int64_t)repl_point_size(plugin_reader);
}

static int plugin_can_multi_conn(void *handle)
{
    (void)handle;
    return 1;
}

static int plugin_pread(void *handle, void *out, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct repl_error err;
    (void)handle, (void)flags;
    if (repl_ok(repl_point_read(plugin_reader, offset, out, count, &err)))
        return 0;
    nbdkit_error("%s", err.text);
    nbdkit_set_error(EIO);
    return -1;
}

static int plugin_can_extents(void *handle)
{
    (void)handle;
    return 1;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents *extents)
{
    (void)handle, (void)flags;
    uint64_t end = offset + count;
    while (offset < end) {
        uint64_t data = repl_point_seek(plugin_reader, offset, true);
        uint64_t next = data > offset ? data : repl_point_seek(plugin_reader, offset, false);
        uint32_t type = data > offset ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
        if (nbdkit_add_extent(extents, offset, next - offset, type) != 0)
            return -1;
        offset = next;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "repl",
    .longname = "repl: a point of a block volume",
    .description = "A block volume as it was at a point, read-only and without a restore.",
    .version = REPL_VERSION,
    .unload = plugin_unload,
    .magic_config_key = "volume",
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = "volume=NAME         (required) The volume.\n"
                   "at=TIME             The point, as repl restore --at has it; the latest if none "
                   "is given.\n"
                   "store=DIR|s3://...  Reads this store itself, without its site.\n"
                   "site=HOST:PORT      Asks the site there.\n"
                   "fingerprint=SHA256:...  Of that site's key.\n"
                   "key=FILE            The key to show to the site.\n"
                   "config=FILE         The agent's configuration, which names the site and the "
                   "key.",
    .get_ready = plugin_get_ready,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .can_multi_conn = plugin_can_multi_conn,
    .pread = plugin_pread,
    .can_extents = plugin_can_extents,
    .extents = plugin_extents,
};

/* What the macro defines is declared by nobody. */
extern struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(plugin)
