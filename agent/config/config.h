/*
 * The configuration file: INI sections and "key = value" lines, read from one
 * table (config_table.c) that also prints the documentation of every option.
 * Both roles share the format; an option of the other role is an error with
 * its file and line.
 */
#ifndef REPL_AGENT_CONFIG_H
#define REPL_AGENT_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "epoch.h"
#include "pace.h"
#include "repl/error.h"
#include "repl/format.h"
#include "store/s3.h"

enum repl_role {
    REPL_ROLE_AGENT = 1,
    REPL_ROLE_SITE = 2,
};

#define REPL_AGENT_CONFIG_PATH "/etc/repl/agent.conf"
#define REPL_SITE_CONFIG_PATH  "/etc/repl/site.conf"

/* [volume NAME]: letters, digits, '.', '_' and '-', not starting with '.' or '-' */
#define REPL_VOLUME_NAME_MAX 64

/* Bounds of what a file may hold; more is an error, not a cut. */
#define REPL_CONFIG_FILE_SIZE_MAX (1u << 20)
#define REPL_CONFIG_VOLUMES_MAX   1024u
#define REPL_CONFIG_PEERS_MAX     1024u
#define REPL_CONFIG_NAMES_MAX     1024u /* volumes of one peer */

#define REPL_CONFIG_RESERVE_AUTO UINT64_MAX

struct repl_config_volume {
    char *name;
    /* agent */
    enum repl_volume_kind kind; /* block (default) or tree */
    char *device;   /* of kind block: the device (a path that stays, such as /dev/disk/by-id/...) */
    char *path;     /* of kind tree: its top directory */
    char *exclude;  /* of kind tree: patterns (source/tree/tree_exclude.h); NULL: none */
    int64_t rpo_ms; /* the age a point may reach at the site; 2 s to 1 day, default 4 s */
    bool sync;      /* syncfs ahead of each point, default yes */
    enum repl_quiesce quiesce;  /* default window */
    int64_t freeze_budget_ms;   /* 50 ms to 10 s, default 250 ms */
    char *pre_command;          /* NULL: none */
    char *post_command;         /* NULL: none */
    int64_t command_timeout_ms; /* of each; 100 ms to 1 h, default 10 s */
    char *group;                /* volumes cut at one common point; NULL: on its own */
    /* site */
    char *replica;   /* "image" (default), "none", or the path of a device, file or directory */
    char *retention; /* journal/retention.h; NULL: as [site] says */
    uint64_t space_limit_bytes; /* of its history; 0: none */
};

struct repl_config_peer {
    char *name;
    struct repl_digest fingerprint;
    char **volumes; /* names it may write (role source) or read (role recovery) */
    size_t volume_count;
    bool all_volumes; /* "volumes = *" */
    bool recovery;    /* "role = recovery": may read, never write. Default: source */
    char *tenant;     /* whose volumes share chunks with those of this key; NULL: with none */
    bool revoked;     /* "revoked = yes": known, and refused with a message that says so */
};

struct repl_config {
    enum repl_role role;
    char *path; /* of the file, for messages */

    /* [agent] */
    char *key;     /* /etc/repl/agent.key, /etc/repl/site.key */
    char *state;   /* /var/lib/repl; of a site whose store is a bucket: /var/lib/repl-site */
    char *control; /* /run/repl/agent.sock, /run/repl/site.sock */
    char *guard;   /* agent only: /run/repl/guard.sock */
    uint64_t spool_limit_bytes;      /* 10 GiB; at least 64 MiB */
    struct repl_pace_plan bandwidth; /* default: no limit */
    unsigned compression;            /* zstd's level, 1 to 9; 0 (default): as common/level.h says */
    unsigned workers;                /* 0: one a processor */
    unsigned nice;                   /* of the workers, default 10 */

    /* [remote], agent only */
    char *remote_address; /* host:port */
    struct repl_digest remote_fingerprint;

    /* [site], site only (and key, control, workers, nice as above) */
    char *listen; /* 0.0.0.0:7420 */
    char *store;  /* /var/lib/repl-site, or s3://BUCKET/PREFIX */
    char *s3_endpoint, *s3_region, *s3_credentials, *s3_profile, *s3_ca; /* NULL: s3.h says */
    bool s3_host_style;
    int64_t object_lock_ms;         /* 0 (default): objects are not locked */
    bool take_over;                 /* in no file: the verb's flag (store.h) */
    char *retention;                /* "1s:1h 1m:1d 1h:30d 1d:1y", or "everything" */
    int64_t grace_ms;               /* 1 min to 90 days, default 1 day */
    uint64_t merge_rate_bytes;      /* a second; 0: as fast as it goes; default 64 MiB */
    uint64_t space_limit_bytes;     /* of all histories; 0: none */
    uint64_t space_reserve_bytes;   /* of the filesystem; REPL_CONFIG_RESERVE_AUTO (default) */
    int64_t scrub_every_ms;         /* default 30 days; 0: nothing is read */
    uint64_t scrub_rate_bytes;      /* a second; 0: as fast as it goes; default 32 MiB */
    unsigned connections;           /* in all; 16 to 65536, default 1024 */
    unsigned strangers_per_address; /* connections without a known key; 1 to 4096, default 16 */

    struct repl_config_volume *volumes;
    size_t volume_count;
    struct repl_config_peer *peers;
    size_t peer_count;
};

/* Every error names file, line, and what would be right. */
REPL_RESULT repl_config_load(const char *path, enum repl_role role, struct repl_config **out,
                             struct repl_error *err);
/* Of whichever role the file is: both share a syntax, but not their options. If it is of neither,
 * the error is that of the role that it seems to be of. */
REPL_RESULT repl_config_load_either(const char *path, struct repl_config **out,
                                    struct repl_error *err);
/* repl_config_load from memory; path is only for messages. The fuzz target's door. */
REPL_RESULT repl_config_parse(const char *text, size_t size, const char *path, enum repl_role role,
                              struct repl_config **out, struct repl_error *err);
void repl_config_free(struct repl_config *config);

#define REPL_RETENTION_EVERYTHING "everything"

/* How its bucket is reached. Valid as long as the config. */
struct repl_s3_options repl_config_s3(const struct repl_config *config);
/* The directory on this machine where the site keeps what is no part of the history: the store
 * itself, where that is a directory. */
const char *repl_config_site_directory(const struct repl_config *config);
/* What has to stay free of that directory's filesystem, which has so many bytes. */
uint64_t repl_config_reserve(const struct repl_config *config, uint64_t disk_bytes);

const struct repl_config_volume *repl_config_find_volume(const struct repl_config *config,
                                                         const char *name);
const struct repl_config_peer *repl_config_find_peer(const struct repl_config *config,
                                                     const struct repl_digest *fingerprint);

/* Prints every option with its section, default, range and meaning (text, or troff for the man
 * page). */
void repl_config_document(FILE *out, bool troff);

/* --- values, shared with the command line ---------------------------------------------------- */

/* "64M", "10 GiB", "4096": bytes. */
REPL_RESULT repl_parse_size(const char *text, uint64_t *bytes, struct repl_error *err);
/* "4s", "250ms", "10 min", "1h": milliseconds. */
REPL_RESULT repl_parse_duration(const char *text, int64_t *ms, struct repl_error *err);
/* "12": digits and nothing else. */
REPL_RESULT repl_parse_count(const char *text, uint64_t *count, struct repl_error *err);
/* "20 MiB, 5 MiB 08:00-18:00": bytes a second, and others for times of the day. */
REPL_RESULT repl_parse_bandwidth(const char *text, struct repl_pace_plan *plan,
                                 struct repl_error *err);
/* "host:port", "[v6]:port"; anything else is refused. The port is from port_min up. */
REPL_RESULT repl_parse_address(const char *text, unsigned port_min, struct repl_error *err);
bool repl_volume_name_valid(const char *name);

#endif
