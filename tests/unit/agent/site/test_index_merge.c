/*
 * The index under merges: random histories, with repl_chain over the same log as the model of what
 * is in it, a list of where each chunk was put last as that of where chunks are, and the segments
 * of the chain, asked one by one, as that of who refers to which.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "store/segment_name.h"
#include "unit/agent/site/index_fixture.h"
#include "unit/journal/chain_world.h"

#define NAMES           40u /* of chunks: few, so that many segments list the same ones */
#define CHUNKS_EACH_MAX 3u
#define REFS_EACH_MAX   5u
#define GROUP_MAX       512u

/* What the index has to say. */
static struct model {
    struct world w;
    size_t applied; /* of the log */
    struct repl_chunk_place places[NAMES];
    bool placed[NAMES];
} model;

static int set_up_fast(void **state)
{
    if (set_up(state) != 0)
        return -1;
    struct fixture *f = *state;
    return mdb_env_set_flags(f->index->env, MDB_NOSYNC, 1);
}

/* --- chunks of a segment --------------------------------------------------------------------- */

static struct repl_digest name_of(uint32_t number)
{
    return (struct repl_digest){{(uint8_t)number, 1}};
}

/* Which chunks a segment lists: the same whenever it is asked. */
static uint32_t chunks_of(const struct repl_segment_id *id,
                          struct repl_chunk_entry chunks[CHUNKS_EACH_MAX])
{
    struct random random = {id->to_seq * 1000003 + id->part * 1009 + id->merge * 7919};
    uint32_t count = (uint32_t)random_below(&random, CHUNKS_EACH_MAX + 1);
    for (uint32_t i = 0; i < count; i++)
        chunks[i] =
            (struct repl_chunk_entry){.name = name_of((uint32_t)random_below(&random, NAMES)),
                                      .frame = (uint32_t)random_below(&random, 1000)};
    return count;
}

static int name_order(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct repl_digest));
}

/* The names a segment refers to, each once: the same whenever it is asked. */
static uint32_t refs_of(const struct repl_segment_id *id, struct repl_digest refs[REFS_EACH_MAX])
{
    struct random random = {id->to_seq * 1000033 + id->part * 1013 + id->merge * 7933};
    uint32_t count = (uint32_t)random_below(&random, REFS_EACH_MAX + 1), kept = 0;
    for (uint32_t i = 0; i < count; i++)
        refs[i] = name_of((uint32_t)random_below(&random, NAMES));
    qsort(refs, count, sizeof *refs, name_order);
    for (uint32_t i = 0; i < count; i++) {
        if (kept == 0 || name_order(&refs[kept - 1], &refs[i]) != 0)
            refs[kept++] = refs[i];
    }
    return kept;
}

/* Whether the record brings a segment. */
static bool segment_of(const struct repl_log_record *record, struct repl_segment_id *id)
{
    const struct repl_log_commit *commit =
        record->type == REPL_LOG_PIECE ? &record->piece.commit : &record->commit;
    *id = (struct repl_segment_id){.to_seq = commit->to_seq, .part = commit->part};
    if (record->type == REPL_LOG_PIECE)
        id->merge = record->piece.merge;
    return record->type == REPL_LOG_COMMIT || record->type == REPL_LOG_PIECE;
}

static bool is_listed(const struct repl_chain *chain, const struct repl_segment_id *id)
{
    for (size_t i = 0; i < chain->count; i++) {
        const struct repl_log_piece *entry = &chain->entries[i];
        if (entry->commit.to_seq == id->to_seq && entry->commit.part == id->part)
            return entry->merge == id->merge;
    }
    return false;
}

/* --- groups of a log ------------------------------------------------------------------------- */

struct group {
    struct repl_log_record records[GROUP_MAX];
    struct repl_index_record added[GROUP_MAX];
    struct repl_chunk_entry chunks[GROUP_MAX][CHUNKS_EACH_MAX];
    struct repl_digest refs[GROUP_MAX][REFS_EACH_MAX];
    size_t count;
};

/* The next record, or all of its group. there: the list of segments whose files are there; NULL:
 * those of the group are. Returns where it ends. */
static size_t group_read(struct group *group, const struct world *w, size_t at,
                         const struct repl_chain *there)
{
    uint32_t left = 0;
    group->count = 0;
    do {
        struct repl_log_record *record = &group->records[group->count];
        struct repl_index_record *added = &group->added[group->count];
        struct repl_digest *refs = group->refs[group->count];
        struct repl_chunk_entry *chunks = group->chunks[group->count++];
        struct repl_segment_id id;
        struct repl_error err;
        size_t size;
        assert_true(group->count < GROUP_MAX);
        assert_true(
            repl_ok(repl_log_record_decode(w->log + at, w->log_size - at, record, &size, &err)));
        *added = (struct repl_index_record){.record = record, .chunks = chunks, .refs = refs};
        if (segment_of(record, &id) && (there == NULL || is_listed(there, &id))) {
            added->chunk_count = chunks_of(&id, chunks);
            added->ref_count = refs_of(&id, refs);
        }
        if (left > 0)
            left--;
        else if (record->type == REPL_LOG_MERGE)
            left = record->merge.records;
        else if (record->type == REPL_LOG_CHECKPOINT)
            left = record->checkpoint.records;
        at += size;
    } while (left > 0);
    return at;
}

static void places_note(const struct group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        const struct repl_index_record *added = &group->added[i];
        for (uint32_t k = 0; k < added->chunk_count; k++) {
            uint32_t number = added->chunks[k].name.bytes[0];
            model.placed[number] = segment_of(added->record, &model.places[number].segment);
            model.places[number].frame = added->chunks[k].frame;
        }
    }
}

/* What of the log the volume has not yet. */
static void follow(struct fixture *f, const char *volume)
{
    static struct group group;
    while (model.applied < model.w.log_size) {
        model.applied = group_read(&group, &model.w, model.applied, NULL);
        good(f,
             repl_index_apply(f->index, volume, group.added, group.count, model.applied, &f->err));
        places_note(&group);
    }
}

/* --- the model ------------------------------------------------------------------------------- */

static void assert_piece(const struct repl_log_piece *a, const struct repl_log_piece *b)
{
    uint8_t a_bytes[REPL_LOG_PIECE_SIZE_MAX], b_bytes[REPL_LOG_PIECE_SIZE_MAX];
    struct repl_writer x = repl_writer_of(a_bytes, sizeof a_bytes),
                       y = repl_writer_of(b_bytes, sizeof b_bytes);
    repl_log_piece_encode(&x, a);
    repl_log_piece_encode(&y, b);
    assert_false(x.failed);
    assert_int_equal(x.position, y.position);
    assert_memory_equal(a_bytes, b_bytes, x.position);
}

static void check_segments(struct fixture *f, const char *volume, struct random *random)
{
    const struct repl_chain *chain = &model.w.chain;
    struct repl_log_piece pieces[8];
    struct repl_segments_page page;
    uint64_t after_to = 0;
    uint32_t after_part = 0;
    size_t at = 0;
    bool more;
    do {
        uint32_t count, room = 1 + (uint32_t)random_below(random, 8);
        good(f, repl_index_pieces(f->index, volume, after_to, after_part, pieces, room, &count,
                                  &more, &f->err));
        assert_true(at + count <= chain->count && (!more || count == room));
        for (uint32_t i = 0; i < count; i++) {
            assert_piece(&pieces[i], &chain->entries[at++]);
            after_to = pieces[i].commit.to_seq;
            after_part = pieces[i].commit.part;
        }
    } while (more);
    assert_int_equal(at, chain->count);

    good(f, repl_index_segments(f->index, volume, 0, 0, &page, &f->err));
    assert_int_equal(page.count, chain->count);
    for (uint32_t i = 0; i < page.count; i++) {
        const struct repl_log_piece *entry = &chain->entries[i];
        assert_int_equal(page.entries[i].head.to_seq, entry->commit.to_seq);
        assert_int_equal(page.entries[i].head.from_seq, entry->commit.from_seq);
        assert_int_equal(page.entries[i].head.part, entry->commit.part);
        assert_int_equal(page.entries[i].head.has_point, entry->commit.has_point);
        assert_int_equal(page.entries[i].merge, entry->merge);
        assert_int_equal(page.entries[i].begins, entry->begins);
        assert_memory_equal(&page.entries[i].link, &entry->link, sizeof entry->link);
    }
    repl_segments_page_fini(&page);
}

static void check_points(struct fixture *f, const char *volume)
{
    const struct repl_chain *chain = &model.w.chain;
    struct repl_points_page page;
    uint32_t at = 0;
    good(f, repl_index_points(f->index, volume, 0, &page, &f->err));
    for (size_t i = 0; i < chain->count; i++) {
        if (!repl_chain_has_point(chain, i))
            continue;
        assert_true(at < page.count);
        const struct repl_points_entry *entry = &page.entries[at++];
        assert_memory_equal(&entry->point, &chain->entries[i].commit.point, sizeof entry->point);
        assert_int_equal(entry->unchanged_until_ns, chain->entries[i].unchanged_until_ns);
        assert_int_equal(entry->volume_size, chain->entries[i].commit.volume_size);
        assert_int_equal(entry->churn.known, chain->entries[i].commit.churn.known);
        assert_int_equal(entry->churn.changed_bytes, chain->entries[i].commit.churn.changed_bytes);
    }
    assert_int_equal(at, page.count);
    repl_points_page_fini(&page);
}

static void check_marks(struct fixture *f, const char *volume)
{
    struct repl_log_mark *marks;
    size_t count;
    good(f, repl_index_marks(f->index, volume, &marks, &count, &f->err));
    assert_int_equal(count, model.w.chain.mark_count);
    for (size_t i = 0; i < count; i++) {
        size_t same = 0;
        assert_true(i == 0 || strcmp(marks[i - 1].name, marks[i].name) < 0);
        for (size_t k = 0; k < count; k++) {
            const struct repl_log_mark *other = &model.w.chain.marks[k];
            same += strcmp(other->name, marks[i].name) == 0 && other->seq == marks[i].seq &&
                    other->kind == marks[i].kind;
        }
        assert_int_equal(same, 1);
    }
    free(marks);
}

static void check_chunks(struct fixture *f, const char *volume)
{
    for (uint32_t i = 0; i < NAMES; i++) {
        struct repl_digest name = name_of(i);
        struct repl_chunk_place place;
        bool found;
        good(f, repl_index_chunk(f->index, volume, &name, &place, &found, &f->err));
        assert_int_equal(found,
                         model.placed[i] && is_listed(&model.w.chain, &model.places[i].segment));
        if (!found)
            continue;
        assert_int_equal(repl_segment_id_order(&place.segment, &model.places[i].segment), 0);
        assert_int_equal(place.frame, model.places[i].frame);
    }
}

static struct repl_segment_id id_of(const struct repl_log_piece *entry)
{
    return (struct repl_segment_id){
        .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
}

/* Of all names how many segments refer to them, and of one whether any does but a stretch of the
 * chain. */
static void check_references(struct fixture *f, const char *volume, struct random *random)
{
    const struct repl_chain *chain = &model.w.chain;
    struct repl_digest refs[REFS_EACH_MAX];
    uint64_t counts[NAMES] = {0}, inside = 0;
    size_t first = random_below(random, chain->count + 1);
    size_t end = first + random_below(random, chain->count - first + 1);
    struct repl_segment_id *without = calloc(chain->count + 1, sizeof *without);
    uint32_t which = (uint32_t)random_below(random, NAMES);
    for (size_t i = 0; i < chain->count; i++) {
        struct repl_segment_id id = id_of(&chain->entries[i]);
        uint32_t count = refs_of(&id, refs);
        if (i >= first && i < end)
            without[i - first] = id;
        for (uint32_t k = 0; k < count; k++) {
            counts[refs[k].bytes[0]]++;
            inside += i >= first && i < end && refs[k].bytes[0] == which;
        }
    }
    for (uint32_t i = 0; i < NAMES; i++) {
        struct repl_digest name = name_of(i);
        uint64_t count;
        good(f, repl_index_references(f->index, volume, &name, &count, &f->err));
        assert_int_equal(count, counts[i]);
    }
    struct repl_digest name = name_of(which);
    bool referred;
    good(f,
         repl_index_is_referred(f->index, volume, &name, without, end - first, &referred, &f->err));
    assert_int_equal(referred, counts[which] > inside);
    free(without);
}

static void check_lists(struct fixture *f, const char *volume, struct random *random)
{
    uint64_t log_end, number;
    good(f, repl_index_position(f->index, volume, &log_end, &number, &f->err));
    assert_int_equal(log_end, model.w.log_size);
    assert_int_equal(number, model.w.number);
    check_segments(f, volume, random);
    check_points(f, volume);
    check_marks(f, volume);
    check_references(f, volume, random);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void history_begin(void)
{
    world_begin(&model.w);
    memset(model.placed, 0, sizeof model.placed);
    model.applied = 0;
    create(&model.w);
}

static void every_change_is_followed(void **state)
{
    struct fixture *f = *state;
    struct random random = random_begin("every_change_is_followed", 11);
    for (unsigned round = 0; round < 25; round++) {
        history_begin();
        for (unsigned step = 0; step < 120 && model.w.last_seq < WORLD_LAST_SEQ; step++) {
            random_step(&model.w, &random);
            follow(f, "data");
            check_lists(f, "data", &random);
            check_chunks(f, "data");
        }
        good(f, repl_index_drop(f->index, "data", &f->err));
        uint64_t count;
        good(f, repl_index_entry_count(f->index, &count, &f->err));
        assert_int_equal(count, 0);
        repl_chain_fini(&model.w.chain);
    }
}

/* A place that is found is one where the chunk is; one that is in none of the segments is not. */
static void check_chunks_made_anew(struct fixture *f, const char *volume)
{
    const struct repl_chain *chain = &model.w.chain;
    bool listed[NAMES] = {false};
    struct repl_chunk_entry chunks[CHUNKS_EACH_MAX];
    for (size_t i = 0; i < chain->count; i++) {
        const struct repl_log_piece *entry = &chain->entries[i];
        struct repl_segment_id id = {
            .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
        uint32_t count = chunks_of(&id, chunks);
        for (uint32_t k = 0; k < count; k++)
            listed[chunks[k].name.bytes[0]] = true;
    }
    for (uint32_t i = 0; i < NAMES; i++) {
        struct repl_digest name = name_of(i);
        struct repl_chunk_place place;
        bool found, right = false;
        good(f, repl_index_chunk(f->index, volume, &name, &place, &found, &f->err));
        assert_int_equal(found, listed[i]);
        if (!found)
            continue;
        uint32_t count = chunks_of(&place.segment, chunks);
        for (uint32_t k = 0; k < count; k++)
            right |= chunks[k].name.bytes[0] == i && chunks[k].frame == place.frame;
        assert_true(right && is_listed(chain, &place.segment));
    }
}

/* In batches, from the log as it is in the end: only what is in the list has its chunks. */
static void catch_up(struct fixture *f, const char *volume, struct random *random)
{
    static struct group group;
    for (size_t at = 0; at < model.w.log_size;) {
        good(f, repl_index_batch_begin(f->index, &f->err));
        for (uint64_t left = 1 + random_below(random, 60); left > 0 && at < model.w.log_size;
             left--) {
            at = group_read(&group, &model.w, at, &model.w.chain);
            good(f, repl_index_apply(f->index, volume, group.added, group.count, at, &f->err));
        }
        good(f, repl_index_batch_end(f->index, &f->err));
    }
}

static void a_log_is_caught_up_with_and_written_anew(void **state)
{
    struct fixture *f = *state;
    static struct world anew;
    struct random random = random_begin("a_log_is_caught_up_with_and_written_anew", 12);
    for (unsigned round = 0; round < 25; round++) {
        history_begin();
        while (model.w.last_seq < WORLD_LAST_SEQ / 2)
            random_step(&model.w, &random);
        follow(f, "data"); /* this one lags behind from here on */
        catch_up(f, "made", &random);
        check_lists(f, "made", &random);
        check_chunks_made_anew(f, "made");
        while (model.w.last_seq < WORLD_LAST_SEQ)
            random_step(&model.w, &random);
        model.applied = 0;
        follow(f, "live");

        checkpoint(&model.w, &anew);
        anew.merges = model.w.merges;
        anew.last_seq = model.w.last_seq;
        anew.kept = model.w.kept;
        repl_chain_fini(&model.w.chain);
        model.w = anew;
        static const char *const volumes[] = {"live", "made", "data", "none"};
        for (size_t i = 0; i < 4; i++) {
            catch_up(f, volumes[i], &random);
            check_lists(f, volumes[i], &random);
            check_chunks_made_anew(f, volumes[i]);
        }
        model.applied = model.w.log_size;
        for (unsigned step = 0; step < 30; step++)
            random_step(&model.w, &random);
        follow(f, "made");
        check_lists(f, "made", &random);
        for (size_t i = 0; i < 4; i++)
            good(f, repl_index_drop(f->index, volumes[i], &f->err));
        repl_chain_fini(&model.w.chain);
    }
}

/* Entries of references, those of segments that are gone among them. */
static uint64_t reference_entries(struct fixture *f)
{
    MDB_txn *txn;
    MDB_stat stat;
    good(f, repl_index_read_begin(f->index, &txn, &f->err));
    assert_int_equal(mdb_stat(txn, f->index->tables[INDEX_REFERENCES], &stat), 0);
    repl_index_read_end(f->index, txn);
    return stat.ms_entries;
}

/* What is gone leaves references behind, but not for good. */
static void references_left_behind_go(void **state)
{
    struct fixture *f = *state;
    struct random random = random_begin("references_left_behind_go", 13);
    struct repl_digest names[NAMES];
    uint64_t there = 0, most = 0;
    history_begin();
    while (model.w.last_seq < WORLD_LAST_SEQ) {
        random_step(&model.w, &random);
        follow(f, "data");
        most = reference_entries(f) > most ? reference_entries(f) : most;
    }
    for (uint32_t i = 0; i < NAMES; i++) {
        uint64_t count;
        names[i] = name_of(i);
        good(f, repl_index_references(f->index, "data", &names[i], &count, &f->err));
        there += count;
    }
    print_message("%d references, %d entries, %d at most\n", (int)there, (int)reference_entries(f),
                  (int)most);
    good(f, repl_index_forget_chunks(f->index, "data", names, NAMES, &f->err));
    assert_int_equal(reference_entries(f), there);
    check_references(f, "data", &random);
    repl_chain_fini(&model.w.chain);
}

/* Points 1 to 4, each with a chunk of its own: names 1 to 4. */
static void points_apply(struct fixture *f)
{
    history_begin();
    for (uint64_t seq = 1; seq <= 4; seq++)
        commit(&model.w, seq - 1, seq, 0, true);
    for (size_t at = 0; at < model.w.log_size; model.applied = at) {
        static struct group group;
        at = group_read(&group, &model.w, at, NULL);
        struct repl_chunk_entry chunk = {.name = name_of((uint32_t)group.records[0].number - 1)};
        group.added[0].chunks = &chunk;
        group.added[0].chunk_count = group.records[0].type == REPL_LOG_COMMIT;
        group.added[0].ref_count = 0;
        good(f, repl_index_apply(f->index, "data", group.added, 1, at, &f->err));
    }
}

static bool is_found(struct fixture *f, uint32_t number)
{
    struct repl_digest name = name_of(number);
    struct repl_chunk_place place;
    bool found;
    good(f, repl_index_chunk(f->index, "data", &name, &place, &found, &f->err));
    return found;
}

static void a_place_left_behind_is_no_place(void **state)
{
    struct fixture *f = *state;
    static struct group group;
    points_apply(f);
    merge_increments(&model.w, 1, 3, 1);
    size_t end = group_read(&group, &model.w, model.applied, NULL);
    struct repl_chunk_entry moved = {.name = name_of(3), .frame = 9};
    group.added[1].chunks = &moved;
    group.added[1].chunk_count = 1;
    group.added[1].ref_count = 0;
    /* ahead of the record, in the same batch or before it: not there yet */
    struct repl_segment_id piece = {.to_seq = 3, .merge = 1};
    good(f, repl_index_add_chunks(f->index, "data", &piece, &moved, 1, &f->err));
    assert_false(is_found(f, 3));
    good(f, repl_index_apply(f->index, "data", group.added, group.count, end, &f->err));
    assert_true(is_found(f, 1) && is_found(f, 3) && is_found(f, 4));
    assert_false(is_found(f, 2));
    uint64_t before = entry_count(f);
    struct repl_digest names[5];
    for (uint32_t i = 0; i < 5; i++)
        names[i] = name_of(i);
    good(f, repl_index_forget_chunks(f->index, "data", names, 5, &f->err));
    assert_int_equal(entry_count(f), before - 1);
    assert_true(is_found(f, 1) && is_found(f, 3) && is_found(f, 4));
    good(f, repl_index_forget_chunks(f->index, "nothing", names, 5, &f->err));
    /* a supply's place is good whatever has become of its segment */
    struct repl_segment_id supply = {.to_seq = 2, .supply = 1};
    struct repl_chunk_entry supplied = {.name = name_of(2)};
    good(f, repl_index_add_chunks(f->index, "data", &supply, &supplied, 1, &f->err));
    good(f, repl_index_forget_chunks(f->index, "data", names, 5, &f->err));
    assert_true(is_found(f, 2));
    repl_chain_fini(&model.w.chain);
}

static void half_a_group_is_not_taken(void **state)
{
    struct fixture *f = *state;
    static struct group group;
    points_apply(f);
    uint64_t before = entry_count(f);
    merge_increments(&model.w, 1, 3, 2);
    size_t end = group_read(&group, &model.w, model.applied, NULL);
    assert_int_equal(group.count, 3);
    for (size_t i = 0; i < 3; i++)
        group.added[i].chunk_count = group.added[i].ref_count = 0;
    for (size_t first = 0; first < 3; first++) {
        for (size_t count = 1; first + count <= 3; count++) {
            if (count == 3)
                continue;
            assert_int_equal(
                repl_index_apply(f->index, "data", group.added + first, count, end, &f->err).code,
                REPL_E_INTERNAL);
        }
    }
    group.records[2].number++;
    assert_int_equal(repl_index_apply(f->index, "data", group.added, 3, end, &f->err).code,
                     REPL_E_INTERNAL);
    group.records[2].number--;
    assert_int_equal(entry_count(f), before);
    good(f, repl_index_apply(f->index, "data", group.added, 3, end, &f->err));
    assert_int_equal(entry_count(f), before - 1); /* a point; two segments became two */
    repl_chain_fini(&model.w.chain);
}

#define FAST(name) cmocka_unit_test_setup_teardown(name, set_up_fast, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FAST(every_change_is_followed),  FAST(a_log_is_caught_up_with_and_written_anew),
        FAST(references_left_behind_go), FAST(a_place_left_behind_is_no_place),
        FAST(half_a_group_is_not_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
