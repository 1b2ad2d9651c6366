#!/bin/bash
# Verbs on a store with a day of history: what they print with --json is what its schema in
# docs/formats/schemas/ says and nothing else, only data is on standard output, no escape sequence is
# anywhere, the text is that of transcripts/, and failures have their exit code and a message that
# begins with the verb.
#
#   day.sh MAKE_DAY REPL SOURCE [--write]: with it, transcripts/ is made anew
set -eu -o pipefail

make_day=$1 repl=$2 source=$3 write=${4:-}
# In memory where it can be: each of some 1,900 segments is synced.
work=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$work"' EXIT
fail() { echo "day: $*" >&2; exit 1; }
export TZ=UTC
unset REPL_TEST_SEED
cd "$work"
"$make_day" store || fail "no store was made"

expect() { # EXIT-CODE VERB WORDS...: out and err are what it printed
    local expected=$1 status=0
    shift
    "$repl" "$@" >out 2>err </dev/null || status=$?
    [ "$status" = "$expected" ] || fail "$*: exit code $status, not $expected: $(cat err)"
    ! grep -q $'\x1b' out err || fail "$*: an escape sequence, and no terminal"
    [ "$expected" = 0 ] || [ "$expected" = 1 ] || grep -q "^repl $1: " err || fail "$*: $(cat err)"
}
valid() { # SCHEMA VERB WORDS...
    local schema=$source/docs/formats/schemas/$1.json
    shift
    expect 0 "$@" --json
    /usr/bin/python3 - "$schema" out <<'END' || fail "$*: not what $schema says"
import json, sys
import jsonschema
schema, instance = (json.load(open(path)) for path in sys.argv[1:])
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
errors = list(validator.iter_errors(instance))
for error in errors[:5]:
    print(error.json_path, error.message[:300], file=sys.stderr)
# A field that goes or is called otherwise is found.
for name in instance:
    changed = {("renamed" if key == name else key): value for key, value in instance.items()}
    if validator.is_valid(changed):
        errors.append(name)
        print(f"{name}: it may be renamed", file=sys.stderr)
sys.exit(bool(errors))
END
}

transcript() { # NAME: standard input is what was printed
    local golden=$source/tests/golden/transcripts/$1.txt
    [ -z "$write" ] || { cat >"$golden"; return; }
    diff "$golden" - || fail "$1: otherwise than in $golden (--write, if it is meant)"
}

valid points points data --store store
jq -e '[.timeline[] | select(.type == "point")] | length == 1795' out >/dev/null ||
    fail "points: $(jq '[.timeline[] | select(.type == "point")] | length' out)"
jq -e '[.timeline[] | select(.trouble.kind == "encryption" and .seq == 64800)] | length == 1' out \
    >/dev/null || fail "the jump is not marked"
valid mark mark data --list --store store
jq -e '[.names[].name] == ["before the upgrade", "noon"] and .proven_seq == 10800' out >/dev/null ||
    fail "names: $(cat out)"
valid diff diff data 7200 10800 --store store

expect 0 points data --store store
[ ! -s err ] || fail "points: $(cat err)"
grep -q "^ *64740 .*last point before trouble (point 64800)$" out || fail "points: no last point before"
expect 0 restore data --at "before trouble" --to restored --store store --yes
[ "$(head -c 100 restored | tr -d a | wc -c)" -lt 20 ] || fail "what was restored is from behind the jump"

# All but the end, which says how long ago that is.
expect 0 points data --store store
{ head -5 out; grep -C 2 "LOOKS LIKE" out; grep -e '"' -e proven out; } | transcript points
expect 0 mark data --list --store store
transcript mark_list <out
expect 0 diff data 7200 7320 --store store
transcript diff <out

# --- failures
"$repl" keygen --name nobody key >/dev/null 2>&1
touch there
site="--fingerprint SHA256:$(printf %064d 0) --key key"
{
    while read -r code words; do
        # shellcheck disable=SC2086
        expect "$code" $words
        echo "\$ repl $words"
        sed "s|$work|.|g" err
        echo "exit code $code"
    done <<END
64 points
64 points data --store store --nonsense
64 points data other --store store
64 restore data --at nonsense --to other --store store --yes
64 diff data 7200 --store store
2 points data --site 127.0.0.1:1 $site
4 points data --store nowhere
4 points other --store store
4 diff data 7200 7201 --store store
5 restore data --to there --store store --yes
END
} | transcript failures

segment=$(find store -name '*.seg' | LC_ALL=C sort | tail -1)
printf 'damaged' | dd of="$segment" bs=1 seek=100 conv=notrunc status=none
expect 4 verify data --store store
