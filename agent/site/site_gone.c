/*
 * Volumes that the index knows and the store has no more, as somebody has removed
 * them: what is known of them is forgotten, so that nobody is told that a chunk lies
 * there, and so that a new volume of that name begins with nothing.
 *
 * What others of the pool hold of the same chunks is found again: the index has one
 * place for each chunk, so theirs are named once more before that of the volume goes.
 * And nothing of the pool is dropped until the next start: should the volume have
 * been away by mistake, its references are back with it by then.
 *
 * Of a volume whose log cannot be read the index may know the pool.
 */
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "site/site_gate.h"
#include "site/site_volume.h"

static void places_renew(struct site_volume *v)
{
    struct repl_error err;
    struct site_gate *gate;
    if (v->damaged[0] != '\0' || v->journal.pool[0] == '\0')
        return;
    repl_result result = site_gate_of(v, &gate, &err);
    if (repl_ok(result)) {
        gate->keeps = true;
        result = site_index_places(v, &err);
    }
    if (!repl_ok(result))
        repl_log(
            LOG_WARNING,
            "volume %s: chunks that it shares with a volume which is gone may not be found: %s: "
            "stop the site, remove its index.lmdb, start it",
            v->name, err.text);
}

static repl_result member_forget(struct repl_site *site, const struct repl_index_member *gone,
                                 const struct repl_index_member *members, size_t count,
                                 struct repl_error *err)
{
    repl_log(
        LOG_WARNING,
        "volume %s is not in the store any more: what the index has of it is forgotten. If it is "
        "there again, start the site again; if others of its tenant refer to chunks that lay in "
        "it, repl verify says so",
        gone->volume);
    for (size_t i = 0; i < count; i++) {
        struct site_volume *v = site_find_volume(site, members[i].volume);
        if (v != NULL && members[i].pool == gone->pool)
            places_renew(v);
    }
    return repl_index_drop(site->index, gone->volume, err);
}

repl_result site_members_check(struct repl_site *site, struct repl_error *err)
{
    struct repl_index_member *members;
    size_t count;
    REPL_TRY(repl_index_members(site->index, &members, &count, err));
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; i < count && repl_ok(result); i++) {
        struct site_volume *v = site_find_volume(site, members[i].volume);
        if (v == NULL)
            result = member_forget(site, &members[i], members, count, err);
        else
            memcpy(v->index_pool, members[i].pool_name, sizeof v->index_pool);
    }
    free(members);
    return result;
}
