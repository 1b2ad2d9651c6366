#include "link/throttle.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "loop/loop.h"

#define WAIT_MIN_NS INT64_C(10000000)  /* what comes in less is not worth waking up for */
#define WAIT_MAX_NS INT64_C(100000000) /* how soon a stop is heard */

struct repl_throttle {
    struct repl_pace_plan plan;
    struct repl_throttle_clock clock;
    atomic_bool stopped;
    pthread_mutex_t mutex; /* guards pace */
    struct repl_pace pace;
};

uint64_t repl_bandwidth_now(const struct repl_pace_plan *plan)
{
    struct tm local;
    if (plan->count == 0)
        return plan->bytes_per_s;
    time_t now = time(NULL);
    localtime_r(&now, &local);
    return repl_pace_rate(plan, (uint32_t)(local.tm_hour * 3600 + local.tm_min * 60 +
                                           (local.tm_sec < 60 ? local.tm_sec : 59)));
}

static int64_t host_now_ns(void *context)
{
    (void)context;
    return repl_now_mono_ns();
}

static void host_wait_until(void *context, int64_t until_ns)
{
    (void)context;
    struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

repl_result repl_throttle_new(const struct repl_pace_plan *plan,
                              const struct repl_throttle_clock *clock, struct repl_throttle **out,
                              struct repl_error *err)
{
    struct repl_throttle *throttle = calloc(1, sizeof *throttle);
    if (throttle == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a limit of the bandwidth");
    throttle->plan = *plan;
    throttle->clock = clock != NULL ? *clock
                                    : (struct repl_throttle_clock){.now_ns = host_now_ns,
                                                                   .wait_until = host_wait_until};
    pthread_mutex_init(&throttle->mutex, NULL);
    *out = throttle;
    return REPL_SUCCESS;
}

void repl_throttle_free(struct repl_throttle *throttle)
{
    if (throttle == NULL)
        return;
    pthread_mutex_destroy(&throttle->mutex);
    free(throttle);
}

static int64_t wake_ns(int64_t now_ns, int64_t until_ns)
{
    if (until_ns < now_ns + WAIT_MIN_NS)
        return now_ns + WAIT_MIN_NS;
    return until_ns < now_ns + WAIT_MAX_NS ? until_ns : now_ns + WAIT_MAX_NS;
}

repl_result repl_throttle_wait(struct repl_throttle *throttle, uint64_t bytes,
                               struct repl_error *err)
{
    while (bytes > 0) {
        if (atomic_load(&throttle->stopped))
            return repl_fail(err, REPL_E_RETRY, "interrupted");
        int64_t now_ns = throttle->clock.now_ns(throttle->clock.context), until_ns = now_ns;
        uint64_t rate = repl_bandwidth_now(&throttle->plan);
        pthread_mutex_lock(&throttle->mutex);
        uint64_t taken = repl_pace_take(&throttle->pace, now_ns, rate, bytes, &until_ns);
        pthread_mutex_unlock(&throttle->mutex);
        bytes -= taken;
        if (taken == 0)
            throttle->clock.wait_until(throttle->clock.context, wake_ns(now_ns, until_ns));
    }
    return REPL_SUCCESS;
}

void repl_throttle_stop(struct repl_throttle *throttle)
{
    if (throttle != NULL)
        atomic_store(&throttle->stopped, true);
}
