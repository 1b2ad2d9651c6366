/*
 * Whether the other end of a TCP connection is still there: what its kernel
 * says, whatever its program does. Used by both ends of the link.
 */
#ifndef REPL_AGENT_PULSE_H
#define REPL_AGENT_PULSE_H

#include <stdbool.h>
#include <stdint.h>

/* Asks for probes on a connection that is quiet, so that it is broken (ETIMEDOUT) some 9 s after
 * the other end was last heard. fd is a TCP socket; what it does not take is left as it was. */
void link_pulse_keep(int fd);

struct link_pulse {
    int64_t looked_ns; /* when it was last looked at; 0: never */
    int64_t heard_ns;  /* when a packet last came */
    int64_t owed_ns;   /* the last look at which none was owed to us, or one had come since */
};

/* Times are of repl_now_mono_ns. A socket that cannot be asked counts as one that was heard. */
void link_pulse_look(struct link_pulse *pulse, int fd, int64_t now_ns);
/* Packets have been owed for so long, and none has come. */
bool link_pulse_is_gone(const struct link_pulse *pulse, int64_t now_ns, int64_t limit_ns);

#endif
