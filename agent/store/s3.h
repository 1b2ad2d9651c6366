/*
 * How a bucket is reached, and with whose name.
 *
 * What is NULL is taken from the environment, under the names that other tools
 * of object storage use: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION or
 * AWS_DEFAULT_REGION, AWS_SHARED_CREDENTIALS_FILE, AWS_PROFILE, AWS_CA_BUNDLE.
 * Credentials are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if it is there,
 * AWS_SESSION_TOKEN, unless a file is named here; else they are in the file that
 * AWS_SHARED_CREDENTIALS_FILE names, else in ~/.aws/credentials. They appear in
 * no message.
 */
#ifndef REPL_AGENT_S3_H
#define REPL_AGENT_S3_H

#include "store/store.h"

struct repl_s3_options {
    const char *endpoint;    /* "https://s3.example.com"; default: that of AWS in the region */
    const char *region;      /* default: us-east-1 */
    const char *credentials; /* file of [PROFILE] sections: aws_access_key_id = ..., and so on */
    const char *profile;     /* default: "default" */
    const char *ca;  /* PEM file of the authorities that are trusted; default: the system's */
    bool host_style; /* BUCKET.HOST/KEY instead of HOST/BUCKET/KEY */
};

#endif
