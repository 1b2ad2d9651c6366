/*
 * Threads take the next segment, or the next MiB of the replica, until there
 * is none. What is wrong with a segment is a finding, not an error: the rest is
 * looked at all the same. Only what keeps from looking (no connection, no
 * memory, an interrupt) is an error.
 *
 * A point is affected by damage in any segment it is made of: from the last
 * full up to its own, and those that hold chunks which these refer to. Whether
 * the damaged bytes are still visible at the point is not asked: it is rather
 * named once too often.
 *
 * A tree is looked at as a whole at the last point before each full, and at the
 * newest: so every segment is merged with what is before it, once. To do so at
 * each point would take the whole tree each time, and a restore looks at the one
 * that it restores (verify_tree.h). If it makes no sense there, no point since
 * the full before is trusted.
 */
#include "recover/verify_history.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "block/read_full.h"
#include "format/slot.h"
#include "recover/verify_crew.h"
#include "recover/verify_tree.h"
#include "segment/segment_chain.h"
#include "segment/segment_verify.h"

#define PIECE_SIZE    (1u << 20)
#define CACHED_FRAMES 32u

/* --- segments -------------------------------------------------------------------------------- */

struct segments_check {
    struct repl_crew crew;
    const struct repl_verify_options *options;
    const struct repl_catalogue *catalogue;
    struct repl_verify_result *out;
    bool *damaged;   /* of each segment, then of each supply */
    bool *senseless; /* of each segment: the full of a tree that makes no sense */
    /* pairs of such places: the first refers to chunks in the second */
    struct repl_buffer references;
};

static void finding(struct segments_check *check, const char *text)
{
    pthread_mutex_lock(&check->crew.mutex);
    check->options->finding(check->options->context, text);
    pthread_mutex_unlock(&check->crew.mutex);
}

/* Errors that keep from looking, and not what is looked for. */
static bool is_obstacle(repl_result result)
{
    return result.code == REPL_E_RETRY || result.code == REPL_E_NOMEM ||
           result.code == REPL_E_REFUSED || result.code == REPL_E_FENCED ||
           result.code == REPL_E_LOCKED;
}

static repl_result reference_add(struct segments_check *check, size_t from, size_t to,
                                 struct repl_error *err)
{
    size_t pair[2] = {from, to};
    pthread_mutex_lock(&check->crew.mutex);
    repl_result result = repl_buffer_append(&check->references, pair, sizeof pair, err);
    pthread_mutex_unlock(&check->crew.mutex);
    return result;
}

/* Notes where a chunk lies, or that its name is to be looked for in the pool. */
static repl_result reference_look(struct segments_check *check, size_t i,
                                  const struct repl_record *record, size_t *last,
                                  struct repl_buffer *elsewhere, struct repl_error *err)
{
    struct repl_chunk_home home;
    REPL_TRY(repl_forward(repl_history_chunk(check->options->history, &record->chunk, &home, err),
                          err, "the extent at offset %llu", (unsigned long long)record->offset));
    if (home.segment == NULL)
        return repl_buffer_append(elsewhere, &record->chunk, sizeof record->chunk, err);
    size_t place = home.supply ? check->catalogue->segment_count + home.index : home.index;
    if (place != *last && place != i)
        REPL_TRY(reference_add(check, i, place, err));
    *last = place;
    return REPL_SUCCESS;
}

static repl_result references_walk(struct segments_check *check, size_t i,
                                   const struct repl_segment *segment,
                                   struct repl_frame_coder *coder, uint64_t *count,
                                   struct repl_buffer *elsewhere, struct repl_error *err)
{
    struct repl_record_walk walk;
    repl_result result = REPL_SUCCESS;
    size_t last = SIZE_MAX;
    repl_record_walk_begin(&walk, segment, coder);
    for (bool done = false; repl_ok(result);) {
        struct repl_record record;
        result = repl_record_walk_next(&walk, &record, &done, err);
        if (!repl_ok(result) || done)
            break;
        if (record.type != REPL_RECORD_CHUNK)
            continue;
        ++*count;
        result = reference_look(check, i, &record, &last, elsewhere, err);
    }
    repl_record_walk_end(&walk);
    return result;
}

/* Every chunk the segment refers to lies somewhere. What others of the pool brought is looked at
 * here, as nobody else's verification is ours. */
static repl_result references_check(struct segments_check *check, size_t i,
                                    const struct repl_segment *segment,
                                    struct repl_frame_coder *coder, uint64_t *count,
                                    struct repl_error *err)
{
    struct repl_buffer elsewhere = {0};
    repl_result result = references_walk(check, i, segment, coder, count, &elsewhere, err);
    struct repl_digest *names = (struct repl_digest *)(void *)elsewhere.data;
    if (repl_ok(result) && elsewhere.size > 0)
        result = repl_history_pool_check(check->options->history, names,
                                         repl_digests_unique(names, elsewhere.size / sizeof *names),
                                         err);
    repl_buffer_fini(&elsewhere);
    return result;
}

static repl_result segment_look(struct segments_check *check, size_t i,
                                struct repl_frame_coder *coder, uint64_t *bytes,
                                uint64_t *references, struct repl_error *err)
{
    const struct repl_segment *segment;
    size_t segments = check->catalogue->segment_count;
    char name[64];
    if (i >= segments) {
        const struct repl_segment_id *id = &check->catalogue->supplies[i - segments];
        snprintf(name, sizeof name, "supply %llu.%u.%u", (unsigned long long)id->to_seq, id->part,
                 id->supply);
        REPL_TRY(repl_history_supply(check->options->history, i - segments, &segment, err));
    } else {
        const struct repl_head *head = &check->catalogue->segments[i].head;
        snprintf(name, sizeof name, "segment %llu.%u", (unsigned long long)head->to_seq,
                 head->part);
        REPL_TRY(repl_history_segment(check->options->history, i, &segment, err));
    }
    *bytes = segment->footer.file_size;
    REPL_TRY(repl_forward(repl_segment_verify(segment, coder, err), err, "%s", name));
    if (i >= segments)
        return REPL_SUCCESS;
    return repl_forward(references_check(check, i, segment, coder, references, err), err, "%s",
                        name);
}

static bool is_skipped(const struct segments_check *check, uint64_t item)
{
    return check->options->skip != NULL && check->options->skip[item];
}

static repl_result segment_item(void *context, void *of_thread, uint64_t item,
                                struct repl_error *err)
{
    struct segments_check *check = context;
    uint64_t bytes = 0, references = 0;
    if (is_skipped(check, item))
        return REPL_SUCCESS;
    repl_result result = segment_look(check, item, of_thread, &bytes, &references, err);
    if (is_obstacle(result))
        return result;
    if (!repl_ok(result))
        finding(check, err->text);
    pthread_mutex_lock(&check->crew.mutex);
    check->out->bytes += bytes;
    check->out->reference_count += references;
    check->out->damaged_count += !repl_ok(result);
    check->damaged[item] = !repl_ok(result);
    pthread_mutex_unlock(&check->crew.mutex);
    return REPL_SUCCESS;
}

static repl_result coder_begin(void *context, void **of_thread, struct repl_error *err)
{
    struct repl_frame_coder *coder = NULL;
    (void)context;
    repl_result result = repl_frame_coder_new(&coder, err);
    *of_thread = coder;
    return result;
}

static void coder_end(void *of_thread)
{
    repl_frame_coder_free(of_thread);
}

/* --- the chain ------------------------------------------------------------------------------- */

/* Segments of a base that merges have made stand one beside the other, not one behind the other. */
static bool entry_follows(const struct repl_segments_entry *before,
                          const struct repl_segments_entry *entry)
{
    const struct repl_head *head = &entry->head;
    if (before == NULL)
        return head->from_seq == 0;
    if (head->from_seq == 0 && before->head.from_seq == 0 && entry->merge != 0)
        return true;
    return repl_segment_follows(&before->head, head->from_seq, head->to_seq, head->part);
}

/* A segment that cannot be opened is damaged, and has been named for it. */
static void chain_check(struct segments_check *check)
{
    const struct repl_catalogue *c = check->catalogue;
    for (size_t i = 0; i < c->segment_count; i++) {
        const struct repl_head *head = &c->segments[i].head;
        const struct repl_segments_entry *before = i > 0 ? &c->segments[i - 1] : NULL;
        const struct repl_segment *segment;
        char text[160];
        bool linked = true, follows = entry_follows(before, &c->segments[i]);
        if (!is_skipped(check, i) &&
            repl_ok(repl_history_segment(check->options->history, i, &segment, NULL)))
            linked = repl_history_is_linked(check->options->history, i, segment);
        if (linked && follows)
            continue;
        check->out->broken_links++;
        check->damaged[i] = true;
        snprintf(text, sizeof text, "segment %llu.%u %s: the chain is broken there",
                 (unsigned long long)head->to_seq, head->part,
                 follows ? "continues another segment than the one before it"
                 : before == NULL
                     ? "is the first, and carries only the changes since an earlier one"
                     : "does not begin where the one before it ends");
        check->options->finding(check->options->context, text);
    }
}

/* --- the tree -------------------------------------------------------------------------------- */

/* Segments [first, end), the last of which ends in a point. */
static repl_result tree_look(struct segments_check *check, size_t first, size_t end,
                             struct repl_error *err)
{
    const struct repl_segment **segments = malloc((end - first) * sizeof *segments);
    if (segments == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", end - first);
    repl_result result = REPL_SUCCESS;
    for (size_t i = first; i < end && repl_ok(result); i++)
        result = repl_history_segment(check->options->history, i, &segments[i - first], err);
    if (repl_ok(result))
        result = repl_verify_tree(segments, end - first, check->options->interrupted, err);
    free(segments);
    return repl_forward(result, err, "the tree at point %llu",
                        (unsigned long long)check->catalogue->segments[end - 1].head.to_seq);
}

/* What is damaged has been named, and cannot be merged. */
static repl_result run_check(struct segments_check *check, size_t first, size_t end,
                             struct repl_error *err)
{
    size_t read = 0;
    for (size_t i = first; i < end; i++) {
        if (check->damaged[i])
            return REPL_SUCCESS;
        read += !is_skipped(check, i);
    }
    if (read == 0)
        return REPL_SUCCESS;
    repl_result result = tree_look(check, first, end, err);
    if (is_obstacle(result))
        return result;
    check->out->tree_count++;
    if (repl_ok(result))
        return REPL_SUCCESS;
    check->out->senseless_count++;
    check->senseless[first] = true;
    check->options->finding(check->options->context, err->text);
    return REPL_SUCCESS;
}

/* The last point of each run that begins with a full. */
static repl_result trees_check(struct segments_check *check, struct repl_error *err)
{
    const struct repl_catalogue *c = check->catalogue;
    const struct repl_segment *segment;
    size_t first = 0, end = 0; /* of the run, up to its last point */
    for (size_t i = 0; i < c->segment_count && !check->out->tree; i++)
        check->out->tree =
            !is_skipped(check, i) &&
            repl_ok(repl_history_segment(check->options->history, i, &segment, NULL)) &&
            segment->header.volume_kind == REPL_VOLUME_TREE;
    for (size_t i = 0; i < c->segment_count && check->out->tree; i++) {
        const struct repl_head *head = &c->segments[i].head;
        if (repl_history_is_base(check->options->history, i)) {
            REPL_TRY(run_check(check, first, end, err));
            first = end = i;
        }
        if (head->has_point)
            end = i + 1;
    }
    return check->out->tree ? run_check(check, first, end, err) : REPL_SUCCESS;
}

/* --- the points ------------------------------------------------------------------------------ */

/* Damage spreads to those that refer to what is damaged. One round does: a chunk's own bytes
 * refer to nothing. */
static void damage_spread(struct segments_check *check, bool *unsound)
{
    const size_t(*pairs)[2] = (const void *)check->references.data;
    size_t count = check->references.size / sizeof *pairs;
    memcpy(unsound, check->damaged, check->catalogue->segment_count * sizeof *unsound);
    for (size_t i = 0; i < count; i++) {
        if (check->damaged[pairs[i][1]])
            unsound[pairs[i][0]] = true;
    }
}

static repl_result points_check(struct segments_check *check, struct repl_error *err)
{
    const struct repl_catalogue *c = check->catalogue;
    struct repl_verify_result *out = check->out;
    bool *unsound = calloc(c->segment_count + 1, sizeof *unsound);
    out->point_affected = calloc(c->point_count + 1, sizeof *out->point_affected);
    if (unsound == NULL || out->point_affected == NULL) {
        free(unsound);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu points", c->point_count);
    }
    damage_spread(check, unsound);
    bool since_full = false;
    size_t point = 0;
    for (size_t i = 0; i < c->segment_count; i++) {
        const struct repl_head *head = &c->segments[i].head;
        if (repl_history_is_base(check->options->history, i))
            since_full = false;
        since_full = since_full || unsound[i] || check->senseless[i];
        while (point < c->point_count && c->points[point].point.seq < head->to_seq)
            out->point_affected[point++] = true; /* no segment ends in it */
        if (head->has_point && point < c->point_count && c->points[point].point.seq == head->to_seq)
            out->point_affected[point++] = since_full;
    }
    for (; point < c->point_count; point++)
        out->point_affected[point] = true;
    for (size_t i = 0; i < c->point_count; i++)
        out->affected_count += out->point_affected[i];
    free(unsound);
    return REPL_SUCCESS;
}

void repl_verify_result_fini(struct repl_verify_result *result)
{
    free(result->point_affected);
    result->point_affected = NULL;
}

repl_result repl_verify_history(const struct repl_verify_options *options,
                                struct repl_verify_result *out, struct repl_error *err)
{
    const struct repl_catalogue *c = repl_history_catalogue(options->history);
    *out = (struct repl_verify_result){.segment_count = c->segment_count,
                                       .supply_count = c->supply_count};
    struct segments_check check = {.options = options, .catalogue = c, .out = out};
    check.crew = (struct repl_crew){.options = options,
                                    .item = segment_item,
                                    .context = &check,
                                    .thread_begin = coder_begin,
                                    .thread_end = coder_end,
                                    .item_count = c->segment_count + c->supply_count};
    check.damaged = calloc(check.crew.item_count + 1, sizeof *check.damaged);
    check.senseless = calloc(c->segment_count + 1, sizeof *check.senseless);
    repl_result result =
        check.damaged == NULL || check.senseless == NULL
            ? repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", c->segment_count)
            : repl_crew_run(&check.crew, err);
    if (repl_ok(result)) {
        chain_check(&check);
        result = trees_check(&check, err);
    }
    if (repl_ok(result))
        result = points_check(&check, err);
    repl_buffer_fini(&check.references);
    free(check.damaged);
    free(check.senseless);
    return result;
}

/* --- the replica ----------------------------------------------------------------------------- */

struct replica_check {
    struct repl_crew crew;
    struct repl_view *view;
    const char *image_path;
    int fd;
    struct repl_replica_result *out;
};

struct replica_reader {
    struct repl_view_reader *reader;
    uint8_t *wanted, *found;
};

static void replica_reader_end(void *of_thread)
{
    struct replica_reader *reader = of_thread;
    repl_view_reader_free(reader->reader);
    free(reader->wanted);
    free(reader->found);
    free(reader);
}

static repl_result replica_reader_begin(void *context, void **of_thread, struct repl_error *err)
{
    const struct replica_check *check = context;
    struct replica_reader *reader = calloc(1, sizeof *reader);
    *of_thread = reader;
    if (reader == NULL || (reader->wanted = malloc(PIECE_SIZE)) == NULL ||
        (reader->found = malloc(PIECE_SIZE)) == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    return repl_view_reader_new(check->view, CACHED_FRAMES, &reader->reader, err);
}

/* Whatever lies behind the file's end is zeros. */
static repl_result image_read(const struct replica_check *check, uint64_t offset, uint8_t *out,
                              size_t size, struct repl_error *err)
{
    ssize_t got = repl_read_full(check->fd, out, size, offset);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read %s", check->image_path);
    memset(out + got, 0, size - (size_t)got);
    return REPL_SUCCESS;
}

static repl_result replica_item(void *context, void *of_thread, uint64_t item,
                                struct repl_error *err)
{
    struct replica_check *check = context;
    struct replica_reader *reader = of_thread;
    uint64_t offset = item * PIECE_SIZE, left = repl_view_size(check->view) - offset;
    size_t size = left < PIECE_SIZE ? (size_t)left : PIECE_SIZE;
    REPL_TRY(repl_view_read(reader->reader, offset, reader->wanted, size, err));
    REPL_TRY(image_read(check, offset, reader->found, size, err));
    uint64_t differing = 0, first = UINT64_MAX;
    for (size_t at = 0; at < size; at += REPL_PAGE_SIZE) {
        size_t page = size - at < REPL_PAGE_SIZE ? size - at : REPL_PAGE_SIZE;
        if (memcmp(reader->wanted + at, reader->found + at, page) == 0)
            continue;
        differing += page;
        if (first == UINT64_MAX)
            first = offset + at;
    }
    pthread_mutex_lock(&check->crew.mutex);
    check->out->compared_bytes += size;
    check->out->differing_bytes += differing;
    if (first < check->out->first_difference)
        check->out->first_difference = first;
    pthread_mutex_unlock(&check->crew.mutex);
    return REPL_SUCCESS;
}

static repl_result state_read(const char *path, struct repl_replica_state *state,
                              uint64_t *generation, struct repl_error *err)
{
    uint8_t slots[REPL_SLOT_FILE] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, errno == ENOENT ? REPL_E_MISSING : REPL_E_IO, errno,
                               "cannot open %s", path);
    ssize_t got = pread(fd, slots, sizeof slots, 0);
    int os_errno = errno;
    close(fd);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, os_errno, "cannot read %s", path);
    return repl_forward(repl_replica_state_decode(slots, state, generation, err), err, "%s", path);
}

/* The point of the catalogue that the replica says it stands at. */
static repl_result point_find(const struct repl_history *history,
                              const struct repl_replica_state *state, size_t *point,
                              struct repl_error *err)
{
    const struct repl_catalogue *c = repl_history_catalogue(history);
    size_t i = repl_history_segment_of(history, state->reached.to_seq);
    for (*point = 0; *point < c->point_count; ++*point) {
        if (c->points[*point].point.seq == state->reached.to_seq)
            break;
    }
    if (i == SIZE_MAX || *point == c->point_count ||
        !repl_digest_equal(&c->segments[i].head.digest, &state->reached.digest))
        return repl_fail(err, REPL_E_CORRUPT,
                         "the replica says it stands at point %llu, which is not in the history: "
                         "it is another volume's, or the history was replaced",
                         (unsigned long long)state->reached.to_seq);
    return REPL_SUCCESS;
}

static repl_result replica_compare(struct replica_check *check, size_t point,
                                   const struct repl_verify_options *options,
                                   struct repl_error *err)
{
    REPL_TRY(repl_history_view(options->history, point, &check->view, err));
    check->fd = open(check->image_path, O_RDONLY | O_CLOEXEC);
    if (check->fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open the replica %s",
                               check->image_path);
    check->crew = (struct repl_crew){.options = options,
                                     .item = replica_item,
                                     .context = check,
                                     .thread_begin = replica_reader_begin,
                                     .thread_end = replica_reader_end,
                                     .item_count = (repl_view_size(check->view) + PIECE_SIZE - 1) /
                                                   PIECE_SIZE};
    return repl_crew_run(&check->crew, err);
}

repl_result repl_verify_replica(const struct repl_verify_options *options, const char *state_path,
                                const char *image_path, struct repl_replica_result *out,
                                struct repl_error *err)
{
    struct repl_replica_state state, after;
    uint64_t generation, generation_after;
    size_t point;
    *out = (struct repl_replica_result){.first_difference = UINT64_MAX};
    REPL_TRY(state_read(state_path, &state, &generation, err));
    out->seq = state.reached.to_seq;
    if (state.reached.to_seq == 0 || state.applying || !state.reached.has_point) {
        out->verdict = state.reached.to_seq == 0 && !state.applying ? REPL_REPLICA_EMPTY
                                                                    : REPL_REPLICA_BETWEEN;
        return REPL_SUCCESS;
    }
    REPL_TRY(point_find(options->history, &state, &point, err));
    struct replica_check check = {.image_path = image_path, .fd = -1, .out = out};
    repl_result result = replica_compare(&check, point, options, err);
    repl_view_free(check.view);
    if (check.fd >= 0)
        close(check.fd);
    REPL_TRY(result);
    REPL_TRY(state_read(state_path, &after, &generation_after, err));
    out->verdict = out->differing_bytes == 0        ? REPL_REPLICA_SAME
                   : generation_after != generation ? REPL_REPLICA_MOVED
                                                    : REPL_REPLICA_DIFFERS;
    return REPL_SUCCESS;
}
