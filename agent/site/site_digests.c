/*
 * What a volume's replica holds, for a host that compares it with its device.
 *
 * The reading is the replica's (replica.h), on its own threads, one request at a
 * time for each volume. A key may have a few of them under way in all its
 * volumes together, so that the replicas of other hosts still get forward.
 */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "site/site_volume.h"

#define DIGESTS_PER_KEY_MAX 4u

struct site_digests {
    struct repl_replica_read read;
    struct site_request *request;
    struct site_digests *next; /* in the site's list */
};

static unsigned count_of_key(const struct repl_site *site, const struct repl_digest *key)
{
    unsigned count = 0;
    for (const struct site_digests *d = site->digests; d != NULL; d = d->next)
        count += repl_digest_equal(&d->request->key, key);
    return count;
}

static void list_remove(struct repl_site *site, const struct site_digests *digests)
{
    struct site_digests **at = &site->digests;
    while (*at != digests)
        at = &(*at)->next;
    *at = digests->next;
}

/* The source may have said since when nothing has changed; the index learns of it later. */
static void unchanged_add(const struct site_volume *v, struct repl_points_entry *at)
{
    if (v->journal.point.seq == at->point.seq &&
        v->journal.unchanged_until_ns > at->unchanged_until_ns)
        at->unchanged_until_ns = v->journal.unchanged_until_ns;
}

static void digests_answer(struct site_request *request, const struct repl_digests *answer)
{
    struct repl_buffer message = {0};
    struct repl_error err;
    site_answer_message(request, 200, repl_digests_encode(answer, &message, &err), &message);
}

static void digests_read(struct repl_replica_read *read, repl_result result,
                         const struct repl_error *err)
{
    struct site_digests *digests = read->context;
    struct site_request *request = digests->request;
    if (repl_ok(result)) {
        unchanged_add(request->volume, &read->answer.at);
        digests_answer(request, &read->answer);
    } else {
        site_refuse_error(request, err);
    }
    list_remove(request->site, digests);
    repl_digests_fini(&read->answer);
    free(digests);
    site_request_unhold(request);
}

void site_digests_begin(struct site_request *request)
{
    struct repl_site *site = request->site;
    struct site_volume *v = request->volume;
    if (v->journal.create.kind == REPL_VOLUME_TREE) {
        site_refuse_text(request, REPL_REFUSAL_REQUEST,
                         "volume %s is a directory tree: there is no replica whose pages could be "
                         "compared with a device's",
                         v->name);
        return;
    }
    if (v->replica == NULL && v->replica_problem[0] != '\0') {
        site_refuse_text(request, REPL_REFUSAL_BUSY, "volume %s: there is no replica: %.300s",
                         v->name, v->replica_problem);
        return;
    }
    if (v->replica == NULL) {
        digests_answer(request, &(struct repl_digests){0});
        return;
    }
    if (count_of_key(site, &request->key) >= DIGESTS_PER_KEY_MAX) {
        site_refuse_text(request, REPL_REFUSAL_BUSY,
                         "this key has %u comparisons with replicas under way already: try again "
                         "later",
                         DIGESTS_PER_KEY_MAX);
        return;
    }
    struct site_digests *digests = calloc(1, sizeof *digests);
    if (digests == NULL) {
        site_refuse_text(request, REPL_REFUSAL_BUSY, "the site is out of memory just now");
        return;
    }
    digests->request = request;
    digests->next = site->digests;
    site->digests = digests;
    digests->read = (struct repl_replica_read){.first_page = request->ask.first_page,
                                               .page_count = request->ask.page_count,
                                               .done = digests_read,
                                               .context = digests};
    site_request_hold(request);
    repl_replica_read(v->replica, &digests->read);
}
