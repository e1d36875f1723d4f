# SPDX-License-Identifier: Apache-2.0
"""The part of kvmm.h that the tests in Python need, by ctypes: the public interface alone, as any engine in Python has it."""
import ctypes
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_bool, c_char_p, c_double, c_int, c_size_t, c_uint32, c_uint64,
                    c_void_p)

F16, BF16, F32 = 0, 1, 2
PAGE_MAJOR, TOKEN_MAJOR, LAYER_MAJOR = 0, 1, 2


class Geometry(Structure):
    _fields_ = [("n_layers", c_uint32), ("n_kv_heads", c_uint32), ("head_dim", c_uint32), ("page_tokens", c_uint32),
                ("dtype", c_int), ("layout", c_int), ("layers_per_group", c_uint32), ("reserved", c_uint32 * 5)]


class Layout(Structure):
    _fields_ = [("base", c_void_p), ("elem_bytes", c_size_t), ("group_stride", c_size_t), ("page_stride", c_size_t),
                ("layer_stride", c_size_t), ("kv_stride", c_size_t), ("head_stride", c_size_t),
                ("token_stride", c_size_t), ("layers_per_group", c_uint32), ("n_groups", c_uint32),
                ("page_tokens", c_uint32)]

    def at(self, layer, kv):
        """kvmm_layout_at()."""
        group, in_group = divmod(layer, self.layers_per_group)
        return self.base + group * self.group_stride + in_group * self.layer_stride + kv * self.kv_stride


LOG = CFUNCTYPE(None, c_void_p, c_int, c_char_p)
NOW = CFUNCTYPE(c_uint64, c_void_p)


class Config(Structure):
    _fields_ = [("struct_size", c_size_t), ("geometry", Geometry), ("device", c_char_p), ("device_memory", c_uint64),
                ("device_memory_utilization", c_double), ("frame_bytes", c_size_t), ("host_memory", c_uint64),
                ("swap_dir", c_char_p), ("swap_bytes", c_uint64), ("swap_backend", c_char_p), ("policy", c_char_p),
                ("host_high_percent", c_uint32), ("host_low_percent", c_uint32), ("map_ahead_tokens", c_uint32),
                ("readable_tail", c_bool), ("n_threads", c_uint32), ("checksum_seed", c_uint64), ("name", c_char_p),
                ("no_page_map", c_bool), ("log", LOG), ("now_ns", NOW), ("user", c_void_p), ("reserved", c_uint64 * 16)]


class Want(Structure):
    _fields_ = [("seq", c_void_p), ("n_tokens", c_uint32), ("status", c_int)]


class SeqInfo(Structure):
    _fields_ = [("id", c_uint64), ("length", c_uint32), ("max_tokens", c_uint32), ("valid_tokens", c_uint32),
                ("pins", c_uint32), ("n_frames", c_uint64), ("n_device", c_uint64), ("n_host", c_uint64),
                ("n_nvme", c_uint64), ("n_lost", c_uint64)]


class Error(Exception):
    pass


class Library:
    """libkvmm. A call that fails raises Error with the library's own words."""

    _CALLS = {
        "kvmm_open": [POINTER(Config), POINTER(c_void_p)],
        "kvmm_close": [POINTER(c_void_p)],
        "kvmm_seq_create": [c_void_p, c_uint32, POINTER(c_void_p)],
        "kvmm_seq_destroy": [POINTER(c_void_p)],
        "kvmm_seq_suspend": [c_void_p],
        "kvmm_seq_resume": [c_void_p],
        "kvmm_step_begin": [c_void_p, POINTER(Want), c_size_t, c_uint32, POINTER(c_void_p)],
        "kvmm_step_end": [POINTER(c_void_p), c_void_p],
    }

    def __init__(self, path):
        self._lib = ctypes.CDLL(path)
        for name, arguments in self._CALLS.items():
            function = getattr(self._lib, name)
            function.argtypes, function.restype = arguments, c_int
        self._lib.kvmm_errmsg.restype = c_char_p
        self._lib.kvmm_status_name.argtypes, self._lib.kvmm_status_name.restype = [c_int], c_char_p
        self._lib.kvmm_seq_layout.argtypes, self._lib.kvmm_seq_layout.restype = [c_void_p, POINTER(Layout)], None
        self._lib.kvmm_seq_get_info.argtypes, self._lib.kvmm_seq_get_info.restype = [c_void_p, POINTER(SeqInfo)], None
        self._lib.kvmm_device_name.argtypes, self._lib.kvmm_device_name.restype = [c_void_p], c_char_p

    def _call(self, name, *arguments):
        status = getattr(self._lib, name)(*arguments)
        if status != 0:
            raise Error(f"{name}: {self._lib.kvmm_status_name(status).decode()}: {self._lib.kvmm_errmsg().decode()}")

    def config(self):
        """kvmm_config_init(), in more room than is known here: a newer library may know more fields."""
        room = ctypes.create_string_buffer(ctypes.sizeof(Config) + 4096)
        self._lib.kvmm_config_init(room)
        config = Config.from_buffer(room)
        if config.struct_size != ctypes.sizeof(Config):
            raise Error(f"struct kvmm_config has {config.struct_size} bytes there, and {ctypes.sizeof(Config)} here")
        return config

    def open(self, config):
        mm = c_void_p()
        self._call("kvmm_open", byref(config), byref(mm))
        return mm

    def close(self, mm):
        self._call("kvmm_close", byref(mm))

    def device_name(self, mm):
        return self._lib.kvmm_device_name(mm).decode()

    def create(self, mm, max_tokens):
        seq = c_void_p()
        self._call("kvmm_seq_create", mm, max_tokens, byref(seq))
        return seq

    def destroy(self, seq):
        self._call("kvmm_seq_destroy", byref(seq))

    def suspend(self, seq):
        self._call("kvmm_seq_suspend", seq)

    def resume(self, seq):
        self._call("kvmm_seq_resume", seq)

    def layout(self, seq):
        layout = Layout()
        self._lib.kvmm_seq_layout(seq, byref(layout))
        return layout

    def info(self, seq):
        info = SeqInfo()
        self._lib.kvmm_seq_get_info(seq, byref(info))
        return info

    def step(self, mm, seq, n_tokens, stream=None):
        """With it: in the block, tokens [0, n_tokens) are resident; what was queued on `stream` then ends it."""
        return _Step(self, mm, seq, n_tokens, stream)


class _Step:
    def __init__(self, library, mm, seq, n_tokens, stream):
        self._library, self._mm, self._stream = library, mm, stream
        self._want, self._step = Want(seq, n_tokens, 0), c_void_p()

    def __enter__(self):
        self._library._call("kvmm_step_begin", self._mm, byref(self._want), 1, 0, byref(self._step))

    def __exit__(self, *_):
        self._library._call("kvmm_step_end", byref(self._step), self._stream)
