#include "estimate/follow.h"

#include <stdlib.h>
#include <time.h>

#include "estimate/window.h"
#include "loop/loop.h"

#define NS_PER_S INT64_C(1000000000)

struct choice {
    struct repl_bitmap changed; /* in its open window */
    uint64_t records_bytes;
    struct repl_known known;
};

struct follow {
    const struct repl_follow_options *options;
    struct repl_follow *out;
    struct repl_bitmap taken; /* by the last look */
    struct choice choices[REPL_ESTIMATE_CHOICES];
    struct repl_batch *batch;
};

static void follow_fini(struct follow *f)
{
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++) {
        repl_bitmap_fini(&f->choices[i].changed);
        repl_known_fini(&f->choices[i].known);
    }
    repl_bitmap_fini(&f->taken);
    if (f->batch != NULL)
        repl_batch_fini(f->batch);
    free(f->batch);
}

static repl_result follow_init(struct follow *f, struct repl_error *err)
{
    uint64_t pages = (f->options->followed->size + REPL_PAGE_SIZE - 1) / REPL_PAGE_SIZE;
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++) {
        REPL_TRY(repl_bitmap_init(&f->choices[i].changed, pages, err));
        REPL_TRY(repl_known_init(&f->choices[i].known, err));
    }
    REPL_TRY(repl_bitmap_init(&f->taken, pages, err));
    struct repl_batch *batch = malloc(sizeof *batch);
    if (batch == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    repl_result result = repl_batch_init(batch, err);
    if (!repl_ok(result)) {
        free(batch);
        return result;
    }
    f->batch = batch;
    return REPL_SUCCESS;
}

/* --- a second -------------------------------------------------------------------------------- */

static bool interrupted(const struct follow *f)
{
    return atomic_load(f->options->interrupted);
}

/* A signal ends it. */
static void sleep_until(const struct follow *f, int64_t until_ns)
{
    for (int64_t left_ns; !interrupted(f) && (left_ns = until_ns - repl_now_mono_ns()) > 0;) {
        /* in pieces, as a signal may come right before a sleep */
        int64_t piece_ns = left_ns < NS_PER_S / 5 ? left_ns : NS_PER_S / 5;
        struct timespec piece = {.tv_nsec = (long)piece_ns};
        nanosleep(&piece, NULL);
    }
}

/* Moves what was written since the last look into each open window; at_ns: as of when. */
static repl_result look(struct follow *f, int64_t *at_ns, struct repl_error *err)
{
    struct repl_followed *followed = f->options->followed;
    uint64_t first, count, records = 0;
    repl_bitmap_clear_all(&f->taken);
    REPL_TRY(followed->ops->look(followed, &f->taken, at_ns, &records, err));
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++) {
        REPL_TRY(repl_bitmap_grow(&f->choices[i].changed, f->taken.bit_count, err));
        f->choices[i].records_bytes += records;
    }
    for (uint64_t from = 0;
         repl_bitmap_next_run(&f->taken, from, f->taken.bit_count, &first, &count);
         from = first + count)
        for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++)
            repl_bitmap_set(&f->choices[i].changed, first, count);
    f->out->changed_bytes += f->taken.set_count * REPL_PAGE_SIZE;
    return REPL_SUCCESS;
}

static void choice_clear(struct choice *choice)
{
    repl_bitmap_clear_all(&choice->changed);
    choice->records_bytes = 0;
}

static repl_result window_end(struct follow *f, unsigned i, int64_t at_ns, struct repl_error *err)
{
    struct choice *choice = &f->choices[i];
    struct repl_estimate_window window;
    REPL_TRY(repl_window_reduce(f->options->followed, &choice->changed, &choice->known, f->batch,
                                &window, err));
    window.records_bytes = choice->records_bytes;
    repl_estimate_add(&f->out->estimate, i, at_ns, &window);
    choice_clear(choice);
    f->out->known_full[i] = choice->known.full;
    return REPL_SUCCESS;
}

static repl_result windows_end(struct follow *f, int64_t at_ns, bool last, struct repl_error *err)
{
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++)
        if (repl_estimate_due(&f->out->estimate, i, at_ns) ||
            (last && f->out->estimate.choices[i].windows == 0))
            REPL_TRY(window_end(f, i, at_ns, err));
    return REPL_SUCCESS;
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result follow(struct follow *f, struct repl_error *err)
{
    struct repl_followed *followed = f->options->followed;
    int64_t at_ns = 0, begin_ns;
    /* what was written before is nobody's here; the first look at a tree takes its time, and what
     * is written meanwhile is not counted either */
    REPL_TRY(look(f, &begin_ns, err));
    REPL_TRY(look(f, &begin_ns, err));
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++)
        choice_clear(&f->choices[i]);
    REPL_TRY(followed->ops->begin(followed, err));
    f->out->changed_bytes = 0;
    repl_estimate_begin(&f->out->estimate, begin_ns);
    int64_t end_ns = begin_ns + f->options->for_ns;
    for (int64_t due_ns = begin_ns, last = false; !last;) {
        due_ns += NS_PER_S * (1 + (repl_now_mono_ns() - due_ns) / NS_PER_S);
        sleep_until(f, due_ns < end_ns ? due_ns : end_ns);
        last = interrupted(f) || repl_now_mono_ns() >= end_ns;
        REPL_TRY(look(f, &at_ns, err));
        if (last) /* before anything takes its time */
            REPL_TRY(followed->ops->counts(followed, &f->out->counts, err));
        f->out->measured_ns = at_ns - begin_ns;
        REPL_TRY(windows_end(f, at_ns, last, err));
        if (f->options->progress != NULL)
            f->options->progress(f->out->measured_ns, f->options->for_ns, f->out->changed_bytes);
    }
    f->out->ended_early = f->out->measured_ns < f->options->for_ns;
    return REPL_SUCCESS;
}

repl_result repl_follow(const struct repl_follow_options *options, struct repl_follow *out,
                        struct repl_error *err)
{
    struct follow f = {.options = options, .out = out};
    *out = (struct repl_follow){0};
    repl_result result = follow_init(&f, err);
    if (repl_ok(result))
        result = follow(&f, err);
    follow_fini(&f);
    return result;
}
