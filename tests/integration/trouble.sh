#!/bin/bash
# A volume of text, written to for a while and then overwritten with what does not compress, as by
# something that encrypts: the point is marked, status says so until the site's operator holds one,
# and --at "before trouble" restores what was there before, from the site and from its store alone.
. "${0%/*}/functions.sh"

raw_volume 32M
seq 1 1000000 | head -c 20M | run dd of="$disk" bs=1M iflag=fullblock oflag=direct status=none
RPO=2s write_agent_config "raw=$disk"
start_site
start_agent
wait_replicated raw 60

origin="--site 127.0.0.1:$port --fingerprint $site_fingerprint --key $workdir/rescue.key"
# shellcheck disable=SC2086
points() { run "$REPL" points raw $origin "$@"; }
# shellcheck disable=SC2086
restore() { "$REPL" restore raw --at "before trouble" --to "$1" $origin --yes >"$workdir/restore.log" 2>&1; }

says() { # KIND: what status says
    [ "$(site_value raw .trouble)" = "$1" ]
}

note "some work"
for i in 1 2 3; do
    date | tee "$workdir/text" | dd of="$disk" bs=4096 seek=$((i * 40)) conv=sync,notrunc oflag=direct status=none
    wait_replicated raw
done
cp "$disk" "$workdir/before"
says "" || fail "trouble: $(site_value raw .cause)"
restore "$workdir/none" && fail "there is no trouble, and something was restored"
grep -q "no point is marked as trouble" "$workdir/restore.log" || fail "the refusal says nothing"

note "all of the text is overwritten"
run dd if=/dev/urandom of="$disk" bs=1M count=20 oflag=direct conv=notrunc status=none
wait_replicated raw
wait_for 10 "trouble is seen" says encryption
grep -q "looks like encryption" "$workdir/site.log" || fail "the log says nothing"
points --json >"$workdir/points.json"
jq -e '[.timeline[] | select(.trouble.kind == "encryption")] | length == 1' "$workdir/points.json" \
    >/dev/null || fail "not one point is marked"
jq -e '[.timeline[] | select(.last_before_trouble)] | length == 1' "$workdir/points.json" >/dev/null ||
    fail "not one point is the last before"
points >"$workdir/points.txt"
grep -q "LOOKS LIKE encryption" "$workdir/points.txt" || fail "points shows nothing"
restore "$workdir/restored" || fail "restore"
same_bytes "$workdir/restored" "$workdir/before" || fail "before trouble is another one"
run "$REPL" restore raw --at "before trouble" --to "$workdir/restored.store" --store "$workdir/store" \
    --yes >"$workdir/restore.log" 2>&1
same_bytes "$workdir/restored.store" "$workdir/before" || fail "of the store it is another one"

note "it is said until somebody has seen it, also by a site that was started anew"
stop_site KILL
start_site
wait_for 10 "trouble is still said" says encryption
seq=$(jq '.timeline[] | select(.last_before_trouble) | .seq' "$workdir/points.json")
run "$REPL" mark raw "the hour before" --at "before trouble" --config "$workdir/agent.conf" \
    >"$workdir/mark.log" 2>&1
says encryption || fail "a host can have it not said"
run "$REPL" mark raw "the day before" --at "before trouble" --hold --config "$workdir/site.conf" \
    >"$workdir/mark.log" 2>&1
says "" || fail "it is still said"
points >"$workdir/points.txt"
grep -q "^ *$seq .*the day before" "$workdir/points.txt" || fail "the name is not at point $seq"
note "passed"
