#!/usr/bin/env bash
# What a GPU must keep besides speed, each in bounded time and as one JSON line that says `ok`:
# greedy runs repeat, keys echo while a long prefill runs, what does not fit is refused with what
# is free, and a prefill holds no more memory than weights, cache and 1.5 GiB.  At most 4 minutes.
#   gpu_checks.sh PROGRAM OUT [TOKENIZER_FOLDER]
# OUT gets the lines.  Needs nvidia-smi, and 1.1 GB in TMPDIR for a model of random weights.
# BACKEND=cpu LAYERS=2 CONTEXT=65536 STEPS=100 tries it without a GPU, less the memory.
set -u
here=$(cd "$(dirname "$0")" && pwd)
program=$(realpath "$1")
out=$2
tokenizer=${3:-$here/../../presets/model}
backend=${BACKEND:-cuda}
context=${CONTEXT:-131072}
folder=$(mktemp -d)
poll=
trap '[ -n "$poll" ] && kill $poll; rm -rf "$folder"' EXIT
failed=0
: >"$out"

tell() { # LINE
    echo "$1" | tee -a "$out"
    case $1 in *'"ok": true'*) ;; *) failed=$((failed + 1)) ;; esac
}

check() { # NAME SECONDS COMMAND...: tells the line that the command prints
    local name=$1 seconds=$2 line
    shift 2
    line=$(timeout -k 5 "$seconds" "$@" | tail -1)
    [ -n "$line" ] ||
        line="{\"check\": \"$name\", \"ok\": false, \"why\": \"no result; it had $seconds s\"}"
    tell "$line"
}

refused() { # NAME WORDS COMMAND...: must exit with 5 and a sentence that holds WORDS
    local name=$1 words=$2 status sentence ok=false
    shift 2
    timeout -k 5 20 "$@" >/dev/null 2>"$folder/said"
    status=$?
    sentence=$(tail -1 "$folder/said")
    sentence=${sentence//\\/\\\\}
    sentence=${sentence//\"/\\\"}
    [[ $status -eq 5 && $sentence == *"$words"* ]] && ok=true
    tell "{\"check\": \"$name\", \"ok\": $ok, \"exit_code\": $status, \"sentence\": \"$sentence\"}"
}

used_mib=(nvidia-smi --query-gpu=memory.used '--format=csv,noheader,nounits')

memory() { # of a prefill of Llama-3.1-8B's shape
    local status most before params weights cache bound ok=false
    before=$("${used_mib[@]}" | head -1)
    "${used_mib[@]}" -lms 100 >"$folder/used" &
    poll=$!
    timeout -k 5 90 "$program" bench prefill --shape llama-3.1-8b --ctx "$context" --repeat 1 \
        --backend "$backend" --json >"$folder/prefill"
    status=$?
    kill $poll
    poll=
    most=$(sort -n "$folder/used" | tail -1)
    params=$((2 * 128256 * 4096 + 32 * (6144 * 4096 + 4096 * 4096 + 3 * 14336 * 4096)))
    weights=$((2 * params >> 20))
    cache=$((context * 32 * 2 * 8 * 128 * 2 >> 20))
    bound=$((weights + cache + 1536))
    [[ $status -eq 0 && $most -gt $before && $((most - before)) -le $bound ]] && ok=true
    tell "{\"check\": \"memory\", \"ok\": $ok, \"exit_code\": $status,\
 \"context_tokens\": $context, \"most_mib\": $most, \"before_mib\": $before,\
 \"weights_mib\": $weights, \"cache_mib\": $cache, \"weights_cache_and_1536_mib\": $bound}"
}

# Numbers, since none is less than a token.
seq "$context" | tr '\n' ' ' >"$folder/context"
seq 2000000 | tr '\n' ' ' >"$folder/too_long"
make_model=(python3 "$here/random_checkpoint.py")
"${make_model[@]}" "$folder/narrow" narrow ${LAYERS:+--layers $LAYERS} --tokenizer "$tokenizer" &&
    "${make_model[@]}" "$folder/huge" llama-3.1-405b --hollow --tokenizer "$tokenizer" || exit 1

check repeat 60 python3 "$here/repeat.py" "$program" "$folder/narrow" --backend "$backend" \
    --context "$folder/context" --steps "${STEPS:-1000}"
check echo 40 python3 "$here/terminal.py" "$program" --model "$folder/narrow" \
    --backend "$backend" --context "$folder/context" --context-tokens "$context"
refused too_large "parameters would fit" "$program" ask "$folder/huge" --backend "$backend" \
    --question 'Who?'
refused too_long "tokens of context fit" "$program" ask "$folder/narrow" --backend "$backend" \
    --context "$folder/too_long" --max-context 4000000 --keep head --question 'Who?'
[ "$backend" = cuda ] && memory
exit $((failed > 0))
