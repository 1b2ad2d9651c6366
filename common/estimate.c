#include "estimate.h"

#include <string.h>

#include "base/ensure.h"

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S  INT64_C(1000000000)
#define S_PER_DAY 86400
#define SPARE_NS  (NS_PER_S / 4)

const int64_t repl_estimate_rpo_ms[REPL_ESTIMATE_CHOICES] = {1000, 10000, 60000, 600000, 3600000};

void repl_estimate_begin(struct repl_estimate *estimate, int64_t now_ns)
{
    memset(estimate, 0, sizeof *estimate);
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++)
        estimate->choices[i].begin_ns = now_ns;
}

bool repl_estimate_due(const struct repl_estimate *estimate, unsigned choice, int64_t now_ns)
{
    ensure(choice < REPL_ESTIMATE_CHOICES);
    return now_ns - estimate->choices[choice].begin_ns >=
           repl_estimate_rpo_ms[choice] * NS_PER_MS - SPARE_NS;
}

void repl_estimate_add(struct repl_estimate *estimate, unsigned choice, int64_t now_ns,
                       const struct repl_estimate_window *window)
{
    bool whole = repl_estimate_due(estimate, choice, now_ns);
    struct repl_estimate_choice *c = &estimate->choices[choice];
    int64_t length_ns = now_ns - c->begin_ns;
    ensure(length_ns >= 0 && window->read_bytes <= window->changed_bytes);
    c->begin_ns = now_ns;
    if (length_ns == 0 || (!whole && c->windows > 0))
        return;
    double scale = repl_estimate_share((double)window->changed_bytes, (double)window->read_bytes);
    double sent = scale * (double)(window->stored_bytes + window->notes_bytes) +
                  (double)window->records_bytes;
    double rate = sent * (double)NS_PER_S / (double)length_ns;
    c->whole = whole;
    c->windows++;
    c->measured_ns += length_ns;
    c->sampled |= window->read_bytes < window->changed_bytes;
    c->changed_bytes += (double)window->changed_bytes;
    c->unchanged_bytes += scale * (double)window->unchanged_bytes;
    c->zero_bytes += scale * (double)window->zero_bytes;
    c->duplicate_bytes += scale * (double)window->duplicate_bytes;
    c->frame_bytes += scale * (double)window->frame_bytes;
    c->stored_bytes += scale * (double)window->stored_bytes;
    c->sent_bytes += sent;
    if (rate > c->busiest_bytes_per_s)
        c->busiest_bytes_per_s = rate;
}

double repl_estimate_bytes_per_s(const struct repl_estimate_choice *choice)
{
    return repl_estimate_share(choice->sent_bytes * (double)NS_PER_S, (double)choice->measured_ns);
}

double repl_estimate_bytes_per_day(const struct repl_estimate_choice *choice)
{
    return repl_estimate_bytes_per_s(choice) * S_PER_DAY;
}

double repl_estimate_share(double part, double all)
{
    return all > 0 ? part / all : 0;
}
