#!/bin/bash
# repl estimate: a writer whose rates are known is followed, and the figures for an RPO of 1 s and of
# 10 s are what follows from them; a second one beside it is ended by SIGINT. The same of a tree. What cannot be followed
# is refused with the exit code that the manual says.
. "$(dirname "$0")/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool python3
requires_tool mkfs.ext4
source_directory=$(cd "$(dirname "$0")/../.." && pwd)

make_loop "$workdir/disk" 256M
disk=$loop

# Each second: 2 MiB that are new and random, 2 MiB at one place rewritten with random bytes (four
# times, through the page cache), 1 MiB of zeros and 1 MiB of the same random bytes at new places, and
# 1 MiB of the same bytes at one place.
cat >"$workdir/writer.py" <<'PYTHON'
import mmap, os, sys, time
MIB = 1 << 20
direct = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
cached = os.open(sys.argv[1], os.O_RDWR)
buffer = mmap.mmap(-1, MIB)
def write(at, data):
    buffer[:] = data
    assert os.pwrite(direct, buffer, at * MIB) == MIB
same, duplicate, begin = os.urandom(MIB), os.urandom(MIB), time.monotonic()
for step in range(4 * 28):
    time.sleep(max(0, begin + step / 4 - time.monotonic()))
    os.pwrite(cached, os.urandom(2 * MIB), 0)
    second = step // 4
    if step % 4 == 0:
        write(4, same)
    elif step % 4 == 1:
        write(16 + second, duplicate)
    elif step % 4 == 2:
        write(64 + second, bytes(MIB))
    if step % 2 == 1:
        write(128 + step // 2, os.urandom(MIB))
PYTHON
python3 "$workdir/writer.py" "$disk" &
writer=$!
test_pids[2]=$writer

"$REPL" estimate "$disk" --for 1h >"$workdir/early.txt" 2>"$workdir/early.err" &
early=$!
test_pids[3]=$early
"$REPL" estimate "$disk" --for 10s --json >"$workdir/estimate.json" 2>"$workdir/estimate.err" &
whole=$!
test_pids[4]=$whole
sleep 3
kill -INT "$early"
wait "$early" || fail "ended by SIGINT: exit $?"
test_pids[3]=
grep -q 'followed for .* of the 1 h 0 min asked for: ended early' "$workdir/early.txt" ||
    fail "the table does not say that it was ended early: $(cat "$workdir/early.txt")"
[ "$(grep -cE '^(1 s|10 s|1 min|10 min|1 h) .*bit/s .*iB' "$workdir/early.txt")" = 5 ] ||
    fail "not a line for each RPO: $(cat "$workdir/early.txt")"
[ "$(grep -c 'only: at most' "$workdir/early.txt")" = 4 ] || fail "what is extrapolated is not marked"
[ ! -s "$workdir/early.err" ] || fail "progress without a terminal: $(cat "$workdir/early.err")"
wait "$whole" || fail "exit $?: $(cat "$workdir/estimate.err")"
test_pids[4]=
kill -0 "$writer" 2>/dev/null || fail "the writer ended too early"
stop_pid "$writer"
test_pids[2]=
note "the table for 3 s"
cat "$workdir/early.txt"

as_the_schema_says() {
    run /usr/bin/python3 - "$source_directory/docs/formats/schemas/estimate.json" "$workdir/estimate.json" <<'PYTHON'
import json, sys
try:
    import jsonschema
except ImportError:
    sys.exit(0)
schema, instance = (json.load(open(path)) for path in sys.argv[1:])
jsonschema.Draft202012Validator.check_schema(schema)
jsonschema.Draft202012Validator(schema).validate(instance)
PYTHON
}
as_the_schema_says

# within WHAT EXPRESSION LEAST MOST: in MiB a second of what was measured
within() {
    jq -e "($2) / 1048576 | . >= $3 and . <= $4" "$workdir/estimate.json" >/dev/null ||
        fail "$1 is $(jq "($2) / 1048576" "$workdir/estimate.json"), not $3 to $4: $(cat "$workdir/estimate.json")"
}
rate() { echo ".choices[$1] | .$2 * 1000 / .measured_ms"; }
# A second is cut where the estimate cuts it: one MiB more or less at either end.
within "written" '.written_bytes * 1000 / .measured_ms' 6.0 14
within "changed" '.changed_bytes * 1000 / .measured_ms' 6.4 7.6
within "at 1 s: changed" "$(rate 0 changed_bytes)" 6.4 7.6
within "at 1 s: unchanged" "$(rate 0 unchanged_bytes)" 0.7 1.1
within "at 1 s: zeros" "$(rate 0 zero_bytes)" 0.8 1.2
within "at 1 s: duplicates" "$(rate 0 duplicate_bytes)" 0.7 1.1
within "at 1 s: left for frames" "$(rate 0 frame_bytes)" 3.8 4.7
within "at 1 s: sent" ".choices[0].mean_bytes_per_s" 3.8 4.8
within "at 1 s: busiest" ".choices[0].busiest_bytes_per_s" 4 9
# rewritten pages count once, duplicates of the same window are sent
within "at 10 s: changed" "$(rate 1 changed_bytes)" 3.9 4.8
within "at 10 s: sent" ".choices[1].mean_bytes_per_s" 2.9 3.7
within "at 1 h: sent" ".choices[4].mean_bytes_per_s" 2.9 3.7
jq -e '[.choices[].extrapolated] == [false, false, true, true, true] and .missed_bytes == 0 and
    (.ended_early | not) and .choices[0].windows >= 8 and .choices[1].windows == 1 and
    (.choices[0] | .journal_bytes_per_day / .mean_bytes_per_s | . > 86399 and . < 86401) and
    .choices[0].compressed_bytes / .choices[0].frame_bytes > 0.99' "$workdir/estimate.json" >/dev/null ||
    fail "not as measured: $(cat "$workdir/estimate.json")"
[ ! -s "$workdir/estimate.err" ] || fail "progress without a terminal: $(cat "$workdir/estimate.err")"

# A tree on a disk: each second 1 MiB more of a log of random bytes, one file of 1 MiB rewritten in place
# four times, and a small file made and renamed.
make_loop "$workdir/tree_disk" 256M
run mkfs.ext4 -q "$loop"
make_mount "$loop" "$workdir/tree"
head -c 8M /dev/urandom >"$workdir/tree/before"
cat >"$workdir/files.py" <<'PYTHON'
import os, sys, time
top, begin = sys.argv[1], time.monotonic()
log = open(top + "/log", "wb", 0)
hot = open(top + "/hot", "wb", 0)
for step in range(4 * 20):
    time.sleep(max(0, begin + step / 4 - time.monotonic()))
    log.write(os.urandom(1 << 18))
    hot.seek(0)
    hot.write(os.urandom(1 << 20))
    if step % 4 == 0:
        with open(top + "/small", "w") as small:
            small.write(str(step))
        os.rename(top + "/small", "%s/small.%d" % (top, step))
PYTHON
python3 "$workdir/files.py" "$workdir/tree" &
writer=$!
test_pids[2]=$writer
mkdir "$workdir/tmp"
TMPDIR=$workdir/tmp "$REPL" estimate "$workdir/tree" --for 4s --json >"$workdir/estimate.json" 2>"$workdir/estimate.err" ||
    fail "a tree: exit $?: $(cat "$workdir/estimate.err")"
kill -0 "$writer" 2>/dev/null || fail "the writer ended too early"
stop_pid "$writer"
test_pids[2]=
[ -z "$(ls "$workdir/tmp")" ] || fail "left behind: $(ls "$workdir/tmp")"
as_the_schema_says
# what was written between the look and the read is found once more, as what is known
within "tree: changed" '.changed_bytes * 1000 / .measured_ms' 1.6 4.2
within "tree at 1 s: sent" ".choices[0].mean_bytes_per_s" 1.6 2.6
within "tree at 10 s: sent" ".choices[1].mean_bytes_per_s" 0.9 1.6
jq -e '.kind == "tree" and .missed_bytes == 0 and (.choices[0].extrapolated | not) and .choices[1].extrapolated' \
    "$workdir/estimate.json" >/dev/null || fail "a tree: $(cat "$workdir/estimate.json")"

# refused CODE WORD ARGUMENT...
refused() {
    local code=$1 word=$2 got
    shift 2
    "$@" >"$workdir/refused.out" 2>"$workdir/refused.err"
    got=$?
    [ "$got" = "$code" ] || fail "$*: exit $got, not $code: $(cat "$workdir/refused.err")"
    grep -q -- "$word" "$workdir/refused.err" || fail "$*: $(cat "$workdir/refused.err")"
    [ ! -s "$workdir/refused.out" ] || fail "$*: it printed data"
}
refused 4 lsblk "$REPL" estimate "$workdir/none"
refused 5 "loop device" "$REPL" estimate "$workdir/disk"
TMPDIR=$workdir/tree refused 5 TMPDIR "$REPL" estimate "$workdir/tree"
refused 5 memory "$REPL" estimate /dev/shm
refused 64 -- "$REPL" estimate "$disk" --for 10
refused 64 --for "$REPL" estimate "$disk" --for 500ms
if command -v setpriv >/dev/null; then
    refused 5 CAP_SYS_ADMIN setpriv --bounding-set=-sys_admin,-bpf,-perfmon "$REPL" estimate "$disk" --for 1s
    refused 5 "cannot be heard of" setpriv --bounding-set=-sys_admin,-bpf,-perfmon "$REPL" estimate "$workdir/tree" --for 1s
fi
note "passed"
