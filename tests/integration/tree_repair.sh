#!/bin/bash
# A directory tree whose changes are not heard of: an event queue that overflows, an agent that is
# stopped while the tree changes, an index that is lost, and a freeze where no window is found. Each
# time what is restored has to equal the tree, and the volume to say what it was in doubt of.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool "mkfs.${FS:=ext4}"

queue=/proc/sys/fs/fanotify/max_queued_events
[ -r "$queue" ] || skip "no fanotify"

make_keys
make_loop "$workdir/disk" 512M
run "mkfs.$FS" -q "$loop"
make_mount "$loop" "$workdir/mnt"
root=$workdir/mnt/root
run mkdir "$root"
run cp -r /usr/share/common-licenses /usr/share/perl "$root"
write_site_config data
write_agent_config "data=tree:$root"
start_site
start_agent

summary() { # DIRECTORY
    (cd "$1" && {
        find . -type d -printf 'd %P %m %U %G %T@\n' -o -printf '%y %P %m %U %G %T@ %s %n %l\n' | sort
        find . -type f -print0 | sort -z | xargs -0 sha256sum
    })
}
restored_equal() { # WHAT
    local point
    point=$(site_value data .point.seq)
    rm -rf "$workdir/back"
    run "$REPL" restore data --at "$point" --to "$workdir/back" --store "$workdir/store" \
        >"$workdir/restore.log" 2>&1
    summary "$root" >"$workdir/want"
    summary "$workdir/back" >"$workdir/got"
    cmp "$workdir/want" "$workdir/got" || {
        diff "$workdir/want" "$workdir/got" | head -n 20
        fail "$1: what is restored differs"
    }
    note "$1: point $point equals the tree, $(grep -c '^[a-z] ' "$workdir/want") names"
}
doubts() { agent_value data .degradations; }
overflow() { # as many names as the queue has room for, which are gone again
    run mkdir "$workdir/mnt/many"
    (cd "$workdir/mnt/many" && seq $(($(cat "$queue") + 1000)) | xargs touch) || fail "many names"
    run rm -r "$workdir/mnt/many"
}
churn() { # NAME: about 1,000 names
    local i
    mkdir -p "$root/$1"
    for i in $(seq 1000); do echo "$1 $i" >"$root/$1/file.$i"; done
    mv "$root/$1/file.1" "$root/moved.$1"
    rm "$root/$1/file.2" "$root/$1/file.3"
    ln "$root/$1/file.4" "$root/linked.$1"
    echo more >>"$root/common-licenses/GPL-3"
    touch "$root/perl"
}
since() { echo "$(($(date +%s%N) / 1000000 - $1 / 1000000)) ms"; }

wait_replicated data 60
[ "$(agent_value data .state)" != failed ] || fail "$(agent_value data .cause)"
[ "$(agent_value data .tracked)" = true ] || fail "$(agent_value data .untracked)"
restored_equal "first copy"

note "an event queue that overflows"
before=$(doubts)
kill -STOP "$agent_pid"
overflow
churn overflow
begun=$(date +%s%N)
kill -CONT "$agent_pid"
more_doubts() { [ "$(doubts)" -gt "$before" ]; }
wait_for 20 "the loss of events is noticed" more_doubts
note "noticed after $(since "$begun")"
wait_replicated data 60
note "repaired after $(since "$begun")"
well() { [[ $(agent_value data .state) =~ ^(idle|ok)$ ]]; }
wait_for 20 "the volume is well again" well
restored_equal "after the overflow"

note "changes while the agent is stopped"
stop_agent
churn stopped
begun=$(date +%s%N)
start_agent
wait_replicated data 60
note "repaired $(since "$begun") after its start"
restored_equal "after a stop"

note "changes while it is killed, with what it had heard and not sent"
churn killed
stop_agent KILL
churn killed2
start_agent
wait_replicated data 60
restored_equal "after a kill"

note "the same filesystem on a device of another number"
stop_agent
drop_mount "$workdir/mnt"
other=$loop
drop_loop "$other"
make_loop "$workdir/between" 64M # which takes the number
[ "$loop" = "$other" ] || note "the number $other was taken by others meanwhile"
make_loop "$workdir/disk" 0
make_mount "$loop" "$workdir/mnt"
start_agent
wait_replicated data 60
restored_equal "after a mount from $loop, $other before"

note "an index that is lost"
stop_agent
churn lost
run rm "$workdir/state/volumes/data/tree"
start_agent
wait_replicated data 60
restored_equal "after the loss of the index"
run "$REPL" verify data --store "$workdir/store" >"$workdir/verify.log" 2>&1

note "an index that is lost in the middle of a point"
part_of() { compgen -G "$workdir/store/volumes/data/segments/*$1.000000.seg" >/dev/null; }
write_on() { # no point is complete meanwhile
    while :; do dd if=/dev/urandom of="$root/large" bs=1M count=150 conv=notrunc status=none; done
}
begun=$(($(site_value data .point.seq) + 1))
churn torn
write_on &
writer=$!
test_pids+=("$writer")
wait_for 20 "a part of point $begun" part_of "$begun"
stop_agent KILL
stop_pid "$writer"
[ "$(site_value data .point.seq)" -lt "$begun" ] || fail "point $begun was complete"
rm -r "$root/overflow" "$root/stopped" "$root/torn"
run rm "$workdir/state/volumes/data/tree"
start_agent
wait_replicated data 60
restored_equal "after the loss in the middle of point $begun"
"$REPL" points data --store "$workdir/store" --json >"$workdir/points.json" || fail "points"
[ "$(jq "[.. | .seq? | numbers] | index($begun)" "$workdir/points.json")" = null ] ||
    fail "point $begun, whose parts were left behind, is listed"
run "$REPL" verify data --store "$workdir/store" >"$workdir/verify.log" 2>&1

note "an index that is damaged"
stop_agent
run dd if=/dev/urandom of="$workdir/state/volumes/data/tree" bs=4096 count=2 conv=notrunc status=none
start_agent
wait_replicated data 60
restored_equal "after damage to the index"
note "passed"
