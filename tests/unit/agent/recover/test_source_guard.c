/*
 * Whether a target is what this host protects, and what is done where nobody
 * knows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "recover/source_guard.h"
#include "unit/temporary.h"

static void test_unreadable(void **state)
{
    (void)state;
    struct temporary temporary;
    struct repl_error err;
    char path[300];
    char name[] = "/dev/some";
    struct repl_target device = {.path = name, .is_device = true, .exists = true};
    struct repl_target file = {.path = name};
    assert_int_equal(temporary_make(&temporary), 0);
    snprintf(path, sizeof path, "%s/agent.conf", temporary.path);

    assert_true(repl_ok(repl_source_guard(&device, path, false, &err)));
    assert_false(repl_ok(repl_source_guard(&device, path, true, &err)));
    FILE *out = fopen(path, "we");
    assert_non_null(out);
    fputs("[volume data\nnonsense\n", out);
    fclose(out);
    assert_int_equal(repl_source_guard(&device, path, false, &err).code, REPL_E_REFUSED);
    assert_non_null(strstr(err.text, "--onto-source"));
    assert_non_null(strstr(err.text, "mend the configuration"));
    assert_true(repl_ok(repl_source_guard(&file, path, false, &err)));
    assert_false(repl_ok(repl_source_guard(&file, path, true, &err)));
    temporary_remove(&temporary);
}

static void config_write(const char *path, const char *text)
{
    FILE *out = fopen(path, "we");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static void test_replica(void **state)
{
    (void)state;
    struct temporary temporary;
    struct repl_error err;
    char path[300], replica[300], image[300], other[300], text[800];
    assert_int_equal(temporary_make(&temporary), 0);
    snprintf(path, sizeof path, "%s/site.conf", temporary.path);
    snprintf(replica, sizeof replica, "%s/replica", temporary.path);
    snprintf(other, sizeof other, "%s/other", temporary.path);
    snprintf(image, sizeof image, "%s/store", temporary.path);
    assert_int_equal(mkdir(image, 0700), 0);
    snprintf(image, sizeof image, "%s/store/replica.img", temporary.path);
    config_write(replica, "");
    config_write(other, "");
    config_write(image, "");
    struct repl_target target;
    assert_true(repl_ok(repl_target_examine(replica, &target, &err)));
    assert_true(repl_ok(repl_replica_guard(&target, path, &err))); /* no site */
    snprintf(text, sizeof text,
             "[site]\nstore = %s/store\n[volume one]\nreplica = image\n"
             "[volume two]\nreplica = %s\n",
             temporary.path, replica);
    config_write(path, text);
    assert_true(repl_config_is_of_site(path));
    assert_int_equal(repl_replica_guard(&target, path, &err).code, REPL_E_REFUSED);
    assert_non_null(strstr(err.text, "the replica of volume two"));
    repl_target_fini(&target);
    assert_true(repl_ok(repl_target_examine(image, &target, &err)));
    assert_int_equal(repl_replica_guard(&target, path, &err).code, REPL_E_REFUSED);
    assert_non_null(strstr(err.text, "in the store"));
    repl_target_fini(&target);
    assert_true(repl_ok(repl_target_examine(other, &target, &err)));
    assert_true(repl_ok(repl_replica_guard(&target, path, &err)));
    config_write(path, "[volume data\n");
    assert_true(repl_ok(repl_replica_guard(&target, path, &err))); /* a file: said only */
    assert_false(repl_config_is_of_site(path));
    target.is_device = true;
    assert_int_equal(repl_replica_guard(&target, path, &err).code, REPL_E_REFUSED);
    assert_non_null(strstr(err.text, "mend the configuration"));
    repl_target_fini(&target);
    temporary_remove(&temporary);
}

static void test_directory(void **state)
{
    (void)state;
    struct temporary temporary;
    struct repl_error err;
    char store[400], below[500], config[400], text[600];
    const char *path = store;
    assert_int_equal(temporary_make(&temporary), 0);
    snprintf(store, sizeof store, "%s/kept", temporary.path);
    snprintf(below, sizeof below, "%s/new", store);
    assert_int_equal(mkdir(store, 0700), 0);
    const char *const wrong[] = {store, below, temporary.path, "/"};
    for (unsigned i = 0; i < 4; i++) {
        repl_result result = repl_directory_guard(wrong[i], &path, 1, "kept", "not here", &err);
        assert_int_equal(result.code, REPL_E_REFUSED);
        assert_non_null(strstr(err.text, "not here"));
    }
    snprintf(below, sizeof below, "%s/kept-too", temporary.path);
    assert_true(repl_ok(repl_directory_guard(below, &path, 1, "kept", "not here", &err)));
    path = "/no/such/thing";
    assert_true(repl_ok(repl_directory_guard("/", &path, 1, "kept", "not here", &err)));

    snprintf(config, sizeof config, "%s/site.conf", temporary.path);
    assert_true(repl_ok(repl_directory_site_guard(store, config, &err)));
    snprintf(text, sizeof text, "[site]\nlisten = 127.0.0.1:7420\nkey = /k\nstore = %s\n", store);
    config_write(config, text);
    assert_int_equal(repl_directory_site_guard(store, config, &err).code, REPL_E_REFUSED);
    assert_true(repl_ok(repl_directory_site_guard(below, config, &err)));
    temporary_remove(&temporary);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unreadable),
                                       cmocka_unit_test(test_replica),
                                       cmocka_unit_test(test_directory)};
    return cmocka_run_group_tests_name("source_guard", tests, NULL, NULL);
}
