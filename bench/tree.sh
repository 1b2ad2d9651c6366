#!/bin/bash
# A directory tree, each against what this machine can do in the same run:
#
#   seed      a copy of /usr, up to FILES files, from the agent's start to the first point at the site,
#             against   tar | zstd -1 -T2 >/dev/null
#   restore   from the store directory into a new directory, read back and verified,
#             against   zstd -d | tar x, synced
#   rename    what a renamed directory of 10,000 files takes of the link
#   lag       from a write to a point at the site that has it: 4 KiB rewritten in a small file, 4 KiB
#             appended to a file of 512 MiB; median and 99th percentile
#   scattered 256 pages written all over a file of 1 GiB: bytes of its segments, and read by the agent
#   idle      processor time of the agent with nothing to do; memory
#
#   REPL=build/release/repl bench/tree.sh [PAIRS]      as root; 2 pairs. FILES=70000 WRITES=60
. "${0%/*}/../tests/integration/functions.sh"
requires_root
requires_tool jq
requires_tool python3
pairs=${1:-2} files=${FILES:-70000} writes=${WRITES:-60}

seconds() { # COMMAND...: sets $took. Not in a subshell, which would keep what it starts to itself.
    local start end
    start=$(date +%s%N)
    "$@" >/dev/null 2>>"$workdir/bench.log" || fail "$*"
    end=$(date +%s%N)
    took=$(awk -v ns=$((end - start)) 'BEGIN { printf "%.2f", ns / 1e9 }')
}
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

make_keys
root=$workdir/tree
mkdir "$root"
(cd / && find usr -xdev \( -type f -o -type l \) -print0 2>/dev/null | head -z -n "$files" |
    tar -c --null -T - -f - 2>/dev/null) | tar -x -C "$root" -f -
note "$(find "$root" -type f | wc -l) files, $(du -sm --apparent-size "$root" | cut -f1) MiB"
write_site_config data
RPO=2s write_agent_config "data=tree:$root"

limit_seed() { tar -c -C "$root" -f - . | zstd -q -1 -T2 >"${1:-/dev/null}"; }
have_point() { [ "$(site_value data .point.seq)" -ge 1 ] 2>/dev/null; }
seed() {
    start_agent
    wait_for 300 "the first point" have_point
}
limit_restore() {
    mkdir "$workdir/out"
    zstd -q -d -c "$workdir/data.zst" | tar -x -C "$workdir/out" -f - && sync -f "$workdir/out"
}
restore() { "$REPL" restore data --to "$workdir/back" --store "$workdir/store"; }

limit_seed "$workdir/data.zst"
echo "pair  tar|zstd  seed     ratio   zstd|tar  restore  ratio"
for pair in $(seq "$pairs"); do
    rm -rf "$workdir/store" "$workdir/state" "$workdir/out" "$workdir/back"
    sync
    start_site
    seconds limit_seed
    a=$took
    seconds seed
    b=$took
    [ "$pair" = "$pairs" ] || { stop_agent; stop_site; }
    seconds limit_restore
    c=$took
    rm -rf "$workdir/out"
    seconds restore
    d=$took
    printf '%-5s %-9s %-8s %-7s %-9s %-8s %s\n' "$pair" "$a" "$b" "$(ratio "$a" "$b")" \
        "$c" "$d" "$(ratio "$c" "$d")"
done
rm -rf "$workdir/back"

resident() { awk '/VmHWM|RssAnon/ {printf "%s %d MiB  ", $1, $2 / 1024}' "/proc/$1/status"; }
ticks() { awk '{print $14 + $15}' "/proc/$agent_pid/stat"; }
wait_replicated data 60
before=$(ticks)
sleep 10
note "idle: $(($(ticks) - before)) ticks of 10 ms in 10 s; agent $(resident "$agent_pid") site $(resident "$site_pid")"

sent() { agent_value data .bytes_sent; }
mkdir "$root/many"
(cd "$root/many" && for i in $(seq 10000); do echo "$i" >"file.$i"; done)
wait_replicated data 60
before=$(sent)
mv "$root/many" "$root/renamed"
wait_replicated data 60
note "a renamed directory of 10,000 files: $(($(sent) - before)) bytes"

head -c 512M /dev/urandom >"$root/log"
head -c 4096 /dev/urandom >"$root/small"
head -c 1G /dev/urandom >"$root/image"
wait_replicated data 120
cat >"$workdir/lag.py" <<'EOF'
# Writes, and waits until the site knows of a point that was begun after it.
import json, os, subprocess, sys, time
repl, socket, path, mode, count = sys.argv[1:6]
def known():
    out = subprocess.run([repl, "status", "--json", "--socket", socket], capture_output=True).stdout
    volume = json.loads(out)["volumes"][0]
    return max(volume["point"]["begin_ns"], volume.get("unchanged_until_ns") or 0)
lags = []
for i in range(int(count)):
    fd = os.open(path, os.O_WRONLY | (os.O_APPEND if mode == "append" else 0))
    os.write(fd, os.urandom(4096))
    os.close(fd)
    done = time.time_ns()
    while known() < done:
        time.sleep(0.005)
    lags.append((time.time_ns() - done) / 1e9)
    time.sleep((i * 37 % 100) / 100)
lags.sort()
print("median %.2f s, p99 %.2f s" % (lags[len(lags) // 2], lags[min(len(lags) - 1, len(lags) * 99 // 100)]))
EOF
note "lag, 4 KiB rewritten: $(python3 "$workdir/lag.py" "$REPL" "$workdir/site.sock" "$root/small" rewrite "$writes")"
note "lag, 4 KiB appended to 512 MiB: $(python3 "$workdir/lag.py" "$REPL" "$workdir/site.sock" "$root/log" append "$writes")"

read_bytes() { awk '/^rchar/ {print $2}' "/proc/$agent_pid/io"; }
sent_before=$(sent) read_before=$(read_bytes)
python3 - "$root/image" <<'EOF'
import os, random, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
for page in random.Random(1).sample(range(1 << 18), 256):
    os.pwrite(fd, os.urandom(4096), page * 4096)
EOF
wait_replicated data 60
note "256 pages all over 1 GiB: $(($(sent) - sent_before)) bytes sent, $(($(read_bytes) - read_before)) read"
