#include "journal/mark.h"

#include <stdio.h>
#include <string.h>

/* --- the name -------------------------------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* In either case of letters. */
static bool begins_with(const char *text, const char *word)
{
    for (; *word != '\0'; text++, word++) {
        if (lower(*text) != *word)
            return false;
    }
    return true;
}

/* "d" stands for a digit, all else for itself. */
static bool begins_like(const char *text, const char *form)
{
    for (; *form != '\0'; text++, form++) {
        if (*form == 'd' ? !is_digit(*text) : *text != *form)
            return false;
    }
    return true;
}

/* "monday 09:30", "mon 09:30" */
static bool is_like_weekday(const char *name)
{
    static const char *const days[] = {"sunday",   "monday", "tuesday", "wednesday",
                                       "thursday", "friday", "saturday"};
    const char *space = strchr(name, ' ');
    if (space == NULL)
        return false;
    size_t size = (size_t)(space - name);
    bool day = false;
    for (size_t i = 0; i < sizeof days / sizeof days[0]; i++) {
        const char shortened[4] = {days[i][0], days[i][1], days[i][2], '\0'};
        day |= (size == 3 && begins_with(name, shortened)) ||
               (size == strlen(days[i]) && begins_with(name, days[i]));
    }
    const char *clock = space + strspn(space, " ");
    return day && (begins_like(clock, "d:dd") || begins_like(clock, "dd:dd"));
}

static bool is_word(const char *name, const char *word)
{
    return strlen(name) == strlen(word) && begins_with(name, word);
}

/* What --at may read as a time, and a little more: a day alone as well. */
static bool is_like_time(const char *name)
{
    size_t size = strlen(name);
    bool ago = size >= 3 && begins_with(name + size - 3, "ago");
    return is_word(name, "latest") || is_word(name, "now") || is_word(name, "before trouble") ||
           is_word(name, "before encryption") || begins_with(name, "today ") ||
           begins_with(name, "yesterday ") ||
           (begins_like(name, "dddd-dd-dd") && strchr(" T", name[10]) != NULL) ||
           begins_like(name, "d:dd") || begins_like(name, "dd:dd") || is_like_weekday(name) ||
           (is_digit(name[0]) && ago);
}

/* The length of the character of UTF-8 at text; 0: there is none, or none that is shown. */
static size_t character_size(const unsigned char *text)
{
    unsigned char c = text[0];
    size_t size = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : 4;
    if (c < 0x20 || c == 0x7f || (c >= 0x80 && c < 0xc2) || c > 0xf4)
        return 0;
    uint32_t value = size == 1 ? c : c & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (text[i] & 0x3fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    bool control = value >= 0x80 && value < 0xa0;
    bool separator = value == 0x2028 || value == 0x2029;
    /* that turn the direction of what is shown, or are not shown at all */
    bool hidden = (value >= 0x200b && value <= 0x200f) || (value >= 0x202a && value <= 0x202e) ||
                  (value >= 0x2060 && value <= 0x206f) || value == 0xfeff;
    bool none = value < least[size] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000);
    return control || separator || hidden || none ? 0 : size;
}

static bool is_shown(const char *name)
{
    const unsigned char *text = (const unsigned char *)name;
    for (size_t size; *text != '\0'; text += size) {
        size = character_size(text);
        if (size == 0)
            return false;
    }
    return true;
}

const char *repl_mark_name_flaw(const char *name)
{
    size_t size = strlen(name);
    if (size == 0 || size > REPL_MARK_NAME_SIZE)
        return "a name has 1 to 64 bytes";
    if (!is_shown(name))
        return "a name is UTF-8 without control characters";
    if (name[0] == ' ' || name[size - 1] == ' ')
        return "a name neither begins nor ends with a space";
    size_t sign = name[0] == '#' && size > 1;
    if (strspn(name + sign, "0123456789") == size - sign)
        return "it would be taken for the number of a point";
    if (is_like_time(name))
        return "it would be taken for a time";
    return NULL;
}

/* --- the decision ---------------------------------------------------------------------------- */

const struct repl_log_mark *repl_mark_find(const struct repl_log_mark *marks, size_t count,
                                           const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (name[0] != '\0' && strcmp(marks[i].name, name) == 0)
            return &marks[i];
    }
    return NULL;
}

static size_t name_count(const struct repl_mark_facts *facts)
{
    size_t count = 0;
    for (size_t i = 0; i < facts->count; i++)
        count += facts->marks[i].kind != REPL_MARK_PROVEN;
    return count;
}

static enum repl_verdict accept(const struct repl_journal *j, const struct repl_log_mark *mark,
                                int64_t now_ns, struct repl_log_record *record)
{
    *record = (struct repl_log_record){
        .type = REPL_LOG_MARK, .number = j->record_number + 1, .time_ns = now_ns, .mark = *mark};
    return REPL_VERDICT_ACCEPT;
}

static enum repl_verdict remove_decide(const struct repl_journal *j,
                                       const struct repl_log_mark *there,
                                       const struct repl_mark_wish *wish, int64_t now_ns,
                                       struct repl_log_record *record, struct repl_refusal *refusal)
{
    if (there == NULL)
        return repl_refuse(
            refusal, REPL_REFUSAL_NOT_FOUND,
            "no point of the volume has that name: \"repl mark\" with --list shows those "
            "there are");
    struct repl_log_mark removed = wish->mark;
    removed.seq = 0;
    return accept(j, &removed, now_ns, record);
}

static enum repl_verdict refuse_missing(uint64_t seq, struct repl_refusal *refusal)
{
    return repl_refuse(refusal, REPL_REFUSAL_NOT_FOUND,
                       "there is no point %llu here: \"repl points\" lists those there are",
                       (unsigned long long)seq);
}

/* The last one that was proved good stands alone: this takes the place of the one before. */
static enum repl_verdict proven_decide(const struct repl_journal *j,
                                       const struct repl_mark_facts *facts,
                                       const struct repl_log_mark *mark, int64_t now_ns,
                                       struct repl_log_record *record, struct repl_refusal *refusal)
{
    if (mark->name[0] != '\0')
        return repl_refuse(refusal, REPL_REFUSAL_REQUEST,
                           "the point that was proved good is no name: leave \"%s\" out",
                           mark->name);
    for (size_t i = 0; i < facts->count; i++) {
        if (facts->marks[i].kind == REPL_MARK_PROVEN && facts->marks[i].seq == mark->seq)
            return REPL_VERDICT_DUPLICATE;
    }
    if (!facts->point_is_there)
        return refuse_missing(mark->seq, refusal);
    return accept(j, mark, now_ns, record);
}

enum repl_verdict repl_journal_mark(const struct repl_journal *j,
                                    const struct repl_mark_facts *facts,
                                    const struct repl_mark_wish *wish, int64_t now_ns,
                                    struct repl_log_record *record, struct repl_refusal *refusal)
{
    const struct repl_log_mark *mark = &wish->mark;
    const struct repl_log_mark *there = repl_mark_find(facts->marks, facts->count, mark->name);
    if (wish->by != REPL_MARK_BY_OPERATOR && mark->kind != REPL_MARK_NAME)
        return repl_refuse(refusal, REPL_REFUSAL_PERMISSION,
                           "only the operator of the site holds or removes names, and says "
                           "which point was proved good, there");
    if (mark->kind == REPL_MARK_REMOVED) /* also of one that could not be given now */
        return remove_decide(j, there, wish, now_ns, record, refusal);
    if (mark->kind == REPL_MARK_PROVEN)
        return proven_decide(j, facts, mark, now_ns, record, refusal);
    const char *flaw = repl_mark_name_flaw(mark->name);
    if (flaw != NULL)
        return repl_refuse(refusal, REPL_REFUSAL_REQUEST, "not a name for a point: %s", flaw);
    if (there != NULL && there->seq != mark->seq)
        return repl_refuse(
            refusal, REPL_REFUSAL_PERMISSION,
            "point %llu has the name \"%s\" already, and a name stays where it is: take "
            "another one, or have the operator of the site remove it there",
            (unsigned long long)there->seq, mark->name);
    if (there != NULL && (there->kind == mark->kind || there->kind == REPL_MARK_HELD))
        return REPL_VERDICT_DUPLICATE;
    if (!facts->point_is_there)
        return refuse_missing(mark->seq, refusal);
    if (there == NULL && name_count(facts) >= REPL_MARKS_MAX)
        return repl_refuse(
            refusal, REPL_REFUSAL_PERMISSION,
            "the volume has %u names, and cannot have more: have the operator of the "
            "site remove some there",
            REPL_MARKS_MAX);
    return accept(j, mark, now_ns, record);
}

/* --- which point ----------------------------------------------------------------------------- */

size_t repl_mark_choose(const struct repl_points_entry *points, size_t count, int64_t asked_ns,
                        uint64_t unchanged_seq)
{
    for (size_t i = 0; i < count; i++) {
        if (points[i].point.begin_ns >= asked_ns)
            return i;
    }
    for (size_t i = count; i > 0; i--) {
        if (points[i - 1].point.seq == unchanged_seq)
            return i - 1;
    }
    return SIZE_MAX;
}
