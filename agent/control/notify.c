/*
 * What the service says to the machine: readiness to the service manager, lines
 * to the log.
 *
 * The notification is one datagram (sd_notify(3)); losing it is not worth an
 * error, because the manager's own timeout will say so. A log line goes out in
 * one write, so that lines of several threads do not mix.
 */
#include "control/control.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_SIZE 2048

void repl_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (path == NULL || (path[0] != '/' && path[0] != '@'))
        return;
    size_t size = strlen(path);
    if (size >= sizeof address.sun_path)
        return;
    memcpy(address.sun_path, path, size);
    if (path[0] == '@') /* an abstract name */
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t address_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
    ssize_t sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL,
                          (const struct sockaddr *)(const void *)&address, address_size);
    (void)sent;
    close(fd);
}

/* $JOURNAL_STREAM names the journal's socket; somebody may have put another file in its place. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat status;
    return stream != NULL && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

static size_t prefix_time(char *line, size_t size)
{
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &parts);
    size_t used = strftime(line, size, "%Y-%m-%d %H:%M:%S", &parts);
    return used + (size_t)snprintf(line + used, size - used, ".%03ld ", now.tv_nsec / 1000000);
}

static const char *level_word(int level)
{
    if (level <= LOG_ERR)
        return "error: ";
    return level == LOG_WARNING ? "warning: " : "";
}

void repl_log(int level, const char *format, ...)
{
    char line[LOG_LINE_SIZE];
    size_t used;
    if (stderr_is_journal()) {
        used = (size_t)snprintf(line, sizeof line, "<%d>", level);
    } else {
        used = prefix_time(line, sizeof line);
        used += (size_t)snprintf(line + used, sizeof line - used, "%s", level_word(level));
    }
    va_list args;
    va_start(args, format);
    int size = vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    if (size < 0)
        return;
    used += (size_t)size < sizeof line - used - 1 ? (size_t)size : sizeof line - used - 2;
    line[used++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written; /* there is nowhere to say that the log is gone */
}
