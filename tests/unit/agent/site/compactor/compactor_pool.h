/*
 * Two volumes of a pool, one of which refers to chunks of the other: for the tests of the
 * compactor.
 */
#ifndef TESTS_UNIT_COMPACTOR_POOL_H
#define TESTS_UNIT_COMPACTOR_POOL_H

#include <stdatomic.h>

#include "unit/agent/site/compactor/compactor_world.h"

#define LISTED_SLOT 58u /* of chunks: where no increment of the fixture's writes */

static struct world b; /* the other volume, else; w writes data */
static int64_t second_ns;

/* --- a store that hangs ---------------------------------------------------------------------- */

static struct {
    const struct repl_store_ops *before;
    struct repl_store_ops ops;
    atomic_bool hangs;     /* who comes next, for as long as this is so, */
    atomic_bool is_inside; /* has come, */
    atomic_bool fails;     /* and fails then */
} hanging;

static inline bool hang(void)
{
    atomic_store(&hanging.is_inside, true);
    while (atomic_load(&hanging.hangs))
        usleep(1000);
    return atomic_load(&hanging.fails);
}

static inline repl_result append_hangs(struct repl_store *store, const char *volume, uint64_t end,
                                       const void *data, size_t size, struct repl_error *err)
{
    if (strcmp(volume, "data") == 0 && atomic_load(&hanging.hangs) && hang())
        return repl_fail(err, REPL_E_RETRY, "it has taken too long");
    return hanging.before->log_append(store, volume, end, data, size, err);
}

static inline repl_result remove_hangs(struct repl_store *store, const char *volume,
                                       const struct repl_segment_id *id, struct repl_error *err)
{
    if (strcmp(volume, "data") == 0 && atomic_load(&hanging.hangs) && hang())
        return repl_fail(err, REPL_E_RETRY, "it has taken too long");
    return hanging.before->segment_remove(store, volume, id, err);
}

/* Before anybody else uses it. */
static inline void store_hook(void)
{
    atomic_store(&hanging.hangs, false);
    hanging.ops = *(hanging.before = w.site->store->ops);
    hanging.ops.log_append = append_hangs;
    hanging.ops.segment_remove = remove_hangs;
    w.site->store->ops = &hanging.ops;
}

/* Of data's changes the next one hangs, and fails in the end or does not. */
static inline void store_hang(bool fails)
{
    atomic_store(&hanging.is_inside, false);
    atomic_store(&hanging.fails, fails);
    atomic_store(&hanging.hangs, true);
}

static inline void store_go_on(void)
{
    atomic_store(&hanging.hangs, false);
}

/* Both with a first point, an hour ago. */
static inline void pool_begin_in(const char *retention, bool in_bucket)
{
    struct build build;
    world_init(&w, NULL);
    if (in_bucket)
        world_in_bucket(&w);
    w.retention = retention;
    w.tenants[0] = w.tenants[1] = "acme";
    site_start(&w);
    store_hook();
    second_ns = (repl_now_wall_ns() / SECOND_NS - 3600) * SECOND_NS;
    w.time_ns = second_ns;
    seed(&w);
    point_keep();
    world_share(&b, &w, "else", KEY_OTHER);
    hello(&b);
    build_begin(&build, &b, 0, 1, 0);
    build_zero(&build, 0, b.size);
    build_end(&build, true);
    build_commit(&build);
}

static inline void pool_begin(void)
{
    pool_begin_in("1s:1d", false);
}

static inline void pool_end(void)
{
    visits_go_on();
    world_unshare(&b);
    end();
}

/* What comes from here on, of either, is of another second than what came before. */
static inline void second_begin(void)
{
    second_ns += SECOND_NS;
}

static inline void time_next(struct world *of)
{
    static int64_t count;
    of->time_ns = second_ns + ++count % 900 * 1000000;
}

static inline void points_add(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        time_next(&w);
        increment(&w);
        point_keep();
    }
}

static inline void data_add(struct world *to, unsigned slot)
{
    struct build build;
    time_next(to);
    build_begin(&build, to, to->head.to_seq, to->head.to_seq + 1, 0);
    build_data(&build, (uint64_t)slot * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    build_end(&build, true);
    build_commit(&build);
}

/* A second of data's that is due to be merged: in it a chunk came, and was written over. Until it
 * is, or they go on, no visit begins by itself. */
static inline void lonely_chunk(uint8_t chunk[REPL_CHUNK_SIZE])
{
    visits_stop();
    second_begin();
    points_add(1); /* which is kept */
    data_add(&w, LISTED_SLOT);
    point_keep();
    memcpy(chunk, w.model + LISTED_SLOT * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    data_add(&w, LISTED_SLOT);
    point_keep();
    points_add(14);
    second_begin();
    points_add(3); /* kept, given up, and the newest */
}

static inline void reference_build(struct build *build, const uint8_t *chunk, unsigned slot)
{
    time_next(&b);
    build_begin(build, &b, b.head.to_seq, b.head.to_seq + 1, 0);
    build_chunk(build, (uint64_t)slot * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunk, 0);
    build_end(build, true);
}

static inline void reference_add(const uint8_t *chunk, unsigned slot)
{
    struct build build;
    reference_build(&build, chunk, slot);
    build_commit(&build);
}

/* Long enough for a look, another one, and the removal. */
static inline void supplies_look(void)
{
    struct site_volume *v = site_find_volume(w.site, "data");
    w.site->config->grace_ms = 0;
    w.site->compactor->supply_every_ns = SECOND_NS / 5;
    for (size_t i = 0; i < v->supply_count; i++)
        v->supplies[i].look_ns = 0;
    for (unsigned i = 0; i < 4; i++) {
        compactor_supplies_tick(w.site->compactor);
        turns(250);
    }
}

static inline bool is_found(const uint8_t *chunk)
{
    return chunk_is_found(&w, "else", chunk);
}

/* A commit that refers to the chunk begins so many turns ahead of a merge of data that drops it:
 * it is taken, and the chunk is there, or it is told that it is missing. */
static inline bool commit_races(const uint8_t *chunk, unsigned ahead)
{
    struct build build;
    struct repl_error err;
    struct call call;
    reference_build(&build, chunk, 3);
    call_init(&call, &b, "PUT", "/v1/volumes/else/segments/%llu.0",
              (unsigned long long)build.header.to_seq);
    call.request.body = build.file.bytes.data;
    call.request.body_size = build.file.bytes.size;
    must(repl_request_start(b.clients[KEY_OTHER], &call.request, &err), &err);
    for (unsigned i = 0; i < ahead; i++)
        turn(&w);
    merge_begin("data");
    PUMP_UNTIL(&w, call.done && !w.site->compactor->logging);
    assert_true(b.status == 201 || b.status == 409);
    if (b.status == 201)
        build_taken(&build);
    assert_int_equal(is_found(chunk), b.status == 201);
    build_fini(&build);
    return b.status == 201;
}

/* As after a failed sync, and the loop does not know of it yet. */
static inline void index_remake(void)
{
    struct repl_error err;
    pthread_mutex_lock(&w.site->index_lock);
    must(repl_index_remake(w.site->index, &err), &err);
    pthread_mutex_unlock(&w.site->index_lock);
}

#endif
