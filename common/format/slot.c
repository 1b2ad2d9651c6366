#include "format/slot.h"

#include "base/ensure.h"
#include "base/hash.h"

#define SLOT_MAGIC   0x544f4c534c504552ull /* "REPLSLOT" */
#define SLOT_VERSION 1u
#define SLOT_CHECKED (REPL_SLOT_SIZE - 8)

enum slot_type { SLOT_SOURCE = 1, SLOT_REPLICA = 2 };

static struct repl_writer slot_open(uint8_t *slot, enum slot_type type, uint64_t generation)
{
    struct repl_writer w = repl_writer_of(slot, SLOT_CHECKED);
    repl_write_u64(&w, SLOT_MAGIC);
    repl_write_u16(&w, SLOT_VERSION);
    repl_write_u16(&w, (uint16_t)type);
    repl_write_zeros(&w, 4);
    repl_write_u64(&w, generation);
    return w;
}

static void slot_close(struct repl_writer *w)
{
    repl_write_zeros(w, SLOT_CHECKED - w->position);
    ensure(!w->failed);
    struct repl_writer tail = repl_writer_of(w->data + SLOT_CHECKED, 8);
    repl_write_u64(&tail, repl_xxh3(w->data, SLOT_CHECKED));
}

/* The generation of a slot; 0 where there is no whole one of that type. */
static uint64_t slot_generation(const uint8_t *slot, enum slot_type type, bool *newer_version)
{
    struct repl_reader tail = repl_reader_of(slot + SLOT_CHECKED, 8);
    if (repl_read_u64(&tail) != repl_xxh3(slot, SLOT_CHECKED))
        return 0;
    struct repl_reader r = repl_reader_of(slot, SLOT_CHECKED);
    uint64_t magic = repl_read_u64(&r);
    uint16_t version = repl_read_u16(&r);
    uint16_t found = repl_read_u16(&r);
    if (magic != SLOT_MAGIC || found != type)
        return 0;
    if (version != SLOT_VERSION) {
        *newer_version = true;
        return 0;
    }
    repl_read_zeros(&r, 4);
    uint64_t generation = repl_read_u64(&r);
    return r.failed ? 0 : generation;
}

/* A reader at the fields of the newer whole slot. */
static repl_result slot_enter(const uint8_t *file, enum slot_type type, const char *what,
                              struct repl_reader *r, uint64_t *generation, struct repl_error *err)
{
    bool newer_version = false;
    uint64_t first = slot_generation(file, type, &newer_version);
    uint64_t second = slot_generation(file + REPL_SLOT_SIZE, type, &newer_version);
    if (newer_version)
        return repl_fail(err, REPL_E_VERSION,
                         "%s: written by a newer version of repl; use that one", what);
    if (first == 0 && second == 0)
        return repl_fail(err, REPL_E_CORRUPT, "%s: neither of its two slots is whole", what);
    const uint8_t *slot = first > second ? file : file + REPL_SLOT_SIZE;
    *generation = first > second ? first : second;
    *r = repl_reader_of(slot, SLOT_CHECKED);
    r->position = 24;
    return REPL_SUCCESS;
}

static repl_result slot_leave(struct repl_reader *r, const char *what, struct repl_error *err)
{
    repl_read_zeros(r, repl_reader_left(r));
    return repl_reader_end(r, err, what);
}

static void slot_head_encode(struct repl_writer *w, const struct repl_head *head)
{
    repl_write_u64(w, head->from_seq);
    repl_write_u64(w, head->to_seq);
    repl_write_u32(w, head->part);
    repl_write_u32(w, head->has_point);
    repl_write_digest(w, &head->digest);
}

static void slot_head_decode(struct repl_reader *r, struct repl_head *out)
{
    out->from_seq = repl_read_u64(r);
    out->to_seq = repl_read_u64(r);
    out->part = repl_read_u32(r);
    uint32_t has_point = repl_read_u32(r);
    out->has_point = has_point == 1;
    if (has_point > 1)
        r->failed = true;
    repl_read_digest(r, &out->digest);
}

#define SLOT_HEAD_SIZE 56u
_Static_assert(24 + 48 + 2 + REPL_IDENTITY_MAX + SLOT_HEAD_SIZE * (1 + REPL_SENT_MAX) + 40 <
                   SLOT_CHECKED,
               "a source's state fits its slot");

void repl_source_state_encode(const struct repl_source_state *state, uint64_t generation,
                              uint8_t slot[REPL_SLOT_SIZE])
{
    struct repl_writer w = slot_open(slot, SLOT_SOURCE, generation);
    repl_write_uuid(&w, &state->volume);
    repl_write_u64(&w, state->lineage);
    repl_write_u64(&w, state->volume_size);
    repl_write_u64(&w, state->next_seq);
    repl_write_i64(&w, state->last_end_ns);
    repl_write_text(&w, state->identity);
    slot_head_encode(&w, &state->checkpoint);
    repl_write_u32(&w, state->sent_count);
    for (uint32_t i = 0; i < state->sent_count; i++)
        slot_head_encode(&w, &state->sent[i]);
    repl_write_u32(&w, state->acknowledged_count); /* zeros before there were such fields */
    repl_write_u64(&w, state->resync_seq);
    repl_write_u64(&w, state->point_seq);
    repl_write_i64(&w, state->point_begin_ns);
    repl_write_i64(&w, state->point_end_ns);
    slot_close(&w);
}

repl_result repl_source_state_decode(const uint8_t file[REPL_SLOT_FILE],
                                     struct repl_source_state *out, uint64_t *generation,
                                     struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_source_state){0};
    REPL_TRY(slot_enter(file, SLOT_SOURCE, "source state", &r, generation, err));
    repl_read_uuid(&r, &out->volume);
    out->lineage = repl_read_u64(&r);
    out->volume_size = repl_read_u64(&r);
    out->next_seq = repl_read_u64(&r);
    out->last_end_ns = repl_read_i64(&r);
    repl_read_text(&r, out->identity, REPL_IDENTITY_MAX);
    slot_head_decode(&r, &out->checkpoint);
    out->sent_count = repl_read_u32(&r);
    if (out->sent_count > REPL_SENT_MAX) {
        out->sent_count = 0;
        r.failed = true;
    }
    for (uint32_t i = 0; i < out->sent_count; i++)
        slot_head_decode(&r, &out->sent[i]);
    out->acknowledged_count = repl_read_u32(&r);
    if (out->acknowledged_count > out->sent_count)
        r.failed = true;
    out->resync_seq = repl_read_u64(&r);
    out->point_seq = repl_read_u64(&r);
    out->point_begin_ns = repl_read_i64(&r);
    out->point_end_ns = repl_read_i64(&r);
    return slot_leave(&r, "source state", err);
}

void repl_replica_state_encode(const struct repl_replica_state *state, uint64_t generation,
                               uint8_t slot[REPL_SLOT_SIZE])
{
    struct repl_writer w = slot_open(slot, SLOT_REPLICA, generation);
    repl_write_uuid(&w, &state->volume);
    slot_head_encode(&w, &state->reached);
    repl_write_u32(&w, state->applying);
    repl_write_u64(&w, state->size);
    repl_write_u64(&w, state->target); /* zeros before there was such a field */
    slot_close(&w);
}

repl_result repl_replica_state_decode(const uint8_t file[REPL_SLOT_FILE],
                                      struct repl_replica_state *out, uint64_t *generation,
                                      struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_replica_state){0};
    REPL_TRY(slot_enter(file, SLOT_REPLICA, "replica state", &r, generation, err));
    repl_read_uuid(&r, &out->volume);
    slot_head_decode(&r, &out->reached);
    uint32_t applying = repl_read_u32(&r);
    out->applying = applying == 1;
    if (applying > 1)
        r.failed = true;
    out->size = repl_read_u64(&r);
    out->target = repl_read_u64(&r);
    return slot_leave(&r, "replica state", err);
}
