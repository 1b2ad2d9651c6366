#include "recover/verify_source.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/hash.h"
#include "block/read_full.h"
#include "loop/loop.h"
#include "suspect.h"

#define READ_PAGES   256u       /* at once from the device */
#define GAP_PAGES    READ_PAGES /* suspects that far apart are asked for by themselves */
#define SUSPECTS_MAX (8 * REPL_DIGESTS_MAX)
#define DIFFERING_ENOUGH                                                                           \
    (SUSPECTS_MAX / 2) /* who has so many pages that differ need not know how many */
#define POLL_NS      (INT64_C(250) * 1000000)
#define SETTLE_TIMES 8 /* the patience, for suspects that newer points do not settle */
#define STATUS_NS    (INT64_C(1) * 1000000000)

_Static_assert(SUSPECTS_MAX >= 2 * REPL_DIGESTS_MAX,
               "there is room for a piece in which all differs");

struct compare {
    const struct repl_verify_source_options *options;
    struct repl_verify_source_result *out;
    uint8_t *buffer; /* READ_PAGES pages, aligned for O_DIRECT */
    struct repl_sha256 *sha;
    struct repl_page_digest *source; /* of the pages of one answer of the site */
    struct repl_suspect *suspects;   /* SUSPECTS_MAX, ascending */
    size_t suspect_count;
    struct repl_points_entry at; /* where the replica stood when it was asked last */
    int64_t began_ns, told_ns;   /* monotonic; when the status was told */
};

/* --- the site and the device ----------------------------------------------------------------- */

/* Whether the answer can be compared with the device. */
static repl_result answer_check(const struct compare *c, uint64_t first_page, uint32_t page_count,
                                const struct repl_digests *answer, struct repl_error *err)
{
    const struct repl_origin *origin = c->options->origin;
    uint64_t device_size, size = answer->at.volume_size;
    uint64_t pages = repl_page_count_of(size);
    uint64_t left = first_page < pages ? pages - first_page : 0;
    if (answer->at.point.seq == 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s keeps no replica of volume %s, so there is nothing to compare with; "
                         "\"replica\" in its [volume %s] says so",
                         origin->label, origin->volume, origin->volume);
    if (answer->count != (page_count < left ? page_count : left))
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s answered with %u digests where %u were asked for, of %llu",
                         origin->label, answer->count, page_count, (unsigned long long)left);
    REPL_TRY(repl_device_size(c->options->device, &device_size, err));
    if (size > device_size)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s has %llu bytes, and the replica at point %llu %llu: is it the right "
                         "device?",
                         c->options->device->path, (unsigned long long)device_size,
                         (unsigned long long)answer->at.point.seq, (unsigned long long)size);
    return REPL_SUCCESS;
}

static repl_result replica_ask(struct compare *c, uint64_t first_page, uint32_t page_count,
                               struct repl_digests *out, struct repl_error *err)
{
    struct repl_origin *origin = c->options->origin;
    if (atomic_load(c->options->interrupted))
        return repl_fail(err, REPL_E_RETRY, "interrupted");
    REPL_TRY(origin->ops->digests(origin, first_page, page_count, out, err));
    repl_result result = answer_check(c, first_page, page_count, out, err);
    if (!repl_ok(result)) {
        repl_digests_fini(out);
        return result;
    }
    if (c->out->first_seq == 0)
        c->out->first_seq = out->at.point.seq;
    c->out->last_seq = out->at.point.seq;
    c->out->volume_size = out->at.volume_size;
    c->at = out->at;
    return REPL_SUCCESS;
}

static repl_result device_read(struct compare *c, uint64_t offset, size_t size,
                               struct repl_error *err)
{
    const struct repl_device *device = c->options->device;
    ssize_t got = repl_read_full(device->fd, c->buffer, size, offset);
    if (got != (ssize_t)size)
        return repl_fail_errno(err, REPL_E_IO, got < 0 ? errno : EIO,
                               "%s: reading %zu bytes at offset %llu", device->path, size,
                               (unsigned long long)offset);
    return REPL_SUCCESS;
}

/* Digests of the device's pages, those of a volume of this size. */
static repl_result device_digest(struct compare *c, uint64_t first_page, uint32_t page_count,
                                 uint64_t volume_size, struct repl_page_digest *out,
                                 struct repl_error *err)
{
    uint64_t offset = first_page * REPL_PAGE_SIZE;
    uint64_t end = offset + (uint64_t)page_count * REPL_PAGE_SIZE;
    if (end > volume_size)
        end = volume_size;
    while (offset < end) {
        size_t size = end - offset < READ_PAGES * REPL_PAGE_SIZE ? (size_t)(end - offset)
                                                                 : READ_PAGES * REPL_PAGE_SIZE;
        REPL_TRY(device_read(c, offset, size, err));
        for (size_t at = 0; at < size; at += REPL_PAGE_SIZE) {
            struct repl_digest digest;
            repl_page_digest(c->sha, c->buffer + at,
                             size - at < REPL_PAGE_SIZE ? size - at : REPL_PAGE_SIZE, &digest);
            *out++ = repl_page_digest_of(&digest);
        }
        offset += size;
    }
    return REPL_SUCCESS;
}

static void status_tell(struct compare *c, bool settling)
{
    const struct repl_verify_source_options *options = c->options;
    int64_t now_ns = repl_now_mono_ns();
    if (options->status == NULL || now_ns - c->told_ns < STATUS_NS)
        return;
    c->told_ns = now_ns;
    options->status(options->context,
                    &(struct repl_verify_source_status){.settling = settling,
                                                        .done_bytes = c->out->compared_bytes,
                                                        .total_bytes = c->out->volume_size,
                                                        .suspect_count = c->suspect_count,
                                                        .elapsed_ns = now_ns - c->began_ns});
}

/* --- suspects -------------------------------------------------------------------------------- */

static void tally_add(struct repl_page_tally *tally, uint64_t page)
{
    if (tally->page_count == 0 || page < tally->first_page)
        tally->first_page = page;
    tally->page_count++;
}

static void verdict_count(struct compare *c, const struct repl_suspect *s,
                          enum repl_suspect_verdict verdict)
{
    switch (verdict) {
    case REPL_SUSPECT_OPEN:
    case REPL_SUSPECT_EQUAL:
        return;
    case REPL_SUSPECT_DIFFERS:
        tally_add(&c->out->differing, s->page);
        return;
    case REPL_SUSPECT_CHANGING:
        tally_add(&c->out->changing, s->page);
        return;
    case REPL_SUSPECT_UNCLEAR:
        tally_add(&c->out->unclear, s->page);
        return;
    }
}

/* How many suspects from the first on are asked for at once. */
static size_t group_size(const struct compare *c, size_t first)
{
    const struct repl_suspect *s = &c->suspects[first];
    size_t count = 1;
    while (first + count < c->suspect_count && s[count].page - s[count - 1].page <= GAP_PAGES &&
           s[count].page - s[0].page < REPL_DIGESTS_MAX)
        count++;
    return count;
}

/* Reads those of a group that lie side by side at once, in the order of the group. */
static repl_result group_read(struct compare *c, const struct repl_suspect *s, size_t count,
                              uint64_t volume_size, struct repl_error *err)
{
    for (size_t i = 0, run; i < count; i += run) {
        for (run = 1; i + run < count && s[i + run].page == s[i].page + run;)
            run++;
        REPL_TRY(device_digest(c, s[i].page, (uint32_t)run, volume_size, &c->source[i], err));
    }
    return REPL_SUCCESS;
}

/* Looks at the group and keeps what stays open, at *kept and behind. */
static repl_result group_look(struct compare *c, size_t first, size_t count, size_t *kept,
                              struct repl_error *err)
{
    struct repl_suspect *s = &c->suspects[first];
    uint32_t page_count = (uint32_t)(s[count - 1].page - s[0].page) + 1;
    struct repl_digests replica;
    REPL_TRY(replica_ask(c, s[0].page, page_count, &replica, err));
    /* A replica that is built anew may stand at a point at which the volume was smaller. */
    bool whole = replica.count == page_count;
    repl_result result =
        whole ? group_read(c, s, count, replica.at.volume_size, err) : REPL_SUCCESS;
    struct repl_suspect_look look = {.read_ns = repl_now_wall_ns()};
    repl_suspect_told(&replica.at, &look);
    c->out->vague = c->out->vague || look.vague;
    for (size_t i = 0; repl_ok(result) && i < count; i++) {
        enum repl_suspect_verdict verdict = REPL_SUSPECT_OPEN;
        if (whole) {
            look.replica = replica.pages[s[i].page - replica.first_page];
            look.source = c->source[i];
            verdict = repl_suspect_look(&s[i], &look);
            verdict_count(c, &s[i], verdict);
        }
        if (verdict == REPL_SUSPECT_OPEN)
            c->suspects[(*kept)++] = s[i];
    }
    repl_digests_fini(&replica);
    return result;
}

static repl_result suspects_look(struct compare *c, struct repl_error *err)
{
    size_t kept = 0;
    for (size_t i = 0, count; i < c->suspect_count; i += count) {
        count = group_size(c, i);
        REPL_TRY(group_look(c, i, count, &kept, err)); /* kept <= i */
        status_tell(c, true);
    }
    c->suspect_count = kept;
    return REPL_SUCCESS;
}

/* Until the replica stands at another point, or the point is known to last longer. */
static repl_result newer_await(struct compare *c, int64_t until_ns, bool *newer,
                               struct repl_error *err)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};
    const struct repl_points_entry before = c->at;
    for (;;) {
        struct repl_digests where;
        REPL_TRY(replica_ask(c, 0, 0, &where, err));
        repl_digests_fini(&where);
        *newer = c->at.point.seq != before.point.seq ||
                 c->at.unchanged_until_ns != before.unchanged_until_ns;
        if (*newer || repl_now_mono_ns() >= until_ns)
            return REPL_SUCCESS;
        status_tell(c, true);
        nanosleep(&pause, NULL);
    }
}

static repl_result suspects_settle(struct compare *c, struct repl_error *err)
{
    int64_t patience_ns = c->options->patience_ns, now_ns = repl_now_mono_ns();
    int64_t end_ns = now_ns + SETTLE_TIMES * patience_ns;
    for (bool newer = true; newer && c->suspect_count > 0 && now_ns < end_ns;) {
        REPL_TRY(suspects_look(c, err));
        now_ns = repl_now_mono_ns();
        if (c->suspect_count > 0)
            REPL_TRY(newer_await(c, now_ns + patience_ns, &newer, err));
    }
    for (size_t i = 0; i < c->suspect_count; i++)
        verdict_count(c, &c->suspects[i], repl_suspect_give_up(&c->suspects[i]));
    c->suspect_count = 0;
    return REPL_SUCCESS;
}

/* --- from the beginning to the end ----------------------------------------------------------- */

/* What is not equal among the pages of one answer is suspected. */
static void piece_compare(struct compare *c, const struct repl_digests *replica)
{
    struct repl_suspect_look look = {.read_ns = repl_now_wall_ns()};
    repl_suspect_told(&replica->at, &look);
    for (uint32_t i = 0; i < replica->count; i++) {
        look.replica = replica->pages[i];
        look.source = c->source[i];
        if (!repl_page_digest_equal(&look.replica, &look.source))
            repl_suspect_init(&c->suspects[c->suspect_count++], replica->first_page + i, &look);
    }
}

static repl_result piece_scan(struct compare *c, uint64_t page, struct repl_error *err)
{
    struct repl_digests replica;
    REPL_TRY(replica_ask(c, page, REPL_DIGESTS_MAX, &replica, err));
    repl_result result =
        device_digest(c, page, replica.count, replica.at.volume_size, c->source, err);
    if (repl_ok(result)) {
        uint64_t end = (page + replica.count) * REPL_PAGE_SIZE;
        piece_compare(c, &replica);
        c->out->compared_bytes = end < c->out->volume_size ? end : c->out->volume_size;
    }
    repl_digests_fini(&replica);
    return result;
}

static repl_result volume_scan(struct compare *c, struct repl_error *err)
{
    uint64_t page = 0;
    do {
        REPL_TRY(piece_scan(c, page, err));
        page += REPL_DIGESTS_MAX;
        status_tell(c, false);
        if (c->suspect_count + REPL_DIGESTS_MAX > SUSPECTS_MAX)
            REPL_TRY(suspects_settle(c, err));
    } while (page * REPL_PAGE_SIZE < c->out->volume_size &&
             c->out->differing.page_count < DIFFERING_ENOUGH);
    c->out->stopped = page * REPL_PAGE_SIZE < c->out->volume_size;
    return suspects_settle(c, err);
}

repl_result repl_verify_source(const struct repl_verify_source_options *options,
                               struct repl_verify_source_result *out, struct repl_error *err)
{
    *out = (struct repl_verify_source_result){0};
    struct compare c = {.options = options, .out = out, .began_ns = repl_now_mono_ns()};
    REPL_TRY(repl_sha256_new(&c.sha, err));
    c.buffer = aligned_alloc(REPL_PAGE_SIZE, READ_PAGES * REPL_PAGE_SIZE);
    c.source = calloc(REPL_DIGESTS_MAX, sizeof c.source[0]);
    c.suspects = calloc(SUSPECTS_MAX, sizeof c.suspects[0]);
    repl_result result = c.buffer == NULL || c.source == NULL || c.suspects == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for a comparison")
                             : volume_scan(&c, err);
    free(c.suspects);
    free(c.source);
    free(c.buffer);
    repl_sha256_free(c.sha);
    return result;
}
