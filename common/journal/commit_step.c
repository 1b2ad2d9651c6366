#include "base/ensure.h"
#include "journal/journal.h"

enum repl_commit_step repl_commit_next(enum repl_commit_step step, bool succeeded)
{
    if (!succeeded)
        return REPL_COMMIT_FAILED;
    switch (step) {
    case REPL_COMMIT_SYNC:
        return REPL_COMMIT_VERIFY;
    case REPL_COMMIT_VERIFY:
        return REPL_COMMIT_PUBLISH;
    case REPL_COMMIT_PUBLISH:
        return REPL_COMMIT_LOG;
    case REPL_COMMIT_LOG:
        return REPL_COMMIT_DONE;
    case REPL_COMMIT_DONE:
    case REPL_COMMIT_FAILED:
        break;
    }
    ensure(!"a step follows the last one");
    return REPL_COMMIT_FAILED;
}
