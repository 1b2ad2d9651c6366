/*
 * A site that is given a directory tree: it takes it as it takes a block volume,
 * lists and gives out what it has, and keeps a directory that is as it was.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "recover/verify_history.h"
#include "repl/view.h"
#include "segment/tree_merge.h"
#include "source/recover_job.h"
#include "unit/agent/site/site_fixture.h"
#include "unit/segment/tree_list.h"

#define SEGMENTS_MAX 4

static int setup(void **state)
{
    static struct world w;
    world_init(&w, NULL);
    w.kind = REPL_VOLUME_TREE;
    site_start(&w);
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

/* --- the source ------------------------------------------------------------------------------ */

/* Ends the segment with these records and frees them. */
static void tree_end(struct build *b, struct list *list, bool has_point)
{
    repl_segment_builder_records(b->builder, list_next, list);
    build_end(b, has_point);
    repl_buffer_fini(&list->bytes);
    list->at = 0;
}

static void space_fill(struct build *b)
{
    for (uint64_t at = 0; at + MIB <= b->w->size; at += MIB)
        build_data(b, at, MIB);
    build_data(b, b->w->size - b->w->size % MIB, b->w->size % MIB);
}

/* Without flags that would keep the replica's from being removed. */
static struct repl_node plain_file(uint64_t size)
{
    struct repl_node node = tree_file(size);
    node.flags = 0;
    return node;
}

/* All there is, in a full that ends in the next point: the top directory and one file, which is all
 * of the space. */
static void tree_full(struct world *w)
{
    struct build b;
    struct list list = {.at = 0};
    build_begin(&b, w, 0, w->head.to_seq + 1, 0);
    space_fill(&b);
    list_node(&list, 2, tree_directory);
    list_name(&list, 2, "file", 3);
    list_node(&list, 3, plain_file(w->size));
    list_run(&list, 3, 0, w->size, 0);
    tree_end(&b, &list, true);
    build_commit(&b);
}

static void tree_seed(struct world *w)
{
    hello(w);
    tree_full(w);
}

/* A rename, and nothing else. */
static void rename_only(struct world *w, const char *from, const char *to)
{
    struct build b;
    struct list list = {.at = 0};
    bool in_order = repl_xxh3(from, strlen(from)) < repl_xxh3(to, strlen(to));
    build_begin(&b, w, w->head.to_seq, w->head.to_seq + 1, 0);
    list_name(&list, 2, in_order ? from : to, in_order ? 0 : 3);
    list_name(&list, 2, in_order ? to : from, in_order ? 3 : 0);
    tree_end(&b, &list, true);
    build_commit(&b);
}

/* --- reading back ---------------------------------------------------------------------------- */

struct history {
    struct repl_buffer bytes[SEGMENTS_MAX];
    struct memory_span spans[SEGMENTS_MAX];
    struct repl_segment *segments[SEGMENTS_MAX]; /* oldest first */
    size_t count;
};

/* All that the site lists, verified. */
static void history_get(struct world *w, struct history *h)
{
    struct repl_segments_page page;
    struct repl_error err = {0};
    char path[128];
    *h = (struct history){.count = 0};
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/segments/after/0.0"), 200);
    must(repl_segments_page_decode(w->response.data, w->response.size, &page, &err), &err);
    assert_in_range(page.count, 1, SEGMENTS_MAX);
    for (; h->count < page.count; h->count++) {
        const struct repl_head *head = &page.entries[h->count].head;
        struct repl_buffer *bytes = &h->bytes[h->count];
        snprintf(path, sizeof path, "/v1/volumes/data/segments/%llu.%u",
                 (unsigned long long)head->to_seq, head->part);
        assert_int_equal(get(w, KEY_RECOVERY, path), 200);
        must(repl_buffer_append(bytes, w->response.data, w->response.size, &err), &err);
        h->spans[h->count] = (struct memory_span){bytes->data, bytes->size};
        must(repl_segment_open(memory_read_at, &h->spans[h->count], bytes->size,
                               &h->segments[h->count], &err),
             &err);
        must(repl_segment_verify(h->segments[h->count], w->coder, &err), &err);
        assert_true(repl_digest_equal(&h->segments[h->count]->footer.digest, &head->digest));
    }
    repl_segments_page_fini(&page);
}

static void history_free(struct history *h)
{
    for (size_t i = 0; i < h->count; i++) {
        repl_segment_free(h->segments[i]);
        repl_buffer_fini(&h->bytes[i]);
    }
}

static repl_result view_segment(void *context, size_t i, const struct repl_segment **out,
                                struct repl_error *err)
{
    const struct history *h = context;
    (void)err;
    *out = i < h->count ? h->segments[h->count - 1 - i] : NULL;
    return REPL_SUCCESS;
}

static repl_result view_chunk(void *context, const struct repl_digest *name,
                              const struct repl_segment **segment, uint32_t *frame,
                              uint32_t *frame_offset, struct repl_error *err)
{
    const struct history *h = context;
    for (size_t i = 0; i < h->count; i++) {
        const struct repl_segment *s = h->segments[i];
        for (uint32_t k = 0; k < s->footer.chunk_count; k++) {
            if (!repl_digest_equal(&s->chunks[k].name, name))
                continue;
            *segment = s;
            *frame = s->chunks[k].frame;
            *frame_offset = s->chunks[k].frame_offset;
            return REPL_SUCCESS;
        }
    }
    return repl_fail(err, REPL_E_MISSING, "no such chunk");
}

/* The space as it is at the newest point is the source's. */
static void expect_space(struct world *w, struct history *h)
{
    struct repl_view *view;
    struct repl_view_reader *reader;
    struct repl_error err = {0};
    uint8_t *bytes = malloc(w->size);
    assert_non_null(bytes);
    must(repl_view_open(view_segment, view_chunk, h, &view, &err), &err);
    must(repl_view_reader_new(view, 4, &reader, &err), &err);
    assert_int_equal(repl_view_size(view), w->size);
    must(repl_view_read(reader, 0, bytes, w->size, &err), &err);
    assert_memory_equal(bytes, w->model, w->size);
    repl_view_reader_free(reader);
    repl_view_free(view);
    free(bytes);
}

/* What is said of names at the newest point is this one. */
static void expect_only_name(struct world *w, const struct history *h, const char *name)
{
    struct repl_tree_merge *merge;
    struct repl_error err = {0};
    unsigned names = 0;
    must(repl_tree_merge_new(
             &(struct repl_tree_merge_options){.segments =
                                                   (const struct repl_segment *const *)h->segments,
                                               .segment_count = h->count,
                                               .full = true},
             w->coder, &merge, &err),
         &err);
    for (bool done = false; !done;) {
        struct repl_record record;
        must(repl_tree_merge_next(merge, &record, &done, &err), &err);
        if (done || record.type != REPL_RECORD_NAME)
            continue;
        names++;
        assert_true(record.name_size == strlen(name));
        assert_memory_equal(record.name, name, record.name_size);
    }
    repl_tree_merge_free(merge);
    assert_int_equal(names, 1);
}

static void expect_no_file(const struct world *w, const char *name)
{
    char path[256];
    file_path(w, path, name);
    assert_int_equal(access(path, F_OK), -1);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void a_tree_is_taken_and_given_back(void **state)
{
    struct world *w = *state;
    struct build b;
    struct list list = {.at = 0};
    struct history h;
    tree_seed(w);
    rename_only(w, "file", "new name");
    site_restart(w);
    struct repl_welcome welcome = hello(w);
    assert_true(welcome.known && welcome.point_seq == 2);
    build_begin(&b, w, 2, 3, 0);
    build_data(&b, 0, 2 * REPL_PAGE_SIZE);
    build_chunk(&b, 20 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, w->model + 17 * REPL_CHUNK_SIZE, 0);
    list_node(&list, 3, plain_file(w->size - 1));
    tree_end(&b, &list, true);
    build_commit(&b);
    history_get(w, &h);
    assert_int_equal(h.count, 3);
    expect_space(w, &h);
    expect_only_name(w, &h, "new name");
    history_free(&h);
    struct repl_points_page page;
    struct repl_error err = {0};
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 200);
    must(repl_points_page_decode(w->response.data, w->response.size, &page, &err), &err);
    assert_true(page.count == 3 && page.entries[2].point.seq == 3);
    repl_points_page_fini(&page);
}

/* The directory has one file of this name, with all of the space in it. */
static void expect_directory(struct world *w, const char *directory, const char *name)
{
    char path[400];
    PUMP_UNTIL(w, volume_status(w, "data").replica_seq == w->head.to_seq);
    snprintf(path, sizeof path, "%s/tree/%s", directory, name);
    uint8_t *bytes = malloc(w->size + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_non_null(bytes);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, bytes, w->size + 1), w->size);
    assert_memory_equal(bytes, w->model, w->size);
    close(fd);
    free(bytes);
    snprintf(path, sizeof path, "%s/tree", directory);
    DIR *stream = opendir(path);
    unsigned count = 0;
    while (readdir(stream) != NULL)
        count++;
    closedir(stream);
    assert_int_equal(count, 3);
}

static void its_replica_is_a_directory(void **state)
{
    struct world *w = *state;
    struct build b;
    struct list list = {.at = 0};
    char directory[256];
    file_path(w, directory, "replica");
    tree_seed(w);
    expect_directory(w, directory, "file");
    rename_only(w, "file", "x");
    expect_directory(w, directory, "x");
    site_restart(w);
    hello(w);
    build_begin(&b, w, 2, 3, 0);
    build_data(&b, REPL_PAGE_SIZE, 2 * REPL_PAGE_SIZE);
    build_chunk(&b, 20 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, w->model + 17 * REPL_CHUNK_SIZE, 0);
    tree_end(&b, &list, true);
    build_commit(&b);
    expect_directory(w, directory, "x");
    struct repl_volume_status status = volume_status(w, "data");
    assert_true(status.tree && status.replica_on && !status.replica_applying);
    assert_true(status.state < REPL_STATE_DEGRADED || status.state == REPL_STATE_LINK_DOWN);
    assert_non_null(strstr(status.device, "/replica/tree"));
    tree_full(w); /* is compared */
    rename_only(w, "file", "y");
    expect_directory(w, directory, "y");
    expect_no_file(w, "replica.img");
    expect_no_file(w, "replica.state");
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/replica/0.16"), 400);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "is a directory tree: there is no replica");
}

/* The state and the map are those of an earlier point, or of a history that is no more. */
static void a_replica_that_others_changed_is_mended(void **state)
{
    struct world *w = *state;
    char directory[256], path[300];
    file_path(w, directory, "replica");
    tree_seed(w);
    expect_directory(w, directory, "file");
    snprintf(path, sizeof path, "%s/tree/file", directory);
    assert_int_equal(unlink(path), 0);
    rename_only(w, "file", "x");
    expect_directory(w, directory, "x");
    site_stop(w);
    snprintf(path, sizeof path, "%s/.repl/map", directory);
    assert_int_equal(unlink(path), 0);
    site_start(w);
    hello(w);
    rename_only(w, "x", "y");
    expect_directory(w, directory, "y");
}

static void a_configured_replica_is_a_directory_too(void **state)
{
    struct world *w = *state;
    char path[128], file[160];
    snprintf(path, sizeof path, "%s/mine", w->directory);
    snprintf(file, sizeof file, "%s/file", path);
    w->replica = path;
    site_restart(w);
    tree_seed(w);
    rename_only(w, "file", "x");
    PUMP_UNTIL(w, volume_status(w, "data").state == REPL_STATE_DEGRADED);
    assert_non_null(strstr(volume_status(w, "data").cause, "cannot open the replica"));
    assert_int_equal(mkdir(path, 0755), 0);
    assert_int_equal(mkdir(file, 0755), 0);
    PUMP_UNTIL(w, strstr(volume_status(w, "data").cause, "is not empty") != NULL);
    assert_int_equal(rmdir(file), 0);
    expect_directory(w, path, "x");
    w->replica = "none";
    site_restart(w);
    hello(w);
    struct repl_volume_status status = volume_status(w, "data");
    assert_true(status.state < REPL_STATE_DEGRADED && !status.replica_on);
}

static void a_volume_stays_what_it_is(void **state)
{
    struct world *w = *state;
    struct build b;
    tree_seed(w);
    w->kind = REPL_VOLUME_BLOCK;
    struct repl_hello message = hello_of(w);
    hello_as(w, KEY_HOST, "data", &message);
    expect_refusal(w, 409, REPL_REFUSAL_FORK, "is a directory tree here, the source's is a block");
    site_restart(w);
    hello_as(w, KEY_HOST, "data", &message);
    expect_refusal(w, 409, REPL_REFUSAL_FORK, "is a directory tree here, the source's is a block");
    build_begin(&b, w, 1, 2, 0);
    build_data(&b, 0, REPL_PAGE_SIZE);
    build_end(&b, true);
    build_put(&b);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "another kind of volume");
    build_fini(&b);
    w->kind = REPL_VOLUME_TREE;
    assert_int_equal(hello(w).head.to_seq, 1);
    rename_only(w, "file", "x");
}

static void chunks_it_lacks_are_asked_for(void **state)
{
    struct world *w = *state;
    struct build b, supply;
    struct list list = {.at = 0};
    struct history h;
    static uint8_t chunks[2 * REPL_CHUNK_SIZE];
    tree_seed(w);
    random_fill(&w->random, chunks, sizeof chunks);
    build_begin(&b, w, 1, 2, 0);
    build_chunk(&b, 2 * MIB, REPL_CHUNK_SIZE, chunks, 0);
    build_chunk(&b, 3 * MIB, REPL_CHUNK_SIZE, chunks + REPL_CHUNK_SIZE, 0);
    list_name(&list, 2, "link", 3);
    tree_end(&b, &list, true);
    build_put(&b);
    expect_missing(w, 2);
    w->kind = REPL_VOLUME_BLOCK;
    supply_build(&supply, w, chunks, 2);
    supply_put(&supply, 1);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "another kind of volume");
    build_fini(&supply);
    w->kind = REPL_VOLUME_TREE;
    supply_give(w, chunks, 2);
    assert_int_equal(put(w, 2, 0, b.file.bytes.size, NULL, 0), 201);
    build_taken(&b);
    build_fini(&b);
    /* They lie in the supply; the index finds them, also when it is read again. */
    site_restart(w);
    hello(w);
    build_begin(&b, w, 2, 3, 0);
    build_chunk(&b, 4 * MIB, REPL_CHUNK_SIZE, chunks, 0);
    build_end(&b, true);
    build_commit(&b);
    history_get(w, &h);
    assert_int_equal(h.count, 3);
    history_free(&h);
}

static void note_finding(void *context, const char *text)
{
    snprintf(context, REPL_ERROR_TEXT_SIZE, "%s", text);
}

/* From the store, as repl verify does; finding has room for REPL_ERROR_TEXT_SIZE. */
static void verify(struct world *w, struct repl_verify_result *result, char *finding)
{
    struct repl_origin_options origin_options = {.store = w->store};
    struct repl_verify_options options = {
        .threads = 2, .finding = note_finding, .context = finding};
    const struct repl_segment *segment;
    struct repl_origin *origin;
    struct repl_error err = {0};
    finding[0] = '\0';
    site_stop(w);
    must(repl_origin_open(&origin_options, "data", &origin, &err), &err);
    must(repl_history_open(origin, &options.history, &err), &err);
    bool readable = repl_history_segment(options.history, 0, &segment, &err).code != REPL_E_VERSION;
    if (readable)
        must(repl_verify_history(&options, result, &err), &err);
    repl_history_close(options.history);
    site_start(w);
    if (!readable)
        skip(); /* a history of trees is not read yet */
}

/* A tree is looked at where a full is followed by another, and at the end; what is wrong in one of
 * them says nothing of the other. */
static void its_history_is_verified(void **state)
{
    struct world *w = *state;
    struct repl_verify_result result;
    char finding[REPL_ERROR_TEXT_SIZE];
    tree_seed(w);
    rename_only(w, "file", "x");
    verify(w, &result, finding);
    assert_string_equal(finding, "");
    assert_true(result.tree && result.tree_count == 1 && result.affected_count == 0);
    repl_verify_result_fini(&result);
    hello(w);
    tree_full(w);
    rename_only(w, "x", "y"); /* and "file" stays: two names */
    verify(w, &result, finding);
    assert_string_equal(finding, "");
    assert_true(result.tree_count == 2 && result.senseless_count == 0);
    repl_verify_result_fini(&result);
    hello(w);
    struct build b;
    struct list list = {.at = 0};
    build_begin(&b, w, 4, 5, 0);
    list_node(&list, 3, (struct repl_node){.kind = REPL_NODE_GONE});
    tree_end(&b, &list, true);
    build_commit(&b);
    verify(w, &result, finding);
    assert_string_equal(finding, "the tree at point 5: a name in directory 2 leads to object 3, "
                                 "which is not there");
    assert_true(result.tree_count == 2 && result.senseless_count == 1);
    assert_int_equal(result.damaged_count, 0);
    assert_int_equal(result.affected_count, 3);
    assert_true(!result.point_affected[1] && result.point_affected[2]);
    repl_verify_result_fini(&result);
}

struct recovered {
    bool done;
    size_t count;
    struct repl_recovered_extent first;
};

static void recovered(void *context, repl_result result, const struct repl_error *err,
                      const struct repl_recovered_extent *extents, size_t count)
{
    struct recovered *r = context;
    must(result, err);
    *r = (struct recovered){.done = true, .count = count};
    if (count > 0)
        r->first = extents[0];
}

/* To a source that recovers, what segments say of names is nothing. */
static void extents_are_those_of_the_space(void **state)
{
    struct world *w = *state;
    struct build b;
    struct list list = {.at = 0};
    struct recovered r = {.done = false};
    struct repl_recover_job *job;
    struct repl_error err = {0};
    char address[32];
    tree_seed(w);
    struct repl_head from = w->head;
    rename_only(w, "file", "x");
    build_begin(&b, w, 2, 3, 0);
    build_data(&b, 5 * REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    list_node(&list, 3, plain_file(w->size));
    list_run(&list, 3, 0, 4 * REPL_PAGE_SIZE, 0);
    tree_end(&b, &list, true);
    build_commit(&b);
    snprintf(address, sizeof address, "127.0.0.1:%u", repl_site_port(w->site));
    struct repl_client_options options = {
        .address = address, .key_path = w->keys[KEY_HOST], .fingerprint = w->site_fingerprint};
    must(repl_recover_job_start(w->loop, &options, "data", &from, &w->head, recovered, &r, &job,
                                &err),
         &err);
    PUMP_UNTIL(w, r.done);
    assert_int_equal(r.count, 1);
    assert_true(r.first.offset == 5 * REPL_PAGE_SIZE && r.first.length == REPL_PAGE_SIZE);
}

/* A run of a file says nothing of the space. */
static void every_byte_of_the_space_is_spoken_of(void **state)
{
    struct world *w = *state;
    struct build b;
    struct list list = {.at = 0};
    hello(w);
    build_begin(&b, w, 0, 1, 0);
    build_data(&b, 0, REPL_PAGE_SIZE);
    list_node(&list, 2, tree_directory);
    list_name(&list, 2, "file", 3);
    list_node(&list, 3, plain_file(w->size));
    list_run(&list, 3, REPL_PAGE_SIZE, w->size - REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    tree_end(&b, &list, true);
    build_put(&b);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "says nothing about bytes 4096 to");
    build_fini(&b);
    /* Parts, of which one has all the names. */
    build_begin(&b, w, 0, 1, 0);
    space_fill(&b);
    tree_end(&b, &list, false);
    build_commit(&b);
    build_begin(&b, w, 0, 1, 1);
    list_node(&list, 2, tree_directory);
    tree_end(&b, &list, true);
    build_commit(&b);
    /* The space grows by what nothing is said of. */
    w->size += REPL_PAGE_SIZE;
    build_begin(&b, w, 1, 2, 0);
    list_run(&list, 3, w->size - REPL_PAGE_SIZE, REPL_PAGE_SIZE, 0);
    tree_end(&b, &list, true);
    build_put(&b);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "growth");
    build_fini(&b);
    build_begin(&b, w, 1, 2, 0);
    build_zero(&b, w->size - REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_tree_is_taken_and_given_back),
        TEST(its_replica_is_a_directory),
        TEST(a_replica_that_others_changed_is_mended),
        TEST(a_configured_replica_is_a_directory_too),
        TEST(a_volume_stays_what_it_is),
        TEST(chunks_it_lacks_are_asked_for),
        TEST(its_history_is_verified),
        TEST(extents_are_those_of_the_space),
        TEST(every_byte_of_the_space_is_spoken_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
