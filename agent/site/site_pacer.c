#include "site/site_pacer.h"

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "loop/loop.h"

/* What was not used is made up for, if it is so little. */
#define CREDIT_NS (INT64_C(250) * 1000000)
/* Between looks at who wants it to end. */
#define SLICE_NS (INT64_C(50) * 1000000)

static bool is_set(const atomic_bool *flag)
{
    return flag != NULL && atomic_load(flag);
}

void site_pacer_spend(struct site_pacer *p, uint64_t bytes)
{
    int64_t now_ns = repl_now_mono_ns();
    if (p->due_ns == 0)
        p->due_ns = now_ns;
    if (p->due_ns < now_ns - CREDIT_NS)
        p->due_ns = now_ns - CREDIT_NS;
    if (p->rate_bytes > 0)
        p->due_ns += (int64_t)((double)bytes / (double)p->rate_bytes * 1e9);
    while (!is_set(p->stop) && (is_set(p->yield) || (p->rate_bytes > 0 && p->due_ns > now_ns))) {
        int64_t left_ns = p->due_ns - now_ns;
        int64_t wait_ns = is_set(p->yield) || left_ns > SLICE_NS ? SLICE_NS : left_ns;
        nanosleep(&(struct timespec){.tv_nsec = wait_ns}, NULL);
        now_ns = repl_now_mono_ns();
    }
}
