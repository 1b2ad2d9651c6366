/*
 * A store directory made by hand, beside a model of what the volume held at
 * each point: for the tests of agent/recover.
 */
#ifndef TESTS_UNIT_STORE_MODEL_H
#define TESTS_UNIT_STORE_MODEL_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/log_record.h"
#include "store/store.h"
#include "unit/damage.h"
#include "unit/random.h"
#include "unit/segment/segment_fixture.h"
#include "unit/temporary.h"

#define MODEL_VOLUME "data"
#ifndef MODEL_SIZE
#define MODEL_SIZE (UINT64_C(6) * 1024 * 1024 + 8192 + 512) /* ends within a page */
#endif
#define MODEL_POINTS_MAX 16
#define MODEL_BASE_NS    (INT64_C(1777889820) * 1000000000) /* 2026-05-04T10:17:00Z */
#ifndef MODEL_STEP_NS
#define MODEL_STEP_NS (INT64_C(10) * 1000000000) /* from point to point */
#endif

struct store_model {
    struct temporary temporary;
    char path[300]; /* of the store */
    const char *volume;
    struct repl_store *store;
    bool beside;  /* the store is another model's */
    bool forgets; /* what the volume held at each point is not kept: there are many */
    /* what the next point looks like, as the site would say; taken by model_end */
    enum repl_trouble_kind trouble;
    uint64_t trouble_before_seq;
    struct repl_frame_coder *coder;
    struct random random;
    struct repl_uuid uuid;
    enum repl_volume_kind kind;
    uint64_t log_end, record_number;
    struct repl_digest prev;
    uint64_t size; /* of the volume */
    uint64_t slot; /* when the next point is cut; 0: by its number */
    uint16_t point_flags;
    uint8_t *now;
    uint8_t *points[MODEL_POINTS_MAX]; /* by seq */
    /* the segment that is being built */
    struct repl_segment_header header;
    struct repl_segment_builder *builder;
    char staged[400];
    int fd;
    struct repl_error err;
};

#define model_ensure(m, call)                                                                      \
    do {                                                                                           \
        if (!repl_ok(call))                                                                        \
            fprintf(stderr, "%s: %s\n", #call, (m)->err.text), abort();                            \
    } while (0)

static inline void model_log(struct store_model *m, struct repl_log_record *record)
{
    uint8_t bytes[REPL_LOG_RECORD_SIZE_MAX];
    size_t size;
    record->number = ++m->record_number;
    repl_log_record_encode(record, bytes, &size);
    model_ensure(m,
                 m->store->ops->log_append(m->store, m->volume, m->log_end, bytes, size, &m->err));
    m->log_end += size;
}

static inline int64_t model_end_ns(uint64_t seq)
{
    return MODEL_BASE_NS + (int64_t)seq * MODEL_STEP_NS;
}

static inline void model_begin_history(struct store_model *m, const char *volume)
{
    m->kind = REPL_VOLUME_BLOCK;
    m->volume = volume;
    m->size = MODEL_SIZE;
    m->random = random_begin("store_model", 7 + (uint64_t)strlen(volume));
    random_fill(&m->random, m->uuid.bytes, sizeof m->uuid.bytes);
    m->now = calloc(1, MODEL_SIZE);
    ensure(m->now != NULL);
    model_ensure(m, repl_frame_coder_new(&m->coder, &m->err));
    model_ensure(m, m->store->ops->volume_create(m->store, volume, &m->err));
    struct repl_log_record create = {.type = REPL_LOG_CREATE, .time_ns = MODEL_BASE_NS};
    strcpy(create.create.name, volume);
    create.create.volume = m->uuid;
    create.create.kind = REPL_VOLUME_BLOCK;
    create.create.lineage = 1;
    model_log(m, &create);
}

static inline void model_init(struct store_model *m)
{
    memset(m, 0, sizeof *m);
    ensure(temporary_make(&m->temporary) == 0);
    snprintf(m->path, sizeof m->path, "%s/store", m->temporary.path);
    model_ensure(m, repl_posix_store_open(m->path, true, true, &m->store, &m->err));
    model_begin_history(m, MODEL_VOLUME);
}

/* Another volume in the store of a model that is there for longer. */
static inline void model_init_beside(struct store_model *m, const struct store_model *other,
                                     const char *volume)
{
    memset(m, 0, sizeof *m);
    snprintf(m->path, sizeof m->path, "%s", other->path);
    m->store = other->store;
    m->beside = true;
    model_begin_history(m, volume);
}

/* The volume shares its chunks. */
static inline void model_pool(struct store_model *m, const char *name)
{
    struct repl_log_record pool = {.type = REPL_LOG_POOL, .time_ns = MODEL_BASE_NS};
    snprintf(pool.pool.name, sizeof pool.pool.name, "%s", name);
    model_log(m, &pool);
}

static inline repl_result model_origin_open(const char *path, const char *volume,
                                            struct repl_origin **out, struct repl_error *err)
{
    const struct repl_store_options options = {.location = path};
    return repl_origin_open_store(&options, volume, out, err);
}

static inline void model_fini(struct store_model *m)
{
    repl_segment_builder_free(m->builder);
    for (size_t i = 0; i < MODEL_POINTS_MAX; i++)
        free(m->points[i]);
    free(m->now);
    repl_frame_coder_free(m->coder);
    if (m->beside)
        return;
    if (m->store != NULL)
        m->store->ops->close(m->store);
    temporary_remove(&m->temporary);
}

/* --- building a segment ---------------------------------------------------------------------- */

static inline repl_result model_sink(void *context, const void *data, size_t size,
                                     struct repl_error *err)
{
    struct store_model *m = context;
    if (write(m->fd, data, size) != (ssize_t)size)
        return repl_fail(err, REPL_E_IO, "write");
    return REPL_SUCCESS;
}

static inline void model_file_begin(struct store_model *m)
{
    char directory[350];
    model_ensure(m, repl_store_staging(m->store, m->volume, directory, sizeof directory, &m->err));
    snprintf(m->staged, sizeof m->staged, "%s/upload", directory);
    m->fd = open(m->staged, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ensure(m->fd >= 0);
}

static inline void model_begin(struct store_model *m, uint64_t from, uint64_t to, uint32_t part)
{
    m->header = (struct repl_segment_header){
        .version = REPL_SEGMENT_VERSION,
        .kind = REPL_SEGMENT_CHANGES,
        .volume_kind = m->kind,
        .features = REPL_FEATURE_PAGES | (m->kind == REPL_VOLUME_TREE ? REPL_FEATURE_TREE : 0),
        .volume = m->uuid,
        .lineage = 1,
        .from_seq = from,
        .to_seq = to,
        .part = part,
        .created_ns = model_end_ns(to),
        .prev = m->prev};
    model_file_begin(m);
    model_ensure(
        m, repl_segment_builder_new(&m->header, m->size, model_sink, m, &m->builder, &m->err));
}

static inline void model_extent(struct store_model *m, struct repl_extent extent)
{
    model_ensure(m, repl_segment_builder_extent(m->builder, &extent, &m->err));
}

/* What the volume holds there now, in one frame. */
static inline uint32_t model_frame(struct store_model *m, uint64_t offset, size_t size)
{
    uint32_t frame = add_frame(m->builder, m->coder, m->now + offset, size);
    model_extent(m,
                 (struct repl_extent){
                     .offset = offset, .length = size, .source = frame, .type = REPL_RECORD_DATA});
    return frame;
}

/* New bytes: random ones, compressible where the offset is odd in MiB. */
static inline uint32_t model_data(struct store_model *m, uint64_t offset, size_t size)
{
    bool compressible = (offset >> 20) % 2 == 1;
    random_fill(&m->random, m->now + offset, compressible ? size / 16 : size);
    return model_frame(m, offset, size);
}

/* Lists a whole chunk, which a frame begins with, under its name. */
static inline struct repl_digest model_list(struct store_model *m, const uint8_t *bytes,
                                            uint32_t frame)
{
    struct repl_chunk_entry entry = {.name = chunk_name_of(bytes), .frame = frame};
    model_ensure(m, repl_segment_builder_chunk(m->builder, &entry, &m->err));
    return entry.name;
}

/* A whole chunk of new bytes, listed. */
static inline struct repl_digest model_chunk(struct store_model *m, uint64_t offset)
{
    uint32_t frame = model_data(m, offset, REPL_CHUNK_SIZE);
    return model_list(m, m->now + offset, frame);
}

/* The bytes of a chunk that is elsewhere. */
static inline void model_refer(struct store_model *m, uint64_t offset,
                               const struct repl_digest *name, const uint8_t *bytes)
{
    uint64_t source;
    memcpy(m->now + offset, bytes, REPL_CHUNK_SIZE);
    model_ensure(m, repl_segment_builder_reference(m->builder, name, &source, &m->err));
    model_extent(m, (struct repl_extent){.offset = offset,
                                         .length = REPL_CHUNK_SIZE,
                                         .source = source,
                                         .type = REPL_RECORD_CHUNK});
}

static inline void model_zero(struct store_model *m, uint64_t offset, uint64_t size)
{
    memset(m->now + offset, 0, size);
    model_extent(m,
                 (struct repl_extent){.offset = offset, .length = size, .type = REPL_RECORD_ZERO});
}

static inline struct repl_point model_point(const struct store_model *m)
{
    int64_t end_ns = model_end_ns(m->slot != 0 ? m->slot : m->header.to_seq);
    return (struct repl_point){.seq = m->header.to_seq,
                               .flags = m->point_flags,
                               .begin_ns = end_ns - 1000000,
                               .end_ns = end_ns,
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_WINDOW,
                               .attempts = 1};
}

static inline void model_publish(struct store_model *m, const struct repl_segment_id *id)
{
    repl_segment_builder_free(m->builder);
    m->builder = NULL;
    ensure(fsync(m->fd) == 0);
    model_ensure(
        m, m->store->ops->segment_publish(m->store, m->volume, id, m->fd, m->staged, &m->err));
    close(m->fd);
}

/* Publishes and commits it; with a point, the model remembers what the volume holds now. */
static inline void model_end(struct store_model *m, bool has_point)
{
    struct repl_segment_footer footer;
    struct repl_point point = model_point(m);
    model_ensure(
        m, repl_segment_builder_finish(m->builder, &point, has_point ? 1 : 0, &footer, &m->err));
    model_publish(m, &(struct repl_segment_id){.to_seq = m->header.to_seq, .part = m->header.part});
    struct repl_log_record commit = {.type = REPL_LOG_COMMIT,
                                     .time_ns = point.end_ns + 500000000,
                                     .commit = {.from_seq = m->header.from_seq,
                                                .to_seq = m->header.to_seq,
                                                .part = m->header.part,
                                                .lineage = 1,
                                                .file_size = footer.file_size,
                                                .volume_size = m->size,
                                                .digest = footer.digest,
                                                .has_point = has_point}};
    if (has_point)
        commit.commit.point = point;
    /* not what has changed, but easily added up */
    commit.commit.churn =
        (struct repl_churn){.known = true,
                            .changed_bytes = m->header.to_seq - m->header.from_seq,
                            .trouble = m->trouble,
                            .trouble_before_seq = m->trouble_before_seq};
    m->trouble = REPL_TROUBLE_NONE;
    m->trouble_before_seq = 0;
    model_log(m, &commit);
    m->prev = footer.digest;
    if (!has_point || m->forgets)
        return;
    uint64_t seq = m->header.to_seq;
    ensure(seq < MODEL_POINTS_MAX);
    free(m->points[seq]);
    m->points[seq] = malloc(MODEL_SIZE);
    ensure(m->points[seq] != NULL);
    memcpy(m->points[seq], m->now, MODEL_SIZE);
}

/* A supply with one chunk that no segment carries. */
static inline struct repl_digest model_supply(struct store_model *m, uint64_t to,
                                              const uint8_t *bytes)
{
    struct repl_segment_footer footer;
    m->header = (struct repl_segment_header){.version = REPL_SEGMENT_VERSION,
                                             .kind = REPL_SEGMENT_SUPPLY,
                                             .volume_kind = REPL_VOLUME_BLOCK,
                                             .volume = m->uuid,
                                             .lineage = 1,
                                             .from_seq = to - 1,
                                             .to_seq = to,
                                             .created_ns = model_end_ns(to)};
    model_file_begin(m);
    model_ensure(m, repl_segment_builder_new(&m->header, 0, model_sink, m, &m->builder, &m->err));
    uint32_t frame = add_frame(m->builder, m->coder, bytes, REPL_CHUNK_SIZE);
    struct repl_digest name = model_list(m, bytes, frame);
    model_ensure(m, repl_segment_builder_finish(m->builder, NULL, 0, &footer, &m->err));
    model_publish(m, &(struct repl_segment_id){.to_seq = to, .supply = 1});
    return name;
}

/* --- a history with everything in it --------------------------------------------------------- */

#define MODEL_LAST 4u /* the last point */
#define MODEL_MIB  (UINT64_C(1) << 20)

/*
 * 1: a full in two parts, with a hole of 2 MiB; 2: pages, zeros, and a chunk of the full again;
 * 3: a chunk of a supply; 4: a full again, which refers to the chunk of the first.
 */
static inline void model_fill(struct store_model *m)
{
    static uint8_t chunk[REPL_CHUNK_SIZE], supplied[REPL_CHUNK_SIZE];
    model_begin(m, 0, 1, 0);
    model_data(m, 0, MODEL_MIB);
    model_data(m, MODEL_MIB, 5 * REPL_CHUNK_SIZE);
    struct repl_digest name = model_chunk(m, MODEL_MIB + 5 * REPL_CHUNK_SIZE);
    memcpy(chunk, m->now + MODEL_MIB + 5 * REPL_CHUNK_SIZE, sizeof chunk);
    model_end(m, false);
    model_begin(m, 0, 1, 1);
    model_zero(m, MODEL_MIB + 6 * REPL_CHUNK_SIZE, 3 * MODEL_MIB - 6 * REPL_CHUNK_SIZE);
    model_data(m, 4 * MODEL_MIB, MODEL_MIB);
    model_data(m, 5 * MODEL_MIB, MODEL_MIB);
    model_data(m, 6 * MODEL_MIB, 8192 + 512);
    model_end(m, true);

    model_begin(m, 1, 2, 0);
    model_data(m, 3 * REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    model_data(m, 3 * MODEL_MIB - REPL_PAGE_SIZE, 2 * REPL_PAGE_SIZE);
    model_zero(m, 4 * MODEL_MIB, MODEL_MIB);
    model_refer(m, 5 * MODEL_MIB, &name, chunk);
    model_end(m, true);

    random_fill(&m->random, supplied, sizeof supplied);
    struct repl_digest other = model_supply(m, 3, supplied);
    model_begin(m, 2, 3, 0);
    model_refer(m, 2 * MODEL_MIB, &other, supplied);
    model_data(m, 6 * MODEL_MIB + 8192, 512);
    model_end(m, true);
    struct repl_log_record idle = {.type = REPL_LOG_IDLE,
                                   .time_ns = model_end_ns(3) + 4000000000,
                                   .idle = {.seq = 3, .until_ns = model_end_ns(3) + 3000000000}};
    model_log(m, &idle);
    struct repl_log_record state = {.type = REPL_LOG_STATE,
                                    .time_ns = model_end_ns(3) + 5000000000,
                                    .state = {.state = REPL_STATE_DEGRADED, .cause = "test"}};
    model_log(m, &state);

    model_begin(m, 0, 4, 0);
    model_refer(m, 0, &name, chunk);
    model_zero(m, REPL_CHUNK_SIZE, 6 * MODEL_MIB - REPL_CHUNK_SIZE);
    model_data(m, 6 * MODEL_MIB, 8192 + 512);
    model_end(m, true);
}

static inline void model_segment_path(const struct store_model *m, uint64_t to, uint32_t part,
                                      char path[400])
{
    snprintf(path, 400, "%s/volumes/%s/segments/%020llu.%06u.seg", m->path, m->volume,
             (unsigned long long)to, part);
}

#endif
