/*
 * Records of the log: random ones, whether two are the same, and what the decoder says of bytes.
 */
#ifndef TESTS_UNIT_LOG_MODEL_H
#define TESTS_UNIT_LOG_MODEL_H

#include "format/log_record.h"
#include "unit/random.h"

#define TYPE_COUNT  REPL_LOG_POOL
#define HEADER_SIZE 24
#define TAIL_SIZE   8

struct repl_log_record random_record(struct random *random, enum repl_log_type type);
bool record_same(const struct repl_log_record *a, const struct repl_log_record *b);
/* From a copy of exactly this size on the heap: where reading goes beyond, the sanitizers say so.
 */
enum repl_code record_decode_copy(const uint8_t *data, size_t size);

/* The checksum of a record that was changed. */
void record_seal(uint8_t *data, size_t size);

/* Encoded, and decoded from such a copy. */
enum repl_code record_there_and_back(const struct repl_log_record *record);

#endif
