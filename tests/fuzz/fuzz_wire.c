/*
 * Every decoder of messages on any bytes: as they are, and behind a header that fits, so that the
 * fields are reached. What is accepted must encode to the same bytes, and a list must be freed.
 */
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "format/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADER_SIZE 12u

static void nothing_to_free(const void *message)
{
    (void)message;
}

static repl_result repl_wanted_message_decode(const void *data, size_t size,
                                              struct repl_missing *out, struct repl_error *err)
{
    return repl_wanted_decode(data, size, out, err);
}

static repl_result repl_wanted_message_encode(const struct repl_missing *m, struct repl_buffer *out,
                                              struct repl_error *err)
{
    return repl_wanted_encode(m->names, m->count, out, err);
}

/* Decodes and, where that succeeds, encodes again. */
#define TRY_TYPE(function, type, fini)                                                             \
    static void try_##function(const uint8_t *data, size_t size)                                   \
    {                                                                                              \
        type message;                                                                              \
        struct repl_error err = {.text = ""};                                                      \
        struct repl_buffer again = {0};                                                            \
        if (!repl_ok(repl_##function##_decode(data, size, &message, &err))) {                      \
            ensure(err.text[0] != '\0');                                                           \
            return;                                                                                \
        }                                                                                          \
        ensure(repl_ok(repl_##function##_encode(&message, &again, &err)));                         \
        ensure(again.size == size && memcmp(again.data, data, size) == 0);                         \
        repl_buffer_fini(&again);                                                                  \
        fini(&message);                                                                            \
    }
TRY_TYPE(hello, struct repl_hello, nothing_to_free)
TRY_TYPE(welcome, struct repl_welcome, nothing_to_free)
TRY_TYPE(ack, struct repl_ack, nothing_to_free)
TRY_TYPE(refusal, struct repl_refusal, nothing_to_free)
TRY_TYPE(missing, struct repl_missing, repl_missing_fini)
TRY_TYPE(report, struct repl_report, nothing_to_free)
TRY_TYPE(points_page, struct repl_points_page, repl_points_page_fini)
TRY_TYPE(segments_page, struct repl_segments_page, repl_segments_page_fini)
TRY_TYPE(digests, struct repl_digests, repl_digests_fini)
TRY_TYPE(mark, struct repl_mark, nothing_to_free)
TRY_TYPE(marks, struct repl_marks, repl_marks_fini)
TRY_TYPE(wanted_message, struct repl_missing, repl_missing_fini)
TRY_TYPE(timeline, struct repl_points_page, repl_points_page_fini)
TRY_TYPE(pool_names, struct repl_pool_names, repl_pool_names_fini)
TRY_TYPE(resend, struct repl_resend, repl_resend_fini)
TRY_TYPE(damaged, struct repl_damaged, repl_damaged_fini)
TRY_TYPE(slices, struct repl_slices, repl_slices_fini)
TRY_TYPE(sliced, struct repl_sliced, nothing_to_free)
TRY_TYPE(unopened, struct repl_unopened, repl_unopened_fini)
TRY_TYPE(tails, struct repl_tails, repl_tails_fini)

static void try_all(const uint8_t *data, size_t size)
{
    try_hello(data, size);
    try_welcome(data, size);
    try_ack(data, size);
    try_refusal(data, size);
    try_missing(data, size);
    try_report(data, size);
    try_points_page(data, size);
    try_segments_page(data, size);
    try_digests(data, size);
    try_mark(data, size);
    try_marks(data, size);
    try_wanted_message(data, size);
    try_timeline(data, size);
    try_pool_names(data, size);
    try_resend(data, size);
    try_damaged(data, size);
    try_slices(data, size);
    try_sliced(data, size);
    try_unopened(data, size);
    try_tails(data, size);
    (void)repl_wire_type_of(data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_all(data, size);
    if (size < HEADER_SIZE)
        return 0;
    uint8_t *framed = malloc(size);
    ensure(framed != NULL);
    memcpy(framed, data, size);
    for (uint16_t type = REPL_WIRE_HELLO; type <= REPL_WIRE_LAST; type++) {
        struct repl_writer w = repl_writer_of(framed, HEADER_SIZE);
        repl_write_bytes(&w, "REPL", 4);
        repl_write_u16(&w, type);
        repl_write_u16(&w, 0);
        repl_write_u32(&w, (uint32_t)size);
        try_all(framed, size);
    }
    free(framed);
    return 0;
}
