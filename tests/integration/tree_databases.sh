#!/bin/bash
# Databases whose directory is the tree: PostgreSQL under pgbench, and SQLite in WAL mode. Each restored
# directory starts, recovers, and holds every transaction that had been acknowledged before the point.
# POINTS=10 of them, frozen ones; with CUT=snapshot (FS=btrfs) from snapshots.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool python3
requires_tool "mkfs.${FS:=ext4}"
pg=$(echo /usr/lib/postgresql/*/bin)
[ -x "$pg/pgbench" ] || skip "needs PostgreSQL"
: "${POINTS:=10}" "${CUT:=freeze}"

chmod 711 "$workdir"
make_keys
make_loop "$workdir/disk" 1G
run "mkfs.$FS" -q "$loop"
make_mount "$loop" "$workdir/mnt"
root=$workdir/mnt/root
run mkdir "$root" "$workdir/sockets" "$workdir/pgbench"
run chown postgres "$root" "$workdir/sockets" "$workdir/pgbench"
as_postgres() { (cd / && runuser -u postgres -- env PGHOST="$workdir/sockets" PGUSER=postgres "$@"); }
server=
start_server() { # DIRECTORY PORT
    as_postgres "$pg/pg_ctl" -D "$1" -w -t 60 -l "$workdir/sockets/server.$2.log" \
        -o "-k $workdir/sockets -p $2 -c listen_addresses=" start >/dev/null 2>&1 ||
        { cat "$workdir/sockets/server.$2.log"; fail "PostgreSQL does not start in $1"; }
    server=$(head -n 1 "$1/postmaster.pid")
    test_pids[8]=$server
}
kill_server() { # it is not ours to wait for
    kill -"${1:-QUIT}" "$server"
    wait_for 20 "PostgreSQL has ended" [ ! -d "/proc/$server" ]
    test_pids[8]=
}

run as_postgres "$pg/initdb" -D "$root/pg" -A trust -N >"$workdir/initdb.log" 2>&1
start_server "$root/pg" 5801
run as_postgres "$pg/psql" -q -p 5801 -c "create table done (client int, n int, what text)"
run python3 - "$root/lite.db" <<'EOF'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma journal_mode = wal")
db.execute("create table done (n integer primary key, what text)")
EOF

write_site_config data
VOLUME_OPTIONS="quiesce = $CUT
freeze_budget = 1s"
write_agent_config "data=tree:$root"
start_site
[ "$CUT" = freeze ] && start_guard
start_agent
wait_replicated data 60

note "transactions, for $POINTS points"
cat >"$workdir/pgbench/script" <<'EOF'
\set n :n + 1
insert into done values (:client_id, :n, repeat(md5(:n::text), 20));
EOF
as_postgres sh -c "cd $workdir/pgbench && exec $pg/pgbench -p 5801 -n -c 4 -T $((POINTS * 2 + 5)) -D n=0 -f script -l" \
    >"$workdir/pgbench.log" 2>&1 &
test_pids[9]=$!
# A number, when it was committed (nanoseconds since 1970)
python3 - "$root/lite.db" "$workdir/enough" >"$workdir/lite.done" <<'EOF' &
import os, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma synchronous = full")
n = 0
while not os.path.exists(sys.argv[2]):
    n += 1
    db.execute("insert into done values (?, ?)", (n, "x" * 500))
    print(n, time.time_ns(), flush=True)
EOF
test_pids[10]=$!
first=$(site_value data .point.seq)
enough() { [ "$(site_value data .point.seq)" -ge $((first + POINTS + 1)) ]; }
wait_for $((POINTS * 2 + 5)) "$POINTS points" enough
touch "$workdir/enough"
wait "${test_pids[10]}"
wait "${test_pids[9]}" || fail "pgbench"
test_pids[9]='' test_pids[10]=''
kill_server

"$REPL" points data --store "$workdir/store" --json >"$workdir/points.json"
mapfile -t points < <(jq -r --argjson first "$first" --arg cut "$CUT" '[.. | objects |
    select(has("seq") and has("cut") and .seq > $first and .cut == $cut) |
    "\(.seq) \(.begin_ns)"] | unique | .[]' "$workdir/points.json" | sort -n | head -n "$POINTS")
[ "${#points[@]}" -ge "$POINTS" ] || fail "only ${#points[@]} points were cut by $CUT"

# client, number and time of each transaction that pgbench was told is done
cat "$workdir"/pgbench/pgbench_log.* | awk '{printf "%d %d %d%06d000\n", $1, $2, $5, $6}' \
    >"$workdir/pg.done"
note "$(wc -l <"$workdir/pg.done") transactions of PostgreSQL, $(wc -l <"$workdir/lite.done") of SQLite"

for point in "${points[@]}"; do
    seq=${point% *} begin=${point#* }
    rm -rf "$workdir/back"
    run "$REPL" restore data --at "$seq" --to "$workdir/back" --store "$workdir/store" \
        >"$workdir/restore.log" 2>&1
    start_server "$workdir/back/pg" 5802
    as_postgres "$pg/psql" -p 5802 -At -F ' ' -c \
        "select client, max(n), count(*) from done group by client order by client" \
        >"$workdir/have" || fail "point $seq cannot be asked"
    kill_server
    awk -v begin="$begin" '
        NR == FNR { max[$1] = $2; if ($2 != $3) { print "client " $1 " has gaps"; bad = 1 } next }
        $3 + 0 < begin + 0 { before++; if ($2 > max[$1]) { print "lost: " $0; bad = 1 } }
        END { print before + 0 " before it"; exit bad }' "$workdir/have" "$workdir/pg.done" \
        >"$workdir/verdict" || { head "$workdir/verdict"; fail "point $seq: PostgreSQL"; }
    run python3 - "$workdir/back/lite.db" "$workdir/lite.done" "$begin" >"$workdir/verdict.lite" <<'EOF'
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
most, count = db.execute("select coalesce(max(n), 0), count(*) from done").fetchone()
assert most == count, (most, count)
done = [l.split() for l in open(sys.argv[2])]
before = [int(n) for n, t in done if int(t) < int(sys.argv[3])]
assert not before or max(before) <= most, (max(before), most)
print(len(before), "before it,", most, "there")
EOF
    note "point $seq: PostgreSQL $(cat "$workdir/verdict"), $(awk '{s += $3} END {print s + 0}' "$workdir/have") there; SQLite $(cat "$workdir/verdict.lite")"
done
note "passed"
