#!/usr/bin/env bash
# The GPU benchmarks of docs/benchmarks.md, one JSON object a line, and their peers.
#   gpu.sh PROGRAM OUT [quick]
# OUT gets the lines; `quick` leaves out the peers and the long prefill.
set -u
program=$1
out=$2
quick=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
: >"$out"

bench() {
    "$program" bench "$@" --json | tr -d '\n' | sed 's/  */ /g' >>"$out" || echo "failed: $*" >&2
    echo >>"$out"
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader
big=(--shape llama-3.1-8b)
bench gemv "${big[@]}"
for ctx in 512 32768 131071; do
    bench decode "${big[@]}" --ctx $ctx --stack sink:128,local:5%
done
for ctx in 4096 32768; do
    bench attention "${big[@]}" --ctx $ctx --stack sink:128,local:5%
done
for stack in sink:128,local:5% random:5%:share=group random:10%:share=group random:5% \
    oracle-topk:10%:share=group oracle-topk:10%; do
    bench attention "${big[@]}" --ctx 131071 --stack "$stack"
done
for stack in oracle-topk:10% oracle-topk:10%:share=group random:5%:share=group; do
    bench select "${big[@]}" --ctx 131071 --stack "$stack"
done
bench prefill "${big[@]}" --ctx 32768 --repeat 3
bench decode --shape llama-3.2-1b --ctx 512
bench decode --shape qwen3-0.6b --ctx 32768 --stack sink:128,local:5%
[ "$quick" = quick ] && exit 0

# The most GPU memory that a prefill of 128k tokens holds.
used=$(mktemp)
nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 200 >"$used" &
poll=$!
bench prefill "${big[@]}" --ctx 131072 --repeat 1
kill $poll
echo "gpu_memory_mib_most $(sort -n "$used" | tail -1)"
rm -f "$used"
python3 "$here/load_model.py" "$program"
python3 "$here/peers.py" --ours "$out" --out "${out%.*}.peers.json"
