#!/usr/bin/env bash
# Layers go one way: tui -> sessions, presets -> engine -> kernels/backend.h; inside the engine
# run -> attention -> model -> text -> base.  ncurses and readline appear only in tui, CUDA only in
# kernels/cuda, cJSON only in engine/base/json.c.
set -u
cd "$(dirname "$0")/.."
status=0

# complain FILE:LINE:INCLUDE...  prints each and fails.
complain() {
    [ -n "$2" ] || return 0
    printf '%s\n%s\n' "$1" "$2"
    status=1
}

# may_include FOLDER REGEX: project includes of FOLDER's files must match REGEX.
may_include() {
    complain "[  FAILED  ] $1 includes what lies above it:" "$(
        grep -rnE '^#include "' --include='*.[ch]' --include='*.cu' --include='*.cuh' "$1" |
            grep -vE "#include \"($2)")"
}

may_include kernels 'kernels/'
may_include engine/base 'engine/base/'
may_include engine/text 'engine/(base|text)/'
may_include engine/model 'engine/(base|text|model)/|kernels/backend\.h"'
may_include engine/attention 'engine/(base|text|model|attention)/|kernels/(backend|philox)\.h"'
may_include engine/run 'engine/|kernels/backend\.h"'
may_include presets 'engine/|presets/|kernels/backend\.h"'
may_include sessions 'engine/|sessions/|kernels/backend\.h"'
may_include tui 'engine/|presets/|sessions/|tui/|kernels/backend\.h"'

# only_in REGEX FOLDER-REGEX WHAT: system includes that belong to one place.
only_in() {
    complain "[  FAILED  ] $3 outside its place:" "$(
        grep -rnE "^#include <$1" --include='*.[ch]' --include='*.cu' kernels engine presets \
            sessions tui | grep -vE "^$2")"
}

only_in '(ncurses|curses|panel|readline|editline|term\.h)' 'tui/' 'ncurses or readline'
only_in '(cuda|cublas)' 'kernels/cuda/' 'CUDA'
only_in 'cjson' 'engine/base/json\.[ch]:' 'cJSON'
only_in '(oniguruma|utf8proc)' 'engine/text/' 'Oniguruma or utf8proc'

[ $status -ne 0 ] || echo "[       OK ] layers go one way"
exit $status
