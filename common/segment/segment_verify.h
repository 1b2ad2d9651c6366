/*
 * Verifies a segment: the digest of the whole, every record, every frame, and
 * that frames hold what records and chunks say they do (chunk names are computed
 * anew).
 *
 * repl_segment_verify does all of it. Who has several threads, or sees the bytes
 * come, takes it in pieces: the digest, the records, and the frames in any
 * number of ranges. Only all of them together verify a segment.
 */
#ifndef REPL_SEGMENT_VERIFY_H
#define REPL_SEGMENT_VERIFY_H

#include "base/hash.h"
#include "segment/segment_reader.h"

/* Reads every byte. */
REPL_RESULT repl_segment_verify(const struct repl_segment *segment, struct repl_frame_coder *coder,
                                struct repl_error *err);

/* --- the digest ------------------------------------------------------------------------------ */

/* The digest of a segment of which more and more is there. */
struct repl_segment_digest {
    struct repl_sha256 *sha;
    uint64_t hashed; /* bytes from the beginning */
};

REPL_RESULT repl_segment_digest_init(struct repl_segment_digest *digest, struct repl_error *err);
void repl_segment_digest_fini(struct repl_segment_digest *digest);
/* Another segment, or the same from its beginning. */
void repl_segment_digest_restart(struct repl_segment_digest *digest);
/* The first size bytes are there, not fewer than the last time, and will not change: reads those
 * that are new. */
REPL_RESULT repl_segment_digest_follow(struct repl_segment_digest *digest, repl_read_at_fn *read_at,
                                       void *context, uint64_t size, struct repl_error *err);
/* Takes in what is left of the segment and compares; digest is one of this segment's beginning.
 * Ends in a restart. */
REPL_RESULT repl_segment_verify_digest(const struct repl_segment *segment,
                                       struct repl_segment_digest *digest, struct repl_error *err);

/* --- records and frames ---------------------------------------------------------------------- */

REPL_RESULT repl_segment_verify_records(const struct repl_segment *segment,
                                        struct repl_frame_coder *coder, struct repl_error *err);

/* A segment's chunks in the order of their frames. Immutable, may be shared between threads; the
 * segment outlives it. */
struct repl_frame_verifier {
    const struct repl_segment *segment;
    struct repl_chunk_entry *chunks;
};

REPL_RESULT repl_frame_verifier_init(struct repl_frame_verifier *verifier,
                                     const struct repl_segment *segment, struct repl_error *err);
void repl_frame_verifier_fini(struct repl_frame_verifier *verifier);
/* The frames from first up to end, which is at most the segment's count of them. The coder is the
 * caller's alone. */
REPL_RESULT repl_frame_verifier_run(const struct repl_frame_verifier *verifier, uint32_t first,
                                    uint32_t end, struct repl_frame_coder *coder,
                                    struct repl_error *err);

#endif
