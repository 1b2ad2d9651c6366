/*
 * Signs of life, from TCP_INFO.
 *
 * A host that is gone and a site that takes its time look the same to the
 * program: no byte moves. To the kernel they differ. Data that was sent is
 * acknowledged within a round trip by a host that lives, however busy its
 * program or slow its disk is, and a quiet connection is probed (keepalive) and
 * the probe answered. So the other end is gone when something was owed to us
 * the whole time, at every look, and not a single packet came. On a slow line
 * what is under way is acknowledged piece by piece, and each piece counts.
 *
 * Not owed is what a closed window holds back: a site that cannot take more
 * (its disk is slow) says so, and is then asked ever more rarely, up to every
 * two minutes, by probes or by the packets that it had to drop; of those it
 * leaves some unanswered, and one that is lost is a long silence. That is why
 * TCP_USER_TIMEOUT is set at neither end: to it a window that stays closed is
 * the same as a line that is cut. A connection with a closed window cannot be
 * judged by itself; client.c judges it by the others to the same site.
 */
#include "link/pulse.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define NS_PER_MS INT64_C(1000000)

/* 2 + 7 * 1 s. A probe is a packet without data; traffic of any kind makes it superfluous. */
#define KEEPALIVE_IDLE_S     2
#define KEEPALIVE_INTERVAL_S 1
#define KEEPALIVE_COUNT      7

void link_pulse_keep(int fd)
{
    const int on = 1, idle_s = KEEPALIVE_IDLE_S, interval_s = KEEPALIVE_INTERVAL_S,
              count = KEEPALIVE_COUNT;
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

/* Data or a probe is out, or could not even leave because the local interface is down (it then
 * counts as a probe), and the window is open. A kernel that does not tell the window (before 5.4)
 * leaves it at 0: what is left is keepalive. */
static bool is_owed(const struct tcp_info *info)
{
    return info->tcpi_snd_wnd > 0 && (info->tcpi_unacked > 0 || info->tcpi_probes > 0);
}

void link_pulse_look(struct link_pulse *pulse, int fd, int64_t now_ns)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    memset(&info, 0, sizeof info); /* an older kernel fills less of it */
    int64_t heard_ns = now_ns;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0) {
        /* An acknowledgement; data that came along with none is told apart. */
        uint32_t age_ms = info.tcpi_last_ack_recv < info.tcpi_last_data_recv
                              ? info.tcpi_last_ack_recv
                              : info.tcpi_last_data_recv;
        heard_ns = now_ns - age_ms * NS_PER_MS;
    }
    if (pulse->looked_ns == 0 || heard_ns > pulse->looked_ns || !is_owed(&info))
        pulse->owed_ns = now_ns;
    pulse->heard_ns = heard_ns;
    pulse->looked_ns = now_ns;
}

bool link_pulse_is_gone(const struct link_pulse *pulse, int64_t now_ns, int64_t limit_ns)
{
    return pulse->looked_ns != 0 && now_ns - pulse->owed_ns >= limit_ns;
}
