#include "segment/segment_references.h"

#include "base/hash.h"

static repl_result names_gather(const struct repl_segment *segment, struct repl_frame_coder *coder,
                                struct repl_buffer *names, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_digest last = {0};
    bool done = false;
    repl_record_walk_begin(&walk, segment, coder);
    repl_result result = REPL_SUCCESS;
    while (repl_ok(result) && !done) {
        struct repl_record record = {0};
        result = repl_record_walk_next(&walk, &record, &done, err);
        /* extents of one chunk stand together */
        if (!repl_ok(result) || done || record.type != REPL_RECORD_CHUNK ||
            repl_digest_equal(&record.chunk, &last))
            continue;
        last = record.chunk;
        result = repl_buffer_append(names, &last, sizeof last, err);
    }
    repl_record_walk_end(&walk);
    return result;
}

repl_result repl_segment_references(const struct repl_segment *segment,
                                    struct repl_frame_coder *coder, struct repl_digest **names,
                                    uint32_t *count, struct repl_error *err)
{
    struct repl_buffer gathered = {0};
    repl_result result = names_gather(segment, coder, &gathered, err);
    *names = NULL;
    *count = 0;
    if (!repl_ok(result)) {
        repl_buffer_fini(&gathered);
        return result;
    }
    *names = (struct repl_digest *)(void *)gathered.data;
    *count = (uint32_t)repl_digests_unique(*names, gathered.size / sizeof **names);
    return REPL_SUCCESS;
}
