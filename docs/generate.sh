#!/usr/bin/env bash
# Makes the documents that come from the program's own tables.   docs/generate.sh ATTNSCOPE [FOLDER]
set -euo pipefail
program=$(realpath "$1")
folder=${2:-$(dirname "$0")}
mkdir -p "$folder/completions"
cd "$folder"
"$program" stacks --describe --markdown >maskers.md
"$program" manual >attnscope.1
"$program" manual --keys >keys.md
"$program" completion bash >completions/attnscope.bash
"$program" completion zsh >completions/_attnscope
"$program" completion fish >completions/attnscope.fish
