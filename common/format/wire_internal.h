/*
 * What the files of the messages share: every encoder is open, fields, close; every
 * decoder enter, fields, leave. Private to format/.
 */
#ifndef REPL_FORMAT_WIRE_INTERNAL_H
#define REPL_FORMAT_WIRE_INTERNAL_H

#include "format/wire.h"

/* Room for the header and up to body_max bytes of fields. */
REPL_RESULT repl_wire_open(struct repl_buffer *out, size_t body_max, struct repl_writer *w,
                           struct repl_error *err);
/* The same of a list, which a reader would refuse if it were longer than limit. */
REPL_RESULT repl_wire_list_open(struct repl_buffer *out, enum repl_wire_type type, uint32_t count,
                                uint32_t limit, size_t body_max, struct repl_writer *w,
                                struct repl_error *err);
/* Writes the header, or takes everything back. */
REPL_RESULT repl_wire_close(struct repl_buffer *out, enum repl_wire_type type,
                            const struct repl_writer *w, struct repl_error *err);

REPL_RESULT repl_wire_enter(const void *data, size_t size, enum repl_wire_type type,
                            struct repl_reader *r, struct repl_error *err);
/* Memory for the entries a list announces, which must be about as long as the list says. */
REPL_RESULT repl_wire_list_allocate(const struct repl_reader *r, uint32_t count, uint32_t limit,
                                    size_t wire_size, size_t size, void **out,
                                    struct repl_error *err);
bool repl_wire_read_bool(struct repl_reader *r);

/* A point of a list, without its churn. */
#define REPL_WIRE_POINTS_ENTRY_SIZE 80u
void repl_wire_points_entry_encode(struct repl_writer *w, const struct repl_points_entry *entry);
void repl_wire_points_entry_decode(struct repl_reader *r, struct repl_points_entry *out);

REPL_RESULT repl_wire_leave(const struct repl_reader *r, enum repl_wire_type type,
                            struct repl_error *err);

#endif
