#include "site/site_gate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "site/site_volume.h"
#include "store/segment_name.h"

/* NULL: nobody has passed one of that pool yet. */
static struct site_gate *gate_find(const struct repl_site *site, const char *pool)
{
    struct site_gate *gate = site->gates;
    while (gate != NULL && strcmp(gate->pool, pool) != 0)
        gate = gate->next;
    return gate;
}

repl_result site_gate_of(const struct site_volume *v, struct site_gate **out,
                         struct repl_error *err)
{
    const char *pool = v->journal.pool;
    *out = NULL;
    if (pool[0] == '\0')
        return REPL_SUCCESS;
    struct site_gate *gate = gate_find(v->site, pool);
    if (gate == NULL) {
        gate = calloc(1, sizeof *gate);
        if (gate == NULL)
            return repl_fail(err, REPL_E_NOMEM, "no memory for the pool %s", pool);
        snprintf(gate->pool, sizeof gate->pool, "%s", pool);
        gate->next = v->site->gates;
        v->site->gates = gate;
    }
    *out = gate;
    return REPL_SUCCESS;
}

static bool may_enter(const struct site_gate *gate, const struct site_pass *pass)
{
    return gate->inside == 0 || (!gate->alone && !pass->alone);
}

static void let_in(struct site_gate *gate, const struct site_pass *pass)
{
    gate->inside++;
    gate->alone = pass->alone;
}

bool site_gate_enter(struct site_gate *gate, struct site_pass *pass)
{
    ensure(pass->gate == NULL);
    pass->gate = gate;
    pass->next = NULL;
    if (gate->first == NULL && may_enter(gate, pass)) {
        let_in(gate, pass);
        return true;
    }
    if (gate->first == NULL)
        gate->first = pass;
    else
        gate->last->next = pass;
    gate->last = pass;
    return false;
}

static void let_in_next(struct site_gate *gate)
{
    while (gate->first != NULL && may_enter(gate, gate->first)) {
        struct site_pass *next = gate->first;
        gate->first = next->next;
        let_in(gate, next);
        next->entered(next->context);
    }
}

bool site_gate_withdraw(struct site_pass *pass)
{
    struct site_gate *gate = pass->gate;
    struct site_pass *before = NULL, *at = gate != NULL ? gate->first : NULL;
    while (at != NULL && at != pass) {
        before = at;
        at = at->next;
    }
    if (at == NULL)
        return false;
    if (before == NULL)
        gate->first = pass->next;
    else
        before->next = pass->next;
    if (gate->last == pass)
        gate->last = before;
    pass->gate = NULL;
    let_in_next(gate);
    return true;
}

void site_gate_leave(struct site_pass *pass)
{
    struct site_gate *gate = pass->gate;
    if (gate == NULL)
        return;
    ensure(gate->inside > 0);
    pass->gate = NULL;
    gate->inside--;
    gate->takings += pass->alone;
    let_in_next(gate);
}

void site_gates_free(struct repl_site *site)
{
    while (site->gates != NULL) {
        struct site_gate *gate = site->gates;
        ensure(gate->inside == 0 && gate->first == NULL);
        site->gates = gate->next;
        free(gate);
    }
}

/* --- what leaves ------------------------------------------------------------------------------ */

void site_leaving_begin(struct repl_site *site, const struct site_leaving *leaving)
{
    pthread_mutex_lock(&site->leaving_lock);
    ensure(site->leaving == NULL);
    site->leaving = leaving;
    pthread_mutex_unlock(&site->leaving_lock);
}

void site_leaving_end(struct repl_site *site)
{
    pthread_mutex_lock(&site->leaving_lock);
    site->leaving = NULL;
    pthread_mutex_unlock(&site->leaving_lock);
}

static int id_order(const void *a, const void *b)
{
    return repl_segment_id_order(a, b);
}

bool site_chunk_is_leaving(struct repl_site *site, const struct repl_digest *name,
                           const struct repl_chunk_place *place)
{
    pthread_mutex_lock(&site->leaving_lock);
    const struct site_leaving *l = site->leaving;
    bool leaves =
        l != NULL && strcmp(l->volume, place->volume) == 0 &&
        bsearch(name, l->names, l->name_count, sizeof *name, repl_digest_order) != NULL &&
        bsearch(&place->segment, l->going, l->going_count, sizeof *l->going, id_order) != NULL;
    pthread_mutex_unlock(&site->leaving_lock);
    return leaves;
}

/* --- what is known of a pool ----------------------------------------------------------------- */

/* A volume keeps the pool that it is of. That it is of none yet the index cannot say: it may be
 * behind the log. */
static bool may_be_of(const struct site_volume *v, const char *pool)
{
    const char *known = v->journal.pool[0] != '\0' ? v->journal.pool : v->index_pool;
    return strcmp(known, pool) == 0 || (v->damaged[0] != '\0' && known[0] == '\0');
}

static bool keeps_all(const struct repl_site *site, const char *pool)
{
    const struct site_gate *gate = gate_find(site, pool);
    return gate != NULL && gate->keeps;
}

bool site_pool_is_known(const struct site_volume *volume)
{
    const char *pool = volume->journal.pool;
    if (keeps_all(volume->site, pool))
        return false;
    for (const struct site_volume *v = volume->site->volumes; v != NULL; v = v->next) {
        bool of_it = v == volume || (pool[0] != '\0' && may_be_of(v, pool));
        /* What could not be appended may be in the log after a crash. */
        if (of_it && (v->damaged[0] != '\0' || v->index_behind || v->unsettled))
            return false;
    }
    return true;
}

bool site_pool_is_stale(const struct site_volume *volume)
{
    const char *pool = volume->journal.pool;
    for (const struct site_volume *v = volume->site->volumes; v != NULL; v = v->next) {
        bool of_it = v == volume || (pool[0] != '\0' && strcmp(v->journal.pool, pool) == 0);
        /* A volume's own commit cuts its log back before it is published. */
        bool unsure = v != volume && v->unsettled && v->drop_unsure;
        if (of_it && (v->index_stale || unsure))
            return true;
    }
    return false;
}
