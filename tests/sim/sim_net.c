#include "sim.h"

#include <stdlib.h>

/*
 * Requests and answers as HTTP has them: pieces of one request arrive in order,
 * those of two requests in any. A message may be lost, late, or come twice
 * (the source numbers the copy apart, so that nobody hears its answer). Which
 * bytes of an upload get through is decided at its start, by the source's shell.
 */

struct sim_message *sim_message_new(enum sim_message_type type, struct sim_source *source,
                                    uint64_t request)
{
    struct sim_message *message = sim_alloc(sizeof *message);
    message->type = type;
    message->source = source;
    message->request = request;
    return message;
}

void sim_message_drop(void *payload)
{
    struct sim_message *message = payload;
    repl_buffer_fini(&message->bytes);
    free(message);
}

bool sim_net_is_down(const struct sim *sim)
{
    return !sim->calm && sim->now_ns < sim->net.down_until_ns;
}

static int64_t latency(struct sim *sim)
{
    int64_t delay = sim->net.latency_ns + (int64_t)sim_random(sim, (uint64_t)sim->net.latency_ns);
    if (sim->calm || !sim_chance(sim, sim->net.slow))
        return delay;
    sim->counts->slow_messages++;
    return delay + sim_span(sim, 100 * SIM_MS, 30 * SIM_SECOND);
}

static void deliver_request(void *actor, uint64_t argument, void *payload)
{
    struct sim *sim = actor;
    struct sim_message *message = payload;
    if (sim_net_is_down(sim) || !sim->site.up)
        sim_message_drop(message);
    else
        sim_site_request(&sim->site, argument, message);
}

void sim_net_request(struct sim *sim, struct sim_message *message, int64_t *not_before_ns)
{
    if (sim_net_is_down(sim)) {
        sim_message_drop(message);
        return;
    }
    if (!sim->calm && !message->source->is_clone && sim_chance(sim, sim->net.request_loss)) {
        sim->counts->lost_requests++;
        sim_message_drop(message);
        return;
    }
    int64_t at = sim->now_ns + latency(sim);
    if (at < *not_before_ns)
        at = *not_before_ns;
    *not_before_ns = at;
    sim_after(sim, at - sim->now_ns, &sim->world_net, deliver_request, sim, 0, message,
              sim_message_drop);
}

void sim_net_answer(struct sim *sim, struct sim_message *message)
{
    if (sim_net_is_down(sim) || !message->source->up) {
        sim_message_drop(message);
        return;
    }
    if (!sim->calm && !message->source->is_clone && sim_chance(sim, sim->net.answer_loss)) {
        sim->counts->lost_answers++;
        sim_message_drop(message);
        return;
    }
    sim_after(sim, latency(sim), &message->source->life, sim_source_answer, message->source, 0,
              message, sim_message_drop);
}
