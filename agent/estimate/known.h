/*
 * What a site would know by now, as far as there is room to remember it: the
 * digest of each page that was sent, and the names of the chunks that were. Both
 * are bounded; what does not fit is forgotten, and counted as if it was never
 * sent, so an estimate that is off for it is too high.
 */
#ifndef REPL_AGENT_ESTIMATE_KNOWN_H
#define REPL_AGENT_ESTIMATE_KNOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "repl/error.h"
#include "repl/format.h"

/* Pages: 24 bytes each, 1.5 GiB of a volume in 12 MiB. Chunks: 32 bytes each, 12 GiB in 8 MiB. */
#define REPL_KNOWN_PAGES  (1u << 19)
#define REPL_KNOWN_CHUNKS (1u << 18)

struct repl_known_page;
struct repl_known {
    struct repl_known_page *pages;
    struct repl_digest *chunks; /* zeros: free */
    size_t page_count, chunk_count;
    bool full; /* something was not remembered */
};

REPL_RESULT repl_known_init(struct repl_known *known, struct repl_error *err);
void repl_known_fini(struct repl_known *known);

/* Zeros: nothing is known of it. */
struct repl_page_digest repl_known_page(const struct repl_known *known, uint64_t page);
void repl_known_page_set(struct repl_known *known, uint64_t page,
                         const struct repl_page_digest *digest);
/* context: a struct repl_known; a repl_chunk_known_fn. */
bool repl_known_chunk(void *context, const struct repl_digest *name);
void repl_known_chunk_add(struct repl_known *known, const struct repl_digest *name);

#endif
