/*
 * Records are stored as a segment has them, under keys in the order in which
 * the merge gives them, so that loading only ever appends. Nothing is synced:
 * after a crash the plan is made again. No lock file: one thread writes, and
 * only before there are readers.
 */
#include "recover/tree_plan_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "format/segment_format.h"
#include "lmdb_file.h"

#define ENV_FLAGS (MDB_NOSUBDIR | MDB_NOTLS | MDB_NOLOCK | MDB_NOSYNC | MDB_NORDAHEAD)
/* Address space, not disk: a file takes some 400 bytes of it. */
#define MAP_SIZE (UINT64_C(1) << 38)
/* A transaction keeps in memory what it writes. */
#define COMMIT_BYTES (UINT64_C(32) << 20)

static const char *const table_names[PLAN_TABLE_COUNT] = {"records", "where", "links", "work",
                                                          "dirs"};

repl_result repl_tree_plan_fail(const struct repl_tree_plan *plan, int error,
                                struct repl_error *err)
{
    error = repl_lmdb_error(plan->directory, error);
    if (error == ENOSPC || error == EDQUOT)
        return repl_fail_errno(
            err, REPL_E_NOSPACE, error,
            "cannot keep names and metadata of the tree in %s: make room, or give "
            "another directory with --state",
            plan->directory);
    if (error > 0)
        return repl_fail_errno(err, error == ENOMEM ? REPL_E_NOMEM : REPL_E_IO, error,
                               "cannot keep names and metadata of the tree in %s", plan->directory);
    return repl_fail(err, error == MDB_MAP_FULL ? REPL_E_NOMEM : REPL_E_INTERNAL,
                     "cannot keep names and metadata of the tree in %s: %s", plan->directory,
                     mdb_strerror(error));
}

/* --- the file -------------------------------------------------------------------------------- */

static repl_result env_open(struct repl_tree_plan *plan, struct repl_error *err)
{
    char path[4096];
    MDB_txn *txn;
    int size = snprintf(path, sizeof path, "%s/tree-plan-XXXXXX", plan->directory);
    if (size < 0 || (size_t)size >= sizeof path)
        return repl_fail(err, REPL_E_USAGE, "--state: the path is too long");
    int fd = mkstemp(path);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno,
                               "cannot make a file in %s: give another directory with --state",
                               plan->directory);
    close(fd);
    int error = mdb_env_create(&plan->env);
    if (error == 0)
        error = mdb_env_set_maxdbs(plan->env, PLAN_TABLE_COUNT);
    if (error == 0)
        error = mdb_env_set_mapsize(plan->env, MAP_SIZE);
    if (error == 0)
        error = mdb_env_open(plan->env, path, ENV_FLAGS, 0600);
    unlink(path);
    if (error == 0)
        error = mdb_txn_begin(plan->env, NULL, 0, &txn);
    if (error != 0)
        return repl_tree_plan_fail(plan, error, err);
    for (unsigned i = 0; i < PLAN_TABLE_COUNT && error == 0; i++)
        error = mdb_dbi_open(txn, table_names[i], MDB_CREATE, &plan->tables[i]);
    if (error != 0)
        mdb_txn_abort(txn);
    else
        error = mdb_txn_commit(txn);
    return error == 0 ? REPL_SUCCESS : repl_tree_plan_fail(plan, error, err);
}

repl_result repl_tree_plan_new(const char *directory, struct repl_tree_plan **out,
                               struct repl_error *err)
{
    struct repl_tree_plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL || (plan->directory = strdup(directory)) == NULL) {
        free(plan);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a plan");
    }
    repl_result result = env_open(plan, err);
    if (!repl_ok(result)) {
        repl_tree_plan_free(plan);
        return result;
    }
    *out = plan;
    return REPL_SUCCESS;
}

void repl_tree_plan_free(struct repl_tree_plan *plan)
{
    if (plan == NULL)
        return;
    if (plan->env != NULL)
        mdb_env_close(plan->env);
    free(plan->directory);
    free(plan);
}

uint64_t repl_tree_plan_root(const struct repl_tree_plan *plan)
{
    return plan->root;
}

/* --- readers --------------------------------------------------------------------------------- */

static int reader_open(struct repl_tree_reader *reader, unsigned flags)
{
    int error = mdb_txn_begin(reader->plan->env, NULL, flags, &reader->txn);
    if (error == 0)
        error = mdb_cursor_open(reader->txn, reader->plan->tables[PLAN_RECORDS], &reader->records);
    return error;
}

repl_result repl_tree_reader_begin(struct repl_tree_reader *reader, struct repl_tree_plan *plan,
                                   bool writable, struct repl_error *err)
{
    *reader = (struct repl_tree_reader){.plan = plan};
    int error = reader_open(reader, writable ? 0 : MDB_RDONLY);
    if (error == 0)
        return REPL_SUCCESS;
    repl_tree_reader_end(reader);
    return repl_tree_plan_fail(plan, error, err);
}

repl_result repl_tree_reader_commit(struct repl_tree_reader *reader, struct repl_error *err)
{
    mdb_cursor_close(reader->records);
    reader->records = NULL;
    int error = mdb_txn_commit(reader->txn);
    reader->txn = NULL;
    if (error == 0)
        error = reader_open(reader, 0);
    return error == 0 ? REPL_SUCCESS : repl_tree_plan_fail(reader->plan, error, err);
}

void repl_tree_reader_end(struct repl_tree_reader *reader)
{
    if (reader->records != NULL)
        mdb_cursor_close(reader->records);
    if (reader->txn != NULL)
        mdb_txn_abort(reader->txn);
}

repl_result repl_tree_reader_new(struct repl_tree_plan *plan, struct repl_tree_reader **out,
                                 struct repl_error *err)
{
    struct repl_tree_reader *reader = malloc(sizeof *reader);
    if (reader == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a plan");
    repl_result result = repl_tree_reader_begin(reader, plan, false, err);
    if (!repl_ok(result)) {
        free(reader);
        return result;
    }
    *out = reader;
    return REPL_SUCCESS;
}

void repl_tree_reader_free(struct repl_tree_reader *reader)
{
    if (reader == NULL)
        return;
    repl_tree_reader_end(reader);
    free(reader);
}

/* --- records --------------------------------------------------------------------------------- */

static void key_encode(const struct repl_tree_key *key, uint8_t out[PLAN_RECORD_KEY_SIZE])
{
    repl_tree_numbers_put(out, &key->object, 1);
    out[8] = (uint8_t)key->type;
    repl_tree_numbers_put(out + 9, &key->offset, 1);
    for (unsigned i = 0; i < 4; i++)
        out[17 + i] = (uint8_t)(key->index >> (24 - i * 8));
}

static repl_result record_decode(const struct repl_tree_reader *reader, const MDB_val *value,
                                 struct repl_record *record, struct repl_error *err)
{
    struct repl_reader r = repl_reader_of(value->mv_data, value->mv_size);
    repl_record_decode(&r, record);
    if (r.failed)
        return repl_fail(err, REPL_E_INTERNAL, "what was kept in %s is not there any more",
                         reader->plan->directory);
    return REPL_SUCCESS;
}

repl_result repl_tree_next(struct repl_tree_reader *reader, struct repl_tree_key *key,
                           struct repl_record *record, bool *found, struct repl_error *err)
{
    uint8_t bytes[PLAN_RECORD_KEY_SIZE];
    key_encode(key, bytes);
    MDB_val at = repl_tree_val(bytes, sizeof bytes), value;
    int error = mdb_cursor_get(reader->records, &at, &value, MDB_SET_RANGE);
    *found = error == 0 && memcmp(at.mv_data, bytes, 9) == 0;
    if (error != 0 && error != MDB_NOTFOUND)
        return repl_tree_plan_fail(reader->plan, error, err);
    if (!*found)
        return REPL_SUCCESS;
    const uint8_t *end = at.mv_data;
    REPL_TRY(record_decode(reader, &value, record, err));
    key->offset = repl_tree_number(end + 9);
    key->index = ((uint32_t)end[17] << 24 | (uint32_t)end[18] << 16 | (uint32_t)end[19] << 8 |
                  (uint32_t)end[20]) +
                 1;
    return REPL_SUCCESS;
}

repl_result repl_tree_node(struct repl_tree_reader *reader, uint64_t object, struct repl_node *node,
                           bool *found, struct repl_error *err)
{
    struct repl_tree_key key = {.object = object, .type = REPL_RECORD_NODE};
    struct repl_record record;
    REPL_TRY(repl_tree_next(reader, &key, &record, found, err));
    if (*found)
        *node = record.node;
    return REPL_SUCCESS;
}

/* The record before the one at key, if it is of the same object and type. */
static repl_result record_before(struct repl_tree_reader *reader, const struct repl_tree_key *key,
                                 struct repl_record *record, bool *found, struct repl_error *err)
{
    uint8_t bytes[PLAN_RECORD_KEY_SIZE];
    key_encode(key, bytes);
    MDB_val at = repl_tree_val(bytes, sizeof bytes), value;
    int error = mdb_cursor_get(reader->records, &at, &value, MDB_SET_RANGE);
    if (error == 0 || error == MDB_NOTFOUND)
        error = mdb_cursor_get(reader->records, &at, &value, error == 0 ? MDB_PREV : MDB_LAST);
    *found = error == 0 && memcmp(at.mv_data, bytes, 9) == 0;
    if (error != 0 && error != MDB_NOTFOUND)
        return repl_tree_plan_fail(reader->plan, error, err);
    return *found ? record_decode(reader, &value, record, err) : REPL_SUCCESS;
}

repl_result repl_tree_run_at(struct repl_tree_reader *reader, uint64_t object, uint64_t offset,
                             struct repl_record *run, bool *found, struct repl_error *err)
{
    struct repl_tree_key key = {
        .object = object, .type = REPL_RECORD_RUN, .offset = offset, .index = UINT32_MAX};
    REPL_TRY(record_before(reader, &key, run, found, err));
    if (*found && offset - run->offset < run->length)
        return REPL_SUCCESS;
    return repl_tree_next(reader, &key, run, found, err);
}

repl_result repl_tree_child(struct repl_tree_reader *reader, uint64_t directory, const char *name,
                            size_t name_size, uint64_t *child, struct repl_error *err)
{
    uint64_t hash = repl_xxh3(name, name_size);
    struct repl_tree_key key = {.object = directory, .type = REPL_RECORD_NAME, .offset = hash};
    *child = 0;
    for (bool found = true;;) {
        struct repl_record record;
        REPL_TRY(repl_tree_next(reader, &key, &record, &found, err));
        if (!found || record.offset != hash)
            return REPL_SUCCESS;
        if (record.name_size == name_size && memcmp(record.name, name, name_size) == 0) {
            *child = record.child;
            return REPL_SUCCESS;
        }
    }
}

/* --- what was resolved ----------------------------------------------------------------------- */

/* Where the first key at or after so many numbers lies; *found false: there is none. */
static repl_result range_get(struct repl_tree_reader *reader, enum plan_table table,
                             uint64_t *numbers, size_t count, MDB_val *value, bool *found,
                             struct repl_error *err)
{
    uint8_t bytes[16];
    MDB_cursor *cursor;
    repl_tree_numbers_put(bytes, numbers, count);
    MDB_val key = repl_tree_val(bytes, count * 8);
    int error = mdb_cursor_open(reader->txn, reader->plan->tables[table], &cursor);
    if (error != 0)
        return repl_tree_plan_fail(reader->plan, error, err);
    error = mdb_cursor_get(cursor, &key, value, MDB_SET_RANGE);
    mdb_cursor_close(cursor);
    *found = error == 0;
    for (size_t i = 0; *found && i < count; i++)
        numbers[i] = repl_tree_number((const uint8_t *)key.mv_data + i * 8);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_tree_plan_fail(reader->plan, error, err);
}

static struct repl_tree_place place_of(const MDB_val *value)
{
    return (struct repl_tree_place){.parent = repl_tree_number(value->mv_data),
                                    .name = (const char *)value->mv_data + 8,
                                    .name_size = (uint32_t)value->mv_size - 8};
}

static repl_result number_get(struct repl_tree_reader *reader, enum plan_table table,
                              uint64_t number, MDB_val *value, bool *found, struct repl_error *err)
{
    uint8_t bytes[8];
    repl_tree_numbers_put(bytes, &number, 1);
    MDB_val key = repl_tree_val(bytes, sizeof bytes);
    int error = mdb_get(reader->txn, reader->plan->tables[table], &key, value);
    *found = error == 0;
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_tree_plan_fail(reader->plan, error, err);
}

repl_result repl_tree_where(struct repl_tree_reader *reader, uint64_t object,
                            struct repl_tree_place *place, bool *found, struct repl_error *err)
{
    MDB_val value;
    REPL_TRY(number_get(reader, PLAN_WHERE, object, &value, found, err));
    if (*found)
        *place = place_of(&value);
    return REPL_SUCCESS;
}

repl_result repl_tree_link_next(struct repl_tree_reader *reader, uint64_t *object, uint64_t *index,
                                struct repl_tree_place *place, bool *found, struct repl_error *err)
{
    MDB_val value;
    uint64_t numbers[2] = {*object, *index};
    REPL_TRY(range_get(reader, PLAN_LINKS, numbers, 2, &value, found, err));
    if (!*found)
        return REPL_SUCCESS;
    *place = place_of(&value);
    *object = numbers[0];
    *index = numbers[1] + 1;
    return REPL_SUCCESS;
}

repl_result repl_tree_directory(struct repl_tree_reader *reader, uint64_t number, uint64_t *object,
                                bool *found, struct repl_error *err)
{
    MDB_val value;
    REPL_TRY(number_get(reader, PLAN_DIRS, number, &value, found, err));
    if (*found)
        *object = repl_tree_number(value.mv_data);
    return REPL_SUCCESS;
}

repl_result repl_tree_work_next(struct repl_tree_reader *reader, struct repl_tree_work *work,
                                bool *found, struct repl_error *err)
{
    MDB_val value;
    uint64_t numbers[2] = {work->space_place, work->object + 1};
    if (numbers[1] == 0)
        numbers[0]++;
    REPL_TRY(range_get(reader, PLAN_WORK, numbers, 2, &value, found, err));
    if (*found)
        *work = (struct repl_tree_work){numbers[0], numbers[1]};
    return REPL_SUCCESS;
}

/* --- loading --------------------------------------------------------------------------------- */

struct loading {
    struct repl_tree_reader reader;
    struct repl_tree_key last;
    uint64_t space_size, bytes;
};

static repl_result place_check(const struct loading *l, const struct repl_record *record,
                               struct repl_error *err)
{
    uint64_t size = record->type == REPL_RECORD_RUN ? record->length : record->value_size;
    bool in_space = record->type == REPL_RECORD_RUN ||
                    (record->type == REPL_RECORD_XATTR && record->value == NULL);
    if (!in_space || (record->place <= l->space_size && size <= l->space_size - record->place))
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_CORRUPT,
                     "object %llu has bytes at place %llu of the space, which has only %llu",
                     (unsigned long long)record->object, (unsigned long long)record->place,
                     (unsigned long long)l->space_size);
}

static repl_result record_append(struct loading *l, const struct repl_record *record,
                                 struct repl_error *err)
{
    uint8_t key[PLAN_RECORD_KEY_SIZE], bytes[REPL_RECORD_SIZE_MAX];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    struct repl_tree_key at = {.object = record->object, .type = record->type};
    if (record->type == REPL_RECORD_NAME || record->type == REPL_RECORD_RUN)
        at.offset = record->offset;
    if (at.object == l->last.object && at.type == l->last.type && at.offset == l->last.offset)
        at.index = l->last.index + 1;
    l->last = at;
    REPL_TRY(place_check(l, record, err));
    repl_record_encode(&w, record);
    key_encode(&at, key);
    MDB_val key_val = repl_tree_val(key, sizeof key), value = repl_tree_val(bytes, w.position);
    struct repl_tree_plan *plan = l->reader.plan;
    int error = mdb_cursor_put(l->reader.records, &key_val, &value, MDB_APPEND);
    if (error != 0)
        return repl_tree_plan_fail(plan, error, err);
    plan->node_count += record->type == REPL_RECORD_NODE;
    l->bytes += w.position;
    if (l->bytes < COMMIT_BYTES)
        return REPL_SUCCESS;
    l->bytes = 0;
    return repl_tree_reader_commit(&l->reader, err);
}

repl_result repl_tree_plan_load(struct repl_tree_plan *plan, struct repl_tree_merge *merge,
                                uint64_t space_size, struct repl_error *err)
{
    struct loading l = {.space_size = space_size};
    repl_result result = repl_tree_reader_begin(&l.reader, plan, true, err);
    for (bool done = false; repl_ok(result);) {
        struct repl_record record;
        result = repl_tree_merge_next(merge, &record, &done, err);
        if (!repl_ok(result) || done)
            break;
        result = record_append(&l, &record, err);
    }
    if (repl_ok(result))
        result = repl_tree_reader_commit(&l.reader, err);
    repl_tree_reader_end(&l.reader);
    return result;
}

/* --- paths ----------------------------------------------------------------------------------- */

/* How many bytes of UTF-8 a printable character takes here; 0: it is none. */
static size_t character_size(const uint8_t *at, size_t left)
{
    static const uint32_t least[] = {0, 0, 0xa0, 0x800, 0x10000};
    size_t size = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : at[0] >= 0xc0 ? 2 : 1;
    if (size == 1)
        return at[0] >= 0x20 && at[0] < 0x7f && at[0] != '\\';
    if (size > left || at[0] >= 0xf8)
        return 0;
    uint32_t character = at[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        character = character << 6 | (at[i] & 0x3fu);
    }
    bool surrogate = character >= 0xd800 && character <= 0xdfff;
    /* marks that turn the direction of what follows on the line */
    bool turns = (character >= 0x2028 && character <= 0x202e) ||
                 (character >= 0x2066 && character <= 0x2069);
    return character < least[size] || character > 0x10ffff || surrogate || turns ? 0 : size;
}

size_t repl_tree_name_text(const char *name, size_t name_size, char *text)
{
    static const char digits[] = "0123456789abcdef";
    char *out = text;
    for (size_t at = 0; at < name_size;) {
        const uint8_t *byte = (const uint8_t *)name + at;
        size_t size = character_size(byte, name_size - at);
        if (size > 0) {
            memcpy(out, byte, size);
            out += size;
            at += size;
            continue;
        }
        *out++ = '\\';
        *out++ = 'x';
        *out++ = digits[*byte >> 4];
        *out++ = digits[*byte & 15];
        at++;
    }
    *out = '\0';
    return (size_t)(out - text);
}

void repl_tree_path(struct repl_tree_reader *reader, const struct repl_tree_place *place,
                    char text[REPL_TREE_PATH_SIZE])
{
    static const char cut[] = ".../";
    char part[4 * REPL_NAME_MAX + 1];
    size_t begin = REPL_TREE_PATH_SIZE - 1;
    struct repl_tree_place at = *place;
    bool found = at.name != NULL;
    text[begin] = '\0';
    if (!found) {
        strcpy(text, ".");
        return;
    }
    while (found) {
        size_t size = repl_tree_name_text(at.name, at.name_size, part);
        bool last = begin == REPL_TREE_PATH_SIZE - 1;
        if (size + sizeof cut > begin) {
            begin -= sizeof cut - 1;
            memcpy(text + begin, cut, sizeof cut - 1);
            break;
        }
        if (!last)
            text[--begin] = '/';
        begin -= size;
        memcpy(text + begin, part, size);
        if (!repl_ok(repl_tree_where(reader, at.parent, &at, &found, NULL)))
            break;
    }
    memmove(text, text + begin, REPL_TREE_PATH_SIZE - begin);
}
