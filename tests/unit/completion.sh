#!/bin/bash
# Completion in bash, zsh and fish, as these do it: in bash the function that is registered for repl is
# called with the words of a command line; fish says what it would offer; zsh is asked for its list at a
# terminal of its own.
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
expect bash repl help --completion ba
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

# --- fish: each offer is a line, with a tab before what it means
"$repl" help --completion fish >script.fish
fish_offered() { # LINE
    HOME=$work fish --no-config -c 'source script.fish; complete -C "$argv[1]"' "$1" | cut -f1 | LC_ALL=C sort
}
expect_fish() { # EXPECTED LINE
    local found
    found=$(fish_offered "$2" | paste -sd ,)
    [ "$found" = "$1" ] || fail "fish: $2: '$found', not '$1'"
}
expect_fish restore "repl res"
expect_fish --onto-source,--overwrite,--owner "repl restore db1 --o"
expect_fish numeric "repl restore db1 --owner nu"
expect_fish --owner=numeric,--owner=skip "repl restore db1 --owner="
expect_fish "place/two words,place/twofold" "repl restore db1 --to place/tw"
expect_fish place/twofold "repl inspect place/twof"
expect_fish "" "repl restore db1 --at pla"
expect_fish restore "repl help res"
for verb in $verbs; do
    "$repl" "$verb" --help | sed -n 's/^  \(--\?[a-z-]*\)\( .*\)\?$/\1/p' | LC_ALL=C sort >options
    { fish_offered "repl $verb -"; fish_offered "repl $verb --"; } | LC_ALL=C sort -u >found
    diff options found || fail "fish: options of $verb"
done

# --- zsh: CTRL-D lists what there is
"$repl" help --completion zsh >_repl
cat >list.zsh <<'EOF'
zmodload zsh/zpty
zpty shell "TERM=dumb HOME=$PWD zsh -f -i"
ask() { # LINE END [-n]: all that comes until the end does
    local text part
    zpty -w $3 shell "$1"
    for _ in {1..200}; do
        while zpty -r -t shell part; do text+=$part; done
        [[ $text == *"$2"* ]] && break
        sleep 0.02
    done
    print -r -- "$text"
}
ask 'PS1=; fpath=($PWD $fpath); autoload -Uz compinit; compinit -D -u; LISTMAX=9999; stty columns 200; echo rea""dy' ready >/dev/null
for line; do
    ask "$line"$'\C-d' $'\n' -n
    sleep 0.2
    ask $'\C-uecho li""sted' listed # and the list, if it came late
done
EOF
zsh_offered() { # LINE
    zsh -f ./list.zsh "$1" | tr -d '\r' >shown
}
zsh_offered "repl restore db1 --o"
for option in --onto-source --overwrite --owner; do
    grep -q -e "^$option " shown || { cat -A shown; fail "zsh: $option is not offered"; }
done
! grep -q -e "^--at " shown || fail "zsh: --at is offered"
zsh_offered "repl restore db1 --owner="
grep -q "numeric.*skip" shown || { cat -A shown; fail "zsh: the words of --owner"; }
zsh_offered "repl m"
grep -q "^mark .*" shown && grep -q "^mount " shown || { cat -A shown; fail "zsh: verbs"; }
