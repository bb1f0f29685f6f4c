#!/usr/bin/env bash
# Bad input on the command line: each one sentence on stderr that says what and where, the
# documented exit code, and nothing on stdout.   test_cli.sh ATTNSCOPE
set -u
program=$1
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work/home XDG_STATE_HOME=$work/state HF_HUB_CACHE=$work/hub
mkdir -p "$HOME"
failed=0

# check NAME CODE REGEX COMMAND...
check() {
    local name=$1 code=$2 regex=$3 got
    shift 3
    timeout 20 "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    if [ $got -ne "$code" ]; then
        echo "[  FAILED  ] $name: exit code $got, want $code: $(head -c 300 "$work/err")"
    elif ! grep -qE -- "$regex" "$work/err"; then
        echo "[  FAILED  ] $name: want /$regex/, got: $(head -c 300 "$work/err")"
    elif [ "$(grep -c . "$work/err")" -ne 1 ]; then
        echo "[  FAILED  ] $name: want one line, got: $(head -c 300 "$work/err")"
    elif [ -s "$work/out" ]; then
        echo "[  FAILED  ] $name: something on stdout"
    else
        echo "[       OK ] $name"
        return
    fi
    failed=1
}

# expect NAME CODE COMMAND...: only the exit code.
expect() {
    local name=$1 code=$2 got
    shift 2
    timeout 60 "$@" >"$work/out" 2>"$work/err" </dev/null
    got=$?
    if [ $got -eq "$code" ]; then
        echo "[       OK ] $name"
    else
        echo "[  FAILED  ] $name: exit code $got, want $code: $(head -c 300 "$work/err")"
        failed=1
    fi
}

ask=("$program" ask --sample paris)

# Usage
check no_question 2 'question' "$program" ask
check unknown_option 2 'no option --wrong' "$program" ask --wrong
check missing_value 2 'needs a value' "$program" ask --question
check number_out_of_range 2 '--max-tokens 0: expected a whole number' "${ask[@]}" --max-tokens 0
check not_a_number 2 'expected a whole number' "${ask[@]}" --seed x
check unknown_setup 2 'expected one of B, A' "${ask[@]}" --setup C
check json_and_jsonl 2 'exclude' "${ask[@]}" --json --jsonl
check bad_assertion 2 'assert' "${ask[@]}" --assert 'wrong>=1'
check unknown_bench 2 'unknown benchmark' "$program" bench wrong
check no_terminal 2 'terminal' "$program"

check no_such_device 5 'cuda: .*(module|driver|GPU)' env CUDA_VISIBLE_DEVICES= "${ask[@]}" --backend cuda

# Stacks
check unknown_masker 2 'no masker "snik".*sink' "${ask[@]}" --stack snik:4
check parameter_out_of_range 2 'sink_size' "${ask[@]}" --stack sink:0
check unknown_parameter 2 'size' "${ask[@]}" --stack sink:4:wrong=1
check top_p_out_of_range 2 'top_p' "${ask[@]}" --stack oracle-topp:1.5
check hash_networks_in_a_pickle 4 'convert_hash_networks.py' "$program" bench attention --ctx 64 \
    --stack "hash:5%:weights=$source/tests/golden/hash_networks/table.pkl"
check two_samplers 2 'one sampling masker' "${ask[@]}" --stack random:0.1,random:0.2
check overlapping_layers 2 'layer 1 is in an earlier group' "${ask[@]}" --stack 'sink; layers 0-1: dense; layers 1: dense'
check layers_backwards 2 'the range 5-3 runs backwards' "${ask[@]}" --stack 'sink; layers 5-3: dense'
check layers_beyond_the_models 2 'names layer 8, but this model has 8 layers' "${ask[@]}" --stack 'sink; layers 7-8: dense'
check reuse_of_a_later_layer 2 'layer 3 does not come before layer 0' "${ask[@]}" --stack reuse:3
check bench_select_of_layers 2 'leave the stack.s groups of layers out' "$program" bench select --ctx 64 --stack tidal
check bench_of_layers_beyond 2 'names layer 8, but this model has 8 layers' "$program" bench attention \
    --shape embedded --stack 'sink; layers 8: dense'
expect bench_of_layers 0 "$program" bench attention --shape embedded --ctx 512 --repeat 2 --stack tidal
expect bench_decode_of_layers 0 "$program" bench decode --shape embedded --ctx 512 --repeat 2 --stack tidal
check debug_of_layers 2 'without groups of layers' "$program" debug attention \
    --tensors "$source/tests/golden/maskers/inputs.safetensors" --case gqa_q1_k257 --out "$work/o" --stack tidal
check broken_stack_json 2 'line 1' "${ask[@]}" --stack '[{"masker":"sink",}]'

check markdown_of_nothing 2 'goes with --describe' "$program" stacks --markdown
check describe_and_json 2 'exclude' "$program" stacks --describe --json
check describe_one_stack 2 'all maskers' "$program" stacks --describe sink:4
"$program" stacks --describe --markdown >"$work/maskers.md"
if cmp -s "$work/maskers.md" "$source/docs/maskers.md"; then
    echo "[       OK ] docs/maskers.md describes the maskers"
else
    echo "[  FAILED  ] docs/maskers.md is stale; write it with: attnscope stacks --describe --markdown > docs/maskers.md"
    failed=1
fi
if "$program" stacks --describe | awk 'length > 80 { exit 1 }'; then
    echo "[       OK ] the description fits 80 columns"
else
    echo "[  FAILED  ] stacks --describe has lines of more than 80 columns"
    failed=1
fi

# Presets: each runs on the embedded model
for preset in "$source"/presets/stacks/*.json; do
    name=$(basename "$preset" .json)
    expect "preset_$name" 0 "${ask[@]}" --stack "$name" --max-tokens 2
done

# Calibration
check nothing_to_calibrate 2 'needs the name of a masker' "$program" calibrate
check unknown_calibration 2 'nothing to calibrate of "quest"' "$program" calibrate quest --text x
check calibrate_without_text 2 'needs --text' "$program" calibrate double-sparsity
check calibrate_missing_text 4 'nowhere.txt: No such file' "$program" calibrate double-sparsity --text nowhere.txt
check calibrate_empty_text 4 'the text is empty' "$program" calibrate double-sparsity --text -
check calibrate_no_model 4 'nowhere' "$program" calibrate double-sparsity ./nowhere --text nowhere.txt
expect calibrate 0 "$program" calibrate double-sparsity --max-tokens 300 --text "$source/presets/samples/needle-4k.txt"
mv "$work/out" "$work/channels.json"
expect calibrated_channels_serve 0 "${ask[@]}" --stack "double-sparsity:50%:channels=$work/channels.json"
expect missing_channels 1 "${ask[@]}" --stack double-sparsity:9:channels=nowhere.json

# Files
check missing_context 4 'nowhere.txt: No such file' "$program" ask --context nowhere.txt --question x
check context_is_a_folder 4 'not a regular file' "$program" ask --context "$work" --question x
check missing_sample 2 'nowhere' "$program" ask --sample nowhere
check missing_session 4 'nowhere' "$program" resume ./nowhere.jsonl
echo hello >"$work/hello.jsonl"
check no_session 4 'not a session log' "$program" resume "$work/hello.jsonl"
check save_over_a_file 1 'File exists' "${ask[@]}" --save "$work/hello.jsonl"

# Models
fixture() { # fixture NAME: a copy of the embedded model to break
    rm -rf "${work:?}/$1"
    cp -r "$source/presets/model" "$work/$1"
    chmod -R u+w "$work/$1"
}
check missing_model 4 'nowhere' "$program" ask ./nowhere --question x
fixture shard && rm "$work/shard/model-00002-of-00003.safetensors"
check missing_shard 4 'model-00002-of-00003.safetensors' "$program" ask "$work/shard" --question x
fixture short && truncate -s -1000 "$work/short/model-00003-of-00003.safetensors"
check truncated_shard 4 'model-00003-of-00003.safetensors.*truncated: 1000 bytes' \
    "$program" ask "$work/short" --question x
fixture arch && sed -i 's/"llama"/"mamba"/' "$work/arch/config.json"
check unknown_architecture 4 'mamba' "$program" ask "$work/arch" --question x
fixture tok && rm "$work/tok/tokenizer.json"
check missing_tokenizer 4 'tokenizer' "$program" ask "$work/tok" --question x
fixture tmpl && printf '{%% for x in %%}' >"$work/tmpl/chat_template.jinja"
check template_error 4 'chat_template.jinja' "$program" ask "$work/tmpl" --question x
fixture raise && printf '{{ raise_exception("no such role") }}' >"$work/raise/chat_template.jinja"
check template_raises 4 'no such role' "$program" ask "$work/raise" --question x
fixture conf && echo '{' >"$work/conf/config.json"
check broken_config 4 'config.json: line' "$program" ask "$work/conf" --question x
fixture large && sed -i 's/"added_tokens": *\[/&{"id":30000,"content":"<|far|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},/' "$work/large/tokenizer.json"
check tokenizer_larger_than_the_model 4 'token 30000.*below 8192' "$program" ask "$work/large" --question x
mkdir "$work/pickle" && cp "$source/presets/model/config.json" "$work/pickle"
touch "$work/pickle/pytorch_model.bin"
check only_pickle 4 'pickle' "$program" ask "$work/pickle" --question x

# Too long, and the output's end
yes 'one two three four five six seven eight' | head -c 400000 >"$work/long.txt"
check context_too_long 2 'tokens.*--(keep|max-context)' \
    "$program" ask --context "$work/long.txt" --question x
expect full_disk_for_stdout 1 bash -c "'$program' ask --sample paris >/dev/full"
expect closed_stdout 1 bash -c "'$program' ask --sample paris >&-"
expect full_disk_for_the_log 1 bash -c "ulimit -f 1; '$program' ask --sample paris --save '$work/full.jsonl'"
if grep -q 'Paris' "$work/out"; then
    echo "[       OK ] a full disk loses no answer"
else
    echo "[  FAILED  ] a full disk: the answer was not printed"
    failed=1
fi
expect assertion_holds 0 "${ask[@]}" --assert 'density<=1 && jaccard>=0'
expect assertion_fails 3 "${ask[@]}" --assert 'jaccard>=2'
# shows NAME REGEX COMMAND...: exit code 0 and the text on stdout.
shows() {
    local name=$1 regex=$2
    shift 2
    if "$@" 2>/dev/null | grep -qE -- "$regex"; then
        echo "[       OK ] $name"
    else
        echo "[  FAILED  ] $name: want /$regex/ from: $*"
        failed=1
    fi
}

shows a_stack_is_written_in_the_references_form '"type": *"SinkMaskerConfig"' "$program" stacks sink:4,local:64
shows and_in_the_short_form '^sink:4,local:64$' "$program" stacks \
    '{"masker_configs":[{"type":"SinkMaskerConfig","params":{"sink_size":4}},{"type":"LocalMaskerConfig","params":{"window_size":64}}]}'
shows groups_of_layers_in_the_short_form '^sink:4; layers 0-1: dense$' "$program" stacks 'sink:4;layers 1,0:dense'
shows groups_of_layers_in_json '"layers": *\[{"layers":"0-1","maskers":\[\]}\]' "$program" stacks 'sink:4;layers 0-1:dense'
shows the_references_form_has_no_layers '^the reference project.s form has one list' "$program" stacks tidal
shows layers_attend_as_their_stacks '"density": *1' "${ask[@]}" --json --stack 'sink:1; layers 0-7: dense'
shows layers_take_keys_over 'Paris' "${ask[@]}" --stack tidal
shows help_defines_the_figures 'mass recall: .*softmax mass' "$program" ask --help
expect doctor_is_healthy 0 "$program" doctor --json
expect help_of_all_commands 0 bash -c "for c in ask resume models stacks doctor bench debug; do
    '$program' \$c --help >/dev/null || exit 1; done"
exit $failed
