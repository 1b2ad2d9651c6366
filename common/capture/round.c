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

void repl_round_begin(struct repl_round *round, bool parked)
{
    ensure(round->batches_out == 0 && round->reads_out == 0);
    round->phase = REPL_ROUND_READING;
    round->next_page = 0;
    round->page_count = round->dirty.set_count;
    round->parked = parked;
    round->torn = round->is_void = false;
}

/* A long run that does not fit ends where a chunk does: a chunk in two batches has no name. */
static uint64_t run_fit(uint64_t first, uint64_t count, uint64_t room)
{
    if (count <= room)
        return count;
    uint64_t over = (first + room) % REPL_CHUNK_PAGES;
    return room > over ? room - over : room;
}

bool repl_round_fill(struct repl_round *round, const struct repl_digest_table *table,
                     struct repl_batch *batch)
{
    uint64_t first, count;
    repl_batch_clear(batch);
    while (batch->page_count < REPL_BATCH_PAGES && round->dirty.set_count > 0) {
        uint64_t room = REPL_BATCH_PAGES - batch->page_count;
        /* one more than there is room for, to know whether the run goes on */
        if (!repl_bitmap_next_run(&round->dirty, round->next_page, room + 1, &first, &count)) {
            if (batch->page_count > 0)
                break; /* runs of a batch are in order: from the beginning in the next one */
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
    if (batch->page_count == 0)
        return false;
    round->reads_out++;
    round->batches_out++;
    return true;
}

void repl_round_batch_read(struct repl_round *round)
{
    ensure(round->reads_out > 0);
    round->reads_out--;
}

enum repl_batch_fate repl_round_batch_fate(const struct repl_round *round)
{
    if (round->is_void || (round->parked && round->torn))
        return REPL_BATCH_DISCARD;
    bool closed = round->phase > REPL_ROUND_CLOSING;
    return round->parked && !closed ? REPL_BATCH_WAIT : REPL_BATCH_REDUCE;
}

void repl_round_batch_back(struct repl_round *round, const struct repl_batch *batch, bool taken)
{
    ensure(round->batches_out > round->reads_out);
    round->batches_out--;
    for (uint32_t i = 0; !taken && i < batch->run_count; i++)
        repl_bitmap_set(&round->dirty, batch->runs[i].page, batch->runs[i].count);
}
