#include "capture/sent_map.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/ensure.h"
#include "base/limits.h"

#define SLOTS_FIRST 1024u

/* At most three quarters of the slots are taken: with so many, a page that is not there is found
 * out after 8.5 probes on average (Knuth, vol. 3, 6.4, theorem K). */
#define SLOTS_MAX (REPL_SENT_PAGES_MAX / 3 * 4)

_Static_assert((SLOTS_MAX & (SLOTS_MAX - 1)) == 0, "the table doubles to it");
_Static_assert(REPL_SENT_PAGES_MAX % 3 == 0, "and is then filled to three quarters");

void repl_sent_map_fini(struct repl_sent_map *map)
{
    free(map->slots);
    *map = (struct repl_sent_map){0};
}

/* Fibonacci hashing (Knuth, vol. 3, 6.4): neighbouring pages land far apart. */
static size_t home_of(uint64_t page, size_t slot_count)
{
    return (size_t)(page * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (slot_count - 1);
}

/* The page's slot, or the free one where it would go. */
static size_t slot_find(const struct repl_sent_map *map, uint64_t page)
{
    size_t slot = home_of(page, map->slot_count);
    while (map->slots[slot].segment != 0 && map->slots[slot].page != page)
        slot = (slot + 1) & (map->slot_count - 1);
    return slot;
}

static bool map_grow(struct repl_sent_map *map)
{
    struct repl_sent_map larger = {.slot_count =
                                       map->slot_count ? 2 * map->slot_count : SLOTS_FIRST};
    if (map->slot_count == SLOTS_MAX)
        return false;
    larger.slots = calloc(larger.slot_count, sizeof *larger.slots);
    if (larger.slots == NULL)
        return false;
    for (size_t i = 0; i < map->slot_count; i++) {
        if (map->slots[i].segment != 0)
            larger.slots[slot_find(&larger, map->slots[i].page)] = map->slots[i];
    }
    larger.count = map->count;
    free(map->slots);
    *map = larger;
    return true;
}

const struct repl_sent_page *repl_sent_map_get(const struct repl_sent_map *map, uint64_t page)
{
    if (map->slot_count == 0)
        return NULL;
    const struct repl_sent_page *sent = &map->slots[slot_find(map, page)];
    return sent->segment != 0 ? sent : NULL;
}

void repl_sent_map_put(struct repl_sent_map *map, const struct repl_sent_page *sent)
{
    ensure(sent->segment != 0);
    bool known = repl_sent_map_get(map, sent->page) != NULL;
    if (!known && 4 * (map->count + 1) > 3 * map->slot_count && !map_grow(map))
        return; /* it is not there, and stays so */
    map->slots[slot_find(map, sent->page)] = *sent;
    map->count += !known;
}

void repl_sent_map_remove(struct repl_sent_map *map, uint64_t page, uint64_t segment)
{
    const struct repl_sent_page *sent = repl_sent_map_get(map, page);
    if (sent == NULL || sent->segment != segment)
        return;
    size_t mask = map->slot_count - 1;
    size_t hole = (size_t)(sent - map->slots);
    map->slots[hole].segment = 0;
    map->count--;
    /* An entry behind the hole whose way from home leads over it moves into it. */
    for (size_t slot = (hole + 1) & mask; map->slots[slot].segment != 0; slot = (slot + 1) & mask) {
        size_t home = home_of(map->slots[slot].page, map->slot_count);
        if (((slot - home) & mask) < ((slot - hole) & mask))
            continue;
        map->slots[hole] = map->slots[slot];
        map->slots[slot].segment = 0;
        hole = slot;
    }
}
