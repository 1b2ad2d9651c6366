#include "segment/segment_relink.h"

#include "base/ensure.h"
#include "base/hash.h"
#include "format/segment_format.h"

struct relink {
    const struct repl_segment *segment;
    struct repl_segment_header header;
    repl_sink_fn *sink;
    void *sink_context;
    struct repl_sha256 *before, *after; /* of the whole, as it was and as it will be */
    struct repl_buffer piece;
};

static repl_result pass(struct relink *r, const void *data, size_t size, struct repl_error *err)
{
    repl_sha256_update(r->after, data, size);
    return r->sink(r->sink_context, data, size, err);
}

static repl_result header_replace(struct relink *r, struct repl_error *err)
{
    const struct repl_segment *s = r->segment;
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    REPL_TRY(s->read_at(s->context, 0, bytes, sizeof bytes, err));
    repl_sha256_update(r->before, bytes, sizeof bytes);
    repl_segment_header_encode(&r->header, bytes);
    return pass(r, bytes, sizeof bytes, err);
}

static repl_result body_copy(struct relink *r, struct repl_error *err)
{
    const struct repl_segment *s = r->segment;
    uint64_t end = s->footer.file_size - REPL_SEGMENT_FOOTER_SIZE;
    for (uint64_t at = REPL_SEGMENT_HEADER_SIZE; at < end;) {
        size_t size = end - at < r->piece.size ? (size_t)(end - at) : r->piece.size;
        REPL_TRY(s->read_at(s->context, at, r->piece.data, size, err));
        repl_sha256_update(r->before, r->piece.data, size);
        REPL_TRY(pass(r, r->piece.data, size, err));
        at += size;
    }
    return REPL_SUCCESS;
}

static repl_result footer_replace(struct relink *r, struct repl_segment_footer *footer,
                                  struct repl_error *err)
{
    uint8_t bytes[REPL_SEGMENT_FOOTER_SIZE];
    size_t hashed = sizeof bytes - REPL_SEGMENT_DIGEST_TAIL;
    struct repl_digest digest;
    *footer = r->segment->footer;
    repl_segment_footer_encode(footer, bytes);
    repl_sha256_update(r->before, bytes, hashed);
    repl_sha256_end(r->before, &digest);
    if (!repl_digest_equal(&digest, &footer->digest))
        return repl_fail(err, REPL_E_CORRUPT, "the digest of the whole does not match");
    repl_sha256_update(r->after, bytes, hashed);
    repl_sha256_end(r->after, &footer->digest);
    repl_segment_footer_seal(&footer->digest, bytes);
    return r->sink(r->sink_context, bytes, sizeof bytes, err);
}

static repl_result relink(struct relink *r, struct repl_segment_footer *footer,
                          struct repl_error *err)
{
    REPL_TRY(repl_sha256_new(&r->before, err));
    REPL_TRY(repl_sha256_new(&r->after, err));
    if (repl_buffer_extend(&r->piece, REPL_FRAME_RAW_MAX) == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for copying a segment");
    repl_sha256_begin(r->before);
    repl_sha256_begin(r->after);
    REPL_TRY(header_replace(r, err));
    REPL_TRY(body_copy(r, err));
    return footer_replace(r, footer, err);
}

repl_result repl_segment_relink(const struct repl_segment *segment, const struct repl_digest *prev,
                                uint32_t part, repl_sink_fn *sink, void *sink_context,
                                struct repl_segment_footer *footer, struct repl_error *err)
{
    ensure(segment->header.kind == REPL_SEGMENT_CHANGES);
    struct relink r = {
        .segment = segment, .header = segment->header, .sink = sink, .sink_context = sink_context};
    r.header.prev = *prev;
    r.header.part = part;
    repl_result result = relink(&r, footer, err);
    repl_sha256_free(r.before);
    repl_sha256_free(r.after);
    repl_buffer_fini(&r.piece);
    return repl_forward(result, err, "segment %llu.%u", (unsigned long long)segment->header.to_seq,
                        segment->header.part);
}
