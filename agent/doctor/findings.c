#include "doctor/findings.h"

#include <stdlib.h>
#include <string.h>

void repl_findings_fini(struct repl_findings *findings)
{
    free(findings->list);
    *findings = (struct repl_findings){0};
}

static struct repl_finding *finding_new(struct repl_findings *findings)
{
    if (findings->count == findings->room) {
        size_t room = findings->room > 0 ? 2 * findings->room : 8;
        struct repl_finding *list = reallocarray(findings->list, room, sizeof *list);
        if (list == NULL) {
            findings->lost = true;
            return NULL;
        }
        findings->list = list;
        findings->room = room;
    }
    struct repl_finding *finding = &findings->list[findings->count++];
    memset(finding, 0, sizeof *finding);
    return finding;
}

static struct repl_finding *finding_begin(struct repl_findings *findings,
                                          enum repl_finding_level level, const char *check,
                                          const char *subject, const char *next)
{
    struct repl_finding *finding = finding_new(findings);
    if (finding == NULL)
        return NULL;
    finding->level = level;
    snprintf(finding->check, sizeof finding->check, "%s", check);
    snprintf(finding->subject, sizeof finding->subject, "%s", subject != NULL ? subject : "");
    snprintf(finding->next, sizeof finding->next, "%s", next != NULL ? next : "");
    return finding;
}

void repl_finding_add(struct repl_findings *findings, enum repl_finding_level level,
                      const char *check, const char *subject, const char *next, const char *format,
                      ...)
{
    struct repl_finding *finding = finding_begin(findings, level, check, subject, next);
    va_list args;
    if (finding == NULL)
        return;
    va_start(args, format);
    vsnprintf(finding->text, sizeof finding->text, format, args);
    va_end(args);
}

void repl_finding_fail(struct repl_findings *findings, const char *check, const char *subject,
                       const char *next, const struct repl_error *err)
{
    struct repl_finding *finding =
        finding_begin(findings, REPL_FINDING_FAILED, check, subject, next);
    if (finding == NULL)
        return;
    finding->code = err->code;
    snprintf(finding->text, sizeof finding->text, "%s", err->text);
}

void repl_finding_warn(struct repl_findings *findings, const char *check, const char *subject,
                       const char *next, const struct repl_error *err)
{
    repl_finding_add(findings, REPL_FINDING_WARNING, check, subject, next, "%s", err->text);
}

void repl_findings_join(struct repl_findings *findings, struct repl_findings *more)
{
    for (size_t i = 0; i < more->count; i++) {
        struct repl_finding *finding = finding_new(findings);
        if (finding != NULL)
            *finding = more->list[i];
    }
    findings->lost |= more->lost;
    repl_findings_fini(more);
}

const char *repl_finding_level_name(enum repl_finding_level level)
{
    static const char *const names[] = {"ok", "note", "warning", "failed"};
    return names[level];
}

enum repl_finding_level repl_findings_worst(const struct repl_findings *findings)
{
    enum repl_finding_level worst = findings->lost ? REPL_FINDING_FAILED : REPL_FINDING_OK;
    for (size_t i = 0; i < findings->count; i++)
        if (findings->list[i].level > worst)
            worst = findings->list[i].level;
    return worst;
}

int repl_findings_exit(const struct repl_findings *findings)
{
    for (size_t i = 0; i < findings->count; i++)
        if (findings->list[i].level == REPL_FINDING_FAILED)
            return (int)repl_exit_code(findings->list[i].code);
    if (findings->lost)
        return REPL_EXIT_INTERNAL;
    return repl_findings_worst(findings) == REPL_FINDING_WARNING ? REPL_EXIT_WARNING : REPL_EXIT_OK;
}

void repl_findings_print(const struct repl_findings *findings, FILE *out)
{
    for (size_t i = 0; i < findings->count; i++) {
        const struct repl_finding *finding = &findings->list[i];
        fprintf(out, "%-7s  %-10s  %s%s%s%s\n", repl_finding_level_name(finding->level),
                finding->check, finding->subject[0] != '\0' ? "volume " : "", finding->subject,
                finding->subject[0] != '\0' ? ": " : "", finding->text);
        if (finding->next[0] != '\0')
            fprintf(out, "%-7s  %-10s  next: %s\n", "", "", finding->next);
    }
    if (findings->lost)
        fprintf(out, "failed   memory      out of memory: some findings are missing here\n");
}

json_t *repl_findings_to_json(const struct repl_findings *findings)
{
    json_t *list = json_array();
    for (size_t i = 0; i < findings->count; i++) {
        const struct repl_finding *finding = &findings->list[i];
        json_t *entry =
            json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "level",
                      repl_finding_level_name(finding->level), "check", finding->check, "volume",
                      finding->subject, "text", finding->text, "next", finding->next, "code",
                      finding->level == REPL_FINDING_FAILED ? repl_code_name(finding->code) : "");
        if (json_array_append_new(list, entry) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}
