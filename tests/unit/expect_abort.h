/*
 * Whether a call ends in ensure(): tried in a child, whose words are thrown away.
 */
#ifndef TESTS_UNIT_EXPECT_ABORT_H
#define TESTS_UNIT_EXPECT_ABORT_H

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

static inline bool aborts(void (*call)(void *context), void *context)
{
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        signal(SIGABRT, SIG_DFL); /* cmocka catches it */
        call(context);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

#endif
