/*
 * Holds a thread back to so many bytes a second. Private to site/.
 */
#ifndef REPL_AGENT_SITE_PACER_H
#define REPL_AGENT_SITE_PACER_H

#include <stdatomic.h>
#include <stdint.h>

/* Zeroed but for what is given. One thread's. */
struct site_pacer {
    uint64_t rate_bytes;      /* a second; 0: no limit */
    const atomic_bool *stop;  /* nobody waits any more; NULL: never */
    const atomic_bool *yield; /* something more urgent is at work: waits until it is not; NULL */
    int64_t due_ns;           /* private */
};

/* So many bytes were moved: waits until more may. */
void site_pacer_spend(struct site_pacer *pacer, uint64_t bytes);

#endif
