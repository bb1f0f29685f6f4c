# bash completion of attnscope; made by: attnscope completion bash
_attnscope_words() { COMPREPLY=($(compgen -W "$1" -- "$cur")); }
_attnscope_names() { _attnscope_words "$("${COMP_WORDS[0]}" completion "$1" 2>/dev/null)"; }
_attnscope_files() { compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); }

_attnscope() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
    local command= options=
    case " ask resume models stacks calibrate doctor bench debug completion manual " in *" ${COMP_WORDS[1]} "*) [ "$COMP_CWORD" -gt 1 ] && command=${COMP_WORDS[1]} ;; esac
    case "$command $prev" in
    " --context") _attnscope_files; return ;;
    " --sample") _attnscope_names samples; return ;;
    " --question") COMPREPLY=(); return ;;
    " --stack") _attnscope_names stacks; return ;;
    " --baseline") _attnscope_names stacks; return ;;
    " --max-tokens") COMPREPLY=(); return ;;
    " --setup") _attnscope_words "A B"; return ;;
    " --seed") COMPREPLY=(); return ;;
    " --temperature") COMPREPLY=(); return ;;
    " --top-p") COMPREPLY=(); return ;;
    " --answer-prefix") COMPREPLY=(); return ;;
    " --max-context") COMPREPLY=(); return ;;
    " --keep") _attnscope_words "head tail middle"; return ;;
    " --backend") _attnscope_words "auto cpu cuda"; return ;;
    " --threads") COMPREPLY=(); return ;;
    " --kv") _attnscope_words "bf16 f32"; return ;;
    " --isa") _attnscope_words "auto reference avx2 avx512"; return ;;
    " --theme") _attnscope_words "dark light colour-blind mono"; return ;;
    " --color") _attnscope_words "auto never 16 256"; return ;;
    "ask --context") _attnscope_files; return ;;
    "ask --sample") _attnscope_names samples; return ;;
    "ask --question") COMPREPLY=(); return ;;
    "ask --stack") _attnscope_names stacks; return ;;
    "ask --baseline") _attnscope_names stacks; return ;;
    "ask --max-tokens") COMPREPLY=(); return ;;
    "ask --setup") _attnscope_words "A B"; return ;;
    "ask --seed") COMPREPLY=(); return ;;
    "ask --temperature") COMPREPLY=(); return ;;
    "ask --top-p") COMPREPLY=(); return ;;
    "ask --answer-prefix") COMPREPLY=(); return ;;
    "ask --max-context") COMPREPLY=(); return ;;
    "ask --keep") _attnscope_words "head tail middle"; return ;;
    "ask --backend") _attnscope_words "auto cpu cuda"; return ;;
    "ask --threads") COMPREPLY=(); return ;;
    "ask --kv") _attnscope_words "bf16 f32"; return ;;
    "ask --isa") _attnscope_words "auto reference avx2 avx512"; return ;;
    "ask --save") _attnscope_files; return ;;
    "ask --assert") COMPREPLY=(); return ;;
    "resume --backend") _attnscope_words "auto cpu cuda"; return ;;
    "resume --threads") COMPREPLY=(); return ;;
    "resume --kv") _attnscope_words "bf16 f32"; return ;;
    "resume --isa") _attnscope_words "auto reference avx2 avx512"; return ;;
    "resume --theme") _attnscope_words "dark light colour-blind mono"; return ;;
    "resume --color") _attnscope_words "auto never 16 256"; return ;;
    "calibrate --text") _attnscope_files; return ;;
    "calibrate --max-tokens") COMPREPLY=(); return ;;
    "calibrate --backend") _attnscope_words "auto cpu cuda"; return ;;
    "calibrate --threads") COMPREPLY=(); return ;;
    "calibrate --isa") _attnscope_words "auto reference avx2 avx512"; return ;;
    "doctor --backend") _attnscope_words "auto cpu cuda"; return ;;
    "doctor --threads") COMPREPLY=(); return ;;
    "doctor --kv") _attnscope_words "bf16 f32"; return ;;
    "doctor --isa") _attnscope_words "auto reference avx2 avx512"; return ;;
    "bench --shape") COMPREPLY=(); return ;;
    "bench --ctx") COMPREPLY=(); return ;;
    "bench --stack") _attnscope_names stacks; return ;;
    "bench --repeat") COMPREPLY=(); return ;;
    "bench --chunk") COMPREPLY=(); return ;;
    "bench --backend") _attnscope_words "auto cpu cuda"; return ;;
    "bench --threads") COMPREPLY=(); return ;;
    "bench --kv") _attnscope_words "bf16 f32"; return ;;
    "bench --isa") _attnscope_words "auto reference avx2 avx512"; return ;;
    esac
    case "$command" in
    "") options="--context --sample --question --stack --baseline --max-tokens --forced --setup --seed --temperature --top-p --answer-prefix --max-context --keep --no-probe --backend --threads --kv --isa --auto-restart --ascii --theme --color --help" ;;
    "ask") options="--context --sample --question --stack --baseline --max-tokens --forced --setup --seed --temperature --top-p --answer-prefix --max-context --keep --no-probe --backend --threads --kv --isa --save --json --jsonl --ascii --assert --help" ;;
    "resume") options="--backend --threads --kv --isa --auto-restart --ascii --theme --color --help" ;;
    "models") options="--json --help" ;;
    "stacks") options="--json --describe --markdown --help" ;;
    "calibrate") options="--text --max-tokens --backend --threads --isa --help" ;;
    "doctor") options="--backend --threads --kv --isa --json --help" ;;
    "bench") options="--shape --ctx --stack --repeat --chunk --backend --threads --kv --isa --json --help" ;;
    "debug") options="--help" ;;
    "completion") options="--help" ;;
    "manual") options="--keys --help" ;;
    esac
    case "$cur" in -*) _attnscope_words "$options"; return ;; esac
    _attnscope_files
    case "$COMP_CWORD $command" in
    "1 ") COMPREPLY+=($(compgen -W "ask resume models stacks calibrate doctor bench debug completion manual $("${COMP_WORDS[0]}" completion models 2>/dev/null)" -- "$cur")) ;;
    "2 ask") COMPREPLY+=($(compgen -W "$("${COMP_WORDS[0]}" completion models 2>/dev/null)" -- "$cur")) ;;
    "2 stacks") _attnscope_names stacks ;;
    "2 completion") _attnscope_words "bash zsh fish" ;;
    "2 bench") _attnscope_words "decode prefill attention select gemv" ;;
    "2 debug") _attnscope_words "tokens template logits attention" ;;
    "2 calibrate") _attnscope_words double-sparsity ;;
    esac
}
complete -F _attnscope attnscope
