#include "source/freeze/guard_record.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_TRIES    200
#define LOCK_PAUSE_NS 50000000

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
               "words shared between processes");

/* --- the file -------------------------------------------------------------------------------- */

static repl_result boot_id_read(char *out, size_t size, struct repl_error *err)
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, out, size - 1);
    int failed = errno;
    if (fd >= 0)
        close(fd);
    if (got <= 0)
        return repl_fail_errno(err, REPL_E_IO, failed, "%s", path);
    memset(out + got, 0, size - (size_t)got);
    return REPL_SUCCESS;
}

static bool table_usable(const struct repl_guard_table *table)
{
    if (table->magic != REPL_GUARD_TABLE_MAGIC || table->size != sizeof *table ||
        table->reserved != 0)
        return false;
    for (size_t i = 0; i < REPL_GUARD_SLOTS; i++) {
        const struct repl_guard_slot *slot = &table->slots[i];
        if (slot->mount_count > REPL_GUARD_MOUNTS_MAX ||
            memchr(slot->volume, '\0', sizeof slot->volume) == NULL ||
            memchr(slot->post_command, '\0', sizeof slot->post_command) == NULL)
            return false;
    }
    return true;
}

repl_result repl_guard_table_map(int fd, struct repl_guard_table **out, struct repl_error *err)
{
    struct stat status;
    if (fstat(fd, &status) != 0 || status.st_size != (off_t)sizeof **out)
        return repl_fail(err, REPL_E_VERSION,
                         "the freeze guard's record is not as expected: systemctl restart "
                         "repl-guard repl-agent");
    void *at = mmap(NULL, sizeof **out, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return repl_fail_errno(err, REPL_E_NOMEM, errno, "the freeze guard's record");
    *out = at;
    return REPL_SUCCESS;
}

void repl_guard_table_unmap(struct repl_guard_table *table)
{
    if (table != NULL)
        munmap(table, sizeof *table);
}

static repl_result record_lock(int fd, const char *path, struct repl_error *err)
{
    for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; i++) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return repl_fail_errno(err, REPL_E_IO, errno, "%s: lock", path);
        if (i == LOCK_TRIES)
            return repl_fail(err, REPL_E_LOCKED,
                             "another freeze guard has %s: stop that one first, or wait for its "
                             "commands to end",
                             path);
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
    }
    return REPL_SUCCESS;
}

static repl_result record_fill(struct repl_guard_record *record, const char *path,
                               struct repl_error *err)
{
    char boot_id[sizeof record->table->boot_id];
    struct stat status;
    REPL_TRY(boot_id_read(boot_id, sizeof boot_id, err));
    if (fstat(record->fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: stat", path);
    /* Memory, not a hole: a fault must not fail later. */
    if (status.st_size != (off_t)sizeof *record->table &&
        (ftruncate(record->fd, 0) != 0 ||
         fallocate(record->fd, 0, 0, (off_t)sizeof *record->table) != 0))
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: make room", path);
    REPL_TRY(repl_guard_table_map(record->fd, &record->table, err));
    struct repl_guard_table *table = record->table;
    if (!table_usable(table) || memcmp(table->boot_id, boot_id, sizeof boot_id) != 0) {
        memset(table, 0, sizeof *table);
        memcpy(table->boot_id, boot_id, sizeof boot_id);
        table->size = sizeof *table;
        table->magic = REPL_GUARD_TABLE_MAGIC;
    }
    return REPL_SUCCESS;
}

repl_result repl_guard_record_open(const char *path, struct repl_guard_record *out,
                                   struct repl_error *err)
{
    *out = (struct repl_guard_record){.fd = -1, .lock_fd = -1};
    const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
    /* The lock belongs to an open file of its own: the other one is given to agents. */
    out->lock_fd = open(path, flags, 0600);
    out->fd = open(path, flags, 0600);
    repl_result result = REPL_SUCCESS;
    if (out->lock_fd < 0 || out->fd < 0)
        result = repl_fail_errno(err, REPL_E_IO, errno, "open %s", path);
    if (repl_ok(result))
        result = record_lock(out->lock_fd, path, err);
    if (repl_ok(result))
        result = record_fill(out, path, err);
    if (!repl_ok(result))
        repl_guard_record_close(out);
    return result;
}

void repl_guard_record_close(struct repl_guard_record *record)
{
    repl_guard_table_unmap(record->table);
    if (record->fd >= 0)
        close(record->fd);
    if (record->lock_fd >= 0)
        close(record->lock_fd);
    *record = (struct repl_guard_record){.fd = -1, .lock_fd = -1};
}

/* --- steps ----------------------------------------------------------------------------------- */

bool repl_freeze_step(struct repl_freeze_entry *entry, uint64_t hold, enum repl_freeze_phase from,
                      enum repl_freeze_phase to)
{
    uint64_t word = repl_freeze_word(hold, from);
    return atomic_compare_exchange_strong(&entry->word, &word, repl_freeze_word(hold, to));
}

int repl_freeze_thaw(struct repl_freeze_entry *entry, uint64_t hold, int fd)
{
    if (!repl_freeze_step(entry, hold, REPL_FREEZE_FROZEN, REPL_FREEZE_THAWING))
        return -1;
    int failed = ioctl(fd, FITHAW, 0) != 0 ? errno : 0;
    repl_freeze_step(entry, hold, REPL_FREEZE_THAWING, REPL_FREEZE_THAWED);
    return failed;
}

bool repl_freeze_thaw_left(struct repl_freeze_entry *entry, uint64_t hold, int fd)
{
    int failed = repl_freeze_thaw(entry, hold, fd);
    if (failed >= 0)
        return failed == 0;
    for (int phase = REPL_FREEZE_FREEZING; phase <= REPL_FREEZE_THAWING; phase++) {
        if (atomic_load(&entry->word) != repl_freeze_word(hold, (enum repl_freeze_phase)phase))
            continue;
        bool ended = ioctl(fd, FITHAW, 0) == 0;
        repl_freeze_step(entry, hold, (enum repl_freeze_phase)phase, REPL_FREEZE_THAWED);
        return ended;
    }
    return false;
}
