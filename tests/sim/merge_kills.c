/*
 * Kills of compaction, thinning and collection, enumerated: a volume whose points come, are
 * given up and merged, with fulls, chunks that others refer to, and logs written anew; or
 * with --volumes up to three of one pool, the third of them a tree, with chunks that one has
 * brought and another refers to, and supplies, which go when nothing does. After each
 * operation on the disk from when that is begun until it is done, with the points that come
 * meanwhile (--everywhere: after each other one too), the world is copied (fork), and in the copy
 * the site dies there: once as a process does, then by power cuts, each of which keeps another part
 * of what was not synced. It starts again, and with --deaths 2 it dies again after each operation
 * of that start. With --index the site asks its index what refers to a chunk and where it lies, as
 * the agent does, and dies after each transaction and sync of that too; now and then the disk is
 * full for it, or a sync fails, and it is made anew while points come. Of each life it must hold
 * that
 *
 *   what was acknowledged is there, and every point that retention keeps;
 *   every point that is listed restores exactly;
 *   every file and chunk that is named is there;
 *   the index has the history, finds what that refers to, and finds no chunk that is not there;
 *   a file that was listed a grace ago is there still, for whoever restores from it;
 *   life goes on, and in the end nothing lies about that is not named, nor a supply that nobody
 *   needs.
 *
 *   merge_kills [--volumes N] [--points N] [--cuts N] [--deaths N] [--everywhere] [--index]
 *               [--begin OPERATION] [--seed N] [--bug NAME]
 *
 * With --bug it succeeds if the breach of contract is found.
 */
#include "merge_kills.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sim_lmdb.h"

#define POLICY        "1s:10s 5s:1m 20s:3m"
#define POINTS_AFTER  6u /* that come after a death */
#define GAP_LONG      (20 * SIM_SECOND)
#define INDEX_FULL    12u /* one of so many syncs finds no room, */
#define INDEX_FAILS   8u  /* or fails, */
#define INDEX_REMAKES 6u  /* so often at most in a life */
#define LOG_RECORDS   45u /* with so many since the last it is written anew */

static const struct {
    const char *name, *text;
} bugs[] = {{"none", ""},
#define BUG_ROW(id, name, text) {name, text},
            KILLS_BUGS(BUG_ROW)
#undef BUG_ROW
};

/* What no death of the site touches: the source, who looks on, and what was seen. */
static struct {
    struct kills_world w;
    struct random random; /* the sources' */
    struct kills_source sources[KILLS_VOLUMES];
    uint64_t seed, count, cuts;
    unsigned depth, deaths_max;
    bool starting, turning; /* what the site is at */
    bool everywhere;        /* it dies at */
    bool indexed, settled;
    uint64_t begin, operations, deaths; /* nobody dies before operation begin */
    uint64_t last;                      /* what the last operation of a life was: for messages */
    const char *last_what;
} k;

#define FOUND 3 /* how a life ends that has shown the planted bug */

__attribute__((noreturn)) static void found_exit(void)
{
    bool wanted = k.w.bug != KILLS_BUG_NONE;
    _exit(!wanted ? 1 : k.depth > 0 ? FOUND : 0);
}

__attribute__((format(printf, 2, 3), noreturn)) void kills_fail(struct kills_world *w,
                                                                const char *format, ...)
{
    va_list args;
    FILE *to = w->bug != KILLS_BUG_NONE ? stdout : stderr;
    va_start(args, format);
    fprintf(to, "merge_kills: ");
    vfprintf(to, format, args);
    va_end(args);
    if (k.depth > 0)
        fprintf(to, " (of a site that died after operation %llu, %s)\n", (unsigned long long)k.last,
                k.last_what);
    else
        fprintf(to, " (of a site that has not died)\n");
    fflush(NULL);
    found_exit();
}

/* --- what happens ---------------------------------------------------------------------------- */

/* Of so many, one that is drawn; of one, nothing is. */
static size_t volume_draw(void)
{
    return k.w.volume_count == 1 ? 0 : random_below(&k.random, k.w.volume_count);
}

static void pause_make(void);

/* The index is synced, and now and then that fails; or it is full. */
static void index_turn(void)
{
    bool turning = k.turning;
    if (k.w.site == NULL || k.settled || random_below(&k.random, 8) != 0)
        return;
    k.turning = true;
    if (random_below(&k.random, INDEX_FULL) == 0)
        kills_index_fail_next(&k.w);
    else
        kills_index_tick(&k.w,
                         k.w.remakes < INDEX_REMAKES && random_below(&k.random, INDEX_FAILS) == 0);
    k.turning = turning;
}

/* Points come while a merge is made. */
static void between(struct kills_world *w)
{
    (void)w;
    index_turn();
    if (random_below(&k.random, 4) != 0)
        return;
    struct kills_source *s = &k.sources[volume_draw()];
    if (s->sending || s->v->busy)
        return;
    if (!s->pending && s->seq < k.count)
        kills_point_begin(s, &k.random);
    if (s->pending)
        kills_point_send(s, &k.random, pause_make);
}

static void files_go(struct kills_volume *v)
{
    kills_remove_due(v);
    kills_supplies_visit(v);
}

/* Merges of another volume, and what goes of it, while a segment is verified; it may take long. */
static void gap(struct kills_world *w)
{
    bool turning = k.turning;
    index_turn();
    if (w->volume_count == 1 || random_below(&k.random, 4) != 0)
        return;
    struct kills_volume *v = &w->volumes[volume_draw()];
    if (v->busy)
        return;
    k.turning = true;
    w->now_ns += random_below(&k.random, 2) == 0 ? GAP_LONG : 0;
    while (kills_visit(v))
        ;
    files_go(v);
    k.turning = turning;
}

/* Nothing of it fails any more. */
static void index_settle(void)
{
    bool turning = k.turning;
    if (k.w.site == NULL)
        return;
    k.settled = k.turning = true;
    kills_index_tick(&k.w, false); /* what was to fail has */
    kills_index_tick(&k.w, false);
    k.turning = turning;
}

static void log_turn(size_t i)
{
    struct kills_volume *v = &k.w.volumes[i];
    if (v->journal.record_number < k.sources[i].record_number + LOG_RECORDS ||
        (k.w.site != NULL && kills_index_is_behind(v)))
        return;
    kills_checkpoint(v);
    k.sources[i].record_number = v->journal.record_number;
}

static void site_turn(void)
{
    bool turning = k.turning;
    k.turning = true;
    index_turn();
    for (size_t i = 0; i < k.w.volume_count; i++) {
        while (!k.w.volumes[i].busy && kills_visit(&k.w.volumes[i]))
            ;
    }
    for (size_t i = 0; i < k.w.volume_count; i++) {
        if (k.w.volumes[i].busy)
            continue;
        files_go(&k.w.volumes[i]);
        log_turn(i);
    }
    k.turning = turning;
}

/* Nobody writes for a while: whatever is due is done, and goes. */
static void pause_make(void)
{
    bool turning = k.turning;
    k.w.now_ns += SIM_SECOND;
    site_turn();
    k.w.now_ns += KILLS_GRACE + SIM_SECOND;
    site_turn();
    k.w.now_ns += KILLS_GRACE;
    k.turning = true;
    for (size_t i = 0; i < k.w.volume_count; i++)
        files_go(&k.w.volumes[i]);
    k.turning = turning;
}

static void history_check(void)
{
    for (size_t i = 0; i < k.w.volume_count; i++)
        kills_check_history(&k.sources[i]);
}

/* The one that is behind, if its history is not as long as it is to be. */
static struct kills_source *source_next(void)
{
    struct kills_source *next = &k.sources[0];
    for (size_t i = 1; i < k.w.volume_count; i++) {
        if (k.sources[i].acked < next->acked)
            next = &k.sources[i];
    }
    return next->acked < k.count ? next : NULL;
}

static void life_go_on(void)
{
    for (struct kills_source *s; (s = source_next()) != NULL;) {
        if (!s->pending)
            kills_point_begin(s, &k.random);
        if (s->seq % 3 == 0)
            site_turn();
        if (s->pending)
            kills_point_send(s, &k.random, pause_make);
        if (s->pending) /* what the index lacks is in the way */
            kills_index_tick(&k.w, false);
        if (s->seq % 25 == 0)
            pause_make();
        if (k.depth == 0)
            history_check();
    }
    index_settle();
    pause_make();
    history_check();
    for (size_t i = 0; i < k.w.volume_count; i++)
        kills_check_nothing_left(&k.w.volumes[i]);
}

/* --- deaths ---------------------------------------------------------------------------------- */

static void site_start(void)
{
    k.starting = true;
    kills_site_start(&k.w);
    k.starting = false;
    for (size_t i = 0; i < k.w.volume_count; i++)
        kills_source_greet(&k.sources[i]);
}

/* In the copy. cut: 0 for a death of the process alone. */
__attribute__((noreturn)) static void die(const char *what, uint64_t cut)
{
    uint64_t newest = 0;
    k.depth++;
    k.last = k.operations;
    k.last_what = what;
    k.w.sim->random.state = (k.seed << 40) + (k.operations << 8) + cut;
    for (size_t i = 0; cut > 0 && i < k.w.volume_count; i++)
        sim_disk_power_cut(&k.w.volumes[i].disk);
    if (cut > 0 && k.indexed)
        sim_lmdb_power_cut(k.w.sim);
    kills_check_anew();
    site_start();
    for (size_t i = 0; i < k.w.volume_count; i++)
        k.sources[i].record_number = k.w.volumes[i].journal.record_number;
    history_check();
    if (k.depth == 1) {
        for (size_t i = 0; i < k.w.volume_count; i++)
            newest = k.sources[i].seq > newest ? k.sources[i].seq : newest;
        k.count = k.count > newest + POINTS_AFTER ? newest + POINTS_AFTER : k.count;
        life_go_on();
        site_start(); /* what it did since is what the disk says */
        history_check();
    }
    fflush(NULL);
    _exit(0);
}

/* One life after another, each in a process of its own. */
static void death_try(const char *what, uint64_t cut)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    ensure(pid >= 0);
    if (pid == 0)
        die(what, cut);
    ensure(waitpid(pid, &status, 0) == pid);
    k.deaths++;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    if (WIFEXITED(status) && WEXITSTATUS(status) == FOUND)
        found_exit();
    fprintf(stderr,
            "replay: merge_kills --volumes %zu --points %llu --cuts %llu --seed %llu: operation "
            "%llu\n",
            k.w.volume_count, (unsigned long long)k.count, (unsigned long long)k.cuts,
            (unsigned long long)k.seed, (unsigned long long)k.operations);
    _exit(1);
}

void kills_here(struct kills_world *w, const char *what)
{
    (void)w;
    k.operations++;
    if (k.depth >= k.deaths_max || (k.depth > 0 && !k.starting) ||
        (k.depth == 0 && ((!k.turning && !k.everywhere) || k.operations < k.begin)))
        return;
    for (uint64_t cut = 0; cut <= k.cuts; cut++)
        death_try(what, cut);
}

/* --- all of it ------------------------------------------------------------------------------- */

static void volume_begin(size_t i)
{
    struct kills_volume *v = &k.w.volumes[i];
    struct repl_log_record create = {.type = REPL_LOG_CREATE};
    v->w = &k.w;
    v->kind = i == 2 ? REPL_VOLUME_TREE : REPL_VOLUME_BLOCK;
    sim_disk_init(&v->disk, k.w.sim);
    repl_journal_init(&v->journal);
    repl_chain_init(&v->chain);
    snprintf(create.create.name, sizeof create.create.name, "vol%zu", i);
    create.create.kind = v->kind;
    create.create.lineage = 1;
    kills_log(v, &create, 1, NULL);
    if (k.w.volume_count > 1) {
        struct repl_log_record pool;
        repl_journal_pool(&v->journal, "pool", k.w.now_ns, &pool);
        kills_log(v, &pool, 1, NULL);
    }
    kills_source_init(&k.sources[i], v);
}

static void world_begin(void)
{
    static struct sim_counts counts;
    struct kills_world *w = &k.w;
    w->sim = sim_alloc(sizeof *w->sim);
    w->sim->counts = &counts;
    w->between = between;
    w->gap = gap;
    w->now_ns = INT64_C(1767225600) * SIM_SECOND;
    k.random = (struct random){k.seed};
    ensure(repl_ok(repl_frame_coder_new(&w->coder, NULL)));
    ensure(repl_ok(repl_retention_parse(POLICY, &w->policy, NULL)));
    w->meanwhile = between;
    k.depth = k.deaths_max; /* a volume that is half made is another matter */
    if (k.indexed)
        kills_index_begin(w);
    for (size_t i = 0; i < w->volume_count; i++)
        volume_begin(i);
    k.depth = 0;
}

static void world_end(void)
{
    struct kills_world *w = &k.w;
    kills_index_end(w);
    for (size_t i = 0; i < w->volume_count; i++) {
        repl_chain_fini(&w->volumes[i].chain);
        sim_disk_fini(&w->volumes[i].disk);
        kills_source_fini(&k.sources[i]);
    }
    repl_frame_coder_free(w->coder);
    free(w->sim);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: merge_kills [--volumes N] [--points N] [--cuts N] [--deaths N] "
            "[--everywhere] [--index] [--begin OPERATION] [--seed N] [--bug NAME]\nbugs:\n");
    for (unsigned i = 1; i < KILLS_BUG_COUNT; i++)
        fprintf(stderr, "  %-22s %s\n", bugs[i].name, bugs[i].text);
    return 64;
}

static bool parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--everywhere") == 0 || strcmp(argv[i], "--index") == 0) {
            k.everywhere |= argv[i][2] == 'e';
            k.indexed |= argv[i][2] == 'i';
            i--;
            continue;
        }
        if (i + 1 == argc)
            return false;
        if (strcmp(argv[i], "--volumes") == 0)
            k.w.volume_count = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--points") == 0)
            k.count = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--cuts") == 0)
            k.cuts = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--seed") == 0)
            k.seed = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--begin") == 0)
            k.begin = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--deaths") == 0)
            k.deaths_max = (unsigned)strtoul(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--bug") != 0)
            return false;
        for (unsigned b = 1; strcmp(argv[i], "--bug") == 0 && b < KILLS_BUG_COUNT; b++) {
            if (strcmp(argv[i + 1], bugs[b].name) == 0)
                k.w.bug = (enum kills_bug)b;
        }
        if (strcmp(argv[i], "--bug") == 0 && k.w.bug == KILLS_BUG_NONE)
            return false;
    }
    return k.count > 0 && k.count < KILLS_POINTS_MAX && k.w.volume_count > 0 &&
           k.w.volume_count <= KILLS_VOLUMES;
}

int main(int argc, char **argv)
{
    k.count = 100;
    k.cuts = k.deaths_max = k.w.volume_count = 1;
    k.seed = 1;
    if (!parse(argc, argv))
        return usage();
    world_begin();
    life_go_on();
    printf(
        "%llu points, %llu merges (%llu of fulls, %llu of a base, %llu of what is needless; %llu "
        "made again), %llu logs written anew, %llu segments sent again with chunks that were "
        "gone\n",
        (unsigned long long)k.count, (unsigned long long)k.w.merges, (unsigned long long)k.w.tiled,
        (unsigned long long)k.w.forwarded, (unsigned long long)k.w.needless,
        (unsigned long long)k.w.discards, (unsigned long long)k.w.checkpoints,
        (unsigned long long)k.w.missing);
    printf("%llu supplies came and %llu went, %llu commits looked again for their chunks\n",
           (unsigned long long)k.w.supplies, (unsigned long long)k.w.supplies_gone,
           (unsigned long long)k.w.looked_again);
    if (k.indexed)
        printf("%llu times the index was made anew, %llu times volumes were read into it again\n",
               (unsigned long long)k.w.remakes, (unsigned long long)k.w.refills);
    printf("%llu operations on the disk, %llu deaths: all of it was there each time\n",
           (unsigned long long)k.operations, (unsigned long long)k.deaths);
    if (k.w.bug != KILLS_BUG_NONE)
        fprintf(stderr, "the planted bug %s was not found\n", bugs[k.w.bug].name);
    world_end();
    return k.w.bug != KILLS_BUG_NONE;
}
