#include "recover/restore_compare.h"

#define WORTH        (1.0 / 16)
#define WEIGHT       (1.0 / 8)
#define SAMPLE_EVERY 16u

void repl_restore_compare_begin(struct repl_restore_compare *compare)
{
    *compare = (struct repl_restore_compare){.on = true, .same = 1};
}

bool repl_restore_compare_next(struct repl_restore_compare *compare)
{
    if (!compare->on)
        return false;
    bool look = compare->same >= WORTH || compare->passed + 1 >= SAMPLE_EVERY;
    compare->passed = look ? 0 : compare->passed + 1;
    return look;
}

void repl_restore_compare_note(struct repl_restore_compare *compare, size_t same, size_t size)
{
    compare->same += WEIGHT * ((double)same / (double)size - compare->same);
}
