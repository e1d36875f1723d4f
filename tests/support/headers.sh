#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Headers must compile alone, and twice.
#   headers.sh public-c ROOT COMPILER...     the public header, as C17
#   headers.sh public-c++ ROOT COMPILER...   the public header, as C++17; skipped without a C++ compiler
#   headers.sh project ROOT COMPILER...      every header of the project, as the project's C
set -euo pipefail

what=$1
root=$2
compiler=("${@:3}")
cd "$root"

# compiles LANGUAGE HEADER FLAG...
compiles() {
    local language=$1 header=$2
    printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
        "${compiler[@]}" -x "$language" -Wall -Wextra -Werror -fsyntax-only "${@:3}" -
}

case $what in
public-c)
    compiles c kvmm/kvmm.h -std=c17 -pedantic -Ivmm/include
    ;;
public-c++)
    for candidate in g++ clang++; do
        compiler=("$candidate")
        if command -v "$candidate" >/dev/null && compiles c++ cstddef -std=c++17 2>/dev/null; then
            compiles c++ kvmm/kvmm.h -std=c++17 -pedantic -Ivmm/include
            exit 0
        fi
    done
    echo "skipped: there is no C++ compiler here"
    exit 77
    ;;
project)
    n=0
    failed=0
    while IFS= read -r -d '' header; do
        case $header in
        # Parts of the template tile_body.h, which each tile_*.c puts together with its own instruction set.
        kernels/vec_*.h | kernels/products_*.h | kernels/rows.h | kernels/screen.h | \
            kernels/ahead.h | kernels/dispatch.h | kernels/tile_body.h) continue ;;
        esac
        n=$((n + 1))
        compiles c "$header" -std=gnu17 -D_GNU_SOURCE -Wno-unused-parameter -I. -Ivmm/include -Idemo_engine || {
            echo "$header does not compile alone"
            failed=$((failed + 1))
        }
    done < <(find vmm swap kernels demo_engine shim tools tests -name '*.h' -print0 | sort -z)
    echo "$n headers, $failed bad"
    ((n > 10 && failed == 0))
    ;;
*)
    echo "headers.sh: '$what' is public-c, public-c++ or project" >&2
    exit 2
    ;;
esac
