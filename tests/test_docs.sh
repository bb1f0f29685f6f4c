#!/usr/bin/env bash
# Documents that come from the program's tables are as the program makes them, and work.
#   test_docs.sh ATTNSCOPE
set -u
program=$(realpath "$1")
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work HF_HUB_CACHE=$work/hub XDG_STATE_HOME=$work/state
failed=0

# report NAME [WHY]: OK without a reason.
report() {
    if [ $# -eq 1 ]; then
        echo "[       OK ] $1"
    else
        echo "[  FAILED  ] $1: $2"
        failed=1
    fi
}

# --- As made -------------------------------------------------------------------------------------

"$source/docs/generate.sh" "$program" "$work/docs" || report "docs/generate.sh" "it failed"
while IFS= read -r file; do
    if diff -q "$work/docs/$file" "$source/docs/$file" >/dev/null 2>&1; then
        report "docs/$file is as the program makes it"
    else
        report "docs/$file is as the program makes it" "run docs/generate.sh build/attnscope"
    fi
done < <(cd "$work/docs" && find . -type f -printf '%P\n' | sort)

# --- The manual page -------------------------------------------------------------------------------

if command -v groff >/dev/null; then
    warnings=$(groff -man -Tutf8 -ww -z "$source/docs/attnscope.1" 2>&1 | head -3)
    [ -z "$warnings" ] && report "the manual page is sound" ||
        report "the manual page is sound" "$warnings"
else
    echo "[  SKIPPED ] the manual page is sound: groff is not here"
fi
missing=
for command in "" ask resume models stacks calibrate doctor bench completion manual; do
    # shellcheck disable=SC2086
    for option in $("$program" $command --help | grep -oE '^  --[a-z-]+' | grep -v -- --help); do
        grep -qF -- ".B \"${option//-/\\-}" "$source/docs/attnscope.1" ||
            missing+=" $command $option"
    done
done
[ -z "$missing" ] && report "the manual page has every option" ||
    report "the manual page has every option" "$missing"

# --- Completion ----------------------------------------------------------------------------------

# complete WORD...: what bash offers for the last word.
complete_words() {
    PATH=$(dirname "$program"):$PATH bash --norc -c '
        source "$1"
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _attnscope
        printf "%s\n" "${COMPREPLY[@]}"' bash "$source/docs/completions/attnscope.bash" "$@"
}

# offers NAME WANT WORD...: the offered words, sorted, begin with or hold WANT.
offers() {
    local name=$1 want=$2 got
    shift 2
    got=" $(complete_words "$@" 2>&1 | sort | tr '\n' ' ')"
    [[ $got == *" $want "* ]] && report "bash completes $name" ||
        report "bash completes $name" "want '$want', got '$got'"
}

offers "commands" "ask" "$program" as
offers "options of the workbench" "--theme" "$program" --th
offers "options of a command" "--assert" "$program" ask --as
offers "words of an option" "cpu cuda" "$program" ask --backend c
offers "stacks" "sink" "$program" ask --stack si
offers "samples" "needle-4k" "$program" --sample n
offers "what is measured" "decode" "$program" bench d
touch "$work/a file"
(cd "$work" && offers "files with blanks" "a file" "$program" ask --context "a f") || failed=1
if [ "$(complete_words "$program" resume --th)" = "--threads
--theme" ] || [ "$(complete_words "$program" resume --th | sort | tr '\n' ' ')" = "--theme --threads " ]; then
    report "bash offers a command its own options alone"
else
    report "bash offers a command its own options alone" "$(complete_words "$program" resume --th)"
fi
for shell in zsh fish; do
    script=$source/docs/completions/$([ $shell = zsh ] && echo _attnscope || echo attnscope.fish)
    if ! command -v $shell >/dev/null; then
        echo "[  SKIPPED ] $shell takes its completion: it is not here"
    elif why=$($shell -n "$script" 2>&1) && [ -z "$why" ]; then
        report "$shell takes its completion"
    else
        report "$shell takes its completion" "$why"
    fi
done
exit $failed
