#include "sim.h"

#include <stdlib.h>
#include <string.h>

/*
 * Time is the next event's. Two events of the same instant happen in the order
 * in which they were scheduled, so that a run depends on nothing but its seed.
 */

void *sim_alloc(size_t size)
{
    void *memory = calloc(1, size);
    ensure(memory != NULL);
    return memory;
}

uint64_t sim_random(struct sim *sim, uint64_t limit)
{
    return random_below(&sim->random, limit);
}

bool sim_chance(struct sim *sim, unsigned permille)
{
    return permille > 0 && random_below(&sim->random, 1000) < permille;
}

int64_t sim_span(struct sim *sim, int64_t low_ns, int64_t high_ns)
{
    ensure(low_ns > 0 && high_ns >= low_ns);
    unsigned doublings = 0;
    while (low_ns << (doublings + 1) <= high_ns)
        doublings++;
    int64_t least = low_ns << sim_random(sim, doublings + 1);
    int64_t span = least + (int64_t)sim_random(sim, (uint64_t)least);
    return span < high_ns ? span : high_ns;
}

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void swap(struct sim_event *a, struct sim_event *b)
{
    struct sim_event held = *a;
    *a = *b;
    *b = held;
}

void sim_after(struct sim *sim, int64_t delay_ns, const struct sim_life *life, sim_event_fn *call,
               void *actor, uint64_t argument, void *payload, sim_drop_fn *drop)
{
    struct sim_queue *q = &sim->queue;
    if (q->count == q->capacity) {
        q->capacity = q->capacity ? 2 * q->capacity : 256;
        q->events = realloc(q->events, q->capacity * sizeof *q->events);
        ensure(q->events != NULL);
    }
    ensure(delay_ns >= 0);
    size_t i = q->count++;
    q->events[i] = (struct sim_event){.at_ns = sim->now_ns + delay_ns,
                                      .order = q->order++,
                                      .life = life,
                                      .life_number = life->number,
                                      .call = call,
                                      .actor = actor,
                                      .argument = argument,
                                      .payload = payload,
                                      .drop = drop};
    for (; i > 0 && before(&q->events[i], &q->events[(i - 1) / 2]); i = (i - 1) / 2)
        swap(&q->events[i], &q->events[(i - 1) / 2]);
}

static struct sim_event pop(struct sim_queue *q)
{
    struct sim_event first = q->events[0];
    q->events[0] = q->events[--q->count];
    for (size_t i = 0;;) {
        size_t least = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < q->count; child++) {
            if (before(&q->events[child], &q->events[least]))
                least = child;
        }
        if (least == i)
            return first;
        swap(&q->events[i], &q->events[least]);
        i = least;
    }
}

bool sim_step(struct sim *sim, int64_t until_ns)
{
    struct sim_queue *q = &sim->queue;
    if (q->count == 0 || q->events[0].at_ns > until_ns) {
        sim->now_ns = until_ns;
        return false;
    }
    struct sim_event event = pop(q);
    sim->now_ns = event.at_ns;
    if (event.life->number == event.life_number)
        event.call(event.actor, event.argument, event.payload);
    else if (event.drop != NULL)
        event.drop(event.payload);
    return true;
}

void sim_queue_fini(struct sim_queue *q)
{
    for (size_t i = 0; i < q->count; i++) {
        if (q->events[i].drop != NULL)
            q->events[i].drop(q->events[i].payload);
    }
    free(q->events);
    *q = (struct sim_queue){0};
}
