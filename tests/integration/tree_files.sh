#!/bin/bash
# Points of a directory tree that are cut per file, while some of its files are written to without a
# pause and directories move: each restored point makes up a tree, and each file in it that was at
# rest while it was read is one of its versions, of the time of the point. The agent is killed once.
# When the writers stop, the next point is a window's, and is what the tree is.
#
#   POINTS=5    so many points are checked
. "${0%/*}/functions.sh" || exit # nothing below may run anywhere but in its directory
: "${TREE_DUMP:?the path of tree_dump}" "${POINTS:=5}"
requires_root
requires_loop
requires_tool jq
requires_tool python3
requires_tool "mkfs.${FS:=ext4}"

make_keys
make_loop "$workdir/disk" 512M
run "mkfs.$FS" -q "$loop"
make_mount "$loop" "$workdir/mnt"
tree=$workdir/mnt/root
run mkdir "$tree" "$workdir/mnt/outside"
write_site_config data
VOLUME_OPTIONS="quiesce = window-else-files"
write_agent_config "data=tree:$tree"

# --- the writers -----------------------------------------------------------------------------------

cat >"$workdir/writer.py" <<'END'
import mmap, os, sys, time
what, tree, outside, enough = sys.argv[1:5]
PAGE = 4096

def version(fd, number, pages, pause=0):
    page = mmap.mmap(-1, PAGE)  # aligned, for direct writes
    page.write(number.to_bytes(8, "little") * (PAGE // 8))
    for i in range(pages):
        os.pwrite(fd, page, i * PAGE)
        time.sleep(pause)

def loop():
    n = 0
    while not os.path.exists(enough):
        n += 1
        yield n

# Each of them a number, repeated; when which one was begun and over (nanoseconds since 1970)
def versions():
    count = 24
    for n in loop():
        i = n % count
        flags = os.O_WRONLY | os.O_CREAT | (os.O_DIRECT if i % 3 == 2 else 0)
        fd = os.open(f"{tree}/v{i}", flags, 0o644)
        begin = time.time_ns()
        version(fd, n, 40 if i % 2 else 5, 0 if n <= count else 0.0005)
        print(i, n, begin, time.time_ns(), flush=True)
        os.close(fd)
        time.sleep(0 if n <= count else 0.01)

def log():
    fd = os.open(f"{tree}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for n in loop():
        os.write(fd, b"this is line %d\n" % n)
        time.sleep(0.0005)

def busy():
    fd = os.open(f"{tree}/busy", os.O_WRONLY | os.O_CREAT, 0o644)
    for n in loop():
        version(fd, n, 40)
        time.sleep(0.001)

def replaced():
    for n in loop():
        with open(f"{tree}/replaced.new", "w") as f:
            f.write(f"{n}\n" * 2000)
        os.rename(f"{tree}/replaced.new", f"{tree}/replaced")
        time.sleep(0.001)

# Directories turned inside out, files out of the tree and into it
def moves():
    for path in "m", "m/n", "m/n/o":
        os.mkdir(f"{tree}/{path}")
    for i in range(20):
        with open(f"{tree}/m/n/f{i}", "w") as f:
            f.write(f"{i}\n")
    for n in loop():
        os.rename(f"{tree}/m/n", f"{tree}/n")
        os.rename(f"{tree}/m", f"{tree}/n/m")
        os.rename(f"{tree}/n/o", f"{tree}/n/m/o")
        f = f"f{n % 20}"
        os.rename(f"{tree}/n/{f}", f"{outside}/{f}")
        os.rename(f"{tree}/n/m/o", f"{tree}/n/o")
        os.rename(f"{tree}/n/m", f"{tree}/m")
        os.rename(f"{outside}/{f}", f"{tree}/m/{f}")
        os.rename(f"{tree}/n", f"{tree}/m/n")
        os.rename(f"{tree}/m/{f}", f"{tree}/m/n/{f}")
        time.sleep(0.003)

globals()[what]()
END
start_writers() {
    for what in versions log busy replaced moves; do
        python3 "$workdir/writer.py" "$what" "$tree" "$workdir/mnt/outside" "$workdir/enough" \
            >"$workdir/$what.done" 2>"$workdir/$what.log" &
        test_pids+=($!)
        writers+=($!)
    done
}
stop_writers() {
    touch "$workdir/enough"
    for pid in "${writers[@]}"; do wait "$pid" || fail "a writer"; done
}
writers=()

points() { site_value data .point.seq; }
start_site
start_writers
sleep 0.5
start_agent
unstable=0
enough() { # POINTS; and how many files were unstable in a point at most
    local now seq
    now=$(agent_value data .unstable_files)
    [ "${now:-0}" -le "$unstable" ] || unstable=$now
    seq=$(points)
    [ "${seq:-0}" -ge "$1" ]
}
wait_for 60 "2 points" enough 2
note "the agent is killed"
stop_agent KILL
start_agent
wait_for 60 "$((POINTS + 1)) points" enough $((POINTS + 1))
[ "$(agent_value data .state)" != no-window ] || fail "NO_WINDOW"
stop_writers
wait_replicated data 30

# --- the last point --------------------------------------------------------------------------------

last=$(points)
[ "$(site_value data .point.cut)" = window ] || fail "the last point was cut by $(site_value data .point.cut)"
grep -q "points are cut per file" "$workdir/agent.log" || fail "the log does not say how points are cut"
wait_for 10 "the log says that points are of one moment" grep -q "of one moment again" "$workdir/agent.log"
[ "$unstable" -gt 0 ] || fail "no file was unstable"
grep -q "changed whenever they were read" "$workdir/agent.log" || fail "the log does not say so"
[ "$(agent_value data .unstable_files)" = 0 ] || fail "files of a window's point are said to be unstable"
run "$TREE_DUMP" "$tree" >"$workdir/dump"
same_tree() { # DIRECTORY WHAT
    "$TREE_DUMP" "$1" >"$workdir/got" || fail "dump"
    cmp -s "$workdir/dump" "$workdir/got" || { diff "$workdir/dump" "$workdir/got" | head; fail "$2 differs"; }
}
wait_for 20 "the replica reaches the last point" replica_reached data
same_tree "$workdir/store/volumes/data/replica/tree" "the replica"
stop_agent
stop_site

# --- the points before it --------------------------------------------------------------------------

cat >"$workdir/check.py" <<'END'
import collections, os, sys
back, begin, end, work = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
known = collections.defaultdict(list)
for line in open(f"{work}/versions.done"):
    i, n, t0, t1 = map(int, line.split())
    known[i].append((n, t0, t1))
torn = 0
for i in known:
    data = open(f"{back}/v{i}", "rb").read()
    numbers = {data[at:at + 8] for at in range(0, len(data), 8)}
    if len(numbers) != 1:
        # one that takes a twentieth of a second is over before the time for it is, or all was slow
        near = [(n, t0 - end, t1 - end) for n, t0, t1 in known[i] if t1 >= begin and t0 <= end]
        assert end - begin > 1_000_000_000, f"v{i} is torn; written (number, from, to): {near}"
        torn += 1
        continue
    number = int.from_bytes(numbers.pop(), "little")
    at = [k for k, v in enumerate(known[i]) if v[0] == number]
    assert at, f"v{i} is {number}, which it never was"
    n, t0, t1 = known[i][at[0]]
    assert t0 <= end, f"v{i} is {number}, begun {t0 - end} ns after the point"
    if at[0] + 1 < len(known[i]):
        over = known[i][at[0] + 1][2]
        assert over >= begin, f"v{i} is {number}, over {begin - over} ns before the point"
log = open(f"{back}/log", "rb").read()
whole = open(f"{work}/mnt/root/log", "rb").read()
assert len(log) > 0 and whole.startswith(log), "the log is not what it was"
lines = open(f"{back}/replaced").read().split()
assert len(lines) == 2000 and len(set(lines)) == 1, "what is replaced is not one of its versions"
assert os.path.getsize(f"{back}/busy") == 40 * 4096
moving = sum(name[0] == "f" for _, _, names in os.walk(back) for name in names)
print(f"{len(known)} files, {torn} torn; {moving} of 20 that move")
END
run "$REPL" verify data --store "$workdir/store" >"$workdir/verify.log" 2>&1
"$REPL" points data --store "$workdir/store" --json >"$workdir/points.json"
mapfile -t points < <(jq -r --argjson last "$last" '[.. | objects | select(has("seq") and has("cut") and
    .seq < $last) | "\(.seq) \(.begin_ns) \(.end_ns) \(.cut) \(.consistency)"] | unique | .[]' \
    "$workdir/points.json" | sort -n)
files=0
for point in "${points[@]}"; do
    read -r seq begin end cut consistency <<<"$point"
    [ "$cut" = files ] || continue
    [ "$consistency" = per-file ] || fail "point $seq is $consistency"
    files=$((files + 1))
    "$REPL" restore data --at "$seq" --to "$workdir/at.$seq" --store "$workdir/store" \
        >"$workdir/restore.log" 2>&1 || fail "restore of point $seq"
    verdict=$(python3 "$workdir/check.py" "$workdir/at.$seq" "$begin" "$end" "$workdir" 2>&1) ||
        { echo "$verdict"; fail "point $seq"; }
    note "point $seq, of $(((end - begin) / 1000000)) ms: $verdict"
    rm -rf "$workdir/at.$seq"
done
grep -q "per-file" <("$REPL" points data --store "$workdir/store") || fail "the list does not say how"
[ "$files" -ge $((POINTS - 1)) ] || fail "only $files of ${#points[@]} points were cut per file"
note "passed: $files points per file, at most $unstable files unstable"
