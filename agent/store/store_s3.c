#include "store/s3.h"

repl_result repl_s3_store_open(const struct repl_store_options *options, struct repl_store **out,
                               struct repl_error *err)
{
    (void)out;
    return repl_fail(err, REPL_E_USAGE, "%s: not yet", options->location);
}
