/*
 * Object lock of a real service: s3_locks LOCATION DIRECTORY, with AWS_* in the environment and a
 * bucket that was made with object lock.
 *
 * Shown: what is written is locked until the time that was asked for, the lock is extended, and
 * nobody removes the version before; a removal leaves it behind a marker; when its lock is over it
 * can go.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "loop/loop.h"
#include "store/store_s3_internal.h"

#define LOCK_S 20

static struct repl_error err;

static void must(repl_result result, const char *what)
{
    if (repl_ok(result))
        return;
    fprintf(stderr, "%s: %s\n", what, err.text);
    exit(1);
}

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "not so: %s\n", what);
    exit(1);
}

static void pause_s(time_t seconds)
{
    nanosleep(&(struct timespec){.tv_sec = seconds}, NULL);
}

int main(int argc, char **argv)
{
    const char *key = "volumes/data/log/00000000000000000000";
    struct repl_store *base;
    struct s3_store_limits limits = s3_store_limits_default;
    struct s3_head first, head;
    if (argc != 3) {
        fprintf(stderr, "usage: %s LOCATION DIRECTORY\n", argv[0]);
        return 2;
    }
    const struct repl_store_options options = {.location = argv[1],
                                               .writable = true,
                                               .create = true,
                                               .local = argv[2],
                                               .object_lock_ms = LOCK_S * 1000};
    limits.lock_first_ms = 3000;
    must(s3_store_open_with(&options, &limits, &base, &err), "opening");
    struct s3_client *client = s3_store_of(base)->client;
    must(base->ops->volume_create(base, "data", &err), "making the volume");
    must(base->ops->log_append(base, "data", 0, "a record", 8, &err), "appending");
    must(s3_head(client, key, &first, &err), "looking at the object");
    int64_t left_s = first.locked_until_s - (int64_t)time(NULL);
    check(left_s > LOCK_S - 5 && left_s <= LOCK_S, "it is locked for as long as was asked for");
    check(s3_delete_version(client, key, first.version, &err).code == REPL_E_REFUSED,
          "a version that is locked cannot be removed");

    for (unsigned i = 0; i < 20; i++) {
        pause_s(1);
        must(s3_head(client, key, &head, &err), "looking at the object");
        if (head.locked_until_s > first.locked_until_s)
            break;
    }
    check(head.locked_until_s > first.locked_until_s, "the lock is extended");
    check(strcmp(head.version, first.version) == 0, "of the same version");

    must(s3_delete(client, key, NULL, &err), "removing");
    check(s3_head(client, key, &head, &err).code == REPL_E_MISSING,
          "what was removed is not found");
    check(s3_delete_version(client, key, first.version, &err).code == REPL_E_REFUSED,
          "its version is there, and locked");
    bool gone = false;
    for (unsigned i = 0; i < 2 * LOCK_S && !gone; i++) {
        pause_s(1);
        gone = repl_ok(s3_delete_version(client, key, first.version, &err));
    }
    check(gone, "when its lock is over, it can go");
    base->ops->close(base);
    printf("locks hold, are extended, outlast a removal, and end\n");
    return 0;
}
