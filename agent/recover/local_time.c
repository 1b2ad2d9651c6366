/*
 * By the offsets a day before and a day behind, of which each is tried. mktime is not asked: it
 * knows of summer time alone, and takes any of two moments between which a zone changed for good.
 */
#include "recover/local_time.h"

#include <stdbool.h>
#include <stdio.h>

#define DAY_S 86400

static int64_t offset_at(int64_t at_s)
{
    time_t at = (time_t)at_s;
    struct tm local = {0};
    return localtime_r(&at, &local) != NULL ? local.tm_gmtoff : 0;
}

void repl_local_moments(const struct tm *local, struct repl_local_moments *out)
{
    struct tm copy = *local;
    int64_t as_utc = (int64_t)timegm(&copy);
    int64_t before = offset_at(as_utc - DAY_S), behind = offset_at(as_utc + DAY_S);
    int64_t by_before = as_utc - before, by_behind = as_utc - behind;
    bool in_before = offset_at(by_before) == before, in_behind = offset_at(by_behind) == behind;
    out->count = (unsigned)in_before + (unsigned)(in_behind && by_behind != by_before);
    out->at_s[0] = by_before < by_behind ? by_before : by_behind;
    out->at_s[1] = by_before < by_behind ? by_behind : by_before;
    if (out->count == 1)
        out->at_s[0] = out->at_s[1] = in_before ? by_before : by_behind;
}

void repl_local_text(int64_t at_s, char text[REPL_LOCAL_TEXT_SIZE])
{
    time_t at = (time_t)at_s;
    struct tm local = {0};
    localtime_r(&at, &local);
    size_t used = strftime(text, REPL_LOCAL_TEXT_SIZE, "%Y-%m-%dT%H:%M:%S", &local);
    int64_t minutes = local.tm_gmtoff / 60;
    int64_t size = minutes < 0 ? -minutes : minutes;
    snprintf(text + used, REPL_LOCAL_TEXT_SIZE - used, "%c%02d:%02d", minutes < 0 ? '-' : '+',
             (int)(size / 60), (int)(size % 60));
}
