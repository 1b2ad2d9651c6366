/*
 * The messages of the wire, one row for each type: random ones, whether two are the same, and the
 * encoder and the decoder of each.
 */
#ifndef TESTS_UNIT_WIRE_MODEL_H
#define TESTS_UNIT_WIRE_MODEL_H

#include "format/wire.h"
#include "unit/random.h"

/* Any message, decoded. */
union message {
    struct repl_hello hello;
    struct repl_welcome welcome;
    struct repl_ack ack;
    struct repl_refusal refusal;
    struct repl_missing missing;
    struct repl_report report;
    struct repl_points_page points;
    struct repl_segments_page segments;
    struct repl_digests digests;
    struct repl_mark mark;
    struct repl_marks marks;
    struct repl_pool_names pool;
    struct repl_resend resend;
    struct repl_damaged damaged;
    struct repl_slices slices;
    struct repl_sliced sliced;
    struct repl_unopened unopened;
    struct repl_tails tails;
};

struct row {
    enum repl_wire_type type;
    void (*make)(struct random *random, union message *m);
    bool (*same)(const union message *a, const union message *b);
    repl_result (*encode)(const union message *m, struct repl_buffer *out, struct repl_error *err);
    repl_result (*decode)(const void *data, size_t size, union message *m, struct repl_error *err);
    void (*free)(union message *m);
};

#define ROW_COUNT 20u
extern const struct row rows[ROW_COUNT];
const struct row *row_of(enum repl_wire_type type);

struct repl_points_entry random_entry(struct random *random, uint64_t seq);

/* The size that a message announces. */
void set_size(uint8_t *data, size_t size);

/* A copy of exactly this size on the heap: where reading goes beyond, the sanitizers say so. */
enum repl_code decode_copy(const struct row *row, const uint8_t *data, size_t size);

/* Encoded, which must succeed, and decoded. */
enum repl_code there_and_back(enum repl_wire_type type, const union message *m);

#endif
