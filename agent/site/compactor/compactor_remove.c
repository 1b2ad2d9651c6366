/*
 * Files that go when their grace is over, one at a time.
 *
 * The list is in memory only: after a restart a volume is loaded with what lies in
 * its store and is not in its log, and that waits for what is left of its grace, where
 * the log says when a merge took its place (journal/merge_times.h), or all of it.
 */
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "site/compactor/compactor_internal.h"
#include "site/site_chain.h"

/* What could not be removed is tried again after so long. */
#define AGAIN_NS (INT64_C(60) * 1000000000)

static bool room_make(struct compactor_removals *r)
{
    if (r->first > 0 && r->first + r->count == r->room) {
        memmove(r->items, r->items + r->first, r->count * sizeof *r->items);
        r->first = 0;
    }
    if (r->first + r->count < r->room)
        return true;
    size_t room = r->room == 0 ? 64 : 2 * r->room;
    struct compactor_removal *items = reallocarray(r->items, room, sizeof *items);
    if (items == NULL)
        return false;
    r->items = items;
    r->room = room;
    return true;
}

void compactor_remove_later(struct site_compactor *c, const char *volume,
                            const struct repl_segment_id *id, int64_t due_ns, bool unsure)
{
    struct compactor_removals *r = &c->removals;
    if (!room_make(r))
        return; /* it is a leftover then, which the next start finds */
    struct compactor_removal *item = &r->items[r->first + r->count++];
    for (; item > &r->items[r->first] && item[-1].due_ns > due_ns; item--)
        *item = item[-1];
    *item = (struct compactor_removal){.id = *id, .due_ns = due_ns, .unsure = unsure};
    snprintf(item->volume, sizeof item->volume, "%s", volume);
}

static void removal_work(struct repl_job *job)
{
    struct site_compactor *c = job->context;
    struct repl_store *store = c->site->store;
    bool listed = false;
    /* What the history has is not removed, whoever asked for it. */
    c->removal_result = REPL_SUCCESS;
    if (c->removing.id.supply == 0)
        c->removal_result = site_chain_lists(c->site->index, c->removing.volume, &c->removing.id,
                                             &listed, &c->removal_err);
    if (repl_ok(c->removal_result) && !listed)
        c->removal_result =
            store->ops->segment_remove(store, c->removing.volume, &c->removing.id, &c->removal_err);
}

static void removing_postpone(struct site_compactor *c)
{
    const struct compactor_removal removing = c->removing;
    compactor_remove_later(c, removing.volume, &removing.id, repl_now_mono_ns() + AGAIN_NS,
                           removing.unsure);
}

static void removal_done(struct repl_job *job)
{
    struct site_compactor *c = job->context;
    c->removal_out = false;
    if (!repl_ok(c->removal_result) && c->removal_result.code != REPL_E_MISSING) {
        repl_log(LOG_WARNING,
                 "volume %s: a file that others have taken the place of stays for now: %s",
                 c->removing.volume, c->removal_err.text);
        removing_postpone(c);
        return;
    }
    compactor_remove_due(c);
}

void compactor_remove_due(struct site_compactor *c)
{
    struct compactor_removals *r = &c->removals;
    if (c->removal_out || r->count == 0 || atomic_load(&c->stop) ||
        r->items[r->first].due_ns > repl_now_mono_ns())
        return;
    c->removing = r->items[r->first++];
    r->count--;
    const struct site_volume *v = site_find_volume(c->site, c->removing.volume);
    if (c->removing.unsure && v != NULL && v->unsettled) {
        removing_postpone(c);
        return;
    }
    c->removal_out = true;
    c->removal_job = (struct repl_job){.work = removal_work, .done = removal_done, .context = c};
    repl_pool_work(c->pool, &c->removal_job);
}
