/*
 * The messages that are about chunks: those that are missing, those that are
 * wanted, and what a pool holds.
 */
#include <stdlib.h>

#include "format/wire_internal.h"

/* --- lists of names: missing, wanted --------------------------------------------------------- */

static repl_result names_encode(enum repl_wire_type type, uint32_t limit,
                                const struct repl_digest *names, uint32_t count,
                                struct repl_buffer *out, struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_list_open(out, type, count, limit, 4 + count * sizeof names[0], &w, err));
    repl_write_u32(&w, count);
    for (uint32_t i = 0; i < count; i++)
        repl_write_digest(&w, &names[i]);
    return repl_wire_close(out, type, &w, err);
}

static repl_result names_decode(enum repl_wire_type type, uint32_t limit, const void *data,
                                size_t size, struct repl_missing *out, struct repl_error *err)
{
    struct repl_reader r;
    void *names;
    *out = (struct repl_missing){0};
    REPL_TRY(repl_wire_enter(data, size, type, &r, err));
    uint32_t count = repl_read_u32(&r);
    REPL_TRY(repl_wire_list_allocate(&r, count, limit, sizeof out->names[0], sizeof out->names[0],
                                     &names, err));
    out->names = names;
    out->count = count;
    for (uint32_t i = 0; i < count; i++)
        repl_read_digest(&r, &out->names[i]);
    return repl_wire_leave(&r, type, err);
}

repl_result repl_missing_encode(const struct repl_missing *m, struct repl_buffer *out,
                                struct repl_error *err)
{
    return names_encode(REPL_WIRE_MISSING, REPL_MISSING_CHUNKS_MAX, m->names, m->count, out, err);
}

repl_result repl_missing_decode(const void *data, size_t size, struct repl_missing *out,
                                struct repl_error *err)
{
    return names_decode(REPL_WIRE_MISSING, REPL_MISSING_CHUNKS_MAX, data, size, out, err);
}

void repl_missing_fini(struct repl_missing *missing)
{
    free(missing->names);
    *missing = (struct repl_missing){0};
}

repl_result repl_wanted_encode(const struct repl_digest *names, uint32_t count,
                               struct repl_buffer *out, struct repl_error *err)
{
    return names_encode(REPL_WIRE_WANTED, REPL_WANTED_CHUNKS_MAX, names, count, out, err);
}

repl_result repl_wanted_decode(const void *data, size_t size, struct repl_missing *out,
                               struct repl_error *err)
{
    REPL_TRY(names_decode(REPL_WIRE_WANTED, REPL_WANTED_CHUNKS_MAX, data, size, out, err));
    if (out->count > 0)
        return REPL_SUCCESS;
    repl_missing_fini(out);
    return repl_fail(err, REPL_E_CORRUPT, "a wanted message that wants nothing");
}

/* --- what a pool holds ----------------------------------------------------------------------- */

#define PREFIX_SIZE 8u

_Static_assert(12 + 24 + REPL_POOL_NAMES_MAX * PREFIX_SIZE < REPL_MESSAGE_SIZE_MAX, "it fits");

uint64_t repl_chunk_prefix(const struct repl_digest *name)
{
    uint64_t prefix = 0;
    for (size_t i = 0; i < PREFIX_SIZE; i++)
        prefix = prefix << 8 | name->bytes[i];
    return prefix;
}

static void prefix_write(struct repl_writer *w, uint64_t prefix)
{
    for (unsigned shift = 8 * PREFIX_SIZE; shift > 0; shift -= 8)
        repl_write_u8(w, (uint8_t)(prefix >> (shift - 8)));
}

static uint64_t prefix_read(struct repl_reader *r)
{
    uint64_t prefix = 0;
    for (size_t i = 0; i < PREFIX_SIZE; i++)
        prefix = prefix << 8 | repl_read_u8(r);
    return prefix;
}

repl_result repl_pool_names_encode(const struct repl_pool_names *m, struct repl_buffer *out,
                                   struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_list_open(out, REPL_WIRE_POOL_NAMES, m->count, REPL_POOL_NAMES_MAX,
                                 24 + (size_t)m->count * PREFIX_SIZE, &w, err));
    repl_write_u32(&w, m->count);
    repl_write_u8(&w, m->more);
    repl_write_zeros(&w, 3);
    repl_write_uuid(&w, &m->pool);
    for (uint32_t i = 0; i < m->count; i++)
        prefix_write(&w, m->prefixes[i]);
    return repl_wire_close(out, REPL_WIRE_POOL_NAMES, &w, err);
}

repl_result repl_pool_names_decode(const void *data, size_t size, struct repl_pool_names *out,
                                   struct repl_error *err)
{
    struct repl_reader r;
    void *prefixes;
    *out = (struct repl_pool_names){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_POOL_NAMES, &r, err));
    uint32_t count = repl_read_u32(&r);
    out->more = repl_wire_read_bool(&r);
    repl_read_zeros(&r, 3);
    repl_read_uuid(&r, &out->pool);
    REPL_TRY(repl_wire_list_allocate(&r, count, REPL_POOL_NAMES_MAX, PREFIX_SIZE,
                                     sizeof out->prefixes[0], &prefixes, err));
    out->prefixes = prefixes;
    out->count = count;
    for (uint32_t i = 0; i < count; i++) {
        out->prefixes[i] = prefix_read(&r);
        if (i > 0 && out->prefixes[i] <= out->prefixes[i - 1])
            r.failed = true;
    }
    if (out->more && count == 0)
        r.failed = true;
    repl_result result = repl_wire_leave(&r, REPL_WIRE_POOL_NAMES, err);
    if (!repl_ok(result))
        repl_pool_names_fini(out);
    return result;
}

void repl_pool_names_fini(struct repl_pool_names *names)
{
    free(names->prefixes);
    *names = (struct repl_pool_names){0};
}
