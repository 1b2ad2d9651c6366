#include "doctor/judge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define GIB (UINT64_C(1) << 30)

/* The only finding there is; the list is empty then. */
static struct repl_finding only(struct repl_findings *findings)
{
    struct repl_finding finding;
    assert_int_equal(findings->count, 1);
    finding = findings->list[0];
    repl_findings_fini(findings);
    if (finding.level >= REPL_FINDING_WARNING)
        assert_string_not_equal(finding.next, "");
    return finding;
}

static void assert_only(struct repl_findings *findings, enum repl_finding_level level,
                        enum repl_code code, const char *text)
{
    struct repl_finding finding = only(findings);
    if (finding.level != level || finding.code != code || strstr(finding.text, text) == NULL)
        fail_msg("%s, %s: \"%s\" without \"%s\"", repl_finding_level_name(finding.level),
                 repl_code_name(finding.code), finding.text, text);
}

/* --- the host -------------------------------------------------------------------------------- */

static void test_kernels(void **state)
{
    static const struct {
        enum repl_role role;
        struct doctor_kernel kernel;
        enum repl_finding_level level;
        const char *text;
    } cases[] = {
        {REPL_ROLE_AGENT, {"6.1.0-25-amd64", true}, REPL_FINDING_OK, "6.1.0-25-amd64, with BTF"},
        {REPL_ROLE_AGENT, {"5.17.0", true}, REPL_FINDING_OK, "5.17"},
        {REPL_ROLE_AGENT, {"6.1.0", false}, REPL_FINDING_WARNING, "no BTF"},
        {REPL_ROLE_AGENT, {"5.15.0-91-generic", true}, REPL_FINDING_WARNING, "5.17"},
        {REPL_ROLE_SITE, {"5.15.0", false}, REPL_FINDING_OK, "5.15.0"},
        {REPL_ROLE_SITE, {"5.4.0", true}, REPL_FINDING_WARNING, "cannot be restored"},
        {REPL_ROLE_AGENT, {"", true}, REPL_FINDING_OK, "Linux"},
    };
    struct repl_findings findings = {0};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        repl_judge_kernel(&findings, cases[i].role, &cases[i].kernel);
        assert_only(&findings, cases[i].level, REPL_OK, cases[i].text);
    }
}

static void test_capabilities(void **state)
{
    struct repl_findings findings = {0};
    (void)state;
    repl_judge_capabilities(&findings, REPL_ROLE_AGENT, UINT64_MAX);
    assert_only(&findings, REPL_FINDING_OK, REPL_OK, "all capabilities");
    repl_judge_capabilities(&findings, REPL_ROLE_AGENT, UINT64_MAX ^ UINT64_C(1) << 39);
    assert_only(&findings, REPL_FINDING_WARNING, REPL_OK, "lacks CAP_BPF:");
    /* a site loads no programs */
    repl_judge_capabilities(&findings, REPL_ROLE_SITE, UINT64_MAX ^ UINT64_C(1) << 39);
    assert_only(&findings, REPL_FINDING_OK, REPL_OK, "all capabilities");
    repl_judge_capabilities(&findings, REPL_ROLE_SITE, 0);
    assert_only(&findings, REPL_FINDING_WARNING, REPL_OK, "CAP_SYS_ADMIN, CAP_FOWNER");
}

static void test_memlock(void **state)
{
    struct repl_findings findings = {0};
    (void)state;
    repl_judge_memlock(&findings, 8 << 20, true);
    assert_only(&findings, REPL_FINDING_OK, REPL_OK, "without a limit");
    repl_judge_memlock(&findings, UINT64_MAX, false);
    assert_only(&findings, REPL_FINDING_OK, REPL_OK, "without a limit");
    repl_judge_memlock(&findings, 8 << 20, false);
    assert_only(&findings, REPL_FINDING_WARNING, REPL_OK, "8.0 MiB");
    repl_judge_memlock(&findings, 64 << 20, false);
    assert_only(&findings, REPL_FINDING_OK, REPL_OK, "64.0 MiB");
}

static void test_clock(void **state)
{
    struct repl_findings findings = {0};
    (void)state;
    repl_judge_clock(&findings, &(struct doctor_clock){.known = false});
    assert_only(&findings, REPL_FINDING_NOTE, REPL_OK, "cannot be asked");
    repl_judge_clock(&findings, &(struct doctor_clock){.known = true});
    assert_only(&findings, REPL_FINDING_WARNING, REPL_OK, "nothing synchronises");
    repl_judge_clock(&findings, &(struct doctor_clock){true, true, 2000});
    assert_only(&findings, REPL_FINDING_OK, REPL_OK, "within 2 ms");
    repl_judge_clock(&findings, &(struct doctor_clock){true, true, 1500000});
    assert_only(&findings, REPL_FINDING_WARNING, REPL_OK, "off by 1500 ms");
}

/* --- room ------------------------------------------------------------------------------------ */

static void test_spool(void **state)
{
    struct repl_findings findings = {0};
    struct doctor_disk disk = {.path = "/var/lib/repl", .free_bytes = 20 * GIB};
    (void)state;
    repl_judge_spool(&findings, &disk, 10 * GIB);
    assert_only(&findings, REPL_FINDING_OK, REPL_OK, "20.0 GiB is free in /var/lib/repl");
    repl_judge_spool(&findings, &disk, 21 * GIB);
    assert_only(&findings, REPL_FINDING_WARNING, REPL_OK, "may grow to 21.0 GiB");
    disk.free_bytes = 1 << 20;
    repl_judge_spool(&findings, &disk, 10 * GIB);
    assert_only(&findings, REPL_FINDING_FAILED, REPL_E_NOSPACE, "1.0 MiB is free");
    disk = (struct doctor_disk){.path = "/x", .free_bytes = 20 * GIB, .read_only = true};
    repl_judge_spool(&findings, &disk, GIB);
    assert_only(&findings, REPL_FINDING_FAILED, REPL_E_IO, "/x is mounted read-only");
}

static void test_store(void **state)
{
    struct repl_findings findings = {0};
    struct doctor_disk disk = {.path = "/store", .free_bytes = 50 * GIB, .size_bytes = 100 * GIB};
    (void)state;
    repl_judge_store(&findings, &disk, GIB);
    assert_only(&findings, REPL_FINDING_OK, REPL_OK, "50.0 GiB is free in /store");
    repl_judge_store(&findings, &disk, 41 * GIB);
    assert_only(&findings, REPL_FINDING_WARNING, REPL_OK, "less than a tenth");
    repl_judge_store(&findings, &disk, 50 * GIB);
    assert_only(&findings, REPL_FINDING_FAILED, REPL_E_NOSPACE, "no segment is taken in");
    disk.read_only = true;
    repl_judge_store(&findings, &disk, GIB);
    assert_only(&findings, REPL_FINDING_FAILED, REPL_E_IO, "read-only");
}

/* --- how points are cut ---------------------------------------------------------------------- */

static void test_quiesce(void **state)
{
    static const struct repl_error not_mounted = {.code = REPL_E_REFUSED, .text = "not mounted"};
    static const struct {
        struct doctor_quiesce facts;
        enum repl_finding_level level;
        enum repl_code code;
        const char *text;
    } cases[] = {
        {{REPL_QUIESCE_WINDOW, false, "", &not_mounted}, REPL_FINDING_OK, REPL_OK, "in a window"},
        {{REPL_QUIESCE_WINDOW_ELSE_FILES, false, "ext4", NULL},
         REPL_FINDING_OK,
         REPL_OK,
         "else per file"},
        {{REPL_QUIESCE_FREEZE, true, "ext4", NULL}, REPL_FINDING_OK, REPL_OK, "under a freeze"},
        {{REPL_QUIESCE_FREEZE, false, "ext4", NULL}, REPL_FINDING_FAILED, REPL_E_RETRY, "guard"},
        {{REPL_QUIESCE_WINDOW_ELSE_FREEZE, false, "ext4", NULL},
         REPL_FINDING_WARNING,
         REPL_OK,
         "guard"},
        {{REPL_QUIESCE_COMMAND, false, "ext4", NULL}, REPL_FINDING_FAILED, REPL_E_RETRY, "guard"},
        {{REPL_QUIESCE_COMMAND, true, "", &not_mounted}, REPL_FINDING_OK, REPL_OK, "commands"},
        {{REPL_QUIESCE_FREEZE, true, "", &not_mounted},
         REPL_FINDING_FAILED,
         REPL_E_REFUSED,
         "not mounted"},
        {{REPL_QUIESCE_WINDOW_ELSE_FREEZE, true, "", &not_mounted},
         REPL_FINDING_WARNING,
         REPL_OK,
         "not mounted"},
        {{REPL_QUIESCE_SNAPSHOT, false, "btrfs", NULL}, REPL_FINDING_OK, REPL_OK, "snapshot"},
        {{REPL_QUIESCE_SNAPSHOT, false, "xfs", NULL},
         REPL_FINDING_FAILED,
         REPL_E_REFUSED,
         "which xfs cannot make"},
        {{REPL_QUIESCE_WINDOW_ELSE_SNAPSHOT, false, "xfs", NULL},
         REPL_FINDING_WARNING,
         REPL_OK,
         "which xfs cannot make"},
    };
    char name[] = "data";
    const struct repl_config_volume volume = {.name = name};
    struct repl_findings findings = {0};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        repl_judge_quiesce(&findings, &volume, &cases[i].facts);
        assert_only(&findings, cases[i].level, cases[i].code, cases[i].text);
    }
}

/* --- the service ----------------------------------------------------------------------------- */

static const struct repl_finding *find(const struct repl_findings *findings, const char *check,
                                       const char *volume)
{
    for (size_t i = 0; i < findings->count; i++)
        if (strcmp(findings->list[i].check, check) == 0 &&
            strcmp(findings->list[i].subject, volume) == 0)
            return &findings->list[i];
    fail_msg("nothing on %s of \"%s\"", check, volume);
    return NULL;
}

static void test_status_of_an_agent(void **state)
{
    struct repl_volume_status volumes[3] = {
        {.name = "well", .clock_known = true, .clock_offset_ms = -5, .rpo_ms = 4000},
        {.name = "ill",
         .state = REPL_STATE_DEGRADED,
         .clock_known = true,
         .clock_offset_ms = -20000,
         .cause = "a cause",
         .remedy = "a remedy",
         .untracked = "a reason"},
        {.name = "late", .rpo_ms = 4000, .lag_ms = 60000},
    };
    struct repl_status status = {.version = "0.1.0", .volume_count = 3, .volumes = volumes};
    struct repl_findings findings = {0};
    (void)state;
    repl_judge_status(&findings, &status, "0.1.0");
    assert_int_equal(find(&findings, "service", "")->level, REPL_FINDING_OK);
    assert_int_equal(find(&findings, "volume", "well")->level, REPL_FINDING_OK);
    const struct repl_finding *clock = find(&findings, "clock", "");
    assert_int_equal(clock->level, REPL_FINDING_WARNING);
    assert_non_null(strstr(clock->text, "20000 ms behind"));
    const struct repl_finding *ill = find(&findings, "volume", "ill");
    assert_int_equal(ill->level, REPL_FINDING_WARNING);
    assert_non_null(strstr(ill->text, "degraded: a cause"));
    assert_string_equal(ill->next, "a remedy");
    assert_non_null(strstr(find(&findings, "tracking", "ill")->text, "a reason"));
    assert_non_null(strstr(find(&findings, "volume", "late")->text, "60 s old"));
    repl_findings_fini(&findings);
    status.volume_count = 0;
    repl_judge_status(&findings, &status, "0.2.0");
    assert_only(&findings, REPL_FINDING_WARNING, REPL_OK, "it runs repl 0.1.0");
}

static void test_status_of_a_site(void **state)
{
    struct repl_volume_status volume = {.name = "data",
                                        .damaged = "segment 12.0",
                                        .replica_problem = "no room",
                                        .index_problem = "no memory",
                                        .trouble = "encryption",
                                        .trouble_seq = 7};
    struct repl_status status = {.site = true,
                                 .version = "0.1.0",
                                 .clock_doubt = "a doubt",
                                 .store_warning = "a lock",
                                 .stored_bytes = 5,
                                 .space_limit_bytes = 5,
                                 .volume_count = 1,
                                 .volumes = &volume};
    struct repl_findings findings = {0};
    (void)state;
    repl_judge_status(&findings, &status, "0.1.0");
    assert_int_equal(find(&findings, "retention", "")->level, REPL_FINDING_WARNING);
    assert_int_equal(find(&findings, "store", "")->level, REPL_FINDING_WARNING);
    assert_int_equal(find(&findings, "space", "")->level, REPL_FINDING_WARNING);
    assert_int_equal(find(&findings, "damage", "data")->level, REPL_FINDING_WARNING);
    assert_non_null(strstr(find(&findings, "replica", "data")->text, "no room"));
    assert_non_null(strstr(find(&findings, "index", "data")->text, "no memory"));
    assert_non_null(strstr(find(&findings, "trouble", "data")->text, "encryption from point 7"));
    repl_findings_fini(&findings);
}

static void test_version_of_the_site(void **state)
{
    struct repl_findings findings = {0};
    (void)state;
    repl_judge_peer_version(&findings, "0.1.0", "0.1.0");
    assert_only(&findings, REPL_FINDING_OK, REPL_OK, "the site runs repl 0.1.0");
    repl_judge_peer_version(&findings, "0.3.0", "0.1.0");
    assert_only(&findings, REPL_FINDING_NOTE, REPL_OK, "repl 0.3.0, this host 0.1.0");
    repl_judge_peer_version(&findings, "", "0.1.0");
    assert_only(&findings, REPL_FINDING_NOTE, REPL_OK, "does not say");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_memlock),
        cmocka_unit_test(test_clock),
        cmocka_unit_test(test_spool),
        cmocka_unit_test(test_store),
        cmocka_unit_test(test_quiesce),
        cmocka_unit_test(test_status_of_an_agent),
        cmocka_unit_test(test_status_of_a_site),
        cmocka_unit_test(test_version_of_the_site),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
