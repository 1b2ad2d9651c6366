/*
 * Damage that the replica's pages mend: the file is then, byte for byte, what it was. What was
 * overwritten since, or is no frame, stays as it is, and is said.
 */
#include "unit/agent/site/scrub/scrub_world.h"

/* Text, at a level. */
static void text_build(struct build *b, uint64_t offset, size_t size, unsigned level)
{
    uint8_t *bytes = w.model + offset;
    text_fill(bytes, size);
    repl_frame_coder_level(w.coder, level);
    uint32_t frame = add_frame(b->builder, w.coder, bytes, size);
    repl_frame_coder_level(w.coder, REPL_FRAME_ZSTD_LEVEL);
    build_extent(b,
                 &(struct repl_extent){
                     .offset = offset, .length = size, .source = frame, .type = REPL_RECORD_DATA});
}

/* Frames of all kinds that the replica has, in one segment: the next point. */
static void point_make(void)
{
    struct build b;
    build_begin(&b, &w, w.head.to_seq, w.head.to_seq + 1, 0);
    text_build(&b, 0, 300 * REPL_PAGE_SIZE / 2, 1);
    text_build(&b, MIB, 200 * REPL_PAGE_SIZE, 6);
    build_data(&b, 2 * MIB, 5 * REPL_PAGE_SIZE);
    text_build(&b, 3 * MIB, 100 * REPL_PAGE_SIZE, 9);
    build_data(&b, w.size - REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
}

/* A change elsewhere, which no other one of them overwrites for a while. */
static void small_point_make(void)
{
    struct build b;
    build_begin(&b, &w, w.head.to_seq, w.head.to_seq + 1, 0);
    build_data(&b, 5 * MIB + w.head.to_seq % 250 * REPL_PAGE_SIZE, REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
}

static void frames_are_mended(void **state)
{
    char path[256];
    struct damage d = {0};
    size_t segments;
    (void)state;
    begin("everything");
    point_make();
    expect_replica(&w);
    segment_path(path, 2);
    damage_take(&d, path);
    /* Anywhere in the frames: a bit, a page, more than one frame; and the headers of two. */
    const size_t last = d.size - 2000;
    const size_t places[][2] = {
        {128, 1},         {200, 1},      {last / 2, 4096}, {last / 4, last / 2},
        {last - 5000, 1}, {140, 200000}, {last / 3, 9}};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        plant(&d, places[i][0], places[i][1]);
        look();
        struct repl_volume_status status = volume_status(&w, "data");
        assert_int_equal(status.damaged_segments, 0);
        assert_int_equal(status.repaired_segments, i + 1);
        assert_true(is_as_it_was(&d));
    }
    damage_fini(&d);
    points_check(&segments);
    end();
}

/* What the frames' pages are is made anew of the frames, alone or together with one of them. */
static void lists_of_pages_are_mended(void **state)
{
    char path[256];
    struct damage d = {0};
    (void)state;
    begin("everything");
    point_make();
    expect_replica(&w);
    segment_path(path, 2);
    damage_take(&d, path);
    struct memory_span span = {d.bytes, d.size};
    struct repl_segment *segment;
    struct repl_error err;
    must(repl_segment_open(memory_read_at, &span, d.size, &segment, &err), &err);
    size_t lists = segment->pages[0], end_of_lists = segment->footer.index_offset;
    repl_segment_free(segment);
    assert_true(end_of_lists - lists > 450 * REPL_PAGE_ENTRY_SIZE);
    const size_t places[][2] = {{lists, 1}, {end_of_lists - 1, 1}, {lists, end_of_lists - lists}};
    for (size_t i = 0; i < 3; i++) {
        plant(&d, places[i][0], places[i][1]);
        look();
        assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
        assert_int_equal(volume_status(&w, "data").repaired_segments, i + 1);
        assert_true(is_as_it_was(&d));
    }
    d.bytes[lists + 20] ^= 1; /* and a frame */
    plant(&d, 5000, 1);
    d.bytes[lists + 20] ^= 1;
    look();
    assert_int_equal(volume_status(&w, "data").repaired_segments, 4);
    assert_true(is_as_it_was(&d));
    damage_fini(&d);
    end();
}

/* The full of the beginning has been overwritten in parts: where that is not so, it is mended. */
static void what_was_overwritten_is_not_there_any_more(void **state)
{
    char path[256], staging[256];
    struct damage d = {0};
    (void)state;
    begin("everything");
    point_make();
    expect_replica(&w);
    segment_path(path, 1);
    damage_take(&d, path);
    plant(&d, 1000, 1); /* the first MiB, of which the replica has other pages by now */
    look();
    assert_string_equal(volume_status(&w, "data").damaged, "segment 1.0 (points 1 to 2)");
    assert_int_equal(volume_status(&w, "data").repaired_segments, 0);
    assert_false(is_as_it_was(&d));
    plant(&d, 4 * MIB + MIB / 2, 70); /* of what nothing has overwritten */
    look();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
    assert_true(is_as_it_was(&d));
    /* Of the manifest, index and footer there is no second copy. */
    for (size_t i = 0; i < 3; i++) {
        static const size_t behind[] = {20, 300, 700};
        plant(&d, d.size - behind[i], 1);
        look();
        assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
        assert_false(is_as_it_was(&d));
    }
    damage_put(&d, d.size);
    look();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
    file_path(&w, staging, "staging");
    assert_int_equal(rmdir(staging), 0); /* nothing is left there */
    assert_int_equal(mkdir(staging, 0700), 0);
    damage_fini(&d);
    end();
}

/* Only points that need what is damaged are named: those before it was overwritten by others. */
static void the_points_are_named_that_need_it(void **state)
{
    char path[256], text[64];
    (void)state;
    begin_bare("everything");
    overwrite(3 * MIB, MIB / 2, false);
    overwrite(5 * MIB, MIB, false); /* elsewhere */
    segment_path(path, 1);
    flip_bit(path, 3 * MIB + 1000);
    look();
    assert_string_equal(volume_status(&w, "data").damaged, "segment 1.0 (points 1 to 3)");
    assert_non_null(strstr(volume_status(&w, "data").remedy, "--resync"));
    overwrite(3 * MIB + MIB / 2 + REPL_PAGE_SIZE, MIB / 2 - REPL_PAGE_SIZE, true);
    look(); /* all but a page */
    assert_string_equal(volume_status(&w, "data").damaged, "segment 1.0 (points 1 to 4)");
    overwrite(3 * MIB + MIB / 2, REPL_PAGE_SIZE, false);
    overwrite(0, REPL_PAGE_SIZE, false);
    look();
    assert_string_equal(volume_status(&w, "data").damaged, "segment 1.0 (points 1 to 4)");
    assert_null(strstr(volume_status(&w, "data").remedy, "--resync"));
    for (uint64_t seq = 1; seq <= 6; seq++)
        assert_int_equal(point_restores(seq), seq > 4);
    /* Another one that is damaged does not count, and is named itself. */
    segment_path(path, 5);
    flip_bit(path, 300);
    look();
    look();
    snprintf(text, sizeof text, "%.60s", volume_status(&w, "data").damaged);
    assert_string_equal(text, "segment 1.0 (points 1 to 6), and 1 more");
    site_restart(&w); /* looked at again at once */
    every(FAR_MS);
    visit_make();
    assert_string_equal(volume_status(&w, "data").damaged, text);
    end();
}

/* All of the volume, each chunk in a frame of its own: point 1. */
static void chunks_seed(void)
{
    struct build b;
    hello(&w);
    build_begin(&b, &w, 0, 1, 0);
    for (uint64_t at = 0; at < w.size; at += REPL_CHUNK_SIZE)
        build_data(&b, at, w.size - at < REPL_CHUNK_SIZE ? w.size - at : REPL_CHUNK_SIZE);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
}

/* What the source had to supply once more, as a segment that is damaged is not relied on, mends
 * that one too; where there is no replica. */
static void a_chunk_that_is_supplied_mends_its_frame(void **state)
{
    static uint8_t chunk[REPL_CHUNK_SIZE];
    char path[256];
    struct build b;
    struct damage d = {0};
    (void)state;
    world_init(&w, "none");
    site_start(&w);
    chunks_seed();
    memcpy(chunk, w.model + 3 * REPL_CHUNK_SIZE, sizeof chunk);
    segment_path(path, 1);
    damage_take(&d, path);
    plant(&d, 3 * REPL_CHUNK_SIZE + 5000, 1);
    look();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
    build_begin(&b, &w, 1, 2, 0);
    build_chunk(&b, 5 * MIB, REPL_CHUNK_SIZE, chunk, 0);
    build_end(&b, true);
    build_put(&b);
    expect_missing(&w, 1);
    supply_give(&w, chunk, 1);
    build_commit(&b);
    point_keep();
    look();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 0);
    assert_int_equal(volume_status(&w, "data").repaired_segments, 1);
    assert_true(is_as_it_was(&d));
    assert_true(point_restores(1) && point_restores(2));
    damage_fini(&d);
    end();
}

/* The file of the newest segment that a merge has made, which is part of the history; "": there is
 * none yet. */
static void piece_find(char path[600])
{
    char directory[256];
    file_path(&w, directory, "segments");
    DIR *listing = opendir(directory);
    assert_non_null(listing);
    char newest[300] = "";
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        if (strstr(entry->d_name, ".mrg") != NULL && strcmp(entry->d_name, newest) > 0)
            snprintf(newest, sizeof newest, "%s", entry->d_name);
    }
    closedir(listing);
    path[0] = '\0';
    if (newest[0] != '\0')
        snprintf(path, 600, "%s/%s", directory, newest);
}

/* A merge has made the segment; its frames are mended as others, and it restores. */
static void a_piece_is_mended(void **state)
{
    char path[600] = "";
    struct damage d = {0};
    size_t segments;
    (void)state;
    world_init(&w, NULL);
    w.retention = "1s:1h";
    w.time_ns = repl_now_wall_ns() - 7200 * SECOND_NS; /* however long this takes, all are to go */
    site_start(&w);
    seed(&w);
    point_keep();
    for (unsigned i = 0; i < 20; i++) {
        if (i == 10)
            point_make();
        small_point_make();
    }
    hurry();
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    while (path[0] == '\0') {
        assert_true(repl_now_mono_ns() < until_ns);
        small_point_make();
        site_compactor_tick(w.site->compactor);
        turns(50);
        piece_find(path);
    }
    visits_stop(); /* another merge would take it out of the history */
    expect_replica(&w);
    piece_find(path);
    damage_take(&d, path);
    plant(&d, d.size / 3, 3); /* in a frame */
    look();
    assert_int_equal(volume_status(&w, "data").repaired_segments, 1);
    assert_true(is_as_it_was(&d));
    points_check(&segments);
    damage_fini(&d);
    visits_go_on();
    end();
}

/* Text in a frame as another zstd may have made it. */
static void foreign_build(struct build *b, uint64_t offset, size_t size)
{
    uint8_t *raw = w.model + offset;
    text_fill(raw, size);
    build_extent(b, &(struct repl_extent){.offset = offset,
                                          .length = size,
                                          .source = foreign_frame(b, raw, size),
                                          .type = REPL_RECORD_DATA});
}

/* All of the volume, beginning with such a frame. */
static void foreign_full(uint64_t seq)
{
    struct build b;
    build_begin(&b, &w, 0, seq, 0);
    foreign_build(&b, 0, MIB);
    for (uint64_t at = MIB; at < w.size; at += MIB)
        build_data(&b, at, w.size - at < MIB ? w.size - at : MIB);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
}

/* A history of four points, of which the first and the third begin with such a frame. */
static void foreign_begin(void)
{
    struct build b;
    world_init(&w, NULL);
    w.retention = "everything";
    site_start(&w);
    hello(&w);
    foreign_full(1);
    small_point_make();
    build_begin(&b, &w, 2, 3, 0);
    foreign_build(&b, 2 * MIB, 100 * REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
    small_point_make();
    expect_replica(&w);
}

/* What was planted is found, and not there any more when the compactor has been there. */
static void merged_whole(void)
{
    look();
    assert_int_equal(volume_status(&w, "data").damaged_segments, 1);
    every(FAR_MS);
    hurry();
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    while (volume_status(&w, "data").damaged_segments > 0) {
        assert_true(repl_now_mono_ns() < until_ns);
        site_compactor_tick(w.site->compactor);
        site_scrub_tick(w.site->scrub);
        turns(20);
    }
    PUMP_UNTIL(&w, !site_compactor_is_busy(w.site->compactor));
    assert_null(site_scrub_patch(w.site->scrub, "data"));
}

/* The file cannot be made what it was, but a merge says the same in its place: of that segment
 * alone, though no point is given up, be it the base or not. */
static void what_another_zstd_has_made_is_merged(void **state)
{
    (void)state;
    for (unsigned to = 1; to <= 3; to += 2) {
        char path[256];
        struct damage d = {0};
        size_t segments;
        foreign_begin();
        segment_path(path, to);
        damage_take(&d, path);
        plant(&d, 2000, 5);
        assert_false(point_restores(to));
        merged_whole();
        points_check(&segments);
        assert_int_equal(segments, 4);
        damage_fini(&d);
        end();
    }
}

/* A full in the middle of a history is merged by itself as well: with what was being sent when it
 * came, which has no point. */
static void a_full_in_the_middle_is_merged_by_itself(void **state)
{
    (void)state;
    for (unsigned broken_off = 0; broken_off <= 1; broken_off++) {
        char path[256];
        struct damage d = {0};
        struct build b;
        size_t segments;
        foreign_begin();
        if (broken_off) {
            build_begin(&b, &w, 4, 5, 0);
            build_data(&b, 0, REPL_PAGE_SIZE);
            build_end(&b, false);
            build_commit(&b);
        }
        foreign_full(5 + broken_off);
        small_point_make();
        expect_replica(&w);
        segment_path(path, 5 + broken_off);
        damage_take(&d, path);
        plant(&d, 2000, 5);
        merged_whole();
        points_check(&segments);
        assert_int_equal(segments, 6);
        for (uint64_t seq = 1; seq <= 4; seq++)
            assert_true(point_restores(seq));
        damage_fini(&d);
        end();
    }
}

/* So many that they are not all held in memory at once. */
static void many_frames_of_another_zstd_are_merged(void **state)
{
    struct damage d = {0};
    struct build b;
    char path[256];
    size_t segments;
    (void)state;
    world_init(&w, NULL);
    w.retention = "everything";
    site_start(&w);
    hello(&w);
    build_begin(&b, &w, 0, 1, 0);
    for (uint64_t at = 0; at < w.size; at += 8 * REPL_PAGE_SIZE)
        foreign_build(&b, at, w.size - at < 8 * REPL_PAGE_SIZE ? w.size - at : 8 * REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
    point_keep();
    small_point_make();
    expect_replica(&w);
    segment_path(path, 1);
    damage_take(&d, path);
    plant(&d, 1000, d.size / 2); /* of 193 frames */
    assert_false(point_restores(1));
    merged_whole();
    points_check(&segments);
    damage_fini(&d);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_mended),
        cmocka_unit_test(lists_of_pages_are_mended),
        cmocka_unit_test(what_was_overwritten_is_not_there_any_more),
        cmocka_unit_test(the_points_are_named_that_need_it),
        cmocka_unit_test(a_chunk_that_is_supplied_mends_its_frame),
        cmocka_unit_test(a_piece_is_mended),
        cmocka_unit_test(what_another_zstd_has_made_is_merged),
        cmocka_unit_test(a_full_in_the_middle_is_merged_by_itself),
        cmocka_unit_test(many_frames_of_another_zstd_are_merged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
