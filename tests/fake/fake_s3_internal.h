/*
 * What the service (fake_s3.c) and the check of its signatures (fake_s3_sign.c)
 * share.
 */
#ifndef TESTS_FAKE_FAKE_S3_INTERNAL_H
#define TESTS_FAKE_FAKE_S3_INTERNAL_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>

struct signed_request {
    struct MHD_Connection *connection;
    const char *method;
    const char *uri; /* as it came: encoded path and query */
    const void *body;
    size_t body_size;
    const char *region;
    long skew_s;
};

/* NULL: the signature is right. Else the code of the error. */
const char *signature_fault(const struct signed_request *request);
void hex_of(const unsigned char *bytes, size_t size, char *out);

#endif
