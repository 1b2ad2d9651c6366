/*
 * ensure(): what must not happen. It stays on in release builds: going on in a
 * state that cannot be would put wrong bytes where an acknowledged point lies.
 */
#ifndef REPL_BASE_ENSURE_H
#define REPL_BASE_ENSURE_H

_Noreturn void repl_ensure_failed(const char *condition, const char *file, int line);

#define ensure(condition)                                                                          \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            repl_ensure_failed(#condition, __FILE_NAME__, __LINE__);                               \
    } while (0)

#endif
