/*
 * The configuration file's parser.
 *
 * libinih splits "key = value", knows comments and continued values. It is also
 * built to forgive: it cuts section names at 49 bytes and lines at 199, ends a
 * line at a NUL, ignores what follows a section's bracket, never tells of an
 * empty section, and takes an indented option for more of the value above. So
 * its reader function, which is ours, looks at each line first (scan_line),
 * refuses what would be bent, and takes in section lines itself; libinih sees
 * "[-]" in their place, which makes it forget the key before.
 *
 * One section is open at a time. It begins with every option unseen, and ends,
 * at the next section or the end of the file, by taking the default of each
 * option still unseen: defaults go the way of written values. An error ends the
 * parse at its line: what comes after it may mean something else.
 */
#include "config/config.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "config/config_table.h"

struct config_parser {
    struct repl_config *config;
    const char *path;
    const char *next, *end; /* text not yet read */
    unsigned line;          /* of the last line read, from 1; 0 before */
    bool continued;         /* that line is more of the list above it */
    bool commented;         /* a comment follows the value on that line */

    enum repl_config_section section; /* REPL_CONFIG_SECTION_COUNT before the first */
    unsigned section_line;
    const struct repl_config_option *option;        /* the last one stored in this section */
    unsigned option_lines[REPL_CONFIG_OPTIONS_MAX]; /* where this section gave it; 0: unseen */

    unsigned single_lines[REPL_CONFIG_SECTION_COUNT]; /* where [agent] and its like began */
    unsigned volume_lines[REPL_CONFIG_VOLUMES_MAX];
    unsigned peer_lines[REPL_CONFIG_PEERS_MAX];

    repl_result result;
    struct repl_error *err;
};

/* --- what the role has to do with it --------------------------------------------------------- */

static const char *role_word(enum repl_role role)
{
    return role == REPL_ROLE_AGENT ? "agent" : "site";
}

static enum repl_role other_role(enum repl_role role)
{
    return role == REPL_ROLE_AGENT ? REPL_ROLE_SITE : REPL_ROLE_AGENT;
}

static bool section_has_role(enum repl_config_section section, enum repl_role role)
{
    for (const struct repl_config_option *option = repl_config_options; option->key != NULL;
         option++) {
        if (option->section == section && option->role == role)
            return true;
    }
    return false;
}

/* "[agent], [remote], [volume NAME]" */
static void list_sections(enum repl_role role, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (int section = 0; section < REPL_CONFIG_SECTION_COUNT && used < size; section++) {
        const struct repl_config_section_info *info = &repl_config_sections[section];
        if (section_has_role(section, role))
            used += (size_t)snprintf(text + used, size - used, "%s[%s%s]", used > 0 ? ", " : "",
                                     info->name, info->named ? " NAME" : "");
    }
}

/* "key, state, control" */
static void list_keys(enum repl_config_section section, enum repl_role role, char *text,
                      size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (const struct repl_config_option *option = repl_config_options;
         option->key != NULL && used < size; option++) {
        if (option->section == section && option->role == role)
            used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "",
                                     option->key);
    }
}

/* "[agent]", "[volume data]" of the section that is open. */
#define SECTION_TEXT_SIZE (16 + REPL_VOLUME_NAME_MAX)
static const char *section_text(const struct config_parser *parser, char text[SECTION_TEXT_SIZE])
{
    const struct repl_config *config = parser->config;
    const char *name = "";
    if (parser->section == REPL_CONFIG_VOLUME)
        name = config->volumes[config->volume_count - 1].name;
    else if (parser->section == REPL_CONFIG_PEER)
        name = config->peers[config->peer_count - 1].name;
    snprintf(text, SECTION_TEXT_SIZE, "[%s%s%s]", repl_config_sections[parser->section].name,
             name[0] != '\0' ? " " : "", name);
    return text;
}

static repl_result out_of_memory(struct repl_error *err)
{
    return repl_fail(err, REPL_E_NOMEM, "out of memory");
}

/* The struct that the open section's offsets are in. */
static void *section_target(const struct config_parser *parser)
{
    struct repl_config *config = parser->config;
    if (parser->section == REPL_CONFIG_VOLUME)
        return &config->volumes[config->volume_count - 1];
    if (parser->section == REPL_CONFIG_PEER)
        return &config->peers[config->peer_count - 1];
    return config;
}

/* --- sections -------------------------------------------------------------------------------- */

/* Two peers with one key could not be told apart. */
static repl_result check_peer_key(const struct config_parser *parser)
{
    const struct repl_config *config = parser->config;
    const struct repl_config_peer *peer = &config->peers[config->peer_count - 1];
    const struct repl_config_peer *first = repl_config_find_peer(config, &peer->fingerprint);
    if (first == peer)
        return REPL_SUCCESS;
    return repl_fail(parser->err, REPL_E_USAGE,
                     "%s:%u: [peer %s] has the fingerprint of [peer %s] at line %u: give each peer "
                     "a key of its own, or make them one section",
                     parser->path, parser->section_line, peer->name, first->name,
                     parser->peer_lines[first - config->peers]);
}

/* Commands that would never run, and a way to quiesce that lacks its command. */
static repl_result check_volume_commands(const struct config_parser *parser)
{
    const struct repl_config *config = parser->config;
    const struct repl_config_volume *volume = &config->volumes[config->volume_count - 1];
    bool commands = volume->pre_command != NULL || volume->post_command != NULL;
    if (volume->quiesce == REPL_QUIESCE_COMMAND && volume->pre_command == NULL)
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: [volume %s] has quiesce = command and no pre_command: add one",
                         parser->path, parser->section_line, volume->name);
    bool snapshots = repl_quiesce_has_snapshots(volume->quiesce);
    bool files = volume->quiesce == REPL_QUIESCE_WINDOW_ELSE_FILES;
    if (config->role == REPL_ROLE_AGENT && commands &&
        (snapshots || files || volume->quiesce == REPL_QUIESCE_WINDOW))
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: [volume %s] has a command that %s never runs: "
                         "write quiesce = command, or freeze, or remove it",
                         parser->path, parser->section_line, volume->name,
                         snapshots ? "a quiesce with snapshots"
                         : files   ? "quiesce = window-else-files"
                                   : "quiesce = window");
    return REPL_SUCCESS;
}

/* Where nobody could make a snapshot. Whether a tree is on btrfs shows when it is opened. */
static repl_result check_volume_snapshot(const struct config_parser *parser)
{
    const struct repl_config *config = parser->config;
    const struct repl_config_volume *volume = &config->volumes[config->volume_count - 1];
    bool tree = volume->kind == REPL_VOLUME_TREE;
    if (!repl_quiesce_has_snapshots(volume->quiesce) || (tree && volume->group == NULL))
        return REPL_SUCCESS;
    return repl_fail(parser->err, REPL_E_USAGE,
                     "%s:%u: [volume %s] has a quiesce with snapshots, which are for directory "
                     "trees on btrfs%s",
                     parser->path, parser->section_line, volume->name,
                     tree ? " that are in no group: remove group, or write another quiesce"
                          : ": write another quiesce, or kind = tree");
}

/* What a volume of each kind needs, and what it has no use for. */
static repl_result check_volume_kind(const struct config_parser *parser)
{
    const struct repl_config *config = parser->config;
    const struct repl_config_volume *volume = &config->volumes[config->volume_count - 1];
    bool tree = volume->kind == REPL_VOLUME_TREE;
    if (config->role != REPL_ROLE_AGENT)
        return REPL_SUCCESS;
    if ((tree ? volume->path : volume->device) == NULL)
        return repl_fail(
            parser->err, REPL_E_USAGE,
            "%s:%u: [volume %s] has no %s, which is required: add a line \"%s = ...\"; "
            "\"repl help config\" tells what it means",
            parser->path, parser->section_line, volume->name, tree ? "path" : "device",
            tree ? "path" : "device");
    if (tree ? volume->device != NULL : volume->path != NULL || volume->exclude != NULL)
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: [volume %s] has %s, which a volume of kind %s has no use for: "
                         "remove it, or write kind = %s",
                         parser->path, parser->section_line, volume->name,
                         tree                   ? "a device"
                         : volume->path != NULL ? "a path"
                                                : "an exclude",
                         tree ? "tree" : "block", tree ? "block" : "tree");
    if (!tree && volume->quiesce == REPL_QUIESCE_WINDOW_ELSE_FILES)
        return repl_fail(
            parser->err, REPL_E_USAGE,
            "%s:%u: [volume %s] has quiesce = window-else-files, which is for the files "
            "of a volume of kind tree: write window-else-freeze, or another one",
            parser->path, parser->section_line, volume->name);
    if (volume->group != NULL && volume->quiesce == REPL_QUIESCE_WINDOW_ELSE_FILES)
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: [volume %s] has quiesce = window-else-files, and is cut together "
                         "with others, which is one moment: write window-else-freeze, or remove "
                         "group",
                         parser->path, parser->section_line, volume->name);
    return REPL_SUCCESS;
}

static repl_result end_section(struct config_parser *parser)
{
    if (parser->section == REPL_CONFIG_SECTION_COUNT)
        return REPL_SUCCESS;
    char text[SECTION_TEXT_SIZE];
    for (const struct repl_config_option *option = repl_config_options; option->key != NULL;
         option++) {
        if (option->section != parser->section || option->role != parser->config->role ||
            parser->option_lines[option - repl_config_options] != 0)
            continue;
        if (option->initial == NULL)
            return repl_fail(parser->err, REPL_E_USAGE,
                             "%s:%u: %s has no %s, which is required: add a line \"%s = ...\"; "
                             "\"repl help config\" tells what it means",
                             parser->path, parser->section_line, section_text(parser, text),
                             option->key, option->key);
        REPL_TRY(repl_forward(
            repl_config_store(option, section_target(parser), option->initial, parser->err),
            parser->err, "the default of %s", option->key));
    }
    if (parser->section == REPL_CONFIG_PEER)
        return check_peer_key(parser);
    if (parser->section == REPL_CONFIG_VOLUME) {
        REPL_TRY(check_volume_snapshot(parser));
        REPL_TRY(check_volume_kind(parser));
        return check_volume_commands(parser);
    }
    return REPL_SUCCESS;
}

static void open_section(struct config_parser *parser, enum repl_config_section section)
{
    parser->section = section;
    parser->section_line = parser->line;
    parser->option = NULL;
    memset(parser->option_lines, 0, sizeof parser->option_lines);
}

static repl_result again(const struct config_parser *parser, const char *section, const char *name,
                         unsigned first_line)
{
    return repl_fail(parser->err, REPL_E_USAGE,
                     "%s:%u: [%s%s%s] is there already, at line %u: make them one section",
                     parser->path, parser->line, section, name[0] != '\0' ? " " : "", name,
                     first_line);
}

static repl_result too_many(const struct config_parser *parser, unsigned limit, const char *what)
{
    return repl_fail(parser->err, REPL_E_USAGE,
                     "%s:%u: more than %u %ss: spread them over several files and programs",
                     parser->path, parser->line, limit, what);
}

static repl_result add_volume(struct config_parser *parser, const char *name)
{
    struct repl_config *config = parser->config;
    for (size_t i = 0; i < config->volume_count; i++) {
        if (strcmp(config->volumes[i].name, name) == 0)
            return again(parser, "volume", name, parser->volume_lines[i]);
    }
    if (config->volume_count == REPL_CONFIG_VOLUMES_MAX)
        return too_many(parser, REPL_CONFIG_VOLUMES_MAX, "volume");
    struct repl_config_volume *volumes =
        reallocarray(config->volumes, config->volume_count + 1, sizeof *volumes);
    if (volumes == NULL)
        return out_of_memory(parser->err);
    config->volumes = volumes;
    volumes[config->volume_count] = (struct repl_config_volume){.name = NULL};
    volumes[config->volume_count].name = strdup(name);
    if (volumes[config->volume_count].name == NULL)
        return out_of_memory(parser->err);
    parser->volume_lines[config->volume_count++] = parser->line;
    return REPL_SUCCESS;
}

static repl_result add_peer(struct config_parser *parser, const char *name)
{
    struct repl_config *config = parser->config;
    for (size_t i = 0; i < config->peer_count; i++) {
        if (strcmp(config->peers[i].name, name) == 0)
            return again(parser, "peer", name, parser->peer_lines[i]);
    }
    if (config->peer_count == REPL_CONFIG_PEERS_MAX)
        return too_many(parser, REPL_CONFIG_PEERS_MAX, "peer");
    struct repl_config_peer *peers =
        reallocarray(config->peers, config->peer_count + 1, sizeof *peers);
    if (peers == NULL)
        return out_of_memory(parser->err);
    config->peers = peers;
    peers[config->peer_count] = (struct repl_config_peer){.name = NULL};
    peers[config->peer_count].name = strdup(name);
    if (peers[config->peer_count].name == NULL)
        return out_of_memory(parser->err);
    parser->peer_lines[config->peer_count++] = parser->line;
    return REPL_SUCCESS;
}

static repl_result find_section(const struct config_parser *parser, const char *word,
                                enum repl_config_section *out)
{
    enum repl_role role = parser->config->role;
    for (int section = 0; section < REPL_CONFIG_SECTION_COUNT; section++) {
        if (strcmp(repl_config_sections[section].name, word) != 0)
            continue;
        *out = section;
        if (section_has_role(section, role))
            return REPL_SUCCESS;
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: [%s] belongs in the file of the %s, and this one is read for the "
                         "%s: remove it, or name another file",
                         parser->path, parser->line, word, role_word(other_role(role)),
                         role_word(role));
    }
    char list[128];
    list_sections(role, list, sizeof list);
    return repl_fail(parser->err, REPL_E_USAGE,
                     "%s:%u: there is no section [%s]: the file of the %s has %s", parser->path,
                     parser->line, word, role_word(role), list);
}

/* word and name: what stands between the brackets; name is "" where there is one word. */
static repl_result begin_section(struct config_parser *parser, const char *word, const char *name)
{
    enum repl_config_section section = REPL_CONFIG_SECTION_COUNT;
    REPL_TRY(end_section(parser));
    REPL_TRY(find_section(parser, word, &section));
    const struct repl_config_section_info *info = &repl_config_sections[section];
    if (!info->named && name[0] != '\0')
        return repl_fail(parser->err, REPL_E_USAGE, "%s:%u: [%s] takes no name: remove \"%s\"",
                         parser->path, parser->line, word, name);
    if (info->named && !repl_volume_name_valid(name))
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: [%s NAME] needs a name, and \"%s\" is none: write up to %d "
                         "letters, digits, dots, underscores and dashes, the first of them no dot "
                         "or dash",
                         parser->path, parser->line, word, name, REPL_VOLUME_NAME_MAX);
    if (section == REPL_CONFIG_VOLUME) {
        REPL_TRY(add_volume(parser, name));
    } else if (section == REPL_CONFIG_PEER) {
        REPL_TRY(add_peer(parser, name));
    } else {
        if (parser->single_lines[section] != 0)
            return again(parser, word, "", parser->single_lines[section]);
        parser->single_lines[section] = parser->line;
    }
    open_section(parser, section);
    return REPL_SUCCESS;
}

/* A line that starts with '['. */
static repl_result parse_section_line(struct config_parser *parser, const char *line)
{
    char text[REPL_CONFIG_LINE_MAX + 1];
    snprintf(text, sizeof text, "%s", line + 1);
    char *bracket = strchr(text, ']');
    const char *rest = bracket == NULL ? "" : bracket + 1 + strspn(bracket + 1, " \t");
    if (bracket == NULL || (rest[0] != '\0' && rest[0] != ';' && rest[0] != '#'))
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: a section stands alone between [ and ] on its line", parser->path,
                         parser->line);
    *bracket = '\0';
    char *save = NULL;
    const char *word = strtok_r(text, " \t", &save);
    char *name = strtok_r(NULL, "", &save);
    if (name != NULL) {
        name += strspn(name, " \t");
        for (size_t size = strlen(name); size > 0 && strchr(" \t", name[size - 1]) != NULL; size--)
            name[size - 1] = '\0';
    }
    return begin_section(parser, word == NULL ? "" : word, name == NULL ? "" : name);
}

/* --- lines, on their way to libinih ---------------------------------------------------------- */

/* A word, perhaps blanks, and '='. libinih would take ':' as well, and go on past a line that has
 * neither. */
static bool is_assignment(const char *line, size_t size)
{
    size_t at = 0;
    while (at < size && (isalnum((unsigned char)line[at]) || line[at] == '_' || line[at] == '-'))
        at++;
    bool word = at > 0;
    while (at < size && (line[at] == ' ' || line[at] == '\t'))
        at++;
    return word && at < size && line[at] == '=';
}

/* What libinih takes for a comment: a blank and a ';'. */
static bool has_comment(const char *line, size_t size)
{
    for (size_t i = 1; i < size; i++) {
        if (line[i] == ';' && (line[i - 1] == ' ' || line[i - 1] == '\t'))
            return true;
    }
    return false;
}

/* Looks at a line without its end. Control characters have no place in it, and would come back
 * in a message to somebody's terminal. */
static repl_result scan_line(struct config_parser *parser, const char *line, size_t size)
{
    if (size > REPL_CONFIG_LINE_MAX)
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: the line is longer than %d bytes: make it shorter (a list of "
                         "volumes may go on in indented lines)",
                         parser->path, parser->line, REPL_CONFIG_LINE_MAX);
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)line[i];
        if ((c < ' ' && c != '\t') || c == 0x7f)
            return repl_fail(parser->err, REPL_E_USAGE,
                             "%s:%u: byte %zu of the line is the control character 0x%02x: is this "
                             "a text file?",
                             parser->path, parser->line, i + 1, c);
    }
    size_t indent = 0;
    while (indent < size && (line[indent] == ' ' || line[indent] == '\t'))
        indent++;
    bool blank = indent == size || line[indent] == '#' || line[indent] == ';';
    bool in_list = parser->option != NULL && parser->option->type == REPL_CONFIG_NAMES;
    parser->continued = indent > 0 && !blank;
    parser->commented = has_comment(line, size);
    if (parser->continued && !in_list)
        return repl_fail(
            parser->err, REPL_E_USAGE,
            "%s:%u: the line is indented, which would make it more of the value above: "
            "begin it in the first column",
            parser->path, parser->line);
    if (!blank && indent == 0 && line[0] != '[' && !is_assignment(line, size))
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: neither a [section] nor \"key = value\" nor a comment",
                         parser->path, parser->line);
    return REPL_SUCCESS;
}

/* libinih's reader: one line a call, without its end. NULL ends the parse. */
static char *read_line(char *buffer, int size, void *context)
{
    struct config_parser *parser = context;
    ensure(size >= REPL_CONFIG_LINE_MAX + 3);
    if (parser->next == parser->end || !repl_ok(parser->result))
        return NULL;

    const char *line = parser->next;
    const char *feed = memchr(line, '\n', (size_t)(parser->end - line));
    size_t length = (size_t)((feed == NULL ? parser->end : feed) - line);
    parser->next = feed == NULL ? parser->end : feed + 1;
    parser->line++;
    if (length > 0 && line[length - 1] == '\r')
        length--;

    parser->result = scan_line(parser, line, length);
    if (!repl_ok(parser->result))
        return NULL;
    memcpy(buffer, line, length);
    buffer[length] = '\0';
    if (buffer[0] == '[') {
        parser->result = parse_section_line(parser, buffer);
        strcpy(buffer, "[-]");
    }
    return repl_ok(parser->result) ? buffer : NULL;
}

static repl_result find_option(const struct config_parser *parser, const char *key,
                               const struct repl_config_option **out)
{
    enum repl_role role = parser->config->role;
    bool other = false;
    for (const struct repl_config_option *option = repl_config_options; option->key != NULL;
         option++) {
        if (option->section != parser->section || strcmp(option->key, key) != 0)
            continue;
        *out = option;
        if (option->role == role)
            return REPL_SUCCESS;
        other = true;
    }
    char text[SECTION_TEXT_SIZE], list[128];
    if (other)
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: %s %s belongs in the file of the %s, and this one is read for the "
                         "%s: remove the line",
                         parser->path, parser->line, section_text(parser, text), key,
                         role_word(other_role(role)), role_word(role));
    list_keys(parser->section, role, list, sizeof list);
    return repl_fail(parser->err, REPL_E_USAGE, "%s:%u: %s has no option \"%s\": it has %s",
                     parser->path, parser->line, section_text(parser, text), key, list);
}

static bool has_hash_comment(const char *value)
{
    for (const char *hash = strchr(value, '#'); hash != NULL; hash = strchr(hash + 1, '#')) {
        if (hash > value && (hash[-1] == ' ' || hash[-1] == '\t'))
            return true;
    }
    return value[0] == '#';
}

static repl_result take_option(struct config_parser *parser, const char *key, const char *value)
{
    if (parser->section == REPL_CONFIG_SECTION_COUNT)
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: \"%s\" stands before the first section: put [%s] above it",
                         parser->path, parser->line, key, role_word(parser->config->role));
    const struct repl_config_option *option = NULL;
    REPL_TRY(find_option(parser, key, &option));
    char text[SECTION_TEXT_SIZE];
    section_text(parser, text);
    unsigned *line = &parser->option_lines[option - repl_config_options];
    if (*line != 0 && !parser->continued)
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: %s %s is there already, at line %u: remove one", parser->path,
                         parser->line, text, key, *line);
    if (value[0] == '\0')
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: %s %s has no value: write one, or remove the line for the default",
                         parser->path, parser->line, text, key);
    if (has_hash_comment(value))
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: %s %s: a comment after a value begins with ; and not with #",
                         parser->path, parser->line, text, key);
    if (option->type == REPL_CONFIG_COMMAND && parser->commented)
        return repl_fail(parser->err, REPL_E_USAGE,
                         "%s:%u: %s %s: a ; behind a space begins a comment, so half of the "
                         "command could be lost: join commands with &&, or put them into a script",
                         parser->path, parser->line, text, key);
    if (*line == 0)
        *line = parser->line;
    parser->option = option;
    return repl_forward(repl_config_store(option, section_target(parser), value, parser->err),
                        parser->err, "%s:%u: %s %s", parser->path, parser->line, text, key);
}

/* libinih's handler. Its own notion of the section is cut at 49 bytes; ours is not. */
static int handle_option(void *context, const char *section, const char *key, const char *value)
{
    struct config_parser *parser = context;
    (void)section;
    parser->result = take_option(parser, key, value);
    return repl_ok(parser->result);
}

/* --- the whole ------------------------------------------------------------------------------- */

/* Sections that did not appear: their defaults, or the error that one is required. */
static repl_result finish_sections(struct config_parser *parser)
{
    REPL_TRY(end_section(parser));
    for (int section = 0; section < REPL_CONFIG_SECTION_COUNT; section++) {
        const struct repl_config_section_info *info = &repl_config_sections[section];
        if (info->named || parser->single_lines[section] != 0 ||
            !section_has_role(section, parser->config->role))
            continue;
        char list[128];
        list_keys(section, parser->config->role, list, sizeof list);
        if (info->required)
            return repl_fail(parser->err, REPL_E_USAGE,
                             "%s: there is no [%s] section: add one with %s; \"repl help config\" "
                             "tells what they mean",
                             parser->path, info->name, list);
        open_section(parser, section);
        REPL_TRY(end_section(parser));
    }
    return REPL_SUCCESS;
}

static repl_result parse_lines(struct config_parser *parser)
{
    int bad_line = ini_parse_stream(read_line, parser, handle_option, parser);
    REPL_TRY(parser->result);
    if (bad_line < 0)
        return out_of_memory(parser->err);
    /* scan_line lets nothing through that libinih could refuse by itself. */
    ensure(bad_line == 0);
    REPL_TRY(finish_sections(parser));
    return repl_config_check_tenants(parser->config, parser->err);
}

repl_result repl_config_parse(const char *text, size_t size, const char *path, enum repl_role role,
                              struct repl_config **out, struct repl_error *err)
{
    static const char byte_order_mark[] = {'\xef', '\xbb', '\xbf'};
    *out = NULL;
    if (size > REPL_CONFIG_FILE_SIZE_MAX)
        return repl_fail(err, REPL_E_USAGE, "%s: larger than %u bytes: is this the right file?",
                         path, REPL_CONFIG_FILE_SIZE_MAX);
    if (size >= sizeof byte_order_mark &&
        memcmp(text, byte_order_mark, sizeof byte_order_mark) == 0) {
        text += sizeof byte_order_mark;
        size -= sizeof byte_order_mark;
    }
    struct repl_config *config = calloc(1, sizeof *config);
    struct config_parser *parser = calloc(1, sizeof *parser);
    repl_result result;
    if (config == NULL || parser == NULL || (config->path = strdup(path)) == NULL) {
        result = out_of_memory(err);
    } else {
        config->role = role;
        parser->config = config;
        parser->path = path;
        parser->next = text;
        parser->end = text + size;
        parser->section = REPL_CONFIG_SECTION_COUNT;
        parser->err = err;
        result = parse_lines(parser);
    }
    free(parser);
    if (!repl_ok(result)) {
        repl_config_free(config);
        return result;
    }
    *out = config;
    return REPL_SUCCESS;
}

static repl_result read_file(FILE *file, const char *path, char *text, size_t *size,
                             struct repl_error *err)
{
    /* One byte more than is allowed, so that the parser sees and says that it is too large. */
    *size = fread(text, 1, REPL_CONFIG_FILE_SIZE_MAX + 1, file);
    if (ferror(file))
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read %s", path);
    return REPL_SUCCESS;
}

repl_result repl_config_load(const char *path, enum repl_role role, struct repl_config **out,
                             struct repl_error *err)
{
    *out = NULL;
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        int open_errno = errno;
        const char *hint =
            open_errno == ENOENT ? " (\"repl help config\" tells what to write in it)" : "";
        return repl_fail_errno(err, open_errno == ENOENT ? REPL_E_USAGE : REPL_E_IO, open_errno,
                               "cannot open the configuration %s%s", path, hint);
    }
    size_t size = 0;
    char *text = malloc(REPL_CONFIG_FILE_SIZE_MAX + 1);
    repl_result result =
        text == NULL ? out_of_memory(err) : read_file(file, path, text, &size, err);
    fclose(file);
    if (repl_ok(result))
        result = repl_config_parse(text, size, path, role, out, err);
    free(text);
    return result;
}

void repl_config_free(struct repl_config *config)
{
    if (config == NULL)
        return;
    free(config->path);
    free(config->key);
    free(config->state);
    free(config->control);
    free(config->guard);
    free(config->remote_address);
    free(config->listen);
    free(config->store);
    free(config->retention);
    free(config->s3_endpoint);
    free(config->s3_region);
    free(config->s3_credentials);
    free(config->s3_profile);
    free(config->s3_ca);
    for (size_t i = 0; i < config->volume_count; i++) {
        free(config->volumes[i].name);
        free(config->volumes[i].device);
        free(config->volumes[i].path);
        free(config->volumes[i].exclude);
        free(config->volumes[i].replica);
        free(config->volumes[i].retention);
        free(config->volumes[i].pre_command);
        free(config->volumes[i].post_command);
        free(config->volumes[i].group);
    }
    free(config->volumes);
    for (size_t i = 0; i < config->peer_count; i++) {
        free(config->peers[i].name);
        for (size_t name = 0; name < config->peers[i].volume_count; name++)
            free(config->peers[i].volumes[name]);
        free(config->peers[i].volumes);
        free(config->peers[i].tenant);
    }
    free(config->peers);
    free(config);
}

struct repl_s3_options repl_config_s3(const struct repl_config *config)
{
    return (struct repl_s3_options){
        .endpoint = config->s3_endpoint,
        .region = config->s3_region,
        .credentials = config->s3_credentials,
        .profile = config->s3_profile,
        .ca = config->s3_ca,
        .host_style = config->s3_host_style,
    };
}

const char *repl_config_site_directory(const struct repl_config *config)
{
    return repl_store_is_bucket(config->store) ? config->state : config->store;
}

#define RESERVE_AUTO       (UINT64_C(1) << 30)
#define RESERVE_AUTO_SHARE 20u /* at most this part of the filesystem */

uint64_t repl_config_reserve(const struct repl_config *config, uint64_t disk_bytes)
{
    uint64_t share = disk_bytes / RESERVE_AUTO_SHARE;
    if (config->space_reserve_bytes != REPL_CONFIG_RESERVE_AUTO)
        return config->space_reserve_bytes;
    return share < RESERVE_AUTO ? share : RESERVE_AUTO;
}

const struct repl_config_volume *repl_config_find_volume(const struct repl_config *config,
                                                         const char *name)
{
    for (size_t i = 0; i < config->volume_count; i++) {
        if (strcmp(config->volumes[i].name, name) == 0)
            return &config->volumes[i];
    }
    return NULL;
}

const struct repl_config_peer *repl_config_find_peer(const struct repl_config *config,
                                                     const struct repl_digest *fingerprint)
{
    for (size_t i = 0; i < config->peer_count; i++) {
        if (repl_digest_equal(&config->peers[i].fingerprint, fingerprint))
            return &config->peers[i];
    }
    return NULL;
}
