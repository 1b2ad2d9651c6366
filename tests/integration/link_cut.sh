#!/bin/bash
# The source and the site in network namespaces of their own, joined by a veth pair that is cut while
# a writer goes on: once with a spool that has room for the cut, once with one that has not.
#
#   CUT=12      seconds of each cut (long: 60; about 6 minutes)
#   RATE=20     MiB/s that are written
#   ONLY=       roomy or full: one of the two
#   DOWN_WITHIN=10  seconds within which the state has to say link-down; a shorter cut may go
#               unnoticed but for the lag
#
# Shown: writers are not slowed, against as long a time before the first cut; the state says link-down,
# with cause and remedy, and goes on saying it while the agent tries again; when the link is back everything is caught up with and the replica equals
# the device; nothing is called acknowledged that the site does not have; points that were spooled
# are in the timeline with the times they were cut at; beyond the spool's limit there is a gap, and
# the point after it is right.
. "${0%/*}/functions.sh"
: "${CUT:=12}" "${RATE:=20}" "${DOWN_WITHIN:=10}" "${ONLY:=}"
requires_root
requires_loop
requires_tool jq
requires_tool fio
requires_tool ip
requires_tool nsenter
here=repl-a$$ there=repl-s$$
ip netns add "$here" 2>/dev/null || skip "needs network namespaces"
at_exit namespaces_remove
namespaces_remove() { # what runs in them first
    local i
    for i in "${!test_pids[@]}"; do
        [ -n "${test_pids[i]}" ] && stop_pid "${test_pids[i]}"
        test_pids[i]=''
    done
    ip netns del "$here" 2>/dev/null # the veth pair goes with it
    ip netns del "$there" 2>/dev/null
}
ip netns add "$there" || fail "a second network namespace"
ip link add name repl-veth netns "$here" type veth peer name repl-veth netns "$there" ||
    skip "needs veth"
run ip -n "$here" addr add 10.111.0.1/24 dev repl-veth
run ip -n "$there" addr add 10.111.0.2/24 dev repl-veth
run ip -n "$here" link set repl-veth up
run ip -n "$there" link set repl-veth up
run ip -n "$there" link set lo up

make_keys
write_site_config raw
sed -i "s/^listen = .*/listen = 10.111.0.2:$port/" "$workdir/site.conf"
# Random data at CUT seconds and RATE MiB/s has to go beyond 64 MiB, and over few enough pages that
# a comparison of all is soon done.
make_loop "$workdir/disk" 512M
disk=$loop

# Not "ip netns exec": that has a mount namespace of its own, and a /sys without the pins of the
# tracking programs.
in_namespace() { exec nsenter --net="/run/netns/$1" "${@:2}"; }
start_site() { # in its namespace
    in_namespace "$there" "$REPL" site --config "$workdir/site.conf" >>"$workdir/site.log" 2>&1 &
    site_pid=$!
    test_pids[0]=$site_pid
    wait_for 10 "the site answers" site_answers
}
start_agent() { # SPOOL_LIMIT
    SPOOL_LIMIT=$1 write_agent_config "raw=$disk"
    sed -i "s/^address = .*/address = 10.111.0.2:$port/" "$workdir/agent.conf"
    in_namespace "$here" "$REPL" agent --config "$workdir/agent.conf" >>"$workdir/agent.log" 2>&1 &
    agent_pid=$!
    test_pids[1]=$agent_pid
    wait_for 10 "the agent answers" agent_answers
}
now_ms() { date +%s%3N; }

# write_for SECONDS NAME: in the background
write_for() {
    fio --name=load --thread --filename="$disk" --ioengine=psync --direct=1 --rw=randwrite --bs=64k \
        --rate="${RATE}m" --time_based --runtime="$1" --size=100% --randrepeat=0 --norandommap=1 \
        --refill_buffers=1 --output-format=json --output="$workdir/$2.json" >/dev/null 2>&1 &
    test_pids[2]=$!
    writer=$!
}
written() { wait "$writer" || fail "fio: $(cat "$workdir/$1.json")"; test_pids[2]=''; }
# latency NAME: p50, p99 and max in us, and MiB/s
latency() {
    jq -r '.jobs[0].write | [.clat_ns.percentile["50.000000"], .clat_ns.percentile["99.000000"], .clat_ns.max] + [.bw * 1024] |
        "\(.[0] / 1000 | floor) \(.[1] / 1000 | floor) \(.[2] / 1000 | floor) \(.[3] / 1048576 * 10 | floor / 10)"' "$workdir/$1.json"
}
points_now() { # lines of seq, begin, end, changed bytes, merged, resync
    "$REPL" points raw --store "$workdir/store" --json --gap 8s 2>>"$workdir/points.log" >"$workdir/timeline.json" ||
        fail "points: $(tail -n 1 "$workdir/points.log")"
    jq -r '.timeline[] | select(.type == "point") | "\(.seq) \(.begin_ns) \(.end_ns) \(.changed_bytes) \(.merged) \(.resync)"' \
        "$workdir/timeline.json"
}
site_seq() { site_value raw .point.seq; }

watch_agent() { # every 0.2 s: time, state, acknowledged seq, backlog, points cut
    while :; do
        agent_status 2>/dev/null | jq -r '"\(now * 1000 | floor) " + (.volumes[0] | "\(.state) \(.point.seq) \(.backlog_bytes) \(.points) \(.cause)\t\(.remedy)")'
        sleep 0.2
    done >"$workdir/watch.$1" 2>/dev/null
}

before=
cut_once() { # NAME SPOOL_LIMIT
    local name=$1
    note "$name: spool_limit $2, $RATE MiB/s, cut for $CUT s"
    start_agent "$2"
    wait_replicated raw 60
    [ "$(agent_value raw .tracked)" = true ] || fail "not tracked: $(agent_value raw .untracked)"

    if [ -z "$before" ]; then # once is enough for both cuts
        before=$name.before
        write_for "$CUT" "$before"
        written "$before"
        wait_replicated raw 60
    fi

    watch_agent "$name" &
    test_pids[3]=$!
    write_for $((CUT + 5)) "$name.cut"
    sleep 2
    run ip -n "$here" link set repl-veth down
    cut_ns=$(date +%s%N)
    sleep 3 # what has come to the site by now it may still commit
    acknowledged_at_cut=$(site_seq)
    sleep "$((CUT - 4)).7"
    [ "$(site_seq)" = "$acknowledged_at_cut" ] || fail "the site got a point over a link that is cut"
    state=$(agent_value raw .state) cause=$(agent_value raw .cause) remedy=$(agent_value raw .remedy)
    backlog=$(agent_value raw .backlog_bytes) lag_ms=$(agent_value raw .lag_ms)
    run ip -n "$here" link set repl-veth up
    back_ns=$(date +%s%N)
    written "$name.cut"
    written_ns=$(date +%s%N)
    wait_replicated raw 120
    caught_up_ns=$(date +%s%N)
    wait_for 60 "the replica has reached the last point" replica_reached raw
    stop_pid "${test_pids[3]}" KILL 2>/dev/null
    test_pids[3]=''
    same_bytes "$disk" "$workdir/store/volumes/raw/replica.img" ||
        fail "$name: the replica differs in $(cmp -l "$disk" "$workdir/store/volumes/raw/replica.img" |
            awk '{ pages[int(($1 - 1) / 4096)] } END { for (p in pages) n++; print n }') pages"

    # nothing was called acknowledged that the site did not have
    awk -v cut=$((cut_ns / 1000000 + 1000)) -v back=$((back_ns / 1000000)) -v seq="$acknowledged_at_cut" \
        '$1 > cut && $1 < back && $3 > seq { exit 1 }' "$workdir/watch.$name" ||
        fail "$name: the agent says that a point is acknowledged which the site does not have"

    down_ms=$(awk -v cut=$((cut_ns / 1000000)) '$1 >= cut && $2 == "link-down" { print $1 - cut; exit }' "$workdir/watch.$name")
    up_ms=$(awk -v back=$((back_ns / 1000000)) '$1 >= back && $2 != "link-down" { print $1 - back; exit }' "$workdir/watch.$name")
    read -r b50 b99 bmax bbw < <(latency "$before")
    read -r c50 c99 cmax cbw < <(latency "$name.cut")
    points_now >"$workdir/points.$name"
    spooled=$(awk -v a="$cut_ns" -v b="$back_ns" '$3 > a && $3 < b' "$workdir/points.$name" | wc -l)
    gap_ms=$(awk -v a="$cut_ns" '$3 > a - 5e9 { if (last && $3 - last > most) most = $3 - last; last = $3 } END { printf "%d", most / 1e6 }' \
        "$workdir/points.$name")
    note "writer before: p50 $b50, p99 $b99, max $bmax us, $bbw MiB/s"
    note "writer cut:    p50 $c50, p99 $c99, max $cmax us, $cbw MiB/s; p99 ratio $(awk -v a="$c99" -v b="$b99" 'BEGIN { printf "%.2f", a / b }')"
    note "link-down after ${down_ms:-?} ms (\"$cause\"; \"$remedy\"), up again after ${up_ms:-?} ms; backlog $((backlog >> 20)) MiB, lag $lag_ms ms; caught up $(((caught_up_ns - back_ns) / 1000000)) ms after the link and $(((caught_up_ns - written_ns) / 1000000)) ms after the last write"
    note "$spooled points were cut while the link was cut, the longest time without one is $gap_ms ms"

    [ "$(agent_value raw .degradations)" = 0 ] || fail "$name: degraded"
    awk '$6 == "true" { exit 1 }' "$workdir/points.$name" || fail "$name: points were found by comparison"
    awk '$3 <= last { exit 1 } { last = $3 }' "$workdir/points.$name" || fail "$name: the points' times go back"
    if [ "$CUT" -gt "$DOWN_WITHIN" ]; then
        [ "$state" = link-down ] || fail "$name: the state at the end of the cut is $state: $cause"
        [ "$down_ms" -le $((DOWN_WITHIN * 1000)) ] || fail "$name: link-down was said after $down_ms ms only"
        [ -n "$cause" ] && [ -n "$remedy" ] || fail "$name: link-down without cause or remedy"
        awk -v from=$((cut_ns / 1000000 + down_ms)) -v back=$((back_ns / 1000000)) \
            '$1 >= from && $1 < back && $2 != "link-down" { exit 1 }' "$workdir/watch.$name" ||
            fail "$name: something else than link-down was said in between"
    fi
    [ "$lag_ms" -ge $(((CUT - 3) * 1000)) ] || fail "$name: a lag of $lag_ms ms was said after a cut of $CUT s"
    # generous: others use this machine, and its disk
    awk -v a="$c99" -v b="$b99" 'BEGIN { exit !(a <= 5 * b + 20000) }' || fail "$name: writers were slowed"
    awk -v a="$cbw" -v rate="$RATE" 'BEGIN { exit !(a >= 0.85 * rate) }' || fail "$name: only $cbw MiB/s were written"
    newest=$(tail -n 1 "$workdir/points.$name" | cut -d' ' -f1)
    rm -f "$workdir/restored"
    run "$REPL" restore raw --at "$newest" --to "$workdir/restored" --store "$workdir/store" --yes >"$workdir/restore.log" 2>&1
    same_bytes "$disk" "$workdir/restored" || fail "$name: point $newest differs from the device"
    stop_agent
}

roomy() {
    cut_once roomy 4G
    [ "$spooled" -ge $((CUT / 3)) ] || fail "only $spooled points were spooled in $CUT s"
    [ "$gap_ms" -lt 8000 ] || fail "the spool had room, and there is a gap of $gap_ms ms"
    jq -e --argjson a "$cut_ns" --argjson b "$back_ns" \
        '[.timeline[] | select(.type == "gap" and .to_ns > $a and .from_ns < $b)] == []' \
        "$workdir/timeline.json" >/dev/null || fail "the timeline shows a gap where points were spooled"
}

full() {
    cut_once full 64M
    # Beyond the limit: no points, or points that say they are merged.
    limit_s=$((64 / RATE + 1)) # by then the spool is full
    [ "$gap_ms" -gt $(((CUT - limit_s - 4) * 1000)) ] ||
        awk -v a="$cut_ns" -v b="$back_ns" '$3 > a && $3 < b && $5 == "true" { found = 1 } END { exit !found }' "$workdir/points.full" ||
        fail "64 MiB of spool held $CUT s at $RATE MiB/s: the longest time without a point is $gap_ms ms"
}

start_site
[ "$ONLY" = full ] || roomy
[ "$ONLY" = roomy ] || full
run "$REPL" verify raw --store "$workdir/store" >"$workdir/verify.log" 2>&1
stop_site
namespaces_remove
ip netns list >"$workdir/netns"
grep -q "repl-[as]$$\b" "$workdir/netns" && fail "a namespace is left"
for pid in "$agent_pid" "$site_pid"; do kill -0 "$pid" 2>/dev/null && fail "process $pid is left"; done
note "passed"
