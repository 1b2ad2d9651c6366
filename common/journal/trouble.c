#include "journal/trouble.h"

#include <string.h>

#include "journal/churn.h"

#define SECOND_NS INT64_C(1000000000)
#define HOUR_NS   (3600 * SECOND_NS)
#define DAY_HOURS 24

/* So many hours in which something changed make a habit. */
#define HABIT_HOURS 24u
/* Changed bytes and removals are not judged before. */
#define HABIT_DAYS 8

/* What is more than this share of the bytes leaves no room for more that do not compress. */
#define RATIO_MAX 0.85
/* From the usual ratio to 1, so far the recent one must have gone. */
#define RATIO_JUMP 0.6

/* A volume is taken to hold this share of its size at least. */
#define CONTENT_LEAST (1.0 / 8)

/* Removals of so many objects are a jump of any tree. */
#define REMOVED_MANY 100000.0

/* A sum that has not risen for so long is over. */
#define RISE_NS (24 * HOUR_NS)

static const struct {
    double factor;             /* of the highest sum of the days before */
    double least;              /* bytes or objects */
    double habit_share, share; /* of what the volume holds; habit_share where it has habits */
} rules[REPL_MEASURE_COUNT] = {
    [REPL_MEASURE_HARD] = {2, 4 << 20, 1.0 / 32, 1.0 / 8},
    [REPL_MEASURE_CHANGED] = {4, 64 << 20, 1.0 / 4, 1.0 / 4},
    [REPL_MEASURE_REMOVED] = {4, 1000, 1.0 / 10, 1.0 / 10},
};

static const enum repl_trouble_kind kinds[REPL_MEASURE_COUNT] = {
    [REPL_MEASURE_HARD] = REPL_TROUBLE_ENCRYPTION,
    [REPL_MEASURE_CHANGED] = REPL_TROUBLE_CHANGE,
    [REPL_MEASURE_REMOVED] = REPL_TROUBLE_REMOVAL,
};

static double max_of(double a, double b)
{
    return a > b ? a : b;
}

void repl_trouble_init(struct repl_trouble *t)
{
    memset(t, 0, sizeof *t);
    t->usual_ratio = 1;
}

/* --- what is usual --------------------------------------------------------------------------- */

static double measure_of(const struct repl_trouble *t, enum repl_trouble_measure measure,
                         double changed, double stored, double removed)
{
    switch (measure) {
    case REPL_MEASURE_HARD:
        return t->usual_ratio > RATIO_MAX
                   ? 0
                   : (stored - t->usual_ratio * changed) / (1 - t->usual_ratio);
    case REPL_MEASURE_CHANGED:
        return changed;
    default:
        return removed;
    }
}

/* The lower one of two; by Hoare's FIND, which puts the values in another order. */
static double median_of(double *values, unsigned count)
{
    int low = 0, high = (int)count - 1, wanted = high / 2;
    while (low < high) {
        double pivot = values[wanted];
        int i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot)
                i++;
            while (pivot < values[j])
                j--;
            if (i > j)
                break;
            double value = values[i];
            values[i++] = values[j];
            values[j--] = value;
        }
        if (j < wanted)
            low = i;
        if (wanted < i)
            high = j;
    }
    return count == 0 ? 0 : values[wanted];
}

/* Median + 3 * 1.4826 * MAD: of values that are distributed normally, what one in 740 exceeds. */
static double upper_of(double *values, unsigned count)
{
    double median = median_of(values, count);
    for (unsigned i = 0; i < count; i++)
        values[i] = values[i] > median ? values[i] - median : median - values[i];
    return median + 3 * 1.4826 * median_of(values, count);
}

/* The hours of the last week that are over; the one under way may be the jump's. */
static unsigned hours_known(const struct repl_trouble *t)
{
    int64_t known = t->hour - t->first_hour;
    return known < REPL_TROUBLE_HOURS ? (unsigned)known : REPL_TROUBLE_HOURS - 1;
}

static const struct repl_trouble_hour *hour_before(const struct repl_trouble *t, unsigned back)
{
    return &t->hours[(t->hour - back) % REPL_TROUBLE_HOURS];
}

static void ratio_learn(struct repl_trouble *t)
{
    double ratios[REPL_TROUBLE_HOURS];
    t->active_hours = 0;
    for (unsigned back = 1; back <= hours_known(t); back++) {
        const struct repl_trouble_hour *hour = hour_before(t, back);
        if (hour->changed > 0)
            ratios[t->active_hours++] = (double)hour->stored / (double)hour->changed;
    }
    if (t->active_hours >= HABIT_HOURS)
        t->usual_ratio = max_of(t->content_ratio, median_of(ratios, t->active_hours));
    else
        t->usual_ratio = t->content_ratio > 0 ? t->content_ratio : 1;
}

static void allowance_learn(struct repl_trouble *t, enum repl_trouble_measure measure)
{
    double values[REPL_TROUBLE_HOURS], sum = 0, changed = 0;
    unsigned count = 0, known = hours_known(t);
    for (unsigned back = 1; back <= known; back++) {
        const struct repl_trouble_hour *hour = hour_before(t, back);
        if (hour->changed <= 0 && hour->removed <= 0)
            continue;
        values[count] = measure_of(t, measure, (double)hour->changed, (double)hour->stored,
                                   (double)hour->removed);
        changed += (double)hour->changed;
        sum += values[count++];
    }
    double an_hour = max_of(0, 2 * sum / (known < HABIT_HOURS ? HABIT_HOURS : known));
    if (count >= HABIT_HOURS) /* else a few hours of the jump would be the usual */
        an_hour = max_of(an_hour, upper_of(values, count));
    if (count >= HABIT_HOURS && measure == REPL_MEASURE_HARD) /* ratios vary */
        an_hour = max_of(an_hour, changed / count / 10);
    t->sums[measure].allowance = an_hour / 3600;
}

static void threshold_learn(struct repl_trouble *t, enum repl_trouble_measure measure)
{
    struct repl_trouble_sum *s = &t->sums[measure];
    double peak = 0;
    for (unsigned i = 0; i < REPL_TROUBLE_DAYS; i++) {
        if (i != (unsigned)(t->hour / DAY_HOURS % REPL_TROUBLE_DAYS))
            peak = max_of(peak, (double)s->peaks[i]);
    }
    s->least = max_of(rules[measure].least, rules[measure].factor * peak);
}

static void learn(struct repl_trouble *t)
{
    ratio_learn(t);
    for (unsigned i = 0; i < REPL_MEASURE_COUNT; i++) {
        allowance_learn(t, i);
        threshold_learn(t, i);
    }
}

static double threshold_of(const struct repl_trouble *t, enum repl_trouble_measure measure)
{
    bool habits = t->active_hours >= HABIT_HOURS;
    double share = habits ? rules[measure].habit_share : rules[measure].share;
    double part = share * t->content_bytes;
    if (measure == REPL_MEASURE_REMOVED) {
        part = share * t->content_objects;
        part = part > REMOVED_MANY ? REMOVED_MANY : part;
    }
    return max_of(t->sums[measure].least, part);
}

/* --- time goes on ---------------------------------------------------------------------------- */

static void hour_begin(struct repl_trouble *t, int64_t hour)
{
    int64_t day = hour / DAY_HOURS;
    if (day != t->hour / DAY_HOURS) {
        for (unsigned i = 0; i < REPL_MEASURE_COUNT; i++)
            t->sums[i].peaks[day % REPL_TROUBLE_DAYS] = 0;
    }
    t->hour = hour;
    t->hours[hour % REPL_TROUBLE_HOURS] = (struct repl_trouble_hour){0};
}

/* Hours of which nothing is heard are hours in which nothing happened. */
static void hour_move(struct repl_trouble *t, int64_t hour)
{
    if (hour <= t->hour)
        return;
    if (hour - t->hour > REPL_TROUBLE_DAYS * DAY_HOURS)
        hour_begin(t, hour - REPL_TROUBLE_DAYS * DAY_HOURS);
    while (t->hour < hour)
        hour_begin(t, t->hour + 1);
    learn(t);
}

/* What a point brings may be of many hours, each of which has its share. */
static void hours_fill(struct repl_trouble *t, int64_t from_ns, int64_t to_ns,
                       const struct repl_churn *churn)
{
    int64_t week_ns = (REPL_TROUBLE_HOURS - 1) * HOUR_NS;
    double all = (double)(to_ns - from_ns);
    int64_t at = to_ns - from_ns > week_ns ? to_ns - week_ns : from_ns;
    do {
        int64_t rest_ns = HOUR_NS - at % HOUR_NS; /* of the hour */
        int64_t end = to_ns - at > rest_ns ? at + rest_ns : to_ns;
        double share = all <= 0 ? 1 : (double)(end - at) / all;
        hour_move(t, at / HOUR_NS);
        struct repl_trouble_hour *into = &t->hours[t->hour % REPL_TROUBLE_HOURS];
        into->changed += (float)(share * (double)churn->changed_bytes);
        into->stored += (float)(share * (double)churn->stored_bytes);
        into->removed += (float)(share * (double)churn->objects_removed);
        at = end;
    } while (at < to_ns);
}

/* --- the sums -------------------------------------------------------------------------------- */

static void sum_end(struct repl_trouble_sum *s)
{
    s->sum = s->highest = 0;
    s->told = false;
}

static void sum_add(struct repl_trouble *t, enum repl_trouble_measure measure, double brought,
                    double idle_s, double active_s, int64_t now_ns)
{
    struct repl_trouble_sum *s = &t->sums[measure];
    float *peak = &s->peaks[t->hour / DAY_HOURS % REPL_TROUBLE_DAYS];
    s->sum -= s->allowance * idle_s;
    if (s->sum <= 0 || now_ns - s->highest_ns > RISE_NS)
        sum_end(s);
    if (s->sum <= 0)
        s->before_seq = t->last_seq;
    s->sum += brought - s->allowance * active_s;
    if (s->sum <= 0) {
        sum_end(s);
        return;
    }
    if (s->sum > s->highest) {
        s->highest = s->sum;
        s->highest_ns = now_ns;
    }
    *peak = (float)max_of((double)*peak, s->sum);
}

/* About as many bytes as make a jump, the latest. */
static void recent_add(struct repl_trouble *t, const struct repl_churn *churn)
{
    double enough = threshold_of(t, REPL_MEASURE_HARD);
    t->recent_changed += (double)churn->changed_bytes;
    t->recent_stored += (double)churn->stored_bytes;
    if (t->recent_changed <= enough)
        return;
    t->recent_stored *= enough / t->recent_changed;
    t->recent_changed = enough;
}

static bool is_jump(const struct repl_trouble *t, enum repl_trouble_measure measure)
{
    const struct repl_trouble_sum *s = &t->sums[measure];
    if (s->told || s->sum < threshold_of(t, measure) || s->before_seq == 0)
        return false;
    if (measure != REPL_MEASURE_HARD)
        return t->active_hours >= HABIT_HOURS && t->hour - t->first_hour >= HABIT_DAYS * DAY_HOURS;
    return t->recent_stored >=
           (t->usual_ratio + RATIO_JUMP * (1 - t->usual_ratio)) * t->recent_changed;
}

/* The worst is told of, and the others that show with it are part of it; what is being encrypted
 * changes much, too. */
static enum repl_trouble_kind judge(struct repl_trouble *t, uint64_t *before_seq)
{
    enum repl_trouble_kind worst = REPL_TROUBLE_NONE;
    for (unsigned i = 0; i < REPL_MEASURE_COUNT; i++) {
        struct repl_trouble_sum *s = &t->sums[i];
        if (!is_jump(t, i))
            continue;
        s->told = true;
        if (kinds[i] <= worst)
            continue;
        worst = kinds[i];
        *before_seq = s->before_seq;
    }
    if (worst == REPL_TROUBLE_ENCRYPTION)
        t->sums[REPL_MEASURE_CHANGED].told = t->sums[REPL_MEASURE_CHANGED].sum > 0;
    return worst;
}

/* --- points ---------------------------------------------------------------------------------- */

/* A full of a volume that is nearly empty says nothing of what will be on it. */
static void full_take(struct repl_trouble *t, const struct repl_log_commit *commit)
{
    const struct repl_churn *churn = &commit->churn;
    double size = (double)commit->volume_size, changed = (double)churn->changed_bytes;
    bool tells = churn->known && changed >= size * CONTENT_LEAST;
    /* Of a base that was brought forward it is a sum. */
    t->content_bytes = tells && changed < size ? changed : tells ? size : size * CONTENT_LEAST;
    t->content_ratio = tells ? (double)churn->stored_bytes / changed : 0;
    t->content_objects = (double)churn->objects_changed;
    for (unsigned i = 0; i < REPL_MEASURE_COUNT; i++)
        sum_end(&t->sums[i]);
    t->recent_changed = t->recent_stored = 0;
    learn(t);
}

static void point_count(struct repl_trouble *t, const struct repl_log_commit *commit,
                        int64_t idle_until_ns)
{
    const struct repl_churn *churn = &commit->churn;
    int64_t end_ns = commit->point.end_ns;
    int64_t from_ns = idle_until_ns > t->last_end_ns ? idle_until_ns : t->last_end_ns;
    if (from_ns > end_ns)
        from_ns = end_ns;
    double idle_s = (double)(from_ns - t->last_end_ns) / (double)SECOND_NS;
    double active_s = (double)(end_ns - from_ns) / (double)SECOND_NS;
    hours_fill(t, from_ns, end_ns, churn);
    recent_add(t, churn);
    for (unsigned i = 0; i < REPL_MEASURE_COUNT; i++)
        sum_add(t, i,
                measure_of(t, i, (double)churn->changed_bytes, (double)churn->stored_bytes,
                           (double)churn->objects_removed),
                idle_s, active_s, end_ns);
}

/* The first one, or the first since the source's clock was set back: what was learnt bears other
 * times. */
static void time_begin(struct repl_trouble *t, int64_t end_ns)
{
    t->begun = end_ns >= 0;
    t->first_hour = t->hour = t->begun ? end_ns / HOUR_NS : 0;
    memset(t->hours, 0, sizeof t->hours);
    learn(t);
}

/* Whether a jump shows with the point, before_seq being the last point before it. */
static enum repl_trouble_kind point_add(struct repl_trouble *t,
                                        const struct repl_log_commit *commit, int64_t idle_until_ns,
                                        uint64_t *before_seq)
{
    enum repl_trouble_kind kind = REPL_TROUBLE_NONE;
    int64_t end_ns = commit->point.end_ns;
    bool goes_on = t->begun && end_ns >= t->last_end_ns;
    if (!goes_on) {
        time_begin(t, end_ns);
    } else if (commit->from_seq != 0 && commit->churn.known && !commit->churn.compared) {
        point_count(t, commit, idle_until_ns);
        kind = judge(t, before_seq);
    } else {
        hour_move(t, end_ns / HOUR_NS);
    }
    if (commit->from_seq == 0)
        full_take(t, commit);
    t->last_seq = commit->point.seq;
    t->last_end_ns = end_ns;
    return kind;
}

void repl_trouble_judge(const struct repl_trouble *trouble, const struct repl_churn *segment,
                        int64_t idle_until_ns, struct repl_log_commit *commit)
{
    struct repl_trouble after = *trouble;
    commit->churn = (struct repl_churn){.known = segment != NULL};
    if (segment == NULL)
        return;
    if (commit->part > 0)
        commit->churn = trouble->parts;
    repl_churn_add(&commit->churn, segment);
    if (commit->has_point && commit->churn.known)
        commit->churn.trouble =
            point_add(&after, commit, idle_until_ns, &commit->churn.trouble_before_seq);
}

/* What was told of is not told of again, also where the points that led to it are gone. */
static void jump_take(struct repl_trouble *t, const struct repl_log_commit *commit)
{
    const struct repl_churn *churn = &commit->churn;
    for (unsigned i = 0; i < REPL_MEASURE_COUNT; i++) {
        bool with = churn->trouble == kinds[i] ||
                    (churn->trouble == REPL_TROUBLE_ENCRYPTION && i == REPL_MEASURE_CHANGED);
        t->sums[i].told |= with && t->sums[i].sum > 0;
    }
    t->jump = (struct repl_trouble_jump){.kind = churn->trouble,
                                         .seq = commit->to_seq,
                                         .before_seq = churn->trouble_before_seq,
                                         .end_ns = commit->point.end_ns};
}

void repl_trouble_add(struct repl_trouble *t, const struct repl_log_commit *commit,
                      int64_t idle_until_ns)
{
    uint64_t before_seq;
    t->parts = commit->has_point ? (struct repl_churn){0} : commit->churn;
    if (!commit->has_point)
        return;
    (void)point_add(t, commit, idle_until_ns, &before_seq);
    if (commit->churn.trouble != REPL_TROUBLE_NONE)
        jump_take(t, commit);
}

size_t repl_trouble_last_before(const struct repl_points_entry *points, size_t count,
                                uint64_t before_seq)
{
    while (count > 0 && points[count - 1].point.seq > before_seq)
        count--;
    return count > 0 ? count - 1 : SIZE_MAX;
}

void repl_trouble_protect(const struct repl_chain *chain, int64_t now_ns,
                          struct repl_retention_point *points, size_t count)
{
    unsigned kept = 0;
    for (size_t i = chain->count; i > 0 && kept < REPL_TROUBLE_KEPT_MAX; i--) {
        const struct repl_log_piece *entry = &chain->entries[i - 1];
        const struct repl_churn *churn = &entry->commit.churn;
        if (churn->trouble == REPL_TROUBLE_NONE ||
            entry->committed_ns < now_ns - REPL_TROUBLE_YOUNG_NS)
            continue;
        size_t behind = count;
        while (behind > 0 && points[behind - 1].seq > churn->trouble_before_seq)
            behind--;
        if (behind > 0)
            points[behind - 1].protect |= REPL_PROTECT_TROUBLE;
        kept++;
    }
}

void repl_trouble_named(struct repl_trouble *t, const struct repl_log_mark *mark)
{
    if (mark->kind == REPL_MARK_HELD && mark->seq >= t->jump.before_seq)
        t->jump.seen = true;
}
