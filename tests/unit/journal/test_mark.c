/*
 * Names of points: which may be given, by whom, to which point, and which point is meant.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "journal/chain.h"
#include "journal/mark.h"

#define SECOND INT64_C(1000000000)

struct history {
    struct repl_journal journal;
    struct repl_chain chain;
};

static void apply(struct history *h, const struct repl_log_record *record)
{
    assert_true(repl_ok(repl_journal_apply(&h->journal, record, NULL)));
    assert_true(repl_ok(repl_chain_apply(&h->chain, record, NULL)));
}

/* Points 1 to 3, and the beginning of a fourth. */
static void history_init(struct history *h)
{
    struct repl_log_record record = {
        .type = REPL_LOG_CREATE,
        .number = 1,
        .create = {.name = "data", .volume = {{1}}, .kind = REPL_VOLUME_BLOCK, .lineage = 1}};
    repl_journal_init(&h->journal);
    repl_chain_init(&h->chain);
    apply(h, &record);
    for (uint64_t seq = 1; seq <= 4; seq++) {
        record = (struct repl_log_record){
            .type = REPL_LOG_COMMIT,
            .number = seq + 1,
            .commit = {.from_seq = seq - 1, .to_seq = seq, .has_point = seq < 4}};
        record.commit.point.seq = seq;
        apply(h, &record);
    }
}

static enum repl_verdict decide(struct history *h, enum repl_mark_by by, enum repl_mark_kind kind,
                                uint64_t seq, const char *name, struct repl_refusal *refusal)
{
    struct repl_mark_wish wish = {.by = by, .mark = {.kind = kind, .seq = seq}};
    struct repl_log_record record;
    snprintf(wish.mark.name, sizeof wish.mark.name, "%s", name);
    struct repl_mark_facts facts = {.marks = h->chain.marks,
                                    .count = h->chain.mark_count,
                                    .point_is_there =
                                        repl_chain_find_point(&h->chain, seq) != SIZE_MAX};
    enum repl_verdict verdict =
        repl_journal_mark(&h->journal, &facts, &wish, 7 * SECOND, &record, refusal);
    if (verdict != REPL_VERDICT_ACCEPT)
        return verdict;
    assert_int_equal(record.type, REPL_LOG_MARK);
    assert_int_equal(record.time_ns, 7 * SECOND);
    apply(h, &record);
    return verdict;
}

static void assert_refused(struct history *h, enum repl_mark_by by, enum repl_mark_kind kind,
                           uint64_t seq, const char *name, enum repl_refusal_code code,
                           const char *word)
{
    struct repl_refusal refusal = {0};
    uint64_t number = h->journal.record_number;
    assert_int_equal(decide(h, by, kind, seq, name, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, code);
    if (strstr(refusal.text, word) == NULL)
        fail_msg("\"%s\" lacks \"%s\"", refusal.text, word);
    assert_int_equal(h->journal.record_number, number);
}

static void assert_named(const struct history *h, const char *name, enum repl_mark_kind kind,
                         uint64_t seq)
{
    const struct repl_log_mark *mark = repl_mark_find(h->chain.marks, h->chain.mark_count, name);
    assert_non_null(mark);
    assert_int_equal(mark->kind, kind);
    assert_int_equal(mark->seq, seq);
}

static void a_host_adds_names_and_does_nothing_else(void **state)
{
    (void)state;
    struct history h;
    struct repl_refusal refusal;
    enum repl_mark_by host = REPL_MARK_BY_HOST;
    history_init(&h);
    assert_int_equal(decide(&h, host, REPL_MARK_NAME, 2, "v1", &refusal), REPL_VERDICT_ACCEPT);
    assert_named(&h, "v1", REPL_MARK_NAME, 2);
    assert_int_equal(decide(&h, host, REPL_MARK_NAME, 2, "before v1", &refusal),
                     REPL_VERDICT_ACCEPT);
    /* said again: the answer may have been lost */
    assert_int_equal(decide(&h, host, REPL_MARK_NAME, 2, "v1", &refusal), REPL_VERDICT_DUPLICATE);
    assert_refused(&h, host, REPL_MARK_NAME, 3, "v1", REPL_REFUSAL_PERMISSION,
                   "point 2 has the name \"v1\" already");
    assert_refused(&h, host, REPL_MARK_REMOVED, 0, "v1", REPL_REFUSAL_PERMISSION, "operator");
    assert_refused(&h, host, REPL_MARK_HELD, 2, "v1", REPL_REFUSAL_PERMISSION, "operator");
    assert_refused(&h, host, REPL_MARK_PROVEN, 2, "", REPL_REFUSAL_PERMISSION, "operator");
    assert_named(&h, "v1", REPL_MARK_NAME, 2);
    repl_chain_fini(&h.chain);
}

static void a_name_is_for_a_point_that_is_there(void **state)
{
    (void)state;
    struct history h;
    history_init(&h);
    for (uint64_t seq = 4; seq <= 5; seq++) /* the fourth is not whole yet */
        assert_refused(&h, REPL_MARK_BY_HOST, REPL_MARK_NAME, seq, "v2", REPL_REFUSAL_NOT_FOUND,
                       "no point");
    repl_chain_fini(&h.chain);
}

static void the_last_proven_point_is_one(void **state)
{
    (void)state;
    struct history h;
    struct repl_refusal refusal;
    enum repl_mark_by operator= REPL_MARK_BY_OPERATOR;
    history_init(&h);
    assert_int_equal(decide(&h, operator, REPL_MARK_PROVEN, 1, "", &refusal), REPL_VERDICT_ACCEPT);
    assert_int_equal(decide(&h, operator, REPL_MARK_PROVEN, 1, "", &refusal),
                     REPL_VERDICT_DUPLICATE);
    assert_int_equal(decide(&h, operator, REPL_MARK_NAME, 1, "a", &refusal), REPL_VERDICT_ACCEPT);
    assert_int_equal(decide(&h, operator, REPL_MARK_PROVEN, 2, "", &refusal), REPL_VERDICT_ACCEPT);
    assert_int_equal(h.chain.mark_count, 2);
    for (size_t i = 0; i < h.chain.mark_count; i++)
        assert_int_equal(h.chain.marks[i].seq, h.chain.marks[i].kind == REPL_MARK_PROVEN ? 2 : 1);
    assert_refused(&h, operator, REPL_MARK_PROVEN, 9, "", REPL_REFUSAL_NOT_FOUND, "no point 9");
    assert_refused(&h, operator, REPL_MARK_PROVEN, 1, "a", REPL_REFUSAL_REQUEST, "no name");
    repl_chain_fini(&h.chain);
}

static void the_operator_holds_and_removes(void **state)
{
    (void)state;
    struct history h;
    struct repl_refusal refusal;
    enum repl_mark_by operator= REPL_MARK_BY_OPERATOR;
    history_init(&h);
    assert_int_equal(decide(&h, operator, REPL_MARK_NAME, 1, "a", &refusal), REPL_VERDICT_ACCEPT);
    assert_int_equal(decide(&h, operator, REPL_MARK_HELD, 1, "a", &refusal), REPL_VERDICT_ACCEPT);
    assert_named(&h, "a", REPL_MARK_HELD, 1);
    assert_int_equal(h.chain.mark_count, 1);
    /* what is held stays held, whoever names it once more */
    assert_int_equal(decide(&h, operator, REPL_MARK_NAME, 1, "a", &refusal),
                     REPL_VERDICT_DUPLICATE);
    assert_int_equal(decide(&h, REPL_MARK_BY_HOST, REPL_MARK_NAME, 1, "a", &refusal),
                     REPL_VERDICT_DUPLICATE);
    assert_refused(&h, REPL_MARK_BY_HOST, REPL_MARK_NAME, 2, "a", REPL_REFUSAL_PERMISSION,
                   "point 1");
    assert_refused(&h, operator, REPL_MARK_HELD, 2, "a", REPL_REFUSAL_PERMISSION, "point 1");
    assert_int_equal(decide(&h, operator, REPL_MARK_REMOVED, 0, "a", &refusal),
                     REPL_VERDICT_ACCEPT);
    assert_null(repl_mark_find(h.chain.marks, h.chain.mark_count, "a"));
    assert_refused(&h, operator, REPL_MARK_REMOVED, 0, "a", REPL_REFUSAL_NOT_FOUND, "that name");
    assert_int_equal(decide(&h, operator, REPL_MARK_HELD, 2, "a", &refusal), REPL_VERDICT_ACCEPT);
    assert_named(&h, "a", REPL_MARK_HELD, 2);
    repl_chain_fini(&h.chain);
}

static void names_are_bounded_in_number(void **state)
{
    (void)state;
    struct history h;
    struct repl_refusal refusal;
    char name[32];
    history_init(&h);
    struct repl_log_record proven = {.type = REPL_LOG_MARK,
                                     .number = h.journal.record_number + 1,
                                     .mark = {.kind = REPL_MARK_PROVEN, .seq = 1}};
    apply(&h, &proven); /* is no name */
    for (unsigned i = 0; i < REPL_MARKS_MAX; i++) {
        snprintf(name, sizeof name, "name %u", i);
        assert_int_equal(decide(&h, REPL_MARK_BY_HOST, REPL_MARK_NAME, 3, name, &refusal),
                         REPL_VERDICT_ACCEPT);
    }
    assert_refused(&h, REPL_MARK_BY_HOST, REPL_MARK_NAME, 3, "more", REPL_REFUSAL_PERMISSION,
                   "1024 names");
    assert_int_equal(decide(&h, REPL_MARK_BY_HOST, REPL_MARK_NAME, 3, "name 7", &refusal),
                     REPL_VERDICT_DUPLICATE);
    /* one that is there takes no more room */
    assert_int_equal(decide(&h, REPL_MARK_BY_OPERATOR, REPL_MARK_HELD, 3, "name 7", &refusal),
                     REPL_VERDICT_ACCEPT);
    repl_chain_fini(&h.chain);
}

static void what_may_be_a_name(void **state)
{
    (void)state;
    static const char *const good[] = {
        "v1",
        "before the upgrade",
        "2026-05-release",
        "2026-05-04-release",
        "r\xc3\xa9union",
        "\xe2\x82\xac 5",
        "\xf0\x9f\x98\x80",
        "todays",
        "monday release",
        "Mon 3",
        "mondays 09:30",
        "monday",
        "before v1",
        "before",
        "#",
        "#12a",
        "ticket #12",
        "nowhere",
        "latest build",
        "12 months",
        "a:b",
        "10:x",
        "ago",
        "long ago",
        "-",
        "--at",
        "Now!",
        "0123456789012345678901234567890123456789012345678901234567890 64",
    };
    static const char *const bad[] = {
        "",
        " a",
        "a ",
        "123",
        "latest",
        "Latest",
        "NOW",
        "10 min ago",
        "10minAgo",
        "3 AGO",
        "2026-05-04 13:37",
        "2026-05-04T13",
        "2026-05-04",
        "17:00",
        "7:00:01.5",
        "today 17:00",
        "Yesterday x",
        "monday 09:30",
        "Fri  9:30",
        "before trouble",
        "Before Encryption",
        "#123",
        "a\nb",
        "a\x1b[0m",
        "\x7f",
        "a\xc3",
        "\x80",
        "\xc0\xaf",
        "\xed\xa0\x80",
        "\xf5\x80\x80\x80",
        "\xf4\x90\x80\x80",
        "\xc2\x85",
        "\xe2\x80\xa8",
        "\xe2\x80\xae",
        "\xef\xbb\xbf",
        "0123456789012345678901234567890123456789012345678901234567890 toolong",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        const char *flaw = repl_mark_name_flaw(good[i]);
        if (flaw != NULL)
            fail_msg("\"%s\": %s", good[i], flaw);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (repl_mark_name_flaw(bad[i]) == NULL)
            fail_msg("\"%s\" is taken for a name", bad[i]);
    }
}

static void the_first_point_after_the_question_is_meant(void **state)
{
    (void)state;
    struct repl_points_entry points[3] = {0};
    for (size_t i = 0; i < 3; i++) {
        points[i].point.seq = 5 + i;
        points[i].point.begin_ns = (int64_t)(i + 1) * 10;
        points[i].point.end_ns = points[i].point.begin_ns + 8;
    }
    assert_int_equal(repl_mark_choose(points, 3, 10, 0), 0);
    assert_int_equal(repl_mark_choose(points, 3, 11, 0), 1); /* not one that was being cut */
    assert_int_equal(repl_mark_choose(points, 3, 11, 7), 1);
    assert_int_equal(repl_mark_choose(points, 3, 31, 7), 2);
    assert_int_equal(repl_mark_choose(points, 3, 31, 0), SIZE_MAX);
    assert_int_equal(repl_mark_choose(points, 3, 31, 9), SIZE_MAX);
    assert_int_equal(repl_mark_choose(points, 0, 0, 1), SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_adds_names_and_does_nothing_else),
        cmocka_unit_test(a_name_is_for_a_point_that_is_there),
        cmocka_unit_test(the_last_proven_point_is_one),
        cmocka_unit_test(the_operator_holds_and_removes),
        cmocka_unit_test(names_are_bounded_in_number),
        cmocka_unit_test(what_may_be_a_name),
        cmocka_unit_test(the_first_point_after_the_question_is_meant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
