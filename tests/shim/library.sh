#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# library.sh SHIM SOURCE: what is preloaded under any program needs libc alone, exports what it interposes and its own
# interface and nothing else, and can't be unloaded or bound late.
set -euo pipefail
shim=$1
source=$2
failed=0

fail() {
    echo "$*" >&2
    failed=1
}

needs=$(readelf -d "$shim" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort | tr '\n' ' ')
[[ $needs == "libc.so.6 " || $needs == "ld-linux"*" libc.so.6 " ]] || fail "it needs $needs"
ldd "$shim" | grep -vE 'linux-vdso|libc\.so\.6|ld-linux' && fail "ldd shows more than libc"

# The names in the lists of functions that are interposed; those of the driver, where they are built in.
names() {
    sed -n 's/^ *X([^,]*, *\([a-z0-9_]*\),.*/\1/p' "$source/shim/real_list.h"
    echo ggml_backend_alloc_ctx_tensors_from_buft
    sed -n 's/^.*[ *]\(kvmm_[a-z_]*\)(.*/\1/p' "$source/shim/include/kvmm/shim.h" | sort -u
}
exported() {
    nm -D --defined-only "$shim" | awk '{ sub(/@.*/, "", $3); print $3 }' | grep -v '^cu[A-Z]' | sort
}
[[ $(names | grep -c .) -gt 20 ]]
# kvmm_torch_* are the GPU side's.
extra=$(comm -13 <(names | sort -u) <(exported))
lacks=$(comm -23 <(names | sort -u) <(exported) | grep -v '^kvmm_torch_' || true)
[[ -z $extra ]] || fail "it exports too much: ${extra//$'\n'/ }"
[[ -z $lacks ]] || fail "it does not export: ${lacks//$'\n'/ }"

flags=$(readelf -d "$shim" | grep FLAGS)
[[ $flags == *NOW* ]] || fail "it is bound late: a hook would run the loader"
[[ $flags == *NODELETE* ]] || fail "it can be unloaded"
! readelf -d "$shim" | grep -q TEXTREL || fail "its code is relocated"
# What the shim itself calls are not its hooks: there is no reference to them, so none that goes through the loader.
refers=$(readelf -rW "$shim" | awk '{ sub(/@.*/, "", $5); print $5 }' | grep -Fx -f <(names) || true)
[[ -z $refers ]] || fail "it calls its own hooks: ${refers//$'\n'/ }"
exit $failed
