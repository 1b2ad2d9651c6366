#!/bin/bash
# Snapshots of a tree on btrfs, beside what tree.sh and tree_order.sh show of them: the unit test, on
# a subvolume that is mounted without what lies above it, and read-only; the top of the filesystem as
# the tree; none where nothing changes; what a killed agent left; where none can be made.
. "${0%/*}/functions.sh" || exit
: "${TREE_DUMP:?the path of tree_dump}" "${TEST:?the path of test_tree_snapshot}"
requires_root
requires_loop
requires_tool jq
requires_tool mkfs.btrfs

make_loop "$workdir/disk" 512M
run mkfs.btrfs -q "$loop" >/dev/null
make_mount "$loop" "$workdir/top"
run btrfs -q subvolume create "$workdir/top/data"
make_mount "$loop" "$workdir/mnt" -o subvol=data

note "the unit test"
BTRFS_TOP=$workdir/top TMPDIR=$workdir/mnt run "$TEST" >"$workdir/unit.log" 2>&1
grep -q 'PASSED.*8 test' "$workdir/unit.log" || fail "$(grep -m 1 'not run' "$workdir/unit.log")"

snapshots() { btrfs subvolume list "$workdir/top" | grep -c ' path \.repl/'; }
are_snapshots() { [ "$(snapshots)" = "$1" ]; }
generation() { btrfs inspect-internal dump-super "$loop" | awk '$1 == "generation" { print $2 }'; }
cut() { agent_value data .point.cut; }
restored() { # WHAT DIRECTORY
    wait_replicated data
    rm -rf "$workdir/restored"
    run "$REPL" restore data --to "$workdir/restored" --store "$workdir/store" --yes \
        >"$workdir/restore.log" 2>&1
    # of a subvolume in it that it is there, empty, and no more
    [ "$(ls -A "$workdir/restored/inner")" = "" ] || fail "$1: what is in the subvolume in it"
    "$TREE_DUMP" "$2" | grep -v '^\./inner' >"$workdir/dump.source"
    "$TREE_DUMP" "$workdir/restored" | grep -v '^\./inner' >"$workdir/dump.restored"
    diff "$workdir/dump.source" "$workdir/dump.restored" >"$workdir/dump.log" || fail "$1: it differs"
}

# The tree's own mount may not be written to, as where systemd protects /home; the writer has another.
make_keys
write_site_config data
start_site
run btrfs -q subvolume create "$workdir/top/home"
home=$workdir/top/home
echo one >"$home/one"
run btrfs -q subvolume create "$home/inner" && echo outside >"$home/inner/outside"
mkdir -p "$workdir/home"
run mount -o subvol=home "$loop" "$workdir/home"
test_mounts+=("$workdir/home")
run mount -o remount,bind,ro "$workdir/home"
VOLUME_OPTIONS="quiesce = snapshot" write_agent_config "data=tree:$workdir/home"
start_agent
note "a subvolume, mounted read-only"
wait_replicated data
echo two >"$home/two"
wait_replicated data
[ "$(cut)" = snapshot ] || fail "the point is of a $(cut)"
[ "$(site_value data .point.consistency)" = crash ] || fail "its consistency"
rm "$home/inner/outside" # its inode number is that of a file of the tree, which would be taken for a link
restored "a subvolume" "$home"

note "nothing changes in the tree"
wait_for 10 "the snapshots are removed" are_snapshots 0
# What is written to elsewhere has an inode number that no file of the tree has; with ALIAS=yes one that
# a file of it has, which is told from that once it has been looked at half a minute after its change.
if [ "${ALIAS:-no}" = yes ]; then
    sleep 31 && echo >"$workdir/top/elsewhere" && sleep 4
else
    touch "$workdir"/top/unused.{1..20} && rm "$workdir"/top/unused.*
fi
sync -f "$home" && sleep 1.5
elsewhere=$workdir/top/elsewhere points=$(site_value data .point.seq) before=$(generation)
for _ in 1 2 3 4 5 6; do echo "$RANDOM" >"$elsewhere"; sleep 0.4; done
sync -f "$home"
[ "${ALIAS:-no}" = no ] || ls -i "$home" | grep -q "^ *$(stat -c %i "$elsewhere") " || fail "no alias"
[ "$(site_value data .point.seq)" = "$points" ] || fail "there was a point all the same"
after=$(generation) # one for the sync, and perhaps one of the kernel's own
[ $((after - before)) -le 3 ] || fail "$((after - before)) commits, though nothing changed"

note "an agent is killed while there is a snapshot"
are_any() { [ "$(snapshots)" != 0 ]; }
for i in $(seq 200); do
    head -c 30M /dev/urandom >"$home/large"
    for _ in $(seq 50); do are_any && break 2; sleep 0.02; done
done
stop_agent KILL
are_snapshots 1 || fail "$(snapshots) snapshots are left"
start_agent
restored "after a kill" "$home"
wait_for 10 "what was left is removed" are_snapshots 0

note "no snapshot can be made"
stop_agent
truncate -s 0 "$home/swapfile"
chattr +C "$home/swapfile"
run fallocate -l 16M "$home/swapfile"
chmod 600 "$home/swapfile"
mkswap -q "$home/swapfile" 2>/dev/null >&2
if swapon "$home/swapfile" 2>/dev/null; then
    swap_off() { swapoff "$home/swapfile" 2>/dev/null; }
    at_exit swap_off
    start_agent
    says_why() { [[ $(agent_value data .cause) == *"no snapshot of its subvolume"*"swap file"* ]]; }
    echo three >"$home/three"
    wait_for 20 "why there is no snapshot" says_why
    wait_replicated data
    [ "$(cut)" = window ] || fail "the point is of a $(cut)"
    swap_off
    echo four >"$home/four"
    is_snapshot() { [ "$(cut)" = snapshot ]; }
    wait_for 20 "snapshots again" is_snapshot
else
    note "(not tried: no swap file)"
    start_agent
fi
stop_agent

note "the top of the filesystem"
run "$REPL" forget data --config "$workdir/agent.conf" >"$workdir/forget.log" 2>&1
rm -rf "$workdir/state" "$workdir/store"
stop_site
start_site
VOLUME_OPTIONS="quiesce = snapshot" write_agent_config "data=tree:$workdir/top"
start_agent
wait_replicated data 60
points=$(site_value data .point.seq)
sleep 2.5
[ "$(site_value data .point.seq)" -le $((points + 1)) ] || fail "points without an end"
echo five >"$workdir/top/five"
wait_replicated data
[ "$(cut)" = snapshot ] || fail "the point is of a $(cut)"
run "$REPL" restore data --to "$workdir/restored.top" --store "$workdir/store" --yes \
    >"$workdir/restore.log" 2>&1
[ "$(ls -A "$workdir/restored.top")" = "$(ls -A "$workdir/top" | grep -v '^\.repl$')" ] ||
    fail "restored: $(ls -A "$workdir/restored.top" | tr '\n' ' ')"
stop_agent

note "not on btrfs"
mkdir "$workdir/plain"
VOLUME_OPTIONS="quiesce = snapshot" write_agent_config "plain=tree:$workdir/plain"
start_agent
refused() { [[ $(agent_value plain .cause) == *"is not on btrfs"*"set quiesce = window"* ]]; }
wait_for 10 "a refusal" refused
note "passed"
