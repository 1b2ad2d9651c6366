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
    int size =
        snprintf(name, REPL_SEGMENT_NAME_SIZE, "%020" PRIu64 ".%06" PRIu32, id->to_seq, id->part);
    char *rest = name + size;
    size_t room = REPL_SEGMENT_NAME_SIZE - (size_t)size;
    if (id->supply != 0)
        snprintf(rest, room, ".%03" PRIu32 ".sup", id->supply);
    else if (id->merge != 0)
        snprintf(rest, room, ".%020" PRIu64 ".mrg", id->merge);
    else
        snprintf(rest, room, ".seg");
}

/* So many digits; 0: as many as there are, without leading zeros. */
static bool number_take(const char **text, size_t count, uint64_t *value)
{
    size_t digits = count != 0 ? count : strspn(*text, "0123456789");
    *value = 0;
    if (digits == 0 || (count == 0 && digits > 1 && **text == '0'))
        return false;
    for (size_t i = 0; i < digits; i++) {
        char c = (*text)[i];
        uint64_t digit = (uint64_t)(c - '0');
        if (c < '0' || c > '9' || *value > (UINT64_MAX - digit) / 10)
            return false;
        *value = *value * 10 + digit;
    }
    *text += digits;
    return true;
}

/* "TO.PART" of either kind of name. */
static bool place_take(const char **text, size_t to_digits, size_t part_digits,
                       struct repl_segment_id *out)
{
    uint64_t part;
    *out = (struct repl_segment_id){0};
    if (!number_take(text, to_digits, &out->to_seq) || *(*text)++ != '.' ||
        !number_take(text, part_digits, &part) || part > UINT32_MAX)
        return false;
    out->part = (uint32_t)part;
    return true;
}

bool repl_segment_name_parse(const char *name, struct repl_segment_id *out)
{
    uint64_t number;
    if (!place_take(&name, 20, 6, out))
        return false;
    if (strcmp(name, ".seg") == 0)
        return true;
    if (*name++ != '.')
        return false;
    size_t digits = strcspn(name, ".");
    if ((digits != 3 && digits != 20) || !number_take(&name, digits, &number) || number == 0)
        return false;
    if (digits == 3)
        out->supply = (uint32_t)number;
    else
        out->merge = number;
    return strcmp(name, digits == 3 ? ".sup" : ".mrg") == 0;
}

void repl_segment_id_text(const struct repl_segment_id *id, char text[REPL_SEGMENT_ID_TEXT_SIZE])
{
    int size =
        snprintf(text, REPL_SEGMENT_ID_TEXT_SIZE, "%" PRIu64 ".%" PRIu32, id->to_seq, id->part);
    size_t room = REPL_SEGMENT_ID_TEXT_SIZE - (size_t)size;
    if (id->supply != 0)
        snprintf(text + size, room, ".%" PRIu32, id->supply);
    else if (id->merge != 0)
        snprintf(text + size, room, ".m%" PRIu64, id->merge);
}

bool repl_segment_id_parse(const char *text, struct repl_segment_id *out)
{
    uint64_t number;
    if (!place_take(&text, 0, 0, out))
        return false;
    if (*text == '\0')
        return true;
    if (*text++ != '.')
        return false;
    bool merge = *text == 'm';
    text += merge;
    if (!number_take(&text, 0, &number) || number == 0 || *text != '\0' ||
        (!merge && number > UINT32_MAX))
        return false;
    if (merge)
        out->merge = number;
    else
        out->supply = (uint32_t)number;
    return true;
}

int repl_segment_id_order(const struct repl_segment_id *a, const struct repl_segment_id *b)
{
    if (a->to_seq != b->to_seq)
        return a->to_seq < b->to_seq ? -1 : 1;
    if (a->part != b->part)
        return a->part < b->part ? -1 : 1;
    if (a->merge != b->merge)
        return a->merge < b->merge ? -1 : 1;
    return a->supply < b->supply ? -1 : a->supply > b->supply;
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
