#include "source/tree/tree_mapping.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/hash.h"
#include "source/tree/tree_places.h"

#define REGION      (UINT64_C(2) << 20)
#define ROW_REGIONS 512u
#define ROW_SIZE    (ROW_REGIONS * REGION)

#define EXTENTS 256u

/* The rest says nothing of the content (SHARED, MERGED), or comes and goes (LAST). */
#define FLAGS                                                                                      \
    (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED |                      \
     FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_UNWRITTEN)

struct run {
    uint64_t offset, size, at; /* at: on the device */
    uint64_t flags;
};

struct mapping {
    struct repl_buffer regions; /* a hash each; 0: nothing is there */
    struct run run;             /* that goes on, perhaps */
};

/* --- what there is --------------------------------------------------------------------------- */

static uint64_t region_count(uint64_t size)
{
    return (size + REGION - 1) / REGION;
}

/* The run has come to its end: each region it is in has its part of it. */
static void run_end(struct mapping *m)
{
    uint64_t *hashes = (void *)m->regions.data;
    uint64_t count = m->regions.size / sizeof *hashes;
    struct run *run = &m->run;
    while (run->size > 0 && run->offset / REGION < count) {
        uint64_t region = run->offset / REGION, left = (region + 1) * REGION - run->offset;
        struct {
            uint64_t before;
            struct run part;
        } text = {hashes[region], *run};
        text.part.size = left < run->size ? left : run->size;
        hashes[region] = repl_xxh3(&text, sizeof text) | 1;
        run->offset += text.part.size;
        run->at += text.part.size;
        run->size -= text.part.size;
    }
    run->size = 0;
}

/* How the filesystem has cut up what lies together does not matter. */
static void extent_take(struct mapping *m, const struct fiemap_extent *extent)
{
    struct run *run = &m->run;
    const struct run now = {extent->fe_logical, extent->fe_length, extent->fe_physical,
                            extent->fe_flags & FLAGS};
    if (run->size > 0 && run->offset + run->size == now.offset && run->at + run->size == now.at &&
        run->flags == now.flags) {
        run->size += now.size;
        return;
    }
    run_end(m);
    *run = now;
}

/* *told: the filesystem does tell. */
static repl_result mapping_read(int fd, uint64_t size, struct mapping *m, bool *told,
                                struct repl_error *err)
{
    union {
        struct fiemap map;
        uint8_t room[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)];
    } ask;
    uint64_t at = 0, room = region_count(size) * sizeof(uint64_t);
    uint8_t *hashes = repl_buffer_extend(&m->regions, room);
    if (hashes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a file's mapping");
    memset(hashes, 0, room);
    for (bool more = true; more && at < size;) {
        memset(&ask.map, 0, sizeof ask.map);
        ask.map.fm_start = at;
        ask.map.fm_length = size - at;
        ask.map.fm_extent_count = EXTENTS;
        *told = ioctl(fd, FS_IOC_FIEMAP, &ask.map) == 0;
        if (!*told)
            return errno == EIO || errno == ENOMEM
                       ? repl_fail_errno(err, REPL_E_IO, errno, "where it lies")
                       : REPL_SUCCESS;
        more = ask.map.fm_mapped_extents > 0;
        for (uint32_t i = 0; i < ask.map.fm_mapped_extents; i++) {
            const struct fiemap_extent *extent = &ask.map.fm_extents[i];
            extent_take(m, extent);
            at = extent->fe_logical + extent->fe_length;
            more = more && (extent->fe_flags & FIEMAP_EXTENT_LAST) == 0;
        }
    }
    run_end(m);
    return REPL_SUCCESS;
}

/* --- what there was -------------------------------------------------------------------------- */

static void row_key(uint64_t object, uint64_t row, struct repl_tree_key *key)
{
    *key = (struct repl_tree_key){0};
    repl_tree_key_u64(key, object);
    repl_tree_key_u64(key, row);
}

static repl_result row_follow(struct repl_tree_txn *txn, uint64_t object, uint64_t row,
                              const uint64_t *now, size_t count, struct repl_buffer *pages,
                              bool *known, struct repl_error *err)
{
    struct repl_tree_key key;
    MDB_val value = {0};
    row_key(object, row, &key);
    REPL_TRY(repl_tree_get(txn, REPL_TREE_MAPPING, &key, &value, known, err));
    size_t before = *known ? value.mv_size / sizeof *now : 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t hash = 0;
        if (i < before)
            memcpy(&hash, (const uint8_t *)value.mv_data + i * sizeof hash, sizeof hash);
        if (hash != now[i])
            REPL_TRY(repl_tree_pages_note(pages, row * ROW_SIZE + i * REGION, REGION, err));
    }
    if (before == count && memcmp(value.mv_data, now, count * sizeof *now) == 0)
        return REPL_SUCCESS;
    return repl_tree_put(txn, REPL_TREE_MAPPING, &key, now, count * sizeof *now, err);
}

static repl_result rows_drop(struct repl_tree_txn *txn, uint64_t object, uint64_t from,
                             struct repl_error *err)
{
    struct repl_tree_key key;
    struct repl_tree_walk walk;
    row_key(object, from, &key);
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_MAPPING, &key, &walk, err);
    while (repl_ok(result) && repl_tree_walk_is_at(&walk, object))
        result = repl_tree_walk_remove(&walk, err);
    repl_tree_walk_end(&walk);
    return result;
}

static repl_result rows_follow(struct repl_tree_txn *txn, uint64_t object, const struct mapping *m,
                               struct repl_buffer *pages, bool *known, struct repl_error *err)
{
    const uint64_t *now = (const void *)m->regions.data;
    size_t count = m->regions.size / sizeof *now;
    uint64_t row = 0;
    for (size_t at = 0; at < count; at += ROW_REGIONS, row++) {
        size_t left = count - at;
        bool there;
        REPL_TRY(row_follow(txn, object, row, now + at, left < ROW_REGIONS ? left : ROW_REGIONS,
                            pages, &there, err));
        *known = row == 0 ? there : *known;
    }
    return rows_drop(txn, object, row, err);
}

repl_result repl_tree_mapping_follow(struct repl_tree_txn *txn, uint64_t object, int fd,
                                     uint64_t size, struct repl_buffer *pages, bool *known,
                                     struct repl_error *err)
{
    struct mapping m = {0};
    bool told = false;
    *known = false;
    repl_result result = mapping_read(fd, size, &m, &told, err);
    if (repl_ok(result) && told)
        result = rows_follow(txn, object, &m, pages, known, err);
    else if (repl_ok(result))
        result = rows_drop(txn, object, 0, err);
    repl_buffer_fini(&m.regions);
    return result;
}

repl_result repl_tree_mapping_drop(struct repl_tree_txn *txn, uint64_t object,
                                   struct repl_error *err)
{
    return rows_drop(txn, object, 0, err);
}
