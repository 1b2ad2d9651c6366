#!/bin/bash
# Bytes rot in a store without a replica, of a block volume and of a directory tree: the source is
# asked for what it still has, and what it sends makes the damaged segment what it was; what it has
# overwritten is said to be lost for the points that need it, and for no other. Of a segment that
# cannot be opened any more nobody knows what it said: all is sent once more.
. "${0%/*}/functions.sh" || exit # nothing below may run anywhere but in its directory
requires_root
requires_loop
requires_tool jq
requires_tool python3
requires_tool mkfs.ext4
make_keys
make_loop "$workdir/disk" 24M
disk=$loop
make_loop "$workdir/tree-disk" 128M
run mkfs.ext4 -q -m 0 "$loop"
make_mount "$loop" "$workdir/mnt"
write_site_config raw tree
sed -i "s|^store = .*|&\nscrub_every = 1s|" "$workdir/site.conf" # all of it is due at each start
printf '\n[volume %s]\nreplica = none\n' raw tree >>"$workdir/site.conf"
write_agent_config "raw=$disk" "tree=tree:$workdir/mnt"
run dd if=/dev/urandom of="$disk" bs=1M count=24 oflag=direct status=none
run dd if=/dev/urandom of="$workdir/mnt/file" bs=1M count=8 status=none
run cp "$workdir/mnt/file" "$workdir/file"
run dd if="$disk" of="$workdir/image" bs=1M iflag=direct status=none
start_site
start_agent
wait_replicated raw
wait_replicated tree
declare -A first=([raw]=$(site_value raw .point.seq) [tree]=$(site_value tree .point.seq))

# Where VOLUME's store has the 4 KiB that begin at OFFSET of FILE, random bytes, and with that $file.
rot() { # VOLUME FILE OFFSET
    local at
    read -r file at < <(python3 - "$workdir/store/volumes/$1" "$2" "$3" <<'PY'
import glob, sys
source = open(sys.argv[2], "rb")
source.seek(int(sys.argv[3]))
page = source.read(4096)
for path in glob.glob(sys.argv[1] + "/segments/*.seg"):
    at = open(path, "rb").read().find(page)
    if at >= 0:
        print(path, at)
        break
PY
    )
    [ -n "${at:-}" ] || fail "the bytes are not where they should be"
    run cp "$file" "$workdir/$1.whole"
    printf 'rot' | dd of="$file" bs=1 seek=$((at + 100)) conv=notrunc status=none
}
damaged() { [ "$(site_value "$1" .damaged_segments)" = 1 ]; }
repaired() { [ "$(site_value "$1" .repaired_segments)" = 1 ]; }
restore() { # VOLUME POINT
    "$REPL" restore "$1" --at "$2" --to "$workdir/restored-$1" --store "$workdir/store" --yes \
        --overwrite --whole >"$workdir/restore.log" 2>&1
}

note "what the source still has"
stop_agent
stop_site
rot raw "$workdir/image" $((9 * 1024 * 1024))
raw_file=$file
rot tree "$workdir/file" $((5 * 1024 * 1024))
start_site
for v in raw tree; do wait_for 120 "the segment of $v is found damaged" damaged $v; done
start_agent
for v in raw tree; do wait_for 120 "the segment of $v is put right" repaired $v; done
same_bytes "$raw_file" "$workdir/raw.whole" || fail "the segment of raw is another one"
same_bytes "$file" "$workdir/tree.whole" || fail "the segment of tree is another one"
restore raw "${first[raw]}" || fail "the first point of raw is not restored"
same_bytes "$workdir/restored-raw" "$workdir/image" || fail "the first point of raw is another one"
run mkdir -p "$workdir/restored-tree"
restore tree "${first[tree]}" || fail "the first point of tree is not restored"
same_bytes "$workdir/restored-tree/file" "$workdir/file" || fail "the file is another one"

note "what it has not"
run dd if=/dev/urandom of="$disk" bs=4k count=1 seek=$((4 * 256 + 7)) oflag=direct conv=notrunc status=none
wait_replicated raw
last=$(site_value raw .point.seq)
stop_agent
stop_site
rot raw "$workdir/image" $((4 * 1024 * 1024 + 600 * 1024))
start_site
wait_for 120 "the segment is found damaged" damaged raw
start_agent
spared() { site_value raw .damaged | grep -q "^segment .* (points ${first[raw]} to $last)\$"; }
wait_replicated raw
more() { [ "$(site_value raw .point.seq)" -gt "$last" ]; }
wait_for 120 "the source has sent it" more
wait_for 120 "only points of before are said to be damaged" spared
last=$(site_value raw .point.seq)
restore raw "$last" || fail "the last point is not restored"
same_bytes "$workdir/restored-raw" "$disk" || fail "the last point is not what is on the device"
restore raw "${first[raw]}" && fail "a damaged point is restored as if nothing was"

note "which points are damaged"
cat >"$workdir/rescue.conf" <<EOF
[agent]
key = $workdir/rescue.key
[remote]
address = 127.0.0.1:$port
fingerprint = $site_fingerprint
EOF
# The points that are listed as damaged, from the site and from the store.
damaged_points() { jq -r '[.timeline[] | select(.damaged) | .seq] | @csv'; }
"$REPL" points raw --config "$workdir/rescue.conf" --json >"$workdir/points" || fail "no points"
listed=$(damaged_points <"$workdir/points")
[[ $listed == "${first[raw]},"* && $listed != *",$last" ]] || fail "points $listed are listed as damaged"
stop_agent
stop_site
"$REPL" points raw --store "$workdir/store" --json >"$workdir/points" || fail "no points"
listed=$(damaged_points <"$workdir/points")
[[ $listed == "${first[raw]},"*",$last" ]] || fail "without a site, points $listed are listed as damaged"
"$REPL" points tree --store "$workdir/store" --json >"$workdir/points" || fail "no points"
[ -z "$(damaged_points <"$workdir/points")" ] || fail "points are listed as damaged that are not"
