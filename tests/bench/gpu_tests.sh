#!/usr/bin/env bash
# Runs the tests of the cuda backend where they were built or copied to, plain and under
# compute-sanitizer.
#   gpu_tests.sh FOLDER [memcheck|racecheck|initcheck|synccheck ...]
# FOLDER is a build folder, or holds the test programs and attnscope-cuda.so (and lib/, if the
# libraries came along).  Without a tool all tests run; with tools those of the kernels.
set -u
folder=$(cd "$1" && pwd)
shift
export ATTNSCOPE_CUDA_MODULE="$folder/attnscope-cuda.so"
export LD_LIBRARY_PATH="$folder/lib:${LD_LIBRARY_PATH:-}"
shopt -s nullglob
tests=("$folder"/test_cuda_* "$folder"/tests/test_cuda_*)
failed=0

report() { # NAME STATUS SECONDS LOG
    printf '%-52s %-8s %4d s\n' "$1" "$2" "$3"
    case $2 in FAILED) failed=$((failed + 1)); grep -E "FAILED|Error|error|fail|=====" "$4" | head -${LINES_SHOWN:-12} ;; esac
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
    for test in "${tests[@]}"; do
        run "$(basename "$test")" "$test"
    done
    for test in "$folder"{,/tests}/test_{maskers_golden,models_golden,embedded_golden,engine}; do
        [ -f "$test" ] && ATTNSCOPE_TEST_BACKEND=cuda run "$(basename "$test") cuda" "$test"
    done
fi
for tool in "$@"; do
    for test in "${tests[@]}"; do
        case $test in *faults) continue ;; esac # makes calls fail on purpose
        run "$tool $(basename "$test")" compute-sanitizer --tool "$tool" --error-exitcode 9 \
            --report-api-errors no --print-limit 5 "$test"
    done
done
exit $((failed > 0))
