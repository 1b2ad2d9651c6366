/*
 * What a request asks the site for: "METHOD PATH", and behind a line feed the header Repl-Offset,
 * if there is one. What is accepted is written again as docs/formats/wire.md has it, and must be
 * the same; a refusal must reach the peer in words.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "config/config.h"
#include "site/site_ask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PATH_SIZE 600

static void id_write(const struct repl_segment_id *id, char *out, size_t size)
{
    int used = snprintf(out, size, "%" PRIu64 ".%" PRIu32, id->to_seq, id->part);
    if (id->supply != 0)
        snprintf(out + used, size - (size_t)used, ".%" PRIu32, id->supply);
    else if (id->merge != 0)
        snprintf(out + used, size - (size_t)used, ".m%" PRIu64, id->merge);
}

/* Its method. */
static const char *ask_write(const struct site_ask *ask, char path[PATH_SIZE])
{
    char rest[80 + sizeof "slices"], id[64];
    const char *method = "GET";
    id_write(&ask->id, id, sizeof id);
    switch (ask->kind) {
    case SITE_REQUEST_VOLUMES:
        ensure(ask->name[0] == '\0');
        snprintf(path, PATH_SIZE, "/v1/volumes");
        return method;
    case SITE_REQUEST_HELLO:
    case SITE_REQUEST_REPORT:
        method = "POST";
        snprintf(rest, sizeof rest, "%s", ask->kind == SITE_REQUEST_HELLO ? "hello" : "report");
        break;
    case SITE_REQUEST_UPLOAD:
    case SITE_REQUEST_SUPPLY:
        ensure((ask->id.supply != 0) == (ask->kind == SITE_REQUEST_SUPPLY));
        method = "PUT";
        snprintf(rest, sizeof rest, "segments/%s", id);
        break;
    case SITE_REQUEST_AHEAD:
        ensure(ask->id.supply == 0 && ask->offset == 0);
        method = "PUT";
        snprintf(rest, sizeof rest, "ahead/%s", id);
        break;
    case SITE_REQUEST_SEGMENT:
        snprintf(rest, sizeof rest, "segments/%s", id);
        break;
    case SITE_REQUEST_SEGMENTS:
        ensure(ask->id.supply == 0);
        snprintf(rest, sizeof rest, "segments/after/%s", id);
        break;
    case SITE_REQUEST_POINTS:
        snprintf(rest, sizeof rest, "points/%" PRIu64, ask->after);
        break;
    case SITE_REQUEST_TIMELINE:
        snprintf(rest, sizeof rest, "timeline/%" PRIu64, ask->after);
        break;
    case SITE_REQUEST_MARK:
        method = "POST";
        snprintf(rest, sizeof rest, "mark");
        break;
    case SITE_REQUEST_MARKS:
        snprintf(rest, sizeof rest, "marks");
        break;
    case SITE_REQUEST_VERIFIED:
        snprintf(rest, sizeof rest, "verified");
        break;
    case SITE_REQUEST_CHUNKS:
        method = "POST";
        snprintf(rest, sizeof rest, "chunks");
        break;
    case SITE_REQUEST_SLICES:
        method = "POST";
        snprintf(rest, sizeof rest, "segments/%s/slices", id);
        break;
    case SITE_REQUEST_TAILS:
        method = "POST";
        snprintf(rest, sizeof rest, "tails");
        break;
    case SITE_REQUEST_POOL:
        snprintf(rest, sizeof rest, "pool/%016" PRIx64, ask->after);
        break;
    case SITE_REQUEST_SUPPLIES:
        snprintf(rest, sizeof rest, "supplies");
        break;
    case SITE_REQUEST_RESEND:
        snprintf(rest, sizeof rest, "resend");
        break;
    case SITE_REQUEST_DAMAGED:
        snprintf(rest, sizeof rest, "damaged");
        break;
    case SITE_REQUEST_DIGESTS:
        ensure(ask->page_count <= REPL_DIGESTS_MAX);
        snprintf(rest, sizeof rest, "replica/%" PRIu64 ".%" PRIu32, ask->first_page,
                 ask->page_count);
        break;
    }
    ensure(repl_volume_name_valid(ask->name));
    snprintf(path, PATH_SIZE, "/v1/volumes/%s/%s", ask->name, rest);
    return method;
}

static void refusal_check(int status, const struct repl_refusal *refusal)
{
    struct repl_buffer message = {0};
    struct repl_refusal again;
    struct repl_error err = {.text = ""};
    ensure(status == repl_refusal_status(refusal->code) || status == 405);
    ensure(refusal->text[0] != '\0');
    ensure(repl_ok(repl_refusal_encode(refusal, &message, &err)));
    ensure(repl_ok(repl_refusal_decode(message.data, message.size, &again, &err)));
    ensure(again.code == refusal->code && strlen(again.text) == strlen(refusal->text));
    repl_buffer_fini(&message);
}

static void try_ask(const char *method, const char *path, const char *offset)
{
    struct site_ask ask;
    struct repl_refusal refusal;
    char again[PATH_SIZE], number[32];
    int status = site_ask_parse(method, path, offset, &ask, &refusal);
    if (status != 0) {
        refusal_check(status, &refusal);
        return;
    }
    ensure(strcmp(ask_write(&ask, again), method) == 0);
    ensure(strcmp(again, path) == 0);
    snprintf(number, sizeof number, "%" PRIu64, ask.offset);
    ensure(strcmp(number, offset == NULL ? "0" : offset) == 0);
    ensure(ask.offset <= REPL_SEGMENT_HARD_LIMIT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const methods[] = {"GET", "PUT", "POST"};
    char *text = malloc(size + 1);
    ensure(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    char *offset = text, *method, *path;
    path = strsep(&offset, "\n");
    method = strsep(&path, " ");
    if (path != NULL) {
        try_ask(method, path, offset);
        for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
            try_ask(methods[i], path, NULL);
    }
    free(text);
    return 0;
}
