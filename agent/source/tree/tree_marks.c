#include "source/tree/tree_marks.h"

#include <stdlib.h>
#include <string.h>

#include "source/tree/tree_places.h"

static int marks_order(const void *a, const void *b)
{
    const struct repl_tree_dirty_key *x = a, *y = b; /* each mark begins with it */
    if (x->inode != y->inode)
        return x->inode < y->inode ? -1 : 1;
    return x->block < y->block ? -1 : x->block > y->block;
}

repl_result repl_tree_marks_add(struct repl_buffer *marks, uint64_t inode, uint64_t first,
                                uint64_t last, struct repl_error *err)
{
    for (uint64_t page = first; page <= last;) {
        struct repl_tree_mark mark = {.key = {inode, page / REPL_TREE_BLOCK_PAGES}};
        uint64_t end = page | (REPL_TREE_BLOCK_PAGES - 1);
        for (; page <= end && page <= last; page++) {
            uint64_t bit = page % REPL_TREE_BLOCK_PAGES;
            mark.bits.words[bit / 64] |= UINT64_C(1) << bit % 64;
        }
        REPL_TRY(repl_buffer_append(marks, &mark, sizeof mark, err));
    }
    return REPL_SUCCESS;
}

void repl_tree_marks_sort(struct repl_buffer *marks)
{
    if (marks->size > 0)
        qsort(marks->data, marks->size / sizeof(struct repl_tree_mark),
              sizeof(struct repl_tree_mark), marks_order);
}

static repl_result bits_note(const struct repl_tree_mark *mark, struct repl_buffer *pages,
                             struct repl_error *err)
{
    uint64_t first = mark->key.block * REPL_TREE_BLOCK_PAGES;
    for (uint64_t i = 0; i < REPL_TREE_BLOCK_PAGES; i++) {
        if (i % 64 == 0 && mark->bits.words[i / 64] == 0)
            i += 63;
        else if (mark->bits.words[i / 64] >> i % 64 & 1)
            REPL_TRY(
                repl_tree_pages_note(pages, (first + i) * REPL_PAGE_SIZE, REPL_PAGE_SIZE, err));
    }
    return REPL_SUCCESS;
}

/* The first one that is not before the file's; of sorted ones. */
static size_t mark_first(const struct repl_buffer *marks, uint64_t inode)
{
    const struct repl_tree_mark *mark = (const void *)marks->data;
    size_t low = 0, high = marks->size / sizeof *mark;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (mark[middle].key.inode < inode)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool repl_tree_marks_any(const struct repl_buffer *marks, uint64_t inode)
{
    const struct repl_tree_mark *mark = (const void *)marks->data;
    size_t first = mark_first(marks, inode);
    return first < marks->size / sizeof *mark && mark[first].key.inode == inode;
}

repl_result repl_tree_marks_find(const struct repl_buffer *marks, uint64_t inode,
                                 struct repl_buffer *pages, bool *any, bool *whole,
                                 struct repl_error *err)
{
    const struct repl_tree_mark *mark = (const void *)marks->data;
    size_t count = marks->size / sizeof *mark;
    *any = *whole = false;
    for (size_t i = mark_first(marks, inode); i < count && mark[i].key.inode == inode; i++) {
        *any = true;
        if (mark[i].key.block == REPL_TREE_WHOLE)
            *whole = true;
        else
            REPL_TRY(bits_note(&mark[i], pages, err));
    }
    return REPL_SUCCESS;
}

/* --- direct writes whose end is not told ----------------------------------------------------- */

static struct repl_tree_late_mark *late_at(const struct repl_tree_late *late, size_t i)
{
    return (struct repl_tree_late_mark *)(void *)late->marks.data + i;
}

static size_t late_count(const struct repl_tree_late *late)
{
    return late->marks.size / sizeof(struct repl_tree_late_mark);
}

/* Those of the same block become one. */
static void late_merge(struct repl_tree_late *late)
{
    size_t count = late_count(late), kept = 0;
    if (count > 0)
        qsort(late->marks.data, count, sizeof(struct repl_tree_late_mark), marks_order);
    for (size_t i = 0; i < count; i++) {
        struct repl_tree_late_mark *from = late_at(late, i), *to = late_at(late, kept);
        if (kept > 0 && marks_order(&from->mark.key, &late_at(late, kept - 1)->mark.key) == 0) {
            to = late_at(late, kept - 1);
            for (size_t w = 0; w < REPL_TREE_BLOCK_WORDS; w++)
                to->mark.bits.words[w] |= from->mark.bits.words[w];
            to->again = to->again && from->again;
            to->at_ns = to->at_ns > from->at_ns ? to->at_ns : from->at_ns;
            continue;
        }
        *to = *from;
        kept++;
    }
    late->marks.size = kept * sizeof(struct repl_tree_late_mark);
}

repl_result repl_tree_late_add(struct repl_tree_late *late, struct repl_buffer *marks,
                               int64_t now_ns, struct repl_error *err)
{
    struct repl_tree_mark *mark = (void *)marks->data;
    bool any = false;
    for (size_t i = 0; i < marks->size / sizeof *mark; i++) {
        if ((mark[i].key.block & REPL_TREE_LATE) == 0)
            continue;
        mark[i].key.block &= ~REPL_TREE_LATE;
        const struct repl_tree_late_mark one = {.mark = mark[i], .at_ns = now_ns};
        REPL_TRY(repl_buffer_append(&late->marks, &one, sizeof one, err));
        any = true;
    }
    if (any) {
        repl_tree_marks_sort(marks);
        late_merge(late);
    }
    return REPL_SUCCESS;
}

static bool is_due(const struct repl_tree_late_mark *mark, int64_t now_ns)
{
    int64_t age_ns = now_ns - mark->at_ns;
    return age_ns >= REPL_TREE_SURE_NS || (age_ns >= REPL_TREE_LATE_NS && !mark->again);
}

bool repl_tree_late_is_due(const struct repl_tree_late *late, int64_t now_ns)
{
    for (size_t i = 0; i < late_count(late); i++) {
        if (is_due(late_at(late, i), now_ns))
            return true;
    }
    return false;
}

repl_result repl_tree_late_take(struct repl_tree_late *late, struct repl_buffer *marks,
                                int64_t now_ns, struct repl_error *err)
{
    size_t kept = 0;
    for (size_t i = 0; i < late_count(late); i++) {
        struct repl_tree_late_mark *mark = late_at(late, i);
        int64_t age_ns = now_ns - mark->at_ns;
        if (age_ns < REPL_TREE_LATE_NS || is_due(mark, now_ns))
            REPL_TRY(repl_buffer_append(marks, &mark->mark, sizeof mark->mark, err));
        mark->again = age_ns >= REPL_TREE_LATE_NS;
        if (age_ns < REPL_TREE_SURE_NS)
            *late_at(late, kept++) = *mark;
    }
    late->marks.size = kept * sizeof(struct repl_tree_late_mark);
    return REPL_SUCCESS;
}
