#!/bin/bash
# repl doctor at a host and a site that are well, and then with one thing after the other broken: the
# right finding, its next step, and the exit code. Nothing is changed by looking.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq

make_keys
make_loop "$workdir/disk" 8M
disk=$loop
mkdir "$workdir/tree"
write_site_config data files
write_agent_config "data=$disk" "files=tree:$workdir/tree"

# examine SIDE: sets $status; what it finds is in doctor.json
examine() {
    timeout 20 "$REPL" doctor --json --config "$workdir/$1.conf" >"$workdir/doctor.json"
    status=$?
    jq -e ".schema == 1 and .exit == $status" "$workdir/doctor.json" >/dev/null ||
        fail "exit $status, and: $(cat "$workdir/doctor.json")"
}
findings() { jq -c ".reports[].findings[] | select($1)" "$workdir/doctor.json"; }
# A machine without a clock service is warned of that, at the site for what it means to retention too,
# and one whose disk is nearly full of this.
is_well() { # SIDE: no failure, and no warning but of what the test has no hand in
    examine "$1"
    findings '.level == "failed" or (.level == "warning" and
        (.check | IN("clock", "retention", "space", "spool") | not))' >"$workdir/ill.log"
    [ "$status" -le 1 ] && [ ! -s "$workdir/ill.log" ]
}
# is_ill SIDE EXIT CHECK PATTERN: the first failure is of this check and says this, and what to do
is_ill() {
    local first
    examine "$1"
    first=$(findings '.level == "failed"' | sed 1q)
    [ "$status" = "$2" ] || fail "exit $status, not $2: $first"
    [ "$(jq -r .check <<<"$first")" = "$3" ] || fail "not of $3: $first"
    jq -r .text <<<"$first" | grep -Eqi -- "$4" || fail "does not say '$4': $first"
    [ -n "$(jq -r .next <<<"$first")" ] || fail "no next step: $first"
}

note "before anything runs"
examine site
[ "$status" -le 1 ] || fail "exit $status of a site that is to start"
findings '.check == "store" and .level == "note"' | grep -q "no store yet" || fail "the store"
is_ill agent 2 site "127.0.0.1:$port"
findings '.check == "service" and .level == "warning"' | grep -q . || fail "no agent runs"
for made in state store; do [ ! -e "$workdir/$made" ] || fail "it has made $made"; done

note "both run"
start_site
start_agent
wait_replicated data
wait_replicated files
wait_for 20 "the agent is well" is_well agent # on a busy machine a point may be late
wait_for 20 "the site is well" is_well site
examine agent
for check in kernel privileges memlock tracking io_uring clock key spool volume quiesce site service; do
    findings ".check == \"$check\"" | grep -q . || fail "nothing was said of $check"
done
findings '.check == "site" and .volume == "files" and .level == "ok"' | grep -q . || fail "files"
findings '.check == "protocol" and .level == "ok"' | grep -q "runs repl [0-9]" || fail "the site's version"
findings '.check == "key"' | grep -q "$agent_fingerprint" || fail "our fingerprint"
"$REPL" doctor --config "$workdir/agent.conf" >"$workdir/doctor.txt"
grep -Eq '^ok +tracking' "$workdir/doctor.txt" || fail "the lines: $(cat "$workdir/doctor.txt")"

note "a doctor that may do nothing"
requires_tool setpriv
setpriv --bounding-set=-all "$REPL" doctor --json --config "$workdir/agent.conf" >"$workdir/doctor.json"
for check in privileges tracking; do
    findings ".check == \"$check\" and .level == \"warning\"" | grep -q . || fail "$check without rights"
done

note "the site is not the one that is known"
run cp "$workdir/agent.conf" "$workdir/good.conf"
sed -i "s|$site_fingerprint|$rescue_fingerprint|" "$workdir/agent.conf"
is_ill agent 5 site "fingerprint|key"
run cp "$workdir/good.conf" "$workdir/agent.conf"

note "a key that the site does not know"
sed -i "s|^key = .*|key = $workdir/stranger.key|" "$workdir/agent.conf"
run "$REPL" keygen --name stranger "$workdir/stranger.key" >/dev/null
is_ill agent 5 site "does not know the key"
findings '.check == "protocol" and (.text | contains("does not say"))' | grep -q . ||
    fail "a stranger is told the site's version"
run cp "$workdir/good.conf" "$workdir/agent.conf"

note "a key that others may read"
run chmod 644 "$workdir/agent.key"
is_ill agent 5 key "open to others"
run chmod 600 "$workdir/agent.key"

note "a device and a directory that are not there"
sed -i "s|^device = .*|device = /dev/repl-none|" "$workdir/agent.conf"
is_ill agent 4 volume "/dev/repl-none"
run cp "$workdir/good.conf" "$workdir/agent.conf"
sed -i "s|^path = .*|path = $workdir/nowhere|" "$workdir/agent.conf"
is_ill agent 4 volume "nowhere"
run cp "$workdir/good.conf" "$workdir/agent.conf"

note "a volume that is to be frozen, and no guard"
sed -i "s|^device = .*|&\nquiesce = freeze|" "$workdir/agent.conf"
is_ill agent 2 quiesce "guard"
run cp "$workdir/good.conf" "$workdir/agent.conf"

note "no room"
make_mount none "$workdir/small" -t tmpfs -o size=16m
sed -i "s|^state = .*|state = $workdir/small/state|" "$workdir/agent.conf"
is_ill agent 2 spool "free"
run cp "$workdir/good.conf" "$workdir/agent.conf"
run cp "$workdir/site.conf" "$workdir/good-site.conf"
sed -i "/^\[site\]/a space_reserve = 100T" "$workdir/site.conf"
is_ill site 2 space "no segment"
run cp "$workdir/good-site.conf" "$workdir/site.conf"

note "a bucket that cannot be reached"
sed -i "s|^store = .*|store = s3://none/x\nstate = $workdir/none\ns3_endpoint = http://127.0.0.1:9|" "$workdir/site.conf"
export AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none
is_ill site 2 store "127.0.0.1:9"
run cp "$workdir/good-site.conf" "$workdir/site.conf"

note "the site is down"
stop_site
is_ill agent 2 site "127.0.0.1:$port"
findings '.check == "service" and .level == "ok"' | grep -q . || fail "the agent answers"

note "a configuration that cannot be read"
printf '[agent]\nkeyy = x\n' >"$workdir/bad.conf"
is_ill bad 64 config "keyy"
note "passed"
