#include "capture/digest_table.h"

#include <string.h>

#include "base/ensure.h"

repl_result repl_digest_table_init(struct repl_digest_table *table,
                                   struct repl_page_digest *entries, uint64_t page_count,
                                   struct repl_error *err)
{
    *table = (struct repl_digest_table){0};
    return repl_digest_table_grow(table, entries, page_count, err);
}

void repl_digest_table_fini(struct repl_digest_table *table)
{
    repl_bitmap_fini(&table->pending[0]);
    repl_bitmap_fini(&table->pending[1]);
    repl_sent_map_fini(&table->sent);
    *table = (struct repl_digest_table){0};
}

repl_result repl_digest_table_grow(struct repl_digest_table *table,
                                   struct repl_page_digest *entries, uint64_t page_count,
                                   struct repl_error *err)
{
    REPL_TRY(repl_bitmap_grow(&table->pending[0], page_count, err));
    REPL_TRY(repl_bitmap_grow(&table->pending[1], page_count, err));
    table->entries = entries;
    table->page_count = page_count;
    return REPL_SUCCESS;
}

struct repl_page_digest repl_digest_table_get(const struct repl_digest_table *table, uint64_t page)
{
    ensure(page < table->page_count);
    if (!repl_bitmap_test(&table->pending[0], page) && !repl_bitmap_test(&table->pending[1], page))
        return table->entries[page];
    const struct repl_sent_page *sent = repl_sent_map_get(&table->sent, page);
    return sent != NULL && sent->segment >= table->first ? sent->digest
                                                         : (struct repl_page_digest){0};
}

void repl_digest_table_sent(struct repl_digest_table *table, uint64_t page,
                            const struct repl_page_digest *digest, uint64_t segment)
{
    ensure(segment >= table->newest);
    table->newest = segment;
    repl_bitmap_set(&table->pending[segment > table->mark], page, 1);
    repl_sent_map_put(&table->sent, &(struct repl_sent_page){
                                        .page = page, .segment = segment, .digest = *digest});
}

void repl_digest_table_set(struct repl_digest_table *table, uint64_t page,
                           const struct repl_page_digest *digest, uint64_t segment)
{
    ensure(page < table->page_count);
    if (segment >= table->first)
        table->entries[page] = *digest;
    const struct repl_sent_page *sent = repl_sent_map_get(&table->sent, page);
    if (sent == NULL || sent->segment != segment)
        return; /* it is on its way again, or that is not known */
    repl_sent_map_remove(&table->sent, page, segment);
    repl_bitmap_clear(&table->pending[0], page, 1);
    repl_bitmap_clear(&table->pending[1], page, 1);
}

void repl_digest_table_dropped(struct repl_digest_table *table, uint64_t page, uint64_t segment)
{
    repl_sent_map_remove(&table->sent, page, segment);
}

void repl_digest_table_acknowledged(struct repl_digest_table *table, uint64_t segment)
{
    if (segment < table->mark)
        return;
    repl_bitmap_clear_all(&table->pending[0]);
    struct repl_bitmap cleared = table->pending[0];
    table->pending[0] = table->pending[1];
    table->pending[1] = cleared;
    table->mark = table->newest;
    if (segment >= table->newest) /* nothing is on its way */
        repl_bitmap_clear_all(&table->pending[0]);
}

void repl_digest_table_forget(struct repl_digest_table *table, uint64_t page, uint64_t count)
{
    ensure(page <= table->page_count && count <= table->page_count - page);
    memset(&table->entries[page], 0, count * sizeof *table->entries);
}

void repl_digest_table_begin_anew(struct repl_digest_table *table, uint64_t segment)
{
    ensure(segment >= table->newest);
    table->first = segment + 1;
    repl_digest_table_forget(table, 0, table->page_count);
}
