#!/bin/bash
# What is read of a large file that was written to, and that it is all that changed, on the
# filesystem FS: the unit test of that, which otherwise runs where temporary files lie.
#
#   TEST: the program, test_tree_pages
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool "mkfs.${FS:=xfs}"

make_loop "$workdir/disk" 512M
run "mkfs.$FS" -q "$loop"
make_mount "$loop" "$workdir/mnt"
TMPDIR=$workdir/mnt run "$TEST" >"$workdir/agent.log" 2>&1
grep -q 'PASSED.*[1-9] test' "$workdir/agent.log" || skip "$(grep -m 1 'not run' "$workdir/agent.log")"
note "$FS: $(grep -c ' OK ' "$workdir/agent.log") tests passed"
