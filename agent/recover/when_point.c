/*
 * Which point is meant, and what is said of it. A text may mean a point by itself, as
 * a name, and as "before" a name; of several meanings none is chosen.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "journal/mark.h"
#include "journal/trouble.h"
#include "recover/when.h"
#include "recover/words.h"

static repl_result resolve_seq(uint64_t seq, const struct repl_points_entry *points, size_t count,
                               size_t *index, struct repl_error *err)
{
    uint64_t before = 0, after = 0;
    for (size_t i = 0; i < count; i++) {
        *index = i;
        if (points[i].point.seq == seq)
            return REPL_SUCCESS;
        if (points[i].point.seq < seq)
            before = points[i].point.seq;
        else if (after == 0)
            after = points[i].point.seq;
    }
    if (before == 0 || after == 0)
        return repl_fail(err, REPL_E_MISSING, "there is no point %" PRIu64 ": the %s is %" PRIu64,
                         seq, before == 0 ? "first" : "last", before == 0 ? after : before);
    return repl_fail(err, REPL_E_MISSING,
                     "there is no point %" PRIu64 ": its neighbours are %" PRIu64 " and %" PRIu64,
                     seq, before, after);
}

static const char *kind_words(enum repl_when_kind kind)
{
    return kind == REPL_WHEN_ENCRYPTION ? "encryption" : "trouble";
}

static repl_result no_trouble(enum repl_when_kind kind, bool known, bool other,
                              struct repl_error *err)
{
    return repl_fail(err, REPL_E_MISSING,
                     "no point is marked as %s%s: \"repl points\" shows how much each has "
                     "changed%s; give the number of one",
                     kind_words(kind),
                     known ? "" : " (the site is of an older release, which does not look for it)",
                     other ? ", and what else was marked (--at \"before trouble\")" : "");
}

static repl_result resolve_trouble(enum repl_when_kind kind, const struct repl_points_entry *points,
                                   size_t count, size_t *index, struct repl_error *err)
{
    bool known = false, other = false;
    for (size_t i = count; i > 0; i--) {
        const struct repl_churn *churn = &points[i - 1].churn;
        known |= churn->known;
        if (churn->trouble == REPL_TROUBLE_NONE)
            continue;
        other = true;
        if (kind == REPL_WHEN_ENCRYPTION && churn->trouble != REPL_TROUBLE_ENCRYPTION)
            continue;
        *index = repl_trouble_last_before(points, i - 1, churn->trouble_before_seq);
        if (*index != SIZE_MAX)
            return REPL_SUCCESS;
        return repl_fail(err, REPL_E_MISSING,
                         "what point %" PRIu64 " was marked for began behind point %" PRIu64
                         ", and neither that one nor an older one is there any more",
                         points[i - 1].point.seq, churn->trouble_before_seq);
    }
    return no_trouble(kind, known, other, err);
}

static repl_result no_such_name(const struct repl_when *when, bool unknown, struct repl_error *err)
{
    return repl_fail(
        err, REPL_E_USAGE, "no point has the name \"%s\"%s, and it is no time: " REPL_WHEN_EXAMPLES,
        when->text,
        unknown ? " (the names could not be read; a site of an older release has none)" : "");
}

repl_result repl_when_resolve(const struct repl_when *when, const struct repl_points_entry *points,
                              size_t count, size_t *index, struct repl_error *err)
{
    if (count == 0)
        return repl_fail(err, REPL_E_MISSING,
                         "the volume has no point yet: its first copy is not complete");
    if (when->kind == REPL_WHEN_NAME)
        return no_such_name(when, false, err);
    if (when->kind == REPL_WHEN_SEQ)
        return resolve_seq(when->seq, points, count, index, err);
    if (when->kind == REPL_WHEN_TROUBLE || when->kind == REPL_WHEN_ENCRYPTION)
        return resolve_trouble(when->kind, points, count, index, err);
    for (size_t i = count; i > 0; i--) {
        if (when->kind == REPL_WHEN_LATEST || points[i - 1].point.end_ns <= when->time_ns) {
            *index = i - 1;
            return REPL_SUCCESS;
        }
    }
    char asked[REPL_WORDS_SIZE], first[REPL_WORDS_SIZE];
    repl_words_local(when->time_ns, asked);
    repl_words_local(points[0].point.end_ns, first);
    return repl_fail(err, REPL_E_MISSING,
                     "nothing is known of the volume at %s: its first point, %" PRIu64
                     ", is of %s; to take that one, write --at %" PRIu64,
                     asked, points[0].point.seq, first, points[0].point.seq);
}

/* --- in a catalogue: names ------------------------------------------------------------------- */

/* "before X": the point that has the name X; NULL: none has it, or the text is another one. */
static const struct repl_log_mark *before_find(const struct repl_when *when,
                                               const struct repl_catalogue *c)
{
    static const char word[] = "before ";
    if (strncasecmp(when->text, word, sizeof word - 1) != 0)
        return NULL;
    const char *name = when->text + sizeof word - 1;
    return repl_mark_find(c->marks, c->mark_count, name + strspn(name, " "));
}

static repl_result resolve_before(const struct repl_log_mark *mark, const struct repl_catalogue *c,
                                  size_t *index, struct repl_error *err)
{
    size_t count = c->point_count;
    while (count > 0 && c->points[count - 1].point.seq >= mark->seq)
        count--;
    if (count == 0)
        return repl_fail(err, REPL_E_MISSING,
                         "there is no point before \"%s\", which is point %" PRIu64
                         ": none is older",
                         mark->name, mark->seq);
    *index = count - 1;
    return REPL_SUCCESS;
}

/* What a text can mean, at most one of each. */
struct meanings {
    const struct repl_when *itself;       /* no name: a time, a number, or one of the words */
    const struct repl_log_mark *named;    /* the point that has it as its name */
    const struct repl_log_mark *preceded; /* "before X": the point that has the name X */
};

enum { ITSELF, NAMED, PRECEDED, MEANINGS };

static repl_result meaning_resolve(const struct meanings *m, unsigned which,
                                   const struct repl_catalogue *c, size_t *index,
                                   struct repl_error *err)
{
    if (which == PRECEDED)
        return resolve_before(m->preceded, c, index, err);
    const struct repl_when named = {.kind = REPL_WHEN_SEQ,
                                    .seq = m->named != NULL ? m->named->seq : 0};
    return repl_when_resolve(which == NAMED ? &named : m->itself, c->points, c->point_count, index,
                             err);
}

static void meaning_describe(const struct meanings *m, unsigned which, FILE *out)
{
    char local[REPL_WORDS_SIZE], utc[REPL_WORDS_SIZE];
    if (which == NAMED) {
        fprintf(out, "the name of point %" PRIu64, m->named->seq);
    } else if (which == PRECEDED) {
        fprintf(out, "the last point before \"%s\", point %" PRIu64, m->preceded->name,
                m->preceded->seq);
    } else if (m->itself->kind == REPL_WHEN_TIME) {
        repl_words_local(m->itself->time_ns, local);
        repl_words_utc(m->itself->time_ns, utc);
        fprintf(out, "the time %s (%s)", local, utc);
    } else if (m->itself->kind == REPL_WHEN_SEQ) {
        fprintf(out, "the number of point %" PRIu64, m->itself->seq);
    } else if (m->itself->kind == REPL_WHEN_LATEST) {
        fputs("the latest point", out);
    } else {
        fprintf(out, "the last point before what looks like %s", kind_words(m->itself->kind));
    }
}

/* Several meanings. They may come to the same point. */
static repl_result meanings_compare(const char *text, const struct meanings *m, const bool *has,
                                    const struct repl_catalogue *c, size_t *index,
                                    struct repl_error *err)
{
    char words[REPL_ERROR_TEXT_SIZE / 2] = "";
    FILE *out = fmemopen(words, sizeof words, "w");
    size_t common = SIZE_MAX, found;
    bool same = true;
    if (out == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    for (unsigned i = 0; i < MEANINGS; i++) {
        if (!has[i])
            continue;
        fputs(ftell(out) > 0 ? ", and " : "", out);
        meaning_describe(m, i, out);
        same = same && repl_ok(meaning_resolve(m, i, c, &found, NULL)) &&
               (common == SIZE_MAX || common == found);
        common = same ? found : common;
    }
    (void)fclose(out);
    *index = common;
    if (same)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_USAGE,
                     "\"%s\" can mean %s: write the number of the point that is meant", text,
                     words);
}

static repl_result resolve_meanings(const struct repl_when *when, const struct repl_catalogue *c,
                                    size_t *index, struct repl_error *err)
{
    const struct meanings m = {
        .itself = when->kind != REPL_WHEN_NAME ? when : NULL,
        .named = repl_mark_find(c->marks, c->mark_count, when->text),
        .preceded = before_find(when, c),
    };
    const bool has[MEANINGS] = {m.itself != NULL, m.named != NULL, m.preceded != NULL};
    unsigned count = 0, only = ITSELF;
    for (unsigned i = 0; i < MEANINGS; i++) {
        count += has[i];
        only = has[i] ? i : only;
    }
    if (count == 0)
        return no_such_name(when, c->names_unknown, err);
    if (count == 1)
        return meaning_resolve(&m, only, c, index, err);
    return meanings_compare(when->text, &m, has, c, index, err);
}

repl_result repl_when_resolve_in(const struct repl_when *when,
                                 const struct repl_catalogue *catalogue, size_t *index,
                                 struct repl_error *err)
{
    repl_result result = resolve_meanings(when, catalogue, index, err);
    if (!catalogue->damaged)
        return result;
    REPL_TRY(repl_forward(result, err, "the list of points is not whole"));
    bool by_number = when->kind == REPL_WHEN_SEQ ||
                     (when->kind == REPL_WHEN_NAME && before_find(when, catalogue) == NULL);
    if (by_number || *index + 1 < catalogue->point_count)
        return REPL_SUCCESS;
    uint64_t seq = catalogue->points[*index].point.seq;
    return repl_fail(err, REPL_E_CORRUPT,
                     "the list of points is not whole, so newer ones may be missing from it; the "
                     "newest that is listed is point %" PRIu64 ": give --at %" PRIu64
                     " if that is meant",
                     seq, seq);
}

/* --- words ----------------------------------------------------------------------------------- */

static const char *consistency_sentence(const struct repl_point *point)
{
    switch (point->consistency) {
    case REPL_CONSISTENCY_CRASH:
        return "crash-consistent: as after a power cut";
    case REPL_CONSISTENCY_FILESYSTEM:
        return "filesystem-consistent: clean without journal replay";
    case REPL_CONSISTENCY_APPLICATION:
        return "application-consistent: vouched for by the configured command";
    case REPL_CONSISTENCY_PER_FILE:
        return "each file by itself, and not all of them as of one instant";
    case REPL_CONSISTENCY_NONE:
        break;
    }
    return "not consistent";
}

static const char *cut_sentence(const struct repl_point *point)
{
    switch (point->cut) {
    case REPL_CUT_QUIET:
        return "while nothing was written";
    case REPL_CUT_WINDOW:
        return "in a quiet window";
    case REPL_CUT_FREEZE:
        return "under a frozen filesystem";
    case REPL_CUT_COMMAND:
        return "between the configured commands";
    case REPL_CUT_FILES:
        return "by reading each file until it was stable, or to the last try";
    case REPL_CUT_SNAPSHOT:
        return "by a snapshot of the filesystem";
    }
    return "in a way this version does not know";
}

static void describe_distance(FILE *out, const struct repl_when *when,
                              const struct repl_points_entry *entry)
{
    char distance[REPL_WORDS_SIZE], local[REPL_WORDS_SIZE], utc[REPL_WORDS_SIZE];
    if (when->kind != REPL_WHEN_TIME)
        return;
    repl_words_local(when->time_ns, local);
    repl_words_utc(when->time_ns, utc);
    fprintf(out, "  asked for: %s (%s)\n", local, utc);
    if (when->time_ns <= entry->unchanged_until_ns) {
        fputs("  and the volume did not change until the time that was asked for\n", out);
        return;
    }
    repl_words_duration(when->time_ns - entry->unchanged_until_ns, distance);
    fprintf(out,
            "  %s before the time that was asked for: what was written in between is in no "
            "earlier point\n",
            distance);
}

/* How the point is the one that was asked for, where that was no time. */
static void describe_reason(FILE *out, const struct repl_when *when, const struct repl_catalogue *c)
{
    const struct repl_log_mark *before = c != NULL ? before_find(when, c) : NULL;
    if (when->kind == REPL_WHEN_TROUBLE || when->kind == REPL_WHEN_ENCRYPTION)
        fprintf(out, "  the last one before what looks like %s\n", kind_words(when->kind));
    else if (when->kind == REPL_WHEN_NAME &&
             (before == NULL || repl_mark_find(c->marks, c->mark_count, when->text) != NULL))
        fprintf(out, "  with the name \"%s\"\n", when->text);
    else if (when->kind == REPL_WHEN_NAME)
        fprintf(out, "  the last one before point %" PRIu64 ", which has the name \"%s\"\n",
                before->seq, before->name);
}

static char *describe(const struct repl_when *when, const struct repl_points_entry *entry,
                      const struct repl_catalogue *c)
{
    const struct repl_point *point = &entry->point;
    char local[REPL_WORDS_SIZE], utc[REPL_WORDS_SIZE], window[REPL_WORDS_SIZE],
        until[REPL_WORDS_SIZE];
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return NULL;
    repl_words_local(point->end_ns, local);
    repl_words_utc(point->end_ns, utc);
    repl_words_duration(point->end_ns - point->begin_ns, window);
    fprintf(out, "point %" PRIu64 " of %s (%s)\n", point->seq, local, utc);
    describe_reason(out, when, c);
    fprintf(out, "  %s, cut %s (within %s)%s%s\n", consistency_sentence(point), cut_sentence(point),
            window, point->flags & REPL_POINT_RESYNC ? ", by comparison (resync)" : "",
            point->flags & REPL_POINT_GROUP ? ", together with its group" : "");
    if (entry->unchanged_until_ns > point->end_ns) {
        repl_words_local(entry->unchanged_until_ns, until);
        fprintf(out, "  unchanged until %s\n", until);
    }
    describe_distance(out, when, entry);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

char *repl_when_describe(const struct repl_when *when, const struct repl_points_entry *entry)
{
    return describe(when, entry, NULL);
}

char *repl_when_describe_in(const struct repl_when *when, const struct repl_catalogue *catalogue,
                            size_t index)
{
    return describe(when, &catalogue->points[index], catalogue);
}
