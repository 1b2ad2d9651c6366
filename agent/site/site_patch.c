#include "site/site_patch.h"

#include <stdlib.h>
#include <string.h>

struct site_patch *site_patch_new(const char *volume, const struct repl_segment_id *id,
                                  size_t count)
{
    struct site_patch *patch = calloc(1, sizeof *patch);
    if (patch == NULL)
        return NULL;
    patch->id = *id;
    memcpy(patch->volume, volume, strlen(volume) + 1);
    patch->count = count;
    patch->frames = calloc(count, sizeof *patch->frames);
    if (patch->frames != NULL)
        return patch;
    free(patch);
    return NULL;
}

struct site_patch *site_patch_copy(const struct site_patch *from)
{
    struct site_patch *patch =
        from != NULL ? site_patch_new(from->volume, &from->id, from->count) : NULL;
    bool whole = patch != NULL;
    for (size_t i = 0; whole && i < patch->count; i++) {
        const struct site_patch_frame *frame = &from->frames[i];
        patch->frames[i] = (struct site_patch_frame){.index = frame->index, .entry = frame->entry};
        whole = repl_ok(repl_buffer_append(&patch->frames[i].stored, frame->stored.data,
                                           frame->stored.size, NULL));
    }
    if (whole)
        return patch;
    site_patch_free(patch);
    return NULL;
}

void site_patch_free(struct site_patch *patch)
{
    if (patch == NULL)
        return;
    for (size_t i = 0; i < patch->count; i++)
        repl_buffer_fini(&patch->frames[i].stored);
    free(patch->frames);
    free(patch);
}

void site_patch_apply(const struct site_patch *patch, uint64_t file_size,
                      struct repl_segment *segment)
{
    uint64_t offset = file_size;
    for (size_t i = 0; i < patch->count; i++) {
        const struct site_patch_frame *frame = &patch->frames[i];
        if (frame->index >= segment->footer.frame_count)
            continue;
        segment->frames[frame->index] = frame->entry;
        segment->frames[frame->index].offset = offset;
        offset += frame->stored.size;
    }
}

repl_result site_patch_read_at(const struct site_patch *patch, uint64_t file_size, uint64_t offset,
                               void *out, size_t size, struct repl_error *err)
{
    uint64_t at = file_size;
    for (size_t i = 0; i < patch->count; i++) {
        const struct repl_buffer *stored = &patch->frames[i].stored;
        if (offset >= at && offset - at <= stored->size && size <= stored->size - (offset - at)) {
            memcpy(out, stored->data + (offset - at), size);
            return REPL_SUCCESS;
        }
        at += stored->size;
    }
    return repl_fail(err, REPL_E_CORRUPT, "there is nothing behind the end of a segment");
}
