#!/bin/bash
# The replica of a directory tree as its readers see it, on a filesystem with reflinks (FS=xfs) and on
# one without (FS=ext4): files whole, directories moved by a rename, the site killed at any moment
# while it is brought forward, changed by others, and compared, not made anew, after a full.
#
#   FILES=2000   names in the directory that is moved
#   KILLS=6      of the site, at random moments, under writes
. "${0%/*}/functions.sh" || exit # nothing below may run anywhere but in its directory
: "${TREE_DUMP:?the path of tree_dump}" "${FILES:=2000}" "${KILLS:=6}"
requires_root
requires_loop
requires_tool jq
requires_tool "mkfs.${FS:=xfs}"

make_filesystem() { # IMAGE DIRECTORY
    make_loop "$1" 1G
    run "mkfs.$FS" -q "$loop" >/dev/null
    make_mount "$loop" "$2"
}
make_filesystem "$workdir/disk" "$workdir/mnt"
make_filesystem "$workdir/replica-disk" "$workdir/replica"
tree=$workdir/mnt/root replica=$workdir/replica/tree
mkdir "$tree" "$tree/many" "$tree/deep"
for ((i = 0; i < FILES; i++)); do echo "$i" >"$tree/many/$i"; done
run dd if=/dev/urandom of="$tree/large" bs=1M count=64 status=none
run cp -r /usr/share/common-licenses "$tree"

equal() { # WHAT
    wait_replicated data 60
    wait_for 60 "$1: the replica reaches the point" replica_reached data
    "$TREE_DUMP" "$tree" >"$workdir/want" && "$TREE_DUMP" "$replica" >"$workdir/got" || fail "dump"
    cmp -s "$workdir/want" "$workdir/got" || {
        diff "$workdir/want" "$workdir/got" | head -n 20
        fail "$1: the replica differs"
    }
    note "$1: point $(site_value data .replica_seq), $(wc -l <"$workdir/want") names are equal"
}
compared() { grep -c "is compared with the point" "$workdir/site.log"; }
inode() { stat -c %i "$replica/$1"; }

make_keys
write_site_config data
printf '[volume data]\nreplica = %s\n' "$workdir/replica" >>"$workdir/site.conf"
write_agent_config "data=tree:$tree"

note "a directory that is not empty is left alone"
run mkdir "$workdir/replica/mine"
start_site
start_agent
wait_replicated data 60
in_the_way() { site_value data .cause | grep -q "is not empty"; }
wait_for 20 "the site says so" in_the_way
[ "$(ls "$workdir/replica" | grep -v lost+found)" = mine ] || fail "it was not"
run rmdir "$workdir/replica/mine"
equal "begun"
"$REPL" status --socket "$workdir/site.sock" | grep -q "replica: $replica (directory), at point" ||
    fail "status"

note "a page of a large file, while it is read"
before=$(inode large)
exec 9<"$replica/large"
sum=$(sha256sum "$replica/large")
run dd if=/dev/urandom of="$tree/large" bs=4k seek=1000 count=1 conv=notrunc status=none
equal "a page of it"
if [ "$FS" = xfs ]; then
    [ "$(sha256sum <&9 | cut -d' ' -f1)" = "${sum%% *}" ] || fail "who had it open sees another"
    [ "$(inode large)" != "$before" ] || fail "it was written in place"
else
    [ "$(inode large)" = "$before" ] || fail "it was not written in place"
fi
exec 9<&-

note "a directory of $FILES files is moved, and back, with another in its place"
before=$(inode many) inside=$(inode many/77)
mv "$tree/many" "$tree/deep/moved"
mkdir "$tree/many"
equal "moved"
[ "$(inode deep/moved)/$(inode deep/moved/77)" = "$before/$inside" ] || fail "it was not a rename"
mv "$tree/many" "$tree/deep/moved/many"
mv "$tree/deep/moved" "$tree/many"
equal "moved back"
[ "$(inode many/77)" = "$inside" ] || fail "it was not a rename"

note "the site is killed, $KILLS times"
writers() {
    local j
    for ((j = 0; ; j++)); do
        mv "$tree/many" "$tree/many.$j"
        echo "$j" >"$tree/many.$j/new" && mv "$tree/many.$j/new" "$tree/many.$j/$((j % FILES))"
        ln -f "$tree/many.$j/5" "$tree/deep/link"
        dd if=/dev/urandom of="$tree/large" bs=64k seek=$((j % 900)) count=1 conv=notrunc status=none
        cp -r "$tree/common-licenses" "$tree/deep/copy.$j"
        rm -rf "$tree/deep/copy.$((j - 3))"
        mv "$tree/many.$j" "$tree/many"
        sleep 0.3
    done
}
writers &
test_pids[2]=$!
for ((i = 0; i < KILLS; i++)); do
    sleep "2.$((RANDOM % 10))"
    stop_site KILL
    start_site
done
stop_pid "${test_pids[2]}"
test_pids[2]=
for i in "$tree"/many.*; do [ -d "$i" ] && mv "$i" "$tree/many"; done
equal "after the kills"
[ "$(compared)" = 0 ] || fail "it did not find what it expected"

note "somebody else has been there"
rm "$replica/many/7"
echo mine >"$replica/large"
echo more >>"$tree/many/7"
run dd if=/dev/urandom of="$tree/large" bs=4k seek=1 count=1 conv=notrunc status=none
equal "mended"
[ "$(compared)" -ge 1 ] || fail "that was not seen"

note "a full is compared"
inside=$(inode many/77)
stop_agent
run rm "$workdir/state/volumes/data/tree" "$workdir/state/volumes/data/tree-lock"
echo other >"$tree/many/78"
start_agent
equal "after a full"
[ "$(inode many/77)" = "$inside" ] || fail "it was made anew"
run "$REPL" verify data --store "$workdir/store" --replica "$workdir/replica" >"$workdir/verify.log"
grep -q "replica $replica: a directory, not compared" "$workdir/verify.log" || fail "verify"
note "passed"
