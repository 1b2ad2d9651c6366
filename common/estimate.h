/*
 * What following a volume would cost at each of five RPOs, from what its changes
 * were while somebody only looked: the arithmetic of windows.
 *
 * A window of a choice is as long as its RPO, and what was written in it several
 * times is sent once, so the longer the RPO the less is sent. Windows follow one
 * another without a gap. A choice of which no window was whole is computed of
 * the one that was not: a shorter window brings less of it together, so what
 * comes out is an upper bound.
 */
#ifndef REPL_ESTIMATE_H
#define REPL_ESTIMATE_H

#include <stdbool.h>
#include <stdint.h>

#define REPL_ESTIMATE_CHOICES 5u
/* 1 s, 10 s, 1 min, 10 min, 1 h */
extern const int64_t repl_estimate_rpo_ms[REPL_ESTIMATE_CHOICES];

/* Of one window. All but the first and the last is about the part of it that was read. */
struct repl_estimate_window {
    uint64_t changed_bytes;   /* whole pages that were written at least once */
    uint64_t read_bytes;      /* 0 only if nothing changed */
    uint64_t unchanged_bytes; /* they hold what was sent of them before */
    uint64_t zero_bytes;
    uint64_t duplicate_bytes; /* whole chunks that were sent before, from wherever */
    uint64_t frame_bytes;     /* what is left for frames */
    uint64_t stored_bytes;    /* the frames */
    uint64_t notes_bytes;     /* what the segment says of all of this */
    uint64_t records_bytes;   /* what it says of names and metadata */
};

struct repl_estimate_choice {
    int64_t begin_ns;    /* of the window that is open */
    int64_t measured_ns; /* all windows that count, together */
    uint64_t windows;    /* 0: nothing has been measured */
    bool whole;          /* they were as long as the RPO; else there is one, which was shorter */
    bool sampled;        /* a window was not read in full */

    /* sums over the windows; what was not read is taken to be like what was */
    double changed_bytes, unchanged_bytes, zero_bytes, duplicate_bytes, frame_bytes, stored_bytes;
    double sent_bytes;
    double busiest_bytes_per_s; /* the window of which most has to be sent for its length */
};

struct repl_estimate {
    struct repl_estimate_choice choices[REPL_ESTIMATE_CHOICES];
};

void repl_estimate_begin(struct repl_estimate *estimate, int64_t now_ns);
/* Whether the choice's open window is over: with a quarter of a second to spare, as whoever waits
 * for the end of a second comes a little early or late. */
bool repl_estimate_due(const struct repl_estimate *estimate, unsigned choice, int64_t now_ns);
/* Ends the choice's open window, and begins the next. One that is not due counts only where no
 * other does. now_ns is never before the window's begin. */
void repl_estimate_add(struct repl_estimate *estimate, unsigned choice, int64_t now_ns,
                       const struct repl_estimate_window *window);

/* 0 where nothing has been measured. */
double repl_estimate_bytes_per_s(const struct repl_estimate_choice *choice);
double repl_estimate_bytes_per_day(const struct repl_estimate_choice *choice);
/* part of all, 0 to 1; 0 where there is nothing. */
double repl_estimate_share(double part, double all);

#endif
