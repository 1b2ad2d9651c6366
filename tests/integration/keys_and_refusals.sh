#!/bin/bash
# Who may do what, and that every refusal says why: wrong fingerprints, a key without the right, a
# revoked key, a cloned host, a volume set up anew, a locked state directory, bad arguments.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq

make_keys
make_loop "$workdir/disk" 8M
disk=$loop
run dd if=/dev/urandom of="$disk" bs=1M count=4 oflag=direct status=none
write_site_config data
write_agent_config "data=$disk"
start_site
start_agent
wait_replicated data

says() { # PATTERN COMMAND...: the command fails and its message matches
    local pattern=$1 output status
    shift
    output=$("$@" 2>&1)
    status=$?
    [ "$status" -ge 2 ] || fail "exit $status instead of a failure: $*"
    grep -Eqi -- "$pattern" <<<"$output" || fail "'$output' does not match '$pattern'"
}

note "a second agent on the same state"
says "in use by an agent" "$REPL" agent --config "$workdir/agent.conf"
says "in use|locked|another" "$REPL" site --config "$workdir/site.conf"

note "restore: wrong fingerprint, unknown key, a key that may not read"
site_at="--site 127.0.0.1:$port"
# shellcheck disable=SC2086
says "another key|fingerprint" "$REPL" restore data $site_at --fingerprint "$agent_fingerprint" \
    --key "$workdir/rescue.key" --to "$workdir/x" --yes
run "$REPL" keygen --name stranger "$workdir/stranger.key" >/dev/null
# shellcheck disable=SC2086
says "not known|unknown|does not know" "$REPL" restore data $site_at --fingerprint "$site_fingerprint" \
    --key "$workdir/stranger.key" --to "$workdir/x" --yes
# shellcheck disable=SC2086
says "." "$REPL" restore nosuch $site_at --fingerprint "$site_fingerprint" \
    --key "$workdir/rescue.key" --to "$workdir/x" --yes
[ ! -e "$workdir/x" ] || fail "a refused restore left a file"

note "restore: targets"
# shellcheck disable=SC2086
origin="$site_at --fingerprint $site_fingerprint --key $workdir/rescue.key"
make_loop "$workdir/small" 4M
# shellcheck disable=SC2086
says "small" "$REPL" restore data $origin --to "$loop" --yes
make_loop "$workdir/used" 32M
run mkfs.ext4 -q "$loop"
make_mount "$loop" "$workdir/mnt"
# shellcheck disable=SC2086
says "mounted|in use" "$REPL" restore data $origin --to "$loop" --yes
# shellcheck disable=SC2086
says "in the way|exists|--overwrite" "$REPL" restore data $origin --to "$workdir/site.conf" --yes
# shellcheck disable=SC2086
says "is made of" "$REPL" restore data $origin --to "$workdir/disk" --yes
make_loop "$workdir/spare" 16M
# shellcheck disable=SC2086
says "confirm|--yes|terminal" "$REPL" restore data $origin --to "$loop" </dev/null

note "a site without room"
write_some() { run dd if=/dev/urandom of="$disk" bs=4k count=5 oflag=direct conv=notrunc status=none; }
sed -i "/^\[site\]/a space_limit = 1M" "$workdir/site.conf"
stop_site
start_site
write_some
full_state() { [ "$(agent_value data .state)" = site-full ]; }
wait_for 20 "the state says site-full" full_state
agent_value data .cause | grep -q space_limit || fail "the cause is: $(agent_value data .cause)"
agent_value data .remedy | grep -q "makes room" || fail "the remedy is: $(agent_value data .remedy)"
"$REPL" status --socket "$workdir/agent.sock" >"$workdir/status.log"
status=$?
[ "$status" = 1 ] || fail "status exits with $status"
sed -i "/^space_limit/d" "$workdir/site.conf"
stop_site
start_site
wait_replicated data

note "a site that is broken"
stop_site
log=$workdir/store/volumes/data/log
run cp "$log" "$workdir/log"
printf X | run dd of="$log" bs=1 seek=40 conv=notrunc status=none
start_site
write_some
error_state() { [ "$(agent_value data .state)" = site-error ]; }
wait_for 20 "the state says site-error" error_state
agent_value data .cause | grep -q "does not serve" || fail "the cause is: $(agent_value data .cause)"
agent_value data .remedy | grep -q "log of the site" || fail "the remedy is: $(agent_value data .remedy)"
stop_site
run cp "$workdir/log" "$log"
start_site
wait_replicated data

note "a key that is revoked"
sed -i "/^\[peer agent\]/a revoked = yes" "$workdir/site.conf"
stop_site
start_site
refused_state() { [ "$(agent_value data .state)" = refused ]; }
wait_for 20 "the state says refused" refused_state
agent_value data .cause | grep -qi revoked || fail "the cause is: $(agent_value data .cause)"
sed -i "/^revoked = yes/d" "$workdir/site.conf"
stop_agent
stop_site
start_site

note "a host that was cloned"
run cp -a "$workdir/state" "$workdir/clone"
start_agent
run dd if=/dev/urandom of="$disk" bs=4k count=5 oflag=direct conv=notrunc status=none
wait_replicated data
head=$(site_value data .point.seq)
stop_agent
run rm -rf "$workdir/state"
run mv "$workdir/clone" "$workdir/state"
run dd if=/dev/urandom of="$disk" bs=4k count=5 oflag=direct conv=notrunc status=none
start_agent
wait_for 20 "the state says refused" refused_state
agent_value data .cause | grep -qi "cloned or rolled back" || fail "the cause is: $(agent_value data .cause)"
[ "$(site_value data .point.seq)" = "$head" ] || fail "the clone wrote history"
stop_agent

note "a volume that was forgotten and set up anew"
run "$REPL" forget data --config "$workdir/agent.conf" >/dev/null
start_agent
wait_for 20 "the state says refused" refused_state
agent_value data .cause | grep -qi "set up anew" || fail "the cause is: $(agent_value data .cause)"
stop_agent

note "bad configuration and arguments"
printf '[agent]\nkeyy = x\n' >"$workdir/bad.conf"
says "bad.conf:2.*keyy" "$REPL" agent --config "$workdir/bad.conf"
says "usage|unknown|--help|does not" "$REPL" restore --no-such-option
note "passed"
