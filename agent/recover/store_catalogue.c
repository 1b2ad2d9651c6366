/*
 * What is committed of a volume, out of its log, folded as the site itself folds
 * it.
 *
 * A log may end in a torn record, and one segment may lie in the store that the
 * log does not have: a commit that was under way leaves both behind, and both
 * are left out. Damage before the end is told from it by what was appended behind
 * it (journal/log_tail.h); damage at the end by more unlogged segments than one, since the site
 * publishes the next only once the one before is in the log.
 */
#include "recover/store_catalogue.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "journal/journal.h"
#include "journal/log_tail.h"
#include "store/segment_name.h"

/* The main segments, without supplies, whose files lie in the store. */
struct listing {
    struct repl_segment_id *ids;
    size_t count, room;
};

struct fold {
    struct repl_catalogue *catalogue;
    struct repl_journal journal;
    struct repl_chain chain;
    struct listing before, after; /* as they lay before, and after, the log was read */
    size_t state_room, supply_room;
};

/* Makes room for one more element of an array that grows by doubling. */
static void *grown(void *array, size_t count, size_t *room, size_t element_size)
{
    if (count < *room)
        return array;
    size_t wanted = *room == 0 ? 64 : 2 * *room;
    void *larger = reallocarray(array, wanted, element_size);
    if (larger != NULL)
        *room = wanted;
    return larger;
}

#define GROW(array, count, room, err)                                                              \
    do {                                                                                           \
        void *larger_ = grown(array, count, room, sizeof *(array));                                \
        if (larger_ == NULL)                                                                       \
            return repl_fail(err, REPL_E_NOMEM, "out of memory for the list of a volume");         \
        (array) = larger_;                                                                         \
    } while (0)

static repl_result fold_record(struct fold *fold, const struct repl_log_record *record,
                               struct repl_error *err)
{
    struct repl_catalogue *c = fold->catalogue;
    REPL_TRY(repl_journal_apply(&fold->journal, record, err));
    REPL_TRY(repl_chain_apply(&fold->chain, record, err));
    if (record->type == REPL_LOG_STATE) {
        GROW(c->states, c->state_count, &fold->state_room, err);
        struct repl_state_change *change = &c->states[c->state_count++];
        change->time_ns = record->time_ns;
        change->state = record->state.state;
        memcpy(change->cause, record->state.cause, sizeof change->cause);
    }
    return REPL_SUCCESS;
}

static void note_add(struct repl_catalogue *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void note_add(struct repl_catalogue *c, const char *format, ...)
{
    size_t used = strlen(c->note);
    va_list arguments;
    if (used > 0 && used + 2 < sizeof c->note) {
        memcpy(c->note + used, "; ", 3);
        used += 2;
    }
    va_start(arguments, format);
    vsnprintf(c->note + used, sizeof c->note - used, format, arguments);
    va_end(arguments);
}

static void fold_restart(struct fold *fold)
{
    repl_chain_fini(&fold->chain);
    repl_journal_init(&fold->journal);
    fold->catalogue->state_count = 0;
}

/* The records of the first size bytes. *whole: behind the last of them with which none is left
 * unfinished. */
static repl_result records_fold(struct fold *fold, const struct repl_buffer *log, size_t end,
                                size_t *whole, struct repl_error *err)
{
    struct repl_catalogue *c = fold->catalogue;
    fold_restart(fold);
    *whole = 0;
    for (size_t offset = 0, size = 0; offset < end; offset += size) {
        struct repl_log_record record;
        repl_result result =
            repl_log_record_decode(log->data + offset, end - offset, &record, &size, err);
        bool decoded = repl_ok(result);
        if (decoded)
            result = fold_record(fold, &record, err);
        if (result.code == REPL_E_NOMEM || result.code == REPL_E_VERSION)
            return result;
        if (!repl_ok(result)) {
            c->damaged = decoded || repl_log_goes_on(&fold->journal, log->data, log->size, offset);
            break;
        }
        if (fold->chain.group_left == 0)
            *whole = offset + size;
    }
    return REPL_SUCCESS;
}

static repl_result log_fold(struct fold *fold, const struct repl_buffer *log,
                            struct repl_error *err)
{
    struct repl_catalogue *c = fold->catalogue;
    size_t whole, again;
    REPL_TRY(records_fold(fold, log, log->size, &whole, err));
    if (whole < log->size)
        note_add(c,
                 c->damaged
                     ? "the log is damaged at byte %zu of %zu: what was committed behind it is not "
                       "listed; \"repl inspect\" shows the rest"
                     : "the log ends in a torn record at byte %zu of %zu, which is left out: a "
                       "commit that was under way cannot be told from damage here",
                 whole, log->size);
    /* The beginning of a group that has no end is no part of it. */
    return fold->chain.group_left > 0 ? records_fold(fold, log, whole, &again, err) : REPL_SUCCESS;
}

static repl_result segments_list(struct repl_catalogue *c, const struct repl_chain *chain,
                                 struct repl_error *err)
{
    c->segments = calloc(chain->count + 1, sizeof *c->segments);
    c->points = calloc(chain->count + 1, sizeof *c->points);
    c->marks = calloc(chain->mark_count + 1, sizeof *c->marks);
    if (c->segments == NULL || c->points == NULL || c->marks == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the list of a volume");
    for (size_t i = 0; i < chain->count; i++) {
        const struct repl_log_piece *entry = &chain->entries[i];
        const struct repl_log_commit *commit = &entry->commit;
        c->segments[c->segment_count++] =
            (struct repl_segments_entry){.head = {.from_seq = commit->from_seq,
                                                  .to_seq = commit->to_seq,
                                                  .part = commit->part,
                                                  .has_point = commit->has_point,
                                                  .digest = commit->digest},
                                         .file_size = commit->file_size,
                                         .merge = entry->merge,
                                         .begins = entry->begins,
                                         .link = entry->link};
        if (!repl_chain_has_point(chain, i))
            continue;
        c->points[c->point_count++] =
            (struct repl_points_entry){.point = commit->point,
                                       .unchanged_until_ns = entry->unchanged_until_ns,
                                       .volume_size = commit->volume_size,
                                       .churn = commit->churn};
    }
    for (size_t i = 0; i < chain->mark_count; i++)
        c->marks[c->mark_count++] = chain->marks[i];
    return REPL_SUCCESS;
}

static repl_result listing_add(struct listing *listing, const struct repl_segment_id *id,
                               struct repl_error *err)
{
    GROW(listing->ids, listing->count, &listing->room, err);
    listing->ids[listing->count++] = *id;
    return REPL_SUCCESS;
}

static repl_result seen_before(void *context, const struct repl_segment_id *id, uint64_t size,
                               struct repl_error *err)
{
    struct fold *fold = context;
    (void)size;
    return id->supply == 0 ? listing_add(&fold->before, id, err) : REPL_SUCCESS;
}

static repl_result seen_after(void *context, const struct repl_segment_id *id, uint64_t size,
                              struct repl_error *err)
{
    struct fold *fold = context;
    struct repl_catalogue *c = fold->catalogue;
    (void)size;
    if (id->supply == 0)
        return listing_add(&fold->after, id, err);
    GROW(c->supplies, c->supply_count, &fold->supply_room, err);
    c->supplies[c->supply_count++] = *id;
    return REPL_SUCCESS;
}

static int id_order(const void *a, const void *b)
{
    return repl_segment_id_order(a, b);
}

static void listing_sort(struct listing *listing)
{
    if (listing->count > 0)
        qsort(listing->ids, listing->count, sizeof *listing->ids, id_order);
}

/* How many of a are not in b, both sorted; the first of them goes to *first. */
static size_t listing_lack(const struct listing *a, const struct listing *b,
                           struct repl_segment_id *first)
{
    size_t count = 0;
    for (size_t i = 0, k = 0; i < a->count; i++) {
        while (k < b->count && id_order(&b->ids[k], &a->ids[i]) < 0)
            k++;
        if (k < b->count && id_order(&b->ids[k], &a->ids[i]) == 0)
            continue;
        if (count++ == 0)
            *first = a->ids[i];
    }
    return count;
}

/* Of what lies there and is not in the log: what a later record would have committed. The rest was
 * merged into others, or is of a merge that was cut short. */
static bool is_behind_head(const struct fold *fold, const struct repl_segment_id *id)
{
    const struct repl_head *head = &fold->journal.head;
    return id->merge == 0 && (!fold->journal.has_head || id->to_seq > head->to_seq ||
                              (id->to_seq == head->to_seq && id->part > head->part));
}

static repl_result listing_of(const struct repl_catalogue *c, struct listing *out,
                              struct repl_error *err)
{
    for (size_t i = 0; i < c->segment_count; i++) {
        const struct repl_segments_entry *entry = &c->segments[i];
        const struct repl_segment_id id = {
            .to_seq = entry->head.to_seq, .part = entry->head.part, .merge = entry->merge};
        REPL_TRY(listing_add(out, &id, err));
    }
    return REPL_SUCCESS;
}

/* What the store holds against what the log says. */
static repl_result listings_compare(struct fold *fold, struct repl_error *err)
{
    struct repl_catalogue *c = fold->catalogue;
    struct listing logged = {0};
    struct repl_segment_id first = {0}, last = {0};
    repl_result result = listing_of(c, &logged, err);
    if (!repl_ok(result)) {
        free(logged.ids);
        return result;
    }
    size_t unlogged = 0;
    for (size_t i = 0; i < fold->before.count; i++) {
        if (!is_behind_head(fold, &fold->before.ids[i]))
            continue;
        if (unlogged++ == 0 || repl_segment_id_order(&fold->before.ids[i], &last) > 0)
            last = fold->before.ids[i];
    }
    listing_sort(&logged);
    listing_sort(&fold->after);
    if (unlogged > 1) {
        c->damaged = true;
        note_add(c,
                 "%zu segments, up to %llu.%u, lie in the store and not in its log: committed "
                 "points are missing from this list",
                 unlogged, (unsigned long long)last.to_seq, (unsigned)last.part);
    } else if (unlogged == 1) {
        note_add(c,
                 "segment %llu.%u lies in the store and not in its log, and is left out: a commit "
                 "that was under way cannot be told from damage here",
                 (unsigned long long)last.to_seq, (unsigned)last.part);
    }
    size_t missing = listing_lack(&logged, &fold->after, &first);
    if (missing > 0) {
        c->damaged = true;
        note_add(c, "%zu committed segments, the first %llu.%u, are missing from the store",
                 missing, (unsigned long long)first.to_seq, (unsigned)first.part);
    }
    free(logged.ids);
    return REPL_SUCCESS;
}

/* A site may be committing meanwhile: what lay there before the log was read, it has. */
static repl_result store_fold(struct repl_store *store, const char *label, const char *volume,
                              struct fold *fold, struct repl_buffer *log, struct repl_error *err)
{
    repl_result result = store->ops->segments(store, volume, seen_before, fold, err);
    if (repl_ok(result) || result.code == REPL_E_MISSING)
        result = store->ops->log_read(store, volume, log, NULL, err);
    if (repl_ok(result) && log->size == 0)
        return repl_fail(err, REPL_E_MISSING,
                         "there is no volume %s in %s: look below volumes/ there for which there "
                         "are",
                         volume, label);
    REPL_TRY(result);
    REPL_TRY(log_fold(fold, log, err));
    REPL_TRY(segments_list(fold->catalogue, &fold->chain, err));
    REPL_TRY(store->ops->segments(store, volume, seen_after, fold, err));
    return listings_compare(fold, err);
}

repl_result repl_store_catalogue(struct repl_store *store, const char *label, const char *volume,
                                 struct repl_catalogue *out, struct repl_chain *chain,
                                 char pool[REPL_VOLUME_NAME_SIZE + 1], struct repl_error *err)
{
    struct fold fold = {.catalogue = out};
    struct repl_buffer log = {0};
    repl_result result = store_fold(store, label, volume, &fold, &log, err);
    memcpy(pool, fold.journal.pool, sizeof fold.journal.pool);
    *chain = fold.chain;
    free(fold.before.ids);
    free(fold.after.ids);
    repl_buffer_fini(&log);
    return result;
}
