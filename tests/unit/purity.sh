#!/bin/sh
# The core decides and does nothing: no system call, clock, thread, log or global state. This looks
# at what librepl_core.a wants from outside, name by name, and at the variables it keeps.
#
#   purity.sh LIBRARY [C-COMPILER]     the compiler is for trying that this would find something
#
# Symbols that sanitizers, coverage and the compiler itself put in are let through.
set -eu

library=$1
compiler=${2:-cc}

# Memory, strings and formatting into memory.
allowed='malloc|calloc|realloc|free|posix_memalign|aligned_alloc|qsort|strerror|v?snprintf'
allowed="$allowed|(mem(cpy|move|set|cmp|chr|rchr|mem)|bcmp)"
allowed="$allowed|str(len|nlen|cmp|ncmp|chr|rchr|str|spn|cspn|dup|ndup)"
# Compression and hashing.
allowed="$allowed|ZSTD_[A-Za-z0-9_]*|XXH[A-Z0-9]*_[A-Za-z0-9_]*|EVP_[A-Za-z0-9_]*"
# What compilers emit: arithmetic helpers, stack protector, fortified copies of the above.
compiled='__popcountdi2|__stack_chk_fail|_GLOBAL_OFFSET_TABLE_'
compiled="$compiled|__(memcpy|memmove|memset|snprintf|vsnprintf)_chk"
compiled="$compiled|__(asan|ubsan|tsan|sanitizer|sancov|gcov|llvm)_[A-Za-z0-9_]*"
compiled="$compiled|__st(art|op)___sancov_[a-z0-9_]*"
# How an assertion ends: only in ensure.c.
ending='abort|fprintf|fwrite|__fprintf_chk|stderr'

# Lines "object symbol" of what the library neither has itself nor may ask for.
impure_symbols()
{
    nm -g --defined-only "$1" 2>/dev/null | awk 'NF == 3 { print $3 }' | sort -u >"$scratch/defined"
    nm -A -u "$1" | sed 's/^[^:]*:\([^:]*\):.*[Uwv] /\1 /' | sort -u >"$scratch/wanted"
    awk 'NR == FNR { have[$1] = 1; next } !($2 in have)' "$scratch/defined" "$scratch/wanted" |
        grep -Ev " ($allowed|$compiled)$" | grep -Ev "^ensure\.c\.o ($ending)$" || true
}

# Names of variables that can change (constant tables lie in .rodata and .data.rel.ro).
impure_variables()
{
    objdump -t "$1" | awk 'NF >= 5 && $NF !~ /^\./ {
        section = $(NF - 2)
        if (section !~ /^\.data\.rel\.ro/ && section ~ /^(\.(data|bss|tdata|tbss)|\*COM\*)/)
            print $NF
    }' | sort -u
}

# An object that does what must not be done, so that a clean answer means something.
self_test()
{
    cat >"$scratch/impure.c" <<'END'
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
int counter_of_calls;
const char *text_of_state = "text";
static const char *const names[] = {"no", "state"};
int impure(char *text);
int impure(char *text)
{
    struct timespec now;
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    counter_of_calls++;
    clock_gettime(CLOCK_REALTIME, &now);
    pthread_mutex_lock(&mutex);
    if (strlen(text) == 7 || getenv(text) != NULL)
        abort();
    return open(text, O_RDONLY) + (int)time(NULL) + puts(names[now.tv_nsec % 2]) +
           getpid();
}
END
    "$compiler" -O0 -c -o "$scratch/impure.c.o" "$scratch/impure.c"
    ar rc "$scratch/impure.a" "$scratch/impure.c.o"
    found=$(impure_symbols "$scratch/impure.a" | sed 's/.* //' | tr '\n' ' ')
    expected="abort clock_gettime getenv getpid open pthread_mutex_lock puts time "
    if [ "$found" != "$expected" ]; then
        echo "self-test: expected to find '$expected', found '$found'"
        exit 1
    fi
    found=$(impure_variables "$scratch/impure.a" | tr '\n' ' ')
    if [ "$found" != "counter_of_calls text_of_state " ]; then
        echo "self-test: expected to find two variables, found '$found'"
        exit 1
    fi
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
self_test

failed=0
symbols=$(impure_symbols "$library")
if [ -n "$symbols" ]; then
    echo "the core asks for what only the agent may do (object, symbol):"
    echo "$symbols"
    failed=1
fi
if nm "$library" 2>/dev/null | grep -qE ' __(asan|tsan|sancov|sanitizer|gcov|llvm)_'; then
    echo "instrumented build: variables are not looked at, the instrumentation has its own"
else
    variables=$(impure_variables "$library")
    if [ -n "$variables" ]; then
        echo "the core has state of its own:"
        echo "$variables"
        failed=1
    fi
fi
[ $failed -eq 0 ] && echo "pure: $(awk 'END { print NR }' "$scratch/wanted") references looked at"
exit $failed
