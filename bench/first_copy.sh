#!/bin/bash
# How long the first copy and a restore of a half-full device take, each against the limit of this
# machine in the same run, in alternating pairs:
#
#   seed     from the agent's start to the first point at the site, through TLS to the site's disk,
#            against   dd if=DEVICE iflag=direct | zstd -1 -T2 >/dev/null
#   restore  from the store directory to a new file, read back and verified,
#            against   zstd -d of the same data to a new file, synced
#
#   REPL=build/release/repl bench/first_copy.sh [PAIRS [SIZE]]     as root; 3 pairs, 4G
#
# The ratio is limit/repl: 0.8 means repl takes a quarter longer than the limit.
. "${0%/*}/../tests/integration/functions.sh"
requires_root
requires_loop
pairs=${1:-3} size=${2:-4G}

# COMMAND...: sets $took. Not in a subshell, which would keep the processes it starts to itself.
seconds() {
    local start end
    start=$(date +%s%N)
    "$@" >/dev/null 2>>"$workdir/bench.log" || fail "$*"
    end=$(date +%s%N)
    took=$(awk -v ns=$((end - start)) 'BEGIN { printf "%.2f", ns / 1e9 }')
}

make_keys
make_loop "$workdir/disk" "$size"
disk=$loop
bytes=$(blockdev --getsize64 "$disk")
# What a system's disk holds, up to half of the device; the other half is zeros.
tar cf - -C / usr/lib usr/bin usr/share 2>/dev/null | head -c $((bytes / 2)) |
    dd of="$disk" bs=1M iflag=fullblock oflag=direct status=none
write_site_config data
write_agent_config "data=$disk"

limit_seed() { dd if="$disk" bs=1M iflag=direct status=none | zstd -q -1 -T2 >"${1:-/dev/null}"; }
have_point() { [ "$(site_value data .point.seq)" -ge 1 ] 2>/dev/null; }
seed() {
    start_agent
    wait_for 300 "the first point" have_point
}
limit_restore() { zstd -q -f -d "$workdir/data.zst" -o "$workdir/out" && sync "$workdir/out"; }
restore() { "$REPL" restore data --to "$workdir/out" --store "$workdir/store" --yes; }

limit_seed "$workdir/data.zst"
echo "pair  dd|zstd  seed     ratio   zstd -d  restore  ratio"
for pair in $(seq "$pairs"); do
    rm -rf "$workdir/store" "$workdir/state"
    start_site
    seconds limit_seed
    a=$took
    seconds seed
    b=$took
    resident=$(awk '/VmHWM/ {print $2}' "/proc/$agent_pid/status")
    resident_site=$(awk '/VmHWM/ {print $2}' "/proc/$site_pid/status")
    cpu=$(ps -o cputimes= -p "$agent_pid" | tr -d ' ')/$(ps -o cputimes= -p "$site_pid" | tr -d ' ')
    stop_agent
    stop_site
    rm -f "$workdir/out"
    seconds limit_restore
    c=$took
    rm -f "$workdir/out"
    seconds restore
    d=$took
    same_bytes "$disk" "$workdir/out" || fail "the restored file differs"
    awk -v p="$pair" -v a="$a" -v b="$b" -v c="$c" -v d="$d" \
        'BEGIN { printf "%-5s %-8s %-8s %-7.2f %-8s %-8s %.2f\n", p, a, b, a / b, c, d, c / d }'
done
echo "peak resident memory, KiB: agent $resident, site $resident_site; processor seconds agent/site: $cpu"
