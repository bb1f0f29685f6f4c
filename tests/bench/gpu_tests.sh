#!/usr/bin/env bash
# Runs the tests of the cuda backend where they were built or copied to, plain and under
# compute-sanitizer.
#   gpu_tests.sh FOLDER [memcheck|racecheck|initcheck|synccheck ...]
# FOLDER is a build folder, or holds the test programs and attnscope-cuda.so (and lib/, if the
# libraries came along).  Without a tool all tests run; with tools those of the kernels.
# JOBS=N runs N at a time, TEST_TIMEOUT=S gives each S seconds; under a tool each test of a program
# is a run of its own, since racecheck takes minutes for a whole one.
# Racecheck's hazards that are wholly within nvjet, cuBLAS's own kernels, do not count: version 2025.3
# reports some between reads and copies that their barriers order.
# Who narrows racecheck down to some kernels must name random_kernel too: version 2025.3 reports an
# illegal access of a kernel of clusters that it does not watch while it watches another.
set -u
folder=$(cd "$1" && pwd)
shift
export ATTNSCOPE_CUDA_MODULE="$folder/attnscope-cuda.so"
export LD_LIBRARY_PATH="$folder/lib:${LD_LIBRARY_PATH:-}"
shopt -s nullglob
tests=("$folder"/test_cuda_* "$folder"/tests/test_cuda_*)
failures=$(mktemp)
trap 'rm -f "$failures"' EXIT

report() { # NAME STATUS SECONDS LOG
    printf '%-96s %-8s %4d s\n' "$1" "$2" "$3"
    case $2 in FAILED) echo "$1" >>"$failures"; grep -E "FAILED|Error|error|fail|=====" "$4" | head -${LINES_SHOWN:-12} ;; esac
}

only_nvjet_races() { # LOG of a tool that found errors
    grep -q "\[  PASSED  \] 1 test" "$1" && grep -q "Race reported" "$1" &&
        ! grep "^========= Error" "$1" | grep -v "Race reported.*nvjet" | grep -q .
}

start() { # NAME COMMAND...: as soon as fewer than JOBS run
    case $1 in *test_cuda_device*) # it measures the GPU's free memory
        wait
        run "$@"
        return
        ;;
    esac
    while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-1}" ]; do
        wait -n
    done
    run "$@" &
}

run() { # NAME COMMAND...
    local name=$1 log start=$SECONDS status
    shift
    log=$(mktemp)
    timeout "${TEST_TIMEOUT:-240}" "$@" >"$log" 2>&1
    status=$?
    [ $status = 9 ] && only_nvjet_races "$log" && status=0
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
        start "$(basename "$test")" "$test"
    done
    both=({maskers,indexes,magicpig,decode,selections,models,embedded}_golden double_sparsity engine)
    for test in "${both[@]/#/$folder/test_}" "${both[@]/#/$folder/tests/test_}"; do
        [ -f "$test" ] && ATTNSCOPE_TEST_BACKEND=cuda start "$(basename "$test") cuda" "$test"
    done
fi
for test in "${tests[@]}"; do
    [ $# -eq 0 ] && break
    case $test in *faults) continue ;; esac # makes calls fail on purpose
    for name in $("$test" 2>&1 | sed -n 's/^\[ RUN *\] //p'); do
        for tool in "$@"; do
            ATTNSCOPE_TEST=$name start "$tool $(basename "$test") $name" compute-sanitizer \
                --tool "$tool" --error-exitcode 9 --report-api-errors no --print-limit 1000 "$test"
        done
    done
done
wait
[ ! -s "$failures" ]
