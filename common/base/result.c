#include <stdio.h>
#include <string.h>

#include "repl/error.h"

/* clang checks the format strings of its callers instead of this one. */
__attribute__((format(printf, 4, 0))) static void error_set(struct repl_error *err,
                                                            enum repl_code code, int os_errno,
                                                            const char *format, va_list args)
{
    err->code = code;
    err->os_errno = os_errno;
    int used = vsnprintf(err->text, sizeof err->text, format, args);
    if (os_errno == 0 || used < 0 || (size_t)used >= sizeof err->text)
        return;
    snprintf(err->text + used, sizeof err->text - (size_t)used, ": %s", strerror(os_errno));
}

repl_result repl_fail(struct repl_error *err, enum repl_code code, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        error_set(err, code, 0, format, args);
        va_end(args);
    }
    return (repl_result){code};
}

repl_result repl_fail_errno(struct repl_error *err, enum repl_code code, int os_errno,
                            const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        va_start(args, format);
        error_set(err, code, os_errno, format, args);
        va_end(args);
    }
    return (repl_result){code};
}

repl_result repl_forward(repl_result result, struct repl_error *err, const char *format, ...)
{
    if (result.code == REPL_OK || err == NULL)
        return result;
    char text[REPL_ERROR_TEXT_SIZE];
    va_list args;
    va_start(args, format);
    int used = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (used < 0 || (size_t)used >= sizeof text)
        return result;
    snprintf(text + used, sizeof text - (size_t)used, ": %.*s", (int)(sizeof text - 3) - used,
             err->text);
    memcpy(err->text, text, sizeof text);
    return result;
}

const char *repl_code_name(enum repl_code code)
{
    static const char *const names[REPL_CODE_COUNT] = {
        [REPL_OK] = "ok",
        [REPL_E_RETRY] = "retry",
        [REPL_E_NOSPACE] = "no-space",
        [REPL_E_LOCKED] = "locked",
        [REPL_E_CORRUPT] = "corrupt",
        [REPL_E_MISSING] = "missing",
        [REPL_E_REFUSED] = "refused",
        [REPL_E_VERSION] = "version",
        [REPL_E_FORK] = "fork",
        [REPL_E_FENCED] = "fenced",
        [REPL_E_USAGE] = "usage",
        [REPL_E_IO] = "io",
        [REPL_E_NOMEM] = "memory",
        [REPL_E_INTERNAL] = "internal",
    };
    return (unsigned)code < REPL_CODE_COUNT ? names[code] : "unknown";
}

enum repl_exit repl_exit_code(enum repl_code code)
{
    switch (code) {
    case REPL_OK:
        return REPL_EXIT_OK;
    case REPL_E_RETRY:
    case REPL_E_NOSPACE:
        return REPL_EXIT_RETRY;
    case REPL_E_LOCKED:
        return REPL_EXIT_LOCKED;
    case REPL_E_CORRUPT:
    case REPL_E_MISSING:
        return REPL_EXIT_CORRUPT;
    case REPL_E_REFUSED:
    case REPL_E_VERSION:
    case REPL_E_FORK:
    case REPL_E_FENCED:
        return REPL_EXIT_REFUSED;
    case REPL_E_USAGE:
        return REPL_EXIT_USAGE;
    case REPL_E_IO:
    case REPL_E_NOMEM:
    case REPL_E_INTERNAL:
    case REPL_CODE_COUNT:
        break;
    }
    return REPL_EXIT_INTERNAL;
}
