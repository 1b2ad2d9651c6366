#!/bin/bash
# Names of points: a host gives one to what it holds now, while it is written to, and can do nothing
# else with it; what was synced before, and of a tree all that was written, is in what is restored by
# that name; the site's operator holds and removes; both ends are restarted in between.
. "${0%/*}/functions.sh"

RPO=40s # a point of its own accord each 20 s: one that comes sooner was asked for
raw_volume 4M
pages=512
requires_tool mkfs.ext4
make_loop "$workdir/tree-disk" 32M
run mkfs.ext4 -q "$loop"
make_mount "$loop" "$workdir/tree"
write_site_config raw home
write_agent_config "raw=$disk" "home=tree:$workdir/tree"
start_site
start_agent

# Each page holds the number of its last write; $workdir/written is the last that has returned.
write_on() {
    local i=$pages
    while [ -e "$workdir/writing" ]; do
        i=$((i + 1))
        { printf '%016d' "$i"; head -c 4080 /dev/zero; } |
            dd of="$disk" bs=4096 seek=$((i % pages)) iflag=fullblock oflag=direct,dsync conv=notrunc \
                status=none || exit 1
        echo "$i" >"$workdir/written.new"
        mv "$workdir/written.new" "$workdir/written"
    done
}
for ((i = 1; i <= pages; i++)); do
    printf '%016d' "$((i % pages == 0 ? pages : i))"
    head -c 4080 /dev/zero
done >"$workdir/begin" # page 0 comes last: moved to the front
{ tail -c 4096 "$workdir/begin"; head -c $(((pages - 1) * 4096)) "$workdir/begin"; } |
    dd of="$disk" bs=1M iflag=fullblock oflag=direct conv=notrunc status=none || fail "dd"

# Whether each page of the file holds write number $2 or a later one, as far as it was overwritten.
holds() {
    tr -d '\0' <"$1" | fold -w 16 | head -n "$pages" | awk -v pages="$pages" -v last="$2" '
        { least = last - (last - (NR - 1)) % pages; if ($1 + 0 < least) bad++ }
        END { exit NR != pages || bad > 0 }'
}
host() { "$REPL" mark raw "$@" --config "$workdir/agent.conf"; }
operator() { "$REPL" mark raw "$@" --config "$workdir/site.conf"; }
refused() { # CODE PATTERN COMMAND...
    local code=$1 pattern=$2 output status
    shift 2
    output=$("$@" 2>&1)
    status=$?
    [ "$status" = "$code" ] || fail "exit $status instead of $code: $*: $output"
    grep -Eq -- "$pattern" <<<"$output" || fail "'$output' does not match '$pattern'"
}
names() { # as the host and as the operator see them
    host --list --json | jq -r '.names[] | "\(.name)=\(.seq)\(if .held then " held" else "" end)"' \
        >"$workdir/names.host"
    operator --list --json | jq -r '.names[] | "\(.name)=\(.seq)\(if .held then " held" else "" end)"' \
        >"$workdir/names.site"
    same_bytes "$workdir/names.host" "$workdir/names.site" || fail "the site's list is another one"
    cat "$workdir/names.host"
}

note "a volume at rest: its last point"
has_point() { [ "$(site_value raw .point.seq)" -ge 1 ] 2>/dev/null; }
wait_for 20 "the first copy" has_point
run host seed --json --timeout 15s >"$workdir/seed.json"
[ "$(site_value raw .point.seq)" = "$(jq .seq "$workdir/seed.json")" ] || fail "another point: $(cat "$workdir/seed.json")"

note "a volume that is written to"
touch "$workdir/writing"
write_on &
writer=$!
test_pids[2]=$writer
moves() { [ "$(cat "$workdir/written" 2>/dev/null || echo 0)" -gt "$1" ]; }
mark_now() { # NAME: sets $written, the last write before it
    local since
    wait_for 10 "the writer gets on" moves "$(($(cat "$workdir/written" 2>/dev/null || echo 0) + 20))"
    written=$(cat "$workdir/written")
    since=$(date +%s%N)
    run host "$1" --json --timeout 15s >"$workdir/mark.json"
    note "\"$1\" took $((($(date +%s%N) - since) / 1000000)) ms"
    [ "$(jq .begin_ns "$workdir/mark.json")" -ge "$since" ] || fail "$1: a point of before: $(cat "$workdir/mark.json")"
}
mark_now "before the upgrade"
before=$written
before_seq=$(jq .seq "$workdir/mark.json")
mark_now after
after=$written

note "a tree, without a sync"
for i in $(seq 100); do echo "$i $RANDOM" >"$workdir/tree/$i"; done
run "$REPL" mark home "a tree" --timeout 15s --config "$workdir/agent.conf" >"$workdir/tree.txt"
grep -q 'with the name "a tree"' "$workdir/tree.txt" || fail "$(cat "$workdir/tree.txt")"
cp -a "$workdir/tree" "$workdir/tree-then"
rm "$workdir"/tree/1*
refused 2 "no point of volume raw yet.*nothing was named" host late --timeout 1ms
rm "$workdir/writing"
wait "$writer" || fail "the writer"
test_pids[2]=

note "what a host may not"
refused 5 "point $before_seq has the name \"before the upgrade\" already" host "before the upgrade"
refused 5 "point $before_seq has the name.*operator" host "before the upgrade" --at latest
refused 5 "operator" host after --remove
refused 5 "operator" host after --hold
refused 64 "number" host 123
refused 64 "time" host "10 min ago"
refused 64 "64 bytes" host ""
refused 64 "no point has the name" host x --at nonesuch
refused 4 "no point 999" host x --at 999
origin="--site 127.0.0.1:$port --fingerprint $site_fingerprint --key $workdir/rescue.key"
# shellcheck disable=SC2086
refused 5 "for recovery" "$REPL" mark raw x --at latest $origin

note "restored by name, from the site and from its store"
# shellcheck disable=SC2086
run "$REPL" restore raw --at "before the upgrade" --to "$workdir/restored" $origin --yes 2>/dev/null >&2
holds "$workdir/restored" "$before" || fail "writes up to $before are not all in what was restored"
# shellcheck disable=SC2086
run "$REPL" restore home --at "a tree" --to "$workdir/tree-back" $origin --yes 2>/dev/null >&2
run diff -r "$workdir/tree-then" "$workdir/tree-back" >&2
run "$REPL" restore raw --at after --to "$workdir/after" --store "$workdir/store" --yes 2>/dev/null >&2
holds "$workdir/after" "$after" || fail "writes up to $after are not all in what was restored"
if holds "$workdir/restored" "$((after + pages))"; then fail "the check finds nothing"; fi

note "restarted"
stop_agent
stop_site KILL
refused 2 "." host gone --timeout 1s
start_site
start_agent
[ "$(names | tail -n 2 | head -n 1)" = "before the upgrade=$before_seq" ] || fail "names: $(names)"

note "the operator"
run operator after --hold >/dev/null
run operator "by hand" --at "before the upgrade" >/dev/null 2>"$workdir/meant"
grep -q "^repl mark: --at means point $before_seq of .*Z)" "$workdir/meant" || fail "$(cat "$workdir/meant")"
run operator "before the upgrade" --remove >/dev/null
refused 4 "no point of the volume has that name" operator "before the upgrade" --remove
refused 5 "point .* has the name \"after\" already" host after --at "by hand"
[ "$(names | tail -n 2 | tr '\n' ' ')" = "by hand=$before_seq after=$(jq .seq "$workdir/mark.json") held " ] ||
    fail "names: $(names)"
"$REPL" points raw --json --store "$workdir/store" |
    jq -e --argjson seq "$before_seq" '.timeline[] | select(.seq == $seq) | .names == [{"name": "by hand", "held": false}]' \
        >/dev/null || fail "points do not show the name"
run host "before the upgrade" --at "by hand" >/dev/null # it is free again

note "what was restored and found good"
refused 5 "operator" host --proven
refused 4 "no point 999" operator --proven --at 999
run operator --proven --at after >/dev/null
run operator --proven --at "by hand" >/dev/null
[ "$(operator --list --json | jq .proven_seq)" = "$before_seq" ] || fail "proven: $(operator --list)"
[ "$("$REPL" points raw --json --store "$workdir/store" | jq '.timeline[] | select(.proven) | .seq')" = "$before_seq" ] ||
    fail "points do not show what is proven"
note "done"
