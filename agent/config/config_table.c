/*
 * The one table of the configuration file's options, and its documentation.
 *
 * A line of the table is all there is to an option: the parser (config.c)
 * stores by type and offset, applies a default by parsing it as if it had been
 * written, and checks the bounds that are printed here. A section belongs to
 * the roles its options belong to.
 */
#include "config/config_table.h"

#include <inttypes.h>
#include <sys/un.h>

#include "config/document.h"
#include "segment/frame.h"

#define MIB       (UINT64_C(1) << 20)
#define PIB       (UINT64_C(1) << 50)
#define SECOND_MS UINT64_C(1000)
#define MINUTE_MS (60 * SECOND_MS)
#define HOUR_MS   (3600 * SECOND_MS)
#define DAY_MS    (86400 * SECOND_MS)

/* A path must fit its line, a socket's path its sockaddr_un with the NUL. */
#define PATH_SIZE_MAX        4095
#define SOCKET_PATH_SIZE_MAX (sizeof((struct sockaddr_un *)0)->sun_path - 1)

#define TEXT_OF_(number) #number
#define TEXT_OF(number)  TEXT_OF_(number)

#define IN_CONFIG(field) offsetof(struct repl_config, field)
#define IN_VOLUME(field) offsetof(struct repl_config_volume, field)
#define IN_PEER(field)   offsetof(struct repl_config_peer, field)

#define HELP_CONTROL "The socket on which the running program answers \"repl status\" and its like."
#define HELP_RETENTION                                                                             \
    "Which points are kept, in pairs: of each EVERY one, for so long. \"1s:1h 1m:1d\" keeps a "    \
    "point a second of the last hour, and one a minute of the last day. Units are s, m, h, d, w "  \
    "and y; FOR may be forever. The newest point, those that have a name and the last one that "   \
    "was proven good are kept whatever it says, and while the clock of this machine is in doubt "  \
    "none is given up. \"everything\" gives up nothing, ever."
#define HELP_WORKERS "Threads that hash, compress and decompress. 0 means one for each processor."
#define HELP_SITE_WORKERS                                                                          \
    "Threads that write, sync and verify what comes. They wait for the disk most of the time, "    \
    "and "                                                                                         \
    "many syncs at once cost it little more than one: 0 means two for each processor, at least "   \
    "16."
#define HELP_NICE                                                                                  \
    "How far the worker threads step back behind other programs: 0 not at all, 19 furthest."

/* clang-format off */
const struct repl_config_option repl_config_options[] = {
    {REPL_CONFIG_AGENT, "key", REPL_ROLE_AGENT, REPL_CONFIG_PATH, IN_CONFIG(key),
     "/etc/repl/agent.key", 1, PATH_SIZE_MAX,
     "This host's key file, made with \"repl keygen\". Its fingerprint goes into a [peer NAME] "
     "section at the site."},
    {REPL_CONFIG_AGENT, "state", REPL_ROLE_AGENT, REPL_CONFIG_PATH, IN_CONFIG(state),
     "/var/lib/repl", 1, PATH_SIZE_MAX,
     "The directory for the spool, the page digests and what else must outlive a restart. It must "
     "not lie on a volume that is protected by it."},
    {REPL_CONFIG_AGENT, "control", REPL_ROLE_AGENT, REPL_CONFIG_PATH, IN_CONFIG(control),
     "/run/repl/agent.sock", 1, SOCKET_PATH_SIZE_MAX, HELP_CONTROL},
    {REPL_CONFIG_AGENT, "guard", REPL_ROLE_AGENT, REPL_CONFIG_PATH, IN_CONFIG(guard),
     "/run/repl/guard.sock", 1, SOCKET_PATH_SIZE_MAX,
     "The socket of the freeze guard (\"repl guard\"), which freezes filesystems and runs the "
     "commands of volumes on behalf of the agent."},
    {REPL_CONFIG_AGENT, "spool_limit", REPL_ROLE_AGENT, REPL_CONFIG_SIZE,
     IN_CONFIG(spool_limit_bytes), "10 GiB", 64 * MIB, PIB,
     "What the spool may hold while the site cannot be reached. Beyond it, points are given up "
     "and only what changed is remembered."},
    {REPL_CONFIG_AGENT, "bandwidth", REPL_ROLE_AGENT, REPL_CONFIG_BANDWIDTH, IN_CONFIG(bandwidth),
     "", 0, 0,
     "Bytes a second that segments may take, all volumes together, and others for times of the "
     "day, by the clock of the host: \"20 MiB, 5 MiB 08:00-18:00, 0 22:00-06:00\". 0 is no limit. "
     "Of times that overlap the first counts. What does not fit waits in the spool."},
    {REPL_CONFIG_AGENT, "compression", REPL_ROLE_AGENT, REPL_CONFIG_COMPRESSION,
     IN_CONFIG(compression), "auto", 1, REPL_FRAME_LEVEL_MAX,
     "How hard what is sent is compressed, 1 to 9 as zstd counts. \"auto\" is 1, and up to 6 "
     "while the link is what holds things up and the workers have little to do. Of a system's files "
     "6 makes an eighth less than 1, for three times the processor time, and takes 20 MiB more of "
     "memory a volume; 9 hardly makes less, and takes 70 MiB more."},
    {REPL_CONFIG_AGENT, "workers", REPL_ROLE_AGENT, REPL_CONFIG_COUNT, IN_CONFIG(workers),
     "0", 0, 256, HELP_WORKERS},
    {REPL_CONFIG_AGENT, "nice", REPL_ROLE_AGENT, REPL_CONFIG_COUNT, IN_CONFIG(nice),
     "10", 0, 19, HELP_NICE},

    {REPL_CONFIG_REMOTE, "address", REPL_ROLE_AGENT, REPL_CONFIG_ADDRESS,
     IN_CONFIG(remote_address), NULL, 1, 65535,
     "Where the site listens: a name or an address, a colon and a port. An IPv6 address stands "
     "in brackets: [2001:db8::7]:7420."},
    {REPL_CONFIG_REMOTE, "fingerprint", REPL_ROLE_AGENT, REPL_CONFIG_FINGERPRINT,
     IN_CONFIG(remote_fingerprint), NULL, 0, 0,
     "The fingerprint of the site's key, which \"repl keygen\" printed there. A site with another "
     "key is refused."},

    {REPL_CONFIG_SITE, "listen", REPL_ROLE_SITE, REPL_CONFIG_ADDRESS, IN_CONFIG(listen),
     "0.0.0.0:7420", 0, 65535,
     "The address and port to listen on; [::]:7420 for IPv6 and IPv4. Port 0 lets the kernel "
     "choose one."},
    {REPL_CONFIG_SITE, "key", REPL_ROLE_SITE, REPL_CONFIG_PATH, IN_CONFIG(key),
     "/etc/repl/site.key", 1, PATH_SIZE_MAX,
     "The site's key file, made with \"repl keygen\". Its fingerprint goes into [remote] at each "
     "host."},
    {REPL_CONFIG_SITE, "store", REPL_ROLE_SITE, REPL_CONFIG_STORE, IN_CONFIG(store),
     "/var/lib/repl-site", 1, PATH_SIZE_MAX,
     "Where the history lies: a directory, which then has the index and the replicas too, or a "
     "bucket of object storage, s3://BUCKET/PREFIX. A site alone writes to its bucket below its "
     "prefix; a point is acknowledged when it is there."},
    {REPL_CONFIG_SITE, "state", REPL_ROLE_SITE, REPL_CONFIG_PATH, IN_CONFIG(state),
     "/var/lib/repl-site", 1, PATH_SIZE_MAX,
     "With a store in a bucket: the directory for what is no part of the history, and is made "
     "anew where it is lost. Uploads, the index, replicas."},
    {REPL_CONFIG_SITE, "s3_endpoint", REPL_ROLE_SITE, REPL_CONFIG_URL, IN_CONFIG(s3_endpoint),
     "", 1, PATH_SIZE_MAX,
     "The service that has the bucket, https://HOST or http://HOST:PORT. Without it the "
     "environment's AWS_ENDPOINT_URL, else AWS itself."},
    {REPL_CONFIG_SITE, "s3_region", REPL_ROLE_SITE, REPL_CONFIG_TEXT, IN_CONFIG(s3_region),
     "", 1, 64, "Its region. Without it the environment's AWS_REGION, else us-east-1."},
    {REPL_CONFIG_SITE, "s3_credentials", REPL_ROLE_SITE, REPL_CONFIG_PATH,
     IN_CONFIG(s3_credentials), "", 1, PATH_SIZE_MAX,
     "A file with aws_access_key_id and aws_secret_access_key below a line [default], or that of "
     "s3_profile. It must be readable by the site's user only. When the service refuses them it is "
     "read again, so keys can be replaced while the site runs. Without it the environment's "
     "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."},
    {REPL_CONFIG_SITE, "s3_profile", REPL_ROLE_SITE, REPL_CONFIG_TEXT, IN_CONFIG(s3_profile),
     "", 1, 64, "Which section of that file. Without it the environment's AWS_PROFILE, else default."},
    {REPL_CONFIG_SITE, "s3_ca", REPL_ROLE_SITE, REPL_CONFIG_PATH, IN_CONFIG(s3_ca),
     "", 1, PATH_SIZE_MAX,
     "A file of certificates (PEM) to trust instead of the system's, for a service with one of "
     "its own."},
    {REPL_CONFIG_SITE, "s3_host_style", REPL_ROLE_SITE, REPL_CONFIG_YES_NO,
     IN_CONFIG(s3_host_style), "no", 0, 0,
     "Whether the bucket is part of the host's name (BUCKET.HOST/KEY), as AWS prefers, or of the "
     "path (HOST/BUCKET/KEY), as most others do."},
    {REPL_CONFIG_SITE, "object_lock", REPL_ROLE_SITE, REPL_CONFIG_DURATION,
     IN_CONFIG(object_lock_ms), "", DAY_MS, 3650 * (uint64_t)DAY_MS,
     "Of a store in a bucket that was made with object lock: for how long nobody can delete or "
     "change what the site writes, not even with the site's credentials or the owner's (mode "
     "COMPLIANCE). What the history needs is locked anew before that is over; what is given up stays "
     "until it is, and then goes by a rule of the bucket's (docs/formats/bucket.md). The site "
     "does not start where the bucket does not lock."},
    {REPL_CONFIG_SITE, "retention", REPL_ROLE_SITE, REPL_CONFIG_RETENTION, IN_CONFIG(retention),
     "1s:1h 1m:1d 1h:30d 1d:1y", 0, 0, HELP_RETENTION},
    {REPL_CONFIG_SITE, "grace", REPL_ROLE_SITE, REPL_CONFIG_DURATION, IN_CONFIG(grace_ms),
     "1d", MINUTE_MS, 90 * (uint64_t)DAY_MS,
     "How long the files of points that were given up stay, when others have taken their place: a "
     "restore that began before that goes on reading them for so long."},
    {REPL_CONFIG_SITE, "merge_rate", REPL_ROLE_SITE, REPL_CONFIG_SIZE,
     IN_CONFIG(merge_rate_bytes), "64M", 0, (uint64_t)1 << 40,
     "How many bytes a second merging may write. 0: as fast as it goes."},
    {REPL_CONFIG_SITE, "space_limit", REPL_ROLE_SITE, REPL_CONFIG_SIZE,
     IN_CONFIG(space_limit_bytes), "", MIB, 1024 * PIB,
     "What the histories of all volumes may hold together: their segments, those included that have "
     "been merged and wait for the end of their grace, their logs, and uploads under way. Replicas "
     "and the index do not count. At the limit no segment is taken in: hosts spool, points age, "
     "\"repl status\" says so, and reading, merging and reports go on. Merging itself is not held "
     "back, as it is what makes room. When 3 % of the limit are free again, taking in goes on."},
    {REPL_CONFIG_SITE, "space_reserve", REPL_ROLE_SITE, REPL_CONFIG_RESERVE,
     IN_CONFIG(space_reserve_bytes), "auto", 0, PIB,
     "What stays free of the filesystem that has the store (of one in a bucket: state): below it no "
     "segment is taken in, as at space_limit, so that there is room for the logs, the index, the "
     "replicas and for merging. \"auto\" is 1 GiB, and of a filesystem below 20 GiB a twentieth. "
     "0: until the filesystem is full."},
    {REPL_CONFIG_SITE, "scrub_every", REPL_ROLE_SITE, REPL_CONFIG_DURATION,
     IN_CONFIG(scrub_every_ms), "30d", 0, 3650 * (uint64_t)DAY_MS,
     "How long any byte in the store may go without being read and verified, in the background and "
     "as evenly as that allows. Damage is said in \"repl status\". 0d: never."},
    {REPL_CONFIG_SITE, "scrub_rate", REPL_ROLE_SITE, REPL_CONFIG_SIZE,
     IN_CONFIG(scrub_rate_bytes), "32M", 0, (uint64_t)1 << 40,
     "How many bytes a second that may read at most, all volumes together. 0: as fast as it goes."},
    {REPL_CONFIG_SITE, "control", REPL_ROLE_SITE, REPL_CONFIG_PATH, IN_CONFIG(control),
     "/run/repl/site.sock", 1, SOCKET_PATH_SIZE_MAX, HELP_CONTROL},
    {REPL_CONFIG_SITE, "connections", REPL_ROLE_SITE, REPL_CONFIG_COUNT, IN_CONFIG(connections),
     "1024", 16, 65536,
     "How many connections may be open at once. A host has up to three for each volume while it "
     "sends, a restore one for each thread that reads. What comes beyond it waits. Each costs a "
     "descriptor (LimitNOFILE=), 64 KiB of memory and a TLS session, and while it sends up to 2 MiB, "
     "of 256 MiB for all (128 KiB where there are very many). Those that have not shown a "
     "known key yet have at most half of them, for 10 s each."},
    {REPL_CONFIG_SITE, "strangers_per_address", REPL_ROLE_SITE, REPL_CONFIG_COUNT,
     IN_CONFIG(strangers_per_address), "16", 1, 4096,
     "How many connections that have not shown a known key yet may come from one address (of IPv6, "
     "one /64); the oldest makes room for the next. More where many hosts lie behind one address "
     "and connect at the same moment. Hosts whose key is known are not counted."},
    {REPL_CONFIG_SITE, "workers", REPL_ROLE_SITE, REPL_CONFIG_COUNT, IN_CONFIG(workers),
     "0", 0, 256, HELP_SITE_WORKERS},
    {REPL_CONFIG_SITE, "nice", REPL_ROLE_SITE, REPL_CONFIG_COUNT, IN_CONFIG(nice),
     "10", 0, 19, HELP_NICE},

    {REPL_CONFIG_VOLUME, "kind", REPL_ROLE_AGENT, REPL_CONFIG_KIND, IN_VOLUME(kind),
     "block", 0, 0,
     "What is protected: a block device, or a directory with all that is in it."},
    {REPL_CONFIG_VOLUME, "device", REPL_ROLE_AGENT, REPL_CONFIG_PATH, IN_VOLUME(device),
     "", 1, PATH_SIZE_MAX,
     "The block device to protect, by a path that stays the same over reboots, such as one in "
     "/dev/disk/by-id. Required, unless the kind is tree."},
    {REPL_CONFIG_VOLUME, "path", REPL_ROLE_AGENT, REPL_CONFIG_PATH, IN_VOLUME(path),
     "", 1, PATH_SIZE_MAX,
     "The directory to protect, of kind tree. What other filesystems are mounted below it is left "
     "out. The agent's state must not lie in it."},
    {REPL_CONFIG_VOLUME, "exclude", REPL_ROLE_AGENT, REPL_CONFIG_PATTERNS, IN_VOLUME(exclude),
     "", 1, REPL_CONFIG_LINE_MAX,
     "What of a directory is left out, with all below it: patterns with ?, * and [], parted by "
     "blanks (one in a pattern is written \\ and a blank). A pattern without a slash is for any name "
     "in the tree, one with a slash for a path from its top: \"*.tmp /cache /home/*/.thumbnails\"."},
    {REPL_CONFIG_VOLUME, "rpo", REPL_ROLE_AGENT, REPL_CONFIG_DURATION, IN_VOLUME(rpo_ms),
     "4s", 2 * SECOND_MS, DAY_MS,
     "The age that the newest point at the site may reach. Points are cut often enough to stay "
     "below it."},
    {REPL_CONFIG_VOLUME, "sync", REPL_ROLE_AGENT, REPL_CONFIG_YES_NO, IN_VOLUME(sync),
     "yes", 0, 0,
     "Whether dirty data of the mounted filesystem is written out (syncfs) ahead of each point, so "
     "that files which nobody synced are seconds old as well. Of no use to a tree, which is read as it "
     "is in memory."},
    {REPL_CONFIG_VOLUME, "quiesce", REPL_ROLE_AGENT, REPL_CONFIG_QUIESCE, IN_VOLUME(quiesce),
     "window", 0, 0,
     "How a point becomes consistent. \"window\" finds a moment between writes, for which nobody "
     "waits. \"freeze\" freezes the mounted filesystem for each point, and writers wait for as "
     "long; \"window-else-freeze\" does so only where no window was found. \"command\" runs "
     "pre_command, finds a window and runs post_command. \"snapshot\", of a tree on btrfs, reads each "
     "point from a snapshot, which is removed when that is done: no writer waits, and there are "
     "points however busy the tree is; \"window-else-snapshot\" does so only where no window was "
     "found, which spares what a snapshot costs where a tree often rests. "

     "\"window-else-files\", for volumes of kind "
     "tree: where no window was found, each file is read until it does not change meanwhile. Each "
     "is then one of its own states since the begin of the point, and so is each name, but not all of "
     "them are of one moment. What is written to without a pause (a database) is taken in the "
     "end as it was read last, which \"repl status\" says."},
    {REPL_CONFIG_VOLUME, "freeze_budget", REPL_ROLE_AGENT, REPL_CONFIG_DURATION,
     IN_VOLUME(freeze_budget_ms), "250ms", 50, 10 * SECOND_MS,
     "How long writers may wait for a freeze, counted from its begin. When it is over the "
     "filesystem goes on and the point is given up."},
    {REPL_CONFIG_VOLUME, "pre_command", REPL_ROLE_AGENT, REPL_CONFIG_COMMAND,
     IN_VOLUME(pre_command), "", 1, REPL_CONFIG_LINE_MAX,
     "Run by /bin/sh -c as root before the freeze, or before the window where quiesce is "
     "\"command\", with the volume's name in $REPL_VOLUME. If it fails there is no point."},
    {REPL_CONFIG_VOLUME, "post_command", REPL_ROLE_AGENT, REPL_CONFIG_COMMAND,
     IN_VOLUME(post_command), "", 1, REPL_CONFIG_LINE_MAX,
     "Run after the filesystem goes on. Once pre_command has been started it always runs, also "
     "when the agent died; after a crash of the guard perhaps twice."},
    {REPL_CONFIG_VOLUME, "command_timeout", REPL_ROLE_AGENT, REPL_CONFIG_DURATION,
     IN_VOLUME(command_timeout_ms), "10s", 100, HOUR_MS,
     "How long each of the two commands may take. Then it is killed, with all of its process "
     "group, and has failed."},
    {REPL_CONFIG_VOLUME, "group", REPL_ROLE_AGENT, REPL_CONFIG_NAME, IN_VOLUME(group),
     "", 1, REPL_VOLUME_NAME_MAX,
     "Volumes with the same group, block devices and trees alike, are cut at one common point, as "
     "often as the least rpo among them asks for. They must have the same quiesce; with \"freeze\" "
     "the filesystems of all are frozen at one moment, for as long as the least freeze_budget among "
     "them allows."},
    {REPL_CONFIG_VOLUME, "replica", REPL_ROLE_SITE, REPL_CONFIG_REPLICA, IN_VOLUME(replica),
     "image", 1, PATH_SIZE_MAX,
     "The live copy: \"image\" for a file below the store, \"none\" for history alone, or the path "
     "of a device or file, which will be overwritten. Of a directory tree it is a directory: "
     "\"image\" for one below the store, or the path of an empty one; the tree is in \"tree\" in "
     "it."},
    {REPL_CONFIG_VOLUME, "retention", REPL_ROLE_SITE, REPL_CONFIG_RETENTION, IN_VOLUME(retention),
     "", 0, 0, HELP_RETENTION " Without it, as [site] says."},
    {REPL_CONFIG_VOLUME, "space_limit", REPL_ROLE_SITE, REPL_CONFIG_SIZE,
     IN_VOLUME(space_limit_bytes), "", MIB, 1024 * PIB,
     "What the history of this volume may hold, as space_limit of [site] says for all."},

    {REPL_CONFIG_PEER, "fingerprint", REPL_ROLE_SITE, REPL_CONFIG_FINGERPRINT,
     IN_PEER(fingerprint), NULL, 0, 0,
     "The fingerprint of the peer's key, which \"repl keygen\" printed there."},
    {REPL_CONFIG_PEER, "volumes", REPL_ROLE_SITE, REPL_CONFIG_NAMES, IN_PEER(volumes),
     NULL, 1, REPL_CONFIG_NAMES_MAX,
     "The volumes that this key may write (role source) or read (role recovery), parted by commas "
     "or spaces, or * for all. The list may go on in indented lines."},
    {REPL_CONFIG_PEER, "role", REPL_ROLE_SITE, REPL_CONFIG_PEER_ROLE, IN_PEER(recovery),
     "source", 0, 0,
     "\"source\" for a protected host, \"recovery\" for somebody who restores: that key may read "
     "and never write."},
    {REPL_CONFIG_PEER, "tenant", REPL_ROLE_SITE, REPL_CONFIG_NAME, IN_PEER(tenant),
     "", 0, 0,
     "Whose host it is. Volumes that hosts of one tenant write share chunks: what one of them has "
     "sent, none of the others sends again. Without it each volume shares with itself alone. A "
     "volume keeps the tenant that it once had."},
    {REPL_CONFIG_PEER, "revoked", REPL_ROLE_SITE, REPL_CONFIG_YES_NO, IN_PEER(revoked),
     "no", 0, 0,
     "With \"yes\" the key is known and refused, with a message that says so."},
    {REPL_CONFIG_SECTION_COUNT, NULL, 0, 0, 0, NULL, 0, 0, NULL},
};
/* clang-format on */

_Static_assert(sizeof repl_config_options / sizeof repl_config_options[0] <=
                   REPL_CONFIG_OPTIONS_MAX,
               "the parser has a place for each option");

const struct repl_config_section_info repl_config_sections[REPL_CONFIG_SECTION_COUNT] = {
    [REPL_CONFIG_AGENT] = {"agent", false, false, "The agent on a protected host."},
    [REPL_CONFIG_REMOTE] = {"remote", false, true, "The site that the agent ships to."},
    [REPL_CONFIG_SITE] = {"site", false, false, "The site that stores."},
    [REPL_CONFIG_VOLUME] =
        {"volume", true, false,
         "One for each volume. At a host it says what to protect; at the site it "
         "is only needed for what differs from the defaults."},
    [REPL_CONFIG_PEER] = {"peer", true, false,
                          "One for each host or operator that may speak to the site."},
};

static void print_size(FILE *out, uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
    unsigned unit = 0;
    for (; unit < 5 && bytes != 0 && bytes % 1024 == 0; unit++)
        bytes /= 1024;
    fprintf(out, "%" PRIu64 " %s", bytes, units[unit]);
}

static void print_duration(FILE *out, uint64_t ms)
{
    if (ms % DAY_MS == 0)
        fprintf(out, "%" PRIu64 "d", ms / DAY_MS);
    else if (ms % HOUR_MS == 0)
        fprintf(out, "%" PRIu64 "h", ms / HOUR_MS);
    else if (ms % SECOND_MS != 0)
        fprintf(out, "%" PRIu64 "ms", ms);
    else
        fprintf(out, "%" PRIu64 "s", ms / SECOND_MS);
}

void repl_config_print_range(FILE *out, const struct repl_config_option *option)
{
    switch (option->type) {
    case REPL_CONFIG_PATH:
        fputs("an absolute path", out);
        if (option->max < PATH_SIZE_MAX)
            fprintf(out, " of at most %" PRIu64 " bytes", option->max);
        break;
    case REPL_CONFIG_RETENTION:
        fputs("EVERY:FOR ..., or everything", out);
        break;
    case REPL_CONFIG_STORE:
        fputs("an absolute path, or s3://BUCKET/PREFIX", out);
        break;
    case REPL_CONFIG_URL:
        fputs("https://HOST or http://HOST:PORT", out);
        break;
    case REPL_CONFIG_TEXT:
        fprintf(out, "a word of at most %" PRIu64 " bytes", option->max);
        break;
    case REPL_CONFIG_ADDRESS:
        fputs("host:port", out);
        break;
    case REPL_CONFIG_FINGERPRINT:
        fputs("SHA256: and 64 hex digits", out);
        break;
    case REPL_CONFIG_RESERVE:
        fputs("auto or ", out);
        __attribute__((fallthrough));
    case REPL_CONFIG_SIZE:
        fputs("a size from ", out);
        print_size(out, option->min);
        fputs(" to ", out);
        print_size(out, option->max);
        break;
    case REPL_CONFIG_DURATION:
        fputs("a time from ", out);
        print_duration(out, option->min);
        fputs(" to ", out);
        print_duration(out, option->max);
        break;
    case REPL_CONFIG_COUNT:
        fprintf(out, "a number from %" PRIu64 " to %" PRIu64, option->min, option->max);
        break;
    case REPL_CONFIG_BANDWIDTH:
        fputs("sizes, each with a time HH:MM-HH:MM or one without", out);
        break;
    case REPL_CONFIG_COMPRESSION:
        fprintf(out, "auto or a number from %" PRIu64 " to %" PRIu64, option->min, option->max);
        break;
    case REPL_CONFIG_YES_NO:
        fputs("yes or no", out);
        break;
    case REPL_CONFIG_PEER_ROLE:
        fputs("source or recovery", out);
        break;
    case REPL_CONFIG_REPLICA:
        fputs("image, none or an absolute path", out);
        break;
    case REPL_CONFIG_KIND:
        fputs("block or tree", out);
        break;
    case REPL_CONFIG_PATTERNS:
        fputs("patterns", out);
        break;
    case REPL_CONFIG_QUIESCE:
        fputs("one of the words below", out);
        break;
    case REPL_CONFIG_COMMAND:
        fputs("a shell command", out);
        break;
    case REPL_CONFIG_NAME:
        fputs("a name", out);
        break;
    case REPL_CONFIG_NAMES:
        fputs("volume names or *", out);
        break;
    }
}

static void print_option(FILE *out, bool troff, const struct repl_config_option *option)
{
    fputs(troff ? ".TP\n.B " : "\n    ", out);
    fputs(option->key, out);
    fputs(troff ? "\n" : " = ", out);
    repl_config_print_range(out, option);
    if (option->initial == NULL)
        fputs("; required", out);
    else if (option->initial[0] != '\0')
        fprintf(out, "; default %s", option->initial);
    else
        fputs("; default none", out);
    fputs(troff ? ".\n.br\n" : "\n", out);
    if (troff)
        repl_document_troff(out, option->help);
    else
        repl_document_fill(out, 8, option->help);
}

static const char *file_of(const struct repl_config_option *option)
{
    return option->role == REPL_ROLE_AGENT ? REPL_AGENT_CONFIG_PATH : REPL_SITE_CONFIG_PATH;
}

static void print_section(FILE *out, bool troff, const struct repl_config_option *option)
{
    const struct repl_config_section_info *section = &repl_config_sections[option->section];
    fprintf(out, troff ? ".SS [%s%s] in %s\n" : "\n[%s%s] in %s\n", section->name,
            section->named ? " NAME" : "", file_of(option));
    if (troff)
        repl_document_troff(out, section->help);
    else
        repl_document_fill(out, 4, section->help);
}

static const char document_intro[] =
    "A file has [sections] of \"key = value\" lines, which start in the first column. A line that "
    "starts with # or ; is a comment, and so is what follows a space and ; after a value. A line "
    "has at most " TEXT_OF(
        REPL_CONFIG_LINE_MAX) " bytes; only a list of volumes may go on in further, indented "
                              "lines.\n"
                              "\n"
                              "A size is a number of bytes, or one with K, M, G, T or P behind it "
                              "(powers of 1024): 64M, "
                              "10 GiB. A time has its unit: 250ms, 4s, 10 min, 1h, 1d. A NAME has "
                              "up to 64 letters, digits, "
                              "dots, underscores and dashes, the first of them no dot or dash.";

void repl_config_document(FILE *out, bool troff)
{
    if (troff)
        repl_document_troff(out, document_intro);
    else
        repl_document_fill(out, 0, document_intro);

    const struct repl_config_option *before = NULL;
    for (const struct repl_config_option *option = repl_config_options; option->key != NULL;
         before = option, option++) {
        /* A section that both roles have comes once for each. */
        if (before == NULL || before->section != option->section || before->role != option->role)
            print_section(out, troff, option);
        print_option(out, troff, option);
    }
}
