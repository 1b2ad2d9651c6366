/*
 * The spool: segments as files while they are built and until the site has
 * acknowledged them. A file is written in order through the loop and read back
 * by the request that sends it, mostly from the page cache; what is not there is
 * read through the loop.
 *
 * Nothing here is synced: what a power cut takes from the spool is found again
 * by comparison (see pipeline.h for what has to be durable instead).
 */
#ifndef REPL_AGENT_SPOOL_H
#define REPL_AGENT_SPOOL_H

#include <stdbool.h>

#include "loop/loop.h"
#include "repl/error.h"

struct repl_spool_file;

/* Told when more of the file can be read, or that writing or reading it failed (REPL_E_NOSPACE:
 * there is no room), when it may be dropped; NULL: what was under way for a file that has been
 * dropped is over. */
typedef void repl_spool_fn(void *context, struct repl_spool_file *file, repl_result result,
                           const struct repl_error *err);

/* What a file of the spool is, and how its name ends. */
#define REPL_SPOOL_SEGMENT "seg"
#define REPL_SPOOL_SUPPLY  "supply" /* chunks that the segment of that number names (supply.h) */

struct repl_spool {
    struct repl_loop *loop;
    int dir_fd;
    const char *suffix;                      /* REPL_SPOOL_SEGMENT or REPL_SPOOL_SUPPLY */
    struct repl_spool_file *oldest, *newest; /* a list, in the order of their numbers */
    unsigned writes_out, reads_out;
    repl_spool_fn *progress;
    void *context;
};

void repl_spool_init(struct repl_spool *spool, struct repl_loop *loop, int dir_fd,
                     const char *suffix, repl_spool_fn *progress, void *context);
/* The files stay; nothing may be outstanding. */
void repl_spool_fini(struct repl_spool *spool);
bool repl_spool_is_idle(const struct repl_spool *spool);

/* Copies the bytes and starts to write them at the end of segment number, which is made if it is
 * not there. */
REPL_RESULT repl_spool_append(struct repl_spool *spool, uint64_t number, const void *data,
                              size_t size, struct repl_error *err);
#define REPL_SPOOL_NAME_SIZE 32
void repl_spool_name(uint64_t number, const char *suffix, char name[REPL_SPOOL_NAME_SIZE]);
/* Takes over file number from an earlier run: the whole of a file of so many bytes is readable.
 * REPL_E_CORRUPT: it has another size. */
REPL_RESULT repl_spool_adopt(struct repl_spool *spool, uint64_t number, uint64_t size,
                             struct repl_error *err);
struct repl_spool_file *repl_spool_find(struct repl_spool *spool, uint64_t number);
/* Removes the file; what is still being written to it is forgotten when it is done. */
void repl_spool_drop(struct repl_spool *spool, uint64_t number);

/* A descriptor of one's own to read file number with, which has been appended to: it goes on after
 * a drop. The caller closes it. */
REPL_RESULT repl_spool_open(const struct repl_spool *spool, uint64_t number, int *fd,
                            struct repl_error *err);

/* The segment it is of. */
uint64_t repl_spool_number(const struct repl_spool_file *file);
/* Bytes from the beginning that have been written and can be read. */
uint64_t repl_spool_readable(const struct repl_spool_file *file);
/* Bytes appended: the file's size once the writes are done. */
uint64_t repl_spool_appended(const struct repl_spool_file *file);
/* Reads up to size (> 0) bytes at offset, which are readable, without waiting for the disk. *got 0:
 * they are not in memory and have been asked for; progress is called when they are. */
REPL_RESULT repl_spool_read(struct repl_spool_file *file, uint64_t offset, void *out, size_t size,
                            size_t *got, struct repl_error *err);

#endif
