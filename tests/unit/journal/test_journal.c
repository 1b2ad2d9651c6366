#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "journal/journal.h"
#include "unit/expect_abort.h"

#define SECOND INT64_C(1000000000)
#define START  (1000 * SECOND)

static const struct repl_uuid mine = {{1}}, others = {{2}};

static struct repl_hello hello_of(struct repl_uuid volume, uint64_t lineage)
{
    return (struct repl_hello){.version_min = 1,
                               .version_max = 1,
                               .volume = volume,
                               .kind = REPL_VOLUME_BLOCK,
                               .lineage = lineage,
                               .volume_size = 4096,
                               .rpo_ms = 5000,
                               .sent_ns = START};
}

static enum repl_verdict say_hello(struct repl_journal *j, const struct repl_hello *hello,
                                   struct repl_refusal *refusal)
{
    struct repl_log_record create;
    bool needs_create;
    enum repl_verdict verdict =
        repl_journal_hello(j, "data", hello, START, &create, &needs_create, refusal);
    if (verdict == REPL_VERDICT_ACCEPT && needs_create)
        assert_true(repl_ok(repl_journal_apply(j, &create, NULL)));
    return verdict;
}

static struct repl_journal journal_new(void)
{
    struct repl_journal j;
    struct repl_refusal refusal;
    struct repl_hello hello = hello_of(mine, 1);
    repl_journal_init(&j);
    assert_int_equal(say_hello(&j, &hello, &refusal), REPL_VERDICT_ACCEPT);
    return j;
}

static struct repl_digest digest_of(uint64_t to, uint32_t part)
{
    struct repl_digest digest;
    memset(digest.bytes, (int)(16 * to + part + 1), sizeof digest.bytes);
    return digest;
}

static struct repl_segment_header header_of(uint64_t from, uint64_t to, uint32_t part,
                                            struct repl_digest prev)
{
    return (struct repl_segment_header){.version = 1,
                                        .kind = REPL_SEGMENT_CHANGES,
                                        .volume_kind = REPL_VOLUME_BLOCK,
                                        .volume = mine,
                                        .lineage = 1,
                                        .from_seq = from,
                                        .to_seq = to,
                                        .part = part,
                                        .created_ns = START,
                                        .prev = prev};
}

static enum repl_verdict check(struct repl_journal *j, const struct repl_segment_header *header,
                               bool has_point, struct repl_log_record *commit,
                               struct repl_refusal *refusal)
{
    struct repl_segment_footer footer = {.file_size = 500,
                                         .digest = digest_of(header->to_seq, header->part)};
    struct repl_point point = {.seq = header->to_seq,
                               .begin_ns = START + (int64_t)header->to_seq * SECOND,
                               .end_ns = START + (int64_t)header->to_seq * SECOND + 10};
    return repl_journal_check(j, header, &footer, 4096, has_point ? &point : NULL, NULL,
                              point.end_ns, commit, refusal);
}

static void commit(struct repl_journal *j, uint64_t from, uint64_t to, uint32_t part,
                   bool has_point)
{
    struct repl_segment_header header = header_of(from, to, part, j->head.digest);
    struct repl_log_record record;
    struct repl_refusal refusal;
    assert_int_equal(check(j, &header, has_point, &record, &refusal), REPL_VERDICT_ACCEPT);
    assert_true(repl_ok(repl_journal_apply(j, &record, NULL)));
}

static void a_first_hello_creates_the_volume(void **state)
{
    (void)state;
    struct repl_journal j;
    struct repl_hello hello = hello_of(mine, 4);
    struct repl_log_record create;
    struct repl_refusal refusal;
    bool needs_create;
    repl_journal_init(&j);
    assert_int_equal(
        repl_journal_hello(&j, "data", &hello, START, &create, &needs_create, &refusal),
        REPL_VERDICT_ACCEPT);
    assert_true(needs_create && create.type == REPL_LOG_CREATE && create.number == 1);
    assert_false(j.exists); /* until the record is durable */
    assert_true(repl_ok(repl_journal_apply(&j, &create, NULL)));
    assert_string_equal(j.create.name, "data");
    assert_true(j.exists && j.lineage == 4);
    assert_int_equal(
        repl_journal_hello(&j, "data", &hello, START, &create, &needs_create, &refusal),
        REPL_VERDICT_ACCEPT);
    assert_false(needs_create);
    struct repl_welcome welcome;
    repl_journal_welcome(&j, START, START + 1, &welcome);
    assert_true(!welcome.known && welcome.lineage == 4 && welcome.staged_bytes == 0);
    assert_true(welcome.received_ns == START && welcome.replied_ns == START + 1);
}

static void hellos_that_are_refused(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    struct repl_refusal refusal;
    struct repl_hello hello = hello_of(others, 1);
    assert_int_equal(say_hello(&j, &hello, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_FORK);
    assert_non_null(strstr(refusal.text, "volume data"));
    assert_non_null(strstr(refusal.text, "another name"));
    hello = hello_of(mine, 1);
    hello.kind = REPL_VOLUME_TREE;
    assert_int_equal(say_hello(&j, &hello, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_FORK);
    assert_non_null(
        strstr(refusal.text, "is a block device here, the source's is a directory tree"));
    hello = hello_of(mine, 0);
    assert_int_equal(say_hello(&j, &hello, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_FENCED);
    hello = hello_of(mine, 1);
    hello.version_min = hello.version_max = REPL_PROTOCOL_MAX + 1;
    assert_int_equal(say_hello(&j, &hello, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_VERSION);
    assert_non_null(strstr(refusal.text, "upgrade"));
}

static void uploads_resume_where_they_ended(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    struct repl_refusal refusal;
    struct repl_welcome welcome;
    struct repl_segment_header header = header_of(0, 1, 0, (struct repl_digest){0});
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 5, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_GREET);
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 0, &refusal), REPL_VERDICT_ACCEPT);
    repl_journal_upload_grow(&j.upload, 200);
    assert_int_equal(repl_journal_upload_header(&j, &j.upload, &header, &refusal),
                     REPL_VERDICT_ACCEPT);
    repl_journal_welcome(&j, START, START, &welcome);
    assert_true(welcome.staged_to_seq == 1 && welcome.staged_part == 0 &&
                welcome.staged_created_ns == START && welcome.staged_bytes == 200);
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 199, &refusal), REPL_VERDICT_REFUSE);
    assert_non_null(strstr(refusal.text, "segment 1.0 at byte 199"));
    assert_int_equal(repl_journal_upload_begin(&j, 2, 0, 200, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(repl_journal_upload_begin(&j, 1, 1, 200, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 200, &refusal), REPL_VERDICT_ACCEPT);
    j.upload.committing = true;
    repl_journal_welcome(&j, START, START, &welcome);
    assert_true(welcome.staged_bytes == 0);
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 0, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_BUSY);
    repl_journal_upload_drop(&j);
    assert_int_equal(repl_journal_upload_begin(&j, 7, 0, 0, &refusal), REPL_VERDICT_ACCEPT);
    assert_int_equal(repl_journal_upload_header(&j, &j.upload, &header, &refusal),
                     REPL_VERDICT_REFUSE);
    assert_non_null(strstr(refusal.text, "under the name 7.0"));
}

/* Segment 1 is on its way: all of it is here. */
static struct repl_journal journal_committing(void)
{
    struct repl_journal j = journal_new();
    struct repl_refusal refusal;
    struct repl_segment_header header = header_of(0, 1, 0, (struct repl_digest){0});
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 0, &refusal), REPL_VERDICT_ACCEPT);
    assert_int_equal(repl_journal_upload_header(&j, &j.upload, &header, &refusal),
                     REPL_VERDICT_ACCEPT);
    repl_journal_upload_grow(&j.upload, 500);
    j.upload.committing = true;
    return j;
}

static void what_comes_ahead_waits_for_its_turn(void **state)
{
    (void)state;
    struct repl_journal j = journal_committing();
    struct repl_journal_upload *upload;
    struct repl_refusal refusal;
    struct repl_welcome welcome;
    struct repl_segment_header header = header_of(1, 2, 0, digest_of(1, 0));
    assert_int_equal(repl_journal_ahead_begin(&j, 2, 0, &upload, &refusal), REPL_VERDICT_ACCEPT);
    assert_ptr_equal(upload, &j.ahead);
    assert_int_equal(repl_journal_upload_header(&j, upload, &header, &refusal),
                     REPL_VERDICT_ACCEPT);
    repl_journal_upload_grow(upload, 300);
    repl_journal_welcome(&j, START, START, &welcome);
    assert_true(welcome.staged_bytes == 0);
    commit(&j, 0, 1, 0, true);
    assert_int_equal(repl_journal_upload_next(&j, &refusal), REPL_VERDICT_ACCEPT);
    assert_true(j.upload.active && !j.upload.committing && !j.ahead.active);
    repl_journal_welcome(&j, START, START, &welcome);
    assert_true(welcome.staged_to_seq == 2 && welcome.staged_bytes == 300);
    assert_int_equal(repl_journal_upload_begin(&j, 2, 0, 300, &refusal), REPL_VERDICT_ACCEPT);
    /* nothing is on its way: ahead is in turn */
    repl_journal_upload_drop(&j);
    assert_int_equal(repl_journal_ahead_begin(&j, 2, 0, &upload, &refusal), REPL_VERDICT_ACCEPT);
    assert_ptr_equal(upload, &j.upload);
    assert_int_equal(repl_journal_ahead_begin(&j, 1, 0, &upload, &refusal), REPL_VERDICT_DUPLICATE);
}

static void what_comes_ahead_has_to_follow(void **state)
{
    (void)state;
    struct repl_journal j = journal_committing();
    struct repl_journal_upload *upload;
    struct repl_refusal refusal;
    assert_int_equal(repl_journal_ahead_begin(&j, 1, 0, &upload, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_BUSY);
    assert_int_equal(repl_journal_ahead_begin(&j, 1, 2, &upload, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_GREET);
    assert_int_equal(repl_journal_ahead_begin(&j, 2, 1, &upload, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(repl_journal_ahead_begin(&j, 1, 1, &upload, &refusal), REPL_VERDICT_ACCEPT);
    /* What follows another history than the one that is committed by then is not kept. */
    struct repl_segment_header header = header_of(1, 2, 0, digest_of(9, 9));
    assert_int_equal(repl_journal_ahead_begin(&j, 2, 0, &upload, &refusal), REPL_VERDICT_ACCEPT);
    assert_int_equal(repl_journal_upload_header(&j, upload, &header, &refusal),
                     REPL_VERDICT_ACCEPT);
    commit(&j, 0, 1, 0, true);
    assert_int_equal(repl_journal_upload_next(&j, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_FORK);
    assert_false(j.upload.active || j.ahead.active);
    /* Whose it is, the header says at once. */
    j = journal_committing();
    header = header_of(1, 2, 0, digest_of(1, 0));
    header.lineage = 0;
    assert_int_equal(repl_journal_ahead_begin(&j, 2, 0, &upload, &refusal), REPL_VERDICT_ACCEPT);
    assert_int_equal(repl_journal_upload_header(&j, upload, &header, &refusal),
                     REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_FENCED);
}

static void what_comes_ahead_goes_with_the_upload(void **state)
{
    (void)state;
    struct repl_journal j = journal_committing();
    struct repl_journal_upload *upload;
    struct repl_refusal refusal;
    assert_int_equal(repl_journal_ahead_begin(&j, 2, 0, &upload, &refusal), REPL_VERDICT_ACCEPT);
    j.upload.committing = false; /* chunks were missing: it is asked for again, and ahead stays */
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 500, &refusal), REPL_VERDICT_ACCEPT);
    assert_true(j.ahead.active);
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 0, &refusal), REPL_VERDICT_ACCEPT);
    assert_false(j.ahead.active);
    assert_int_equal(repl_journal_ahead_begin(&j, 2, 0, &upload, &refusal), REPL_VERDICT_ACCEPT);
    repl_journal_upload_drop(&j);
    assert_false(j.upload.active || j.ahead.active);
}

static void the_head_is_acknowledged_again(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    struct repl_log_record record;
    struct repl_refusal refusal;
    struct repl_ack ack;
    commit(&j, 0, 1, 0, true);
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 0, &refusal), REPL_VERDICT_DUPLICATE);
    struct repl_segment_header header = header_of(0, 1, 0, (struct repl_digest){0});
    assert_int_equal(check(&j, &header, true, &record, &refusal), REPL_VERDICT_DUPLICATE);
    repl_journal_ack(&j, START, START + 5, &ack);
    assert_true(ack.head.to_seq == 1 && ack.head.has_point && ack.replied_ns == START + 5);
    j.head.digest = digest_of(9, 9); /* another segment of that name */
    assert_int_equal(check(&j, &header, true, &record, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_FORK);
}

static enum repl_refusal_code refusal_of(struct repl_journal *j,
                                         const struct repl_segment_header *header)
{
    struct repl_log_record record;
    struct repl_refusal refusal;
    assert_int_equal(check(j, header, true, &record, &refusal), REPL_VERDICT_REFUSE);
    assert_true(strlen(refusal.text) > 10);
    return refusal.code;
}

static void only_a_continuation_is_appended(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    struct repl_segment_header header = header_of(1, 2, 0, (struct repl_digest){0});
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_GREET); /* the first is from 0 */
    commit(&j, 0, 1, 0, false);
    commit(&j, 0, 1, 1, true);
    header = header_of(1, 2, 1, j.head.digest);
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_GREET);
    header = header_of(2, 3, 0, j.head.digest);
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_GREET);
    header = header_of(0, 1, 0, j.head.digest);
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_GREET); /* a full of the past */
    header = header_of(1, 2, 0, digest_of(7, 7));
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_FORK);
    header = header_of(1, 2, 0, j.head.digest);
    header.volume = others;
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_FORK);
    header = header_of(1, 2, 0, j.head.digest);
    header.lineage = 0;
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_FENCED);
    header = header_of(1, 2, 0, j.head.digest);
    header.kind = REPL_SEGMENT_SUPPLY;
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_REQUEST);
    commit(&j, 1, 2, 0, true);
    commit(&j, 0, 3, 0, true); /* a full */
    assert_true(j.head.to_seq == 3 && j.point.seq == 3 && j.volume_size == 4096);
}

/* Only by a full of later points: what it says does not need them. */
static void parts_without_an_end_are_left_behind(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    commit(&j, 0, 1, 0, true);
    commit(&j, 1, 2, 0, false);
    commit(&j, 1, 2, 1, false);
    struct repl_segment_header header = header_of(0, 2, 0, j.head.digest);
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_GREET); /* they have that name */
    header = header_of(1, 3, 0, j.head.digest);
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_GREET);
    header = header_of(2, 3, 0, j.head.digest);
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_GREET);
    commit(&j, 0, 3, 0, false);
    assert_int_equal(j.point.seq, 1);
    commit(&j, 0, 3, 1, true);
    assert_int_equal(j.point.seq, 3);
    commit(&j, 3, 4, 0, true);
}

static void a_point_before_the_last_is_refused(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    commit(&j, 0, 1, 0, true);
    j.point.begin_ns += 100 * SECOND;
    struct repl_segment_header header = header_of(1, 2, 0, j.head.digest);
    assert_int_equal(refusal_of(&j, &header), REPL_REFUSAL_REQUEST);
}

static void the_log_must_follow_itself(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    struct repl_error err;
    struct repl_log_record record = {.type = REPL_LOG_STATE, .number = 3};
    assert_int_equal(repl_journal_apply(&j, &record, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "record 3 follows record 1"));
    record = (struct repl_log_record){.type = REPL_LOG_CREATE, .number = 2};
    assert_int_equal(repl_journal_apply(&j, &record, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "created twice"));
    record = (struct repl_log_record){.type = REPL_LOG_COMMIT, .number = 2};
    record.commit = (struct repl_log_commit){.from_seq = 4, .to_seq = 5};
    assert_int_equal(repl_journal_apply(&j, &record, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "does not follow"));
    record = (struct repl_log_record){.type = REPL_LOG_IDLE, .number = 2};
    record.idle.seq = 8;
    assert_int_equal(repl_journal_apply(&j, &record, &err).code, REPL_E_CORRUPT);
    struct repl_journal fresh;
    repl_journal_init(&fresh);
    record = (struct repl_log_record){.type = REPL_LOG_STATE, .number = 1};
    assert_int_equal(repl_journal_apply(&fresh, &record, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "not created"));
}

static enum repl_verdict report(struct repl_journal *j, const struct repl_report *message,
                                int64_t now_ns, struct repl_log_record *record, bool *needs_record)
{
    struct repl_refusal refusal;
    return repl_journal_report(j, message, now_ns, record, needs_record, &refusal);
}

static void reports_are_logged_where_the_timeline_needs_them(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    struct repl_log_record record;
    bool needed;
    commit(&j, 0, 1, 0, true);
    int64_t until = j.unchanged_until_ns;
    struct repl_report r = {.state = REPL_STATE_IDLE, .sent_ns = START + 9 * SECOND};
    assert_int_equal(report(&j, &r, START, &record, &needed), REPL_VERDICT_ACCEPT);
    assert_false(needed); /* idle is ok */
    r.state = REPL_STATE_NO_WINDOW;
    strcpy(r.cause, "busy");
    report(&j, &r, START, &record, &needed);
    assert_true(needed && record.type == REPL_LOG_STATE && record.state.state == r.state);
    assert_string_equal(record.state.cause, "busy");
    assert_true(repl_ok(repl_journal_apply(&j, &record, NULL)));
    report(&j, &r, START, &record, &needed);
    assert_false(needed);

    r.seq = 1;
    r.unchanged_until_ns = until + SECOND;
    report(&j, &r, START, &record, &needed);
    assert_true(needed && record.type == REPL_LOG_IDLE && record.idle.until_ns == until + SECOND);
    assert_true(repl_ok(repl_journal_apply(&j, &record, NULL)));
    r.unchanged_until_ns = START + 1000 * SECOND; /* of the future: as far as it was sent */
    report(&j, &r, START + SECOND, &record, &needed);
    assert_true(!needed && j.unchanged_until_ns == START + 9 * SECOND); /* logged once a minute */
    r.unchanged_until_ns = until;
    report(&j, &r, START + SECOND, &record, &needed);
    assert_true(j.unchanged_until_ns == START + 9 * SECOND);

    commit(&j, 1, 2, 0, true);
    until = j.unchanged_until_ns;
    r.unchanged_until_ns = until + SECOND; /* of a point that is not the head's any more */
    assert_int_equal(report(&j, &r, START, &record, &needed), REPL_VERDICT_ACCEPT);
    assert_true(!needed && j.unchanged_until_ns == until);
}

/* The source was told that the site has a point, and the site has it no more. */
static void a_report_of_a_later_point_is_refused(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    struct repl_report r = {.state = REPL_STATE_IDLE, .sent_ns = START, .seq = 2};
    struct repl_log_record record;
    struct repl_refusal refusal;
    bool needed;
    commit(&j, 0, 1, 0, true);
    assert_int_equal(repl_journal_report(&j, &r, START, &record, &needed, &refusal),
                     REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_GREET);
    assert_non_null(strstr(refusal.text, "put back"));
    assert_false(needed);
}

static void a_state_that_alternates_does_not_fill_the_log(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    struct repl_log_record record;
    bool needed;
    unsigned records = 0;
    struct repl_report r = {.sent_ns = START};
    for (int i = 0; i < 600; i++) {
        r.state = i % 2 == 0 ? REPL_STATE_DEGRADED : i % 3 == 0 ? REPL_STATE_OK : REPL_STATE_RESYNC;
        report(&j, &r, START + i * SECOND, &record, &needed);
        if (needed)
            assert_true(repl_ok(repl_journal_apply(&j, &record, NULL)));
        records += needed;
        assert_int_equal(j.report.state, r.state);
    }
    assert_in_range(records, 20, 80);
    /* What it is worst is known at once, and what it ends in stays. */
    r.state = REPL_STATE_OK;
    for (int i = 600; i < 640; i++) {
        report(&j, &r, START + i * SECOND, &record, &needed);
        if (needed)
            assert_true(repl_ok(repl_journal_apply(&j, &record, NULL)));
    }
    assert_int_equal(j.state, REPL_STATE_OK);
    r.state = REPL_STATE_FAILED;
    report(&j, &r, START + 640 * SECOND, &record, &needed);
    assert_true(needed && record.state.state == REPL_STATE_FAILED);
}

static void a_report_before_any_hello_is_refused(void **state)
{
    (void)state;
    struct repl_journal j;
    struct repl_report r = {.sent_ns = START};
    struct repl_log_record record;
    struct repl_refusal refusal;
    bool needed;
    repl_journal_init(&j);
    assert_int_equal(repl_journal_report(&j, &r, START, &record, &needed, &refusal),
                     REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_GREET);
    assert_int_equal(repl_journal_upload_begin(&j, 1, 0, 0, &refusal), REPL_VERDICT_REFUSE);
    assert_int_equal(refusal.code, REPL_REFUSAL_GREET);
}

static void silence_is_a_state(void **state)
{
    (void)state;
    struct repl_journal j;
    char cause[REPL_WIRE_TEXT_MAX + 1];
    struct repl_log_record record = {.type = REPL_LOG_CREATE, .number = 1};
    struct repl_report r = {.state = REPL_STATE_SEEDING, .cause = "first copy", .sent_ns = START};
    bool needed;
    repl_journal_init(&j);
    assert_true(repl_ok(repl_journal_apply(&j, &record, NULL))); /* as read back at a start */
    assert_int_equal(repl_journal_state(&j, START, cause), REPL_STATE_LINK_DOWN);
    assert_non_null(strstr(cause, "since this site started"));
    report(&j, &r, START, &record, &needed);
    assert_int_equal(repl_journal_state(&j, START + 10 * SECOND, cause), REPL_STATE_SEEDING);
    assert_string_equal(cause, "first copy");
    assert_int_equal(repl_journal_state(&j, START + 11 * SECOND, cause), REPL_STATE_LINK_DOWN);
    assert_non_null(strstr(cause, "for 11 s"));
}

static void lag_is_the_age_of_what_can_be_restored(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    assert_true(repl_journal_lag_ns(&j, START) == -1);
    commit(&j, 0, 1, 0, true);
    assert_true(repl_journal_lag_ns(&j, START + 31 * SECOND) == 30 * SECOND);
    assert_true(repl_journal_lag_ns(&j, START) == 0);
}

/* The source's clock was an hour ahead and was set back: points keep the later time meanwhile. */
static void a_point_of_the_future_ages_too(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    struct repl_log_record record;
    int64_t hour = 3600 * SECOND, now = START + SECOND + 10;
    bool needed;
    commit(&j, 0, 1, 0, true);
    assert_true(repl_journal_ahead_ns(&j, now) == 0);
    j.point.end_ns = j.unchanged_until_ns = now + hour;
    assert_true(repl_journal_lag_ns(&j, now + 30 * SECOND) == 30 * SECOND);
    assert_true(repl_journal_ahead_ns(&j, now + 30 * SECOND) == hour - 30 * SECOND);

    /* Quiet since: that is younger, but no older than the source says. */
    struct repl_report r = {.seq = 1,
                            .state = REPL_STATE_IDLE,
                            .sent_ns = now + 30 * SECOND,
                            .unchanged_until_ns = now + 28 * SECOND};
    report(&j, &r, now + 30 * SECOND, &record, &needed);
    assert_true(!needed && j.unchanged_until_ns == now + hour);
    assert_true(repl_journal_lag_ns(&j, now + 40 * SECOND) == 12 * SECOND);
    /* What the source cannot know yet says nothing. */
    r.sent_ns = now + 50 * SECOND;
    r.unchanged_until_ns = now + hour;
    report(&j, &r, now + 50 * SECOND, &record, &needed);
    assert_true(repl_journal_lag_ns(&j, now + 50 * SECOND) == 22 * SECOND);

    /* The log knows when it was heard. */
    struct repl_journal again;
    repl_journal_init(&again);
    struct repl_log_record create = {.type = REPL_LOG_CREATE, .number = 1};
    assert_true(repl_ok(repl_journal_apply(&again, &create, NULL)));
    record = (struct repl_log_record){.type = REPL_LOG_COMMIT, .number = 2, .time_ns = now};
    record.commit = (struct repl_log_commit){.to_seq = 1, .has_point = true};
    record.commit.point =
        (struct repl_point){.seq = 1, .begin_ns = now + hour, .end_ns = now + hour};
    assert_true(repl_ok(repl_journal_apply(&again, &record, NULL)));
    assert_true(repl_journal_lag_ns(&again, now + SECOND) == SECOND);
    assert_true(repl_journal_ahead_ns(&again, now) == 0); /* no clock has been heard of yet */
}

static void the_clock_is_that_of_the_quickest_message(void **state)
{
    (void)state;
    struct repl_journal j = journal_new(); /* sent and received at once */
    struct repl_log_record record;
    struct repl_report r = {.sent_ns = START};
    bool needed;
    report(&j, &r, START + 16 * SECOND, &record, &needed);
    assert_true(j.clock_offset_ns == SECOND); /* a slow one counts a sixteenth */
    report(&j, &r, START - 5 * SECOND, &record, &needed);
    assert_true(j.clock_offset_ns == -5 * SECOND);
}

static repl_result apply_next(struct repl_journal *j, struct repl_log_record record)
{
    record.number = j->record_number + 1;
    return repl_journal_apply(j, &record, NULL);
}

static void a_volume_joins_one_pool_and_stays(void **state)
{
    (void)state;
    struct repl_log_record pool, create = {.type = REPL_LOG_CREATE},
                                 checkpoint = {.type = REPL_LOG_CHECKPOINT};
    struct repl_journal j;
    repl_journal_init(&j);
    repl_journal_pool(&j, "tenant", START, &pool);
    assert_true(pool.type == REPL_LOG_POOL && pool.number == 1 && pool.time_ns == START);
    assert_int_equal(apply_next(&j, pool).code, REPL_E_CORRUPT); /* of no volume */
    assert_true(repl_ok(apply_next(&j, create)));
    assert_string_equal(j.pool, "");
    assert_true(repl_ok(apply_next(&j, pool)));
    assert_string_equal(j.pool, "tenant");
    assert_int_equal(apply_next(&j, pool).code, REPL_E_CORRUPT);

    checkpoint.checkpoint.records = 2;
    repl_journal_init(&j);
    assert_true(repl_ok(apply_next(&j, checkpoint)));
    assert_true(repl_ok(apply_next(&j, pool)));
    assert_int_equal(j.group_left, 1);
    assert_string_equal(j.pool, "tenant");
    assert_int_equal(apply_next(&j, pool).code, REPL_E_CORRUPT);

    /* in the group of a MERGE there is none */
    repl_journal_init(&j);
    assert_true(repl_ok(apply_next(&j, create)));
    struct repl_log_record record = {.type = REPL_LOG_COMMIT, .commit = {.to_seq = 9}};
    assert_true(repl_ok(apply_next(&j, record)));
    record = (struct repl_log_record){.type = REPL_LOG_MERGE, .merge = {0, 8, 1}};
    assert_true(repl_ok(apply_next(&j, record)));
    assert_int_equal(apply_next(&j, pool).code, REPL_E_CORRUPT);
}

static void the_commit_sequence(void **state)
{
    (void)state;
    static const enum repl_commit_step order[] = {REPL_COMMIT_SYNC, REPL_COMMIT_VERIFY,
                                                  REPL_COMMIT_PUBLISH, REPL_COMMIT_LOG,
                                                  REPL_COMMIT_DONE};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(repl_commit_next(order[i], true), order[i + 1]);
        assert_int_equal(repl_commit_next(order[i], false), REPL_COMMIT_FAILED);
    }
}

static void step_after_the_last(void *context)
{
    (void)context;
    repl_commit_next(REPL_COMMIT_DONE, true);
}

static void grow_without_upload(void *context)
{
    repl_journal_upload_grow(context, 1);
}

static void misuse_aborts(void **state)
{
    (void)state;
    struct repl_journal j = journal_new();
    assert_true(aborts(step_after_the_last, NULL));
    assert_true(aborts(grow_without_upload, &j.upload));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_first_hello_creates_the_volume),
        cmocka_unit_test(hellos_that_are_refused),
        cmocka_unit_test(uploads_resume_where_they_ended),
        cmocka_unit_test(what_comes_ahead_waits_for_its_turn),
        cmocka_unit_test(what_comes_ahead_has_to_follow),
        cmocka_unit_test(what_comes_ahead_goes_with_the_upload),
        cmocka_unit_test(the_head_is_acknowledged_again),
        cmocka_unit_test(only_a_continuation_is_appended),
        cmocka_unit_test(parts_without_an_end_are_left_behind),
        cmocka_unit_test(a_point_before_the_last_is_refused),
        cmocka_unit_test(the_log_must_follow_itself),
        cmocka_unit_test(reports_are_logged_where_the_timeline_needs_them),
        cmocka_unit_test(a_state_that_alternates_does_not_fill_the_log),
        cmocka_unit_test(a_report_before_any_hello_is_refused),
        cmocka_unit_test(a_report_of_a_later_point_is_refused),
        cmocka_unit_test(silence_is_a_state),
        cmocka_unit_test(lag_is_the_age_of_what_can_be_restored),
        cmocka_unit_test(a_point_of_the_future_ages_too),
        cmocka_unit_test(the_clock_is_that_of_the_quickest_message),
        cmocka_unit_test(a_volume_joins_one_pool_and_stays),
        cmocka_unit_test(the_commit_sequence),
        cmocka_unit_test(misuse_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
