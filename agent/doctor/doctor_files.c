/*
 * What the configuration names on this machine: itself, the key, the state and
 * the store.
 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "doctor/doctor_internal.h"
#include "doctor/judge.h"
#include "link/keys.h"
#include "store/store.h"

/* --- the configuration and the key ----------------------------------------------------------- */

void doctor_check_configuration(const struct repl_config *config,
                                const struct repl_config_volume *volume,
                                struct repl_findings *findings)
{
    struct repl_error err;
    struct stat st;
    size_t usable = 0;
    (void)volume;
    for (size_t i = 0; i < config->peer_count; i++)
        usable += !config->peers[i].revoked;
    if (stat(config->path, &st) == 0 && (st.st_mode & 022) != 0)
        repl_finding_add(findings, REPL_FINDING_WARNING, "config", NULL,
                         "chmod go-w on it, and read it through: it can name commands",
                         "%s can be written by others (mode %04o)", config->path,
                         (unsigned)(st.st_mode & 07777));
    if (config->role == REPL_ROLE_AGENT && config->volume_count == 0) {
        repl_ignore(repl_fail(&err, REPL_E_USAGE, "%s: there is no [volume NAME] to protect",
                              config->path));
        repl_finding_fail(findings, "config", NULL, "add one; \"repl help config\" shows how",
                          &err);
    } else if (config->role == REPL_ROLE_SITE && usable == 0) {
        repl_finding_add(findings, REPL_FINDING_WARNING, "config", NULL,
                         "add one for each host, with the fingerprint that \"repl keygen\" "
                         "prints there",
                         "%s: no [peer NAME] may do anything", config->path);
    } else if (config->role == REPL_ROLE_AGENT) {
        repl_finding_add(findings, REPL_FINDING_OK, "config", NULL, NULL,
                         "%s: an agent's, %zu volume%s, site %s", config->path,
                         config->volume_count, config->volume_count == 1 ? "" : "s",
                         config->remote_address);
    } else {
        repl_finding_add(findings, REPL_FINDING_OK, "config", NULL, NULL,
                         "%s: a site's, %zu of %zu peer%s admitted", config->path, usable,
                         config->peer_count, config->peer_count == 1 ? "" : "s");
    }
}

void doctor_check_key(const struct repl_config *config, const struct repl_config_volume *volume,
                      struct repl_findings *findings)
{
    char directory[PATH_MAX], text[REPL_FINGERPRINT_TEXT_SIZE];
    struct repl_digest fingerprint;
    struct repl_error err;
    struct stat st;
    char *pem = NULL;
    (void)volume;
    if (!repl_ok(repl_key_load(config->key, &pem, &fingerprint, &err))) {
        repl_finding_fail(findings, "key", NULL,
                          "a fingerprint that changes has to be told to the other side", &err);
        return;
    }
    repl_key_wipe(pem);
    free(pem);
    repl_fingerprint_format(&fingerprint, text);
    repl_finding_add(findings, REPL_FINDING_OK, "key", NULL, NULL, "%s: our fingerprint is %s",
                     config->key, text);
    snprintf(directory, sizeof directory, "%s", config->key);
    if (stat(dirname(directory), &st) == 0 && (st.st_mode & 022) != 0 &&
        (st.st_mode & S_ISVTX) == 0)
        repl_finding_add(findings, REPL_FINDING_WARNING, "key", NULL, "chmod go-w on the directory",
                         "others may put another file in the place of %s: its directory can be "
                         "written by them (mode %04o)",
                         config->key, (unsigned)(st.st_mode & 07777));
}

/* --- room ------------------------------------------------------------------------------------ */

/* Of the directory, or of the one that it would be made in. */
static repl_result disk_find(const char *path, struct doctor_disk *out, struct repl_error *err)
{
    char at[PATH_MAX];
    struct statvfs status;
    snprintf(at, sizeof at, "%s", path);
    while (statvfs(at, &status) != 0) {
        if (errno != ENOENT || strcmp(at, "/") == 0)
            return repl_fail_errno(err, REPL_E_IO, errno, "cannot see how much of %s is free", at);
        dirname(at); /* an absolute path, which is cut in place */
    }
    *out = (struct doctor_disk){.path = path,
                                .read_only = (status.f_flag & ST_RDONLY) != 0,
                                .free_bytes = (uint64_t)status.f_bavail * status.f_frsize,
                                .size_bytes = (uint64_t)status.f_blocks * status.f_frsize};
    return REPL_SUCCESS;
}

void doctor_check_spool(const struct repl_config *config, const struct repl_config_volume *volume,
                        struct repl_findings *findings)
{
    struct doctor_disk disk;
    struct repl_error err;
    struct stat st;
    (void)volume;
    if (stat(config->state, &st) != 0 && errno == ENOENT)
        repl_finding_add(findings, REPL_FINDING_NOTE, "spool", NULL, NULL,
                         "%s is not there yet: the agent makes it", config->state);
    else if ((st.st_mode & 022) != 0)
        repl_finding_add(findings, REPL_FINDING_WARNING, "spool", NULL, "chmod 700 on it",
                         "%s can be written by others (mode %04o)", config->state,
                         (unsigned)(st.st_mode & 07777));
    if (repl_ok(disk_find(config->state, &disk, &err)))
        repl_judge_spool(findings, &disk, config->spool_limit_bytes);
    else
        repl_finding_fail(findings, "spool", NULL, "see [agent] state", &err);
}

/* --- the store ------------------------------------------------------------------------------- */

static repl_result volume_count(void *context, const char *volume, struct repl_error *err)
{
    (void)volume, (void)err;
    ++*(size_t *)context;
    return REPL_SUCCESS;
}

/* Reads: the file or object that says what it is, and the list of volumes. */
void doctor_check_store(const struct repl_config *config, const struct repl_config_volume *volume,
                        struct repl_findings *findings)
{
    const struct repl_s3_options s3 = repl_config_s3(config);
    const struct repl_store_options options = {
        .location = config->store, .impatient = true, .s3 = &s3};
    struct repl_store *store = NULL;
    struct repl_error err;
    size_t volumes = 0;
    (void)volume;
    repl_result result = repl_store_open(&options, &store, &err);
    if (repl_ok(result)) {
        result = store->ops->volumes(store, volume_count, &volumes, &err);
        store->ops->close(store);
    }
    if (result.code == REPL_E_MISSING)
        repl_finding_add(findings, REPL_FINDING_NOTE, "store", NULL, NULL,
                         "%s holds no store yet: the site makes it", config->store);
    else if (!repl_ok(result))
        repl_finding_fail(findings, "store", NULL, "see [site] store", &err);
    else
        repl_finding_add(findings, REPL_FINDING_OK, "store", NULL, NULL, "%s: read, %zu volume%s",
                         config->store, volumes, volumes == 1 ? "" : "s");
}

void doctor_check_space(const struct repl_config *config, const struct repl_config_volume *volume,
                        struct repl_findings *findings)
{
    struct doctor_disk disk;
    struct repl_error err;
    (void)volume;
    if (repl_ok(disk_find(repl_config_site_directory(config), &disk, &err)))
        repl_judge_store(findings, &disk, repl_config_reserve(config, disk.size_bytes));
    else
        repl_finding_fail(findings, "space", NULL, "see [site] store and state", &err);
}
