/*
 * What "repl doctor" has found: a list of findings, each of which says how bad
 * it is, what was looked at, and what to do next. From a list come the exit
 * code, the lines for people and the JSON (docs/formats/doctor.md).
 */
#ifndef REPL_AGENT_DOCTOR_FINDINGS_H
#define REPL_AGENT_DOCTOR_FINDINGS_H

#include <jansson.h>
#include <stdio.h>

#include "config/config.h"
#include "repl/error.h"

enum repl_finding_level {
    REPL_FINDING_OK,
    REPL_FINDING_NOTE,    /* worth knowing, nothing to do */
    REPL_FINDING_WARNING, /* it works, and something wants attention */
    REPL_FINDING_FAILED,  /* something cannot work */
};

struct repl_finding {
    enum repl_finding_level level;
    enum repl_code code; /* of what failed, else REPL_OK */
    char check[16];      /* "kernel", "site": a word that stays */
    char
        subject[REPL_VOLUME_NAME_MAX + 1]; /* the volume it is about; "": the host or all of them */
    char text[REPL_ERROR_TEXT_SIZE];
    char next[256]; /* "": nothing is to be done */
};

/* Zeroed it is empty. A finding for which there is no memory counts as one that failed. */
struct repl_findings {
    struct repl_finding *list;
    size_t count, room;
    bool lost;
};

void repl_findings_fini(struct repl_findings *findings);
/* OK, NOTE and WARNING. subject may be NULL, next too. */
void repl_finding_add(struct repl_findings *findings, enum repl_finding_level level,
                      const char *check, const char *subject, const char *next, const char *format,
                      ...) __attribute__((format(printf, 6, 7)));
/* FAILED, of what err says. */
void repl_finding_fail(struct repl_findings *findings, const char *check, const char *subject,
                       const char *next, const struct repl_error *err);
/* WARNING, of what err says. */
void repl_finding_warn(struct repl_findings *findings, const char *check, const char *subject,
                       const char *next, const struct repl_error *err);
/* Moves all of more behind what is there; more is empty then. */
void repl_findings_join(struct repl_findings *findings, struct repl_findings *more);

const char *repl_finding_level_name(enum repl_finding_level level);
enum repl_finding_level repl_findings_worst(const struct repl_findings *findings);
/* 0: all ok, or notes. 1: a warning. Else the exit code of the first that failed: what comes first
 * is what the rest stands on. */
int repl_findings_exit(const struct repl_findings *findings);

void repl_findings_print(const struct repl_findings *findings, FILE *out);
/* A new reference to an array; NULL: out of memory. */
json_t *repl_findings_to_json(const struct repl_findings *findings);

#endif
