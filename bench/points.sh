#!/bin/bash
# What one point a second costs, and how good it is: a writer with the agent against the same writer
# without it, in alternating pairs, on ext4 and xfs, under
#
#   random        60 MB/s of random 4 KiB writes, fsync after every 32 (fio)
#   transactions  ordered transactions, as fast as they go: a page, fdatasync, 512 bytes at the end of
#                 a log, fdatasync (points.c)
#   frozen        as random, and each point is cut under a freeze; the third of the pair is a bare
#                 "fsfreeze -f; fsfreeze -u" once a second without the agent
#   memory        what agent and site hold in memory, for a half-full 4 GiB device
#
#   Of random and transactions the third is the load next to a neighbour: a process for each
#   processor that computes for 2.5 of every 10 ms, at nice 19, and does nothing else.
#
#   REPL=build/release/repl bench/points.sh [options]     as root; about 8 minutes
#
#   --pairs N         3
#   --seconds N       5: what is measured of each run, after one second to settle
#   --only REGEX      these cells of ext4/random, xfs/frozen and so on, and memory
#   --devices DIR     where the protected devices' files lie. Default /dev/shm, so that it is not the
#                     site's disk that the writer waits for; what agent and site write goes to
#                     $TEST_DIR or /var/tmp
#   --record          append what was printed to bench/RESULTS.md
#
# Without the agent means without its tracking programs and without a site. The site runs at nice 19:
# in earnest it is another machine. Everything is undone on every exit; KEEP=1 keeps the logs and
# results.tsv.
here=${0%/*}
pairs=3 window=5 only=. devices=/dev/shm record=
while [ $# -gt 0 ]; do
    case $1 in
    --pairs) pairs=$2 && shift ;;
    --seconds) window=$2 && shift ;;
    --only) only=$2 && shift ;;
    --devices) devices=$2 && shift ;;
    --record) record=yes ;;
    *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit 64 ;;
    esac
    shift
done
. "$here/../tests/integration/functions.sh"
requires_root
requires_loop
for tool in jq fio fsfreeze mkfs.ext4 mkfs.xfs cc; do requires_tool "$tool"; done
[[ $pairs =~ ^[1-9][0-9]*$ && $window =~ ^[1-9][0-9]*$ ]] || fail "--pairs and --seconds are numbers"

WARM=1         # seconds of each load that do not count
RATE=60000000  # bytes a second
FILE_MIB=512   # what the random writes go to
NEIGHBOUR=25   # per cent of each processor: more than agent and site take ("What does it cost?")
devices=$(mktemp -d "$devices/repl-bench.XXXXXX") || exit 1
results=$workdir/results.tsv # cell, pair, arm, key, value
tool=$workdir/points
mounted=$workdir/mnt
frozen='' agent_up=''
skipped=()

bench_cleanup() {
    local status=$?
    [ -n "$frozen" ] && fsfreeze -u "$frozen" 2>/dev/null
    rm -rf "$devices" # the loop devices keep the files until they go
    (exit "$status")
    cleanup
}
trap bench_cleanup EXIT

say() { note "$*" >&2; }
wanted() { grep -qE -- "$only" <<<"$1"; }
result() { printf '%s\t%s\t%s\t%s\t%s\n' "$cell" "$pair" "$1" "$2" "$3" >>"$results"; } # ARM KEY VALUE

run cc -O2 -Wall -o "$tool" "$here/points.c"
: >"$results"
make_keys

# --- agent and site ----------------------------------------------------------------------------------

start_niced_site() {
    nice -n 19 "$REPL" site --config "$workdir/site.conf" >>"$workdir/site.log" 2>&1 &
    site_pid=$!
    test_pids[0]=$site_pid
    wait_for 10 "the site answers" site_answers
}
within() { # SECONDS COMMAND...: as wait_for, but it is no failure
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.1
    done
}
is_tracked() { [ "$(agent_value data .tracked)" = true ]; }
has_points_since() { [ "$(site_value data .point.begin_ns)" -ge "$1" ] 2>/dev/null; }

with_agent() {
    [ -z "$agent_up" ] || return 0
    start_niced_site
    [ -z "$quiesce" ] || start_guard
    start_agent
    agent_up=yes
    wait_replicated data 120
    within 20 replica_reached data || say "the replica is behind"
    within 10 is_tracked || say "not tracked: $(agent_value data .untracked)"
}
# The tracking programs would go on. Only "forget" ends them, and it takes the state with it.
without_agent() {
    [ -n "$agent_up" ] || return 0
    stop_agent
    [ -z "$quiesce" ] || stop_guard
    stop_site
    agent_up=
    run cp -a "$workdir/state" "$workdir/kept"
    forget_volume "$workdir/state" data || fail "cannot end the tracking"
    rm -rf "$workdir/state" && mv "$workdir/kept" "$workdir/state"
    sync -f "$workdir"
}

cpu_ms() { # PID
    awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) * 1000 / hz }' "/proc/$1/stat"
}

# --- the loads ---------------------------------------------------------------------------------------

# In the background only: exec, so that the process to end is fio itself.
random_writes() { # SECONDS OUTPUT
    exec fio --name=load --thread --filename="$mounted/file" --size=${FILE_MIB}M --rw=randwrite --bs=4k --ioengine=psync \
        --fsync=32 --rate=$RATE --time_based --ramp_time=$WARM --runtime="$1" --norandommap \
        --randrepeat=0 --refill_buffers --buffer_compress_percentage=50 --output-format=json \
        --output="$2" >/dev/null 2>>"$workdir/load.log"
}
# Something to write to before the first copy: files that grow are another question.
load_prepare() {
    if [ "$load" = transactions ]; then
        run "$tool" transactions "$mounted" 0 0 >/dev/null
    else
        fio --name=layout --filename="$mounted/file" --size=${FILE_MIB}M --rw=write --bs=1M --ioengine=psync \
            --refill_buffers --buffer_compress_percentage=50 --end_fsync=1 --output=/dev/null ||
            fail "cannot lay out the file"
    fi
    [ "$load" != frozen ] || run "$tool" probe "$mounted/probe" 0 1 >/dev/null
}
load_start() {
    if [ "$load" = transactions ]; then
        "$tool" transactions "$mounted" $WARM "$window" >"$workdir/load.json" 2>>"$workdir/load.log" &
    else
        random_writes "$window" "$workdir/load.json" &
    fi
    test_pids[2]=$!
    if [ "$load" = frozen ]; then
        "$tool" probe "$mounted/probe" $WARM "$window" >"$workdir/probe.json" 2>>"$workdir/load.log" &
        test_pids[3]=$!
    fi
}
load_wait() { # ARM
    local i value
    wait "${test_pids[2]}" || fail "the load"
    test_pids[2]=
    if [ "$load" = transactions ]; then
        result "$1" rate "$(jq .rate "$workdir/load.json")"
        result "$1" sync_p99_ns "$(jq .sync_p99_ns "$workdir/load.json")"
    else
        result "$1" rate "$(jq '.jobs[0].write.iops' "$workdir/load.json")"
        result "$1" sync_p99_ns "$(jq '.jobs[0].sync.lat_ns.percentile["99.000000"]' "$workdir/load.json")"
    fi
    [ "$load" = frozen ] || return 0
    wait "${test_pids[3]}" || fail "the probe"
    test_pids[3]=
    # What is typical for a second with a freeze in it, and the longest of all.
    jq -r '.longest_ns | sort | .[length / 2 | floor], .[-1]' "$workdir/probe.json" |
        for i in stall_ns stall_max_ns; do read -r value && result "$1" $i "$value"; done
}

freeze_each_second() {
    local i
    frozen=$mounted
    for i in $(seq $((WARM + window - 1))); do
        sleep 0.9
        fsfreeze -f "$mounted" && fsfreeze -u "$mounted"
    done
    frozen=
}

measure_without() {
    without_agent
    load_start
    load_wait without
}
# What it costs the writer that anybody at all computes now and then, at the lowest priority.
measure_neighbour() {
    local i processors
    processors=$(nproc)
    without_agent
    for ((i = 5; i < 5 + processors; i++)); do
        nice -n 19 "$tool" compute $NEIGHBOUR $((WARM + window)) &
        test_pids[i]=$!
    done
    load_start
    load_wait neighbour
    for ((i = 5; i < 5 + processors; i++)); do
        wait "${test_pids[i]}" || fail "the neighbour"
        test_pids[i]=
    done
}
measure_bare() {
    without_agent
    load_start
    freeze_each_second
    load_wait bare
}
measure_agent() {
    local begin end agent_cpu site_cpu field logged
    with_agent
    agent_status >"$workdir/before.json"
    logged=$(wc -l <"$workdir/agent.log")
    agent_cpu=$(cpu_ms "$agent_pid") site_cpu=$(cpu_ms "$site_pid")
    load_start
    sleep $WARM
    begin=$(date +%s%N)
    "$tool" sample "$workdir/site.sock" "$window" >"$workdir/samples.json" || fail "the site's status"
    end=$(date +%s%N)
    load_wait agent
    # Whatever was changed under the load has been read when this is over.
    within 60 known_since data "$(date +%s%N)" || say "no point within 60 s after the load"
    agent_cpu=$(awk "BEGIN { print $(cpu_ms "$agent_pid") - $agent_cpu }")
    site_cpu=$(awk "BEGIN { print $(cpu_ms "$site_pid") - $site_cpu }")
    agent_status >"$workdir/after.json"
    delta() { jq -n --arg f "$1" '[inputs.volumes[] | select(.name == "data") | .[$f]] | .[1] - .[0]' "$workdir/before.json" "$workdir/after.json"; }
    result agent agent_cpu_ms "$agent_cpu"
    result agent site_cpu_ms "$site_cpu"
    for field in bytes_changed rounds_torn audits shortfalls repairs degradations; do
        result agent $field "$(delta $field)"
    done
    result agent untracked "$(jq '[.volumes[] | select(.tracked | not)] | length' "$workdir/after.json")"
    result agent status_stall_ms "$(jq '.volumes[0].stall_max_ms' "$workdir/after.json")"
    jq -r '.volumes[] | select(.name == "data") | .lag_ms' "$workdir/samples.json" |
        while read -r lag; do result agent lag_ms "$lag"; done
    "$REPL" points data --site "127.0.0.1:$port" --fingerprint "$site_fingerprint" \
        --key "$workdir/rescue.key" --json >"$workdir/points.json" 2>>"$workdir/points.log" ||
        fail "the points"
    jq -r --argjson from "$begin" --argjson to "$end" '.timeline[] |
        select(.type == "point" and .end_ns >= $from and .end_ns < $to) |
        [.end_ns - .begin_ns, .attempts, .cut, .merged] | @tsv' "$workdir/points.json" >"$workdir/points.tsv"
    result agent points "$(wc -l <"$workdir/points.tsv")"
    while read -r length attempts cut merged; do
        result agent window_ns "$length"
        result agent attempts "$attempts"
        result agent "cut" "$cut"
        [ "$merged" = false ] || result agent merged 1
    done <"$workdir/points.tsv"
    tail -n +$((logged + 1)) "$workdir/agent.log" | cut -d' ' -f2- | tee -a "$workdir/said" | sed 's/^/          /' >&2
    say "$cell, pair $pair: $(wc -l <"$workdir/points.tsv") points in $window s"
}

# --- the cells ---------------------------------------------------------------------------------------

make_filesystem() { # TYPE SIZE
    make_loop "$devices/disk" "$2"
    disk=$loop
    [ "$(cat "/sys/block/${disk##*/}/loop/dio")" = 1 ] || say "$disk does not go around the page cache"
    # What somebody else set stays with the number.
    cache=/sys/block/${disk##*/}/queue/write_cache
    [ "$(cat "$cache")" = "write back" ] || echo "write back" >"$cache"
    [ "$(cat "$cache")" = "write back" ] || fail "the write cache of $disk is: $(cat "$cache")"
    run "mkfs.$1" -q "$disk"
    make_mount "$disk" "$mounted"
}
drop_filesystem() {
    drop_mount "$mounted"
    drop_loop "$disk"
    rm -rf "$devices/disk" "$workdir/state" "$workdir/store"
}

measure_cell() { # FILESYSTEM LOAD
    local fs=$1 arms
    load=$2 cell=$1/$2 quiesce=
    local third=neighbour
    [ "$load" = frozen ] && quiesce=freeze third=bare
    make_filesystem "$fs" 768M
    load_prepare
    write_site_config data
    VOLUME_OPTIONS=${quiesce:+quiesce = $quiesce} RPO=2s write_agent_config "data=$disk"
    for pair in $(seq "$pairs"); do
        arms="without $third agent"
        [ $((pair % 2)) = 1 ] || arms="agent $third without"
        for arm in $arms; do "measure_$arm"; done
    done
    without_agent
    drop_filesystem
}

# KiB: resident, of it mapped digests and tracking maps, of it other mapped files
resident() { # PID
    awk '/^[0-9a-f]+-[0-9a-f]+ / { path = $6 }
        /^Rss:/ { all += $2; if (path ~ /\/digests$|bpf-map|bpf_map|\/sys\/fs\/bpf/) tables += $2; else if (path ~ /^\//) files += $2 }
        END { print all + 0, tables + 0, files + 0 }' "/proc/$1/smaps" 2>/dev/null
}
# The moment with the most beside the tables.
watch_resident() { # WHEN COMMAND...: until COMMAND succeeds
    local when=$1 program now deadline=$((SECONDS + 180))
    local -A highest=([agent]="0 0 0" [site]="0 0 0") pid_of=([agent]=$agent_pid [site]=$site_pid)
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "not within 180 s: $when"
        for program in agent site; do
            now=$(resident "${pid_of[$program]}")
            highest[$program]=$(awk 'NR == 1 || $1 - $2 > most { most = $1 - $2; line = $0 } END { print line }' \
                <<<"${highest[$program]}"$'\n'"$now")
        done
        sleep 0.1
    done
    for program in agent site; do
        pair=$when result "$program" resident "${highest[$program]}"
    done
}
load_is_over() { ! kill -0 "${test_pids[2]}" 2>/dev/null || [ "$(ps -o stat= -p "${test_pids[2]}" | cut -c1)" = Z ]; }
is_replicated() { known_since data "$seeded"; }

measure_memory() {
    local seeded began
    cell=memory load=random quiesce=
    make_filesystem ext4 4G
    load_prepare
    # What a system's disk holds, up to half of the device.
    tar cf - -C / usr/lib usr/bin usr/share 2>/dev/null | head -c $((2048 - FILE_MIB))M >"$mounted/system"
    sync -f "$mounted"
    write_site_config data
    VOLUME_OPTIONS='' RPO=2s write_agent_config "data=$disk"
    seeded=$(date +%s%N)
    began=$SECONDS
    start_niced_site
    start_agent
    agent_up=yes
    watch_resident seed is_replicated
    say "memory: first copy in $((SECONDS - began)) s"
    load_start
    watch_resident load load_is_over
    wait "${test_pids[2]}"
    test_pids[2]=
    without_agent
    drop_filesystem
}

# --- what came of it ---------------------------------------------------------------------------------

values() { awk -F'\t' -v c="$1" -v a="$2" -v k="$3" '$1 == c && $3 == a && $4 == k { print $5 }' "$results"; } # CELL ARM KEY
# ONE/OTHER of each pair
ratios() { # CELL KEY ARM OTHER
    awk -F'\t' -v c="$1" -v k="$2" -v a="$3" -v b="$4" '
        $1 == c && $4 == k && $3 == a { x[$2] = $5 }
        $1 == c && $4 == k && $3 == b { y[$2] = $5 }
        END { for (p in x) if (y[p] > 0) print x[p] / y[p] }' "$results"
}
# Median and spread of the lines, each multiplied by FACTOR
spread() { # FORMAT [FACTOR]
    sort -g | awk -v f="$1" -v m="${2:-1}" '{ v[NR] = $1 * m } END {
        if (NR == 0) { print "-"; exit }
        median = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
        printf f " (" f " – " f ")\n", median, v[1], v[NR] }'
}
# Nearest rank. -1 (nothing to restore) does not occur after the first copy.
quantile() { # Q FORMAT [FACTOR]
    sort -g | awk -v q="$1" -v f="$2" -v m="${3:-1}" '{ v[NR] = $1 * m } END {
        if (NR == 0) { print "-"; exit }
        i = int(NR * q); if (i < NR * q) i++; if (i < 1) i = 1
        printf f "\n", v[i] }'
}
sum() { awk '{ s += $1 } END { print s + 0 }'; }
cells() { cut -f1 "$results" | awk '!seen[$1]++' | grep "${1:-/}"; }
cell_name() {
    case ${1#*/} in
    random) echo "${1%/*}, 60 MB/s random" ;;
    transactions) echo "${1%/*}, transactions" ;;
    frozen) echo "${1%/*}, 60 MB/s, freeze" ;;
    esac
}
table() { # TITLE COLUMN...
    local rule
    printf '\n### %s\n\n' "$1"
    shift
    rule=$(printf '| --- %.0s' "$@")
    printf '| %s ' "$@" && printf '|\n%s|\n' "$rule"
}
row() { printf '| %s ' "$@" && printf '|\n'; }

report() {
    local c d when program line
    echo "## One point a second"
    echo
    echo "    REPL=build/release/repl bench/points.sh --pairs $pairs --seconds $window${only_given:+ --only '$only'}"
    echo
    fold -s -w 100 <<<"$(date +%F), $machine; $version; load average before $load_before. Devices in $devices_kind, all else in ${TEST_DIR:-/var/tmp}. rpo = 2s. Median and spread (lowest – highest) of $pairs pairs of $window s." | sed 's/ *$//'
    [ ${#skipped[@]} = 0 ] || printf '\nNot measured, for lack of time: %s.\n' "${skipped[*]}"
    if cells >/dev/null; then
        table "Does the writer notice?" "" "without, a second" "with/without (aim 0.97)" "fsync p99 without, ms" "with/without (aim 1.25)" \
            "next to a neighbour/without: writes, fsync p99"
        for c in $(cells); do
            row "$(cell_name "$c")" "$(values "$c" without rate | quantile 0.5 %.0f)" "$(ratios "$c" rate agent without | spread %.3f)" \
                "$(values "$c" without sync_p99_ns | quantile 0.5 %.2f 1e-6)" "$(ratios "$c" sync_p99_ns agent without | spread %.2f)" \
                "$(ratios "$c" rate neighbour without | quantile 0.5 %.3f), $(ratios "$c" sync_p99_ns neighbour without | spread %.2f)"
        done
        table "Is there a point each second?" "" "points a second" "attempts, median, most" "window, ms: median, p99, longest" "cut by" "merged" "rounds torn"
        for c in $(cells); do
            row "$(cell_name "$c")" "$(values "$c" agent points | spread %.2f "$(awk "BEGIN { print 1 / $window }")")" \
                "$(values "$c" agent attempts | quantile 0.5 %.0f), $(values "$c" agent attempts | quantile 1 %.0f)" \
                "$(d=$(values "$c" agent window_ns) && for q in 0.5 0.99 1; do quantile $q %.2f 1e-6 <<<"$d"; done | paste -sd, | sed 's/,/, /g')" \
                "$(values "$c" agent cut | sort | uniq -c | awk '{ printf "%s%s %d", (NR > 1 ? ", " : ""), $2, $1 }')" \
                "$(values "$c" agent merged | sum)" "$(values "$c" agent rounds_torn | sum)"
        done
        table "How old is what the site has?" "" "age, ms: median" "p99 (aim 2000)" "highest" "samples"
        for c in $(cells); do
            d=$(values "$c" agent lag_ms)
            row "$(cell_name "$c")" "$(quantile 0.5 %.0f <<<"$d")" "$(quantile 0.99 %.0f <<<"$d")" "$(quantile 1 %.0f <<<"$d")" "$(wc -l <<<"$d")"
        done
        table "Does the tracking hold?" "" audits shortfalls repairs degradations "runs untracked"
        for c in $(cells); do
            line=()
            for d in audits shortfalls repairs degradations untracked; do line+=("$(values "$c" agent $d | sum)"); done
            row "$(cell_name "$c")" "${line[@]}"
        done
        # What the agent said under load should be nothing.
        [ ! -s "$workdir/said" ] || { echo && sed -E 's/^[0-9:.]+ (warning: )?volume data: /- /' "$workdir/said" | sort | uniq -c | sed -E 's/^ *([0-9]+) - (.*)/- \1 times: \2/'; }
        table "What does it cost?" "" "changed, MB/s" "agent, ms of processor for each MB changed" "agent, of one processor" "site, of one processor"
        for c in $(cells); do
            row "$(cell_name "$c")" "$(values "$c" agent bytes_changed | quantile 0.5 %.1f "$(awk "BEGIN { print 1e-6 / ($window + $WARM) }")")" \
                "$(paste <(values "$c" agent agent_cpu_ms) <(values "$c" agent bytes_changed) | awk '$2 > 0 { print $1 / $2 * 1e6 }' | spread %.1f)" \
                "$(values "$c" agent agent_cpu_ms | quantile 0.5 "%.0f %%" "$(awk "BEGIN { print 0.1 / ($window + $WARM) }")")" \
                "$(values "$c" agent site_cpu_ms | quantile 0.5 "%.0f %%" "$(awk "BEGIN { print 0.1 / ($window + $WARM) }")")"
        done
    fi
    if cells /frozen >/dev/null; then
        table "How long do writers wait for a freeze?" "" "without any, ms: each second's longest, longest" "fsfreeze -f; -u" "agent" \
            "agent/fsfreeze, each second's (aim 1.3)" "agent/fsfreeze, longest" "by its own status"
        for c in $(cells /frozen); do
            line=()
            for d in without bare agent; do
                line+=("$(values "$c" $d stall_ns | quantile 0.5 %.1f 1e-6), $(values "$c" $d stall_max_ns | quantile 1 %.1f 1e-6)")
            done
            row "$(cell_name "$c")" "${line[@]}" "$(ratios "$c" stall_ns agent bare | spread %.2f)" \
                "$(ratios "$c" stall_max_ns agent bare | spread %.2f)" "$(values "$c" agent status_stall_ms | quantile 1 %.0f)"
        done
    fi
    if cells memory >/dev/null; then
        table "How much memory do they hold?" "half-full 4 GiB device, highest, MiB" "resident" "of it digests and tracking maps" "of it other mapped files" "without the digests and maps (aim 128)"
        for when in seed load; do
            for program in agent site; do
                awk -F'\t' -v w="$when" -v p="$program" '$1 == "memory" && $2 == w && $3 == p {
                    split($5, v, " "); printf "| %s, %s | %.0f | %.0f | %.0f | %.0f |\n",
                        p, w == "seed" ? "first copy" : "under 60 MB/s random", v[1] / 1024, v[2] / 1024, v[3] / 1024, (v[1] - v[2]) / 1024 }' "$results"
            done
        done
    fi
}

only_given=''
[ "$only" = . ] || only_given=yes
machine="$(nproc) processors ($(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)), $(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), $(. /etc/os-release && echo "$PRETTY_NAME"), kernel $(uname -r)"
version=$("$REPL" --version 2>/dev/null | head -n 1)
commit=$(git -C "$here" rev-parse --short HEAD 2>/dev/null) && version="$version, $commit"
load_before=$(cut -d' ' -f1 /proc/loadavg)
devices_kind="$(df --output=fstype "$devices" | tail -n 1) (${devices%/*})"

todo=()
for fs in ext4 xfs; do for load in random transactions frozen; do wanted $fs/$load && todo+=("$fs/$load"); done; done
wanted memory && todo+=(memory)
estimate=0
for i in "${todo[@]}"; do
    case $i in
    memory) estimate=$((estimate + 50 + window)) ;;
    */frozen) estimate=$((estimate + 3 * pairs * (window + WARM) + 6 * pairs)) ;;
    *) estimate=$((estimate + 3 * pairs * (window + WARM) + 3 * pairs)) ;;
    esac
done
say "${#todo[@]} cells, about $(((estimate + 59) / 60)) min"
for i in "${todo[@]}"; do
    # Something is wrong with the machine, or with repl: what there is is still printed.
    if [ $SECONDS -gt $((2 * estimate + 60)) ]; then
        skipped+=("$i")
        continue
    fi
    say "$i"
    if [ "$i" = memory ]; then measure_memory; else measure_cell "${i%/*}" "${i#*/}"; fi
done

report | tee "$workdir/report.md"
if [ -n "$record" ]; then
    { echo && cat "$workdir/report.md"; } >>"$here/RESULTS.md"
    say "appended to $here/RESULTS.md"
fi
