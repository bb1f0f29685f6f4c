#!/usr/bin/env bash
# The benchmarks of docs/benchmarks.md, one after another, on this machine.
#   run.sh BUILD-FOLDER
set -euo pipefail
cd "$(dirname "$0")/../.."
program=${1:-build}/attnscope

say() {
    printf '\n== %s\n' "$*"
}

bench() {
    say "attnscope bench $*"
    "$program" bench "$@"
}

date -u '+%Y-%m-%d %H:%M UTC'
grep -m1 'model name' /proc/cpuinfo || true
"$program" doctor | grep -E '^(device|threads|memory_gib)'

bench decode --shape llama-3.2-1b --ctx 16
bench prefill --shape llama-3.2-1b --ctx 512
bench prefill --shape embedded --ctx 12288
bench prefill --shape embedded --ctx 4096 --isa avx2
bench attention --shape llama-3.2-1b --ctx 8192 --stack sink:4,local:400
bench attention --shape llama-3.2-1b --ctx 8192 --stack random:5%
bench attention --shape llama-3.2-1b --ctx 8192 --stack oracle-topk:10%

say "ask --sample paris, five times, seconds of wall clock"
for _ in 1 2 3 4 5; do
    /usr/bin/env bash -c "TIMEFORMAT=%R; time $program ask --sample paris >/dev/null 2>&1"
done
say "ask --sample facts-12k --json, three lanes: peak resident kB and prefill"
python3 - "$program" <<'PY'
import json, resource, subprocess, sys
out = subprocess.run([sys.argv[1], "ask", "--sample", "facts-12k", "--stack", "sink:4,local:64",
                      "--stack", "sink:16,local:128,oracle-topk:5%", "--json"],
                     stdout=subprocess.PIPE, check=True).stdout
report = json.loads(out)
print("peak_rss_kb", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print("context_tokens", report["context_tokens"], "prefill_ms", report["prefill_ms"])
PY
