/*
 * States of a request: wanted (done not called yet) and busy (the thread is in
 * the kernel) are independent: a request may be given up while the thread is
 * still busy with it, and the thread's answer is then for nobody.
 */
#include "source/capture/syncer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <syslog.h>
#include <unistd.h>

#include "control/control.h"

struct repl_syncer {
    struct repl_loop *loop;
    repl_syncer_fn *done;
    void *context;
    bool wanted;
    bool busy; /* as the loop's thread knows it */
    struct repl_poll poll;
    struct repl_timer timer;
    int event_fd;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    bool begin, quit;
    struct repl_device device;
};

/* A disk that is gone fails every sync: said once, and once more when it is back. */
static void device_sync(const struct repl_device *device, bool *failing)
{
    struct repl_error err;
    bool failed = !repl_ok(repl_device_sync(device, &err));
    if (failed && !*failing)
        repl_log(LOG_WARNING, "%s: data not yet on the disk may be missing from the next points",
                 err.text);
    else if (!failed && *failing)
        repl_log(LOG_NOTICE, "%s: it can be synced again", device->path);
    *failing = failed;
}

static void *syncer_main(void *argument)
{
    struct repl_syncer *s = argument;
    bool failing = false;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->begin && !s->quit)
            pthread_cond_wait(&s->wake, &s->lock);
        if (s->quit)
            break;
        s->begin = false;
        struct repl_device device = s->device;
        pthread_mutex_unlock(&s->lock);
        device_sync(&device, &failing);
        close(device.fd);
        uint64_t one = 1;
        while (write(s->event_fd, &one, sizeof one) < 0 && errno == EINTR)
            continue;
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void answer(struct repl_syncer *s, bool in_time)
{
    repl_timer_cancel(&s->timer);
    if (!s->wanted)
        return;
    s->wanted = false;
    s->done(s->context, in_time);
}

static void thread_answered(struct repl_poll *poll_, unsigned events)
{
    struct repl_syncer *s = poll_->context;
    uint64_t count;
    (void)events;
    if (read(s->event_fd, &count, sizeof count) != (ssize_t)sizeof count)
        return;
    s->busy = false;
    answer(s, true);
}

static void limit_over(struct repl_timer *timer)
{
    answer(timer->context, false);
}

repl_result repl_syncer_new(struct repl_loop *loop, repl_syncer_fn *done, void *context,
                            struct repl_syncer **out, struct repl_error *err)
{
    struct repl_syncer *s = calloc(1, sizeof *s);
    if (s == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a syncer");
    s->loop = loop;
    s->done = done;
    s->context = context;
    s->poll = (struct repl_poll){.ready = thread_answered, .context = s};
    s->timer = (struct repl_timer){.fire = limit_over, .context = s};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int failed = s->event_fd < 0 ? errno : pthread_create(&s->thread, NULL, syncer_main, s);
    if (failed != 0) {
        if (s->event_fd >= 0)
            close(s->event_fd);
        free(s);
        return repl_fail_errno(err, REPL_E_NOMEM, failed, "a thread for syncfs");
    }
    repl_poll_start(loop, &s->poll, s->event_fd, POLLIN);
    *out = s;
    return REPL_SUCCESS;
}

void repl_syncer_free(struct repl_syncer *s)
{
    if (s == NULL)
        return;
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    if (s->begin) /* asked for and never begun */
        close(s->device.fd);
    repl_poll_stop(&s->poll);
    repl_timer_cancel(&s->timer);
    close(s->event_fd);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void repl_syncer_start(struct repl_syncer *s, const struct repl_device *device, int64_t limit_ns)
{
    s->wanted = true;
    repl_timer_arm(s->loop, &s->timer, repl_now_mono_ns() + limit_ns);
    /* A descriptor of its own: the volume may close its device while the thread hangs. */
    int fd = s->busy ? -1 : dup(device->fd);
    if (fd < 0)
        return;
    s->busy = true;
    pthread_mutex_lock(&s->lock);
    s->device = *device;
    s->device.fd = fd;
    s->device.stat_fd = s->device.iostats_fd = -1;
    s->begin = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void repl_syncer_cancel(struct repl_syncer *s)
{
    s->wanted = false;
    repl_timer_cancel(&s->timer);
}
