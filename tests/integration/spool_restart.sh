#!/bin/bash
# The link is down, points pile up in the spool, and the agent is stopped, killed and started again:
# the site gets every one of them afterwards, with its own time; a damaged one costs those behind it.
# A site that was put back while the agent ran is given what it lost. An agent or a site that is
# started while a killed one is still ending waits for it.
. "${0%/*}/functions.sh"

raw_volume 64M
start_site
start_agent
wait_replicated raw 60
seed=$(site_value raw .point.seq)

spool=$workdir/state/volumes/raw/spool
pile_up() { # N: until so many segments are in the spool
    local i=0
    while [ "$(raw_segments)" -lt "$1" ]; do
        i=$((i + 1))
        [ "$i" -lt 200 ] || fail "no points are spooled: $(agent_value raw .state) $(agent_value raw .cause)"
        run dd if=/dev/urandom of="$disk" bs=4k count=8 seek=$((RANDOM % 16000)) oflag=direct conv=notrunc status=none
        sleep 0.3
    done
}
points_since() { # SEQ: how many the store lists behind it, and fails on a hole
    "$REPL" points raw --store "$workdir/store" --json |
        jq -e --argjson from "$1" '[.. | objects | select(has("seq")) | .seq] | unique | map(select(. > $from))
            | if length > 0 and (.[-1] - .[0] + 1) != length then error("a hole") else length end'
}

for signal in TERM KILL; do
    note "a link that is down, and the agent ends by SIG$signal"
    seed=$(site_value raw .point.seq)
    stop_site
    pile_up 4
    kept=$(raw_segments)
    stop_agent "$signal"
    run dd if=/dev/urandom of="$disk" bs=4k count=5 seek=900 oflag=direct conv=notrunc status=none
    start_agent
    wait_for 10 "the spool is taken over" grep -q "segments of before are in the spool" "$workdir/agent.log"
    pile_up $((kept + 2))
    start_site
    raw_equal "after SIG$signal"
    got=$(points_since "$seed") || fail "the points behind $seed have a hole"
    [ "$got" -ge $((kept - 1 + 2)) ] || fail "$got points arrived, of $kept in the spool and more"
    raw_not_compared "after SIG$signal"
    note "$kept segments were kept, $got points arrived"
    : >"$workdir/agent.log"
done

note "segments that name chunks, and the agent ends"
put_file() { # COPY: 3 MiB of the device, at a place of their own
    run dd if="$workdir/file" of="$disk" bs=1M seek=$((30 + 3 * $1)) oflag=direct conv=notrunc status=none
}
more_than() { [ "$(raw_segments)" -gt "$1" ]; }
run dd if=/dev/urandom of="$workdir/file" bs=1M count=3 status=none
put_file 0
raw_equal "after the file"
seed=$(site_value raw .point.seq)
stop_site
for copy in 1 2 3; do
    kept=$(raw_segments)
    put_file $copy
    wait_for 20 "copy $copy is spooled" more_than "$kept"
    run dd if=/dev/urandom of="$disk" bs=4k count=3 seek=$((100 + copy * 10)) oflag=direct conv=notrunc status=none
    wait_for 20 "and a point behind it" more_than $((kept + 1))
done
kept=$(raw_segments)
: >"$workdir/agent.log"
stop_agent KILL
start_agent
wait_for 10 "the spool is taken over" grep -q "segments of before are in the spool" "$workdir/agent.log"
note "$(grep -o '[0-9]* segments of before' "$workdir/agent.log") of $kept, $(find "$spool" -name '*.supply' | wc -l) of them name chunks"
[ "$(find "$spool" -name '*.supply' | wc -l)" -ge 3 ] || fail "what the segments name is gone"
start_site
raw_equal "after segments that name chunks"
got=$(points_since "$seed") || fail "the points behind $seed have a hole"
[ "$got" -ge "$kept" ] || fail "$got points arrived, of $kept in the spool"
[ "$(find "$spool" -type f | wc -l)" = 0 ] || fail "the spool is not empty"
grep -q "the site lacks" "$workdir/agent.log" && fail "something was missing"
note "$got points arrived"

note "a file of the spool is damaged meanwhile"
seed=$(site_value raw .point.seq)
stop_site
pile_up 4
stop_agent KILL
damaged=$(find "$spool" -name '*.seg' | sort | sed -n 3p)
printf 'X' | dd of="$damaged" bs=1 seek=$(($(stat -c %s "$damaged") / 2)) conv=notrunc status=none
start_agent
wait_for 10 "what is whole is taken over" grep -q "2 segments of before are in the spool" "$workdir/agent.log"
start_site
raw_equal "after damage"
note "$(points_since "$seed") points arrived"

more_points() { [ "$(site_value raw .point.seq)" -gt "$seed" ] 2>/dev/null; }
is_down() { [ "$(agent_value raw .state)" = link-down ]; }
checkpointed() { [ "$(stat -c %s "$workdir/state/volumes/raw/heads" 2>/dev/null || echo 0)" -gt "$heads" ]; }
for noticed in no yes; do
    note "the site is put back, to what it was some points ago, and the agent goes on; saw it go away: $noticed"
    : >"$workdir/agent.log"
    stop_site
    run cp -a "$workdir/store" "$workdir/store.before"
    start_site
    for i in 1 2 3; do
        run dd if=/dev/urandom of="$disk" bs=4k count=$i seek=$((2000 + 10 * i)) oflag=direct conv=notrunc status=none
        wait_replicated raw 60
    done
    seed=$(site_value raw .point.seq)
    heads=$(stat -c %s "$workdir/state/volumes/raw/heads" 2>/dev/null || echo 0)
    stop_site
    run rm -rf "$workdir/store"
    run mv "$workdir/store.before" "$workdir/store"
    if [ $noticed = yes ]; then # and has made a checkpoint, behind which the site's history ends
        wait_for 20 "the agent sees that the link is down" is_down
        wait_for 20 "a checkpoint" checkpointed
    fi
    start_site
    wait_for 30 "the agent says so" grep -q "was put back" "$workdir/agent.log"
    wait_for 60 "a point behind those that were lost" more_points
    raw_equal "after the site was put back"
done

note "both are killed, and started again before they are gone"
for _ in $(seq 10); do
    run dd if=/dev/urandom of="$disk" bs=64k count=40 seek=$((RANDOM % 900)) oflag=direct conv=notrunc status=none
    kill -KILL "$agent_pid" "$site_pid"
    start_agent
    start_site
done
raw_equal "after kills without a pause"

run "$REPL" verify raw --store "$workdir/store" >"$workdir/verify.log" 2>&1
note "passed"
