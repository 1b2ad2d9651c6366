/*
 * Damage in a store directory: whatever one byte of a segment, a supply or the log is changed to,
 * and wherever one of them is cut off, each point is read exactly as it was, or refused in words
 * that name the place; and repl verify finds it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL_SIZE (UINT64_C(3) * 65536 + 8192 + 512)
#include "recover/restore.h"
#include "recover/restore_progress.h"
#include "recover/verify_history.h"
#include "unit/agent/recover/store_model.h"

#define POINTS 3u

struct fixture {
    struct store_model model;
    uint8_t *bytes; /* a volume */
    struct damage file;
    bool is_log;
    unsigned refused, same, findings, judged;
    struct repl_error err;
};

/* Bytes that compress to next to nothing, so that the segments stay small. */
static uint32_t small_data(struct store_model *m, uint64_t offset, size_t size)
{
    memset(m->now + offset, (int)random_below(&m->random, 256), size);
    random_fill(&m->random, m->now + offset, 16);
    return model_frame(m, offset, size);
}

static struct repl_digest small_chunk(struct store_model *m, uint64_t offset)
{
    uint32_t frame = small_data(m, offset, REPL_CHUNK_SIZE);
    return model_list(m, m->now + offset, frame);
}

/* 1: a full in two parts; 2: pages, zeros, a chunk of the full again; 3: a chunk of a supply. */
static void fill(struct store_model *m)
{
    static uint8_t chunk[REPL_CHUNK_SIZE], supplied[REPL_CHUNK_SIZE];
    model_begin(m, 0, 1, 0);
    struct repl_digest name = small_chunk(m, 0);
    memcpy(chunk, m->now, sizeof chunk);
    model_end(m, false);
    model_begin(m, 0, 1, 1);
    model_zero(m, REPL_CHUNK_SIZE, 2 * REPL_CHUNK_SIZE);
    small_data(m, 3 * REPL_CHUNK_SIZE, 8192 + 512);
    model_end(m, true);
    model_begin(m, 1, 2, 0);
    small_data(m, REPL_PAGE_SIZE, 2 * REPL_PAGE_SIZE);
    model_refer(m, 2 * REPL_CHUNK_SIZE, &name, chunk);
    model_zero(m, 3 * REPL_CHUNK_SIZE, REPL_PAGE_SIZE);
    model_end(m, true);
    memset(supplied, 0x5a, sizeof supplied);
    struct repl_digest other = model_supply(m, 3, supplied);
    model_begin(m, 2, 3, 0);
    model_refer(m, REPL_CHUNK_SIZE, &other, supplied);
    small_data(m, 3 * REPL_CHUNK_SIZE + 8192, 512);
    model_end(m, true);
    struct repl_log_record idle = {.type = REPL_LOG_IDLE,
                                   .time_ns = model_end_ns(3) + 4000000000,
                                   .idle = {.seq = 3, .until_ns = model_end_ns(3) + 3000000000}};
    model_log(m, &idle);
}

static int set_up(void **state)
{
    static struct fixture f;
    f = (struct fixture){.bytes = malloc(MODEL_SIZE)};
    *state = &f;
    setenv("TMPDIR", "/dev/shm", 0); /* where a sync costs nothing */
    model_init(&f.model);
    fill(&f.model);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    model_fini(&f->model);
    damage_fini(&f->file);
    free(f->bytes);
    return 0;
}

static void choose(struct fixture *f, const char *path)
{
    damage_take(&f->file, path);
    f->refused = f->same = f->findings = 0;
}

/* --- the verdict ----------------------------------------------------------------------------- */

static repl_result read_point(struct fixture *f, struct repl_history *history, size_t point)
{
    struct repl_view *view;
    struct repl_view_reader *reader;
    REPL_TRY(repl_history_view(history, point, &view, &f->err));
    repl_result result = repl_view_reader_new(view, 4, &reader, &f->err);
    if (repl_ok(result))
        result = repl_view_read(reader, 0, f->bytes, MODEL_SIZE, &f->err);
    repl_view_reader_free(reader);
    repl_view_free(view);
    return result;
}

static void finding(void *context, const char *text)
{
    struct fixture *f = context;
    assert_true(text[0] != '\0');
    f->findings++;
}

/* Whatever can be read is what it was; what cannot, says where. */
static void points_judge(struct fixture *f, struct repl_history *history)
{
    const struct repl_catalogue *c = repl_history_catalogue(history);
    bool all = true;
    for (size_t i = 0; i < c->point_count; i++) {
        uint64_t seq = c->points[i].point.seq;
        assert_in_range(seq, 1, POINTS);
        f->err.text[0] = '\0';
        repl_result result = read_point(f, history, i);
        if (repl_ok(result)) {
            assert_memory_equal(f->bytes, f->model.points[seq], MODEL_SIZE);
            continue;
        }
        all = false;
        if (strstr(f->err.text, "segment") == NULL && strstr(f->err.text, "supply") == NULL)
            fail_msg("no place is named: %s", f->err.text);
    }
    bool told = c->damaged || c->note[0] != '\0';
    if (c->point_count < POINTS && !told)
        fail_msg("%zu points are listed, and nothing is said of the others", c->point_count);
    f->same += all && !told;
    f->refused += !all || told;
}

/* The digest of the whole, or a record's checksum, misses nothing. */
static void verify_judge(struct fixture *f, struct repl_history *history)
{
    const struct repl_verify_options options = {
        .history = history, .threads = 1, .finding = finding, .context = f};
    struct repl_verify_result result;
    const struct repl_catalogue *c = repl_history_catalogue(history);
    unsigned before = f->findings;
    bool told = c->damaged || c->note[0] != '\0';
    assert_true(repl_ok(repl_verify_history(&options, &result, &f->err)));
    /* Cut off where a record ends, a log may lack what was written last and is no point. */
    bool shorter = f->is_log && c->point_count == POINTS;
    if (f->findings == before && !told && !shorter)
        fail_msg("repl verify finds nothing");
    repl_verify_result_fini(&result);
}

static void judge(struct fixture *f)
{
    struct repl_origin *origin;
    struct repl_history *history;
    f->err.text[0] = '\0';
    assert_true(repl_ok(model_origin_open(f->model.path, MODEL_VOLUME, &origin, &f->err)));
    if (!repl_ok(repl_history_open(origin, &history, &f->err))) {
        assert_true(f->is_log); /* segments are read only when they are wanted */
        if (strstr(f->err.text, MODEL_VOLUME) == NULL)
            fail_msg("no volume is named: %s", f->err.text);
        f->refused++;
        return;
    }
    points_judge(f, history);
    if (f->judged++ % 4 == 0) /* it starts threads, which takes most of the time */
        verify_judge(f, history);
    repl_history_close(history);
}

static void damage_all(struct fixture *f)
{
    for (size_t i = 0; i < f->file.size; i += DAMAGE_STEP) {
        f->file.bytes[i] ^= (uint8_t)(1u << i % 8);
        damage_put(&f->file, f->file.size);
        judge(f);
        f->file.bytes[i] ^= (uint8_t)(1u << i % 8);
    }
    for (size_t size = f->file.size; size-- > 0;) {
        damage_put(&f->file, size);
        judge(f);
    }
    damage_put(&f->file, f->file.size);
    printf("%s, %zu bytes: %u refused, %u read the same\n", strrchr(f->file.path, '/') + 1,
           f->file.size, f->refused, f->same);
}

/* Bytes that no point is made of: the lists of what is in a segment's pages. repl verify reads
 * them. */
static unsigned listed_bytes(const struct fixture *f)
{
    struct memory_span span = {f->file.bytes, f->file.size};
    struct repl_segment *segment;
    uint64_t bytes = 0;
    assert_true(repl_ok(repl_segment_open(memory_read_at, &span, span.size, &segment, NULL)));
    for (uint32_t i = 0; i < segment->footer.frame_count; i++)
        bytes += segment->frames[i].has_pages ? repl_frame_pages_size(&segment->frames[i]) : 0;
    repl_segment_free(segment);
    return (unsigned)bytes;
}

static void segments_and_supplies(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint64_t to;
        uint32_t part;
    } segments[] = {{1, 0}, {1, 1}, {2, 0}, {3, 0}};
    char path[400];
    for (size_t i = 0; i < sizeof segments / sizeof segments[0]; i++) {
        model_segment_path(&f->model, segments[i].to, segments[i].part, path);
        choose(f, path);
        damage_all(f);
        assert_true(f->same <= listed_bytes(f) / DAMAGE_STEP + 1 + f->refused / 10);
    }
    snprintf(path, sizeof path, "%s/volumes/%s/segments/%020u.%06u.%03u.sup", f->model.path,
             MODEL_VOLUME, 3u, 0u, 1u);
    choose(f, path);
    damage_all(f);
}

static void the_log(void **state)
{
    struct fixture *f = *state;
    char path[400];
    snprintf(path, sizeof path, "%s/volumes/%s/log", f->model.path, MODEL_VOLUME);
    f->is_log = true;
    choose(f, path);
    damage_all(f);
}

/* --- how far a restore came ------------------------------------------------------------------ */

#define PIECES 700u /* in two pages */

static uint64_t piece_hash(size_t piece)
{
    return piece % 3 == 0 ? 0 : 1000 + piece;
}

/* Refused with what to do, or each piece is as it was, or counts as not done. */
static void progress_judge(struct fixture *f, const struct repl_restore_plan *plan)
{
    static uint64_t hashes[PIECES];
    struct repl_restore_progress *progress;
    bool resumed, all = true;
    memset(hashes, 0, sizeof hashes);
    f->err.text[0] = '\0';
    if (!repl_ok(repl_restore_progress_open(f->file.path, plan, false, hashes, &progress, &resumed,
                                            &f->err))) {
        if (strstr(f->err.text, f->file.path) == NULL || strstr(f->err.text, "--overwrite") == NULL)
            fail_msg("%s", f->err.text);
        f->refused++;
        return;
    }
    assert_true(resumed);
    for (size_t i = 0; i < PIECES; i++) {
        assert_true(hashes[i] == 0 || hashes[i] == piece_hash(i));
        all = all && hashes[i] == piece_hash(i);
    }
    f->same += all;
    repl_restore_progress_close(progress);
}

static void the_progress_of_a_restore(void **state)
{
    struct fixture *f = *state;
    static uint64_t hashes[PIECES];
    const struct repl_restore_plan plan = {.volume = {{7}},
                                           .seq = 3,
                                           .volume_size =
                                               (uint64_t)PIECES * REPL_RESTORE_PIECE_SIZE - 5,
                                           .identity = "file:/srv/disk.img"};
    struct repl_restore_progress *progress;
    bool resumed;
    char path[400];
    snprintf(path, sizeof path, "%s/progress", f->model.temporary.path);
    assert_true(repl_ok(
        repl_restore_progress_open(path, &plan, false, hashes, &progress, &resumed, &f->err)));
    for (size_t i = 0; i < PIECES; i++)
        repl_restore_progress_note(progress, i, piece_hash(i));
    assert_true(repl_ok(repl_restore_progress_take(progress, &f->err)));
    assert_true(repl_ok(repl_restore_progress_save(progress, &f->err)));
    repl_restore_progress_close(progress);
    choose(f, path);
    progress_judge(f, &plan);
    assert_int_equal(f->same, 1);
    for (size_t bit = 0; bit < 8 * f->file.size; bit += DAMAGE_STEP) {
        f->file.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, f->file.bytes + bit / 8, 1, (off_t)(bit / 8)), 1);
        progress_judge(f, &plan);
        f->file.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(pwrite(fd, f->file.bytes + bit / 8, 1, (off_t)(bit / 8)), 1);
        close(fd);
    }
    assert_int_equal(f->same, 1);
    for (size_t size = f->file.size; size-- > 1;) {
        assert_int_equal(truncate(path, (off_t)size), 0);
        progress_judge(f, &plan);
    }
    printf("progress, %zu bytes: %u refused, the rest is restored again\n", f->file.size,
           f->refused);
    assert_int_equal(f->same, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(segments_and_supplies, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_log, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_progress_of_a_restore, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
