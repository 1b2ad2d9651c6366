/*
 * Damage in what a source keeps: whatever one byte of its state, of the header of its digests, of a
 * segment in the spool or of the index of chunks is changed to, and wherever one of them is cut
 * off, it is refused in words, or taken for as much as still is what it was.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "source/chunk_index.h"
#include "source/spool_load.h"
#include "source/state_dir.h"
#include "unit/damage.h"
#include "unit/random.h"
#include "unit/segment/segment_fixture.h"
#include "unit/temporary.h"

#define PAGES    100u
#define SIZE     (PAGES * REPL_PAGE_SIZE + 512)
#define SEGMENTS 3u

struct fixture {
    struct temporary temporary;
    struct damage file;
    unsigned refused, older, same;
    struct repl_error err;
};

static int set_up(void **state)
{
    static struct fixture f;
    f = (struct fixture){.refused = 0};
    *state = &f;
    setenv("TMPDIR", "/dev/shm", 0); /* where a sync costs nothing */
    return temporary_make(&f.temporary);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    damage_fini(&f->file);
    temporary_remove(&f->temporary);
    return 0;
}

static void file_take(struct fixture *f, const char *path)
{
    damage_take(&f->file, path);
    f->refused = f->older = f->same = 0;
}

static void report(const struct fixture *f, const char *what)
{
    printf("%s, %zu bytes: %u refused, %u older, %u the same\n", what, f->file.size, f->refused,
           f->older, f->same);
}

/* --- the state ------------------------------------------------------------------------------- */

static repl_result dir_open(struct fixture *f, struct repl_state_dir *dir)
{
    f->err.text[0] = '\0';
    return repl_state_dir_open(f->temporary.path, "data", SIZE, "serial:1", dir, &f->err);
}

/* The newest state, the one before it (as after a torn write), or none: never another. */
static void state_judge(struct fixture *f, const struct repl_source_state *newest)
{
    struct repl_state_dir dir;
    if (!repl_ok(dir_open(f, &dir))) {
        assert_non_null(strstr(f->err.text, "volumes/data/state"));
        assert_non_null(strstr(f->err.text, "repl forget"));
        f->refused++;
        return;
    }
    assert_false(dir.is_new);
    struct repl_source_state wanted = *newest;
    bool same = dir.state.next_seq == newest->next_seq;
    if (!same) {
        wanted.next_seq--;
        wanted.sent_count--;
        memset(&wanted.sent[wanted.sent_count], 0, sizeof wanted.sent[0]);
    }
    assert_memory_equal(&dir.state, &wanted, sizeof wanted);
    f->same += same;
    f->older += !same;
    repl_state_dir_close(&dir);
}

static void every_flip_of_the_state(void **state)
{
    struct fixture *f = *state;
    struct repl_state_dir dir;
    char path[400];
    assert_true(repl_ok(dir_open(f, &dir)));
    for (uint32_t i = 0; i < 2; i++) {
        dir.state.next_seq++;
        dir.state.sent[i].to_seq = 7 + i;
        memset(dir.state.sent[i].digest.bytes, 0x40 + (int)i, sizeof dir.state.sent[i].digest);
        dir.state.sent_count = i + 1;
        assert_true(repl_ok(repl_state_dir_write(&dir, &dir.state, &f->err)));
    }
    struct repl_source_state newest = dir.state;
    repl_state_dir_close(&dir);
    snprintf(path, sizeof path, "%s/volumes/data/state", f->temporary.path);
    file_take(f, path);
    for (size_t bit = 0; bit < 8 * f->file.size; bit++) {
        size_t at = bit / 8 % REPL_SLOT_SIZE;
        if (at >= 400 && at < REPL_SLOT_SIZE - 8 && bit % 8 != at % 8)
            continue; /* of the zeros between fields and checksum, a bit a byte */
        f->file.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        unlink(f->file.path); /* each open makes the file anew */
        damage_put(&f->file, f->file.size);
        state_judge(f, &newest);
        f->file.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(f->refused, 0); /* one slot is whole */
    for (size_t size = 1; size < f->file.size; size += 97) {
        unlink(f->file.path);
        damage_put(&f->file, size);
        state_judge(f, &newest);
    }
    report(f, "state");
    assert_true(f->older > 0 && f->same > 0 && f->refused > 0);
}

static void every_flip_of_the_digests_header(void **state)
{
    struct fixture *f = *state;
    static const struct repl_page_digest zeros;
    struct repl_state_dir dir;
    char path[400];
    assert_true(repl_ok(dir_open(f, &dir)));
    memset(dir.digests, 0x77, (PAGES + 1) * sizeof *dir.digests);
    repl_state_dir_close(&dir);
    snprintf(path, sizeof path, "%s/volumes/data/digests", f->temporary.path);
    file_take(f, path);
    for (size_t i = 0; i < 64; i++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            f->file.bytes[i] ^= (uint8_t)(1u << bit);
            damage_put(&f->file, f->file.size);
            assert_true(repl_ok(dir_open(f, &dir)));
            for (size_t page = 0; page <= PAGES; page++)
                assert_memory_equal(&dir.digests[page], &zeros, sizeof zeros);
            repl_state_dir_close(&dir);
            f->file.bytes[i] ^= (uint8_t)(1u << bit);
        }
    }
    /* Cut off: what is there is what it was, the rest is not known. */
    for (size_t size = 0; size < f->file.size; size += 61) {
        damage_put(&f->file, size);
        assert_true(repl_ok(dir_open(f, &dir)));
        for (size_t page = 0; page <= PAGES; page++) {
            const uint8_t *bytes = dir.digests[page].bytes;
            size_t end = 4096 + page * sizeof zeros;
            size_t there = size < 64 || size <= end ? 0 : size - end < 16 ? size - end : 16;
            for (size_t i = 0; i < 16; i++)
                assert_int_equal(bytes[i], i < there ? 0x77 : 0);
        }
        repl_state_dir_close(&dir);
    }
}

/* --- the spool ------------------------------------------------------------------------------- */

static struct repl_digest segment_write(struct fixture *f, uint64_t number,
                                        const struct repl_digest *prev)
{
    struct repl_frame_coder *coder;
    struct memory_file file = {0};
    struct repl_segment_builder *b;
    struct repl_segment_footer footer;
    static uint8_t pages[2 * REPL_PAGE_SIZE];
    const struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                               .kind = REPL_SEGMENT_CHANGES,
                                               .volume_kind = REPL_VOLUME_BLOCK,
                                               .volume = {{7}},
                                               .lineage = 3,
                                               .from_seq = number - 1,
                                               .to_seq = number,
                                               .created_ns = 77,
                                               .prev = *prev};
    assert_true(repl_ok(repl_frame_coder_new(&coder, NULL)));
    assert_true(repl_ok(repl_segment_builder_new(&header, SIZE, memory_sink, &file, &b, NULL)));
    memset(pages, (int)number, sizeof pages);
    struct repl_extent data = {.offset = 4 * REPL_PAGE_SIZE,
                               .length = sizeof pages,
                               .source = add_frame(b, coder, pages, sizeof pages),
                               .type = REPL_RECORD_DATA};
    struct repl_extent zero = {
        .offset = 9 * REPL_PAGE_SIZE, .length = REPL_PAGE_SIZE, .type = REPL_RECORD_ZERO};
    assert_true(repl_ok(repl_segment_builder_extent(b, &data, NULL)));
    assert_true(repl_ok(repl_segment_builder_extent(b, &zero, NULL)));
    struct repl_point point = {.seq = number,
                               .begin_ns = 5,
                               .end_ns = 6,
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_QUIET,
                               .attempts = 2};
    assert_true(repl_ok(repl_segment_builder_finish(b, &point, 1, &footer, NULL)));
    repl_segment_builder_free(b);
    repl_frame_coder_free(coder);
    snprintf(f->file.path, sizeof f->file.path, "%s/%020llu.seg", f->temporary.path,
             (unsigned long long)number);
    int fd = open(f->file.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && write(fd, file.bytes.data, file.bytes.size) == (ssize_t)file.bytes.size);
    close(fd);
    repl_buffer_fini(&file.bytes);
    return footer.digest;
}

struct chain {
    struct repl_spool_load_options options;
    struct repl_digest digests[SEGMENTS];
};

static void chain_write(struct fixture *f, struct chain *chain)
{
    struct repl_digest prev = {{9}};
    for (uint64_t i = 0; i < SEGMENTS; i++)
        prev = chain->digests[i] = segment_write(f, i + 1, &prev);
}

/* The second file is damaged: the first is taken, and it is said what the matter is. */
static void spool_judge(struct fixture *f, const struct chain *chain)
{
    struct repl_spool_load load;
    assert_true(repl_ok(repl_spool_load(&chain->options, &load, &f->err)));
    assert_int_equal(load.segment_count, 1);
    assert_int_equal(load.removed_count, SEGMENTS - 1);
    assert_true(repl_digest_equal(&load.segments[0].digest, &chain->digests[0]));
    assert_non_null(strstr(load.why.text, "00000000000000000002.seg"));
    repl_spool_load_fini(&load);
    f->refused++;
}

static void every_flip_of_a_spooled_segment(void **state)
{
    struct fixture *f = *state;
    struct chain chain = {.options = {.volume = {{7}},
                                      .lineage = 3,
                                      .prev = {{9}},
                                      .volume_size_max = SIZE,
                                      .threads = 1,
                                      .digest_bytes_max = 1 << 20}};
    char path[400], last[400];
    chain.options.dir_fd = open(f->temporary.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    chain_write(f, &chain);
    snprintf(last, sizeof last, "%s", f->file.path);
    snprintf(path, sizeof path, "%s/%020u.seg", f->temporary.path, 2u);
    file_take(f, path);
    for (size_t i = 0; i < 9 * f->file.size; i++) { /* a bit changed, then cut off */
        bool flip = i < 8 * f->file.size;
        size_t at = flip ? i / 8 : i - 8 * f->file.size;
        f->file.bytes[at] ^= flip ? (uint8_t)(1u << i % 8) : 0;
        damage_put(&f->file, flip ? f->file.size : at);
        f->file.bytes[at] ^= flip ? (uint8_t)(1u << i % 8) : 0;
        int fd = open(last, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        close(fd);
        spool_judge(f, &chain);
    }
    report(f, "spooled segment");
    close(chain.options.dir_fd);
}

/* --- the index of chunks --------------------------------------------------------------------- */

static void every_truncation_of_the_chunk_index(void **state)
{
    struct fixture *f = *state;
    struct repl_chunk_index *index;
    char path[400], lock[408];
    snprintf(path, sizeof path, "%s/chunks", f->temporary.path);
    snprintf(lock, sizeof lock, "%s-lock", path);
    const struct repl_chunk_index_options options = {.path = path, .limit = 1 << 16};
    uint64_t prefixes[200];
    struct repl_digest names[200];
    struct random random = random_begin("chunks", 5);
    random_fill(&random, names, sizeof names);
    for (size_t i = 0; i < 200; i++)
        prefixes[i] = repl_chunk_prefix(&names[i]);
    assert_true(repl_ok(repl_chunk_index_open(&options, &index, &f->err)));
    assert_true(repl_ok(repl_chunk_index_add(index, 7, prefixes, 200, &f->err)));
    repl_chunk_index_close(index);
    file_take(f, path);
    for (size_t size = 0; size < f->file.size; size += 509) {
        unlink(path);
        unlink(lock);
        damage_put(&f->file, size);
        assert_true(repl_ok(repl_chunk_index_open(&options, &index, &f->err)));
        for (size_t i = 0; i < 200; i++)
            assert_false(repl_chunk_index_has(index, 7, &names[i])); /* begun anew */
        prefixes[0] = repl_chunk_prefix(&names[2]);
        assert_true(repl_ok(repl_chunk_index_add(index, 7, prefixes, 1, &f->err)));
        assert_true(repl_chunk_index_has(index, 7, &names[2]));
        repl_chunk_index_close(index);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_flip_of_the_state, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_flip_of_the_digests_header, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_flip_of_a_spooled_segment, set_up, tear_down),
        cmocka_unit_test_setup_teardown(every_truncation_of_the_chunk_index, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
