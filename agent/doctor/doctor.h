/*
 * Looks whether a host or a site, as it is configured, can do its work: what the
 * kernel allows, what the configuration names, who answers, how much room there
 * is. Changes nothing; the service need not run.
 *
 * Each check has a thread of its own and some seconds: a device, a filesystem or
 * a peer that does not answer is a finding, and not a doctor that hangs.
 */
#ifndef REPL_AGENT_DOCTOR_H
#define REPL_AGENT_DOCTOR_H

#include "doctor/findings.h"

/* Appends what it finds. True: all checks have ended. False: one was given up, and its thread may
 * still use the config; the caller leaves that alone and ends with _exit. */
bool repl_doctor_examine(const struct repl_config *config, struct repl_findings *findings);

/* Appends what the kernel and this process may do, of all that following a device needs. */
void repl_doctor_kernel(struct repl_findings *findings);

#endif
