#!/bin/bash
# The last good of several points is found by a command, with and without points that it cannot tell;
# whatever ends the search, nothing stays mounted and no directory is left.
. "${0%/*}/functions.sh"
requires_tool jq
requires_tool findmnt
[ -c /dev/fuse ] || skip "needs /dev/fuse"
raw_volume $((8 * 1024 * 1024))
export TMPDIR=$workdir/tmp
mkdir "$TMPDIR"
leave_points() {
    local at
    for at in $(findmnt -rno TARGET -t fuse.repl | grep "^$TMPDIR/"); do umount -l "$at"; done
}
at_exit leave_points

start_site
start_agent
seqs=()
for value in 1 2 3 4 5 6 7; do
    printf '%s' "$value" | dd of="$disk" bs=4k conv=notrunc,sync oflag=direct iflag=fullblock status=none ||
        fail "cannot write"
    wait_replicated raw
    seqs+=("$(site_value raw .point.seq)")
done
stop_agent
from=(--store "$workdir/store")
none_left() {
    [ -z "$(ls "$TMPDIR")" ] && ! findmnt -rno TARGET -t fuse.repl | grep -q "^$TMPDIR/" ||
        fail "$1: left behind: $(ls "$TMPDIR")"
}
bisect() { # CODE COMMAND...: sets what it printed
    local code=$1
    shift
    "$REPL" bisect raw --good "${seqs[0]}" --bad "${seqs[6]}" "${from[@]}" --json -- "$@" \
        >"$workdir/out" 2>"$workdir/said"
    [ $? = "$code" ] || fail "not $code: $(cat "$workdir/said")"
    none_left "$*"
}
value_is() { # EXPRESSION VALUE
    [ "$(jq -r "$1" "$workdir/out")" = "$2" ] || fail "$1 is not $2: $(cat "$workdir/out")"
}
# The truth: the last point, of all there are, whose first byte is at most 4.
last=
next=
for seq in $("$REPL" points raw "${from[@]}" --json 2>/dev/null | jq '[.. | objects | .seq? // empty] | unique | .[]'); do
    [ "$seq" -ge "${seqs[0]}" ] && [ "$seq" -le "${seqs[6]}" ] || continue
    run "$REPL" restore raw --at "$seq" --to "$workdir/restored" --overwrite "${from[@]}" 2>/dev/null
    if [ "$(head -c 1 "$workdir/restored")" -le 4 ]; then last=$seq; else next=${next:-$seq}; fi
done

bisect 0 sh -c 'echo noise; [ "$(head -c 1 "$REPL_MOUNT/raw.img")" -le 4 ]'
value_is .last_good.seq "$last"
value_is .first_bad.seq "$next"
value_is .skipped_between 0
grep -q "repl restore raw --at $last " "$workdir/said" || fail "the next step: $(cat "$workdir/said")"
bisect 0 sh -c '[ "$(head -c 1 "$1")" -le 4 ]' sh {}/raw.img
value_is .last_good.seq "$last"
note "the last good point is found"

bisect 1 sh -c 'v=$(head -c 1 "$REPL_MOUNT/raw.img"); case $v in [345]) exit 125 ;; esac; [ "$v" -le 2 ]'
[ "$(jq .skipped_between "$workdir/out")" -ge 3 ] || fail "skipped: $(cat "$workdir/out")"
value_is .first_bad.seq "${seqs[5]}"
note "points of which nothing can be told are said to be there"

bisect 5 sh -c 'exit 130'
bisect 5 "$workdir/none"
bisect 5 sh -c 'kill -KILL $$'
for ends in TERM INT; do
    # A shell's background process ignores SIGINT, and a signal that is ignored does not wake it.
    env --default-signal=INT "$REPL" bisect raw --good "${seqs[0]}" --bad "${seqs[6]}" "${from[@]}" -- \
        sh -c "touch $workdir/begun; exec sleep 60" >/dev/null 2>"$workdir/said" &
    test_pids[5]=$!
    wait_for 10 "the command runs" [ -e "$workdir/begun" ]
    kill "-$ends" "${test_pids[5]}"
    wait "${test_pids[5]}"
    [ $? = 5 ] || fail "$ends: $(cat "$workdir/said")"
    test_pids[5]=
    rm "$workdir/begun"
    none_left "$ends"
done
"$REPL" bisect raw --good "${seqs[6]}" --bad "${seqs[0]}" "${from[@]}" -- true 2>"$workdir/said"
[ $? = 64 ] && grep -q "older" "$workdir/said" || fail "the wrong way round: $(cat "$workdir/said")"
none_left "refused"
note "passed"
