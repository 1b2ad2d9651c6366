#!/bin/bash
# A point of a block volume over NBD, from the site and from the store: it is what a restore gives, with
# its holes, for several connections at once; what cannot be served is refused before nbdkit begins; when
# the site is gone a read fails.
. "${0%/*}/functions.sh"
: "${NBDKIT_PLUGIN:?the path of the plugin}"
requires_tool nbdkit
requires_tool nbdcopy
requires_tool jq
raw_volume $((24 * 1024 * 1024 + 1536))

run dd if=/dev/urandom of="$disk" bs=1M count=12 oflag=direct status=none
start_site
start_agent
wait_replicated raw
first=$(site_value raw .point.seq)
run dd if=/dev/urandom of="$disk" bs=4k count=40 seek=700 oflag=direct conv=notrunc status=none
wait_replicated raw
seq=$(site_value raw .point.seq)
stop_agent
site=(site="127.0.0.1:$port" fingerprint="$site_fingerprint" key="$workdir/rescue.key")
serve() { nbdkit -U - -f "$NBDKIT_PLUGIN" "$@"; } # ARGUMENTS... --run COMMAND

for point in "$first" "$seq"; do
    run "$REPL" restore raw --at "$point" --to "$workdir/restored" --overwrite --store "$workdir/store" 2>/dev/null
    for from in "store=$workdir/store" "${site[*]}"; do
        # shellcheck disable=SC2086
        serve raw at="$point" $from --run "nbdcopy --connections=4 \"\$uri\" $workdir/copy" 2>"$workdir/nbd.log" ||
            fail "point $point, $from: $(cat "$workdir/nbd.log")"
        same_bytes "$workdir/copy" "$workdir/restored" || fail "point $point, $from: it is not what a restore gives"
        rm "$workdir/copy"
    done
done
note "from the store and from the site it is what a restore gives"

serve raw store="$workdir/store" --run "nbdinfo --map=base:allocation --json \"\$uri\"" >"$workdir/map.json" 2>/dev/null ||
    fail "there is no map"
zeros=$(jq '[.[] | select(.type == 3) | .length] | add' "$workdir/map.json")
[ "${zeros:-0}" -ge $((10 * 1024 * 1024)) ] || fail "holes: ${zeros:-none}"
serve raw store="$workdir/store" --run "nbdinfo --json \"\$uri\"" 2>/dev/null |
    jq -e '.exports[0]."is_read_only" and .exports[0]."can_multi_conn"' >/dev/null || fail "what nbdinfo says"

refused() { # TEXT ARGUMENTS...
    local text=$1
    shift
    ! serve "$@" --run "echo begun >$workdir/begun" 2>"$workdir/said" || fail "$*: it is served"
    grep -q -- "$text" "$workdir/said" && [ ! -e "$workdir/begun" ] || fail "$*: $(cat "$workdir/said")"
}
refused "which volume" store="$workdir/store"
refused "no volume other" other store="$workdir/store"
refused "999999" raw store="$workdir/store" at=999999
refused 'no parameter "when"' raw store="$workdir/store" when=now
refused "give one or the other" raw store="$workdir/store" "${site[@]}"
note "what cannot be served is refused with a reason"

# The site goes when nbdkit has begun; nothing has been read yet but the lists.
cat >"$workdir/gone" <<END
kill -KILL $site_pid
timeout 60 nbdcopy "\$1" - >/dev/null 2>"$workdir/copy.log"
echo \$? >"$workdir/code"
END
serve raw "${site[@]}" --run "bash $workdir/gone \"\$uri\"" >"$workdir/nbd.log" 2>&1
[ "$(cat "$workdir/code")" = 1 ] || fail "without a site: $(cat "$workdir/code" "$workdir/copy.log")"
grep -qi "input/output error" "$workdir/copy.log" || fail "without a site: $(cat "$workdir/copy.log")"
grep -q "repl.*error: .*connect to 127.0.0.1" "$workdir/nbd.log" || fail "nbdkit does not say why: $(cat "$workdir/nbd.log")"
note "passed"
