/*
 * What was sent last of pages whose segment the site has not acknowledged: a
 * bounded hash table from page to digest.
 *
 * Open addressing with linear probing; removal moves later entries of the run
 * back (Knuth, The Art of Computer Programming, vol. 3, 6.4, algorithm R), so no
 * tombstones pile up. A full map refuses new pages: forgetting one only costs
 * sending it again.
 */
#ifndef REPL_SENT_MAP_H
#define REPL_SENT_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "repl/format.h"

struct repl_sent_page {
    uint64_t page;
    uint64_t segment; /* 0: the slot is free */
    struct repl_page_digest digest;
};

struct repl_sent_map {
    struct repl_sent_page *slots;
    size_t slot_count; /* 0 or a power of two, at most a third more than REPL_SENT_PAGES_MAX */
    size_t count;
};

void repl_sent_map_fini(struct repl_sent_map *map);
/* Remembers, over what was there, if there is room (or memory); else forgets the page. */
void repl_sent_map_put(struct repl_sent_map *map, const struct repl_sent_page *sent);
/* NULL: not there. */
const struct repl_sent_page *repl_sent_map_get(const struct repl_sent_map *map, uint64_t page);
/* Removes the page if it was sent last in this segment. */
void repl_sent_map_remove(struct repl_sent_map *map, uint64_t page, uint64_t segment);

#endif
