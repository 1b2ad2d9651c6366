/*
 * A site whose store is read: for the tests of the scrub.
 */
#ifndef TESTS_UNIT_SCRUB_WORLD_H
#define TESTS_UNIT_SCRUB_WORLD_H

#include <zstd.h>

#include "unit/agent/site/compactor/compactor_world.h"

#include "site/scrub/scrub_internal.h"
#include "unit/damage.h"

/* What is unread for so long by the next round, and for no time that a test takes. */
#define SOON_MS 50
#define FAR_MS  (INT64_C(100) * 86400 * 1000)

/* Bytes that compress, and not to nothing. */
static inline void text_fill(uint8_t *bytes, size_t size)
{
    random_fill(&w.random, bytes, size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = i % 64 < 40 ? (uint8_t)(i / 64 % 7) : bytes[i] & 0x3f;
}

/* A frame as another zstd may have made it: at a level that this program does not use. */
static inline uint32_t foreign_frame(struct build *b, const uint8_t *raw, size_t size)
{
    uint8_t *stored = malloc(size);
    struct repl_error err;
    struct repl_frame_entry entry = {.raw_size = (uint32_t)size, .codec = REPL_CODEC_ZSTD};
    uint32_t frame;
    entry.stored_size = (uint32_t)ZSTD_compress(stored, size, raw, size, 19);
    assert_false(ZSTD_isError(entry.stored_size));
    entry.raw_xxh3 = repl_xxh3(raw, size);
    must(repl_segment_builder_frame(b->builder, &entry, stored, NULL, &frame, &err), &err);
    free(stored);
    return frame;
}

/* begin without a replica, which would mend what is damaged. */
static inline void begin_bare(const char *retention)
{
    world_init(&w, "none");
    w.retention = retention;
    site_start(&w);
    seed(&w);
    point_keep();
}

/* Nothing may be unread for longer than this. */
static inline void every(int64_t ms)
{
    w.site->config->scrub_every_ms = ms;
}

/* Point 2, and a supply to it. */
static inline void supplied_make(void)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct build b;
    random_fill(&w.random, chunk, sizeof chunk);
    build_begin(&b, &w, 1, 2, 0);
    build_chunk(&b, 2 * MIB, REPL_CHUNK_SIZE, chunk, 0);
    build_end(&b, true);
    build_put(&b);
    expect_missing(&w, 1);
    supply_give(&w, chunk, 1);
    build_commit(&b);
    point_keep();
}

/* How the volume fares, its source having just said that it is well: else a slow test would see its
 * silence. */
static inline struct repl_volume_status status_heard(void)
{
    const struct repl_report well = {.state = REPL_STATE_OK, .sent_ns = repl_now_wall_ns()};
    assert_int_equal(report(&w, &well), 200);
    return volume_status(&w, "data");
}

/* One visit, and those that it is followed by at once. */
static inline void visit_make(void)
{
    struct site_volume *v = w.site->volumes;
    v->scrub.next_ns = 0;
    site_scrub_tick(w.site->scrub);
    PUMP_UNTIL(&w, !site_scrub_is_busy(w.site->scrub));
}

/* What is due by now, and was read longer ago, is read. */
static inline void round_make(void)
{
    if (w.site->config->scrub_every_ms == SOON_MS)
        turns(SOON_MS + 10);
    visit_make();
}

static inline void segment_path(char path[256], uint64_t to)
{
    char name[64];
    snprintf(name, sizeof name, "segments/%020llu.000000.seg", (unsigned long long)to);
    file_path(&w, path, name);
}

/* Of the files of all segments and supplies. */
static inline uint64_t stored_bytes(void)
{
    char path[256], name[600];
    struct stat status;
    uint64_t bytes = 0;
    file_path(&w, path, "segments");
    DIR *listing = opendir(path);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.' && stat(name, &status) == 0)
            bytes += (uint64_t)status.st_size;
    }
    closedir(listing);
    return bytes;
}

/* Bytes [at, at + size) of the file become others. */
static inline void plant(struct damage *d, size_t at, size_t size)
{
    uint8_t *kept = malloc(size);
    memcpy(kept, d->bytes + at, size);
    for (size_t i = 0; i < size; i++)
        d->bytes[at + i] ^= 0x55;
    damage_put(d, d->size);
    memcpy(d->bytes + at, kept, size);
    free(kept);
}

static inline bool is_as_it_was(const struct damage *d)
{
    struct damage now = {0};
    damage_take(&now, d->path);
    bool same = now.size == d->size && memcmp(now.bytes, d->bytes, d->size) == 0;
    damage_fini(&now);
    return same;
}

static inline void look(void)
{
    every(SOON_MS);
    round_make();
}

/* What the point was, is what is restored of it; or that is refused. */
static inline bool point_restores(uint64_t seq)
{
    struct repl_origin *origin;
    struct repl_history *history;
    struct repl_view *view;
    struct repl_view_reader *reader;
    struct repl_error err;
    const struct repl_store_options options = {.location = w.store};
    must(repl_origin_open_store(&options, "data", &origin, &err), &err);
    must(repl_history_open(origin, &history, &err), &err);
    const struct repl_catalogue *c = repl_history_catalogue(history);
    size_t i = 0;
    while (c->points[i].point.seq != seq)
        i++;
    uint8_t *bytes = malloc(MODEL_MAX);
    must(repl_history_view(history, i, &view, &err), &err);
    must(repl_view_reader_new(view, 8, &reader, &err), &err);
    bool whole = repl_ok(repl_view_read(reader, 0, bytes, c->points[i].volume_size, &err));
    if (whole)
        assert_true(repl_xxh3(bytes, c->points[i].volume_size) == points[seq]);
    repl_view_reader_free(reader);
    repl_view_free(view);
    repl_history_close(history);
    free(bytes);
    return whole;
}

/* Point seq overwrites [offset, offset + size), or says that it is zeros. */
static inline void overwrite(uint64_t offset, size_t size, bool zeros)
{
    struct build b;
    build_begin(&b, &w, w.head.to_seq, w.head.to_seq + 1, 0);
    if (zeros)
        build_zero(&b, offset, size);
    else
        build_data(&b, offset, size);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
}

static inline struct repl_verified_list verified_read(void)
{
    struct repl_verified_file file;
    struct repl_error err;
    must(repl_verified_file_read(w.site->store, "data", &file, &err), &err);
    return file.list;
}

#endif
