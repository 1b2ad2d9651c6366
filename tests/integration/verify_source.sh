#!/bin/bash
# The replica against the live device: nothing is found while it is written, what was altered at
# either end is found with its offset, and the remedies that are named help.
. "${0%/*}/functions.sh"

size=$((48 * 1024 * 1024 + 1536)) # no multiple of 4 KiB
raw_volume "$size"
run dd if=/dev/urandom of="$disk" bs=1M count=40 oflag=direct status=none
start_site
start_agent
wait_replicated raw

# compare CODE WORDS: the exit code, and what the output has to say
compare() {
    local code=$1 words=$2 status
    "$REPL" verify raw --source --wait 10 --config "$workdir/agent.conf" \
        >"$workdir/compare.log" 2>&1
    status=$?
    cat "$workdir/compare.log"
    [ "$status" = "$code" ] || fail "the exit code is $status instead of $code"
    grep -q -- "$words" "$workdir/compare.log" || fail "nothing is said of: $words"
}

# Random pages, often the same, until there is no file "write" any more.
writer() {
    while [ -e "$workdir/write" ]; do
        dd if=/dev/urandom of="$disk" bs=4k count=$((1 + RANDOM % 8)) seek=$((RANDOM % 12000)) \
            oflag=direct conv=notrunc status=none
        sleep 0.02
    done
}
writer_start() {
    touch "$workdir/write"
    writer &
    test_pids[2]=$!
}
writer_stop() {
    rm "$workdir/write"
    wait "${test_pids[2]}"
    test_pids[2]=
}

note "at rest"
compare 0 "$(printf '48.0 MiB of %s compared.*: all equal' "$disk")"

note "while it is written"
writer_start
compare 0 ": all equal"

note "a page of the source that is altered unseen, while it is written"
run dd if=/dev/urandom of="$workdir/disk" bs=4k count=2 seek=12100 oflag=direct conv=notrunc status=none
compare 4 "2 pages (8 KiB), the first at offset $((12100 * 4096))"
writer_stop

note "and what helps: all of it is read and sent again"
stop_agent
run "$REPL" forget raw --resync --config "$workdir/agent.conf"
start_agent
wait_replicated raw
compare 0 ": all equal"
"$REPL" points raw --config "$workdir/agent.conf" --json |
    jq -e 'any(.timeline[]; .resync == true)' >/dev/null || fail "no point says that it was found by comparison"

note "the last page of the replica, altered behind the site's back, while nothing is written"
replica=$workdir/store/volumes/raw/replica.img
run dd if=/dev/urandom of="$replica" bs=512 count=1 seek=$((size / 512 - 1)) conv=notrunc status=none
compare 4 "1 page (4 KiB), the first at offset $((size / 4096 * 4096))"

note "and what helps: the site says so itself"
"$REPL" verify raw --store "$workdir/store" >"$workdir/verify.log" 2>&1
[ $? = 4 ] || fail "the site's own verification found nothing"
stop_site
run rm "$replica" "${replica%.img}.state"
start_site
wait_for 20 "the replica is there again" replica_reached raw
compare 0 ": all equal"

note "a site that keeps no replica"
printf '\n[volume raw]\nreplica = none\n' >>"$workdir/site.conf"
stop_site
start_site
compare 5 "keeps no replica of volume raw"

note "another device under the name"
make_loop "$workdir/other" "$size"
sed -i "s|^device = .*|device = $loop|" "$workdir/agent.conf"
compare 5 "put the right device into the configuration"

note "passed"
