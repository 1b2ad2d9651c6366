#!/bin/bash
# A partition: its own counters do not see what is written through the whole disk.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool addpart

make_keys
make_loop "$workdir/disk" 64M
disk=$loop
part=${disk}p1
addpart "$disk" 1 2048 65536 2>/dev/null || skip "this kernel makes no partitions on loop devices"
test_partitioned+=("$disk")
for _ in $(seq 50); do [ -b "$part" ] && break; sleep 0.1; done
[ -b "$part" ] || skip "no device node appears for a partition"
run dd if=/dev/urandom of="$part" bs=1M count=10 oflag=direct status=none
write_site_config part
write_agent_config "part=$part"
start_site
start_agent
replica=$workdir/store/volumes/part/replica.img
same_as_source() {
    wait_replicated part
    wait_for 20 "the replica has reached the last point" replica_reached part
    # past the page cache, which knows nothing of writes by another way
    dd if="$part" bs=1M iflag=direct status=none | cmp -s - "$replica" || fail "$1: the replica differs from the partition"
    note "$1: replica equals source"
}
same_as_source "seed"
run dd if=/dev/urandom of="$part" bs=4k count=20 seek=100 oflag=direct conv=notrunc status=none
same_as_source "written through the partition"
run dd if=/dev/urandom of="$disk" bs=4k count=20 seek=$((2048 / 8 + 500)) oflag=direct conv=notrunc status=none
same_as_source "written through the whole disk"
stop_agent
stop_site
note "passed"
