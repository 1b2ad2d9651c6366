#include "capture/round.h"

#include "base/ensure.h"

repl_result repl_round_init(struct repl_round *round, uint64_t page_count, struct repl_error *err)
{
    *round = (struct repl_round){0};
    return repl_bitmap_init(&round->dirty, page_count, err);
}

void repl_round_fini(struct repl_round *round)
{
    repl_bitmap_fini(&round->dirty);
}

repl_result repl_round_grow(struct repl_round *round, uint64_t page_count, struct repl_error *err)
{
    uint64_t before = round->dirty.bit_count;
    REPL_TRY(repl_bitmap_grow(&round->dirty, page_count, err));
    repl_bitmap_set(&round->dirty, before, page_count - before);
    return REPL_SUCCESS;
}

void repl_round_set_all(struct repl_round *round)
{
    repl_bitmap_set(&round->dirty, 0, round->dirty.bit_count);
}

/* --- parked batches -------------------------------------------------------------------------- */

static void park(struct repl_round *round, struct repl_batch *batch)
{
    batch->parked = true;
    batch->next_parked = round->parked_batches;
    round->parked_batches = batch;
}

static void unpark(struct repl_round *round, struct repl_batch *batch)
{
    struct repl_batch **at = &round->parked_batches;
    while (*at != batch)
        at = &(*at)->next_parked;
    *at = batch->next_parked;
    batch->parked = false;
}

static bool is_stale(const struct repl_batch *batch)
{
    return batch->parked && batch->read_count > 0;
}

uint64_t repl_round_parked_pages(const struct repl_round *round)
{
    uint64_t pages = 0;
    for (const struct repl_batch *b = round->parked_batches; b != NULL; b = b->next_parked)
        pages += b->page_count;
    return pages;
}

/* Which of its pages have been written since they were read. */
static void refresh(struct repl_round *round, struct repl_batch *batch)
{
    uint32_t place = 0;
    batch->read_count = 0;
    for (uint32_t i = 0; i < batch->run_count; place += batch->runs[i++].count) {
        uint64_t page = batch->runs[i].page, end = page + batch->runs[i].count;
        uint64_t first, count;
        for (uint64_t at = page; at < end; at = first + count) {
            if (!repl_bitmap_next_run(&round->dirty, at, end - at, &first, &count) || first >= end)
                break;
            count = count < end - first ? count : end - first;
            repl_bitmap_clear(&round->dirty, first, count);
            batch->reads[batch->read_count++] = (struct repl_batch_read){
                .page = first, .count = (uint32_t)count, .place = place + (uint32_t)(first - page)};
        }
    }
    round->stale += batch->read_count > 0;
}

/* --- a round --------------------------------------------------------------------------------- */

void repl_round_begin(struct repl_round *round, bool parked)
{
    ensure(round->reads_out == 0 && round->stale == 0);
    round->phase = REPL_ROUND_READING;
    round->next_page = 0;
    round->page_count = round->dirty.set_count;
    round->parked = parked;
    round->torn = round->is_void = false;
    uint32_t kept = 0;
    for (struct repl_batch *b = round->parked_batches; b != NULL; b = b->next_parked, kept++)
        refresh(round, b);
    ensure(round->batches_out == kept);
}

/* A long run that does not fit ends where a chunk does: a chunk in two batches has no name. */
static uint64_t run_fit(uint64_t first, uint64_t count, uint64_t room)
{
    if (count <= room)
        return count;
    uint64_t over = (first + room) % REPL_CHUNK_PAGES;
    return room > over ? room - over : room;
}

/* As many of the dirty pages as there is room for. */
static void take_dirty(struct repl_round *round, const struct repl_digest_table *table,
                       struct repl_batch *batch)
{
    uint64_t first, count;
    while (batch->page_count < REPL_BATCH_PAGES && round->dirty.set_count > 0) {
        uint64_t room = REPL_BATCH_PAGES - batch->page_count;
        /* one more than there is room for, to know whether the run goes on */
        if (!repl_bitmap_next_run(&round->dirty, round->next_page, room + 1, &first, &count)) {
            if (batch->read_count > 0)
                break; /* what is read at once is in order: from the beginning in the next one */
            round->next_page = 0;
            continue;
        }
        uint64_t fits = run_fit(first, count, room);
        uint32_t at = batch->page_count;
        uint32_t added = repl_batch_add(batch, first, fits);
        ensure(added == fits);
        for (uint32_t i = 0; i < added; i++)
            batch->held[at + i] = repl_digest_table_get(table, first + i);
        repl_bitmap_clear(&round->dirty, first, added);
        round->next_page = first + added;
        if (fits < count)
            break;
    }
}

bool repl_round_fill(struct repl_round *round, const struct repl_digest_table *table,
                     struct repl_batch *batch)
{
    bool stale = is_stale(batch);
    if (!batch->parked)
        repl_batch_clear(batch);
    take_dirty(round, table, batch);
    if (batch->read_count == 0)
        return false;
    if (batch->parked)
        unpark(round, batch);
    else
        round->batches_out++;
    round->stale -= stale;
    round->reads_out++;
    return true;
}

bool repl_round_is_read(const struct repl_round *round)
{
    return round->reads_out == 0 && round->stale == 0 && round->dirty.set_count == 0;
}

void repl_round_batch_read(struct repl_round *round, struct repl_batch *batch)
{
    ensure(round->reads_out > 0);
    round->reads_out--;
    batch->read_count = 0;
    if (round->parked)
        park(round, batch);
}

enum repl_batch_fate repl_round_batch_fate(const struct repl_round *round,
                                           const struct repl_batch *batch)
{
    if (round->is_void || (round->parked && round->torn))
        return REPL_BATCH_DISCARD;
    bool closed = round->phase > REPL_ROUND_CLOSING;
    return is_stale(batch) || (round->parked && !closed) ? REPL_BATCH_WAIT : REPL_BATCH_REDUCE;
}

void repl_round_batch_back(struct repl_round *round, struct repl_batch *batch, bool taken)
{
    round->stale -= is_stale(batch);
    if (batch->parked)
        unpark(round, batch);
    ensure(round->batches_out > round->reads_out);
    round->batches_out--;
    for (uint32_t i = 0; !taken && i < batch->run_count; i++)
        repl_bitmap_set(&round->dirty, batch->runs[i].page, batch->runs[i].count);
}
