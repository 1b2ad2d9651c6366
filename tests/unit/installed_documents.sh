#!/bin/bash
# What an installation brings beside the program: a manual page for each verb, which man formats
# without a warning and which has each option, and completion where the shells look for it.
#
#   installed_documents.sh CMAKE SOURCE REPL
set -eu -o pipefail

cmake=$1 source=$2 repl=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "installed_documents: $*" >&2; exit 1; }

install_to() { # PREFIX
    DESTDIR=$work "$cmake" -D CMAKE_INSTALL_PREFIX="$1" -D repl_program="$repl" \
        -P "$source/packaging/install_documents.cmake" >/dev/null || fail "cannot install to $1"
}
install_to /usr
install_to /usr/local
for file in bash-completion/completions/repl fish/vendor_completions.d/repl.fish \
    zsh/vendor-completions/_repl man/man1/repl.1 man/man5/repl.conf.5; do
    [ -s "$work/usr/share/$file" ] || fail "$file is not there"
done
[ -s "$work/usr/local/share/zsh/site-functions/_repl" ] || fail "zsh: site-functions/_repl"

format() { # PAGE: as text
    MANWIDTH=100 LC_ALL=C.UTF-8 man --warnings=w --no-hyphenation -l "$1" 2>"$work/warnings" |
        sed 's/.\x08//g; s/\x1b\[[0-9;]*m//g; s/  *- / - /'
    [ ! -s "$work/warnings" ] || fail "$1: $(cat "$work/warnings")"
}
man1=$work/usr/share/man/man1
verbs=$("$repl" --help | sed -n '/^Verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p')
[ "$(wc -w <<<"$verbs")" -ge 10 ] || fail "verbs: $verbs"
format "$man1/repl.1" >"$work/program"
format "$work/usr/share/man/man5/repl.conf.5" | grep -q '^ *rpo' || fail "repl.conf(5) has no rpo"
for verb in $verbs; do
    grep -q "^ *repl-$verb(1)" "$work/program" || fail "repl(1) does not name repl-$verb(1)"
    format "$man1/repl-$verb.1" >"$work/page"
    grep -q "^ *repl-$verb - " "$work/page" || fail "repl-$verb(1) has no name"
    for option in $("$repl" "$verb" --help | sed -n 's/^  \(--\?[a-z-]*\)\( .*\)\?$/\1/p'); do
        grep -q -e "^ *$option\( \|\$\)" "$work/page" || fail "repl-$verb(1): $option"
    done
done
[ "$(find "$man1" -type f | wc -l)" = $(($(wc -w <<<"$verbs") + 1)) ] || fail "pages of no verb"
