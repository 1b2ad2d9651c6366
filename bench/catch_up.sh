#!/bin/bash
# How fast the points that were spooled while the link was down reach the site over a long line:
# POINTS of them, each of some changed pages, with DELAY milliseconds each way (bench/delay.c). And
# the first copy of a device over that line.
#
#   REPL=build/release/repl bench/catch_up.sh [DELAY [POINTS]]     as root; 25, 40: about 2 minutes
. "${0%/*}/../tests/integration/functions.sh"
requires_root
requires_loop
requires_tool jq
delay=${1:-25} points=${2:-40}
tool=$workdir/delay
run cc -O2 -Wall -D_GNU_SOURCE -o "$tool" "${0%/*}/delay.c"
now_ms() { date +%s%3N; }
line_up() {
    "$tool" "$((port + 1))" "$port" "$delay" 2>>"$workdir/bench.log" &
    test_pids[5]=$!
}
line_cut() { stop_pid "${test_pids[5]}"; test_pids[5]=; }

make_keys
make_loop "$workdir/disk" 512M
disk=$loop
tar cf - -C / usr/lib usr/bin usr/share 2>/dev/null | head -c 256M |
    dd of="$disk" bs=1M iflag=fullblock oflag=direct status=none
write_site_config data
write_agent_config "data=$disk"
sed -i "s/^address = .*/address = 127.0.0.1:$((port + 1))/" "$workdir/agent.conf"
start_site
line_up
begun=$(now_ms)
start_agent
at_site() { [ "$(site_value data .point.seq)" -ge "$1" ] 2>/dev/null; }
wait_for 300 "the first point" at_site 1
copied=$(($(now_ms) - begun))

for size in ${SIZES:-64k 4M}; do
    line_cut
    base=$(site_value data .point.seq)
    for _ in $(seq $((points * 4))); do # a point a second, changes four times as often
        dd if=/dev/urandom of="$disk" bs="$size" count=1 seek=$((RANDOM % 64)) oflag=direct \
            conv=notrunc status=none
        sleep 0.25
    done
    sleep 2
    spooled=$(find "$workdir/state/volumes/data/spool" -name '*.seg' | wc -l)
    bytes=$(find "$workdir/state/volumes/data/spool" -name '*.seg' -printf '%s\n' | awk '{ n += $1 } END { print n }')
    line_up
    wait_for 60 "the link is back" at_site $((base + 1))
    first=$(now_ms) from=$(site_value data .point.seq)
    last=$((base + spooled))
    until at_site "$last"; do sleep 0.02; done
    took=$(($(now_ms) - first))
    awk -v s="$size" -v n="$spooled" -v b="$bytes" -v f=$((last - from)) -v t="$took" -v d="$delay" 'BEGIN {
        printf "writes of %-4s  %d segments, %.1f MiB; the last %d in %.2f s: %.0f ms each, delay %d ms each way\n",
               s, n, b / 1048576, f, t / 1000, t / (f > 0 ? f : 1), d }'
done
awk -v c="$copied" 'BEGIN { printf "first copy: %.1f s\n", c / 1000 }'
