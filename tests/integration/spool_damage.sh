#!/bin/bash
# A segment rots in the spool while the agent runs, and the disk under the spool gets full. The volume
# stays open both times, says what is wrong, and the site has everything in the end.
. "${0%/*}/functions.sh"

raw_volume 64M
mkdir "$workdir/state"
make_mount tmpfs "$workdir/state" -t tmpfs -o size=24M
start_site
start_agent
wait_replicated raw 60

spool=$workdir/state/volumes/raw/spool
scatter() { # COUNT: pages, anywhere
    run dd if=/dev/urandom of="$disk" bs=4k count="$1" seek=$((RANDOM % 14000)) oflag=direct conv=notrunc status=none
}
equal() {
    raw_equal "$1"
    raw_not_compared "$1"
}
stayed_open() {
    if grep -q "trying again in" "$workdir/agent.log"; then fail "$1: the volume was closed"; fi
}

note "a segment rots in the spool"
stop_site
for _ in $(seq 40); do
    [ "$(raw_segments)" -ge 3 ] && break
    scatter 8
    sleep 0.5
done
damaged=$(find "$spool" -name '*.seg' | sort | head -n 1)
half=$(($(stat -c %s "$damaged") / 2))
cp "$damaged" "$workdir/whole"
printf '\x00\xff\x00' | dd of="$damaged" bs=1 seek=$half conv=notrunc status=none
start_site
equal "rotten"
grep -q "${damaged##*/}: .*check the disk of \[agent\] state" "$workdir/agent.log" || fail "it is not said where"
grep "points that the site did not have yet were lost" "$workdir/agent.log" || fail "the loss is not said"
stayed_open "rotten"
last=$(find "$workdir/store/volumes/raw/segments" -name '*.seg' | sort | while read -r segment; do
    "$REPL" inspect "$segment"
done | tee "$workdir/inspect.log" | grep -c merged)
[ "$last" -ge 1 ] || fail "the times of the points that were lost are in no segment"

note "the disk under the spool is full"
stop_site
scatter 8
sleep 2
dd if=/dev/zero of="$workdir/state/filler" bs=64k status=none 2>/dev/null
cut_before=$(agent_value raw .points)
scatter 500
is_full() { [ "$(agent_value raw .state)" = failed ] && agent_value raw .cause | grep -q "no room for the spool"; }
wait_for 20 "the state names the full disk" is_full
scatter 500
sleep 3
is_full || fail "the state is $(agent_value raw .state): $(agent_value raw .cause)"
stayed_open "full"
read_before=$(awk '{ print $3 }' "/sys/block/${disk##*/}/stat")
sleep 5
read_after=$(awk '{ print $3 }' "/sys/block/${disk##*/}/stat")
[ $((read_after - read_before)) -lt 2000 ] || fail "the device is read again and again while nothing can be kept"
note "$(agent_value raw .points) points cut, $cut_before before"
rm "$workdir/state/filler"
has_room() { [ "$(agent_value raw .state)" != failed ]; }
wait_for 15 "it goes on when there is room" has_room
start_site
equal "full"
stayed_open "full"
run "$REPL" verify raw --store "$workdir/store" >"$workdir/verify.log" 2>&1
note "passed"
