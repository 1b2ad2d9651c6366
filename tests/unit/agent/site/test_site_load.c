/*
 * A volume whose history has been merged, as a site finds it at a start: a log that was cut at any
 * byte of a merge, files that are left over, a log that was written anew, and an index that is lost
 * or behind.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/ensure.h"

#define MODEL_SIZE (UINT64_C(8) * 64 * 1024)
#include "journal/chain.h"
#include "recover/origin.h"
#include "site/index/index_internal.h"
#include "site/site_volume.h"
#include "store/segment_name.h"
#include "unit/agent/recover/store_model.h"

#define GROUP_MAX 32u
#define SEQ_MAX   16u

/* A store whose log keeps counting when it is replaced, as in a bucket. */
struct counting_store {
    struct repl_store base;
    struct repl_store *inner; /* the model's */
    uint64_t begin;
};

struct world {
    struct store_model m;
    struct counting_store counting;
    char path[400]; /* of the index */
    struct repl_site site;
    struct site_volume *volume; /* as loaded last */
    struct repl_chain chain;    /* the log's */
    struct repl_digest links[SEQ_MAX], names[SEQ_MAX];
    uint64_t merges;
    /* the group that is on its way */
    struct repl_log_record group[GROUP_MAX];
    uint32_t group_count;
};

static void good(struct world *w, repl_result result)
{
    if (!repl_ok(result))
        fail_msg("%s", w->m.err.text);
}

static struct repl_config directory_config = {.store = (char[]){"/directory"}};

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    *state = w;
    model_init(&w->m);
    snprintf(w->path, sizeof w->path, "%s/index", w->m.temporary.path);
    w->site.store = w->m.store;
    w->site.config = &directory_config;
    pthread_mutex_init(&w->site.index_lock, NULL);
    good(w, repl_index_open(w->path, true, &w->site.index, &w->m.err));
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    if (w->volume != NULL)
        site_volume_free(w->volume);
    repl_chain_fini(&w->chain);
    repl_index_close(w->site.index);
    pthread_mutex_destroy(&w->site.index_lock);
    model_fini(&w->m);
    free(w);
    return 0;
}

static void load(struct world *w)
{
    if (w->volume != NULL)
        site_volume_free(w->volume);
    good(w, site_volume_load(&w->site, MODEL_VOLUME, &w->volume, &w->m.err));
}

/* --- a store that keeps counting ------------------------------------------------------------- */

static repl_result counting_segments(struct repl_store *store, const char *volume,
                                     repl_segment_visit_fn *visit, void *context,
                                     struct repl_error *err)
{
    struct repl_store *inner = ((struct counting_store *)store)->inner;
    return inner->ops->segments(inner, volume, visit, context, err);
}

static repl_result counting_segment_open(struct repl_store *store, const char *volume,
                                         const struct repl_segment_id *id, uint64_t size,
                                         struct repl_stored_segment **out, struct repl_error *err)
{
    struct repl_store *inner = ((struct counting_store *)store)->inner;
    return inner->ops->segment_open(inner, volume, id, size, out, err);
}

static repl_result counting_volume_directory(const struct repl_store *store, const char *volume,
                                             char *path, size_t path_size, struct repl_error *err)
{
    const struct repl_store *inner = ((const struct counting_store *)store)->inner;
    return inner->ops->volume_directory(inner, volume, path, path_size, err);
}

static repl_result counting_log_read(struct repl_store *store, const char *volume,
                                     struct repl_buffer *out, uint64_t *begin,
                                     struct repl_error *err)
{
    struct counting_store *counting = (struct counting_store *)store;
    if (begin != NULL)
        *begin = counting->begin;
    return counting->inner->ops->log_read(counting->inner, volume, out, NULL, err);
}

static repl_result counting_log_append(struct repl_store *store, const char *volume, uint64_t end,
                                       const void *data, size_t size, struct repl_error *err)
{
    struct counting_store *counting = (struct counting_store *)store;
    assert_true(end >= counting->begin);
    return counting->inner->ops->log_append(counting->inner, volume, end - counting->begin, data,
                                            size, err);
}

static repl_result counting_log_replace(struct repl_store *store, const char *volume,
                                        const void *data, size_t size, uint64_t *end,
                                        struct repl_error *err)
{
    struct counting_store *counting = (struct counting_store *)store;
    uint64_t old_end = *end;
    REPL_TRY(counting->inner->ops->log_replace(counting->inner, volume, data, size, end, err));
    counting->begin = old_end;
    *end = old_end + size;
    return REPL_SUCCESS;
}

static const struct repl_store_ops counting_ops = {
    .name = "counting",
    .volume_directory = counting_volume_directory,
    .segments = counting_segments,
    .segment_open = counting_segment_open,
    .log_read = counting_log_read,
    .log_append = counting_log_append,
    .log_replace = counting_log_replace,
};

/* --- the log --------------------------------------------------------------------------------- */

static void log_path(const struct world *w, char path[400])
{
    snprintf(path, 400, "%s/volumes/%s/log", w->m.path, MODEL_VOLUME);
}

static void log_take(struct world *w, struct repl_buffer *log)
{
    good(w, w->m.store->ops->log_read(w->m.store, MODEL_VOLUME, log, NULL, &w->m.err));
}

/* The log's first size bytes, and nothing else, as a crash or a disk has left it. */
static void log_put(struct world *w, const struct repl_buffer *log, size_t size)
{
    char path[400];
    log_path(w, path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0 && ftruncate(fd, 0) == 0);
    assert_true(pwrite(fd, log->data, size, 0) == (ssize_t)size);
    close(fd);
}

static size_t log_size(struct world *w)
{
    struct repl_buffer log = {0};
    log_take(w, &log);
    size_t size = log.size;
    repl_buffer_fini(&log);
    return size;
}

static void chain_make(struct world *w)
{
    struct repl_buffer log = {0};
    struct repl_log_record record;
    log_take(w, &log);
    repl_chain_fini(&w->chain);
    for (size_t at = 0, size; at < log.size; at += size) {
        good(w, repl_log_record_decode(log.data + at, log.size - at, &record, &size, &w->m.err));
        good(w, repl_chain_apply(&w->chain, &record, &w->m.err));
    }
    assert_int_equal(w->chain.group_left, 0);
    repl_buffer_fini(&log);
}

/* --- a history ------------------------------------------------------------------------------- */

/* A chunk of its own for each point. */
static void point_put(struct world *w, uint64_t from, uint64_t to, uint32_t part, bool has_point)
{
    model_begin(&w->m, from, to, part);
    w->names[to] = model_chunk(&w->m, to % 8 * REPL_CHUNK_SIZE);
    model_end(&w->m, has_point);
    w->links[to] = w->m.prev;
}

/* A full at 1 in two parts, then points 2 to 6. */
static void history(struct world *w)
{
    point_put(w, 0, 1, 0, false);
    point_put(w, 0, 1, 1, true);
    for (uint64_t seq = 2; seq <= 6; seq++)
        point_put(w, seq - 1, seq, 0, true);
    chain_make(w);
}

static void group_begin(struct world *w, uint64_t from, uint64_t to)
{
    w->merges++;
    w->group_count = 1;
    w->group[0] =
        (struct repl_log_record){.type = REPL_LOG_MERGE, .merge = {.from_seq = from, .to_seq = to}};
}

static void group_gone(struct world *w, uint64_t to, uint32_t part, uint64_t merge)
{
    w->group[w->group_count++] = (struct repl_log_record){
        .type = REPL_LOG_GONE, .gone = {.to_seq = to, .part = part, .merge = merge}};
}

/* Makes the file, with the chunk of the point it ends in, and what the log says of it. */
static void group_piece(struct world *w, uint64_t from, uint64_t to, uint32_t part, bool last)
{
    struct store_model *m = &w->m;
    struct repl_segment_footer footer;
    struct repl_digest prev = m->prev;
    model_begin(m, from, to, part);
    if (last) {
        uint64_t offset = to % 8 * REPL_CHUNK_SIZE;
        model_list(m, m->now + offset, model_frame(m, offset, REPL_CHUNK_SIZE));
    }
    struct repl_point point = model_point(m);
    good(w, repl_segment_builder_finish(m->builder, &point, last, &footer, &m->err));
    model_publish(m, &(struct repl_segment_id){.to_seq = to, .part = part, .merge = w->merges});
    m->prev = prev;
    struct repl_log_record *record = &w->group[w->group_count++];
    *record = (struct repl_log_record){.type = REPL_LOG_PIECE};
    struct repl_log_piece *piece = &record->piece;
    piece->commit = (struct repl_log_commit){.from_seq = from,
                                             .to_seq = to,
                                             .part = part,
                                             .lineage = 1,
                                             .file_size = footer.file_size,
                                             .volume_size = MODEL_SIZE,
                                             .digest = footer.digest,
                                             .has_point = last};
    piece->merge = w->merges;
    piece->link = last ? w->links[to] : footer.digest;
    if (last) {
        piece->commit.point = point;
        piece->unchanged_until_ns = point.end_ns;
    }
    if (from == 0) {
        piece->begin = (struct repl_record_place){1, part};
        piece->end = (struct repl_record_place){1, part + 1};
    }
}

/* As one append. */
static void group_end(struct world *w)
{
    struct store_model *m = &w->m;
    struct repl_buffer bytes = {0};
    w->group[0].merge.records = w->group_count - 1;
    for (uint32_t i = 0; i < w->group_count; i++) {
        uint8_t record[REPL_LOG_RECORD_SIZE_MAX];
        size_t size;
        w->group[i].number = ++m->record_number;
        repl_log_record_encode(&w->group[i], record, &size);
        good(w, repl_buffer_append(&bytes, record, size, &m->err));
    }
    good(w, m->store->ops->log_append(m->store, MODEL_VOLUME, m->log_end, bytes.data, bytes.size,
                                      &m->err));
    m->log_end += bytes.size;
    repl_buffer_fini(&bytes);
    chain_make(w);
}

/* (2, 5] as two pieces: 3.0, 4.0 and 5.0 are left over. */
static void merge_run(struct world *w)
{
    group_begin(w, 2, 5);
    group_piece(w, 2, 5, 0, false);
    group_piece(w, 2, 5, 1, true);
    group_end(w);
}

/* The base goes to 2: 1.0 and 2.0 are left over, 1.1 stays. */
static void merge_base(struct world *w)
{
    group_begin(w, 0, 2);
    group_gone(w, 1, 0, 0);
    group_piece(w, 0, 2, 0, true);
    group_end(w);
}

/* --- what was found -------------------------------------------------------------------------- */

/* The index has what the log says, and the chunks of all points. */
static void expect_index(struct world *w)
{
    struct repl_log_piece pieces[32];
    uint32_t count;
    bool more;
    good(w, repl_index_pieces(w->site.index, MODEL_VOLUME, 0, 0, pieces, 32, &count, &more,
                              &w->m.err));
    assert_int_equal(count, w->chain.count);
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(pieces[i].commit.to_seq, w->chain.entries[i].commit.to_seq);
        assert_int_equal(pieces[i].commit.part, w->chain.entries[i].commit.part);
        assert_int_equal(pieces[i].merge, w->chain.entries[i].merge);
        if (!pieces[i].commit.has_point)
            continue;
        struct repl_chunk_place place;
        bool found;
        good(w, repl_index_chunk(w->site.index, MODEL_VOLUME, &w->names[pieces[i].commit.to_seq],
                                 &place, &found, &w->m.err));
        assert_true(found);
        assert_int_equal(place.segment.to_seq, pieces[i].commit.to_seq);
    }
}

static void expect_good(struct world *w)
{
    const struct site_volume *v = w->volume;
    const struct repl_log_piece *last = &w->chain.entries[w->chain.count - 1];
    if (v->damaged[0] != '\0')
        fail_msg("%s", v->damaged);
    assert_int_equal(v->journal.head.to_seq, last->commit.to_seq);
    assert_int_equal(v->point_head.to_seq, last->commit.to_seq);
    assert_true(repl_digest_equal(&v->point_head.digest, &last->link));
    assert_int_equal(v->point_size, MODEL_SIZE);
    assert_int_equal(v->journal.group_left, 0);
    assert_int_equal(v->log_end, w->counting.begin + log_size(w)); /* cut */
    assert_false(v->has_found || v->index_behind || v->unsettled);
    expect_index(w);
}

static void expect_damaged(const struct world *w, const char *words)
{
    if (strstr(w->volume->damaged, words) == NULL)
        fail_msg("\"%s\" where \"%s\" was expected", w->volume->damaged, words);
}

/* By their names, in order, with a space behind each. */
static void expect_leftovers(const struct world *w, const char *expected)
{
    char all[400] = "";
    for (size_t i = 0; i < w->volume->leftover_count; i++) {
        char text[REPL_SEGMENT_ID_TEXT_SIZE];
        repl_segment_id_text(&w->volume->leftovers[i].id, text);
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s ", text);
    }
    assert_string_equal(all, expected);
}

static void index_lose(struct world *w)
{
    good(w, repl_index_drop(w->site.index, MODEL_VOLUME, &w->m.err));
}

/* --- tests ----------------------------------------------------------------------------------- */

/* The last append, which began at before, is torn at each byte, and nobody knows of it; then all of
 * it is there. */
static void tear(struct world *w, size_t before, const char *torn, const char *whole)
{
    struct repl_buffer log = {0};
    log_take(w, &log);
    for (size_t size = before; size < log.size; size++) {
        index_lose(w);
        log_put(w, &log, size);
        load(w);
        assert_int_equal(w->volume->log_end, before);
        chain_make(w);
        expect_good(w);
        expect_leftovers(w, torn);
    }
    index_lose(w);
    log_put(w, &log, log.size);
    load(w);
    assert_int_equal(w->volume->log_end, log.size);
    chain_make(w);
    expect_good(w);
    expect_leftovers(w, whole);
    /* now the index knows of it */
    for (size_t size = before; size < log.size; size += 7) {
        log_put(w, &log, size);
        load(w);
        expect_damaged(w, size == before ? "once went on to record" : "its log");
        assert_int_equal(log_size(w), size);
    }
    log_put(w, &log, log.size);
    load(w);
    expect_good(w);
    repl_buffer_fini(&log);
}

static void a_merge_is_cut_at_every_byte(void **state)
{
    struct world *w = *state;
    history(w);
    load(w);
    expect_good(w);
    expect_leftovers(w, "");
    size_t before = log_size(w);
    merge_run(w);
    tear(w, before, "5.0.m1 5.1.m1 ", "3.0 4.0 5.0 ");
    before = log_size(w);
    merge_base(w);
    tear(w, before, "2.0.m2 3.0 4.0 5.0 ", "1.0 2.0 3.0 4.0 5.0 ");
}

/* A full behind it says all: nothing comes in its place. */
static void what_is_needless_goes(void **state)
{
    struct world *w = *state;
    history(w);
    point_put(w, 0, 7, 0, false);
    point_put(w, 0, 7, 1, true);
    point_put(w, 7, 8, 0, true);
    chain_make(w);
    load(w);
    expect_good(w);
    size_t before = log_size(w);
    group_begin(w, 2, 6);
    group_end(w);
    tear(w, before, "", "3.0 4.0 5.0 6.0 ");
    before = log_size(w);
    group_begin(w, 0, 2);
    group_gone(w, 1, 0, 0);
    group_gone(w, 1, 1, 0);
    group_end(w);
    tear(w, before, "3.0 4.0 5.0 6.0 ", "1.0 1.1 2.0 3.0 4.0 5.0 6.0 ");
}

/* A power cut may have kept the end of what was written at once and not its middle. */
static void a_merge_is_torn_in_its_middle(void **state)
{
    struct world *w = *state;
    struct repl_buffer log = {0};
    history(w);
    size_t before = log_size(w);
    merge_run(w);
    log_take(w, &log);
    for (size_t at = before; at < log.size; at += 11) {
        index_lose(w);
        uint8_t byte = log.data[at];
        log.data[at] ^= 0x40;
        log_put(w, &log, log.size);
        log.data[at] = byte;
        load(w);
        assert_int_equal(w->volume->log_end, before);
        expect_leftovers(w, "5.0.m1 5.1.m1 ");
    }
    /* with a later append behind it, it was whole once */
    log_put(w, &log, log.size);
    point_put(w, 6, 7, 0, true);
    log_take(w, &log);
    for (size_t at = before; at < w->m.log_end - 220; at += 11) {
        index_lose(w);
        uint8_t byte = log.data[at];
        log.data[at] ^= 0x40;
        log_put(w, &log, log.size);
        log.data[at] = byte;
        load(w);
        expect_damaged(w, "its log at byte");
        assert_int_equal(log_size(w), log.size);
    }
    repl_buffer_fini(&log);
}

static void segment_remove(struct world *w, uint64_t to, uint32_t part)
{
    const struct repl_segment_id id = {.to_seq = to, .part = part};
    good(w, w->m.store->ops->segment_remove(w->m.store, MODEL_VOLUME, &id, &w->m.err));
}

/* Without the files that are not needed any more, too. */
static void a_lost_index_is_made_again(void **state)
{
    struct world *w = *state;
    history(w);
    merge_run(w);
    merge_base(w);
    for (unsigned round = 0; round < 2; round++) {
        load(w); /* which finds the index as it is */
        expect_good(w);
        good(w, repl_index_remake(w->site.index, &w->m.err));
        load(w);
        expect_good(w);
        expect_leftovers(w, round == 0 ? "1.0 2.0 3.0 4.0 5.0 " : "");
        for (uint64_t to = 1; to <= 5; to++)
            segment_remove(w, to, 0);
    }
    segment_remove(w, 1, 1);
    load(w);
    expect_damaged(w, "segment 1.1 is missing");
}

/* Whoever refers to what is in it would look for it in vain until the next start. */
static void a_supply_that_finds_no_room_is_not_left_out(void **state)
{
    struct world *w = *state;
    struct repl_segment_footer footer;
    struct repl_chunk_place place;
    bool found;
    history(w);
    load(w);
    model_begin(&w->m, 6, 7, 0);
    struct repl_digest name = model_chunk(&w->m, 0);
    good(w, repl_segment_builder_finish(w->m.builder, NULL, 0, &footer, &w->m.err));
    const struct repl_segment_id id = {.to_seq = 7, .supply = 1};
    model_publish(&w->m, &id);
    repl_index_break_sync(w->site.index, 1, ENOSPC);
    load(w);
    assert_true(w->volume->index_behind && w->volume->index_lost);
    load(w);
    expect_good(w);
    assert_false(w->volume->index_behind || w->volume->index_lost);
    good(w, repl_index_chunk(w->site.index, MODEL_VOLUME, &name, &place, &found, &w->m.err));
    assert_true(found && place.segment.supply == 1);
}

static void what_no_merge_accounts_for(void **state)
{
    struct world *w = *state;
    char path[400];
    history(w);
    /* behind the head: a commit that was cut short */
    struct repl_buffer log = {0};
    log_take(w, &log);
    point_put(w, 6, 7, 0, true);
    log_put(w, &log, log.size);
    w->m.log_end = log.size;
    w->m.record_number--;
    merge_run(w); /* of which the log knows, and not of 7.0 */
    load(w);
    expect_leftovers(w, "3.0 4.0 5.0 ");
    assert_false(w->volume->has_found);
    snprintf(path, sizeof path, "%s/volumes/%s/aside/%020u.%06u.seg.1", w->m.path, MODEL_VOLUME, 7u,
             0u);
    assert_int_equal(access(path, F_OK), 0);
    /* before the head, of no merge */
    group_begin(w, 0, 9);
    group_piece(w, 1, 2, 5, false);
    w->merges--;
    char merged[400];
    snprintf(merged, sizeof merged, "%s/volumes/%s/segments/%020u.%06u.%020u.mrg", w->m.path,
             MODEL_VOLUME, 2u, 5u, 2u);
    model_segment_path(&w->m, 2, 5, path);
    assert_int_equal(rename(merged, path), 0);
    load(w);
    expect_leftovers(w, "3.0 4.0 5.0 ");
    assert_int_equal(access(path, F_OK), -1); /* set aside */
    repl_buffer_fini(&log);
}

/* The log as it would be written anew. */
static void checkpoint(struct world *w)
{
    struct store_model *m = &w->m;
    struct repl_buffer bytes = {0};
    uint8_t record_bytes[REPL_LOG_RECORD_SIZE_MAX];
    size_t size;
    struct repl_log_record record = {.type = REPL_LOG_CHECKPOINT, .number = ++m->record_number};
    record.checkpoint.create = w->volume->journal.create;
    record.checkpoint.lineage = 1;
    record.checkpoint.records = (uint32_t)w->chain.count;
    repl_log_record_encode(&record, record_bytes, &size);
    good(w, repl_buffer_append(&bytes, record_bytes, size, &m->err));
    for (size_t i = 0; i < w->chain.count; i++) {
        record = (struct repl_log_record){.type = REPL_LOG_PIECE, .number = ++m->record_number};
        record.piece = w->chain.entries[i];
        repl_log_record_encode(&record, record_bytes, &size);
        good(w, repl_buffer_append(&bytes, record_bytes, size, &m->err));
    }
    struct repl_store *store = w->site.store;
    good(w, store->ops->log_replace(store, MODEL_VOLUME, bytes.data, bytes.size, &m->log_end,
                                    &m->err));
    repl_buffer_fini(&bytes);
    chain_make(w);
}

static void expect_position(struct world *w)
{
    uint64_t log_end, number;
    good(w, repl_index_position(w->site.index, MODEL_VOLUME, &log_end, &number, &w->m.err));
    assert_int_equal(number, w->m.record_number);
    assert_int_equal(log_end, w->m.log_end);
}

static void a_log_written_anew(void **state)
{
    struct world *w = *state;
    struct repl_buffer old = {0}, anew = {0};
    history(w);
    merge_run(w);
    merge_base(w);
    log_take(w, &old);
    load(w);
    uint64_t known = w->m.record_number;
    checkpoint(w);
    log_take(w, &anew);
    assert_true(anew.size < old.size);
    /* the index as of the old log, behind it, without anything */
    for (unsigned i = 0; i < 3; i++) {
        if (i > 0) {
            index_lose(w);
            log_put(w, &old, old.size);
        }
        if (i == 1)
            load(w); /* all of the old one */
        log_put(w, &anew, anew.size);
        load(w);
        expect_good(w);
        expect_position(w);
        assert_true(w->m.record_number > known);
        load(w);
        expect_good(w);
    }
    /* the old one, put back */
    log_put(w, &old, old.size);
    load(w);
    expect_damaged(w, "once went on to record");
    /* it was put in its place whole */
    for (size_t size = 1; size < anew.size; size += 13) {
        log_put(w, &anew, size);
        load(w);
        expect_damaged(w, "its log");
        index_lose(w);
        load(w);
        expect_damaged(w, "its log");
    }
    /* it goes on */
    log_put(w, &anew, anew.size);
    point_put(w, 6, 7, 0, true);
    chain_make(w);
    load(w);
    expect_good(w);
    expect_position(w);
    /* the index lags behind a second one */
    log_put(w, &anew, anew.size);
    index_lose(w);
    segment_remove(w, 7, 0);
    load(w);
    w->m.record_number--;
    w->m.log_end = anew.size;
    w->m.prev = w->links[6];
    point_put(w, 6, 7, 0, true);
    point_put(w, 7, 8, 0, true);
    chain_make(w);
    checkpoint(w);
    load(w);
    expect_good(w);
    expect_position(w);
    repl_buffer_fini(&old);
    repl_buffer_fini(&anew);
}

/* A point behind a log that does not begin at 0, as the store that has it counts. */
static void counting_point(struct world *w, uint64_t seq)
{
    w->m.log_end -= w->counting.begin;
    point_put(w, seq - 1, seq, 0, true);
    w->m.log_end += w->counting.begin;
    chain_make(w);
}

static void a_log_that_keeps_counting(void **state)
{
    struct world *w = *state;
    struct repl_buffer log = {0};
    w->counting = (struct counting_store){.base = {.ops = &counting_ops}, .inner = w->m.store};
    w->site.store = &w->counting.base;
    history(w);
    merge_run(w);
    load(w);
    expect_good(w);
    for (uint64_t seq = 7; seq <= 9; seq++) {
        checkpoint(w);
        assert_true(w->counting.begin > 0);
        counting_point(w, seq);
        /* the index is behind the checkpoint, at its end, lost */
        for (unsigned i = 0; i < 3; i++) {
            if (i == 2)
                index_lose(w);
            load(w);
            expect_good(w);
            expect_position(w);
        }
        /* a torn record, which is cut off where the store counts it to be */
        size_t before = log_size(w);
        log_take(w, &log);
        good(w, repl_buffer_append(&log, "RLOG", 4, &w->m.err));
        log_put(w, &log, log.size);
        load(w);
        expect_good(w);
        assert_int_equal(log_size(w), before);
        /* the last one is missing, and the index knows of it */
        log_put(w, &log, before - 10);
        load(w);
        expect_damaged(w, "its log at byte");
        log_put(w, &log, before);
        load(w);
        expect_good(w);
    }
    repl_buffer_fini(&log);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_merge_is_cut_at_every_byte),
        TEST(what_is_needless_goes),
        TEST(a_merge_is_torn_in_its_middle),
        TEST(a_lost_index_is_made_again),
        TEST(a_supply_that_finds_no_room_is_not_left_out),
        TEST(what_no_merge_accounts_for),
        TEST(a_log_written_anew),
        TEST(a_log_that_keeps_counting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
