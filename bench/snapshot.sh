#!/bin/bash
# What a btrfs snapshot a second takes, and what a writer notices of it (snapshot.c), on a loop device,
# under a writer that syncs and under one that does not.
#
#   REPL=build/release/repl bench/snapshot.sh [SECONDS]     as root; 15: about a minute
. "${0%/*}/../tests/integration/functions.sh"
requires_root
requires_loop
requires_tool mkfs.btrfs
run cc -O2 -D_GNU_SOURCE -o "$workdir/snapshot" "${0%/*}/snapshot.c" -lpthread
make_loop "$workdir/disk" 4G
run mkfs.btrfs -q "$loop" >/dev/null
make_mount "$loop" "$workdir/mnt"
for load in synced buffered; do
    note "$load: median, 99th percentile, most"
    run "$workdir/snapshot" "$workdir/mnt" "${1:-15}" "$load"
done
