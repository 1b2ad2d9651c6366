#!/bin/bash
# A directory tree under random operations of every kind (tree_churn.c), with kills: each point that
# was remembered is in the site's replica when it is the newest, and is restored, and is what the tree
# was, name for name, byte for byte (tree_dump.c).
#
#   FS=ext4             or xfs, btrfs
#   POINTS=3 KILLS=2    how many points are remembered, and how many times the agent or the site is
#                       killed meanwhile
#   SECONDS_EACH=1      how long the writers run for each
#   SLOW_DIRECT=yes     with direct writes that take long, of which a point taken at once may know
#                       nothing (agent/source/tree/tree_scan.h): each point is taken 40 s later
#   CUT=freeze          the points are cut under frozen filesystems, and the guard is killed too
#   CUT=snapshot        the points are read from snapshots (FS=btrfs); CUT=window-else-snapshot
#   SUBVOLUME=yes       in a subvolume (FS=btrfs)
#   SEED=1              of the operations and the moments, or random; printed
#   long: POINTS=30 KILLS=20 SECONDS_EACH=5
#
# Of holes: where a restored file has data, the source had it too (whole pages). Not the other way
# round: what is allocated and never written to may come back as a hole.
. "${0%/*}/functions.sh" || exit # nothing below may run anywhere but in its directory
: "${TREE_CHURN:?the path of tree_churn}" "${TREE_DUMP:?the path of tree_dump}"
: "${POINTS:=3}" "${KILLS:=2}" "${SECONDS_EACH:=1}" "${CUT:=window}"
requires_root
requires_loop
requires_tool jq
requires_tool "mkfs.${FS:=ext4}"
seed_take
note "seed $SEED, $FS, $POINTS points by $CUT, $KILLS kills"

make_filesystem() { # IMAGE DIRECTORY SIZE
    make_loop "$1" "$3"
    run "mkfs.$FS" -q "$loop" >/dev/null
    make_mount "$loop" "$2" -o nodev # no device node of random numbers is ever opened
}
make_subvolume() { # all there is lies in one, and its top is not mounted
    run btrfs -q subvolume create "$workdir/mnt/sub"
    drop_mount "$workdir/mnt"
    make_mount "$loop" "$workdir/mnt" -o nodev,subvol=sub
}
make_filesystem "$workdir/disk" "$workdir/mnt" 1G
tree=$workdir/mnt/root
[ "${SUBVOLUME:-no}" = no ] || make_subvolume
mkdir "$tree" "$workdir/mnt/outside"

# --- the writers -----------------------------------------------------------------------------------

without=(--without write_slow_direct)
[ "${SLOW_DIRECT:-no}" = yes ] && without=()
start_churn() {
    coproc CHURN { exec "$TREE_CHURN" "${workdir:?}/mnt" --seed "$SEED" "${without[@]}" 2>"$workdir/churn.log"; }
    test_pids[2]=$CHURN_PID
    exec {to_churn}>&"${CHURN[1]}" {from_churn}<&"${CHURN[0]}" # bash forgets CHURN when it ends
}
churn_go() { echo go >&"$to_churn"; }
churn_hold() { # when it returns, nothing is being written
    local line
    : >"$workdir/counts"
    echo "${1:-hold}" >&"$to_churn"
    while read -r -t 60 line <&"$from_churn"; do
        [ "$line" = held ] && return
        echo "$line" >>"$workdir/counts"
    done
    fail "the writers do not stop"
}

# What this filesystem cannot do.
case $FS in
ext4) unable="reflink reflink_range xattr_huge" ;;
xfs) unable= ;;
btrfs) unable="collapse_range insert_range" ;;
esac
every_kind() { # Each operation was done, or is one of those; of few operations none may be a rare one.
    awk -v unable=" $unable " '
        $1 == "count" { done += $3; failed += $4; kinds++ }
        $1 == "count" && $3 == 0 && !index(unable, " " $2 " ") { print "never done: " $2; bad = 1 }
        $1 == "cannot" { print }
        END { print done " operations of " kinds " kinds, " failed " came to nothing"
              exit bad && done >= 20000 }' \
        "$workdir/counts"
}

# --- points ----------------------------------------------------------------------------------------

moment() { sleep "0.$((RANDOM % 9))"; }
kill_one() { # but under a freeze there is no guard, and the agent is killed instead
    local whom=agent
    case $((RANDOM % 6)) in
    0 | 1) whom=site ;;
    2 | 3) [ "$CUT" != freeze ] || whom=guard ;;
    esac
    [ "$whom" = guard ] && guard_kills=$((guard_kills + 1))
    "stop_$whom" KILL
    moment
    "start_$whom"
}
# Some while the writers run, some when they have just stopped.
kills_left=$KILLS guard_kills=0
kill_some() { # POINTS that are left
    while [ "$kills_left" -gt 0 ] && [ $((RANDOM % $1 * KILLS / POINTS)) -lt "$kills_left" ]; do
        kills_left=$((kills_left - 1))
        moment
        kill_one
        [ $((RANDOM % 2)) = 0 ] && break
    done
}

same_tree() { # POINT DIRECTORY
    "$TREE_DUMP" "$2" >"$workdir/got" || fail "dump of point $1"
    if ! cmp -s "$workdir/dump.$1" "$workdir/got"; then
        diff "$workdir/dump.$1" "$workdir/got" | head -n 20
        fail "point $1 differs"
    fi
}
# No step before has found anything in it that it did not expect.
same_replica() { # POINT, the newest
    wait_for 180 "the replica reaches point $1" replica_reached data
    same_tree "$1" "$workdir/replica/tree"
    ! grep "is compared with the point" "$workdir/site.log" || fail "the replica"
}

points=()
remember() { # the point of now, and what it has to be
    [ "${SLOW_DIRECT:-no}" = yes ] && sleep 40
    wait_replicated data 180 # thousands of changed files, on a machine that has other things to do
    local seq
    seq=$(site_value data .point.seq)
    { "$TREE_DUMP" "$tree" >"$workdir/dump.$seq" && "$TREE_DUMP" --data "$tree" >"$workdir/data.$seq"; } ||
        fail "dump"
    same_replica "$seq"
    points+=("$seq")
    note "point $seq: $(wc -l <"$workdir/dump.$seq") names, ${1:-}$(agent_value data .point.cut)"
}

make_keys
write_site_config data
make_filesystem "$workdir/replica-disk" "$workdir/replica" 1G
printf '[volume data]\nreplica = %s\n' "$workdir/replica" >>"$workdir/site.conf"
case $CUT in
freeze) VOLUME_OPTIONS="quiesce = freeze
freeze_budget = 1s" ;;
*snapshot) VOLUME_OPTIONS="quiesce = $CUT" ;;
esac
write_agent_config "data=tree:$tree"
start_churn
churn_go
sleep 1
start_site
[ "$CUT" = freeze ] && start_guard
start_agent
for ((i = 0; i < POINTS; i++)); do
    [ "$i" = 0 ] || churn_go
    sleep "$SECONDS_EACH"
    [ "$i" = 0 ] || kill_some $((POINTS - i))
    churn_hold
    [ $((RANDOM % 3)) = 0 ] && kill_some $((POINTS - i))
    remember
done

note "changes while the agent is stopped"
stop_agent
churn_go
sleep "$SECONDS_EACH"
start_agent
moment
churn_hold
remember

note "the agent's index of the tree is lost"
churn_go
stop_agent
run rm "$workdir/state/volumes/data/tree" "$workdir/state/volumes/data/tree-lock"
start_agent
moment
churn_hold end
remember "a full, "
run every_kind
cuts=$("$REPL" points data --store "$workdir/store" --json |
    jq -r '[.. | objects | select(has("cut")) | .cut] | group_by(.) | map("\(length) by \(.[0])") | join(", ")')
note "all points: $cuts"
snapshots() { btrfs subvolume list "$workdir/mnt" | grep -c '\.repl'; }
no_snapshots() { [ "$(snapshots)" = 0 ]; }
if [[ $CUT == *snapshot ]]; then
    [ "$CUT" != snapshot ] || [[ $cuts == *snapshot* && $cuts != *window* ]] ||
        fail "not all points are of snapshots"
    wait_for 10 "the snapshots are removed" no_snapshots
fi
if [ "$CUT" = freeze ]; then # without a guard for a moment, in a window
    [[ $cuts == *freeze* ]] || fail "no point was cut under a freeze"
    [ "$guard_kills" -gt 0 ] || [[ $cuts != *window* ]] || fail "points were cut in windows"
fi

# --- restored --------------------------------------------------------------------------------------

same_holes() { # POINT DIRECTORY
    "$TREE_DUMP" --data "$2" >"$workdir/got" || fail "dump of point $1"
    awk -F '\t' 'NR == FNR { count[$1]++; from[$1, count[$1]] = $2; to[$1, count[$1]] = $3; next }
        { for (i = 1; i <= count[$1]; i++) if (from[$1, i] <= $2 && $3 <= to[$1, i]) next
          print "data in a hole: " substr($1, 1, 300), $2, $3; bad = 1 }
        END { exit bad }' "$workdir/data.$1" "$workdir/got" >"$workdir/holes.log" ||
        fail "point $1: $(head -n 3 "$workdir/holes.log")"
}
restore_tree() { # POINT DIRECTORY [options]
    local point=$1 directory=$2
    shift 2
    "$REPL" restore data --at "$point" --to "$directory" --store "$workdir/store" --yes "$@" \
        >"$workdir/restore.log" 2>&1 || fail "restore of point $point"
    same_tree "$point" "$directory"
}

note "the replica, and after a kill"
same_replica "${points[-1]}"
stop_site KILL
start_site
same_replica "${points[-1]}"

note "restore"
stop_agent
stop_site
"$REPL" verify data --store "$workdir/store" >"$workdir/verify.log" 2>&1 || fail "verify"
make_filesystem "$workdir/target" "$workdir/restored" $((POINTS + 2))G # all of the points are kept
for point in "${points[@]}"; do
    restore_tree "$point" "$workdir/restored/$point"
    same_holes "$point" "$workdir/restored/$point"
done
note "restore of one point onto another" # zeros that are there already are not made a hole
restore_tree "${points[-1]}" "$workdir/restored/${points[0]}" --delete --overwrite
restore_tree "${points[1]}" "$workdir/restored/${points[-1]}" --delete --overwrite
note "passed"
