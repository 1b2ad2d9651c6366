#!/bin/bash
# What a point of a directory tree holds is one instant of it: writers put a number into one file,
# then into another, rename, and link; in each restored point the second is as far as the first, or
# one behind. Cut in windows, and with CUT=freeze under frozen filesystems while they never rest; so
# with CUT=snapshot (FS=btrfs; CUT=window-else-snapshot too), where what is promised of two writes is as
# after a power cut, so that each is synced.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool "mkfs.${FS:=ext4}"

make_keys
make_loop "$workdir/disk" 512M
run "mkfs.$FS" -q "$loop"
make_mount "$loop" "$workdir/mnt"
root=$workdir/mnt/root
run mkdir "$root" "$workdir/mnt/elsewhere"
write_site_config data
: "${CUT:=window}"
synced=:
case $CUT in
freeze) VOLUME_OPTIONS="quiesce = freeze
freeze_budget = 1s" ;;
*snapshot) VOLUME_OPTIONS="quiesce = $CUT" synced=sync ;;
esac
write_agent_config "data=tree:$root"
start_site
[ "$CUT" = freeze ] && start_guard
start_agent

# Each step i: append to a, append to b, make c.i, remove c.(i-1), rename d.(i-1) to d.i.
writer() { # DIRECTORY PAUSE
    local i=0
    mkdir -p "$1"
    : >"$1/a"; : >"$1/b"; : >"$1/c.0"; : >"$1/d.0"
    while [ ! -e "$workdir/enough" ]; do
        i=$((i + 1))
        echo "$i" >>"$1/a" && $synced "$1/a"
        echo "$i" >>"$1/b" && $synced "$1/b"
        echo "$i" >"$1/c.$i"
        rm "$1/c.$((i - 1))"
        mv "$1/d.$((i - 1))" "$1/d.$i"
        sleep "$2"
    done
}
pauses=(0.05 0.11)
[ "$CUT" = window ] || pauses=(0 0)
for i in 1 2; do
    writer "$root/w$i" "${pauses[i - 1]}" &
    test_pids+=($!)
done
# Names alone need no sync to be in order, so that this is a fast one: e/(i-1) to e/i, then f/(i-1) to f/i.
renamer() { # DIRECTORY
    local i=0
    mkdir -p "$1/e" "$1/f"
    : >"$1/e/0"; : >"$1/f/0"
    while [ ! -e "$workdir/enough" ]; do
        i=$((i + 1))
        mv "$1/e/$((i - 1))" "$1/e/$i"
        mv "$1/f/$((i - 1))" "$1/f/$i"
    done
}
if [ "$synced" = sync ]; then # and for window-else-snapshot a restless one
    renamer "$root/names" &
    test_pids+=($!)
fi
writer "$workdir/mnt/elsewhere/w" 0 & # which is none of the tree's business
test_pids+=($!)

points() { site_value data .point.seq; }
resorted=no # to a snapshot
enough() {
    [ "$(agent_value data .point.cut)" = snapshot ] && resorted=yes
    [ "$(points)" -ge "${POINTS:-8}" ] 2>/dev/null &&
        { [ "$CUT" != window-else-snapshot ] || [ "$resorted" = yes ]; }
}
wait_for 60 "${POINTS:-8} points" enough
touch "$workdir/enough"
wait_replicated data 30
cuts=$("$REPL" points data --store "$workdir/store" --json |
    jq -r '[.. | objects | select(has("cut")) | .cut] | group_by(.) | map("\(length) by \(.[0])") | join(", ")')
note "points: $cuts"
[ "$CUT" = window ] || [[ $cuts == *"${CUT##*-}"* ]] || fail "no point was cut by $CUT"
[ "$CUT" != snapshot ] || [[ $cuts != *window* ]] || fail "a snapshot was not made"

last() { tail -n 1 "$1" | grep -o '[0-9]*' || echo 0; }
number_of() { # DIRECTORY LETTER: of the only file, or the two of a step half done
    find "$1" -name "$2.*" -printf '%f\n' | cut -d. -f2 | sort -n | tr '\n' ' '
}
check() { # DIRECTORY
    local a b c d
    [ -e "$1/d.0" ] && [ ! -s "$1/a" ] && return
    a=$(last "$1/a") b=$(last "$1/b")
    read -r -a c <<<"$(number_of "$1" c)"
    d=$(number_of "$1" d)
    [ "$(seq "$a" | cksum)" = "$(cksum <"$1/a")" ] || fail "$1/a is not 1 to $a"
    [ "$(seq "$b" | cksum)" = "$(cksum <"$1/b")" ] || fail "$1/b is not 1 to $b"
    [ $((a - b)) -ge 0 ] && [ $((a - b)) -le 1 ] || fail "$1: a is at $a, b at $b"
    [ $((b - c[-1])) -ge 0 ] && [ $((b - c[-1])) -le 1 ] || fail "$1: b is at $b, c at ${c[*]}"
    [ ${#c[@]} = 1 ] || [ "${c[*]}" = "$((c[1] - 1)) ${c[1]}" ] || fail "$1: c has ${c[*]}"
    [ $((c[0] - d)) -ge 0 ] && [ $((c[0] - d)) -le 1 ] || fail "$1: c has ${c[*]}, d is at $d"
    note "$1: a $a, b $b, c ${c[*]}, d $d"
}
check_names() { # DIRECTORY
    local e f
    e=$(ls "$1/e") f=$(ls "$1/f")
    [ $((e - f)) -ge 0 ] && [ $((e - f)) -le 1 ] || fail "$1: e has $e, f has $f"
    note "$1: e $e, f $f"
}
checked=0
for seq in $("$REPL" points data --store "$workdir/store" --json |
    jq '[.. | objects | select(has("seq")) | .seq] | unique | .[]'); do
    [ -d "$workdir/at.$seq" ] && continue
    run "$REPL" restore data --at "$seq" --to "$workdir/at.$seq" --store "$workdir/store" \
        >"$workdir/restore.log" 2>&1
    [ ! -e "$workdir/at.$seq/names/f/"[0-9]* ] || check_names "$workdir/at.$seq/names"
    for i in 1 2; do
        [ -e "$workdir/at.$seq/w$i/d.0" ] || [ -e "$workdir/at.$seq/w$i/a" ] || continue
        check "$workdir/at.$seq/w$i"
        checked=$((checked + 1))
    done
done
[ "$checked" -ge "${POINTS:-8}" ] || fail "only $checked directories were there to be checked"
note "passed, $checked checked"
