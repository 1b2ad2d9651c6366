/*
 * What is read back of a spool: a whole chain with the digests of its pages;
 * of a broken one what lies before the break, and the rest is gone.
 */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "capture/batch.h"
#include "source/spool_load.h"
#include "unit/random.h"
#include "unit/segment/tree_list.h"
#include "unit/temporary.h"

#define PAGE     REPL_PAGE_SIZE
#define SEGMENTS 5u

struct fixture {
    struct temporary directory;
    int dir_fd;
    struct repl_frame_coder *coder;
    struct repl_digest last;
    struct repl_spool_load_options options;
    struct repl_spool_load load;
    uint8_t pages[2 * REPL_CHUNK_SIZE]; /* what the segments' frames and chunks are made of */
};

static int set_up(void **state)
{
    static struct fixture f;
    struct random random = {1};
    f = (struct fixture){0};
    if (temporary_make(&f.directory) != 0 || !repl_ok(repl_frame_coder_new(&f.coder, NULL)))
        return -1;
    random_fill(&random, f.pages, sizeof f.pages);
    f.dir_fd = open(f.directory.path, O_RDONLY | O_DIRECTORY);
    f.options = (struct repl_spool_load_options){.dir_fd = f.dir_fd,
                                                 .volume = {{7}},
                                                 .lineage = 3,
                                                 .prev = {{9}},
                                                 .volume_size_max = UINT64_C(1) << 50,
                                                 .threads = 3,
                                                 .digest_bytes_max = 1 << 20};
    *state = &f;
    return f.dir_fd < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_spool_load_fini(&f->load);
    repl_frame_coder_free(f->coder);
    close(f->dir_fd);
    temporary_remove(&f->directory);
    return 0;
}

static void name_of(uint64_t number, char name[32])
{
    snprintf(name, 32, "%020llu.seg", (unsigned long long)number);
}

static void file_write(struct fixture *f, const char *name, const void *data, size_t size)
{
    int fd = openat(f->dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, data, size) == (ssize_t)size && close(fd) == 0);
}

static unsigned file_count(const struct fixture *f)
{
    unsigned count = 0;
    DIR *dir = opendir(f->directory.path);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

static struct repl_segment_header header_of(struct fixture *f, uint64_t from, uint64_t to,
                                            uint32_t part)
{
    return (struct repl_segment_header){.version = REPL_SEGMENT_VERSION,
                                        .kind = REPL_SEGMENT_CHANGES,
                                        .volume_kind = REPL_VOLUME_BLOCK,
                                        .volume = f->options.volume,
                                        .lineage = f->options.lineage,
                                        .from_seq = from,
                                        .to_seq = to,
                                        .part = part,
                                        .created_ns = 77,
                                        .prev = f->last};
}

/* What is held beside segment number: a chunk that it does not name, and the one it does. */
static void supply_write(struct fixture *f, uint64_t number)
{
    char name[32];
    snprintf(name, sizeof name, "%020llu.supply", (unsigned long long)number);
    file_write(f, name, f->pages, 2 * REPL_CHUNK_SIZE);
}

static const uint8_t *named_chunk(const struct fixture *f)
{
    return f->pages + REPL_CHUNK_SIZE;
}

/* Pages 4 and 5, 8 to 23 by name, 30 and 31 zeros, and the short last one; frame 0 is not used. */
static void segment_write(struct fixture *f, uint64_t number,
                          const struct repl_segment_header *header, bool has_point)
{
    struct memory_file file = {0};
    struct repl_segment_builder *b;
    struct repl_segment_footer footer;
    const struct repl_digest name = chunk_name_of(named_chunk(f));
    assert_true(
        repl_ok(repl_segment_builder_new(header, 40 * PAGE - 512, memory_sink, &file, &b, NULL)));
    add_frame(b, f->coder, f->pages + 10 * PAGE, PAGE);
    uint32_t frame = add_frame(b, f->coder, f->pages, 3 * PAGE);
    struct repl_extent extents[] = {
        {.offset = 4 * PAGE, .length = PAGE, .source = frame, .source_offset = PAGE},
        {.offset = 5 * PAGE, .length = PAGE, .source = frame, .source_offset = 100},
        {.offset = 39 * PAGE, .length = PAGE - 512, .source = frame},
        {.offset = 8 * PAGE, .length = REPL_CHUNK_SIZE, .type = REPL_RECORD_CHUNK},
        {.offset = 30 * PAGE, .length = 2 * PAGE, .type = REPL_RECORD_ZERO},
    };
    assert_true(repl_ok(repl_segment_builder_reference(b, &name, &extents[3].source, NULL)));
    for (size_t i = 0; i < sizeof extents / sizeof extents[0]; i++) {
        if (extents[i].type == 0)
            extents[i].type = REPL_RECORD_DATA;
        assert_true(repl_ok(repl_segment_builder_extent(b, &extents[i], NULL)));
    }
    struct repl_point point = {.seq = header->to_seq,
                               .begin_ns = 5,
                               .end_ns = 6,
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_QUIET,
                               .attempts = 2};
    assert_true(repl_ok(repl_segment_builder_finish(b, &point, has_point, &footer, NULL)));
    repl_segment_builder_free(b);
    f->last = footer.digest;
    char text[32];
    name_of(number, text);
    file_write(f, text, file.bytes.data, file.bytes.size);
    repl_buffer_fini(&file.bytes);
    supply_write(f, number);
}

/* (3, 4] in two parts, then a point each; numbers 11, 12, ... */
static void chain_write(struct fixture *f)
{
    f->last = (struct repl_digest){{9}};
    for (uint64_t i = 0; i < SEGMENTS; i++) {
        struct repl_segment_header header =
            i < 2 ? header_of(f, 3, 4, (uint32_t)i) : header_of(f, i + 2, i + 3, 0);
        segment_write(f, 11 + i, &header, i != 0);
    }
}

static void load(struct fixture *f)
{
    struct repl_error err;
    repl_spool_load_fini(&f->load);
    if (!repl_ok(repl_spool_load(&f->options, &f->load, &err)))
        fail_msg("%s", err.text);
}

static void expect(struct fixture *f, size_t segments, size_t removed, const char *words)
{
    load(f);
    assert_int_equal(f->load.segment_count, segments);
    assert_int_equal(f->load.removed_count, removed);
    assert_int_equal(file_count(f), 2 * segments);
    assert_int_equal(f->load.why.code == REPL_OK, removed == 0);
    if (words != NULL && strstr(f->load.why.text, words) == NULL)
        fail_msg("'%s' does not say '%s'", f->load.why.text, words);
    for (size_t i = 0; i < segments; i++)
        assert_true(f->load.segments[i].number == 11 + i);
    load(f); /* what is left is whole */
    assert_int_equal(f->load.segment_count, segments);
    assert_int_equal(f->load.removed_count, 0);
}

static void page_expect(const struct repl_spool_segment *segment, size_t i, uint64_t page,
                        const void *bytes, size_t size)
{
    const struct repl_batch_digest *digest =
        &((const struct repl_batch_digest *)(const void *)segment->digests.data)[i];
    assert_true(digest->page == page);
    struct repl_digest whole = sha256_of(bytes, size);
    struct repl_page_digest wanted = repl_page_digest_of(&whole);
    assert_memory_equal(&digest->digest, &wanted, sizeof wanted);
}

static void a_whole_chain_is_taken(void **state)
{
    struct fixture *f = *state;
    static const uint8_t zeros[PAGE];
    expect(f, 0, 0, NULL);
    chain_write(f);
    for (f->options.threads = 1; f->options.threads < 20; f->options.threads += 6)
        expect(f, SEGMENTS, 0, NULL);
    for (size_t i = 0; i < SEGMENTS; i++) {
        const struct repl_spool_segment *s = &f->load.segments[i];
        assert_int_equal(s->has_point, i != 0);
        assert_true(!s->has_point || (s->point.seq == s->header.to_seq && s->point.attempts == 2));
        assert_true(s->header.created_ns == 77 && s->volume_size == 40 * PAGE - 512);
        assert_true(s->raw_bytes == 4 * PAGE && s->size_bytes > 4 * PAGE);
        if (i > 0)
            assert_memory_equal(&s->header.prev, &s[-1].digest, sizeof s->digest);
        assert_int_equal(s->digests.size, 21 * sizeof(struct repl_batch_digest));
        page_expect(s, 0, 4, f->pages + PAGE, PAGE);
        page_expect(s, 1, 5, f->pages + 100, PAGE);
        for (size_t k = 0; k < REPL_CHUNK_PAGES; k++)
            page_expect(s, 2 + k, 8 + k, named_chunk(f) + k * PAGE, PAGE);
        page_expect(s, 18, 30, zeros, PAGE);
        page_expect(s, 19, 31, zeros, PAGE);
        page_expect(s, 20, 39, f->pages, PAGE - 512);
        const struct repl_digest held[] = {chunk_name_of(f->pages), chunk_name_of(named_chunk(f))};
        assert_int_equal(s->held.size, sizeof held);
        assert_memory_equal(s->held.data, held, sizeof held);
        assert_int_equal(s->carried.size, 0);
    }
    assert_memory_equal(&f->load.segments[SEGMENTS - 1].digest, &f->last, sizeof f->last);
}

static void of_a_tree_the_pages_of_its_space_are_read(void **state)
{
    struct fixture *f = *state;
    struct memory_file file = {0};
    struct list list = {.at = 0};
    struct repl_segment_builder *b;
    struct repl_segment_footer footer;
    f->last = f->options.prev;
    struct repl_segment_header header = header_of(f, 3, 4, 0);
    header.volume_kind = REPL_VOLUME_TREE;
    header.features = REPL_FEATURE_TREE;
    assert_true(
        repl_ok(repl_segment_builder_new(&header, 40 * PAGE, memory_sink, &file, &b, NULL)));
    struct repl_extent extent = {.offset = 4 * PAGE,
                                 .length = PAGE,
                                 .source = add_frame(b, f->coder, f->pages, PAGE),
                                 .type = REPL_RECORD_DATA};
    assert_true(repl_ok(repl_segment_builder_extent(b, &extent, NULL)));
    list_node(&list, 2, tree_directory);
    list_name(&list, 2, "file", 3);
    list_node(&list, 3, tree_file(1 << 30));
    list_run(&list, 3, 8 * PAGE, 8 * PAGE, 4 * PAGE);
    repl_segment_builder_records(b, list_next, &list);
    assert_true(repl_ok(repl_segment_builder_finish(b, NULL, 0, &footer, NULL)));
    repl_segment_builder_free(b);
    repl_buffer_fini(&list.bytes);
    file_write(f, "00000000000000000011.seg", file.bytes.data, file.bytes.size);
    repl_buffer_fini(&file.bytes);
    load(f);
    assert_int_equal(f->load.segment_count, 1);
    const struct repl_spool_segment *s = &f->load.segments[0];
    assert_true(s->header.volume_kind == REPL_VOLUME_TREE && s->volume_size == 40 * PAGE);
    assert_int_equal(s->digests.size, sizeof(struct repl_batch_digest));
    page_expect(s, 0, 4, f->pages, PAGE);
}

static void a_torn_tail_goes(void **state)
{
    struct fixture *f = *state;
    char name[32];
    for (off_t size = 0; size < 8000; size += 1999) {
        chain_write(f);
        name_of(15, name);
        int fd = openat(f->dir_fd, name, O_WRONLY);
        assert_true(fd >= 0 && ftruncate(fd, size) == 0 && close(fd) == 0);
        expect(f, SEGMENTS - 1, 1,
               "1 of 5 segments are given up, from 00000000000000000015.seg on");
    }
}

/* Whatever byte of a file is not what it was, the file and all behind it go. */
static void a_flipped_byte_ends_the_chain(void **state)
{
    struct fixture *f = *state;
    char name[32];
    chain_write(f);
    load(f);
    size_t size = (size_t)f->load.segments[0].size_bytes;
    f->options.threads = 2;
    for (size_t at = 0, round = 0; at < size; at += 1 + at % 211, round++) {
        uint8_t byte = 0;
        chain_write(f);
        name_of(11 + round % SEGMENTS, name);
        int fd = openat(f->dir_fd, name, O_RDWR);
        assert_true(fd >= 0 && pread(fd, &byte, 1, (off_t)at) == 1);
        byte ^= (uint8_t)(1u << at % 8);
        assert_true(pwrite(fd, &byte, 1, (off_t)at) == 1 && close(fd) == 0);
        load(f);
        assert_int_equal(f->load.segment_count, round % SEGMENTS);
        assert_int_equal(f->load.removed_count, SEGMENTS - round % SEGMENTS);
        assert_int_equal(file_count(f), 2 * (round % SEGMENTS));
        assert_non_null(strstr(f->load.why.text, name));
    }
}

/* A segment whose chunks could not be supplied ends the chain. */
static void a_chunk_that_is_not_held_ends_the_chain(void **state)
{
    struct fixture *f = *state;
    static const char name[] = "00000000000000000013.supply";
    chain_write(f);
    assert_int_equal(unlinkat(f->dir_fd, name, 0), 0);
    expect(f, 2, 3, "00000000000000000013.seg on: the chunks it names: it cannot be opened");
    chain_write(f);
    file_write(f, name, f->pages, REPL_CHUNK_SIZE);
    expect(f, 2, 3, "a chunk that it names is not held beside it any more");
    for (size_t at = REPL_CHUNK_SIZE; at < 2 * REPL_CHUNK_SIZE; at += 9973) {
        chain_write(f);
        f->pages[at] ^= 4;
        supply_write(f, 13);
        f->pages[at] ^= 4;
        expect(f, 2, 3, "a chunk that it names is not held");
    }
    chain_write(f);
    file_write(f, name, f->pages, 2 * REPL_CHUNK_SIZE - 1);
    expect(f, 2, 3, "is torn");
    /* of a chunk that is not named it does not matter what it is */
    chain_write(f);
    file_write(f, name, f->pages + PAGE, 2 * REPL_CHUNK_SIZE - PAGE);
    int fd = openat(f->dir_fd, name, O_RDWR);
    assert_true(fd >= 0 && ftruncate(fd, 0) == 0);
    assert_true(pwrite(fd, named_chunk(f), REPL_CHUNK_SIZE, REPL_CHUNK_SIZE) == REPL_CHUNK_SIZE);
    close(fd);
    expect(f, SEGMENTS, 0, NULL);
}

/* What the site has was removed once, and a power cut may bring it back, or half of it. */
static void what_the_site_has_goes_without_a_word(void **state)
{
    struct fixture *f = *state;
    chain_write(f);
    load(f);
    f->options.prev = f->load.segments[1].digest;
    file_write(f, "00000000000000000011.seg", "torn", 4);
    load(f);
    assert_int_equal(f->load.segment_count, SEGMENTS - 2);
    assert_true(f->load.segments[0].number == 13);
    assert_int_equal(f->load.removed_count, 0);
    assert_int_equal(file_count(f), 2 * (SEGMENTS - 2));
    f->options.prev.bytes[0] ^= 1;
    expect(f, 0, SEGMENTS - 2, "does not follow the last segment that the site is known to have");
}

static void a_larger_volume_ends_the_chain(void **state)
{
    struct fixture *f = *state;
    chain_write(f);
    f->options.volume_size_max = 40 * PAGE - 512;
    expect(f, SEGMENTS, 0, NULL);
    f->options.volume_size_max--;
    expect(f, 0, SEGMENTS, "of a volume of 163328 bytes, of which 163327 are known");
}

static void what_does_not_belong_ends_the_chain(void **state)
{
    struct fixture *f = *state;
    chain_write(f);
    f->options.volume.bytes[0]++;
    expect(f, 0, SEGMENTS, "another volume");
    chain_write(f);
    f->options.lineage++;
    expect(f, 0, SEGMENTS, "written under lineage 3, this is 4");
    chain_write(f);
    struct repl_segment_header header = header_of(f, 7, 8, 0);
    header.volume.bytes[3] ^= 1;
    segment_write(f, 16, &header, true);
    header.volume.bytes[3] ^= 1;
    expect(f, SEGMENTS, 1, "another volume");
    header.prev.bytes[3] ^= 1;
    segment_write(f, 16, &header, true);
    expect(f, SEGMENTS, 1, "names another segment");
    header.prev.bytes[3] ^= 1;
    header.to_seq = 9;
    header.from_seq = 8;
    segment_write(f, 16, &header, true);
    expect(f, SEGMENTS, 1, "something lies between");
    chain_write(f);
    header = (struct repl_segment_header){.version = REPL_SEGMENT_VERSION,
                                          .kind = REPL_SEGMENT_SUPPLY,
                                          .volume_kind = REPL_VOLUME_BLOCK,
                                          .volume = f->options.volume,
                                          .lineage = f->options.lineage,
                                          .to_seq = 8};
    struct memory_file file = {0};
    struct repl_segment_builder *b;
    struct repl_segment_footer footer;
    assert_true(repl_ok(repl_segment_builder_new(&header, 0, memory_sink, &file, &b, NULL)));
    assert_true(repl_ok(repl_segment_builder_finish(b, NULL, 0, &footer, NULL)));
    repl_segment_builder_free(b);
    file_write(f, "00000000000000000016.seg", file.bytes.data, file.bytes.size);
    repl_buffer_fini(&file.bytes);
    expect(f, SEGMENTS, 1, "only chunks");
}

static void a_gap_ends_the_chain(void **state)
{
    struct fixture *f = *state;
    chain_write(f);
    assert_int_equal(unlinkat(f->dir_fd, "00000000000000000013.seg", 0), 0);
    expect(f, 2, 2, "00000000000000000014.seg");
    chain_write(f); /* numbers may have gaps: the chain is what counts */
    assert_int_equal(
        renameat(f->dir_fd, "00000000000000000015.seg", f->dir_fd, "00000000000000000115.seg"), 0);
    assert_int_equal(renameat(f->dir_fd, "00000000000000000015.supply", f->dir_fd,
                              "00000000000000000115.supply"),
                     0);
    load(f);
    assert_int_equal(f->load.segment_count, SEGMENTS);
    assert_true(f->load.segments[SEGMENTS - 1].number == 115);
}

static void leftovers_of_other_names_go(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {
        "00000000000000000012.seg.new", "00000000000000000000.seg",
        "0000000000000000013.seg",      "99999999999999999999.seg",
        "0000000000000000001x.seg",     "core",
        "000000000000000000012.seg",    "supply",
        "00000000000000000016.supply",  "00000000000000000013.supply.new"};
    chain_write(f);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        file_write(f, names[i], "left", 4);
    expect(f, SEGMENTS, 0, NULL);
}

/* Not a plain file: nothing that could be read. */
static void what_cannot_be_read_ends_the_chain(void **state)
{
    struct fixture *f = *state;
    chain_write(f);
    assert_int_equal(mkdirat(f->dir_fd, "00000000000000000016.seg", 0700), 0);
    expect(f, SEGMENTS, 1, "it is not a file");
    assert_int_equal(symlinkat("00000000000000000015.seg", f->dir_fd, "00000000000000000016.seg"),
                     0);
    expect(f, SEGMENTS, 1, "it cannot be opened");
    assert_int_equal(mkfifoat(f->dir_fd, "00000000000000000010.seg", 0600), 0);
    expect(f, SEGMENTS, 0, NULL); /* before the chain */
    assert_int_equal(unlinkat(f->dir_fd, "00000000000000000014.supply", 0), 0);
    assert_int_equal(mkfifoat(f->dir_fd, "00000000000000000014.supply", 0600), 0);
    expect(f, 3, 2, "it is not a file");
}

static void digests_are_bounded(void **state)
{
    struct fixture *f = *state;
    chain_write(f);
    f->options.threads = 1;
    f->options.digest_bytes_max = SEGMENTS * 21 * sizeof(struct repl_batch_digest);
    expect(f, SEGMENTS, 0, NULL);
    f->options.digest_bytes_max--;
    expect(f, SEGMENTS - 1, 1, "more pages than");
    f->options.digest_bytes_max = 20 * sizeof(struct repl_batch_digest);
    expect(f, 0, SEGMENTS - 1, "more pages than");
    /* a run of zeros costs nothing but its digests */
    struct memory_file file = {0};
    struct repl_segment_header header = header_of(f, 0, 1, 0);
    struct repl_segment_builder *b;
    struct repl_segment_footer footer;
    struct repl_extent extent = {.length = UINT64_C(1) << 50, .type = REPL_RECORD_ZERO};
    assert_true(
        repl_ok(repl_segment_builder_new(&header, extent.length, memory_sink, &file, &b, NULL)));
    assert_true(repl_ok(repl_segment_builder_extent(b, &extent, NULL)));
    assert_true(repl_ok(repl_segment_builder_finish(b, NULL, 0, &footer, NULL)));
    repl_segment_builder_free(b);
    file_write(f, "00000000000000000011.seg", file.bytes.data, file.bytes.size);
    repl_buffer_fini(&file.bytes);
    f->options.prev = header.prev;
    expect(f, 0, 1, "more pages than");
}

static void a_directory_that_cannot_be_read_is_told(void **state)
{
    struct fixture *f = *state;
    struct repl_error err;
    f->options.dir_fd = openat(f->dir_fd, "plain", O_RDWR | O_CREAT, 0600);
    assert_int_equal(repl_spool_load(&f->options, &f->load, &err).code, REPL_E_IO);
    assert_non_null(strstr(err.text, "spool: reading the directory"));
    close(f->options.dir_fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_whole_chain_is_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(of_a_tree_the_pages_of_its_space_are_read, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_torn_tail_goes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_flipped_byte_ends_the_chain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_chunk_that_is_not_held_ends_the_chain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_the_site_has_goes_without_a_word, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_larger_volume_ends_the_chain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_does_not_belong_ends_the_chain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_gap_ends_the_chain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(leftovers_of_other_names_go, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_ends_the_chain, set_up, tear_down),
        cmocka_unit_test_setup_teardown(digests_are_bounded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_directory_that_cannot_be_read_is_told, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
