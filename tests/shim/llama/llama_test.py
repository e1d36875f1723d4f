#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""llama_test.py CASE: llama.cpp says the same, to the bit, with the shim under it as without, and needs no more memory than
the shim was given. README.md says what each case holds.

KVMM_SHIM is the shim, KVMM_TOOL the kvmm command, KVMM_LLAMA_TOOLS the folder of llama_engine and random_model, and of what is
fetched and made once; KVMM_ENGINE is kvmm-engine, which makes the recall model."""
import ctypes
import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOOLS = os.environ["KVMM_LLAMA_TOOLS"]
SHIM = os.environ.get("KVMM_SHIM", "")
SHARED = os.environ.get("KVMM_SHARED", os.path.join(HERE, "../../../../shared"))
MIB = 1 << 20

# What may be there beside the budget, in bytes: the shim's threads, buffers and tables, and the difference that two runs of an
# engine show.
SLACK = 24 * MIB
CELL = 64  # what llama.cpp itself needs for a token of context beside its K and V: positions, sequences


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def check(holds, what):
    if not holds:
        print(f"FAILED: {what}")
        sys.exit(1)


def require_faults_of_the_kernel():
    """The shim pages only where the kernel lets this user handle all faults."""
    libc = ctypes.CDLL(None, use_errno=True)
    syscall_userfaultfd = 323  # x86-64
    fd = libc.syscall(syscall_userfaultfd, os.O_CLOEXEC)
    if fd >= 0:
        os.close(fd)
    elif ctypes.get_errno() == errno.ENOSYS:
        skip("no userfaultfd in this kernel")
    elif not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        skip("this user may handle no faults of the kernel's")


def libraries():
    answer = subprocess.run([os.path.join(HERE, "fetch"), os.path.join(TOOLS, "package")], stdout=subprocess.PIPE, check=False)
    if answer.returncode == 77:
        sys.exit(77)
    check(answer.returncode == 0, "fetch")
    return answer.stdout.decode().strip()


def made_once(name, *command):
    """A file that several tests use and the first makes, by a program that gets its path as the last argument."""
    path = os.path.join(TOOLS, name)
    with open(path + ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path) or os.path.getmtime(path) < os.path.getmtime(command[0]):
            subprocess.run([*command, path], check=True)
    return path


def random_model():
    return made_once("random.gguf", os.path.join(TOOLS, "random_model"))


RANDOM_TOKEN = 8 * 8 * 512  # bytes of K and V of a token of it


def recall_model():
    if "KVMM_ENGINE" not in os.environ:
        skip("no kvmm-engine in this build, which makes the model")
    return made_once("recall128.gguf", os.environ["KVMM_ENGINE"], "make-recall-model", "--head-dim=128")


class Run:
    """An engine's run and what it showed: lines, stderr, its peak memory (all of it, by the kernel's count) and that of
    its memfds, where a paged cache is."""

    def __init__(self, command, settings=None, tool=False, until=None, cwd=None, timeout=100):
        # With MALLOC_PERTURB_, which meson sets, malloc would touch all of what llama.cpp has in reserve.
        environment = {name: value for name, value in os.environ.items()
                       if not name.startswith("KVMM_") and name != "MALLOC_PERTURB_"}
        if settings is not None and not tool:
            environment["LD_PRELOAD"] = SHIM
            environment.update({"KVMM_" + name: str(value) for name, value in settings.items()})
        if tool:
            options = [f"--{name.lower().replace('_', '-')}={value}" for name, value in settings.items()]
            command = [os.environ["KVMM_TOOL"], "run", *options, "--", *command]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=cwd)
        self.peak_cache = 0
        self.seconds = time.monotonic()
        self.errors = b""
        self.output = b""
        readers = [threading.Thread(target=self._read, args=pair)
                   for pair in ((self.process.stdout, "output"), (self.process.stderr, "errors"))]
        for reader in readers:
            reader.start()
        self.ended_by_us = False
        self.status = self._watch(until, time.monotonic() + timeout)
        self.seconds = time.monotonic() - self.seconds
        for reader in readers:
            reader.join()
        self.lines = self.output.decode().splitlines()

    def _read(self, stream, name):
        while more := os.read(stream.fileno(), 65536):
            setattr(self, name, getattr(self, name) + more)

    def _watch(self, until, deadline):
        while True:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid != 0:
                self.peak = usage.ru_maxrss * 1024
                self.process.returncode = os.waitstatus_to_exitcode(status)
                return self.process.returncode
            self.peak_cache = max(self.peak_cache, self.cache())
            late = time.monotonic() > deadline
            if not self.ended_by_us and (late or (until is not None and until(self))):
                self.ended_by_us = True
                os.kill(self.process.pid, signal.SIGKILL)  # send_signal() would take its status from wait4()
                check(not late, f"it didn't end in time; it said {self.output.decode()!r} and {self.errors.decode()!r}")
            time.sleep(0.003)

    def cache(self):
        folder = f"/proc/{self.process.pid}/fd"
        total = 0
        try:
            for fd in os.listdir(folder):
                if os.readlink(f"{folder}/{fd}").startswith("/memfd:"):
                    total += os.stat(f"{folder}/{fd}").st_blocks * 512
        except OSError:  # it has ended, or closed that one
            pass
        return total

    def finished(self):
        check(self.status == 0, f"status {self.status}: {self.errors.decode()!r} after {self.output.decode()!r}")
        return self


class Bench:
    """One model, and the same operations on it with and without the shim."""

    def __init__(self, model, token_bytes, swap_dir):
        self.libraries = libraries()
        self.model = model
        self.token_bytes = token_bytes
        self.swap_dir = swap_dir

    def command(self, operations, *options):
        return [os.path.join(TOOLS, "llama_engine"), *options, self.libraries, self.model, *operations]

    def plain(self, operations, context, *options):
        """Without the shim. What is left of its peak is what the engine needs beside the cache, which it clears, and so
        has in memory, as a whole."""
        run = Run(self.command(operations, f"--context={context}", *options), cwd=self.swap_dir).finished()
        run.beside_cache = run.peak - context * self.token_bytes
        return run

    def paged(self, operations, context, budget, *options, tool=False, **settings):
        settings.setdefault("SWAP_DIR", self.swap_dir)
        if budget is not None:
            settings["DEVICE_MEMORY"] = budget
        run = Run(self.command(operations, f"--context={context}", *options), settings, tool, cwd=self.swap_dir).finished()
        run.context = context
        return run

    def compare(self, what, plain, paged, budget):
        print(f"{what}: budget {budget / MIB:.1f} MiB; cache {paged.peak_cache / MIB:.1f} MiB at most, process "
              f"{paged.peak / MIB:.1f} MiB (without the shim, beside the cache, {plain.beside_cache / MIB:.1f} MiB); {paged.seconds:.1f} s ({plain.seconds:.1f} s)")
        for line in paged.errors.decode().splitlines():
            print(f"    {line}")
        for number, (ours, theirs) in enumerate(zip(paged.lines, plain.lines)):
            check(ours == theirs, f"{what}, line {number + 1}:\n  with    {ours}\n  without {theirs}")
        check(len(paged.lines) == len(plain.lines), f"{what}: {len(paged.lines)} of {len(plain.lines)} lines")
        check(paged.peak_cache > 0, f"{what}: the cache was not found")
        check(paged.peak_cache <= budget, f"{what}: the cache held {paged.peak_cache} bytes of memory")
        most = plain.beside_cache + budget + SLACK + paged.context * CELL
        check(paged.peak <= most, f"{what}: the process held {paged.peak} bytes, {most} would be right")


def taken(model_bytes, lengths, slot=256):
    """What a cache of such sequences touches, by measurement: attention reads in steps of more than a token."""
    return sum((length + slot - 1) // slot * slot for length in lengths) * model_bytes


# Four conversations, in turn and together. Two threads do less of it: llama.cpp's spin while they wait for each other, and take
# a hundred times as long where there aren't two cores for them.
IN_TURN = [f"take:{seq}:{seq * 10000}:200" for seq in range(4)] + [
    "go:0:6", "go:1:6", "go:2:6", "go:3:6", "take:1:70000:30", "go:1:4", "go:0:4", "all:4"]
FOR_TWO = [f"take:{seq}:{seq * 10000}:100" for seq in range(4)] + ["go:0:1", "go:1:1", "go:2:1", "go:3:1", "go:0:1", "all:1"]
IN_TURN_BYTES, FOR_TWO_BYTES = taken(RANDOM_TOKEN, [240] * 4), taken(RANDOM_TOKEN, [103] * 4, slot=128)
SMALL, LARGE = 4 * 1024, 4 * 32768  # tokens of context: 128 MiB, 4 GiB


def in_turn(swap_dir, share, **settings):
    bench = Bench(random_model(), RANDOM_TOKEN, swap_dir)
    for operations, touched, options in ((IN_TURN, IN_TURN_BYTES, ["--threads=1"]),
                                         (FOR_TWO, FOR_TWO_BYTES, ["--threads=2", "--global"])):
        budget = touched * share // 100
        plain = bench.plain(operations, SMALL, "--flash=1", *options)
        paged = bench.paged(operations, LARGE, budget, "--flash=1", *options, **settings)
        bench.compare(f"{share} % {' '.join(options)}", plain, paged, budget)


def case_all_fits(swap_dir):
    in_turn(swap_dir, 100)


def case_a_quarter_fits(swap_dir):
    in_turn(swap_dir, 25)


def case_a_twentieth_fits(swap_dir):
    in_turn(swap_dir, 5, CHUNK=8192)


def case_without_flash_attention(swap_dir):
    """V lies across then: a row for each channel, of all tokens that the context can hold. So the context is small, and all of
    it is touched."""
    bench = Bench(random_model(), RANDOM_TOKEN, swap_dir)
    context = 4 * 256
    for share, threads, operations in ((100, 1, IN_TURN), (25, 2, FOR_TWO), (5, 1, FOR_TWO)):
        options = ["--flash=0", f"--threads={threads}"]
        budget = context * RANDOM_TOKEN * share // 100
        bench.compare(f"{share} % {' '.join(options)}", bench.plain(operations, context, *options),
                      bench.paged(operations, context, budget, *options, CHUNK=16384), budget)


STATE = ["take:0:0:250", "take:1:5000:250", "go:0:4", "save", "go:0:4", "go:1:4", "write:1", "all:4",
         "clear", "take:0:90000:100", "go:0:4", "restore", "go:0:4", "go:1:4", "read:1", "all:4",
         "copy:1:2", "go:2:4", "drop:1", "go:2:4", "shift:2:16:100", "go:2:4", "clear", "take:3:0:200", "go:3:4"]


def case_state(swap_dir):
    """System calls on the cache, its clearing, copies within it, keys turned where they lie."""
    bench = Bench(random_model(), RANDOM_TOKEN, swap_dir)
    for options, share in ((["--flash=1"], 25), (["--flash=1", "--unified"], 50)):
        plain = bench.plain(STATE, SMALL, *options)
        budget = taken(RANDOM_TOKEN, [270] * 3) * share // 100
        paged = bench.paged(STATE, SMALL, budget, *options, CHUNK=16384)
        bench.compare(f"{share} % {' '.join(options)}", plain, paged, budget)


def case_huge_context(swap_dir):
    """16 GiB of which little is used take what is used, whether there is a limit or not."""
    bench = Bench(random_model(), RANDOM_TOKEN, swap_dir)
    operations = ["take:0:0:300", "go:0:4", "take:3:1000:300", "go:3:4", "clear", "take:1:0:300", "go:1:4"]
    options = ["--flash=1"]
    plain = bench.plain(operations, SMALL, *options)
    for budget in (None, 8 * MIB):
        paged = bench.paged(operations, 4 * 131072, budget, *options)
        bench.compare("16 GiB of context", plain, paged, budget or taken(RANDOM_TOKEN, [512] * 2))


def case_recall(swap_dir):
    """A model that quotes, from a cache that mostly lies in the swap file: right, not just the same."""
    bench = Bench(recall_model(), 3 * 4 * 128 * 2 * 2, swap_dir)  # layers, heads, dimensions, K and V, f16
    # Words of random letters: no sixteen bytes stand there twice, which the model would take for each other.
    letters = random.Random(1)
    path = os.path.join(swap_dir, "text")
    with open(path, "w", encoding="ascii") as file:
        while file.tell() < 2000:
            file.write("".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=letters.randint(2, 9))) + " ")
    text = ["--text=" + path]
    operations = ["take:0:0:600", "take:1:900:600", "take:0:400:24", "go:0:40", "show:424:40", "take:1:1300:24",
                  "go:1:40", "show:1324:40"]
    plain = bench.plain(operations, 4 * 1024, *text)
    for quote, source in ((3, 4), (6, 7)):
        said, wanted = (plain.lines[i].split(": ")[1].split(" logits")[0] for i in (quote, source))
        check(said.split()[:40] == wanted.split()[:40], f"the model quotes {said}, not {wanted}")
    budget = taken(bench.token_bytes, [670] * 2) // 4
    bench.compare("25 %", plain, bench.paged(operations, 4 * 65536, budget, *text, CHUNK=16384), budget)


def case_stories(swap_dir):
    """A trained model, small chunks."""
    model = os.path.join(SHARED, "models/stories260K/stories260K.gguf")
    if not os.path.exists(model):
        skip("no stories260K")
    token_bytes = 5 * 4 * 8 * 2 * 2  # layers, heads, dimensions, K and V, f16
    bench = Bench(model, token_bytes, swap_dir)
    operations = [f"take:{seq}:{seq * 100}:300" for seq in range(4)] + ["go:0:50", "go:3:50", "all:8", "go:0:16"]
    for options in ([], ["--unified"]):
        plain = bench.plain(operations, SMALL, *options)
        for share in (100, 25):
            budget = max(taken(token_bytes, [400] * 4) * share // 100, 64 * 4096)
            paged = bench.paged(operations, 1 << 18, budget, *options, CHUNK=4096)
            bench.compare(f"{share} % {' '.join(options)}", plain, paged, budget)


def case_kvmm_run(swap_dir):
    """The same through `kvmm run`."""
    bench = Bench(random_model(), RANDOM_TOKEN, swap_dir)
    budget = IN_TURN_BYTES // 4
    plain = bench.plain(IN_TURN, SMALL, "--flash=1")
    paged = bench.paged(IN_TURN, LARGE, budget, "--flash=1", tool=True)
    bench.compare("kvmm run", plain, paged, budget)


def case_nothing_selected(swap_dir):
    """Rules that select nothing change nothing; `list` names the cache's size."""
    bench = Bench(random_model(), RANDOM_TOKEN, swap_dir)
    operations = ["take:0:0:300", "go:0:8"]
    plain = bench.plain(operations, SMALL)
    for rule in ("none", "list"):
        paged = bench.paged(operations, SMALL, 8 * MIB, SELECT=rule)
        check(paged.lines == plain.lines, f"{rule}: the same output")
        check(paged.peak_cache == 0, f"{rule}: {paged.peak_cache} bytes of a memfd")
    check(str(SMALL * RANDOM_TOKEN) in paged.errors.decode(), f"list names {SMALL * RANDOM_TOKEN} bytes")


def case_suspend(swap_dir):
    """`kvmm suspend` takes the cache out of memory, `kvmm resume` brings it back, and a token in between waits."""
    bench = Bench(random_model(), RANDOM_TOKEN, swap_dir)
    operations = [f"take:{seq}:{seq * 10000}:100" for seq in range(2)] + ["sleep:1000", "go:0:4", "go:1:4"]
    plain = bench.plain(operations, SMALL, "--flash=1")
    held = []

    def suspend(run):
        if run.output.endswith(b"sleep:1000: ") and not held:
            for command in ("suspend", "resume"):
                held.append(run.cache())
                answer = subprocess.run([os.environ["KVMM_TOOL"], command, str(run.process.pid)], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, check=False, timeout=60)
                check(answer.returncode == 0, f"kvmm {command}: {answer.stdout.decode()}")
                if command == "suspend":
                    time.sleep(2)  # the engine wants to go on by now
        return False

    budget = 16 * MIB
    paged = Run(bench.command(operations, f"--context={SMALL}", "--flash=1"),
                {"DEVICE_MEMORY": budget, "SWAP_DIR": swap_dir}, until=suspend, cwd=swap_dir).finished()
    paged.context = SMALL
    bench.compare("suspended", plain, paged, budget)
    check(len(held) == 2 and held[0] > 6 * MIB and held[1] == 0, f"memory before and after suspend: {held}")
    check(paged.seconds > 2, f"it took {paged.seconds} s, so it went on while it was suspended")


def no_room(swap_dir, what, **settings):
    """With nowhere to put a page the engine waits, and the log says so, or ends by SIGBUS with a message; what it has said
    till then is right."""
    bench = Bench(random_model(), RANDOM_TOKEN, swap_dir)
    budget = 12 * MIB  # more than one conversation
    plain = bench.plain(IN_TURN, SMALL, "--flash=1")
    waits_since = []

    def waits(run):
        if b"the engine waits" in run.errors and not waits_since:
            waits_since.append((time.monotonic(), run.output))
        return waits_since and time.monotonic() - waits_since[0][0] > 2

    paged = Run(bench.command(IN_TURN, f"--context={LARGE}", "--flash=1"), {"DEVICE_MEMORY": budget, **settings}, until=waits,
                cwd=swap_dir)
    print(f"{what}: status {paged.status} after {len(paged.lines)} of {len(plain.lines)} lines; it said\n"
          f"{paged.errors.decode()}")
    check(paged.ended_by_us or paged.status == -signal.SIGBUS, f"{what}: status {paged.status}")
    check("kvmm: " in paged.errors.decode(), f"{what}: nothing said")
    check(0 < paged.output.count(b"\n") < len(plain.lines), f"{what}: {len(paged.lines)} lines")
    check(not waits_since or waits_since[0][1] == paged.output, f"{what}: it waits and goes on nevertheless")
    for ours, theirs in zip(paged.lines, plain.lines):
        check(theirs.startswith(ours), f"{what}:\n  with    {ours}\n  without {theirs}")
    check(paged.peak_cache <= budget, f"{what}: the cache held {paged.peak_cache} bytes of memory")


def case_no_swap_file(swap_dir):
    no_room(swap_dir, "no swap file")


def case_swap_file_full(swap_dir):
    no_room(swap_dir, "a swap file of 8 MiB", SWAP_DIR=swap_dir, SWAP_SIZE=8 * MIB)


def case_swap_file_spoilt(swap_dir):
    """Somebody writes over the swap file: the engine ends by SIGBUS at the first page that is gone, and what it has said till then is
    right."""
    bench = Bench(random_model(), RANDOM_TOKEN, swap_dir)
    operations = [f"take:{seq}:{seq * 10000}:100" for seq in range(4)] + ["sleep:1000", "go:0:4", "go:1:4"]
    plain = bench.plain(operations, SMALL, "--flash=1")
    spoilt = []

    def spoil(run):
        if run.output.endswith(b"sleep:1000: ") and not spoilt:
            folder = f"/proc/{run.process.pid}/fd"
            for fd in os.listdir(folder):
                try:
                    target = os.readlink(f"{folder}/{fd}")
                except FileNotFoundError:
                    continue  # closed since it was listed
                if target.startswith(swap_dir):
                    with open(f"{folder}/{fd}", "r+b") as file:
                        spoilt.append(file.write(b"\x5a" * os.fstat(file.fileno()).st_size))
                        os.fsync(file.fileno())
        return False

    paged = Run(bench.command(operations, f"--context={LARGE}", "--flash=1"), {"DEVICE_MEMORY": 4 * MIB, "SWAP_DIR": swap_dir},
                until=spoil, cwd=swap_dir)
    print(f"{spoilt} bytes; status {paged.status} after {len(paged.lines)} of {len(plain.lines)} lines; it said\n"
          f"{paged.errors.decode()}")
    check(spoilt and spoilt[0] > 8 * MIB, "no swap file to spoil")
    check(paged.status == -signal.SIGBUS, f"status {paged.status}")
    check("kvmm: " in paged.errors.decode(), "nothing said")
    for ours, theirs in zip(paged.lines, plain.lines):
        check(theirs.startswith(ours), f"with    {ours}\n  without {theirs}")


def case_file_system_full(swap_dir):
    """The swap file leaves 64 MiB to others."""
    mounted = os.path.join(swap_dir, "full")
    os.mkdir(mounted)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72m", "kvmm-test", mounted], stderr=subprocess.DEVNULL,
                      check=False).returncode != 0:
        skip("this user can't mount a small file system")
    try:
        no_room(swap_dir, "a file system of 72 MiB", SWAP_DIR=mounted)
    finally:
        subprocess.run(["umount", "--lazy", mounted], check=True)


def main():
    case = globals().get("case_" + (sys.argv[1] if len(sys.argv) == 2 else ""))
    if case is None:
        print("usage: llama_test.py CASE", [name[5:] for name in globals() if name.startswith("case_")])
        sys.exit(2)
    if not SHIM:
        skip("no shim in this build")
    require_faults_of_the_kernel()
    swap_dir = tempfile.mkdtemp(prefix="kvmm-llama-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    try:
        case(swap_dir)
    finally:
        shutil.rmtree(swap_dir)


if __name__ == "__main__":
    main()
