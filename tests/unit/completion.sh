#!/bin/bash
# Completion in bash, as bash does it: the function that is registered for repl is called with the
# words of a command line, and what it offers is compared.
#
#   completion.sh REPL
set -eu -o pipefail

repl=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "completion: $*" >&2; exit 1; }

"$repl" help --completion bash >"$work/script"
cd "$work"
mkdir place
touch "place/two words" place/twofold

offered() { # WORDS...: the last is being written
    bash -c 'set -u -o pipefail
        . ./script || exit 1
        registered=$(complete -p repl)
        [[ $registered == *"-F _repl "* ]] || exit 1
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _repl
        [ ${#COMPREPLY[@]} = 0 ] || printf "%s\n" "${COMPREPLY[@]}"' bash "$@" | LC_ALL=C sort
}
expect() { # EXPECTED WORDS...
    local expected=$1 found
    shift
    found=$(offered "$@" | paste -sd ,)
    [ "$found" = "$expected" ] || fail "$*: '$found', not '$expected'"
}

expect restore repl res
expect --help,--version repl -
expect --onto-source,--overwrite,--owner repl restore db1 --o
expect numeric repl restore db1 --owner nu
expect skip repl restore db1 --owner = sk
expect numeric,skip repl restore db1 --owner =
expect "place/two words,place/twofold" repl restore db1 --to place/tw
expect place/twofold repl restore --config = place/twof
expect place/twofold repl inspect place/twof
expect --records repl inspect --re
expect "" repl restore db1 --at pla
expect "" repl restore pla
expect restore repl help res
expect config repl help co
expect bash repl help --completion b
expect "" repl nonesuch --

# All verbs, and of each all its options, as its help has them.
verbs=$("$repl" --help | sed -n '/^Verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p' | LC_ALL=C sort)
[ "$(wc -w <<<"$verbs")" -ge 10 ] || fail "verbs: $verbs"
[ "$(offered repl "" | grep -v -e --)" = "$verbs" ] || fail "not all verbs are offered"
for verb in $verbs; do
    "$repl" "$verb" --help | sed -n 's/^  \(--\?[a-z-]*\)\( .*\)\?$/\1/p' | LC_ALL=C sort >options
    offered repl "$verb" - >found
    diff options found || fail "options of $verb"
done

status=0
"$repl" help --completion csh 2>message || status=$?
[ "$status" = 64 ] && grep -q 'there is none for "csh"' message || fail "csh: $status: $(cat message)"
