#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stock kernel on kvmm's memory: a sequence's range (token-major) becomes a torch tensor without a copy, and
scaled_dot_product_attention on it must equal the same on a contiguous tensor, also after the sequence was suspended and
resumed. Then torch is timed as the rival of kvmm's own kernels. Exits with 77 and a word where it can't run."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import kvmm

SKIPPED = 77
LAYERS, KV_HEADS, HEADS, DIM, PAGE = 4, 8, 32, 128, 16  # llama-3-8b's heads
MOST_DEVIATION = 2e-3  # the bound of f16 kernels


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def expect(holds, what):
    if not holds:
        sys.exit(f"FAILED: {what}")


# ---- the range, as ctypes sees it ---------------------------------------------------------------------------------


def open_kvmm(library, device, tokens):
    config = library.config()
    # What kvmm.h says the defaults are: the fields are where they are looked for.
    expect(config.device == b"host" and config.swap_backend == b"auto" and config.policy == b"lru" and
           config.geometry.page_tokens == PAGE and config.device_memory_utilization == 0.9 and
           (config.host_high_percent, config.host_low_percent, config.n_threads) == (90, 80, 2),
           "kvmm_config_init() does not give the defaults of kvmm.h")
    config.geometry.n_layers, config.geometry.n_kv_heads, config.geometry.head_dim = LAYERS, KV_HEADS, DIM
    config.geometry.dtype, config.geometry.layout = kvmm.F16, kvmm.TOKEN_MAJOR
    bytes_ = tokens * LAYERS * 2 * KV_HEADS * DIM * 2
    config.device, config.device_memory, config.host_memory = device.encode(), bytes_ + (64 << 20), bytes_ + (64 << 20)
    config.frame_bytes = 0
    return library.open(config)


def check_layout(layout):
    row = DIM * 2
    expect(layout.base and layout.elem_bytes == 2 and layout.n_groups == 1, "a base, f16, one group")
    expect(layout.head_stride == row and layout.kv_stride == row * KV_HEADS and
           layout.layer_stride == 2 * layout.kv_stride and layout.token_stride == LAYERS * layout.layer_stride and
           layout.page_stride == PAGE * layout.token_stride, "the strides of [token][layer][k|v][head][dim]")


def suspend_and_resume(library, seq):
    library.suspend(seq)
    deadline = time.monotonic() + 60
    while library.info(seq).n_device > 0:
        expect(time.monotonic() < deadline, "a suspended sequence leaves the device within a minute")
        time.sleep(0.01)
    library.resume(seq)


def check_only(library, mm, seq, tokens):
    """All but torch."""
    check_layout(library.layout(seq))
    with library.step(mm, seq, tokens):
        pass
    info = library.info(seq)
    expect(info.length == info.valid_tokens == tokens and info.n_device == info.n_frames > 0, "all of it on the device")
    suspend_and_resume(library, seq)
    with library.step(mm, seq, tokens):
        info = library.info(seq)
        expect(info.n_device == info.n_frames and info.n_lost == 0, "all of it back on the device")
    print(f"{library.device_name(mm)}: layout and steps are right; torch was not tried")


# ---- torch --------------------------------------------------------------------------------------------------------


class Range:
    """K or V of a layer, [token][head][dim], where it lies: the CUDA array interface, version 3."""

    def __init__(self, layout, layer, kv, tokens):
        self.__cuda_array_interface__ = {
            "version": 3, "typestr": "<f2", "shape": (tokens, KV_HEADS, DIM),
            "strides": (layout.token_stride, layout.head_stride, layout.elem_bytes),
            "data": (layout.at(layer, kv), False), "stream": None}


def tensors(torch, layout, tokens, device):
    """[(k, v)] for each layer, each [1, head, token, dim], without a copy."""
    both = []
    for layer in range(LAYERS):
        both.append([])
        for kv in range(2):
            tensor = torch.as_tensor(Range(layout, layer, kv, tokens), device=device)
            expect(tensor.data_ptr() == layout.at(layer, kv), "torch takes the range as it lies, without a copy")
            both[-1].append(tensor.permute(1, 0, 2).unsqueeze(0))
    return both


def attend(torch, q, k, v, causal):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def compare(torch, queries, ranges, copies, when):
    for (name, q), causal in zip(queries, (False, True)):
        worst, equal = 0.0, True
        for (k, v), (k_copy, v_copy) in zip(ranges, copies):
            expect(torch.equal(k, k_copy) and torch.equal(v, v_copy), f"{when}, K and V are what was written")
            ours, theirs = attend(torch, q, k, v, causal), attend(torch, q, k_copy, v_copy, causal)
            worst = max(worst, ((ours - theirs).float().norm() / theirs.float().norm()).item())
            equal = equal and torch.equal(ours, theirs)
        expect(worst <= MOST_DEVIATION, f"{when}, {name} on the range equals that on a contiguous tensor ({worst:.1e})")
        print(f"{when}, {name}: {'the same bits' if equal else f'relative deviation {worst:.1e}'}")


def check_torch(torch, library, mm, seq, tokens, device):
    stream = torch.cuda.current_stream(device).cuda_stream or None
    check_layout(library.layout(seq))
    ranges = tensors(torch, library.layout(seq), tokens, device)
    generator = torch.Generator(device).manual_seed(1)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, device=device, dtype=torch.float16)

    with library.step(mm, seq, tokens, stream):
        for pair in ranges:
            for tensor in pair:
                tensor.copy_(noise(1, KV_HEADS, tokens, DIM))
        copies = [[tensor.contiguous() for tensor in pair] for pair in ranges]
    queries = (("decode", noise(1, HEADS, 1, DIM)), ("prefill", noise(1, HEADS, tokens, DIM)))
    with library.step(mm, seq, tokens, stream):
        compare(torch, queries, ranges, copies, "at first")
    torch.cuda.synchronize(device)
    suspend_and_resume(library, seq)
    with library.step(mm, seq, tokens, stream):
        compare(torch, queries, ranges, copies, "after suspend and resume")
        for (name, q), causal in zip(queries, (False, True)):
            ratios = [seconds_of(torch, lambda: [attend(torch, q, k, v, causal) for k, v in ranges]) /
                      seconds_of(torch, lambda: [attend(torch, q, k, v, causal) for k, v in copies]) for _ in range(7)]
            print(f"torch, {name} of {tokens} tokens: time on the range ÷ on contiguous tensors {spread(ratios)}")
    torch.cuda.synchronize(device)


# ---- times --------------------------------------------------------------------------------------------------------


def spread(values):
    return f"{min(values):.3f}, {statistics.median(values):.3f}, {max(values):.3f} (min, median, max)"


def seconds_of(torch, work):
    """Of one run, by events; the first one warms up."""
    def run(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3 / repeats
    run(1)
    return run(max(1, min(1000, int(2e-3 / max(run(1), 1e-6)))))


def kvmm_seconds(tool, device, batch, context, prefill):
    """{(work, layout): seconds of a pass over LAYERS layers} by kvmm's own kernels, in one round of its bench."""
    command = [tool, "bench", "attention", f"--device={device}", "--json", "--rounds=1", "--shape=llama-3-8b", "--type=f16",
               f"--layers={LAYERS}", f"--batch={batch}", f"--context={context}", f"--prefill={prefill}", "--steps=16"]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["rows"]
    expect(all(row["batch_sequences"] == row["wanted_batch_sequences"] for row in rows), "the bench's sizes fit")
    return {(row["work"], row["layout"]): row["pass_s"]["median"] for row in rows}


def race(torch, tool, device, batch, context, rounds):
    """Torch at its best, on contiguous tensors of equal lengths, in turn with kvmm's kernels on kvmm's ranges."""
    def noise(*shape):
        return torch.randn(*shape, device=device, dtype=torch.float16)
    ratios = {}
    for _ in range(rounds):
        kv = [(noise(batch, KV_HEADS, context, DIM), noise(batch, KV_HEADS, context, DIM)) for _ in range(LAYERS)]
        q = noise(batch, HEADS, 1, DIM)
        torch_seconds = {"decode": seconds_of(torch, lambda: [attend(torch, q, k, v, False) for k, v in kv])}
        if batch == 1:
            q_all = noise(1, HEADS, context, DIM)
            torch_seconds["prefill"] = seconds_of(torch, lambda: [attend(torch, q_all, k, v, True) for k, v in kv])
            del q_all
        del kv, q
        torch.cuda.empty_cache()  # the bench is another process, and takes what is free
        for (work, layout), seconds in kvmm_seconds(tool, device, batch, context, context if batch == 1 else PAGE).items():
            if work in torch_seconds:
                ratios.setdefault((work, layout), []).append(torch_seconds[work] / seconds)
    for (work, layout), values in sorted(ratios.items()):
        print(f"{work}, batch {batch} × {context} tokens, {layout}: torch's time ÷ kvmm's {spread(values)}")


# ---- the command --------------------------------------------------------------------------------------------------


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", default=os.environ.get("KVMM_LIBRARY"), help="libkvmm.so (or KVMM_LIBRARY)")
    parser.add_argument("--tool", default=os.environ.get("KVMM_TOOL"), help="the kvmm command, for times (or KVMM_TOOL)")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tokens", type=int, default=2048, help="of the sequence that is compared")
    parser.add_argument("--times", action="store_true", help="race torch against kvmm's kernels too")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check-only", action="store_true", help="all but torch, on any device of kvmm")
    options = parser.parse_args()
    if not options.library:
        parser.error("--library or KVMM_LIBRARY must name libkvmm.so")
    if options.times and not options.tool:
        parser.error("--times needs --tool or KVMM_TOOL")
    return options


def import_torch():
    try:
        import torch
    except ImportError:
        skip("there is no torch")
    if not torch.cuda.is_available():
        skip("torch sees no GPU")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 5):
        skip(f"torch {torch.__version__} has no grouped-query attention; 2.5 has")
    return torch


def main():
    options = arguments()
    torch = None if options.check_only else import_torch()
    library = kvmm.Library(options.library)
    mm = open_kvmm(library, options.device, options.tokens)
    seq = library.create(mm, options.tokens)
    if torch:
        print(f"{torch.cuda.get_device_name(options.device)}, torch {torch.__version__}, CUDA {torch.version.cuda}")
        check_torch(torch, library, mm, seq, options.tokens, options.device)
    else:
        check_only(library, mm, seq, options.tokens)
    library.destroy(seq)
    library.close(mm)
    if torch and options.times:
        for batch in options.batch:
            race(torch, options.tool, options.device, batch, options.context, options.rounds)


if __name__ == "__main__":
    try:
        main()
    except kvmm.Error as error:
        sys.exit(f"FAILED: {error}")
