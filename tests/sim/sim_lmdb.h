/*
 * LMDB as far as the index needs it, in memory: the calls of <lmdb.h>, and one file under them that
 * outlives who has it open.
 *
 * A transaction is in the file whole or not at all. What has been committed outlives the process;
 * a power cut leaves the file as some transaction since the last sync left it, or that sync. LMDB
 * promises more (MDB_NOMETASYNC: all but the last one), and the site relies on no more than this
 * (agent/site/index/index.h).
 */
#ifndef TESTS_SIM_LMDB_H
#define TESTS_SIM_LMDB_H

#include <stddef.h>
#include <stdint.h>

#include "sim.h"

/* Called behind whatever changes the file, or makes it durable. */
void sim_lmdb_observe(void (*here)(void *context, const char *what), void *context);
/* Whoever had it open is gone. */
void sim_lmdb_process_end(void);
void sim_lmdb_power_cut(struct sim *sim);
/* Somebody has removed it, durably. */
void sim_lmdb_remove(void);
void sim_lmdb_fini(void);

/* What the index asks the system of its file: index_env.c is compiled with these. */
int sim_lmdb_access(const char *path, int mode);
int sim_lmdb_unlink(const char *path);
int sim_lmdb_fsync(int fd);

#endif
