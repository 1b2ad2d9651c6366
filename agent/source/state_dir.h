/*
 * What the source keeps of one volume on its own disk:
 *
 *   STATE/volumes/NAME/state     two slots, struct repl_source_state
 *   STATE/volumes/NAME/heads   what has left the state (past_heads.h)
 *   STATE/volumes/NAME/digests   4 KiB of header, then 16 bytes a page, mapped
 *   STATE/volumes/NAME/tree      what a directory tree holds (tree/tree_index.h)
 *   STATE/volumes/NAME/spool/    segments the site has not acknowledged, and the
 *                                chunks they name
 *   STATE/chunks                 what the site is known to hold, of all volumes (chunk_index.h)
 *
 * STATE/lock is held by the one agent that uses STATE.
 */
#ifndef REPL_AGENT_STATE_DIR_H
#define REPL_AGENT_STATE_DIR_H

#include "capture/digest_table.h"
#include "format/slot.h"
#include "repl/error.h"

/* Makes STATE if need be and locks it; REPL_E_LOCKED names the process that has it, which a moment
 * was waited for (control/lock.h). */
REPL_RESULT repl_state_lock(const char *path, int *lock_fd, struct repl_error *err);

struct repl_state_dir {
    int dir_fd;
    int spool_fd; /* directory */
    int state_fd;
    int digests_fd;
    uint64_t generation; /* of the state last written or read */
    struct repl_source_state state;
    struct repl_source_state written; /* the last one */
    bool is_new;                      /* no state was there */
    uint8_t *map;                     /* of the digests' file */
    size_t map_size;
    struct repl_page_digest *digests;
    char label[128]; /* for messages */
};

/* Of a new tree's space. */
#define REPL_STATE_SPACE_SIZE (UINT64_C(4) << 20)

/* Opens or makes the volume's directory, maps its digests for volume_size bytes; 0: of a tree,
 * whose space is as large as it was, or REPL_STATE_SPACE_SIZE. A volume without state gets a new
 * UUID. A table that does not belong to the state is begun anew, which costs sending everything
 * once. */
REPL_RESULT repl_state_dir_open(const char *state_path, const char *volume, uint64_t volume_size,
                                const char *identity, struct repl_state_dir *out,
                                struct repl_error *err);
void repl_state_dir_close(struct repl_state_dir *dir);

/* Durable when it returns, as are the heads that were in the state and are not any more; where
 * these cannot be kept, the log says so, and the state is written all the same. Blocks; one at a
 * time. */
REPL_RESULT repl_state_dir_write(struct repl_state_dir *dir, const struct repl_source_state *state,
                                 struct repl_error *err);
/* msync of the digests; blocks. */
REPL_RESULT repl_state_dir_checkpoint(struct repl_state_dir *dir, struct repl_error *err);
/* The table for a larger volume; dir->digests moves. */
REPL_RESULT repl_state_dir_grow(struct repl_state_dir *dir, uint64_t volume_size,
                                struct repl_error *err);

/* The state of a volume that something is kept of, whether an agent runs or not. REPL_E_MISSING:
 * nothing is. */
REPL_RESULT repl_state_dir_look(const char *state_path, const char *volume,
                                struct repl_source_state *out, struct repl_error *err);
/* Removes the volume's digests, and a tree's index: nothing is believed of what the site holds when
 * they are opened next. */
REPL_RESULT repl_state_dir_forget_digests(const char *state_path, const char *volume,
                                          struct repl_error *err);
/* Removes all that is kept of a volume. */
REPL_RESULT repl_state_dir_remove(const char *state_path, const char *volume,
                                  struct repl_error *err);

#endif
