/*
 * Results and error numbers.
 *
 * Every function that can fail returns a repl_result, which the compiler does
 * not let a caller drop, and takes a struct repl_error in which it leaves one
 * sentence that says where and why. Codes are grouped by what the caller can
 * do about them, and so are the exit codes of the program (repl_exit_code).
 */
#ifndef REPL_ERROR_H
#define REPL_ERROR_H

#include <stdarg.h>
#include <stdbool.h>

enum repl_code {
    REPL_OK = 0,

    /* Later it may work: try again. */
    REPL_E_RETRY,   /* link down, peer busy, timeout */
    REPL_E_NOSPACE, /* disk full, spool or store limit reached */
    REPL_E_LOCKED,  /* somebody else holds it */

    /* The data is not what it should be. */
    REPL_E_CORRUPT, /* damaged or truncated: a checksum, bound or order is wrong */
    REPL_E_MISSING, /* something it refers to is not there */

    /* Correct input, but the answer is no. */
    REPL_E_REFUSED, /* not permitted, not safe, wrong target */
    REPL_E_VERSION, /* a format or protocol this program does not speak */
    REPL_E_FORK,    /* the peer's history is not a continuation of ours */
    REPL_E_FENCED,  /* another lineage owns the volume now */

    /* The caller's words are wrong. */
    REPL_E_USAGE, /* arguments or configuration */

    /* The machine failed us. */
    REPL_E_IO,       /* the kernel reported an error; os_errno says which */
    REPL_E_NOMEM,    /* out of memory, or a bound of base/limits.h reached */
    REPL_E_INTERNAL, /* a state that should not occur */

    REPL_CODE_COUNT,
};

typedef struct repl_result {
    enum repl_code code;
} repl_result;

/* Room for one sentence; longer text is cut at the end, never written past it. */
#define REPL_ERROR_TEXT_SIZE 512

struct repl_error {
    enum repl_code code;
    int os_errno; /* 0 where no system call failed */
    char text[REPL_ERROR_TEXT_SIZE];
};

/* Declares a function whose result must be looked at. */
#define REPL_RESULT __attribute__((warn_unused_result)) repl_result

#define REPL_SUCCESS ((repl_result){REPL_OK})

/* Raises: fills *err (which may be NULL) and returns the code. */
REPL_RESULT repl_fail(struct repl_error *err, enum repl_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a failed system call; strerror's text is appended. */
REPL_RESULT repl_fail_errno(struct repl_error *err, enum repl_code code, int os_errno,
                            const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Forwards: puts "context: " before the text of a failed result; passes success through. */
REPL_RESULT repl_forward(repl_result result, struct repl_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* For the rare caller that has a reason, said in a comment, not to care. */
static inline void repl_ignore(repl_result result)
{
    (void)result;
}

static inline bool repl_ok(repl_result result)
{
    return result.code == REPL_OK;
}

/* Leaves the function with the result of a call that failed. */
#define REPL_TRY(call)                                                                             \
    do {                                                                                           \
        repl_result try_result_ = (call);                                                          \
        if (try_result_.code != REPL_OK)                                                           \
            return try_result_;                                                                    \
    } while (0)

/* A short lower-case name: "corrupt", "fork". Never NULL. */
const char *repl_code_name(enum repl_code code);

/* Exit codes of the program, documented in repl(1). */
enum repl_exit {
    REPL_EXIT_OK = 0,
    REPL_EXIT_WARNING = 1, /* done, but something wants attention */
    REPL_EXIT_RETRY = 2,
    REPL_EXIT_LOCKED = 3,
    REPL_EXIT_CORRUPT = 4,
    REPL_EXIT_REFUSED = 5,
    REPL_EXIT_USAGE = 64,
    REPL_EXIT_INTERNAL = 70,
};

enum repl_exit repl_exit_code(enum repl_code code);

#endif
