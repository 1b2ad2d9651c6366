/*
 * Golden logs: what tests/golden/log/ holds must be read as it says there, by every release to
 * come. For each NAME.log, NAME.txt has a line a record and one for how the log ends.
 *
 * "test_log_golden --write DIRECTORY" made them (by hand, once: a file that is there is left).
 */
#include <dirent.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "format/log_record.h"

#define LOG_SIZE_MAX 65536
#define TEXT_SIZE    65536

/* --- a log in words -------------------------------------------------------------------------- */

struct text {
    char bytes[TEXT_SIZE];
    size_t size;
};

__attribute__((format(printf, 2, 3))) static void say(struct text *text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int size = vsnprintf(text->bytes + text->size, sizeof text->bytes - text->size, format, args);
    va_end(args);
    assert_true(size >= 0 && (size_t)size < sizeof text->bytes - text->size);
    text->size += (size_t)size;
}

static void say_commit(struct text *text, const struct repl_log_commit *c)
{
    char digest[REPL_DIGEST_TEXT_SIZE];
    repl_digest_format(&c->digest, digest);
    say(text,
        "commit from=%" PRIu64 " to=%" PRIu64 " part=%" PRIu32 " lineage=%" PRIu64
        " file_size=%" PRIu64 " volume_size=%" PRIu64 " digest=%s",
        c->from_seq, c->to_seq, c->part, c->lineage, c->file_size, c->volume_size, digest);
    if (c->has_point)
        say(text,
            " point begin=%" PRId64 " end=%" PRId64
            " consistency=%d cut=%d flags=%d attempts=%" PRIu32 " changed=%" PRIu64,
            c->point.begin_ns, c->point.end_ns, c->point.consistency, c->point.cut, c->point.flags,
            c->point.attempts, c->point.changed_bytes);
    if (c->churn.known)
        say(text,
            " churn compared=%d changed=%" PRIu64 " stored=%" PRIu64 " objects=%" PRIu64
            " removed=%" PRIu64 " trouble=%s before=%" PRIu64,
            c->churn.compared, c->churn.changed_bytes, c->churn.stored_bytes,
            c->churn.objects_changed, c->churn.objects_removed, repl_trouble_name(c->churn.trouble),
            c->churn.trouble_before_seq);
}

static void say_create(struct text *text, const struct repl_log_create *create)
{
    char uuid[REPL_UUID_TEXT_SIZE];
    repl_uuid_format(&create->volume, uuid);
    say(text, "name=%s volume=%s kind=%d lineage=%" PRIu64, create->name, uuid, create->kind,
        create->lineage);
}

static void say_piece(struct text *text, const struct repl_log_piece *piece)
{
    char link[REPL_DIGEST_TEXT_SIZE];
    repl_digest_format(&piece->link, link);
    say(text,
        "piece merge=%" PRIu64 " begins=%d link=%s unchanged_until=%" PRId64 " committed=%" PRId64,
        piece->merge, piece->begins, link, piece->unchanged_until_ns, piece->committed_ns);
    say(text, " begin=%" PRIu64 ":%" PRIu64 " end=%" PRIu64 ":%" PRIu64 " ", piece->begin.object,
        piece->begin.offset, piece->end.object, piece->end.offset);
    say_commit(text, &piece->commit);
}

static void say_record(struct text *text, const struct repl_log_record *r)
{
    say(text, "%" PRIu64 " time=%" PRId64 " ", r->number, r->time_ns);
    switch (r->type) {
    case REPL_LOG_CREATE:
        say(text, "create ");
        say_create(text, &r->create);
        break;
    case REPL_LOG_COMMIT:
        say_commit(text, &r->commit);
        break;
    case REPL_LOG_IDLE:
        say(text, "idle seq=%" PRIu64 " until=%" PRId64, r->idle.seq, r->idle.until_ns);
        break;
    case REPL_LOG_STATE:
        say(text, "state %s cause=%s", repl_state_name(r->state.state), r->state.cause);
        break;
    case REPL_LOG_MERGE:
        say(text, "merge from=%" PRIu64 " to=%" PRIu64 " records=%" PRIu32, r->merge.from_seq,
            r->merge.to_seq, r->merge.records);
        break;
    case REPL_LOG_PIECE:
        say_piece(text, &r->piece);
        break;
    case REPL_LOG_GONE:
        say(text, "gone to=%" PRIu64 " part=%" PRIu32 " merge=%" PRIu64, r->gone.to_seq,
            r->gone.part, r->gone.merge);
        break;
    case REPL_LOG_CHECKPOINT:
        say(text, "checkpoint ");
        say_create(text, &r->checkpoint.create);
        say(text, " now=%" PRIu64 " records=%" PRIu32 " heard=%" PRId64 " created=%" PRId64,
            r->checkpoint.lineage, r->checkpoint.records, r->checkpoint.heard_ns,
            r->checkpoint.created_ns);
        break;
    case REPL_LOG_MARK:
        say(text, "mark kind=%d seq=%" PRIu64 " name=%s", r->mark.kind, r->mark.seq, r->mark.name);
        break;
    case REPL_LOG_POOL:
        say(text, "pool name=%s", r->pool.name);
        break;
    }
    say(text, "\n");
}

static void say_log(struct text *text, const uint8_t *data, size_t size)
{
    struct repl_log_record record;
    struct repl_error err;
    size_t at = 0, used;
    repl_result result = REPL_SUCCESS;
    while (at < size) {
        result = repl_log_record_decode(data + at, size - at, &record, &used, &err);
        if (!repl_ok(result))
            break;
        say_record(text, &record);
        at += used;
    }
    say(text, "end %zu of %zu: %s\n", at, size, repl_code_name(result.code));
}

/* --- checking -------------------------------------------------------------------------------- */

/* The golden files lie beside this source. */
static void golden_directory(char *path, size_t size)
{
    static const char above[] = "unit/format/test_log_golden.c", beside[] = "golden/log";
    assert_true((size_t)snprintf(path, size, "%s", __FILE__) < size);
    size_t length = strlen(path);
    assert_true(length > sizeof above && length + sizeof beside < size);
    memcpy(path + length - (sizeof above - 1), beside, sizeof beside);
}

static size_t read_file(const char *path, void *out, size_t limit)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        print_error("%s cannot be opened\n", path);
    assert_non_null(file);
    size_t size = fread(out, 1, limit, file);
    assert_true(size < limit);
    fclose(file);
    return size;
}

static void golden_logs_are_read_as_they_were_written(void **state)
{
    static struct text text, expected;
    static uint8_t data[LOG_SIZE_MAX];
    char directory[1024], path[2048];
    unsigned count = 0;
    (void)state;
    golden_directory(directory, sizeof directory);
    DIR *listing = opendir(directory);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        char *dot = strrchr(entry->d_name, '.');
        if (dot == NULL || strcmp(dot, ".log") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        size_t size = read_file(path, data, sizeof data);
        strcpy(strrchr(path, '.'), ".txt");
        expected.size = read_file(path, expected.bytes, sizeof expected.bytes);
        expected.bytes[expected.size] = '\0';
        text.size = 0;
        say_log(&text, data, size);
        assert_string_equal(text.bytes, expected.bytes);
        count++;
    }
    closedir(listing);
    assert_int_equal(count, 10);
}

/* --- writing --------------------------------------------------------------------------------- */

struct log {
    uint8_t data[LOG_SIZE_MAX];
    size_t size;
    uint64_t number;
};

#define SECOND   INT64_C(1000000000)
#define START_NS (INT64_C(1767225600) * SECOND) /* 2026-01-01 */

static void add(struct log *log, struct repl_log_record record)
{
    size_t size;
    record.number = ++log->number;
    record.time_ns = START_NS + (int64_t)log->number * SECOND;
    repl_log_record_encode(&record, log->data + log->size, &size);
    log->size += size;
}

static struct repl_log_record create_record(void)
{
    struct repl_log_record record = {.type = REPL_LOG_CREATE};
    strcpy(record.create.name, "db-1.data");
    for (uint8_t i = 0; i < 16; i++)
        record.create.volume.bytes[i] = (uint8_t)(0x10 * i + i);
    record.create.kind = REPL_VOLUME_BLOCK;
    record.create.lineage = UINT64_C(0x8000000000000001);
    return record;
}

static struct repl_log_record commit_record(uint64_t from, uint64_t to, uint32_t part, bool point,
                                            uint16_t flags)
{
    struct repl_log_record record = {.type = REPL_LOG_COMMIT};
    record.commit = (struct repl_log_commit){.from_seq = from,
                                             .to_seq = to,
                                             .part = part,
                                             .lineage = UINT64_C(0x8000000000000001),
                                             .file_size = 4096 * to + part,
                                             .volume_size = UINT64_C(1) << 40,
                                             .has_point = point};
    memset(record.commit.digest.bytes, (int)(0xd0 + to), sizeof record.commit.digest.bytes);
    if (point)
        record.commit.point = (struct repl_point){.seq = to,
                                                  .begin_ns = START_NS + (int64_t)to * SECOND,
                                                  .end_ns = START_NS + (int64_t)to * SECOND + 50000,
                                                  .consistency = REPL_CONSISTENCY_CRASH + to % 3,
                                                  .cut = REPL_CUT_QUIET + to % 4,
                                                  .flags = flags,
                                                  .attempts = 2,
                                                  .changed_bytes = 4096 * to};
    return record;
}

static struct repl_log_record idle_record(uint64_t seq, int64_t until_ns)
{
    return (struct repl_log_record){.type = REPL_LOG_IDLE,
                                    .idle = {.seq = seq, .until_ns = until_ns}};
}

static struct repl_log_record state_record(enum repl_state value, const char *cause)
{
    struct repl_log_record record = {.type = REPL_LOG_STATE, .state = {.state = value}};
    strcpy(record.state.cause, cause);
    return record;
}

static void write_new(const char *directory, const char *name, const char *suffix,
                      const void *bytes, size_t size)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/%s%s", directory, name, suffix);
    FILE *file = fopen(path, "wbx");
    if (file == NULL) {
        perror(path);
        return;
    }
    if (fwrite(bytes, 1, size, file) != size)
        perror(path);
    fclose(file);
}

static void write_log(const char *directory, const char *name, const struct log *log)
{
    static struct text text;
    text.size = 0;
    say_log(&text, log->data, log->size);
    write_new(directory, name, ".log", log->data, log->size);
    write_new(directory, name, ".txt", text.bytes, text.size);
}

static struct repl_log_record piece_record(uint64_t from, uint64_t to, uint32_t part, bool point,
                                           uint64_t merge, uint8_t link)
{
    struct repl_log_record record = commit_record(from, to, part, point, 0);
    struct repl_log_piece piece = {.commit = record.commit, .merge = merge};
    memset(piece.link.bytes, link, sizeof piece.link.bytes);
    if (merge != 0)
        memset(piece.commit.digest.bytes, (int)(0xa0 + merge), sizeof piece.commit.digest.bytes);
    if (point)
        piece.unchanged_until_ns = piece.commit.point.end_ns + SECOND;
    piece.committed_ns = START_NS + (int64_t)to * SECOND + SECOND / 2;
    if (from == 0 && merge != 0) {
        piece.begin = (struct repl_record_place){1, UINT64_C(1) << 30};
        piece.end = (struct repl_record_place){2, 0};
    }
    record = (struct repl_log_record){.type = REPL_LOG_PIECE, .piece = piece};
    return record;
}

/* Increments that became two pieces, a base of which one of two parts was made anew; and the same
 * log written anew. */
static void write_merged(const char *directory)
{
    static struct log log;
    struct repl_log_record record;
    log = (struct log){.size = 0};
    add(&log, create_record());
    add(&log, commit_record(0, 1, 0, false, 0));
    add(&log, commit_record(0, 1, 1, true, 0));
    for (uint64_t seq = 2; seq <= 6; seq++)
        add(&log, commit_record(seq - 1, seq, 0, true, 0));
    record = (struct repl_log_record){.type = REPL_LOG_MARK};
    record.mark = (struct repl_log_mark){REPL_MARK_NAME, 5, "before upgrade"};
    add(&log, record);
    record = (struct repl_log_record){.type = REPL_LOG_MERGE, .merge = {2, 5, 2}};
    add(&log, record);
    add(&log, piece_record(2, 5, 0, false, 10, 0xaa));
    add(&log, piece_record(2, 5, 1, true, 10, 0xd5));
    record = (struct repl_log_record){.type = REPL_LOG_MERGE, .merge = {0, 2, 2}};
    add(&log, record);
    add(&log, piece_record(0, 2, 0, true, 13, 0xd2));
    record = (struct repl_log_record){.type = REPL_LOG_GONE, .gone = {1, 1, 0}};
    add(&log, record);
    write_log(directory, "merged", &log);

    uint64_t number = log.number;
    log = (struct log){.number = number};
    record = (struct repl_log_record){.type = REPL_LOG_CHECKPOINT};
    record.checkpoint.create = create_record().create;
    record.checkpoint.lineage = record.checkpoint.create.lineage + 1;
    record.checkpoint.records = 6;
    record.checkpoint.heard_ns = START_NS + 8 * SECOND;
    record.checkpoint.created_ns = START_NS + SECOND;
    add(&log, record);
    record = piece_record(0, 1, 0, false, 0, 0xd1);
    record.piece.begins = true;
    add(&log, record);
    add(&log, piece_record(0, 2, 0, true, 13, 0xd2));
    add(&log, piece_record(2, 5, 0, false, 10, 0xaa));
    add(&log, piece_record(2, 5, 1, true, 10, 0xd5));
    add(&log, piece_record(5, 6, 0, true, 0, 0xd6));
    record = (struct repl_log_record){.type = REPL_LOG_MARK};
    record.mark = (struct repl_log_mark){REPL_MARK_HELD, 5, "before upgrade"};
    add(&log, record);
    record = (struct repl_log_record){.type = REPL_LOG_MARK};
    record.mark.name[0] = 'x';
    add(&log, record);
    write_log(directory, "checkpoint", &log);
}

/* A volume that joined a pool when it had a history, and its log written anew. */
static void write_pool(const char *directory)
{
    static struct log log;
    struct repl_log_record record;
    log = (struct log){.size = 0};
    add(&log, create_record());
    add(&log, commit_record(0, 1, 0, true, 0));
    record = (struct repl_log_record){.type = REPL_LOG_POOL, .pool = {.name = "tenant-7.prod"}};
    add(&log, record);
    add(&log, commit_record(1, 2, 0, true, 0));
    uint64_t number = log.number;
    record = (struct repl_log_record){.type = REPL_LOG_CHECKPOINT};
    record.checkpoint.create = create_record().create;
    record.checkpoint.lineage = record.checkpoint.create.lineage;
    record.checkpoint.records = 3;
    record.checkpoint.heard_ns = START_NS + 8 * SECOND;
    record.checkpoint.created_ns = START_NS + SECOND;
    write_log(directory, "pool", &log);

    log = (struct log){.number = number};
    add(&log, record);
    record = (struct repl_log_record){.type = REPL_LOG_POOL, .pool = {.name = "tenant-7.prod"}};
    add(&log, record);
    record = piece_record(0, 1, 0, true, 0, 0xd1);
    record.piece.begins = true;
    add(&log, record);
    add(&log, piece_record(1, 2, 0, true, 0, 0xd2));
    write_log(directory, "pool_checkpoint", &log);
}

/* How much has changed: a full in two parts, two points of which the second looks like trouble, one
 * of a site that does not count, and the merge of the two. */
static void write_churn(const char *directory)
{
    static struct log log;
    struct repl_log_record record;
    log = (struct log){.size = 0};
    add(&log, create_record());
    record = commit_record(0, 1, 0, false, 0);
    record.commit.churn = (struct repl_churn){
        .known = true, .compared = true, .changed_bytes = 4 << 20, .stored_bytes = 1 << 20};
    add(&log, record);
    record = commit_record(0, 1, 1, true, 0);
    record.commit.churn = (struct repl_churn){
        .known = true, .compared = true, .changed_bytes = 6 << 20, .stored_bytes = 2 << 20};
    add(&log, record);
    record = commit_record(1, 2, 0, true, 0);
    record.commit.churn =
        (struct repl_churn){.known = true, .changed_bytes = 65536, .stored_bytes = 20000};
    add(&log, record);
    record = commit_record(2, 3, 0, true, 0);
    record.commit.churn = (struct repl_churn){.known = true,
                                              .changed_bytes = 3 << 20,
                                              .stored_bytes = (3 << 20) - 4096,
                                              .objects_changed = 70,
                                              .objects_removed = 3,
                                              .trouble = REPL_TROUBLE_ENCRYPTION,
                                              .trouble_before_seq = 1};
    add(&log, record);
    add(&log, commit_record(3, 4, 0, true, 0));
    record = (struct repl_log_record){.type = REPL_LOG_MERGE, .merge = {1, 3, 1}};
    add(&log, record);
    record = piece_record(1, 3, 0, true, 7, 0xd3);
    record.piece.commit.churn = (struct repl_churn){.known = true,
                                                    .changed_bytes = (3 << 20) + 65536,
                                                    .stored_bytes = (3 << 20) + 15904,
                                                    .objects_changed = 70,
                                                    .objects_removed = 3,
                                                    .trouble = REPL_TROUBLE_ENCRYPTION,
                                                    .trouble_before_seq = 1};
    add(&log, record);
    write_log(directory, "churn", &log);
}

static int write_all(const char *directory)
{
    static struct log log;
    add(&log, create_record());
    add(&log, state_record(REPL_STATE_SEEDING, ""));
    add(&log, commit_record(0, 1, 0, false, 0));
    add(&log, commit_record(0, 1, 1, true, REPL_POINT_RESYNC));
    add(&log, state_record(REPL_STATE_OK, ""));
    add(&log, commit_record(1, 2, 0, true, 0));
    add(&log, idle_record(2, START_NS + 600 * SECOND));
    add(&log, state_record(REPL_STATE_DEGRADED, "12 writes were not seen: \xc3\xbc"
                                                "berpr\xc3\xbc"
                                                "fen"));
    add(&log, commit_record(2, 7, 0, true, REPL_POINT_RESYNC | REPL_POINT_MERGED));
    write_log(directory, "whole", &log);

    log = (struct log){.size = 0};
    add(&log, create_record());
    add(&log, commit_record(0, 1, 0, true, 0));
    size_t good = log.size;
    add(&log, commit_record(1, 2, 0, true, 0));
    log.size = good + (log.size - good) / 2;
    write_log(directory, "torn_tail", &log);

    log = (struct log){.size = 0};
    add(&log, create_record());
    good = log.size;
    add(&log, commit_record(0, 1, 0, true, 0));
    log.data[(good + log.size) / 2] ^= 0x04;
    add(&log, idle_record(1, START_NS + 60 * SECOND));
    write_log(directory, "damaged_middle", &log);

    log = (struct log){.size = 0};
    add(&log, create_record());
    good = log.size;
    add(&log, idle_record(1, START_NS));
    log.data[good + 6] = 2;
    struct repl_writer tail = repl_writer_of(log.data + log.size - 8, 8);
    repl_write_u64(&tail, repl_xxh3(log.data + good, log.size - good - 8));
    write_log(directory, "later_version", &log);

    log = (struct log){.size = 0};
    struct repl_log_record record = create_record();
    record.create.kind = REPL_VOLUME_TREE;
    add(&log, record);
    record = commit_record(0, 1, 0, true, 0);
    record.commit.point.consistency = REPL_CONSISTENCY_PER_FILE;
    record.commit.point.cut = REPL_CUT_FILES;
    add(&log, record);
    write_log(directory, "tree", &log);
    write_merged(directory);
    write_pool(directory);
    write_churn(directory);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_logs_are_read_as_they_were_written),
    };
    if (argc == 3 && strcmp(argv[1], "--write") == 0)
        return write_all(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
