/*
 * What a device seems to hold, on any first bytes: as they are, and put to where each superblock
 * begins. What is found must stand there: its magic, and a size that reaches behind it. What the
 * readers of a restore, of a replica's target and of a source find must agree.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/ensure.h"
#include "block/filesystem.h"
#include "recover/target.h"
#include "site/replica/replica_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool has(const uint8_t *head, size_t size, size_t at, const char *magic, size_t magic_size)
{
    return at + magic_size <= size && memcmp(head + at, magic, magic_size) == 0;
}

static void filesystem_check(const uint8_t *head, size_t size)
{
    struct repl_filesystem fs;
    repl_filesystem_parse(head, size, &fs);
    ensure(fs.kind == REPL_FILESYSTEM_BTRFS || fs.device_count == 1);
    ensure(fs.journal == 0 || fs.external_journal);
    switch (fs.kind) {
    case REPL_FILESYSTEM_EXT:
        ensure(!fs.external_journal || fs.journal != 0);
        ensure(major(fs.journal) < 1u << 12 && minor(fs.journal) < 1u << 20);
        ensure(has(head, size, 1024 + 56, "\x53\xef", 2));
        break;
    case REPL_FILESYSTEM_EXT_JOURNAL:
        ensure(!fs.external_journal && has(head, size, 1024 + 56, "\x53\xef", 2));
        break;
    case REPL_FILESYSTEM_XFS:
        ensure(has(head, size, 0, "XFSB", 4));
        break;
    case REPL_FILESYSTEM_BTRFS:
        ensure(!fs.external_journal && has(head, size, 65536 + 64, "_BHRfS_M", 8));
        break;
    case REPL_FILESYSTEM_OTHER:
        ensure(!fs.external_journal);
        ensure(!has(head, size, 0, "XFSB", 4) || size < 56);
        break;
    }
    /* Where there is a filesystem to protect, a restore and a replica must not go unasked. */
    if (fs.kind != REPL_FILESYSTEM_OTHER) {
        ensure(replica_signature_find(head, size) != NULL);
        ensure(strstr(repl_target_content(head, size), "filesystem") != NULL);
    }
}

static void try_head(const uint8_t *head, size_t size)
{
    const char *foreign = replica_signature_find(head, size);
    const char *content = repl_target_content(head, size);
    filesystem_check(head, size);
    ensure(content[0] != '\0' && strlen(content) < sizeof((struct repl_target *)NULL)->content);
    ensure(foreign == NULL || foreign[0] != '\0');
    /* the replica's list has all that the restore's has */
    ensure(foreign != NULL || strncmp(content, "nothing", 7) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t places[] = {0, 512, 1024, 4096 - 10, 32768, 65536, 128u << 10};
    try_head(data, size);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        /* a copy of exactly that size: what reads beyond it is noticed by the sanitizer */
        uint8_t *head = calloc(1, places[i] + size + 1);
        ensure(head != NULL);
        memcpy(head + places[i], data, size);
        try_head(head, places[i] + size);
        free(head);
    }
    return 0;
}
