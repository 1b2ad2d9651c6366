/*
 * Kills of compaction, thinning and collection, enumerated: a volume whose points come, are
 * given up and merged, with fulls, chunks that others refer to, and logs written anew. After each
 * operation on the disk from when that is begun until it is done, with the points that come
 * meanwhile (--everywhere: after each other one too), the world is copied (fork), and in the copy
 * the site dies there: once as a process does, then by power cuts, each of which keeps another part
 * of what was not synced. It starts again, and with --deaths 2 it dies again after each operation
 * of that start. Of each life it must hold that
 *
 *   what was acknowledged is there, and every point that retention keeps;
 *   every point that is listed restores exactly;
 *   every file and chunk that is named is there;
 *   a file that was listed a grace ago is there still, for whoever restores from it;
 *   life goes on, and in the end nothing lies about that is not named.
 *
 *   merge_kills [--points N] [--cuts N] [--deaths N] [--everywhere] [--begin OPERATION] [--seed N]
 *               [--bug NAME]
 *
 * With --bug it succeeds if the breach of contract is found.
 */
#include "merge_kills.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit/segment/segment_fixture.h"

#define POLICY       "1s:10s 5s:1m 20s:3m"
#define PATTERNS     8u /* contents that whole chunks have, again and again */
#define POINTS_AFTER 6u /* that come after a death */
#define FULL_EVERY   45u
#define LOG_RECORDS  45u /* with so many since the last it is written anew */

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
    struct random random; /* the source's */
    uint64_t seed, seq, acked, count, cuts;
    struct kills_point *points; /* by seq */
    struct repl_digest head;
    /* the point on its way: what it writes, the chunk among that, its segment */
    bool pending;
    uint64_t tags[KILLS_PAGES], chunk, pattern;
    bool sent[PATTERNS]; /* once */
    struct memory_file file;
    struct repl_digest digest;
    uint64_t record_number; /* after the last checkpoint */
    unsigned depth, deaths_max;
    bool starting, turning;             /* what the site is at */
    bool everywhere;                    /* it dies at */
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

/* --- the source ------------------------------------------------------------------------------ */

/* What a point writes: a tag for each page, 0: not written. */
static void pages_choose(uint64_t tags[KILLS_PAGES], bool full, uint64_t *chunk)
{
    *chunk = UINT64_MAX;
    for (uint64_t i = 0; i < KILLS_PAGES; i++)
        tags[i] = full ? 1 + random_below(&k.random, 1000) : 0;
    for (uint64_t i = 0; i < 2; i++)
        tags[random_below(&k.random, KILLS_PAGES)] = 1000 + k.seq * 10 + i;
    if (full || random_below(&k.random, 2) != 0)
        return;
    k.pattern = random_below(&k.random, PATTERNS);
    *chunk = random_below(&k.random, KILLS_SIZE / REPL_CHUNK_SIZE);
    for (uint64_t i = 0; i < REPL_CHUNK_PAGES; i++)
        tags[*chunk * REPL_CHUNK_PAGES + i] = ((k.pattern + 1) << 32) + i;
}

static void extent_add(struct repl_segment_builder *builder, uint64_t page, uint64_t pages,
                       uint64_t source, enum repl_record_type type)
{
    struct repl_extent extent = {.offset = page * REPL_PAGE_SIZE,
                                 .length = pages * REPL_PAGE_SIZE,
                                 .source = source,
                                 .type = type};
    ensure(repl_ok(repl_segment_builder_extent(builder, &extent, NULL)));
}

/* Once sent, a chunk goes by its name: the site knows it, or says that it does not. */
static void chunk_add(struct repl_segment_builder *builder, const uint64_t *tags, uint64_t chunk,
                      bool by_name)
{
    uint8_t raw[REPL_CHUNK_SIZE];
    uint64_t source;
    for (uint64_t i = 0; i < REPL_CHUNK_PAGES; i++)
        kills_page_fill(tags[chunk * REPL_CHUNK_PAGES + i], raw + i * REPL_PAGE_SIZE);
    struct repl_chunk_entry entry = {.name = chunk_name_of(raw)};
    if (by_name && k.sent[k.pattern]) {
        ensure(repl_ok(repl_segment_builder_reference(builder, &entry.name, &source, NULL)));
        extent_add(builder, chunk * REPL_CHUNK_PAGES, REPL_CHUNK_PAGES, source, REPL_RECORD_CHUNK);
        return;
    }
    k.sent[k.pattern] = true;
    entry.frame = add_frame(builder, k.w.coder, raw, sizeof raw);
    ensure(repl_ok(repl_segment_builder_chunk(builder, &entry, NULL)));
    extent_add(builder, chunk * REPL_CHUNK_PAGES, REPL_CHUNK_PAGES, entry.frame, REPL_RECORD_DATA);
}

/* The written pages of so many from first on, each stretch of them in a frame. */
static void pages_add(struct repl_segment_builder *builder, const uint64_t *tags, uint64_t first)
{
    uint8_t raw[REPL_CHUNK_SIZE];
    uint64_t count = 0;
    for (uint64_t i = 0; i <= REPL_CHUNK_PAGES; i++) {
        if (i < REPL_CHUNK_PAGES && tags[first + i] != 0) {
            kills_page_fill(tags[first + i], raw + count++ * REPL_PAGE_SIZE);
            continue;
        }
        if (count > 0)
            extent_add(builder, first + i - count, count,
                       add_frame(builder, k.w.coder, raw, count * REPL_PAGE_SIZE),
                       REPL_RECORD_DATA);
        count = 0;
    }
}

static void segment_make(bool full, bool by_name)
{
    struct repl_segment_builder *builder;
    struct repl_segment_footer footer;
    struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                         .kind = REPL_SEGMENT_CHANGES,
                                         .volume_kind = REPL_VOLUME_BLOCK,
                                         .from_seq = full ? 0 : k.seq - 1,
                                         .to_seq = k.seq,
                                         .lineage = 1,
                                         .prev = k.head};
    k.file.bytes.size = 0;
    ensure(repl_ok(
        repl_segment_builder_new(&header, KILLS_SIZE, memory_sink, &k.file, &builder, NULL)));
    for (uint64_t i = 0; i < KILLS_SIZE / REPL_CHUNK_SIZE; i++) {
        if (i == k.chunk)
            chunk_add(builder, k.tags, i, by_name);
        else
            pages_add(builder, k.tags, i * REPL_CHUNK_PAGES);
    }
    struct repl_point point = {.seq = k.seq,
                               .begin_ns = k.w.now_ns,
                               .end_ns = k.w.now_ns,
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_WINDOW,
                               .attempts = 1};
    ensure(repl_ok(repl_segment_builder_finish(builder, &point, 1, &footer, NULL)));
    repl_segment_builder_free(builder);
    k.digest = footer.digest;
}

/* The site has come back, and says where it stands. */
static void source_greet(void)
{
    const struct repl_journal *journal = &k.w.site.journal;
    if (journal->head.to_seq < k.acked)
        kills_fail(&k.w, "point %llu was acknowledged, and the site is at %llu",
                   (unsigned long long)k.acked, (unsigned long long)journal->head.to_seq);
    k.seq = k.acked = journal->head.to_seq; /* one that was on its way is made anew, or was taken */
    k.head = journal->head.digest;
    k.pending = false;
}

/* --- what happens ---------------------------------------------------------------------------- */

/* The next point is on its way. */
static void point_begin(void)
{
    ensure(k.seq + 1 < KILLS_POINTS_MAX && !k.pending);
    k.pending = true;
    k.seq++;
    k.w.now_ns += SIM_SECOND;
    bool full = k.seq % FULL_EVERY == 1;
    pages_choose(k.tags, full, &k.chunk);
    struct kills_point *point = &k.points[k.seq];
    *point = k.points[k.seq - 1];
    point->time_ns = k.w.now_ns;
    for (size_t i = 0; i < KILLS_PAGES; i++)
        point->tags[i] = k.tags[i] != 0 ? k.tags[i] : point->tags[i];
    segment_make(full, true);
}

/* The site takes it. */
static void point_send(void)
{
    if (kills_commit(&k.w, &k.file.bytes) == KILLS_LACKING) {
        k.w.missing++;
        segment_make(k.seq % FULL_EVERY == 1, false);
        ensure(kills_commit(&k.w, &k.file.bytes) == KILLS_COMMITTED);
    }
    k.head = k.digest;
    k.acked = k.seq;
    k.pending = false;
}

/* Points come while a merge is made. */
static void between(struct kills_world *w)
{
    (void)w;
    if (random_below(&k.random, 4) != 0)
        return;
    if (!k.pending && k.seq < k.count)
        point_begin();
    if (k.pending)
        point_send();
}

static void site_turn(void)
{
    struct kills_world *w = &k.w;
    k.turning = true;
    while (kills_visit(w))
        ;
    kills_remove_due(w);
    if (w->site.journal.record_number >= k.record_number + LOG_RECORDS) {
        kills_checkpoint(w);
        k.record_number = w->site.journal.record_number;
    }
    k.turning = false;
}

/* Nobody writes for a while: whatever is due is done, and goes. */
static void pause_make(void)
{
    k.w.now_ns += SIM_SECOND;
    site_turn();
    k.w.now_ns += KILLS_GRACE + SIM_SECOND;
    site_turn();
    k.w.now_ns += KILLS_GRACE;
    k.turning = true;
    kills_remove_due(&k.w);
    k.turning = false;
}

static void life_go_on(void)
{
    while (k.seq < k.count) {
        point_begin();
        if (k.seq % 3 == 0)
            site_turn();
        if (k.pending)
            point_send();
        if (k.seq % 25 == 0)
            pause_make();
        if (k.depth == 0)
            kills_check_history(&k.w, k.points, k.acked);
    }
    pause_make();
    kills_check_history(&k.w, k.points, k.acked);
    kills_check_nothing_left(&k.w);
}

/* --- deaths ---------------------------------------------------------------------------------- */

static void site_start(void)
{
    k.starting = true;
    kills_site_start(&k.w);
    k.starting = false;
    source_greet();
    k.record_number = k.w.site.journal.record_number;
    kills_check_history(&k.w, k.points, k.acked);
}

/* In the copy. cut: 0 for a death of the process alone. */
__attribute__((noreturn)) static void die(const char *what, uint64_t cut)
{
    k.depth++;
    k.last = k.operations;
    k.last_what = what;
    k.w.sim->random.state = (k.seed << 40) + (k.operations << 8) + cut;
    if (cut > 0)
        sim_disk_power_cut(&k.w.site.disk);
    kills_check_anew();
    site_start();
    if (k.depth == 1) {
        if (k.count > k.seq + POINTS_AFTER)
            k.count = k.seq + POINTS_AFTER;
        life_go_on();
        kills_site_start(&k.w); /* what it did since is what the disk says */
        source_greet();
        kills_check_history(&k.w, k.points, k.acked);
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
    fprintf(stderr, "replay: merge_kills --points %llu --cuts %llu --seed %llu: operation %llu\n",
            (unsigned long long)k.count, (unsigned long long)k.cuts, (unsigned long long)k.seed,
            (unsigned long long)k.operations);
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

static void world_begin(void)
{
    static struct sim_counts counts;
    struct repl_log_record create = {.type = REPL_LOG_CREATE};
    struct kills_world *w = &k.w;
    w->sim = sim_alloc(sizeof *w->sim);
    w->sim->counts = &counts;
    w->between = between;
    w->now_ns = INT64_C(1767225600) * SIM_SECOND;
    k.random = (struct random){k.seed};
    k.points = sim_alloc(KILLS_POINTS_MAX * sizeof *k.points);
    sim_disk_init(&w->site.disk, w->sim);
    repl_journal_init(&w->site.journal);
    repl_chain_init(&w->site.chain);
    ensure(repl_ok(repl_frame_coder_new(&w->coder, NULL)));
    ensure(repl_ok(repl_retention_parse(POLICY, &w->policy, NULL)));
    strcpy(create.create.name, "vol");
    create.create.kind = REPL_VOLUME_BLOCK;
    create.create.lineage = 1;
    k.depth = k.deaths_max; /* a volume that is half made is another matter */
    kills_log(w, &create, 1);
    k.depth = 0;
}

static void world_end(void)
{
    struct kills_world *w = &k.w;
    repl_chain_fini(&w->site.chain);
    sim_disk_fini(&w->site.disk);
    repl_frame_coder_free(w->coder);
    free(w->sim);
    free(k.points);
    repl_buffer_fini(&k.file.bytes);
}

static int usage(void)
{
    fprintf(stderr, "usage: merge_kills [--points N] [--cuts N] [--deaths N] [--everywhere] "
                    "[--begin OPERATION] [--seed N] [--bug NAME]\nbugs:\n");
    for (unsigned i = 1; i < KILLS_BUG_COUNT; i++)
        fprintf(stderr, "  %-22s %s\n", bugs[i].name, bugs[i].text);
    return 64;
}

static bool parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--everywhere") == 0) {
            k.everywhere = true;
            i--;
            continue;
        }
        if (i + 1 == argc)
            return false;
        if (strcmp(argv[i], "--points") == 0)
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
    return k.count > 0 && k.count < KILLS_POINTS_MAX;
}

int main(int argc, char **argv)
{
    k.count = 100;
    k.cuts = k.deaths_max = 1;
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
    printf("%llu operations on the disk, %llu deaths: all of it was there each time\n",
           (unsigned long long)k.operations, (unsigned long long)k.deaths);
    if (k.w.bug != KILLS_BUG_NONE)
        fprintf(stderr, "the planted bug %s was not found\n", bugs[k.w.bug].name);
    world_end();
    return k.w.bug != KILLS_BUG_NONE;
}
