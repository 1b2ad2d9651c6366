#include "journal/chain.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

void repl_chain_init(struct repl_chain *chain)
{
    memset(chain, 0, sizeof *chain);
}

void repl_chain_fini(struct repl_chain *chain)
{
    free(chain->entries);
    free(chain->marks);
    free(chain->added);
    free(chain->gone);
    repl_chain_init(chain);
}

/* --- arrays ---------------------------------------------------------------------------------- */

/* Room for one more element; NULL: there is no memory. */
static void *grown(void *array, size_t count, size_t *room, size_t element_size)
{
    if (count < *room)
        return array;
    size_t wanted = *room == 0 ? 64 : 2 * *room;
    if (wanted > SIZE_MAX / element_size)
        return NULL;
    void *larger = realloc(array, wanted * element_size);
    if (larger != NULL)
        *room = wanted;
    return larger;
}

#define GROW(array, count, room, err)                                                              \
    do {                                                                                           \
        void *larger_ = grown(array, count, &(room), sizeof *(array));                             \
        if (larger_ == NULL)                                                                       \
            return repl_fail(err, REPL_E_NOMEM, "out of memory for the list of a volume");         \
        (array) = larger_;                                                                         \
    } while (0)

static repl_result entry_add(struct repl_chain *c, const struct repl_log_piece *entry,
                             struct repl_error *err)
{
    GROW(c->entries, c->count, c->room, err);
    c->entries[c->count++] = *entry;
    return REPL_SUCCESS;
}

/* --- what it says ---------------------------------------------------------------------------- */

/* Whether entry i is of one base with the one before it. */
static bool continues_base(const struct repl_chain *c, size_t i)
{
    return i > 0 && c->entries[i].commit.from_seq == 0 && !c->entries[i].begins &&
           c->entries[i - 1].commit.from_seq == 0;
}

size_t repl_chain_base_of(const struct repl_chain *c, size_t i)
{
    while (i > 0 && c->entries[i].commit.from_seq != 0)
        i--;
    while (continues_base(c, i))
        i--;
    return i;
}

bool repl_chain_has_point(const struct repl_chain *c, size_t i)
{
    return c->entries[i].commit.has_point && (i + 1 == c->count || !continues_base(c, i + 1));
}

/* How many entries lie before (to, part). */
static size_t count_before(const struct repl_chain *c, uint64_t to_seq, uint32_t part)
{
    size_t low = 0, high = c->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct repl_log_commit *commit = &c->entries[middle].commit;
        if (commit->to_seq < to_seq || (commit->to_seq == to_seq && commit->part < part))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

size_t repl_chain_find(const struct repl_chain *c, uint64_t to_seq, uint32_t part, uint64_t merge)
{
    size_t i = count_before(c, to_seq, part);
    if (i == c->count || c->entries[i].commit.to_seq != to_seq ||
        c->entries[i].commit.part != part || c->entries[i].merge != merge)
        return SIZE_MAX;
    return i;
}

size_t repl_chain_find_point(const struct repl_chain *c, uint64_t seq)
{
    size_t i = seq == UINT64_MAX ? c->count : count_before(c, seq + 1, 0);
    if (i == 0 || c->entries[i - 1].commit.to_seq != seq || !repl_chain_has_point(c, i - 1))
        return SIZE_MAX;
    return i - 1;
}

bool repl_chain_has_replaced(const struct repl_chain *c, uint64_t to_seq)
{
    bool next = true; /* of the entries, the first behind the segment */
    for (size_t i = 0; i < c->count; i++) {
        const struct repl_log_piece *entry = &c->entries[i];
        if (entry->commit.to_seq < to_seq)
            continue;
        if (entry->merge != 0 && entry->commit.from_seq < to_seq)
            return true;
        if (next && entry->begins && entry->commit.to_seq > to_seq)
            return true;
        next = false;
    }
    return false;
}

/* --- a run makes room for pieces ------------------------------------------------------------- */

static repl_result unfit(const struct repl_chain *c, const char *what, struct repl_error *err)
{
    return repl_fail(err, REPL_E_CORRUPT, "the merge of (%llu, %llu] does not fit: %s",
                     (unsigned long long)c->merge.from_seq, (unsigned long long)c->merge.to_seq,
                     what);
}

static bool is_gone(const struct repl_chain *c, const struct repl_log_piece *entry)
{
    for (size_t i = 0; i < c->gone_count; i++) {
        const struct repl_log_gone *gone = &c->gone[i];
        if (gone->to_seq == entry->commit.to_seq && gone->part == entry->commit.part &&
            gone->merge == entry->merge)
            return true;
    }
    return false;
}

/* Whether the merge takes the entry away. */
static bool is_replaced(const struct repl_chain *c, const struct repl_log_piece *entry)
{
    const struct repl_log_commit *commit = &entry->commit;
    if (commit->to_seq > c->merge.to_seq)
        return false;
    if (c->merge.from_seq > 0)
        return commit->to_seq > c->merge.from_seq;
    return commit->from_seq > 0 || is_gone(c, entry);
}

static int entry_order(const void *a, const void *b)
{
    const struct repl_log_commit *x = &((const struct repl_log_piece *)a)->commit;
    const struct repl_log_commit *y = &((const struct repl_log_piece *)b)->commit;
    if (x->to_seq != y->to_seq)
        return x->to_seq < y->to_seq ? -1 : 1;
    return x->part < y->part ? -1 : x->part > y->part;
}

/* What the merge takes away: entries [first, last], of which some may stay. */
struct taken {
    size_t first, last, count;
    size_t fulls;
    size_t of_run; /* entries that the run is made of, taken away or not */
};

static struct taken taken_find(const struct repl_chain *c)
{
    struct taken t = {.first = SIZE_MAX, .last = SIZE_MAX};
    for (size_t i = 0; i < c->count && c->entries[i].commit.to_seq <= c->merge.to_seq; i++) {
        t.last = i;
        t.of_run += c->entries[i].commit.to_seq > c->merge.from_seq;
        if (!is_replaced(c, &c->entries[i]))
            continue;
        t.first = t.first == SIZE_MAX ? i : t.first;
        t.count++;
        t.fulls += c->entries[i].commit.from_seq == 0;
    }
    return t;
}

/* The last entry that goes is what what follows was built on. */
static repl_result added_check(const struct repl_chain *c, const struct repl_log_piece *last,
                               bool full, struct repl_error *err)
{
    const struct repl_log_piece *z = &c->added[c->added_count - 1];
    for (size_t i = 0; i < c->added_count; i++) {
        const struct repl_log_commit *commit = &c->added[i].commit;
        if (commit->from_seq != (full ? 0 : c->merge.from_seq) ||
            commit->to_seq != c->merge.to_seq || commit->part != i ||
            commit->has_point != (i + 1 == c->added_count) ||
            c->added[i].begins != (i == 0 && full && c->merge.from_seq > 0))
            return unfit(c, "a piece of it is out of its place", err);
    }
    if (!repl_digest_equal(&z->link, &last->link) || z->commit.lineage != last->commit.lineage)
        return unfit(c, "what follows was built on another segment", err);
    if (z->commit.point.begin_ns != last->commit.point.begin_ns ||
        z->commit.volume_size != last->commit.volume_size)
        return unfit(c, "it ends in another point", err);
    return REPL_SUCCESS;
}

/* Nothing comes in its place: a full behind it says all. */
static repl_result needless_check(const struct repl_chain *c, const struct taken *t,
                                  struct repl_error *err)
{
    if (t->count != t->of_run || t->last + 1 == c->count || !c->entries[t->last + 1].begins)
        return unfit(c, "nothing has come in its place", err);
    return REPL_SUCCESS;
}

static repl_result run_check(const struct repl_chain *c, const struct taken *t,
                             struct repl_error *err)
{
    const struct repl_log_piece *last = &c->entries[t->last];
    const struct repl_log_commit *begin = &c->entries[t->first].commit;
    if (c->gone_count != (c->merge.from_seq > 0 ? 0 : t->fulls))
        return unfit(c, "it names a segment that is not of the base", err);
    if (c->merge.from_seq > 0 &&
        (begin->part > 0 || (begin->from_seq != 0 && begin->from_seq != c->merge.from_seq)))
        return unfit(c, "it does not begin behind a point", err);
    if (c->added_count == 0)
        return needless_check(c, t, err);
    if (last->commit.to_seq != c->merge.to_seq || !last->commit.has_point || !is_replaced(c, last))
        return unfit(c, "no segment of it ends there", err);
    return added_check(c, last, t->fulls > 0 || c->merge.from_seq == 0, err);
}

/* What stays, what has come, what is behind it: in order already. */
static repl_result entries_replace(struct repl_chain *c, const struct taken *t,
                                   struct repl_error *err)
{
    size_t behind_count = c->count - t->last - 1;
    size_t wanted = c->count - t->count + c->added_count, kept = 0;
    if (wanted > c->room) {
        struct repl_log_piece *larger = realloc(c->entries, wanted * sizeof *larger);
        if (larger == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for the list of a volume");
        c->entries = larger;
        c->room = wanted;
    }
    for (size_t i = 0; i <= t->last; i++) {
        if (!is_replaced(c, &c->entries[i]))
            c->entries[kept++] = c->entries[i];
    }
    if (behind_count > 0)
        memmove(&c->entries[kept + c->added_count], &c->entries[t->last + 1],
                behind_count * sizeof *c->entries);
    if (c->added_count > 0)
        memcpy(&c->entries[kept], c->added, c->added_count * sizeof *c->added);
    c->count = wanted;
    return REPL_SUCCESS;
}

static repl_result merge_apply(struct repl_chain *c, struct repl_error *err)
{
    struct taken taken = taken_find(c);
    if (taken.count == 0)
        return unfit(c, "there is no such run", err);
    if (c->added_count > 1)
        qsort(c->added, c->added_count, sizeof *c->added, entry_order);
    REPL_TRY(run_check(c, &taken, err));
    return entries_replace(c, &taken, err);
}

/* --- records --------------------------------------------------------------------------------- */

static void mark_drop(struct repl_chain *c, const struct repl_log_mark *mark)
{
    size_t kept = 0;
    for (size_t i = 0; i < c->mark_count; i++) {
        if (strcmp(c->marks[i].name, mark->name) != 0)
            c->marks[kept++] = c->marks[i];
    }
    c->mark_count = kept;
}

static repl_result mark_apply(struct repl_chain *c, const struct repl_log_mark *mark,
                              struct repl_error *err)
{
    mark_drop(c, mark);
    if (mark->kind == REPL_MARK_REMOVED)
        return REPL_SUCCESS;
    GROW(c->marks, c->mark_count, c->mark_room, err);
    c->marks[c->mark_count++] = *mark;
    return REPL_SUCCESS;
}

repl_result repl_chain_add(struct repl_chain *c, const struct repl_log_piece *piece,
                           struct repl_error *err)
{
    const struct repl_log_piece *before = c->count > 0 ? &c->entries[c->count - 1] : NULL;
    if (before != NULL && entry_order(before, piece) >= 0)
        return repl_fail(err, REPL_E_CORRUPT, "segment %llu.%u is out of its order",
                         (unsigned long long)piece->commit.to_seq, piece->commit.part);
    return entry_add(c, piece, err);
}

static void group_begin(struct repl_chain *c, uint32_t records, bool checkpoint)
{
    c->group_left = records;
    c->in_checkpoint = checkpoint;
    c->added_count = c->gone_count = 0;
}

static repl_result group_apply(struct repl_chain *c, const struct repl_log_record *record,
                               struct repl_error *err)
{
    c->group_left--;
    if (record->type == REPL_LOG_PIECE && c->in_checkpoint)
        return repl_chain_add(c, &record->piece, err);
    if (record->type == REPL_LOG_MARK)
        return mark_apply(c, &record->mark, err);
    if (record->type == REPL_LOG_POOL)
        return REPL_SUCCESS;
    if (record->type == REPL_LOG_PIECE) {
        GROW(c->added, c->added_count, c->added_room, err);
        c->added[c->added_count++] = record->piece;
    } else {
        GROW(c->gone, c->gone_count, c->gone_room, err);
        c->gone[c->gone_count++] = record->gone;
    }
    return c->group_left == 0 && !c->in_checkpoint ? merge_apply(c, err) : REPL_SUCCESS;
}

static repl_result commit_apply(struct repl_chain *c, const struct repl_log_record *record,
                                struct repl_error *err)
{
    struct repl_log_piece entry;
    repl_log_piece_of_commit(record, &entry);
    return entry_add(c, &entry, err);
}

static void idle_apply(struct repl_chain *c, const struct repl_log_idle *idle)
{
    size_t i = repl_chain_find_point(c, idle->seq);
    if (i != SIZE_MAX && c->entries[i].unchanged_until_ns < idle->until_ns)
        c->entries[i].unchanged_until_ns = idle->until_ns;
}

repl_result repl_chain_apply(struct repl_chain *c, const struct repl_log_record *record,
                             struct repl_error *err)
{
    if (c->group_left > 0)
        return group_apply(c, record, err);
    switch (record->type) {
    case REPL_LOG_COMMIT:
        return commit_apply(c, record, err);
    case REPL_LOG_IDLE:
        idle_apply(c, &record->idle);
        break;
    case REPL_LOG_MERGE:
        c->merge = record->merge;
        group_begin(c, record->merge.records, false);
        return record->merge.records == 0 ? merge_apply(c, err) : REPL_SUCCESS;
    case REPL_LOG_CHECKPOINT:
        c->count = c->mark_count = 0;
        group_begin(c, record->checkpoint.records, true);
        break;
    case REPL_LOG_MARK:
        return mark_apply(c, &record->mark, err);
    case REPL_LOG_CREATE:
    case REPL_LOG_STATE:
    case REPL_LOG_PIECE:
    case REPL_LOG_GONE:
    case REPL_LOG_POOL:
        break;
    }
    return REPL_SUCCESS;
}
