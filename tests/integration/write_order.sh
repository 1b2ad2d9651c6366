#!/bin/bash
# Write order on a mounted filesystem, shown: a writer of ordered transactions (write_order.c) runs as
# fast as it can while points are cut; some of them are restored and held against what it says was
# complete before each point's begin, and what was not begun before its end.
#
#   FS=ext4|xfs        the filesystem
#   CACHE=back|through the device's write cache
#   CUT=window|freeze  how points are cut; each one must be
#   GROUP=yes          the data file and the log on a volume each, cut in one common window
#   POINTS=3           how many points are restored and checked; LONG=1 means 20
#   TEETH=yes          show that the judge rejects images that were made wrong
#   TEST_DIR=/dev/shm  where everything lies, 2 GiB: in memory, or the rate would be that of the
#                      flushes of whatever disk the test runs on
: "${TEST_DIR:=/dev/shm}"
. "${0%/*}/functions.sh"
: "${WRITE_ORDER:?the path of the writer}"
: "${FS:=ext4}" "${CACHE:=back}" "${CUT:=window}" "${GROUP:=}" "${LONG:=}" "${TEETH:=}" "${MIN_RATE:=1000}"
: "${POINTS:=$([ -n "$LONG" ] && echo 20 || echo 3)}"
requires_root
requires_loop
requires_tool jq
requires_tool "mkfs.$FS"

volumes=(data)
[ -n "$GROUP" ] && volumes=(data log)
log_volume=${volumes[-1]}
cell="$FS, write $CACHE, $CUT${GROUP:+, group of ${#volumes[@]}}"

# --- the machinery -----------------------------------------------------------------------------------

set_cache() { # DEVICE: what the kernel says of its cache, and so which writes need flushes
    local cache=/sys/block/${1##*/}/queue/write_cache
    echo "write $CACHE" >"$cache" 2>/dev/null
    [ "$(cat "$cache")" = "write $CACHE" ] || skip "$1 cannot be made write-$CACHE"
}

make_keys
for v in "${volumes[@]}"; do
    make_loop "$workdir/disk.$v" 320M
    set_cache "$loop"
    run "mkfs.$FS" -q "$loop"
    make_mount "$loop" "$workdir/mnt.$v"
    pairs+=("$v=$loop")
done
write_site_config "${volumes[*]}"
for v in "${volumes[@]}"; do # it would be taken for a device, below /dev
    printf '\n[volume %s]\nreplica = none\n' "$v" >>"$workdir/site.conf"
done
VOLUME_OPTIONS="quiesce = $CUT${GROUP:+$'\n'group = pair}" write_agent_config "${pairs[@]}"
origin="--site 127.0.0.1:$port --fingerprint $site_fingerprint --key $workdir/rescue.key"

points_json() { # VOLUME: one point a line
    # shellcheck disable=SC2086
    "$REPL" points "$1" $origin --json 2>>"$workdir/points.log" | jq -c '.timeline[] | select(.type == "point" and (.merged | not))'
}

# Points of the time under load that can be judged, one a line: seq of each volume, begin_ns, end_ns,
# attempts. A group's are those whose two halves carry the flag and the same times.
points_under_load() {
    local v to=${load_end:-9000000000000000000}
    for v in "${volumes[@]}"; do points_json "$v" | jq -c --arg v "$v" '. + {volume: $v}'; done |
        jq -rs --argjson from "$load_begin" --argjson to "$to" --argjson count "${#volumes[@]}" '
            map(select(.begin_ns > $from and .end_ns < $to)) | group_by(.begin_ns) |
            map(select(length == $count and (map(.end_ns) | unique | length) == 1 and
                ($count == 1 or all(.group)))) |
            .[] | [(map({(.volume): .seq}) | add | .data, .log), .[0].begin_ns, .[0].end_ns,
                (map(.attempts) | max)] | map(. // "-") | @tsv'
}
count_at_least() {
    agent_status >"$workdir/agent.status.log" 2>&1 # for whoever has to find out why
    site_status >"$workdir/site.status.log" 2>&1
    [ "$(points_under_load | wc -l)" -ge "$1" ]
}

# --- a point against the writer's word ---------------------------------------------------------------

# As after a power cut: the kernel replays the journal, then the filesystem must be clean. Where it
# was frozen it must be clean as it is.
replay_and_check() { # DEVICE
    local options=rw
    [ "$FS" = xfs ] && options=rw,nouuid
    if [ "$CUT $FS" = "freeze ext4" ]; then
        e2fsck -fn "$1" >"$workdir/fsck.log" 2>&1 || fail "frozen, and not clean without replay"
    fi
    make_mount "$1" "$workdir/replay" -o "$options"
    drop_mount "$workdir/replay"
    case $FS in
    ext4) run e2fsck -fn "$1" >"$workdir/fsck.log" 2>&1 ;;
    xfs) run xfs_repair -n "$1" >"$workdir/fsck.log" 2>&1 ;;
    esac
}

# judge VERB BEGIN END ARGUMENTS...: write_order on the images image.VOLUME, as they are mounted
judge() {
    local verb=$1 begin=$2 end=$3 v status options=rw
    local -A images
    shift 3
    [ "$FS" = xfs ] && options=rw,nouuid
    for v in "${volumes[@]}"; do
        make_loop "$workdir/image.$v" 0
        images[$v]=$loop
        make_mount "$loop" "$workdir/image.mnt.$v" -o "$options"
    done
    "$WRITE_ORDER" "$verb" --data "$workdir/image.mnt.data/data" \
        --log "$workdir/image.mnt.$log_volume/log" --times "$workdir/times" \
        --begin "$begin" --end "$end" "$@" >"$workdir/judged" 2>&1
    status=$?
    for v in "${volumes[@]}"; do
        drop_mount "$workdir/image.mnt.$v"
        drop_loop "${images[$v]}"
    done
    return $status
}

restore_and_judge() { # SEQ_OF_DATA SEQ_OF_LOG BEGIN END
    local v seq
    for v in "${volumes[@]}"; do
        seq=$1
        [ "$v" = log ] && seq=$2
        rm -f "$workdir/image.$v"
        # shellcheck disable=SC2086
        run "$REPL" restore "$v" --at "$seq" --to "$workdir/image.$v" $origin --yes \
            >"$workdir/restore.log" 2>&1
        make_loop "$workdir/image.$v" 0
        replay_and_check "$loop"
        drop_loop "$loop"
    done
    judge check "$3" "$4" || { cat "$workdir/judged"; fail "point $1 ($cell) is not in order"; }
    note "point $1, window of $((($4 - $3) / 1000)) us:$(cat "$workdir/judged")"
}

# The judge has teeth: a right image, made wrong in one place, is rejected.
spoilt_is_rejected() { # HOW BEGIN END
    local v
    for v in "${volumes[@]}"; do
        mv "$workdir/image.$v" "$workdir/right.$v"
        run cp --sparse=always "$workdir/right.$v" "$workdir/image.$v"
    done
    judge spoil "$2" "$3" --how "$1" || { cat "$workdir/judged"; fail "cannot spoil: $1"; }
    judge check "$2" "$3" && { cat "$workdir/judged"; fail "spoilt ($1) and not rejected"; }
    grep -q "WRONG" "$workdir/judged" || { cat "$workdir/judged"; fail "no verdict on: $1"; }
    note "spoilt ($1), rejected:$(grep -m 1 WRONG "$workdir/judged" | cut -d: -f2)"
    for v in "${volumes[@]}"; do mv "$workdir/right.$v" "$workdir/image.$v"; done
}

# --- the load ----------------------------------------------------------------------------------------

start_site
[ "$CUT" = freeze ] && start_guard
start_agent
for v in "${volumes[@]}"; do wait_replicated "$v" 60; done

note "$cell"
# A freeze comes when a round is small, so the agent has to read faster than the writer writes: on a
# machine that others keep busy too, one without rests outruns it.
rests=()
[ "$CUT" = freeze ] && rests=(--burst 5 --rest 5)
"$WRITE_ORDER" write "${rests[@]}" --data "$workdir/mnt.data/data" --log "$workdir/mnt.$log_volume/log" \
    --times "$workdir/times" >"$workdir/writer.log" 2>&1 &
test_pids[2]=$!
sleep 1
load_begin=$(date +%s%N)
load_end=
wait_for 60 "a point under load" count_at_least 1
read -r first_seq first_log_seq begin end _ < <(points_under_load | head -n 1)
note "one while the writer goes on"
restore_and_judge "$first_seq" "$first_log_seq" "$begin" "$end"
wait_for $((30 + POINTS * 4)) "$POINTS points under load" count_at_least "$POINTS"
sleep 1
load_end=$(date +%s%N)
sleep 0.2
kill -TERM "${test_pids[2]}"
wait "${test_pids[2]}" || fail "the writer"
test_pids[2]=
note "$(cat "$workdir/writer.log")"
rate=$(sed -n 's/.*, \([0-9]*\) a second/\1/p' "$workdir/writer.log")

for v in "${volumes[@]}"; do
    points_json "$v" | jq -s --argjson from "$load_begin" 'map(select(.begin_ns > $from))' >"$workdir/points.$v.json"
    others=$(jq -r --arg cut "$CUT" '[.[] | select(.cut != $cut) | .cut] | unique | join(", ")' "$workdir/points.$v.json")
    [ -z "$others" ] || fail "volume $v: points were cut by $others, not $CUT"
done
points_under_load >"$workdir/points"
count=$(wc -l <"$workdir/points")
note "$count points under load, $CUT${GROUP:+ of the group}: attempts and windows (us):" \
    "$(awk '{printf "%s%d/%.0f", (NR > 1 ? " " : ""), $5, ($4 - $3) / 1000}' "$workdir/points")"
[ "$count" -ge "$POINTS" ] || fail "only $count points were cut under load"
[ "$rate" -ge "$MIN_RATE" ] || fail "only $rate transactions a second; at least $MIN_RATE are to be shown"

# --- the points --------------------------------------------------------------------------------------

while read -r seq log_seq begin end _; do
    [ "$seq" = "$first_seq" ] && [ "$POINTS" -gt 1 ] && continue
    restore_and_judge "$seq" "$log_seq" "$begin" "$end"
    checked=("$begin" "$end")
done < <(awk -v count="$count" -v wanted="$POINTS" \
    'int(NR * wanted / count) != int((NR - 1) * wanted / count)' "$workdir/points")

for how in ${TEETH:+stale torn extra lost ahead}; do spoilt_is_rejected "$how" "${checked[@]}"; done
note "passed ($cell: $count points under load, $POINTS checked, $rate transactions a second)"
