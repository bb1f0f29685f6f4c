#!/usr/bin/env bash
# Does what docs/adding-a-masker.md says, in a folder beside the source tree: each of its blocks
# that names a file becomes that file, or a line of it.   adding_a_masker.sh SOURCE FOLDER
set -euo pipefail
source=$1 folder=$2
page=$source/docs/adding-a-masker.md

# block FILE: the page's block of that file.
block() {
    awk -v file="$1" '/^```/ { inside = !inside && $2 == file; next }
        inside { print; n++ }
        END { exit !n }' "$page" || { echo "$page: there is no block of $1" >&2 && return 1; }
}

mkdir -p "$folder/engine/attention/maskers" "$folder/tests"
for file in engine/attention/maskers/pyramid.c tests/test_pyramid.c; do
    block "$file" >"$folder/$file"
done
line=$(block engine/attention/maskers/maskers.h)
sed "/^extern const struct masker masker_sink;/a $line" \
    "$source/engine/attention/maskers/maskers.h" >"$folder/engine/attention/maskers/maskers.h"
line=$(block engine/attention/maskers.c)
sed "/^const struct masker \*const maskers\[\]/,/^};/ s/NULL,/${line/&/\\&} NULL,/" \
    "$source/engine/attention/maskers.c" >"$folder/engine/attention/maskers.c"
