#include "estimate/known.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* Beyond this share of its places a table takes nothing new, so a search ends soon. */
#define ROOM(places) ((places) / 4 * 3)

struct repl_known_page {
    uint64_t place; /* the page's number and 1; 0: free */
    struct repl_page_digest digest;
};

repl_result repl_known_init(struct repl_known *known, struct repl_error *err)
{
    *known = (struct repl_known){.pages = calloc(REPL_KNOWN_PAGES, sizeof *known->pages),
                                 .chunks = calloc(REPL_KNOWN_CHUNKS, sizeof *known->chunks)};
    if (known->pages != NULL && known->chunks != NULL)
        return REPL_SUCCESS;
    repl_known_fini(known);
    return repl_fail(err, REPL_E_NOMEM, "out of memory for the digests of pages");
}

void repl_known_fini(struct repl_known *known)
{
    free(known->pages);
    free(known->chunks);
    *known = (struct repl_known){0};
}

/* Of the page, or the free place where it belongs. */
static struct repl_known_page *page_find(const struct repl_known *known, uint64_t page)
{
    uint64_t at = repl_xxh3(&page, sizeof page);
    while (known->pages[at % REPL_KNOWN_PAGES].place != 0 &&
           known->pages[at % REPL_KNOWN_PAGES].place != page + 1)
        at++;
    return &known->pages[at % REPL_KNOWN_PAGES];
}

struct repl_page_digest repl_known_page(const struct repl_known *known, uint64_t page)
{
    return page_find(known, page)->digest;
}

void repl_known_page_set(struct repl_known *known, uint64_t page,
                         const struct repl_page_digest *digest)
{
    struct repl_known_page *found = page_find(known, page);
    if (found->place == 0 && known->page_count >= ROOM(REPL_KNOWN_PAGES)) {
        known->full = true;
        return;
    }
    known->page_count += found->place == 0;
    *found = (struct repl_known_page){.place = page + 1, .digest = *digest};
}

static struct repl_digest *chunk_find(const struct repl_known *known,
                                      const struct repl_digest *name)
{
    uint64_t at;
    memcpy(&at, name, sizeof at);
    while (!repl_digest_is_zero(&known->chunks[at % REPL_KNOWN_CHUNKS]) &&
           !repl_digest_equal(&known->chunks[at % REPL_KNOWN_CHUNKS], name))
        at++;
    return &known->chunks[at % REPL_KNOWN_CHUNKS];
}

bool repl_known_chunk(void *context, const struct repl_digest *name)
{
    return !repl_digest_is_zero(chunk_find(context, name));
}

void repl_known_chunk_add(struct repl_known *known, const struct repl_digest *name)
{
    struct repl_digest *found = chunk_find(known, name);
    if (!repl_digest_is_zero(found))
        return;
    if (known->chunk_count >= ROOM(REPL_KNOWN_CHUNKS)) {
        known->full = true;
        return;
    }
    *found = *name;
    known->chunk_count++;
}
