/*
 * What the service (fake_s3.c), its objects (fake_s3_objects.c) and the check of its
 * signatures (fake_s3_sign.c) share.
 */
#ifndef TESTS_FAKE_FAKE_S3_INTERNAL_H
#define TESTS_FAKE_FAKE_S3_INTERNAL_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <pthread.h>

#include "fake/fake_s3.h"

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
#define OBJECTS_MAX  16384u
#define FAULTS_MAX   16u
#define REQUESTS_MAX 65536u

struct object {
    char *key;
    char *data; /* with a NUL behind it */
    size_t size;
    char sha256[80];       /* x-amz-meta-repl-sha256 */
    char locked_until[40]; /* as it came; "": it is not locked */
};

struct fake_s3 {
    struct MHD_Daemon *daemon;
    char endpoint[64];
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t release;
    unsigned releases;
    bool stopping;
    struct object objects[OBJECTS_MAX]; /* sorted by key */
    size_t object_count;
    struct fake_s3_fault faults[FAULTS_MAX];
    size_t fault_count;
    struct fake_s3_switches switches;
    char *requests[REQUESTS_MAX]; /* "METHOD URI" */
    size_t request_count;
};

/* Where it is, or belongs. */
size_t fake_s3_object_place(const struct fake_s3 *fake, const char *key, bool *found);
void fake_s3_object_put(struct fake_s3 *fake, const char *key, const void *data, size_t size,
                        const char *sha256);
void fake_s3_object_remove(struct fake_s3 *fake, const char *key);
uint64_t fake_s3_objects_size(const struct fake_s3 *fake);
/* Since 1970; 0: it is no time. */
int64_t fake_s3_seconds_of(const char *text);
/* NULL: what the request says of a lock is in order, or it says nothing (both NULL). */
const char *fake_s3_lock_fault(const struct fake_s3 *fake, struct MHD_Connection *connection,
                               const char *mode, const char *until);
void fake_s3_lock_note(struct fake_s3 *fake, const char *key, const char *until);
void hex_of(const unsigned char *bytes, size_t size, char *out);

#endif
