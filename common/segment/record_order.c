#include "segment/record_order.h"

#include <stdio.h>
#include <string.h>

#include "base/ensure.h"

__attribute__((format(printf, 3, 4))) static repl_result
corrupt(const struct repl_record *record, struct repl_error *err, const char *format, ...)
{
    char text[128];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (record->object == REPL_OBJECT_DEVICE)
        return repl_fail(err, REPL_E_CORRUPT, "%s", text);
    return repl_fail(err, REPL_E_CORRUPT, "object %llu: %s", (unsigned long long)record->object,
                     text);
}

/* DATA, CHUNK, ZERO: in object 1, behind its OBJECT. */
static repl_result space_extent_check(const struct repl_record_order *order,
                                      const struct repl_record *record, struct repl_error *err)
{
    uint64_t end = record->offset + record->length;
    if (record->offset < order->end || end > order->space_size)
        return corrupt(record, err, "extents overlap or leave the volume at offset %llu",
                       (unsigned long long)record->offset);
    if (record->length % REPL_PAGE_SIZE != 0 && end != order->space_size)
        return corrupt(record, err, "the extent at offset %llu ends within a page",
                       (unsigned long long)record->offset);
    return REPL_SUCCESS;
}

int repl_name_compare(const char *a, size_t a_size, const char *b, size_t b_size)
{
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

/* XATTRs: right behind their NODE, each name once. */
static repl_result xattr_check(const struct repl_record_order *order,
                               const struct repl_record *record, struct repl_error *err)
{
    bool follows =
        order->type == REPL_RECORD_NODE ||
        (order->type == REPL_RECORD_XATTR &&
         repl_name_compare(order->name, order->name_size, record->name, record->name_size) < 0);
    if (!order->node_known || !follows)
        return corrupt(record, err, "an attribute is not behind its node, or out of order");
    if (record->value == NULL && record->place + record->value_size > order->space_size)
        return corrupt(record, err, "an attribute's value lies outside the space");
    return REPL_SUCCESS;
}

static repl_result name_check(const struct repl_record_order *order,
                              const struct repl_record *record, struct repl_error *err)
{
    if (order->node_known && order->kind != REPL_NODE_DIRECTORY)
        return corrupt(record, err, "a name in what is no directory");
    if (order->type == REPL_RECORD_RUN || order->type == REPL_RECORD_HOLE)
        return corrupt(record, err, "a name in what has contents");
    if (order->type != REPL_RECORD_NAME || order->offset < record->offset)
        return REPL_SUCCESS;
    if (order->offset == record->offset &&
        repl_name_compare(order->name, order->name_size, record->name, record->name_size) < 0)
        return REPL_SUCCESS;
    return corrupt(record, err, "names are out of order, or one comes twice");
}

static repl_result run_check(const struct repl_record_order *order,
                             const struct repl_record *record, struct repl_error *err)
{
    uint64_t end = record->offset + record->length;
    bool behind_run = order->type == REPL_RECORD_RUN || order->type == REPL_RECORD_HOLE;
    if (record->object == REPL_OBJECT_ROOT ||
        (order->node_known &&
         (order->kind != REPL_NODE_FILE || end > repl_page_count_of(order->size) * REPL_PAGE_SIZE)))
        return corrupt(record, err, "contents at offset %llu, where it has none",
                       (unsigned long long)record->offset);
    if (order->type == REPL_RECORD_NAME || (behind_run && record->offset < order->end))
        return corrupt(record, err, "runs overlap or are out of order at offset %llu",
                       (unsigned long long)record->offset);
    if (record->type == REPL_RECORD_RUN && record->place + record->length > order->space_size)
        return corrupt(record, err, "the run at offset %llu lies outside the space",
                       (unsigned long long)record->offset);
    return REPL_SUCCESS;
}

static repl_result record_check(const struct repl_record_order *order,
                                const struct repl_record *record, struct repl_error *err)
{
    switch (record->type) {
    case REPL_RECORD_OBJECT:
    case REPL_RECORD_NODE:
        return REPL_SUCCESS;
    case REPL_RECORD_DATA:
    case REPL_RECORD_CHUNK:
    case REPL_RECORD_ZERO:
        return space_extent_check(order, record, err);
    case REPL_RECORD_XATTR:
        return xattr_check(order, record, err);
    case REPL_RECORD_NAME:
        return name_check(order, record, err);
    case REPL_RECORD_RUN:
    case REPL_RECORD_HOLE:
        return run_check(order, record, err);
    }
    return corrupt(record, err, "a record of an unknown type");
}

static void record_take(struct repl_record_order *order, const struct repl_record *record)
{
    order->type = record->type;
    order->offset = record->offset;
    order->end = record->offset + record->length;
    if (record->type == REPL_RECORD_OBJECT)
        order->space_size = record->size;
    if (record->type == REPL_RECORD_NODE) {
        order->node_known = true;
        order->kind = record->node.kind;
        order->size = record->node.size;
    }
    if (record->type == REPL_RECORD_XATTR || record->type == REPL_RECORD_NAME) {
        ensure(record->name_size <= sizeof order->name);
        order->name_size = record->name_size;
        memcpy(order->name, record->name, record->name_size);
    }
}

void repl_record_order_skip(struct repl_record_order *order, uint64_t object)
{
    *order = (struct repl_record_order){.space_size = order->space_size,
                                        .object = object,
                                        .type = REPL_RECORD_OBJECT,
                                        .partial = object != REPL_OBJECT_DEVICE};
}

repl_result repl_record_order_next(struct repl_record_order *order,
                                   const struct repl_record *record, struct repl_error *err)
{
    bool first = order->object == 0;
    if (order->partial && record->object == order->object)
        return REPL_SUCCESS;
    if (first != (record->type == REPL_RECORD_OBJECT))
        return repl_fail(err, REPL_E_CORRUPT, "the object's record does not come first");
    if (record->object < order->object)
        return corrupt(record, err, "objects are out of order");
    if (record->object > order->object)
        *order =
            (struct repl_record_order){.space_size = order->space_size, .object = record->object};
    else if (record->type == REPL_RECORD_NODE)
        return corrupt(record, err, "its node does not come first");
    if (order->node_known && order->kind == REPL_NODE_GONE)
        return corrupt(record, err, "more of an object that is gone");
    REPL_TRY(record_check(order, record, err));
    record_take(order, record);
    return REPL_SUCCESS;
}
