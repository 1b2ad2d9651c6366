#!/bin/bash
# A site whose store is a bucket of a real service (Ceph's gateway), and a source on a raw device.
#
#   s3_ceph.sh          one OSD in memory
#   s3_ceph.sh --long   three OSDs on disk, of which one is killed; the gateway hangs for 90 s; another
#                       site takes over; then what s3_ceph_upkeep.sh says. S3_LOCKS: the program of
#                       that name
#   s3_ceph.sh --upkeep one OSD in memory, and the latter alone
#
# Shown: what is acknowledged is in the bucket, whatever is killed; a service that refuses, hangs or
# breaks off stops the intake, visibly, and it goes on by itself; with all of the site's own
# directory lost it begins again from the bucket; a restore needs the bucket and nothing else.
. "${0%/*}/functions.sh"
. "${0%/*}/ceph_functions.sh"
osds=1 kind=memstore hang_s=6
if [ "${1:-}" = --long ] || [ "${1:-}" = --upkeep ]; then
    : "${S3_LOCKS:?the path of the program s3_locks}"
    . "${0%/*}/s3_ceph_upkeep.sh"
fi
[ "${1:-}" = --long ] && osds=3 kind=bluestore hang_s=90
requires_ceph
raw_volume 24M
ceph_start "$osds" "$kind"
note "the gateway runs"

store=s3://replica/site
secret() { # SECRET
    rm -f "$workdir/credentials"
    (umask 077 && printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' \
        "$s3_key" "$1" >"$workdir/credentials")
}
sed -i "s|^store = .*|store = $store\nstate = $workdir/local\ns3_endpoint = $s3_endpoint\ns3_credentials = $workdir/credentials\ns3_ca = $s3_ca|" \
    "$workdir/site.conf"
site_refuses() { # WORDS
    timeout 20 "$REPL" site --config "$workdir/site.conf" >"$workdir/refused.log" 2>&1 &&
        fail "the site started"
    grep -q -- "$1" "$workdir/refused.log" || fail "it does not say \"$1\""
    grep -q -- "${s3_secret:0:9}" "$workdir/refused.log" && fail "it says the secret"
}
same_as_source() { # WHAT [SECONDS]
    wait_replicated raw "${2:-60}"
    wait_for 60 "the replica has reached the last point" replica_reached raw
    same_bytes "$disk" "$workdir/local/volumes/raw/replica.img" || fail "$1: the replica differs"
    note "$1: the replica equals the source"
}
write_some() { # MiB
    run dd if=/dev/urandom of="$disk" bs=1M count="$1" seek=$((RANDOM % (25 - $1))) oflag=direct conv=notrunc status=none
}
# It stays behind for so long, and says why.
stays_behind() { # SECONDS WHAT
    local since
    since=$(date +%s%N)
    write_some 1
    sleep "$1"
    known_since raw "$since" && fail "$2, and it goes on"
    note "$2: the source is at \"$(agent_value raw .state)\", $(agent_value raw .cause | head -c 100)"
}

upkeep() {
    export AWS_ENDPOINT_URL=$s3_endpoint AWS_CA_BUNDLE=$s3_ca AWS_ACCESS_KEY_ID=$s3_key AWS_SECRET_ACCESS_KEY=$s3_secret
    secret "$s3_secret"
    upkeep_merges
    upkeep_scrub
    upkeep_locks
    note "passed"
}
[ "${1:-}" = --upkeep ] && { upkeep; exit; }

secret wrong
site_refuses "the secret does not belong to the access key (from $workdir/credentials"
chmod 644 "$workdir/credentials"
site_refuses "chmod 600"
secret "$s3_secret"
sed -i "s|^s3_ca = .*|# &|" "$workdir/site.conf"
site_refuses "certificate is not trusted"
sed -i "s|^# s3_ca = |s3_ca = |" "$workdir/site.conf"
sed -i "s|^store = .*|store = s3://no-such-bucket|" "$workdir/site.conf"
site_refuses "make it first"
sed -i "s|^store = .*|store = $store|" "$workdir/site.conf"

start_site
grep -q "does not honour If-None-Match" "$workdir/site.log" && fail "Ceph honours conditions"
run dd if=/dev/urandom of="$disk" bs=1M count=20 oflag=direct status=none
start_agent
same_as_source "seed"

write_some 6 &
writer=$!
sleep 0.$((RANDOM % 9))
stop_site KILL
wait "$writer"
start_site 90 # a minute more where a removal may be on its way
same_as_source "the site was killed"

ceph_signal STOP rgw
stays_behind "$hang_s" "the gateway hangs"
store_hangs() { site_value raw .cause | grep -q "the store has been at work for"; }
wait_for 20 "the site says that its store hangs" store_hangs
ceph_signal CONT rgw
same_as_source "the gateway went on" 120

# Before the gateway is killed: radosgw-admin waits for one that is dead.
quota() { ceph_quiet timeout 30 radosgw-admin -c "$ceph/ceph.conf" quota "$@" --bucket=replica --quota-scope=bucket; }
quota set --max-objects=1
quota enable
no_space() { agent_value raw '.cause, .remedy' | grep -qi "full\|space\|room"; }
write_some 1
wait_for 30 "the source says that the site is full" no_space
note "the bucket is full"
stays_behind 1 "the quota is used up"
quota disable
same_as_source "the quota was lifted" 120

ceph_signal STOP rgw # so that it is killed while it has taken a part of an upload
write_some 8
sleep 4
ceph_signal KILL rgw
stays_behind 3 "the gateway was killed in an upload"
ceph_run rgw
wait_for 30 "the gateway answers" s3_bucket_there
same_as_source "the gateway began again" 120

if [ "$osds" = 3 ]; then
    write_some 8 &
    writer=$!
    sleep 0.5
    ceph_signal KILL osd1
    wait "$writer"
    same_as_source "an OSD was killed" 180
fi

# Lost together with its site, it takes a decision; else the site that ended has let go of the bucket.
stop_site KILL
mv "$workdir/local" "$workdir/kept"
site_refuses 'start this one with "repl site --take-over"'
if [ "${1:-}" = --long ]; then
    "$REPL" site --config "$workdir/site.conf" --take-over >>"$workdir/site.log" 2>&1 &
    site_pid=$!
    test_pids[0]=$site_pid
    wait_for 90 "the site has taken over" site_answers
    same_as_source "another site took over"
    rm -rf "$workdir/kept"
else
    rm -rf "$workdir/local"
    mv "$workdir/kept" "$workdir/local"
    start_site 90
fi
stop_site
rm -rf "$workdir/local"
start_site
write_some 2
same_as_source "all of the site's directory was lost"

note "$("$REPL" points raw --store "$store" --config "$workdir/site.conf" --json |
    jq '[.. | objects | select(.type == "point")] | length') points in the bucket"
stop_agent
stop_site
hash=$(device_hash "$disk")
rm -rf "$workdir/local"
export AWS_ENDPOINT_URL=$s3_endpoint AWS_CA_BUNDLE=$s3_ca AWS_ACCESS_KEY_ID=$s3_key AWS_SECRET_ACCESS_KEY=$s3_secret
run "$REPL" verify raw --store "$store" >"$workdir/verify.log" 2>&1
run "$REPL" restore raw --store "$store" --to "$workdir/restored" --yes >"$workdir/restore.log" 2>&1
[ "$(device_hash "$workdir/restored")" = "$hash" ] || fail "what was restored differs"
note "restored from the bucket alone"
AWS_SECRET_ACCESS_KEY=wrong "$REPL" restore raw --store "$store" --to "$workdir/none" --yes \
    >"$workdir/restore.log" 2>&1 && fail "a wrong secret restores"
grep -q "from the environment" "$workdir/restore.log" || fail "it does not say where the secret is from"
[ "${1:-}" = --long ] || exit 0
drop_loop "$disk"
upkeep
