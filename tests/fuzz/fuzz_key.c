/*
 * The reader of key files on any bytes. What is accepted holds a pair of keys, with a fingerprint
 * that comes back from its own text.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "link/keys.h"
#include "unit/temporary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct temporary temporary;
static char path[300];

static void leave(void)
{
    temporary_remove(&temporary);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct repl_digest fingerprint, again;
    struct repl_error err = {.text = ""};
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    char *pem;
    if (path[0] == '\0') {
        ensure(temporary_make(&temporary) == 0 && atexit(leave) == 0);
        snprintf(path, sizeof path, "%s/key", temporary.path);
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ensure(fd >= 0 && write(fd, data, size) == (ssize_t)size && close(fd) == 0);
    if (!repl_ok(repl_key_load(path, &pem, &fingerprint, &err))) {
        ensure(pem == NULL && strstr(err.text, path) != NULL);
        return 0;
    }
    repl_fingerprint_format(&fingerprint, text);
    ensure(repl_ok(repl_fingerprint_parse(text, &again, &err)));
    ensure(repl_digest_equal(&fingerprint, &again));
    repl_key_wipe(pem);
    free(pem);
    return 0;
}
