#!/usr/bin/env bash
# Makes docs/pictures by driving the program as a person would.   docs/pictures.sh ATTNSCOPE
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")/pictures"
state=$(mktemp -d)
tmux=(tmux -L "attnscope-pictures-$$" -f /dev/null)
trap '"${tmux[@]}" kill-server 2>/dev/null || true; rm -rf "$state"' EXIT

# wait_for REGEX: until the screen shows it.
wait_for() {
    for ((i = 0; i < 600; i++)); do
        "${tmux[@]}" capture-pane -p | grep -qE -- "$1" && return
        sleep 0.05
    done
    echo "the screen never showed: $1" >&2
    "${tmux[@]}" capture-pane -p >&2
    exit 1
}

# press KEY...
press() {
    "${tmux[@]}" send-keys "$@"
}

# picture NAME: of the screen as it is.
picture() {
    rm -f "$1"
    press ":" "picture $1" Enter
    wait_for "picture written to $1"
    for ((i = 0; i < 300; i++)); do # which is no part of the next one
        "${tmux[@]}" capture-pane -p | grep -q "picture written" || return 0
        sleep 0.05
    done
}

"${tmux[@]}" new-session -d -x 120 -y 40 env HOME="$state" XDG_STATE_HOME="$state" \
    XDG_CONFIG_HOME="$state" LANG=C.UTF-8 "$program" --theme dark --sample needle-4k \
    --stack sink:4,local:64 --stack oracle-topk:5% --backend cpu
wait_for '● ready'
press r
wait_for '● done'
wait_for 'trial: recall'
picture answers.svg
press 2
wait_for 'worst'
press w
picture heat.svg
press Enter
wait_for 'MISSED'
picture context.svg
