/*
 * The status as JSON: one table of fields serves both directions, so that what
 * is written is what is read. docs/formats/status.md is the specification.
 *
 * The schema number changes when a field changes its meaning or goes. Fields
 * may be added without one: a reader skips those it does not know, and takes
 * zero for those an older writer did not have.
 */
#include "control/status.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum field_type {
    FIELD_TEXT,
    FIELD_SIGNED,
    FIELD_UNSIGNED,
    FIELD_BOOL,
};

struct field {
    const char *key;
    enum field_type type;
    size_t offset;
    size_t size; /* of the member */
};

#define FIELD(type, name, kind)                                                                    \
    {                                                                                              \
#name, kind, offsetof(struct type, name), sizeof(((struct type *)0)->name)                 \
    }
#define END                                                                                        \
    {                                                                                              \
        NULL, FIELD_TEXT, 0, 0                                                                     \
    }

static const struct field status_fields[] = {
    FIELD(repl_status, version, FIELD_TEXT),
    FIELD(repl_status, name, FIELD_TEXT),
    FIELD(repl_status, io, FIELD_TEXT),
    FIELD(repl_status, time_ns, FIELD_SIGNED),
    FIELD(repl_status, bandwidth_bytes_per_s, FIELD_UNSIGNED),
    FIELD(repl_status, clock_doubt, FIELD_TEXT),
    FIELD(repl_status, store_warning, FIELD_TEXT),
    FIELD(repl_status, compression_level, FIELD_UNSIGNED),
    FIELD(repl_status, stored_bytes, FIELD_UNSIGNED),
    FIELD(repl_status, space_limit_bytes, FIELD_UNSIGNED),
    FIELD(repl_status, free_bytes, FIELD_UNSIGNED),
    FIELD(repl_status, space_reserve_bytes, FIELD_UNSIGNED),
    END,
};

static const struct field volume_fields[] = {
    FIELD(repl_volume_status, name, FIELD_TEXT),
    FIELD(repl_volume_status, device, FIELD_TEXT),
    FIELD(repl_volume_status, cause, FIELD_TEXT),
    FIELD(repl_volume_status, remedy, FIELD_TEXT),
    FIELD(repl_volume_status, rpo_ms, FIELD_SIGNED),
    FIELD(repl_volume_status, lag_ms, FIELD_SIGNED),
    FIELD(repl_volume_status, unchanged_until_ns, FIELD_SIGNED),
    FIELD(repl_volume_status, size, FIELD_UNSIGNED),
    FIELD(repl_volume_status, backlog_bytes, FIELD_UNSIGNED),
    FIELD(repl_volume_status, catch_up_ms, FIELD_SIGNED),
    FIELD(repl_volume_status, done_bytes, FIELD_UNSIGNED),
    FIELD(repl_volume_status, total_bytes, FIELD_UNSIGNED),
    FIELD(repl_volume_status, clock_known, FIELD_BOOL),
    FIELD(repl_volume_status, clock_offset_ms, FIELD_SIGNED),
    FIELD(repl_volume_status, clock_ahead_ms, FIELD_SIGNED),
    FIELD(repl_volume_status, trouble, FIELD_TEXT),
    FIELD(repl_volume_status, trouble_seq, FIELD_UNSIGNED),
    FIELD(repl_volume_status, trouble_before_seq, FIELD_UNSIGNED),
    FIELD(repl_volume_status, replica_seq, FIELD_UNSIGNED),
    FIELD(repl_volume_status, replica_applying, FIELD_BOOL),
    FIELD(repl_volume_status, replica_behind_ms, FIELD_SIGNED),
    FIELD(repl_volume_status, replica_problem, FIELD_TEXT),
    FIELD(repl_volume_status, index_problem, FIELD_TEXT),
    FIELD(repl_volume_status, replica_on, FIELD_BOOL),
    FIELD(repl_volume_status, tree, FIELD_BOOL),
    FIELD(repl_volume_status, stored_bytes, FIELD_UNSIGNED),
    FIELD(repl_volume_status, space_limit_bytes, FIELD_UNSIGNED),
    FIELD(repl_volume_status, unverified_ms, FIELD_SIGNED),
    FIELD(repl_volume_status, scrubbed_bytes, FIELD_UNSIGNED),
    FIELD(repl_volume_status, damaged_segments, FIELD_UNSIGNED),
    FIELD(repl_volume_status, repaired_segments, FIELD_UNSIGNED),
    FIELD(repl_volume_status, damaged, FIELD_TEXT),
    FIELD(repl_volume_status, merging_waits, FIELD_BOOL),
    FIELD(repl_volume_status, points, FIELD_UNSIGNED),
    FIELD(repl_volume_status, bytes_changed, FIELD_UNSIGNED),
    FIELD(repl_volume_status, bytes_sent, FIELD_UNSIGNED),
    FIELD(repl_volume_status, rounds_torn, FIELD_UNSIGNED),
    FIELD(repl_volume_status, tracked, FIELD_BOOL),
    FIELD(repl_volume_status, untracked, FIELD_TEXT),
    FIELD(repl_volume_status, audits, FIELD_UNSIGNED),
    FIELD(repl_volume_status, shortfalls, FIELD_UNSIGNED),
    FIELD(repl_volume_status, repairs, FIELD_UNSIGNED),
    FIELD(repl_volume_status, degradations, FIELD_UNSIGNED),
    FIELD(repl_volume_status, stall_max_ms, FIELD_SIGNED),
    FIELD(repl_volume_status, unstable_files, FIELD_UNSIGNED),
    END,
};

static const struct field point_fields[] = {
    FIELD(repl_point, seq, FIELD_UNSIGNED),
    FIELD(repl_point, begin_ns, FIELD_SIGNED),
    FIELD(repl_point, end_ns, FIELD_SIGNED),
    FIELD(repl_point, flags, FIELD_UNSIGNED),
    FIELD(repl_point, attempts, FIELD_UNSIGNED),
    FIELD(repl_point, changed_bytes, FIELD_UNSIGNED),
    END,
};

static const char *const consistency_names[] = {
    [REPL_CONSISTENCY_NONE] = "none",
    [REPL_CONSISTENCY_CRASH] = "crash",
    [REPL_CONSISTENCY_FILESYSTEM] = "filesystem",
    [REPL_CONSISTENCY_APPLICATION] = "application",
    [REPL_CONSISTENCY_PER_FILE] = "per-file",
};

static const char *const cut_names[] = {
    [0] = "none",
    [REPL_CUT_QUIET] = "quiet",
    [REPL_CUT_WINDOW] = "window",
    [REPL_CUT_FREEZE] = "freeze",
    [REPL_CUT_COMMAND] = "command",
    [REPL_CUT_FILES] = "files",
    [REPL_CUT_SNAPSHOT] = "snapshot",
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *name_of(const char *const *names, size_t count, unsigned value)
{
    return value < count ? names[value] : "unknown";
}

/* The number of a name; 0 for one that a newer writer may have. */
static unsigned number_of(const char *const *names, size_t count, const char *name)
{
    for (size_t i = 0; name != NULL && i < count; i++) {
        if (strcmp(names[i], name) == 0)
            return (unsigned)i;
    }
    return 0;
}

/* --- writing --------------------------------------------------------------------------------- */

static uint64_t unsigned_load(const void *member, size_t size)
{
    uint16_t narrow;
    uint32_t middle;
    uint64_t wide = 0;
    if (size == sizeof narrow) {
        memcpy(&narrow, member, size);
        return narrow;
    }
    if (size == sizeof middle) {
        memcpy(&middle, member, size);
        return middle;
    }
    memcpy(&wide, member, sizeof wide);
    /* JSON's integers, as jansson has them, are signed. */
    return wide > INT64_MAX ? INT64_MAX : wide;
}

static json_t *field_to_json(const struct field *field, const void *member)
{
    int64_t number;
    json_t *text;
    switch (field->type) {
    case FIELD_TEXT:
        text = json_string(member);
        /* NULL for bytes that are not UTF-8, such as those of an odd path. */
        return text != NULL ? text : json_string("?");
    case FIELD_SIGNED:
        memcpy(&number, member, sizeof number);
        return json_integer(number);
    case FIELD_UNSIGNED:
        return json_integer((json_int_t)unsigned_load(member, field->size));
    case FIELD_BOOL:
        return json_boolean(*(const bool *)member);
    }
    return NULL;
}

static bool fields_to_json(const struct field *fields, const void *from, json_t *object)
{
    for (; fields->key != NULL; fields++) {
        json_t *value = field_to_json(fields, (const char *)from + fields->offset);
        if (json_object_set_new(object, fields->key, value) != 0)
            return false;
    }
    return true;
}

static json_t *point_to_json(const struct repl_point *point)
{
    json_t *object =
        json_pack("{s:s,s:s}", "consistency",
                  name_of(consistency_names, COUNT(consistency_names), point->consistency), "cut",
                  name_of(cut_names, COUNT(cut_names), point->cut));
    if (object != NULL && fields_to_json(point_fields, point, object))
        return object;
    json_decref(object);
    return NULL;
}

static json_t *volume_to_json(const struct repl_volume_status *volume)
{
    json_t *object = json_pack("{s:s,s:o}", "state", repl_state_name(volume->state), "point",
                               point_to_json(&volume->point));
    if (object != NULL && fields_to_json(volume_fields, volume, object))
        return object;
    json_decref(object);
    return NULL;
}

json_t *repl_status_to_json(const struct repl_status *status)
{
    json_t *volumes = json_array();
    bool good = volumes != NULL;
    for (size_t i = 0; good && i < status->volume_count; i++)
        good = json_array_append_new(volumes, volume_to_json(&status->volumes[i])) == 0;
    json_t *object = json_pack("{s:i,s:s,s:o}", "schema", REPL_STATUS_SCHEMA, "role",
                               status->site ? "site" : "agent", "volumes", volumes);
    if (object != NULL && good && fields_to_json(status_fields, status, object))
        return object;
    json_decref(object);
    return NULL;
}

/* --- reading --------------------------------------------------------------------------------- */

static bool unsigned_store(void *member, size_t size, uint64_t value)
{
    uint16_t narrow = (uint16_t)value;
    uint32_t middle = (uint32_t)value;
    if (size == sizeof narrow) {
        memcpy(member, &narrow, size);
        return value == narrow;
    }
    if (size == sizeof middle) {
        memcpy(member, &middle, size);
        return value == middle;
    }
    memcpy(member, &value, sizeof value);
    return true;
}

static bool field_from_json(const struct field *field, const json_t *value, void *member)
{
    const char *text = json_string_value(value);
    int64_t number = json_integer_value(value);
    switch (field->type) {
    case FIELD_TEXT:
        if (text == NULL || strlen(text) >= field->size)
            return false;
        strcpy(member, text);
        return true;
    case FIELD_SIGNED:
        memcpy(member, &number, sizeof number);
        return json_is_integer(value);
    case FIELD_UNSIGNED:
        return json_is_integer(value) && number >= 0 &&
               unsigned_store(member, field->size, (uint64_t)number);
    case FIELD_BOOL:
        *(bool *)member = json_is_true(value);
        return json_is_boolean(value);
    }
    return false;
}

static repl_result fields_from_json(const struct field *fields, const json_t *object, void *to,
                                    struct repl_error *err)
{
    if (!json_is_object(object))
        return repl_fail(err, REPL_E_CORRUPT, "status: an object is missing");
    for (; fields->key != NULL; fields++) {
        const json_t *value = json_object_get(object, fields->key);
        if (value != NULL && !field_from_json(fields, value, (char *)to + fields->offset))
            return repl_fail(err, REPL_E_CORRUPT, "status: \"%s\" is not what it should be",
                             fields->key);
    }
    return REPL_SUCCESS;
}

static repl_result state_from_json(const json_t *object, enum repl_state *out,
                                   struct repl_error *err)
{
    const char *name = json_string_value(json_object_get(object, "state"));
    for (int state = 0; name != NULL && state < REPL_STATE_COUNT; state++) {
        if (strcmp(repl_state_name((enum repl_state)state), name) == 0) {
            *out = (enum repl_state)state;
            return REPL_SUCCESS;
        }
    }
    return repl_fail(err, REPL_E_CORRUPT, "status: a volume without a state we know");
}

static repl_result volume_from_json(const json_t *object, struct repl_volume_status *out,
                                    struct repl_error *err)
{
    const json_t *point = json_object_get(object, "point");
    REPL_TRY(fields_from_json(volume_fields, object, out, err));
    REPL_TRY(state_from_json(object, &out->state, err));
    REPL_TRY(fields_from_json(point_fields, point, &out->point, err));
    out->point.consistency = number_of(consistency_names, COUNT(consistency_names),
                                       json_string_value(json_object_get(point, "consistency")));
    out->point.cut =
        number_of(cut_names, COUNT(cut_names), json_string_value(json_object_get(point, "cut")));
    return REPL_SUCCESS;
}

static repl_result volumes_from_json(const json_t *array, struct repl_status *out,
                                     struct repl_error *err)
{
    if (!json_is_array(array))
        return repl_fail(err, REPL_E_CORRUPT, "status: the list of volumes is missing");
    size_t count = json_array_size(array);
    out->volumes = calloc(count + 1, sizeof *out->volumes);
    if (out->volumes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the status of %zu volumes", count);
    out->volume_count = count;
    for (size_t i = 0; i < count; i++)
        REPL_TRY(volume_from_json(json_array_get(array, i), &out->volumes[i], err));
    return REPL_SUCCESS;
}

static repl_result status_from_json(const json_t *json, struct repl_status *out,
                                    struct repl_error *err)
{
    const json_t *schema = json_object_get(json, "schema");
    const char *role = json_string_value(json_object_get(json, "role"));
    if (!json_is_integer(schema) || role == NULL)
        return repl_fail(err, REPL_E_CORRUPT, "status: that is not one");
    if (json_integer_value(schema) != REPL_STATUS_SCHEMA)
        return repl_fail(err, REPL_E_VERSION,
                         "the service speaks schema %lld of the status, this program %d: use the "
                         "same version of both",
                         (long long)json_integer_value(schema), REPL_STATUS_SCHEMA);
    out->site = strcmp(role, "site") == 0;
    REPL_TRY(fields_from_json(status_fields, json, out, err));
    return volumes_from_json(json_object_get(json, "volumes"), out, err);
}

repl_result repl_status_from_json(const json_t *json, struct repl_status *out,
                                  struct repl_error *err)
{
    *out = (struct repl_status){0};
    repl_result result = status_from_json(json, out, err);
    if (!repl_ok(result))
        repl_status_fini(out);
    return result;
}

void repl_status_fini(struct repl_status *status)
{
    free(status->volumes);
    *status = (struct repl_status){0};
}
