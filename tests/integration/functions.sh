# Sourced by every integration test. Gives it a directory of its own, an agent and a site on
# loopback, loop devices and mounts, and undoes all of it on every exit.
#
# A test is skipped (exit 77) only for what the machine lacks, said in one line; anything else that
# goes wrong is a failure.

set -u -o pipefail
: "${REPL:?the path of the program under test}"

workdir=$(mktemp -d "${TEST_DIR:-/var/tmp}/repl-test.XXXXXX")
test_pids=()
test_loops=()
test_exits=()
test_mounts=()
test_partitioned=() # loop devices with a partition 1

exec {test_output}>&1
note() { printf '%s  %s\n' "$(date +%T)" "$*"; }
fail() { # also of what is redirected, as in: run ... >file
    exec >&"$test_output"
    note "FAILED: $*"
    for log in "$workdir"/*.log; do
        [ -f "$log" ] && { echo "--- ${log##*/}"; tail -n 40 "$log"; }
    done
    doing agent "${agent_pid:-}"
    doing site "${site_pid:-}"
    exit 1
}
doing() { # NAME PID: what it says of itself, and where its threads are
    kill -0 "${2:-none}" 2>/dev/null || return
    echo "--- the $1, which runs"
    timeout 5 "$REPL" status --json --socket "$workdir/$1.sock" 2>&1
    for thread in "/proc/$2/task"/*; do
        echo "$(cat "$thread/comm" 2>/dev/null): $(tr '\n' ' ' <"$thread/stack" 2>/dev/null)"
    done
}
skip() { echo "skipped: $*"; exit 77; }
run() { "$@" || fail "$* (exit $?)"; }

requires_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }
requires_tool() { command -v "$1" >/dev/null || skip "needs $1"; }
requires_loop() { [ -c /dev/loop-control ] || skip "needs loop devices"; }

# What is random is the same in each run, so that a change is not blamed for what a new seed found:
# new ones are looked for with SEED=random.
seed_take() {
    : "${SEED:=1}"
    [ "$SEED" = random ] && SEED=$((RANDOM * 32768 + RANDOM))
    RANDOM=$SEED
}

# Ends a process and waits for it; the signal is the second argument.
stop_pid() {
    kill "-${2:-TERM}" "$1" 2>/dev/null
    for _ in $(seq 200); do
        kill -0 "$1" 2>/dev/null || break
        # a child of ours is gone when it can be reaped
        if [ "$(ps -o stat= -p "$1" 2>/dev/null | cut -c1)" = Z ]; then break; fi
        sleep 0.05
    done
    kill -KILL "$1" 2>/dev/null
    wait "$1" 2>/dev/null
}

forget_volume() { # STATE NAME
    sed "s|^state = .*|state = $1|" "$workdir/agent.conf" >"$workdir/forget.conf" &&
        "$REPL" forget "$2" --config "$workdir/forget.conf" >/dev/null
}

# A writer that was just ended may hold it for a moment yet.
leave_mount() { # DIRECTORY
    local i
    for i in $(seq 50); do
        umount "$1" 2>/dev/null || ! mountpoint -q "$1" && return
        sleep 0.1
    done
    note "$1 is in use; it goes when that ends"
    umount -l "$1"
}

# at_exit COMMAND: before anything else is cleaned up. (A trap of its own would lose the status.)
at_exit() { test_exits+=("$1"); }
cleanup() {
    local status=$? i
    trap - EXIT
    for i in "${test_exits[@]}"; do "$i"; done
    for i in "${test_pids[@]}"; do [ -n "$i" ] && stop_pid "$i"; done
    # the tracking programs outlive the agent
    for i in "$workdir"/state*/volumes/*; do
        [ -f "$i/state" ] && forget_volume "${i%/volumes/*}" "${i##*/}"
    done
    for ((i = ${#test_mounts[@]} - 1; i >= 0; i--)); do leave_mount "${test_mounts[i]}"; done
    for i in "${test_partitioned[@]}"; do delpart "$i" 1 2>/dev/null; done
    for i in "${test_loops[@]}"; do
        loop_as_new "$i"
        losetup -d "$i" 2>/dev/null
    done
    [ -n "${KEEP:-}" ] && echo "kept: $workdir" || rm -rf "$workdir"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# make_loop FILE SIZE [losetup options]: sets $loop. The file behind it is read and written directly,
# so that nothing but the device's own cache lies between.
make_loop() {
    local file=$1 size=$2
    shift 2
    [ -e "$file" ] || run truncate -s "$size" "$file"
    loop=$(losetup --find --show --direct-io=on "$@" "$file") || fail "losetup $file"
    test_loops+=("$loop")
    loop_as_new "$loop"
}
# What its last user has set, the next one finds.
loop_as_new() {
    { echo 1 >"/sys/block/${1##*/}/queue/iostats"
      echo "write back" >"/sys/block/${1##*/}/queue/write_cache"; } 2>/dev/null
}
drop_loop() {
    local i
    losetup -d "$1" || fail "losetup -d $1"
    for i in "${!test_loops[@]}"; do [ "${test_loops[i]}" = "$1" ] && unset "test_loops[i]"; done
    test_loops=("${test_loops[@]}")
}
make_mount() { # DEVICE DIRECTORY [options]
    local device=$1 directory=$2
    shift 2
    mkdir -p "$directory"
    run mount "$@" "$device" "$directory"
    test_mounts+=("$directory")
}
drop_mount() {
    local i
    run umount "$1"
    for i in "${!test_mounts[@]}"; do [ "${test_mounts[i]}" = "$1" ] && unset "test_mounts[i]"; done
    test_mounts=("${test_mounts[@]}")
}

# --- one site and one agent ------------------------------------------------------------------------

port=$((10000 + $$ % 20000)) # below those that the kernel gives to whoever connects

# make_keys: site, agent and recovery keys; sets *_fingerprint
make_keys() {
    run "$REPL" keygen --name site "$workdir/site.key" >/dev/null
    run "$REPL" keygen --name agent "$workdir/agent.key" >/dev/null
    run "$REPL" keygen --name rescue "$workdir/rescue.key" >/dev/null
    site_fingerprint=$("$REPL" keygen --show "$workdir/site.key")
    agent_fingerprint=$("$REPL" keygen --show "$workdir/agent.key")
    rescue_fingerprint=$("$REPL" keygen --show "$workdir/rescue.key")
}

# write_site_config VOLUME...
write_site_config() {
    cat >"$workdir/site.conf" <<EOF
[site]
listen = 127.0.0.1:$port
key = $workdir/site.key
store = $workdir/store
control = $workdir/site.sock

[peer agent]
fingerprint = $agent_fingerprint
volumes = $*

[peer rescue]
fingerprint = $rescue_fingerprint
role = recovery
volumes = *
EOF
}

# write_agent_config NAME=DEVICE... ; RPO, SPOOL_LIMIT and VOLUME_OPTIONS (lines for each volume) from
# the environment
write_agent_config() {
    cat >"$workdir/agent.conf" <<EOF
[agent]
key = $workdir/agent.key
state = $workdir/state
control = $workdir/agent.sock
guard = $workdir/guard.sock
spool_limit = ${SPOOL_LIMIT:-1G}

[remote]
address = 127.0.0.1:$port
fingerprint = $site_fingerprint
EOF
    local pair
    for pair in "$@"; do
        printf '\n[volume %s]\n' "${pair%%=*}"
        case ${pair#*=} in
        tree:*) printf 'kind = tree\npath = %s\n' "${pair#*=tree:}" ;;
        *) printf 'device = %s\n' "${pair#*=}" ;;
        esac
        printf 'rpo = %s\n%s\n' "${RPO:-2s}" "${VOLUME_OPTIONS:-}"
    done >>"$workdir/agent.conf"
}

start_site() { # [SECONDS that it may take]
    "$REPL" site --config "$workdir/site.conf" >>"$workdir/site.log" 2>&1 &
    site_pid=$!
    test_pids[0]=$site_pid
    wait_for "${1:-10}" "the site answers" site_answers
}
start_agent() {
    "$REPL" agent --config "$workdir/agent.conf" >>"$workdir/agent.log" 2>&1 &
    agent_pid=$!
    test_pids[1]=$agent_pid
    wait_for 10 "the agent answers" agent_answers
}
start_guard() {
    "$REPL" guard --config "$workdir/agent.conf" >>"$workdir/guard.log" 2>&1 &
    guard_pid=$!
    test_pids[4]=$guard_pid
    wait_for 10 "the guard listens" [ -S "$workdir/guard.sock" ]
}
stop_guard() { stop_pid "$guard_pid" "${1:-TERM}"; test_pids[4]=; }
stop_site() { stop_pid "$site_pid" "${1:-TERM}"; test_pids[0]=; }
stop_agent() { stop_pid "$agent_pid" "${1:-TERM}"; test_pids[1]=; }

site_answers() { site_status >/dev/null 2>&1; }
agent_answers() { agent_status >/dev/null 2>&1; }
# Exit code 1 of status only says that a volume is not well.
site_status() { "$REPL" status --json --socket "$workdir/site.sock"; [ $? -le 1 ]; }
agent_status() { "$REPL" status --json --socket "$workdir/agent.sock"; [ $? -le 1 ]; }
# site_value VOLUME .field
site_value() { site_status | jq -r --arg v "$1" ".volumes[] | select(.name == \$v) | $2"; }
agent_value() { agent_status | jq -r --arg v "$1" ".volumes[] | select(.name == \$v) | $2"; }

# wait_for SECONDS WHAT COMMAND...
wait_for() {
    local seconds=$1 what=$2 deadline pause=0.05
    shift 2
    deadline=$((EPOCHSECONDS + seconds))
    until "$@"; do
        [ "$EPOCHSECONDS" -lt "$deadline" ] || fail "not within $seconds s: $what"
        sleep $pause
        pause=0.2 # a status costs 40 ms of a processor that others use as well
    done
}

# The site's knowledge of the volume is no older than SINCE (nanoseconds since 1970).
known_since() { # VOLUME SINCE
    local until
    until=$(site_value "$1" '[.point.begin_ns, .unchanged_until_ns] | max') || return 1
    [ -n "$until" ] && [ "$until" != null ] && [ "$until" -ge "$2" ]
}
# Waits until everything written before this call is in a point at the site.
wait_replicated() { # VOLUME [SECONDS]
    local now
    now=$(date +%s%N)
    wait_for "${2:-30}" "volume $1 is known as of now" known_since "$1" "$now"
}
replica_reached() { # VOLUME
    local reached
    reached=$(site_value "$1" 'if .replica_applying then -1 else .replica_seq end')
    [ -n "$reached" ] && [ "$reached" = "$(site_value "$1" .point.seq)" ]
}

# Whether two files or devices hold the same bytes.
same_bytes() { cmp -s "$1" "$2"; }
device_hash() { sha256sum "$1" | cut -d' ' -f1; }

# --- one volume: raw -------------------------------------------------------------------------------

# raw_volume SIZE: sets $disk, a loop device, and makes the keys and the configuration of both ends
raw_volume() {
    requires_root
    requires_loop
    requires_tool jq
    make_keys
    make_loop "$workdir/disk" "$1"
    disk=$loop
    write_site_config raw
    write_agent_config "raw=$disk"
}
# The site has everything written before this call, byte for byte.
raw_equal() { # WHAT [SECONDS]
    wait_replicated raw "${2:-60}"
    wait_for "${2:-60}" "the replica has reached the last point" replica_reached raw
    same_bytes "$disk" "$workdir/store/volumes/raw/replica.img" || fail "$1: the replica differs"
}
raw_segments() { find "$workdir/state/volumes/raw/spool" -name '*.seg' | wc -l; } # in the spool
# No point was found by comparison with what the site has.
raw_not_compared() { # WHAT
    local count
    count=$("$REPL" points raw --store "$workdir/store" --json | jq '[.. | objects | select(.resync == true)] | length')
    [ "$count" = 0 ] || fail "$1: something was compared as a whole"
}
