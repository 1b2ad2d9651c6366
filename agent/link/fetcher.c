/*
 * Blocking exchanges, for programs without a loop: recovery without a site's
 * help, and the command line. One easy handle, reset between requests, so that
 * its connection stays open.
 *
 * Stalls are looked for in libcurl's progress callback, which comes about once
 * a second while nothing happens: that is the precision of stall_timeout_ms
 * here. The socket's queue is not looked at: these bodies are short.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "link/transfer.h"

struct repl_fetcher {
    struct link_site site;
    CURL *easy;
    char version[32];
};

repl_result repl_fetcher_new(const struct repl_client_options *options, struct repl_fetcher **out,
                             struct repl_error *err)
{
    *out = NULL;
    struct repl_fetcher *fetcher = calloc(1, sizeof *fetcher);
    if (fetcher == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for a connection to %s", options->address);
    repl_result result = link_site_init(&fetcher->site, options, err);
    if (!repl_ok(result)) {
        repl_fetcher_free(fetcher);
        return result;
    }
    fetcher->easy = curl_easy_init();
    if (fetcher->easy == NULL) {
        repl_fetcher_free(fetcher);
        return repl_fail(err, REPL_E_NOMEM, "no memory for a connection to %s", options->address);
    }
    *out = fetcher;
    return REPL_SUCCESS;
}

void repl_fetcher_free(struct repl_fetcher *fetcher)
{
    if (fetcher == NULL)
        return;
    curl_easy_cleanup(fetcher->easy);
    link_site_fini(&fetcher->site);
    free(fetcher);
}

static int fetch_progress(void *context, curl_off_t down_total, curl_off_t down,
                          curl_off_t up_total, curl_off_t up)
{
    (void)down_total, (void)down, (void)up_total, (void)up;
    return link_transfer_look(context, repl_now_mono_ns(), 0) ? 1 : 0;
}

static CURLcode fetch_perform(struct link_transfer *transfer)
{
    CURL *easy = transfer->easy;
    CURLcode code = curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, fetch_progress);
    if (code == CURLE_OK)
        code = curl_easy_setopt(easy, CURLOPT_XFERINFODATA, transfer);
    if (code == CURLE_OK)
        code = curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0l);
    return code == CURLE_OK ? curl_easy_perform(easy) : code;
}

/* Hands the answer over to the caller. */
static repl_result fetch_take(struct link_transfer *transfer, int *status, char **response,
                              size_t *response_size, struct repl_error *err)
{
    long code = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &code);
    *response = transfer->response != NULL ? transfer->response : calloc(1, 1);
    if (*response == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the answer of %s",
                         transfer->site->address);
    transfer->response = NULL;
    *response_size = transfer->response_size;
    *status = (int)code;
    return REPL_SUCCESS;
}

static void fetch_version(struct repl_fetcher *fetcher)
{
    struct curl_header *header;
    if (curl_easy_header(fetcher->easy, "Repl-Version", 0, CURLH_HEADER, -1, &header) == CURLHE_OK)
        snprintf(fetcher->version, sizeof fetcher->version, "%s", header->value);
}

const char *repl_fetcher_version(const struct repl_fetcher *fetcher)
{
    return fetcher->version;
}

repl_result repl_fetch(struct repl_fetcher *fetcher, const char *method, const char *path,
                       const char *range, const void *body, size_t body_size, size_t response_limit,
                       int *status, char **response, size_t *response_size, struct repl_error *err)
{
    *status = 0;
    *response = NULL;
    *response_size = 0;
    fetcher->version[0] = '\0';
    struct link_transfer transfer;
    struct link_transfer_spec spec = {.method = method,
                                      .path = path,
                                      .range = range,
                                      .offset = -1,
                                      .body = body,
                                      .body_size = body_size,
                                      .response_limit = response_limit};
    curl_easy_reset(fetcher->easy);
    repl_result result = link_transfer_init(&transfer, &fetcher->site, fetcher->easy, &spec, err);
    if (repl_ok(result))
        result = link_transfer_result(&transfer, fetch_perform(&transfer), err);
    if (repl_ok(result))
        fetch_version(fetcher);
    if (repl_ok(result))
        result = fetch_take(&transfer, status, response, response_size, err);
    curl_easy_reset(fetcher->easy); /* nothing of it may point to what ends here */
    link_transfer_fini(&transfer);
    return result;
}
