/*
 * A service of object storage in this process, on loopback: one bucket, as much
 * of S3 as a store uses, every signature checked. What goes wrong is asked for:
 * by faults, which are of the next requests that match, and by the switches.
 */
#ifndef TESTS_FAKE_FAKE_S3_H
#define TESTS_FAKE_FAKE_S3_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_S3_KEY_ID "AKIDFAKE"
#define FAKE_S3_SECRET "fake/secret+0123456789"
#define FAKE_S3_BUCKET "bucket"
#define FAKE_S3_REGION "us-east-1"

enum fake_s3_fault_kind {
    FAKE_S3_STATUS,     /* answers with status and code, and does nothing */
    FAKE_S3_HANG,       /* takes the request and does not answer, until fake_s3_release */
    FAKE_S3_CUT_UPLOAD, /* closes the connection once part of the body has come */
    FAKE_S3_CUT_ANSWER, /* closes it in the middle of the answer's body */
    FAKE_S3_CUT_DONE,   /* does what is asked for, and closes it without an answer */
    FAKE_S3_HANG_DONE,  /* does what is asked for, and does not answer */
    FAKE_S3_LATE,       /* does not answer, and does it at fake_s3_release */
};

struct fake_s3_fault {
    enum fake_s3_fault_kind kind;
    const char *method; /* NULL: any */
    const char *key;    /* part of the path; NULL: any */
    unsigned skip;      /* so many that match go well before */
    unsigned count;     /* so many fail */
    unsigned status;
    const char *code;
};

struct fake_s3_switches {
    bool ignore_conditions; /* If-None-Match counts for nothing */
    uint64_t quota;         /* bytes in all; 0: none */
    long skew_s;            /* its clock is so much ahead */
    unsigned page_size;     /* of listings; 0: 1000 */
    const char *region;     /* in which the bucket is; NULL: FAKE_S3_REGION */
    bool redirect;          /* everything is elsewhere */
    bool ignore_ranges;
    bool no_locks;     /* what locks is refused */
    bool forget_locks; /* and taken, and forgotten */
    bool open_locks;   /* they do not hold */
    bool no_versions;
};

struct fake_s3;

/* NULL: it does not start. Anything of the environment is left alone. */
struct fake_s3 *fake_s3_start(void);
void fake_s3_stop(struct fake_s3 *fake);
/* "http://127.0.0.1:PORT" */
const char *fake_s3_endpoint(const struct fake_s3 *fake);

/* Up to 16 at a time. */
void fake_s3_fault(struct fake_s3 *fake, const struct fake_s3_fault *fault);
/* No more faults; what hangs is let go. */
void fake_s3_release(struct fake_s3 *fake);
void fake_s3_switch(struct fake_s3 *fake, const struct fake_s3_switches *switches);
/* Requests so far whose method and path begin and have in them what is given; NULL: any. */
unsigned fake_s3_requests(struct fake_s3 *fake, const char *method, const char *key);

/* Objects, past the front door. key: in the bucket. */
bool fake_s3_exists(struct fake_s3 *fake, const char *key);
/* How many begin with this. */
size_t fake_s3_count(struct fake_s3 *fake, const char *prefix);
/* How many bytes these have. */
uint64_t fake_s3_bytes(struct fake_s3 *fake, const char *prefix);
void fake_s3_put(struct fake_s3 *fake, const char *key, const void *data, size_t size);
void fake_s3_remove(struct fake_s3 *fake, const char *key);
/* Until when it is locked, seconds since 1970; 0: it is not, or not there. */
int64_t fake_s3_locked_until(struct fake_s3 *fake, const char *key);
/* A copy with a NUL behind it, the caller's to free; NULL: there is none. */
char *fake_s3_get(struct fake_s3 *fake, const char *key, size_t *size);

#endif
