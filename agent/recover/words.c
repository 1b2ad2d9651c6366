#include "recover/words.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NS_PER_S  INT64_C(1000000000)
#define NS_PER_MS INT64_C(1000000)

/* Rounded down, for times before 1970 too. */
static time_t seconds_of(int64_t time_ns, unsigned *ms)
{
    int64_t seconds = time_ns / NS_PER_S, rest = time_ns % NS_PER_S;
    if (rest < 0) {
        rest += NS_PER_S;
        seconds--;
    }
    *ms = (unsigned)(rest / NS_PER_MS);
    return (time_t)seconds;
}

void repl_words_local(int64_t time_ns, char text[REPL_WORDS_SIZE])
{
    unsigned ms;
    time_t seconds = seconds_of(time_ns, &ms);
    struct tm tm;
    char zone[16] = "";
    localtime_r(&seconds, &tm);
    size_t used = strftime(text, REPL_WORDS_SIZE, "%Y-%m-%d %H:%M:%S", &tm);
    strftime(zone, sizeof zone, "%z", &tm);
    snprintf(text + used, REPL_WORDS_SIZE - used, ".%03u %s", ms, zone);
}

void repl_words_utc(int64_t time_ns, char text[REPL_WORDS_SIZE])
{
    unsigned ms;
    time_t seconds = seconds_of(time_ns, &ms);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t used = strftime(text, REPL_WORDS_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + used, REPL_WORDS_SIZE - used, ".%03uZ", ms);
}

void repl_words_duration(int64_t duration_ns, char text[REPL_WORDS_SIZE])
{
    const char *sign = duration_ns < 0 ? "-" : "";
    uint64_t ns = duration_ns < 0 ? 0 - (uint64_t)duration_ns : (uint64_t)duration_ns;
    uint64_t ms = ns / (uint64_t)NS_PER_MS, s = ms / 1000;
    if (s < 1)
        snprintf(text, REPL_WORDS_SIZE, "%s%" PRIu64 " ms", sign, ms);
    else if (s < 60)
        snprintf(text, REPL_WORDS_SIZE, "%s%" PRIu64 ".%" PRIu64 " s", sign, s, ms % 1000 / 100);
    else if (s < 3600)
        snprintf(text, REPL_WORDS_SIZE, "%s%" PRIu64 " min %" PRIu64 " s", sign, s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, REPL_WORDS_SIZE, "%s%" PRIu64 " h %" PRIu64 " min", sign, s / 3600,
                 s % 3600 / 60);
    else
        snprintf(text, REPL_WORDS_SIZE, "%s%" PRIu64 " d %" PRIu64 " h", sign, s / 86400,
                 s % 86400 / 3600);
}

void repl_words_bytes(uint64_t bytes, char text[REPL_WORDS_SIZE])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    uint64_t whole = bytes, rest = 0;
    for (; whole >= 1024; unit++) {
        rest = whole % 1024;
        whole /= 1024;
    }
    if (unit == 0 || rest == 0)
        snprintf(text, REPL_WORDS_SIZE, "%" PRIu64 " %s", whole, units[unit]);
    else
        snprintf(text, REPL_WORDS_SIZE, "%" PRIu64 ".%" PRIu64 " %s", whole, rest * 10 / 1024,
                 units[unit]);
}

const char *repl_words_node(enum repl_node_kind kind)
{
    static const char *const names[] = {
        [REPL_NODE_GONE] = "gone",           [REPL_NODE_FILE] = "file",
        [REPL_NODE_DIRECTORY] = "directory", [REPL_NODE_SYMLINK] = "symlink",
        [REPL_NODE_FIFO] = "fifo",           [REPL_NODE_CHARACTER] = "character",
        [REPL_NODE_BLOCK] = "block",         [REPL_NODE_SOCKET] = "socket"};
    return names[kind];
}

const char *repl_words_consistency(enum repl_consistency consistency)
{
    switch (consistency) {
    case REPL_CONSISTENCY_NONE:
        return "none";
    case REPL_CONSISTENCY_CRASH:
        return "crash";
    case REPL_CONSISTENCY_FILESYSTEM:
        return "filesystem";
    case REPL_CONSISTENCY_APPLICATION:
        return "application";
    case REPL_CONSISTENCY_PER_FILE:
        return "per-file";
    }
    return "unknown";
}

const char *repl_words_cut(enum repl_cut cut)
{
    switch (cut) {
    case REPL_CUT_QUIET:
        return "quiet";
    case REPL_CUT_WINDOW:
        return "window";
    case REPL_CUT_FREEZE:
        return "freeze";
    case REPL_CUT_COMMAND:
        return "command";
    case REPL_CUT_FILES:
        return "files";
    case REPL_CUT_SNAPSHOT:
        return "snapshot";
    }
    return "unknown";
}
