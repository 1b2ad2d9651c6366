#!/bin/bash
# A volume with a day of history is mounted, from the site and from the store: the first bytes are there
# within 200 ms of the command, at the best of five tries, and are what a restore gives.
. "${0%/*}/functions.sh"
: "${MAKE_DAY:?the path of make_day}"
requires_tool findmnt
[ -c /dev/fuse ] || skip "needs /dev/fuse"
mnt=$workdir/mnt
mkdir "$mnt"
leave_point() { while mountpoint -q "$mnt" || findmnt "$mnt" >/dev/null; do umount -l "$mnt"; done; }
at_exit leave_point

make_keys
run "$MAKE_DAY" "$workdir/store" >/dev/null 2>&1
write_site_config data
start_site 60
run "$REPL" restore data --to "$workdir/restored" --store "$workdir/store" 2>/dev/null
site=(--site "127.0.0.1:$port" --fingerprint "$site_fingerprint" --key "$workdir/rescue.key")

first_byte() { # FROM...: milliseconds from the command to the first page
    local begin end
    begin=$(date +%s%N)
    run "$REPL" mount data "$mnt" "$@" 2>"$workdir/said"
    head -c 4096 "$mnt/data.img" >"$workdir/first" || fail "the first page cannot be read"
    end=$(date +%s%N)
    cmp -n 4096 "$workdir/first" "$workdir/restored" || fail "the first page is another one"
    same_bytes "$mnt/data.img" "$workdir/restored" || fail "it is not what a restore gives"
    run "$REPL" umount "$mnt"
    echo $(((end - begin) / 1000000))
}
for from in site store; do
    if [ "$from" = site ]; then arguments=("${site[@]}"); else arguments=(--store "$workdir/store"); fi
    best=9999
    for _ in 1 2 3 4 5; do
        took=$(first_byte "${arguments[@]}") || exit
        [ "$took" -lt "$best" ] && best=$took
    done
    note "from the $from: $best ms"
    [ "$best" -le 200 ] || fail "from the $from the first page takes $best ms"
done
note "passed"
