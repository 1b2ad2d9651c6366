#include "level.h"

#include <stdbool.h>

#include "base/ensure.h"
#include "segment/frame.h"

/* Shares of the workers' time, of two samples together: a step up from the first, which makes 2.25
 * of it at most, does not come to the second. One sample is enough for the third. */
#define SHARE_IDLE 0.25
#define SHARE_BUSY 0.625
#define SHARE_FULL 0.875

#define GOOD_SAMPLES 3u
/* A fall so soon after a step up is the step's fault: the wait doubles. */
#define SOON_SAMPLES 10u
#define PATIENCE_MIN 10u
#define PATIENCE_MAX 320u

static const unsigned steps[] = {1, 3, 6};
#define STEP_MAX (sizeof steps / sizeof steps[0] - 1)

void repl_level_init(struct repl_level *level, unsigned fixed)
{
    ensure(fixed <= REPL_FRAME_LEVEL_MAX);
    *level = (struct repl_level){.fixed = fixed, .patience = PATIENCE_MIN};
}

unsigned repl_level_now(const struct repl_level *level)
{
    return level->fixed != 0 ? level->fixed : steps[level->step];
}

/* More waited at the beginning than was sent, so there was always something to send; and what waits
 * now lasts as long again, so a frame that takes longer to make keeps nobody waiting. */
static bool link_was_full(const struct repl_level *level, const struct repl_level_sample *sample)
{
    return sample->sent_bytes > 0 && level->unsent_bytes > sample->sent_bytes &&
           sample->unsent_bytes > sample->sent_bytes;
}

static void level_fall(struct repl_level *level)
{
    bool soon = level->since_step <= SOON_SAMPLES;
    level->patience = soon ? level->patience * 2 : PATIENCE_MIN;
    if (level->patience > PATIENCE_MAX)
        level->patience = PATIENCE_MAX;
    level->wait = level->patience;
    level->step = 0;
}

static void level_rise(struct repl_level *level)
{
    if (++level->good < GOOD_SAMPLES || level->step == STEP_MAX)
        return;
    level->step++;
    level->good = 0;
    level->since_step = 0;
}

void repl_level_follow(struct repl_level *level, const struct repl_level_sample *sample)
{
    ensure(sample->workers > 0 && sample->elapsed_ns > 0);
    bool link_full = link_was_full(level, sample);
    double share = (double)sample->busy_ns / ((double)sample->elapsed_ns * (double)sample->workers);
    double of_two = (share + level->share) / 2;
    bool waits = level->wait > 0;
    level->unsent_bytes = sample->unsent_bytes;
    level->share = share;
    level->wait -= waits;
    level->since_step += level->since_step <= SOON_SAMPLES;
    if (level->step > 0 && (share > SHARE_FULL || of_two > SHARE_BUSY))
        level_fall(level);
    else if (!link_full)
        level->step = 0;
    if (link_full && !waits && of_two <= SHARE_IDLE)
        level_rise(level);
    else
        level->good = 0;
}
