#!/bin/bash
# The service manager has nothing to say against the units, the program they start included.
. "${0%/*}/functions.sh"
requires_tool systemd-analyze

mkdir "$workdir/units"
for unit in "${0%/*}"/../../packaging/systemd/*.service; do
    sed "s|^\(ExecStart=\)/usr/bin/repl |\1$REPL |" "$unit" >"$workdir/units/${unit##*/}"
    grep -q "^ExecStart=$REPL " "$workdir/units/${unit##*/}" || fail "${unit##*/} starts something else"
done
systemd-analyze verify "$workdir"/units/*.service >"$workdir/verify.log" 2>&1 &&
    [ ! -s "$workdir/verify.log" ] || fail "systemd-analyze verify has something to say"
note "passed ($(find "$workdir/units" -type f | wc -l) units)"
