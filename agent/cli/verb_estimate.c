/*
 * repl estimate: what following a device or a tree would cost at each RPO, found by
 * following it without replicating. The JSON is docs/formats/estimate.md.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/path_words.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "doctor/doctor.h"
#include "estimate/estimate_print.h"
#include "recover/words.h"
#include "source/capture/device.h"

#define NS_PER_MS INT64_C(1000000)
#define FOR_MS    INT64_C(600000)
#define LEAST_MS  INT64_C(1000)
#define MOST_MS   (INT64_C(7) * 86400 * 1000)

static const char *estimate_for;
static bool estimate_json;

static void progress_print(int64_t measured_ns, int64_t for_ns, uint64_t changed_bytes)
{
    char measured[REPL_WORDS_SIZE], all[REPL_WORDS_SIZE], changed[REPL_WORDS_SIZE];
    repl_words_duration(measured_ns, measured);
    repl_words_duration(for_ns, all);
    repl_words_bytes(changed_bytes, changed);
    fprintf(stderr, "\r\033[K%s of %s, %s changed (Ctrl-C ends it early)", measured, all, changed);
}

static repl_result for_parse(int64_t *for_ms, struct repl_error *err)
{
    *for_ms = FOR_MS;
    if (estimate_for != NULL)
        REPL_TRY(repl_forward(repl_parse_duration(estimate_for, for_ms, err), err, "--for"));
    if (*for_ms < LEAST_MS || *for_ms > MOST_MS)
        return repl_fail(err, REPL_E_USAGE, "--for %s: from 1s to 7d can be asked for",
                         estimate_for);
    return REPL_SUCCESS;
}

/* What can be said before it is opened. */
static repl_result path_check(const char *path, bool *directory, struct repl_error *err)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        enum repl_code code = errno == ENOENT || errno == ENOTDIR ? REPL_E_MISSING : REPL_E_IO;
        return repl_fail_errno(err, code, errno, "%s; lsblk lists the devices there are", path);
    }
    *directory = S_ISDIR(st.st_mode);
    return REPL_SUCCESS;
}

/* Where the kernel says no, what it takes is told first. */
static int refused(struct repl_error *err)
{
    struct repl_findings findings = {0};
    if (err->os_errno == ENXIO || err->os_errno == ENODEV)
        err->code = REPL_E_MISSING;
    repl_doctor_kernel(&findings);
    repl_finding_fail(&findings, "estimate", NULL,
                      err->code == REPL_E_MISSING ? "lsblk lists the devices there are"
                                                  : "run it as root, on Linux 5.17 or newer",
                      err);
    repl_findings_print(&findings, stderr);
    int code = repl_findings_exit(&findings);
    repl_findings_fini(&findings);
    return code;
}

static repl_result print(const struct repl_followed *followed, const struct repl_follow *follow,
                         int64_t asked_ns, struct repl_error *err)
{
    if (estimate_json) {
        json_t *json = repl_estimate_json(followed, follow, asked_ns);
        if (json == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory");
        json_dumpf(json, stdout, JSON_COMPACT);
        json_decref(json);
        putchar('\n');
    } else {
        repl_estimate_print(stdout, followed, follow, asked_ns);
    }
    return repl_output_end(err);
}

static repl_result measure(struct repl_followed *followed, int64_t for_ns,
                           struct repl_follow *follow, struct repl_error *err)
{
    bool terminal = isatty(STDERR_FILENO);
    const struct repl_follow_options options = {.followed = followed,
                                                .for_ns = for_ns,
                                                .interrupted = repl_interrupt_flag(),
                                                .progress = terminal ? progress_print : NULL};
    repl_result result = repl_follow(&options, follow, err);
    if (terminal)
        fputs("\r\033[K", stderr);
    return repl_ok(result) ? print(followed, follow, for_ns, err) : result;
}

/* A device is opened, and a tree is not; all is closed in any case. */
static repl_result estimate(const char *path, bool directory, int64_t for_ns,
                            struct repl_follow *follow, struct repl_error *err)
{
    struct repl_followed *followed = NULL;
    struct repl_device device;
    if (!directory)
        REPL_TRY(repl_device_open(path, &device, err));
    repl_result result = directory ? repl_followed_tree(path, &followed, err)
                                   : repl_followed_device(&device, &followed, err);
    if (repl_ok(result))
        result = measure(followed, for_ns, follow, err);
    repl_followed_close(followed);
    if (!directory)
        repl_device_close(&device);
    return result;
}

static int estimate_run(int argc, char **argv)
{
    struct repl_error err;
    struct repl_follow follow = {0};
    bool directory = false;
    int64_t for_ms;
    (void)argc;
    if (!repl_ok(for_parse(&for_ms, &err)) || !repl_ok(path_check(argv[0], &directory, &err)))
        return repl_verb_fail("estimate", &err);
    repl_interrupt_catch();
    if (!repl_ok(estimate(argv[0], directory, for_ms * NS_PER_MS, &follow, &err)))
        return err.os_errno == EPERM || err.os_errno == EACCES ? refused(&err)
                                                               : repl_verb_fail("estimate", &err);
    return follow.counts.missed > 0 ? REPL_EXIT_WARNING : REPL_EXIT_OK;
}

static const struct repl_option estimate_options[] = {
    {"for", "TIME", REPL_OPTION_TEXT, &estimate_for,
     "How long to follow it, 1s to 7d; 10m if not given. An RPO that is longer is computed of all "
     "that was measured, which is more than it takes, and marked so."},
    {"json", NULL, REPL_OPTION_FLAG, &estimate_json,
     "Prints one JSON object, docs/formats/estimate.md."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_estimate = {
    .name = "estimate",
    .synopsis = "DEVICE|PATH [--for TIME] [--json]",
    .summary = "Measures what replicating a device or tree would cost at each RPO, without doing "
               "so.",
    .description =
        "Follows what changes of a block device (a disk or a partition) or of a directory tree, as "
        "an agent would, but sends and keeps nothing, and needs no configuration. It then prints "
        "how much changes, how well that compresses, what of it is zeros, duplicates or the same "
        "bytes as before, and for an RPO of 1 s, 10 s, 1 min, 10 min and 1 h the bandwidth that "
        "is needed, as the mean and for the busiest window, and what the site's journal grows by "
        "in a day. The longer the RPO, the less: what is written several times in a window is sent "
        "once. An agent may replicate the same meanwhile. Run it as root, at a busy time of day.\n"
        "\n"
        "It costs the host something: the page cache is written back once a second, and what "
        "changed is read and compressed, on one processor; of each window at most 64 MiB and for "
        "some 0.15 seconds, spread over all that changed. The rest is taken to be like that, and "
        "then the output says so. Of a tree every name is looked at first, before the time "
        "begins; until the end an index of it lies in TMPDIR, or /var/tmp, which has to be outside "
        "of it.\n"
        "\n"
        "Ctrl-C or SIGTERM ends it early, with a table for the time that was measured.\n"
        "\n"
        "The exit code is 0, also if it was ended early; 1 if the tracking did not see all that "
        "was written, so that the figures are too low; 4 if there is no such device or directory, "
        "5 if it cannot be followed or the kernel does not allow it, 64 for wrong arguments, 70 if "
        "the machine failed in something.",
    .options = estimate_options,
    .positional_min = 1,
    .positional_max = 1,
    .run = estimate_run,
};
