/*
 * The client of object storage against a service in this process that checks
 * every signature, and fails as it is told to.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake/fake_s3.h"
#include "loop/loop.h"
#include "store/s3_client.h"
#include "unit/temporary.h"

#define MS INT64_C(1000000)

static const struct s3_limits quick = {.connect_ms = 2000,
                                       .stall_s = 1,
                                       .copy_stall_s = 2,
                                       .attempts = 4,
                                       .attempts_ms = 4000,
                                       .short_total_ms = 1500,
                                       .pause_first_ms = 5,
                                       .pause_max_ms = 20};

struct fixture {
    struct fake_s3 *fake;
    struct s3_client *client;
    struct repl_error err;
    struct temporary temporary;
};

static void assert_code(const struct fixture *f, repl_result result, enum repl_code code)
{
    if (result.code != code)
        print_error("%s where %s was expected: %s\n", repl_code_name(result.code),
                    repl_code_name(code), f->err.text);
    assert_int_equal(result.code, code);
}

static void assert_says(const struct fixture *f, const char *words)
{
    if (strstr(f->err.text, words) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", f->err.text, words);
    assert_null(strstr(f->err.text, FAKE_S3_SECRET));
}

static void client_open_with(struct fixture *f, const struct s3_limits *limits,
                             const char *location, const char *endpoint, const char *key_id,
                             const char *secret)
{
    struct s3_settings settings;
    const struct repl_s3_options options = {.endpoint = endpoint};
    setenv("AWS_ACCESS_KEY_ID", key_id, 1);
    setenv("AWS_SECRET_ACCESS_KEY", secret, 1);
    s3_client_free(f->client);
    f->client = NULL;
    assert_code(f, s3_settings_load(location, &options, &settings, &f->err), REPL_OK);
    assert_code(f, s3_client_new(&settings, limits, &f->client, &f->err), REPL_OK);
}

static void client_open(struct fixture *f, const char *location, const char *endpoint,
                        const char *key_id, const char *secret)
{
    client_open_with(f, &quick, location, endpoint, key_id, secret);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->fake = fake_s3_start();
    if (f->fake == NULL || temporary_make(&f->temporary) != 0)
        return -1;
    client_open(f, "s3://bucket/a@b/c", fake_s3_endpoint(f->fake), FAKE_S3_KEY_ID, FAKE_S3_SECRET);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    fake_s3_release(f->fake);
    s3_client_free(f->client);
    fake_s3_stop(f->fake);
    temporary_remove(&f->temporary);
    free(f);
    return 0;
}

static struct repl_digest digest_of(const void *data, size_t size)
{
    struct repl_sha256 *sha;
    struct repl_digest digest;
    assert_true(repl_ok(repl_sha256_new(&sha, NULL)));
    repl_sha256_begin(sha);
    repl_sha256_update(sha, data, size);
    repl_sha256_end(sha, &digest);
    repl_sha256_free(sha);
    return digest;
}

static repl_result put(struct fixture *f, const char *key, const char *text, bool if_absent,
                       bool *existed)
{
    struct repl_digest sha256 = digest_of(text, strlen(text));
    const struct s3_put what = {.key = key,
                                .data = text,
                                .fd = -1,
                                .size = strlen(text),
                                .sha256 = &sha256,
                                .if_absent = if_absent,
                                .note_sha256 = true};
    return s3_put(f->client, &what, existed, &f->err);
}

static void assert_object(struct fixture *f, const char *key, const char *text)
{
    size_t size = 0;
    char *data = fake_s3_get(f->fake, key, &size);
    assert_non_null(data);
    assert_string_equal(data, text);
    assert_int_equal(size, strlen(text));
    free(data);
}

/* --- calls ----------------------------------------------------------------------------------- */

static void objects_are_written_and_read(void **state)
{
    struct fixture *f = *state;
    struct repl_buffer all = {0};
    struct s3_head head;
    char bytes[8] = "";
    bool existed = true;
    assert_code(f, put(f, "x/y", "0123456789", true, &existed), REPL_OK);
    assert_false(existed);
    assert_object(f, "a@b/c/x/y", "0123456789");
    assert_code(f, put(f, "x/y", "else", true, &existed), REPL_OK);
    assert_true(existed);
    assert_object(f, "a@b/c/x/y", "0123456789");
    assert_code(f, s3_get(f->client, "x/y", 3, bytes, 4, &f->err), REPL_OK);
    assert_string_equal(bytes, "3456");
    assert_code(f, s3_get_all(f->client, "x/y", 10, &all, &f->err), REPL_OK);
    assert_int_equal(all.size, 10);
    assert_memory_equal(all.data, "0123456789", 10);
    assert_code(f, s3_get_all(f->client, "x/y", 9, &all, &f->err), REPL_E_CORRUPT);
    assert_code(f, s3_get(f->client, "x/y", 8, bytes, 4, &f->err), REPL_E_CORRUPT);
    assert_code(f, s3_get(f->client, "x/y", 10, bytes, 4, &f->err), REPL_E_CORRUPT);
    struct repl_digest sha256 = digest_of("0123456789", 10);
    assert_code(f, s3_head(f->client, "x/y", &head, &f->err), REPL_OK);
    assert_int_equal(head.size, 10);
    assert_true(head.has_sha256 && repl_digest_equal(&head.sha256, &sha256));
    assert_code(f, s3_copy(f->client, "x/y", "x/z +=%", &f->err), REPL_OK);
    assert_object(f, "a@b/c/x/z +=%", "0123456789");
    assert_code(f, s3_delete(f->client, "x/y", NULL, &f->err), REPL_OK);
    assert_code(f, s3_delete(f->client, "x/y", NULL, &f->err), REPL_OK);
    assert_code(f, s3_get(f->client, "x/y", 0, bytes, 4, &f->err), REPL_E_MISSING);
    assert_code(f, s3_get_all(f->client, "x/y", 10, &all, &f->err), REPL_E_MISSING);
    assert_code(f, s3_head(f->client, "x/y", &head, &f->err), REPL_E_MISSING);
    assert_code(f, s3_copy(f->client, "x/y", "x/q", &f->err), REPL_E_MISSING);
    assert_code(f, put(f, "empty", "", false, NULL), REPL_OK);
    assert_object(f, "a@b/c/empty", "");
    repl_buffer_fini(&all);
}

/* As a service answers that has sent its 200 before it knew. */
static void an_error_behind_blanks(void **state)
{
    static const char text[] = " \n \n<?xml version=\"1.0\"?><Error><Code>SlowDown</Code></Error>";
    struct s3_error_text out;
    (void)state;
    s3_error_parse(text, sizeof text - 1, &out);
    assert_string_equal(out.code, "SlowDown");
    s3_error_parse(" \n", 2, &out);
    assert_string_equal(out.code, "");
}

static void a_file_is_sent(void **state)
{
    struct fixture *f = *state;
    static char bytes[5u << 20];
    size_t size = 0;
    struct s3_limits patient = quick;
    patient.stall_s = 20; /* a service that hashes it on a busy machine is no service that hangs */
    patient.attempts_ms = 60000;
    client_open_with(f, &patient, "s3://bucket/a@b/c", fake_s3_endpoint(f->fake), FAKE_S3_KEY_ID,
                     FAKE_S3_SECRET);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 31 + i / 509);
    int fd = memfd_create("body", MFD_CLOEXEC);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    struct repl_digest sha256 = digest_of(bytes, sizeof bytes);
    struct s3_put what = {.key = "file", .fd = fd, .size = sizeof bytes, .sha256 = &sha256};
    assert_code(f, s3_put(f->client, &what, NULL, &f->err), REPL_OK);
    char *data = fake_s3_get(f->fake, "a@b/c/file", &size);
    assert_int_equal(size, sizeof bytes);
    assert_memory_equal(data, bytes, size);
    free(data);
    /* cut off in the middle, it is sent again from its begin */
    fake_s3_remove(f->fake, "a@b/c/file");
    fake_s3_fault(f->fake,
                  &(struct fake_s3_fault){.kind = FAKE_S3_CUT_UPLOAD, .method = "PUT", .count = 2});
    assert_code(f, s3_put(f->client, &what, NULL, &f->err), REPL_OK);
    assert_true(fake_s3_exists(f->fake, "a@b/c/file"));
    /* what is not what its hash says is not taken */
    what.sha256 = &(struct repl_digest){{1}};
    what.key = "other";
    assert_code(f, s3_put(f->client, &what, NULL, &f->err), REPL_E_RETRY);
    assert_says(f, "XAmzContentSHA256Mismatch");
    assert_false(fake_s3_exists(f->fake, "a@b/c/other"));
    close(fd);
}

static repl_result note(void *context, const char *key, uint64_t size, bool is_prefix,
                        struct repl_error *err)
{
    char *all = context;
    (void)err;
    sprintf(all + strlen(all), "%s:%d%s ", key, (int)size, is_prefix ? "p" : "");
    return REPL_SUCCESS;
}

static repl_result refuse(void *context, const char *key, uint64_t size, bool is_prefix,
                          struct repl_error *err)
{
    (void)context, (void)size, (void)is_prefix;
    return repl_fail(err, REPL_E_FORK, "not %s", key);
}

static void objects_are_listed(void **state)
{
    struct fixture *f = *state;
    static const char *const keys[] = {"l/1", "l/2", "l/3/a", "l/3/b", "l/4", "m/1"};
    char key[64], all[256] = "";
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        snprintf(key, sizeof key, "a@b/c/%s", keys[i]);
        fake_s3_put(f->fake, key, "xyz", 3);
    }
    for (unsigned page = 0; page < 3; page++) {
        fake_s3_switch(f->fake, &(struct fake_s3_switches){.page_size = page});
        all[0] = '\0';
        assert_code(f, s3_list(f->client, "l/", false, note, all, &f->err), REPL_OK);
        assert_string_equal(all, "l/1:3 l/2:3 l/3/a:3 l/3/b:3 l/4:3 ");
        all[0] = '\0';
        assert_code(f, s3_list(f->client, "l/", true, note, all, &f->err), REPL_OK);
        assert_string_equal(all, "l/1:3 l/2:3 l/3/:0p l/4:3 ");
    }
    all[0] = '\0';
    assert_code(f, s3_list(f->client, "nothing/", true, note, all, &f->err), REPL_OK);
    assert_string_equal(all, "");
    assert_code(f, s3_list(f->client, "", true, refuse, NULL, &f->err), REPL_E_FORK);
}

static void the_bucket_may_be_in_the_host(void **state)
{
    struct fixture *f = *state;
    struct s3_settings settings;
    char endpoint[64], all[64] = "", bytes[4] = "";
    snprintf(endpoint, sizeof endpoint, "http://localhost%s",
             strrchr(fake_s3_endpoint(f->fake), ':'));
    const struct repl_s3_options options = {.endpoint = endpoint, .host_style = true};
    s3_client_free(f->client);
    f->client = NULL;
    static char token[4000]; /* which is signed as well */
    memset(token, '+', sizeof token - 1);
    setenv("AWS_SESSION_TOKEN", token, 1);
    assert_code(f, s3_settings_load("s3://bucket/p", &options, &settings, &f->err), REPL_OK);
    unsetenv("AWS_SESSION_TOKEN");
    assert_code(f, s3_client_new(&settings, &quick, &f->client, &f->err), REPL_OK);
    assert_code(f, put(f, "x", "abc", true, NULL), REPL_OK);
    assert_object(f, "p/x", "abc");
    assert_code(f, s3_get(f->client, "x", 0, bytes, 3, &f->err), REPL_OK);
    assert_string_equal(bytes, "abc");
    assert_code(f, s3_list(f->client, "", true, note, all, &f->err), REPL_OK);
    assert_string_equal(all, "x:3 ");
    assert_int_equal(fake_s3_requests(f->fake, NULL, "/bucket"), 0);
}

/* --- what passes ----------------------------------------------------------------------------- */

static void what_passes_is_tried_again(void **state)
{
    struct fixture *f = *state;
    static const struct fake_s3_fault faults[] = {
        {.kind = FAKE_S3_STATUS, .status = 500, .code = "InternalError", .count = 3},
        {.kind = FAKE_S3_STATUS, .status = 503, .code = "SlowDown", .count = 3},
        {.kind = FAKE_S3_STATUS, .status = 429, .code = "TooManyRequests", .count = 3},
        {.kind = FAKE_S3_STATUS, .status = 409, .code = "ConditionalRequestConflict", .count = 3},
        {.kind = FAKE_S3_STATUS, .status = 400, .code = "RequestTimeout", .count = 3},
        {.kind = FAKE_S3_CUT_UPLOAD, .count = 3},
    };
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
        bool existed = true;
        fake_s3_fault(f->fake, &faults[i]);
        assert_code(f, put(f, "x", "abc", true, &existed), REPL_OK);
        assert_false(existed);
        struct fake_s3_fault longer = faults[i];
        longer.count = 4;
        fake_s3_remove(f->fake, "a@b/c/x");
        fake_s3_fault(f->fake, &longer);
        assert_code(f, put(f, "x", "abc", true, &existed), REPL_E_RETRY);
        assert_says(f, "bucket at http://127.0.0.1:");
        fake_s3_release(f->fake);
    }
}

static void an_answer_that_is_cut_is_asked_for_again(void **state)
{
    struct fixture *f = *state;
    char bytes[11] = "";
    fake_s3_put(f->fake, "a@b/c/x", "0123456789", 10);
    fake_s3_fault(f->fake, &(struct fake_s3_fault){.kind = FAKE_S3_CUT_ANSWER, .count = 2});
    assert_code(f, s3_get(f->client, "x", 0, bytes, 10, &f->err), REPL_OK);
    assert_string_equal(bytes, "0123456789");
    struct repl_buffer all = {0};
    fake_s3_fault(f->fake, &(struct fake_s3_fault){.kind = FAKE_S3_CUT_ANSWER, .count = 1});
    assert_code(f, s3_get_all(f->client, "x", 10, &all, &f->err), REPL_OK);
    assert_int_equal(all.size, 10);
    assert_memory_equal(all.data, "0123456789", 10);
    repl_buffer_fini(&all);
}

static void what_was_done_without_an_answer_existed(void **state)
{
    struct fixture *f = *state;
    bool existed = false;
    fake_s3_fault(f->fake,
                  &(struct fake_s3_fault){.kind = FAKE_S3_CUT_DONE, .method = "PUT", .count = 1});
    assert_code(f, put(f, "x", "abc", true, &existed), REPL_OK);
    assert_true(existed);
    assert_object(f, "a@b/c/x", "abc");
}

static void a_service_that_hangs_is_given_up(void **state)
{
    struct fixture *f = *state;
    char bytes[4];
    int64_t begun_ns = repl_now_mono_ns();
    fake_s3_put(f->fake, "a@b/c/x", "0123456789", 10);
    fake_s3_fault(f->fake, &(struct fake_s3_fault){.kind = FAKE_S3_HANG, .count = 9});
    assert_code(f, s3_get(f->client, "x", 0, bytes, 4, &f->err), REPL_E_RETRY);
    assert_says(f, "does not answer");
    assert_true(repl_now_mono_ns() - begun_ns < 15000 * MS);
    /* a deletion has a limit for all of it */
    begun_ns = repl_now_mono_ns();
    assert_code(f, s3_delete(f->client, "x", NULL, &f->err), REPL_E_RETRY);
    assert_true(repl_now_mono_ns() - begun_ns < 3500 * MS);
}

static void nobody_listens(void **state)
{
    struct fixture *f = *state;
    char bytes[4];
    client_open(f, "s3://bucket", "http://127.0.0.1:1", FAKE_S3_KEY_ID, FAKE_S3_SECRET);
    assert_code(f, s3_get(f->client, "x", 0, bytes, 4, &f->err), REPL_E_RETRY);
    assert_says(f, "http://127.0.0.1:1");
    assert_says(f, "check that the service runs");
}

static void *stop_soon(void *client)
{
    nanosleep(&(struct timespec){.tv_nsec = 100 * MS}, NULL);
    s3_client_stop(client);
    return NULL;
}

static void a_call_in_progress_is_stopped(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;
    char bytes[4];
    fake_s3_put(f->fake, "a@b/c/x", "0123456789", 10);
    fake_s3_fault(f->fake, &(struct fake_s3_fault){.kind = FAKE_S3_HANG, .count = 9});
    int64_t begun_ns = repl_now_mono_ns();
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, f->client), 0);
    assert_code(f, s3_get(f->client, "x", 0, bytes, 4, &f->err), REPL_E_RETRY);
    assert_true(repl_now_mono_ns() - begun_ns < 1800 * MS);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_says(f, "stopped");
    fake_s3_release(f->fake);
    unsigned before = fake_s3_requests(f->fake, NULL, NULL);
    assert_code(f, s3_get(f->client, "x", 0, bytes, 4, &f->err), REPL_E_RETRY);
    assert_code(f, s3_client_sleep(f->client, 10000, &f->err), REPL_E_RETRY);
    assert_int_equal(fake_s3_requests(f->fake, NULL, NULL), before);
}

/* --- what does not --------------------------------------------------------------------------- */

static void errors_say_what_to_do(void **state)
{
    struct fixture *f = *state;
    const char *endpoint = fake_s3_endpoint(f->fake);
    client_open(f, "s3://bucket", endpoint, FAKE_S3_KEY_ID, "another");
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_REFUSED);
    assert_says(f, "the secret does not belong to the access key (from the environment");
    assert_null(strstr(f->err.text, "another"));
    client_open(f, "s3://bucket", endpoint, "AKIDNOBODY", FAKE_S3_SECRET);
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_REFUSED);
    assert_says(f, "does not know the access key (from the environment");
    client_open(f, "s3://no-such-bucket", endpoint, FAKE_S3_KEY_ID, FAKE_S3_SECRET);
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_USAGE);
    assert_says(f, "make it first");
    client_open(f, "s3://bucket", endpoint, FAKE_S3_KEY_ID, FAKE_S3_SECRET);
    assert_int_equal(fake_s3_requests(f->fake, "PUT", NULL), 3); /* none of it is tried again */

    fake_s3_switch(f->fake, &(struct fake_s3_switches){.skew_s = 7200});
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_RETRY);
    assert_says(f, "the clocks are too far apart: here it is ");
    fake_s3_switch(f->fake, &(struct fake_s3_switches){.region = "eu-west-9"});
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_USAGE);
    assert_says(f, "the bucket is in region eu-west-9, not in us-east-1");
    fake_s3_switch(f->fake, &(struct fake_s3_switches){.redirect = true});
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_USAGE);
    fake_s3_switch(f->fake, &(struct fake_s3_switches){.quota = 2});
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_NOSPACE);
    assert_says(f, "raise the quota");
    fake_s3_switch(f->fake, &(struct fake_s3_switches){0});
    fake_s3_fault(f->fake, &(struct fake_s3_fault){
                               .kind = FAKE_S3_STATUS, .status = 507, .code = "", .count = 1});
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_NOSPACE);
    fake_s3_fault(f->fake,
                  &(struct fake_s3_fault){
                      .kind = FAKE_S3_STATUS, .status = 403, .code = "AccessDenied", .count = 1});
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_REFUSED);
    assert_says(f, "do not allow it (403 AccessDenied)");
    assert_int_equal(fake_s3_requests(f->fake, "PUT", NULL), 9);
}

static void credentials_write(const char *path, const char *key_id, const char *secret)
{
    umask(077);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", key_id,
            secret);
    assert_int_equal(fclose(file), 0);
}

/* While the site runs: what the service refuses is looked for in the file once more. */
static void credentials_are_replaced(void **state)
{
    struct fixture *f = *state;
    struct s3_settings settings;
    char path[sizeof f->temporary.path + 16];
    const struct repl_s3_options options = {.endpoint = fake_s3_endpoint(f->fake),
                                            .credentials = path};
    snprintf(path, sizeof path, "%s/credentials", f->temporary.path);
    credentials_write(path, FAKE_S3_KEY_ID, "superseded");
    s3_client_free(f->client);
    f->client = NULL;
    assert_code(f, s3_settings_load("s3://bucket/a@b/c", &options, &settings, &f->err), REPL_OK);
    assert_code(f, s3_client_new(&settings, &quick, &f->client, &f->err), REPL_OK);
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_REFUSED);
    assert_says(f, "does not belong to the access key");
    assert_null(strstr(f->err.text, "superseded"));
    assert_int_equal(fake_s3_requests(f->fake, "PUT", NULL), 1); /* there are no others yet */
    credentials_write(path, FAKE_S3_KEY_ID, FAKE_S3_SECRET);
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_OK);
    assert_int_equal(fake_s3_requests(f->fake, "PUT", NULL), 3);
    assert_object(f, "a@b/c/x", "abc");
    assert_code(f, put(f, "y", "abc", false, NULL), REPL_OK);
    assert_int_equal(fake_s3_requests(f->fake, "PUT", NULL), 4);
    assert_int_equal(unlink(path), 0);
    fake_s3_fault(f->fake,
                  &(struct fake_s3_fault){
                      .kind = FAKE_S3_STATUS, .status = 400, .code = "ExpiredToken", .count = 1});
    assert_code(f, put(f, "z", "abc", false, NULL), REPL_E_REFUSED);
    assert_says(f, "is not valid any more: renew it");
    assert_code(f, put(f, "z", "abc", false, NULL), REPL_OK);
}

static void a_service_without_ranges_is_refused(void **state)
{
    struct fixture *f = *state;
    char bytes[10];
    fake_s3_put(f->fake, "a@b/c/x", "0123456789", 10);
    fake_s3_switch(f->fake, &(struct fake_s3_switches){.ignore_ranges = true});
    assert_code(f, s3_get(f->client, "x", 0, bytes, 10, &f->err), REPL_E_IO);
    assert_code(f, s3_get(f->client, "x", 5, bytes, 5, &f->err), REPL_E_CORRUPT);
}

static void plain_text_is_no_tls(void **state)
{
    struct fixture *f = *state;
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "https%s", fake_s3_endpoint(f->fake) + 4);
    client_open(f, "s3://bucket", endpoint, FAKE_S3_KEY_ID, FAKE_S3_SECRET);
    assert_code(f, put(f, "x", "abc", false, NULL), REPL_E_RETRY);
    assert_int_equal(fake_s3_requests(f->fake, NULL, NULL), 0);
}

/* --- threads --------------------------------------------------------------------------------- */

#define THREADS 6

struct worker {
    struct fixture *f;
    unsigned number;
    bool failed;
};

static void *work(void *context)
{
    struct worker *worker = context;
    struct repl_error err;
    for (unsigned i = 0; i < 20 && !worker->failed; i++) {
        char key[32], text[32], back[32] = "";
        snprintf(key, sizeof key, "t/%u/%u", worker->number, i);
        size_t size = (size_t)snprintf(text, sizeof text, "%u of %u", i, worker->number);
        struct repl_digest sha256 = digest_of(text, size);
        const struct s3_put what = {
            .key = key, .data = text, .fd = -1, .size = size, .sha256 = &sha256};
        worker->failed = !repl_ok(s3_put(worker->f->client, &what, NULL, &err)) ||
                         !repl_ok(s3_get(worker->f->client, key, 0, back, size, &err)) ||
                         strcmp(text, back) != 0;
    }
    return NULL;
}

static void several_threads_share_it(void **state)
{
    struct fixture *f = *state;
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    fake_s3_fault(f->fake,
                  &(struct fake_s3_fault){
                      .kind = FAKE_S3_STATUS, .status = 503, .code = "SlowDown", .count = 4});
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.f = f, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_false(workers[i].failed);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_behind_blanks),
        TEST(objects_are_written_and_read),
        TEST(a_file_is_sent),
        TEST(objects_are_listed),
        TEST(the_bucket_may_be_in_the_host),
        TEST(what_passes_is_tried_again),
        TEST(an_answer_that_is_cut_is_asked_for_again),
        TEST(what_was_done_without_an_answer_existed),
        TEST(a_service_that_hangs_is_given_up),
        TEST(nobody_listens),
        TEST(a_call_in_progress_is_stopped),
        TEST(errors_say_what_to_do),
        TEST(credentials_are_replaced),
        TEST(a_service_without_ranges_is_refused),
        TEST(plain_text_is_no_tls),
        TEST(several_threads_share_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
