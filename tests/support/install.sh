#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# install.sh BUILD SOURCE: the installed library is complete. The example of the README builds against it as the README
# says, with its shared and with its static library, and runs.
set -euo pipefail
build=$1
source=$2
if ! command -v pkg-config >/dev/null; then
    echo "skipped: no pkg-config"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

meson install -C "$build" --no-rebuild --destdir "$dir/root" >"$dir/install.log"
pc=$(find "$dir/root" -name kvmm.pc)
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR=$dir/root
library=$(dirname "$(find "$dir/root" -name libkvmm.so)")

awk '/^```c$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$source/README.md" >"$dir/example.c"
grep -q kvmm_step_begin "$dir/example.c"
read -ra cflags <<<"$(pkg-config --cflags kvmm)"
read -ra shared <<<"$(pkg-config --libs kvmm)"
cc -Wall -Wextra -Werror "${cflags[@]}" "$dir/example.c" "${shared[@]}" -o "$dir/shared"
LD_LIBRARY_PATH=$library "$dir/shared"

# Nothing but the public functions is visible.
if nm -D --defined-only "$library/libkvmm.so" | awk '{ print $3 }' | grep -v '^kvmm_'; then
    echo "libkvmm.so exports more than kvmm_ functions" >&2
    exit 1
fi
# All public functions are.
while read -r name; do
    nm -D --defined-only "$library/libkvmm.so" | grep -qw "$name" || { echo "libkvmm.so lacks $name" >&2; exit 1; }
done < <(sed -n 's/^KVMM_API .*[ *]\(kvmm_[a-z_]*\)(.*/\1/p' "$source/vmm/include/kvmm/kvmm.h")

# Static: what libkvmm.a needs besides itself comes from the pkg-config file (system libraries, so without the sysroot).
unset PKG_CONFIG_SYSROOT_DIR
private=$(sed -n 's/^Libs.private: *//p' "$pc")
requires=$(sed -n 's/^Requires.private: *//p' "$pc" | tr -d ',' | sed -E 's/[<>=]+ *[0-9.]+//g')
read -ra more <<<"$private $(for one in $requires; do pkg-config --libs "$one"; done | tr '\n' ' ')"
cc -Wall -Wextra -Werror "${cflags[@]}" "$dir/example.c" "$library/libkvmm.a" "${more[@]}" -o "$dir/static"
"$dir/static"
