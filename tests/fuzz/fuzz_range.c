/*
 * The header Range: a decimal size of the file, a line feed, the header. What is accepted lies
 * within the file, and the range written plainly from the answer means the same.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "site/site_ask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_range(const char *text, uint64_t total)
{
    uint64_t offset, size, offset_again, size_again;
    char plain[64];
    if (!site_range_parse(text, total, &offset, &size))
        return;
    ensure(size > 0 && offset < total && size <= total - offset);
    snprintf(plain, sizeof plain, "bytes=%" PRIu64 "-%" PRIu64, offset, offset + size - 1);
    ensure(site_range_parse(plain, total, &offset_again, &size_again));
    ensure(offset_again == offset && size_again == size);
    if (offset + size < total) /* of a longer file it is the same, unless its end was asked for */
        ensure(text[6] == '-' || text[strlen(text) - 1] != '-');
    else
        ensure(!site_range_parse(plain, offset, &offset_again, &size_again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *rest = text;
    ensure(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    uint64_t total = strtoull(strsep(&rest, "\n"), NULL, 10);
    if (rest != NULL) {
        try_range(rest, total);
        try_range(rest, total % 1024);
        try_range(rest, UINT64_MAX);
    }
    free(text);
    return 0;
}
