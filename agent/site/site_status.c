/*
 * How a volume fares: what the journal says, and what keeps index or replica
 * from following it.
 */
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "site/site_volume.h"

#define NS_PER_MS INT64_C(1000000)

/* Not sooner after a start is a silent source worth a line. */
#define SILENCE_LOGGED_NS (INT64_C(30) * 1000000000)

/* No commit takes so long in a store that answers. */
#define STORE_SLOW_NS (INT64_C(5) * 1000000000)

static const char *state_remedy(enum repl_state state)
{
    switch (state) {
    case REPL_STATE_OK:
    case REPL_STATE_IDLE:
        return "";
    case REPL_STATE_LINK_DOWN:
        return "see that the agent runs on the source and that it reaches this site: \"repl "
               "status\" there says why not";
    default:
        return "\"repl status\" on the source says what to do";
    }
}

/* Only where there is nothing worse to say. */
static void clock_status(const struct site_volume *v, int64_t now_ns,
                         struct repl_volume_status *out)
{
    out->clock_ahead_ms = repl_journal_ahead_ns(&v->journal, now_ns) / NS_PER_MS;
    if (out->clock_ahead_ms == 0 || out->cause[0] != '\0')
        return;
    snprintf(out->cause, sizeof out->cause,
             "the source's clock was ahead and has been set back: the last point bears a time %lld "
             "s in the future, as do all until the clock has caught up",
             (long long)(out->clock_ahead_ms / 1000));
    snprintf(out->remedy, sizeof out->remedy,
             "keep the source's clock in step (NTP), and name points of that time by number. The "
             "age shown counts from when this site was told");
}

static void pool_status(const struct site_volume *v, struct repl_volume_status *out)
{
    if (!v->tenant_heard || v->journal.pool[0] == '\0' || out->cause[0] != '\0' ||
        strcmp(v->tenant, v->journal.pool) == 0)
        return;
    snprintf(out->cause, sizeof out->cause,
             "it shares chunks with tenant %s, and the key that writes it is of %s%s",
             v->journal.pool, v->tenant[0] != '\0' ? "tenant " : "none", v->tenant);
    snprintf(out->remedy, sizeof out->remedy,
             "what is shared cannot be parted: write \"tenant = %s\" for that peer in the site's "
             "configuration, or let the host write a volume of another name",
             v->journal.pool);
}

/* Until somebody has seen it. */
static void trouble_status(const struct site_volume *v, int64_t now_ns,
                           struct repl_volume_status *out)
{
    const struct repl_trouble_jump *jump = &v->journal.trouble.jump;
    if (jump->kind == REPL_TROUBLE_NONE || jump->seen ||
        now_ns - jump->end_ns > REPL_TROUBLE_YOUNG_NS)
        return;
    snprintf(out->trouble, sizeof out->trouble, "%s", repl_trouble_name(jump->kind));
    out->trouble_seq = jump->seq;
    out->trouble_before_seq = jump->before_seq;
    if (out->cause[0] != '\0')
        return;
    snprintf(out->cause, sizeof out->cause, "point %llu looks like %s",
             (unsigned long long)jump->seq, repl_trouble_words(jump->kind));
    snprintf(
        out->remedy, sizeof out->remedy,
        "see what was written. The last point before it is %llu (--at \"before trouble\"), and "
        "is kept for 30 days; give it a name at the site with \"repl mark ... --hold\" to keep "
        "it for longer, and to have this not said any more",
        (unsigned long long)jump->before_seq);
}

static void replica_status(const struct site_volume *v, struct repl_volume_status *out)
{
    struct repl_replica_status replica = {0};
    out->replica_on = v->replica != NULL;
    out->tree = v->journal.create.kind == REPL_VOLUME_TREE;
    if (v->replica != NULL)
        repl_replica_look(v->replica, &replica);
    else
        snprintf(replica.problem, sizeof replica.problem, "%s", v->replica_problem);
    snprintf(out->device, sizeof out->device, "%s", replica.path);
    out->replica_applying = replica.applying;
    out->replica_behind_ms = replica.behind_ms;
    out->replica_seq = replica.reached.has_point ? replica.reached.to_seq : 0;
    snprintf(out->replica_problem, sizeof out->replica_problem, "%.*s", REPL_WIRE_TEXT_MAX,
             replica.problem);
    if (replica.problem[0] == '\0' || out->state >= REPL_STATE_DEGRADED)
        return;
    out->state = REPL_STATE_DEGRADED;
    snprintf(out->cause, sizeof out->cause, "the replica cannot follow: %.350s", replica.problem);
    snprintf(out->remedy, sizeof out->remedy,
             "see to the cause; the replica then catches up by itself. History is taken in and "
             "restorable meanwhile");
}

static void index_status(const struct site_volume *v, struct repl_volume_status *out)
{
    const char *problem = v->site->index_problem[0] != '\0' ? v->site->index_problem
                          : v->index_behind                 ? v->index_problem
                                                            : "";
    snprintf(out->index_problem, sizeof out->index_problem, "%.*s", REPL_WIRE_TEXT_MAX, problem);
    if (problem[0] == '\0' || out->state >= REPL_STATE_DEGRADED)
        return;
    out->state = REPL_STATE_DEGRADED;
    snprintf(out->cause, sizeof out->cause, "the index is not complete: %.350s", problem);
    snprintf(
        out->remedy, sizeof out->remedy,
        "see to the cause (space on the disk of the store, most often); the index then catches "
        "up by itself. History is taken in meanwhile, and points are listed afterwards");
}

/* The source is silent then as its reports wait behind what is under way. */
static void store_status(const struct site_volume *v, struct repl_volume_status *out)
{
    int64_t waits_ns = v->change_ns != 0 ? repl_now_mono_ns() - v->change_ns : 0;
    if (waits_ns < STORE_SLOW_NS)
        return;
    if (out->state < REPL_STATE_DEGRADED)
        out->state = REPL_STATE_DEGRADED;
    snprintf(out->cause, sizeof out->cause,
             "the store has been at work for %lld s on what the source sent last",
             (long long)(waits_ns / NS_PER_MS / 1000));
    snprintf(out->remedy, sizeof out->remedy,
             "see that the store answers: the disk it lies on, or the service and the line to it. "
             "Nothing is lost, and the source goes on by itself");
}

static void unread_status(const struct site_volume *v, struct repl_volume_status *out)
{
    out->state = REPL_STATE_FAILED;
    out->lag_ms = -1;
    snprintf(out->cause, sizeof out->cause, "%s", v->damaged);
    snprintf(out->remedy, sizeof out->remedy,
             "nothing is the matter with it: let this machine, or the site's service, have more "
             "memory; it is tried again by itself");
}

static void damaged_status(const struct site_volume *v, struct repl_volume_status *out)
{
    out->state = REPL_STATE_FAILED;
    out->lag_ms = -1;
    snprintf(out->cause, sizeof out->cause, "%s", v->damaged);
    snprintf(out->remedy, sizeof out->remedy,
             "nothing was deleted. \"repl verify\" says what is whole; bring back what is missing "
             "from a copy of the store, then restart the site");
}

void site_volume_status(const struct site_volume *v, int64_t now_ns, struct repl_volume_status *out)
{
    const struct repl_journal *j = &v->journal;
    *out = (struct repl_volume_status){.catch_up_ms = -1, .unverified_ms = -1};
    snprintf(out->name, sizeof out->name, "%s", v->name);
    out->size = j->volume_size;
    out->point = j->point;
    out->unchanged_until_ns = j->unchanged_until_ns;
    out->points = v->points;
    out->bytes_sent = v->bytes_received;
    if (v->damaged[0] != '\0') {
        (v->unread ? unread_status : damaged_status)(v, out);
        return;
    }
    out->state = repl_journal_state(j, now_ns, out->cause);
    snprintf(out->remedy, sizeof out->remedy, "%s", state_remedy(out->state));
    out->rpo_ms = j->rpo_ms;
    int64_t lag_ns = repl_journal_lag_ns(j, now_ns);
    out->lag_ms = lag_ns < 0 ? -1 : lag_ns / NS_PER_MS;
    out->backlog_bytes = j->report.backlog_bytes;
    out->done_bytes = j->report.done_bytes;
    out->total_bytes = j->report.total_bytes;
    out->clock_known = j->clock_known;
    out->clock_offset_ms = j->clock_offset_ns / NS_PER_MS;
    store_status(v, out);
    clock_status(v, now_ns, out);
    trouble_status(v, now_ns, out);
    pool_status(v, out);
    index_status(v, out);
    site_scrub_status(v, now_ns, out); /* what is damaged may be why the replica cannot follow */
    replica_status(v, out);
    site_space_volume_status(v, out);
}

static void clock_log(struct site_volume *v, const struct repl_volume_status *status)
{
    bool ahead = status->clock_ahead_ms > 0;
    if (ahead && !v->clock_logged)
        repl_log(LOG_WARNING,
                 "volume %s: point %llu bears a time %lld s in the future: the source's clock was "
                 "ahead and has been set back",
                 v->name, (unsigned long long)status->point.seq,
                 (long long)(status->clock_ahead_ms / 1000));
    v->clock_logged = ahead;
}

void site_volume_log_state(struct site_volume *v, int64_t now_ns)
{
    struct repl_volume_status status;
    if (!v->journal.exists && v->damaged[0] == '\0' && !site_space_keeps_out(v))
        return;
    site_volume_status(v, now_ns, &status);
    clock_log(v, &status);
    /* ok and idle alternate with every write. */
    enum repl_state state = status.state == REPL_STATE_IDLE ? REPL_STATE_OK : status.state;
    bool silent = v->journal.reported_ns == 0 && state == REPL_STATE_LINK_DOWN;
    if ((v->state_known && state == v->state_logged) ||
        (silent && now_ns - v->site->started_ns < SILENCE_LOGGED_NS))
        return;
    bool first = !v->state_known;
    v->state_known = true;
    v->state_logged = state;
    if (state == REPL_STATE_OK && first)
        return;
    repl_log(state == REPL_STATE_OK ? LOG_INFO : LOG_WARNING, "volume %s: %s%s%s", v->name,
             repl_state_name(state), status.cause[0] != '\0' ? ": " : "", status.cause);
}
