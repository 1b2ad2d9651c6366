#include "suspect.h"

#include "base/hash.h"

void repl_suspect_told(const struct repl_points_entry *at, struct repl_suspect_look *look)
{
    bool at_rest = at->unchanged_until_ns > at->point.end_ns;
    look->told_ns = at_rest ? at->unchanged_until_ns : at->point.begin_ns;
    look->vague =
        !at_rest && (at->point.cut == REPL_CUT_FREEZE || at->point.cut == REPL_CUT_COMMAND);
}

static void look_keep(struct repl_suspect *s, const struct repl_suspect_look *look)
{
    s->source = look->source;
    s->replica = look->replica;
    s->read_ns = look->read_ns;
}

void repl_suspect_init(struct repl_suspect *s, uint64_t page, const struct repl_suspect_look *look)
{
    *s = (struct repl_suspect){.page = page};
    look_keep(s, look);
}

enum repl_suspect_verdict repl_suspect_look(struct repl_suspect *s,
                                            const struct repl_suspect_look *look)
{
    if (repl_page_digest_equal(&look->source, &look->replica))
        return REPL_SUSPECT_EQUAL;
    if (!repl_page_digest_equal(&look->source, &s->source) ||
        !repl_page_digest_equal(&look->replica, &s->replica)) {
        s->proofs = s->vague = 0;
        look_keep(s, look);
        return ++s->changes >= REPL_SUSPECT_CHANGES ? REPL_SUSPECT_CHANGING : REPL_SUSPECT_OPEN;
    }
    if (look->told_ns <= s->read_ns || look->told_ns > look->read_ns)
        return REPL_SUSPECT_OPEN;
    s->read_ns = look->read_ns;
    if (look->vague)
        return ++s->vague >= REPL_SUSPECT_VAGUE ? REPL_SUSPECT_UNCLEAR : REPL_SUSPECT_OPEN;
    return ++s->proofs >= REPL_SUSPECT_PROOFS ? REPL_SUSPECT_DIFFERS : REPL_SUSPECT_OPEN;
}

enum repl_suspect_verdict repl_suspect_give_up(const struct repl_suspect *s)
{
    return s->changes > 0 ? REPL_SUSPECT_CHANGING : REPL_SUSPECT_UNCLEAR;
}
