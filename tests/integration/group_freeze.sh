#!/bin/bash
# Two volumes of a group, frozen at each point, of which one is written to much more than the other: its
# round is a big one and the other's small. They are frozen at one moment all the same.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool mkfs.ext4

make_keys
for v in busy calm; do
    make_loop "$workdir/disk.$v" 320M
    run mkfs.ext4 -q "$loop"
    make_mount "$loop" "$workdir/mnt.$v"
    pairs+=("$v=$loop")
done
write_site_config busy calm
for v in busy calm; do printf '\n[volume %s]\nreplica = none\n' "$v" >>"$workdir/site.conf"; done
VOLUME_OPTIONS="quiesce = freeze
freeze_budget = 5s
group = pair" write_agent_config "${pairs[@]}"
start_site
start_guard
start_agent

write() { run dd if=/dev/urandom of="$workdir/mnt.$1/f" bs=4k count="$2" conv=notrunc,fsync status=none; }
last_points() { # as far as both have one that is common and was cut under a freeze
    for v in busy calm; do
        "$REPL" points "$v" --store "$workdir/store" --json 2>>"$workdir/points.log" |
            jq -c '[.timeline[] | select(.type == "point")] | last'
    done | jq -cs 'select(all(.group and .cut == "freeze") and .[0].begin_ns == .[1].begin_ns)'
}
for v in busy calm; do wait_replicated "$v" 30; done
for i in 1 2 3; do
    write busy 5000
    write calm 1
    for v in busy calm; do wait_replicated "$v" 15; done
    [ -n "$(last_points)" ] || fail "no common point under a freeze"
    note "$i: both at $(last_points | jq -c 'map(.seq)'), rounds torn: $(agent_value busy .rounds_torn) and $(agent_value calm .rounds_torn)"
done
note "passed"
