/*
 * Who answers: the site over TLS, and the service of this machine at its control
 * socket. The site is asked for the points behind the last one there can be,
 * which costs it nothing and changes nothing (a hello would make a volume).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/control.h"
#include "doctor/doctor_internal.h"
#include "doctor/judge.h"
#include "format/wire.h"
#include "link/client.h"
#include "loop/loop.h"

#define VOLUMES_NS (INT64_C(3) * 1000000000) /* for asking about the volumes */
#define ANSWER_MAX (64u << 10)
#define BEHIND_ALL "points/18446744073709551615"

/* --- the site -------------------------------------------------------------------------------- */

static repl_result refusal_take(int status, const char *body, size_t size, struct repl_error *err)
{
    struct repl_refusal refusal;
    if (status == 200)
        return REPL_SUCCESS;
    if (repl_ok(repl_refusal_decode(body, size, &refusal, NULL)))
        return repl_refusal_raise(&refusal, err);
    return repl_fail(err, REPL_E_VERSION,
                     "it answers with status %d and nothing this program understands", status);
}

/* what: of the volume. *answered: it is a site that says something. */
static repl_result site_ask(struct repl_fetcher *fetcher, const char *volume, const char *what,
                            bool *answered, struct repl_error *err)
{
    char path[256], *body = NULL;
    size_t size = 0;
    int status;
    snprintf(path, sizeof path, "/v1/volumes/%s/%s", volume, what);
    repl_result result =
        repl_fetch(fetcher, "GET", path, NULL, NULL, 0, ANSWER_MAX, &status, &body, &size, err);
    *answered = repl_ok(result);
    if (repl_ok(result))
        result = refusal_take(status, body, size, err);
    free(body);
    return result;
}

static void volume_answer(struct repl_findings *findings, const char *volume, repl_result result,
                          const struct repl_error *err)
{
    if (repl_ok(result))
        repl_finding_add(findings, REPL_FINDING_OK, "site", volume, NULL, "the site has it");
    else if (result.code == REPL_E_MISSING)
        repl_finding_add(findings, REPL_FINDING_NOTE, "site", volume, NULL,
                         "the site has nothing of it yet: the first copy makes it");
    else
        repl_finding_fail(findings, "site", volume,
                          "see the [peer] section and the status at the site", err);
}

/* The oldest protocol that has what was answered. */
static void protocol_find(struct repl_fetcher *fetcher, const char *volume,
                          struct repl_findings *findings)
{
    struct repl_error err;
    bool answered;
    if (repl_ok(site_ask(fetcher, volume, "damaged", &answered, &err)))
        repl_finding_add(findings, REPL_FINDING_OK, "protocol", NULL, NULL,
                         "the site speaks at least wire protocol 1.7");
    else if (answered && err.code == REPL_E_MISSING)
        repl_finding_add(findings, REPL_FINDING_NOTE, "protocol", NULL,
                         "upgrade repl at the site when it suits",
                         "the site speaks a wire protocol older than 1.7: it cannot ask for "
                         "what is damaged there");
}

static void volumes_ask(struct repl_fetcher *fetcher, const struct repl_config *config,
                        struct repl_findings *findings)
{
    int64_t until_ns = repl_now_mono_ns() + VOLUMES_NS;
    const char *known = NULL;
    for (size_t i = 0; i < config->volume_count; i++) {
        const char *volume = config->volumes[i].name;
        struct repl_error err;
        bool answered;
        if (repl_now_mono_ns() > until_ns) {
            repl_finding_add(findings, REPL_FINDING_NOTE, "site", NULL, NULL,
                             "the site was not asked about %zu more volumes: it takes too long",
                             config->volume_count - i);
            break;
        }
        repl_result result = site_ask(fetcher, volume, BEHIND_ALL, &answered, &err);
        volume_answer(findings, volume, result, &err);
        if (repl_ok(result))
            known = volume;
    }
    if (known != NULL)
        protocol_find(fetcher, known, findings);
}

/* The first exchange, on a connection that has to be made, and one more. */
static void site_reach(struct repl_fetcher *fetcher, const struct repl_config *config,
                       struct repl_findings *findings)
{
    const char *volume = config->volume_count > 0 ? config->volumes[0].name : "none";
    struct repl_error err;
    bool answered;
    int64_t begin_ns = repl_now_mono_ns();
    repl_ignore(site_ask(fetcher, volume, BEHIND_ALL, &answered, &err)); /* any answer will do */
    int64_t met_ns = repl_now_mono_ns();
    if (!answered) {
        repl_finding_fail(findings, "site", NULL,
                          err.code == REPL_E_REFUSED
                              ? "compare with \"repl keygen --show\" at the site: only if that is "
                                "its key, change [remote] fingerprint"
                              : "see at the site whether it runs (\"repl doctor\" there), and "
                                "whether a firewall lets its port through",
                          &err);
        return;
    }
    repl_ignore(site_ask(fetcher, volume, BEHIND_ALL, &answered, &err));
    repl_finding_add(findings, REPL_FINDING_OK, "site", NULL, NULL,
                     "%s: its key is the one configured; connected and answered in %.1f ms, an "
                     "answer takes %.1f ms",
                     config->remote_address, (double)(met_ns - begin_ns) / 1e6,
                     (double)(repl_now_mono_ns() - met_ns) / 1e6);
    repl_judge_peer_version(findings, repl_fetcher_version(fetcher), REPL_VERSION);
    volumes_ask(fetcher, config, findings);
}

void doctor_check_site(const struct repl_config *config, const struct repl_config_volume *volume,
                       struct repl_findings *findings)
{
    const struct repl_client_options options = {.address = config->remote_address,
                                                .key_path = config->key,
                                                .fingerprint = config->remote_fingerprint,
                                                .connect_timeout_ms = DOCTOR_CONNECT_MS,
                                                .stall_timeout_ms = DOCTOR_CONNECT_MS};
    struct repl_fetcher *fetcher = NULL;
    struct repl_error err;
    (void)volume;
    if (!repl_ok(repl_fetcher_new(&options, &fetcher, &err))) {
        repl_finding_fail(findings, "site", NULL, "see the findings on the key above", &err);
        return;
    }
    site_reach(fetcher, config, findings);
    repl_fetcher_free(fetcher);
}

/* --- the service ----------------------------------------------------------------------------- */

void doctor_check_service(const struct repl_config *config, const struct repl_config_volume *volume,
                          struct repl_findings *findings)
{
    bool site = config->role == REPL_ROLE_SITE;
    struct repl_status status;
    struct repl_error err;
    json_t *answer = NULL;
    (void)volume;
    repl_result result = repl_control_ask(config->control, "status", &answer, &err);
    if (repl_ok(result)) {
        result = repl_status_from_json(answer, &status, &err);
        json_decref(answer);
    }
    if (!repl_ok(result)) {
        repl_finding_warn(findings, "service", NULL,
                          site ? "systemctl start repl-site, and see journalctl -u repl-site"
                               : "systemctl start repl-agent, and see journalctl -u repl-agent",
                          &err);
        return;
    }
    repl_judge_status(findings, &status, REPL_VERSION);
    repl_status_fini(&status);
}
