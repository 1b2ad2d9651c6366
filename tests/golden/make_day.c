/*
 * Makes a store with a day of a block volume's history: make_day STORE
 *
 * A point was due each second. What is there is what retention leaves of them: one a minute, in
 * the last hour one each 10 s, in the last minute each. Six hours before the end the volume is
 * written over with what does not compress, which the site took for encryption; two points have
 * names, and of one it was said that it is good. The same bytes each time.
 */
#define MODEL_SIZE    (UINT64_C(1) << 20)
#define MODEL_STEP_NS INT64_C(1000000000)

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "recover/origin.h"
#include "unit/agent/recover/store_model.h"

#define DAY_S     86400u
#define HOUR_S    3600u
#define TROUBLE_S (DAY_S - 6 * HOUR_S)

static uint64_t next_seq(uint64_t seq)
{
    if (seq == 0)
        return 1; /* the first copy */
    if (seq >= DAY_S - 60)
        return seq + 1;
    uint64_t step = seq >= DAY_S - HOUR_S ? 10 : 60;
    return (seq / step + 1) * step;
}

static void add_point(struct store_model *m, uint64_t from, uint64_t to)
{
    model_begin(m, from, to, 0);
    if (from == 0) {
        memset(m->now, 'a', MODEL_SIZE);
        model_frame(m, 0, MODEL_SIZE);
    } else if (to == TROUBLE_S) {
        random_fill(&m->random, m->now, MODEL_SIZE);
        model_frame(m, 0, MODEL_SIZE);
        m->trouble = REPL_TROUBLE_ENCRYPTION;
        m->trouble_before_seq = from;
    } else {
        uint64_t offset = random_below(&m->random, MODEL_SIZE / REPL_PAGE_SIZE) * REPL_PAGE_SIZE;
        snprintf((char *)m->now + offset, REPL_PAGE_SIZE, "point %llu", (unsigned long long)to);
        model_frame(m, offset, REPL_PAGE_SIZE);
    }
    model_end(m, true);
}

static void add_mark(struct store_model *m, enum repl_mark_kind kind, uint64_t seq,
                     const char *name)
{
    struct repl_log_record record = {.type = REPL_LOG_MARK, .time_ns = model_end_ns(DAY_S)};
    record.mark.kind = kind;
    record.mark.seq = seq;
    snprintf(record.mark.name, sizeof record.mark.name, "%s", name);
    model_log(m, &record);
}

int main(int argc, char **argv)
{
    static struct store_model m;
    if (argc != 2) {
        fprintf(stderr, "usage: make_day STORE\n");
        return 64;
    }
    m.forgets = true;
    snprintf(m.path, sizeof m.path, "%s", argv[1]);
    model_ensure(&m, repl_posix_store_open(m.path, true, true, &m.store, &m.err));
    model_begin_history(&m, MODEL_VOLUME);
    m.beside = true; /* no directory of the model's own is removed */
    for (uint64_t from = 0, to; from < DAY_S; from = to) {
        to = next_seq(from);
        add_point(&m, from, to);
    }
    add_mark(&m, REPL_MARK_NAME, 2 * HOUR_S, "before the upgrade");
    add_mark(&m, REPL_MARK_HELD, 12 * HOUR_S, "noon");
    add_mark(&m, REPL_MARK_PROVEN, 3 * HOUR_S, "");
    struct repl_store *store = m.store;
    model_fini(&m);
    store->ops->close(store);
    return 0;
}
