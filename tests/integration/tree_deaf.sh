#!/bin/bash
# Changes of a directory tree that are kept from the agent (tree_deaf.c): they are in no point, until
# the look at all names that takes place once an hour finds them. Then the volume says so, and the next
# point equals the tree. The same where writers never rest; there it is mended without a word, as what
# was found may be what was heard of a moment later.
. "${0%/*}/functions.sh"
: "${TREE_DUMP:?the path of tree_dump}"
requires_root
requires_loop
requires_tool jq
requires_tool python3
requires_tool "mkfs.${FS:=ext4}"

export TREE_DEAF=$workdir/deaf
make_keys
make_loop "$workdir/disk" 512M
run "mkfs.$FS" -q "$loop" >/dev/null
make_mount "$loop" "$workdir/mnt"
root=$workdir/mnt/root
run mkdir -p "$root/d/below" "$root/e"
for i in $(seq 8); do run dd if=/dev/urandom of="$root/d/$i" bs=64K count=5 status=none; done
write_site_config data
write_agent_config "data=tree:$root"
start_site
start_agent

dump() { "$TREE_DUMP" "$1" || fail "dump of $1"; }
restored() { # what the newest point has
    rm -rf "$workdir/back"
    run "$REPL" restore data --to "$workdir/back" --store "$workdir/store" >"$workdir/restore.log" 2>&1
    dump "$workdir/back" >"$workdir/got"
}
restored_equal() { # WHAT
    wait_replicated data 30
    restored
    dump "$root" >"$workdir/want"
    cmp -s "$workdir/want" "$workdir/got" && return
    diff "$workdir/want" "$workdir/got" | head -n 20
    fail "$1: what is restored differs"
}
change() { # ROUND
    echo "new $1" >"$root/d/new.$1"
    mkdir "$root/d/below/$1" && echo below >"$root/d/below/$1/file"
    mv "$root/d/1" "$root/e/moved" && mv "$root/e/moved" "$root/d/1" && mv "$root/d/2" "$root/e/2.$1"
    ln "$root/e/2.$1" "$root/d/2"
    rm "$root/d/new.before"
    dd if=/dev/urandom of="$root/d/3" bs=4096 seek=7 count=2 conv=notrunc status=none
    dd if=/dev/urandom of="$root/d/4" bs=4096 seek=9 count=1 conv=notrunc oflag=direct status=none
    truncate -s $((70000 + $1)) "$root/d/5"
    chmod $((600 + $1)) "$root/d/6"
    setfattr -n user.round -v "$1" "$root/d/7"
    python3 - "$root/d/8" "$1" <<'PY'
import mmap, sys
with open(sys.argv[1], "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
    m[200000:200010] = b"stored %3d" % int(sys.argv[2])
PY
}
hide() { # ROUND: a change that the agent does not hear of
    touch "$TREE_DEAF"
    change "$1"
    sync -f "$root"
    sleep 1.5 # in which a round asks what files were written to, and is told
    note "$(awk '{s += $1} END {print s + 0}' "$TREE_DEAF") things were overlooked"
    [ -s "$TREE_DEAF" ] || fail "nothing was overlooked"
    rm "$TREE_DEAF"
}
doubts() { agent_value data .degradations; }
more_doubts() { [ "$(doubts)" -gt "$before" ]; }
well() { [[ $(agent_value data .state) =~ ^(idle|ok)$ ]]; }

touch "$root/d/new.before"
restored_equal "the first copy"
wait_for 10 "the volume is well" well
before=$(doubts)

note "a change that nobody tells of"
hide 1
echo heard >"$root/e/heard"
wait_replicated data
restored
dump "$root" >"$workdir/want"
hidden=$(diff "$workdir/want" "$workdir/got" | grep -c '^<')
[ "$hidden" -ge 9 ] || fail "only $hidden names differ: it was not hidden"
grep -q "^./e/heard" "$workdir/got" || fail "what was heard of is not in the point"
[ "$(doubts)" = "$before" ] || fail "the volume was in doubt before it could be"

note "the look at all names; $hidden differ"
touch "$TREE_DEAF.audit"
wait_for 10 "the change is found" more_doubts
rm "$TREE_DEAF.audit"
grep -q "changes were found that had not been heard of" "$workdir/agent.log" ||
    fail "the cause was not said"
restored_equal "after it was found"
"$REPL" points data --store "$workdir/store" --json |
    jq -e '[.. | objects | select(.resync == true)] | length == 1' >/dev/null ||
    fail "of no point it is said that it was found by a look at everything"
wait_for 10 "the volume is well again" well

note "the same, among writers that never rest"
touch "$root/d/new.before"
wait_replicated data
hide 2
while sleep 0.02; do echo more >>"$root/e/busy"; echo more >>"$workdir/mnt/busy"; done &
test_pids[5]=$!
sleep 1
touch "$TREE_DEAF.audit"
sleep 4
rm "$TREE_DEAF.audit"
stop_pid "${test_pids[5]}"
test_pids[5]=
restored_equal "among writers"
note "passed"
