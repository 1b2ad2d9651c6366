/*
 * The file "verified" in a volume's directory: what of it was read when
 * (docs/formats/state.md, section 9).
 *
 * It grows by a record for each segment that was read, and is written anew when
 * most of it is of the past. Nothing is synced: what a crash takes is read again.
 * One thread writes; readers need no lock.
 */
#ifndef REPL_AGENT_VERIFIED_FILE_H
#define REPL_AGENT_VERIFIED_FILE_H

#include <limits.h>

#include "format/verified_record.h"
#include "store/store.h"

struct repl_verified_file {
    char path[PATH_MAX];
    struct repl_verified_list list;
    uint64_t records; /* that it holds, good or replaced by later ones */
    bool torn;        /* it ends in what is none */
};

/* A file that is not there holds nothing. REPL_E_MISSING: the store has no directory on this
 * machine. */
REPL_RESULT repl_verified_file_read(const struct repl_store *store, const char *volume,
                                    struct repl_verified_file *out, struct repl_error *err);
void repl_verified_file_fini(struct repl_verified_file *file);
/* Behind what is there. The list stays as it was read. */
REPL_RESULT repl_verified_file_append(struct repl_verified_file *file,
                                      const struct repl_verified *records, size_t count,
                                      struct repl_error *err);
/* The list, without what keep does not want, takes the place of the file. */
REPL_RESULT repl_verified_file_rewrite(struct repl_verified_file *file,
                                       bool (*keep)(void *context,
                                                    const struct repl_verified *verified),
                                       void *context, struct repl_error *err);

#endif
