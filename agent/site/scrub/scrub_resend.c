/*
 * What the source is asked to send once more: pages that lie in damaged frames, and
 * of which no later segment says anything. They are part of what the volume is now,
 * so the source has them, unless it has overwritten them since. Or a full, where a
 * segment cannot be opened, so that nobody knows of which pages it speaks.
 *
 * What it sends becomes part of a new point. So what is damaged ends there for the
 * points from then on, whatever becomes of the damaged segment; and where the pages
 * are what they were, that one is made whole of them (scrub_later.c). The source
 * asks from time to time (docs/formats/wire.md); what has come is looked at a few
 * seconds after it was told, and then less and less often.
 *
 * While a full is on its way no point comes. Where there is no replica that has what
 * the segment said, nothing but a full brings back a point of now, and it is asked
 * for at once; where there is one, whoever looks after the site chooses the hour.
 */
#include <stdlib.h>
#include <syslog.h>

#include "control/control.h"
#include "loop/loop.h"
#include "site/scrub/scrub_internal.h"
#include "site/site_volume.h"

#define LOOK_NS     (INT64_C(3) * 1000000000)
#define LOOK_NS_MAX (INT64_C(3600) * 1000000000)
/* What could not be opened is looked at once more before it is given up. */
#define CONFIRM_NS (INT64_C(60) * 1000000000)

repl_result scrub_resend_add(struct scrub_visit *visit, const struct repl_extent_map *extents,
                             struct repl_error *err)
{
    struct repl_extent_cursor cursor = repl_extent_map_seek(extents, 0);
    for (const struct repl_extent *e; (e = repl_extent_cursor_next(&cursor)) != NULL;) {
        uint64_t first = e->offset / REPL_PAGE_SIZE;
        uint64_t end = (e->offset + e->length + REPL_PAGE_SIZE - 1) / REPL_PAGE_SIZE;
        const struct repl_extent pages = {.offset = first * REPL_PAGE_SIZE,
                                          .length = (end - first) * REPL_PAGE_SIZE,
                                          .type = REPL_RECORD_ZERO};
        REPL_TRY(repl_extent_map_put(&visit->wanted, &pages, err));
    }
    return REPL_SUCCESS;
}

/* As many as one answer takes: the rest is asked for when these have come. */
static struct repl_resend runs_of(const struct repl_extent_map *wanted)
{
    struct repl_resend resend = {.runs = calloc(REPL_LIST_ENTRIES_MAX, sizeof *resend.runs)};
    struct repl_extent_cursor cursor = repl_extent_map_seek(wanted, 0);
    const struct repl_extent *e = repl_extent_cursor_next(&cursor);
    for (; resend.runs != NULL && e != NULL; e = repl_extent_cursor_next(&cursor)) {
        uint64_t first = e->offset / REPL_PAGE_SIZE, count = e->length / REPL_PAGE_SIZE;
        struct repl_page_run *last = resend.count > 0 ? &resend.runs[resend.count - 1] : NULL;
        if (last != NULL && first == last->first + last->count)
            last->count += count;
        else if (resend.count == REPL_LIST_ENTRIES_MAX)
            break;
        else
            resend.runs[resend.count++] = (struct repl_page_run){.first = first, .count = count};
    }
    return resend;
}

static uint64_t pages_in(const struct repl_resend *resend)
{
    uint64_t pages = 0;
    for (uint32_t i = 0; i < resend->count; i++)
        pages += resend->runs[i].count;
    return pages;
}

bool scrub_replica_has(const struct site_volume *v, uint64_t seq)
{
    struct repl_replica_status status = {0};
    if (v->replica == NULL)
        return false;
    repl_replica_look(v->replica, &status);
    return status.reached.to_seq >= seq && status.problem[0] == '\0';
}

static void full_log(const struct site_volume *v, uint64_t seq)
{
    static const char lost[] = "a segment cannot be opened, so that no point behind it restores "
                               "until all of the volume has come once more";
    if (scrub_replica_has(v, seq))
        repl_log(LOG_NOTICE,
                 "volume %s: %s. Its replica is as current as it was. As no point comes meanwhile, "
                 "that waits for somebody to say so: run \"repl full %s\" on its host",
                 v->name, lost, v->name);
    else
        repl_log(LOG_NOTICE, "volume %s: %s. Its source is asked for that", v->name, lost);
}

static void full_take(struct site_volume *v, const struct scrub_visit *visit)
{
    struct scrub_of_volume *of = &v->scrub;
    if (visit->opaque_is_fresh && of->resend_look_ns == 0) {
        of->resend_pause_ns = CONFIRM_NS;
        of->resend_look_ns = repl_now_mono_ns() + CONFIRM_NS;
    }
    if (!visit->asked)
        return;
    if (visit->full_wanted && !of->full_wanted)
        full_log(v, visit->opaque_seq);
    of->full_wanted = visit->full_wanted;
    of->opaque_seq = visit->opaque_seq;
}

void site_scrub_committed(struct site_volume *v, uint64_t from_seq)
{
    struct scrub_of_volume *of = &v->scrub;
    if (from_seq != 0 || !of->full_wanted)
        return;
    of->full_wanted = false;
    of->resend_pause_ns = LOOK_NS;
    of->resend_look_ns = repl_now_mono_ns();
}

void scrub_resend_take(struct site_volume *v, struct scrub_visit *visit)
{
    struct scrub_of_volume *of = &v->scrub;
    of->resend_stale = visit->asks && !visit->asked && !visit->again && repl_ok(visit->outcome);
    if (of->resend_look_ns != 0 && visit->again) {
        of->resend_pause_ns =
            2 * of->resend_pause_ns < LOOK_NS_MAX ? 2 * of->resend_pause_ns : LOOK_NS_MAX;
        of->resend_look_ns = repl_now_mono_ns() + of->resend_pause_ns;
    }
    full_take(v, visit);
    if (!visit->asked)
        return;
    uint64_t before = pages_in(&of->resend);
    repl_resend_fini(&of->resend);
    of->resend = runs_of(&visit->wanted);
    uint64_t pages = pages_in(&of->resend);
    if (pages == 0 && visit->opaque_seq == 0)
        of->resend_look_ns = of->resend_pause_ns = 0;
    if (pages > before)
        repl_log(LOG_NOTICE,
                 "volume %s: its source is asked to send %llu pages once more, which are damaged "
                 "here and have not changed since",
                 v->name, (unsigned long long)pages);
}

bool scrub_resend_is_due(const struct scrub_of_volume *of, int64_t now_ns)
{
    return of->resend_stale || (of->resend_look_ns != 0 && now_ns >= of->resend_look_ns);
}

void site_scrub_resend(struct site_request *request)
{
    struct scrub_of_volume *of = &request->volume->scrub;
    struct repl_buffer message = {0};
    struct repl_error err;
    struct repl_resend full = {.full = of->full_wanted &&
                                       !scrub_replica_has(request->volume, of->opaque_seq)};
    if ((of->resend.count > 0 || full.full) && of->resend_look_ns == 0) {
        of->resend_pause_ns = LOOK_NS;
        of->resend_look_ns = repl_now_mono_ns() + LOOK_NS;
    }
    site_answer_message(request, 200,
                        repl_resend_encode(full.full ? &full : &of->resend, &message, &err),
                        &message);
}
