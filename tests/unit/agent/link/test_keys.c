/*
 * Key files: made whole or not at all, read only when nobody else can, and told
 * apart by a fingerprint that other tools compute alike.
 */
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
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "link/keys.h"

static char directory[32];
static char path[64];

static int setup(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/repl-test-keys-XXXXXX");
    if (mkdtemp(directory) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/a.key", directory);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(directory); /* fails where a temporary file was left behind */
}

static void write_file(const char *text, size_t size, mode_t mode)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    fclose(file);
    assert_int_equal(chmod(path, mode), 0);
}

static void generate(struct repl_digest *fingerprint)
{
    struct repl_error err = {0};
    if (!repl_ok(repl_key_generate(path, "host-1", fingerprint, &err)))
        fail_msg("%s", err.text);
}

/* The file's text, NUL-terminated, of its PEM blocks. */
static char *load(struct repl_digest *fingerprint)
{
    char *pem = NULL;
    struct repl_error err = {0};
    if (!repl_ok(repl_key_load(path, &pem, fingerprint, &err)))
        fail_msg("%s", err.text);
    return pem;
}

static void release(char *pem)
{
    repl_key_wipe(pem);
    assert_int_equal(pem[0], 0);
    free(pem);
}

static void expect_load_error(enum repl_code code, const char *format)
{
    char message[REPL_ERROR_TEXT_SIZE];
    const char *rest = strstr(format, "PATH");
    snprintf(message, sizeof message, "%.*s%s%s", (int)(rest - format), format, path, rest + 4);
    char *pem = (char *)(uintptr_t)1;
    struct repl_digest fingerprint;
    struct repl_error err = {0};
    assert_int_equal(repl_key_load(path, &pem, &fingerprint, &err).code, code);
    assert_null(pem);
    if (strncmp(err.text, message, strlen(message)) != 0)
        fail_msg("\"%s\" does not start with \"%s\"", err.text, message);
}

static void test_made_and_loaded(void **state)
{
    (void)state;
    struct repl_digest made, loaded;
    generate(&made);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    char *pem = load(&loaded);
    assert_memory_equal(made.bytes, loaded.bytes, sizeof made.bytes);
    assert_int_equal(strncmp(pem, "-----BEGIN PRIVATE KEY-----\n", 28), 0);
    assert_non_null(strstr(pem, "-----END PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\n"));
    release(pem);
}

static void test_umask_does_not_matter(void **state)
{
    (void)state;
    struct repl_digest fingerprint;
    mode_t before = umask(0);
    generate(&fingerprint);
    umask(before);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
}

static void test_keys_differ(void **state)
{
    (void)state;
    struct repl_digest first, second;
    generate(&first);
    unlink(path);
    generate(&second);
    assert_memory_not_equal(first.bytes, second.bytes, sizeof first.bytes);
}

static void test_certificate(void **state)
{
    (void)state;
    struct repl_digest fingerprint;
    generate(&fingerprint);
    char *pem = load(&fingerprint);
    BIO *text = BIO_new_mem_buf(pem, -1);
    X509 *certificate = PEM_read_bio_X509(text, NULL, NULL, NULL);
    assert_non_null(certificate);
    EVP_PKEY *key = X509_get0_pubkey(certificate);
    assert_true(EVP_PKEY_is_a(key, "ED25519"));
    assert_int_equal(X509_verify(certificate, key), 1);
    char name[64];
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, name, 64);
    assert_string_equal(name, "host-1");

    /* Any clock finds it valid. */
    struct tm date;
    assert_int_equal(ASN1_TIME_to_tm(X509_get0_notBefore(certificate), &date), 1);
    assert_int_equal(date.tm_year, 70);
    assert_int_equal(ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &date), 1);
    assert_int_equal(date.tm_year, 9999 - 1900);

    /* The fingerprint is the SHA-256 of the certificate's SubjectPublicKeyInfo. */
    unsigned char *der = NULL, digest[32];
    int size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
    assert_true(size > 0);
    assert_int_equal(EVP_Digest(der, (size_t)size, digest, NULL, EVP_sha256(), NULL), 1);
    assert_memory_equal(digest, fingerprint.bytes, sizeof digest);
    OPENSSL_free(der);
    X509_free(certificate);
    BIO_free(text);
    release(pem);
}

static void test_never_overwrites(void **state)
{
    (void)state;
    write_file("precious", 8, 0600);
    struct repl_digest fingerprint;
    struct repl_error err = {0};
    assert_int_equal(repl_key_generate(path, "h", &fingerprint, &err).code, REPL_E_REFUSED);
    char message[REPL_ERROR_TEXT_SIZE];
    snprintf(message, sizeof message,
             "%s exists already and is not overwritten: choose another name, or see its "
             "fingerprint with \"repl keygen --show %s\"",
             path, path);
    assert_string_equal(err.text, message);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_size, 8);
}

static void test_not_made(void **state)
{
    (void)state;
    struct repl_digest fingerprint;
    struct repl_error err = {0};
    assert_int_equal(repl_key_generate("/nonexistent/k", "h", &fingerprint, &err).code, REPL_E_IO);
    assert_string_equal(err.text, "cannot open the directory /nonexistent/ (make it with \"install "
                                  "-d -m 700 /nonexistent/\" if it is missing): No such file or "
                                  "directory");
    assert_int_equal(repl_key_generate("/tmp/", "h", &fingerprint, &err).code, REPL_E_USAGE);
    assert_string_equal(err.text, "\"/tmp/\" does not end in a file's name: add one");
    assert_int_equal(repl_key_generate("", "h", &fingerprint, &err).code, REPL_E_USAGE);
    /* A name that no certificate can carry. */
    char name[80];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_int_equal(repl_key_generate(path, name, &fingerprint, &err).code, REPL_E_INTERNAL);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_permissions(void **state)
{
    (void)state;
    struct repl_digest fingerprint;
    generate(&fingerprint);
    static const mode_t bad[] = {0640, 0604, 0620, 0601, 0666};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(chmod(path, bad[i]), 0);
        expect_load_error(REPL_E_REFUSED, "PATH is open to others (mode ");
    }
    assert_int_equal(chmod(path, 0400), 0);
    release(load(&fingerprint));
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 12345, 12345), 0);
        expect_load_error(REPL_E_REFUSED,
                          "PATH belongs to another user (uid 12345): run \"chown 0");
    }
}

static void test_not_a_key_file(void **state)
{
    (void)state;
    expect_load_error(
        REPL_E_USAGE,
        "cannot open the key file PATH (make one with \"repl keygen\"): No such file");
    write_file("", 0, 0600);
    expect_load_error(REPL_E_CORRUPT, "PATH holds no private key in PEM without a password: bring");
    write_file("-----BEGIN PRIVATE KEY-----\n", 28, 0600);
    expect_load_error(REPL_E_CORRUPT, "PATH holds no private key in PEM without a password: bring");
    write_file("a\0b", 3, 0600);
    expect_load_error(REPL_E_CORRUPT, "PATH holds NUL bytes");
    assert_int_equal(truncate(path, 1 << 20), 0);
    expect_load_error(REPL_E_CORRUPT,
                      "PATH has 1048576 bytes, which no key file has: name another");
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_load_error(REPL_E_REFUSED, "PATH is not a regular file: name a key file");
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    expect_load_error(REPL_E_REFUSED, "PATH is not a regular file: name a key file");
    rmdir(path);
}

/* A file that lost its end, and one whose halves belong to different keys. */
static void test_damaged(void **state)
{
    (void)state;
    struct repl_digest fingerprint;
    generate(&fingerprint);
    char *first = load(&fingerprint);
    unlink(path);
    generate(&fingerprint);
    char *second = load(&fingerprint);
    char *certificate = strstr(second, "-----BEGIN CERTIFICATE");
    assert_non_null(certificate);

    write_file(second, (size_t)(certificate - second), 0600);
    expect_load_error(REPL_E_CORRUPT, "PATH holds no certificate in PEM: bring");
    write_file(second, strlen(second) - 40, 0600);
    expect_load_error(REPL_E_CORRUPT, "PATH holds no certificate in PEM: bring");

    size_t half = (size_t)(strstr(first, "-----BEGIN CERTIFICATE") - first);
    assert_int_equal(half, certificate - second);
    memcpy(second, first, half);
    write_file(second, strlen(second), 0600);
    expect_load_error(REPL_E_CORRUPT,
                      "PATH holds a certificate of another key than its own: bring");
    release(first);
    release(second);
}

/* What still reads is the same pair: a letter of the armour, or of the certificate's name. */
static void test_every_flip(void **state)
{
    (void)state;
    struct repl_digest fingerprint, found;
    struct repl_error err;
    unsigned refused = 0, same = 0;
    char *pem, *other;
    generate(&fingerprint);
    pem = load(&fingerprint);
    size_t size = strlen(pem);
    for (size_t bit = 0; bit < 8 * size + size; bit++) {
        bool flip = bit < 8 * size; /* else it is cut off */
        size_t at = flip ? bit / 8 : bit - 8 * size;
        pem[at] ^= (char)(flip ? 1u << bit % 8 : 0);
        write_file(pem, flip ? size : at, 0600);
        pem[at] ^= (char)(flip ? 1u << bit % 8 : 0);
        err.text[0] = '\0';
        if (repl_ok(repl_key_load(path, &other, &found, &err))) {
            assert_memory_equal(&found, &fingerprint, sizeof found);
            release(other);
            same++;
        } else {
            assert_int_equal(err.code, REPL_E_CORRUPT);
            if (strstr(err.text, path) == NULL || strstr(err.text, "repl keygen") == NULL)
                fail_msg("%s", err.text);
            refused++;
        }
    }
    printf("key file of %zu bytes: %u refused, %u the same pair\n", size, refused, same);
    assert_true(refused > 0);
    release(pem);
}

static void write_other_key(EVP_PKEY *key, const EVP_CIPHER *cipher)
{
    BIO *text = BIO_new(BIO_s_mem());
    unsigned char password[] = "secret";
    assert_int_equal(PEM_write_bio_PrivateKey(text, key, cipher, cipher != NULL ? password : NULL,
                                              cipher != NULL ? 6 : 0, NULL, NULL),
                     1);
    char *data = NULL;
    long size = BIO_get_mem_data(text, &data);
    write_file(data, (size_t)size, 0600);
    BIO_free(text);
    EVP_PKEY_free(key);
}

/* An encrypted one must not make a daemon ask the terminal. */
static void test_other_keys(void **state)
{
    (void)state;
    write_other_key(EVP_EC_gen("P-256"), NULL);
    expect_load_error(REPL_E_CORRUPT, "PATH holds a key of another kind than Ed25519: bring");
    write_other_key(EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), EVP_aes_256_cbc());
    expect_load_error(REPL_E_CORRUPT, "PATH holds no private key in PEM without a password: bring");
}

static void test_fingerprints(void **state)
{
    (void)state;
    struct repl_digest in, out;
    for (unsigned i = 0; i < sizeof in.bytes; i++)
        in.bytes[i] = (uint8_t)(i * 9 + 3);
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    repl_fingerprint_format(&in, text);
    assert_string_equal(text,
                        "SHA256:030c151e273039424b545d666f78818a939ca5aeb7c0c9d2dbe4edf6ff08111a");
    assert_true(repl_ok(repl_fingerprint_parse(text, &out, NULL)));
    assert_memory_equal(in.bytes, out.bytes, sizeof in.bytes);

    static const char *const bad[] = {
        "",
        "SHA256:",
        "030c151e273039424b545d666f78818a939ca5aeb7c0c9d2dbe4edf6ff08111a",
        "SHA256:030c151e273039424b545d666f78818a939ca5aeb7c0c9d2dbe4edf6ff08111",
        "SHA256:030c151e273039424b545d666f78818a939ca5aeb7c0c9d2dbe4edf6ff08111aa",
        "SHA256:030c151e273039424b545d666f78818a939ca5aeb7c0c9d2dbe4edf6ff08111g",
        "sha256:030c151e273039424b545d666f78818a939ca5aeb7c0c9d2dbe4edf6ff08111a",
        " SHA256:030c151e273039424b545d666f78818a939ca5aeb7c0c9d2dbe4edf6ff08111a",
        "SHA256:jZae727K08KaOmKSgOaGzww/XVqGr/PKEgIMkjrcbJI=",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(repl_fingerprint_parse(bad[i], &out, NULL).code, REPL_E_USAGE);
    struct repl_error err;
    assert_false(repl_ok(repl_fingerprint_parse("x", &out, &err)));
    assert_string_equal(err.text, "\"x\" is not a fingerprint: write SHA256: and 64 hex digits, as "
                                  "\"repl keygen --show\" prints it beside the key");
}

int main(void)
{
    repl_key_wipe(NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_made_and_loaded, setup, teardown),
        cmocka_unit_test_setup_teardown(test_umask_does_not_matter, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys_differ, setup, teardown),
        cmocka_unit_test_setup_teardown(test_certificate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_never_overwrites, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_made, setup, teardown),
        cmocka_unit_test_setup_teardown(test_permissions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_a_key_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_flip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_keys, setup, teardown),
        cmocka_unit_test(test_fingerprints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
