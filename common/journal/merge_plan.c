#include "journal/merge_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/limits.h"

#define GAPS_MIN  1024u /* so many gaps are not worth closing */
#define ITEMS_MIN 256u
#define ITEMS_MAX (UINT32_MAX / 2)

_Static_assert(REPL_MERGE_BYTES_MAX + REPL_INDEX_SIZE_MAX < REPL_SEGMENT_HARD_LIMIT,
               "what a merge makes is readable");
_Static_assert(sizeof(struct repl_merge_item) <= 80, "as said in the header");

/* --- items ----------------------------------------------------------------------------------- */

/* The item that ends in this point, gone or not; count: there is none. */
static uint32_t item_find(const struct repl_merge_plan *plan, uint64_t seq)
{
    uint32_t low = 0, high = plan->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (plan->items[middle].to_seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low < plan->count && plan->items[low].to_seq == seq ? low : plan->count;
}

/* The kept item at i or behind it: the end of the run that i is in. The newest is always kept. */
static uint32_t run_end(struct repl_merge_plan *plan, uint32_t i)
{
    uint32_t end = i;
    while (plan->items[end].dropped)
        end = plan->items[end].next;
    while (plan->items[i].dropped) {
        uint32_t next = plan->items[i].next;
        plan->items[i].next = end;
        i = next;
    }
    return end;
}

static bool items_grow(struct repl_merge_plan *plan)
{
    uint32_t capacity = plan->capacity == 0 ? ITEMS_MIN : plan->capacity * 2;
    struct repl_merge_item *items =
        plan->capacity < ITEMS_MAX ? realloc(plan->items, (size_t)capacity * sizeof *items) : NULL;
    if (items == NULL)
        return false;
    plan->items = items;
    plan->capacity = capacity;
    return true;
}

/* Closes the gaps. Where each item goes is how many stay before it. */
static void items_compact(struct repl_merge_plan *plan)
{
    uint32_t *places = malloc((size_t)plan->count * sizeof *places), live = 0;
    if (places == NULL)
        return; /* next time */
    for (uint32_t i = 0; i < plan->count; i++) {
        places[i] = live;
        live += !plan->items[i].gone;
    }
    for (uint32_t i = 0; i < plan->count; i++) {
        struct repl_merge_item item = plan->items[i];
        if (item.gone)
            continue;
        if (item.dropped) {
            item.next = places[item.next];
        } else {
            item.first = places[item.first];
            item.fresh_first = places[item.fresh_first];
        }
        plan->items[places[i]] = item;
    }
    plan->sweep = plan->sweep < plan->count ? places[plan->sweep] : 0;
    plan->oldest = places[plan->oldest];
    plan->count = live;
    plan->gone = 0;
    free(places);
}

/* --- what is due ----------------------------------------------------------------------------- */

static bool has_rested(const struct repl_merge_plan *plan, const struct repl_merge_item *end,
                       int64_t now_ns)
{
    /* wraps for times that make no sense, which is no harm */
    int64_t span_ns = (int64_t)((uint64_t)end->time_ns - (uint64_t)plan->items[end->first].time_ns);
    int64_t rest_ns = span_ns > REPL_MERGE_REST_MIN_NS ? span_ns : REPL_MERGE_REST_MIN_NS;
    return now_ns - end->changed_ns >= rest_ns;
}

static bool is_base(const struct repl_merge_plan *plan, const struct repl_merge_item *end)
{
    return end->first == plan->oldest;
}

/* Whether a run has become longer by more than fits a merge, its end not counted. */
static bool is_long(const struct repl_merge_item *end)
{
    return end->fresh > REPL_MERGE_INPUTS_MAX;
}

/* By how many segments there will be fewer when the run that ends in i is merged: the newest is not
 * touched. */
static uint32_t gain_of(const struct repl_merge_plan *plan, uint32_t i)
{
    uint32_t others = plan->items[i].count - 1;
    return i + 1 == plan->count && others > 0 ? others - 1 : others;
}

/* Whether more of the run than what is fresh is to be merged. One that ends in the newest point
 * goes on growing; but the base may never end in another, where points are rare. */
static bool is_due_whole(const struct repl_merge_plan *plan, uint32_t i, int64_t now_ns)
{
    const struct repl_merge_item *end = &plan->items[i];
    bool base = is_base(plan, end);
    if (i + 1 == plan->count && !base)
        return false;
    if ((end->closed || base) && gain_of(plan, i) >= REPL_MERGE_DROPPED_MIN)
        return true;
    return has_rested(plan, end, now_ns);
}

/* i: a kept item. */
static bool may_merge(const struct repl_merge_plan *plan, uint32_t i, int64_t now_ns)
{
    const struct repl_merge_item *end = &plan->items[i];
    bool needless = end->needless > 0 && i + 1 < plan->count;
    return (gain_of(plan, i) > 0 || needless) && end->out == 0 &&
           (!end->settled || has_rested(plan, end, now_ns));
}

static void queue_push(struct repl_merge_plan *plan, uint32_t i)
{
    if (plan->items[i].queued)
        return;
    if (plan->queue_count == plan->queue_capacity) {
        size_t capacity = plan->queue_capacity == 0 ? 64 : plan->queue_capacity * 2;
        uint64_t *queue = calloc(capacity, sizeof *queue);
        if (queue == NULL)
            return; /* it is found when it has rested */
        for (size_t k = 0; k < plan->queue_count; k++)
            queue[k] = plan->queue[(plan->queue_first + k) % plan->queue_capacity];
        free(plan->queue);
        plan->queue = queue;
        plan->queue_first = 0;
        plan->queue_capacity = capacity;
    }
    plan->queue[(plan->queue_first + plan->queue_count++) % plan->queue_capacity] =
        plan->items[i].to_seq;
    plan->items[i].queued = true;
}

/* The next that is kept still; false: there is none. */
static bool queue_pop(struct repl_merge_plan *plan, uint32_t *i)
{
    while (plan->queue_count > 0) {
        *i = item_find(plan, plan->queue[plan->queue_first]);
        plan->queue_first = (plan->queue_first + 1) % plan->queue_capacity;
        plan->queue_count--;
        if (*i == plan->count || plan->items[*i].dropped)
            continue;
        plan->items[*i].queued = false;
        return true;
    }
    return false;
}

static void queue_if_due(struct repl_merge_plan *plan, uint32_t i, int64_t now_ns)
{
    const struct repl_merge_item *end = &plan->items[i];
    if (may_merge(plan, i, now_ns) && (is_long(end) || is_due_whole(plan, i, now_ns)))
        queue_push(plan, i);
}

/* --- what happens ---------------------------------------------------------------------------- */

void repl_merge_plan_init(struct repl_merge_plan *plan, uint64_t bytes_max)
{
    *plan = (struct repl_merge_plan){.bytes_max = bytes_max};
}

void repl_merge_plan_fini(struct repl_merge_plan *plan)
{
    free(plan->items);
    free(plan->queue);
    free(plan->ready);
    *plan = (struct repl_merge_plan){0};
}

/* Whether a segment can come now: the rule of docs/formats/segment.md, section 3. */
static bool follows(const struct repl_merge_plan *plan, const struct repl_merge_segment *segment)
{
    const struct repl_merge_item *open = &plan->open;
    uint64_t last_seq = plan->count > 0 ? plan->items[plan->count - 1].to_seq : 0;
    if (segment->to_seq <= last_seq || segment->from_seq >= segment->to_seq)
        return false;
    if (open->segments == open->needless || segment->from_seq == 0)
        return segment->from_seq == 0 || segment->from_seq == last_seq;
    return segment->to_seq == open->to_seq;
}

repl_result repl_merge_plan_add(struct repl_merge_plan *plan,
                                const struct repl_merge_segment *segment, struct repl_error *err)
{
    struct repl_merge_item *open = &plan->open;
    if (!follows(plan, segment))
        return repl_fail(err, REPL_E_CORRUPT,
                         "segment (%llu, %llu], part %u, does not follow what is there",
                         (unsigned long long)segment->from_seq, (unsigned long long)segment->to_seq,
                         segment->part);
    if (plan->count == plan->capacity && !items_grow(plan))
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %u segments", plan->count);
    if (segment->part == 0) { /* parts there are have been left without an end */
        open->needless = open->segments;
        open->size_bytes = 0;
    }
    open->segments++;
    open->size_bytes += segment->file_size;
    open->to_seq = segment->to_seq;
    if (!segment->has_point)
        return REPL_SUCCESS;
    uint32_t i = plan->count++;
    open->full = segment->from_seq == 0;
    open->time_ns = segment->time_ns;
    open->first = open->fresh_first = i;
    open->count = open->fresh = 1;
    open->fulls = open->full;
    plan->items[i] = *open;
    *open = (struct repl_merge_item){0};
    return REPL_SUCCESS;
}

/* The run that ended in i goes on to the next kept point. */
static void run_join(struct repl_merge_plan *plan, uint32_t i, uint32_t end, int64_t now_ns)
{
    const struct repl_merge_item *from = &plan->items[i];
    struct repl_merge_item *to = &plan->items[end];
    to->first = from->first;
    to->fresh = from->fresh + to->count;
    to->fresh_first = from->fresh_first;
    to->count += from->count;
    to->out += from->out;
    to->fulls += from->fulls;
    to->closed = to->settled = false; /* it was passed over by finer rules */
    to->changed_ns = now_ns;
}

void repl_merge_plan_drop(struct repl_merge_plan *plan, uint64_t seq, int64_t now_ns)
{
    uint32_t i = item_find(plan, seq);
    if (i == plan->count || plan->items[i].dropped)
        return;
    ensure(i + 1 < plan->count);
    uint32_t first = plan->items[i].first, end = run_end(plan, i + 1);
    run_join(plan, i, end, now_ns);
    plan->items[i].dropped = true;
    plan->items[i].next = end;
    if (first > plan->oldest) { /* the run before ends in a point that is passed over */
        plan->items[first - 1].closed = true;
        queue_if_due(plan, first - 1, now_ns);
    }
    queue_if_due(plan, end, now_ns);
}

/* The merge's items are [*first, last]. Returns the end of their run. */
static uint32_t merge_items(struct repl_merge_plan *plan, const struct repl_merge *merge,
                            uint32_t *first, uint32_t *last)
{
    *first = plan->oldest;
    if (merge->after_seq > 0)
        *first = item_find(plan, merge->after_seq) + 1;
    *last = item_find(plan, merge->to_seq);
    ensure(*last < plan->count && *first <= *last);
    uint32_t end = run_end(plan, *last);
    ensure(plan->items[end].out > 0 && plan->items[end].first <= *first);
    return end;
}

void repl_merge_plan_done(struct repl_merge_plan *plan, const struct repl_merge *merge,
                          uint64_t size_bytes)
{
    uint32_t first, last, merged = 0, fulls = 0;
    uint32_t end = merge_items(plan, merge, &first, &last);
    for (uint32_t i = first; i < last; i++) {
        merged += !plan->items[i].gone;
        fulls += !plan->items[i].gone && plan->items[i].full;
        plan->items[i].gone = true;
        plan->items[i].next = last;
    }
    struct repl_merge_item *result = &plan->items[last], *run = &plan->items[end];
    if (merge->size_bytes == 0) {
        result->segments -= result->needless;
    } else {
        result->segments = 1;
        result->size_bytes = size_bytes;
    }
    result->needless = 0;
    run->fulls += (merge->from_seq == 0) - fulls - result->full;
    result->full = merge->from_seq == 0;
    if (first == plan->oldest)
        plan->oldest = run->first = last;
    run->count -= merged;
    if (first >= run->fresh_first)
        run->fresh -= merged;
    run->out--;
    run->settled = false;
    queue_push(plan, end);
    plan->gone += merged;
    if (plan->gone > plan->count - plan->gone + GAPS_MIN)
        items_compact(plan);
}

void repl_merge_plan_failed(struct repl_merge_plan *plan, const struct repl_merge *merge,
                            int64_t now_ns)
{
    uint32_t first, last;
    struct repl_merge_item *run = &plan->items[merge_items(plan, merge, &first, &last)];
    run->out--;
    run->settled = true;
    run->changed_ns = now_ns;
}

size_t repl_merge_plan_count(const struct repl_merge_plan *plan)
{
    return plan->count - plan->gone;
}

/* --- which merges ---------------------------------------------------------------------------- */

/* A window that grows item by item. */
struct window {
    struct repl_merge merge;
    uint32_t items; /* of those that are read */
};

static bool ready_push(struct repl_merge_plan *plan, const struct repl_merge *merge)
{
    if (plan->ready_count == plan->ready_capacity) {
        size_t capacity = plan->ready_capacity == 0 ? 64 : plan->ready_capacity * 2;
        struct repl_merge *ready = realloc(plan->ready, capacity * sizeof *ready);
        if (ready == NULL)
            return false;
        plan->ready = ready;
        plan->ready_capacity = capacity;
    }
    plan->ready[plan->ready_count++] = *merge;
    return true;
}

/* The end of a window: it is a merge if that makes fewer of its segments. The next one begins
 * behind it. Returns how many there are more. */
static uint32_t window_end(struct repl_merge_plan *plan, struct window *window)
{
    struct repl_merge merge = window->merge;
    uint32_t items = window->items;
    *window = (struct window){.merge = {.after_seq = merge.to_seq, .from_seq = merge.to_seq}};
    if (items == 1) /* nothing to read it with */
        merge.size_bytes = 0;
    if (items == 0 || (items == 1 && merge.needless == 0))
        return 0;
    return ready_push(plan, &merge);
}

static void window_add(struct window *window, const struct repl_merge_item *item)
{
    struct repl_merge *merge = &window->merge;
    merge->to_seq = item->to_seq;
    if (item->full) { /* what is there says nothing that is wanted */
        merge->from_seq = 0;
        merge->needless = merge->segments + item->needless;
        merge->size_bytes = 0;
        window->items = 0;
    }
    merge->segments += item->segments;
    merge->size_bytes += item->size_bytes;
    window->items++;
}

/* The last full of [from, to], which lies in a run with so many; or from. */
static uint32_t last_full(const struct repl_merge_plan *plan, uint32_t from, uint32_t to,
                          uint32_t fulls)
{
    if (fulls <= plan->items[from].full) /* the run is not walked for nothing */
        return from;
    while (to > from && (plan->items[to].gone || !plan->items[to].full))
        to--;
    return to;
}

/* The point that item i follows; 0: it is the oldest. */
static uint64_t seq_before(const struct repl_merge_plan *plan, uint32_t i)
{
    while (i > 0 && plan->items[i - 1].gone)
        i--;
    return i > 0 ? plan->items[i - 1].to_seq : 0;
}

static bool has_room(const struct window *window, const struct repl_merge_item *item,
                     uint64_t bytes_max)
{
    return window->merge.size_bytes <= bytes_max &&
           item->size_bytes <= bytes_max - window->merge.size_bytes;
}

/* Cuts [from, to] into windows, as even as can be. Returns how many of them are merges. What lies
 * before the last full goes with that, whatever its size. */
static uint32_t cut_windows(struct repl_merge_plan *plan, uint32_t from, uint32_t to,
                            uint32_t fulls)
{
    uint64_t after_seq = seq_before(plan, from);
    struct window window = {.merge = {.after_seq = after_seq, .from_seq = after_seq}};
    uint32_t full = last_full(plan, from, to, fulls), wanted = 0, merges = 0;
    for (uint32_t i = full; i <= to; i++)
        wanted += !plan->items[i].gone;
    uint32_t windows = (wanted + REPL_MERGE_INPUTS_MAX - 1) / REPL_MERGE_INPUTS_MAX;
    uint32_t size = (wanted + windows - 1) / windows;
    for (uint32_t i = from; i <= to; i++) {
        const struct repl_merge_item *item = &plan->items[i];
        if (item->gone)
            continue;
        if (i > full && (window.items == size || !has_room(&window, item, plan->bytes_max)))
            merges += window_end(plan, &window);
        window_add(&window, item);
    }
    return merges + window_end(plan, &window);
}

/* The merge of the oldest full with what can be merged into it at once. */
static uint32_t cut_base(struct repl_merge_plan *plan, uint32_t to, uint32_t fulls)
{
    struct window window = {.merge = {.kind = REPL_MERGE_BASE}};
    uint32_t full = last_full(plan, plan->oldest, to, fulls);
    for (uint32_t i = plan->oldest; i <= to; i++) {
        if (i > full && window.items == REPL_MERGE_INPUTS_MAX)
            break;
        if (!plan->items[i].gone)
            window_add(&window, &plan->items[i]);
    }
    return window_end(plan, &window);
}

/* Finds the merges of the run that ends in i, if it is due. */
static void run_plan(struct repl_merge_plan *plan, uint32_t i, int64_t now_ns)
{
    struct repl_merge_item *end = &plan->items[i];
    if (!may_merge(plan, i, now_ns))
        return;
    bool whole = is_due_whole(plan, i, now_ns);
    if (whole && is_base(plan, end))
        end->out = cut_base(plan, i + 1 < plan->count ? i : i - 1, end->fulls);
    else if (whole)
        end->out = cut_windows(plan, end->first, i, end->fulls);
    else if (is_long(end)) /* no base is: it is due long before */
        end->out = cut_windows(plan, end->fresh_first, i - 1, end->fulls);
    else
        return;
    end->fresh_first = i;
    end->fresh = 1;
    end->settled = end->out == 0;
    if (end->settled)
        end->changed_ns = now_ns;
}

static bool take_ready(struct repl_merge_plan *plan, struct repl_merge *out)
{
    if (plan->ready_first == plan->ready_count)
        return false;
    *out = plan->ready[plan->ready_first++];
    if (plan->ready_first == plan->ready_count)
        plan->ready_first = plan->ready_count = 0;
    return true;
}

bool repl_merge_plan_next(struct repl_merge_plan *plan, int64_t now_ns, struct repl_merge *out)
{
    uint32_t i;
    while (plan->ready_count == 0 && queue_pop(plan, &i))
        run_plan(plan, i, now_ns);
    for (unsigned k = 0; k < REPL_MERGE_SWEEP && plan->ready_count == 0; k++) {
        if (plan->sweep >= plan->count)
            plan->sweep = 0;
        if (plan->count > 0 && !plan->items[plan->sweep].dropped)
            run_plan(plan, plan->sweep, now_ns);
        plan->sweep++;
    }
    return take_ready(plan, out);
}
