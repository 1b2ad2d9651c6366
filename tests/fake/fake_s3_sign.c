/*
 * AWS Signature Version 4, computed from the request as it came.
 */
#include <ctype.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake/fake_s3.h"
#include "fake/fake_s3_internal.h"

#define CANONICAL_MAX 16384u
#define SKEW_MAX_S    900

void hex_of(const unsigned char *bytes, size_t size, char *out)
{
    for (size_t i = 0; i < size; i++)
        sprintf(out + 2 * i, "%02x", bytes[i]);
    out[2 * size] = '\0';
}

static const char *header(const struct signed_request *r, const char *name)
{
    const char *value = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
    return value != NULL ? value : "";
}

/* The value of NAME= in an Authorization header, up to the comma. */
static bool field_take(const char *text, const char *name, char *out, size_t out_size)
{
    const char *at = strstr(text, name);
    if (at == NULL)
        return false;
    at += strlen(name);
    size_t size = strcspn(at, ", ");
    if (size >= out_size)
        return false;
    memcpy(out, at, size);
    out[size] = '\0';
    return true;
}

static int text_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void query_append(char *out, const char *query)
{
    char copy[4096], *parts[64];
    size_t count = 0;
    snprintf(copy, sizeof copy, "%s", query);
    for (char *save = NULL, *part = strtok_r(copy, "&", &save); part != NULL && count < 64;
         part = strtok_r(NULL, "&", &save))
        parts[count++] = part;
    qsort(parts, count, sizeof parts[0], text_order);
    for (size_t i = 0; i < count; i++)
        sprintf(out + strlen(out), "%s%s%s", i > 0 ? "&" : "", parts[i],
                strchr(parts[i], '=') == NULL ? "=" : "");
}

static void headers_append(const struct signed_request *r, char *out, const char *names)
{
    char copy[1024];
    snprintf(copy, sizeof copy, "%s", names);
    for (char *save = NULL, *name = strtok_r(copy, ";", &save); name != NULL;
         name = strtok_r(NULL, ";", &save)) {
        const char *value = header(r, name);
        size_t size = strlen(value);
        while (size > 0 && value[size - 1] == ' ')
            size--;
        sprintf(out + strlen(out), "%s:%.*s\n", name, (int)size, value);
    }
}

static void canonical_hash(const struct signed_request *r, const char *signed_headers,
                           char hash[65])
{
    static _Thread_local char text[CANONICAL_MAX];
    unsigned char digest[32];
    const char *question = strchr(r->uri, '?');
    size_t path = question != NULL ? (size_t)(question - r->uri) : strlen(r->uri);
    snprintf(text, sizeof text, "%s\n%.*s\n", r->method, (int)path, r->uri);
    query_append(text, question != NULL ? question + 1 : "");
    strcat(text, "\n");
    headers_append(r, text, signed_headers);
    sprintf(text + strlen(text), "\n%s\n%s", signed_headers, header(r, "x-amz-content-sha256"));
    SHA256((const unsigned char *)text, strlen(text), digest);
    hex_of(digest, sizeof digest, hash);
}

static void hmac(unsigned char key[32], size_t key_size, const char *text)
{
    unsigned char out[32];
    unsigned size = sizeof out;
    HMAC(EVP_sha256(), key, (int)key_size, (const unsigned char *)text, strlen(text), out, &size);
    memcpy(key, out, sizeof out);
}

static void signature_of(const struct signed_request *r, const char *date, const char *hash,
                         char out[65])
{
    char text[512], day[9];
    unsigned char key[128] = "AWS4" FAKE_S3_SECRET;
    snprintf(day, sizeof day, "%.8s", date);
    snprintf(text, sizeof text, "AWS4-HMAC-SHA256\n%s\n%s/%s/s3/aws4_request\n%s", date, day,
             r->region, hash);
    hmac(key, strlen((char *)key), day);
    hmac(key, 32, r->region);
    hmac(key, 32, "s3");
    hmac(key, 32, "aws4_request");
    hmac(key, 32, text);
    hex_of(key, 32, out);
}

static const char *date_fault(const char *date, long skew_s)
{
    struct tm tm = {0};
    if (strptime(date, "%Y%m%dT%H%M%SZ", &tm) == NULL)
        return "AccessDenied";
    long apart = (long)(timegm(&tm) - (time(NULL) + skew_s));
    return labs(apart) > SKEW_MAX_S ? "RequestTimeTooSkewed" : NULL;
}

/* Every header that a service insists on is signed. */
static bool signs_enough(const struct signed_request *r, const char *names)
{
    char list[1100];
    snprintf(list, sizeof list, ";%s;", names);
    bool enough = strstr(list, ";host;") != NULL && strstr(list, ";x-amz-date;") != NULL &&
                  strstr(list, ";x-amz-content-sha256;") != NULL;
    static const char *const others[] = {"x-amz-copy-source", "x-amz-security-token"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        char name[64];
        snprintf(name, sizeof name, ";%s;", others[i]);
        if (header(r, others[i])[0] != '\0')
            enough = enough && strstr(list, name) != NULL;
    }
    return enough;
}

const char *signature_fault(const struct signed_request *r)
{
    char credential[256], names[1024], given[128], hash[65], wanted[65];
    unsigned char digest[32];
    const char *authorization = header(r, "Authorization");
    if (strncmp(authorization, "AWS4-HMAC-SHA256 ", 17) != 0 ||
        !field_take(authorization, "Credential=", credential, sizeof credential) ||
        !field_take(authorization, "SignedHeaders=", names, sizeof names) ||
        !field_take(authorization, "Signature=", given, sizeof given) || !signs_enough(r, names))
        return "AccessDenied";
    if (strncmp(credential, FAKE_S3_KEY_ID "/", strlen(FAKE_S3_KEY_ID) + 1) != 0)
        return "InvalidAccessKeyId";
    const char *date = header(r, "x-amz-date");
    const char *fault = date_fault(date, r->skew_s);
    if (fault != NULL)
        return fault;
    char scope[128];
    snprintf(scope, sizeof scope, FAKE_S3_KEY_ID "/%.8s/%s/s3/aws4_request", date, r->region);
    if (strcmp(credential, scope) != 0)
        return "AuthorizationHeaderMalformed";
    canonical_hash(r, names, hash);
    signature_of(r, date, hash, wanted);
    if (strcmp(given, wanted) != 0)
        return "SignatureDoesNotMatch";
    SHA256(r->body, r->body_size, digest);
    hex_of(digest, sizeof digest, hash);
    return strcmp(hash, header(r, "x-amz-content-sha256")) != 0 ? "XAmzContentSHA256Mismatch"
                                                                : NULL;
}
