#include "format/verified_record.h"

#include <stdlib.h>

#include "base/ensure.h"
#include "base/hash.h"

#define VERIFIED_VERSION 1u
#define CHECKED_SIZE     (REPL_VERIFIED_RECORD_SIZE - 8u)

void repl_verified_encode(const struct repl_verified *verified,
                          uint8_t out[REPL_VERIFIED_RECORD_SIZE])
{
    struct repl_writer w = repl_writer_of(out, REPL_VERIFIED_RECORD_SIZE);
    repl_write_u8(&w, VERIFIED_VERSION);
    repl_write_u8(&w, verified->damaged);
    repl_write_zeros(&w, 6);
    repl_write_u64(&w, verified->to_seq);
    repl_write_u32(&w, verified->part);
    repl_write_u32(&w, verified->supply);
    repl_write_u64(&w, verified->merge);
    repl_write_i64(&w, verified->time_ns);
    repl_write_u64(&w, repl_xxh3(out, CHECKED_SIZE));
    ensure(!w.failed && w.position == REPL_VERIFIED_RECORD_SIZE);
}

repl_result repl_verified_decode(const uint8_t in[REPL_VERIFIED_RECORD_SIZE],
                                 struct repl_verified *out, struct repl_error *err)
{
    struct repl_reader tail = repl_reader_of(in + CHECKED_SIZE, 8);
    struct repl_reader r = repl_reader_of(in, CHECKED_SIZE);
    *out = (struct repl_verified){0};
    if (repl_read_u64(&tail) != repl_xxh3(in, CHECKED_SIZE))
        return repl_fail(err, REPL_E_CORRUPT, "verified: the checksum does not match");
    uint8_t version = repl_read_u8(&r);
    if (version != VERIFIED_VERSION)
        return repl_fail(err, REPL_E_VERSION,
                         "verified: a record of version %u, this program reads %u: a later "
                         "release has written it",
                         version, VERIFIED_VERSION);
    uint8_t damaged = repl_read_u8(&r);
    repl_read_zeros(&r, 6);
    out->to_seq = repl_read_u64(&r);
    out->part = repl_read_u32(&r);
    out->supply = repl_read_u32(&r);
    out->merge = repl_read_u64(&r);
    out->time_ns = repl_read_i64(&r);
    out->damaged = damaged == 1;
    r.failed |= damaged > 1 || out->to_seq == 0 || (out->supply != 0 && out->merge != 0);
    return repl_reader_end(&r, err, "verified");
}

int repl_verified_order(const struct repl_verified *a, const struct repl_verified *b)
{
    if (a->to_seq != b->to_seq)
        return a->to_seq < b->to_seq ? -1 : 1;
    if (a->part != b->part)
        return a->part < b->part ? -1 : 1;
    if (a->merge != b->merge)
        return a->merge < b->merge ? -1 : 1;
    return a->supply < b->supply ? -1 : a->supply > b->supply;
}

/* --- many of them ---------------------------------------------------------------------------- */

void repl_verified_list_fini(struct repl_verified_list *list)
{
    free(list->items);
    *list = (struct repl_verified_list){0};
}

static int list_order(const void *a, const void *b)
{
    return repl_verified_order(a, b);
}

void repl_verified_list_sort(struct repl_verified_list *list)
{
    qsort(list->items, list->count, sizeof *list->items, list_order);
}

repl_result repl_verified_list_write(const struct repl_verified_list *list,
                                     struct repl_buffer *bytes, struct repl_error *err)
{
    for (size_t i = 0; i < list->count; i++) {
        uint8_t record[REPL_VERIFIED_RECORD_SIZE];
        repl_verified_encode(&list->items[i], record);
        REPL_TRY(repl_buffer_append(bytes, record, sizeof record, err));
    }
    return REPL_SUCCESS;
}

/* A record and its place in the file, which sorting does not keep. */
struct placed {
    struct repl_verified verified;
    size_t place;
};

static int placed_order(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    int order = repl_verified_order(&x->verified, &y->verified);
    return order != 0 ? order : x->place < y->place ? -1 : x->place > y->place;
}

repl_result repl_verified_list_read(const uint8_t *bytes, size_t size,
                                    struct repl_verified_list *out, size_t *whole,
                                    struct repl_error *err)
{
    size_t room = size / REPL_VERIFIED_RECORD_SIZE, count = 0;
    struct placed *all = calloc(room + 1, sizeof *all);
    *out = (struct repl_verified_list){.items = calloc(room + 1, sizeof *out->items)};
    *whole = 0;
    if (all == NULL || out->items == NULL) {
        free(all);
        repl_verified_list_fini(out);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for what was verified");
    }
    for (; count < room; count++) {
        all[count].place = count;
        if (!repl_ok(repl_verified_decode(bytes + count * REPL_VERIFIED_RECORD_SIZE,
                                          &all[count].verified, NULL)))
            break;
    }
    *whole = count * REPL_VERIFIED_RECORD_SIZE;
    qsort(all, count, sizeof *all, placed_order);
    for (size_t i = 0; i < count; i++) {
        bool last =
            i + 1 == count || repl_verified_order(&all[i].verified, &all[i + 1].verified) != 0;
        if (last)
            out->items[out->count++] = all[i].verified;
    }
    free(all);
    return REPL_SUCCESS;
}

const struct repl_verified *repl_verified_list_find(const struct repl_verified_list *list,
                                                    const struct repl_verified *key)
{
    size_t low = 0, high = list->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = repl_verified_order(&list->items[middle], key);
        if (order == 0)
            return &list->items[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
