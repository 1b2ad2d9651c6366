/*
 * Volumes that there was no memory to read when the site began: they are in the list, refused
 * service, and read again on a worker, one at a time, until there is.
 */
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "site/compactor/compactor.h"
#include "site/site_volume.h"

static void reread_work(struct repl_job *job)
{
    struct repl_site *site = job->context;
    struct site_rereading *r = &site->rereading;
    r->result = site_volume_load(site, r->unread->name, &r->read, &r->err);
}

static void unread_remove(struct repl_site *site, struct site_volume *unread)
{
    struct site_volume **link = &site->volumes;
    while (*link != unread)
        link = &(*link)->next;
    *link = unread->next;
    site->volume_count--;
    site_volume_free(unread);
}

/* What the others of the list were told meanwhile. */
static void caught_up(const struct site_rereading *r, struct site_volume *v)
{
    memcpy(v->index_pool, r->unread->index_pool, sizeof v->index_pool);
    if (r->index_generation != v->site->index_generation)
        v->index_behind = v->index_lost = true;
}

static void reread_take(struct repl_site *site)
{
    struct site_rereading *r = &site->rereading;
    struct site_volume *v = r->read;
    if (v == NULL) { /* no more than a directory */
        unread_remove(site, r->unread);
        return;
    }
    if (!repl_ok(site_add_volume(site, v, &r->err)))
        return;
    caught_up(r, v);
    unread_remove(site, r->unread);
    if (v->damaged[0] != '\0')
        return;
    repl_log(LOG_NOTICE, "volume %s has been read, and is served", v->name);
    site_compactor_leftovers(site->compactor, v);
    site_volume_follow(v);
    site_volume_pump(v);
}

static void reread_done(struct repl_job *job)
{
    struct repl_site *site = job->context;
    struct site_rereading *r = &site->rereading;
    site_job_ended(site);
    bool good = repl_ok(r->result);
    if (good && (site->closing || (r->read != NULL && r->read->unread))) {
        if (r->read != NULL)
            site_volume_free(r->read);
    } else if (good) {
        reread_take(site);
    }
    r->unread = NULL;
}

void site_unread_tick(struct repl_site *site)
{
    struct site_rereading *r = &site->rereading;
    if (r->unread != NULL)
        return;
    for (struct site_volume *v = site->volumes; v != NULL; v = v->next) {
        if (v->unread && (r->unread == NULL || v->read_ns < r->unread->read_ns))
            r->unread = v;
    }
    if (r->unread == NULL)
        return;
    r->unread->read_ns = repl_now_mono_ns();
    r->index_generation = site->index_generation;
    r->job = (struct repl_job){.work = reread_work, .done = reread_done, .context = site};
    site_job_start(site, &r->job);
}
