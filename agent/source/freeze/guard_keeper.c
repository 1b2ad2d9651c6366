/*
 * One connection, one thread, one hold at a time, and one of a volume at a
 * time, post_command included; of a filesystem one at a time, until the thaw:
 *
 *     REQUEST -> the volume's turn -> mounts found, their turn, PREPARED -> pre_command
 *             -> written back -> freeze -> HELD
 *             -> END, or the deadline, or a connection that closed, or a stop
 *             -> thaw -> RELEASED -> post_command -> DONE
 *
 * FIFREEZE writes back what is dirty before it returns, cannot be interrupted,
 * and lets writers wait meanwhile. So what is dirty is written back before, with
 * a limit of its own, while writers go on; and FIFREEZE has a thread of its own for each
 * filesystem, and the time counts from its call: what is frozen at the deadline
 * is thawed, and what FIFREEZE freezes later is thawed by that thread at once.
 *
 * From the call of FIFREEZE to the thaw nothing here allocates, logs, opens or
 * takes a lock: threads, descriptors and packets are ready before. What the
 * kernel has to allocate for a poll or a packet it must not wait for a
 * filesystem for (PR_SET_IO_FLUSHER).
 */
#include <errno.h>
#include <linux/fs.h>
#include <linux/prctl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "control/control.h"
#include "loop/loop.h"
#include "source/freeze/guard_command.h"
#include "source/freeze/guard_internal.h"

#define NS_PER_MS         INT64_C(1000000)
#define THREAD_STACK_SIZE (256u << 10)
#define SETTLE_TRIES      500
#define SYNC_LONGEST_MS   10000u
#define TURN_LOOK_NS      (20 * NS_PER_MS)

struct freezer {
    struct guard_keeper *keeper;
    struct repl_freeze_entry *entry;
    int fd;
    pthread_t thread;
    sem_t go;                  /* twice: to write back, and to freeze */
    atomic_bool cancelled;     /* before go: nothing is to be frozen */
    _Atomic int64_t frozen_ns; /* when FIFREEZE returned */
    _Atomic int os_errno;      /* of FIFREEZE */
    _Atomic bool late;         /* it returned after the hold had been given up */
};

enum hold_end {
    HOLD_GOES_ON,
    HOLD_ASKED,
    HOLD_DEADLINE,
    HOLD_CLIENT_GONE,
    HOLD_STOPPED,
    HOLD_NOT_FROZEN, /* a FIFREEZE failed */
    HOLD_NOT_SYNCED, /* nothing was frozen: there was too much to write back */
};

struct guard_keeper {
    struct guard *guard;
    struct repl_guard_slot *slot;
    unsigned slot_index;
    int connection;
    int peer_fd;   /* pidfd of the agent; -1: none */
    bool broken;   /* it is of no more use */
    int frozen_fd; /* eventfd: a freezer has come back */
    pthread_t thread;
    atomic_bool ended;

    struct repl_guard_request request;
    char who[GUARD_WHO_SIZE]; /* it is about */
    uint64_t hold;
    struct repl_freeze_set set;
    struct freezer freezers[REPL_GUARD_MOUNTS_MAX];
    unsigned freezer_count;
    _Atomic unsigned syncing, freezing;
    atomic_bool given_up; /* what a freezer freezes from now on it thaws at once */
    enum hold_end end;
    int64_t begin_ns, deadline_ns, thawed_ns;
    bool interrupted; /* a thaw of ours found nothing frozen */
    union repl_guard_packet in, held;
};

/* --- packets --------------------------------------------------------------------------------- */

static void packet_send(struct guard_keeper *k, const union repl_guard_packet *packet)
{
    size_t size = repl_guard_packet_size((enum repl_guard_kind)packet->header.kind);
    if (send(k->connection, packet, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size)
        k->broken = true;
}

static void outcome_send(struct guard_keeper *k, enum repl_guard_kind kind, bool intact,
                         const struct repl_error *err)
{
    union repl_guard_packet packet;
    repl_guard_packet_init(&packet, kind);
    packet.outcome.stall_ns = k->thawed_ns > k->begin_ns ? k->thawed_ns - k->begin_ns : 0;
    packet.outcome.intact = intact ? 1 : 0;
    packet.outcome.code = intact ? REPL_OK : err->code;
    if (!intact)
        repl_guard_text_set(packet.outcome.text, sizeof packet.outcome.text, err->text);
    packet_send(k, &packet);
}

static void prepared_send(struct guard_keeper *k)
{
    union repl_guard_packet packet;
    union {
        char bytes[CMSG_SPACE((REPL_GUARD_MOUNTS_MAX + 1) * sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    repl_guard_packet_init(&packet, REPL_GUARD_PREPARED);
    packet.prepared.hold = k->hold;
    packet.prepared.slot = k->slot_index;
    packet.prepared.mount_count = (uint32_t)k->set.count;
    struct iovec vec = {.iov_base = &packet, .iov_len = sizeof packet.prepared};
    size_t size = (k->set.count + 1) * sizeof(int);
    struct msghdr message = {.msg_iov = &vec,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(size)};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(size);
    int fds[REPL_GUARD_MOUNTS_MAX + 1] = {k->guard->record.fd};
    for (size_t i = 0; i < k->set.count; i++)
        fds[i + 1] = k->set.mounts[i].fd;
    memcpy(CMSG_DATA(rights), fds, size);
    if (sendmsg(k->connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT) !=
        (ssize_t)sizeof packet.prepared)
        k->broken = true;
}

/* What a readable connection means for a hold. */
static enum hold_end connection_read(struct guard_keeper *k)
{
    ssize_t got = recv(k->connection, &k->in, sizeof k->in, MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return HOLD_GOES_ON;
    if (got > 0 && repl_ok(repl_guard_packet_check(&k->in, (size_t)got, true, NULL)) &&
        k->in.header.kind == REPL_GUARD_END)
        return HOLD_ASKED;
    k->broken = true;
    return HOLD_CLIENT_GONE;
}

/* --- freezers -------------------------------------------------------------------------------- */

static void event_raise(int fd)
{
    const uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof one);
    (void)written; /* cannot fail before 2^64 - 1 of them */
}

/* False: cancelled. */
static bool freezer_go(struct freezer *f)
{
    while (sem_wait(&f->go) != 0)
        continue;
    return !atomic_load(&f->cancelled);
}

static void *freezer_main(void *context)
{
    struct freezer *f = context;
    struct guard_keeper *k = f->keeper;
    if (!freezer_go(f))
        return NULL;
    syncfs(f->fd); /* only so that FIFREEZE has little left to do */
    atomic_fetch_sub(&k->syncing, 1);
    event_raise(k->frozen_fd);
    if (!freezer_go(f))
        return NULL;
    int rc = ioctl(f->fd, FIFREEZE, 0);
    atomic_store(&f->os_errno, rc != 0 ? errno : 0);
    atomic_store(&f->frozen_ns, repl_now_mono_ns());
    if (rc != 0) {
        repl_freeze_step(f->entry, k->hold, REPL_FREEZE_FREEZING, REPL_FREEZE_IDLE);
    } else if (!repl_freeze_step(f->entry, k->hold, REPL_FREEZE_FREEZING, REPL_FREEZE_FROZEN)) {
        ioctl(f->fd, FITHAW, 0); /* somebody took us for dead, and nobody else will */
        atomic_store(&f->late, true);
    } else if (atomic_load(&k->given_up)) {
        /* The keeper gives up first and thaws then, so one of the two sees it. */
        atomic_store(&f->late, repl_freeze_thaw(f->entry, k->hold, f->fd) >= 0);
    }
    atomic_fetch_sub(&k->freezing, 1);
    event_raise(k->frozen_fd);
    return NULL;
}

static void freezers_end(struct guard_keeper *k)
{
    for (unsigned i = 0; i < k->freezer_count; i++) {
        pthread_join(k->freezers[i].thread, NULL);
        sem_destroy(&k->freezers[i].go);
    }
    k->freezer_count = 0;
}

/* One that writes back ends when it has. */
static void freezers_tell(struct guard_keeper *k)
{
    for (unsigned i = 0; i < k->freezer_count; i++) {
        atomic_store(&k->freezers[i].cancelled, true);
        sem_post(&k->freezers[i].go);
    }
}

static void freezers_cancel(struct guard_keeper *k)
{
    freezers_tell(k);
    freezers_end(k);
}

/* 0 or an errno. */
static int thread_start(pthread_t *thread, void *(*main)(void *), void *context)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_SIZE);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(thread, &attributes, main, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed;
}

static repl_result freezers_start(struct guard_keeper *k, struct repl_error *err)
{
    k->freezer_count = 0;
    for (size_t i = 0; i < k->set.count; i++) {
        struct freezer *f = &k->freezers[i];
        *f = (struct freezer){.keeper = k, .entry = &k->slot->mounts[i], .fd = k->set.mounts[i].fd};
        sem_init(&f->go, 0, 0);
        int failed = thread_start(&f->thread, freezer_main, f);
        if (failed != 0) {
            sem_destroy(&f->go);
            freezers_cancel(k);
            return repl_fail_errno(err, REPL_E_NOMEM, failed, "a thread for the freeze");
        }
        k->freezer_count++;
    }
    return REPL_SUCCESS;
}

/* --- the freeze ------------------------------------------------------------------------------ */

static void thaw_all(struct guard_keeper *k)
{
    atomic_store(&k->given_up, true);
    for (size_t i = 0; i < k->set.count; i++) {
        int failed = repl_freeze_thaw(&k->slot->mounts[i], k->hold, k->set.mounts[i].fd);
        /* -1: not frozen yet, or the supervisor has done it */
        if (failed != 0)
            k->interrupted = true;
    }
    k->thawed_ns = repl_now_mono_ns();
}

/* Before the descriptors are closed: what the supervisor has claimed it must also have thawed. */
static void thaw_settle(struct guard_keeper *k)
{
    for (size_t i = 0; i < k->set.count; i++) {
        struct repl_freeze_entry *entry = &k->slot->mounts[i];
        const uint64_t thawing = repl_freeze_word(k->hold, REPL_FREEZE_THAWING);
        for (int tries = 0; tries < SETTLE_TRIES && atomic_load(&entry->word) == thawing; tries++)
            nanosleep(&(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
        if (repl_freeze_thaw_left(entry, k->hold, k->set.mounts[i].fd))
            k->thawed_ns = repl_now_mono_ns();
    }
}

/* Waits for one of: a message, a stop, a freezer's return, the deadline. */
static enum hold_end wait_once(struct guard_keeper *k)
{
    struct pollfd fds[] = {{.fd = k->connection, .events = POLLIN},
                           {.fd = k->guard->stop_fd, .events = POLLIN},
                           {.fd = k->frozen_fd, .events = POLLIN},
                           {.fd = k->peer_fd, .events = POLLIN}};
    int64_t left_ns = k->deadline_ns - repl_now_mono_ns();
    struct timespec left = {0};
    if (left_ns > 0)
        left = (struct timespec){.tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000};
    if (ppoll(fds, sizeof fds / sizeof fds[0], &left, NULL) < 0)
        return HOLD_GOES_ON;
    if (fds[2].revents != 0) {
        uint64_t count;
        ssize_t got = read(k->frozen_fd, &count, sizeof count);
        (void)got;
    }
    if (fds[0].revents != 0) {
        enum hold_end end = connection_read(k);
        if (end != HOLD_GOES_ON)
            return end;
    }
    if (fds[3].revents != 0) {
        k->broken = true;
        return HOLD_CLIENT_GONE;
    }
    if (fds[1].revents != 0)
        return HOLD_STOPPED;
    return left_ns <= 0 ? HOLD_DEADLINE : HOLD_GOES_ON;
}

static bool freeze_failed(const struct guard_keeper *k)
{
    for (unsigned i = 0; i < k->freezer_count; i++) {
        if (atomic_load(&k->freezers[i].os_errno) != 0)
            return true;
    }
    return false;
}

static int64_t frozen_last_ns(const struct guard_keeper *k)
{
    int64_t last = k->begin_ns;
    for (unsigned i = 0; i < k->freezer_count; i++) {
        int64_t at = atomic_load(&k->freezers[i].frozen_ns);
        last = at > last ? at : last;
    }
    return last;
}

static uint32_t sync_limit_ms(const struct guard_keeper *k)
{
    uint32_t limit_ms = k->request.command_timeout_ms;
    return limit_ms < SYNC_LONGEST_MS ? limit_ms : SYNC_LONGEST_MS;
}

/* Until all is written back, or the hold has ended: then the freezers are left to end by
 * themselves. */
static void sync_run(struct guard_keeper *k)
{
    k->deadline_ns = repl_now_mono_ns() + sync_limit_ms(k) * NS_PER_MS;
    atomic_store(&k->syncing, k->freezer_count);
    for (unsigned i = 0; i < k->freezer_count; i++)
        sem_post(&k->freezers[i].go);
    while (k->end == HOLD_GOES_ON && atomic_load(&k->syncing) > 0)
        k->end = wait_once(k);
    if (k->end == HOLD_DEADLINE)
        k->end = HOLD_NOT_SYNCED;
    if (k->end != HOLD_GOES_ON)
        freezers_tell(k);
}

/* From here to the end of freeze_run: no allocation, no log, no file. */
static void freeze_begin(struct guard_keeper *k)
{
    for (size_t i = 0; i < k->set.count; i++)
        repl_freeze_step(&k->slot->mounts[i], k->hold, REPL_FREEZE_IDLE, REPL_FREEZE_FREEZING);
    k->begin_ns = repl_now_mono_ns();
    k->deadline_ns = k->begin_ns + k->request.budget_ms * NS_PER_MS;
    atomic_store(&k->slot->deadline_ns, k->deadline_ns);
    event_raise(k->guard->watch_fd);
    atomic_store(&k->freezing, k->freezer_count);
    for (unsigned i = 0; i < k->freezer_count; i++)
        sem_post(&k->freezers[i].go);
}

/* Until all is frozen, or the hold has ended. */
static void freeze_await(struct guard_keeper *k)
{
    while (k->end == HOLD_GOES_ON && atomic_load(&k->freezing) > 0) {
        k->end = wait_once(k);
        if (k->end == HOLD_GOES_ON && freeze_failed(k))
            k->end = HOLD_NOT_FROZEN;
    }
    if (k->end == HOLD_GOES_ON && freeze_failed(k))
        k->end = HOLD_NOT_FROZEN;
    if (k->end == HOLD_GOES_ON && frozen_last_ns(k) > k->deadline_ns)
        k->end = HOLD_DEADLINE;
}

static void held_send(struct guard_keeper *k)
{
    k->held.held.begin_ns = k->begin_ns;
    k->held.held.took_ns = frozen_last_ns(k) - k->begin_ns;
    packet_send(k, &k->held);
    if (k->broken)
        k->end = HOLD_CLIENT_GONE;
    while (k->end == HOLD_GOES_ON)
        k->end = wait_once(k);
}

/* True: HELD was sent. */
static bool freeze_run(struct guard_keeper *k)
{
    sync_run(k);
    if (k->end != HOLD_GOES_ON)
        return false;
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    freeze_begin(k);
    freeze_await(k);
    bool held = k->end == HOLD_GOES_ON;
    if (held)
        held_send(k);
    thaw_all(k);
    prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
    freezers_end(k);
    for (size_t i = 0; i < k->set.count; i++) {
        if (atomic_load(&k->freezers[i].late))
            k->thawed_ns = repl_now_mono_ns();
    }
    thaw_settle(k);
    atomic_store(&k->slot->deadline_ns, 0);
    return held;
}

/* A hold of commands alone. */
static bool window_run(struct guard_keeper *k)
{
    k->begin_ns = repl_now_mono_ns();
    k->deadline_ns = k->begin_ns + k->request.budget_ms * NS_PER_MS;
    held_send(k);
    k->thawed_ns = k->begin_ns; /* nobody waited */
    return true;
}

/* --- what came of it ------------------------------------------------------------------------- */

static repl_result not_frozen(const struct guard_keeper *k, struct repl_error *err)
{
    for (unsigned i = 0; i < k->set.count; i++) {
        const struct repl_freeze_mount *mount = &k->set.mounts[i];
        int os_errno = atomic_load(&k->freezers[i].os_errno);
        if (os_errno == EBUSY)
            return repl_fail(err, REPL_E_LOCKED,
                             "the filesystem at %s has been frozen by somebody else, and was left "
                             "as it is: a snapshot or backup may be under way; if nobody needs it, "
                             "fsfreeze --unfreeze %s",
                             mount->where, mount->where);
        if (os_errno == EOPNOTSUPP)
            return repl_fail(err, REPL_E_REFUSED,
                             "the filesystem at %s (%s) cannot be frozen: set quiesce = window for "
                             "the volume",
                             mount->where, mount->type);
        if (os_errno != 0)
            return repl_fail_errno(err, REPL_E_IO, os_errno,
                                   "the filesystem at %s cannot be frozen", mount->where);
    }
    return repl_fail(err, REPL_E_INTERNAL, "a filesystem was not frozen");
}

static repl_result over_budget(const struct guard_keeper *k, bool held, struct repl_error *err)
{
    if (!k->request.freeze)
        return repl_fail(err, REPL_E_RETRY, "%s was not done after %u ms, so post_command runs now",
                         k->who, k->request.budget_ms);
    return repl_fail(
        err, REPL_E_RETRY,
        "OVER BUDGET: %s took longer than %u ms, so the filesystem goes on and the point is given "
        "up; raise freeze_budget, or set quiesce = window for %s",
        held ? "the freeze" : "freezing (the filesystem's own flush)", k->request.budget_ms,
        k->who);
}

static repl_result hold_judge(const struct guard_keeper *k, bool held, struct repl_error *err)
{
    switch (k->end) {
    case HOLD_ASKED:
        if (!held)
            return repl_fail(err, REPL_E_RETRY, "given up by the agent before it held");
        if (k->request.freeze && k->interrupted)
            return repl_fail(err, REPL_E_RETRY,
                             "a filesystem of %s was thawed by somebody else in the middle of the "
                             "freeze",
                             k->who);
        return REPL_SUCCESS;
    case HOLD_DEADLINE:
        return over_budget(k, held, err);
    case HOLD_CLIENT_GONE:
        return repl_fail(err, REPL_E_RETRY, "the agent closed its connection");
    case HOLD_STOPPED:
        return repl_fail(err, REPL_E_RETRY, "the freeze guard is being stopped");
    case HOLD_NOT_FROZEN:
        return not_frozen(k, err);
    case HOLD_NOT_SYNCED:
        return repl_fail(err, REPL_E_RETRY,
                         "%s was not frozen: it had more to write back than it could in %u ms; if "
                         "that goes on, set quiesce = window",
                         k->who, sync_limit_ms(k));
    case HOLD_GOES_ON:
        break;
    }
    return repl_fail(err, REPL_E_INTERNAL, "a hold ended without a reason");
}

static void hold_report(struct guard_keeper *k, bool held, repl_result result,
                        const struct repl_error *err)
{
    bool intact = held && repl_ok(result);
    outcome_send(k, held ? REPL_GUARD_RELEASED : REPL_GUARD_FAILED, intact, err);
    if (!intact && (k->end != HOLD_ASKED || held))
        repl_log(LOG_WARNING, "%s: %s%s (%.1f ms from the begin of the freeze to the thaw)", k->who,
                 err->text, k->end == HOLD_CLIENT_GONE ? ": thawed" : "",
                 (double)(k->thawed_ns - k->begin_ns) / 1e6);
}

/* --- commands -------------------------------------------------------------------------------- */

static repl_result pre_run(struct guard_keeper *k, struct repl_error *err)
{
    const struct repl_guard_command command = {
        .what = "pre_command",
        .text = k->request.pre_command,
        .volume = k->request.volume,
        .timeout_ms = k->request.command_timeout_ms,
        .pid = &k->slot->command_pid,
    };
    const int cancel_fds[REPL_GUARD_CANCEL_FDS] = {k->connection, k->guard->stop_fd};
    atomic_store(&k->slot->post_owed, 1);
    if (command.text[0] == '\0')
        return REPL_SUCCESS;
    return repl_guard_command_run(&command, cancel_fds, err);
}

repl_result guard_post_run(struct repl_guard_slot *slot, struct repl_error *err)
{
    const struct repl_guard_command command = {
        .what = "post_command",
        .text = slot->post_command,
        .volume = slot->volume,
        .timeout_ms = slot->command_timeout_ms,
        .pid = &slot->command_pid,
    };
    const int no_fds[REPL_GUARD_CANCEL_FDS] = {-1, -1};
    repl_result result = REPL_SUCCESS;
    if (atomic_load(&slot->post_owed) == 1 && command.text[0] != '\0')
        result = repl_guard_command_run(&command, no_fds, err);
    atomic_store(&slot->post_owed, 0);
    if (!repl_ok(result))
        repl_log(LOG_ERR, "%s", err->text);
    return result;
}

/* --- turns ----------------------------------------------------------------------------------- */

static bool volume_turn(struct guard_keeper *k)
{
    return guard_turn_take(k->slot_index, k->who);
}

static bool freeze_turn(struct guard_keeper *k)
{
    return guard_turn_freeze(k->slot_index, &k->set);
}

static repl_result turn_await(struct guard_keeper *k, bool (*take)(struct guard_keeper *),
                              struct repl_error *err)
{
    while (!take(k)) {
        k->deadline_ns = repl_now_mono_ns() + TURN_LOOK_NS;
        enum hold_end end = wait_once(k);
        if (end != HOLD_GOES_ON && end != HOLD_DEADLINE) {
            k->end = end;
            return hold_judge(k, false, err);
        }
    }
    return REPL_SUCCESS;
}

static void post_run(struct guard_keeper *k)
{
    union repl_guard_packet packet;
    struct repl_error err = {0};
    guard_turn_thawed(k->slot_index);
    repl_guard_packet_init(&packet, REPL_GUARD_DONE);
    packet.done.code = guard_post_run(k->slot, &err).code;
    repl_guard_text_set(packet.done.text, sizeof packet.done.text, err.text);
    freezers_end(k); /* what still writes back */
    repl_freeze_set_close(&k->set);
    atomic_store(&k->slot->hold, 0);
    guard_turn_end(k->slot_index);
    packet_send(k, &packet);
}

/* --- the hold -------------------------------------------------------------------------------- */

static repl_result set_open(struct guard_keeper *k, struct repl_error *err)
{
    const struct repl_guard_request *request = &k->request;
    dev_t devices[1 + REPL_GUARD_OTHERS_MAX] = {request->device};
    for (uint32_t i = 0; i < request->other_count; i++)
        devices[1 + i] = request->others[i];
    return repl_freeze_set_open(devices, 1 + request->other_count, k->guard->protects,
                                k->guard->protect_count, &k->set, err);
}

static repl_result hold_prepare(struct guard_keeper *k, struct repl_error *err)
{
    if (k->request.freeze) {
        REPL_TRY(set_open(k, err));
        REPL_TRY(turn_await(k, freeze_turn, err));
        prepared_send(k);
    }
    if (k->broken)
        return repl_fail(err, REPL_E_RETRY, "the agent closed its connection");
    return freezers_start(k, err);
}

static void who_set(struct guard_keeper *k, const char *kind, const char *name)
{
    snprintf(k->who, sizeof k->who, "%s %.*s", kind, (int)REPL_GUARD_VOLUME_SIZE - 1, name);
}

static void slot_fill(struct guard_keeper *k)
{
    struct repl_guard_slot *slot = k->slot;
    k->hold = atomic_fetch_add(&k->guard->record.table->last_hold, 1) + 1;
    memcpy(slot->volume, k->request.volume, sizeof slot->volume);
    memcpy(slot->post_command, k->request.post_command, sizeof slot->post_command);
    slot->command_timeout_ms = k->request.command_timeout_ms;
    atomic_store(&slot->post_owed, 0);
}

static void slot_mounts(struct guard_keeper *k)
{
    struct repl_guard_slot *slot = k->slot;
    slot->mount_count = (uint32_t)k->set.count;
    for (size_t i = 0; i < k->set.count; i++) {
        slot->mounts[i].device = k->set.mounts[i].device;
        slot->mounts[i].fd = k->set.mounts[i].fd;
        atomic_store(&slot->mounts[i].word, repl_freeze_word(k->hold, REPL_FREEZE_IDLE));
    }
    atomic_store(&slot->hold, k->hold);
}

/* The part that post_command follows. */
static void hold_run(struct guard_keeper *k)
{
    struct repl_error err = {0};
    slot_mounts(k);
    repl_result result = pre_run(k, &err);
    if (!repl_ok(result)) {
        freezers_cancel(k);
        repl_log(LOG_WARNING, "%s", err.text);
        outcome_send(k, REPL_GUARD_FAILED, false, &err);
        return;
    }
    repl_guard_packet_init(&k->held, REPL_GUARD_HELD);
    bool held = k->request.freeze ? freeze_run(k) : window_run(k);
    result = hold_judge(k, held, &err);
    hold_report(k, held, result, &err);
}

static void request_serve(struct guard_keeper *k)
{
    struct repl_error err = {0};
    k->request = k->in.request;
    k->end = HOLD_GOES_ON;
    k->interrupted = false;
    k->begin_ns = k->thawed_ns = 0;
    k->set.count = 0;
    k->freezer_count = 0;
    atomic_store(&k->given_up, false);
    who_set(k, k->request.group ? "group" : "volume", k->request.volume);
    slot_fill(k);
    if (!repl_ok(turn_await(k, volume_turn, &err)) || !repl_ok(hold_prepare(k, &err))) {
        repl_log(LOG_WARNING, "%s: %s", k->who, err.text);
        outcome_send(k, REPL_GUARD_FAILED, false, &err);
    } else {
        hold_run(k);
    }
    if (k->freezer_count == 0)
        repl_freeze_set_close(&k->set);
    post_run(k);
}

/* --- the connection -------------------------------------------------------------------------- */

/* False: the connection or the guard ends. */
static bool request_await(struct guard_keeper *k)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = k->connection, .events = POLLIN},
                               {.fd = k->guard->stop_fd, .events = POLLIN}};
        struct repl_error err;
        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[1].revents != 0)
            return false;
        ssize_t got = recv(k->connection, &k->in, sizeof k->in, MSG_DONTWAIT | MSG_TRUNC);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (got <= 0)
            return false;
        if (!repl_ok(repl_guard_packet_check(&k->in, (size_t)got, true, &err))) {
            repl_log(LOG_ERR, "%s: the connection is closed", err.text);
            return false;
        }
        if (k->in.header.kind == REPL_GUARD_REQUEST)
            return true;
        /* an END that crossed with the end */
    }
}

static void *keeper_main(void *context)
{
    struct guard_keeper *k = context;
    guard_hurry();
    while (!k->broken && request_await(k))
        request_serve(k);
    atomic_store(&k->slot->connection, -1);
    shutdown(k->connection, SHUT_RDWR);
    atomic_store(&k->ended, true);
    event_raise(k->guard->ended_fd);
    return NULL;
}

static void *leftover_main(void *context)
{
    struct guard_keeper *k = context;
    struct repl_error err;
    repl_log(LOG_WARNING, "volume %s: running the post_command that is still owed",
             k->slot->volume);
    repl_ignore(guard_post_run(k->slot, &err)); /* it has been logged */
    atomic_store(&k->slot->hold, 0);
    guard_turn_end(k->slot_index);
    atomic_store(&k->ended, true);
    event_raise(k->guard->ended_fd);
    return NULL;
}

/* The kernel may hold on to the socket of an agent that is dead, on behalf of its io_uring: its
 * process tells sooner. */
static int peer_open(int connection)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0)
        return -1;
    return (int)syscall(SYS_pidfd_open, peer.pid, 0);
}

repl_result guard_keeper_new(struct guard *guard, int connection, unsigned slot,
                             struct guard_keeper **out, struct repl_error *err)
{
    struct guard_keeper *k = calloc(1, sizeof *k);
    int frozen_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int failed = k == NULL ? ENOMEM : frozen_fd < 0 ? errno : 0;
    if (failed == 0) {
        k->peer_fd = peer_open(connection);
        k->guard = guard;
        k->slot = &guard->record.table->slots[slot];
        k->slot_index = slot;
        k->connection = connection;
        k->frozen_fd = frozen_fd;
        atomic_store(&k->slot->connection, connection);
        /* of one volume one hold was on, so the turn is free */
        if (connection < 0) {
            who_set(k, "volume", k->slot->volume);
            guard_turn_take(slot, k->who);
        }
        failed = thread_start(&k->thread, connection < 0 ? leftover_main : keeper_main, k);
        if (failed != 0)
            guard_turn_end(slot);
    }
    if (failed == 0) {
        *out = k;
        return REPL_SUCCESS;
    }
    if (k != NULL && k->slot != NULL)
        atomic_store(&k->slot->connection, -1);
    if (k != NULL && k->slot != NULL && k->peer_fd >= 0)
        close(k->peer_fd);
    if (frozen_fd >= 0)
        close(frozen_fd);
    free(k);
    return repl_fail_errno(err, REPL_E_NOMEM, failed, "a thread for a connection");
}

bool guard_keeper_has_ended(const struct guard_keeper *keeper)
{
    return atomic_load(&keeper->ended);
}

void guard_keeper_free(struct guard_keeper *keeper)
{
    pthread_join(keeper->thread, NULL);
    if (keeper->connection >= 0)
        close(keeper->connection);
    close(keeper->frozen_fd);
    if (keeper->peer_fd >= 0)
        close(keeper->peer_fd);
    free(keeper);
}
