#!/bin/bash
# What a site gives up, merges and removes while a real agent goes on: a volume that is written to all
# the time, with a file that is overwritten and comes back by its name alone, and a tree beside it.
# What was named restores as it was, before and after the files of before are gone; so does the last
# point; verify finds nothing.
. "${0%/*}/functions.sh"

raw_volume 32M
requires_tool mkfs.ext4
make_loop "$workdir/tree-disk" 32M
run mkfs.ext4 -q "$loop"
make_mount "$loop" "$workdir/tree"
write_site_config raw home
# What is older than 25 s: the names, and one a day. With less than a day the end of such a window might lie
# between two names, and what is left between it and them be too little to be merged.
sed -i '/^\[site\]/a retention = 1s:5s 10s:20s 1d:30d\ngrace = 1m' "$workdir/site.conf"
RPO=2s write_agent_config "raw=$disk" "home=tree:$workdir/tree"
start_site
start_agent
run "$REPL" site --clock-is-right --config "$workdir/site.conf" >/dev/null
wait_replicated raw 60
wait_replicated home 60

origin="--site 127.0.0.1:$port --fingerprint $site_fingerprint --key $workdir/rescue.key"
restore() { # VOLUME POINT TARGET
    # shellcheck disable=SC2086
    run "$REPL" restore "$1" --at "$2" --to "$3" $origin --yes >"$workdir/restore.log" 2>&1
}
put() { # FILE AT: in MiB
    run dd if="$1" of="$disk" bs=1M seek="$2" oflag=direct conv=notrunc status=none
}
name_it() { # NAME: what is on the device and in the tree
    run "$REPL" mark raw "$1" --timeout 30s --config "$workdir/agent.conf" >/dev/null
    cp --sparse=always "$disk" "$workdir/raw.$1"
    run "$REPL" mark home "$1" --timeout 30s --config "$workdir/agent.conf" >/dev/null
    cp -a "$workdir/tree" "$workdir/home.$1"
}
a_while() { # SECONDS: a point in each
    local i
    for ((i = 0; i < $1; i++)); do
        head -c 4096 /dev/urandom | dd of="$disk" seek=31 bs=1M oflag=direct conv=notrunc status=none
        echo "$i" >"$workdir/tree/last"
        sleep 1
    done
    wait_replicated raw
    wait_replicated home
}
names_restore() { # WHEN
    for name in first second copied third; do
        restore raw "$name" "$workdir/back"
        same_bytes "$workdir/back" "$workdir/raw.$name" || fail "$1: raw at $name is another one"
        restore home "$name" "$workdir/tree-back"
        run diff -r "$workdir/home.$name" "$workdir/tree-back" >"$workdir/diff.log"
        rm -rf "$workdir/back" "$workdir/tree-back"
    done
    for volume in raw home; do
        # shellcheck disable=SC2086
        run "$REPL" verify "$volume" $origin >"$workdir/verify.log" 2>&1
    done
}
points_of() { "$REPL" points "$1" --store "$workdir/store" --json | jq '[.timeline[] | select(.seq)] | length'; }

note "a file of 4 MiB, overwritten, and then by name in another place"
run dd if=/dev/urandom of="$workdir/file" bs=1M count=4 status=none
run dd if=/dev/urandom of="$workdir/other" bs=1M count=4 status=none
run cp "$workdir/other" "$workdir/tree/one"
name_it first
put "$workdir/file" 0
run cp "$workdir/file" "$workdir/tree/two"
a_while 12
put "$workdir/other" 0
run mv "$workdir/tree/one" "$workdir/tree/moved"
run rm "$workdir/tree/two"
name_it second
sent=$(agent_value raw .bytes_sent)
put "$workdir/file" 8
run cp "$workdir/file" "$workdir/tree/three"
a_while 2
sent=$(($(agent_value raw .bytes_sent) - sent))
[ "$sent" -lt 524288 ] || fail "$sent bytes were sent for what the site has"
name_it copied

note "both are written to all the time"
touch "$workdir/writing"
write_on() {
    local i=0
    while [ -e "$workdir/writing" ]; do
        i=$((i + 1))
        head -c 65536 /dev/urandom |
            dd of="$disk" bs=65536 seek=$((320 + i % 64)) iflag=fullblock oflag=direct conv=notrunc \
                status=none || exit 1
        cp "$workdir/other" "$workdir/tree/$((i % 3)).new" &&
            mv "$workdir/tree/$((i % 3)).new" "$workdir/tree/$((i % 3))" || exit 1
        sleep 0.2
    done
}
write_on &
writer=$!
test_pids[2]=$writer
has_merged() { # VOLUME: what lies before its point with the name "second"
    local seq
    seq=$("$REPL" mark "$1" --list --json --config "$workdir/site.conf" |
        jq '.names[] | select(.name == "second") | .seq')
    find "$workdir/store/volumes/$1/segments" -name "$(printf %020d "$seq").*.mrg" | grep -q .
}
wait_for 150 "raw is merged" has_merged raw
wait_for 60 "home is merged" has_merged home
rm "$workdir/writing"
wait "$writer" || fail "the writer"
test_pids[2]=
name_it third
note "$(points_of raw) and $(points_of home) points are left"
names_restore "merged"
find "$workdir/store/volumes" -name '*.seg' | sort >"$workdir/files.before"

note "the site is killed, and the grace ends"
stop_site KILL
start_site
gone() { # a file of before the merges
    find "$workdir/store/volumes" -name '*.seg' | sort >"$workdir/files.after"
    comm -23 "$workdir/files.before" "$workdir/files.after" | grep -q .
}
wait_for 150 "files of before are removed" gone
names_restore "removed"
[ "$(site_value raw .state)" = idle ] || [ "$(site_value raw .state)" = ok ] || fail "raw is $(site_value raw .state)"
note "passed"
