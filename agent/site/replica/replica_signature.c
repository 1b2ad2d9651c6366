/*
 * What a device holds that is not ours: the marks by which filesystems, swap,
 * volume managers and partition tables are known. A list of the common ones, not
 * of all; it is there against a wrong path in a config.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "block/read_full.h"
#include "site/replica/replica_internal.h"

struct signature {
    uint32_t offset;
    const char *magic;
    uint32_t size;
    const char *name;
};

/* The more telling ones first: a disk with a boot sector may hold something better known. */
static const struct signature signatures[] = {
    {0x438, "\x53\xef", 2, "an ext2, ext3 or ext4 filesystem"},
    {0, "XFSB", 4, "an xfs filesystem"},
    {0x10040, "_BHRfS_M", 8, "a btrfs filesystem"},
    {0x400, "\x10\x20\xf5\xf2", 4, "an f2fs filesystem"},
    {0, "LABELONE", 8, "an LVM physical volume"},
    {512, "LABELONE", 8, "an LVM physical volume"},
    {1024, "LABELONE", 8, "an LVM physical volume"},
    {1536, "LABELONE", 8, "an LVM physical volume"},
    {0, "LUKS\xba\xbe", 6, "an encrypted (LUKS) volume"},
    {0, "\xfc\x4e\x2b\xa9", 4, "a member of an md RAID"},
    {4096, "\xfc\x4e\x2b\xa9", 4, "a member of an md RAID"},
    {4096 - 10, "SWAPSPACE2", 10, "swap space"},
    {16384 - 10, "SWAPSPACE2", 10, "swap space"},
    {65536 - 10, "SWAPSPACE2", 10, "swap space"},
    {32769, "CD001", 5, "an ISO 9660 filesystem"},
    {3, "NTFS    ", 8, "an NTFS filesystem"},
    {82, "FAT32   ", 8, "a FAT filesystem"},
    {54, "FAT", 3, "a FAT filesystem"},
    {512, "EFI PART", 8, "a partition table (GPT)"},
    {4096, "EFI PART", 8, "a partition table (GPT)"},
    {510, "\x55\xaa", 2, "a partition table or boot sector"},
};

#define SIGNATURE_COUNT (sizeof signatures / sizeof signatures[0])

/* A pool's labels hold 128 uberblocks of 1 KiB or more, used in turn. */
static bool is_zfs(const uint8_t *bytes, size_t size)
{
    static const uint8_t magic[] = {0x0c, 0xb1, 0xba, 0x00, 0, 0, 0, 0};
    for (size_t at = 128u << 10; at + sizeof magic <= size; at += 1024) {
        if (memcmp(bytes + at, magic, sizeof magic) == 0)
            return true;
    }
    return false;
}

const char *replica_signature_find(const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < SIGNATURE_COUNT; i++) {
        const struct signature *s = &signatures[i];
        if (s->offset + s->size <= size && memcmp(bytes + s->offset, s->magic, s->size) == 0)
            return s->name;
    }
    return is_zfs(bytes, size) ? "a ZFS pool" : NULL;
}

repl_result replica_target_foreign(const struct replica_target *target, const char **name,
                                   struct repl_error *err)
{
    uint8_t *bytes = malloc(REPLICA_SIGNATURE_HEAD_SIZE);
    if (bytes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory to look at %s", target->path);
    ssize_t got = repl_read_full(target->fd, bytes, REPLICA_SIGNATURE_HEAD_SIZE, 0);
    repl_result result =
        got < 0 ? repl_fail_errno(err, REPL_E_IO, errno, "cannot read %s", target->path)
                : REPL_SUCCESS;
    *name = replica_signature_find(bytes, got < 0 ? 0 : (size_t)got);
    free(bytes);
    return result;
}
