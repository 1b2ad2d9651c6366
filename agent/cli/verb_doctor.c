/*
 * repl doctor: whether this host or site can do its work, finding by finding.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/verbs.h"
#include "config/config.h"
#include "doctor/doctor.h"
#include "loop/loop.h"

static const char *doctor_config_path;
static bool doctor_json;

struct report {
    const char *path;
    enum repl_role role; /* 0: the file says neither */
    struct repl_findings findings;
};

/* A configuration that cannot be read is a finding. False: a check was given up. */
static bool report_make(struct report *report)
{
    struct repl_config *config;
    struct repl_error err;
    if (!repl_ok(repl_config_load_either(report->path, &config, &err))) {
        repl_finding_fail(&report->findings, "config", NULL,
                          "correct it; \"repl help config\" shows all options", &err);
        return true;
    }
    report->role = config->role;
    bool ended = repl_doctor_examine(config, &report->findings);
    if (ended)
        repl_config_free(config);
    return ended;
}

static const char *role_name(enum repl_role role)
{
    return role == REPL_ROLE_AGENT ? "agent" : role == REPL_ROLE_SITE ? "site" : "";
}

/* The worst of them. */
static int exit_of(const struct report *reports, size_t count)
{
    int worst = REPL_EXIT_OK;
    for (size_t i = 0; i < count; i++) {
        int code = repl_findings_exit(&reports[i].findings);
        if (worst <= REPL_EXIT_WARNING && code > worst)
            worst = code;
    }
    return worst;
}

static void print_json(const struct report *reports, size_t count)
{
    char host[256] = "";
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct repl_findings *findings = &reports[i].findings;
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:s, s:o*}", "role", role_name(reports[i].role),
                                        "config", reports[i].path, "worst",
                                        repl_finding_level_name(repl_findings_worst(findings)),
                                        "findings", repl_findings_to_json(findings)));
    }
    if (gethostname(host, sizeof host - 1) != 0)
        host[0] = '\0';
    json_t *document =
        json_pack("{s:i, s:s, s:s, s:I, s:i, s:o}", "schema", 1, "version", REPL_VERSION, "name",
                  host, "time_ns", (json_int_t)repl_now_wall_ns(), "exit", exit_of(reports, count),
                  "reports", list);
    json_dumpf(document, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(document);
}

static void print_reports(const struct report *reports, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (count > 1)
            printf("%s%s:\n", i > 0 ? "\n" : "", reports[i].path);
        repl_findings_print(&reports[i].findings, stdout);
    }
}

static int doctor_run(int argc, char **argv)
{
    struct report reports[2] = {0};
    struct repl_error err;
    size_t count = 0;
    bool ended = true;
    (void)argc, (void)argv;
    if (doctor_config_path != NULL) {
        reports[count++].path = doctor_config_path;
    } else {
        if (access(REPL_AGENT_CONFIG_PATH, F_OK) == 0)
            reports[count++].path = REPL_AGENT_CONFIG_PATH;
        if (access(REPL_SITE_CONFIG_PATH, F_OK) == 0)
            reports[count++].path = REPL_SITE_CONFIG_PATH;
    }
    if (count == 0) {
        repl_ignore(repl_fail(&err, REPL_E_USAGE,
                              "there is neither " REPL_AGENT_CONFIG_PATH
                              " nor " REPL_SITE_CONFIG_PATH ": name one with --config"));
        return repl_verb_fail("doctor", &err);
    }
    for (size_t i = 0; i < count; i++)
        ended &= report_make(&reports[i]);
    if (doctor_json)
        print_json(reports, count);
    else
        print_reports(reports, count);
    int code = exit_of(reports, count);
    if (!ended) { /* what a thread still uses is not taken away from it */
        fflush(stdout);
        _exit(code);
    }
    for (size_t i = 0; i < count; i++)
        repl_findings_fini(&reports[i].findings);
    return code;
}

static const struct repl_option doctor_options[] = {
    {"json", NULL, REPL_OPTION_FLAG, &doctor_json,
     "Prints JSON instead of lines; docs/formats/doctor.md explains it."},
    {"config", "FILE", REPL_OPTION_TEXT, &doctor_config_path,
     "The configuration of an agent or a site; " REPL_AGENT_CONFIG_PATH
     " and " REPL_SITE_CONFIG_PATH ", those that are there, if not given."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_doctor = {
    .name = "doctor",
    .synopsis = "[--json] [--config FILE]",
    .summary = "Checks whether this host or site can do its work.",
    .description =
        "Looks at what the configuration names: the kernel and what it allows (tracking, io_uring, "
        "locked memory), the clock, the key, each volume and how its points are cut, the room for "
        "spool or store, the site over TLS, and the service that runs here. Each finding is "
        "\"ok\", "
        "\"note\", \"warning\" or \"failed\", with what to do next. Run it as root. Nothing is "
        "changed, the service need not run, and a check that gets no answer is given up after 8 "
        "seconds.\n"
        "\n"
        "The exit code is 0 if all is well or noted, 1 if there is a warning. If something failed "
        "it is that of the first failure: 2 what does not answer or has no room, 3 what "
        "another program holds, 4 what is missing or damaged, 5 what is refused (as a key that "
        "others may read, or a site with another key), 64 a configuration that is wrong, 70 "
        "what else the machine failed in.",
    .options = doctor_options,
    .run = doctor_run,
};
