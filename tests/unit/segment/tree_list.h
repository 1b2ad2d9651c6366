/*
 * Lists of a tree's records, for a builder to take.
 */
#ifndef TESTS_UNIT_SEGMENT_TREE_LIST_H
#define TESTS_UNIT_SEGMENT_TREE_LIST_H

#include "unit/segment/tree_cases.h"

/* Records as they are encoded, one behind the other: what goes in, and what has come out. */
struct list {
    struct repl_buffer bytes;
    size_t at;
};

static inline void list_add(struct list *list, struct repl_record record)
{
    uint8_t bytes[REPL_RECORD_SIZE_MAX];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_record_encode(&w, &record);
    ensure(!w.failed && w.position == repl_record_size(&record));
    ensure(repl_ok(repl_buffer_append(&list->bytes, bytes, w.position, NULL)));
}

static inline void list_node(struct list *list, uint64_t object, struct repl_node node)
{
    list_add(list, (struct repl_record){.type = REPL_RECORD_NODE, .object = object, .node = node});
}

static inline void list_name(struct list *list, uint64_t directory, const char *name,
                             uint64_t child)
{
    list_add(list, (struct repl_record){.type = REPL_RECORD_NAME,
                                        .object = directory,
                                        .offset = repl_xxh3(name, strlen(name)),
                                        .name = name,
                                        .name_size = (uint32_t)strlen(name),
                                        .child = child});
}

static inline void list_run(struct list *list, uint64_t file, uint64_t offset, uint64_t length,
                            uint64_t place)
{
    list_add(list, (struct repl_record){.type = REPL_RECORD_RUN,
                                        .object = file,
                                        .offset = offset,
                                        .length = length,
                                        .place = place});
}

static inline repl_result list_next(void *context, struct repl_record *record, bool *done,
                                    struct repl_error *err)
{
    (void)err;
    struct list *list = context;
    *done = list->at == list->bytes.size;
    if (*done)
        return REPL_SUCCESS;
    struct repl_reader r = repl_reader_of(list->bytes.data + list->at, list->bytes.size - list->at);
    repl_record_decode(&r, record);
    ensure(!r.failed);
    list->at += r.position;
    return REPL_SUCCESS;
}

#endif
