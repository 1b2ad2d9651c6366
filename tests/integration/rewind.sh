#!/bin/bash
# A PostgreSQL volume is taken back in place, over TLS, after more was committed and somebody has
# written to it behind the program's back: it is made exactly what it was, at most 1.3 times the bytes
# that differ are fetched, and the database starts with what had been committed by then. Long:
# SIZE=2G SCALE=100 SECONDS_EACH=300.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool python3
requires_tool mkfs.ext4
pg=$(echo /usr/lib/postgresql/*/bin)
[ -x "$pg/pgbench" ] || skip "needs PostgreSQL"
: "${SIZE:=512M}" "${SCALE:=12}" "${SECONDS_EACH:=6}"

chmod 711 "$workdir"
make_keys
make_loop "$workdir/disk" "$SIZE"
disk=$loop
run mkfs.ext4 -q "$disk"
make_mount "$disk" "$workdir/mnt"
run mkdir "$workdir/mnt/pg" "$workdir/sockets"
run chown postgres "$workdir/mnt/pg" "$workdir/sockets"
as_postgres() { (cd / && runuser -u postgres -- env PGHOST="$workdir/sockets" PGUSER=postgres PGPORT=5803 "$@"); }
start_server() {
    as_postgres "$pg/pg_ctl" -D "$workdir/mnt/pg" -w -t 60 -l "$workdir/sockets/server.log" \
        -o "-k $workdir/sockets -p 5803 -c listen_addresses= -c max_wal_size=64MB -c min_wal_size=32MB" \
        start >/dev/null 2>&1 || { cat "$workdir/sockets/server.log"; fail "PostgreSQL does not start"; }
    server=$(head -n 1 "$workdir/mnt/pg/postmaster.pid")
    test_pids[8]=$server
}
stop_server() { # it is not ours to wait for
    kill -INT "$server"
    wait_for 60 "PostgreSQL has ended" [ ! -d "/proc/$server" ]
    test_pids[8]=
}
sum() { as_postgres "$pg/psql" -At -c "select count(*), sum(abalance) from pgbench_accounts" -c \
    "select count(*), sum(delta) from pgbench_history"; }
load() { as_postgres "$pg/pgbench" -n -c 4 -T "$SECONDS_EACH" >"$workdir/pgbench.log" 2>&1 || fail "pgbench"; }

run as_postgres "$pg/initdb" -D "$workdir/mnt/pg" -A trust -N --wal-segsize=4 >"$workdir/initdb.log" 2>&1
start_server
run as_postgres "$pg/pgbench" -i -q -s "$SCALE" >"$workdir/pgbench.log" 2>&1
write_site_config data
write_agent_config "data=$disk"
start_site
start_agent
note "a database of scale $SCALE, and $SECONDS_EACH s of transactions"
wait_replicated data 120
load
stop_server
run umount "$workdir/mnt"
wait_replicated data 60
point=$(site_value data .point.seq)
run mount "$disk" "$workdir/mnt"
start_server
before=$(sum)

note "$SECONDS_EACH s more, behind point $point"
load
[ "$(sum)" != "$before" ] || fail "pgbench has changed nothing"
stop_server
drop_mount "$workdir/mnt"
wait_replicated data 60
stop_agent
for place in 3 5000 40001; do # pages that nobody knows of
    run dd if=/dev/urandom of="$disk" bs=4096 count=1 seek="$place" conv=fsync status=none
done
run cp --sparse=always "$workdir/disk" "$workdir/altered"

note "taken back"
origin="--site 127.0.0.1:$port --fingerprint $site_fingerprint --key $workdir/rescue.key"
# shellcheck disable=SC2086
run "$REPL" restore data --at "$point" --to "$disk" --onto-source --yes $origin >"$workdir/restore.log" 2>&1
fetched=$(sed -n 's/^.*; \([0-9.]*\) \([KMGT]\?i\?\)B were fetched$/\1\2/p' "$workdir/restore.log" | numfmt --from=iec-i)
[ -n "$fetched" ] || fail "it does not say how much was fetched"
# shellcheck disable=SC2086
run "$REPL" restore data --at "$point" --to "$workdir/whole" $origin >"$workdir/whole.log" 2>&1
same_bytes "$disk" "$workdir/whole" || fail "it is not what the point is"
differed=$(python3 - "$disk" "$workdir/altered" <<'PYTHON'
import sys
pages = 0
with open(sys.argv[1], "rb") as a, open(sys.argv[2], "rb") as b:
    while x := a.read(1 << 20):
        y = b.read(1 << 20)
        if x != y:
            pages += sum(x[i:i + 4096] != y[i:i + 4096] for i in range(0, len(x), 4096))
print(pages * 4096)
PYTHON
)
note "$((differed >> 10)) KiB differed, $((fetched >> 10)) KiB were fetched"
[ $((fetched * 10)) -le $((differed * 13)) ] || fail "more than 1.3 times what differed was fetched"
make_mount "$disk" "$workdir/mnt"
start_server
[ "$(sum)" = "$before" ] || fail "the database has $(sum), not $before"
stop_server
note "passed"
