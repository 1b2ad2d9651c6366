/*
 * Runs that could not be merged, and until when they are left alone: for an hour,
 * or, where the disk was full, for a minute.
 *
 * Where it was what the merge read, the scrub looks at it next. If a segment of the
 * run is damaged, the run waits until that one is whole again, however long that
 * takes, and is then merged at the next visit; or until the run ends behind the
 * point from which on nothing of what is damaged is of use; or until there is something to stand in
 * for what is damaged (site_patch.h). It is tried once: what
 * is damaged may be just what the merge leaves out.
 */
#include <inttypes.h>
#include <string.h>
#include <syslog.h>

#include "control/control.h"
#include "site/compactor/compactor_internal.h"
#include "store/segment_name.h"

#define FAILURE_NS      (INT64_C(3600) * 1000000000)
#define FAILURE_FULL_NS (INT64_C(60) * 1000000000)

static bool is_of(const struct compactor_failure *failure, const struct site_volume *v)
{
    return strcmp(failure->volume, v->name) == 0;
}

/* The first segment of what the run reads that is known to be damaged; NULL: none is. */
static const struct scrub_damage *damage_in(const struct site_volume *v, uint64_t first_seq,
                                            uint64_t to_seq)
{
    for (size_t i = 0; i < v->scrub.damage_count; i++) {
        const struct repl_segment_id *id = &v->scrub.damages[i].id;
        if (id->supply == 0 && id->to_seq >= first_seq && id->to_seq <= to_seq)
            return &v->scrub.damages[i];
    }
    return NULL;
}

static const struct scrub_damage *damage_of(const struct site_volume *v,
                                            const struct repl_segment_id *id)
{
    for (size_t i = 0; i < v->scrub.damage_count; i++) {
        if (repl_segment_id_order(&v->scrub.damages[i].id, id) == 0)
            return &v->scrub.damages[i];
    }
    return NULL;
}

/* It waits for that segment from here on. */
static void failure_bind(struct compactor_failure *failure, const struct scrub_damage *damage)
{
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    failure->damaged = true;
    failure->segment = damage->id;
    repl_segment_id_text(&damage->id, text);
    repl_log(LOG_ERR,
             "volume %s: the points up to %" PRIu64 " are not merged before segment %s, which is "
             "damaged, is whole again",
             failure->volume, failure->to_seq, text);
}

void compactor_failure_note(struct site_compactor *c, struct site_volume *v)
{
    const struct compactor_visit *visit = &c->visit;
    enum repl_code code = visit->outcome.code;
    struct compactor_failure *failure = &c->failures[c->next_failure++ % COMPACTOR_FAILED_MAX];
    *failure = (struct compactor_failure){
        .first_seq = visit->chain.entries[visit->read_first].commit.to_seq,
        .to_seq = visit->merge.to_seq,
        .until_ns = repl_now_mono_ns() + (code == REPL_E_NOSPACE ? FAILURE_FULL_NS : FAILURE_NS),
        .unreadable = code == REPL_E_CORRUPT || code == REPL_E_IO || code == REPL_E_MISSING};
    memcpy(failure->volume, v->name, sizeof failure->volume);
    v->merge_failed = true;
    repl_log(LOG_ERR, "volume %s: points up to %" PRIu64 " are not merged for now: %s", v->name,
             visit->merge.to_seq, visit->err.text);
    if (failure->unreadable)
        site_scrub_suspect(v, failure->first_seq, failure->to_seq);
}

void compactor_failures_list(struct site_compactor *c, const struct site_volume *v,
                             struct compactor_visit *visit)
{
    int64_t now_ns = repl_now_mono_ns();
    for (size_t i = 0; i < COMPACTOR_FAILED_MAX; i++) {
        struct compactor_failure *failure = &c->failures[i];
        if (!is_of(failure, v))
            continue;
        const struct scrub_damage *damage = failure->damaged ? damage_of(v, &failure->segment)
                                            : failure->unreadable
                                                ? damage_in(v, failure->first_seq, failure->to_seq)
                                                : NULL;
        bool patched = damage != NULL && visit->patch != NULL &&
                       repl_segment_id_order(&visit->patch->id, &damage->id) == 0;
        if (damage != NULL && !patched && !failure->damaged)
            failure_bind(failure, damage);
        if (damage != NULL && !patched)
            visit->skip[visit->skip_count++] = (struct compactor_skip){
                .damaged_to = damage->id.to_seq, .healed_seq = damage->healed_seq};
        else if (!patched && !failure->damaged && failure->until_ns > now_ns)
            visit->skip[visit->skip_count++] = (struct compactor_skip){.to_seq = failure->to_seq};
        else
            *failure = (struct compactor_failure){.to_seq = 0};
    }
}

bool site_compactor_waits(const struct site_volume *v)
{
    const struct site_compactor *c = v->site->compactor;
    bool waits = false;
    for (size_t i = 0; c != NULL && i < COMPACTOR_FAILED_MAX; i++)
        waits |= c->failures[i].damaged && is_of(&c->failures[i], v);
    return waits;
}
