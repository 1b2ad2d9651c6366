/*
 * A bounded cache of aligned blocks of remote files: reads of a few KiB become
 * requests of a MiB, and what several threads want at once is fetched once.
 */
#ifndef REPL_AGENT_BLOCK_CACHE_H
#define REPL_AGENT_BLOCK_CACHE_H

#include "repl/error.h"
#include "store/store.h"

#define REPL_CACHE_BLOCK_SIZE (1u << 20)

/* Reads exactly size bytes; from several threads at once. */
typedef repl_result repl_block_fetch_fn(void *context, const struct repl_segment_id *id,
                                        uint64_t offset, void *out, size_t size,
                                        struct repl_error *err);

struct repl_block_cache;

REPL_RESULT repl_block_cache_new(size_t block_count, repl_block_fetch_fn *fetch, void *context,
                                 struct repl_block_cache **out, struct repl_error *err);
void repl_block_cache_free(struct repl_block_cache *cache);

/* [offset, offset + size) of a file of file_size bytes. Any number of threads, fewer than there
 * are blocks. */
REPL_RESULT repl_block_cache_read(struct repl_block_cache *cache, const struct repl_segment_id *id,
                                  uint64_t file_size, uint64_t offset, void *out, size_t size,
                                  struct repl_error *err);

#endif
