#include "libcurl_start.h"

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CURLcode code;

static void start(void)
{
    code = curl_global_init(CURL_GLOBAL_DEFAULT);
    signal(SIGPIPE, SIG_IGN);
}

repl_result repl_libcurl_start(struct repl_error *err)
{
    pthread_once(&once, start);
    if (code != CURLE_OK)
        return repl_fail(err, REPL_E_INTERNAL, "libcurl does not start: %s",
                         curl_easy_strerror(code));
    return REPL_SUCCESS;
}
