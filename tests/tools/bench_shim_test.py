#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`kvmm bench shim` at a small size: all figures are there, bad arguments are answered, and nothing is left behind when it is
killed in the middle. KVMM_TOOL is the command, KVMM_SHIM the shim."""
import ctypes
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TOOL = os.environ["KVMM_TOOL"]
SHIM = os.environ.get("KVMM_SHIM", "")


def check(holds, what):
    if not holds:
        print(f"FAILED: {what}")
        sys.exit(1)


def run(*arguments):
    return subprocess.run([TOOL, "bench", "shim", f"--shim={SHIM}", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False, text=True, timeout=100)


def left_behind(folder, pid):
    """Files in the folder, and control groups and swap space of the bench that was process pid."""
    with open("/proc/swaps", encoding="ascii") as swaps:
        swapping = [line for line in swaps if folder in line]
    return os.listdir(folder) + swapping + [group for where in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory")
                                            for group in glob.glob(f"{where}/kvmm-bench-{pid}-*")]


def arguments_are_checked():
    for wrong in ("--rounds=0", "--memory=1K", "--chunk=3K", "--threads=0", "--nonsense"):
        answer = run(wrong)
        check(answer.returncode == 2 and answer.stderr.startswith("kvmm bench shim: ") and answer.stderr.count("\n") == 1,
              f"{wrong}: {answer}")


def a_command_is_compared(folder):
    answer = run("--rounds=2", "--json", f"--dir={folder}", "--", "sh", "-c",
                 'test -n "$LD_PRELOAD" && rate=30 || rate=40; echo a line; echo "{\\"tokens_per_s\\": $rate}"')
    check(answer.returncode == 0, answer)
    check(json.loads(answer.stdout)["ratio"] == {"min": 0.75, "median": 0.75, "max": 0.75}, answer.stdout)
    for command in (["false"], ["echo", "no JSON"], ["/nonexistent"]):
        answer = run("--rounds=1", "--", *command)
        check(answer.returncode == 1 and answer.stderr.startswith("kvmm bench shim: "), answer)


def all_figures_are_there(folder):
    answer = run("--alone", "--memory=16M", "--rounds=2", "--json", f"--dir={folder}")
    print(answer.stdout, answer.stderr)
    check(answer.returncode == 0, answer)
    figures = json.loads(answer.stdout)
    for name in ("fits_ratio", "fits_cpu_time_ratio", "disk_bytes_per_s_in_chunks", "fault_us"):
        check(0 < figures[name]["min"] <= figures[name]["median"] <= figures[name]["max"], name)
    for name in ("switch_first_token_ms", "short_token_ms"):
        check(figures[name]["shim"]["median"] > 0 and "skipped" in figures[name]["linux_swap"], name)
    check(16 << 20 <= figures["memory_held_bytes"]["shim"] < 4 * (16 << 20), figures["memory_held_bytes"])
    answer = run("--alone", "--memory=16M", "--rounds=1", f"--dir={folder}")
    check(answer.returncode == 0 and "4 conversations in turn" in answer.stdout, answer)
    check(os.listdir(folder) == [], os.listdir(folder))


def nothing_is_left_when_it_is_killed(folder):
    """Wherever it is: while it makes the groups and the swap file, and while engines are in them."""
    for delay in (0.02, 0.3, 2):
        with subprocess.Popen([TOOL, "bench", "shim", f"--shim={SHIM}", "--memory=16M", f"--dir={folder}"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
            time.sleep(delay)
            bench.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 30
        while left_behind(folder, bench.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = left_behind(folder, bench.pid)
        check(not left, f"killed after {delay} s it left {left}")


def main():
    if not SHIM:
        print("skipped: no shim in this build")
        sys.exit(77)
    fd = ctypes.CDLL(None).syscall(323, os.O_CLOEXEC)  # userfaultfd on x86-64
    if fd < 0 and not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        print("skipped: this user may handle no faults of the kernel's")
        sys.exit(77)
    folder = tempfile.mkdtemp(prefix="kvmm-bench-test-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    try:
        arguments_are_checked()
        a_command_is_compared(folder)
        all_figures_are_there(folder)
        nothing_is_left_when_it_is_killed(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
