/*
 * repl points: the timeline, as it was. Points, gaps and (where a store's log
 * is at hand) what the source said meanwhile, merged into one list by time;
 * one walk over it, with a printer for people and one for machines.
 *
 * A gap runs from the time up to which the volume's content is known to the
 * next point, where that is much longer than the RPO promises.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/verbs.h"
#include "config/config.h"
#include "journal/trouble.h"
#include "recover/damage.h"
#include "recover/origin.h"
#include "recover/words.h"

#define NS_PER_MS INT64_C(1000000)

/* So many times the RPO without a point is a gap. */
#define GAP_RPOS       4
#define GAP_DEFAULT_MS INT64_C(60000)

static struct repl_origin_options points_origin;
static bool points_json;
static const char *points_gap;

struct timeline {
    const struct repl_origin *origin;
    const struct repl_catalogue *catalogue;
    int64_t gap_ns;
    int64_t now_ns;
    json_t *list; /* JSON */
    struct repl_damaged damaged;
    bool damaged_known;
    size_t *behind;
    size_t gap_count;
    int64_t gap_sum_ns;
};

/* --- the printers ---------------------------------------------------------------------------- */

static void names_text(const struct repl_catalogue *c, uint64_t seq)
{
    for (size_t i = 0; i < c->mark_count; i++) {
        const struct repl_log_mark *mark = &c->marks[i];
        if (mark->seq == seq && mark->kind == REPL_MARK_PROVEN)
            fputs("  proven good", stdout);
        else if (mark->seq == seq)
            printf("  \"%s\"%s", mark->name, mark->kind == REPL_MARK_HELD ? " (held)" : "");
    }
}

/* Of each point, the newest jump that it is the last one before; SIZE_MAX: none. */
static repl_result behind_find(struct timeline *t, struct repl_error *err)
{
    const struct repl_catalogue *c = t->catalogue;
    t->behind = malloc((c->point_count + 1) * sizeof *t->behind);
    if (t->behind == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu points", c->point_count);
    for (size_t i = 0; i < c->point_count; i++) {
        const struct repl_churn *churn = &c->points[i].churn;
        size_t before = churn->trouble == REPL_TROUBLE_NONE
                            ? SIZE_MAX
                            : repl_trouble_last_before(c->points, i, churn->trouble_before_seq);
        t->behind[i] = SIZE_MAX;
        if (before != SIZE_MAX)
            t->behind[before] = i;
    }
    return REPL_SUCCESS;
}

static size_t behind_of(const struct timeline *t, const struct repl_points_entry *entry)
{
    return t->behind[entry - t->catalogue->points];
}

static void trouble_text(const struct timeline *t, const struct repl_points_entry *entry)
{
    const struct repl_churn *churn = &entry->churn;
    size_t behind = behind_of(t, entry);
    if (churn->trouble != REPL_TROUBLE_NONE)
        printf("  LOOKS LIKE %s, began after point %" PRIu64, repl_trouble_words(churn->trouble),
               churn->trouble_before_seq);
    if (behind != SIZE_MAX)
        printf("  last point before trouble (point %" PRIu64 ")",
               t->catalogue->points[behind].point.seq);
}

static void point_text(const struct timeline *t, const struct repl_points_entry *entry)
{
    const struct repl_point *p = &entry->point;
    const struct repl_churn *churn = &entry->churn;
    char time[REPL_WORDS_SIZE], bytes[REPL_WORDS_SIZE], window[REPL_WORDS_SIZE],
        until[REPL_WORDS_SIZE], stored[REPL_WORDS_SIZE] = "-";
    repl_words_local(p->end_ns, time);
    repl_words_bytes(churn->known ? churn->changed_bytes : p->changed_bytes, bytes);
    if (churn->known)
        repl_words_bytes(churn->stored_bytes, stored);
    repl_words_duration(p->end_ns - p->begin_ns, window);
    printf("%10" PRIu64 "  %s  %-11s %-7s %8s  %10s  %10s", p->seq, time,
           repl_words_consistency(p->consistency), repl_words_cut(p->cut), window, bytes, stored);
    if (p->flags & REPL_POINT_RESYNC)
        fputs("  resync", stdout);
    if (p->flags & REPL_POINT_GROUP)
        fputs("  group", stdout);
    if (p->flags & REPL_POINT_MERGED)
        fputs("  merged into a later point", stdout);
    if (entry->unchanged_until_ns > p->end_ns) {
        repl_words_local(entry->unchanged_until_ns, until);
        printf("  unchanged until %s", until);
    }
    if (repl_damaged_has(&t->damaged, p->seq))
        fputs("  DAMAGED, may not restore exactly", stdout);
    trouble_text(t, entry);
    names_text(t->catalogue, p->seq);
    putchar('\n');
}

static void gap_text(int64_t from_ns, int64_t to_ns)
{
    char from[REPL_WORDS_SIZE], length[REPL_WORDS_SIZE];
    repl_words_local(from_ns, from);
    repl_words_duration(to_ns - from_ns, length);
    printf("%10s  %s  %s in which there is no point\n", "gap", from, length);
}

static void state_text(const struct repl_state_change *change)
{
    char time[REPL_WORDS_SIZE];
    repl_words_local(change->time_ns, time);
    printf("%10s  %s  %s%s%s\n", "state", time, repl_state_name(change->state),
           change->cause[0] != '\0' ? ": " : "", change->cause);
}

static json_t *json_time(int64_t time_ns)
{
    char text[REPL_WORDS_SIZE];
    repl_words_utc(time_ns, text);
    return json_string(text);
}

static json_t *names_json(const struct repl_catalogue *c, uint64_t seq)
{
    json_t *names = json_array();
    for (size_t i = 0; i < c->mark_count; i++) {
        const struct repl_log_mark *mark = &c->marks[i];
        if (mark->seq == seq && mark->kind != REPL_MARK_PROVEN)
            json_array_append_new(names, json_pack("{s:s, s:b}", "name", mark->name, "held",
                                                   mark->kind == REPL_MARK_HELD));
    }
    return names;
}

static bool is_proven(const struct repl_catalogue *c, uint64_t seq)
{
    for (size_t i = 0; i < c->mark_count; i++) {
        if (c->marks[i].seq == seq && c->marks[i].kind == REPL_MARK_PROVEN)
            return true;
    }
    return false;
}

/* Fields of a point about how much has changed; without them it is not known. */
static void churn_json(const struct timeline *t, const struct repl_points_entry *entry,
                       json_t *point)
{
    const struct repl_churn *churn = &entry->churn;
    size_t behind = behind_of(t, entry);
    if (churn->known)
        json_object_set_new(point, "churn",
                            json_pack("{s:b, s:I, s:I, s:I, s:I}", "compared", churn->compared,
                                      "changed_bytes", (json_int_t)churn->changed_bytes,
                                      "stored_bytes", (json_int_t)churn->stored_bytes,
                                      "objects_changed", (json_int_t)churn->objects_changed,
                                      "objects_removed", (json_int_t)churn->objects_removed));
    if (churn->trouble != REPL_TROUBLE_NONE)
        json_object_set_new(point, "trouble",
                            json_pack("{s:s, s:I}", "kind", repl_trouble_name(churn->trouble),
                                      "before_seq", (json_int_t)churn->trouble_before_seq));
    if (behind != SIZE_MAX)
        json_object_set_new(point, "last_before_trouble",
                            json_integer((json_int_t)t->catalogue->points[behind].point.seq));
}

static json_t *point_json(const struct timeline *t, const struct repl_points_entry *entry)
{
    const struct repl_point *p = &entry->point;
    json_t *point = json_pack(
        "{s:s, s:I, s:o, s:I, s:I, s:s, s:s, s:i, s:I, s:b, s:b, s:b, s:I, s:I, s:o, s:b}", "type",
        "point", "seq", (json_int_t)p->seq, "time", json_time(p->end_ns), "begin_ns",
        (json_int_t)p->begin_ns, "end_ns", (json_int_t)p->end_ns, "consistency",
        repl_words_consistency(p->consistency), "cut", repl_words_cut(p->cut), "attempts",
        (int)p->attempts, "changed_bytes", (json_int_t)p->changed_bytes, "resync",
        (p->flags & REPL_POINT_RESYNC) != 0, "merged", (p->flags & REPL_POINT_MERGED) != 0, "group",
        (p->flags & REPL_POINT_GROUP) != 0, "unchanged_until_ns",
        (json_int_t)entry->unchanged_until_ns, "volume_bytes", (json_int_t)entry->volume_size,
        "names", names_json(t->catalogue, p->seq), "proven", is_proven(t->catalogue, p->seq));
    if (point != NULL)
        churn_json(t, entry, point);
    if (point != NULL && t->damaged_known)
        json_object_set_new(point, "damaged", json_boolean(repl_damaged_has(&t->damaged, p->seq)));
    return point;
}

static json_t *gap_json(int64_t from_ns, int64_t to_ns)
{
    return json_pack("{s:s, s:o, s:I, s:I}", "type", "gap", "time", json_time(from_ns), "from_ns",
                     (json_int_t)from_ns, "to_ns", (json_int_t)to_ns);
}

static json_t *state_json(const struct repl_state_change *change)
{
    return json_pack("{s:s, s:o, s:I, s:s, s:s}", "type", "state", "time",
                     json_time(change->time_ns), "time_ns", (json_int_t)change->time_ns, "state",
                     repl_state_name(change->state), "cause", change->cause);
}

/* --- the walk -------------------------------------------------------------------------------- */

static void put_point(struct timeline *t, const struct repl_points_entry *entry)
{
    if (t->list != NULL)
        json_array_append_new(t->list, point_json(t, entry));
    else
        point_text(t, entry);
}

static void put_state(struct timeline *t, const struct repl_state_change *change)
{
    if (t->list != NULL)
        json_array_append_new(t->list, state_json(change));
    else
        state_text(change);
}

/* What lies between the time up to which the content is known and the next point, or now. */
static void put_gap(struct timeline *t, int64_t from_ns, int64_t to_ns)
{
    if (to_ns - from_ns <= t->gap_ns)
        return;
    t->gap_count++;
    t->gap_sum_ns += to_ns - from_ns;
    if (t->list != NULL)
        json_array_append_new(t->list, gap_json(from_ns, to_ns));
    else
        gap_text(from_ns, to_ns);
}

static void walk(struct timeline *t)
{
    const struct repl_catalogue *c = t->catalogue;
    size_t state = 0;
    for (size_t i = 0; i < c->point_count; i++) {
        const struct repl_points_entry *entry = &c->points[i];
        if (i > 0)
            put_gap(t, c->points[i - 1].unchanged_until_ns, entry->point.end_ns);
        while (state < c->state_count && c->states[state].time_ns < entry->point.end_ns)
            put_state(t, &c->states[state++]);
        put_point(t, entry);
    }
    if (c->point_count > 0)
        put_gap(t, c->points[c->point_count - 1].unchanged_until_ns, t->now_ns);
    while (state < c->state_count)
        put_state(t, &c->states[state++]);
}

static void print_text(struct timeline *t)
{
    const struct repl_catalogue *c = t->catalogue;
    char sum[REPL_WORDS_SIZE], age[REPL_WORDS_SIZE];
    printf("%10s  %-29s  %-11s %-7s %8s  %10s  %10s\n", "point", "time", "consistency", "cut",
           "window", "changed", "stored");
    walk(t);
    if (c->point_count == 0) {
        puts("no point yet: the first copy is not complete");
        return;
    }
    repl_words_duration(t->gap_sum_ns, sum);
    repl_words_duration(t->now_ns - c->points[c->point_count - 1].unchanged_until_ns, age);
    printf("%zu point%s; %zu gap%s, %s in all; the volume is known as it was %s ago\n",
           c->point_count, c->point_count == 1 ? "" : "s", t->gap_count,
           t->gap_count == 1 ? "" : "s", sum, age);
}

static repl_result print_json(struct timeline *t, struct repl_error *err)
{
    const struct repl_catalogue *c = t->catalogue;
    t->list = json_array();
    walk(t);
    json_t *all = json_pack("{s:i, s:s, s:s, s:I, s:I, s:b, s:s, s:o}", "schema", 1, "volume",
                            t->origin->volume, "origin", t->origin->label, "now_ns",
                            (json_int_t)t->now_ns, "gap_longer_than_ns", (json_int_t)t->gap_ns,
                            "damaged", c->damaged, "note", c->note, "timeline", t->list);
    bool written = all != NULL && json_dumpf(all, stdout, JSON_INDENT(2)) == 0;
    json_decref(all);
    putchar('\n');
    if (!written)
        return repl_fail(err, REPL_E_NOMEM, "cannot write the timeline as JSON");
    return REPL_SUCCESS;
}

/* --- the verb -------------------------------------------------------------------------------- */

/* From the volume's RPO where this host knows it. */
static repl_result gap_length(const char *volume, int64_t *gap_ns, struct repl_error *err)
{
    int64_t gap_ms = GAP_DEFAULT_MS;
    const char *path = points_origin.config != NULL ? points_origin.config : REPL_AGENT_CONFIG_PATH;
    struct repl_config *config = NULL;
    if (points_gap != NULL) {
        REPL_TRY(repl_forward(repl_parse_duration(points_gap, &gap_ms, err), err, "--gap"));
    } else if (repl_ok(repl_config_load(path, REPL_ROLE_AGENT, &config, NULL))) {
        const struct repl_config_volume *v = repl_config_find_volume(config, volume);
        if (v != NULL)
            gap_ms = GAP_RPOS * v->rpo_ms;
        repl_config_free(config);
    }
    if (gap_ms > INT64_MAX / NS_PER_MS)
        return repl_fail(err, REPL_E_USAGE, "--gap: that is longer than any history");
    *gap_ns = gap_ms * NS_PER_MS;
    return REPL_SUCCESS;
}

/* A list of points is of use without it. */
static void damaged_look(struct timeline *t, struct repl_origin *origin)
{
    struct repl_error err;
    repl_result result = repl_damage_find(origin, t->catalogue, &t->damaged, &err);
    t->damaged_known = repl_ok(result);
    if (!repl_ok(result) && result.code != REPL_E_MISSING)
        fprintf(stderr, "repl points: which points are damaged is not known: %s\n", err.text);
}

static repl_result points(const char *volume, bool *damaged, struct repl_error *err)
{
    struct repl_origin *origin = NULL;
    struct repl_catalogue catalogue = {0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct timeline timeline = {.catalogue = &catalogue,
                                .now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec};
    REPL_TRY(gap_length(volume, &timeline.gap_ns, err));
    REPL_TRY(repl_origin_open(&points_origin, volume, &origin, err));
    timeline.origin = origin;
    repl_result result = origin->ops->catalogue(origin, &catalogue, err);
    if (repl_ok(result) && catalogue.note[0] != '\0')
        fprintf(stderr, "repl points: %s\n", catalogue.note);
    if (repl_ok(result))
        damaged_look(&timeline, origin);
    if (repl_ok(result))
        result = behind_find(&timeline, err);
    if (repl_ok(result) && points_json)
        result = print_json(&timeline, err);
    else if (repl_ok(result))
        print_text(&timeline);
    *damaged = catalogue.damaged;
    free(timeline.behind);
    repl_damaged_fini(&timeline.damaged);
    repl_catalogue_fini(&catalogue);
    origin->ops->close(origin);
    return result;
}

static int points_run(int argc, char **argv)
{
    struct repl_error err;
    bool damaged = false;
    (void)argc;
    if (!repl_ok(points(argv[0], &damaged, &err)))
        return repl_verb_fail("points", &err);
    return damaged ? REPL_EXIT_CORRUPT : REPL_EXIT_OK;
}

static const struct repl_option points_options[] = {
    {"json", NULL, REPL_OPTION_FLAG, &points_json,
     "Prints one JSON object, docs/formats/points.md."},
    {"gap", "TIME", REPL_OPTION_TEXT, &points_gap,
     "How long must have passed without a point to be shown as a gap. Without it, four times the "
     "volume's RPO where the configuration is at hand, else 1 min."},
    REPL_ORIGIN_OPTION_ROWS(points_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_points = {
    .name = "points",
    .synopsis = "VOLUME [--json]",
    .summary = "Lists a volume's points and gaps: what can be restored.",
    .description =
        "Each point with its number, the time by which it was complete, what it guarantees, how it "
        "was cut and within how long a window, how much had changed since the point before and "
        "what "
        "that takes compressed (chunks that the site had already are in the first alone; \"-\" is "
        "of "
        "a site that did not count). \"unchanged until\" says "
        "that nothing was written up to then, so the point is as good for any time in between. "
        "Names "
        "that the point has (\"repl mark\") come last.\n"
        "\n"
        "consistency: \"crash\" is a state a power cut could have left, \"filesystem\" is clean "
        "without journal replay, \"application\" was vouched for by the configured command. "
        "\"per-file\", of a directory tree, is each file by itself, and not all of them as of one "
        "instant. cut: \"quiet\" while nothing was written, \"window\" between two write barriers, "
        "or of a directory tree while nothing in it changed, \"freeze\" under a frozen filesystem, "
        "\"command\" between the configured commands, \"files\" by reading each file until it was "
        "stable, or to the last try, \"snapshot\" by a snapshot of the filesystem. \"resync\": "
        "found by comparison, after changes may have been missed. \"group\": cut in one window, or "
        "under one freeze, "
        "with the other volumes of its group, at the same time.\n"
        "\n"
        "LOOKS LIKE: with this point a jump showed in how the volume changes, by what it did in "
        "the "
        "weeks before: much that does not compress where it used to (encryption), far more than "
        "ever (mass change), or many files of a tree gone (mass removal). The last point before it "
        "began is marked too, is kept for 30 days whatever \"retention\" says, and is what --at "
        "\"before trouble\" means. It is a suspicion: \"repl points\" says nothing of what was "
        "written.\n"
        "\n"
        "DAMAGED: something that the point is made of was not what it should be when the site read "
        "it last. From a store whose site does not run, or of an older site, that is said of all "
        "points up to the next full copy, though some may not need what is damaged; \"repl "
        "verify\" "
        "finds out.\n"
        "\n"
        "From a store directory, changes of the source's state are shown too, by the site's clock.",
    .options = points_options,
    .positional_min = 1,
    .positional_max = 1,
    .run = points_run,
};
