#!/usr/bin/env bash
# Runs the tests of the cuda backend where they were built or copied to, plain and under
# compute-sanitizer.
#   gpu_tests.sh FOLDER [memcheck|racecheck|initcheck|synccheck ...]
# FOLDER holds the test programs and attnscope-cuda.so.
set -u
folder=$(cd "$1" && pwd)
shift
export ATTNSCOPE_CUDA_MODULE="$folder/attnscope-cuda.so"
export LD_LIBRARY_PATH="$folder/lib:${LD_LIBRARY_PATH:-}"
failed=0

report() { # NAME STATUS SECONDS LOG
    printf '%-52s %-8s %4d s\n' "$1" "$2" "$3"
    case $2 in FAILED) failed=$((failed + 1)); grep -E 'FAILED|Error|error|fail|=====' "$4" | head -${LINES_SHOWN:-12} ;; esac
}

run() { # NAME COMMAND...
    local name=$1 log start=$SECONDS status
    shift
    log=$(mktemp)
    timeout "${TEST_TIMEOUT:-240}" "$@" >"$log" 2>&1
    status=$?
    case $status in
    0) report "$name" ok $((SECONDS - start)) "$log" ;;
    77) report "$name" skipped $((SECONDS - start)) "$log" ;;
    *) report "$name" FAILED $((SECONDS - start)) "$log" ;;
    esac
    [ -n "${OUT:-}" ] && cp "$log" "$OUT/$(echo "$name" | tr -c 'A-Za-z0-9_\n' '-').log"
    rm -f "$log"
}

if [ $# -eq 0 ]; then
    for test in "$folder"/test_cuda_*; do
        run "$(basename "$test")" "$test"
    done
    for test in maskers_golden models_golden embedded_golden; do
        [ -x "$folder/test_$test" ] &&
            ATTNSCOPE_TEST_BACKEND=cuda run "test_$test cuda" "$folder/test_$test"
    done
fi
for tool in "$@"; do
    for test in "$folder"/test_cuda_*; do
        run "$tool $(basename "$test")" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            --print-limit 5 "$test"
    done
done
exit $((failed > 0))
