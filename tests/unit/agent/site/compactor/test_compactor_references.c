/*
 * A site that merges a history in which segments refer to chunks of others: a chunk is carried
 * along while somebody refers to it, and no longer, whatever comes between.
 */
#include "segment/segment_references.h"
#include "unit/agent/site/compactor/compactor_world.h"

/* --- references ------------------------------------------------------------------------------ */

#define PIECES_MAX    400u
#define LISTED_SLOT   58u /* of chunks: where no increment of the fixture's writes */
#define REFERRED_SLOT 59u

/* Points are of a minute ago and of the second that is begun last, however long it takes to make
 * them: the policy keeps the first of each. */
static int64_t second_ns;

static void second_begin(void)
{
    second_ns += SECOND_NS;
    w.time_ns = second_ns;
}

static void point_taken(void)
{
    w.time_ns += 1000000 - SECOND_NS; /* the fixture's is a second later */
    assert_true(w.time_ns < second_ns + SECOND_NS);
    point_keep();
}

static void points_add(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        increment(&w);
        point_taken();
    }
}

/* A point with a chunk of its own, and one that writes over it: nobody refers to it. */
static void lonely_chunk(uint8_t *bytes)
{
    for (unsigned i = 0; i < 2; i++) {
        struct build b;
        build_begin(&b, &w, w.head.to_seq, w.head.to_seq + 1, 0);
        build_data(&b, LISTED_SLOT * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
        if (i == 0)
            memcpy(bytes, w.model + LISTED_SLOT * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
        build_end(&b, true);
        build_commit(&b);
        point_taken();
    }
}

/* What comes in the first second behind the seed is to be merged. */
static void history_make(uint8_t *bytes)
{
    world_init(&w, NULL);
    w.retention = "1s:1h 1h:1d";
    site_start(&w);
    second_ns = (repl_now_wall_ns() / SECOND_NS - 60) * SECOND_NS;
    w.time_ns = second_ns;
    seed(&w);
    point_taken();
    second_begin();
    points_add(5);
    lonely_chunk(bytes);
    points_add(10);
    for (unsigned i = 0; i < 2; i++) {
        second_begin();
        points_add(12);
    }
}

static void refer_to(const uint8_t *bytes)
{
    struct build b;
    build_begin(&b, &w, w.head.to_seq, w.head.to_seq + 1, 0);
    build_chunk(&b, REFERRED_SLOT * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, bytes, 0);
    build_end(&b, true);
    build_commit(&b);
    point_taken();
}

static bool is_found(const uint8_t *bytes)
{
    struct repl_digest name = chunk_name_of(bytes);
    struct repl_chunk_place place;
    struct repl_error err;
    bool found;
    must(repl_index_chunk(w.site->index, "data", &name, &place, &found, &err), &err);
    return found;
}

/* Adds up who refers to what, by the segments themselves. */
static void references_add(const struct repl_log_piece *piece, struct repl_buffer *names)
{
    const struct repl_segment_id id = {
        .to_seq = piece->commit.to_seq, .part = piece->commit.part, .merge = piece->merge};
    struct repl_store *store = w.site->store;
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    struct repl_digest *refs;
    struct repl_error err;
    uint32_t count;
    must(store->ops->segment_open(store, "data", &id, 0, &file, &err), &err);
    must(repl_segment_open(repl_stored_segment_read_at, file, file->size, &segment, &err), &err);
    must(repl_segment_references(segment, w.coder, &refs, &count, &err), &err);
    if (count > 0)
        must(repl_buffer_append(names, refs, count * sizeof *refs, &err), &err);
    free(refs);
    repl_segment_free(segment);
    file->close(file);
}

/* The index counts what the segments say. */
static void references_check(void)
{
    static struct repl_log_piece pieces[PIECES_MAX];
    struct repl_buffer names = {0};
    struct repl_error err;
    uint32_t count;
    bool more;
    must(repl_index_pieces(w.site->index, "data", 0, 0, pieces, PIECES_MAX, &count, &more, &err),
         &err);
    assert_false(more);
    for (uint32_t i = 0; i < count; i++)
        references_add(&pieces[i], &names);
    const struct repl_digest *all = (const struct repl_digest *)(const void *)names.data;
    size_t name_count = names.size / sizeof *all;
    assert_true(name_count > 0);
    for (size_t i = 0; i < name_count; i++) {
        uint64_t counted, expected = 0;
        for (size_t k = 0; k < name_count; k++)
            expected += repl_digest_equal(&all[k], &all[i]);
        must(repl_index_references(w.site->index, "data", &all[i], &counted, &err), &err);
        assert_int_equal(counted, expected);
    }
    repl_buffer_fini(&names);
}

/* The site makes it anew of what is there. */
static void index_lose(void)
{
    site_stop(&w);
    index_remove(&w);
    site_start(&w);
}

static void a_chunk_nobody_refers_to_goes(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    size_t segments;
    (void)state;
    history_make(chunk);
    assert_true(is_found(chunk));
    assert_int_equal(merge_once("data"), 1);
    assert_false(is_found(chunk));
    points_check(&segments);
    references_check();
    second_begin();
    points_add(60);
    for (unsigned i = 0; i < 3; i++) {
        site_compactor_tick(w.site->compactor);
        turns(300);
    }
    points_check(&segments);
    references_check();
    index_lose();
    references_check();
    points_add(5);
    references_check();
    end();
}

static void a_chunk_that_is_referred_to_stays(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    size_t segments;
    (void)state;
    history_make(chunk);
    refer_to(chunk);
    assert_int_equal(merge_once("data"), 0);
    assert_true(is_found(chunk));
    points_check(&segments);
    references_check();
    end();
}

/* The visit has looked, and then comes a commit that refers to a chunk which the merge drops. */
static void a_commit_comes_between(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    size_t before, segments;
    (void)state;
    history_make(chunk);
    merge_hold("data");
    assert_int_equal(w.site->compactor->visit.result.dropped_count, 1);
    refer_to(chunk);
    before = points_check(&segments);
    merge_let_go("data");
    assert_true(w.site->compactor->out && is_found(chunk));
    assert_int_equal(points_check(&segments), before); /* it was thrown away */
    assert_int_equal(merge_once("data"), 0);
    assert_true(points_check(&segments) < before);
    assert_true(is_found(chunk));
    references_check();
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chunk_nobody_refers_to_goes),
        cmocka_unit_test(a_chunk_that_is_referred_to_stays),
        cmocka_unit_test(a_commit_comes_between),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
