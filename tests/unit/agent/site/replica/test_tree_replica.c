/*
 * The replica of a directory tree: brought from point to point, interrupted at
 * every place, changed by others; and what directories are refused. What it has
 * to be, a restore says that would change nothing.
 */
#include <dirent.h>
#include <ftw.h>
#include <sys/ioctl.h>

#include "site/replica/tree_replica.h"
#include "unit/agent/recover/tree_model.h"

struct world {
    struct fixture f;
    struct repl_index *index;
    struct replica_tree tree;
    struct repl_head heads[MODEL_POINTS_MAX];
    atomic_bool stop;
    atomic_int_least64_t alive_ns;
    struct repl_error err;
};

static void must(struct world *w, repl_result result)
{
    if (!repl_ok(result))
        fail_msg("%s: %s", repl_code_name(result.code), w->err.text);
}

static int world_set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    char path[400];
    void *inner;
    assert_int_equal(set_up(&inner), 0);
    memcpy(&w->f, inner, sizeof w->f);
    free(inner);
    w->f.options.context = &w->f;
    w->f.options.interrupted = &w->f.interrupted;
    snprintf(path, sizeof path, "%s/index", w->f.model.temporary.path);
    must(w, repl_index_open(path, true, &w->index, &w->err));
    snprintf(w->tree.path, sizeof w->tree.path, "%s/replica", w->f.model.temporary.path);
    w->tree.image = true;
    w->tree.volume = w->f.model.uuid;
    w->tree.journal = (struct replica_journal){
        .store = w->f.model.store, .index = w->index, .volume = MODEL_VOLUME};
    w->tree.pulse = (struct replica_pulse){&w->stop, &w->alive_ns};
    w->tree.top_fd = -1;
    *state = w;
    return 0;
}

static int world_tear_down(void **state)
{
    struct world *w = *state;
    if (w->tree.top_fd >= 0)
        replica_tree_close(&w->tree);
    repl_index_close(w->index);
    repl_history_close(w->f.history);
    repl_buffer_fini(&w->f.list.bytes);
    model_fini(&w->f.model);
    free(w);
    return 0;
}

/* --- points ---------------------------------------------------------------------------------- */

/* What the log has and the index has not. */
static void index_follow(struct world *w)
{
    struct repl_buffer log = {0};
    uint64_t end, number;
    struct repl_store *store = w->f.model.store;
    must(w, store->ops->log_read(store, MODEL_VOLUME, &log, NULL, &w->err));
    must(w, repl_index_position(w->index, MODEL_VOLUME, &end, &number, &w->err));
    while (end < log.size) {
        struct repl_log_record record;
        struct repl_stored_segment *file = NULL;
        struct repl_segment *segment = NULL;
        size_t size;
        must(w, repl_log_record_decode(log.data + end, log.size - end, &record, &size, &w->err));
        if (record.type == REPL_LOG_COMMIT) {
            const struct repl_segment_id id = {.to_seq = record.commit.to_seq,
                                               .part = record.commit.part};
            must(w, store->ops->segment_open(store, MODEL_VOLUME, &id, 0, &file, &w->err));
            must(w, repl_segment_open(repl_stored_segment_read_at, file, file->size, &segment,
                                      &w->err));
            w->heads[id.to_seq] = (struct repl_head){.from_seq = record.commit.from_seq,
                                                     .to_seq = id.to_seq,
                                                     .part = id.part,
                                                     .has_point = record.commit.has_point,
                                                     .digest = record.commit.digest};
        }
        end += size;
        const struct repl_index_record added = {
            .record = &record,
            .chunks = segment != NULL ? segment->chunks : NULL,
            .chunk_count = segment != NULL ? segment->footer.chunk_count : 0};
        must(w, repl_index_apply(w->index, MODEL_VOLUME, &added, 1, end, &w->err));
        repl_segment_free(segment);
        if (file != NULL)
            file->close(file);
    }
    repl_buffer_fini(&log);
}

static void point_done(struct world *w)
{
    point_end(&w->f);
    index_follow(w);
}

static void gone(struct world *w, uint64_t object)
{
    node(&w->f, object, (struct repl_node){.kind = REPL_NODE_GONE});
}

/* --- the replica ----------------------------------------------------------------------------- */

static void reopen(struct world *w)
{
    if (w->tree.top_fd >= 0)
        replica_tree_close(&w->tree);
    must(w, replica_tree_open(&w->tree, &w->err));
}

static void begin_at(struct world *w, uint64_t seq)
{
    reopen(w);
    must(w, replica_tree_compare(&w->tree, &w->heads[seq], &w->err));
}

static void advance(struct world *w, uint64_t seq)
{
    must(w, replica_tree_advance(&w->tree, &w->heads[seq], &w->err));
    assert_int_equal(w->tree.map.phase, REPLICA_AT);
}

static unsigned entry_count(const char *path)
{
    unsigned count = 0;
    DIR *stream = opendir(path);
    if (stream == NULL)
        return 0;
    while (readdir(stream) != NULL)
        count++;
    closedir(stream);
    return count - 2;
}

/* A restore would find nothing to do. */
static void expect_point(struct world *w, uint64_t seq)
{
    char staging[PATH_MAX + 32];
    struct fixture *f = &w->f;
    snprintf(f->to, sizeof f->to, "%.280s/tree", w->tree.path);
    f->options.to = f->to;
    f->options.state = f->state;
    f->options.dry_run = f->options.exact = f->options.overwrite = true;
    restore_well(f, seq);
    if (change_count(f) != 0)
        fail_msg("point %llu is not there:\n%s", (unsigned long long)seq, f->changes);
    snprintf(staging, sizeof staging, "%s/.repl/staging", w->tree.path);
    assert_int_equal(entry_count(staging), 0);
}

/* --- a point with a bit of everything -------------------------------------------------------- */

/* After full_make: contents, sizes, names that go round, links, directories that move into and out
 * of others, that are new, or gone with something in them, kinds that change under a name. */
static void everything_changes(struct world *w)
{
    struct fixture *f = &w->f;
    point_begin(f, 1, 2);
    model_data(&f->model, 4096, 4096);                  /* of file */
    model_data(&f->model, 24576, 4096);                 /* of the odd name */
    model_data(&f->model, 32768 + 8192 + 204800, 4096); /* of below, where another run of it is */
    model_data(&f->model, 600u << 10, 8192);            /* for what is new */
    node(f, 2, directory_node);
    NAMES(f, 2, {"hard", 0}, {"moved", 14}, {"empty", 12}, {"\xff\xfe\x1b[2J", 4}, {"fifo", 20},
          {"private", 0}, {"dir", 21}, {"char", 0}, {"link", 23}, {"sock", 10 + 12});
    node(f, 5, (struct repl_node){.kind = REPL_NODE_DIRECTORY, .mode = 0700, .gid = 8});
    NAMES(f, 5, {"below", 0}, {"inside", 15});
    gone(w, 6);
    gone(w, 7);
    gone(w, 8);
    gone(w, 10);
    node(f, 11, file_node(3000)); /* sparse is shorter */
    node(f, 12, file_node(9000)); /* longer, by a hole and a page */
    run(f, 12, 8192, 4096, 600u << 10);
    node(f, 13, (struct repl_node){.kind = REPL_NODE_FILE, .mode = 0400, .size = 1});
    xattr(f, 13, "user.new", "v", 1, 0);
    node(f, 20, (struct repl_node){.kind = REPL_NODE_DIRECTORY, .mode = 0755});
    NAMES(f, 20, {"deeper", 5}, {"new", 24});
    node(f, 21, file_node(4096));
    run(f, 21, 0, 4096, (600u << 10) + 4096);
    node(f, 22, (struct repl_node){.kind = REPL_NODE_FIFO, .mode = 0600});
    node(f, 23,
         (struct repl_node){
             .kind = REPL_NODE_SYMLINK, .mode = 0777, .target = "new", .target_size = 3});
    node(f, 24, file_node(10000));
    xattr(f, 24, "user.long", NULL, LONG, 256u << 10);
    run(f, 24, 0, 12288, 0); /* shares its place with file, whose bytes are partly of before */
    point_done(w);
}

static void test_everything_changes(void **state)
{
    struct world *w = *state;
    full_make(&w->f, 1);
    index_follow(w);
    begin_at(w, 1);
    expect_point(w, 1);
    everything_changes(w);
    struct stat block = stat_of(&w->f, "block");
    reopen(w);
    advance(w, 2);
    expect_point(w, 2);
    assert_int_equal(stat_of(&w->f, "block").st_ctim.tv_nsec, block.st_ctim.tv_nsec);
    point_begin(&w->f, 2, 3); /* nothing but a time that nobody changed */
    point_done(w);
    advance(w, 3);
    expect_point(w, 3);
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status, (void)type, (void)where;
    return remove(path);
}

/* Ended at each step in turn, begun again; and at two of them. */
static void interrupted_everywhere(struct world *w, bool twice)
{
    bool ended = false;
    full_make(&w->f, 1);
    index_follow(w);
    everything_changes(w);
    for (unsigned k = 1; !ended; k += twice ? 3 : 1) {
        begin_at(w, 1);
        for (unsigned again = 0; again < (twice ? 2 : 1) && !ended; again++) {
            w->tree.steps = 0;
            w->tree.fail_step = k + again * 2;
            repl_result result = replica_tree_advance(&w->tree, &w->heads[2], &w->err);
            ended = repl_ok(result);
            if (!ended)
                assert_int_equal(result.code, REPL_E_RETRY);
            reopen(w);
        }
        w->tree.fail_step = 0;
        if (w->tree.map.phase != REPLICA_AT || w->tree.map.reached.to_seq != 2)
            advance(w, 2);
        assert_false(w->tree.contradicts);
        expect_point(w, 2);
        replica_tree_close(&w->tree);
        assert_int_equal(nftw(w->tree.path, remove_one, 32, FTW_DEPTH | FTW_PHYS), 0);
        assert_true(k < 1000);
    }
}

static void test_interrupted(void **state)
{
    interrupted_everywhere(*state, false);
}

static void test_interrupted_twice(void **state)
{
    interrupted_everywhere(*state, true);
}

/* --- readers --------------------------------------------------------------------------------- */

static void test_reader_sees_whole_files(void **state)
{
    struct world *w = *state;
    struct fixture *f = &w->f;
    uint8_t has[10000];
    full_make(f, 1);
    index_follow(w);
    begin_at(w, 1);
    snprintf(f->to, sizeof f->to, "%.280s/tree", w->tree.path);
    int fd = open(path_of(f, "dir/hard"), O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    point_begin(f, 1, 2);
    model_data(&f->model, 0, 8192);
    point_done(w);
    for (unsigned k = 1;; k++) { /* at no step is there anything else */
        w->tree.steps = 0;
        w->tree.fail_step = k;
        bool ended = repl_ok(replica_tree_advance(&w->tree, &w->heads[2], &w->err));
        int now = open(path_of(f, "file"), O_RDONLY | O_CLOEXEC);
        assert_int_equal(pread(now, has, sizeof has, 0), sizeof has);
        close(now);
        assert_true(memcmp(has, f->model.points[1], sizeof has) == 0 ||
                    memcmp(has, f->model.points[2], sizeof has) == 0);
        if (ended)
            break;
    }
    assert_content(f, "hard", 0, f->model.points[2], sizeof has);
    assert_int_equal(pread(fd, has, sizeof has, 0), sizeof has);
    assert_memory_equal(has, f->model.points[1], sizeof has);
    close(fd);
    w->tree.fail_step = 0;
    expect_point(w, 2);
}

/* Too large for a copy, where there are no clones. */
static void test_in_place(void **state)
{
    struct world *w = *state;
    struct fixture *f = &w->f;
    uint64_t size = REPLICA_COPY_MAX + 5000;
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    NAMES(f, 2, {"large", 3});
    node(f, 3, file_node(size));
    run(f, 3, 0, 131072, 0);
    run(f, 3, REPLICA_COPY_MAX, 8192, 131072);
    point_done(w);
    begin_at(w, 1);
    expect_point(w, 1);
    struct stat before = stat_of(f, "large");
    point_begin(f, 1, 2);
    model_data(&f->model, 8192, 4096);
    model_zero(&f->model, 16384, 65536);
    model_data(&f->model, 135168, 4096);
    NAMES(f, 2, {"large", 0}, {"renamed", 3});
    node(f, 3, file_node(size - 1));
    run(f, 3, 1u << 20, 4096, 262144); /* bytes of before, in a place that is new to it */
    point_done(w);
    w->tree.no_clone = true;
    advance(w, 2);
    expect_point(w, 2);
    assert_int_equal(stat_of(f, "renamed").st_ino, before.st_ino);
    assert_true(stat_of(f, "renamed").st_blocks * 512 < 262144);
}

/* --- others ---------------------------------------------------------------------------------- */

static void expect_contradiction(struct world *w, uint64_t seq)
{
    repl_result result = replica_tree_advance(&w->tree, &w->heads[seq], &w->err);
    assert_int_equal(result.code, REPL_E_CORRUPT);
    assert_true(w->tree.contradicts);
    must(w, replica_tree_compare(&w->tree, &w->heads[seq], &w->err));
    expect_point(w, seq);
}

static void test_changed_by_hand(void **state)
{
    struct world *w = *state;
    struct fixture *f = &w->f;
    full_make(f, 1);
    index_follow(w);
    begin_at(w, 1);
    expect_point(w, 1);
    for (uint64_t seq = 2; seq < 6; seq++) {
        switch (seq) {
        case 2: /* another content, seen by its time */
            write_file(f, "dir/below", "mine");
            break;
        case 3: /* away */
            assert_int_equal(unlink(path_of(f, "dir/below")), 0);
            break;
        case 4: /* a link that leads elsewhere in its place */
            assert_int_equal(unlink(path_of(f, "dir/below")), 0);
            assert_int_equal(symlink("/etc/passwd", path_of(f, "dir/below")), 0);
            break;
        default: /* its directory is another one */
            assert_int_equal(rename(path_of(f, "dir"), path_of(f, "other")), 0);
            assert_int_equal(symlink("other", path_of(f, "dir")), 0);
            break;
        }
        point_begin(f, seq - 1, seq);
        model_data(&f->model, 32768, 4096);
        point_done(w);
        expect_contradiction(w, seq);
    }
}

static void test_map_lost(void **state)
{
    struct world *w = *state;
    full_make(&w->f, 1);
    index_follow(w);
    begin_at(w, 1);
    replica_tree_close(&w->tree);
    int fd = open(w->tree.map.path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "damage", 6, 16), 6);
    assert_int_equal(pwrite(fd, "damage", 6, 4096 + 16), 6);
    close(fd);
    reopen(w);
    assert_int_equal(w->tree.map.phase, REPLICA_EMPTY);
    everything_changes(w);
    must(w, replica_tree_compare(&w->tree, &w->heads[2], &w->err));
    expect_point(w, 2);
}

/* As by a site that crashes each time. */
static void test_opened_in_vain(void **state)
{
    struct world *w = *state;
    full_make(&w->f, 1);
    index_follow(w);
    begin_at(w, 1);
    replica_tree_succeeded(&w->tree);
    for (unsigned i = 0; i < 5; i++) {
        reopen(w);
        assert_int_equal(w->tree.map.phase, REPLICA_AT);
    }
    reopen(w);
    assert_int_equal(w->tree.map.phase, REPLICA_EMPTY);
    begin_at(w, 1);
    replica_tree_succeeded(&w->tree);
    reopen(w);
    assert_int_equal(w->tree.map.phase, REPLICA_AT);
    expect_point(w, 1);
}

/* Of a point with something in it that makes no sense, all else is there, and that is said again
 * without another comparison. */
static void test_faults(void **state)
{
    struct world *w = *state;
    struct fixture *f = &w->f;
    full_make(f, 1);
    point_begin(f, 1, 2);
    NAMES(f, 2, {"nothing", 99}, {"more", 30});
    node(f, 30, file_node(0));
    point_done(w);
    reopen(w);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(replica_tree_compare(&w->tree, &w->heads[2], &w->err).code,
                         REPL_E_CORRUPT);
        snprintf(f->to, sizeof f->to, "%.280s/tree", w->tree.path);
        assert_int_equal(is_there(f, "more"), i == 0);
        if (i == 0)
            assert_int_equal(unlink(path_of(f, "more")), 0);
    }
    w->tree.compare_again_ns = 0;
    begin_at(w, 1);
    expect_point(w, 1);
    assert_int_equal(replica_tree_advance(&w->tree, &w->heads[2], &w->err).code, REPL_E_CORRUPT);
    assert_true(w->tree.contradicts);
}

static void test_refused(void **state)
{
    struct world *w = *state;
    char path[PATH_MAX + 32];
    full_make(&w->f, 1);
    index_follow(w);
    assert_int_equal(replica_tree_open(&w->tree, &w->err).code, REPL_OK);
    struct replica_tree other = w->tree;
    other.map = (struct replica_map){.env = NULL};
    assert_int_equal(replica_tree_open(&other, &w->err).code, REPL_E_LOCKED);
    replica_tree_close(&w->tree);
    w->tree.volume.bytes[3] ^= 1;
    assert_int_equal(replica_tree_open(&w->tree, &w->err).code, REPL_E_REFUSED);
    assert_non_null(strstr(w->err.text, "another volume"));

    snprintf(w->tree.path, sizeof w->tree.path, "%s/mine", w->f.model.temporary.path);
    w->tree.image = false;
    assert_int_equal(replica_tree_open(&w->tree, &w->err).code, REPL_E_MISSING);
    assert_int_equal(mkdir(w->tree.path, 0755), 0);
    snprintf(path, sizeof path, "%s/file", w->tree.path);
    assert_int_equal(mkdir(path, 0755), 0);
    assert_int_equal(replica_tree_open(&w->tree, &w->err).code, REPL_E_REFUSED);
    assert_non_null(strstr(w->err.text, "not empty"));
    assert_int_equal(entry_count(w->tree.path), 1);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(replica_tree_open(&w->tree, &w->err).code, REPL_OK);
    replica_tree_close(&w->tree);
    snprintf(w->tree.path, sizeof w->tree.path, "/dev/null");
    assert_int_equal(replica_tree_open(&w->tree, &w->err).code, REPL_E_REFUSED);
    assert_non_null(strstr(w->err.text, "no directory"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, world_set_up, world_tear_down)
        TEST(test_everything_changes),
        TEST(test_interrupted),
        TEST(test_interrupted_twice),
        TEST(test_reader_sees_whole_files),
        TEST(test_in_place),
        TEST(test_changed_by_hand),
        TEST(test_map_lost),
        TEST(test_opened_in_vain),
        TEST(test_faults),
        TEST(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
