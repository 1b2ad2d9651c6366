/*
 * A store that knows how many bytes lie in it: it passes every call on to the
 * one it was made of, and counts what comes and goes by that. Nothing is walked
 * through for it; the list of a volume's segments, which a site reads when it
 * begins, is where the count begins.
 *
 * Of a volume its log and its segments count, those that wait for their end,
 * supplies, and what nobody knows included. Not what was set aside, which is the
 * operator's, nor what the site keeps beside the history (replica, staging).
 */
#ifndef REPL_AGENT_STORE_COUNTED_H
#define REPL_AGENT_STORE_COUNTED_H

#include "store/store.h"

struct repl_store_usage;

/* Takes over inner, also where this fails. Nobody else may write to it. */
REPL_RESULT repl_store_counted(struct repl_store *inner, struct repl_store **out,
                               struct repl_error *err);
/* The one it was made of: for tests. */
struct repl_store *repl_store_counted_inner(struct repl_store *counted);

/* Of a volume, whether it is there yet or not; as long as the store. */
REPL_RESULT repl_store_usage_of(struct repl_store *counted, const char *volume,
                                struct repl_store_usage **out, struct repl_error *err);
/* From any thread. More than there is for a while where a file's size could not be asked for as it
 * was removed: until the next start. */
uint64_t repl_store_usage_bytes(const struct repl_store_usage *usage);
uint64_t repl_store_usage_total(const struct repl_store *counted);

#endif
