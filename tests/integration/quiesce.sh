#!/bin/bash
# The ways to cut a point other than in a window: under a freeze, between commands, by a freeze where
# no window is found, and what happens when the guard is not there.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool "mkfs.${FS:=ext4}"

make_keys
make_loop "$workdir/disk" 320M
disk=$loop
run "mkfs.$FS" -q "$disk"
make_mount "$disk" "$workdir/mnt"
write_site_config data
start_site

(   # a writer that never rests
    i=0
    while [ -d "$workdir/mnt" ]; do
        i=$((i + 1))
        dd if=/dev/urandom of="$workdir/mnt/f$((i % 20))" bs=16k count=4 conv=fsync status=none || exit 0
    done
) &
test_pids[2]=$!

begin() { # OPTIONS: an agent with these
    VOLUME_OPTIONS=$1 write_agent_config "data=$disk"
    start_agent
    wait_replicated data 60
}
cut_as() { # CUT CONSISTENCY: the next points are
    local from n
    from=$(site_value data .point.seq)
    points_since() { n=$(site_value data .point.seq) && [ "$n" -ge $((from + 3)) ]; }
    wait_for 30 "three more points" points_since
    [ "$(site_value data .point.cut)" = "$1" ] || fail "cut = $(site_value data .point.cut), not $1: $(agent_value data .cause)"
    [ "$(site_value data .point.consistency)" = "$2" ] || fail "consistency = $(site_value data .point.consistency), not $2"
    note "point $(site_value data .point.seq): $1, $2; writers waited $(agent_value data .stall_max_ms) ms at most"
}
restored_clean() { # without a journal replay
    local seq
    stop_agent
    seq=$(site_value data .point.seq)
    rm -f "$workdir/restored"
    run "$REPL" restore data --at "$seq" --to "$workdir/restored" --store "$workdir/store" --yes >"$workdir/restore.log" 2>&1
    if [ "$FS" = ext4 ]; then
        if dumpe2fs -h "$workdir/restored" 2>/dev/null | grep -q needs_recovery; then fail "point $seq needs a journal replay"; fi
        e2fsck -fn "$workdir/restored" >"$workdir/fsck.log" 2>&1 || fail "point $seq is not clean"
    else
        # a frozen xfs keeps a record in its log on purpose, which the next mount works through
        make_loop "$workdir/restored" 0
        make_mount "$loop" "$workdir/check" -o nouuid
        drop_mount "$workdir/check"
        xfs_repair -n "$loop" >"$workdir/fsck.log" 2>&1 || fail "point $seq is not clean"
        drop_loop "$loop"
    fi
}

note "a window, first"
begin ""
cut_as window crash
stop_agent

note "frozen, but there is no guard: cut in a window, and said"
begin "quiesce = freeze"
cut_as window crash
agent_value data .cause | grep -q "repl-guard" || fail "the cause is: $(agent_value data .cause)"
stop_agent

note "frozen"
start_guard
begin "quiesce = freeze
freeze_budget = 2s"
cut_as freeze filesystem
[ "$(agent_value data .cause)" = "" ] || fail "the cause is: $(agent_value data .cause)"
restored_clean
before=$(ls -la --time-style=full-iso "$workdir/mnt" | sha256sum)
sleep 1
[ "$(ls -la --time-style=full-iso "$workdir/mnt" | sha256sum)" != "$before" ] || fail "the writer is frozen"

note "between commands"
begin "quiesce = command
pre_command = echo pre >>$workdir/commands
post_command = echo post >>$workdir/commands"
cut_as command application
stop_agent
[ "$(sort "$workdir/commands" | uniq -c | awk '{print $1}' | sort -u | wc -l)" = 1 ] || fail "pre and post are not in pairs"
note "$(grep -c pre "$workdir/commands") pairs of commands"

note "a command that says no: cut in a window, and said"
begin "quiesce = command
pre_command = exit 3
post_command = echo post >>$workdir/commands"
cut_as window crash
[ "$(agent_value data .cause)" != "" ] || fail "nothing is said of the command that failed"
stop_agent

note "SIGKILL of the agent while frozen"
begin "quiesce = freeze
freeze_budget = 2s"
for i in $(seq "${KILLS:-10}"); do
    sleep "0.$((RANDOM % 9))$((RANDOM % 9))"
    stop_agent KILL
    run timeout 3 dd if=/dev/urandom of="$workdir/mnt/after" bs=4k count=1 conv=fsync status=none
    start_agent
done 2>/dev/null
cut_as freeze filesystem
restored_clean
stop_pid "${test_pids[2]}" KILL
note "passed"
