/* pre_command and post_command of the freeze guard: each runs once, in its turn, whoever dies. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "integration/freeze_guard.h"

struct commands {
    struct filesystem *fs;
    struct client client;
    struct repl_hold_options options;
    char pre[512], post[512];
    char both[64]; /* what the two leave behind */
};

static void commands_begin(struct commands *c, struct filesystem *fs)
{
    *c = (struct commands){.fs = fs, .options = freeze_options(fs, 10000)};
    sh_quiet("rm -f %s/order", shared->directory);
    /* Both write to the filesystem itself, so neither can run while it is frozen. */
    snprintf(c->pre, sizeof c->pre, "touch %s/by-pre && echo pre-$REPL_VOLUME >>%s/order",
             fs->where, shared->directory);
    snprintf(c->post, sizeof c->post, "touch %s/by-post && echo post-$REPL_VOLUME >>%s/order",
             fs->where, shared->directory);
    snprintf(c->both, sizeof c->both, "pre-%s post-%s", fs->type, fs->type);
    c->options.pre_command = c->pre;
    c->options.post_command = c->post;
    client_open(&c->client, shared->run);
}

static void until_held(struct commands *c)
{
    repl_hold_begin(c->client.hold, &c->options);
    EXPECT(&c->client, REPL_HOLD_HELD);
}

static void until_released(struct commands *c)
{
    repl_hold_end(c->client.hold);
    EXPECT(&c->client, REPL_HOLD_RELEASED);
}

static void note_the_hold(void)
{
    sh_quiet("echo held >>%s/order; echo released >>%s/order", shared->directory,
             shared->directory);
}

static void commands_around_a_freeze(struct commands *c)
{
    char order[512];
    until_held(c);
    note_the_hold();
    until_released(c);
    check(c->client.last.intact);
    snprintf(order, sizeof order, "pre-%s held released post-%s", c->fs->type, c->fs->type);
    EXPECT_ORDER(order);
}

static void commands_may_be_ended(struct commands *c)
{
    char score[512];
    note("  a command may be ended for want of memory like any other process");
    snprintf(score, sizeof score, "cat /proc/self/oom_score_adj >>%s/order", shared->directory);
    c->options.pre_command = score;
    c->options.post_command = NULL;
    until_held(c);
    until_released(c);
    EXPECT_ORDER("0");
    c->options.pre_command = c->pre;
    c->options.post_command = c->post;
}

static void commands_without_a_freeze(struct commands *c)
{
    char order[512];
    note("  without a freeze");
    c->options.freeze = false;
    until_held(c);
    check(writer_moves(c->fs, 1000));
    note_the_hold();
    until_released(c);
    check(c->client.last.intact && c->client.last.stall_ns == 0);
    c->options.freeze = true;
    /* begun before post_command has ended */
    until_held(c);
    until_released(c);
    snprintf(order, sizeof order, "pre-%s held released post-%s %s", c->fs->type, c->fs->type,
             c->both);
    EXPECT_ORDER(order);
}

static void commands_of_holds_cut_short(struct commands *c)
{
    note("  budget over, guard killed, agent killed: post_command runs");
    c->options.budget_ms = 100;
    repl_hold_begin(c->client.hold, &c->options);
    while (client_await(&c->client, 5000) && c->client.last.kind == REPL_HOLD_HELD)
        continue;
    check(!c->client.last.intact);
    EXPECT_ORDER(c->both);
    c->options.budget_ms = 10000;
    for (enum victim victim = WORKER; victim <= BOTH; victim++) {
        until_held(c);
        kill_guard(victim);
        EXPECT(&c->client, REPL_HOLD_RELEASED);
        guard_wait();
        guard_restart();
        EXPECT_ORDER(c->both);
    }
    until_held(c);
    client_close(&c->client);
    EXPECT_ORDER(c->both);
    client_open(&c->client, shared->run);
}

static void commands_that_fail(struct commands *c)
{
    char failing[512], order[512];
    note("  a failing pre_command");
    snprintf(failing, sizeof failing, "echo failing >>%s/order; exit 3", shared->directory);
    snprintf(order, sizeof order, "failing post-%s", c->fs->type);
    c->options.pre_command = failing;
    gap_reset(c->fs);
    repl_hold_begin(c->client.hold, &c->options);
    EXPECT(&c->client, REPL_HOLD_FAILED);
    check(strstr(c->client.last.error.text, "status 3") != NULL);
    EXPECT_ORDER(order);
    c->options.pre_command = c->pre;
}

static bool hanging_lives(void)
{
    return sh("pgrep -x -f 'sleep 7531' >/dev/null") == 0;
}

static void commands_that_hang(struct commands *c)
{
    char hanging[512], order[512];
    note("  a hanging pre_command");
    snprintf(hanging, sizeof hanging, "echo hanging >>%s/order; sleep 7531 & wait",
             shared->directory);
    snprintf(order, sizeof order, "hanging post-%s", c->fs->type);
    c->options.pre_command = hanging;
    c->options.command_timeout_ms = 300;
    int64_t begin = repl_now_mono_ns();
    repl_hold_begin(c->client.hold, &c->options);
    EXPECT(&c->client, REPL_HOLD_FAILED);
    int64_t took_ms = (repl_now_mono_ns() - begin) / NS_PER_MS;
    check(took_ms >= 300 && took_ms < 1500);
    check(strstr(c->client.last.error.text, "after 300 ms") != NULL);
    EXPECT_ORDER(order);
    check(!hanging_lives());

    note("  a hanging pre_command, and the worker, or the agent, is killed");
    c->options.command_timeout_ms = 5000;
    repl_hold_begin(c->client.hold, &c->options);
    client_await(&c->client, 300);
    kill_guard(WORKER);
    EXPECT(&c->client, REPL_HOLD_FAILED);
    guard_wait();
    guard_restart();
    EXPECT_ORDER(order);
    check(!hanging_lives());
    repl_hold_begin(c->client.hold, &c->options);
    client_await(&c->client, 300);
    client_close(&c->client);
    EXPECT_ORDER(order);
    check(!hanging_lives());
}

void test_commands(struct filesystem *fs)
{
    struct commands c;
    note("%s: commands", fs->type);
    commands_begin(&c, fs);
    commands_around_a_freeze(&c);
    commands_may_be_ended(&c);
    commands_without_a_freeze(&c);
    commands_of_holds_cut_short(&c);
    commands_that_fail(&c);
    commands_that_hang(&c);
}

/* An agent that dies and is started again. */
void test_turns(struct filesystem *fs)
{
    struct client a, b;
    char slow[512], pre[512], post[512];
    note("%s: a hold waits for the post_command of one that was left behind", fs->type);
    sh_quiet("rm -f %s/order", shared->directory);
    snprintf(pre, sizeof pre, "echo pre >>%s/order", shared->directory);
    snprintf(post, sizeof post, "echo post >>%s/order", shared->directory);
    snprintf(slow, sizeof slow, "sleep 1; echo slow >>%s/order", shared->directory);
    struct repl_hold_options options = freeze_options(fs, 10000);
    options.pre_command = pre;
    for (int i = 0; i < 3; i++) {
        client_open(&a, shared->run);
        client_open(&b, shared->run);
        options.post_command = slow;
        repl_hold_begin(a.hold, &options);
        EXPECT(&a, REPL_HOLD_HELD);
        client_close(&a);
        options.post_command = post;
        repl_hold_begin(b.hold, &options);
        if (i == 0) {
            EXPECT(&b, REPL_HOLD_HELD);
            repl_hold_end(b.hold);
            EXPECT(&b, REPL_HOLD_RELEASED);
            check(b.last.intact);
            EXPECT_ORDER("pre slow pre post");
        }
        if (i == 1) {
            check(!client_await(&b, 300));
            repl_hold_end(b.hold);
            check(client_await(&b, 300));
            check(b.last.kind == REPL_HOLD_FAILED);
            EXPECT_ORDER("pre slow");
        }
        if (i == 2) {
            check(!client_await(&b, 300));
            kill(supervisor, SIGTERM);
            check(client_await(&b, 300));
            check(b.last.kind == REPL_HOLD_FAILED);
            guard_wait();
            guard_restart();
            EXPECT_ORDER("pre slow");
        }
        client_close(&b);
    }
}

/* The next guard does not wait for it, but a hold of the same volume does. */
void test_owed(struct filesystem *fs)
{
    struct client c;
    char slow[512], pre[512];
    note("%s: a post_command that a dead guard owes", fs->type);
    snprintf(pre, sizeof pre, "echo pre >>%s/order", shared->directory);
    snprintf(slow, sizeof slow, "sleep 2; echo slow >>%s/order", shared->directory);
    struct repl_hold_options options = freeze_options(fs, 10000);
    options.command_timeout_ms = 5000;
    options.pre_command = pre;
    options.post_command = slow;
    client_open(&c, shared->run);
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    kill_guard(BOTH);
    EXPECT(&c, REPL_HOLD_RELEASED);
    guard_wait();
    int64_t begin = repl_now_mono_ns();
    guard_restart();
    check(repl_now_mono_ns() - begin < 1500 * NS_PER_MS);
    options.post_command = NULL;
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    EXPECT_ORDER("pre slow pre");
    client_close(&c);
}
