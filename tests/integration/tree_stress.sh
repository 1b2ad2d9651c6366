#!/bin/bash
# A directory tree under the writers of others: stress-ng's stressors of filesystems, which never rest,
# and passes of fio, each with checksums in what it writes, buffered, through a mapping, and direct.
# At points the stressors are stopped, or the filesystem is frozen from here, while the tree is looked
# at (tree_dump.c); each of these points is restored, is what the tree was, and fio finds in it all that
# the pass before it wrote.
#
#   FS=ext4                     or xfs, btrfs
#   POINTS=2 SECONDS_EACH=4     the first by a stop, the second by a freeze, and so on
#   SIZE=16m                    of each of fio's files
#   long: POINTS=20 SECONDS_EACH=20 SIZE=64m
. "${0%/*}/functions.sh"
: "${TREE_DUMP:?the path of tree_dump}"
: "${POINTS:=2}" "${SECONDS_EACH:=4}" "${SIZE:=16m}"
requires_root
requires_loop
requires_tool jq
requires_tool fio
requires_tool stress-ng
requires_tool fsfreeze
requires_tool "mkfs.${FS:=ext4}"

make_filesystem() { # IMAGE DIRECTORY SIZE
    make_loop "$1" "$3"
    run "mkfs.$FS" -q "$loop" >/dev/null
    make_mount "$loop" "$2"
}
make_filesystem "$workdir/disk" "$workdir/mnt" 2G
mnt=$workdir/mnt
tree=$mnt/root
run mkdir -p "$tree/fio" "$tree/stress"

# --- the writers -----------------------------------------------------------------------------------

# Not chattr and inode-flags: of those alone the kernel does not tell. Nor io, which syncs the whole
# machine without an end, and so commits the filesystems whose commits other tests count.
stressors=(access chmod chown dentry dir dirdeep fallocate fcntl filename fpunch
    hdd iomix link open rename seek symlink sync-file touch utime xattr)
bounded=(--fallocate-bytes 8M --hdd-bytes 8M --iomix-bytes 8M --sync-file-bytes 8M
    --seek-size 8M --dirdeep-inodes 2000 --dentries 500 --fpunch-ops 100000)
frozen=
thaw() { [ -z "$frozen" ] || fsfreeze -u "$mnt"; frozen=; }
tell_stressors() { kill "-$1" -- "-$stress_pid" 2>/dev/null; }
stop_stressors() {
    thaw # or they could not end
    tell_stressors CONT
    tell_stressors KILL
}
at_exit stop_stressors
start_stressors() { # one of them leaves files where it is started
    local i seconds=$((POINTS * (SECONDS_EACH + 120) + 120)) options=()
    for i in "${stressors[@]}"; do options+=("--$i" 1); done
    (cd "$workdir" && exec setsid stress-ng "${options[@]}" "${bounded[@]}" \
        --temp-path "$tree/stress" --timeout "$seconds" --oomable --no-rand-seed) \
        >"$workdir/stress.log" 2>&1 &
    stress_pid=$!
}
fio_pass() { # DIRECTORY SEED [options]
    local directory=$1 seed=$2
    shift 2
    fio --directory="$directory" --size="$SIZE" --rw=randwrite --verify=crc32c \
        --verify_fatal=1 --verify_state_save=0 --randseed="$seed" --allrandrepeat=1 "$@" \
        --name=buffered --ioengine=psync --bs=4k --name=mapped --ioengine=mmap --bs=4k \
        --name=direct --ioengine=libaio --direct=1 --iodepth=8 --bs=16k >"$workdir/fio.log" 2>&1
}

# --- points ----------------------------------------------------------------------------------------

hold() { # NUMBER
    if [ $(($1 % 2)) = 0 ]; then
        tell_stressors STOP
    else
        run fsfreeze -f "$mnt"
        frozen=yes
    fi
}
points=()
remember() { # NUMBER
    hold "$1"
    wait_replicated data 180 # on a machine that has other things to do
    local seq
    seq=$(site_value data .point.seq)
    "$TREE_DUMP" "$tree" >"$workdir/dump.$seq" || fail "dump"
    "$TREE_DUMP" "$tree" >"$workdir/dump.again"
    cmp -s "$workdir/dump.$seq" "$workdir/dump.again" || fail "the tree is not held still"
    thaw
    tell_stressors CONT
    points+=("$seq")
    note "point $seq: $(wc -l <"$workdir/dump.$seq") names, $(agent_value data .point.cut)"
}

make_keys
write_site_config data
write_agent_config "data=tree:$tree"
start_site
start_agent
start_stressors
for ((i = 0; i < POINTS; i++)); do
    end=$(($(date +%s) + SECONDS_EACH))
    fio_pass "$tree/fio" "$((i + 1))" --do_verify=0 || fail "fio"
    while [ "$(date +%s)" -lt "$end" ]; do sleep 0.2; done
    kill -0 "$stress_pid" 2>/dev/null || { cat "$workdir/stress.log"; fail "the stressors ended"; }
    remember "$i"
done
stop_stressors

# --- restored --------------------------------------------------------------------------------------

note "restore"
stop_agent
stop_site
"$REPL" verify data --store "$workdir/store" >"$workdir/verify.log" 2>&1 || fail "verify"
make_filesystem "$workdir/target" "$workdir/restored" $((POINTS + 2))G
for ((i = 0; i < POINTS; i++)); do
    point=${points[i]} back=$workdir/restored/${points[i]}
    "$REPL" restore data --at "$point" --to "$back" --store "$workdir/store" --yes \
        >"$workdir/restore.log" 2>&1 || fail "restore of point $point"
    "$TREE_DUMP" "$back" >"$workdir/got" || fail "dump of point $point"
    if ! cmp -s "$workdir/dump.$point" "$workdir/got"; then
        diff "$workdir/dump.$point" "$workdir/got" | head -n 20
        fail "point $point differs"
    fi
    fio_pass "$back/fio" "$((i + 1))" --verify_only || { cat "$workdir/fio.log"; fail "point $point: fio"; }
done
note "passed"
