#!/bin/bash
# A group of a directory tree and a second volume, cut at common points: a writer of ordered transactions
# (write_order.c) has its data file in the tree and its log in the other. Restored, they are of one moment:
# the tree has all that the log proves, and at most what is the next to be logged; and both have what was
# complete before the point was begun, and nothing that was begun after its end.
#
#   CUT=window|freeze|command  how points are cut; each common one must be
#   COMMANDS=yes       each volume has commands, which are run for all before any of them is held
#   WITH=block         the second volume: a block device with a filesystem of its own
#        same          the block device that the tree's own filesystem is on
#        tree          another tree of the same filesystem
#   AWAY=yes           the tree is out of reach for a while, and the other is cut by itself
#   POINTS=4           how many are restored and checked
#   TEST_DIR=/dev/shm  where everything lies
: "${TEST_DIR:=/dev/shm}"
. "${0%/*}/functions.sh"
: "${WRITE_ORDER:?the path of the writer}"
: "${CUT:=window}" "${WITH:=block}" "${POINTS:=4}" "${COMMANDS:=}" "${AWAY:=}"
requires_root
requires_loop
requires_tool jq
requires_tool mkfs.ext4

filesystem_make() { # NAME: sets $loop
    make_loop "$workdir/disk.$1" 256M
    run mkfs.ext4 -q "$loop"
    make_mount "$loop" "$workdir/mnt.$1"
}
make_keys
filesystem_make first
first=$workdir/mnt.first/tree
second=$workdir/mnt.first
run mkdir "$first"
case $WITH in
same) pair="other=$loop" ;;
tree)
    second=$workdir/mnt.first/more
    run mkdir "$second"
    pair="other=tree:$second"
    ;;
block)
    filesystem_make second
    second=$workdir/mnt.second
    pair="other=$loop"
    ;;
esac
write_site_config files other
for v in files other; do printf '\n[volume %s]\nreplica = none\n' "$v" >>"$workdir/site.conf"; done
[ -n "$COMMANDS" ] && commands="pre_command = echo pre >>$workdir/commands
post_command = echo post >>$workdir/commands"
VOLUME_OPTIONS="quiesce = $CUT
freeze_budget = 1s
group = pair
${commands:-}" write_agent_config "files=tree:$first" "$pair"

start_site
[ "$CUT" = window ] || start_guard
start_agent
for v in files other; do wait_replicated "$v" 30; done

# --- the load ----------------------------------------------------------------------------------------

# A tree has a window where nothing is written to it for as long as a round takes.
rests=(--burst 150 --rest 150)
[ "$CUT" = freeze ] && rests=()
begin=$(date +%s%N)
"$WRITE_ORDER" write --data "$first/data" --log "$second/log" --times "$workdir/times" \
    --pages 1024 "${rests[@]}" >"$workdir/writer.log" 2>&1 &
test_pids[2]=$!

# Points of both that carry the same times: seq of each, begin and end.
common() {
    for v in files other; do
        "$REPL" points "$v" --store "$workdir/store" --json 2>>"$workdir/points.log" | jq -c --arg v "$v" '.timeline[] + {volume: $v}'
    done | jq -rs --argjson from "$begin" --arg cut "$CUT" '
        map(select(.type == "point" and (.merged | not) and .group and .cut == $cut and .begin_ns > $from)) |
        group_by([.begin_ns, .end_ns]) | map(select(length == 2)) |
        .[] | [(map({(.volume): .seq}) | add | .files, .other), .[0].begin_ns, .[0].end_ns] | @tsv'
}
enough() { [ "$(common | wc -l)" -ge "$POINTS" ]; }
wait_for 20 "$POINTS common points, cut by $CUT" enough
if [ -n "$AWAY" ]; then
    away_at=$(site_value other .point.seq)
    alone() { [ "$(site_value other .point.seq)" -ge $((away_at + 3)) ]; }
    run mv "$first" "$first.away"
    wait_for 20 "points of the other alone" alone
    cause=$(agent_value other .cause)
    [ "$cause" = "group pair is cut each volume for itself: files does not run" ] || fail "the cause is: $cause"
    before=$(common | wc -l)
    [ "$(site_value other .point.seq)" -gt "$(common | tail -n 1 | cut -f 2)" ] || fail "the other's points are common ones"
    run mv "$first.away" "$first"
    POINTS=$((before + 2))
    wait_for 30 "common points again" enough
    note "$before common points before, $(common | wc -l) now"
fi
kill -TERM "${test_pids[2]}"
wait "${test_pids[2]}" || fail "the writer"
test_pids[2]=
note "$(cat "$workdir/writer.log")"

! grep "frozen by somebody else" "$workdir/guard.log" 2>/dev/null || fail "a filesystem was to be frozen twice"
if [ -n "$COMMANDS" ]; then
    stop_agent
    order=$(cut -c 2 "$workdir/commands" | tr -d '\n') # r: pre, o: post
    note "commands: $order"
    [ "$(grep -o rroo <<<"$order" | wc -l)" -ge "$POINTS" ] || fail "the commands were not run together"
    [ "$(tr -d o <<<"$order")" = "$(tr -d r <<<"$order" | tr o r)" ] || fail "pre and post are not in pairs"
fi

# --- the points --------------------------------------------------------------------------------------

restore_both() { # FILES_SEQ OTHER_SEQ END: by the time that the points of a group have in common
    local when=$(($3 + 1000)) # jq keeps about so much of it
    when=$(date -u -d "@${when%?????????}.${when: -9}" +%FT%T.%NZ)
    run "$REPL" restore "files=$workdir/restored" "other=$workdir/other" --at "$when" --store "$workdir/store" \
        --yes >"$workdir/restore.log" 2>&1
    grep -q "^files: point $1 of" "$workdir/restore.log" || fail "volume files at $when is not point $1"
    grep -q "^other: point $2 of" "$workdir/restore.log" || fail "volume other at $when is not point $2"
    [ "$(grep -c "together with its group" "$workdir/restore.log")" = 2 ] || fail "they do not say that they are a group's"
}
clean_without_replay() { # IMAGE
    if dumpe2fs -h "$1" 2>/dev/null | grep -q needs_recovery; then fail "frozen, and its journal has to be replayed"; fi
    e2fsck -fn "$1" >"$workdir/fsck.log" 2>&1 || fail "frozen, and not clean"
}
judge() { # LOG BEGIN END, of the tree that is restored
    "$WRITE_ORDER" check --data "$workdir/restored/data" --log "$1" --times "$workdir/times" \
        --begin "$2" --end "$3" >"$workdir/judged" 2>&1 || { cat "$workdir/judged"; fail "not of one moment"; }
}
check() { # FILES_SEQ OTHER_SEQ BEGIN END
    rm -rf "$workdir/restored" "$workdir/other"
    restore_both "$1" "$2" "$4"
    if [ "$WITH" = tree ]; then
        judge "$workdir/other/log" "$3" "$4"
    else
        [ "$CUT" != freeze ] || clean_without_replay "$workdir/other"
        make_loop "$workdir/other" 0
        make_mount "$loop" "$workdir/image"
        judge "$workdir/image/log" "$3" "$4"
        drop_mount "$workdir/image"
        drop_loop "$loop"
    fi
    note "points $1 and $2, window of $((($4 - $3) / 1000)) us:$(cat "$workdir/judged")"
}
checked=0
while read -r files other from to; do
    check "$files" "$other" "$from" "$to"
    checked=$((checked + 1))
done < <(common | head -n "$POINTS")
[ "$checked" -ge "$POINTS" ] || fail "only $checked common points were there to be checked"
note "passed: $checked of $(common | wc -l) common points checked"
