#!/bin/bash
# A person restores at a terminal: is asked, mistypes, changes their mind, interrupts, and goes on;
# targets in use are refused before anybody is asked. Zeros take no room on the target. Without a
# terminal nothing is animated and nobody is asked.
. "${0%/*}/functions.sh"
requires_tool python3
raw_volume 24M

run dd if=/dev/urandom of="$disk" bs=1M count=6 oflag=direct status=none
run dd if=/dev/urandom of="$disk" bs=1M count=4 seek=16 oflag=direct conv=notrunc status=none
start_site
start_agent
wait_replicated raw
stop_agent
make_loop "$workdir/spare" 32M
spare=$loop
run dd if=/dev/zero bs=1M count=32 status=none | tr '\0' '\377' | run dd of="$spare" bs=1M iflag=fullblock oflag=direct status=none
untouched=$(device_hash "$spare")

origin=(--site "127.0.0.1:$port" --fingerprint "$site_fingerprint" --key "$workdir/rescue.key"
    --state "$workdir/restores")
said=$workdir/said
on_terminal() { # CODE [see REGEX | type TEXT | key NAME]... -- ARGUMENTS...: of repl restore raw
    local code=$1 steps=()
    shift
    while [ "$1" != -- ]; do steps+=("$1"); shift; done
    shift
    "${BASH_SOURCE[0]%/*}/on_terminal.py" "$said" "${steps[@]}" -- "$REPL" restore raw "${origin[@]}" "$@" 2>"$workdir/steps"
    [ $? = "$code" ] || fail "not $code: $(cat "$workdir/steps") $(tr '\r' '\n' <"$said")"
}
shows() { grep -aq -- "$1" "$said" || fail "not shown: $1: $(cat "$said")"; }
shows_not() { ! grep -aq -- "$1" "$said" || fail "shown: $1: $(cat "$said")"; }
is_untouched() { [ "$(device_hash "$spare")" = "$untouched" ] || fail "$1: something was written"; }
refuses() { # CODE TEXT ARGUMENTS...: without a terminal; in a dry run as well, in the same words
    local code=$1 text=$2
    shift 2
    "$REPL" restore raw "${origin[@]}" "$@" </dev/null >"$workdir/out" 2>"$said"
    [ $? = "$code" ] && grep -q -- "$text" "$said" || fail "$*: not $code with \"$text\": $(cat "$said")"
    "$REPL" restore raw "${origin[@]}" "$@" --dry-run </dev/null >"$workdir/out" 2>"$said.dry"
    [ $? = "$code" ] && same_bytes "$said" "$said.dry" ||
        fail "$*: a dry run says $(cat "$said.dry"), a restore $(cat "$said")"
    [ ! -s "$workdir/out" ] || fail "$*: a refusal printed $(cat "$workdir/out")"
}

on_terminal 0 see "fetches   at most 10.* MiB" see "takes  .*, and writing" -- --to "$spare" --dry-run
shows "holds nothing that is known"
shows_not "To go on"
[ ! -e "$workdir/restores" ] || fail "a dry run made a directory"
on_terminal 5 see "To go on, type $spare: " type yes -- --to "$spare"
shows "\"yes\" is not $spare: nothing was written"
on_terminal 5 see "To go on, type" key end -- --to "$spare"
shows "no confirmation was given"
on_terminal 254 see "To go on, type" key interrupt -- --to "$spare" # by the signal
"$REPL" restore raw "${origin[@]}" --to "$spare" </dev/null 2>"$said"
[ $? = 5 ] || fail "restored with nobody to ask"
shows "no confirmation was given, and nothing written: a script gives --yes"
is_untouched "nobody said yes"
note "nothing is written unless the device's name is typed"

on_terminal 2 see "To go on, type" type "$spare" see "writing: [1-9][0-9.]* MiB of 24 MiB, .* left" \
    key interrupt -- --to "$spare" --bandwidth 3M
shows "$spare is incomplete, do not use it yet; the same command with --at [0-9]* goes on"
seq=$(grep -ao -- "--at [0-9]*" "$said" | tail -n1 | cut -d' ' -f2)
run "$REPL" restore raw "${origin[@]}" --at "$seq" --to "$spare" --dry-run >"$said" 2>/dev/null
shows "goes on   with an unfinished restore of this point, which left [1-9]"
run "$REPL" restore raw "${origin[@]}" --at "$seq" --to "$spare" --yes --json </dev/null >"$workdir/out" 2>"$said"
shows "going on with an unfinished restore"
shows "restored and verified: $spare holds point $seq"
! grep -q $'[\r\033]' "$said" || fail "animated without a terminal: $(cat -v "$said")"
[ "$(jq -r '[.schema, .resumed, .verified_bytes, .target.path] | join(" ")' "$workdir/out")" = \
    "1 true $((24 << 20)) $spare" ] || fail "the result is $(cat "$workdir/out")"
cmp -n $((24 << 20)) "$disk" "$spare" || fail "it is not what was there"
note "interrupted, it says how to go on, and goes on"

# 10 MiB of data, the 8 MiB behind the volume, and what the filesystem needs itself
room() { echo $(($(stat -c %b "$1") / 2048)); }
run sync "$workdir/spare"
[ "$(room "$workdir/spare")" -le 19 ] || fail "zeros take room: $(room "$workdir/spare") MiB of the device"
on_terminal 0 -- --at "$seq" --to "$workdir/restored"
shows $'\r''verifying: '
same_bytes "$disk" "$workdir/restored" || fail "the file is not what was there"
[ "$(room "$workdir/restored")" -le 11 ] || fail "zeros take room: $(room "$workdir/restored") MiB of the file"
run dd if=/dev/zero bs=1M count=24 status=none | tr '\0' '\377' >"$workdir/full"
run "$REPL" restore raw "${origin[@]}" --at "$seq" --to "$workdir/full" --overwrite 2>/dev/null
same_bytes "$disk" "$workdir/full" || fail "the file that was full is not what was there"
[ "$(room "$workdir/full")" -le 11 ] || fail "zeros take room: $(room "$workdir/full") MiB where a file was"
note "zeros take no room"

run mkfs.ext4 -q "$spare"
make_mount "$spare" "$workdir/mnt"
on_terminal 5 see "$spare, or a part of it, is mounted on $workdir/mnt: unmount it first" -- --to "$spare"
shows_not "To go on"
refuses 5 "is mounted on $workdir/mnt" --to "$spare" --yes
drop_mount "$workdir/mnt"
on_terminal 5 see "holds    an ext2, ext3 or ext4 filesystem" see "To go on" type no -- --to "$spare"
exec 7<"$spare"
python3 -c "import os, sys, time; os.open(sys.argv[1], os.O_RDONLY | os.O_EXCL); print(flush=True); time.sleep(60)" \
    "$spare" >"$workdir/held" &
test_pids[5]=$!
wait_for 10 "the device is held" [ -s "$workdir/held" ]
refuses 5 "is in use" --to "$spare" --yes
stop_pid "${test_pids[5]}"
exec 7<&-
refuses 5 "is what the device $spare is made of" --to "$workdir/spare" --overwrite
refuses 5 "restored exists: name a new file, or give --overwrite" --to "$workdir/restored"
make_loop "$workdir/small" 16M
refuses 5 "is too small: it has $((16 << 20)) bytes" --to "$loop" --yes
run blockdev --setro "$spare"
refuses 5 "is read-only" --to "$spare" --yes
run blockdev --setrw "$spare"
refuses 4 "99999" --at 99999 --to "$spare" --yes
refuses 64 "neither a block device nor a regular file" --to "$workdir" --yes
refuses 5 "which this host protects as volume raw" --to "$disk" --yes --config "$workdir/agent.conf"
note "what cannot be is refused, in a dry run as well"
