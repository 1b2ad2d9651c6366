#!/bin/bash
# A segment in a store without a replica cannot be opened any more, of a block volume and of a
# directory tree. Seen so twice, all is sent once more: what comes from then on restores, what came
# before the segment still does, and what is between is said to be lost. Then the same by hand.
. "${0%/*}/functions.sh" || exit # nothing below may run anywhere but in its directory
requires_root
requires_loop
requires_tool jq
requires_tool mkfs.ext4
make_keys
make_loop "$workdir/disk" 24M
disk=$loop
make_loop "$workdir/tree-disk" 128M
run mkfs.ext4 -q -m 0 "$loop"
make_mount "$loop" "$workdir/mnt"
write_site_config raw tree
sed -i "s|^store = .*|&\nscrub_every = 1s|" "$workdir/site.conf" # all of it is due at each start
printf '\n[volume %s]\nreplica = none\n' raw tree >>"$workdir/site.conf"
write_agent_config "raw=$disk" "tree=tree:$workdir/mnt"
run dd if=/dev/urandom of="$disk" bs=1M count=24 oflag=direct status=none
run mkdir "$workdir/mnt/directory"
run dd if=/dev/urandom of="$workdir/mnt/directory/file" bs=1M count=8 status=none
start_site
start_agent
wait_replicated raw
wait_replicated tree
run dd if="$disk" of="$workdir/image" bs=1M iflag=direct status=none
declare -A first=([raw]=$(site_value raw .point.seq) [tree]=$(site_value tree .point.seq))
segments() { find "$workdir/store/volumes/$1/segments" -name '*.seg' | sort; }
restore() { # VOLUME POINT
    rm -rf "$workdir/restored-$1"
    "$REPL" restore "$1" --at "$2" --to "$workdir/restored-$1" --store "$workdir/store" --yes \
        >"$workdir/restore.log" 2>&1
}
restored_first() {
    restore raw "${first[raw]}" || fail "the first point of raw is not restored: $(cat "$workdir/restore.log")"
    same_bytes "$workdir/restored-raw" "$workdir/image" || fail "the first point of raw is another one"
}
restored_last() { # VOLUME
    restore "$1" "$(site_value "$1" .point.seq)" || fail "the last point of $1 is not restored: $(cat "$workdir/restore.log")"
}

note "a segment of each that cannot be opened"
declare -A lost before
run dd if=/dev/urandom of="$disk" bs=4k count=3 seek=100 oflag=direct conv=notrunc status=none
run dd if=/dev/urandom of="$workdir/mnt/directory/other" bs=64k count=1 status=none
wait_replicated raw
wait_replicated tree
for v in raw tree; do
    lost[$v]=$(segments $v | tail -n 1)
    before[$v]=$(site_value $v .point.seq)
    [ "${before[$v]}" -gt "${first[$v]}" ] || fail "$v has no second point"
done
stop_agent
stop_site
for v in raw tree; do printf 'rot' | dd of="${lost[$v]}" bs=1 conv=notrunc status=none; done
start_site
damaged() { [ "$(site_value "$1" .damaged_segments)" = 1 ]; }
asked() { grep -q "volume $1: a segment cannot be opened, .* Its source is asked for that" "$workdir/site.log"; }
for v in raw tree; do
    wait_for 120 "the segment of $v is found damaged" damaged $v
    asked $v && fail "$v is asked for as a whole though it was seen damaged once only"
done
stop_site
start_site
for v in raw tree; do wait_for 120 "all of $v is asked for" asked $v; done
restore raw "${before[raw]}" && fail "a point that needs what is lost is restored as if nothing was"

note "all of it comes"
start_agent
full() { [ "$(site_value "$1" .point.seq)" -gt "${before[$1]}" ]; }
for v in raw tree; do wait_for 120 "all of $v is there" full $v; done
run dd if=/dev/urandom of="$disk" bs=4k count=2 seek=500 oflag=direct conv=notrunc status=none
run rm "$workdir/mnt/directory/file"
wait_replicated raw
wait_replicated tree
restored_last raw
same_bytes "$workdir/restored-raw" "$disk" || fail "the last point is not what is on the device"
restored_last tree
run diff -r "$workdir/mnt" "$workdir/restored-tree"
restored_first
restore tree "${first[tree]}" || fail "the first point of tree is not restored"
restore raw "${before[raw]}" && fail "what is lost is restored"
for v in raw tree; do
    points="(points ${before[$v]} to ${before[$v]})"
    spared() { site_value $v .damaged | grep -qF "$points"; }
    wait_for 120 "only what was lost of $v is said to be" spared
done

note "the same by hand"
"$REPL" full none --config "$workdir/agent.conf" >"$workdir/full.log" 2>&1 && fail "there is no such volume"
grep -q "does not protect a volume none" "$workdir/full.log" || fail "repl full says $(cat "$workdir/full.log")"
last=$(site_value raw .point.seq)
run "$REPL" full raw --config "$workdir/agent.conf" >"$workdir/full.log"
grep -q "All of the volume is sent once more" "$workdir/full.log" || fail "repl full says $(cat "$workdir/full.log")"
more() { [ "$(site_value raw .point.seq)" -gt "$last" ]; }
wait_for 120 "the full is there" more
# It needs nothing of what was before it.
stop_agent
stop_site
run mkdir "$workdir/aside"
run mv "${lost[raw]}" "$workdir/aside/"
restore raw "$(("$last" + 1))" || fail "the full is not restored: $(cat "$workdir/restore.log")"
same_bytes "$workdir/restored-raw" "$disk" || fail "the full is not what is on the device"
"$REPL" full raw --config "$workdir/agent.conf" >"$workdir/full.log" 2>&1
[ $? = 2 ] || fail "without an agent, repl full says $(cat "$workdir/full.log")"
