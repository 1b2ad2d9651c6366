/*
 * What a location, options and the environment come to; the file of credentials.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/s3_settings.h"
#include "unit/temporary.h"

static void assert_says(const struct repl_error *err, const char *words)
{
    if (strstr(err->text, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err->text, words);
}

static int environment_clear(void **state)
{
    static const char *const names[] = {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL",
                                        "AWS_REGION",          "AWS_DEFAULT_REGION",
                                        "AWS_ACCESS_KEY_ID",   "AWS_SECRET_ACCESS_KEY",
                                        "AWS_SESSION_TOKEN",   "AWS_PROFILE",
                                        "AWS_CA_BUNDLE",       "AWS_SHARED_CREDENTIALS_FILE"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unsetenv(names[i]);
    setenv("HOME", "/nonexistent", 1);
    return 0;
}

static void locations(void **state)
{
    static const struct {
        const char *location, *bucket, *prefix; /* bucket NULL: refused */
    } cases[] = {
        {"s3://abc", "abc", ""},
        {"s3://abc/", "abc", ""},
        {"s3://a.b-9/x", "a.b-9", "x/"},
        {"s3://abc/x/y.z/", "abc", "x/y.z/"},
        {"s3://", NULL, NULL},
        {"s3:///x", NULL, NULL},
        {"s3://ab", NULL, NULL},
        {"s3://Abc", NULL, NULL},
        {"s3://a_c", NULL, NULL},
        {"s3://-abc", NULL, NULL},
        {"s3://abc-", NULL, NULL},
        {"s3://a..c", NULL, NULL},
        {"s3://abc//", NULL, NULL},
        {"s3://abc//x", NULL, NULL},
        {"s3://abc/x//y", NULL, NULL},
        {"s3://abc/./y", NULL, NULL},
        {"s3://abc/x/..", NULL, NULL},
        {"s3://abc/x y", NULL, NULL},
        {"s3://abc/x\ty", NULL, NULL},
        {"s3://abc/x\xc3\xa4", NULL, NULL},
        {"/abc", NULL, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct repl_error err;
        char *bucket, *prefix;
        repl_result result = s3_location_parse(cases[i].location, &bucket, &prefix, &err);
        if (cases[i].bucket == NULL) {
            if (result.code != REPL_E_USAGE)
                fail_msg("%s is taken", cases[i].location);
            assert_null(bucket);
            assert_says(&err, "write s3://BUCKET/PREFIX");
            continue;
        }
        assert_true(repl_ok(result));
        assert_string_equal(bucket, cases[i].bucket);
        assert_string_equal(prefix, cases[i].prefix);
        free(bucket);
        free(prefix);
    }
}

static void long_names_are_refused(void **state)
{
    char location[1024] = "s3://";
    char *bucket, *prefix;
    (void)state;
    memset(location + 5, 'b', 64);
    assert_int_equal(s3_location_parse(location, &bucket, &prefix, NULL).code, REPL_E_USAGE);
    strcpy(location, "s3://abc/");
    memset(location + 9, 'p', 513);
    location[9 + 513] = '\0';
    assert_int_equal(s3_location_parse(location, &bucket, &prefix, NULL).code, REPL_E_USAGE);
    location[9 + 512] = '\0';
    assert_int_equal(s3_location_parse(location, &bucket, &prefix, NULL).code, REPL_OK);
    free(bucket);
    free(prefix);
}

static void the_environment_counts_where_no_option_does(void **state)
{
    struct s3_settings s;
    struct repl_error err;
    (void)state;
    setenv("AWS_ACCESS_KEY_ID", "KEY", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "SECRET", 1);
    assert_int_equal(s3_settings_load("s3://abc/x", NULL, &s, &err).code, REPL_OK);
    assert_string_equal(s.endpoint, "https://s3.us-east-1.amazonaws.com");
    assert_string_equal(s.region, "us-east-1");
    assert_string_equal(s.prefix, "x/");
    assert_string_equal(s.credentials.key_id, "KEY");
    assert_string_equal(s.credentials.secret, "SECRET");
    assert_null(s.credentials.token);
    assert_null(s.ca);
    s3_settings_fini(&s);

    setenv("AWS_ENDPOINT_URL", "http://one:1/", 1);
    setenv("AWS_DEFAULT_REGION", "r-1", 1);
    setenv("AWS_CA_BUNDLE", "/ca", 1);
    setenv("AWS_SESSION_TOKEN", "TOKEN", 1);
    assert_int_equal(s3_settings_load("s3://abc", NULL, &s, &err).code, REPL_OK);
    assert_string_equal(s.endpoint, "http://one:1");
    assert_string_equal(s.region, "r-1");
    assert_string_equal(s.ca, "/ca");
    assert_string_equal(s.credentials.token, "TOKEN");
    s3_settings_fini(&s);

    setenv("AWS_ENDPOINT_URL_S3", "https://two", 1);
    setenv("AWS_REGION", "r-2", 1);
    const struct repl_s3_options options = {.region = "r-3", .ca = "/mine", .host_style = true};
    assert_int_equal(s3_settings_load("s3://abc", &options, &s, &err).code, REPL_OK);
    assert_string_equal(s.endpoint, "https://two");
    assert_string_equal(s.region, "r-3");
    assert_string_equal(s.ca, "/mine");
    assert_true(s.host_style);
    s3_settings_fini(&s);

    static const char *const bad[] = {"ftp://x",    "https://",    "x",           "https://x/y",
                                      "https://x?", "https://u@x", "https://x y", "https://x//"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        setenv("AWS_ENDPOINT_URL_S3", bad[i], 1);
        assert_int_equal(s3_settings_load("s3://abc", NULL, &s, &err).code, REPL_E_USAGE);
        assert_says(&err, "AWS_ENDPOINT_URL");
        assert_null(s.bucket);
    }
    setenv("AWS_ENDPOINT_URL_S3", "", 1); /* as if it were not set */
    setenv("AWS_REGION", "US/EAST", 1);
    assert_int_equal(s3_settings_load("s3://abc", NULL, &s, &err).code, REPL_E_USAGE);
    unsetenv("AWS_REGION");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    assert_int_equal(s3_settings_load("s3://abc", NULL, &s, &err).code, REPL_E_USAGE);
    assert_says(&err, "AWS_SECRET_ACCESS_KEY is not");
}

/* --- the file -------------------------------------------------------------------------------- */

static void file_make(char *path, const struct temporary *t, const char *text, mode_t mode)
{
    snprintf(path, 300, "%s/credentials", t->path);
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void a_file_has_credentials(void **state)
{
    static const char text[] = "# a comment\n[default]\naws_access_key_id = ONE\n"
                               "aws_secret_access_key=S/1+=\nregion = x\n; more\n\n"
                               "[two]\r\n aws_access_key_id = nested\r\n"
                               "aws_access_key_id\t=\tTWO\r\naws_secret_access_key = S2\r\n"
                               "aws_session_token = T2";
    struct temporary t;
    struct s3_settings s;
    struct repl_error err;
    char path[300];
    (void)state;
    assert_int_equal(temporary_make(&t), 0);
    file_make(path, &t, text, 0600);
    struct repl_s3_options options = {.credentials = path};
    /* a file that is named counts for more than the environment */
    setenv("AWS_ACCESS_KEY_ID", "KEY", 1);
    assert_int_equal(s3_settings_load("s3://abc", &options, &s, &err).code, REPL_OK);
    assert_string_equal(s.credentials.key_id, "ONE");
    assert_string_equal(s.credentials.secret, "S/1+=");
    assert_null(s.credentials.token);
    s3_settings_fini(&s);
    options.profile = "two";
    assert_int_equal(s3_settings_load("s3://abc", &options, &s, &err).code, REPL_OK);
    assert_string_equal(s.credentials.key_id, "TWO");
    assert_string_equal(s.credentials.token, "T2");
    assert_non_null(strstr(s.credentials_from, "section [two]"));
    s3_settings_fini(&s);
    unsetenv("AWS_ACCESS_KEY_ID");
    setenv("AWS_SHARED_CREDENTIALS_FILE", path, 1);
    setenv("AWS_PROFILE", "two", 1);
    assert_int_equal(s3_settings_load("s3://abc", NULL, &s, &err).code, REPL_OK);
    assert_string_equal(s.credentials.key_id, "TWO");
    s3_settings_fini(&s);

    file_make(path, &t, text, 0640);
    assert_int_equal(s3_settings_load("s3://abc", NULL, &s, &err).code, REPL_E_REFUSED);
    assert_says(&err, "chmod 600");
    assert_says(&err, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(s3_settings_load("s3://abc", NULL, &s, &err).code, REPL_E_USAGE);
    assert_says(&err, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them to ");
    temporary_remove(&t);
}

static void bad_files_are_refused(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "has no section [default]"},
        {"[other]\naws_access_key_id = A\n", "has no section [default]"},
        {"[default]\naws_access_key_id = A\n", "has no aws_secret_access_key"},
        {"[default]\naws_secret_access_key = A\n", "has no aws_access_key_id"},
        {"[default\n", "f, line 1: a section ends with ]"},
        {"\n[default]\nnothing\n", "f, line 3: write [PROFILE]"},
        {"[default]\naws_access_key_id =\n", "f, line 2: aws_access_key_id has 1 to"},
        {"[default]\naws_access_key_id = a b\n", "f, line 2: aws_access_key_id has a blank"},
        {"[default]\naws_access_key_id = a\x01\n", "f, line 2: aws_access_key_id has a blank"},
        {"[default]\naws_access_key_id = a\naws_access_key_id = b\n", "is there twice"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct s3_credentials credentials;
        struct repl_error err;
        repl_result result = s3_credentials_parse(cases[i].text, strlen(cases[i].text), "f",
                                                  "default", &credentials, &err);
        assert_int_equal(result.code, REPL_E_USAGE);
        assert_says(&err, cases[i].words);
        assert_null(credentials.key_id);
    }
}

#define TEST(name) cmocka_unit_test_setup(name, environment_clear)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(locations),
        TEST(long_names_are_refused),
        TEST(the_environment_counts_where_no_option_does),
        TEST(a_file_has_credentials),
        TEST(bad_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
