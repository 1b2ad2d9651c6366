/*
 * A writer of ordered transactions, and the judge of what a restored point holds
 * of them.
 *
 * Transaction i: one or two pages of the data file, chosen by a hash of i and
 * stamped with i, fdatasync, record i at the end of the log, fdatasync. When it
 * began and when it was complete is kept in a file outside of what is protected.
 * The next one begins after that, so a state a power cut could have left holds
 * a log without a gap, the pages of every transaction the log has, and at most
 * pages of the one that follows.
 *
 *   write_order write --data FILE --log FILE --times FILE [--pages N] [--burst MS --rest MS]
 *       until SIGTERM or SIGINT, with a rest after each burst; prints how many and how fast,
 *       of the time it did not rest
 *   write_order check --data FILE --log FILE --times FILE --begin NS --end NS
 *       exit status 0: it holds what was complete before begin, nothing that was
 *       begun after end, and what it holds is in order; 1: not
 *   write_order spoil --data FILE --log FILE --times FILE --begin NS --end NS --how HOW
 *       makes an image wrong that was right:
 *       stale  a page that the log proves is replaced by an older version of it
 *       torn   its second half alone is
 *       extra  one transaction too many, whole, with its pages
 *       lost   the last transaction complete before begin is missing, whole
 *       ahead  a page of the last but one transaction to come is there already
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE       4096u
#define PAGE_WORDS (PAGE / 8)
#define HOT_PAGES  128u
#define MAGIC      UINT64_C(0x72657077726f7264)
#define COUNT_MAX  (UINT64_C(4) << 20) /* transactions */

/* The first words of a page, the rest of which follows from them; the last is a checksum. */
struct stamp {
    uint64_t magic, version, page;
};

struct record {
    uint64_t magic, number, page_count, pages[2], fill[2], checksum;
};

/* Nanoseconds since 1970; 0: not yet. */
struct times {
    int64_t began_ns, done_ns;
};

struct options {
    const char *data, *log, *times, *how;
    uint64_t pages;
    int64_t begin_ns, end_ns;
    int64_t burst_ms, rest_ms;
};

struct files {
    int data, log;
    struct times *times; /* COUNT_MAX; the first is the header's */
    uint64_t pages;
};

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "write_order: %s: %s\n", what, strerror(errno));
    exit(2);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static uint64_t mix(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t checksum(const uint64_t *words, size_t count)
{
    uint64_t sum = MAGIC;
    for (size_t i = 0; i < count; i++)
        sum = (sum ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15) + (sum >> 29);
    return mix(sum);
}

/* --- what transaction i does ----------------------------------------------------------------- */

/* Half of the pages are of a few that are rewritten all the time. */
static uint64_t page_choose(uint64_t hash, uint64_t pages)
{
    uint64_t among = hash & 1 && pages > HOT_PAGES ? HOT_PAGES : pages;
    return (hash >> 1) % among;
}

static unsigned pages_of(uint64_t i, uint64_t pages, uint64_t out[2])
{
    out[0] = page_choose(mix(2 * i), pages);
    out[1] = page_choose(mix(2 * i + 1), pages);
    return mix(i) % 4 == 0 && out[1] != out[0] ? 2 : 1;
}

static bool writes_page(uint64_t i, uint64_t page, uint64_t pages)
{
    uint64_t chosen[2];
    unsigned count = pages_of(i, pages, chosen);
    return chosen[0] == page || (count == 2 && chosen[1] == page);
}

static void page_fill(uint64_t words[PAGE_WORDS], uint64_t version, uint64_t page)
{
    struct stamp stamp = {MAGIC, version, page};
    memcpy(words, &stamp, sizeof stamp);
    for (size_t i = sizeof stamp / 8; i < PAGE_WORDS - 1; i++)
        words[i] = (version << 32 ^ page) * (2 * i + 1);
    words[PAGE_WORDS - 1] = checksum(words, PAGE_WORDS - 1);
}

static struct record record_of(uint64_t i, uint64_t pages)
{
    struct record record = {.magic = MAGIC, .number = i};
    record.page_count = pages_of(i, pages, record.pages);
    record.checksum = checksum((const uint64_t *)&record, sizeof record / 8 - 1);
    return record;
}

/* --- the files ------------------------------------------------------------------------------- */

static void files_open(const struct options *options, bool create, bool writable, struct files *out)
{
    int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0);
    int times = open(options->times, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0), 0600);
    out->data = open(options->data, flags, 0600);
    out->log = open(options->log, flags, 0600);
    if (out->data < 0 || out->log < 0 || times < 0)
        give_up("cannot open the files");
    if (create && ftruncate(times, (off_t)(COUNT_MAX * sizeof(struct times))) != 0)
        give_up(options->times);
    out->times =
        mmap(NULL, COUNT_MAX * sizeof(struct times), PROT_READ | PROT_WRITE, MAP_SHARED, times, 0);
    if (out->times == MAP_FAILED)
        give_up(options->times);
    close(times);
    if (create)
        out->times[0].began_ns = (int64_t)options->pages;
    out->pages = (uint64_t)out->times[0].began_ns;
}

static void page_write(const struct files *files, uint64_t page, uint64_t version)
{
    uint64_t words[PAGE_WORDS] = {0};
    if (version != 0)
        page_fill(words, version, page);
    if (pwrite(files->data, words, PAGE, (off_t)(page * PAGE)) != PAGE)
        give_up("writing a page");
}

static void pages_write(const struct files *files, uint64_t i)
{
    uint64_t chosen[2];
    unsigned count = pages_of(i, files->pages, chosen);
    for (unsigned k = 0; k < count; k++)
        page_write(files, chosen[k], i);
}

static void record_write(const struct files *files, uint64_t i)
{
    struct record record = record_of(i, files->pages);
    if (pwrite(files->log, &record, sizeof record, (off_t)((i - 1) * sizeof record)) !=
        sizeof record)
        give_up("writing a record");
}

static void durable(int fd)
{
    if (fdatasync(fd) != 0)
        give_up("fdatasync");
}

/* --- writing --------------------------------------------------------------------------------- */

static volatile sig_atomic_t stopped;

static void stop(int signal_number)
{
    (void)signal_number;
    stopped = 1;
}

/* A burst that is over is followed by a rest. Returns how long it was, which on a busy machine is
 * longer than was asked for. */
static int64_t rest_if_due(const struct options *options, int64_t *burst_ns)
{
    const struct timespec rest = {.tv_sec = options->rest_ms / 1000,
                                  .tv_nsec = options->rest_ms % 1000 * 1000000};
    int64_t over_ns = now_ns();
    if (options->rest_ms == 0 || over_ns - *burst_ns < options->burst_ms * 1000000)
        return 0;
    nanosleep(&rest, NULL);
    *burst_ns = now_ns();
    return *burst_ns - over_ns;
}

static int write_all(const struct options *options)
{
    struct files files;
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    files_open(options, true, true, &files);
    int64_t began_ns = now_ns(), burst_ns = began_ns, rested_ns = 0;
    uint64_t i = 1;
    for (; !stopped && i < COUNT_MAX; i++) {
        struct times *times = &files.times[i];
        __atomic_store_n(&times->began_ns, now_ns(), __ATOMIC_SEQ_CST);
        pages_write(&files, i);
        durable(files.data);
        record_write(&files, i);
        durable(files.log);
        __atomic_store_n(&times->done_ns, now_ns(), __ATOMIC_SEQ_CST);
        rested_ns += rest_if_due(options, &burst_ns);
    }
    double seconds = (double)(now_ns() - began_ns - rested_ns) / 1e9;
    printf("%" PRIu64 " transactions in %.1f s of writing, %.0f a second\n", i - 1, seconds,
           (double)(i - 1) / seconds);
    return 0;
}

/* --- checking -------------------------------------------------------------------------------- */

struct image {
    const struct files *files;
    uint64_t logged;    /* the log has transactions 1 to this */
    uint64_t complete;  /* before the point's begin */
    uint64_t begun;     /* before its end */
    uint64_t *proven;   /* by page: the last logged transaction that wrote it */
    uint64_t ahead;     /* pages of the transaction that follows the last logged */
    uint64_t in_flight; /* of these, ones that were caught half written */
    uint64_t wrong;
};

__attribute__((format(printf, 2, 3))) static void wrong(struct image *image, const char *format,
                                                        ...)
{
    va_list arguments;
    if (++image->wrong > 10)
        return;
    va_start(arguments, format);
    fputs("  WRONG: ", stdout);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
}

/* Transactions 1 to the result were: one after the other, so the times only grow. */
static uint64_t complete_before(const struct files *files, int64_t at_ns)
{
    uint64_t i = 0;
    while (i + 1 < COUNT_MAX && files->times[i + 1].done_ns != 0 &&
           files->times[i + 1].done_ns < at_ns)
        i++;
    return i;
}

static uint64_t begun_before(const struct files *files, int64_t at_ns)
{
    uint64_t i = 0;
    while (i + 1 < COUNT_MAX && files->times[i + 1].began_ns != 0 &&
           files->times[i + 1].began_ns < at_ns)
        i++;
    return i;
}

static bool record_is(const struct files *files, uint64_t i)
{
    struct record record, expected = record_of(i, files->pages);
    ssize_t got = pread(files->log, &record, sizeof record, (off_t)((i - 1) * sizeof record));
    if (got < 0)
        give_up("reading the log");
    return got == sizeof record && memcmp(&record, &expected, sizeof record) == 0;
}

static void log_read(struct image *image)
{
    const struct files *files = image->files;
    struct stat st;
    uint64_t chosen[2];
    if (fstat(files->log, &st) != 0)
        give_up("the log");
    uint64_t count = (uint64_t)st.st_size / sizeof(struct record);
    while (record_is(files, image->logged + 1)) {
        uint64_t i = ++image->logged;
        for (unsigned n = pages_of(i, files->pages, chosen); n > 0; n--)
            image->proven[chosen[n - 1]] = i;
    }
    for (uint64_t i = image->logged + 2; i <= count; i++)
        if (record_is(files, i))
            wrong(image, "the log has record %" PRIu64 " and not %" PRIu64, i, image->logged + 1);
}

static void page_check(struct image *image, uint64_t page)
{
    static const uint64_t zeros[PAGE_WORDS];
    const struct files *files = image->files;
    uint64_t words[PAGE_WORDS] = {0}, expected[PAGE_WORDS], next = image->logged + 1;
    uint64_t proven = image->proven[page];
    struct stamp stamp;
    if (pread(files->data, words, PAGE, (off_t)(page * PAGE)) < 0)
        give_up("reading a page");
    memcpy(&stamp, words, sizeof stamp);
    if (memcmp(words, zeros, PAGE) == 0) {
        if (proven != 0)
            wrong(image, "page %" PRIu64 " is empty; record %" PRIu64 " proves it", page, proven);
        return;
    }
    page_fill(expected, stamp.version, page);
    if (memcmp(words, expected, PAGE) != 0) {
        image->in_flight++;
        if (!writes_page(next, page, files->pages) || next > image->begun)
            wrong(image, "page %" PRIu64 " is torn; record %" PRIu64 " proves it", page, proven);
    } else if (!writes_page(stamp.version, page, files->pages)) {
        wrong(image, "page %" PRIu64 " is of %" PRIu64 ", which did not write it", page,
              stamp.version);
    } else if (stamp.version < proven) {
        wrong(image, "page %" PRIu64 " is of %" PRIu64 "; record %" PRIu64 " proves it", page,
              stamp.version, proven);
    } else if (stamp.version > image->logged) {
        image->ahead++;
        if (stamp.version > next || stamp.version > image->begun)
            wrong(image, "page %" PRIu64 " is of %" PRIu64 "; the log ends with %" PRIu64, page,
                  stamp.version, image->logged);
    }
}

static int check(const struct options *options)
{
    struct files files;
    files_open(options, false, false, &files);
    struct image image = {.files = &files,
                          .complete = complete_before(&files, options->begin_ns),
                          .begun = begun_before(&files, options->end_ns),
                          .proven = calloc(files.pages, sizeof(uint64_t))};
    if (image.proven == NULL)
        give_up("memory");
    log_read(&image);
    if (image.logged < image.complete)
        wrong(&image, "transaction %" PRIu64 " was complete before the point", image.complete);
    if (image.logged > image.begun)
        wrong(&image, "transaction %" PRIu64 " was begun after the point", image.logged);
    for (uint64_t page = 0; page < files.pages; page++)
        page_check(&image, page);
    printf("  transactions: %" PRIu64 " logged, %" PRIu64 " complete before the point, %" PRIu64
           " begun; %" PRIu64 " pages ahead of the log, %" PRIu64 " in flight; %" PRIu64 " wrong\n",
           image.logged, image.complete, image.begun, image.ahead, image.in_flight, image.wrong);
    free(image.proven);
    return image.wrong != 0;
}

/* --- spoiling -------------------------------------------------------------------------------- */

static uint64_t logged(const struct files *files)
{
    uint64_t i = 0;
    while (record_is(files, i + 1))
        i++;
    return i;
}

/* Transaction i's first page as it was before; half: of its second half only. */
static void page_set_back(const struct files *files, uint64_t i, bool half)
{
    uint64_t chosen[2], before = i - 1, words[PAGE_WORDS] = {0};
    pages_of(i, files->pages, chosen);
    while (before > 0 && !writes_page(before, chosen[0], files->pages))
        before--;
    if (before != 0)
        page_fill(words, before, chosen[0]);
    size_t skipped = half ? PAGE / 2 : 0;
    if (pwrite(files->data, (uint8_t *)words + skipped, PAGE - skipped,
               (off_t)(chosen[0] * PAGE + skipped)) != (ssize_t)(PAGE - skipped))
        give_up("writing a page");
}

static int spoil(const struct options *options)
{
    struct files files;
    files_open(options, false, true, &files);
    uint64_t last = logged(&files), first_late = begun_before(&files, options->end_ns) + 1;
    if (files.times[first_late + 1].done_ns == 0 || last < 2) {
        fprintf(stderr, "write_order: too few transactions to spoil the image\n");
        return 2;
    }
    if (strcmp(options->how, "stale") == 0 || strcmp(options->how, "torn") == 0) {
        page_set_back(&files, last, strcmp(options->how, "torn") == 0);
    } else if (strcmp(options->how, "extra") == 0) {
        for (uint64_t i = last + 1; i <= first_late; i++) {
            pages_write(&files, i);
            record_write(&files, i);
        }
    } else if (strcmp(options->how, "ahead") == 0) {
        pages_write(&files, last + 2);
    } else if (strcmp(options->how, "lost") == 0) {
        for (uint64_t i = complete_before(&files, options->begin_ns); last >= i; last--) {
            page_set_back(&files, last, false);
            if (ftruncate(files.log, (off_t)((last - 1) * sizeof(struct record))) != 0)
                give_up("truncating the log");
        }
    } else {
        fprintf(stderr, "write_order: --how %s is not known\n", options->how);
        return 2;
    }
    durable(files.data);
    durable(files.log);
    return 0;
}

/* --- the command line ------------------------------------------------------------------------ */

static void options_parse(int argc, char **argv, struct options *out)
{
    static const struct option known[] = {
        {"data", 1, NULL, 'd'},  {"log", 1, NULL, 'l'},   {"times", 1, NULL, 't'},
        {"pages", 1, NULL, 'p'}, {"how", 1, NULL, 'h'},   {"begin", 1, NULL, 'b'},
        {"end", 1, NULL, 'e'},   {"burst", 1, NULL, 'u'}, {"rest", 1, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    *out = (struct options){.pages = 8192, .how = ""};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'd':
            out->data = optarg;
            break;
        case 'l':
            out->log = optarg;
            break;
        case 't':
            out->times = optarg;
            break;
        case 'p':
            out->pages = strtoull(optarg, NULL, 0);
            break;
        case 'h':
            out->how = optarg;
            break;
        case 'b':
            out->begin_ns = strtoll(optarg, NULL, 0);
            break;
        case 'e':
            out->end_ns = strtoll(optarg, NULL, 0);
            break;
        case 'u':
            out->burst_ms = strtoll(optarg, NULL, 0);
            break;
        case 'r':
            out->rest_ms = strtoll(optarg, NULL, 0);
            break;
        default:
            exit(64);
        }
    }
    if (out->data == NULL || out->log == NULL || out->times == NULL || out->pages == 0 ||
        optind + 1 != argc)
        exit(64);
}

int main(int argc, char **argv)
{
    struct options options;
    options_parse(argc, argv, &options);
    if (strcmp(argv[optind], "write") == 0)
        return write_all(&options);
    if (strcmp(argv[optind], "check") == 0)
        return check(&options);
    if (strcmp(argv[optind], "spoil") == 0)
        return spoil(&options);
    return 64;
}
