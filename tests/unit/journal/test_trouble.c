/*
 * What is taken for trouble. Months of volumes of several kinds are played, with points a minute or
 * some minutes apart: first as they are, where nothing may be called encryption; then with
 * something planted that encrypts at a given speed, which has to be found, and of which the last
 * point before it has to be the right one. What came of it is printed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "journal/churn.h"
#include "journal/trouble.h"
#include "unit/random.h"

#define SECOND   INT64_C(1000000000)
#define MINUTE   (60 * SECOND)
#define HOUR     (60 * MINUTE)
#define DAY      (24 * HOUR)
#define START_NS (INT64_C(1767225600) * SECOND) /* a Thursday */
#define MIB      1048576.0
#define GIB      (1024 * MIB)

/* --- a volume and what is done to it --------------------------------------------------------- */

struct amount {
    double changed, stored, removed;
};

struct play {
    struct random random;
    struct repl_trouble trouble;
    int64_t begin_ns, now_ns; /* of its history; of its last point */
    uint64_t seq;
    double size, content;
    /* found */
    unsigned found[REPL_TROUBLE_COUNT];
    uint64_t found_seq, before_seq;
    int64_t found_ns;
    int64_t last_ns; /* one that is no encryption */
};

static double uniform(struct random *random, double from, double to)
{
    return from + (to - from) * ((double)(random_next(random) >> 11) / 9007199254740992.0);
}

/* About 1, and now and then much more. */
static double wild(struct random *random)
{
    static const double factors[] = {0.1, 0.3, 0.5, 0.7, 0.8, 1, 1, 1.2, 1.5, 2, 3, 8};
    return factors[random_below(random, sizeof factors / sizeof factors[0])] *
           uniform(random, 0.7, 1.3);
}

static void amount_add(struct amount *amount, double bytes, double ratio)
{
    amount->changed += bytes;
    amount->stored += bytes * ratio;
}

static int64_t second_of_day(int64_t now_ns)
{
    return now_ns / SECOND % 86400;
}

static int64_t day_of_week(int64_t now_ns) /* 0: Thursday */
{
    return now_ns / DAY % 7;
}

/* Whether the job of so many seconds that begins at a second of the day runs. */
static bool runs(int64_t now_ns, int64_t begin_s, int64_t length_s)
{
    int64_t s = second_of_day(now_ns);
    return s >= begin_s && s < begin_s + length_s;
}

/* What is written in step_s seconds up to now. */
typedef void load_fn(struct play *p, int64_t now_ns, double step_s, struct amount *out);

static void load_office(struct play *p, int64_t now_ns, double step_s, struct amount *out)
{
    bool work = day_of_week(now_ns) != 2 && day_of_week(now_ns) != 3 && runs(now_ns, 28800, 36000);
    double rate = work ? 0.4 * MIB : 0.01 * MIB;
    amount_add(out, rate * step_s * wild(&p->random), uniform(&p->random, 0.5, 0.75));
    out->removed = work ? (double)random_below(&p->random, 20) : 0;
}

static void load_database(struct play *p, int64_t now_ns, double step_s, struct amount *out)
{
    double day = (double)second_of_day(now_ns) / 43200 - 1; /* -1 at midnight, 0 at noon */
    amount_add(out, (10 - 8 * (day < 0 ? -day : day)) * MIB * step_s * wild(&p->random),
               uniform(&p->random, 0.3, 0.42));
    if (day_of_week(now_ns) == 3 && runs(now_ns, 10800, 14400)) /* a vacuum on Sundays */
        amount_add(out, 60 * MIB * step_s, 0.35);
}

static void load_nightly(struct play *p, int64_t now_ns, double step_s, struct amount *out)
{
    amount_add(out, 0.3 * MIB * step_s * wild(&p->random), uniform(&p->random, 0.4, 0.6));
    if (runs(now_ns, 7200, 3600))
        amount_add(out, p->content * 0.05 / 3600 * step_s * uniform(&p->random, 0.9, 1.1), 0.5);
}

static void load_nightly_packed(struct play *p, int64_t now_ns, double step_s, struct amount *out)
{
    amount_add(out, 0.3 * MIB * step_s * wild(&p->random), uniform(&p->random, 0.4, 0.6));
    if (runs(now_ns, 7200, 3600))
        amount_add(out, p->content * 0.04 / 3600 * step_s * uniform(&p->random, 0.9, 1.1), 0.99);
}

static void load_archive(struct play *p, int64_t now_ns, double step_s, struct amount *out)
{
    int64_t day = (now_ns - p->begin_ns) / DAY;
    if (day % 9 == 8 && runs(now_ns, 36000, 5400)) /* wakes up, some of it packed */
        amount_add(out, p->content * 0.08 / 5400 * step_s, uniform(&p->random, 0.4, 0.7));
}

static void load_camera(struct play *p, int64_t now_ns, double step_s, struct amount *out)
{
    double busy = runs(now_ns, 25200, 43200) ? 4 : 1;
    amount_add(out, busy * 2 * MIB * step_s * wild(&p->random), uniform(&p->random, 0.97, 1));
}

static void load_logs(struct play *p, int64_t now_ns, double step_s, struct amount *out)
{
    amount_add(out, 3 * MIB * step_s * wild(&p->random), uniform(&p->random, 0.08, 0.14));
    if (runs(now_ns, 300, 900)) /* rotation packs the day's */
        amount_add(out, p->content * 0.01 / 900 * step_s, 0.98);
}

static void load_builds(struct play *p, int64_t now_ns, double step_s, struct amount *out)
{
    (void)now_ns;
    if (random_below(&p->random, 100) >= 8)
        return;
    amount_add(out, 4 * MIB * step_s * wild(&p->random), uniform(&p->random, 0.25, 0.6));
    out->removed = (double)random_below(&p->random, 4000);
}

static const struct profile {
    const char *name;
    load_fn *load;
    double size, content, ratio; /* of the full */
    bool tells;                  /* encryption can be seen in it */
    double slowest;              /* that has to be found, bytes a second */
} profiles[] = {
    {"office files", load_office, 200 * GIB, 120 * GIB, 0.6, true, 1 * MIB},
    {"database", load_database, 100 * GIB, 60 * GIB, 0.35, true, 20 * MIB},
    {"nightly dump", load_nightly, 200 * GIB, 80 * GIB, 0.5, true, 5 * MIB},
    {"nightly packed dump", load_nightly_packed, 200 * GIB, 80 * GIB, 0.5, true, 20 * MIB},
    {"archive, mostly idle", load_archive, 1000 * GIB, 400 * GIB, 0.6, true, 5 * MIB},
    {"camera, packed", load_camera, 500 * GIB, 300 * GIB, 0.98, false, 0},
    {"logs", load_logs, 100 * GIB, 50 * GIB, 0.12, true, 5 * MIB},
    {"builds", load_builds, 100 * GIB, 60 * GIB, 0.45, true, 5 * MIB},
};
#define PROFILE_COUNT (sizeof profiles / sizeof profiles[0])

/* --- points ---------------------------------------------------------------------------------- */

static void point_commit(struct play *p, bool full, uint16_t flags, const struct amount *amount,
                         int64_t idle_until_ns)
{
    struct repl_log_commit commit = {.from_seq = full ? 0 : p->seq,
                                     .to_seq = p->seq + 1,
                                     .volume_size = (uint64_t)p->size,
                                     .has_point = true,
                                     .point = {.seq = p->seq + 1, .end_ns = p->now_ns}};
    const struct repl_churn churn = {.known = true,
                                     .compared = full || flags != 0,
                                     .changed_bytes = (uint64_t)amount->changed,
                                     .stored_bytes = (uint64_t)amount->stored,
                                     .objects_changed = full ? 1000000 : 1,
                                     .objects_removed = (uint64_t)amount->removed};
    repl_trouble_judge(&p->trouble, &churn, idle_until_ns, &commit);
    repl_trouble_add(&p->trouble, &commit, idle_until_ns);
    p->seq++;
    assert_true(commit.churn.known && commit.churn.changed_bytes == churn.changed_bytes);
    if (commit.churn.trouble == REPL_TROUBLE_NONE)
        return;
    p->found[commit.churn.trouble]++;
    if (commit.churn.trouble != REPL_TROUBLE_ENCRYPTION || p->found_seq != 0)
        return;
    p->found_seq = commit.to_seq;
    p->found_ns = p->now_ns;
    p->before_seq = commit.churn.trouble_before_seq;
}

static void play_begin(struct play *p, const struct profile *profile, uint64_t seed)
{
    *p = (struct play){.random = {seed},
                       .begin_ns = START_NS + 10 * HOUR,
                       .now_ns = START_NS + 10 * HOUR,
                       .size = profile->size,
                       .content = profile->content};
    repl_trouble_init(&p->trouble);
    const struct amount full = {.changed = profile->content,
                                .stored = profile->content * profile->ratio};
    point_commit(p, true, 0, &full, 0);
}

/* Until then, with points every step; encrypts from a time on, so many bytes a second. */
static void play_on(struct play *p, const struct profile *profile, int64_t until_ns,
                    int64_t step_ns, int64_t attack_ns, double speed)
{
    double encrypted = 0;
    while (p->now_ns < until_ns) {
        struct amount amount = {0};
        int64_t idle_ns = p->now_ns;
        p->now_ns += step_ns;
        profile->load(p, p->now_ns, (double)step_ns / (double)SECOND, &amount);
        if (attack_ns != 0 && p->now_ns > attack_ns && encrypted < p->content * 0.6) {
            double bytes = speed * (double)step_ns / (double)SECOND;
            encrypted += bytes;
            amount_add(&amount, bytes, 1);
        }
        if (amount.changed > 0)
            point_commit(p, false, 0, &amount, idle_ns);
    }
}

/* --- nothing happens ------------------------------------------------------------------------- */

#define MONTHS 4
#define SEEDS  3

static void what_is_usual_is_no_trouble(void **state)
{
    static const int64_t steps[SEEDS] = {3 * MINUTE, 11 * MINUTE, HOUR};
    unsigned changes = 0, removals = 0;
    (void)state;
    printf("volume-months in which nothing happened, and what was called trouble\n");
    for (size_t i = 0; i < PROFILE_COUNT; i++) {
        unsigned found[REPL_TROUBLE_COUNT] = {0};
        for (unsigned seed = 0; seed < SEEDS; seed++) {
            static struct play p;
            play_begin(&p, &profiles[i], 100 * i + seed);
            play_on(&p, &profiles[i], p.begin_ns + MONTHS * 30 * DAY, steps[seed], 0, 0);
            for (unsigned kind = 0; kind < REPL_TROUBLE_COUNT; kind++)
                found[kind] += p.found[kind];
        }
        printf("  %-22s %u: encryption %u, mass change %u, mass removal %u\n", profiles[i].name,
               MONTHS * SEEDS, found[REPL_TROUBLE_ENCRYPTION], found[REPL_TROUBLE_CHANGE],
               found[REPL_TROUBLE_REMOVAL]);
        assert_int_equal(found[REPL_TROUBLE_ENCRYPTION], 0);
        changes += found[REPL_TROUBLE_CHANGE];
        removals += found[REPL_TROUBLE_REMOVAL];
    }
    assert_int_equal(changes + removals, 0);
}

/* Comparisons and fulls bring everything, at any time; so does a site that was put back. */
static void comparisons_are_no_trouble(void **state)
{
    static struct play p;
    (void)state;
    for (size_t i = 0; i < PROFILE_COUNT; i++) {
        const struct profile *profile = &profiles[i];
        play_begin(&p, profile, 7 + i);
        for (unsigned day = 1; day < 40; day++) {
            play_on(&p, profile, p.begin_ns + day * DAY, 5 * MINUTE, 0, 0);
            struct amount amount = {.changed = p.content * uniform(&p.random, 0.05, 1)};
            amount.stored = amount.changed * (day % 3 == 0 ? 0.99 : profile->ratio);
            if (day % 13 == 0)
                amount = (struct amount){.changed = p.content, .stored = p.content * 0.9};
            point_commit(&p, day % 13 == 0, REPL_POINT_RESYNC, &amount, 0);
        }
        assert_int_equal(p.found_seq, 0);
    }
}

/* A link that was down for hours: one point has all that was written. */
static void a_link_that_was_down_is_no_trouble(void **state)
{
    static struct play p;
    (void)state;
    for (size_t i = 0; i < PROFILE_COUNT; i++) {
        play_begin(&p, &profiles[i], 70 + i);
        for (unsigned day = 1; day < 60; day++) {
            play_on(&p, &profiles[i], p.begin_ns + day * DAY, 5 * MINUTE, 0, 0);
            struct amount sum = {0};
            int64_t hours = (int64_t)random_below(&p.random, 20), before_ns = p.now_ns;
            for (int64_t minute = 0; minute < hours * 60; minute++)
                profiles[i].load(&p, before_ns + minute * MINUTE, 60, &sum);
            p.now_ns += hours * HOUR;
            if (sum.changed > 0)
                point_commit(&p, false, 0, &sum, before_ns);
        }
        assert_int_equal(p.found[REPL_TROUBLE_ENCRYPTION], 0);
        assert_int_equal(p.found[REPL_TROUBLE_CHANGE], 0);
    }
}

/* A volume that was empty when it was protected, and is filled with what does not compress. */
static void a_volume_that_fills_up_is_no_trouble(void **state)
{
    static struct play p;
    (void)state;
    const struct profile empty = {"empty", load_archive, 500 * GIB, 0.2 * GIB, 0.02, false, 0};
    play_begin(&p, &empty, 1);
    for (unsigned day = 0; day < 20; day++) {
        p.now_ns += 6 * HOUR;
        for (unsigned minute = 0; minute < 200; minute++) {
            const struct amount amount = {.changed = 100 * MIB, .stored = 97 * MIB};
            p.now_ns += MINUTE;
            point_commit(&p, false, 0, &amount, p.now_ns - MINUTE);
        }
    }
    assert_int_equal(p.found_seq, 0);
}

/* --- something does -------------------------------------------------------------------------- */

static void encryption_is_found(void **state)
{
    static const double speeds[] = {1 * MIB, 5 * MIB, 20 * MIB, 100 * MIB, 500 * MIB};
    static const int64_t steps[] = {10 * SECOND, MINUTE, HOUR};
    static struct play p;
    (void)state;
    printf("encrypted: found after so many minutes and so much of the content; how long before it "
           "the last point before it is\n");
    for (size_t i = 0; i < PROFILE_COUNT; i++) {
        for (size_t k = 0; k < sizeof speeds / sizeof speeds[0]; k++) {
            const struct profile *profile = &profiles[i];
            play_begin(&p, profile, 1000 + 10 * i + k);
            play_on(&p, profile, p.begin_ns + 40 * DAY, 5 * MINUTE, 0, 0);
            int64_t attack_ns = p.now_ns + (int64_t)random_below(&p.random, 86400) * SECOND;
            play_on(&p, profile, attack_ns - HOUR, MINUTE, 0, 0);
            int64_t step_ns = steps[k % 3];
            play_on(&p, profile, attack_ns, step_ns, 0, 0);
            uint64_t last_good = p.seq;
            attack_ns = p.now_ns;
            play_on(&p, profile, attack_ns + 4 * DAY, step_ns, attack_ns, speeds[k]);
            double minutes = (double)(p.found_ns - attack_ns) / (double)MINUTE;
            if (p.found_seq == 0)
                printf("  %-22s %4.0f MiB/s: not found\n", profile->name, speeds[k] / MIB);
            else
                printf("  %-22s %4.0f MiB/s: %6.1f min, %4.1f %%, %" PRIu64 " points of %.1f min "
                       "before\n",
                       profile->name, speeds[k] / MIB, minutes,
                       minutes * 60 * speeds[k] > p.content * 0.6
                           ? 60
                           : minutes * 60 * speeds[k] / p.content * 100,
                       last_good - p.before_seq, (double)step_ns / (double)MINUTE);
            assert_true(profile->tells || p.found_seq == 0);
            if (!profile->tells || speeds[k] < profile->slowest)
                continue;
            assert_int_not_equal(p.found_seq, 0);
            assert_true(p.before_seq <= last_good);
            assert_int_equal(p.found[REPL_TROUBLE_ENCRYPTION], 1);
        }
    }
}

/* The same history, of which the older points are given up as policies do, tells the same. */
static void a_thinned_history_tells_the_same(void **state)
{
    static struct play p;
    (void)state;
    const struct profile *profile = &profiles[0];
    play_begin(&p, profile, 5);
    play_on(&p, profile, p.begin_ns + 25 * DAY, HOUR, 0, 0);
    play_on(&p, profile, p.begin_ns + 26 * DAY, MINUTE, 0, 0);
    play_on(&p, profile, p.begin_ns + 26 * DAY + HOUR, SECOND, 0, 0);
    uint64_t last_good = p.seq;
    play_on(&p, profile, p.now_ns + HOUR, SECOND, p.now_ns, 50 * MIB);
    assert_int_not_equal(p.found_seq, 0);
    assert_true(p.before_seq <= last_good && last_good - p.before_seq < 600);
}

/* On the first day of a small volume there is nothing to compare with but what it holds. */
static void a_young_volume_is_judged_by_what_it_holds(void **state)
{
    static struct play p;
    (void)state;
    const struct profile small = {"small", load_office, 64 * MIB, 40 * MIB, 0.3, true, 0};
    play_begin(&p, &small, 5);
    struct amount amount = {.changed = 0.2 * MIB, .stored = 0.06 * MIB};
    for (unsigned i = 0; i < 4; i++) {
        p.now_ns += SECOND;
        point_commit(&p, false, 0, &amount, p.now_ns - SECOND);
    }
    uint64_t last_good = p.seq;
    amount = (struct amount){.changed = 12 * MIB, .stored = 12.01 * MIB};
    for (unsigned i = 0; i < 3; i++) {
        p.now_ns += SECOND;
        point_commit(&p, false, 0, &amount, p.now_ns - SECOND);
    }
    assert_int_equal(p.found[REPL_TROUBLE_ENCRYPTION], 1);
    assert_int_equal(p.before_seq, last_good);
    assert_int_equal(p.trouble.jump.kind, REPL_TROUBLE_ENCRYPTION);
    assert_int_equal(p.trouble.jump.before_seq, last_good);
    assert_false(p.trouble.jump.seen);
    repl_trouble_named(&p.trouble, &(struct repl_log_mark){REPL_MARK_HELD, last_good - 1, "a"});
    assert_false(p.trouble.jump.seen);
    repl_trouble_named(&p.trouble, &(struct repl_log_mark){REPL_MARK_NAME, last_good, "a"});
    assert_false(p.trouble.jump.seen);
    repl_trouble_named(&p.trouble, &(struct repl_log_mark){REPL_MARK_PROVEN, last_good, ""});
    assert_false(p.trouble.jump.seen);
    repl_trouble_named(&p.trouble, &(struct repl_log_mark){REPL_MARK_HELD, last_good, "b"});
    assert_true(p.trouble.jump.seen);
}

/* A job that is new shows once; then it is known. */
static void a_new_job_shows_once(void **state)
{
    static struct play p;
    (void)state;
    play_begin(&p, &profiles[0], 9);
    play_on(&p, &profiles[0], p.begin_ns + 20 * DAY, 5 * MINUTE, 0, 0);
    const struct profile with_job = {"job", load_nightly_packed, p.size, p.content, 0.5, true, 0};
    p.content *= 3; /* what the job writes */
    play_on(&p, &with_job, p.begin_ns + 50 * DAY, 5 * MINUTE, 0, 0);
    assert_int_equal(p.found[REPL_TROUBLE_ENCRYPTION], 1);
}

static void mass_removal_and_mass_change_are_found(void **state)
{
    static struct play p;
    (void)state;
    play_begin(&p, &profiles[0], 11);
    play_on(&p, &profiles[0], p.begin_ns + 15 * DAY, 5 * MINUTE, 0, 0);
    uint64_t last_good = p.seq;
    struct amount amount = {.changed = MIB, .stored = MIB / 2, .removed = 150000};
    p.now_ns += MINUTE;
    point_commit(&p, false, 0, &amount, p.now_ns - MINUTE);
    assert_int_equal(p.found[REPL_TROUBLE_REMOVAL], 1);
    assert_true(p.trouble.jump.before_seq <= last_good);
    amount = (struct amount){.changed = p.content * 0.9, .stored = p.content * 0.5};
    p.now_ns += HOUR;
    point_commit(&p, false, 0, &amount, p.now_ns - HOUR);
    assert_int_equal(p.found[REPL_TROUBLE_CHANGE], 1);
    p.now_ns += MINUTE; /* the same jump */
    point_commit(&p, false, 0, &amount, p.now_ns - MINUTE);
    assert_int_equal(p.found[REPL_TROUBLE_CHANGE], 1);
    assert_int_equal(p.found[REPL_TROUBLE_ENCRYPTION], 0);
}

/* --- what may come out of a log -------------------------------------------------------------- */

static void anything_is_taken(void **state)
{
    struct random random = random_begin("anything_is_taken", 12);
    static struct repl_trouble trouble;
    (void)state;
    repl_trouble_init(&trouble);
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t wildness = random_below(&random, 64);
        struct repl_log_commit commit = {.to_seq = i + 2,
                                         .from_seq = random_below(&random, 8) == 0 ? 0 : i + 1,
                                         .part = (uint32_t)random_below(&random, 2),
                                         .volume_size = random_next(&random) >> 14 >> wildness / 2,
                                         .has_point = random_below(&random, 4) != 0};
        commit.point = (struct repl_point){.seq = i + 2,
                                           .end_ns = (int64_t)(random_next(&random) >> wildness)};
        if (random_below(&random, 10) == 0)
            commit.point.end_ns = -commit.point.end_ns;
        else if (random_below(&random, 20) == 0) /* in the last hour there is */
            commit.point.end_ns = INT64_MAX - (int64_t)random_below(&random, 2);
        const struct repl_churn churn = {.known = true,
                                         .changed_bytes = random_next(&random) >> wildness,
                                         .stored_bytes = random_next(&random) >> wildness,
                                         .objects_removed = random_next(&random) >> wildness};
        int64_t idle_ns = (int64_t)random_next(&random);
        repl_trouble_judge(&trouble, random_below(&random, 9) == 0 ? NULL : &churn, idle_ns,
                           &commit);
        assert_true((commit.churn.trouble == 0) == (commit.churn.trouble_before_seq == 0));
        assert_true(commit.churn.trouble_before_seq < commit.to_seq);
        repl_trouble_add(&trouble, &commit, idle_ns);
    }
}

/* --- what it says is kept --------------------------------------------------------------------- */

static void the_last_point_before_is_kept_for_a_while(void **state)
{
    struct repl_log_piece entries[40] = {0};
    struct repl_chain chain = {.entries = entries, .count = 40};
    struct repl_retention_point points[40];
    const int64_t now_ns = START_NS + 40 * DAY;
    (void)state;
    for (unsigned i = 0; i < 40; i++) {
        entries[i].commit.to_seq = 10 * (i + 1);
        entries[i].commit.has_point = true;
        entries[i].committed_ns = START_NS + i * DAY;
    }
    /* too old; young, and what began within a point that is gone; the newest */
    for (unsigned i = 9; i < 40; i += 15) {
        entries[i].commit.churn = (struct repl_churn){
            .known = true, .trouble = REPL_TROUBLE_ENCRYPTION, .trouble_before_seq = 10 * i - 15};
    }
    for (unsigned i = 0; i < 40; i++)
        points[i] = (struct repl_retention_point){.seq = 10 * (i + 1)};
    repl_trouble_protect(&chain, now_ns, points, 40);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(points[i].protect, i == 21 || i == 36 ? REPL_PROTECT_TROUBLE : 0);
    /* not more than so many, the latest */
    for (unsigned i = 11; i < 40; i++) {
        entries[i].commit.churn.trouble = REPL_TROUBLE_CHANGE;
        entries[i].commit.churn.trouble_before_seq = 10 * i;
    }
    for (unsigned i = 0; i < 40; i++)
        points[i].protect = 0;
    repl_trouble_protect(&chain, now_ns, points, 40);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(points[i].protect != 0, i >= 39 - REPL_TROUBLE_KEPT_MAX && i < 39);
    /* of a history that begins later there is nothing to keep */
    repl_trouble_protect(&chain, now_ns, points + 39, 1);
    assert_int_equal(points[39].protect, 0);
}

/* --- churn ----------------------------------------------------------------------------------- */

static struct repl_log_piece piece_of(uint64_t from, uint64_t to, bool point, uint64_t changed)
{
    struct repl_log_piece piece = {.commit = {.from_seq = from,
                                              .to_seq = to,
                                              .has_point = point,
                                              .churn = {.known = true, .changed_bytes = changed}}};
    return piece;
}

static void merged_pieces_have_the_sum(void **state)
{
    struct repl_churn sum;
    (void)state;
    /* parts count with their last; of a base only the last one does */
    struct repl_log_piece run[] = {piece_of(2, 3, true, 5), piece_of(3, 4, false, 7),
                                   piece_of(3, 4, true, 20)};
    run[0].commit.churn.trouble = REPL_TROUBLE_CHANGE;
    run[0].commit.churn.trouble_before_seq = 1;
    run[2].commit.churn.trouble = REPL_TROUBLE_ENCRYPTION;
    run[2].commit.churn.trouble_before_seq = 2;
    repl_churn_merge(run, 3, &sum);
    assert_true(sum.known && !sum.compared && sum.changed_bytes == 25);
    assert_int_equal(sum.trouble, REPL_TROUBLE_ENCRYPTION);
    assert_int_equal(sum.trouble_before_seq, 2);
    struct repl_log_piece base[] = {piece_of(0, 5, true, 100), piece_of(0, 9, false, 0),
                                    piece_of(0, 9, true, 130), piece_of(9, 10, true, 4)};
    base[2].commit.churn.compared = true;
    repl_churn_merge(base, 4, &sum);
    assert_true(sum.compared && sum.changed_bytes == 134);
    base[3].commit.churn.changed_bytes = UINT64_MAX;
    repl_churn_merge(base, 4, &sum);
    assert_true(sum.changed_bytes == UINT64_MAX);
    base[3].commit.churn = (struct repl_churn){0};
    repl_churn_merge(base, 4, &sum);
    assert_true(!sum.known && sum.changed_bytes == 0);
}

static void parts_are_added_up(void **state)
{
    static struct repl_trouble trouble;
    const struct repl_churn churn = {.known = true, .changed_bytes = 10, .stored_bytes = 3};
    (void)state;
    repl_trouble_init(&trouble);
    for (unsigned part = 0; part < 3; part++) {
        struct repl_log_commit commit = {.from_seq = 1, .to_seq = 2, .part = part};
        commit.has_point = part == 2;
        commit.point.seq = 2;
        repl_trouble_judge(&trouble, &churn, 0, &commit);
        assert_int_equal(commit.churn.changed_bytes, 10 * (part + 1));
        repl_trouble_add(&trouble, &commit, 0);
    }
    /* others in their place, left behind without an end */
    struct repl_log_commit anew = {.from_seq = 0, .to_seq = 3};
    repl_trouble_judge(&trouble, &churn, 0, &anew);
    assert_int_equal(anew.churn.changed_bytes, 10);
    /* a part that was not counted */
    repl_trouble_judge(&trouble, NULL, 0, &anew);
    assert_false(anew.churn.known);
    repl_trouble_add(&trouble, &anew, 0);
    anew.part = 1;
    repl_trouble_judge(&trouble, &churn, 0, &anew);
    assert_false(anew.churn.known);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_usual_is_no_trouble),
        cmocka_unit_test(comparisons_are_no_trouble),
        cmocka_unit_test(a_link_that_was_down_is_no_trouble),
        cmocka_unit_test(a_volume_that_fills_up_is_no_trouble),
        cmocka_unit_test(encryption_is_found),
        cmocka_unit_test(a_thinned_history_tells_the_same),
        cmocka_unit_test(a_young_volume_is_judged_by_what_it_holds),
        cmocka_unit_test(a_new_job_shows_once),
        cmocka_unit_test(mass_removal_and_mass_change_are_found),
        cmocka_unit_test(anything_is_taken),
        cmocka_unit_test(the_last_point_before_is_kept_for_a_while),
        cmocka_unit_test(merged_pieces_have_the_sum),
        cmocka_unit_test(parts_are_added_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
