#include "estimate/estimate_print.h"

#include <string.h>

#include "recover/words.h"

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S  INT64_C(1000000000)

static const char *const rpo_names[REPL_ESTIMATE_CHOICES] = {"1 s", "10 s", "1 min", "10 min",
                                                             "1 h"};

/* "12.3 Mbit/s": what lines are sold by. */
static const char *line_words(double bytes_per_s, char text[REPL_WORDS_SIZE])
{
    double kbit = bytes_per_s * 8 / 1000;
    if (kbit < 1000)
        snprintf(text, REPL_WORDS_SIZE, "%.1f kbit/s", kbit);
    else if (kbit < 1000000)
        snprintf(text, REPL_WORDS_SIZE, "%.1f Mbit/s", kbit / 1000);
    else
        snprintf(text, REPL_WORDS_SIZE, "%.1f Gbit/s", kbit / 1000000);
    return text;
}

static const char *bytes_words(double bytes, char text[REPL_WORDS_SIZE])
{
    repl_words_bytes((uint64_t)bytes, text);
    return text;
}

static void changes_print(FILE *out, const struct repl_follow *follow)
{
    const struct repl_estimate_choice *c = &follow->estimate.choices[0];
    char written[REPL_WORDS_SIZE], changed[REPL_WORDS_SIZE], discarded[REPL_WORDS_SIZE];
    double seconds = (double)follow->measured_ns / (double)NS_PER_S;
    if (follow->counts.known)
        fprintf(
            out, "  written      %s/s by the kernel's count, and %s/s discarded\n",
            bytes_words(repl_estimate_share((double)follow->counts.written, seconds), written),
            bytes_words(repl_estimate_share((double)follow->counts.discarded, seconds), discarded));
    fprintf(out, "  changed      %s/s, in whole pages of 4 KiB, each once a second\n",
            bytes_words(repl_estimate_share((double)follow->changed_bytes, seconds), changed));
    fprintf(out,
            "  of that      %.1f%% the same bytes as before, %.1f%% zeros, %.1f%% duplicates of "
            "chunks sent before\n",
            100 * repl_estimate_share(c->unchanged_bytes, c->changed_bytes),
            100 * repl_estimate_share(c->zero_bytes, c->changed_bytes),
            100 * repl_estimate_share(c->duplicate_bytes, c->changed_bytes));
    if (c->frame_bytes > 0)
        fprintf(out, "  compresses   the rest to %.1f%% of its size\n",
                100 * repl_estimate_share(c->stored_bytes, c->frame_bytes));
}

static void choice_print(FILE *out, const struct repl_estimate_choice *c, const char *name)
{
    char mean[REPL_WORDS_SIZE], busiest[REPL_WORDS_SIZE], journal[REPL_WORDS_SIZE],
        measured[REPL_WORDS_SIZE];
    fprintf(out, "%-8s %16s %16s %16s", name, line_words(repl_estimate_bytes_per_s(c), mean),
            line_words(c->busiest_bytes_per_s, busiest),
            bytes_words(repl_estimate_bytes_per_day(c), journal));
    if (!c->whole) {
        repl_words_duration(c->measured_ns, measured);
        fprintf(out, "   from %s only: at most", measured);
    }
    fputc('\n', out);
}

static void remarks_print(FILE *out, const struct repl_follow *follow)
{
    char missed[REPL_WORDS_SIZE];
    bool sampled = false, full = false;
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++) {
        sampled |= follow->estimate.choices[i].sampled;
        full |= follow->known_full[i];
    }
    fputs("\nMean and busiest window are the bandwidth that is needed; the journal is what the "
          "site\nkeeps of a day before it merges points.\n",
          out);
    if (sampled)
        fputs("Not all that changed was read: the rest is taken to be like what was.\n", out);
    if (full)
        fputs("Not all that was sent could be remembered: there are more duplicates and rewrites "
              "than\nwere found, and less has to be sent.\n",
              out);
    if (follow->counts.missed > 0)
        fprintf(out,
                "The tracking did not see %s of what was written: the figures are too low by "
                "about\nas much. An agent notices that and reads it again.\n",
                bytes_words((double)follow->counts.missed, missed));
}

void repl_estimate_print(FILE *out, const struct repl_followed *followed,
                         const struct repl_follow *follow, int64_t asked_ns)
{
    char size[REPL_WORDS_SIZE], measured[REPL_WORDS_SIZE], asked[REPL_WORDS_SIZE];
    bool tree = strcmp(followed->kind, "tree") == 0;
    repl_words_duration(follow->measured_ns, measured);
    repl_words_duration(asked_ns, asked);
    fprintf(out, "%s (%s), %s%s, followed for %s", followed->path, followed->identity,
            bytes_words((double)followed->size, size), tree ? " of room for contents" : "",
            measured);
    if (follow->ended_early)
        fprintf(out, " of the %s asked for: ended early", asked);
    fputc('\n', out);
    changes_print(out, follow);
    fprintf(out, "\n%-8s %16s %16s %16s\n", "RPO", "mean", "busiest window", "journal a day");
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++)
        choice_print(out, &follow->estimate.choices[i], rpo_names[i]);
    remarks_print(out, follow);
}

/* --- JSON ------------------------------------------------------------------------------------ */

static json_t *choice_json(const struct repl_follow *follow, unsigned i)
{
    const struct repl_estimate_choice *c = &follow->estimate.choices[i];
    return json_pack(
        "{s:I, s:b, s:I, s:I, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
        "rpo_ms", (json_int_t)repl_estimate_rpo_ms[i], "extrapolated", !c->whole, "windows",
        (json_int_t)c->windows, "measured_ms", (json_int_t)(c->measured_ns / NS_PER_MS), "sampled",
        c->sampled, "memory_full", follow->known_full[i], "changed_bytes",
        (json_int_t)c->changed_bytes, "unchanged_bytes", (json_int_t)c->unchanged_bytes,
        "zero_bytes", (json_int_t)c->zero_bytes, "duplicate_bytes", (json_int_t)c->duplicate_bytes,
        "frame_bytes", (json_int_t)c->frame_bytes, "compressed_bytes", (json_int_t)c->stored_bytes,
        "sent_bytes", (json_int_t)c->sent_bytes, "mean_bytes_per_s",
        (json_int_t)repl_estimate_bytes_per_s(c), "busiest_bytes_per_s",
        (json_int_t)c->busiest_bytes_per_s, "journal_bytes_per_day",
        (json_int_t)repl_estimate_bytes_per_day(c));
}

json_t *repl_estimate_json(const struct repl_followed *followed, const struct repl_follow *follow,
                           int64_t asked_ns)
{
    json_t *choices = json_array();
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++) {
        if (json_array_append_new(choices, choice_json(follow, i)) != 0) {
            json_decref(choices);
            return NULL;
        }
    }
    json_t *json = json_pack(
        "{s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:I, s:I, s:o}", "schema", 1, "kind",
        followed->kind, "path", followed->path, "identity", followed->identity, "size_bytes",
        (json_int_t)followed->size, "asked_ms", (json_int_t)(asked_ns / NS_PER_MS), "measured_ms",
        (json_int_t)(follow->measured_ns / NS_PER_MS), "ended_early", follow->ended_early,
        "changed_bytes", (json_int_t)follow->changed_bytes, "missed_bytes",
        (json_int_t)follow->counts.missed, "choices", choices);
    if (json == NULL || !follow->counts.known)
        return json;
    json_t *counts = json_pack("{s:I, s:I}", "written_bytes", (json_int_t)follow->counts.written,
                               "discarded_bytes", (json_int_t)follow->counts.discarded);
    bool whole = counts != NULL && json_object_update(json, counts) == 0;
    json_decref(counts);
    if (whole)
        return json;
    json_decref(json);
    return NULL;
}
