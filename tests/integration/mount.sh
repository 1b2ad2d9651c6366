#!/bin/bash
# A point of a block volume is mounted, from the site and from the store, and is what a restore of
# it gives. Its process and the site are killed under it: nobody hangs, and all of it is said.
. "${0%/*}/functions.sh"

requires_tool findmnt
[ -c /dev/fuse ] || skip "needs /dev/fuse"
raw_volume $((24 * 1024 * 1024 + 1536))
mnt=$workdir/mnt
mkdir "$mnt"
leave_point() { while mountpoint -q "$mnt" || findmnt "$mnt" >/dev/null; do umount -l "$mnt"; done; }
at_exit leave_point

run dd if=/dev/urandom of="$disk" bs=1M count=12 oflag=direct status=none
start_site
start_agent
wait_replicated raw
run dd if=/dev/urandom of="$disk" bs=4k count=40 seek=700 oflag=direct conv=notrunc status=none
wait_replicated raw
seq=$("$REPL" points raw --store "$workdir/store" --json | jq '[.. | objects | .seq? // empty] | max')
run "$REPL" restore raw --at "$seq" --to "$workdir/restored" --store "$workdir/store" 2>/dev/null
stop_agent

site=(--site "127.0.0.1:$port" --fingerprint "$site_fingerprint" --key "$workdir/rescue.key")
refused() { # CODE TEXT ARGUMENTS...: nothing is mounted, and it is said why
    local code=$1 text=$2
    shift 2
    "$REPL" "$@" 2>"$workdir/said"
    [ $? = "$code" ] && grep -q -- "$text" "$workdir/said" ||
        fail "repl $*: not $code with \"$text\": $(cat "$workdir/said")"
    ! findmnt "$mnt" >/dev/null || fail "repl $*: something is mounted"
}
refused 4 "no volume other" mount other "$mnt" --store "$workdir/store"
refused 4 "" mount raw "$mnt" --at 999999 --store "$workdir/store"
refused 5 "no directory" mount raw "$workdir/restored" --store "$workdir/store"
refused 5 "none" mount raw "$workdir/none" --store "$workdir/store"
refused 5 "nothing is mounted" umount "$mnt"
note "what cannot be mounted is refused with a reason"

is_point() { # WHAT
    same_bytes "$mnt/raw.img" "$workdir/restored" || fail "$1: it is not what a restore gives"
    grep -q "^point *$seq\$" "$mnt/raw.txt" || fail "$1: the text says: $(cat "$mnt/raw.txt")"
    [ "$(ls "$mnt" | tr '\n' ' ')" = "raw.img raw.txt " ] || fail "$1: there is $(ls "$mnt")"
    ! touch "$mnt/new" 2>/dev/null || fail "$1: it can be written to"
}
gone() { ! findmnt "$mnt" >/dev/null; }
for from in "--store $workdir/store" "${site[*]}"; do
    # shellcheck disable=SC2086
    run "$REPL" mount raw --at "$seq" "$mnt" $from 2>"$workdir/said"
    is_point "$from"
    exec 7<"$mnt/raw.img"
    "$REPL" umount "$mnt" 2>"$workdir/said"
    [ $? = 3 ] && grep -q "process $$ " "$workdir/said" ||
        fail "unmounted while it is used: $(cat "$workdir/said")"
    exec 7<&-
    run "$REPL" umount "$mnt"
    gone || fail "it is still mounted"
done
note "from the store and from the site it is what a restore gives"

run "$REPL" mount raw --at "$seq" "$mnt" --store "$workdir/store" 2>/dev/null
make_loop "$mnt/raw.img" 0 --read-only
same_bytes "$loop" <(head -c "$(blockdev --getsize64 "$loop")" "$workdir/restored") ||
    fail "the loop device is not what a restore gives"
"$REPL" umount "$mnt" 2>"$workdir/said"
grep -q "$loop" "$workdir/said" || fail "the loop device is not named: $(cat "$workdir/said")"
drop_loop "$loop"
run "$REPL" umount "$mnt"
note "it can be a loop device"

mount_here() { # sets $server
    "$REPL" mount raw --at "$seq" "$mnt" --foreground "${site[@]}" 2>"$workdir/mount.log" &
    server=$!
    test_pids[5]=$server
    wait_for 10 "it is mounted" [ -e "$mnt/raw.img" ]
}
ended() { ! kill -0 "$1" 2>/dev/null; }
mount_here
exec 7<"$mnt/raw.img"
dd bs=4k count=1 status=none <&7 >/dev/null || fail "it cannot be read"
kill -KILL "$server"
wait "$server" 2>/dev/null
# behind what has been read ahead
timeout 5 dd bs=1M skip=16 count=1 status=none <&7 2>"$workdir/said" >/dev/null
[ $? = 1 ] || fail "a read of a dead mount: $(cat "$workdir/said")"
exec 7<&-
"$REPL" mount raw "$mnt" --store "$workdir/store" 2>"$workdir/said"
[ $? = 5 ] && grep -q "repl umount" "$workdir/said" || fail "over a dead mount: $(cat "$workdir/said")"
run "$REPL" umount "$mnt"
gone || fail "the dead mount is still there"
note "its process is killed: reads fail, and it can be unmounted"

mount_here
stop_site KILL
begin=$EPOCHSECONDS
timeout 30 dd if="$mnt/raw.img" of=/dev/null bs=4k count=1 status=none 2>"$workdir/said"
[ $? = 1 ] && grep -q "Input/output error" "$workdir/said" ||
    fail "a read without a site: $(cat "$workdir/said")"
[ $((EPOCHSECONDS - begin)) -le 20 ] || fail "it waited $((EPOCHSECONDS - begin)) s for the site"
grep -q "a read failed" "$workdir/mount.log" || fail "the reason is not told"
start_site
is_point "after the site was away"
stop_site KILL
run "$REPL" umount "$mnt"
wait_for 5 "its process has ended" ended "$server"
note "the site is killed: reads fail in time, and go on when it is back"
