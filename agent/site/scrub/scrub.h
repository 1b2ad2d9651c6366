/*
 * The scrub: reads all that is stored, in the background, so that what rots on a
 * disk or in a bucket is known before somebody needs it.
 *
 *   scrub.c          its turns, on the loop: whose is it, what is told
 *   scrub_visit.c    a visit of a volume, on a thread of its own: what is due, reading it
 *   scrub_gone.c     supplies that are not there any more
 *   scrub_heal.c     from which point on a damaged segment does no harm
 *   scrub_read.c     one segment, to its last byte
 *   scrub_repair.c   a damaged segment, or supply (scrub_supply.c), made what it was:
 *   scrub_frames.c   of what the replica holds,
 *   scrub_later.c    or later segments say,
 *   scrub_chunks.c   or other segments hold,
 *   scrub_refer.c    or the replicas of volumes that refer to it
 *   scrub_harm.c     the points of whichever volume that refer to what is damaged
 *   scrub_resend.c   what the source is asked to send once more
 *
 * What was read when is in a file of the volume's directory (store/verified_file.h).
 *
 * What was read longest ago comes first, at the pace that gets around in the age
 * that is wanted (journal/scrub_plan.h), never faster than scrub_rate. One volume
 * at a time, at the lowest priority, past the page cache; it waits while a merge
 * reads and writes, unless something is late. Nothing of a volume is held: what a
 * merge has taken away meanwhile is not missing.
 *
 * What it finds damaged stays where it is until what takes its place has been
 * found to be what was committed. The volume is DEGRADED until it has
 * been read whole again, or is not part of the history any more.
 */
#ifndef REPL_AGENT_SCRUB_H
#define REPL_AGENT_SCRUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/verified_record.h"
#include "format/wire.h"
#include "repl/error.h"
#include "store/store.h"

struct repl_site;
struct repl_volume_status;
struct site_request;
struct site_volume;
struct site_patch;
struct site_scrub;

/* A segment that is not what it should be, and the points that are made of it. */
struct scrub_damage {
    struct repl_segment_id id;
    uint64_t first_seq, last_seq; /* 0: none that can be restored */
    uint64_t healed_seq; /* from this point on all that was damaged is something else; 0: none */
    uint64_t refer_first, refer_last; /* around those that refer to chunks in it; 0: none known */
    bool opens;                       /* only frames are damaged, which not every restore reads */
    bool looked;                      /* by the last visit */
    char mates[128]; /* other volumes that refer to such chunks: "b, c"; "": none known */
};

#define SCRUB_DAMAGES_MAX 64u /* that are kept in memory; all are counted, and in the file */

/* A merge that was logged: its pieces were read back then. */
struct scrub_merged {
    uint64_t merge;
    int64_t time_ns;
};

/* Segments that somebody could not read: they are due unless they were read since. */
struct scrub_suspicion {
    uint64_t first_seq, last_seq; /* by what they end in; 0: none */
    int64_t since_ns;
};

/* Of a volume, on the loop. Zeroed: not visited yet. */
struct scrub_of_volume {
    bool known, looked; /* the next; damages */
    int64_t oldest_ns;  /* when that was read whole which was read longest ago */
    int64_t visited_ns; /* monotonic */
    int64_t next_ns;    /* monotonic: no visit before that */
    double credit;      /* bytes that may be read by now */
    uint64_t read_bytes, damaged_count, repaired_count;
    struct scrub_damage damages[SCRUB_DAMAGES_MAX];
    size_t damage_count;
    struct scrub_merged *merged;
    size_t merged_count;
    char problem[REPL_ERROR_TEXT_SIZE]; /* why nothing is read; "" */
    struct scrub_suspicion suspicion;
    struct repl_resend resend; /* what the source is asked for; runs: heap */
    bool resend_stale;         /* more than that has been found */
    bool full_wanted;          /* all of it is wanted, as opaque_seq's segment cannot be opened */
    uint64_t opaque_seq;       /* the newest such */
    /* Since the source was told: when to see what it has sent, and how long to wait behind that;
     * 0: it was not. */
    int64_t resend_look_ns, resend_pause_ns;
};

REPL_RESULT site_scrub_new(struct repl_site *site, struct site_scrub **out, struct repl_error *err);
/* Not while busy. NULL does nothing. */
void site_scrub_free(struct site_scrub *scrub);
/* What is under way ends soon, and nothing else begins. */
void site_scrub_stop(struct site_scrub *scrub);
bool site_scrub_is_busy(const struct site_scrub *scrub);
/* Every few seconds. */
void site_scrub_tick(struct site_scrub *scrub);

/* Whether the segment was found damaged, and not whole since: chunks in it are not to be relied on.
 * From any thread. */
bool site_scrub_doubts(struct site_scrub *scrub, const char *volume,
                       const struct repl_segment_id *id);
/* Something of the segments that end in these points, or between them, could not be read. */
void site_scrub_suspect(struct site_volume *volume, uint64_t first_seq, uint64_t last_seq);
/* A merge of that number is in the volume's log. */
void site_scrub_merged(struct site_volume *volume, uint64_t merge, int64_t time_ns);
/* A segment that began behind from_seq has become history. */
void site_scrub_committed(struct site_volume *volume, uint64_t from_seq);
void site_scrub_volume_fini(struct site_volume *volume);
/* What a merge may take in the place of damaged frames of a segment of the volume; NULL: nothing.
 * The scrub's, until its next visit. */
const struct site_patch *site_scrub_patch(const struct site_scrub *scrub, const char *volume);
/* Answers what the source is asked to send once more. */
void site_scrub_resend(struct site_request *request);
/* Answers which points are touched by what is damaged. */
void site_scrub_damaged(struct site_request *request);
/* Adds what there is to say of a volume. */
void site_scrub_status(const struct site_volume *volume, int64_t now_ns,
                       struct repl_volume_status *out);

#endif
