/*
 * Why a request to object storage failed: whether it may be tried again, which
 * code that is for the caller, and one sentence with the next step.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "store/s3_internal.h"

static bool code_is(const struct s3_answer *answer, const char *code)
{
    return strcmp(answer->text.code, code) == 0;
}

static bool is_quota(const struct s3_answer *answer)
{
    return answer->status == 507 || code_is(answer, "QuotaExceeded") ||
           code_is(answer, "InsufficientStorage") || code_is(answer, "InsufficientCapacity") ||
           code_is(answer, "XMinioStorageFull");
}

static bool curl_passes(CURLcode code)
{
    switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_AGAIN:
        return true;
    default:
        return false;
    }
}

bool s3_answer_is_good(const struct s3_answer *answer)
{
    if (answer->curl != CURLE_OK)
        return false;
    if (answer->status == 404)
        return !code_is(answer, "NoSuchBucket");
    return (answer->status >= 200 && answer->status < 300) || answer->status == 412;
}

bool s3_answer_is_passing(const struct s3_answer *answer)
{
    /* An answer that came is what counts, also where the connection broke while we still sent. */
    if (answer->status < 300)
        return answer->overflow ? false : curl_passes(answer->curl);
    if (is_quota(answer))
        return false;
    return answer->status >= 500 || answer->status == 429 || answer->status == 408 ||
           answer->status == 409 || code_is(answer, "SlowDown") ||
           code_is(answer, "RequestTimeout") || code_is(answer, "BadDigest") ||
           code_is(answer, "XAmzContentSHA256Mismatch") || code_is(answer, "IncompleteBody");
}

bool s3_answer_is_denied(const struct s3_answer *answer)
{
    if (code_is(answer, "RequestTimeTooSkewed"))
        return false;
    return answer->status == 401 || answer->status == 403 || code_is(answer, "ExpiredToken") ||
           code_is(answer, "InvalidToken");
}

/* --- messages -------------------------------------------------------------------------------- */

struct place {
    const struct s3_settings *settings;
    const struct s3_answer *answer;
    char what[280]; /* "cannot write KEY, bucket B at ENDPOINT" */
};

static repl_result fail_transport(const struct place *p, struct repl_error *err)
{
    const char *why = p->answer->curl_text[0] != '\0' ? p->answer->curl_text
                                                      : curl_easy_strerror(p->answer->curl);
    switch (p->answer->curl) {
    case CURLE_PEER_FAILED_VERIFICATION:
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: the service's certificate is not trusted (%.120s): name the file of "
                         "its authority (s3_ca, or AWS_CA_BUNDLE in the environment)",
                         p->what, why);
    case CURLE_SSL_CACERT_BADFILE:
        return repl_fail(err, REPL_E_USAGE,
                         "%s: the authorities in %.80s cannot be read: correct s3_ca (or "
                         "AWS_CA_BUNDLE in the environment)",
                         p->what, p->settings->ca != NULL ? p->settings->ca : "the system's file");
    case CURLE_OUT_OF_MEMORY:
        return repl_fail(err, REPL_E_NOMEM, "%s: out of memory", p->what);
    case CURLE_OPERATION_TIMEDOUT:
        return repl_fail(err, REPL_E_RETRY,
                         "%s: the service does not answer (%.120s): is it overloaded, or its "
                         "line cut?",
                         p->what, why);
    default:
        return repl_fail(err, curl_passes(p->answer->curl) ? REPL_E_RETRY : REPL_E_INTERNAL,
                         "%s: %.160s: check that the service runs and can be reached from here",
                         p->what, why);
    }
}

static repl_result fail_skewed(const struct place *p, struct repl_error *err)
{
    char ours[64];
    time_t now = time(NULL);
    struct tm tm;
    strftime(ours, sizeof ours, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
    const char *theirs =
        p->answer->text.server_time[0] != '\0' ? p->answer->text.server_time : p->answer->date;
    return repl_fail(err, REPL_E_RETRY,
                     "%s: the clocks are too far apart: here it is %s, there %s: set the one that "
                     "is wrong",
                     p->what, ours, theirs[0] != '\0' ? theirs : "another time");
}

static repl_result fail_denied(const struct place *p, struct repl_error *err)
{
    const struct s3_answer *a = p->answer;
    const char *from = p->settings->credentials_from;
    if (code_is(a, "InvalidAccessKeyId"))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: the service does not know the access key (from %.100s): correct it",
                         p->what, from);
    if (code_is(a, "SignatureDoesNotMatch"))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: the secret does not belong to the access key (from %.100s): correct "
                         "it",
                         p->what, from);
    if (code_is(a, "ExpiredToken") || code_is(a, "InvalidToken"))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: the session token (from %.100s) is not valid any more: renew it",
                         p->what, from);
    return repl_fail(err, REPL_E_REFUSED,
                     "%s: the credentials (from %.100s) do not allow it (%ld %s): they need to "
                     "list, read, write and delete there",
                     p->what, from, a->status, a->text.code);
}

static repl_result fail_elsewhere(const struct place *p, struct repl_error *err)
{
    const char *region = p->answer->region[0] != '\0' ? p->answer->region : p->answer->text.region;
    return repl_fail(err, REPL_E_USAGE,
                     "%s: the bucket is in %s%s, not in %s: set s3_region (or AWS_REGION in the "
                     "environment) and the endpoint to it",
                     p->what, region[0] != '\0' ? "region " : "another region", region,
                     p->settings->region);
}

static repl_result fail_status(const struct place *p, struct repl_error *err)
{
    const struct s3_answer *a = p->answer;
    if (is_quota(a))
        return repl_fail(err, REPL_E_NOSPACE,
                         "%s: the service has no more room for it (%ld %s): raise the quota, or "
                         "make room",
                         p->what, a->status, a->text.code);
    if (code_is(a, "RequestTimeTooSkewed"))
        return fail_skewed(p, err);
    if ((a->status >= 300 && a->status < 400) || code_is(a, "AuthorizationHeaderMalformed") ||
        code_is(a, "IllegalLocationConstraintException"))
        return fail_elsewhere(p, err);
    if (code_is(a, "NoSuchBucket"))
        return repl_fail(err, REPL_E_USAGE,
                         "%s: there is no such bucket: make it first, or name another", p->what);
    if (s3_answer_is_denied(a))
        return fail_denied(p, err);
    if (a->status == 416)
        return repl_fail(err, REPL_E_CORRUPT, "%s: it is shorter than it was", p->what);
    return repl_fail(err, s3_answer_is_passing(a) ? REPL_E_RETRY : REPL_E_IO,
                     "%s: the service answers %ld %s%s%.120s: see its own log", p->what, a->status,
                     a->text.code, a->text.message[0] != '\0' ? ", " : "", a->text.message);
}

repl_result s3_answer_fail(const struct s3_settings *settings, const struct s3_request *request,
                           const struct s3_answer *answer, struct repl_error *err)
{
    struct place p = {.settings = settings, .answer = answer};
    int size = snprintf(p.what, sizeof p.what, "cannot %s %.160s%.110s, bucket %.63s at %.100s",
                        request->doing, settings->prefix, request->key != NULL ? request->key : "",
                        settings->bucket, settings->endpoint);
    if (size < 0)
        p.what[0] = '\0';
    if (answer->overflow)
        return repl_fail(err, REPL_E_CORRUPT, "%s: it is longer than it may be", p.what);
    if (answer->status < 300)
        return fail_transport(&p, err);
    return fail_status(&p, err);
}
