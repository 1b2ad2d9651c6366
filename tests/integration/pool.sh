#!/bin/bash
# Hosts of one tenant share chunks: what the first has sent goes by name from the second, and is
# restored from there, over the wire with a key that may not read the first, and out of the store.
# A host of another tenant sends all of it, and its volume holds it.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq

MIB=$((1024 * 1024))
file_mib=40
hosts="first second stranger"

run "$REPL" keygen --name site "$workdir/site.key" >/dev/null
site_fingerprint=$("$REPL" keygen --show "$workdir/site.key")
fingerprint_of() { # NAME: of a new key
    run "$REPL" keygen --name "$1" "$workdir/$1.key" >/dev/null
    "$REPL" keygen --show "$workdir/$1.key"
}
cat >"$workdir/site.conf" <<EOF
[site]
listen = 127.0.0.1:$port
key = $workdir/site.key
store = $workdir/store
control = $workdir/site.sock
EOF
for host in $hosts; do
    tenant=acme
    [ $host = stranger ] && tenant=other
    cat >>"$workdir/site.conf" <<EOF

[peer $host]
fingerprint = $(fingerprint_of $host)
volumes = $host
tenant = $tenant

[peer rescue-$host]
fingerprint = $(fingerprint_of rescue-$host)
role = recovery
volumes = $host
EOF
    cat >"$workdir/$host.conf" <<EOF
[agent]
key = $workdir/$host.key
state = $workdir/state-$host
control = $workdir/$host.sock
guard = $workdir/guard.sock

[remote]
address = 127.0.0.1:$port
fingerprint = $site_fingerprint

[volume $host]
rpo = 2s
EOF
done
declare -A disks
host_begin() { # HOST, with its disk
    echo "device = ${disks[$1]}" >>"$workdir/$1.conf"
    run cp "$workdir/$1.conf" "$workdir/agent.conf" # with which all are forgotten at the end
    "$REPL" agent --config "$workdir/$1.conf" >>"$workdir/$1.log" 2>&1 &
    test_pids+=($!)
}
spooled() { [ -n "$(find "$workdir/state-$1/volumes/$1/spool" -name '*.seg' -size +${file_mib}M 2>/dev/null)" ]; }
sent() { # HOST
    "$REPL" status --json --socket "$workdir/$1.sock" | jq ".volumes[0].bytes_sent"
}
expect_between() { # WHAT VALUE LOW HIGH
    [ "$2" -ge "$3" ] && [ "$2" -le "$4" ] || fail "$1: $2 bytes, expected $3 to $4"
}
restores_as_it_is() { # HOST
    local point origin
    point=$(site_value "$1" .point.seq)
    for origin in "--site 127.0.0.1:$port --fingerprint $site_fingerprint --key $workdir/rescue-$1.key" \
        "--store $workdir/store"; do
        # shellcheck disable=SC2086
        run "$REPL" restore "$1" --at "$point" --to "$workdir/restored" $origin --yes \
            >"$workdir/restore.log" 2>&1
        same_bytes "$workdir/restored" "${disks[$1]}" || fail "$1: $origin restores something else"
        rm -f "$workdir/restored"
        # shellcheck disable=SC2086
        run "$REPL" verify "$1" $origin >"$workdir/verify.log" 2>&1
    done
    wait_for 20 "the replica has reached the last point" replica_reached "$1"
    same_bytes "$workdir/store/volumes/$1/replica.img" "${disks[$1]}" || fail "$1: the replica differs"
}

note "a file of $file_mib MiB that does not compress, on three disks, at another place each"
run dd if=/dev/urandom of="$workdir/file" bs=1M count=$file_mib status=none
place=3
for host in $hosts; do
    make_loop "$workdir/disk-$host" 64M
    disks[$host]=$loop
    run dd if="$workdir/file" of="$loop" bs=1M seek=$place oflag=direct status=none
    place=$((place + 5))
done
note "a first copy waits for the names of the pool, and not for a site that is away"
test_pids=("") # the site's place
host_begin first
wait_for 12 "the copy is in the spool" spooled first
start_site
for host in $hosts; do
    [ $host = first ] || host_begin $host
    wait_replicated $host 60
    note "$host: $(sent $host) bytes sent"
done
expect_between "the first" "$(sent first)" $((file_mib * MIB)) $(((file_mib + 1) * MIB))
expect_between "the second" "$(sent second)" 1 $((MIB / 4))
expect_between "the stranger" "$(sent stranger)" $((file_mib * MIB)) $(((file_mib + 1) * MIB))
grep "the site lacks" "$workdir/"*.log && fail "something was missing"
grep -q "the site has named" "$workdir/stranger.log" && fail "the stranger was told something"
grep "the site has named" "$workdir/second.log" || fail "the second was told nothing"

note "each is restored and verified"
for host in second stranger; do restores_as_it_is $host; done

note "the first loses all of it; the second still has it"
run dd if=/dev/zero of="${disks[first]}" bs=1M count=64 oflag=direct status=none
wait_replicated first 60
restores_as_it_is second
note "passed"
