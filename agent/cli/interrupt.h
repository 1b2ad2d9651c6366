/*
 * SIGINT and SIGTERM for verbs that run long and end in an orderly way.
 */
#ifndef REPL_AGENT_INTERRUPT_H
#define REPL_AGENT_INTERRUPT_H

#include <stdatomic.h>

/* From now on the two set the flag; a second one ends the program at once. */
void repl_interrupt_catch(void);
const atomic_bool *repl_interrupt_flag(void);

#endif
