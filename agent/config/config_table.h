/*
 * What an option of the configuration file is. Private to config/: everybody
 * else sees the filled struct repl_config.
 */
#ifndef REPL_AGENT_CONFIG_TABLE_H
#define REPL_AGENT_CONFIG_TABLE_H

#include "config/config.h"

enum repl_config_section {
    REPL_CONFIG_AGENT, /* offsets into struct repl_config */
    REPL_CONFIG_REMOTE,
    REPL_CONFIG_SITE,
    REPL_CONFIG_VOLUME, /* into struct repl_config_volume */
    REPL_CONFIG_PEER,   /* into struct repl_config_peer */
    REPL_CONFIG_SECTION_COUNT,
};

enum repl_config_type {
    REPL_CONFIG_PATH,        /* char *, absolute, at most max bytes */
    REPL_CONFIG_RETENTION,   /* char *, journal/retention.h */
    REPL_CONFIG_STORE,       /* char *, a path, or s3://BUCKET/PREFIX */
    REPL_CONFIG_URL,         /* char *, http:// or https:// and a host */
    REPL_CONFIG_TEXT,        /* char *, printable, without blanks */
    REPL_CONFIG_ADDRESS,     /* char *, host:port, the port from min up */
    REPL_CONFIG_FINGERPRINT, /* struct repl_digest */
    REPL_CONFIG_SIZE,        /* uint64_t, bytes */
    REPL_CONFIG_DURATION,    /* int64_t, milliseconds */
    REPL_CONFIG_COUNT,       /* unsigned */
    REPL_CONFIG_BANDWIDTH,   /* struct repl_pace_plan */
    REPL_CONFIG_COMPRESSION, /* unsigned: a level, or 0 for "auto" */
    REPL_CONFIG_RESERVE,     /* uint64_t: bytes, or REPL_CONFIG_RESERVE_AUTO for "auto" */
    REPL_CONFIG_YES_NO,      /* bool */
    REPL_CONFIG_PEER_ROLE,   /* bool: "recovery" is true, "source" false */
    REPL_CONFIG_REPLICA,     /* char *: "image", "none" or a path */
    REPL_CONFIG_KIND,        /* enum repl_volume_kind */
    REPL_CONFIG_QUIESCE,     /* enum repl_quiesce */
    REPL_CONFIG_PATTERNS,    /* char * */
    REPL_CONFIG_COMMAND,     /* char *, for /bin/sh -c */
    REPL_CONFIG_NAME,        /* char *, as a volume's */
    REPL_CONFIG_NAMES,       /* volumes, volume_count and all_volumes of a peer */
};

struct repl_config_option {
    enum repl_config_section section;
    const char *key;
    enum repl_role role;
    enum repl_config_type type;
    size_t offset;
    const char *initial; /* the default, as one would write it; NULL: the option is required, "":
                          * without it the field stays NULL */
    uint64_t min, max;   /* bytes, milliseconds, a count, a length: as the type has it */
    const char *help;
};

struct repl_config_section_info {
    const char *name;
    bool named; /* [volume NAME]: any number of them */
    bool required;
    const char *help;
};

/* Ended by a NULL key; options of one section stand together. */
extern const struct repl_config_option repl_config_options[];
extern const struct repl_config_section_info repl_config_sections[REPL_CONFIG_SECTION_COUNT];

/* Bytes of a line without its line feed: libinih's buffer of 200, less CR, LF and NUL. */
#define REPL_CONFIG_LINE_MAX 197

/* Bound of repl_config_options, checked by the parser. */
#define REPL_CONFIG_OPTIONS_MAX 64

/* "a size from 64 MiB to 1 PiB": what may be written, in at most 60 bytes. */
void repl_config_print_range(FILE *out, const struct repl_config_option *option);

/* Parses value into the option's field of target, the struct that its section's offsets are in.
 * A list is added to; anything else is replaced. */
REPL_RESULT repl_config_store(const struct repl_config_option *option, void *target,
                              const char *value, struct repl_error *err);

/* Whether nobody's volume may be written by keys of different tenants. */
REPL_RESULT repl_config_check_tenants(const struct repl_config *config, struct repl_error *err);

#endif
