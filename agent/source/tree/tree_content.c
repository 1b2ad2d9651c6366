#include "source/tree/tree_content.h"

#include <string.h>

#include "base/hash.h"
#include "source/tree/tree_mapping.h"

#define GROWTH_ORDER_MAX 14u /* 64 MiB */

static uint64_t round_up(uint64_t size, uint64_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static uint64_t round_down(uint64_t size, uint64_t unit)
{
    return size / unit * unit;
}

/* A file's pieces, by offset. */
struct pieces {
    struct repl_buffer blocks;
    size_t count;
};

static const struct repl_tree_block *piece_at(const struct pieces *pieces, size_t i)
{
    return (const struct repl_tree_block *)(const void *)pieces->blocks.data + i;
}

static repl_result pieces_load(struct repl_tree_txn *txn, uint64_t object, struct pieces *pieces,
                               struct repl_error *err)
{
    REPL_TRY(repl_tree_place_list(txn, object, false, &pieces->blocks, err));
    pieces->count = pieces->blocks.size / sizeof(struct repl_tree_block);
    return REPL_SUCCESS;
}

/* --- pieces ---------------------------------------------------------------------------------- */

/* Those that cannot be gone on with: behind the file's end, or smaller than a chunk in a file that
 * is larger than that, or than the file is by now. */
static repl_result pieces_prune(struct repl_tree_txn *txn, uint64_t size, struct pieces *pieces,
                                struct repl_buffer *pages, struct repl_error *err)
{
    uint64_t least = size < REPL_CHUNK_SIZE ? round_up(size, REPL_PAGE_SIZE) : REPL_CHUNK_SIZE;
    uint64_t object = pieces->count > 0 ? piece_at(pieces, 0)->object : 0;
    bool any = false;
    for (size_t i = 0; i < pieces->count; i++) {
        const struct repl_tree_block *piece = piece_at(pieces, i);
        bool behind = piece->offset > 0 && piece->offset >= size;
        if (!behind && piece->size >= least)
            continue;
        REPL_TRY(repl_tree_place_give(txn, piece, pages, err));
        any = true;
    }
    return any ? pieces_load(txn, object, pieces, err) : REPL_SUCCESS;
}

static unsigned order_within(uint64_t size)
{
    unsigned order = REPL_TREE_ORDER_CHUNK;
    while (order < REPL_TREE_ORDER_MAX && ((uint64_t)REPL_PAGE_SIZE << (order + 1)) <= size)
        order++;
    return order;
}

/* Of a file that goes on where a piece ends, with none behind. */
static unsigned order_of_growth(const struct pieces *pieces, uint64_t offset)
{
    unsigned order = 0;
    bool goes_on = false;
    for (size_t i = 0; i < pieces->count; i++) {
        const struct repl_tree_block *piece = piece_at(pieces, i);
        unsigned its = repl_tree_order_of(piece->size);
        if (piece->offset >= offset)
            return 0;
        goes_on = piece->offset + piece->size == offset;
        order = its > order ? its : order;
    }
    if (!goes_on)
        return 0;
    return order < GROWTH_ORDER_MAX ? order : GROWTH_ORDER_MAX;
}

/* Covers [offset, end) of the file, both at chunks, where no piece is. */
static repl_result range_cover(struct repl_tree_txn *txn, uint64_t object, uint64_t offset,
                               uint64_t end, const struct pieces *pieces, struct repl_error *err)
{
    unsigned growth = order_of_growth(pieces, offset);
    while (offset < end) {
        struct repl_tree_block block = {.object = object, .offset = offset};
        unsigned order = order_within(end - offset);
        REPL_TRY(repl_tree_place_take(txn, order > growth ? order : growth, &block, err));
        offset += block.size;
    }
    return REPL_SUCCESS;
}

/* The data of [offset, end), which is more than a chunk's file. */
static repl_result data_cover(struct repl_tree_txn *txn, uint64_t object, uint64_t offset,
                              uint64_t end, struct pieces *pieces, struct repl_error *err)
{
    uint64_t at = round_down(offset, REPL_CHUNK_SIZE);
    bool any = false;
    end = round_up(end, REPL_CHUNK_SIZE);
    for (size_t i = 0; at < end && i <= pieces->count; i++) {
        bool last = i == pieces->count;
        uint64_t begin = last ? end : piece_at(pieces, i)->offset;
        uint64_t covered = last ? end : begin + piece_at(pieces, i)->size;
        if (covered <= at)
            continue;
        if (begin > at) {
            REPL_TRY(range_cover(txn, object, at, begin < end ? begin : end, pieces, err));
            any = true;
        }
        at = covered;
    }
    return any ? pieces_load(txn, object, pieces, err) : REPL_SUCCESS;
}

static repl_result pieces_cover(struct repl_tree_txn *txn, uint64_t object, uint64_t size,
                                const struct repl_buffer *data, struct pieces *pieces,
                                struct repl_error *err)
{
    const struct repl_tree_pages *runs = (const void *)data->data;
    size_t count = data->size / sizeof *runs;
    if (size <= REPL_CHUNK_SIZE) {
        struct repl_tree_block block = {.object = object};
        if (count == 0 || pieces->count > 0)
            return REPL_SUCCESS;
        REPL_TRY(repl_tree_place_take(txn, repl_tree_order_of(size), &block, err));
        return pieces_load(txn, object, pieces, err);
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t offset = runs[i].page * REPL_PAGE_SIZE;
        REPL_TRY(
            data_cover(txn, object, offset, offset + runs[i].count * REPL_PAGE_SIZE, pieces, err));
    }
    return REPL_SUCCESS;
}

/* --- extents --------------------------------------------------------------------------------- */

struct extent_row {
    uint64_t offset;
    struct repl_tree_extent extent;
};

static repl_result row_append(struct repl_buffer *rows, uint64_t offset, uint64_t length,
                              uint64_t place, struct repl_error *err)
{
    struct extent_row row = {offset, {length, place}};
    if (rows->size > 0) {
        struct extent_row *last = (void *)(rows->data + rows->size - sizeof row);
        bool hole = last->extent.place == REPL_TREE_HOLE;
        bool goes_on = place == (hole ? REPL_TREE_HOLE : last->extent.place + last->extent.length);
        if (goes_on && hole == (place == REPL_TREE_HOLE)) {
            last->extent.length += length;
            return REPL_SUCCESS;
        }
    }
    return repl_buffer_append(rows, &row, sizeof row, err);
}

/* Data of [offset, end): where the pieces are. */
static repl_result rows_of_data(const struct pieces *pieces, uint64_t offset, uint64_t end,
                                struct repl_buffer *rows, struct repl_error *err)
{
    for (size_t i = 0; i < pieces->count && offset < end; i++) {
        const struct repl_tree_block *piece = piece_at(pieces, i);
        uint64_t piece_end = piece->offset + piece->size;
        if (piece_end <= offset)
            continue;
        uint64_t stop = piece_end < end ? piece_end : end;
        REPL_TRY(
            row_append(rows, offset, stop - offset, piece->place + (offset - piece->offset), err));
        offset = stop;
    }
    return REPL_SUCCESS;
}

/* What the file's extents are now; holes fill the rest, up to its end. */
static repl_result rows_make(const struct pieces *pieces, uint64_t size,
                             const struct repl_buffer *data, struct repl_buffer *rows,
                             struct repl_error *err)
{
    const struct repl_tree_pages *runs = (const void *)data->data;
    uint64_t at = 0, file_end = round_up(size, REPL_PAGE_SIZE);
    for (size_t i = 0; i < data->size / sizeof *runs; i++) {
        uint64_t offset = runs[i].page * REPL_PAGE_SIZE;
        uint64_t end = offset + runs[i].count * REPL_PAGE_SIZE;
        if (offset > at)
            REPL_TRY(row_append(rows, at, offset - at, REPL_TREE_HOLE, err));
        REPL_TRY(rows_of_data(pieces, offset, end, rows, err));
        at = end;
    }
    return at < file_end ? row_append(rows, at, file_end - at, REPL_TREE_HOLE, err) : REPL_SUCCESS;
}

static repl_result rows_load(struct repl_tree_txn *txn, uint64_t object, struct repl_buffer *rows,
                             struct repl_error *err)
{
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    repl_tree_key_u64(&key, object);
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_EXTENT, &key, &walk, err);
    while (repl_ok(result) && repl_tree_walk_is_at(&walk, object)) {
        struct extent_row row = {.offset =
                                     repl_tree_key_read((const uint8_t *)walk.key.mv_data + 8)};
        memcpy(&row.extent, walk.value.mv_data, sizeof row.extent);
        result = repl_buffer_append(rows, &row, sizeof row, err);
        if (repl_ok(result))
            result = repl_tree_walk_next(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}

static repl_result rows_remove(struct repl_tree_txn *txn, enum repl_tree_table table,
                               uint64_t object, struct repl_error *err)
{
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    repl_tree_key_u64(&key, object);
    repl_result result = repl_tree_walk_begin(txn, table, &key, &walk, err);
    while (repl_ok(result) && repl_tree_walk_is_at(&walk, object))
        result = repl_tree_walk_remove(&walk, err);
    repl_tree_walk_end(&walk);
    return result;
}

static repl_result rows_put(struct repl_tree_txn *txn, uint64_t object,
                            const struct repl_buffer *rows, struct repl_error *err)
{
    const struct extent_row *row = (const void *)rows->data;
    REPL_TRY(rows_remove(txn, REPL_TREE_EXTENT, object, err));
    for (size_t i = 0; i < rows->size / sizeof *row; i++) {
        struct repl_tree_key key = {0};
        repl_tree_key_u64(&key, object);
        repl_tree_key_u64(&key, row[i].offset);
        REPL_TRY(
            repl_tree_put(txn, REPL_TREE_EXTENT, &key, &row[i].extent, sizeof row[i].extent, err));
    }
    return REPL_SUCCESS;
}

static repl_result rows_note(const struct repl_buffer *rows, struct repl_buffer *pages,
                             struct repl_error *err)
{
    const struct extent_row *row = (const void *)rows->data;
    for (size_t i = 0; i < rows->size / sizeof *row; i++) {
        if (row[i].extent.place != REPL_TREE_HOLE)
            REPL_TRY(repl_tree_pages_note(pages, row[i].extent.place, row[i].extent.length, err));
    }
    return REPL_SUCCESS;
}

static bool rows_equal(const struct repl_buffer *a, const struct repl_buffer *b)
{
    return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

/* --- a file ---------------------------------------------------------------------------------- */

struct content {
    struct pieces pieces;
    struct repl_buffer before, now; /* struct extent_row each */
};

/* What both say of the range is the same. */
static bool rows_agree(const struct extent_row *a, const struct extent_row *b)
{
    if (a->extent.place == REPL_TREE_HOLE || b->extent.place == REPL_TREE_HOLE)
        return a->extent.place == b->extent.place;
    return a->extent.place - a->offset == b->extent.place - b->offset;
}

static uint64_t row_end(const struct extent_row *row)
{
    return row->offset + row->extent.length;
}

/* The part of a row, if it is data. */
static repl_result part_note(const struct extent_row *row, uint64_t offset, uint64_t end,
                             struct repl_buffer *pages, struct repl_error *err)
{
    if (row->extent.place == REPL_TREE_HOLE || offset >= end)
        return REPL_SUCCESS;
    return repl_tree_pages_note(pages, row->extent.place + (offset - row->offset), end - offset,
                                err);
}

/* Places that only one of the two has; rows are without gaps, from 0 on. */
static repl_result difference_note(const struct repl_buffer *before, const struct repl_buffer *now,
                                   struct repl_buffer *pages, struct repl_error *err)
{
    const struct extent_row *a = (const void *)before->data, *b = (const void *)now->data;
    size_t a_left = before->size / sizeof *a, b_left = now->size / sizeof *b;
    for (uint64_t at = 0, end; a_left > 0 || b_left > 0; at = end) {
        end = a_left == 0 || (b_left > 0 && row_end(b) < row_end(a)) ? row_end(b) : row_end(a);
        if (a_left == 0 || b_left == 0 || !rows_agree(a, b)) {
            if (a_left > 0)
                REPL_TRY(part_note(a, at, end, pages, err));
            if (b_left > 0)
                REPL_TRY(part_note(b, at, end, pages, err));
        }
        if (a_left > 0 && row_end(a) == end)
            a++, a_left--;
        if (b_left > 0 && row_end(b) == end)
            b++, b_left--;
    }
    return REPL_SUCCESS;
}

/* What lies in a range of the file. */
static repl_result range_note(const struct repl_buffer *rows, uint64_t offset, uint64_t end,
                              struct repl_buffer *pages, struct repl_error *err)
{
    const struct extent_row *row = (const void *)rows->data;
    size_t count = rows->size / sizeof *row, low = 0, high = count;
    while (low < high) { /* the first one that ends behind the offset */
        size_t middle = low + (high - low) / 2;
        if (row_end(&row[middle]) <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < count && row[low].offset < end; low++) {
        uint64_t stop = row_end(&row[low]) < end ? row_end(&row[low]) : end;
        REPL_TRY(part_note(&row[low], offset > row[low].offset ? offset : row[low].offset, stop,
                           pages, err));
    }
    return REPL_SUCCESS;
}

static repl_result wanted_note(const struct repl_buffer *wanted, const struct repl_buffer *rows,
                               struct repl_buffer *pages, struct repl_error *err)
{
    const struct repl_tree_pages *range = (const void *)wanted->data;
    for (size_t i = 0; i < wanted->size / sizeof *range; i++)
        REPL_TRY(range_note(rows, range[i].page * REPL_PAGE_SIZE,
                            (range[i].page + range[i].count) * REPL_PAGE_SIZE, pages, err));
    return REPL_SUCCESS;
}

static repl_result content_follow(struct repl_tree_txn *txn, uint64_t object, uint64_t size,
                                  const struct repl_buffer *data, const struct repl_buffer *wanted,
                                  struct repl_buffer *pages, struct content *c, bool *remapped,
                                  struct repl_error *err)
{
    REPL_TRY(pieces_load(txn, object, &c->pieces, err));
    REPL_TRY(pieces_prune(txn, size, &c->pieces, pages, err));
    REPL_TRY(pieces_cover(txn, object, size, data, &c->pieces, err));
    REPL_TRY(rows_make(&c->pieces, size, data, &c->now, err));
    REPL_TRY(rows_load(txn, object, &c->before, err));
    REPL_TRY(wanted != NULL ? wanted_note(wanted, &c->now, pages, err)
                            : rows_note(&c->now, pages, err));
    *remapped = !rows_equal(&c->before, &c->now);
    if (!*remapped)
        return REPL_SUCCESS;
    REPL_TRY(difference_note(&c->before, &c->now, pages, err)); /* a hole reads as zeros */
    return rows_put(txn, object, &c->now, err);
}

repl_result repl_tree_content_follow(struct repl_tree_txn *txn, uint64_t object, uint64_t size,
                                     const struct repl_buffer *data,
                                     const struct repl_buffer *wanted, struct repl_buffer *pages,
                                     bool *remapped, struct repl_error *err)
{
    struct content c = {0};
    repl_result result = content_follow(txn, object, size, data, wanted, pages, &c, remapped, err);
    repl_buffer_fini(&c.pieces.blocks);
    repl_buffer_fini(&c.before);
    repl_buffer_fini(&c.now);
    return result;
}

repl_result repl_tree_content_note(struct repl_tree_txn *txn, uint64_t object,
                                   struct repl_buffer *pages, struct repl_error *err)
{
    struct repl_buffer rows = {0};
    repl_result result = rows_load(txn, object, &rows, err);
    if (repl_ok(result))
        result = rows_note(&rows, pages, err);
    repl_buffer_fini(&rows);
    return result;
}

/* --- attributes ------------------------------------------------------------------------------ */

static void attribute_key(uint64_t object, struct repl_tree_key *key)
{
    *key = (struct repl_tree_key){0};
    repl_tree_key_u64(key, object);
}

/* But for the places, which are ours to give. */
static bool attributes_equal(const void *a, size_t a_size, const void *b, size_t b_size)
{
    struct repl_tree_attribute x, y;
    size_t at_a = 0, at_b = 0;
    if (a_size != b_size)
        return false;
    while (repl_tree_attribute_next(a, a_size, &at_a, &x)) {
        if (!repl_tree_attribute_next(b, b_size, &at_b, &y) || x.name_size != y.name_size ||
            x.value_size != y.value_size ||
            memcmp(x.name, y.name, (size_t)x.name_size + x.value_size) != 0)
            return false;
    }
    return true;
}

static repl_result values_give(struct repl_tree_txn *txn, uint64_t object, bool values,
                               struct repl_buffer *pages, struct repl_error *err)
{
    struct repl_buffer blocks = {0};
    repl_result result = repl_tree_place_list(txn, object, values, &blocks, err);
    const struct repl_tree_block *block = (const void *)blocks.data;
    for (size_t i = 0; repl_ok(result) && i < blocks.size / sizeof *block; i++)
        result = repl_tree_place_give(txn, &block[i], pages, err);
    repl_buffer_fini(&blocks);
    return result;
}

repl_result repl_tree_attributes_note(struct repl_tree_txn *txn, uint64_t object,
                                      struct repl_buffer *pages, struct repl_error *err)
{
    struct repl_buffer blocks = {0};
    repl_result result = repl_tree_place_list(txn, object, true, &blocks, err);
    const struct repl_tree_block *block = (const void *)blocks.data;
    for (size_t i = 0; repl_ok(result) && i < blocks.size / sizeof *block; i++)
        result = repl_tree_pages_note(pages, block[i].place, block[i].size, err);
    repl_buffer_fini(&blocks);
    return result;
}

/* Long values get a place. */
static repl_result values_place(struct repl_tree_txn *txn, uint64_t object,
                                struct repl_buffer *attributes, struct repl_buffer *pages,
                                struct repl_error *err)
{
    struct repl_tree_attribute attribute;
    for (size_t at = 0, begin = 0;
         repl_tree_attribute_next(attributes->data, attributes->size, &at, &attribute);
         begin = at) {
        if (attribute.value_size <= REPL_XATTR_INLINE_MAX)
            continue;
        struct repl_tree_block block = {.object = object,
                                        .offset = repl_xxh3(attribute.name, attribute.name_size),
                                        .is_value = 1};
        REPL_TRY(repl_tree_place_take(txn, repl_tree_order_of(attribute.value_size), &block, err));
        memcpy(attributes->data + begin + 5, &block.place, sizeof block.place);
        REPL_TRY(repl_tree_pages_note(pages, block.place, block.size, err));
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_attributes_follow(struct repl_tree_txn *txn, uint64_t object,
                                        struct repl_buffer *attributes, struct repl_buffer *pages,
                                        bool *changed, struct repl_error *err)
{
    struct repl_tree_key key;
    MDB_val value = {0};
    bool found;
    attribute_key(object, &key);
    REPL_TRY(repl_tree_get(txn, REPL_TREE_ATTRIBUTE, &key, &value, &found, err));
    *changed = !attributes_equal(attributes->data, attributes->size, value.mv_data,
                                 found ? value.mv_size : 0);
    if (!*changed)
        return REPL_SUCCESS;
    REPL_TRY(values_give(txn, object, true, pages, err));
    REPL_TRY(values_place(txn, object, attributes, pages, err));
    if (attributes->size == 0)
        return repl_tree_del(txn, REPL_TREE_ATTRIBUTE, &key, err);
    return repl_tree_put(txn, REPL_TREE_ATTRIBUTE, &key, attributes->data, attributes->size, err);
}

repl_result repl_tree_content_drop(struct repl_tree_txn *txn, uint64_t object,
                                   struct repl_buffer *pages, struct repl_error *err)
{
    struct repl_tree_key key;
    attribute_key(object, &key);
    REPL_TRY(values_give(txn, object, false, pages, err));
    REPL_TRY(values_give(txn, object, true, pages, err));
    REPL_TRY(rows_remove(txn, REPL_TREE_EXTENT, object, err));
    REPL_TRY(repl_tree_mapping_drop(txn, object, err));
    return repl_tree_del(txn, REPL_TREE_ATTRIBUTE, &key, err);
}
