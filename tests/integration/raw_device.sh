#!/bin/bash
# A raw device, compared byte for byte: an odd size, zeros, unchanged data, growth, a read error,
# another disk under the name, and an agent that is killed or stopped in between.
. "${0%/*}/functions.sh"

size=$((48 * 1024 * 1024 + 1536)) # no multiple of 4 KiB
raw_volume "$size"
run dd if=/dev/urandom of="$disk" bs=1M count=20 oflag=direct status=none
start_site
start_agent
wait_replicated raw

replica=$workdir/store/volumes/raw/replica.img
same_as_source() {
    wait_replicated raw
    wait_for 20 "the replica has reached the last point" replica_reached raw
    same_bytes "$disk" "$replica" || fail "$1: the replica differs from the device"
    [ "$(stat -c %s "$replica")" = "$(blockdev --getsize64 "$disk")" ] || fail "$1: another size"
    note "$1: replica equals source"
}
same_as_source "seed"

run dd if=/dev/urandom of="$disk" bs=4k count=300 seek=700 oflag=direct conv=notrunc status=none
run dd if=/dev/urandom of="$disk" bs=512 count=3 seek=$((size / 512 - 3)) oflag=direct conv=notrunc status=none
same_as_source "scattered writes and the short last page"

# as many pages as are read before any is let go, beginning in the midst of a chunk
run dd if=/dev/urandom of="$disk" bs=$((1530 * 4096)) count=1 oflag=direct,seek_bytes seek=$((8 * 4096)) conv=notrunc status=none
same_as_source "a round that just fits"

sent=$(agent_value raw .bytes_sent)
run dd if="$disk" of="$disk" bs=1M count=16 iflag=direct oflag=direct conv=notrunc status=none
same_as_source "rewritten with the same bytes"
grown=$(($(agent_value raw .bytes_sent) - sent))
[ "$grown" -lt 65536 ] || fail "16 MiB of unchanged bytes were sent as $grown bytes"

run dd if=/dev/zero of="$disk" bs=1M count=8 seek=4 oflag=direct conv=notrunc status=none
same_as_source "zeros"
run blkdiscard -o $((16 * 1024 * 1024)) -l $((4 * 1024 * 1024)) "$disk"
same_as_source "discard"

note "a device at rest is not read"
wait_replicated raw
sectors() { awk '{print $3}' "/sys/block/${disk##*/}/stat"; }
before=$(sectors)
sleep 5
grown=$(($(sectors) - before))
[ "$grown" = 0 ] || fail "$grown sectors were read while nothing was written"
[ "$(agent_value raw .state)" = idle ] || fail "the state is $(agent_value raw .state)"

note "counting switched off while running is noticed"
failed_state() { [ "$(agent_value raw .state)" = failed ]; }
iostats=/sys/block/${disk##*/}/queue/iostats
echo 0 >"$iostats"
wait_for 10 "the state says that writes cannot be noticed" failed_state
agent_value raw .cause | grep -q "switched off\|does not count\|does not account" || fail "the cause is: $(agent_value raw .cause)"
run dd if=/dev/urandom of="$disk" bs=4k count=10 seek=90 oflag=direct conv=notrunc status=none
echo 1 >"$iostats"
same_as_source "written while nothing was counted"

note "SIGKILL of the agent, writes meanwhile, no second seed"
stop_agent KILL
run dd if=/dev/urandom of="$disk" bs=64k count=10 seek=33 oflag=direct conv=notrunc status=none
start_agent
same_as_source "after SIGKILL"
total=$(agent_value raw .bytes_sent) # since this agent started
[ "$total" -lt $((12 * 1024 * 1024)) ] || fail "$total bytes were sent for 640 KiB of changes"

note "SIGKILL of the site while segments are on their way"
for i in 1 2 3; do
    run dd if=/dev/urandom of="$disk" bs=1M count=6 seek=$((i * 7)) oflag=direct conv=notrunc status=none &
    writer=$!
    sleep 0.$((RANDOM % 9))
    stop_site KILL
    wait "$writer"
    start_site
done
same_as_source "after three kills of the site"
run "$REPL" verify raw --store "$workdir/store" >"$workdir/verify.log" 2>&1

note "growth"
run truncate -s $((size + 3 * 1024 * 1024)) "$workdir/disk"
run losetup -c "$disk"
run dd if=/dev/urandom of="$disk" bs=64k count=8 seek=$((size / 65536 + 2)) oflag=direct conv=notrunc status=none
same_as_source "growth"

note "a read error is reported and never becomes zeros"
before=$(site_value raw .point.seq)
stop_agent
run dd if=/dev/urandom of="$disk" bs=4k count=1 seek=$((size * 3 / 4 / 4096)) oflag=direct conv=notrunc status=none
run truncate -s $((size / 2)) "$workdir/disk" # reads behind the file's end fail
start_agent
wait_for 20 "the state says that reading failed" failed_state
agent_value raw .cause | grep -q "reading .* at offset" || fail "the cause is: $(agent_value raw .cause)"
[ "$(site_value raw .point.seq)" = "$before" ] || fail "a point was cut over a read error"
stop_agent

note "another disk under the same name is refused"
make_loop "$workdir/other" "$((size + 3 * 1024 * 1024))"
write_agent_config "raw=$loop"
start_agent
wait_for 10 "the state says that it is another device" failed_state
agent_value raw .cause | grep -q "another device" || fail "the cause is: $(agent_value raw .cause)"
stop_agent

note "passed"
