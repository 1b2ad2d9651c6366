/*
 * How large the site's index is, and how long it takes to look in it.
 *
 *   cmake --build build/release --target repl_index_size
 *   build/release/repl_index_size DIRECTORY [CHUNKS [VOLUMES]]
 *
 * CHUNKS names (1,000,000), as random as SHA-256 is, in segments of 4,096 that VOLUMES (2) of one
 * pool bring in turn, a record each, as commits do. Then each chunk is referred to by one more
 * segment, as those of a second host with the same content are. Printed after each: bytes of the
 * file for each chunk, and the time for one; then the time to find one, and to ask who refers to
 * it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loop/loop.h"
#include "site/index/index.h"

#define SEGMENT_CHUNKS 4096u
#define LOOKUPS        200000u

static void must(repl_result result, const struct repl_error *err)
{
    if (repl_ok(result))
        return;
    fprintf(stderr, "index_size: %s\n", err->text);
    exit(1);
}

/* splitmix64: the same names in each run. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static struct repl_digest name_of(uint64_t number)
{
    struct repl_digest name;
    for (size_t i = 0; i < 4; i++) {
        uint64_t word = mix(4 * number + i);
        memcpy(name.bytes + 8 * i, &word, sizeof word);
    }
    return name;
}

static void volume_name(unsigned volume, char name[32])
{
    snprintf(name, 32, "volume-%u", volume);
}

static void record_apply(struct repl_index *index, unsigned volume, struct repl_log_record record,
                         const struct repl_chunk_entry *chunks, const struct repl_digest *refs,
                         uint32_t count)
{
    struct repl_error err;
    char name[32];
    uint64_t log_end;
    volume_name(volume, name);
    must(repl_index_position(index, name, &log_end, &record.number, &err), &err);
    record.number++;
    const struct repl_index_record added = {.record = &record,
                                            .chunks = chunks,
                                            .refs = refs,
                                            .chunk_count = chunks != NULL ? count : 0,
                                            .ref_count = refs != NULL ? count : 0};
    must(repl_index_apply(index, name, &added, 1, log_end + 300, &err), &err);
}

static void volumes_create(struct repl_index *index, unsigned volumes)
{
    for (unsigned v = 0; v < volumes; v++) {
        struct repl_log_record record = {.type = REPL_LOG_CREATE};
        record_apply(index, v, record, NULL, NULL, 0);
        record = (struct repl_log_record){.type = REPL_LOG_POOL, .pool = {.name = "tenant"}};
        record_apply(index, v, record, NULL, NULL, 0);
    }
}

/* A segment of each stretch of the chunks: that lists them, or that refers to them. */
static void segments_apply(struct repl_index *index, uint64_t count, unsigned volumes, bool refer)
{
    static struct repl_chunk_entry chunks[SEGMENT_CHUNKS];
    static struct repl_digest refs[SEGMENT_CHUNKS];
    uint64_t segment = 0, round = (count / SEGMENT_CHUNKS + 1) / volumes + 1;
    for (uint64_t at = 0; at < count; at += SEGMENT_CHUNKS, segment++) {
        uint32_t here = count - at < SEGMENT_CHUNKS ? (uint32_t)(count - at) : SEGMENT_CHUNKS;
        uint64_t to = segment / volumes + 1 + (refer ? round : 0);
        for (uint32_t i = 0; i < here; i++) {
            refs[i] = name_of(at + i);
            chunks[i] = (struct repl_chunk_entry){.name = refs[i], .frame = i / 16};
        }
        struct repl_log_record record = {.type = REPL_LOG_COMMIT,
                                         .commit = {.from_seq = to - 1, .to_seq = to}};
        record_apply(index, (unsigned)(segment % volumes), record, refer ? NULL : chunks,
                     refer ? refs : NULL, here);
    }
}

static void print(const char *path, const char *what, uint64_t count, int64_t begun_ns)
{
    struct stat status;
    if (stat(path, &status) != 0) {
        perror(path);
        exit(1);
    }
    printf("%-12s %6.1f bytes a chunk, %6.2f us a chunk\n", what,
           (double)status.st_size / (double)count,
           (double)(repl_now_mono_ns() - begun_ns) / 1000 / (double)count);
}

static void lookups(struct repl_index *index, uint64_t count, bool references)
{
    struct repl_error err;
    int64_t begun_ns = repl_now_mono_ns();
    for (uint64_t i = 0; i < LOOKUPS; i++) {
        struct repl_digest name = name_of(mix(i) % count);
        struct repl_chunk_place place;
        bool found;
        if (references)
            must(repl_index_is_referred(index, "volume-0", &name, NULL, 0, &found, &err), &err);
        else
            must(repl_index_chunk(index, "volume-0", &name, &place, &found, &err), &err);
        if (!found) {
            fprintf(stderr, "index_size: a chunk is not found\n");
            exit(1);
        }
    }
    printf("%-12s %6.2f us\n", references ? "who refers" : "find",
           (double)(repl_now_mono_ns() - begun_ns) / 1000 / LOOKUPS);
}

int main(int argc, char **argv)
{
    char path[4096], lock[4200];
    struct repl_index *index;
    struct repl_error err;
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000000;
    unsigned volumes = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 2;
    if (argc < 2 || count == 0 || volumes == 0) {
        fprintf(stderr, "usage: %s DIRECTORY [CHUNKS [VOLUMES]]\n", argv[0]);
        return 2;
    }
    snprintf(path, sizeof path, "%s/index_size.lmdb", argv[1]);
    must(repl_index_open(path, true, &index, &err), &err);
    volumes_create(index, volumes);
    int64_t begun_ns = repl_now_mono_ns();
    segments_apply(index, count, volumes, false);
    print(path, "places", count, begun_ns);
    begun_ns = repl_now_mono_ns();
    segments_apply(index, count, volumes, true);
    print(path, "references", count, begun_ns);
    lookups(index, count, false);
    lookups(index, count, true);
    repl_index_close(index);
    snprintf(lock, sizeof lock, "%s-lock", path);
    unlink(path);
    unlink(lock);
    return 0;
}
