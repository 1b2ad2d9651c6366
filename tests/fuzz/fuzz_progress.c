/*
 * The file that remembers how far a restore came, on any bytes: as they are, and with the checksums
 * of its header and pages put right. It is either refused in words, or a piece counts as done that
 * lies within the volume.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/ensure.h"
#include "base/hash.h"
#include "base/limits.h"
#include "recover/restore_progress.h"
#include "unit/temporary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PAGE ((size_t)4096)

static struct temporary temporary;
static char path[300];

static void leave(void)
{
    temporary_remove(&temporary);
}

static void enter(void)
{
    ensure(temporary_make(&temporary) == 0 && atexit(leave) == 0);
    snprintf(path, sizeof path, "%s/progress", temporary.path);
}

static void try_file(const uint8_t *data, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct repl_restore_plan plan;
    struct repl_error err = {.text = ""};
    uint64_t done = 0;
    ensure(fd >= 0 && write(fd, data, size) == (ssize_t)size && close(fd) == 0);
    if (!repl_ok(repl_restore_progress_read(path, &plan, &done, &err))) {
        ensure(err.text[0] != '\0');
        return;
    }
    ensure(done <= repl_restore_piece_count(plan.volume_size));
}

static void put_u64(uint8_t *at, uint64_t value)
{
    struct repl_writer w = repl_writer_of(at, 8);
    repl_write_u64(&w, value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* A file of the largest volume would have its million pages read, one by one. */
    const uint64_t volume_size_max = UINT64_C(1) << 30;
    uint8_t file[2 * PAGE] = {0};
    uint64_t nonce, volume_size;
    if (path[0] == '\0')
        enter();
    try_file(data, size);
    memcpy(file, data, size < sizeof file ? size : sizeof file);
    struct repl_reader r = repl_reader_of(file + 16, PAGE - 16);
    nonce = repl_read_u64(&r);
    r.position = 8 + 16 + 8 + 32;
    volume_size = repl_read_u64(&r);
    if (volume_size > volume_size_max && volume_size <= REPL_VOLUME_SIZE_MAX)
        return 0;
    struct repl_writer w = repl_writer_of(file, PAGE);
    repl_write_bytes(&w, "REPRSTRE", 8);
    repl_write_u64(&w, 1);
    put_u64(file + PAGE - 8, repl_xxh3(file, PAGE - 8));
    put_u64(file + 2 * PAGE - 8, repl_xxh3(file + PAGE, PAGE - 8) ^ nonce);
    try_file(file, sizeof file);
    return 0;
}
