/*
 * Volumes of a group that were cut at once have points with the same times. The
 * history does not say which volumes a group has, and need not: points of the
 * same two times are of one moment.
 */
#include "recover/common_point.h"

#include <inttypes.h>
#include <stdio.h>

#include "recover/words.h"

struct moment {
    int64_t begin_ns, end_ns;
};

static bool is_group(const struct repl_points_entry *entry)
{
    return (entry->point.flags & REPL_POINT_GROUP) != 0;
}

/* What it has is what the volume was at that moment. */
static bool is_of(const struct repl_points_entry *entry, const struct moment *moment)
{
    const struct repl_point *p = &entry->point;
    if (p->flags & REPL_POINT_MERGED)
        return false; /* its bytes are a later point's */
    if (is_group(entry) && p->begin_ns == moment->begin_ns && p->end_ns == moment->end_ns)
        return true;
    return p->end_ns <= moment->begin_ns && entry->unchanged_until_ns >= moment->end_ns;
}

static bool all_have(struct repl_common_volume *volumes, size_t count, const struct moment *moment)
{
    for (size_t v = 0; v < count; v++) {
        const struct repl_catalogue *c = volumes[v].catalogue;
        size_t i = c->point_count;
        while (i > 0 && !is_of(&c->points[i - 1], moment))
            i--;
        if (i == 0)
            return false;
        volumes[v].point = i - 1;
    }
    return true;
}

/* The moment that ends last, no later than to, or first, behind it. */
static bool moment_next(const struct repl_common_volume *volumes, size_t count, int64_t to,
                        bool before, struct moment *out)
{
    bool found = false;
    for (size_t v = 0; v < count; v++) {
        const struct repl_catalogue *c = volumes[v].catalogue;
        for (size_t i = 0; i < c->point_count; i++) {
            const struct repl_point *p = &c->points[i].point;
            bool nearer = before ? p->end_ns <= to && (!found || p->end_ns > out->end_ns)
                                 : p->end_ns > to && (!found || p->end_ns < out->end_ns);
            if (!is_group(&c->points[i]) || !nearer)
                continue;
            *out = (struct moment){p->begin_ns, p->end_ns};
            found = true;
        }
    }
    return found;
}

/* The same of those that are common to all. */
static bool common_next(struct repl_common_volume *volumes, size_t count, int64_t to, bool before,
                        struct moment *out)
{
    while (moment_next(volumes, count, to, before, out)) {
        if (all_have(volumes, count, out))
            return true;
        if (before && out->end_ns == INT64_MIN)
            break;
        to = before ? out->end_ns - 1 : out->end_ns;
    }
    return false;
}

static void nearest_describe(struct repl_common_volume *volumes, size_t count, int64_t to,
                             bool before, char *out, size_t size)
{
    char local[REPL_WORDS_SIZE];
    struct moment moment;
    out[0] = '\0';
    if (!common_next(volumes, count, to, before, &moment))
        return;
    repl_words_local(moment.end_ns, local);
    snprintf(out, size, "; the nearest %s is of %s (--at %" PRIu64 ")", before ? "before" : "after",
             local, volumes[0].catalogue->points[volumes[0].point].point.seq);
}

repl_result repl_common_point_find(const struct repl_when *when, struct repl_common_volume *volumes,
                                   size_t count, struct repl_error *err)
{
    char before[160], after[160];
    size_t index;
    struct moment moment;
    REPL_TRY(repl_when_resolve_in(when, volumes[0].catalogue, &index, err));
    const struct repl_points_entry *wanted = &volumes[0].catalogue->points[index];
    bool exact = when->kind == REPL_WHEN_SEQ || when->kind == REPL_WHEN_NAME;
    int64_t to = wanted->point.end_ns;
    if (when->kind == REPL_WHEN_TIME && when->time_ns > to)
        to = when->time_ns;
    if (when->kind == REPL_WHEN_LATEST)
        to = INT64_MAX;
    if (exact) {
        moment = (struct moment){wanted->point.begin_ns, wanted->point.end_ns};
        if (all_have(volumes, count, &moment) && volumes[0].point == index)
            return REPL_SUCCESS;
    } else if (common_next(volumes, count, to, true, &moment)) {
        return REPL_SUCCESS;
    }
    nearest_describe(volumes, count, to, true, before, sizeof before);
    nearest_describe(volumes, count, to, false, after, sizeof after);
    if (before[0] == '\0' && after[0] == '\0')
        return repl_fail(
            err, REPL_E_REFUSED,
            "the volumes have no point in common: they were not cut together (\"group\" "
            "in the agent's configuration), so restore each by itself");
    if (exact)
        return repl_fail(err, REPL_E_REFUSED,
                         "point %" PRIu64 " of %s is not one that all the volumes have%s%s",
                         wanted->point.seq, volumes[0].name, before, after);
    return repl_fail(err, REPL_E_REFUSED, "there is no point by then that all the volumes have%s%s",
                     before, after);
}
