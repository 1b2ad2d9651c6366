/*
 * repl verify: findings as they come on standard output, then the counts and
 * the points that are affected. With --source, the replica against the device.
 */
#include <inttypes.h>
#include <limits.h>
#include <linux/ioprio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block/identity.h"
#include "cli/interrupt.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "loop/loop.h"
#include "recover/verify_history.h"
#include "recover/verify_source.h"
#include "recover/words.h"
#include "site/replica/replica.h"
#include "source/state_dir.h"

/* How long newer points are waited for, unless --wait says: */
#define PATIENCE_MIN_MS 20000 /* and four times the volume's rpo */
#define PATIENCE_MAX_MS 3600000
#define WAIT_MAX_S      86400u

static struct repl_origin_options verify_origin;
static const char *verify_replica;
static bool verify_skip_replica, verify_source;
static uint64_t verify_wait_s;
static const char *verify_max_age;

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
    if (result->tree_count > 0)
        printf("the directory tree as a whole, at the last point of each full copy and its "
               "changes: %" PRIu64 " looked at, %" PRIu64 " of them make no sense\n",
               result->tree_count, result->senseless_count);
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

/* A restore that changes nothing finds what is different: what it says is of the point it is given,
 * and the replica may stand at an earlier one. */
static void print_directory(const char *volume, const char *directory)
{
    char path[PATH_MAX];
    bool given = verify_replica != NULL && strcmp(verify_replica, "image") != 0;
    int size = given ? snprintf(path, sizeof path, "%s/tree", verify_replica)
                     : snprintf(path, sizeof path, "%s/replica/tree", directory);
    if (verify_skip_replica || size < 0 || (size_t)size >= sizeof path || access(path, F_OK) != 0)
        return;
    printf("replica %s: a directory, not compared; while the site is stopped\n"
           "repl restore %s --store DIR --at POINT --to %s --delete --overwrite --dry-run\n"
           "says what in it is not as in the point\n",
           path, volume, path);
}

static int check_all(struct repl_history *history, const bool *skip)
{
    const struct repl_catalogue *c = repl_history_catalogue(history);
    const char *directory = repl_history_origin(history)->directory;
    struct repl_verify_options options = {.history = history,
                                          .skip = skip,
                                          .interrupted = repl_interrupt_flag(),
                                          .finding = print_finding};
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
    if (directory[0] != '\0' && result.tree)
        print_directory(repl_history_origin(history)->volume, directory);
    else if (directory[0] != '\0' && !verify_skip_replica)
        replica = check_replica(&options, directory);
    return damaged ? REPL_EXIT_CORRUPT : replica;
}

/* --- what was not verified lately ------------------------------------------------------------ */

struct aged {
    bool *skip; /* of each segment, then of each supply */
    uint64_t skipped_count, skipped_bytes;
    int64_t oldest_ns; /* of what is left out */
};

static void aged_add(struct aged *aged, size_t item, const struct repl_verified_list *list,
                     const struct repl_verified *key, uint64_t bytes, int64_t since_ns)
{
    const struct repl_verified *found = repl_verified_list_find(list, key);
    if (found == NULL || found->damaged || found->time_ns < since_ns)
        return;
    aged->skip[item] = true;
    aged->skipped_count++;
    aged->skipped_bytes += bytes;
    if (found->time_ns < aged->oldest_ns)
        aged->oldest_ns = found->time_ns;
}

static repl_result aged_find(struct repl_history *history, int64_t since_ns, struct aged *aged,
                             struct repl_error *err)
{
    const struct repl_catalogue *c = repl_history_catalogue(history);
    struct repl_origin *origin = repl_history_origin(history);
    struct repl_verified_list list = {0};
    *aged = (struct aged){.skip = calloc(c->segment_count + c->supply_count + 1, sizeof(bool)),
                          .oldest_ns = INT64_MAX};
    if (aged->skip == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", c->segment_count);
    REPL_TRY(origin->ops->verified(origin, &list, err));
    for (size_t i = 0; i < c->segment_count; i++) {
        const struct repl_segments_entry *entry = &c->segments[i];
        const struct repl_verified key = {
            .to_seq = entry->head.to_seq, .part = entry->head.part, .merge = entry->merge};
        aged_add(aged, i, &list, &key, entry->file_size, since_ns);
    }
    for (size_t i = 0; i < c->supply_count; i++) {
        const struct repl_segment_id *id = &c->supplies[i];
        const struct repl_verified key = {
            .to_seq = id->to_seq, .part = id->part, .supply = id->supply};
        aged_add(aged, c->segment_count + i, &list, &key, 0, since_ns);
    }
    repl_verified_list_fini(&list);
    return REPL_SUCCESS;
}

static void print_aged(const struct aged *aged, int64_t now_ns)
{
    char bytes[REPL_WORDS_SIZE], age[REPL_WORDS_SIZE];
    repl_words_bytes(aged->skipped_bytes, bytes);
    if (aged->skipped_count == 0) {
        printf("nothing was verified within %s: everything is read\n", verify_max_age);
        return;
    }
    repl_words_duration(now_ns - aged->oldest_ns, age);
    printf("left out: %" PRIu64 " segments and supplies, %s, verified within %s; the one that was "
           "read longest ago %s ago\n",
           aged->skipped_count, bytes, verify_max_age, age);
}

static int check_aged(struct repl_history *history)
{
    struct repl_error err;
    struct aged aged;
    int64_t age_ms, now_ns = repl_now_wall_ns();
    if (!repl_ok(repl_parse_duration(verify_max_age, &age_ms, &err)))
        return repl_verb_fail("verify", &err);
    repl_result result =
        aged_find(history, age_ms < now_ns / 1000000 ? now_ns - age_ms * 1000000 : 0, &aged, &err);
    int exit_code;
    if (repl_ok(result)) {
        print_aged(&aged, now_ns);
        verify_skip_replica = true; /* to compare it takes reading the whole history */
        exit_code = check_all(history, aged.skip);
    } else if (result.code == REPL_E_MISSING) {
        fprintf(stderr,
                "repl verify: %s is too old to say what it has verified when: everything is read\n",
                repl_history_origin(history)->label);
        exit_code = check_all(history, NULL);
    } else {
        exit_code = repl_verb_fail("verify", &err);
    }
    free(aged.skip);
    return exit_code;
}

/* --- against the source ---------------------------------------------------------------------- */

static void print_source_progress(void *context, const struct repl_verify_source_status *status)
{
    char done[REPL_WORDS_SIZE], total[REPL_WORDS_SIZE], rate[REPL_WORDS_SIZE];
    (void)context;
    repl_words_bytes(status->done_bytes, done);
    repl_words_bytes(status->total_bytes, total);
    if (status->settling) {
        fprintf(stderr, "\rcompared: %s of %s, waiting for newer points to settle %zu pages\033[K",
                done, total, status->suspect_count);
        return;
    }
    repl_words_bytes(
        (uint64_t)((double)status->done_bytes / ((double)status->elapsed_ns / 1e9 + 1e-3)), rate);
    fprintf(stderr, "\rcomparing: %s of %s, %s/s\033[K", done, total, rate);
}

/* "3 pages (12 KiB), the first at offset 4096": what of the volume the tally counts. */
static void print_tally(const struct repl_page_tally *tally)
{
    char bytes[REPL_WORDS_SIZE];
    repl_words_bytes(tally->page_count * REPL_PAGE_SIZE, bytes);
    printf("%" PRIu64 " page%s (%s), the first at offset %" PRIu64, tally->page_count,
           tally->page_count == 1 ? "" : "s", bytes, tally->first_page * REPL_PAGE_SIZE);
}

static void print_differing(const char *volume, const struct repl_verify_source_result *r)
{
    fputs("damaged: differing for good: ", stdout);
    print_tally(&r->differing);
    printf(
        "\n%sRun repl verify %s --store DIR at the site. If it says that the replica differs from "
        "its point,\nthe history is good: do there what it says. If not, the history lacks what "
        "is on the device: here,\nstop the agent, run repl forget %s --resync, and start it "
        "again. Then compare once more.\n",
        r->stopped ? "The rest of the device was not compared.\n" : "", volume, volume);
}

/* What was written all the while, or not shown to be wrong, and why that may be. */
static void print_unsettled(const struct repl_verify_source_result *r)
{
    if (r->changing.page_count > 0) {
        fputs("not settled: changed again and again while they were compared: ", stdout);
        print_tally(&r->changing);
        fputc('\n', stdout);
    }
    if (r->unclear.page_count > 0) {
        fputs("not settled: differing, and not shown to be wrong: ", stdout);
        print_tally(&r->unclear);
        fputc('\n', stdout);
    }
    if (r->vague) {
        fputs(
            "The volume's points are cut under a freeze or between commands, which may write some "
            "pages each time\n(a filesystem's superblock, for one). With quiesce = window they "
            "would be settled.\n",
            stdout);
        return;
    }
    if (r->changing.page_count > 0)
        fputs("Compare again when less is written.\n", stdout);
    if (r->unclear.page_count > 0)
        fputs(
            "No newer point reached the replica that would have told. See that agent and site are "
            "well (repl status),\nand compare again; --wait makes it wait longer.\n",
            stdout);
}

static int print_source_result(const char *volume, const struct repl_device *device,
                               const char *site, const struct repl_verify_source_result *r)
{
    char bytes[REPL_WORDS_SIZE];
    bool settled = r->changing.page_count == 0 && r->unclear.page_count == 0;
    repl_words_bytes(r->compared_bytes, bytes);
    printf("volume %s: %s of %s compared with the replica at %s, points %" PRIu64 " to %" PRIu64
           "%s\n",
           volume, bytes, device->path, site, r->first_seq, r->last_seq,
           settled && r->differing.page_count == 0 ? ": all equal" : "");
    if (r->differing.page_count > 0)
        print_differing(volume, r);
    if (!settled)
        print_unsettled(r);
    return r->differing.page_count > 0 ? REPL_EXIT_CORRUPT
           : settled                   ? REPL_EXIT_OK
                                       : REPL_EXIT_WARNING;
}

/* The host has better things to do. Where the disk's scheduler does not know of priorities, reading
 * one piece after the other is all the restraint there is. */
static void priority_lower(void)
{
    setpriority(PRIO_PROCESS, 0, 19);
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

/* The device that the agent has protected under the volume's name, and no other. */
static repl_result device_open(const struct repl_config *config, const char *volume,
                               struct repl_device *device, struct repl_error *err)
{
    struct repl_source_state state;
    const struct repl_config_volume *found = repl_config_find_volume(config, volume);
    if (found == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "%s has no [volume %s]: --source compares on the protected host itself",
                         config->path, volume);
    if (found->kind == REPL_VOLUME_TREE)
        return repl_fail(err, REPL_E_REFUSED,
                         "volume %s is a directory tree, which is not compared page by page; "
                         "restore it into another directory with --dry-run, or "
                         "verify its history without --source",
                         volume);
    repl_result looked = repl_state_dir_look(config->state, volume, &state, err);
    if (looked.code == REPL_E_MISSING)
        return repl_fail(err, REPL_E_REFUSED,
                         "the agent has not protected volume %s yet: %s keeps nothing of it",
                         volume, config->state);
    REPL_TRY(looked);
    REPL_TRY(repl_device_open(found->device, device, err));
    if (repl_identity_same(device->identity, state.identity))
        return REPL_SUCCESS;
    repl_result result = repl_fail(
        err, REPL_E_REFUSED,
        "%s is %s, and the agent has protected %s as volume %s: put the right device into "
        "the configuration",
        device->path, device->identity, state.identity, volume);
    repl_device_close(device);
    return result;
}

static int64_t patience_ms(const struct repl_config *config, const char *volume)
{
    int64_t ms = PATIENCE_MIN_MS + 4 * repl_config_find_volume(config, volume)->rpo_ms;
    if (verify_wait_s > 0)
        return (int64_t)verify_wait_s * 1000;
    return ms < PATIENCE_MAX_MS ? ms : PATIENCE_MAX_MS;
}

static int source_compare(const struct repl_config *config, const char *volume,
                          const struct repl_device *device)
{
    struct repl_origin *origin;
    struct repl_error err;
    struct repl_verify_source_result compared;
    if (!repl_ok(repl_origin_open(&verify_origin, volume, &origin, &err)))
        return repl_verb_fail("verify", &err);
    bool terminal = isatty(STDERR_FILENO);
    struct repl_verify_source_options options = {.origin = origin,
                                                 .device = device,
                                                 .patience_ns =
                                                     patience_ms(config, volume) * 1000000,
                                                 .interrupted = repl_interrupt_flag(),
                                                 .status = terminal ? print_source_progress : NULL};
    priority_lower();
    repl_interrupt_catch();
    repl_result result = repl_verify_source(&options, &compared, &err);
    if (terminal)
        fputc('\n', stderr);
    int exit_code = repl_ok(result) ? print_source_result(volume, device, origin->label, &compared)
                                    : repl_verb_fail("verify", &err);
    origin->ops->close(origin);
    return exit_code;
}

static int source_run(const char *volume)
{
    struct repl_config *config;
    struct repl_device device;
    struct repl_error err;
    const char *path = verify_origin.config != NULL ? verify_origin.config : REPL_AGENT_CONFIG_PATH;
    if (!repl_ok(repl_config_load(path, REPL_ROLE_AGENT, &config, &err)))
        return repl_verb_fail("verify", &err);
    int exit_code;
    if (repl_ok(device_open(config, volume, &device, &err))) {
        exit_code = source_compare(config, volume, &device);
        repl_device_close(&device);
    } else {
        exit_code = repl_verb_fail("verify", &err);
    }
    repl_config_free(config);
    return exit_code;
}

/* --- the verb -------------------------------------------------------------------------------- */

static repl_result check_options(struct repl_error *err)
{
    int64_t age_ms;
    if (verify_replica != NULL && verify_origin.store == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "--replica needs --store: a replica is compared where it lies");
    if (verify_source && verify_origin.store != NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "--source asks the site, and --store reads its directory: give one or the "
                         "other");
    if (verify_wait_s != 0 && !verify_source)
        return repl_fail(err, REPL_E_USAGE, "--wait is for --source");
    if (verify_max_age != NULL && (verify_source || verify_replica != NULL))
        return repl_fail(err, REPL_E_USAGE,
                         "--max-age is about the history: give it without --source and --replica");
    if (verify_max_age != NULL)
        REPL_TRY(repl_forward(repl_parse_duration(verify_max_age, &age_ms, err), err, "--max-age"));
    if (verify_wait_s > WAIT_MAX_S)
        return repl_fail(err, REPL_E_USAGE, "--wait: at most %u seconds", WAIT_MAX_S);
    return REPL_SUCCESS;
}

static int verify_run(int argc, char **argv)
{
    struct repl_origin *origin = NULL;
    struct repl_history *history = NULL;
    struct repl_error err;
    (void)argc;
    if (!repl_ok(check_options(&err)))
        return repl_verb_fail("verify", &err);
    if (verify_source)
        return source_run(argv[0]);
    if (!repl_ok(repl_origin_open(&verify_origin, argv[0], &origin, &err)) ||
        !repl_ok(repl_history_open(origin, &history, &err)))
        return repl_verb_fail("verify", &err);
    repl_interrupt_catch();
    int exit_code = verify_max_age != NULL ? check_aged(history) : check_all(history, NULL);
    repl_history_close(history);
    return exit_code;
}

static const struct repl_option verify_options[] = {
    {"source", NULL, REPL_OPTION_FLAG, &verify_source,
     "On the protected host: compares the replica at the site with the volume's device instead, as "
     "it is now."},
    {"wait", "SECONDS", REPL_OPTION_COUNT, &verify_wait_s,
     "With --source: how long to wait for a newer point at the site before what is not settled is "
     "left so. Without it 20 seconds and four times the volume's rpo."},
    {"max-age", "AGE", REPL_OPTION_TEXT, &verify_max_age,
     "Reads only what nobody has read and verified within this time, such as 7d: a site verifies "
     "what it takes in, and reads all that it stores in the background (scrub_every). Of a store "
     "in "
     "a bucket only the first is known here. The replica is not compared."},
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
    .synopsis = "VOLUME [--max-age AGE] [--source | --store DIR [--replica PATH]]",
    .summary = "Checks a volume's history and its replica, against digests or their source.",
    .description =
        "Reads every byte of the history: each segment against its digest, checksums and records, "
        "the chain from segment to segment, and whether every chunk that is referred to can be "
        "found. Of a directory tree also, at the newest point and at the last one before each full "
        "copy, whether names, objects and contents fit together. From a store directory, the "
        "site's replica of a block volume is compared with the point it says it stands at; a site "
        "that is running goes on meanwhile. That of a tree is a directory, which a restore with "
        "--dry-run compares.\n"
        "\n"
        "With --source, every page of the live device is read and compared with the digests that "
        "the "
        "site makes of its replica. The volume may be in use: what differs is looked at again as "
        "newer points arrive, and counts only where three of them in a row should have had what is "
        "on the device, and have not. What is written all the while is said to be not settled, so "
        "a quiet moment is best. The device is read at the lowest priority; the site's replica "
        "waits a moment for each 16 MiB. This takes little of the link, and does not read the "
        "history.\n"
        "\n"
        "The exit code is 4 where damage was found, and the points that it affects are named; 1 "
        "where the replica was on the move and could not be compared, or pages are not settled.",
    .options = verify_options,
    .positional_min = 1,
    .positional_max = 1,
    .run = verify_run,
};
