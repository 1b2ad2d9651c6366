/*
 * repl mark: names of points.
 *
 * On a protected host: the agent is asked to cut a point soon, and again and again
 * whether the site has it; then the site is asked to give it the name, over TLS, as
 * what may be named is the site's to say. With a site's configuration: the
 * operator's side, over the site's control socket. What there is to be named is
 * read from the site, or from its store.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/verbs.h"
#include "config/config.h"
#include "control/control.h"
#include "control/mark_request.h"
#include "journal/mark.h"
#include "recover/origin.h"
#include "recover/when.h"
#include "recover/words.h"

#define NS_PER_MS  INT64_C(1000000)
#define ASK_MS     100
#define TIMEOUT_MS INT64_C(60000)

static struct repl_origin_options mark_origin;
static const char *mark_at, *mark_timeout;
static bool mark_hold, mark_remove, mark_list, mark_json, mark_proven;

struct marking {
    const char *volume, *name;  /* name NULL: they are listed, or it is about what was proven */
    struct repl_config *config; /* NULL: --store or --site says enough */
    struct repl_when when;      /* of --at; for the operator, the newest without it */
    int64_t deadline_ns;        /* the loop's clock */
    struct repl_origin *origin;
    struct repl_catalogue catalogue;
    size_t point; /* in it, that has the name now */
};

static bool is_operator(const struct marking *m)
{
    return m->config != NULL && m->config->role == REPL_ROLE_SITE;
}

/* --- waiting --------------------------------------------------------------------------------- */

static bool is_late(const struct marking *m)
{
    return repl_now_mono_ns() >= m->deadline_ns;
}

static void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = ASK_MS * NS_PER_MS}, NULL);
}

/* --- the catalogue --------------------------------------------------------------------------- */

static repl_result catalogue_read(struct marking *m, struct repl_error *err)
{
    repl_catalogue_fini(&m->catalogue);
    REPL_TRY(m->origin->ops->catalogue(m->origin, &m->catalogue, err));
    if (m->catalogue.note[0] != '\0')
        fprintf(stderr, "repl mark: %s\n", m->catalogue.note);
    if (m->catalogue.names_unknown)
        return repl_fail(err, m->catalogue.note[0] == '\0' ? REPL_E_VERSION : REPL_E_RETRY,
                         "%s did not say which names points have%s", m->origin->label,
                         m->catalogue.note[0] == '\0' ? ": it is of an older release, upgrade it"
                                                      : "");
    return REPL_SUCCESS;
}

static size_t point_find(const struct repl_catalogue *c, uint64_t seq)
{
    for (size_t i = 0; i < c->point_count; i++) {
        if (c->points[i].point.seq == seq)
            return i;
    }
    return SIZE_MAX;
}

/* --- the host -------------------------------------------------------------------------------- */

/* What the agent says of the point: since when it is wanted, and whether the site has it. */
static repl_result point_ask(const struct marking *m, int64_t *since_ns, json_t **answer,
                             struct repl_error *err)
{
    char request[128];
    int used = snprintf(request, sizeof request, "point %s", m->volume);
    if (*since_ns != 0)
        snprintf(request + used, sizeof request - (size_t)used, " %" PRId64, *since_ns);
    REPL_TRY(repl_control_ask(m->config->control, request, answer, err));
    if (*since_ns == 0)
        *since_ns = json_integer_value(json_object_get(*answer, "since_ns"));
    return REPL_SUCCESS;
}

static repl_result too_late(const struct marking *m, const json_t *answer, struct repl_error *err)
{
    const char *state = json_string_value(json_object_get(answer, "state"));
    const char *cause = json_string_value(json_object_get(answer, "cause"));
    return repl_fail(err, REPL_E_RETRY,
                     "the site has no point of volume %s yet that was cut after this was begun "
                     "(%s%s%s), so nothing was named: try again, or wait longer (--timeout)",
                     m->volume, state != NULL ? state : "no answer",
                     cause != NULL && cause[0] != '\0' ? ": " : "", cause != NULL ? cause : "");
}

/* An agent that is restarted meanwhile is waited for. */
static repl_result point_wait(const struct marking *m, int64_t *since_ns, uint64_t *unchanged_seq,
                              struct repl_error *err)
{
    json_t *answer = NULL;
    *since_ns = 0;
    REPL_TRY(point_ask(m, since_ns, &answer, err));
    for (;;) {
        if (json_is_true(json_object_get(answer, "there"))) {
            *unchanged_seq = (uint64_t)json_integer_value(json_object_get(answer, "unchanged_seq"));
            json_decref(answer);
            return REPL_SUCCESS;
        }
        if (is_late(m)) {
            repl_result late = too_late(m, answer, err);
            json_decref(answer);
            return late;
        }
        rest();
        json_t *next = NULL;
        repl_result result = point_ask(m, since_ns, &next, err);
        json_decref(answer);
        answer = next;
        if (!repl_ok(result) && result.code != REPL_E_RETRY)
            return result;
    }
}

static repl_result name_is_free(const struct marking *m, struct repl_error *err)
{
    const struct repl_log_mark *mark =
        repl_mark_find(m->catalogue.marks, m->catalogue.mark_count, m->name);
    if (mark == NULL)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_REFUSED,
                     "point %" PRIu64 " has the name \"%s\" already, and a name stays where it is: "
                     "take another one, or have the operator of the site remove it there",
                     mark->seq, m->name);
}

/* The point of now. */
static repl_result present_choose(struct marking *m, struct repl_error *err)
{
    int64_t since_ns;
    uint64_t unchanged_seq = 0;
    if (m->config == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "the agent on the protected host cuts points: name its configuration "
                         "with --config, or a point that is there with --at");
    REPL_TRY(name_is_free(m, err));
    REPL_TRY(point_wait(m, &since_ns, &unchanged_seq, err));
    REPL_TRY(catalogue_read(m, err));
    m->point =
        repl_mark_choose(m->catalogue.points, m->catalogue.point_count, since_ns, unchanged_seq);
    if (m->point == SIZE_MAX)
        return repl_fail(err, REPL_E_RETRY,
                         "the point was cut, and %s does not list it, so nothing was named: try "
                         "again",
                         m->origin->label);
    return REPL_SUCCESS;
}

/* The point of --at, and what was understood by that; the newest without it. */
static repl_result at_resolve(struct marking *m, struct repl_error *err)
{
    REPL_TRY(repl_when_resolve_in(&m->when, &m->catalogue, &m->point, err));
    if (mark_at == NULL)
        return REPL_SUCCESS;
    char *text = repl_when_describe_in(&m->when, &m->catalogue, m->point);
    if (text == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    fprintf(stderr, "repl mark: --at means %s", text);
    free(text);
    return REPL_SUCCESS;
}

/* Said again until there is an answer: a name that the point has already is no failure. */
static repl_result host_mark(struct marking *m, struct repl_error *err)
{
    struct repl_mark mark = {0};
    if (m->origin->ops->mark == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "a store is only read: give names through a site, or as its operator, "
                         "with the site's configuration (--config)");
    if (mark_at == NULL)
        REPL_TRY(present_choose(m, err));
    else
        REPL_TRY(at_resolve(m, err));
    mark.seq = m->catalogue.points[m->point].point.seq;
    snprintf(mark.name, sizeof mark.name, "%s", m->name);
    for (;;) {
        repl_result result = m->origin->ops->mark(m->origin, &mark, err);
        if (result.code != REPL_E_RETRY)
            return result;
        if (is_late(m))
            return repl_forward(result, err,
                                "it is not known whether the name was given, --list shows it");
        rest();
    }
}

/* --- the operator ---------------------------------------------------------------------------- */

static repl_result order_wait(const struct marking *m, uint64_t ticket, struct repl_error *err)
{
    const struct repl_mark_request request = {.ticket = ticket};
    char line[REPL_MARK_REQUEST_SIZE];
    repl_mark_request_write(&request, line);
    for (;;) {
        json_t *answer;
        REPL_TRY(repl_control_ask(m->config->control, line, &answer, err));
        bool done = json_is_true(json_object_get(answer, "done"));
        json_decref(answer);
        if (done)
            return REPL_SUCCESS;
        if (is_late(m))
            return repl_fail(err, REPL_E_RETRY,
                             "the site is busy with it: see later what came of it (--list)");
        rest();
    }
}

static repl_result operator_ask(const struct marking *m, enum repl_mark_kind kind, uint64_t seq,
                                struct repl_error *err)
{
    struct repl_mark_request request = {.mark = {.kind = kind, .seq = seq}};
    char line[REPL_MARK_REQUEST_SIZE];
    json_t *answer;
    snprintf(request.volume, sizeof request.volume, "%s", m->volume);
    if (m->name != NULL)
        snprintf(request.mark.name, sizeof request.mark.name, "%s", m->name);
    repl_mark_request_write(&request, line);
    REPL_TRY(repl_control_ask(m->config->control, line, &answer, err));
    uint64_t ticket = (uint64_t)json_integer_value(json_object_get(answer, "ticket"));
    json_decref(answer);
    return order_wait(m, ticket, err);
}

/* The newest point, or the one that has the name already and is to be held. */
static repl_result operator_choose(struct marking *m, struct repl_error *err)
{
    const struct repl_catalogue *c = &m->catalogue;
    const struct repl_log_mark *mark = repl_mark_find(c->marks, c->mark_count, m->name);
    if (mark_at == NULL && mark_hold && mark != NULL) {
        m->point = point_find(c, mark->seq);
        if (m->point != SIZE_MAX)
            return REPL_SUCCESS;
    }
    return at_resolve(m, err);
}

static repl_result operator_proven(struct marking *m, struct repl_error *err)
{
    REPL_TRY(at_resolve(m, err));
    return operator_ask(m, REPL_MARK_PROVEN, m->catalogue.points[m->point].point.seq, err);
}

static repl_result operator_mark(struct marking *m, struct repl_error *err)
{
    REPL_TRY(operator_choose(m, err));
    return operator_ask(m, mark_hold ? REPL_MARK_HELD : REPL_MARK_NAME,
                        m->catalogue.points[m->point].point.seq, err);
}

static repl_result operator_remove(const struct marking *m, struct repl_error *err)
{
    REPL_TRY(operator_ask(m, REPL_MARK_REMOVED, 0, err));
    printf("no point of volume %s has the name \"%s\" any more\n", m->volume, m->name);
    return REPL_SUCCESS;
}

/* --- the printers ---------------------------------------------------------------------------- */

/* entry NULL: the point is not listed. */
static json_t *name_json(const struct repl_log_mark *mark, const struct repl_points_entry *entry)
{
    json_t *json = json_pack("{s:s, s:I, s:b}", "name", mark->name, "seq", (json_int_t)mark->seq,
                             "held", mark->kind == REPL_MARK_HELD);
    if (json == NULL || entry == NULL)
        return json;
    char time[REPL_WORDS_SIZE];
    repl_words_utc(entry->point.end_ns, time);
    json_object_set_new(json, "time", json_string(time));
    json_object_set_new(json, "begin_ns", json_integer(entry->point.begin_ns));
    json_object_set_new(json, "end_ns", json_integer(entry->point.end_ns));
    json_object_set_new(json, "consistency",
                        json_string(repl_words_consistency(entry->point.consistency)));
    return json;
}

static void name_text(const struct repl_log_mark *mark, const struct repl_points_entry *entry)
{
    char time[REPL_WORDS_SIZE] = "not listed";
    if (entry != NULL)
        repl_words_local(entry->point.end_ns, time);
    printf("%10" PRIu64 "  %-29s  %-11s  \"%s\"%s\n", mark->seq, time,
           entry != NULL ? repl_words_consistency(entry->point.consistency) : "", mark->name,
           mark->kind == REPL_MARK_HELD ? " (held)" : "");
}

static repl_result json_print(json_t *json, struct repl_error *err)
{
    bool written = json != NULL && json_dumpf(json, stdout, JSON_INDENT(2)) == 0;
    json_decref(json);
    putchar('\n');
    return written ? REPL_SUCCESS : repl_fail(err, REPL_E_NOMEM, "cannot write that as JSON");
}

/* By point, then by name. */
static int mark_order(const void *a, const void *b)
{
    const struct repl_log_mark *x = a, *y = b;
    if (x->seq != y->seq)
        return x->seq < y->seq ? -1 : 1;
    return strcmp(x->name, y->name);
}

static repl_result list_print(const struct marking *m, struct repl_error *err)
{
    const struct repl_catalogue *c = &m->catalogue;
    json_t *names = json_array();
    size_t count = 0;
    uint64_t proven = 0;
    if (c->mark_count > 0)
        qsort(c->marks, c->mark_count, sizeof *c->marks, mark_order);
    for (size_t i = 0; i < c->mark_count; i++) {
        const struct repl_log_mark *mark = &c->marks[i];
        size_t point = point_find(c, mark->seq);
        const struct repl_points_entry *entry = point == SIZE_MAX ? NULL : &c->points[point];
        if (mark->kind == REPL_MARK_PROVEN) {
            proven = mark->seq;
            continue;
        }
        if (!mark_json && count++ == 0)
            printf("%10s  %-29s  %-11s  %s\n", "point", "time", "consistency", "name");
        if (mark_json)
            json_array_append_new(names, name_json(mark, entry));
        else
            name_text(mark, entry);
    }
    if (mark_json)
        return json_print(json_pack("{s:i, s:s, s:o, s:I}", "schema", 1, "volume", m->volume,
                                    "names", names, "proven_seq", (json_int_t)proven),
                          err);
    json_decref(names);
    if (count == 0)
        puts("no point has a name");
    if (proven != 0)
        printf("point %" PRIu64 " was the last to be restored and found good\n", proven);
    return REPL_SUCCESS;
}

static repl_result mark_print(const struct marking *m, struct repl_error *err)
{
    const struct repl_points_entry *entry = &m->catalogue.points[m->point];
    struct repl_log_mark mark = {.kind = mark_hold ? REPL_MARK_HELD : REPL_MARK_NAME,
                                 .seq = entry->point.seq};
    struct repl_when named = {.kind = REPL_WHEN_NAME};
    snprintf(mark.name, sizeof mark.name, "%s", m->name);
    snprintf(named.text, sizeof named.text, "%s", m->name);
    if (mark_json) {
        json_t *json = name_json(&mark, entry);
        json_object_set_new(json, "schema", json_integer(1));
        json_object_set_new(json, "volume", json_string(m->volume));
        return json_print(json, err);
    }
    char *text = repl_when_describe(&named, entry);
    if (text == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    fputs(text, stdout);
    free(text);
    return REPL_SUCCESS;
}

static repl_result proven_print(const struct marking *m, struct repl_error *err)
{
    uint64_t seq = m->catalogue.points[m->point].point.seq;
    if (mark_json)
        return json_print(json_pack("{s:i, s:s, s:I}", "schema", 1, "volume", m->volume,
                                    "proven_seq", (json_int_t)seq),
                          err);
    printf("point %" PRIu64 " of volume %s stays as the last that was restored and found good\n",
           seq, m->volume);
    return REPL_SUCCESS;
}

/* --- the verb -------------------------------------------------------------------------------- */

static repl_result check_options(const struct marking *m, struct repl_error *err)
{
    const char *flaw = m->name != NULL ? repl_mark_name_flaw(m->name) : NULL;
    if ((mark_list || mark_proven) != (m->name == NULL))
        return repl_fail(err, REPL_E_USAGE,
                         "give either a name for a point, or --list or --proven: \"repl mark "
                         "--help\"");
    if (mark_proven && (mark_list || mark_hold || mark_remove))
        return repl_fail(err, REPL_E_USAGE, "--proven goes with --at alone");
    bool gives = mark_at != NULL || mark_hold;
    if ((mark_list && (gives || mark_remove)) || (mark_remove && gives))
        return repl_fail(err, REPL_E_USAGE,
                         "--list and --remove go with neither --at nor --hold, nor with each "
                         "other");
    if (flaw != NULL && !mark_remove)
        return repl_fail(err, REPL_E_USAGE, "\"%s\" cannot be the name of a point: %s", m->name,
                         flaw);
    if (m->name != NULL && strlen(m->name) > REPL_MARK_NAME_SIZE)
        return repl_fail(err, REPL_E_USAGE, "no name has more than %u bytes", REPL_MARK_NAME_SIZE);
    return REPL_SUCCESS;
}

static repl_result times_parse(struct marking *m, struct repl_error *err)
{
    int64_t timeout_ms = TIMEOUT_MS;
    REPL_TRY(repl_forward(
        repl_when_parse(mark_at != NULL ? mark_at : "latest", repl_now_wall_ns(), &m->when, err),
        err, "--at"));
    if (mark_timeout != NULL)
        REPL_TRY(
            repl_forward(repl_parse_duration(mark_timeout, &timeout_ms, err), err, "--timeout"));
    if (timeout_ms > INT64_MAX / NS_PER_MS / 2)
        return repl_fail(err, REPL_E_USAGE, "--timeout: that is longer than anybody waits");
    m->deadline_ns = repl_now_mono_ns() + timeout_ms * NS_PER_MS;
    return REPL_SUCCESS;
}

/* Whose side this is: the configuration says, which is the agent's where there are both. */
static repl_result config_read(struct marking *m, struct repl_error *err)
{
    const char *path = mark_origin.config;
    if (path == NULL && (mark_origin.store != NULL || mark_origin.site != NULL))
        return REPL_SUCCESS;
    if (path == NULL)
        path = access(REPL_AGENT_CONFIG_PATH, F_OK) != 0 && access(REPL_SITE_CONFIG_PATH, F_OK) == 0
                   ? REPL_SITE_CONFIG_PATH
                   : REPL_AGENT_CONFIG_PATH;
    REPL_TRY(repl_config_load_either(path, &m->config, err));
    if (!is_operator(m) && (mark_hold || mark_remove || mark_proven))
        return repl_fail(err, REPL_E_REFUSED,
                         "a host adds names, and does nothing else with them: the operator of the "
                         "site does that, there (repl mark %s %s --config %s)",
                         m->volume,
                         mark_proven ? "--proven"
                         : mark_hold ? "NAME --hold"
                                     : "NAME --remove",
                         REPL_SITE_CONFIG_PATH);
    return REPL_SUCCESS;
}

static repl_result origin_open(struct marking *m, struct repl_error *err)
{
    struct repl_origin_options options = mark_origin;
    if (m->config != NULL)
        options.config = m->config->path;
    if (is_operator(m) && options.store == NULL && options.site == NULL)
        options.store = m->config->store;
    return repl_origin_open(&options, m->volume, &m->origin, err);
}

static repl_result mark(struct marking *m, struct repl_error *err)
{
    REPL_TRY(check_options(m, err));
    REPL_TRY(times_parse(m, err));
    REPL_TRY(config_read(m, err));
    if ((mark_remove || mark_proven) && m->config == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "the operator of the site does that: name its configuration with "
                         "--config");
    REPL_TRY(origin_open(m, err));
    if (mark_remove)
        return operator_remove(m, err);
    REPL_TRY(catalogue_read(m, err));
    if (mark_list)
        return list_print(m, err);
    if (mark_proven) {
        REPL_TRY(operator_proven(m, err));
        return proven_print(m, err);
    }
    REPL_TRY(is_operator(m) ? operator_mark(m, err) : host_mark(m, err));
    return mark_print(m, err);
}

static int mark_run(int argc, char **argv)
{
    struct marking m = {.volume = argv[0], .name = argc > 1 ? argv[1] : NULL};
    struct repl_error err;
    repl_result result = mark(&m, &err);
    repl_catalogue_fini(&m.catalogue);
    if (m.origin != NULL)
        m.origin->ops->close(m.origin);
    repl_config_free(m.config);
    return repl_ok(result) ? REPL_EXIT_OK : repl_verb_fail("mark", &err);
}

static const struct repl_option mark_options[] = {
    {"at", "WHEN", REPL_OPTION_TEXT, &mark_at,
     "A point that is there, instead of one of now: its number, another name of it, or a time, as "
     "for \"repl restore\"."},
    {"timeout", "TIME", REPL_OPTION_TEXT, &mark_timeout,
     "How long to wait for the point and the site, 1 min if not given. When it is over the exit "
     "code is 2, and the message says whether the name may have been given."},
    {"list", NULL, REPL_OPTION_FLAG, &mark_list, "Lists the names that points have."},
    {"json", NULL, REPL_OPTION_FLAG, &mark_json, "Prints one JSON object, docs/formats/mark.md."},
    {"hold", NULL, REPL_OPTION_FLAG, &mark_hold,
     "At the site: the name is held, also one that a host has given."},
    {"proven", NULL, REPL_OPTION_FLAG, &mark_proven,
     "At the site: the newest point, or that of --at, was restored and found good, as in a "
     "rehearsal. It stays until that is said of another one, whatever retention says."},
    {"remove", NULL, REPL_OPTION_FLAG, &mark_remove, "At the site: the name is removed."},
    REPL_ORIGIN_OPTION_ROWS(mark_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_mark = {
    .name = "mark",
    .synopsis = "VOLUME NAME [--at WHEN] | VOLUME --list [--json] | VOLUME --proven [--at WHEN]",
    .summary = "Gives a point a name, to be restored by.",
    .description =
        "On the protected host: the agent is asked for a point of now, which has in it all that "
        "the volume held when the command was begun, and the command ends when the site has both, "
        "the point and its name. (Of a block device that is what programs have synced; what is in "
        "the page cache alone may be missing: run sync before.) If nothing has changed since the "
        "last point, that one gets the name. It is then as good as a number wherever a point is "
        "meant: repl restore VOLUME --at NAME.\n"
        "\n"
        "A name has 1 to 64 bytes of UTF-8 and must not look like a number or a time; a volume has "
        "at most 1024. A host can only add names: one that a point has already is refused (exit "
        "code 5) and stays where it is, so that nobody who has taken over the host can make a good "
        "point pass for another.\n"
        "\n"
        "With --config of a site that runs on this host, as root, it is the site's operator who "
        "asks: the newest point gets the name unless --at says which, --hold, --remove and "
        "--proven are "
        "possible, and what is listed is read from the site's store.",
    .options = mark_options,
    .positional_min = 1,
    .positional_max = 2,
    .run = mark_run,
};
