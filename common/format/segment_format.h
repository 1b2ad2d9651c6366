/*
 * The segment's records: bytes <-> structs. docs/formats/segment.md is the
 * specification; what a decoder accepts, it has validated against every bound
 * that one record alone can be held to. What relates records to each other
 * (order, contiguity, counts) is checked by common/segment/segment_reader.c.
 */
#ifndef REPL_SEGMENT_FORMAT_H
#define REPL_SEGMENT_FORMAT_H

#include "base/cursor.h"
#include "repl/error.h"
#include "repl/format.h"

#define REPL_FRAME_ENTRY_SIZE 32u
#define REPL_BLOCK_ENTRY_SIZE 48u
#define REPL_CHUNK_ENTRY_SIZE 40u
#define REPL_POINT_SIZE       64u
#define REPL_PAGE_ENTRY_SIZE  16u
#define REPL_PAGES_TAIL       8u    /* the checksum behind a frame's list of pages */
#define REPL_RECORD_SIZE_MAX  4168u /* of a symbolic link with the longest target */
/* SHA-256 of a segment covers all of it before this many bytes from its end. */
#define REPL_SEGMENT_DIGEST_TAIL 48u

void repl_segment_header_encode(const struct repl_segment_header *header,
                                uint8_t out[REPL_SEGMENT_HEADER_SIZE]);
REPL_RESULT repl_segment_header_decode(const uint8_t *data, size_t size,
                                       struct repl_segment_header *out, struct repl_error *err);

/* digest is filled in by the caller after hashing what precedes it: encode leaves room, seal
 * writes digest and checksum. */
void repl_segment_footer_encode(const struct repl_segment_footer *footer,
                                uint8_t out[REPL_SEGMENT_FOOTER_SIZE]);
void repl_segment_footer_seal(const struct repl_digest *digest,
                              uint8_t footer[REPL_SEGMENT_FOOTER_SIZE]);
REPL_RESULT repl_segment_footer_decode(const uint8_t *data, size_t size,
                                       struct repl_segment_footer *out, struct repl_error *err);
/* Bytes of a frame's list of pages, and what stands behind its digests. */
uint64_t repl_frame_pages_size(const struct repl_frame_entry *entry);
void repl_frame_pages_seal(const struct repl_page_digest *pages, uint64_t count,
                           uint8_t tail[REPL_PAGES_TAIL]);
/* Bytes of the index that a footer's counts announce. */
uint64_t repl_segment_index_size(const struct repl_segment_footer *footer);

void repl_frame_entry_encode(struct repl_writer *writer, const struct repl_frame_entry *entry);
void repl_frame_entry_decode(struct repl_reader *reader, struct repl_frame_entry *out);
void repl_block_entry_encode(struct repl_writer *writer, const struct repl_block_entry *entry);
void repl_block_entry_decode(struct repl_reader *reader, struct repl_block_entry *out);
void repl_chunk_entry_encode(struct repl_writer *writer, const struct repl_chunk_entry *entry);
void repl_chunk_entry_decode(struct repl_reader *reader, struct repl_chunk_entry *out);
void repl_point_encode(struct repl_writer *writer, const struct repl_point *point);
void repl_point_decode(struct repl_reader *reader, struct repl_point *out);

/* Bytes it takes: REPL_RECORD_SIZE_MAX at most. */
size_t repl_record_size(const struct repl_record *record);
void repl_record_encode(struct repl_writer *writer, const struct repl_record *record);
/* Decodes the record at the reader, whose bytes its texts point into; a field out of bounds leaves
 * the reader failed. */
void repl_record_decode(struct repl_reader *reader, struct repl_record *out);

#endif
