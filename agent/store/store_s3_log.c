/*
 * The log of a volume in a bucket: pieces, of which each is an object that never
 * changes.
 *
 *   log/START        what one append wrote, from byte START of the log on
 *   log/START-END    the bytes [START, END): of several pieces, which it replaces
 *   log/START-END.begin   the same, of a log that was written anew and begins here,
 *                    once log/START is there and has no bytes
 *
 * with numbers of 20 digits. A reader begins at byte 0, or at the last START at
 * which a log that was written anew begins, and takes, at each position, the piece
 * that begins there and reaches furthest. What begins before the end that it comes
 * to and is not on this way is leftover: of a merge, a cut or a replacement that
 * was not finished, or of the log as it was before. What begins behind it is a gap,
 * which is damage.
 *
 * So each of these may be interrupted anywhere:
 *
 * - a merge writes START-END, then removes the pieces it is made of;
 * - a cut to END writes START-END in place of the piece that END falls into,
 *   then removes all that reaches further, from the back;
 * - a replacement writes START-END.begin behind the end of the old log, then the
 *   empty log/START, which is what makes it the log, then removes what was before.
 *   That has the name of what an append to the old log would make, so of the two
 *   only one can be there, however late a request arrives. A writer goes on with
 *   the log that it knows, whatever a replacement that failed has left;
 * - an append makes log/END under the condition that there is none. Where there
 *   is one, it is what an append of ours left that had failed: the same bytes are
 *   success, others are removed. A claim that is fresh says that it is ours.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "control/control.h"
#include "store/s3_parallel.h"
#include "store/store_s3_internal.h"

#define READ_TRIES    6u /* of a reader, beside a writer that merges */
#define READ_PAUSE_MS 100
#define DIGITS        20
#define BEGIN_SUFFIX  ".begin"

struct piece {
    uint64_t from, to;
    bool merged; /* its name says where it ends */
    bool begins; /* of a log that was written anew; merged too */
};

struct pieces {
    struct repl_buffer of; /* struct piece each */
};

struct s3_log {
    struct s3_log *next;
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    pthread_mutex_t mutex; /* guards what follows, for the length of a whole call */
    bool known;            /* chain is what the bucket has */
    bool begin_known;      /* set for good by the first reading: begin is where the log begins */
    uint64_t begin;
    struct pieces chain;
};

static size_t count_of(const struct pieces *p)
{
    return p->of.size / sizeof(struct piece);
}

static struct piece *piece_at(const struct pieces *p, size_t i)
{
    return p->of.data == NULL ? NULL : (struct piece *)(void *)p->of.data + i;
}

static repl_result piece_add(struct pieces *p, const struct piece *piece, struct repl_error *err)
{
    return repl_buffer_append(&p->of, piece, sizeof *piece, err);
}

static uint64_t begin_of(const struct pieces *chain)
{
    return count_of(chain) > 0 ? piece_at(chain, 0)->from : 0;
}

static uint64_t end_of(const struct pieces *chain)
{
    size_t count = count_of(chain);
    return count > 0 ? piece_at(chain, count - 1)->to : 0;
}

/* --- logs ------------------------------------------------------------------------------------ */

/* The entry of a volume, made if need be; NULL: out of memory. */
static struct s3_log *log_of(struct s3_store *store, const char *volume)
{
    pthread_mutex_lock(&store->mutex);
    struct s3_log *log = store->logs;
    while (log != NULL && strcmp(log->volume, volume) != 0)
        log = log->next;
    if (log == NULL && (log = calloc(1, sizeof *log)) != NULL) {
        snprintf(log->volume, sizeof log->volume, "%s", volume);
        pthread_mutex_init(&log->mutex, NULL);
        log->next = store->logs;
        store->logs = log;
    }
    pthread_mutex_unlock(&store->mutex);
    return log;
}

void s3_logs_free(struct s3_store *store)
{
    while (store->logs != NULL) {
        struct s3_log *log = store->logs;
        store->logs = log->next;
        repl_buffer_fini(&log->chain.of);
        pthread_mutex_destroy(&log->mutex);
        free(log);
    }
}

/* --- names ----------------------------------------------------------------------------------- */

static void directory_key(const char *volume, char key[S3_STORE_KEY_SIZE])
{
    snprintf(key, S3_STORE_KEY_SIZE, "volumes/%s/log/", volume);
}

static void piece_key(const char *volume, const struct piece *piece, char key[S3_STORE_KEY_SIZE])
{
    if (piece->merged)
        snprintf(key, S3_STORE_KEY_SIZE, "volumes/%s/log/%020" PRIu64 "-%020" PRIu64 "%s", volume,
                 piece->from, piece->to, piece->begins ? BEGIN_SUFFIX : "");
    else
        snprintf(key, S3_STORE_KEY_SIZE, "volumes/%s/log/%020" PRIu64, volume, piece->from);
}

static bool number_take(const char **text, uint64_t *value)
{
    *value = 0;
    for (int i = 0; i < DIGITS; i++) {
        char c = (*text)[i];
        /* A log ends far before the point where 20 digits overflow. */
        if (c < '0' || c > '9' || *value > INT64_MAX / 10)
            return false;
        *value = *value * 10 + (uint64_t)(c - '0');
    }
    *text += DIGITS;
    return *value <= INT64_MAX;
}

/* False: it is no piece. */
static bool piece_parse(const char *name, uint64_t size, struct piece *out)
{
    if (!number_take(&name, &out->from) || size > (uint64_t)INT64_MAX - out->from)
        return false;
    out->to = out->from + size;
    out->merged = *name == '-';
    if (out->merged && size == 0)
        return false;
    uint64_t to = out->to;
    if (out->merged && (name++, !number_take(&name, &to)))
        return false;
    out->begins = out->merged && strcmp(name, BEGIN_SUFFIX) == 0;
    return (*name == '\0' || out->begins) && to == out->to;
}

/* --- listing --------------------------------------------------------------------------------- */

struct listing {
    struct pieces *pieces;
    size_t prefix_size;
};

static repl_result piece_seen(void *context, const char *key, uint64_t size, bool is_prefix,
                              struct repl_error *err)
{
    struct listing *listing = context;
    struct piece piece;
    if (is_prefix || !piece_parse(key + listing->prefix_size, size, &piece))
        return REPL_SUCCESS;
    return piece_add(listing->pieces, &piece, err);
}

/* By where they begin; of those, the one that reaches furthest first. */
static int piece_order(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    if (x->from != y->from)
        return x->from < y->from ? -1 : 1;
    if (x->to != y->to)
        return x->to > y->to ? -1 : 1;
    return x->merged < y->merged ? 1 : -(x->merged > y->merged);
}

static repl_result pieces_list(struct s3_store *store, const char *volume, struct pieces *out,
                               struct repl_error *err)
{
    char prefix[S3_STORE_KEY_SIZE];
    directory_key(volume, prefix);
    struct listing listing = {.pieces = out, .prefix_size = strlen(prefix)};
    out->of.size = 0;
    REPL_TRY(s3_list(store->client, prefix, true, piece_seen, &listing, err));
    if (count_of(out) > 0)
        qsort(out->of.data, count_of(out), sizeof(struct piece), piece_order);
    return REPL_SUCCESS;
}

/* Where the log begins: a commit has been made of a piece that begins one. */
static uint64_t begin_find(const struct pieces *all)
{
    uint64_t begin = 0, written = UINT64_MAX;
    for (size_t i = 0; i < count_of(all); i++) {
        const struct piece *piece = piece_at(all, i);
        if (piece->begins)
            written = piece->from;
        else if (piece->from == piece->to && piece->from == written)
            begin = written; /* which comes behind all others of that beginning */
    }
    return begin;
}

/* Sorts what was listed into the chain from begin on and leftovers. */
static repl_result chain_find(const char *volume, const struct pieces *all, uint64_t begin,
                              struct pieces *chain, struct pieces *leftover, struct repl_error *err)
{
    uint64_t end = begin;
    chain->of.size = leftover->of.size = 0;
    for (size_t i = 0; i < count_of(all); i++) {
        const struct piece *piece = piece_at(all, i);
        if (piece->from == piece->to && piece->from == begin && begin > 0)
            continue; /* what says that it begins there */
        bool elsewhere = piece->begins ? piece->from != begin : piece->from == piece->to;
        bool instead = piece->from == begin && begin > 0 && !piece->begins;
        if (!elsewhere && !instead && piece->from > end)
            return repl_fail(err, REPL_E_CORRUPT,
                             "the log of volume %s lacks the bytes from %" PRIu64 " to %" PRIu64
                             ": objects were removed from the bucket by others",
                             volume, end, piece->from);
        bool next = !elsewhere && !instead && piece->from == end;
        REPL_TRY(piece_add(next ? chain : leftover, piece, err));
        if (next)
            end = piece->to;
    }
    return REPL_SUCCESS;
}

/* --- removing -------------------------------------------------------------------------------- */

struct removal {
    struct s3_store *store;
    const char *volume;
    const struct piece *pieces;
};

static repl_result piece_remove(void *context, size_t i, struct repl_error *err)
{
    struct removal *r = context;
    char key[S3_STORE_KEY_SIZE];
    /* Each time: so no deletion of a site that is no longer the writer comes late. */
    REPL_TRY(s3_claim_begin(r->store, err));
    piece_key(r->volume, &r->pieces[i], key);
    return s3_store_remove(r->store, key, err);
}

/* Of no use to anybody, so it does no harm where it fails. */
static void leftovers_remove(struct s3_store *store, const char *volume, const struct piece *pieces,
                             size_t count)
{
    struct removal removal = {store, volume, pieces};
    struct repl_error err;
    if (!repl_ok(s3_each(count, piece_remove, &removal, &err)))
        repl_log(LOG_INFO, "volume %s: old pieces of its log stay for now: %s", volume, err.text);
}

/* --- the chain ------------------------------------------------------------------------------- */

/* begin: where it is known to begin; NULL: where the bucket says. */
static repl_result chain_list(struct s3_store *store, const char *volume, const uint64_t *begin,
                              struct pieces *chain, struct repl_error *err)
{
    struct pieces all = {0}, leftover = {0};
    repl_result result = pieces_list(store, volume, &all, err);
    if (repl_ok(result))
        result = chain_find(volume, &all, begin != NULL ? *begin : begin_find(&all), chain,
                            &leftover, err);
    if (repl_ok(result) && store->writable)
        leftovers_remove(store, volume, piece_at(&leftover, 0), count_of(&leftover));
    repl_buffer_fini(&all.of);
    repl_buffer_fini(&leftover.of);
    return result;
}

static repl_result log_know(struct s3_store *store, struct s3_log *log, struct repl_error *err)
{
    if (!log->known)
        REPL_TRY(chain_list(store, log->volume, log->begin_known ? &log->begin : NULL, &log->chain,
                            err));
    if (!log->begin_known)
        log->begin = begin_of(&log->chain);
    log->known = log->begin_known = true;
    return REPL_SUCCESS;
}

struct fetch {
    struct s3_store *store;
    const char *volume;
    const struct piece *pieces;
    uint64_t from; /* of the first */
    uint8_t *out;
};

static repl_result piece_fetch(void *context, size_t i, struct repl_error *err)
{
    const struct fetch *f = context;
    const struct piece *piece = &f->pieces[i];
    char key[S3_STORE_KEY_SIZE];
    piece_key(f->volume, piece, key);
    return s3_get(f->store->client, key, 0, f->out + (piece->from - f->from),
                  (size_t)(piece->to - piece->from), err);
}

/* The bytes of so many pieces that meet, in place of what out held. */
static repl_result pieces_fetch(struct s3_store *store, const char *volume,
                                const struct piece *pieces, size_t count, struct repl_buffer *out,
                                struct repl_error *err)
{
    out->size = 0;
    if (count == 0)
        return REPL_SUCCESS;
    uint64_t size = pieces[count - 1].to - pieces[0].from;
    uint8_t *room = repl_buffer_extend(out, (size_t)size);
    if (room == NULL)
        return repl_fail(err, REPL_E_NOMEM,
                         "out of memory for the log of volume %s (%" PRIu64 " bytes)", volume,
                         size);
    struct fetch fetch = {store, volume, pieces, pieces[0].from, room};
    return s3_each(count, piece_fetch, &fetch, err);
}

/* --- reading --------------------------------------------------------------------------------- */

static repl_result log_read_known(struct s3_store *store, struct s3_log *log,
                                  struct repl_buffer *out, uint64_t *begin, struct repl_error *err)
{
    log->known = false; /* as it is, not as we remember it */
    REPL_TRY(log_know(store, log, err));
    *begin = begin_of(&log->chain);
    return pieces_fetch(store, log->volume, piece_at(&log->chain, 0), count_of(&log->chain), out,
                        err);
}

/* A writer beside us may merge between two pages of the listing, and before we come to a piece. */
static repl_result log_read_beside(struct s3_store *store, const char *volume,
                                   struct repl_buffer *out, uint64_t *begin, struct repl_error *err)
{
    struct pieces chain = {0};
    repl_result result = REPL_SUCCESS;
    for (unsigned i = 0; i < READ_TRIES; i++) {
        result = chain_list(store, volume, NULL, &chain, err);
        if (repl_ok(result))
            result = pieces_fetch(store, volume, piece_at(&chain, 0), count_of(&chain), out, err);
        *begin = begin_of(&chain);
        bool moved = result.code == REPL_E_MISSING || result.code == REPL_E_CORRUPT;
        if (!moved || !repl_ok(s3_client_sleep(store->client, READ_PAUSE_MS, NULL)))
            break;
    }
    repl_buffer_fini(&chain.of);
    if (result.code == REPL_E_MISSING) /* a piece, not the log */
        return repl_fail(err, REPL_E_RETRY, "the log of volume %s changes all the time", volume);
    return result;
}

repl_result s3_log_read(struct repl_store *base, const char *volume, struct repl_buffer *out,
                        uint64_t *begin, struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    struct s3_log *log = NULL;
    uint64_t begins = 0;
    repl_result result;
    out->size = 0;
    REPL_TRY(repl_store_check_volume(volume, err));
    if (!store->writable) {
        result = log_read_beside(store, volume, out, &begins, err);
    } else if ((log = log_of(store, volume)) != NULL) {
        pthread_mutex_lock(&log->mutex);
        result = log_read_known(store, log, out, &begins, err);
        pthread_mutex_unlock(&log->mutex);
    } else {
        result = repl_fail(err, REPL_E_NOMEM, "out of memory for the log of volume %s", volume);
    }
    if (!repl_ok(result))
        out->size = 0;
    else if (begin != NULL)
        *begin = begins;
    return result;
}

/* --- cutting --------------------------------------------------------------------------------- */

/* Makes [piece->from, end) of its bytes a piece of its own. */
static repl_result cut_keep(struct s3_store *store, const char *volume, const struct piece *piece,
                            uint64_t end, struct repl_error *err)
{
    struct repl_buffer bytes = {0};
    struct piece kept = {piece->from, end, true, piece->begins};
    char key[S3_STORE_KEY_SIZE];
    bool existed = false;
    repl_result result = pieces_fetch(store, volume, piece, 1, &bytes, err);
    piece_key(volume, &kept, key);
    if (repl_ok(result))
        result =
            s3_store_put(store, key, bytes.data, (size_t)(end - piece->from), true, &existed, err);
    repl_buffer_fini(&bytes);
    return result;
}

/* From the back, so that there is a log without a gap at every moment. */
static repl_result cut_remove(struct s3_store *store, const char *volume, const struct pieces *all,
                              uint64_t end, struct repl_error *err)
{
    struct removal removal = {store, volume, piece_at(all, 0)};
    for (size_t i = count_of(all); i-- > 0;) {
        const struct piece *piece = piece_at(all, i);
        if (piece->to > end || (piece->from == piece->to && piece->from == end))
            REPL_TRY(piece_remove(&removal, i, err));
    }
    return REPL_SUCCESS;
}

static repl_result cut_listed(struct s3_store *store, const char *volume, const struct pieces *all,
                              uint64_t begin, uint64_t end, struct repl_error *err)
{
    struct pieces chain = {0}, leftover = {0};
    repl_result result = chain_find(volume, all, begin, &chain, &leftover, err);
    if (repl_ok(result) && end_of(&chain) < end)
        result = repl_fail(err, REPL_E_CORRUPT,
                           "the log of volume %s has %" PRIu64 " bytes where %" PRIu64
                           " were committed: it was changed from outside; bring the store back "
                           "from its own replica",
                           volume, end_of(&chain), end);
    for (size_t i = 0; repl_ok(result) && i < count_of(&chain); i++) {
        const struct piece *piece = piece_at(&chain, i);
        if (piece->from < end && end < piece->to)
            result = cut_keep(store, volume, piece, end, err);
    }
    if (repl_ok(result))
        result = cut_remove(store, volume, all, end, err);
    repl_buffer_fini(&chain.of);
    repl_buffer_fini(&leftover.of);
    return result;
}

/* Brings the log to exactly end bytes. Always from a new listing: leftovers have to go as well. */
static repl_result log_cut(struct s3_store *store, struct s3_log *log, uint64_t end,
                           struct repl_error *err)
{
    struct pieces all = {0};
    log->known = false;
    repl_result result = pieces_list(store, log->volume, &all, err);
    if (repl_ok(result))
        result = cut_listed(store, log->volume, &all, log->begin, end, err);
    repl_buffer_fini(&all.of);
    REPL_TRY(result);
    return log_know(store, log, err);
}

/* --- merging --------------------------------------------------------------------------------- */

/* How many pieces at the end are of the kind that is merged: plain ones, or small merged ones. */
static size_t run_of(const struct s3_store *store, const struct pieces *chain, bool merged)
{
    size_t count = 0;
    for (size_t i = count_of(chain); i-- > 0; count++) {
        const struct piece *piece = piece_at(chain, i);
        if (piece->merged != merged || piece->begins ||
            (merged && piece->to - piece->from >= store->limits.merge_size))
            break;
    }
    return count;
}

/* The last count pieces. */
static repl_result chain_merge(struct s3_store *store, struct s3_log *log, size_t count,
                               struct repl_error *err)
{
    struct pieces *chain = &log->chain;
    size_t first = count_of(chain) - count;
    struct piece merged = {
        .from = piece_at(chain, first)->from, .to = end_of(chain), .merged = true};
    struct repl_buffer bytes = {0};
    char key[S3_STORE_KEY_SIZE];
    bool existed = false; /* then by a merge that was interrupted: the name says what is in it */
    piece_key(log->volume, &merged, key);
    repl_result result =
        pieces_fetch(store, log->volume, piece_at(chain, first), count, &bytes, err);
    if (repl_ok(result))
        result = s3_store_put(store, key, bytes.data, bytes.size, true, &existed, err);
    repl_buffer_fini(&bytes);
    REPL_TRY(result);
    leftovers_remove(store, log->volume, piece_at(chain, first), count);
    *piece_at(chain, first) = merged;
    chain->of.size = (first + 1) * sizeof merged;
    return REPL_SUCCESS;
}

/* What was appended is durable, so a merge that fails is no failure of that. */
static void log_merge(struct s3_store *store, struct s3_log *log)
{
    struct repl_error err;
    for (int merged = 0; merged <= 1; merged++) {
        size_t count = run_of(store, &log->chain, merged != 0);
        if (count < store->limits.merge_pieces)
            return;
        if (!repl_ok(chain_merge(store, log, count, &err))) {
            repl_log(LOG_INFO, "volume %s: %zu pieces of its log are not made one yet: %s",
                     log->volume, count, err.text);
            return;
        }
    }
}

/* --- appending ------------------------------------------------------------------------------- */

/* *same: the object has exactly these bytes. */
static repl_result object_compare(struct s3_store *store, const char *key, const void *data,
                                  size_t size, bool *same, struct repl_error *err)
{
    struct repl_buffer bytes = {0};
    repl_result result = s3_get_all(store->client, key, size, &bytes, err);
    *same =
        repl_ok(result) && bytes.size == size && (size == 0 || memcmp(bytes.data, data, size) == 0);
    repl_buffer_fini(&bytes);
    bool differs = result.code == REPL_E_CORRUPT || result.code == REPL_E_MISSING;
    return differs ? REPL_SUCCESS : result;
}

static repl_result piece_put(struct s3_store *store, const char *volume, const struct piece *piece,
                             const void *data, struct repl_error *err)
{
    size_t size = (size_t)(piece->to - piece->from);
    char key[S3_STORE_KEY_SIZE];
    bool existed, same = true;
    piece_key(volume, piece, key);
    REPL_TRY(s3_store_put(store, key, data, size, true, &existed, err));
    if (existed)
        REPL_TRY(object_compare(store, key, data, size, &same, err));
    if (same)
        return REPL_SUCCESS;
    struct removal removal = {store, volume, piece};
    REPL_TRY(piece_remove(&removal, 0, err));
    REPL_TRY(s3_store_put(store, key, data, size, true, &existed, err));
    if (existed)
        return repl_fail(err, REPL_E_RETRY,
                         "%s: another object came in between, as of a request that was given up",
                         key);
    return REPL_SUCCESS;
}

static repl_result log_append_locked(struct s3_store *store, struct s3_log *log, uint64_t end,
                                     const void *data, size_t size, struct repl_error *err)
{
    REPL_TRY(s3_claim_begin(store, err));
    REPL_TRY(log_know(store, log, err));
    if (size == 0 || end_of(&log->chain) != end)
        REPL_TRY(log_cut(store, log, end, err));
    if (size == 0)
        return s3_claim_end(store, err);
    struct piece piece = {.from = end, .to = end + size};
    log->known = false; /* until it is known to be there */
    REPL_TRY(piece_put(store, log->volume, &piece, data, err));
    REPL_TRY(s3_claim_end(store, err));
    REPL_TRY(piece_add(&log->chain, &piece, err));
    log->known = true;
    log_merge(store, log);
    return REPL_SUCCESS;
}

repl_result s3_log_append(struct repl_store *base, const char *volume, uint64_t end,
                          const void *data, size_t size, struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    REPL_TRY(repl_store_check_volume(volume, err));
    struct s3_log *log = log_of(store, volume);
    if (log == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the log of volume %s", volume);
    if (end > INT64_MAX || size > S3_OBJECT_SIZE_MAX)
        return repl_fail(err, REPL_E_REFUSED, "the log of volume %s is too long", volume);
    pthread_mutex_lock(&log->mutex);
    repl_result result = log_append_locked(store, log, end, data, size, err);
    pthread_mutex_unlock(&log->mutex);
    return result;
}

/* --- replacing ------------------------------------------------------------------------------- */

static repl_result log_replace_locked(struct s3_store *store, struct s3_log *log, const void *data,
                                      size_t size, uint64_t *end, struct repl_error *err)
{
    const struct piece piece = {.from = *end, .to = *end + size, .merged = true, .begins = true};
    const struct piece commit = {.from = *end, .to = *end};
    REPL_TRY(s3_claim_begin(store, err));
    REPL_TRY(log_know(store, log, err));
    /* Also where it ends there: what an earlier attempt has left is to be gone. */
    REPL_TRY(log_cut(store, log, *end, err));
    log->known = false;
    REPL_TRY(piece_put(store, log->volume, &piece, data, err));
    REPL_TRY(piece_put(store, log->volume, &commit, "", err));
    REPL_TRY(s3_claim_end(store, err));
    log->begin = *end;
    *end = piece.to;
    struct repl_error later; /* it is done; what was before goes now, or with the next listing */
    if (!repl_ok(log_know(store, log, &later)))
        repl_log(LOG_INFO, "volume %s: old pieces of its log stay for now: %s", log->volume,
                 later.text);
    return REPL_SUCCESS;
}

repl_result s3_log_replace(struct repl_store *base, const char *volume, const void *data,
                           size_t size, uint64_t *end, struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    REPL_TRY(repl_store_check_volume(volume, err));
    struct s3_log *log = log_of(store, volume);
    if (log == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the log of volume %s", volume);
    if (size == 0 || *end > INT64_MAX || size > S3_OBJECT_SIZE_MAX)
        return repl_fail(err, REPL_E_REFUSED, "the log of volume %s is too long", volume);
    pthread_mutex_lock(&log->mutex);
    repl_result result = log_replace_locked(store, log, data, size, end, err);
    pthread_mutex_unlock(&log->mutex);
    return result;
}
