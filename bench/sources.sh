#!/bin/bash
# What a site takes in of many sources: how soon points are acknowledged, its memory and processor
# time; the same beside sources that send as fast as they can; bytes a second; and what the length of a
# history costs. Sources are simulated (bench/sources.c), keys, TLS and segments are real.
#
#   cmake --build build/release --target repl repl_sources
#   REPL=build/release/repl SOURCES=build/release/repl_sources bench/sources.sh [COUNT [SECONDS]]
#
# 1000, 30: about 12 minutes, most of it for the long history. ONLY=many (or greedy, bytes, history)
# does one of them; HISTORY="1000 10000" others; TEST_DIR=/dev/shm lies in memory.
. "${0%/*}/../tests/integration/functions.sh"
: "${SOURCES:?the path of repl_sources}"
count=${1:-1000} seconds=${2:-30}
only() { [ -z "${ONLY:-}" ] || [ "$ONLY" = "$1" ]; }
kib_of() { awk -v k="$1:" '$1 == k { print $2 }' "/proc/$site_pid/status"; }
cpu_ms() { awk -v hz="$(getconf CLK_TCK)" '{ print int(($14 + $15) * 1000 / hz) }' "/proc/$site_pid/stat"; }
ticks_of() { awk '{ print $14 + $15 }' "/proc/$1/stat"; }

mkdir "$workdir/keys"
make_keys
run "$SOURCES" keys "$workdir/keys" "$count" >"$workdir/peers"
site_anew() { # lines of [site]
    [ -n "${site_pid:-}" ] && stop_site
    rm -rf "$workdir/store"
    write_site_config data
    sed -i "s/^\[peer agent\]/connections = 8192\nworkers = ${WORKERS:-0}\nstrangers_per_address = 4096\n&/" "$workdir/site.conf"
    cat "$workdir/peers" >>"$workdir/site.conf"
    start_site
}
sources() { # WHAT ARGUMENTS...: prints what it measured, and of the site memory and processor time
    local what=$1 before after
    shift
    : >"$workdir/out"
    "$SOURCES" "$what" "127.0.0.1:$port" "$site_fingerprint" "$workdir/keys" "$@" >"$workdir/out" &
    local pid=$!
    test_pids[5]=$pid
    [ "$what" = fill ] || until grep -q ready "$workdir/out" || ! kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    before=$(cpu_ms)
    wait "$pid" || fail "the sources ended"
    test_pids[5]=
    after=$(cpu_ms)
    grep -v ready "$workdir/out"
    printf '    site: %d MiB resident (at most %d), %.1f s of processor, %d descriptors\n' \
        "$(($(kib_of VmRSS) / 1024))" "$(($(kib_of VmHWM) / 1024))" \
        "$(awk -v a="$before" -v b="$after" 'BEGIN { print (b - a) / 1000 }')" \
        "$(find "/proc/$site_pid/fd" -mindepth 1 | wc -l)"
}

# Of the site's processor time, what the ciphers of TLS take, where perf is installed: without it the site would
# take in so much more with a processor (there is no mode without TLS to measure).
tls_share_begin() {
    command -v perf >/dev/null || return 0
    perf record -q -F 499 -o "$workdir/perf" -p "$site_pid" >/dev/null 2>&1 &
    test_pids[6]=$!
}
tls_share_end() {
    [ -n "${test_pids[6]:-}" ] || return 0
    kill -INT "${test_pids[6]}"
    wait "${test_pids[6]}"
    test_pids[6]=
    perf report -q -i "$workdir/perf" --sort dso -g none 2>/dev/null |
        awk '/libgnutls|libnettle|libhogweed|libgmp/ { sum += $1 } END { printf "    site: %.1f %% of it TLS\n", sum }'
}

echo "$count sources, $(nproc) processors, load average $(cut -d' ' -f1 /proc/loadavg), $workdir"
if only many; then
    for n in $((count / 10)) "$count"; do
        for interval in 2000 1000; do
            site_anew
            printf '%d sources, a point of 16 KiB every %d ms:\n    ' "$n" "$interval"
            sources send "$n" "$seconds" "$interval" 16
        done
    done
fi
if only greedy; then
    for greedy in 0 1 8; do
        site_anew
        printf '100 sources, a point of 16 KiB a second, %d of them 8 MiB at a time without a pause:\n    ' "$greedy"
        sources send 100 "$seconds" 1000 16 "$greedy" 8
    done
fi
if only bytes; then
    for n in 1 4; do
        site_anew
        printf '%d sources, 16 MiB at a time without a pause:\n    ' "$n"
        tls_share_begin
        sources send "$n" "$seconds" 1000 16 "$n" 16
        tls_share_end
    done
fi
if only history; then
    site_anew
    from=0
    for until in ${HISTORY:-1000 10000 100000}; do
        printf 'one volume, up to point %d:\n    ' "$until"
        sources fill "$from" "$until"
        printf '    the last thousand: '
        "$SOURCES" fill "127.0.0.1:$port" "$site_fingerprint" "$workdir/keys" "$until" $((until + 1000)) |
            grep -v ready
        from=$((until + 1000))
        stop_site
        began=$(date +%s%N)
        start_site
        printf '    a start: %.2f s, then %d MiB resident; log %d KiB, index %d MiB\n' \
            "$(awk -v a="$began" -v b="$(date +%s%N)" 'BEGIN { print (b - a) / 1e9 }')" \
            "$(($(kib_of VmRSS) / 1024))" "$(($(stat -c %s "$workdir/store/volumes/v0/log") / 1024))" \
            "$(($(stat -c %s "$workdir/store/index.lmdb") / 1048576))"
    done
fi
