/*
 * Included ahead of agent/source/source_tree.c in a program for tree_deaf.sh:
 * all names are looked at when that says so.
 */
#ifndef TESTS_TREE_DEAF_H
#define TESTS_TREE_DEAF_H

#include <stdint.h>

int64_t tree_deaf_audit_ns(void);
#define REPL_TREE_AUDIT_NS tree_deaf_audit_ns()

#endif
