#include "store/segment_name.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

repl_result repl_segment_id_check(const struct repl_segment_id *id, struct repl_error *err)
{
    if (id->part > REPL_SEGMENT_PART_MAX || id->supply > REPL_SEGMENT_SUPPLY_MAX)
        return repl_fail(err, REPL_E_REFUSED,
                         "segment %" PRIu64 ".%" PRIu32 ", supply %" PRIu32
                         ": the store holds up to part %u and supply %u",
                         id->to_seq, id->part, id->supply, REPL_SEGMENT_PART_MAX,
                         REPL_SEGMENT_SUPPLY_MAX);
    return REPL_SUCCESS;
}

void repl_segment_name_format(const struct repl_segment_id *id, char name[REPL_SEGMENT_NAME_SIZE])
{
    if (id->supply == 0)
        snprintf(name, REPL_SEGMENT_NAME_SIZE, "%020" PRIu64 ".%06" PRIu32 ".seg", id->to_seq,
                 id->part);
    else
        snprintf(name, REPL_SEGMENT_NAME_SIZE, "%020" PRIu64 ".%06" PRIu32 ".%03" PRIu32 ".sup",
                 id->to_seq, id->part, id->supply);
}

static bool digits_take(const char **text, size_t count, uint64_t *value)
{
    *value = 0;
    for (size_t i = 0; i < count; i++) {
        char c = (*text)[i];
        uint64_t digit = (uint64_t)(c - '0');
        if (c < '0' || c > '9' || *value > (UINT64_MAX - digit) / 10)
            return false;
        *value = *value * 10 + digit;
    }
    *text += count;
    return true;
}

bool repl_segment_name_parse(const char *name, struct repl_segment_id *out)
{
    uint64_t to_seq, part, supply = 0;
    if (!digits_take(&name, 20, &to_seq) || *name++ != '.' || !digits_take(&name, 6, &part))
        return false;
    if (strcmp(name, ".seg") != 0 && (*name++ != '.' || !digits_take(&name, 3, &supply) ||
                                      strcmp(name, ".sup") != 0 || supply == 0))
        return false;
    *out = (struct repl_segment_id){
        .to_seq = to_seq, .part = (uint32_t)part, .supply = (uint32_t)supply};
    return true;
}

void repl_segment_id_text(const struct repl_segment_id *id, char text[REPL_SEGMENT_ID_TEXT_SIZE])
{
    int size =
        snprintf(text, REPL_SEGMENT_ID_TEXT_SIZE, "%" PRIu64 ".%" PRIu32, id->to_seq, id->part);
    if (id->supply != 0)
        snprintf(text + size, REPL_SEGMENT_ID_TEXT_SIZE - (size_t)size, ".%" PRIu32, id->supply);
}

void repl_stored_segment_label(struct repl_stored_segment *segment, const char *volume,
                               const struct repl_segment_id *id)
{
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    repl_segment_id_text(id, text);
    /* Cut at the end where both are as long as they can be: it is only for messages. */
    int size =
        snprintf(segment->label, sizeof segment->label, "volume %s, segment %s", volume, text);
    if (size < 0)
        segment->label[0] = '\0';
}
