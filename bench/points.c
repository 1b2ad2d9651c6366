/*
 * What points.sh needs and a shell cannot time: a writer of ordered transactions, a writer that
 * notices when it has to wait, a reader of the status that costs next to nothing, and a neighbour.
 *
 * points transactions DIRECTORY WARM SECONDS: one writer, as fast as it can: a page of
 * DIRECTORY/data (64 MiB, made if need be), fdatasync, 512 bytes at the end of DIRECTORY/log,
 * fdatasync. JSON: transactions a second and the percentiles of fdatasync, of the SECONDS after the
 * WARM ones.
 *
 * points probe FILE WARM SECONDS: writes a page of FILE every half millisecond, without a sync.
 * JSON: the longest write of each of the SECONDS.
 *
 * points sample SOCKET SECONDS: asks for the status ten times a second; one answer a line.
 *
 * points compute PERCENT SECONDS: computes for as much of every 10 ms, and makes no system call but
 * to sleep.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PAGE          4096u
#define DATA_PAGES    16384u
#define RECORD        512u
#define NS_PER_S      INT64_C(1000000000)
#define PROBE_EVERY   (NS_PER_S / 2000)
#define SAMPLE_EVERY  (NS_PER_S / 10)
#define COMPUTE_EVERY (NS_PER_S / 100)
#define LATENCIES_MAX (UINT64_C(16) << 20) /* memory is taken as they are used */
#define SECONDS_MAX   3600

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "points: %s: %s\n", what, strerror(errno));
    exit(2);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

static void sleep_until(int64_t at_ns)
{
    struct timespec at = {.tv_sec = at_ns / NS_PER_S, .tv_nsec = at_ns % NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        continue;
}

static uint64_t random_next(void)
{
    static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* Half of it random: what is changed compresses as databases do. */
static void fill(uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i + 16 <= size; i += 16) {
        uint64_t word = random_next();
        memcpy(bytes + i, &word, sizeof word);
    }
}

static int64_t seconds_of(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end != '\0' || value < 0 || value > SECONDS_MAX)
        exit(64);
    return value;
}

/* --- transactions ---------------------------------------------------------------------------- */

static uint32_t *latencies; /* ns */
static uint64_t latency_count;

static void sync_timed(int fd)
{
    int64_t began_ns = now_ns();
    if (fdatasync(fd) != 0)
        give_up("fdatasync");
    int64_t took_ns = now_ns() - began_ns;
    if (latency_count < LATENCIES_MAX)
        latencies[latency_count++] = took_ns > UINT32_MAX ? UINT32_MAX : (uint32_t)took_ns;
}

static int latency_compare(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static uint32_t latency_at(unsigned per_mille)
{
    return latency_count == 0 ? 0 : latencies[(latency_count - 1) * per_mille / 1000];
}

static int file_open(const char *directory, const char *name, int flags)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
    if (fd < 0)
        give_up(path);
    return fd;
}

static void data_make(int data)
{
    static uint8_t page[PAGE];
    struct stat st;
    if (fstat(data, &st) != 0)
        give_up("data");
    if (st.st_size == (off_t)DATA_PAGES * PAGE)
        return;
    for (unsigned i = 0; i < DATA_PAGES; i++) {
        fill(page, PAGE);
        if (pwrite(data, page, PAGE, (off_t)i * PAGE) != PAGE)
            give_up("writing data");
    }
    if (fsync(data) != 0)
        give_up("fsync");
}

static int transactions(const char *directory, int64_t warm, int64_t seconds)
{
    static uint8_t page[PAGE], record[RECORD];
    int data = file_open(directory, "data", 0), log = file_open(directory, "log", O_TRUNC);
    latencies = malloc(LATENCIES_MAX * sizeof *latencies);
    if (latencies == NULL)
        give_up("memory");
    data_make(data);
    int64_t from_ns = now_ns() + warm * NS_PER_S, until_ns = from_ns + seconds * NS_PER_S, at_ns;
    uint64_t i = 0, warm_count = 0;
    for (; (at_ns = now_ns()) < until_ns; i++) {
        if (at_ns < from_ns) {
            warm_count = i + 1;
            latency_count = 0;
        }
        fill(page, PAGE);
        if (pwrite(data, page, PAGE, (off_t)(random_next() % DATA_PAGES) * PAGE) != PAGE)
            give_up("writing data");
        sync_timed(data);
        fill(record, RECORD);
        if (pwrite(log, record, RECORD, (off_t)(i * RECORD)) != RECORD)
            give_up("writing the log");
        sync_timed(log);
    }
    qsort(latencies, latency_count, sizeof *latencies, latency_compare);
    printf("{\"rate\": %.1f, \"sync_p50_ns\": %" PRIu32 ", \"sync_p99_ns\": %" PRIu32
           ", \"sync_max_ns\": %" PRIu32 "}\n",
           (double)(i - warm_count) / (double)seconds, latency_at(500), latency_at(990),
           latency_at(1000));
    return 0;
}

/* --- a probe for stalls ---------------------------------------------------------------------- */

static int probe(const char *path, int64_t warm, int64_t seconds)
{
    static uint8_t page[PAGE];
    static int64_t longest_ns[SECONDS_MAX + 1];
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        give_up(path);
    int64_t from_ns = now_ns() + warm * NS_PER_S, until_ns = from_ns + seconds * NS_PER_S;
    for (int64_t at_ns; (at_ns = now_ns()) < until_ns;) {
        page[0]++;
        if (pwrite(fd, page, PAGE, 0) != PAGE)
            give_up("writing the probe");
        int64_t took_ns = now_ns() - at_ns;
        /* A wait counts in the second it began in. */
        if (at_ns >= from_ns && took_ns > longest_ns[(at_ns - from_ns) / NS_PER_S])
            longest_ns[(at_ns - from_ns) / NS_PER_S] = took_ns;
        sleep_until(at_ns + took_ns + PROBE_EVERY);
    }
    fputs("{\"longest_ns\": [", stdout);
    for (int64_t i = 0; i < seconds; i++)
        printf("%s%" PRId64, i == 0 ? "" : ", ", longest_ns[i]);
    puts("]}");
    return 0;
}

/* --- the status ------------------------------------------------------------------------------ */

static void ask(const struct sockaddr_un *address)
{
    static const char request[] = "status\n";
    static char answer[1 << 20];
    size_t size = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 ||
        send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
        give_up(address->sun_path);
    for (ssize_t got; (got = recv(fd, answer + size, sizeof answer - size, 0)) > 0;)
        size += (size_t)got;
    close(fd);
    for (size_t i = 0; i < size; i++)
        putchar(answer[i] == '\n' ? ' ' : answer[i]);
    putchar('\n');
}

static int sample(const char *socket_path, int64_t seconds)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof address.sun_path)
        return 64;
    memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
    int64_t at_ns = now_ns(), until_ns = at_ns + seconds * NS_PER_S;
    for (; at_ns < until_ns; at_ns += SAMPLE_EVERY) {
        sleep_until(at_ns);
        ask(&address);
    }
    return 0;
}

/* --- a neighbour ----------------------------------------------------------------------------- */

static int compute(int64_t percent, int64_t seconds)
{
    int64_t at_ns = now_ns(), until_ns = at_ns + seconds * NS_PER_S;
    for (; at_ns < until_ns; at_ns += COMPUTE_EVERY) {
        while (now_ns() < at_ns + COMPUTE_EVERY * percent / 100)
            continue;
        sleep_until(at_ns + COMPUTE_EVERY);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "transactions") == 0)
        return transactions(argv[2], seconds_of(argv[3]), seconds_of(argv[4]));
    if (argc == 5 && strcmp(argv[1], "probe") == 0)
        return probe(argv[2], seconds_of(argv[3]), seconds_of(argv[4]));
    if (argc == 4 && strcmp(argv[1], "sample") == 0)
        return sample(argv[2], seconds_of(argv[3]));
    if (argc == 4 && strcmp(argv[1], "compute") == 0)
        return compute(atoi(argv[2]), seconds_of(argv[3]));
    return 64;
}
