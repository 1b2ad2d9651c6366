#!/bin/bash
# What changed of a tree between two points, against what restores of both show: everything that is
# different is listed, as what it is, and nothing is missing; and the text of a few changes of each kind.
# Long: ROUNDS=20 OPERATIONS=400.
. "${0%/*}/functions.sh"
requires_root
requires_loop
requires_tool jq
requires_tool python3
: "${ROUNDS:=3}" "${OPERATIONS:=80}"
seed_take

make_keys
make_loop "$workdir/disk" 256M
run mkfs.ext4 -q "$loop"
make_mount "$loop" "$workdir/mnt"
tree=$workdir/mnt/tree
run mkdir "$tree"
write_site_config data
write_agent_config "data=tree:$tree"
start_site

source_directory=$(cd "${0%/*}/../.." && pwd)
cd "$tree" || exit
mkdir -p kept moved/inner gone "odd
name"
for file in same appended written stamped chmodded renamed linked moved/inner/deep gone/below replaced; do
    head -c 10000 /dev/urandom >"$file"
done
ln -s old symlink
ln linked kept/link
start_agent
wait_replicated data
a=$(site_value data .point.seq)

sleep 1.1 # times in seconds are others
echo more >>appended
printf x | dd of=written bs=1 seek=5000 conv=notrunc status=none
touch stamped
chmod 700 chmodded
setfattr -n user.note -v "a note" chmodded
mv renamed kept/other
mv moved "moved away"
echo more >>"moved away/inner/deep"
rm -r gone linked
cp same new && mv new replaced
ln -sfn new symlink # another one takes its place
mkdir fresh && echo one >fresh/one
mkfifo fresh/pipe
wait_replicated data
b=$(site_value data .point.seq)
diffed() { run "$REPL" diff data "$@" --store "$workdir/store" 2>"$workdir/diff.log"; }
diffed "$b" "$a" >"$workdir/text"
cat >"$workdir/expected" <<'END'
changed   appended (content, size, mtime)
changed   chmodded (mode, attributes)
added     fresh/
added     fresh/one
added     fresh/pipe
removed   gone/
removed   gone/below
renamed   renamed -> kept/other
removed   linked
renamed   moved/ -> moved away/
changed   moved away/inner/deep (content, size, mtime)
replaced  replaced (content, mtime)
changed   stamped (mtime)
replaced  symlink (mtime, target)
changed   written (content, mtime)
END
sed -i 's|^renamed   moved/ ->|renamed   moved ->|' "$workdir/expected"
diff "$workdir/expected" "$workdir/text" || fail "the text is another one"
grep -q "3 added, 3 removed, 2 renamed, 2 replaced by another, 5 changed" "$workdir/diff.log" || fail "$(cat "$workdir/diff.log")"
diffed "$a" "$a" >"$workdir/text"
[ ! -s "$workdir/text" ] || fail "a point differs from itself"

cat >"$workdir/change.py" <<'PYTHON'
import os, random, sys
tree, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
r = random.Random(seed)
def paths(want):
    found = []
    for top, directories, files in os.walk(tree):
        found += [os.path.join(top, n) for n in (directories if want == "d" else files)]
    return sorted(found)
def fresh():
    return os.path.join(r.choice([tree] + paths("d")), "n%d" % r.randrange(10**6))
for _ in range(count):
    files = [p for p in paths("f") if os.path.isfile(p) and not os.path.islink(p)]
    one = r.choice(files) if files else None
    kind = r.choice(["make", "make", "write", "append", "rename", "over", "remove", "link", "mkdir", "movedir",
                     "mode", "xattr", "touch", "symlink", "truncate", "rmdir"])
    try:
        if kind == "make" or one is None:
            open(fresh(), "wb").write(r.randbytes(r.randrange(20000)))
        elif kind == "write":
            with open(one, "r+b") as f: f.seek(r.randrange(os.path.getsize(one) + 1)); f.write(r.randbytes(9))
        elif kind == "append": open(one, "ab").write(r.randbytes(5000))
        elif kind == "rename": os.rename(one, fresh())
        elif kind == "over": os.rename(one, r.choice(files))
        elif kind == "remove": os.unlink(one)
        elif kind == "link": os.link(one, fresh())
        elif kind == "mkdir": os.mkdir(fresh())
        elif kind == "movedir":
            d = paths("d")
            if d: os.rename(r.choice(d), fresh())
        elif kind == "mode": os.chmod(one, r.choice([0o600, 0o640, 0o755]))
        elif kind == "xattr": os.setxattr(one, "user.x", r.randbytes(r.choice([5, 900])))
        elif kind == "touch": os.utime(one)
        elif kind == "symlink": os.symlink("to%d" % r.randrange(9), fresh())
        elif kind == "truncate": os.truncate(one, r.randrange(20000))
        elif kind == "rmdir":
            d = [p for p in paths("d") if not os.listdir(p)]
            if d: os.rmdir(r.choice(d))
    except OSError:
        pass
PYTHON
cat >"$workdir/check.py" <<'PYTHON'
import hashlib, json, os, stat, sys
def look(top):
    found = {}
    for directory, names, files in os.walk(top):
        for name in [""] * (directory == top) + names + files:
            path = os.path.join(directory, name) if name else top
            s, known = os.lstat(path), {}
            known["type"], known["mode"] = stat.S_IFMT(s.st_mode), stat.S_IMODE(s.st_mode)
            known["owner"] = (s.st_uid, s.st_gid)
            known["attributes"] = {a: os.getxattr(path, a, follow_symlinks=False)
                                   for a in os.listxattr(path, follow_symlinks=False)}
            if stat.S_ISREG(s.st_mode):
                known["size"] = s.st_size
                known["content"] = hashlib.sha256(open(path, "rb").read()).digest()
            if stat.S_ISLNK(s.st_mode): known["target"] = os.readlink(path)
            if not stat.S_ISDIR(s.st_mode): known["mtime"] = s.st_mtime_ns
            found[os.path.relpath(path, top) if name else ""] = known
    return found
before, after = look(sys.argv[1]), look(sys.argv[2])
told = json.load(open(sys.argv[3]))
listed = {c["path"]: c for c in told["changes"] if c["change"] != "removed"}
removed = [c["path"] for c in told["changes"] if c["change"] == "removed"]
errors, gone = [], list(removed)
def source(path):
    change = listed.get(path)
    if change and change["change"] == "added": return None
    if change and change["change"] == "renamed": return change["from"]
    if path == "": return ""
    directory, name = os.path.split(path)
    parent = source(directory)
    return None if parent is None else os.path.join(parent, name)
used = set()
for path, known in sorted(after.items()):
    change, origin = listed.pop(path, None), None
    listed[path] = change
    if change is None: listed.pop(path)
    origin = source(path)
    if origin is None:
        if not change: errors.append(f"{path}: not listed, though it is new")
        continue
    if origin in used: errors.append(f"{path}: {origin} is at two places")
    used.add(origin)
    if origin not in before:
        errors.append(f"{path}: was not at {origin}")
        continue
    differs = {k for k in set(known) | set(before[origin]) if known.get(k) != before[origin].get(k)}
    what = set(change["what"]) if change else set()
    if "type" in differs: differs = {"type"}
    if not differs <= what: errors.append(f"{path}: {sorted(differs - what)} differ, {sorted(what)} is told")
    extra = what - differs - {"content", "attributes"} # written, and the same
    if extra: errors.append(f"{path}: {sorted(extra)} is told, and is the same")
for path in listed:
    if path not in after: errors.append(f"{path}: listed, and not there")
for path in gone:
    if path not in before or path in used: errors.append(f"{path}: told to be removed")
missing = set(before) - used - set(gone)
if missing: errors.append(f"{sorted(missing)[:5]}: neither there nor told to be removed")
for name in ("added", "removed", "renamed", "replaced", "changed"):
    if told[name] != sum(c["change"] == name for c in told["changes"]): errors.append(f"count of {name}")
for error in errors[:20]: print(error)
print(len(told["changes"]), "changes")
sys.exit(bool(errors))
PYTHON
restored() { # POINT DIRECTORY
    rm -rf "$2"
    run "$REPL" restore data --at "$1" --to "$2" --store "$workdir/store" >"$workdir/restore.log" 2>&1
}
checked() { # FROM TO
    restored "$1" "$workdir/before"
    restored "$2" "$workdir/after"
    diffed "$1" "$2" --json >"$workdir/diff.json"
    python3 - "$source_directory/docs/formats/schemas/diff_tree.json" "$workdir/diff.json" >"$workdir/schema.log" 2>&1 <<'PYTHON' || fail "not what the schema says: $(tail -n 3 "$workdir/schema.log")"
import json, jsonschema, sys
schema, told = (json.load(open(path)) for path in sys.argv[1:])
jsonschema.Draft202012Validator(schema).validate(told)
PYTHON
    python3 "$workdir/check.py" "$workdir/before" "$workdir/after" "$workdir/diff.json" >"$workdir/check.log" ||
        fail "seed $SEED, points $1 and $2: $(cat "$workdir/check.log")"
    note "points $1 and $2: $(tail -n 1 "$workdir/check.log")"
}
checked "$a" "$b"
first=$a
for round in $(seq "$ROUNDS"); do
    run python3 "$workdir/change.py" "$tree" $((SEED * 1000 + round)) "$OPERATIONS"
    wait_replicated data
    c=$(site_value data .point.seq)
    checked "$b" "$c"
    b=$c
done
checked "$first" "$b"
cd / || exit
note "passed"
