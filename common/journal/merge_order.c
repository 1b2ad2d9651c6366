#include "journal/merge_order.h"

#include "base/ensure.h"

enum repl_merge_step repl_merge_step_next(enum repl_merge_step step, bool succeeded)
{
    ensure(step <= REPL_MERGE_LOG);
    if (!succeeded) /* an append that failed may be durable all the same */
        return step == REPL_MERGE_LOG ? REPL_MERGE_LEAVE : REPL_MERGE_DISCARD;
    return (enum repl_merge_step)(step + 1);
}
