/*
 * The body of a failed request, as any bytes: what is taken from it is printable
 * and within its bounds.
 */
#include <stdint.h>
#include <string.h>

#include "base/ensure.h"
#include "store/s3_xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *text, size_t room)
{
    size_t size = strnlen(text, room);
    ensure(size < room);
    for (size_t i = 0; i < size; i++)
        ensure(text[i] >= ' ' && text[i] <= '~');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct s3_error_text text;
    s3_error_parse((const char *)data, size, &text);
    check(text.code, sizeof text.code);
    check(text.message, sizeof text.message);
    check(text.region, sizeof text.region);
    check(text.server_time, sizeof text.server_time);
    return 0;
}
