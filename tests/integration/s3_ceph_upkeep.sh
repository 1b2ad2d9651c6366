# Sourced by s3_ceph.sh --long, in the same service: what a site does in its bucket beside taking in.
#
#   upkeep_merges   two volumes of a pool that refer to each other's chunks, written to all the time;
#                   points are given up, segments merged and those of before removed; the site is
#                   killed, and its directory lost; what was named restores, beside the site and out
#                   of the bucket alone
#   upkeep_scrub    an object that is not what was written any more is found, and found whole again
#   upkeep_locks    a bucket that locks: what is written there, and what can be done with it

upkeep_store=s3://replica/upkeep
declare -A upkeep_disks

s3_keys() { # PREFIX FILE: the last parts of the keys, sorted
    curl -sf -m 10 --cacert "$s3_ca" --aws-sigv4 aws:amz:us-east-1:s3 -u "$s3_key:$s3_secret" \
        -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
        "$s3_endpoint/replica?list-type=2&max-keys=1000&prefix=$(sed 's|/|%2F|g' <<<"$1")" |
        grep -o '<Key>[^<]*</Key>' | sed 's|</Key>||; s|.*/||' | sort >"$2"
}
s3_object() { # METHOD PATH FILE [HEADER]: the object from or to the file
    local how=(-o "$3")
    [ "$1" = PUT ] && how=(-o /dev/null -T "$3")
    curl -sf -m 20 --cacert "$s3_ca" --aws-sigv4 aws:amz:us-east-1:s3 -u "$s3_key:$s3_secret" \
        -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' ${4:+-H "$4"} "${how[@]}" "$s3_endpoint/$2" ||
        fail "$1 of $2"
}

upkeep_config() { # STORE LINE...
    write_site_config one two
    {
        echo "store = $1"
        echo "state = $workdir/local"
        echo "s3_endpoint = $s3_endpoint"
        echo "s3_credentials = $workdir/credentials"
        echo "s3_ca = $s3_ca"
        shift
        [ $# = 0 ] || printf '%s\n' "$@"
    } >"$workdir/lines"
    sed -i -e '/^store = /d' -e "/^\[site\]/r $workdir/lines" \
        -e '/^volumes = one two$/a tenant = acme' "$workdir/site.conf"
}

# --- merges, references, removal --------------------------------------------------------------------

upkeep_begin() {
    local name
    rm -rf "$workdir/local" "$workdir/state"
    for name in one two; do
        make_loop "$workdir/disk-$name" 32M
        upkeep_disks[$name]=$loop
    done
    upkeep_config "$upkeep_store" "retention = 1s:5s 10s:20s 40s:1d" "grace = 1m"
    RPO=2s write_agent_config "one=${upkeep_disks[one]}" "two=${upkeep_disks[two]}"
    start_site
    start_agent
    run "$REPL" site --clock-is-right --config "$workdir/site.conf" >/dev/null
}
upkeep_put() { # FILE VOLUME AT: in MiB
    run dd if="$1" of="${upkeep_disks[$2]}" bs=1M seek="$3" oflag=direct conv=notrunc status=none
}
upkeep_name() { # NAME: what is on the devices
    local name
    for name in one two; do
        run "$REPL" mark "$name" "$1" --timeout 60s --config "$workdir/agent.conf" >/dev/null
        run cp --sparse=always "${upkeep_disks[$name]}" "$workdir/$name.$1"
    done
}
upkeep_a_while() { # SECONDS: a point in each
    local i
    for ((i = 0; i < $1; i++)); do
        head -c 4096 /dev/urandom >"$workdir/page"
        for name in one two; do
            dd if="$workdir/page" of="${upkeep_disks[$name]}" seek=31 bs=1M oflag=direct \
                conv=notrunc status=none
        done
        sleep 1
    done
    wait_replicated one 60
    wait_replicated two 60
}
upkeep_restores() { # WHEN NAME...
    local when=$1 name point
    shift
    for name in one two; do
        for point in "$@"; do
            run "$REPL" restore "$name" --at "$point" --to "$workdir/back" --store "$upkeep_store" \
                --yes --overwrite >"$workdir/restore.log" 2>&1
            same_bytes "$workdir/back" "$workdir/$name.$point" || fail "$when: $name at $point differs"
            rm -f "$workdir/back"
        done
        run "$REPL" verify "$name" --store "$upkeep_store" >"$workdir/verify.log" 2>&1
    done
    note "$when: $# names of each restore from the bucket, and all of it verifies"
}
upkeep_merged() { s3_keys "upkeep/volumes/$1/segments/" "$workdir/keys" && grep -q '\.mrg$' "$workdir/keys"; }
upkeep_removed() { # a segment of before the merges
    s3_keys upkeep/volumes/one/segments/ "$workdir/keys.after" &&
        comm -23 "$workdir/keys.before" "$workdir/keys.after" | grep '\.seg$' >/dev/null
}

upkeep_merges() {
    local sent name started
    upkeep_begin
    run dd if=/dev/urandom of="$workdir/file" bs=1M count=8 status=none
    run dd if=/dev/urandom of="$workdir/other" bs=1M count=8 status=none
    upkeep_put "$workdir/file" one 0
    wait_replicated one 60
    sent=$(agent_value two .bytes_sent)
    upkeep_put "$workdir/file" two 3
    wait_replicated two 60
    sent=$(($(agent_value two .bytes_sent) - sent))
    [ "$sent" -lt 1048576 ] || fail "two: $sent bytes were sent for what the pool has"
    upkeep_name shared
    upkeep_put "$workdir/other" one 0 # now only the second refers to them
    upkeep_a_while 8
    upkeep_name alone
    for _ in $(seq 12); do
        upkeep_a_while 10
        upkeep_merged one && upkeep_merged two && break
    done
    upkeep_merged one && upkeep_merged two || fail "nothing is merged"
    upkeep_restores "merged" shared alone
    run s3_keys upkeep/volumes/one/segments/ "$workdir/keys.before"
    stop_site KILL
    started=$EPOCHSECONDS
    start_site 90 # a minute more where a removal may be on its way
    note "killed, and there again after $((EPOCHSECONDS - started)) s"
    for _ in $(seq 24); do
        upkeep_a_while 10
        upkeep_removed && break
    done
    upkeep_removed || fail "objects of before are not removed"
    upkeep_name last
    upkeep_restores "removed" shared alone last
    stop_agent
    stop_site
    rm -rf "$workdir/local" # of which a clean end lets go
    start_site
    start_agent
    upkeep_a_while 2
    wait_for 60 "the replica has reached the last point" replica_reached one
    wait_for 60 "the replica has reached the last point" replica_reached two
    for name in one two; do
        same_bytes "${upkeep_disks[$name]}" "$workdir/local/volumes/$name/replica.img" ||
            fail "$name: the replica differs"
    done
    upkeep_restores "of another directory" shared alone last
    stop_agent
    stop_site
}

# --- scrub ------------------------------------------------------------------------------------------

upkeep_scrub() {
    local key
    upkeep_config "$upkeep_store" "scrub_every = 1s"
    run s3_keys upkeep/volumes/one/segments/ "$workdir/keys"
    key=upkeep/volumes/one/segments/$(grep -m 1 -E '\.(seg|mrg)$' "$workdir/keys")
    s3_object GET "replica/$key" "$workdir/object"
    cp "$workdir/object" "$workdir/rotten"
    printf 'rot' | dd of="$workdir/rotten" bs=1 seek=$(($(stat -c %s "$workdir/rotten") / 2)) conv=notrunc status=none
    s3_object PUT "replica/$key" "$workdir/rotten"
    start_site
    upkeep_found() { [ "$(site_value one '.damaged_segments + .repaired_segments')" -ge 1 ]; }
    wait_for 60 "the damage is found" upkeep_found
    note "found: $(site_value one '.damaged, .repaired_segments' | tr '\n' ' ')"
    stop_site
    s3_object PUT "replica/$key" "$workdir/object"
    start_site
    upkeep_whole() { [ "$(site_value one .damaged_segments)" = 0 ]; }
    wait_for 60 "it is whole again" upkeep_whole
    stop_site
    upkeep_restores "after the damage" shared alone last
}

# --- object lock ------------------------------------------------------------------------------------

# The rule that docs/formats/bucket.md names, of a service whose day lasts a second.
upkeep_rule() {
    cat >"$workdir/rule.xml" <<EOF
<LifecycleConfiguration><Rule><ID>repl</ID><Status>Enabled</Status>
<Filter><Prefix>site/</Prefix></Filter>
<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>
<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>
</Rule></LifecycleConfiguration>
EOF
    s3_object PUT 'locked?lifecycle=' "$workdir/rule.xml" \
        "Content-MD5: $(openssl md5 -binary "$workdir/rule.xml" | base64)"
}
upkeep_versions() { # KEY: how many there are
    s3_object GET "locked?prefix=$(sed 's|/|%2F|g' <<<"$1")&versions=" "$workdir/versions"
    grep -o '<VersionId>' "$workdir/versions" | wc -l
}
upkeep_ruled() {
    ceph_quiet timeout 60 radosgw-admin -c "$ceph/ceph.conf" lc process
    [ "$(upkeep_versions site/unlocked)" = 1 ]
}

upkeep_locks() {
    local log=site/volumes/one/log/00000000000000000000
    s3_object PUT locked /dev/null 'x-amz-bucket-object-lock-enabled: true'
    upkeep_config s3://replica/unlocked "object_lock = 1d"
    site_refuses "the bucket does not lock"
    rm -rf "$workdir/local" "$workdir/state"
    upkeep_config s3://locked/site "object_lock = 1d"
    start_site
    start_agent
    wait_replicated one 60
    stop_agent
    stop_site
    run "$REPL" verify one --store s3://locked/site >"$workdir/verify.log" 2>&1
    upkeep_rule
    s3_object PUT locked/site/unlocked "$workdir/lines"
    s3_object PUT locked/site/unlocked "$workdir/rule.xml"
    [ "$(upkeep_versions $log) $(upkeep_versions site/unlocked)" = "1 2" ] || fail "versions"
    [ "$(s3_request DELETE locked/$log)" = 204 ] || fail "the log's first piece is not removed"
    wait_for 60 "what is not locked goes by the rule" upkeep_ruled
    [ "$(upkeep_versions $log)" = 2 ] || fail "what is locked went by the rule"
    note "what is locked stays behind its marker, what is not goes by the bucket's rule"
    run "$S3_LOCKS" s3://locked/program "$workdir/locks" \
        >"$workdir/locks.log" 2>&1
    note "$(tail -n 1 "$workdir/locks.log")"
}
