#include "base/ensure.h"

#include <stdio.h>
#include <stdlib.h>

void repl_ensure_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "repl: internal error: %s is false at %s:%d; please report this\n", condition,
            file, line);
    abort();
}
