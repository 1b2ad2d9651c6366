/*
 * A tree as the agent follows it, with the least that makes a source of it: segments of records in
 * memory, and beside each the pages that were read for it. What all of them say together is
 * compared with the directory as it is (tree_compare.h).
 */
#ifndef TESTS_UNIT_TREE_RIG_H
#define TESTS_UNIT_TREE_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "source/tree/tree.h"
#include "source/tree/tree_places.h"
#include "unit/segment/segment_fixture.h"
#include "unit/temporary.h"

#define SEGMENTS_MAX 400u
#ifndef EXCLUDED
#define EXCLUDED "*.tmp /d0/cache"
#endif

struct page_image {
    uint64_t page;
    uint8_t bytes[REPL_PAGE_SIZE];
};

struct piece {
    struct memory_file file;
    struct memory_span span;
    struct repl_segment *segment;
    struct repl_buffer pages; /* struct page_image each */
    uint64_t from, to, stamp;
    uint32_t part;
    bool full, adopted, whole; /* whole: it ends in a point, and says all there was to be said */
};

struct rig {
    struct temporary at;
    char top[300], outside[300], index[300];
    struct repl_tree *tree;
    bool unwatched;                /* wanted */
    bool snapshots;                /* wanted */
    bool full_wanted, full_marked; /* as the pipeline has them */
    struct repl_bitmap dirty;
    struct repl_buffer read; /* struct page_image each: for the next segment */
    struct piece pieces[SEGMENTS_MAX];
    size_t count, acknowledged; /* segments; the first of them */
    uint64_t next_seq;
    struct repl_tree_found found; /* by the last gather */
    struct repl_frame_coder *coder;
    struct repl_error err;
};

static inline void rig_ok(struct rig *rig, repl_result result, const char *what)
{
    if (!repl_ok(result))
        fail_msg("%s: %s", what, rig->err.text);
}
#define OK(rig, call) rig_ok(rig, call, #call)

/* --- opening --------------------------------------------------------------------------------- */

/* Without CAP_SYS_ADMIN no filesystem can be watched. */
static inline void may_watch(bool may)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    assert_int_equal(syscall(SYS_capget, &header, data), 0);
    uint32_t bit = UINT32_C(1) << CAP_SYS_ADMIN;
    data[0].effective = may ? data[0].permitted : data[0].effective & ~bit;
    assert_int_equal(syscall(SYS_capset, &header, data), 0);
}

/* False: this filesystem is refused. */
static inline bool rig_try(struct rig *rig)
{
    const struct repl_tree_options options = {
        .path = rig->top,
        .exclude = EXCLUDED,
        .index_path = rig->index,
        .volume = {{7}},
        .next_seq = rig->next_seq,
        .snapshots = rig->snapshots,
    };
    may_watch(!rig->unwatched);
    repl_result result = repl_tree_open(&options, &rig->tree, &rig->err);
    may_watch(true);
    if (result.code == REPL_E_REFUSED)
        return false;
    OK(rig, result);
    rig->full_wanted = repl_tree_full_wanted(rig->tree);
    rig->full_marked = false;
    OK(rig,
       repl_bitmap_init(&rig->dirty, repl_tree_space_size(rig->tree) / REPL_PAGE_SIZE, &rig->err));
    return true;
}

static inline void rig_open(struct rig *rig)
{
    if (!rig_try(rig))
        fail_msg("%s", rig->err.text);
}

static inline void rig_close(struct rig *rig)
{
    repl_tree_close(rig->tree);
    rig->tree = NULL;
    repl_tree_found_fini(&rig->found);
    repl_bitmap_fini(&rig->dirty);
    repl_buffer_fini(&rig->read);
}

/* NULL: there is nothing to test here, and why has been said. */
static inline struct rig *rig_new_with(bool unwatched, bool snapshots)
{
    struct rig *rig = calloc(1, sizeof *rig);
    struct file_handle handle = {.handle_bytes = 0};
    int mount;
    assert_non_null(rig);
    rig->unwatched = unwatched;
    rig->snapshots = snapshots;
    rig->next_seq = 1;
    if (getenv("TMPDIR") == NULL)
        setenv("TMPDIR", "/var/tmp", 1);
    assert_int_equal(temporary_make(&rig->at), 0);
    snprintf(rig->top, sizeof rig->top, "%s/tree", rig->at.path);
    snprintf(rig->outside, sizeof rig->outside, "%s/outside", rig->at.path);
    snprintf(rig->index, sizeof rig->index, "%s/index", rig->at.path);
    assert_int_equal(mkdir(rig->top, 0700), 0);
    assert_int_equal(mkdir(rig->outside, 0700), 0);
    OK(rig, repl_frame_coder_new(&rig->coder, &rig->err));
    const char *why = NULL;
    if (name_to_handle_at(AT_FDCWD, rig->top, &handle, &mount, 0) != 0 && errno == EOPNOTSUPP)
        why = "the filesystem gives no file handles";
    else if (geteuid() != 0)
        why = "files are opened by their handles as root only";
    if (why == NULL && !rig_try(rig))
        why = rig->err.text;
    if (why == NULL) {
        if (!unwatched && !repl_tree_is_watched(rig->tree))
            why = repl_tree_unwatched(rig->tree);
    }
    if (why == NULL)
        return rig;
    print_message("not run: %s: %s\n", rig->top, why);
    rig_close(rig);
    repl_frame_coder_free(rig->coder);
    temporary_remove(&rig->at);
    free(rig);
    return NULL;
}

static inline struct rig *rig_new(bool unwatched)
{
    return rig_new_with(unwatched, false);
}

static inline void piece_free(struct piece *piece)
{
    repl_segment_free(piece->segment);
    repl_buffer_fini(&piece->file.bytes);
    repl_buffer_fini(&piece->pages);
    *piece = (struct piece){0};
}

static inline void rig_free(struct rig *rig)
{
    rig_close(rig);
    for (size_t i = 0; i < rig->count; i++)
        piece_free(&rig->pieces[i]);
    repl_frame_coder_free(rig->coder);
    temporary_remove(&rig->at);
    free(rig);
}

/* --- rounds ---------------------------------------------------------------------------------- */

/* Whether the next segment begins a full. */
static inline bool rig_is_full(const struct rig *rig)
{
    return rig->full_wanted || rig->count == 0;
}

static inline void gather_as(struct rig *rig, enum repl_tree_look look)
{
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    repl_tree_gather_begin(rig->tree, rig_is_full(rig), look);
    repl_tree_found_fini(&rig->found);
    OK(rig, repl_tree_gather(rig->tree, &rig->found, &rig->err));
    uint64_t pages = repl_tree_space_size(rig->tree) / REPL_PAGE_SIZE;
    if (pages > rig->dirty.bit_count)
        OK(rig, repl_bitmap_grow(&rig->dirty, pages, &rig->err));
    const struct repl_tree_pages *found = (const void *)rig->found.pages.data;
    for (size_t i = 0; i < rig->found.pages.size / sizeof *found; i++)
        repl_bitmap_set(&rig->dirty, found[i].page, found[i].count);
    if (rig_is_full(rig) && !rig->full_marked) {
        repl_bitmap_set(&rig->dirty, 0, rig->dirty.bit_count);
        rig->full_marked = true;
    }
}

static inline void gather(struct rig *rig)
{
    gather_as(rig, REPL_TREE_LOOK);
}

static inline bool is_same(struct rig *rig)
{
    bool same;
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    OK(rig, repl_tree_is_same(rig->tree, &same, &rig->err));
    return same;
}

static inline void pages_read(struct rig *rig)
{
    struct page_image image;
    for (uint64_t page = 0; rig->dirty.set_count > 0 && page < rig->dirty.bit_count; page++) {
        if (!repl_bitmap_test(&rig->dirty, page))
            continue;
        image.page = page;
        OK(rig, repl_tree_read(rig->tree, page, 1, image.bytes, &rig->err));
        OK(rig, repl_buffer_append(&rig->read, &image, sizeof image, &rig->err));
        repl_bitmap_clear(&rig->dirty, page, 1);
    }
}

static inline void piece_build(struct rig *rig, struct piece *piece, bool point_wanted)
{
    struct repl_segment_builder *builder;
    struct repl_segment_footer footer;
    const struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                               .kind = REPL_SEGMENT_CHANGES,
                                               .volume_kind = REPL_VOLUME_TREE,
                                               .features = REPL_FEATURE_TREE,
                                               .from_seq = piece->from,
                                               .to_seq = piece->to,
                                               .part = piece->part};
    const struct repl_point point = {.seq = piece->to,
                                     .consistency = REPL_CONSISTENCY_CRASH,
                                     .cut = REPL_CUT_QUIET,
                                     .attempts = 1};
    OK(rig, repl_segment_builder_new(&header, repl_tree_space_size(rig->tree), memory_sink,
                                     &piece->file, &builder, &rig->err));
    OK(rig, repl_tree_segment_begin(rig->tree, piece->full, piece->to, &piece->stamp, &rig->err));
    repl_segment_builder_records(builder, repl_tree_segment_record, rig->tree);
    OK(rig, repl_segment_builder_finish(builder, &point, point_wanted, &footer, &rig->err));
    piece->whole = repl_tree_segment_end(rig->tree);
    repl_segment_builder_free(builder);
    piece->span = (struct memory_span){piece->file.bytes.data, piece->file.bytes.size};
    OK(rig, repl_segment_open(memory_read_at, &piece->span, piece->span.size, &piece->segment,
                              &rig->err));
    OK(rig, repl_segment_verify(piece->segment, rig->coder, &rig->err));
}

/* One segment of what was gathered. */
static inline struct piece *part(struct rig *rig, bool point_wanted)
{
    assert_true(rig->count < SEGMENTS_MAX);
    struct piece *piece = &rig->pieces[rig->count];
    const struct piece *tail = rig->count > 0 ? piece - 1 : NULL;
    bool continues = tail != NULL && tail->segment->footer.point_count == 0;
    *piece = (struct piece){.full = rig_is_full(rig), .to = rig->next_seq};
    if (continues) {
        piece->full = tail->full;
        piece->part = tail->part + 1;
    }
    if (!piece->full)
        piece->from = continues ? tail->from : tail->to;
    pages_read(rig);
    piece->pages = rig->read;
    rig->read = (struct repl_buffer){0};
    piece_build(rig, piece, point_wanted);
    rig->count++;
    rig->next_seq += point_wanted;
    rig->full_wanted = rig->full_wanted && !point_wanted;
    return piece;
}

/* Segments of what was gathered, if there is anything to be said; whether there was. */
static inline bool tell(struct rig *rig)
{
    bool full = rig_is_full(rig), begun = false;
    for (unsigned parts = 0; repl_tree_records_are_many(rig->tree, full); parts++) {
        assert_true(parts < 10);
        part(rig, false);
        begun = true;
    }
    if (!full && !begun && rig->dirty.set_count == 0 && rig->read.size == 0 &&
        !repl_tree_records_are_pending(rig->tree))
        return false;
    assert_true(part(rig, true)->whole);
    return true;
}

/* Others write to the filesystem as well, perhaps more than there is room to be told of. */
static inline bool point(struct rig *rig)
{
    gather(rig);
    for (unsigned tries = 0; !is_same(rig); tries++) {
        assert_true(tries < 10);
        gather(rig);
    }
    return tell(rig);
}

/* The site has the next one of those that it has not. */
static inline void acknowledge(struct rig *rig)
{
    const struct piece *piece = &rig->pieces[rig->acknowledged++];
    if (!piece->adopted)
        repl_tree_records_settled(rig->tree, piece->stamp - !piece->whole,
                                  piece->full && piece->whole);
}

/* The last segments, from this one on, are given up, while the agent runs. */
static inline void give_up(struct rig *rig, size_t first)
{
    for (; rig->count > first; rig->count--) {
        struct piece *piece = &rig->pieces[rig->count - 1];
        const struct page_image *images = (const void *)piece->pages.data;
        for (size_t i = 0; i < piece->pages.size / sizeof *images; i++)
            repl_bitmap_set(&rig->dirty, images[i].page, 1);
        if (!piece->adopted)
            repl_tree_records_lost(rig->tree, piece->stamp);
        rig->full_wanted |= piece->full;
        piece_free(piece);
    }
}

/* The agent is killed, and started once more with what the spool has up to this segment. */
static inline void start_again(struct rig *rig, size_t first_lost)
{
    rig_close(rig);
    for (; rig->count > first_lost; rig->count--)
        piece_free(&rig->pieces[rig->count - 1]);
    rig_open(rig);
    for (size_t i = rig->acknowledged; i < rig->count; i++) {
        rig->pieces[i].adopted = true;
        rig->full_wanted = rig->full_wanted && !rig->pieces[i].full;
    }
}

#endif
