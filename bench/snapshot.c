/*
 * What a btrfs snapshot a second takes, and what a writer notices of it.
 *
 *   snapshot DIRECTORY SECONDS LOAD
 *
 * DIRECTORY is the mounted top of a btrfs; a subvolume is made in it and removed.
 * LOAD: synced (4 KiB anywhere in 64 MiB, fdatasync) or buffered (64 KiB anywhere in
 * 512 MiB, 40 MB/s). The writer runs for SECONDS without snapshots, then for as long
 * with one a second, each made like the agent does: syncfs, create, remove. Prints
 * milliseconds: median, 99th percentile (of few: the most) and most.
 */
#include <fcntl.h>
#include <linux/btrfs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (1u << 22)

struct samples {
    const char *name;
    double *ms;
    size_t count;
};

static struct samples writes[2] = {{.name = "write, without"}, {.name = "write, with"}};
static struct samples syncs = {.name = "syncfs"}, creates = {.name = "create"},
                      removes = {.name = "remove"};
static atomic_bool with, stop;
static bool synced;
static int file_fd;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void sleep_ms(double ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1e3),
                         .tv_nsec = (long)((ms - (double)(time_t)(ms / 1e3) * 1e3) * 1e6)};
    if (ms > 0)
        nanosleep(&t, NULL);
}

static void note(struct samples *s, double ms)
{
    if (s->ms == NULL)
        s->ms = malloc(SAMPLES_MAX * sizeof *s->ms);
    if (s->ms == NULL)
        exit(1);
    if (s->count < SAMPLES_MAX)
        s->ms[s->count++] = ms;
}

static int order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print(struct samples *s)
{
    if (s->count == 0)
        return;
    qsort(s->ms, s->count, sizeof *s->ms, order);
    printf("%-16s %8zu times   %9.3f %9.3f %9.3f ms\n", s->name, s->count, s->ms[s->count / 2],
           s->ms[s->count - 1 - s->count / 100], s->ms[s->count - 1]);
}

static void *writer(void *context)
{
    static char bytes[64u << 10];
    size_t size = synced ? 4096 : sizeof bytes;
    uint64_t places = (synced ? 64u << 20 : 512u << 20) / size, random = 1;
    double begin = now_ms();
    (void)context;
    for (uint64_t i = 0; !atomic_load(&stop); i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        memcpy(bytes, &random, sizeof random);
        double from = now_ms();
        if (pwrite(file_fd, bytes, size, (off_t)((random >> 33) % places * size)) < 0 ||
            (synced && fdatasync(file_fd) != 0))
            exit(1);
        note(&writes[atomic_load(&with)], now_ms() - from);
        if (!synced)
            sleep_ms(begin + (double)(i + 1) * (double)size / 40e3 - now_ms());
    }
    return NULL;
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void snapshot(int place_fd, int source_fd)
{
    struct btrfs_ioctl_vol_args_v2 make = {.fd = source_fd, .flags = BTRFS_SUBVOL_RDONLY};
    struct btrfs_ioctl_vol_args drop = {0};
    strcpy(make.name, "bench.snapshot");
    strcpy(drop.name, "bench.snapshot");
    double at = now_ms();
    if (syncfs(source_fd) != 0)
        fail("syncfs");
    note(&syncs, now_ms() - at);
    at = now_ms();
    if (ioctl(place_fd, BTRFS_IOC_SNAP_CREATE_V2, &make) != 0)
        fail("create");
    note(&creates, now_ms() - at);
    sleep_ms(100); /* it is read */
    at = now_ms();
    if (ioctl(place_fd, BTRFS_IOC_SNAP_DESTROY, &drop) != 0)
        fail("remove");
    note(&removes, now_ms() - at);
}

int main(int argc, char **argv)
{
    struct btrfs_ioctl_vol_args subvolume = {.name = "bench.data"};
    pthread_t thread;
    if (argc != 4)
        return 2;
    int seconds = atoi(argv[2]), place_fd = open(argv[1], O_RDONLY | O_DIRECTORY);
    synced = strcmp(argv[3], "synced") == 0;
    if (place_fd < 0 || ioctl(place_fd, BTRFS_IOC_SUBVOL_CREATE, &subvolume) != 0)
        fail(argv[1]);
    int source_fd = openat(place_fd, "bench.data", O_RDONLY | O_DIRECTORY);
    file_fd = openat(source_fd, "file", O_RDWR | O_CREAT, 0600);
    if (file_fd < 0 || pthread_create(&thread, NULL, writer, NULL) != 0)
        fail("the writer");
    sleep_ms(1e3 * seconds);
    atomic_store(&with, true);
    for (double at = now_ms(), end = at + 1e3 * seconds; at < end; at += 1e3) {
        snapshot(place_fd, source_fd);
        sleep_ms(at + 1e3 - now_ms());
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    print(&writes[0]);
    print(&writes[1]);
    print(&syncs);
    print(&creates);
    print(&removes);
    close(file_fd);
    close(source_fd);
    return ioctl(place_fd, BTRFS_IOC_SNAP_DESTROY, &subvolume) == 0 ? 0 : 1;
}
