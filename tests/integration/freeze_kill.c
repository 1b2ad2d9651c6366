/*
 * One kill, and what writers saw of it. One thread writes 4 KiB over and over, another syncs each
 * time; then the processes given are killed (at once, or as soon as the guard's record says that a
 * filesystem is frozen).
 *
 * Usage: freeze_kill RECORD FILE BUDGET_MS WAIT_MS DELAY_US PID...
 *
 *   RECORD    of the guard: its socket's path and ".record"
 *   FILE      on the filesystem that is frozen; it and FILE.sync are written
 *   WAIT_MS   0: kill now; else wait so long for a freeze, and kill in any case
 *   DELAY_US  to wait after the freeze was seen; if it has ended by then, half of it in the next
 * one
 *
 * Prints a line after the kill: "killed frozen", "killed freezing" (FIFREEZE had not returned) or
 * "killed idle". It counts as frozen only if the record had the same hold FROZEN before and after
 * the signals were sent. Then, when writers go on,
 *
 *     moved FROM_BEGIN_MS THAW_MS WRITE_MS SYNC_MS BOUND
 *
 * FROM_BEGIN_MS from the begin of the freeze (not frozen: from the kill) to the return of the first
 * write(2) after the kill, THAW_MS to where the record says that FITHAW is called (-1: it does
 * not), WRITE_MS and SYNC_MS the longest write and the longest write and fsync in all. BOUND is yes
 * where the guard had its time: FIFREEZE's own flush cannot be interrupted, and where it alone
 * outlasts the budget there is none. FITHAW has I/O of its own as well (ext4 writes its superblock,
 * and lets writers wait for it), which is the difference of the first two.
 *
 * Exit 1: they do not go on within LIMIT_MS of the kill.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "source/freeze/guard_record.h"

#define NS_PER_MS  INT64_C(1000000)
#define LIMIT_MS   20000
#define FILE_PAGES 256
#define AFTER_MS   50 /* of writes, once it goes on */

static _Atomic int64_t longest_write_ns, longest_sync_ns;
static _Atomic int64_t moved_ns; /* when the last write returned, and */
static _Atomic int64_t moved_begun_ns;

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pause_us(int64_t us)
{
    nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000}, NULL);
}

static _Noreturn void fail(const char *text)
{
    perror(text);
    exit(2);
}

static void longest(_Atomic int64_t *at, int64_t value)
{
    if (value > atomic_load(at))
        atomic_store(at, value);
}

static void write_page(int file)
{
    static _Thread_local char page[4096];
    static _Thread_local unsigned count;
    memset(page, (int)count, sizeof page);
    if (pwrite(file, page, sizeof page, (off_t)(count++ % FILE_PAGES) * 4096) != 4096)
        fail("write");
}

static void *writer_main(void *context)
{
    const int *file = context;
    for (;;) {
        int64_t begin = now_ns();
        write_page(*file);
        int64_t returned = now_ns();
        atomic_store(&moved_begun_ns, begin);
        atomic_store(&moved_ns, returned);
        longest(&longest_write_ns, returned - begin);
        pause_us(200);
    }
    return NULL;
}

static void *syncer_main(void *context)
{
    const int *file = context;
    for (;;) {
        int64_t begin = now_ns();
        write_page(*file);
        if (fsync(*file) != 0)
            fail("fsync");
        longest(&longest_sync_ns, now_ns() - begin);
        pause_us(200);
    }
    return NULL;
}

static void thread_start(void *(*main)(void *), const char *path, int *file)
{
    pthread_t thread;
    *file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (*file < 0)
        fail(path);
    if (pthread_create(&thread, NULL, main, file) != 0)
        fail("thread");
}

struct freeze {
    enum repl_freeze_phase phase;
    uint64_t hold;
    int64_t deadline_ns;
};

/* The first hold in the record that freezes something. */
static struct freeze freeze_look(struct repl_guard_table *table)
{
    for (size_t i = 0; i < REPL_GUARD_SLOTS; i++) {
        struct repl_guard_slot *slot = &table->slots[i];
        uint64_t hold = atomic_load(&slot->hold);
        int64_t deadline_ns = atomic_load(&slot->deadline_ns);
        if (hold == 0 || deadline_ns == 0)
            continue;
        uint64_t word = atomic_load(&slot->mounts[0].word);
        if (word >> 3 != hold || atomic_load(&slot->hold) != hold)
            continue;
        enum repl_freeze_phase phase = (enum repl_freeze_phase)(word & 7);
        if (phase == REPL_FREEZE_FREEZING || phase == REPL_FREEZE_FROZEN)
            return (struct freeze){phase, hold, deadline_ns};
    }
    return (struct freeze){0};
}

static struct freeze freeze_await(struct repl_guard_table *table, int64_t wait_ms, int64_t delay_us)
{
    int64_t until = now_ns() + wait_ms * NS_PER_MS;
    for (;;) {
        struct freeze freeze = freeze_look(table);
        if (now_ns() >= until)
            return freeze;
        if (freeze.phase == REPL_FREEZE_FROZEN) {
            pause_us(delay_us);
            delay_us /= 2;
            struct freeze again = freeze_look(table);
            if (again.phase == REPL_FREEZE_FROZEN && again.hold == freeze.hold)
                return again;
        }
        pause_us(100);
    }
}

static struct repl_guard_table *table_open(const char *path)
{
    static struct repl_guard_table none;
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0 || status.st_size != (off_t)sizeof none)
        return &none; /* there was no guard yet */
    void *at = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return at == MAP_FAILED ? &none : at;
}

int main(int argc, char **argv)
{
    if (argc < 7) {
        fputs("usage: freeze_kill RECORD FILE BUDGET_MS WAIT_MS DELAY_US PID...\n", stderr);
        return 2;
    }
    struct repl_guard_table *table = table_open(argv[1]);
    int64_t budget_ns = atoll(argv[3]) * NS_PER_MS;
    static int file, sync_file;
    char sync_path[4096];
    snprintf(sync_path, sizeof sync_path, "%s.sync", argv[2]);
    thread_start(writer_main, argv[2], &file);
    thread_start(syncer_main, sync_path, &sync_file);
    /* The first write allocates and may wait for others; it is not what is measured. */
    while (atomic_load(&longest_sync_ns) == 0)
        pause_us(1000);
    atomic_store(&longest_write_ns, 0);
    atomic_store(&longest_sync_ns, 0);

    struct freeze before = freeze_await(table, atoll(argv[4]), atoll(argv[5]));
    int64_t kill_ns = now_ns();
    for (int i = 6; i < argc; i++)
        kill(atoi(argv[i]), SIGKILL);
    struct freeze after = freeze_look(table);
    bool frozen = before.phase == REPL_FREEZE_FROZEN && after.phase == REPL_FREEZE_FROZEN &&
                  before.hold == after.hold;
    bool freezing = !frozen && before.phase != REPL_FREEZE_IDLE;
    bool bound = frozen && kill_ns < before.deadline_ns;
    printf("killed %s\n", frozen ? "frozen" : freezing ? "freezing" : "idle");
    fflush(stdout);

    /* One that was begun before the freeze says nothing. */
    int64_t begin_ns = before.phase != REPL_FREEZE_IDLE ? before.deadline_ns - budget_ns : kill_ns;
    int64_t thaw_ns = 0;
    while (atomic_load(&moved_begun_ns) <= begin_ns || atomic_load(&moved_ns) <= kill_ns) {
        if (thaw_ns == 0 && freeze_look(table).hold != before.hold)
            thaw_ns = now_ns();
        if (now_ns() > kill_ns + LIMIT_MS * NS_PER_MS) {
            printf("stuck\n");
            return 1;
        }
        pause_us(200);
    }
    int64_t from_begin_ns = atomic_load(&moved_ns) - begin_ns;
    pause_us(AFTER_MS * 1000);
    printf("moved %.1f %.1f %.1f %.1f %s\n", (double)from_begin_ns / 1e6,
           thaw_ns != 0 ? (double)(thaw_ns - begin_ns) / 1e6 : -1.0,
           (double)atomic_load(&longest_write_ns) / 1e6,
           (double)atomic_load(&longest_sync_ns) / 1e6, bound ? "yes" : "no");
    return 0;
}
