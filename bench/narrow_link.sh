#!/bin/bash
# What the level of compression saves where the link is narrow: files of this machine are written to an
# ext4, at once or so many MiB a second, while the agent may send only so much; once for each setting
# of compression, until the site has all of it.
#
#   REPL=build/release/repl bench/narrow_link.sh [MIB [MIB_A_SECOND [BANDWIDTH [SPOOL_LIMIT]]]]
#
# as root; 1000 MiB, 25 a second (0: at once), bandwidth 5 MiB, spool_limit 1G. SETTINGS="1 3 6 auto" in
# the environment says which.
. "${0%/*}/../tests/integration/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool cpio
mib=${1:-1000} pace=${2:-25} bandwidth=${3:-5 MiB} SPOOL_LIMIT=${4:-1G}

# Lines of a place, in MiB, and a path: the same files in the same mixed order each time.
files_choose() {
    find /usr -xdev -type f -size -8M -printf '%p\t%s\n' | sort |
        awk 'BEGIN { srand(7) } { print rand() "\t" $0 }' | sort -n | cut -f2- |
        awk -F'\t' -v most="$mib" '{
            size = int(($2 + 4095) / 4096) * 4096
            if (all + size > most * 1048576) exit
            all += size
            print int(all / 1048576) "\t" $1 }' >"$workdir/files"
}

files_write() {
    local at=0 wait
    while [ "$at" -lt "$mib" ]; do
        local step=$([ "$pace" = 0 ] && echo "$mib" || echo "$pace")
        awk -F'\t' -v a="$at" -v b=$((at + step)) '$1 >= a && $1 < b { print $2 }' "$workdir/files" |
            cpio -pdm --quiet "$workdir/mnt" 2>/dev/null
        at=$((at + step))
        [ "$pace" = 0 ] && continue
        wait=$(awk -v due=$((at / pace)) -v passed="$(passed)" 'BEGIN { print (due > passed ? due - passed : 0) }')
        sleep "$wait"
    done
    sync -f "$workdir/mnt"
}
passed() { awk -v b="$begin" -v n="$(date +%s%N)" 'BEGIN { printf "%.1f", (n - b) / 1e9 }'; }
levels() {
    while true; do
        agent_status | jq -r .compression_level
        sleep 1
    done >"$workdir/levels"
}

make_keys
write_site_config data
files_choose
echo "compression  sent, MiB  at the site after, s  agent, s of processor  resident, MiB  seconds at level"
for setting in ${SETTINGS:-1 auto}; do
    rm -rf "$workdir/store" "$workdir/state" "$workdir/disk"
    make_loop "$workdir/disk" $((mib * 3 / 2 + 200))M
    run mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$loop"
    make_mount "$loop" "$workdir/mnt"
    write_agent_config "data=$loop"
    sed -i "s/^spool_limit.*/&\nbandwidth = $bandwidth\ncompression = $setting/" "$workdir/agent.conf"
    start_site
    start_agent
    wait_replicated data 60
    sent=$(agent_value data .bytes_sent)
    processor=$(ps -o cputimes= -p "$agent_pid")
    begin=$(date +%s%N)
    levels 2>/dev/null &
    test_pids[2]=$!
    files_write
    wait_replicated data 1200
    took=$(passed)
    stop_pid "${test_pids[2]}"
    awk -v c="$setting" -v s=$(($(agent_value data .bytes_sent) - sent)) -v t="$took" \
        -v p=$(($(ps -o cputimes= -p "$agent_pid") - processor)) \
        -v r="$(awk '/VmHWM/ { print $2 }' "/proc/$agent_pid/status")" \
        -v l="$(sort -n "$workdir/levels" | uniq -c | awk '{ printf "%s: %s  ", $2, $1 }')" \
        'BEGIN { printf "%-11s  %-9.1f  %-20s  %-22s  %-13.0f  %s\n", c, s / 1048576, t, p, r / 1024, l }'
    stop_agent
    stop_site
    drop_mount "$workdir/mnt"
    forget_volume "$workdir/state" data
    drop_loop "$loop"
done
