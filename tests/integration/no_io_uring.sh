#!/bin/bash
# The same path where io_uring is not to be had.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
export REPL_NO_IO_URING=1

make_keys
make_loop "$workdir/disk" 24M
run dd if=/dev/urandom of="$loop" bs=1M count=10 oflag=direct status=none
write_site_config data
write_agent_config "data=$loop"
start_site
start_agent
[ "$(agent_status | jq -r .io)" = epoll ] || fail "the agent uses $(agent_status | jq -r .io)"
wait_replicated data
run dd if=/dev/urandom of="$loop" bs=4k count=100 seek=50 oflag=direct conv=notrunc status=none
wait_replicated data
wait_for 20 "the replica has reached the last point" replica_reached data
same_bytes "$loop" "$workdir/store/volumes/data/replica.img" || fail "the replica differs"
note "passed"
