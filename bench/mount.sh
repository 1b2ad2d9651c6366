#!/bin/bash
# How soon and how fast a point is read through a mount, without being restored: a block volume of 1 GiB
# that compresses to half, of one full and some hundred later segments, from the site on loopback and from
# its store.
#
#   REPL=build/release/repl bench/mount.sh
. "${0%/*}/../tests/integration/functions.sh"
requires_root
requires_loop
requires_tool fio
requires_tool jq
: "${SIZE_MIB:=1024}" "${POINTS:=100}"
make_keys
make_loop "$workdir/disk" "${SIZE_MIB}M"
disk=$loop
mnt=$workdir/mnt
mkdir "$mnt"
leave_point() { while findmnt "$mnt" >/dev/null; do umount -l "$mnt"; done; }
at_exit leave_point
write_site_config data
write_agent_config "data=$disk"
start_site
run fio --name=fill --filename="$disk" --rw=write --bs=1M --direct=1 --buffer_compress_percentage=50 \
    --refill_buffers --output="$workdir/fio.log"
start_agent
wait_replicated data 120
note "$POINTS points of 4 MiB each, scattered"
for i in $(seq "$POINTS"); do
    run fio --name=write --filename="$disk" --rw=randwrite --bs=4k --direct=1 --io_size=4M --randseed="$i" \
        --buffer_compress_percentage=50 --refill_buffers --output="$workdir/fio.log"
    wait_replicated data 30
done
stop_agent
segments=$(find "$workdir/store/volumes/data/segments" -name '*.seg' | wc -l)
site=(--site "127.0.0.1:$port" --fingerprint "$site_fingerprint" --key "$workdir/rescue.key")
row() { # FROM NAME FIO...: reads a second
    local from=$1 name=$2
    shift 2
    run fio --name=read --filename="$mnt/data.img" --rw=randread --bs=4k --time_based --runtime=5 "$@" \
        --output-format=json --output="$workdir/fio.json"
    echo "| $from | $name | $(jq '.jobs[0].read.iops | round' "$workdir/fio.json") | $(jq '.jobs[0].read.clat_ns.percentile."99.000000" / 1000 | round' "$workdir/fio.json") |"
}
echo "$segments segments"
echo "| from | | reads of 4 KiB a second | 99th percentile, us |"
echo "| --- | --- | --- | --- |"
for from in site store; do
    if [ "$from" = site ]; then arguments=("${site[@]}"); else arguments=(--store "$workdir/store"); fi
    begin=$(date +%s%N)
    run "$REPL" mount data "$mnt" "${arguments[@]}" 2>/dev/null
    head -c 4096 "$mnt/data.img" >/dev/null
    first=$((($(date +%s%N) - begin) / 1000000))
    row "$from" "one reader, nothing at hand" --invalidate=1
    row "$from" "one reader, within 64 MiB" --size=64M --norandommap --invalidate=1
    row "$from" "eight readers" --numjobs=8 --group_reporting --invalidate=1
    run "$REPL" umount "$mnt"
    run "$REPL" mount data "$mnt" "${arguments[@]}" 2>/dev/null
    begin=$(date +%s%N)
    run dd if="$mnt/data.img" of=/dev/null bs=1M status=none
    echo "| $from | all of it, MiB a second: | $((SIZE_MIB * 1000000000 / ($(date +%s%N) - begin))) | |"
    echo "| $from | first page, ms: | $first | |"
    run "$REPL" umount "$mnt"
done
