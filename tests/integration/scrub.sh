#!/bin/bash
# Bytes rot in the store: what the replica still has is put right, byte for byte; what it has not is
# said, and the remedy that is named makes all that comes from then on whole.
. "${0%/*}/functions.sh"

requires_tool python3
raw_volume 24M
sed -i "s|^store = .*|&\nscrub_every = 1s|" "$workdir/site.conf" # all of it is due at each start
run dd if=/dev/urandom of="$disk" bs=1M count=24 oflag=direct status=none
start_site
start_agent
raw_equal "seed"
first=$(site_value raw .point.seq)
run cp "$workdir/store/volumes/raw/replica.img" "$workdir/first"
# A part of what lies in one frame is overwritten.
run dd if=/dev/urandom of="$disk" bs=64k count=1 seek=$((4 * 16 + 2)) oflag=direct conv=notrunc status=none
raw_equal "change"

# The file that has the seed's bytes from OFFSET (of the volume) on, which random bytes do as they are.
find_bytes() {
    dd if="$workdir/first" bs=4096 count=1 skip=$(($1 / 4096)) of="$workdir/page" status=none
    python3 - "$workdir" <<'PY'
import glob, sys
page = open(sys.argv[1] + "/page", "rb").read()
for path in glob.glob(sys.argv[1] + "/store/volumes/raw/segments/*.seg"):
    at = open(path, "rb").read().find(page)
    if at >= 0:
        print(path, at)
        break
PY
}
rot() { # OFFSET: sets $file
    local at
    read -r file at < <(find_bytes "$1")
    [ -n "${at:-}" ] || fail "the seed's bytes are not where they should be"
    printf 'rot' | dd of="$file" bs=1 seek=$((at + 100)) conv=notrunc status=none
}
restore() { # POINT
    "$REPL" restore raw --at "$1" --to "$workdir/restored" --store "$workdir/store" --yes --overwrite --whole \
        >"$workdir/restore.log" 2>&1
}

note "what the replica still has"
stop_site
rot $((9 * 1024 * 1024))
run cp "$file" "$workdir/rotten"
start_site
repaired() { [ "$(site_value raw .repaired_segments)" = 1 ]; }
wait_for 120 "the segment is put right" repaired
[ "$(site_value raw .damaged_segments)" = 0 ] || fail "it is still said to be damaged"
cmp -s "$file" "$workdir/rotten" && fail "the file is as it was"
restore "$first" || fail "the first point is not restored"
same_bytes "$workdir/restored" "$workdir/first" || fail "the first point is another one"

note "what it has not"
stop_site
rot $((4 * 1024 * 1024 + 600 * 1024))
start_site
damaged() { [ "$(site_value raw .damaged_segments)" = 1 ]; }
wait_for 120 "the segment is found damaged" damaged
site_value raw .damaged | grep -q "^segment .* (points $first to " || fail "the points are not named"
restore "$first" && fail "a damaged point is restored as if nothing was"
"$REPL" verify raw --store "$workdir/store" --max-age 0s >"$workdir/verify.log" 2>&1 &&
    fail "verify finds nothing"

note "and what helps what comes from then on"
stop_agent
run "$REPL" forget raw --resync --config "$workdir/agent.conf"
start_agent
raw_equal "after the comparison"
stop_agent
last=$(site_value raw .point.seq)
stop_site
start_site
spared() {
    local text end
    text=$(site_value raw .damaged)
    end=${text##* }
    [[ $text == "segment "*" (points $first to "* ]] && [ "${end%)}" -lt "$last" ]
}
wait_for 120 "only points of before are said to be damaged" spared
stop_site
restore "$last" || fail "the last point is not restored"
same_bytes "$workdir/restored" "$disk" || fail "the last point is not what is on the device"
