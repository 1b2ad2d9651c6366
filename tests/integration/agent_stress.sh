#!/bin/bash
# Tracking under load, through the agent: random writes of 4 to 64 KiB at depth 32 to a raw device
# with flushes and discards mixed in, and two busy loops that take the processors. At every pause
# the replica equals the source page for page, and nothing was compared as a whole.
#
#   WRITES=60000 PAUSES=3   in all, and how often it is looked at (long: 5000000 and 50)
. "${0%/*}/functions.sh"
requires_tool fio
: "${WRITES:=60000}" "${PAUSES:=3}"

raw_volume 256M
start_site
start_agent
wait_replicated raw 60
[ "$(agent_value raw .tracked)" = true ] || fail "not tracked: $(agent_value raw .untracked)"

for i in 2 3; do
    (while :; do :; done) &
    test_pids[i]=$!
done

shortfalls=0 repairs=0 audits=0
look() { # adds up what this agent has counted
    [ "$(agent_value raw .degradations)" = 0 ] || fail "degraded: $(agent_value raw .cause)"
    audits=$((audits + $(agent_value raw .audits)))
    shortfalls=$((shortfalls + $(agent_value raw .shortfalls)))
    repairs=$((repairs + $(agent_value raw .repairs)))
}

for pause in $(seq "$PAUSES"); do
    run fio --name=stress --filename="$disk" --ioengine=io_uring --direct=1 --rw=randwrite \
        --bsrange=4k-64k --iodepth=32 --number_ios=$((WRITES / PAUSES)) --io_size=1T --size=100% \
        --fdatasync=64 --randrepeat=0 --norandommap=1 --refill_buffers=1 --zero_buffers=0 \
        --buffer_compress_percentage=80 --randseed="$RANDOM$RANDOM" --output="$workdir/fio.out"
    run blkdiscard -o $((pause % 31 * 8 << 20)) -l $((4 << 20)) "$disk"
    if [ "$pause" = 2 ]; then
        look
        stop_agent KILL
        run dd if=/dev/urandom of="$disk" bs=64k count=16 seek=33 oflag=direct conv=notrunc status=none
        start_agent
    fi
    raw_equal "pause $pause" 120
    note "pause $pause: equal; point $(site_value raw .point.seq), window $(site_value raw '((.point.end_ns - .point.begin_ns) / 1000 | floor)') us, attempts $(site_value raw .point.attempts)"
done
look
raw_not_compared "in the end"
note "passed: $WRITES writes, $audits audits, $shortfalls short, $repairs repaired, 0 degraded"
