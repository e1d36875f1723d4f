#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`kvmm bench scale` at a small size: all figures are there and plausible, and bad arguments are answered in one line. KVMM_TOOL is the
command."""
import json
import os
import subprocess
import sys

TOOL = os.environ["KVMM_TOOL"]
FIGURES = {"extend_ns_per_page", "touch_ns_per_sequence", "fork_ns_per_page", "fork_64k_tokens_us", "fork_64k_first_write_us",
           "suspend_ns_per_page", "return_ns_per_page", "destroy_ns_per_page", "decode_256_us", "metadata_bytes_per_page"}


def check(holds, what):
    if not holds:
        print(f"FAILED: {what}")
        sys.exit(1)


def run(*arguments):
    return subprocess.run([TOOL, "bench", "scale", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, text=True)


def main():
    for bad in ["--rounds=0", "--rounds=x", "--pages=", "--pages=0", "--pages=1,,2", "--pages=1e3", "--pages=99999999999",
                "--pages=1,2,3,4,5,6,7,8,9", "more"]:
        answer = run(bad)
        check(answer.returncode == 2 and answer.stderr.startswith("kvmm bench scale: ") and answer.stderr.count("\n") == 1,
              (bad, answer))

    answer = run("--json", "--rounds=2", "--pages=3000,50000")
    check(answer.returncode == 0 and answer.stderr == "", answer)
    result = json.loads(answer.stdout)
    check(result["rounds"] == 2 and result["page_bytes"] == 4096, result)
    check([size["pages"] for size in result["sizes"]] == [3000, 50000], result)
    for size in result["sizes"]:
        check(set(size) == FIGURES | {"pages"}, size)
        for name in FIGURES - {"metadata_bytes_per_page"}:
            figure = size[name]
            check(0 < figure["min"] <= figure["median"] <= figure["max"], (name, figure))

    answer = run("--rounds=1", "--pages=1")
    check(answer.returncode == 0 and answer.stderr == "" and len(answer.stdout.splitlines()) == 1 + len(FIGURES), answer)


main()
