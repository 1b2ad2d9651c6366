/*
 * repl site: runs the site in the foreground, as a service manager wants it.
 *
 * Ready means: every volume has been looked through and the listener answers.
 * SIGTERM and SIGINT end it cleanly (a commit under way is finished); SIGHUP
 * reads the configuration again and takes over the peers, an error in the file
 * leaving everything as it was. Where the service manager watches (WatchdogSec),
 * the loop's own timer answers it: a loop that hangs is restarted.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <syslog.h>
#include <unistd.h>

#include "cli/verbs.h"
#include "control/control.h"
#include "site/site.h"

/* Of the store, the index and the replicas. */
#define OTHER_DESCRIPTORS 256u
#define WORKERS_MIN       16

static const char *site_config_path = REPL_SITE_CONFIG_PATH;
static bool site_clock_is_right;
static bool site_take_over;

struct site_run {
    struct repl_loop *loop;
    struct repl_site *site;
    struct repl_timer watchdog;
    int64_t watchdog_ns; /* 0: nobody watches */
};

/* --- signals --------------------------------------------------------------------------------- */

static void run_reload(struct site_run *run)
{
    struct repl_config *config;
    struct repl_error err;
    bool restart;
    repl_notify("RELOADING=1");
    if (!repl_ok(repl_config_load(site_config_path, REPL_ROLE_SITE, &config, &err))) {
        repl_log(LOG_ERR, "the configuration was not reloaded, everything stays as it was: %s",
                 err.text);
    } else {
        repl_site_reload(run->site, config, &restart);
        repl_log(LOG_INFO, "reloaded the peers of %s%s", site_config_path,
                 restart ? "; other options have changed as well, and take a restart" : "");
    }
    repl_notify("READY=1");
}

static void run_signal(void *context, int signal_number)
{
    struct site_run *run = context;
    if (signal_number == SIGHUP) {
        if (run->site != NULL)
            run_reload(run);
        return;
    }
    repl_notify("STOPPING=1\nSTATUS=finishing what is under way");
    repl_loop_stop(run->loop);
}

/* --- the watchdog ---------------------------------------------------------------------------- */

static void watchdog_fire(struct repl_timer *timer)
{
    struct site_run *run = timer->context;
    repl_notify("WATCHDOG=1");
    repl_timer_arm(run->loop, &run->watchdog, repl_now_mono_ns() + run->watchdog_ns);
}

static void watchdog_start(struct site_run *run)
{
    const char *pid = getenv("WATCHDOG_PID");
    const char *usec = getenv("WATCHDOG_USEC");
    if (usec == NULL || (pid != NULL && strtoll(pid, NULL, 10) != getpid()))
        return;
    run->watchdog_ns = strtoll(usec, NULL, 10) * 1000 / 3;
    run->watchdog = (struct repl_timer){.fire = watchdog_fire, .context = run};
    if (run->watchdog_ns > 0)
        watchdog_fire(&run->watchdog);
}

/* --- the run --------------------------------------------------------------------------------- */

static void say_ready(const struct site_run *run, const struct repl_config *config)
{
    char state[256];
    size_t volumes, damaged;
    repl_site_count(run->site, &volumes, &damaged);
    snprintf(state, sizeof state, "READY=1\nSTATUS=%zu volumes, %zu damaged", volumes, damaged);
    repl_notify(state);
    repl_log(LOG_INFO, "site ready: repl %s, %s, port %u, store %s, %zu volumes, %zu damaged",
             REPL_VERSION, repl_loop_backend_name(run->loop), repl_site_port(run->site),
             config->store, volumes, damaged);
}

static repl_result run_loop(struct site_run *run, struct repl_config *config,
                            struct repl_error *err)
{
    repl_result result = repl_loop_signals(run->loop, run_signal, run, err);
    if (!repl_ok(result)) {
        repl_config_free(config);
        return result;
    }
    REPL_TRY(repl_site_new(run->loop, config, &run->site, err));
    say_ready(run, config);
    watchdog_start(run);
    result = repl_loop_run(run->loop, err);
    if (!repl_ok(result)) {
        /* Without the loop nothing can be waited for. What is durable is durable. */
        repl_log(LOG_ERR, "%s", err->text);
        _exit(REPL_EXIT_INTERNAL);
    }
    repl_timer_cancel(&run->watchdog);
    repl_site_free(run->site);
    repl_log(LOG_INFO, "site ended");
    return result;
}

/* Each connection and each segment that is read costs a descriptor, and so do files of the store.
 */
static void raise_descriptor_limit(const struct repl_config *config)
{
    struct rlimit limit;
    rlim_t wanted = 2 * (rlim_t)config->connections + OTHER_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max < wanted)
        repl_log(
            LOG_WARNING,
            "this process may have %llu descriptors, and may need %llu with [site] connections "
            "= %u: raise the limit (LimitNOFILE=, ulimit -Hn), or have fewer connections",
            (unsigned long long)limit.rlim_max, (unsigned long long)wanted, config->connections);
}

/* Most of the time they wait for the disk: with one a processor, a thousand sources would wait for
 * each other's syncs (bench/RESULTS.md). */
static unsigned workers_of(const struct repl_config *config)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (config->workers != 0)
        return config->workers;
    return processors * 2 > WORKERS_MIN ? (unsigned)processors * 2 : WORKERS_MIN;
}

/* Asks the one that runs. */
static int clock_confirm(void)
{
    struct repl_config *config = NULL;
    struct repl_error err;
    json_t *answer = NULL;
    repl_result result = repl_config_load(site_config_path, REPL_ROLE_SITE, &config, &err);
    if (repl_ok(result))
        result = repl_control_ask(config->control, "confirm-clock", &answer, &err);
    repl_config_free(config);
    if (!repl_ok(result))
        return repl_verb_fail("site", &err);
    json_decref(answer);
    printf("the site trusts its clock: points are given up as policy says\n");
    return REPL_EXIT_OK;
}

static int site_run(int argc, char **argv)
{
    (void)argc, (void)argv;
    if (site_clock_is_right)
        return clock_confirm();
    struct site_run run = {0};
    struct repl_config *config;
    struct repl_error err;
    signal(SIGPIPE, SIG_IGN);
    if (!repl_ok(repl_config_load(site_config_path, REPL_ROLE_SITE, &config, &err)))
        return repl_verb_fail("site", &err);
    config->take_over = site_take_over;
    raise_descriptor_limit(config);
    struct repl_loop_options options = {.workers = workers_of(config),
                                        .worker_nice = (int)config->nice};
    repl_result result = repl_loop_new(&options, &run.loop, &err);
    if (repl_ok(result))
        result = run_loop(&run, config, &err);
    else
        repl_config_free(config);
    repl_loop_free(run.loop);
    return repl_ok(result) ? REPL_EXIT_OK : repl_verb_fail("site", &err);
}

static const struct repl_option site_options[] = {
    {"config", "FILE", REPL_OPTION_TEXT, &site_config_path,
     "The configuration; " REPL_SITE_CONFIG_PATH " if none is given."},
    {"take-over", NULL, REPL_OPTION_FLAG, &site_take_over,
     "Of a store in a bucket: begins although another site writes to it, which then finds out and "
     "writes no more. For where that one is lost; it takes 45 s longer to begin."},
    {"clock-is-right", NULL, REPL_OPTION_FLAG, &site_clock_is_right,
     "Tells the site that runs, whose clock has jumped or is not known yet, that it is right. "
     "Until "
     "then it gives up no points. Look at the clock first: what is given up by a clock that is "
     "ahead is gone."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_site = {
    .name = "site",
    .synopsis = "[--config FILE] [--take-over | --clock-is-right]",
    .summary = "Runs the site: stores what hosts send, and keeps replicas.",
    .description =
        "Runs in the foreground and logs to standard error, as a service manager wants it "
        "(Type=notify). It is ready when every volume's journal has been looked through; a volume "
        "whose history is damaged is not served, and the others go on.\n"
        "\n"
        "SIGTERM and SIGINT end it once what is under way is finished. SIGHUP reads the "
        "configuration again and takes over its peers: new keys count, and revoked ones are "
        "refused, from the next request on. Other options take a restart.",
    .options = site_options,
    .run = site_run,
};
