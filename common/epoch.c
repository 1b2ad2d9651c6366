#include "epoch.h"

#include "base/ensure.h"

/* A comparison that was in vain takes at most one part in so many, plus one, of the time. */
#define REST_FACTOR 3
/* A clock that was set forward during a comparison makes it look as long as that. */
#define PAUSE_MAX_NS (INT64_C(900) * 1000000000)

/* Windows are tried for one part in so many of an interval, and so often at most (should the clock
 * be set back meanwhile); after that a rest of one part in so many. */
#define TRY_SHARE  2
#define TRIES_MAX  4000
#define VAIN_SHARE 4

/* Files are read again until so many rounds were cut per file, or at least so many and one part in
 * so many of an interval has passed since the first. */
#define FILES_ROUNDS_MAX   16
#define FILES_ROUNDS_LEAST 4
#define FILES_SHARE        4

/* Rounds that found more than three quarters of what the one before found: the writers are as fast
 * as the reading. */
#define STALLS_MAX 4

void repl_epoch_init(struct repl_epoch *epoch, int64_t interval_ns, enum repl_quiesce quiesce,
                     uint64_t next_seq, int64_t last_end_ns)
{
    *epoch = (struct repl_epoch){.interval_ns = interval_ns,
                                 .quiesce = quiesce,
                                 .next_seq = next_seq,
                                 .last_end_ns = last_end_ns};
}

/* A clock that was set back must not make a point older than the one before it. */
static int64_t not_before_last(const struct repl_epoch *epoch, int64_t now_ns)
{
    return now_ns > epoch->last_end_ns ? now_ns : epoch->last_end_ns;
}

/* --- rest ------------------------------------------------------------------------------------ */

static void rest(struct repl_epoch *epoch, int64_t due_ns)
{
    epoch->state = REPL_EPOCH_REST;
    epoch->due_ns = due_ns;
    epoch->quiesced = epoch->no_quiesce = false;
    epoch->files = epoch->per_file = false;
    epoch->files_rounds = 0;
    epoch->files_begin_ns = epoch->files_closed_ns = 0;
    epoch->tries_ns = 0;
    epoch->tries = epoch->stalls = 0;
    epoch->found = 0;
}

/* Tried again at once, a busy volume would be compared without pause, and a dying disk read so. */
static void rest_after_vain(struct repl_epoch *epoch, int64_t now_ns)
{
    if (epoch->tracked) {
        rest(epoch, now_ns + epoch->interval_ns / VAIN_SHARE);
        return;
    }
    int64_t took_ns = now_ns - epoch->round_begin_ns;
    epoch->pause_ns = took_ns <= 0                           ? 0
                      : took_ns < PAUSE_MAX_NS / REST_FACTOR ? REST_FACTOR * took_ns
                                                             : PAUSE_MAX_NS;
    rest(epoch, now_ns + epoch->interval_ns + epoch->pause_ns);
}

/* The next interval begins where this one ends, however long the cut took. */
static void rest_until_next(struct repl_epoch *epoch, int64_t now_ns)
{
    int64_t due_ns = epoch->began_ns + epoch->interval_ns;
    bool plausible = epoch->tracked && due_ns >= now_ns && due_ns <= now_ns + epoch->interval_ns;
    rest(epoch, plausible ? due_ns : epoch->tracked ? now_ns : now_ns + epoch->interval_ns);
}

bool repl_epoch_tick(struct repl_epoch *epoch, int64_t now_ns, int64_t *until_ns)
{
    *until_ns = INT64_MAX;
    if (epoch->state != REPL_EPOCH_REST)
        return false;
    /* a wall clock set back far would otherwise leave the volume alone until it has caught up */
    if (epoch->due_ns > now_ns + epoch->interval_ns + epoch->pause_ns)
        epoch->due_ns = now_ns + epoch->interval_ns;
    *until_ns = epoch->due_ns;
    if (now_ns < epoch->due_ns)
        return false;
    epoch->state = REPL_EPOCH_SYNCING;
    epoch->began_ns = now_ns;
    return true;
}

void repl_epoch_hurry(struct repl_epoch *epoch, int64_t now_ns)
{
    if (epoch->state == REPL_EPOCH_REST && epoch->due_ns > now_ns)
        epoch->due_ns = now_ns;
}

void repl_epoch_synced(struct repl_epoch *epoch)
{
    ensure(epoch->state == REPL_EPOCH_SYNCING);
    epoch->state = REPL_EPOCH_TRYING;
}

/* --- the round ------------------------------------------------------------------------------- */

static bool sectors_equal(const struct repl_write_counters *a, const struct repl_write_counters *b)
{
    return a->sectors_written == b->sectors_written && a->sectors_discarded == b->sectors_discarded;
}

bool repl_epoch_is_unchanged(const struct repl_epoch *epoch,
                             const struct repl_write_counters *counters, uint64_t pages)
{
    bool marked = epoch->tracked && pages > 0;
    return epoch->at_point && !epoch->quiesced && !marked &&
           sectors_equal(counters, &epoch->at_cut);
}

void repl_epoch_unchanged(struct repl_epoch *epoch, int64_t now_ns)
{
    ensure(epoch->state == REPL_EPOCH_TRYING);
    epoch->first_torn_ns = 0;
    epoch->torn = 0;
    rest_until_next(epoch, now_ns);
}

void repl_epoch_opened(struct repl_epoch *epoch, int64_t now_ns,
                       const struct repl_write_counters *counters, uint64_t pages)
{
    ensure(epoch->state == REPL_EPOCH_TRYING);
    epoch->round_begin = *counters;
    epoch->round_begin_ns = not_before_last(epoch, now_ns);
    if (epoch->files && epoch->files_begin_ns == 0)
        epoch->files_begin_ns = epoch->round_begin_ns;
    if (epoch->first_torn_ns == 0)
        epoch->first_torn_ns = now_ns;
    epoch->stalls += epoch->found > 0 && pages > epoch->found / 4 * 3;
    epoch->found = pages;
}

/* Whatever is read of it is of one state, however long that takes. */
static bool stands_still(const struct repl_epoch *epoch)
{
    return epoch->quiesced && epoch->quiesce != REPL_QUIESCE_COMMAND;
}

static bool may_quiesce(const struct repl_epoch *epoch)
{
    return epoch->tracked && !epoch->quiesced && !epoch->no_quiesce;
}

/* As soon as a small round is over, whatever came of it. */
static bool wants_quiesce(const struct repl_epoch *epoch)
{
    return may_quiesce(epoch) &&
           (epoch->quiesce == REPL_QUIESCE_FREEZE || epoch->quiesce == REPL_QUIESCE_COMMAND ||
            epoch->quiesce == REPL_QUIESCE_SNAPSHOT);
}

/* Only where there is no window. */
static bool is_last_resort(const struct repl_epoch *epoch)
{
    return epoch->quiesce == REPL_QUIESCE_WINDOW_ELSE_FREEZE ||
           epoch->quiesce == REPL_QUIESCE_WINDOW_ELSE_SNAPSHOT;
}

bool repl_epoch_is_whole(const struct repl_epoch *epoch, const struct repl_write_counters *counters)
{
    const struct repl_write_counters *begin = &epoch->round_begin;
    if (wants_quiesce(epoch))
        return false;
    if (!epoch->tracked)
        return sectors_equal(counters, begin);
    if (stands_still(epoch) || !begin->write_back || !counters->write_back)
        return counters->marks == begin->marks;
    return counters->flushes == begin->flushes && counters->fua_writes == begin->fua_writes;
}

static enum repl_epoch_verdict vain(struct repl_epoch *epoch, int64_t now_ns)
{
    rest_after_vain(epoch, now_ns);
    return REPL_EPOCH_VAIN;
}

static enum repl_epoch_verdict quiesce(struct repl_epoch *epoch)
{
    epoch->quiesced = true;
    epoch->tries_ns = 0;
    epoch->tries = 0;
    return REPL_EPOCH_QUIESCE;
}

bool repl_epoch_quiesce_first(struct repl_epoch *epoch)
{
    ensure(epoch->state == REPL_EPOCH_TRYING);
    return may_quiesce(epoch) && epoch->quiesce == REPL_QUIESCE_SNAPSHOT &&
           quiesce(epoch) == REPL_EPOCH_QUIESCE;
}

enum repl_epoch_verdict repl_epoch_not_quiesced(struct repl_epoch *epoch, int64_t now_ns)
{
    ensure(epoch->state == REPL_EPOCH_TRYING);
    epoch->quiesced = false;
    epoch->no_quiesce = true;
    return is_last_resort(epoch) ? vain(epoch, now_ns) : REPL_EPOCH_AGAIN;
}

void repl_epoch_quiesce_later(struct repl_epoch *epoch)
{
    ensure(epoch->state == REPL_EPOCH_TRYING);
    epoch->quiesced = false;
}

static bool tries_are_over(const struct repl_epoch *epoch, int64_t now_ns)
{
    int64_t first_ns = epoch->tries_ns != 0 ? epoch->tries_ns : epoch->round_begin_ns;
    return now_ns - first_ns >= epoch->interval_ns / TRY_SHARE || epoch->tries + 1 >= TRIES_MAX;
}

bool repl_epoch_gives_up(const struct repl_epoch *epoch, int64_t now_ns)
{
    return wants_quiesce(epoch) || stands_still(epoch) || tries_are_over(epoch, now_ns);
}

/* --- per file -------------------------------------------------------------------------------- */

static enum repl_epoch_verdict files_begin(struct repl_epoch *epoch)
{
    epoch->files = true;
    return REPL_EPOCH_AGAIN;
}

static enum repl_epoch_verdict files_closed(struct repl_epoch *epoch, int64_t now_ns,
                                            uint64_t unstable)
{
    if (epoch->files_rounds++ == 0)
        epoch->files_closed_ns = now_ns;
    bool known = unstable != REPL_UNSTABLE_UNKNOWN;
    bool late = now_ns - epoch->files_closed_ns >= epoch->interval_ns / FILES_SHARE;
    bool over = epoch->files_rounds >= (known && late ? FILES_ROUNDS_LEAST : FILES_ROUNDS_MAX);
    if (unstable != 0 && !over)
        return REPL_EPOCH_AGAIN;
    if (!known) {
        epoch->torn++;
        return vain(epoch, now_ns);
    }
    epoch->per_file = true;
    epoch->unstable = unstable;
    return REPL_EPOCH_WHOLE;
}

/* --- torn ------------------------------------------------------------------------------------ */

/* A round of few pages that was torn. */
static enum repl_epoch_verdict small_torn(struct repl_epoch *epoch, int64_t now_ns, bool give_up)
{
    epoch->torn++;
    if (!give_up) {
        epoch->tries++;
        if (epoch->tries_ns == 0)
            epoch->tries_ns = epoch->round_begin_ns;
        return REPL_EPOCH_AGAIN;
    }
    if (is_last_resort(epoch) && !epoch->quiesced)
        return quiesce(epoch);
    if (epoch->quiesce == REPL_QUIESCE_WINDOW_ELSE_FILES)
        return files_begin(epoch);
    return vain(epoch, now_ns);
}

enum repl_epoch_verdict repl_epoch_closed(struct repl_epoch *epoch, int64_t now_ns,
                                          const struct repl_write_counters *counters, bool small,
                                          const struct repl_epoch_group *group)
{
    ensure(epoch->state == REPL_EPOCH_TRYING);
    bool whole = (group == NULL || group->whole) && repl_epoch_is_whole(epoch, counters);
    bool is_try = small && (group == NULL || group->small || epoch->quiesced);
    bool give_up = repl_epoch_gives_up(epoch, now_ns) || (group != NULL && group->give_up);
    epoch->attempts++;
    epoch->stalls = small ? 0 : epoch->stalls;
    epoch->round_end_ns = not_before_last(epoch, now_ns);
    if (whole)
        return REPL_EPOCH_WHOLE;
    if (!epoch->tracked) {
        epoch->torn++;
        return vain(epoch, now_ns);
    }
    if (epoch->files)
        return files_closed(epoch, now_ns, counters->unstable);
    if (is_try || stands_still(epoch))
        return wants_quiesce(epoch) ? quiesce(epoch) : small_torn(epoch, now_ns, give_up);
    epoch->first_torn_ns = now_ns; /* so far it was the reading that took the time */
    if (small) {                   /* of others of the group */
        epoch->tries_ns = 0;
        epoch->tries = 0;
    }
    if (epoch->quiesce == REPL_QUIESCE_WINDOW_ELSE_SNAPSHOT && may_quiesce(epoch))
        return quiesce(epoch); /* which need not be short */
    if (epoch->stalls < STALLS_MAX)
        return REPL_EPOCH_AGAIN;
    epoch->torn++;
    return epoch->quiesce == REPL_QUIESCE_WINDOW_ELSE_FILES ? files_begin(epoch)
                                                            : vain(epoch, now_ns);
}

enum repl_epoch_verdict repl_epoch_spoilt(struct repl_epoch *epoch, int64_t now_ns)
{
    ensure(epoch->state == REPL_EPOCH_TRYING);
    epoch->torn++;
    return vain(epoch, now_ns);
}

/* --- the point ------------------------------------------------------------------------------- */

static enum repl_cut cut_of(const struct repl_epoch *epoch)
{
    if (epoch->per_file)
        return REPL_CUT_FILES;
    if (!epoch->quiesced)
        return epoch->tracked ? REPL_CUT_WINDOW : REPL_CUT_QUIET;
    if (epoch->quiesce == REPL_QUIESCE_COMMAND)
        return REPL_CUT_COMMAND;
    return repl_quiesce_has_snapshots(epoch->quiesce) ? REPL_CUT_SNAPSHOT : REPL_CUT_FREEZE;
}

void repl_epoch_point(const struct repl_epoch *epoch, uint64_t changed_bytes,
                      struct repl_point *out)
{
    ensure(epoch->state == REPL_EPOCH_TRYING);
    enum repl_cut cut = cut_of(epoch);
    int64_t begin_ns = epoch->per_file ? epoch->files_begin_ns : epoch->round_begin_ns;
    int64_t end_ns = epoch->round_end_ns;
    *out =
        (struct repl_point){.seq = epoch->next_seq,
                            .begin_ns = begin_ns < end_ns ? begin_ns : end_ns,
                            .end_ns = end_ns,
                            .consistency = epoch->per_file           ? REPL_CONSISTENCY_PER_FILE
                                           : cut == REPL_CUT_COMMAND ? REPL_CONSISTENCY_APPLICATION
                                           : cut == REPL_CUT_FREEZE  ? REPL_CONSISTENCY_FILESYSTEM
                                                                     : REPL_CONSISTENCY_CRASH,
                            .cut = cut,
                            .flags = epoch->resync ? REPL_POINT_RESYNC : 0,
                            .attempts = epoch->attempts,
                            .changed_bytes = changed_bytes};
}

/* The present content is that of the last point, as far as the counters of the round's begin say
 * so. But one that was cut per file is of no single moment. */
static void point_reached(struct repl_epoch *epoch, int64_t now_ns)
{
    ensure(epoch->state == REPL_EPOCH_TRYING);
    epoch->at_point = !epoch->per_file;
    epoch->at_cut = epoch->round_begin;
    epoch->attempts = epoch->torn = 0;
    epoch->first_torn_ns = epoch->pause_ns = 0;
    epoch->resync = false;
    epoch->last_end_ns = epoch->round_end_ns;
    rest_until_next(epoch, now_ns);
}

void repl_epoch_cut_done(struct repl_epoch *epoch, int64_t now_ns)
{
    epoch->next_seq++;
    point_reached(epoch, now_ns);
}

void repl_epoch_cut_empty(struct repl_epoch *epoch, int64_t now_ns)
{
    point_reached(epoch, now_ns);
}

void repl_epoch_round_failed(struct repl_epoch *epoch, int64_t now_ns)
{
    if (epoch->state == REPL_EPOCH_TRYING)
        rest_after_vain(epoch, now_ns);
    else
        rest(epoch, now_ns + epoch->interval_ns);
}

void repl_epoch_distrust(struct repl_epoch *epoch, bool resync, int64_t now_ns)
{
    epoch->at_point = false;
    epoch->resync = epoch->resync || resync;
    repl_epoch_hurry(epoch, now_ns);
}

int64_t repl_epoch_stuck_ns(const struct repl_epoch *epoch, int64_t now_ns)
{
    return epoch->torn > 0 && epoch->first_torn_ns != 0 && now_ns > epoch->first_torn_ns
               ? now_ns - epoch->first_torn_ns
               : 0;
}
