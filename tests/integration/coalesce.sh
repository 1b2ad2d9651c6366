#!/bin/bash
# The link is down for longer than the spool has room: what was superseded is dropped from it, and when
# that gains nothing more, no point is cut any more until the link is back. Nothing is lost, and the
# timeline has a gap where there is one.
. "${0%/*}/functions.sh"

SPOOL_LIMIT=64M raw_volume 512M
start_site
start_agent
wait_replicated raw 60

spool=$workdir/state/volumes/raw/spool
spool_bytes() { find "$spool" -type f -printf '%s\n' | awk '{ s += $1 } END { print s + 0 }'; }

note "the same 4 MiB again and again"
before=$(site_value raw .point.seq)
stop_site
most=0
for i in $(seq 14); do
    run dd if=/dev/urandom of="$disk" bs=1M count=4 seek=3 oflag=direct conv=notrunc status=none
    sleep 1.2
    now=$(spool_bytes)
    [ "$now" -gt "$most" ] && most=$now
done
grep "points became one" "$workdir/agent.log" || fail "the spool was not coalesced"
[ "$most" -le $((64 << 20)) ] || fail "the spool held $most bytes"
note "the spool held $((most >> 20)) MiB at most, $(agent_value raw .points) points were cut"
stop_agent KILL
start_agent
start_site
raw_equal "coalesced" 90
listed=$("$REPL" points raw --store "$workdir/store" --json | jq --argjson from "$before" '[.. | objects | select(has("seq")) | .seq] | unique | map(select(. > $from)) | length')
note "$listed points arrived"
for segment in $(find "$workdir/store/volumes/raw/segments" -name '*.seg' | sort); do
    "$REPL" inspect "$segment"
done >"$workdir/inspect.log"
grep -q "merged" "$workdir/inspect.log" || fail "no merged point in the segments"

note "something new all the time, until nothing fits"
stop_site
for i in $(seq 0 10); do
    run dd if=/dev/urandom of="$disk" bs=1M count=12 seek=$((i * 12)) oflag=direct conv=notrunc status=none
    sleep 1.1
done
now=$(spool_bytes)
[ "$now" -le $((80 << 20)) ] || fail "the spool holds $now bytes"
note "the spool holds $((now >> 20)) MiB of 132 MiB written"
run dd if=/dev/urandom of="$disk" bs=4k count=1 seek=9 oflag=direct conv=notrunc status=none
start_site
raw_equal "beyond the limit" 90
raw_not_compared "beyond the limit"
run "$REPL" verify raw --store "$workdir/store" >"$workdir/verify.log" 2>&1
note "passed"
