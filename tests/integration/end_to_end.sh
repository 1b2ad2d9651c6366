#!/bin/bash
# The main job on a mounted filesystem: seed, points, replica, status, restore of each of several
# points over TLS and from the store alone, verify.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool "mkfs.${FS:=ext4}"

make_keys
make_loop "$workdir/disk" 320M
disk=$loop
run "mkfs.$FS" -q "$disk"
make_mount "$disk" "$workdir/mnt"
write_site_config data
write_agent_config "data=$disk"
start_site
start_agent

note "seed of a fresh $FS"
wait_replicated data 60
seed_point=$(site_value data .point.seq)
[ "$(site_value data .point.cut)" = window ] || fail "the point was not cut in a window"

for round in 1 2 3; do
    run dd if=/dev/urandom of="$workdir/mnt/random.$round" bs=64k count=$((round * 40)) status=none
    yes "line $round" | head -n 200000 >"$workdir/mnt/text.$round" || true
    [ "$round" = 3 ] && rm -f "$workdir/mnt/random.1"
    (cd "$workdir/mnt" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$workdir/sums.$round"
    run sync -f "$workdir/mnt"
    wait_replicated data 60
    point_of[round]=$(site_value data .point.seq)
    note "round $round is point ${point_of[round]}"
    # The device may have been written once more (a journal's checkpoint) since the point was cut.
done

[ "$(agent_value data .state)" = idle ] || [ "$(agent_value data .state)" = ok ] ||
    fail "state is $(agent_value data .state): $(agent_value data .cause)"
wait_for 20 "the replica has reached the last point" replica_reached data

restored() { # FILE ROUND: a restored image holds what the round wrote
    local image=$1 round=$2
    make_loop "$image" 0
    run fsck_readonly "$loop"
    make_mount "$loop" "$workdir/check" -o "$mount_options"
    (cd "$workdir/check" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$workdir/got"
    drop_mount "$workdir/check"
    drop_loop "$loop"
    cmp "$workdir/sums.$round" "$workdir/got" || fail "round $round: the files differ"
}
# A point of a mounted filesystem is what a power cut leaves: the journal is replayed first.
case $FS in
ext4)
    mount_options=ro
    fsck_readonly() { e2fsck -fy "$1" >"$workdir/fsck.out" 2>&1 || [ $? -le 1 ]; }
    ;;
xfs)
    mount_options=ro,nouuid
    fsck_readonly() {
        mkdir -p "$workdir/replay" && mount -o nouuid "$1" "$workdir/replay" &&
            umount "$workdir/replay" && xfs_repair -n "$1" >"$workdir/fsck.out" 2>&1
    }
    ;;
esac

note "restore over TLS with a recovery key"
origin="--site 127.0.0.1:$port --fingerprint $site_fingerprint --key $workdir/rescue.key"
for round in 1 2 3; do
    # shellcheck disable=SC2086
    run "$REPL" restore data --at "${point_of[round]}" --to "$workdir/restored.$round" $origin --yes \
        >"$workdir/restore.$round.log" 2>&1
    restored "$workdir/restored.$round" "$round"
done

note "points, verify"
# shellcheck disable=SC2086
"$REPL" points data $origin --json >"$workdir/points.json" || fail "points"
count=$(jq '[.. | objects | select(has("seq"))] | length' "$workdir/points.json")
[ "$count" -ge 4 ] || fail "only $count points are listed"
# shellcheck disable=SC2086
run "$REPL" verify data $origin >"$workdir/verify.log" 2>&1
# shellcheck disable=SC2086
run "$REPL" verify data $origin --max-age 1d >"$workdir/verify.aged.log" 2>&1
grep -q "^left out: " "$workdir/verify.aged.log" || fail "nothing counts as verified when it was committed"

note "restore from the store with nothing running"
stop_agent
stop_site
run "$REPL" restore data --at "${point_of[2]}" --to "$workdir/offline" --store "$workdir/store" --yes \
    >"$workdir/restore.offline.log" 2>&1
restored "$workdir/offline" 2
run "$REPL" verify data --store "$workdir/store" >"$workdir/verify.offline.log" 2>&1
run "$REPL" verify data --store "$workdir/store" --max-age 0s >"$workdir/verify.aged.log" 2>&1
grep -q "^nothing was verified within 0s: " "$workdir/verify.aged.log" || fail "--max-age 0s leaves something out"

note "the replica equals the restored last point"
last=$("$REPL" points data --store "$workdir/store" --json | jq '[.. | objects | select(has("seq")) | .seq] | max')
run "$REPL" restore data --at "$last" --to "$workdir/last" --store "$workdir/store" --yes >/dev/null 2>&1
same_bytes "$workdir/last" "$workdir/store/volumes/data/replica.img" || fail "the replica differs"

note "inspect names what it is shown"
segment=$(find "$workdir/store/volumes/data/segments" -name '*.seg' | sort | head -n 1)
run "$REPL" inspect "$segment" >"$workdir/inspect.log"
grep -q "segment" "$workdir/inspect.log" || fail "inspect says nothing of a segment"
note "passed (seed point $seed_point, $count points)"
