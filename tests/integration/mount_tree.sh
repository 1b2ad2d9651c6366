#!/bin/bash
# A point of a directory tree is mounted, and is what the tree was and what a restore of it gives.
. "${0%/*}/functions.sh" || exit # nothing below may run anywhere but in its directory
: "${TREE_DUMP:?the path of tree_dump}"
requires_root
requires_loop
requires_tool jq
requires_tool findmnt
requires_tool setfattr
[ -c /dev/fuse ] || skip "needs /dev/fuse"

make_loop "$workdir/disk" 64M
run mkfs.ext4 -q "$loop" >/dev/null
make_mount "$loop" "$workdir/fs"
tree=$workdir/fs/root mnt=$workdir/mnt
mkdir "$tree" "$tree/dir" "$tree/many" "$mnt"
leave_point() { while findmnt "$mnt" >/dev/null; do umount -l "$mnt"; done; }
at_exit leave_point
for ((i = 0; i < 700; i++)); do echo "$i" >"$tree/many/a name with $i in it"; done
run dd if=/dev/urandom of="$tree/large" bs=1M count=5 status=none
run truncate -s 3M "$tree/sparse"
run dd if=/dev/urandom of="$tree/sparse" bs=4k seek=300 count=2 conv=notrunc status=none
run ln "$tree/large" "$tree/dir/hard"
run ln -s ../nowhere "$tree/dir/link"
run mkfifo -m 640 "$tree/fifo"
run mknod -m 600 "$tree/device" b 7 99
run setfattr -n user.note -v text "$tree/large"
run chown 1000:100 "$tree/many"
run chmod 2750 "$tree/many"
run touch -d '1969-12-31 23:59:58.25 UTC' "$tree/dir"

make_keys
write_site_config data
write_agent_config "data=tree:$tree"
start_site
start_agent
wait_replicated data
stop_agent

plan() { # JQ: of a dry run
    "$REPL" restore data --to "$workdir/restored" --state "$workdir/tmp" --store "$workdir/store" --dry-run --json \
        2>/dev/null | jq -e "$1" >/dev/null || fail "the plan is not: $1"
}
plan '.schema == 1 and .dry_run and .kind == "tree" and .made > 5 and (.changes | map(select(.change == "make")) | length) == .made'
[ ! -e "$workdir/restored" ] || fail "a dry run made something"
run "$REPL" restore data --to "$workdir/restored" --state "$workdir/tmp" --store "$workdir/store" --json 2>/dev/null |
    jq -e '(.dry_run | not) and .files > 1 and .changes == []' >/dev/null || fail "what came of the restore"
plan '.changes == [] and .made == 0 and .equal == .files'
run "$REPL" mount data "$mnt" --state "$workdir/tmp" --site "127.0.0.1:$port" \
    --fingerprint "$site_fingerprint" --key "$workdir/rescue.key" 2>"$workdir/said"
[ -z "$(ls "$workdir/tmp")" ] || fail "there is a file in $workdir/tmp that is in the way of others"
for other in "$tree" "$workdir/restored"; do
    "$TREE_DUMP" "$other" >"$workdir/want" && "$TREE_DUMP" "$mnt" >"$workdir/got" || fail "dump"
    cmp -s "$workdir/want" "$workdir/got" || {
        diff "$workdir/want" "$workdir/got" | head -n 20
        fail "it is not what $other is"
    }
done
note "$(wc -l <"$workdir/got") names are what they were"
[ "$(stat -c %h "$mnt/large")" = 2 ] || fail "of two names there are $(stat -c %h "$mnt/large")"
[ "$(stat -c %b "$mnt/sparse")" = 16 ] || fail "the sparse file has $(stat -c %b "$mnt/sparse") blocks"
[ "$(getfattr --only-values -n user.note "$mnt/dir/hard" 2>/dev/null)" = text ] || fail "the attribute"
! touch "$mnt/new" 2>/dev/null || fail "it can be written to"
! dd if="$mnt/device" of=/dev/null count=1 status=none 2>/dev/null || fail "a device can be opened"
run "$REPL" umount "$mnt"
! findmnt "$mnt" >/dev/null || fail "it is still mounted"
