#!/usr/bin/env bash
# The workbench as its user meets it: the real program in tmux at three sizes, on the embedded
# model.  Every step waits for text on the screen.   test_workbench_user.sh ATTNSCOPE
set -u
program=$1
command -v tmux >/dev/null || { echo "[  SKIPPED ] tmux is not installed"; exit 0; }
work=$(mktemp -d)
n_servers=0
export HOME=$work XDG_STATE_HOME=$work/state XDG_CONFIG_HOME=$work/config LC_ALL=C.UTF-8 LANG=C.UTF-8
unset TMUX NO_COLOR ATTNSCOPE_PRESETS
mux() { tmux -L "attnscope-test-$$-$n_servers" -f /dev/null "$@" 2>>"$work/tmux.log"; }
# A new server each time: one that is ending would take the new session with it.
new_server() {
    mux kill-server
    n_servers=$((n_servers + 1))
}
trap 'mux kill-server; rm -rf "$work"' EXIT
screen() { mux capture-pane -p; }
keys() { mux send-keys "$@"; }

# wait_for REGEX: until the screen shows it, at most 3 minutes (a sanitizer on a busy machine).
wait_for() {
    local i
    for ((i = 0; i < 3600; i++)); do
        screen | grep -qE -- "$1" && return 0
        sleep 0.05
    done
    return 1
}

# Esc on its own: with a key right behind it, it would be an Alt key.
escape() {
    keys Escape
    sleep 0.15
}

# step NAME REGEX: the screen must come to show it.
step() {
    if wait_for "$2"; then
        echo "[       OK ] $size $1"
    else
        echo "[  FAILED  ] $size $1: want /$2/ on the screen:"
        screen
        exit 1 # every later step stands on this one
    fi
}

start() { # start ARGS...: a shell that runs the program
    new_server
    mux new-session -d -x "${size%x*}" -y "${size#*x}" "PS1='shell> ' bash --norc --noprofile -i"
    wait_for 'shell>'
    keys -l "$program $*"
    keys Enter
}

for size in 80x24 120x40 200x50; do
    start
    step first_run_is_ready_with_a_sample 'ready'
    keys r
    step a_question_is_answered 'Paris'
    step the_run_ends 'done'
    keys F4
    keys j l
    step a_parameter_is_changed 'local +(17|18|20|24|32)|window.* (17|18|20|24|32)'
    keys u
    escape
    step undo_brings_it_back 'local +16'
    keys i
    keys -l 'What is the Eiffel Tower?'
    step typed_text_is_echoed 'Q> What is the Eiffel Tower\?'
    keys Enter
    step an_asked_question_joins_the_list '3/3|Q3/3'
    step and_is_answered 'done'
    escape
    keys '?'
    step help_lists_the_actions 'type to filter|Undo'
    keys -l 'redo'
    step help_is_filtered_as_one_types 'Does again'
    keys BSpace BSpace BSpace BSpace
    keys -l 'mass recall'
    keys Enter
    step help_defines_the_figures 'softmax mass that falls'
    escape
    escape
    keys q
    step leaving_gives_the_shell_back 'shell> *$'
    keys -l 'stty -a | grep -c " echo .*"; stty -a | grep -o "[-]*icanon"'
    keys Enter
    step the_terminal_is_as_before '^icanon'
done

for size in 80x24 120x40 200x50; do
    start --sample facts-12k --stack sink:4,local:64
    step a_long_sample_loads 'ready'
    keys r
    step progress_is_shown 'prefill +[0-9]+%'
    keys C-c
    step ctrl_c_ends_the_run_only 'partial|stopped|cancelled'
    keys r
    step it_can_be_asked_again 'done'
    keys q
    step and_left 'shell> *$'
done

size=80x24
for ((i = 0; i < 3000; i++)); do echo "Line $i of the log says nothing new."; done >"$work/long.txt"
start --context "$work/long.txt" --question "'What does it say?'"
step a_long_context_is_ready 'ready'
keys r
step what_does_not_fit_is_told_with_what_to_do_here ':keep'
escape
keys :
keys -l 'keep tail'
keys Enter
step keep_is_set 'the end of a too long context is kept'
keys :
keys -l 'max-context 300'
keys Enter
step and_the_limit 'max-context 300'
keys r
step then_it_is_answered 'done'
step and_the_context_is_as_short_as_asked 'ctx [23][0-9][0-9]/'
keys q
step and_left 'shell> *$'
start resume
step the_session_is_back 'ready'
keys r
step and_is_asked_with_the_same_limits 'done'
keys q
step and_left_again 'shell> *$'

# Without a device nothing runs; R starts the program again, with the same options, on the session.
export CUDA_VISIBLE_DEVICES=
start --backend cuda --threads 1 --color 16 --sample needle-4k
step no_device_is_told 'ENGINE ERROR'
escape
keys r
step what_cannot_run_says_what_can_be_done 'cannot run: R restarts'
keys R
for ((i = 0; i < 600; i++)); do
    running=$(cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' ')
    case $running in
    *"attnscope resume --backend=cuda --threads=1 --color=16 -- $work/state/"*) break ;;
    esac
    sleep 0.05
done
if [ "$i" = 600 ]; then
    echo "[  FAILED  ] $size r_goes_on_with_its_options: $running"
    exit 1
fi
echo "[       OK ] $size r_goes_on_with_its_options"
step on_the_session 'magic number'
step where_nothing_runs_either 'ENGINE ERROR'
escape
keys q
step and_left 'shell> *$'
unset CUDA_VISIBLE_DEVICES

name=$(printf 'evil\033]0;owned\007\033[31m.txt')
printf 'red \033[31m and \033]2;owned\007 bell \007 and\000 zero. The code is 417.\n' >"$work/$name"
head -c 200000 /dev/zero >>"$work/$name" # a binary file: read past its end if taken for a string
new_server
mux new-session -d -x 80 -y 24 "cd '$work' && HOSTILE=\$(ls | grep evil) &&
    '$program' --context \"\$HOSTILE\" --max-context 500 --question 'What is the code?'; cat"
step hostile_text_is_ready 'ready'
keys r
step and_answered 'done'
if [ "$(mux display-message -p '#{pane_title}')" = owned ] || screen | grep -q $'\033'; then
    echo "[  FAILED  ] $size hostile text reached the terminal"
    exit 1
fi
echo "[       OK ] $size no escape of a file or its name reaches the terminal"
