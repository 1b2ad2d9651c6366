#!/bin/bash
# What the site holds already is sent by name: copies of a file within a volume cost next to nothing.
# Then the source is made to believe in chunks that the site does not have (both are put back to an
# earlier state, but for the source's index of chunks), and has to supply them.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq

MIB=$((1024 * 1024))
file_mib=20

make_keys
make_loop "$workdir/disk" 256M
disk=$loop
write_site_config data
write_agent_config "data=$disk"
start_site
start_agent

origin="--site 127.0.0.1:$port --fingerprint $site_fingerprint --key $workdir/rescue.key"
restores_as_it_is() {
    local point
    point=$(site_value data .point.seq)
    # shellcheck disable=SC2086
    run "$REPL" restore data --at "$point" --to "$workdir/restored" $origin --yes \
        >"$workdir/restore.log" 2>&1
    same_bytes "$workdir/restored" "$disk" || fail "point $point restores to something else"
    rm -f "$workdir/restored"
    wait_for 20 "the replica has reached the last point" replica_reached data
    same_bytes "$workdir/store/volumes/data/replica.img" "$disk" || fail "the replica differs"
    # shellcheck disable=SC2086
    run "$REPL" verify data $origin >"$workdir/verify.log" 2>&1
}
put_file() { # COPY: at its own place in the volume
    run dd if="$workdir/file" of="$disk" bs=1M seek=$(($1 * file_mib)) oflag=direct status=none
    wait_replicated data 60
}
sent() { agent_value data .bytes_sent; }
expect_between() { # WHAT VALUE LOW HIGH
    [ "$2" -ge "$3" ] && [ "$2" -le "$4" ] || fail "$1: $2 bytes, expected $3 to $4"
}
stop_both() { stop_agent; stop_site; }

note "a volume of zeros, and what is kept of it"
wait_replicated data 60
stop_both
run cp -a "$workdir/store" "$workdir/store.before"
run cp -a "$workdir/state" "$workdir/state.before"
start_site
start_agent

note "a file of $file_mib MiB that does not compress, then copies of it"
run dd if=/dev/urandom of="$workdir/file" bs=1M count=$file_mib status=none
for copy in 0 1 2 3 4; do
    before=$(sent)
    put_file $copy
    delta=$(($(sent) - before))
    note "copy $copy: $delta bytes sent"
    if [ $copy = 0 ]; then
        expect_between "the file" "$delta" $((file_mib * MIB)) $(((file_mib + 1) * MIB))
    else
        expect_between "copy $copy" "$delta" 1 $((MIB / 4))
    fi
done
note "$(sent) bytes sent of $(agent_value data .bytes_changed) changed"
restores_as_it_is

note "the agent is killed: what it knew, it knows"
stop_agent KILL
start_agent
wait_replicated data 60
before=$(sent)
put_file 5
delta=$(($(sent) - before))
note "copy 5: $delta bytes sent"
expect_between "copy 5" "$delta" 1 $((MIB / 4))
grep -q "the site lacks" "$workdir/agent.log" && fail "something was missing"

note "both sides are put back, but for what the source believes in"
stop_both
run mv "$workdir/state" "$workdir/state.after"
run rm -rf "$workdir/store"
run mv "$workdir/store.before" "$workdir/store"
run mv "$workdir/state.before" "$workdir/state"
run cp "$workdir/state.after/chunks" "$workdir/state/chunks"
start_site
start_agent
wait_replicated data 60
grep "the site lacks" "$workdir/agent.log" || fail "nothing was missing"
chunks=$(sed -n 's/.*the site lacks \([0-9]*\) chunks.*/\1/p' "$workdir/agent.log" | tail -n 1)
[ "$chunks" = $((file_mib * 16)) ] || fail "$chunks chunks were missing"
note "$(sent) bytes sent for 6 copies, supply included"
expect_between "supply" "$(sent)" $((file_mib * MIB)) $(((file_mib + 1) * MIB))
[ "$(find "$workdir/state/volumes/data/spool" -type f | wc -l)" = 0 ] || fail "the spool is not empty"
restores_as_it_is

note "what was supplied is known"
before=$(sent)
put_file 6
delta=$(($(sent) - before))
note "copy 6: $delta bytes sent"
expect_between "copy 6" "$delta" 1 $((MIB / 4))
[ "$(grep -c "the site lacks" "$workdir/agent.log")" = 1 ] || fail "something was missing again"
restores_as_it_is

note "a site that has lost everything: nothing is known any more"
stop_site
run rm -rf "$workdir/store"
start_site
wait_replicated data 60
[ "$(grep -c "the site lacks" "$workdir/agent.log")" = 1 ] || fail "something was missing again"
restores_as_it_is
note "passed"
