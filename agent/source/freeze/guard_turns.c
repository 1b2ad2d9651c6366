#include "source/freeze/guard_internal.h"

#include <pthread.h>
#include <string.h>

struct turn {
    char who[GUARD_WHO_SIZE]; /* empty: no hold is on */
    size_t filesystem_count;  /* 0: it freezes nothing, or has thawed */
    dev_t filesystems[REPL_GUARD_MOUNTS_MAX];
};

static pthread_mutex_t turns_lock = PTHREAD_MUTEX_INITIALIZER;
static struct turn turns[REPL_GUARD_SLOTS];

bool guard_turn_take(unsigned slot, const char *who)
{
    bool taken = false;
    pthread_mutex_lock(&turns_lock);
    for (unsigned i = 0; i < REPL_GUARD_SLOTS && !taken; i++)
        taken = i != slot && strcmp(turns[i].who, who) == 0;
    if (!taken)
        repl_guard_text_set(turns[slot].who, sizeof turns[slot].who, who);
    pthread_mutex_unlock(&turns_lock);
    return !taken;
}

static bool is_shared(const struct turn *turn, const struct repl_freeze_set *set)
{
    for (size_t i = 0; i < turn->filesystem_count; i++) {
        for (size_t k = 0; k < set->count; k++) {
            if (turn->filesystems[i] == set->mounts[k].device)
                return true;
        }
    }
    return false;
}

bool guard_turn_freeze(unsigned slot, const struct repl_freeze_set *set)
{
    bool taken = false;
    pthread_mutex_lock(&turns_lock);
    for (unsigned i = 0; i < REPL_GUARD_SLOTS && !taken; i++)
        taken = i != slot && is_shared(&turns[i], set);
    for (size_t i = 0; !taken && i < set->count; i++)
        turns[slot].filesystems[i] = set->mounts[i].device;
    turns[slot].filesystem_count = taken ? 0 : set->count;
    pthread_mutex_unlock(&turns_lock);
    return !taken;
}

void guard_turn_thawed(unsigned slot)
{
    pthread_mutex_lock(&turns_lock);
    turns[slot].filesystem_count = 0;
    pthread_mutex_unlock(&turns_lock);
}

void guard_turn_end(unsigned slot)
{
    pthread_mutex_lock(&turns_lock);
    turns[slot].who[0] = '\0';
    turns[slot].filesystem_count = 0;
    pthread_mutex_unlock(&turns_lock);
}
