/*
 * repl inspect: what a file says, in words. The first bytes tell what it is;
 * nothing is changed and nothing else is needed, so that it works on a file
 * that was copied out of a broken store.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/limits.h"
#include "block/read_full.h"
#include "cli/verbs.h"
#include "format/log_record.h"
#include "format/segment_format.h"
#include "format/slot.h"
#include "recover/restore_progress.h"
#include "recover/words.h"
#include "segment/segment_reader.h"
#include "segment/segment_verify.h"

#define LOG_SIZE_MAX (UINT64_C(4) << 30)

static bool inspect_records;

struct inspected {
    const char *path;
    int fd;
    uint64_t size;
};

static repl_result file_read_at(void *context, uint64_t offset, void *out, size_t size,
                                struct repl_error *err)
{
    const struct inspected *file = context;
    ssize_t got = repl_read_full(file->fd, out, size, offset);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read it at byte %" PRIu64, offset);
    if ((size_t)got < size)
        return repl_fail(err, REPL_E_CORRUPT, "it ends before byte %" PRIu64, offset + size);
    return REPL_SUCCESS;
}

/* --- small words ----------------------------------------------------------------------------- */

static void print_digest(const char *label, const struct repl_digest *digest)
{
    char text[REPL_DIGEST_TEXT_SIZE];
    repl_digest_format(digest, text);
    printf("  %-12s %s\n", label, repl_digest_is_zero(digest) ? "none" : text);
}

static void print_uuid(const char *label, const struct repl_uuid *uuid)
{
    char text[REPL_UUID_TEXT_SIZE];
    repl_uuid_format(uuid, text);
    printf("  %-12s %s\n", label, text);
}

static void print_bytes(const char *label, uint64_t bytes)
{
    char text[REPL_WORDS_SIZE];
    repl_words_bytes(bytes, text);
    printf("  %-12s %" PRIu64 " (%s)\n", label, bytes, text);
}

static void print_point(const struct repl_point *point)
{
    char begin[REPL_WORDS_SIZE], end[REPL_WORDS_SIZE];
    repl_words_utc(point->begin_ns, begin);
    repl_words_utc(point->end_ns, end);
    printf("  point %-6" PRIu64 " %s to %s, %s-consistent, cut %s at attempt %u, %" PRIu64
           " bytes changed%s%s%s\n",
           point->seq, begin, end, repl_words_consistency(point->consistency),
           repl_words_cut(point->cut), point->attempts, point->changed_bytes,
           point->flags & REPL_POINT_RESYNC ? ", resync" : "",
           point->flags & REPL_POINT_MERGED ? ", merged" : "",
           point->flags & REPL_POINT_GROUP ? ", group" : "");
}

static void print_head(const char *label, const struct repl_head *head)
{
    char text[REPL_DIGEST_TEXT_SIZE];
    repl_digest_format(&head->digest, text);
    if (head->to_seq == 0)
        printf("  %-12s none\n", label);
    else
        printf("  %-12s (%" PRIu64 ", %" PRIu64 "].%u%s, digest %.16s...\n", label, head->from_seq,
               head->to_seq, head->part, head->has_point ? "" : ", more parts to come", text);
}

/* --- segments -------------------------------------------------------------------------------- */

static void print_header(const struct repl_segment_header *h)
{
    char time[REPL_WORDS_SIZE];
    bool supply = h->kind == REPL_SEGMENT_SUPPLY;
    repl_words_utc(h->created_ns, time);
    printf("%s segment of a %s, format version %u\n", supply ? "supply" : "changes",
           h->volume_kind == REPL_VOLUME_TREE ? "directory tree" : "block volume", h->version);
    print_uuid("volume", &h->volume);
    printf("  %-12s %" PRIu64 "\n", "lineage", h->lineage);
    if (supply)
        printf("  %-12s segment %" PRIu64 ".%u\n", "supplies", h->to_seq, h->part);
    else if (h->from_seq == 0)
        printf("  %-12s full, up to point %" PRIu64 "\n", "carries", h->to_seq);
    else
        printf("  %-12s changes after point %" PRIu64 " up to point %" PRIu64 "\n", "carries",
               h->from_seq, h->to_seq);
    printf("  %-12s %u\n", "part", h->part);
    printf("  %-12s %s\n", "created", time);
    print_digest("follows", &h->prev);
}

static void print_tables(const struct repl_segment *s)
{
    const struct repl_segment_footer *f = &s->footer;
    print_digest("digest", &f->digest);
    print_bytes("file", f->file_size);
    uint64_t stored = 0;
    uint32_t compressed = 0;
    for (uint32_t i = 0; i < f->frame_count; i++) {
        stored += s->frames[i].stored_size;
        compressed += s->frames[i].codec == REPL_CODEC_ZSTD;
    }
    printf("  %-12s %u (%u compressed), %" PRIu64 " bytes for %" PRIu64 " raw\n", "frames",
           f->frame_count, compressed, stored, f->raw_size);
    printf("  %-12s %" PRIu64 " in %u blocks\n", "records", f->record_count, f->block_count);
    printf("  %-12s %u\n", "chunks", f->chunk_count);
    for (uint32_t i = 0; i < f->point_count; i++)
        print_point(&s->points[i]);
    if (f->point_count == 0 && s->header.kind == REPL_SEGMENT_CHANGES)
        puts("  no point: more parts follow");
}

/* Bytes of no known encoding: what a terminal may not take is escaped. */
static void print_text(const char *text, size_t size)
{
    putchar('"');
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\')
            printf("\\x%02x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void print_node(const struct repl_record *r)
{
    static const char *const kinds[] = {"gone", "file",        "directory",    "symlink",
                                        "fifo", "char device", "block device", "socket"};
    const struct repl_node *n = &r->node;
    char time[REPL_WORDS_SIZE];
    printf("  object %" PRIu64 ", %s", r->object, kinds[n->kind]);
    if (n->kind == REPL_NODE_GONE) {
        putchar('\n');
        return;
    }
    repl_words_utc(n->mtime_ns, time);
    printf(", mode %04o, owner %u:%u, %s", n->mode, n->uid, n->gid, time);
    if (n->kind == REPL_NODE_FILE)
        printf(", %" PRIu64 " bytes", n->size);
    if (n->kind == REPL_NODE_CHARACTER || n->kind == REPL_NODE_BLOCK)
        printf(", device %u:%u", n->major, n->minor);
    if (n->flags != 0 || n->project != 0)
        printf(", flags %#x, project %u", n->flags, n->project);
    if (n->kind == REPL_NODE_SYMLINK) {
        printf(" to ");
        print_text(n->target, n->target_size);
    }
    putchar('\n');
}

static void print_xattr(const struct repl_record *r)
{
    printf("    attribute ");
    print_text(r->name, r->name_size);
    printf(", %u bytes", r->value_size);
    if (r->value == NULL)
        printf(" at %" PRIu64 " of the space", r->place);
    putchar('\n');
}

static void print_name(const struct repl_record *r)
{
    printf("    in directory %" PRIu64 ": ", r->object);
    print_text(r->name, r->name_size);
    if (r->child == 0)
        printf(" is gone\n");
    else
        printf(" is object %" PRIu64 "\n", r->child);
}

static void print_record(const struct repl_record *r)
{
    char text[REPL_DIGEST_TEXT_SIZE];
    switch (r->type) {
    case REPL_RECORD_OBJECT:
        printf("  object %" PRIu64 ", %" PRIu64 " bytes\n", r->object, r->size);
        break;
    case REPL_RECORD_DATA:
        printf("  %14" PRIu64 " +%-10" PRIu64 " frame %u at %u\n", r->offset, r->length, r->frame,
               r->frame_offset);
        break;
    case REPL_RECORD_CHUNK:
        repl_digest_format(&r->chunk, text);
        printf("  %14" PRIu64 " +%-10" PRIu64 " chunk %s at %u\n", r->offset, r->length, text,
               r->chunk_offset);
        break;
    case REPL_RECORD_ZERO:
        printf("  %14" PRIu64 " +%-10" PRIu64 " zeros\n", r->offset, r->length);
        break;
    case REPL_RECORD_NODE:
        print_node(r);
        break;
    case REPL_RECORD_XATTR:
        print_xattr(r);
        break;
    case REPL_RECORD_NAME:
        print_name(r);
        break;
    case REPL_RECORD_RUN:
        printf("    file %" PRIu64 ": %" PRIu64 " +%" PRIu64 " at %" PRIu64 " of the space\n",
               r->object, r->offset, r->length, r->place);
        break;
    case REPL_RECORD_HOLE:
        printf("    file %" PRIu64 ": %" PRIu64 " +%" PRIu64 " hole\n", r->object, r->offset,
               r->length);
        break;
    }
}

/* Prints the records if they are wanted, and what they come to. */
static repl_result walk_records(const struct repl_segment *s, struct repl_frame_coder *coder,
                                struct repl_error *err)
{
    uint64_t data = 0, chunk = 0, zero = 0;
    struct repl_record_walk walk;
    repl_record_walk_begin(&walk, s, coder);
    repl_result result;
    for (bool done = false;;) {
        struct repl_record r;
        result = repl_record_walk_next(&walk, &r, &done, err);
        if (!repl_ok(result) || done)
            break;
        data += r.type == REPL_RECORD_DATA ? r.length : 0;
        chunk += r.type == REPL_RECORD_CHUNK ? r.length : 0;
        zero += r.type == REPL_RECORD_ZERO ? r.length : 0;
        if (inspect_records || r.type == REPL_RECORD_OBJECT)
            print_record(&r);
    }
    repl_record_walk_end(&walk);
    REPL_TRY(result);
    printf("  %-12s %" PRIu64 " bytes carried, %" PRIu64 " in chunks named, %" PRIu64 " zeros\n",
           "extents", data, chunk, zero);
    return REPL_SUCCESS;
}

static repl_result segment_print(const struct repl_segment *s, struct repl_error *err)
{
    struct repl_frame_coder *coder = NULL;
    print_tables(s);
    repl_result result = repl_frame_coder_new(&coder, err);
    if (repl_ok(result) && s->header.kind == REPL_SEGMENT_CHANGES)
        result = walk_records(s, coder, err);
    if (repl_ok(result))
        result = repl_segment_verify(s, coder, err);
    repl_frame_coder_free(coder);
    if (repl_ok(result))
        puts("  verified: every byte is as it was when it was made");
    return result;
}

static repl_result inspect_segment(struct inspected *file, struct repl_error *err)
{
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    struct repl_segment_header header;
    struct repl_segment *segment = NULL;
    REPL_TRY(file_read_at(file, 0, bytes, sizeof bytes, err));
    REPL_TRY(repl_segment_header_decode(bytes, sizeof bytes, &header, err));
    print_header(&header);
    repl_result result = repl_segment_open(file_read_at, file, file->size, &segment, err);
    if (!repl_ok(result))
        return repl_forward(result, err,
                            "its header is whole, the rest is not (unfinished, or damaged)");
    result = segment_print(segment, err);
    repl_segment_free(segment);
    return result;
}

/* --- logs ------------------------------------------------------------------------------------ */

static void print_commit(const struct repl_log_commit *c)
{
    char digest[REPL_DIGEST_TEXT_SIZE];
    repl_digest_format(&c->digest, digest);
    printf("commit segment (%" PRIu64 ", %" PRIu64 "].%u, lineage %" PRIu64 ", %" PRIu64
           " bytes, volume %" PRIu64 " bytes, digest %.16s...\n",
           c->from_seq, c->to_seq, c->part, c->lineage, c->file_size, c->volume_size, digest);
    if (c->has_point)
        print_point(&c->point);
}

static void print_create(const char *what, const struct repl_log_create *create)
{
    char uuid[REPL_UUID_TEXT_SIZE];
    repl_uuid_format(&create->volume, uuid);
    printf("%s volume %s, %s, lineage %" PRIu64, what, create->name, uuid, create->lineage);
}

static void print_mark(const struct repl_log_mark *mark)
{
    if (mark->kind == REPL_MARK_REMOVED)
        printf("the mark \"%s\" is removed\n", mark->name);
    else if (mark->kind == REPL_MARK_PROVEN)
        printf("point %" PRIu64 " has been restored and found good\n", mark->seq);
    else
        printf("point %" PRIu64 " is marked \"%s\"%s\n", mark->seq, mark->name,
               mark->kind == REPL_MARK_HELD ? " and held" : "");
}

static void print_piece(const struct repl_log_piece *piece)
{
    if (piece->merge != 0)
        printf("made by merge %" PRIu64 ": ", piece->merge);
    print_commit(&piece->commit);
    if (piece->end.object != 0 || piece->end.offset != 0)
        printf("          of the base, from %" PRIu64 ":%" PRIu64 " to %" PRIu64 ":%" PRIu64 "\n",
               piece->begin.object, piece->begin.offset, piece->end.object, piece->end.offset);
}

static void print_log_record(const struct repl_log_record *r)
{
    char time[REPL_WORDS_SIZE], other[REPL_WORDS_SIZE];
    repl_words_utc(r->time_ns, time);
    printf("%8" PRIu64 "  %s  ", r->number, time);
    switch (r->type) {
    case REPL_LOG_CREATE:
        print_create("create", &r->create);
        putchar('\n');
        break;
    case REPL_LOG_COMMIT:
        print_commit(&r->commit);
        break;
    case REPL_LOG_IDLE:
        repl_words_utc(r->idle.until_ns, other);
        printf("idle: nothing changed from point %" PRIu64 " until %s\n", r->idle.seq, other);
        break;
    case REPL_LOG_STATE:
        printf("state %s%s%s\n", repl_state_name(r->state.state),
               r->state.cause[0] != '\0' ? ": " : "", r->state.cause);
        break;
    case REPL_LOG_MERGE:
        printf("merge of (%" PRIu64 ", %" PRIu64 "]: the next %u records say into what\n",
               r->merge.from_seq, r->merge.to_seq, r->merge.records);
        break;
    case REPL_LOG_PIECE:
        print_piece(&r->piece);
        break;
    case REPL_LOG_GONE:
        printf("gone from the base: segment %" PRIu64 ".%u, merge %" PRIu64 "\n", r->gone.to_seq,
               r->gone.part, r->gone.merge);
        break;
    case REPL_LOG_CHECKPOINT:
        print_create("written anew:", &r->checkpoint.create);
        printf(", %u records\n", r->checkpoint.records);
        break;
    case REPL_LOG_MARK:
        print_mark(&r->mark);
        break;
    case REPL_LOG_POOL:
        printf("of the pool %s: it shares chunks with the other volumes of it\n", r->pool.name);
        break;
    }
}

/* Where the next record begins behind damage; size: nowhere. */
static size_t next_record(const uint8_t *data, size_t size, size_t offset)
{
    for (; offset < size; offset++) {
        struct repl_log_record record;
        size_t length;
        if (repl_ok(repl_log_record_decode(data + offset, size - offset, &record, &length, NULL)))
            break;
    }
    return offset;
}

static repl_result log_print(const uint8_t *data, size_t size, struct repl_error *err)
{
    uint64_t number = 0, damage = 0;
    for (size_t offset = 0, length = 0; offset < size; offset += length) {
        struct repl_log_record record;
        repl_result result =
            repl_log_record_decode(data + offset, size - offset, &record, &length, err);
        if (result.code == REPL_E_VERSION)
            return result;
        if (!repl_ok(result)) {
            size_t next = next_record(data, size, offset + 1);
            printf("%8s  %zu bytes at %zu: %s\n", next < size ? "damage" : "torn", next - offset,
                   offset, err->text);
            length = next - offset;
            damage += next < size;
            continue;
        }
        if (record.number != number + 1) {
            printf("%8s  record %" PRIu64 " should follow\n", "damage", number + 1);
            damage++;
        }
        number = record.number;
        print_log_record(&record);
    }
    if (damage > 0)
        return repl_fail(err, REPL_E_CORRUPT, "the log is damaged in %" PRIu64 " places", damage);
    return REPL_SUCCESS;
}

static repl_result inspect_log(struct inspected *file, struct repl_error *err)
{
    if (file->size > LOG_SIZE_MAX)
        return repl_fail(err, REPL_E_REFUSED, "it is too long for a log");
    uint8_t *data = malloc(file->size);
    if (data == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %" PRIu64 " bytes", file->size);
    repl_result result = file_read_at(file, 0, data, file->size, err);
    if (repl_ok(result)) {
        printf("log of a volume, %" PRIu64 " bytes\n", file->size);
        result = log_print(data, file->size, err);
    }
    free(data);
    return result;
}

/* --- states and progress --------------------------------------------------------------------- */

static void print_source(const struct repl_source_state *s, uint64_t generation)
{
    printf("state of a volume at its source, generation %" PRIu64 "\n", generation);
    print_uuid("volume", &s->volume);
    printf("  %-12s %" PRIu64 "\n", "lineage", s->lineage);
    print_bytes("size", s->volume_size);
    printf("  %-12s %s\n", "device", s->identity);
    printf("  %-12s %" PRIu64 "\n", "next point", s->next_seq);
    print_head("checkpoint", &s->checkpoint);
    for (uint32_t i = 0; i < s->sent_count; i++)
        print_head("may be sent", &s->sent[i]);
}

static void print_replica(const struct repl_replica_state *s, uint64_t generation)
{
    printf("state of a replica, generation %" PRIu64 "\n", generation);
    print_uuid("volume", &s->volume);
    print_bytes("size", s->size);
    print_head("reached", &s->reached);
    printf("  %-12s %s\n", "stands",
           s->applying ? "between two points: segments are being applied" : "still");
}

static repl_result inspect_slots(struct inspected *file, struct repl_error *err)
{
    uint8_t slots[REPL_SLOT_FILE] = {0};
    struct repl_source_state source;
    struct repl_replica_state replica;
    uint64_t generation;
    REPL_TRY(file_read_at(file, 0, slots,
                          file->size < sizeof slots ? (size_t)file->size : sizeof slots, err));
    repl_result result = repl_source_state_decode(slots, &source, &generation, err);
    if (repl_ok(result)) {
        print_source(&source, generation);
        return result;
    }
    struct repl_error other;
    repl_result as_replica = repl_replica_state_decode(slots, &replica, &generation, &other);
    if (repl_ok(as_replica)) {
        print_replica(&replica, generation);
        return as_replica;
    }
    return result.code == REPL_E_VERSION
               ? result
               : repl_fail(err, as_replica.code, "state file: neither of its two slots is whole");
}

static repl_result inspect_progress(struct inspected *file, struct repl_error *err)
{
    struct repl_restore_plan plan;
    uint64_t done;
    REPL_TRY(repl_restore_progress_read(file->path, &plan, &done, err));
    puts("progress of a restore");
    print_uuid("volume", &plan.volume);
    printf("  %-12s %" PRIu64 "\n", "point", plan.seq);
    print_digest("segment", &plan.digest);
    print_bytes("size", plan.volume_size);
    printf("  %-12s %s\n", "target", plan.identity);
    printf("  %-12s %" PRIu64 " of %" PRIu64 " MiB\n", "done", done,
           repl_restore_piece_count(plan.volume_size));
    return REPL_SUCCESS;
}

/* --- which is it ----------------------------------------------------------------------------- */

static bool begins_with(const uint8_t *data, size_t size, const char *magic)
{
    return size >= strlen(magic) && memcmp(data, magic, strlen(magic)) == 0;
}

/* A state file's first slot may be the one that was torn, so the second counts too. */
static bool is_slots(struct inspected *file, const uint8_t *begin, size_t size)
{
    uint8_t second[8];
    if (file->size > REPL_SLOT_FILE)
        return false;
    return begins_with(begin, size, "REPLSLOT") ||
           (repl_ok(file_read_at(file, REPL_SLOT_SIZE, second, sizeof second, NULL)) &&
            begins_with(second, sizeof second, "REPLSLOT"));
}

static repl_result inspect_file(struct inspected *file, struct repl_error *err)
{
    static const uint8_t lmdb[4] = {0xde, 0xc0, 0xef, 0xbe};
    uint8_t begin[64] = {0};
    size_t size = file->size < sizeof begin ? (size_t)file->size : sizeof begin;
    REPL_TRY(file_read_at(file, 0, begin, size, err));
    if (begins_with(begin, size, "\x89REPL\r\n\x1a"))
        return inspect_segment(file, err);
    if (begins_with(begin, size, "RLOG"))
        return inspect_log(file, err);
    if (is_slots(file, begin, size))
        return inspect_slots(file, err);
    if (repl_restore_progress_is(begin, size))
        return inspect_progress(file, err);
    if (begins_with(begin, size, "repl store, version ")) {
        printf("%.*s", (int)size, (const char *)begin);
        return REPL_SUCCESS;
    }
    if (size > 20 && memcmp(begin + 16, lmdb, sizeof lmdb) == 0) {
        puts("an LMDB file, such as a site's index: it says nothing that the logs beside the\n"
             "segments do not say, and is made anew from them when it is missing");
        return REPL_SUCCESS;
    }
    return repl_fail(err, REPL_E_USAGE,
                     "not a repl file: neither segment, log, state file nor restore progress");
}

static repl_result inspect(const char *path, struct repl_error *err)
{
    struct inspected file = {.path = path};
    struct stat status;
    file.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file.fd < 0)
        return repl_fail_errno(err, errno == ENOENT ? REPL_E_USAGE : REPL_E_IO, errno,
                               "cannot open %s", path);
    repl_result result;
    if (fstat(file.fd, &status) != 0)
        result = repl_fail_errno(err, REPL_E_IO, errno, "cannot examine %s", path);
    else if (!S_ISREG(status.st_mode))
        result = repl_fail(err, REPL_E_USAGE, "%s is not a regular file", path);
    else {
        file.size = (uint64_t)status.st_size;
        result = repl_forward(inspect_file(&file, err), err, "%s", path);
    }
    close(file.fd);
    return result;
}

static int inspect_run(int argc, char **argv)
{
    struct repl_error err;
    (void)argc;
    if (!repl_ok(inspect(argv[0], &err))) {
        fflush(stdout); /* what was found comes before what is wrong with it */
        return repl_verb_fail("inspect", &err);
    }
    return REPL_EXIT_OK;
}

static const struct repl_option inspect_options[] = {
    {"records", NULL, REPL_OPTION_FLAG, &inspect_records,
     "Prints every record of a segment's manifest: which bytes of the volume lie where."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_inspect = {
    .name = "inspect",
    .synopsis = "[--records] FILE",
    .summary = "Says in words what a file of repl holds, and whether it is whole.",
    .description =
        "Segments (from a store or a spool) and supplies are verified down to the last byte. A "
        "volume's log is printed record by record; damage in it is shown and skipped. State files "
        "of sources and replicas, and the progress of a restore, are printed as they are.\n"
        "\n"
        "The exit code is 4 where the file is damaged, 64 where it is no file of repl.",
    .options = inspect_options,
    .positional_min = 1,
    .positional_max = 1,
    .run = inspect_run,
};
