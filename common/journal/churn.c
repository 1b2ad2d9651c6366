#include "journal/churn.h"

void repl_churn_begin(struct repl_churn *churn, const struct repl_segment *segment)
{
    const struct repl_point *point = repl_segment_last_point(segment);
    *churn = (struct repl_churn){.known = true, .changed_bytes = segment->footer.raw_size};
    churn->compared =
        segment->header.from_seq == 0 || (point != NULL && (point->flags & REPL_POINT_RESYNC) != 0);
    for (uint32_t i = 0; i < segment->footer.frame_count; i++)
        churn->stored_bytes += segment->frames[i].stored_size;
}

void repl_churn_record(struct repl_churn *churn, const struct repl_record *record, bool own)
{
    if (record->type == REPL_RECORD_CHUNK && !own)
        churn->changed_bytes += record->length;
    if (record->type != REPL_RECORD_NODE)
        return;
    if (record->node.kind == REPL_NODE_GONE)
        churn->objects_removed++;
    else
        churn->objects_changed++;
}

/* What a log says may be anything. */
static uint64_t sum_of(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

void repl_churn_add(struct repl_churn *sum, const struct repl_churn *later)
{
    if (!sum->known || !later->known) {
        *sum = (struct repl_churn){0};
        return;
    }
    sum->compared |= later->compared;
    sum->changed_bytes = sum_of(sum->changed_bytes, later->changed_bytes);
    sum->stored_bytes = sum_of(sum->stored_bytes, later->stored_bytes);
    sum->objects_changed = sum_of(sum->objects_changed, later->objects_changed);
    sum->objects_removed = sum_of(sum->objects_removed, later->objects_removed);
    if (later->trouble > sum->trouble) {
        sum->trouble = later->trouble;
        sum->trouble_before_seq = later->trouble_before_seq;
    }
}

void repl_churn_merge(const struct repl_log_piece *entries, size_t count, struct repl_churn *out)
{
    *out = (struct repl_churn){.known = true};
    for (size_t i = 0; i < count; i++) {
        const struct repl_log_piece *next = i + 1 < count ? &entries[i + 1] : NULL;
        /* Parts count with the last one of them, which has the point. */
        bool inner = entries[i].commit.from_seq == 0 && next != NULL &&
                     next->commit.from_seq == 0 && !next->begins;
        if (entries[i].commit.has_point && !inner)
            repl_churn_add(out, &entries[i].commit.churn);
    }
}
