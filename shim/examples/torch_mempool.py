#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The cache of a torch engine on kvmm: tensors made within a MemPool whose memory comes from the shim.

    kvmm run --host-memory 16G -- python3 torch_mempool.py /path/to/libkvmm_shim.so

Needs torch 2.7 or later with CUDA. It has not been run yet: the machines that kvmm is tested on have no GPU. What it calls
of the shim, kvmm_torch_malloc and kvmm_torch_free, is tested by tests/shim/cuda_frames_test.c on a software driver.

The library must be preloaded (kvmm run does that): the shim has to see the kernel launches that a suspend waits for. Only
what is allocated within the pool is the cache; weights and activations stay with torch's own allocator. The pool gives its
memory back when it and all tensors in it are gone.
"""

import ctypes
import os
import sys
import time

import torch

WILLNEED, COLD, FREE = 0, 1, 2


def advise(tensor, advice):
    """Tells kvmm about a tensor of the pool. After COLD or FREE no kernel may use it before WILLNEED."""
    function = ctypes.CDLL(None).kvmm_advise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    result = function(tensor.data_ptr(), tensor.numel() * tensor.element_size(), advice)
    if result:
        raise OSError(-result, os.strerror(-result))


def main():
    library = sys.argv[1]
    allocator = torch.cuda.memory.CUDAPluggableAllocator(library, "kvmm_torch_malloc", "kvmm_torch_free")
    pool = torch.cuda.MemPool(allocator.allocator())

    layers, tokens, heads, dim = 32, 32768, 8, 128
    with torch.cuda.use_mem_pool(pool):
        cache = [torch.zeros(2, tokens, heads, dim, dtype=torch.bfloat16, device="cuda") for _ in range(layers)]

    for layer, kv in enumerate(cache):
        kv.fill_(layer + 1)
    torch.cuda.synchronize()

    free_before = torch.cuda.mem_get_info()[0]
    for kv in cache[16:]:
        advise(kv, COLD)  # another conversation's turn: its half of the GPU memory is free now
    print(f"{(torch.cuda.mem_get_info()[0] - free_before) >> 20} MiB given back")
    for kv in cache[16:]:
        advise(kv, WILLNEED)

    print(f"process {os.getpid()}: try `kvmm suspend {os.getpid()}` and `kvmm resume {os.getpid()}` in the next minute")
    for _ in range(60):
        wrong = sum(int((kv != layer + 1).sum()) for layer, kv in enumerate(cache))
        print(f"{wrong} wrong values", flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
