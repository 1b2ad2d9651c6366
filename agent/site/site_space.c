/*
 * The filesystem is looked at once a second, on a worker, as one that does not
 * answer must not hold up the loop. In between, what has been received since
 * counts as taken from it.
 */
#include "site/site_space.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <syslog.h>

#include "site/site_volume.h"

#define LOOK_NS (INT64_C(1) * 1000000000)

#define LIMIT_SLACK_SHARE   32u /* so much of a limit has to be free again */
#define RESERVE_SLACK_SHARE 4u
#define SIZE_TEXT           24

/* A source that is refused asks again every ten seconds. */
#define KEPT_OUT_NS (INT64_C(60) * 1000000000)

static void size_text(uint64_t bytes, char text[SIZE_TEXT])
{
    double mib = (double)bytes / (double)(1 << 20);
    if (mib >= 10 * 1024)
        snprintf(text, SIZE_TEXT, "%.1f GiB", mib / 1024);
    else
        snprintf(text, SIZE_TEXT, "%.1f MiB", mib);
}

/* --- the filesystem -------------------------------------------------------------------------- */

static uint64_t reserve_of(const struct repl_site *site)
{
    return repl_config_reserve(site->config, site->space.disk_bytes);
}

static void look_work(struct repl_job *job)
{
    struct repl_site *site = job->context;
    struct site_space *s = &site->space;
    const char *path = repl_config_site_directory(site->config);
    struct statvfs status;
    s->result = REPL_SUCCESS;
    if (statvfs(path, &status) != 0) {
        s->result =
            repl_fail_errno(&s->err, REPL_E_IO, errno, "cannot see how much of %s is free", path);
        return;
    }
    s->found_free_bytes = (uint64_t)status.f_bavail * status.f_frsize;
    s->found_disk_bytes = (uint64_t)status.f_blocks * status.f_frsize;
}

static void look_take(struct site_space *s)
{
    s->free_bytes = s->found_free_bytes;
    s->disk_bytes = s->found_disk_bytes;
    s->taken_before = s->found_before;
    s->looked = true;
}

/* One that cannot be looked at is no reason to stop: writing to it says what is wrong. */
static void look_done(struct repl_job *job)
{
    struct repl_site *site = job->context;
    struct site_space *s = &site->space;
    site_job_ended(site);
    s->looking = false;
    if (repl_ok(s->result))
        look_take(s);
    else if (s->looked)
        repl_log(LOG_WARNING, "%s", s->err.text);
    s->looked = repl_ok(s->result);
}

static void look_fire(struct repl_timer *timer)
{
    struct repl_site *site = timer->context;
    struct site_space *s = &site->space;
    if (!s->looking && !site->closing) {
        s->looking = true;
        s->found_before = s->taken_bytes;
        s->job = (struct repl_job){.work = look_work, .done = look_done, .context = site};
        site_job_start(site, &s->job);
    }
    repl_timer_arm(site->loop, &s->timer, repl_now_mono_ns() + LOOK_NS);
}

repl_result site_space_begin(struct repl_site *site, struct repl_error *err)
{
    struct site_space *s = &site->space;
    struct repl_job job = {.context = site};
    look_work(&job);
    if (!repl_ok(s->result)) {
        *err = s->err;
        return s->result;
    }
    look_take(s);
    s->timer = (struct repl_timer){.fire = look_fire, .context = site};
    repl_timer_arm(site->loop, &s->timer, repl_now_mono_ns() + LOOK_NS);
    return REPL_SUCCESS;
}

void site_space_end(struct repl_site *site)
{
    repl_timer_cancel(&site->space.timer);
}

void site_space_staged(struct repl_site *site, int64_t bytes)
{
    site->space.staged_bytes += (uint64_t)bytes;
    if (bytes > 0)
        site->space.taken_bytes += (uint64_t)bytes;
}

/* --- the bounds ------------------------------------------------------------------------------ */

static uint64_t used_by(const struct site_volume *v)
{
    return repl_store_usage_bytes(v->usage) + v->uploads[0].intake.written +
           v->uploads[1].intake.written;
}

static uint64_t used_by_all(const struct repl_site *site)
{
    return repl_store_usage_total(site->store) + site->space.staged_bytes;
}

static uint64_t left_of(uint64_t whole, uint64_t part)
{
    return whole > part ? whole - part : 0;
}

static bool is_full(bool was_full, uint64_t left, uint64_t slack)
{
    return left == 0 || (was_full && left <= slack);
}

static bool limit_is_full(bool was_full, uint64_t limit, uint64_t used)
{
    return limit != 0 && is_full(was_full, left_of(limit, used), limit / LIMIT_SLACK_SHARE);
}

void site_space_limit_read(struct site_volume *v)
{
    const struct repl_config_volume *config = repl_config_find_volume(v->site->config, v->name);
    v->space_limit_bytes = config != NULL ? config->space_limit_bytes : 0;
}

void site_space_tick(struct site_volume *v)
{
    struct repl_site *site = v->site;
    struct site_space *s = &site->space;
    uint64_t reserve = reserve_of(site);
    uint64_t since = s->taken_bytes - s->taken_before;
    v->space_full = limit_is_full(v->space_full, v->space_limit_bytes, used_by(v));
    s->full = limit_is_full(s->full, site->config->space_limit_bytes, used_by_all(site));
    s->short_of_reserve =
        s->looked && reserve != 0 &&
        is_full(s->short_of_reserve, left_of(left_of(s->free_bytes, since), reserve),
                reserve / RESERVE_SLACK_SHARE);
}

bool site_space_permits(struct site_volume *v, char *why)
{
    const struct repl_site *site = v->site;
    const char *what = NULL;
    site_space_tick(v);
    if (v->space_full)
        what = "its history has reached the space_limit that the site has for it";
    else if (site->space.full)
        what = "the site has reached its space_limit";
    else if (site->space.short_of_reserve)
        what = "the site's disk is full";
    if (what == NULL)
        return true;
    snprintf(why, REPL_WIRE_TEXT_MAX + 1,
             "no more of volume %s is taken in: %s. Its operator has to make room", v->name, what);
    return false;
}

void site_space_ran_out(struct site_volume *v, enum site_space_full what,
                        const struct repl_error *err)
{
    if (what >= v->disk_full)
        v->disk_full = what;
    snprintf(v->disk_full_why, sizeof v->disk_full_why, "%.300s", err->text);
}

void site_space_went_well(struct site_volume *v, enum site_space_full what)
{
    if (what >= v->disk_full)
        v->disk_full = SITE_SPACE_FITS;
}

bool site_space_keeps_out(const struct site_volume *v)
{
    return !v->journal.exists && v->disk_full != SITE_SPACE_FITS && v->source_heard &&
           repl_now_boot_ns() - v->source_heard_ns < KEPT_OUT_NS;
}

/* --- what is told ---------------------------------------------------------------------------- */

static void full_status(struct repl_volume_status *out, const char *remedy)
{
    out->state = REPL_STATE_REFUSED;
    snprintf(out->remedy, sizeof out->remedy,
             "%s. Nothing is lost: its source spools, and goes on by itself when there is room",
             remedy);
}

static void limit_status(struct repl_volume_status *out, const char *whose, const char *section,
                         uint64_t used_bytes, uint64_t limit_bytes)
{
    char used[SIZE_TEXT], limit[SIZE_TEXT], remedy[160];
    size_text(used_bytes, used);
    size_text(limit_bytes, limit);
    snprintf(out->cause, sizeof out->cause,
             "no segment is taken in: %s %s, and space_limit is %s; 3 %% of it have to be free",
             whose, used, limit);
    snprintf(remedy, sizeof remedy,
             "raise space_limit of [%s] and reload the site, or keep fewer points (retention): "
             "what merging frees counts when its grace is over",
             section);
    full_status(out, remedy);
}

static void reserve_status(const struct repl_site *site, struct repl_volume_status *out)
{
    char left[SIZE_TEXT], reserve[SIZE_TEXT], remedy[160];
    const char *path = repl_config_site_directory(site->config);
    size_text(site->space.free_bytes, left);
    size_text(reserve_of(site), reserve);
    snprintf(out->cause, sizeof out->cause,
             "no segment is taken in: %s are free where %.200s lies, and space_reserve is %s; a "
             "quarter more has to be free",
             left, path, reserve);
    snprintf(remedy, sizeof remedy, "make room on that filesystem%s",
             repl_store_is_bucket(site->config->store)
                 ? ", which has uploads, replicas and the index"
                 : ", or keep fewer points (retention): what merging frees goes when its grace is "
                   "over");
    full_status(out, remedy);
}

void site_space_volume_status(const struct site_volume *v, struct repl_volume_status *out)
{
    const struct repl_site *site = v->site;
    char section[sizeof v->name + 8];
    out->stored_bytes = used_by(v);
    out->space_limit_bytes = v->space_limit_bytes;
    if (out->state >= REPL_STATE_FAILED)
        return;
    if (v->space_full) {
        snprintf(section, sizeof section, "volume %s", v->name);
        limit_status(out, "its history has", section, out->stored_bytes, out->space_limit_bytes);
    } else if (site->space.full) {
        limit_status(out, "the histories of this site have", "site", used_by_all(site),
                     site->config->space_limit_bytes);
    } else if (site->space.short_of_reserve) {
        reserve_status(site, out);
    } else if (v->disk_full != SITE_SPACE_FITS) {
        snprintf(out->cause, sizeof out->cause, "no segment was taken in: %.300s",
                 v->disk_full_why);
        full_status(out, "make room on the disk of the store, or in its bucket");
    }
}

void site_space_status(const struct repl_site *site, struct repl_status *out)
{
    out->stored_bytes = used_by_all(site);
    out->space_limit_bytes = site->config->space_limit_bytes;
    out->free_bytes = site->space.free_bytes;
    out->space_reserve_bytes = reserve_of(site);
}
