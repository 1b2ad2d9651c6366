/*
 * A store of any kind, and what tests do with it in a line.
 */
#ifndef TESTS_UNIT_STORE_CONTRACT_CALLS_H
#define TESTS_UNIT_STORE_CONTRACT_CALLS_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store/store.h"
#include "unit/temporary.h"

#define PATH_SIZE 512

struct contract {
    struct temporary temporary;
    struct repl_store *store; /* open for writing, with the volume "data" */
    struct repl_error err;
    /* Opens the store once more. */
    repl_result (*open)(struct contract *c, bool writable, struct repl_store **out);
};

static inline void assert_code(const struct contract *c, repl_result result, enum repl_code code)
{
    if (result.code != code)
        print_error("%s where %s was expected: %s\n", repl_code_name(result.code),
                    repl_code_name(code), c->err.text);
    assert_int_equal(result.code, code);
}

static inline void close_store(struct contract *c)
{
    if (c->store != NULL)
        c->store->ops->close(c->store);
    c->store = NULL;
}

static inline void reopen(struct contract *c)
{
    close_store(c);
    assert_code(c, c->open(c, true, &c->store), REPL_OK);
}

/* --- segments and logs ----------------------------------------------------------------------- */

/* A staged file with this content, its descriptor; path gets its name. */
static inline int stage(struct contract *c, const char *text, char path[PATH_SIZE])
{
    assert_code(c, repl_store_staging(c->store, "data", path, PATH_SIZE - 16, &c->err), REPL_OK);
    strcat(path, "/upload");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fsync(fd), 0);
    return fd;
}

static inline repl_result publish(struct contract *c, const struct repl_segment_id *id,
                                  const char *text)
{
    char path[PATH_SIZE];
    int fd = stage(c, text, path);
    repl_result result = c->store->ops->segment_publish(c->store, "data", id, fd, path, &c->err);
    assert_int_equal(access(path, F_OK), repl_ok(result) ? -1 : 0);
    close(fd);
    return result;
}

static inline void assert_segment(struct contract *c, const struct repl_segment_id *id,
                                  const char *text)
{
    struct repl_stored_segment *segment;
    char bytes[64];
    assert_code(c, c->store->ops->segment_open(c->store, "data", id, 0, &segment, &c->err),
                REPL_OK);
    assert_int_equal(segment->size, strlen(text));
    assert_code(c, repl_stored_segment_read_at(segment, 0, bytes, segment->size, &c->err), REPL_OK);
    assert_memory_equal(bytes, text, strlen(text));
    segment->close(segment);
}

static inline repl_result append(struct contract *c, uint64_t end, const char *text)
{
    return c->store->ops->log_append(c->store, "data", end, text, strlen(text), &c->err);
}

static inline void assert_log_of(struct contract *c, struct repl_store *store, const char *text)
{
    struct repl_buffer log = {0};
    assert_code(c, store->ops->log_read(store, "data", &log, NULL, &c->err), REPL_OK);
    assert_int_equal(log.size, strlen(text));
    if (log.size > 0)
        assert_memory_equal(log.data, text, log.size);
    repl_buffer_fini(&log);
}

static inline void assert_log(struct contract *c, const char *text)
{
    assert_log_of(c, c->store, text);
}

#endif
