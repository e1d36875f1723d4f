#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# survive.sh SHIM PART: programs behave the same with the shim preloaded and nothing selected: output and exit status.
#   survive.sh SHIM programs      shells, interpreters, git, compilers, and what they run
#   survive.sh SHIM allocators    the same few next to other allocators
#   survive.sh SHIM servers       redis-server and its benchmark; stress-ng's malloc, fork and mapping stressors
# Skipped where none of a part's programs is installed; those that are missing are named.
# shellcheck disable=SC2317,SC2016  # the parts are called by their names; what is quoted is for others to expand
set -uo pipefail

shim=$1
part=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
unset "${!KVMM_@}" LD_PRELOAD
export HOME=$folder GIT_CONFIG_NOSYSTEM=1

if ! LD_PRELOAD=$shim grep -q libkvmm_shim /proc/self/maps; then
    echo "$shim can't be preloaded"
    exit 1
fi

ran=0
failed=0
missing=()

installed() {
    command -v "$1" >/dev/null && return
    missing+=("$1")
    return 1
}

fail() {
    echo "FAILED: $*"
    failed=$((failed + 1))
}

# same NAME PRELOAD COMMAND...: with and without SHIM (and PRELOAD, which is in both).
same() {
    local name=$1 preload=$2 status_without=0 status_with=0
    local start=$EPOCHREALTIME
    ran=$((ran + 1))
    LD_PRELOAD=$preload timeout 60 "${@:3}" >without.out 2>without.err </dev/null || status_without=$?
    LD_PRELOAD=$shim${preload:+:$preload} timeout 60 "${@:3}" >with.out 2>with.err </dev/null || status_with=$?
    if ((status_without != status_with)); then
        fail "$name: status $status_with in place of $status_without: $(tail -n 3 with.err)"
    elif ! cmp -s without.out with.out; then
        fail "$name: another output: $(diff without.out with.out | head -n 5)"
    elif grep -a 'kvmm: ' with.err; then
        fail "$name: the shim said something, though nothing was asked of it"
    fi
    echo "$name: $(((${EPOCHREALTIME/./} - ${start/./}) / 1000)) ms"
}

finish() {
    ((${#missing[@]} == 0)) || echo "not installed: ${missing[*]}"
    echo "$ran programs, $failed failed"
    ((failed == 0)) || exit 1
    ((ran > 0)) || { echo "skipped: none of the programs is installed"; exit 77; }
    exit 0
}

# Memory of all sizes, moved about, and compared by its digest.
cat >memory.py <<'PYTHON'
import ctypes, hashlib, mmap, subprocess, sys, threading
digest = hashlib.sha256()
def work(n):
    blocks = [bytearray(i * 700000 % (5 << 20)) for i in range(n, n + 8)]
    for i, block in enumerate(blocks):
        block[i:i + 1] = b"x" * (1 << 20)
        del block[1000:2000]
    return b"".join(blocks)
results = [None] * 3
def thread(i):
    results[i] = hashlib.sha256(work(i)).digest()
threads = [threading.Thread(target=thread, args=(i,)) for i in range(3)]
for t in threads: t.start()
for t in threads: t.join()
for r in results: digest.update(r)
with mmap.mmap(-1, 8 << 20) as m:
    m.write(b"y" * (3 << 20))
    m.resize(16 << 20)
    digest.update(m[: 4 << 20])
buffer = ctypes.create_string_buffer(6 << 20)
ctypes.memset(buffer, 0, len(buffer))
digest.update(buffer.raw)
digest.update(subprocess.run(["/bin/sh", "-c", "seq 10000 | sort -R --random-source=/dev/zero | tail -n 3"], capture_output=True).stdout)
print(digest.hexdigest())
sys.exit(3)
PYTHON

cat >program.c <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/wait.h>
int main(void)
{
    unsigned long sum = 0;
    for (int i = 0; i < 60; i++) {
        size_t bytes = (size_t)i * 100000 + 1;
        unsigned char *p = malloc(bytes);
        memset(p, i, bytes);
        p = realloc(p, bytes * 2);
        sum += p[bytes - 1];
        if (i % 10 == 0 && fork() == 0) {
            memset(p, 0, bytes * 2);
            free(p);
            _exit(p == NULL);
        }
        free(p);
    }
    int status, bad = 0;
    while (wait(&status) > 0)
        bad += status != 0;
    printf("%lu %d\n", sum, bad);
    return 5;
}
C

programs() {
    same sh "" sh -c 'for i in 1 2 3; do (echo $i; exit $i) || echo "$?"; done; kill -TERM $$'
    same bash "" bash -c 'x=$(printf "%2000000s" | tr " " y); echo ${#x}; cat <(seq 5) <(seq 5 | rev); exit 7'
    same dd "" sh -c 'dd if=/dev/zero bs=8M count=4 2>/dev/null | sha256sum'
    same sort "" sh -c 'seq 300000 | sort -r --parallel=2 -S 20M | sha256sum'
    same xz "" sh -c 'command -v xz >/dev/null && seq 100000 | xz -T2 -3 | sha256sum'
    if installed python3; then
        same python3 "" python3 memory.py
    fi
    if installed perl; then
        same perl "" perl -e 'my $x = "abc" x 1000000; $x =~ s/b/dd/g; my @p = map { my $p = fork; if (!$p) { exit $_ } waitpid $p, 0; $? >> 8 } 1..3; print length $x, "@p\n"; exit 2'
    fi
    if installed node; then
        same node "" node -e 'const z=require("zlib");const b=Buffer.alloc(20<<20,"kvmm");const a=new Float32Array(3<<20).fill(1.5);new (require("worker_threads").Worker)("require(\"worker_threads\").parentPort.postMessage(Buffer.alloc(9<<20,7).length)",{eval:true}).on("message",m=>console.log(m,z.gzipSync(b).length,a.reduce((x,y)=>x+y)))'
    fi
    if installed git; then
        same git "" sh -c 'rm -rf r && git init -q r && cd r && seq 100000 >a && git add a && GIT_AUTHOR_DATE="1 +0000" GIT_COMMITTER_DATE="1 +0000" git -c user.name=k -c user.email=k@k commit -qm 1 && git gc -q && git log -p --format=%H | sha256sum'
    fi
    if installed gcc; then
        same gcc "" sh -c 'gcc -O2 -o program program.c && sha256sum program'
        [[ ! -x program ]] || same "a C program" "" ./program
    fi
    if installed clang; then
        same clang "" sh -c 'clang -O2 -c -o program.o program.c && sha256sum program.o'
    fi
}

allocators() {
    local library found=0
    installed gcc && gcc -O1 -o program program.c
    for library in libjemalloc.so.2 libtcmalloc_minimal.so.4 libmimalloc.so.2; do
        if ! LD_PRELOAD=$library true 2>preload.err || grep -q preload preload.err; then
            missing+=("$library")
            continue
        fi
        found=1
        same "sh with $library" "$library" sh -c 'seq 1000 | sort | tail -n 1; exit 4'
        if installed python3; then
            same "python3 with $library" "$library" python3 memory.py
        fi
        [[ ! -x program ]] || same "a C program with $library" "$library" ./program
        # The allocator first: its malloc comes before the shim's.
        if [[ -x program ]]; then
            LD_PRELOAD=$library:$shim ./program >reversed.out 2>&1
            (($? == 5)) || fail "a C program with $library before the shim: $(tail -n 3 reversed.out)"
        fi
        # As a library that the program is linked with.
        if [[ -x program ]] && gcc -O1 -o linked program.c -Wl,--no-as-needed "-l:$library" 2>/dev/null; then
            same "a C program linked with $library" "" ./linked
        fi
    done
    ((found)) || ran=0
}

servers() {
    if installed redis-server && installed redis-benchmark; then
        ran=$((ran + 1))
        LD_PRELOAD=$shim redis-server --port 0 --unixsocket "$folder/socket" --save "" --dir "$folder" >redis.log 2>&1 &
        local server=$! status=0
        for _ in $(seq 100); do
            [[ ! -S socket ]] || break
            sleep 0.1
        done
        LD_PRELOAD=$shim redis-benchmark -s "$folder/socket" -n 20000 -d 1000 -r 10000 -q -t set,get,lpush,mset >bench.out 2>&1 ||
            fail "redis-benchmark: $(tail -n 3 bench.out)"
        LD_PRELOAD=$shim redis-cli -s "$folder/socket" bgsave >/dev/null # forks
        sleep 1
        [[ $(redis-cli -s "$folder/socket" info persistence) == *rdb_last_bgsave_status:ok* ]] ||
            fail "redis-server: its child could not save"
        redis-cli -s "$folder/socket" shutdown nosave || kill "$server"
        wait "$server" || status=$?
        ((status == 0)) || fail "redis-server: status $status: $(tail -n 3 redis.log)"
        ! grep 'kvmm: ' redis.log bench.out || fail "redis-server: the shim said something"
    fi
    if installed stress-ng; then
        local stressor
        for stressor in malloc fork vm mmap mremap madvise brk; do
            ran=$((ran + 1))
            LD_PRELOAD=$shim timeout 60 stress-ng "--$stressor" 2 --verify --vm-bytes 64M --timeout 1s >stress.out 2>&1 ||
                fail "stress-ng --$stressor: $(tail -n 5 stress.out)"
            ! grep 'kvmm: ' stress.out || fail "stress-ng --$stressor: the shim said something"
        done
    fi
}

case $part in
programs | allocators | servers) "$part" ;;
*)
    echo "survive.sh: '$part' is programs, allocators or servers" >&2
    exit 2
    ;;
esac
finish
