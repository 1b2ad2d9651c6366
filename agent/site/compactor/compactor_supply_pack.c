/*
 * A supply of which SHARE is needed by nothing any more: what is needed goes into
 * another supply to the same segment. So one is at most 1.2 times what is needed of it,
 * and what died within a day; one chunk that stays does not keep half a gigabyte.
 *
 *   on the thread: the chunks are read, found to be what their names say, written to a
 *       staged file, which is synced and verified
 *   in the volume's turn: it gets the next number that is free, durably, and its chunks
 *       their places in it
 *
 * Then nothing needs the first one, which goes as every supply does. After a crash in
 * between both are there, and the index names one of them.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "block/read_full.h"
#include "segment/segment_builder.h"
#include "segment/segment_verify.h"
#include "site/compactor/compactor_internal.h"
#include "store/chunk_reader.h"
#include "store/segment_name.h"

#define SHARE        6u
#define FRAME_CHUNKS (REPL_FRAME_RAW_MAX / REPL_CHUNK_SIZE)

bool compactor_pack_is_due(const struct compactor_supply *s)
{
    uint32_t dead = s->chunk_count - s->needed_count;
    return !s->closed && s->needed_count > 0 && dead > 0 && dead >= s->chunk_count / SHARE;
}

void compactor_pack_fini(struct compactor_pack *pack)
{
    if (pack->fd_open) {
        close(pack->fd);
        unlink(pack->path); /* published, it has another name by now */
    }
    free(pack->chunks);
    *pack = (struct compactor_pack){0};
}

/* --- the staged file ------------------------------------------------------------------------- */

/* What is being written. */
struct packing {
    struct compactor_supply *supply;
    const atomic_bool *stop;
    struct site_pacer pacer;
    struct repl_segment_builder *builder;
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    struct repl_chunk_reader *reader;
    struct repl_placed_chunk *placed;
    struct repl_digest *names;
    uint8_t *raw; /* of the next frame, */
    struct repl_digest raw_names[FRAME_CHUNKS];
    uint32_t raw_count; /* so many chunks */
    struct repl_buffer stored;
};

static repl_result file_fail(const struct compactor_pack *pack, const char *what,
                             struct repl_error *err)
{
    bool full = errno == ENOSPC || errno == EDQUOT;
    return repl_fail_errno(err, full ? REPL_E_NOSPACE : REPL_E_IO, errno, "cannot %s %s", what,
                           pack->path);
}

static repl_result file_open(struct compactor_supply *s, struct repl_error *err)
{
    struct compactor_pack *pack = &s->pack;
    char directory[PATH_MAX];
    REPL_TRY(repl_store_staging(s->volume->site->store, s->volume->name, directory,
                                sizeof directory, err));
    int size = snprintf(pack->path, sizeof pack->path, "%s/supply.pack", directory);
    if (size < 0 || (size_t)size >= sizeof pack->path)
        return repl_fail(err, REPL_E_USAGE, "the path of the store is too long: move it");
    if (unlink(pack->path) != 0 && errno != ENOENT)
        return file_fail(pack, "remove", err);
    pack->fd = open(pack->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    pack->fd_open = pack->fd >= 0;
    return pack->fd_open ? REPL_SUCCESS : file_fail(pack, "make", err);
}

static repl_result file_put(void *context, const void *data, size_t size, struct repl_error *err)
{
    struct packing *p = context;
    struct compactor_pack *pack = &p->supply->pack;
    if (atomic_load(p->stop))
        return repl_fail(err, REPL_E_RETRY, "the site is being stopped");
    if (!repl_write_full(pack->fd, data, size, pack->size))
        return file_fail(pack, "write", err);
    pack->size += size;
    site_pacer_spend(&p->pacer, size);
    return REPL_SUCCESS;
}

static repl_result frame_flush(struct packing *p, struct repl_error *err)
{
    struct repl_frame_entry entry;
    struct repl_chunk_entry chunk = {0};
    struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
    if (p->raw_count == 0)
        return REPL_SUCCESS;
    p->stored.size = 0;
    REPL_TRY(repl_frame_encode(p->coder, p->raw, (size_t)p->raw_count * REPL_CHUNK_SIZE, &p->stored,
                               &entry, err));
    repl_page_digests(p->sha, p->raw, entry.raw_size, pages);
    REPL_TRY(
        repl_segment_builder_frame(p->builder, &entry, p->stored.data, pages, &chunk.frame, err));
    for (uint32_t i = 0; i < p->raw_count; i++) {
        chunk.name = p->raw_names[i];
        chunk.frame_offset = i * REPL_CHUNK_SIZE;
        REPL_TRY(repl_segment_builder_chunk(p->builder, &chunk, err));
    }
    p->raw_count = 0;
    return REPL_SUCCESS;
}

static repl_result chunk_put(void *context, uint32_t at, const void *bytes, struct repl_error *err)
{
    struct packing *p = context;
    memcpy(p->raw + (size_t)p->raw_count * REPL_CHUNK_SIZE, bytes, REPL_CHUNK_SIZE);
    p->raw_names[p->raw_count++] = p->names[at];
    return p->raw_count == FRAME_CHUNKS ? frame_flush(p, err) : REPL_SUCCESS;
}

static repl_result packing_begin(struct packing *p, struct repl_error *err)
{
    const struct compactor_supply *s = p->supply;
    p->placed = calloc(s->needed_count, sizeof *p->placed);
    p->names = calloc(s->needed_count, sizeof *p->names);
    p->raw = malloc(REPL_FRAME_RAW_MAX);
    if (p->placed == NULL || p->names == NULL || p->raw == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for %u chunks", s->needed_count);
    for (uint32_t i = 0; i < s->needed_count; i++) {
        p->names[i] = s->chunks[i].name;
        p->placed[i] = (struct repl_placed_chunk){.segment = s->id,
                                                  .frame = s->chunks[i].frame,
                                                  .frame_offset = s->chunks[i].frame_offset,
                                                  .at = i};
        memcpy(p->placed[i].volume, s->volume->name, sizeof p->placed[i].volume);
    }
    REPL_TRY(repl_frame_coder_new(&p->coder, err));
    REPL_TRY(repl_sha256_new(&p->sha, err));
    REPL_TRY(repl_chunk_reader_new(s->volume->site->store, &p->reader, err));
    return repl_segment_builder_new(&s->header, 0, file_put, p, &p->builder, err);
}

static repl_result packing_run(struct packing *p, struct repl_error *err)
{
    struct repl_segment_footer footer;
    REPL_TRY(packing_begin(p, err));
    REPL_TRY(repl_chunk_reader_read(p->reader, p->placed, p->supply->needed_count, p->names,
                                    chunk_put, p, err));
    REPL_TRY(frame_flush(p, err));
    return repl_segment_builder_finish(p->builder, NULL, 0, &footer, err);
}

static void packing_end(struct packing *p)
{
    repl_segment_builder_free(p->builder);
    repl_chunk_reader_free(p->reader);
    repl_frame_coder_free(p->coder);
    repl_sha256_free(p->sha);
    repl_buffer_fini(&p->stored);
    free(p->placed);
    free(p->names);
    free(p->raw);
}

/* As it lies there now, and what it lists. */
static repl_result file_verify(struct compactor_pack *pack, struct repl_error *err)
{
    struct repl_frame_coder *coder;
    struct repl_segment *segment;
    if (fsync(pack->fd) != 0)
        return file_fail(pack, "make durable", err);
    REPL_TRY(repl_segment_open(site_read_at, &pack->fd, pack->size, &segment, err));
    repl_result result = repl_frame_coder_new(&coder, err);
    if (repl_ok(result)) {
        result = repl_segment_verify(segment, coder, err);
        repl_frame_coder_free(coder);
    }
    pack->digest = segment->footer.digest;
    pack->chunks = segment->chunks;
    pack->chunk_count = segment->footer.chunk_count;
    segment->chunks = NULL;
    repl_segment_free(segment);
    return result;
}

static void make_work(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    const atomic_bool *stop = &s->volume->site->compactor->stop;
    struct packing p = {
        .supply = s, .stop = stop, .pacer = {.rate_bytes = s->pack.rate_bytes, .stop = stop}};
    s->result = file_open(s, &s->err);
    if (repl_ok(s->result))
        s->result = packing_run(&p, &s->err);
    packing_end(&p);
    if (repl_ok(s->result))
        s->result = file_verify(&s->pack, &s->err);
}

/* --- in the volume's turn -------------------------------------------------------------------- */

static repl_result publish(struct compactor_supply *s, struct repl_error *err)
{
    struct compactor_pack *pack = &s->pack;
    struct site_volume *v = s->volume;
    struct repl_store *store = v->site->store;
    bool stored = false; /* the same one, by a try of before */
    pack->id = (struct repl_segment_id){.to_seq = s->id.to_seq, .part = s->id.part, .supply = 1};
    REPL_TRY(site_supply_number(v, &pack->digest, &pack->id, &stored, err));
    if (!stored)
        REPL_TRY(store->ops->segment_publish(store, v->name, &pack->id, pack->fd, pack->path, err));
    pthread_mutex_lock(&v->site->index_lock);
    repl_result result = repl_index_add_chunks(v->site->index, v->name, &pack->id, pack->chunks,
                                               pack->chunk_count, err);
    pthread_mutex_unlock(&v->site->index_lock);
    return result;
}

static void publish_work(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    s->result = publish(s, &s->err);
}

static void publish_done(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    struct site_compactor *c = s->volume->site->compactor;
    struct site_volume *v = s->volume;
    char from[REPL_SEGMENT_ID_TEXT_SIZE], to[REPL_SEGMENT_ID_TEXT_SIZE];
    site_job_ended(v->site);
    v->site->index_dirty = true;
    if (repl_ok(s->result)) {
        repl_segment_id_text(&s->id, from);
        repl_segment_id_text(&s->pack.id, to);
        repl_log(LOG_INFO,
                 "volume %s: %u of %u chunks of supply %s are needed: they went into supply %s",
                 v->name, s->needed_count, s->chunk_count, from, to);
        site_supply_note(v, &s->pack.id);
    }
    compactor_supply_packed(c);
    v->busy = false;
    site_volume_pump(v);
    compactor_supplies_tick(c);
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void make_done(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    struct site_volume *v = s->volume;
    s->out = false;
    if (!repl_ok(s->result)) {
        compactor_supply_packed(v->site->compactor);
        return;
    }
    s->pack.ready = true;
    site_volume_pump(v);
}

void compactor_pack_begin(struct site_compactor *c)
{
    struct compactor_supply *s = &c->supply;
    s->out = true;
    s->pack.rate_bytes = c->site->config->merge_rate_bytes;
    s->job = (struct repl_job){.work = make_work, .done = make_done, .context = s};
    repl_pool_work(c->pool, &s->job);
}

void compactor_pack_publish(struct site_compactor *c)
{
    struct compactor_supply *s = &c->supply;
    s->job = (struct repl_job){.work = publish_work, .done = publish_done, .context = s};
    site_job_start(c->site, &s->job);
}
