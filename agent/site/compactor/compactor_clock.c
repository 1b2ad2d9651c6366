/*
 * Whether the site's clock may be acted on (journal/clock_guard.h): the readings,
 * what hosts say, and the time that outlives the process, in a file of its own
 * beside the index.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "site/compactor/compactor_internal.h"

#define CLOCK_NAME "clock"
#define SAVE_NS    (INT64_C(60) * 1000000000)

static bool path_of(const struct site_compactor *c, const char *suffix, char path[PATH_MAX])
{
    int size = snprintf(path, PATH_MAX, "%s/" CLOCK_NAME "%s",
                        repl_config_site_directory(c->site->config), suffix);
    return size > 0 && size < PATH_MAX;
}

static bool known_read(const struct site_compactor *c, int64_t *known_ns)
{
    char path[PATH_MAX];
    FILE *file = path_of(c, "", path) ? fopen(path, "re") : NULL;
    bool read = file != NULL && fscanf(file, "%" SCNd64, known_ns) == 1;
    if (file != NULL)
        fclose(file);
    return read;
}

/* A few bytes once a minute; where it fails, the next start doubts the clock a little sooner. */
static void known_save(struct site_compactor *c)
{
    char path[PATH_MAX], made[PATH_MAX], text[32];
    if (!c->clock.known || !path_of(c, "", path) || !path_of(c, ".new", made))
        return;
    int size = snprintf(text, sizeof text, "%" PRId64 "\n", c->clock.known_ns);
    int fd = open(made, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool saved = fd >= 0 && write(fd, text, (size_t)size) == size && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    if (!saved || rename(made, path) != 0)
        repl_log(LOG_WARNING, "cannot keep the time in %s: %s", path, strerror(errno));
}

/* One entry a host: the volumes of one have the same key. */
static size_t sources_list(const struct site_compactor *c, struct repl_clock_source *out)
{
    size_t count = 0;
    for (const struct site_volume *v = c->site->volumes; v != NULL; v = v->next) {
        bool seen = !v->source_heard;
        for (const struct site_volume *o = c->site->volumes; !seen && o != v; o = o->next)
            seen = o->source_heard && repl_digest_equal(&o->source_key, &v->source_key);
        if (!seen)
            out[count++] = (struct repl_clock_source){.ahead_ns = v->source_ahead_ns,
                                                      .heard_ns = v->source_heard_ns};
    }
    return count;
}

static void sources_ask(struct site_compactor *c)
{
    struct repl_clock_source *sources = calloc(c->site->volume_count + 1, sizeof *sources);
    if (sources == NULL)
        return;
    repl_clock_guard_ask(&c->clock, sources, sources_list(c, sources));
    free(sources);
}

static void doubt_tell(struct site_compactor *c)
{
    char text[REPL_CLOCK_TEXT_SIZE] = "";
    if (!repl_clock_guard_trusts(&c->clock))
        repl_clock_guard_describe(&c->clock, text);
    if ((text[0] != '\0') != (c->doubt[0] != '\0'))
        repl_log(text[0] != '\0' ? LOG_WARNING : LOG_INFO, "%s",
                 text[0] != '\0' ? text
                                 : "the clock is trusted again: points are given up as "
                                   "policy says");
    memcpy(c->doubt, text, sizeof text);
}

void compactor_clock_begin(struct site_compactor *c)
{
    int64_t known_ns = 0;
    bool known = known_read(c, &known_ns);
    repl_clock_guard_init(&c->clock, known, known_ns, repl_now_wall_ns(), repl_now_boot_ns());
}

void compactor_clock_tick(struct site_compactor *c)
{
    int64_t now_ns = repl_now_boot_ns();
    repl_clock_guard_read(&c->clock, repl_now_wall_ns(), now_ns);
    if (!repl_clock_guard_trusts(&c->clock))
        sources_ask(c);
    doubt_tell(c);
    if (c->clock_saved_ns != 0 && now_ns - c->clock_saved_ns < SAVE_NS)
        return;
    c->clock_saved_ns = now_ns;
    known_save(c);
}

void site_compactor_confirm_clock(struct site_compactor *c)
{
    repl_clock_guard_read(&c->clock, repl_now_wall_ns(), repl_now_boot_ns());
    repl_clock_guard_confirm(&c->clock);
    doubt_tell(c);
}
