/*
 * A check that does not end is given up and said to be, and takes nothing with it.
 */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "doctor/doctor_internal.h"

static sem_t go_on, ended;

static void hangs(const struct repl_config *config, const struct repl_config_volume *volume,
                  struct repl_findings *findings)
{
    (void)config, (void)findings;
    assert_string_equal(volume->name, "data");
    sem_wait(&go_on);
    sem_post(&ended);
}

static void ends(const struct repl_config *config, const struct repl_config_volume *volume,
                 struct repl_findings *findings)
{
    (void)config;
    repl_finding_add(findings, REPL_FINDING_OK, "volume", volume->name, NULL, "is there");
}

static void test_given_up(void **state)
{
    static const struct doctor_check check = {.name = "volume", .run = hangs, .stuck = "look"};
    char name[] = "data";
    const struct repl_config config = {0};
    const struct repl_config_volume volume = {.name = name};
    struct repl_findings findings = {0};
    (void)state;
    sem_init(&go_on, 0, 0);
    sem_init(&ended, 0, 0);
    assert_false(doctor_check_within(&check, 20, &config, &volume, &findings));
    assert_int_equal(findings.count, 1);
    assert_int_equal(findings.list[0].level, REPL_FINDING_FAILED);
    assert_int_equal(findings.list[0].code, REPL_E_RETRY);
    assert_string_equal(findings.list[0].subject, "data");
    assert_string_equal(findings.list[0].next, "look");
    repl_findings_fini(&findings);
    sem_post(&go_on);
    sem_wait(&ended);
}

static void test_in_time(void **state)
{
    static const struct doctor_check check = {.name = "volume", .run = ends, .stuck = "look"};
    char name[] = "data";
    const struct repl_config config = {0};
    const struct repl_config_volume volume = {.name = name};
    struct repl_findings findings = {0};
    (void)state;
    assert_true(doctor_check_within(&check, 60000, &config, &volume, &findings));
    assert_int_equal(findings.count, 1);
    assert_string_equal(findings.list[0].text, "is there");
    repl_findings_fini(&findings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_given_up),
        cmocka_unit_test(test_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
