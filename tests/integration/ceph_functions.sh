# Sourced by tests that need a real service of object storage: a Ceph Object Gateway of its own, with
# one monitor and OSDs, on loopback, below $workdir/ceph. Everything ends with the test.
#
#   ceph_start [OSDS [memstore|bluestore]]   makes the bucket "replica" at $s3_endpoint, which has a
#                                            certificate of its own, $s3_ca
#   ceph_signal SIGNAL NAME                  of mon, rgw or osdN
#   ceph_run NAME                            starts rgw or osdN again, after a kill

s3_key=REPLTESTKEY s3_secret=repl/test+secret
s3_base=$((30000 + $$ % 60 * 45)) # the gateway; then the monitor; then those of the OSDs
s3_endpoint=https://127.0.0.1:$s3_base
ceph=$workdir/ceph
s3_ca=$ceph/tls.pem
declare -A ceph_pids

requires_ceph() {
    local tool
    requires_tool openssl
    for tool in ceph-mon ceph-osd radosgw radosgw-admin ceph monmaptool curl; do
        command -v "$tool" >/dev/null && continue
        note "installing Ceph's packages, as $tool is missing"
        { timeout 240 apt-get -q -o DPkg::Lock::Timeout=120 update &&
            DEBIAN_FRONTEND=noninteractive timeout 400 apt-get -q -o DPkg::Lock::Timeout=120 install \
                -y --no-install-recommends radosgw ceph-mon ceph-osd curl; } >"$workdir/apt.txt" 2>&1
        break
    done
    for tool in ceph-mon ceph-osd radosgw radosgw-admin ceph monmaptool curl; do
        requires_tool "$tool"
    done
}

ceph_config() { # OSDS STORE
    local copies=$(($1 < 3 ? $1 : 3))
    cat >"$ceph/ceph.conf" <<EOF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon_host = [v2:127.0.0.1:$((s3_base + 1))]
mon_initial_members = a
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr1 = false
ms_bind_port_min = $((s3_base + 2))
ms_bind_port_max = $((s3_base + 44))
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
auth_allow_insecure_global_id_reclaim = false
ms_mon_client_mode = crc
ms_mon_service_mode = crc
ms_mon_cluster_mode = crc
ms_client_mode = crc
ms_service_mode = crc
ms_cluster_mode = crc
run_dir = $ceph
admin_socket =
pid_file =
log_file = $ceph/\$name.txt
crash_dir = $ceph
log_to_stderr = false
err_to_stderr = false
osd_pool_default_size = $copies
osd_pool_default_min_size = $(((copies + 1) / 2))
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
mon_osd_min_down_reporters = 1
osd_heartbeat_interval = 1
osd_heartbeat_grace = 4
[mon]
mon_data = $ceph/mon
mon_cluster_log_file = $ceph/cluster.txt
mon_data_avail_crit = 1
mon_data_avail_warn = 2
[osd]
osd_data = $ceph/osd\$id
osd_objectstore = $2
osd_memory_target = 939524096
bluestore_block_size = 8589934592
memstore_device_bytes = 2147483648
osd_class_load_list = *
osd_class_default_list = *
[client.rgw]
rgw_data = $ceph/rgw
rgw_frontends = beast ssl_endpoint=127.0.0.1:$s3_base ssl_certificate=$s3_ca ssl_private_key=$ceph/tls.key
rgw_thread_pool_size = 32
rgw_bucket_quota_ttl = 1
rgw_lc_debug_interval = 1
EOF
}

ceph_run() { # NAME
    case $1 in
    mon) set -- mon ceph-mon -c "$ceph/ceph.conf" -f -i a ;;
    osd*) set -- "$1" ceph-osd -c "$ceph/ceph.conf" -f -i "${1#osd}" ;;
    rgw) set -- rgw radosgw -c "$ceph/ceph.conf" -f -n client.rgw ;;
    esac
    local name=$1
    shift
    "$@" </dev/null >>"$ceph/$name.out" 2>&1 &
    ceph_pids[$name]=$!
    disown "$!" # or the shell reports each kill
}
ceph_signal() { # SIGNAL NAME
    kill "-$1" "${ceph_pids[$2]}" || fail "kill -$1 of $2"
}
ceph_stop() {
    local name
    for name in rgw "${!ceph_pids[@]}"; do
        [ -n "${ceph_pids[$name]:-}" ] && kill -KILL "${ceph_pids[$name]}" 2>/dev/null
    done
    for _ in $(seq 100); do
        for name in "${!ceph_pids[@]}"; do
            kill -0 "${ceph_pids[$name]}" 2>/dev/null && { sleep 0.05; continue 2; }
        done
        break
    done
}
ceph_quiet() { "$@" >>"$ceph/setup.txt" 2>&1 || { tail -n 5 "$ceph/setup.txt"; fail "$*"; }; }

# s3_request METHOD PATH: prints the status. The name of the hash is what libcurl's signing needs.
s3_request() {
    curl -s -m 10 --cacert "$s3_ca" -o /dev/null -w '%{http_code}' --aws-sigv4 aws:amz:us-east-1:s3 \
        -u "$s3_key:$s3_secret" -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' -X "$1" "$s3_endpoint/$2"
}
s3_bucket_made() { [ "$(s3_request PUT replica)" = 200 ]; }
s3_bucket_there() { [ "$(s3_request GET 'replica?list-type=2&max-keys=1')" = 200 ]; }

ceph_start() { # [OSDS [STORE]]
    local osds=${1:-1} store=${2:-memstore} i id
    mkdir -p "$ceph/rgw"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1 \
        -addext subjectAltName=IP:127.0.0.1 -keyout "$ceph/tls.key" -out "$s3_ca" 2>/dev/null ||
        fail "openssl req"
    ceph_config "$osds" "$store"
    at_exit ceph_stop
    ceph_quiet monmaptool --create --fsid "$(sed -n 's/^fsid = //p' "$ceph/ceph.conf")" \
        --addv a "[v2:127.0.0.1:$((s3_base + 1))]" "$ceph/monmap"
    ceph_quiet ceph-mon -c "$ceph/ceph.conf" --mkfs -i a --monmap "$ceph/monmap"
    ceph_run mon
    for ((i = 0; i < osds; i++)); do
        id=$(cat /proc/sys/kernel/random/uuid)
        mkdir -p "$ceph/osd$i"
        ceph_quiet timeout 30 ceph -c "$ceph/ceph.conf" --connect-timeout 20 osd new "$id" "$i"
        ceph_quiet ceph-osd -c "$ceph/ceph.conf" -i "$i" --mkfs --osd-uuid "$id"
        ceph_run "osd$i"
    done
    ceph_quiet timeout 60 radosgw-admin -c "$ceph/ceph.conf" user create --uid repl \
        --display-name repl --access-key "$s3_key" --secret-key "$s3_secret"
    ceph_run rgw
    wait_for 60 "the gateway makes a bucket" s3_bucket_made
}
