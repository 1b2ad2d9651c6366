/*
 * What stands in for damaged frames of a segment: the same bytes, compressed
 * otherwise than they were, so that the file cannot be made what was committed. A
 * merge that reads the segment takes them in the place of what lies there.
 */
#ifndef REPL_AGENT_SITE_PATCH_H
#define REPL_AGENT_SITE_PATCH_H

#include "base/cursor.h"
#include "base/limits.h"
#include "segment/segment_reader.h"
#include "store/store.h"

struct site_patch_frame {
    uint32_t index;
    struct repl_frame_entry entry; /* offset: none */
    struct repl_buffer stored;
};

struct site_patch {
    struct site_patch *next;
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id id;
    struct site_patch_frame *frames; /* by index */
    size_t count;
};

/* Of so many frames, which the caller fills; NULL: no memory. */
struct site_patch *site_patch_new(const char *volume, const struct repl_segment_id *id,
                                  size_t count);
/* NULL: no memory, or of NULL. */
struct site_patch *site_patch_copy(const struct site_patch *patch);
/* Without next. NULL does nothing. */
void site_patch_free(struct site_patch *patch);

/* Puts the frames behind the end of the file, in what is known of the segment: its read_at, which
 * is the caller's, passes on to site_patch_read_at what is behind there. */
void site_patch_apply(const struct site_patch *patch, uint64_t file_size,
                      struct repl_segment *segment);
REPL_RESULT site_patch_read_at(const struct site_patch *patch, uint64_t file_size, uint64_t offset,
                               void *out, size_t size, struct repl_error *err);

#endif
