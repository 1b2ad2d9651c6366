#include "cli/interrupt.h"

#include <signal.h>
#include <stdbool.h>

/* Lock-free, so a signal handler may set it. */
static atomic_bool interrupted;

static void interrupt_handle(int number)
{
    (void)number;
    atomic_store(&interrupted, true);
}

void repl_interrupt_catch(void)
{
    struct sigaction action = {.sa_handler = interrupt_handle, .sa_flags = SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

const atomic_bool *repl_interrupt_flag(void)
{
    return &interrupted;
}
