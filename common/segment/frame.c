#include "segment/frame.h"

#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "base/ensure.h"
#include "base/hash.h"

/* Compression that saves less than one part in this many costs every reader a decode for nothing.
 */
#define WORTH_DIVISOR 32

struct repl_frame_coder {
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
    int level;
    uint8_t scratch[REPL_FRAME_RAW_MAX];
};

repl_result repl_frame_coder_new(struct repl_frame_coder **out, struct repl_error *err)
{
    struct repl_frame_coder *coder = malloc(sizeof *coder);
    if (coder != NULL) {
        coder->compress = ZSTD_createCCtx();
        coder->decompress = ZSTD_createDCtx();
        coder->level = REPL_FRAME_ZSTD_LEVEL;
        if (coder->compress != NULL && coder->decompress != NULL) {
            *out = coder;
            return REPL_SUCCESS;
        }
        repl_frame_coder_free(coder);
    }
    return repl_fail(err, REPL_E_NOMEM, "out of memory for a zstd context");
}

void repl_frame_coder_free(struct repl_frame_coder *coder)
{
    if (coder == NULL)
        return;
    ZSTD_freeCCtx(coder->compress);
    ZSTD_freeDCtx(coder->decompress);
    free(coder);
}

void repl_frame_coder_level(struct repl_frame_coder *coder, unsigned level)
{
    ensure(level >= 1 && level <= REPL_FRAME_LEVEL_MAX);
    coder->level = (int)level;
}

static repl_result prove_decodes(struct repl_frame_coder *coder, const void *raw, size_t raw_size,
                                 const void *stored, size_t stored_size, struct repl_error *err)
{
    size_t size =
        ZSTD_decompressDCtx(coder->decompress, coder->scratch, raw_size, stored, stored_size);
    if (ZSTD_isError(size) || size != raw_size || memcmp(coder->scratch, raw, raw_size) != 0)
        return repl_fail(err, REPL_E_INTERNAL,
                         "a frame did not decode to what was encoded (%s); memory or processor "
                         "may be faulty: test them",
                         ZSTD_isError(size) ? ZSTD_getErrorName(size) : "other bytes");
    return REPL_SUCCESS;
}

repl_result repl_frame_encode(struct repl_frame_coder *coder, const void *raw, size_t raw_size,
                              struct repl_buffer *stored, struct repl_frame_entry *entry,
                              struct repl_error *err)
{
    ensure(raw_size > 0 && raw_size <= REPL_FRAME_RAW_MAX);
    *entry = (struct repl_frame_entry){.raw_size = (uint32_t)raw_size,
                                       .raw_xxh3 = repl_xxh3(raw, raw_size)};
    size_t before = stored->size;
    size_t most = raw_size - raw_size / WORTH_DIVISOR - 1;
    uint8_t *room = repl_buffer_extend(stored, raw_size);
    if (room == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a frame");
    /* With room for less than the raw size zstd gives up by itself where it does not pay. */
    size_t size = ZSTD_compressCCtx(coder->compress, room, most, raw, raw_size, coder->level);
    if (ZSTD_isError(size)) {
        memcpy(room, raw, raw_size);
        entry->codec = REPL_CODEC_STORED;
        entry->stored_size = (uint32_t)raw_size;
        return REPL_SUCCESS;
    }
    entry->codec = REPL_CODEC_ZSTD;
    entry->stored_size = (uint32_t)size;
    stored->size = before + size;
    return prove_decodes(coder, raw, raw_size, room, size, err);
}

/* One zstd frame of today's format that says its size, and nothing behind it. The library would
 * also take skippable frames, several in a row, and formats of old that nobody fuzzes any more:
 * the same bytes must mean the same to every decoder of segments. */
static bool is_one_zstd_frame(const struct repl_frame_entry *entry, const uint8_t *stored)
{
    static const uint8_t magic[4] = {0x28, 0xb5, 0x2f, 0xfd};
    return entry->stored_size > sizeof magic && memcmp(stored, magic, sizeof magic) == 0 &&
           ZSTD_findFrameCompressedSize(stored, entry->stored_size) == entry->stored_size &&
           ZSTD_getFrameContentSize(stored, entry->stored_size) == entry->raw_size;
}

repl_result repl_frame_decode(struct repl_frame_coder *coder, const struct repl_frame_entry *entry,
                              const void *stored, void *raw, struct repl_error *err)
{
    if (entry->codec == REPL_CODEC_STORED) {
        memcpy(raw, stored, entry->raw_size);
    } else {
        if (!is_one_zstd_frame(entry, stored))
            return repl_fail(err, REPL_E_CORRUPT, "frame at %llu is not one zstd frame of %u bytes",
                             (unsigned long long)entry->offset, entry->raw_size);
        size_t size = ZSTD_decompressDCtx(coder->decompress, raw, entry->raw_size, stored,
                                          entry->stored_size);
        if (ZSTD_isError(size) || size != entry->raw_size)
            return repl_fail(err, REPL_E_CORRUPT, "frame at %llu does not decompress: %s",
                             (unsigned long long)entry->offset, ZSTD_getErrorName(size));
    }
    if (repl_xxh3(raw, entry->raw_size) != entry->raw_xxh3)
        return repl_fail(err, REPL_E_CORRUPT, "frame at %llu: checksum does not match",
                         (unsigned long long)entry->offset);
    return REPL_SUCCESS;
}
