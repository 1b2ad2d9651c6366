/*
 * What a source says of itself: hello, and its reports. Both are changes of the
 * volume (site_volume.c), as both may end in records of its log.
 *
 *     hello -> CREATE, if there is no volume yet -> POOL, if its key is of a tenant
 *              and the volume of no pool -> answered
 *
 * After a crash between the two the next hello appends the POOL.
 */
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "site/site_volume.h"

static void clock_hear(struct site_volume *v, const struct site_request *request, int64_t sent_ns)
{
    const struct repl_digest *key =
        request->exchange != NULL ? repl_exchange_peer(request->exchange) : NULL;
    if (key == NULL)
        return;
    v->source_heard = true;
    v->source_key = *key;
    v->source_ahead_ns = sent_ns - request->received_ns;
    v->source_heard_ns = repl_now_boot_ns();
}

static void hello_answer(struct site_volume *v, struct site_request *request)
{
    struct repl_welcome welcome;
    struct repl_buffer message = {0};
    struct repl_error err;
    repl_journal_welcome(&v->journal, request->received_ns, repl_now_wall_ns(), &welcome);
    site_answer_message(request, 200, repl_welcome_encode(&welcome, &message, &err), &message);
}

static void hello_pooled(struct site_volume *v, repl_result result, const struct repl_error *err)
{
    if (!repl_ok(result)) {
        site_refuse_error(v->current, err);
    } else {
        repl_log(LOG_INFO, "volume %s: shares chunks with the other volumes of tenant %s", v->name,
                 v->journal.pool);
        hello_answer(v, v->current);
    }
    site_volume_release(v);
}

/* Whose volume it is, by the key. */
static void tenant_hear(struct site_volume *v, const struct site_request *request)
{
    const struct repl_config_peer *peer = repl_config_find_peer(v->site->config, &request->key);
    const char *tenant = peer != NULL && peer->tenant != NULL ? peer->tenant : "";
    bool told = v->tenant_heard && strcmp(v->tenant, tenant) == 0;
    v->tenant_heard = true;
    snprintf(v->tenant, sizeof v->tenant, "%s", tenant);
    if (!told && v->journal.pool[0] != '\0' && strcmp(v->journal.pool, tenant) != 0)
        repl_log(LOG_WARNING,
                 "volume %s: goes on sharing chunks with tenant %s, although its key is of %s%s",
                 v->name, v->journal.pool, tenant[0] != '\0' ? "tenant " : "none", tenant);
}

/* The volume of a key with a tenant joins that pool, if it is of none. */
static bool pool_is_due(const struct site_volume *v)
{
    return v->journal.pool[0] == '\0' && v->tenant[0] != '\0';
}

static void pool_append(struct site_volume *v)
{
    struct repl_log_record pool;
    repl_journal_pool(&v->journal, v->tenant, repl_now_wall_ns(), &pool);
    site_volume_append(v, &(struct repl_index_record){.record = &pool}, hello_pooled);
}

static void hello_created(struct site_volume *v, repl_result result, const struct repl_error *err)
{
    if (!repl_ok(result)) {
        site_refuse_error(v->current, err);
    } else {
        repl_log(LOG_INFO, "volume %s: a new volume, its history begins here", v->name);
        site_volume_follow(v);
        if (pool_is_due(v)) {
            pool_append(v);
            return;
        }
        hello_answer(v, v->current);
    }
    site_volume_release(v);
}

void site_hello_begin(struct site_volume *v, struct site_request *request)
{
    struct repl_hello hello;
    struct repl_log_record create;
    struct repl_refusal refusal;
    struct repl_error err;
    bool needs_create;
    repl_result result = repl_hello_decode(request->body.data, request->body.size, &hello, &err);
    if (!repl_ok(result)) {
        site_refuse_text(
            request, result.code == REPL_E_VERSION ? REPL_REFUSAL_VERSION : REPL_REFUSAL_REQUEST,
            "%.350s", err.text);
        return;
    }
    if (repl_journal_hello(&v->journal, v->name, &hello, request->received_ns, &create,
                           &needs_create, &refusal) == REPL_VERDICT_REFUSE) {
        site_refuse(request, &refusal);
        return;
    }
    clock_hear(v, request, hello.sent_ns);
    tenant_hear(v, request);
    if (!needs_create && !pool_is_due(v)) {
        hello_answer(v, request);
        return;
    }
    site_volume_hold(v);
    if (needs_create)
        site_volume_append(v, &(struct repl_index_record){.record = &create}, hello_created);
    else
        pool_append(v);
}

static void report_logged(struct site_volume *v, repl_result result, const struct repl_error *err)
{
    if (repl_ok(result))
        site_answer_ack(v->current, v, 200);
    else
        site_refuse_error(v->current, err);
    site_volume_release(v);
}

void site_report_begin(struct site_volume *v, struct site_request *request)
{
    struct repl_report report;
    struct repl_log_record record;
    struct repl_refusal refusal;
    struct repl_error err;
    bool needs_record;
    if (!repl_ok(repl_report_decode(request->body.data, request->body.size, &report, &err))) {
        site_refuse_text(request, REPL_REFUSAL_REQUEST, "%.350s", err.text);
        return;
    }
    clock_hear(v, request, report.sent_ns);
    if (repl_journal_report(&v->journal, &report, request->received_ns, &record, &needs_record,
                            &refusal) == REPL_VERDICT_REFUSE) {
        site_refuse(request, &refusal);
    } else if (needs_record) {
        site_volume_hold(v);
        site_volume_append(v, &(struct repl_index_record){.record = &record}, report_logged);
    } else {
        site_answer_ack(request, v, 200);
    }
}
