/*
 * Key files.
 *
 * A new one is written under a temporary name in the same directory, made
 * durable, and only then linked to its own name. link() fails where the name is
 * taken, so no key is ever overwritten, and a crash leaves either no key or the
 * whole of it; at worst a ".repl-key-*.tmp" of mode 0600 stays behind.
 *
 * The certificate is an envelope: TLS wants one, and what counts in it is the
 * public key. Its dates are from 1970 to the end of 9999, so that a clock that
 * is wrong, or a key that is old, never takes a replica away.
 *
 * The private key's bytes pass through a memory BIO of libcrypto that cleanses
 * what it frees, and through the caller's buffer, which repl_key_wipe cleanses.
 */
#include "link/keys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>

#include "base/hash.h"

#define FINGERPRINT_PREFIX "SHA256:"
_Static_assert(sizeof FINGERPRINT_PREFIX - 1 + REPL_DIGEST_TEXT_SIZE == REPL_FINGERPRINT_TEXT_SIZE,
               "a fingerprint is the prefix, the digits and a NUL");

/* Several times what a key file has. */
#define KEY_FILE_SIZE_MAX 65536

static repl_result crypto_fail(struct repl_error *err, enum repl_code code, const char *what)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    repl_result result =
        repl_fail(err, code, "%s: %s", what, reason != NULL ? reason : "libcrypto gave no reason");
    ERR_clear_error();
    return result;
}

/* --- fingerprints ---------------------------------------------------------------------------- */

void repl_fingerprint_format(const struct repl_digest *fingerprint,
                             char text[REPL_FINGERPRINT_TEXT_SIZE])
{
    memcpy(text, FINGERPRINT_PREFIX, sizeof FINGERPRINT_PREFIX);
    repl_digest_format(fingerprint, text + sizeof FINGERPRINT_PREFIX - 1);
}

repl_result repl_fingerprint_parse(const char *text, struct repl_digest *out,
                                   struct repl_error *err)
{
    size_t prefix = sizeof FINGERPRINT_PREFIX - 1;
    if (strncmp(text, FINGERPRINT_PREFIX, prefix) != 0 || !repl_digest_parse(text + prefix, out))
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is not a fingerprint: write SHA256: and 64 hex digits, as \"repl "
                         "keygen --show\" prints it beside the key",
                         text);
    return REPL_SUCCESS;
}

/* SHA-256 of the DER SubjectPublicKeyInfo. */
static repl_result key_fingerprint(EVP_PKEY *key, struct repl_digest *out, struct repl_error *err)
{
    unsigned char *der = NULL;
    int size = i2d_PUBKEY(key, &der);
    if (size <= 0)
        return crypto_fail(err, REPL_E_INTERNAL, "cannot encode the public key");
    bool hashed = EVP_Q_digest(NULL, "SHA256", NULL, der, (size_t)size, out->bytes, NULL) == 1;
    OPENSSL_free(der);
    return hashed ? REPL_SUCCESS : crypto_fail(err, REPL_E_INTERNAL, "cannot hash the public key");
}

/* --- making a key ---------------------------------------------------------------------------- */

static bool certificate_fill(X509 *certificate, EVP_PKEY *key, const char *name)
{
    unsigned char serial[16];
    if (RAND_bytes(serial, sizeof serial) != 1)
        return false;
    serial[0] = (serial[0] & 0x7f) | 0x40; /* positive, and never of less than 16 bytes */
    BIGNUM *number = BN_bin2bn(serial, sizeof serial, NULL);
    bool numbered =
        number != NULL && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;
    BN_free(number);

    X509_NAME *subject = X509_get_subject_name(certificate);
    return numbered && X509_set_version(certificate, X509_VERSION_3) == 1 &&
           ASN1_TIME_set_string_X509(X509_getm_notBefore(certificate), "19700101000000Z") == 1 &&
           ASN1_TIME_set_string_X509(X509_getm_notAfter(certificate), "99991231235959Z") == 1 &&
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1,
                                      -1, 0) == 1 &&
           X509_set_issuer_name(certificate, subject) == 1 &&
           X509_set_pubkey(certificate, key) == 1 && X509_sign(certificate, key, NULL) > 0;
}

/* Private key and certificate, in this order, into *pem, which cleanses itself when freed. */
static repl_result make_pem(EVP_PKEY *key, const char *name, BIO **pem, struct repl_error *err)
{
    X509 *certificate = X509_new();
    *pem = BIO_new(BIO_s_secmem());
    bool made = certificate != NULL && *pem != NULL && certificate_fill(certificate, key, name) &&
                PEM_write_bio_PrivateKey(*pem, key, NULL, NULL, 0, NULL, NULL) == 1 &&
                PEM_write_bio_X509(*pem, certificate) == 1;
    X509_free(certificate);
    if (made)
        return REPL_SUCCESS;
    BIO_free(*pem);
    *pem = NULL;
    return crypto_fail(err, REPL_E_INTERNAL, "cannot make a certificate for the key");
}

static repl_result write_durably(int fd, const char *data, size_t size, const char *path,
                                 struct repl_error *err)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                                   "cannot write the key for %s", path);
        data += written;
        size -= (size_t)written;
    }
    if (fsync(fd) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make the key for %s durable", path);
    return REPL_SUCCESS;
}

static repl_result link_new(int directory, const char *temporary, const char *base,
                            const char *path, struct repl_error *err)
{
    if (linkat(directory, temporary, directory, base, 0) != 0) {
        if (errno == EEXIST)
            return repl_fail(
                err, REPL_E_REFUSED,
                "%s exists already and is not overwritten: choose another name, or see "
                "its fingerprint with \"repl keygen --show %s\"",
                path, path);
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make %s", path);
    }
    /* EINVAL: a filesystem on which directories cannot be synced, and need not be. */
    if (fsync(directory) != 0 && errno != EINVAL) {
        int sync_errno = errno;
        unlinkat(directory, base, 0);
        return repl_fail_errno(err, REPL_E_IO, sync_errno, "cannot make %s durable", path);
    }
    return REPL_SUCCESS;
}

static repl_result create_in(int directory, const char *base, const char *path, const char *data,
                             size_t size, struct repl_error *err)
{
    uint64_t number;
    char temporary[48];
    if (RAND_bytes((unsigned char *)&number, sizeof number) != 1)
        return crypto_fail(err, REPL_E_INTERNAL, "cannot get random bytes");
    snprintf(temporary, sizeof temporary, ".repl-key-%016llx.tmp", (unsigned long long)number);

    int fd =
        openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make a file beside %s", path);
    repl_result result = write_durably(fd, data, size, path, err);
    close(fd);
    if (repl_ok(result))
        result = link_new(directory, temporary, base, path, err);
    unlinkat(directory, temporary, 0);
    return result;
}

/* A new file of mode 0600 with exactly this content, or none. */
static repl_result create_file(const char *path, const char *data, size_t size,
                               struct repl_error *err)
{
    const char *slash = strrchr(path, '/');
    const char *base = slash == NULL ? path : slash + 1;
    if (base[0] == '\0')
        return repl_fail(err, REPL_E_USAGE, "\"%s\" does not end in a file's name: add one", path);
    char *parent = slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
    if (parent == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    int directory = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    repl_result result =
        directory < 0 ? repl_fail_errno(err, REPL_E_IO, errno,
                                        "cannot open the directory %s (make it with \"install -d "
                                        "-m 700 %s\" if it is missing)",
                                        parent, parent)
                      : create_in(directory, base, path, data, size, err);
    if (directory >= 0)
        close(directory);
    free(parent);
    return result;
}

repl_result repl_key_generate(const char *path, const char *name, struct repl_digest *fingerprint,
                              struct repl_error *err)
{
    EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    if (key == NULL)
        return crypto_fail(err, REPL_E_INTERNAL, "cannot make an Ed25519 key");
    BIO *pem = NULL;
    repl_result result = key_fingerprint(key, fingerprint, err);
    if (repl_ok(result))
        result = make_pem(key, name, &pem, err);
    EVP_PKEY_free(key);
    if (repl_ok(result)) {
        char *data = NULL;
        long size = BIO_get_mem_data(pem, &data);
        result = create_file(path, data, (size_t)size, err);
    }
    BIO_free(pem);
    return result;
}

/* --- reading one ----------------------------------------------------------------------------- */

/* libcrypto would ask the terminal for the password of an encrypted key. */
static int no_password(char *buffer, int size, int writing, void *context)
{
    (void)buffer;
    (void)size;
    (void)writing;
    (void)context;
    return -1;
}

static repl_result check_pair(EVP_PKEY *key, X509 *certificate, const char *path,
                              struct repl_digest *fingerprint, struct repl_error *err)
{
    const char *what = NULL;
    if (key == NULL)
        what = "holds no private key in PEM without a password";
    else if (!EVP_PKEY_is_a(key, "ED25519"))
        what = "holds a key of another kind than Ed25519";
    else if (certificate == NULL)
        what = "holds no certificate in PEM";
    else if (X509_check_private_key(certificate, key) != 1)
        what = "holds a certificate of another key than its own";
    ERR_clear_error();
    if (what != NULL)
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s %s: bring it back from a backup, or make a new one with \"repl "
                         "keygen\" and give its fingerprint to the other side",
                         path, what);
    return key_fingerprint(key, fingerprint, err);
}

static repl_result parse_pem(const char *pem, size_t size, const char *path,
                             struct repl_digest *fingerprint, struct repl_error *err)
{
    /* Each is read from the start: PEM readers skip what they do not look for. */
    BIO *key_text = BIO_new_mem_buf(pem, (int)size);
    BIO *certificate_text = BIO_new_mem_buf(pem, (int)size);
    if (key_text == NULL || certificate_text == NULL) {
        BIO_free(key_text);
        BIO_free(certificate_text);
        return crypto_fail(err, REPL_E_NOMEM, "cannot read a key");
    }
    EVP_PKEY *key = PEM_read_bio_PrivateKey(key_text, NULL, no_password, NULL);
    X509 *certificate = PEM_read_bio_X509(certificate_text, NULL, no_password, NULL);
    repl_result result = check_pair(key, certificate, path, fingerprint, err);
    X509_free(certificate);
    EVP_PKEY_free(key);
    BIO_free(certificate_text);
    BIO_free(key_text);
    return result;
}

/* Asked of the open file, so that what is checked is what is read. */
static repl_result check_permissions(int fd, const char *path, struct repl_error *err)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot examine %s", path);
    if (!S_ISREG(status.st_mode))
        return repl_fail(err, REPL_E_REFUSED, "%s is not a regular file: name a key file", path);
    if ((status.st_mode & 077) != 0)
        return repl_fail(
            err, REPL_E_REFUSED,
            "%s is open to others (mode %04o): run \"chmod 600 %s\", and make a new key "
            "if somebody may have read it",
            path, (unsigned)(status.st_mode & 07777), path);
    if (status.st_uid != geteuid() && status.st_uid != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s belongs to another user (uid %u): run \"chown %u %s\", and make a new "
                         "key if that user may have read it",
                         path, (unsigned)status.st_uid, (unsigned)geteuid(), path);
    if (status.st_size > KEY_FILE_SIZE_MAX)
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s has %lld bytes, which no key file has: name another", path,
                         (long long)status.st_size);
    return REPL_SUCCESS;
}

/* Up to size bytes; *count says how many there were. */
static repl_result read_all(int fd, const char *path, char *buffer, size_t size, size_t *count,
                            struct repl_error *err)
{
    *count = 0;
    while (*count < size) {
        ssize_t got = read(fd, buffer + *count, size - *count);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return repl_fail_errno(err, REPL_E_IO, errno, "cannot read %s", path);
        if (got == 0)
            break;
        *count += (size_t)got;
    }
    return REPL_SUCCESS;
}

static repl_result load_from(int fd, const char *path, char *buffer,
                             struct repl_digest *fingerprint, struct repl_error *err)
{
    size_t count = 0;
    REPL_TRY(check_permissions(fd, path, err));
    REPL_TRY(read_all(fd, path, buffer, KEY_FILE_SIZE_MAX, &count, err));
    if (memchr(buffer, '\0', count) != NULL)
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s holds NUL bytes, as a file after a crash may: bring it back from a "
                         "backup, or make a new one with \"repl keygen\"",
                         path);
    return parse_pem(buffer, count, path, fingerprint, err);
}

repl_result repl_key_load(const char *path, char **pem, struct repl_digest *fingerprint,
                          struct repl_error *err)
{
    *pem = NULL;
    /* O_NONBLOCK: a FIFO in its place must not hang us before fstat can say what it is. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return repl_fail_errno(err, errno == ENOENT ? REPL_E_USAGE : REPL_E_IO, errno,
                               "cannot open the key file %s%s", path,
                               errno == ENOENT ? " (make one with \"repl keygen\")" : "");
    char *buffer = calloc(1, KEY_FILE_SIZE_MAX + 1);
    repl_result result = buffer == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory")
                                        : load_from(fd, path, buffer, fingerprint, err);
    close(fd);
    if (!repl_ok(result)) {
        if (buffer != NULL)
            OPENSSL_cleanse(buffer, KEY_FILE_SIZE_MAX);
        free(buffer);
        return result;
    }
    *pem = buffer;
    return REPL_SUCCESS;
}

void repl_key_wipe(char *pem)
{
    if (pem != NULL)
        OPENSSL_cleanse(pem, strlen(pem));
}
