/*
 * Where a volume's history is read from: a site, over TLS, or a store directory
 * when no site is running. Both give the same catalogue and the same bytes; what
 * is made of them is history.h's business.
 */
#ifndef REPL_AGENT_ORIGIN_H
#define REPL_AGENT_ORIGIN_H

#include <stdatomic.h>

#include "format/verified_record.h"
#include "format/wire.h"
#include "link/client.h"
#include "link/throttle.h"
#include "segment/frame.h"
#include "store/chunk_reader.h"
#include "store/store.h"

/* A change of how the volume fared, by the site's clock. Only a store's log has them. */
struct repl_state_change {
    int64_t time_ns;
    enum repl_state state;
    char cause[REPL_WIRE_TEXT_MAX + 1];
};

/* What is committed of a volume, oldest first. Zero-initialise. */
struct repl_catalogue {
    struct repl_points_entry *points;
    size_t point_count;
    struct repl_segments_entry *segments;
    size_t segment_count;
    struct repl_segment_id *supplies; /* in no particular order */
    size_t supply_count;
    struct repl_state_change *states;
    size_t state_count;
    struct repl_log_mark *marks; /* names of points */
    size_t mark_count;
    bool names_unknown; /* they could not be read, or the site is too old for them */
    bool damaged;       /* the log is not whole: committed history may be missing from this list */
    char note[REPL_ERROR_TEXT_SIZE]; /* what the reader should know of it; "" if nothing */
};
void repl_catalogue_fini(struct repl_catalogue *catalogue);

struct repl_origin;

struct repl_origin_ops {
    void (*close)(struct repl_origin *origin);
    REPL_RESULT(*catalogue)
    (struct repl_origin *origin, struct repl_catalogue *out, struct repl_error *err);
    /* The size of a segment or supply file. */
    REPL_RESULT(*size)
    (struct repl_origin *origin, const struct repl_segment_id *id, uint64_t *size,
     struct repl_error *err);
    /* Exactly size bytes; file_size is that of the whole. Any number of threads. */
    REPL_RESULT(*read_at)
    (struct repl_origin *origin, const struct repl_segment_id *id, uint64_t file_size,
     uint64_t offset, void *out, size_t size, struct repl_error *err);
    /* Headers and ends of segments, see struct repl_tails, within the message that *body then is,
     * the caller's to free. NULL where to open a segment costs no more. REPL_E_VERSION: the site is
     * too old for it. */
    REPL_RESULT(*tails)
    (struct repl_origin *origin, const struct repl_unopened *unopened, void **body,
     struct repl_tails *out, struct repl_error *err);
    /* Parts of a frame of a segment, see struct repl_slices, one behind the other into out. NULL
     * where all of a frame costs no more. REPL_E_VERSION: the site is too old for it. Any number of
     * threads, each with a coder of its own. */
    REPL_RESULT(*slices)
    (struct repl_origin *origin, const struct repl_segment_id *id, const struct repl_slices *wanted,
     struct repl_frame_coder *coder, void *out, struct repl_error *err);
    /* The bytes of up to REPL_WANTED_CHUNKS_MAX chunks, one behind the other in the order of the
     * names, that another volume of the pool brought. REPL_E_MISSING: one of them is not to be had.
     * They are the caller's to compare with their names. Any number of threads. */
    REPL_RESULT(*chunks)
    (struct repl_origin *origin, const struct repl_digest *names, uint32_t count, void *out,
     struct repl_error *err);
    /* What the site's replica holds in up to page_count (at most REPL_DIGESTS_MAX) pages from
     * first_page on. NULL where there is no site to ask. REPL_E_VERSION: it is too old for it. */
    REPL_RESULT(*digests)
    (struct repl_origin *origin, uint64_t first_page, uint32_t page_count, struct repl_digests *out,
     struct repl_error *err);
    /* Gives a point a name. NULL where there is no site to ask. REPL_E_VERSION: it is too old for
     * it. */
    REPL_RESULT(*mark)
    (struct repl_origin *origin, const struct repl_mark *mark, struct repl_error *err);
    /* When each segment was verified last, and what was found damaged then, as the site has it; of
     * a store in a bucket only when each was committed. REPL_E_MISSING: it is too old to say.
     * Behind catalogue. */
    REPL_RESULT(*verified)
    (struct repl_origin *origin, struct repl_verified_list *out, struct repl_error *err);
    /* Which points are touched by what is damaged. NULL where there is no site to ask.
     * REPL_E_MISSING: it is too old to say. */
    REPL_RESULT(*damaged)
    (struct repl_origin *origin, struct repl_damaged *out, struct repl_error *err);
    /* Makes calls that wait for a site give up. From any thread. */
    void (*stop)(struct repl_origin *origin);
};

/* The volume's name is kept in it. */
struct repl_origin {
    const struct repl_origin_ops *ops;
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    char label[256];      /* "the store /var/lib/repl-site": for messages */
    char directory[4096]; /* of the volume, where the origin is a store; else "" */
    bool impatient; /* a site that is away is waited for some seconds, not for a minute; then calls
                       fail at once until it has answered again */
    struct repl_throttle *throttle; /* the caller's, which outlives it; NULL: no limit */
    _Atomic uint64_t fetched_bytes; /* of segments and chunks, since it was opened */
};

/* For those who implement ops, ahead of fetching so many bytes of segments or chunks: waits for the
 * limit, and counts them. REPL_E_RETRY: stopped. */
REPL_RESULT repl_origin_fetch(struct repl_origin *origin, uint64_t bytes, struct repl_error *err);

REPL_RESULT repl_origin_open_store(const struct repl_store_options *options, const char *volume,
                                   struct repl_origin **out, struct repl_error *err);
/* Where a chunk lies that another volume of the pool brought, by whoever knows; not its at. From
 * any number of threads. */
typedef repl_result repl_chunk_find_fn(void *context, const struct repl_digest *name,
                                       struct repl_placed_chunk *out, bool *found,
                                       struct repl_error *err);
/* The same of a store that is open and stays so for longer than the origin, as does the context of
 * find, which is asked in the place of the volumes' lists. */
REPL_RESULT repl_origin_of_store(struct repl_store *store, const char *volume,
                                 repl_chunk_find_fn *find, void *find_context,
                                 struct repl_origin **out, struct repl_error *err);
REPL_RESULT repl_origin_open_site(const struct repl_client_options *options, const char *volume,
                                  struct repl_origin **out, struct repl_error *err);

/* What the command line says of it, all optional. */
struct repl_origin_options {
    const char *store;
    const char *site, *fingerprint, *key;
    const char *config;
    struct repl_throttle *throttle; /* see struct repl_origin */
};
/* Takes what is not given from the agent's configuration. */
REPL_RESULT repl_origin_open(const struct repl_origin_options *options, const char *volume,
                             struct repl_origin **out, struct repl_error *err);

/* The rows of a verb's option table that fill a struct repl_origin_options with static storage. */
#define REPL_ORIGIN_OPTION_ROWS(where)                                                             \
    {"store", "DIR|s3://BUCKET/PREFIX", REPL_OPTION_TEXT, &(where).store,                          \
     "Reads this store itself, for when its site is not running. A bucket is reached as the "      \
     "environment says (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on), or the site's "            \
     "configuration that --config names."},                                                        \
        {"site", "HOST:PORT", REPL_OPTION_TEXT, &(where).site,                                     \
         "Asks the site there, instead of the one in the configuration's [remote] section."},      \
        {"fingerprint", "SHA256:...", REPL_OPTION_TEXT, &(where).fingerprint,                      \
         "The fingerprint of that site's key. Required with --site."},                             \
        {"key", "FILE", REPL_OPTION_TEXT, &(where).key,                                            \
         "The key to show to the site, instead of the configuration's."},                          \
    {                                                                                              \
        "config", "FILE", REPL_OPTION_TEXT, &(where).config,                                       \
            "The agent's configuration, which names the site and the key. Without it "             \
            "/etc/repl/agent.conf is read if it is needed."                                        \
    }

#endif
