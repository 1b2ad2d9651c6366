/*
 * A page of a bucket's listing, as any bytes: keys are within their bounds, and
 * what is truncated says how it goes on.
 */
#include <stdint.h>
#include <string.h>

#include "base/ensure.h"
#include "store/s3_xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static repl_result seen(void *context, const char *key, uint64_t size, bool is_prefix,
                        struct repl_error *err)
{
    unsigned *count = context;
    ensure(key[0] != '\0' && strlen(key) <= S3_KEY_MAX && ++*count <= S3_LIST_KEYS_MAX);
    ensure(!is_prefix || size == 0);
    return *count == 7 && strlen(key) == 7 ? repl_fail(err, REPL_E_FORK, "enough") : REPL_SUCCESS;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct s3_list_page page;
    struct repl_error err = {0};
    unsigned count = 0;
    if (repl_ok(s3_list_parse((const char *)data, size, seen, &count, &page, &err)))
        ensure(!page.truncated || page.token[0] != '\0');
    else
        ensure(err.text[0] != '\0');
    return 0;
}
