/*
 * Four steps: the names in the directory, the first file that follows what the
 * site has, each file from there by itself (on several threads), then the chain
 * to the first that does not fit.
 */
#include "source/spool_load.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "block/read_full.h"
#include "capture/batch.h"
#include "format/segment_format.h"
#include "segment/segment_chain.h"
#include "segment/segment_reader.h"
#include "source/spool.h"

#define NAME_DIGITS 20
#define THREADS_MAX 8u

/* One file of the spool and what came of reading it. */
struct spool_entry {
    struct repl_spool_segment segment;
    repl_result result;
    struct repl_error err;
};

/* Bytes of the volume that lie in a frame, and where the digests of their pages go. */
struct spool_extent {
    uint32_t frame, frame_offset, length;
    size_t first; /* in the segment's digests */
};

/* A chunk that the segment names, and where the digests of its pages go. */
struct spool_reference {
    struct repl_digest name;
    size_t first;
    bool held;
};

/* What one thread needs to read files one after the other. */
struct spool_reader {
    const struct repl_spool_load_options *options;
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    struct repl_buffer stored;
    struct repl_buffer extents;    /* struct spool_extent */
    struct repl_buffer references; /* struct spool_reference */
    uint8_t *raw;                  /* a frame */
    int fd;
};

/* Short of memory or descriptors says nothing about the file. */
static bool is_shortage(repl_result result, const struct repl_error *err)
{
    return result.code == REPL_E_NOMEM || result.code == REPL_E_INTERNAL ||
           err->os_errno == EMFILE || err->os_errno == ENFILE || err->os_errno == ENOMEM;
}

/* --- one file -------------------------------------------------------------------------------- */

static repl_result read_at(void *context, uint64_t offset, void *out, size_t size,
                           struct repl_error *err)
{
    const struct spool_reader *r = context;
    ssize_t got = repl_read_full(r->fd, out, size, offset);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "reading %zu bytes at %llu", size,
                               (unsigned long long)offset);
    if ((size_t)got < size)
        return repl_fail(err, REPL_E_CORRUPT, "the file ends at %llu",
                         (unsigned long long)offset + (uint64_t)got);
    return REPL_SUCCESS;
}

static repl_result whole_check(struct spool_reader *r, const struct repl_segment *s,
                               struct repl_error *err)
{
    uint64_t end = s->footer.file_size - REPL_SEGMENT_DIGEST_TAIL;
    repl_sha256_begin(r->sha);
    for (uint64_t at = 0; at < end;) {
        size_t size = end - at < REPL_FRAME_RAW_MAX ? (size_t)(end - at) : REPL_FRAME_RAW_MAX;
        REPL_TRY(read_at(r, at, r->raw, size, err));
        repl_sha256_update(r->sha, r->raw, size);
        at += size;
    }
    struct repl_digest digest;
    repl_sha256_end(r->sha, &digest);
    if (!repl_digest_equal(&digest, &s->footer.digest))
        return repl_fail(err, REPL_E_CORRUPT, "the digest of the whole does not match");
    return REPL_SUCCESS;
}

static struct repl_page_digest page_digest(struct spool_reader *r, const void *bytes, size_t size)
{
    struct repl_digest digest;
    repl_page_digest(r->sha, bytes, size, &digest);
    return repl_page_digest_of(&digest);
}

static repl_result over_limit(struct repl_error *err)
{
    return repl_fail(err, REPL_E_NOSPACE, "it speaks of more pages than digests can be kept of");
}

/* An extent's pages, with the digests that are known without its bytes. */
static repl_result pages_add(struct spool_reader *r, const struct repl_record *record,
                             struct repl_buffer *digests, struct repl_error *err)
{
    static const uint8_t zeros[REPL_PAGE_SIZE];
    struct repl_page_digest whole = {0};
    uint64_t count = repl_page_count_of(record->length);
    uint64_t most = r->options->digest_bytes_max / sizeof(struct repl_batch_digest);
    size_t before = digests->size / sizeof(struct repl_batch_digest);
    if (count > most - before)
        return over_limit(err);
    uint8_t *room = repl_buffer_extend(digests, count * sizeof(struct repl_batch_digest));
    if (room == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the digests of %llu pages",
                         (unsigned long long)count);
    if (record->type == REPL_RECORD_ZERO)
        whole = page_digest(r, zeros, REPL_PAGE_SIZE);
    struct repl_batch_digest *page = (void *)room;
    for (uint64_t i = 0; i < count; i++)
        page[i] = (struct repl_batch_digest){.page = record->offset / REPL_PAGE_SIZE + i,
                                             .digest = whole};
    size_t tail = (size_t)(record->length % REPL_PAGE_SIZE);
    if (record->type == REPL_RECORD_ZERO && tail > 0)
        page[count - 1].digest = page_digest(r, zeros, tail);
    if (record->type == REPL_RECORD_CHUNK) {
        struct spool_reference reference = {.name = record->chunk, .first = before};
        return repl_buffer_append(&r->references, &reference, sizeof reference, err);
    }
    if (record->type != REPL_RECORD_DATA)
        return REPL_SUCCESS;
    struct spool_extent extent = {.frame = record->frame,
                                  .frame_offset = record->frame_offset,
                                  .length = (uint32_t)record->length,
                                  .first = before};
    return repl_buffer_append(&r->extents, &extent, sizeof extent, err);
}

static repl_result manifest_read(struct spool_reader *r, const struct repl_segment *s,
                                 struct repl_spool_segment *out, struct repl_error *err)
{
    struct repl_record_walk walk;
    repl_record_walk_begin(&walk, s, r->coder);
    repl_result result;
    r->extents.size = r->references.size = 0;
    for (bool done = false;;) {
        struct repl_record record;
        result = repl_record_walk_next(&walk, &record, &done, err);
        if (!repl_ok(result) || done)
            break;
        if (record.type == REPL_RECORD_OBJECT)
            out->volume_size = record.size;
        else if (record.object == REPL_OBJECT_DEVICE) /* a tree's names have no pages */
            result = pages_add(r, &record, &out->digests, err);
        if (!repl_ok(result))
            break;
    }
    repl_record_walk_end(&walk);
    return result;
}

static int extent_order(const void *a, const void *b)
{
    const struct spool_extent *x = a, *y = b;
    return x->frame < y->frame ? -1 : x->frame > y->frame;
}

static void extent_digest(struct spool_reader *r, const struct spool_extent *extent,
                          struct repl_batch_digest *digests)
{
    for (uint32_t at = 0; at < extent->length; at += REPL_PAGE_SIZE) {
        uint32_t left = extent->length - at;
        digests[extent->first + at / REPL_PAGE_SIZE].digest = page_digest(
            r, r->raw + extent->frame_offset + at, left < REPL_PAGE_SIZE ? left : REPL_PAGE_SIZE);
    }
}

/* Every frame is decoded, those that nothing refers to as well. */
static repl_result frames_read(struct spool_reader *r, const struct repl_segment *s,
                               struct repl_spool_segment *out, struct repl_error *err)
{
    struct spool_extent *extents = (void *)r->extents.data;
    struct repl_batch_digest *digests = (void *)out->digests.data;
    size_t count = r->extents.size / sizeof *extents, next = 0;
    if (count > 1)
        qsort(extents, count, sizeof *extents, extent_order);
    for (uint32_t frame = 0; frame < s->footer.frame_count; frame++) {
        size_t size;
        REPL_TRY(repl_forward(
            repl_segment_read_frame(s, frame, r->coder, &r->stored, r->raw, &size, err), err,
            "frame %u", frame));
        for (; next < count && extents[next].frame == frame; next++)
            extent_digest(r, &extents[next], digests);
    }
    ensure(next == count);
    return REPL_SUCCESS;
}

/* --- the chunks it names --------------------------------------------------------------------- */

static repl_result file_open(struct spool_reader *r, uint64_t number, const char *suffix,
                             uint64_t *size, struct repl_error *err)
{
    char name[REPL_SPOOL_NAME_SIZE];
    struct stat status;
    repl_spool_name(number, suffix, name);
    r->fd = openat(r->options->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (r->fd < 0 || fstat(r->fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "it cannot be opened");
    if (!S_ISREG(status.st_mode))
        return repl_fail(err, REPL_E_CORRUPT, "it is not a file");
    *size = (uint64_t)status.st_size;
    return REPL_SUCCESS;
}

static void file_close(struct spool_reader *r)
{
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
}

static int reference_order(const void *a, const void *b)
{
    const struct spool_reference *x = a, *y = b;
    return memcmp(x->name.bytes, y->name.bytes, sizeof x->name.bytes);
}

/* Whoever names the chunk has the digests of its pages now. */
static void references_resolve(struct spool_reader *r, const struct repl_digest *name,
                               const struct repl_digest pages[REPL_CHUNK_PAGES],
                               struct repl_batch_digest *digests)
{
    const struct spool_reference key = {.name = *name};
    struct spool_reference *all = (void *)r->references.data;
    size_t count = r->references.size / sizeof *all;
    struct spool_reference *found =
        count > 0 ? bsearch(&key, all, count, sizeof *all, reference_order) : NULL;
    while (found != NULL && found > all && repl_digest_equal(&found[-1].name, name))
        found--;
    for (; found != NULL && found < all + count && repl_digest_equal(&found->name, name); found++) {
        found->held = true;
        for (size_t i = 0; i < REPL_CHUNK_PAGES; i++)
            digests[found->first + i].digest = repl_page_digest_of(&pages[i]);
    }
}

static repl_result held_read(struct spool_reader *r, uint64_t size, struct repl_spool_segment *out,
                             struct repl_error *err)
{
    struct repl_digest pages[REPL_CHUNK_PAGES], name;
    if (size % REPL_CHUNK_SIZE != 0)
        return repl_fail(err, REPL_E_CORRUPT, "the last of the chunks beside it is torn");
    for (uint64_t at = 0; at < size; at += REPL_CHUNK_SIZE) {
        REPL_TRY(read_at(r, at, r->raw, REPL_CHUNK_SIZE, err));
        for (size_t i = 0; i < REPL_CHUNK_PAGES; i++)
            repl_page_digest(r->sha, r->raw + i * REPL_PAGE_SIZE, REPL_PAGE_SIZE, &pages[i]);
        repl_chunk_name(r->sha, pages, &name);
        REPL_TRY(repl_buffer_append(&out->held, &name, sizeof name, err));
        references_resolve(r, &name, pages, (void *)out->digests.data);
    }
    return REPL_SUCCESS;
}

/* NUMBER.supply, which a segment that names no chunk may lack. A chunk there that is not named is
 * one whose pages were written again before the segment was complete. */
static repl_result supply_read(struct spool_reader *r, struct repl_spool_segment *out,
                               struct repl_error *err)
{
    struct spool_reference *references = (void *)r->references.data;
    size_t count = r->references.size / sizeof *references;
    uint64_t size = 0;
    if (count > 1)
        qsort(references, count, sizeof *references, reference_order);
    file_close(r);
    repl_result result = file_open(r, out->number, REPL_SPOOL_SUPPLY, &size, err);
    if (!repl_ok(result) && err->os_errno == ENOENT && count == 0)
        return REPL_SUCCESS;
    if (repl_ok(result))
        result = held_read(r, size, out, err);
    if (!repl_ok(result))
        return repl_forward(result, err, "the chunks it names");
    for (size_t i = 0; i < count; i++) {
        if (!references[i].held)
            return repl_fail(err, REPL_E_CORRUPT,
                             "a chunk that it names is not held beside it any more");
    }
    return REPL_SUCCESS;
}

static repl_result carried_read(const struct repl_segment *s, struct repl_spool_segment *out,
                                struct repl_error *err)
{
    for (uint32_t i = 0; i < s->footer.chunk_count; i++)
        REPL_TRY(
            repl_buffer_append(&out->carried, &s->chunks[i].name, sizeof s->chunks[i].name, err));
    return REPL_SUCCESS;
}

/* --- a segment ------------------------------------------------------------------------------- */

static repl_result segment_read(struct spool_reader *r, const struct repl_segment *s,
                                struct repl_spool_segment *out, struct repl_error *err)
{
    const struct repl_point *point = repl_segment_last_point(s);
    out->header = s->header;
    out->digest = s->footer.digest;
    out->size_bytes = s->footer.file_size;
    out->raw_bytes = s->footer.raw_size;
    out->has_point = point != NULL;
    if (point != NULL)
        out->point = *point;
    if (s->header.kind != REPL_SEGMENT_CHANGES)
        return repl_fail(err, REPL_E_CORRUPT, "it carries only chunks");
    if (!repl_uuid_equal(&s->header.volume, &r->options->volume))
        return repl_fail(err, REPL_E_REFUSED, "it is of another volume");
    if (s->header.lineage != r->options->lineage)
        return repl_fail(err, REPL_E_REFUSED, "it was written under lineage %llu, this is %llu",
                         (unsigned long long)s->header.lineage,
                         (unsigned long long)r->options->lineage);
    REPL_TRY(whole_check(r, s, err));
    REPL_TRY(manifest_read(r, s, out, err));
    if (out->volume_size > r->options->volume_size_max) /* the device grew, and a power cut */
        return repl_fail(
            err, REPL_E_REFUSED, "it is of a volume of %llu bytes, of which %llu are known",
            (unsigned long long)out->volume_size, (unsigned long long)r->options->volume_size_max);
    REPL_TRY(frames_read(r, s, out, err));
    REPL_TRY(carried_read(s, out, err));
    return supply_read(r, out, err); /* the last: it closes the segment's file */
}

static void segment_fini(struct repl_spool_segment *segment)
{
    repl_buffer_fini(&segment->digests);
    repl_buffer_fini(&segment->carried);
    repl_buffer_fini(&segment->held);
}

static repl_result file_read(struct spool_reader *r, struct repl_spool_segment *out,
                             struct repl_error *err)
{
    struct repl_segment *segment = NULL;
    uint64_t size = 0;
    repl_result result = file_open(r, out->number, REPL_SPOOL_SEGMENT, &size, err);
    if (repl_ok(result))
        result = repl_segment_open(read_at, r, size, &segment, err);
    if (repl_ok(result))
        result = segment_read(r, segment, out, err);
    repl_segment_free(segment);
    file_close(r);
    if (!repl_ok(result))
        segment_fini(out);
    return result;
}

/* Whether it is a segment that follows prev, as far as its header says. */
static repl_result file_follows(struct spool_reader *r, uint64_t number,
                                const struct repl_digest *prev, struct repl_error *err)
{
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    struct repl_segment_header header;
    uint64_t size;
    repl_result result = file_open(r, number, REPL_SPOOL_SEGMENT, &size, err);
    if (repl_ok(result))
        result = read_at(r, 0, bytes, sizeof bytes, err);
    if (repl_ok(result))
        result = repl_segment_header_decode(bytes, sizeof bytes, &header, err);
    file_close(r);
    if (repl_ok(result) && !repl_digest_equal(&header.prev, prev))
        result = repl_fail(err, REPL_E_REFUSED,
                           "it does not follow the last segment that the site is known to have");
    return result;
}

static repl_result reader_init(struct spool_reader *r,
                               const struct repl_spool_load_options *options,
                               struct repl_error *err)
{
    *r = (struct spool_reader){.options = options, .fd = -1};
    REPL_TRY(repl_frame_coder_new(&r->coder, err));
    REPL_TRY(repl_sha256_new(&r->sha, err));
    r->raw = malloc(REPL_FRAME_RAW_MAX);
    if (r->raw == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a frame");
    return REPL_SUCCESS;
}

static void reader_fini(struct spool_reader *r)
{
    repl_frame_coder_free(r->coder);
    repl_sha256_free(r->sha);
    repl_buffer_fini(&r->stored);
    repl_buffer_fini(&r->extents);
    repl_buffer_fini(&r->references);
    free(r->raw);
}

/* --- all files ------------------------------------------------------------------------------- */

struct spool_scan {
    const struct repl_spool_load_options *options;
    struct repl_buffer entries;  /* struct spool_entry */
    struct repl_buffer supplies; /* uint64_t: numbers of the files with chunks */
    atomic_size_t next;          /* to be read */
    atomic_size_t stop;          /* entries behind this one need not be: it is broken */
    atomic_size_t digest_bytes;  /* of those that have been */
};

static struct spool_entry *entries_of(struct spool_scan *scan, size_t *count)
{
    *count = scan->entries.size / sizeof(struct spool_entry);
    return (void *)scan->entries.data;
}

static void stop_at(struct spool_scan *scan, size_t i)
{
    size_t stop = atomic_load(&scan->stop);
    while (i < stop && !atomic_compare_exchange_weak(&scan->stop, &stop, i))
        continue;
}

static void *files_read(void *context)
{
    struct spool_scan *scan = context;
    struct spool_reader reader;
    struct repl_error err = {0};
    size_t count;
    struct spool_entry *entries = entries_of(scan, &count);
    repl_result ready = reader_init(&reader, scan->options, &err);
    for (size_t i; (i = atomic_fetch_add(&scan->next, 1)) < count;) {
        struct spool_entry *entry = &entries[i];
        if (i > atomic_load(&scan->stop))
            continue;
        entry->err = err;
        if (!repl_ok(ready))
            entry->result = ready;
        else if (atomic_load(&scan->digest_bytes) > scan->options->digest_bytes_max)
            entry->result = over_limit(&entry->err);
        else
            entry->result = file_read(&reader, &entry->segment, &entry->err);
        atomic_fetch_add(&scan->digest_bytes, entry->segment.digests.size);
        if (!repl_ok(entry->result))
            stop_at(scan, i);
    }
    reader_fini(&reader);
    return NULL;
}

/* Threads that cannot be started are done without. */
static void scan_run(struct spool_scan *scan)
{
    pthread_t threads[THREADS_MAX];
    unsigned started = 0;
    size_t count;
    entries_of(scan, &count);
    atomic_store(&scan->stop, count);
    while (started < THREADS_MAX && started + 1 < scan->options->threads && started + 1 < count &&
           pthread_create(&threads[started], NULL, files_read, scan) == 0)
        started++;
    files_read(scan);
    while (started > 0)
        pthread_join(threads[--started], NULL);
}

/* --- the directory --------------------------------------------------------------------------- */

/* As the spool writes it. */
static bool name_parse(const char *name, const char *suffix, uint64_t *number)
{
    char expected[REPL_SPOOL_NAME_SIZE];
    *number = 0;
    for (size_t i = 0; i < NAME_DIGITS; i++) {
        unsigned digit = (unsigned)name[i] - '0';
        if (digit > 9 || *number > (UINT64_MAX - digit) / 10)
            return false;
        *number = *number * 10 + digit;
    }
    repl_spool_name(*number, suffix, expected);
    return *number > 0 && strcmp(name, expected) == 0;
}

static int entry_order(const void *a, const void *b)
{
    const struct spool_entry *x = a, *y = b;
    return x->segment.number < y->segment.number ? -1 : x->segment.number > y->segment.number;
}

static repl_result name_remove(int dir_fd, const char *name, struct repl_error *err)
{
    if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT ||
        (errno == EISDIR && unlinkat(dir_fd, name, AT_REMOVEDIR) == 0))
        return REPL_SUCCESS;
    return repl_fail_errno(err, REPL_E_IO, errno, "spool: removing %s", name);
}

repl_result repl_spool_remove(int dir_fd, uint64_t number, struct repl_error *err)
{
    char name[REPL_SPOOL_NAME_SIZE];
    repl_spool_name(number, REPL_SPOOL_SUPPLY, name);
    REPL_TRY(name_remove(dir_fd, name, err));
    repl_spool_name(number, REPL_SPOOL_SEGMENT, name);
    return name_remove(dir_fd, name, err);
}

static repl_result name_take(struct spool_scan *scan, const char *name, struct repl_error *err)
{
    struct spool_entry entry = {0};
    uint64_t number;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return REPL_SUCCESS;
    if (name_parse(name, REPL_SPOOL_SEGMENT, &entry.segment.number))
        return repl_buffer_append(&scan->entries, &entry, sizeof entry, err);
    if (name_parse(name, REPL_SPOOL_SUPPLY, &number))
        return repl_buffer_append(&scan->supplies, &number, sizeof number, err);
    if (unlinkat(scan->options->dir_fd, name, 0) != 0 && errno != ENOENT && errno != EISDIR)
        return repl_fail_errno(err, REPL_E_IO, errno, "spool: removing %s", name);
    return REPL_SUCCESS;
}

/* Held for a segment that is not there. */
static repl_result orphans_remove(struct spool_scan *scan, struct repl_error *err)
{
    const uint64_t *supplies = (const void *)scan->supplies.data;
    size_t count;
    const struct spool_entry *entries = entries_of(scan, &count);
    for (size_t i = 0; i < scan->supplies.size / sizeof *supplies; i++) {
        const struct spool_entry key = {.segment = {.number = supplies[i]}};
        if (count == 0 || bsearch(&key, entries, count, sizeof *entries, entry_order) == NULL)
            REPL_TRY(repl_spool_remove(scan->options->dir_fd, supplies[i], err));
    }
    return REPL_SUCCESS;
}

static repl_result names_read(struct spool_scan *scan, struct repl_error *err)
{
    int copy = openat(scan->options->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
    if (dir == NULL) {
        int failed = errno;
        if (copy >= 0)
            close(copy);
        return repl_fail_errno(err, REPL_E_IO, failed, "spool: reading the directory");
    }
    repl_result result = REPL_SUCCESS;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (entry == NULL && errno != 0)
            result = repl_fail_errno(err, REPL_E_IO, errno, "spool: reading the directory");
        if (entry != NULL)
            result = name_take(scan, entry->d_name, err);
        if (entry == NULL || !repl_ok(result))
            break;
    }
    closedir(dir);
    size_t count;
    struct spool_entry *entries = entries_of(scan, &count);
    if (count > 1)
        qsort(entries, count, sizeof *entries, entry_order);
    return repl_ok(result) ? orphans_remove(scan, err) : result;
}

/* --- the chain ------------------------------------------------------------------------------- */

/* What lies before the first that follows what the site has is removed. Where none does, nothing
 * is read, and the first says why. */
static repl_result chain_find(struct spool_scan *scan, struct repl_error *err)
{
    struct spool_reader reader = {.options = scan->options, .fd = -1};
    size_t count, first = 0;
    struct spool_entry *entries = entries_of(scan, &count);
    for (; first < count; first++) {
        struct spool_entry *entry = &entries[first];
        entry->result =
            file_follows(&reader, entry->segment.number, &scan->options->prev, &entry->err);
        if (repl_ok(entry->result))
            break;
        if (is_shortage(entry->result, &entry->err)) {
            *err = entry->err;
            return repl_forward(entry->result, err, "spool: reading it back");
        }
    }
    if (first == count) {
        atomic_store(&scan->next, count);
        return REPL_SUCCESS;
    }
    for (size_t i = 0; i < first; i++)
        REPL_TRY(repl_spool_remove(scan->options->dir_fd, entries[i].segment.number, err));
    memmove(entries, entries + first, (count - first) * sizeof *entries);
    scan->entries.size -= first * sizeof *entries;
    return REPL_SUCCESS;
}

/* How many entries from the first on are whole and follow each other; why says what is wrong with
 * the one behind them. */
static size_t chain_length(const struct spool_scan *scan, struct spool_entry *entries, size_t count,
                           struct repl_error *why)
{
    uint64_t digest_bytes = 0;
    for (size_t i = 0; i < count; i++) {
        const struct repl_spool_segment *segment = &entries[i].segment;
        repl_result result = entries[i].result;
        *why = entries[i].err;
        if (repl_ok(result) && i > 0) {
            const struct repl_spool_segment *older = &entries[i - 1].segment;
            struct repl_segment_link link = {&older->header, older->has_point, older->digest};
            result = repl_segment_chain_check(&link, &segment->header, why);
        }
        digest_bytes += segment->digests.size;
        if (repl_ok(result) && digest_bytes > scan->options->digest_bytes_max)
            result = over_limit(why);
        if (!repl_ok(result))
            return i;
    }
    *why = (struct repl_error){0};
    return count;
}

/* The last first: what is left after a failure or a crash is still a chain and its end. */
static repl_result rest_remove(const struct spool_scan *scan, const struct spool_entry *entries,
                               size_t first, size_t count, struct repl_error *why,
                               struct repl_error *err)
{
    if (first == count)
        return REPL_SUCCESS;
    char name[REPL_SPOOL_NAME_SIZE];
    repl_spool_name(entries[first].segment.number, REPL_SPOOL_SEGMENT, name);
    repl_ignore(repl_forward((repl_result){why->code}, why,
                             "spool: %zu of %zu segments are given up, from %s on", count - first,
                             count, name));
    for (size_t i = count; i > first; i--)
        REPL_TRY(repl_spool_remove(scan->options->dir_fd, entries[i - 1].segment.number, err));
    return REPL_SUCCESS;
}

static repl_result chain_take(const struct spool_scan *scan, struct spool_entry *entries,
                              size_t count, struct repl_spool_load *out, struct repl_error *err)
{
    size_t length = chain_length(scan, entries, count, &out->why);
    if (length < count && is_shortage(entries[length].result, &entries[length].err)) {
        *err = out->why;
        return repl_forward(entries[length].result, err, "spool: reading it back");
    }
    out->segments = calloc(length + 1, sizeof *out->segments);
    if (out->segments == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the spool's segments");
    REPL_TRY(rest_remove(scan, entries, length, count, &out->why, err));
    for (; out->segment_count < length; out->segment_count++) {
        out->segments[out->segment_count] = entries[out->segment_count].segment;
        entries[out->segment_count].segment = (struct repl_spool_segment){0};
    }
    out->removed_count = count - length;
    return REPL_SUCCESS;
}

repl_result repl_spool_load(const struct repl_spool_load_options *options,
                            struct repl_spool_load *out, struct repl_error *err)
{
    ensure(options->digest_bytes_max > 0);
    struct spool_scan scan = {.options = options};
    *out = (struct repl_spool_load){0};
    repl_result result = names_read(&scan, err);
    if (repl_ok(result))
        result = chain_find(&scan, err);
    size_t count;
    struct spool_entry *entries = entries_of(&scan, &count);
    if (repl_ok(result)) {
        scan_run(&scan);
        result = chain_take(&scan, entries, count, out, err);
    }
    for (size_t i = 0; i < count; i++)
        segment_fini(&entries[i].segment);
    repl_buffer_fini(&scan.entries);
    repl_buffer_fini(&scan.supplies);
    if (!repl_ok(result))
        repl_spool_load_fini(out);
    return result;
}

void repl_spool_load_fini(struct repl_spool_load *load)
{
    for (size_t i = 0; i < load->segment_count; i++)
        segment_fini(&load->segments[i]);
    free(load->segments);
    *load = (struct repl_spool_load){0};
}
