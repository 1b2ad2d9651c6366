/*
 * The gate of a pool: nobody takes a chunk of it away between the moment a commit
 * has found it and the moment the index knows that the commit refers to it.
 *
 * A volume's changes are made one after the other, but those of the volumes of a
 * pool go side by side. So a commit passes the gate together with others, from
 * before it is published until its record is applied; who takes chunks away (a
 * merge that drops some, the removal of a supply) passes alone, for his last look
 * at who refers to them, and until nobody finds them any more: the index has
 * forgotten them, or they are leaving. What a commit has
 * found before it passed is looked at again if somebody has passed alone since.
 *
 * So nobody who passes alone waits for the store. A merge has to: until its record is
 * in log and index, which may take as long as a store takes to give up, the chunks that
 * it drops are leaving (site_leaving). Where they are no commit finds them, and whoever
 * names one is asked for it; readers still do. Only in memory, as a merge whose record
 * never comes takes nothing away.
 *
 * On the loop. In the order in which they came, so nobody waits for ever, but for a
 * commit whose store hangs: who waits for it, to pass alone, withdraws after a while
 * and comes again later, as others wait behind him. Who is inside never waits for a
 * volume's turn, so having a turn one may wait here.
 */
#ifndef REPL_AGENT_SITE_GATE_H
#define REPL_AGENT_SITE_GATE_H

#include "site/site_internal.h"

/* Zeroed, with its first fields set, before it is used. */
struct site_pass {
    bool alone;
    void (*entered)(void *context); /* where it had to wait */
    void *context;
    struct site_gate *gate; /* that it waits at or is inside of; NULL: none */
    struct site_pass *next;
};

struct site_gate {
    struct site_gate *next;
    char pool[REPL_VOLUME_NAME_SIZE + 1];
    unsigned inside;
    bool alone;
    bool keeps;       /* until the next start: a volume of it is gone (site_gone.c) */
    uint64_t takings; /* how often somebody was inside alone */
    struct site_pass *first, *last;
};

/* That of the volume's pool, for as long as the site runs. NULL without an error: it shares chunks
 * with nobody, so its own turns are enough. */
REPL_RESULT site_gate_of(const struct site_volume *volume, struct site_gate **out,
                         struct repl_error *err);
/* True: inside. False: entered is called as soon as it is. */
bool site_gate_enter(struct site_gate *gate, struct site_pass *pass);
/* It waits no longer, and those behind it go on. False: it does not wait. */
bool site_gate_withdraw(struct site_pass *pass);
/* Does nothing where it is at no gate. */
void site_gate_leave(struct site_pass *pass);
void site_gates_free(struct repl_site *site);

/* What a merge drops: these chunks, where they lie in these segments of the volume. Both in order.
 * All of it is kept by the caller until the end. One at a time. */
struct site_leaving {
    const char *volume;
    const struct repl_digest *names;
    size_t name_count;
    const struct repl_segment_id *going;
    size_t going_count;
};
void site_leaving_begin(struct repl_site *site, const struct site_leaving *leaving);
/* Does nothing where nothing leaves. */
void site_leaving_end(struct repl_site *site);
/* From any thread. */
bool site_chunk_is_leaving(struct repl_site *site, const struct repl_digest *name,
                           const struct repl_chunk_place *place);

/* Whether all that refers to chunks of the volume's pool is in the index. Not while the index of
 * one of its volumes is behind the log, or one is damaged or gone: nothing may be taken away then.
 * A damaged one of which neither its log nor the index says the pool may be of any. */
bool site_pool_is_known(const struct site_volume *volume);
/* Whether chunks may be found in the index that a merge has taken away, or will have after a crash.
 */
bool site_pool_is_stale(const struct site_volume *volume);

#endif
