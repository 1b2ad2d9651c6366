#!/bin/bash
# A directory tree of many small files:
#
#   seed      from the agent's start to the first point at the site
#   memory    of agent and site: at most, and now, with what is resident of the agent's maps of files
#             (the tree's index, the table of digests) said apart
#   index     its size, and for each file
#   rescan    all names looked at after a restart with nothing changed: time, bytes read by the agent,
#             and from the tree's disk
#   change    from a write to one file to a point at the site that has it
#   idle      processor time of the agent in 10 s with nothing to do
#
#   REPL=build/release/repl bench/tree_many.sh      as root. FILES=1000000 FS=xfs
. "${0%/*}/../tests/integration/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool python3
: "${FILES:=1000000}"
requires_tool "mkfs.${FS:=xfs}"

# 4 KiB and an inode for each file on its disk; at the site and in the spool less.
need=$((FILES * 12 / 1024 + 2048))
have=$(df -m --output=avail "$workdir" | tail -n 1)
[ "$have" -gt "$need" ] || skip "$need MiB are needed below $workdir"
make_keys
options=()
[ "$FS" = ext4 ] && options=(-N $((FILES + FILES / 10 + 10000)))
make_loop "$workdir/disk" $((FILES * 8 / 1024 + 2048))M
run "mkfs.$FS" -q "${options[@]}" "$loop" >/dev/null
make_mount "$loop" "$workdir/mnt"
root=$workdir/mnt/root
write_site_config data
write_agent_config "data=tree:$root"

note "$FILES files on $FS"
run python3 - "$root" "$FILES" <<'PY'
import os, random, sys
root, files = sys.argv[1], int(sys.argv[2])
text = random.Random(1)
pool = bytes(text.getrandbits(8) for _ in range(1 << 16))
os.mkdir(root)
for d in range((files + 999) // 1000):
    os.mkdir(f"{root}/{d:06}")
    directory = os.open(f"{root}/{d:06}", os.O_DIRECTORY)
    for i in range(min(1000, files - d * 1000)):
        fd = os.open(f"file-{i:04}.txt", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=directory)
        size, begin = text.randrange(100, 3000), text.randrange(60000)
        os.write(fd, b"%d %d\n" % (d, i) + pool[begin : begin + size])
        os.close(fd)
    os.close(directory)
PY
sync -f "$root"

seconds_since() { awk -v ns=$(($(date +%s%N) - $1)) 'BEGIN { printf "%.1f s", ns / 1e9 }'; }
resident() { # PID
    awk '/VmHWM|RssAnon|RssFile/ {printf "%s %d MiB  ", $1, $2 / 1024}' "/proc/$1/status"
}
mapped() { # PID FILE: what of it is resident
    awk -v file="$2" '/^[0-9a-f]+-/ {its = $NF == file} /^Rss:/ && its {kib += $2}
        END {printf "%d MiB", kib / 1024}' "/proc/$1/smaps"
}
memory() {
    note "agent: $(resident "$agent_pid") of that the index $(mapped "$agent_pid" "$state/tree")," \
        "the digests $(mapped "$agent_pid" "$state/digests")"
    note "site: $(resident "$site_pid")"
}
field() { awk -v f="$1:" '$1 == f {print $2}' "/proc/$agent_pid/io"; }
disk_read() { awk '{printf "%.0f", $3 * 512}' "/sys/block/${loop##*/}/stat"; }
cpu() { awk '{printf "%d", ($14 + $15) * 10}' "/proc/$agent_pid/stat"; }
state=$workdir/state/volumes/data

start_site
begun=$(date +%s%N)
start_agent
anonymous=0 # KiB, at most
have_point() {
    local now
    now=$(awk '/RssAnon/ {print $2}' "/proc/$agent_pid/status")
    [ "$now" -le "$anonymous" ] || anonymous=$now
    [ "$(site_value data .point.seq)" -ge 1 ] 2>/dev/null
}
wait_for 1800 "the first point" have_point
note "seed: $(seconds_since "$begun"), $(agent_value data .bytes_sent) bytes sent, processor $(cpu) ms"
wait_replicated data 600
note "agent's own memory while seeding, without maps of files: at most $((anonymous / 1024)) MiB"
memory
size=$(stat -c %s "$state/tree")
note "index: $((size >> 20)) MiB, $((size / FILES)) bytes for each file; state in all $(du -sm "$state" | cut -f1) MiB"

stop_agent
echo 3 >/proc/sys/vm/drop_caches
before=$(disk_read)
begun=$(date +%s%N)
start_agent
wait_replicated data 600
note "rescan, nothing cached: $(seconds_since "$begun"), rchar $(field rchar), read_bytes $(field read_bytes), of the disk $(($(disk_read) - before)), processor $(cpu) ms"
memory
stop_agent
before=$(disk_read)
begun=$(date +%s%N)
start_agent
wait_replicated data 600
note "rescan, cached: $(seconds_since "$begun"), rchar $(field rchar), read_bytes $(field read_bytes), of the disk $(($(disk_read) - before)), processor $(cpu) ms"

before=$(cpu)
sleep 10
note "idle: $(($(cpu) - before)) ms of processor time in 10 s"
begun=$(date +%s%N)
echo changed >>"$root/000000/file-0000.txt"
wait_replicated data 60
note "change: $(seconds_since "$begun")"
memory
note "done"
