/*
 * repl verify: findings as they come on standard output, then the counts and
 * the points that are affected.
 */
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/verbs.h"
#include "recover/verify_history.h"
#include "recover/words.h"
#include "site/replica/replica.h"

static struct repl_origin_options verify_origin;
static const char *verify_replica;
static bool verify_skip_replica;

static void print_finding(void *context, const char *text)
{
    (void)context;
    printf("damaged: %s\n", text);
    fflush(stdout);
}

/* "points 3 to 7, 9": runs of points that stand next to each other in the catalogue. */
static void print_affected(const struct repl_catalogue *c, const struct repl_verify_result *result)
{
    fputs("affected points:", stdout);
    for (size_t i = 0, end; i < c->point_count; i = end) {
        end = i + 1;
        if (!result->point_affected[i])
            continue;
        while (end < c->point_count && result->point_affected[end])
            end++;
        printf(" %" PRIu64, c->points[i].point.seq);
        if (end - i > 1)
            printf(" to %" PRIu64, c->points[end - 1].point.seq);
        if (end < c->point_count)
            fputc(',', stdout);
    }
    fputs("\nThey may not restore exactly; the others do. Bring back the damaged files from the "
          "store's own\nreplica or backup; where there is none, a new full copy heals what is to "
          "come.\n",
          stdout);
}

static void print_counts(const struct repl_catalogue *c, const struct repl_verify_result *result)
{
    char bytes[REPL_WORDS_SIZE];
    repl_words_bytes(result->bytes, bytes);
    printf("%" PRIu64 " segments and %" PRIu64 " supplies, %s, %" PRIu64
           " references to chunks, %zu points: %" PRIu64 " damaged, %" PRIu64
           " breaks in the chain\n",
           result->segment_count, result->supply_count, bytes, result->reference_count,
           c->point_count, result->damaged_count, result->broken_links);
    if (result->affected_count > 0)
        print_affected(c, result);
}

static int print_replica(const struct repl_replica_result *r, const char *path)
{
    char bytes[REPL_WORDS_SIZE];
    switch (r->verdict) {
    case REPL_REPLICA_SAME:
        repl_words_bytes(r->compared_bytes, bytes);
        printf("replica %s: %s, all as in point %" PRIu64 "\n", path, bytes, r->seq);
        return REPL_EXIT_OK;
    case REPL_REPLICA_DIFFERS:
        repl_words_bytes(r->differing_bytes, bytes);
        printf("damaged: replica %s: %s differ from point %" PRIu64 ", the first at offset %" PRIu64
               "\nStop the site, remove the image and its state file, and start it again: it is "
               "made anew from\nthe history.\n",
               path, bytes, r->seq, r->first_difference);
        return REPL_EXIT_CORRUPT;
    case REPL_REPLICA_EMPTY:
        printf("replica %s: nothing has been applied to it yet\n", path);
        return REPL_EXIT_OK;
    case REPL_REPLICA_BETWEEN:
        printf("replica %s: not compared: it is being brought forward and stands between two "
               "points\n",
               path);
        return REPL_EXIT_WARNING;
    case REPL_REPLICA_MOVED:
        printf("replica %s: not compared: it was brought forward meanwhile; try again\n", path);
        return REPL_EXIT_WARNING;
    }
    return REPL_EXIT_INTERNAL;
}

/* Whether the path names the image beside the history. */
static bool is_image(const char *path, const char *image)
{
    struct stat a, b;
    return strcmp(path, "image") == 0 || (stat(path, &a) == 0 && stat(image, &b) == 0 &&
                                          a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}

/* The replica that --replica names, or that lies beside the history, if there is one. */
static int check_replica(const struct repl_verify_options *options, const char *directory)
{
    char state[PATH_MAX], image[PATH_MAX];
    struct repl_replica_result result;
    struct repl_error err;
    const char *target = "image";
    int size = snprintf(image, sizeof image, "%s/replica.img", directory);
    if (verify_replica != NULL && !is_image(verify_replica, image)) {
        target = verify_replica;
        size = snprintf(image, sizeof image, "%s", verify_replica);
    }
    bool fits = size >= 0 && (size_t)size < sizeof image &&
                repl_replica_state_path(directory, target, state, sizeof state);
    if (!fits || (verify_replica == NULL && access(image, F_OK) != 0)) {
        fprintf(stderr, "repl verify: no replica image lies beside the history (--replica names "
                        "one that lies elsewhere)\n");
        return REPL_EXIT_OK;
    }
    if (!repl_ok(repl_verify_replica(options, state, image, &result, &err)))
        return repl_verb_fail("verify", &err);
    return print_replica(&result, image);
}

static int check_all(struct repl_history *history)
{
    const struct repl_catalogue *c = repl_history_catalogue(history);
    const char *directory = repl_history_origin(history)->directory;
    struct repl_verify_options options = {
        .history = history, .interrupted = repl_interrupt_flag(), .finding = print_finding};
    struct repl_verify_result result;
    struct repl_error err;
    bool verified = repl_ok(repl_verify_history(&options, &result, &err));
    if (verified)
        print_counts(c, &result);
    bool damaged = result.damaged_count > 0 || result.broken_links > 0 ||
                   result.affected_count > 0 || c->damaged;
    repl_verify_result_fini(&result);
    if (!verified)
        return repl_verb_fail("verify", &err);
    if (c->damaged)
        printf("damaged: %s\n", c->note);
    else if (c->note[0] != '\0')
        fprintf(stderr, "repl verify: %s\n", c->note);
    int replica = REPL_EXIT_OK;
    if (directory[0] != '\0' && !verify_skip_replica)
        replica = check_replica(&options, directory);
    return damaged ? REPL_EXIT_CORRUPT : replica;
}

static int verify_run(int argc, char **argv)
{
    struct repl_origin *origin = NULL;
    struct repl_history *history = NULL;
    struct repl_error err;
    (void)argc;
    if (verify_replica != NULL && verify_origin.store == NULL) {
        repl_ignore(repl_fail(&err, REPL_E_USAGE,
                              "--replica needs --store: a replica is compared where it lies"));
        return repl_verb_fail("verify", &err);
    }
    if (!repl_ok(repl_origin_open(&verify_origin, argv[0], &origin, &err)) ||
        !repl_ok(repl_history_open(origin, &history, &err)))
        return repl_verb_fail("verify", &err);
    repl_interrupt_catch();
    int exit_code = check_all(history);
    repl_history_close(history);
    return exit_code;
}

static const struct repl_option verify_options[] = {
    REPL_ORIGIN_OPTION_ROWS(verify_origin),
    {"replica", "PATH", REPL_OPTION_TEXT, &verify_replica,
     "With --store: the replica to compare, where it is not the image beside the history; as the "
     "site's "
     "configuration writes it."},
    {"skip-replica", NULL, REPL_OPTION_FLAG, &verify_skip_replica,
     "With --store: does not compare the replica."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_verify = {
    .name = "verify",
    .synopsis = "VOLUME [--store DIR [--replica PATH]]",
    .summary = "Checks a volume's history, and its replica, against their digests.",
    .description =
        "Reads every byte of the history: each segment against its digest, checksums and records, "
        "the chain from segment to segment, and whether every chunk that is referred to can be "
        "found. From a store directory, the site's replica is compared with the point it says it "
        "stands at; a site that is running goes on meanwhile.\n"
        "\n"
        "The exit code is 4 where damage was found, and the points that it affects are named; 1 "
        "where the replica was on the move and could not be compared.",
    .options = verify_options,
    .positional_min = 1,
    .positional_max = 1,
    .run = verify_run,
};
